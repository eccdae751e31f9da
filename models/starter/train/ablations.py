"""What each part of the recipe brings: short runs that differ in one setting, side by side in a table.

    python ablations.py --pairs DIR_OR_FILES --work FOLDER [--only NAME...] [--set NAME=VALUE...]

Every run is one of `train.py --preset cpu`, with the same seed and the same number of steps, far fewer than a model
needs. A run that is finished is not made again, one that was stopped goes on. Scores are nDCG@10 on the held-out pairs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

SHORT = ["shards=12", "steps=600", "warmup=50", "cooldown=0.5", "rank_from=150", "evaluate_every=600"]

# Name, settings, and whether the texts differ, so that the teacher has to encode them anew.
VARIANTS: dict[str, tuple[list[str], bool]] = {
    "everything": ([], False),
    "no score-level loss": (["rank_weight=0.0"], False),
    "pairs in the score-level loss": (["contrastive=0.3"], False),
    "projection not turned": (["projection_steps=0"], False),
    "tables start at random": (["teacher_tables=false"], False),
    "queries count once": (["query_weight=1.0"], False),
    "text vector counts once": (["text_weight=1.0"], False),
    "AdamW for everything": (["optimiser=adamw"], False),
    "no queries of rare words": (["rare_words=0.0"], True),
    "4 layers, table of 96": (["shape.layers=4", "shape.embedding=96", "shape.intermediate=768"], False),
    "2 layers, table of 112": (["shape.layers=2"], False),
}


def last_scores(log: Path) -> dict[str, float]:
    """The last evaluation that a run wrote, by kind of query; nothing where it has none."""
    if not log.exists():
        return {}
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    scored = [record for record in records if "held-out mean" in record]
    return scored[-1] if scored else {}


def main() -> None:
    """Makes the runs that are missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", nargs="+", required=True, help="folders or .jsonl(.gz) files: query, document")
    parser.add_argument("--work", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of all runs")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--teacher", help="as in train.py")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    shared = arguments.work / "targets"
    shared.mkdir(parents=True, exist_ok=True)
    rows = {}
    for name in arguments.only:
        settings, own_texts = VARIANTS[name]
        work = arguments.work / name.replace(" ", "-").replace(",", "")
        work.mkdir(exist_ok=True)
        if not own_texts and not (work / "targets").exists():
            (work / "targets").symlink_to(shared.resolve(), target_is_directory=True)
        # Turning the projection takes as long as a third of a run, and all but one variant have the same.
        made = arguments.work / "everything" / "projection.pt"
        if made.exists() and not (work / "projection.pt").exists() and "projection_steps=0" not in settings:
            shutil.copy(made, work / "projection.pt")
        if not (work / "checkpoint").exists():
            command = [sys.executable, str(Path(__file__).with_name("train.py")), "--preset", arguments.preset]
            command += ["--pairs", *arguments.pairs, "--out", str(work / "checkpoint"), "--work", str(work)]
            command += ["--threads", str(arguments.threads)]
            command += ["--teacher", arguments.teacher] if arguments.teacher else []
            subprocess.run([*command, "--set", *SHORT, *arguments.set, *settings], check=True)  # noqa: S603 - our own
        rows[name] = last_scores(work / "log.jsonl")
    kinds = [key for key in next(iter(rows.values())) if key.startswith("held-out ")]
    kinds.sort(key=lambda key: key != "held-out mean")
    print("| | " + " | ".join(kind.removeprefix("held-out ") for kind in kinds) + " |")
    print("|---" * (len(kinds) + 1) + "|")
    for name, scores in rows.items():
        print(f"| {name} | " + " | ".join(f"{scores[kind]:.4f}" for kind in kinds) + " |")


if __name__ == "__main__":
    main()
