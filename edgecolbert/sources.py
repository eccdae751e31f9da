"""Where the command line finds documents: folders of text and Markdown, JSON Lines, single files, standard input."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from edgecolbert import limits
from edgecolbert.descriptions import described, plain
from edgecolbert.documents import read_record
from edgecolbert.errors import InputError
from edgecolbert.open_files import read_plainly
from edgecolbert.untrusted import read_json, shown

Record = dict[str, Any]

_TEXT_SUFFIXES = {".txt", ".text", ".md", ".markdown", ".rst"}
_JSON_LINES_SUFFIXES = {".jsonl", ".ndjson"}
_TOO_LONG = "it has more than {} bytes; cut it into several documents, or raise the limit (--max-record-mb)"
_RECORD_KEYS = ("id", "_id", "title", "text", "metadata")


@dataclass
class Reading:
    """What was noticed while reading.

    Attributes:
        messages: One line for each file that was skipped or read with losses.
        incomplete: Whether something could not be read, so that absence proves nothing.
    """

    messages: list[str] = field(default_factory=list)
    incomplete: bool = False
    _files: dict[str, Path] = field(default_factory=dict)

    def claim(self, identifier: str, path: Path) -> None:
        """Note which file a document's id is from. Within one JSON Lines file the last line with an id holds.

        Args:
            identifier: The id.
            path: The file.

        Raises:
            InputError: If another file has a document with that id, which would replace the first.
        """
        other = self._files.setdefault(identifier, path)
        if other != path:
            raise InputError(
                f"{other} and {path} both have a document with the id {identifier!r}, and one would replace the other. "
                "Make the ids different, or use two databases."
            )

    def skipped(self, path: Path, why: object) -> None:
        """Note a file or folder that could not be read."""
        self.messages.append(f"skipped {path}: {why}")
        self.incomplete = True


@dataclass(frozen=True)
class Source:
    """One PATH of the command line.

    Attributes:
        path: The path, or None for standard input.
        root: What its documents are marked with, so that vanished ones can be removed; None for standard input.
    """

    path: Path | None
    root: str | None

    def read(self, reading: Reading, *, describe: bool = False) -> Iterator[Record]:
        """Read the documents one after the other.

        Args:
            reading: Takes notes of what was skipped.
            describe: Say of each document which kind and title it has, for an index whose passages depend on it.

        Yields:
            Records with text and metadata, and an id but for texts from standard input.
        """
        yield from map(described if describe else plain, self._read(reading))

    def _read(self, reading: Reading) -> Iterator[Record]:
        if self.path is None:
            yield from _read_standard_input(sys.stdin.buffer, reading)
        elif self.path.is_dir():
            for file in _files_below(self.path, reading):
                yield from _read_file(file, file.relative_to(self.path).as_posix(), reading)
        else:
            yield from _read_file(self.path, self.path.name, reading)


def open_sources(paths: list[str]) -> list[Source]:
    """Check the paths before anything is read.

    Args:
        paths: What the command line says.

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
        sources.append(Source(path, str(path.resolve())))
    _check_ids(sources)
    return sources


def _check_ids(sources: list[Source]) -> None:
    """A file's id is its path relative to PATH, so two PATHs can collide; one file would then hide the other."""
    if len(sources) < 2:
        return
    seen: dict[str, Path] = {}
    for source in sources:
        if source.path is None:
            continue
        files = _files_below(source.path, Reading()) if source.path.is_dir() else [source.path]
        for file in files:
            if file.suffix.lower() in _JSON_LINES_SUFFIXES:
                continue
            identifier = file.relative_to(source.path).as_posix() if source.path.is_dir() else file.name
            other = seen.setdefault(identifier, file)
            if other.resolve() != file.resolve():
                raise InputError(
                    f"{other} and {file} would both have the id {identifier!r}, and one would replace the other. "
                    "Index their common parent folder instead, or use two databases."
                )


def _files_below(folder: Path, reading: Reading) -> Iterator[Path]:
    """Text files below a folder in a stable order, without hidden ones and without following links to folders."""

    def failed(error: OSError) -> None:
        reading.skipped(Path(error.filename or folder), error.strerror)

    for parent, folders, files in os.walk(folder, onerror=failed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if name.startswith(".") or path.suffix.lower() not in _TEXT_SUFFIXES | _JSON_LINES_SUFFIXES:
                continue
            # A pipe would be waited for; a broken link is left in, so that reading it says what is wrong.
            if path.is_file() or not path.exists():
                yield path


def _read_file(path: Path, identifier: str, reading: Reading) -> Iterator[Record]:
    try:
        # Not `path.open`: it may be a database that this process has open.
        with read_plainly(path) as plain, BufferedReader(plain) as file:
            if path.suffix.lower() in _JSON_LINES_SUFFIXES:
                for record in _json_lines(file, str(path)):
                    if "id" in record:
                        reading.claim(record["id"], path)
                    yield record
                return
            content = _bounded(file)
    except OSError as error:
        reading.skipped(path, error.strerror or error)
        return
    try:
        identifier.encode("utf-8")
    except UnicodeEncodeError:
        reading.skipped(path, "its name is not valid UTF-8")
        return
    if content is None:
        reading.skipped(path, _TOO_LONG.format(limits.RECORD_BYTES))
        return
    reading.claim(identifier, path)
    yield {"id": identifier, "text": _decoded(content, str(path), reading), "metadata": {"path": str(path)}}


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


def _bounded(file: BinaryIO) -> bytes | None:
    """What is left of a file, or None if it is too long; a pipe may have no end."""
    content = file.read(limits.RECORD_BYTES + 1)
    return content if len(content) <= limits.RECORD_BYTES else None


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
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reading.messages.append(
            f"{name} is not UTF-8 (byte {error.start}): unreadable bytes were replaced by \N{REPLACEMENT CHARACTER}"
        )
        return content.decode("utf-8", errors="replace")
