"""sentence-transformers' names of ours beside its own `MultiVectorEncoder`; needs sentence-transformers 6."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sentence_transformers.multi_vector_encoder", reason="needs sentence-transformers 6")

from exporting import export
from sentence_transformers import MultiVectorEncoder
from tiny_checkpoints import tiny_bert_checkpoint, tiny_modernbert_checkpoint

from edgecolbert.integrations import sentence_transformers as ours

pytestmark = pytest.mark.filterwarnings("ignore")

QUERIES = ["Where does bread come from?", "The kettle!"]
DOCUMENTS = ["Bread rises, because yeast turns sugar into gas.", "The kettle!", "a " * 60]


@pytest.mark.parametrize("prompts", [{}, {"query": "search: ", "document": "text: "}], ids=["no prompts", "prompts"])
@pytest.mark.parametrize("make", [tiny_bert_checkpoint, tiny_modernbert_checkpoint])
def test_embeddings_and_scores_are_the_same(tmp_path, make, prompts):
    checkpoint = make(tmp_path / "checkpoint", **({"prompts": prompts} if prompts else {}))
    export(checkpoint, tmp_path / "out")
    theirs, mine = MultiVectorEncoder(str(checkpoint), device="cpu"), ours.MultiVectorEncoder(tmp_path / "out")
    queries = theirs.encode_query(QUERIES, convert_to_numpy=True), mine.encode_query(QUERIES)
    documents = theirs.encode_document(DOCUMENTS, convert_to_numpy=True), mine.encode_document(DOCUMENTS)
    for expected, found in (*zip(*queries, strict=True), *zip(*documents, strict=True)):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    for name in ("maxsim", "meanmaxsim"):
        theirs.similarity_fn_name = mine.similarity_fn_name = name
        np.testing.assert_allclose(
            mine.similarity(queries[1], documents[1]),
            theirs.similarity(queries[0], documents[0]).numpy(),
            rtol=0,
            atol=1e-3,
        )
        np.testing.assert_allclose(
            mine.similarity_pairwise(queries[1], documents[1][:2]),
            theirs.similarity_pairwise(queries[0], documents[0][:2]).numpy(),
            rtol=0,
            atol=1e-3,
        )
    assert mine.encode_query(QUERIES[0]).shape == theirs.encode_query(QUERIES[0], convert_to_numpy=True).shape
    assert mine.get_embedding_dimension() == theirs.get_embedding_dimension()
