"""Token pooling: tokens of a passage that are alike are stored as one, their mean.

Source: Clavié, Chaffin and Adams, Reducing the Footprint of Multi-Vector Retrieval (2024), as PyLate 1.6 does it
(rule R40): clusters by Ward's method, which is done here with a chain of nearest neighbours (Murtagh 1983).
That takes n^2 time, needs no more than numpy, and merges what scipy's `linkage` merges, in the same order.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgecolbert.linalg import product

FloatArray = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# The first token is not pooled: it stands for the whole text, as in PyLate.
_PROTECTED = 1


def pool_tokens(embeddings: FloatArray, pool_factor: int) -> FloatArray:
    """Put the mean of each cluster in the place of its tokens.

    Args:
        embeddings: float32 [n_tokens, dim], rows of unit length.
        pool_factor: One row is left for so many tokens.

    Returns:
        float32: the first token as it is, then the mean of each cluster of the others, in the order of the clusters'
        first tokens. Means are not normalised again. Of n other tokens, max(n // pool_factor, 1) clusters are left, or
        fewer where merges tie.

    Examples:
        >>> pool_tokens(np.array([[1, 0], [0, 1], [0, 1], [-1, 0], [-1, 0]], dtype=np.float32), 2).tolist()
        [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]
    """
    labels = pool_labels(embeddings, pool_factor)
    if labels is None:
        return embeddings
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    sizes = np.diff(starts, append=len(labels)).astype(np.float32)
    sums: FloatArray = np.add.reduceat(embeddings[order], starts, axis=0)
    return sums / sizes[:, None]


def pool_labels(embeddings: FloatArray, pool_factor: int) -> IntArray | None:
    """Which row of `pool_tokens` each token goes into.

    Args:
        embeddings: As in `pool_tokens`.
        pool_factor: As in `pool_tokens`.

    Returns:
        int64 [n_tokens], the number of the row; None where every token keeps a row of its own.
    """
    rows = embeddings[_PROTECTED:]
    n_clusters = max(len(rows) // pool_factor, 1)
    if n_clusters >= len(rows):
        return None
    # float32 until here, as in PyLate: where tokens repeat, the rounding decides between equals.
    upper = np.triu(1 - product(rows, rows.T), 1).astype(np.float64)
    # Not both halves of the product: they may differ in the last bit, and the chain could go in circles.
    labels = ward_clusters(upper + upper.T, n_clusters)
    return np.concatenate([np.arange(_PROTECTED), labels + _PROTECTED])


def ward_clusters(distances: Float64Array, n_clusters: int) -> IntArray:
    """Clusters by Ward's method.

    Args:
        distances: float64 [n, n], symmetric; what is on the diagonal does not matter. It is overwritten.
        n_clusters: Most clusters, at least 1.

    Returns:
        int64 [n], the cluster of each item; clusters are numbered in the order of their first items.
    """
    n = len(distances)
    merges = _merges(distances)
    heights = np.sort([height for _, _, height in merges])
    # Merges as high as the last one that is needed are done as well.
    highest = heights[n - n_clusters - 1] if n_clusters < n else -np.inf
    labels = np.arange(n)
    for gone, kept, height in merges:
        if height <= highest:
            labels[labels == gone] = kept
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    numbers: IntArray = np.argsort(np.argsort(first))[inverse].astype(np.int64)
    return numbers


def _merges(distances: Float64Array) -> list[tuple[int, int, float]]:
    """All merges: of two clusters, known by an item each, the one that goes, the one that grows, and their distance.

    What two clusters that are each other's nearest become is nearer to nothing than they were, so they can be merged at
    once, whatever else is there. A chain from nearest neighbour to nearest neighbour ends at such a pair.
    """
    n = len(distances)
    np.fill_diagonal(distances, np.inf)
    sizes = np.ones(n)
    chain: list[int] = []
    merges = []
    for _ in range(n - 1):
        if not chain:
            chain.append(int(np.argmax(sizes > 0)))
        while True:
            row = distances[chain[-1]]
            nearest = int(row.argmin())
            # Of equals the one before, or the chain could go in circles.
            if len(chain) > 1 and row[chain[-2]] <= row[nearest]:
                break
            chain.append(nearest)
        gone, kept = sorted((chain.pop(), chain.pop()))
        between = float(distances[gone, kept])
        merges.append((gone, kept, between))
        # Lance and Williams's formula for Ward's method. What is gone is infinitely far, and stays it.
        share = 1.0 / (sizes[gone] + sizes[kept] + sizes)
        to_gone, to_kept = distances[gone], distances[kept]
        merged = np.sqrt(
            (sizes + sizes[gone]) * share * to_gone * to_gone
            + (sizes + sizes[kept]) * share * to_kept * to_kept
            - sizes * share * between * between
        )
        sizes[kept] += sizes[gone]
        sizes[gone] = 0
        distances[kept] = distances[:, kept] = merged
        distances[gone] = distances[:, gone] = np.inf
    return merges
