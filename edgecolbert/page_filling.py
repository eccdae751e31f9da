"""In which order rows of token embeddings fill the pages of the file best.

SQLite puts the beginning of a long row into a page of the table, and the rest into pages of its own, which it fills.
The beginnings are of very different sizes, and one that does not fit into what is left of a page begins the next. Rows
that are stored together are therefore put into an order in which little of these pages stays empty (docs/storage.md has
figures). Nothing else relies on the order.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from typing import TypeVar

_Text = TypeVar("_Text")

# What a page of a table has beside its rows, and what a row takes there beside its content: two bytes in the page's
# list of rows, its number, its length, and where the rest of it is.
_PAGE_HEADER = 8
_ROW_HEADER = 13
# What a row of `passages` has beside the token embeddings, seldom more.
_OTHER_COLUMNS = 40


def in_filling_order(texts: Sequence[_Text], sizes_of: Callable[[_Text], Sequence[int]], usable: int) -> list[_Text]:
    """The order in which to store texts with their passages.

    Args:
        texts: The texts that are stored together.
        sizes_of: Gives the bytes of the token embeddings of each of a text's passages.
        usable: Bytes of a page that SQLite uses.

    Returns:
        The same texts. Those of several passages come first, as they were, since their rows stay together.
    """
    single: list[_Text] = []
    several: list[_Text] = []
    for text in texts:
        (single if len(sizes_of(text)) == 1 else several).append(text)
    bytes_in_leaf = [_ROW_HEADER + leaf_bytes(sizes_of(text)[0] + _OTHER_COLUMNS, usable) for text in single]
    return several + [single[position] for page in _pages(bytes_in_leaf, usable) for position in page]


def leaf_bytes(payload: int, usable: int) -> int:
    """How much of a row lies in a page of the table.

    Source: "B-tree Cell Format", https://www.sqlite.org/fileformat2.html.

    Args:
        payload: Bytes of the row.
        usable: Bytes of a page that SQLite uses.

    Returns:
        The bytes that lie there; the rest lies in pages of its own.

    Examples:
        >>> leaf_bytes(4_000, 4_096), leaf_bytes(5_000, 4_096), leaf_bytes(8_000, 4_096)
        (4000, 908, 3908)
    """
    most = usable - 35
    if payload <= most:
        return payload
    least = (usable - 12) * 32 // 255 - 23
    filling = least + (payload - least) % (usable - 4)
    return filling if filling <= most else least


def _pages(sizes: Sequence[int], usable: int) -> list[list[int]]:
    """Which rows share a page: each, largest first, goes where it leaves the least room ("best fit decreasing")."""
    pages: list[list[int]] = []
    room: list[tuple[int, int]] = []
    for position in sorted(range(len(sizes)), key=lambda position: -sizes[position]):
        found = bisect_left(room, (sizes[position], 0))
        if found == len(room):
            pages.append([])
            left, page = usable - _PAGE_HEADER, len(pages) - 1
        else:
            left, page = room.pop(found)
        pages[page].append(position)
        insort(room, (left - sizes[position], page))
    return pages
