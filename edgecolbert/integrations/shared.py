"""What several doors need: the index behind one, the filter and the ids that users of a framework give."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from edgecolbert.errors import InputTypeError
from edgecolbert.filters import Filter
from edgecolbert.index import Index

AnyIndex = Index | str | os.PathLike[str]
AnyFilter = Filter | Mapping[Any, Any] | str


def as_index(index: object) -> Index:
    """The index behind a door.

    Args:
        index: An index, or the file of one, which is made if it does not exist.

    Returns:
        The same index, or the file's.

    Raises:
        InputTypeError: If it is something else.
        StoreError: If the file cannot be used.
    """
    if isinstance(index, Index):
        return index
    if isinstance(index, str | os.PathLike):
        return Index.open(index)
    raise InputTypeError(f"index is {type(index).__name__}, expected an Index or the path of a database.")


def as_filter(conditions: AnyFilter | None) -> Filter | Mapping[Any, Any] | None:
    """A filter in any of the three forms of docs/filters.md.

    Args:
        conditions: A filter, a mapping, or the written form; None for no filter.

    Returns:
        What `Index.search` takes.

    Raises:
        InputError: If the written form is wrong; the message says where.
    """
    if isinstance(conditions, str):
        from edgecolbert.filters.parser import parse_filter  # few callers write one

        return parse_filter(conditions)
    return conditions


def content_id(text: str, metadata: Mapping[str, Any] | None) -> str:
    """The id of a document that has none: the same for the same text and metadata, another for any other.

    `Index.add` looks at the text alone, so that new metadata replace the old. Users of frameworks add the pieces of
    documents, where two pages may have equal texts and are two documents all the same.

    Args:
        text: The text.
        metadata: The metadata.

    Returns:
        A SHA-256 in hexadecimal digits; without metadata that of the text, as `Index.add` has it.
    """
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    if metadata:
        # What is no JSON gets some id here, and is refused by the index with a message that says what is wrong.
        with suppress(TypeError, ValueError, RecursionError):
            digest.update(b"\0" + json.dumps(metadata, sort_keys=True).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
