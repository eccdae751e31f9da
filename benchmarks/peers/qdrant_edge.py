"""Qdrant Edge: MUVERA encodings in its graph put forward candidates, and its multi-vectors score them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import qdrant_edge as qdrant

from peers import FloatArray, Peer
from peers.muvera import encoder


class QdrantEdge:
    """One shard with two vectors a point, as Qdrant's documentation has it.

    Args:
        dim: Size of a token embedding.
        threads: Threads that a search may use.
    """

    name = "Qdrant Edge, MUVERA + MaxSim"
    knobs = ("candidates",)
    efforts = ((50,), (100,), (200,), (400,), (800,), (1600,))

    def __init__(self, dim: int, threads: int) -> None:
        self._dim, self._threads = dim, threads
        self._encoder = encoder(dim)
        self._shard: qdrant.EdgeShard | None = None

    def build(self, documents: Sequence[FloatArray], folder: Path) -> None:
        """As `Peer` says."""
        maxsim = qdrant.MultiVectorConfig(qdrant.MultiVectorComparator.MaxSim)
        # m 0: no graph over token embeddings, which are only used to score candidates.
        no_graph = qdrant.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000)
        vectors = {
            "fde": qdrant.EdgeVectorParams(size=self._encoder.output_dimension, distance=qdrant.Distance.Dot),
            "tokens": qdrant.EdgeVectorParams(
                size=self._dim, distance=qdrant.Distance.Dot, multivector_config=maxsim, hnsw_config=no_graph
            ),
        }
        self._shard = qdrant.EdgeShard.create(
            str(folder), qdrant.EdgeConfig(vectors=vectors, max_search_threads=self._threads)
        )
        for first in range(0, len(documents), 128):
            block = list(documents[first : first + 128])
            codes = self._encoder.encode_documents(block)
            points = [
                qdrant.Point(first + row, {"fde": code.tolist(), "tokens": tokens.tolist()})
                for row, (code, tokens) in enumerate(zip(codes, block, strict=True))
            ]
            self._shard.update(qdrant.UpdateOperation.upsert_points(points))
        self._shard.flush()
        self._shard.optimize()

    def search(self, query: FloatArray, k: int, effort: tuple[int, ...]) -> list[int]:
        """As `Peer` says."""
        (limit,) = effort
        code = qdrant.Query.Nearest(self._encoder.encode_queries(query).tolist(), using="fde")
        # Its graph finds no more than hnsw_ef, so it looks for as many as are wanted.
        params = qdrant.SearchParams(hnsw_ef=max(128, limit))
        request = qdrant.QueryRequest(
            limit=k,
            query=qdrant.Query.Nearest(query.tolist(), using="tokens"),
            prefetches=[qdrant.Prefetch(limit=limit, query=code, params=params)],
        )
        assert self._shard is not None
        return [int(point.id) for point in self._shard.query(request)]


def systems(dim: int, threads: int) -> list[Peer]:
    """What is measured of this peer."""
    return [QdrantEdge(dim, threads)]
