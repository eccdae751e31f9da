"""A cold search process against the bare import of what it needs, side by side in one run.

python benchmarks/cold_start.py [--documents 5000] [--runs 7]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from pathlib import Path

from measuring import run_process

from edgecolbert import Index

HANDBOOK = Path(__file__).parent.parent / "examples" / "handbook"

PROGRAMS = {
    "bare": "import numpy, onnxruntime, tokenizers",
    "import": "import edgecolbert",
    "search": (
        "import sys; from edgecolbert import Index\n"
        "with Index.open(sys.argv[1], read_only=True) as index: print(index.search('a cold bath tap', k=10)[0].id)"
    ),
    "search_exact": (
        "import sys; from edgecolbert import Index\n"
        "with Index.open(sys.argv[1], read_only=True) as index: print(index.search('a cold tap', exact=True)[0].id)"
    ),
}


def make_documents(count: int) -> list[dict[str, str]]:
    """Texts of about 150 words, put together from sentences of the handbook."""
    generator = random.Random(0)
    sentences = [
        sentence for path in sorted(HANDBOOK.glob("*.md")) for sentence in path.read_text().split("\n")[2].split(". ")
    ]
    return [{"id": str(i), "text": ". ".join(generator.sample(sentences, 9))} for i in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=5_000)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--db", help="keep the database there, or use the one that is there")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        database = options.db or str(Path(folder, "cold.db"))
        if not Path(database).exists():
            with Index.open(database) as index:
                index.add(make_documents(options.documents))
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in PROGRAMS}
        for _ in range(options.runs + 1):
            for name, program in PROGRAMS.items():  # in turn, so that a slow minute hits all of them
                rows[name].append(run_process(program, database))
    seconds = {name: statistics.median(row["seconds"] for row in values[1:]) for name, values in rows.items()}
    report = {
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "peak_mb": {name: max(row["peak_mib"] for row in values) for name, values in rows.items()},
        "ratios": {name: round(value / seconds["bare"], 2) for name, value in seconds.items()},
    }
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(f"{'':14}{'median s':>10}{'x bare':>8}{'peak MB':>9}")
    for name in PROGRAMS:
        print(f"{name:14}{report['seconds'][name]:>10.3f}{report['ratios'][name]:>8.2f}{report['peak_mb'][name]:>9}")


if __name__ == "__main__":
    main()
