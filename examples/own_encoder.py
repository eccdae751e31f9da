"""An index over an encoder of your own: any object with two methods will do.

This one has no learned weights. Each word becomes a fixed random direction, so it finds shared words and nothing else;
put a real model behind the same two methods.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
import numpy.typing as npt

from edgecolbert import Index


class WordEncoder:
    """Token embeddings from hashed words, float32 [n_words, 64], rows of unit length."""

    name = "hashed-words-64"

    def encode_queries(self, queries: list[str]) -> list[npt.NDArray[np.float32]]:
        """One array for each query."""
        return [self._encode(text) for text in queries]

    def encode_documents(self, documents: list[str]) -> list[npt.NDArray[np.float32]]:
        """One array for each document."""
        return [self._encode(text) for text in documents]

    def _encode(self, text: str) -> npt.NDArray[np.float32]:
        rows = [self._direction(word) for word in re.findall(r"\w+", text.lower())]
        return np.array(rows, dtype=np.float32).reshape(-1, 64)

    def _direction(self, word: str) -> npt.NDArray[np.float64]:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
        direction = np.random.default_rng(seed).normal(size=64)
        return direction / np.linalg.norm(direction)


def main() -> None:
    with Index.open(":memory:", model=WordEncoder()) as index:
        index.add(["The kettle is in the left cupboard.", "The bins go out on Tuesday."])
        for hit in index.search("which cupboard has the kettle", k=1):
            print(f"{hit.score:.2f}  {hit.text}")


if __name__ == "__main__":
    main()
