"""MUVERA: a set of token embeddings to one vector whose inner products approximate MaxSim.

Source: Dhulipala et al., MUVERA: Multi-Vector Retrieval via Fixed Dimensional Encodings (2024), sections 2.1 and 2.2,
and the authors' reference implementation, graph-mining/sketching/point_cloud/fixed_dimensional_encoding.cc, whose
parameter names are kept. The random matrices are our own (`random_matrix`): theirs depend on the C++ library.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgecolbert.errors import InputError, InputTypeError
from edgecolbert.linalg import SINGLE_THREAD, product
from edgecolbert.random_matrix import gaussian, signed_buckets

FloatArray = npt.NDArray[np.float32]

# The reference accepts up to 30; 2^16 partitions of one repetition are already far beyond use.
_MOST_PROJECTIONS = 16
_MOST_REPETITIONS = 1_000
# Repetitions are encoded in parts whose arrays have at most this many values. The C library's allocator gives larger
# ones back to the system after every document, and getting them again took longer than the arithmetic.
_PART = 65_536


@dataclass(frozen=True)
class MuveraSettings:
    """The reference's parameters.

    Attributes:
        num_repetitions: Independent partitions, each with its own matrices.
        num_simhash_projections: Hyperplanes of one partition; it has two to this power cells. 0 means one cell.
        projection_dimension: Each cell's size after a random inner projection, or None to keep all dimensions.
        fill_empty_partitions: Give a document's empty cell the token whose hash is nearest to it.
        final_projection_dimension: Size after a count sketch over everything, or None for none.
        seed: Seed of the matrices.
    """

    num_repetitions: int = 20
    num_simhash_projections: int = 4
    projection_dimension: int | None = 16
    fill_empty_partitions: bool = True
    final_projection_dimension: int | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            InputTypeError: If a value has the wrong type.
            InputError: If a number is out of its range.
        """
        for name, value in vars(self).items():
            whole = isinstance(value, int) and not isinstance(value, bool)
            fits = isinstance(value, bool) if name.startswith("fill") else whole
            if not fits and not (value is None and name.endswith("projection_dimension")):
                raise InputTypeError(
                    f"{name} is {value!r}, expected {'a boolean' if 'fill' in name else 'a whole number'}."
                )
        if not 1 <= self.num_repetitions <= _MOST_REPETITIONS:
            raise InputError(f"num_repetitions is {self.num_repetitions}, expected 1 to {_MOST_REPETITIONS}.")
        if not 0 <= self.num_simhash_projections <= _MOST_PROJECTIONS:
            raise InputError(
                f"num_simhash_projections is {self.num_simhash_projections}, expected 0 to {_MOST_PROJECTIONS}."
            )
        for name in ("projection_dimension", "final_projection_dimension"):
            size = getattr(self, name)
            if size is not None and not 1 <= size <= 65_536:
                raise InputError(f"{name} is {size}, expected 1 to 65536, or None for no projection.")


@dataclass(frozen=True)
class Muvera:
    """The encoding for token embeddings of one size.

    Attributes:
        settings: The parameters.
        dim: Size of one token embedding.
    """

    settings: MuveraSettings
    dim: int

    @property
    def size(self) -> int:
        """Number of components of one encoding."""
        return self.settings.final_projection_dimension or self.full_size

    @property
    def full_size(self) -> int:
        """Number of components before the final projection."""
        return int(self.settings.num_repetitions * self._n_cells * self._width)

    def document_fde(self, tokens: FloatArray) -> FloatArray:
        """Encode a document: the mean of the tokens of each cell.

        Args:
            tokens: float32 [n_tokens, dim].

        Returns:
            float32 [size]; zero for a document without tokens.
        """
        return self._encode(tokens, document=True)

    def query_fde(self, tokens: FloatArray) -> FloatArray:
        """Encode a query: the sum of the tokens of each cell, so encodings of parts add up to that of the whole.

        Args:
            tokens: float32 [n_query_tokens, dim].

        Returns:
            float32 [size].
        """
        return self._encode(tokens, document=False)

    def _encode(self, tokens: FloatArray, *, document: bool) -> FloatArray:
        repetitions, n_cells = self.settings.num_repetitions, self._n_cells
        if not len(tokens):
            return np.zeros(self.size, dtype=np.float32)
        hashes = self._hashes(tokens)
        # Cells come in the order of their hashes, and the reference numbers them by Gray code.
        by_number = np.arange(n_cells) ^ (np.arange(n_cells) >> 1)
        encoding = np.empty((repetitions, n_cells, self._width), dtype=np.float32)
        step = max(1, _PART // (len(tokens) * max(n_cells, self._width)))
        for first in range(0, repetitions, step):
            part = slice(first, first + step)
            weights = self._weights(hashes[part], document=document)
            encoding[part] = _products(weights, self._projected(tokens, part))[:, by_number]
        if self.settings.final_projection_dimension is None:
            return encoding.ravel()
        buckets, signs = self._final_sketch
        return np.bincount(buckets, weights=encoding.ravel() * signs, minlength=self.size).astype(np.float32)

    def _hashes(self, tokens: FloatArray) -> npt.NDArray[np.intp]:
        """Hash [num_repetitions, n_tokens] of each token: a bit for each hyperplane of the repetition."""
        n_bits, repetitions = self.settings.num_simhash_projections, self.settings.num_repetitions
        bits = (product(tokens, self._hyperplanes) > 0).reshape(len(tokens), n_bits, repetitions)
        hashes = np.zeros((len(tokens), repetitions), dtype=np.intp)
        for bit in range(n_bits):
            hashes += hashes
            hashes += bits[:, bit]
        return hashes.T

    def _weights(self, hashes: npt.NDArray[np.intp], *, document: bool) -> FloatArray:
        """What each token counts in each cell [repetitions, n_cells, n_tokens]: its sum, or its mean in a document."""
        repetitions, n_tokens = hashes.shape
        weights = np.zeros((repetitions * self._n_cells, n_tokens), dtype=np.float32)
        cells = hashes + np.arange(0, len(weights), self._n_cells)[:, None]
        places = cells * n_tokens + np.arange(n_tokens)
        if document:
            sizes = np.bincount(cells.ravel(), minlength=len(weights))
            weights.ravel()[places] = (1 / np.maximum(sizes, 1)).astype(np.float32)[cells]
            empty = np.flatnonzero(sizes == 0)
            if self.settings.fill_empty_partitions and len(empty):
                weights[empty, self._nearest_by_hash(cells)[empty]] = 1
        else:
            weights.ravel()[places] = 1
        return weights.reshape(repetitions, self._n_cells, n_tokens)

    def _nearest_by_hash(self, cells: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """For each cell the first of the tokens whose hashes differ from its own in the fewest bits.

        A token's rank for a cell is (differing bits) * n_tokens + its position, so the least rank is the one wanted. A
        cell starts with its own first token and then looks across one bit after the other, which in the end has
        brought every token to every cell, at one step for each bit that differs.
        """
        repetitions, n_tokens = cells.shape
        n_bits = self.settings.num_simhash_projections
        ranks = np.full(repetitions * self._n_cells, (n_bits + 1) * n_tokens)
        np.minimum.at(ranks, cells.ravel(), np.tile(np.arange(n_tokens), repetitions))
        for bit in range(n_bits):
            pairs = ranks.reshape(-1, 2, 2**bit)
            np.minimum(pairs, pairs[:, ::-1] + n_tokens, out=pairs)
        nearest: npt.NDArray[np.intp] = ranks % n_tokens
        return nearest

    def _projected(self, tokens: FloatArray, part: slice) -> FloatArray:
        """Tokens [repetitions, n_tokens, width] after the inner projections of some repetitions; [1, ...] without."""
        if self._projections is None:
            return tokens[None]
        matrices = self._projections[:, part].reshape(self.dim, -1)
        return product(tokens, matrices).reshape(len(tokens), -1, self._width).swapaxes(0, 1)

    @property
    def _n_cells(self) -> int:
        """Number of cells of one repetition."""
        return int(2**self.settings.num_simhash_projections)

    @property
    def _width(self) -> int:
        """Number of components of one cell."""
        return self.settings.projection_dimension or self.dim

    @cached_property
    def _hyperplanes(self) -> FloatArray:
        """[dim, num_simhash_projections * num_repetitions]: the first one of every repetition, then the second ones."""
        settings = self.settings
        shape = (self.dim, settings.num_simhash_projections)
        matrices = [gaussian("simhash", settings.seed + r, shape) for r in range(settings.num_repetitions)]
        return np.stack(matrices, axis=2).reshape(self.dim, shape[1] * len(matrices))

    @cached_property
    def _projections(self) -> FloatArray | None:
        """AMS sketches [dim, num_repetitions, projection_dimension], None without inner projection.

        Each dimension goes to one output of each repetition, with a random sign.
        """
        settings = self.settings
        if settings.projection_dimension is None:
            return None
        matrix = np.zeros((self.dim, settings.num_repetitions, settings.projection_dimension), dtype=np.float32)
        for repetition in range(settings.num_repetitions):
            buckets, signs = signed_buckets("ams", settings.seed + repetition, self.dim, settings.projection_dimension)
            matrix[np.arange(self.dim), repetition, buckets] = signs
        return matrix

    @cached_property
    def _final_sketch(self) -> tuple[npt.NDArray[np.intp], FloatArray]:
        return signed_buckets("count-sketch", self.settings.seed, self.full_size, self.size)


def _products(left: FloatArray, right: FloatArray) -> FloatArray:
    """`left @ right` of stacks of matrices without threads of BLAS; `right` may be one matrix for all."""
    repetitions, n_cells, n_tokens = left.shape
    if len(right) == 1:
        return product(left.reshape(-1, n_tokens), right[0]).reshape(repetitions, n_cells, -1)
    if n_cells * n_tokens * right.shape[2] <= SINGLE_THREAD:
        products: FloatArray = np.matmul(left, right)
    else:
        products = np.stack([product(*pair) for pair in zip(left, right, strict=True)])
    return products
