"""Measuring an index on a test collection, side by side.

Full MaxSim, the first stage alone, both together; words alone, and words together with late interaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from edgecolbert.beir import Collection
from edgecolbert.errors import InputError
from edgecolbert.fusion import Found
from edgecolbert.index import Index
from edgecolbert.metrics import ndcg, recall, reciprocal_rank
from edgecolbert.passages import FloatArray
from edgecolbert.pinning import Model

Rankings = dict[str, list[str]]

# Depth of the rankings, for recall@100.
_DEPTH = 100
# How much of the exact ranking a first stage must not lose.
_TOP = 10
# Full MaxSim keeps a score for each pair of query and passage: with so many pairs in one pass, about half a gigabyte.
_PAIRS = 2_000_000


def evaluate(
    collection: Collection,
    path: str | Path,
    *,
    model: Model = None,
    n_candidates: int = 100,
    passages: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
    runs: Path | None = None,
) -> dict[str, Any]:
    """Index a collection and search it in each way.

    Args:
        collection: What to measure on.
        path: A database file; texts that are in it already are not encoded again.
        model: As in `Index.open`.
        n_candidates: Width of the first stage.
        passages: Split long documents into passages instead of cutting them off at the model's length, as published
            scores do.
        progress: Told how many documents are indexed.
        runs: A folder for the rankings in TREC's format, one file a stage.

    Returns:
        What `edgecolbert eval --json` prints. Times of a stage are per query, without encoding it; those of "exact" are
        shared by all queries, which read the documents once, or in large collections once for some of them.

    Raises:
        InputError: If the database holds other documents than the collection.
    """
    with Index.open(path, model=model, split_documents=passages) as index:
        indexing = _index(index, collection, progress)
        begin = time.perf_counter()
        vectors = {query: index.encode_queries([text])[0] for query, text in collection.queries.items()}
        encode_ms = _ms_per_query(begin, collection)

        ids = {record["id"] for record in collection.documents}
        # What is taken out of a ranking must not shorten it, so rankings are as much longer before.
        more = {query: len(collection.excluded.get(query, frozenset()) & ids) for query in vectors}
        at_once = max(1, _PAIRS // max(1, index.stats().passages))
        begin = time.perf_counter()
        exact = _exact(index, vectors, _DEPTH + max(more.values()), at_once)
        exact_ms = _ms_per_query(begin, collection)
        # The first search reads what belongs to no segment yet; that belongs to opening, not to a query.
        index.candidates(next(iter(vectors.values())), 1)

        begin = time.perf_counter()
        fde = {query: index.candidates(vector, n_candidates + more[query]) for query, vector in vectors.items()}
        fde_ms = _ms_per_query(begin, collection)

        begin = time.perf_counter()
        reranked = {
            query: index.ranked([vector], k=_DEPTH + more[query], n_candidates=n_candidates + more[query])[0]
            for query, vector in vectors.items()
        }
        rerank_ms = _ms_per_query(begin, collection)

        begin = time.perf_counter()
        by_words = {
            query: index.ranked_by_words(collection.queries[query], k=_DEPTH + more[query]) for query in vectors
        }
        words_ms = _ms_per_query(begin, collection)

        begin = time.perf_counter()
        by_both = {
            query: index.ranked_by_both(
                collection.queries[query], vector, k=_DEPTH + more[query], n_candidates=n_candidates + more[query]
            )
            for query, vector in vectors.items()
        }
        both_ms = _ms_per_query(begin, collection)

        stats = index.stats()
    candidates = {query: _allowed(names, query, collection, n_candidates) for query, names in fde.items()}
    rankings: dict[str, tuple[Rankings, float]] = {
        "exact": ({query: _allowed(names, query, collection, _DEPTH) for query, names in exact.items()}, exact_ms),
        "fde": (candidates, fde_ms),
        "rerank": (
            {
                query: _allowed(_scored(found, candidates[query]), query, collection, _DEPTH)
                for query, found in reranked.items()
            },
            rerank_ms,
        ),
        "lexical": (_names(by_words, collection), words_ms),
        "hybrid": (_names(by_both, collection), both_ms),
    }
    if runs is not None:
        _write_runs(runs, {stage: ranking for stage, (ranking, _) in rankings.items()})
    stages = {stage: _scores(ranking, collection) | {"ms_per_query": ms} for stage, (ranking, ms) in rankings.items()}
    for stage, width in (
        ("exact", _TOP),
        ("fde", n_candidates),
        ("rerank", n_candidates),
        ("lexical", n_candidates),
        ("hybrid", n_candidates),
    ):
        # Reranking can only find what the first stage put forward, so both lose the same documents of the top.
        found = rankings["fde" if stage == "rerank" else stage][0]
        stages[stage]["recall_of_exact_top10"] = _recall_of_top(rankings["exact"][0], found, width)
    return {
        "dataset": collection.name,
        "model": stats.model,
        "documents": len(collection.documents),
        "queries": len(collection.queries),
        "n_candidates": n_candidates,
        "stages": stages,
        "encode_ms_per_query": encode_ms,
        "index": indexing
        | {
            "bytes_per_document": round(stats.file_bytes / len(collection.documents), 1),
            "token_bytes_per_document": round(stats.token_bytes / len(collection.documents), 1),
            "code_bytes_per_document": round(stats.code_bytes / len(collection.documents), 1),
            "passages": stats.passages,
            "tokens": stats.tokens,
            "first_stage": stats.first_stage,
        },
    }


def _index(index: Index, collection: Collection, progress: Callable[[int, int | None], None] | None) -> dict[str, Any]:
    index.encode_queries([])
    begin = time.perf_counter()
    total = len(collection.documents)

    def tell(done: int, _: int | None) -> None:
        if progress is not None:
            progress(done, total)

    report = index.add(iter(collection.documents), progress=tell)
    seconds = time.perf_counter() - begin
    if len(index) != len({record["id"] for record in collection.documents}):
        raise InputError(
            f"The database holds {len(index)} documents, the collection {total}: it was made from something else. "
            "Name another file, or leave --db out."
        )
    # A rate from texts that were not encoded would mean nothing.
    rate = round(report.encoded / seconds, 1) if report.encoded else None
    return {"seconds": round(seconds, 2), "documents_per_second": rate}


def _ms_per_query(begin: float, collection: Collection) -> float:
    return round((time.perf_counter() - begin) * 1000 / len(collection.queries), 3)


def _exact(index: Index, vectors: dict[str, FloatArray], depth: int, at_once: int) -> Rankings:
    names, found = list(vectors), dict[str, list[str]]()
    for begin in range(0, len(names), at_once):
        batch = names[begin : begin + at_once]
        ranked = index.ranked([vectors[query] for query in batch], k=depth, exact=True)
        found |= {query: [name for name, _ in row] for query, row in zip(batch, ranked, strict=True)}
    return found


def _allowed(names: list[str], query: str, collection: Collection, depth: int) -> list[str]:
    """A ranking as it is scored: without what the collection excludes, where it excludes anything."""
    excluded = collection.excluded.get(query)
    return [name for name in names if name not in excluded][:depth] if excluded else names


def _names(found: dict[str, list[Found]], collection: Collection) -> Rankings:
    return {
        query: _allowed([document.id for document in documents], query, collection, _DEPTH)
        for query, documents in found.items()
    }


def _scored(ranked: list[tuple[str, Any]], candidates: list[str]) -> list[str]:
    """Of a ranking over more candidates than wanted, those that the wanted ones are."""
    wanted = set(candidates)
    return [name for name, _ in ranked if name in wanted]


def _scores(rankings: Rankings, collection: Collection) -> dict[str, float]:
    def mean(metric: Callable[..., float], k: int) -> float:
        return round(fmean(metric(ranking, collection.qrels[query], k) for query, ranking in rankings.items()), 5)

    first = {"ndcg@1": mean(ndcg, 1)} if collection.metric == "ndcg@1" else {}
    return first | {
        "ndcg@10": mean(ndcg, 10),
        "recall@10": mean(recall, 10),
        "recall@100": mean(recall, 100),
        "mrr@10": mean(reciprocal_rank, 10),
    }


def _recall_of_top(exact: Rankings, found: Rankings, width: int) -> float:
    shares = (
        len(set(ranking[:_TOP]).intersection(found[query][:width])) / len(ranking[:_TOP])
        for query, ranking in exact.items()
        if ranking
    )
    return round(fmean(shares), 5)


def _write_runs(folder: Path, rankings: dict[str, Rankings]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stage, ranking in rankings.items():
        lines = (
            f"{query} Q0 {name} {rank} {1 / rank:.6f} {stage}\n"
            for query, names in ranking.items()
            for rank, name in enumerate(names, start=1)
        )
        (folder / f"{stage}.trec").write_text("".join(lines), encoding="utf-8")
