"""MaxSim of one query of 32 tokens with 100 documents of 60 to 240 tokens: ours on int8, and others.

    python benchmarks/maxsim.py [--threads 1] [--rounds 3] [--json]

Documents are where each system wants them before the clock starts: numpy has them as one float32 matrix, maxsim-cpu
as float32 arrays, ours as the separate int8 arrays that a database gives.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

DIMS = (48, 64, 96, 128)
N_DOCUMENTS, SHORTEST, LONGEST = 100, 60, 240
N_QUERY_TOKENS, N_QUERIES = 32, 10
OURS, NUMPY, CPU = "edgecolbert", "numpy float32", "maxsim-cpu"
# For each round that is asked for: a call takes a millisecond, of which the least of three is still a noisy one.
_ROUNDS = 7


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run it.

    Args:
        options: Of `run.py`: rounds, peers.

    Returns:
        The report. The ratios are of the least times at 128 dimensions, which other work on the machine spoils least.
    """
    # numpy is imported as late as this, so that it reads how many threads it may use after that was said.
    import numpy as np
    from measuring import Timings, target

    from edgecolbert.codec import quantize
    from edgecolbert.scoring import maxsim_packed

    rows: list[dict[str, Any]] = []
    raw: list[dict[str, Any]] = []
    absent: dict[str, str] = {}
    for dim in DIMS:
        generator = np.random.default_rng(dim)
        lengths = generator.integers(SHORTEST, LONGEST + 1, N_DOCUMENTS)
        packed = [quantize(_unit(generator, int(length), dim)) for length in lengths]
        documents = [tokens.to_float() for tokens in packed]
        queries = [_unit(generator, N_QUERY_TOKENS, dim) for _ in range(N_QUERIES)]
        starts = np.cumsum(lengths) - lengths
        systems: dict[str, Callable[[FloatArray], Any]] = {
            OURS: lambda query, packed=packed: maxsim_packed([query], packed)[0],
            NUMPY: partial(_numpy_scores, np.concatenate(documents), starts),
        }
        for name, make, arguments in (
            ("NumKong int8", _numkong, (packed, starts)),
            (CPU, _maxsim_cpu, (documents,)),
        ):
            if name == CPU and options.peers is not None and "maxsim_cpu" not in options.peers:
                continue
            try:
                systems[name] = make(*arguments)
            except ImportError as error:
                absent[name] = f"{error}"
        timings = Timings()
        timings.measure(systems, queries, options.rounds * _ROUNDS)
        # Nothing is timed that does not give the same scores.
        for name, found in timings.results.items():
            np.testing.assert_allclose(found, timings.results[NUMPY], atol=2e-4, err_msg=name)
        for name in systems:
            off = np.abs(np.array(timings.results[name]) - np.array(timings.results[NUMPY])).max()
            rows.append({"dim": dim, "system": name} | timings.summary(name) | {"off_by": float(f"{off:.1e}")})
        raw += [{"dim": dim} | row for row in timings.rows]
    least = {row["system"]: row["least_p50_ms"] for row in rows if row["dim"] == DIMS[-1]}
    median = {row["system"]: row["p50_ms"] for row in rows if row["dim"] == DIMS[-1]}
    ratios = {
        "numpy_f32": _ratio(least, NUMPY),
        "maxsim_cpu": _ratio(least, CPU),
        "numpy_f32, medians": _ratio(median, NUMPY),
        "maxsim_cpu, medians": _ratio(median, CPU),
    }
    return {
        "title": f"{N_QUERY_TOKENS} query tokens, {N_DOCUMENTS} documents of {SHORTEST} to {LONGEST} tokens",
        "rows": rows,
        "ratios": ratios,
        "targets": {
            "numpy_f32": target(ratios["numpy_f32"], least=2.5),
            "maxsim_cpu": target(ratios["maxsim_cpu"], least=4),
        },
        "absent": absent,
        "raw": raw,
    }


def _ratio(times: dict[str, float], name: str) -> float | None:
    return round(times[name] / times[OURS], 2) if name in times else None


def _unit(generator: np.random.Generator, n_rows: int, dim: int) -> FloatArray:
    import numpy as np

    rows = generator.standard_normal((n_rows, dim)).astype(np.float32)
    unit: FloatArray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _numpy_scores(matrix: FloatArray, starts: npt.NDArray[np.int64], query: FloatArray) -> FloatArray:
    import numpy as np

    scores: FloatArray = np.maximum.reduceat(matrix @ query.T, starts, axis=0).sum(axis=1)
    return scores


def _numkong(packed: list[Any], starts: npt.NDArray[np.int64]) -> Callable[[FloatArray], Any]:
    """The same integers as ours, by NumKong's int8 products."""
    import numkong
    import numpy as np

    from edgecolbert.kernels import round_query

    values = np.concatenate([tokens.values for tokens in packed])
    scales = np.array([tokens.scale for tokens in packed])

    def scores(query: FloatArray) -> Any:
        rounded = round_query(query)
        high, low = (
            np.asarray(numkong.dots_packed(values, numkong.dots_pack(np.ascontiguousarray(part.T))))
            for part in (rounded.high, rounded.low)
        )
        best = np.maximum.reduceat(high * 255 + low, starts, axis=0)
        return (best * rounded.steps).sum(axis=1) * scales

    return scores


def _maxsim_cpu(documents: list[FloatArray]) -> Callable[[FloatArray], Any]:
    scores = importlib.import_module("peers.maxsim_cpu").maxsim_scores
    return lambda query: scores(query, documents)


if __name__ == "__main__":
    sys.argv.insert(1, "maxsim")
    importlib.import_module("run").main()
