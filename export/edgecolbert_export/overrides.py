"""`--set`: settings changed on the way, in a copy of the checkpoint, so that the reference reads them as well."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from edgecolbert.errors import InputError
from edgecolbert_export.json_files import read_json_object, read_optional_json_object

_COLBERT_KEYS: dict[str, type] = {
    "query_prefix": str,
    "document_prefix": str,
    "query_length": int,
    "document_length": int,
    "do_query_expansion": bool,
    "attend_to_expansion_tokens": bool,
    "skiplist_words": list,
    "prompts": dict,
    "default_prompt_name": str,
}
_BACKBONE_KEYS: dict[str, type] = {"do_lower_case": bool}
_DENSE_KEYS: dict[str, type] = {"use_residual": bool, "activation_function": str}


def parse_override(text: str) -> tuple[str, Any]:
    """Read one `NAME=VALUE` of the command line.

    Args:
        text: Such as "2_Dense.use_residual=true" or "document_length=512"; the value is JSON, or else a string.

    Returns:
        Name and value.

    Raises:
        InputError: If there is no equals sign.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise InputError(f"--set {text!r} has no value, expected NAME=VALUE, such as 2_Dense.use_residual=true.")
    try:
        return name.strip(), json.loads(value)
    except ValueError:
        return name.strip(), value


def apply_overrides(checkpoint: Path, overrides: dict[str, Any], copy: Path) -> Path:
    """Copy a checkpoint and change settings in the copy's config files.

    Args:
        checkpoint: The checkpoint, in PyLate's layout.
        overrides: Name and value of each setting; "2_Dense.use_residual" is a setting of the layer in that folder.
        copy: A folder that does not exist yet.

    Returns:
        The checkpoint itself if there is nothing to change, else the copy.

    Raises:
        InputError: If a setting is unknown or has the wrong type.
    """
    if not overrides:
        return checkpoint
    shutil.copytree(checkpoint, copy)
    for name, value in overrides.items():
        folder, _, key = name.rpartition(".")
        if folder:
            path, known = copy / folder / "config.json", _DENSE_KEYS
            if Path(folder).name != folder or not path.exists():
                layers = sorted(entry.parent.name for entry in checkpoint.glob("*_Dense/config.json"))
                raise InputError(f"--set {name}: the checkpoint has no layer {folder!r}, only {', '.join(layers)}.")
            content = read_json_object(path)
        elif key in _BACKBONE_KEYS:
            path, known = copy / "sentence_bert_config.json", _BACKBONE_KEYS
            content = read_optional_json_object(path)
        else:
            path, known = copy / "config_sentence_transformers.json", _COLBERT_KEYS
            content = read_optional_json_object(path)
        _check_value(name, key, value, known)
        path.chmod(0o644)
        path.write_text(json.dumps(content | {key: value}, indent=2), encoding="utf-8")
    return copy


def _check_value(name: str, key: str, value: Any, known: dict[str, type]) -> None:
    if key not in known:
        every = sorted({*_COLBERT_KEYS, *_BACKBONE_KEYS, *(f"N_Dense.{key}" for key in _DENSE_KEYS)})
        raise InputError(f"--set {name}: there is no such setting, expected one of {', '.join(every)}.")
    if not isinstance(value, known[key]) or (isinstance(value, bool) and known[key] is not bool):
        raise InputError(f"--set {name}: the value is {value!r}, expected {known[key].__name__}.")
