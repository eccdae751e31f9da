"""A filter as SQL, with every name and value bound, never spliced in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from edgecolbert.filters.conditions import AllOf, AnyOf, Condition, Filter, Not
from edgecolbert.filters.mapping import read_filter
from edgecolbert.filters.values import ANY, BOOLEAN, ELEMENT, INSTANT, NULL, NUMBER, TEXT, Instant, kinds_of
from edgecolbert.instants import INSTANT_FUNCTION

# Older versions of SQLite cut a JSON string at a NUL, so documents with one are compared in Python.
HAS_NUL = r"instr(documents.metadata, '\u0000')"

_COMPARISONS = {"eq": "=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
# What a value of each kind is in a row of json_each.
_TYPES = {
    ANY: "1",
    NULL: "{row}.type = 'null'",
    BOOLEAN: "{row}.type IN ('true', 'false') AND {row}.value",
    NUMBER: "{row}.type IN ('integer', 'real') AND {row}.value",
    TEXT: "{row}.type = 'text' AND {row}.value",
    INSTANT: f"{{row}}.type = 'text' AND {INSTANT_FUNCTION}({{row}}.value)",
}


class Selection(NamedTuple):
    """A condition on the table `documents`.

    Attributes:
        sql: An expression.
        parameters: Its parameters.
        whole: Whether it holds for documents with a NUL in their metadata, too, because it reads only indexed fields.
    """

    sql: str
    parameters: list[Any]
    whole: bool


class _Test(NamedTuple):
    """A comparison with values of one kind: `comparison` continues what is compared."""

    kind: int
    comparison: str
    values: list[Any]


def filter_sql(
    conditions: Mapping[str, Any] | Filter, indexed: Mapping[tuple[str, ...], int] | None = None
) -> Selection:
    """A condition on the table `documents` that holds where a filter does.

    Args:
        conditions: A filter, or a mapping.
        indexed: The numbers of indexed fields.

    Returns:
        An SQL expression and its parameters.

    Raises:
        InputTypeError: If this is no filter, or a part of it has the wrong type.
        InputError: If a part of it cannot be, or there is more of anything than `edgecolbert.limits` allows.
    """
    found = read_filter(conditions)
    parameters: list[Any] = []
    sql = _expression(found, indexed or {}, parameters)
    return Selection(sql, parameters, all(part.path in (indexed or {}) for part, _ in found.conditions()))


def rows_of_field(path: tuple[str, ...]) -> tuple[str, list[Any]]:
    """Rows of json_each, called `field`, one for each document that has a field.

    Args:
        path: Keys from the outside in.

    Returns:
        What follows FROM (after the table `documents`), and its parameters; the row's `key` is still to be compared
        with the last name.
    """
    # json_each takes field names as data, so dots, quotes and brackets in them mean nothing.
    rows = ["json_each(documents.metadata) AS " + ("field" if len(path) == 1 else "field0")]
    for place in range(1, len(path)):
        name = "field" if place == len(path) - 1 else f"field{place}"
        rows.append(f"json_each({_inside(f'field{place - 1}', 'object', '{}')}) AS {name}")
    return ", ".join(rows), list(path[:-1])


def _inside(row: str, kind: str, empty: str) -> str:
    """The value of a row whose key is to be bound, where it is an object or array; SQLite would fail on others."""
    return f"CASE WHEN {row}.key = ? AND {row}.type = '{kind}' THEN {row}.value ELSE '{empty}' END"


def _expression(part: Filter, indexed: Mapping[tuple[str, ...], int], parameters: list[Any]) -> str:
    if isinstance(part, Condition):
        return _condition(part, indexed, parameters)
    if isinstance(part, Not):
        return f"NOT ({_expression(part.part, indexed, parameters)})"
    if not isinstance(part, AllOf | AnyOf):
        raise TypeError(f"{type(part).__name__} is no part of a filter")
    inner = [f"({_expression(each, indexed, parameters)})" for each in part.parts]
    return (" AND ".join(inner) or "1") if isinstance(part, AllOf) else (" OR ".join(inner) or "0")


def _condition(wanted: Condition, indexed: Mapping[tuple[str, ...], int], parameters: list[Any]) -> str:
    tests = _tests(wanted)
    field_id = indexed.get(wanted.path)
    if field_id is not None:
        shift = ELEMENT if wanted.operator == "contains" else 0
        parts = []
        for kind, comparison, values in tests:
            value = comparison and f" AND {comparison.format(row='value')}"
            parts.append(f"SELECT document_id FROM field_entries WHERE field_id = ? AND kind = {kind + shift}{value}")
            parameters += [field_id, *values]
        return f"documents.document_id IN ({' UNION ALL '.join(parts)})" if parts else "0"
    rows, bound = rows_of_field(wanted.path)
    parameters += [*bound, wanted.path[-1]]
    row, key = "field", "field.key = ? AND "
    if wanted.operator == "contains":
        rows += f", json_each({_inside('field', 'array', '[]')}) AS element"
        row, key = "element", ""
    alternatives = []
    for kind, comparison, values in tests:
        typed = _TYPES[kind].format(row=row)
        if comparison:
            # The type comes first, and its last part is the value to compare.
            kind_of_row, _, value = typed.rpartition(" AND ")
            typed = f"{kind_of_row} AND {comparison.format(row=value)}"
        alternatives.append(f"({typed})")
        parameters += values
    return f"EXISTS (SELECT 1 FROM {rows} WHERE {key}({' OR '.join(alternatives) or '0'}))"


def _tests(wanted: Condition) -> list[_Test]:
    """The comparisons of which one must hold."""
    if wanted.operator == "exists":
        return [_Test(ANY, "", [])]
    by_kind: dict[int, list[Any]] = {}
    for value in wanted.values:
        if isinstance(value, Instant):
            by_kind.setdefault(INSTANT, []).append(value.microseconds)
        else:
            # A text that is a date is compared as a text here: moments are told apart when a condition is made.
            kind, entry = kinds_of(value)[0]
            by_kind.setdefault(kind, []).append(entry)
    if wanted.operator == "substring":
        return [_Test(TEXT, "instr({row}, ?) > 0", by_kind[TEXT])]
    if wanted.operator in ("eq", "in", "contains"):
        return [
            _Test(kind, "", []) if kind == NULL else _Test(kind, f"{{row}} IN ({', '.join('?' * len(values))})", values)
            for kind, values in by_kind.items()
        ]
    ((kind, values),) = by_kind.items()
    return [_Test(kind, f"{{row}} {_COMPARISONS[wanted.operator]} ?", values)]
