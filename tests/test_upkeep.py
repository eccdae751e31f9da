"""Keeping the first stage: fitted as the index grows, built beside the one that serves, sealed, merged, migrated."""

from __future__ import annotations

import gzip
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from statistics import fmean

import pytest
from raw_database import count_rows, raw
from word_encoder import WordEncoder

from edgecolbert import FdeSettings, Index, InputError, candidates, upkeep
from edgecolbert.errors import CancelledError, StoreReadOnlyError
from edgecolbert.muvera import MuveraSettings
from edgecolbert.results import Hit
from edgecolbert.tuning import WIDTHS, _evenly_spaced, width_for

FIXTURES = Path(__file__).parent / "fixtures"


def _documents(start: int, end: int) -> list[dict[str, str]]:
    return [{"id": f"d{n}", "text": f"word{n} shared{n % 7} other{n % 11} thing{n % 3}"} for n in range(start, end)]


def _assert_finds_everything(index: Index, numbers: range) -> None:
    """Every document is found by its own word, through the first stage."""
    assert index.stats().first_stage is not None
    for n in numbers:
        assert index.search(f"word{n}", k=1, n_candidates=3)[0].id == f"d{n}"
    assert index.verify().problems == ()


def test_codes_are_sealed_into_segments_and_segments_merged(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        for start in range(0, 300, 6):
            index.add(_documents(start, start + 6))
        with raw(path) as connection:
            segments = connection.execute("SELECT level, n_passages FROM segments ORDER BY segment_id").fetchall()
        # 300 = 2 * 128 + 1 * 32 + 1 * 8 + 4 single codes.
        assert sorted(segments) == [(0, 8), (1, 32), (2, 128), (2, 128)]
        assert count_rows(path, "codes") == 4
        _assert_finds_everything(index, range(0, 300, 17))
    with Index.open(path, model=encoder) as index:
        _assert_finds_everything(index, range(0, 300, 29))


def test_a_document_can_be_found_as_soon_as_it_is_added(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index, Index.open(path, model=encoder) as other:
        index.add(_documents(0, 20))
        for n in range(20, 60):
            index.add(_documents(n, n + 1))
            assert other.search(f"word{n}", k=1, n_candidates=2)[0].id == f"d{n}"


def test_lists_that_do_not_fit_in_memory_are_read_again(
    path: Path, encoder: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = encoder.encode_queries([f"word{n} shared{n % 7}" for n in range(40)])
    with Index.open(path, model=encoder) as index:
        index.add(_documents(0, 150))
        expected = [index.candidates(query, 20) for query in queries]
        assert index._candidates is not None
        in_memory = index._candidates[1]._lists  # type: ignore[attr-defined]
        assert in_memory._bytes.sum() > 1_000
    monkeypatch.setattr(candidates, "_MOST_LIST_BYTES", 500)
    with Index.open(path, model=encoder) as index:
        for _ in range(2):
            for query, found in zip(queries, expected, strict=True):
                assert index.candidates(query, 20) == found
                assert index._candidates is not None
                in_memory = index._candidates[1]._lists  # type: ignore[attr-defined]
                held = [entries for entries in in_memory._lists.values() if entries is not None]
                size = sum(entries.passages.nbytes + entries.codes.nbytes for entries in held)
                assert size == in_memory._bytes.sum() <= 500


def test_a_write_that_leaves_the_first_stage_alone_is_one_commit(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add(_documents(0, 150))
        before = index._store.generation
        index.add(_documents(150, 151))
        assert index._store.generation == before + 1


def test_deleted_documents_are_not_found_and_leave_the_segments_when_compacted(
    path: Path, encoder: WordEncoder
) -> None:
    with Index.open(path, model=encoder) as index:
        index.add(_documents(0, 100))
        index.delete([f"d{n}" for n in range(0, 100, 2)])
        for n in range(1, 20):
            found = [hit.id for hit in index.search(f"word{n} shared1 other1 thing1", k=5, n_candidates=5)]
            assert len(found) == 5
            assert all(int(name[1:]) % 2 for name in found)
        assert index.verify().problems == ()
        index.compact()
        with raw(path) as connection:
            (left,) = connection.execute("SELECT sum(n_passages) FROM segments").fetchone()
        assert left + count_rows(path, "codes") == 50
        _assert_finds_everything(index, range(1, 100, 2))
        index.delete([f"d{n}" for n in range(100)])
        index.compact()
        assert (count_rows(path, "segments"), count_rows(path, "cell_lists"), count_rows(path, "codes")) == (0, 0, 0)
        assert index.search("word1", n_candidates=1) == []


def test_what_an_unfinished_add_has_stored_is_not_put_forward(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add(_documents(0, 30))
        with pytest.raises(CancelledError):
            index.add(_documents(30, 400), progress=lambda done, total: done < 300)
        assert index.stats().documents == 30
        assert len(index.search("word300 shared1", k=50, n_candidates=29)) == 29
        assert index.verify().problems == ()


def test_a_new_first_stage_is_built_a_part_at_a_time_while_the_old_one_serves(
    path: Path, encoder: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_BUILD_RATE", 0)
    with Index.open(path, model=encoder) as index:
        index.add(_documents(0, 70))
        # Fitted to 70, of which one step of 16 has codes; none serves yet.
        assert index.stats().first_stage is None
        seen = set()
        n = 70
        while n < 150:
            index.add(_documents(n, n + 1))
            n += 1
            assert index.search(f"word{n - 1}", k=1, n_candidates=3)[0].id == f"d{n - 1}"
            with raw(path) as connection:
                seen.add(tuple(connection.execute("SELECT state FROM first_stages ORDER BY state").fetchall()))
        assert (("serving",),) in seen
        assert (("building",),) in seen
        first = index.stats().first_stage
        while n < 300:
            index.add(_documents(n, n + 1))
            n += 1
            with raw(path) as connection:
                seen.add(tuple(connection.execute("SELECT state FROM first_stages ORDER BY state").fetchall()))
        # Fitted again at four times as many, beside the one that served.
        assert (("building",), ("serving",)) in seen
        assert index.stats().first_stage != first
        _assert_finds_everything(index, range(0, 300, 23))


def test_a_build_that_was_interrupted_goes_on_with_the_next_write(
    path: Path, encoder: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.open(path, model=encoder) as index:
        index.add(_documents(0, 40))
        steps: list[int] = []
        whole = upkeep.Upkeep._add_codes

        def stops(self: upkeep.Upkeep, *arguments: object) -> None:
            steps.append(1)
            if len(steps) == 2:
                raise KeyboardInterrupt
            whole(self, *arguments)  # type: ignore[arg-type]

        with monkeypatch.context() as patched:
            patched.setattr(upkeep.Upkeep, "_add_codes", stops)
            with pytest.raises(KeyboardInterrupt):
                index.tune(compare=False, rebuild=True)
        assert index.verify().problems == ()
        _assert_finds_everything(index, range(0, 40, 7))
        index.add(_documents(40, 41))
        with raw(path) as connection:
            assert connection.execute("SELECT state FROM first_stages").fetchall() == [("serving",)]
        _assert_finds_everything(index, range(0, 41, 5))


def test_an_add_that_cannot_get_the_lock_again_for_the_first_stage_has_succeeded(path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    with Index.open(path, model=WordEncoder(), timeout=0.1) as index:
        index.add(_documents(0, 2))
        wanted = upkeep.Upkeep._wanted

        def locked(self: upkeep.Upkeep) -> object:
            other.execute("BEGIN IMMEDIATE")
            return wanted(self)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(upkeep.Upkeep, "_wanted", locked)
            assert index.add(_documents(2, 40)).added == 38
        other.execute("ROLLBACK")
        other.close()
        assert len(index) == 40
        # The next writes catch up.
        for n in range(40, 50):
            index.add(_documents(n, n + 1))
        _assert_finds_everything(index, range(0, 50, 7))


def test_readers_see_a_whole_first_stage_while_it_is_made_again(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add(_documents(0, 120))
    wrong: list[object] = []
    done = threading.Event()

    def read() -> None:
        with Index.open(path, model=WordEncoder()) as reader:
            while not done.is_set():
                for n in (3, 50, 119):
                    found = [hit.id for hit in reader.search(f"word{n}", k=1, n_candidates=3)]
                    if found != [f"d{n}"]:
                        wrong.append((n, found))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    with Index.open(path, model=encoder) as index:
        for _ in range(4):
            index.tune(compare=False, rebuild=True, n_queries=3)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
    """A file that was written by the first version of the schema."""
    path = tmp_path / "version-1.db"
    path.write_bytes(gzip.decompress((FIXTURES / "databases" / "version-1.db.gz").read_bytes()))
    return path


def test_a_file_of_schema_1_is_migrated_with_all_it_holds(version_1: Path) -> None:
    model = FIXTURES / "tiny-model"
    with pytest.raises(StoreReadOnlyError, match="has schema 1 and must be migrated to 5 first"):
        Index.open(version_1, model=model, read_only=True)
    with Index.open(version_1, model=model) as index:
        assert index.ids() == ["bees", "bread", "twin", "long", "empty"]
        document = index.get("bees")
        assert document is not None
        assert document.metadata == {"room": "garden", "year": 2021}
        assert index.verify().problems == ()
        # As the version that wrote it found them.
        hits = index.search("dance", k=2)
        assert [hit.id for hit in hits] == ["long", "bees"]
        assert [hit.score for hit in hits] == pytest.approx([14.536962509155273, 13.77668571472168], abs=1e-4)
        assert index.stats().first_stage is None
        index.add([{"id": "new", "text": "A kettle sings."}])
        assert index.stats().first_stage is not None
        assert index.verify().problems == ()
        assert index.prune("shelf", ["bees"]) == 4
    with Index.open(version_1, model=model, read_only=True) as index:
        assert index.ids() == ["bees", "new"]


def test_tuning_measures_every_width_and_kind_of_query_and_search_uses_it(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add(
            [{"id": f"{n}", "text": " ".join(f"word{(n * 7 + i * i) % 90}" for i in range(40))} for n in range(150)]
        )
        with pytest.raises(InputError, match=r"index\.db was not measured yet.*edgecolbert tune"):
            index.search("word1", min_recall=0.9)
        report = index.tune(n_queries=10)
        assert {trial.name for trial in report.trials} >= {"as it is", "cells fitted again", "MUVERA"}
        assert set(report.recall) == {"short", "long"} or set(report.recall) == {"short"}
        for curve in report.recall.values():
            values = list(curve.values())
            assert values == sorted(values)
            assert values[-1] == 1.0
        for query in ("word1 word8", "word3 word5 word9"):
            exact = [hit.id for hit in index.search(query, k=10, exact=True)]
            assert [hit.id for hit in index.search(query, k=10, min_recall=1.0)] == exact
        assert index.verify().problems == ()
    with Index.open(path, model=encoder) as index:
        assert index.search("word1", min_recall=0.5)
        again = index.tune(["word1 word2", "word7"], compare=False)
        assert (again.trials, again.queries, again.chosen) == ((), 2, "as it is")


def _words(seed: int, n: int) -> list[str]:
    """Words of which some are frequent and most are rare, as in a language."""
    generator = random.Random(seed)
    return [f"w{int(1200 ** generator.random())}" for _ in range(n)]


@pytest.mark.parametrize("given", [False, True])
def test_the_recall_that_is_asked_for_is_met_on_queries_that_were_not_measured(
    path: Path, encoder: WordEncoder, given: bool
) -> None:
    # So coarse that it needs many candidates.
    with Index.open(path, model=encoder, fde=FdeSettings(num_cells=24, num_subspaces=1)) as index:
        index.add([{"id": f"d{n}", "text": " ".join(_words(n, 40))} for n in range(300)])
        queries = [" ".join(_words(seed, 3 + seed % 2 * 14)) for seed in range(10_000, 10_100)]
        report = index.tune(queries if given else None, compare=False)
        assert set(report.recall) == {"short", "long"}
        for kind, n_words in (("short", 3), ("long", 17)):
            held_out = [" ".join(_words(seed, n_words)) for seed in range(20_000, 20_040)]
            exact = [{hit.id for hit in hits} for hits in index.search_many(held_out, k=10, exact=True)]
            curve = report.recall[kind]
            # It must not be so easy that any number of candidates would do.
            assert curve[25] < 0.8
            for wanted in (0.8, 0.95):
                found = index.search_many(held_out, k=10, min_recall=wanted)
                # What fifty measured and forty other queries can differ by.
                assert _recall(exact, found) >= wanted - 0.04
            if given:
                # Nor is the curve so modest that it would be of no use.
                found = index.search_many(held_out, k=10, n_candidates=50)
                assert _recall(exact, found) == pytest.approx(curve[50], abs=0.08)


def _recall(exact: list[set[str]], found: list[list[Hit]]) -> float:
    return fmean(len(top & {hit.id for hit in hits}) / len(top) for top, hits in zip(exact, found, strict=True))


def test_more_recall_takes_no_fewer_candidates() -> None:
    curves = {"short": {"25": 0.5, "50": 0.8, "100": 0.9}, "long": {"25": 0.9, "50": 0.99, "100": 1.0}}

    def width(n_tokens: int, wanted: float) -> int:
        return width_for(curves, n_tokens, wanted, "index.db")

    assert [width(3, wanted) for wanted in (0.1, 0.5, 0.51, 0.8, 0.9)] == [25, 25, 50, 50, 100]
    assert [width(30, wanted) for wanted in (0.9, 0.91, 1.0)] == [25, 50, 100]
    # More than was ever measured takes the most that is measured anywhere.
    assert width(3, 0.95) == WIDTHS[-1]
    # Queries of one kind were measured only: it stands for the other.
    assert width_for({"short": curves["short"]}, 30, 0.8, "index.db") == 50


def test_tuning_keeps_the_kind_of_first_stage_that_the_file_was_made_with(path: Path, encoder: WordEncoder) -> None:
    # So coarse that cells would be chosen at once.
    muvera = FdeSettings(kind="muvera", muvera=MuveraSettings(num_repetitions=1, num_simhash_projections=1))
    with Index.open(path, model=encoder, fde=muvera) as index:
        index.add([{"id": f"d{n}", "text": " ".join(_words(n, 12))} for n in range(250)])
        for rebuild in (False, True):
            report = index.tune(n_queries=5, rebuild=rebuild)
            assert report.kept_kind == "muvera"
            assert {trial.settings.kind for trial in report.trials} == {"muvera"}
            first_stage = index.stats().first_stage
            assert first_stage is not None
            assert first_stage["kind"] == "muvera"
        report = index.tune(n_queries=5, any_kind=True)
        assert report.kept_kind is None
        assert report.rebuilt
        first_stage = index.stats().first_stage
        assert first_stage is not None
        assert first_stage["kind"] == "cells"
    # A file without such a wish has all compared; one with cells has no MUVERA.
    with Index.open(path.with_name("cells.db"), model=encoder, fde=FdeSettings(num_cells=24)) as index:
        index.add([" ".join(_words(n, 20)) for n in range(50)])
        report = index.tune(n_queries=3)
        assert (report.kept_kind, {trial.settings.kind for trial in report.trials}) == ("cells", {"cells"})


def test_settings_are_compared_on_so_many_passages_at_most() -> None:
    assert _evenly_spaced([1, 2, 3], 3) == [1, 2, 3]
    for n in (3_001, 5_999, 6_000, 100_000):
        chosen = _evenly_spaced(list(range(n)), 3_000)
        assert len(set(chosen)) == 3_000
        assert chosen[0] == 0
        assert n - chosen[-1] <= -(-n // 3_000)


def test_wrong_arguments_of_tuning_are_named(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        with pytest.raises(InputError, match="has no documents"):
            index.tune()
        index.add(_documents(0, 10))
        with pytest.raises(InputError, match="queries is empty"):
            index.tune([])
        with pytest.raises(InputError, match=r"min_recall is 1\.5, expected more than 0"):
            index.search("word1", min_recall=1.5)
        with pytest.raises(InputError, match="min_recall chooses n_candidates"):
            index.search("word1", min_recall=0.9, n_candidates=3)
        with pytest.raises(CancelledError):
            index.tune(progress=lambda done, total: False)
        assert index.verify().problems == ()
    with Index.open(path, model=encoder, read_only=True) as index, pytest.raises(StoreReadOnlyError):
        index.tune()


# Space


def test_free_space_is_reported_and_given_back(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": f"{n}", "text": f"word{n} " * 400} for n in range(40)])
        index.compact()
        before = index.stats()
        assert before.free_bytes == 0
        index.delete([f"{n}" for n in range(30)])
        stats = index.stats()
        assert stats.file_bytes == before.file_bytes
        assert 30 * 400 * encoder.dim / 2 < stats.free_bytes < stats.file_bytes
        assert index.compact() >= stats.free_bytes
        assert index.stats().free_bytes == 0
    assert path.stat().st_size < before.file_bytes / 2


def test_texts_that_others_share_outlive_a_delete_and_no_statement_scans_a_table(
    path: Path, encoder: WordEncoder
) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": f"{n}", "text": f"text {n // 2}"} for n in range(40)])
        statements: list[str] = []
        index._store._connection.set_trace_callback(statements.append)
        assert index.delete([f"{n}" for n in range(0, 40, 2)] + ["no such"]) == 20
        index._store._connection.set_trace_callback(None)
        assert index.stats().passages == 20
        assert index.delete(["1", "3"]) == 2
        assert index.stats().passages == 18
        assert index.verify().problems == ()
        deletes = [sql for sql in statements if sql.startswith("DELETE")]
        assert len(deletes) == 3
        for sql in deletes:
            plan = [row[3] for row in index._store._run(f"EXPLAIN QUERY PLAN {sql}")]
            assert [step for step in plan if step.startswith("SCAN") and "json_each" not in step] == []


_COMPACT = """
import os, resource, signal, sys
sys.path.insert(0, sys.argv[2])
from word_encoder import WordEncoder
from edgecolbert import Index, StoreError
index = Index.open(sys.argv[1], model=WordEncoder())
if sys.argv[3] == "kill":
    # SQLite calls this every so many steps of the VACUUM.
    calls = iter(range(int(sys.argv[4])))
    def step():
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
    vacuum = index._store.give_back_space
    def watched():
        index._store._connection.set_progress_handler(step, 50)
        vacuum()
    index._store.give_back_space = watched
else:
    size = os.path.getsize(sys.argv[1]) + int(sys.argv[4])
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 4, size // 4))
try:
    index.compact()
    print("compacted")
except StoreError as error:
    print("stopped:", error)
"""


@pytest.mark.parametrize("how", ["kill 1", "kill 10", "kill 40", "limit 0"])
def test_a_compact_that_is_stopped_leaves_the_file_whole(path: Path, encoder: WordEncoder, how: str) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": f"{n}", "text": f"word{n} " * 400} for n in range(40)])
        index.delete([f"{n}" for n in range(10)])
    done = subprocess.run(
        [sys.executable, "-c", _COMPACT, str(path), str(Path(__file__).parent), *how.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL if how.startswith("kill") else done.stdout.startswith("stopped:"), done
    with Index.open(path, model=encoder) as index:
        assert index.verify().problems == ()
        assert index.ids() == [f"{n}" for n in range(10, 40)]
        assert index.search("word17", k=1)[0].id == "17"
        assert index.compact() >= 0
        assert index.stats().free_bytes == 0
