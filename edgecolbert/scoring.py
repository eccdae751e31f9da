"""MaxSim, the score of late interaction: for each query token its best document token, summed.

Source: Khattab and Zaharia, ColBERT (2020), equation 3. Unlike PyLate's `rank.rerank`, which pads documents with zero
rows and thereby lifts negative maxima to 0 (rule R43), nothing here depends on which documents are scored together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edgecolbert.codec import QuantizedTokens
from edgecolbert.linalg import product

FloatArray = npt.NDArray[np.float32]
_Key = TypeVar("_Key")

# Rows unpacked to float32 at a time: 4k x 96 x 4 bytes stay in the cache.
_BLOCK_ROWS = 4_096


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
    for positions, block in maxsim_blocks(queries, enumerate(documents)):
        scores[:, positions] = block
    return scores


def maxsim_blocks(
    queries: Sequence[FloatArray], documents: Iterable[tuple[_Key, QuantizedTokens]]
) -> Iterator[tuple[list[_Key], FloatArray]]:
    """The same for a stream of documents, none of which is held longer than it takes to unpack it.

    Args:
        queries: float32 [n_query_tokens, dim] of each query.
        documents: Pairs of anything and int8 token embeddings.

    Yields:
        Some of those things, in order, and their documents' scores, float32 [len(queries), how many].
    """
    columns = [np.ascontiguousarray(query.T) for query in queries]
    # One buffer for all blocks: fresh memory for each would cost more than the products.
    buffer = np.empty((0, 0), dtype=np.float32)
    keys: list[_Key] = []
    lengths: list[int] = []
    scales: list[float] = []
    rows = 0
    for key, (values, scale) in documents:
        n_tokens = len(values)
        if keys and rows + n_tokens > _BLOCK_ROWS:
            yield keys, _block_scores(columns, buffer[:rows], lengths, scales)
            keys, lengths, scales, rows = [], [], [], 0
        if rows + n_tokens > len(buffer):
            # The first document, or one that is longer than a block and has the buffer to itself.
            buffer = np.empty((max(_BLOCK_ROWS, n_tokens), values.shape[1]), dtype=np.float32)
        if n_tokens:
            buffer[rows : rows + n_tokens] = values
        rows += n_tokens
        keys.append(key)
        lengths.append(n_tokens)
        scales.append(scale)
    if keys:
        yield keys, _block_scores(columns, buffer[:rows], lengths, scales)


def _block_scores(
    columns: Sequence[FloatArray], values: FloatArray, lengths: list[int], scales: list[float]
) -> FloatArray:
    sizes = np.array(lengths)
    filled = np.flatnonzero(sizes)
    starts = (np.cumsum(sizes) - sizes)[filled]
    weights = np.array(scales, dtype=np.float32)[filled]
    scores = np.empty((len(columns), len(lengths)), dtype=np.float32)
    for row, query in zip(scores, columns, strict=True):
        row[:] = -query.shape[1]
        if query.size and len(filled):
            best = np.maximum.reduceat(product(values, query), starts, axis=0)
            row[filled] = best.sum(axis=1, dtype=np.float32) * weights
    return scores
