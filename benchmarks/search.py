"""Search after encoding, ours and other systems', on the same embeddings in one run.

Every system is measured at several efforts: recall of the exact top 10, and milliseconds from a query's token
embeddings to ranked ids. `ratios` says how many times as long as ours a peer takes, each at its cheapest effort with a
recall of .95 or more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from corpora import CachedEncoder, Corpus, FloatArray, read_corpus
from exact import kept_exact_top
from indexes import make_index, positions
from measuring import Timings, folder_bytes, recall
from peers import Peer, load_peers, peer_version

from edgecolbert import Index

OURS = "edgecolbert"
WIDTHS = (25, 50, 100, 200, 400, 800)
_ENOUGH = 0.95
_K = 10


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run it.

    Args:
        options: Of `run.py`: data, documents, queries, model, cache, threads, rounds, peers.

    Returns:
        The report.
    """
    corpus = read_corpus(options.data, options.documents[0] if options.documents else None, options.queries)
    encoder = CachedEncoder.at(options.cache, options.model, threads=options.threads)
    size = len(corpus.documents)
    path, _ = make_index(encoder, corpus, size, Path(options.cache, "databases"))
    documents = encoder.encode_documents([record["text"] for record in corpus.documents])
    queries = encoder.encode_queries(list(corpus.queries.values()))
    ids = [record["id"] for record in corpus.documents]
    wanted = kept_exact_top(path.parent, queries, documents, ids, [size])[size]
    peers, absent = load_peers(options.peers, encoder.dim, options.threads)
    timings, rows = Timings(), []
    with tempfile.TemporaryDirectory() as work, Index.open(path, model=encoder) as index:
        systems = {f"{OURS}, {width}": partial(_ours, index, corpus, width) for width in WIDTHS if width < size}
        efforts: dict[str, tuple[str, str]] = {name: (OURS, name.split(", ")[1]) for name in systems}
        built = {OURS: {"build_s": None, "bytes": folder_bytes(path), "version": ""}}
        for peer_name, found in peers.items():
            for peer in found:
                folder = Path(work, peer_name, str(len(built)))
                folder.mkdir(parents=True)
                try:
                    built[peer.name] = _build(peer, documents, folder) | {"version": peer_version(peer_name)}
                except Exception as error:  # one that fails must not end the others' run
                    absent[peer.name] = f"{type(error).__name__}: {error}"
                    continue
                for effort in peer.efforts:
                    label = f"{peer.name}, {effort}"
                    systems[label] = partial(_search, peer, effort)
                    efforts[label] = (peer.name, " / ".join(map(str, effort)))
        timings.measure(systems, queries, options.rounds)
    for label, (name, effort) in efforts.items():
        found_ids = timings.results[label]
        row = {"system": name, "effort": effort, "recall@10": recall(found_ids, wanted)} | timings.summary(label)
        rows.append(row)
    best = {name: _cheapest(rows, name) for name in built}
    ratios: dict[str, float | None] = {}
    ours = best[OURS]
    for name in built:
        theirs = best[name]
        if name != OURS and ours is not None:
            ratios[name] = None if theirs is None else round(theirs["least_p50_ms"] / ours["least_p50_ms"], 2)
    known = [value for value in ratios.values() if value is not None]
    return {
        "title": f"{size:,} documents of {corpus.name}, {len(queries)} queries, {encoder.name}",
        "documents": size,
        "rows": rows,
        "built": built,
        "ratios": ratios,
        "targets": {
            f"least ratio to a peer, both at recall >= {_ENOUGH}": {
                "value": min(known) if known else None,
                "wanted": "> 1",
                "met": min(known) > 1 if known else None,
            }
        },
        "absent": absent,
        "raw": timings.rows,
    }


def _ours(index: Index, corpus: Corpus, width: int, query: FloatArray) -> list[int]:
    ranked = index.ranked([query], k=_K, n_candidates=width)[0]
    return positions([name for name, _ in ranked], corpus)


def _search(peer: Peer, effort: tuple[int, ...], query: FloatArray) -> list[int]:
    return peer.search(query, _K, effort)


def _build(peer: Peer, documents: list[FloatArray], folder: Path) -> dict[str, Any]:
    print(f"building {peer.name}", file=sys.stderr, flush=True)
    begin = time.perf_counter()
    peer.build(documents, folder)
    return {"build_s": round(time.perf_counter() - begin, 1), "bytes": folder_bytes(folder)}


def _cheapest(rows: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The quickest row of a system whose recall is enough."""
    enough = [row for row in rows if row["system"] == name and row["recall@10"] >= _ENOUGH]
    return min(enough, key=lambda row: row["least_p50_ms"], default=None)
