"""The pages of an SQLite file, read without SQLite: what is left to do where SQLite says that a file is malformed.

Nothing is ever written. A page that is damaged takes nothing else with it: rows are read from every page that holds
rows of a table, whether or not the pages above it can be read. Whether a row is right, its checksum must say.

The format is https://sqlite.org/fileformat2.html; the numbers in the code are its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from edgecolbert import limits
from edgecolbert.errors import StoreError
from edgecolbert.file_checks import looks_encrypted
from edgecolbert.open_files import read_plainly

_MAGIC = b"SQLite format 3\x00"
_TABLE_LEAF, _TABLE_INTERIOR, _INDEX_LEAF, _INDEX_INTERIOR = 13, 5, 10, 2
_TREE_PAGES = (_TABLE_LEAF, _TABLE_INTERIOR, _INDEX_LEAF, _INDEX_INTERIOR)
# Page sizes that this library has ever made; the header of a damaged file may say another.
_OUR_PAGE_SIZES = (4_096, 8_192)
# Pages that are looked at to find the page size.
_SIZED_BY = 2_000
_LARGEST_CACHE = 64


class Row(NamedTuple):
    """Where a row is.

    Attributes:
        page: Its page.
        pointer: Where in the page its cell begins.
        rowid: Its number.
        n_columns: How many columns it has.
    """

    page: int
    pointer: int
    rowid: int
    n_columns: int


class _Malformed(Exception):  # noqa: N818 - never leaves this module
    """Bytes that cannot be what they were taken for."""


class PageFile:
    """An SQLite file and its write-ahead log, as pages.

    Args:
        path: The file; it is only read.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._log_path = self._path.with_name(self._path.name + "-wal")
        self._files = ExitStack()
        try:
            # Not `open`: this process may have connections to it.
            self._file = self._files.enter_context(read_plainly(self._path))
            # SQLite has no locks on the log.
            logged = self._log_path.exists()
            self._log = self._files.enter_context(self._log_path.open("rb")) if logged else None
            self._read_structure()
        except BaseException as error:
            self._files.close()
            if isinstance(error, OSError):
                raise StoreError(f"{path} cannot be read: {error}.") from error
            raise

    def _read_structure(self) -> None:
        self._before = self._state()
        self._cache: dict[int, bytes] = {}
        self._logged: dict[int, int] = {}
        self.log_is_damaged = False
        size = self._path.stat().st_size
        head = self._file.read(_OUR_PAGE_SIZES[0]).ljust(100, b"\0")
        self.seems_encrypted = looks_encrypted(head, size)
        self.page_size = self._find_page_size(head, size)
        n_logged = self._read_log()
        first = self.page(1)
        # The header may reserve a part of each page; this library never does, so another number is damage.
        self._usable = self.page_size
        self.has_magic = first[:16] == _MAGIC
        self.user_version, self.application_id = struct.unpack(">i4xi", first[60:72])
        self._n_in_file = -(-size // self.page_size)
        self.n_pages = n_logged or self._counted_pages(first, self._n_in_file)

    def __enter__(self) -> PageFile:
        """The file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self._files.close()

    def check_unchanged(self) -> None:
        """Refuse what was read while somebody wrote: pages of two moments do not fit together.

        Raises:
            StoreError: If the file or its log has changed since it was opened.
        """
        if self._state() != self._before:
            raise StoreError(
                f"{self._path} was written to while it was read. Stop the process that writes to it, and try again."
            )

    def page(self, number: int) -> bytes:
        """One page as it was last committed; what is beyond the end of a file that was cut short is zero."""
        found = self._cache.get(number)
        if found is None:
            if number in self._logged and self._log is not None:
                self._log.seek(self._logged[number])
                found = self._log.read(self.page_size)
            else:
                self._file.seek((number - 1) * self.page_size)
                found = self._file.read(self.page_size)
            found = found.ljust(self.page_size, b"\0")
            if len(self._cache) >= _LARGEST_CACHE:
                self._cache.clear()
            self._cache[number] = found
        return found

    def numbers(self) -> list[int]:
        """The pages that there are in the file or its log, whatever number these say that there should be."""
        logged = {number for number in self._logged if 0 < number <= self.n_pages}
        return sorted({*range(1, min(self._n_in_file, self.n_pages) + 1), *logged})

    def schema(self) -> dict[str, int]:
        """The first page of each table and index by name; those whose records cannot be read are left out."""
        roots: dict[str, int] = {}
        for page in self.tree_pages(1):
            for row in self.rows(page):
                values = self.values(row)
                if values is not None and len(values) == 5 and isinstance(values[3], int) and values[3] > 0:
                    roots[str(values[1])] = values[3]
        return roots

    def tree_pages(self, root: int) -> Iterator[int]:
        """The pages of a table or index that can be reached from its first one, the inner ones included.

        Args:
            root: The number of its first page.

        Yields:
            Page numbers, each once.
        """
        seen = {0}
        todo = [root]
        while todo:
            number = todo.pop()
            if number in seen or not 0 < number <= self.n_pages:
                continue
            seen.add(number)
            yield number
            page, first = self.page(number), _first_byte(number)
            if page[first] in (_TABLE_INTERIOR, _INDEX_INTERIOR):
                todo.append(int.from_bytes(page[first + 8 : first + 12], "big"))
                todo += [int.from_bytes(page[pointer : pointer + 4], "big") for pointer in self._pointers(number)]

    def free_pages(self) -> tuple[set[int], bool]:
        """The pages on the list of free ones, and whether that list is whole."""
        first = self.page(1)
        trunk, expected = struct.unpack(">2I", first[32:40])
        free: set[int] = set()
        while trunk:
            if trunk in free or not 1 < trunk <= self.n_pages:
                return free, False
            free.add(trunk)
            page = self.page(trunk)
            following, count = struct.unpack(">2I", page[:8])
            if count > self._usable // 4 - 2:
                return free, False
            leaves = struct.unpack(f">{count}I", page[8 : 8 + 4 * count])
            if not all(1 < leaf <= self.n_pages for leaf in leaves):
                return free, False
            free.update(leaves)
            trunk = following
        return free, self.has_magic and len(free) == expected

    def holds_rows(self, number: int) -> bool:
        """Whether a page says that it holds rows of a table."""
        return self.page(number)[_first_byte(number)] == _TABLE_LEAF

    def rows(self, number: int) -> Iterator[Row]:
        """The rows of a page that can be rows, whatever the page says that it is.

        Args:
            number: The page.

        Yields:
            Where they are.
        """
        page = self.page(number)
        for pointer in self._pointers(number, leaf=True):
            try:
                _, rowid, start = _cell_head(page, pointer)
                yield Row(number, pointer, rowid, len(self._types(page, start)[0]))
            except _Malformed:
                continue

    def values(self, row: Row, most: int | None = None) -> list[Any] | None:
        """The columns of a row, or its first ones.

        Args:
            row: Where it is.
            most: How many columns are wanted, which must lie in the row's own page; None for all of them.

        Returns:
            int, float, bytes, str or None for each column; a text that is not UTF-8 as bytes. None where the row
            cannot be read.
        """
        page = self.page(row.page)
        try:
            size, _, start = _cell_head(page, row.pointer)
            largest = self._usable - 35
            local = size if size <= largest else self._local(size, largest)
            payload = page[start : start + local]
            if most is None and local < size:
                payload += self._overflow(page[start + local : start + local + 4], size - local)
            return _record(payload, most)
        except _Malformed:
            return None

    def entries(self, root: int) -> Iterator[list[Any]]:
        """The entries of an index, as far as they can be read.

        Args:
            root: The number of its first page.

        Yields:
            The columns of each.
        """
        largest = (self._usable - 12) * 64 // 255 - 23
        for number in self.tree_pages(root):
            page = self.page(number)
            kind = page[_first_byte(number)]
            if kind not in (_INDEX_LEAF, _INDEX_INTERIOR):
                continue
            for pointer in self._pointers(number):
                try:
                    size, start = _varint(page, pointer + (4 if kind == _INDEX_INTERIOR else 0))
                    local = size if size <= largest else self._local(size, largest)
                    payload = page[start : start + local]
                    if local < size:
                        payload += self._overflow(page[start + local : start + local + 4], size - local)
                    yield _record(payload)
                except _Malformed:
                    continue

    def _state(self) -> tuple[int, ...]:
        paths = [self._path, self._log_path]
        stats = [path.stat() for path in paths if path.exists()]
        return tuple(value for stat in stats for value in (stat.st_size, stat.st_mtime_ns))

    def _find_page_size(self, head: bytes, size: int) -> int:
        said = int.from_bytes(head[16:18], "big")
        said = 65_536 if said == 1 else said
        choices = [said, *_OUR_PAGE_SIZES] if 512 <= said <= 65_536 and said & (said - 1) == 0 else _OUR_PAGE_SIZES
        # Of equal counts the header is right.
        return max(choices, key=lambda choice: self._count_tree_pages(choice, size))

    def _count_tree_pages(self, page_size: int, size: int) -> int:
        """How many pages there would be of this size that can be a page of a table or an index."""
        count = 0
        for number in range(1, min(size // page_size, _SIZED_BY * _OUR_PAGE_SIZES[0] // page_size)):
            self._file.seek(number * page_size)
            page = self._file.read(page_size)
            if page[0] in _TREE_PAGES:
                cells, content = struct.unpack(">2H", page[3:7])
                end = 8 + 4 * (page[0] in (_TABLE_INTERIOR, _INDEX_INTERIOR)) + 2 * cells
                count += cells > 0 and end <= content <= page_size
        return count

    def _counted_pages(self, first: bytes, in_file: int) -> int:
        """How many pages the header says that there are, where it can be believed, or else the file."""
        counted = int.from_bytes(first[28:32], "big")
        return counted if 0 < counted <= in_file and first[24:28] == first[92:96] else in_file

    def _read_log(self) -> int:
        """Find the pages of the log that were committed; give how many pages the database then had, 0 without any."""
        if self._log is None:
            return 0
        head = self._log.read(32)
        if len(head) < 32:
            return 0
        order = {0x377F0682: "<", 0x377F0683: ">"}.get(int.from_bytes(head[:4], "big"))
        if order is None or int.from_bytes(head[8:12], "big") != self.page_size:
            self.log_is_damaged = True
            return 0
        sums = _log_sums(order, head[:24], (0, 0))
        if sums != struct.unpack(">2I", head[24:]):
            self.log_is_damaged = True
            return 0
        pending: dict[int, int] = {}
        n_pages = 0
        while len(frame := self._log.read(24 + self.page_size)) == 24 + self.page_size:
            if frame[8:16] != head[16:24]:
                break  # of an earlier round of the log
            sums = _log_sums(order, frame[:8], sums)
            sums = _log_sums(order, frame[24:], sums)
            if sums != struct.unpack(">2I", frame[16:24]):
                self.log_is_damaged = True
                break
            number, committed = struct.unpack(">2I", frame[:8])
            pending[number] = self._log.tell() - self.page_size
            if committed:
                self._logged.update(pending)
                pending.clear()
                n_pages = committed
        return n_pages

    def _pointers(self, number: int, *, leaf: bool = False) -> tuple[int, ...]:
        """Where the cells of a page begin, those that can be."""
        page, first = self.page(number), _first_byte(number)
        inner = not leaf and page[first] in (_TABLE_INTERIOR, _INDEX_INTERIOR)
        start = first + (12 if inner else 8)
        count = min(int.from_bytes(page[first + 3 : first + 5], "big"), (self.page_size - start) // 2)
        pointers = struct.unpack(f">{count}H", page[start : start + 2 * count])
        return tuple(pointer for pointer in pointers if start + 2 * count <= pointer < self.page_size - 3)

    def _types(self, page: bytes, start: int) -> tuple[list[int], int]:
        return _column_types(page[start : start + 200])

    def _local(self, size: int, largest: int) -> int:
        """How many bytes of a long record are in its own page."""
        least = (self._usable - 12) * 32 // 255 - 23
        wanted = least + (size - least) % (self._usable - 4)
        return wanted if wanted <= largest else least

    def _overflow(self, pointer: bytes, size: int) -> bytes:
        if size > min((self._n_in_file + len(self._logged)) * self.page_size, limits.VALUE_BYTES):
            raise _Malformed
        parts = []
        number = int.from_bytes(pointer, "big")
        seen = set()
        while size > 0:
            if not 0 < number <= self.n_pages or number in seen:
                raise _Malformed
            seen.add(number)
            page = self.page(number)
            part = page[4 : min(self._usable, 4 + size)]
            parts.append(part)
            size -= len(part)
            number = int.from_bytes(page[:4], "big")
        return b"".join(parts)


def _first_byte(number: int) -> int:
    """Where a page begins: the first one has the file's header before it."""
    return 100 if number == 1 else 0


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where the next begins."""
    value = 0
    for step in range(9):
        if position >= len(content):
            raise _Malformed
        byte = content[position]
        position += 1
        if step == 8:
            return (value << 8) | byte, position
        value = (value << 7) | (byte & 0x7F)
        if byte < 0x80:
            return value, position
    raise _Malformed


def _cell_head(page: bytes, pointer: int) -> tuple[int, int, int]:
    """Bytes of a row's record, its number, and where the record begins."""
    size, position = _varint(page, pointer)
    rowid, position = _varint(page, position)
    return size, rowid - (1 << 64) if rowid >= 1 << 63 else rowid, position


def _column_types(payload: bytes) -> tuple[list[int], int]:
    """The type of each column of a record, and where its values begin."""
    end, position = _varint(payload, 0)
    if not position <= end <= len(payload):
        raise _Malformed
    types = []
    while position < end:
        kind, position = _varint(payload, position)
        types.append(kind)
    if position != end:
        raise _Malformed
    return types, end


def _record(payload: bytes, most: int | None = None) -> list[Any]:
    types, position = _column_types(payload)
    values = []
    for kind in types[:most]:
        size = _INT_BYTES[kind] if kind < 8 else (kind - 12) // 2 if kind >= 12 else 0
        content = payload[position : position + size]
        if len(content) != size or kind in (10, 11):
            raise _Malformed
        position += size
        values.append(_value(kind, content))
    return values


_INT_BYTES = (0, 1, 2, 3, 4, 6, 8, 8)


def _value(kind: int, content: bytes) -> Any:
    if kind >= 12:
        return content if kind % 2 == 0 else _text(content)
    if kind == 7:
        return struct.unpack(">d", content)[0]
    if kind in (0, 8, 9):
        return {0: None, 8: 0, 9: 1}[kind]
    return int.from_bytes(content, "big", signed=True)


def _text(content: bytes) -> str | bytes:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def _log_sums(order: str, content: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    """The log's running checksum."""
    first, second = sums
    words = struct.unpack(f"{order}{len(content) // 4}I", content)
    for position in range(0, len(words), 2):
        first = (first + words[position] + second) & 0xFFFFFFFF
        second = (second + words[position + 1] + first) & 0xFFFFFFFF
    return first, second
