"""Power cuts: disk images as they may be at any moment of every operation, each opened and checked.

The layer of `shim` logs what the store writes and synchronises; `images` makes from it what may be on the disk.
"""

from __future__ import annotations

import argparse
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from images import WAYS, Disk, contents_before, lay_down
from operations import NAME, OPERATIONS, Operation, Session, chosen, fresh, look, prepared, scratch, settings
from shim import Event, Shim, find_library

# Images of each durability. With "off" the simulator must find something, or it proves nothing.
_IMAGES = {"full": (1_000, 28), "normal": (1_000, 10), "off": (200, 10)}

# What must not be found: NORMAL promises only that the file stays sound, OFF promises nothing.
_FORBIDDEN = {"full": ("lost", "broken"), "normal": ("broken",), "off": ()}
_COUNTS = ("images", "with_risk", "sound", "lost", "broken")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every durability over every operation.

    Args:
        options: `short`: a few images only.

    Returns:
        Counts by durability and by operation, and everything that was found.
    """
    try:
        find_library()
    except RuntimeError as error:
        return {"skipped": str(error), "passed": True}
    folder = scratch()
    try:
        rows = [
            row for turn, durability in enumerate(_IMAGES) for row in _durability(durability, turn, folder, options)
        ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    totals = {
        durability: {name: sum(row[name] for row in rows if row["durability"] == durability) for name in _COUNTS}
        for durability in _IMAGES
    }
    passed = (
        totals["full"]["lost"] == totals["full"]["broken"] == totals["normal"]["broken"] == 0
        and totals["off"]["lost"] + totals["off"]["broken"] > 0
        and all(total["with_risk"] > 0 for total in totals.values())
    )
    return {"passed": passed, "totals": totals, "rows": rows}


def _durability(durability: str, turn: int, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    n_images = _IMAGES[durability][options.short]
    operations = OPERATIONS if durability == "full" else chosen(options.short, turn)
    for place, operation in enumerate(operations):
        share = n_images // len(operations) + (place < n_images % len(operations))
        rows.append({"durability": durability} | _operation(operation, durability, share, folder, options.seed))
    return rows


def _operation(operation: Operation, durability: str, n_images: int, folder: Path, seed: int) -> dict[str, Any]:
    base = prepared(operation, folder / "prepared")
    before, log = record(operation, durability, base, folder)
    random = Random(f"{seed} {operation.name} {durability}")
    first_way = random.randrange(len(WAYS))
    counts: Counter[str] = Counter()
    states: Counter[int] = Counter()
    findings = []
    image = folder / "image"
    for number, cut in enumerate(_cuts(log, n_images, random)):
        disk = Disk(before, log, cut)
        way = WAYS[(first_way + number) % len(WAYS)]
        shutil.rmtree(image, ignore_errors=True)
        image.mkdir()
        lay_down(disk.survivors(way, random), image)
        found = look(image / NAME, operation.states, disk.acknowledged, copies=False)
        counts["images"] += 1
        counts["with_risk"] += disk.at_risk > 0
        counts[found.verdict] += 1
        states[found.state] += 1
        if found.verdict in _FORBIDDEN[durability]:
            findings.append({"cut": cut, "way": way, "verdict": found.verdict, "detail": found.detail[:300]})
    kinds = Counter(event.kind for event in log)
    return {
        "operation": operation.name,
        **{name: counts[name] for name in _COUNTS},
        "states_seen": sum(1 for state in states if state >= 0),
        "writes": kinds["write"],
        "syncs": kinds["sync"],
        "findings": findings,
    }


def record(
    operation: Operation, durability: str, base: Path, folder: Path
) -> tuple[dict[int, tuple[str, bytes]], list[Event]]:
    """Run an operation to its end and note what reaches the disk.

    Args:
        operation: Which.
        durability: "full", "normal" or "off".
        base: Its prepared folder.
        folder: Where to run it.

    Returns:
        The files before it, and the log.
    """
    path = fresh(base, folder / "run")
    shim = Shim(path.parent)
    before = contents_before(shim)
    with settings(operation.pragmas, durability), shim.active():
        session = Session(path, shim.acknowledge)
        operation.run(session)
    if session.reached != len(operation.states) - 1:
        raise RuntimeError(f"{operation.name} acknowledged {session.reached} of {len(operation.states) - 1} states")
    return before, shim.log


def _cuts(log: Sequence[Event], n: int, random: Random) -> list[int]:
    """Moments: half of them anywhere, half close to a sync or to what the caller was told."""
    marks = [place for place, event in enumerate(log) if event.kind in ("sync", "acknowledged", "delete", "settle")]
    anywhere = [random.randint(0, len(log)) for _ in range(n - n // 2)]
    close = [min(max(random.choice(marks) + random.randint(-1, 3), 0), len(log)) for _ in range(n // 2)]
    return sorted(anywhere + close)
