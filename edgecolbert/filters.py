"""Filters over metadata, as SQL with every name and value bound, never spliced in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgecolbert import limits
from edgecolbert.documents import check_size
from edgecolbert.errors import InputError, InputTypeError
from edgecolbert.tokenizer import check_text
from edgecolbert.untrusted import shown

# json_each takes field names as data, so dots, quotes and brackets in them mean nothing.
_FIELD = "EXISTS (SELECT 1 FROM json_each(documents.metadata) AS field WHERE field.key = ? AND {condition})"

# Older versions of SQLite cut a JSON string at a NUL, so documents with one are compared in Python.
HAS_NUL = r"instr(documents.metadata, '\u0000')"


def filter_sql(conditions: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """A condition on the table `documents` that holds where every named field has the given value.

    Numbers are equal by value (4 and 4.0), booleans are not numbers, and None matches a field that is null.

    Args:
        conditions: Field names and the values they must have.

    Returns:
        An SQL expression and its parameters.

    Raises:
        InputTypeError: If this is not a mapping from strings to strings, numbers, booleans or None.
        InputError: If a number is NaN, infinite or beyond 64 bits, or there is more than `edgecolbert.limits` allows.
    """
    if not isinstance(conditions, Mapping):
        raise InputTypeError(f"filter is {type(conditions).__name__}, expected a mapping of field names to values.")
    if len(conditions) > limits.FILTER_CONDITIONS:
        raise InputError(
            f"filter has {len(conditions)} conditions, expected at most {limits.FILTER_CONDITIONS} "
            "(edgecolbert.limits.FILTER_CONDITIONS)."
        )
    parts: list[str] = []
    parameters: list[Any] = []
    for name, value in conditions.items():
        if not isinstance(name, str):
            raise InputTypeError(f"filter has the field name {shown(name)}, expected a string.")
        check_text(name, "filter: a field name")
        check_size(name, limits.FILTER_BYTES, "filter: a field name", "FILTER_BYTES")
        condition, values = _equals(name, value)
        parts.append(_FIELD.format(condition=condition))
        parameters += [name, *values]
    return " AND ".join(parts) or "1", parameters


def matches(metadata: Mapping[str, Any], conditions: Mapping[str, Any]) -> bool:
    """Whether metadata fulfils conditions that `filter_sql` has accepted, compared as it says.

    Args:
        metadata: A document's metadata.
        conditions: Field names and the values they must have.

    Returns:
        Whether all conditions hold.

    Examples:
        >>> matches({"n": 4}, {"n": 4.0}), matches({"n": 1}, {"n": True})
        (True, False)
    """
    return all(name in metadata and _same(metadata[name], value) for name, value in conditions.items())


def _same(stored: object, wanted: object) -> bool:
    if wanted is None or isinstance(wanted, bool):
        return stored is wanted
    if isinstance(wanted, str):
        return isinstance(stored, str) and stored == wanted
    return isinstance(stored, int | float) and not isinstance(stored, bool) and stored == wanted


def _field(name: str) -> str:
    return name if name.isprintable() and len(name) <= 50 else shown(name)


def _equals(name: str, value: object) -> tuple[str, list[Any]]:
    if value is None:
        return "field.type = 'null'", []
    if isinstance(value, bool):
        return f"field.type = '{'true' if value else 'false'}'", []
    if isinstance(value, str):
        check_text(value, f"filter: {_field(name)}")
        check_size(value, limits.FILTER_BYTES, f"filter: {_field(name)}", "FILTER_BYTES")
        return "field.type = 'text' AND field.value = ?", [value]
    if isinstance(value, int | float):
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InputError(f"filter: {_field(name)} is {shown(value)}, which does not fit 64 bits.")
        if not math.isfinite(value):
            raise InputError(f"filter: {_field(name)} is {value}, and metadata cannot hold that.")
        return "field.type IN ('integer', 'real') AND field.value = ?", [value]
    raise InputTypeError(
        f"filter: {_field(name)} is {type(value).__name__}, expected a string, a number, a boolean or None to compare "
        "with."
    )
