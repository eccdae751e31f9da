"""What a request may ask for: every parameter is named, bounded and checked before anything is done with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from edgecolbert.errors import InputError
from edgecolbert.fusion import MODES
from edgecolbert.heat_map import SCHEMES

QUERY_CHARACTERS = 2_000
"""Characters of a query. Longer texts are for `edgecolbert search`."""
FILTER_CHARACTERS = 8_000
"""Characters of a filter in its written form."""
FILTERS = 32
"""Filters of one request."""
MOST_HITS = 100
"""Hits, listed documents or values of a facet in one answer."""
WINDOW_CHARACTERS = 200_000
"""Characters of a document's text in one answer."""
SNIPPET_CHARACTERS = 1_000
"""Characters of a snippet."""
TARGET_BYTES = 32_768
"""Bytes of a request's path and parameters, as they are sent."""

_REPEATED = ("filter",)

Reader = Callable[[str, str], Any]


def read(given: Iterable[tuple[str, str]], wanted: Mapping[str, Reader]) -> dict[str, Any]:
    """Read a request's parameters.

    Args:
        given: Names and values, as they were sent.
        wanted: How to read each parameter that there is.

    Returns:
        The values of those that were given; a list for what may be given several times.

    Raises:
        InputError: If one is unknown, given twice or wrong.
    """
    values: dict[str, Any] = {}
    for name, value in given:
        if name not in wanted:
            raise InputError(f"There is no parameter {name[:100]!r}, expected {', '.join(wanted) or 'none'}.")
        found = wanted[name](name, value)
        if name in _REPEATED:
            values.setdefault(name, []).append(found)
            if len(values[name]) > FILTERS:
                raise InputError(f"The parameter {name} is given more than {FILTERS} times. Put several into one.")
        elif name in values:
            raise InputError(f"The parameter {name} is given twice, expected once.")
        else:
            values[name] = found
    return values


def text(most: int) -> Reader:
    """How to read a text of at most so many characters."""

    def reader(name: str, value: str) -> str:
        if len(value) > most:
            raise InputError(f"{name} has {len(value)} characters, expected at most {most}.")
        return value

    return reader


def number(least: int, most: int) -> Reader:
    """How to read a whole number between two others."""

    def reader(name: str, value: str) -> int:
        # Not by int alone, which takes signs, spaces, underscores and digits of all scripts.
        if not (value.isascii() and value.isdigit() and len(value) <= 12) or not least <= int(value) <= most:
            raise InputError(f"{name} is {value[:100]!r}, expected a whole number from {least} to {most}.")
        return int(value)

    return reader


def choice(*names: str) -> Reader:
    """How to read one of some names."""

    def reader(name: str, value: str) -> str:
        if value not in names:
            raise InputError(f"{name} is {value[:100]!r}, expected one of {', '.join(map(repr, names))}.")
        return value

    return reader


QUERY, FILTER, MODE = text(QUERY_CHARACTERS), text(FILTER_CHARACTERS), choice(*MODES)
HITS, PLACE = number(1, MOST_HITS), number(0, 10**9)
ID = text(TARGET_BYTES)
SCHEME = choice(*SCHEMES)
