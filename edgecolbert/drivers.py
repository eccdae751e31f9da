"""Connections of the drivers, with the settings that all of them get: safe, in WAL mode, with a key or without."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any

from edgecolbert import limits
from edgecolbert.encryption import Key
from edgecolbert.instants import INSTANT_FUNCTION, microseconds_of
from edgecolbert.open_files import PLAIN_FILES
from edgecolbert.sqlite_errors import driver_errors, error_code

# Token embeddings are blobs of 5 to 25 KB, whose last page is half empty on average. On scifact a file has 1.072 times
# the bytes of its contents with pages of 4096, and 1.132 with 8192, which are read an eighth faster (100 passages: 1.41
# and 1.25 ms).
PAGE_SIZE = 4_096

# What a power cut can take: with "full" nothing that was acknowledged, with "normal" the last commits. Neither can
# leave a damaged file.
DURABILITY = {"full": "FULL", "normal": "NORMAL"}

# The log is folded into the file when it has so many bytes, as SQLite does by itself at 1,000 pages; the file of a log
# that was started again keeps half of them, so that its size tells how much of it is in use.
LOG_BYTES = 4 * 1024 * 1024


def connect(path: Path, driver: ModuleType, key: Key | None, options: str, *, timeout: float) -> sqlite3.Connection:
    """A connection of a driver, in autocommit mode, that has its key and nothing else yet."""
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


def connect_read_only(
    path: Path, driver: ModuleType, key: Key | None, *, timeout: float
) -> tuple[sqlite3.Connection, bool]:
    """A connection that cannot write, and whether it takes the file for unchanging."""
    raw = connect(path, driver, key, "mode=ro", timeout=timeout)
    try:
        raw.execute("PRAGMA schema_version")
    except driver_errors() as error:
        raw.close()
        if not isinstance(error, driver.OperationalError):
            raise
        # A database in WAL mode needs a shared-memory file beside it, which a read-only disk cannot give. Who writes
        # has one, so without it nobody does; `Connection.refresh` sees when somebody begins.
        log = log_of(path)
        if not log.exists() or not log.stat().st_size:
            return connect(path, driver, key, "mode=ro&immutable=1", timeout=timeout), True
        if sys.platform == "win32" or path.with_name(path.name + "-shm").exists():
            raise
        # What a crashed process left in the log is part of the database. A connection that shares the file with nobody
        # keeps in its own memory what the shared-memory file would have; the locks it has to leave out.
        raw = connect(path, driver, key, "mode=ro&vfs=unix-none", timeout=timeout)
        raw.execute("PRAGMA locking_mode = EXCLUSIVE")
        return raw, True
    return raw, False


def protect(raw: sqlite3.Connection) -> None:
    """What holds for a connection that only reads."""
    harden(raw)
    raw.execute("PRAGMA query_only = ON")


def harden(raw: sqlite3.Connection) -> None:
    """What holds for every connection."""
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


@contextmanager
def undefended(connection: Any) -> Iterator[None]:
    """Let the library itself write into FTS5's own tables, which SQLite's defensive mode forbids.

    Args:
        connection: A connection that writes.

    Yields:
        Nothing.
    """
    # As in `harden`.
    if sys.version_info >= (3, 12) and hasattr(connection, "setconfig"):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, False)
        try:
            yield
        finally:
            connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
    else:
        yield


def configure(raw: sqlite3.Connection, *, new: bool, timeout: float, durability: str) -> None:
    """What holds for a connection that writes."""
    harden(raw)
    raw.execute("PRAGMA foreign_keys = ON")
    if new:
        raw.execute(f"PRAGMA page_size = {PAGE_SIZE}")
    _start_log(raw, timeout)
    raw.execute(f"PRAGMA synchronous = {DURABILITY[durability]}")
    # macOS: without these a sync reaches the drive's cache only. Elsewhere they mean nothing.
    raw.execute("PRAGMA fullfsync = ON")
    raw.execute("PRAGMA checkpoint_fullfsync = ON")
    # See Connection.checkpoint.
    raw.execute("PRAGMA wal_autocheckpoint = 0")
    raw.execute(f"PRAGMA journal_size_limit = {LOG_BYTES // 2}")


def _start_log(raw: sqlite3.Connection, timeout: float) -> None:
    """Switch to WAL. SQLite never waits for a lock here, though another process may be making the same file."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            raw.execute("PRAGMA journal_mode = WAL")
            return
        except driver_errors() as error:
            if error_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def remove_empty_log(path: Path) -> None:
    """Let SQLite remove a log without entries, if nobody else has the file open; only it can know that."""
    with suppress(OSError, sqlite3.Error), PLAIN_FILES.kept():
        if log_of(path).stat().st_size == 0 and os.access(path, os.W_OK):
            raw = connect(path, sqlite3, None, "mode=rw", timeout=0.0)
            try:
                raw.execute("PRAGMA user_version").fetchone()
            finally:
                raw.close()


def log_of(path: Path) -> Path:
    """Where SQLite writes commits first."""
    return path.with_name(path.name + "-wal")
