"""First stages side by side: time to encode a document, bytes, recall by candidates, and nDCG@10 of reranking 100.

Encodings: ours with the model's cells and with cells fitted to the collection, with fewer and with more bytes;
MUVERA's, ours in int8 and muvera-python's in float32. All are scored exactly, one passage a document.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import chain
from statistics import fmean
from typing import Any

import numpy as np
from corpora import CachedEncoder, Corpus, FloatArray, read_corpus
from exact import exact_top
from measuring import Timings, recall, target
from peers import absent_peers, peer_version

from edgecolbert.cell_lists import Segment, passage_scores
from edgecolbert.fde import FdeSettings, FirstStage
from edgecolbert.metrics import ndcg
from edgecolbert.muvera import MuveraSettings

WIDTHS = (10, 25, 50, 100, 200, 400, 800, 1_600)
MODEL_CELLS = "cells of the model"
SETTINGS = {
    "cells of the collection": FdeSettings(),
    "4 subspaces": FdeSettings(num_subspaces=4),
    "8 subspaces, 128 entries": FdeSettings(num_subspaces=8, max_entries=128),
    "1,024 cells": FdeSettings(num_cells=1_024),
    "80 entries": FdeSettings(max_entries=80),
    "MUVERA, 16 partitions": FdeSettings(kind="muvera", centre=False),
    "MUVERA, 32 partitions": FdeSettings(kind="muvera", centre=False, muvera=MuveraSettings(num_simhash_projections=5)),
}
# muvera-python beside the one of ours that has the same parameters.
PEER = "muvera-python"
PEERS = {f"{PEER}, 16 partitions": 4, f"{PEER}, 32 partitions": 5}
# Documents encoded in one call, as an index does it; and how many calls are timed.
_BATCH, _BATCHES = 64, 8
# Documents that a first stage is fitted to.
_FIT_DOCUMENTS = 2_000
_K = 10

Encode = Callable[[Sequence[FloatArray]], Any]
Score = Callable[[FloatArray], FloatArray]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run it.

    Args:
        options: Of `run.py`: data, documents, queries, model, cache, threads, rounds.

    Returns:
        The report.
    """
    corpus = read_corpus(options.data, options.documents[0] if options.documents else None, options.queries)
    encoder = CachedEncoder.at(options.cache, options.model, threads=options.threads)
    documents = encoder.encode_documents([record["text"] for record in corpus.documents])
    if len(documents) > Segment.MOST_PASSAGES:
        raise SystemExit(f"This benchmark takes at most {Segment.MOST_PASSAGES:,} documents.")
    queries = encoder.encode_queries(list(corpus.queries.values()))
    exact = exact_top(queries, documents, [len(documents)], _K)[len(documents)]
    shipped = FirstStage.from_manifest(encoder.manifest)
    absent = absent_peers(["muvera"])
    encoders: dict[str, Encode] = {}
    scorers: dict[str, tuple[float, Callable[[], Score]]] = {}
    sample = documents[:: max(1, len(documents) // _FIT_DOCUMENTS)]
    stages = {} if shipped is None else {MODEL_CELLS: shipped}
    stages |= {name: FirstStage.fit(settings, sample, start=shipped) for name, settings in SETTINGS.items()}
    for name, stage in stages.items():
        encoders[name] = stage.document_codes
        codes = _in_batches(stage.document_codes, documents)
        scorers[name] = (fmean(map(len, codes)), _scorer(stage, codes))
    if not absent:
        from peers.muvera import encoder as peer_encoder

        for name, projections in PEERS.items():
            peer = peer_encoder(encoder.dim, projections)
            encoders[name] = lambda batch, peer=peer: peer.encode_documents(list(batch))
            scorers[name] = (4.0 * peer.output_dimension, _peer_scorer(peer, documents))
    timings = Timings()
    starts = np.linspace(0, max(0, len(documents) - _BATCH), _BATCHES, dtype=int).tolist()
    batches = [documents[start : start + _BATCH] for start in starts]
    timings.measure(encoders, batches, options.rounds, warm=1)
    rows = []
    for name, (n_bytes, prepare) in scorers.items():
        times = timings.summary(name)
        per_document = _BATCH if len(documents) >= _BATCH else len(documents)
        row: dict[str, Any] = {
            "first stage": name,
            "bytes": round(n_bytes),
            "ms_per_document": round(times["p50_ms"] / per_document, 4),
            "least_ms_per_document": round(times["least_p50_ms"] / per_document, 4),
        }
        rows.append(row | _quality(prepare(), queries, documents, exact, corpus))
    cost = {row["first stage"]: row["least_ms_per_document"] for row in rows}
    ratios: dict[str, float] = {}
    if not absent:
        for partitions in ("16 partitions", "32 partitions"):
            theirs = cost[f"{PEER}, {partitions}"]
            ratios[f"muvera-python / our MUVERA, {partitions}"] = round(theirs / cost[f"MUVERA, {partitions}"], 2)
            ratios[f"muvera-python, {partitions} / cells"] = round(theirs / cost["cells of the collection"], 2)
    return {
        "title": f"{len(documents):,} documents of {corpus.name}, {len(queries)} queries, {encoder.name}",
        "documents": len(documents),
        "rows": rows,
        "ratios": ratios,
        "targets": {
            "our MUVERA is faster than muvera-python by": target(
                ratios.get("muvera-python / our MUVERA, 16 partitions"), least=1
            ),
            "cells are no slower than muvera-python by": target(
                ratios.get("muvera-python, 16 partitions / cells"), least=1
            ),
        },
        "peer_versions": {} if absent else {PEER: peer_version("muvera")},
        "absent": absent,
        "raw": timings.rows,
    }


def _in_batches(encode: Encode, documents: Sequence[FloatArray]) -> list[bytes]:
    return list(chain.from_iterable(encode(documents[i : i + _BATCH]) for i in range(0, len(documents), _BATCH)))


def _scorer(stage: FirstStage, codes: list[bytes]) -> Callable[[], Score]:
    def prepare() -> Score:
        if stage.cells is not None:
            encoding = stage.lists
            segment = Segment(encoding.decode(codes), len(encoding.cells))
            return lambda query: passage_scores(len(codes), encoding.plan(stage.prepared(query)), [segment.list_of])
        matrix = np.frombuffer(b"".join(codes), dtype=np.int8).reshape(len(codes), -1).astype(np.float32)
        return lambda query: matrix @ stage.muvera_query(query).astype(np.float32)

    return prepare


def _peer_scorer(peer: Any, documents: Sequence[FloatArray]) -> Callable[[], Score]:
    def prepare() -> Score:
        matrix = np.concatenate(
            [peer.encode_documents(list(documents[i : i + _BATCH])) for i in range(0, len(documents), _BATCH)]
        )
        return lambda query: matrix @ peer.encode_queries(query)

    return prepare


def _quality(
    score: Score,
    queries: Sequence[FloatArray],
    documents: Sequence[FloatArray],
    exact: list[list[int]],
    corpus: Corpus,
) -> dict[str, float]:
    ranked = [np.argsort(-score(query), kind="stable")[: WIDTHS[-1]].tolist() for query in queries]
    quality = {
        f"recall@{width}": recall([row[:width] for row in ranked], exact) for width in WIDTHS if width < len(documents)
    }
    if corpus.qrels:
        names = [record["id"] for record in corpus.documents]
        best, reranked = [], []
        for query, row, top, judged in zip(queries, ranked, exact, corpus.qrels.values(), strict=True):
            scores = {number: float((query @ documents[number].T).max(axis=1).sum()) for number in row[:100]}
            order = sorted(scores, key=lambda number, scores=scores: -scores[number])[:_K]
            best.append(ndcg([names[number] for number in top], judged, _K))
            reranked.append(ndcg([names[number] for number in order], judged, _K))
        quality["reranked / exact nDCG@10"] = round(fmean(reranked) / fmean(best), 4)
    return quality
