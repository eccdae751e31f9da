"""Reading what a stranger may have written: files of bounded size, and JSON without its surprises."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any, NoReturn

_SHOWN = 200


def read_bounded(path: Path, most: int) -> bytes:
    """The content of a file, if it is an ordinary one of bearable size.

    Args:
        path: The file; a link is followed, as the hub's cache needs.
        most: Most bytes it may have.

    Returns:
        Its bytes.

    Raises:
        OSError: If it cannot be read, is a device, pipe or folder, or is too large. A pipe would be waited for without
            end, and a device such as /dev/zero read without end.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is no ordinary file")
    if status.st_size > most:
        raise OSError(f"it has {status.st_size} bytes, more than {most} are not read")
    with path.open("rb") as file:
        # Files of the system under /proc say that they are empty.
        content = file.read(status.st_size + 1)
    if len(content) > status.st_size:
        raise OSError(f"it has more than the {status.st_size} bytes that the file system says")
    return content


def read_json(text: str | bytes) -> Any:
    """Read JSON that means one thing only.

    Args:
        text: JSON, as text or in UTF-8.

    Returns:
        What it says.

    Raises:
        ValueError: If it is not JSON, nested too deeply, has NaN or infinity, a number of thousands of digits, or an
            object with the same key twice, of which other readers would take another one.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; lists within lists within lists
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} is there twice")
    return found
