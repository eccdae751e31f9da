"""What our own encoder does with a document beyond plain splitting: structure, context, and late chunking."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgecolbert.chunking.documents import context_of, longest_contexts, split_document
from edgecolbert.chunking.text import Span, count_spans
from edgecolbert.content_keys import TEXT
from edgecolbert.encoder import Encoder
from edgecolbert.errors import InputError
from edgecolbert.passage_settings import PassageSettings
from edgecolbert.passages import Text
from edgecolbert.tokenizer import TokenIds, TokenPlace

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.intp]

# At most this part of a passage is its context.
_CONTEXT_SHARE = 4
# A passage needs as many tokens of its own.
_LEAST_ROOM = 8
# Tokens that are encoded before the first of them is stored: as float32 they have to fit a small board's memory.
_GROUP_TOKENS = 16_384


class _Pass(NamedTuple):
    """One run of the model.

    Attributes:
        tokens: What it reads.
        rows: Which of its output rows each passage keeps.
        parts: The passages whose texts it reads: the first, and the one behind the last.
        context: What it reads before them.
    """

    tokens: TokenIds
    rows: list[IntArray]
    parts: tuple[int, int]
    context: str = ""


class PlannedPassage(NamedTuple):
    """How one passage is encoded.

    Attributes:
        tokens: What the model reads.
        rows: int [n_rows], those of its output rows that are the passage's.
        places: Where the token of each of these rows comes from, with offsets in the document's text.
    """

    tokens: TokenIds
    rows: IntArray
    places: list[TokenPlace]


class PassagePlanner:
    """Splits documents and encodes their passages as settings say.

    Args:
        encoder: The model.
        settings: How documents become passages.

    Raises:
        InputError: If the model cannot do what the settings say.
    """

    def __init__(self, encoder: Encoder, settings: PassageSettings) -> None:
        self._encoder = encoder
        self._tokenizer = encoder.tokenizer
        self._settings = settings
        encoding = encoder.manifest.encoding
        used = encoding.document_length - self._tokenizer.document_room
        length = settings.max_tokens or encoding.document_length
        most = encoding.max_positions
        # Not what it has positions for: what a model was never trained on makes the vectors worse (docs/passages.md).
        window = settings.window or encoding.document_length
        needed = max(_LEAST_ROOM, 2 * settings.overlap)
        for name, tokens in (("max_tokens", length), ("window", window if settings.late_chunking else 0)):
            if most is not None and tokens > most:
                raise InputError(f"{name} is {tokens}, but the model {encoder.name!r} has only {most} positions.")
        if length - used < needed:
            raise InputError(
                f"Passages of {length} tokens have room for {length - used} besides special tokens, prefix and prompt, "
                f"expected at least {needed}: twice the overlap, and no less than {_LEAST_ROOM}. Raise max_tokens, or "
                "lower overlap."
            )
        if settings.late_chunking and window <= length:
            raise InputError(
                f"window is {window}, expected more than the {length} tokens of one passage: late chunking would "
                "change nothing. Lower max_tokens, or raise window."
            )
        self._room = length - used
        # Counted without the prompt, a passage may come out as a token more.
        self._longest = most or sys.maxsize
        self._window = window - used
        self._most_context = self._room // _CONTEXT_SHARE

    def split(self, document: Text) -> list[Span]:
        """Cut a document into passages.

        Args:
            document: The document.

        Returns:
            (start, end) character offsets of each, in order of starts and of ends.
        """
        text, kind, room = document.text, self._kind(document), self._room
        if self._settings.context and not self._fits_whole(document):
            # What a passage's context takes is known only afterwards, so each leaves room for the longest.
            contexts = longest_contexts(text, kind=kind, title=document.title)
            room -= min(self._most_context, max(self._tokenizer.count(contexts)))
        return split_document(
            text,
            self._tokenizer.count,
            room,
            kind=kind,
            overlap=self._settings.overlap,
            min_tokens=self._settings.min_tokens,
        )

    def _fits_whole(self, document: Text) -> bool:
        whole = (0, len(document.text))
        (context,) = context_of(document.text, [whole], kind=self._kind(document), title=document.title)
        size = count_spans(document.text, [whole], self._tokenizer.count).get(whole)
        return size is not None and size + min(self._most_context, *self._tokenizer.count([context])) <= self._room

    def encode(self, documents: Sequence[tuple[Text, Sequence[Span]]]) -> Iterator[FloatArray]:
        """Encode passages.

        Args:
            documents: Documents with their passages.

        Yields:
            float32 [n_tokens, dim] of each passage, document after document.
        """
        group: list[_Pass] = []
        n_tokens = 0
        for one in self._passes(documents):
            if group and n_tokens + len(one.tokens.ids) > _GROUP_TOKENS:
                yield from self._run(group)
                group, n_tokens = [], 0
            group.append(one)
            n_tokens += len(one.tokens.ids)
        yield from self._run(group)

    def passage(self, document: Text, spans: Sequence[Span], number: int) -> PlannedPassage:
        """How one passage of a document is encoded.

        Args:
            document: The document.
            spans: All its passages.
            number: Which of them.

        Returns:
            Its tokens.
        """
        first = 0
        for one in self._passes([(document, spans)]):
            if number < first + len(one.rows):
                rows = one.rows[number - first]
                places = self._places(document.text, spans, one)
                return PlannedPassage(one.tokens, rows, [places[row] for row in rows.tolist()])
            first += len(one.rows)
        raise IndexError(f"passage {number} of a document that has {len(spans)}")

    def _places(self, text: str, spans: Sequence[Span], one: _Pass) -> list[TokenPlace]:
        """Where each token of a pass comes from."""
        pieces = [text[start:end] for start, end in spans[slice(*one.parts)]]
        starts = [start for start, _ in spans[slice(*one.parts)]]
        if len(pieces) == 1 and not one.context and not self._settings.late_chunking:
            return [_shifted(place, starts[0]) for place in self._tokenizer.document_places(pieces[0], self._longest)]
        parts = [
            [_shifted(place, start) for place in self._tokenizer.part_places(piece)]
            for piece, start in zip(pieces, starts, strict=True)
        ]
        if one.context:
            carried = self._tokenizer.part_places(one.context)[: self._most_context]
            # Its offsets are not those of the document's text.
            parts.insert(0, [place._replace(kind="context", start=None, end=None) for place in carried])
        return self._tokenizer.joined_places(parts)

    def _kind(self, document: Text) -> str:
        return document.kind if self._settings.structure else TEXT

    def _run(self, group: list[_Pass]) -> Iterator[FloatArray]:
        arrays = self._encoder.encode_token_ids([one.tokens for one in group])
        for one, array in zip(group, arrays, strict=True):
            for rows in one.rows:
                yield array[rows]

    def _passes(self, documents: Sequence[tuple[Text, Sequence[Span]]]) -> Iterator[_Pass]:
        for document, spans in documents:
            pieces = [document.text[start:end] for start, end in spans]
            if self._settings.late_chunking:
                yield from self._late(self._tokenizer.parts(pieces))
                continue
            contexts = [""] * len(pieces)
            if self._settings.context:
                contexts = context_of(document.text, spans, kind=self._kind(document), title=document.title)
            for number, (context, piece) in enumerate(zip(contexts, pieces, strict=True)):
                yield self._alone(number, context, piece)

    def _alone(self, number: int, context: str, piece: str) -> _Pass:
        """A passage by itself, or behind its context."""
        parts = (number, number + 1)
        if not context:
            tokens = self._tokenizer.document(piece, self._longest)
            return _Pass(_all_rows(tokens), [np.flatnonzero(tokens.keep)], parts)
        before, own = self._tokenizer.parts([context, piece])
        tokens, (carried, _) = self._tokenizer.joined([before[: self._most_context], own])
        is_carried = np.zeros_like(tokens.keep)
        is_carried[carried] = True
        # Last, so that the rows before them are those of the passage alone, one for each of its tokens.
        rows = np.concatenate([np.flatnonzero(tokens.keep & ~is_carried), np.flatnonzero(tokens.keep & is_carried)])
        return _Pass(_all_rows(tokens), [rows], parts, context)

    def _late(self, pieces: list[list[int]]) -> Iterator[_Pass]:
        """Many passages in one pass: each token has seen the passages around its own."""
        sizes = [len(piece) for piece in pieces]
        windows = _windows(sizes, self._window)
        for (first, last), (begin, end) in zip(windows, _owned(sizes, windows), strict=True):
            tokens, places = self._tokenizer.joined(pieces[first:last])
            around = tokens.keep.copy()
            around[np.concatenate(places)] = False
            rows = []
            for place in places[begin - first : end - first]:
                # Every passage has the special tokens and the prefix, as it has them when it is encoded alone.
                own = around.copy()
                own[place] = tokens.keep[place]
                rows.append(np.flatnonzero(own))
            yield _Pass(_all_rows(tokens), rows, (first, last))


def _shifted(place: TokenPlace, start: int) -> TokenPlace:
    if place.start is None or place.end is None:
        return place
    return place._replace(start=place.start + start, end=place.end + start)


def _all_rows(tokens: TokenIds) -> TokenIds:
    """The same tokens, with none of the rows dropped yet."""
    return TokenIds(tokens.ids, tokens.attention, np.ones_like(tokens.keep))


def _windows(sizes: list[int], room: int) -> list[tuple[int, int]]:
    """Runs of passages that fit, each beginning about the middle of the one before."""
    windows: list[tuple[int, int]] = []
    first = 0
    while True:
        last, total = first, 0
        while last < len(sizes) and (last == first or total + sizes[last] <= room):
            total += sizes[last]
            last += 1
        windows.append((first, last))
        if last == len(sizes):
            return windows
        passed, first_after = 0, first
        while first_after < last - 1 and passed + sizes[first_after] <= total / 2:
            passed += sizes[first_after]
            first_after += 1
        first = max(first_after, first + 1)


def _owned(sizes: list[int], windows: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Which passages are taken from each window: those that see more on their shorter side than from the next."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    owned = []
    begin = 0
    for number, (_, last) in enumerate(windows):
        end = last
        if number + 1 < len(windows):
            following = windows[number + 1][0]
            # As one goes on, what is left of this window shrinks, and what the next has seen before grows.
            end = next(
                (
                    passage
                    for passage in range(max(begin, following), last)
                    if starts[last] - starts[passage + 1] < starts[passage] - starts[following]
                ),
                last,
            )
        owned.append((begin, end))
        begin = end
    return owned
