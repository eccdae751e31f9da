"""Folders that other exporters wrote, made here from our own graphs."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

from exporting import export
from tiny_checkpoints import change_json, tiny_bert_checkpoint, write_json

from edgecolbert import Encoder
from edgecolbert.errors import ModelFormatError, ModelNotFoundError
from edgecolbert.foreign import is_foreign, read_foreign

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return export(tiny_bert_checkpoint(folder / "checkpoint"), folder / "ours", verify=False)


@pytest.fixture
def foreign(ours, tmp_path):
    """As next-plaid's exporter writes it: another output name, a forced flag, and a tokenizer with a frozen cut."""
    model = onnx.load_from_string(ours.read_file("model.onnx"))
    for node in model.graph.node:
        for position, name in enumerate(node.output):
            if name == "token_embeddings":
                node.output[position] = "output"
    model.graph.output[0].name = "output"
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "tokenizer.json").write_bytes(ours.read_file("tokenizer.json"))
    cut = {"direction": "Right", "max_length": 7, "strategy": "LongestFirst", "stride": 0}
    change_json(tmp_path / "tokenizer.json", truncation=cut)
    settings = ours.encoding
    config = {
        "model_type": "ColBERT",
        "model_name": "somebody/tiny",
        "uses_token_type_ids": True,
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": settings.query_length,
        "document_length": settings.document_length,
        "do_query_expansion": False,
        "attend_to_expansion_tokens": False,
        "skiplist_words": list(settings.skiplist_words),
        "embedding_dim": settings.dim,
        "mask_token_id": 103,
        "pad_token_id": 0,
        "query_prefix_id": settings.query_prefix_id,
        "document_prefix_id": settings.document_prefix_id,
        "do_lower_case": False,
    }
    write_json(tmp_path / "onnx_config.json", config)
    return tmp_path


def test_foreign_folder_encodes_like_our_own(ours, foreign):
    assert is_foreign(foreign)
    expected = Encoder(ours, threads=1)
    found = Encoder(read_foreign(foreign, do_query_expansion=True).manifest, threads=1)
    texts = ["Bread rises, because yeast turns sugar into carbon dioxide which the dough holds back.", "", "?!"]
    for ours_rows, theirs in zip(expected.encode_documents(texts), found.encode_documents(texts), strict=True):
        assert np.array_equal(ours_rows, theirs)
    for ours_rows, theirs in zip(expected.encode_queries(texts), found.encode_queries(texts), strict=True):
        assert np.array_equal(ours_rows, theirs)


def test_what_cannot_be_known_is_said(foreign):
    warnings = " ".join(read_foreign(foreign).warnings)
    for word in ("do_query_expansion", "prompts", "hashes"):
        assert word in warnings


def test_mask_token_is_found_by_its_text_because_the_number_is_often_a_default(ours, foreign):
    model = read_foreign(foreign, do_query_expansion=True)
    assert model.manifest.encoding.expansion_token_id == ours.encoding.expansion_token_id != 103


def test_answer_ai_names_its_output_otherwise(foreign):
    model = onnx.load(foreign / "model.onnx")
    for node in model.graph.node:
        for position, name in enumerate(node.output):
            if name == "output":
                node.output[position] = "embeddings"
    model.graph.output[0].name = "embeddings"
    onnx.save(model, foreign / "model.onnx")
    change_json(foreign / "onnx_config.json", fde_center=[0.0] * 16)
    assert Encoder(read_foreign(foreign).manifest, threads=1).encode_queries(["bread"])[0].shape[1] == 16


def test_int8_graph_is_taken_on_request(foreign):
    (foreign / "model_int8.onnx").write_bytes((foreign / "model.onnx").read_bytes())
    assert read_foreign(foreign).manifest.graph == "model.onnx"
    assert read_foreign(foreign, quantized=True).manifest.graph == "model_int8.onnx"


def test_contradictions_and_missing_files_are_errors(foreign):
    change_json(foreign / "onnx_config.json", query_prefix_id=5)
    with pytest.raises(ModelFormatError, match="different models"):
        read_foreign(foreign)
    change_json(foreign / "onnx_config.json", query_prefix_id=..., embedding_dim=...)
    with pytest.raises(ModelFormatError, match="embedding_dim"):
        read_foreign(foreign)
    (foreign / "model.onnx.data").write_bytes(b"")
    with pytest.raises(ModelFormatError, match=r"model\.onnx\.data"):
        read_foreign(foreign)
    (foreign / "tokenizer.json").unlink()
    with pytest.raises(ModelFormatError, match=r"tokenizer\.json"):
        read_foreign(foreign)
    (foreign / "onnx_config.json").write_text(json.dumps([]), encoding="utf-8")
    with pytest.raises(ModelFormatError, match="expected an object"):
        read_foreign(foreign)
    (foreign / "onnx_config.json").unlink()
    with pytest.raises(ModelNotFoundError):
        read_foreign(foreign)
