"""EPUB: a ZIP archive of pages, and a file that says in which order they are read."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote

# Expat bounds what entities grow to, and ElementTree reads no other file for them.
from xml.etree import ElementTree

from edgecolbert.readers import html
from edgecolbert.readers.archive import Archive
from edgecolbert.readers.parsed import Parsed, UnreadableError, check_length

_CONTAINER = "{urn:oasis:names:tc:opendocument:xmlns:container}"
_PACKAGE = "{http://www.idpf.org/2007/opf}"
_DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"
_CIPHER = "{http://www.w3.org/2001/04/xmlenc#}CipherReference"
_PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")


def read(content: bytes, name: str) -> Parsed:
    """Read a book.

    Args:
        content: Its bytes.
        name: Not used.

    Returns:
        Its pages in reading order, as Markdown.

    Raises:
        UnreadableError: If it is damaged, or its pages are encrypted.
    """
    archive = Archive(content)
    package_path = _package_path(archive)
    package = _xml(archive, package_path)
    base = posixpath.dirname(package_path)
    items = {
        item.get("id"): _resolved(base, item.get("href") or "")
        for item in package.iterfind(f"{_PACKAGE}manifest/{_PACKAGE}item")
        if item.get("media-type") in _PAGES
    }
    order = [items.get(entry.get("idref")) for entry in package.iterfind(f"{_PACKAGE}spine/{_PACKAGE}itemref")]
    encrypted = _encrypted(archive)
    texts: list[str] = []
    notes: list[str] = []
    n_characters = 0
    for path in dict.fromkeys(path for path in order if path is not None):
        if path in encrypted:
            raise UnreadableError("it is encrypted (copy protection)")
        if path not in archive:
            notes.append(f"a page is missing: {path[:100]!r}")
            continue
        page = html.read(archive.read(path), path)
        n_characters = check_length(page.text, n_characters)
        if page.text:
            texts.append(page.text)
    if not texts:
        raise UnreadableError("it has no text")
    said = {
        tag: " ".join(", ".join(value.text or "" for value in package.iter(_DUBLIN_CORE + tag)).split())[:300]
        for tag in ("title", "creator", "language")
    }
    metadata = {key: said[tag] for key, tag in (("author", "creator"), ("language", "language")) if said[tag]}
    return Parsed("\n\n".join(texts), said["title"], metadata, notes)


def _package_path(archive: Archive) -> str:
    container = _xml(archive, "META-INF/container.xml")
    for root in container.iter(f"{_CONTAINER}rootfile"):
        path = root.get("full-path")
        if path:
            return path
    raise UnreadableError("it is damaged: META-INF/container.xml names no package")


def _encrypted(archive: Archive) -> set[str]:
    """Files that are encrypted; fonts often are in books that everybody may read."""
    if "META-INF/encryption.xml" not in archive:
        return set()
    return {_resolved("", entry.get("URI") or "") for entry in _xml(archive, "META-INF/encryption.xml").iter(_CIPHER)}


def _resolved(base: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(base, unquote(link.partition("#")[0])))


def _xml(archive: Archive, name: str) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(archive.read(name))  # noqa: S314
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UnreadableError(f"it is damaged: {name[:100]!r} is no XML ({error})") from None
