"""HTML to Markdown: headings, lists, tables and code stay what they are, menus and scripts go."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from edgecolbert.readers.parsed import Parsed
from edgecolbert.readers.plain import decode

_DECLARED = re.compile(
    rb"""(?:charset\s*=\s*|<\?xml[^>]{0,100}encoding\s*=\s*)["']?\s*([\w.:-]{2,40})""", re.IGNORECASE
)
_UNSEEN = {"script", "style", "template", "svg", "noscript", "math", "object", "iframe", "select"}
_MENUS = {"nav"}
_BLOCKS = {
    *("address", "article", "aside", "blockquote", "body", "center", "dd", "details", "dialog", "div", "dl", "dt"),
    *("fieldset", "figcaption", "figure", "footer", "form", "header", "hr", "html", "legend", "li", "main", "nav"),
    *("ol", "p", "pre", "section", "summary", "table", "tbody", "tfoot", "thead", "tr", "ul", "caption"),
    *("h1", "h2", "h3", "h4", "h5", "h6"),
}
_SPACES = re.compile(r"[ \t\n\r\f]+")
# Of all characters; a page whose `main` has fewer puts its text elsewhere.
_MAIN_SHARE = 0.25


def read(content: bytes, name: str) -> Parsed:
    """Read a page.

    Args:
        content: Its bytes.
        name: Not used.

    Returns:
        Its text as Markdown; only that of `main` where a page has one.
    """
    declared = _DECLARED.search(content[:4096])
    text, note = decode(content, declared[1].decode("ascii") if declared else None)
    parsed = convert(text)
    parsed.notes = [note] if note else []
    return parsed


def convert(markup: str) -> Parsed:
    """Turn HTML into Markdown.

    Args:
        markup: HTML, however broken.

    Returns:
        Its text and title.
    """
    parser = _Converter(_UNSEEN | _MENUS)
    parser.feed(markup)
    parser.close()
    if not parser.blocks:
        # A menu that is never closed would have taken everything with it.
        parser = _Converter(_UNSEEN)
        parser.feed(markup)
        parser.close()
    inside = [text for text, in_main in parser.blocks if in_main]
    everything = [text for text, _ in parser.blocks]
    n_inside = sum(map(len, inside))
    chosen = inside if n_inside and n_inside >= _MAIN_SHARE * sum(map(len, everything)) else everything
    return Parsed(_joined(chosen), title=" ".join("".join(parser.title).split()) or None)


def _joined(blocks: list[str]) -> str:
    """Blocks with an empty line between, but not between the points of a list and the rows of a table."""
    parts: list[str] = []
    before = ""
    for block in blocks:
        if parts:
            tight = block[:2] in ("- ", "| ") and before[:2] == block[:2]
            parts.append("\n" if tight else "\n\n")
        parts.append(block)
        before = block
    return "".join(parts)


class _Converter(HTMLParser):
    """Collects blocks of text, each with whether it lies inside of `main`."""

    def __init__(self, unseen: set[str]) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[tuple[str, bool]] = []
        self.title: list[str] = []
        self._unseen = unseen
        self._hidden: list[str] = []
        self._pieces: list[str] = []
        self._mark = ""
        self._n_main = self._n_pre = 0
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See the beginning of an element."""
        if tag in self._unseen:
            self._hidden.append(tag)
        elif self._hidden:
            return
        elif tag == "title" and not self.title:
            self._in_title = True
        elif tag in _BLOCKS:
            self._begin_block(tag)
        elif tag == "br":
            self._pieces.append("\n")
        elif tag in ("td", "th"):
            self._pieces.append(" | " if any(piece.strip() for piece in self._pieces) else "")
        elif tag == "img":
            alternative = next((value for key, value in attrs if key == "alt" and value), None)
            if alternative:
                self._pieces.append(f" {alternative} ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See an element without content."""
        if tag not in self._unseen and tag != "title":
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        """See the end of an element; those that never began are passed over."""
        if tag in self._unseen:
            if tag in self._hidden:
                # What was opened inside of it ends with it.
                while self._hidden.pop() != tag:
                    pass
        elif tag == "title":
            self._in_title = False
        elif tag in _BLOCKS and not self._hidden:
            self.flush()
            if tag == "main":
                self._n_main = max(0, self._n_main - 1)
            elif tag == "pre":
                self._n_pre = max(0, self._n_pre - 1)

    def handle_data(self, data: str) -> None:
        """See text."""
        if self._in_title:
            self.title.append(data)
        elif not self._hidden:
            # A line break in the source is a space; those that are meant are of `br`.
            self._pieces.append(data if self._n_pre else _SPACES.sub(" ", data))

    def close(self) -> None:
        """Take what is left, of elements that were never closed."""
        super().close()
        self.flush()

    def flush(self) -> None:
        """End the block."""
        text = "".join(self._pieces)
        self._pieces = []
        mark, self._mark = self._mark, ""
        if self._n_pre:
            text = text.strip("\n")
            block = f"```\n{text}\n```" if text.strip() else ""
        else:
            lines = [" ".join(line.split()) for line in (text.split("\n") if mark == "" else [text])]
            block = "\n".join(line for line in lines if line)
            block = mark + block if block else ""
        if block:
            self.blocks.append((block, self._n_main > 0))
        elif mark == "- ":
            # <li><p>: the point is the paragraph's.
            self._mark = mark

    def _begin_block(self, tag: str) -> None:
        self.flush()
        if tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self._mark = "#" * int(tag[1]) + " "
        elif tag == "li":
            self._mark = "- "
        elif tag == "tr":
            self._mark = "| "
        elif tag in ("ul", "ol", "table", "body"):
            self._mark = ""
        elif tag == "main":
            self._n_main += 1
        elif tag == "pre":
            self._n_pre += 1
