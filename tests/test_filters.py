"""Filters over metadata: what each condition means, that SQL and Python agree, and that a search loses nothing."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metadata_strategies import FILTERS, METADATA, PATHS
from raw_database import raw
from word_encoder import WordEncoder

from edgecolbert import Filter, Index, InputError, field, limits
from edgecolbert.errors import InputTypeError, StoreFormatError, StoreReadOnlyError
from edgecolbert.filters import matches, read_filter
from edgecolbert.filters.parser import parse_filter
from edgecolbert.instants import microseconds_of


@pytest.fixture(params=["plain", "indexed"])
def holding(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Makes an index that holds some metadata as "0", "1", ..., with and without indexed fields."""
    opened: list[Index] = []

    def make(*metadata: dict[str, Any]) -> Index:
        index = Index.open(":memory:", model=WordEncoder())
        opened.append(index)
        if request.param == "indexed":
            for name in ("f", "tags", ("meta", "lang")):
                index.index_field(name)
        index.add([{"id": str(n), "text": f"red {n}", "metadata": entry} for n, entry in enumerate(metadata)])
        return index

    yield make
    for index in opened:
        assert index.verify().problems == ()
        index.close()


CASES: list[tuple[Any, Filter, bool]] = [
    (4, field("f") == 4.0, True),
    (1, field("f") == True, False),  # noqa: E712
    (None, field("f") == None, True),  # noqa: E711
    (4, field("f") != 5, True),
    (4, field("f") >= 4, True),
    (4, field("f") > 4, False),
    (4.5, field("f") > 4, True),
    ("4", field("f") > 3, False),
    (True, field("f") >= 0, False),
    (None, field("f") < 3, False),
    (2**70, field("f") > 2**63 - 1, True),
    (-(10**400), field("f") < 0, True),
    ("m", field("f") >= "l", True),
    ("É", field("f") > "z", True),
    ("\U0001f600", field("f") > "\uffff", True),
    ("a\0b", field("f") > "a", True),
    ("a\0b", field("f").substring("\0"), True),
    ("a\0b", field("f").is_in(["a", "a\0b"]), True),
    ("a\0b", field("f").is_in(["a"]), False),
    ("kettle", field("f").substring("ett"), True),
    ("Kettle", field("f").substring("k"), False),
    (["kettle"], field("f").substring("ett"), False),
    ("kettle", field("f").substring(""), True),
    ("de", field("f").is_in(["en", "de"]), True),
    (None, field("f").is_in(["en", None]), True),
    (0, field("f").is_in([False]), False),
    (1, field("f").is_in([]), False),
    (1, field("f").not_in([]), True),
    (["x", 4, None, True], field("f").contains(4.0), True),
    (["x", 4, None, True], field("f").contains(None), True),
    (["x", 4, None, True], field("f").contains(1), False),
    (["xy"], field("f").contains("x"), False),
    ("x", field("f").contains("x"), False),
    ([["x"]], field("f").contains("x"), False),
    (["x"], field("f") == "x", False),
    (["2024-05-01T10:00+02:00"], field("f").contains(datetime(2024, 5, 1, 8)), True),
    (None, field("f").exists(), True),
    ({}, field("f").missing(), False),
    ("2024-05-01T01:00+02:00", field("f") < "2024-05-01", True),
    ("2024-05-01T01:00+02:00", field("f") < date(2024, 5, 1), True),
    ("2024-05-01", field("f") == "2024-05-01T00:00Z", False),
    ("2024-05-01", field("f") == datetime(2024, 5, 1), True),
    ("2024-05-01", field("f") == datetime(2024, 5, 1, 2, tzinfo=timezone(timedelta(hours=2))), True),
    ("2024-05-01 00:00:00.000001", field("f") > date(2024, 5, 1), True),
    ("2024-05-01T23:59:59,9999999Z", field("f") < date(2024, 5, 2), True),
    ("soon", field("f") < date(2024, 5, 1), False),
    ("2024-02-30", field("f") < date(2025, 5, 1), False),
    (20240501, field("f") < date(2025, 5, 1), False),
    ("0001-01-01T00:00+05:00", field("f") < date(1, 1, 1), True),
    (3, field("f").between(3, None), True),
    (3, field("f").between(None, 2), False),
    (3, field("f").between(1, 3), True),
    (3, ~(field("f") > 2), False),
    (3, (field("f") > 9) | (field("f") < 4), True),
    (3, (field("f") > 2) & {"f": {"lt": 3}}, False),
]


@pytest.mark.parametrize(("stored", "wanted", "found"), CASES)
def test_what_a_condition_means(holding: Any, stored: Any, wanted: Filter, found: bool) -> None:
    index = holding({"f": stored})
    assert (index.ids(filter=wanted) == ["0"]) is found
    assert matches({"f": stored}, wanted) is found
    assert index.ids(filter=~wanted) == ([] if found else ["0"])


def test_a_condition_other_than_missing_never_holds_for_a_missing_field(holding: Any) -> None:
    index = holding({"g": 1})
    for wanted in (field("f") == None, field("f") < 3, field("f").is_in([None]), field("f").exists()):  # noqa: E711
        assert index.ids(filter=wanted) == []
        assert index.ids(filter=~wanted) == ["0"]
    assert index.ids(filter=field("f").missing()) == ["0"]


def test_a_path_leads_into_objects_only_and_a_dot_means_nothing(holding: Any) -> None:
    index = holding({"meta": {"lang": "en"}}, {"meta.lang": "en"}, {"meta": [{"lang": "en"}]}, {"meta": "en"})
    for wanted in (
        field("meta", "lang") == "en",
        {("meta", "lang"): "en"},
        {"field": ["meta", "lang"], "eq": "en"},
        parse_filter("meta/lang = 'en'"),
    ):
        assert index.ids(filter=wanted) == ["0"]
    assert index.ids(filter=field("meta.lang") == "en") == ["1"]
    deep = ["x"] * limits.FILTER_DEPTH
    assert index.ids(filter=field(*deep).exists()) == []


def test_a_moment_is_read_the_same_everywhere() -> None:
    noon = microseconds_of("2024-05-01T12:00:00Z")
    assert noon is not None
    same = ["2024-05-01T12:00", "2024-05-01 12:00:00", "2024-05-01t14:00:00.000000+02:00", "2024-05-01T06:30-0530"]
    assert [microseconds_of(text) for text in same] == [noon] * 4
    assert noon == (datetime(2024, 5, 1, 12) - datetime(1, 1, 1)) // timedelta(microseconds=1)
    wrong = [
        "20240501",
        "2024-5-1",
        "2024-05-01T25:00",
        "2024-05-01T12",
        "0000-01-01",
        "2024-05-01T10:00:60",
        "٢٠٢٤-05-01",
    ]
    assert [microseconds_of(text) for text in [*wrong, "2024-05-01T10:00+24:00", " 2024-05-01", "", 2024, None]] == [
        None
    ] * 12


@settings(max_examples=60, deadline=None)
@given(
    st.lists(METADATA, min_size=1, max_size=5),
    st.lists(FILTERS, min_size=1, max_size=3),
    st.lists(PATHS, max_size=3),
    st.data(),
)
def test_sql_and_python_agree_with_and_without_indexed_fields(
    stored: list[dict[str, Any]], filters: list[Filter], paths: list[list[str]], data: st.DataObject
) -> None:
    def check() -> None:
        for wanted in filters:
            expected = [name for name, entry in held.items() if matches(entry, wanted)]
            assert index.ids(filter=wanted) == expected
            assert index.count(filter=wanted) == len(expected)
            as_json = json.loads(json.dumps(wanted.to_json()))
            assert index.ids(filter=as_json) == expected
            assert read_filter(as_json).to_json() == as_json

    with Index.open(":memory:", model=WordEncoder()) as index:
        held = {str(n): entry for n, entry in enumerate(stored)}
        index.add([{"id": name, "text": "red", "metadata": entry} for name, entry in held.items()])
        check()
        for path in paths:
            index.index_field(path)
        check()
        changed = data.draw(st.dictionaries(st.sampled_from([*held, "new"]), METADATA, max_size=2))
        index.add([{"id": name, "text": "red", "metadata": entry} for name, entry in changed.items()])
        held.update(changed)
        gone = data.draw(st.sampled_from(list(held)))
        index.delete([gone])
        del held[gone]
        check()
        assert index.verify().problems == ()


WORDS = ["red", "kettle", "blue", "cup", "green"]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.sampled_from(WORDS), max_size=4), METADATA), min_size=1, max_size=12),
    FILTERS,
    st.integers(1, 5),
)
def test_a_filtered_search_is_the_exact_ranking_of_what_the_filter_selects(
    stored: list[tuple[list[str], dict[str, Any]]], wanted: Filter, k: int
) -> None:
    with Index.open(":memory:", model=WordEncoder()) as index:
        index.add([
            {"id": str(n), "text": " ".join(words), "metadata": metadata} for n, (words, metadata) in enumerate(stored)
        ])  # fmt: skip
        every = index.search("red kettle cup", k=len(stored), exact=True)
        expected = [hit for hit in every if matches(hit.metadata, wanted)][:k]
        for options in ({}, {"exact": True}, {"n_candidates": len(stored)}):
            assert index.search("red kettle cup", k=k, filter=wanted, **options) == expected  # type: ignore[arg-type]
        several = index.search_many(["red kettle cup", "blue"], k=k, filter=wanted.to_json())
        assert several[0] == expected


def test_a_filter_finds_the_last_of_many_documents_whatever_the_first_stage_thinks(path: Path) -> None:
    with Index.open(path, model=WordEncoder()) as index:
        texts = [{"id": f"{n:04}", "text": f"red kettle {n}", "metadata": {"n": n}} for n in range(600)]
        index.add([*texts, {"id": "far", "text": "blue cup", "metadata": {"n": 1000}}])
        assert index.stats().first_stage is not None
        for wanted in (field("n") >= 600, {"n": {"gt": 599}}, ~(field("n") < 1000)):
            for options in ({}, {"exact": True}, {"n_candidates": 1}):
                hits = index.search("red kettle", k=1, filter=wanted, **options)  # type: ignore[arg-type]
                assert [hit.id for hit in hits] == ["far"]


def test_delete_where_deletes_what_the_filter_selects(holding: Any) -> None:
    index = holding({"f": 1}, {"f": 2}, {"f": 3, "x": "a\0"}, {"g": 1})
    assert index.delete_where(field("f") >= 2) == 2
    assert index.ids() == ["0", "3"]
    assert index.delete_where({"f": 99}) == 0
    for empty in ({}, {"and": []}):
        with pytest.raises(InputError, match="has no condition, which selects every document"):
            index.delete_where(empty)
    with pytest.raises(InputTypeError, match="filter is NoneType"):
        index.delete_where(None)
    assert len(index) == 2


def test_indexed_fields_are_listed_kept_and_removed(path: Path) -> None:
    with Index.open(path, model=WordEncoder()) as index:
        index.add([{"id": "a", "text": "red", "metadata": {"n": 1, "meta": {"lang": "en"}}}])
        index.index_field("n")
        index.index_field(["meta", "lang"])
        index.index_field("n")
        assert index.indexed_fields() == [("meta", "lang"), ("n",)]
    with Index.open(path, model=WordEncoder()) as index:
        assert index.indexed_fields() == [("meta", "lang"), ("n",)]
        assert index.unindex_field("n")
        assert not index.unindex_field("n")
        assert index.indexed_fields() == [("meta", "lang")]
        index.prune("nowhere", [])
        with limits.changed(INDEXED_FIELDS=1), pytest.raises(InputError, match="has 1 indexed fields, and may have no"):
            index.index_field("other")
        assert index.verify().problems == ()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE field_entries SET value = 8 WHERE value = 7",
        "UPDATE field_entries SET kind = 4 WHERE value = 7",
        "UPDATE field_entries SET document_id = 99 WHERE value = 7",
        "DELETE FROM field_entries WHERE value = 7",
        "INSERT INTO field_entries VALUES (1, 3, 9, 1)",
        "UPDATE indexed_fields SET n_entries = 1",
    ],
)
def test_a_damaged_index_of_a_field_is_an_error_and_is_made_again(path: Path, damage: str) -> None:
    with Index.open(path, model=WordEncoder()) as index:
        index.add([{"id": str(n), "text": "red", "metadata": {"n": n}} for n in range(9)])
        index.index_field("n")
    with raw(path) as connection:
        connection.execute(damage)
    with Index.open(path, model=WordEncoder()) as index:
        with pytest.raises(StoreFormatError, match=r"The index of the metadata field .* is damaged.*index-field"):
            index.search("red", filter={"n": 7})
        assert any("index of the metadata field" in problem.message for problem in index.verify().problems)
        index.index_field("n")
        assert [hit.id for hit in index.search("red", filter={"n": 7})] == ["7"]
        assert index.verify().problems == ()


def test_verify_sees_an_index_that_is_sound_and_does_not_fit_the_documents(path: Path) -> None:
    with Index.open(path, model=WordEncoder()) as index:
        index.add([{"id": "a", "text": "red", "metadata": {"n": 1}}])
        index.index_field("n")
    with raw(path) as connection:
        connection.execute("DELETE FROM field_entries")
        connection.execute("UPDATE indexed_fields SET n_entries = 0, checksum = 0")
    with Index.open(path, model=WordEncoder()) as index:
        messages = [problem.message for problem in index.verify().problems]
        assert messages == ["The index of the metadata field n does not fit the documents."]


def test_a_document_with_damaged_metadata_can_still_be_deleted(path: Path) -> None:
    with Index.open(path, model=WordEncoder()) as index:
        index.add([{"id": str(n), "text": "red", "metadata": {"n": n}} for n in range(3)])
        index.index_field("n")
    with raw(path) as connection:
        connection.execute("UPDATE documents SET metadata = '{\"n\":' WHERE id = '1'")
    with Index.open(path, model=WordEncoder()) as index:
        with pytest.raises(StoreFormatError, match="the records of '1' are damaged"):
            index.index_field("n")
        index.delete(["1"])
        assert index.ids(filter=field("n") >= 0) == ["0", "2"]
        assert index.verify().problems == ()


def test_a_file_of_schema_2_is_migrated_with_all_it_holds(path: Path) -> None:
    with Index.open(path, model=WordEncoder()) as index:
        index.add([{"id": "a", "text": "red", "metadata": {"n": 1}}])
    with raw(path) as connection:
        # What schema 3 added, and 5 about it; sqlite-utils keeps a record of what it ran.
        connection.executescript(
            "DROP TABLE indexed_fields; DROP TABLE field_entries; DROP TABLE lexical; PRAGMA user_version = 2;"
            "DROP TABLE full_text_sums; DELETE FROM _sqlite_migrations WHERE name IN ('version_3', 'version_5');"
        )
    with pytest.raises(StoreReadOnlyError, match="has schema 2 and must be migrated to 5 first"):
        Index.open(path, model=WordEncoder(), read_only=True)
    with Index.open(path, model=WordEncoder()) as index:
        index.index_field("n")
        assert index.ids(filter=field("n") == 1) == ["a"]
        assert index.verify().problems == ()


def test_forged_entries_of_an_index_are_an_error_of_ours(path: Path) -> None:
    for value, kind in ((b"x", 4), ("x", 3), (1, 7), (1, "x")):
        with Index.open(path, model=WordEncoder()) as index:
            index.add([{"id": "a", "text": "red", "metadata": {"n": 1}}])
            index.index_field("n")
        with raw(path) as connection:
            connection.execute("UPDATE field_entries SET value = ?, kind = ? WHERE kind = 3", (value, kind))
            # Whoever makes a file can make its checksums, too.
            rows = connection.execute("SELECT kind, value, document_id FROM field_entries").fetchall()
            total = sum(zlib.crc32(repr(row).encode()) for row in rows) & 0xFFFFFFFF
            connection.execute("UPDATE indexed_fields SET checksum = ?", (total,))
        with Index.open(path, model=WordEncoder()) as index:
            with pytest.raises(StoreFormatError, match="an entry of an indexed field should be a kind and a value"):
                index.facets("n")
            # It then holds what they say.
            assert set(index.ids(filter=field("n") > 1)) <= {"a"}


WRITTEN: list[tuple[str, dict[str, Any]]] = [
    ("year >= 2020 and tags contains \"x\"", {"and": [{"year": {"gte": 2020}}, {"tags": {"contains": "x"}}]}),
    ("a=1 or b=2 and c=3", {"or": [{"a": {"eq": 1}}, {"and": [{"b": {"eq": 2}}, {"c": {"eq": 3}}]}]}),
    ("(a=1 or b=2) and c=3", {"and": [{"or": [{"a": {"eq": 1}}, {"b": {"eq": 2}}]}, {"c": {"eq": 3}}]}),
    ("not a = 1 and b != true", {"and": [{"not": [{"a": {"eq": 1}}]}, {"not": [{"b": {"eq": True}}]}]}),
    ("NOT (a exists OR b missing)", {"not": [{"or": [{"a": {"exists": True}}, {"not": [{"b": {"exists": True}}]}]}]}),
    ("lang in ('en', \"de\")", {"lang": {"in": ["en", "de"]}}),
    ("lang not in ()", {"not": [{"lang": {"in": []}}]}),
    ("a.b-c == null", {"a.b-c": {"eq": None}}),
    ("\"and\" < -1.5e3", {"and": {"lt": -1500.0}}),
    ("meta/\"a/b\" substring 'it\\'s \"so\"\\n'", {"field": ["meta", "a/b"], "substring": 'it\'s "so"\n'}),
    ("größe > 3", {"größe": {"gt": 3}}),
    ("at >= 2024-05-01", {"at": {"gte": {"date": "2024-05-01"}}}),
    ("at = 2024-05-01T10:00+02:00", {"at": {"eq": {"date": "2024-05-01T10:00+02:00"}}}),
    ("at = \"2024-05-01\"", {"at": {"eq": "2024-05-01"}}),
    ("at <= \"2024-05-01\"", {"at": {"lte": {"date": "2024-05-01"}}}),
    ("tags not contains 'a' ", {"not": [{"tags": {"contains": "a"}}]}),
    (' {"year": {"gte": 2020}} ', {"year": {"gte": 2020}}),
]  # fmt: skip


@pytest.mark.parametrize(("written", "expected"), WRITTEN)
def test_the_written_form_says_what_the_json_form_says(written: str, expected: dict[str, Any]) -> None:
    assert parse_filter(written).to_json() == expected
    assert read_filter(expected).to_json() == expected


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "found the end at character 1, expected a field name"),
        ("year", "found the end at character 5, expected =, !=, <"),
        ("year >= ", "found the end at character 9, expected a value"),
        ("year >= x", r"found 'x' at character 9, expected a value: a string in quotes"),
        ("year >= 2020 tags = 1", 'found \'tags\' at character 14, expected "and", "or" or the end'),
        ("(a = 1", 'found the end at character 7, expected "and", "or" or "\\)"'),
        ("a = 'x", r"\"'x\" at character 5 is a quotation mark that is not closed"),
        ("a ; b", r"'; b' at character 3 is no part of a filter"),
        ("a in 'x'", 'found "\'x\'" at character 6, expected "\\(" and values'),
        ("a in ('x' 'y')", 'at character 11, expected "," or "\\)"'),
        ("a = 2024-13-01", "character 5 is '2024-13-01', expected a date in ISO 8601"),
        ("a = 007", "found '007' at character 5, expected a number as JSON has it"),
        ("a = '\\q'", "the string at character 5 has a wrong escape"),
        ("a = '\\ud800'", "the string at character 5 has a lone surrogate"),
        ("and = 1", "found 'and' at character 1, expected a field name"),
        ("a < true", '"lt" has True, expected a number, a string or a date'),
        ("a = 1e999", "filter: a is inf, and metadata cannot hold that"),
        ("{", "begins with { and is not JSON"),
        ('{"a": 1, "a": 2}', "the key 'a' is there twice"),
        ("(" * 30 + "a=1" + ")" * 30, "nested too deeply at character 21"),
        ("not " * 30 + "a=1", "nested too deeply at character 81"),
        (" and ".join(["a=1"] * 101), "filter has 101 conditions, expected at most 100"),
        ("a/" * 20 + "a = 1", "filter has a field of 21 names, expected 1 to 20"),
    ],
)
def test_a_wrong_written_form_is_an_error_with_its_place(written: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_filter(written)


@given(st.text(alphabet="ab=<>!()/,'\"\\ 0129-:T.{}ortniexsdu\n\0é", max_size=40))
def test_any_text_is_a_filter_or_an_error_of_ours(written: str) -> None:
    try:
        found = parse_filter(written)
    except InputError:
        return
    assert read_filter(found.to_json()).to_json() == found.to_json()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("a = 1", "filter is str, expected a mapping of field names to values, or a Filter"),
        ({"a": [1]}, r'filter: a is list, expected .* Write \{"in": \[...\]\}'),
        ({"a": {}}, r"filter: a is \{\}, expected a value or an object of these operators"),
        ({"a": {"$gt": 1}}, r"filter: a is \{'\$gt': 1\}, expected a value or an object of these operators: eq, ne"),
        ({"a": {"gte": None}}, "expected a number, a string or a date. Leave out a bound"),
        ({"a": {"in": "en"}}, '"in" has str, expected a list of values'),
        ({"a": {"in": [[1]]}}, "filter: a is list"),
        ({"a": {"exists": 1}}, '"exists" has 1, expected true or false'),
        ({"a": {"substring": 1}}, '"substring" has int, expected a string'),
        ({"a": {"date": "soon"}}, "filter: a is 'soon', expected a date in ISO 8601"),
        ({"a": {"lt": float("inf")}}, "filter: a is inf, and metadata cannot hold that"),
        ({"not": [{"a": 1}, {"b": 1}]}, '"not" has 2 filters in its list, expected one'),
        ({"or": [1]}, "filter is int, expected a mapping"),
        ({"field": []}, "filter has a field of 0 names"),
        ({"field": ["a", 1], "eq": 1}, "filter has the field name 1, expected a string"),
        ({"field": ["a"]}, r"filter: a is \{\}, expected a value or an object"),
        ({"field": ["a"], "b": 1}, r"filter: a is \{'b': 1\}"),
        ({"a": {"in": list(range(10_001))}}, "filter has 10001 values, expected at most 10000"),
        ({"or": [{"a": 1}] * 101}, "filter has 101 conditions, expected at most 100"),
        ({"a": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))}, "beyond the years 1 to 9999"),
    ],
)
def test_a_wrong_filter_is_an_error_that_names_the_field(wrong: Any, message: str) -> None:
    with Index.open(":memory:", model=WordEncoder()) as index:
        with pytest.raises(InputError, match=message):
            index.ids(filter=wrong)
        with pytest.raises(InputError, match=message):
            index.search("red", filter=wrong)


def test_filters_at_their_limits_are_evaluated(holding: Any) -> None:
    index = holding({"f": 9_999, "x": 9_999}, {"f": -1, "x": -1})
    for name in ("f", "x"):
        assert index.ids(filter=field(name).is_in(range(limits.FILTER_VALUES))) == ["0"]
        assert index.ids(filter={"or": [{name: 9_999}] * limits.FILTER_CONDITIONS}) == ["0"]
        nested: Any = {name: 9_999}
        for _ in range(limits.FILTER_DEPTH - 1):
            nested = {"and": [nested, {name: 9_999}]}
        assert index.ids(filter=nested) == ["0"]
        with pytest.raises(InputError, match="nested too deeply"):
            index.ids(filter={"and": [nested, {name: 9_999}]})
    deep = field("f") == 1
    for _ in range(5_000):
        deep = (deep & {"x": 1}) | {"x": 2}
    with pytest.raises(InputError, match="filter has 10001 conditions"):
        index.ids(filter=deep)


def test_a_filter_has_no_truth_value_so_nothing_is_dropped_silently() -> None:
    with pytest.raises(InputTypeError, match=r"Combine filters with &, \| and ~"):
        bool(field("a") == 1)
    with pytest.raises(InputTypeError, match="between"):
        assert 1 < field("a") < 3
    with pytest.raises(TypeError, match="unhashable"):
        {field("a")}
    with pytest.raises(InputError, match="two open ends"):
        field("a").between(None, None)
    with pytest.raises(InputTypeError, match="filter has the field name 3"):
        field(3)  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="filter is int"):
        (field("a") == 1) & 3
