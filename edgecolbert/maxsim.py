"""MaxSim, the score of late interaction: for each query token its best document token, summed.

Source: Khattab and Zaharia, ColBERT (2020), equation 3. Unlike PyLate's `rank.rerank`, which pads documents with zero
rows and thereby lifts negative maxima to 0 (rule R43), nothing here depends on which documents are scored together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgecolbert.codec import QuantizedTokens
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
    scores = np.empty((len(queries), len(documents)), dtype=np.float32)
    for row, query in zip(scores, queries, strict=True):
        row[:] = -len(query)
    block: list[int] = []
    rows = 0
    for position, document in enumerate(documents):
        if len(document.values) == 0:
            continue
        block.append(position)
        rows += len(document.values)
        if rows >= _BLOCK_ROWS:
            scores[:, block] = _score_block(queries, [documents[i] for i in block])
            block, rows = [], 0
    if block:
        scores[:, block] = _score_block(queries, [documents[i] for i in block])
    return scores


def _score_block(queries: Sequence[FloatArray], documents: list[QuantizedTokens]) -> FloatArray:
    lengths = [len(document.values) for document in documents]
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    values = np.concatenate([document.values for document in documents]).astype(np.float32)
    scales = np.array([document.scale for document in documents], dtype=np.float32)
    scores = np.empty((len(queries), len(documents)), dtype=np.float32)
    for row, query in zip(scores, queries, strict=True):
        best = np.maximum.reduceat(product(values, query.T), starts, axis=0)
        row[:] = best.sum(axis=1, dtype=np.float32) * scales
    return scores
