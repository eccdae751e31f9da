"""Haystack: a document store and a retriever over an index. Needs `edgecolbert[haystack]`, which is haystack-ai.

    from edgecolbert.integrations.haystack import EdgeColbertDocumentStore, EdgeColbertRetriever

docs/integrations/haystack.md shows both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import date
from typing import Any, Literal

from edgecolbert.errors import InputError, InputTypeError, MissingExtraError
from edgecolbert.filters import Field, Filter, field, read_filter
from edgecolbert.filters.conditions import AllOf, AnyOf
from edgecolbert.instants import microseconds_of
from edgecolbert.integrations.shared import AnyIndex, as_index
from edgecolbert.results import Hit

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.document_stores.errors import DuplicateDocumentError
    from haystack.document_stores.types import DuplicatePolicy, FilterPolicy, apply_filter_policy
    from haystack.errors import FilterError
except ImportError as error:
    raise MissingExtraError.of(__name__, "haystack-ai", "haystack") from error

Mode = Literal["late", "lexical", "hybrid"]
HaystackFilters = dict[str, Any]

_RANGES: dict[str, Callable[[Field, Any], Filter]] = {
    ">": lambda where, value: where > value,
    ">=": lambda where, value: where >= value,
    "<": lambda where, value: where < value,
    "<=": lambda where, value: where <= value,
}
_DOCUMENT_FIELDS = {entry.name for entry in fields(Document)}


class EdgeColbertDocumentStore:
    """An index as a document store.

    It keeps texts and metadata, and encodes texts itself: embeddings that a document has are not kept, and a document
    without a text, or with a blob, is refused.

    Args:
        index: An index, or the file of one, which is made if it does not exist. Close it with `store.index.close()`.
    """

    def __init__(self, index: AnyIndex = ":memory:") -> None:
        self.index = as_index(index)

    def to_dict(self) -> dict[str, Any]:
        """The store for a pipeline's file: the path of the index; one in memory is begun anew."""
        path = self.index.stats().path
        return default_to_dict(self, index=path)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EdgeColbertDocumentStore:
        """The store that a pipeline's file names.

        Args:
            data: As `to_dict` gave it.

        Returns:
            The store. An index with a model of your own, or an encrypted one, has to be opened and passed by hand.
        """
        found: EdgeColbertDocumentStore = default_from_dict(cls, data)
        return found

    def count_documents(self) -> int:
        """How many documents there are."""
        return len(self.index)

    def count_documents_by_filter(self, filters: HaystackFilters) -> int:
        """How many documents a filter selects.

        Args:
            filters: As in `filter_documents`.

        Returns:
            Their number.
        """
        return self.index.count(filter=filter_of(filters))

    def filter_documents(self, filters: HaystackFilters | None = None) -> list[Document]:
        """The documents that a filter selects, in the order they were first written.

        Args:
            filters: Haystack's filters on `meta`; None or an empty one for all documents.

        Returns:
            The documents.

        Raises:
            FilterError: If a filter is wrong.
        """
        found = [self.index.get(name) for name in self.index.ids(filter=filter_of(filters))]
        return [
            Document(id=record.id, content=record.text, meta=record.metadata) for record in found if record is not None
        ]

    def write_documents(self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE) -> int:
        """Write documents; all of them or none.

        Args:
            documents: The documents.
            policy: What to do with one whose id is there already. NONE is FAIL.

        Returns:
            How many were written.

        Raises:
            InputTypeError: If `documents` is not a list of documents.
            InputError: If one has no text, or what the index cannot keep.
            DuplicateDocumentError: If an id is there already, or twice in the list, and the policy is FAIL.
        """
        if not isinstance(documents, list):
            raise InputTypeError(f"documents is {type(documents).__name__}, expected a list of documents.")
        records: dict[str, dict[str, Any]] = {}
        for position, document in enumerate(documents):
            record = _record(document, f"documents[{position}]")
            name = record["id"]
            if policy != DuplicatePolicy.OVERWRITE and (name in records or name in self.index):
                if policy == DuplicatePolicy.SKIP:
                    continue
                raise DuplicateDocumentError(f"There is a document with the id {name!r} already; nothing was written.")
            records[name] = record
        self.index.add(list(records.values()))
        return len(documents) if policy == DuplicatePolicy.OVERWRITE else len(records)

    def update_by_filter(self, filters: HaystackFilters, meta: dict[str, Any]) -> int:
        """Set values in the metadata of the documents that a filter selects; texts are not encoded again.

        Args:
            filters: As in `filter_documents`.
            meta: The values, by name.

        Returns:
            How many documents were selected.
        """
        documents = self.filter_documents(filters)
        self.index.add(
            [{"id": found.id, "text": found.content, "metadata": {**found.meta, **meta}} for found in documents]
        )
        return len(documents)

    def delete_documents(self, document_ids: list[str]) -> None:
        """Delete documents; unknown ids are passed over.

        Args:
            document_ids: Their ids.
        """
        self.index.delete(document_ids)

    def delete_by_filter(self, filters: HaystackFilters) -> int:
        """Delete the documents that a filter selects.

        Args:
            filters: As in `filter_documents`, with at least one condition.

        Returns:
            How many were deleted.

        Raises:
            InputError: If there is no condition. `delete_all_documents` deletes all.
        """
        wanted = filter_of(filters)
        return self.index.delete_where({} if wanted is None else wanted)

    def delete_all_documents(self) -> None:
        """Delete every document."""
        self.index.delete(self.index.ids())


@component
class EdgeColbertRetriever:
    """Finds the documents that match a query best.

    Args:
        document_store: The store.
        top_k: Most documents wanted.
        filters: Haystack's filters on `meta`.
        filter_policy: Whether filters of `run` replace these, or are added to them.
        mode: "late", "lexical" or "hybrid", as in `Index.search`.
        passages: Give the best passage of each document, rather than the whole document, as `content`.

    Raises:
        InputTypeError: If `document_store` is of another class.
    """

    def __init__(
        self,
        document_store: EdgeColbertDocumentStore,
        *,
        top_k: int = 10,
        filters: HaystackFilters | None = None,
        filter_policy: str | FilterPolicy = FilterPolicy.REPLACE,
        mode: Mode = "late",
        passages: bool = False,
    ) -> None:
        if not isinstance(document_store, EdgeColbertDocumentStore):
            raise InputTypeError(
                f"document_store is {type(document_store).__name__}, expected an EdgeColbertDocumentStore."
            )
        self.document_store = document_store
        self.top_k = top_k
        self.filters = filters
        policy = filter_policy if isinstance(filter_policy, FilterPolicy) else FilterPolicy.from_str(filter_policy)
        self.filter_policy = policy
        self.mode: Mode = mode
        self.passages = passages

    def to_dict(self) -> dict[str, Any]:
        """The component for a pipeline's file."""
        return default_to_dict(
            self,
            document_store=self.document_store.to_dict(),
            top_k=self.top_k,
            filters=self.filters,
            filter_policy=self.filter_policy.value,
            mode=self.mode,
            passages=self.passages,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EdgeColbertRetriever:
        """The component that a pipeline's file describes.

        Args:
            data: As `to_dict` gave it.

        Returns:
            The component.
        """
        store = EdgeColbertDocumentStore.from_dict(data["init_parameters"]["document_store"])
        parameters = {**data["init_parameters"], "document_store": store}
        found: EdgeColbertRetriever = default_from_dict(cls, {**data, "init_parameters": parameters})
        return found

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, filters: HaystackFilters | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Find documents.

        Args:
            query: Any text.
            filters: Filters of this run.
            top_k: Most documents wanted in this run.

        Returns:
            Under "documents" at most `top_k` documents with their scores, best first.
        """
        merged = apply_filter_policy(self.filter_policy, self.filters, filters)
        hits = self.document_store.index.search(
            query, k=self.top_k if top_k is None else top_k, filter=filter_of(merged), mode=self.mode
        )
        return {"documents": [self._document(hit) for hit in hits]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, filters: HaystackFilters | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Find documents without blocking the event loop.

        Args:
            query: As in `run`.
            filters: As in `run`.
            top_k: As in `run`.

        Returns:
            As `run`.
        """
        return await asyncio.to_thread(lambda: self.run(query, filters, top_k))

    def _document(self, hit: Hit) -> Document:
        content = hit.passage.text if self.passages else hit.text
        return Document(id=hit.id, content=content, meta=hit.metadata, score=hit.score)


def filter_of(filters: Mapping[str, Any] | None) -> Filter | None:
    """Haystack's filters as ours.

    Args:
        filters: Its filters; None or an empty one for none.

    Returns:
        The filter, or None.

    Raises:
        FilterError: If a part is missing or wrong, or asks for what the index cannot tell.
    """
    if not filters:
        return None
    try:
        return read_filter(_part(filters))
    except InputError as error:
        raise FilterError(str(error)) from error


def _part(part: Mapping[str, Any]) -> Filter:
    if not isinstance(part, Mapping):
        raise FilterError(f"A filter is {type(part).__name__}, expected a mapping.")
    kind = "condition" if "field" in part else "conditions"
    for key in ("operator", "value") if kind == "condition" else ("operator", "conditions"):
        if key not in part:
            raise FilterError(f"A filter has no {key!r}: {dict(part)!r}.")
    if kind == "condition":
        return _condition(_field(str(part["field"])), str(part["operator"]), part["value"])
    parts = tuple(_part(inner) for inner in part["conditions"])
    match part["operator"]:
        case "AND":
            return AllOf(parts)
        case "OR":
            return AnyOf(parts)
        case "NOT":
            return ~AllOf(parts)
        case operator:
            raise FilterError(f"A filter has the operator {operator!r}, expected AND, OR or NOT.")


def _field(name: str) -> Field:
    first, *inner = name.split(".")
    if first == "meta" and inner:
        return field(*inner)
    if first in _DOCUMENT_FIELDS:
        raise FilterError(f"A filter is on {name!r}; only metadata can be filtered, such as 'meta.year'.")
    return field(name)


def _condition(where: Field, operator: str, value: Any) -> Filter:
    match operator:
        case "==":
            return _equal(where, value)
        case "!=":
            return ~_equal(where, value)
        case "in" | "not in":
            if not isinstance(value, list):
                raise FilterError(f"{operator!r} has {type(value).__name__}, expected a list.")
            found = AnyOf(tuple(_equal(where, one) for one in value))
            return found if operator == "in" else ~found
        case ">" | ">=" | "<" | "<=":
            if value is None:
                return where.is_in([])  # nothing is more or less than nothing
            if isinstance(value, list) or (isinstance(value, str) and microseconds_of(value) is None):
                raise FilterError(f"{operator!r} has {value!r}, expected a number or a date in ISO 8601.")
            return _RANGES[operator](where, value)
        case _:
            raise FilterError(f"A filter has the operator {operator!r}, expected ==, !=, >, >=, <, <=, in or 'not in'.")


def _equal(where: Field, value: Any) -> Filter:
    """Haystack takes a missing value for None, and compares dates as moments."""
    if value is None:
        return where.missing() | (where == None)  # noqa: E711 - the filter's own comparison
    if isinstance(value, str) and microseconds_of(value) is not None:
        return (where == value) | (where == {"date": value})
    if isinstance(value, date | str | int | float):
        return where == value
    raise FilterError(f"A filter compares with {type(value).__name__}, expected a string, a number, a date or None.")


def _record(document: object, where: str) -> dict[str, Any]:
    if not isinstance(document, Document):
        raise InputTypeError(f"{where} is {type(document).__name__}, expected a Document of Haystack.")
    if document.content is None or document.blob is not None:
        what = "no content" if document.content is None else "a blob"
        raise InputError(f"{where} ({document.id}) has {what}; the store keeps texts. Convert it to a text first.")
    return {"id": document.id, "text": document.content, "metadata": document.meta}
