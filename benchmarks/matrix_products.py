"""What a small matrix product costs while other processes keep the cores busy: numpy's own against `linalg.product`.

python benchmarks/matrix_products.py
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable

import numpy as np

from edgecolbert.linalg import product


def spin(stop: object) -> None:
    """Keep one core busy until told to stop."""
    while not stop.is_set():  # type: ignore[attr-defined]
        sum(range(10_000))


def milliseconds(work: Callable[[], object], runs: int = 30) -> float:
    """Median time of one call."""
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        work()
        times.append((time.perf_counter() - begin) * 1000)
    return statistics.median(times)


def main() -> None:
    generator = np.random.default_rng(0)
    tokens = generator.normal(size=(38_000, 96)).astype(np.float32)  # 256 documents of 150 tokens
    query = np.ascontiguousarray(generator.normal(size=(8, 96)).astype(np.float32).T)
    stop = multiprocessing.Event()
    print(f"{'busy processes':>15}{'numpy ms':>10}{'ours ms':>10}{'ratio':>8}")
    workers: list[multiprocessing.Process] = []
    for count in (0, os.cpu_count() or 1, 2 * (os.cpu_count() or 1)):
        while len(workers) < count:
            workers.append(multiprocessing.Process(target=spin, args=(stop,), daemon=True))
            workers[-1].start()
        numpy_ms = milliseconds(lambda: tokens @ query)
        our_ms = milliseconds(lambda: product(tokens, query))
        print(f"{count:>15}{numpy_ms:>10.2f}{our_ms:>10.2f}{numpy_ms / our_ms:>8.1f}")
    stop.set()


if __name__ == "__main__":
    main()
