"""The transformer of a checkpoint, loaded in float32 with every weight accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel

from edgecolbert.errors import ModelFormatError
from edgecolbert_export.checkpoint import Checkpoint
from edgecolbert_export.json_files import read_optional_json_object
from edgecolbert_export.weights import PICKLE_NAME, SAFETENSORS_NAME, read_weights

# Weights that no token embedding depends on; a checkpoint without them is whole.
_UNUSED_PREFIXES = ("pooler.",)
# Where transformers 4 looks for what version 5 saves in `rope_parameters`, by the kind of layer; "" for all layers.
_ROTARY_KEYS = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta", "": "rope_theta"}


def check_readable(checkpoint: Checkpoint) -> None:
    """Make sure that the installed transformers understands what a newer one saved.

    transformers 5 writes files that 4.57, the newest that optimum works with, cannot load, or of which it ignores
    a part.

    Args:
        checkpoint: The checkpoint.

    Raises:
        ModelFormatError: If it was saved in a form that the installed transformers cannot read exactly.
    """
    if int(transformers.__version__.split(".")[0]) >= 5:
        return
    folder = checkpoint.backbone_folder
    tokenizer_config = read_optional_json_object(folder / "tokenizer_config.json")
    if tokenizer_config.get("tokenizer_class") == "TokenizersBackend":
        _refuse(folder / "tokenizer_config.json", "tokenizer_class", "TokenizersBackend")
    if isinstance(tokenizer_config.get("extra_special_tokens"), list):
        _refuse(folder / "tokenizer_config.json", "extra_special_tokens", tokenizer_config["extra_special_tokens"])
    config = read_optional_json_object(folder / "config.json")
    rotary = config.get("rope_parameters")
    if not isinstance(rotary, dict) or not rotary:
        return
    # Unknown keys are ignored without a word, and then the defaults of the architecture stand in their place.
    by_layer = rotary if all(isinstance(value, dict) for value in rotary.values()) else {"": rotary}
    understood = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    for kind, parameters in by_layer.items():
        used = {"rope_type": "default", "rope_theta": getattr(understood, _ROTARY_KEYS.get(kind, ""), None)}
        if parameters != used:
            _refuse(folder / "config.json", "rope_parameters", rotary)


def _refuse(path: Path, key: str, value: Any) -> None:
    raise ModelFormatError(
        f"{path} was saved with transformers 5: the installed {transformers.__version__} cannot read its {key} "
        f"({value}). Export in an environment with transformers 5, without --exporter optimum, which keeps it below "
        "4.58."
    )


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
    # A decoder would otherwise set up its cache of past tokens: no single pass needs it, and some cannot be traced.
    model.config.use_cache = False
    table = model.get_input_embeddings()
    if not isinstance(table, nn.Embedding):
        raise ModelFormatError(
            f"The architecture {config.model_type!r} of {folder} has a {type(table).__name__} for its token "
            "embeddings, expected a torch.nn.Embedding. Use a checkpoint of another architecture."
        )
    if table.num_embeddings < vocabulary_size:
        raise ModelFormatError(
            f"The tokenizer in {folder} has {vocabulary_size} token ids, but the embedding table only "
            f"{table.num_embeddings} rows; PyLate would fill the rest with random rows. The checkpoint was saved "
            "without its prefix tokens: save it with PyLate after training, or set both prefixes to ''."
        )
    if table.num_embeddings > vocabulary_size:
        # In the module that is there, because that of some architectures does more than look up, such as scaling.
        table.weight = nn.Parameter(table.weight.detach()[:vocabulary_size].clone(), requires_grad=False)
        table.num_embeddings = vocabulary_size
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
