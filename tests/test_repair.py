"""Repair: every readable document is kept, and never a wrong text or a wrong vector."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from raw_database import raw
from word_encoder import SplittingEncoder, WordEncoder

from edgecolbert import Index, RepairReport, StoreWarning, recover, upkeep
from edgecolbert import pages as pages_module
from edgecolbert.cli import main
from edgecolbert.errors import CancelledError, InputError, StoreError, StoreFormatError, StoreMismatchError
from edgecolbert.pages import PageFile
from edgecolbert.schema import SCHEMA_VERSION

TESTS = Path(__file__).parent
PAGE = 4_096
TEXTS = {f"d{n}": f"common word{n} here. " * random.Random(n).randint(1, 120) for n in range(80)}
LIVE = {name: text for n, (name, text) in enumerate(TEXTS.items()) if n % 7}


@pytest.fixture
def whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound file in which documents were deleted, so that some of its pages are free and hold old rows."""
    monkeypatch.setattr(upkeep, "FIRST_STAGE_FROM", 10**9)
    with Index.open(path, model=SplittingEncoder(room=30)) as index:
        index.add_from("shelf", [
            {"id": name, "text": text, "metadata": {"name": name}} for name, text in TEXTS.items()
        ])  # fmt: skip
        index.delete([name for name in TEXTS if name not in LIVE])
        assert index.stats().free_bytes > 0
    return path


def _check(path: Path, report: RepairReport, encoder: SplittingEncoder) -> set[str]:
    """Everything in a repaired file is right; give the ids."""
    with Index.open(path, model=encoder, read_only=True) as index:
        assert index.verify().problems == ()
        ids = index.ids()
        assert len(ids) == report.documents
        for name in ids:
            document = index.get(name)
            assert document is not None
            assert (document.text, document.metadata) == (TEXTS[name], {"name": name})
        # Whatever was deleted before comes back only with a warning.
        assert set(ids) - set(LIVE) <= set(report.uncertain)
        return set(ids)


def _pages(path: Path) -> dict[str, set[int]]:
    with PageFile(path) as pages:
        return {name: set(pages.tree_pages(root)) for name, root in pages.schema().items()}


def test_a_sound_file_is_kept_as_it_is(whole: Path, tmp_path: Path) -> None:
    encoder = SplittingEncoder(room=30)
    report = recover(whole, tmp_path / "new.db")
    assert report == RepairReport(str(tmp_path / "new.db"), len(LIVE), 0)
    assert report.complete
    assert _check(tmp_path / "new.db", report, encoder) == set(LIVE)
    with Index.open(whole, model=encoder) as old, Index.open(tmp_path / "new.db", model=encoder) as new:
        assert new.ids() == old.ids()
        assert new.search("word17 here", k=200, exact=True) == old.search("word17 here", k=200, exact=True)
        assert new.prune("shelf", []) == len(LIVE)


@pytest.mark.parametrize("kind", ["flip", "zero", "junk", "cut", "many"])
def test_no_damage_anywhere_costs_more_than_what_it_hit(whole: Path, tmp_path: Path, kind: str) -> None:
    content = whole.read_bytes()
    n_pages = len(content) // PAGE
    generator = random.Random(kind)
    encoder = SplittingEncoder(room=30)
    with PageFile(whole) as pages:
        schema = set(pages.tree_pages(1))
    # The first pages are the header, the schema and the first pages of the tables.
    for trial, page in enumerate([0, 0, *range(1, 7), *(generator.randrange(n_pages) for _ in range(4))]):
        damaged = bytearray(content)
        if kind == "flip":
            damaged[page * PAGE + generator.randrange(PAGE)] ^= 1 << generator.randrange(8)
        elif kind == "many":
            for _ in range(10):
                damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        elif kind == "cut":
            del damaged[generator.randrange(PAGE, len(damaged)) :]
        else:
            filler = bytes(PAGE) if kind == "zero" else generator.randbytes(PAGE)
            damaged[page * PAGE : (page + 1) * PAGE] = filler
        bad, out = tmp_path / "bad.db", tmp_path / f"{kind}{trial}.db"
        bad.write_bytes(damaged)
        try:
            report = recover(bad, out, model=encoder)
        except StoreFormatError as error:
            # A bit of the version may be what has changed, and a later version's file must not be guessed at.
            if "its schema is" in str(error):
                continue
            raise
        assert bad.read_bytes() == bytes(damaged)
        kept = _check(out, report, encoder)
        missing = set(LIVE) - kept
        # Only with the schema, or with half of the file, goes what would tell how many documents there were.
        if kind != "cut" and page + 1 not in schema:
            assert len(missing) <= len(report.lost) + report.lost_unnamed
        if kind == "flip":
            assert len(missing) <= 1
            assert missing == set(report.lost)
        out.unlink()


def test_a_lost_page_of_documents_is_named_and_its_texts_can_be_kept(whole: Path, tmp_path: Path) -> None:
    pages = _pages(whole)
    content = bytearray(whole.read_bytes())
    with PageFile(whole) as file:
        leaf = max(page for page in pages["documents"] if file.holds_rows(page))
        on_it = sum(1 for _ in file.rows(leaf))
    content[(leaf - 1) * PAGE : leaf * PAGE] = bytes(PAGE)
    whole.write_bytes(content)
    encoder = SplittingEncoder(room=30)
    report = recover(whole, tmp_path / "new.db")
    kept = _check(tmp_path / "new.db", report, encoder)
    assert 0 < len(report.lost) <= on_it
    assert set(report.lost) == set(LIVE) - kept
    assert (report.lost_unnamed, report.encoded, report.complete) == (0, 0, False)
    assert any(f"{len(report.lost)} texts are whole" in note for note in report.notes)
    report = recover(whole, tmp_path / "texts.db", keep_texts=True)
    with Index.open(tmp_path / "texts.db", model=encoder) as index:
        texts = {(index.get(name) or {})["text"] for name in index.ids()}  # type: ignore[index]
        assert texts == set(LIVE.values())
        assert index.verify().problems == ()
    with Index.open(whole, model=encoder, read_only=True) as index:
        problems = index.verify().problems
        assert any(set(problem.ids) == set(report.lost) for problem in problems)
        assert "damaged" in problems[0].message


def test_inner_pages_and_indexes_cost_nothing(whole: Path, tmp_path: Path) -> None:
    pages = _pages(whole)
    content = bytearray(whole.read_bytes())
    with PageFile(whole) as file:
        inner = {page for name in ("documents", "contents", "passages") for page in pages[name]
                 if not file.holds_rows(page)}  # fmt: skip
    indexes = {page for name, found in pages.items() if name.startswith(("sqlite_autoindex", "documents_by"))
               for page in found}  # fmt: skip
    assert len(inner) >= 2
    for page in inner | indexes:
        content[(page - 1) * PAGE : page * PAGE] = b"\xa5" * PAGE
    whole.write_bytes(content)
    report = recover(whole, tmp_path / "new.db")
    assert report.complete
    assert _check(tmp_path / "new.db", report, SplittingEncoder(room=30)) == set(LIVE)


def test_what_is_in_the_log_is_kept(whole: Path, tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[2])\nfrom word_encoder import SplittingEncoder\n"
        "from edgecolbert import Index\n"
        "index = Index.open(sys.argv[1], model=SplittingEncoder(room=30))\n"
        "index.add([{'id': 'late', 'text': 'late word'}]); index.delete(['d1'])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(whole), str(TESTS)], check=False)
    log = whole.with_name(whole.name + "-wal")
    before = (whole.read_bytes(), log.read_bytes())
    assert before[1]
    report = recover(whole, tmp_path / "new.db")
    with Index.open(tmp_path / "new.db", model=SplittingEncoder(room=30)) as index:
        assert set(index.ids()) == {*LIVE, "late"} - {"d1"}
        assert index.verify().problems == ()
    # What the log says after damage in it is not committed for SQLite either.
    log.write_bytes(before[1][:-3_000] + bytes(3_000))
    report = recover(whole, tmp_path / "earlier.db")
    assert any("The log beside the file" in note for note in report.notes)
    with Index.open(tmp_path / "earlier.db", model=SplittingEncoder(room=30)) as index:
        assert "d1" in index.ids()
        assert index.verify().problems == ()
    assert whole.read_bytes() == before[0]


def test_which_fields_are_indexed_is_kept(whole: Path, tmp_path: Path) -> None:
    with Index.open(whole, model=SplittingEncoder(room=30)) as index:
        index.index_field("gone")
        index.index_field("n")
        index.index_field(["a.b", "c"])
        index.unindex_field("gone")
        wanted = index.ids(filter={"n": {"gte": 5}})
    # A page above it is lost, which is the schema's: tables are told apart by what their rows look like.
    content = bytearray(whole.read_bytes())
    content[100:4096] = bytes(3_996)
    whole.write_bytes(content)
    recover(whole, tmp_path / "new.db", model=SplittingEncoder(room=30))
    with Index.open(tmp_path / "new.db", model=SplittingEncoder(room=30)) as index:
        assert index.indexed_fields() == [("n",), ("a.b", "c")]
        assert index.ids(filter={"n": {"gte": 5}}) == wanted
        assert index.verify().problems == ()


def test_damaged_vectors_are_made_again_or_named_without_the_model(whole: Path, tmp_path: Path) -> None:
    with raw(whole) as connection:
        connection.execute(
            "UPDATE passages SET scale = 2 * scale WHERE content_id = "
            "(SELECT content_id FROM documents WHERE id = 'd8') AND ordinal = 0"
        )
    report = recover(whole, tmp_path / "without.db")
    assert (report.without_vectors, report.encoded, report.lost) == (("d8",), 0, ())
    assert any("encoder of your own" in note for note in report.notes)
    encoder = SplittingEncoder(room=30)
    with Index.open(tmp_path / "without.db", model=encoder) as index:
        with pytest.raises(StoreFormatError, match=r"'d8' are damaged .a passage is missing"):
            index.search("word8", exact=True)
        mended = index.repair()
        assert (mended.encoded, mended.complete, mended.documents) == (1, True, len(LIVE))
        assert index.verify().problems == ()
    report = recover(whole, tmp_path / "with.db", model=encoder)
    assert (report.without_vectors, report.encoded) == ((), 1)
    assert _check(tmp_path / "with.db", report, encoder) == set(LIVE)
    with pytest.raises(StoreMismatchError, match="made with the model 'splitting'"):
        recover(whole, tmp_path / "other.db", model=WordEncoder("other words"))
    assert not (tmp_path / "other.db").exists()


def test_without_the_record_of_the_model_one_must_be_named(whole: Path, tmp_path: Path) -> None:
    with raw(whole) as connection:
        connection.execute("UPDATE encodings SET settings = 'rubbish'")
    with pytest.raises(StoreFormatError, match=r"record of the model .*cannot be read. Name the model"):
        recover(whole, tmp_path / "new.db")
    encoder = SplittingEncoder(room=30)
    report = recover(whole, tmp_path / "new.db", model=encoder)
    assert report.encoded == len(set(LIVE.values()))
    assert _check(tmp_path / "new.db", report, encoder) == set(LIVE)


def test_the_first_stage_is_made_again(path: Path, tmp_path: Path) -> None:
    encoder = WordEncoder()
    with Index.open(path, model=encoder) as index:
        index.add([{"id": f"{n}", "text": f"red kettle number{n} of many{n % 3}"} for n in range(20)])
    with raw(path) as connection:
        connection.execute("UPDATE cell_lists SET entries = zeroblob(length(entries))")
    report = recover(path, tmp_path / "new.db")
    assert report.first_stage_rebuilt
    with Index.open(tmp_path / "new.db", model=encoder) as index:
        assert index.verify().problems == ()
        assert index.stats().first_stage is not None
        assert index.search("number7", n_candidates=5)[0].id == "7"


@pytest.mark.parametrize(
    ("damage", "encoded", "rebuilt"),
    [
        ("UPDATE passages SET scale = 2 * scale WHERE passage_id = 7", 1, False),
        ("UPDATE passages SET content_id = 19, ordinal = 5 WHERE passage_id = 7", 2, False),
        ("DELETE FROM passages WHERE passage_id = 7", 1, False),
        ("UPDATE cell_lists SET entries = zeroblob(length(entries))", 0, True),
        ("UPDATE first_stages SET cells = zeroblob(length(cells))", 0, True),
        ("DELETE FROM codes WHERE passage_id = 18", 0, True),
        ("UPDATE passages SET scale = 2 * scale; UPDATE first_stages SET cells = zeroblob(5)", 20, True),
    ],
)
def test_in_place_vectors_and_first_stage_are_mended(path: Path, damage: str, encoded: int, rebuilt: bool) -> None:
    encoder = WordEncoder()
    with Index.open(path, model=encoder) as index:
        index.add([{"id": f"{n}", "text": f"red kettle number{n} of many{n % 3}"} for n in range(20)])
        before = index.search("number7 kettle", k=20, exact=True)
    with raw(path) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.executescript(damage)
    with Index.open(path, model=encoder) as index:
        assert index.verify().problems
        assert index._candidates is None
        report = index.repair()
        assert (report.encoded, report.first_stage_rebuilt, report.complete) == (encoded, rebuilt, True)
        assert index.verify().problems == ()
        assert index.search("number7 kettle", k=20, exact=True) == before
        assert index.search("number7 kettle", k=20, n_candidates=10)[0] == before[0]
        assert index.repair().encoded == 0


def test_in_place_nothing_changes_without_the_model(path: Path) -> None:
    with Index.open(path, model=WordEncoder()) as index:
        index.add(["red kettle", "blue cup"])
    with raw(path) as connection:
        connection.execute("UPDATE passages SET scale = 2 * scale WHERE passage_id = 1")
    with Index.open(path) as index:
        before = index.verify().problems
        with pytest.raises(InputError, match="made with an encoder of your own"):
            index.repair()
        assert index.verify().problems == before


def test_in_place_damaged_texts_are_named_and_left(path: Path) -> None:
    with Index.open(path, model=WordEncoder()) as index:
        index.add([{"id": "red", "text": "red kettle"}, {"id": "blue", "text": "blue cup"}])
    with raw(path) as connection:
        connection.execute("UPDATE contents SET text = 'red settle' WHERE text = 'red kettle'")
        connection.execute("UPDATE documents SET metadata = '{}x' WHERE id = 'blue'")
    with Index.open(path, model=WordEncoder()) as index:
        report = index.repair()
        assert (report.lost, report.documents, report.complete) == (("blue", "red"), 0, False)
        assert any("delete them, and add them again" in note for note in report.notes)
        index.delete(report.lost)
        index.add([{"id": "red", "text": "red kettle"}])
        assert index.verify().problems == ()


def test_structural_damage_is_not_mended_in_place(whole: Path, tmp_path: Path) -> None:
    content = bytearray(whole.read_bytes())
    page = max(_pages(whole)["documents_by_content"])
    content[(page - 1) * PAGE : page * PAGE] = b"\xa5" * PAGE
    whole.write_bytes(content)
    with (
        Index.open(whole, model=SplittingEncoder(room=30)) as index,
        pytest.raises(StoreFormatError, match=r"is damaged itself .*Nothing was changed. Run `edgecolbert repair --db"),
    ):
        index.repair()
    assert whole.read_bytes() == bytes(content)
    assert recover(whole, tmp_path / "new.db").complete


@pytest.mark.parametrize("content", [b"", b"hello", b"SQLite format 3\0" + bytes(8_176), bytes(100_000)])
def test_what_holds_nothing_of_ours_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.db").write_bytes(content)
    for model in (None, WordEncoder()):
        with pytest.raises(
            StoreFormatError, match=r"other\.db: (nothing of an edgecolbert database|the record of the)"
        ):
            recover(tmp_path / "other.db", tmp_path / "new.db", model=model)
    assert [entry.name for entry in tmp_path.iterdir()] == ["other.db"]


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "other.db", isolation_level=None)
    connection.execute("CREATE TABLE contents (content_id INTEGER PRIMARY KEY, hash TEXT, text TEXT)")
    connection.executemany(
        "INSERT INTO contents (hash, text) VALUES (?, ?)", [("a" * 64, f"text {n}") for n in range(99)]
    )
    connection.close()
    with pytest.raises(StoreFormatError, match="nothing of an edgecolbert database can be read"):
        recover(tmp_path / "other.db", tmp_path / "new.db", model=WordEncoder())


def test_a_file_of_a_later_version_is_refused(whole: Path, tmp_path: Path) -> None:
    with raw(whole) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreFormatError, match=f"its schema is 99, this version reads up to {SCHEMA_VERSION}"):
        recover(whole, tmp_path / "new.db")


def test_an_interrupted_repair_leaves_both_files_as_they_were(whole: Path, tmp_path: Path) -> None:
    before = whole.read_bytes()

    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(CancelledError):
        recover(whole, tmp_path / "new.db", progress=lambda done, total: False)
    with pytest.raises(KeyboardInterrupt):
        recover(whole, tmp_path / "new.db", progress=interrupt)
    assert [entry.name for entry in tmp_path.iterdir()] == ["index.db"]
    program = (
        "import os, signal, sys\nfrom edgecolbert import recover\n"
        "recover(sys.argv[1], sys.argv[2], progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(whole), str(tmp_path / "new.db")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "new.db").exists()
    assert whole.read_bytes() == before
    with pytest.warns(StoreWarning, match="left behind by an interrupted run"):
        assert recover(whole, tmp_path / "new.db").complete
    with pytest.raises(StoreError, match=r"new\.db exists already"):
        recover(whole, tmp_path / "new.db")


def test_a_file_that_is_written_to_meanwhile_is_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"was written to while it was read. Stop the process"):
        recover(whole, tmp_path / "new.db", progress=lambda done, total: os.utime(whole, ns=(1, 1)))  # type: ignore[func-returns-value]
    assert not (tmp_path / "new.db").exists()


def test_the_command_says_what_was_kept(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repair", "--db", str(whole), "--out", str(tmp_path / "new.db")]) == 0
    assert f"{len(LIVE)} documents in " in capsys.readouterr().out
    with raw(whole) as connection:
        connection.execute("UPDATE contents SET text = 'x' || text WHERE text LIKE 'common word8 %'")
    assert main(["repair", "--db", str(whole), "--out", str(tmp_path / "less.db"), "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert (report["documents"], report["lost"], report["complete"]) == (len(LIVE) - 1, ["d8"], False)
    assert main(["repair", "--db", str(whole), "--out", str(tmp_path / "less.db")]) == 1
    assert main(["repair", "--db", str(whole)]) == 3
    assert "lost (1): d8" in capsys.readouterr().out


def _write_log(path: Path, page: int, n_pages: int) -> None:
    """A log of one commit, as somebody could make it who means harm."""
    head = struct.pack(">6I", 0x377F0683, 3_007_000, PAGE, 0, 1, 2)
    sums = pages_module._log_sums(">", head, (0, 0))
    frame, content = struct.pack(">2I", page, n_pages), bytes(PAGE)
    log = head + struct.pack(">2I", *sums)
    sums = pages_module._log_sums(">", content, pages_module._log_sums(">", frame, sums))
    log += frame + head[16:24] + struct.pack(">2I", *sums) + content
    path.with_name(path.name + "-wal").write_bytes(log)


def test_of_a_file_that_claims_to_be_huge_only_pages_that_there_are_are_read(whole: Path, tmp_path: Path) -> None:
    _write_log(whole, 2**32 - 2, 2**32 - 2)
    with PageFile(whole) as pages:
        assert pages.n_pages == 2**32 - 2
        assert len(pages.numbers()) == whole.stat().st_size // PAGE + 1
    report = recover(whole, tmp_path / "new.db")
    assert _check(tmp_path / "new.db", report, SplittingEncoder(room=30)) >= set(LIVE)


def test_a_chain_of_pages_that_bites_its_tail_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "long.db"
    with Index.open(path, model=WordEncoder()) as index:
        index.add([{"id": "long", "text": "words of a long text " * 1_500}, {"id": "short", "text": "red kettle"}])
    content = bytearray(path.read_bytes())
    followed = 0
    for number in range(2, len(content) // PAGE + 1):
        start = (number - 1) * PAGE
        # Pages of trees begin with another byte; a page of what does not fit there with the number of the next one.
        if content[start] == 0 and any(content[start : start + 4]):
            content[start : start + 4] = number.to_bytes(4, "big")
            followed += 1
    assert followed > 2
    path.write_bytes(content)
    assert recover(path, tmp_path / "new.db", model=WordEncoder()).lost == ("long",)
