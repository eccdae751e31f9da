"""Whatever comes from outside, as hypothesis makes it up.

Manifests, filters as mappings, as text and as JSON, queries by words, texts to be cut, rows and pages of the database,
dumps, and JSON Lines.

Every piece of nonsense must end in an error of edgecolbert's own, or in what the rules of its kind promise.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import shutil
import sqlite3
import time
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
from children import Child, in_child, must
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from operations import OLD, TINY_MODEL, documents, encoder, open_index, records, scratch

from edgecolbert import EdgeColbertError, Index, recover
from edgecolbert.chunking import split_text
from edgecolbert.filters import matches, read_filter
from edgecolbert.filters.parser import parse_filter
from edgecolbert.lexical import parse_query
from edgecolbert.manifest import ModelManifest
from edgecolbert.sources import Reading, open_sources

# Seconds for all targets together.
_SECONDS = (600.0, 5.0)

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(),
    st.binary(max_size=30),
)
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=12,
)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every target for its share of the time, each in a process of its own.

    Args:
        options: `short`: about a second each.

    Returns:
        Examples tried by target, and every finding.
    """
    share = _SECONDS[options.short] / len(_TARGETS)
    folder = scratch()
    rows = []
    try:
        must(in_child(lambda: _make(folder / "index.db")))
        for name, target in _TARGETS.items():
            ended = Child(lambda tell, target=target: _fuzz(target, folder, share, options), patience=share + 300).end()
            result = ended.result or {
                "examples": 0,
                "found": f"signal {ended.signal}, late {ended.late}: {ended.error}",
            }
            findings = [{"found": line} for line in result["found"].splitlines() if line.strip()]
            rows.append({"target": name, "examples": result["examples"], "findings": findings})
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    passed = all(row["examples"] > 0 and not row["findings"] for row in rows)
    totals = {row["target"]: {"examples": row["examples"], "findings": len(row["findings"])} for row in rows}
    return {"passed": passed, "hypothesis": hypothesis.__version__, "totals": totals, "rows": rows}


def _fuzz(target: Callable[[Path], Any], folder: Path, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of examples with other seeds until the time is over, or something is found."""
    until = time.monotonic() + seconds
    examples = 0
    own = folder / target.__name__
    own.mkdir()
    n = 0
    while True:
        tried: list[int] = []
        test = target(own if target is not _rows else folder)
        counted = _counting(test, tried)
        settings = hypothesis.settings(
            max_examples=25 if options.short else 100,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        )
        try:
            hypothesis.seed(options.seed * 1_000_003 + n)(settings(counted))()
        except BaseException as error:
            return {"examples": examples + len(tried), "found": _each(error)}
        examples += len(tried)
        n += 1
        if time.monotonic() > until:
            return {"examples": examples, "found": ""}


def _each(error: BaseException) -> str:
    """The failures that hypothesis found: for each where it is, what it is, and the example."""
    failures = error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
    texts = []
    for failure in failures:
        frames = traceback.extract_tb(failure.__traceback__)
        where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[:-4:-1])
        texts.append(
            f"{type(failure).__name__}: {str(failure)[:300]} [{where}] {' '.join(getattr(failure, '__notes__', ()))}"
        )
    return "\n".join(texts)[:6_000]


def _counting(test: Any, tried: list[int]) -> Any:
    """The same test; each run leaves a mark."""
    inner = test.hypothesis.inner_test

    def counted(*arguments: Any, **options: Any) -> Any:
        tried.append(1)
        return inner(*arguments, **options)

    test.hypothesis.inner_test = counted
    return test


# --- Manifests


def _manifests(folder: Path) -> Any:
    """A true manifest with parts replaced by nonsense, or nonsense altogether."""
    true = json.loads((TINY_MODEL / "manifest.json").read_text())
    path = folder / "manifest.json"
    names = list(true)
    inner = list(true["encoding"])

    @given(
        content=st.one_of(
            st.binary(max_size=200), st.text().map(str.encode), _JSON.map(lambda data: json.dumps(data).encode())
        ),
        outer=st.dictionaries(st.sampled_from(names) | st.text(), _JSON, max_size=3),
        settings=st.dictionaries(st.sampled_from(inner) | st.text(), _JSON, max_size=3),
        whole=st.booleans(),
        removed=st.sets(st.sampled_from(names), max_size=1),
    )
    def test(content: bytes, outer: dict[str, Any], settings: dict[str, Any], whole: bool, removed: set[str]) -> None:
        if not whole:
            data = true | {"encoding": true["encoding"] | settings} | outer
            content = json.dumps({key: value for key, value in data.items() if key not in removed}).encode()
        path.write_bytes(content)
        with contextlib.suppress(EdgeColbertError):
            manifest = ModelManifest.read(folder)
            # What is accepted can be written and read again, and means the same.
            path.write_text(manifest.to_json(), encoding="utf-8")
            again = ModelManifest.read(folder)
            if again.fingerprint != manifest.fingerprint:
                raise AssertionError("a manifest that was written again has another fingerprint")

    return test


# --- Filters


def _filters(folder: Path) -> Any:
    """Filters against what comparing in Python finds."""
    held: list[dict[str, Any]] = [
        {},
        {"a": 1},
        {"a": 1.0, "b": None},
        {"a": "1"},
        {"a": True},
        {"": "x"},
        {'q"[.$': 2**60},
        {"a\0b": "c\0"},
    ]
    index = Index.open(":memory:", model=_words())
    index.add([{"id": f"{n}", "text": f"common {n}", "metadata": metadata} for n, metadata in enumerate(held)])
    names = st.one_of(st.sampled_from([name for metadata in held for name in metadata]), st.text(), _SCALARS)
    values = st.one_of(st.sampled_from([v for m in held for v in m.values()]), _JSON, _SCALARS)

    @given(conditions=st.one_of(st.dictionaries(names, values, max_size=3), _SCALARS, _JSON))
    def test(conditions: Any) -> None:
        try:
            found = {int(hit.id) for hit in index.search("common", filter=conditions)}
        except EdgeColbertError:
            return
        if conditions is None:
            conditions = {}
        wanted = {n for n, m in enumerate(held) if all(_same(m, name, value) for name, value in conditions.items())}
        if found != wanted:
            raise AssertionError(f"{conditions!r} selects {found}, expected {wanted}")

    return test


def _same(metadata: dict[str, Any], name: str, value: Any) -> bool:
    if name not in metadata:
        return False
    other = metadata[name]
    if isinstance(value, bool) or isinstance(other, bool) or value is None or other is None:
        return other is value
    return (type(other) in (int, float) and type(value) in (int, float) and other == value) or (
        isinstance(other, str) and isinstance(value, str) and other == value
    )


def _words() -> Any:
    from word_encoder import WordEncoder

    return WordEncoder()


# --- Filters as they are written


_HELD: list[dict[str, Any]] = [
    {},
    {"year": 2020, "lang": "en", "tags": ["x", "y"], "draft": True},
    {"year": 2021.5, "lang": None, "tags": [], "draft": False},
    {"year": "2020", "tags": "x", "meta": {"lang": "de", "day": "2024-05-01"}},
    {"day": "2024-05-01T12:00:00+02:00", "meta": {"lang": ["en"], "day": "2024-05-01T10:00:00Z"}},
    {"year": 2**70, "and": 1, "a b": "\0", "é": -0.0},
]
_FIELDS = ("year", "lang", "tags", "draft", "meta", "day", "and", "a b", "é", "meta/lang", '"a b"', "'and'", "gone")
_VALUES = ("2020", "2021.5", "-0", "1e3", "1e999", '"x"', "'en'", '"\\u0000"', "true", "null", "2024-05-01", '""')
_VALUES += ("2024-05-01T10:00:00Z", "2024-13-01", "(", '"')
_SIGNS = ("=", "==", "!=", "<", "<=", ">", ">=", "contains", "not contains", "substring", "in", "not in")


@st.composite
def _written(draw: st.DrawFn) -> str:
    """A filter in the written form, or nearly one."""
    name, sign = draw(st.sampled_from(_FIELDS)), draw(st.sampled_from(_SIGNS))
    value = draw(st.sampled_from(_VALUES))
    if sign.endswith("in"):
        value = f"({', '.join(draw(st.lists(st.sampled_from(_VALUES), max_size=3)))})"
    return draw(
        st.sampled_from([f"{name} {sign} {value}", f"{name} exists", f"{name} missing", f"{name}{sign}{value}"])
    )


_OPERATORS = ("eq", "ne", "lt", "lte", "gt", "gte", "in", "not_in", "contains", "substring", "exists", "date", "field")
_COMPARED = st.sampled_from([2020, 2021.5, "x", "en", "2024-05-01", "\0", True, None, [], ["x", 2020], 2**70])
_NAMED = st.sampled_from(["year", "lang", "tags", "meta", "day", "and", "or", "not", "field", "gone"])
_MAPPINGS = st.recursive(
    st.dictionaries(
        _NAMED, _COMPARED | st.dictionaries(st.sampled_from(_OPERATORS), _COMPARED, max_size=2) | _JSON, max_size=2
    ),
    lambda inner: st.dictionaries(st.sampled_from(["and", "or", "not"]), st.lists(inner, max_size=3), max_size=2),
    max_leaves=5,
)


def _written_filters(folder: Path) -> Any:
    """Filters as text and as JSON select the same in SQL as in Python, with and without indexed fields."""
    index = Index.open(":memory:", model=_words())
    index.add([{"id": f"{n}", "text": f"common {n}", "metadata": metadata} for n, metadata in enumerate(_HELD)])
    joined = st.recursive(
        _written(),
        lambda inner: st.one_of(
            st.builds("{} and {}".format, inner, inner),
            st.builds("({}) or not {}".format, inner, inner),
            st.builds("not ({})".format, inner),
        ),
        max_leaves=4,
    )
    noise = st.text(alphabet="ab=<>!()/,'\"\\ 0129-:T.{}[]ortniexsdu\n\0é", max_size=40)
    texts = st.one_of(joined, noise, st.text(), _MAPPINGS.map(json.dumps), st.builds("{}{}".format, joined, noise))

    @given(text=texts, indexed=st.sets(st.sampled_from(["year", "lang", "tags", "day"]), max_size=2))
    def test(text: str, indexed: set[str]) -> None:
        for path in index.indexed_fields():
            index.unindex_field(path)
        for name in sorted(indexed):
            index.index_field(name)
        try:
            wanted = parse_filter(text)
        except EdgeColbertError:
            return
        found = index.ids(filter=wanted)
        right = [f"{n}" for n, metadata in enumerate(_HELD) if matches(metadata, wanted)]
        if found != right or index.count(filter=wanted) != len(right):
            raise AssertionError(f"{text!r} selects {found}, expected {right}")
        # What a filter says as JSON is the same filter.
        again = read_filter(json.loads(json.dumps(wanted.to_json())))
        if index.ids(filter=again) != right:
            raise AssertionError(f"{text!r} selects others as JSON: {wanted.to_json()!r}")

    return test


# --- Queries by words


def _queries(folder: Path) -> Any:
    """Every query is answered, whatever FTS5's language would make of it, and a text is found by its own words."""
    pieces = (
        "kettle",
        "C++",
        "foo_bar",
        " ",
        "'",
        '"',
        "AND",
        "NOT ",
        "NEAR(",
        ")",
        "*",
        "^",
        ":",
        "{",
        "}",
        "+",
        "-",
        "\0",
    )
    pieces += (
        "漢字",
        "かな",
        "é",
        "e\u0301",
        "ﬁ",
        "\u201c",
        "\u201d",
        ".",
        "a.b",
        "@",
        "\n",
        "the ",
        "\u200d",
        "\ud7ff",
    )
    texts = st.one_of(st.text(), st.lists(st.sampled_from(pieces), max_size=20).map("".join))

    @given(stored=st.lists(texts, min_size=1, max_size=4, unique=True), query=texts)
    def test(stored: list[str], query: str) -> None:
        with Index.open(":memory:", model=_words()) as index:
            try:
                index.add([{"id": f"{n}", "text": text} for n, text in enumerate(stored)])
            except EdgeColbertError:
                return  # lone surrogates
            found = {hit.id for hit in index.search(query, mode="lexical", k=9)}
            if not found <= {f"{n}" for n in range(len(stored))}:
                raise AssertionError(f"{query!r} finds {found}")
            if parse_query(query) is None and found:
                raise AssertionError(f"{query!r} has nothing to look up and finds {found}")
            for n, text in enumerate(stored):
                own = parse_query(text)
                if own is not None and own.required is None:
                    hits = {hit.id for hit in index.search(text, mode="lexical", k=9)}
                    if f"{n}" not in hits:
                        raise AssertionError(f"{text!r} is not found by itself: {hits}")
            if index.verify().problems:
                raise AssertionError(f"after {stored!r}: {index.verify().problems}")

    return test


# --- Chunking


def _chunking(folder: Path) -> Any:
    """Passages lie in order, leave out nothing but white space, and fit where they can be cut."""
    pieces = st.sampled_from([*"ab \n\t.!?…。」é\0", "word ", "sentence. ", "\u2028", "\U0001f600", "\ud800", "\xa0"])
    texts = st.one_of(st.text(), st.lists(pieces, max_size=200).map("".join))

    @given(text=texts, room=st.integers(-1, 9), by_characters=st.booleans())
    def test(text: str, room: int, by_characters: bool) -> None:
        def count(parts: list[str]) -> list[int]:
            return [len(part) if by_characters else len(part.split()) for part in parts]

        try:
            spans = split_text(text, count, room)
        except ValueError:
            if room >= 1:
                raise
            return
        if not text.strip():
            assert spans == [(0, len(text))]
            return
        place = 0
        for start, end in spans:
            assert place <= start < end <= len(text), spans
            assert not text[place:start].strip(), "something is left out"
            assert count([text[start:end]])[0] <= room, f"{text[start:end]!r} does not fit {room}"
            place = end
        assert not text[place:].strip(), "the end is left out"

    return test


# --- Rows of the database


_CELLS = (
    *(("passages", name) for name in ("n_tokens", "scale", "checksum", "tokens", "ordinal", "n_passages", "span_end")),
    *(("contents", name) for name in ("hash", "text")),
    *(("documents", name) for name in ("id", "content_id", "metadata", "source", "checksum")),
    *(("codes", name) for name in ("code", "checksum", "content_id")),
    *(("segments", name) for name in ("members", "n_passages", "level", "checksum")),
    *(("cell_lists", name) for name in ("entries", "checksum")),
    *(
        ("first_stages", name)
        for name in ("settings", "cells", "codebooks", "mean", "fitted_on", "measured", "checksum")
    ),
    *(("encodings", name) for name in ("model_name", "model_reference", "fingerprint", "dim", "settings")),
    *(("segment_cells", name) for name in ("cells", "checksum")),
    *(("indexed_fields", name) for name in ("path", "n_entries", "checksum")),
    *(("field_entries", name) for name in ("value", "kind", "document_id")),
    ("state", "value"),
)


def _make(path: Path) -> None:
    with open_index(path) as index:
        index.add(records(documents(0, 30)))
        index.index_field("version")
        index.tune(["common word3"], compare=False)


def _rows(folder: Path) -> Any:
    """One value of one row, or of all rows, replaced by nonsense: errors of ours, or the answers as before."""
    good = folder / "index.db"
    path = folder / "changed.db"
    path.unlink(missing_ok=True)
    right = _answers(good)
    values = st.one_of(
        _SCALARS.map(_storable),
        _JSON.map(json.dumps),
        st.binary(max_size=300),
        st.sampled_from(["[" * 5_000, "{}", ""]),
    )

    @given(cell=st.sampled_from(_CELLS), value=values, every=st.booleans(), row=st.integers(0, 20))
    def test(cell: tuple[str, str], value: Any, every: bool, row: int) -> None:
        table, column = cell
        shutil.copy(good, path)
        connection = sqlite3.connect(path)
        key = {"codes": "passage_id", "state": "key", "field_entries": "document_id"}.get(table, "rowid")
        where = "" if every else f"WHERE {key} = (SELECT {key} FROM {table} ORDER BY 1 LIMIT 1 OFFSET {row})"
        try:
            connection.execute(f"UPDATE {table} SET {column} = ? {where}", (value,))
            connection.commit()
        except (sqlite3.Error, OverflowError, UnicodeEncodeError):
            return  # SQLite itself refuses it
        finally:
            connection.close()
        answers = _answers(path)
        wrong = {name: answer for name, answer in answers.items() if answer not in ("refused", right.get(name))}
        wrong.pop("verify", None)
        assert not wrong, f"{table}.{column} = {value!r}, {'every row' if every else f'row {row}'}: {wrong}"

    return test


def _storable(value: Any) -> Any:
    return max(-(2**63), min(value, 2**63 - 1)) if isinstance(value, int) else value


def _answers(path: Path) -> dict[str, Any]:
    answers: dict[str, Any] = {}

    def ask(name: str, question: Callable[[], Any]) -> None:
        try:
            answers[name] = question()
        except EdgeColbertError:
            answers[name] = "refused"

    try:
        index = open_index(path, create=False, read_only=True)
    except EdgeColbertError:
        return {"open": "refused"}
    with index:
        ask("get", lambda: index.get("d005"))
        ask("exact", lambda: [(hit.id, hit.score) for hit in index.search("common word7", exact=True)])
        ask("first stage", lambda: [(hit.id, hit.score) for hit in index.search("common word9", n_candidates=4)])
        ask("filter", lambda: [hit.id for hit in index.search("common", filter={"n": 3})])
        ask("indexed filter", lambda: index.ids(filter={"version": 0}))
        ask("words", lambda: [(hit.id, hit.score) for hit in index.search("word7", mode="lexical")])
        ask("both", lambda: [(hit.id, hit.score) for hit in index.search("word8", mode="hybrid", n_candidates=4)])
        ask("ids", index.ids)
        ask("absent", lambda: index.get("nobody"))
        ask("verify", lambda: "problems" if index.verify().problems else "clean")
        # That it answers at all; it counts what there is.
        ask("stats", lambda: bool(index.stats()))
    return answers


# --- Pages of the database


def _pages(folder: Path) -> Any:
    """Some bytes of a file replaced: repair refuses it, or makes a sound file in which every document is right."""
    good, path, out = folder / "sound.db", folder / "damaged.db", folder / "repaired.db"
    good.unlink(missing_ok=True)
    _make(good)
    content = good.read_bytes()
    with open_index(good, read_only=True) as index:
        right = {name: index.get(name) for name in index.ids()}
    damage = st.tuples(st.integers(0, len(content) - 1), st.binary(min_size=1, max_size=40))

    @given(damages=st.lists(damage, min_size=1, max_size=6))
    def test(damages: list[tuple[int, bytes]]) -> None:
        changed = bytearray(content)
        for place, new in damages:
            changed[place : place + len(new)] = new[: len(content) - place]
        path.write_bytes(changed)
        out.unlink(missing_ok=True)
        try:
            report = recover(path, out, model=encoder(OLD))
        except EdgeColbertError:
            assert not out.exists()
            return
        assert path.read_bytes() == changed, "the damaged file was written to"
        with open_index(out, read_only=True) as index:
            found = {name: index.get(name) for name in index.ids()}
            problems = index.verify().problems
        assert not problems, problems
        # Where the list of free pages is hit, what was deleted may come back, and is named.
        wrong = {name for name, document in found.items() if document != right.get(name)}
        assert wrong <= set(report.uncertain), f"{wrong} are wrong, {report.uncertain} uncertain"
        missing = len(right.keys() - found.keys() - set(report.lost))
        assert missing <= report.lost_unnamed, f"{missing} are missing and neither named nor counted"

    return test


# --- Dumps


def _dumps(folder: Path) -> Any:
    """A dump with parts replaced by nonsense: an error of ours, or a sound database of as many documents."""
    whole, path, target = folder / "whole.db", folder / "changed.jsonl", folder / "loaded.db"
    for left in folder.iterdir():
        left.unlink()
    with open_index(whole) as index:
        index.add(records(documents(0, 6)))
        index.index_field("n")
        index.dump(folder / "whole.jsonl")
    lines = (folder / "whole.jsonl").read_bytes().splitlines(keepends=True)
    parsed = [json.loads(line) for line in lines]
    keys = sorted({key for data in parsed for key in data} | {"start", "tokens", "name", "fingerprint", "dim", "cells"})

    @given(
        number=st.integers(0, len(lines) - 1),
        changes=st.dictionaries(st.sampled_from(keys) | st.text(max_size=5), _JSON, max_size=2),
        removed=st.sets(st.sampled_from(keys), max_size=1),
        inner=st.booleans(),
        cut=st.none() | st.integers(0, 400),
        rubbish=st.none() | st.binary(max_size=30),
        packed=st.booleans(),
        fill=st.integers(0, 3),
    )
    def test(
        number: int,
        changes: dict[str, Any],
        removed: set[str],
        inner: bool,
        cut: int | None,
        rubbish: bytes | None,
        packed: bool,
        fill: int,
    ) -> None:
        data = json.loads(lines[number])
        del data["crc32"]
        # The line itself, its model and first stage, or its first passage.
        places = [data, *(value for value in data.values() if isinstance(value, dict))]
        places += [value[0] for value in data.values() if isinstance(value, list) and isinstance(value[0], dict)]
        place = places[fill % len(places)] if inner else data
        place.update(changes)
        for key in removed:
            place.pop(key, None)
        body = json.dumps(data).encode()[:-1]
        written = [*lines]
        written[number] = body + b',"crc32":"%08x"}\n' % zlib.crc32(body)
        content = b"".join(written)
        content = gzip.compress(content) if packed else content
        content = content if cut is None else content[: len(content) - cut]
        path.write_bytes(content if rubbish is None else content[: len(content) // 2] + rubbish)
        for left in folder.glob("loaded.db*"):
            left.unlink()
        try:
            loaded = Index.load(path, target, model=encoder(OLD))
        except EdgeColbertError:
            assert not target.exists()
            return
        with loaded:
            assert len(loaded) == len(lines) - 1
            problems = loaded.verify().problems
            assert not problems, problems

    return test


# --- JSON Lines


def _json_lines(folder: Path) -> Any:
    """Files of records: every line is a record or an error that names it."""
    path = folder / "records.jsonl"
    keys = st.sampled_from(["id", "_id", "text", "title", "metadata"]) | st.text()
    line = st.one_of(
        st.dictionaries(keys, _JSON, max_size=4).map(lambda data: json.dumps(data).encode()),
        st.dictionaries(keys, st.text(), max_size=4).map(lambda data: json.dumps(data | {"text": "t"}).encode()),
        st.binary(max_size=60),
        st.sampled_from([b"", b"{", b'{"text": "a"}', b'{"text": "\\ud800"}', b"[" * 3_000, b"\xef\xbb\xbf{}", b"NaN"]),
    )

    @given(content=st.lists(line, max_size=6).map(b"\n".join))
    def test(content: bytes) -> None:
        path.write_bytes(content)
        reading = Reading()
        try:
            (source,) = open_sources([str(path)])
            found = list(source.read(reading))
        except EdgeColbertError as error:
            if str(path) not in str(error):
                raise AssertionError(f"the error does not name the file: {error}") from error
            return
        assert len(found) == sum(1 for part in io.BytesIO(content) if part.strip())
        with Index.open(":memory:", model=_words()) as index:
            index.add(found)
            ids = [record["id"] for record in found if "id" in record]
            assert set(ids) <= set(index.ids())

    return test


_TARGETS: dict[str, Callable[[Path], Any]] = {
    "manifests": _manifests,
    "filters": _filters,
    "filters as text and JSON": _written_filters,
    "queries by words": _queries,
    "chunking": _chunking,
    "rows of the database": _rows,
    "pages of the database": _pages,
    "dumps": _dumps,
    "JSON Lines": _json_lines,
}
