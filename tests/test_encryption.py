"""Encrypted databases: nothing in plain text, wrong keys refused, and everything else as in plain ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from raw_database import raw
from test_connections import PRELUDE
from word_encoder import SplittingEncoder, WordEncoder

from edgecolbert import Index, InputError, drivers, recover, reencode, schema
from edgecolbert.cli import main
from edgecolbert.diagnosis import diagnose
from edgecolbert.encryption import Key, cipher_driver, key_from_environment, key_from_file
from edgecolbert.errors import (
    CancelledError,
    InputTypeError,
    MissingExtraError,
    StoreClosedError,
    StoreFormatError,
    StoreKeyError,
    StoreLockedError,
)
from edgecolbert.store import Store

sqlcipher = pytest.importorskip(
    "sqlcipher3.dbapi2", reason="SQLCipher is not installed: pip install 'edgecolbert[encryption]'"
)

# A key itself, not a passphrase: deriving a key from one takes a good part of a second on purpose.
KEY = bytes(range(100, 132))
WORDS = (b"kettle", b"Zanzibar", b"metadata-word", b"an-id", b"documents", b"SQLite format")


def _make(path: Path, key: Any = KEY) -> None:
    with Index.open(path, model=WordEncoder(), key=key) as index:
        index.add(
            [{"id": "an-id", "text": "red kettle of Zanzibar", "metadata": {"kind": "metadata-word"}}, "blue cup"]
        )


def _files(path: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in sorted(path.parent.iterdir())}


@contextmanager
def keyed(path: Path) -> Iterator[Any]:
    """A connection of SQLCipher's own, without any of the library's settings."""
    connection = sqlcipher.connect(str(path), isolation_level=None)
    try:
        connection.execute(f"PRAGMA key = \"x'{KEY.hex()}'\"")
        yield connection
    finally:
        connection.close()


def test_nothing_of_an_encrypted_index_is_stored_in_plain_text(path: Path) -> None:
    with Index.open(path, model=WordEncoder(), key=KEY) as index:
        index.add([{"id": "an-id", "text": "red kettle of Zanzibar", "metadata": {"kind": "metadata-word"}}])
        index.add([f"word{n} " * 100 for n in range(50)])
        while_open = _files(path)
        assert set(while_open) == {"index.db", "index.db-shm", "index.db-wal"}
        assert len(while_open["index.db-wal"]) > 20_000
        assert index._store._run("PRAGMA temp_store").fetchone() in ((2,), ("2",))
    closed = _files(path)
    assert list(closed) == ["index.db"]
    for name, content in [*while_open.items(), *closed.items()]:
        found = [word for word in (*WORDS, b"word7") if word in content]
        assert found == [], name
    assert KEY not in closed["index.db"]
    # The same words are there for whoever looks into a plain file.
    plain = path.with_name("plain.db")
    _make(plain, key=None)
    assert [word for word in WORDS if word not in plain.read_bytes()] == []


def test_everything_works_in_an_encrypted_index(path: Path) -> None:
    with Index.open(path, model=WordEncoder(), key=KEY) as index:
        index.add([{"id": f"d{n}", "text": f"word{n} common", "metadata": {"n": n}} for n in range(60)])
        assert index.search("word7", k=1)[0].id == "d7"
        assert [hit.id for hit in index.search("common", k=5, filter={"n": 3})] == ["d3"]
        assert index.delete([f"d{n}" for n in range(40)]) == 40
        assert index.compact() > 0
        assert index.tune(n_queries=3, compare=False).recall
        assert index.stats().encrypted
        assert index.verify().problems == ()
    assert reencode(path, model=SplittingEncoder("new"), key=KEY) == 20
    with Index.open(path, model=SplittingEncoder("new"), key=KEY, read_only=True) as index:
        assert index.search("word47", k=1)[0].id == "d47"
        assert len(index) == 20
    with keyed(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert [row[0] for row in connection.execute("PRAGMA cipher_integrity_check")] == []


@pytest.mark.parametrize(
    ("key", "same"),
    [
        (KEY, KEY.hex()),
        (KEY.hex().upper(), lambda: KEY),
        ('it\'s a "long" passphrase; --', lambda: 'it\'s a "long" passphrase; --'),
        ("Schlüssel 鍵", "Schlüssel 鍵"),
    ],
)
def test_a_key_may_be_given_in_several_ways(path: Path, key: Any, same: Any) -> None:
    _make(path, key)
    with Index.open(path, model=WordEncoder(), key=same) as index:
        assert index.search("kettle", k=1)[0].id == "an-id"


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("key", "message"),
    [
        (bytes(32), r"index\.db cannot be read with this key: the key is wrong, or the file is not"),
        ("wrong", r"index\.db cannot be read with this key: the key is wrong, or the file is not"),
        (None, r"index\.db seems to be encrypted: pass its key"),
    ],
)
def test_a_wrong_or_missing_key_is_refused_and_changes_nothing(
    path: Path, capfd: pytest.CaptureFixture[str], key: Any, message: str, read_only: bool
) -> None:
    _make(path)
    before = _files(path)
    with pytest.raises(StoreKeyError, match=message) as caught:
        Index.open(path, model=WordEncoder(), key=key, read_only=read_only)
    assert isinstance(caught.value, PermissionError)
    assert _files(path) == before
    # SQLCipher would write to standard error by itself.
    assert capfd.readouterr() == ("", "")
    with Index.open(path, model=WordEncoder(), key=KEY) as index:
        assert len(index) == 2


def test_a_wrong_or_missing_key_does_not_touch_what_a_crash_left_in_the_log(path: Path) -> None:
    program = (
        "index = Index.open(path, model=WordEncoder(), key=bytes.fromhex(sys.argv[2]))\n"
        "index.add(['red kettle'])\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", PRELUDE + program, str(path), KEY.hex()], check=True)
    before = {name: content for name, content in _files(path).items() if not name.endswith("-shm")}
    assert len(before["index.db-wal"]) > 0
    for key in (bytes(32), None):
        with pytest.raises(StoreKeyError):
            Index.open(path, model=WordEncoder(), key=key)
        assert {name: content for name, content in _files(path).items() if not name.endswith("-shm")} == before
    with Index.open(path, model=WordEncoder(), key=KEY) as index:
        assert index.search("kettle", k=1)[0].text == "red kettle"


def test_a_key_for_a_plain_file_is_refused_and_changes_nothing(path: Path) -> None:
    _make(path, key=None)
    before = _files(path)
    with pytest.raises(StoreKeyError, match=r"index\.db is not encrypted, but a key was given. Leave the key out"):
        Index.open(path, model=WordEncoder(), key=KEY)
    assert _files(path) == before


@pytest.mark.parametrize("content", [b"a text of whole pages\n" * 8192, bytes(8192), b"PK"])
def test_another_kind_of_file_is_not_taken_for_an_encrypted_one(path: Path, content: bytes) -> None:
    path.write_bytes(content[: len(content) // 4096 * 4096] or content)
    before = _files(path)
    with pytest.raises(StoreFormatError, match=r"index\.db is not an edgecolbert database, nor any SQLite file"):
        Index.open(path, model=WordEncoder())
    with pytest.raises((StoreKeyError, StoreFormatError)):
        Index.open(path, model=WordEncoder(), key=KEY)
    assert _files(path) == before


def test_an_encrypted_database_of_another_program_is_left_as_it_is(path: Path) -> None:
    with keyed(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    before = _files(path)
    with pytest.raises(StoreFormatError, match=r"index\.db is a database of another program"):
        Index.open(path, model=WordEncoder(), key=KEY)
    assert _files(path) == before


def test_one_process_does_not_open_a_file_with_a_key_and_without(path: Path) -> None:
    _make(path)
    with Index.open(path, model=WordEncoder(), key=KEY) as index:
        with pytest.raises(StoreKeyError, match=r"is open in this process already, with a key. Pass the key here, too"):
            Index.open(path, model=WordEncoder())
        with Index.open(path, model=WordEncoder(), key=KEY, read_only=True) as second:
            assert len(second) == len(index) == 2
    plain = path.with_name("plain.db")
    _make(plain, key=None)
    with (
        Index.open(plain, model=WordEncoder()),
        pytest.raises(StoreKeyError, match="is open in this process already, and is not encrypted"),
    ):
        Index.open(plain, model=WordEncoder(), key=KEY)


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (b"short", InputError, "The key has 5 bytes, expected 32; or give a passphrase"),
        (b"", InputError, "The key has 0 bytes"),
        ("", InputError, "The key is empty or holds a NUL"),
        ("a\0b", InputError, "The key is empty or holds a NUL"),
        (lambda: "", InputError, "The key is empty"),
        (lambda: 7, InputTypeError, "The key is int, expected a string or bytes"),
        (7, InputTypeError, "key is int, expected a string, bytes, or a function"),
        (True, InputTypeError, "key is bool"),
    ],
)
def test_a_key_that_cannot_be_one_is_named_without_showing_it(path: Path, key: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        Index.open(path, model=WordEncoder(), key=key)
    assert "short" not in str(caught.value)
    assert not path.exists()


def test_what_fails_in_the_function_that_gives_the_key_is_passed_on(path: Path) -> None:
    def locked() -> bytes:
        raise LookupError("the keyring is locked")

    with pytest.raises(LookupError, match="the keyring is locked"):
        Index.open(path, model=WordEncoder(), key=locked)


def test_an_index_in_memory_takes_no_key() -> None:
    with pytest.raises(InputError, match="An index in memory is stored nowhere and cannot be encrypted"):
        Index.open(":memory:", model=WordEncoder(), key=KEY)


def test_a_key_shows_itself_nowhere(path: Path) -> None:
    secret = "a very secret passphrase"
    key = Key(secret)
    assert secret not in repr(key) + str(key)
    with pytest.raises(TypeError, match="A key cannot be pickled"):
        __import__("pickle").dumps(key)
    with Index.open(path, model=WordEncoder(), key=secret) as index:
        index.add(["red kettle"])
        shown = repr(index) + repr(vars(index)) + repr(vars(index._store)) + repr(vars(index._store._connection))
        assert secret not in shown + repr(index.stats())
        dump = [
            row for table in ("encodings", "state", "documents") for row in index._store._run(f"SELECT * FROM {table}")
        ]
        assert secret not in repr(dump)
    with pytest.raises(StoreKeyError) as caught:
        Index.open(path, model=WordEncoder(), key=secret + "?")
    chain: BaseException | None = caught.value
    while chain is not None:
        assert secret not in str(chain)
        chain = chain.__cause__ or chain.__context__


def test_errors_of_sqlcipher_are_ours_too(path: Path) -> None:
    _make(path)
    with Index.open(path, model=WordEncoder(), key=KEY, timeout=0.0) as index:
        with keyed(path) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(
                StoreLockedError, match=r"index\.db is being written by another connection of this proc"
            ):
                index.add(["green plate"])
            other.execute("ROLLBACK")
        index._store.close()
        with pytest.raises(StoreClosedError, match="was closed while it was in use"):
            index.search("kettle")


def _read_everything(path: Path) -> None:
    with Index.open(path, model=WordEncoder(), key=KEY) as index:
        index.verify()
        for name in index.ids():
            index.get(name)
        index.search("kettle")


def test_a_flipped_bit_is_an_error_and_never_a_wrong_result(path: Path) -> None:
    _make(path)
    content = bytearray(path.read_bytes())
    content[5 * 4096 + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreFormatError, match=r"index\.db is damaged"):
        _read_everything(path)


def test_an_encrypted_file_of_version_1_is_migrated(path: Path) -> None:
    with keyed(path) as connection:
        for statement in schema._statements(schema._VERSION_1):
            connection.execute(statement)
        connection.execute(
            "CREATE TABLE _sqlite_migrations (id INTEGER PRIMARY KEY, migration_set TEXT, name TEXT, applied_at TEXT)"
        )
        connection.execute("INSERT INTO _sqlite_migrations VALUES (1, 'edgecolbert', 'version_1', '2026-01-01')")
        connection.execute(f"PRAGMA application_id = {0x45436F6C}")
        connection.execute("PRAGMA user_version = 1")
    _make(path)
    with keyed(path) as connection:
        assert int(connection.execute("PRAGMA user_version").fetchone()[0]) == schema.SCHEMA_VERSION
    with Index.open(path, model=WordEncoder(), key=KEY) as index:
        assert len(index) == 2
        assert index.verify().problems == ()


def test_a_copy_by_sqlites_backup_is_encrypted_and_whole(path: Path) -> None:
    _make(path)
    copy = path.with_name("copy.db")
    with Index.open(path, model=WordEncoder(), key=KEY) as index, keyed(copy) as target:
        index.add(["green plate"])
        index._store._connection.backup(target)
    assert [word for word in WORDS if word in copy.read_bytes()] == []
    with Index.open(copy, model=WordEncoder(), key=KEY) as index:
        assert len(index) == 3
        assert index.verify().problems == ()


@pytest.mark.parametrize("key", [KEY, KEY.hex, "a passphrase"])
def test_a_backup_is_encrypted_with_the_same_key(path: Path, key: Any) -> None:
    _make(path, key)
    copy = path.with_name("copy.db")
    with Index.open(path, model=WordEncoder(), key=key) as index:
        index.add(["green plate"])
        assert index.backup(copy) == copy.stat().st_size
    assert [word for word in WORDS if word in copy.read_bytes()] == []
    with pytest.raises(StoreKeyError, match="seems to be encrypted"):
        Index.open(copy, model=WordEncoder())
    with Index.open(copy, model=WordEncoder(), key=key) as index:
        assert len(index) == 3
        assert index.verify().problems == ()
    assert sorted(_files(path)) == ["copy.db", "index.db"]


def test_a_backup_that_is_stopped_leaves_nothing(path: Path) -> None:
    _make(path)
    with Index.open(path, model=WordEncoder(), key=KEY) as index:
        with pytest.raises(CancelledError):
            index.backup(path.with_name("copy.db"), progress=lambda done, total: False)
        assert index.search("kettle", k=1)[0].id == "an-id"
    assert sorted(_files(path)) == ["index.db"]


def test_damaged_vectors_are_made_again_in_an_encrypted_file(path: Path) -> None:
    _make(path)
    with keyed(path) as connection:
        connection.execute("UPDATE passages SET scale = 2 * scale WHERE passage_id = 1")
    with Index.open(path, model=WordEncoder(), key=KEY) as index:
        assert [problem.ids for problem in index.verify().problems] == [("an-id",)]
        report = index.repair()
        assert (report.encoded, report.complete) == (1, True)
        assert index.verify().problems == ()


def test_pages_of_an_encrypted_file_are_not_read_one_by_one(path: Path) -> None:
    _make(path)
    before = _files(path)
    for key, what in ((KEY, "is encrypted"), (None, "seems to be encrypted")):
        message = rf"index\.db {what}, .*Restore it from a backup; .*Index\.open\(path, key="
        with pytest.raises(StoreKeyError, match=message):
            recover(path, path.with_name("new.db"), model=WordEncoder(), key=key)
    assert _files(path) == before
    plain = path.with_name("plain.db")
    _make(plain, key=None)
    with pytest.raises(StoreKeyError, match=r"plain\.db is not encrypted, but a key was given"):
        recover(plain, path.with_name("new.db"), model=WordEncoder(), key=KEY)
    with pytest.raises(InputError, match="The key has 5 bytes"):
        recover(plain, path.with_name("new.db"), model=WordEncoder(), key=b"short")


@pytest.mark.parametrize("full", [True, False])
def test_a_damaged_page_of_an_encrypted_file_is_reported_with_what_helps(path: Path, full: bool) -> None:
    _make(path)
    with keyed(path) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'documents_by_content'"
        ).fetchone()
    content = bytearray(path.read_bytes())
    content[(page - 1) * 4096 + 100] ^= 1
    path.write_bytes(content)
    with Index.open(path, model=WordEncoder(), key=KEY) as index:
        problems = index.verify(full=full).problems
        assert any("The database file is damaged" in problem.message for problem in problems)
        assert any("restore it from a backup" in problem.message for problem in problems)
        assert not any("--out NEW" in problem.message for problem in problems)
        with pytest.raises(StoreFormatError, match="Pages of an encrypted file cannot be read one by one: restore it"):
            index.repair()
        with pytest.raises(StoreFormatError):
            index.backup(path.with_name("copy.db"))
    assert sorted(_files(path)) == ["index.db"]


def test_a_dump_is_plain_and_is_loaded_into_an_encrypted_file(path: Path) -> None:
    _make(path)
    dump, new = path.with_name("all.jsonl"), path.with_name("new.db")
    with Index.open(path, model=WordEncoder(), key=KEY) as index:
        assert index.dump(dump) == 2
        expected = index.search("kettle")
    assert b"kettle" in dump.read_bytes()
    with pytest.raises(CancelledError):
        Index.load(dump, new, model=WordEncoder(), key=KEY, progress=lambda done, total: False)
    assert b"kettle" not in path.with_name("new.db.loading").read_bytes()
    with pytest.raises(StoreKeyError):
        Index.load(dump, new, model=WordEncoder(), key=bytes(32))
    with Index.load(dump, new, model=WordEncoder(), key=lambda: KEY) as index:
        assert index.search("kettle") == expected
        assert index.verify().problems == ()
    assert [word for word in WORDS if word in new.read_bytes()] == []


def test_the_log_of_an_encrypted_index_is_folded_in(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "LOG_BYTES", 65_536)
    store = Store(path, key=Key(KEY))
    log = path.with_name("index.db-wal")
    longest = 0
    for n in range(40):
        with store.change():
            store._run("INSERT OR REPLACE INTO state (key, value) VALUES ('filler', ?)", bytes([n]) * 20_000)
        longest = max(longest, log.stat().st_size)
    assert longest < 200_000
    assert store._connection._guard is not None
    store.close()


# The command line


def _shell(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(word) for word in words])
    return code, *capsys.readouterr()


def test_commands_take_the_key_from_a_variable_or_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, key_file = tmp_path / "index.db", tmp_path / "key"
    note = tmp_path / "note.md"
    note.write_text("The kettle is in the left cupboard.", encoding="utf-8")
    key_file.write_text(KEY.hex() + "\n", encoding="utf-8")
    monkeypatch.setenv("NOTES_KEY", KEY.hex())
    model = str(Path(__file__).parent / "fixtures" / "tiny-model")
    code, out, err = _shell(capsys, "index", note, "--db", path, "--model", model, "--key-env", "NOTES_KEY")
    assert (code, err) == (0, "")
    assert b"kettle" not in path.read_bytes()
    for command in (
        ("search", "kettle"),
        ("info",),
        ("verify",),
        ("reencode",),
        ("tune", "--no-compare", "--n-queries", "1"),
        ("compact",),
        ("repair",),
        ("backup", "--out", tmp_path / "copy.db"),
        ("dump", "--out", tmp_path / "all.jsonl"),
    ):
        for made in command[2:]:
            Path(made).unlink(missing_ok=True)
        code, out, err = _shell(capsys, *command, "--db", path, "--key-file", key_file)
        assert code == 0, err
        code, out, err = _shell(capsys, *command, "--db", path)
        assert (code, out) == (1, "")
        assert "seems to be encrypted: pass its key, as Index.open(path, key=...) or with --key-env" in err
    code, out, err = _shell(capsys, "repair", "--db", path, "--out", tmp_path / "r.db", "--key-file", key_file)
    assert (code, out) == (1, "")
    assert "pages of an encrypted file cannot be read one by one. Restore it from a backup" in err
    for made in ("copy.db", "all.jsonl"):
        (tmp_path / made).unlink(missing_ok=True)
    _shell(capsys, "dump", "--db", path, "--out", tmp_path / "all.jsonl", "--key-file", key_file)
    code, out, err = _shell(capsys, "load", tmp_path / "all.jsonl", "--db", tmp_path / "l.db", "--key-env", "NOTES_KEY")
    assert (code, err) == (0, "")
    assert b"kettle" not in (tmp_path / "l.db").read_bytes()
    code, out, err = _shell(capsys, "info", "--db", path, "--key-env", "NO_SUCH_KEY")
    assert (code, out) == (1, "")
    assert "The environment variable NO_SUCH_KEY is not set or empty" in err
    code, out, err = _shell(capsys, "info", "--db", path, "--key-file", tmp_path / "none")
    assert (code, out) == (1, "")
    assert "cannot be read (FileNotFoundError), expected a UTF-8 text file" in err
    with pytest.raises(SystemExit, match="2"):
        main(["info", "--db", str(path), "--key-file", str(key_file), "--key-env", "NOTES_KEY"])


def test_a_key_file_ends_before_its_line_break(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content, literal in (("two words\r\n", "'two words'"), ("a\n\n", "'a\n'"), (KEY.hex(), f"\"x'{KEY.hex()}'\"")):
        (tmp_path / "key").write_bytes(content.encode())
        assert key_from_file(tmp_path / "key").literal() == literal
    (tmp_path / "key").write_bytes(b"\xff\xfesecret")
    with pytest.raises(InputError, match="cannot be read") as caught:
        key_from_file(tmp_path / "key").literal()
    assert caught.value.__cause__ is None
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("NOTES_KEY", "it's")
    assert key_from_environment("NOTES_KEY").literal() == "'it''s'"


def test_doctor_reports_the_sqlite_of_encrypted_files() -> None:
    report = diagnose()["sqlite"]
    assert report["encryption"].startswith(f"SQLCipher with SQLite {sqlcipher.sqlite_version}; wal_reset_fault: ")
    assert cipher_driver() is sqlcipher


def test_without_sqlcipher_a_key_is_an_error_that_names_the_extra(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlcipher3", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgecolbert\[encryption\]'"):
        Index.open(path, model=WordEncoder(), key=KEY)
    assert not path.exists()
    assert diagnose()["sqlite"]["encryption"] == "not installed (pip install 'edgecolbert[encryption]')"
    with raw(path) as connection:
        connection.execute("SELECT 1")
