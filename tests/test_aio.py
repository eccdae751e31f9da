"""`AsyncIndex`: the answers of `Index`, an event loop that goes on, and cancellation that leaves nothing half done."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from word_encoder import WordEncoder

from edgecolbert import AddReport, AsyncIndex, CancelledError, Index, InputError
from edgecolbert.errors import InputTypeError, StoreClosedError, StoreNotFoundError

TEXTS = [f"Note {number} is about {word}." for number, word in enumerate(["tea", "bins", "ferns", "taps"] * 40)]
# How long a thread is waited for that must come; and a time in which one that must not could have come.
LONG, SHORT = 30.0, 0.05


class GatedEncoder(WordEncoder):
    """Stops at the gate before it encodes, if one is closed, and says that it got there."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.documents = threading.Event(), threading.Event()
        self.queries.set()
        self.documents.set()
        self.at_gate = threading.Event()

    def encode_queries(self, queries: list[str]) -> list[np.ndarray]:
        self._pass(self.queries)
        return super().encode_queries(queries)

    def encode_documents(self, documents: list[str]) -> list[np.ndarray]:
        self._pass(self.documents)
        return super().encode_documents(documents)

    def _pass(self, gate: threading.Event) -> None:
        if not gate.is_set():
            self.at_gate.set()
            assert gate.wait(LONG)


@pytest.fixture
def gated() -> Iterator[GatedEncoder]:
    encoder = GatedEncoder()
    yield encoder
    encoder.queries.set()
    encoder.documents.set()


async def arrived(event: threading.Event) -> None:
    """Wait for a thread without stopping the event loop."""
    deadline = time.monotonic() + LONG
    while not event.is_set():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def test_the_same_calls_give_the_same_answers_as_an_index(path: Path) -> None:
    records = [{"id": str(number), "text": text, "metadata": {"n": number}} for number, text in enumerate(TEXTS)]
    with Index.open(":memory:") as index:
        index.add(records)

        async def compare() -> None:
            async with await AsyncIndex.open(path) as other:
                report = await other.add(records)
                assert (report.added, report.ids) == (len(TEXTS), [record["id"] for record in records])
                for mode in ("late", "lexical", "hybrid"):
                    found = await other.search("about ferns", k=3, filter={"n": {"lt": 20}}, mode=mode)  # type: ignore[arg-type]
                    assert found == index.search("about ferns", k=3, filter={"n": {"lt": 20}}, mode=mode)  # type: ignore[arg-type]
                many = await other.search_many(["tea", "taps"], k=2)
                assert many == index.search_many(["tea", "taps"], k=2)
                hit = many[0][0]
                assert (await other.explain("tea", hit)).matches == index.explain("tea", hit.id).matches
                assert (await other.snippet(hit)).marked() == index.search("tea", k=1)[0].snippet().marked()
                assert await other.get("7") == await other.run(lambda index: index.get("7"))
                assert await other.get("nobody") is None
                assert await other.facets("n", k=2) == index.facets("n", k=2)
                assert await other.ids(filter={"n": {"lt": 3}}) == ["0", "1", "2"]
                assert (await other.stats()).documents == index.stats().documents
                assert (await other.verify()).problems == ()
                assert await other.delete(["0", "1"]) == 2
                assert await other.delete_where({"n": {"lt": 4}}) == 2
                assert await other.count() == len(TEXTS) - 4
                await other.add_from("here", [{"id": "x", "text": "An x."}])
                assert await other.prune("here", []) == 1
                assert await other.backup(path.with_name("copy.db")) > 0
                assert await other.compact() >= 0

        asyncio.run(compare())
    with Index.open(path.with_name("copy.db")) as copy:
        assert len(copy) == len(TEXTS) - 4


def test_passages_and_what_is_around_them(path: Path) -> None:
    text = "\n\n".join(f"Paragraph {n} is about tea number {n}." for n in range(12))

    async def read() -> None:
        async with await AsyncIndex.open(path, passages={"max_tokens": 12}) as index:
            await index.add([{"id": "teas", "text": text}])
            hits = await index.search("tea number 5", group="passage", k=3)
            assert hits == index.index.search("tea number 5", group="passage", k=3)
            around = await index.neighbours(hits[0], before=1, after=1)
            assert around == index.index.neighbours(hits[0], before=1, after=1)
            assert hits[0].passage in around
            assert len(around) > 1

    asyncio.run(read())


def test_every_call_takes_what_the_call_of_an_index_takes() -> None:
    own = {"close", "documents", "index", "open", "run", "snippet"}
    names = {name for name in vars(AsyncIndex) if not name.startswith("_")} - own
    assert {"add", "delete", "get", "search", "search_many"} <= names
    for name in names:
        theirs = inspect.signature(getattr(Index, name)).parameters
        ours = inspect.signature(getattr(AsyncIndex, name)).parameters
        assert [(p.name, p.kind, p.default) for p in ours.values()] == [
            (p.name, p.kind, p.default) for p in theirs.values()
        ], name
        assert inspect.iscoroutinefunction(getattr(AsyncIndex, name)), name


def test_the_event_loop_goes_on_while_a_call_runs(path: Path, gated: GatedEncoder) -> None:
    async def talk() -> None:
        async with await AsyncIndex.open(path, model=gated) as index:
            gated.documents.clear()
            adding = asyncio.create_task(index.add(TEXTS[:3]))
            await arrived(gated.at_gate)
            assert await index.search("tea") == []  # a read goes on beside the change, too
            gated.documents.set()
            assert (await adding).added == 3

    asyncio.run(talk())


def test_reads_run_at_the_same_time_as_many_as_there_are_threads(path: Path) -> None:
    class MeetingEncoder(WordEncoder):
        meeting = threading.Barrier(3, timeout=LONG)

        def encode_queries(self, queries: list[str]) -> list[np.ndarray]:
            self.meeting.wait()  # passes only when three searches are in here
            return super().encode_queries(queries)

    async def talk() -> None:
        async with await AsyncIndex.open(path, model=MeetingEncoder(), threads=3) as index:
            await index.add(TEXTS[:4])
            found = await asyncio.gather(*(index.search("tea", k=1) for _ in range(6)))
            assert {hits[0].text for hits in found} == {TEXTS[0]}

    asyncio.run(talk())


def test_a_cancelled_add_of_a_list_has_stopped_and_added_nothing(path: Path, gated: GatedEncoder) -> None:
    async def talk() -> None:
        async with await AsyncIndex.open(path, model=gated) as index:
            gated.documents.clear()
            adding = asyncio.create_task(index.add(TEXTS))
            await arrived(gated.at_gate)
            adding.cancel()
            await asyncio.sleep(SHORT)
            adding.cancel()  # asking twice changes nothing
            await asyncio.sleep(SHORT)
            assert not adding.done()  # its thread still runs
            gated.documents.set()
            with pytest.raises(asyncio.CancelledError):
                await adding
            encoded = len(gated.encoded)
            assert 0 < encoded < len(TEXTS)
            assert await index.count() == 0
            await asyncio.sleep(SHORT)
            assert len(gated.encoded) == encoded
            assert (await index.add(TEXTS)).added == len(TEXTS)
            assert await index.count() == len(TEXTS)

    asyncio.run(talk())


def test_a_cancelled_add_is_whole_or_not_at_all_whenever_it_comes(tmp_path: Path, encoder: WordEncoder) -> None:
    outcomes = set()

    async def talk(step: int) -> None:
        async with await AsyncIndex.open(tmp_path / f"{step}.db", model=encoder) as index:
            loop = asyncio.get_running_loop()
            steps = 0

            def progress(done: int, total: int | None) -> None:
                nonlocal steps
                steps += 1
                if steps == step:
                    loop.call_soon_threadsafe(adding.cancel)

            adding = asyncio.create_task(index.add(TEXTS, progress=progress))
            # A few more moments, around the commit and after it.
            if step > 4:
                loop.call_later(0.004 * step, adding.cancel)
            try:
                await adding
                cancelled = False
            except asyncio.CancelledError:
                cancelled = True
            there = await index.count()
            assert there in (0, len(TEXTS))
            assert cancelled or there
            assert (await index.verify()).problems == ()
            outcomes.add(cancelled)

    for step in range(1, 13):
        asyncio.run(talk(step))
    assert True in outcomes


def test_a_cancelled_change_that_waits_for_another_never_runs(path: Path, gated: GatedEncoder) -> None:
    async def talk() -> None:
        async with await AsyncIndex.open(path, model=gated) as index:
            await index.add([{"id": "a", "text": "tea"}])
            gated.documents.clear()
            first = asyncio.create_task(index.add(["bins"]))
            await arrived(gated.at_gate)
            second = asyncio.create_task(index.delete(["a"]))
            await asyncio.sleep(SHORT)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second  # at once, though the first still runs
            assert not first.done()
            gated.documents.set()
            assert (await first).added == 1
            assert await index.count() == 2

    asyncio.run(talk())


def test_changes_come_in_the_order_in_which_they_were_asked_for(path: Path, encoder: WordEncoder) -> None:
    async def talk() -> None:
        async with await AsyncIndex.open(path, model=encoder) as index:
            await asyncio.gather(*(index.add([{"id": "a", "text": f"version {number}"}]) for number in range(20)))
            document = await index.get("a")
            assert document is not None
            assert document.text == "version 19"

    asyncio.run(talk())


def test_a_cancelled_search_gives_up_at_once_and_the_next_one_is_answered(path: Path, gated: GatedEncoder) -> None:
    async def talk() -> None:
        async with await AsyncIndex.open(path, model=gated, threads=2) as index:
            await index.add(TEXTS[:4])
            gated.queries.clear()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(SHORT):
                    await index.search("tea")
            gated.queries.set()
            assert (await index.search("bins", k=1))[0].text == TEXTS[1]

    asyncio.run(talk())


def test_close_waits_for_what_runs_and_refuses_what_waits(path: Path, gated: GatedEncoder) -> None:
    async def talk() -> None:
        index = await AsyncIndex.open(path, model=gated, threads=1)
        await index.add(TEXTS[:4])
        gated.queries.clear()
        running = asyncio.create_task(index.search("tea", k=1))
        await arrived(gated.at_gate)
        waiting = asyncio.create_task(index.search("bins"))
        await asyncio.sleep(0)
        closing = asyncio.create_task(index.close())
        await asyncio.sleep(SHORT)
        closing.cancel()  # close is never cut short
        await asyncio.sleep(SHORT)
        assert not closing.done()
        with pytest.raises(StoreClosedError, match=r"AsyncIndex\.open"):
            await waiting
        gated.queries.set()
        assert (await running)[0].text == TEXTS[0]
        with pytest.raises(asyncio.CancelledError):
            await closing
        await index.close()
        for call in (index.search("tea"), index.add(["tea"]), index.count()):
            with pytest.raises(StoreClosedError):
                await call

    asyncio.run(talk())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_an_async_iterable_is_added_batch_by_batch(path: Path, encoder: WordEncoder) -> None:
    told: list[tuple[int, int | None]] = []

    async def source(index: AsyncIndex) -> AsyncIterator[str]:
        for number, text in enumerate(TEXTS[:10]):
            if number in (4, 8):
                assert await index.count() in (number, 10)  # what came before is stored
            yield text

    async def talk() -> None:
        async with await AsyncIndex.open(path, model=encoder) as index:
            report = await index.add(
                source(index), batch_size=4, progress=lambda done, total: told.append((done, total))
            )
            assert (report.added, report.encoded, len(report.ids)) == (10, 10, 10)
            assert await index.count() == 10
            assert await index.add(source(index), batch_size=100) == AddReport(report.ids, 0, 0, 10, 0)

            async def nothing() -> AsyncIterator[str]:
                return
                yield ""

            assert await index.add(nothing()) == AddReport([], 0, 0, 0, 0)
            with pytest.raises(InputError, match="batch_size is 0"):
                await index.add(nothing(), batch_size=0)
            # One that is not async is read in a thread.
            reader: list[int] = []
            assert (await index.add(reader.append(threading.get_ident()) or text for text in TEXTS)).added == 150
            assert threading.get_ident() not in reader

    asyncio.run(talk())
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {4, 8, 10} <= {done for done, _ in told}
    assert {total for _, total in told} == {None}


def test_a_cancelled_add_of_an_async_iterable_keeps_whole_batches(path: Path, encoder: WordEncoder) -> None:
    async def talk() -> None:
        async with await AsyncIndex.open(path, model=encoder) as index:
            reached = asyncio.Event()

            async def source() -> AsyncIterator[str]:
                for text in TEXTS[:7]:
                    yield text
                reached.set()
                await asyncio.sleep(LONG)
                yield TEXTS[7]

            adding = asyncio.create_task(index.add(source(), batch_size=3))
            await reached.wait()
            adding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await adding
            assert await index.count() == 6

    asyncio.run(talk())


def test_progress_that_says_no_stops_an_add_and_an_async_one(path: Path, encoder: WordEncoder) -> None:
    async def talk() -> None:
        async with await AsyncIndex.open(path, model=encoder) as index:
            with pytest.raises(CancelledError):
                await index.add(TEXTS, progress=lambda done, total: False)
            assert await index.count() == 0

            async def source() -> AsyncIterator[str]:
                for text in TEXTS:
                    yield text

            with pytest.raises(CancelledError):
                await index.add(source(), batch_size=10, progress=lambda done, total: done < 30)
            assert await index.count() == 20

    asyncio.run(talk())


def test_a_cancelled_backup_is_whole_or_not_there(path: Path, encoder: WordEncoder) -> None:
    async def talk() -> None:
        async with await AsyncIndex.open(path, model=encoder) as index:
            await index.add(TEXTS)
            loop, calls = asyncio.get_running_loop(), 0

            def progress(done: int, total: int | None) -> None:
                nonlocal calls
                calls += 1
                if calls == 1:
                    loop.call_soon_threadsafe(copying.cancel)
                    time.sleep(SHORT)

            copying = asyncio.create_task(index.backup(path.with_name("copy.db"), progress=progress))
            with pytest.raises(asyncio.CancelledError):
                await copying

    asyncio.run(talk())
    left = {file.name for file in path.parent.iterdir()}
    assert left <= {path.name, "copy.db"}
    if len(left) == 2:  # of a file this small one step may be the whole copy
        with Index.open(path.with_name("copy.db")) as copy:
            assert len(copy) == len(TEXTS)


def test_going_through_the_documents(path: Path, encoder: WordEncoder) -> None:
    async def talk() -> None:
        async with await AsyncIndex.open(path, model=encoder) as index:
            await index.add(
                [{"id": str(number), "text": text, "metadata": {"n": number}} for number, text in enumerate(TEXTS)]
            )
            assert [document.text async for document in index] == TEXTS
            few = [document.id async for document in index.documents(filter={"n": {"gte": 150}})]
            assert few == [str(number) for number in range(150, 160)]
            seen = []
            async for document in index.documents():
                if not seen:
                    await index.delete(["100", "101"])
                seen.append(document.id)
            assert seen == [str(number) for number in range(160) if number not in (100, 101)]

    asyncio.run(talk())


def test_a_cancelled_open_leaves_no_open_file(path: Path) -> None:
    class SlowEncoder(WordEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.asked, self.answer = threading.Event(), threading.Event()

        @property
        def name(self) -> str:
            self.asked.set()
            assert self.answer.wait(LONG)
            return "slow"

        @name.setter
        def name(self, value: str) -> None: ...

    encoder = SlowEncoder()

    async def talk() -> None:
        opening = asyncio.create_task(AsyncIndex.open(path, model=encoder))
        await arrived(encoder.asked)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    asyncio.run(talk())
    encoder.answer.set()
    deadline = time.monotonic() + LONG
    while not path.exists() or len(list(path.parent.iterdir())) > 1:
        assert time.monotonic() < deadline, "the log of an open index is still there"
        time.sleep(0.01)


def test_errors_are_those_of_an_index(path: Path, encoder: WordEncoder) -> None:
    async def talk() -> None:
        with pytest.raises(StoreNotFoundError):
            await AsyncIndex.open(path, create=False)
        with pytest.raises(InputError, match="threads is 0"):
            await AsyncIndex.open(path, threads=0)
        with pytest.raises(InputTypeError, match="threads is 'two'"):
            await AsyncIndex.open(path, threads="two")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="read_olny"):
            await AsyncIndex.open(path, read_olny=True)
        async with await AsyncIndex.open(path, model=encoder) as index:
            with pytest.raises(InputError, match="k is 0"):
                await index.search("tea", k=0)
            with pytest.raises(InputError, match="text"):
                await index.add([{"id": "a"}])

    asyncio.run(talk())
    assert not path.with_name("index.db-wal").exists()


def test_context_variables_hold_in_the_threads(path: Path, encoder: WordEncoder) -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user")
    seen: list[Any] = []

    async def talk() -> None:
        async with await AsyncIndex.open(path, model=encoder) as index:
            user.set("someone")
            await index.add(["tea"], progress=lambda done, total: seen.append(user.get()))

    asyncio.run(talk())
    assert set(seen) == {"someone"}
