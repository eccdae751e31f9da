"""The first stage at search time: which texts to score exactly.

SQLite is the truth. What is kept here between searches is a copy of parts of it that are never changed in place, named
by numbers that are never used twice, so it cannot be stale.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from edgecolbert.cell_lists import CellList, Segment, joined_list, passage_scores
from edgecolbert.errors import StoreFormatError
from edgecolbert.largest import largest
from edgecolbert.segment_cells import LISTS_OF_A_SEGMENT
from edgecolbert.store import Store, StoredCode, StoredFirstStage

if TYPE_CHECKING:
    from edgecolbert.cell_lists import CellListEncoding

FloatArray = npt.NDArray[np.float32]
Int8Array = npt.NDArray[np.int8]
IntArray = npt.NDArray[np.int64]

# Entries kept in memory between searches; what is not there is read again.
_MOST_LIST_BYTES = 48_000_000
# What is left of a use of a list after each further search. With 200,000 documents and the queries of two collections,
# keeping the lists that were used most reads a fifth fewer of them again than keeping those that were used last.
_FADING = 0.98
_LARGEST_USE = 1e9


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
        self._generation = -1
        self._segments: dict[int, IntArray] = {}
        self._sealed_to: dict[int, int] = {}
        self._lists = _ListCache(self._encoding, {})
        self._tail: list[Callable[[int], CellList | None]] = []
        self._contents: IntArray = np.empty(0, dtype=np.int64)

    def nearest_contents(self, store: Store, query: FloatArray, wanted: int, allowed: IntArray | None) -> list[int]:
        """As `Candidates` says."""
        with store.decoding_first_stage():
            return self._nearest_contents(store, query, wanted, allowed)

    def _nearest_contents(self, store: Store, query: FloatArray, wanted: int, allowed: IntArray | None) -> list[int]:
        self._refresh(store)
        plan = self._encoding.plan(self._prepared(query))
        sealed = self._lists.load(store, np.unique(plan.cells).tolist())
        scores = passage_scores(len(self._contents), plan, [sealed.__getitem__, *self._tail])
        return best_contents(store, scores, self._contents, wanted, allowed)

    def _refresh(self, store: Store) -> None:
        generation = store.generation
        if generation == self._generation:
            return
        segments = store.segments(self._number)
        n_codes = store.count_codes(self._number) + sum(segment.n_passages for segment in segments)
        check_complete(store, self._encoding_id, n_codes)
        present = [segment.segment_id for segment in segments]
        if present != list(self._segments):
            for number in set(self._segments) - set(present):
                del self._sealed_to[number]
            known, self._segments = self._segments, {}
            for number in present:
                if number in known:
                    self._segments[number] = known[number]
                else:
                    passages, self._segments[number] = store.segment_members(number)
                    self._sealed_to[number] = int(passages.max(initial=0))
            starts = accumulate(map(len, self._segments.values()), initial=0)
            # A new segment comes once in a thousand passages, so the lists are then read again, not mended.
            self._lists = _ListCache(self._encoding, dict(zip(self._segments, starts, strict=False)))
        codes = list(store.codes(self._number))
        self._check_tail(store, codes)
        entries = self._encoding.decode(code.code for code in codes)
        n_sealed = sum(map(len, self._segments.values()))
        # Lists of the tail are cut out when first wanted, and kept until the next change.
        self._tail = [cache(Segment(entries, len(self._encoding.cells), n_sealed).list_of)] if codes else []
        tail_contents = np.array([code.content_id for code in codes], dtype=np.int64)
        self._contents = np.concatenate([*self._segments.values(), tail_contents])
        self._generation = generation

    def _check_tail(self, store: Store, codes: list[StoredCode]) -> None:
        """Refuse codes that lost some: segments still count what was deleted, so a total alone would not tell."""
        # Codes are put into segments in the order of their passages.
        sealed_to = max(self._sealed_to.values(), default=0)
        check_complete(store, self._encoding_id, sum(code.passage_id > sealed_to for code in codes), after=sealed_to)


class _ListCache:
    """The lists of cells over some segments, joined; those that were used most of late.

    Args:
        encoding: The encoding, whose cells they are.
        segments: For each segment the row of its first passage, in the order of the segments.
    """

    def __init__(self, encoding: CellListEncoding, segments: dict[int, int]) -> None:
        self._num_subspaces = encoding.num_subspaces
        self._segments = segments
        self._lists: dict[int, CellList | None] = {}
        self._bytes = np.zeros(len(encoding.cells), dtype=np.int64)
        self._uses = np.zeros(len(encoding.cells), dtype=np.float64)
        # What one use counts now. It grows instead of earlier ones shrinking to numbers that processors are slow with.
        self._use = 1.0

    def load(self, store: Store, cells: list[int]) -> dict[int, CellList | None]:
        """The lists of some cells, None where a cell has no entries; what is missing is read in one go."""
        missing = [cell for cell in cells if cell not in self._lists]
        if missing:
            self._read(store, missing)
        self._use /= _FADING
        if self._use > _LARGEST_USE:
            self._uses /= self._use
            self._use = 1.0
        self._uses[cells] += self._use
        wanted = {cell: self._lists[cell] for cell in cells}
        if missing:
            self._make_room()
        return wanted

    def _read(self, store: Store, cells: list[int]) -> None:
        parts: dict[int, list[tuple[int, bytes]]] = {cell: [] for cell in cells}
        numbers = [segment_id * LISTS_OF_A_SEGMENT + cell for segment_id in self._segments for cell in cells]
        for list_id, content in store.cell_lists(numbers):
            segment_id, cell = divmod(list_id, LISTS_OF_A_SEGMENT)
            parts[cell].append((self._segments[segment_id], content))
        # A cell without entries has no list in the database; that is remembered, too. Only once all are read: a damaged
        # list must not be taken for one without entries by the next search.
        for cell, found in parts.items():
            entries = joined_list(found, self._num_subspaces) if found else None
            self._lists[cell] = entries
            self._bytes[cell] = 0 if entries is None else entries.passages.nbytes + entries.codes.nbytes

    def _make_room(self) -> None:
        """Drop the lists that were used least."""
        excess = int(self._bytes.sum()) - _MOST_LIST_BYTES
        if excess > 0:
            held = np.flatnonzero(self._bytes)
            held = held[np.argsort(self._uses[held], kind="stable")]
            n_dropped = int(np.searchsorted(np.cumsum(self._bytes[held]), excess)) + 1
            for cell in held[:n_dropped].tolist():
                del self._lists[cell]
                self._bytes[cell] = 0


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
                    "Run `edgecolbert repair --db FILE` or `edgecolbert tune --rebuild --db FILE` to make the first "
                    "stage again."
                )
            codes[row], contents[row] = np.frombuffer(code, dtype=np.int8), content_id
        self._codes, self._contents, self._generation = codes, contents, generation


def check_complete(store: Store, encoding_id: int, n_codes: int, after: int = 0) -> None:
    """Refuse a first stage that lost codes: a search would silently miss passages.

    Args:
        store: The database, inside a snapshot.
        encoding_id: Which vectors.
        n_codes: How many codes there are, those of deleted passages in segments included.
        after: Of passages with larger numbers than this.

    Raises:
        StoreFormatError: If there are fewer than passages.
    """
    store.check_stage_tables()
    n_passages = store.count_passages(encoding_id, after)
    if n_codes < n_passages:
        which = "passages" if after == 0 else "passages in no segment"
        raise StoreFormatError(
            f"{store.path}: {n_passages} {which} have {n_codes} codes, so a search would miss some. The texts are "
            "unharmed: search with exact=True, and run `edgecolbert repair --db FILE` or `edgecolbert tune --rebuild "
            "--db FILE` to make the first stage again."
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
        found: IntArray = largest(scores[None], count)[0]
        return found

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
