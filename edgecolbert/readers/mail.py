"""E-mail: single messages, and mailboxes of many in one file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import MIMEPart
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO

from edgecolbert import limits
from edgecolbert.readers import html
from edgecolbert.readers.parsed import Parsed, UnreadableError, one_line
from edgecolbert.readers.plain import decode

_HEADERS = ("From", "To", "Cc", "Date")
_SEPARATOR = re.compile(rb"From .*\d{1,2}:\d\d(:\d\d)?.*\d{4}")
# Messages inside of messages; more are an attack.
_DEPTH = 20


def read(content: bytes, name: str) -> Parsed:
    """Read a message.

    Args:
        content: Its bytes.
        name: Not used.

    Returns:
        Subject, sender, receivers, date, text, and the names of what is attached.

    Raises:
        UnreadableError: If it is no message.
    """
    message = message_from_bytes(content, policy=policy.default)
    if not message.keys():
        raise UnreadableError("it is no e-mail: it begins without a header")
    attached: list[str] = []
    bodies = list(_bodies(message, attached, _DEPTH))
    subject = _header(message, "Subject")
    lines = [f"{name}: {value}" for name in _HEADERS if (value := _header(message, name))]
    if attached:
        lines.append(f"Attachments: {', '.join(attached)}")
    text = "\n\n".join(part for part in (subject, "\n".join(lines), *bodies) if part and part.strip())
    metadata = {name.lower(): value[:300] for name in ("From", "To") if (value := _header(message, name))}
    sent = _sent(_header(message, "Date"))
    return Parsed(text, subject, metadata | ({"sent": sent} if sent else {}))


def is_mailbox(head: bytes) -> bool:
    """Whether a file begins like a mailbox of many messages."""
    return _SEPARATOR.match(head.partition(b"\n")[0]) is not None


def messages(file: BinaryIO) -> Iterator[bytes | None]:
    """Cut a mailbox into its messages, reading one after the other.

    Args:
        file: An mbox.

    Yields:
        The bytes of each message; None for one that is longer than `limits.FILE_BYTES`.

    Raises:
        UnreadableError: If it is no mailbox.
    """
    lines: list[bytes] = []
    size = 0
    started = False
    blank = True
    whole = True  # the line before ended with a line break
    while line := file.readline(2**16):
        if whole and blank and _SEPARATOR.match(line):
            if started:
                yield b"".join(lines) if size <= limits.FILE_BYTES else None
            lines, size, started = [], 0, True
        elif started:
            size += len(line)
            if size <= limits.FILE_BYTES:
                # Mailboxes put a ">" before lines that would look like the beginning of a message.
                lines.append(line[1:] if whole and re.match(rb">+From ", line) else line)
            else:
                lines = []
        elif line.strip():
            raise UnreadableError("it is no mailbox: its first line is not 'From ...'")
        blank = whole and not line.strip()
        whole = line.endswith(b"\n")
    if started:
        yield b"".join(lines) if size <= limits.FILE_BYTES else None


def message_id(content: bytes) -> str | None:
    """The Message-ID of a message, as far as it can be told without reading the message.

    Args:
        content: The message.

    Returns:
        The id without its angle brackets, or None.
    """
    head = re.split(rb"\r?\n\r?\n", content[: 2**16], maxsplit=1)[0]
    found = re.search(rb"^message-id:\s*<?([!-;=?-~]{1,250})>?\s*$", head, re.IGNORECASE | re.MULTILINE)
    return found[1].decode("ascii") if found else None


def _bodies(message: MIMEPart[Any, Any], attached: list[str], depth: int) -> Iterator[str]:
    if depth == 0:
        return
    kind = message.get_content_type()
    if kind == "multipart/alternative":
        found = []
        for part in message.iter_parts():
            names: list[str] = []
            bodies = "\n\n".join(_bodies(part, names, depth - 1))
            attached += names
            if bodies.strip():
                found.append((part.get_content_type() != "text/plain", bodies))
        # Plain text, if there is one.
        yield from [bodies for _, bodies in sorted(found, key=lambda entry: entry[0])[:1]]
    elif message.is_multipart() and kind != "message/rfc822":
        for part in message.iter_parts():
            yield from _bodies(part, attached, depth - 1)
    elif kind == "message/rfc822":
        for part in message.iter_parts() if message.is_multipart() else ():
            yield _header(part, "Subject") or ""
            yield from _bodies(part, attached, depth - 1)
    elif message.get_filename() or message.get_content_disposition() == "attachment":
        attached.append(one_line(message.get_filename()) or "unnamed")
    elif kind in ("text/plain", "text/html"):
        text = _content(message)
        yield html.convert(text).text if kind == "text/html" else text.strip()


def _content(part: MIMEPart[Any, Any]) -> str:
    payload = part.get_payload(decode=True)
    content = payload if isinstance(payload, bytes) else str(payload or "").encode("utf-8", "surrogateescape")
    return decode(content, part.get_content_charset())[0].replace("\r\n", "\n")


def _header(message: MIMEPart[Any, Any], name: str) -> str | None:
    try:
        return one_line(str(message.get(name, "")))
    except Exception:
        # The standard library's parser fails on some headers of spam; the rest of the message can be read.
        return None


def _sent(date: str | None) -> str | None:
    try:
        return parsedate_to_datetime(date or "").isoformat()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
