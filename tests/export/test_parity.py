"""Every kind of checkpoint, exported and compared with PyLate by the pipeline itself.

The pipeline refuses an export whose token ids differ or whose embeddings are off by more than 1e-5 on any probe text,
so an export that succeeds is the assertion; what is checked here in addition is that the case was really exercised.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("pylate")

import torch
from exporting import export
from safetensors.torch import load_file, save_file
from tiny_checkpoints import (
    PUNCTUATION,
    bert,
    byte_tokenizer,
    change_json,
    dense,
    modernbert,
    tiny_bert_checkpoint,
    tiny_modernbert_checkpoint,
    wordpiece_tokenizer,
    write_pylate,
)

from edgecolbert import Encoder

pytestmark = pytest.mark.filterwarnings("ignore")
GELU = "torch.nn.modules.activation.GELU"
TANH = "torch.nn.modules.activation.Tanh"


def assert_exact(checkpoint: Path, tmp_path: Path) -> dict:
    manifest = export(checkpoint, tmp_path / "out")
    found = manifest.verification["fp32"]
    assert found["equal_ids"]
    assert found["max_difference"] <= 1e-5
    assert found["ranking_agreement"] == 1.0
    return json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))


def test_bert_with_one_dense_layer(tmp_path):
    manifest = assert_exact(tiny_bert_checkpoint(tmp_path / "checkpoint"), tmp_path)
    assert manifest["encoding"]["dim"] == 16


def test_modernbert_with_three_dense_layers_activation_bias_and_residuals(tmp_path):
    manifest = assert_exact(tiny_modernbert_checkpoint(tmp_path / "checkpoint"), tmp_path)
    layers = manifest["export"]["dense"]
    assert [layer["use_residual"] for layer in layers] == [True, True, False]
    assert [layer["bias"] for layer in layers] == [False, True, False]
    assert layers[1]["activation"] == "GELU"


def test_residual_whose_sizes_differ_has_a_matrix_of_its_own(tmp_path):
    layers = [dense(32, 16, activation_function=TANH, use_residual=True)]
    assert_exact(tiny_modernbert_checkpoint(tmp_path / "checkpoint", layers), tmp_path)


def test_sentence_transformers_dense_layers_are_read_and_pooling_is_left_out(tmp_path):
    checkpoint = tiny_modernbert_checkpoint(tmp_path / "checkpoint", [dense(32, 16, activation_function=TANH)])
    modules = json.loads((checkpoint / "modules.json").read_text(encoding="utf-8"))
    modules[1]["type"] = "sentence_transformers.models.Dense"
    modules.append({"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"})
    (checkpoint / "2_Normalize").mkdir()
    (checkpoint / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    change_json(checkpoint / "1_Dense" / "config.json", use_residual=...)
    change_json(checkpoint / "config_sentence_transformers.json", model_type="SentenceTransformer")
    assert_exact(checkpoint, tmp_path)


def test_backbone_in_a_subfolder(tmp_path):
    tokenizer = wordpiece_tokenizer()
    checkpoint = write_pylate(
        tmp_path / "checkpoint", bert(tokenizer), tokenizer, [dense(32, 16)], subfolder="0_Transformer"
    )
    change_json(checkpoint / "0_Transformer" / "sentence_bert_config.json", model_args={"add_pooling_layer": False})
    assert_exact(checkpoint, tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_query_expansion": False},
        {"attend_to_expansion_tokens": True},
        {"query_prefix": "", "document_prefix": ""},
        {"skiplist_words": []},
        {"skiplist_words": ["notaword", "two words", *PUNCTUATION]},
        {"skiplist_words": ["[CLS]", "[SEP]"]},
        {"prompts": {"query": "search_query: ", "document": "search_document: "}},
        {"prompts": {"query": "search_query: ", "document": ""}, "default_prompt_name": "query"},
        {"query_length": 3, "document_length": 4},
        {"query_length": 512, "document_length": 512, "do_query_expansion": False},
    ],
    ids="-".join,
)
def test_settings_of_modernbert(tmp_path, settings):
    assert_exact(tiny_modernbert_checkpoint(tmp_path / "checkpoint", [dense(32, 16)], **settings), tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"attend_to_expansion_tokens": True},
        {"query_prefix": "", "document_prefix": ""},
        {"skiplist_words": ["notaword"]},
        {"query_length": 64, "document_length": 64},
        {"do_lower_case": True},
    ],
    ids="-".join,
)
def test_settings_of_bert(tmp_path, settings):
    assert_exact(tiny_bert_checkpoint(tmp_path / "checkpoint", **settings), tmp_path)


def test_skiplist_word_outside_the_vocabulary_drops_unknown_tokens_and_the_card_says_so(tmp_path):
    checkpoint = tiny_bert_checkpoint(tmp_path / "checkpoint", skiplist_words=["notaword"])
    manifest = assert_exact(checkpoint, tmp_path)
    assert manifest["encoding"]["skiplist_ids"] == [1]
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "'notaword' is not in the vocabulary" in card


def test_lower_casing_of_a_cased_tokenizer(tmp_path):
    tokenizer = byte_tokenizer()
    checkpoint = write_pylate(
        tmp_path / "checkpoint", modernbert(tokenizer), tokenizer, [dense(32, 16)], do_lower_case=True
    )
    assert_exact(checkpoint, tmp_path)
    encoder = Encoder.load(tmp_path / "out")
    assert (
        encoder.tokenizer.document("Paris FRANCE").ids.tolist()
        == encoder.tokenizer.document("paris france").ids.tolist()
    )


def test_truncation_on_the_left(tmp_path):
    checkpoint = tiny_modernbert_checkpoint(tmp_path / "checkpoint", [dense(32, 16)])
    change_json(checkpoint / "tokenizer_config.json", truncation_side="left")
    manifest = assert_exact(checkpoint, tmp_path)
    assert manifest["encoding"]["truncation_side"] == "left"


def test_truncation_and_padding_frozen_into_tokenizer_json_are_cleared(tmp_path):
    checkpoint = tiny_bert_checkpoint(tmp_path / "checkpoint")
    change_json(
        checkpoint / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 7, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 7},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 4,
            "pad_type_id": 0,
            "pad_token": "[MASK]",
        },
    )
    assert_exact(checkpoint, tmp_path)
    exported = json.loads((tmp_path / "out" / "tokenizer.json").read_text(encoding="utf-8"))
    assert exported["truncation"] is None
    assert exported["padding"] is None


def test_checkpoint_in_bfloat16_is_computed_in_float32(tmp_path):
    tokenizer = wordpiece_tokenizer()
    model = bert(tokenizer).to(torch.bfloat16)
    checkpoint = write_pylate(tmp_path / "checkpoint", model, tokenizer, [dense(32, 16)])
    path = checkpoint / "1_Dense" / "model.safetensors"
    save_file({name: weight.to(torch.bfloat16) for name, weight in load_file(path).items()}, path)
    assert load_file(checkpoint / "model.safetensors")["embeddings.word_embeddings.weight"].dtype == torch.bfloat16
    assert_exact(checkpoint, tmp_path)


def test_weights_in_pytorch_model_bin(tmp_path):
    checkpoint = tiny_bert_checkpoint(tmp_path / "checkpoint")
    for folder in (checkpoint, checkpoint / "1_Dense"):
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    assert_exact(checkpoint, tmp_path)


def test_embedding_table_with_more_rows_than_the_tokenizer_has_ids(tmp_path):
    tokenizer = wordpiece_tokenizer()
    model = bert(tokenizer, vocab_size=len(tokenizer) + 40)
    checkpoint = write_pylate(tmp_path / "checkpoint", model, tokenizer, [dense(32, 16)])
    assert_exact(checkpoint, tmp_path)


def test_tokenizer_without_a_mask_token_expands_with_the_end_token(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.mask_token = None
    tokenizer.eos_token = "[SEP]"
    checkpoint = write_pylate(tmp_path / "checkpoint", modernbert(tokenizer), tokenizer, [dense(32, 16)])
    manifest = assert_exact(checkpoint, tmp_path)
    assert manifest["encoding"]["expansion_token_id"] == tokenizer.convert_tokens_to_ids("[SEP]")


def test_missing_settings_get_the_defaults_of_pylate(tmp_path):
    tokenizer = wordpiece_tokenizer()
    model = bert(tokenizer, max_position_embeddings=192)
    checkpoint = write_pylate(tmp_path / "checkpoint", model, tokenizer, [dense(32, 16)])
    (checkpoint / "config_sentence_transformers.json").unlink()
    encoding = assert_exact(checkpoint, tmp_path)["encoding"]
    assert (encoding["query_length"], encoding["document_length"]) == (32, 180)
    assert (encoding["query_prefix"], encoding["document_prefix"]) == ("[Q] ", "[D] ")
    assert encoding["do_query_expansion"]
    assert not encoding["attend_to_expansion_tokens"]
    assert encoding["skiplist_words"] == PUNCTUATION


def test_stanford_layout(tmp_path):
    tokenizer = wordpiece_tokenizer(prefixes=[])
    tokenizer_vocabulary = tokenizer.get_vocab()
    query, document = sorted(token for token in tokenizer_vocabulary if len(token) == 4 and token.isalpha())[:2]
    folder = tmp_path / "colbert"
    model = bert(tokenizer)
    model.config.architectures = ["HF_ColBERT"]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = {f"bert.{name}": weight for name, weight in load_file(folder / "model.safetensors").items()}
    weights["linear.weight"] = torch.randn(16, 32, generator=torch.Generator().manual_seed(3)) / 32**0.5
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    change_json(folder / "config.json", architectures=["HF_ColBERT"])
    metadata = {
        "query_token_id": query,
        "doc_token_id": document,
        "query_maxlen": 20,
        "doc_maxlen": 50,
        "attend_to_mask_tokens": False,
    }
    (folder / "artifact.metadata").write_text(json.dumps(metadata), encoding="utf-8")
    encoding = assert_exact(folder, tmp_path)["encoding"]
    assert (encoding["query_length"], encoding["document_length"]) == (20, 50)
    assert encoding["query_prefix_id"] == tokenizer_vocabulary[query]
