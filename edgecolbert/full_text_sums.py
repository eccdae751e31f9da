"""Sums over what FTS5 keeps of the full text, written in every change of it.

FTS5's tables have no checksums, and much damage to them looks to FTS5 like another index: a text has other words, or
none. So each change also writes what the rows of these tables add up to, a part at a time, and once for each connection
that is compared before a search by words relies on them; after a commit of somebody else only what it changed.

What the index has of the texts is in segments, whose pages FTS5 numbers from 1 on and hardly ever changes: a new
segment has what one flush wrote, several are merged into one, and where a merge is done in steps, pages are cut from
the beginning of those that go, and put behind the end of the one that comes. So it takes the list of segments alone to
tell which parts are others than before, and only these are read when something was written.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import takewhile
from typing import Any, NamedTuple

from edgecolbert.errors import StoreFormatError
from edgecolbert.sqlite_errors import driver_errors, error_code

# Pages of a segment, and lengths of texts, that share a sum.
_PAGES = 64
_TEXTS = 1_024

# Numbers that no segment has, in the column `segment`: the rows that every search reads, and the lengths of texts.
_HEAD = (0, 0)
_LENGTHS = -1
# The part of a segment that says which word is on which of its pages.
_WORDS = -1

# Where FTS5 has what, in the numbers of the rows of lexical_data.
_SEGMENT_BITS = 37
_LISTS_OF_PAGES = 1 << 36
_MOST_SEGMENTS = 0xFFFF
# FTS5 has at most 2,000 segments, and merges them long before.
_LONGEST_LIST = 1 << 16
_STRUCTURE_2 = b"\xff\x00\x00\x01"

_READ_HEAD = (
    "SELECT (SELECT CAST(block AS BLOB) FROM lexical_data WHERE id = 1), "
    "(SELECT CAST(block AS BLOB) FROM lexical_data WHERE id = 10), "
    "(SELECT CAST(group_concat(quote(k) || quote(v)) AS BLOB) FROM lexical_config)"
)
_READ_STRUCTURE = "SELECT CAST(block AS BLOB) FROM lexical_data WHERE id = 10"
_READ_PAGES = "SELECT id, CAST(block AS BLOB) FROM lexical_data WHERE id BETWEEN ? AND ? ORDER BY id"
# In the order of their keys, as FTS5 looks them up.
_READ_WORDS = (
    "SELECT CAST(group_concat(quote(term) || quote(pgno)) AS BLOB) FROM "
    "(SELECT term, pgno FROM lexical_idx WHERE segid = ? ORDER BY term)"
)
# In the order of their numbers; where a length ends can be seen of it.
_READ_LENGTHS = (
    "SELECT CAST(group_concat(CAST(sz AS TEXT) || id) AS BLOB) FROM lexical_docsize WHERE id BETWEEN ? AND ?"
)
_WRITE = "INSERT OR REPLACE INTO full_text_sums (segment, part, checksum) VALUES (?, ?, ?)"
_LISTED_LENGTHS = "SELECT DISTINCT id >> ? FROM lexical_docsize"

# Beyond every number that we write, and small enough to be multiplied.
_FAR = 1 << 50

_PAGE = struct.Struct("<2q").pack

Run = Callable[..., sqlite3.Cursor]
Key = tuple[int, int]


class Segment(NamedTuple):
    """A segment of the index.

    Attributes:
        number: Its number; numbers of segments that are gone are given again.
        first: Its first page, 0 where a merge has taken over all of them.
        last: Its last page, 0 likewise.
    """

    number: int
    first: int
    last: int

    @property
    def parts(self) -> range:
        """The parts that its pages are in."""
        return range(self.first // _PAGES, self.last // _PAGES + 1) if self.last else range(0)


class _Head(NamedTuple):
    """What every search reads: three records, of which the second lists the segments."""

    averages: bytes
    structure: bytes
    config: bytes


class _WrongError(Exception):
    """What does not fit."""


class FullTextSums:
    """The sums over the full text of one open database.

    Args:
        run: Executes a statement with its parameters.
        path: The file, for messages.
    """

    def __init__(self, run: Run, path: str) -> None:
        self._run = run
        self._path = path
        # What was found to fit, with the sums that it fits, and the records that it was when all did.
        self._passed: dict[Key, int] = {}
        self._all_passed: _Head | None = None
        # In a change: the segments as they were noted last, and which lengths have changed. None: nothing is noted.
        self._changing = False
        self._structure: bytes | None = None
        self._lengths: set[int] = set()

    def check(self) -> None:
        """Refuse an index that is not the one that was written; what was looked at once is not looked at again.

        Raises:
            StoreFormatError: If it is not.
        """
        try:
            with _damage_is_wrong():
                head = _head(self._run)
                if head != self._all_passed:
                    self._compare(head, self._passed)
                    self._all_passed = head
        except _WrongError as error:
            raise damaged_index(self._path, error) from error

    def problems(self) -> Iterator[str]:
        """What does not add up to what was written, read again.

        Yields:
            The first that is wrong, if anything is.
        """
        try:
            with _damage_is_wrong():
                self._compare(_head(self._run), {})
        except _WrongError as error:
            yield str(error)

    # In a change

    def before(self) -> None:
        """Look at the index before it is changed, so that what is noted later vouches for nothing that was damaged.

        Where it is damaged the change goes on, and no search by words is answered until the index is made again.
        """
        if self._changing:
            return
        self._changing = True
        self._lengths.clear()
        try:
            self.check()
        except StoreFormatError:
            self._forget()
        else:
            self._structure = None if self._all_passed is None else self._all_passed.structure

    def after(self, content_id: int) -> None:
        """Note what a text that came or went has changed.

        Args:
            content_id: Its number.
        """
        self._lengths.add(content_id // _TEXTS)
        self._note_segments()

    def finish(self) -> None:
        """Note the rest, before the change is committed."""
        if not self._changing:
            return
        flush(self._run)
        self._note_segments()
        if self._structure is not None:
            try:
                with _damage_is_wrong():
                    for group in self._lengths:
                        self._note((_LENGTHS, group), _lengths(self._run, group))
                    self._all_passed = _write_head(self._run)
            except _WrongError:
                self._forget()
        self._changing = False

    def abandon(self) -> None:
        """The change is rolled back: what was read of it is not there."""
        self._changing = False
        self._structure = self._all_passed = None
        self._passed.clear()

    def rewrite(self) -> None:
        """Take the index for what it is, once it was made anew."""
        self._changing = True
        self._passed.clear()
        self._lengths.clear()
        self._structure = _head(self._run).structure if fill(self._run) else None

    def _forget(self) -> None:
        """Note that what is noted is worth nothing."""
        self._run("DELETE FROM full_text_sums WHERE segment = 0")
        self._structure = self._all_passed = None

    def _note(self, key: Key, checksum: int | None) -> None:
        """Write a sum; None where there is nothing any more."""
        if checksum is None:
            self._run("DELETE FROM full_text_sums WHERE segment = ? AND part = ?", *key)
            self._passed.pop(key, None)
        elif self._passed.get(key) != checksum:
            self._run(_WRITE, *key, checksum)
            self._passed[key] = checksum

    def _note_segments(self) -> None:
        """Note what was flushed since the last look. A number may be given again, so each flush is looked at."""
        if self._structure is None:
            return
        try:
            with _damage_is_wrong():
                (structure,) = self._run(_READ_STRUCTURE).fetchone() or (None,)
                if structure == self._structure:
                    return
                old, new = _segments(self._structure), _segments(structure)
                known = {segment.number: segment for segment in old}
                for number in known.keys() - {segment.number for segment in new}:
                    self._drop(number, None)
                # What comes into the list comes after what is older, so up to the first that differs nothing changed.
                same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
                for segment in new[same:]:
                    self._note_segment(segment, known.get(segment.number))
                self._structure = structure
        except _WrongError:
            self._forget()

    def _note_segment(self, segment: Segment, old: Segment | None) -> None:
        kept = range(0) if old is None else self._kept(segment, old)
        self._drop(segment.number, range(kept.start, kept.stop) if kept else None)
        if old is None or not kept or segment.last != old.last or segment.first != old.first:
            self._note((segment.number, _WORDS), _words(self._run, segment))
        if not kept:
            wanted = [(segment.first, segment.last)]
        else:
            wanted = [
                (segment.first, min(segment.last, kept.start * _PAGES - 1)),
                (max(segment.first, kept.stop * _PAGES), segment.last),
            ]
        for first, last in wanted:
            for part, checksum in _pages(self._run, segment, first, last):
                self._note((segment.number, part), checksum)

    def _kept(self, segment: Segment, old: Segment) -> range:
        """The parts of a segment that are as they were, if it is the old one, cut or continued or neither."""
        last = old.last // _PAGES
        if not (0 < old.first <= segment.first <= last * _PAGES and old.last <= segment.last):
            return range(0)
        # Its last pages as they were: no other segment that has its number now has these.
        ((_, checksum),) = _pages(self._run, segment, max(old.first, last * _PAGES), old.last)
        if self._noted(segment.number).get((segment.number, last)) != checksum:
            return range(0)
        # A merge that goes on in steps writes the first page that is left anew.
        return range(segment.first // _PAGES + 1, last + 1 if segment.last == old.last else last)

    def _drop(self, number: int, kept: range | None) -> None:
        """Forget the sums of a segment, but for a range of its parts and what is beside its pages."""
        for key in list(self._noted(number)):
            if kept is None or (key[1] != _WORDS and key[1] not in kept):
                self._note(key, None)

    def _noted(self, number: int) -> dict[Key, int]:
        rows = self._run("SELECT part, checksum FROM full_text_sums WHERE segment = ?", number)
        return {(number, part): checksum for part, checksum in rows}

    # Comparing

    def _compare(self, head: _Head, passed: dict[Key, int]) -> None:
        """Compare with what is noted all that has not passed.

        Args:
            head: The records that every search reads.
            passed: What has passed, with the sums that it fits; it takes what passes now.
        """
        noted = _all_noted(self._run)
        if noted.pop(_HEAD, None) != _head_sum(head, noted):
            raise _WrongError("its totals or its list of parts are not those that were written")
        by_segment: dict[int, set[int]] = {}
        for number, part in noted:
            by_segment.setdefault(number, set()).add(part)
        groups = by_segment.pop(_LENGTHS, set())
        segments = _segments(head.structure)
        if by_segment.keys() != {segment.number for segment in segments}:
            raise _WrongError("it has other parts than were written")
        for segment in segments:
            parts = by_segment[segment.number] - {_WORDS}
            # Their number first: a list of segments can claim any.
            if len(parts) != len(segment.parts) or parts != set(segment.parts):
                raise _WrongError(f"part {segment.number} has other pages than were written")
            self._compare_segment(segment, noted, passed)
        for group in sorted(groups):
            self._compare_one((_LENGTHS, group), noted, passed, partial(_lengths, self._run, group))
        for key in passed.keys() - noted.keys():
            del passed[key]

    def _compare_segment(self, segment: Segment, noted: Mapping[Key, int], passed: dict[Key, int]) -> None:
        self._compare_one((segment.number, _WORDS), noted, passed, partial(_words, self._run, segment))
        wanted = [part for part in segment.parts if passed.get((segment.number, part)) != noted[segment.number, part]]
        for start, stop in _runs(wanted):
            first, last = max(segment.first, start * _PAGES), min(segment.last, stop * _PAGES - 1)
            for part, checksum in _pages(self._run, segment, first, last):
                if noted[segment.number, part] != checksum:
                    raise _WrongError(f"pages of part {segment.number} are not those that were written")
                passed[segment.number, part] = checksum

    def _compare_one(
        self, key: Key, noted: Mapping[Key, int], passed: dict[Key, int], found: Callable[[], int | None]
    ) -> None:
        if key not in noted or passed.get(key) != noted[key]:
            checksum = found()
            if checksum is None or noted.get(key) != checksum:
                what = "the lengths of texts" if key[0] == _LENGTHS else f"the words of part {key[0]}"
                raise _WrongError(f"{what} are not those that were written")
            passed[key] = checksum


def fill(run: Run) -> bool:
    """Write the sums of the index as it is; none, where it cannot be read, so that no search by words is answered.

    Args:
        run: Executes a statement with its parameters, inside a transaction.

    Returns:
        Whether it can be read.
    """
    flush(run)
    run("DELETE FROM full_text_sums")
    try:
        with _damage_is_wrong():
            for segment in _segments(_head(run).structure):
                run(_WRITE, segment.number, _WORDS, _words(run, segment))
                for part, checksum in _pages(run, segment, segment.first, segment.last):
                    run(_WRITE, segment.number, part, checksum)
            for (group,) in run(_LISTED_LENGTHS, _TEXTS.bit_length() - 1).fetchall():
                run(_WRITE, _LENGTHS, group, _lengths(run, group))
            _write_head(run)
    except _WrongError:
        run("DELETE FROM full_text_sums")
        return False
    return True


def flush(run: Run) -> None:
    """Let FTS5 write what it still has in memory, as it would before a commit.

    Args:
        run: Executes a statement with its parameters, inside a transaction.
    """
    run("SAVEPOINT full_text")
    run("RELEASE full_text")


def damaged_index(path: str, what: object) -> StoreFormatError:
    """The error of a search by words in a damaged index.

    Args:
        path: The file.
        what: What is wrong.

    Returns:
        The error.
    """
    return StoreFormatError(
        f"{path}: the full-text index is damaged ({what}). The texts and the token embeddings are unharmed: search "
        "with mode='late', and run `edgecolbert compact --rebuild-lexical --db FILE` to make it again."
    )


def varints(blob: object) -> list[int] | None:
    """The numbers that FTS5 stores one after the other, seven bits a byte, highest first.

    Args:
        blob: What is stored.

    Returns:
        The numbers, or None if it is no blob.

    Examples:
        >>> varints(bytes([5, 0x81, 0]))
        [5, 128]
    """
    if not isinstance(blob, bytes):
        return None
    numbers, value = [], 0
    for byte in blob:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(value)
            value = 0
    return numbers


@contextmanager
def _damage_is_wrong() -> Iterator[None]:
    try:
        yield
    except driver_errors() as error:
        # The second where a stranger's rows are longer than is allowed.
        if error_code(error) not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_TOOBIG):
            raise
        raise _WrongError(str(error)) from error


def _segments(structure: object) -> list[Segment]:
    """The segments of an index, oldest first."""
    if not isinstance(structure, bytes) or len(structure) > _LONGEST_LIST or structure[4:8] == _STRUCTURE_2:
        raise _WrongError("its list of parts is missing, or of another kind")
    try:
        n_levels, n_segments, _, *rest = varints(structure[4:]) or []
        numbers = iter(rest)
        levels = []
        # Both counts are of what the record lists, so that neither can claim more.
        for _ in range(min(n_levels, len(rest))):
            next(numbers)  # how many are being merged
            n = min(next(numbers), len(rest))
            levels.append([Segment(next(numbers), next(numbers), next(numbers)) for _ in range(n)])
    except (ValueError, StopIteration, RuntimeError) as error:
        raise _WrongError("its list of parts cannot be read") from error
    found = [segment for level in reversed(levels) for segment in level]
    sound = len(levels) == n_levels and len({segment.number for segment in found}) == len(found) == n_segments
    if not sound or not all(map(_makes_sense, found)):
        raise _WrongError("its list of parts makes no sense")
    return found


def _makes_sense(segment: Segment) -> bool:
    number, first, last = segment
    return 0 < number <= _MOST_SEGMENTS and (0 < first <= last < 2**31 or first == last == 0)


def _head(run: Run) -> _Head:
    averages, structure, config = run(_READ_HEAD).fetchone()
    return _Head(averages or b"", structure or b"", config or b"")


def _head_sum(head: _Head, noted: Mapping[Key, int]) -> int:
    """The sum of the records that every search reads, and of which sums there are of lengths."""
    checksum = 0
    for record in head:
        checksum = zlib.crc32(record, zlib.crc32(_PAGE(0, len(record)), checksum))
    for (number, group), value in sorted(noted.items()):
        if number == _LENGTHS:
            checksum = zlib.crc32(_PAGE(group, value), checksum)
    return checksum


def _write_head(run: Run) -> _Head:
    head = _head(run)
    checksum = _head_sum(head, _all_noted(run, _LENGTHS))
    run(_WRITE, *_HEAD, checksum)
    return head


def _all_noted(run: Run, number: int | None = None) -> dict[Key, int]:
    """The sums that are written, all or those of one number."""
    sql = "SELECT segment, part, checksum FROM full_text_sums"
    rows: list[Any] = (run(sql) if number is None else run(f"{sql} WHERE segment = ?", number)).fetchall()
    if not all(type(value) is int and abs(value) < _FAR for row in rows for value in row):
        raise _WrongError("what is noted of it cannot be read")
    return {(segment, part): checksum for segment, part, checksum in rows}


def _pages(run: Run, segment: Segment, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Part and sum of some pages of a segment, one part after the other."""
    if not 0 < first <= last:
        return
    base = segment.number << _SEGMENT_BITS
    wanted, checksum = base + first, 0
    for number, block in run(_READ_PAGES, base + first, base + last):
        if number != wanted or block is None:
            break
        checksum = zlib.crc32(block, zlib.crc32(_PAGE(number, len(block)), checksum))
        wanted += 1
        if wanted % _PAGES == 0 or number == base + last:
            yield (number - base) // _PAGES, checksum
            checksum = 0
    if wanted != base + last + 1:
        raise _WrongError(f"page {wanted - base} of part {segment.number} is missing")


def _words(run: Run, segment: Segment) -> int:
    """The sum of which word is on which page of a segment, and of what FTS5 keeps to find texts on many pages."""
    (words,) = run(_READ_WORDS, segment.number).fetchone()
    checksum = zlib.crc32(words or b"")
    base = segment.number << _SEGMENT_BITS
    for number, block in run(_READ_PAGES, base + _LISTS_OF_PAGES, base + (1 << _SEGMENT_BITS) - 1):
        checksum = zlib.crc32(block or b"", zlib.crc32(_PAGE(number, len(block or b"")), checksum))
    return checksum


def _lengths(run: Run, group: int) -> int | None:
    """The sum of the lengths of a group of texts; None where there are none."""
    first = group * _TEXTS
    (found,) = run(_READ_LENGTHS, first, first + _TEXTS - 1).fetchone()
    return None if found is None else zlib.crc32(found)


def _runs(parts: list[int]) -> Iterator[tuple[int, int]]:
    """Where runs of parts, which are in order, begin and end."""
    start = None
    for place, part in enumerate(parts):
        start = part if start is None else start
        if place + 1 == len(parts) or parts[place + 1] != part + 1:
            yield start, part + 1
            start = None
