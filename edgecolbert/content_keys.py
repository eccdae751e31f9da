"""What a stored text is known by: everything that its passages depend on.

Documents with the same text share it, and its passages, unless one of them says that it is of another kind or has
another title: then the passages differ, and so do the keys.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from edgecolbert.untrusted import read_json

TEXT, MARKDOWN, CODE = KINDS = ("text", "markdown", "code")


class ContentKey(NamedTuple):
    """The parts of a key.

    Attributes:
        digest: Hexadecimal SHA-256 of the text.
        kind: "markdown", "code", or None for plain text.
        title: The document's title, or None.
    """

    digest: str
    kind: str | None
    title: str | None


def content_key(digest: str, kind: str | None, title: str | None) -> str:
    """The key of a text.

    Args:
        digest: Hexadecimal SHA-256 of the text.
        kind: "markdown", "code", or None for plain text.
        title: The document's title, or None.

    Returns:
        The digest alone for plain text without a title, and else DIGEST/KIND/TITLE, with the title as JSON in ASCII: a
        NUL in it would end the key for older versions of SQLite.
    """
    return digest if kind is None and title is None else f"{digest}/{kind or TEXT}/{json.dumps(title)}"


def read_content_key(key: str) -> ContentKey:
    """The parts of a key.

    Args:
        key: What `content_key` gave.

    Returns:
        Its parts.

    Raises:
        ValueError: If it is no key.
    """
    digest, *rest = key.split("/", 2)
    if not rest:
        return ContentKey(digest, None, None)
    kind, title = rest[0], read_json(rest[1]) if len(rest) == 2 else 0
    if kind not in KINDS or not isinstance(title, str | None):
        raise ValueError(f"{key[:200]!r} is no key of a text")
    return ContentKey(digest, None if kind == TEXT else kind, title)
