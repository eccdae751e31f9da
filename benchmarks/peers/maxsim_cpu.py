"""maxsim-cpu over all documents: exact, and what a search costs that has no index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import maxsim_cpu
import numpy as np

from peers import FloatArray, Peer

# With queries of more numbers than this, maxsim-cpu 0.1.0 gives wrong scores (43 tokens of 96 dimensions, say). Parts
# of a query can be scored and added up.
_MOST_NUMBERS = 4_096


def maxsim_scores(query: FloatArray, documents: Sequence[FloatArray]) -> FloatArray:
    """float32 [len(documents)], as maxsim-cpu computes it."""
    step = _MOST_NUMBERS // query.shape[1]
    parts = [query[first : first + step] for first in range(0, len(query), step)]
    scores = [np.asarray(maxsim_cpu.maxsim_scores_variable(part, documents)) for part in parts]
    return np.sum(scores, axis=0)


class MaxSimCpu:
    """All documents, float32, in memory."""

    name = "maxsim-cpu, all documents"
    knobs = ()
    efforts = ((),)

    def __init__(self) -> None:
        self._documents: list[FloatArray] = []

    def build(self, documents: Sequence[FloatArray], folder: Path) -> None:
        """As `Peer` says; it has no files."""
        del folder
        self._documents = list(documents)

    def search(self, query: FloatArray, k: int, effort: tuple[int, ...]) -> list[int]:
        """As `Peer` says."""
        del effort
        return np.argsort(-maxsim_scores(query, self._documents), kind="stable")[:k].tolist()


def systems(dim: int, threads: int) -> list[Peer]:
    """What is measured of this peer."""
    del dim, threads
    return [MaxSimCpu()]
