"""The LlamaIndex door: its own base class calls ours, and its filters select what its own evaluation selects."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from word_encoder import SplittingEncoder, WordEncoder

from edgecolbert import Index, InputError, field

pytest.importorskip("llama_index.core", reason="needs edgecolbert[llama-index]")

from llama_index.core.schema import Document, QueryBundle, TextNode
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from edgecolbert.integrations.llama_index import EdgeColbertRetriever, documents_of, filter_of

NODES = [
    Document(id_="kettle", text="The kettle is in the left cupboard.", metadata={"year": 2024, "room": "kitchen"}),
    TextNode(
        id_="bins", text="The bins go out on Tuesday.", metadata={"year": 2020, "room": "yard", "tags": ["a", "b"]}
    ),
    TextNode(id_="boiler", text="Bleed the radiators first.", metadata={"year": 2022, "tags": ["b", "c"]}),
    TextNode(id_="fuse", text="The fuse box is behind the door."),
]


@pytest.fixture
def index(encoder: WordEncoder) -> Generator[Index, None, None]:
    with Index.open(":memory:", model=encoder) as made:
        made.add(documents_of(NODES))
        yield made


def test_nodes_come_back_with_ids_texts_metadata_and_scores(index: Index) -> None:
    (found,) = EdgeColbertRetriever(index, similarity_top_k=1).retrieve("bins on tuesday")
    assert (found.node.node_id, found.node.get_content(), found.node.metadata) == (
        "bins",
        "The bins go out on Tuesday.",
        NODES[1].metadata,
    )
    assert found.score == index.search("bins on tuesday", k=1)[0].score
    assert (found.node.start_char_idx, found.node.end_char_idx) == (0, len(NODES[1].text))
    assert len(EdgeColbertRetriever(index).retrieve(QueryBundle("the kettle"))) == 2


async def test_waiting_without_blocking_finds_the_same(index: Index) -> None:
    retriever = EdgeColbertRetriever(index, similarity_top_k=3)
    assert await retriever.aretrieve("the kettle") == retriever.retrieve("the kettle")


def test_the_starter_model_in_a_file(path: Path) -> None:
    with Index.open(path) as index:
        index.add(documents_of(NODES))
    retriever = EdgeColbertRetriever(path, similarity_top_k=1)
    assert retriever.retrieve("where do I make tea?")[0].node_id == "kettle"
    retriever.index.close()


def test_words_passages_and_our_own_filters(index: Index) -> None:
    by_words = EdgeColbertRetriever(index, mode="lexical", similarity_top_k=4)
    assert [found.node_id for found in by_words.retrieve('"left cupboard"')] == ["kettle"]
    for conditions in (field("year") >= 2022, {"year": {"gte": 2022}}, "year >= 2022"):
        retriever = EdgeColbertRetriever(index, filters=conditions, similarity_top_k=4)
        assert {found.node_id for found in retriever.retrieve("the")} == {"kettle", "boiler"}
    text = "Bins go out on Tuesday before six. The kettle is in the left cupboard. The boiler hums at night in winter."
    with Index.open(":memory:", model=SplittingEncoder()) as split:
        split.add([{"id": "house", "text": text}])
        (found,) = EdgeColbertRetriever(split, passages=True).retrieve("where is the kettle")
        passage = split.search("where is the kettle")[0].passage
    assert found.node.get_content() == passage.text != text
    assert (found.node.start_char_idx, found.node.end_char_idx) == (passage.start, passage.end)


def one(key: str, operator: str, value: object) -> MetadataFilter:
    return MetadataFilter(key=key, operator=FilterOperator(operator), value=value)


INNER = MetadataFilters(filters=[one("room", "==", "yard"), one("tags", "contains", "c")], condition=FilterCondition.OR)
FILTERS = [
    MetadataFilters(filters=[one("year", "==", 2020)]),
    MetadataFilters(filters=[one("year", "!=", 2020), one("room", "==", "kitchen")]),
    MetadataFilters(filters=[one("year", ">", 2020)]),
    MetadataFilters(filters=[one("year", ">=", 2022)]),
    MetadataFilters(filters=[one("year", "<", 2022)]),
    MetadataFilters(filters=[one("year", "<=", 2022)]),
    MetadataFilters(filters=[one("year", "in", [2020, 2024])]),
    MetadataFilters(filters=[one("room", "nin", ["yard"]), one("room", "!=", "cellar"), one("year", "==", 2024)]),
    MetadataFilters(filters=[one("tags", "any", ["a", "c"])]),
    MetadataFilters(filters=[one("tags", "all", ["a", "b"])]),
    MetadataFilters(filters=[one("tags", "contains", "b")]),
    MetadataFilters(filters=[one("room", "text_match", "itch")]),
    MetadataFilters(filters=[one("year", "==", 2020), one("year", "==", 2022)], condition=FilterCondition.OR),
    MetadataFilters(filters=[one("year", "==", 2020), one("year", "==", 2022)], condition=FilterCondition.NOT),
    MetadataFilters(filters=[one("year", ">", 2000), INNER]),
]


@pytest.mark.parametrize("filters", FILTERS, ids=lambda filters: filters.model_dump_json())
def test_a_filter_selects_what_llama_index_itself_selects(index: Index, filters: MetadataFilters) -> None:
    metadata = {node.node_id: node.metadata for node in NODES}
    if any(isinstance(part, MetadataFilters) for part in filters.filters):
        expected = {"bins", "boiler"}  # its own evaluation takes no filters inside of others
    else:
        holds = build_metadata_filter_fn(metadata.__getitem__, filters)
        # It lets a node without metadata through whatever the filter is; ours compares it like any other.
        expected = {name for name in metadata if metadata[name] and holds(name)}
        if filters.condition == FilterCondition.NOT:
            expected.add("fuse")
    assert set(index.ids(filter=filter_of(filters))) == expected
    found = EdgeColbertRetriever(index, filters=filters, similarity_top_k=4).retrieve("the")
    assert {entry.node_id for entry in found} == expected


@pytest.mark.parametrize(
    "wanted", [one("tags", "is_empty", None), one("room", "text_match_insensitive", "K"), one("year", "==", [1, 2])]
)
def test_what_the_index_cannot_tell_is_an_error(index: Index, wanted: MetadataFilter) -> None:
    with pytest.raises(
        InputError, match=f"has the operator '{wanted.operator.value}' with .* which the index cannot tell"
    ):
        EdgeColbertRetriever(index, filters=MetadataFilters(filters=[wanted]))
