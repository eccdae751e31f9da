"""The Haystack door: its own tests for document stores, and pipelines of its own that run ours."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from word_encoder import SplittingEncoder, WordEncoder

from edgecolbert import Index, InputError

# Before Haystack is imported, which else reports the use of its pipelines to its maker.
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
pytest.importorskip("haystack", reason="needs edgecolbert[haystack]")

from haystack import Document, Pipeline
from haystack.dataclasses import ByteStream
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError
from haystack.testing.document_store import CountDocumentsByFilterTest, DocumentStoreBaseExtendedTests

from edgecolbert.integrations.haystack import EdgeColbertDocumentStore, EdgeColbertRetriever, filter_of

NOTES = [
    Document(
        id="kettle", content="The kettle is in the left cupboard.", meta={"year": 2024, "room": {"name": "kitchen"}}
    ),
    Document(id="bins", content="The bins go out on Tuesday.", meta={"year": 2020, "at": "2024-05-31T18:00:00+02:00"}),
    Document(id="boiler", content="Bleed the radiators first.", meta={"year": 2022}),
]


class TestDocumentStore(DocumentStoreBaseExtendedTests, CountDocumentsByFilterTest):
    """Haystack's own."""

    @pytest.fixture
    def document_store(self, encoder: WordEncoder, path: Path) -> Generator[EdgeColbertDocumentStore, None, None]:
        with Index.open(path, model=encoder) as index:
            yield EdgeColbertDocumentStore(index)

    @staticmethod
    def assert_documents_are_equal(received: list[Document], expected: list[Document]) -> None:
        """Embeddings of other models are not kept."""
        assert [document.to_dict(flatten=False) | {"embedding": None} for document in received] == [
            document.to_dict(flatten=False) | {"embedding": None} for document in expected
        ]

    def test_write_documents(self, document_store: EdgeColbertDocumentStore) -> None:
        """What NONE means is the store's to say: here the same as FAIL."""
        assert document_store.write_documents(NOTES[:1]) == 1
        with pytest.raises(DuplicateDocumentError, match="There is a document with the id 'kettle' already"):
            document_store.write_documents(NOTES[:1])


@pytest.fixture
def store(encoder: WordEncoder) -> Generator[EdgeColbertDocumentStore, None, None]:
    with Index.open(":memory:", model=encoder) as index:
        made = EdgeColbertDocumentStore(index)
        made.write_documents(NOTES)
        yield made


def test_nothing_is_reported_to_anybody() -> None:
    from haystack.telemetry import _telemetry

    assert _telemetry.telemetry is None


def test_a_pipeline_finds_documents_with_scores(store: EdgeColbertDocumentStore) -> None:
    pipeline = Pipeline()
    pipeline.add_component("retriever", EdgeColbertRetriever(store, top_k=2))
    found = pipeline.run({"retriever": {"query": "bins on tuesday"}})["retriever"]["documents"]
    assert [document.id for document in found][:1] == ["bins"]
    assert [document.score for document in found] == [hit.score for hit in store.index.search("bins on tuesday", k=2)]
    assert (found[0].content, found[0].meta) == (NOTES[1].content, NOTES[1].meta)


async def test_a_pipeline_that_does_not_block_finds_the_same(store: EdgeColbertDocumentStore) -> None:
    retriever = EdgeColbertRetriever(store, top_k=2)
    assert await retriever.run_async("the kettle", top_k=1) == retriever.run("the kettle", top_k=1)


def test_a_pipeline_is_written_and_read(path: Path) -> None:
    store = EdgeColbertDocumentStore(str(path))
    store.write_documents(NOTES)
    filters = {"field": "meta.year", "operator": ">", "value": 2020}
    pipeline = Pipeline()
    pipeline.add_component(
        "retriever", EdgeColbertRetriever(store, top_k=1, filters=filters, filter_policy="merge", mode="hybrid")
    )
    text = pipeline.dumps()
    store.index.close()
    read = Pipeline.loads(text, allowed_modules=["edgecolbert.integrations.haystack"])
    retriever = read.get_component("retriever")
    assert (retriever.top_k, retriever.filters, retriever.mode) == (1, filters, "hybrid")
    assert read.run({"retriever": {"query": "where do I make tea?"}})["retriever"]["documents"][0].id == "kettle"
    assert read.dumps() == text
    retriever.document_store.index.close()


def test_filters_of_a_run_replace_or_are_added(store: EdgeColbertDocumentStore) -> None:
    late = {"field": "meta.year", "operator": ">=", "value": 2022}
    timeless = {"field": "meta.room", "operator": "==", "value": None}
    replacing = EdgeColbertRetriever(store, filters=late)
    adding = EdgeColbertRetriever(store, filters=late, filter_policy="merge")
    assert {document.id for document in replacing.run("the")["documents"]} == {"kettle", "boiler"}
    assert {document.id for document in replacing.run("the", filters=timeless)["documents"]} == {"bins", "boiler"}
    assert {document.id for document in adding.run("the", filters=timeless)["documents"]} == {"boiler"}


@pytest.mark.parametrize(
    ("field", "operator", "value", "expected"),
    [
        ("meta.room.name", "==", "kitchen", ["kettle"]),
        ("year", "in", [2020, 2024], ["kettle", "bins"]),
        ("meta.room", "==", None, ["bins", "boiler"]),
        ("meta.year", "not in", [2020, None], ["kettle", "boiler"]),
        ("meta.at", "==", "2024-05-31T16:00:00Z", ["bins"]),
        ("meta.at", "<", "2024-06-01", ["bins"]),
        ("meta.at", "in", [], []),
    ],
)
def test_filters_on_nested_missing_and_dated_values(
    store: EdgeColbertDocumentStore, field: str, operator: str, value: object, expected: list[str]
) -> None:
    found = store.filter_documents({"field": field, "operator": operator, "value": value})
    assert [document.id for document in found] == expected


def test_a_filter_that_is_wrong_says_why(store: EdgeColbertDocumentStore) -> None:
    with pytest.raises(FilterError, match="A filter is on 'content'; only metadata can be filtered"):
        filter_of({"field": "content", "operator": "==", "value": "a"})
    with pytest.raises(FilterError, match="operator 'XOR', expected AND, OR or NOT"):
        filter_of({"operator": "XOR", "conditions": []})
    with pytest.raises(FilterError, match="operator '~', expected =="):
        filter_of({"field": "meta.a", "operator": "~", "value": 1})
    with pytest.raises(FilterError, match="compares with dict"):
        filter_of({"field": "meta.a", "operator": "==", "value": {}})
    deep = {"field": "meta.a", "operator": "==", "value": 1}
    for _ in range(50):
        deep = {"operator": "NOT", "conditions": [deep]}
    with pytest.raises(FilterError, match="nested too deeply"):
        filter_of(deep)


def test_what_is_no_text_is_refused_and_writes_nothing(store: EdgeColbertDocumentStore) -> None:
    fine = Document(id="new", content="a note")
    for bad, message in (
        (Document(id="x", blob=ByteStream(b"bytes")), r"documents\[1\] \(x\) has no content"),
        (Document(id="x", content="a", blob=ByteStream(b"bytes")), "has a blob"),
    ):
        with pytest.raises(InputError, match=message):
            store.write_documents([fine, bad])
    with pytest.raises(DuplicateDocumentError):
        store.write_documents([fine, fine])
    assert store.count_documents() == 3
    assert store.write_documents([fine, fine], policy=DuplicatePolicy.SKIP) == 1
    with pytest.raises(InputError, match="filter has no condition"):
        store.delete_by_filter({})
    with pytest.raises(InputError, match="document_store is str"):
        EdgeColbertRetriever("notes.db")


def test_passages() -> None:
    text = "Bins go out on Tuesday before six. The kettle is in the left cupboard. The boiler hums at night in winter."
    with Index.open(":memory:", model=SplittingEncoder()) as index:
        index.add([{"id": "house", "text": text}])
        (found,) = EdgeColbertRetriever(EdgeColbertDocumentStore(index), passages=True).run("where is the kettle")[
            "documents"
        ]
        assert found.content == index.search("where is the kettle")[0].passage.text != text
