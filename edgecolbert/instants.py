"""Dates and times in ISO 8601 as moments that can be compared; SQLite is given this reader, too (`connection`)."""

from __future__ import annotations

import re
from datetime import date

# SQLite's own functions of dates round to milliseconds.
INSTANT_FUNCTION = "edgecolbert_instant"

# One pattern for every version of Python, whose own readers of ISO 8601 differ in what they take.
_INSTANT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,12}))?)?(?:[Zz]|([+-])(\d\d)(?::?(\d\d))?)?)?",
    re.ASCII,
)
_SECOND = 1_000_000
_DAY = 86_400 * _SECOND


def microseconds_of(text: object) -> int | None:
    """The moment that a text in ISO 8601 names.

    Args:
        text: `YYYY-MM-DD`, or that with a time of day: `T` or a space, hours and minutes, and optionally seconds, a
            fraction (cut at microseconds), and `Z` or an offset. Without an offset it is UTC; a date alone is the
            beginning of its day.

    Returns:
        Microseconds since the beginning of the year 1 in UTC; None for everything else.
    """
    found = _INSTANT.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, zone_hour, zone_minute = found.groups()
    try:
        days = date(int(year), int(month), int(day)).toordinal() - 1
    except ValueError:
        return None
    hours, minutes, seconds = int(hour or 0), int(minute or 0), int(second or 0)
    zone = int(zone_hour or 0), int(zone_minute or 0)
    if hours > 23 or minutes > 59 or seconds > 59 or zone[0] > 23 or zone[1] > 59:
        return None
    offset = zone[0] * 60 + zone[1]
    minutes += hours * 60 + (offset if sign == "-" else -offset)
    return days * _DAY + (minutes * 60 + seconds) * _SECOND + int((fraction or "0")[:6].ljust(6, "0"))
