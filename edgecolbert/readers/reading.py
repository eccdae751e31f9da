"""What was noticed while files were read: what was skipped and why, what is unchanged, what was passed over."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from edgecolbert.errors import InputError


@dataclass(frozen=True)
class SkippedFile:
    """A file or folder that could not be read.

    Attributes:
        path: Where it is.
        reason: Why, in one sentence.
    """

    path: str
    reason: str


@dataclass
class Reading:
    """What was noticed while reading.

    Attributes:
        messages: One line for each file that was skipped or read with losses, and for what else is to be said.
        skipped_files: The files and folders among them that were not read at all.
        passed_over: How many files were not read on purpose, by why: "hidden", "ignored", "empty", or a suffix that no
            reader knows.
        unchanged: Ids of documents whose files are as they were when they were read last.
        kept: Ids of documents whose files are there and could not be read; what is stored of them stays.
        unseen: How the ids of documents begin that are out of sight: of folders, with "/" at the end, and of mailboxes,
            with "#".
        incomplete: Whether something could not be read.
        blind: Whether a file of records could not be read to its end, so that the absence of a record proves nothing.
    """

    messages: list[str] = field(default_factory=list)
    skipped_files: list[SkippedFile] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    unchanged: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    incomplete: bool = False
    blind: bool = False
    _files: dict[str, Path] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

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

    def skipped(self, path: Path | str, why: object) -> None:
        """Note a file or folder that could not be read."""
        self.messages.append(f"skipped {path}: {why}")
        self.skipped_files.append(SkippedFile(str(path), str(why)))
        self.incomplete = True

    def another(self) -> Reading:
        """Notes of their own about another source, whose ids may not be those of this one."""
        return Reading(_files=self._files)

    def take_over(self, other: Reading) -> None:
        """Add what was noticed elsewhere.

        Args:
            other: What was noticed while another source was read.
        """
        self.messages += other.messages
        self.skipped_files += other.skipped_files
        self.passed_over += other.passed_over
        self.unchanged += other.unchanged
        self.kept += other.kept
        self.unseen += other.unseen
        self.incomplete |= other.incomplete
        self.blind |= other.blind

    def say_once(self, message: str) -> None:
        """Note something that is to be said once, however often it is met."""
        if message not in self._said:
            self._said.add(message)
            self.messages.append(message)

    def is_present(self, identifier: str) -> bool:
        """Whether a document may not be taken for gone, though it was not read, because its file is out of sight."""
        return identifier.startswith(tuple(self.unseen))
