"""Markdown to pieces: headings begin sections; fences, tables, lists and paragraphs are whole where they fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from edgecolbert.chunking.packing import SECTION, Piece
from edgecolbert.chunking.text import Span, TokenCounter, count_spans, fitting_pieces

# How good it is to begin a passage somewhere: behind a heading hardly, at a paragraph well, at a heading always.
_INSIDE_SENTENCE, _BEHIND_HEADING, _SENTENCE_BORDER, _LINE, _FOLLOWS_COLON, _BLOCK = -3, -2, 0, 1, 2, 3

_LINES = re.compile(r"[^\n]*\n|[^\n]+$")
_HEADING = re.compile(r" {0,3}(#{1,6})(?=[ \t]|$)")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})")
_ITEM = re.compile(r"[ \t]*(?:[-*+]|\d{1,9}[.)])(?:[ \t]|$)")
_TABLE_RULE = re.compile(r"[ \t]*(?:\|[ \t]*)?:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*(?:\|[ \t]*)?$")
_LONGEST_HEADING = 500
_MARKUP = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|[*`_]+")


class Heading(NamedTuple):
    """A heading.

    Attributes:
        start: Offset of its first character.
        level: 1 to 6.
        title: Its words.
    """

    start: int
    level: int
    title: str


class _Block(NamedTuple):
    start: int
    end: int
    kind: str
    level: int = 0
    title: str = ""


def headings(text: str) -> list[Heading]:
    """The headings of a text, in order.

    Args:
        text: Markdown.

    Returns:
        Headings of both ways to write them; none from inside a code fence.
    """
    return [Heading(block.start, block.level, block.title) for block in _blocks(text) if block.kind == "heading"]


def markdown_pieces(text: str, count: TokenCounter, room: int) -> list[Piece]:
    """Cut Markdown into pieces that fit.

    Args:
        text: Markdown.
        count: Gives the number of tokens of each of several texts.
        room: Most tokens of a piece.

    Returns:
        Contiguous pieces, in order.
    """
    blocks = list(_blocks(text))
    spans = [(block.start, block.end) for block in blocks]
    sizes = count_spans(text, spans, count)
    pieces: list[Piece] = []
    before: _Block | None = None
    for block, span in zip(blocks, spans, strict=True):
        border = _border(text, before, block)
        size = sizes.get(span, room + 1)
        if size <= room:
            pieces.append(Piece(*span, size, border))
        else:
            torn = _torn(text, block, count, room)
            pieces += [torn[0]._replace(border=border), *torn[1:]]
        before = block
    return pieces


def _border(text: str, before: _Block | None, block: _Block) -> int:
    if block.kind == "heading":
        # Two headings in a row belong together, but for a chapter that begins behind an empty one.
        follows = before is not None and before.kind == "heading" and before.level < block.level
        return _BEHIND_HEADING if follows else SECTION + 7 - block.level
    if before is not None and before.kind == "heading":
        return _BEHIND_HEADING
    if before is not None and block.kind != "paragraph" and text[before.start : before.end].rstrip().endswith(":"):
        return _FOLLOWS_COLON
    return _BLOCK


def _torn(text: str, block: _Block, count: TokenCounter, room: int) -> list[Piece]:
    """What does not fit: at its lines where these mean something, and like plain text where a line does not fit."""
    span: Span = (block.start, block.end)
    parts = [span]
    if block.kind != "paragraph":
        parts = [match.span() for match in _LINES.finditer(text, *span)]
    pieces = []
    for (start, end), size in fitting_pieces(text, parts, count, room):
        behind = text[max(0, start - 4) : start]
        border = _SENTENCE_BORDER if behind.rstrip()[-1:] in tuple(".!?…。！？") else _INSIDE_SENTENCE
        if behind.endswith("\n"):
            # The next item of a list rather than the next line of one; no line of a paragraph is better than another.
            border = _LINE + (block.kind == "list" and bool(_ITEM.match(text, start)))
            border = _SENTENCE_BORDER if block.kind == "paragraph" else border
        pieces.append(Piece(start, end, size, border))
    return pieces


def _blocks(text: str) -> Iterator[_Block]:
    """Contiguous blocks; blank lines belong to the block before them."""
    lines = [(match.start(), match.group().rstrip()) for match in _LINES.finditer(text)]
    starts = [start for start, _ in lines] + [len(text)]
    position = 0
    while position < len(lines):
        begin = position
        kind, level, title, position = _block_at(lines, position)
        while position < len(lines) and not lines[position][1]:
            position += 1
        yield _Block(starts[begin], starts[position], kind, level, title)


def _block_at(lines: list[tuple[int, str]], first: int) -> tuple[str, int, str, int]:
    """Kind, level and title of the block that begins at a line, and the line behind it."""
    line = lines[first][1]
    following = lines[first + 1][1] if first + 1 < len(lines) else ""
    front = first == 0 and line == "---"
    if front and (end := next((n for n in range(1, len(lines)) if lines[n][1] in ("---", "...")), 0)):
        return "front matter", 0, "", end + 1
    if fence := _FENCE.match(line):
        mark = fence[1]
        closing = re.compile(rf"[ \t]*{re.escape(mark[0])}{{{len(mark)},}}$")
        ends = next((n for n in range(first + 1, len(lines)) if closing.match(lines[n][1])), len(lines) - 1)
        return "fence", 0, "", ends + 1
    if heading := _HEADING.match(line):
        return "heading", len(heading[1]), _plain(line[heading.end() :]), first + 1
    if line and not _ITEM.match(line) and "|" not in line and (rule := _UNDERLINE.match(following)):
        return "heading", 1 if rule[1][0] == "=" else 2, _plain(line), first + 2
    if "|" in line and "|" in following and _TABLE_RULE.match(following):
        return "table", 0, "", _until(lines, first + 2, lambda content: "|" not in content)
    is_list = bool(_ITEM.match(line))
    ends = _list_end(lines, first + 1) if is_list else _until(lines, first + 1, _interrupts)
    return "list" if is_list else "paragraph", 0, "", ends


def _until(lines: list[tuple[int, str]], first: int, ends: Callable[[str], bool]) -> int:
    position = first
    while position < len(lines) and lines[position][1] and not ends(lines[position][1]):
        position += 1
    return position


def _interrupts(line: str) -> bool:
    return bool(_FENCE.match(line) or _HEADING.match(line) or _ITEM.match(line))


def _list_end(lines: list[tuple[int, str]], first: int) -> int:
    """Behind the last line of a list: items, what is indented below them, and what continues a line."""
    position = first
    while position < len(lines):
        line = lines[position][1]
        if line and not lines[position - 1][1] and not (line[0] in " \t" or _ITEM.match(line)):
            return position
        if line and (_HEADING.match(line) or (line[0] not in " \t" and _FENCE.match(line))):
            return position
        position += 1
    return position


def _plain(title: str) -> str:
    """A heading's words, without the marks of emphasis, code and links, and without what closes it."""
    # Nobody's heading is longer, and matching brackets takes the square of the length.
    words = _MARKUP.sub(lambda match: match[1] or "", title.strip()[:_LONGEST_HEADING]).split()
    return " ".join(words[:-1] if words and not words[-1].strip("#") else words)
