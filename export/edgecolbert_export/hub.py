"""Checkpoints by their name on the Hugging Face hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download

from edgecolbert.errors import ModelNotFoundError

# What an export reads; other frameworks' weights and pictures stay where they are.
_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.metadata", "*.md", "pytorch_model.bin"]
_IGNORED = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.msgpack"]
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """Where a checkpoint is.

    Attributes:
        folder: Its files on this machine.
        revision: Commit of the hub repository, or "" for a folder of the user's own.
    """

    folder: Path
    revision: str = ""


def fetch(name_or_folder: str, revision: str = "", *, cache: Path | None = None, offline: bool = False) -> Source:
    """Find a checkpoint's folder, downloading it if it is a hub name.

    An interrupted download is resumed by the next call, and what is in the hub's cache is not downloaded again.

    Args:
        name_or_folder: A folder, or a hub name such as "lightonai/ColBERT-Zero". A folder of that name wins.
        revision: Commit, tag or branch of the hub repository; "" for its main branch.
        cache: The hub's cache; None for the usual place.
        offline: Use only what the cache has.

    Returns:
        The folder, and the commit that it holds.

    Raises:
        ModelNotFoundError: If there is no such folder, and no such repository or no way to reach it.
    """
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        return Source(folder)
    if not _NAME.fullmatch(name_or_folder):
        raise ModelNotFoundError(
            f"No checkpoint {name_or_folder!r}: it is no folder, and no hub name either, which is OWNER/NAME. "
            "Check the spelling."
        )
    try:
        path = snapshot_download(
            name_or_folder,
            revision=revision or None,
            cache_dir=cache,
            allow_patterns=_PATTERNS,
            ignore_patterns=_IGNORED,
            local_files_only=offline,
        )
    except Exception as error:  # HTTP, file and validation errors of several packages mean the same here
        raise ModelNotFoundError(
            f"The checkpoint {name_or_folder!r} (revision {revision or 'main'}) cannot be fetched from the Hugging "
            f"Face hub: {str(error).splitlines()[0]} Check the name and the connection, or copy the checkpoint to this "
            "machine and give its folder."
        ) from error
    # The cache keeps each commit in a folder of its name.
    return Source(Path(path), Path(path).name)
