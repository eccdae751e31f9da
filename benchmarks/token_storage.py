"""Ways to store token embeddings side by side: nDCG@10 of full MaxSim, and bytes of token embeddings a document.

Every way gets the same embeddings, and each is a real index that is filled and searched exactly.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from corpora import CachedEncoder, Corpus, FloatArray, read_corpus

from edgecolbert import Index, TokenSettings
from edgecolbert.metrics import ndcg

SETTINGS = {
    "int8": TokenSettings(),
    "4 bits": TokenSettings(bits=4),
    "pooled by 2": TokenSettings(pool_factor=2),
    "pooled by 3": TokenSettings(pool_factor=3),
    "pooled by 2, 4 bits": TokenSettings(bits=4, pool_factor=2),
    "pooled by 3, 4 bits": TokenSettings(bits=4, pool_factor=3),
}
_K = 10


class _Embeddings:
    """The cached embeddings alone, so that no index makes a first stage of the model's, which is not measured here."""

    name = "cached"

    def __init__(self, encoder: CachedEncoder) -> None:
        self.encode_queries = encoder.encode_queries
        self.encode_documents = encoder.encode_documents


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run it.

    Args:
        options: Of `run.py`: data, documents, queries, model, cache, threads.

    Returns:
        The report.
    """
    encoder = CachedEncoder.at(options.cache, options.model, threads=options.threads)
    rows = []
    for folder in options.data:
        corpus = read_corpus([folder], options.documents[0] if options.documents else None, options.queries)
        encoder.fill([record["text"] for record in corpus.documents], report=True)
        queries = encoder.encode_queries(list(corpus.queries.values()))
        exact: list[set[str]] = []
        for name, settings in SETTINGS.items():
            row, rankings = _measured(corpus, encoder, queries, settings)
            exact = exact or [set(ranking) for ranking in rankings]
            kept = fmean(len(top.intersection(found)) / len(top) for top, found in zip(exact, rankings, strict=True))
            rows.append({"collection": corpus.name, "tokens": name} | row | {"top10_of_int8": round(kept, 4)})
    return {"title": f"{encoder.manifest.name}, full MaxSim", "rows": rows}


def _measured(
    corpus: Corpus, encoder: CachedEncoder, queries: list[FloatArray], settings: TokenSettings
) -> tuple[dict[str, Any], list[list[str]]]:
    with TemporaryDirectory() as folder:
        path = Path(folder, "index.db")
        with Index.open(path, model=_Embeddings(encoder), split_documents=False, tokens=settings) as index:
            begin = time.perf_counter()
            index.add(corpus.documents)
            seconds = time.perf_counter() - begin
            rankings = [[name for name, _ in found] for found in index.ranked(queries, k=_K, exact=True)]
            stats = index.stats()
    scores = [ndcg(found, corpus.qrels[query], _K) for query, found in zip(corpus.queries, rankings, strict=True)]
    row = {
        "ndcg@10": round(fmean(scores), 4),
        "bytes_per_document": round(stats.token_bytes / stats.documents),
        "tokens_per_document": round(stats.tokens / stats.documents, 1),
        "storing_ms_per_document": round(seconds * 1000 / stats.documents, 2),
    }
    return row, rankings
