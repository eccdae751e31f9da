"""Bytes that change on the disk: verify names the documents, a search says so, and nothing is silently wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from raw_database import count_rows, raw
from word_encoder import WordEncoder

from edgecolbert import Index, reencode
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
                StoreFormatError, match=r"index\.db: the stored token embeddings of 'red' are damaged .*reenc"
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


def test_a_document_that_points_nowhere_is_found(damaged: Path) -> None:
    with raw(damaged) as connection:
        connection.execute("UPDATE documents SET content_id = 99 WHERE id = 'red'")
    with Index.open(damaged, model=WordEncoder()) as index:
        assert any("documents" in problem.message for problem in index.verify().problems)
        # Going on would silently find less than there is.
        with pytest.raises(
            StoreFormatError, match=r"index\.db: the stored token embeddings of .red. .*a passage is missing"
        ):
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
        with pytest.raises(StoreFormatError, match="reencode"):
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
    assert all("index.db" in message for message in messages)
    assert len(sound) < n_pages / 6


def test_verify_changes_nothing(damaged: Path) -> None:
    _flip(damaged, "passages", "tokens", _RED)
    before = damaged.read_bytes()
    with Index.open(damaged, model=WordEncoder(), read_only=True) as index:
        index.verify()
    assert damaged.read_bytes() == before
