"""The database that is served: one open index for all requests, opened again when the file became another."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

from edgecolbert.encoder import TokenEncoder
from edgecolbert.encryption import Key, KeySource
from edgecolbert.errors import StoreClosedError, StoreMismatchError
from edgecolbert.index import Index
from edgecolbert.pinning import Model
from edgecolbert.serve.remembering import RememberingEncoder

T = TypeVar("T")


class ServedIndex(Index):
    """An index whose model remembers what it was just asked. Open it as any other."""

    _remembering: RememberingEncoder | None = None

    def _model(self) -> TokenEncoder:
        inner = super()._model()
        if self._remembering is None:
            # Two threads may each make one at the beginning; the first is then forgotten.
            self._remembering = RememberingEncoder(inner)
        return self._remembering


@dataclass
class _Opened:
    """An open index, and how many requests use it now."""

    index: ServedIndex
    file: tuple[int, int] | None
    users: int = 0
    retired: bool = False


class Database:
    """A database file for many requests at once, only to be read.

    What other processes write is seen by the next request. Where the file was re-encoded with another model, or another
    file was put in its place, it is opened again; requests that run go on with the one they have.

    Args:
        path: The database file.
        model: As `Index.open` takes it.
        key: As `Index.open` takes it.

    Raises:
        StoreError: If the file cannot be used.
        ModelError: If the model cannot be used.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, model: Model = None, key: KeySource | Key | None = None
    ) -> None:
        self.path = os.fspath(path)
        self._model, self._key = model, Key.of(key)
        self._lock = threading.Lock()
        self._closed = False
        self._opened = self._open()

    def ask(self, work: Callable[[Index], T]) -> T:
        """What some work gives that reads the index.

        Args:
            work: Called with the index; a second time where the file was re-encoded since it was opened.

        Returns:
            What it returned.

        Raises:
            StoreClosedError: If this was closed.
        """
        with self._using() as opened:
            try:
                return work(opened.index)
            except StoreMismatchError:
                pass
        self._renew(opened)
        with self._using() as opened:
            return work(opened.index)

    def close(self) -> None:
        """Close the file, as soon as nobody reads it any more."""
        with self._lock:
            self._closed = True
            self._retire(self._opened)

    def _open(self) -> _Opened:
        # Before opening: a file that is put in place in between is then noticed by the next request.
        file = _identity(self.path)
        index = ServedIndex.open(self.path, model=self._model, create=False, read_only=True, key=self._key)
        # `open` gives what it is called on, though its type says less.
        return _Opened(cast(ServedIndex, index), file)

    @contextmanager
    def _using(self) -> Iterator[_Opened]:
        file = _identity(self.path)
        if file is not None and file != self._opened.file:
            self._renew(self._opened)
        with self._lock:
            if self._closed:
                raise StoreClosedError(f"{self.path} is no longer served. Start the server again.")
            opened = self._opened
            opened.users += 1
        try:
            yield opened
        finally:
            with self._lock:
                opened.users -= 1
                self._close_unused(opened)

    def _renew(self, seen: _Opened) -> None:
        """Open the file again, unless another request has done so since this one looked."""
        with self._lock:
            if self._closed or self._opened is not seen:
                return
            self._opened = self._open()
            self._retire(seen)

    def _retire(self, opened: _Opened) -> None:
        opened.retired = True
        self._close_unused(opened)

    def _close_unused(self, opened: _Opened) -> None:
        if opened.retired and opened.users == 0:
            opened.index.close()


def _identity(path: str) -> tuple[int, int] | None:
    """Which file is at a path; None where there is none, which leaves the one that is open."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
