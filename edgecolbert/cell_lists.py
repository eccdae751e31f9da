"""The fitted encoding: for each cell that a passage has tokens in, where in the cell their mean lies.

A passage becomes a set of entries, one for each cell that holds a token of it: the cell's number, and a product code
(Jegou et al. 2011) of the way from the cell's centre to the unit mean of those tokens. A query token looks into its
nearest cells only, as PLAID and WARP do (Santhanam et al. 2022, Scheerer et al. 2025), and takes the best entry it
finds there; a passage without an entry in any of them gets what the next cell's centre would give. The sum over query
tokens approximates MaxSim. Entries of one cell lie together, so a search reads a small part of them.

Compared with the dense vectors it replaced this needs a twentieth of the bytes, and its recall at 100 is within .02 on
five collections; fitted to tokens that share a direction, it does not collapse (docs/first-stage.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgecolbert.cells import Cells, add_groups, unit_rows
from edgecolbert.errors import InputError
from edgecolbert.largest import largest
from edgecolbert.linalg import product

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
ByteArray = npt.NDArray[np.uint8]
ShortArray = npt.NDArray[np.uint16]
RowArray = npt.NDArray[np.int32]

# Values of one subspace code.
CODEWORDS = 256
_CODEBOOK_ITERATIONS = 8
# Residuals that the codebooks are fitted to.
_CODEBOOK_ROWS = 40_000

# A query looks into this many cells in all, so that short queries, of whose few tokens each counts for more, look
# deeper; and each token into at least and at most so many.
_LISTS_OF_A_QUERY = 256
_FEWEST_PROBES, _MOST_PROBES = 8, 24


class Entries(NamedTuple):
    """Entries of passages, in order of passage and cell.

    Attributes:
        passages: int64 [n], number of the passage among those encoded together.
        cells: uint16 [n].
        codes: uint8 [n, num_subspaces].
    """

    passages: IntArray
    cells: ShortArray
    codes: ByteArray


class CellList(NamedTuple):
    """The entries of one cell.

    Attributes:
        passages: Numbers of passages: uint16 [n] within their segment, int32 [n] where segments are joined.
        codes: uint8 [num_subspaces, n].
    """

    passages: ShortArray | RowArray
    codes: ByteArray

    def to_bytes(self) -> bytes:
        """Passages (little endian), then the codes of one subspace after the other."""
        return self.passages.astype("<u2").tobytes() + self.codes.tobytes()

    @classmethod
    def from_bytes(cls, content: bytes, num_subspaces: int) -> CellList:
        """Read what `to_bytes` wrote.

        Args:
            content: A multiple of 2 + `num_subspaces` bytes.
            num_subspaces: Bytes of one product code.

        Returns:
            The list; its arrays are read-only views of `content`.
        """
        n = len(content) // (2 + num_subspaces)
        passages = np.frombuffer(content, dtype="<u2", count=n)
        return cls(passages, np.frombuffer(content, dtype=np.uint8, offset=2 * n).reshape(num_subspaces, n))


class QueryPlan(NamedTuple):
    """What a query looks for.

    Attributes:
        cells: int64 [n_query_tokens, n_probes], the nearest cells of each token.
        scores: float32 [n_query_tokens, n_probes], inner products with their centres.
        floors: float32 [n_query_tokens], what a passage without an entry in these cells gets.
        tables: float32 [n_query_tokens, num_subspaces, 256], inner products with the codewords.
    """

    cells: IntArray
    scores: FloatArray
    floors: FloatArray
    tables: FloatArray


@dataclass(frozen=True)
class CellListEncoding:
    """The encoding over given cells and codebooks.

    Attributes:
        cells: float32 [num_cells, dim], at most 65,536 centres of unit length, cells with many tokens first.
        codebooks: float32 [256, dim]: in the columns of each subspace, its codewords.
        num_subspaces: Parts into which the dimensions are cut, and bytes of a product code.
        max_entries: Most entries of a passage. Beyond it, those of the most frequent cells are left out, which tell
            passages apart least.
    """

    cells: FloatArray
    codebooks: FloatArray
    num_subspaces: int
    max_entries: int

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry: the cell's number and the product code."""
        return 2 + self.num_subspaces

    def encode(self, documents: Sequence[FloatArray]) -> list[bytes]:
        """Codes of passages; each is the same whichever others are encoded with it.

        Args:
            documents: float32 [n_tokens, dim] of each, rows of unit length.

        Returns:
            For each the cells' numbers (uint16, little endian, ascending), then the product codes, entry by entry.
        """
        entries = self._entries(documents)
        bounds = np.searchsorted(entries.passages, np.arange(len(documents) + 1))
        return [
            entries.cells[start:end].astype("<u2").tobytes() + entries.codes[start:end].tobytes()
            for start, end in pairwise(bounds.tolist())
        ]

    def decode(self, codes: Iterable[bytes]) -> Entries:
        """Entries of passages from their codes.

        Args:
            codes: As `encode` gives them.

        Returns:
            The entries, with passages counted from 0.
        """
        counts, cells, products = [], [], []
        for code in codes:
            n = len(code) // self.entry_bytes
            counts.append(n)
            cells.append(code[: 2 * n])
            products.append(code[2 * n :])
        return Entries(
            np.repeat(np.arange(len(counts)), counts),
            np.frombuffer(b"".join(cells), dtype="<u2"),
            np.frombuffer(b"".join(products), dtype=np.uint8).reshape(-1, self.num_subspaces),
        )

    def plan(self, tokens: FloatArray) -> QueryPlan:
        """Where a query's tokens look, and what they compare with.

        Args:
            tokens: float32 [n_query_tokens, dim].

        Returns:
            The plan.
        """
        # Cells times tokens, not the other way round: a slice for one thread is then many cells high, and each cell is
        # read once.
        nearness = np.ascontiguousarray(product(self.cells, np.ascontiguousarray(tokens.T)).T)
        wanted = min(max(_LISTS_OF_A_QUERY // max(1, len(tokens)), _FEWEST_PROBES), _MOST_PROBES)
        n_probes = min(wanted, len(self.cells))
        # One cell more than is looked into: its centre stands for all that is farther away.
        width = min(n_probes + 1, len(self.cells))
        nearest = largest(nearness, width)
        scores = np.take_along_axis(nearness, nearest, axis=1)
        tables = np.empty((len(tokens), self.num_subspaces, CODEWORDS), dtype=np.float32)
        for subspace, (start, end) in enumerate(self._subspaces):
            tables[:, subspace] = product(tokens[:, start:end], self._codewords[subspace])
        # Where every cell is looked into, only a passage without tokens has no entry, and it gets the least there is.
        floors = scores[:, -1] if width > n_probes else np.full(len(tokens), -1, dtype=np.float32)
        return QueryPlan(nearest[:, :n_probes], scores[:, :n_probes], floors, tables)

    def _entries(self, documents: Sequence[FloatArray]) -> Entries:
        passages, cells, means = entry_means(self._partition, documents)
        residuals = means - self.cells[cells]
        codes = np.empty((len(cells), self.num_subspaces), dtype=np.uint8)
        for subspace, (start, end) in enumerate(self._subspaces):
            codewords = self._codewords[subspace]
            # Nearest codeword: largest inner product less half its squared length.
            nearness = product(np.ascontiguousarray(residuals[:, start:end]), codewords)
            codes[:, subspace] = (nearness - 0.5 * np.square(codewords).sum(axis=0)).argmax(axis=1)
        # Cells are numbered by frequency, so the rarest cells of a passage are its last entries.
        counts = np.bincount(passages, minlength=len(documents))
        rank_from_end = np.repeat(np.cumsum(counts), counts) - np.arange(len(passages))
        kept = rank_from_end <= self.max_entries
        return Entries(passages[kept], cells[kept].astype(np.uint16), codes[kept])

    @cached_property
    def _partition(self) -> Cells:
        return Cells(self.cells)

    @cached_property
    def _codewords(self) -> list[FloatArray]:
        """Codewords of each subspace, float32 [width, 256]."""
        return [np.ascontiguousarray(self.codebooks[:, start:end].T) for start, end in self._subspaces]

    @property
    def _subspaces(self) -> list[tuple[int, int]]:
        return subspaces(self.cells.shape[1], self.num_subspaces)


def subspaces(dim: int, num_subspaces: int) -> list[tuple[int, int]]:
    """First and last column of each subspace; their widths differ by one at most.

    Args:
        dim: Size of one token embedding.
        num_subspaces: How many.

    Returns:
        Half-open ranges that cover all columns.

    Examples:
        >>> subspaces(16, 3)
        [(0, 5), (5, 10), (10, 16)]
    """
    bounds = [dim * part // num_subspaces for part in range(num_subspaces + 1)]
    return list(pairwise(bounds))


def entry_means(cells: Cells, documents: Sequence[FloatArray]) -> tuple[IntArray, IntArray, FloatArray]:
    """The unit mean of each document's tokens in each cell that has any.

    Args:
        cells: The partition.
        documents: float32 [n_tokens, dim] of each.

    Returns:
        Number of the document and of the cell, int64 [n] each, in order; and the means, float32 [n, dim].
    """
    dim = cells.centres.shape[1]
    tokens = np.concatenate([np.empty((0, dim), dtype=np.float32), *documents])
    owners = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
    keys, groups = np.unique(owners * len(cells) + cells.nearest(tokens), return_inverse=True)
    sums = np.zeros((len(keys), dim), dtype=np.float32)
    add_groups(sums, groups.reshape(-1), tokens)
    return keys // len(cells), keys % len(cells), unit_rows(sums)


def fit_codebooks(
    cells: FloatArray, documents: Sequence[FloatArray], num_subspaces: int, *, seed: int = 0
) -> FloatArray:
    """Learn the codewords of every subspace by k-means.

    Args:
        cells: float32 [num_cells, dim].
        documents: float32 [n_tokens, dim] of each.
        num_subspaces: Parts into which the dimensions are cut.
        seed: Seed of the sample and of the first codewords.

    Returns:
        float32 [256, dim].

    Raises:
        InputError: If there are more subspaces than dimensions.
    """
    dim = cells.shape[1]
    if not 1 <= num_subspaces <= dim:
        raise InputError(f"num_subspaces is {num_subspaces}, expected 1 to {dim}, the size of a token embedding.")
    generator = np.random.default_rng(seed)
    _, numbers, means = entry_means(Cells(cells), documents)
    residuals = means - cells[numbers]
    if len(residuals) > _CODEBOOK_ROWS:
        residuals = residuals[np.sort(generator.choice(len(residuals), _CODEBOOK_ROWS, replace=False))]
    codebooks = np.zeros((CODEWORDS, dim), dtype=np.float32)
    for start, end in subspaces(dim, num_subspaces):
        codebooks[:, start:end] = _codewords(np.ascontiguousarray(residuals[:, start:end]), generator)
    return codebooks


def _codewords(rows: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Plain k-means, float32 [256, width]; with few rows, codewords that repeat."""
    if not len(rows):
        return np.zeros((CODEWORDS, rows.shape[1]), dtype=np.float32)
    words = rows[generator.choice(len(rows), CODEWORDS, replace=len(rows) < CODEWORDS)].copy()
    for _ in range(_CODEBOOK_ITERATIONS):
        nearest = (product(rows, np.ascontiguousarray(words.T)) - 0.5 * np.square(words).sum(axis=1)).argmax(axis=1)
        sums = np.zeros_like(words)
        add_groups(sums, nearest, rows)
        sizes = np.bincount(nearest, minlength=CODEWORDS)
        words[sizes > 0] = sums[sizes > 0] / sizes[sizes > 0, None].astype(np.float32)
    return words


class Segment:
    """Entries of up to 65,536 passages, ordered by cell.

    Args:
        entries: The entries, with passages counted from 0.
        num_cells: How many cells there are.
        first: Where passages do not count from 0 but from here, beside segments that are joined.
    """

    MOST_PASSAGES = 65_536

    def __init__(self, entries: Entries, num_cells: int, first: int | None = None) -> None:
        order = np.argsort(entries.cells, kind="stable")
        passages = entries.passages[order]
        self._passages = passages.astype(np.uint16) if first is None else (passages + first).astype(np.int32)
        self._codes = np.ascontiguousarray(entries.codes[order].T)
        self._bounds = np.searchsorted(entries.cells[order], np.arange(num_cells + 1)).tolist()

    def list_of(self, cell: int) -> CellList | None:
        """The entries of one cell, or None where there are none."""
        start, end = self._bounds[cell], self._bounds[cell + 1]
        return CellList(self._passages[start:end], self._codes[:, start:end]) if end > start else None

    def lists(self) -> Iterator[tuple[int, CellList]]:
        """Every cell that has entries, with them."""
        for cell in range(len(self._bounds) - 1):
            found = self.list_of(cell)
            if found is not None:
                yield cell, found


def merged_list(parts: Iterable[tuple[CellList, npt.NDArray[np.int64]]]) -> CellList:
    """One cell's entries of several segments.

    Args:
        parts: Each segment's entries, and for each of its passages the number in the new segment, -1 for passages that
            are gone.

    Returns:
        The entries of those that are left.
    """
    passages, codes = [], []
    for part, numbers in parts:
        new = numbers[part.passages]
        left = new >= 0
        passages.append(new[left])
        codes.append(part.codes[:, left])
    return CellList(np.concatenate(passages).astype(np.uint16), np.concatenate(codes, axis=1))


def joined_list(parts: Sequence[tuple[int, bytes]], num_subspaces: int) -> CellList:
    """One cell's entries of several segments as one list, for a search.

    Args:
        parts: For each segment what is added to the numbers of its passages, and what `CellList.to_bytes` gave.
        num_subspaces: Bytes of one product code.

    Returns:
        The entries of one part after the other; the list owns its memory.
    """
    lengths = [len(content) // (2 + num_subspaces) for _, content in parts]
    numbers = b"".join([content[: 2 * n] for (_, content), n in zip(parts, lengths, strict=True)])
    passages = np.frombuffer(numbers, dtype="<u2").astype(np.int32)
    passages += np.repeat(np.array([first for first, _ in parts], dtype=np.int32), lengths)
    codes = np.empty((num_subspaces, len(passages)), dtype=np.uint8)
    start = 0
    for (_, content), n in zip(parts, lengths, strict=True):
        codes[:, start : start + n] = np.frombuffer(content, dtype=np.uint8, offset=2 * n).reshape(num_subspaces, n)
        start += n
    return CellList(passages, codes)


def passage_scores(n_passages: int, plan: QueryPlan, sources: Sequence[Callable[[int], CellList | None]]) -> FloatArray:
    """Score passages by their entries.

    Args:
        n_passages: How many there are.
        plan: The query.
        sources: Each gives a cell's entries of some of the passages, or None where there are none.

    Returns:
        float32 [n_passages]: for each the sum over query tokens of the best entry found, or of the floor.
    """
    total = np.full(n_passages, plan.floors.sum(dtype=np.float64), dtype=np.float32)
    gain = np.empty(n_passages, dtype=np.float32)
    for cells, scores, floor, tables in zip(plan.cells.tolist(), plan.scores, plan.floors, plan.tables, strict=True):
        found = [
            (entries, score)
            for cell, score in zip(cells, scores, strict=True)
            for list_of in sources
            if (entries := list_of(cell)) is not None
        ]
        if not found:
            continue
        passages = np.concatenate([entries.passages for entries, _ in found])
        codes = np.concatenate([entries.codes for entries, _ in found], axis=1)
        lengths = [len(entries.passages) for entries, _ in found]
        values = np.repeat(np.array([score for _, score in found], dtype=np.float32) - floor, lengths)
        for table, column in zip(tables, codes, strict=True):
            values += table.take(column)
        # Entries below the floor add nothing: the floor is in the total already.
        gain.fill(0)
        np.maximum.at(gain, passages, values)
        total += gain
    return total
