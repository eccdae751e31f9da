"""The key of an encrypted database, and the SQLite that reads one (SQLCipher, the extra `edgecolbert[encryption]`)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from edgecolbert.errors import InputError, InputTypeError, MissingExtraError

KeySource = str | bytes | Callable[[], str | bytes]

# What SQLCipher keeps of each page for itself: a start vector and a code that authenticates the page.
PAGE_OVERHEAD = 16 + 64

_RAW_BYTES = 32
_RAW_DIGITS = re.compile(r"[0-9a-fA-F]{64}")


class Key:
    """A key, or where to get it. It shows itself in no message, is never stored, and is asked for at each opening.

    Args:
        source: A passphrase; the key itself as 32 bytes or 64 hexadecimal digits; or a function giving one of these.
    """

    __slots__ = ("_source",)

    def __init__(self, source: KeySource) -> None:
        if not isinstance(source, str | bytes) and not callable(source):
            raise InputTypeError(f"key is {type(source).__name__}, expected a string, bytes, or a function giving one.")
        self._source = source
        if not callable(source):
            self.literal()

    @classmethod
    def of(cls, source: KeySource | Key | None) -> Key | None:
        """The key of a source, if there is one.

        Args:
            source: As the class takes it, or a key already.

        Returns:
            The key, or None for None.
        """
        return source if source is None or isinstance(source, Key) else cls(source)

    def __repr__(self) -> str:
        """The same for every key."""
        return "Key(...)"

    def __reduce__(self) -> str | tuple[object, ...]:
        """Refused: a pickle would hold the key in plain text."""
        raise TypeError("A key cannot be pickled.")

    def literal(self) -> str:
        """The key as SQL has it after `PRAGMA key =`.

        Returns:
            A quoted passphrase, or the quoted digits of a key.

        Raises:
            InputError: If the key is empty, holds a NUL, or is bytes of another length than 32.
            InputTypeError: If it is neither a string nor bytes.
        """
        key = self._source() if callable(self._source) else self._source
        # The messages say nothing of the key itself.
        if isinstance(key, bytes):
            if len(key) != _RAW_BYTES:
                raise InputError(
                    f"The key has {len(key)} bytes, expected {_RAW_BYTES}; or give a passphrase as a string."
                )
            return f"\"x'{key.hex()}'\""
        if not isinstance(key, str):
            raise InputTypeError(f"The key is {type(key).__name__}, expected a string or bytes.")
        if not key or "\0" in key:
            # SQLCipher takes an empty key for no encryption at all.
            raise InputError("The key is empty or holds a NUL, expected a passphrase or 64 hexadecimal digits.")
        if _RAW_DIGITS.fullmatch(key):
            return f"\"x'{key}'\""
        return "'" + key.replace("'", "''") + "'"


def key_from_environment(name: str) -> Key:
    """The key that an environment variable has.

    Args:
        name: Name of the variable.

    Returns:
        The key.

    Raises:
        InputError: If the variable is not set, or empty.
    """

    def read() -> str:
        found = os.environ.get(name)
        if not found:
            raise InputError(f"The environment variable {name} is not set or empty, expected the database's key.")
        return found

    return Key(read)


def key_from_file(path: str | Path) -> Key:
    """The key that a file has: its text without the line break at the end.

    Args:
        path: The file.

    Returns:
        The key.

    Raises:
        InputError: If the file cannot be read or is not UTF-8.
    """

    def read() -> str:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            # Not the error itself: a UnicodeDecodeError has the bytes of the key.
            raise InputError(
                f"The key file {path} cannot be read ({type(error).__name__}), expected a UTF-8 text file."
            ) from None
        return text.removesuffix("\n").removesuffix("\r")

    return Key(read)


def cipher_driver() -> ModuleType:
    """SQLCipher's module, which has the interface of `sqlite3`.

    Returns:
        The module.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        from sqlcipher3 import dbapi2
    except ImportError as error:
        raise MissingExtraError.of("An encrypted database", "sqlcipher3", "encryption") from error
    found: ModuleType = dbapi2
    return found
