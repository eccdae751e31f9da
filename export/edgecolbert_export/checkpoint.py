"""A ColBERT checkpoint on disk, read by the rules of docs/pylate-rules.md (R1 to R16)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecolbert.errors import ModelFormatError, ModelNotFoundError
from edgecolbert_export import multi_vector, stanford
from edgecolbert_export.colbert_settings import ColbertSettings, settings_from
from edgecolbert_export.dense import DenseLayer, read_dense
from edgecolbert_export.json_files import read_json, read_json_object, read_optional_json_object

_TRANSFORMER_TYPES = {
    "sentence_transformers.models.Transformer",
    "sentence_transformers.models.Transformer.Transformer",
}
_DENSE_TYPES = {
    "pylate.models.Dense.Dense",
    "pylate.models.Dense",
    "sentence_transformers.models.Dense",
    "sentence_transformers.models.Dense.Dense",
}
# PyLate drops these silently (R2): they pool or normalise what late interaction keeps a row for each token.
_DROPPED_TYPES = {
    "sentence_transformers.models.Pooling",
    "sentence_transformers.models.Pooling.Pooling",
    "sentence_transformers.models.Normalize",
    "sentence_transformers.models.Normalize.Normalize",
}
_BACKBONE_CONFIG_NAMES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
_PYLATE_KEYS = (
    "query_prefix",
    "document_prefix",
    "query_length",
    "document_length",
    "do_query_expansion",
    "attend_to_expansion_tokens",
    "skiplist_words",
    "prompts",
    "default_prompt_name",
)
_HASHED_SUFFIXES = {".json", ".safetensors", ".bin", ".txt", ".model", ".metadata"}


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder says, weights of the backbone and the tokenizer still on disk.

    Attributes:
        folder: The checkpoint.
        layout: "pylate", "multi-vector-encoder" or "stanford".
        backbone_folder: Where config, weights and tokenizer of the backbone are (R3).
        backbone_arguments: Arguments of the backbone's class, such as `add_pooling_layer`.
        dense: The Dense layers in the order of execution.
        settings: The late-interaction settings.
        notes: What a reader of the model card should know about this checkpoint.
    """

    folder: Path
    layout: str
    backbone_folder: Path
    backbone_arguments: dict[str, Any]
    dense: tuple[DenseLayer, ...]
    settings: ColbertSettings
    notes: tuple[str, ...] = ()

    @property
    def dim(self) -> int:
        """Size of one token embedding."""
        return self.dense[-1].out_features

    def file_hashes(self) -> dict[str, str]:
        """SHA-256 (hex) of every file of the checkpoint, by path inside it."""
        paths = sorted(path for path in self.folder.rglob("*") if path.suffix in _HASHED_SUFFIXES and path.is_file())
        return {path.relative_to(self.folder).as_posix(): _sha256(path) for path in paths}


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint in PyLate's, sentence-transformers 6's or Stanford's layout.

    Args:
        folder: The checkpoint.

    Returns:
        The checkpoint.

    Raises:
        ModelNotFoundError: If there is no such folder, or nothing of a model in it.
        ModelFormatError: If a file is missing or damaged, or the checkpoint holds what cannot be exported exactly.
    """
    if not folder.is_dir():
        raise ModelNotFoundError(f"No checkpoint folder {folder}. Give a folder with modules.json, or a hub name.")
    if (folder / "modules.json").exists():
        config = read_optional_json_object(folder / "config_sentence_transformers.json")
        modules = _read_modules(folder)
        if multi_vector.is_layout(config, modules):
            return _read_multi_vector(folder, config, modules)
        return _read_pylate(folder, config, modules)
    if (folder / "config.json").exists():
        config = read_json_object(folder / "config.json")
        if "HF_ColBERT" in (config.get("architectures") or []):
            head = stanford.read_head(folder)
            return Checkpoint(folder, "stanford", folder, {}, (head,), stanford.read_settings(folder))
        # R4: PyLate would put a random layer here and ignore the settings; nothing exact can come of that.
        raise ModelFormatError(
            f"{folder} has no modules.json, so its Dense layers and settings would be ignored and a random layer put "
            "in their place. Restore modules.json, or make a late-interaction model of the plain encoder with "
            "`edgecolbert export ... --head pca:96 --probe TEXTS`."
        )
    raise ModelNotFoundError(
        f"{folder} is not a checkpoint: it has neither modules.json nor config.json. Give the folder that holds them."
    )


def _read_pylate(folder: Path, config: dict[str, Any], modules: list[dict[str, Any]]) -> Checkpoint:
    backbone, dense_folders = _sort_modules(folder, modules, _TRANSFORMER_TYPES, _DENSE_TYPES, _DROPPED_TYPES)
    dense = tuple(read_dense(path) for path in dense_folders)
    if not dense:
        raise ModelFormatError(
            f"{folder / 'modules.json'} names no Dense layer, so PyLate would append a random one. It looks like a "
            "sentence encoder: make a late-interaction model of it with "
            "`edgecolbert export ... --head pca:96 --probe TEXTS`."
        )
    backbone_config = _read_backbone_config(backbone)
    values = {name: config[name] for name in _PYLATE_KEYS if name in config}
    values["do_lower_case"] = backbone_config.get("do_lower_case", False)
    return Checkpoint(
        folder=folder,
        layout="pylate",
        backbone_folder=backbone,
        backbone_arguments=dict(backbone_config.get("model_args", {})),
        dense=dense,
        settings=settings_from(values, folder / "config_sentence_transformers.json"),
    )


def _read_multi_vector(folder: Path, config: dict[str, Any], modules: list[dict[str, Any]]) -> Checkpoint:
    backbone, dense_folders = _sort_modules(
        folder,
        modules,
        multi_vector.TRANSFORMER_TYPES | _TRANSFORMER_TYPES,
        multi_vector.DENSE_TYPES | _DENSE_TYPES,
        multi_vector.OTHER_TYPES | _DROPPED_TYPES,
    )
    dense = tuple(read_dense(path) for path in dense_folders)
    if not dense:
        raise ModelFormatError(f"{folder / 'modules.json'} names no Dense layer; models without one are not supported.")
    backbone_config = _read_backbone_config(backbone)
    return Checkpoint(
        folder=folder,
        layout="multi-vector-encoder",
        backbone_folder=backbone,
        backbone_arguments=dict(backbone_config.get("model_kwargs", backbone_config.get("model_args", {}))),
        dense=dense,
        settings=multi_vector.read_settings(folder, config, modules, backbone_config),
    )


def _read_modules(folder: Path) -> list[dict[str, Any]]:
    path = folder / "modules.json"
    modules: Any = read_json(path)
    well_formed = isinstance(modules, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("type"), str) and isinstance(entry.get("path"), str)
        for entry in modules
    )
    if not well_formed or not modules:
        raise ModelFormatError(f"{path} is not a list of modules with `type` and `path`. Copy the checkpoint again.")
    names = [entry.get("name") for entry in modules]
    if len(set(map(json.dumps, names))) != len(names):
        # R1: PyLate keys modules by name, so one would overwrite the other.
        raise ModelFormatError(f"{path} names two modules alike ({names}), so one would be lost. Correct the file.")
    return list(modules)


def _sort_modules(
    folder: Path, modules: list[dict[str, Any]], transformer: set[str], dense: set[str], dropped: set[str]
) -> tuple[Path, list[Path]]:
    """Backbone folder and Dense folders, in list order: `idx` is ignored (R1)."""
    path = folder / "modules.json"
    if modules[0]["type"] not in transformer:
        raise ModelFormatError(
            f"{path} starts with {modules[0]['type']!r}, expected a Transformer. Only text backbones can be exported."
        )
    dense_folders = []
    for entry in modules[1:]:
        if entry["type"] in dense:
            dense_folders.append(_inside(folder, entry["path"], path))
        elif entry["type"] not in dropped:
            raise ModelFormatError(
                f"{path} names the unknown module {entry['type']!r}; leaving it out would be silently wrong. "
                "Known are Transformer, Dense, Pooling and Normalize. Use a newer edgecolbert."
            )
    return _inside(folder, modules[0]["path"], path), dense_folders


def _inside(folder: Path, name: str, path: Path) -> Path:
    found = (folder / name).resolve()
    if not found.is_relative_to(folder.resolve()):
        raise ModelFormatError(f"{path} names the folder {name!r} outside the checkpoint. Correct the file.")
    if not found.is_dir():
        raise ModelFormatError(f"{path} names {name!r}, but there is no such folder. Copy the checkpoint again.")
    return folder / name if name else folder


def _read_backbone_config(folder: Path) -> dict[str, Any]:
    for name in _BACKBONE_CONFIG_NAMES:
        if (folder / name).exists():
            return read_optional_json_object(folder / name)
    return {}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
