"""Freeze an application with PyInstaller into one folder that needs no Python, and say how large it is and why.

    pip install 'edgecolbert[frozen]'
    python examples/frozen/build.py                    makes dist/notes and tries it
    python examples/frozen/build.py --compare          and measures its start beside this environment's
    python examples/frozen/build.py --app my_app.py --name my-app

Run `dist/notes/notes index FOLDER --db notes.db`, on any machine with the same system and processor and a C library
that is as new. The hook that finds the model and the compiled packages comes with edgecolbert (docs/deploying.md).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
HANDBOOK = HERE.parent / "handbook"
QUERY = "water keeps dripping at night"

# Take out of this list what your application uses. huggingface_hub is a requirement of tokenizers, and only fetches
# models from the hub.
LEFT_OUT = ["huggingface_hub"]
# The extras readers, serve and mcp; the other doors.
LEFT_OUT += ["charset_normalizer", "docx", "lxml", "pathspec", "pypdfium2", "pypdfium2_raw", "watchfiles"]
LEFT_OUT += ["starlette", "uvicorn", "mcp", "pydantic"]
LEFT_OUT += ["datasette", "haystack", "langchain_core", "llama_index", "llm"]
# What comes along from an environment of developers, mostly through tqdm.
LEFT_OUT += ["hypothesis", "IPython", "ipywidgets", "matplotlib", "mypy", "pandas", "PIL", "pytest", "scipy"]
LEFT_OUT += ["sklearn", "sphinx", "tkinter", "torch"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Freeze an application that uses edgecolbert.")
    parser.add_argument("--app", type=Path, default=HERE / "app.py", help="the program to freeze")
    parser.add_argument("--name", default="notes", help="what it is to be called")
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder for the folder (dist)")
    parser.add_argument(
        "--compare", type=int, nargs="?", const=9, metavar="ROUNDS", help="measure starts, frozen and not (9 rounds)"
    )
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args(arguments)

    folder = build(options.app.resolve(), options.name, options.out.resolve())
    before, after = strip(folder)
    report: dict[str, object] = {"bytes": after, "bytes_with_debug_symbols": before, "largest": largest(folder)}
    print(f"{folder}: {after / 1e6:.0f} MB, {before / 1e6:.0f} MB before debug symbols were removed")
    for name, size in largest(folder).items():
        print(f"  {size / 1e6:6.1f} MB  {name}")
    if options.compare:
        report["start"] = compare(folder / options.name, options.compare)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def build(app: Path, name: str, out: Path) -> Path:
    """Run PyInstaller; its own files go into a folder that is removed again."""
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "PyInstaller", str(app), "--name", name, "--onedir", "--noconfirm"]
        command += ["--distpath", str(out), "--workpath", work, "--specpath", work, "--log-level", "WARN"]
        for module in LEFT_OUT:
            command += ["--exclude-module", module]
        subprocess.run(command, check=True)
    return out / name


def strip(folder: Path) -> tuple[int, int]:
    """Remove debug symbols from compiled modules on Linux; bytes before and after.

    Half of the folder would be such symbols. PyInstaller's own --strip breaks the libraries in `*.libs` folders, which
    were changed after they were linked ("ELF load command address/offset not page-aligned").
    """
    before = size_of(folder)
    program = shutil.which("strip")
    if sys.platform == "linux" and program:
        for path in folder.rglob("*.so*"):
            if path.is_file() and not path.is_symlink() and not path.parent.name.endswith(".libs"):
                subprocess.run([program, "--strip-unneeded", str(path)], check=True)
    return before, size_of(folder)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    paths = [path] if path.is_file() else path.rglob("*")
    return sum(entry.stat().st_size for entry in paths if entry.is_file() and not entry.is_symlink())


def largest(folder: Path, k: int = 12) -> dict[str, int]:
    """The largest packages and libraries, in bytes."""
    parts = [*folder.glob("*"), *folder.glob("_internal/*")]
    sizes = {part.relative_to(folder).as_posix(): size_of(part) for part in parts if part.name != "_internal"}
    return dict(sorted(sizes.items(), key=lambda item: -item[1])[:k])


def compare(program: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of whole processes, frozen and in this environment, taking turns: the least of each, passed and computed.

    On a busy machine only the seconds of computing say something; Windows does not tell them.
    """
    programs = {"frozen": [str(program)], "environment": [sys.executable, "-m", "edgecolbert"]}
    # What a shell adds to the environment is not the frozen application's to need.
    nothing = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}
    environments = {"frozen": nothing, "environment": dict(os.environ)}
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        database = str(Path(folder, "notes.db"))

        def seconds(name: str, *arguments: str) -> tuple[float, float]:
            begin, before = time.perf_counter(), os.times()
            subprocess.run(
                [*programs[name], *arguments],
                check=True, cwd=folder, env=environments[name], stdout=subprocess.DEVNULL,
            )  # fmt: skip
            after = os.times()
            computed = sum(after[2:4]) - sum(before[2:4])
            return time.perf_counter() - begin, computed

        seconds("frozen", "index", str(HANDBOOK), "--db", database)
        for what, arguments in {"--version": ["--version"], "a search": ["search", QUERY, "--db", database]}.items():
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
            for _ in range(rounds):
                for name in programs:
                    times[name].append(seconds(name, *arguments))
            found[what] = {}
            for place, kind in enumerate(("passed", "computed")):
                least = {name: min(both[place] for both in values) for name, values in times.items()}
                found[what] |= {f"{name}, {kind}": round(value, 3) for name, value in least.items()}
                if least["environment"]:
                    found[what][f"ratio, {kind}"] = round(least["frozen"] / least["environment"], 2)
            print(f"{what}: {found[what]}")
    return found


if __name__ == "__main__":
    sys.exit(main())
