"""Every benchmark by one command: a table, the raw rows, a plot.

    python benchmarks/run.py encode|maxsim|fde|search|scale|token_storage [--data FOLDER...] [--json] [--out FOLDER]
        [--plot]

What each shows, and which of the options it looks at, is in benchmarks/README.md. With --json only JSON is printed,
with the important ratios under `ratios`. With --out the report and every single measurement are kept there. Peers that
are not installed are left out and named; `pip install edgecolbert[bench]` brings them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = ("encode", "maxsim", "fde", "search", "scale", "token_storage")
# Whatever a system brings for numbers, it gets as many threads as the others.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "LANCE_CPU_THREADS",
    "TOKIO_WORKER_THREADS",
)
PLOTS = Path(__file__).parent.parent / "docs" / "plots"


def main() -> None:
    options = _options()
    # Libraries read how many threads they may use when they are imported, numpy among them.
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(options.threads)
    from measuring import installed, machine

    before = machine()
    report: dict[str, Any] = importlib.import_module(options.benchmark).measure(options)
    raw = report.pop("raw", [])
    names = ("edgecolbert", "numpy", "onnxruntime", "torch")
    report = {
        "benchmark": options.benchmark,
        "threads": options.threads,
        "machine": before | {"load_after": machine()["load"]},
        "versions": {name: found for name in names if (found := installed(name))},
    } | report
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{options.benchmark}.json").write_text(json.dumps(report, indent=2) + "\n")
        with (options.out / f"{options.benchmark}.raw.jsonl").open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in raw)
    if options.plot:
        importlib.import_module("plots").draw(report, PLOTS if options.plot is True else Path(options.plot))
    print(json.dumps(report, indent=2) if options.json else _text(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="FOLDER", help="BEIR folders; folders of other texts; or 'synthetic'"
    )
    parser.add_argument("--documents", type=int, nargs="+", help="how many documents, with other texts as distractors")
    parser.add_argument("--queries", type=int, help="at most so many queries of each collection")
    parser.add_argument("--model", help="name or folder of a model (default: the starter model)")
    parser.add_argument("--cache", default="bench-cache", help="where token embeddings and databases are kept")
    parser.add_argument("--threads", type=int, default=1, help="threads for every system (default: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is timed (default: 3)")
    parser.add_argument("--peers", nargs="*", metavar="NAME", help="only these peers; without a name, none")
    parser.add_argument("--checkpoint", type=Path, help="encode: the PyLate checkpoint")
    parser.add_argument("--shape", help="encode: a checkpoint with random weights, such as mxbai-edge-colbert-v0-17m")
    parser.add_argument("--texts", type=int, default=128, help="encode: how many texts (default: 128)")
    parser.add_argument("--characters", type=int, help="encode: cut texts at so many characters")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep the report and the raw rows there")
    parser.add_argument("--plot", nargs="?", const=True, metavar="FOLDER", help="draw it (default: into docs/plots)")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _text(report: dict[str, Any]) -> str:
    lines = [f"{report['benchmark']}: {report.get('title', '')}, {report['threads']} thread(s)", ""]
    lines += _table(report["rows"]) if report.get("rows") else []
    for name, value in report.get("ratios", {}).items():
        lines.append(f"{name}: {value}")
    for name, found in report.get("targets", {}).items():
        met = {True: "yes", False: "NO", None: "not measured"}[found["met"]]
        lines.append(f"{name}: {found['value']} (wanted {found['wanted']}: {met})")
    for name, why in report.get("absent", {}).items():
        lines.append(f"left out: {name}: {why}")
    machine = report["machine"]
    lines.append(f"{machine['processor']}, {machine['cores']} cores, load {machine['load']} to {machine['load_after']}")
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *[[_cell(row.get(name)) for name in names] for row in rows]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    lines = []
    for line in cells:
        padded = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return [*lines, ""]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
    # Raised where a name, a folder or a package is wrong: a sentence, not a traceback.
    try:
        main()
    except (FileNotFoundError, ModuleNotFoundError) as error:
        sys.exit(f"{error}")
