"""Which cells have a list in a segment: a list that cannot be found must not be taken for one without entries."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

# Room for the lists of one segment in the numbers of lists; a cell's number has two bytes.
LISTS_OF_A_SEGMENT = 65_536

BoolArray = npt.NDArray[np.bool_]


def pack(cells: Iterable[int]) -> bytes:
    """One bit for each cell up to the last that has a list, the first in the lowest bit of the first byte.

    Args:
        cells: The cells that have one.

    Returns:
        The bytes.

    Examples:
        >>> pack([0, 9]).hex()
        '0102'
    """
    flags = np.zeros(LISTS_OF_A_SEGMENT, dtype=np.bool_)
    flags[list(cells)] = True
    return np.packbits(flags, bitorder="little").tobytes().rstrip(b"\0")


def unpack(content: bytes) -> BoolArray:
    """Whether each cell has a list.

    Args:
        content: What `pack` gave.

    Returns:
        bool [65536].
    """
    flags = np.zeros(LISTS_OF_A_SEGMENT, dtype=np.bool_)
    bits = np.unpackbits(np.frombuffer(content, dtype=np.uint8), bitorder="little")
    flags[: len(bits)] = bits
    return flags


def checksum(segment_id: int, content: bytes) -> int:
    """The checksum of the cells of a segment and of whose they are."""
    return zlib.crc32(content, zlib.crc32(struct.pack("<q", segment_id)))


def fill(run: Callable[..., Iterable[tuple[int]]]) -> None:
    """Note the cells of every segment, as its lists are.

    Args:
        run: Executes a statement with its parameters, inside a transaction.
    """
    for (segment_id,) in list(run("SELECT segment_id FROM segments")):
        first = segment_id * LISTS_OF_A_SEGMENT
        bounds = (first, first + LISTS_OF_A_SEGMENT)
        rows = run("SELECT list_id FROM cell_lists WHERE list_id >= ? AND list_id < ?", *bounds)
        content = pack(list_id - first for (list_id,) in rows)
        sql = "INSERT INTO segment_cells (segment_id, checksum, cells) VALUES (?, ?, ?)"
        run(sql, segment_id, checksum(segment_id, content), content)
