"""Backbones other than BERT and ModernBERT: what transformers can load and torch can trace is exported as exactly."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("pylate")

import torch
import transformers
from edgecolbert_export import cli
from edgecolbert_export.backbone import load_backbone
from edgecolbert_export.checkpoint import read_checkpoint
from exporting import export
from tiny_checkpoints import byte_tokenizer, dense, wordpiece_tokenizer, write_pylate

pytestmark = pytest.mark.filterwarnings("ignore")
ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
    "initializer_range": 0.2,
}
DECODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "max_position_embeddings": 64}


def checkpoint(folder, name, settings, *, word_pieces=False, more_rows=0):
    tokenizer = wordpiece_tokenizer() if word_pieces else byte_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": 2, "eos_token_id": 3}
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(vocab_size=len(tokenizer) + more_rows, **settings | ids)
    model = transformers.AutoModel.from_config(config).eval()
    return write_pylate(folder, model, tokenizer, [dense(32, 16)])


@pytest.mark.parametrize(
    ("name", "settings", "word_pieces"),
    [
        ("DistilBert", DISTIL | {"initializer_range": 0.2}, True),
        pytest.param("MPNet", ENCODER, True, marks=pytest.mark.slow),
        ("XLMRoberta", ENCODER, False),
        pytest.param(
            "DebertaV2",
            ENCODER | {"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"]},
            False,
            marks=pytest.mark.slow,
        ),
        pytest.param("Qwen3", DECODER, False, marks=pytest.mark.slow),
    ],
)
def test_other_architecture_is_as_exact(tmp_path, name, settings, word_pieces):
    folder = checkpoint(tmp_path / "checkpoint", name, settings, word_pieces=word_pieces)
    found = export(folder, tmp_path / "out").verification["fp32"]
    assert found["equal_ids"]
    assert found["max_difference"] <= 1e-5
    assert found["ranking_agreement"] == 1.0


def test_embedding_table_that_also_scales_keeps_doing_so_when_its_spare_rows_are_cut(tmp_path):
    settings = DECODER | {"use_bidirectional_attention": True}
    folder = checkpoint(tmp_path / "checkpoint", "Gemma3Text", settings, more_rows=40)
    whole = transformers.AutoModel.from_pretrained(str(folder)).eval()
    n_ids = whole.get_input_embeddings().num_embeddings - 40
    cut = load_backbone(read_checkpoint(folder), n_ids)
    assert cut.get_input_embeddings().weight.shape[0] == n_ids
    ids = torch.tensor([[2, 30, 40, n_ids - 1, 3]])
    with torch.no_grad():
        assert (whole(ids)[0] - cut(ids)[0]).abs().max() <= 1e-5


def test_backbone_that_cannot_be_traced_is_an_error_that_names_it(tmp_path, capsys):
    settings = ENCODER | {"num_landmarks": 4, "segment_means_seq_len": 16}
    folder = checkpoint(tmp_path / "checkpoint", "Nystromformer", settings)
    assert cli.main([str(folder), str(tmp_path / "out"), "--no-verify"]) == 1
    assert "The architecture 'nystromformer' cannot be exported" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
