"""How much is read of what comes from outside, in one place. docs/security.md says what each limit protects from.

Every limit is read when it is needed, so an application sets one (`from edgecolbert import limits`, then
`limits.RECORD_BYTES = ...`) before it calls the library, or for a while with `changed`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_KIB, _MIB, _GIB = 2**10, 2**20, 2**30

# Documents and queries
RECORD_BYTES = 64 * _MIB
"""UTF-8 bytes of one text: a document, a line of JSON Lines, a text file, a text on standard input."""
METADATA_BYTES = 16 * _MIB
"""Bytes of one document's metadata as JSON."""
METADATA_DEPTH = 100
"""Objects and lists inside one another in metadata; SQLite reads no more than 1,000 to 2,000, depending on version."""
ID_BYTES = 16 * _KIB
"""UTF-8 bytes of one document's id."""
QUERY_BYTES = 4 * _MIB
"""UTF-8 bytes of one query."""
FILTER_CONDITIONS = 100
"""Conditions of one filter; SQLite's expressions go no deeper than 1,000."""
FILTER_DEPTH = 20
"""Filters inside one another, and names on the way to a field; SQLite joins no more than 64 tables."""
FILTER_VALUES = 10_000
"""Values of one filter, all lists together; SQLite binds no more than 32,766."""
FILTER_BYTES = _MIB
"""UTF-8 bytes of one field name or value of a filter, or of a whole filter in the written form."""
INDEXED_FIELDS = 64
"""Metadata fields of one database that are indexed; every write looks for each of them."""

# Files that are read as documents
FILE_BYTES = 256 * _MIB
"""Bytes of a PDF, DOCX, EPUB, HTML page, notebook or e-mail; a plain text has RECORD_BYTES."""
UNPACKED_BYTES = 256 * _MIB
"""Bytes that are unpacked of a DOCX or EPUB."""
ARCHIVE_ENTRIES = 20_000
"""Files in a DOCX or EPUB."""
READER_SECONDS = 60
"""Seconds for reading one such file."""
READER_MEMORY_BYTES = 2 * _GIB
"""Bytes of memory of the process that reads them, where the system bounds it (Linux)."""

# Model folders
MANIFEST_BYTES = 4 * _MIB
"""Bytes of manifest.json, or of another exporter's onnx_config.json."""
TOKENIZER_BYTES = 128 * _MIB
"""Bytes of a tokenizer."""
MODEL_FILE_BYTES = 2 * _GIB
"""Bytes of any other file of a model folder; protobuf, which graphs are written in, ends there, too."""

# Databases
VALUE_BYTES = 256 * _MIB
"""Bytes of one value that SQLite reads or writes; raise it together with RECORD_BYTES."""

DUMP_LINE_BYTES = _GIB
"""Bytes of one line of a dump: a document with its token embeddings."""

_NAMES = tuple(name for name in globals() if name.isupper() and not name.startswith("_"))


@contextmanager
def changed(**limits: int) -> Iterator[None]:
    """Other limits for a while, in the whole process.

    Args:
        **limits: New values by name.

    Yields:
        Nothing.

    Raises:
        AttributeError: If there is no limit of that name.
    """
    unknown = sorted(set(limits) - set(_NAMES))
    if unknown:
        raise AttributeError(f"There are no limits {unknown}; there are {list(_NAMES)}.")
    before = {name: globals()[name] for name in limits}
    globals().update(limits)
    try:
        yield
    finally:
        globals().update(before)
