"""PyLate's call shapes of ours beside PyLate's own."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pylate")

import pylate.models  # noqa: E402
import pylate.rank  # noqa: E402
from exporting import export  # noqa: E402
from tiny_checkpoints import tiny_bert_checkpoint, tiny_modernbert_checkpoint  # noqa: E402

from edgecolbert.integrations.pylate import indexes, models, rank, retrieve  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

# An empty query is not among them: its expansion lies beyond the tiny ModernBERT's window (rule R36).
TEXTS = ["Bread rises, because yeast turns sugar into gas.", "The kettle is on.", "The kettle!", "a " * 60]


@pytest.fixture(scope="module", params=[tiny_bert_checkpoint, tiny_modernbert_checkpoint])
def both(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("door")
    checkpoint = request.param(folder / "checkpoint", prompts={"query": "search: ", "document": "text: "})
    export(checkpoint, folder / "out")
    return pylate.models.ColBERT(str(checkpoint), device="cpu"), models.ColBERT(folder / "out", device="cpu")


def assert_alike(found, expected):
    assert type(found) is type(expected)
    if isinstance(found, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_alike(one, other)
    else:
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_query": True},
        {"is_query": False},
        {"is_query": False, "padding": True},
        {"is_query": True, "prompt_name": "query"},
        {"is_query": False, "prompt_name": "document"},
        {"is_query": False, "prompt": "passage: "},
        {"is_query": False, "batch_size": 2, "show_progress_bar": False},
    ],
    ids=lambda options: "-".join(f"{name}={value}" for name, value in options.items()) or "defaults",
)
def test_encode_gives_the_same_arrays_in_the_same_shapes(both, options):
    theirs, ours = both
    empty = [] if options.get("is_query", True) else [""]
    for sentences in ([*TEXTS, *empty], TEXTS[0], [TEXTS[:2], TEXTS[2:]]):
        assert_alike(ours.encode(sentences, **options), theirs.encode(sentences, **options))


def test_pooled_documents_are_the_same_but_for_the_order_of_rows(both):
    theirs, ours = both
    expected = theirs.encode(TEXTS[:1], is_query=False, pool_factor=2)[0]
    found = ours.encode(TEXTS[:1], is_query=False, pool_factor=2)[0]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)], rtol=0, atol=1e-5)


def test_rerank_of_what_the_models_encode(both):
    theirs, ours = both
    queries, documents = TEXTS[:3], [TEXTS, TEXTS[:2], TEXTS[2:]]
    ids = [[1, 2, 3, 4], ["a", "b"], ["c", 5]]
    expected = pylate.rank.rerank(
        documents_ids=ids,
        queries_embeddings=theirs.encode(queries, is_query=True),
        documents_embeddings=theirs.encode(documents, is_query=False),
    )
    found = rank.rerank(
        documents_ids=ids,
        queries_embeddings=ours.encode(queries, is_query=True),
        documents_embeddings=ours.encode(documents, is_query=False),
    )
    assert_same_ranking(found, expected, 1e-3)


@pytest.mark.parametrize("seed", range(20))
def test_rerank_of_random_embeddings_of_all_forms(seed):
    generator = np.random.default_rng(seed)

    def rows(n_tokens):
        values = generator.standard_normal((n_tokens, 6)).astype(np.float32)
        return values / np.linalg.norm(values, axis=1, keepdims=True)

    # So few dimensions and tokens that many maxima are negative, which PyLate's padding with zeros lifts.
    queries = [rows(3), rows(7)]
    documents = [[rows(int(n)) for n in generator.integers(1, 5, 8)] for _ in queries]
    ids = [[f"{place}" for place in range(8)], list(range(8))]
    expected = pylate.rank.rerank(documents_ids=ids, queries_embeddings=queries, documents_embeddings=documents)
    assert_same_ranking(rank.rerank(ids, queries, documents), expected, 1e-5)
    tensors = [torch.from_numpy(query) for query in queries], [[torch.from_numpy(d) for d in ds] for ds in documents]
    assert_same_ranking(rank.rerank(ids, *tensors), expected, 1e-5)
    lists = [query.tolist() for query in queries], [[d.tolist() for d in ds] for ds in documents]
    assert_same_ranking(rank.rerank(ids, *lists), expected, 1e-5)


def test_retrieve_finds_what_pylate_ranks_first_of_everything(both, tmp_path):
    theirs, ours = both
    words = [f"word{number}" for number in range(15)]
    texts = [" ".join(words[(place + step) % len(words)] for step in range(3 + place % 7)) for place in range(40)]
    ids = [f"document {place}" for place in range(40)]
    queries = ["word3 and word4", "the word11 in word12"]
    expected = pylate.rank.rerank(
        documents_ids=[ids] * 2,
        queries_embeddings=theirs.encode(queries, is_query=True),
        documents_embeddings=[theirs.encode(texts, is_query=False)] * 2,
    )
    index = indexes.PLAID(index_folder=str(tmp_path), index_name="door", override=True)
    index.add_documents(documents_ids=ids, documents_embeddings=ours.encode(texts, is_query=False))
    found = retrieve.ColBERT(index=index).retrieve(queries_embeddings=ours.encode(queries, is_query=True), k=40)
    index.close()
    # Tokens are stored as int8.
    assert_same_ranking(found, expected, 0.05)


def assert_same_ranking(found, expected, tolerance):
    """Equal scores at every place and for each document; documents whose scores are as near may change places."""
    assert [len(results) for results in found] == [len(results) for results in expected]
    for one, other in zip(found, expected, strict=True):
        assert all(list(result) == ["id", "score"] for result in one)
        for ours, theirs in zip(one, other, strict=True):
            assert ours["score"] == pytest.approx(theirs["score"], abs=tolerance)
        scores = {result["id"]: result["score"] for result in other}
        for ours in one:
            assert ours["score"] == pytest.approx(scores[ours["id"]], abs=tolerance)
