"""Tiny checkpoints with random weights, in the layouts that are found in the wild.

Nothing here uses PyLate: the files are written as PyLate, sentence-transformers and Stanford's ColBERT write them, so
that PyLate in the tests is an independent reader.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from importlib import resources
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PREFIXES = ["[Q] ", "[D] "]
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
IDENTITY = "torch.nn.modules.linear.Identity"


def training_texts() -> list[str]:
    """What the tokenizers are trained on: the export package's own probe corpus."""
    return resources.files("edgecolbert_export").joinpath("probe_corpus.txt").read_text(encoding="utf-8").splitlines()


def wordpiece_tokenizer(
    vocab_size: int = 256, model_max_length: int = 512, prefixes: list[str] | None = None
) -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer, as BERT's."""
    # Not the library's trainer, which gives another vocabulary each time, and so another model of random weights.
    splitter = pre_tokenizers.BertPreTokenizer()
    normalizer = normalizers.BertNormalizer(lowercase=True)
    words = Counter(
        word for text in training_texts() for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    )
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789")
    pieces = [*SPECIALS, *letters, *PUNCTUATION, *(f"##{letter}" for letter in letters)]
    frequent = sorted((word for word in words if word.isascii() and len(word) > 1), key=lambda w: (-words[w], w))
    vocabulary = {piece: number for number, piece in enumerate([*pieces, *frequent][:vocab_size])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    return _finished(tokenizer, model_max_length, ["input_ids", "token_type_ids", "attention_mask"], prefixes)


def byte_tokenizer(vocab_size: int = 400, prefixes: list[str] | None = None) -> PreTrainedTokenizerFast:
    """A cased byte-level BPE tokenizer, as ModernBERT's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(training_texts(), trainer)
    return _finished(tokenizer, 512, ["input_ids", "attention_mask"], prefixes)


def _finished(
    tokenizer: Tokenizer, model_max_length: int, inputs: list[str], prefixes: list[str] | None
) -> PreTrainedTokenizerFast:
    start, end = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", start), ("[SEP]", end)],
    )
    finished = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=model_max_length,
        model_input_names=inputs,
    )
    finished.add_tokens(PREFIXES if prefixes is None else prefixes)
    return finished


def bert(tokenizer: PreTrainedTokenizerFast, **changes: object) -> BertModel:
    """A BERT with random weights that are large enough to tell tokens apart."""
    torch.manual_seed(0)
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.2,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model = BertModel(BertConfig(**settings | changes), add_pooling_layer=False).eval()
    with torch.no_grad():
        # Token type 1 clearly different from 0, so that mixing them up would show.
        model.embeddings.token_type_embeddings.weight[1] += 3.0
    return model


def modernbert(tokenizer: PreTrainedTokenizerFast, **changes: object) -> ModernBertModel:
    """A ModernBERT with a narrow local window, so that short texts exceed it."""
    torch.manual_seed(0)
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 512,
        "local_attention": 16,
        "global_attn_every_n_layers": 3,
        "initializer_range": 0.2,
        "initializer_cutoff_factor": 2.0,
        "pad_token_id": tokenizer.pad_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    return ModernBertModel(ModernBertConfig(**settings | changes)).eval()


def dense(in_features: int, out_features: int, **changes: object) -> dict[str, object]:
    """Settings of a Dense layer."""
    settings = {
        "in_features": in_features,
        "out_features": out_features,
        "bias": False,
        "activation_function": IDENTITY,
        "use_residual": False,
    }
    return settings | changes


def write_dense(folder: Path, settings: dict[str, object], seed: int = 0) -> None:
    """Write one Dense folder as PyLate does."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = int(str(settings["out_features"])), int(str(settings["in_features"]))
    weights = {"linear.weight": torch.randn(rows, columns, generator=generator) / columns**0.5}
    if settings.get("bias", True):
        weights["linear.bias"] = torch.randn(rows, generator=generator) * 0.3
    if settings.get("use_residual") and rows != columns:
        weights["residual.weight"] = torch.randn(rows, columns, generator=generator) / columns**0.5
    save_file(weights, folder / "model.safetensors")
    write_json(folder / "config.json", settings)


def write_pylate(
    folder: Path,
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    layers: list[dict[str, object]],
    *,
    subfolder: str = "",
    do_lower_case: bool = False,
    **settings: object,
) -> Path:
    """Write a checkpoint as PyLate 1.6 does."""
    shutil.rmtree(folder, ignore_errors=True)
    backbone = folder / subfolder
    backbone.mkdir(parents=True)
    model.save_pretrained(backbone)
    tokenizer.save_pretrained(backbone)
    write_json(backbone / "sentence_bert_config.json", {"max_seq_length": 15, "do_lower_case": do_lower_case})
    modules = [{"idx": 0, "name": "0", "path": subfolder, "type": "sentence_transformers.models.Transformer"}]
    for number, layer in enumerate(layers, start=1):
        write_dense(folder / f"{number}_Dense", layer, seed=number)
        modules.append(
            {"idx": number, "name": str(number), "path": f"{number}_Dense", "type": "pylate.models.Dense.Dense"}
        )
    write_json(folder / "modules.json", modules)
    colbert = {
        "model_type": "ColBERT",
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": 16,
        "document_length": 40,
        "do_query_expansion": True,
        "attend_to_expansion_tokens": False,
        "skiplist_words": PUNCTUATION,
    }
    write_json(folder / "config_sentence_transformers.json", colbert | settings)
    return folder


def tiny_bert_checkpoint(folder: Path, **settings: object) -> Path:
    """The usual shape: BERT and one Dense layer."""
    tokenizer = wordpiece_tokenizer()
    return write_pylate(folder, bert(tokenizer), tokenizer, [dense(32, 16)], **settings)


def tiny_modernbert_checkpoint(folder: Path, layers: list[dict[str, object]] | None = None, **settings: object) -> Path:
    """ModernBERT and, unless told otherwise, three Dense layers with residual, activation and bias."""
    tokenizer = byte_tokenizer()
    layers = layers or [
        dense(32, 64, use_residual=True),
        dense(64, 64, bias=True, activation_function="torch.nn.modules.activation.GELU", use_residual=True),
        dense(64, 16),
    ]
    return write_pylate(folder, modernbert(tokenizer), tokenizer, layers, **settings)


def write_json(path: Path, content: object) -> None:
    """Write JSON."""
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def change_json(path: Path, **changes: object) -> None:
    """Change keys of a JSON object; a key set to `...` is removed."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    write_json(path, {key: value for key, value in content.items() if value is not ...})
