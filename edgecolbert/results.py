"""What an index gives back: hits and reports."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from edgecolbert.errors import InputError, StoreClosedError

if TYPE_CHECKING:
    from edgecolbert.explanation import Explanation
    from edgecolbert.highlighting import Snippet
    from edgecolbert.index import Index


@dataclass(frozen=True)
class Passage:
    """A part of a document.

    Attributes:
        start: Offset of its first character in the document's text.
        end: Offset behind its last character.
        text: `document_text[start:end]`.
        score: Its MaxSim, or None for one that no search by token embeddings found. It does not count when
            passages are compared.
    """

    start: int
    end: int
    text: str
    score: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Origin:
    """The search that found something.

    Attributes:
        index: The index, which nothing that was found keeps alive.
        query: The query.
    """

    index: weakref.ref[Index]
    query: str


class Found:
    """Remembers the search it came from, beside its fields: equality, copies, pickles and `vars` know nothing of it."""

    __slots__ = ("_origin",)

    _origin: Origin

    def __getstate__(self) -> dict[str, Any]:
        """The fields."""
        return self.__dict__


@dataclass(frozen=True)
class Hit(Found):
    """A document that was found, or with group="passage" one of its passages.

    Attributes:
        id: The document's id.
        score: MaxSim of its best passage, in mode "lexical" BM25, in mode "hybrid" the fused score; higher is better.
        text: The whole text of the document.
        metadata: The document's metadata.
        passage: Its best passage, which the score is of.
        ranks: Its rank by "late" and by "lexical", as far as they found it: 1 and how many texts scored higher (in mode
            "late" with group="passage" how many passages).
        passages: Its best passages, best first, as many as were asked for and it has; `passage` is the first of them.
    """

    id: str
    score: float
    text: str
    metadata: dict[str, Any]
    passage: Passage
    ranks: dict[str, int] = field(default_factory=dict)
    passages: tuple[Passage, ...] = ()

    def explain(self) -> Explanation:
        """Why it matched: for each query token the token of its best passage that won.

        Returns:
            The explanation, computed from what is stored. The scores of its matches add up to MaxSim, which `score` is
            unless words were searched for, too.

        Raises:
            InputError: If this is a copy, which does not know where it came from, or the document was changed since.
            StoreClosedError: If the index was closed.
        """
        origin: Origin | None = getattr(self, "_origin", None)
        if origin is None:
            raise InputError(
                "This hit does not know which search it came from: it was copied, unpickled, or made by hand. Call "
                "index.explain(query, hit)."
            )
        index = origin.index()
        if index is None:
            raise StoreClosedError(
                "The index that found this hit is gone. Open it again with Index.open, and call index.explain(query, "
                "hit)."
            )
        return index.explain(origin.query, self)

    def snippet(self, max_chars: int = 200) -> Snippet:
        """The part of its best passage with the strongest matches.

        Args:
            max_chars: Most characters.

        Returns:
            The part; `marked()`, `ansi()` and `html()` highlight what matched.

        Raises:
            InputError: As `explain`; or if the model does not say which characters a token stands for.
            StoreClosedError: If the index was closed.
        """
        return self.explain().snippet(max_chars)


def from_search(hit: Hit, origin: Origin) -> Hit:
    """The hit, which remembers the search that found it."""
    object.__setattr__(hit, "_origin", origin)  # a slot beside the fields of a frozen dataclass
    return hit


@dataclass(frozen=True)
class AddReport:
    """What `Index.add` did.

    Attributes:
        ids: The id of each document, in the order given.
        added: Documents that are new.
        updated: Documents whose text or metadata changed.
        unchanged: Documents that were there already, exactly so.
        encoded: Different texts that had to be encoded.
    """

    ids: list[str]
    added: int
    updated: int
    unchanged: int
    encoded: int

    @classmethod
    def joined(cls, reports: Sequence[AddReport]) -> AddReport:
        """What several calls did together.

        Args:
            reports: What each did, in order.

        Returns:
            All their ids, and the sums of their numbers.
        """
        return cls(
            ids=[identifier for report in reports for identifier in report.ids],
            added=sum(report.added for report in reports),
            updated=sum(report.updated for report in reports),
            unchanged=sum(report.unchanged for report in reports),
            encoded=sum(report.encoded for report in reports),
        )


@dataclass(frozen=True)
class IndexStats:
    """What is in an index.

    Attributes:
        path: The database file.
        documents: Number of documents.
        passages: Number of passages they are split into.
        tokens: Number of stored token embeddings.
        model: Name of the model the file is pinned to.
        fingerprint: Hash of everything the model's token embeddings depend on.
        dim: Size of one token embedding, or None before the first document of a model that does not say.
        token_storage: How token embeddings are stored: `bits` and `pool_factor` of `TokenSettings`.
        passage_settings: How documents become passages: `PassageSettings`.
        first_stage: Settings of the first stage, or None before it is fitted.
        text_bytes: Bytes of the documents' texts, in UTF-8.
        token_bytes: Bytes of the token embeddings.
        code_bytes: Bytes of the first stage's codes.
        file_bytes: Size of the database file.
        free_bytes: How much of it nothing uses any more: later writes use it again, and `compact` gives it back.
        encrypted: Whether the file is encrypted.
    """

    path: str
    documents: int
    passages: int
    tokens: int
    model: str
    fingerprint: str
    dim: int | None
    token_storage: dict[str, int]
    first_stage: dict[str, Any] | None
    text_bytes: int
    token_bytes: int
    code_bytes: int
    file_bytes: int
    free_bytes: int
    encrypted: bool = False
    passage_settings: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The same as a dictionary that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class FacetValue:
    """One value of a metadata field.

    Attributes:
        value: A string, a number, a boolean or None; equal numbers are one value.
        count: How many documents have it, as the field or as an element of its array.
    """

    value: str | float | bool | None
    count: int


@dataclass(frozen=True)
class Facets:
    """The values of a metadata field, counted.

    Attributes:
        field: Names of the field from the outside in.
        documents: How many documents were counted: all, or those that the filter selects.
        with_field: How many of them have the field.
        n_values: How many different values it has.
        values: The most frequent ones first; of equally frequent ones None, booleans, numbers, then strings in order.
    """

    field: tuple[str, ...]
    documents: int
    with_field: int
    n_values: int
    values: tuple[FacetValue, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same as a dictionary that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class Problem:
    """Something that `Index.verify` found wrong.

    Attributes:
        message: What is wrong.
        ids: The documents it affects, where that can be said.
    """

    message: str
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerifyReport:
    """What `Index.verify` found.

    Attributes:
        documents: Number of documents checked.
        passages: Number of passages checked.
        problems: Everything that is wrong; empty when all is well.
    """

    documents: int
    passages: int
    problems: tuple[Problem, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same as a dictionary that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class RepairReport:
    """What a repair did.

    Attributes:
        path: The database that is whole now.
        documents: How many documents it has.
        encoded: Texts whose vectors were damaged or missing and were made again.
        lost: The ids of documents that could not be kept.
        lost_unnamed: How many more could not be kept, whose ids could not be read either.
        without_vectors: The ids of documents that are kept and that no search finds yet: their vectors were damaged,
            and the model was not there.
        uncertain: The ids of documents that were kept though they may be deleted ones or earlier versions: the list
            that would say so is damaged.
        first_stage_rebuilt: Whether the first stage was made again.
        notes: What else there is to know, for people.
    """

    path: str
    documents: int
    encoded: int
    lost: tuple[str, ...] = ()
    lost_unnamed: int = 0
    without_vectors: tuple[str, ...] = ()
    uncertain: tuple[str, ...] = ()
    first_stage_rebuilt: bool = False
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every document was kept, for certain and with its vectors."""
        return not (self.lost or self.lost_unnamed or self.without_vectors or self.uncertain)

    def as_dict(self) -> dict[str, Any]:
        """The same as a dictionary that JSON can hold."""
        return asdict(self) | {"complete": self.complete}
