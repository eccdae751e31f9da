"""Facets and counts: exact over all documents and over those that a filter selects."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metadata_strategies import FILTERS, METADATA, PATHS
from word_encoder import WordEncoder

from edgecolbert import FacetValue, Filter, Index, InputError, field
from edgecolbert.errors import InputTypeError, StoreFormatError
from edgecolbert.filters import matches

METADATA_OF_SIX: list[dict[str, Any]] = [
    {"lang": "en", "year": 2020, "tags": ["a", "b", "a"]},
    {"lang": "en", "year": 2020.0, "tags": ["a"]},
    {"lang": "de", "year": True, "tags": []},
    {"lang": None, "year": "2020", "tags": {"a": 1}},
    {"lang": "a\0b", "year": 1, "tags": "a"},
    {"meta": {"lang": "fr"}},
]


@pytest.fixture(params=["plain", "indexed"])
def index(request: pytest.FixtureRequest) -> Any:
    with Index.open(":memory:", model=WordEncoder()) as opened:
        if request.param == "indexed":
            for name in ("lang", "year", "tags", ("meta", "lang")):
                opened.index_field(name)
        opened.add([{"id": str(n), "text": "red", "metadata": entry} for n, entry in enumerate(METADATA_OF_SIX)])
        yield opened


def _counts(index: Index, *arguments: Any, **options: Any) -> list[tuple[Any, int]]:
    return [(entry.value, entry.count) for entry in index.facets(*arguments, **options).values]


def test_values_are_counted_most_frequent_first(index: Index) -> None:
    assert _counts(index, "lang") == [("en", 2), (None, 1), ("a\0b", 1), ("de", 1)]
    assert repr(_counts(index, "year")) == "[(2020, 2), (True, 1), (1, 1), ('2020', 1)]"
    assert _counts(index, ("meta", "lang")) == [("fr", 1)]
    assert _counts(index, "nowhere") == []
    found = index.facets("lang", k=1)
    assert found.values == (FacetValue("en", 2),)
    assert (found.field, found.documents, found.with_field, found.n_values) == (("lang",), 6, 5, 4)


def test_elements_of_an_array_count_once_for_each_document(index: Index) -> None:
    assert _counts(index, "tags") == [("a", 3), ("b", 1)]
    assert index.facets("tags").with_field == 5


def test_a_filter_says_which_documents_are_counted(index: Index) -> None:
    assert _counts(index, "lang", filter=field("tags").contains("a")) == [("en", 2)]
    assert _counts(index, "tags", filter={"lang": {"in": ["en", "a\0b"]}}) == [("a", 3), ("b", 1)]
    assert _counts(index, "lang", filter=field("meta", "lang") == "fr") == []
    assert index.facets("lang", filter={"year": 2020}).documents == 2
    assert index.count(filter={"year": 2020}) == 2
    assert index.count() == 6


def test_wrong_arguments_are_named(index: Index) -> None:
    with pytest.raises(InputTypeError, match="filter has the field name 3"):
        index.facets(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="k is 0, expected at least 1"):
        index.facets("lang", k=0)
    with pytest.raises(InputError, match="filter is int"):
        index.facets("lang", filter=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="filter is int"):
        index.count(filter=3)  # type: ignore[arg-type]


def _expected(held: list[dict[str, Any]], path: list[str]) -> tuple[Counter[tuple[str, Any]], int]:
    """By walking over the metadata; numbers beyond 64 bits as floats, as documented."""
    counts: Counter[tuple[str, Any]] = Counter()
    with_field = 0
    for metadata in held:
        value: Any = metadata
        for name in path:
            value = value[name] if isinstance(value, dict) and name in value else ...
        if value is ...:
            continue
        with_field += 1
        elements = value if isinstance(value, list) else [value]
        counts.update({_key(element) for element in elements if not isinstance(element, list | dict)})
    return counts, with_field


def _key(value: Any) -> tuple[str, Any]:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return type(value).__name__, value
    if abs(value) >= 2**63 and value != -(2**63):
        return "number", float("inf") * value if abs(value) > 10**308 else float(value)
    return "number", value


@settings(max_examples=60, deadline=None)
@given(st.lists(METADATA, min_size=1, max_size=6), FILTERS | st.none(), PATHS, st.lists(PATHS, max_size=2))
def test_facets_are_what_counting_by_hand_gives(
    stored: list[dict[str, Any]], wanted: Filter | None, path: list[str], indexed: list[list[str]]
) -> None:
    chosen = [entry for entry in stored if wanted is None or matches(entry, wanted)]
    counts, with_field = _expected(chosen, path)
    with Index.open(":memory:", model=WordEncoder()) as index:
        index.add([{"id": str(n), "text": "red", "metadata": entry} for n, entry in enumerate(stored)])
        for fields in ([], indexed, [path]):
            for each in fields:
                index.index_field(each)
            found = index.facets(path, filter=wanted, k=100)
            assert Counter({_key(entry.value): entry.count for entry in found.values}) == counts
            assert (found.documents, found.with_field, found.n_values) == (len(chosen), with_field, len(counts))
            ranks = [entry.count for entry in found.values]
            assert ranks == sorted(ranks, reverse=True)


def test_facets_over_damaged_records_are_an_error(path: Path) -> None:
    from raw_database import raw

    with Index.open(path, model=WordEncoder()) as index:
        index.add([{"id": "a", "text": "red", "metadata": {"n": 1}}])
    with raw(path) as connection:
        connection.execute("UPDATE documents SET metadata = '{\"n\":2}'")
    with Index.open(path, model=WordEncoder()) as index:
        for ask in (
            lambda: index.facets("n"),
            lambda: index.count(filter={"n": 1}),
            lambda: index.ids(filter={"n": 1}),
        ):
            with pytest.raises(StoreFormatError, match="the records of 'a' are damaged"):
                ask()


def test_a_filter_of_indexed_fields_counts_an_unindexed_one_once() -> None:
    """The document with a NUL in its metadata is counted apart, and only if the filter selects it."""
    with Index.open(":memory:", model=WordEncoder()) as index:
        for name in ("lang", "year"):
            index.index_field(name)
        index.add([{"id": str(n), "text": "red", "metadata": entry} for n, entry in enumerate(METADATA_OF_SIX)])
        either = (field("lang") == "en") | (field("year") == 2020)
        assert _counts(index, "tags", filter=either) == [("a", 2), ("b", 1)]
        assert _counts(index, "tags", filter=either | (field("lang") == "a\0b")) == [("a", 3), ("b", 1)]
