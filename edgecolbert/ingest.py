"""Adding documents: encode in small steps, store each step, and show a whole batch in one commit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from edgecolbert.documents import Record, read_record
from edgecolbert.encoder import Encoder, TokenEncoder
from edgecolbert.errors import CancelledError, InputError, InputTypeError, StoreMismatchError
from edgecolbert.fde import FdeSettings, FirstStage
from edgecolbert.passages import PassageEncoder
from edgecolbert.results import AddReport
from edgecolbert.store import PinnedEncoding, Store, StoredPassage

# Texts encoded between two commits, and the characters after which a step ends early.
_STEP_TEXTS = 64
_STEP_CHARACTERS = 500_000

# A first stage is fitted to the index again each time the index has grown by this factor, until it has seen enough
# passages. Cells of the index's own raise recall by one to three hundredths over the model's (docs/first-stage.md).
_REFIT_GROWTH = 4
_FITTED_ENOUGH = 1_024
_FIT_TOKENS = 200_000
# What `fitted_on` says of a first stage that came with the model: it is replaced once by one fitted to the index.
_SHIPPED = _FITTED_ENOUGH // _REFIT_GROWTH


class Ingest:
    """One call of `Index.add`, or the part of a re-encoding that stores passages.

    Args:
        store: The database.
        lock: Held while the database is used; not while encoding.
        pinned: The encoding that the passages belong to.
        passages: Encodes texts.
        encoder: The model, whose own first stage is used where it has one.
        progress: Told about each step; may cancel.
        source: The root that the documents come from, or None.
    """

    def __init__(
        self,
        store: Store,
        lock: threading.RLock,
        pinned: PinnedEncoding,
        passages: PassageEncoder,
        encoder: TokenEncoder,
        progress: Callable[[int, int | None], bool | None] | None = None,
        source: str | None = None,
    ) -> None:
        self._store = store
        self._lock = lock
        self._pinned = pinned
        self._passages = passages
        self._encoder = encoder
        self._progress = progress
        self._source = source

    def add(self, documents: Iterable[str | Mapping[str, Any]], *, batch_size: int) -> AddReport:
        """Add documents as `Index.add` promises.

        Args:
            documents: Strings or records.
            batch_size: Documents of a batch of an iterable that is not a list.

        Returns:
            What was done.

        Raises:
            InputTypeError: If `documents` is one string or one record.
            InputError: If `batch_size` is less than one.
        """
        if isinstance(documents, str | bytes | Mapping) or not isinstance(documents, Iterable):
            raise InputTypeError(
                f"documents is {type(documents).__name__}, expected a list of strings or records. "
                "Put a single one into a list."
            )
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"batch_size is {batch_size!r}, expected a whole number of at least 1.")
        # A store that cannot be written must say so before the first text is encoded.
        self._store.check_writable()
        if isinstance(documents, Sequence):
            records = [read_record(item, position) for position, item in enumerate(documents)]
            return self._add_whole(records, lambda done: self._tell(done, len(records)))
        reports = []
        done = 0
        for batch in _batches(documents, batch_size):
            reports.append(self._add_whole(batch, lambda _: None))
            done += len(batch)
            self._tell(done, None)
        return AddReport(
            ids=[identifier for report in reports for identifier in report.ids],
            added=sum(report.added for report in reports),
            updated=sum(report.updated for report in reports),
            unchanged=sum(report.unchanged for report in reports),
            encoded=sum(report.encoded for report in reports),
        )

    def _tell(self, done: int, total: int | None) -> None:
        if self._progress is not None and self._progress(done, total) is False:
            of_total = "" if total is None else f" of {total}"
            raise CancelledError(f"Adding documents was cancelled after {done}{of_total}.")

    def _add_whole(self, records: list[Record], step_done: Callable[[int], None]) -> AddReport:
        """Store the passages step by step, then show all documents in one commit."""
        texts = {record.hash: record.text for record in records}
        encoded = 0
        while True:
            with self._lock, self._store.snapshot():
                known = self._store.encoded_hashes(texts, self._pinned.encoding_id)
            steps = list(_steps([(digest, text) for digest, text in texts.items() if digest not in known]))
            encoded += sum(len(step) for step in steps)
            done = len(records) - sum(len(step) for step in steps)
            for step in steps[:-1]:
                self.store_texts(step)
                done += len(step)
                step_done(done)
            last = self._encoded(steps[-1]) if steps else []
            # The last step may still be cancelled: once the documents are shown, the call has succeeded.
            step_done(len(records))
            with self._lock, self._store.change():
                self._stage(last)
                # Another process may have deleted a text meanwhile that was stored when this call began.
                if self._store.encoded_hashes(texts, self._pinned.encoding_id) == set(texts):
                    outcomes = self._store.put_documents(records, self._source)
                    break
        return AddReport(
            ids=[record.id for record in records],
            added=outcomes.count("added"),
            updated=outcomes.count("updated"),
            unchanged=outcomes.count("unchanged"),
            encoded=encoded,
        )

    def _encoded(self, step: list[tuple[str, str]]) -> list[tuple[str, str, list[StoredPassage]]]:
        passages = self._passages.documents([text for _, text in step])
        return [(digest, text, cuts) for (digest, text), cuts in zip(step, passages, strict=True)]

    def store_texts(self, step: list[tuple[str, str]]) -> None:
        """Encode some texts and store their passages in one commit, without showing anything.

        Args:
            step: Hash and text of each.
        """
        encoded = self._encoded(step)
        with self._lock, self._store.change():
            self._stage(encoded)

    def _stage(self, encoded: list[tuple[str, str, list[StoredPassage]]]) -> None:
        """Store texts with their passages and codes; inside a change."""
        if not encoded:
            return
        pinned = self._check_pinned()
        if pinned.dim is None:
            self._store.set_dim(pinned.encoding_id, self._passages.dim or 0)
        elif pinned.dim != self._passages.dim:
            raise StoreMismatchError(
                f"{self._store.path} holds token embeddings of dim {pinned.dim}, the model {pinned.model_name!r} now "
                f"gives {self._passages.dim}. Use the model it was made with, or re-encode."
            )
        first_stage_id, stage, fitted_on = self._first_stage(encoded)
        for digest, text, passages in encoded:
            content_id = self._store.stage_content(digest, text)
            if self._store.has_passages(content_id, pinned.encoding_id):
                continue
            numbers = self._store.stage_passages(content_id, pinned.encoding_id, passages)
            for number, passage in zip(numbers, passages, strict=True):
                self._store.add_code(number, content_id, first_stage_id, stage.document_code(passage.tokens.to_float()))
        n_passages = self._store.count_passages(pinned.encoding_id)
        if fitted_on < _FITTED_ENOUGH and n_passages >= _REFIT_GROWTH * fitted_on:
            self._refit(stage.settings)

    def _check_pinned(self) -> PinnedEncoding:
        """The encoding as the database has it now; a re-encoding may have replaced it since the call began."""
        for state in ("serving", "building"):
            current = self._store.encoding(state)
            if current is not None and current.encoding_id == self._pinned.encoding_id:
                return current
        raise StoreMismatchError(
            f"{self._store.path} was re-encoded with another model since it was opened with "
            f"{self._pinned.model_name!r}. Open it again."
        )

    def _first_stage(self, encoded: list[tuple[str, str, list[StoredPassage]]]) -> tuple[int, FirstStage, int]:
        """The first stage of the encoding; for its first passages the model's own, or one fitted to them."""
        found = self._store.first_stage(self._pinned.encoding_id)
        if found is not None:
            return found
        wanted = self._pinned.settings["fde"]
        shipped = None
        if wanted is None and isinstance(self._encoder, Encoder):
            shipped = FirstStage.from_manifest(self._encoder.manifest)
        if shipped is not None:
            number = self._store.replace_first_stage(self._pinned.encoding_id, shipped, _SHIPPED)
            return number, shipped, _SHIPPED
        settings = FdeSettings() if wanted is None else FdeSettings.from_json(wanted)
        return self._fit(settings, [passage for _, _, cuts in encoded for passage in cuts])

    def _fit(self, settings: FdeSettings, passages: list[StoredPassage]) -> tuple[int, FirstStage, int]:
        dim = self._passages.dim or 0
        # Evenly spaced passages: one long document may have more tokens than memory holds as float32.
        n_tokens = sum(len(passage.tokens.values) for passage in passages)
        sample = passages[:: max(1, round(n_tokens / _FIT_TOKENS))]
        tokens = [passage.tokens.to_float() for passage in sample if len(passage.tokens.values)]
        # Without a single token there is nothing to learn; one direction stands in until the next fit.
        stacked = np.concatenate(tokens) if tokens else np.eye(1, dim, dtype=np.float32)
        stage = FirstStage.fit(settings, stacked)
        fitted_on = max(1, len(passages))
        return self._store.replace_first_stage(self._pinned.encoding_id, stage, fitted_on), stage, fitted_on

    def _refit(self, settings: FdeSettings) -> None:
        """Fit the first stage to all passages there are by now, and make their codes again from stored tokens."""
        everything = list(self._store.passages(self._pinned.encoding_id, self._store.staged_content_ids()))
        number, stage, _ = self._fit(settings, everything)
        for passage in everything:
            code = stage.document_code(passage.tokens.to_float())
            self._store.add_code(passage.passage_id, passage.content_id, number, code)


def _batches(documents: Iterable[str | Mapping[str, Any]], size: int) -> Iterator[list[Record]]:
    numbered = enumerate(documents)
    while batch := [read_record(item, position) for position, item in islice(numbered, size)]:
        yield batch


def _steps(texts: list[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Cut into steps that bound both the number of texts and the memory of their embeddings."""
    step: list[tuple[str, str]] = []
    characters = 0
    for digest, text in texts:
        if step and (len(step) == _STEP_TEXTS or characters + len(text) > _STEP_CHARACTERS):
            yield step
            step, characters = [], 0
        step.append((digest, text))
        characters += len(text)
    if step:
        yield step
