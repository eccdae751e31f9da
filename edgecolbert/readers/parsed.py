"""What a reader gives: a text and what it knows of the document, or the reason why it cannot."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from edgecolbert import limits
from edgecolbert.errors import InputError

# Longer ones are no titles, and would be carried into every list of hits.
_TITLE_CHARACTERS = 300
_REASON_CHARACTERS = 200


class UnreadableError(InputError):
    """A file cannot be read; the message is the reason, without the file's name."""


@dataclass
class Parsed:
    """The content of one document.

    Attributes:
        text: All of it, valid Unicode; Markdown where the format has headings, with a form feed between pages.
        title: What the document says that it is called, or None.
        metadata: More that it says of itself, such as its author.
        notes: What was lost or guessed.
    """

    text: str
    title: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def parse(reader: str, content: bytes, name: str) -> Parsed:
    """Read a file's content.

    Args:
        reader: The module of this package that can.
        content: The file's bytes.
        name: The file's name, without folders.

    Returns:
        What is in it.

    Raises:
        UnreadableError: Whatever was the matter: parsers of other people's files raise anything.
    """
    try:
        module = import_module(f"edgecolbert.readers.{reader}")
        parsed: Parsed = module.read(content, name)
    except UnreadableError:
        raise
    except MemoryError:
        raise UnreadableError(
            f"reading it took more than {limits.READER_MEMORY_BYTES} bytes of memory "
            "(edgecolbert.limits.READER_MEMORY_BYTES)"
        ) from None
    except ImportError as error:
        raise UnreadableError(
            f"its reader cannot be imported ({str(error)[:_REASON_CHARACTERS]}); try pip install 'edgecolbert[readers]'"
        ) from error
    except RecursionError:
        raise UnreadableError("it is nested too deeply") from None
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UnreadableError(f"it is damaged, or not what its name says ({reason[:_REASON_CHARACTERS]})") from error
    check_length(parsed.text)
    parsed.text = sound(parsed.text)
    parsed.title = one_line(parsed.title)
    return parsed


def check_length(text: str, before: int = 0) -> int:
    """Refuse a text that is longer than a document may be.

    Args:
        text: A text, or a part of one.
        before: Characters of the parts before it.

    Returns:
        Characters so far.

    Raises:
        UnreadableError: If it is too long for certain; how many bytes it has is seen when it is added.
    """
    if (length := before + len(text)) > limits.RECORD_BYTES:
        raise UnreadableError(too_long())
    return length


def too_long() -> str:
    """Why a text is refused that is too long."""
    most = limits.RECORD_BYTES
    return f"it has more than {most} bytes; cut it into several documents, or raise the limit (--max-record-mb)"


def sound(text: str) -> str:
    """A text without lone surrogates, which fonts of PDFs and escapes of JSON may give."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def one_line(title: object) -> str | None:
    """A title without line breaks and of bearable length.

    Args:
        title: What a document says; anything.

    Returns:
        The title, or None where there is none.
    """
    if not isinstance(title, str):
        return None
    line = " ".join(sound(title[: 4 * _TITLE_CHARACTERS]).split())
    return line[:_TITLE_CHARACTERS] or None
