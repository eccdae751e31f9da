"""The short form of every check of `reliability`, and that the power-cut simulator itself does what it says."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

RELIABILITY = Path(__file__).parent.parent / "reliability"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the checks fork their processes")


def _report(check: str) -> dict[str, Any]:
    command = [sys.executable, str(RELIABILITY / "run.py"), check, "--short", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    findings = [(row, finding) for row in report.get("rows", ()) for finding in row["findings"]]
    assert findings == []
    assert (done.returncode, report["passed"]) == (0, True), done.stdout[-3_000:]
    return report


def test_a_power_cut_loses_nothing() -> None:
    report = _report("powercut")
    if "skipped" in report:
        pytest.skip(report["skipped"])
    totals = report["totals"]
    assert totals["full"]["images"] == totals["full"]["sound"] == 28
    assert totals["full"]["with_risk"] > 14
    assert totals["normal"]["broken"] == 0
    # Without any synchronisation the same images show losses, or the simulator would prove nothing.
    assert totals["off"]["lost"] + totals["off"]["broken"] > 0


def test_a_killed_process_loses_nothing() -> None:
    totals = _report("kills")["totals"]
    assert totals["kills"] == 14
    assert totals["lost"] == totals["broken"] == totals["stuck"] == 0


def test_a_failing_or_full_disk_and_ctrl_c_are_errors_of_ours_and_leave_the_file_sound() -> None:
    report = _report("faults")
    for form, counts in report["totals"].items():
        assert counts["wrong"] == 0, form
        assert counts["fired"] > 0, form
        assert counts["errors"] + counts["done"] == counts["runs"], form
    forms = {"read fails", "write fails", "sync fails", "truncate fails", "disk full"}
    forms |= {"largest file", "most pages", "Ctrl-C"}
    assert set(report["totals"]) == forms or "skipped" in report


def test_a_damaged_file_is_an_error_or_right() -> None:
    totals = _report("corruption")["totals"]["all"]
    assert totals["error"] > 5
    assert {totals[name] for name in ("silent", "wrong until verify", "signal", "untyped", "smaller")} == {0}
    # All that was damaged was counted, and repair tried on it.
    assert totals["cases"] > 15
    assert totals["repaired"] > 10
    assert totals["repair wrong"] == 0


def test_processes_threads_and_forks_see_whole_changes() -> None:
    totals = _report("processes")["totals"]
    assert totals["readers"]["hits"] > totals["readers"]["snapshots"] > 0
    assert totals["writers"]["changes"] > 0
    assert totals["afterwards"]["wrong"] == []


def test_nonsense_from_outside_is_an_error_of_ours() -> None:
    totals = _report("fuzz")["totals"]
    assert len(totals) == 9
    assert all(counts["examples"] >= 25 for counts in totals.values())


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RELIABILITY))
    return importlib.import_module("images")


def test_the_simulator_keeps_what_was_synchronised_and_any_part_of_the_rest(images: ModuleType) -> None:
    event = importlib.import_module("shim").Event
    log = [
        event("create", 1, data=b"index.db-wal"),
        event("write", 1, 0, b"a" * 1_024),
        event("sync", 1),
        event("settle"),
        event("acknowledged", place=1),
        event("write", 1, 1_024, b"b" * 1_024),
        event("write", 0, 0, b"c" * 1_024),
        event("truncate", 0, 512),
        event("delete", 1, data=b"index.db-wal"),
    ]
    before = {0: ("index.db", b"0" * 2_048)}
    seen = set()
    for way in images.WAYS:
        for seed in range(40):
            disk = images.Disk(before, log, len(log))
            assert (disk.acknowledged, disk.at_risk) == (1, 4)
            found = disk.survivors(way, Random(seed))
            wal = found.get("index.db-wal")
            assert wal is None or wal[:1_024] == b"a" * 1_024
            seen.add((found["index.db"], wal))
    sizes = {(len(content), None if wal is None else len(wal)) for content, wal in seen}
    # The truncation and the removal of the log are there or not, whatever else is.
    assert {(2_048, 1_024), (512, None), (512, 2_048), (2_048, 2_048)} <= sizes
    torn = {content[:1_024] for content, _ in seen}
    assert {b"0" * 1_024, b"c" * 1_024, b"c" * 512 + b"0" * 512, b"0" * 512 + b"c" * 512} <= torn


def test_the_simulator_knows_nothing_before_the_folder_is_synchronised(images: ModuleType) -> None:
    event = importlib.import_module("shim").Event
    log = [event("create", 0, data=b"index.db"), event("write", 0, 0, b"x" * 10), event("sync", 0)]
    found = [images.Disk({}, log, 3).survivors(way, Random(1)) for way in ("nothing", "everything")]
    assert found == [{}, {"index.db": b"x" * 10}]
