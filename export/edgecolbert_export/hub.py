"""Checkpoints by their name on the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecolbert.errors import ModelNotFoundError
from edgecolbert.hub import HubName, fetch_snapshot

# What an export reads; other frameworks' weights and pictures stay where they are.
_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.metadata", "*.md", "pytorch_model.bin"]
_IGNORED = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.msgpack"]


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

    Files that are in the hub's cache are not downloaded again, so an interrupted download continues with the next file.

    Args:
        name_or_folder: A folder, or a hub name such as "lightonai/ColBERT-Zero". A folder of that name wins.
        revision: Commit, tag or branch of the hub repository; "" for the one after "@" in the name, or else for its
            main branch.
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
    name = HubName.parse(name_or_folder)
    if name is None:
        raise ModelNotFoundError(
            f"No checkpoint {name_or_folder!r}: it is no folder, and no hub name either, which is OWNER/NAME. "
            "Check the spelling."
        )
    pinned = HubName(name.repository, revision or name.revision)
    path = fetch_snapshot(pinned, patterns=_PATTERNS, ignored=_IGNORED, cache=cache, offline=offline)
    # The cache keeps each commit in a folder of its name.
    return Source(path, path.name)
