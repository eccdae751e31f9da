"""A layer between SQLite and the disk, put under the very SQLite library that Python uses.

The library's default VFS stays in charge of every file; the layer only notes or refuses what passes through. So the
store, Python's sqlite3 and SQLite itself are those that users have. It works where `_sqlite3` is linked with a shared
library whose functions can be found; `find_library` says why not elsewhere.
"""

from __future__ import annotations

import ctypes
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

OK, IOERR, FULL = 0, 10, 13
# Extended codes that the VFS gives when a call of that kind fails.
FAILURES = {"read": 266, "write": 778, "sync": 1034, "truncate": 1546}
_JOURNALS = 0x0008_0800  # SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL
_ERROR_WRITE, _DELETE_SYNCS = 778, 1

_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_DELETE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_READ = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_WRITE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = CFUNCTYPE(c_int, c_void_p, c_int)


class _Vfs(Structure):
    _fields_ = (
        ("version", c_int),
        ("file_bytes", c_int),
        ("longest_path", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        ("open", c_void_p),
        ("delete", c_void_p),
        ("others", c_void_p * 13),
    )


class _Methods(Structure):
    _fields_ = (
        ("version", c_int),
        ("close", c_void_p),
        ("read", c_void_p),
        ("write", c_void_p),
        ("truncate", c_void_p),
        ("sync", c_void_p),
        ("others", c_void_p * 13),
    )


class _File(Structure):
    _fields_ = (("methods", POINTER(_Methods)),)


class Event(NamedTuple):
    """One thing that happened, in the order it happened.

    Attributes:
        kind: "write", "truncate" or "sync" of a file's contents; "create", "delete" or "settle" of the folder's
            entries, the last where SQLite synchronised the folder; "acknowledged" for what the caller was told.
        file: Number of the file; a name that is made anew has a new number. -1 where there is none.
        place: Offset in bytes of a write, new size of a truncation, or number of what was acknowledged.
        data: What was written, or the file's name.
    """

    kind: str
    file: int = -1
    place: int = 0
    data: bytes = b""


class Fault(NamedTuple):
    """Which call fails.

    Attributes:
        kind: "read", "write", "sync" or "truncate".
        nth: The first call of that kind that fails, counted from 1.
        code: What SQLite is told.
        stays: Whether all later calls of that kind fail as well.
    """

    kind: str
    nth: int
    code: int
    stays: bool


def find_library() -> ctypes.CDLL:
    """The SQLite library that Python's sqlite3 is linked with.

    Raises:
        RuntimeError: If it cannot be found, so that nothing can be put under it.
    """
    import _sqlite3
    import sqlite3

    sqlite3.connect(":memory:").close()
    paths = [_sqlite3.__file__]
    maps = Path("/proc/self/maps")
    if maps.exists():
        lines = maps.read_text().splitlines()
        paths = sorted({line.split(maxsplit=5)[5] for line in lines if "libsqlite3" in line}) + paths
    for path in paths:
        library = ctypes.CDLL(path)
        try:
            library.sqlite3_libversion.restype = c_char_p
            version = library.sqlite3_libversion().decode()
            library.sqlite3_vfs_find.restype = POINTER(_Vfs)
        except AttributeError:
            continue
        if version == sqlite3.sqlite_version:
            return library
    raise RuntimeError("this Python's SQLite is linked in such a way that its functions cannot be reached")


class Shim:
    """Notes what SQLite does to the files of one folder, and lets calls fail.

    Args:
        folder: Only files in it are noted; calls that fail are counted for all files.
        note: Whether to keep a log at all.
    """

    def __init__(self, folder: Path, *, note: bool = True) -> None:
        self.folder = folder.resolve()
        self.log: list[Event] = []
        self.counts = dict.fromkeys(FAILURES, 0)
        self.fired = 0
        self.fault: Fault | None = None
        self.errors: list[str] = []
        # Files that were there before are durable as they are.
        self.before = {number: path for number, path in enumerate(sorted(self.folder.iterdir())) if path.is_file()}
        self._note = note
        self._names = {path.name: number for number, path in self.before.items()}
        self._next = len(self.before)
        self._open: dict[int, int] = {}
        # Journals that were made and whose entry in the folder SQLite settles with their first sync.
        self._unsettled: set[int] = set()
        self._tables: dict[int, _Methods] = {}
        self._alive: list[Any] = []

    def acknowledge(self, number: int) -> None:
        """Put into the log what the caller was told."""
        self.log.append(Event("acknowledged", place=number))

    @contextmanager
    def active(self) -> Iterator[Shim]:
        """Under every connection that is opened inside.

        Raises:
            RuntimeError: If the layer itself failed, so that what it noted is worth nothing.
        """
        library = find_library()
        original = library.sqlite3_vfs_find(None)
        self._original = original.contents
        vfs = _Vfs()
        ctypes.memmove(byref(vfs), original, ctypes.sizeof(_Vfs))
        vfs.name, vfs.next = b"reliability-shim", None
        vfs.open = self._pointer(_OPEN, self._on_open)
        vfs.delete = self._pointer(_DELETE, self._on_delete)
        self._vfs = vfs
        library.sqlite3_vfs_register(byref(vfs), 1)
        try:
            yield self
        finally:
            library.sqlite3_vfs_unregister(byref(vfs))
            library.sqlite3_vfs_register(original, 1)
        if self.errors:
            raise RuntimeError("the layer under SQLite failed:\n" + "\n".join(self.errors))

    def _pointer(self, prototype: Any, function: Callable[..., int]) -> int:
        def guarded(*arguments: Any) -> int:
            try:
                return function(*arguments)
            except BaseException:
                # ctypes would print it and tell SQLite that all went well.
                self.errors.append(traceback.format_exc())
                return IOERR

        callback = prototype(guarded)
        self._alive.append(callback)
        return int(ctypes.cast(callback, c_void_p).value or 0)

    def _on_open(self, vfs: int, name: int | None, file: int, flags: int, flags_out: int | None) -> int:
        path = None if not name else Path(os.fsdecode(ctypes.string_at(name)))
        there = path is not None and path.exists()
        code = int(_OPEN(self._original.open)(vfs, name, file, flags, flags_out))
        if code != OK:
            return code
        self._open.pop(file, None)
        if path is not None and path.parent.resolve() == self.folder:
            number = self._names.get(path.name)
            if number is None or not there:
                number = self._names[path.name] = self._next
                self._next += 1
                self._add("create", number, data=path.name.encode())
                if flags & _JOURNALS:
                    self._unsettled.add(number)
            self._open[file] = number
        handle = ctypes.cast(file, POINTER(_File)).contents
        handle.methods = ctypes.pointer(self._patched(handle.methods))
        return OK

    def _patched(self, methods: Any) -> _Methods:
        """A copy of a table of functions, with ours in four places."""
        address = ctypes.addressof(methods.contents)
        if address not in self._tables:
            original = methods.contents
            size = ctypes.sizeof(_Methods)
            if original.version < 3:  # an older table is shorter
                size -= 2 * ctypes.sizeof(c_void_p)
            table = _Methods()
            ctypes.memmove(byref(table), methods, size)
            table.read = self._pointer(_READ, self._on_read(_READ(original.read)))
            table.write = self._pointer(_WRITE, self._on_write(_WRITE(original.write)))
            table.truncate = self._pointer(_TRUNCATE, self._on_truncate(_TRUNCATE(original.truncate)))
            table.sync = self._pointer(_SYNC, self._on_sync(_SYNC(original.sync)))
            self._tables[address] = table
        return self._tables[address]

    def _on_read(self, original: Any) -> Callable[..., int]:
        def read(file: int, into: int, amount: int, offset: int) -> int:
            return self._refused("read") or original(file, into, amount, offset)

        return read

    def _on_write(self, original: Any) -> Callable[..., int]:
        def write(file: int, data: int, amount: int, offset: int) -> int:
            code = self._refused("write") or original(file, data, amount, offset)
            if code == OK and self._note and file in self._open:
                self._add("write", self._open[file], offset, ctypes.string_at(data, amount))
            return int(code)

        return write

    def _on_truncate(self, original: Any) -> Callable[..., int]:
        def truncate(file: int, size: int) -> int:
            code = self._refused("truncate") or original(file, size)
            if code == OK and file in self._open:
                self._add("truncate", self._open[file], size)
            return int(code)

        return truncate

    def _on_sync(self, original: Any) -> Callable[..., int]:
        def sync(file: int, flags: int) -> int:
            code = self._refused("sync") or original(file, flags)
            if code == OK and file in self._open:
                number = self._open[file]
                self._add("sync", number)
                if number in self._unsettled:
                    self._unsettled.discard(number)
                    self._add("settle")
            return int(code)

        return sync

    def _on_delete(self, vfs: int, name: int, sync_folder: int) -> int:
        code = int(_DELETE(self._original.delete)(vfs, name, sync_folder))
        path = Path(os.fsdecode(ctypes.string_at(name)))
        if code == OK and path.parent.resolve() == self.folder and path.name in self._names:
            self._add("delete", self._names.pop(path.name), data=path.name.encode())
            if sync_folder & _DELETE_SYNCS:
                self._add("settle")
        return code

    def _add(self, kind: str, file: int = -1, place: int = 0, data: bytes = b"") -> None:
        if self._note:
            self.log.append(Event(kind, file, place, data))

    def _refused(self, kind: str) -> int:
        """The code of the fault that is due at this call, or 0."""
        self.counts[kind] += 1
        fault = self.fault
        if fault is None or fault.kind != kind:
            return OK
        if self.counts[kind] == fault.nth or (fault.stays and self.counts[kind] > fault.nth):
            self.fired += 1
            return fault.code
        return OK
