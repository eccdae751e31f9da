"""What ending MaxSim early would bring: scores with 8 bits of the query first, the other 8 only where they decide.

    python benchmarks/bounds.py DATABASE BEIR_FOLDER [--queries 30] [--candidates 100]

A query token is 255 * high + low. With `high` alone a score is off by at most the sum over query tokens of what `low`
can add, for which there are two bounds: from the largest component of a passage, which its scale gives, and from the
length of its tokens, which would have to be stored. Passages whose bound does not reach the tenth best score need no
more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from edgecolbert import Encoder, Index
from edgecolbert.codec import quantize
from edgecolbert.kernels import round_query, tile_maxima, tiles_of
from edgecolbert.scoring import maxsim_packed

_K, _ROUNDS = 10, 9


def least_ms(work: Callable[[], object]) -> float:
    """Least time of some calls."""
    times = []
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database")
    parser.add_argument("data", type=Path, metavar="BEIR_FOLDER")
    parser.add_argument("--queries", type=int, default=30)
    parser.add_argument("--candidates", type=int, default=100)
    options = parser.parse_args()
    lines = (options.data / "queries.jsonl").read_text(encoding="utf-8").splitlines()[: options.queries]
    rows = []
    encoder = Encoder.load("starter", threads=1)
    with Index.open(options.database, read_only=True) as index:
        for line in lines:
            (query,) = index.encode_queries([json.loads(line)["text"]])
            names = index.candidates(query, options.candidates)
            texts = [document.text for name in names if (document := index.get(name)) is not None]
            tokens = [quantize(document) for document in encoder.encode_documents(texts)]
            scores = maxsim_packed([query], tokens)[0]
            rounded = round_query(query)
            low = np.abs(rounded.low.astype(np.float64)) * rounded.steps
            largest = np.array([np.abs(one.values).max() * one.scale for one in tokens])
            lengths = np.array([np.linalg.norm(one.to_float(), axis=1).max() for one in tokens])
            bounds = {"component": low.sum() * largest, "length": np.linalg.norm(low, axis=0).sum() * lengths}
            row = {}
            for name, bound in bounds.items():
                tenth = np.sort(scores - bound)[-_K]
                row[f"undecided by {name}"] = float((scores + bound >= tenth).mean())
            tiles = tiles_of([one.values for one in tokens])
            row["ms of MaxSim"] = least_ms(partial(maxsim_packed, [query], tokens))
            row["ms of its products"] = least_ms(partial(tile_maxima, tiles, rounded))
            row["ms of a search after encoding"] = least_ms(partial(index.ranked, [query], k=_K))
            rows.append(row)
    for name in rows[0]:
        print(f"{name}: {statistics.median(row[name] for row in rows):.3f}")


if __name__ == "__main__":
    main()
