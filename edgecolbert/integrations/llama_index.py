"""LlamaIndex: a retriever over an index. Needs `edgecolbert[llama-index]`, which is llama-index-core only.

    from edgecolbert.integrations.llama_index import EdgeColbertRetriever, documents_of

docs/integrations/llama-index.md shows both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Literal

from edgecolbert.errors import InputError, MissingExtraError
from edgecolbert.filters import Field, Filter, field, read_filter
from edgecolbert.filters.conditions import AllOf, AnyOf
from edgecolbert.fusion import Fusion
from edgecolbert.integrations.shared import AnyFilter, AnyIndex, as_filter, as_index
from edgecolbert.results import Hit

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.callbacks.base import CallbackManager
    from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
    from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
except ImportError as error:
    raise MissingExtraError.of(__name__, "llama-index-core", "llama-index") from error

Mode = Literal["late", "lexical", "hybrid"]

# LlamaIndex's own number of nodes where nobody says one.
_TOP_K = 2


class EdgeColbertRetriever(BaseRetriever):
    """An index as a retriever.

    Args:
        index: An index, or the file of one, which is made if it does not exist. Close it with
            `retriever.index.close()`.
        similarity_top_k: Most nodes wanted.
        filters: Conditions on metadata: LlamaIndex's `MetadataFilters`, or any form of docs/filters.md.
        mode: "late", "lexical" or "hybrid", as in `Index.search`.
        fusion: As in `Index.search`.
        passages: Give the best passage of each document, rather than the whole document, as the node's text.
        callback_manager: LlamaIndex's own.
        verbose: LlamaIndex's own.

    Raises:
        InputError: If a filter asks for what the index cannot tell.
    """

    def __init__(
        self,
        index: AnyIndex,
        *,
        similarity_top_k: int = _TOP_K,
        filters: MetadataFilters | AnyFilter | None = None,
        mode: Mode = "late",
        fusion: Fusion | Literal["weighted", "rrf"] | None = None,
        passages: bool = False,
        callback_manager: CallbackManager | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(callback_manager=callback_manager, verbose=verbose)
        self.index = as_index(index)
        self.similarity_top_k = similarity_top_k
        self.mode = mode
        self.fusion = fusion
        self.passages = passages
        given = filter_of(filters) if isinstance(filters, MetadataFilters) else as_filter(filters)
        self.filter: Filter | None = None if given is None else read_filter(given)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self.index.search(
            query_bundle.query_str, k=self.similarity_top_k, filter=self.filter, mode=self.mode, fusion=self.fusion
        )
        return [NodeWithScore(node=self._node(hit), score=hit.score) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)

    def _node(self, hit: Hit) -> TextNode:
        start, end = (hit.passage.start, hit.passage.end) if self.passages else (0, len(hit.text))
        return TextNode(
            id_=hit.id, text=hit.text[start:end], metadata=hit.metadata, start_char_idx=start, end_char_idx=end
        )


def documents_of(nodes: Iterable[BaseNode]) -> list[dict[str, Any]]:
    """LlamaIndex's documents and nodes as `Index.add` takes them.

    Args:
        nodes: Documents of a reader, or nodes of a parser. Their text has no metadata in it.

    Returns:
        Their ids, texts and metadata; relationships between nodes are left out.
    """
    return [
        {"id": node.node_id, "text": node.get_content(metadata_mode=MetadataMode.NONE), "metadata": node.metadata}
        for node in nodes
    ]


def filter_of(filters: MetadataFilters) -> Filter:
    """LlamaIndex's filters as ours.

    Args:
        filters: Its filters, which may be inside one another.

    Returns:
        The filter.

    Raises:
        InputError: If one asks for what the index cannot tell: "is_empty" and "text_match_insensitive".
    """
    parts = tuple(
        filter_of(part) if isinstance(part, MetadataFilters) else _condition(part) for part in filters.filters
    )
    if filters.condition == FilterCondition.OR:
        return AnyOf(parts)
    if filters.condition == FilterCondition.NOT:
        return ~AnyOf(parts)
    return AllOf(parts)


def _condition(wanted: MetadataFilter) -> Filter:
    value: Any = wanted.value
    make = _OPERATORS.get(wanted.operator)
    # One value is a list of one, where a list is wanted; elsewhere a list is what an index cannot compare with.
    if make is None or (isinstance(value, list) and wanted.operator not in _LISTS):
        raise InputError(
            f"The filter on {wanted.key!r} has the operator {wanted.operator.value!r} with {value!r}, which the index "
            "cannot tell. docs/filters.md says what it can; `filters` takes those forms, too."
        )
    if wanted.operator in _LISTS and not isinstance(value, list):
        value = [value]
    return make(field(wanted.key), value)


_LISTS = (FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL)
_OPERATORS: dict[FilterOperator, Callable[[Field, Any], Filter]] = {
    FilterOperator.EQ: lambda where, value: where == value,
    FilterOperator.NE: lambda where, value: where != value,
    FilterOperator.GT: lambda where, value: where > value,
    FilterOperator.GTE: lambda where, value: where >= value,
    FilterOperator.LT: lambda where, value: where < value,
    FilterOperator.LTE: lambda where, value: where <= value,
    FilterOperator.IN: lambda where, values: where.is_in(values),
    FilterOperator.NIN: lambda where, values: where.not_in(values),
    FilterOperator.ANY: lambda where, values: AnyOf(tuple(where.contains(value) for value in values)),
    FilterOperator.ALL: lambda where, values: AllOf(tuple(where.contains(value) for value in values)),
    FilterOperator.CONTAINS: lambda where, value: where.contains(value),
    FilterOperator.TEXT_MATCH: lambda where, value: where.substring(value),
}
