"""The student: a small BERT or ELECTRA with one linear layer to the token embedding, and its PyLate checkpoint."""

from __future__ import annotations

import json
import string
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from data import DOCUMENT_PREFIX, QUERY_PREFIX
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import BertConfig, BertModel, ElectraConfig, ElectraModel

SKIPLIST = list(string.punctuation)


@dataclass(frozen=True)
class Shape:
    """The student's size.

    Attributes:
        embedding: Width of the token table. Narrower than ``hidden``, the table leaves bytes for deeper layers
            (ELECTRA); equal to it, the model is a plain BERT.
        hidden: Width of the layers.
        layers: Number of layers.
        heads: Attention heads.
        intermediate: Width inside the feed-forward part.
        dim: Width of the token embeddings that leave the model.
        positions: Longest input.
    """

    embedding: int = 112
    hidden: int = 192
    layers: int = 3
    heads: int = 4
    intermediate: int = 768
    dim: int = 96
    positions: int = 512


class TokenModel(nn.Module):
    """What gives each token of padded ids, prefix token included, its embedding; the output is not normalised.

    Attributes:
        dense: The last layer, to the token embedding.
    """

    dense: nn.Linear

    def forward_by_length(self, ids: torch.Tensor, mask: torch.Tensor, parts: int) -> torch.Tensor:
        """Like ``forward``, in parts of rows of like length, so that little is computed on padding."""
        lengths = mask.sum(1)
        order = torch.argsort(lengths)
        outputs = []
        for rows in order.chunk(parts):
            width = int(lengths[rows].max())
            output = self(ids[rows, :width], mask[rows, :width])
            outputs.append(nn.functional.pad(output, (0, 0, 0, ids.shape[1] - width)))
        return torch.cat(outputs)[torch.argsort(order)]


class Student(TokenModel):
    """Backbone and projection."""

    def __init__(self, shape: Shape, vocabulary: int) -> None:
        super().__init__()
        self.shape = shape
        common: dict[str, Any] = {
            "vocab_size": vocabulary,
            "hidden_size": shape.hidden,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "intermediate_size": shape.intermediate,
            "max_position_embeddings": shape.positions,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "pad_token_id": 0,
            # On CPUs the fused kernel's backward pass takes as long as half of the rest of the step.
            "attn_implementation": "sdpa" if torch.cuda.is_available() else "eager",
        }
        self.backbone: nn.Module
        if shape.embedding == shape.hidden:
            self.backbone = BertModel(BertConfig(**common), add_pooling_layer=False)
        else:
            self.backbone = ElectraModel(ElectraConfig(embedding_size=shape.embedding, **common))
        self.dense = nn.Linear(shape.hidden, shape.dim, bias=False)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Returns ``[batch, tokens, dim]``."""
        return self.dense(self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state)

    @torch.no_grad()
    def start_from(self, words: torch.Tensor, positions: torch.Tensor, counts: torch.Tensor) -> None:
        """Fills the token and position tables with the teacher's, reduced to the student's width.

        The reduction keeps the principal components of the token table as training text uses it: a table weighted
        by plain vocabulary would spend components on entries that English text never has.

        Args:
            words: The teacher's token table.
            positions: The teacher's position table.
            counts: How often each token occurs in the training texts.
        """
        weight = counts.float().sqrt()
        weight = weight / weight.sum()
        mean = (words * weight[:, None]).sum(0)
        centred = words - mean
        _, vectors = torch.linalg.eigh(centred.T @ (centred * weight[:, None]))
        width = min(self.shape.embedding, words.shape[1])
        basis = vectors[:, -width:]
        # The usual spread of freshly initialised tables, so that learning rates mean the same for every teacher.
        reduced = centred @ basis
        scale = 0.05 / reduced.std()
        embeddings = self.backbone.embeddings
        embeddings.word_embeddings.weight[: len(words), :width] = reduced * scale
        embeddings.word_embeddings.weight[len(words) :] *= 0.05 / 0.02
        rows = min(len(positions), self.shape.positions)
        embeddings.position_embeddings.weight[:rows, :width] = (positions[:rows] @ basis) * scale

    def size_in_bytes(self) -> int:
        """Bytes as int8: one a weight, two a scale of each row, four a bias or norm number."""
        total = 0
        for parameter in self.parameters():
            total += parameter.numel() + 2 * len(parameter) if parameter.dim() == 2 else 4 * parameter.numel()
        return total


@torch.no_grad()
def round_to_int8(model: nn.Module) -> None:
    """Rounds every matrix to 8 bits with one scale a row (an output channel, or a token of the table), in place."""
    for parameter in model.parameters():
        if parameter.dim() == 2:
            scale = parameter.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
            parameter.copy_((parameter / scale).round() * scale)


def write_json(path: Path, value: object) -> None:
    """Writes indented JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def save_checkpoint(
    student: Student, tokenizer: Tokenizer, folder: Path, query_length: int, document_length: int
) -> None:
    """Writes the folder that PyLate reads: backbone, ``1_Dense``, tokenizer, lengths and skiplist."""
    (folder / "1_Dense").mkdir(parents=True, exist_ok=True)
    config = student.backbone.config
    config.architectures = [type(student.backbone).__name__]
    config.save_pretrained(folder)
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in student.backbone.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    save_file(
        {"linear.weight": student.dense.weight.detach().float().cpu().contiguous()},
        folder / "1_Dense" / "model.safetensors",
        metadata={"format": "pt"},
    )
    write_json(
        folder / "1_Dense" / "config.json",
        {
            "in_features": student.shape.hidden,
            "out_features": student.shape.dim,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
            "use_residual": False,
        },
    )
    write_json(
        folder / "modules.json",
        [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
        ],
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "ColBERT",
            "__version__": {},
            "prompts": {"query": "", "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "MaxSim",
            "query_prefix": QUERY_PREFIX,
            "document_prefix": DOCUMENT_PREFIX,
            "query_length": query_length,
            "document_length": document_length,
            "attend_to_expansion_tokens": False,
            "do_query_expansion": False,
            "skiplist_words": SKIPLIST,
        },
    )
    sentence_config: dict[str, object] = {"max_seq_length": document_length - 1, "do_lower_case": False}
    if isinstance(student.backbone, BertModel):
        sentence_config["model_args"] = {"add_pooling_layer": False}
    write_json(folder / "sentence_bert_config.json", sentence_config)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk", "mask")}
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": student.shape.positions,
            **special,
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
        },
    )
    write_json(folder / "training_shape.json", asdict(student.shape))
