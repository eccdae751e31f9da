"""The files below a folder: in a stable order, without what is hidden, ignored, or made by programs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgecolbert.readers.formats import Format, format_of, suffix_of
from edgecolbert.readers.reading import Reading
from edgecolbert.untrusted import read_bounded

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

# The later ones of one folder have the last word.
IGNORE_FILES = (".gitignore", ".edgecolbertignore")
_IGNORE_BYTES = 2**20
# A pattern becomes a regular expression, and each star in it multiplies the ways to match a name.
_STARS = re.compile(r"\*+")
_STARS_OF_NAME, _STARS_OF_PATTERN = 3, 8
# What package managers and operating systems put into folders.
_FOLDERS = {
    "node_modules",
    "bower_components",
    "__pycache__",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
}
# A folder that has one of these was made by a program and can be made again.
_MARKERS = {"CACHEDIR.TAG", "pyvenv.cfg"}


@dataclass(frozen=True)
class Rules:
    """Which files of a folder are read.

    Attributes:
        hidden: Those whose names, or whose folders' names, begin with a dot, too.
        ignore_files: None that .gitignore or .edgecolbertignore names.
    """

    hidden: bool = False
    ignore_files: bool = True


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that is to be read.

    Attributes:
        path: Its path.
        identifier: The id of its document: its path relative to the root, with "/".
        format: What it is.
    """

    path: str
    identifier: str
    format: Format


class _Patterns(NamedTuple):
    """The ignore files of one folder.

    Attributes:
        cut: Characters of a path relative to the root that lead to the folder.
        prefix: The path from the folder to the root, for a folder above it.
        spec: The patterns.
    """

    cut: int
    prefix: str
    spec: GitIgnoreSpec


# Those of a folder and the folders above it, the nearest first.
_Specs = tuple[_Patterns, ...]


class Walk:
    """Goes through a folder.

    Args:
        root: The folder.
        rules: What is read.
        reading: Takes notes.
    """

    def __init__(self, root: str, rules: Rules, reading: Reading) -> None:
        self._root = root
        self._rules = rules
        self._reading = reading

    def files(self, start: str = "") -> Iterator[FoundFile]:
        """Find files; links to files are followed, and links to folders are not.

        Args:
            start: A file or folder below the root, relative to it; everything by default. Nothing is found if it is
                ignored, or is not there.

        Yields:
            Files in the order of their names, those of a folder before those of its subfolders.
        """
        specs = self._above()
        folder = ""
        for name in start.split("/") if start else ():
            specs = self._with_ignore_files(folder, specs)
            path = os.path.join(self._root, folder, name)
            is_folder = os.path.isdir(path) and not os.path.islink(path)
            if self._excluded(folder, name, is_folder, specs):
                return
            if not is_folder:
                if os.path.lexists(path):
                    yield from self._chosen(folder, name, os.path.isdir(path))
                return
            folder = f"{folder}{name}/"
        stack = [(folder, specs)]
        # Not by recursion: folders may lie deeper inside one another than calls may.
        while stack:
            folder, specs = stack.pop()
            subfolders: list[tuple[str, _Specs]] = []
            yield from self._folder(folder, specs, subfolders)
            stack += reversed(subfolders)

    def _folder(self, folder: str, specs: _Specs, subfolders: list[tuple[str, _Specs]]) -> Iterator[FoundFile]:
        """The files of one folder; its subfolders are put into the list."""
        path = os.path.join(self._root, folder)
        try:
            with os.scandir(path) as entries:
                found = sorted((entry.name, *_kind(entry)) for entry in entries)
        except OSError as error:
            self._reading.skipped(path, error.strerror or error)
            self._reading.unseen.append(folder)
            return
        names = {name for name, _, _ in found}
        if folder and not names.isdisjoint(_MARKERS):
            self._reading.passed_over["ignored"] += 1
            return
        if not names.isdisjoint(IGNORE_FILES):
            specs = self._with_ignore_files(folder, specs)
        for name, is_folder, is_other in found:
            if self._excluded(folder, name, is_folder, specs):
                continue
            if is_folder:
                subfolders.append((f"{folder}{name}/", specs))
            else:
                yield from self._chosen(folder, name, is_other)

    def _chosen(self, folder: str, name: str, is_other: bool) -> Iterator[FoundFile]:
        # A pipe would be waited for.
        if is_other:
            return
        known = format_of(name)
        if known is None:
            self._reading.passed_over[suffix_of(name)] += 1
            return
        yield FoundFile(os.path.join(self._root, folder, name), folder + name, known)

    def _excluded(self, folder: str, name: str, is_folder: bool, specs: _Specs) -> bool:
        """Whether something is passed over, with a note of it."""
        path = f"{folder}{name}/" if is_folder else folder + name
        for patterns in specs:
            ignored = patterns.spec.check_file(patterns.prefix + path[patterns.cut :]).include
            if ignored is not None:
                # "!name" in an ignore file wants even what is hidden.
                self._reading.passed_over["ignored"] += ignored
                return bool(ignored)
        if name.startswith(".") and not self._rules.hidden:
            self._reading.passed_over["hidden"] += name not in IGNORE_FILES
            return True
        if name == ".git" or (is_folder and name in _FOLDERS) or name.endswith("~"):
            self._reading.passed_over["ignored"] += 1
            return True
        return False

    def _above(self) -> _Specs:
        """The ignore files of the folders above the root, as far as they belong to the same repository of git."""
        if not self._rules.ignore_files:
            return ()
        folder = Path(os.path.abspath(self._root))
        if (folder / ".git").exists():
            return ()
        above: list[_Patterns] = []
        path = ""
        for parent in folder.parents:
            path = f"{folder.name}/{path}"
            folder = parent
            spec = self._ignore_files_of(str(parent))
            # A folder that is named is wanted, though a repository around it ignores it.
            if spec is not None and not spec.check_file(path).include:
                above.append(_Patterns(0, path, spec))
            if (parent / ".git").exists():
                return tuple(above)
        return ()

    def _with_ignore_files(self, folder: str, specs: _Specs) -> _Specs:
        if not self._rules.ignore_files:
            return specs
        spec = self._ignore_files_of(os.path.join(self._root, folder))
        return specs if spec is None else (_Patterns(len(folder), "", spec), *specs)

    def _ignore_files_of(self, folder: str) -> GitIgnoreSpec | None:
        lines: list[str] = []
        for name in IGNORE_FILES:
            path = Path(folder, name)
            if not path.is_file():
                continue
            try:
                lines += read_bounded(path, _IGNORE_BYTES).decode("utf-8", errors="replace").splitlines()
            except OSError as error:
                self._reading.skipped(path, error.strerror or error)
        if not lines:
            return None
        try:
            from pathspec import GitIgnoreSpec
        except ImportError:
            self._reading.say_once(
                "ignore files (.gitignore, .edgecolbertignore) are not followed without the package pathspec: "
                "pip install 'edgecolbert[readers]'"
            )
            return None
        sensible = [line for line in lines if not line.strip() or self._is_sensible(line, folder)]
        return GitIgnoreSpec.from_lines(sensible)

    def _is_sensible(self, line: str, folder: str) -> bool:
        """Whether a pattern is one, and does not take time without end; others must not bring back what it ignores."""
        from pathspec import GitIgnoreSpec

        stars = [len(_STARS.findall(part)) for part in line.split("/")]
        try:
            GitIgnoreSpec.from_lines([line])
            sensible = max(stars) <= _STARS_OF_NAME and sum(stars) <= _STARS_OF_PATTERN and "***" not in line
        except ValueError:
            sensible = False
        if not sensible and not line.startswith("#"):
            self._reading.say_once(f"{folder}: the pattern {line[:100]!r} of its ignore files is passed over")
        return sensible or line.startswith("#")


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether it is a folder, and whether it is neither that nor a file: a pipe, a device, a link to a folder."""
    try:
        if entry.is_dir(follow_symlinks=False):
            return True, False
        # A broken link is left in, so that reading it says what is wrong.
        return False, not entry.is_file() and os.path.exists(entry.path)
    except OSError:
        return False, False
