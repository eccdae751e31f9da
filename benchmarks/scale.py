"""How our search grows: latency, recall, memory, bytes and a cold start, by the number of documents.

Real documents: `--data BEIR_FOLDER TEXTS_FOLDER --documents 10000 50000 200000`; cost only: `--data synthetic`.
Databases are made once and kept in the cache; making them again goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from functools import partial
from pathlib import Path
from typing import Any

from corpora import SYNTHETIC, CachedEncoder, read_corpus
from exact import kept_exact_top
from indexes import SyntheticEncoder, make_index, positions, synthetic_corpus
from measuring import Timings, machine, recall, run_process, target

from edgecolbert import Index

WIDTHS = (25, 50, 100, 200, 400, 800)
DEFAULT = "default"
_SYNTHETIC_DIM = 96
_SYNTHETIC_QUERIES = 50
_COLD_RUNS = 7
_K = 10
_MIB = 1024 * 1024

COLD = """
import sys
from edgecolbert import Index
with Index.open(sys.argv[1], read_only=True) as index:
    index.search(sys.argv[2], k=10)
"""
SEARCHING = """
import json, sys
from edgecolbert import Index
with Index.open(sys.argv[1], read_only=True) as index:
    for query in json.load(open(sys.argv[2])):
        index.search(query, k=10)
"""
NOTHING = "import edgecolbert, numpy, onnxruntime, tokenizers"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run it.

    Args:
        options: Of `run.py`: data, documents, queries, model, cache, threads, rounds.

    Returns:
        The report.
    """
    sizes = sorted(options.documents or [10_000, 50_000, 200_000])
    synthetic = options.data == [SYNTHETIC]
    if synthetic:
        corpus = synthetic_corpus(sizes[-1], options.queries or _SYNTHETIC_QUERIES)
        encoder: CachedEncoder | SyntheticEncoder = SyntheticEncoder(_SYNTHETIC_DIM)
    else:
        corpus = read_corpus(options.data, sizes[-1], options.queries)
        encoder = CachedEncoder.at(options.cache, options.model, threads=options.threads)
    folder = Path(options.cache, "databases")
    made = {size: make_index(encoder, corpus, size, folder) for size in sizes}
    texts = list(corpus.queries.values())
    queries = encoder.encode_queries(texts)
    exact = {}
    if not synthetic:
        rows_of = (encoder.encode_documents([record["text"]])[0] for record in corpus.documents)
        exact = kept_exact_top(folder, queries, rows_of, [record["id"] for record in corpus.documents], sizes)
    open_indexes = {size: Index.open(path, model=encoder, read_only=True) for size, (path, _) in made.items()}
    timings = Timings()
    widths: dict[str, int | None] = {DEFAULT: None} | {str(width): width for width in WIDTHS}
    systems = {
        f"{size}, {name}": partial(open_indexes[size].ranked, k=_K, n_candidates=width)
        for name, width in widths.items()
        for size in sizes
    }
    timings.measure(systems, [[query] for query in queries], options.rounds)
    rows, details = [], {}
    for size in sizes:
        index, (path, built) = open_indexes[size], made[size]
        stats = index.stats().as_dict()
        candidates = {}
        if exact:
            widest = [positions(index.candidates(query, WIDTHS[-1]), corpus) for query in queries]
            candidates = {width: recall([row[:width] for row in widest], exact[size]) for width in WIDTHS}
        for name, width in widths.items():
            row: dict[str, Any] = {"documents": size, "candidates": name}
            if exact:
                found = [[hit for hit, _ in ranked[0]] for ranked in timings.results[f"{size}, {name}"]]
                row["recall@10"] = recall([positions(hits, corpus) for hits in found], exact[size])
                row["among candidates"] = candidates.get(width or 0)
            rows.append(row | timings.summary(f"{size}, {name}"))
        payload = stats["text_bytes"] + stats["token_bytes"] + stats["code_bytes"]
        details[str(size)] = built | {
            "file_bytes": stats["file_bytes"],
            "payload_bytes": payload,
            "bytes_ratio": round(stats["file_bytes"] / payload, 4),
            "code_bytes_per_document": round(stats["code_bytes"] / size, 1),
            "tokens_per_document": round(stats["tokens"] / size, 1),
            "first_stage": stats["first_stage"],
        }
        index.close()
        if not synthetic:
            details[str(size)] |= _processes(path, texts, Path(options.cache))
    return {
        "title": f"{corpus.name}, {len(queries)} queries, {encoder.name}",
        "rows": rows,
        "details": details,
        "ratios": _growth(rows, sizes),
        "targets": _targets(rows, details, sizes),
        "absent": {},
        "raw": timings.rows,
    }


def _processes(path: Path, texts: list[str], work: Path) -> dict[str, Any]:
    """A cold search, and a process that has searched for everything once."""
    asked = work / "queries.json"
    asked.write_text(json.dumps(texts))
    warm, dropped, bare = [], [], []
    for _ in range(_COLD_RUNS):
        bare.append(run_process(NOTHING)["seconds"])
        warm.append(run_process(COLD, str(path), texts[0])["seconds"])
        _drop_pages(path)
        dropped.append(run_process(COLD, str(path), texts[0])["seconds"])
    searching = run_process(SEARCHING, str(path), str(asked))
    return {
        "cold_s": {"median": statistics.median(warm), "least": min(warm)},
        "cold_from_disk_s": {"median": statistics.median(dropped), "least": min(dropped)},
        "bare_imports_s": {"median": statistics.median(bare), "least": min(bare)},
        "bare_imports_mib": run_process(NOTHING)["anonymous_mib"],
        "searching_mib": {name: value for name, value in searching.items() if name != "seconds"},
        "load": machine()["load"],
    }


def _drop_pages(path: Path) -> None:
    """Ask the system to forget what it has read of a file, as after a start of the machine."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _growth(rows: list[dict[str, Any]], sizes: list[int]) -> dict[str, float]:
    """Latency of each size relative to the smallest."""
    ratios = {}
    for name in dict.fromkeys(row["candidates"] for row in rows):
        times = {row["documents"]: row["least_p50_ms"] for row in rows if row["candidates"] == name}
        for size in sizes[1:]:
            ratios[f"{size} / {sizes[0]} documents, {name}"] = round(times[size] / times[sizes[0]], 2)
    return ratios


def _targets(rows: list[dict[str, Any]], details: dict[str, Any], sizes: list[int]) -> dict[str, Any]:
    """What the project set out to reach at 200,000 documents."""
    small, large = 10_000, 200_000
    times = {row["documents"]: row["least_p50_ms"] for row in rows if row["candidates"] == DEFAULT}
    growth = round(times[large] / times[small], 2) if small in times and large in times else None
    there = details.get(str(large), {})
    cold, memory = there.get("cold_s"), there.get("searching_mib")
    return {
        f"growth from {small:,} to {large:,} documents": target(growth, most=8),
        f"memory beyond the mapped file at {large:,} documents, MB": target(
            None if memory is None else round(memory["anonymous_mib"] * _MIB / 1e6), most=150
        ),
        f"database / payload at {sizes[-1]:,} documents": target(details[str(sizes[-1])]["bytes_ratio"], most=1.15),
        f"cold search process at {large:,} documents, s": target(None if cold is None else cold["median"], most=1),
    }
