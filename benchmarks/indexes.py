"""Our own side: databases made through the public interface, kept from one run to the next."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from corpora import CachedEncoder, Corpus, FloatArray, synthetic_documents

from edgecolbert import Index

_BATCH = 512
# Synthetic documents are made in order; this many are kept, so that a batch can be asked for again.
_KEPT = 4 * _BATCH


class SyntheticEncoder:
    """Gives synthetic token embeddings; a document's text is its number.

    Args:
        dim: Size of a token embedding.
    """

    def __init__(self, dim: int) -> None:
        self.name = f"synthetic-{dim}"
        self.dim = dim
        self._documents: Iterator[FloatArray] = iter(())
        self._next = 0
        self._kept: dict[int, FloatArray] = {}

    def encode_queries(self, queries: list[str]) -> list[FloatArray]:
        """Some tokens of a document each, moved a little."""
        found = []
        for text in queries:
            (document,) = synthetic_documents(1, self.dim, seed=1_000_000 + int(text))
            generator = np.random.default_rng(int(text))
            chosen = document[generator.choice(len(document), min(20, len(document)), replace=False)]
            moved = chosen + generator.normal(scale=0.5 / self.dim**0.5, size=chosen.shape).astype(np.float32)
            found.append((moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32))
        return found

    def encode_documents(self, documents: list[str]) -> list[FloatArray]:
        """The documents of these numbers."""
        return [self._document(int(text)) for text in documents]

    def _document(self, number: int) -> FloatArray:
        if number not in self._kept:
            if number < self._next:
                self._documents, self._next = iter(()), 0
            if self._next == 0:
                self._documents = synthetic_documents(2**62, self.dim)
            while self._next <= number:
                self._kept[self._next] = next(self._documents).astype(np.float32)
                self._kept.pop(self._next - _KEPT, None)
                self._next += 1
        return self._kept[number]


def synthetic_corpus(documents: int, queries: int) -> Corpus:
    """Documents and queries for `SyntheticEncoder`."""
    records = [{"id": str(number), "text": str(number)} for number in range(documents)]
    return Corpus("synthetic", records, {str(number): str(number) for number in range(queries)})


def make_index(
    encoder: CachedEncoder | SyntheticEncoder, corpus: Corpus, size: int, folder: Path
) -> tuple[Path, dict[str, Any]]:
    """Make the database of the first `size` documents, or find the one that an earlier run made.

    Args:
        encoder: Gives the embeddings, which are made beforehand and not timed.
        corpus: The documents.
        size: How many of them.
        folder: Where databases are kept.

    Returns:
        The file; and `built_s`, the seconds that storing, coding and fitting took, None where it was there or begun.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = corpus.documents[:size]
    # The same documents of the same model, whatever they are called.
    digest = hashlib.sha256("\n".join(record["id"] for record in records).encode())
    fingerprint = encoder.manifest.fingerprint if isinstance(encoder, CachedEncoder) else encoder.name
    digest.update(fingerprint.encode())
    name = re.sub(r"[^a-z0-9]+", "-", corpus.name.lower()).strip("-")
    path = folder / f"{name}-{size}-{digest.hexdigest()[:10]}.db"
    if isinstance(encoder, CachedEncoder):
        encoder.fill([record["text"] for record in records], report=True)
    fresh = not path.exists()
    with Index.open(path, model=encoder, split_documents=False) as index:
        if len(index) == size:
            return path, {"built_s": None}
        begin = time.perf_counter()
        # Batch by batch, so that an interrupted run goes on where it stopped.
        index.add(iter(records), batch_size=_BATCH)
        took = time.perf_counter() - begin
    return path, {"built_s": round(took, 1) if fresh else None}


def positions(names: Sequence[str], corpus: Corpus) -> list[int]:
    """Numbers of documents by their ids."""
    known = _numbers(corpus)
    return [known[name] for name in names]


_known: dict[int, dict[str, int]] = {}


def _numbers(corpus: Corpus) -> dict[str, int]:
    if id(corpus) not in _known:
        _known[id(corpus)] = {record["id"]: number for number, record in enumerate(corpus.documents)}
    return _known[id(corpus)]
