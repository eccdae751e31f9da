"""The LangChain door: LangChain's own standard tests, and what they do not ask."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from word_encoder import SplittingEncoder, WordEncoder

from edgecolbert import Index, InputError, field

pytest.importorskip("langchain_core", reason="needs edgecolbert[langchain]")
pytest.importorskip("langchain_tests", reason="needs edgecolbert[dev]")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager
from langchain_core.indexing import index as keep_in_step
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests

from edgecolbert.integrations.langchain import EdgeColbertRetriever, EdgeColbertVectorStore

NOTES = [
    Document(
        id="kettle", page_content="The kettle is in the left cupboard.", metadata={"year": 2024, "room": "kitchen"}
    ),
    Document(id="bins", page_content="The bins go out on Tuesday.", metadata={"year": 2020, "room": "yard"}),
    Document(id="boiler", page_content="Bleed the radiators before the boiler.", metadata={"year": 2022}),
]


class TestVectorStore(VectorStoreIntegrationTests):
    """With the starter model, as a user has it."""

    @pytest.fixture
    def vectorstore(self, path: Path) -> Generator[EdgeColbertVectorStore, None, None]:
        with Index.open(path) as index:
            yield EdgeColbertVectorStore(index)


class TestRetriever(RetrieversIntegrationTests):
    """With the starter model, as a user has it."""

    @pytest.fixture(autouse=True)
    def _notes(self, path: Path) -> Generator[None, None, None]:
        with Index.open(path) as self.index:
            EdgeColbertVectorStore(self.index).add_documents(NOTES)
            yield

    @property
    def retriever_constructor(self) -> type[EdgeColbertRetriever]:
        return EdgeColbertRetriever

    @property
    def retriever_constructor_params(self) -> dict:
        return {"index": self.index, "k": 2}

    @property
    def retriever_query_example(self) -> str:
        return "where is the kettle?"


@pytest.fixture
def store(encoder: WordEncoder) -> Generator[EdgeColbertVectorStore, None, None]:
    with Index.open(":memory:", model=encoder) as index:
        made = EdgeColbertVectorStore(index)
        made.add_documents(NOTES)
        yield made


def test_documents_come_back_as_they_were_added_and_scores_are_the_indexs(store: EdgeColbertVectorStore) -> None:
    found = store.similarity_search_with_score("bins on tuesday", k=2)
    assert found[0][0] == NOTES[1]
    assert [score for _, score in found] == [hit.score for hit in store.index.search("bins on tuesday", k=2)]
    assert store.get_by_ids(["boiler", "nobody", "kettle"]) == [NOTES[2], NOTES[0]]


@pytest.mark.parametrize("conditions", [field("year") >= 2022, {"year": {"gte": 2022}}, "year >= 2022"], ids=repr)
def test_a_filter_may_have_any_of_its_three_forms(store: EdgeColbertVectorStore, conditions: object) -> None:
    found = store.similarity_search("the bins", k=3, filter=conditions)
    assert sorted(document.id or "" for document in found) == ["boiler", "kettle"]
    retriever = EdgeColbertRetriever(index=store.index, filter=conditions)
    assert {document.id for document in retriever.invoke("the bins")} == {"boiler", "kettle"}
    assert [document.id for document in retriever.invoke("the bins", k=3, filter="room = 'yard'")] == ["bins"]
    assert {
        document.id for document in store.as_retriever(search_kwargs={"k": 3, "filter": conditions}).invoke("a")
    } == {
        "boiler",
        "kettle",
    }


def test_words_and_both_are_modes_of_the_store_and_of_a_call(store: EdgeColbertVectorStore) -> None:
    by_words = EdgeColbertVectorStore(store.index, mode="lexical")
    assert [document.id for document in by_words.similarity_search("radiators")] == ["boiler"]
    assert [document.id for document in store.similarity_search("radiators", mode="hybrid", k=1)] == ["boiler"]
    assert EdgeColbertRetriever(index=store.index, mode="lexical").invoke('"left cupboard"') == [NOTES[0]]


def test_a_word_that_is_mistyped_is_an_error(store: EdgeColbertVectorStore) -> None:
    with pytest.raises(TypeError, match="filters"):
        store.similarity_search("a", filters={})
    with pytest.raises(TypeError, match="metadata"):
        store.add_texts(["a"], metadata=[{}])


def test_equal_texts_of_two_pages_are_two_documents_and_the_same_again_is_none(store: EdgeColbertVectorStore) -> None:
    pages = [Document(page_content="Left blank.", metadata={"page": page}) for page in (1, 2)]
    ids = store.add_documents(pages)
    assert len(set(ids)) == 2
    assert store.add_documents(pages) == ids
    assert len(store.index) == 5
    assert store.add_texts(["Left blank."])[0] not in ids


def test_some_ids_may_be_missing(store: EdgeColbertVectorStore) -> None:
    mixed = [Document(id="one", page_content="one"), Document(page_content="two")]
    first, second = store.add_documents(mixed)
    assert first == "one"
    assert [document.page_content for document in store.get_by_ids([first, second])] == ["one", "two"]
    assert store.add_documents(mixed, ids=["x", "y"]) == ["x", "y"]


def test_lists_of_different_lengths_add_nothing(store: EdgeColbertVectorStore) -> None:
    with pytest.raises(InputError, match="There are 2 texts and 1 metadatas, expected as many"):
        store.add_texts(["a", "b"], [{}])
    with pytest.raises(InputError, match="There are 2 texts and 3 ids"):
        store.add_texts(["a", "b"], ids=["1", "2", "3"])
    loop: dict = {}
    loop["loop"] = loop
    for bad, message in (
        ({"set": {1}}, "metadata is not JSON"),
        ({1: 2, "a": 3}, "has the key 1, expected only strings"),
        (loop, "contains itself"),
        (["list"], "metadata is list, expected a mapping"),
    ):
        with pytest.raises(InputError, match=message):
            store.add_texts(["a", "b"], [{}, bad])
    with pytest.raises(InputError, match="surrogate"):
        store.add_texts(["\ud800"])
    assert len(store.index) == 3


def test_nothing_is_deleted_unless_it_is_named(store: EdgeColbertVectorStore) -> None:
    with pytest.raises(InputError, match="either ids or a filter"):
        store.delete()
    with pytest.raises(InputError, match="either ids or a filter"):
        store.delete(["bins"], filter={"year": 2020})
    assert store.delete([]) is True
    assert len(store.index) == 3
    assert store.delete(filter="year < 2022") is True
    assert store.index.ids() == ["kettle", "boiler"]
    store.delete(store.index.ids())
    assert store.similarity_search("kettle") == []


def test_a_relevance_is_the_mean_cosine(store: EdgeColbertVectorStore) -> None:
    (document, relevance), *others = store.similarity_search_with_relevance_scores("The kettle", k=3)
    assert document == NOTES[0]
    assert relevance == pytest.approx(1, abs=1e-2)
    assert all(0 <= other < 0.9 for _, other in others)
    threshold = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.9, "k": 3}
    )
    assert threshold.invoke("The kettle") == [NOTES[0]]
    with pytest.raises(InputError, match="mode 'lexical' has no least and greatest value"):
        store.similarity_search_with_relevance_scores("The kettle", mode="lexical")


async def test_relevance_and_store_without_waiting(store: EdgeColbertVectorStore) -> None:
    assert await store.asimilarity_search_with_relevance_scores(
        "The kettle", k=3
    ) == store.similarity_search_with_relevance_scores("The kettle", k=3)
    retriever = EdgeColbertRetriever(index=store.index, k=1)
    assert await retriever.abatch(["bins", "kettle"]) == [[NOTES[1]], [NOTES[0]]]


def test_what_needs_one_vector_for_a_text_says_that_it_is_not_there(store: EdgeColbertVectorStore) -> None:
    with pytest.raises(InputError, match="DeterministicFakeEmbedding, expected None: it gives one vector for a text"):
        EdgeColbertVectorStore.from_texts(["a"], DeterministicFakeEmbedding(size=6))
    with pytest.raises(NotImplementedError, match="no search by one vector"):
        store.similarity_search_by_vector([0.0])
    with pytest.raises(NotImplementedError, match="no maximal marginal relevance"):
        store.as_retriever(search_type="mmr").invoke("a")
    assert store.embeddings is None


def test_a_store_can_be_made_of_texts_and_documents_in_a_file(path: Path) -> None:
    store = EdgeColbertVectorStore.from_texts(["The kettle."], metadatas=[{"n": 1}], ids=["k"], index=path)
    store.index.close()
    with Index.open(path, create=False) as index:
        assert EdgeColbertRetriever(index=index).invoke("kettle") == [
            Document(id="k", page_content="The kettle.", metadata={"n": 1})
        ]
    memory = EdgeColbertVectorStore.from_documents(NOTES, mode="lexical")
    assert memory.similarity_search("bins") == [NOTES[1]]
    memory.index.close()


def test_a_retriever_takes_a_path(path: Path) -> None:
    with Index.open(path) as index:
        index.add(["The kettle."])
    retriever = EdgeColbertRetriever(index=path)
    assert retriever.invoke("kettle")[0].page_content == "The kettle."
    retriever.index.close()


def test_passages_and_details() -> None:
    text = "Bins go out on Tuesday before six. The kettle is in the left cupboard. The boiler hums at night in winter."
    with Index.open(":memory:", model=SplittingEncoder()) as index:
        index.add([{"id": "house", "text": text, "metadata": {"year": 2024}}])
        (found,) = EdgeColbertRetriever(index=index, passages=True, details=True).invoke("where is the kettle")
        hit = index.search("where is the kettle")[0]
    assert found.page_content == hit.passage.text != text
    assert found.metadata == {
        "year": 2024,
        "edgecolbert": {
            "score": hit.score,
            "passage": {"start": hit.passage.start, "end": hit.passage.end},
            "ranks": {"late": 1},
        },
    }


def test_langchains_own_indexing_keeps_a_store_in_step_with_its_source(store: EdgeColbertVectorStore) -> None:
    records = InMemoryRecordManager(namespace="notes")
    records.create_schema()
    first = [Document(page_content=text, metadata={"source": text}) for text in ("one", "two")]
    options = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256"}
    before = len(store.index)
    assert keep_in_step(first, records, store, **options)["num_added"] == 2
    done = keep_in_step(first[:1], records, store, **options)
    assert (done["num_skipped"], done["num_deleted"]) == (1, 1)
    assert len(store.index) == before + 1
