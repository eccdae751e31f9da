"""Documents, queries and filters that somebody made to do harm."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from word_encoder import WordEncoder

from edgecolbert import Index, limits
from edgecolbert.beir import json_lines
from edgecolbert.chunking import split_text
from edgecolbert.cli import main
from edgecolbert.documents import read_record
from edgecolbert.errors import EdgeColbertError, InputError, StoreMismatchError
from edgecolbert.filters import filter_sql, matches
from edgecolbert.sources import Reading, _json_lines, _read_standard_input, open_sources


class Endless(io.RawIOBase):
    """Bytes without a line break and without an end; reading much more than the limit fails the test."""

    def __init__(self, start: bytes) -> None:
        self.start = start
        self.given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        assert self.given < 100_000, "more was read than the limit needs"
        part = self.start or b" " * min(len(buffer), 1_000)
        buffer[: len(part)] = part
        self.start = b""
        self.given += len(part)
        return len(part)


@pytest.mark.parametrize("start", [b'{"text": "', b"a text", b" ", b'{"text": "a"}\n{"'])
def test_input_without_an_end_is_not_read_to_it(monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    monkeypatch.setattr(limits, "RECORD_BYTES", 5_000)
    with pytest.raises(InputError, match=r"standard input.* more than 5000 bytes.*--max-record-mb"):
        list(_read_standard_input(io.BufferedReader(Endless(start)), Reading()))


def test_many_blank_lines_are_read_in_linear_time_and_then_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECORD_BYTES", 5_000)
    with pytest.raises(InputError, match="more than 5000 bytes"):
        list(_read_standard_input(io.BytesIO(b"\n" * 10_000), Reading()))


def test_blank_lines_before_records_count_as_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b'\n \n{"text": "a",\r "id": "1"}\n\n{"text": 3}\n'
    reading = _read_standard_input(io.BytesIO(content), Reading())
    assert next(reading)["id"] == "1"
    with pytest.raises(InputError, match="standard input, line 5 has no text"):
        next(reading)


def test_a_line_that_is_too_long_is_named_and_the_limit_can_be_raised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RECORD_BYTES", 1_000)
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "short"}\n{"text": "' + "long " * 400 + '"}\n')
    db = str(tmp_path / "a.db")
    assert main(["index", str(file), "--db", db]) == 1
    assert "a.jsonl, line 2: it has more than 1000 bytes" in capsys.readouterr().err
    assert main(["index", str(file), "--db", db, "--max-record-mb", "1"]) == 0
    assert limits.RECORD_BYTES == 1_000
    with Index.open(db) as index:
        assert len(index) == 2


def test_a_text_file_that_is_too_long_is_skipped_and_nothing_is_pruned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text("red kettle")
    (folder / "b.txt").write_text("blue cup")
    db = str(tmp_path / "a.db")
    assert main(["index", str(folder), "--db", db]) == 0
    monkeypatch.setattr(limits, "RECORD_BYTES", 1_000)
    (folder / "b.txt").write_text("blue cup " * 200)
    assert main(["index", str(folder), "--db", db, "--prune"]) == 0
    assert "b.txt: it has more than 1000 bytes" in capsys.readouterr().err
    with Index.open(db) as index:
        assert index.ids() == ["a.txt", "b.txt"]


def test_lines_of_a_test_collection_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECORD_BYTES", 100)
    file = tmp_path / "corpus.jsonl"
    for content, message in (
        ('{"a": 1}\n' + " " * 200 + "\n", "line 2 has more than 100 bytes"),
        ('{"a": 1, "a": 2}\n', "'a' is there twice"),
        ("[" * 90, "no JSON"),
    ):
        file.write_text(content)
        with pytest.raises(InputError, match=message):
            list(json_lines(file))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a", "text": "b"}', "line 1 is not JSON: the key 'text' is there twice"),
        (b'{"text": "a", "metadata": {"b": 1, "b": 2}}', "the key 'b' is there twice"),
        (b'{"text": "a", "metadata": {"b": NaN}}', "NaN is not JSON"),
        (b'{"text": "a", "b": Infinity}', "Infinity is not JSON"),
        (b'{"text": "a", "b": ' + b"9" * 5_000 + b"}", "line 1 is not JSON"),
        (b'{"text": "a", "b": ' + b"[" * 200_000 + b"}", "nested too deeply"),
        (b'{"text": "a", "b": ' + b"[" * 150 + b"]" * 150 + b"}", "nested too deeply.*METADATA_DEPTH"),
        (b'{"text": "\\ud800"}', "lone surrogate"),
        (b'{"text": "a", "id": "' + b"x" * 20_000 + b'"}', "id has 20000 bytes, expected at most 16384.*ID_BYTES"),
        (b'{"text": "a", "id": ' + b"[" * 500 + b"]" * 500 + b"}", r"id is .{1,220}, expected a string"),
        (b"\xff\xfe{\x00", "line 1 is not JSON"),
    ],
)
def test_a_line_that_means_harm_is_named(line: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        list(_json_lines(io.BytesIO(line), "a.jsonl"))
    assert len(str(caught.value)) < 1_000


def test_control_characters_and_a_byte_order_mark_come_back_as_they_are(path: Path) -> None:
    text = "a\0b\x1b[2J\u202e\x7f\x9b c"
    with Index.open(path, model=WordEncoder()) as index:
        index.add([{"id": "\x1b]0;x\a", "text": text, "metadata": {"\0": "\x1b"}}])
        document = index.get("\x1b]0;x\a")
        assert document is not None
        assert (document.text, document.metadata) == (text, {"\0": "\x1b"})
    (record,) = _json_lines(io.BytesIO(b'\xef\xbb\xbf{"text": "a"}'), "a.jsonl")
    assert record["text"] == "a"


def test_what_is_printed_cannot_steer_the_terminal(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Index.open(path) as index:
        index.add([{"id": "\x1b]0;title\a", "text": "red \x1b[2Jkettle \x9b31m\u202e"}])
    assert main(["search", "kettle", "--db", str(path)]) == 0
    out = capsys.readouterr().out
    assert "kettle" in out
    assert not set("\x1b\a\x9b\u202e") & set(out)


def test_a_folder_with_loops_pipes_and_what_vanishes_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "notes"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a.txt").write_text("red kettle")
    (folder / "inner" / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "self.txt").symlink_to(folder / "self.txt")
    (folder / "zero.txt").symlink_to("/dev/zero")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.txt")
    (folder / "gone.txt").write_text("soon gone")
    reading = Reading()
    (source,) = open_sources([str(folder)])
    records = source.read(reading)
    (folder / "gone.txt").unlink()
    assert [record["id"] for record in records] == ["inner/a.txt"]
    assert reading.incomplete


def test_one_document_cannot_make_every_filter_fail(path: Path) -> None:
    nested: Any = "x"
    for _ in range(limits.METADATA_DEPTH - 1):
        nested = [nested]
    with Index.open(path, model=WordEncoder()) as index:
        index.add([{"text": "red kettle", "metadata": {"deep": nested, "n": 4}}])
        assert len(index.search("kettle", filter={"n": 4.0})) == 1
        with pytest.raises(InputError, match="METADATA_DEPTH"):
            index.add([{"text": "blue cup", "metadata": {"deep": [nested]}}])


def test_documents_queries_and_filters_have_limits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECORD_BYTES", 100)
    monkeypatch.setattr(limits, "METADATA_BYTES", 50)
    monkeypatch.setattr(limits, "QUERY_BYTES", 50)
    monkeypatch.setattr(limits, "FILTER_BYTES", 50)
    with Index.open(path, model=WordEncoder()) as index:
        index.add(["é" * 50])
        with pytest.raises(InputError, match=r"documents\[0\]: text has 102 bytes, expected at most 100.*RECORD_BYTES"):
            index.add(["é" * 51])
        with pytest.raises(InputError, match=r"metadata has 58 bytes, expected at most 50.*METADATA_BYTES"):
            index.add([{"text": "a", "metadata": {"a": "x" * 50}}])
        with pytest.raises(InputError, match=r"queries\[0\] has 51 bytes, expected at most 50.*QUERY_BYTES"):
            index.search("x" * 51)
        for conditions in ({"x" * 51: 1}, {"a": "x" * 51}):
            with pytest.raises(InputError, match=r"has 51 bytes, expected at most 50.*FILTER_BYTES"):
                index.search("a", filter=conditions)
        with pytest.raises(InputError, match="filter has 101 conditions, expected at most 100"):
            index.search("a", filter=dict.fromkeys(map(str, range(101)), 1))
        assert index.search("a", filter=dict.fromkeys(map(str, range(100)), 1)) == []


def test_limits_can_be_changed_for_a_while() -> None:
    with limits.changed(RECORD_BYTES=7):
        assert limits.RECORD_BYTES == 7
    assert limits.RECORD_BYTES == 64 * 2**20
    with pytest.raises(AttributeError, match="no limits"), limits.changed(RECORDS=1):
        pass


@pytest.mark.parametrize(
    "value",
    [pytest.param(10**6_000, id="huge"), 2**63, -(2**63) - 1, float("nan"), float("-inf"), [1], {"$gt": 1}, b"x"],
)
def test_values_that_no_field_can_have_are_refused(value: object) -> None:
    with pytest.raises(InputError, match="filter: a is"):
        filter_sql({"a": value})


_NAMES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["$", "$.a", "a.b", "'", '"', "a'--", "') OR 1=1 --", "[0]", "\0", "a\0b", "%", "?", ":x", ""]),
)
_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), _NAMES
)


@given(st.lists(st.dictionaries(_NAMES, _VALUES, max_size=4), min_size=1, max_size=4), st.data())
@settings(max_examples=60)
def test_a_filter_selects_what_python_selects_whatever_names_and_values_say(
    metadata: list[dict[str, Any]], data: Any
) -> None:
    fields = sorted({(key, repr(value)) for fields in metadata for key, value in fields.items()})
    conditions = data.draw(st.dictionaries(st.sampled_from([key for key, _ in fields] or ["a"]), _VALUES, max_size=2))
    chosen = data.draw(st.sampled_from(metadata))
    for wanted in (conditions, dict(list(chosen.items())[:2])):
        with Index.open(":memory:", model=WordEncoder()) as index:
            index.add([{"id": str(n), "text": "red", "metadata": fields} for n, fields in enumerate(metadata)])
            found = {hit.id for hit in index.search("red", k=9, filter=wanted, exact=True)}
            assert found == {str(n) for n, fields in enumerate(metadata) if matches(fields, wanted)}


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3)
_KEYS = st.sampled_from(["id", "text", "metadata", "x"]) | st.integers()
_INNER = _SCALARS | st.lists(_SCALARS, max_size=3) | st.dictionaries(_KEYS, _SCALARS, max_size=3)
_ANYTHING = _INNER | st.lists(_INNER, max_size=3) | st.dictionaries(_KEYS, _INNER, max_size=3)


@given(_ANYTHING, _ANYTHING)
@settings(max_examples=80)
def test_anything_as_a_document_or_filter_is_taken_or_refused_with_an_error_of_ours(item: Any, other: Any) -> None:
    for value in (item, {"text": "a", "metadata": other}, {"text": "a", "id": other}):
        with contextlib.suppress(EdgeColbertError):
            json.loads(read_record(value, 0).metadata)
    for value in (item, {"a": other}):
        with contextlib.suppress(EdgeColbertError):
            filter_sql(value)


@given(st.binary(max_size=80))
@settings(max_examples=80)
def test_any_bytes_on_standard_input_are_read_or_refused_with_an_error_of_ours(content: bytes) -> None:
    for part in (content, b'{"text": ' + content, b'{"text": "a", "m": ' + content):
        with contextlib.suppress(EdgeColbertError):
            for record in _read_standard_input(io.BytesIO(part), Reading()):
                read_record(record, 0)


@given(st.text(alphabet=st.sampled_from("a.!? \n\t\0…。」\u2028\x1bé漢\U0001f600"), max_size=200), st.integers(1, 7))
@settings(max_examples=80)
def test_any_text_is_cut_into_passages_that_lose_nothing(text: str, room: int) -> None:
    spans = split_text(text, lambda texts: [len(piece.split()) for piece in texts], room)
    covered = 0
    for start, end in spans:
        assert covered <= start <= end <= len(text)
        assert not text[covered:start].strip()
        covered = end
    assert not text[covered:].strip()


def test_an_index_that_is_open_says_nothing_of_the_choice_of_another(path: Path) -> None:
    with Index.open(path, model="starter", special_tokens="literal"):
        pass
    with pytest.raises(StoreMismatchError, match="special_tokens = literal, but as-model was asked for"):
        Index.open(path, special_tokens="as-model")
