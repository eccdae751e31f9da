"""What leads to rows has no checksums: where it is damaged, a document that would be missed is an error instead."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from raw_database import count_rows, raw
from word_encoder import WordEncoder

from edgecolbert import Index, StoreWarning, recover
from edgecolbert.document_register import Register
from edgecolbert.errors import CancelledError, StoreError, StoreFormatError
from edgecolbert.segment_cells import pack, unpack
from edgecolbert.store import Store

PAGE = 4_096
_ERROR = r"index\.db: the list of documents is damaged, so that some could be missed"

_READS: dict[str, Callable[[Index], object]] = {
    "search": lambda index: index.search("number3", k=3, n_candidates=5),
    "exact": lambda index: index.search("number3", k=3, exact=True),
    "words": lambda index: index.search("number3", k=3, mode="lexical"),
    "both": lambda index: index.search("number3", k=3, mode="hybrid"),
    "filter": lambda index: index.ids(filter={"n": 3}),
    "ids": lambda index: index.ids(),
    "count": len,
    "absent": lambda index: index.get("nobody"),
    "get": lambda index: index.get("d3"),
    "delete": lambda index: index.delete(["nobody"]),
}


@pytest.fixture
def whole(path: Path) -> Path:
    """A sound database of twenty documents, two of them with one text, with a segment and some codes beside it."""
    with Index.open(path, model=WordEncoder()) as index:
        index.add([{"id": f"d{n}", "text": f"red kettle number{n % 19}", "metadata": {"n": n}} for n in range(20)])
    return path


@pytest.mark.parametrize("options", [{"exact": True}, {"n_candidates": 20}, {"group": "passage"}, {"mode": "lexical"}])
def test_an_id_that_was_changed_pushes_no_document_out_of_equals(path: Path, options: dict[str, object]) -> None:
    with Index.open(path, model=WordEncoder()) as index:
        index.add([{"id": f"d{n:02}", "text": "red kettle"} for n in range(20)])
        index.add([{"id": "other", "text": "blue cup"}])
        assert [hit.id for hit in index.search("kettle", k=3, **options)] == ["d00", "d01", "d02"]
    with raw(path) as connection:
        connection.execute("UPDATE documents SET id = 'e' WHERE id = 'd00'")
    with Index.open(path, model=WordEncoder()) as index, pytest.raises(StoreFormatError, match=_ERROR):
        index.search("kettle", k=3, **options)


def _outcomes(path: Path, scratch: Path) -> dict[str, str]:
    """For each read of a file that is opened for it alone: "right", "wrong" or "error"."""
    outcomes = {}
    for name, read in _READS.items():
        shutil.copy(path, scratch)
        with Index.open(scratch, model=WordEncoder()) as index:
            try:
                outcomes[name] = repr(read(index))
            except StoreFormatError:
                outcomes[name] = "error"
    return outcomes


def _rewrite_index(path: Path, name: str, change: Callable[[bytearray], None]) -> None:
    """Change the only page of an index."""
    with raw(path) as connection:
        ((root,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,))
    content = bytearray(path.read_bytes())
    page = content[(root - 1) * PAGE : root * PAGE]
    assert page[0] == 0x0A, "the index has more pages than one"
    change(page)
    content[(root - 1) * PAGE : root * PAGE] = page
    path.write_bytes(content)


def _without_a_cell(page: bytearray) -> None:
    """One entry fewer: all pointers behind the fourth move up."""
    n = int.from_bytes(page[3:5], "big")
    page[14 : 8 + 2 * n - 2] = page[16 : 8 + 2 * n]
    page[3:5] = (n - 1).to_bytes(2, "big")


def _out_of_order(page: bytearray) -> None:
    """The first entry goes to the end, where no lookup finds it."""
    n = int.from_bytes(page[3:5], "big")
    page[8 : 8 + 2 * n] = page[10 : 8 + 2 * n] + page[8:10]


def _another_number(page: bytearray) -> None:
    """The entry of the fourth pointer says another number."""
    place = int.from_bytes(page[14:16], "big")
    page[place + int(page[place])] ^= 0x40


@pytest.mark.parametrize("change", [_without_a_cell, _out_of_order, _another_number])
@pytest.mark.parametrize("name", ["documents_by_content", "sqlite_autoindex_documents_1"])
def test_a_damaged_index_of_documents_is_an_error_or_right(
    whole: Path, tmp_path: Path, name: str, change: Callable[[bytearray], None]
) -> None:
    right = _outcomes(whole, tmp_path / "copy.db")
    assert "error" not in right.values()
    _rewrite_index(whole, name, change)
    found = _outcomes(whole, tmp_path / "copy.db")
    assert "error" in found.values()
    assert {read: outcome for read, outcome in found.items() if outcome not in ("error", right[read])} == {}
    with Index.open(whole, model=WordEncoder()) as index:
        assert index.verify().problems
        # The documents themselves are sound: they can be got out, whole.
        assert index.dump(tmp_path / "all.jsonl") == 20
    report = recover(whole, tmp_path / "new.db", model=WordEncoder())
    assert (report.documents, report.lost) == (20, ())


@pytest.mark.parametrize(
    ("statement", "hit"),
    [
        (
            "DELETE FROM documents WHERE id = 'd3'",
            {"search", "exact", "words", "both", "filter", "ids", "count", "get"},
        ),
        ("UPDATE documents SET id = 'other' WHERE id = 'd3'", {"ids", "get", "absent"}),
        ("UPDATE documents SET content_id = 9e999 WHERE id = 'd3'", {"search", "exact", "words", "both", "count"}),
        ("UPDATE documents SET content_id = 9223372036854775807", {"search", "exact", "words", "both", "count"}),
        ("UPDATE state SET value = '[1, 2]' WHERE key = 'documents'", {"search", "exact", "ids", "count", "absent"}),
        ("DELETE FROM state WHERE key = 'documents'", {"search", "exact", "ids", "count", "absent"}),
    ],
)
def test_documents_changed_behind_our_back_are_an_error(whole: Path, statement: str, hit: set[str]) -> None:
    with raw(whole) as connection:
        assert connection.execute(statement).rowcount
    for name in hit:
        with Index.open(whole, model=WordEncoder()) as index, pytest.raises(StoreFormatError, match=_ERROR):
            _READS[name](index)
    with Index.open(whole, model=WordEncoder(), on_damage="skip") as index:
        for full in (True, False):
            assert any(
                "the list of documents is damaged" in found.message for found in index.verify(full=full).problems
            )


def test_a_list_that_does_not_fit_sound_documents_is_mended_in_place(whole: Path) -> None:
    with raw(whole) as connection:
        connection.execute("DELETE FROM documents WHERE id = 'd3'")
    with Index.open(whole, model=WordEncoder()) as index:
        with pytest.raises(StoreFormatError, match="20 documents were written, and 19 are found"):
            index.search("kettle")
        report = index.repair()
        assert (report.documents, report.lost_unnamed, report.complete) == (19, 1, False)
        assert "20 documents were written, and 19 are found" in report.notes[0]
        assert len(index.search("kettle", k=30)) == 19
        assert index.verify().problems == ()


def _search_all(index: Index) -> list[str]:
    """The best document for each of some words, which between them look into nearly all lists."""
    words = ("number3", "red", "kettle", "number0", "number13", "cup1")
    return [index.search(word, k=1, n_candidates=3)[0].id for word in words]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM segments WHERE segment_id = (SELECT min(segment_id) FROM segments)",
        "DELETE FROM cell_lists WHERE list_id = (SELECT min(list_id) FROM cell_lists)",
        "DELETE FROM segment_cells WHERE segment_id = (SELECT min(segment_id) FROM segment_cells)",
        "UPDATE segment_cells SET cells = x'01'",
        "UPDATE segment_cells SET cells = 7",
        "UPDATE segments SET segment_id = segment_id + 100",
    ],
)
def test_a_part_of_the_first_stage_that_cannot_be_found_is_an_error_or_passed_over(whole: Path, statement: str) -> None:
    with Index.open(whole, model=WordEncoder()) as index:
        # Entries of a deleted document stay in their segment, so that counting codes does not help.
        index.delete([f"d{n}" for n in range(4, 12)])
        index.add([{"id": f"new{n}", "text": f"blue cup{n}"} for n in range(3)])
        right = _search_all(index)
    with raw(whole) as connection:
        assert connection.execute(statement).rowcount
    with Index.open(whole, model=WordEncoder()) as index:
        with pytest.raises(StoreFormatError, match=r"in the first stage is damaged\. The texts .*are unharmed"):
            _search_all(index)
        assert index.verify().problems
    with Index.open(whole, model=WordEncoder(), on_damage="skip") as index:
        with pytest.warns(StoreWarning, match="the first stage is damaged, so every passage was scored"):
            found = _search_all(index)
        assert found == right
    with Index.open(whole, model=WordEncoder()) as index:
        assert index.repair().first_stage_rebuilt
        assert index.verify().problems == ()


def test_a_first_stage_that_cannot_be_found_is_not_taken_for_none(whole: Path) -> None:
    with raw(whole) as connection:
        sql = "SELECT rootpage FROM sqlite_master WHERE name IN ('first_stages', '_sqlite_migrations')"
        pages = [slice((root - 1) * PAGE, root * PAGE) for (root,) in connection.execute(sql)]
    content = bytearray(whole.read_bytes())
    content[pages[0]], content[pages[1]] = content[pages[1]], content[pages[0]]
    whole.write_bytes(content)
    with Index.open(whole, model=WordEncoder()) as index:
        with pytest.raises(StoreFormatError, match="in the first stage is damaged"):
            index.search("kettle", n_candidates=3)
        assert index.search("kettle", exact=True)
    with (
        Index.open(whole, model=WordEncoder(), on_damage="skip") as index,
        pytest.warns(StoreWarning, match="the first stage is damaged, so every passage was scored"),
    ):
        assert index.search("kettle", n_candidates=3)


def test_a_merge_does_not_lose_a_list_that_cannot_be_found(whole: Path) -> None:
    with raw(whole) as connection:
        connection.execute("DELETE FROM cell_lists WHERE list_id = (SELECT min(list_id) FROM cell_lists)")
    with Index.open(whole, model=WordEncoder()) as index:
        index.delete(["d1", "d2"])
        with pytest.raises(StoreFormatError, match=r"list .* in the first stage is damaged"):
            index.compact()


def test_cells_of_a_segment_that_was_rolled_back_are_forgotten(path: Path) -> None:
    members = np.array([1], dtype=np.int64), np.array([1], dtype=np.int64)
    store = Store(path)

    def add(cell: int) -> tuple[int, list[int]]:
        store.add_segment(1, 0, members, [(cell, b"entries")])
        (number,) = store._one("SELECT max(segment_id) FROM segments")
        return number, [found for found, _ in store.segment_lists(number)]

    def change(cell: int) -> None:
        with store.change():
            store._run("PRAGMA defer_foreign_keys = ON")
            assert add(cell) == (1, [cell])
        # There is no such first stage, so the commit fails.

    try:
        for cell in (3, 5):
            with pytest.raises(StoreError, match="FOREIGN KEY"):
                change(cell)
    finally:
        store.close()


def test_the_list_of_documents_is_compared_once_for_each_connection(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []
    check = Register._check_texts
    monkeypatch.setattr(Register, "_check_texts", lambda self, sql: (compared.append(sql), check(self, sql))[1])
    with Index.open(whole, model=WordEncoder()) as index:
        for n in range(3):
            index.search("kettle")
            index.add([f"another {n}"])
        assert len(compared) == 1
        assert len(index) == 23


def test_texts_that_are_not_shown_yet_are_no_damage(whole: Path) -> None:
    def stop(done: int, total: int | None) -> bool:
        return done < 3

    with Index.open(whole, model=WordEncoder()) as index, pytest.raises(CancelledError):
        index.add([f"interrupted kettle{n}" for n in range(70)], progress=stop)
    assert count_rows(whole, "contents") > 19
    with Index.open(whole, model=WordEncoder()) as index:
        assert len({hit.text for hit in index.search("kettle", k=40, n_candidates=15)}) == 15
        assert index.verify().problems == ()


def test_the_list_is_what_the_documents_add_up_to_whatever_was_done(whole: Path) -> None:
    with Index.open(whole, model=WordEncoder()) as index:
        index.add([{"id": "d3", "text": "other text"}, {"id": "d3", "text": "last of its name"}, "no id"])
        index.add([{"id": "d4", "text": "red kettle number4", "metadata": {"n": 9}}])
        index.delete(["d5", "d5", "nobody"])
        index.delete_where({"n": {"in": [6, 7]}})
        index.compact()
        assert index.verify().problems == ()
    store = Store(whole, create=False)
    try:
        kept = store.register.totals()
        assert kept.n_documents == 18
        with store.change():
            store.register.rewrite()
        assert store.register.totals() == kept
    finally:
        store.close()


@pytest.mark.parametrize("cells", [[], [0], [7, 8], [65_535], list(range(0, 65_536, 3))])
def test_cells_are_packed_and_unpacked(cells: list[int]) -> None:
    packed = pack(cells)
    assert len(packed) == (max(cells, default=-1) + 8) // 8
    assert unpack(packed).nonzero()[0].tolist() == cells


def test_a_dump_of_a_table_that_misses_a_document_is_refused(whole: Path, tmp_path: Path) -> None:
    with raw(whole) as connection:
        (noted,) = connection.execute("SELECT value FROM state WHERE key = 'documents'").fetchone()
        assert json.loads(noted)[0] == 20
        connection.execute("DELETE FROM documents WHERE id = 'd3'")
    with Index.open(whole, model=WordEncoder()) as index, pytest.raises(StoreFormatError, match="20 documents were"):
        index.dump(tmp_path / "all.jsonl")
    assert list(tmp_path.glob("all*")) == []
