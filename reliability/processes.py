"""Many processes on one file: writers, readers, threads and forks, and a rule that every snapshot must keep.

Documents come in pairs that are always added, changed and deleted together. So whatever a search finds, it finds both
of a pair with the same version, or neither; and no version of one writer is followed by an older one of the same.
"""

from __future__ import annotations

import argparse
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from children import Child, Ended, in_child, must
from operations import NAME, encoder, open_index, scratch

from edgecolbert import Index
from edgecolbert.errors import StoreError, StoreLockedError

_PAIRS = 30
# Seconds, and how many processes of each kind: writers, readers, threads of one process, forks.
_FORMS = ((60.0, (3, 3, 1, 1)), (3.0, (1, 1, 1, 1)))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All processes at once for a while, then a check of the whole file.

    Args:
        options: `short`: few processes and seconds.

    Returns:
        What each kind did, and every violation.
    """
    seconds, (n_writers, n_readers, n_threaded, n_forking) = _FORMS[options.short]
    folder = scratch()
    path = folder / NAME
    works: list[tuple[str, Callable[[Path, Random, float], dict[str, Any]]]] = []
    for kind, n, work in (
        ("writers", n_writers, _write),
        ("readers", n_readers, _read),
        ("threads", n_threaded, _threads),
        ("forks", n_forking, _fork),
    ):
        works += [(kind, work)] * n
    try:
        must(in_child(lambda: _make(path)))
        children = [
            (kind, Child(lambda tell, work=work, n=n: work(path, Random(f"{options.seed} {n}"), seconds)))
            for n, (kind, work) in enumerate(works)
        ]
        rows = [_row(kind, child.end()) for kind, child in children]
        end = in_child(lambda: _final(path))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    totals: dict[str, Counter[str]] = {}
    for row in rows:
        totals.setdefault(row["target"], Counter(processes=0))["processes"] += 1
        totals[row["target"]].update(row["counts"])
    final = end.result or {"wrong": f"signal {end.signal}: {end.error}"}
    rows.append({"target": "afterwards", "counts": {}, "findings": [final] if final.get("wrong") else []})
    working = {"writers": "changes", "readers": "snapshots", "threads": "snapshots", "forks": "forks"}
    passed = not any(row["findings"] for row in rows) and all(totals[kind][what] > 0 for kind, what in working.items())
    passed = passed and all(totals[kind]["hits"] > totals[kind]["snapshots"] for kind in ("readers", "threads"))
    table = {kind: dict(counts) for kind, counts in totals.items()}
    return {"passed": passed, "seconds_each": seconds, "totals": table | {"afterwards": final}, "rows": rows}


def _row(kind: str, ended: Ended) -> dict[str, Any]:
    result = ended.result or {"counts": {}, "violations": [f"signal {ended.signal}, late {ended.late}: {ended.error}"]}
    return {"target": kind, "counts": result["counts"], "findings": result["violations"]}


def _make(path: Path) -> None:
    with open_index(path) as index:
        index.add([record for pair in range(_PAIRS) for record in _pair(pair, 0)])


def _pair(pair: int, version: int) -> list[dict[str, Any]]:
    """Two documents that are always changed together."""
    return [
        {
            "id": f"{side}{pair:02}",
            "text": f"common pair{pair} side{side} version{version}. Shared{pair % 5} one two three.",
            "metadata": {"pair": pair, "version": version, "writer": os.getpid()},
        }
        for side in "ab"
    ]


class _Rule:
    """What every snapshot must keep, and what was seen of it."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        # A search that finds nothing keeps every rule.
        self.n_hits = 0
        self._versions: dict[tuple[int, int], int] = {}

    def look(self, hits: list[Any], *, whole: bool) -> None:
        """Check the hits of one search: pairs whole, with one version, and no older one than before."""
        self.n_hits += len(hits)
        writers = {hit.metadata["pair"]: hit.metadata["writer"] for hit in hits}
        sides: dict[int, dict[str, int]] = {}
        for hit in hits:
            pair, version = hit.metadata["pair"], hit.metadata["version"]
            sides.setdefault(pair, {})[hit.id[0]] = version
            if f"version{version}" not in hit.text or f"pair{pair} " not in hit.text:
                self._violated(f"{hit.id} has metadata of version {version} and the text {hit.text!r}")
        for pair, versions in sides.items():
            if whole and set(versions) != {"a", "b"}:
                self._violated(f"of pair {pair} only {sorted(versions)} is found")
            if len(set(versions.values())) > 1:
                self._violated(f"pair {pair} has the versions {versions}")
            newest = max(versions.values())
            seen = (pair, writers[pair])
            if newest < self._versions.get(seen, 0):
                self._violated(f"pair {pair} went back from version {self._versions[seen]} to {newest}")
            self._versions[seen] = newest

    def _violated(self, how: str) -> None:
        if len(self.violations) < 20:
            self.violations.append(how)


def _search(index: Index, random: Random, rule: _Rule) -> None:
    pair = random.randrange(_PAIRS)
    way = random.randrange(4)
    if way == 0:
        rule.look(index.search("common", k=3 * _PAIRS, exact=True), whole=True)
    elif way == 1:
        rule.look(index.search(f"common pair{pair}", k=3 * _PAIRS, filter={"pair": pair}), whole=True)
    elif way == 2:
        # Two queries over one snapshot.
        found = index.search_many([f"common pair{pair}", "common side"], k=3 * _PAIRS, exact=True)
        rule.look(found[0], whole=True)
        if {hit.id for hit in found[0]} != {hit.id for hit in found[1]}:
            rule.violations.append("two queries over one snapshot find different documents")
    else:
        rule.look(index.search(f"pair{pair} shared{pair % 5}", k=5, n_candidates=8), whole=False)


def _change(index: Index, random: Random, counts: Counter[str]) -> None:
    pair = random.randrange(_PAIRS)
    version = time.monotonic_ns()
    kind = random.choices(("add", "delete", "compact", "rebuild", "stream"), (60, 20, 3, 3, 14))[0]
    try:
        if kind == "add":
            index.add(_pair(pair, version))
        elif kind == "delete":
            index.delete([f"a{pair:02}", f"b{pair:02}"])
        elif kind == "compact":
            index.compact()
        elif kind == "rebuild":
            index.tune(["common pair1"], compare=False, rebuild=True)
        else:
            index.add(
                (record for other in (pair, (pair + 1) % _PAIRS) for record in _pair(other, version)), batch_size=2
            )
    except StoreLockedError:
        # Another process kept the lock for longer than the time-out, which is what the error is for.
        counts["locked"] += 1
    else:
        counts["changes"] += 1
        counts[kind] += 1


def _write(path: Path, random: Random, seconds: float) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    until = time.monotonic() + seconds
    with open_index(path, timeout=60.0) as index:
        while time.monotonic() < until:
            _change(index, random, counts)
    return {"counts": dict(counts), "violations": []}


def _read(path: Path, random: Random, seconds: float) -> dict[str, Any]:
    rule, counts = _Rule(), Counter[str]()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        # Opened again and again, as short-lived processes do.
        with open_index(path, read_only=random.random() < 0.7, create=False, timeout=60.0) as index:
            for _ in range(50):
                _search(index, random, rule)
                counts["snapshots"] += 1
                if time.monotonic() > until:
                    break
    return {"counts": dict(counts) | {"hits": rule.n_hits}, "violations": rule.violations}


def _threads(path: Path, random: Random, seconds: float) -> dict[str, Any]:
    """Three threads search and one writes, all with one `Index`."""
    counts: Counter[str] = Counter()
    rules = [_Rule() for _ in range(3)]
    failures: list[str] = []
    until = time.monotonic() + seconds

    def searching(rule: _Rule, own: Random) -> None:
        try:
            while time.monotonic() < until:
                _search(index, own, rule)
                counts["snapshots"] += 1
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")

    with open_index(path, timeout=60.0) as index:
        threads = [threading.Thread(target=searching, args=(rule, Random(random.random()))) for rule in rules]
        for thread in threads:
            thread.start()
        try:
            while time.monotonic() < until:
                _change(index, random, counts)
        finally:
            for thread in threads:
                thread.join()
    counts["hits"] = sum(rule.n_hits for rule in rules)
    return {"counts": dict(counts), "violations": failures + [how for rule in rules for how in rule.violations]}


def _fork(path: Path, random: Random, seconds: float) -> dict[str, Any]:
    """Fork in turn with the index closed, when the child opens its own, and with it open, when the child must not."""
    rule, counts, violations = _Rule(), Counter[str](), []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        violations += _ended(_forked(lambda: _works(path, random)), "opened its own index")
        with open_index(path, timeout=60.0) as index:
            _search(index, random, rule)
            child = _forked(lambda index=index: _is_refused(path, index))
            # What the child does, and how it ends, must not touch the parent's connection.
            _change(index, random, counts)
            _search(index, random, rule)
            violations += _ended(child, "had inherited an index")
        counts["forks"] += 2
    return {"counts": dict(counts), "violations": violations + rule.violations}


def _forked(child: Callable[[], bool]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if child() else 2
        finally:
            os._exit(code)
    return pid


def _ended(pid: int, what: str) -> list[str]:
    _, status = os.waitpid(pid, 0)
    return [f"a forked child that {what} ended with status {status}"] if status else []


def _works(path: Path, random: Random) -> bool:
    rule = _Rule()
    with open_index(path, timeout=60.0) as index:
        for _ in range(5):
            _search(index, random, rule)
            _change(index, random, Counter())
    return not rule.violations


def _is_refused(path: Path, inherited: Index) -> bool:
    """Whether neither the parent's index can be used here nor another be opened on its file."""
    for attempt in (lambda: len(inherited), lambda: open_index(path, timeout=60.0)):
        try:
            attempt()
        except StoreError:
            continue
        return False
    return True


def _final(path: Path) -> dict[str, Any]:
    """The file after everybody has left: sound, and every pair whole."""
    rule = _Rule()
    with Index.open(path, model=encoder("old")) as index:
        problems = [problem.message for problem in index.verify().problems]
        rule.look(index.search("common", k=3 * _PAIRS, exact=True), whole=True)
        n = len(index)
    left = sorted(file.name for file in path.parent.iterdir())
    wrong = (
        problems
        + rule.violations
        + ([] if n == rule.n_hits else [f"{n} documents, {rule.n_hits} are found"])
        + ([] if left == [NAME] else [f"files left: {left}"])
    )
    return {"documents": n, "wrong": wrong}
