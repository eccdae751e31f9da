"""`AsyncIndex`: an index for programs that run on asyncio. Its calls run in threads (docs/integrations/asyncio.md)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from edgecolbert.errors import InputError, InputTypeError, StoreClosedError
from edgecolbert.index import Index, Progress
from edgecolbert.results import AddReport, Facets, Hit, IndexStats, Passage, VerifyReport

if TYPE_CHECKING:
    import os

    from edgecolbert.documents import Document
    from edgecolbert.explanation import Explanation
    from edgecolbert.filters import Filter
    from edgecolbert.fusion import Fusion
    from edgecolbert.highlighting import Snippet

T = TypeVar("T")

# Documents that `AsyncIndex.documents` fetches at a time.
_FETCHED = 64


class AsyncIndex:
    """An `Index` whose calls are coroutines. Open it with `AsyncIndex.open`, best as `async with`.

    A call runs in a thread, so the event loop goes on meanwhile. Calls that only read run at the same time; calls that
    change the file run one after the other, in the order in which they were made. A read gives up at once when it is
    cancelled, and what its thread still finds is thrown away. A change is told to stop when it is cancelled, and
    `CancelledError` comes only when it has stopped: then it is there as a whole or not at all, and nothing goes on
    behind your back.

    Args:
        index: An open index, which belongs to this object from now on.
        threads: Reads that run at the same time; more of them wait.

    Raises:
        InputError: If `threads` is less than one.
    """

    def __init__(self, index: Index, *, threads: int = 4) -> None:
        self._index = index
        self._readers = ThreadPoolExecutor(_threads(threads), thread_name_prefix="edgecolbert-read")
        # One thread, so that changes come in the order in which they were asked for, and searches always find a thread.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="edgecolbert-write")

    @classmethod
    async def open(cls, path: str | os.PathLike[str], *, threads: int = 4, **options: Any) -> AsyncIndex:
        """Open a database file, or make one.

        Args:
            path: The file; ":memory:" for an index that is gone when closed.
            threads: Reads that run at the same time.
            **options: As in `Index.open`, which refuses names that it does not know.

        Returns:
            The index; close it, or use it as an async context manager.

        Raises:
            EdgeColbertError: As `Index.open`.
        """
        _threads(threads)
        pool = ThreadPoolExecutor(1, thread_name_prefix="edgecolbert-open")
        opening = _submitted(pool, partial(Index.open, path, **options))
        pool.shutdown(wait=False)
        try:
            index = await _result(opening)
        except asyncio.CancelledError:
            # It will have been opened for nobody.
            opening.add_done_callback(_close_unwanted)
            raise
        return cls(index, threads=threads)

    @property
    def index(self) -> Index:
        """The index itself, for what has no coroutine here; see `run`."""
        return self._index

    async def run(self, function: Callable[[Index], T]) -> T:
        """Call any function with the index, in a thread: `await index.run(lambda index: index.compact())`.

        Args:
            function: Called with the index. A cancelled call waits until it has returned.

        Returns:
            What it returned.
        """
        return await self._change(partial(function, self._index))

    async def search(
        self,
        query: str,
        *,
        k: int = 10,
        n_candidates: int | None = None,
        min_recall: float | None = None,
        exact: bool = False,
        filter: Mapping[Any, Any] | Filter | None = None,  # noqa: A002 - the field's word
        mode: Literal["late", "lexical", "hybrid"] = "late",
        fusion: Fusion | Literal["weighted", "rrf"] | None = None,
        group: Literal["document", "passage"] = "document",
        passages_per_document: int = 1,
    ) -> list[Hit]:
        """`Index.search`; the arguments and errors are the same."""
        return await self._read(
            partial(
                self._index.search,
                query,
                k=k,
                n_candidates=n_candidates,
                min_recall=min_recall,
                exact=exact,
                filter=filter,
                mode=mode,
                fusion=fusion,
                group=group,
                passages_per_document=passages_per_document,
            )
        )

    async def search_many(
        self,
        queries: Sequence[str],
        *,
        k: int = 10,
        n_candidates: int | None = None,
        min_recall: float | None = None,
        exact: bool = False,
        filter: Mapping[Any, Any] | Filter | None = None,  # noqa: A002 - the field's word
        mode: Literal["late", "lexical", "hybrid"] = "late",
        fusion: Fusion | Literal["weighted", "rrf"] | None = None,
        group: Literal["document", "passage"] = "document",
        passages_per_document: int = 1,
    ) -> list[list[Hit]]:
        """`Index.search_many`; the arguments and errors are the same."""
        return await self._read(
            partial(
                self._index.search_many,
                queries,
                k=k,
                n_candidates=n_candidates,
                min_recall=min_recall,
                exact=exact,
                filter=filter,
                mode=mode,
                fusion=fusion,
                group=group,
                passages_per_document=passages_per_document,
            )
        )

    async def explain(self, query: str, hit: Hit | str) -> Explanation:
        """`Index.explain`; the arguments and errors are the same."""
        return await self._read(partial(self._index.explain, query, hit))

    async def snippet(self, hit: Hit, max_chars: int = 200) -> Snippet:
        """`Hit.snippet` of something that a search of this index found; the arguments and errors are the same."""
        return await self._read(partial(hit.snippet, max_chars))

    async def neighbours(self, hit: Hit, *, before: int = 1, after: int = 1) -> list[Passage]:
        """`Index.neighbours`; the arguments and errors are the same."""
        return await self._read(partial(self._index.neighbours, hit, before=before, after=after))

    async def get(self, id: str) -> Document | None:  # noqa: A002 - the record's own word
        """`Index.get`; the arguments and errors are the same."""
        return await self._read(partial(self._index.get, id))

    async def ids(self, *, filter: Mapping[Any, Any] | Filter | None = None) -> list[str]:  # noqa: A002 - the field's word
        """`Index.ids`; the arguments and errors are the same."""
        return await self._read(partial(self._index.ids, filter=filter))

    async def count(self, *, filter: Mapping[Any, Any] | Filter | None = None) -> int:  # noqa: A002 - the field's word
        """`Index.count`; the arguments and errors are the same."""
        return await self._read(partial(self._index.count, filter=filter))

    async def facets(
        self,
        field: str | Sequence[str],
        *,
        filter: Mapping[Any, Any] | Filter | None = None,  # noqa: A002 - the field's word
        k: int = 20,
    ) -> Facets:
        """`Index.facets`; the arguments and errors are the same."""
        return await self._read(partial(self._index.facets, field, filter=filter, k=k))

    async def stats(self) -> IndexStats:
        """`Index.stats`."""
        return await self._read(self._index.stats)

    async def verify(self, *, full: bool = True) -> VerifyReport:
        """`Index.verify`; the arguments and errors are the same."""
        return await self._read(partial(self._index.verify, full=full))

    async def documents(
        self,
        *,
        filter: Mapping[Any, Any] | Filter | None = None,  # noqa: A002 - the field's word
    ) -> AsyncIterator[Document]:
        """Go through the documents, in the order they were first added: `async for document in index.documents()`.

        Which documents there are is settled when it begins. One that is deleted before its turn is passed over, and one
        that is changed comes as it is then.

        Args:
            filter: Which documents, as in `search`; all by default.

        Yields:
            The documents. Only a few are in memory at a time.
        """
        ids = await self.ids(filter=filter)
        for start in range(0, len(ids), _FETCHED):
            wanted = ids[start : start + _FETCHED]
            for document in await self._read(partial(_fetch, self._index, wanted)):
                yield document

    def __aiter__(self) -> AsyncIterator[Document]:
        """All documents, as `documents` gives them."""
        return self.documents()

    async def add(
        self,
        documents: Iterable[str | Mapping[str, Any]] | AsyncIterable[str | Mapping[str, Any]],
        *,
        progress: Progress | None = None,
        batch_size: int = 64,
    ) -> AddReport:
        """`Index.add`, which also takes an async iterable.

        A list is added as a whole or not at all, also when the call is cancelled. Of any other iterable a batch is, and
        those before it stay. A call that was cancelled in the very moment in which its documents were stored has added
        them; adding them again does no harm, and costs no encoding.

        Args:
            documents: As in `Index.add`, or an async iterable of the same. What is not async is read in a thread.
            progress: As in `Index.add`; called in a thread.
            batch_size: As in `Index.add`.

        Returns:
            What was done.

        Raises:
            EdgeColbertError: As `Index.add`.
        """
        return await self.add_from(None, documents, progress=progress, batch_size=batch_size)

    async def add_from(
        self,
        source: str | None,
        documents: Iterable[str | Mapping[str, Any]] | AsyncIterable[str | Mapping[str, Any]],
        *,
        progress: Progress | None = None,
        batch_size: int = 64,
    ) -> AddReport:
        """Like `add`, and remember where the documents come from, as `Index.add_from` does.

        Args:
            source: Any name for the place.
            documents: As in `add`.
            progress: As in `add`.
            batch_size: As in `add`.

        Returns:
            What was done.

        Raises:
            InputError: If `batch_size` is less than one.
        """
        if not isinstance(documents, AsyncIterable):
            return await self._add(source, documents, progress, batch_size)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"batch_size is {batch_size!r}, expected a whole number of at least 1.")
        reports: list[AddReport] = []
        batch: list[str | Mapping[str, Any]] = []

        async def store() -> None:
            before = sum(len(report.ids) for report in reports)

            def tell(done: int, _: int | None) -> bool | None:
                return None if progress is None else progress(before + done, None)

            reports.append(await self._add(source, list(batch), tell, batch_size))
            batch.clear()

        async for document in documents:
            batch.append(document)
            if len(batch) == batch_size:
                await store()
        if batch or not reports:
            await store()
        return AddReport.joined(reports)

    async def prune(self, source: str, keep: Iterable[str]) -> int:
        """`Index.prune`; the arguments and errors are the same."""
        return await self._change(partial(self._index.prune, source, keep))

    async def delete(self, ids: Iterable[str]) -> int:
        """`Index.delete`; the arguments and errors are the same."""
        return await self._change(partial(self._index.delete, ids))

    async def delete_where(self, filter: Mapping[Any, Any] | Filter) -> int:  # noqa: A002 - the field's word
        """`Index.delete_where`; the arguments and errors are the same."""
        return await self._change(partial(self._index.delete_where, filter))

    async def compact(self) -> int:
        """`Index.compact`."""
        return await self._change(self._index.compact)

    async def backup(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> int:
        """`Index.backup`; one that is cancelled leaves nothing, unless the copy was whole by then."""
        return await self._stoppable(partial(self._index.backup, path), progress)

    async def close(self) -> None:
        """Wait for the calls that are running, refuse those that wait, and close the file. Twice does no harm."""
        # In a thread of its own, because the others end here; and never cut short, or the file would be closed at a
        # moment that nobody knows.
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="edgecolbert-close")
        closing = asyncio.wrap_future(pool.submit(self._close))
        pool.shutdown(wait=False)
        try:
            await asyncio.wait([closing])
        except asyncio.CancelledError:
            await _until_done(closing)
            raise
        closing.result()

    def _close(self) -> None:
        for pool in (self._readers, self._writer):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (self._readers, self._writer):
            pool.shutdown(wait=True)
        self._index.close()

    async def __aenter__(self) -> AsyncIndex:
        """The index itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        await self.close()

    async def _read(self, function: Callable[[], T]) -> T:
        return await _result(_submitted(self._readers, function))

    async def _change(self, function: Callable[[], T]) -> T:
        return await _result(_submitted(self._writer, function), wait=True)

    async def _stoppable(self, function: Callable[..., T], progress: Progress | None) -> T:
        """A change that asks `progress` after each step whether to go on."""
        stop = threading.Event()

        def tell(done: int, total: int | None) -> bool | None:
            if stop.is_set():
                return False
            return None if progress is None else progress(done, total)

        return await _result(_submitted(self._writer, partial(function, progress=tell)), wait=True, stop=stop)

    async def _add(
        self,
        source: str | None,
        documents: Iterable[str | Mapping[str, Any]],
        progress: Progress | None,
        batch_size: int,
    ) -> AddReport:
        adding = partial(self._index.add_from, source, documents, batch_size=batch_size)
        return await self._stoppable(adding, progress)


def _threads(threads: object) -> int:
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise InputTypeError(f"threads is {threads!r}, expected a whole number.")
    if threads < 1:
        raise InputError(f"threads is {threads}, expected at least 1.")
    return threads


def _submitted(pool: ThreadPoolExecutor, function: Callable[[], T]) -> Future[T]:
    try:
        # As asyncio.to_thread does it: the caller's context variables hold in the thread, too.
        return pool.submit(copy_context().run, function)
    except RuntimeError as error:
        raise _closed() from error


async def _result(future: Future[T], *, wait: bool = False, stop: threading.Event | None = None) -> T:
    """What a thread gives.

    When it is cancelled, a call that did not begin yet never does, and of one that did the end is waited for or not.
    """
    waiter = asyncio.wrap_future(future)
    try:
        # Not `await waiter`: that would cancel it, and with it the way to know when the thread is done.
        await asyncio.wait([waiter])
    except asyncio.CancelledError:
        if stop is not None:
            stop.set()
        if wait and not future.cancel():
            await _until_done(waiter)
        waiter.cancel()
        raise
    if waiter.cancelled():
        # Only `close` cancels what nobody else did.
        raise _closed()
    return waiter.result()


async def _until_done(waiter: asyncio.Future[Any]) -> None:
    """Wait, whoever asks again to stop; the caller raises when it is done."""
    while not waiter.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([waiter])
    if not waiter.cancelled():
        waiter.exception()  # seen, or asyncio would complain that nobody did


def _closed() -> StoreClosedError:
    return StoreClosedError("The index was closed. Open it again with AsyncIndex.open.")


def _close_unwanted(opening: Future[Index]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _fetch(index: Index, ids: Sequence[str]) -> list[Document]:
    found = (index.get(identifier) for identifier in ids)
    return [document for document in found if document is not None]
