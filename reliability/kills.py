"""Processes that are killed (SIGKILL) at a random moment inside every operation.

After each kill the file is opened and checked by another process, and the operation is run again, as a user would: it
must lead to where it would have led.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from children import Child, in_child, must
from operations import OPERATIONS, Operation, Session, fresh, look, prepared, scratch, settings

_KILLS = (500, 14)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Kills over every operation.

    Args:
        options: `short`: a few kills only.

    Returns:
        Counts by operation, and everything that was found.
    """
    n_kills = _KILLS[options.short]
    folder = scratch()
    try:
        rows = [
            _operation(operation, n_kills // len(OPERATIONS) + (place < n_kills % len(OPERATIONS)), folder, options)
            for place, operation in enumerate(OPERATIONS)
        ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    totals = {name: sum(row[name] for row in rows) for name in ("kills", "between", "lost", "broken", "stuck")}
    passed = totals["kills"] >= n_kills and totals["lost"] == totals["broken"] == totals["stuck"] == 0
    # Kills before the first and after the last acknowledgement prove little; the few of the short form may all be such.
    passed = passed and (options.short or totals["between"] > 0)
    return {"passed": passed, "totals": totals, "rows": rows}


def running(operation: Operation, path: Path) -> Callable[[Callable[[Any], None]], None]:
    """What a child is to do to run an operation: -1 is told when it begins, then the number of each state."""

    def run(tell: Callable[[Any], None]) -> None:
        with settings(operation.pragmas):
            tell(-1)
            operation.run(Session(path, tell))

    return run


def _operation(operation: Operation, n_kills: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    must(in_child(lambda: prepared(operation, folder / "prepared") and None))
    base = prepared(operation, folder / "prepared")
    seconds = _seconds(operation, base, folder, 1 if options.short else 2)
    random = Random(f"{options.seed} {operation.name}")
    counts: Counter[str] = Counter()
    findings: list[dict[str, Any]] = []
    last = len(operation.states) - 1
    # A few come too late, when the operation has ended.
    for _ in range(20 * n_kills):
        if counts["kills"] == n_kills:
            break
        path = fresh(base, folder / "run")
        child = Child(running(operation, path))
        child.wait_for_first()
        if not child.runs_for(random.uniform(0, seconds)):
            child.end()
            continue
        ended = child.end(signal.SIGKILL)
        if ended.signal != signal.SIGKILL or ended.late:
            continue
        reached = max([0, *ended.told])
        counts["kills"] += 1
        counts["between"] += 0 < reached < last
        found = must(in_child(lambda path=path, reached=reached: vars(look(path, operation.states, reached))))
        counts[found["verdict"]] += 1
        if found["verdict"] != "sound":
            findings.append(found | {"reached": reached})
        # The same call again, as a user would make it.
        again = Child(running(operation, path)).end()
        after = must(in_child(lambda path=path: vars(look(path, operation.states, last))))
        if again.signal or again.error or after["verdict"] != "sound":
            counts["stuck"] += 1
            findings.append({"rerun": again.error or f"signal {again.signal}", "after": after})
    return {
        "operation": operation.name,
        **{name: counts[name] for name in ("kills", "between", "sound", "lost", "broken", "stuck")},
        "seconds": round(seconds, 3),
        "findings": findings,
    }


def _seconds(operation: Operation, base: Path, folder: Path, runs: int) -> float:
    """How long an operation takes where nobody kills it, the least of some runs."""
    times = []
    for _ in range(runs):
        path = fresh(base, folder / "run")
        child = Child(running(operation, path))
        child.wait_for_first()
        begin = time.monotonic()
        must(child.end())
        times.append(time.monotonic() - begin)
    return min(times)
