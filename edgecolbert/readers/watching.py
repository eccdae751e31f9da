"""`edgecolbert index --watch`: what changes in folders is read at once, through watchfiles."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from edgecolbert.errors import InputError, MissingExtraError
from edgecolbert.readers.formats import JSON_LINES, format_of
from edgecolbert.readers.reading import Reading
from edgecolbert.readers.update import Totals, add_all, prune, stored_documents
from edgecolbert.readers.walk import IGNORE_FILES

if TYPE_CHECKING:
    from edgecolbert.index import Index
    from edgecolbert.sources import Source

# Milliseconds without a change after which those before are acted on, and after which that is done though more come.
_QUIET, _MOST = 300, 5_000


@dataclass
class Watcher:
    """Sees changes below folders.

    Attributes:
        changes: Sets of paths that changed, one after the other; an empty one from time to time.
    """

    changes: Iterator[set[str]]


@contextmanager
def watching(sources: list[Source]) -> Iterator[Watcher]:
    """Begin to watch; changes are collected from here on, so that none is lost while the folders are read.

    Args:
        sources: Folders.

    Yields:
        What sees the changes.

    Raises:
        InputError: If one of them is no folder.
        MissingExtraError: If watchfiles is not installed.
    """
    try:
        from watchfiles import watch
    except ImportError:
        raise MissingExtraError.of("--watch", "watchfiles", "readers") from None
    for source in sources:
        if source.path is None or not source.path.is_dir():
            raise InputError(
                f"--watch watches folders, and {source.path or 'standard input'} is none. Name its folder."
            )
    # Real paths, as events have them.
    roots = [str(source.root) for source in sources]
    events = watch(
        *roots,
        watch_filter=None,
        step=_QUIET,
        debounce=_MOST,
        rust_timeout=1_000,
        yield_on_timeout=True,
        ignore_permission_denied=True,
    )
    try:
        # Watching begins with the first round, which returns after a second at the latest.
        first = {path for _, path in next(events)}
    except (OSError, RuntimeError) as error:
        raise InputError(f"{', '.join(roots)} cannot be watched: {error}. Index without --watch instead.") from error
    try:
        yield Watcher(chain([first], ({path for _, path in event} for event in events)))
    finally:
        events.close()


def follow(
    index: Index,
    sources: list[Source],
    watcher: Watcher,
    *,
    batch_size: int,
    tell: Callable[[Totals, Reading], None],
) -> None:
    """Keep an index up to date with folders until one of them is gone, or the process is interrupted.

    Args:
        index: The index.
        sources: The folders that are watched.
        watcher: Sees the changes.
        batch_size: Most documents of a batch.
        tell: Called after each round of changes in a folder that did something, or met something.

    Raises:
        InputError: If a folder is gone.
    """
    for paths in watcher.changes:
        for source in sources:
            root = str(source.root)
            if not os.path.isdir(root):
                raise InputError(
                    f"{root} is gone, and is not watched any more. Nothing of it was removed from the index."
                )
            inside = {
                os.path.relpath(path, root).replace(os.sep, "/") for path in paths if _is_below(path, root, os.sep)
            }
            if not inside:
                continue
            totals, reading = _round(index, source, inside, batch_size)
            if totals.changed or reading.messages:
                tell(totals, reading)


def _round(index: Index, source: Source, changed: set[str], batch_size: int) -> tuple[Totals, Reading]:
    """Bring the changed files and folders up to date."""
    reading = Reading()
    root = str(source.root)
    # Which documents an ignore file or a file of many documents is about is known only when all was read.
    if any(_concerns_all(path) for path in changed):
        records = source.read(reading, known=stored_documents(index))
        totals = add_all(index, root, records, reading, batch_size=batch_size)
        totals.removed = prune(index, root, totals.ids, reading)
        return totals, reading
    starts = _outermost(changed)
    files = [file for start in starts for file in source.files(reading, start)]
    records = source.read_files(files, reading, known=stored_documents(index))
    totals = add_all(index, root, records, reading, batch_size=batch_size)
    there = {*totals.ids, *reading.kept}
    folder = os.path.abspath(str(source.path))
    paths = {os.path.normpath(os.path.join(folder, start)) for start in starts}
    gone = [
        identifier
        for identifier in index.ids()
        if identifier not in there
        and not starts.keys().isdisjoint(_prefixes(identifier))
        and not reading.is_present(identifier)
        and _is_from(index, identifier, root, paths)
    ]
    # Deleting nothing would be a change, too, and of a file that may lie in the folder.
    totals.removed = index.delete(gone) if gone else 0
    return totals, reading


def _outermost(paths: set[str]) -> dict[str, None]:
    """Paths without those that are below others of them, in order."""
    found: dict[str, None] = {}
    last = None
    for path in sorted(paths, key=lambda path: path.split("/")):
        if last is None or not _is_below(path, last, "/"):
            found[path] = None
            last = path
    return found


def _prefixes(identifier: str) -> Iterator[str]:
    """The paths that an id may be of or below: messages of a mailbox have "#" and more behind its path."""
    yield identifier
    for place, character in enumerate(identifier):
        if character in "/#":
            yield identifier[:place]


def _concerns_all(path: str) -> bool:
    name = path.rpartition("/")[2]
    found = format_of(name)
    return path == "." or name in IGNORE_FILES or (found is not None and found.name == JSON_LINES)


def _is_from(index: Index, identifier: str, root: str, paths: set[str]) -> bool:
    """Whether a document was read from one of these files, or from a file below one of these folders."""
    document = stored_documents(index)(identifier)
    if document is None:
        return False
    kept, path = document["metadata"].get("file"), document["metadata"].get("path")
    if not isinstance(kept, dict) or kept.get("root") != root or not isinstance(path, str):
        return False
    return any(parent in paths for parent in (path, *map(str, Path(path).parents)))


def _is_below(path: str, other: str, separator: str) -> bool:
    return path == other or path.startswith(other.rstrip(separator) + separator)
