"""Why a document matched: for each query token the document token that won, from the vectors that were scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgecolbert.codec import QuantizedTokens, quantize
from edgecolbert.content_keys import TEXT
from edgecolbert.documents import Document
from edgecolbert.encoder import TokenEncoder
from edgecolbert.errors import InputError, InputTypeError, StoreFormatError, StoreMismatchError
from edgecolbert.kernels import round_query
from edgecolbert.linalg import product
from edgecolbert.passages import PassageEncoder, Text, own_encoder
from edgecolbert.pooling import pool_labels, pool_tokens
from edgecolbert.results import Hit, Passage
from edgecolbert.search import score_contents
from edgecolbert.store import PinnedEncoding, Store
from edgecolbert.token_settings import TokenSettings
from edgecolbert.tokenizer import TokenPlace

if TYPE_CHECKING:
    from edgecolbert.highlighting import Highlight, Snippet
    from edgecolbert.passage_plans import PlannedPassage

FloatArray = npt.NDArray[np.float32]

# Pooled again on another machine, rows may differ in the last bits; those of another grouping point elsewhere.
_SAME_ROW = 0.98


@dataclass(frozen=True)
class Token:
    """A token of the query or of the passage.

    Attributes:
        number: Its place among the tokens of the query, or among those of the passage that have an embedding.
        kind: "text"; "prompt" for the model's own words before the text; "prefix" for the mark of queries or of
            documents; "special" for what is put around every text, such as [CLS]; "expansion" for the [MASK] tokens
            that fill up a query; "context" for the title and headings that a passage was encoded behind; "unknown"
            where the model is an object that does not say.
        text: The characters it stands for, or what the vocabulary calls it; None where the model does not say.
        id: Its id in the vocabulary, or None where the model does not say.
        start: Offset of its first character in the query, or in the document's text; None where it has none.
        end: Offset behind its last character, or None.
    """

    number: int
    kind: str = "unknown"
    text: str | None = None
    id: int | None = None
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class TokenMatch:
    """A query token and what it found.

    Attributes:
        query: The query token.
        document: The token whose stored embedding is nearest to it; None where the passage has none. Where embeddings
            are pooled, that of the group's tokens which is nearest by itself.
        score: Their inner product, which this query token adds to the document's score.
        group: All tokens that the stored embedding is the mean of; only `document` where embeddings are not pooled.
    """

    query: Token
    document: Token | None
    score: float
    group: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """Why a document matched a query. The scores of its matches add up to its score.

    Attributes:
        id: The document's id.
        query: The query.
        score: MaxSim of the passage. Where a hit was ranked by something else as well, the hit's own may differ.
        passage: The passage that is explained.
        matches: One for each token of the query, in order.
        groups: For each stored embedding of the passage the tokens it stands for: one, or several where pooled.
        ranks: Ranks of the hit in each stage, where the search noted them.
        text: The whole text of the document.
        similarities: float32 [n_query_tokens, len(groups)], inner products of all pairs.
    """

    id: str
    query: str
    score: float
    passage: Passage
    matches: tuple[TokenMatch, ...]
    groups: tuple[tuple[Token, ...], ...] = field(repr=False)
    ranks: dict[str, Any] | None = None
    text: str = field(default="", repr=False)
    similarities: FloatArray = field(default_factory=lambda: np.zeros((0, 0), np.float32), repr=False, compare=False)

    @property
    def has_offsets(self) -> bool:
        """Whether the model says which characters a token stands for."""
        return all(token.kind != "unknown" for group in self.groups for token in group)

    def highlights(self) -> tuple[Highlight, ...]:
        """The words of the passage that matched, in order, with offsets in the document's text.

        Returns:
            Whole words that do not overlap. What says little is left out (docs/explain.md).

        Raises:
            InputError: If the model does not say which characters a token stands for.
        """
        from edgecolbert.highlighting import highlights

        return highlights(self)

    def snippet(self, max_chars: int = 200) -> Snippet:
        """The part of the passage with the strongest matches.

        Args:
            max_chars: Most characters.

        Returns:
            The part, with what is to be highlighted.

        Raises:
            InputError: If the model does not say which characters a token stands for, or `max_chars` is below 1.
        """
        from edgecolbert.highlighting import snippet

        return snippet(self, max_chars)

    def to_html(self) -> str:
        """A self-contained HTML page with the matches and a heat map; no scripts, and nothing is loaded."""
        from edgecolbert.heat_map import page

        return page(self.query, [self])

    def as_dict(self) -> dict[str, Any]:
        """What JSON can hold: the matches and the passage's offsets, without the text and without all pairs."""
        return {
            "id": self.id,
            "query": self.query,
            "score": self.score,
            "ranks": self.ranks,
            "passage": {"start": self.passage.start, "end": self.passage.end},
            "matches": [asdict(match) for match in self.matches],
        }


class _Stored(NamedTuple):
    """What is explained: a document, one of its passages, and the passage's stored embeddings."""

    document: Document
    spans: list[tuple[int, int]]
    number: int
    tokens: QuantizedTokens

    @property
    def passage(self) -> Passage:
        start, end = self.spans[self.number]
        return Passage(start, end, self.document.text[start:end])

    @property
    def place(self) -> str:
        start, end = self.spans[self.number]
        return f"{start} to {end} of {self.document.id!r}"


def explain(
    store: Store, encoding_id: int, encoder: TokenEncoder, query: str, vectors: FloatArray, hit: Hit | str
) -> Explanation:
    """Compute again what a hit's score is made of.

    Args:
        store: The database, inside a snapshot.
        encoding_id: Which vectors.
        encoder: The model that made them.
        query: The query.
        vectors: float32 [n_query_tokens, dim], its token embeddings.
        hit: What was found; or a document's id, for its best passage.

    Returns:
        The explanation.

    Raises:
        InputError: If there is no such document, or it was changed since it was found.
        StoreMismatchError: If what is stored is not what the model makes of the passage.
    """
    stored = _stored(store, encoding_id, vectors, hit)
    n_rows = len(stored.tokens.values)
    settings = TokenSettings.pinned(_serving(store).settings, store.path)
    planned = _planned(store, encoder, stored)
    asked = _query_tokens(encoder, query, len(vectors))
    similarities = _similarities(vectors, stored.tokens)
    labels = np.arange(n_rows)
    nearness: FloatArray | None = None
    if settings.pool_factor > 1:
        fresh = _encoded_again(store, encoder, stored, settings, planned)
        found = pool_labels(fresh, settings.pool_factor)
        if found is not None:
            labels, nearness = found, product(vectors, fresh.T)
    tokens = _document_tokens(store, encoder, stored, len(labels), planned)
    members: list[list[int]] = [[] for _ in range(n_rows)]
    for number, row in enumerate(labels.tolist()):
        members[row].append(number)
    groups = tuple(tuple(tokens[number] for number in group) for group in members)
    matches = []
    for number, token in enumerate(asked):
        if not n_rows:
            # As a search scores it: the least that a unit vector can find.
            matches.append(TokenMatch(token, None, -1.0))
            continue
        # Of equal ones the first, so that explaining twice gives the same.
        best = int(similarities[number].argmax())
        group = members[best]
        nearest = group[0] if nearness is None else group[int(nearness[number, group].argmax())]
        matches.append(TokenMatch(token, tokens[nearest], float(similarities[number, best]), groups[best]))
    return Explanation(
        id=stored.document.id,
        query=query,
        score=float(sum(match.score for match in matches)),
        passage=stored.passage,
        matches=tuple(matches),
        groups=groups,
        ranks=None if isinstance(hit, str) else dict(hit.ranks) or None,
        text=stored.document.text,
        similarities=similarities.astype(np.float32),
    )


def _similarities(vectors: FloatArray, tokens: QuantizedTokens) -> npt.NDArray[np.float64]:
    """float64 [n_query_tokens, n_tokens]: the integers that were scored, exact in float64, times their scales."""
    rounded = round_query(vectors)
    products = product(tokens.values.astype(np.float64), rounded.values)
    similarities: npt.NDArray[np.float64] = (products * rounded.steps * tokens.scale).T
    return similarities


def _stored(store: Store, encoding_id: int, vectors: FloatArray, hit: Hit | str) -> _Stored:
    if not isinstance(hit, Hit | str):
        raise InputTypeError(f"hit is {type(hit).__name__}, expected a Hit, or the id of a document.")
    identifier = hit if isinstance(hit, str) else hit.id
    document, number = store.document(identifier), store.content_number(identifier)
    if document is None or number is None:
        raise InputError(f"{store.path} has no document {identifier!r}; it may have been deleted since it was found.")
    if isinstance(hit, str):
        (found,) = score_contents(store, encoding_id, [vectors], [number])
        span = (found[number].start, found[number].end)
    else:
        span = (hit.passage.start, hit.passage.end)
    spans: list[tuple[int, int]] = []
    found_at: tuple[int, QuantizedTokens] | None = None
    for passage in store.passages(encoding_id, [number], complete=True):
        if (passage.start, passage.end) == span:
            found_at = (len(spans), passage.tokens)
        spans.append((passage.start, passage.end))
    if found_at is not None and (isinstance(hit, str) or hit.text == document.text):
        return _Stored(document, spans, *found_at)
    raise InputError(
        f"{store.path}: the document {identifier!r} was changed since this hit was found. Search again, and explain "
        "the new hit."
    )


def _query_tokens(encoder: TokenEncoder, query: str, n_rows: int) -> list[Token]:
    places = _places(encoder, "query_tokens", query)
    if places is None:
        return [Token(number) for number in range(n_rows)]
    if len(places) != n_rows:
        raise InputError(f"The encoder's query_tokens gave {len(places)} tokens for {n_rows} token embeddings.")
    return [_token(number, place, 0) for number, place in enumerate(places)]


def _planned(store: Store, encoder: TokenEncoder, stored: _Stored) -> PlannedPassage | None:
    """How the passage was encoded where it was with others, or behind its context."""
    document = stored.document
    text = Text(document.text, document.kind or TEXT, document.title)
    maker = PassageEncoder.pinned(encoder, _serving(store), store.path)
    return maker.planned(text, stored.spans, stored.number)


def _document_tokens(
    store: Store, encoder: TokenEncoder, stored: _Stored, n_rows: int, planned: PlannedPassage | None
) -> list[Token]:
    places, shift = (planned.places, 0) if planned else _own_places(encoder, stored)
    if places is None:
        return [Token(number) for number in range(n_rows)]
    if len(places) != n_rows:
        raise StoreMismatchError(
            f"{store.path} has {n_rows} token embeddings for the passage {stored.place}, but its model's tokenizer "
            f"gives {len(places)} tokens: they were made with other settings, or by another version. Run "
            "`edgecolbert reencode --db FILE` to make them again."
        )
    return [_token(number, place, shift) for number, place in enumerate(places)]


def _own_places(encoder: TokenEncoder, stored: _Stored) -> tuple[Sequence[TokenPlace] | None, int]:
    """The tokens of a passage that was encoded by itself, and where its first character is."""
    return _places(encoder, "document_tokens", stored.passage.text), stored.passage.start


def _places(encoder: TokenEncoder, method: str, text: str) -> Sequence[TokenPlace] | None:
    """What the encoder says about its tokens, or None where it says nothing."""
    asked: Callable[[str], Sequence[TokenPlace]] | None = getattr(encoder, method, None)
    return asked(text) if callable(asked) else None


def _token(number: int, place: TokenPlace, shift: int) -> Token:
    if place.start is None or place.end is None:
        return Token(number, place.kind, place.text, place.id)
    return Token(number, place.kind, place.text, place.id, place.start + shift, place.end + shift)


def _encoded_again(
    store: Store,
    encoder: TokenEncoder,
    stored: _Stored,
    settings: TokenSettings,
    planned: PlannedPassage | None,
) -> FloatArray:
    """The embeddings of the passage's own tokens, float32 [n_tokens, dim]: which of them were pooled is not stored.

    It is an error if pooling them does not give what is stored.
    """
    if planned is None:
        fresh = np.asarray(encoder.encode_documents([stored.passage.text])[0], dtype=np.float32)
    else:
        fresh = own_encoder(encoder).encode_token_ids([planned.tokens])[0][planned.rows]
    # Rounded as it is stored, so that what rounding does is on both sides.
    again = quantize(pool_tokens(fresh, settings.pool_factor), settings.bits).values.astype(np.float32)
    there = stored.tokens.values.astype(np.float32)
    same = again.shape == there.shape
    if same:
        lengths = np.linalg.norm(again, axis=1) * np.linalg.norm(there, axis=1)
        same = bool(((again * there).sum(axis=1) >= _SAME_ROW * lengths).all())
    if not same:
        raise StoreMismatchError(
            f"{store.path} stores one embedding for several tokens, and which these were cannot be told: encoding the "
            f"passage {stored.place} again gives other embeddings. "
            "They were made on a machine or by a version that computes otherwise. Run `edgecolbert reencode --db FILE` "
            "to make them again."
        )
    return fresh


def _serving(store: Store) -> PinnedEncoding:
    serving = store.encoding()
    if serving is None:
        raise StoreFormatError(f"{store.path} is pinned to no model: nothing was ever added to it.")
    return serving
