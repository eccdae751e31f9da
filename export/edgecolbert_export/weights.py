"""Weight files, read without ever running what a stranger put into them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from edgecolbert.errors import ModelFormatError

SAFETENSORS_NAME = "model.safetensors"
PICKLE_NAME = "pytorch_model.bin"


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read `model.safetensors`, or `pytorch_model.bin` where there is none.

    Args:
        folder: A folder with one of the two.

    Returns:
        Name and tensor of every weight, on the CPU, in the stored dtype.

    Raises:
        ModelFormatError: If neither file is there, the file is damaged, or the pickle holds more than tensors.
    """
    path = folder / SAFETENSORS_NAME
    if path.exists():
        try:
            stored: dict[str, torch.Tensor] = load_file(path)
            return stored
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelFormatError(
                f"{path} is not a whole safetensors file: {error}. Copy or download the checkpoint again."
            ) from error
    path = folder / PICKLE_NAME
    if not path.exists():
        raise ModelFormatError(
            f"{folder} has no weights: expected {SAFETENSORS_NAME} or {PICKLE_NAME}. "
            "Copy or download the checkpoint again."
        )
    try:
        # weights_only: a pickle may name any function to call; only tensors are let through.
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError and others
        raise ModelFormatError(
            f"{path} is damaged, or a pickle that holds more than tensors, which could run code: {str(error)[:200]}. "
            f"Use a checkpoint with {SAFETENSORS_NAME}."
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(weight, torch.Tensor) for weight in weights.values()):
        raise ModelFormatError(f"{path} is not a table of tensors. Use a checkpoint with {SAFETENSORS_NAME}.")
    return dict(weights)
