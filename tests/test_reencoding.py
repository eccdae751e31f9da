"""Making all vectors again: the old ones serve until one commit switches, and an interrupted run continues."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from raw_database import count_rows
from word_encoder import SplittingEncoder, WordEncoder

from edgecolbert import CancelledError, FdeSettings, Index, InputError, TokenSettings, reencode
from edgecolbert.errors import StoreFormatError, StoreMismatchError, StoreNotFoundError


def _fill(path: Path, n_documents: int = 150, **options: object) -> None:
    with Index.open(path, model=WordEncoder("old"), **options) as index:  # type: ignore[arg-type]
        index.add([{"id": f"d{n:03}", "text": f"common word{n}", "metadata": {"n": n}} for n in range(n_documents)])


def test_reencoding_switches_every_document_to_the_new_model(path: Path) -> None:
    _fill(path)
    new = WordEncoder("new", dim=12)
    assert reencode(path, model=new) == 150
    assert len(new.encoded) == 150
    with Index.open(path, model=new) as index:
        stats = index.stats()
        assert (stats.model, stats.dim, stats.documents) == ("new", 12, 150)
        assert index.search("word77", k=1)[0].metadata == {"n": 77}
        assert index.search("word77", k=1, n_candidates=10)[0].id == "d077"
        assert index.verify().problems == ()
    with pytest.raises(StoreMismatchError, match=r"'new'.*'old'"):
        Index.open(path, model=WordEncoder("old"))
    assert [count_rows(path, table) for table in ("encodings", "first_stages", "passages")] == [1, 1, 150]


def test_settings_of_the_file_outlive_the_model(path: Path) -> None:
    _fill(path, fde=FdeSettings(num_cells=7), split_documents=False)
    reencode(path, model=SplittingEncoder("new", room=1))
    with Index.open(path, model=SplittingEncoder("new", room=1), fde=FdeSettings(num_cells=7)) as index:
        assert index.stats().passages == 150
        first_stage = index.stats().first_stage
        assert first_stage is not None
        assert (first_stage["kind"], first_stage["num_cells"], first_stage["centred"]) == ("cells", 7, False)


def test_the_old_vectors_serve_until_the_switch(path: Path) -> None:
    _fill(path)
    served: list[tuple[int, str]] = []
    with Index.open(path, model=WordEncoder("old")) as index:

        def look(done: int, total: int | None) -> None:
            assert total == 150
            served.append((done, index.search("word9", k=1, n_candidates=10)[0].id))
            assert len(index.search("common", k=200, exact=True)) == 150
            assert index.verify().problems == ()

        reencode(path, model=WordEncoder("new"), progress=look)
        assert [done for done, _ in served] == [0, 64, 128, 150]
        assert {name for _, name in served} == {"d009"}
        for use in (lambda: index.search("word9"), lambda: index.add(["more"]), index.stats):
            with pytest.raises(StoreMismatchError, match=r"index\.db was re-encoded with .*'old'. Open it again"):
                use()
        # What needs no vectors still works.
        assert len(index) == 150
        assert index.get("d009") is not None
        assert index.delete(["d009"]) == 1


def test_adding_a_known_text_with_an_old_handle_is_refused_too(path: Path) -> None:
    _fill(path)
    with Index.open(path, model=WordEncoder("old")) as index:
        reencode(path, model=WordEncoder("new"))
        with pytest.raises(StoreMismatchError, match="Open it again"):
            index.add([{"id": "another", "text": "common word9"}])
        assert len(index) == 150


def test_a_cancelled_run_changes_nothing_and_the_next_one_continues(path: Path) -> None:
    _fill(path)
    first = WordEncoder("new")
    with pytest.raises(CancelledError, match=r"cancelled after 64 of 150 texts. The old vectors go on serving"):
        reencode(path, model=first, progress=lambda done, total: done < 64)
    with Index.open(path, model=WordEncoder("old")) as index:
        assert index.search("word9", k=1, n_candidates=10)[0].id == "d009"
        assert index.verify().problems == ()
    second = WordEncoder("new")
    assert reencode(path, model=second) == 150 - 64
    assert sorted(first.encoded + second.encoded) == sorted(f"common word{n}" for n in range(150))
    with Index.open(path, model=WordEncoder("new")) as index:
        assert index.verify().problems == ()
        assert index.search("word9", k=1, n_candidates=10)[0].id == "d009"


def test_a_run_with_a_third_model_drops_what_was_begun_with_the_second(path: Path) -> None:
    _fill(path)
    with pytest.raises(CancelledError):
        reencode(path, model=WordEncoder("second"), progress=lambda done, total: done < 64)
    assert reencode(path, model=WordEncoder("third")) == 150
    assert (count_rows(path, "encodings"), count_rows(path, "passages")) == (1, 150)
    with Index.open(path, model=WordEncoder("third")) as index:
        assert index.verify().problems == ()


def test_documents_added_and_deleted_meanwhile_are_right_after_the_switch(path: Path) -> None:
    _fill(path)
    with Index.open(path, model=WordEncoder("old")) as index:

        def change(done: int, total: int | None) -> None:
            if done == 64:
                index.add([{"id": "late", "text": "a latecomer"}])
                index.delete(["d000", "d149"])
            if done == total and "later" not in index:
                index.add([{"id": "later", "text": "the last minute"}])

        reencode(path, model=WordEncoder("new"), progress=change)
    with Index.open(path, model=WordEncoder("new")) as index:
        assert len(index) == 150
        assert index.search("latecomer", k=1, n_candidates=10)[0].id == "late"
        assert index.search("minute", k=1, n_candidates=10)[0].id == "later"
        assert index.verify().problems == ()


def test_an_encoder_that_fails_leaves_the_old_vectors_serving(path: Path) -> None:
    class Failing(WordEncoder):
        def encode_documents(self, documents: list[str]) -> list[object]:  # type: ignore[override]
            raise MemoryError("too large")

    _fill(path)
    with pytest.raises(MemoryError):
        reencode(path, model=Failing("new"))  # type: ignore[arg-type]
    with Index.open(path, model=WordEncoder("old")) as index:
        assert index.search("word9", k=1)[0].id == "d009"
        assert index.verify().problems == ()


def test_the_same_model_makes_its_vectors_again(path: Path) -> None:
    _fill(path)
    assert reencode(path, model=WordEncoder("old")) == 150
    with Index.open(path, model=WordEncoder("old")) as index:
        assert index.search("word9", k=1, n_candidates=10)[0].id == "d009"


def test_a_file_of_an_encoder_of_the_users_own_is_not_given_to_another_unasked(path: Path) -> None:
    _fill(path)
    with pytest.raises(InputError, match=r"index\.db was made with an encoder of your own, 'old'. Pass"):
        reencode(path)
    with Index.open(path, model=WordEncoder("old")) as index:
        assert index.search("word9", k=1)[0].id == "d009"


def test_texts_that_no_document_points_to_are_not_encoded(path: Path) -> None:
    with Index.open(path, model=WordEncoder("old")) as index:
        index.add([f"kept {n}" for n in range(3)])
        with pytest.raises(CancelledError):
            index.add([f"abandoned {n}" for n in range(100)], progress=lambda done, total: False)
    new = WordEncoder("new")
    assert reencode(path, model=new) == 3
    assert sorted(new.encoded) == ["kept 0", "kept 1", "kept 2"]
    with Index.open(path, model=WordEncoder("new")) as index:
        assert index.verify().problems == ()
        assert index.add([f"abandoned {n}" for n in range(100)]).encoded == 100
        assert len(index.search("abandoned", k=200, n_candidates=200)) == 103
        assert index.verify().problems == ()


def test_an_index_without_documents_is_switched(path: Path) -> None:
    with Index.open(path, model=WordEncoder("old")):
        pass
    assert reencode(path, model=WordEncoder("new")) == 0
    with Index.open(path, model=WordEncoder("new")) as index:
        index.add(["red kettle"])
        assert index.search("kettle")


def test_only_a_database_of_ours_can_be_reencoded(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match=r"There is no database at .*none\.db"):
        reencode(tmp_path / "none.db", model=WordEncoder())
    (tmp_path / "text.db").write_text("hello there, this is text")
    with pytest.raises(StoreFormatError, match="not an edgecolbert database"):
        reencode(tmp_path / "text.db", model=WordEncoder())


# Other settings of token storage


def _storage(path: Path, model: WordEncoder) -> dict[str, int]:
    with Index.open(path, model=model, read_only=True) as index:
        return index.stats().token_storage


def test_tokens_are_stored_in_another_way_and_back(path: Path) -> None:
    _fill(path)
    model = WordEncoder("old")
    with Index.open(path, model=model) as index:
        before = index.stats()
    # One setting at a time; the other stays as the file has it.
    for named, stored in (
        ({"bits": 4}, {"bits": 4, "pool_factor": 1}),
        ({"pool_factor": 2}, {"bits": 4, "pool_factor": 2}),
        (None, {"bits": 4, "pool_factor": 2}),
        (TokenSettings(bits=8), {"bits": 8, "pool_factor": 1}),
    ):
        assert reencode(path, model=model, tokens=named) == 150
        with Index.open(path, model=model) as index:
            assert index.stats().token_storage == stored
            assert index.verify().problems == ()
            assert index.search("common word77", k=1)[0].id == "d077"
            assert index.search("common word77", k=1, n_candidates=10)[0].metadata == {"n": 77}
            if stored["bits"] == 4:
                assert index.stats().token_bytes == 150 * (2 * 12 + 24 + 1)
    with Index.open(path, model=model) as index:
        assert (index.stats().token_bytes, index.stats().tokens) == (before.token_bytes, before.tokens)


def test_an_interrupted_run_is_continued_with_the_same_settings_only(path: Path) -> None:
    _fill(path)
    model = WordEncoder("old")

    def stop(done: int, total: int | None) -> bool:
        return done < 64

    with pytest.raises(CancelledError):
        reencode(path, model=model, tokens={"bits": 4}, progress=stop)
    # The old vectors serve, as they were stored.
    assert _storage(path, model) == {"bits": 8, "pool_factor": 1}
    assert reencode(path, model=model, tokens={"bits": 4}) == 150 - 64
    assert _storage(path, model) == {"bits": 4, "pool_factor": 1}
    with pytest.raises(CancelledError):
        reencode(path, model=model, tokens={"pool_factor": 2}, progress=stop)
    assert reencode(path, model=model, tokens={"pool_factor": 3}) == 150
    assert _storage(path, model) == {"bits": 4, "pool_factor": 3}
    with Index.open(path, model=model) as index:
        assert index.verify().problems == ()
    assert [count_rows(path, table) for table in ("encodings", "passages")] == [1, 150]


def test_a_process_killed_while_tokens_are_stored_in_another_way_loses_nothing(path: Path) -> None:
    _fill(path, 300)
    child = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from edgecolbert import reencode
from word_encoder import WordEncoder
def tell(done, total):
    print(done, flush=True)
    if done >= 128:
        sys.stdin.read()
reencode({str(path)!r}, model=WordEncoder("old"), tokens={{"bits": 4, "pool_factor": 2}}, progress=tell)
"""
    process = subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while process.stdout.readline() != "128\n":
        pass
    process.kill()
    process.communicate()
    model = WordEncoder("old")
    with Index.open(path, model=model) as index:
        assert index.stats().token_storage == {"bits": 8, "pool_factor": 1}
        assert index.search("word200", k=1)[0].id == "d200"
        assert index.verify().problems == ()
    assert reencode(path, model=model, tokens=TokenSettings(bits=4, pool_factor=2)) == 300 - 128
    with Index.open(path, model=model) as index:
        assert index.stats().token_storage == {"bits": 4, "pool_factor": 2}
        assert index.verify().problems == ()
        assert len(index.search("common", k=300, exact=True)) == 300
