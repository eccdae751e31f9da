"""MaxSim, the score of late interaction: for each query token its best document token, summed.

Source: Khattab and Zaharia, ColBERT (2020), equation 3. Unlike PyLate's `rank.rerank`, which pads documents with zero
rows and thereby lifts negative maxima to 0 (rule R43), nothing here depends on which documents are scored together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgecolbert.codec import PackedTokens, QuantizedTokens
from edgecolbert.linalg import product

FloatArray = npt.NDArray[np.float32]

# Rows unpacked to float32 at a time: 8k x 96 x 4 bytes stay in the second-level cache of small boards.
_BLOCK_ROWS = 8_192


def maxsim(query: FloatArray, document: FloatArray) -> float:
    """The MaxSim score of one document.

    Args:
        query: float32 [n_query_tokens, dim].
        document: float32 [n_tokens, dim].

    Returns:
        The sum over query tokens of the largest inner product with a document token. A document without tokens has
        the least score that unit vectors can have, minus one for each query token.

    Examples:
        >>> maxsim(np.eye(2, dtype=np.float32), np.array([[1.0, 0.0]], dtype=np.float32))
        1.0
    """
    if len(document) == 0:
        return -float(len(query))
    return float((query @ document.T).max(axis=1).sum()) if len(query) else 0.0


def maxsim_packed(queries: Sequence[FloatArray], documents: Sequence[QuantizedTokens]) -> FloatArray:
    """The MaxSim scores of documents of any lengths for several queries, exact to the stored int8 values.

    Args:
        queries: float32 [n_query_tokens, dim] of each query.
        documents: int8 token embeddings of each document.

    Returns:
        float32 [len(queries), len(documents)]. A document without tokens scores as in `maxsim`.
    """
    if not documents:
        return np.empty((len(queries), 0), dtype=np.float32)
    return score_packed(queries, PackedTokens.pack(documents))


def score_packed(queries: Sequence[FloatArray], documents: PackedTokens) -> FloatArray:
    """The same as `maxsim_packed` for documents that lie end to end already.

    Args:
        queries: float32 [n_query_tokens, dim] of each query.
        documents: int8 token embeddings.

    Returns:
        float32 [len(queries), n_documents].
    """
    scores = np.empty((len(queries), len(documents.lengths)), dtype=np.float32)
    for row, query in zip(scores, queries, strict=True):
        row[:] = -len(query)
    ends = np.cumsum(documents.lengths)
    filled = np.flatnonzero(documents.lengths)
    first = 0
    while first < len(filled):
        # As many whole documents as fit a block; a longer one is a block of its own.
        begin = ends[filled[first]] - documents.lengths[filled[first]]
        last = max(first + 1, int(np.searchsorted(ends[filled], begin + _BLOCK_ROWS, side="right")))
        block = filled[first:last]
        values = documents.values[begin : ends[block[-1]]].astype(np.float32)
        starts = ends[block] - documents.lengths[block] - begin
        for row, query in zip(scores, queries, strict=True):
            if len(query):
                best = np.maximum.reduceat(product(values, query.T), starts, axis=0)
                row[block] = best.sum(axis=1, dtype=np.float32) * documents.scales[block]
        first = last
    return scores
