"""What may be on the disk after a power cut, made from a log of what was written and synchronised.

Contents: everything before a file's last sync is there. Of later writes any part is, in sectors of 512 bytes. Where
they would have made the file longer, what did not arrive may be zeros or rubbish. The folder's entries: all up to the
last time the folder was synchronised, and of later ones the first few, as a file system keeps them in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from shim import Event, Shim

SECTOR = 512
# How much of what was not synchronised survives.
WAYS = ("nothing", "everything", "some writes", "some sectors", "the first", "the last", "rubbish in holes")


class Disk:
    """The state of a disk at one place in a log.

    Args:
        before: Content of the files that were there before, by number, with their names.
        log: What happened.
        cut: How many events had happened when the power went.
    """

    def __init__(self, before: dict[int, tuple[str, bytes]], log: Sequence[Event], cut: int) -> None:
        self.durable = {number: bytearray(content) for number, (_, content) in before.items()}
        self.pending: dict[int, list[Event]] = {}
        self.settled = {name: number for number, (name, _) in before.items()}
        self.entries: list[Event] = []
        self.acknowledged = 0
        for event in log[:cut]:
            self._apply(event)

    @property
    def at_risk(self) -> int:
        """How many writes and changes of the folder were not synchronised."""
        return sum(map(len, self.pending.values())) + len(self.entries)

    def survivors(self, way: str, random: Random) -> dict[str, bytes]:
        """One of the contents that the disk may have.

        Args:
            way: One of `WAYS`.
            random: Chooses.

        Returns:
            Content of each file by name.
        """
        kept = {"nothing": 0, "everything": len(self.entries)}.get(way, random.randint(0, len(self.entries)))
        names = dict(self.settled)
        for event in self.entries[:kept]:
            _enter(names, event)
        return {name: self._content(number, way, random) for name, number in names.items()}

    def _apply(self, event: Event) -> None:
        if event.kind in ("write", "truncate"):
            self.pending.setdefault(event.file, []).append(event)
        elif event.kind == "sync":
            content = self.durable.setdefault(event.file, bytearray())
            for earlier in self.pending.pop(event.file, []):
                _write(content, earlier)
        elif event.kind in ("create", "delete"):
            self.entries.append(event)
        elif event.kind == "settle":
            for earlier in self.entries:
                _enter(self.settled, earlier)
            self.entries = []
        else:
            self.acknowledged = event.place

    def _content(self, number: int, way: str, random: Random) -> bytes:
        content = bytearray(self.durable.get(number, b""))
        pending = self.pending.get(number, [])
        if way == "nothing" or not pending:
            return bytes(content)
        border = random.randint(0, len(pending))
        if way == "rubbish in holes":
            end = max([len(content)] + [event.place + len(event.data) for event in pending if event.kind == "write"])
            content += random.randbytes(end - len(content))
        for place, event in enumerate(pending):
            if way == "the first" and place >= border:
                # The last of them is torn.
                if place == border:
                    _write_sectors(content, event, random, in_order=True)
                break
            if (way == "the last" and place < border) or (way == "some writes" and random.random() < 0.5):
                continue
            if way in ("some sectors", "rubbish in holes"):
                _write_sectors(content, event, random, in_order=False)
            else:
                _write(content, event)
        return bytes(content)


def contents_before(shim: Shim) -> dict[int, tuple[str, bytes]]:
    """Names and contents of the files that a shim finds in its folder; to be read before anything is written."""
    return {number: (path.name, path.read_bytes()) for number, path in shim.before.items()}


def lay_down(contents: dict[str, bytes], folder: Path) -> None:
    """Write the files of an image into an empty folder; what processes shared in memory is gone."""
    for name, content in contents.items():
        if not name.endswith("-shm"):
            (folder / name).write_bytes(content)


def _enter(names: dict[str, int], event: Event) -> None:
    name = event.data.decode()
    if event.kind == "create":
        names[name] = event.file
    else:
        names.pop(name, None)


def _write(content: bytearray, event: Event) -> None:
    if event.kind == "truncate":
        del content[event.place :]
        content.extend(bytes(event.place - len(content)))
        return
    if len(content) < event.place:
        content.extend(bytes(event.place - len(content)))
    content[event.place : event.place + len(event.data)] = event.data


def _write_sectors(content: bytearray, event: Event, random: Random, *, in_order: bool) -> None:
    """Some sectors of a write: each by chance, or the first few."""
    if event.kind == "truncate":
        if random.random() < 0.5:
            _write(content, event)
        return
    end = event.place + len(event.data)
    starts = [event.place, *range((event.place // SECTOR + 1) * SECTOR, end, SECTOR)]
    kept = random.randint(0, len(starts))
    for place, start in enumerate(starts):
        stop = min((start // SECTOR + 1) * SECTOR, end)
        if place < kept if in_order else random.random() < 0.5:
            _write(content, Event("write", place=start, data=event.data[start - event.place : stop - event.place]))
