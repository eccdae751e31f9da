"""Bytes that change on the disk: verify names the documents, a search says so, and nothing is silently wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from raw_database import count_rows, raw
from word_encoder import WordEncoder

from edgecolbert import Index, InputError, StoreWarning, recover, reencode
from edgecolbert.cli import main
from edgecolbert.errors import StoreFormatError


def _flip(path: Path, table: str, column: str, where: str, position: int = 3) -> None:
    with raw(path) as connection:
        (blob,) = connection.execute(f"SELECT CAST({column} AS BLOB) FROM {table} WHERE {where}").fetchone()
        changed = bytearray(blob)
        changed[position] ^= 0x01
        value: bytes | str = bytes(changed) if column != "text" else changed.decode()
        assert connection.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (value,)).rowcount == 1


PAGE = 4_096
_RED = "content_id = (SELECT content_id FROM documents WHERE id = 'red')"


@pytest.fixture
def damaged(path: Path) -> Path:
    """A sound database with the documents red, blue and twin, the last two with one text; tests damage it."""
    with Index.open(path, model=WordEncoder()) as index:
        index.add([
            {"id": "red", "text": "red kettle"},
            {"id": "blue", "text": "blue cup"},
            {"id": "twin", "text": "blue cup"},
        ])  # fmt: skip
    return path


@pytest.fixture
def larger(path: Path) -> Path:
    """A sound database of twenty documents, with a segment and some codes beside it; tests damage it."""
    with Index.open(path, model=WordEncoder()) as index:
        index.add([{"id": f"{n}", "text": f"red kettle number{n} of many{n % 3}"} for n in range(20)])
    assert count_rows(path, "segments") == 2
    assert count_rows(path, "codes") == 4
    return path


def test_damaged_token_embeddings_are_found_and_made_again(damaged: Path) -> None:
    _flip(damaged, "passages", "tokens", _RED)
    with Index.open(damaged, model=WordEncoder()) as index:
        (problem,) = index.verify().problems
        assert "token embeddings are damaged" in problem.message
        assert problem.ids == ("red",)
        for options in ({}, {"exact": True}, {"n_candidates": 2}):
            with pytest.raises(
                StoreFormatError,
                match=r"index\.db: the stored token embeddings of 'red' are damaged .*repair --db FILE",
            ):
                index.search("kettle", **options)  # type: ignore[arg-type]
        # What is not touched goes on working.
        assert index.search("cup", filter={}, k=1, n_candidates=1)[0].id == "blue"
        document = index.get("red")
        assert document is not None
        assert document.text == "red kettle"
    assert reencode(damaged, model=WordEncoder()) == 2
    with Index.open(damaged, model=WordEncoder()) as index:
        assert index.verify().problems == ()
        assert index.search("kettle", k=1)[0].id == "red"


@pytest.mark.parametrize(
    ("column", "value"), [("scale", 2.0), ("span_start", 1), ("span_end", 99), ("n_tokens", 1), ("checksum", 1)]
)
def test_a_changed_number_beside_the_token_embeddings_is_found(damaged: Path, column: str, value: float) -> None:
    with raw(damaged) as connection:
        connection.execute(f"UPDATE passages SET {column} = ? WHERE {_RED}", (value,))
    with Index.open(damaged, model=WordEncoder()) as index:
        assert [problem.ids for problem in index.verify().problems] == [("red",)]
        with pytest.raises(StoreFormatError, match="embeddings of 'red' are damaged"):
            index.search("kettle")


@pytest.mark.parametrize(
    ("table", "column", "what"),
    [
        ("codes", "code", "the code of passage 17"),
        ("cell_lists", "entries", "list "),
        ("segments", "members", "segment "),
        ("first_stages", "cells", "first stage's cells"),
        ("first_stages", "codebooks", "first stage's cells"),
    ],
)
def test_damage_in_the_first_stage_is_found_and_a_rebuild_mends_it(
    larger: Path, table: str, column: str, what: str
) -> None:
    with raw(larger) as connection:
        connection.execute(f"UPDATE {table} SET {column} = zeroblob(length({column}))")
    with Index.open(larger, model=WordEncoder()) as index:
        (problem,) = index.verify().problems
        assert what in problem.message
        for _ in range(2):  # the second time, too: what could not be read must not be remembered as empty
            with pytest.raises(StoreFormatError, match=rf"index\.db: .*{what}.*damaged.*tune --rebuild"):
                index.search("kettle number7", n_candidates=5)
        assert index.search("kettle number7", exact=True)[0].id == "7"
        index.tune(rebuild=True)
        assert index.verify().problems == ()
        assert index.search("kettle number7", n_candidates=5)[0].id == "7"


def test_a_damaged_first_stage_stops_writing_before_anything_is_stored(larger: Path) -> None:
    _flip(larger, "first_stages", "cells", "1")
    with Index.open(larger, model=WordEncoder()) as index:
        with pytest.raises(StoreFormatError, match="cells are damaged"):
            index.add(["new"])
        assert len(index) == 20


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM codes WHERE passage_id = 18",
        "DELETE FROM segments WHERE segment_id = (SELECT min(segment_id) FROM segments)",
        "UPDATE codes SET passage_id = 1 WHERE passage_id = 18",
    ],
)
def test_a_first_stage_that_lost_codes_is_found(larger: Path, statement: str) -> None:
    with raw(larger) as connection:
        connection.execute(statement)
    with Index.open(larger, model=WordEncoder()) as index:
        assert any("first stage" in problem.message for problem in index.verify().problems)
        with pytest.raises(StoreFormatError, match="tune --rebuild"):
            index.search("kettle", n_candidates=5)
        index.tune(rebuild=True)
        assert index.verify().problems == ()


def test_a_lost_code_is_found_where_segments_still_count_what_was_deleted(larger: Path) -> None:
    with Index.open(larger, model=WordEncoder()) as index:
        index.delete(["2", "3"])
        assert index.search("kettle", n_candidates=5)
    with raw(larger) as connection:
        connection.execute("DELETE FROM codes WHERE passage_id = 18")
    for read_only in (True, False):
        expected = pytest.raises(StoreFormatError, match=r"4 passages in no segment have 3 codes.*tune --rebuild")
        with Index.open(larger, model=WordEncoder(), read_only=read_only) as index, expected:
            index.search("kettle", n_candidates=5)
    with Index.open(larger, model=WordEncoder()) as index:
        index.tune(rebuild=True)
        assert index.verify().problems == ()
        assert index.search("kettle number17", n_candidates=5)[0].id == "17"


def test_a_list_without_its_segment_is_found(larger: Path) -> None:
    with raw(larger) as connection:
        connection.execute("INSERT INTO cell_lists VALUES (9999 * 65536, 0, x'00')")
    with Index.open(larger, model=WordEncoder()) as index:
        assert any("belongs to no segment" in problem.message for problem in index.verify().problems)


def test_a_damaged_text_is_never_given_out(damaged: Path) -> None:
    _flip(damaged, "contents", "text", "content_id = (SELECT content_id FROM documents WHERE id = 'twin')")
    with Index.open(damaged, model=WordEncoder()) as index:
        (problem,) = index.verify().problems
        assert "text does not match its hash" in problem.message
        assert set(problem.ids) == {"blue", "twin"}
        with pytest.raises(StoreFormatError, match=r"index\.db: the stored text of 'twin' is damaged"):
            index.get("twin")
        with pytest.raises(StoreFormatError, match=r"index\.db: the stored text of 'blue' is damaged"):
            index.search("cup")
        assert index.search("kettle", k=1)[0].text == "red kettle"


def test_a_text_that_is_no_longer_utf_8_is_found(damaged: Path) -> None:
    with raw(damaged) as connection:
        connection.execute(f"UPDATE contents SET text = CAST(x'72ff' AS TEXT) WHERE {_RED}")
    with Index.open(damaged, model=WordEncoder()) as index:
        (problem,) = index.verify().problems
        assert problem.ids == ("red",)
        with pytest.raises(StoreFormatError, match=r"index\.db: the stored text of 'red' is damaged"):
            index.get("red")


def test_metadata_that_is_no_longer_json_is_found(damaged: Path) -> None:
    with raw(damaged) as connection:
        connection.execute("UPDATE documents SET metadata = '{\"a\":' WHERE id = 'red'")
    with Index.open(damaged, model=WordEncoder()) as index:
        assert [problem.ids for problem in index.verify().problems] == [("red",)]
        with pytest.raises(StoreFormatError, match=r"index\.db: the record of 'red' is damaged"):
            index.get("red")


def test_a_document_without_passages_is_found_and_adding_it_again_mends_it(damaged: Path) -> None:
    with raw(damaged) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"DELETE FROM passages WHERE {_RED}")
    with Index.open(damaged, model=WordEncoder()) as index:
        (problem,) = index.verify().problems
        assert (problem.message, problem.ids) == ("Documents have no passages, so no search finds them.", ("red",))
        assert index.add([{"id": "red", "text": "red kettle"}]).encoded == 1
        assert index.verify().problems == ()


def test_a_text_that_is_missing_is_found(damaged: Path) -> None:
    with raw(damaged) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'text TEXT NOT NULL', 'text TEXT')")
    with raw(damaged) as connection:
        connection.execute(f"UPDATE contents SET text = NULL WHERE {_RED}")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'text TEXT', 'text TEXT NOT NULL')")
    with Index.open(damaged, model=WordEncoder()) as index:
        assert {name for problem in index.verify().problems for name in problem.ids} == {"red"}
        with pytest.raises(StoreFormatError, match="the stored text of 'red' is damaged"):
            index.get("red")
        with pytest.raises(StoreFormatError, match=r"NULL value in contents\.text.*repair --db FILE --out NEW"):
            index.repair()
    report = recover(damaged, damaged.with_name("new.db"), model=WordEncoder())
    assert (report.lost, report.documents) == (("red",), 2)


def test_a_document_that_points_nowhere_is_found(damaged: Path) -> None:
    with raw(damaged) as connection:
        connection.execute("UPDATE documents SET content_id = 99 WHERE id = 'red'")
    with Index.open(damaged, model=WordEncoder()) as index:
        assert any("documents" in problem.message for problem in index.verify().problems)
        # Going on would silently find less than there is.
        with pytest.raises(StoreFormatError, match=r"index\.db: the list of documents is damaged.* to other texts"):
            index.search("cup", k=1)


def test_metadata_changed_behind_our_back_is_found(damaged: Path) -> None:
    with Index.open(damaged, model=WordEncoder()) as index:
        index.add([{"id": "red", "text": "red kettle", "metadata": {"room": "cellar"}}])
    with raw(damaged) as connection:
        connection.execute("UPDATE documents SET metadata = replace(metadata, 'cellar', 'celler') WHERE id = 'red'")
    with Index.open(damaged, model=WordEncoder()) as index:
        assert [problem.ids for problem in index.verify().problems] == [("red",)]
        for options in ({}, {"filter": {"room": "cellar"}}):
            with pytest.raises(StoreFormatError, match="'red'"):
                index.search("kettle", **options)  # type: ignore[arg-type]


def test_documents_that_swapped_their_texts_are_found(damaged: Path) -> None:
    with raw(damaged) as connection:
        connection.execute("UPDATE documents SET content_id = 3 - content_id")
    with Index.open(damaged, model=WordEncoder()) as index:
        assert {name for problem in index.verify().problems for name in problem.ids} >= {"red", "blue"}
        with pytest.raises(StoreFormatError, match="damaged"):
            index.search("kettle")


def test_a_search_never_silently_misses_passages(damaged: Path) -> None:
    with raw(damaged) as connection:
        connection.execute("DELETE FROM passages WHERE passage_id = 1")
    with Index.open(damaged, model=WordEncoder()) as index:
        assert index.verify().problems
        with pytest.raises(StoreFormatError, match="edgecolbert repair --db FILE"):
            index.search("cup", exact=True)


def test_codes_that_belong_to_another_text_are_found(larger: Path) -> None:
    with raw(larger) as connection:
        connection.execute("UPDATE codes SET content_id = content_id - 1")
    with Index.open(larger, model=WordEncoder()) as index:
        assert index.verify().problems
        with pytest.raises(StoreFormatError, match="code of passage"):
            index.search("cup", n_candidates=1)


def test_a_page_of_rubbish_is_a_typed_error_or_a_problem(path: Path) -> None:
    texts = [f"word{n} " * 60 for n in range(150)]
    with Index.open(path, model=WordEncoder()) as index:
        index.add(texts)
    content = path.read_bytes()
    n_pages = len(content) // PAGE
    assert n_pages > 20
    sound: list[int] = []
    messages: list[str] = []
    for page in range(0, n_pages, 3):
        path.write_bytes(content[: page * PAGE + 100] + b"\xa5" * (PAGE - 196) + content[page * PAGE + PAGE - 96 :])
        try:
            with Index.open(path, model=WordEncoder(), create=False, read_only=True) as index:
                problems = index.verify().problems
                # A page that is not in use may hold anything.
                if not problems:
                    assert [hit.text for hit in index.search("word7", k=1, n_candidates=10)] == [texts[7]]
                    assert [dict(index.get(name) or {})["text"] for name in index.ids()] == texts
                    sound.append(page)
        except StoreFormatError as error:
            messages.append(str(error))
    assert messages
    assert all("index.db" in message for message in messages)
    assert len(sound) < n_pages / 6


def test_verify_changes_nothing(damaged: Path) -> None:
    _flip(damaged, "passages", "tokens", _RED)
    before = damaged.read_bytes()
    with Index.open(damaged, model=WordEncoder(), read_only=True) as index:
        index.verify()
    assert damaged.read_bytes() == before


# What a search may leave out, if that is asked for


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"n_candidates": 2}, {"filter": {}}])
def test_damaged_passages_are_left_out_and_named_once(damaged: Path, options: dict[str, object]) -> None:
    _flip(damaged, "passages", "tokens", _RED)
    with Index.open(damaged, model=WordEncoder(), on_damage="skip") as index:
        with pytest.warns(StoreWarning, match=r"index\.db: damaged passages of 'red' were left out\. Run") as caught:
            found = index.search_many(["kettle", "cup"], **options)  # type: ignore[arg-type]
        assert len(caught) == 1
        assert [[hit.id for hit in hits] for hits in found] == [["blue", "twin"]] * 2
    with Index.open(damaged, model=WordEncoder()) as index:
        index.delete(["red"])
        sound = index.search_many(["kettle", "cup"])
    assert found == sound


def test_a_damaged_record_with_a_nul_in_its_id_is_passed_over_by_a_filter(path: Path) -> None:
    with Index.open(path, model=WordEncoder()) as index:
        index.add([{"id": name, "text": f"{name} kettle", "metadata": {"n": 1}} for name in ("a\0b", "a")])
    with raw(path) as connection:
        connection.execute("UPDATE documents SET metadata = '{' WHERE document_id = 1")
    with (
        Index.open(path, model=WordEncoder(), on_damage="skip") as index,
        pytest.warns(StoreWarning, match=r"the damaged documents 'a\\x00b' were left out"),
    ):
        assert [hit.id for hit in index.search("kettle", filter={"n": 1})] == ["a"]


def test_a_missing_passage_is_left_out_and_named(damaged: Path) -> None:
    with raw(damaged) as connection:
        connection.execute(f"DELETE FROM passages WHERE {_RED}")
    with (
        Index.open(damaged, model=WordEncoder(), on_damage="skip") as index,
        pytest.warns(StoreWarning, match="damaged passages of 'red'"),
    ):
        assert [hit.id for hit in index.search("kettle")] == ["blue", "twin"]


def test_a_passage_that_points_to_another_text_never_scores_for_it(damaged: Path) -> None:
    with raw(damaged) as connection:
        connection.execute(f"UPDATE passages SET content_id = 2, ordinal = 1 WHERE {_RED}")
    with (
        Index.open(damaged, model=WordEncoder(), on_damage="skip") as index,
        pytest.warns(StoreWarning, match="damaged passages of 'blue', 'red', 'twin'"),
    ):
        assert {hit.id: round(hit.score, 2) for hit in index.search("cup", exact=True)} == {"blue": 1.0, "twin": 1.0}


def test_damaged_documents_do_not_take_the_places_of_others(damaged: Path) -> None:
    with raw(damaged) as connection:
        connection.execute("UPDATE documents SET metadata = 'no json' WHERE id = 'blue'")
    with Index.open(damaged, model=WordEncoder(), on_damage="skip") as index:
        for options in ({}, {"filter": {}}, {"exact": True}):
            with pytest.warns(StoreWarning, match="the damaged documents 'blue' were left out"):
                assert [hit.id for hit in index.search("cup", k=2, **options)] == ["twin", "red"]  # type: ignore[arg-type]
        with pytest.raises(StoreFormatError, match="'blue'"):
            index.get("blue")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE codes SET code = zeroblob(length(code))",
        "UPDATE cell_lists SET entries = zeroblob(length(entries))",
        "UPDATE segments SET members = zeroblob(length(members))",
        "UPDATE first_stages SET cells = zeroblob(length(cells))",
        "DELETE FROM codes WHERE passage_id = 18",
    ],
)
def test_every_passage_is_scored_where_the_first_stage_is_damaged(larger: Path, statement: str) -> None:
    with Index.open(larger, model=WordEncoder()) as index:
        expected = index.search("kettle number7", exact=True)
    with raw(larger) as connection:
        connection.execute(statement)
    with Index.open(larger, model=WordEncoder(), on_damage="skip") as index:
        for _ in range(2):
            with pytest.warns(StoreWarning, match="first stage is damaged, so every passage was scored"):
                assert index.search("kettle number7", n_candidates=5) == expected


def test_nothing_is_said_of_a_sound_index(damaged: Path) -> None:
    with Index.open(damaged, model=WordEncoder(), on_damage="skip") as index:
        assert [hit.id for hit in index.search("cup", k=2)] == ["blue", "twin"]  # a warning would be an error
    with pytest.raises(InputError, match="on_damage is 'ignore', expected 'raise' or 'skip'"):
        Index.open(damaged, model=WordEncoder(), on_damage="ignore")


@pytest.mark.filterwarnings("always::edgecolbert.errors.StoreWarning")
def test_the_command_leaves_out_what_is_damaged_with_a_note(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Index.open(path, model=str(Path(__file__).parent / "fixtures" / "tiny-model")) as index:
        index.add([{"id": "red", "text": "red kettle"}, {"id": "blue", "text": "blue cup"}])
    _flip(path, "passages", "tokens", _RED)
    assert main(["search", "kettle", "--db", str(path)]) == 1
    assert main(["search", "kettle", "--db", str(path), "--skip-damaged"]) == 0
    captured = capsys.readouterr()
    assert "blue" in captured.out
    assert "red" not in captured.out
    assert "note: " in captured.err
    assert "damaged passages of 'red' were left out" in captured.err


# Verify in a hurry


@pytest.mark.parametrize(
    ("statement", "message", "ids"),
    [
        ("DELETE FROM passages WHERE passage_id = 3", "Documents have no passages", ("2",)),
        ("DELETE FROM contents WHERE content_id = 4", "points to a row of contents that is missing", ()),
        ("DELETE FROM codes WHERE passage_id = 18", "The first stage misses passages", ("17",)),
        ("DELETE FROM segments WHERE segment_id = (SELECT min(segment_id) FROM segments)", "misses passages", None),
        ("UPDATE first_stages SET cells = zeroblob(length(cells))", "cells are damaged", ()),
        ("DELETE FROM encodings", "not pinned to a model", ()),
    ],
)
def test_a_fast_check_finds_what_is_missing(
    larger: Path, statement: str, message: str, ids: tuple[str, ...] | None
) -> None:
    with Index.open(larger, model=WordEncoder()) as index:
        assert index.verify(full=False).problems == ()
        with raw(larger) as connection:
            connection.execute(statement)
        problems = index.verify(full=False).problems
    (found,) = [problem for problem in problems if message in problem.message]
    assert found.ids == ids or (ids is None and len(found.ids) >= 8)


def test_a_fast_check_does_not_read_token_embeddings_and_says_so(
    damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _flip(damaged, "passages", "tokens", _RED)
    assert main(["verify", "--db", str(damaged), "--fast"]) == 0
    assert main(["verify", "--db", str(damaged)]) == 1
    with pytest.raises(SystemExit, match="0"):
        main(["verify", "--help"])
    assert "without reading the token embeddings" in " ".join(capsys.readouterr().out.split())


def test_a_fast_check_finds_damaged_pages_and_a_file_cut_short(larger: Path) -> None:
    content = larger.read_bytes()
    with raw(larger) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'documents'").fetchone()
    for damage in (
        content[: (root - 1) * PAGE] + b"\xa5" * PAGE + content[root * PAGE :],
        content[:-PAGE],
    ):
        larger.write_bytes(damage)
        try:
            with Index.open(larger, model=WordEncoder(), create=False, read_only=True) as index:
                found = [problem.message for problem in index.verify(full=False).problems]
        except StoreFormatError as error:
            found = [str(error)]
        assert any("damaged" in message for message in found)
