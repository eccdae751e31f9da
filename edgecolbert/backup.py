"""A copy of a database while others write to it: one file, of one moment, checked before it gets its name."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from edgecolbert.connection import MEMORY
from edgecolbert.errors import CancelledError, InputError, StoreFormatError
from edgecolbert.sqlite_errors import translated_errors
from edgecolbert.store import Store
from edgecolbert.unfinished import new_file

Progress = Callable[[int, int | None], bool | None]

_COUNTED = ("documents", "contents", "passages", "codes", "segments", "cell_lists")


def back_up(store: Store, path: str | os.PathLike[str], progress: Progress | None = None) -> int:
    """Copy a database.

    Args:
        store: The database; other processes may write to it meanwhile, which the copy does not see.
        path: Where the copy is to appear, when it is whole.
        progress: Called as `progress(bytes done, bytes in all)`; returning False stops.

    Returns:
        The size of the copy in bytes.

    Raises:
        StoreError: If there is a file at `path` already, or the copy cannot be written.
        StoreFormatError: If the copy is not sound, because what was copied is not.
        CancelledError: If `progress` returned False; nothing is left of the copy.
    """
    if str(path) == MEMORY:
        raise InputError(f"A copy needs a file, not {MEMORY!r}.")
    with new_file(path) as temporary, translated_errors(os.fspath(path)), closing(store.open_copy(temporary)) as target:
        with store.snapshot():
            wanted = store.counts(_COUNTED)
            page_bytes = store.page_bytes

            def tell(_: int, remaining: int, total: int) -> None:
                if progress is not None and progress((total - remaining) * page_bytes, total * page_bytes) is False:
                    raise CancelledError(f"Copying to {path} was cancelled; nothing is left of the copy.")

            # What fails here is the writing: pages are copied as they are.
            with translated_errors(os.fspath(path)):
                store.copy_to(target, tell)
        _check(target, wanted, store)
    return Path(path).stat().st_size


def _check(target: sqlite3.Connection, wanted: dict[str, int], store: Store) -> None:
    """Refuse a copy that is not sound; bytes inside a text or a vector are for `verify` to check, in either file."""
    found = [row[0] for row in target.execute("PRAGMA quick_check")]
    counts = {table: target.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in wanted}
    if found == ["ok"] and counts == wanted:
        return
    what = found[0] if found != ["ok"] else f"it has {counts}, expected {wanted}"
    remedy = "restore it from an older copy" if store.encrypted else "run `edgecolbert repair --db FILE --out NEW`"
    raise StoreFormatError(
        f"The copy of {store.path} is not sound ({what}), so it was not kept: the database itself is damaged; {remedy}."
    )
