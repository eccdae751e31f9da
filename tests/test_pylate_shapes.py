"""PyLate's call shapes without PyLate; tests/export/test_pylate_door.py compares with PyLate itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecolbert import Encoder, Index, InputError, ModelWarning, StoreError, StoreWarning, limits, maxsim
from edgecolbert.errors import InputTypeError, StoreMismatchError
from edgecolbert.integrations.pylate import indexes, models, rank, retrieve
from edgecolbert.pooling import pool_tokens

TINY = Path(__file__).parent / "fixtures" / "tiny-model"
DOCUMENTS = ["The kettle is in the left cupboard.", "The bins go out on Tuesday.", "Bleed the radiators first."]
QUERIES = ["where is the kettle?", "when do the bins go out?"]


@pytest.fixture(scope="module")
def model() -> models.ColBERT:
    return models.ColBERT("starter")


def unit_rows(seed: int, *shape: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def test_a_notebook_runs_from_texts_to_ranked_documents(model: models.ColBERT, tmp_path: Path) -> None:
    index = indexes.PLAID(index_folder=str(tmp_path / "pylate-index"), index_name="notes", override=True)
    documents = model.encode(DOCUMENTS, batch_size=32, is_query=False, show_progress_bar=False)
    assert index.add_documents(documents_ids=["kettle", "bins", "boiler"], documents_embeddings=documents) is index
    queries = model.encode(QUERIES, batch_size=32, is_query=True, show_progress_bar=False)
    found = retrieve.ColBERT(index=index).retrieve(queries_embeddings=queries, k=2)
    assert [results[0]["id"] for results in found] == ["kettle", "bins"]
    assert [len(results) for results in found] == [2, 2]
    for query, results in zip(queries, found, strict=True):
        exact = {
            name: maxsim(query, document)
            for name, document in zip(("kettle", "bins", "boiler"), documents, strict=True)
        }
        for result in results:
            assert isinstance(result["score"], float)
            assert result["score"] == pytest.approx(exact[result["id"]], abs=0.1)  # int8 tokens
    index.close()


def test_encode_gives_the_encoders_own_arrays(model: models.ColBERT) -> None:
    encoder = Encoder.load("starter")
    for texts, is_query in ((QUERIES, True), (DOCUMENTS, False)):
        expected = encoder.encode_queries(texts) if is_query else encoder.encode_documents(texts)
        found = model.encode(texts, is_query=is_query, batch_size=1)
        assert isinstance(found, list)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(model.encode(texts[0], is_query=is_query), expected[0])
        nested = model.encode([texts, texts[:1]], is_query=is_query)
        assert [len(part) for part in nested] == [len(texts), 1]
        np.testing.assert_array_equal(nested[1][0], expected[0])
    assert model.encode([]) == []
    assert (model.query_length, model.device) == (encoder.manifest.encoding.query_length, "cpu")
    assert model.get_sentence_embedding_dimension() == encoder.dim


def test_padding_and_pooling(model: models.ColBERT) -> None:
    plain = model.encode(DOCUMENTS, is_query=False)
    padded = model.encode(DOCUMENTS, is_query=False, padding=True)
    longest = max(map(len, plain))
    for one, other in zip(padded, plain, strict=True):
        assert one.shape == (1, longest, model.get_sentence_embedding_dimension())
        np.testing.assert_array_equal(one[0, : len(other)], other)
        assert not one[0, len(other) :].any()
    np.testing.assert_array_equal(model.encode(DOCUMENTS[0], is_query=False, pool_factor=2), pool_tokens(plain[0], 2))
    np.testing.assert_array_equal(model.encode(QUERIES[0], pool_factor=2), model.encode(QUERIES[0]))


def test_a_prompt_goes_before_the_text_and_only_when_asked_for() -> None:
    model = models.ColBERT(TINY, prompts={"query": "search: "})
    encoder = Encoder.load(TINY, use_prompts=False)
    (plain,), (prompted,) = encoder.encode_queries(["kettle"]), encoder.encode_queries(["search: kettle"])
    np.testing.assert_array_equal(model.encode("kettle"), plain)
    np.testing.assert_array_equal(model.encode("kettle", prompt_name="query"), prompted)
    np.testing.assert_array_equal(model.encode("kettle", prompt="search: "), prompted)
    default = models.ColBERT(TINY, prompts={"query": "search: "}, default_prompt_name="query")
    np.testing.assert_array_equal(default.encode("kettle"), prompted)
    np.testing.assert_array_equal(
        default.encode("kettle", is_query=False), encoder.encode_documents(["search: kettle"])[0]
    )
    np.testing.assert_array_equal(default.encode("kettle", prompt=""), plain)
    with pytest.raises(InputError, match=r"prompt_name is 'passage', but .* prompts are \['document', 'query'\]"):
        model.encode("kettle", prompt_name="passage")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"precision": "int8"}, "precision is 'int8', expected 'float32'"),
        ({"convert_to_tensor": True}, "torch.from_numpy"),
        ({"normalize_embeddings": False}, "rows of unit length"),
        ({"output_value": None}, "document_tokens"),
        ({"pool_factor": 0}, "pool_factor is 0"),
        ({"pool_factor": 2, "protected_tokens": 0, "is_query": False}, "protected_tokens is 0, expected 1"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
    ids=repr,
)
def test_what_is_not_there_is_an_error(model: models.ColBERT, argument: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.encode(["kettle"], **argument)


def test_a_setting_that_is_not_the_exports_is_an_error_and_the_same_is_none() -> None:
    settings = Encoder.load(TINY).manifest.encoding
    models.ColBERT(
        TINY,
        device="cpu",
        query_length=settings.query_length,
        document_length=settings.document_length,
        query_prefix=settings.query_prefix,
        embedding_size=settings.dim,
        skiplist_words=list(settings.skiplist_words),
        trust_remote_code=True,
    )
    with pytest.raises(InputError, match=r"document_length is 4096, but the model .* was exported with"):
        models.ColBERT(TINY, document_length=4096)
    with pytest.warns(ModelWarning, match="device is 'cuda:0'"):
        models.ColBERT(TINY, device="cuda:0")
    with pytest.raises(InputTypeError, match="sentences is int"):
        models.ColBERT(TINY).encode(5)


@given(
    seed=st.integers(0, 2**32 - 1),
    n_query=st.integers(1, 5),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
)
def test_rerank_is_maxsim_with_zeros_behind_shorter_documents(seed: int, n_query: int, lengths: list[int]) -> None:
    query = unit_rows(seed, n_query, 4)
    documents = [unit_rows(seed + 1 + place, length, 4) for place, length in enumerate(lengths)]
    (found,) = rank.rerank([list(range(len(lengths)))], [query], [documents])
    padded = [np.pad(document, ((0, max(lengths) - len(document)), (0, 0))) for document in documents]
    for result in found:
        assert result["score"] == pytest.approx(maxsim(query, padded[result["id"]]), abs=1e-5)
    scores = [result["score"] for result in found]
    assert scores == sorted(scores, reverse=True)
    assert sorted(result["id"] for result in found) == list(range(len(lengths)))


def test_rerank_takes_one_query_lists_of_numbers_and_padded_arrays() -> None:
    query, documents = unit_rows(1, 3, 4), [unit_rows(2, 5, 4), unit_rows(3, 5, 4)]
    expected = rank.rerank([["a", "b"]], [query], [documents])
    assert rank.rerank([["a", "b"]], query, [documents]) == expected
    assert rank.rerank([["a", "b"]], query[None], np.array([documents])) == expected
    assert rank.rerank([["a", "b"]], [query.tolist()], [[document.tolist() for document in documents]]) == expected
    assert rank.rerank([[]], [query], [[]]) == [[]]
    assert rank.rerank([], [], []) == []


def test_equal_scores_stay_in_order_and_what_does_not_fit_together_is_an_error() -> None:
    query, document = unit_rows(1, 3, 4), unit_rows(2, 5, 4)
    (found,) = rank.rerank([["z", "a", "m"]], [query], [[document] * 3])
    assert [result["id"] for result in found] == ["z", "a", "m"]
    with pytest.raises(InputError, match="There are 1 queries, ids of documents for 2"):
        rank.rerank([["a"], ["b"]], [query], [[document]])
    with pytest.raises(InputError, match=r"documents_ids\[0\] has 2 ids .* has 1 documents"):
        rank.rerank([["a", "b"]], [query], [[document]])
    with pytest.raises(InputError, match="4 numbers and a document of 5"):
        rank.rerank([["a"]], [query], [[unit_rows(2, 5, 5)]])
    with pytest.raises(InputError, match=r"queries_embeddings\[0\] has the shape \(4,\)"):
        rank.rerank([["a"]], [query[0]], [[document]])
    with pytest.raises(InputError, match="NaN"):
        rank.rerank([["a"]], [query * np.nan], [[document]])
    with pytest.raises(InputTypeError, match="queries_embeddings is int"):
        rank.rerank([["a"]], 5, [[document]])


def test_ids_come_back_as_they_were_given_and_five_is_not_five(tmp_path: Path) -> None:
    arrays = [unit_rows(seed, 6, 8) for seed in range(4)]
    index = indexes.PLAID(str(tmp_path))
    index.add_documents([5, "5", np.int64(7), "ü"], arrays)
    for identifier, array in zip([5, "5", 7, "ü"], arrays, strict=True):
        (found,) = index(array, k=1)
        assert found[0]["id"] == identifier
        assert type(found[0]["id"]) is type(identifier)
    index.remove_documents(["5", "never there"])
    assert {result["id"] for result in index(arrays[1], k=9)[0]} == {5, 7, "ü"}
    index.update_documents([5], [arrays[1]])
    assert index(arrays[1], k=1)[0][0]["id"] == 5
    index.add_documents(range(10, 13), arrays[:3])
    assert len(index.index) == 6
    with pytest.raises(InputTypeError, match=r"A document id is 1\.5"):
        index.add_documents([1.5], arrays[:1])
    with pytest.raises(InputError, match="There are 2 documents_ids and 1 documents_embeddings"):
        index.add_documents([1, 2], arrays[:1])
    index.close()


def test_a_subset_is_exact_for_all_queries_and_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = [unit_rows(seed, 6, 8) for seed in range(30)]
    index = indexes.Voyager(str(tmp_path), embedding_size=8)
    index.add_documents(range(30), arrays)
    retriever = retrieve.ColBERT(index)
    queries = arrays[:2]
    (ranked, other) = retriever.retrieve(queries, k=30)
    wanted = [3, 9, 27, 999]
    expected = [result for result in ranked if result["id"] in wanted]
    assert retriever.retrieve(queries, k=30, subset=wanted)[0] == expected
    assert retriever.retrieve(queries, k=2, subset=wanted)[0] == expected[:2]
    each = retriever.retrieve(queries, k=30, subset=[wanted, [1]])
    assert each == [expected, [result for result in other if result["id"] == 1]]
    assert retriever.retrieve(queries, k=30, subset=[]) == [[], []]
    monkeypatch.setattr(limits, "FILTER_VALUES", 3)  # a subset may have more ids than a filter has values
    assert retriever.retrieve(queries, k=2, subset=[*wanted, 9])[0] == expected[:2]
    with pytest.raises(InputError, match="subset has 1 lists of ids for 2 queries"):
        retriever.retrieve(queries, subset=[wanted])
    index.close()


def test_an_index_is_there_again_and_begins_anew_only_when_told(tmp_path: Path) -> None:
    arrays = [unit_rows(seed, 6, 8) for seed in range(3)]
    first = indexes.PLAID(str(tmp_path), "notes")
    with pytest.raises(InputError, match=r"notes\.db is empty"):
        first(arrays[0])
    first.add_documents(["a", "b", "c"], arrays)
    first.close()
    again = indexes.PLAID(str(tmp_path), "notes")
    assert again(arrays[2], k=1)[0][0]["id"] == "c"
    assert again.index.verify().problems == ()
    with pytest.raises(StoreMismatchError, match="holds token embeddings of 8 numbers, and one given has 6"):
        again.add_documents(["d"], [unit_rows(9, 3, 6)])
    again.close()
    anew = indexes.PLAID(str(tmp_path), "notes", override=True)
    anew.add_documents(["d"], [unit_rows(9, 3, 6)])
    assert [result["id"] for result in anew(unit_rows(9, 3, 6))[0]] == ["d"]
    anew.close()


def test_override_deletes_nothing_but_an_index_of_its_own(tmp_path: Path, encoder: object) -> None:
    with Index.open(tmp_path / "notes.db", model=encoder) as index:
        index.add(["The kettle."])
    (tmp_path / "text.db").write_text("not a database, and long enough to be looked at" * 40)
    for name in ("notes", "text"):
        before = (tmp_path / f"{name}.db").read_bytes()
        with pytest.raises(StoreError, match=r"override=True does not delete .* which is no index of this class"):
            indexes.PLAID(str(tmp_path), name, override=True)
        assert (tmp_path / f"{name}.db").read_bytes() == before


def test_settings_of_other_indexes_are_named_and_unknown_ones_are_errors(tmp_path: Path) -> None:
    with pytest.warns(StoreWarning, match="PLAID: kmeans_niters, nbits of PyLate's PLAID have no counterpart here"):
        indexes.PLAID(str(tmp_path), nbits=4, kmeans_niters=2, show_progress=False).close()
    with pytest.raises(TypeError, match=r"nbit$"):
        indexes.PLAID(str(tmp_path), nbit=4)
    with pytest.raises(InputTypeError, match="index is str, expected PLAID"):
        retrieve.ColBERT("notes.db")


def test_neither_torch_nor_pylate_is_imported() -> None:
    program = (
        "import sys\nfrom edgecolbert.integrations.pylate import indexes, models, rank, retrieve\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "pylate", "sentence_transformers"} & set(done.stdout.split())
