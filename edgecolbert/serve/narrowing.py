"""By what documents can be narrowed down: metadata fields that sort them, their values, and folders of paths."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from edgecolbert.results import FacetValue

# A field whose values are mostly different, or long, tells documents apart and sorts them into nothing.
_FEW_VALUES, _LONGEST_VALUE = 20, 80
_DEEPEST_FIELD = 3
# Greater than every text that begins with what stands before it; no character follows it.
_LAST = "\U0010ffff"
# Several separators are one, so that no folder is without a name; the first of an absolute path is part of its name.
_SEPARATOR = re.compile(r"(?<=[^/\\])[/\\]+")
_PLAIN_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = {"and", "or", "not", "in", "contains", "substring", "exists", "missing", "true", "false", "null"}


def written(path: Sequence[str]) -> str:
    """A field's name as filters write it.

    Args:
        path: Its names from the outside in.

    Returns:
        The names with slashes between them, in quotes where they are more than a word.

    Examples:
        >>> written(["meta", "due date"])
        'meta/"due date"'
    """
    return "/".join(
        name if _PLAIN_NAME.fullmatch(name) and name.lower() not in _RESERVED else json.dumps(name, ensure_ascii=False)
        for name in path
    )


def below(path: Sequence[str], prefix: str) -> str:
    """A filter for the texts that begin with a prefix: a range, since no operator says it."""
    name = written(path)
    first, last = (json.dumps(text, ensure_ascii=False) for text in (prefix, prefix + _LAST))
    return f"{name} >= {first} and {name} <= {last}"


def facet(path: Sequence[str], entry: FacetValue) -> dict[str, Any]:
    """A value of a field, how many documents have it, and the filter that selects these."""
    name, value = written(path), json.dumps(entry.value, ensure_ascii=False)
    # As the field, or as an element of its array: a facet counts both.
    return {"value": entry.value, "count": entry.count, "filter": f"{name} = {value} or {name} contains {value}"}


def scalars(metadata: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that a facet would count, with its field; not deeper than three names."""
    for name, value in metadata.items():
        field = (*path, name)
        if isinstance(value, dict):
            if len(field) < _DEEPEST_FIELD:
                yield from scalars(value, field)
        elif isinstance(value, list):
            yield from ((field, entry) for entry in value if not isinstance(entry, dict | list))
        else:
            yield field, value


def sorts(values: Counter[str]) -> bool:
    """Whether a field with these values, in JSON and counted, sorts documents into groups."""
    if any(len(value) > _LONGEST_VALUE for value in values):
        return False
    return len(values) <= _FEW_VALUES or 2 * len(values) <= values.total()


def is_place(values: Counter[str] | None) -> bool:
    """Whether a field with these values, in JSON and counted, has paths with folders."""
    texts = [json.loads(value) for value in values or ()]
    return any(isinstance(text, str) and _SEPARATOR.search(text) for text in texts)


def children(places: Iterable[tuple[str, int]], here: str) -> tuple[dict[str, int], int, set[str]]:
    """Documents in each folder below one, at any depth; how many lie in it directly; and which have folders."""
    folders: Counter[str] = Counter()
    loose = 0
    deeper: set[str] = set()
    for place, count in places:
        if not place.startswith(here):
            continue
        separator = _SEPARATOR.search(place, len(here))
        if separator is None:
            loose += count
        else:
            prefix = place[: separator.end()]
            folders[prefix] += count
            if _SEPARATOR.search(place, separator.end()) is not None:
                deeper.add(prefix)
    return dict(folders), loose, deeper
