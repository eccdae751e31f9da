"""Adding documents: encode in small steps, store each step, and show a whole batch in one commit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from edgecolbert.documents import Record, read_record
from edgecolbert.encoder import Encoder, TokenEncoder
from edgecolbert.errors import CancelledError, InputError, InputTypeError, StoreFormatError, StoreMismatchError
from edgecolbert.passages import PassageEncoder, Text
from edgecolbert.results import AddReport
from edgecolbert.store import PinnedEncoding, Store, StoredPassage
from edgecolbert.upkeep import Upkeep

# Texts encoded between two commits, and the characters after which a step ends early.
_STEP_TEXTS = 64
_STEP_CHARACTERS = 500_000

# What a text is stored by, the text, and its passages.
EncodedText = tuple[str, str, list[StoredPassage]]


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
        self._upkeep = Upkeep(store, lock, pinned, encoder)
        # Somebody else's encoder may want to be called from the thread that called us.
        self._in_background = isinstance(encoder, Encoder)
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

            def tell(step: int, before: int = done, size: int = len(batch)) -> None:
                # The whole batch is reported below, when it is stored.
                if step < size:
                    self._tell(before + step, None)

            reports.append(self._add_whole(batch, tell))
            done += len(batch)
            self._tell(done, None)
        return AddReport.joined(reports)

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
            last: list[EncodedText] = []
            for number, step in enumerate(self._encoded_ahead(steps), start=1):
                if number == len(steps):
                    last = step
                    break
                self._store_step(step)
                done += len(step)
                step_done(done)
            # The last step may still be cancelled: once the documents are shown, the call has succeeded.
            step_done(len(records))
            with self._lock, self._store.change():
                n_new = self._stage(last)
                # Another process may have deleted a text meanwhile that was stored when this call began.
                if self._store.encoded_hashes(texts, self._pinned.encoding_id) == set(texts):
                    outcomes = self._store.put_documents(records, self._source)
                    break
        self._upkeep.after_write(n_new)
        return AddReport(
            ids=[record.id for record in records],
            added=outcomes.count("added"),
            updated=outcomes.count("updated"),
            unchanged=outcomes.count("unchanged"),
            encoded=encoded,
        )

    def _encoded_ahead(self, steps: list[list[tuple[str, str]]]) -> Iterator[list[EncodedText]]:
        """Encode one step while the one before is stored, and no more, so that memory stays bounded."""
        if not self._in_background or len(steps) < 2:
            yield from map(self._encoded, steps)
            return
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="edgecolbert-encode") as pool:
            pending = pool.submit(self._encoded, steps[0])
            for step in steps[1:]:
                current = pending.result()
                pending = pool.submit(self._encoded, step)
                yield current
            yield pending.result()

    def _encoded(self, step: list[tuple[str, str]]) -> list[EncodedText]:
        try:
            texts = [Text.of(digest, text) for digest, text in step]
        except ValueError as error:
            raise StoreFormatError(
                f"{self._store.path} is damaged: {error}. Restore it from a backup, or add the document again."
            ) from error
        passages = self._passages.documents(texts)
        return [(digest, text, cuts) for (digest, text), cuts in zip(step, passages, strict=True)]

    def store_texts(self, step: list[tuple[str, str]]) -> None:
        """Encode some texts and store their passages in one commit, without showing anything.

        Args:
            step: Hash and text of each.
        """
        self._store_step(self._encoded(step))

    def _store_step(self, encoded: list[EncodedText]) -> None:
        with self._lock, self._store.change():
            n_new = self._stage(encoded)
        self._upkeep.after_write(n_new)

    def _stage(self, encoded: list[EncodedText]) -> int:
        """Store texts with their passages and codes, inside a change; give how many passages were new."""
        if not encoded:
            return 0
        pinned = self._check_pinned()
        if pinned.dim is None:
            self._store.set_dim(pinned.encoding_id, self._passages.dim or 0)
        elif pinned.dim != self._passages.dim:
            raise StoreMismatchError(
                f"{self._store.path} holds token embeddings of dim {pinned.dim}, the model {pinned.model_name!r} now "
                f"gives {self._passages.dim}. Use the model it was made with, or re-encode."
            )
        stored = self._store.stage_texts(pinned.encoding_id, encoded)
        self._upkeep.add_codes(stored)
        return len(stored)

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
