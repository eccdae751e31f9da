"""Plain text to passages that fit the model, cut at sentence borders where there are any."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

Span = tuple[int, int]
TokenCounter = Callable[[list[str]], list[int]]

# A sentence ends at a line break, at closing punctuation before white space, or at full-width punctuation.
_SENTENCE = re.compile(r"[^\n.!?…。！？]*(?:\n+|[.!?…]+[\"'”’»)\]]*(?:\s+|$)|[。！？]+[」』”’）]*\s*|[.!?…]+|$)")
_WORD = re.compile(r"\s*\S+\s*|\s+")

# What is longer than this is cut before it is counted: counting 10 MB to learn that it is too long costs seconds.
_COUNT_WHOLE = 50_000
# The tokenizer keeps an object for every text of a batch.
_COUNT_BATCH = 8_192


def split_text(text: str, count: TokenCounter, room: int) -> list[Span]:
    """Cut a text into passages of at most `room` tokens.

    Passages are of about equal length and end at sentence borders; a sentence that is too long by itself is cut
    between words, a word that is too long by itself between characters. Only white space lies between two passages
    and around them.

    Args:
        text: Any text.
        count: Gives the number of content tokens of each of several texts.
        room: Most tokens of a passage.

    Returns:
        (start, end) character offsets of each passage, in order. A text without anything but white space is one
        passage that spans it.

    Raises:
        ValueError: If `room` is less than one.

    Examples:
        >>> words = lambda texts: [len(text.split()) for text in texts]
        >>> split_text("One two. Three four five. Six.", words, 4)
        [(0, 8), (9, 30)]
    """
    if room < 1:
        raise ValueError(f"room is {room}, expected at least 1: the document length leaves no place for text")
    if not text.strip():
        return [(0, len(text))]
    pieces = list(fitting_pieces(text, [(0, len(text))], count, room))
    return [_trimmed(text, span) for span in _merged(text, pieces, count, room)]


def fitting_pieces(
    text: str, spans: list[Span], count: TokenCounter, room: int, level: int = 0
) -> Iterator[tuple[Span, int]]:
    """Contiguous spans that fit, cutting what does not fit one level finer.

    Args:
        text: The text.
        spans: Parts of it.
        count: As in `split_text`.
        room: As in `split_text`.
        level: How a part that does not fit is cut: 0 into sentences, then finer.

    Yields:
        Spans with their token counts, in order; one character may have more than fit.
    """
    sizes = count_spans(text, spans, count)
    for span in spans:
        size = sizes.get(span, room + 1)
        if size <= room or span[1] - span[0] <= 1:
            yield span, size
        else:
            yield from fitting_pieces(text, _cut(text, span, level, room), count, room, level + 1)


def _cut(text: str, span: Span, level: int, room: int) -> list[Span]:
    """Cut a span into sentences (level 0), words (1), runs that fit at one token a character (2), or halves (3)."""
    start, end = span
    if level == 2 and end - start > room:
        return [(first, min(first + room, end)) for first in range(start, end, room)]
    if level > 1:
        middle = (start + end) // 2
        return [(start, middle), (middle, end)]
    pattern = (_SENTENCE, _WORD)[level]
    return [match.span() for match in pattern.finditer(text, start, end) if match.end() > match.start()]


def _merged(text: str, pieces: list[tuple[Span, int]], count: TokenCounter, room: int) -> list[Span]:
    """Join neighbours into passages of about equal size, and check each passage by counting it whole."""
    total = sum(size for _, size in pieces)
    n_passages = max(1, -(-total // room))
    aim = total / n_passages
    groups: list[list[tuple[Span, int]]] = []
    filled = 0
    for piece in pieces:
        size = piece[1]
        # The last passage takes what is left, as far as it fits: nobody gains from a small one more.
        wants_more = filled < aim or size == 0 or len(groups) == n_passages
        if groups and filled + size <= room and wants_more:
            groups[-1].append(piece)
            filled += size
        else:
            groups.append([piece])
            filled = size
    # Counts need not add up: a tokenizer may treat a word otherwise at the start of a text.
    spans: list[Span] = []
    todo = groups[::-1]
    while todo:
        group = todo.pop()
        span = (group[0][0][0], group[-1][0][1])
        if len(group) > 1 and count_spans(text, [span], count).get(span, room + 1) > room:
            middle = len(group) // 2
            todo += [group[middle:], group[:middle]]
        elif text[span[0] : span[1]].strip():
            spans.append(span)
    return spans


def count_spans(text: str, spans: list[Span], count: TokenCounter) -> dict[Span, int]:
    """Token counts of parts of a text.

    Args:
        text: The text.
        spans: The parts.
        count: As in `split_text`.

    Returns:
        The count of each part; parts that are so long that they are sure not to fit are left out.
    """
    spans = [span for span in spans if span[1] - span[0] <= _COUNT_WHOLE]
    sizes: list[int] = []
    for first in range(0, len(spans), _COUNT_BATCH):
        sizes += count([text[start:end] for start, end in spans[first : first + _COUNT_BATCH]])
    return dict(zip(spans, sizes, strict=True))


def sentence_starts(text: str, start: int, end: int) -> list[int]:
    """Where sentences begin in a part of a text, the part's own start included.

    Args:
        text: The text.
        start: Offset of the part's first character.
        end: Offset behind its last character.

    Returns:
        Offsets, in order.
    """
    return [match.start() for match in _SENTENCE.finditer(text, start, end) if match.end() > match.start()]


def _trimmed(text: str, span: Span) -> Span:
    piece = text[span[0] : span[1]]
    start = span[0] + len(piece) - len(piece.lstrip())
    return start, start + len(piece.strip())
