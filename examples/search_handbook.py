"""Index a folder of notes, search it, change a note, search again. Runs offline with the model inside the package."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgecolbert import Index

HANDBOOK = Path(__file__).parent / "handbook"


def main() -> None:
    notes = [
        {
            "id": path.stem,
            "text": path.read_text(encoding="utf-8"),
            "metadata": {"words": len(path.read_text(encoding="utf-8").split())},
        }
        for path in sorted(HANDBOOK.glob("*.md"))
    ]
    with tempfile.TemporaryDirectory() as folder, Index.open(Path(folder, "notes.db")) as index:
        report = index.add(notes)
        print(f"{report.added} notes added")

        for hit in index.search("my bread is heavy and did not rise", k=3):
            print(f"{hit.score:6.2f}  {hit.id}: {hit.passage.text[:60]!r}")

        # Adding again encodes only what changed.
        notes[0]["text"] += "\nAsk a neighbour for help with the ladder."
        report = index.add(notes)
        print(f"{report.updated} updated, {report.unchanged} unchanged, {report.encoded} encoded")

        index.delete(["choking"])
        print(f"{len(index)} notes left; verify finds {len(index.verify().problems)} problems")


if __name__ == "__main__":
    main()
