"""Metadata and filters as hypothesis makes them up, with what is hard: NULs, dots, numbers beyond 64 bits."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from edgecolbert import Filter, field

NAMES = st.sampled_from(["a", "b", "a.b", 'é"[', "a\0", "and"])
_DATES = ["2024-05-01", "2024-05-01T00:00:00+02:00", "2024-04-30T22:00Z", "2024-05-01 12:00:00.5", "2024-13-01"]
_SPECIAL: list[Any] = [0, 1, 4, 4.0, -0.5, 2**53 + 1, float(2**53), 2**63 - 1, "", "x", "xy", "a\0", "\0", "É", *_DATES]
SCALARS = st.one_of(st.none(), st.booleans(), st.sampled_from(_SPECIAL), st.integers(-3, 3), st.text(max_size=3))
_STORED = SCALARS | st.sampled_from([2**70, -(10**400), 2**63])
VALUES = st.recursive(
    _STORED,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=4,
)
METADATA = st.dictionaries(NAMES, VALUES, max_size=4)

_ZONES = st.sampled_from([None, UTC, timezone(timedelta(hours=2)), timezone(timedelta(hours=-5, minutes=-30))])
_MOMENTS = st.one_of(
    st.just(date(2024, 5, 1)),
    st.datetimes(min_value=datetime(2024, 4, 30), max_value=datetime(2024, 5, 2), timezones=_ZONES),
)
_ORDERED = _MOMENTS | SCALARS.filter(lambda value: value is not None and not isinstance(value, bool))
_WANTED = SCALARS | _MOMENTS
PATHS = st.lists(NAMES, min_size=1, max_size=2)


@st.composite
def conditions(draw: st.DrawFn) -> Filter:
    """One condition, in the Python form."""
    compared = field(*draw(PATHS))
    match draw(st.integers(0, 10)):
        case 0:
            return compared == draw(_WANTED)
        case 1:
            return compared != draw(_WANTED)
        case 2:
            return compared < draw(_ORDERED)
        case 3:
            return compared <= draw(_ORDERED)
        case 4:
            return compared > draw(_ORDERED)
        case 5:
            return compared >= draw(_ORDERED)
        case 6:
            return compared.is_in(draw(st.lists(_WANTED, max_size=4)))
        case 7:
            return compared.not_in(draw(st.lists(_WANTED, max_size=4)))
        case 8:
            return compared.contains(draw(_WANTED))
        case 9:
            return compared.substring(draw(st.sampled_from(["", "x", "y", "\0", "É", "2024"])))
        case _:
            return compared.exists() if draw(st.booleans()) else compared.missing()


FILTERS = st.recursive(
    conditions(),
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a: ~a, inner),
    ),
    max_leaves=5,
)
