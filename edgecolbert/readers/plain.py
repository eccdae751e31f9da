"""Plain text, Markdown and source code, and how their bytes become characters."""

from __future__ import annotations

import codecs
import re

from edgecolbert.chunking.markdown import headings
from edgecolbert.readers.parsed import Parsed

# Bytes that a guess is made from; with fewer than some foreign ones among them every guess is as good as the next.
_SAMPLE, _FEW = 2**20, 10
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What files that are not Unicode are in. Among the other hundred, short texts find one that fits by accident.
_ENCODINGS = (
    *("cp1252", "cp1250", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257"),
    *("cp932", "euc_jp", "gb18030", "big5", "cp949", "mac_roman"),
)
_CODING = re.compile(rb"^[ \t\f]*(?:#|//|/\*|%|;|--).*?coding[:=][ \t]*([-\w.]{2,40})", re.MULTILINE)
_HEAD = 20_000
_FRONT_TITLE = re.compile(r"""^title:[ \t]*(['"]?)(.+?)\1[ \t]*$""", re.MULTILINE)


def read(content: bytes, name: str) -> Parsed:
    """Read a text.

    Args:
        content: Its bytes.
        name: Not used; what a text is called is in its first lines, or nowhere.

    Returns:
        The text; what it was guessed to be written in is noted.
    """
    # As editors and Python have it, in the first or second line of a source file.
    said = _CODING.search(b"\n".join(content[:500].split(b"\n", 2)[:2]))
    text, note = decode(content, said[1].decode("ascii") if said else None)
    return Parsed(text, notes=[note] if note else [])


def decode(content: bytes, declared: str | None = None) -> tuple[str, str | None]:
    """Turn bytes into characters.

    Args:
        content: The bytes.
        declared: The encoding that the file itself names, if it does.

    Returns:
        The text, and what to say about it: nothing if it is Unicode or what it says it is.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            try:
                return content.decode(encoding), None
            except UnicodeDecodeError:
                break
    try:
        return content.decode("utf-8"), None
    except UnicodeDecodeError as error:
        where = error.start
    if declared is not None:
        try:
            return content.decode(declared), None
        except (LookupError, UnicodeDecodeError):
            pass
    guess = _guess(content)
    if guess is not None:
        text = content.decode(guess, errors="replace")
        return text, f"it is not UTF-8 (byte {where}): it was read as {guess}, which is a guess"
    return (
        content.decode("utf-8-sig", errors="replace"),
        f"it is not UTF-8 (byte {where}): unreadable bytes were replaced by \N{REPLACEMENT CHARACTER}",
    )


def is_binary(head: bytes) -> bool:
    """Whether the beginning of a file is no text: it has a NUL, and is not in UTF-16 or UTF-32."""
    return b"\0" in head and not head.startswith(tuple(mark for mark, _ in _MARKS))


def heading(text: str) -> str | None:
    """The title of a Markdown text: what its front matter says, or its first heading.

    Args:
        text: The text.

    Returns:
        The title, or None.
    """
    lines = text[:_HEAD].split("\n")
    if lines[0].rstrip() == "---":
        end = next((number for number, line in enumerate(lines[1:], start=1) if line.rstrip() == "---"), None)
        said = None if end is None else _FRONT_TITLE.search("\n".join(lines[1:end]))
        if said is not None:
            return said[2]
    return next((found.title for found in headings(text[:_HEAD]) if found.title), None)


def _guess(content: bytes) -> str | None:
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        return None
    sample = content[:_SAMPLE]
    if len(sample) - len(sample.translate(None, bytes(range(128, 256)))) < _FEW:
        return "cp1252"
    matches = list(from_bytes(sample, cp_isolation=list(_ENCODINGS)))
    if not matches:
        return None
    best = matches[0]
    # Equally good for the words of many languages; then the one that more files are in.
    ties = [match.encoding for match in matches if (match.chaos, match.coherence) == (best.chaos, best.coherence)]
    return "cp1252" if "cp1252" in ties else str(best.encoding)
