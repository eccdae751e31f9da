"""Which kind and title a document from a file or a line of JSON Lines has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from edgecolbert import limits
from edgecolbert.chunking.markdown import headings
from edgecolbert.content_keys import CODE, KINDS, MARKDOWN, TEXT

_MARKDOWN_SUFFIXES = {".md", ".markdown", ".mdx"}
_CODE_SUFFIXES = {
    *(".bash", ".c", ".cc", ".clj", ".cpp", ".cs", ".css", ".cxx", ".dart", ".el", ".erl", ".ex", ".exs", ".go", ".h"),
    *(".hpp", ".hs", ".java", ".jl", ".js", ".jsx", ".kt", ".lua", ".m", ".ml", ".php", ".pl", ".pm", ".ps1", ".py"),
    *(".pyi", ".r", ".rb", ".rs", ".scala", ".scm", ".sh", ".sql", ".swift", ".ts", ".tsx", ".vim", ".zig", ".zsh"),
}
# A first heading is in the first lines, and a document may have 64 MiB.
_HEAD = 20_000


def described(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its kind and title, for an index whose passages depend on them.

    Args:
        record: `text`; perhaps `kind` and `title`, as the file's reader knows them; and `metadata` with perhaps `kind`
            or `format`, `title` and `path`.

    Returns:
        The record with `kind` and `title` as `Index.add` takes them, where they can be told. The kind is what the
        reader or the metadata say, where it is one of ours, and else follows from the path's ending; the title is what
        the reader or the metadata say, and else the first heading, or the name of the file without its ending.
    """
    metadata = record.get("metadata") or {}
    path = metadata.get("path")
    path = PurePath(path) if isinstance(path, str) and path else None
    said = (record.get("kind"), metadata.get("kind"), metadata.get("format"))
    kind = next((value for value in said if isinstance(value, str) and value in KINDS), _kind_of(path))
    titles = (record.get("title"), metadata.get("title"))
    title = next((value for value in titles if isinstance(value, str) and value.strip()), None)
    if title is None:
        outline = headings(record["text"][:_HEAD]) if kind == MARKDOWN else []
        title = next((heading.title for heading in outline if heading.title), path.stem if path else "")
    found = {key: value for key, value in record.items() if key not in ("kind", "title")}
    if kind != TEXT:
        found["kind"] = kind
    # A title that is longer than any title is no reason to refuse the document.
    if title.strip() and len(title) * 4 <= limits.ID_BYTES:
        found["title"] = title
    return found


def _kind_of(path: PurePath | None) -> str:
    suffix = path.suffix.lower() if path else ""
    return MARKDOWN if suffix in _MARKDOWN_SUFFIXES else CODE if suffix in _CODE_SUFFIXES else TEXT
