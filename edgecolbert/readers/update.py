"""Bringing an index up to date with files: in batches of bounded size, with what has vanished taken out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgecolbert.descriptions import described
from edgecolbert.errors import StoreFormatError
from edgecolbert.readers.files import Known
from edgecolbert.readers.reading import Reading

if TYPE_CHECKING:
    from edgecolbert.index import Index


_BATCH_CHARACTERS = 16_000_000


@dataclass
class Totals:
    """What was done, over several batches.

    Attributes:
        added: Documents that are new.
        updated: Documents whose text or metadata changed.
        unchanged: Documents that are as they were.
        encoded: Texts that were encoded.
        removed: Documents that are gone.
        ids: Of every document that is there.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    encoded: int = 0
    removed: int = 0
    ids: list[str] = field(default_factory=list)

    def take_over(self, other: Totals) -> None:
        """Add what was done elsewhere.

        Args:
            other: What was done with another source.
        """
        for name, count in other.counts().items():
            setattr(self, name, getattr(self, name) + count)
        self.ids += other.ids

    def counts(self) -> dict[str, int]:
        """The numbers by name."""
        names = ("added", "updated", "unchanged", "encoded", "removed")
        return {name: getattr(self, name) for name in names}

    @property
    def changed(self) -> bool:
        """Whether the index is another than before."""
        return bool(self.added or self.updated or self.removed)


def stored_documents(index: Index) -> Known:
    """A function that finds a document that is stored already.

    Args:
        index: Where.

    Returns:
        It gives None for one that is not there, or is damaged and has to be made again.
    """

    def known(identifier: str) -> Any:
        try:
            return index.get(identifier)
        except StoreFormatError:
            return None

    return known


def told_apart(index: Index, records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Records with their kind and title, where the passages of an index depend on them.

    Elsewhere they stay unsaid, so that one text of two files is encoded once.

    Args:
        index: Where they are going.
        records: The records.

    Yields:
        A record for each.
    """
    settings = index.passage_settings
    yield from map(described, records) if settings.structure or settings.context else records


def add_all(
    index: Index,
    root: str | None,
    records: Iterable[dict[str, Any]],
    reading: Reading,
    *,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> Totals:
    """Add records, a batch at a time. A batch is stored, and shown, before the next is read.

    Args:
        index: Where to.
        root: What documents are marked with.
        records: The records.
        reading: Where those that are unchanged are noted meanwhile.
        batch_size: Most documents of a batch.
        progress: Told how many documents were dealt with.

    Returns:
        What was done.
    """
    totals = Totals()
    for batch in _batches(told_apart(index, records), batch_size):
        done = len(totals.ids)

        def tell(step: int, _: int | None, before: int = done) -> None:
            if progress is not None:
                progress(before + step + len(reading.unchanged) + len(reading.skipped_files))

        report = index.add_from(root, batch, progress=tell)
        totals.ids += report.ids
        for name in ("added", "updated", "unchanged", "encoded"):
            setattr(totals, name, getattr(totals, name) + getattr(report, name))
    totals.unchanged += len(reading.unchanged)
    totals.ids += reading.unchanged
    return totals


def prune(index: Index, root: str, present: list[str], reading: Reading) -> int:
    """Remove the documents whose files have vanished, unless they may only be out of sight.

    Args:
        index: Where.
        root: What the documents are marked with.
        present: Ids of the documents that are there.
        reading: What was noticed when they were read; told why nothing is removed.

    Returns:
        How many were removed.
    """
    if not present:
        reading.messages.append(f"nothing pruned from {root}: no document was found there at all; is it mounted?")
        return 0
    return index.prune(root, [*present, *out_of_sight(index, reading)])


def out_of_sight(index: Index, reading: Reading) -> list[str]:
    """Ids of documents that were not read, and are not known to be gone.

    Args:
        index: Where they are stored.
        reading: What was noticed when the files were read.

    Returns:
        Their ids, those of other places among them.
    """
    kept = list(reading.kept)
    if reading.unseen:
        kept += filter(reading.is_present, index.ids())
    if reading.blind:
        known = stored_documents(index)
        # Records of JSON Lines have no file of their own; so have documents that are damaged, or older than this.
        kept += [
            identifier
            for identifier in index.ids()
            if (document := known(identifier)) is None or "file" not in document["metadata"]
        ]
    return kept


def _batches(records: Iterable[dict[str, Any]], most: int) -> Iterator[list[dict[str, Any]]]:
    """Batches that are bounded in number and in size, so that a folder of long texts needs no more memory."""
    batch: list[dict[str, Any]] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record["text"])
        # Not when the next has come: the last of a batch is stored before something that cannot be read is met.
        if len(batch) == most or size > _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
