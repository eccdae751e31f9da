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
        width = self.settings.projection_dimension or self.dim
        return int(self.settings.num_repetitions * width * 2**self.settings.num_simhash_projections)

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
        n_partitions = 2**settings.num_simhash_projections
        blocks = []
        for repetition in range(settings.num_repetitions):
            bits = product(tokens, self._hyperplanes[repetition]) > 0
            partition = _gray_code_index(bits)
            projected = product(tokens, self._projections[repetition]) if self._projections else tokens
            block = np.zeros((n_partitions, projected.shape[1]), dtype=np.float32)
            np.add.at(block, partition, projected)
            if document and len(tokens):
                sizes = np.bincount(partition, minlength=n_partitions)
                block /= np.maximum(sizes, 1)[:, None].astype(np.float32)
                if settings.fill_empty_partitions and settings.num_simhash_projections:
                    empty = np.flatnonzero(sizes == 0)
                    block[empty] = projected[_nearest_by_hash(bits, empty)]
            blocks.append(block.ravel())
        encoding = np.concatenate(blocks)
        if settings.final_projection_dimension is None:
            return encoding
        buckets, signs = self._final_sketch
        sketch = np.bincount(buckets, weights=encoding * signs, minlength=settings.final_projection_dimension)
        return sketch.astype(np.float32)

    @cached_property
    def _hyperplanes(self) -> list[FloatArray]:
        settings = self.settings
        shape = (self.dim, settings.num_simhash_projections)
        return [gaussian("simhash", settings.seed + r, shape) for r in range(settings.num_repetitions)]

    @cached_property
    def _projections(self) -> list[FloatArray]:
        """AMS sketches: each dimension goes to one output, with a random sign. Empty without an inner projection."""
        settings = self.settings
        if settings.projection_dimension is None:
            return []
        matrices = []
        for repetition in range(settings.num_repetitions):
            buckets, signs = signed_buckets("ams", settings.seed + repetition, self.dim, settings.projection_dimension)
            matrix = np.zeros((self.dim, settings.projection_dimension), dtype=np.float32)
            matrix[np.arange(self.dim), buckets] = signs
            matrices.append(matrix)
        return matrices

    @cached_property
    def _final_sketch(self) -> tuple[npt.NDArray[np.intp], FloatArray]:
        return signed_buckets("count-sketch", self.settings.seed, self.full_size, self.size)


def _gray_code_index(bits: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Partition numbers [n_tokens] of hash bits [n_tokens, k], numbered by Gray code as in the reference."""
    index = np.zeros(len(bits), dtype=np.intp)
    for bit in bits.T:
        index = (index << 1) + (bit ^ (index & 1))
    return index


def _nearest_by_hash(bits: npt.NDArray[np.bool_], partitions: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """For each partition the first token whose hash differs from it in the fewest bits."""
    width = bits.shape[1]
    # The hash bits that a partition's Gray-code number stands for.
    plain = partitions ^ (partitions >> 1)
    wanted = (plain[:, None] >> np.arange(width - 1, -1, -1)) & 1
    distance = (wanted[:, None, :] != bits[None, :, :]).sum(axis=2)
    nearest: npt.NDArray[np.intp] = distance.argmin(axis=1)
    return nearest
