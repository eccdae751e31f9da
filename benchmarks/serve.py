"""How long the search page waits for results while somebody types, through HTTP, as the page asks for them.

    python benchmarks/serve.py --data BEIR_FOLDER... [--documents N] [--db FILE] [--queries 20] [--rounds 3] [--json]

Judged queries are typed letter by letter: each beginning of three letters and more is one request to a real server over
one connection, with highlights. "all keys" is over all these requests, "last key" over whole queries only. The least of
the rounds is beside them, which other work spoils less, and the server's processor time of a request.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
from corpora import read_corpus
from measuring import machine

from edgecolbert import Index
from edgecolbert.fusion import MODES

_K = 10
_FIRST = 3
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, metavar="FOLDER", help="BEIR folders, and other texts")
    parser.add_argument("--documents", type=int, help="how many, with other texts as distractors")
    parser.add_argument("--db", help="keep the database there, or use the one that is there")
    parser.add_argument("--queries", type=int, default=20, help="how many are typed (default: 20)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    corpus = read_corpus(options.data, options.documents)
    texts = list(corpus.queries.values())
    # Evenly from all collections, and of a length that somebody types.
    typed = [text for text in texts if len(text) <= 60]
    queries = [typed[number * len(typed) // options.queries] for number in range(options.queries)]
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        database = options.db or str(Path(folder, "serve.db"))
        with Index.open(database) as index:
            if not len(index):
                index.add(iter(corpus.documents), batch_size=256)
            stats = index.stats()
        with server(database) as (port, token, process):
            rows = [row for turn in range(options.rounds) for row in measure(port, token, process, queries, turn)]
    report = {
        "documents": stats.documents,
        "passages": stats.passages,
        "queries": len(queries),
        "machine": before | {"load_after": machine()["load"]},
        "modes": {mode: summary([row for row in rows if row["mode"] == mode]) for mode in MODES},
    }
    print(json.dumps(report, indent=2) if options.json else as_text(report))


@contextmanager
def server(database: str) -> Iterator[tuple[int, str, int]]:
    """A server of its own process: its port, its token and its process id."""
    command = [sys.executable, "-m", "edgecolbert", "serve", "--db", database, "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            found = None
            while found is None:
                line = process.stdout.readline() if process.stdout else ""
                if not line:
                    raise SystemExit("The server did not start.")
                found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", line)
            yield int(found[1]), found[2], process.pid
        finally:
            process.send_signal(signal.SIGTERM)


def measure(port: int, token: str, process: int, queries: list[str], turn: int) -> Iterator[dict[str, Any]]:
    """Type all queries in every mode, once."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for mode in MODES:
        for query in queries:
            for length in range(min(_FIRST, len(query)), len(query) + 1):
                asked = urlencode({"query": query[:length], "mode": mode, "k": _K})
                used, begin = processor_ms(process), time.perf_counter()
                connection.request("GET", f"/api/search?{asked}", headers={"Authorization": f"Bearer {token}"})
                response = connection.getresponse()
                body = response.read()
                took = (time.perf_counter() - begin) * 1000
                if response.status != 200:
                    raise SystemExit(f"The server answered {response.status}: {body[:300]!r}")
                yield {
                    "mode": mode,
                    "query": query,
                    "length": length,
                    "last": length == len(query),
                    "turn": turn,
                    "ms": took,
                    "processor_ms": processor_ms(process) - used,
                }


def processor_ms(process: int) -> float:
    """Processor time that a process has used, where Linux tells it; in steps of some milliseconds."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) * 1000 / _TICKS


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """p50 and p95 over all requests, over the least of each in all rounds, and over whole queries."""
    least: dict[tuple[str, int], float] = {}
    for row in rows:
        key = row["query"], row["length"]
        least[key] = min(row["ms"], least.get(key, row["ms"]))
    groups = {
        "all_keys": [row["ms"] for row in rows],
        "all_keys_least": list(least.values()),
        "last_key": [row["ms"] for row in rows if row["last"]],
        "last_key_least": [least[key] for key in {(row["query"], row["length"]) for row in rows if row["last"]}],
    }
    found = {
        f"{name}_p{share}": round(float(np.quantile(values, share / 100)), 1)
        for name, values in groups.items()
        for share in (50, 95)
    }
    return found | {
        "processor_ms": round(float(np.mean([row["processor_ms"] for row in rows])), 1),
        "under_100_ms": round(float(np.mean([row["ms"] < 100 for row in rows])), 3),
        "requests": len(rows),
    }


def as_text(report: dict[str, Any]) -> str:
    lines = [
        f"{report['documents']:,} documents, {report['passages']:,} passages, {report['queries']} queries typed; "
        f"load {report['machine']['load']} to {report['machine']['load_after']}",
        f"{'ms':<10}{'all keys p50':>14}{'p95':>8}{'least p50':>11}{'p95':>8}"
        f"{'last key p50':>14}{'p95':>8}{'processor':>11}",
    ]
    for mode, row in report["modes"].items():
        lines.append(
            f"{mode:<10}{row['all_keys_p50']:>14}{row['all_keys_p95']:>8}{row['all_keys_least_p50']:>11}"
            f"{row['all_keys_least_p95']:>8}{row['last_key_p50']:>14}{row['last_key_p95']:>8}{row['processor_ms']:>11}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
