"""Filters as mappings, which JSON can hold: `{"year": {"gte": 2020}, "lang": {"in": ["en", "de"]}}`.

A field's test is a value or an object of operators, never a list. So a list tells `and`, `or`, `not` and `field` from
fields that are called so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgecolbert import limits
from edgecolbert.errors import InputError, InputTypeError
from edgecolbert.filters.conditions import RANGES, AllOf, AnyOf, Filter, condition, path_of, shown_path
from edgecolbert.filters.values import Instant
from edgecolbert.untrusted import shown

_OPERATORS = ("eq", "ne", *RANGES, "in", "not_in", "contains", "substring", "exists")
_NEGATED = {"ne": "eq", "not_in": "in"}


def read_filter(conditions: object) -> Filter:
    """Check a filter.

    Args:
        conditions: A `Filter`, or a mapping (docs/filters.md).

    Returns:
        The filter.

    Raises:
        InputTypeError: If it is something else, or a part of it has the wrong type.
        InputError: If a part of it cannot be, or there is more of anything than `edgecolbert.limits` allows.
    """
    return _within_limits(_read(conditions, limits.FILTER_DEPTH))


def _read(conditions: object, depth: int) -> Filter:
    if isinstance(conditions, Filter):
        return conditions
    if not isinstance(conditions, Mapping):
        raise InputTypeError(
            f"filter is {type(conditions).__name__}, expected a mapping of field names to values, or a Filter."
        )
    if depth == 0:
        raise _too_deep()
    _check_count(len(conditions))
    if isinstance(conditions.get("field"), list | tuple):
        return _of_path(conditions)
    parts: list[Filter] = []
    for name, value in conditions.items():
        if name in ("and", "or", "not") and isinstance(value, list | tuple):
            parts.append(_combined(str(name), value, depth))
        else:
            parts += _tests(path_of(name), value)
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


def _of_path(conditions: Mapping[Any, Any]) -> Filter:
    """{"field": ["meta", "lang"], "eq": "en"}."""
    tests = {name: value for name, value in conditions.items() if name != "field"}
    parts = _tests(path_of(conditions["field"]), tests)
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


def _combined(name: str, values: list[Any] | tuple[Any, ...], depth: int) -> Filter:
    _check_count(len(values))
    parts = tuple(_read(value, depth - 1) for value in values)
    if name == "not":
        if len(parts) != 1:
            raise InputError(f'filter: "not" has {len(parts)} filters in its list, expected one.')
        return ~parts[0]
    return AllOf(parts) if name == "and" else AnyOf(parts)


def _tests(path: tuple[str, ...], value: object) -> list[Filter]:
    if not isinstance(value, Mapping):
        if isinstance(value, list | tuple) and not isinstance(value, Instant):
            raise InputTypeError(
                f"filter: {shown_path(path)} is {type(value).__name__}, expected a string, a number, a boolean or None "
                'to compare with. Write {"in": [...]} for one of several values, {"contains": ...} for an element.'
            )
        return [condition(path, "eq", value)]
    if list(value) == ["date"]:
        return [condition(path, "eq", dict(value))]
    unknown = [name for name in value if name not in _OPERATORS]
    if unknown or not value:
        raise InputError(
            f"filter: {shown_path(path)} is {shown(dict(value))}, expected a value or an object of these operators: "
            f'{", ".join(_OPERATORS)}. A field inside of an object is written {{"field": ["outer", "inner"], ...}}.'
        )
    return [_test(path, name, entry) for name, entry in value.items()]


def _test(path: tuple[str, ...], operator: str, value: object) -> Filter:
    if operator == "exists":
        if not isinstance(value, bool):
            raise InputTypeError(f'filter: {shown_path(path)}: "exists" has {shown(value)}, expected true or false.')
        found = condition(path, "exists", True)
        return found if value else ~found
    if operator in _NEGATED:
        return ~condition(path, _NEGATED[operator], value)
    return condition(path, operator, value)


def _within_limits(found: Filter) -> Filter:
    conditions = found.conditions()
    _check_count(len(conditions))
    n_values = sum(len(part.values) for part, _ in conditions)
    if n_values > limits.FILTER_VALUES:
        raise InputError(
            f"filter has {n_values} values, expected at most {limits.FILTER_VALUES} (edgecolbert.limits.FILTER_VALUES)."
        )
    if max((depth for _, depth in conditions), default=0) > limits.FILTER_DEPTH:
        raise _too_deep()
    return found


def _check_count(count: int) -> None:
    if count > limits.FILTER_CONDITIONS:
        raise InputError(
            f"filter has {count} conditions, expected at most {limits.FILTER_CONDITIONS} "
            "(edgecolbert.limits.FILTER_CONDITIONS)."
        )


def _too_deep() -> InputError:
    return InputError(
        f"filter is nested too deeply, expected at most {limits.FILTER_DEPTH} levels (edgecolbert.limits.FILTER_DEPTH)."
    )
