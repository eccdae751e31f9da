"""Keeping the first stage of an index: when it is fitted, to what, and how its codes are made and sealed.

A new first stage is built beside the one that serves, a bounded part with every write, from stored token embeddings;
when it has a code for every passage it takes over in one commit. While none serves, a search scores all passages.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgecolbert.cell_lists import CellList, Segment, merged_list
from edgecolbert.drift import Drift, error_of
from edgecolbert.encoder import Encoder, TokenEncoder
from edgecolbert.errors import ModelError, ModelWarning, StoreFormatError, StoreLockedError
from edgecolbert.fde import FdeSettings, FirstStage
from edgecolbert.store import PinnedEncoding, Store, StoredFirstStage, StoredPassage

FloatArray = npt.NDArray[np.float32]

# Below this many passages scoring all of them is as fast as two stages, and the cells would be most of the file.
FIRST_STAGE_FROM = 512
# A first stage is fitted to the index again each time the index has grown by this factor, until it has seen enough.
_REFIT_GROWTH = 4
_FITTED_ENOUGH = 8_192
# What `fitted_on` says of a first stage that came with the model: it is replaced once by one fitted to the index.
_SHIPPED = _FITTED_ENOUGH // _REFIT_GROWTH
# Cells move little beyond this many tokens (docs/first-stage.md).
_FIT_TOKENS = 200_000
# One passage in so many is not fitted to where all could be, and most passages of which the cells' error is measured.
_HELD_OUT = 8
_CHECKED = 512
# Of new passages one in so many: looking at each would make coding them a seventh slower.
_LOOKED_AT = 4

# Passages encoded in one transaction while a first stage is built, and how many of the old ones for each new one.
_BUILD_STEP = 512
_BUILD_RATE = 4

# Codes are sealed into a segment when there are this many, and segments of a level are merged when there are so many.
_SEALED = 1_024
_MERGED = 4


class _Fit(NamedTuple):
    """A first stage that is to be built, on how many passages it was fitted, and its error on some others."""

    stage: FirstStage
    fitted_on: int
    drift: Drift | None


class Upkeep:
    """The first stage of one encoding of a database.

    Args:
        store: The database.
        lock: Held while the database is used; not while fitting.
        pinned: The encoding.
        encoder: The model, whose own first stage is used where it has one.
    """

    def __init__(
        self, store: Store, lock: threading.RLock, pinned: PinnedEncoding, encoder: TokenEncoder | None
    ) -> None:
        self._store = store
        self._lock = lock
        self._pinned = pinned
        self._encoder = encoder
        self._serving: StoredFirstStage | None = None

    def add_codes(self, passages: Sequence[StoredPassage]) -> None:
        """Make codes for new passages, inside the change that stores them, so that they can be found at once.

        Args:
            passages: Passages with their numbers.
        """
        number = self._store.first_stage_number(self._pinned.encoding_id)
        if number is None:
            return
        if self._serving is None or self._serving.number != number:
            self._serving = self._store.first_stage(self._pinned.encoding_id)
        if self._serving is not None:
            self._add_codes(self._serving, passages)

    def after_write(self, n_new: int) -> None:
        """Fit a first stage where it is time for one, and build a part of it.

        Args:
            n_new: Passages that were written; the more, the larger the part.
        """
        try:
            fit = self._wanted()
            if fit is not None:
                self._begin(fit)
            self._build(_BUILD_STEP + _BUILD_RATE * n_new)
        except StoreLockedError:
            # What was to be written is written. Whoever has the lock, or the next write, goes on with this.
            return

    def rebuild(self, settings: FdeSettings | None = None) -> None:
        """Fit the first stage to the index as it is now, and build all of it.

        Args:
            settings: Which encoding; None for that of the first stage that serves, or else the pinned or default one.
        """
        with self._lock, self._store.snapshot():
            n_passages = self._store.count_passages(self._pinned.encoding_id)
            try:
                serving = self._store.first_stage(self._pinned.encoding_id)
            except StoreFormatError:
                # Damaged: what it was fitted to is all that is lost.
                serving = None
        if n_passages == 0:
            return
        start = self._shipped() if serving is None else serving.stage
        wanted = settings or (serving.stage.settings if serving is not None else self._settings())
        self._begin(self._fitted(wanted, start))
        self._build(None)
        with self._lock, self._store.change():
            self._store.drop_lists(self._store.lists_without_segment())

    def seal(self) -> None:
        """Put what can be put into segments there, and drop entries of deleted passages; inside a change."""
        number = self._store.first_stage_number(self._pinned.encoding_id)
        stage = None if number is None else self._store.first_stage(self._pinned.encoding_id)
        if stage is None or stage.stage.cells is None:
            return
        self._seal(stage)
        for segment in self._store.segments(stage.number):
            members, _ = self._store.segment_members(segment.segment_id)
            if len(self._store.present_passages(members)) < len(members):
                self._replace(stage, [segment.segment_id], segment.level)

    def _wanted(self) -> _Fit | None:
        """A newly fitted first stage, where it is time for one."""
        encoding_id = self._pinned.encoding_id
        with self._lock, self._store.snapshot():
            n_passages = self._store.count_passages(encoding_id)
            if n_passages < FIRST_STAGE_FROM or self._store.first_stage_number(encoding_id, "building") is not None:
                return None
            # Nearly every write ends here, so the cells are not read before.
            if not self._is_due(n_passages):
                return None
            serving = self._store.first_stage(encoding_id)
            numbers = self._store.passage_numbers(encoding_id)
        if serving is None:
            shipped = self._shipped()
            if shipped is not None:
                return _Fit(shipped, _SHIPPED, self._checked(shipped, numbers, numbers[-1]))
        start = None if serving is None else serving.stage
        return self._fitted(self._settings() if start is None else start.settings, start)

    def _is_due(self, n_passages: int) -> bool:
        """Whether no first stage serves, or one that was fitted to much less, or to something else."""
        encoding_id = self._pinned.encoding_id
        fitted_on = self._store.fitted_on(encoding_id)
        if fitted_on is None or (fitted_on < _FITTED_ENOUGH and n_passages >= _REFIT_GROWTH * fitted_on):
            return True
        number = self._store.first_stage_number(encoding_id)
        drift = None if number is None else Drift.from_json(self._store.drift(number))
        return drift is not None and drift.is_clear(n_passages)

    def _settings(self) -> FdeSettings:
        wanted = self._pinned.settings["fde"]
        return FdeSettings() if wanted is None else FdeSettings.from_json(wanted)

    def _shipped(self) -> FirstStage | None:
        if self._pinned.settings["fde"] is not None or not isinstance(self._encoder, Encoder):
            return None
        try:
            return FirstStage.from_manifest(self._encoder.manifest)
        except ModelError as error:
            # What was to be added is stored by now, and only a head start is lost.
            warnings.warn(f"{error} The index fits a first stage of its own instead.", ModelWarning, stacklevel=2)
            return None

    def _fitted(self, settings: FdeSettings, start: FirstStage | None) -> _Fit:
        encoding_id = self._pinned.encoding_id
        with self._lock, self._store.snapshot():
            totals = self._store.totals(encoding_id)
            numbers = self._store.passage_numbers(encoding_id)
            # Evenly spaced passages of all there are.
            spacing = max(1, round(totals["tokens"] / _FIT_TOKENS))
            chosen, others = _split(numbers, spacing)
            sample = self._store.passages_by_number(encoding_id, chosen)
            documents = [passage.tokens.to_float() for passage in sample]
        if not any(map(len, documents)):
            # Without a single token there is nothing to learn; one direction stands in until the next fit.
            documents = [np.eye(1, documents[0].shape[1], dtype=np.float32)]
        stage = FirstStage.fit(settings, documents, start=start)
        return _Fit(stage, len(numbers), self._checked(stage, others, numbers[-1]))

    def _checked(self, stage: FirstStage, numbers: list[int], last: int) -> Drift | None:
        """The error of cells on passages that they were not fitted to; None for MUVERA, and without any token."""
        if stage.cells is None:
            return None
        with self._lock, self._store.snapshot():
            chosen = numbers[:: -(-len(numbers) // _CHECKED) or 1]
            passages = list(self._store.passages_by_number(self._pinned.encoding_id, chosen))
        documents = [passage.tokens.to_float() for passage in passages]
        n_tokens = sum(map(len, documents))
        if not n_tokens:
            return None
        return Drift(error_of(stage, documents, stage.document_codes(documents)) / n_tokens, last)

    def _begin(self, fit: _Fit) -> None:
        with self._lock, self._store.change():
            number = self._store.add_first_stage(self._pinned.encoding_id, fit.stage, fit.fitted_on)
            if fit.drift is not None:
                self._store.set_drift(number, fit.drift.to_json())

    def _build(self, most: int | None) -> None:
        """Give up to so many passages their codes of the first stage that is being built; None for all."""
        while most is None or most > 0:
            with self._lock, self._store.snapshot():
                # A change that changes nothing would cost every write a second commit.
                if self._store.first_stage_number(self._pinned.encoding_id, "building") is None:
                    return
            with self._lock, self._store.change():
                building = self._store.first_stage(self._pinned.encoding_id, "building")
                if building is None:
                    return
                passages = list(self._store.passages_after(self._pinned.encoding_id, building.encoded_to, _BUILD_STEP))
                self._add_codes(building, passages)
                if passages:
                    self._store.set_encoded_to(building.number, passages[-1].passage_id)
                if len(passages) < _BUILD_STEP:
                    self._store.promote_first_stage(self._pinned.encoding_id)
                    return
            if most is not None:
                most -= _BUILD_STEP

    def _add_codes(self, found: StoredFirstStage, passages: Sequence[StoredPassage]) -> None:
        documents = [passage.tokens.to_float() for passage in passages]
        codes = found.stage.document_codes(documents)
        for passage, code in zip(passages, codes, strict=True):
            self._store.add_code(passage.passage_id, passage.content_id, found.number, code)
        if found.stage.cells is not None:
            self._note_new(found, passages, documents, codes)
            self._seal(found)

    def _note_new(
        self,
        found: StoredFirstStage,
        passages: Sequence[StoredPassage],
        documents: Sequence[FloatArray],
        codes: Sequence[bytes],
    ) -> None:
        """Add passages that came after the cells were fitted to what is known of their drift."""
        # A file of an earlier version has no figures; they come with the next fit.
        drift = Drift.from_json(self._store.drift(found.number))
        if drift is None:
            return
        new = [row for row, passage in enumerate(passages) if passage.passage_id > drift.last]
        looked_at = [row for row in new if passages[row].passage_id % _LOOKED_AT == 0]
        if new:
            drift = drift.with_new(
                found.stage, len(new), [documents[row] for row in looked_at], [codes[row] for row in looked_at]
            )
            self._store.set_drift(found.number, drift.to_json())

    def _seal(self, found: StoredFirstStage) -> None:
        """Turn codes into segments while there are enough, and merge segments where there are enough of a level."""
        with self._store.decoding_first_stage():
            self._seal_all(found)

    def _seal_all(self, found: StoredFirstStage) -> None:
        encoding = found.stage.lists
        while self._store.count_codes(found.number) >= _SEALED:
            codes = list(self._store.codes(found.number, limit=_SEALED))
            members = (
                np.array([code.passage_id for code in codes], dtype=np.int64),
                np.array([code.content_id for code in codes], dtype=np.int64),
            )
            segment = Segment(encoding.decode(code.code for code in codes), len(encoding.cells))
            lists = ((cell, entries.to_bytes()) for cell, entries in segment.lists())
            self._store.add_segment(found.number, 0, members, lists)
            self._store.drop_codes(found.number, members[0].tolist())
            self._merge(found)

    def _merge(self, found: StoredFirstStage) -> None:
        level = 0
        while _SEALED * _MERGED ** (level + 1) <= Segment.MOST_PASSAGES:
            parts = [part.segment_id for part in self._store.segments(found.number) if part.level == level]
            if len(parts) >= _MERGED:
                self._replace(found, parts[:_MERGED], level + 1)
            level += 1

    def _replace(self, found: StoredFirstStage, segment_ids: list[int], level: int) -> None:
        """Put one segment in the place of some, without what was deleted."""
        members = [self._store.segment_members(segment_id) for segment_id in segment_ids]
        present = self._store.present_passages(np.concatenate([passages for passages, _ in members]))
        numbers, kept, first = [], [], 0
        for passages, contents in members:
            left = np.isin(passages, np.fromiter(present, dtype=np.int64, count=len(present)))
            renumbered = np.full(len(passages), -1, dtype=np.int64)
            renumbered[left] = np.arange(first, first + int(left.sum()))
            first += int(left.sum())
            numbers.append(renumbered)
            kept.append((passages[left], contents[left]))
        if first:
            joined = (np.concatenate([ids for ids, _ in kept]), np.concatenate([ids for _, ids in kept]))
            lists = self._merged_lists(segment_ids, numbers, found.stage.lists.num_subspaces)
            self._store.add_segment(found.number, level, joined, lists)
        self._store.drop_segments(segment_ids)

    def _merged_lists(
        self, segment_ids: list[int], numbers: list[np.ndarray[tuple[int], np.dtype[np.int64]]], num_subspaces: int
    ) -> Iterator[tuple[int, bytes]]:
        readers = [_Reader(self._store.segment_lists(segment_id)) for segment_id in segment_ids]
        while any(reader.cell is not None for reader in readers):
            cell = min(reader.cell for reader in readers if reader.cell is not None)
            parts = [
                (CellList.from_bytes(reader.take(), num_subspaces), renumbered)
                for reader, renumbered in zip(readers, numbers, strict=True)
                if reader.cell == cell
            ]
            entries = merged_list(parts)
            if len(entries.passages):
                yield cell, entries.to_bytes()


def _split(numbers: list[int], spacing: int) -> tuple[list[int], list[int]]:
    """Numbers of the passages to fit cells to, and of others to measure their error on."""
    if spacing > 1:
        return numbers[::spacing], numbers[spacing // 2 :: spacing]
    others = numbers[_HELD_OUT - 1 :: _HELD_OUT]
    held_out = set(others)
    return [number for number in numbers if number not in held_out], others


class _Reader:
    """The lists of one segment, with a look at which cell comes next."""

    def __init__(self, lists: Iterable[tuple[int, bytes]]) -> None:
        self._lists = iter(lists)
        self._next = next(self._lists, None)

    @property
    def cell(self) -> int | None:
        return None if self._next is None else self._next[0]

    def take(self) -> bytes:
        content = b"" if self._next is None else self._next[1]
        self._next = next(self._lists, None)
        return content
