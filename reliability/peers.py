"""The same kills and damages for other embedded vector stores: Qdrant Edge and LanceDB, beside this one.

Each holds points with one vector of 32 numbers and a payload. Kills: batches of 20 points are added, with an optimise
or compact after every tenth; a batch counts as acknowledged when the call has returned. Damages: one change to one file
of a store of 400 points; then all points are read, counted and searched, exactly. What is compared is what a program
sees that does not call any check of the store.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any, Protocol

import numpy as np
from children import Child, in_child, must
from operations import scratch

_DIM, _BATCH, _BEFORE, _MOST = 32, 20, 400, 20_000
_KILLS, _DAMAGES = (25, 2), (40, 4)


def vector(n: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32 [32] of unit length: the vector of a point."""
    values = np.random.default_rng(n).normal(size=_DIM).astype(np.float32)
    return values / np.float32(np.linalg.norm(values))


class Store(Protocol):
    """What is asked of each."""

    def add(self, start: int, end: int) -> None:
        """Add points; when it returns, they are acknowledged."""

    def optimize(self) -> None:
        """What the store offers for tidying up."""

    def read(self) -> dict[int, list[Any]]:
        """Every point: its payload and its vector, rounded."""

    def count(self) -> int:
        """How many points it says it has."""

    def search(self, n: int) -> list[list[Any]]:
        """Numbers and scores of the ten points nearest to a vector."""

    def close(self) -> None:
        """Close it."""


class _Ours:
    """This library: one token a document."""

    def __init__(self, folder: Path, *, make: bool) -> None:
        from edgecolbert import Index

        class Encoder:
            name = "vectors"

            def encode_documents(self, texts: list[str]) -> list[Any]:
                return [vector(int(text))[None] for text in texts]

            encode_queries = encode_documents

        self._index = Index.open(folder / "index.db", model=Encoder(), create=make)

    def add(self, start: int, end: int) -> None:
        self._index.add([{"id": f"{n}", "text": f"{n}", "metadata": {"n": n}} for n in range(start, end)])

    def optimize(self) -> None:
        self._index.compact()

    def read(self) -> dict[int, list[Any]]:
        # The vectors are compared by what a search gives; the store has no other way to read them.
        documents = [self._index.get(name) for name in self._index.ids()]
        return {int(document.id): [document.metadata["n"], document.text] for document in documents if document}

    def count(self) -> int:
        return len(self._index)

    def search(self, n: int) -> list[list[Any]]:
        return [[int(hit.id), round(hit.score, 4)] for hit in self._index.search(f"{n}", exact=True)]

    def close(self) -> None:
        self._index.close()


class _Qdrant:
    """Qdrant Edge with its write-ahead log, which is its default, acknowledged by `update` or by `flush`."""

    def __init__(self, folder: Path, *, make: bool, flush: bool = False) -> None:
        import qdrant_edge as qdrant

        self._qdrant, self._flush = qdrant, flush
        folder = folder / "shard"
        if make:
            folder.mkdir()
            parameters = qdrant.EdgeVectorParams(size=_DIM, distance=qdrant.Distance.Dot)
            self._shard = qdrant.EdgeShard.create(str(folder), qdrant.EdgeConfig(vectors={"v": parameters}))
        else:
            self._shard = qdrant.EdgeShard.load(str(folder))

    def add(self, start: int, end: int) -> None:
        points = [self._qdrant.Point(n, {"v": vector(n).tolist()}, {"n": n}) for n in range(start, end)]
        self._shard.update(self._qdrant.UpdateOperation.upsert_points(points))
        if self._flush:
            self._shard.flush()

    def optimize(self) -> None:
        self._shard.optimize()

    def read(self) -> dict[int, list[Any]]:
        request = self._qdrant.ScrollRequest(limit=_MOST, with_payload=True, with_vector=True)
        points, _ = self._shard.scroll(request)
        return {int(p.id): [(p.payload or {}).get("n"), np.round(p.vector["v"], 4).tolist()] for p in points}

    def count(self) -> int:
        return int(self._shard.count(self._qdrant.CountRequest(exact=True)))

    def search(self, n: int) -> list[list[Any]]:
        query = self._qdrant.Query.Nearest(vector(n).tolist(), using="v")
        exact = self._qdrant.SearchParams(exact=True)
        found = self._shard.query(self._qdrant.QueryRequest(limit=10, query=query, params=exact))
        return [[int(point.id), round(point.score, 4)] for point in found]

    def close(self) -> None:
        self._shard.close()


class _Lance:
    """LanceDB, as it comes."""

    def __init__(self, folder: Path, *, make: bool) -> None:
        import lancedb
        import pyarrow

        database = lancedb.connect(str(folder))
        if make:
            kind = pyarrow.list_(pyarrow.float32(), _DIM)
            schema = pyarrow.schema([("id", pyarrow.int64()), ("n", pyarrow.int64()), ("v", kind)])
            self._table = database.create_table("points", schema=schema)
        else:
            self._table = database.open_table("points")

    def add(self, start: int, end: int) -> None:
        self._table.add([{"id": n, "n": n, "v": vector(n)} for n in range(start, end)])

    def optimize(self) -> None:
        self._table.optimize()

    def read(self) -> dict[int, list[Any]]:
        rows = self._table.to_arrow().to_pylist()
        return {row["id"]: [row["n"], None if row["v"] is None else np.round(row["v"], 4).tolist()] for row in rows}

    def count(self) -> int:
        return int(self._table.count_rows())

    def search(self, n: int) -> list[list[Any]]:
        found = self._table.search(vector(n)).metric("dot").limit(10).to_list()
        return [[row["id"], round(row["_distance"], 4)] for row in found]

    def close(self) -> None:
        pass


# Name, what must be installed, how to open it.
_PEERS: tuple[tuple[str, str, Callable[..., Store], dict[str, Any]], ...] = (
    ("edgecolbert", "edgecolbert", _Ours, {}),
    ("Qdrant Edge, as it comes", "qdrant_edge", _Qdrant, {}),
    ("Qdrant Edge, flush after each batch", "qdrant_edge", _Qdrant, {"flush": True}),
    ("LanceDB, as it comes", "lancedb", _Lance, {}),
)
_DISTRIBUTIONS = {"edgecolbert": "edgecolbert", "qdrant_edge": "qdrant-edge-py", "lancedb": "lancedb"}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Kills and damages for every store that is installed.

    Args:
        options: `short`: a few each.

    Returns:
        Counts by store. It passes whatever the peers do, as long as ours loses nothing.
    """
    rows, skipped = [], []
    for name, module, kind, settings in _PEERS:
        if importlib.util.find_spec(module) is None:
            skipped.append(f"{name} is not installed")
            continue
        folder = scratch()
        try:
            row: dict[str, Any] = {"peer": name, "version": version(_DISTRIBUTIONS[module])}
            row["kills"] = _kills(kind, settings, folder, _KILLS[options.short], options.seed)
            if not settings:
                row["damages"] = _damages(kind, settings, folder, _DAMAGES[options.short], options.seed)
            rows.append(row)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    ours = rows[0]
    passed = not any(ours["kills"].get(key) for key in ("missing", "half", "errors", "signals"))
    passed &= not ours["damages"].get("signal")
    totals = {
        f"{row['peer']} {row['version']}: {what}": row[what]
        for row in rows
        for what in ("kills", "damages")
        if what in row
    }
    report: dict[str, Any] = {"passed": passed, "totals": totals, "rows": rows}
    return report | ({"skipped": "; ".join(skipped)} if skipped else {})


def _quiet() -> None:
    """What a library in Rust prints when it panics is of no use here."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)


def _make(kind: Callable[..., Store], settings: dict[str, Any], folder: Path, n: int) -> None:
    folder.mkdir()

    def make() -> None:
        store = kind(folder, make=True, **settings)
        for start in range(0, n, _BATCH):
            store.add(start, start + _BATCH)
        store.close()

    must(in_child(make))


def _kills(kind: Callable[..., Store], settings: dict[str, Any], folder: Path, n: int, seed: int) -> dict[str, Any]:
    base, run = folder / "empty", folder / "run"
    _make(kind, settings, base, _BATCH)
    random = Random(f"{seed} kills")
    counts: Counter[str] = Counter()
    examples = []

    def work(tell: Callable[[Any], None]) -> None:
        _quiet()
        store = kind(run, make=False, **settings)
        for number, start in enumerate(range(_BATCH, _MOST, _BATCH), start=1):
            store.add(start, start + _BATCH)
            tell(start + _BATCH)
            if number % 10 == 0:
                store.optimize()

    def look() -> list[int]:
        _quiet()
        store = kind(run, make=False, **settings)
        found = store.read()
        wrong = [n for n, (payload, _) in found.items() if payload != n]
        if wrong or store.count() != len(found):
            raise ValueError(f"{len(wrong)} points are wrong, {store.count()} counted, {len(found)} read")
        store.search(3)
        return sorted(found)

    for _ in range(n):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(base, run)
        child = Child(work)
        child.wait_for_first()
        child.runs_for(random.uniform(0, 0.8))
        ended = child.end(signal.SIGKILL)
        acknowledged = max([_BATCH, *ended.told])
        counts["kills"] += ended.signal == signal.SIGKILL
        counts["acknowledged"] += acknowledged
        after = in_child(look)
        if after.signal or after.error or after.late or after.code:
            counts["signals"] += after.signal != 0
            counts["errors"] += not after.signal
            examples.append(f"signal {after.signal} {after.error.strip().splitlines()[-1:]}"[:300])
            continue
        there = set(after.result)
        missing = acknowledged - len(there.intersection(range(acknowledged)))
        counts["missing"] += missing
        counts["runs that lost"] += missing > 0
        batches = Counter(n // _BATCH for n in there)
        counts["half"] += sum(1 for n_there in batches.values() if n_there < _BATCH)
    names = ("kills", "acknowledged", "missing", "runs that lost", "half", "errors", "signals")
    return {name: counts[name] for name in names} | {"examples": examples[:3]}


def _damages(kind: Callable[..., Store], settings: dict[str, Any], folder: Path, n: int, seed: int) -> dict[str, Any]:
    base, run = folder / "sound", folder / "run"
    _make(kind, settings, base, _BEFORE)

    def look() -> dict[str, Any]:
        _quiet()
        store = kind(run, make=False, **settings)
        found = {"read": sorted(store.read().items()), "count": store.count()}
        return found | {f"search {n}": store.search(n) for n in (3, 77, 399)}

    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(base, run)
    right = must(in_child(look))
    random = Random(f"{seed} damages")
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for number in range(n):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(base, run)
        # Large files oftener than small ones, as disks and bugs hit them.
        files = sorted(file for file in run.rglob("*") if file.is_file() and file.stat().st_size)
        (file,) = random.choices(files, [file.stat().st_size ** 0.5 for file in files])
        what = _damage(file, number, random)
        ended = in_child(look)
        if ended.signal or ended.late:
            outcome = "signal"
        elif ended.error or ended.code:
            # A panic of Rust that reaches Python as PanicException is no error that a program can plan for.
            outcome = "panic" if "PanicException" in ended.error else "error"
        else:
            outcome = "unharmed" if ended.result == right else "wrong"
        counts[outcome] += 1
        examples.setdefault(outcome, f"{what} of {file.relative_to(run)}: {ended.error.strip()[-150:]}")
    names = ("error", "panic", "unharmed", "wrong", "signal")
    return {"cases": n} | {name: counts[name] for name in names} | {"examples": examples}


def _damage(file: Path, number: int, random: Random) -> str:
    content = bytearray(file.read_bytes())
    kind = number % 5
    if kind < 2:
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        what = "a flipped bit"
    elif kind == 2:
        del content[len(content) // 2 :]
        what = "half"
    elif kind == 3:
        content[: min(4_096, len(content))] = bytes(min(4_096, len(content)))
        what = "zeros at the start"
    else:
        start = random.randrange(len(content))
        content[start : start + 64] = random.randbytes(len(content[start : start + 64]))
        what = "64 bytes of rubbish"
    file.write_bytes(content)
    return what
