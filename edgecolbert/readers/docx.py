"""DOCX, through python-docx."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

from edgecolbert.readers.archive import Archive
from edgecolbert.readers.parsed import Parsed, check_length

_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)


def read(content: bytes, name: str) -> Parsed:
    """Read a DOCX.

    Args:
        content: Its bytes.
        name: Not used.

    Returns:
        Paragraphs, headings, lists and tables in their order, as Markdown; no headers, footers or notes.
    """
    Archive(content).check_all()
    from docx import Document

    document = Document(io.BytesIO(content))
    parts: list[str] = []
    n_characters = 0
    before = ""
    for block in _blocks(document):
        n_characters = check_length(block, n_characters)
        if parts:
            parts.append("\n" if block[:2] in ("- ", "| ") and before[:2] == block[:2] else "\n\n")
        parts.append(block)
        before = block
    properties = document.core_properties
    author = " ".join((properties.author or "").split())
    return Parsed(
        "".join(parts),
        properties.title or _first_heading(parts),
        # The first is what python-docx's own template says.
        {"author": author[:300]} if author not in ("python-docx", "") else {},
    )


def _blocks(container: Any) -> Iterator[str]:
    from docx.table import Table

    for item in container.iter_inner_content():
        if isinstance(item, Table):
            yield from _rows(item)
        else:
            text = item.text.strip()
            if text:
                yield _mark(item) + text


def _rows(table: Any) -> Iterator[str]:
    for row in table.rows:
        cells: list[str] = []
        before = None
        for cell in row.cells:
            # A cell over several columns is given once for each.
            if cell._tc is not before:
                cells.append(" ".join(" ".join(_blocks(cell)).split()))
            before = cell._tc
        if any(cells):
            yield "| " + " | ".join(cells)


def _mark(paragraph: Any) -> str:
    style = paragraph.style
    name = (style.name if style is not None else None) or ""
    if name == "Title":
        return "# "
    found = _HEADING.match(name)
    if found is not None:
        return "#" * min(6, max(1, int(found[1]))) + " "
    return "- " if name.startswith("List") else ""


def _first_heading(parts: list[str]) -> str | None:
    return next((part.lstrip("# ") for part in parts if part.startswith("#")), None)
