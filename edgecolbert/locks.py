"""Who holds a database's write lock, for the message of whoever waited for it in vain."""

from __future__ import annotations

import os
from pathlib import Path

# SQLite's lock of the writer in WAL mode is this byte of the shared-memory file (WAL_WRITE_LOCK in its os_unix.c).
_WRITE_LOCK_BYTE = 120
_LOCKS = Path("/proc/locks")


def write_lock_holder(path: str | Path) -> str | None:
    """Who writes to a database at this moment, where the system tells.

    Only Linux does. Nothing of the database is opened for it: closing a file again would drop all locks that this
    process has on it.

    Args:
        path: The database file.

    Returns:
        "another connection of this process", "process 123 (name)", or None where it is unknown or nobody.
    """
    try:
        memory = os.stat(f"{path}-shm")
        lines = _LOCKS.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    device = f"{os.major(memory.st_dev):02x}:{os.minor(memory.st_dev):02x}:{memory.st_ino}"
    found = [(place, pid) for place, pid in map(_writer, lines) if place.endswith(f":{memory.st_ino}")]
    # Some file systems (btrfs, overlays) show another device in the list than they give to stat; so the device only
    # decides where the number of the file alone does not.
    holders = {pid for place, pid in found if place == device} or {pid for _, pid in found}
    if len(holders) != 1:
        return None
    pid = holders.pop()
    if pid == os.getpid():
        return "another connection of this process"
    try:
        return f"process {pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    except (OSError, UnicodeDecodeError):
        return f"process {pid}"


def _writer(line: str) -> tuple[str, int]:
    """File and process of a line of the list if it is the lock of a writer."""
    # For example "1: POSIX  ADVISORY  WRITE 12345 08:01:131 120 120"; one with an arrow is of a process that waits.
    match line.split():
        case [_, "POSIX", _, "WRITE", pid, place, first, last] if last != "EOF":
            if int(first) <= _WRITE_LOCK_BYTE <= int(last):
                return place, int(pid)
    return "", 0
