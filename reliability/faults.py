"""Disks that fail, disks that are full, and Ctrl-C, inside every operation.

- The n-th read, write, synchronisation or truncation that SQLite asks for fails, once or from then on, with an error of
  the disk or because it is full (`shim`). A counter proves that it did.
- Files may not grow beyond a size (RLIMIT_FSIZE), or the database beyond a number of pages (max_page_count).
- SIGINT comes at a random moment; the same `Index` object must be usable after it.

Expected each time: an error of edgecolbert's own, or none and the operation is done; and a sound file in the state
before or after.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sqlite3
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from children import Child, Ended, in_child, must
from operations import (
    OPERATIONS,
    Operation,
    Session,
    chosen,
    documents,
    fresh,
    look,
    prepared,
    records,
    scratch,
    settings,
)
from shim import FAILURES, FULL, Fault, Shim, find_library

from edgecolbert import EdgeColbertError, Index

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

# The calls that fail: kind and code. Where SQLite is told of a full disk, it must go to the user as one.
_KINDS = (*FAILURES.items(), ("write", FULL))
# At most so many places in an operation for each kind and code, once and staying; and runs of the other forms.
_PLACES = (10, 1)
_LIMITS = (8, 1)
_INTERRUPTS = (22, 1)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every misfortune in every operation.

    Args:
        options: `short`: a few each.

    Returns:
        Counts by form, and everything that was found.
    """
    folder = scratch()
    skipped = []
    rows: list[dict[str, Any]] = []
    try:
        for operation in OPERATIONS:
            must(in_child(lambda operation=operation: prepared(operation, folder / "prepared") and None))
        try:
            find_library()
        except RuntimeError as error:
            skipped.append(f"failing calls: {error}")
        else:
            rows += _failing_calls(folder, options)
        if resource is None:
            skipped.append("largest file: this system has no RLIMIT_FSIZE")
        else:
            rows += _limits("largest file", folder, options, _with_largest_file)
        rows += _limits("most pages", folder, options, _with_most_pages)
        rows += _interrupts(folder, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    totals: dict[str, Counter[str]] = {}
    for row in rows:
        totals.setdefault(row["form"], Counter()).update({name: row[name] for name in _COUNTS})
    passed = all(total["wrong"] == 0 and total["fired"] > 0 for total in totals.values())
    report = {"passed": passed, "totals": {name: dict(counts) for name, counts in totals.items()}, "rows": rows}
    return report | ({"skipped": "; ".join(skipped)} if skipped else {})


_COUNTS = ("runs", "fired", "errors", "done", "wrong")


class _Tally:
    """Counts of one form in one operation."""

    def __init__(self, form: str, operation: Operation) -> None:
        self._row: dict[str, Any] = {"form": form, "operation": operation.name}
        self._counts: Counter[str] = Counter()
        self._findings: list[dict[str, Any]] = []

    def add(self, ended: Ended, **what: Any) -> None:
        """Count a run: what the child found, or how it ended where it found nothing."""
        self._counts["runs"] += 1
        result = ended.result or {}
        self._counts["fired"] += bool(result.get("fired"))
        self._counts["errors"] += bool(result.get("error"))
        self._counts["done"] += bool(result) and not result["error"]
        wrong = result.get("wrong", "no result")
        if ended.signal or ended.error or ended.late:
            wrong = f"signal {ended.signal}, late {ended.late}: {ended.error}"
        if wrong:
            self._counts["wrong"] += 1
            self._findings.append(what | {"wrong": wrong[-1_500:], "error": result.get("error")})

    def row(self) -> dict[str, Any]:
        return self._row | {name: self._counts[name] for name in _COUNTS} | {"findings": self._findings}


def _attempt(operation: Operation, path: Path, run: Callable[[Session], int]) -> dict[str, Any]:
    """Run an operation that may fail, then look at the file.

    Args:
        operation: Which.
        path: The file.
        run: Runs it under a misfortune, and gives how often that struck.

    Returns:
        How often it struck, the error if any, and what is wrong, or "".
    """
    session = Session(path, lambda number: None)
    error, wrong, fired = "", "", 0
    try:
        fired = run(session)
    except _StruckError as struck:
        fired, cause = struck.times, struck.error
        error = f"{type(cause).__name__}: {cause}"
        if not isinstance(cause, EdgeColbertError | KeyboardInterrupt):
            wrong = "not an error of edgecolbert's: " + "".join(traceback.format_exception(cause))
    if not error and session.reached != len(operation.states) - 1:
        wrong = wrong or f"no error, but only state {session.reached} was acknowledged"
    found = look(path, operation.states, session.reached)
    if found.verdict != "sound":
        wrong = f"{wrong} {found.verdict}: {found.detail}".strip()
    return {"fired": fired, "error": error[:300], "wrong": wrong}


class _StruckError(Exception):
    """An operation ended with an error, after so many strikes."""

    def __init__(self, error: BaseException, times: int) -> None:
        super().__init__(str(error))
        self.error = error
        self.times = times


# --- Calls that fail


def _failing_calls(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for place, operation in enumerate(OPERATIONS):
        base = prepared(operation, folder / "prepared")
        counts = must(in_child(lambda base=base, operation=operation: _count_calls(operation, base, folder)))
        for turn, (kind, code) in enumerate(_KINDS):
            if options.short and (place - turn) % 3:
                continue
            tally = _Tally(f"{kind} fails" if code != FULL else "disk full", operation)
            for nth, stays in _places(counts[kind], operation, kind, options):
                fault = Fault(kind, nth, code, stays)
                path = fresh(base, folder / "run")
                ended = in_child(
                    lambda path=path, fault=fault, operation=operation: _with_fault(operation, path, fault)
                )
                tally.add(ended, fault=fault._asdict())
            yield tally.row()


def _places(n: int, operation: Operation, kind: str, options: argparse.Namespace) -> list[tuple[int, bool]]:
    """Which of n calls fail, and whether the later ones do as well: evenly spaced, all where there are few."""
    most = _PLACES[options.short]
    if options.short:
        random = Random(f"{options.seed} {operation.name} {kind}")
        return [(random.randint(1, n), random.random() < 0.5)] if n else []
    chosen = sorted({1 + place * (n - 1) // max(1, most - 1) for place in range(most)} if n > most else range(1, n + 1))
    return [(nth, stays) for nth in chosen for stays in (False, True)]


def _count_calls(operation: Operation, base: Path, folder: Path) -> dict[str, int]:
    path = fresh(base, folder / "run")
    shim = Shim(path.parent, note=False)
    with settings(operation.pragmas), shim.active():
        operation.run(Session(path, lambda number: None))
    return shim.counts


def _with_fault(operation: Operation, path: Path, fault: Fault) -> dict[str, Any]:
    def run(session: Session) -> int:
        shim = Shim(path.parent, note=False)
        shim.fault = fault
        with settings(operation.pragmas), shim.active():
            try:
                operation.run(session)
            except BaseException as error:
                raise _StruckError(error, shim.fired) from error
        return shim.fired

    return _attempt(operation, path, run)


# --- No room


def _limits(
    form: str, folder: Path, options: argparse.Namespace, limited: Callable[[Operation, Path, int], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    for operation in chosen(options.short, len(form)):
        base = prepared(operation, folder / "prepared")
        largest = must(in_child(lambda base=base, operation=operation: _largest(operation, base, folder)))
        random = Random(f"{options.seed} {form} {operation.name}")
        tally = _Tally(form, operation)
        for _ in range(_LIMITS[options.short]):
            path = fresh(base, folder / "run")
            # Not below what opening takes, or nothing but opening would be tried.
            size = max([40_000, *(file.stat().st_size for file in path.parent.iterdir())])
            size = random.randint(min(size, largest), largest)
            ended = in_child(lambda path=path, size=size, operation=operation: limited(operation, path, size))
            tally.add(ended, limit=size)
        yield tally.row()


def _largest(operation: Operation, base: Path, folder: Path) -> int:
    """Size of the largest file that an operation makes."""
    path = fresh(base, folder / "run")
    sizes = [0]
    session = Session(path, lambda number: sizes.append(max(file.stat().st_size for file in path.parent.iterdir())))
    with settings(operation.pragmas):
        operation.run(session)
    return max(*sizes, path.stat().st_size)


def _with_largest_file(operation: Operation, path: Path, size: int) -> dict[str, Any]:
    def run(session: Session) -> int:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            with settings(operation.pragmas):
                operation.run(session)
        except BaseException as error:
            raise _StruckError(error, 1) from error
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        return 0

    return _attempt(operation, path, run)


def _with_most_pages(operation: Operation, path: Path, size: int) -> dict[str, Any]:
    def run(session: Session) -> int:
        page_size = 4_096
        if path.exists():
            connection = sqlite3.connect(path)
            (page_size,) = connection.execute("PRAGMA page_size").fetchone()
            connection.close()
        try:
            with settings((*operation.pragmas, f"max_page_count = {size // page_size}")):
                operation.run(session)
        except BaseException as error:
            raise _StruckError(error, 1) from error
        return 0

    return _attempt(operation, path, run)


# --- Ctrl-C


def _interrupts(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for operation in chosen(options.short, 2):
        base = prepared(operation, folder / "prepared")
        random = Random(f"{options.seed} interrupt {operation.name}")
        tally = _Tally("Ctrl-C", operation)
        seconds = _seconds(operation, fresh(base, folder / "run"))
        for _ in range(_INTERRUPTS[options.short]):
            path = fresh(base, folder / "run")
            child = Child(lambda tell, path=path, operation=operation: _interruptible(operation, path, tell))
            child.wait_for_first()
            moment = random.uniform(0, seconds)
            ended = child.end(signal.SIGINT if child.runs_for(moment) else 0)
            tally.add(ended, moment=round(moment, 4))
        yield tally.row()


def _seconds(operation: Operation, path: Path) -> float:
    child = Child(lambda tell: _interruptible(operation, path, tell))
    child.wait_for_first()
    begin = time.monotonic()
    # The look at the file afterwards is part of it; the operation is about half.
    must(child.end())
    return (time.monotonic() - begin) / 2


def _interruptible(operation: Operation, path: Path, tell: Callable[[Any], None]) -> dict[str, Any]:
    """Run an operation until SIGINT comes, and use the same `Index` object after it."""
    unusable: list[str] = []

    def use(index: Index, error: BaseException) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            allowed = [set(state.documents) for state in operation.states]
            if set(index.ids()) not in allowed or len(index) != len(index.ids()):
                unusable.append(f"it lists {len(index)} documents, which no state has")
            index.search("common", k=3)
            if index.verify().problems:
                unusable.append(f"verify: {index.verify().problems[0].message}")
            name, (body, metadata) = next(iter(documents(900, 901).items()))
            index.add(records({name: (body, metadata)}))
            if index.search(" ".join(body.split()[:5]), k=1, exact=True)[0].id != name:
                unusable.append("what is added then is not found")
            index.delete([name])
        except EdgeColbertError as failure:
            # A re-encoded file is refused to a handle that was opened before it, whoever re-encoded.
            unusable.append(f"{type(failure).__name__}: {failure}")
        except Exception:
            unusable.append(traceback.format_exc())

    def run(session: Session) -> int:
        session.interrupted = use
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            tell("begun")
            with settings(operation.pragmas):
                operation.run(session)
        except BaseException as error:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise _StruckError(error, 1) from error
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return 0

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    result = _attempt(operation, path, run)
    if unusable:
        result["wrong"] = f"{result['wrong']} the same object afterwards: {unusable}".strip()
    return result
