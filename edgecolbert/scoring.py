"""MaxSim, the score of late interaction: for each query token its best document token, summed.

Source: Khattab and Zaharia, ColBERT (2020), equation 3. Unlike PyLate's `rank.rerank`, which pads documents with zero
rows and thereby lifts negative maxima to 0 (rule R43), nothing here depends on which documents are scored together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from edgecolbert.codec import QuantizedTokens
from edgecolbert.kernels import TILE, RoundedQuery, round_query, tile_maxima, tiles_of

FloatArray = npt.NDArray[np.float32]
_Key = TypeVar("_Key")

# Document tokens scored at a time, and query tokens: a few megabytes of products of 4 bytes. Smaller blocks cost more
# calls than they save (4,096 rows: a tenth more time for 100 documents), larger ones memory.
_BLOCK_ROWS = 16_384
_GROUP_COLUMNS = 64


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
    """The MaxSim scores of documents of any lengths for several queries.

    Stored tokens are taken as they are, query tokens are rounded to 16 bits (`kernels`). With unit vectors a score is
    off by some 1e-5 for it, and the same to the last bit whichever documents are scored together, and how.

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
    """The same for a stream of documents, of which a few thousand tokens are held at a time.

    Args:
        queries: float32 [n_query_tokens, dim] of each query.
        documents: Pairs of anything and int8 token embeddings.

    Yields:
        Some of those things, in order, and their documents' scores, float32 [len(queries), how many].
    """
    groups = list(_groups(queries))
    keys: list[_Key] = []
    block: list[QuantizedTokens] = []
    rows = 0
    for key, tokens in documents:
        n_tokens = len(tokens.values)
        if keys and rows + n_tokens > _BLOCK_ROWS:
            yield keys, _block_scores(len(queries), groups, block)
            keys, block, rows = [], [], 0
        keys.append(key)
        block.append(tokens)
        rows += n_tokens
    if keys:
        yield keys, _block_scores(len(queries), groups, block)


class _Group(NamedTuple):
    """Queries whose tokens are multiplied together: their positions, where the tokens of each begin, and all tokens."""

    positions: list[int]
    starts: list[int]
    tokens: RoundedQuery


def _groups(queries: Sequence[FloatArray]) -> Iterator[_Group]:
    positions: list[int] = []
    starts: list[int] = []
    columns = 0
    for position, query in enumerate(queries):
        if positions and columns + len(query) > _GROUP_COLUMNS:
            yield _Group(positions, starts, round_query(np.concatenate([queries[i] for i in positions])))
            positions, starts, columns = [], [], 0
        if len(query):
            positions.append(position)
            starts.append(columns)
            columns += len(query)
    if positions:
        yield _Group(positions, starts, round_query(np.concatenate([queries[i] for i in positions])))


def _block_scores(n_queries: int, groups: Sequence[_Group], documents: Sequence[QuantizedTokens]) -> FloatArray:
    """float32 [n_queries, len(documents)]."""
    scores = np.zeros((n_queries, len(documents)), dtype=np.float32)
    filled = [tokens for tokens in documents if len(tokens.values)]
    if filled:
        tiles = tiles_of([tokens.values for tokens in filled])
        first_tiles = [0, *accumulate(-(-len(tokens.values) // TILE) for tokens in filled[:-1])]
        scales = np.array([tokens.scale for tokens in filled])
        has_tokens = slice(None) if len(filled) == len(documents) else [len(t.values) > 0 for t in documents]
    for positions, starts, query in groups:
        part = np.repeat(-np.diff([*starts, len(query.steps)])[:, None], len(documents), axis=1).astype(np.float32)
        if filled:
            best = np.maximum.reduceat(tile_maxima(tiles, query), first_tiles, axis=0) * query.steps
            part[:, has_tokens] = np.add.reduceat(best, starts, axis=1).T * scales
        scores[positions] = part
    return scores
