"""New files that appear under their names only when they are whole, and never in the place of another.

They are written under a name that says so, NAME.unfinished-NUMBER, beside the place they will have, so that giving
them their name is one step of the file system. A process that is killed leaves such a file behind; it is named by the
next run, and never deleted, since nobody but its owner can know that it is not needed.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgecolbert.errors import StoreError, StoreNotFoundError, StoreWarning
from edgecolbert.open_files import read_plainly

_MARK = ".unfinished-"
# What SQLite puts beside a database while it is open.
_COMPANIONS = ("-wal", "-shm", "-journal")


@contextmanager
def new_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file that appears as a whole or not at all.

    Args:
        path: Where it is to appear.

    Yields:
        The name to write it under. When the block ends, it is put on the disk and gets its own name; when the block
        raises, it is removed.

    Raises:
        StoreError: If something is at `path` already, or the file cannot be written.
        StoreNotFoundError: If the folder does not exist.
    """
    target = Path(path)
    check_free(target)
    for left in leftovers(target):
        warnings.warn(
            f"{left} was left behind by an interrupted run. Delete it if no such run is under way.",
            StoreWarning,
            stacklevel=4,
        )
    temporary = target.with_name(f"{target.name}{_MARK}{os.getpid()}")
    try:
        # Reserved, so that two runs of one process do not meet.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise StoreError(f"{temporary} cannot be written: {error}.") from error
    try:
        yield temporary
        name_finished(temporary, target)
    finally:
        # Only what this call has made; after success there is nothing left.
        for companion in ("", *_COMPANIONS):
            with suppress(OSError):
                temporary.with_name(temporary.name + companion).unlink(missing_ok=True)


def check_free(target: Path) -> None:
    """Refuse a place that is taken, before any work is done for it.

    Args:
        target: Where a file is to appear.

    Raises:
        StoreError: If something is there.
        StoreNotFoundError: If its folder does not exist.
    """
    if os.path.lexists(target):
        raise StoreError(f"{target} exists already, and no file is replaced. Name another one.")
    if not target.absolute().parent.is_dir():
        raise StoreNotFoundError(f"The folder {target.absolute().parent} does not exist. Make it first.")


def leftovers(target: Path) -> list[Path]:
    """The unfinished files that runs for this place have left behind, or are writing now."""
    with suppress(OSError):
        names = sorted(entry.name for entry in os.scandir(target.absolute().parent))
        prefix = target.name + _MARK
        return [target.with_name(name) for name in names if name.startswith(prefix) and "-" not in name[len(prefix) :]]
    return []


def name_finished(temporary: Path, target: Path) -> None:
    """Put a whole file on the disk and give it its name.

    Args:
        temporary: The file, closed.
        target: Its name.

    Raises:
        StoreError: If the name was taken meanwhile, or a log is beside the file, without which it is not whole.
    """
    log = temporary.with_name(temporary.name + "-wal")
    if log.exists() and log.stat().st_size:
        raise StoreError(f"{temporary} still has a log beside it, which another process holds open. Try again.")
    try:
        _flush(temporary)
        _move_without_replacing(temporary, target)
    except FileExistsError:
        raise StoreError(f"{target} was made by somebody else meanwhile, and no file is replaced.") from None
    except OSError as error:
        raise StoreError(f"{temporary} cannot be named {target}: {error}.") from error
    _flush_folder(target.absolute().parent)


def _flush(path: Path) -> None:
    if os.name == "nt":
        # Windows flushes only what was opened for writing.
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        return
    # Not opened by hand: another thread may be loading into the same file.
    with read_plainly(path) as plain:
        os.fsync(plain.fileno())


def _move_without_replacing(temporary: Path, target: Path) -> None:
    if os.name == "nt":
        # There a rename never replaces a file.
        temporary.rename(target)
        return
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links: the name is reserved, and what is replaced is our own empty file.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        temporary.replace(target)
        return
    temporary.unlink()


def _flush_folder(folder: Path) -> None:
    """Put the new name on the disk, where folders can be flushed."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
