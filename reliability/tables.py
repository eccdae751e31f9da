"""The tables of docs/reliability.md, from the reports that `run.py --out FOLDER` kept.

python reliability/tables.py FOLDER
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    """Print the table of every report there is."""
    reports = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    for name, report in reports.items():
        conditions = (
            f"{report['date']}, edgecolbert {report['edgecolbert']}, SQLite {report['sqlite']}, "
            f"Python {report['python']}, {report['system']}, seed {report['seed']}, {report['seconds']:.0f} s"
        )
        print(f"## {name}\n\n{conditions}\n")
        rows = {key: value for key, value in report["totals"].items() if isinstance(value, dict)}
        print(_table(rows or {name: report["totals"]}))
        if name in ("powercut", "kills", "faults"):
            print(_table(_by_operation(report["rows"])))


def _by_operation(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found: dict[str, Counter[str]] = {}
    for row in rows:
        counts = {key: value for key, value in row.items() if isinstance(value, int) and key not in ("writes", "syncs")}
        found.setdefault(f"{row.get('durability', '')} {row['operation']}".strip(), Counter()).update(counts)
    return {name: dict(counts) for name, counts in found.items()}


def _table(rows: dict[str, dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows.values() for key in row if key != "examples"))
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        cells = [f"{row.get(column, '')}" for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
