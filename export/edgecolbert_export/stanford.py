"""Stanford's ColBERT layout (R15): the head is among the backbone's weights, settings are in `artifact.metadata`."""

from __future__ import annotations

from pathlib import Path

from edgecolbert.errors import ModelFormatError
from edgecolbert_export.colbert_settings import ColbertSettings, settings_from
from edgecolbert_export.dense import DenseLayer
from edgecolbert_export.json_files import read_optional_json_object
from edgecolbert_export.weights import read_weights

_METADATA_KEYS = {
    "query_token_id": "query_prefix",
    "doc_token_id": "document_prefix",
    "query_maxlen": "query_length",
    "doc_maxlen": "document_length",
    "attend_to_mask_tokens": "attend_to_expansion_tokens",
}


def read_head(folder: Path) -> DenseLayer:
    """Read the linear layer behind the backbone.

    Args:
        folder: The checkpoint.

    Returns:
        The layer, without bias and activation.

    Raises:
        ModelFormatError: If the weights have no `linear.weight`.
    """
    weights = read_weights(folder)
    if "linear.weight" not in weights:
        raise ModelFormatError(
            f"The weights in {folder} have no `linear.weight`, but config.json says HF_ColBERT. "
            "Copy or download the checkpoint again."
        )
    return DenseLayer(name="linear", weight=weights["linear.weight"].float().contiguous())


def read_settings(folder: Path) -> ColbertSettings:
    """Read `artifact.metadata`, with PyLate's defaults where it says nothing.

    Args:
        folder: The checkpoint.

    Returns:
        The settings; the prefixes are the tokens `[unused0]` and `[unused1]` unless the file names others.
    """
    path = folder / "artifact.metadata"
    metadata = read_optional_json_object(path)
    values = {"query_prefix": "[unused0]", "document_prefix": "[unused1]"}
    values |= {ours: metadata[theirs] for theirs, ours in _METADATA_KEYS.items() if theirs in metadata}
    return settings_from(values, path)
