"""The transformer of a checkpoint, loaded in float32 with every weight accounted for."""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from edgecolbert.errors import ModelFormatError
from edgecolbert_export.checkpoint import Checkpoint
from edgecolbert_export.weights import PICKLE_NAME, SAFETENSORS_NAME, read_weights

# Weights that no token embedding depends on; a checkpoint without them is whole.
_UNUSED_PREFIXES = ("pooler.",)


def load_backbone(checkpoint: Checkpoint, vocabulary_size: int) -> nn.Module:
    """Load the backbone.

    Args:
        checkpoint: The checkpoint.
        vocabulary_size: Number of token ids; the rows of the embedding table beyond them are cut off, as PyLate does.

    Returns:
        The model in float32 (R16), in evaluation mode, with eager attention (R36).

    Raises:
        ModelFormatError: If weights are missing or damaged, the architecture is unknown to transformers, or a token
            has no row in the embedding table.
    """
    folder = checkpoint.backbone_folder
    # Read first: transformers' own messages for damaged files name neither the file nor the remedy.
    if any((folder / name).exists() for name in (SAFETENSORS_NAME, PICKLE_NAME)):
        read_weights(folder)
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        model, loading = AutoModel.from_pretrained(
            str(folder),
            config=config,
            dtype=torch.float32,
            attn_implementation="eager",
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **checkpoint.backbone_arguments,
        )
    except Exception as error:  # OSError, ValueError, KeyError, RuntimeError, SafetensorError, ... all mean the same
        raise ModelFormatError(
            f"The backbone in {folder} cannot be loaded by transformers: {error}. Copy the checkpoint again; if its "
            "architecture is new, upgrade transformers."
        ) from error
    missing = sorted(name for name in loading["missing_keys"] if not name.startswith(_UNUSED_PREFIXES))
    if missing or loading["mismatched_keys"]:
        raise ModelFormatError(
            f"The weights in {folder} lack {missing or sorted(map(str, loading['mismatched_keys']))}, which would be "
            "random. Copy or download the checkpoint again."
        )
    table = model.get_input_embeddings()
    if table.num_embeddings < vocabulary_size:
        raise ModelFormatError(
            f"The tokenizer in {folder} has {vocabulary_size} token ids, but the embedding table only "
            f"{table.num_embeddings} rows; PyLate would fill the rest with random rows. The checkpoint was saved "
            "without its prefix tokens: save it with PyLate after training, or set both prefixes to ''."
        )
    if table.num_embeddings > vocabulary_size:
        model.set_input_embeddings(
            nn.Embedding.from_pretrained(
                table.weight.detach()[:vocabulary_size].clone(), freeze=True, padding_idx=table.padding_idx
            )
        )
    return model.eval()


def hidden_size(backbone: nn.Module) -> int:
    """Size of the backbone's token embeddings, before the Dense layers."""
    return int(backbone.config.hidden_size)


def max_positions(backbone: nn.Module) -> int | None:
    """Longest sequence the backbone accepts.

    Args:
        backbone: A backbone from `load_backbone`.

    Returns:
        Rows of a learned position table that are usable (R28); the trained length of a rotary one, as the config has
        it; None where neither says anything.
    """
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa counts positions from padding_idx + 1.
            return int(module.num_embeddings) - (0 if module.padding_idx is None else int(module.padding_idx) + 1)
    limit = getattr(backbone.config, "max_position_embeddings", None)
    return int(limit) if limit else None
