"""Pieces of a text to passages: sections apart, everything else cut at the strongest border near an even size."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

from edgecolbert.chunking.text import Span, TokenCounter, count_spans

# A border as strong as this begins a new passage even where more would fit.
SECTION = 1_000


class Piece(NamedTuple):
    """A part of a text that is not cut further.

    Attributes:
        start: Offset of its first character.
        end: Offset behind its last character.
        size: Its tokens.
        border: How good it is to begin a passage here, `SECTION` and more for where a section begins.
    """

    start: int
    end: int
    size: int
    border: int


def pack(text: str, pieces: list[Piece], count: TokenCounter, room: int, min_tokens: int) -> list[list[Piece]]:
    """Join contiguous pieces into passages.

    Args:
        text: The text.
        pieces: Its pieces, in order.
        count: Gives the number of tokens of each of several texts.
        room: Most tokens of a passage.
        min_tokens: A section of fewer tokens shares its passage with a neighbour, where both fit.

    Returns:
        The pieces of each passage, in order. Only a piece that is too large by itself makes one that is.
    """
    groups = [group for section in _sections(pieces, room, min_tokens) for group in _even(section, room)]
    # Counts need not add up: a tokenizer may treat a word otherwise at the start of a text.
    packed: list[list[Piece]] = []
    todo = groups[::-1]
    sizes = count_spans(text, [(group[0].start, group[-1].end) for group in groups if len(group) > 1], count)
    while todo:
        group = todo.pop()
        span: Span = (group[0].start, group[-1].end)
        if len(group) > 1 and span not in sizes:
            sizes |= count_spans(text, [span], count)
        if len(group) > 1 and sizes.get(span, room + 1) > room:
            middle = len(group) // 2
            todo += [group[middle:], group[:middle]]
        else:
            packed.append(group)
    return packed


def _sections(pieces: list[Piece], room: int, min_tokens: int) -> list[list[Piece]]:
    """Cut where sections begin, but for small ones."""
    sections: list[list[Piece]] = []
    for piece in pieces:
        if not sections or piece.border >= SECTION:
            sections.append([])
        sections[-1].append(piece)
    joined: list[list[Piece]] = []
    sizes: list[int] = []
    for section in sections:
        size = sum(piece.size for piece in section)
        if joined and min(size, sizes[-1]) < min_tokens and size + sizes[-1] <= room:
            joined[-1] += section
            sizes[-1] += size
        else:
            joined.append(section)
            sizes.append(size)
    return joined


def _even(pieces: list[Piece], room: int) -> list[list[Piece]]:
    """Passages of about even sizes, each cut at the strongest border between half of that size and the room."""
    ends = [0, *accumulate(piece.size for piece in pieces)]
    groups: list[list[Piece]] = []
    first = 0
    while ends[-1] - ends[first] > room:
        left = ends[-1] - ends[first]
        aim = left / -(-left // room)
        best, best_worth = first + 1, (float("-inf"), 0.0)
        for cut in range(first + 1, len(pieces)):
            size = ends[cut] - ends[first]
            if size > room:
                break
            worth = (pieces[cut].border if size >= aim / 2 else float("-inf"), -abs(size - aim))
            if cut == first + 1 or worth > best_worth:
                best, best_worth = cut, worth
        groups.append(pieces[first:best])
        first = best
        if first == len(pieces):
            return groups
    return [*groups, pieces[first:]]
