"""PDF, through PDFium (pypdfium2)."""

from __future__ import annotations

import re
from typing import Any

from edgecolbert.readers.parsed import Parsed, UnreadableError, check_length

# What programs write where a title should be.
_NO_TITLE = re.compile(r"untitled.*|\(?anonymous\)?|.*\.(docx?|dvi|tex|indd|qxd|ps|pptx?|xlsx?|rtf|odt)", re.IGNORECASE)
# PDFium puts this character where a word was divided at the end of a line.
_DIVISION = "\x02"


def read(content: bytes, name: str) -> Parsed:
    """Read a PDF.

    Args:
        content: Its bytes.
        name: Not used.

    Returns:
        The text of its pages with a form feed after each but the last, so that the number of form feeds before a
        character is the number of pages before it.

    Raises:
        UnreadableError: If it is damaged, encrypted with a password, or has no text.
    """
    from pypdfium2 import PdfDocument, PdfiumError

    try:
        document = PdfDocument(content)
    except PdfiumError as error:
        if "password" in str(error).lower():
            raise UnreadableError("it is encrypted with a password") from None
        raise UnreadableError(f"it is damaged: {str(error).rstrip('.')}") from None
    texts: list[str] = []
    failed = n_characters = 0
    for number in range(len(document)):
        try:
            text = _page(document, number)
        except PdfiumError:
            # One page may be damaged, and the others not.
            failed += 1
            text = ""
        n_characters = check_length(text, n_characters)
        texts.append(text)
    if not any(texts):
        why = "its pages cannot be read" if failed else "it has no text; pages that are pictures are not recognized"
        raise UnreadableError(why)
    notes = [f"{failed} of its {len(texts)} pages cannot be read"] if failed else []
    said = document.get_metadata_dict()
    title, author = (" ".join(str(said.get(key) or "").split()) for key in ("Title", "Author"))
    title = title.removeprefix("Microsoft Word - ")
    metadata: dict[str, Any] = {"pages": len(texts)} | ({"author": author[:300]} if author else {})
    return Parsed("\f".join(texts), None if _NO_TITLE.fullmatch(title) else title, metadata, notes)


def _page(document: Any, number: int) -> str:
    page = document[number]
    try:
        opened = page.get_textpage()
        try:
            text = str(opened.get_text_bounded())
        finally:
            opened.close()
    finally:
        # A book's pages would otherwise all stay in memory.
        page.close()
    return text.replace(_DIVISION, "").replace("\r\n", "\n").replace("\f", "\n").strip()
