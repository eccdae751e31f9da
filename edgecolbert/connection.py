"""The one place that opens a database file, and the one way to read or write it.

Every connection of the library comes from `open_connection`, so that durability, safety settings and tests apply to
all of them alike.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from edgecolbert import drivers
from edgecolbert.drivers import DURABILITY, configure, connect, connect_read_only, harden, log_of, protect
from edgecolbert.encryption import Key, cipher_driver
from edgecolbert.errors import InputError, StoreFormatError
from edgecolbert.file_checks import check_path, check_process, unreadable_explained
from edgecolbert.open_files import INHERITED_FILES, OPEN, PLAIN_FILES, identity_of, inherited_error
from edgecolbert.sqlite_errors import error_code, translated_errors

# "ECol" in the file header says that a database is ours; `file` and other programs can see it.
APPLICATION_ID = 0x45436F6C

MEMORY = ":memory:"

# From so many times its usual length on one connection has to keep the others from writing while it folds the log in.
_LONG_LOG = 4
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
        self.identity = None if path is None else identity_of(path)
        self.encrypted = key is not None
        self.leaves_log = False
        OPEN.add(self)

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
        OPEN.discard(self)
        PLAIN_FILES.close_unneeded()
        if self.leaves_log and self._path is not None:
            self.leaves_log = False
            drivers.remove_empty_log(self._path)

    def refresh(self) -> None:
        """Open the file again if it was opened as one that nobody changes, and changed all the same."""
        if self._immutable and self._path is not None and _state(self._path) != self._state:
            self._state = _state(self._path)
            fresh, self._immutable = connect_read_only(self._path, self._driver, self._key, timeout=self._timeout)
            protect(fresh)
            self._raw.close()
            self._raw = fresh
            self.identity = identity_of(self._path)

    def checkpoint_if_due(self) -> None:
        """Fold the log into the file if it has become long; what was committed is safe either way."""
        if self._path is None:
            return
        try:
            log_bytes = log_of(self._path).stat().st_size
        except OSError:
            return
        if log_bytes >= drivers.LOG_BYTES:
            self.checkpoint(alone=log_bytes >= _LONG_LOG * drivers.LOG_BYTES)

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
                raw = connect(self._path, self._driver, self._key, "mode=rw", timeout=self._timeout)
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
            INHERITED_FILES.add(self.identity)


class _Inherited:
    """Stands for a connection that belongs to the parent process."""

    in_transaction = False

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def close(self) -> None:
        """Nothing: the parent's connection stays as it is."""

    def __getattr__(self, name: str) -> Any:
        raise inherited_error(self._path or MEMORY)


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
        configure(raw, new=True, timeout=timeout, durability=durability)
        return connection
    path = Path(path)
    new = check_path(path, create=create, read_only=read_only)
    check_process(path, encrypted=key is not None)
    driver = sqlite3 if key is None else cipher_driver()
    had_log = log_of(path).exists()
    with unreadable_explained(path, key), PLAIN_FILES.kept(), translated_errors(path):
        immutable = False
        if read_only:
            raw, immutable = connect_read_only(path, driver, key, timeout=timeout)
        else:
            if had_log and not new:
                _check_before_writing(path, driver, key, timeout=timeout)
            raw = connect(path, driver, key, "mode=rwc" if new else "mode=rw", timeout=timeout)
        connection = Connection(raw, driver, path, timeout=timeout, key=key, immutable=immutable)
        try:
            _check_owner(connection, path)
            # An empty log that a read-only connection made is removed by nobody else. With a passphrase it costs a
            # second derivation of the key, which is not worth it.
            connection.leaves_log = read_only and not had_log and not immutable and key is None
            if read_only:
                protect(raw)
            else:
                configure(raw, new=new, timeout=timeout, durability=durability)
        except BaseException:
            connection.close()
            raise
        # A file that was just made has its number only now.
        connection.identity = identity_of(path)
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
        raw = connect(Path(path), driver, key, "mode=rw", timeout=0.0)
        try:
            harden(raw)
        except BaseException:
            raw.close()
            raise
    return raw


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


def _check_before_writing(path: Path, driver: ModuleType, key: Key | None, *, timeout: float) -> None:
    """Refuse a file that is not ours through a connection that cannot write.

    One that can would fold a log that somebody left behind into the file, on closing it again.
    """
    raw, immutable = connect_read_only(path, driver, key, timeout=timeout)
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


def _state(path: Path) -> tuple[object, ...]:
    """What changes when somebody writes to a database."""
    return tuple(
        (found.st_ino, found.st_size, found.st_mtime_ns)
        for name in (path, log_of(path))
        if name.exists()
        for found in [name.stat()]
    )


def _keep_for_ever(thing: object) -> None:
    """Keep an object from being collected, also when the interpreter ends."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
