"""Connections: one place that makes them, durability, several processes, forks, and files that cannot be written."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from raw_database import raw
from test_database_files import public_folder, unprivileged
from word_encoder import WordEncoder

import edgecolbert
from edgecolbert import Index, InputError, connection, drivers, open_files, recover, reencode
from edgecolbert.errors import StoreError, StoreFormatError, StoreLockedError
from edgecolbert.locks import write_lock_holder
from edgecolbert.sources import Reading, open_sources
from edgecolbert.store import Store

__all__ = ["public_folder"]

TESTS = Path(__file__).parent
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
needs_list_of_locks = pytest.mark.skipif(not Path("/proc/locks").exists(), reason="only Linux lists its locks")

PRELUDE = f"""
import os, sys, signal
sys.path.insert(0, {str(TESTS)!r})
from word_encoder import WordEncoder
from edgecolbert import Index
from edgecolbert.errors import StoreError
path = sys.argv[1]
"""


def _python(program: str, *arguments: object) -> str:
    """Run a program in a process of its own, and give what it printed."""
    command = [sys.executable, "-c", PRELUDE + program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _texts(path: Path) -> list[str]:
    with Index.open(path, model=WordEncoder(), create=False) as index:
        assert index.verify().problems == ()
        return sorted(index.get(name).text for name in index.ids())  # type: ignore[union-attr]


def _beside(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


def _log(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


# One place


def test_no_other_modules_make_connections() -> None:
    folder = Path(edgecolbert.__file__).parent
    callers = {file.name for file in folder.rglob("*.py") if re.search(r"\bconnect\(", file.read_text("utf-8"))}
    # The one that opens files, and the calls of the drivers that it is made of.
    assert callers == {"connection.py", "drivers.py"}


# Durability


def _synchronous(index: Index) -> int:
    return int(index._store._run("PRAGMA synchronous").fetchone()[0])


def test_commits_reach_the_disk_unless_another_durability_is_named(path: Path) -> None:
    with Index.open(path, model=WordEncoder()) as index:
        assert _synchronous(index) == 2
        assert index._store._run("PRAGMA fullfsync").fetchone() == (1,)
        assert index._store._run("PRAGMA checkpoint_fullfsync").fetchone() == (1,)
    with Index.open(path, model=WordEncoder(), durability="normal") as index:
        assert _synchronous(index) == 1
        second = index._store.another()
        assert second._run("PRAGMA synchronous").fetchone() == (1,)
        second.close()
        index.add(["red kettle"])
    assert _texts(path) == ["red kettle"]


@pytest.mark.parametrize("wrong", ["off", "FULL", "", None, 2])
def test_another_durability_is_refused_and_leaves_no_file(path: Path, wrong: Any) -> None:
    with pytest.raises(InputError, match=rf"durability is {wrong!r}, expected 'full' or 'normal'"):
        Index.open(path, model=WordEncoder(), durability=wrong)
    assert _beside(path) == []


# Locks within a process


def test_opening_a_file_twice_in_a_process_keeps_the_locks_of_the_first(path: Path) -> None:
    """Were the file opened and closed by hand, the other process would remove the log that the first still writes."""
    first = Index.open(path, model=WordEncoder())
    first.add(["first"])
    Index.open(path, model=WordEncoder()).close()
    Index.open(path, model=WordEncoder(), read_only=True).close()
    with pytest.raises(StoreFormatError):
        Index.open(path.parent, model=WordEncoder())
    _python("with Index.open(path, model=WordEncoder()) as index: index.add(['other'])", path)
    assert _log(path).exists()
    first.add(["last"])
    assert _python("with Index.open(path, model=WordEncoder()) as index: print(len(index))", path) == "3\n"
    first.close()
    assert _texts(path) == ["first", "last", "other"]
    assert _beside(path) == ["index.db"]


def _damage_index_of_sources(path: Path) -> None:
    """Spoil what documents without a source do not need, so that the file can still be read and written."""
    with raw(path) as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'documents_by_source'").fetchone()
    content = bytearray(path.read_bytes())
    content[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
    path.write_bytes(content)


def _verify_damaged(index: Index, path: Path) -> None:
    # Naming the documents takes reading the pages.
    assert any("The database file is damaged" in problem.message for problem in index.verify().problems)


def _recover(index: Index, path: Path) -> None:
    assert recover(path, path.with_name("recovered.db"), model=WordEncoder()).documents == 1


def _load_by_mistake(index: Index, path: Path) -> None:
    with pytest.raises(InputError, match="is no file of `edgecolbert dump`"):
        Index.load(path, path.with_name("loaded.db"))


def _index_itself(index: Index, path: Path) -> None:
    (source,) = open_sources([str(path)])
    assert next(iter(source.read(Reading())))["id"] == "index.db"


@pytest.mark.parametrize("read", [_verify_damaged, _recover, _load_by_mistake, _index_itself])
def test_reading_a_file_without_sqlite_keeps_the_locks_of_the_index_on_it(path: Path, read: Any) -> None:
    Index.open(path, model=WordEncoder()).close()
    _damage_index_of_sources(path)
    first = Index.open(path, model=WordEncoder())
    first.add(["first"])
    read(first, path)
    read_only = "with Index.open(path, model=WordEncoder()) as index: assert index.ids()"
    _python(read_only, path)
    assert _log(path).exists()
    _python("with Index.open(path, model=WordEncoder()) as index: index.add(['other'])", path)
    assert _log(path).exists()
    first.add(["last"])
    assert _python("with Index.open(path, model=WordEncoder()) as index: print(len(index))", path) == "3\n"
    first.close()
    with Index.open(path, model=WordEncoder()) as index:
        assert {index.get(name).text for name in index.ids()} == {"first", "other", "last"}  # type: ignore[union-attr]


def _descriptors(path: Path) -> int:
    """How many descriptors this process has of a file, those of SQLite among them."""
    names = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            names.append(os.readlink(entry))
    return names.count(str(path))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux lists the descriptors of a process")
def test_a_file_read_without_sqlite_is_closed_when_no_connection_has_it_open(path: Path) -> None:
    first = Index.open(path, model=WordEncoder())
    first.add(["first"])
    before = _descriptors(path)
    for _ in range(3):
        with open_files.read_plainly(path) as one, open_files.read_plainly(path) as two:
            assert one.read(6) == two.read(6) == b"SQLite"
    assert _descriptors(path) == before + 2
    second = Index.open(path, model=WordEncoder())
    first.close()
    assert _descriptors(path) > 2
    second.close()
    assert _descriptors(path) == 0
    with open_files.read_plainly(path) as file:
        assert file.read(6) == b"SQLite"
    assert _descriptors(path) == 0


def test_nothing_is_closed_while_another_thread_opens_a_connection(path: Path) -> None:
    """It may have its locks already, though nobody knows of it yet."""
    Index.open(path, model=WordEncoder()).close()
    asked, go_on = threading.Event(), threading.Event()
    original = connection._check_owner

    def slow(*arguments: Any) -> None:
        original(*arguments)
        asked.set()
        go_on.wait(timeout=60)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "_check_owner", slow)
        opened: list[Store] = []
        thread = threading.Thread(target=lambda: opened.append(Store(path)))
        thread.start()
        asked.wait(timeout=60)
        before = len(open_files.PLAIN_FILES._idle)
        elsewhere = path.with_name("elsewhere.txt")
        elsewhere.write_text("x", encoding="utf-8")
        with open_files.read_plainly(elsewhere) as file:
            assert file.read() == b"x"
        assert len(open_files.PLAIN_FILES._idle) == before + 1
        go_on.set()
        thread.join()
    assert len(open_files.PLAIN_FILES._idle) == before
    opened[0].close()


def test_a_second_connection_of_this_process_is_named_as_the_writer(path: Path) -> None:
    with Index.open(path, model=WordEncoder()), raw(path) as other:
        other.execute("BEGIN IMMEDIATE")
        with Index.open(path, model=WordEncoder(), timeout=0.0) as index:
            who = "another connection of this process" if Path("/proc/locks").exists() else "another process"
            with pytest.raises(StoreLockedError, match=rf"index\.db is being written by {who}, which held the lock"):
                index.add(["red kettle"])
            other.execute("ROLLBACK")
            index.add(["red kettle"])
            assert len(index) == 1


@needs_list_of_locks
def test_who_writes_is_known_only_while_somebody_does(path: Path) -> None:
    assert write_lock_holder(path) is None
    with Index.open(path, model=WordEncoder()) as index:
        assert write_lock_holder(path) is None
        with index._store.change():
            assert write_lock_holder(path) == "another connection of this process"
            asked = "from edgecolbert.locks import write_lock_holder; print(write_lock_holder(path))"
            assert re.fullmatch(rf"process {os.getpid()} \(\S.*\)\n", _python(asked, path))
        assert write_lock_holder(path) is None


def test_writers_of_several_processes_take_turns_and_lose_nothing(path: Path) -> None:
    Index.open(path, model=WordEncoder()).close()
    program = """
with Index.open(path, model=WordEncoder(), timeout=60) as index:
    for n in range(15):
        index.add([f"{sys.argv[2]} {n}"])
        assert f"{sys.argv[2]} {n}" in {hit.text for hit in index.search(f"{n}", k=100, exact=True)}
"""
    writers = [
        subprocess.Popen([sys.executable, "-c", PRELUDE + program, str(path), name], stderr=subprocess.PIPE, text=True)
        for name in ("red", "green", "blue")
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    assert _texts(path) == sorted(f"{name} {n}" for name in ("red", "green", "blue") for n in range(15))
    assert _beside(path) == ["index.db"]


# The log, and SQLite's WAL-reset fault


@pytest.fixture
def short_log(monkeypatch: pytest.MonkeyPatch) -> int:
    """The log is folded in at 64 KiB."""
    monkeypatch.setattr(drivers, "LOG_BYTES", 65_536)
    return 65_536


def _put(store: Store, n_bytes: int = 20_000) -> None:
    with store.change():
        store._run("INSERT OR REPLACE INTO state (key, value) VALUES ('filler', ?)", os.urandom(n_bytes))


def test_the_log_does_not_grow_with_the_number_of_commits(path: Path, short_log: int) -> None:
    store = Store(path)
    assert store._run("PRAGMA wal_autocheckpoint").fetchone() == (0,)
    longest = 0
    for _ in range(60):
        _put(store)
        longest = max(longest, _log(path).stat().st_size)
    assert longest < 2 * short_log
    # Once started again its file is cut, so that its size tells how much of it is in use.
    assert min(_log(path).stat().st_size for _ in range(6) if _put(store) is None) < short_log
    store.close()
    assert _beside(path) == ["index.db"]


def test_a_reader_keeps_the_log_and_sees_its_snapshot_until_it_is_done(path: Path, short_log: int) -> None:
    writer, reader = Store(path), Store(path, read_only=True)
    _put(writer)
    with reader.snapshot():
        before = reader.generation
        for _ in range(20):
            _put(writer)
        assert reader.generation == before
        assert _log(path).stat().st_size > 4 * short_log
    _put(writer)
    _put(writer)
    assert _log(path).stat().st_size < short_log
    assert reader.generation == writer.generation == before + 22
    reader.close()
    writer.close()


def test_a_disk_error_while_the_log_is_folded_in_does_not_fail_the_commit(path: Path, short_log: int) -> None:
    store = Store(path)
    _put(store)
    # The second connection that a checkpoint needs cannot be opened at this name.
    path.rename(path.with_name("elsewhere.db"))
    for _ in range(5):
        _put(store)
    assert _log(path).stat().st_size > short_log
    path.with_name("elsewhere.db").rename(path)
    _put(store)
    _put(store)
    assert _log(path).stat().st_size < short_log
    store.close()


def _started_again(path: Path) -> bytes:
    """What the head of a log has anew each time it is started again (the salts)."""
    with _log(path).open("rb") as file:  # no locks are on the log, so closing it does no harm
        return file.read(24)[16:]


def _plain(path: Path, **options: Any) -> sqlite3.Connection:
    made = sqlite3.connect(path, isolation_level=None, **options)
    made.execute("PRAGMA wal_autocheckpoint = 0")
    return made


def test_sqlite_never_starts_a_log_again_while_a_snapshot_reads_from_it(path: Path) -> None:
    """The first half of why `Connection.checkpoint` is safe in versions with the fault."""
    Store(path).close()
    writer, guard, other = _plain(path), _plain(path), _plain(path)
    writer.execute("UPDATE state SET value = value + 1")
    guard.execute("BEGIN")
    guard.execute("SELECT * FROM state").fetchall()
    salts = _started_again(path)
    _, n_log, n_done = writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    assert n_log == n_done > 0
    other.execute("UPDATE state SET value = value + 1")
    assert _started_again(path) == salts
    guard.execute("COMMIT")
    writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
    other.execute("UPDATE state SET value = value + 1")
    assert _started_again(path) != salts
    for each in (writer, guard, other):
        each.close()


def test_sqlite_folds_nothing_in_while_a_snapshot_reads_from_the_file_alone(path: Path) -> None:
    """The second half: a log that was folded in completely may be started again, but then nothing is recorded."""
    Store(path).close()
    writer, guard, other = _plain(path), _plain(path), _plain(path)
    writer.execute("UPDATE state SET value = value + 1")
    writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
    salts = _started_again(path)
    guard.execute("BEGIN")
    guard.execute("SELECT * FROM state").fetchall()
    other.execute("UPDATE state SET value = value + 1")
    assert _started_again(path) != salts
    _, n_log, n_done = writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    assert (n_log > 0, n_done) == (True, 0)
    guard.execute("COMMIT")
    _, n_log, n_done = writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    assert n_log == n_done > 0
    for each in (writer, guard, other):
        each.close()


def test_a_checkpoint_runs_while_a_second_connection_holds_a_snapshot(path: Path, short_log: int) -> None:
    store = Store(path)
    for _ in range(5):
        _put(store)
    own = store._connection
    assert own._guard is not None
    order: list[str] = []
    own._guard.set_trace_callback(lambda sql: order.append(f"guard: {sql}"))
    own.set_trace_callback(lambda sql: order.append(f"own: {sql}"))
    own.checkpoint()
    assert order == [
        "guard: BEGIN",
        "guard: PRAGMA user_version",
        "own: PRAGMA wal_checkpoint(PASSIVE)",
        "guard: COMMIT",
    ]
    order.clear()
    own.checkpoint(alone=True)
    assert next(entry for entry in order if "busy_timeout" not in entry) == "guard: BEGIN IMMEDIATE"
    store.close()


# Forks


@needs_fork
def test_a_forked_process_can_neither_use_nor_harm_an_index_of_its_parent(path: Path) -> None:
    program = """
from concurrent.futures import ThreadPoolExecutor
import threading, time, warnings
warnings.simplefilter("ignore")  # newer versions of Python warn of forks beside threads; that is what is tested
index = Index.open(path, model=WordEncoder())
index.add(["red kettle"])
busy, go_on = threading.Event(), threading.Event()
def hold():
    with index._reading():
        busy.set()
        go_on.wait()
thread = threading.Thread(target=hold)
thread.start()
busy.wait()  # another thread is in the middle of a search, with the index's lock
child = os.fork()
if child == 0:
    signal.alarm(60)
    said = []
    for use in (
        lambda: index.search("kettle"),
        lambda: index.add(["blue cup"]),
        lambda: len(index),
        lambda: Index.open(path, model=WordEncoder()),
        lambda: Index.open(path, model=WordEncoder(), read_only=True),
    ):
        try:
            use()
        except StoreError as error:
            said.append(str(error))
    assert len(said) == 5 and len(set(said)) == 1, said
    print(said[0])
    with Index.open(path + ".of-the-child", model=WordEncoder()) as own:
        own.add(["my own"])
        assert len(own) == 1
    index.close()
    del index
    sys.exit(0)  # with everything that Python does at its end
go_on.set()
thread.join()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert os.path.exists(path + "-wal")
index.add(["blue cup"])
assert len(index.search("cup")) == 2
index.close()
assert not os.path.exists(path + "-wal")
print("parent done")
"""
    printed = _python(program, path)
    assert "index.db was open when this process was forked." in printed
    assert "Close it before the fork and open it in each process" in printed
    assert printed.endswith("parent done\n")
    assert _texts(path) == ["blue cup", "red kettle"]


@needs_fork
def test_a_child_that_outlives_its_parent_does_not_touch_the_log(path: Path) -> None:
    program = """
index = Index.open(path, model=WordEncoder())
index.add(["red kettle"])
if os.fork():
    os._exit(0)  # a crash: nothing is closed
os.read(0, 1)
index.close()
del index
sys.exit(0)
"""
    command = [sys.executable, "-c", PRELUDE + program, str(path)]
    family = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert family.wait(timeout=60) == 0
    log = _log(path).read_bytes()
    assert log
    family.communicate(b"x", timeout=60)  # until the child has ended too
    assert _log(path).read_bytes() == log
    assert _texts(path) == ["red kettle"]


@needs_fork
def test_processes_of_multiprocessing_are_told_too_and_may_open_what_was_closed(path: Path) -> None:
    program = """
import multiprocessing
def use(index, queue):
    try:
        queue.put(index.search("kettle")[0].text)
    except StoreError as error:
        queue.put(str(error))
def open_and_use(queue):
    with Index.open(path, model=WordEncoder(), read_only=True) as own:
        queue.put(own.search("kettle")[0].text)
def in_child(*arguments):
    queue = context.SimpleQueue()
    child = context.Process(target=arguments[0], args=(*arguments[1:], queue))
    child.start()
    said = queue.get()
    child.join()
    return said
context = multiprocessing.get_context("fork")
with Index.open(path, model=WordEncoder()) as index:
    index.add(["red kettle"])
    print(in_child(use, index))
    assert len(index) == 1
print(in_child(open_and_use))
"""
    first, second = _python(program, path).splitlines()
    assert "was open when this process was forked" in first
    assert second == "red kettle"


# Files that cannot be written


def _use(index: Index) -> None:
    assert index.search("kettle", k=1)[0].text == "red kettle"
    assert index.search("kettle", k=1, filter={"n": 1})[0].text == "red kettle"
    assert len(index) == len(index.ids()) == 2
    assert index.get("a") is not None
    assert index.stats().documents == 2
    assert index.verify().problems == ()


def _make(path: Path) -> None:
    with Index.open(path, model=WordEncoder()) as index:
        index.add([{"id": "a", "text": "red kettle", "metadata": {"n": 1}}, {"id": "b", "text": "blue cup"}])


def test_a_read_only_index_leaves_nothing_beside_the_file(path: Path) -> None:
    _make(path)
    with Index.open(path, model=WordEncoder(), read_only=True) as index:
        _use(index)
    assert _beside(path) == ["index.db"]
    # Not so while somebody else has the file open, whose log it is.
    with Index.open(path, model=WordEncoder()) as other:
        Index.open(path, model=WordEncoder(), read_only=True).close()
        other.add(["green plate"])
        Index.open(path, model=WordEncoder(), read_only=True).close()
        assert _log(path).stat().st_size
    assert _texts(path) == ["blue cup", "green plate", "red kettle"]


def test_a_log_that_a_crash_left_is_read_and_kept_by_a_read_only_index(path: Path) -> None:
    _python(
        "index = Index.open(path, model=WordEncoder())\n"
        "index.add([{'id': 'a', 'text': 'red kettle', 'metadata': {'n': 1}}, {'id': 'b', 'text': 'blue cup'}])\n"
        "os._exit(0)",
        path,
    )
    before = path.read_bytes(), _log(path).read_bytes()
    with Index.open(path, model=WordEncoder(), read_only=True) as index:
        _use(index)
    assert (path.read_bytes(), _log(path).read_bytes()) == before


@pytest.fixture
def crashed(public_folder: Path, path: Path) -> Path:
    """A folder without write permission, with a file whose last commits are in the log alone."""
    with Index.open(path, model=WordEncoder()) as index:
        index.add([{"id": "a", "text": "red kettle", "metadata": {"n": 1}}, {"id": "b", "text": "blue cup"}])
        shutil.copy(path, public_folder / "index.db")
        shutil.copy(_log(path), public_folder / "index.db-wal")
    (public_folder / "index.db").chmod(0o444)
    (public_folder / "index.db-wal").chmod(0o444)
    public_folder.chmod(0o555)
    return public_folder / "index.db"


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no permissions there")
def test_what_a_crash_left_in_the_log_is_read_where_nothing_can_be_written(crashed: Path) -> None:
    with unprivileged():
        with Index.open(crashed, model=WordEncoder(), read_only=True) as index:
            _use(index)
        assert _beside(crashed) == ["index.db", "index.db-wal"]


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no permissions there")
def test_everything_that_reads_works_where_nothing_can_be_written(public_folder: Path) -> None:
    path = public_folder / "index.db"
    _make(path)
    path.chmod(0o444)
    public_folder.chmod(0o555)
    with unprivileged():
        with Index.open(path, model=WordEncoder(), read_only=True) as index:
            _use(index)
        assert _beside(path) == ["index.db"]


def _grow(path: Path) -> None:
    _python("with Index.open(path, model=WordEncoder()) as index: index.add(['green kettle'])", path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be two users")
def test_a_reader_without_write_permission_sees_what_others_write_meanwhile(public_folder: Path) -> None:
    path = public_folder / "index.db"
    _make(path)
    with unprivileged():
        index = Index.open(path, model=WordEncoder(), read_only=True)
        _use(index)
    _grow(path)
    with unprivileged():
        assert len(index) == 3
        assert {hit.text for hit in index.search("kettle", k=2)} == {"red kettle", "green kettle"}
        assert index.verify().problems == ()
        index.close()


def test_a_file_without_write_permission_in_a_folder_that_has_it(public_folder: Path) -> None:
    path = public_folder / "index.db"
    _make(path)
    path.chmod(0o444)
    public_folder.chmod(0o777)
    with unprivileged(), Index.open(path, model=WordEncoder(), read_only=True) as index:
        _use(index)


def test_a_foreign_database_with_a_log_is_left_as_it_is(tmp_path: Path, path: Path) -> None:
    with raw(tmp_path / "theirs") as theirs:
        theirs.execute("PRAGMA journal_mode = WAL")
        theirs.execute("CREATE TABLE bookmarks (url)")
        shutil.copy(tmp_path / "theirs", path)
        shutil.copy(tmp_path / "theirs-wal", _log(path))
    before = path.read_bytes(), _log(path).read_bytes()
    for options in ({}, {"read_only": True}):
        with pytest.raises(StoreFormatError, match=r"index\.db is a database of another program"):
            Index.open(path, model=WordEncoder(), **options)  # type: ignore[arg-type]
    assert (path.read_bytes(), _log(path).read_bytes()) == before


# The log after writes that make it long


def test_compact_and_reencode_leave_a_short_log_and_a_small_file(path: Path) -> None:
    with Index.open(path, model=WordEncoder()) as index:
        index.add([f"word{n} " * 30 for n in range(200)])
        index.delete(index.ids()[10:])
        assert index.compact() > 0
        assert path.stat().st_size == index.stats().file_bytes
        assert _log(path).stat().st_size <= drivers.LOG_BYTES // 2
        assert len(index) == 10
    assert reencode(path, model=WordEncoder("new")) == 10
    assert _beside(path) == ["index.db"]


def test_threads_share_one_connection_while_the_log_is_folded_in(path: Path, short_log: int) -> None:
    with Index.open(path, model=WordEncoder()) as index:
        index.add(["red kettle"])
        failures: list[BaseException] = []

        def read() -> None:
            try:
                for _ in range(30):
                    assert index.search("kettle", k=1)[0].text == "red kettle"
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for n in range(10):
            index.add([f"word{n} " * 200])
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(index) == 11


def test_a_closed_index_says_so_and_not_that_it_was_forked(path: Path) -> None:
    index = Index.open(path, model=WordEncoder())
    index.close()
    with pytest.raises(StoreError, match="was closed"):
        index.search("kettle")


def test_what_an_interruption_left_open_is_rolled_back_by_the_next_block(path: Path) -> None:
    with Index.open(path, model=WordEncoder()) as index:
        index.add([{"id": "a", "text": "red"}])
        # As when Ctrl-C comes after the last statement of a block and before its ROLLBACK.
        index._store._connection.execute("BEGIN IMMEDIATE")
        index._store._connection.execute("DELETE FROM documents")
        assert index.ids() == ["a"]
        index._store._connection.execute("BEGIN")
        index.add([{"id": "b", "text": "blue"}])
        assert index.ids() == ["a", "b"]
        assert index.verify().problems == ()
