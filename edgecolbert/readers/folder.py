"""`read_folder`: the files of a folder as documents, with what was skipped and why."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecolbert.errors import InputError, InputTypeError
from edgecolbert.readers.reading import Reading, SkippedFile
from edgecolbert.readers.update import out_of_sight, stored_documents, told_apart
from edgecolbert.readers.walk import Rules

if TYPE_CHECKING:
    from edgecolbert.index import Index


class Folder:
    """The files of a folder as an iterable of records, each with `id`, `text` and `metadata`. See `read_folder`.

    Reading begins when it is iterated, and begins anew each time.
    """

    def __init__(self, path: Path, index: Index | None, rules: Rules) -> None:
        from edgecolbert.sources import Source  # which imports this package

        self._source = Source(path, str(path.resolve()), rules)
        self._index = index
        self._reading = Reading()
        self._read_ids: list[str] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Read the files, one after the other."""
        reading = self._reading = Reading()
        ids = self._read_ids = []
        known = None if self._index is None else stored_documents(self._index)
        records = self._source.read(reading, known=known)
        for record in records if self._index is None else told_apart(self._index, records):
            # As `Index.add` names a text that has no id.
            ids.append(record.get("id") or hashlib.sha256(record["text"].encode("utf-8")).hexdigest())
            yield record

    @property
    def root(self) -> str:
        """The folder's full path, which `Index.add_from` is to mark its documents with."""
        return str(self._source.root)

    @property
    def skipped(self) -> list[SkippedFile]:
        """The files and folders that could not be read so far, each with the reason."""
        return list(self._reading.skipped_files)

    @property
    def messages(self) -> list[str]:
        """One line for each file that was skipped, or read with losses, so far."""
        return list(self._reading.messages)

    @property
    def passed_over(self) -> dict[str, int]:
        """How many files were not read on purpose: hidden, ignored, empty, or of a suffix that no reader knows."""
        return dict(self._reading.passed_over)

    @property
    def unchanged(self) -> list[str]:
        """Ids of the documents of `index` whose files have not changed."""
        return list(self._reading.unchanged)

    def present(self) -> list[str]:
        """Ids for `Index.prune` to keep, after all was read: of what is there, unchanged, or could not be read.

        Returns:
            The ids.

        Raises:
            InputError: If a folder, mailbox or file of records could not be read, and there is no index to tell which
                documents it had.
        """
        reading = self._reading
        if self._index is not None:
            kept = out_of_sight(self._index, reading)
        elif reading.unseen or reading.blind:
            raise InputError(
                f"{self.root} could not be read as a whole, and only an index can tell what is in the rest: "
                f"{reading.messages}. Pass index= to read_folder."
            )
        else:
            kept = reading.kept
        return [*self._read_ids, *reading.unchanged, *kept]


def read_folder(
    path: str | os.PathLike[str], *, index: Index | None = None, hidden: bool = False, ignore_files: bool = True
) -> Folder:
    """Read a folder of notes, documents, mail, books, notebooks and source code (docs/folders.md).

    ::

        with Index.open("notes.db") as index:
            folder = read_folder("notes", index=index)
            index.add_from(folder.root, folder)
            index.prune(folder.root, folder.present())
            for file in folder.skipped:
                print(file.path, file.reason)

    Args:
        path: A folder, or one file.
        index: Where the documents are stored; files that have not changed since are then not read again.
        hidden: Read files and folders whose names begin with a dot, too.
        ignore_files: Pass over what .gitignore and .edgecolbertignore name.

    Returns:
        An iterable of records, which knows what was skipped.

    Raises:
        InputError: If there is no such folder or file.
        InputTypeError: If the path is neither a string nor a path.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputTypeError(f"path is {type(path).__name__}, expected a string or a path.")
    place = Path(os.fsdecode(path))
    if "\0" in str(place) or not place.exists():
        raise InputError(f"{str(place)!r} does not exist. Check the path.")
    return Folder(place, index, Rules(hidden=hidden, ignore_files=ignore_files))
