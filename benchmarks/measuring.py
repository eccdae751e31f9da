"""What all benchmarks share: timing in turn, memory of a process, and what machine this is."""

from __future__ import annotations

import atexit
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np


def machine() -> dict[str, Any]:
    """Processor, cores and load, which say how far to trust times."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def installed(name: str) -> str | None:
    """Version of a distribution, or None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def milliseconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long a call took, and what it gave."""
    begin = time.perf_counter()
    result = work()
    return (time.perf_counter() - begin) * 1000, result


class Timings:
    """Times of several systems on the same items, taken in turn so that a slow minute hits all of them.

    Attributes:
        rows: One row for each call: system, item, round, ms.
        results: What each system gave for each item, in its last round.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.results: dict[str, list[Any]] = {}

    def measure(
        self, systems: Mapping[str, Callable[[Any], Any]], items: Sequence[Any], rounds: int, *, warm: int = 3
    ) -> None:
        """Run every system on every item, `rounds` times.

        Args:
            systems: What to call with an item, by name.
            items: Anything.
            rounds: How often all of it is done.
            warm: Items that each system sees once before, untimed.
        """
        for name, call in systems.items():
            self.results[name] = [None] * len(items)
            for item in items[:warm]:
                call(item)
        # All items by one system, then by the next, and so on: item by item, each would find its data pushed out of
        # the processor's caches by the others, which no real use does.
        for turn in range(rounds):
            for name, call in systems.items():
                for position, item in enumerate(items):
                    took, self.results[name][position] = milliseconds(lambda call=call, item=item: call(item))
                    self.rows.append({"system": name, "item": position, "round": turn, "ms": round(took, 4)})

    def summary(self, name: str) -> dict[str, float]:
        """p50 and p95 over all calls, and over the least time of each item, which other work spoils less."""
        by_item: dict[int, list[float]] = {}
        for row in self.rows:
            if row["system"] == name:
                by_item.setdefault(row["item"], []).append(row["ms"])
        every = [ms for values in by_item.values() for ms in values]
        least = [min(values) for values in by_item.values()]
        return {
            "p50_ms": round(float(np.quantile(every, 0.5)), 3),
            "p95_ms": round(float(np.quantile(every, 0.95)), 3),
            "least_p50_ms": round(float(np.quantile(least, 0.5)), 3),
            "least_p95_ms": round(float(np.quantile(least, 0.95)), 3),
        }


def recall(found: Sequence[Sequence[Any]], wanted: Sequence[Sequence[Any]]) -> float:
    """Mean share of the wanted that was found."""
    shares = [len(set(row) & set(best)) / len(best) for row, best in zip(found, wanted, strict=True) if len(best)]
    return round(float(np.mean(shares)), 4) if shares else 0.0


# The child reports on itself: what its parent mapped is not counted, nor what the file's pages take that are mapped.
_MEMORY = """
with open('/proc/self/status') as status:
    memory = {line.split(':')[0]: int(line.split()[1]) for line in status if line.startswith(('VmHWM', 'Rss'))}
print('MEMORY', *[f'{name}={memory[name] // 1024}' for name in ('VmHWM', 'RssAnon', 'RssFile')])
"""


@cache
def _environment() -> dict[str, str]:
    """This process's, with compiled modules: an installed package has them, and a checkout need not."""
    compiled = tempfile.TemporaryDirectory()
    atexit.register(compiled.cleanup)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": compiled.name}


def run_process(program: str, *arguments: str) -> dict[str, float]:
    """Run a Python program in a new process.

    Args:
        program: Source text.
        arguments: Its arguments.

    Returns:
        Seconds from start to end, and its memory at the end in MiB: peak_mib (with mapped files), anonymous_mib and
        mapped_mib.
    """
    begin = time.perf_counter()
    command = [sys.executable, "-c", program + _MEMORY, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(f"A measured process failed:\n{done.stderr}")
    line = next(line for line in done.stdout.splitlines() if line.startswith("MEMORY"))
    values = dict(part.split("=") for part in line.split()[1:])
    return {
        "seconds": round(seconds, 3),
        "peak_mib": int(values["VmHWM"]),
        "anonymous_mib": int(values["RssAnon"]),
        "mapped_mib": int(values["RssFile"]),
    }


def folder_bytes(path: Path) -> int:
    """Size of a file, or of everything in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def target(value: float | None, most: float | None = None, least: float | None = None) -> dict[str, Any]:
    """A figure beside what it should be; `met` is None where it was not measured."""
    wanted = f"<= {most}" if most is not None else f">= {least}"
    met = None if value is None else (value <= most if most is not None else value >= (least or 0))
    return {"value": value, "wanted": wanted, "met": met}
