"""The database: documents, their texts, passages, token embeddings and codes. SQL lives here, and nothing else does.

The full-text index alone is in `fulltext`, behind `Store.full_text`.

A text is kept once in `contents`, with its passages, whichever documents share it. A content that no document points
to is invisible: that is how a large `add` can write in small steps and still appear all at once, and how an
interrupted one is resumed without encoding again.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgecolbert import segment_cells
from edgecolbert.codec import LARGEST_COMPONENT, QuantizedTokens, stored_bytes
from edgecolbert.connection import MEMORY, open_connection, open_copy, reading, writing
from edgecolbert.content_keys import read_content_key
from edgecolbert.document_register import Member, Register, Totals
from edgecolbert.documents import Document, Record, is_sound_text
from edgecolbert.encryption import PAGE_OVERHEAD, Key
from edgecolbert.errors import EdgeColbertError, StoreError, StoreFormatError, StoreReadOnlyError
from edgecolbert.field_index import FieldIndex
from edgecolbert.filters import HAS_NUL, Filter, filter_sql, matches, read_filter
from edgecolbert.filters.evaluate import value_at
from edgecolbert.filters.sql import rows_of_field
from edgecolbert.filters.values import ANY, ELEMENT, INSTANT, entries_of, is_entry
from edgecolbert.fulltext import FullText
from edgecolbert.page_filling import in_filling_order
from edgecolbert.schema import prepare_schema
from edgecolbert.segment_cells import LISTS_OF_A_SEGMENT
from edgecolbert.sqlite_errors import translated_errors
from edgecolbert.token_settings import TokenSettings
from edgecolbert.untrusted import read_json, shown

if TYPE_CHECKING:
    from edgecolbert.fde import FirstStage

# Texts looked up by one statement.
_READ_BATCH = 256
# What a passage's checksum covers before its token embeddings: place, span, number of tokens, scale.
_PASSAGE = struct.Struct("<7qd").pack
_FOREIGN_KEYS = "PRAGMA foreign_key_check"
_PASSAGE_COLUMNS = (
    "passage_id, content_id, encoding_id, ordinal, n_passages, span_start, span_end, n_tokens, scale, checksum, tokens"
)
# What SQLite is asked about before a first stage is relied on; small tables, beside the lists.
_STAGE_TABLES = ("first_stages", "segments", "segment_cells", "codes")

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PinnedEncoding:
    """What the vectors of a database were made with.

    Attributes:
        encoding_id: Its number in the database.
        model_name: Name of the model.
        model_reference: The built-in name or folder it was loaded from, or None for an object of the user's.
        fingerprint: Hash of everything the token embeddings depend on.
        dim: Size of one token embedding, or None while it is not known.
        settings: Whether long documents are split, whether prompts are used, which first stage is wanted, and under
            "tokens" and "passages", where they are not the default, how token embeddings are stored
            (`TokenSettings.pinned`) and how documents become passages (`PassageSettings.pinned`).
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


class StoredFirstStage(NamedTuple):
    """A first stage as a database has it.

    Attributes:
        number: Its number in the database.
        encoding_id: The vectors that its codes are made of.
        stage: The first stage.
        fitted_on: How many passages there were when it was fitted.
        encoded_to: Number of the last passage that has a code, while it is being built.
    """

    number: int
    encoding_id: int
    stage: FirstStage
    fitted_on: int
    encoded_to: int


class StoredCode(NamedTuple):
    """The code of one passage.

    Attributes:
        passage_id: The passage.
        content_id: The text it is of.
        code: As `FirstStage.document_codes` gave it.
    """

    passage_id: int
    content_id: int
    code: bytes


class StoredSegment(NamedTuple):
    """What is known of a segment without reading it.

    Attributes:
        segment_id: Its number; a number is never used twice, and a segment is never changed.
        level: How often its entries were merged.
        n_passages: How many passages it has.
    """

    segment_id: int
    level: int
    n_passages: int


class Store:
    """One open database. It may be used from any thread, by one at a time.

    Args:
        path: The file, or ":memory:".
        create: Make the file if it does not exist.
        read_only: Open without the right to write.
        timeout: Seconds to wait for another process's write lock.
        durability: "full", or "normal" for commits that a power cut may take back.
        key: The key of an encrypted file.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        create: bool = True,
        read_only: bool = False,
        timeout: float = 10.0,
        durability: str = "full",
        key: Key | None = None,
    ) -> None:
        self.path = str(path)
        self.read_only = read_only
        self._access: dict[str, Any] = {"timeout": timeout, "durability": durability, "key": key}
        self._connection = open_connection(path, create=create, read_only=read_only, **self._access)
        try:
            with translated_errors(path):
                prepare_schema(self._connection, path, read_only=read_only)
        except BaseException:
            self._connection.close()
            raise
        self.fields = FieldIndex(self._run, self._connection.executemany, self.path)
        self.register = Register(self._run, self.path)
        self._stage_checked = False
        self._segment_cells: dict[int, segment_cells.BoolArray] = {}
        self._with_nul: tuple[int, list[int]] = (-1, [])
        self.full_text = FullText(self._connection, self.path)

    def close(self) -> None:
        """Close the connection; SQLite folds its log into the file."""
        self._connection.close()

    def another(self, *, read_only: bool | None = None) -> Store:
        """A second connection to the same file, with the same settings and key, for a thread of its own.

        Args:
            read_only: Whether it may only read; None for the same as this one.

        Returns:
            The store; close it.
        """
        wanted = self.read_only if read_only is None else read_only
        return Store(self.path, create=False, read_only=wanted, **self._access)

    @property
    def encrypted(self) -> bool:
        """Whether the file is encrypted."""
        return self._access["key"] is not None

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
        try:
            with translated_errors(self.path), writing(self._connection):
                yield
                self.full_text.finish()
                self._run("UPDATE state SET value = value + 1 WHERE key = 'generation'")
        except BaseException:
            self.full_text.abandon()
            # Numbers of segments that were rolled back are given again.
            self._segment_cells.clear()
            raise

    @property
    def generation(self) -> int:
        """A number that grows with every change."""
        (value,) = self._one("SELECT value FROM state WHERE key = 'generation'")
        if not isinstance(value, int) or value < 0:
            raise self._wrong("its generation", "a whole number of at least 0", value)
        return value

    @property
    def usable_page(self) -> int:
        """Bytes of a page that SQLite fills; SQLCipher keeps some of each for itself."""
        return int(self._one("PRAGMA page_size")[0]) - (PAGE_OVERHEAD if self._access["key"] is not None else 0)

    @property
    def file_bytes(self) -> int:
        """Size of the database in bytes, what is still in its log included."""
        return int(self._one("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")[0])

    @property
    def free_bytes(self) -> int:
        """Bytes of pages that nothing uses any more, which later writes use again and `give_back_space` gives back."""
        return int(self._one("SELECT freelist_count * page_size FROM pragma_freelist_count(), pragma_page_size()")[0])

    @property
    def page_bytes(self) -> int:
        """Size of a page of the file."""
        return int(self._one("PRAGMA page_size")[0])

    def counts(self, tables: Iterable[str]) -> dict[str, int]:
        """How many rows some tables have."""
        return {table: int(self._one(f"SELECT count(*) FROM {table}")[0]) for table in tables}

    def note(self, key: str) -> Any:
        """A value beside the documents, or None: how far `load` is, how well a first stage suits what was added."""
        row = self._run("SELECT value FROM state WHERE key = ?", key).fetchone()
        return None if row is None else row[0]

    def set_note(self, key: str, value: int | str | None) -> None:
        """Record such a value; None removes it."""
        self._run("DELETE FROM state WHERE key = ?", key)
        if value is not None:
            self._run("INSERT INTO state (key, value) VALUES (?, ?)", key, value)

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
        if not all(isinstance(value, str) for value in (name, fingerprint, "" if reference is None else reference)):
            raise self._wrong("what it says about its model", "texts", (name, reference, fingerprint))
        if dim is not None and not (isinstance(dim, int) and dim >= 1):
            raise self._wrong("its dim", "a whole number of at least 1", dim)
        return PinnedEncoding(number, name, reference, fingerprint, dim, self._settings(settings))

    def _settings(self, text: Any) -> dict[str, Any]:
        """The settings of an encoding, of which later code relies on these."""
        found = self._json(text, "the settings of its model")
        for key, kinds in (("split_documents", bool), ("prompts", bool), ("fde", str | None)):
            if key not in found or not isinstance(found[key], kinds):
                raise self._wrong(f"the setting {key!r}", "a boolean" if kinds is bool else "text", found.get(key))
        return found

    def _json(self, text: Any, what: str) -> dict[str, Any]:
        """An object that was stored as JSON, read as if a stranger had written it."""
        try:
            found = read_json(text)
        except (ValueError, TypeError) as error:
            raise self._wrong(what, f"JSON ({error})", text) from error
        if not isinstance(found, dict):
            raise self._wrong(what, "a JSON object", text)
        return found

    def _wrong(self, what: str, expected: str, found: object) -> StoreFormatError:
        return StoreFormatError(
            f"{self.path} is damaged: {what} should be {expected}, and is {shown(found)}. Restore it from a backup, or "
            "run `edgecolbert verify --db FILE` to see what can still be read."
        )

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
        found = self.encoding(state)
        if found is None:
            return
        self.drop_first_stages(found.encoding_id)
        self._run("DELETE FROM encodings WHERE state = ?", state)

    def promote_building(self) -> None:
        """Let the encoding that was being built serve."""
        self._run("UPDATE encodings SET state = 'serving' WHERE state = 'building'")

    def first_stage(self, encoding_id: int, state: str = "serving") -> StoredFirstStage | None:
        """The first stage of an encoding that is "serving" or "building", or None.

        Args:
            encoding_id: Which vectors.
            state: Which of the two.

        Returns:
            The first stage with its number.

        Raises:
            StoreFormatError: If it is damaged.
        """
        row = self._run(
            "SELECT first_stage_id, fitted_on, encoded_to, checksum, dim, first_stages.settings, cells, codebooks, "
            "mean FROM first_stages JOIN encodings USING (encoding_id) WHERE encoding_id = ? "
            "AND first_stages.state = ?",
            encoding_id,
            state,
        ).fetchone()
        if row is None:
            return None
        from edgecolbert.fde import FdeSettings, FirstStage, PackedArrays  # a search that scores everything needs none

        number, fitted_on, encoded_to, checksum, dim, settings, *blobs = row
        typed = isinstance(settings, str) and all(isinstance(blob, bytes | None) for blob in blobs)
        typed = typed and all(isinstance(value, int) for value in (fitted_on, encoded_to, dim))
        if not typed or _crc(settings.encode(), *(blob or b"" for blob in blobs)) != checksum:
            raise StoreFormatError(
                f"{self.path}: the first stage's cells are damaged. The texts and the token embeddings are unharmed: "
                "search with exact=True, and run `edgecolbert repair --db FILE` or `edgecolbert tune --rebuild --db "
                "FILE` to make the first stage again."
            )
        try:
            stage = FirstStage.unpack(FdeSettings.from_json(settings), dim, PackedArrays.from_bytes(blobs, dim))
        except (ValueError, TypeError) as error:  # a checksum that fits proves nothing: anybody can compute one
            raise self._damaged_first_stage(f"what was fitted ({error})") from error
        return StoredFirstStage(number, encoding_id, stage, fitted_on, encoded_to)

    def first_stage_number(self, encoding_id: int, state: str = "serving") -> int | None:
        """The number of that first stage alone, which says whether one read earlier is still it."""
        # Of two rows at most. By an index that lost its entry every passage would be scored, and nobody would know.
        sql = "SELECT first_stage_id FROM first_stages NOT INDEXED WHERE encoding_id = ? AND state = ?"
        row = self._run(sql, encoding_id, state).fetchone()
        return None if row is None else int(row[0])

    def fitted_on(self, encoding_id: int) -> int | None:
        """How many passages there were when the first stage that serves was fitted, or None where none serves."""
        sql = "SELECT fitted_on FROM first_stages WHERE encoding_id = ? AND state = 'serving'"
        row = self._run(sql, encoding_id).fetchone()
        return None if row is None else int(row[0])

    def add_first_stage(self, encoding_id: int, stage: FirstStage, fitted_on: int) -> int:
        """Record a first stage that is to be built, instead of one that was being built; it has no codes yet."""
        self._drop_first_stages(encoding_id, "building")
        settings = stage.settings.to_json()
        blobs = stage.pack().to_bytes()
        cursor = self._run(
            "INSERT INTO first_stages (encoding_id, state, settings, fitted_on, encoded_to, cells, codebooks, mean, "
            "checksum) VALUES (?, 'building', ?, ?, 0, ?, ?, ?, ?)",
            *(encoding_id, settings, fitted_on, *blobs, _crc(settings.encode(), *(blob or b"" for blob in blobs))),
        )
        return int(cursor.lastrowid or 0)

    def set_encoded_to(self, first_stage_id: int, passage_id: int) -> None:
        """Record up to which passage a first stage has codes."""
        self._run("UPDATE first_stages SET encoded_to = ? WHERE first_stage_id = ?", passage_id, first_stage_id)

    def measured(self, first_stage_id: int) -> dict[str, Any] | None:
        """What was measured of a first stage, or None."""
        sql = "SELECT measured FROM first_stages WHERE first_stage_id = ?"
        (text,) = self._one(sql, first_stage_id)
        if text is None:
            return None
        found = self._json(text, "what was measured of its first stage")
        if not isinstance(found.get("recall"), dict):
            raise self._wrong("what was measured of its first stage", "an object with recall", text)
        return found

    def set_measured(self, first_stage_id: int, measured: dict[str, Any]) -> None:
        """Record what was measured of a first stage."""
        text = json.dumps(measured, sort_keys=True)
        self._run("UPDATE first_stages SET measured = ? WHERE first_stage_id = ?", text, first_stage_id)

    def drift(self, first_stage_id: int) -> str | None:
        """What `set_drift` recorded, or None."""
        found = self.note(_drift_key(first_stage_id))
        return None if found is None else str(found)

    def set_drift(self, first_stage_id: int, drift: str) -> None:
        """Record how well a first stage suits what came after it was fitted."""
        # Not beside what was measured: every search reads that, and this changes with every write.
        self.set_note(_drift_key(first_stage_id), drift)

    def promote_first_stage(self, encoding_id: int) -> None:
        """Let the first stage that was being built serve; the old one goes with its codes.

        What was measured of one with the same settings is kept: a search that relies on it must not begin to fail with
        some later write.
        """
        self._run(
            "UPDATE first_stages SET measured = (SELECT old.measured FROM first_stages AS old WHERE old.encoding_id = "
            "first_stages.encoding_id AND old.state = 'serving' AND old.settings = first_stages.settings) "
            "WHERE encoding_id = ? AND state = 'building'",
            encoding_id,
        )
        self._drop_first_stages(encoding_id, "serving")
        self._run("UPDATE first_stages SET state = 'serving' WHERE encoding_id = ? AND state = 'building'", encoding_id)

    def drop_first_stages(self, encoding_id: int) -> None:
        """Forget the first stages of an encoding with all their codes; every search then scores all passages."""
        for state in ("serving", "building"):
            self._drop_first_stages(encoding_id, state)

    def _drop_first_stages(self, encoding_id: int, state: str) -> None:
        number = self.first_stage_number(encoding_id, state)
        if number is not None:
            self.drop_segments([segment.segment_id for segment in self.segments(number)])
            self.set_note(_drift_key(number), None)
            self._run("DELETE FROM first_stages WHERE first_stage_id = ?", number)

    # Codes: one by one at first, sealed into segments later

    def add_code(self, passage_id: int, content_id: int, first_stage_id: int, code: bytes) -> None:
        """Store the first stage's code of a passage."""
        self._run(
            "INSERT INTO codes (passage_id, content_id, first_stage_id, checksum, code) VALUES (?, ?, ?, ?, ?)",
            *(passage_id, content_id, first_stage_id, code_crc(passage_id, content_id, first_stage_id, code), code),
        )

    def codes(self, first_stage_id: int, after: int = 0, limit: int = -1) -> Iterator[StoredCode]:
        """Codes that no segment holds, of passages with larger numbers than `after`, in the order of the passages.

        Args:
            first_stage_id: Which first stage.
            after: A passage number.
            limit: Most codes, -1 for all.

        Yields:
            The codes, checked.

        Raises:
            StoreFormatError: If one is damaged.
        """
        for passage_id, content_id, code, checksum in self._run(
            "SELECT passage_id, content_id, code, checksum FROM codes WHERE first_stage_id = ? AND passage_id > ? "
            "ORDER BY passage_id LIMIT ?",
            *(first_stage_id, after, limit),
        ):
            if not isinstance(code, bytes) or code_crc(passage_id, content_id, first_stage_id, code) != checksum:
                raise self._damaged_first_stage(f"the code of passage {passage_id}")
            yield StoredCode(passage_id, content_id, code)

    def coded_passages(self, first_stage_id: int) -> list[int]:
        """The passages whose codes no segment holds, without reading the codes."""
        rows = self._run("SELECT passage_id FROM codes WHERE first_stage_id = ? ORDER BY passage_id", first_stage_id)
        return [row[0] for row in rows]

    def count_codes(self, first_stage_id: int) -> int:
        """How many codes no segment holds."""
        return int(self._one("SELECT count(*) FROM codes WHERE first_stage_id = ?", first_stage_id)[0])

    def drop_codes(self, first_stage_id: int, passage_ids: Sequence[int]) -> None:
        """Delete codes that a segment holds now."""
        self._run(
            "DELETE FROM codes WHERE first_stage_id = ? AND passage_id IN (SELECT value FROM json_each(?))",
            first_stage_id,
            json.dumps(list(passage_ids)),
        )

    def segments(self, first_stage_id: int) -> list[StoredSegment]:
        """The segments of a first stage, oldest first, without their contents."""
        sql = "SELECT segment_id, level, n_passages FROM segments WHERE first_stage_id = ? ORDER BY segment_id"
        found = [StoredSegment(*row) for row in self._run(sql, first_stage_id)]
        for segment in found:
            fits = all(isinstance(value, int) for value in segment)
            if not fits or not 0 < segment.segment_id < 2**63 // LISTS_OF_A_SEGMENT:
                raise self._damaged_first_stage(f"segment {segment.segment_id}")
        return found

    def check_stage_tables(self, *, again: bool = False) -> None:
        """Refuse a first stage of which something cannot be found, so that passages would be missed; looked at once.

        Args:
            again: Look even if it was looked at before.

        Raises:
            StoreFormatError: If SQLite finds an index that does not fit its table, or a segment is missing.
        """
        if self._stage_checked and not again:
            return
        for table in _STAGE_TABLES:
            message = str(self._one(f"PRAGMA integrity_check({table})")[0])
            if message != "ok":
                raise self._damaged_first_stage(f"the table {table} ({message})")
        for segment_id in self._segments_astray():
            raise self._damaged_first_stage(f"segment {segment_id}, which is missing or lacks its cells,")
        self._stage_checked = True

    def _segments_astray(self) -> list[int]:
        """Segments that are in one of the two tables alone."""
        numbers, noted = (
            {row[0] for row in self._run(f"SELECT segment_id FROM {table}")} for table in ("segments", "segment_cells")
        )
        return sorted(numbers ^ noted)

    def segment_members(self, segment_id: int) -> tuple[IntArray, IntArray]:
        """Passage and content numbers of a segment's passages, int64 each, in the order in which its lists count them.

        Args:
            segment_id: Which segment.

        Returns:
            The two arrays.

        Raises:
            StoreFormatError: If they are damaged.
        """
        n, checksum, members = self._one(
            "SELECT n_passages, checksum, members FROM segments WHERE segment_id = ?", segment_id
        )
        sound = isinstance(members, bytes) and isinstance(n, int) and len(members) == 16 * n
        if not sound or _crc(members) != checksum:
            raise self._damaged_first_stage(f"segment {segment_id}")
        numbers = np.frombuffer(members, dtype="<i8")
        return numbers[:n], numbers[n:]

    def add_segment(
        self,
        first_stage_id: int,
        level: int,
        members: tuple[IntArray, IntArray],
        lists: Iterable[tuple[int, bytes]],
    ) -> None:
        """Store a segment.

        Args:
            first_stage_id: Which first stage.
            level: How often its entries were merged.
            members: Passage and content numbers of its passages.
            lists: Cell and entries of each cell that has any.
        """
        passages, contents = members
        blob = passages.astype("<i8").tobytes() + contents.astype("<i8").tobytes()
        cursor = self._run(
            "INSERT INTO segments (first_stage_id, level, n_passages, checksum, members) VALUES (?, ?, ?, ?, ?)",
            *(first_stage_id, level, len(passages), _crc(blob), blob),
        )
        segment_id = int(cursor.lastrowid or 0)
        base, cells = segment_id * LISTS_OF_A_SEGMENT, []

        def rows() -> Iterator[tuple[int, int, bytes]]:
            for cell, entries in lists:
                cells.append(cell)
                yield base + cell, _list_crc(base + cell, entries), entries

        self._connection.executemany("INSERT INTO cell_lists (list_id, checksum, entries) VALUES (?, ?, ?)", rows())
        packed = segment_cells.pack(cells)
        self._run(
            "INSERT INTO segment_cells (segment_id, checksum, cells) VALUES (?, ?, ?)",
            *(segment_id, segment_cells.checksum(segment_id, packed), packed),
        )

    def drop_segments(self, segment_ids: Iterable[int]) -> None:
        """Delete segments with their lists."""
        for segment_id in segment_ids:
            first = segment_id * LISTS_OF_A_SEGMENT
            self._run("DELETE FROM cell_lists WHERE list_id >= ? AND list_id < ?", first, first + LISTS_OF_A_SEGMENT)
            for table in ("segment_cells", "segments"):
                self._run(f"DELETE FROM {table} WHERE segment_id = ?", segment_id)
            self._segment_cells.pop(segment_id, None)

    def lists_without_segment(self) -> list[int]:
        """The numbers of lists that belong to no segment."""
        sql = "SELECT list_id FROM cell_lists WHERE list_id / ? NOT IN (SELECT segment_id FROM segments)"
        return [row[0] for row in self._run(sql, LISTS_OF_A_SEGMENT)]

    def drop_lists(self, list_ids: Sequence[int]) -> None:
        """Delete lists by their numbers, and what is noted of segments that are gone."""
        self._run("DELETE FROM cell_lists WHERE list_id IN (SELECT value FROM json_each(?))", json.dumps(list_ids))
        self._run("DELETE FROM segment_cells WHERE segment_id NOT IN (SELECT segment_id FROM segments)")

    def cell_lists(self, list_ids: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Number and entries of those of the given lists that there are.

        Args:
            list_ids: segment_id * 65536 + cell of each.

        Yields:
            The lists, checked, in the order of their numbers.

        Raises:
            StoreFormatError: If one is damaged or missing.
        """
        numbers = np.array(list_ids, dtype=np.int64)
        segment_ids, cells = np.divmod(numbers, LISTS_OF_A_SEGMENT)
        there = np.zeros(len(numbers), dtype=np.bool_)
        for segment_id in np.unique(segment_ids).tolist():
            rows = segment_ids == segment_id
            there[rows] = self._cells_of(segment_id)[cells[rows]]
        wanted = sorted(numbers[there].tolist())
        yield from self._checked_lists(
            wanted,
            self._run(
                "SELECT list_id, checksum, entries FROM cell_lists WHERE list_id IN (SELECT value FROM json_each(?)) "
                "ORDER BY list_id",
                json.dumps(wanted),
            ),
        )

    def _checked_lists(
        self, wanted: Sequence[int], rows: Iterable[tuple[int, int, Any]]
    ) -> Iterator[tuple[int, bytes]]:
        """Number and entries of each list, which have to be those that are wanted, in order."""
        missing = iter(wanted)
        for list_id, checksum, entries in rows:
            expected = next(missing, None)
            if list_id != expected or not isinstance(entries, bytes) or _list_crc(list_id, entries) != checksum:
                raise self._damaged_first_stage(f"list {expected or list_id}")
            yield list_id, entries
        for list_id in missing:
            raise self._damaged_first_stage(f"list {list_id}")

    def _cells_of(self, segment_id: int) -> segment_cells.BoolArray:
        """Whether each cell has a list in a segment; a segment never changes."""
        known = self._segment_cells.get(segment_id)
        if known is None:
            sql = "SELECT checksum, cells FROM segment_cells WHERE segment_id = ?"
            checksum, content = self._run(sql, segment_id).fetchone() or (None, None)
            sound = isinstance(content, bytes) and 0 < len(content) <= LISTS_OF_A_SEGMENT // 8
            if not isinstance(content, bytes) or not sound or segment_cells.checksum(segment_id, content) != checksum:
                raise self._damaged_first_stage(f"which cells segment {segment_id} has")
            known = self._segment_cells[segment_id] = segment_cells.unpack(content)
        return known

    def segment_lists(self, segment_id: int) -> Iterator[tuple[int, bytes]]:
        """Cell and entries of all lists of a segment, checked, in the order of the cells."""
        first = segment_id * LISTS_OF_A_SEGMENT
        wanted = (np.flatnonzero(self._cells_of(segment_id)) + first).tolist()
        rows = self._run(
            "SELECT list_id, checksum, entries FROM cell_lists WHERE list_id >= ? AND list_id < ? ORDER BY list_id",
            *(first, first + LISTS_OF_A_SEGMENT),
        )
        for list_id, entries in self._checked_lists(wanted, rows):
            yield list_id - first, entries

    def _damaged_first_stage(self, what: str) -> StoreFormatError:
        return StoreFormatError(
            f"{self.path}: {what} in the first stage is damaged. The texts and the token embeddings are unharmed: "
            "search with exact=True, and run `edgecolbert repair --db FILE` or `edgecolbert tune --rebuild --db "
            "FILE` to make the first stage again."
        )

    def present_passages(self, passage_ids: Iterable[int]) -> set[int]:
        """Those of the given passages that have not been deleted."""
        rows = self._run(
            "SELECT passage_id FROM passages WHERE passage_id IN (SELECT value FROM json_each(?))",
            json.dumps([int(number) for number in passage_ids]),
        )
        return {row[0] for row in rows}

    def shown_contents(self, content_ids: Iterable[int]) -> set[int]:
        """Those of the given texts that documents point to."""
        self.register.check_texts()
        wanted = [int(number) for number in content_ids]
        rows = self._run(
            "SELECT content_id FROM documents WHERE content_id IN (SELECT value FROM json_each(?))", json.dumps(wanted)
        )
        found = {row[0] for row in rows}
        self._check_absent(wanted, found)
        return found

    def _check_absent(self, content_ids: Iterable[int], found: Container[int]) -> None:
        """What no document points to was deleted, too, or is not shown yet; or an index is out of order."""
        absent = [number for number in content_ids if number not in found]
        sql = "SELECT EXISTS (SELECT 1 FROM contents WHERE content_id IN (SELECT value FROM json_each(?)))"
        if absent and self._one(sql, json.dumps(absent))[0]:
            self.register.check_order()

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

    def stage_texts(
        self, encoding_id: int, texts: Iterable[tuple[str, str, list[StoredPassage]]]
    ) -> list[StoredPassage]:
        """Store texts with their passages without showing them yet.

        Args:
            encoding_id: Which vectors.
            texts: What each is stored by, the text, and its passages.

        Returns:
            The passages that were not there yet, with their numbers, in the order of these.
        """
        stored = []
        for digest, text, passages in in_filling_order(list(texts), _token_bytes, self.usable_page):
            content_id = self.stage_content(digest, text)
            if not self.has_passages(content_id, encoding_id):
                numbers = self.stage_passages(content_id, encoding_id, passages)
                stored += [
                    passage._replace(passage_id=number, content_id=content_id)
                    for number, passage in zip(numbers, passages, strict=True)
                ]
        return stored

    def stage_content(self, digest: str, text: str) -> int:
        """Store a text without showing it yet, and give its number."""
        added = self._run("INSERT INTO contents (hash, text) VALUES (?, ?) ON CONFLICT DO NOTHING", digest, text)
        number = int(self._one("SELECT content_id FROM contents WHERE hash = ?", digest)[0])
        if added.rowcount:
            self.full_text.add(number, text)
        return number

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
                *(*place, *shape, passage_crc(*place, *shape, blob), blob),
            )
            numbers.append(int(cursor.lastrowid or 0))
        return numbers

    def passages(
        self,
        encoding_id: int,
        content_ids: Sequence[int] | None = None,
        *,
        complete: bool = False,
        damaged: set[int] | None = None,
    ) -> Iterator[StoredPassage]:
        """Passages of some texts, or of all texts that documents point to, one at a time.

        Args:
            encoding_id: Which vectors.
            content_ids: The texts, or None for all that documents point to.
            complete: Every text must have all its passages; a search that missed some would silently find less.
            damaged: A set that takes the numbers of texts with damaged or missing rows, which are then left out; None
                to raise.

        Yields:
            Passages with their token embeddings, checked against their checksums.

        Raises:
            StoreFormatError: If a row is damaged or missing and `damaged` is None; the message names the documents.
        """
        layout = self._token_layout(encoding_id)
        for cursor, wanted in self._passage_cursors(encoding_id, content_ids):
            n_seen = dict.fromkeys(wanted, 0)
            n_expected = dict.fromkeys(wanted, 1)
            # Not a batch at a time: giving back megabytes and asking for them again costs more than the reading.
            for row in cursor:
                if damaged is not None and not is_sound_passage(row, layout):
                    # The number of its text may be what is damaged; then the text it belongs to has one too few.
                    damaged.update({row[1]}.intersection(n_seen))
                    continue
                passage = self._passage(row, layout)
                n_seen[passage.content_id] += 1
                n_expected[passage.content_id] = row[4]
                yield passage
            for content_id in wanted if complete else ():
                if n_seen[content_id] != n_expected[content_id]:
                    if damaged is None:
                        raise self._damaged_vectors(content_id, "a passage is missing")
                    damaged.add(content_id)

    def _passage_cursors(
        self, encoding_id: int, content_ids: Sequence[int] | None
    ) -> Iterator[tuple[sqlite3.Cursor, Sequence[int]]]:
        """Cursors over the passages of some texts, each with the texts it is about."""
        columns = f"SELECT {_PASSAGE_COLUMNS} FROM passages WHERE encoding_id = ?"
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
        self._check_number(content_id)
        with self.register.not_needed():
            ids = ", ".join(repr(name) for name in self.ids_of_contents([content_id]).get(content_id, []))
        return StoreFormatError(
            f"{self.path}: the stored token embeddings of {ids} are damaged ({what}). Its text is unharmed: run "
            "`edgecolbert repair --db FILE` to make the vectors again."
        )

    def shown_content_ids(self) -> list[int]:
        """The numbers of all texts that documents point to, in order."""
        self.register.check_texts()
        found = [row[0] for row in self._run("SELECT DISTINCT content_id FROM documents ORDER BY content_id")]
        for number in found:
            self._check_number(number)
        return found

    def staged_content_ids(self) -> list[int]:
        """The numbers of all texts, those that no document points to yet included."""
        return [row[0] for row in self._run("SELECT content_id FROM contents ORDER BY content_id")]

    def passage_spans(self, encoding_id: int, content_ids: Iterable[int]) -> dict[int, list[tuple[int, int]]]:
        """Offsets of the first character of each passage of some texts, and of the one behind its last, in order."""
        spans: dict[int, list[tuple[int, int]]] = {}
        for number, start, end in self._run(
            "SELECT content_id, span_start, span_end FROM passages WHERE encoding_id = ? AND content_id IN "
            "(SELECT value FROM json_each(?)) ORDER BY content_id, ordinal",
            encoding_id,
            json.dumps([int(number) for number in content_ids]),
        ):
            if not isinstance(start, int) or not isinstance(end, int):
                raise self._damaged_vectors(number, "the offsets of a passage are damaged")
            spans.setdefault(number, []).append((start, end))
        return spans

    def passages_after(self, encoding_id: int, passage_id: int, limit: int) -> Iterator[StoredPassage]:
        """Passages with larger numbers, in order, those of texts not shown yet included.

        Args:
            encoding_id: Which vectors.
            passage_id: The number after which to begin.
            limit: Most passages.

        Yields:
            Passages with their token embeddings, checked.

        Raises:
            StoreFormatError: If a row is damaged.
        """
        layout = self._token_layout(encoding_id)
        for row in self._run(
            f"SELECT {_PASSAGE_COLUMNS} FROM passages WHERE encoding_id = ? AND passage_id > ? ORDER BY passage_id "
            "LIMIT ?",
            *(encoding_id, passage_id, limit),
        ):
            yield self._passage(row, layout)

    def passage_numbers(self, encoding_id: int) -> list[int]:
        """The numbers of all passages of an encoding, in order."""
        rows = self._run("SELECT passage_id FROM passages WHERE encoding_id = ? ORDER BY passage_id", encoding_id)
        return [row[0] for row in rows]

    def passages_by_number(self, encoding_id: int, passage_ids: Sequence[int]) -> Iterator[StoredPassage]:
        """Some passages, in the order of their numbers, checked."""
        layout = self._token_layout(encoding_id)
        for row in self._run(
            f"SELECT {_PASSAGE_COLUMNS} FROM passages WHERE encoding_id = ? AND passage_id IN "
            "(SELECT value FROM json_each(?)) ORDER BY passage_id",
            encoding_id,
            json.dumps([int(number) for number in passage_ids]),
        ):
            yield self._passage(row, layout)

    def _token_layout(self, encoding_id: int) -> tuple[int, int]:
        """Size of a token embedding, and bits of a component."""
        dim, settings = self._one("SELECT dim, settings FROM encodings WHERE encoding_id = ?", encoding_id)
        return dim, TokenSettings.pinned(self._json(settings, "the settings of its model"), self.path).bits

    def _passage(self, row: tuple[Any, ...], layout: tuple[int, int]) -> StoredPassage:
        number, content_id, _, _, _, start, end, _, scale, _, blob = row
        if not is_sound_passage(row, layout):
            raise self._damaged_vectors(content_id, f"passage {number} is damaged")
        return StoredPassage(number, content_id, start, end, QuantizedTokens.from_bytes(blob, scale, *layout))

    def unsound_passages(self, encoding_id: int) -> list[int]:
        """The numbers of the texts that passages belong to which do not match their checksums, shown or not."""
        layout = self._token_layout(encoding_id)
        rows = self._run(f"SELECT {_PASSAGE_COLUMNS} FROM passages WHERE encoding_id = ?", encoding_id)
        return sorted({row[1] for row in rows if not is_sound_passage(row, layout)})

    def drop_passages(self, encoding_id: int, content_ids: Iterable[int]) -> None:
        """Delete the passages of some texts with their codes, to store new ones."""
        self._run(
            "DELETE FROM passages WHERE encoding_id = ? AND content_id IN (SELECT value FROM json_each(?))",
            encoding_id,
            json.dumps(list(content_ids)),
        )

    def count_passages(self, encoding_id: int, after: int = 0) -> int:
        """How many passages with larger numbers than `after` an encoding has, those of texts not shown yet included."""
        sql = "SELECT count(*) FROM passages WHERE encoding_id = ? AND passage_id > ?"
        return int(self._one(sql, encoding_id, after)[0])

    def contents_without_passages(self, encoding_id: int, limit: int) -> list[tuple[str, str]]:
        """Hash and text of contents that documents point to and that this encoding has not encoded yet."""
        found = self._run(
            "SELECT hash, text FROM contents WHERE content_id IN (SELECT content_id FROM documents) AND NOT "
            "EXISTS (SELECT 1 FROM passages WHERE passages.content_id = contents.content_id AND encoding_id = ?) "
            "ORDER BY content_id LIMIT ?",
            encoding_id,
            limit,
        ).fetchall()
        for digest, text in found:
            if not isinstance(digest, str) or not isinstance(text, str):
                raise self._wrong(f"the text with the hash {shown(digest)}", "text", text)
        return found

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
        metadata: dict[int, str] = {}
        gone: list[Member] = []
        come: list[Member] = []
        outcomes = [self._put_document(record, source, replaced, metadata, gone, come) for record in records]
        self.register.change(gone, come)
        self.fields.put(metadata.items())
        # Only now: a text that one document gave up may be another's in the same call.
        self._drop_unused(replaced)
        return outcomes

    def _put_document(
        self,
        record: Record,
        source: str | None,
        replaced: list[int],
        metadata: dict[int, str],
        gone: list[Member],
        come: list[Member],
    ) -> str:
        (content_id,) = self._one("SELECT content_id FROM contents WHERE hash = ?", record.hash)
        checksum = document_crc(record.id, record.hash, record.metadata, source)
        old = self._run(
            "SELECT document_id, content_id, metadata, source FROM documents WHERE id = ?", record.id
        ).fetchone()
        if old is None:
            new = self._run(
                "INSERT INTO documents (id, content_id, metadata, source, checksum) VALUES (?, ?, ?, ?, ?)",
                *(record.id, content_id, record.metadata, source, checksum),
            )
            metadata[int(new.lastrowid or 0)] = record.metadata
            come.append((int(new.lastrowid or 0), record.id, content_id))
            return "added"
        if old[1:] == (content_id, record.metadata, source):
            return "unchanged"
        self._run(
            "UPDATE documents SET content_id = ?, metadata = ?, source = ?, checksum = ? WHERE document_id = ?",
            *(content_id, record.metadata, source, checksum, old[0]),
        )
        replaced.append(old[1])
        gone.append((old[0], record.id, old[1]))
        come.append((old[0], record.id, content_id))
        if old[2] != record.metadata:
            metadata[old[0]] = record.metadata
        return "updated" if old[1:3] != (content_id, record.metadata) else "unchanged"

    def delete_documents(self, ids: Iterable[str]) -> int:
        """Delete documents, and the contents that no other document shares; give how many there were."""
        # Not json_each as elsewhere: older versions of SQLite cut its strings at a NUL, which would name another id.
        sql = "SELECT document_id, id, content_id FROM documents WHERE id = ?"
        rows: list[Member | None] = [self._run(sql, name).fetchone() for name in ids]
        if None in rows:
            self.register.check_index_of_ids()
        gone = {row for row in rows if row is not None}
        self.register.change(gone, ())
        found = {number: content_id for number, _, content_id in gone}
        wanted = json.dumps(list(found))
        self.fields.remove(found)
        self._run("DELETE FROM documents WHERE document_id IN (SELECT value FROM json_each(?))", wanted)
        self._drop_unused(list(found.values()))
        return len(found)

    def _drop_unused(self, content_ids: list[int]) -> None:
        rows = self._run(
            "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT content_id FROM documents WHERE content_id IN "
            "(SELECT value FROM json_each(?)))",
            *(json.dumps(content_ids), json.dumps(content_ids)),
        )
        self._drop_contents(sorted({row[0] for row in rows}))

    def _drop_contents(self, content_ids: list[int]) -> None:
        unused = json.dumps(content_ids)
        forgotten = self.full_text.remove(content_ids)
        # Passages by a statement of their own: as a consequence of the other they take 1.4 times as long.
        self._run("DELETE FROM passages WHERE content_id IN (SELECT value FROM json_each(?))", unused)
        self._run("DELETE FROM contents WHERE content_id IN (SELECT value FROM json_each(?))", unused)
        if not forgotten:
            self.full_text.rebuild()

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
            "LEFT JOIN contents USING (content_id) WHERE id = ?",
            identifier,
        ).fetchone()
        if row is None:
            self.register.check_index_of_ids()
            return None
        return self._checked_document(identifier, *row)

    def _checked_document(
        self, identifier: str, digest: str, text: bytes | None, metadata: bytes, source: str | None, checksum: int
    ) -> Document:
        remedy = "Restore the file from a backup, or delete the document and add it again."
        if document_crc(identifier, digest, metadata, source) != checksum:
            raise StoreFormatError(f"{self.path}: the record of {identifier!r} is damaged (metadata or text). {remedy}")
        if not is_sound_text(text, digest):
            raise StoreFormatError(f"{self.path}: the stored text of {identifier!r} is damaged. {remedy}")
        try:
            _, kind, title = read_content_key(digest)
            return Document(identifier, (text or b"").decode(), self._json(metadata, "its metadata"), title, kind)
        except ValueError as error:
            raise StoreFormatError(f"{self.path}: the metadata of {identifier!r} is damaged. {remedy}") from error

    def documents(self) -> Iterator[tuple[Document, str | None, int]]:
        """Every document with its source and the number of its text, checked, in the order they were first added.

        Yields:
            Document, source or None, content number.

        Raises:
            StoreFormatError: If one is damaged or missing.
        """
        read = Totals(0, 0, 0)
        for number, identifier, content_id, *row in self._run(
            "SELECT document_id, id, content_id, hash, CAST(text AS BLOB), CAST(metadata AS BLOB), source, checksum "
            "FROM documents LEFT JOIN contents USING (content_id) ORDER BY document_id"
        ):
            if row[0] is None:
                raise StoreFormatError(
                    f"{self.path}: the text of {identifier!r} is missing. Restore the file from a backup, or delete "
                    "the document and add it again."
                )
            digest, text, metadata, source, checksum = row
            yield self._checked_document(identifier, digest, text, metadata, source, checksum), source, content_id
            read = read.changed([(number, identifier, content_id)], 1)
        self.register.check_all_read(read)

    def ids(self, conditions: Mapping[str, Any] | Filter | None = None) -> list[str]:
        """Every document id, or those that a filter selects, in the order the documents were first added."""
        if conditions is None:
            self.register.check_ids()
            return [row[0] for row in self._run("SELECT id FROM documents NOT INDEXED ORDER BY document_id")]
        sql, parameters = self._selection(conditions)
        return [row[0] for row in self._run(f"SELECT id FROM documents WHERE {sql} ORDER BY document_id", *parameters)]

    def ids_of_source(self, source: str) -> list[str]:
        """The ids of the documents that were read from one root."""
        return [row[0] for row in self._run("SELECT id FROM documents WHERE source = ? ORDER BY document_id", source)]

    def sample_texts(self, most: int) -> list[str]:
        """Texts of some documents, evenly spaced."""
        numbers = self.shown_content_ids()
        chosen = json.dumps(numbers[:: max(1, len(numbers) // max(1, most))][:most])
        sql = "SELECT text FROM contents WHERE content_id IN (SELECT value FROM json_each(?)) ORDER BY content_id"
        return [row[0] for row in self._run(sql, chosen)]

    def count_documents(self, conditions: Mapping[str, Any] | Filter | None = None) -> int:
        """How many documents there are, or how many a filter selects."""
        if conditions is None:
            return self.register.count()
        sql, parameters = self._selection(conditions)
        return int(self._one(f"SELECT count(*) FROM documents WHERE {sql}", *parameters)[0])

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

    def matching_documents(
        self, conditions: Mapping[str, Any] | Filter, *, without: Iterable[str] = ()
    ) -> dict[int, list[str]]:
        """The ids of the documents that a filter selects, by content number.

        Args:
            conditions: As `Index.search` takes them.
            without: Ids of documents whose records are damaged, which are passed over.

        Returns:
            The ids; damaged records are not read, since their metadata may not be JSON any more.
        """
        sql, parameters = self._selection(conditions, without)
        return self._grouped(self._run(f"SELECT content_id, id FROM documents WHERE {sql}", *parameters))

    def _selection(self, conditions: Mapping[str, Any] | Filter, without: Iterable[str] = ()) -> tuple[str, list[Any]]:
        """What is true for the rows of `documents` that a filter selects, and its parameters."""
        self.register.check_rows()
        wanted = read_filter(conditions)
        sql, parameters, whole = filter_sql(wanted, self.fields.numbers())
        listed = "documents.document_id {} (SELECT value FROM json_each(?))"
        left_out = self._documents_named(without)
        with_nul = [] if whole else [number for number in self._documents_with_nul() if number not in left_out]
        if with_nul:
            chosen = [number for number, metadata in self.metadata(with_nul) if matches(metadata, wanted)]
            sql = f"(({sql}) AND {listed.format('NOT IN')} OR {listed.format('IN')})"
            parameters = [*parameters, json.dumps(with_nul), json.dumps(chosen)]
        if left_out:
            # Only CASE promises that what comes after is not looked at.
            sql = f"CASE WHEN {listed.format('IN')} THEN 0 ELSE {sql} END"
            parameters = [json.dumps(sorted(left_out)), *parameters]
        return sql, parameters

    def _documents_named(self, ids: Iterable[str]) -> set[int]:
        # One by one, as in `delete_documents`.
        rows = [self._run("SELECT document_id FROM documents WHERE id = ?", name).fetchone() for name in ids]
        return {row[0] for row in rows if row is not None}

    def _documents_with_nul(self) -> list[int]:
        """The numbers of the documents with a NUL in their metadata, looked for once between two changes."""
        generation = self.generation
        if self._with_nul[0] != generation:
            rows = self._run(f"SELECT document_id FROM documents WHERE {HAS_NUL}")
            self._with_nul = (generation, [row[0] for row in rows])
        return self._with_nul[1]

    def metadata(self, numbers: Iterable[int] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and metadata of some documents, or of all."""
        if numbers is None:
            numbers = [row[0] for row in self._run("SELECT document_id FROM documents ORDER BY document_id")]
        for number in numbers:
            name, text = self._one("SELECT id, metadata FROM documents WHERE document_id = ?", number)
            yield number, self._json(text, f"the metadata of {shown(name)}")

    def index_field(self, path: tuple[str, ...]) -> None:
        """Make the entries of a metadata field, or make them again."""
        self.check_documents()
        self.fields.create(path, self.metadata())

    def facet_counts(
        self, path: tuple[str, ...], conditions: Mapping[str, Any] | Filter
    ) -> tuple[Counter[tuple[int, Any]], int]:
        """How many documents have each value of a metadata field.

        Args:
            path: Keys from the outside in.
            conditions: Which documents to count.

        Returns:
            Documents by kind and value (`filters.values.kinds_of`), those of the elements of arrays included, and how
            many documents have the field at all.
        """
        sql, parameters = self._selection(conditions)
        counts: Counter[tuple[int, Any]] = Counter()
        field_id = self.fields.numbers().get(path)
        if field_id is not None:
            rows = self._run(
                "SELECT kind, value, count(*) FROM field_entries WHERE field_id = ? AND "
                f"document_id IN (SELECT document_id FROM documents WHERE {sql}) GROUP BY kind, value",
                *(field_id, *parameters),
            )
            for kind, value, count in rows:
                if not is_entry(kind, value):
                    raise self._wrong("an entry of an indexed field", "a kind and a value of it", (kind, value))
                counts[kind % ELEMENT, value] += count
        else:
            tables, bound = rows_of_field(path)
            with_nul = self._documents_with_nul()
            rows = self._run(
                f"SELECT field.type, field.value, count(*) FROM documents, {tables} WHERE field.key = ? AND ({sql}) "
                "AND documents.document_id NOT IN (SELECT value FROM json_each(?)) GROUP BY field.type, field.value",
                *(*bound, path[-1], *parameters, json.dumps(with_nul)),
            )
            for kind, value, count in rows:
                for found in entries_of(self._json_value(kind, value)):
                    counts[found[0] % ELEMENT, found[1]] += count
            for _, metadata in self.metadata(self._selected_of(with_nul, sql, parameters)):
                for entry in value_at(metadata, path):
                    counts.update((found % ELEMENT, value) for found, value in entries_of(entry))
        with_field = counts.pop((ANY, 0), 0)
        return Counter({entry: count for entry, count in counts.items() if entry[0] != INSTANT}), with_field

    def _selected_of(self, numbers: list[int], sql: str, parameters: list[Any]) -> list[int]:
        """Those of some documents that `_selection` selects."""
        if not numbers:
            return []
        listed = "document_id IN (SELECT value FROM json_each(?))"
        rows = self._run(
            f"SELECT document_id FROM documents WHERE {listed} AND ({sql})", json.dumps(numbers), *parameters
        )
        return [row[0] for row in rows]

    def _json_value(self, kind: str, value: Any) -> Any:
        """A value as json_each gives it; of an object only that it is one."""
        if kind in ("true", "false"):
            return kind == "true"
        try:
            return read_json(value) if kind == "array" else {} if kind == "object" else value
        except ValueError as error:
            raise self._wrong("an array in metadata", f"JSON ({error})", value) from error

    def ids_of_hashes(self, hashes: Iterable[str]) -> list[str]:
        """The ids of the documents whose texts have one of some hashes."""
        rows = self._run(
            "SELECT id FROM documents JOIN contents USING (content_id) WHERE hash IN "
            "(SELECT value FROM json_each(?)) ORDER BY document_id",
            json.dumps(list(hashes)),
        )
        return [row[0] for row in rows]

    def ids_of_passages(self, passage_ids: Iterable[int]) -> list[str]:
        """The ids of the documents that some passages are of."""
        rows = self._run(
            "SELECT id FROM documents WHERE content_id IN (SELECT content_id FROM passages WHERE passage_id IN "
            "(SELECT value FROM json_each(?))) ORDER BY document_id",
            json.dumps(list(passage_ids)),
        )
        return [row[0] for row in rows]

    def hashes_of_contents(self, content_ids: Iterable[int]) -> list[str]:
        """The hashes of some texts."""
        rows = self._run(
            "SELECT hash FROM contents WHERE content_id IN (SELECT value FROM json_each(?))",
            json.dumps(list(content_ids)),
        )
        return [row[0] for row in rows]

    def content_number(self, identifier: str) -> int | None:
        """The number of a document's text, or None where there is no such document."""
        row = self._run("SELECT content_id FROM documents WHERE id = ?", identifier).fetchone()
        if row is None:
            self.register.check_index_of_ids()
        return None if row is None else int(row[0])

    def ids_of_contents(self, content_ids: Iterable[int]) -> dict[int, list[str]]:
        """The ids of the documents that share each of some contents; contents without documents are left out."""
        self.register.check_texts()
        wanted = [int(content_id) for content_id in content_ids]
        sql = "SELECT content_id, id FROM documents WHERE content_id IN (SELECT value FROM json_each(?))"
        found = self._grouped(self._run(sql, json.dumps(wanted)))
        self._check_absent(wanted, found)
        return found

    def contents_of_ids(self, ids: Sequence[str]) -> dict[str, int]:
        """The content numbers of some documents, by id."""
        return {name: int(self._one("SELECT content_id FROM documents WHERE id = ?", name)[0]) for name in ids}

    def text(self, content_id: int) -> str:
        """One text, as it is stored."""
        (text,) = self._one("SELECT text FROM contents WHERE content_id = ?", content_id)
        if not isinstance(text, str):
            raise self._wrong("a text", "text", text)
        return text

    # Checks, for `verification`

    def integrity_messages(self) -> list[str]:
        """What SQLite itself finds wrong with the file."""
        found = [row[0] for row in self._run("PRAGMA integrity_check")]
        broken = [f"a row of {row[0]} points to a row of {row[2]} that is missing" for row in self._run(_FOREIGN_KEYS)]
        return [message for message in found if message != "ok"] + broken

    def quick_messages(self) -> list[str]:
        """What SQLite finds wrong with everything but the token embeddings, whose pages are not read.

        Returns:
            A message for each problem.
        """
        tables = ("state", "encodings", "contents", "documents", *_STAGE_TABLES)
        found = [row[0] for table in tables for row in self._run(f"PRAGMA quick_check({table})")]
        broken = [row for table in ("documents", "codes") for row in self._run(f"PRAGMA foreign_key_check({table})")]
        messages = [f"a row of {row[0]} points to a row of {row[2]} that is missing" for row in broken]
        if self.path != MEMORY:
            # Less than that was cut off; more may be in the log.
            size, log = Path(self.path).stat().st_size, Path(f"{self.path}-wal")
            if size < self.file_bytes and not (log.exists() and log.stat().st_size):
                messages.append(f"it has {size} bytes, expected {self.file_bytes}: it was cut short")
        return [message for message in found if message != "ok"] + messages

    def contents_to_check(self) -> Iterator[tuple[str, bytes | None, list[str]]]:
        """Hash and UTF-8 text of every content, None where that is missing, and the ids of its documents."""
        for content_id in self.staged_content_ids():
            digest, text = self._one("SELECT hash, CAST(text AS BLOB) FROM contents WHERE content_id = ?", content_id)
            yield digest, text, self.ids_of_contents([content_id]).get(content_id, [])

    def damaged_documents(self) -> list[str]:
        """The ids of the documents whose record does not match its checksum: id, text, metadata, or source."""
        rows = self._run(
            "SELECT id, hash, CAST(metadata AS BLOB), source, checksum FROM documents LEFT JOIN contents "
            "USING (content_id)"
        )
        return [str(row[0]) for row in rows if document_crc(*row[:4]) != row[4]]

    def damaged_contents(self, encoding_id: int) -> Iterator[int]:
        """The numbers of the texts of which a passage is damaged or missing."""
        for content_id in self.shown_content_ids():
            try:
                for _ in self.passages(encoding_id, [content_id], complete=True):
                    pass
            except StoreFormatError:
                yield content_id

    def totals(self, encoding_id: int) -> dict[str, int]:
        """Counts and bytes of what documents point to, for `Index.stats`."""
        shown = "content_id IN (SELECT content_id FROM documents)"
        # Damage and strangers put anything in place of a number; such a row is refused when it is read.
        passages, tokens, token_bytes = self._one(
            "SELECT count(*), total(CASE WHEN typeof(n_tokens) = 'integer' THEN n_tokens END), "
            "coalesce(sum(length(tokens)), 0) FROM passages "
            f"WHERE encoding_id = ? AND {shown}",
            encoding_id,
        )
        (text_bytes,) = self._one(f"SELECT coalesce(sum(length(CAST(text AS BLOB))), 0) FROM contents WHERE {shown}")
        (code_bytes,) = self._one(
            "SELECT (SELECT coalesce(sum(length(code)), 0) FROM codes) + "
            "(SELECT coalesce(sum(length(entries)), 0) FROM cell_lists) + "
            "(SELECT coalesce(sum(length(members)), 0) FROM segments)"
        )
        return {
            "passages": passages,
            "tokens": int(tokens),
            "text_bytes": text_bytes,
            "token_bytes": token_bytes,
            "code_bytes": code_bytes,
        }

    def drop_unused_contents(self) -> int:
        """Delete every text that no document points to; give how many there were."""
        unused = self._run(
            "SELECT content_id FROM contents WHERE NOT EXISTS "
            "(SELECT 1 FROM documents WHERE documents.content_id = contents.content_id)"
        )
        numbers = [row[0] for row in unused]
        self._drop_contents(numbers)
        return len(numbers)

    def rebuild_lexical(self) -> None:
        """Make the full-text index again from the texts."""
        with self.change():
            self.full_text.rebuild()

    def give_back_space(self) -> None:
        """Write the file anew without its free pages. It needs room for a second copy while it runs."""
        self.check_writable()
        with translated_errors(self.path):
            self._run("VACUUM")
            self._connection.checkpoint()
        # A commit starts the log again and cuts what VACUUM made of it.
        with self.change():
            pass

    @contextmanager
    def decoding_first_stage(self) -> Iterator[None]:
        """What goes wrong inside is damage: the checksums fit, and yet a list or code points past what it counts."""
        try:
            yield
        except (IndexError, ValueError) as error:
            if isinstance(error, EdgeColbertError):
                raise
            raise self._damaged_first_stage(f"a list or code ({error})") from error

    def _check_number(self, number: object) -> None:
        if not isinstance(number, int):
            raise self._wrong("which text a document has", "a whole number", number)

    def _grouped(self, rows: Iterable[tuple[int, str]]) -> dict[int, list[str]]:
        groups: dict[int, list[str]] = {}
        for content_id, identifier in rows:
            # A filter may select most of a large index: no calls for rows that are as they should be.
            if type(content_id) is not int or type(identifier) is not str:
                self._check_number(content_id)
                raise self._wrong("the id of a document", "text", identifier)
            groups.setdefault(content_id, []).append(identifier)
        return groups

    def open_copy(self, path: Path) -> sqlite3.Connection:
        """Open an empty file for `copy_to`; what it gets is encrypted with the key of this database, if it has one."""
        return open_copy(path, self._access["key"])

    def copy_to(
        self, target: sqlite3.Connection, progress: Callable[[int, int, int], None] | None = None, pages: int = 1_024
    ) -> None:
        """Copy every page to an empty database, inside a snapshot, so that writers of other processes go on.

        Args:
            target: Where to, as `open_copy` gives it.
            progress: Called as sqlite3.Connection.backup calls it; an exception it raises stops the copying.
            pages: How many to copy between two calls.
        """
        self._connection.backup(target, pages=pages, progress=progress)

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


def _token_bytes(text: tuple[str, str, list[StoredPassage]]) -> list[int]:
    return [passage.tokens.n_bytes for passage in text[2]]


def _drift_key(first_stage_id: int) -> str:
    return f"drift of first stage {first_stage_id}"


def _crc(*parts: bytes) -> int:
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return checksum


def is_sound_passage(row: tuple[Any, ...], layout: tuple[int, int]) -> bool:
    """Whether a row of `passages` matches its checksum; damage can change the type of a column, too."""
    blob = row[-1]
    try:
        size = stored_bytes(row[7], *layout)
        fits = len(blob) == size and 0 < row[8] <= LARGEST_COMPONENT
        return bool(fits and zlib.crc32(blob, zlib.crc32(_PASSAGE(*row[1:9]))) == row[9])
    except (TypeError, struct.error):
        return False


def passage_crc(*columns: Any) -> int:
    """The checksum of a passage: place, span, number of tokens and scale, then the token embeddings."""
    *numbers, blob = columns
    return zlib.crc32(blob, zlib.crc32(_PASSAGE(*numbers)))


def code_crc(passage_id: int, content_id: int, first_stage_id: int, blob: bytes) -> int:
    """The checksum of a code and of what it belongs to."""
    return _crc(struct.pack("<3q", passage_id, content_id, first_stage_id), blob)


def _list_crc(list_id: int, entries: bytes) -> int:
    """The checksum of a list and of the place it belongs to."""
    return _crc(struct.pack("<q", list_id), entries)


def document_crc(identifier: Any, digest: Any, metadata: Any, source: Any) -> int:
    """The checksum of a document: id, its text's hash, metadata and source, each ended by a byte no UTF-8 has."""
    parts = (identifier, digest, metadata, "" if source is None else source)
    encoded = [part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogateescape") for part in parts]
    return zlib.crc32(b"\xff".join((*encoded, b"")))
