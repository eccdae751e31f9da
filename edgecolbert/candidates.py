"""The first stage: the codes of all passages in memory, scanned by usearch.

SQLite is the truth. What is kept here is a copy of it that names the passages it holds, and is brought up to date
before each search whenever the database says that something changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgecolbert.errors import StoreFormatError
from edgecolbert.store import Store, code_crc

if TYPE_CHECKING:
    from edgecolbert.fde import FirstStage

FloatArray = npt.NDArray[np.float32]
Int8Array = npt.NDArray[np.int8]
IntArray = npt.NDArray[np.int64]

# How many times as many texts the scan finds as are wanted; recall at this width is near that of a perfect order.
_REFINE_WIDTH = 4


class CandidateScan:
    """Codes of one first stage, and which text each is of."""

    def __init__(self) -> None:
        self._generation = -1
        self._first_stage_id = 0
        self._passage_ids: IntArray = np.empty(0, dtype=np.int64)
        self._content_ids: IntArray = np.empty(0, dtype=np.int64)
        self._codes: Int8Array = np.empty((0, 0), dtype=np.int8)
        self._shown: npt.NDArray[np.bool_] = np.empty(0, dtype=np.bool_)

    def refresh(self, store: Store, encoding_id: int, first_stage_id: int, code_bytes: int) -> None:
        """Bring the codes up to date, reading only what is new.

        Args:
            store: The database, inside a snapshot.
            encoding_id: Which vectors.
            first_stage_id: Which first stage of them.
            code_bytes: Bytes of one of its codes.

        Raises:
            StoreFormatError: If a code is damaged or missing.
        """
        generation = store.generation
        if generation == self._generation and first_stage_id == self._first_stage_id:
            return
        if first_stage_id != self._first_stage_id:
            self._passage_ids, self._content_ids = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
            self._codes = np.empty((0, code_bytes), dtype=np.int8)
        present = np.array(store.code_passage_ids(first_stage_id), dtype=np.int64)
        if len(present) != store.count_passages(encoding_id):
            raise StoreFormatError(
                f"{store.path}: {store.count_passages(encoding_id)} passages have {len(present)} codes, so a search "
                "would miss some. The texts are unharmed: search with exact=True, or run "
                "`edgecolbert reencode --db FILE`."
            )
        # Passage numbers only grow and are never used twice, so what is new comes after all that is known.
        last = int(self._passage_ids[-1]) if len(self._passage_ids) else 0
        kept = np.isin(self._passage_ids, present, assume_unique=True)
        n_new = int((present > last).sum())
        if n_new or not kept.all():
            n_kept = int(kept.sum())
            codes = np.empty((n_kept + n_new, code_bytes), dtype=np.int8)
            codes[:n_kept] = self._codes[kept]
            contents = np.empty(n_kept + n_new, dtype=np.int64)
            contents[:n_kept] = self._content_ids[kept]
            for row, (passage_id, content_id, blob, checksum) in enumerate(
                store.code_rows(first_stage_id, after=last), start=n_kept
            ):
                expected = code_crc(passage_id, content_id, first_stage_id, blob)
                if len(blob) != code_bytes or expected != checksum:
                    raise StoreFormatError(
                        f"{store.path}: the stored code of passage {passage_id} is damaged. The texts are unharmed: "
                        "run `edgecolbert reencode --db FILE` to make the vectors again."
                    )
                codes[row] = np.frombuffer(blob, dtype=np.int8)
                contents[row] = content_id
            self._codes, self._content_ids, self._passage_ids = codes, contents, present
        # Texts that an unfinished `add` has stored belong to no document yet.
        self._shown = np.isin(self._content_ids, np.array(store.shown_content_ids(), dtype=np.int64))
        self._generation, self._first_stage_id = generation, first_stage_id

    def nearest_contents(
        self, stage: FirstStage, query: FloatArray, wanted: int, allowed: npt.NDArray[np.int64] | None
    ) -> IntArray:
        """The texts that the first stage puts forward, by their best passages.

        Args:
            stage: The first stage that the codes are of.
            query: float32 [n_query_tokens, dim].
            wanted: How many texts.
            allowed: Content numbers to choose from, or None for all that are here.

        Returns:
            At most `wanted` content numbers, best first.
        """
        eligible = self._shown if allowed is None else self._shown & np.isin(self._content_ids, allowed)
        codes, contents = self._codes, self._content_ids
        if not eligible.all():
            codes, contents = codes[eligible], contents[eligible]
        if not len(codes):
            return np.empty(0, dtype=np.int64)
        # What the scan orders roughly is ordered more finely by the same codes, where the encoding allows it.
        wide = wanted * _REFINE_WIDTH if stage.can_refine else wanted
        rows = _rows_of_contents(codes, contents, stage.query_code(query), wide)
        if stage.can_refine:
            rows = rows[np.argsort(-stage.refined_scores(query, codes[rows]), kind="stable")]
        return _first_of_each(contents[rows])[:wanted]


def _rows_of_contents(codes: Int8Array, contents: IntArray, code: Int8Array, wanted: int) -> IntArray:
    """Rows with the largest inner products, largest first: as many as it takes to have `wanted` different texts."""
    count = min(len(codes), wanted)
    while True:
        rows = _scan(codes, code, count)
        if count == len(codes) or len(np.unique(contents[rows])) >= wanted:
            return rows
        # Several passages of one text were found: look further until there are enough texts.
        count = min(len(codes), 2 * count)


def _first_of_each(numbers: IntArray) -> IntArray:
    """The different numbers in the order in which they first appear."""
    _, first = np.unique(numbers, return_index=True)
    ordered: IntArray = numbers[np.sort(first)]
    return ordered


def _scan(codes: Int8Array, code: Int8Array, count: int) -> IntArray:
    """Row numbers of the `count` largest inner products, largest first."""
    # Imported here: without a first stage to scan there is nothing to pay for.
    from usearch.index import MetricKind, search

    matches = search(codes, code, count, MetricKind.IP, exact=True)
    return np.asarray(matches.keys, dtype=np.int64).ravel()
