"""The database: documents, their texts, passages, token embeddings and codes. SQL lives here, and nothing else does.

A text is kept once in `contents`, with its passages, whichever documents share it. A content that no document points
to is invisible: that is how a large `add` can write in small steps and still appear all at once, and how an
interrupted one is resumed without encoding again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgecolbert.codec import QuantizedTokens
from edgecolbert.connection import open_connection, reading, translated_errors, writing
from edgecolbert.documents import Document, Record
from edgecolbert.errors import StoreError, StoreFormatError, StoreReadOnlyError
from edgecolbert.filters import HAS_NUL, filter_sql, matches
from edgecolbert.schema import prepare_schema

if TYPE_CHECKING:
    from edgecolbert.fde import FirstStage, Int8Array

# Texts looked up by one statement.
_READ_BATCH = 256
# What a passage's checksum covers before its token embeddings: place, span, number of tokens, scale.
_PASSAGE = struct.Struct("<7qd").pack
_FOREIGN_KEYS = "PRAGMA foreign_key_check"


@dataclass(frozen=True)
class PinnedEncoding:
    """What the vectors of a database were made with.

    Attributes:
        encoding_id: Its number in the database.
        model_name: Name of the model.
        model_reference: The built-in name or folder it was loaded from, or None for an object of the user's.
        fingerprint: Hash of everything the token embeddings depend on.
        dim: Size of one token embedding, or None while it is not known.
        settings: Whether long documents are split, whether prompts are used, and which first stage is wanted.
    """

    encoding_id: int
    model_name: str
    model_reference: str | None
    fingerprint: str
    dim: int | None
    settings: dict[str, Any]


class StoredPassage(NamedTuple):
    """One passage and its token embeddings.

    Attributes:
        passage_id: Its number in the database, 0 before it is stored.
        content_id: The text it is of, 0 before it is stored.
        start: Offset of its first character.
        end: Offset behind its last character.
        tokens: The token embeddings.
    """

    passage_id: int
    content_id: int
    start: int
    end: int
    tokens: QuantizedTokens


class Store:
    """One open database. It may be used from any thread, by one at a time.

    Args:
        path: The file, or ":memory:".
        create: Make the file if it does not exist.
        read_only: Open without the right to write.
        timeout: Seconds to wait for another process's write lock.
    """

    def __init__(
        self, path: str | Path, *, create: bool = True, read_only: bool = False, timeout: float = 10.0
    ) -> None:
        self.path = str(path)
        self.read_only = read_only
        self._connection = open_connection(path, create=create, read_only=read_only, timeout=timeout)
        try:
            with translated_errors(path):
                prepare_schema(self._connection, path, read_only=read_only)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the connection; SQLite folds its log into the file."""
        self._connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside belongs to the same moment."""
        with translated_errors(self.path), reading(self._connection):
            yield

    def check_writable(self) -> None:
        """Refuse early what could not be written later.

        Raises:
            StoreReadOnlyError: If the store was opened to read only.
        """
        if self.read_only:
            raise StoreReadOnlyError(f"{self.path} was opened with read_only=True. Open it again without, to write.")

    @contextmanager
    def change(self) -> Iterator[None]:
        """Everything written inside is committed as a whole, or not at all."""
        self.check_writable()
        with translated_errors(self.path), writing(self._connection):
            yield
            self._run("UPDATE state SET value = value + 1 WHERE key = 'generation'")

    @property
    def generation(self) -> int:
        """A number that grows with every change."""
        return int(self._one("SELECT value FROM state WHERE key = 'generation'")[0])

    @property
    def file_bytes(self) -> int:
        """Size of the database in bytes, what is still in its log included."""
        return int(self._one("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")[0])

    # Encodings and first stages

    def encoding(self, state: str = "serving") -> PinnedEncoding | None:
        """The encoding that is "serving" or "building", or None."""
        row = self._run(
            "SELECT encoding_id, model_name, model_reference, fingerprint, dim, settings FROM encodings "
            "WHERE state = ?",
            state,
        ).fetchone()
        if row is None:
            return None
        number, name, reference, fingerprint, dim, settings = row
        return PinnedEncoding(number, name, reference, fingerprint, dim, json.loads(settings))

    def add_encoding(self, pinned: PinnedEncoding, state: str = "serving") -> PinnedEncoding:
        """Record an encoding; its number is given by the database."""
        self._run(
            "INSERT INTO encodings (state, model_name, model_reference, fingerprint, dim, settings) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            *(state, pinned.model_name, pinned.model_reference, pinned.fingerprint, pinned.dim),
            json.dumps(pinned.settings, sort_keys=True),
        )
        added = self.encoding(state)
        if added is None:
            raise StoreError(f"{self.path}: the encoding just written cannot be read back.")
        return added

    def set_dim(self, encoding_id: int, dim: int) -> None:
        """Record the size of token embeddings, once the model has shown it."""
        self._run("UPDATE encodings SET dim = ? WHERE encoding_id = ?", dim, encoding_id)

    def drop_encoding(self, state: str) -> None:
        """Forget an encoding with all its passages and codes."""
        self._run("DELETE FROM encodings WHERE state = ?", state)

    def promote_building(self) -> None:
        """Let the encoding that was being built serve."""
        self._run("UPDATE encodings SET state = 'serving' WHERE state = 'building'")

    def first_stage(self, encoding_id: int) -> tuple[int, FirstStage, int] | None:
        """The fitted first stage of an encoding: its number, itself, and how many passages it was fitted on."""
        row = self._run(
            "SELECT first_stage_id, first_stages.settings, cells, mean, fitted_on, checksum, dim FROM first_stages "
            "JOIN encodings USING (encoding_id) WHERE encoding_id = ? ORDER BY first_stage_id DESC LIMIT 1",
            encoding_id,
        ).fetchone()
        if row is None:
            return None
        from edgecolbert.fde import FdeSettings, FirstStage  # a search that scores everything does without it

        number, settings, cells, mean, fitted_on, checksum, dim = row
        if _crc(settings.encode(), cells or b"", mean or b"") != checksum:
            raise StoreFormatError(
                f"{self.path}: the first stage's cells are damaged. Run `edgecolbert reencode --db FILE` to make the "
                "vectors again from the stored texts."
            )
        stage = FirstStage(
            FdeSettings.from_json(settings),
            dim,
            None if cells is None else np.frombuffer(cells, dtype="<f4").reshape(-1, dim),
            None if mean is None else np.frombuffer(mean, dtype="<f4"),
        )
        return number, stage, fitted_on

    def replace_first_stage(self, encoding_id: int, stage: FirstStage, fitted_on: int) -> int:
        """Record a newly fitted first stage instead of the old one, whose codes go with it."""
        self._run("DELETE FROM first_stages WHERE encoding_id = ?", encoding_id)
        settings = stage.settings.to_json()
        cells = None if stage.cells is None else stage.cells.astype("<f4").tobytes()
        mean = None if stage.mean is None else stage.mean.astype("<f4").tobytes()
        cursor = self._run(
            "INSERT INTO first_stages (encoding_id, settings, fitted_on, cells, mean, checksum) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            *(encoding_id, settings, fitted_on, cells, mean, _crc(settings.encode(), cells or b"", mean or b"")),
        )
        return int(cursor.lastrowid or 0)

    # Contents and passages

    def encoded_hashes(self, hashes: Iterable[str], encoding_id: int) -> set[str]:
        """Those of the given content hashes whose passages are stored already."""
        rows = self._run(
            "SELECT hash FROM contents WHERE hash IN (SELECT value FROM json_each(?)) AND EXISTS "
            "(SELECT 1 FROM passages WHERE passages.content_id = contents.content_id AND encoding_id = ?)",
            json.dumps(list(hashes)),
            encoding_id,
        )
        return {row[0] for row in rows}

    def stage_content(self, digest: str, text: str) -> int:
        """Store a text without showing it yet, and give its number."""
        self._run("INSERT INTO contents (hash, text) VALUES (?, ?) ON CONFLICT DO NOTHING", digest, text)
        return int(self._one("SELECT content_id FROM contents WHERE hash = ?", digest)[0])

    def has_passages(self, content_id: int, encoding_id: int) -> bool:
        """Whether a text is encoded already, perhaps by another process."""
        sql = "SELECT EXISTS (SELECT 1 FROM passages WHERE content_id = ? AND encoding_id = ?)"
        return bool(self._one(sql, content_id, encoding_id)[0])

    def stage_passages(self, content_id: int, encoding_id: int, passages: Sequence[StoredPassage]) -> list[int]:
        """Store the passages of a text, and give their numbers."""
        numbers = []
        for ordinal, passage in enumerate(passages):
            blob = passage.tokens.to_bytes()
            place = (content_id, encoding_id, ordinal, len(passages))
            shape = (passage.start, passage.end, len(passage.tokens.values), passage.tokens.scale)
            cursor = self._run(
                "INSERT INTO passages (content_id, encoding_id, ordinal, n_passages, span_start, span_end, n_tokens, "
                "scale, checksum, tokens) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                *(*place, *shape, _passage_crc(*place, *shape, blob), blob),
            )
            numbers.append(int(cursor.lastrowid or 0))
        return numbers

    def add_code(self, passage_id: int, content_id: int, first_stage_id: int, code: Int8Array) -> None:
        """Store the first stage's code of a passage."""
        blob = code.tobytes()
        self._run(
            "INSERT INTO codes (passage_id, content_id, first_stage_id, checksum, code) VALUES (?, ?, ?, ?, ?)",
            *(passage_id, content_id, first_stage_id, code_crc(passage_id, content_id, first_stage_id, blob), blob),
        )

    def passages(
        self, encoding_id: int, content_ids: Sequence[int] | None = None, *, complete: bool = False
    ) -> Iterator[StoredPassage]:
        """Passages of some texts, or of all texts that documents point to, one at a time.

        Args:
            encoding_id: Which vectors.
            content_ids: The texts, or None for all that documents point to.
            complete: Every text must have all its passages; a search that missed some would silently find less.

        Yields:
            Passages with their token embeddings, checked against their checksums.

        Raises:
            StoreFormatError: If a row is damaged or missing; the message names the documents.
        """
        (dim,) = self._one("SELECT dim FROM encodings WHERE encoding_id = ?", encoding_id)
        for cursor, wanted in self._passage_cursors(encoding_id, content_ids):
            n_seen = dict.fromkeys(wanted, 0)
            n_expected = dict.fromkeys(wanted, 1)
            # Not a batch at a time: giving back megabytes and asking for them again costs more than the reading.
            for row in cursor:
                number, content_id, _, _, n_passages, start, end, _, scale, _, blob = row
                if not _is_sound(row, dim):
                    raise self._damaged_vectors(content_id, f"passage {number} is damaged")
                n_seen[content_id] += 1
                n_expected[content_id] = n_passages
                yield StoredPassage(number, content_id, start, end, QuantizedTokens.from_bytes(blob, scale, dim))
            for content_id in wanted if complete else ():
                if n_seen[content_id] != n_expected[content_id]:
                    raise self._damaged_vectors(content_id, "a passage is missing")

    def _passage_cursors(
        self, encoding_id: int, content_ids: Sequence[int] | None
    ) -> Iterator[tuple[sqlite3.Cursor, Sequence[int]]]:
        """Cursors over the passages of some texts, each with the texts it is about."""
        columns = (
            "SELECT passage_id, content_id, encoding_id, ordinal, n_passages, span_start, span_end, n_tokens, scale, "
            "checksum, tokens FROM passages WHERE encoding_id = ?"
        )
        if content_ids is None:
            # In the order of the file, by one statement: nothing to look up and nothing to sort.
            sql = f"{columns} AND +content_id IN (SELECT content_id FROM documents) ORDER BY passage_id"
            yield self._run(sql, encoding_id), self.shown_content_ids()
            return
        for first in range(0, len(content_ids), _READ_BATCH):
            batch = content_ids[first : first + _READ_BATCH]
            sql = f"{columns} AND content_id IN (SELECT value FROM json_each(?)) ORDER BY content_id, ordinal"
            yield self._run(sql, encoding_id, json.dumps(batch)), batch

    def _damaged_vectors(self, content_id: int, what: str) -> StoreFormatError:
        ids = ", ".join(repr(name) for name in self.ids_of_contents([content_id]).get(content_id, []))
        return StoreFormatError(
            f"{self.path}: the stored token embeddings of {ids} are damaged ({what}). Its text is unharmed: run "
            "`edgecolbert reencode --db FILE` to make the vectors again."
        )

    def shown_content_ids(self) -> list[int]:
        """The numbers of all texts that documents point to, in order."""
        return [row[0] for row in self._run("SELECT DISTINCT content_id FROM documents ORDER BY content_id")]

    def staged_content_ids(self) -> list[int]:
        """The numbers of all texts, those that no document points to yet included."""
        return [row[0] for row in self._run("SELECT content_id FROM contents ORDER BY content_id")]

    def code_rows(self, first_stage_id: int, after: int = 0) -> Iterator[tuple[int, int, bytes, int]]:
        """Passage number, content number, code and checksum of every code with a larger passage number."""
        yield from self._run(
            "SELECT passage_id, content_id, code, checksum FROM codes WHERE first_stage_id = ? AND passage_id > ? "
            "ORDER BY passage_id",
            first_stage_id,
            after,
        )

    def code_passage_ids(self, first_stage_id: int) -> list[int]:
        """The numbers of all passages that have a code, in order."""
        rows = self._run("SELECT passage_id FROM codes WHERE first_stage_id = ? ORDER BY passage_id", first_stage_id)
        return [row[0] for row in rows]

    def count_passages(self, encoding_id: int) -> int:
        """How many passages an encoding has, those of texts not shown yet included."""
        return int(self._one("SELECT count(*) FROM passages WHERE encoding_id = ?", encoding_id)[0])

    def contents_without_passages(self, encoding_id: int, limit: int) -> list[tuple[str, str]]:
        """Hash and text of contents that documents point to and that this encoding has not encoded yet."""
        return self._run(
            "SELECT hash, text FROM contents WHERE content_id IN (SELECT content_id FROM documents) AND NOT "
            "EXISTS (SELECT 1 FROM passages WHERE passages.content_id = contents.content_id AND encoding_id = ?) "
            "ORDER BY content_id LIMIT ?",
            encoding_id,
            limit,
        ).fetchall()

    def count_contents_without_passages(self, encoding_id: int) -> int:
        """How many contents `contents_without_passages` has still to give."""
        return int(
            self._one(
                "SELECT count(*) FROM contents WHERE content_id IN (SELECT content_id FROM documents) AND NOT EXISTS "
                "(SELECT 1 FROM passages WHERE passages.content_id = contents.content_id AND encoding_id = ?)",
                encoding_id,
            )[0]
        )

    # Documents

    def put_documents(self, records: Iterable[Record], source: str | None) -> list[str]:
        """Show documents whose contents are staged: insert each, or replace the one with its id.

        Args:
            records: The documents.
            source: The root they were read from, or None.

        Returns:
            "added", "updated" or "unchanged" for each.
        """
        replaced: list[int] = []
        outcomes = [self._put_document(record, source, replaced) for record in records]
        # Only now: a text that one document gave up may be another's in the same call.
        self._drop_unused(replaced)
        return outcomes

    def _put_document(self, record: Record, source: str | None, replaced: list[int]) -> str:
        (content_id,) = self._one("SELECT content_id FROM contents WHERE hash = ?", record.hash)
        checksum = _document_crc(record.id, record.hash, record.metadata, source)
        old = self._run(
            "SELECT document_id, content_id, metadata, source FROM documents WHERE id = ?", record.id
        ).fetchone()
        if old is None:
            self._run(
                "INSERT INTO documents (id, content_id, metadata, source, checksum) VALUES (?, ?, ?, ?, ?)",
                *(record.id, content_id, record.metadata, source, checksum),
            )
            return "added"
        if old[1:] == (content_id, record.metadata, source):
            return "unchanged"
        self._run(
            "UPDATE documents SET content_id = ?, metadata = ?, source = ?, checksum = ? WHERE document_id = ?",
            *(content_id, record.metadata, source, checksum, old[0]),
        )
        replaced.append(old[1])
        return "updated" if old[1:3] != (content_id, record.metadata) else "unchanged"

    def delete_documents(self, ids: Iterable[str]) -> int:
        """Delete documents, and the contents that no other document shares; give how many there were."""
        # Not json_each as elsewhere: older versions of SQLite cut its strings at a NUL, which would name another id.
        rows = [
            self._run("SELECT document_id, content_id FROM documents WHERE id = ?", name).fetchone() for name in ids
        ]
        found = dict(row for row in rows if row is not None)
        wanted = json.dumps(list(found))
        self._run("DELETE FROM documents WHERE document_id IN (SELECT value FROM json_each(?))", wanted)
        self._drop_unused(list(found.values()))
        return len(found)

    def _drop_unused(self, content_ids: list[int]) -> None:
        self._run(
            "DELETE FROM contents WHERE content_id IN (SELECT value FROM json_each(?)) "
            "AND NOT EXISTS (SELECT 1 FROM documents WHERE documents.content_id = contents.content_id)",
            json.dumps(content_ids),
        )

    def document(self, identifier: str) -> Document | None:
        """The document with that id, or None.

        Args:
            identifier: A document id.

        Returns:
            The document, its text checked against its hash.

        Raises:
            StoreFormatError: If the text or the metadata is damaged.
        """
        row = self._run(
            "SELECT hash, CAST(text AS BLOB), CAST(metadata AS BLOB), source, checksum FROM documents "
            "JOIN contents USING (content_id) WHERE id = ?",
            identifier,
        ).fetchone()
        if row is None:
            return None
        digest, text, metadata, source, checksum = row
        remedy = "Restore the file from a backup, or delete the document and add it again."
        if _document_crc(identifier, digest, metadata, source) != checksum:
            raise StoreFormatError(f"{self.path}: the record of {identifier!r} is damaged (metadata or text). {remedy}")
        if hashlib.sha256(text).hexdigest() != digest:
            raise StoreFormatError(f"{self.path}: the stored text of {identifier!r} is damaged. {remedy}")
        try:
            return Document(identifier, text.decode(), json.loads(metadata))
        except ValueError as error:
            raise StoreFormatError(f"{self.path}: the metadata of {identifier!r} is damaged. {remedy}") from error

    def ids(self) -> list[str]:
        """Every document id, in the order the documents were first added."""
        return [row[0] for row in self._run("SELECT id FROM documents ORDER BY document_id")]

    def ids_of_source(self, source: str) -> list[str]:
        """The ids of the documents that were read from one root."""
        return [row[0] for row in self._run("SELECT id FROM documents WHERE source = ? ORDER BY document_id", source)]

    def count_documents(self) -> int:
        """How many documents there are."""
        return int(self._one("SELECT count(*) FROM documents")[0])

    def check_documents(self) -> None:
        """Refuse damaged records, before a filter relies on them.

        Raises:
            StoreFormatError: If one does not match its checksum.
        """
        damaged = self.damaged_documents()
        if damaged:
            raise StoreFormatError(
                f"{self.path}: the records of {', '.join(map(repr, damaged[:10]))} are damaged. Restore the file from "
                "a backup, or delete these documents and add them again."
            )

    def matching_documents(self, conditions: Mapping[str, Any]) -> dict[int, list[str]]:
        """The ids of the documents that a filter selects, by content number."""
        sql, parameters = filter_sql(conditions)
        rows = self._run(f"SELECT content_id, id FROM documents WHERE {sql} AND NOT {HAS_NUL}", *parameters).fetchall()
        with_nul = self._run(f"SELECT content_id, id, metadata FROM documents WHERE {HAS_NUL}")
        rows += [(number, name) for number, name, metadata in with_nul if matches(json.loads(metadata), conditions)]
        return _grouped(rows)

    def ids_of_hashes(self, hashes: Iterable[str]) -> list[str]:
        """The ids of the documents whose texts have one of some hashes."""
        rows = self._run(
            "SELECT id FROM documents JOIN contents USING (content_id) WHERE hash IN "
            "(SELECT value FROM json_each(?)) ORDER BY document_id",
            json.dumps(list(hashes)),
        )
        return [row[0] for row in rows]

    def hashes_of_contents(self, content_ids: Iterable[int]) -> list[str]:
        """The hashes of some texts."""
        rows = self._run(
            "SELECT hash FROM contents WHERE content_id IN (SELECT value FROM json_each(?))",
            json.dumps(list(content_ids)),
        )
        return [row[0] for row in rows]

    def ids_of_contents(self, content_ids: Iterable[int]) -> dict[int, list[str]]:
        """The ids of the documents that share each of some contents; contents without documents are left out."""
        return _grouped(
            self._run(
                "SELECT content_id, id FROM documents WHERE content_id IN (SELECT value FROM json_each(?))",
                json.dumps([int(content_id) for content_id in content_ids]),
            )
        )

    # Checks, for `verification`

    def integrity_messages(self) -> list[str]:
        """What SQLite itself finds wrong with the file."""
        found = [row[0] for row in self._run("PRAGMA integrity_check")]
        broken = [f"a row of {row[0]} points to a row of {row[2]} that is missing" for row in self._run(_FOREIGN_KEYS)]
        return [message for message in found if message != "ok"] + broken

    def contents_to_check(self) -> Iterator[tuple[str, bytes, list[str]]]:
        """Hash and UTF-8 text of every content, and the ids of its documents."""
        for content_id in self.staged_content_ids():
            digest, text = self._one("SELECT hash, CAST(text AS BLOB) FROM contents WHERE content_id = ?", content_id)
            yield digest, text, self.ids_of_contents([content_id]).get(content_id, [])

    def damaged_documents(self) -> list[str]:
        """The ids of the documents whose record does not match its checksum: id, text, metadata, or source."""
        rows = self._run(
            "SELECT id, hash, CAST(metadata AS BLOB), source, checksum FROM documents LEFT JOIN contents "
            "USING (content_id)"
        )
        return [str(row[0]) for row in rows if _document_crc(*row[:4]) != row[4]]

    def damaged_contents(self, encoding_id: int) -> Iterator[int]:
        """The numbers of the texts of which a passage is damaged or missing."""
        for content_id in self.shown_content_ids():
            try:
                for _ in self.passages(encoding_id, [content_id], complete=True):
                    pass
            except StoreFormatError:
                yield content_id

    def codes_to_check(self, encoding_id: int, first_stage_id: int, code_bytes: int) -> Iterator[tuple[int, int, bool]]:
        """Passage number, content number, and whether its code is there and sound, for every passage."""
        for passage_id, content_id, code, checksum in self._run(
            "SELECT passage_id, passages.content_id, code, codes.checksum FROM passages LEFT JOIN codes "
            "USING (passage_id, content_id) WHERE encoding_id = ? AND coalesce(first_stage_id, ?) = ?",
            *(encoding_id, first_stage_id, first_stage_id),
        ):
            sound = (
                isinstance(code, bytes)
                and len(code) == code_bytes
                and code_crc(passage_id, content_id, first_stage_id, code) == checksum
            )
            yield passage_id, content_id, sound

    def totals(self, encoding_id: int) -> dict[str, int]:
        """Counts and bytes of what documents point to, for `Index.stats`."""
        shown = "content_id IN (SELECT content_id FROM documents)"
        passages, tokens, token_bytes = self._one(
            "SELECT count(*), coalesce(sum(n_tokens), 0), coalesce(sum(length(tokens)), 0) FROM passages "
            f"WHERE encoding_id = ? AND {shown}",
            encoding_id,
        )
        (text_bytes,) = self._one(f"SELECT coalesce(sum(length(CAST(text AS BLOB))), 0) FROM contents WHERE {shown}")
        (code_bytes,) = self._one(f"SELECT coalesce(sum(length(code)), 0) FROM codes WHERE {shown}")
        return {
            "passages": passages,
            "tokens": tokens,
            "text_bytes": text_bytes,
            "token_bytes": token_bytes,
            "code_bytes": code_bytes,
        }

    def drop_unused_contents(self) -> int:
        """Delete every text that no document points to; give how many there were."""
        return self._run(
            "DELETE FROM contents WHERE NOT EXISTS "
            "(SELECT 1 FROM documents WHERE documents.content_id = contents.content_id)"
        ).rowcount

    def give_back_space(self) -> None:
        """Write the file anew without its free pages. It needs room for a second copy while it runs."""
        self.check_writable()
        with translated_errors(self.path):
            self._run("VACUUM")
            self._run("PRAGMA wal_checkpoint(TRUNCATE)")

    def _run(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return self._connection.execute(sql, parameters)

    def _one(self, sql: str, *parameters: Any) -> tuple[Any, ...]:
        row: tuple[Any, ...] | None = self._run(sql, *parameters).fetchone()
        if row is None:
            raise StoreFormatError(
                f"{self.path} is damaged: a row that must be there is missing. Restore it from a backup, or run "
                "`edgecolbert verify --db FILE` to see what can still be read."
            )
        return row


def _grouped(rows: Iterable[tuple[int, str]]) -> dict[int, list[str]]:
    groups: dict[int, list[str]] = {}
    for content_id, identifier in rows:
        groups.setdefault(content_id, []).append(identifier)
    return groups


def _crc(*parts: bytes) -> int:
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return checksum


def _is_sound(row: tuple[Any, ...], dim: int) -> bool:
    """Whether a row of `passages` matches its checksum; damage can change the type of a column, too."""
    blob = row[-1]
    try:
        return bool(len(blob) == row[7] * dim and zlib.crc32(blob, zlib.crc32(_PASSAGE(*row[1:9]))) == row[9])
    except (TypeError, struct.error):
        return False


def _passage_crc(*columns: Any) -> int:
    """The checksum of a passage: place, span, number of tokens and scale, then the token embeddings."""
    *numbers, blob = columns
    return zlib.crc32(blob, zlib.crc32(_PASSAGE(*numbers)))


def code_crc(passage_id: int, content_id: int, first_stage_id: int, blob: bytes) -> int:
    """The checksum of a code and of what it belongs to."""
    return _crc(struct.pack("<3q", passage_id, content_id, first_stage_id), blob)


def _document_crc(identifier: Any, digest: Any, metadata: Any, source: Any) -> int:
    """The checksum of a document: id, its text's hash, metadata and source, each ended by a byte no UTF-8 has."""
    parts = (
        part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogateescape")
        for part in (identifier, digest, metadata, "" if source is None else source)
    )
    return _crc(*(part + b"\xff" for part in parts))
