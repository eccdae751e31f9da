"""Notes on two devices: what was changed, renamed and deleted on either goes to the other, and each index follows.

    python examples/note_sync.py                      shows it with two folders made for it
    python examples/note_sync.py LAPTOP PHONE         two real folders, such as one on a stick

Each device keeps its notes, an index of its own, and nothing else; what both had after the last exchange is remembered
beside the first folder's index. An index follows by content: a note that only got another name is not encoded again.
Where both devices changed one note, both versions are kept, one under a name that says so. Nothing is ever overwritten
that was not seen before, and a deleted note goes to the folder `.trash` of its device.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from edgecolbert import Index

HANDBOOK = Path(__file__).parent / "handbook"
HIDDEN = ".edgecolbert"


@dataclass
class Device:
    """A folder of notes and its index.

    Attributes:
        name: What conflicts are named after.
        folder: Its notes, .md files.
    """

    name: str
    folder: Path
    index: Index = field(init=False)

    def __post_init__(self) -> None:
        (self.folder / HIDDEN).mkdir(exist_ok=True)
        self.index = Index.open(self.folder / HIDDEN / "notes.db")

    def notes(self) -> dict[str, str]:
        """Relative path and SHA-256 of each note."""
        return {
            path.relative_to(self.folder).as_posix(): str(digest(path))
            for path in sorted(self.folder.rglob("*.md"))
            if not any(part.startswith(".") for part in path.relative_to(self.folder).parts)
        }

    def take(self, name: str, other: Device, seen: str | None, source_name: str | None = None) -> None:
        """Copy a note of another device, whole or not at all, over the content that was seen here or over nothing."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes((other.folder / (source_name or name)).read_bytes())
        if digest(path) != seen:
            partial.unlink()
            raise RuntimeError(f"{path} was changed during the exchange, and is left as it is. Run it again.")
        os.replace(partial, path)

    def discard(self, name: str) -> None:
        """Move a note to the trash, under a name that is free there."""
        trash = self.folder / ".trash" / name
        trash.parent.mkdir(parents=True, exist_ok=True)
        number = 0
        while trash.exists():
            number += 1
            trash = trash.with_name(f"{Path(name).stem}.{number}{Path(name).suffix}")
        os.replace(self.folder / name, trash)

    def follow(self) -> str:
        """Bring the index up to date with the folder, and say what that took."""
        names = sorted(self.notes())
        # New names first, then what is gone: vectors of a renamed note are still there to be used again.
        records = [{"id": name, "text": (self.folder / name).read_text(encoding="utf-8")} for name in names]
        report = self.index.add_from("notes", records)
        gone = self.index.prune("notes", report.ids)
        return (
            f"{self.name}: {report.added} new names, {report.updated} changed, {gone} names gone, "
            f"{report.encoded} texts encoded"
        )

    def best(self, query: str) -> str:
        """The note that matches a query best."""
        hits = self.index.search(query, k=1)
        return hits[0].id if hits else "nothing"


def digest(path: Path) -> str | None:
    """SHA-256 of a file in hexadecimal digits, or None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def exchange(one: Device, two: Device) -> list[str]:
    """Bring two devices together.

    Args:
        one: Where it is remembered what both had last time.
        two: The other one.

    Returns:
        One line for everything that was done.
    """
    memory = one.folder / HIDDEN / "last-exchange.json"
    last: dict[str, str] = json.loads(memory.read_text(encoding="utf-8")) if memory.exists() else {}
    said: list[str] = []
    for here, there in ((one, two), (two, one)):
        said += renames(here, there, last)
    mine, others = one.notes(), two.notes()
    for name in sorted(mine.keys() | others.keys() | last.keys()):
        a, b, before = mine.get(name), others.get(name), last.get(name)
        if a == b:
            continue
        if before in (a, b):
            # Changed, made or deleted on one device only.
            source, target = (two, one) if a == before else (one, two)
            if (b if source is two else a) is None:
                target.discard(name)
                said.append(f"deleted on {source.name}: {name}")
            else:
                target.take(name, source, before)
                said.append(f"from {source.name} to {target.name}: {name}")
        elif a is None or b is None:
            # Deleted here, changed there: the change is worth more.
            source, target = (two, one) if a is None else (one, two)
            target.take(name, source, None)
            said.append(f"changed on {source.name} after {target.name} deleted it, kept: {name}")
        else:
            copy = f"{name.removesuffix('.md')} (conflict, {two.name}, {b[:8]}).md"
            for device in (one, two):
                device.take(copy, two, digest(device.folder / copy), source_name=name)
            two.take(name, one, b)
            said.append(f"changed on both, both kept: {name} and {copy}")
    together = one.notes()
    if together != two.notes():
        raise RuntimeError("A note was changed during the exchange. Nothing is lost; run it again.")
    partial = memory.with_suffix(".partial")
    partial.write_text(json.dumps(together, indent=1), encoding="utf-8")
    os.replace(partial, memory)
    return said


def renames(here: Device, there: Device, last: dict[str, str]) -> list[str]:
    """Do on one device what was renamed on the other: the same content under another name, and the old name gone."""
    said = []
    mine, others = here.notes(), there.notes()
    new = {content: name for name, content in mine.items() if name not in last}
    for old, content in sorted(last.items()):
        name = new.get(content)
        # Only where the other device still has what was renamed, and nothing of the new name.
        if old not in mine and name and others.get(old) == content and name not in others:
            target = there.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(there.folder / old, target)
            del last[old]
            last[name] = content
            del new[content]
            said.append(f"renamed on {here.name}: {old} -> {name}")
    return said


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Keep notes of two devices the same.")
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="two folders")
    options = parser.parse_args(arguments)
    if len(options.folders) not in (0, 2) or not all(folder.is_dir() for folder in options.folders):
        parser.error("expected two folders, or none for a demonstration")
    if options.folders:
        run(Device("laptop", options.folders[0]), Device("phone", options.folders[1]))
    else:
        with tempfile.TemporaryDirectory() as place:
            demonstrate(Path(place))
    return 0


def run(one: Device, two: Device) -> None:
    """One exchange, and what the indexes made of it."""
    with one.index, two.index:
        step(one, two)


def step(one: Device, two: Device) -> None:
    """Exchange, then let both indexes follow."""
    for line in exchange(one, two):
        print(f"  {line}")
    print(f"  {one.follow()}\n  {two.follow()}")


def demonstrate(place: Path) -> None:
    """A laptop with ten notes of the handbook, an empty phone, and a week on both."""
    (place / "laptop").mkdir()
    (place / "phone").mkdir()
    laptop, phone = Device("laptop", place / "laptop"), Device("phone", place / "phone")
    for path in sorted(HANDBOOK.glob("*.md"))[:10]:
        (laptop.folder / path.name).write_bytes(path.read_bytes())
    with laptop.index, phone.index:
        print("first exchange")
        step(laptop, phone)

        print("renamed on the laptop, written and deleted on the phone")
        (laptop.folder / "kitchen").mkdir()
        (laptop.folder / "bread-dense.md").rename(laptop.folder / "kitchen" / "heavy loaf.md")
        (phone.folder / "bicycle-chain.md").unlink()
        (phone.folder / "keys.md").write_text("The spare key hangs in the shed behind the rake.\n", encoding="utf-8")
        step(laptop, phone)
        print(f"  the laptop finds: {laptop.best('where is the spare key?')}")
        print(f"  the phone finds: {phone.best('my bread did not rise')}")

        print("one note changed on both")
        with (laptop.folder / "keys.md").open("a", encoding="utf-8") as note:
            note.write("The neighbour has another one.\n")
        (phone.folder / "keys.md").write_text("The spare key is in the blue flower pot now.\n", encoding="utf-8")
        step(laptop, phone)
        print(f"  the laptop finds: {laptop.best('key in a flower pot')}")
        print(f"  the phone finds: {phone.best('which neighbour has a key?')}")

        print("nothing changed")
        step(laptop, phone)


if __name__ == "__main__":
    sys.exit(main())
