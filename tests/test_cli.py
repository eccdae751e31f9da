"""The command line: every command with and without --json, and errors as one line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from word_encoder import WordEncoder

from edgecolbert import FdeSettings, Index, PassageSettings, __version__
from edgecolbert.cli import COMMANDS, main

TESTS = Path(__file__).parent
TINY = str(TESTS / "fixtures" / "tiny-model")
HANDBOOK = TESTS.parent / "examples" / "handbook"


class Shell:
    """Runs commands in this process and keeps what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.err = ""

    def __call__(self, *words: str | Path, code: int = 0) -> str:
        self._capsys.readouterr()
        found = main([str(word) for word in words])
        captured = self._capsys.readouterr()
        self.err = captured.err
        assert found == code, captured
        return captured.out

    def json(self, *words: str | Path, code: int = 0) -> Any:
        return json.loads(self(*words, "--json", code=code))

    def fails(self, *words: str | Path) -> str:
        """The one line on standard error of a command that fails."""
        assert self(*words, code=1) == ""
        assert self.err.startswith("edgecolbert: ")
        assert self.err.count("\n") == 1
        return self.err


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A folder with three notes."""
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / "kettle.md").write_text("The kettle is in the left cupboard.", encoding="utf-8")
    (folder / "bins.txt").write_text("Bins go out on Tuesday.", encoding="utf-8")
    (folder / "deep" / "über.md").write_text("Grüße aus München.", encoding="utf-8")
    return folder


def _feed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_the_handbook_is_indexed_and_searched_with_the_starter_model(shell: Shell, path: Path) -> None:
    report = shell.json("index", HANDBOOK, "--db", path)
    n_files = len(list(HANDBOOK.glob("*.md")))
    assert report == {
        "added": n_files, "updated": 0, "unchanged": 0, "encoded": n_files, "removed": 0, "documents": n_files,
        "skipped": [], "passed_over": {},
    }  # fmt: skip
    found = shell.json("search", "water keeps dripping at night", "--db", path, "-k", "3")
    assert found["query"] == "water keeps dripping at night"
    assert found["hits"][0]["id"] == "dripping-tap.md"
    assert len(found["hits"]) == 3
    for hit in found["hits"]:
        assert set(hit) == {"id", "score", "text", "metadata", "passage", "ranks"}
        assert hit["text"] == (HANDBOOK / hit["id"]).read_text(encoding="utf-8")
    assert set(found["ms"]) >= {"search", "total"}
    for extra in (["--exact"], ["--n-candidates", str(n_files)]):
        again = shell.json("search", "water keeps dripping at night", "--db", path, "-k", "3", *extra)
        assert [hit["id"] for hit in again["hits"]] == [hit["id"] for hit in found["hits"]]


def test_search_prints_rank_score_id_and_passage_for_people(shell: Shell, notes: Path, path: Path) -> None:
    shell("index", notes, "--db", path, "--model", TINY)
    lines = shell("search", "kettle", "--db", path, "-k", "2").splitlines()
    assert lines[0].startswith("  1. ")
    assert lines[0].split()[2] in ("kettle.md", "bins.txt", "deep/über.md")
    assert len(lines) == 4


def test_what_a_document_says_cannot_steer_the_terminal(shell: Shell, notes: Path, path: Path) -> None:
    (notes / "evil.md").write_text("\x1b[31mred\x07\x00 \u202e text", encoding="utf-8")
    shell("index", notes, "--db", path, "--model", TINY)
    printed = shell("search", "red", "--db", path)
    assert "red" in printed
    assert not {"\x1b", "\x07", "\x00", "\u202e"} & set(printed)
    hits = shell.json("search", "red", "--db", path)["hits"]
    assert "\x1b[31mred\x07\x00 \u202e text" in [hit["text"] for hit in hits]


def test_a_search_in_an_empty_database_says_so(shell: Shell, path: Path) -> None:
    with Index.open(path, model=TINY):
        pass
    assert shell("search", "anything", "--db", path) == ""
    assert shell.err == "No documents.\n"
    assert shell.json("search", "anything", "--db", path)["hits"] == []


def test_a_files_id_is_its_path_relative_to_the_folder(shell: Shell, notes: Path, path: Path) -> None:
    shell("index", notes, "--db", path, "--model", TINY)
    with Index.open(path) as index:
        assert sorted(index.ids()) == ["bins.txt", "deep/über.md", "kettle.md"]
        document = index.get("deep/über.md")
        assert document is not None
        assert document.text == "Grüße aus München."
        file = notes / "deep" / "über.md"
        kept = document.metadata.pop("file")
        assert document.metadata == {
            "path": str(file), "title": "über", "kind": "markdown", "format": "markdown",
            "modified": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(file.stat().st_mtime)),
        }  # fmt: skip
        assert (kept["root"], kept["size"]) == (str(notes.resolve()), file.stat().st_size)


def test_how_tokens_are_stored_is_chosen_when_the_database_is_made(shell: Shell, notes: Path, path: Path) -> None:
    words = ("index", notes, "--db", path, "--model", TINY, "--token-bits", "4")
    shell(*words, "--pool-factor", "2")
    found = shell.json("info", "--db", path)
    assert found["token_storage"] == {"bits": 4, "pool_factor": 2}
    assert found["token_bytes"] == found["tokens"] * found["dim"] // 2 + 3 * (found["dim"] + 1)
    assert shell.json("index", notes, "--db", path)["unchanged"] == 3
    # What is not given is the database's.
    assert shell.json(*words)["unchanged"] == 3
    assert "made with tokens = " in shell.fails(*words, "--pool-factor", "3")
    assert "bits is 5, expected 8 or 4" in shell.fails("index", notes, "--db", path, "--token-bits", "5")
    assert "bits=4, pool_factor=2" in shell("info", "--db", path)


def test_unchanged_files_are_skipped_and_changed_ones_encoded_again(shell: Shell, notes: Path, path: Path) -> None:
    shell("index", notes, "--db", path, "--model", TINY)
    (notes / "bins.txt").write_text("Bins go out on Friday.", encoding="utf-8")
    report = shell.json("index", notes, "--db", path)
    assert (report["added"], report["updated"], report["unchanged"], report["encoded"]) == (0, 1, 2, 1)
    assert "0 added, 0 updated, 3 unchanged; 3 documents in" in shell("index", notes, "--db", path)


def test_vanished_files_stay_until_they_are_pruned(shell: Shell, notes: Path, path: Path) -> None:
    shell("index", notes, "--db", path, "--model", TINY)
    with Index.open(path) as index:
        index.add([{"id": "by hand", "text": "added by hand"}])
    (notes / "bins.txt").unlink()
    assert shell.json("index", notes, "--db", path)["documents"] == 4
    report = shell.json("index", notes, "--db", path, "--prune")
    assert (report["removed"], report["documents"]) == (1, 3)
    with Index.open(path) as index:
        assert sorted(index.ids()) == ["by hand", "deep/über.md", "kettle.md"]
    assert "3 unchanged" not in shell("index", notes, "--db", path, "--prune")


def test_nothing_is_pruned_when_something_could_not_be_read(shell: Shell, notes: Path, path: Path) -> None:
    shell("index", notes, "--db", path, "--model", TINY)
    (notes / "bins.txt").unlink()
    (notes / "bins.txt").symlink_to(notes / "bins.txt")
    report = shell.json("index", notes, "--db", path, "--prune")
    assert (report["removed"], report["documents"]) == (0, 3)
    assert "bins.txt" in report["skipped"][0]
    assert "skipped" in shell.err


def test_records_are_read_from_json_lines_and_beir_rows(shell: Shell, tmp_path: Path, path: Path) -> None:
    records = tmp_path / "records.jsonl"
    rows = [
        '\ufeff{"id": "a", "text": "red kettle", "metadata": {"n": 1}, "year": 1999}',
        "",
        '{"_id": "b", "title": "Blue", "text": "cup"}',
        '{"text": "without an id"}',
    ]
    records.write_text("\n".join(rows), encoding="utf-8")
    assert shell.json("index", records, "--db", path, "--model", TINY)["added"] == 3
    with Index.open(path) as index:
        assert index.ids()[:2] == ["a", "b"]
        assert dict(index.get("a") or {})["metadata"] == {"n": 1, "year": 1999}
        assert dict(index.get("b") or {}) == {"id": "b", "text": "Blue cup", "metadata": {"title": "Blue"}}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 3 is not JSON"),
        (b"[" * 100_000, "line 3 is not JSON"),
        (b'{"text": "\xff"}', "line 3 is not JSON"),
        (b"[1]", "line 3 is list, expected an object with text and optionally id"),
        (b'"text"', "line 3 is str, expected an object"),
        (b'{"id": "x"}', "line 3 has no text, or a text that is not a string"),
        (b'{"text": 3}', "line 3 has no text"),
        (b'{"text": "x", "id": 3}', "line 3: id is 3, expected a string"),
        (b'{"text": "x", "metadata": "y"}', "line 3: metadata is str, expected an object"),
        (b'{"text": "x", "n": NaN}', "line 3 is not JSON: NaN is not JSON"),
        (b'{"text": "\\ud800"}', "line 3: text has a lone surrogate"),
        (b'{"text": "x", "id": ""}', "line 3: id is empty"),
    ],
)
def test_a_wrong_line_is_named_and_the_lines_before_it_stay(
    shell: Shell, tmp_path: Path, path: Path, line: bytes, message: str
) -> None:
    records = tmp_path / "records.jsonl"
    records.write_bytes(b'{"id": "a", "text": "red"}\n{"id": "b", "text": "blue"}\n' + line + b"\n")
    error = shell.fails("index", records, "--db", path, "--model", TINY, "--batch-size", "1")
    assert f"{records}, {message}" in error
    with Index.open(path) as index:
        assert index.ids() == ["a", "b"]


def test_standard_input_is_one_text_or_json_lines(shell: Shell, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _feed(monkeypatch, b"Ein Text.\nNoch eine Zeile.\n")
    assert shell.json("index", "-", "--db", path, "--model", TINY)["added"] == 1
    _feed(monkeypatch, b'{"id": "a", "text": "red"}\n\n{"id": "b", "text": "blue"}')
    assert shell.json("index", "-", "--db", path)["added"] == 2
    for nothing in (b"", b" \n\n"):
        _feed(monkeypatch, nothing)
        assert shell.json("index", "-", "--db", path)["documents"] == 3
    _feed(monkeypatch, b"broken \xff bytes")
    report = shell.json("index", "-", "--db", path)
    assert report["documents"] == 4
    assert report["skipped"] == ["standard input: it is not UTF-8 (byte 7): it was read as cp1252, which is a guess"]
    _feed(monkeypatch, b"[" * 5_000)
    assert shell.json("index", "-", "--db", path)["documents"] == 5


def test_a_file_that_is_not_utf_8_is_read_with_a_warning(shell: Shell, notes: Path, path: Path) -> None:
    (notes / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    report = shell.json("index", notes, "--db", path, "--model", TINY)
    assert report["documents"] == 4
    assert "latin.txt: it is not UTF-8 (byte 2): it was read as cp1252, which is a guess" in report["skipped"][0]
    with Index.open(path) as index:
        assert dict(index.get("latin.txt") or {})["text"] == "Grüße"


def test_a_file_whose_name_is_not_utf_8_is_skipped_with_a_warning(shell: Shell, notes: Path, path: Path) -> None:
    name = os.fsencode(notes) + b"/br\xfcn.txt"
    try:
        Path(os.fsdecode(name)).write_text("brown", encoding="utf-8")
    except OSError:
        pytest.skip("this file system has only names in UTF-8")
    command = [sys.executable, "-m", "edgecolbert", "index", str(notes), "--db", str(path), "--model", TINY, "--json"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["documents"] == 3
    assert "its name is not valid UTF-8" in report["skipped"][0]


def test_hidden_files_other_files_and_links_to_folders_are_passed_over(shell: Shell, notes: Path, path: Path) -> None:
    (notes / ".hidden.md").write_text("hidden")
    (notes / ".git").mkdir()
    (notes / ".git" / "readme.md").write_text("hidden too")
    (notes / "picture.png").write_bytes(b"\x89PNG")
    (notes / "loop").symlink_to(notes)
    os.mkfifo(notes / "pipe.txt")
    report = shell.json("index", notes, "--db", path, "--model", TINY)
    assert report["documents"] == 3


def test_two_folders_with_files_of_one_name_are_refused_before_anything_is_read(
    shell: Shell, tmp_path: Path, path: Path
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.md").write_text(name)
    error = shell.fails("index", tmp_path / "a", tmp_path / "b", "--db", path, "--model", TINY)
    assert "would both have the id 'same.md', and one would replace the other. Index their common parent" in error
    assert not path.exists()
    assert shell.json("index", tmp_path / "a", tmp_path / "a", "--db", path, "--model", TINY)["documents"] == 1


def test_errors_are_one_line_and_exit_code_1(shell: Shell, notes: Path, path: Path, tmp_path: Path) -> None:
    assert "nowhere does not exist. Check the path" in shell.fails("index", tmp_path / "nowhere", "--db", path)
    assert "There is no database at" in shell.fails("search", "x", "--db", tmp_path / "none.db")
    assert "There is no database at" in shell.fails("info", "--db", tmp_path / "none.db")
    assert "There is no database at" in shell.fails("verify", "--db", tmp_path / "none.db")
    assert "There is no database at" in shell.fails("reencode", "--db", tmp_path / "none.db")
    assert "No model 'nobody'" in shell.fails("index", notes, "--db", path, "--model", "nobody")
    assert "is a folder, expected a database file" in shell.fails("index", notes, "--db", tmp_path, "--model", TINY)
    assert "qrels" in shell.fails("eval", notes)
    (tmp_path / "text.db").write_text("just some text in a file")
    assert "not an edgecolbert database" in shell.fails("search", "x", "--db", tmp_path / "text.db")
    with Index.open(tmp_path / "own.db", model=WordEncoder()) as index:
        index.add(["x"])
    assert "made with an encoder of your own, 'words'" in shell.fails("search", "x", "--db", tmp_path / "own.db")
    assert "reencode --db" in shell.fails("search", "x", "--db", tmp_path / "own.db", "--model", TINY)
    assert not path.exists()


def test_a_query_that_is_not_utf_8_is_named(shell: Shell, notes: Path, path: Path) -> None:
    shell("index", notes, "--db", path, "--model", TINY)
    assert "QUERY is not valid UTF-8" in shell.fails("search", "a\udcff", "--db", path)


@pytest.mark.parametrize(
    "words",
    [[], ["nonsense"], ["search", "x"], ["search", "--db", "x"], ["search", "x", "--db", "x", "-k", "0"], ["index"]],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: edgecolbert" in capsys.readouterr().err


def test_help_names_every_command_and_each_has_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    overview = capsys.readouterr().out
    for name, text in COMMANDS.items():
        assert name in overview
        assert text in " ".join(overview.split())
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        assert f"usage: edgecolbert {name}" in capsys.readouterr().out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"edgecolbert {__version__}\n"


@pytest.fixture
def talks(shell: Shell, tmp_path: Path, path: Path) -> Path:
    """A database of three records with metadata."""
    records = tmp_path / "talks.jsonl"
    metadata = [
        {"year": 2019, "tags": ["x"], "meta": {"lang": "en"}},
        {"year": 2021, "tags": ["x", "\x1b[31m"], "meta": {"lang": "de"}},
        {"year": 2024, "tags": []},
    ]
    lines = [
        json.dumps({"id": str(n), "text": f"kettle {n}", "metadata": entry}) + "\n" for n, entry in enumerate(metadata)
    ]
    records.write_text("".join(lines), encoding="utf-8")
    shell("index", records, "--db", path, "--model", TINY, "--index-field", "year", "--index-field", "meta/lang")
    return path


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("year >= 2020", {"1", "2"}),
        ('year >= 2020 and tags contains "x"', {"1"}),
        ("not meta/lang = 'en'", {"1", "2"}),
        ('{"year": {"lt": 2020}}', {"0"}),
        ("year > 3000", set()),
    ],
)
def test_search_takes_a_filter(shell: Shell, talks: Path, written: str, expected: set[str]) -> None:
    hits = shell.json("search", "kettle", "--db", talks, "--filter", written)["hits"]
    assert {hit["id"] for hit in hits} == expected


def test_facets_counts_the_values_of_a_field(shell: Shell, talks: Path) -> None:
    assert shell.json("facets", "tags", "--db", talks, "--filter", "year < 2022") == {
        "field": ["tags"], "documents": 2, "with_field": 2, "n_values": 2,
        "values": [{"value": "x", "count": 2}, {"value": "\x1b[31m", "count": 1}],
    }  # fmt: skip
    assert shell.json("facets", "meta/lang", "--db", talks, "-k", "1")["values"] == [{"value": "de", "count": 1}]
    assert shell("facets", "year", "--db", talks, "-k", "1").splitlines() == [
        "       1  2019",
        "3 values in 3 of 3 documents",
    ]
    assert "\x1b" not in shell("facets", "tags", "--db", talks)


def test_index_field_makes_an_index_that_stays(shell: Shell, talks: Path) -> None:
    with Index.open(talks, read_only=True) as index:
        assert index.indexed_fields() == [("year",), ("meta", "lang")]
    assert shell.json("verify", "--db", talks)["problems"] == []


def test_a_wrong_filter_or_field_is_one_line_with_its_place(shell: Shell, talks: Path, path: Path) -> None:
    message = shell.fails("search", "kettle", "--db", talks, "--filter", "year >= x")
    assert "filter: found 'x' at character 9, expected a value: a string in quotes" in message
    assert "at character 3" in shell.fails("facets", "a b", "--db", talks)
    assert "at character 5" in shell.fails("facets", "year", "--db", talks, "--filter", "year")
    assert "character 1" in shell.fails("index", talks.parent, "--db", talks, "--index-field", "")
    assert "not valid UTF-8" in shell.fails("search", "kettle", "--db", talks, "--filter", "year = '\udcff'")


def test_rerank_orders_files_without_a_database(
    shell: Shell, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(entry.name for entry in tmp_path.iterdir())
    found = shell.json("rerank", "where is the kettle?", notes / "bins.txt", notes / "kettle.md")
    assert [hit["id"] for hit in found["hits"]] == ["kettle.md", "bins.txt"]
    assert found["hits"][0]["score"] > found["hits"][1]["score"]
    assert len(shell.json("rerank", "kettle", notes, "-k", "1", "--model", TINY)["hits"]) == 1
    assert "1. " in shell("rerank", "kettle", notes, "--model", TINY)
    assert "does not exist" in shell.fails("rerank", "kettle", notes / "none.md", "--model", TINY)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before


def test_info_shows_what_is_in_a_database(shell: Shell, notes: Path, path: Path) -> None:
    shell("index", notes, "--db", path, "--model", TINY)
    stats = shell.json("info", "--db", path)
    assert (stats["documents"], stats["model"], stats["dim"], stats["path"]) == (3, "tiny", 16, str(path))
    printed = shell("info", "--db", path)
    for name in ("documents", "model", "first stage", "file bytes"):
        assert name in printed


def test_verify_says_what_is_wrong_with_its_exit_code(shell: Shell, notes: Path, path: Path) -> None:
    import sqlite3

    shell("index", notes, "--db", path, "--model", TINY)
    assert shell.json("verify", "--db", path) == {"documents": 3, "passages": 3, "problems": []}
    assert shell("verify", "--db", path) == "3 documents, 3 passages, 0 problems\n"
    connection = sqlite3.connect(path)
    connection.execute("UPDATE passages SET scale = 9 WHERE passage_id = 1")
    connection.commit()
    connection.close()
    report = shell.json("verify", "--db", path, code=1)
    assert len(report["problems"]) == 1
    assert report["problems"][0]["ids"][0] in ("bins.txt", "kettle.md", "deep/über.md")
    assert "1 problems\n- Stored token embeddings are damaged" in shell("verify", "--db", path, code=1)
    assert shell.json("reencode", "--db", path) == {
        "encoded": 3,
        "documents": 3,
        "model": "tiny",
        "token_storage": {"bits": 8, "pool_factor": 1},
        "passage_settings": PassageSettings().to_json(),
    }
    assert shell.json("verify", "--db", path)["problems"] == []


def test_reencode_gives_a_database_to_another_model(shell: Shell, notes: Path, path: Path) -> None:
    shell("index", notes, "--db", path, "--model", TINY)
    assert "3 texts encoded; 3 documents are now served by 'starter'" in shell(
        "reencode", "--db", path, "--model", "starter"
    )
    assert shell.json("search", "where is the kettle?", "--db", path)["hits"][0]["id"] == "kettle.md"


def test_reencode_stores_tokens_in_another_way(shell: Shell, notes: Path, path: Path) -> None:
    shell("index", notes, "--db", path, "--model", TINY, "--pool-factor", "2")
    assert shell.json("reencode", "--db", path, "--token-bits", "4")["token_storage"] == {"bits": 4, "pool_factor": 2}
    assert "pool_factor is 0" not in shell.fails("reencode", "--db", path, "--token-bits", "5")
    assert shell.json("verify", "--db", path)["problems"] == []
    assert shell.json("index", notes, "--db", path)["unchanged"] == 3


@pytest.fixture
def tuned(path: Path) -> Path:
    """A database with a first stage."""
    with Index.open(path, model=TINY) as index:
        index.add([f"note {n} about {word}" for n, word in enumerate(["kettle", "bins", "boiler"] * 10)])
    return path


def test_tune_takes_queries_of_a_text_file_or_of_json_lines(shell: Shell, tuned: Path, tmp_path: Path) -> None:
    lines, rows = tmp_path / "queries.txt", tmp_path / "queries.jsonl"
    lines.write_text("where is the kettle?\n\nbins\n", encoding="utf-8")
    rows.write_text('{"_id": "1", "text": "where is the kettle?"}\n{"text": "bins", "x": 2}\n', encoding="utf-8")
    words = ("tune", "--db", tuned, "--no-compare", "--queries")
    from_lines, from_rows = shell.json(*words, lines), shell.json(*words, rows)
    assert from_lines == from_rows
    assert (from_rows["queries"], from_rows["kept_kind"]) == (2, None)
    assert "queries" in shell(*words, rows)
    rows.write_text('{"_id": "1", "text": "a"}\n{"_id": "2"}\n', encoding="utf-8")
    assert "queries.jsonl, line 2: text is None, expected a string" in shell.fails(*words, rows)
    rows.write_text("no json\n", encoding="utf-8")
    assert "queries.jsonl, line 1 is no JSON" in shell.fails(*words, rows)
    for content in ("", '{"text": "  "}\n'):
        rows.write_text(content, encoding="utf-8")
        assert "queries.jsonl has no query" in shell.fails(*words, rows)
    assert "none.jsonl cannot be read" in shell.fails(*words, tmp_path / "none.jsonl")


def test_tune_says_that_it_keeps_the_kind_that_was_asked_for(shell: Shell, path: Path) -> None:
    with Index.open(path, model=TINY, fde=FdeSettings(kind="muvera")) as index:
        index.add([f"note {n}" for n in range(30)])
    words = ("tune", "--db", path, "--n-queries", "3")
    assert "kind 'muvera': the other was not tried (--any-kind tries it)" in shell(*words)
    assert "not tried" not in shell(*words, "--any-kind")


def test_doctor_finds_nothing_wrong_here(shell: Shell) -> None:
    report = shell.json("doctor")
    assert report["problems"] == []
    assert report["versions"]["edgecolbert"] == __version__
    assert report["model"]["name"] == "starter"
    assert report["processor"]["cores"] >= 1
    printed = shell("doctor", "--model", TINY)
    for name in ("versions", "processor", "sqlite", "model", "tiny"):
        assert name in printed


def test_doctor_says_what_is_wrong_with_its_exit_code(shell: Shell, tmp_path: Path) -> None:
    report = shell.json("doctor", "--model", tmp_path, code=1)
    assert "is not a model folder" in report["problems"][0]


def test_a_reader_that_goes_away_is_no_disaster(notes: Path, path: Path) -> None:
    with Index.open(path, model=TINY, split_documents=False) as index:
        index.add([{"id": str(n), "text": f"word{n} " * 500} for n in range(60)])
    command = f'"{sys.executable}" -m edgecolbert search word --db "{path}" -k 60 --json | head -c 10'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_terminal_without_unicode_still_gets_its_hits(notes: Path, path: Path) -> None:
    with Index.open(path, model=TINY) as index:
        index.add([{"id": "über", "text": "Grüße 漢字"}])
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for extra in ([], ["--json"]):
        command = [sys.executable, "-m", "edgecolbert", "search", "gruss", "--db", str(path), *extra]
        done = subprocess.run(command, capture_output=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == b""
        if extra:
            assert json.loads(done.stdout)["hits"][0]["text"] == "Grüße 漢字"


def test_a_broken_first_record_on_standard_input_is_an_error_not_a_text(
    shell: Shell, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in (b'{bad json\n{"id": "2", "text": "two"}\n', b'\n\n{"id": 2}\n'):
        _feed(monkeypatch, content)
        assert "standard input, line" in shell.fails("index", "-", "--db", path, "--model", TINY)
    _feed(monkeypatch, b'\n{"id": "2", "text": "two"}\n')
    assert shell.json("index", "-", "--db", path, "--model", TINY)["added"] == 1


def test_two_files_with_one_id_are_an_error_that_names_both(shell: Shell, tmp_path: Path, path: Path) -> None:
    folder = tmp_path / "records"
    folder.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (folder / name).write_text('{"id": "1", "text": "' + name + '"}\n')
    error = shell.fails("index", folder, "--db", path, "--model", TINY)
    assert "a.jsonl" in error
    assert "b.jsonl both have a document with the id '1'" in error


def test_an_empty_folder_prunes_nothing(shell: Shell, tmp_path: Path, path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    (folder / "a.txt").write_text("red kettle")
    shell("index", folder, "--db", path, "--model", TINY)
    (folder / "a.txt").unlink()
    report = shell.json("index", folder, "--db", path, "--prune")
    assert (report["removed"], report["documents"]) == (0, 1)
    assert "is it mounted?" in shell.err


def test_compact_gives_back_the_space_of_deleted_documents(shell: Shell, path: Path) -> None:
    with Index.open(path, model=TINY) as index:
        index.add([f"red kettle number {number} " * 9 for number in range(300)])
        index.delete(index.ids()[1:])
    report = shell.json("compact", "--db", path)
    assert report["freed_bytes"] > 100_000
    assert report["file_bytes"] == path.stat().st_size
    with Index.open(path) as index:
        assert len(index) == 1
        assert index.verify().problems == ()


def test_a_database_is_copied_dumped_and_loaded(shell: Shell, notes: Path, path: Path, tmp_path: Path) -> None:
    shell("index", notes, "--db", path, "--model", TINY)
    copy, dump, new = tmp_path / "copy.db", tmp_path / "all.jsonl.gz", tmp_path / "new.db"
    assert shell.json("backup", "--db", path, "--out", copy) == {"path": str(copy), "bytes": copy.stat().st_size}
    assert shell.json("dump", "--db", path, "--out", dump) == {"path": str(dump), "documents": 3}
    assert shell.json("load", dump, "--db", new) == {
        "path": str(new), "documents": 3, "passages": 3, "model": "tiny",
    }  # fmt: skip
    expected = shell.json("search", "kettle", "--db", path)["hits"]
    for other in (copy, new):
        assert shell.json("search", "kettle", "--db", other)["hits"] == expected
        assert shell.json("verify", "--db", other)["problems"] == []
    for words in (("backup", "--db", path, "--out", copy), ("dump", "--db", path, "--out", dump)):
        assert "exists already, and no file is replaced" in shell.fails(*words)
    assert "exists already" in shell.fails("load", dump, "--db", new)
    assert "There is no database at" in shell.fails("backup", "--db", tmp_path / "none.db", "--out", tmp_path / "x")
    assert "3 documents in " in shell("dump", "--db", path, "--out", tmp_path / "again.jsonl")
    assert "3 documents, 3 passages in " in shell(
        "load", tmp_path / "again.jsonl", "--db", tmp_path / "more.db", "--reencode", "--model", TINY
    )
    assert f" bytes in {tmp_path / 'copy2.db'}" in shell("backup", "--db", path, "--out", tmp_path / "copy2.db")


@pytest.mark.parametrize("command", ["verify", "repair", "backup", "dump", "load"])
def test_the_help_says_what_the_exit_codes_mean(shell: Shell, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert "Exit code: 0 when" in " ".join(capsys.readouterr().out.split())
