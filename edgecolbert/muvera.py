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
from edgecolbert.linalg import product
from edgecolbert.random_matrix import gaussian, signed_buckets

FloatArray = npt.NDArray[np.float32]

# The reference accepts up to 30; 2^16 partitions of one repetition are already far beyond use.
_MOST_PROJECTIONS = 16
_MOST_REPETITIONS = 1_000


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
        return int(self.settings.num_repetitions * self._width * 2**self.settings.num_simhash_projections)

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
        settings = self.settings
        n_tokens, repetitions, n_hashes = len(tokens), settings.num_repetitions, 2**settings.num_simhash_projections
        # Until the end a cell is known by its hash: the bits read as a number, of all repetitions one after the other.
        cells = self._hashes(tokens) + np.arange(repetitions) * n_hashes
        projected = tokens if self._projections is None else product(tokens, self._projections)
        projected = np.broadcast_to(projected.reshape(n_tokens, -1, self._width), (n_tokens, repetitions, self._width))
        components = cells[:, :, None] * self._width + np.arange(self._width)
        sums = np.bincount(components.ravel(), projected.ravel(), minlength=self.full_size)
        blocks = sums.astype(np.float32).reshape(-1, self._width)
        if document and n_tokens:
            sizes = np.bincount(cells.ravel(), minlength=len(blocks))
            blocks /= np.maximum(sizes, 1)[:, None].astype(np.float32)
            empty = np.flatnonzero(sizes == 0)
            if settings.fill_empty_partitions and len(empty):
                blocks[empty] = projected[self._nearest_by_hash(cells)[empty], empty // n_hashes]
        # The reference numbers the cells by Gray code.
        number = np.arange(n_hashes)
        encoding = blocks.reshape(repetitions, n_hashes, -1)[:, number ^ (number >> 1)].ravel()
        if settings.final_projection_dimension is None:
            return encoding
        buckets, signs = self._final_sketch
        sketch = np.bincount(buckets, weights=encoding * signs, minlength=settings.final_projection_dimension)
        return sketch.astype(np.float32)

    def _hashes(self, tokens: FloatArray) -> npt.NDArray[np.intp]:
        """Hash [n_tokens, num_repetitions] of each token in each repetition: a bit for each hyperplane."""
        settings = self.settings
        bits = product(tokens, self._hyperplanes) > 0
        hashes = np.zeros((len(tokens), settings.num_repetitions), dtype=np.intp)
        for bit in bits.reshape(len(tokens), settings.num_simhash_projections, -1).swapaxes(0, 1):
            hashes = (hashes << 1) + bit
        return hashes

    def _nearest_by_hash(self, cells: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """For each cell the first of the tokens whose hashes differ from its own in the fewest bits.

        Tokens are ranked by number of bits * n_tokens + position. The least rank of a cell is its own first token or,
        one bit farther, a neighbour's; taking the bits one after the other brings every token to every cell.
        """
        settings = self.settings
        n_tokens, n_bits = len(cells), settings.num_simhash_projections
        ranks = np.full(settings.num_repetitions * 2**n_bits, (n_bits + 1) * n_tokens)
        # Backwards, because of equal indices the last one stays.
        ranks[cells[::-1]] = np.arange(n_tokens)[::-1, None]
        for bit in range(n_bits):
            pairs = ranks.reshape(-1, 2, 2**bit)
            np.minimum(pairs, pairs[:, ::-1] + n_tokens, out=pairs)
        nearest: npt.NDArray[np.intp] = ranks % n_tokens
        return nearest

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
        return np.stack(matrices, axis=2).reshape(self.dim, -1)

    @cached_property
    def _projections(self) -> FloatArray | None:
        """AMS sketches side by side, [dim, num_repetitions * projection_dimension], None without inner projection.

        Each dimension goes to one output of each repetition, with a random sign.
        """
        settings = self.settings
        if settings.projection_dimension is None:
            return None
        matrix = np.zeros((self.dim, settings.num_repetitions, settings.projection_dimension), dtype=np.float32)
        for repetition in range(settings.num_repetitions):
            buckets, signs = signed_buckets("ams", settings.seed + repetition, self.dim, settings.projection_dimension)
            matrix[np.arange(self.dim), repetition, buckets] = signs
        return matrix.reshape(self.dim, -1)

    @cached_property
    def _final_sketch(self) -> tuple[npt.NDArray[np.intp], FloatArray]:
        return signed_buckets("count-sketch", self.settings.seed, self.full_size, self.size)
