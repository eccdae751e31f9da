"""Filters over metadata: conditions, their Python, JSON and written forms, and their evaluation in SQL and in Python.

docs/filters.md says what each condition means. The written form is read by `filters.parser`, which few programs need.
"""

from __future__ import annotations

from edgecolbert.filters.conditions import Condition, Field, Filter, field
from edgecolbert.filters.evaluate import matches
from edgecolbert.filters.mapping import read_filter
from edgecolbert.filters.sql import HAS_NUL, Selection, filter_sql

__all__ = [
    "HAS_NUL",
    "Condition",
    "Field",
    "Filter",
    "Selection",
    "field",
    "filter_sql",
    "matches",
    "read_filter",
]
