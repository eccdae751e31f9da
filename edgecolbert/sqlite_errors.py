"""SQLite's errors as ours, whichever driver raised them."""

from __future__ import annotations

import json
import sqlite3
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgecolbert.errors import StoreClosedError, StoreError, StoreFormatError, StoreLockedError, StoreReadOnlyError
from edgecolbert.locks import write_lock_holder


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
