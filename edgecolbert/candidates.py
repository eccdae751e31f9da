"""The first stage at search time: which texts to score exactly.

SQLite is the truth. What is kept here between searches is a copy of parts of it that are never changed in place, named
by numbers that are never used twice, so it cannot be stale.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from edgecolbert.cell_lists import CellList, Segment, segment_scores
from edgecolbert.errors import StoreFormatError
from edgecolbert.store import LISTS_OF_A_SEGMENT, Store, StoredFirstStage

if TYPE_CHECKING:
    from edgecolbert.fde import FirstStage

FloatArray = npt.NDArray[np.float32]
Int8Array = npt.NDArray[np.int8]
IntArray = npt.NDArray[np.int64]

# Entries kept in memory between searches; what is not there is read again.
_MOST_LIST_BYTES = 32_000_000


class Candidates(Protocol):
    """A first stage that can be searched."""

    def nearest_contents(self, store: Store, query: FloatArray, wanted: int, allowed: IntArray | None) -> list[int]:
        """The texts that match a query best, by the first stage alone.

        Args:
            store: The database, inside a snapshot.
            query: float32 [n_query_tokens, dim].
            wanted: How many texts.
            allowed: Content numbers to choose from, or None for all that documents point to.

        Returns:
            At most `wanted` content numbers, best first.
        """
        ...


def candidates_of(found: StoredFirstStage) -> Candidates:
    """What searches a first stage.

    Args:
        found: The first stage, as a database has it.

    Returns:
        The object to keep for as long as the first stage serves.
    """
    return ListCandidates(found) if found.stage.cells is not None else MuveraCandidates(found)


class ListCandidates:
    """The fitted first stage: reads the lists of the cells that a query looks into.

    Args:
        found: The first stage.
    """

    def __init__(self, found: StoredFirstStage) -> None:
        self._number = found.number
        self._encoding_id = found.encoding_id
        self._encoding = found.stage.lists
        self._prepared = found.stage.prepared
        self._lists = _ListCache(found.stage)
        self._generation = -1
        self._segments: dict[int, IntArray] = {}
        self._tail: Segment | None = None
        self._tail_contents: IntArray = np.empty(0, dtype=np.int64)

    def nearest_contents(self, store: Store, query: FloatArray, wanted: int, allowed: IntArray | None) -> list[int]:
        """As `Candidates` says."""
        self._refresh(store)
        plan = self._encoding.plan(self._prepared(query))
        cells = np.unique(plan.cells).tolist()
        self._lists.load(store, list(self._segments), cells)
        scores = [
            segment_scores(len(contents), plan, self._lists.of_segment(segment_id))
            for segment_id, contents in self._segments.items()
        ]
        if self._tail is not None:
            scores.append(segment_scores(len(self._tail_contents), plan, self._tail.list_of))
        contents = [*self._segments.values(), self._tail_contents]
        everything = np.concatenate(scores) if scores else np.empty(0, dtype=np.float32)
        return best_contents(store, everything, np.concatenate(contents), wanted, allowed)

    def _refresh(self, store: Store) -> None:
        generation = store.generation
        if generation == self._generation:
            return
        segments = store.segments(self._number)
        n_codes = store.count_codes(self._number) + sum(segment.n_passages for segment in segments)
        check_complete(store, self._encoding_id, n_codes)
        present = [segment.segment_id for segment in segments]
        known = self._segments
        self._segments = {
            number: known[number] if number in known else store.segment_members(number)[1] for number in present
        }
        self._lists.forget(set(known) - set(present))
        codes = list(store.codes(self._number))
        self._tail_contents = np.array([code.content_id for code in codes], dtype=np.int64)
        entries = self._encoding.decode(code.code for code in codes)
        self._tail = Segment(entries, len(self._encoding.cells)) if codes else None
        self._generation = generation


class _ListCache:
    """Lists of segments, those that were used last."""

    def __init__(self, stage: FirstStage) -> None:
        self._num_subspaces = stage.lists.num_subspaces
        self._lists: OrderedDict[int, CellList | None] = OrderedDict()
        self._bytes = 0

    def load(self, store: Store, segment_ids: list[int], cells: list[int]) -> None:
        """Have the lists of some cells of some segments at hand, reading what is missing in one go."""
        wanted = [segment_id * LISTS_OF_A_SEGMENT + cell for segment_id in segment_ids for cell in cells]
        missing = []
        for list_id in wanted:
            if list_id in self._lists:
                self._lists.move_to_end(list_id)
            else:
                missing.append(list_id)
        if not missing:
            return
        # A cell without entries has no list in the database; that is remembered, too. Only once all are read: a damaged
        # list must not be taken for one without entries by the next search.
        found: dict[int, CellList | None] = dict.fromkeys(missing)
        for list_id, content in store.cell_lists(missing):
            found[list_id] = CellList.from_bytes(content, self._num_subspaces)
        self._lists.update(found)
        self._bytes += sum(_size(entries) for entries in found.values())
        needed = set(wanted)
        while self._bytes > _MOST_LIST_BYTES and next(iter(self._lists)) not in needed:
            self._drop(next(iter(self._lists)))

    def of_segment(self, segment_id: int) -> Callable[[int], CellList | None]:
        """What gives the loaded list of a cell."""
        first = segment_id * LISTS_OF_A_SEGMENT
        return lambda cell: self._lists[first + cell]

    def forget(self, segment_ids: set[int]) -> None:
        """Drop the lists of segments that are gone."""
        if segment_ids:
            for list_id in [number for number in self._lists if number // LISTS_OF_A_SEGMENT in segment_ids]:
                self._drop(list_id)

    def _drop(self, list_id: int) -> None:
        self._bytes -= _size(self._lists.pop(list_id))


def _size(entries: CellList | None) -> int:
    """Bytes of a list in memory."""
    return 0 if entries is None else entries.passages.nbytes + entries.codes.nbytes


class MuveraCandidates:
    """MUVERA's first stage: all codes in memory, scanned by usearch.

    Args:
        found: The first stage.
    """

    def __init__(self, found: StoredFirstStage) -> None:
        self._number = found.number
        self._encoding_id = found.encoding_id
        self._stage = found.stage
        self._generation = -1
        self._contents: IntArray = np.empty(0, dtype=np.int64)
        self._codes: Int8Array = np.empty((0, found.stage.muvera_bytes), dtype=np.int8)

    def nearest_contents(self, store: Store, query: FloatArray, wanted: int, allowed: IntArray | None) -> list[int]:
        """As `Candidates` says."""
        self._refresh(store)
        # Imported here: it costs a tenth of a cold search, and the default first stage does without it.
        from usearch.index import MetricKind, search

        codes, contents = self._codes, self._contents
        if allowed is not None:
            eligible = np.isin(contents, allowed)
            codes, contents = codes[eligible], contents[eligible]
        code = self._stage.muvera_query(query)

        def nearest(count: int) -> IntArray:
            matches = search(codes, code, count, MetricKind.IP, exact=True)
            return np.asarray(matches.keys, dtype=np.int64).ravel()

        return _shown_contents(store, nearest, contents, wanted)

    def _refresh(self, store: Store) -> None:
        generation = store.generation
        if generation == self._generation:
            return
        contents = np.empty(store.count_codes(self._number), dtype=np.int64)
        check_complete(store, self._encoding_id, len(contents))
        codes = np.empty((len(contents), self._codes.shape[1]), dtype=np.int8)
        for row, (passage_id, content_id, code) in enumerate(store.codes(self._number)):
            if len(code) != codes.shape[1]:
                raise StoreFormatError(
                    f"{store.path}: the code of passage {passage_id} has {len(code)} bytes, expected {codes.shape[1]}. "
                    "Run `edgecolbert tune --rebuild --db FILE` to make the first stage again."
                )
            codes[row], contents[row] = np.frombuffer(code, dtype=np.int8), content_id
        self._codes, self._contents, self._generation = codes, contents, generation


def check_complete(store: Store, encoding_id: int, n_codes: int) -> None:
    """Refuse a first stage that lost codes: a search would silently miss passages.

    Args:
        store: The database, inside a snapshot.
        encoding_id: Which vectors.
        n_codes: How many codes there are, those of deleted passages in segments included.

    Raises:
        StoreFormatError: If there are fewer than passages.
    """
    n_passages = store.count_passages(encoding_id)
    if n_codes < n_passages:
        raise StoreFormatError(
            f"{store.path}: {n_passages} passages have {n_codes} codes, so a search would miss some. The texts are "
            "unharmed: search with exact=True, and run `edgecolbert tune --rebuild --db FILE` to make the first stage "
            "again."
        )


def best_contents(
    store: Store, scores: FloatArray, contents: IntArray, wanted: int, allowed: IntArray | None
) -> list[int]:
    """The texts of the best passages.

    Args:
        store: The database, inside a snapshot.
        scores: float32 [n_passages].
        contents: int64 [n_passages], each passage's text.
        wanted: How many texts.
        allowed: Content numbers to choose from, or None for all that documents point to.

    Returns:
        At most `wanted` content numbers, best first.
    """
    if allowed is not None:
        eligible = np.isin(contents, allowed)
        scores, contents = scores[eligible], contents[eligible]

    def nearest(count: int) -> IntArray:
        rows = np.argpartition(-scores, count - 1)[:count] if count < len(scores) else np.arange(len(scores))
        ordered: IntArray = rows[np.lexsort((rows, -scores[rows]))]
        return ordered

    return _shown_contents(store, nearest, contents, wanted)


def _shown_contents(store: Store, nearest: Callable[[int], IntArray], contents: IntArray, wanted: int) -> list[int]:
    """Look as far down the ranking as it takes to have enough different texts that documents point to.

    Passages of one text share the ranking, and segments still hold what was deleted or is not shown yet.
    """
    count = min(len(contents), wanted)
    while count:
        _, first = np.unique(ranked := contents[nearest(count)], return_index=True)
        different = ranked[np.sort(first)].tolist()
        shown = store.shown_contents(different)
        found = [number for number in different if number in shown]
        if len(found) >= wanted or count == len(contents):
            return found[:wanted]
        count = min(len(contents), 4 * count)
    return []
