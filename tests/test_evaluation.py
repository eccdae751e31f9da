"""Metrics against ir-measures, reading BEIR folders, and `edgecolbert eval` from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, R, nDCG

from edgecolbert import Index, InputError
from edgecolbert.beir import read_collection
from edgecolbert.cli import main
from edgecolbert.metrics import ndcg, recall, reciprocal_rank

TINY = str(Path(__file__).parent / "fixtures" / "tiny-model")


def _random_judgements(seed: int) -> tuple[dict[str, list[str]], dict[str, dict[str, int]]]:
    generator = np.random.default_rng(seed)
    names = [f"d{n}" for n in range(150)]
    rankings, qrels = {}, {}
    for n in range(30):
        judged = generator.choice(names, int(generator.integers(1, 40)), replace=False)
        qrels[f"q{n}"] = {str(name): int(generator.integers(0, 4)) for name in judged}
        length = int(generator.integers(0, 120))
        rankings[f"q{n}"] = [str(name) for name in generator.choice(names, length, replace=False)]
    return rankings, qrels


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_those_of_ir_measures(seed: int) -> None:
    rankings, qrels = _random_judgements(seed)
    run = [
        ir_measures.ScoredDoc(query, name, -float(rank))
        for query, ranking in rankings.items()
        for rank, name in enumerate(ranking)
    ]
    judgements = [
        ir_measures.Qrel(query, name, grade) for query, entries in qrels.items() for name, grade in entries.items()
    ]
    ours = {nDCG @ 10: (ndcg, 10), R @ 10: (recall, 10), R @ 100: (recall, 100), RR @ 10: (reciprocal_rank, 10)}
    checked = 0
    for found in ir_measures.iter_calc(list(ours), judgements, run):
        metric, k = ours[found.measure]
        assert metric(rankings[found.query_id], qrels[found.query_id], k) == pytest.approx(found.value, abs=1e-9)
        checked += 1
    assert checked > 100


def test_metrics_of_nothing_are_zero() -> None:
    for metric in (ndcg, recall, reciprocal_rank):
        assert metric([], {"a": 1}, 10) == 0
        assert metric(["a"], {}, 10) == 0
        assert metric(["a"], {"a": 0, "b": -1}, 10) == 0
        assert metric(["a"], {"a": 2}, 10) == 1


DOCUMENTS = {
    "d1": ("Kettle", "The red kettle stands in the left cupboard."),
    "d2": ("", "Bins go out on Tuesday."),
    "d3": ("Router", "The password is on its back."),
    "d4": ("Cat", "The cat sleeps on the mat all day."),
}


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """A tiny collection with one query that has no judgements and one judged only irrelevant."""
    folder = tmp_path / "tiny-beir"
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": name, "title": title, "text": text} for name, (title, text) in DOCUMENTS.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = {"q1": "red kettle", "q2": "bins on tuesday", "q3": "unjudged", "q4": "nothing relevant", "q5": "cat mat"}
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": name, "text": text}) + "\n" for name, text in queries.items())
    )
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td4\t1\nq2\td2\t1\nq4\td3\t0\nq5\td4\t1\n"
    )
    return folder


def test_a_collection_has_only_queries_with_something_relevant(beir: Path) -> None:
    collection = read_collection(beir)
    assert collection.name == "tiny-beir"
    assert list(collection.queries) == ["q1", "q2", "q5"]
    assert collection.qrels["q1"] == {"d1": 2, "d4": 1}
    assert [record["text"] for record in collection.documents[:2]] == [
        "Kettle The red kettle stands in the left cupboard.",
        "Bins go out on Tuesday.",
    ]
    assert list(read_collection(beir, max_queries=2).queries) == ["q1", "q2"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("qrels/test.tsv", None, r"test\.tsv does not exist. Name a folder in BEIR's layout, and a split that it has"),
        (
            "qrels/test.tsv",
            "h\th\th\nq1 d1 1\n",
            r"test\.tsv, line 2 is 'q1 d1 1', expected query id, document id and gr",
        ),
        ("qrels/test.tsv", "h\th\th\nq1\td1\tmany\n", r"test\.tsv, line 2 is 'q1\\td1\\tmany'"),
        ("qrels/test.tsv", "h\th\th\n", "no query of split 'test' has a relevant document"),
        ("queries.jsonl", None, r"queries\.jsonl does not exist"),
        ("queries.jsonl", "[1]\n", r"queries\.jsonl, line 1 is list, expected an object"),
        ("queries.jsonl", '{"_id": 3, "text": "x"}\n', r"queries\.jsonl, line 1: _id is 3, expected a string"),
        ("corpus.jsonl", None, r"corpus\.jsonl does not exist"),
        ("corpus.jsonl", "", r"corpus\.jsonl has no documents"),
        ("corpus.jsonl", "{\n", r"corpus\.jsonl is not JSON Lines in UTF-8"),
        ("corpus.jsonl", '{"_id": "a"}\n', r"corpus\.jsonl, line 1: text is None, expected a string"),
    ],
)
def test_a_wrong_file_of_a_collection_is_named(beir: Path, name: str, content: str | None, message: str) -> None:
    (beir / name).unlink() if content is None else (beir / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_collection(beir)


def test_what_is_not_a_folder_is_named(beir: Path, tmp_path: Path) -> None:
    for wrong in (tmp_path / "nowhere", beir / "corpus.jsonl"):
        with pytest.raises(InputError, match=r"does not exist. Name a folder in BEIR's layout"):
            read_collection(wrong)


def _eval(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    capsys.readouterr()
    assert main(["eval", *(str(word) for word in words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_eval_measures_every_way_side_by_side(beir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = _eval(capsys, beir, "--n-candidates", 4)
    assert (report["dataset"], report["model"], report["documents"], report["queries"]) == (
        "tiny-beir",
        "starter",
        4,
        3,
    )
    assert list(report["stages"]) == ["exact", "fde", "rerank", "lexical", "hybrid"]
    for stage, scores in report["stages"].items():
        assert set(scores) == {
            *("ndcg@10", "recall@10", "recall@100", "mrr@10", "recall_of_exact_top10", "ms_per_query")
        }  # fmt: skip
        # Four documents are all candidates, so nothing can be missed, but by words, of documents without any.
        if stage != "lexical":
            assert scores["recall@10"] == scores["recall@100"] == scores["recall_of_exact_top10"] == 1.0
    assert report["stages"]["rerank"]["ndcg@10"] == report["stages"]["exact"]["ndcg@10"] > 0.9
    assert report["index"]["passages"] == 4
    assert report["index"]["bytes_per_document"] > 0


def test_eval_scores_are_the_metrics_of_its_rankings(
    beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = _eval(capsys, beir, "--model", TINY, "--runs", tmp_path / "runs", "--n-candidates", 2)
    qrels = read_collection(beir).qrels
    for stage, scores in report["stages"].items():
        rankings: dict[str, list[str]] = {query: [] for query in qrels}
        for line in (tmp_path / "runs" / f"{stage}.trec").read_text().splitlines():
            query, _, name, rank, _, tag = line.split()
            assert (int(rank), tag) == (len(rankings[query]) + 1, stage)
            rankings[query].append(name)
        for key, metric, k in (("ndcg@10", ndcg, 10), ("recall@100", recall, 100), ("mrr@10", reciprocal_rank, 10)):
            mean = float(np.mean([metric(rankings[query], qrels[query], k) for query in qrels]))
            assert scores[key] == pytest.approx(mean, abs=1e-5)
        lengths = {len(ranking) for ranking in rankings.values()}
        if stage == "lexical":
            assert lengths <= {0, 1, 2, 3, 4}
        else:
            assert lengths <= {"exact": {4}, "hybrid": {2, 3, 4}}.get(stage, {2})


def test_eval_keeps_its_database_and_uses_it_again(
    beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kept.db"
    first = _eval(capsys, beir, "--model", TINY, "--db", path)
    second = _eval(capsys, beir, "--model", TINY, "--db", path, "--max-queries", 1)
    assert first["index"]["documents_per_second"] > 0
    assert second["index"]["documents_per_second"] is None
    assert second["queries"] == 1
    with Index.open(path) as index:
        index.add(["a stranger"])
    assert main(["eval", str(beir), "--db", str(path), "--model", TINY]) == 1
    assert "The database holds 5 documents, the collection 4" in capsys.readouterr().err


def test_eval_cuts_long_documents_unless_passages_are_asked_for(beir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (beir / "corpus.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "long", "text": "A sentence of some words. " * 60}) + "\n")
    assert _eval(capsys, beir, "--model", TINY)["index"]["passages"] == 5
    assert _eval(capsys, beir, "--model", TINY, "--passages")["index"]["passages"] > 10


def test_eval_prints_a_table_for_people(beir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(beir), "--model", TINY]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tiny-beir: 4 documents, 3 queries, model tiny, 100 candidates"
    assert [line.split()[0] for line in lines[2:7]] == ["exact", "fde", "rerank", "lexical", "hybrid"]
    assert "bytes a document" in lines[7]
