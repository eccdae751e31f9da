"""The fitted encoding: like MUVERA, but its cells are learned from token embeddings instead of drawn at random.

Four changes to MUVERA's fixed dimensional encoding, each measured (docs/first-stage.md): k-means cells instead of
random hyperplanes; all dimensions once instead of many random projections; cell means of unit length, because
averaging many tokens shrinks a mean and so punishes long documents; and tokens near a border that count on both sides
of it, because a query token and its match may lie on different ones. It also does not collapse on models whose token
embeddings share a common direction, as random hyperplanes do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgecolbert.errors import InputError
from edgecolbert.linalg import product

FloatArray = npt.NDArray[np.float32]

# How tokens near a border are shared out; measured on five collections (docs/first-stage.md), flat around these.
_QUERY_CELLS = 2
_QUERY_TEMPERATURE = 0.07
_REFINE_CELLS = 8
_DOCUMENT_SHARE = 0.5
_DOCUMENT_TEMPERATURE = 0.05

_ITERATIONS = 12
# More tokens than this for each cell move a k-means centre by less than its own noise.
_TOKENS_PER_CELL = 256
# Rows compared with all centres at a time, to bound memory.
_BLOCK_ROWS = 16_384


@dataclass(frozen=True)
class CellEncoding:
    """The encoding over given cells.

    Attributes:
        cells: float32 [num_cells, dim], the k-means centres, of unit length.
    """

    cells: FloatArray

    @property
    def size(self) -> int:
        """Number of components of one encoding."""
        return int(self.cells.size)

    def document_fde(self, tokens: FloatArray) -> FloatArray:
        """Encode a document: for each cell the direction of the weighted mean of its tokens.

        A token counts fully in its nearest cell and partly in the next. A cell without tokens gets the token nearest to
        it, as MUVERA fills empty partitions.

        Args:
            tokens: float32 [n_tokens, dim], rows of unit length.

        Returns:
            float32 [num_cells * dim], each cell of unit length; zero for a document without tokens.
        """
        if len(tokens) == 0:
            return np.zeros(self.size, dtype=np.float32)
        nearness = product(tokens, self.cells.T)
        members = _document_weights(nearness)
        sums = product(members, tokens)
        # Only a token's own cell counts as filled: a neighbour's share is too weak to stand for a cell alone.
        empty = np.flatnonzero(np.bincount(nearness.argmax(axis=1), minlength=len(self.cells)) == 0)
        sums[empty] = tokens[nearness[:, empty].argmax(axis=0)]
        return _unit(sums).ravel()

    def query_fde(self, tokens: FloatArray) -> FloatArray:
        """Encode a query: each token shared out to its nearest cells, so encodings of parts add up to the whole's.

        Args:
            tokens: float32 [n_query_tokens, dim].

        Returns:
            float32 [num_cells * dim].
        """
        if len(tokens) == 0:
            return np.zeros(self.size, dtype=np.float32)
        encoding: FloatArray = product(_query_weights(product(tokens, self.cells.T)), tokens).ravel()
        return encoding

    def refined_scores(self, tokens: FloatArray, codes: npt.NDArray[np.int8]) -> FloatArray:
        """Score codes more finely than one inner product can: each query token by its best cell, as MaxSim would.

        An inner product adds up what a token finds in each cell it was shared out to; here only the best of its
        nearest cells counts. It costs one small product for each token, so it is for candidates, not for a scan.

        Args:
            tokens: float32 [n_query_tokens, dim].
            codes: int8 [n, num_cells * dim], document encodings with one common scale.

        Returns:
            float32 [n], comparable with each other only.
        """
        n_cells, dim = self.cells.shape
        blocks = codes.reshape(len(codes), n_cells, dim)
        width = min(_REFINE_CELLS, n_cells)
        nearest = np.argpartition(-product(tokens, self.cells.T), width - 1, axis=1)[:, :width]
        scores = np.zeros(len(codes), dtype=np.float32)
        for token, cells in zip(tokens, nearest, strict=True):
            near = blocks[:, cells].astype(np.float32).reshape(-1, dim)
            scores += product(near, token[:, None]).reshape(-1, width).max(axis=1)
        return scores


def fit_cells(tokens: FloatArray, num_cells: int, *, seed: int = 0) -> FloatArray:
    """Learn cells from token embeddings by spherical k-means.

    Args:
        tokens: float32 [n_tokens, dim]; a random part of them is used where there are very many.
        num_cells: Wanted number of cells.
        seed: Seed of the sample and of the first centres.

    Returns:
        float32 [at most num_cells, dim], rows of unit length; fewer where there are not as many different tokens.

    Raises:
        InputError: If there is no token to learn from, or `num_cells` is less than one.
    """
    if len(tokens) == 0 or num_cells < 1:
        raise InputError(f"Cells cannot be fitted: num_cells is {num_cells}, and there are {len(tokens)} tokens.")
    generator = np.random.default_rng(seed)
    most = num_cells * _TOKENS_PER_CELL
    if len(tokens) > most:
        tokens = tokens[np.sort(generator.choice(len(tokens), most, replace=False))]
    if len(tokens) <= num_cells * 8:
        tokens = np.unique(tokens, axis=0)
    centres = tokens[generator.choice(len(tokens), min(num_cells, len(tokens)), replace=False)].copy()
    for _ in range(_ITERATIONS):
        sums = np.zeros_like(centres)
        sizes = np.zeros(len(centres), dtype=np.int64)
        loneliest = (np.inf, tokens[0])
        for first in range(0, len(tokens), _BLOCK_ROWS):
            block = tokens[first : first + _BLOCK_ROWS]
            nearness = product(block, centres.T)
            nearest = nearness.argmax(axis=1)
            _add_groups(sums, nearest, block)
            sizes += np.bincount(nearest, minlength=len(centres))
            best = nearness[np.arange(len(block)), nearest]
            loneliest = min(loneliest, (float(best.min()), block[best.argmin()]), key=lambda pair: pair[0])
        filled = sizes > 0
        centres[filled] = _unit(sums[filled])
        # A centre that lost all its tokens starts again at the token that is farthest from every centre.
        centres[np.flatnonzero(~filled)[:1]] = loneliest[1]
    return centres


def _unit(rows: FloatArray) -> FloatArray:
    lengths: FloatArray = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, np.maximum(lengths, np.float32(1e-12)), dtype=np.float32)


def _query_weights(nearness: FloatArray) -> FloatArray:
    """float32 [num_cells, n_query_tokens]: how much of each token goes to each of its nearest cells, in all 1."""
    n_tokens, n_cells = nearness.shape
    width = min(_QUERY_CELLS, n_cells)
    nearest = np.argpartition(-nearness, width - 1, axis=1)[:, :width]
    near = np.take_along_axis(nearness, nearest, axis=1)
    shares = np.exp((near - near.max(axis=1, keepdims=True)) / np.float32(_QUERY_TEMPERATURE))
    weights = np.zeros((n_cells, n_tokens), dtype=np.float32)
    weights[nearest, np.arange(n_tokens)[:, None]] = shares / shares.sum(axis=1, keepdims=True)
    return weights


def _document_weights(nearness: FloatArray) -> FloatArray:
    """float32 [num_cells, n_tokens]: 1 for each token's nearest cell, less for the next one the farther it is."""
    n_tokens, n_cells = nearness.shape
    if n_cells == 1:
        return np.ones((1, n_tokens), dtype=np.float32)
    pair = np.argpartition(-nearness, 1, axis=1)[:, :2]
    near = np.take_along_axis(nearness, pair, axis=1)
    gap = np.abs(near[:, 0] - near[:, 1])
    share = np.float32(_DOCUMENT_SHARE) * np.exp(-gap / np.float32(_DOCUMENT_TEMPERATURE))
    first_is_nearest = near[:, 0] >= near[:, 1]
    weights = np.zeros((n_cells, n_tokens), dtype=np.float32)
    tokens = np.arange(n_tokens)
    weights[pair[:, 0], tokens] = np.where(first_is_nearest, 1.0, share)
    weights[pair[:, 1], tokens] = np.where(first_is_nearest, share, 1.0)
    return weights


def _add_groups(sums: FloatArray, groups: npt.NDArray[np.intp], rows: FloatArray) -> None:
    """Add each row to the sum of its group, in place."""
    order = np.argsort(groups, kind="stable")
    present, starts = np.unique(groups[order], return_index=True)
    sums[present] += np.add.reduceat(rows[order], starts, axis=0)
