"""A small real encoder for tests: every word has a fixed pseudo-random direction, whatever is beside it."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from edgecolbert.chunking import Span, split_text

FloatArray = npt.NDArray[np.float32]

DIM = 24


@lru_cache(maxsize=100_000)
def word_vector(word: str, dim: int = DIM) -> FloatArray:
    """float32 [dim] of unit length, the same on every machine."""
    digest = hashlib.shake_256(word.encode()).digest(2 * dim)
    values = np.frombuffer(digest, dtype="<i2").astype(np.float32) + np.float32(0.5)
    vector: FloatArray = values / np.float32(np.linalg.norm(values))
    return vector


class WordEncoder:
    """One row for each word; a text without words has no rows. `encoded` lists every document it was asked for."""

    def __init__(self, name: str = "words", dim: int = DIM) -> None:
        self.name = name
        self.dim = dim
        self.encoded: list[str] = []

    def encode_queries(self, queries: list[str]) -> list[FloatArray]:
        return [self._rows(text) for text in queries]

    def encode_documents(self, documents: list[str]) -> list[FloatArray]:
        self.encoded += documents
        return [self._rows(text) for text in documents]

    def _rows(self, text: str) -> FloatArray:
        words = re.findall(r"\w+", text.lower())
        return np.array([word_vector(word, self.dim) for word in words], dtype=np.float32).reshape(-1, self.dim)


class SplittingEncoder(WordEncoder):
    """The same, with passages of at most `room` words."""

    def __init__(self, name: str = "splitting", room: int = 8) -> None:
        super().__init__(name)
        self.room = room

    def split(self, text: str) -> list[Span]:
        return split_text(text, lambda texts: [len(re.findall(r"\w+", piece)) for piece in texts], self.room)
