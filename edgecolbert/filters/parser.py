"""The written form of filters, for the command line: `year >= 2020 and tags contains "x"`.

    filter    = all { "or" all }
    all       = part { "and" part }
    part      = "not" part | "(" filter ")" | field test
    field     = name { "/" name }                    name = a word of letters, digits, "_", "." and "-", or a string
    test      = ( "=" | "==" | "!=" | "<" | "<=" | ">" | ">=" ) value
              | [ "not" ] "in" "(" [ value { "," value } ] ")"
              | [ "not" ] "contains" value | [ "not" ] "substring" string | "exists" | "missing"
    value     = string | number | "true" | "false" | "null" | date

Strings are in double or single quotes, with JSON's escapes. A date is written without quotes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

from edgecolbert import limits
from edgecolbert.documents import check_size
from edgecolbert.errors import InputError
from edgecolbert.filters.conditions import AllOf, AnyOf, Field, Filter, condition, path_of
from edgecolbert.filters.mapping import read_filter
from edgecolbert.filters.values import instant
from edgecolbert.tokenizer import check_text
from edgecolbert.untrusted import read_json, shown

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*')
      | (?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[Tt][0-9:.+Zz-]*)?(?![\w.:+-]))
      | (?P<number>-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![\w.:-]))
      | (?P<word>[^\W\d][\w.-]*)
      | (?P<sign><=|>=|==|!=|[=<>(),/])
    )""",
    re.VERBOSE | re.DOTALL,
)
_SIGNS = {"=": "eq", "==": "eq", "<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
_LITERALS = {"true": True, "false": False, "null": None}
_WORDS = {"and", "or", "not", "in", "contains", "substring", "exists", "missing", *_LITERALS}


class _Token(NamedTuple):
    kind: str
    text: str
    start: int


def parse_filter(text: str) -> Filter:
    """Read a filter as it is written on the command line.

    Args:
        text: The written form (docs/filters.md), or the JSON form, which begins with "{".

    Returns:
        The filter.

    Raises:
        InputError: If it cannot be read; the message names the character.

    Examples:
        >>> parse_filter('year >= 2020 and not lang in ("en", "de")').to_json()
        {'and': [{'year': {'gte': 2020}}, {'not': [{'lang': {'in': ['en', 'de']}}]}]}
    """
    check_text(text, "filter")
    check_size(text, limits.FILTER_BYTES, "filter", "FILTER_BYTES")
    if text.lstrip().startswith("{"):
        try:
            found = read_json(text)
        except ValueError as error:
            raise InputError(f"filter begins with {{ and is not JSON: {error}.") from None
        return read_filter(found)
    return read_filter(_Parser(text).whole())


def parse_field(text: str) -> tuple[str, ...]:
    """Read a field as it is written in filters.

    Args:
        text: A name; names with "/" between them; in quotes where they have other characters.

    Returns:
        Names from the outside in.

    Raises:
        InputError: If it cannot be read.
    """
    check_text(text, "field")
    check_size(text, limits.FILTER_BYTES, "field", "FILTER_BYTES")
    return _Parser(text).field()


class _Parser:
    """Recursive descent over the tokens of one filter."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._split())
        self._place = 0

    def whole(self) -> Filter:
        found = self._any_of(limits.FILTER_DEPTH)
        if self._next.kind != "end":
            self._fail('"and", "or" or the end')
        return found

    def field(self) -> tuple[str, ...]:
        found = self._path()
        if self._next.kind != "end":
            self._fail('"/" or the end of the field')
        return found

    def _split(self) -> Iterator[_Token]:
        place = 0
        end = len(self._text.rstrip())
        while place < end:
            found = _TOKEN.match(self._text, place)
            if found is None:
                start = next(n for n in range(place, end) if not self._text[n].isspace())
                rest = self._text[start : start + 20]
                hint = "a quotation mark that is not closed" if rest[0] in "\"'" else "no part of a filter"
                raise InputError(f"filter: {shown(rest)} at character {start + 1} is {hint}.")
            kind = str(found.lastgroup)
            yield _Token(kind, found[kind], found.start(kind))
            place = found.end()
        yield _Token("end", "", len(self._text))

    @property
    def _next(self) -> _Token:
        return self._tokens[self._place]

    def _take(self) -> _Token:
        token = self._next
        self._place += 1
        return token

    def _keyword(self, *words: str) -> str | None:
        """The word, if one of these comes next."""
        token = self._next
        if token.kind == "word" and token.text.lower() in words:
            return self._take().text.lower()
        return None

    def _sign(self, *signs: str) -> str | None:
        return self._take().text if self._next.kind == "sign" and self._next.text in signs else None

    def _fail(self, expected: str) -> NoReturn:
        token = self._next
        found = "the end" if token.kind == "end" else shown(token.text)
        raise InputError(f"filter: found {found} at character {token.start + 1}, expected {expected}.")

    def _any_of(self, depth: int) -> Filter:
        parts = [self._all_of(depth)]
        while self._keyword("or"):
            parts.append(self._all_of(depth))
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _all_of(self, depth: int) -> Filter:
        parts = [self._part(depth)]
        while self._keyword("and"):
            parts.append(self._part(depth))
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _part(self, depth: int) -> Filter:
        if depth == 0:
            raise InputError(
                f"filter is nested too deeply at character {self._next.start + 1}, expected at most "
                f"{limits.FILTER_DEPTH} levels (edgecolbert.limits.FILTER_DEPTH)."
            )
        if self._keyword("not"):
            return ~self._part(depth - 1)
        if self._sign("("):
            found = self._any_of(depth - 1)
            if not self._sign(")"):
                self._fail('"and", "or" or ")"')
            return found
        return self._test(self._path())

    def _path(self) -> tuple[str, ...]:
        path = [self._name()]
        while self._sign("/"):
            path.append(self._name())
        return path_of(path)

    def _name(self) -> str:
        token = self._next
        if token.kind == "string":
            return self._string()
        if token.kind != "word" or token.text.lower() in _WORDS:
            self._fail("a field name (in quotes if it has other characters than letters, digits, _, . and -)")
        return self._take().text

    def _test(self, path: tuple[str, ...]) -> Filter:
        if sign := self._sign(*_SIGNS):
            return condition(path, _SIGNS[sign], self._value())
        if self._sign("!="):
            return ~condition(path, "eq", self._value())
        if word := self._keyword("exists", "missing"):
            return Field(path).exists() if word == "exists" else Field(path).missing()
        negated = self._keyword("not") is not None
        word = self._keyword("in", "contains", "substring")
        if word is None:
            self._fail("=, !=, <, <=, >, >=, in, contains, substring, exists or missing")
        found = condition(path, word, self._values() if word == "in" else self._value())
        return ~found if negated else found

    def _values(self) -> list[Any]:
        if not self._sign("("):
            self._fail('"(" and values, as in ("en", "de")')
        values: list[Any] = []
        while not self._sign(")"):
            if values and not self._sign(","):
                self._fail('"," or ")"')
            values.append(self._value())
        return values

    def _value(self) -> Any:
        token = self._next
        if token.kind == "string":
            return self._string()
        if token.kind == "number":
            return self._number()
        if token.kind == "date":
            return instant(self._take().text, f"filter: what is at character {token.start + 1}")
        if token.kind == "word" and token.text.lower() in _LITERALS:
            return _LITERALS[self._take().text.lower()]
        return self._fail("a value: a string in quotes, a number, true, false, null, or a date such as 2024-05-31")

    def _number(self) -> int | float:
        try:
            found = json.loads(self._next.text)
        except ValueError:
            # "007", or thousands of digits.
            self._fail("a number as JSON has it")
        self._take()
        return found  # type: ignore[no-any-return]

    def _string(self) -> str:
        token = self._next
        inner = token.text[1:-1]
        if token.text[0] == "'":
            inner = re.sub(r'\\.|"', lambda found: {"\\'": "'", '"': '\\"'}.get(found[0], found[0]), inner)
        try:
            # Line ends and tabs as they are, too: the shell passes them on.
            found = json.loads(f'"{inner}"', strict=False)
        except ValueError:
            raise InputError(f"filter: the string at character {token.start + 1} has a wrong escape.") from None
        self._take()
        return check_text(found, f"filter: the string at character {token.start + 1}")
