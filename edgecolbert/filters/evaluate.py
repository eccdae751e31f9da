"""Whether metadata fulfils a filter, in Python: for documents that SQLite would misread, and to check the SQL with."""

from __future__ import annotations

from collections.abc import Mapping
from operator import ge, gt, le, lt
from typing import Any

from edgecolbert.filters.conditions import AllOf, AnyOf, Condition, Filter, Not
from edgecolbert.filters.mapping import read_filter
from edgecolbert.filters.values import Instant, Operand, number
from edgecolbert.instants import microseconds_of

_ORDERS = {"lt": lt, "lte": le, "gt": gt, "gte": ge}
_MISSING = object()


def matches(metadata: Mapping[str, Any], conditions: Mapping[str, Any] | Filter) -> bool:
    """Whether metadata fulfils a filter.

    Args:
        metadata: A document's metadata.
        conditions: A filter, or a mapping.

    Returns:
        Whether it holds.

    Examples:
        >>> matches({"n": 4}, {"n": 4.0}), matches({"n": 1}, {"n": True})
        (True, False)
    """
    return _holds(metadata, read_filter(conditions))


def value_at(metadata: Mapping[str, Any], path: tuple[str, ...]) -> list[Any]:
    """The value of a field, in a list of one; an empty list where it is missing.

    Args:
        metadata: A document's metadata.
        path: Keys from the outside in.

    Returns:
        The value, or nothing.
    """
    found: Any = metadata
    for name in path:
        found = found.get(name, _MISSING) if isinstance(found, Mapping) else _MISSING
        if found is _MISSING:
            return []
    return [found]


def _holds(metadata: Mapping[str, Any], part: Filter) -> bool:
    if isinstance(part, Condition):
        return any(_fulfils(value, part) for value in value_at(metadata, part.path))
    if isinstance(part, Not):
        return not _holds(metadata, part.part)
    if isinstance(part, AllOf):
        return all(_holds(metadata, inner) for inner in part.parts)
    return isinstance(part, AnyOf) and any(_holds(metadata, inner) for inner in part.parts)


def _fulfils(stored: Any, wanted: Condition) -> bool:
    match wanted.operator:
        case "exists":
            return True
        case "eq" | "in":
            return any(_same(stored, value) for value in wanted.values)
        case "contains":
            return isinstance(stored, list) and any(_same(element, wanted.values[0]) for element in stored)
        case "substring":
            return isinstance(stored, str) and str(wanted.values[0]) in stored
        case operator:
            return _ordered(stored, operator, wanted.values[0])


def _same(stored: Any, wanted: Operand) -> bool:
    if wanted is None or isinstance(wanted, bool):
        return stored is wanted
    if isinstance(wanted, Instant):
        return microseconds_of(stored) == wanted.microseconds
    if isinstance(wanted, str):
        return isinstance(stored, str) and stored == wanted
    return _is_number(stored) and number(stored) == wanted


def _ordered(stored: Any, operator: str, wanted: Any) -> bool:
    holds = _ORDERS[operator]
    if isinstance(wanted, Instant):
        moment = microseconds_of(stored)
        return moment is not None and bool(holds(moment, wanted.microseconds))
    if isinstance(wanted, str):
        return isinstance(stored, str) and bool(holds(stored, wanted))
    return _is_number(stored) and bool(holds(number(stored), wanted))


def _is_number(stored: object) -> bool:
    return isinstance(stored, int | float) and not isinstance(stored, bool)
