"""Opening files: new, foreign, damaged, from the future, read-only, locked, pinned to something else."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from raw_database import raw
from word_encoder import WordEncoder

from edgecolbert import FdeSettings, Index, InputError, StoreError
from edgecolbert.connection import APPLICATION_ID
from edgecolbert.errors import (
    InputTypeError,
    ModelNotFoundError,
    StoreFormatError,
    StoreLockedError,
    StoreMismatchError,
    StoreNotFoundError,
    StoreReadOnlyError,
)
from edgecolbert.schema import SCHEMA_VERSION, prepare_schema

TESTS = Path(__file__).parent


def _make(path: Path, texts: tuple[str, ...] = ("red kettle", "blue cup")) -> None:
    with Index.open(path, model=WordEncoder()) as index:
        index.add(list(texts))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def unprivileged() -> Iterator[None]:
    """As root file modes mean nothing, so the test is somebody else for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own are for one user only."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_new_file_is_one_of_ours_and_nothing_else_is_left_beside_it(path: Path) -> None:
    _make(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["index.db"]
    with raw(path) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_the_schema_is_made_in_one_transaction() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    prepare_schema(connection, ":memory:", read_only=False)
    connection.close()
    verbs = [statement.split()[0].upper() for statement in statements]
    # It looks first, at one moment, and then writes.
    assert verbs[:4] == ["BEGIN", "PRAGMA", "SELECT", "ROLLBACK"]
    verbs = verbs[4:]
    assert statements[4] == "BEGIN IMMEDIATE"
    assert verbs.count("BEGIN") == 1
    assert verbs.count("COMMIT") == 1
    assert verbs[-1] == "COMMIT"
    assert "ROLLBACK" not in verbs


@pytest.mark.parametrize(
    "name", ["what?.db", "a#b.db", "100%.db", "%41.db", "with space.db", "é漢字.db", "a'b\"c.db", ":x:"]
)
def test_a_path_may_hold_any_character(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    _make(folder / name)
    assert [entry.name for entry in folder.iterdir()] == [name]
    for read_only in (False, True):
        with Index.open(str(folder / name), model=WordEncoder(), read_only=read_only, create=False) as index:
            assert index.search("kettle", k=1)[0].text == "red kettle"


def test_a_relative_path_still_means_the_same_file_after_a_change_of_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Index.open("index.db", model=WordEncoder()) as index:
        index.add(["red kettle"])
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert index.search("kettle")
        index.add(["blue cup"])
        assert index.stats().documents == 2
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["index.db"]


@pytest.mark.parametrize("wrong", [7, None, b"index.db", ["index.db"]])
def test_a_path_is_a_string_or_a_path(wrong: Any) -> None:
    with pytest.raises(InputTypeError, match=f"path is {type(wrong).__name__}, expected a string or a path"):
        Index.open(wrong)


def test_other_wrong_arguments_are_named_and_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which holds a NUL"):
        Index.open(tmp_path / "a\0b.db", model=WordEncoder())
    with pytest.raises(InputTypeError, match="fde is str, expected FdeSettings"):
        Index.open(tmp_path / "index.db", model=WordEncoder(), fde="muvera")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_not_made_unless_it_may_be(path: Path) -> None:
    for options in ({"create": False}, {"read_only": True}):
        with pytest.raises(StoreNotFoundError, match=r"There is no database at .*index\.db. Check the path, or index"):
            Index.open(path, model=WordEncoder(), **options)
        with pytest.raises(FileNotFoundError):
            Index.open(path, model=WordEncoder(), **options)
    assert not path.exists()


def test_a_missing_parent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match=r"The folder .*nowhere does not exist. Make it first"):
        Index.open(tmp_path / "nowhere" / "index.db", model=WordEncoder())


def test_a_folder_is_not_a_database(tmp_path: Path) -> None:
    for wrong in (tmp_path, str(tmp_path), ""):
        with pytest.raises(StoreFormatError, match=r"is a folder, expected a database file. Name a file inside it"):
            Index.open(wrong, model=WordEncoder())


def test_an_empty_file_becomes_a_database_only_where_one_may_be_made(path: Path) -> None:
    path.touch()
    for options in ({"create": False}, {"read_only": True}):
        with pytest.raises(StoreFormatError, match="is empty, expected an edgecolbert database"):
            Index.open(path, model=WordEncoder(), **options)
    assert path.stat().st_size == 0
    _make(path)
    assert path.stat().st_size > 0


@pytest.mark.parametrize(
    "content", [b"hello, this is a text file", b"SQLite format 2\x00" + bytes(5000), b"\x00", b"PK"]
)
def test_a_file_that_is_no_database_is_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreFormatError, match=r"index\.db is not an edgecolbert database, nor any SQLite file"):
        Index.open(path, model=WordEncoder())
    assert path.read_bytes() == content
    assert [entry.name for entry in path.parent.iterdir()] == ["index.db"]


@pytest.mark.parametrize("application_id", [0, 7])
def test_a_database_of_another_program_is_left_as_it_is(path: Path, application_id: int) -> None:
    with raw(path) as connection:
        connection.execute(f"PRAGMA application_id = {application_id}")
        connection.execute("CREATE TABLE bookmarks (url)")
    before = _digest(path)
    for options in ({}, {"read_only": True}, {"create": False}):
        message = (
            rf"index\.db is a database of another program \(application id {application_id:#x}, 1 tables, expected"
        )
        with pytest.raises(StoreFormatError, match=message):
            Index.open(path, model=WordEncoder(), **options)  # type: ignore[arg-type]
    assert _digest(path) == before
    assert [entry.name for entry in path.parent.iterdir()] == ["index.db"]


def test_a_database_from_the_future_is_left_as_it_is(path: Path) -> None:
    _make(path)
    with raw(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = _digest(path)
    for read_only in (False, True):
        message = "later version of edgecolbert: its schema is 99, this version reads up to 5. .*Upgrade edgecolbert"
        with pytest.raises(StoreFormatError, match=message):
            Index.open(path, model=WordEncoder(), read_only=read_only)
    assert _digest(path) == before


@pytest.mark.parametrize("keep", [16, 100, 4096, 8192, 0.5, 0.9, -1])
def test_a_file_cut_short_is_an_error_of_ours_or_found_by_verify(path: Path, keep: float) -> None:
    _make(path, tuple(f"word{n} " * 50 for n in range(100)))
    content = path.read_bytes()
    cut = content[: int(len(content) * keep) if isinstance(keep, float) else int(keep)]
    path.write_bytes(cut)
    try:
        with Index.open(path, model=WordEncoder(), create=False, read_only=True) as index:
            found = [problem.message for problem in index.verify().problems]
    except StoreError as error:
        found = [str(error)]
        assert "index.db" in found[0]
    assert found
    assert path.read_bytes() == cut


def test_read_only_reads_everything_and_writes_nothing(path: Path) -> None:
    _make(path)
    before = _digest(path)
    encoder = WordEncoder()
    with Index.open(path, model=encoder, read_only=True) as index:
        assert len(index) == 2
        assert index.search("kettle", n_candidates=1)[0].text == "red kettle"
        assert index.verify().problems == ()
        for write in (
            lambda: index.add(["x"]),
            lambda: index.add(iter(["x"])),
            lambda: index.add([]),
            lambda: index.delete(index.ids()),
            lambda: index.prune("x", []),
        ):
            with pytest.raises(StoreReadOnlyError, match=r"index\.db was opened with read_only=True. Open it again"):
                write()
    assert encoder.encoded == []
    assert _digest(path) == before
    log = path.with_name("index.db-wal")
    assert not log.exists() or log.stat().st_size == 0


def test_a_folder_without_write_permission_can_be_read_from(public_folder: Path) -> None:
    path = public_folder / "index.db"
    _make(path)
    path.chmod(0o444)
    public_folder.chmod(0o555)
    with unprivileged():
        with Index.open(path, model=WordEncoder(), read_only=True) as index:
            assert index.search("kettle", k=1)[0].text == "red kettle"
            assert index.verify().problems == ()
        with pytest.raises(StoreReadOnlyError, match=r"index\.db cannot be written .*Open it with read_only=True"):
            Index.open(path, model=WordEncoder())


def test_a_new_file_in_a_folder_without_write_permission_is_refused(public_folder: Path) -> None:
    public_folder.chmod(0o555)
    with unprivileged(), pytest.raises(StoreError, match=r"index\.db"):
        Index.open(public_folder / "index.db", model=WordEncoder())


def test_a_file_without_read_permission_is_named(public_folder: Path) -> None:
    path = public_folder / "index.db"
    _make(path)
    path.chmod(0o000)
    with unprivileged(), pytest.raises(StoreError, match=r"index\.db cannot be read: .*Permission denied"):
        Index.open(path, model=WordEncoder(), read_only=True)


def test_a_full_disk_is_named_and_what_was_stored_stays(path: Path) -> None:
    _make(path)
    with Index.open(path, model=WordEncoder()) as index:
        index._store._run("PRAGMA max_page_count = 20")
        with pytest.raises(StoreError, match=r"index\.db: the disk is full .*Free some space and try again"):
            index.add([f"word{n} " * 2000 for n in range(50)])
        assert len(index) == 2
        index._store._run("PRAGMA max_page_count = 1000000")
        assert index.verify().problems == ()
        index.add(["there is space again"])
        assert len(index) == 3


def test_a_file_locked_by_another_process_is_named_after_the_time_out(path: Path) -> None:
    _make(path)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN IMMEDIATE');"
            "print('locked', flush=True); sys.stdin.read(); c.execute('ROLLBACK')",
            str(path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "locked\n"
        with Index.open(path, model=WordEncoder(), timeout=0.1) as index:
            assert index.search("kettle", k=1)[0].text == "red kettle"
            for write in (lambda: index.add(["new"]), lambda: index.delete(index.ids())):
                who = rf"process {holder.pid} \(python.*\)" if Path("/proc/locks").exists() else "another process"
                with pytest.raises(StoreLockedError, match=rf"index\.db is being written by {who}, which held the"):
                    write()
            assert len(index) == 2
            holder.communicate("")
            index.add(["new"])
            assert len(index) == 3
    finally:
        holder.communicate("") if holder.poll() is None else None


def test_another_model_is_refused_with_both_names_and_the_way_out(path: Path) -> None:
    _make(path)
    before = _digest(path)
    for read_only in (False, True):
        with pytest.raises(StoreMismatchError) as caught:
            Index.open(path, model=WordEncoder("other words"), read_only=read_only)
        for part in ("index.db", "'words'", "'other words'", "edgecolbert reencode --db", "Pass the model it was made"):
            assert part in str(caught.value)
    assert _digest(path) == before


def test_an_encoder_of_the_users_own_must_be_passed_again_to_encode(path: Path) -> None:
    _make(path)
    with Index.open(path) as index:
        assert len(index) == 2
        assert index.verify().problems == ()
        assert index.delete([index.ids()[0]]) == 1
        for use in (lambda: index.search("kettle"), lambda: index.add(["new"])):
            with pytest.raises(
                InputError, match=r"index\.db was made with an encoder of your own, 'words'. Pass it: Ind"
            ):
                use()


def test_the_name_of_an_encoder_without_one_is_its_class(path: Path) -> None:
    class Nameless:
        def __init__(self) -> None:
            inner = WordEncoder()
            self.encode_queries, self.encode_documents = inner.encode_queries, inner.encode_documents

    with Index.open(path, model=Nameless()) as index:
        index.add(["red kettle"])
        assert index.stats().model.endswith("Nameless")


@pytest.mark.parametrize("wrong", [7, object(), ["words"], WordEncoder.encode_queries])
def test_a_model_that_is_none_is_named_and_leaves_no_file(path: Path, wrong: Any) -> None:
    with pytest.raises(InputTypeError, match="which has no method encode_queries and no encode_documents"):
        Index.open(path, model=wrong)
    assert not path.exists()


def test_an_unknown_model_name_leaves_no_file(path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="No model 'no-such-model': it is neither a built-in name"):
        Index.open(path, model="no-such-model")
    assert not path.exists()


def test_settings_are_pinned_when_the_file_is_made(path: Path) -> None:
    settings = FdeSettings(num_cells=16)
    with Index.open(path, model=WordEncoder(), split_documents=False, fde=settings) as index:
        index.add(["red kettle"])
    with Index.open(path, model=WordEncoder(), split_documents=False, fde=settings) as index:
        assert len(index) == 1
    with Index.open(path, model=WordEncoder()) as index:
        assert len(index) == 1
    with pytest.raises(StoreMismatchError, match="made with split_documents = False, but True was asked for"):
        Index.open(path, model=WordEncoder(), split_documents=True)
    with pytest.raises(
        StoreMismatchError, match=r'made with fde = .*"num_cells": 16.* but .*"num_cells": 17.*asked for'
    ):
        Index.open(path, model=WordEncoder(), fde=FdeSettings(num_cells=17))


def test_several_processes_may_make_the_same_file_at_once(path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from word_encoder import WordEncoder\nfrom edgecolbert import Index\n"
        "import sqlite_utils\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "with Index.open(sys.argv[1], model=WordEncoder(), timeout=30) as index: index.add([sys.argv[3], 'shared'])\n"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(path), str(TESTS), f"text{n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(4)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    errors = [child.communicate()[1] for child in children]
    assert errors == [""] * 4
    with Index.open(path, model=WordEncoder()) as index:
        assert len(index) == 5
        assert index.verify().problems == ()
