"""Documents that are ZIP archives, unpacked no further than they may be."""

from __future__ import annotations

import io
import zipfile
import zlib

from edgecolbert import limits
from edgecolbert.readers.parsed import UnreadableError

# The beginning of Microsoft's older files, which hold an encrypted document of today, too.
_COMPOUND_FILE = bytes.fromhex("d0cf11e0a1b11ae1")


class Archive:
    """An archive in memory.

    Args:
        content: Its bytes.

    Raises:
        UnreadableError: If it is none, or is encrypted.
    """

    def __init__(self, content: bytes) -> None:
        if content.startswith(_COMPOUND_FILE):
            raise UnreadableError("it is encrypted, or in a format of before 2007")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise UnreadableError(f"it is damaged: {error}") from None
        self._entries = {entry.filename: entry for entry in self._zip.infolist()}
        if len(self._zip.infolist()) > limits.ARCHIVE_ENTRIES:
            raise UnreadableError(
                f"it holds more than {limits.ARCHIVE_ENTRIES} files (edgecolbert.limits.ARCHIVE_ENTRIES)"
            )
        self._left = limits.UNPACKED_BYTES

    def __contains__(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return name in self._entries

    def check_all(self) -> None:
        """Refuse an archive whose files together are too large, for a reader that unpacks it by itself.

        What an archive says of its sizes may be wrong, but no more than that is ever unpacked.
        """
        for entry in self._zip.infolist():
            self._take(entry)

    def read(self, name: str) -> bytes:
        """Unpack one file.

        Args:
            name: Its name.

        Returns:
            Its content.

        Raises:
            UnreadableError: If there is none, it is encrypted or damaged, or too much was unpacked.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise UnreadableError(f"it is damaged: there is no {name[:100]!r} in it")
        self._take(entry)
        try:
            return self._zip.read(entry)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError, OSError) as error:
            raise UnreadableError(f"it is damaged: {name[:100]!r} cannot be unpacked ({error})") from None

    def _take(self, entry: zipfile.ZipInfo) -> None:
        if entry.flag_bits & 1:
            raise UnreadableError("it is encrypted")
        self._left -= entry.file_size
        if self._left < 0:
            raise UnreadableError(
                f"it has more than {limits.UNPACKED_BYTES} bytes unpacked (edgecolbert.limits.UNPACKED_BYTES)"
            )
