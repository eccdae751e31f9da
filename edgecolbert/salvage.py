"""What can be read of a damaged database, page by page, and nothing that its checksums do not vouch for.

A text must match its SHA-256, a document its checksum, which covers the text's hash, and a passage its checksum, which
covers the number of its text. So a row is kept with what belongs to it, or not at all, wherever it was found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from edgecolbert import limits
from edgecolbert.codec import QuantizedTokens
from edgecolbert.connection import APPLICATION_ID
from edgecolbert.content_keys import read_content_key
from edgecolbert.documents import Record, is_sound_text
from edgecolbert.errors import InputError, StoreFormatError
from edgecolbert.filters.conditions import path_of
from edgecolbert.pages import PageFile, Row
from edgecolbert.passage_settings import PassageSettings
from edgecolbert.schema import SCHEMA_VERSION
from edgecolbert.store import PinnedEncoding, StoredPassage, document_crc, is_sound_passage
from edgecolbert.token_settings import TokenSettings
from edgecolbert.untrusted import read_json

# What tells the tables apart: the number of columns, and the types of their values.
_DOCUMENT = ((type(None),), (str,), (int,), (str,), (str, type(None)), (int,))
_CONTENT = ((type(None),), (str,))
_PASSAGE = ((type(None),), (int,), (int,), (int,), (int,))
_ENCODING = ((type(None),), (str,), (str,), (str, type(None)), (str,), (int, type(None)), (str,))
_FIELD = ((type(None),), (str,), (int,), (int,))
_N_DOCUMENT, _N_CONTENT, _N_PASSAGE, _N_ENCODING, _N_FIELD = 6, 3, 11, 7, 4
_HASH_LENGTH = 64


class SoundDocument(NamedTuple):
    """A document whose record and text match their checksums.

    Attributes:
        record: Id, text, metadata and hash.
        source: The place it was read from, or None.
        content_id: The number of its text in the damaged file.
        certain: False where it may be a deleted document or an earlier version of one.
    """

    record: Record
    source: str | None
    content_id: int
    certain: bool


@dataclass
class Places:
    """Where the rows of each table are, those of pages that are certainly in use first.

    Attributes:
        documents: Rows by document number.
        contents: Rows by content number.
        passages: Rows by content number, of all encodings.
        encodings: Rows.
        fields: Rows of the indexed metadata fields.
    """

    documents: dict[int, list[Row]] = field(default_factory=dict)
    contents: dict[int, list[Row]] = field(default_factory=dict)
    passages: dict[int, list[Row]] = field(default_factory=dict)
    encodings: list[Row] = field(default_factory=list)
    fields: list[Row] = field(default_factory=list)


class Salvage:
    """A damaged database, open to read.

    Args:
        pages: Its pages.
        path: The file, for messages.
    """

    def __init__(self, pages: PageFile, path: str | Path) -> None:
        if pages.has_magic and pages.application_id == APPLICATION_ID and pages.user_version > SCHEMA_VERSION:
            raise StoreFormatError(
                f"{path} was written by a later version of edgecolbert: its schema is {pages.user_version}, this "
                f"version reads up to {SCHEMA_VERSION}. Nothing was changed. Upgrade edgecolbert to repair it."
            )
        self._pages = pages
        self._path = path
        self._roots = pages.schema()
        self._uncertain: set[int] = set()
        self._places = self._find()
        # Ids of documents whose record can be read but does not match, or whose text cannot be read.
        self.lost: list[str] = []
        self._claimed: set[int] = set()
        self.kept: set[str] = set()

    def encoding(self) -> PinnedEncoding | None:
        """What the vectors were made with, or None where that record cannot be read."""
        for row in self._places.encodings:
            values = self._pages.values(row)
            if values is None or not _fits(values, _ENCODING) or values[1] != "serving":
                continue
            _, _, name, reference, fingerprint, dim, settings = values
            try:
                found = read_json(settings)
                TokenSettings.pinned(found, str(self._path))
                PassageSettings.pinned(found, str(self._path))
                if isinstance(found["split_documents"], bool) and isinstance(found["prompts"], bool):
                    return PinnedEncoding(row.rowid, name, reference, fingerprint, dim, found)
            except (ValueError, KeyError, AttributeError, TypeError, StoreFormatError):
                continue
        return None

    def indexed_fields(self) -> list[tuple[str, ...]]:
        """The metadata fields that were indexed, as far as that can be read, in the order of their numbers."""
        found: dict[tuple[str, ...], None] = {}
        for row in sorted(self._places.fields, key=lambda row: row.rowid):
            values = self._pages.values(row)
            if values is None or not _fits(values, _FIELD):
                continue
            try:
                names = read_json(values[1])
                if isinstance(names, list):
                    found[path_of(names)] = None
            except (ValueError, InputError):
                continue
        return list(found)[: limits.INDEXED_FIELDS]

    def documents(self) -> Iterator[SoundDocument]:
        """Every document that can be kept, in the order in which they were first added.

        Yields:
            Each id once. `lost` and `kept` are complete when all were taken.
        """
        lost = []
        # Certain ones first, so that an earlier version of a document never takes its place.
        for wanted in (True, False):
            for number in sorted(self._places.documents):
                for row in self._places.documents[number]:
                    if (row.page not in self._uncertain) is not wanted:
                        continue
                    found = self._document(row)
                    if isinstance(found, SoundDocument):
                        if found.record.id not in self.kept:
                            self.kept.add(found.record.id)
                            yield found
                    elif found is not None and wanted:
                        lost.append(found)
        known = dict.fromkeys([*lost, *self._listed_ids()])
        self.lost = [name for name in known if name not in self.kept]

    def loose_texts(self) -> Iterator[SoundDocument]:
        """Texts that are whole and that no document points to which can be read, once `documents` are all taken.

        Yields:
            Documents without metadata, whose id is the hash of the text; kind and title are kept.
        """
        for content_id in sorted(set(self._places.contents) - self._claimed):
            for place in self._places.contents[content_id]:
                found = self._text(place)
                name = None if found is None else self._free_name(found[0])
                if found is not None and name is not None:
                    self.kept.add(name)
                    record = Record(name, found[1], "{}", found[0])
                    yield SoundDocument(record, None, content_id, False)
                    break

    def _free_name(self, key: str) -> str | None:
        """An id for a text that has none: its hash, or its whole key where a text of another kind or title has that."""
        return next((name for name in (read_content_key(key).digest, key) if name not in self.kept), None)

    def n_listed(self) -> int:
        """How many documents there were by an index that only holds numbers, where that can be read; 0 otherwise."""
        root = self._roots.get("documents_by_content")
        if root is None:
            return 0
        return len({entry[1] for entry in self._pages.entries(root) if len(entry) == 2 and isinstance(entry[1], int)})

    def passages(self, content_id: int, text: str, encoding: PinnedEncoding) -> list[StoredPassage] | None:
        """All passages of a text as they were stored.

        Args:
            content_id: The number of the text.
            text: The text.
            encoding: Which vectors.

        Returns:
            The passages in order, or None where one is missing or damaged.
        """
        if encoding.dim is None:
            return None
        layout = (encoding.dim, TokenSettings.pinned(encoding.settings, str(self._path)).bits)
        found: dict[int, StoredPassage] = {}
        expected = 0
        for row in self._places.passages.get(content_id, []):
            values = self._pages.values(row)
            if values is None or len(values) != _N_PASSAGE or values[2] != encoding.encoding_id or values[3] in found:
                continue
            values[0] = row.rowid
            if not isinstance(values[8], int | float) or not isinstance(values[10], bytes):
                continue
            values[8] = float(values[8])
            if not is_sound_passage(tuple(values), layout) or not 0 <= values[5] <= values[6] <= len(text):
                continue
            tokens = QuantizedTokens.from_bytes(values[10], values[8], *layout)
            found[values[3]] = StoredPassage(row.rowid, content_id, values[5], values[6], tokens)
            expected = values[4]
        if not expected or sorted(found) != list(range(expected)):
            return None
        return [found[ordinal] for ordinal in range(expected)]

    def _document(self, row: Row) -> SoundDocument | str | None:
        """The document of a row, its id where it is damaged, or None where not even that can be read."""
        values = self._pages.values(row)
        if values is None or not _fits(values, _DOCUMENT):
            return None
        _, name, content_id, metadata, source, checksum = values
        for place in self._places.contents.get(content_id, []):
            content = self._text(place)
            if content is None:
                continue
            digest, text = content
            if document_crc(name, digest, metadata, source) == checksum and _is_object(metadata):
                certain = row.page not in self._uncertain
                self._claimed.add(content_id)
                return SoundDocument(Record(name, text, metadata, digest), source, content_id, certain)
        return str(name)

    def _text(self, row: Row) -> tuple[str, str] | None:
        """Hash and text of a row, or None where they do not match."""
        content = self._pages.values(row)
        if content is None or len(content) != _N_CONTENT or not isinstance(content[2], str):
            return None
        digest, text = content[1:]
        return (digest, text) if is_sound_text(text.encode(), digest) else None

    def _listed_ids(self) -> Iterator[str]:
        """The ids in the index of ids, as far as that can be read: those of documents that cannot be, too."""
        root = self._roots.get("sqlite_autoindex_documents_1")
        for entry in () if root is None else self._pages.entries(root):
            if len(entry) == 2 and isinstance(entry[0], str):
                yield entry[0]

    def _find(self) -> Places:
        pages = self._pages
        free, free_is_whole = pages.free_pages()
        reached: set[int] = set()
        for root in self._roots.values():
            reached.update(pages.tree_pages(root))
        places = Places()
        doubtful = []
        for number in pages.numbers():
            if number in reached:
                if number in free:
                    doubtful.append(number)
                else:
                    self._sort(number, places)
            elif pages.holds_rows(number) and number not in free:
                # In a whole file no page is in neither; the page above it was lost, or the list of free ones.
                if free_is_whole:
                    self._sort(number, places)
                else:
                    doubtful.append(number)
        self._uncertain = set(doubtful)
        for number in doubtful:
            self._sort(number, places)
        return places

    def _sort(self, number: int, places: Places) -> None:
        """Put the rows of one page where they belong, by their shape."""
        for row in self._pages.rows(number):
            if row.n_columns == _N_DOCUMENT:
                self._put(row, _DOCUMENT[:3], places.documents, row.rowid)
            elif row.n_columns == _N_CONTENT:
                values = self._pages.values(row, 2)
                if values is not None and _fits(values, _CONTENT) and _is_key(values[1]):
                    places.contents.setdefault(row.rowid, []).append(row)
            elif row.n_columns == _N_PASSAGE:
                values = self._pages.values(row, 5)
                if values is not None and _fits(values, _PASSAGE):
                    places.passages.setdefault(values[1], []).append(row)
            elif row.n_columns == _N_ENCODING:
                places.encodings.append(row)
            elif row.n_columns == _N_FIELD:
                places.fields.append(row)

    def _put(self, row: Row, shape: tuple[Any, ...], places: dict[int, list[Row]], number: int) -> None:
        values = self._pages.values(row, len(shape))
        if values is not None and _fits(values, shape):
            places.setdefault(number, []).append(row)


def _fits(values: list[Any], shape: tuple[Any, ...]) -> bool:
    return len(values) == len(shape) and all(
        isinstance(value, kinds) for value, kinds in zip(values, shape, strict=True)
    )


def _is_key(text: str) -> bool:
    """Whether a text may be what another is stored by: a hash, with or without kind and title."""
    return len(text.partition("/")[0]) == _HASH_LENGTH


def _is_object(metadata: str) -> bool:
    try:
        return isinstance(read_json(metadata), dict)
    except ValueError:
        return False
