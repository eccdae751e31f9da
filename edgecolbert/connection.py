"""The one place that opens a database file, and the one way to read or write it.

Every connection of the library comes from `open_connection`, so that durability, safety settings and tests apply to
all of them alike.
"""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgecolbert import limits
from edgecolbert.errors import (
    StoreClosedError,
    StoreError,
    StoreFormatError,
    StoreLockedError,
    StoreNotFoundError,
    StoreReadOnlyError,
)

# "ECol" in the file header says that a database is ours; `file` and other programs can see it.
APPLICATION_ID = 0x45436F6C

_MAGIC = b"SQLite format 3\x00"
# Ends a rollback journal that names another journal; SQLite deletes that file, whatever it is, when it rolls back.
_SUPER_JOURNAL = bytes.fromhex("d9d505f920a163d7")
# Token embeddings are blobs of 5 to 25 KB, whose last page is half empty on average. On scifact a file has 1.072 times
# the bytes of its contents with pages of 4096, and 1.132 with 8192, which are read an eighth faster (100 passages: 1.41
# and 1.25 ms).
_PAGE_SIZE = 4_096
MEMORY = ":memory:"


def open_connection(path: str | Path, *, create: bool, read_only: bool, timeout: float = 10.0) -> sqlite3.Connection:
    """Open an edgecolbert database file, or a new one.

    Nothing is written to a file that is not ours: a foreign or newer database is refused and left untouched.

    Args:
        path: The file, or ":memory:" for a database that is gone when closed.
        create: Make the file if it does not exist.
        read_only: Open without the right to write, also on a read-only disk.
        timeout: Seconds to wait for another process's write lock.

    Returns:
        A connection in autocommit mode that may be used from any thread, one at a time.

    Raises:
        StoreNotFoundError: If there is no file and none may be created.
        StoreFormatError: If the file is not an edgecolbert database.
        StoreReadOnlyError: If the file cannot be written and `read_only` is false.
        StoreError: If the file cannot be opened for another reason.
    """
    if str(path) == MEMORY:
        connection = sqlite3.connect(MEMORY, timeout=timeout, isolation_level=None, check_same_thread=False)
        _configure(connection, read_only=False, new=True, timeout=timeout)
        return connection
    path = Path(path)
    new = _check_file(path, create=create, read_only=read_only)
    with translated_errors(path):
        connection = _connect(path, new=new, read_only=read_only, timeout=timeout)
        try:
            _check_owner(connection, path)
            _configure(connection, read_only=read_only, new=new, timeout=timeout)
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def reading(connection: sqlite3.Connection) -> Iterator[None]:
    """One snapshot: everything read inside belongs to the same moment.

    Args:
        connection: A connection without an open transaction.

    Yields:
        Nothing.
    """
    try:
        # Inside, because Ctrl-C may come as soon as it has begun, and must not leave it open.
        connection.execute("BEGIN")
        yield
    finally:
        if connection.in_transaction:
            connection.execute("COMMIT")


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """One atomic change: committed as a whole on leaving, rolled back as a whole on any exception.

    It takes the write lock at once. A transaction that reads first and asks for the lock later can be refused without
    waiting, however long the time-out is.

    Args:
        connection: A connection without an open transaction.

    Yields:
        Nothing.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


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
    except sqlite3.Error as error:
        if isinstance(error, sqlite3.ProgrammingError) and "closed database" in str(error):
            raise StoreClosedError(f"{path} was closed while it was in use. Open it again with Index.open.") from error
        # The extended code is absent from errors that Python's module raises by itself.
        code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreLockedError(
                f"{path} is being written by another process, which held the lock for longer than the time-out. "
                "Wait until it is done, and try again."
            ) from error
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            raise StoreReadOnlyError(
                f"{path} cannot be written ({error}). Open it with read_only=True, or make the file and its folder "
                "writable."
            ) from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise StoreFormatError(
                f"{path} is damaged or not a database ({error}). Nothing was changed. Restore it from a backup, or "
                "run `edgecolbert verify --db FILE` to see what can still be read."
            ) from error
        if code == sqlite3.SQLITE_FULL:
            raise StoreError(
                f"{path}: the disk is full ({error}). Nothing of this change was stored; what was acknowledged before "
                "is safe. Free some space and try again."
            ) from error
        raise StoreError(f"{path}: SQLite says: {error}.") from error


def _check_file(path: Path, *, create: bool, read_only: bool) -> bool:
    """Whether the file is still to be made; refuse what is no database before SQLite touches it."""
    if path.is_dir():
        raise StoreFormatError(f"{path} is a folder, expected a database file. Name a file inside it.")
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
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
    _check_journal(path)
    if head and head != _MAGIC:
        raise StoreFormatError(f"{path} is not an edgecolbert database, nor any SQLite file. It was left as it is.")
    if not head and (read_only or not create):
        raise StoreFormatError(f"{path} is empty, expected an edgecolbert database. Index something into it first.")
    return not head


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


def _connect(path: Path, *, new: bool, read_only: bool, timeout: float) -> sqlite3.Connection:
    uri = path.absolute().as_uri()
    mode = "ro" if read_only else "rwc" if new else "rw"

    def connect(options: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{uri}?{options}", uri=True, timeout=timeout, isolation_level=None, check_same_thread=False
        )

    connection = connect(f"mode={mode}")
    if not read_only:
        return connection
    try:
        connection.execute("PRAGMA schema_version")
        return connection
    except sqlite3.DatabaseError as error:
        connection.close()
        if not isinstance(error, sqlite3.OperationalError):
            raise
        # A database in WAL mode needs a shared-memory file beside it, which a read-only disk cannot give. Without a
        # log nothing can be missed, and on such a disk nobody writes.
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size:
            raise
        return connect("mode=ro&immutable=1")


def _check_owner(connection: sqlite3.Connection, path: Path) -> None:
    # One snapshot: another process may be making the file between the two questions.
    with reading(connection):
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (n_tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application_id != APPLICATION_ID and (application_id or n_tables):
        raise StoreFormatError(
            f"{path} is a database of another program (application id {application_id:#x}, {n_tables} tables, "
            f"expected {APPLICATION_ID:#x}). It was left as it is; name another file."
        )


def _configure(connection: sqlite3.Connection, *, read_only: bool, new: bool, timeout: float) -> None:
    # A stranger's schema must not run code of its own when we read it. `schema.check_objects` refuses what could; these
    # hold already while it looks, and for what it overlooks.
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, min(limits.VALUE_BYTES, 2**31 - 1))
    if sys.version_info >= (3, 12):
        # Nobody writes into the schema by its rows, not even SQL that got past everything else.
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_TRIGGER, False)
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_VIEW, False)
    connection.execute("PRAGMA foreign_keys = ON")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
        return
    if new:
        connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
    _start_log(connection, timeout)
    # With NORMAL a power cut can lose commits that were acknowledged.
    connection.execute("PRAGMA synchronous = FULL")


def _start_log(connection: sqlite3.Connection, timeout: float) -> None:
    """Switch to WAL. SQLite never waits for a lock here, though another process may be making the same file."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.02)
