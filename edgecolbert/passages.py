"""Texts to stored passages: split, encode, check what the encoder gave, pool and round it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgecolbert.chunking import Span
from edgecolbert.codec import QuantizedTokens, quantize
from edgecolbert.encoder import TokenEncoder
from edgecolbert.errors import InputError, InputTypeError
from edgecolbert.store import PinnedEncoding, StoredPassage
from edgecolbert.token_settings import TokenSettings

FloatArray = npt.NDArray[np.float32]

# Passages handed to the encoder at a time.
_GROUP = 64


class PassageEncoder:
    """An encoder, ours or a user's, with its results checked.

    Args:
        encoder: Any object with the two methods of `TokenEncoder`.
        split: Split long documents where the encoder can; otherwise each document is one passage.
        dim: Size of a token embedding if it is known already.
        tokens: How token embeddings of documents are to be stored; every one as int8 by default.
    """

    def __init__(
        self, encoder: TokenEncoder, *, split: bool, dim: int | None, tokens: TokenSettings | None = None
    ) -> None:
        self._encoder = encoder
        self._settings = tokens or TokenSettings()
        method = getattr(encoder, "split", None) if split else None
        self._split = method if callable(method) else None
        self.dim = dim

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
            StoreFormatError: If the database stores tokens in a way that this version does not know.
        """
        tokens = TokenSettings.pinned(pinned.settings, path)
        return cls(encoder, split=bool(pinned.settings["split_documents"]), dim=pinned.dim, tokens=tokens)

    def documents(self, texts: list[str]) -> list[list[StoredPassage]]:
        """Passages of each text, with their token embeddings as they are stored.

        Args:
            texts: Any texts.

        Returns:
            At least one passage for each text, not stored yet.
        """
        spans = [self._spans(text) for text in texts]
        pieces = [text[start:end] for text, cuts in zip(texts, spans, strict=True) for start, end in cuts]
        tokens: list[QuantizedTokens] = []
        # A long document has thousands of passages: as float32 they would not fit a small board's memory.
        for first in range(0, len(pieces), _GROUP):
            group = pieces[first : first + _GROUP]
            arrays = self._checked(self._encoder.encode_documents(group), len(group), "encode_documents")
            tokens += map(self._stored, arrays)
        remaining = iter(tokens)
        return [[StoredPassage(0, 0, start, end, next(remaining)) for start, end in cuts] for cuts in spans]

    def _stored(self, embeddings: FloatArray) -> QuantizedTokens:
        if self._settings.pool_factor > 1:
            from edgecolbert.pooling import pool_tokens  # only where it is wanted

            embeddings = pool_tokens(embeddings, self._settings.pool_factor)
        return quantize(embeddings, self._settings.bits)

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
            if not np.isfinite(rows).all():
                raise InputError(f"The encoder's {method} gave token embeddings that are NaN or infinite.")
            checked.append(np.ascontiguousarray(rows, dtype=np.float32))
        return checked
