"""Checkpoints of the true shape and settings of the published models, with random weights.

Sizes are from public pages; what no page states (the widths inside a chain of Dense layers, activations) is assumed and
marked. Vocabularies are filled up to the true number of entries, so that files have the true size. A reduced checkpoint
has the true widths and settings, but one or two layers and a small vocabulary, so that it is exported in seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import (
    PREFIXES,
    bert,
    byte_tokenizer,
    change_json,
    dense,
    modernbert,
    wordpiece_tokenizer,
    write_json,
    write_pylate,
)
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

GELU = "torch.nn.modules.activation.GELU"
_BERT_WORDS, _MODERNBERT_WORDS = 30_522, 50_368
# Layers of a reduced checkpoint: all of BERT's are alike, ModernBERT's first has global attention and its second local.
_REDUCED_BERT, _REDUCED_MODERNBERT = 1, 2


class Shape(Protocol):
    """What makes a checkpoint."""

    def __call__(self, folder: Path, *, reduced: bool = False) -> Path: ...


def filled(tokenizer: PreTrainedTokenizerFast, size: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary has `size` entries before the prefixes, most of which no text uses."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    content["added_tokens"] = [entry for entry in content["added_tokens"] if entry["content"] not in PREFIXES]
    for number in range(len(vocabulary), size):
        vocabulary[f"[filler{number}]"] = number
    finished = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
    )
    finished.add_tokens(PREFIXES)
    return finished


def _bert_tokenizer(reduced: bool) -> PreTrainedTokenizerFast:
    return wordpiece_tokenizer() if reduced else filled(wordpiece_tokenizer(), _BERT_WORDS)


def _modernbert(
    folder: Path,
    hidden: int,
    layers: int,
    heads: int,
    intermediate: int,
    head: list[dict[str, object]],
    reduced: bool,
    **settings: object,
) -> Path:
    tokenizer = byte_tokenizer() if reduced else filled(byte_tokenizer(), _MODERNBERT_WORDS)
    # ModernBERT's own initialisation takes ten times as long as any other.
    with torch.device("meta"):
        model = modernbert(
            tokenizer,
            hidden_size=hidden,
            num_hidden_layers=_REDUCED_MODERNBERT if reduced else layers,
            num_attention_heads=heads,
            intermediate_size=intermediate,
            max_position_embeddings=8192,
            local_attention=128,
        )
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                parameter.uniform_(-0.035, 0.035, generator=generator)
    return write_pylate(folder, model, tokenizer, head, **settings)


_MXBAI_SETTINGS: dict[str, object] = {
    "do_lower_case": True,
    "query_length": 48,
    "document_length": 512,
    "do_query_expansion": False,
}


def mxbai_edge_17m(folder: Path, *, reduced: bool = False) -> Path:
    """Widths inside the head and the activation are assumed."""
    head = [dense(256, 256, use_residual=True), dense(256, 256, activation_function=GELU), dense(256, 48)]
    return _modernbert(folder, 256, 7, 4, 384, head, reduced, **_MXBAI_SETTINGS)


def mxbai_edge_32m(folder: Path, *, reduced: bool = False) -> Path:
    """Widths inside the head are those of its successor; the activation is assumed."""
    head = [dense(384, 768, use_residual=True), dense(768, 768, activation_function=GELU), dense(768, 64)]
    return _modernbert(folder, 384, 10, 6, 576, head, reduced, **_MXBAI_SETTINGS)


def reason_mxbai_32m(folder: Path, *, reduced: bool = False, residual: bool = False) -> Path:
    """The residual of the second layer is off, as published; the activation is assumed."""
    head = [
        dense(384, 768, use_residual=True),
        dense(768, 768, activation_function=GELU, use_residual=residual),
        dense(768, 128),
    ]
    settings = _MXBAI_SETTINGS | {"query_length": 256, "document_length": 2048}
    return _modernbert(folder, 384, 10, 6, 576, head, reduced, **settings)


def reason_mxbai_32m_v01(folder: Path, *, reduced: bool = False) -> Path:
    """The residual of the second layer is on."""
    return reason_mxbai_32m(folder, reduced=reduced, residual=True)


def colbert_muvera_micro(folder: Path, *, reduced: bool = False) -> Path:
    """BERT 2 x 128 with expansion."""
    tokenizer = _bert_tokenizer(reduced)
    model = bert(
        tokenizer,
        hidden_size=128,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=512,
        initializer_range=0.05,
    )
    return write_pylate(folder, model, tokenizer, [dense(128, 128)], query_length=32, document_length=300)


def colbert_zero(folder: Path, *, reduced: bool = False) -> Path:
    """ModernBERT-base with prompts."""
    prompts = {"query": "search_query: ", "document": "search_document: "}
    settings = {"prompts": prompts, "query_length": 39, "document_length": 519}
    return _modernbert(folder, 768, 22, 12, 1152, [dense(768, 128)], reduced, **settings)


def gte_moderncolbert(folder: Path, *, reduced: bool = False) -> Path:
    """ModernBERT-base. It says that queries are expanded, which its recipe takes back."""
    settings = {"query_length": 32, "document_length": 300}
    return _modernbert(folder, 768, 22, 12, 1152, [dense(768, 128)], reduced, **settings)


def answerai_small(folder: Path, *, reduced: bool = False) -> Path:
    """BERT 12 x 384 in a subfolder."""
    tokenizer = _bert_tokenizer(reduced)
    model = bert(
        tokenizer,
        hidden_size=384,
        num_hidden_layers=_REDUCED_BERT if reduced else 12,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=512,
        initializer_range=0.03,
    )
    checkpoint = write_pylate(
        folder, model, tokenizer, [dense(384, 96)], subfolder="0_Transformer", query_length=32, document_length=512
    )
    change_json(checkpoint / "0_Transformer" / "sentence_bert_config.json", model_args={"add_pooling_layer": False})
    return checkpoint


def write_stanford(
    folder: Path, model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, dim: int, **metadata: object
) -> Path:
    """Write a checkpoint as Stanford's ColBERT does."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = {f"bert.{name}": weight for name, weight in load_file(folder / "model.safetensors").items()}
    hidden = model.config.hidden_size
    weights["linear.weight"] = torch.randn(dim, hidden, generator=torch.Generator().manual_seed(3)) / hidden**0.5
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    change_json(folder / "config.json", architectures=["HF_ColBERT"])
    write_json(folder / "artifact.metadata", metadata)
    return folder


def colbertv2(folder: Path, *, reduced: bool = False) -> Path:
    """BERT-base in Stanford's layout; `[unused0]` and `[unused1]` are words of its vocabulary."""
    # Fillers stand at the end of the vocabulary; the last two give up their place.
    tokenizer = filled(wordpiece_tokenizer(), 300 if reduced else _BERT_WORDS)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    for word, filler in zip(("[unused0]", "[unused1]"), sorted(vocabulary, key=vocabulary.get)[-2:], strict=True):
        vocabulary[word] = vocabulary.pop(filler)
    content["added_tokens"] = [entry for entry in content["added_tokens"] if entry["content"] not in PREFIXES]
    plain = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=512,
        model_input_names=tokenizer.model_input_names,
    )
    model = bert(
        plain,
        hidden_size=768,
        num_hidden_layers=_REDUCED_BERT if reduced else 12,
        num_attention_heads=12,
        intermediate_size=3072,
        max_position_embeddings=512,
        initializer_range=0.02,
    )
    metadata = {
        "query_token_id": "[unused0]",
        "doc_token_id": "[unused1]",
        "query_maxlen": 32,
        "doc_maxlen": 180,
        "attend_to_mask_tokens": False,
    }
    return write_stanford(folder, model, plain, 128, **metadata)


# The recipe, and what makes a checkpoint of its shape. Equal backbones stand together, so that one trace serves both.
SHAPES: dict[str, Shape] = {
    "colbert-muvera-micro": colbert_muvera_micro,
    "mxbai-edge-colbert-v0-17m": mxbai_edge_17m,
    "mxbai-edge-colbert-v0-32m": mxbai_edge_32m,
    "reason-mxbai-colbert-v0-32m": reason_mxbai_32m,
    "reason-mxbai-colbert-v0.1-32m": reason_mxbai_32m_v01,
    "answerai-colbert-small-v1": answerai_small,
    "gte-moderncolbert-v1": gte_moderncolbert,
    "colbert-zero": colbert_zero,
    "colbertv2.0": colbertv2,
}
