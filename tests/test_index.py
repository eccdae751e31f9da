"""Adding, replacing, deleting and reading documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_database import count_rows
from word_encoder import DIM, SplittingEncoder, WordEncoder

from edgecolbert import CancelledError, Document, Index, InputError
from edgecolbert.errors import InputTypeError, StoreClosedError


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _assert_sound(index: Index) -> None:
    report = index.verify()
    assert report.problems == ()


def test_a_string_is_a_document_whose_id_is_its_content_hash(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        report = index.add(["red kettle", "blue cup"])
        assert report.ids == [_sha256("red kettle"), _sha256("blue cup")]
        assert (report.added, report.updated, report.unchanged, report.encoded) == (2, 0, 0, 2)
        document = index.get(_sha256("red kettle"))
        assert document is not None
        assert (document.id, document.text, document.metadata) == (_sha256("red kettle"), "red kettle", {})


def test_a_record_comes_back_as_it_was_added(path: Path, encoder: WordEncoder) -> None:
    metadata = {
        "year": 1999,
        "tags": ["a", "b"],
        "nested": {"x": None, "y": 1.5},
        "ok": True,
        "\u00e9": "\u6f22 \U0001f600",
    }
    with Index.open(path, model=encoder) as index:
        index.add([{"id": "one", "text": "red kettle", "metadata": metadata}])
        document = index.get("one")
        assert document is not None
        assert dict(document) == {"id": "one", "text": "red kettle", "metadata": metadata}


def test_a_document_that_get_returned_can_be_added_to_another_index(tmp_path: Path, encoder: WordEncoder) -> None:
    with Index.open(tmp_path / "a.db", model=encoder) as first, Index.open(tmp_path / "b.db", model=encoder) as second:
        first.add([{"id": "one", "text": "red kettle", "metadata": {"n": 1}}])
        document = first.get("one")
        assert isinstance(document, Document)
        second.add([document])
        copy = second.get("one")
        assert copy is not None
        assert dict(copy) == dict(document)


def test_get_of_an_unknown_id_is_none(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        assert index.get("nobody") is None
        assert "nobody" not in index
        assert 7 not in index
        assert "" not in index


def test_get_wants_a_string(path: Path, encoder: WordEncoder) -> None:
    with (
        Index.open(path, model=encoder) as index,
        pytest.raises(InputTypeError, match=r"id is 7 \(int\), expected a st"),
    ):
        index.get(7)  # type: ignore[arg-type]


def test_ids_come_in_the_order_of_first_adding(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": name, "text": f"text {name}"} for name in "cab"])
        index.add([{"id": "c", "text": "other text"}, {"id": "d", "text": "more"}])
        assert index.ids() == ["c", "a", "b", "d"]
        assert len(index) == 4
        assert "c" in index


def test_adding_an_id_again_replaces_its_text_and_metadata(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": "one", "text": "red kettle", "metadata": {"n": 1}}])
        report = index.add([{"id": "one", "text": "blue cup", "metadata": {"n": 2}}])
        assert (report.added, report.updated, report.unchanged, report.encoded) == (0, 1, 0, 1)
        document = index.get("one")
        assert document is not None
        assert (document.text, document.metadata) == ("blue cup", {"n": 2})
        assert [hit.text for hit in index.search("kettle", k=5)] == ["blue cup"]
        _assert_sound(index)
    assert count_rows(path, "contents") == 1
    assert count_rows(path, "passages") == 1


def test_the_same_documents_again_change_and_encode_nothing(path: Path, encoder: WordEncoder) -> None:
    records = [{"id": str(n), "text": f"word{n}", "metadata": {"n": n}} for n in range(5)]
    with Index.open(path, model=encoder) as index:
        index.add(records)
        encoder.encoded.clear()
        report = index.add(records)
        assert (report.added, report.updated, report.unchanged, report.encoded) == (0, 0, 5, 0)
        assert encoder.encoded == []


def test_a_change_of_metadata_alone_encodes_nothing(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": "one", "text": "red kettle", "metadata": {"n": 1}}])
        encoder.encoded.clear()
        report = index.add([{"id": "one", "text": "red kettle", "metadata": {"n": 2}}])
        assert (report.updated, report.encoded) == (1, 0)
        assert encoder.encoded == []
        assert index.search("kettle")[0].metadata == {"n": 2}


def test_a_record_without_metadata_removes_what_was_there(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": "one", "text": "red kettle", "metadata": {"n": 1}}])
        index.add([{"id": "one", "text": "red kettle"}])
        document = index.get("one")
        assert document is not None
        assert document.metadata == {}


def test_documents_with_one_text_share_one_encoding(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        report = index.add([{"id": "a", "text": "red kettle"}, {"id": "b", "text": "red kettle"}, "red kettle"])
        assert (report.added, report.encoded) == (3, 1)
        assert encoder.encoded == ["red kettle"]
        hits = index.search("kettle")
        assert [hit.id for hit in hits] == sorted(["a", "b", _sha256("red kettle")])
        assert len({hit.score for hit in hits}) == 1


def test_deleting_one_of_two_documents_keeps_the_text_they_share(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": "a", "text": "red kettle"}, {"id": "b", "text": "red kettle"}])
        assert index.delete(["a"]) == 1
        assert [hit.id for hit in index.search("kettle")] == ["b"]
        _assert_sound(index)
        assert index.delete(["b"]) == 1
        assert index.search("kettle") == []
        _assert_sound(index)
    assert [count_rows(path, table) for table in ("documents", "contents", "passages", "codes")] == [0, 0, 0, 0]


def test_delete_counts_documents_and_passes_over_unknown_ids(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": name, "text": name} for name in "abc"])
        assert index.delete(["a", "a", "nobody", "b"]) == 2
        assert index.delete([]) == 0
        assert index.delete(iter(["c"])) == 1
        assert index.ids() == []


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("a", "ids is str, expected a list of ids"),
        (7, "ids is int, expected a list of ids"),
        (["a", 7], r"ids\[1\]: id is 7 \(int\), expected a string"),
        (["a", None], r"ids\[1\]: id is None"),
        (["a", "\ud800"], r"ids\[1\]: id has a lone surrogate \(\\ud800\) at character 0"),
    ],
)
def test_delete_refuses_what_are_no_ids_and_deletes_nothing(
    path: Path, encoder: WordEncoder, ids: Any, message: str
) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": "a", "text": "a"}])
        with pytest.raises(InputError, match=message):
            index.delete(ids)
        assert index.ids() == ["a"]


@pytest.mark.parametrize("name", ["a\0b", "a'b\"c", "a\nb", "é", "漢字", "\U0001f600", " a ", "a%", "[1]", "\\u0000"])
def test_an_id_may_hold_any_character(path: Path, encoder: WordEncoder, name: str) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": "a", "text": "red kettle"}, {"id": name, "text": "blue cup"}])
        assert index.ids() == ["a", name]
        document = index.get(name)
        assert document is not None
        assert document.text == "blue cup"
        assert index.search("cup", k=1)[0].id == name
        assert index.delete([name]) == 1
        assert index.ids() == ["a"]


def test_of_documents_with_equal_ids_in_one_call_the_last_stays(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        report = index.add(
            [{"id": "one", "text": "red kettle"}, {"id": "two", "text": "x"}, {"id": "one", "text": "cup"}]
        )
        assert report.ids == ["one", "two", "one"]
        assert len(index) == 2
        document = index.get("one")
        assert document is not None
        assert document.text == "cup"
        _assert_sound(index)
    assert count_rows(path, "contents") == 2


def test_a_text_may_move_from_one_id_to_another_in_one_call(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": "a", "text": "red kettle"}, {"id": "b", "text": "blue cup"}])
        report = index.add([{"id": "a", "text": "blue cup"}, {"id": "b", "text": "red kettle"}])
        assert (report.updated, report.encoded) == (2, 0)
        assert [hit.id for hit in index.search("kettle", k=1)] == ["b"]
        _assert_sound(index)


def test_a_text_that_a_replaced_document_had_can_be_given_to_a_later_one(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": "a", "text": "x"}, {"id": "a", "text": "y"}, {"id": "b", "text": "x"}])
        assert {name: dict(index.get(name) or {})["text"] for name in index.ids()} == {"a": "y", "b": "x"}
        _assert_sound(index)


def test_a_list_is_added_as_a_whole_or_not_at_all(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        with pytest.raises(InputError, match=r"documents\[2\] has no text"):
            index.add(["red kettle", "blue cup", {"id": "x"}])
        assert len(index) == 0
        assert encoder.encoded == []


def test_batches_of_an_iterator_before_a_wrong_document_stay(path: Path, encoder: WordEncoder) -> None:
    documents: list[Any] = [f"word{n}" for n in range(5)] + [3.5]
    with Index.open(path, model=encoder) as index:
        with pytest.raises(InputTypeError, match=r"documents\[5\] is float, expected a string or a mapping"):
            index.add(iter(documents), batch_size=2)
        assert len(index) == 4
        _assert_sound(index)


def test_an_exception_in_the_iterable_is_passed_on_and_stored_batches_stay(path: Path, encoder: WordEncoder) -> None:
    def documents() -> Iterator[str]:
        yield from (f"word{n}" for n in range(5))
        raise RuntimeError("the disk fell off")

    with Index.open(path, model=encoder) as index:
        with pytest.raises(RuntimeError, match="the disk fell off"):
            index.add(documents(), batch_size=2)
        assert len(index) == 4
        assert len(index.add([f"word{n}" for n in range(6)]).ids) == 6
        assert encoder.encoded.count("word0") == 1


def test_an_iterable_may_read_the_index_it_is_added_to(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": str(n), "text": f"word{n}"} for n in range(5)])
        index.add({"id": f"copy{name}", "text": f"{(index.get(name) or {})['text']} again"} for name in index.ids())
        assert len(index) == 10


def test_progress_counts_documents_of_a_list_up_to_its_length(path: Path, encoder: WordEncoder) -> None:
    told: list[tuple[int, int | None]] = []
    with Index.open(path, model=encoder) as index:
        index.add([f"word{n}" for n in range(150)], progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (150, 150)
    assert len(told) > 1


def test_progress_of_an_iterator_has_no_total_and_comes_after_each_stored_batch(
    path: Path, encoder: WordEncoder
) -> None:
    told: list[tuple[int, int | None, int]] = []
    with Index.open(path, model=encoder) as index, Index.open(path, model=encoder) as reader:

        def note(done: int, total: int | None) -> None:
            told.append((done, total, len(reader)))

        index.add((f"word{n}" for n in range(7)), progress=note, batch_size=3)
    assert told == [(3, None, 3), (6, None, 6), (7, None, 7)]


def test_a_cancelled_list_shows_nothing_and_the_next_call_encodes_only_the_rest(
    path: Path, encoder: WordEncoder
) -> None:
    documents = [f"word{n} common" for n in range(200)]
    with Index.open(path, model=encoder) as index:
        index.add(["something else"])
        encoder.encoded.clear()
        with pytest.raises(CancelledError, match="Adding documents was cancelled after 64 of 200"):
            index.add(documents, progress=lambda done, total: False)
        assert len(index) == 1
        assert [hit.text for hit in index.search("common", k=300)] == ["something else"]
        assert [hit.text for hit in index.search("common", k=300, n_candidates=300)] == ["something else"]
        assert index.stats().passages == 1
        _assert_sound(index)
        assert len(encoder.encoded) == 64
        report = index.add(documents)
        assert (report.added, report.encoded) == (200, 136)
        assert sorted(encoder.encoded) == sorted(documents)
        assert len(index.search("common", k=300, n_candidates=300)) == 201
        _assert_sound(index)


def test_a_cancelled_iterator_keeps_the_batches_it_was_told_of(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        with pytest.raises(CancelledError, match="cancelled after 4"):
            index.add((f"word{n}" for n in range(9)), progress=lambda done, _: done < 4, batch_size=2)
        assert len(index) == 4


def test_an_exception_from_progress_is_passed_on(path: Path, encoder: WordEncoder) -> None:
    def fail(done: int, total: int | None) -> bool:
        raise LookupError("window closed")

    with Index.open(path, model=encoder) as index:
        with pytest.raises(LookupError, match="window closed"):
            index.add(["red kettle"], progress=fail)
        assert len(index) == 0
        index.add(["red kettle"])
        assert len(index) == 1


def test_an_encoder_that_fails_leaves_nothing_behind(path: Path) -> None:
    class Failing(WordEncoder):
        def encode_documents(self, documents: list[str]) -> list[Any]:
            if any("bad" in text for text in documents):
                raise MemoryError("no memory for this")
            return super().encode_documents(documents)

    with Index.open(path, model=Failing()) as index:
        with pytest.raises(MemoryError, match="no memory"):
            index.add(["good", "bad"])
        assert len(index) == 0
        index.add(["good"])
        _assert_sound(index)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([], "encode_documents gave 0 arrays for 1 texts"),
        ([np.ones((2, DIM), dtype=np.int64)], r"gave an array of int64 with shape \(2, 24\), expected float32"),
        ([np.ones(DIM, dtype=np.float32)], r"with shape \(24,\), expected float32 \[n_tokens, dim\]"),
        ([np.full((1, DIM), np.nan, dtype=np.float32)], "NaN or infinite"),
        ([np.full((1, DIM), np.inf, dtype=np.float32)], "NaN or infinite"),
        ([np.full((1, DIM), 1e20, dtype=np.float32)], r"numbers up to 1e\+20, expected at most 1.1e\+12"),
        ([np.ones((2, 3), dtype=np.float32)], "gave dim 3, expected 24"),
        ([np.ones((2, 0), dtype=np.float32)], "gave dim 0, expected 24"),
    ],
)
def test_wrong_arrays_of_a_users_encoder_are_refused(path: Path, arrays: list[Any], message: str) -> None:
    class Wrong(WordEncoder):
        def encode_documents(self, documents: list[str]) -> list[Any]:
            return arrays if documents == ["wrong"] else super().encode_documents(documents)

    with Index.open(path, model=Wrong()) as index:
        index.add(["right"])
    with Index.open(path, model=Wrong()) as index:
        with pytest.raises(InputError, match=message):
            index.add(["wrong"])
        assert len(index) == 1


def test_queries_of_another_dimension_are_refused(path: Path) -> None:
    class Odd(WordEncoder):
        def encode_queries(self, queries: list[str]) -> list[Any]:
            return [np.ones((1, 3), dtype=np.float32) for _ in queries]

    with Index.open(path, model=Odd()) as index:
        index.add(["right"])
        with pytest.raises(InputError, match="encode_queries gave dim 3, expected 24"):
            index.search("right")


def test_one_string_is_not_a_list_of_documents(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        for wrong in ("text", b"text", {"text": "text"}, 7, None):
            with pytest.raises(InputTypeError, match=f"documents is {type(wrong).__name__}, expected a list"):
                index.add(wrong)  # type: ignore[arg-type]
        for size in (0, -1, True, 2.0):
            with pytest.raises(InputError, match=r"batch_size is .*, expected a whole number of at least 1"):
                index.add(iter(["text"]), batch_size=size)  # type: ignore[arg-type]
        assert len(index) == 0


def test_an_empty_list_is_fine(path: Path, encoder: WordEncoder) -> None:
    told: list[tuple[int, int | None]] = []
    with Index.open(path, model=encoder) as index:
        report = index.add([], progress=lambda done, total: told.append((done, total)))
        assert (report.ids, report.added) == ([], 0)
        assert told == [(0, 0)]
        assert index.add(iter([])).ids == []


@pytest.mark.parametrize(
    "text",
    ["", " \n\t ", "!?.,", "\0", "a\0b", "\x01\x02\x1b[31m\x7f", "\ufeff", "\r\nline\r\n", "e\u0301", "\U0010ffff"],
)
def test_any_text_is_stored_exactly_and_found(path: Path, encoder: WordEncoder, text: str) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": "one", "text": text, "metadata": {"copy": text}}])
    with Index.open(path, model=encoder) as index:
        document = index.get("one")
        assert document is not None
        assert (document.text, document.metadata) == (text, {"copy": text})
        for options in ({}, {"exact": True}, {"n_candidates": 1}):
            (hit,) = index.search("anything", **options)  # type: ignore[arg-type]
            assert (hit.id, hit.text) == ("one", text)
            assert hit.passage.text == text[hit.passage.start : hit.passage.end]
        _assert_sound(index)


def test_an_empty_query_finds_documents_in_the_order_of_their_ids(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": name, "text": f"word {name}"} for name in "cab"])
        assert [(hit.id, hit.score) for hit in index.search("")] == [("a", 0.0), ("b", 0.0), ("c", 0.0)]


def test_a_long_document_becomes_passages_and_a_hit_carries_the_best(path: Path) -> None:
    text = "Cats sleep all day long. " * 3 + "The kettle is in the left cupboard. " + "Dogs bark at night. " * 3
    with Index.open(path, model=SplittingEncoder()) as index:
        index.add([{"id": "long", "text": text}, {"id": "short", "text": "a kettle"}])
        assert index.stats().passages > 3
        hits = index.search("kettle left cupboard", k=2)
        assert [hit.id for hit in hits] == ["long", "short"]
        assert "kettle is in the left cupboard" in hits[0].passage.text
        assert hits[0].text == text
        assert text[hits[0].passage.start : hits[0].passage.end] == hits[0].passage.text


def test_without_splitting_a_document_is_one_passage(path: Path) -> None:
    text = "Cats sleep all day long. " * 10
    with Index.open(path, model=SplittingEncoder(), split_documents=False) as index:
        index.add([text])
        assert index.stats().passages == 1
        hit = index.search("cats")[0]
        assert (hit.passage.start, hit.passage.end) == (0, len(text))


def test_stats_count_what_documents_point_to(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        empty = index.stats()
        assert (empty.documents, empty.passages, empty.tokens, empty.dim, empty.first_stage) == (0, 0, 0, None, None)
        index.add(["red kettle", "blue cup here", "é"])
        stats = index.stats()
        assert (stats.documents, stats.passages, stats.tokens, stats.dim) == (3, 3, 6, DIM)
        assert stats.token_bytes == 6 * DIM
        assert stats.text_bytes == len("red kettleblue cup here") + 2
        assert stats.first_stage is not None
        entry = 2 + stats.first_stage["num_subspaces"]
        assert stats.code_bytes % entry == 0
        assert 3 * entry <= stats.code_bytes <= 6 * entry
        assert (stats.model, stats.path) == ("words", str(path))
    with Index.open(path, model=encoder) as index:
        assert index.stats().file_bytes == path.stat().st_size


def test_an_index_in_memory_works_and_is_gone_when_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: WordEncoder
) -> None:
    monkeypatch.chdir(tmp_path)
    with Index.open(":memory:", model=encoder) as index:
        index.add(["red kettle", "blue cup"])
        assert index.search("kettle", k=1)[0].text == "red kettle"
        assert index.search("kettle", k=1, n_candidates=1)[0].text == "red kettle"
        assert index.stats().documents == 2
        _assert_sound(index)
    with Index.open(":memory:", model=encoder) as index:
        assert len(index) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_closed_index_says_so_whatever_is_asked(path: Path, encoder: WordEncoder) -> None:
    index = Index.open(path, model=encoder)
    index.add(["red kettle"])
    index.close()
    index.close()
    uses: list[Any] = [
        lambda: index.add(["x"]),
        lambda: index.add(iter(["x"])),
        lambda: index.delete(["x"]),
        lambda: index.get("x"),
        index.ids,
        lambda: len(index),
        lambda: "x" in index,
        lambda: index.search("x"),
        lambda: index.search_many(["x"]),
        index.stats,
        index.verify,
        lambda: index.prune("x", []),
    ]
    for use in uses:
        with pytest.raises(StoreClosedError, match=r"index\.db was closed. Open it again with Index.open"):
            use()


def test_closing_while_another_call_is_at_work_stops_that_call(path: Path, encoder: WordEncoder) -> None:
    index = Index.open(path, model=encoder)
    with pytest.raises(StoreClosedError, match=r"index\.db was closed"):
        index.add([f"word{n}" for n in range(300)], progress=lambda done, total: index.close())
    with Index.open(path, model=encoder) as again:
        assert len(again) == 0
        assert len(again.add([f"word{n}" for n in range(300)]).ids) == 300
        _assert_sound(again)


def test_leaving_the_context_closes_also_after_an_exception(path: Path, encoder: WordEncoder) -> None:
    with pytest.raises(RuntimeError), Index.open(path, model=encoder) as index:
        raise RuntimeError
    with pytest.raises(StoreClosedError):
        len(index)


def test_prune_deletes_only_what_vanished_from_its_own_source(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add_from("folder", [{"id": name, "text": name} for name in "abc"])
        index.add_from("elsewhere", [{"id": "d", "text": "d"}])
        index.add([{"id": "e", "text": "e"}])
        assert index.prune("folder", ["a", "unknown"]) == 2
        assert index.ids() == ["a", "d", "e"]
        assert index.prune("nowhere", []) == 0


def test_a_document_belongs_to_the_source_it_was_last_read_from(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add_from("old", [{"id": "a", "text": "a"}])
        report = index.add_from("new", [{"id": "a", "text": "a"}])
        assert (report.updated, report.unchanged) == (0, 1)
        assert index.prune("old", []) == 0
        assert index.prune("new", []) == 1


def test_a_large_document_passes_through_in_bounded_steps(path: Path) -> None:
    class Watching(SplittingEncoder):
        largest = 0

        def encode_documents(self, documents: list[str]) -> list[Any]:
            self.largest = max(self.largest, sum(map(len, documents)))
            return super().encode_documents(documents)

    encoder = Watching(room=500)
    text = "".join(f"Sentence number {n} of a very long report. " for n in range(25_000))
    assert len(text) > 1_000_000
    with Index.open(path, model=encoder) as index:
        index.add([{"id": "long", "text": text}])
        assert encoder.largest < 300_000
        hit = index.search("24999", k=1)[0]
        assert "24999" in hit.passage.text
        assert hit.text == text


def test_compact_removes_what_a_cancelled_list_left_behind(path: Path, encoder: WordEncoder) -> None:
    texts = [f"secret number {number}" for number in range(200)]
    with Index.open(path, model=encoder) as index:
        with pytest.raises(CancelledError):
            index.add(texts, progress=lambda done, _: done < 100)
        index.compact()
    assert b"secret number" not in path.read_bytes()
    with Index.open(path, model=encoder) as index:
        assert index.add(texts).encoded == 200
