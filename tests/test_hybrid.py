"""Hybrid search: both rankings, fused as the formulas say."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from word_encoder import WordEncoder

from edgecolbert import Fusion, Index
from edgecolbert.cli import main
from edgecolbert.errors import InputError, InputTypeError
from edgecolbert.fusion import ranks

WORDS = [f"w{n}" for n in range(30)]


@pytest.fixture
def index(path: Path, encoder: WordEncoder) -> Index:
    chance = random.Random(5)
    index = Index.open(path, model=encoder)
    index.add(
        [
            {"id": f"{n:03}", "text": " ".join(chance.choices(WORDS, k=8)) + f" u{n}", "metadata": {"odd": n % 2 == 1}}
            for n in range(200)
        ]
    )
    return index


def _by_hand(late: dict[str, float], lexical: dict[str, float], kind: str, weight: float) -> dict[str, float]:
    names = list(late)
    scores = {"late": np.array([late[n] for n in names]), "lexical": np.array([lexical.get(n, 0.0) for n in names])}
    if kind == "weighted":
        parts = {stage: (values - values.mean()) / values.std() for stage, values in scores.items()}
    else:
        parts = {}
        for stage, values in scores.items():
            place = [1 + sum(other > value for other in values) for value in values]
            parts[stage] = np.array([1 / (60 + p) for p in place]) * (values > 0 if stage == "lexical" else 1)
    fused = weight * parts["late"] + (1 - weight) * parts["lexical"]
    return dict(zip(names, fused.tolist(), strict=True))


@pytest.mark.parametrize(
    ("kind", "weight", "default"), [("weighted", 0.6, True), ("rrf", 0.5, True), ("rrf", 0.9, False)]
)
@pytest.mark.parametrize("width", [20, 300])
def test_candidates_of_both_are_scored_by_both(
    index: Index, kind: Any, weight: float, default: bool, width: int
) -> None:
    fusion = kind if default else Fusion(kind, weight)
    for query in ("w1 w2", "w5 w5 w9", "u17 w3 w3"):
        late = index.search(query, k=200, exact=True)
        lexical = index.search(query, k=200, mode="lexical")
        bm25 = {hit.id: hit.score for hit in lexical}
        lowest = lexical[min(width, len(lexical)) - 1].score
        put_forward = {hit.id for hit in late[:width]} | {hit.id for hit in lexical if hit.score >= lowest}
        expected = _by_hand({hit.id: hit.score for hit in late if hit.id in put_forward}, bm25, kind, weight)
        # A first stage as wide as the index finds what an exact search finds.
        hits = index.search(query, k=200, mode="hybrid", fusion=fusion, n_candidates=width)
        if width == 300:
            assert {hit.id: hit.score for hit in hits} == pytest.approx(expected, abs=1e-5)
            assert [hit.id for hit in hits] == sorted(expected, key=lambda name: (-round(expected[name], 9), name))[
                :200
            ]
        else:
            assert {hit.id for hit in lexical if hit.score >= lowest} <= {hit.id for hit in hits}
        assert all(hit.ranks.get("lexical") is None or hit.id in bm25 for hit in hits)


def test_hits_say_which_stage_found_them_where(index: Index) -> None:
    late = {hit.id: hit.ranks["late"] for hit in index.search("w1 u17", k=200, exact=True)}
    lexical = {hit.id: hit.ranks["lexical"] for hit in index.search("w1 u17", k=200, mode="lexical")}
    hits = index.search("w1 u17", k=200, mode="hybrid", n_candidates=200)
    assert hits[0].id == "017"
    assert hits[0].ranks == {"late": late["017"], "lexical": 1}
    for hit in hits:
        assert hit.ranks == {"late": late[hit.id]} | ({"lexical": lexical[hit.id]} if hit.id in lexical else {})
    assert any("lexical" not in hit.ranks for hit in hits)


def test_phrases_have_to_be_there_and_filters_hold(index: Index) -> None:
    hits = index.search('w1 "u17"', mode="hybrid")
    assert [hit.id for hit in hits] == ["017"]
    assert index.search('w1 "u17"', mode="hybrid", filter={"odd": False}) == []
    assert index.search('"w1 u17 no such"', mode="hybrid") == []
    hits = index.search("w1 w2", k=200, mode="hybrid", filter={"odd": True}, n_candidates=100)
    assert len(hits) == 100
    assert all(hit.metadata["odd"] for hit in hits)
    with_phrase = {hit.id for hit in index.search('"w1"', k=200, mode="lexical")}
    assert {hit.id for hit in index.search('"w1" w2', k=200, mode="hybrid", n_candidates=200)} == with_phrase


def test_a_query_without_words_is_left_to_late_interaction(index: Index) -> None:
    hits = index.search("??", k=3, mode="hybrid")
    assert [hit.id for hit in hits] == [hit.id for hit in index.search("??", k=3, exact=True)]


def test_many_queries_are_each_found_as_alone(index: Index) -> None:
    queries = ["w1 w2", "u3", '"w4"']
    for mode in ("late", "lexical", "hybrid"):
        assert index.search_many(queries, mode=mode) == [index.search(query, mode=mode) for query in queries]


def test_documents_that_share_a_text_share_its_ranks(index: Index) -> None:
    index.add([{"id": "twin", "text": (index.get("017") or pytest.fail("missing")).text}])
    first, second, *_ = index.search("u17", mode="hybrid")
    assert (first.id, second.id) == ("017", "twin")
    assert (first.score, first.ranks) == (second.score, second.ranks)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "bm25"}, InputError, "mode is 'bm25', expected one of 'late', 'lexical', 'hybrid'"),
        ({"mode": None}, InputError, "mode is None"),
        ({"fusion": "rrf"}, InputError, "fusion is for mode='hybrid', and mode is 'late'"),
        ({"mode": "hybrid", "fusion": "max"}, InputError, "kind 'max', expected 'weighted' or 'rrf'"),
        ({"mode": "hybrid", "fusion": 0.5}, InputTypeError, "fusion is float"),
    ],
)
def test_wrong_arguments_are_refused(index: Index, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        index.search("w1", **options)


@pytest.mark.parametrize(
    ("weight", "error"), [(1.5, InputError), (float("nan"), InputError), ("a", InputTypeError), (True, InputTypeError)]
)
def test_weights_are_between_0_and_1(weight: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="late_weight"):
        Fusion("rrf", weight)


@pytest.mark.parametrize("kind", ["weighted", "rrf"])
def test_the_extreme_weights_are_either_ranking(index: Index, kind: Any) -> None:
    late = [hit.id for hit in index.search("w1 w2", k=20, exact=True)]
    lexical = index.search("w1 w2", k=20, mode="lexical")
    assert [hit.id for hit in index.search("w1 w2", k=20, mode="hybrid", fusion=Fusion(kind, 1.0), exact=True)] == late
    found = index.search("w1 w2", k=20, mode="hybrid", fusion=Fusion(kind, 0.0), exact=True)
    assert [hit.id for hit in found] == [hit.id for hit in lexical]


def test_scores_that_are_all_equal_say_nothing() -> None:
    one, two = np.array([0.1 + 0.2] * 3), np.array([1.0, 3.0, 2.0])
    assert np.argsort(-Fusion().scores(one, two)).tolist() == [1, 2, 0]
    assert Fusion().scores(one, one).tolist() == [0.0, 0.0, 0.0]
    assert Fusion().scores(np.empty(0), np.empty(0)).tolist() == []
    assert ranks(np.array([2.0, 5.0, 5.0, 1.0])).tolist() == [3, 1, 1, 4]


def test_the_command_line_searches_in_every_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = Path(__file__).parent / "fixtures" / "tiny-model"
    path = str(tmp_path / "index.db")
    with Index.open(path, model=tiny) as index:
        index.add([{"id": "a", "text": "call foo_bar now"}, {"id": "b", "text": "foo and bar"}, "other"])
    for mode in ("late", "lexical", "hybrid"):
        words = ["search", '"foo_bar"' if mode != "late" else "foo_bar", "--db", path, "--json", "--mode", mode]
        assert main([*words, *(["--fusion", "rrf"] if mode == "hybrid" else [])]) == 0
        report = json.loads(capsys.readouterr().out)
        assert set(report["hits"][0]["ranks"]) == ({"late", "lexical"} if mode == "hybrid" else {mode})
        assert ("load_model" in report["ms"]) == (mode != "lexical")
        if mode != "late":
            assert [hit["id"] for hit in report["hits"]] == ["a"]
    assert main(["compact", "--db", path, "--rebuild-lexical"]) == 0
    assert main(["verify", "--db", path]) == 0
