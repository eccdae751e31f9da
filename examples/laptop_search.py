"""Search your own notes on a laptop without a network: a folder, one file beside it, words and meaning together.

    python examples/laptop_search.py ~/notes "how long does the bread rise?"
    python examples/laptop_search.py ~/notes "insurance" --within house --mode lexical
    python examples/laptop_search.py                  the handbook, with a few questions

The first run reads all `.md` and `.txt` files; later runs only what changed, and forget what is gone. The database is
the file `.edgecolbert.db` in the folder, or where --db says.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from edgecolbert import Index, field

HANDBOOK = Path(__file__).parent / "handbook"
QUESTIONS = ["water keeps dripping at night", "my loaf is heavy", '"stop valve"']
SUFFIXES = {".md", ".txt"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Search a folder of notes, offline.")
    parser.add_argument("folder", nargs="?", type=Path, default=HANDBOOK)
    parser.add_argument("question", nargs="?", help="what to search for")
    parser.add_argument("--within", help="only notes of this folder inside the folder")
    parser.add_argument("--mode", choices=("late", "lexical", "hybrid"), default="hybrid")
    parser.add_argument("-k", type=int, default=3)
    parser.add_argument("--db", type=Path, help="the database (.edgecolbert.db in the folder)")
    options = parser.parse_args(arguments)
    # Nothing is written beside the handbook, which may be read-only.
    database = options.db or (":memory:" if options.folder == HANDBOOK else options.folder / ".edgecolbert.db")

    with Index.open(database) as index:
        source = str(options.folder.resolve())
        passed_over: list[Path] = []
        report = index.add_from(source, list(notes(options.folder, passed_over)))
        # What could not be read is not known to be gone.
        gone = 0 if passed_over else index.prune(source, report.ids)
        print(f"{report.added} new, {report.updated} changed, {report.unchanged} as before, {gone} gone")
        chosen = field("folder") == options.within if options.within else None
        for question in [options.question] if options.question else QUESTIONS:
            print(f"\n{question}")
            for hit in index.search(question, k=options.k, mode=options.mode, filter=chosen):
                snippet = hit.snippet(160)
                shown = snippet.ansi() if sys.stdout.isatty() else snippet.marked()
                print(f"  {hit.id}: {' '.join(shown.split())}")
    return 0


def notes(folder: Path, passed_over: list[Path]) -> Iterator[dict[str, object]]:
    """All notes below a folder; what cannot be read is named, and put on the list."""
    for parent, folders, files in os.walk(folder, onerror=lambda error: passed_over.append(Path(error.filename))):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in sorted(Path(parent, name) for name in files if not name.startswith(".")):
            if path.suffix.lower() not in SUFFIXES:
                continue
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                print(f"passed over {path}: {error}", file=sys.stderr)
                passed_over.append(path)
                continue
            relative = path.relative_to(folder)
            # The title's own line would be lost among the others; as metadata it can be shown and filtered.
            metadata = {"folder": relative.parent.as_posix(), "title": text.lstrip("# \n").partition("\n")[0]}
            yield {"id": relative.as_posix(), "text": text, "metadata": metadata}


if __name__ == "__main__":
    sys.exit(main())
