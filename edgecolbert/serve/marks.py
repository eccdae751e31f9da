"""Texts in parts, each marked or not, so that a page needs neither offsets nor HTML to show what matched."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

from edgecolbert.connection import MEMORY, open_connection
from edgecolbert.highlighting import Highlight, Snippet, whole_word
from edgecolbert.lexical import telling_words, tokens

_WORD = re.compile(r"[^\W_]+")
# Stems that are remembered; a language has some ten thousand words.
_KEPT_STEMS = 100_000


class Mark(NamedTuple):
    """A part of a document's text that matched.

    Attributes:
        start: Offset of its first character in the document's text.
        end: Offset behind its last character.
        level: 1, 2 or 3, the strongest.
    """

    start: int
    end: int
    level: int


def of_highlights(highlights: Iterable[Highlight]) -> list[Mark]:
    """The marks of highlights.

    Args:
        highlights: What matched.

    Returns:
        A mark for each.
    """
    return [Mark(highlight.start, highlight.end, highlight.level) for highlight in highlights]


def of_words(query: str, text: str, first: int = 0, level: int = 2) -> list[Mark]:
    """The words of a text that a search by words looks for: of the same stem, whatever case and accents they have.

    Args:
        query: The query.
        text: A part of a document's text.
        first: Offset of its first character in the document's text.
        level: The level of the marks.

    Returns:
        Marks in order, without overlaps.

    Examples:
        >>> of_words("red kettles", "A Kettle, redder than red.")
        [Mark(start=2, end=8, level=2), Mark(start=22, end=25, level=2)]
    """
    asked = telling_words(query)
    stems = set(_stems(asked).values())
    wanted = {word for word in asked if not word.isascii()}
    places: list[tuple[int, int]] = []
    found = [(match.start(), match.end(), _normal(match.group())) for match in _WORD.finditer(text)]
    known = _stems(word for *_, words in found for word in words)
    for start, end, words in found:
        if len(words) == 1:
            if known[words[0]] in stems:
                places.append(whole_word(text, start, end, 0, len(text)))
        elif not wanted.isdisjoint(words):
            # A script without spaces, which was cut into pairs of characters.
            places += [(place, place + 2) for place in range(start, end - 1) if text[place : place + 2] in wanted]
    names = tokens(query).names
    lowered = text.lower()
    if names and len(lowered) == len(text):
        for name in names:
            places += [(match.start(), match.end()) for match in re.finditer(re.escape(name), lowered)]
    return merged(Mark(start + first, end + first, level) for start, end in places)


def merged(marks: Iterable[Mark]) -> list[Mark]:
    """Marks that overlap or touch made one, of the higher level, in order."""
    done: list[Mark] = []
    for mark in sorted(marks):
        if done and mark.start <= done[-1].end:
            last = done.pop()
            done.append(Mark(last.start, max(last.end, mark.end), max(last.level, mark.level)))
        else:
            done.append(mark)
    return done


def parts(text: str, first: int, marks: Sequence[Mark]) -> list[dict[str, str | int]]:
    """A text in parts.

    Args:
        text: A part of a document's text.
        first: Offset of its first character in the document's text.
        marks: What matched, in order, without overlaps; what lies outside is left out.

    Returns:
        Parts with `text` and `level`, 0 for what did not match; their texts together are the text.

    Examples:
        >>> parts("a red cup", 10, [Mark(12, 15, 3)])
        [{'text': 'a ', 'level': 0}, {'text': 'red', 'level': 3}, {'text': ' cup', 'level': 0}]
    """
    found: list[dict[str, str | int]] = []
    place = 0
    for mark in marks:
        start, end = max(mark.start - first, place), min(mark.end - first, len(text))
        if start >= end:
            continue
        if start > place:
            found.append({"text": text[place:start], "level": 0})
        found.append({"text": text[start:end], "level": mark.level})
        place = end
    if place < len(text):
        found.append({"text": text[place:], "level": 0})
    return found


def snippet_of_words(query: str, text: str, start: int, end: int, size: int) -> Snippet:
    """The part of a passage that has most of a query's words.

    Args:
        query: The query.
        text: The document's text.
        start: Offset of the passage's first character.
        end: Offset behind its last character.
        size: Most characters.

    Returns:
        The part, without highlights.
    """
    passage = text[start:end]
    if len(passage) <= size:
        return Snippet(passage, start, end, ())
    marks = of_words(query, passage)
    # A little before each mark; the first of equals.
    begins = [max(0, min(mark.start - size // 4, len(passage) - size)) for mark in marks] or [0]
    best = max(begins, key=lambda begin: sum(begin <= mark.start and mark.end <= begin + size for mark in marks))
    begin, finish = best, best + size
    if begin:
        space = passage.find(" ", begin, begin + size // 4)
        begin = begin if space < 0 else space + 1
    if finish < len(passage):
        space = passage.rfind(" ", finish - size // 4, finish)
        finish = finish if space < 0 else space
    return Snippet(passage[begin:finish], start + begin, start + finish, (), begin > 0, finish < len(passage))


@lru_cache(_KEPT_STEMS)
def _normal(word: str) -> tuple[str, ...]:
    return tuple(tokens(word).words)


def _stems(words: Iterable[str]) -> dict[str, str]:
    return _stemmer().stems(words)


@cache
def _stemmer() -> _Stemmer:
    return _Stemmer()


class _Stemmer:
    """SQLite's own Porter stemmer, which the full-text index uses, asked word by word."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}
        self._database = open_connection(MEMORY, create=True, read_only=False)
        self._database.execute(
            "CREATE VIRTUAL TABLE words USING fts5(word, tokenize = 'porter ascii', detail = 'full')"
        )
        self._database.execute("CREATE VIRTUAL TABLE terms USING fts5vocab(words, instance)")

    def stems(self, words: Iterable[str]) -> dict[str, str]:
        asked = set(words)
        with self._lock:
            if len(self._known) > _KEPT_STEMS:
                self._known.clear()
            missing = [word for word in asked if word not in self._known]
            if missing:
                self._database.execute("BEGIN")
                self._database.executemany("INSERT INTO words(rowid, word) VALUES (?, ?)", enumerate(missing, start=1))
                found = dict(self._database.execute("SELECT doc, term FROM terms"))
                self._database.execute("ROLLBACK")
                self._known.update({word: found.get(number, word) for number, word in enumerate(missing, start=1)})
            return {word: self._known[word] for word in asked}
