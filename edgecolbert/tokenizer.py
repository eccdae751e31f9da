"""Text to token ids, in query mode and in document mode, exactly as PyLate does it (docs/pylate-rules.md)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from edgecolbert.errors import EdgeColbertError, InputError, InputTypeError, ModelFormatError
from edgecolbert.manifest import EncodingSettings
from edgecolbert.untrusted import shown

IntArray = npt.NDArray[np.int64]
_Item = TypeVar("_Item")

# What the name of a special token in a text becomes.
AS_MODEL, LITERAL = "as-model", "literal"


@dataclass(frozen=True)
class TokenIds:
    """One text, ready for the graph.

    Attributes:
        ids: int64 [n_tokens], special tokens and prefix included.
        attention: int64 [n_tokens], 1 where the graph may look.
        keep: bool [n_tokens], the output rows that become token embeddings (R33).
    """

    ids: IntArray
    attention: IntArray
    keep: npt.NDArray[np.bool_]


class TokenPlace(NamedTuple):
    """One token of a text as it is encoded, and where it comes from.

    Attributes:
        id: Its id in the vocabulary.
        text: The characters it stands for; what the vocabulary calls it where it stands for none.
        kind: "text"; "prompt" for the checkpoint's own words before the text; "prefix" for the mark of queries or of
            documents; "special" for what is put around every text; "expansion" for what fills up a query; "context" for
            the title and the headings that a passage is encoded behind.
        start: Offset of its first character in the text, or None where it comes from none.
        end: Offset behind its last character, or None.
    """

    id: int
    text: str
    kind: str
    start: int | None
    end: int | None


class _Piece(NamedTuple):
    """A token of what the tokenizer was given, with character offsets in it."""

    id: int
    start: int
    end: int


class ColbertTokenizer:
    """The tokenizer of one model.

    Args:
        tokenizer_json: Content of `tokenizer.json`.
        settings: The model's encoding settings.
        use_prompts: Put the checkpoint's prompts before the text.
        special_tokens: What the name of a special token in a text becomes: "as-model" for that token, as the reference
            does it (R25), "literal" for the tokens of its characters, so that no text can smuggle one in.
        name: What to call the file in error messages.

    Raises:
        ModelFormatError: If the content is not a tokenizer, or does not fit the settings.
    """

    def __init__(
        self,
        tokenizer_json: bytes,
        settings: EncodingSettings,
        *,
        use_prompts: bool = True,
        special_tokens: str = AS_MODEL,
        name: str = "tokenizer.json",
    ) -> None:
        check_special_tokens(special_tokens)
        self._tokenizer = _read(tokenizer_json, name)
        self._literal = LiteralTexts(tokenizer_json, name) if special_tokens == LITERAL else None
        self._settings = settings
        self._name = name
        self._query_prompt = settings.query_prompt if use_prompts else ""
        self._document_prompt = settings.document_prompt if use_prompts else ""
        self._skiplist = np.array(sorted(set(settings.skiplist_ids)), dtype=np.int64)
        for prefix, prefix_id in (
            (settings.query_prefix, settings.query_prefix_id),
            (settings.document_prefix, settings.document_prefix_id),
        ):
            found = self._tokenizer.token_to_id(prefix) if prefix else None
            if found != prefix_id:
                raise ModelFormatError(
                    f"{name} gives the prefix {prefix!r} the id {found}, the manifest says {prefix_id}. "
                    "Export the model again."
                )
        with _running(name):
            probe = self._tokenizer.encode("a")
        content = [i for i, sequence in enumerate(probe.sequence_ids) if sequence is not None]
        if not content:
            raise ModelFormatError(f"{name} gives no token for the text 'a'. Export the model again.")
        # The ids that the template puts before and after every text, [CLS] and [SEP] as a rule.
        self._head = probe.ids[: content[0]]
        self._tail = probe.ids[content[-1] + 1 :]

    def query(self, text: str) -> TokenIds:
        """Token ids of a query (R17 to R22).

        Args:
            text: Any text, the empty one included.

        Returns:
            Exactly `query_length` ids with query expansion, at most that many without.
        """
        settings = self._settings
        ids = self._with_specials(self._query_prompt, text, settings.query_length, settings.query_prefix_id)
        n_real = len(ids)
        if settings.do_query_expansion and settings.expansion_token_id is not None:
            ids = ids + [settings.expansion_token_id] * (settings.query_length - n_real)
        attention = np.ones(len(ids), dtype=np.int64)
        if not settings.attend_to_expansion_tokens:
            attention[n_real:] = 0
        # R33, R34: expansion rows are kept, the skiplist never touches queries.
        return TokenIds(np.array(ids, dtype=np.int64), attention, np.ones(len(ids), dtype=np.bool_))

    def document(self, text: str, length: int | None = None) -> TokenIds:
        """Token ids of a document or passage, cut at `document_length`.

        Args:
            text: Any text, the empty one included.
            length: Where to cut instead.

        Returns:
            At most so many ids. Rows of skiplist tokens are marked to be dropped (R33).
        """
        settings = self._settings
        length = settings.document_length if length is None else length
        ids = self._with_specials(self._document_prompt, text, length, settings.document_prefix_id)
        return self._all_attended(np.array(ids, dtype=np.int64))

    def query_places(self, text: str) -> list[TokenPlace]:
        """Where each token of `query(text)` comes from.

        Args:
            text: Any text.

        Returns:
            The same tokens in the same order.
        """
        settings = self._settings
        prefix = (settings.query_prefix_id, settings.query_prefix)
        places = self._places(self._query_prompt, text, settings.query_length, prefix)
        if settings.do_query_expansion and settings.expansion_token_id is not None:
            expansion = self._named(settings.expansion_token_id, "expansion")
            places += [expansion] * (settings.query_length - len(places))
        return places

    def document_places(self, text: str, length: int | None = None) -> list[TokenPlace]:
        """Where each token of `document(text)` comes from.

        Args:
            text: Any text.
            length: As in `document`.

        Returns:
            The same tokens in the same order, those of the skiplist, which are dropped, included.
        """
        settings = self._settings
        length = settings.document_length if length is None else length
        prefix = (settings.document_prefix_id, settings.document_prefix)
        return self._places(self._document_prompt, text, length, prefix)

    def parts(self, texts: list[str]) -> list[list[int]]:
        """Content tokens of parts of documents, to be put together by `joined`.

        Args:
            texts: Any texts.

        Returns:
            The ids of each, without prompt, prefix and special tokens.
        """
        with _running(self._name):
            return [self._content("", text) for text in texts]

    def part_places(self, text: str) -> list[TokenPlace]:
        """Where each token of a part comes from.

        Args:
            text: Any text.

        Returns:
            The tokens that `parts` gives for it, with offsets in the part.
        """
        with _running(self._name):
            return self._content_places("", text)

    def joined(self, parts: Sequence[Sequence[int]]) -> tuple[TokenIds, list[IntArray]]:
        """One document of several parts, whatever its length.

        Args:
            parts: The ids of each part, as `parts` gives them.

        Returns:
            The document with prompt, prefix and special tokens, and where the ids of each part are in it. Rows of
            skiplist tokens are marked to be dropped (R33).
        """
        prefix_id, nobody = self._settings.document_prefix_id, -1
        content = [(number, nobody) for number in self._prompt_ids()]
        content += [(number, part) for part, numbers in enumerate(parts) for number in numbers]
        head, tail = ([(number, nobody) for number in ids] for ids in (self._head, self._tail))
        prefix = [] if prefix_id is None else [(prefix_id, nobody)]
        items = self._framed(content, sys.maxsize, head, prefix, tail)
        ids, owners = np.array(items, dtype=np.int64).reshape(-1, 2).T
        return self._all_attended(ids), [np.flatnonzero(owners == part) for part in range(len(parts))]

    def joined_places(self, parts: Sequence[Sequence[TokenPlace]]) -> list[TokenPlace]:
        """Where each token of `joined` comes from.

        Args:
            parts: The tokens of each part.

        Returns:
            The same tokens in the same order as the ids, with what is put around the parts.
        """
        settings = self._settings
        content = [self._named(number, "prompt") for number in self._prompt_ids()]
        content += [place for part in parts for place in part]
        return self._framed_places(content, sys.maxsize, (settings.document_prefix_id, settings.document_prefix))

    def _all_attended(self, ids: IntArray) -> TokenIds:
        return TokenIds(ids, np.ones(len(ids), dtype=np.int64), ~np.isin(ids, self._skiplist))

    def _prompt_ids(self) -> list[int]:
        prompt = self._document_prompt.strip()
        with _running(self._name):
            return self._content(prompt, "") if prompt else []

    @property
    def document_room(self) -> int:
        """How many content tokens fit a passage: `document_length` less special tokens, prefix and prompt."""
        settings = self._settings
        used = len(self._head) + len(self._tail) + (settings.document_prefix_id is not None)
        return settings.document_length - used - len(self._prompt_ids())

    def count(self, texts: list[str]) -> list[int]:
        """Number of content tokens of each text, without prompt, prefix and special tokens.

        Args:
            texts: Any texts.

        Returns:
            One count for each text.
        """
        prepared = [self._prepared("", text) for text in texts]
        with _running(self._name):
            if self._literal is not None:
                return [len(ids) for ids in self._literal.ids(prepared)]
            encodings = self._tokenizer.encode_batch_fast(prepared, add_special_tokens=False)
            return [len(encoding.ids) for encoding in encodings]

    def _with_specials(self, prompt: str, text: str, length: int, prefix_id: int | None) -> list[int]:
        with _running(self._name):
            content = self._content(prompt, text)
        prefix = [] if prefix_id is None else [prefix_id]
        return self._framed(content, length, self._head, prefix, self._tail)

    def _framed(
        self, content: list[_Item], length: int, head: list[_Item], prefix: list[_Item], tail: list[_Item]
    ) -> list[_Item]:
        """Cut what a text became, and put around it what every text gets."""
        # R18: the end token survives truncation, and the prefix counts towards the length (R19).
        room = max(0, length - len(head) - len(tail) - len(prefix))
        if len(content) > room:
            content = content[:room] if self._settings.truncation_side == "right" else content[len(content) - room :]
        items = [*head, *content, *tail]
        items[1:1] = prefix  # R19: an id at index 1, not text before the text
        return items

    def _content(self, prompt: str, text: str) -> list[int]:
        joined = self._prepared(prompt, text)
        if self._literal is None:
            ids: list[int] = self._tokenizer.encode(joined, add_special_tokens=False).ids
            return ids
        trusted: list[int] = self._tokenizer.encode(self._prepared(prompt, ""), add_special_tokens=False).ids
        if self._literal.are_ordinary(trusted):
            return self._literal.ids([joined])[0]
        # The checkpoint's own prompt means the special tokens that it names; only the text is literal.
        return trusted + self._literal.ids([self._prepared("", text)])[0]

    def _places(self, prompt: str, text: str, length: int, prefix: tuple[int | None, str]) -> list[TokenPlace]:
        with _running(self._name):
            return self._framed_places(self._content_places(prompt, text), length, prefix)

    def _framed_places(
        self, content: list[TokenPlace], length: int, prefix: tuple[int | None, str]
    ) -> list[TokenPlace]:
        head, tail = ([self._named(number, "special") for number in ids] for ids in (self._head, self._tail))
        marks = [] if prefix[0] is None else [TokenPlace(prefix[0], prefix[1], "prefix", None, None)]
        return self._framed(content, length, head, marks, tail)

    def _content_places(self, prompt: str, text: str) -> list[TokenPlace]:
        """As `_content`, with offsets."""
        joined = self._prepared(prompt, text)
        if self._literal is None:
            return self._placed(_pieces(self._tokenizer.encode(joined, add_special_tokens=False)), prompt, text)
        trusted = self._tokenizer.encode(self._prepared(prompt, ""), add_special_tokens=False)
        if self._literal.are_ordinary(trusted.ids):
            return self._placed(self._literal.pieces(joined), prompt, text)
        names = [self._named(number, "prompt") for number in trusted.ids]
        return names + self._placed(self._literal.pieces(self._prepared("", text)), "", text)

    def _placed(self, pieces: Sequence[_Piece], prompt: str, text: str) -> list[TokenPlace]:
        """Offsets in what the tokenizer was given to offsets in the text."""
        joined = prompt + text
        stripped = joined.strip()
        # `_prepared` took white space away, and put the prompt before the text.
        shift = len(joined) - len(joined.lstrip()) - len(prompt)
        origin: Sequence[int] = range(len(stripped) + 1)
        if self._settings.do_lower_case and len(stripped.lower()) != len(stripped):
            # A few characters become two when lower-cased.
            origin = [number for number, character in enumerate(stripped) for _ in character.lower()] + [len(stripped)]
        places = []
        for number, start, end in pieces:
            first = origin[start] + shift
            last = origin[end - 1] + 1 + shift if end > start else first
            if last <= 0 < len(prompt):
                places.append(self._named(number, "prompt"))
                continue
            first, last = max(first, 0), max(last, 0)
            covered = text[first:last]
            # Tokens of many models take the blank before a word along.
            if covered.strip():
                last -= len(covered) - len(covered.rstrip())
                first += len(covered) - len(covered.lstrip())
            name = text[first:last] or self._named(number, "text").text
            places.append(TokenPlace(number, name, "text", first, last))
        return places

    def _named(self, number: int, kind: str) -> TokenPlace:
        return TokenPlace(number, self._tokenizer.id_to_token(number) or "", kind, None, None)

    def _prepared(self, prompt: str, text: str) -> str:
        """R17, R30: prompt and text joined, stripped, then lower-cased where the checkpoint says so."""
        check_text(text)
        joined = (prompt + text).strip()
        return joined.lower() if self._settings.do_lower_case else joined


class LiteralTexts:
    """Tokenises texts so that no special token comes out, whatever they say.

    Args:
        tokenizer_json: Content of `tokenizer.json`.
        name: What to call the file in error messages.

    Raises:
        ModelFormatError: If the content is not a tokenizer.
    """

    def __init__(self, tokenizer_json: bytes, name: str) -> None:
        try:
            data = json.loads(tokenizer_json)
            added = data.get("added_tokens") or []
            # Runs of blanks, which some tokenizers keep there (ModernBERT), are ordinary vocabulary and stay so.
            names = [token for token in added if token["content"].strip()]
            for token in names:
                token["special"] = True
            # The unknown token is what characters outside the vocabulary become; only its name in a text is literal.
            unknown = (data["model"].get("unk_token"), data["model"].get("unk_id"))
            self._special = frozenset(
                int(token["id"]) for token in names if token["content"] != unknown[0] and token["id"] != unknown[1]
            )
            content = json.dumps(data).encode()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelFormatError(f"{name} is not a tokenizer: {error}. Export the model again.") from error
        self._tokenizer = _read(content, name)
        # Not taken out of the file: others would then get their ids.
        self._tokenizer.encode_special_tokens = True

    def are_ordinary(self, ids: list[int]) -> bool:
        """Whether no special token is among some ids."""
        return self._special.isdisjoint(ids)

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts, without those that the tokenizer puts around a text.

        Args:
            texts: Any texts.

        Returns:
            The ids of each; none of them is a special token's.
        """
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [
            encoding.ids if self.are_ordinary(encoding.ids) else [piece.id for piece in self.pieces(text)]
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def pieces(self, text: str) -> list[_Piece]:
        """The tokens of one text with their offsets, the same as in `ids`.

        Args:
            text: Any text.

        Returns:
            Tokens without those that the tokenizer puts around a text.
        """
        found: list[_Piece] = []
        for piece in _pieces(self._tokenizer.encode(text, add_special_tokens=False)):
            if piece.id not in self._special:
                found.append(piece)
                continue
            # Character by character where the vocabulary itself has a special token's name, as unigram models do.
            for place in range(piece.start, piece.end):
                ids = self._tokenizer.encode(text[place], add_special_tokens=False).ids
                # What is left is the unknown token, which stands for no name.
                found += [_Piece(i, place, place + 1) for i in ids if i not in self._special]
        return found


def _pieces(encoding: Any) -> list[_Piece]:
    return [_Piece(number, *span) for number, span in zip(encoding.ids, encoding.offsets, strict=True)]


def check_special_tokens(choice: object) -> str:
    """Refuse what is no way to take special tokens in texts.

    Args:
        choice: What a user gave.

    Returns:
        The same choice.

    Raises:
        InputError: If it is neither "as-model" nor "literal".
    """
    if choice not in (AS_MODEL, LITERAL):
        raise InputError(f"special_tokens is {shown(choice)}, expected {AS_MODEL!r} or {LITERAL!r}.")
    return str(choice)


@contextmanager
def _running(name: str) -> Iterator[None]:
    """The package tokenizers raises bare Exception, and its panics, which wrong files cause, are not even that."""
    try:
        yield
    except (EdgeColbertError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelFormatError(f"{name} is not a tokenizer: {error}. Export the model again.") from error


def _read(tokenizer_json: bytes, name: str) -> Tokenizer:
    with _running(name):
        tokenizer = Tokenizer.from_buffer(tokenizer_json)
        # R24: a saved tokenizer may hold the truncation and padding of its last call.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


def check_text(text: object, what: str = "text") -> str:
    """Refuse what is not encodable text.

    Args:
        text: What a user gave.
        what: How to name it in the error.

    Returns:
        The same text.

    Raises:
        InputTypeError: If it is not a string.
        InputError: If it holds a lone surrogate, which no UTF-8 file and no tokenizer can hold.
    """
    if not isinstance(text, str):
        raise InputTypeError(f"{what} is {type(text).__name__}, expected a string.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} has a lone surrogate (\\u{ord(text[error.start]):04x}) at character {error.start}, which is not "
            "valid Unicode. Replace it first: text.encode('utf-8', 'replace').decode('utf-8')."
        ) from None
    return text
