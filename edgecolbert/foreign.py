"""Models that other exporters wrote: folders with `onnx_config.json` (next-plaid, Answer.AI), read as they are.

Such a folder has no manifest: no hashes, no prompts, and one flag that cannot be believed. What is missing is filled
in as PyLate would, and `ForeignModel.warnings` says what could not be known. Source: next-plaid,
`colbert_export/export.py` (writer) and `next-plaid-onnx/src/lib.rs`, `ColbertConfig` (reader).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edgecolbert import limits
from edgecolbert.errors import ModelFormatError, ModelNotFoundError
from edgecolbert.manifest import EncodingSettings, FileRecord, ModelManifest
from edgecolbert.untrusted import read_bounded, read_json

CONFIG_NAME = "onnx_config.json"
# The float graph comes first: the int8 one of these exporters has one activation scale for a whole batch and one
# weight scale for a tensor, and loses much (benchmarks/quantization.py).
GRAPH_NAMES = ("model.onnx", "model_int8.onnx")
TOKENIZER_NAME = "tokenizer.json"
# Of the reader, where the file says nothing; they are not PyLate's.
_QUERY_LENGTH, _DOCUMENT_LENGTH = 48, 300
_MASK_TOKENS = ("[MASK]", "<mask>")


@dataclass(frozen=True)
class ForeignModel:
    """A folder of another exporter.

    Attributes:
        manifest: What the runtime needs; its hashes are of the files as they were found, so they prove nothing.
        warnings: What the folder does not say, or says wrongly, and what was assumed.
    """

    manifest: ModelManifest
    warnings: tuple[str, ...]


def is_foreign(folder: str | Path) -> bool:
    """Whether a folder was written by one of these exporters."""
    return (Path(folder) / CONFIG_NAME).is_file()


def read_foreign(
    folder: str | Path, *, do_query_expansion: bool | None = None, quantized: bool = False
) -> ForeignModel:
    """Read such a folder.

    Args:
        folder: The folder, with `onnx_config.json`, `tokenizer.json` and a graph.
        do_query_expansion: Whether queries are padded with mask tokens; None to believe the file, which next-plaid's
            exporter always writes as false, whatever the checkpoint says.
        quantized: Take `model_int8.onnx` where there are both graphs.

    Returns:
        The model.

    Raises:
        ModelNotFoundError: If the folder has no `onnx_config.json`.
        ModelFormatError: If a file is missing, unreadable, or contradicts another.
    """
    folder = Path(folder)
    path = folder / CONFIG_NAME
    try:
        config = read_json(read_bounded(path, limits.MANIFEST_BYTES).decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFoundError(
            f"{folder} has no {CONFIG_NAME}, so it is no foreign export. Check the path."
        ) from None
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{path} cannot be read: {error}. Copy the folder again.") from error
    if not isinstance(config, dict):
        raise ModelFormatError(f"{path} holds {type(config).__name__}, expected an object. Copy the folder again.")
    graphs = [name for name in (reversed(GRAPH_NAMES) if quantized else GRAPH_NAMES) if (folder / name).is_file()]
    if not graphs or not (folder / TOKENIZER_NAME).is_file():
        raise ModelFormatError(
            f"{folder} lacks {TOKENIZER_NAME if graphs else ' and '.join(GRAPH_NAMES)}, which {CONFIG_NAME} needs. "
            "Copy the folder again."
        )
    if (folder / f"{graphs[0]}.data").exists():
        raise ModelFormatError(
            f"{folder / graphs[0]} keeps its weights in {graphs[0]}.data, expected one file. Save it again with onnx "
            "(`onnx.save(onnx.load(PATH), PATH)`), or export the checkpoint with `edgecolbert export`."
        )
    warnings: list[str] = []
    tokenizer = _read_tokenizer(folder / TOKENIZER_NAME)
    settings = _settings(config, tokenizer, path, do_query_expansion, warnings)
    manifest = ModelManifest(
        folder=folder,
        name=str(config.get("model_name") or folder.resolve().name),
        encoding=settings,
        graph=graphs[0],
        tokenizer=TOKENIZER_NAME,
        profile="int8 (foreign)" if graphs[0] == GRAPH_NAMES[1] else "fp32 (foreign)",
        files={name: _record(folder / name) for name in (graphs[0], TOKENIZER_NAME)},
        source={"name": config.get("model_name"), "exporter": "onnx_config.json"},
        verification={"verified": False},
    )
    return ForeignModel(manifest, tuple(warnings))


def _settings(
    config: dict[str, Any], tokenizer: Tokenizer, path: Path, expansion: bool | None, warnings: list[str]
) -> EncodingSettings:
    if expansion is None:
        expansion = bool(config.get("do_query_expansion", True))
        if config.get("do_query_expansion") is False:
            warnings.append(
                "do_query_expansion is false, which next-plaid's exporter writes for every model; if the checkpoint "
                "expands queries, pass do_query_expansion=True."
            )
    warnings.append("The folder names no prompts; if the model was trained with some, put them before your texts.")
    warnings.append("The folder has no hashes, so files that were changed cannot be noticed.")
    mask = _mask_token_id(config, tokenizer)
    if expansion and mask is None:
        raise ModelFormatError(
            f"{path} asks for query expansion, but no mask token is known. Name mask_token_id in it."
        )
    prefixes = {
        side: str(config.get(f"{side}_prefix", default)) for side, default in (("query", "[Q] "), ("document", "[D] "))
    }
    ids = {side: _prefix_id(config, tokenizer, side, prefix, path) for side, prefix in prefixes.items()}
    try:
        words = tuple(str(word) for word in config.get("skiplist_words", []))
        return EncodingSettings(
            dim=int(config["embedding_dim"]),
            query_length=int(config.get("query_length", _QUERY_LENGTH)),
            document_length=int(config.get("document_length", _DOCUMENT_LENGTH)),
            query_prefix=prefixes["query"],
            document_prefix=prefixes["document"],
            query_prefix_id=ids["query"],
            document_prefix_id=ids["document"],
            do_query_expansion=expansion,
            # The exporter forces this one to false as well, and its reader ignores it.
            attend_to_expansion_tokens=expansion and bool(config.get("attend_to_expansion_tokens", False)),
            expansion_token_id=mask,
            skiplist_words=words,
            # Words outside the vocabulary are ignored there, unlike in PyLate.
            skiplist_ids=tuple(found for word in words if (found := tokenizer.token_to_id(word)) is not None),
            do_lower_case=bool(config.get("do_lower_case", False)),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelFormatError(f"{path} has unusable settings: {error}. Correct the file.") from error


def _prefix_id(config: dict[str, Any], tokenizer: Tokenizer, side: str, prefix: str, path: Path) -> int | None:
    if not prefix:
        return None
    known, found = config.get(f"{side}_prefix_id"), tokenizer.token_to_id(prefix)
    if found is None or (known is not None and known != found):
        raise ModelFormatError(
            f"{path} gives the {side} prefix {prefix!r} the id {known}, the tokenizer gives it {found}. "
            "The two files belong to different models; copy the folder again."
        )
    return int(found)


def _mask_token_id(config: dict[str, Any], tokenizer: Tokenizer) -> int | None:
    # The file's number is often the reader's default (103) and not the model's own, so the token's text comes first.
    for token in _MASK_TOKENS:
        if (found := tokenizer.token_to_id(token)) is not None:
            return int(found)
    known = config.get("mask_token_id")
    return int(known) if isinstance(known, int) else None


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_buffer(read_bounded(path, limits.TOKENIZER_BYTES))
    except Exception as error:  # the package raises bare Exception
        raise ModelFormatError(f"{path} is not a tokenizer: {error}. Copy the folder again.") from error


def _record(path: Path) -> FileRecord:
    with path.open("rb") as stream:
        return FileRecord(path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())
