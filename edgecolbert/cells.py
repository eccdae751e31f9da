"""Cells: spherical k-means over token embeddings, and finding the cell that a token is in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgecolbert.errors import InputError
from edgecolbert.linalg import product

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

_ITERATIONS = 12
# More tokens than this for each cell move a k-means centre by less than its own noise.
_TOKENS_PER_CELL = 256
# Rows compared with all centres at a time, to bound memory.
_BLOCK_ROWS = 4_096

# From this many cells on, a token is compared with the cells of its nearest groups only. With 4,096 cells that takes
# well under half the time, and 97 tokens in 100 get the same cell; the others get one that is hardly farther.
_GROUPED_FROM = 1_024
_PROBED_GROUPS = 8
_GROUP_ITERATIONS = 6


@dataclass(frozen=True)
class Cells:
    """A partition of the unit sphere, by nearest centre.

    Attributes:
        centres: float32 [num_cells, dim], rows of unit length.
    """

    centres: FloatArray

    def __len__(self) -> int:
        """Number of cells."""
        return len(self.centres)

    def nearness(self, tokens: FloatArray) -> FloatArray:
        """Inner products with all centres.

        Args:
            tokens: float32 [n_tokens, dim].

        Returns:
            float32 [n_tokens, num_cells].
        """
        return product(tokens, self.centres.T)

    def nearest(self, tokens: FloatArray) -> IntArray:
        """The cell of each token: the nearest one, or with many cells nearly always the nearest one.

        Args:
            tokens: float32 [n_tokens, dim].

        Returns:
            int64 [n_tokens]. A token's cell does not depend on the other tokens.
        """
        cells = np.empty(len(tokens), dtype=np.int64)
        for first in range(0, len(tokens), _BLOCK_ROWS):
            block = tokens[first : first + _BLOCK_ROWS]
            found = self._nearest_grouped(block) if len(self) >= _GROUPED_FROM else self.nearness(block).argmax(axis=1)
            cells[first : first + len(block)] = found
        return cells

    def _nearest_grouped(self, tokens: FloatArray) -> IntArray:
        middles, members, columns = self._groups
        nearness = product(tokens, middles.T)
        # Cells that are nearly all the same fall into fewer groups than that.
        n_probed = min(_PROBED_GROUPS, len(middles))
        probed = np.argpartition(-nearness, n_probed - 1, axis=1)[:, :n_probed]
        # Pairs of token and group, in the order of the groups, so that each group is one matrix product.
        order = np.argsort(probed, axis=None, kind="stable")
        rows = order // n_probed
        bounds = np.searchsorted(probed.ravel()[order], np.arange(len(middles) + 1))
        best = np.full(len(tokens), -np.inf, dtype=np.float32)
        cells = np.zeros(len(tokens), dtype=np.int64)
        for group, (start, end) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
            if start == end:
                continue
            these = rows[start:end]
            near = product(tokens[these], columns[group])
            inside = near.argmax(axis=1)
            height = near[np.arange(len(these)), inside]
            better = height > best[these]
            best[these[better]] = height[better]
            cells[these[better]] = members[group][inside[better]]
        return cells

    @cached_property
    def _groups(self) -> tuple[FloatArray, list[IntArray], list[FloatArray]]:
        """Middles of about as many groups as a group has cells; the cells of each, and their centres as columns."""
        middles = fit_cells(self.centres, round(len(self) ** 0.5), iterations=_GROUP_ITERATIONS)
        group_of = product(self.centres, middles.T).argmax(axis=1)
        members = [np.flatnonzero(group_of == group) for group in range(len(middles))]
        filled = [group for group, cells in enumerate(members) if len(cells)]
        return (
            middles[filled],
            [members[group] for group in filled],
            [np.ascontiguousarray(self.centres[members[group]].T) for group in filled],
        )


def fit_cells(
    tokens: FloatArray,
    num_cells: int,
    *,
    start: FloatArray | None = None,
    iterations: int = _ITERATIONS,
    seed: int = 0,
) -> FloatArray:
    """Learn cells from token embeddings by spherical k-means.

    Args:
        tokens: float32 [n_tokens, dim]; a random part of them is used where there are very many.
        num_cells: Wanted number of cells.
        start: float32 [num_cells, dim] to begin with, such as cells of similar texts; None for random tokens.
        iterations: How often all tokens are assigned again.
        seed: Seed of the sample and of the first centres.

    Returns:
        float32 [at most num_cells, dim], rows of unit length, cells with many tokens first; fewer where there are not
        as many different tokens.

    Raises:
        InputError: If there is no token to learn from, or `num_cells` is less than one.
    """
    if len(tokens) == 0 or num_cells < 1:
        raise InputError(f"Cells cannot be fitted: num_cells is {num_cells}, and there are {len(tokens)} tokens.")
    generator = np.random.default_rng(seed)
    most = num_cells * _TOKENS_PER_CELL
    if len(tokens) > most:
        tokens = tokens[np.sort(generator.choice(len(tokens), most, replace=False))]
    if start is None:
        if len(tokens) <= num_cells * 8:
            tokens = np.unique(tokens, axis=0)
        start = tokens[generator.choice(len(tokens), min(num_cells, len(tokens)), replace=False)]
    centres = start.copy()
    sizes = np.zeros(len(centres), dtype=np.int64)
    for _ in range(iterations):
        nearest = Cells(centres).nearest(tokens)
        sizes = np.bincount(nearest, minlength=len(centres))
        sums = np.zeros_like(centres)
        add_groups(sums, nearest, tokens)
        # A centre that lost all its tokens starts again at the token that is farthest from its own.
        lost = np.flatnonzero(sizes == 0)
        if len(lost):
            nearness = np.einsum("ij,ij->i", tokens, centres[nearest])
            sums[lost[: len(tokens)]] = tokens[np.argsort(nearness, kind="stable")[: len(lost)]]
        centres = unit_rows(sums)
    return centres[np.argsort(-sizes, kind="stable")]


def unit_rows(rows: FloatArray) -> FloatArray:
    """Each row divided by its length; a row of zeros stays.

    Args:
        rows: float32 [n, dim].

    Returns:
        float32 [n, dim].
    """
    lengths: FloatArray = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, np.maximum(lengths, np.float32(1e-12)), dtype=np.float32)


def add_groups(sums: FloatArray, groups: IntArray, rows: FloatArray) -> None:
    """Add each row to the sum of its group, in place.

    Args:
        sums: float32 [n_groups, dim].
        groups: int64 [n], each row's group.
        rows: float32 [n, dim].
    """
    if not len(rows):
        return
    order = np.argsort(groups, kind="stable")
    present, starts = np.unique(groups[order], return_index=True)
    sums[present] += np.add.reduceat(rows[order], starts, axis=0)
