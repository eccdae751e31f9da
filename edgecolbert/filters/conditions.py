"""Conditions on metadata, and the Python form: `(field("year") >= 2020) & field("tags").contains("x")`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, NoReturn

from edgecolbert import limits
from edgecolbert.documents import check_size
from edgecolbert.errors import InputError, InputTypeError
from edgecolbert.filters.values import Instant, Operand, instant, operand
from edgecolbert.instants import microseconds_of
from edgecolbert.tokenizer import check_text
from edgecolbert.untrusted import shown

RANGES = ("lt", "lte", "gt", "gte")


class Filter:
    """A condition that metadata fulfils or not. Made with `field`, combined with `&`, `|` and `~`."""

    def __and__(self, other: object) -> Filter:
        """Both hold."""
        return AllOf((*_parts(self, AllOf), *_parts(_checked(other), AllOf)))

    def __or__(self, other: object) -> Filter:
        """At least one holds."""
        return AnyOf((*_parts(self, AnyOf), *_parts(_checked(other), AnyOf)))

    def __invert__(self) -> Filter:
        """It does not hold: exactly the other documents, those without the field included."""
        return self.part if isinstance(self, Not) else Not(self)

    def __bool__(self) -> NoReturn:
        """Refused: `and`, `or`, `not` and chained comparisons of Python would drop a part of the filter."""
        raise InputTypeError(
            "A filter is neither true nor false. Combine filters with &, | and ~, each comparison in parentheses, "
            'instead of and, or, not; and write field("year").between(2020, 2024) instead of a chained comparison.'
        )

    def to_json(self) -> dict[str, Any]:
        """The filter as JSON can hold it; `Index.search` takes that as well."""
        raise NotImplementedError

    def conditions(self) -> list[tuple[Condition, int]]:
        """Its conditions, each with how deeply it is nested."""
        found: list[tuple[Condition, int]] = []
        # Without recursion: nothing has limited the depth yet.
        waiting: list[tuple[Filter, int]] = [(self, 1)]
        while waiting:
            part, depth = waiting.pop()
            if isinstance(part, Condition):
                found.append((part, depth))
            elif isinstance(part, Not):
                waiting.append((part.part, depth + 1))
            elif isinstance(part, AllOf | AnyOf):
                waiting += [(inner, depth + 1) for inner in part.parts]
        return found


@dataclass(frozen=True)
class Condition(Filter):
    """One comparison of one field.

    Attributes:
        path: Keys from the outside in.
        operator: "eq", "in", "contains", "substring", "exists", or one of `RANGES`.
        values: What to compare with: several for "in", none for "exists", otherwise one.
    """

    path: tuple[str, ...]
    operator: str
    values: tuple[Operand, ...]

    def to_json(self) -> dict[str, Any]:
        """The condition as JSON can hold it."""
        values = [{"date": value.text} if isinstance(value, Instant) else value for value in self.values]
        test = {"in": values, "exists": True}.get(self.operator, values[0] if values else None)
        if len(self.path) == 1:
            return {self.path[0]: {self.operator: test}}
        return {"field": list(self.path), self.operator: test}


@dataclass(frozen=True)
class AllOf(Filter):
    """Every part holds; true without parts."""

    parts: tuple[Filter, ...]

    def to_json(self) -> dict[str, Any]:
        """As {"and": [...]}."""
        return {"and": [part.to_json() for part in self.parts]}


@dataclass(frozen=True)
class AnyOf(Filter):
    """At least one part holds; false without parts."""

    parts: tuple[Filter, ...]

    def to_json(self) -> dict[str, Any]:
        """As {"or": [...]}."""
        return {"or": [part.to_json() for part in self.parts]}


@dataclass(frozen=True)
class Not(Filter):
    """The part does not hold."""

    part: Filter

    def to_json(self) -> dict[str, Any]:
        """As {"not": [...]}, a list of one, which no field's condition can be."""
        return {"not": [self.part.to_json()]}


class Field:
    """A field of the metadata, to compare. Made by `field`.

    Args:
        path: Keys from the outside in.
    """

    def __init__(self, path: tuple[str, ...]) -> None:
        self.path = path

    # Not equality of objects, so a field cannot be a key of a dictionary either.
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, value: object) -> Filter:  # type: ignore[override]
        """The field has this value."""
        return condition(self.path, "eq", value)

    def __ne__(self, value: object) -> Filter:  # type: ignore[override]
        """The field does not have this value, or is missing."""
        return ~condition(self.path, "eq", value)

    def __lt__(self, value: object) -> Filter:
        """The field is less, or earlier."""
        return condition(self.path, "lt", value)

    def __le__(self, value: object) -> Filter:
        """The field is at most this."""
        return condition(self.path, "lte", value)

    def __gt__(self, value: object) -> Filter:
        """The field is more, or later."""
        return condition(self.path, "gt", value)

    def __ge__(self, value: object) -> Filter:
        """The field is at least this."""
        return condition(self.path, "gte", value)

    def between(self, low: object, high: object) -> Filter:
        """The field is at least `low` and at most `high`; None leaves an end open.

        Args:
            low: The least value, or None.
            high: The greatest value, or None.

        Returns:
            The filter.

        Raises:
            InputError: If both are None.
        """
        ends = [("gte", low), ("lte", high)]
        parts = tuple(condition(self.path, name, value) for name, value in ends if value is not None)
        if not parts:
            raise InputError("between has two open ends, expected at least one value. Write exists() for any value.")
        return parts[0] if len(parts) == 1 else AllOf(parts)

    def is_in(self, values: Iterable[object]) -> Filter:
        """The field has one of these values."""
        return condition(self.path, "in", values)

    def not_in(self, values: Iterable[object]) -> Filter:
        """The field has none of these values, or is missing."""
        return ~condition(self.path, "in", values)

    def contains(self, value: object) -> Filter:
        """The field is an array, and this value one of its elements."""
        return condition(self.path, "contains", value)

    def substring(self, text: str) -> Filter:
        """The field is a string, and this text a part of it, in the same case."""
        return condition(self.path, "substring", text)

    def exists(self) -> Filter:
        """The field is there, if only as null."""
        return condition(self.path, "exists", True)

    def missing(self) -> Filter:
        """The field is not there."""
        return ~condition(self.path, "exists", True)


def field(name: str, *inner: str) -> Field:
    """A field of the metadata, to compare: `field("year") >= 2020`.

    Args:
        name: Its name, whatever characters it has; a dot means nothing.
        *inner: Names inside of the object that it is, from the outside in: `field("meta", "lang")`.

    Returns:
        What comparisons and methods make filters of.

    Examples:
        >>> ((field("year") >= 2020) & ~field("tags").contains("draft")).to_json()
        {'and': [{'year': {'gte': 2020}}, {'not': [{'tags': {'contains': 'draft'}}]}]}
    """
    return Field(path_of((name, *inner)))


def path_of(names: object) -> tuple[str, ...]:
    """Check a field's name, or the names on the way to it.

    Args:
        names: One name, or a list or tuple of names from the outside in.

    Returns:
        The names.

    Raises:
        InputTypeError: If one is not a string.
        InputError: If one is no valid Unicode or too long, or there are none or too many.
    """
    path = tuple(names) if isinstance(names, list | tuple) else (names,)
    for name in path:
        if not isinstance(name, str):
            raise InputTypeError(f"filter has the field name {shown(name)}, expected a string.")
        check_text(name, "filter: a field name")
        check_size(name, limits.FILTER_BYTES, "filter: a field name", "FILTER_BYTES")
    if not 1 <= len(path) <= limits.FILTER_DEPTH:
        raise InputError(
            f"filter has a field of {len(path)} names, expected 1 to {limits.FILTER_DEPTH} "
            "(edgecolbert.limits.FILTER_DEPTH)."
        )
    return path


def condition(path: tuple[str, ...], operator: str, value: object) -> Condition:
    """Check one comparison.

    Args:
        path: As `path_of` gave it.
        operator: As in `Condition`.
        value: What to compare with; an iterable for "in", nothing that matters for "exists".

    Returns:
        The condition.

    Raises:
        InputTypeError: If the value has a type that the operator cannot compare with.
        InputError: If metadata cannot hold it, or it is larger than `edgecolbert.limits` allows.
    """
    where = f"filter: {shown_path(path)}"
    if operator == "exists":
        return Condition(path, operator, ())
    if operator == "in":
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise InputTypeError(f'{where}: "in" has {type(value).__name__}, expected a list of values.')
        # One more than allowed is enough to be refused by.
        entries = islice(value, limits.FILTER_VALUES + 1)
        return Condition(path, operator, tuple(operand(entry, where) for entry in entries))
    if operator in RANGES:
        if isinstance(value, str) and microseconds_of(value) is not None:
            # As text, the same moment in two time zones would be two.
            value = instant(value, where)
        checked = operand(value, where)
        if checked is None or isinstance(checked, bool):
            raise InputTypeError(
                f'{where}: "{operator}" has {shown(value)}, expected a number, a string or a date. Leave out a bound '
                "that is not wanted."
            )
        return Condition(path, operator, (checked,))
    if operator == "substring" and not isinstance(value, str):
        raise InputTypeError(f'{where}: "substring" has {type(value).__name__}, expected a string.')
    return Condition(path, operator, (operand(value, where),))


def shown_path(path: tuple[str, ...]) -> str:
    """A field for a message, cut where it is long."""
    return "/".join(name if name.isprintable() and len(name) <= 50 else shown(name) for name in path)


def _checked(other: object) -> Filter:
    if isinstance(other, Filter):
        return other
    from edgecolbert.filters.mapping import read_filter  # it needs the classes of this module

    return read_filter(other)


def _parts(part: Filter, kind: type[AllOf] | type[AnyOf]) -> tuple[Filter, ...]:
    """So that a chain of one operator is one level deep, however long."""
    return part.parts if isinstance(part, kind) else (part,)
