"""Cells that no longer suit what is written are fitted again, beside those that serve; others are left alone."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from raw_database import raw
from word_encoder import WordEncoder

from edgecolbert import Index, upkeep
from edgecolbert.drift import Drift, error_of
from edgecolbert.fde import FdeSettings, FirstStage

TESTS = Path(__file__).parent

CHILD = """
import sys
sys.path.insert(0, sys.argv[2])
import test_drift
from edgecolbert import Index, upkeep
from word_encoder import WordEncoder
upkeep.FIRST_STAGE_FROM, upkeep._FITTED_ENOUGH, upkeep._BUILD_STEP, upkeep._SEALED = 2, 100, 16, 8
upkeep._BUILD_RATE = 0
with Index.open(sys.argv[1], model=WordEncoder(), timeout=30) as index:
    for n in range(200, 2000):
        index.add(test_drift.documents("other", n, n + 1))
        print(n, flush=True)
"""


def documents(subject: str, start: int, end: int) -> list[dict[str, str]]:
    """Texts of twelve of the sixty words of a subject, and one of their own."""
    found = []
    for n in range(start, end):
        words = random.Random(n).choices(range(60), k=12)
        found.append({"id": f"d{n}", "text": " ".join(f"{subject}{word}" for word in words) + f" only{n}"})
    return found


def _states(path: Path) -> list[str]:
    with raw(path) as connection:
        return [row[0] for row in connection.execute("SELECT state FROM first_stages ORDER BY state")]


def _serving(path: Path) -> int:
    with raw(path) as connection:
        (number,) = connection.execute("SELECT first_stage_id FROM first_stages WHERE state = 'serving'").fetchone()
    return int(number)


def _figures(path: Path) -> list[Drift]:
    with raw(path) as connection:
        rows = connection.execute("SELECT value FROM state WHERE key LIKE 'drift%' ORDER BY key").fetchall()
    found = [Drift.from_json(row[0]) for row in rows]
    assert None not in found
    return [drift for drift in found if drift is not None]


def _fitted_to_200(path: Path) -> None:
    with Index.open(path, model=WordEncoder()) as index:
        index.add(documents("word", 0, 200))
        index.tune(["word1 word2", "word3 word4"], compare=False, rebuild=True)


def test_more_of_the_same_leaves_the_cells_alone(path: Path, encoder: WordEncoder) -> None:
    _fitted_to_200(path)
    before = _serving(path)
    with Index.open(path, model=encoder) as index:
        for n in range(200, 600, 10):
            index.add(documents("word", n, n + 10))
            assert _states(path) == ["serving"]
    assert _serving(path) == before
    (drift,) = _figures(path)
    assert (drift.passages, drift.tokens) == (400, 100 * 13)
    assert drift.error / drift.tokens == pytest.approx(drift.fitted, rel=0.1)


def test_texts_about_something_else_have_the_cells_fitted_again_while_the_old_ones_serve(
    path: Path, encoder: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_BUILD_RATE", 0)
    _fitted_to_200(path)
    before = _serving(path)
    seen = []
    n = 200
    with Index.open(path, model=encoder) as index:
        while _serving(path) == before:
            assert n < 400
            index.add(documents("other", n, n + 1))
            n += 1
            seen.append(tuple(_states(path)))
            for number in (n - 1, 7):
                assert index.search(f"only{number}", k=1, n_candidates=3)[0].id == f"d{number}"
        # Not before a quarter of the passages is new, and then as a build beside the one that serves.
        assert seen.index(("building", "serving")) == 66
        assert set(seen) == {("serving",), ("building", "serving")}
        assert index.verify().problems == ()
        # What came while it was built is new to it, and suits it.
        (drift,) = _figures(path)
        assert drift.passages == n - 267
        settled = _serving(path)
        index.add(documents("other", n, 600))
        assert _serving(path) == settled
        # Recall was measured of the cells before; a search that asks for it goes on.
        assert index.search("only300", k=1, min_recall=0.9)[0].id == "d300"


def test_a_few_other_texts_among_many_leave_the_cells_alone(path: Path, encoder: WordEncoder) -> None:
    _fitted_to_200(path)
    with Index.open(path, model=encoder) as index:
        before = _serving(path)
        index.add(documents("other", 200, 230))
        index.add(documents("word", 230, 250))
        assert (_serving(path), _states(path)) == (before, ["serving"])


@pytest.mark.parametrize(
    "stored", [None, "", "[]", "{}", "3", '{"fitted": "x", "last": 3}', '{"fitted": NaN, "last": 3}']
)
def test_figures_that_cannot_be_read_are_none(stored: str | None) -> None:
    assert Drift.from_json(stored) is None
    drift = Drift(0.25, 7, 3, 30, 9.5)
    assert Drift.from_json(drift.to_json()) == drift


@pytest.mark.parametrize("stored", [None, "[]"])
def test_a_first_stage_without_readable_figures_serves_until_the_next_fit(
    path: Path, encoder: WordEncoder, stored: str | None
) -> None:
    _fitted_to_200(path)
    before = _serving(path)
    with raw(path) as connection:
        connection.execute("DELETE FROM state WHERE key LIKE 'drift%'")
        if stored is not None:
            key = f"drift of first stage {before}"
            connection.execute("INSERT INTO state (key, value) VALUES (?, ?)", (key, stored))
    with Index.open(path, model=encoder) as index:
        index.add(documents("other", 200, 400))
        assert _serving(path) == before
        index.tune(["word1"], compare=False, rebuild=True)
        (drift,) = _figures(path)
        assert drift.passages == 0
        index.add(documents("third", 400, 600))
        assert index.verify().problems == ()


def test_muvera_has_no_cells_that_could_drift(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder, fde=FdeSettings(kind="muvera")) as index:
        index.add(documents("word", 0, 120))
        index.tune(["word1"], compare=False, rebuild=True)
        before = _serving(path)
        index.add(documents("other", 120, 300))
    assert (_figures(path), _states(path), _serving(path)) == ([], ["serving"], before)


def test_figures_go_with_the_first_stage_they_are_of(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add(documents("word", 0, 120))
        for _ in range(3):
            index.tune(["word1"], compare=False, rebuild=True)
            assert len(_figures(path)) == 1


def test_a_process_killed_while_new_cells_take_over_loses_nothing(path: Path) -> None:
    _fitted_to_200(path)
    before = _serving(path)
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path), str(TESTS)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    deadline = time.monotonic() + 60
    while _states(path) != ["building", "serving"]:
        assert time.monotonic() < deadline
        assert child.stdout.readline()
    child.kill()
    told = [int(line) for line in child.stdout.read().split("\n")[:-1]]
    child.wait()
    child.stdout.close()
    with Index.open(path, model=WordEncoder()) as index:
        assert index.verify().problems == ()
        assert len(index) >= max(told, default=200) + 1
        last = len(index) - 1
        assert index.search(f"only{last}", k=1, n_candidates=3)[0].id == f"d{last}"
        for n in range(last + 1, last + 60):
            index.add(documents("other", n, n + 1))
        # The build that was under way has been completed by later writes.
        assert _serving(path) != before
        assert index.verify().problems == ()
        for n in range(0, last + 60, 19):
            assert index.search(f"only{n}", k=1, n_candidates=3)[0].id == f"d{n}"


@pytest.mark.parametrize("centre", [False, True])
def test_the_error_is_one_less_the_cosine_with_the_nearest_centre(centre: bool) -> None:
    generator = np.random.default_rng(3)
    # Of any length, as pooled tokens are; and a passage without a token.
    sets = [generator.normal(size=(n, 16)).astype(np.float32) for n in (30, 1, 0, 50)]
    stage = FirstStage.fit(FdeSettings(num_cells=8, centre=centre), sets)
    assert stage.cells is not None
    expected = 0.0
    for tokens in sets:
        for token in stage.prepared(tokens):
            expected += 1 - max(float(token @ centre) for centre in stage.cells) / float(np.linalg.norm(token))
    assert error_of(stage, sets, stage.document_codes(sets)) == pytest.approx(expected, rel=1e-4)
