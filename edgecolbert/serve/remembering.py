"""A model that remembers what it was just asked: whoever types asks nearly the same again and again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from edgecolbert.encoder import TokenEncoder
from edgecolbert.passages import FloatArray

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# Queries go back and forth while one types; the same passages are found by most of them, and each is explained.
_KEPT_QUERIES, _KEPT_PASSAGES = 64, 512


class Remembered(Generic[K, V]):
    """A function of one argument whose last results are kept, for several threads.

    Args:
        work: The function.
        most: How many results are kept.
    """

    def __init__(self, work: Callable[[K], V], most: int) -> None:
        self._work, self._most = work, most
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, asked: K) -> V:
        """What the function gives, or gave. Two threads that ask at once may both call it, which does no harm."""
        with self._lock:
            if asked in self._kept:
                self._kept.move_to_end(asked)
                return self._kept[asked]
        found = self._work(asked)
        with self._lock:
            self._kept[asked] = found
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return found


class RememberingEncoder:
    """An encoder around another, with memory for queries and for the places of tokens.

    Args:
        inner: The encoder. What it lacks, this lacks, too.
    """

    def __init__(self, inner: TokenEncoder) -> None:
        self._inner = inner
        self._query = Remembered(self._encode_query, _KEPT_QUERIES)
        for name, most in (("query_tokens", _KEPT_QUERIES), ("document_tokens", _KEPT_PASSAGES)):
            places = getattr(inner, name, None)
            if callable(places):
                setattr(self, name, Remembered(places, most))

    def __getattr__(self, name: str) -> Any:
        """Everything else is the inner encoder's."""
        return getattr(self._inner, name)

    def encode_queries(self, queries: list[str]) -> list[FloatArray]:
        """As the inner encoder, from memory where a query was there just now.

        Args:
            queries: Texts.

        Returns:
            One float32 array [n_query_tokens, dim] for each; not to be written to.
        """
        if not queries:
            return self._inner.encode_queries(queries)
        return [self._query(query) for query in queries]

    def encode_documents(self, documents: list[str]) -> list[FloatArray]:
        """As the inner encoder.

        Args:
            documents: Texts.

        Returns:
            One float32 array [n_tokens, dim] for each.
        """
        return self._inner.encode_documents(documents)

    def _encode_query(self, query: str) -> FloatArray:
        (vectors,) = self._inner.encode_queries([query])
        vectors.setflags(write=False)
        return vectors
