"""The readers of file formats, each with a real file, and with what is wrong with files."""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import files_for_reading as make
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecolbert import limits
from edgecolbert.readers.formats import format_of, formats
from edgecolbert.readers.html import convert
from edgecolbert.readers.isolation import ReaderProcess
from edgecolbert.readers.mail import is_mailbox
from edgecolbert.readers.parsed import Parsed, UnreadableError, parse
from edgecolbert.readers.plain import decode, heading


@pytest.fixture(scope="module")
def process() -> Iterator[ReaderProcess]:
    with ReaderProcess() as started:
        yield started


def test_a_pdf_gives_its_pages_with_form_feeds_between_and_what_it_says_of_itself(process: ReaderProcess) -> None:
    parsed = process.read("pdf", make.pdf(["The kettle.", "", "Bins go out."], title="House notes"), "a.pdf")
    assert parsed.text == "The kettle.\f\fBins go out."
    assert parsed.text.count("\f", 0, parsed.text.index("Bins")) + 1 == 3
    assert (parsed.title, parsed.metadata) == ("House notes", {"pages": 3, "author": "A. Writer"})


@pytest.mark.parametrize("title", ["report.docx", "Untitled-1", ""])
def test_a_title_that_is_none_is_left_out(process: ReaderProcess, title: str) -> None:
    assert process.read("pdf", make.pdf(["x"], title=title), "a.pdf").title is None


def test_a_pdf_that_opens_without_a_password_is_read_and_one_that_needs_it_is_not(process: ReaderProcess) -> None:
    plain = make.pdf(["The kettle."])
    assert process.read("pdf", make.encrypted_pdf(plain, ""), "a.pdf").text == "The kettle."
    with pytest.raises(UnreadableError, match="encrypted with a password"):
        process.read("pdf", make.encrypted_pdf(plain, "secret"), "a.pdf")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is damaged"),
        (b"%PDF-1.7\nno more", "it is damaged"),
        (make.pdf(["The kettle."])[:200], "it is damaged"),
        (make.pdf(["", ""]), "it has no text; pages that are pictures are not recognized"),
    ],
)
def test_a_pdf_that_cannot_be_read_says_why(process: ReaderProcess, content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason):
        process.read("pdf", content, "a.pdf")


def test_a_docx_gives_headings_lists_and_tables_in_their_order(process: ReaderProcess) -> None:
    parsed = process.read("docx", make.docx(), "a.docx")
    assert parsed.text == (
        "# Boiler\n\nBleed the radiators first.\n\n- close the tap\n- open the valve\n\n"
        "| room | degrees\n| kitchen | 19\n\nAfter the table."
    )
    assert (parsed.title, parsed.metadata) == ("Cellar plan", {"author": "A. Writer"})


def test_an_epub_gives_its_pages_in_reading_order(process: ReaderProcess) -> None:
    book = make.epub({"z one.xhtml": "<h1>First</h1><p>kettle</p>", "a.xhtml": "<p>bins</p>"})
    parsed = process.read("epub", book, "a.epub")
    assert parsed.text == "# First\n\nkettle\n\nbins"
    assert (parsed.title, parsed.metadata) == ("A House Book", {"author": "A. Writer", "language": "en"})


def test_a_book_with_copy_protection_is_refused_and_one_with_hidden_fonts_is_not(process: ReaderProcess) -> None:
    said = (
        '<encryption xmlns:enc="http://www.w3.org/2001/04/xmlenc#"><enc:CipherReference URI="OEBPS/{}"/></encryption>'
    )
    pages = {"a.xhtml": "<p>kettle</p>"}
    fonts = make.epub(pages, {"META-INF/encryption.xml": said.format("font.otf")})
    assert process.read("epub", fonts, "a.epub").text == "kettle"
    with pytest.raises(UnreadableError, match="copy protection"):
        process.read("epub", make.epub(pages, {"META-INF/encryption.xml": said.format("a.xhtml")}), "a.epub")


def _bomb() -> bytes:
    return make.archive({"META-INF/container.xml": b"<a>" + b" " * (20 * 2**20), "word/document.xml": b" " * 2**20})


@pytest.mark.parametrize("reader", ["docx", "epub"])
def test_an_archive_is_unpacked_no_further_than_it_may_be(process: ReaderProcess, reader: str) -> None:
    with limits.changed(UNPACKED_BYTES=2**20), pytest.raises(UnreadableError, match="more than 1048576 bytes unpacked"):
        process.read(reader, _bomb(), "a")
    with limits.changed(ARCHIVE_ENTRIES=1), pytest.raises(UnreadableError, match="holds more than 1 files"):
        process.read(reader, _bomb(), "a")


@pytest.mark.parametrize("reader", ["docx", "epub"])
def test_an_archive_that_lies_about_its_sizes_gives_no_more_than_it_says(process: ReaderProcess, reader: str) -> None:
    entry = b" " * (4 * 2**20)
    content = make.archive({"META-INF/container.xml": entry, "[Content_Types].xml": entry})
    small = content.replace(struct.pack("<I", len(entry)), struct.pack("<I", 100))
    assert small != content
    with pytest.raises(UnreadableError, match="it is damaged"):
        process.read(reader, small, "a")


@pytest.mark.parametrize("reader", ["docx", "epub"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is damaged"),
        (b"PK\x03\x04 cut off", "it is damaged"),
        (make.archive({"a": "b"}), "it is damaged"),
        (bytes.fromhex("d0cf11e0a1b11ae1") + bytes(100), "it is encrypted, or in a format of before 2007"),
        (make.archive({"META-INF/container.xml": "<a><b>"}), "it is damaged"),
    ],
)
def test_an_archive_that_cannot_be_read_says_why(
    process: ReaderProcess, reader: str, content: bytes, reason: str
) -> None:
    with pytest.raises(UnreadableError, match=reason):
        process.read(reader, content, "a")


def test_entities_of_xml_do_not_grow_without_end(process: ReaderProcess) -> None:
    names = [f"e{number}" for number in range(30)]
    grown = "".join(f'<!ENTITY {name} "&{before};&{before};">' for before, name in pairwise(names))
    laughs = f'<!DOCTYPE a [<!ENTITY e0 "ha">{grown}]><a>&{names[-1]};</a>'
    with pytest.raises(UnreadableError, match="it is damaged"):
        process.read("epub", make.archive({"META-INF/container.xml": laughs}), "a.epub")


def test_html_keeps_headings_lists_tables_and_code_and_drops_scripts_and_menus() -> None:
    page = """<html><head><title> The
      house </title><style>p {}</style></head><body><nav><a href="/">Home</a></nav><h2>Kettle</h2>
      <p>It is in the <b>left</b>
      cupboard.<br>Not the right.</p><ul><li>one</li><li><p>two</p></li></ul>
      <table><tr><th>room</th><th>degrees</th></tr><tr><td>kitchen</td><td>19</td></tr></table>
      <pre>a = 1\n  b = 2</pre><script>var x = "<p>no</p>";</script><img alt="a tap"><p>caf&eacute; &lt;b&gt;"""
    parsed = convert(page)
    assert parsed.title == "The house"
    assert parsed.text == (
        "## Kettle\n\nIt is in the left cupboard.\nNot the right.\n\n- one\n- two\n\n"
        "| room | degrees\n| kitchen | 19\n\n```\na = 1\n  b = 2\n```\n\na tap\n\ncafé <b>"
    )


def test_only_the_main_part_of_a_page_is_read_where_it_has_one_with_text() -> None:
    assert convert("<header>Shop</header><main><p>The kettle.</p></main><footer>(c)</footer>").text == "The kettle."
    assert convert("<main></main><p>The kettle.</p>").text == "The kettle."


@pytest.mark.parametrize(
    "page", ["<nav><p>kettle", "<p>kettle</nav></p></main>", "<p>kettle<svg>x</svg", "<li><p>kettle"]
)
def test_broken_html_still_gives_its_text(page: str) -> None:
    assert "kettle" in convert(page).text


@settings(deadline=None, max_examples=60)
@given(st.text(st.sampled_from("<>/abdhilmnprtuv \"'=&;!-[]1\n"), max_size=200))
def test_no_html_is_too_broken(page: str) -> None:
    assert isinstance(convert(page), Parsed)


@pytest.mark.parametrize(
    ("head", "content"),
    [
        (b'<meta charset="windows-1251">', "кот".encode("cp1251")),
        (b'<?xml version="1.0" encoding="koi8-r"?>', "кот".encode("koi8-r")),
        (b"", "кот".encode()),
        (b"", b"\xff\xfe" + "кот".encode("utf-16-le")),
    ],
)
def test_a_page_is_read_in_the_encoding_that_it_names(head: bytes, content: bytes) -> None:
    assert parse("html", content if head == b"" else head + b"<p>" + content, "a.html").text == "кот"


def test_a_message_gives_subject_people_text_and_the_names_of_what_is_attached(process: ReaderProcess) -> None:
    message = make.message("Grüße")
    message.add_alternative("<p>It is in the <b>left</b> cupboard, as HTML.</p>", subtype="html")
    message.add_attachment(b"\x00\x01", maintype="application", subtype="pdf", filename="plan.pdf")
    parsed = process.read("mail", bytes(message), "a.eml")
    assert parsed.title == "Grüße"
    assert parsed.text.startswith("Grüße\n\nFrom: Ann <ann@example.org>\nTo: bob@example.org\nDate: Tue, 03 Mar 2020")
    assert "Attachments: plan.pdf" in parsed.text
    assert parsed.text.endswith("It is in the left cupboard.")
    assert parsed.metadata["sent"] == "2020-03-03T10:00:00+01:00"


def test_a_message_of_html_alone_and_one_inside_of_another_are_read(process: ReaderProcess) -> None:
    inner = make.message("Inner", "the inner kettle")
    outer = make.message("Outer", "see below")
    outer.add_attachment(inner)
    assert "the inner kettle" in process.read("mail", bytes(outer), "a.eml").text
    html = b"Subject: x\nContent-Type: text/html; charset=no-such\n\n<p>caf\xe9</p>"
    assert process.read("mail", html, "a.eml").text == "x\n\ncafé"
    with pytest.raises(UnreadableError, match="no e-mail"):
        process.read("mail", b"\n\nonly text", "a.eml")


def test_a_notebook_gives_its_cells_without_output(process: ReaderProcess) -> None:
    content = make.notebook([("markdown", "# Kettles\nand cups"), ("code", "print('```')"), ("code", "")])
    parsed = process.read("notebook", content.encode(), "a.ipynb")
    assert parsed.text == "# Kettles\nand cups\n\n````python\nprint('```')\n````"
    assert parsed.title == "Kettles"
    old = (
        b'{"worksheets": [{"cells": [{"cell_type": "heading", "level": 2, "source": "Old"}, '
        b'{"cell_type": "code", "input": ["x"]}]}]}'
    )
    assert process.read("notebook", old, "a.ipynb").text == "## Old\n\n```\nx\n```"
    for broken in (b"", b"{", b"[]", b'{"cells": 3}', b"[" * 100_000):
        with pytest.raises(UnreadableError, match=r"it is no notebook|nested too deeply"):
            process.read("notebook", broken, "a.ipynb")


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Text\n# Kettle #\n# Second", "Kettle"),
        ("```\n# no\n```\n## Kettle", "Kettle"),
        ("---\ntitle: 'The kettle'\n---\n# Other", "The kettle"),
        ("---\nlang: en\n---\n# Other", "Other"),
        ("Kettle\n======\n", "Kettle"),
        ("no heading\n\n---\n", None),
        ("", None),
    ],
)
def test_the_title_of_markdown_is_what_it_says_or_its_first_heading(text: str, title: str | None) -> None:
    assert heading(text) == title


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_is_read_without_a_word(encoding: str) -> None:
    assert decode("Grüße, мир".encode(encoding)) == ("Grüße, мир", None)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Grüße aus München, schöne Tage und viele Küsse vom Straßenfest in der Früh.", "cp1252"),
        ("Привет, мир! Как дела сегодня вечером, что нового у вас дома?", "cp1251"),
        ("日本語のテキストです。今日は天気がいいですね。", "cp932"),
        ("你好,世界。今天天气很好,我们去公园吧。", "gb18030"),
        ("café", "cp1252"),
    ],
)
def test_other_encodings_are_guessed_and_said(text: str, encoding: str) -> None:
    found, note = decode(text.encode(encoding))
    assert found == text
    assert note is not None
    assert "which is a guess" in note


def test_a_source_file_may_say_its_encoding() -> None:
    content = "#!/usr/bin/python\n# -*- coding: koi8-r -*-\ns = 'кот'\n".encode("koi8-r")
    parsed = parse("plain", content, "a.py")
    assert "'кот'" in parsed.text
    assert parsed.notes == []


# Many elements; and what the standard library's parser of HTML of Python 3.11 takes the square of its length for.
_SLOW = b"<b>a</b>" * 4_000_000 + b"x <a" * 1_000_000


def test_a_reader_that_takes_too_long_is_ended_and_the_next_file_read() -> None:
    with ReaderProcess() as process:
        began = time.monotonic()
        with limits.changed(READER_SECONDS=1), pytest.raises(UnreadableError, match="took longer than 1 seconds"):
            process.read("html", _SLOW, "a.html")
        assert time.monotonic() - began < 30
        assert process.read("html", b"<p>kettle", "a.html").text == "kettle"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is bounded on Linux only")
def test_a_reader_that_takes_too_much_memory_is_ended_and_the_next_file_read() -> None:
    many = b'{"cells": [' + b"{}," * 2_000_000 + b"{}]}"
    with ReaderProcess() as process:
        with limits.changed(READER_MEMORY_BYTES=150 * 2**20), pytest.raises(UnreadableError, match="memory"):
            process.read("notebook", many, "a.ipynb")
        assert process.read("html", b"<p>kettle", "a.html").text == "kettle"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="bounds its time by a signal of POSIX")
def test_a_reader_whose_parent_is_gone_does_not_run_on_without_end() -> None:
    with limits.changed(READER_SECONDS=1), ReaderProcess() as process:
        started = process._started()
        request = {"reader": "html", "name": "a", "size": len(_SLOW), "limits": {"READER_SECONDS": 1}}
        assert started.stdin is not None
        started.stdin.write(json.dumps(request).encode() + b"\n" + _SLOW)
        started.stdin.flush()
        # Nobody ends it.
        assert started.wait(timeout=60) == -signal.SIGALRM


def test_a_reader_that_dies_is_started_again(process: ReaderProcess) -> None:
    assert process.read("html", b"<p>a", "a.html").text == "a"
    running = process._process
    assert running is not None
    running.kill()
    running.wait()
    assert process.read("html", b"<p>b", "a.html").text == "b"


def test_a_text_that_grew_too_long_is_refused(process: ReaderProcess) -> None:
    with limits.changed(RECORD_BYTES=1000), pytest.raises(UnreadableError, match="it has more than 1000 bytes"):
        process.read("html", b"<p>" + b"kettle " * 1000, "a.html")


def test_lone_surrogates_do_not_get_through(process: ReaderProcess) -> None:
    content = rb'{"cells": [{"cell_type": "markdown", "source": "# a \ud800 \ud83d\ude00"}]}'
    parsed = process.read("notebook", content, "a.ipynb")
    assert parsed.text == "# a \ufffd \U0001f600"


@pytest.mark.parametrize("reader", ["pdf", "docx", "epub", "mail", "notebook", "html"])
def test_damaged_files_of_every_format_are_read_or_refused(process: ReaderProcess, reader: str) -> None:
    whole = {
        "pdf": make.pdf(["The kettle."]), "docx": make.docx(), "epub": make.epub({"a.xhtml": "<p>kettle</p>"}),
        "mail": bytes(make.message()), "notebook": make.notebook([("code", "x = 1")]).encode(), "html": b"<p>a<b>c</p>",
    }[reader]  # fmt: skip
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        for damaged in (whole[:place], whole[:place] + b"\xff\x00" + whole[place + 2 :]):
            try:
                said = process.read(reader, damaged, "a").text
            except UnreadableError as error:
                said = str(error)
            assert said or reader in ("html", "mail")


def test_formats_are_told_by_names() -> None:
    told = {
        name: entry.name
        for name in ("a.MD", "b.pdf", "Makefile", "README", "x.py", "c.ipynb")
        if (entry := format_of(name))
    }
    assert told == {
        "a.MD": "markdown", "b.pdf": "pdf", "Makefile": "make",
        "README": "text", "x.py": "python", "c.ipynb": "notebook",
    }  # fmt: skip
    assert [format_of(name) for name in ("a.png", "jquery.min.js", "b.zip")] == [None, None, None]
    for entry in formats().values():
        assert entry.kind in ("text", "markdown", "code")
        assert Path(__file__).parent.parent.joinpath("edgecolbert", "readers", f"{entry.reader}.py").is_file()


def test_mailboxes_are_told_by_their_first_line() -> None:
    assert is_mailbox(b"From ann@example.org Tue Mar  3 10:00:00 2020\nSubject: x\n")
    assert is_mailbox(b"From - Tue Mar  3 10:00:00 2020\r\n")
    assert not is_mailbox(b"From here on everything is text.\n")
