"""Dumps: everything comes back as it was, wrong lines are named, and an interrupted load goes on."""

from __future__ import annotations

import base64
import gzip
import json
import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from word_encoder import SplittingEncoder, WordEncoder

from edgecolbert import Index, InputError, TokenSettings, limits
from edgecolbert.errors import CancelledError, StoreError, StoreFormatError, StoreMismatchError

TESTS = Path(__file__).parent


def _fill(path: Path, n_documents: int = 100, tokens: TokenSettings | None = None) -> None:
    with Index.open(path, model=SplittingEncoder(), tokens=tokens) as index:
        index.add_from("shelf", [
            {"id": f"{n}", "text": f"Word{n} of many{n % 7}. " * (n % 9), "metadata": {"n": n, "x": [n / 3, None, "ü"]}}
            for n in range(n_documents)
        ])  # fmt: skip
        index.add([{"id": "a\0b", "text": "with a NUL"}, "no id"])


@pytest.fixture
def dump(path: Path, tmp_path: Path) -> Path:
    _fill(path)
    with Index.open(path) as index:
        assert index.dump(tmp_path / "all.jsonl") == 102
    return tmp_path / "all.jsonl"


def _seal(data: dict[str, Any]) -> bytes:
    """A line as other programs would write it, from the description of the format alone."""
    names = [key for key in data if key != "crc32"]
    content = json.dumps({key: data[key] for key in names}, indent=None).encode()[:-1]
    return content + b',"crc32":"%08x"}\n' % zlib.crc32(content)


@pytest.mark.parametrize("name", ["all.jsonl", "all.jsonl.gz"])
@pytest.mark.parametrize("tokens", [None, TokenSettings(bits=4, pool_factor=2)])
def test_a_round_trip_changes_nothing(path: Path, tmp_path: Path, name: str, tokens: TokenSettings | None) -> None:
    _fill(path, tokens=tokens)
    with Index.open(path, model=SplittingEncoder()) as index:
        index.delete(["5"])
        told: list[tuple[int, int | None]] = []
        assert index.dump(tmp_path / name, progress=lambda *numbers: told.append(numbers)) == 101
        assert told[-1] == (101, 101)
    encoder = SplittingEncoder()
    with (
        Index.open(path, model=encoder, read_only=True) as old,
        Index.load(tmp_path / name, tmp_path / "new.db", model=encoder) as new,
    ):
        assert new.verify().problems == ()
        assert new.ids() == old.ids()
        assert [new.get(name) for name in new.ids()] == [old.get(name) for name in old.ids()]
        for options in ({"exact": True}, {"n_candidates": 20}, {"filter": {"n": 7}}):
            for query in ("word7", "many3 word12", "with a nul"):
                assert new.search(query, k=30, **options) == old.search(query, k=30, **options)  # type: ignore[arg-type]
        assert new.stats().first_stage == old.stats().first_stage is not None
        assert new.stats().token_storage == old.stats().token_storage
        assert new.prune("shelf", []) == 99
    assert encoder.encoded == []
    assert not [entry for entry in tmp_path.iterdir() if "unfinished" in entry.name or "loading" in entry.name]


def test_another_program_can_read_the_vectors(dump: Path, path: Path) -> None:
    header, *lines = [json.loads(line) for line in dump.read_bytes().splitlines()]
    assert (header["format"], header["version"], header["documents"]) == ("edgecolbert-dump", 1, 102)
    (line,) = [line for line in lines if line["id"] == "8"]
    (vectors,) = SplittingEncoder().encode_documents(
        [line["text"][line["passages"][0]["start"] : line["passages"][0]["end"]]]
    )
    passage = line["passages"][0]
    values = np.frombuffer(base64.b64decode(passage["tokens"]), dtype=np.int8).reshape(passage["n_tokens"], -1)
    np.testing.assert_allclose(values * passage["scale"], vectors, atol=passage["scale"])


def test_another_program_can_write_one(dump: Path, tmp_path: Path) -> None:
    header, *lines = [json.loads(line) for line in dump.read_bytes().splitlines()]
    ours = tmp_path / "theirs.jsonl"
    content = [_seal(header | {"first_stage": None, "documents": 3}), *map(_seal, lines[:3])]
    ours.write_bytes(b"".join(content))
    with Index.load(ours, tmp_path / "new.db") as index:
        assert index.ids() == ["0", "1", "2"]
        assert index.verify().problems == ()


def _changed(line: bytes, **changes: Any) -> bytes:
    return _seal(json.loads(line) | changes)


BROKEN: list[tuple[str, Any, str]] = [
    ("a flipped byte", lambda line: line.replace(b"of many", b"or many", 1), "line 9 does not match its crc32"),
    ("cut", lambda line: line[:-20] + b"\n", "line 9 does not end with its crc32"),
    ("no json", lambda line: _seal({})[:0] + b'{"a":,"crc32":"%08x"}\n' % zlib.crc32(b'{"a":'), "line 9 is not JSON"),
    ("a key too many", lambda line: _changed(line, more=1), "line 9 has the keys"),
    ("id", lambda line: _changed(line, id=7), "line 9: id is 7"),
    ("text", lambda line: _changed(line, text=None), "line 9: text is NoneType"),
    ("metadata", lambda line: _changed(line, metadata=[1]), "line 9: metadata is list"),
    ("source", lambda line: _changed(line, source=3), "line 9: source is no string"),
    ("no passages", lambda line: _changed(line, passages=[]), "line 9: source is no string, or passages is no list"),
    ("span", lambda line: _passage(line, end=99_999), "line 9: a passage reaches from"),
    ("scale", lambda line: _passage(line, scale=-1), "line 9: a passage has the scale -1"),
    ("tokens", lambda line: _passage(line, tokens="?"), "line 9: a passage lacks something"),
    ("length", lambda line: _passage(line, n_tokens=1), "line 9: a passage has .* bytes of token embeddings"),
    ("twice", lambda line: _changed(line, id="1"), "has the id '1' a second time"),
]


def _passage(line: bytes, **changes: Any) -> bytes:
    data = json.loads(line)
    data["passages"][0] |= changes
    return _seal(data)


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_line_is_refused_with_its_number(dump: Path, tmp_path: Path, change: Any, message: str) -> None:
    lines = dump.read_bytes().splitlines(keepends=True)
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(b"".join([*lines[:8], change(lines[8]), *lines[9:]]))
    with pytest.raises(InputError, match=rf"broken\.jsonl.*{message}"):
        Index.load(broken, tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty, expected a file of `edgecolbert dump`"),
        (b'{"id": "a", "text": "b"}\n', "is no file of `edgecolbert dump`"),
        (b"\x1f\x8bnothing", "cannot be read after line 0"),
    ],
)
def test_what_is_no_dump_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "wrong").write_bytes(content)
    with pytest.raises(InputError, match=message):
        Index.load(tmp_path / "wrong", tmp_path / "new.db")
    assert [entry.name for entry in tmp_path.iterdir()] == ["wrong"]
    with pytest.raises(InputError, match=r"cannot be read: .*No such file"):
        Index.load(tmp_path / "none", tmp_path / "new.db")


def test_a_dump_of_a_later_version_is_refused(dump: Path, tmp_path: Path) -> None:
    lines = dump.read_bytes().splitlines(keepends=True)
    header = json.loads(lines[0]) | {"version": 2}
    content = json.dumps({key: header[key] for key in header if key != "crc32"}, separators=(",", ":")).encode()[:-1]
    dump.write_bytes(content + b',"crc32":"%08x"}\n' % zlib.crc32(content) + b"".join(lines[1:]))
    with pytest.raises(InputError, match="has version 2 of the format, this version of edgecolbert reads 1"):
        Index.load(dump, tmp_path / "new.db")


@pytest.mark.parametrize("packed", [False, True])
def test_a_dump_cut_short_is_refused_and_the_rest_can_be_loaded_later(dump: Path, tmp_path: Path, packed: bool) -> None:
    whole = gzip.compress(dump.read_bytes()) if packed else dump.read_bytes()
    lines = whole.splitlines(keepends=True)
    dump.write_bytes(whole[: len(whole) * 9 // 10] if packed else b"".join(lines[:90]))
    with pytest.raises(
        InputError, match=r"all\.jsonl (ends after 89 documents, expected 102|cannot be read after line)"
    ):
        Index.load(dump, tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()
    dump.write_bytes(whole)
    done: list[int] = []
    with Index.load(dump, tmp_path / "new.db", progress=lambda n, _: done.append(n)) as index:
        assert len(index) == 102
        assert index.verify().problems == ()
    assert done[0] > 64


def test_a_load_that_was_cancelled_goes_on(dump: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.db"
    with pytest.raises(CancelledError, match=r"cancelled after 64 of 102 .*kept in .*new\.db\.loading; run it again"):
        Index.load(dump, new, progress=lambda done, total: False)
    assert not new.exists()
    # Another dump does not go on from there.
    lines = dump.read_bytes().splitlines(keepends=True)
    (tmp_path / "other.jsonl").write_bytes(b"".join([lines[0], *lines[2:]]))
    with pytest.raises(StoreMismatchError, match=r"new\.db\.loading was left behind by loading another file"):
        Index.load(tmp_path / "other.jsonl", new)
    with Index.load(dump, new) as index:
        assert len(index) == 102
        assert index.verify().problems == ()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["all.jsonl", "index.db", "new.db", "other.jsonl"]
    with pytest.raises(StoreError, match=r"new\.db exists already"):
        Index.load(dump, new)


def _killed(program: str, *arguments: Path) -> None:
    head = f"import os, signal, sys\nsys.path.insert(0, {str(TESTS)!r})\nfrom edgecolbert import Index\n"
    head += "def stop(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
    done = subprocess.run([sys.executable, "-c", head + program, *map(str, arguments)], check=False)
    assert done.returncode == -signal.SIGKILL


def test_a_killed_load_and_one_killed_before_the_name_go_on(dump: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.db"
    _killed("Index.load(sys.argv[1], sys.argv[2], progress=stop)", dump, new)
    assert not new.exists()
    _killed(
        "from edgecolbert import interchange\ninterchange.name_finished = stop\nIndex.load(*sys.argv[1:])", dump, new
    )
    assert not new.exists()
    with Index.load(dump, new) as index:
        assert len(index) == 102
        assert index.verify().problems == ()


def test_a_killed_or_cancelled_dump_leaves_no_file_under_the_name(path: Path, tmp_path: Path) -> None:
    _fill(path)
    out = tmp_path / "all.jsonl"
    _killed("Index.open(sys.argv[1]).dump(sys.argv[2], progress=stop)", path, out)
    assert not out.exists()
    (left,) = [entry for entry in tmp_path.iterdir() if ".unfinished-" in entry.name]
    left.unlink()
    with Index.open(path) as index:
        with pytest.raises(CancelledError):
            index.dump(out, progress=lambda done, total: False)
        assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith("all")]
        index.dump(out)
        with pytest.raises(StoreError, match="exists already"):
            index.dump(out)
        assert index.verify().problems == ()


def test_another_model_is_refused_unless_new_vectors_are_wanted(dump: Path, tmp_path: Path) -> None:
    other = WordEncoder("other words", dim=12)
    with pytest.raises(
        StoreMismatchError, match="made with the model 'splitting', but the model given is 'other words'"
    ):
        Index.load(dump, tmp_path / "new.db", model=other)
    assert not list(tmp_path.glob("new*"))
    with pytest.raises(InputError, match="encoder of your own"):
        Index.load(dump, tmp_path / "new.db", reencode=True)
    with Index.load(dump, tmp_path / "new.db", model=other, reencode=True) as index:
        assert (index.stats().dim, index.stats().model, len(index)) == (12, "other words", 102)
        assert index.verify().problems == ()
        assert index.search("word17", k=1, exact=True)[0].id == "17"


def test_a_line_is_read_up_to_a_limit(dump: Path, tmp_path: Path) -> None:
    longest = max(map(len, dump.read_bytes().splitlines(keepends=True)))
    with (
        limits.changed(DUMP_LINE_BYTES=longest - 1),
        pytest.raises(InputError, match=rf"line \d+ has more than {longest - 1} bytes.*DUMP_LINE_BYTES"),
    ):
        Index.load(dump, tmp_path / "new.db", model=SplittingEncoder())
    with limits.changed(DUMP_LINE_BYTES=longest):
        Index.load(dump, tmp_path / "new.db", model=SplittingEncoder()).close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"split_documents": 1, "prompts": True, "fde": None}}, "of the wrong type"),
        ({"settings": {"split_documents": True, "prompts": True, "fde": 3}}, "of the wrong type"),
        ({"settings": {"split_documents": True, "prompts": True}}, "lacks 'fde'"),
        ({"model": {"name": "m", "reference": None, "fingerprint": "f", "dim": 0}}, "of the wrong type"),
        (
            {"model": {"name": "m", "reference": r"\\server\share", "fingerprint": "f", "dim": 16}},
            "on another machine, which is not asked",
        ),
        (
            {"settings": {"split_documents": True, "prompts": True, "fde": None, "special_tokens": "other"}},
            "in a way that this version of edgecolbert does not know",
        ),
        ({"indexed_fields": ["n"]}, "indexed_fields is .*expected a list of lists of names"),
        ({"indexed_fields": [["n"], [3]]}, "line 1: indexed_fields: .* expected a string"),
        ({"indexed_fields": [[]]}, "line 1: indexed_fields: .* a field of 0 names"),
    ],
)
def test_a_header_that_somebody_made_up_is_refused(
    dump: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    first, *rest = dump.read_bytes().splitlines(keepends=True)
    dump.write_bytes(_seal(json.loads(first) | changes) + b"".join(rest))
    for options in ({}, {"reencode": True}) if "another machine" in message else ({},):
        with pytest.raises((InputError, StoreFormatError, StoreMismatchError), match=message):
            Index.load(dump, tmp_path / "new.db", **options)
    assert not list(tmp_path.glob("new*"))


def test_which_fields_are_indexed_comes_back(path: Path, tmp_path: Path) -> None:
    _fill(path)
    with Index.open(path, model=SplittingEncoder()) as index:
        index.index_field("n")
        index.index_field(["a.b", "c"])
        index.dump(tmp_path / "all.jsonl")
        found = index.ids(filter={"n": {"gte": 90}})
    header = json.loads((tmp_path / "all.jsonl").read_bytes().splitlines()[0])
    assert header["indexed_fields"] == [["n"], ["a.b", "c"]]
    with Index.load(tmp_path / "all.jsonl", tmp_path / "new.db", model=SplittingEncoder()) as loaded:
        assert loaded.indexed_fields() == [("n",), ("a.b", "c")]
        assert loaded.ids(filter={"n": {"gte": 90}}) == found
        assert len(found) == 10
        assert loaded.verify().problems == ()


def test_a_dump_that_does_not_say_which_fields_are_indexed_is_loaded(dump: Path, tmp_path: Path) -> None:
    first, *rest = dump.read_bytes().splitlines(keepends=True)
    header = json.loads(first)
    del header["indexed_fields"]
    dump.write_bytes(_seal(header) + b"".join(rest))
    with Index.load(dump, tmp_path / "new.db", model=SplittingEncoder()) as loaded:
        assert (len(loaded), loaded.indexed_fields()) == (102, [])


def test_json_that_means_two_things_is_refused(dump: Path, tmp_path: Path) -> None:
    header, line, *rest = dump.read_bytes().splitlines(keepends=True)
    content = line[: line.rindex(b',"crc32"')].replace(b'{"id":', b'{"id":"other","id":', 1)
    dump.write_bytes(header + content + b',"crc32":"%08x"}\n' % zlib.crc32(content) + b"".join(rest))
    with pytest.raises(InputError, match=r"line 2 is not JSON: the key 'id' is there twice"):
        Index.load(dump, tmp_path / "new.db", model=SplittingEncoder())


def test_an_index_without_documents_can_be_dumped(path: Path, tmp_path: Path) -> None:
    with Index.open(path, model=WordEncoder()) as index:
        assert index.dump(tmp_path / "none.jsonl.gz") == 0
    with Index.load(tmp_path / "none.jsonl.gz", tmp_path / "new.db", model=WordEncoder()) as index:
        assert len(index) == 0
        index.add(["red kettle"])


def test_a_damaged_database_is_not_dumped(path: Path, tmp_path: Path) -> None:
    from raw_database import raw

    _fill(path)
    with raw(path) as connection:
        connection.execute("UPDATE passages SET scale = 2 * scale WHERE passage_id = 30")
    with Index.open(path) as index, pytest.raises(StoreFormatError, match=r"token embeddings of .* are damaged"):
        index.dump(tmp_path / "all.jsonl")
    assert [entry.name for entry in tmp_path.iterdir()] == ["index.db"]


@pytest.mark.skipif(os.name == "nt", reason="limits of a process are POSIX's")
def test_a_full_disk_is_named(path: Path, tmp_path: Path) -> None:
    _fill(path)
    program = (
        "import resource, signal, sys\nfrom edgecolbert import Index, StoreError\n"
        "index = Index.open(sys.argv[1], read_only=True)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try: index.dump(sys.argv[2])\n"
        "except StoreError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), str(tmp_path / "all.jsonl")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "all.jsonl cannot be written" in done.stdout, done
    assert not list(tmp_path.glob("all*"))
