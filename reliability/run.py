"""The proof that the store loses nothing: one command for every kind of misfortune.

    python reliability/run.py powercut|kills|faults|corruption|processes|fuzz|peers|all [--short] [--seed N] [--json]
        [--out FOLDER]

What each does is in docs/reliability.md. `all` is all but the peers. It ends with 1 where something was found that must
not be. With --json only JSON is printed; with --out it is kept in the folder, one file for each check.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sqlite3
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

CHECKS = ("powercut", "kills", "faults", "corruption", "processes", "fuzz")


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", choices=(*CHECKS, "peers", "all"))
    parser.add_argument("--short", action="store_true", help="a few seconds, as the tests run it")
    parser.add_argument("--seed", type=int, default=0, help="for the choices that are made by chance")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--out", type=Path, help="folder to keep the reports in")
    options = parser.parse_args()
    # Children are forked while nothing else runs: no thread may have been started.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    # This checkout's library, whatever is installed.
    sys.path.insert(1, str(Path(__file__).resolve().parent.parent))
    passed = True
    for name in CHECKS if options.check == "all" else (options.check,):
        report = _run(name, options)
        passed &= report["passed"]
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
        print(json.dumps(report) if options.json else _text(report), flush=True)
    return 0 if passed else 1


def _run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    import edgecolbert

    if name != "peers":
        from operations import preload, shrink_upkeep

        preload()
        shrink_upkeep()
    begin = time.monotonic()
    report: dict[str, Any] = importlib.import_module(name).measure(options)
    return {
        "check": name,
        "date": date.today().isoformat(),
        "edgecolbert": edgecolbert.__version__,
        "sqlite": sqlite3.sqlite_version,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "short": options.short,
        "seed": options.seed,
        "seconds": round(time.monotonic() - begin, 1),
    } | report


def _text(report: dict[str, Any]) -> str:
    """The report for people: the counts, and what was found."""
    lines = [f"{report['check']}: {'passed' if report['passed'] else 'FAILED'} in {report['seconds']} s"]
    if "skipped" in report:
        lines.append(f"skipped: {report['skipped']}")
    for name, counts in report.get("totals", {}).items():
        shown = ", ".join(f"{key} {value}" for key, value in counts.items()) if isinstance(counts, dict) else counts
        lines.append(f"  {name}: {shown}")
    for row in report.get("rows", ()):
        where = next((str(row[key]) for key in ("operation", "case", "target", "peer") if key in row), "")
        lines += [f"  - {where}: {json.dumps(finding)}" for finding in row.get("findings", ())]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
