"""Real files of every format, made on the fly: a PDF by hand, the others by the packages for them."""

from __future__ import annotations

import io
import json
import zipfile
from email.message import EmailMessage
from zlib import crc32


def pdf(pages: list[str], title: str = "") -> bytes:
    """A PDF whose pages show one line each."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>")
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {5 + 2 * number} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    objects.append(f"<< /Title ({title}) /Author (A. Writer) >>")
    written = b"%PDF-1.4\n"
    places = []
    for number, body in enumerate(objects, start=1):
        places.append(len(written))
        written += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    start = len(written)
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    written += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode()
    trailer = f"<< /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R >>"
    return written + f"trailer\n{trailer}\nstartxref\n{start}\n%%EOF\n".encode()


def encrypted_pdf(content: bytes, password: str) -> bytes:
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(content)))
    writer.encrypt(user_password=password, owner_password="owner", algorithm="RC4-128")
    written = io.BytesIO()
    writer.write(written)
    return written.getvalue()


def docx() -> bytes:
    from docx import Document

    document = Document()
    document.core_properties.title = "Cellar plan"
    document.core_properties.author = "A. Writer"
    document.add_heading("Boiler", level=1)
    document.add_paragraph("Bleed the radiators first.")
    document.add_paragraph("close the tap", style="List Bullet")
    document.add_paragraph("open the valve", style="List Bullet")
    table = document.add_table(rows=2, cols=2)
    for number, text in enumerate(("room", "degrees", "kitchen", "19")):
        table.cell(number // 2, number % 2).text = text
    document.add_paragraph("After the table.")
    written = io.BytesIO()
    document.save(written)
    return written.getvalue()


def archive(entries: dict[str, bytes | str], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as made:
        for name, content in entries.items():
            made.writestr(name, content)
    return written.getvalue()


def epub(pages: dict[str, str], extra: dict[str, bytes | str] | None = None) -> bytes:
    """A book whose pages are read in the given order."""
    items = "".join(
        f'<item id="p{number}" href="{name}" media-type="application/xhtml+xml"/>' for number, name in enumerate(pages)
    )
    order = "".join(f'<itemref idref="p{number}"/>' for number in range(len(pages)))
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0">'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>A House Book</dc:title>'
        "<dc:creator>A. Writer</dc:creator><dc:language>en</dc:language></metadata>"
        f"<manifest>{items}</manifest><spine>{order}</spine></package>"
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0"><rootfiles>'
        '<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    entries: dict[str, bytes | str] = {"mimetype": "application/epub+zip", "META-INF/container.xml": container}
    entries["OEBPS/book.opf"] = package
    entries |= {f"OEBPS/{name}": f"<html><body>{body}</body></html>" for name, body in pages.items()}
    return archive(entries | (extra or {}))


def message(subject: str = "The kettle", text: str = "It is in the left cupboard.") -> EmailMessage:
    made = EmailMessage()
    made["From"] = "Ann <ann@example.org>"
    made["To"] = "bob@example.org"
    made["Subject"] = subject
    made["Date"] = "Tue, 03 Mar 2020 10:00:00 +0100"
    made["Message-ID"] = f"<{crc32(subject.encode())}@example.org>"
    made.set_content(text)
    return made


def notebook(cells: list[tuple[str, str]]) -> str:
    made = [
        {"cell_type": kind, "source": source.splitlines(keepends=True), "metadata": {}, "outputs": []}
        for kind, source in cells
    ]
    return json.dumps({"nbformat": 4, "metadata": {"kernelspec": {"language": "python"}}, "cells": made})
