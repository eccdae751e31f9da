"""The words of a passage that matched, the part of it that has most of them, and ways to show them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from operator import index as whole_number
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np
import numpy.typing as npt

from edgecolbert.errors import InputError, InputTypeError

if TYPE_CHECKING:
    from edgecolbert.explanation import Explanation, Token

FloatArray = npt.NDArray[np.float32]

# A match says something where its token stands out of the passage for this query token: by so many standard deviations
# of the others' similarities. The words that every sentence has ("the", "of") are near each other in all texts, and
# stay below (docs/explain.md).
_STANDS_OUT = 3.0
# In a sentence of a few words special tokens alone make the deviation large.
_STANDS_OUT_OF_FEW, _MANY_TOKENS = 2.4, 16
# The very token that was asked for need not, if it also means the same here: what a text is about, all of its tokens
# resemble. Stop words mean something else in every sentence.
_SAME_TOKEN = 0.95
# And by at least this share of what the passage's best match stands out by; "night" is not what "tap" was found for.
_OF_BEST = 0.5
# Of fewer other tokens a deviation says nothing.
_FEW_TOKENS = 8
# Shares of the best match from which a highlight is of the second and of the third, strongest level.
_LEVELS = (0.7, 0.85)

# Scripts that put no space between words: there a token is marked alone, or a whole sentence would be.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
# What HTML does not allow as a character of a page.
_NO_HTML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")
# Bold; underlined, too, where it matters most. No colours, which are the terminal's own.
_ANSI = ("\x1b[1m", "\x1b[1m", "\x1b[1;4m")
_ANSI_END = "\x1b[0m"


@dataclass(frozen=True)
class Highlight:
    """A word, or several that touch, that matched.

    Attributes:
        start: Offset of its first character in the document's text.
        end: Offset behind its last character.
        score: Sum of the scores of the query tokens that it won.
        weight: How much it stands out of the passage, as a share of the one that stands out most; above 0, at most 1.
    """

    start: int
    end: int
    score: float
    weight: float

    @property
    def level(self) -> int:
        """1, 2 or 3, the strongest."""
        return 1 + sum(self.weight >= least for least in _LEVELS)


@dataclass(frozen=True)
class Snippet:
    """A part of a document, and what matched in it.

    Attributes:
        text: The part, as it is in the document.
        start: Offset of its first character in the document's text.
        end: Offset behind its last character.
        highlights: What matched, in order, without overlaps; offsets are those of the document's text.
        cut_before: Whether the passage has more before it.
        cut_after: Whether the passage has more behind it.
    """

    text: str
    start: int
    end: int
    highlights: tuple[Highlight, ...]
    cut_before: bool = False
    cut_after: bool = False

    def marked(self, before: str = "**", after: str = "**") -> str:
        """Plain text with marks around what matched.

        Args:
            before: What to put before a highlight.
            after: What to put behind it.

        Returns:
            The text, with an ellipsis where the passage goes on.
        """
        return self._shown(str, lambda text, _: f"{before}{text}{after}")

    def ansi(self) -> str:
        """One line for a terminal, in bold what matched; without characters that could steer the terminal."""
        line = self._shown(_printable, lambda text, highlight: _ANSI[highlight.level - 1] + text + _ANSI_END)
        return re.sub(" +", " ", line).strip()

    def html(self) -> str:
        """A fragment of HTML: everything escaped, `<mark class="match-1">` to `match-3` around what matched."""
        return self._shown(html_text, lambda text, highlight: f'<mark class="match-{highlight.level}">{text}</mark>')

    def __str__(self) -> str:
        """As `marked()`."""
        return self.marked()

    def _shown(self, clean: Callable[[str], str], mark: Callable[[str, Highlight], str]) -> str:
        parts = ["…"] if self.cut_before else []
        place = self.start
        for highlight in self.highlights:
            parts.append(clean(self.text[place - self.start : highlight.start - self.start]))
            parts.append(mark(clean(self.text[highlight.start - self.start : highlight.end - self.start]), highlight))
            place = highlight.end
        parts.append(clean(self.text[place - self.start :]))
        return "".join([*parts, "…" if self.cut_after else ""])


def html_text(text: str) -> str:
    """A text that is safe inside HTML elements and quoted attributes, whatever it holds."""
    return escape(_NO_HTML.sub("\ufffd", text), quote=True)


def highlights(explanation: Explanation) -> tuple[Highlight, ...]:
    """The words of a passage that matched.

    Args:
        explanation: Why it matched.

    Returns:
        In order, without overlaps.

    Raises:
        InputError: If the model does not say which characters a token stands for.
    """
    if not explanation.has_offsets:
        raise InputError(
            "The index's model is an object without query_tokens and document_tokens, so which characters of the text "
            "matched is not known. Give it these methods, as edgecolbert.Encoder has them; explain() knows the tokens' "
            "numbers."
        )
    found = [
        (match, standing)
        for match, standing in zip(explanation.matches, _standing_out(explanation), strict=True)
        if standing > 0
    ]
    if not found:
        return ()
    largest = max(standing for _, standing in found)
    text, passage = explanation.text, explanation.passage
    words = []
    for match, standing in found:
        if standing >= _OF_BEST * largest and match.document is not None:
            start, end = match.document.start or 0, match.document.end or 0
            start, end = whole_word(text, start, end, passage.start, passage.end)
            words.append(Highlight(start, end, match.score, standing / largest))
    return tuple(_merged(words))


def snippet(explanation: Explanation, max_chars: int = 200) -> Snippet:
    """The part of a passage with the strongest matches.

    Args:
        explanation: Why it matched.
        max_chars: Most characters.

    Returns:
        The part whose highlights have the largest sum of scores, filled up with what is around them, cut between words.

    Raises:
        InputTypeError: If `max_chars` is no whole number.
        InputError: If it is below 1, or the model does not say which characters a token stands for.
    """
    if isinstance(max_chars, bool) or not isinstance(max_chars, SupportsIndex):
        raise InputTypeError(f"max_chars is {max_chars!r}, expected a whole number.")
    if whole_number(max_chars) < 1:
        raise InputError(f"max_chars is {max_chars}, expected at least 1.")
    marked = highlights(explanation)
    passage = explanation.passage
    first, last = _trimmed(explanation.text, passage.start, passage.end)
    start, end = _window(explanation.text, marked, first, last, whole_number(max_chars))
    inside = [_cut(highlight, start, end) for highlight in marked if highlight.start < end and highlight.end > start]
    return Snippet(explanation.text[start:end], start, end, tuple(inside), start > first, end < last)


def whole_word(text: str, start: int, end: int, least: int, most: int) -> tuple[int, int]:
    """A span widened to the words it is in.

    Args:
        text: The text.
        start: Where the span begins.
        end: Where it ends.
        least: Where the widened span begins at the earliest.
        most: Where it ends at the latest.

    Returns:
        The widened span. In scripts without spaces it is widened only to what belongs to its last character.

    Examples:
        >>> whole_word("two kettles", 4, 8, 0, 11)
        (4, 11)
    """
    if start == end:
        return start, end
    while start > least and _joined(text, start):
        start -= 1
    while end < most and _joined(text, end):
        end += 1
    return start, end


def _joined(text: str, place: int) -> bool:
    """Whether the characters before and behind a place belong to one word."""
    before, behind = text[place - 1], text[place]
    if unicodedata.category(behind).startswith("M") or behind == "\u200d" or before == "\u200d":
        return not before.isspace()
    if _UNSPACED.match(before) or _UNSPACED.match(behind):
        return False
    return _of_a_word(before) and _of_a_word(behind)


def _of_a_word(character: str) -> bool:
    return character.isalnum() or character == "_" or unicodedata.category(character).startswith("M")


def _says_something(text: str) -> bool:
    """Whether there are letters, digits, or symbols such as emoji; not punctuation alone."""
    return any(character.isalnum() or unicodedata.category(character) == "So" for character in text)


def _standing_out(explanation: Explanation) -> list[float]:
    """By how much each match is above the passage's other tokens; 0 for what is not to be highlighted."""
    rows: dict[tuple[int | None, str | None], list[int]] = {}
    for row, group in enumerate(explanation.groups):
        for token in group:
            rows.setdefault((token.id, token.text), []).append(row)
    found = []
    for match, similarities in zip(explanation.matches, explanation.similarities, strict=True):
        won = match.document
        if won is None or not _may_be_shown(match.query, won):
            found.append(0.0)
            continue
        # Without those of the same word: what a passage is about, it says more than once.
        others = np.delete(similarities, rows[won.id, won.text])
        same = won.id is not None and won.id == match.query.id and match.score >= _SAME_TOKEN
        found.append(_stands_out_by(match.score, others, same))
    return found


def _may_be_shown(asked: Token, found: Token) -> bool:
    if found.kind != "text" or found.start == found.end or not _says_something(found.text or ""):
        return False
    # A mark of queries or a full stop finds something as well, which is not what anybody asked for.
    return asked.kind == "expansion" or (asked.kind == "text" and _says_something(asked.text or ""))


def _stands_out_by(score: float, others: FloatArray, same: bool) -> float:
    if not len(others):
        return max(score, 0.0)
    standing = score - float(others.mean())
    deviations = _STANDS_OUT if len(others) >= _MANY_TOKENS else _STANDS_OUT_OF_FEW
    if not same and len(others) >= _FEW_TOKENS and standing < deviations * float(others.std()):
        return 0.0
    return max(standing, 0.0)


def _merged(words: Sequence[Highlight]) -> list[Highlight]:
    """Highlights that overlap or touch made one, in order."""
    merged: list[Highlight] = []
    for word in sorted(words, key=lambda highlight: highlight.start):
        if merged and word.start <= merged[-1].end:
            last = merged.pop()
            end, weight = max(last.end, word.end), max(last.weight, word.weight)
            merged.append(Highlight(last.start, end, last.score + word.score, weight))
        else:
            merged.append(word)
    return merged


def _window(text: str, marked: Sequence[Highlight], first: int, last: int, size: int) -> tuple[int, int]:
    """At most `size` characters of `text[first:last]` with the largest sum of scores of whole highlights."""
    if last - first <= size:
        return first, last
    start, end = _best_run(marked, size) or (first, first)
    # What is left goes to both sides, and what one side has no use for to the other.
    spare = size - (end - start)
    left = min(start - first, spare // 2)
    right = min(last - end, spare - left)
    left = min(start - first, spare - right)
    return _between_words(text, (start - left, end + right), (start, end), (first, last))


def _best_run(marked: Sequence[Highlight], size: int) -> tuple[int, int] | None:
    """From where to where the neighbours reach that have the largest sum of scores; the first of equals."""
    best: tuple[float, int, int] | None = None
    begin, total = 0, 0.0
    for number, highlight in enumerate(marked):
        total += highlight.score
        while begin < number and highlight.end - marked[begin].start > size:
            total -= marked[begin].score
            begin += 1
        if best is None or total > best[0]:
            best = (total, marked[begin].start, min(highlight.end, marked[begin].start + size))
    return None if best is None else best[1:]


def _between_words(
    text: str, window: tuple[int, int], core: tuple[int, int], whole: tuple[int, int]
) -> tuple[int, int]:
    """The window made smaller until it cuts no word, as long as its core stays and something of a word without end."""
    start, end = window
    if start > whole[0]:
        place = start
        while place < core[0] and _inside_word(text, place):
            place += 1
        start = place if place < core[0] or core[0] < core[1] else start
    if end < whole[1]:
        place = end
        while place > max(core[1], start) and _inside_word(text, place):
            place -= 1
        end = place if place > start else end
    return _trimmed(text, start, end)


def _inside_word(text: str, place: int) -> bool:
    """Whether to cut here would cut a word, or part it from its punctuation."""
    if _UNSPACED.match(text[place - 1]) and not unicodedata.category(text[place]).startswith("M"):
        return False
    return not text[place - 1].isspace() and not text[place].isspace()


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    if not piece.strip():
        return start, end
    return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())


def _cut(highlight: Highlight, start: int, end: int) -> Highlight:
    return Highlight(max(highlight.start, start), min(highlight.end, end), highlight.score, highlight.weight)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
