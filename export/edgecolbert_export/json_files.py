"""JSON files of a checkpoint, read with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgecolbert.errors import ModelFormatError


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Args:
        path: The file, which has to exist.

    Returns:
        What it holds.

    Raises:
        ModelFormatError: If the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFormatError(
            f"The checkpoint is incomplete: {path} is missing. Copy or download the checkpoint again."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFormatError(
            f"{path} cannot be read as JSON: {error}. Copy or download the checkpoint again."
        ) from error


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: The file, which has to exist.

    Returns:
        The object.

    Raises:
        ModelFormatError: If the file is missing, unreadable, not JSON, or not an object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ModelFormatError(
            f"{path} holds a JSON {type(value).__name__}, expected an object. Copy or download the checkpoint again."
        )
    return value


def read_optional_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that may be absent.

    Args:
        path: The file.

    Returns:
        The object, without the keys whose value is null (R8: null is the same as absent); empty if there is no file.
    """
    if not path.exists():
        return {}
    return {key: value for key, value in read_json_object(path).items() if value is not None}
