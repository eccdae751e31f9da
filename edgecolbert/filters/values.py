"""What a filter compares with: scalars of JSON, and instants. And which of them a stored value is."""

from __future__ import annotations

import math
from datetime import date, datetime, timedelta, timezone
from typing import Any, NamedTuple

from edgecolbert import limits
from edgecolbert.documents import check_size
from edgecolbert.errors import InputError, InputTypeError
from edgecolbert.instants import microseconds_of
from edgecolbert.tokenizer import check_text
from edgecolbert.untrusted import shown

# Kinds of stored values, in the order in which facets list them. Written into databases (docs/storage.md).
ANY, NULL, BOOLEAN, NUMBER, TEXT, INSTANT = range(6)
# Added to the kind of a value that is an element of the field's array.
ELEMENT = 10


class Instant(NamedTuple):
    """A moment to compare with.

    Attributes:
        microseconds: Since the beginning of the year 1 in UTC; the moment itself.
        text: How it is written, for JSON and messages.
    """

    microseconds: int
    text: str


Operand = str | int | float | bool | Instant | None


def instant(value: object, where: str) -> Instant:
    """A moment from a date, a date with time, or a text in ISO 8601.

    Args:
        value: One of those; without a time zone it is UTC.
        where: How to name its place in messages.

    Returns:
        The moment.

    Raises:
        InputError: If it is none, or beyond the years 1 to 9999 in UTC.
    """
    text = value
    if isinstance(value, datetime):
        try:
            offset = value.utcoffset()
            if offset is not None:
                value = (value.replace(tzinfo=None) - offset).replace(tzinfo=timezone(timedelta(0)))
        except OverflowError:
            raise InputError(f"{where} is {value}, which is beyond the years 1 to 9999 in UTC.") from None
        text = value.isoformat().replace("+00:00", "Z")
    elif isinstance(value, date):
        text = value.isoformat()
    found = microseconds_of(text)
    if found is None:
        raise InputError(
            f"{where} is {shown(value)}, expected a date in ISO 8601, such as 2024-05-31 or 2024-05-31T18:00:00+02:00."
        )
    return Instant(found, str(text))


def operand(value: object, where: str) -> Operand:
    """Check a value to compare with.

    Args:
        value: A string, a number, a boolean, None, a date, or `{"date": TEXT}` as JSON has it.
        where: How to name its place in messages.

    Returns:
        The value; dates as moments.

    Raises:
        InputTypeError: If it is something else.
        InputError: If metadata cannot hold it, or it is larger than `edgecolbert.limits` allows.
    """
    if value is None or isinstance(value, bool | Instant):
        return value
    if isinstance(value, str):
        check_text(value, where)
        check_size(value, limits.FILTER_BYTES, where, "FILTER_BYTES")
        return value
    if isinstance(value, int | float):
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InputError(f"{where} is {shown(value)}, which does not fit 64 bits.")
        if not math.isfinite(value):
            raise InputError(f"{where} is {value}, and metadata cannot hold that.")
        return value
    if isinstance(value, date):
        return instant(value, where)
    if isinstance(value, dict) and list(value) == ["date"] and isinstance(value["date"], str):
        return instant(value["date"], where)
    raise InputTypeError(
        f"{where} is {type(value).__name__}, expected a string, a number, a boolean or None to compare with, or a date."
    )


def number(value: float) -> float:
    """A stored number as it is compared: beyond 64 bits as a float64, as SQLite takes it."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return value


def kinds_of(value: object) -> list[tuple[int, Any]]:
    """What a stored scalar can be found as.

    Args:
        value: A JSON value.

    Returns:
        Kinds and values to compare; a text that is a date is also a moment. Nothing for objects and arrays.
    """
    if value is None:
        return [(NULL, 0)]
    if isinstance(value, bool):
        return [(BOOLEAN, int(value))]
    if isinstance(value, str):
        moment = microseconds_of(value)
        return [(TEXT, value)] if moment is None else [(TEXT, value), (INSTANT, moment)]
    if isinstance(value, int | float):
        found = number(value)
        # One form for equal numbers, so that they are one entry of an index and one value of a facet.
        whole = isinstance(found, float) and found.is_integer() and -(2**63) <= found < 2**63
        return [(NUMBER, int(found) if whole else found)]
    return []


def value_of(kind: int, value: Any) -> Any:
    """The JSON value of an entry of `kinds_of`."""
    return None if kind == NULL else bool(value) if kind == BOOLEAN else value


def is_entry(kind: object, value: object) -> bool:
    """Whether an entry that a database holds is one that `entries_of` makes; its checksum says nothing of that."""
    types: dict[object, tuple[type, ...]] = {ANY: (int,), NULL: (int,), BOOLEAN: (int,), INSTANT: (int,), TEXT: (str,)}
    types[NUMBER] = (int, float)
    return isinstance(kind, int) and isinstance(value, types.get(kind % ELEMENT, ()))


def entries_of(value: object) -> set[tuple[int, Any]]:
    """Everything that a stored value of a field can be found as, elements of an array included.

    Args:
        value: A JSON value.

    Returns:
        Kinds and values, each once; `ELEMENT` is added to the kinds of elements.
    """
    found: set[tuple[int, Any]] = {(ANY, 0), *kinds_of(value)}
    if isinstance(value, list):
        found.update((ELEMENT + kind, entry) for element in value for kind, entry in kinds_of(element))
    return found
