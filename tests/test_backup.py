"""Copies of a database: whole, of one moment, never in the place of another file, whatever interrupts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from raw_database import raw
from word_encoder import WordEncoder

from edgecolbert import Index, unfinished
from edgecolbert.errors import (
    CancelledError,
    InputError,
    StoreError,
    StoreFormatError,
    StoreNotFoundError,
    StoreWarning,
)

TESTS = Path(__file__).parent


@pytest.fixture
def filled(path: Path) -> Path:
    with Index.open(path, model=WordEncoder()) as index:
        index.add([{"id": f"{n}", "text": f"word{n} " * 40, "metadata": {"n": n}} for n in range(60)])
    return path


def test_a_copy_is_one_file_with_everything(filled: Path, tmp_path: Path) -> None:
    told = []
    copy = tmp_path / "copy.db"
    with Index.open(filled, model=WordEncoder()) as index:
        index.delete(["3"])  # still in the log
        n_bytes = index.backup(copy, progress=lambda done, total: told.append((done, total)))
        hits = index.search("word7", k=60)
    assert n_bytes == copy.stat().st_size
    assert told[-1] == (n_bytes, n_bytes)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["copy.db", "index.db"]
    with Index.open(copy, model=WordEncoder(), read_only=True) as index:
        assert index.verify().problems == ()
        assert len(index) == 59
        assert index.search("word7", k=60) == hits
    with Index.open(copy, model=WordEncoder()) as index:
        index.add(["a copy can be written to"])


def test_what_is_in_memory_can_be_copied_to_a_file(tmp_path: Path) -> None:
    with Index.open(":memory:", model=WordEncoder()) as index:
        index.add(["red kettle"])
        index.backup(tmp_path / "copy.db")
        with pytest.raises(InputError, match="needs a file"):
            index.backup(":memory:")
    with Index.open(tmp_path / "copy.db", model=WordEncoder()) as index:
        assert index.search("kettle")[0].text == "red kettle"


def test_no_file_is_ever_replaced(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with Index.open(filled, model=WordEncoder()) as index:
        for taken in ("mine.txt", "index.db", "dangling"):
            with pytest.raises(StoreError, match=f"{taken} exists already, and no file is replaced"):
                index.backup(tmp_path / taken)
        with pytest.raises(StoreNotFoundError, match=r"The folder .*none does not exist"):
            index.backup(tmp_path / "none" / "copy.db")

        # Somebody takes the name while the copy is made, with and without hard links.
        def take(done: int, total: int | None) -> None:
            (tmp_path / "late.db").write_text("theirs", encoding="utf-8")

        for linkable in (True, False):
            if not linkable:
                monkeypatch.setattr(os, "link", _no_links)
            (tmp_path / "late.db").unlink(missing_ok=True)
            with pytest.raises(StoreError, match=r"late\.db was made by somebody else meanwhile|cannot be named"):
                index.backup(tmp_path / "late.db", progress=take)
            assert (tmp_path / "late.db").read_text(encoding="utf-8") == "theirs"
        index.backup(tmp_path / "without-links.db")
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "mine"
    assert [entry.name for entry in tmp_path.iterdir() if "unfinished" in entry.name] == []
    with Index.open(tmp_path / "without-links.db", model=WordEncoder()) as copy:
        assert copy.verify().problems == ()


def _no_links(*_: object) -> None:
    raise OSError("this file system has none")


def test_a_copy_that_is_cancelled_or_interrupted_leaves_nothing(filled: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with Index.open(filled, model=WordEncoder()) as index:
        with pytest.raises(CancelledError, match=r"copy\.db was cancelled; nothing is left"):
            index.backup(tmp_path / "copy.db", progress=lambda done, total: False)
        with pytest.raises(KeyboardInterrupt):
            index.backup(tmp_path / "copy.db", progress=interrupt)
        assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith("copy")] == []
        index.add(["the index still works"])
        assert index.verify().problems == ()


def test_a_killed_copy_leaves_a_file_that_says_what_it_is(filled: Path, tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\nfrom edgecolbert import Index\n"
        "with Index.open(sys.argv[1], read_only=True) as index:\n"
        "    index.backup(sys.argv[2], progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    copy = tmp_path / "copy.db"
    killed = subprocess.run([sys.executable, "-c", program, str(filled), str(copy)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not copy.exists()
    (left,) = unfinished.leftovers(copy)
    with Index.open(filled, model=WordEncoder()) as index:
        with pytest.warns(StoreWarning, match=r"copy\.db\.unfinished-\d+ was left behind by an interrupted run"):
            index.backup(copy)
        assert left.exists()
        assert index.verify().problems == ()
    with Index.open(copy, model=WordEncoder()) as index:
        assert len(index) == 60


def test_a_copy_is_of_one_moment_while_another_process_writes(filled: Path, tmp_path: Path) -> None:
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; sys.path.insert(0, sys.argv[2])\n"
            "from word_encoder import WordEncoder\nfrom edgecolbert import Index\n"
            "with Index.open(sys.argv[1], model=WordEncoder(), timeout=30) as index:\n"
            "    for n in range(100_000):\n"
            "        index.add([{'id': f'{n}-a', 'text': f'pair{n}'}, {'id': f'{n}-b', 'text': f'other{n}'}])\n"
            "        print(n, flush=True)\n",
            str(filled),
            str(TESTS),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    try:
        sizes = []
        for number in range(3):
            writer.stdout.readline()
            with Index.open(filled, model=WordEncoder(), read_only=True) as index:
                index.backup(tmp_path / f"copy{number}.db", progress=lambda done, total: writer.stdout.readline())
            with Index.open(tmp_path / f"copy{number}.db", model=WordEncoder(), read_only=True) as copy:
                assert copy.verify().problems == ()
                ids = set(copy.ids())
                assert {name[:-2] for name in ids if name.endswith("-a")} == {
                    name[:-2] for name in ids if name.endswith("-b")
                }
                sizes.append(len(ids))
        assert 60 < sizes[0] < sizes[1] < sizes[2]
    finally:
        writer.kill()
        writer.communicate()


def test_other_threads_search_while_a_copy_is_made(filled: Path, tmp_path: Path) -> None:
    found = []
    with Index.open(filled, model=WordEncoder()) as index:

        def search(done: int, total: int | None) -> None:
            thread = threading.Thread(target=lambda: found.append(index.search("word7", k=1)[0].id))
            thread.start()
            thread.join(timeout=30)

        index.backup(tmp_path / "copy.db", progress=search)
    assert set(found) == {"7"}


def test_a_damaged_database_gives_no_copy(filled: Path, tmp_path: Path) -> None:
    with raw(filled) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'documents_by_content'"
        ).fetchone()
        connection.execute("PRAGMA journal_mode = WAL")
    content = bytearray(filled.read_bytes())
    content[(root - 1) * 4096 : root * 4096] = b"\xa5" * 4096
    filled.write_bytes(content)
    with (
        Index.open(filled, model=WordEncoder(), read_only=True) as index,
        pytest.raises(StoreFormatError, match=r"repair --db FILE --out NEW|verify --db"),
    ):
        index.backup(tmp_path / "copy.db")
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith("copy")] == []


@pytest.mark.skipif(os.name == "nt", reason="limits of a process are POSIX's")
def test_a_full_disk_is_named_and_leaves_nothing(filled: Path, tmp_path: Path) -> None:
    program = (
        "import resource, sys\nfrom edgecolbert import Index, StoreError\n"
        "index = Index.open(sys.argv[1], read_only=True)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
        "try: index.backup(sys.argv[2])\n"
        "except StoreError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(filled), str(tmp_path / "copy.db")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "copy.db" in done.stdout, done
    assert not list(tmp_path.glob("copy*"))
