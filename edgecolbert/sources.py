"""Where the command line finds documents: folders of files, JSON Lines, single files, standard input."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from edgecolbert import limits
from edgecolbert.documents import read_record
from edgecolbert.errors import InputError
from edgecolbert.open_files import read_plainly
from edgecolbert.readers.files import FileReader, Known
from edgecolbert.readers.formats import JSON_LINES, PLAIN, format_of
from edgecolbert.readers.isolation import ReaderProcess
from edgecolbert.readers.plain import decode
from edgecolbert.readers.reading import Reading as Reading  # noqa: PLC0414 - it is part of what this module gives
from edgecolbert.readers.walk import FoundFile, Rules, Walk
from edgecolbert.untrusted import read_json, shown

Record = dict[str, Any]

_TOO_LONG = "it has more than {} bytes; cut it into several documents, or raise the limit (--max-record-mb)"
_RECORD_KEYS = ("id", "_id", "title", "text", "metadata")


@dataclass(frozen=True)
class Source:
    """One PATH of the command line.

    Attributes:
        path: The path, or None for standard input.
        root: What its documents are marked with, so that vanished ones can be removed; None for standard input.
        rules: Which files of a folder are read.
    """

    path: Path | None
    root: str | None
    rules: Rules = field(default_factory=Rules)

    def read(self, reading: Reading, *, known: Known | None = None) -> Iterator[Record]:
        """Read the documents one after the other.

        Args:
            reading: Takes notes of what was skipped.
            known: Finds the document that is stored under an id, so that unchanged files need not be read; None to read
                every file.

        Yields:
            Records with text and metadata, and an id but for texts from standard input.
        """
        if self.path is None:
            yield from _read_standard_input(sys.stdin.buffer, reading)
        else:
            yield from self.read_files(self.files(reading), reading, known=known)

    def files(self, reading: Reading, start: str = "") -> Iterator[FoundFile]:
        """Find the files.

        Args:
            reading: Takes notes of what cannot be looked into, and of what is passed over.
            start: In a folder, only this file or folder, by its path relative to the folder.

        Yields:
            Files in a stable order; none for standard input.
        """
        if self.path is None:
            return
        if self.path.is_dir():
            yield from Walk(str(self.path), self.rules, reading).files(start)
        else:
            # What is named is read, whatever it is called.
            found = format_of(self.path.name)
            chosen = PLAIN if found is None or found.sniffed else found
            yield FoundFile(str(self.path), self.path.name, chosen)

    def read_files(
        self, files: Iterable[FoundFile], reading: Reading, *, known: Known | None = None
    ) -> Iterator[Record]:
        """Read some of the files.

        Args:
            files: Of `files`.
            reading: As in `read`.
            known: As in `read`.

        Yields:
            As `read`.
        """
        with ReaderProcess() as process:
            reader = FileReader(self.root, reading, process, known)
            for file in files:
                if file.format.name == JSON_LINES:
                    yield from self._records(file, reading)
                else:
                    yield from reader.records(file)

    def _records(self, file: FoundFile, reading: Reading) -> Iterator[Record]:
        """The records of a JSON Lines file; in a folder, one that holds something else is no reason to stop."""
        path = Path(file.path)
        try:
            # Not `path.open`: it may be a database that this process has open.
            with read_plainly(path) as plain, BufferedReader(plain) as opened:
                lines = _json_lines(opened, str(path))
                while (record := self._next(lines, path, reading)) is not None:
                    if "id" in record:
                        reading.claim(record["id"], path)
                    yield record
        except OSError as error:
            reading.skipped(path, error.strerror or error)
            reading.blind = True

    def _next(self, lines: Iterator[Record], path: Path, reading: Reading) -> Record | None:
        try:
            return next(lines, None)
        except InputError as error:
            if self.path == path:
                raise
            reading.skipped(path, error)
            reading.blind = True
            return None


def open_sources(paths: list[str], rules: Rules | None = None) -> list[Source]:
    """Check the paths before anything is read.

    Args:
        paths: What the command line says.
        rules: Which files of folders are read; by default none that are hidden or ignored.

    Returns:
        A source for each, in order.

    Raises:
        InputError: If a path does not exist, or two paths would give documents the same ids.
    """
    sources = []
    for name in paths:
        if name == "-":
            sources.append(Source(None, None))
            continue
        path = Path(name)
        if not path.exists():
            raise InputError(f"{name} does not exist. Check the path.")
        sources.append(Source(path, str(path.resolve()), rules or Rules()))
    _check_ids(sources)
    return sources


def _check_ids(sources: list[Source]) -> None:
    """A file's id is its path relative to PATH, so two PATHs can collide; one file would then hide the other."""
    if len(sources) < 2:
        return
    seen: dict[str, str] = {}
    for source in sources:
        for file in source.files(Reading()):
            if file.format.name == JSON_LINES:
                continue
            other = seen.setdefault(file.identifier, file.path)
            if os.path.realpath(other) != os.path.realpath(file.path):
                raise InputError(
                    f"{other} and {file.path} would both have the id {file.identifier!r}, and one would replace the "
                    "other. Index their common parent folder instead, or use two databases."
                )


def _read_standard_input(file: BinaryIO, reading: Reading) -> Iterator[Record]:
    """JSON Lines if the first character is a brace, otherwise one text.

    Not whether the first line can be read: records with a broken first line must not pass for a text.
    """
    read = bytearray()
    while True:
        line = file.readline(limits.RECORD_BYTES + 1)
        read += line
        if not line:
            return
        if line.strip() or len(read) > limits.RECORD_BYTES:
            break
    head = bytes(read)
    if line.lstrip().startswith(b"{"):
        yield from _json_lines(file, "standard input", head)
        return
    rest = file.read(max(1, limits.RECORD_BYTES + 1 - len(head)))
    if len(head) + len(rest) > limits.RECORD_BYTES:
        raise InputError(f"standard input: {_TOO_LONG.format(limits.RECORD_BYTES)}")
    yield {"text": _decoded(head + rest, "standard input", reading)}


def _lines(file: BinaryIO, name: str, head: bytes) -> Iterator[bytes]:
    """Lines of bounded length: a file without a line break must not be read as a whole to find that out."""
    number = 0
    for part in (io.BytesIO(head), file):
        while line := part.readline(limits.RECORD_BYTES + 1):
            number += 1
            if len(line) > limits.RECORD_BYTES:
                raise InputError(f"{name}, line {number}: {_TOO_LONG.format(limits.RECORD_BYTES)}")
            yield line


def _json_lines(file: BinaryIO, name: str, head: bytes = b"") -> Iterator[Record]:
    for number, line in enumerate(_lines(file, name, head), start=1):
        if not line.strip():
            continue
        try:
            data = read_json(line)
        except ValueError as error:
            raise InputError(
                f"{name}, line {number} is not JSON: {error}. Correct the line; lines before it are stored, and the "
                "same command continues."
            ) from None
        record = _record(data, f"{name}, line {number}")
        # Once more by `add`, which cannot name the line.
        read_record(record, f"{name}, line {number}")
        yield record


def _record(data: object, where: str) -> Record:
    if not isinstance(data, dict):
        raise InputError(f"{where} is {type(data).__name__}, expected an object with text and optionally id.")
    if not isinstance(data.get("text"), str):
        raise InputError(f"{where} has no text, or a text that is not a string.")
    metadata = data.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise InputError(f"{where}: metadata is {type(metadata).__name__}, expected an object.")
    # BEIR's corpus files write _id, and put a title beside the text.
    identifier, title = data.get("id", data.get("_id")), data.get("title")
    text = f"{title} {data['text']}" if isinstance(title, str) and title else data["text"]
    others = {key: value for key, value in data.items() if key not in _RECORD_KEYS}
    record: Record = {"text": text, "metadata": others | metadata}
    if isinstance(title, str) and title:
        record["metadata"] = {"title": title} | record["metadata"]
    if identifier is not None:
        if not isinstance(identifier, str):
            raise InputError(f"{where}: id is {shown(identifier)}, expected a string.")
        record["id"] = identifier
    return record


def _decoded(content: bytes, name: str, reading: Reading) -> str:
    text, note = decode(content)
    if note is not None:
        reading.messages.append(f"{name}: {note}")
    return text
