"""What is looked at before a database file is opened, and said of one that cannot be."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgecolbert.drivers import PAGE_SIZE
from edgecolbert.encryption import Key
from edgecolbert.errors import StoreError, StoreFormatError, StoreKeyError, StoreNotFoundError
from edgecolbert.open_files import INHERITED_FILES, OPEN, identity_of, inherited_error, read_plainly
from edgecolbert.sqlite_errors import error_code

_MAGIC = b"SQLite format 3\x00"
# Ends a rollback journal that names another journal; SQLite deletes that file, whatever it is, when it rolls back.
_SUPER_JOURNAL = bytes.fromhex("d9d505f920a163d7")
# SQLite's smallest page, so that no database is smaller.
_LEAST_PAGE = 512


def check_path(path: Path, *, create: bool, read_only: bool) -> bool:
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


def check_process(path: Path, *, encrypted: bool) -> None:
    """Refuse what SQLite cannot keep safe within one process."""
    identity = identity_of(path)
    if identity is None:
        return
    if identity in INHERITED_FILES:
        raise inherited_error(path)
    for other in list(OPEN):
        if other.identity == identity and other.encrypted != encrypted:
            # Two SQLite libraries in one process do not see each other's locks, and drop them.
            raise StoreKeyError(
                f"{path} is open in this process already, "
                + ("and is not encrypted. Leave the key out." if encrypted else "with a key. Pass the key here, too.")
            )


@contextmanager
def unreadable_explained(path: Path, key: Key | None) -> Iterator[None]:
    """Say what a file is in which SQLite finds no database, or which it cannot open."""
    try:
        yield
    except StoreError as error:
        code = error_code(error.__cause__)
        shared = any(other.identity == identity_of(path) for other in list(OPEN))
        if code not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN) or shared or not path.exists():
            raise
        try:
            with read_plainly(path) as file:
                head = file.read(PAGE_SIZE)
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
    return n_bytes % PAGE_SIZE == 0 and len(set(head)) > 240 and max(map(head.count, set(head))) < 64
