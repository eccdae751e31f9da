"""What users hand in: strings or records, checked and brought into one form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgecolbert import limits
from edgecolbert.content_keys import KINDS, TEXT, content_key, read_content_key
from edgecolbert.errors import InputError, InputTypeError
from edgecolbert.tokenizer import check_text
from edgecolbert.untrusted import shown

_KEYS = ("id", "text", "metadata")
_OPTIONAL_KEYS = ("title", "kind")
_ALL_KEYS = (*_KEYS, *_OPTIONAL_KEYS)


@dataclass(frozen=True, eq=False)
class Document(Mapping[str, Any]):
    """A record: `id`, `text` and `metadata`, as attributes or as keys. `Index.get` returns it, `Index.add` takes it.

    `title` and `kind` are keys only where the document has them.

    Attributes:
        id: Unique in an index.
        text: The whole text.
        metadata: JSON values by name.
        title: What the document is called, which its passages may carry; or None.
        kind: "markdown" or "code" where it is said, by which it may be split; or None for plain text.
    """

    id: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    title: str | None = None
    kind: str | None = None

    def __getitem__(self, key: str) -> Any:
        """The attribute of that name."""
        if key not in list(self):
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        """The names of what the document has."""
        return iter([*_KEYS, *(key for key in _OPTIONAL_KEYS if getattr(self, key) is not None)])

    def __len__(self) -> int:
        """How many they are."""
        return len(list(iter(self)))


@dataclass(frozen=True)
class Record:
    """A checked document, ready to store.

    Attributes:
        id: Unique id.
        text: The whole text.
        metadata: Its metadata as JSON text.
        hash: What its passages depend on: the hexadecimal SHA-256 of the text, with kind and title behind it where the
            document has them (`content_keys`).
    """

    id: str
    text: str
    metadata: str
    hash: str


def read_record(item: object, place: int | str) -> Record:
    """Check one document.

    Args:
        item: A string, or a mapping with `text` and optionally `id`, `metadata`, `title` and `kind`.
        place: Its position in the call, or a name for where it comes from, for messages.

    Returns:
        The record. Without an id the id is the hexadecimal SHA-256 of the text.

    Raises:
        InputTypeError: If the item or one of its parts has the wrong type.
        InputError: If it has an unknown key, no text, an empty id, an unknown kind, a lone surrogate, metadata that is
            not JSON, or more of anything than `edgecolbert.limits` allows.
    """
    where = place if isinstance(place, str) else f"documents[{place}]"
    if isinstance(item, str):
        item = {"text": item}
    if not isinstance(item, Mapping):
        raise InputTypeError(f"{where} is {type(item).__name__}, expected a string or a mapping with id and text.")
    unknown = [key for key in item if key not in _ALL_KEYS]
    if unknown:
        raise InputError(
            f"{where} has unknown keys {shown(unknown)}, expected {list(_ALL_KEYS)}. Put other values into metadata."
        )
    if "text" not in item:
        raise InputError(f"{where} has no text.")
    text = check_text(item["text"], f"{where}: text")
    check_size(text, limits.RECORD_BYTES, f"{where}: text", "RECORD_BYTES")
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    identifier = item.get("id")
    if identifier is None:
        identifier = digest
    check_id(identifier, where)
    # Here and not in `check_id`: what is stored already must be found and deleted whatever the limit is now.
    check_size(identifier, limits.ID_BYTES, f"{where}: id", "ID_BYTES")
    key = content_key(digest, _checked_kind(item.get("kind"), where), _checked_title(item.get("title"), where))
    return Record(identifier, text, _metadata_json(item.get("metadata"), where), key)


def _checked_kind(kind: object, where: str) -> str | None:
    if kind is not None and kind not in KINDS:
        raise InputError(f"{where}: kind is {shown(kind)}, expected one of {', '.join(KINDS)}, or nothing.")
    # Plain text is what a document is where nothing is said.
    return None if kind in (None, TEXT) else str(kind)


def _checked_title(title: object, where: str) -> str | None:
    if title is None:
        return None
    words = " ".join(check_text(title, f"{where}: title").split())
    check_size(words, limits.ID_BYTES, f"{where}: title", "ID_BYTES")
    return words or None


def is_sound_text(text: bytes | None, key: object) -> bool:
    """Whether a stored text matches what it is stored by.

    Args:
        text: The text in UTF-8, or None where damage has left none.
        key: What is stored as `Record.hash`.

    Returns:
        Whether it is the text that was stored, and kind and title can be read.
    """
    if text is None or not isinstance(key, str):
        return False
    try:
        return hashlib.sha256(text).hexdigest() == read_content_key(key).digest
    except ValueError:
        return False


def check_size(text: str, most: int, what: str, limit: str) -> None:
    """Refuse a text that is too long.

    Args:
        text: Valid Unicode.
        most: Most bytes of it in UTF-8.
        what: How to name it in the error.
        limit: The name of the limit in `edgecolbert.limits`.

    Raises:
        InputError: If it has more.
    """
    # Four bytes a character at most, so that short texts, nearly all, are not encoded to be measured.
    if 4 * len(text) > most and (size := len(text.encode("utf-8"))) > most:
        raise InputError(
            f"{what} has {size} bytes, expected at most {most}. Cut it into several, or raise the limit "
            f"edgecolbert.limits.{limit}."
        )


def check_id(identifier: object, where: str) -> str:
    """Check a document id.

    Args:
        identifier: What a user gave.
        where: How to name its place in messages.

    Returns:
        The same id.

    Raises:
        InputTypeError: If it is not a string.
        InputError: If it is empty or holds a lone surrogate.
    """
    if not isinstance(identifier, str):
        raise InputTypeError(
            f"{where}: id is {shown(identifier)} ({type(identifier).__name__}), expected a string. Use str(id)."
        )
    if not identifier:
        raise InputError(f"{where}: id is empty. Leave it out to use the text's hash.")
    return check_text(identifier, f"{where}: id")


def _metadata_json(metadata: object, where: str) -> str:
    if metadata is None:
        return "{}"
    if not isinstance(metadata, Mapping):
        raise InputTypeError(f"{where}: metadata is {type(metadata).__name__}, expected a mapping.")
    try:
        _check_keys(metadata, f"{where}: metadata", limits.METADATA_DEPTH)
        text = json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise InputError(f"{where}: metadata is nested too deeply, or contains itself.") from None
    except (InputError, InputTypeError):
        raise
    except TypeError as error:
        raise InputTypeError(f"{where}: metadata is not JSON: {error}.") from None
    except ValueError as error:
        raise InputError(f"{where}: metadata is not JSON (NaN and infinity are not): {error}.") from None
    check_text(text, f"{where}: metadata")
    check_size(text, limits.METADATA_BYTES, f"{where}: metadata", "METADATA_BYTES")
    return text


def _check_keys(value: object, where: str, depth: int) -> None:
    """JSON would turn other keys into strings, and the record would not come back as it was."""
    if not isinstance(value, Mapping | list | tuple):
        return
    # One record that SQLite finds too deep would make every filtered search over the database fail.
    if depth == 0:
        raise InputError(
            f"{where} is nested too deeply, or contains itself; at most {limits.METADATA_DEPTH} objects and lists lie "
            "inside one another (edgecolbert.limits.METADATA_DEPTH)."
        )
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InputTypeError(f"{where} has the key {shown(key)}, expected only strings.")
    for entry in value.values() if isinstance(value, Mapping) else value:
        _check_keys(entry, where, depth - 1)
