"""Searches through `AsyncIndex` by number of threads and of indexes, beside one after the other through `Index`.

    python benchmarks/async_search.py --db FILE --queries FILE.jsonl [--rounds 3] [--n 100] [--mode late]

`late` is by how much an event loop that wants to do something every 5 ms comes too late while the searches run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any


async def measure(options: argparse.Namespace, queries: list[str], threads: int, indexes: int) -> tuple[float, float]:
    """Seconds for all queries at once, and by how many milliseconds the event loop is late at worst."""
    from edgecolbert import AsyncIndex

    opened = [await AsyncIndex.open(options.db, read_only=True, threads=threads) for _ in range(indexes)]
    late = 0.0

    async def beat() -> None:
        nonlocal late
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(0.005)
            late = max(late, time.perf_counter() - begin - 0.005)

    for index in opened:
        await asyncio.gather(*(index.search(query, mode=options.mode) for query in queries[:5]))
    heart = asyncio.create_task(beat())
    begin = time.perf_counter()
    await asyncio.gather(
        *(opened[number % indexes].search(query, mode=options.mode) for number, query in enumerate(queries))
    )
    seconds = time.perf_counter() - begin
    heart.cancel()
    for index in opened:
        await index.close()
    return seconds, late * 1000


def one_after_the_other(options: argparse.Namespace, queries: list[str]) -> float:
    """Seconds for all queries through `Index`."""
    from edgecolbert import Index

    with Index.open(options.db, read_only=True) as index:
        for query in queries[:5]:
            index.search(query, mode=options.mode)
        begin = time.perf_counter()
        for query in queries:
            index.search(query, mode=options.mode)
        return time.perf_counter() - begin


def main() -> None:
    """Print one row for each way, with the median and the least of the rounds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--db", required=True)
    parser.add_argument("--queries", required=True, type=Path, help="JSON Lines with a `text` each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--mode", default="late")
    options = parser.parse_args()
    lines = options.queries.read_text(encoding="utf-8").splitlines()[: options.n]
    queries = [json.loads(line)["text"] for line in lines]
    ways = [(1, 1), (2, 1), (4, 1), (1, 2)]
    times: dict[Any, list[float]] = {way: [] for way in ["Index", *ways]}
    late: dict[Any, float] = dict.fromkeys(ways, 0.0)
    for _ in range(options.rounds):
        times["Index"].append(one_after_the_other(options, queries))
        for way in ways:
            seconds, worst = asyncio.run(measure(options, queries, *way))
            times[way].append(seconds)
            late[way] = max(late[way], worst)
    print(f"{len(queries)} queries, {options.rounds} rounds, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for way, found in times.items():
        name = "Index, one after the other" if way == "Index" else f"AsyncIndex, {way[0]} threads, {way[1]} indexes"
        each = [1000 * value / len(queries) for value in found]
        waits = "" if way == "Index" else f"; event loop late by {late[way]:.0f} ms at most"
        print(f"{name:<34} {statistics.median(each):6.1f} ms a query, least {min(each):.1f}{waits}")


if __name__ == "__main__":
    main()
