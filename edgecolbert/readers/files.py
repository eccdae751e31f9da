"""From a file to records: unchanged ones are passed over, the others are read, and what they are is written down."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

from edgecolbert import limits
from edgecolbert.content_keys import CODE, MARKDOWN
from edgecolbert.open_files import read_plainly
from edgecolbert.readers import mail
from edgecolbert.readers.formats import MAIL, MAILBOX, Format
from edgecolbert.readers.isolation import ReaderProcess
from edgecolbert.readers.parsed import Parsed, UnreadableError, one_line, parse, too_long
from edgecolbert.readers.plain import heading, is_binary
from edgecolbert.readers.reading import Reading
from edgecolbert.readers.walk import FoundFile

# The document that is stored under an id, or None.
Known = Callable[[str], Mapping[str, Any] | None]

# Raise it when readers give better texts, so that files are read again which did not change.
READERS_VERSION = 1
_HEAD = 8192
# A file that changed so shortly before it was read may change again without another time of modification.
_UNSETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class FileState:
    """What tells whether a file has changed, kept in the metadata of its document as `file`.

    Attributes:
        size: Its bytes.
        mtime_ns: When it was modified, in nanoseconds since 1970.
        settled: Whether a later change is sure to give another time.
    """

    size: int
    mtime_ns: int
    settled: bool

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """The state that the file system tells.

        Args:
            status: What it says now.

        Returns:
            The state.
        """
        settled = status.st_mtime_ns < time.time_ns() - _UNSETTLED_NS
        return cls(status.st_size, status.st_mtime_ns, settled)

    def as_metadata(self, root: str | None, content: bytes | None) -> dict[str, Any]:
        """What is kept of it.

        Args:
            root: What the document is marked with.
            content: The whole file; None for one that is not kept as a whole.

        Returns:
            JSON values.
        """
        kept: dict[str, Any] = {"root": root, "reader": READERS_VERSION, "size": self.size}
        if self.settled:
            kept["mtime_ns"] = self.mtime_ns
        if content is not None:
            kept["sha256"] = hashlib.sha256(content).hexdigest()
        return kept

    @property
    def modified(self) -> str:
        """When the file was modified, in ISO 8601 and UTC, to the second."""
        try:
            return datetime.fromtimestamp(self.mtime_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        except (OverflowError, ValueError, OSError):
            return "1970-01-01T00:00:00Z"


@dataclass
class FileReader:
    """Reads the files of one root.

    Attributes:
        root: What their documents are marked with.
        reading: Takes notes.
        process: Where readers run.
        known: Finds what is stored already; None to read everything.
    """

    root: str | None
    reading: Reading
    process: ReaderProcess
    known: Known | None = None

    def records(self, file: FoundFile) -> Iterator[dict[str, Any]]:
        """Read one file.

        Args:
            file: The file.

        Yields:
            Its document; none if it is unchanged, empty, or cannot be read, which is noted; many for a mailbox.
        """
        try:
            file.identifier.encode("utf-8")
        except UnicodeEncodeError:
            self._skip(file, "its name is not valid UTF-8")
            return
        if len(file.identifier.encode("utf-8")) > limits.ID_BYTES:
            self._skip(file, f"its path is longer than {limits.ID_BYTES} bytes (edgecolbert.limits.ID_BYTES)")
            return
        try:
            yield from self._records(file)
        except FileNotFoundError:
            link = os.path.islink(file.path)
            why = "it is a link to something that is not there" if link else "it vanished before it was read"
            self._skip(file, why)
        except OSError as error:
            self._skip(file, error.strerror or error)
        except UnreadableError as error:
            self._skip(file, error)

    def _records(self, file: FoundFile) -> Iterator[dict[str, Any]]:
        known = self.known(file.identifier) if self.known is not None else None
        before = _file_metadata(known, self.root, file.path)
        if "mtime_ns" in before:
            state = FileState.of(os.stat(file.path))
            if (before.get("size"), before["mtime_ns"]) == (state.size, state.mtime_ns):
                self._unchanged(file)
                return
        if file.format.package is not None and find_spec(file.format.package) is None:
            raise UnreadableError(f"{file.format.name.upper()} needs a package: pip install 'edgecolbert[readers]'")
        what = file.format
        # Not `open`: it may be a database that this process has open.
        with read_plainly(file.path) as plain, BufferedReader(plain, _HEAD) as opened:
            status = os.fstat(plain.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError("it is no ordinary file")
            head = opened.peek(_HEAD)[:_HEAD] if what.sniffed or what.name == MAILBOX else b""
            if what.name == MAILBOX or (what.sniffed and mail.is_mailbox(head)):
                yield from self._messages(file, opened, FileState.of(status))
                return
            if what.sniffed and is_binary(head):
                self.reading.passed_over["binary, without a suffix"] += 1
                return
            content = _content(opened, what, status.st_size)
            after = os.fstat(plain.fileno())
        state = FileState.of(status)
        if (after.st_size, after.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
            state = FileState(state.size, state.mtime_ns, settled=False)
        kept = state.as_metadata(self.root, content)
        if known is not None and before.get("sha256") == kept["sha256"]:
            # Copied, touched, or read while it might still have changed: the text is what it was.
            if known["metadata"].get("modified") == state.modified:
                self._unchanged(file)
            else:
                dates = {"modified": state.modified, "file": kept}
                yield {"id": file.identifier, "text": known["text"], "metadata": known["metadata"] | dates}
            return
        parsed = self._parsed(file.path, what, content)
        if not parsed.text.strip() and known is None:
            self.reading.passed_over["empty"] += 1
            return
        self.reading.claim(file.identifier, Path(file.path))
        yield _record(file.identifier, file.path, _told(what, head), parsed, state, kept)

    def _messages(self, file: FoundFile, opened: BufferedReader[FileIO], state: FileState) -> Iterator[dict[str, Any]]:
        """The messages of a mailbox, each a document of its own."""
        kept = state.as_metadata(self.root, None)
        seen: set[str] = set()
        for number, content in enumerate(mail.messages(opened), start=1):
            if content is None:
                self._skip(file, f"its message {number} has more than {limits.FILE_BYTES} bytes")
                continue
            said = mail.message_id(content)
            name = said if said is not None and said not in seen else f"message {number}"
            seen.add(name)
            identifier = f"{file.identifier}#{name}"
            try:
                parsed = self._parsed(file.path, MAIL, content)
            except UnreadableError as error:
                self.reading.kept.append(identifier)
                self.reading.skipped(f"{file.path}, message {number}", error)
                continue
            self.reading.claim(identifier, Path(file.path))
            yield _record(identifier, file.path, MAIL, parsed, state, kept)

    def _parsed(self, path: str, what: Format, content: bytes) -> Parsed:
        name = os.path.basename(path)
        read = self.process.read if what.isolated else parse
        parsed = read(what.reader, content, name)
        self.reading.messages += [f"{path}: {note}" for note in parsed.notes]
        return parsed

    def _skip(self, file: FoundFile, why: object) -> None:
        self.reading.skipped(file.path, why)
        if file.format.name == MAILBOX:
            self.reading.unseen.append(f"{file.identifier}#")
        else:
            self.reading.kept.append(file.identifier)

    def _unchanged(self, file: FoundFile) -> None:
        self.reading.claim(file.identifier, Path(file.path))
        self.reading.unchanged.append(file.identifier)


def _content(opened: BufferedReader[FileIO], what: Format, size: int) -> bytes:
    """The whole file, if it is short enough; a file of many gigabytes is not even begun."""
    most = limits.FILE_BYTES if what.isolated else limits.RECORD_BYTES
    # Files of the system under /proc say that they are empty, so what is read counts, too.
    content = b"" if size > most else opened.read(most + 1)
    if max(size, len(content)) > most:
        raise UnreadableError(
            f"it has more than {most} bytes (edgecolbert.limits.FILE_BYTES)" if what.isolated else too_long()
        )
    return content


def _told(what: Format, head: bytes) -> Format:
    """A program without a suffix says in its first line what runs it."""
    if what.sniffed and head.startswith(b"#!"):
        line = head.partition(b"\n")[0].decode("utf-8", errors="replace")
        for name, language in (("python", "python"), ("perl", "perl"), ("ruby", "ruby"), ("node", "javascript")):
            if name in line:
                return Format(language, CODE)
        return Format("shell", CODE) if "sh" in line else what
    return what


def _file_metadata(known: Mapping[str, Any] | None, root: str | None, path: str) -> Mapping[str, Any]:
    """What was kept of a file's state when it was read last, by this version's readers; empty if it was not."""
    metadata = known["metadata"] if known is not None else {}
    kept = metadata.get("file")
    if (
        isinstance(kept, dict)
        and metadata.get("path") == os.path.abspath(path)
        and (kept.get("root"), kept.get("reader")) == (root, READERS_VERSION)
    ):
        return kept
    return {}


def _record(
    identifier: str, path: str, what: Format, parsed: Parsed, state: FileState, kept: dict[str, Any]
) -> dict[str, Any]:
    name = Path(path).name
    title = parsed.title or (heading(parsed.text) if what.kind == MARKDOWN else None)
    metadata = {
        "path": os.path.abspath(path),
        "title": one_line(title) or (name if what.kind == CODE else Path(name).stem),
        "kind": what.kind,
        "format": what.name,
        "modified": state.modified,
    }
    # A file must not be able to say that it is another one.
    said = {key: value for key, value in parsed.metadata.items() if key not in (*metadata, "file")}
    return {"id": identifier, "text": parsed.text, "metadata": metadata | said | {"file": kept}}
