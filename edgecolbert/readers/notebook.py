"""Jupyter notebooks: text and code of the cells, without what running them printed."""

from __future__ import annotations

import json
from typing import Any

from edgecolbert.readers.parsed import Parsed, UnreadableError
from edgecolbert.readers.plain import decode, heading


def read(content: bytes, name: str) -> Parsed:
    """Read a notebook of format 3 or 4.

    Args:
        content: Its bytes.
        name: Not used.

    Returns:
        Markdown, with code between fences.

    Raises:
        UnreadableError: If it is no notebook.
    """
    try:
        data = json.loads(decode(content)[0])
    except ValueError as error:
        raise UnreadableError(f"it is no notebook: not JSON ({error})") from None
    cells = _cells(data)
    said = data.get("metadata")
    kernel = _part(_part(said, "language_info"), "name") or _part(_part(said, "kernelspec"), "language")
    language = kernel if isinstance(kernel, str) and kernel.isidentifier() else ""
    parts = []
    for cell in cells:
        source = _source(cell)
        if not source.strip():
            continue
        if cell.get("cell_type") == "code":
            # Longer than any row of backticks in it.
            fence = "```"
            while fence in source:
                fence += "`"
            parts.append(f"{fence}{language}\n{source.strip(chr(10))}\n{fence}")
        elif cell.get("cell_type") == "heading":
            level = cell.get("level")
            parts.append("#" * (level if isinstance(level, int) and 1 <= level <= 6 else 1) + " " + source.strip())
        else:
            parts.append(source.strip("\n"))
    text = "\n\n".join(parts)
    return Parsed(text, heading(text), {"language": language} if language else {})


def _cells(data: Any) -> list[dict[str, Any]]:
    # Format 3 has sheets around the cells.
    sheets = _part(data, "worksheets")
    lists = [_part(sheet, "cells") for sheet in (sheets if isinstance(sheets, list) else [data])]
    if not all(isinstance(cells, list) for cells in lists):
        raise UnreadableError("it is no notebook: there is no list of cells in it")
    return [cell for cells in lists for cell in cells if isinstance(cell, dict)]


def _source(cell: dict[str, Any]) -> str:
    source = cell.get("source", cell.get("input", ""))
    if isinstance(source, list):
        return "".join(line for line in source if isinstance(line, str))
    return source if isinstance(source, str) else ""


def _part(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None
