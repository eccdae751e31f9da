"""LanceDB: a multi-vector column with its inverted index over all tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lancedb
import pyarrow

from peers import FloatArray, Peer


class LanceDb:
    """IVF-PQ with its defaults; the candidates are scored again with the exact vectors.

    Args:
        dim: Size of a token embedding.
    """

    name = "LanceDB, multi-vector"
    knobs = ("probes", "refine factor")
    efforts = ((5, 10), (20, 10), (20, 40), (50, 40), (100, 80))

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._table: Any = None

    def build(self, documents: Sequence[FloatArray], folder: Path) -> None:
        """As `Peer` says."""
        vectors = pyarrow.list_(pyarrow.list_(pyarrow.float32(), self._dim))
        schema = pyarrow.schema([("number", pyarrow.int64()), ("vector", vectors)])

        def batches() -> Iterator[Any]:
            for first in range(0, len(documents), 512):
                block = [rows.tolist() for rows in documents[first : first + 512]]
                numbers = range(first, first + len(block))
                yield pyarrow.record_batch([pyarrow.array(numbers), pyarrow.array(block, type=vectors)], schema=schema)

        self._table = lancedb.connect(str(folder)).create_table("documents", batches(), schema=schema)
        self._table.create_index(metric="cosine", vector_column_name="vector")

    def search(self, query: FloatArray, k: int, effort: tuple[int, ...]) -> list[int]:
        """As `Peer` says."""
        probes, refine = effort
        found = (
            self._table.search(query, vector_column_name="vector")
            .select(["number", "_distance"])
            .nprobes(probes)
            .refine_factor(refine)
            .limit(k)
            .to_arrow()
        )
        return found["number"].to_pylist()


def systems(dim: int, threads: int) -> list[Peer]:
    """What is measured of this peer."""
    del threads
    return [LanceDb(dim)]
