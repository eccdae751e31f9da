"""Texts to stored passages: split, encode, check what the encoder gave, pool and round it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from edgecolbert.chunking import Span
from edgecolbert.codec import LARGEST_COMPONENT, QuantizedTokens, quantize
from edgecolbert.content_keys import TEXT, read_content_key
from edgecolbert.encoder import Encoder, TokenEncoder
from edgecolbert.errors import InputError, InputTypeError
from edgecolbert.passage_settings import PassageSettings
from edgecolbert.store import PinnedEncoding, StoredPassage
from edgecolbert.token_settings import TokenSettings

if TYPE_CHECKING:
    from edgecolbert.passage_plans import PassagePlanner, PlannedPassage

FloatArray = npt.NDArray[np.float32]

# Passages handed to the encoder at a time.
_GROUP = 64


class Text(NamedTuple):
    """What a document's passages depend on.

    Attributes:
        text: The document.
        kind: "text", "markdown" or "code".
        title: Its title, or None.
    """

    text: str
    kind: str = TEXT
    title: str | None = None

    @classmethod
    def of(cls, key: str, text: str) -> Text:
        """A stored text.

        Args:
            key: What it is stored by (`content_keys`).
            text: The text.

        Returns:
            The text, with the kind and the title that the key says.

        Raises:
            ValueError: If that is no key.
        """
        _, kind, title = read_content_key(key)
        return cls(text, kind or TEXT, title)


class PassageEncoder:
    """An encoder, ours or a user's, with its results checked.

    Args:
        encoder: Any object with the two methods of `TokenEncoder`.
        split: Split long documents where the encoder can; otherwise each document is one passage.
        dim: Size of a token embedding if it is known already.
        tokens: How token embeddings of documents are to be stored; every one as int8 by default.
        passages: How documents become passages; the encoder's own way by default.

    Raises:
        InputError: If the encoder cannot make passages so.
    """

    def __init__(
        self,
        encoder: TokenEncoder,
        *,
        split: bool,
        dim: int | None,
        tokens: TokenSettings | None = None,
        passages: PassageSettings | None = None,
    ) -> None:
        self._encoder = encoder
        self._settings = tokens or TokenSettings()
        method = getattr(encoder, "split", None) if split else None
        self._split = method if callable(method) else None
        self.dim = dim
        self._planner: PassagePlanner | None = None
        if passages is not None and not passages.is_default:
            from edgecolbert.passage_plans import PassagePlanner  # a search does without it

            self._planner = PassagePlanner(own_encoder(encoder), passages)

    @classmethod
    def pinned(cls, encoder: TokenEncoder, pinned: PinnedEncoding, path: str) -> PassageEncoder:
        """What makes passages as a database wants them.

        Args:
            encoder: The model.
            pinned: What the database says.
            path: The file, for messages.

        Returns:
            The encoder of passages.

        Raises:
            StoreFormatError: If the database stores tokens, or makes passages, in a way that this version does not
                know.
            InputError: If the encoder cannot make passages so.
        """
        tokens = TokenSettings.pinned(pinned.settings, path)
        passages = PassageSettings.pinned(pinned.settings, path)
        split = bool(pinned.settings["split_documents"])
        return cls(encoder, split=split, dim=pinned.dim, tokens=tokens, passages=passages)

    def documents(self, texts: Sequence[Text]) -> list[list[StoredPassage]]:
        """Passages of each text, with their token embeddings as they are stored.

        Args:
            texts: Any texts, with what else their passages depend on.

        Returns:
            At least one passage for each text, not stored yet.
        """
        if self._planner is not None:
            return self._planned(self._planner, texts)
        spans = [self._spans(text) for text, _, _ in texts]
        pieces = [text[start:end] for (text, _, _), cuts in zip(texts, spans, strict=True) for start, end in cuts]
        tokens: list[QuantizedTokens] = []
        # A long document has thousands of passages: as float32 they would not fit a small board's memory.
        for first in range(0, len(pieces), _GROUP):
            group = pieces[first : first + _GROUP]
            arrays = self._checked(self._encoder.encode_documents(group), len(group), "encode_documents")
            tokens += map(self._stored, arrays)
        remaining = iter(tokens)
        return [[StoredPassage(0, 0, start, end, next(remaining)) for start, end in cuts] for cuts in spans]

    def _planned(self, planner: PassagePlanner, texts: Sequence[Text]) -> list[list[StoredPassage]]:
        planned = [(text, planner.split(text)) for text in texts]
        arrays = planner.encode(planned)
        return [
            [
                StoredPassage(0, 0, start, end, self._stored(*self._checked([array], 1, "encode_documents")))
                # The spans first: zip would else take one more array than there are.
                for (start, end), array in zip(cuts, arrays, strict=False)
            ]
            for _, cuts in planned
        ]

    def _stored(self, embeddings: FloatArray) -> QuantizedTokens:
        if self._settings.pool_factor > 1:
            from edgecolbert.pooling import pool_tokens  # only where it is wanted

            embeddings = pool_tokens(embeddings, self._settings.pool_factor)
        return quantize(embeddings, self._settings.bits)

    def planned(self, document: Text, spans: Sequence[Span], number: int) -> PlannedPassage | None:
        """How one passage of a stored document was encoded.

        Args:
            document: The document.
            spans: All its passages, as they are stored.
            number: Which of them.

        Returns:
            Its tokens; None where a passage is encoded as a document by itself.
        """
        return None if self._planner is None else self._planner.passage(document, spans, number)

    def queries(self, texts: list[str]) -> list[FloatArray]:
        """Token embeddings of each query, float32 [n_query_tokens, dim]."""
        return self._checked(self._encoder.encode_queries(texts), len(texts), "encode_queries")

    def _spans(self, text: str) -> list[Span]:
        if self._split is None:
            return [(0, len(text))]
        spans = [(int(start), int(end)) for start, end in self._split(text)]
        covered = 0
        for start, end in spans:
            if not covered <= start <= end <= len(text) or text[covered:start].strip():
                raise InputError(
                    f"The encoder's split gave {(start, end)} after {covered}: passages lose or repeat text."
                )
            covered = end
        if not spans or text[covered:].strip():
            raise InputError(f"The encoder's split covers {covered} of {len(text)} characters: text would be lost.")
        return spans

    def _checked(self, arrays: list[FloatArray], expected: int, method: str) -> list[FloatArray]:
        """Refuse what a user's encoder must not give: it would be stored, and found wrong much later."""
        if not isinstance(arrays, Sequence):
            raise InputTypeError(f"The encoder's {method} gave {type(arrays).__name__}, expected a list of arrays.")
        if len(arrays) != expected:
            raise InputError(f"The encoder's {method} gave {len(arrays)} arrays for {expected} texts.")
        checked = []
        for array in arrays:
            try:
                rows = np.asarray(array)
            except ValueError as error:  # rows of different lengths
                raise InputTypeError(f"The encoder's {method} gave what is no array: {error}.") from None
            if rows.ndim != 2 or rows.dtype.kind != "f":
                raise InputTypeError(
                    f"The encoder's {method} gave an array of {rows.dtype} with shape {rows.shape}, expected float32 "
                    "[n_tokens, dim]."
                )
            if self.dim is None:
                self.dim = rows.shape[1]
            if rows.shape[1] != self.dim or self.dim == 0:
                raise InputError(f"The encoder's {method} gave dim {rows.shape[1]}, expected {self.dim}.")
            largest = float(np.abs(rows).max(initial=0.0))
            if not np.isfinite(largest):
                raise InputError(f"The encoder's {method} gave token embeddings that are NaN or infinite.")
            if largest > LARGEST_COMPONENT:
                raise InputError(
                    f"The encoder's {method} gave token embeddings with numbers up to {largest:.3g}, expected at most "
                    f"{LARGEST_COMPONENT:.3g}. Normalise them."
                )
            checked.append(np.ascontiguousarray(rows, dtype=np.float32))
        return checked


def own_encoder(encoder: object) -> Encoder:
    """Refuse an encoder of the user's, where only our own can do what is asked for.

    Args:
        encoder: An encoder.

    Returns:
        The same encoder.

    Raises:
        InputError: If it is not our own.
    """
    if isinstance(encoder, Encoder):
        return encoder
    raise InputError(
        f"passages was given settings, but the model passed is an object ({type(encoder).__name__}) that splits "
        "documents itself. Give it a method `split`, or pass a name, a folder or an Encoder; to re-encode with it, ask "
        "for passages=PassageSettings()."
    )
