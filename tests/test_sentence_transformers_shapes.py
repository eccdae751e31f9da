"""sentence-transformers' names without it; tests/export/test_sentence_transformers_door.py compares with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgecolbert import Encoder, InputError, ModelWarning, maxsim
from edgecolbert.errors import InputTypeError
from edgecolbert.integrations.sentence_transformers import MultiVectorEncoder

TINY = Path(__file__).parent / "fixtures" / "tiny-model"
QUERIES = ["where is the kettle?", "when do the bins go out?"]
DOCUMENTS = ["The kettle is in the left cupboard.", "The bins go out on Tuesday.", "Bleed the radiators first."]


@pytest.fixture(scope="module")
def model() -> MultiVectorEncoder:
    return MultiVectorEncoder()


def test_the_two_ways_of_encoding_and_the_scores(model: MultiVectorEncoder) -> None:
    encoder = Encoder.load()
    queries, documents = model.encode_query(QUERIES), model.encode_document(DOCUMENTS, batch_size=2)
    for found, expected in (
        (queries, encoder.encode_queries(QUERIES)),
        (documents, encoder.encode_documents(DOCUMENTS)),
    ):
        assert isinstance(found, list)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    scores = model.similarity(queries, documents)
    assert scores.dtype == np.float32
    assert scores.argmax(axis=1).tolist() == [0, 1]
    expected = [[maxsim(query, document) for document in documents] for query in queries]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    np.testing.assert_array_equal(model.similarity_pairwise(queries, documents[:2]), scores.diagonal())
    one = model.encode_query(QUERIES[0])
    assert isinstance(one, np.ndarray)
    np.testing.assert_array_equal(model.similarity(one, documents), scores[:1])
    assert model.similarity([], documents).shape == (0, 3)
    assert model.get_embedding_dimension() == one.shape[1]


def test_the_mean_is_over_the_querys_tokens(model: MultiVectorEncoder) -> None:
    mean = MultiVectorEncoder(similarity_fn_name="meanmaxsim")
    query, document = model.encode_query(QUERIES[0]), model.encode_document(DOCUMENTS[0])
    assert mean.similarity(query, document)[0, 0] == pytest.approx(maxsim(query, document) / len(query), rel=1e-6)
    assert (model.similarity_fn_name, mean.similarity_fn_name) == ("maxsim", "meanmaxsim")
    with pytest.raises(InputError, match="similarity_fn_name is 'cosine', expected one of maxsim, meanmaxsim"):
        mean.similarity_fn_name = "cosine"


def test_each_way_has_its_own_prompt_and_only_encode_the_default_one() -> None:
    model = MultiVectorEncoder(
        TINY, prompts={"query": "find: ", "passage": "text: ", "other": "x "}, default_prompt_name="other"
    )
    plain = Encoder.load(TINY, use_prompts=False)

    def same(found: object, kind: str, text: str) -> None:
        (expected,) = plain.encode_queries([text]) if kind == "query" else plain.encode_documents([text])
        np.testing.assert_array_equal(found, expected)

    same(model.encode_query("kettle"), "query", "find: kettle")
    same(model.encode_document("kettle"), "document", plain.manifest.encoding.document_prompt + "kettle")
    same(model.encode_document("kettle", prompt_name="passage"), "document", "text: kettle")
    same(model.encode("kettle", task="query"), "query", "x kettle")
    same(model.encode("kettle", prompt_name="query", task="query"), "query", "find: kettle")
    same(model.encode_query("kettle", prompt="now: "), "query", "now: kettle")
    with pytest.raises(InputError, match="prompt_name is 'nothing', but the model's prompts are"):
        model.encode_query("kettle", prompt_name="nothing")


def test_what_is_not_there_is_an_error(model: MultiVectorEncoder) -> None:
    with pytest.raises(InputError, match=r"task is None, expected 'query' or 'document'\. Call encode_query"):
        model.encode(QUERIES)
    with pytest.raises(InputError, match="convert_to_numpy is False"):
        model.encode_query(QUERIES, convert_to_numpy=False)
    with pytest.raises(InputError, match="output_value is None"):
        model.encode_query(QUERIES, output_value=None)
    with pytest.raises(InputTypeError, match="inputs is int"):
        model.encode_query(5)
    with pytest.raises(InputTypeError, match="Text 1 is int, expected a string"):
        model.encode_query(["a", 5])
    with pytest.raises(InputError, match="There are 2 queries and 1 documents"):
        model.similarity_pairwise([np.ones((1, 2))] * 2, [np.ones((1, 2))])
    with pytest.raises(InputError, match="2 numbers and a document of 3"):
        model.similarity([np.ones((1, 2))], [np.ones((1, 3))])
    with pytest.warns(ModelWarning, match="device is 'mps'"):
        model.encode_query(QUERIES, device="mps")
