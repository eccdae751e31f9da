"""The one place that opens a database file, and the one way to read or write it.

Every connection of the library comes from `open_connection`, so that durability, safety settings and tests apply to
all of them alike.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import struct
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any

from edgecolbert import limits
from edgecolbert.encryption import Key, cipher_driver
from edgecolbert.errors import (
    InputError,
    StoreClosedError,
    StoreError,
    StoreFormatError,
    StoreKeyError,
    StoreLockedError,
    StoreNotFoundError,
    StoreReadOnlyError,
)
from edgecolbert.instants import INSTANT_FUNCTION, microseconds_of
from edgecolbert.locks import write_lock_holder

# "ECol" in the file header says that a database is ours; `file` and other programs can see it.
APPLICATION_ID = 0x45436F6C

_MAGIC = b"SQLite format 3\x00"
# Ends a rollback journal that names another journal; SQLite deletes that file, whatever it is, when it rolls back.
_SUPER_JOURNAL = bytes.fromhex("d9d505f920a163d7")
# Token embeddings are blobs of 5 to 25 KB, whose last page is half empty on average. On scifact a file has 1.072 times
# the bytes of its contents with pages of 4096, and 1.132 with 8192, which are read an eighth faster (100 passages: 1.41
# and 1.25 ms).
_PAGE_SIZE = 4_096
# SQLite's smallest page, so that no database is smaller.
_LEAST_PAGE = 512
MEMORY = ":memory:"

# What a power cut can take: with "full" nothing that was acknowledged, with "normal" the last commits. Neither can
# leave a damaged file.
DURABILITY = {"full": "FULL", "normal": "NORMAL"}

# The log is folded into the file when it has so many bytes, as SQLite does by itself at 1,000 pages; the file of a log
# that was started again keeps half of them, so that its size tells how much of it is in use.
_LOG_BYTES = 4 * 1024 * 1024
# From here on one connection has to keep the others from writing while it folds the log in.
_LONG_LOG_BYTES = 4 * _LOG_BYTES
# SQLite before 3.51.3, but for two versions that were mended later, has the fault that `Connection.checkpoint` avoids.
_WAL_RESET_FIXED = (3, 51, 3)
_WAL_RESET_MENDED = ((3, 44, 6), (3, 50, 7))


class Connection:
    """One connection to a database, whichever SQLite is behind it. Used by one thread at a time.

    Args:
        raw: The driver's connection, in autocommit mode.
        driver: The driver's module.
        path: The file, or None for a database in memory.
        timeout: Seconds to wait for a lock.
        key: The key, for the connection that watches over a checkpoint.
        immutable: Whether it was opened as a file that nobody changes, because its folder is read-only.
    """

    def __init__(
        self,
        raw: sqlite3.Connection,
        driver: ModuleType,
        path: Path | None,
        *,
        timeout: float,
        key: Key | None = None,
        immutable: bool = False,
    ) -> None:
        self._raw = raw
        self._timeout = timeout
        self._driver = driver
        self._path = path
        self._key = key
        self._guard: Connection | None = None
        self._state = None if path is None else _state(path)
        self._immutable = immutable
        self.identity = None if path is None else _identity(path)
        self.encrypted = key is not None
        self.leaves_log = False
        _OPEN.add(self)

    def execute(self, sql: str, parameters: Iterable[Any] = ()) -> sqlite3.Cursor:
        """Run one statement."""
        return self._raw.execute(sql, parameters)  # type: ignore[arg-type]

    def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> sqlite3.Cursor:
        """Run one statement for each row of parameters."""
        return self._raw.executemany(sql, parameters)  # type: ignore[arg-type]

    def take_write_lock(self) -> None:
        """Begin a transaction that writes, as soon as no other connection does.

        SQLite's own way of waiting looks again every 100 ms, and can miss for seconds the moments in which writers
        that commit one batch after the other leave the lock free. Looking every few milliseconds costs little.
        """
        deadline = time.monotonic() + self._timeout
        self._raw.execute("PRAGMA busy_timeout = 0")
        try:
            while True:
                try:
                    self._raw.execute("BEGIN IMMEDIATE")
                    return
                except self._driver.Error as error:
                    if error_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                        raise
                # Not evenly: writers in step with each other would go on missing.
                time.sleep(random.uniform(0.001, 0.004))  # noqa: S311 - no secret
        finally:
            # Other statements wait too, for a process that recovers the log after a crash.
            self._raw.execute(f"PRAGMA busy_timeout = {int(min(self._timeout * 1000, 2**31 - 1))}")

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open; never in a forked process, which must not end the parent's."""
        return self._raw.in_transaction

    def __getattr__(self, name: str) -> Any:
        """What else the driver's connection has, for sqlite-utils and for backups."""
        return getattr(self._raw, name)

    def close(self) -> None:
        """Close it; the last connection to a file folds the log into it and removes the log."""
        if self._guard is not None:
            self._guard.close()
        self._raw.close()
        _OPEN.discard(self)
        _PLAIN_FILES.close_unneeded()
        if self.leaves_log and self._path is not None:
            self.leaves_log = False
            _remove_empty_log(self._path)

    def refresh(self) -> None:
        """Open the file again if it was opened as one that nobody changes, and changed all the same."""
        if self._immutable and self._path is not None and _state(self._path) != self._state:
            self._state = _state(self._path)
            fresh, self._immutable = _connect_read_only(self._path, self._driver, self._key, timeout=self._timeout)
            _protect(fresh)
            self._raw.close()
            self._raw = fresh
            self.identity = _identity(self._path)

    def checkpoint_if_due(self) -> None:
        """Fold the log into the file if it has become long; what was committed is safe either way."""
        if self._path is None:
            return
        try:
            log_bytes = _log(self._path).stat().st_size
        except OSError:
            return
        if log_bytes >= _LOG_BYTES:
            self.checkpoint(alone=log_bytes >= _LONG_LOG_BYTES)

    def checkpoint(self, *, alone: bool = False) -> None:
        """Fold the log into the file as far as readers allow, in a way that SQLite's WAL-reset fault cannot happen in.

        SQLite 3.7.0 to 3.51.2 (https://sqlite.org/wal.html#walresetbug) can lose committed pages if, while one
        connection begins a checkpoint of a log that was folded in completely already, another connection's commit
        starts the log again at its beginning: the first one takes the length of the old log for what it has folded in
        of the new one. SQLite's automatic checkpoints, which run without the write lock, can meet like that whenever
        two processes write. So they are switched off, and this is the only checkpoint.

        A second connection holds a snapshot while it runs. Either the snapshot reads from the log: then nobody can
        start the log again. Or the log was folded in completely, and the snapshot reads from the file alone: then the
        checkpoint may not write to the file, and records nothing. SQLite's source says both (`walRestartLog` needs the
        locks of all readers of the log, `walCheckpoint` the lock of all readers of the file). Neither readers nor
        writers wait for it.

        The checkpoint at the close of the last connection needs no such care: it runs only under an exclusive lock of
        the whole file.

        Args:
            alone: Let no other process write meanwhile. Where several never pause, a log is otherwise never folded in
                to its end, and grows.
        """
        if self._path is None:
            return
        # What was to be stored is stored, in the log, so that nothing here may fail it: neither the disk nor a callable
        # that gives the key. The next commit tries again.
        with suppress(Exception):
            if self._guard is None:
                raw = _connect(self._path, self._driver, self._key, "mode=rw", timeout=self._timeout)
                self._guard = Connection(raw, self._driver, self._path, timeout=self._timeout, key=self._key)
            guard = self._guard
            try:
                if alone:
                    guard.take_write_lock()
                else:
                    guard.execute("BEGIN")
                # BEGIN alone takes no snapshot.
                guard.execute("PRAGMA user_version").fetchone()
                self._raw.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            finally:
                if guard.in_transaction:
                    guard.execute("COMMIT")

    def disown(self) -> None:
        """In a forked process: leave the parent's connection alone for ever.

        Not even closing it is allowed: that could fold in or remove a log that the parent uses. So it is kept from
        being collected, at the process's end too.
        """
        _keep_for_ever(self._raw)
        self._raw = _Inherited(self._path)  # type: ignore[assignment]
        self._guard = None
        self._immutable = self.leaves_log = False
        if self.identity is not None:
            _INHERITED_FILES.add(self.identity)


class _Inherited:
    """Stands for a connection that belongs to the parent process."""

    in_transaction = False

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def close(self) -> None:
        """Nothing: the parent's connection stays as it is."""

    def __getattr__(self, name: str) -> Any:
        raise _inherited_error(self._path or MEMORY)


# Connections of this process, and the files of those that belong to the process it was forked from.
_OPEN: weakref.WeakSet[Connection] = weakref.WeakSet()
_INHERITED_FILES: set[tuple[int, int]] = set()


class _PlainFiles:
    """Descriptors of `read_plainly`, which are closed only when no connection of this process has their file open."""

    def __init__(self) -> None:
        # Reentrant: a handler of a signal may close an index.
        self._lock = threading.RLock()
        # Those that nobody reads from, by file.
        self._idle: dict[tuple[int, int], list[int]] = {}
        # Connections that are being opened: each may hold locks already, though it is not in `_OPEN` yet.
        self._opening = 0

    def take(self, path: str | Path) -> tuple[int, tuple[int, int]]:
        """A descriptor of a file, and what the file is told apart by."""
        identity = _identity(Path(path))
        with self._lock:
            idle = self._idle.get(identity) if identity is not None else None
            if idle and identity is not None:
                return idle.pop(), identity
        descriptor = os.open(path, os.O_RDONLY)
        found = os.fstat(descriptor)
        return descriptor, (found.st_dev, found.st_ino)

    def give_back(self, descriptor: int, identity: tuple[int, int]) -> None:
        """Close a descriptor, now or when that does no harm any more."""
        with self._lock:
            self._idle.setdefault(identity, []).append(descriptor)
        self.close_unneeded()

    def close_unneeded(self) -> None:
        """Close what can be closed."""
        with self._lock:
            if self._opening or not self._idle:
                return
            in_use = {connection.identity for connection in list(_OPEN)}
            for identity in [identity for identity in self._idle if identity not in in_use]:
                for descriptor in self._idle.pop(identity, ()):
                    os.close(descriptor)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Nothing is closed meanwhile: a connection that is being opened would lose its locks before it is known."""
        with self._lock:
            self._opening += 1
        try:
            yield
        finally:
            with self._lock:
                self._opening -= 1
            self.close_unneeded()

    def renew(self) -> None:
        """In a forked process: other threads of the parent may have held the lock, and been opening files."""
        self._lock, self._opening = threading.RLock(), 0


_PLAIN_FILES = _PlainFiles()


def _disown_all() -> None:
    _PLAIN_FILES.renew()
    for connection in list(_OPEN):
        connection.disown()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)


def open_connection(
    path: str | Path,
    *,
    create: bool,
    read_only: bool,
    timeout: float = 10.0,
    durability: str = "full",
    key: Key | None = None,
) -> Connection:
    """Open an edgecolbert database file, or a new one.

    Nothing is written to a file that is not ours: a foreign or newer database is refused and left untouched.

    Args:
        path: The file, or ":memory:" for a database that is gone when closed.
        create: Make the file if it does not exist.
        read_only: Open without the right to write, also on a read-only disk.
        timeout: Seconds to wait for another process's write lock.
        durability: "full", or "normal" for commits that a power cut may take back.
        key: The key of an encrypted file.

    Returns:
        A connection in autocommit mode that may be used from any thread, one at a time.

    Raises:
        InputError: If `durability` is neither, or a key is given for a database in memory.
        StoreNotFoundError: If there is no file and none may be created.
        StoreFormatError: If the file is not an edgecolbert database.
        StoreKeyError: If the key is wrong, missing, or one too many.
        StoreReadOnlyError: If the file cannot be written and `read_only` is false.
        StoreError: If the file cannot be opened for another reason.
    """
    if durability not in DURABILITY:
        raise InputError(f"durability is {durability!r}, expected {' or '.join(map(repr, DURABILITY))}.")
    if str(path) == MEMORY:
        if key is not None:
            raise InputError("An index in memory is stored nowhere and cannot be encrypted. Leave the key out.")
        raw = sqlite3.connect(MEMORY, timeout=timeout, isolation_level=None, check_same_thread=False)
        connection = Connection(raw, sqlite3, None, timeout=timeout)
        _configure(connection, raw, new=True, timeout=timeout, durability=durability)
        return connection
    path = Path(path)
    new = _check_path(path, create=create, read_only=read_only)
    _check_process(path, encrypted=key is not None)
    driver = sqlite3 if key is None else cipher_driver()
    had_log = _log(path).exists()
    with _unreadable_explained(path, key), _PLAIN_FILES.kept(), translated_errors(path):
        immutable = False
        if read_only:
            raw, immutable = _connect_read_only(path, driver, key, timeout=timeout)
        else:
            if had_log and not new:
                _check_before_writing(path, driver, key, timeout=timeout)
            raw = _connect(path, driver, key, "mode=rwc" if new else "mode=rw", timeout=timeout)
        connection = Connection(raw, driver, path, timeout=timeout, key=key, immutable=immutable)
        try:
            _check_owner(connection, path)
            # An empty log that a read-only connection made is removed by nobody else. With a passphrase it costs a
            # second derivation of the key, which is not worth it.
            connection.leaves_log = read_only and not had_log and not immutable and key is None
            if read_only:
                _protect(raw)
            else:
                _configure(connection, raw, new=new, timeout=timeout, durability=durability)
        except BaseException:
            connection.close()
            raise
        # A file that was just made has its number only now.
        connection.identity = _identity(path)
    return connection


def open_copy(path: str | Path, key: Key | None = None) -> sqlite3.Connection:
    """Open an empty file that a backup is to fill, by the driver and with the key of what is copied.

    Not a `Connection`: everything about the copy is copied, and whoever makes it puts it on the disk as a whole.

    Args:
        path: The file, which nobody else uses.
        key: The key of the database that is copied, where it has one.

    Returns:
        The driver's connection, as `Connection.backup` wants it.
    """
    driver = sqlite3 if key is None else cipher_driver()
    with translated_errors(path):
        raw = _connect(Path(path), driver, key, "mode=rw", timeout=0.0)
        try:
            _harden(raw)
        except BaseException:
            raw.close()
            raise
    return raw


@contextmanager
def read_plainly(path: str | Path) -> Iterator[FileIO]:
    """Read a file that may be a database by other means than SQLite.

    POSIX drops all locks that a process has on a file as soon as the process closes any descriptor of it. So a file
    that is opened and closed by hand while a connection of this process has it open loses the connection its locks, and
    another process could then remove the log that the connection writes to. Here the descriptor is closed only when no
    connection of this process has the file open, however often and wherever the file is read until then.

    Args:
        path: The file.

    Yields:
        The open file, without a buffer. Do not close it.

    Raises:
        OSError: If it cannot be opened.
    """
    if os.name == "nt":
        # There locks belong to a handle, and a file with an open one can be neither renamed nor deleted.
        with open(path, "rb", buffering=0) as file:
            yield file
        return
    descriptor, identity = _PLAIN_FILES.take(path)
    try:
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            file.seek(0)
            yield file
    finally:
        _PLAIN_FILES.give_back(descriptor, identity)


def sqlite_facts(key_driver: bool = False) -> dict[str, Any]:
    """What is to be known of the SQLite that databases are read with.

    Args:
        key_driver: Ask the SQLite that reads encrypted databases instead.

    Returns:
        `version`, `options` (how it was compiled), and `wal_reset_fault` (whether it has the fault that
        `Connection.checkpoint` works around).

    Raises:
        MissingExtraError: If the one for encrypted databases is not installed.
    """
    driver = cipher_driver() if key_driver else sqlite3
    connection = driver.connect(MEMORY)
    try:
        options = {row[0] for row in connection.execute("PRAGMA compile_options")}
    finally:
        connection.close()
    version = driver.sqlite_version_info
    mended = any(version[:2] == fixed[:2] and version >= fixed for fixed in _WAL_RESET_MENDED)
    fault = version < _WAL_RESET_FIXED and not mended
    return {"version": driver.sqlite_version, "options": options, "wal_reset_fault": fault}


@contextmanager
def reading(connection: Connection | sqlite3.Connection) -> Iterator[None]:
    """One snapshot: everything read inside belongs to the same moment.

    Args:
        connection: A connection without an open transaction.

    Yields:
        Nothing.
    """
    if isinstance(connection, Connection):
        connection.refresh()
    try:
        _end_interrupted(connection)
        # Inside, because Ctrl-C may come as soon as it has begun, and must not leave it open.
        connection.execute("BEGIN")
        yield
    finally:
        if connection.in_transaction:
            # Nothing was written. A COMMIT fails after a damaged page was met, and would leave the transaction open.
            connection.execute("ROLLBACK")


@contextmanager
def writing(connection: Connection | sqlite3.Connection) -> Iterator[None]:
    """One atomic change: committed as a whole on leaving, rolled back as a whole on any exception.

    It takes the write lock at once. A transaction that reads first and asks for the lock later can be refused without
    waiting, however long the time-out is.

    Args:
        connection: A connection without an open transaction.

    Yields:
        Nothing.
    """
    try:
        _end_interrupted(connection)
        if isinstance(connection, Connection):
            connection.take_write_lock()
        else:
            connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    if isinstance(connection, Connection):
        connection.checkpoint_if_due()


def _end_interrupted(connection: Connection | sqlite3.Connection) -> None:
    """Roll back what Ctrl-C left open, when it came just before a block could do so itself.

    Blocks are never put into each other; if one were, the outer one's COMMIT would fail, and nothing be lost unnoticed.
    """
    if connection.in_transaction:
        connection.execute("ROLLBACK")


@contextmanager
def translated_errors(path: str | Path) -> Iterator[None]:
    """Turn SQLite's errors into ours, naming the file and the remedy.

    Args:
        path: The database file.

    Yields:
        Nothing.

    Raises:
        StoreClosedError: If the connection was closed meanwhile.
        StoreLockedError: If another process kept the write lock.
        StoreReadOnlyError: If the file or its folder cannot be written.
        StoreFormatError: If the file is damaged.
        StoreError: For every other SQLite error, a full disk among them.
    """
    try:
        yield
    except (UnicodeDecodeError, json.JSONDecodeError, struct.error) as error:
        raise StoreFormatError(
            f"{path} is damaged: a stored value cannot be read ({error}). Nothing was changed. Restore it from a "
            "backup, or run `edgecolbert verify --db FILE` to see what can still be read."
        ) from error
    except driver_errors() as error:
        if type(error).__name__ == "ProgrammingError" and "closed database" in str(error):
            raise StoreClosedError(f"{path} was closed while it was in use. Open it again with Index.open.") from error
        code = error_code(error)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreLockedError(
                f"{path} is being written by {write_lock_holder(path) or 'another process'}, which held the lock for "
                "longer than the time-out. Wait until it is done, and try again."
            ) from error
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            raise StoreReadOnlyError(
                f"{path} cannot be written ({error}). Open it with read_only=True, or make the file and its folder "
                "writable."
            ) from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise StoreFormatError(
                f"{path} is damaged or not a database ({error}). Nothing was changed. Restore it from a backup, or "
                "keep what can be read with `edgecolbert repair --db FILE --out NEW`; `edgecolbert verify --db FILE` "
                "says what is damaged."
            ) from error
        if code == sqlite3.SQLITE_FULL:
            raise StoreError(
                f"{path}: the disk is full ({error}). Nothing of this change was stored; what was acknowledged before "
                "is safe. Free some space and try again."
            ) from error
        raise StoreError(f"{path}: SQLite says: {error}.") from error


def driver_errors() -> tuple[type[Exception], ...]:
    """The errors of all drivers in use; SQLCipher's are no subclasses of `sqlite3.Error`."""
    cipher = sys.modules.get("sqlcipher3.dbapi2")
    return (sqlite3.Error,) if cipher is None else (sqlite3.Error, cipher.Error)


def means_damage(error: Exception) -> bool:
    """Whether an error of a driver says that a file cannot be read, and not that it is locked or closed."""
    return error_code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR)


def error_code(error: BaseException | None) -> int:
    """SQLite's primary result code; errors that Python's module raises by itself have none."""
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _log(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _identity(path: Path) -> tuple[int, int] | None:
    """What the system tells files apart by, however they are named."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _state(path: Path) -> tuple[object, ...]:
    """What changes when somebody writes to a database."""
    return tuple(
        (found.st_ino, found.st_size, found.st_mtime_ns)
        for name in (path, _log(path))
        if name.exists()
        for found in [name.stat()]
    )


def _check_path(path: Path, *, create: bool, read_only: bool) -> bool:
    """Whether the file is still to be made; refuse what cannot be a database.

    The file is not opened: closing it again would drop the locks of every other connection that this process has to
    it, and another process could then remove the log that these write to. What is in it is for SQLite to say, which
    changes nothing in a file without its header.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        if read_only or not create:
            raise StoreNotFoundError(
                f"There is no database at {path}. Check the path, or index something into it first."
            ) from None
        if not path.absolute().parent.is_dir():
            raise StoreNotFoundError(f"The folder {path.absolute().parent} does not exist. Make it first.") from None
        return True
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error}.") from error
    if path.is_dir():
        raise StoreFormatError(f"{path} is a folder, expected a database file. Name a file inside it.")
    _check_journal(path)
    if not found.st_size and (read_only or not create):
        raise StoreFormatError(f"{path} is empty, expected an edgecolbert database. Index something into it first.")
    if 0 < found.st_size < _LEAST_PAGE:
        # SQLite would take a single byte for an empty database.
        raise StoreFormatError(f"{path} is not an edgecolbert database, nor any SQLite file. It was left as it is.")
    return not found.st_size


def database_uri(path: PurePath) -> str:
    r"""The address of a database as SQLite takes it.

    Args:
        path: An absolute path.

    Returns:
        A file: URI. A share of Windows has its server in the path, since SQLite refuses an authority.

    >>> from pathlib import PureWindowsPath
    >>> database_uri(PureWindowsPath(r"C:\My notes\100%.db"))
    'file:///C:/My%20notes/100%25.db'
    >>> database_uri(PureWindowsPath(r"\\server\share\notes.db"))
    'file:////server/share/notes.db'
    """
    uri = path.as_uri()
    return uri.replace("file://", "file:////", 1) if path.drive.startswith("\\\\") else uri


def _check_journal(path: Path) -> None:
    """Refuse a rollback journal that would make SQLite delete a file of the journal's choice.

    Only transactions over several attached databases write such a journal, and we make none.
    """
    journal = path.with_name(path.name + "-journal")
    try:
        with journal.open("rb") as file:
            file.seek(-len(_SUPER_JOURNAL), os.SEEK_END)
            end = file.read()
    except OSError:
        return  # none, or one that is too short to name anything
    if end == _SUPER_JOURNAL:
        raise StoreFormatError(
            f"{journal} names another file, which SQLite would delete when it opens {path.name}. edgecolbert never "
            "writes such a journal, so somebody else put it there. Nothing was opened. Move it away first."
        )


def _check_process(path: Path, *, encrypted: bool) -> None:
    """Refuse what SQLite cannot keep safe within one process."""
    identity = _identity(path)
    if identity is None:
        return
    if identity in _INHERITED_FILES:
        raise _inherited_error(path)
    for other in list(_OPEN):
        if other.identity == identity and other.encrypted != encrypted:
            # Two SQLite libraries in one process do not see each other's locks, and drop them.
            raise StoreKeyError(
                f"{path} is open in this process already, "
                + ("and is not encrypted. Leave the key out." if encrypted else "with a key. Pass the key here, too.")
            )


def _inherited_error(path: str | Path) -> StoreError:
    return StoreError(
        f"{path} was open when this process was forked. SQLite's connections and locks do not survive a fork, so it "
        "cannot be used here, nor opened again. Close it before the fork and open it in each process, open it only "
        "after the fork, or start processes with the method 'spawn'."
    )


@contextmanager
def _unreadable_explained(path: Path, key: Key | None) -> Iterator[None]:
    """Say what a file is in which SQLite finds no database, or which it cannot open."""
    try:
        yield
    except StoreError as error:
        code = error_code(error.__cause__)
        shared = any(other.identity == _identity(path) for other in list(_OPEN))
        if code not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN) or shared or not path.exists():
            raise
        try:
            with read_plainly(path) as file:
                head = file.read(_PAGE_SIZE)
        except OSError as unreadable:
            raise StoreError(f"{path} cannot be read: {unreadable}.") from unreadable
        if code != sqlite3.SQLITE_NOTADB:
            raise
        plain = head.startswith(_MAGIC)
        if key is not None and plain:
            raise StoreKeyError(f"{path} is not encrypted, but a key was given. Leave the key out.") from error
        if key is not None:
            raise StoreKeyError(
                f"{path} cannot be read with this key: the key is wrong, or the file is not an encrypted edgecolbert "
                "database. It was left as it is."
            ) from error
        if not plain and looks_encrypted(head, path.stat().st_size):
            raise StoreKeyError(
                f"{path} seems to be encrypted: pass its key, as Index.open(path, key=...) or with --key-env or "
                "--key-file. It was left as it is."
            ) from error
        if not plain:
            raise StoreFormatError(
                f"{path} is not an edgecolbert database, nor any SQLite file. It was left as it is."
            ) from error
        raise


def looks_encrypted(head: bytes, n_bytes: int) -> bool:
    """Whether a file is whole pages of bytes without structure, as SQLCipher writes; few other files are.

    Args:
        head: Its first page.
        n_bytes: Its size.

    Returns:
        Whether it seems to be encrypted.
    """
    # Of 4096 random bytes hardly any value is missing (e^-16 each), and none is frequent.
    return n_bytes % _PAGE_SIZE == 0 and len(set(head)) > 240 and max(map(head.count, set(head))) < 64


def _connect(path: Path, driver: ModuleType, key: Key | None, options: str, *, timeout: float) -> sqlite3.Connection:
    # Before anything is made, for a key that cannot be one.
    literal = None if key is None else key.literal()
    raw: sqlite3.Connection = driver.connect(
        f"{database_uri(path.absolute())}?{options}",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
    )
    if literal is not None:
        try:
            # It would tell standard error of every wrong key.
            raw.execute("PRAGMA cipher_log_level = NONE")
            raw.execute(f"PRAGMA key = {literal}")
            # What does not fit into memory would be written to a file in plain text.
            raw.execute("PRAGMA temp_store = MEMORY")
        except BaseException:
            raw.close()
            raise
    return raw


def _connect_read_only(
    path: Path, driver: ModuleType, key: Key | None, *, timeout: float
) -> tuple[sqlite3.Connection, bool]:
    """A connection that cannot write, and whether it takes the file for unchanging."""
    raw = _connect(path, driver, key, "mode=ro", timeout=timeout)
    try:
        raw.execute("PRAGMA schema_version")
    except driver_errors() as error:
        raw.close()
        if not isinstance(error, driver.OperationalError):
            raise
        # A database in WAL mode needs a shared-memory file beside it, which a read-only disk cannot give. Who writes
        # has one, so without it nobody does; `Connection.refresh` sees when somebody begins.
        log = _log(path)
        if not log.exists() or not log.stat().st_size:
            return _connect(path, driver, key, "mode=ro&immutable=1", timeout=timeout), True
        if sys.platform == "win32" or path.with_name(path.name + "-shm").exists():
            raise
        # What a crashed process left in the log is part of the database. A connection that shares the file with nobody
        # keeps in its own memory what the shared-memory file would have; the locks it has to leave out.
        raw = _connect(path, driver, key, "mode=ro&vfs=unix-none", timeout=timeout)
        raw.execute("PRAGMA locking_mode = EXCLUSIVE")
        return raw, True
    return raw, False


def _check_before_writing(path: Path, driver: ModuleType, key: Key | None, *, timeout: float) -> None:
    """Refuse a file that is not ours through a connection that cannot write.

    One that can would fold a log that somebody left behind into the file, on closing it again.
    """
    raw, immutable = _connect_read_only(path, driver, key, timeout=timeout)
    probe = Connection(raw, driver, path, timeout=timeout, key=key, immutable=immutable)
    try:
        _check_owner(probe, path)
    finally:
        probe.close()


def _check_owner(connection: Connection, path: Path) -> None:
    # One snapshot: another process may be making the file between the two questions.
    with reading(connection):
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (n_tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application_id != APPLICATION_ID and (application_id or n_tables):
        raise StoreFormatError(
            f"{path} is a database of another program (application id {application_id:#x}, {n_tables} tables, "
            f"expected {APPLICATION_ID:#x}). It was left as it is; name another file."
        )


def _protect(raw: sqlite3.Connection) -> None:
    """What holds for a connection that only reads."""
    _harden(raw)
    raw.execute("PRAGMA query_only = ON")


def _harden(raw: sqlite3.Connection) -> None:
    # A stranger's schema must not run code of its own when we read it. `schema.check_objects` refuses what could; these
    # hold already while it looks, and for what it overlooks.
    raw.execute("PRAGMA trusted_schema = OFF")
    raw.execute("PRAGMA cell_size_check = ON")
    raw.create_function(INSTANT_FUNCTION, 1, microseconds_of, deterministic=True)
    # SQLCipher's driver has neither method; who has the key of a file is no stranger.
    if hasattr(raw, "setlimit"):
        raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, min(limits.VALUE_BYTES, 2**31 - 1))
    if sys.version_info >= (3, 12) and hasattr(raw, "setconfig"):
        # Nobody writes into the schema by its rows, not even SQL that got past everything else.
        raw.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
        raw.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_TRIGGER, False)
        raw.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_VIEW, False)


def _configure(connection: Connection, raw: sqlite3.Connection, *, new: bool, timeout: float, durability: str) -> None:
    _harden(raw)
    connection.execute("PRAGMA foreign_keys = ON")
    if new:
        connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
    _start_log(connection, timeout)
    connection.execute(f"PRAGMA synchronous = {DURABILITY[durability]}")
    # macOS: without these a sync reaches the drive's cache only. Elsewhere they mean nothing.
    connection.execute("PRAGMA fullfsync = ON")
    connection.execute("PRAGMA checkpoint_fullfsync = ON")
    # See Connection.checkpoint.
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES // 2}")


def _start_log(connection: Connection, timeout: float) -> None:
    """Switch to WAL. SQLite never waits for a lock here, though another process may be making the same file."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except driver_errors() as error:
            if error_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _remove_empty_log(path: Path) -> None:
    """Let SQLite remove a log without entries, if nobody else has the file open; only it can know that."""
    with suppress(OSError, sqlite3.Error), _PLAIN_FILES.kept():
        if _log(path).stat().st_size == 0 and os.access(path, os.W_OK):
            raw = _connect(path, sqlite3, None, "mode=rw", timeout=0.0)
            try:
                raw.execute("PRAGMA user_version").fetchone()
            finally:
                raw.close()


def _keep_for_ever(thing: object) -> None:
    """Keep an object from being collected, also when the interpreter ends."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
