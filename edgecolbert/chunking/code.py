"""Source code of any language to pieces: lines, with definitions and blank lines as the places to cut."""

from __future__ import annotations

import re

from edgecolbert.chunking.packing import SECTION, Piece
from edgecolbert.chunking.text import TokenCounter, fitting_pieces

_LINES = re.compile(r"[^\n]*\n|[^\n]+$")
# What ends or continues a block says nothing without what is before it.
_CONTINUES = re.compile(r"\s*(?:[\])}]|end\b|fi\b|done\b|esac\b|else\b|elif\b|except\b|catch\b|finally\b|then\b|do\b)")
# Indentation beyond this makes no difference to where to cut.
_DEEPEST = 40
_BLANK = 100
_INSIDE_LINE = -2 * _BLANK


def code_pieces(text: str, count: TokenCounter, room: int) -> list[Piece]:
    """Cut source code into lines that fit.

    A section begins at a line without indentation, behind a blank one, where what follows has indented lines: in most
    languages the definition of a function or a class. Elsewhere a blank line is better than none, and little
    indentation better than much.

    Args:
        text: Source code.
        count: Gives the number of tokens of each of several texts.
        room: Most tokens of a piece.

    Returns:
        Contiguous pieces, in order; blank lines belong to the piece before them.
    """
    lines: list[tuple[int, int]] = []
    borders: dict[int, int] = {}
    tops: list[int] = []
    after_blank = True
    nested: set[int] = set()
    for match in _LINES.finditer(text):
        line = match.group().expandtabs(4)
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            if lines:
                lines[-1] = (lines[-1][0], match.end())
            else:
                lines.append(match.span())
            after_blank = True
            continue
        continues = _CONTINUES.match(line)
        if lines and not text[lines[-1][0] : lines[-1][1]].strip():
            lines[-1] = (lines[-1][0], match.end())  # blank lines before the first line of all
        else:
            lines.append(match.span())
        start = lines[-1][0]
        borders[start] = (_BLANK if after_blank else 0) - min(indent, _DEEPEST) - (_BLANK if continues else 0)
        if after_blank and not indent and not continues:
            tops.append(start)
        elif indent and tops:
            nested.add(tops[-1])
        after_blank = False
    borders |= dict.fromkeys(nested, SECTION)
    return [
        Piece(start, end, size, borders.get(start, _INSIDE_LINE))
        for (start, end), size in fitting_pieces(text, lines, count, room)
    ]
