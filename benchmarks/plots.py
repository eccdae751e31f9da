"""Plots of the reports, as small SVG files whose text stays text.

    python benchmarks/plots.py REPORT.json... [--folder docs/plots]

draws reports again that `run.py --out` kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
# Text as text: smaller, and it can be searched and read aloud. A fixed salt: equal data, equal file.
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "edgecolbert", "font.size": 10, "axes.grid": True})
mpl.rcParams.update({"grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 72})

from matplotlib import pyplot  # noqa: E402

_SIZE = (6.4, 3.8)
# A transparent figure would be black on black where pages are dark.
_SAVING = {"format": "svg", "facecolor": "white", "bbox_inches": "tight", "metadata": {"Date": None}}


def draw(report: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what a report has a plot for.

    Args:
        report: As `run.py` prints it.
        folder: Where to write; made where it is not.

    Returns:
        The files.
    """
    plots: dict[str, dict[str, Callable[[dict[str, Any]], None]]] = {
        "scale": {"latency-documents": _latency, "recall-candidates": _recall},
        "fde": {"bytes-quality": _bytes},
        "search": {"latency-recall": _peers},
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, plot in plots.get(report["benchmark"], {}).items():
        figure = pyplot.figure(figsize=_SIZE)
        plot(report)
        pyplot.title(report["title"], fontsize=9)
        path = folder / f"{name}.svg"
        pyplot.savefig(path, **_SAVING)
        pyplot.close(figure)
        # Matplotlib ends lines with blanks, which diffs show.
        path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
        written.append(path)
    return written


def _latency(report: dict[str, Any]) -> None:
    for name in ("default", "50", "200", "800"):
        rows = [row for row in report["rows"] if row["candidates"] == name]
        sizes = [row["documents"] for row in rows]
        label = "default width" if name == "default" else f"{name} candidates"
        pyplot.plot(sizes, [row["p50_ms"] for row in rows], marker="o", label=label)
    pyplot.xscale("log")
    pyplot.xticks(sizes, [f"{size:,}" for size in sizes])
    pyplot.minorticks_off()
    pyplot.ylim(bottom=0)
    pyplot.xlabel("documents")
    pyplot.ylabel("ms for a query, p50, after encoding")
    pyplot.legend(fontsize=8)


def _recall(report: dict[str, Any]) -> None:
    rows = [row for row in report["rows"] if row.get("among candidates") is not None]
    for size in dict.fromkeys(row["documents"] for row in rows):
        own = [row for row in rows if row["documents"] == size]
        widths = [int(row["candidates"]) for row in own]
        pyplot.plot(widths, [row["among candidates"] for row in own], marker="o", label=f"{size:,} documents")
    if rows:
        pyplot.xscale("log")
        pyplot.xticks(widths, [str(width) for width in widths])
        pyplot.minorticks_off()
        pyplot.legend(fontsize=8)
    pyplot.xlabel("candidates")
    pyplot.ylabel("share of the exact top 10 among them")


def _bytes(report: dict[str, Any]) -> None:
    kinds: dict[str, list[tuple[int, float, str]]] = {}
    for row in report["rows"]:
        name = row["first stage"]
        kind = (
            "muvera-python, float32"
            if name.startswith("muvera-python")
            else "MUVERA, int8"
            if "MUVERA" in name
            else "cells"
        )
        kinds.setdefault(kind, []).append((row["bytes"], row["recall@100"], name))
    for kind, points in kinds.items():
        pyplot.scatter([point[0] for point in points], [point[1] for point in points], label=kind)
        for n_bytes, share, name in points:
            short = name.split(", ")[-1] if kind != "cells" else name
            pyplot.annotate(short, (n_bytes, share), xytext=(4, -9), textcoords="offset points", fontsize=7)
    pyplot.xscale("log")
    pyplot.xlabel("bytes of a document's code")
    pyplot.ylabel("share of the exact top 10 among 100")
    pyplot.legend(fontsize=8, loc="upper right")


def _peers(report: dict[str, Any]) -> None:
    for name in dict.fromkeys(row["system"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["system"] == name]
        pyplot.plot([row["recall@10"] for row in rows], [row["p50_ms"] for row in rows], marker="o", label=name)
    pyplot.yscale("log")
    pyplot.xlabel("recall of the exact top 10")
    pyplot.ylabel("ms for a query, p50")
    pyplot.legend(fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path, metavar="REPORT.json")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent.parent / "docs" / "plots")
    options = parser.parse_args()
    for path in options.reports:
        for written in draw(json.loads(path.read_text()), options.folder):
            print(written)


if __name__ == "__main__":
    main()
