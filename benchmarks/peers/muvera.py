"""muvera-python: encodings compared one by one with numpy, candidates scored with maxsim-cpu."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from muvera import Muvera

from peers import FloatArray, Peer
from peers.maxsim_cpu import maxsim_scores

REPETITIONS, INNER_DIM = 20, 16


def encoder(dim: int, projections: int = 5) -> Muvera:
    """The paper's way to encode: 20 repetitions, 2^projections partitions, inner projections to 16 dimensions."""
    return Muvera(
        num_repetitions=REPETITIONS,
        num_simhash_projections=projections,
        dimension=dim,
        projection_type="ams_sketch",
        projection_dimension=INNER_DIM,
    )


class MuveraScan:
    """An exact scan of float32 encodings, then exact MaxSim.

    Args:
        dim: Size of a token embedding.
    """

    name = "muvera-python + maxsim-cpu"
    knobs = ("candidates",)
    efforts = ((50,), (100,), (200,), (400,), (800,), (1600,))

    def __init__(self, dim: int) -> None:
        self._encoder = encoder(dim)
        self._documents: list[FloatArray] = []
        self._codes = np.empty((0, 0), dtype=np.float32)

    def build(self, documents: Sequence[FloatArray], folder: Path) -> None:
        """As `Peer` says; it has no files."""
        del folder
        self._documents = list(documents)
        self._codes = np.empty((len(documents), self._encoder.output_dimension), dtype=np.float32)
        for first in range(0, len(documents), 256):
            self._codes[first : first + 256] = self._encoder.encode_documents(self._documents[first : first + 256])

    def search(self, query: FloatArray, k: int, effort: tuple[int, ...]) -> list[int]:
        """As `Peer` says."""
        first = self._codes @ self._encoder.encode_queries(query)
        width = min(effort[0], len(first))
        candidates = np.argpartition(-first, width - 1)[:width]
        scores = maxsim_scores(query, [self._documents[i] for i in candidates])
        return candidates[np.argsort(-scores, kind="stable")[:k]].tolist()


def systems(dim: int, threads: int) -> list[Peer]:
    """What is measured of this peer."""
    del threads
    return [MuveraScan(dim)]
