"""The database files that this process has open, so that neither a fork nor reading one by hand harms them."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from edgecolbert.errors import StoreError

if TYPE_CHECKING:
    from edgecolbert.connection import Connection

# Connections of this process, and the files of those that belong to the process it was forked from.
OPEN: weakref.WeakSet[Connection] = weakref.WeakSet()
INHERITED_FILES: set[tuple[int, int]] = set()


def identity_of(path: Path) -> tuple[int, int] | None:
    """What the system tells files apart by, however they are named."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def inherited_error(path: str | Path) -> StoreError:
    """The error of whoever uses what the parent process had open."""
    return StoreError(
        f"{path} was open when this process was forked. SQLite's connections and locks do not survive a fork, so it "
        "cannot be used here, nor opened again. Close it before the fork and open it in each process, open it only "
        "after the fork, or start processes with the method 'spawn'."
    )


class _PlainFiles:
    """Descriptors of `read_plainly`, which are closed only when no connection of this process has their file open."""

    def __init__(self) -> None:
        # Reentrant: a handler of a signal may close an index.
        self._lock = threading.RLock()
        # Those that nobody reads from, by file.
        self._idle: dict[tuple[int, int], list[int]] = {}
        # Connections that are being opened: each may hold locks already, though it is not in `OPEN` yet.
        self._opening = 0

    def take(self, path: str | Path) -> tuple[int, tuple[int, int]]:
        """A descriptor of a file, and what the file is told apart by."""
        identity = identity_of(Path(path))
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
            in_use = {connection.identity for connection in list(OPEN)}
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


PLAIN_FILES = _PlainFiles()


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
    descriptor, identity = PLAIN_FILES.take(path)
    try:
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            file.seek(0)
            yield file
    finally:
        PLAIN_FILES.give_back(descriptor, identity)


def _disown_all() -> None:
    PLAIN_FILES.renew()
    for connection in list(OPEN):
        connection.disown()
    OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)
