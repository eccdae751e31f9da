"""A document of a kind to passages, with overlap; and what its title and headings say of each passage."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from edgecolbert.chunking.code import code_pieces
from edgecolbert.chunking.markdown import headings, markdown_pieces
from edgecolbert.chunking.packing import SECTION, pack
from edgecolbert.chunking.text import Span, TokenCounter, count_spans, sentence_starts, split_text
from edgecolbert.content_keys import CODE, KINDS, MARKDOWN, TEXT

# Sentences or lines that a passage repeats.
_MOST_UNITS = 32


def split_document(
    text: str, count: TokenCounter, room: int, *, kind: str = TEXT, overlap: int = 0, min_tokens: int = 0
) -> list[Span]:
    """Cut a document into passages of at most `room` tokens.

    Args:
        text: Any text.
        count: Gives the number of content tokens of each of several texts.
        room: Most tokens of a passage.
        kind: "text" is cut at sentences; "markdown" at headings, and not inside of a code fence, a table or a list that
            fits; "code" at definitions and blank lines, and not inside of a line that fits.
        overlap: Most tokens that a passage repeats from the end of the one before: whole sentences, or whole lines of
            code. A passage that begins a section repeats nothing.
        min_tokens: Sections of Markdown and code with fewer tokens share a passage with a neighbour, where both fit.

    Returns:
        (start, end) character offsets of each passage, in order of starts and of ends. White space alone lies outside
        of all of them. A text without anything but white space is one passage that spans it.

    Raises:
        ValueError: If `room` is not more than `overlap`, or `kind` is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    if room <= overlap:
        raise ValueError(f"room is {room}, expected more than the overlap of {overlap}")
    whole = (0, len(text))
    if not text.strip():
        return [whole]
    if count_spans(text, [whole], count).get(whole, room + 1) <= room:
        return [_trimmed(text, whole, kind)]
    if kind == TEXT:
        spans = split_text(text, count, room - overlap)
        return _overlapped(text, spans, count, room, overlap, kind, frozenset()) if overlap else spans
    pieces = (markdown_pieces if kind == MARKDOWN else code_pieces)(text, count, room - overlap)
    groups = pack(text, pieces, count, room - overlap, min_tokens)
    found = [_trimmed(text, (group[0].start, group[-1].end), kind) for group in groups]
    spans = [span for span in found if text[span[0] : span[1]].strip()]
    if not overlap:
        return spans
    sections = frozenset(
        _trimmed(text, (piece.start, piece.end), kind)[0] for piece in pieces if piece.border >= SECTION
    )
    return _overlapped(text, spans, count, room, overlap, kind, sections)


def context_of(text: str, spans: Sequence[Span], *, kind: str, title: str | None) -> list[str]:
    """What the title and the headings above say of each passage.

    Args:
        text: The document.
        spans: Its passages.
        kind: As in `split_document`; only Markdown has headings.
        title: The document's title, or None.

    Returns:
        For each passage "title. heading > heading below it", without what the passage itself begins with; "" where
        nothing is left.
    """
    outline = headings(text) if kind == MARKDOWN else []
    starts = [heading.start for heading in outline]
    paths: list[list[tuple[int, str]]] = []
    for heading in outline:
        above = [entry for entry in (paths[-1] if paths else []) if entry[0] < heading.level]
        paths.append([*above, (heading.level, heading.title)])
    contexts = []
    for start, end in spans:
        number = bisect_right(starts, start) - 1
        path = [words for _, words in paths[number]] if number >= 0 else []
        # A heading that begins the passage is read anyhow; what is indented before it belongs to it.
        if number >= 0 and not text[starts[number] : start].strip():
            path = path[:-1]
        path = [words for words in path if words and words != title]
        parts = [" > ".join(path)] if path else []
        if title and not _begins_with(text[start:end], title):
            parts = [title, *parts]
        contexts.append(". ".join(parts))
    return contexts


def longest_contexts(text: str, *, kind: str, title: str | None) -> list[str]:
    """The contexts that a passage of a document may have, wherever it begins.

    Args:
        text: The document.
        kind: As in `split_document`.
        title: The document's title, or None.

    Returns:
        At least one context, the longest of all among them.
    """
    outline = headings(text) if kind == MARKDOWN else []
    # Behind a heading the path is longest; the title is left out only where the passage begins with it.
    places = [(heading.start + 1, heading.start + 1) for heading in outline] or [(len(text), len(text))]
    found = context_of(text, places, kind=kind, title=title)
    return sorted({*found, title or ""})


def _begins_with(passage: str, title: str) -> bool:
    """Whether a passage begins with a title, whatever marks of a heading are before it."""
    words = title.split()
    return passage.lstrip("#* \t\r\n")[: 2 * len(title) + 8].split()[: len(words)] == words


def _trimmed(text: str, span: Span, kind: str) -> Span:
    """Without the white space around it; code keeps the indentation of its first line."""
    piece = text[span[0] : span[1]]
    start = span[0] + len(piece) - len(piece.lstrip())
    end = span[0] + len(piece.rstrip())
    if kind == CODE and start < end:
        line = text.rfind("\n", span[0], start) + 1
        start = line if line > 0 else span[0] if span[0] == 0 or text[span[0] - 1] == "\n" else start
    return start, max(start, end)


def _overlapped(
    text: str, spans: list[Span], count: TokenCounter, room: int, overlap: int, kind: str, sections: frozenset[int]
) -> list[Span]:
    """Let each passage begin with the last sentences or lines of the one before, as far as they fit."""
    choices: list[list[Span]] = [[]]
    for before, (start, _) in pairwise(spans):
        starts = [] if start in sections else _unit_starts(text, before, start, kind)
        # Nearest first, and never the whole passage before.
        choices.append([(unit, start) for unit in reversed(starts[1:])][:_MOST_UNITS])
    sizes = count_spans(text, [option for options in choices for option in options], count)
    longer = []
    for options, (start, end) in zip(choices, spans, strict=True):
        first = start
        for option in options:
            if sizes.get(option, overlap + 1) > overlap:
                break
            first = option[0]
        longer.append((first, end))
    # Counts need not add up.
    fits = count_spans(text, longer, count)
    return [span if fits.get(span, room + 1) <= room else short for span, short in zip(longer, spans, strict=True)]


def _unit_starts(text: str, before: Span, end: int, kind: str) -> list[int]:
    if kind == CODE:
        starts = [before[0]]
        position = text.find("\n", *before)
        while position >= 0:
            starts.append(position + 1)
            position = text.find("\n", position + 1, before[1])
    else:
        starts = sentence_starts(text, *before)
    return [start for start in starts if text[start:end].strip()]
