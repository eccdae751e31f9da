"""Indexed metadata fields: what conditions on them look up instead of reading the metadata of every document.

An entry says that a document's field can be found as a value of a kind (`filters.values.entries_of`). Entries are
written in the transactions that write the documents. A lost entry would silently leave a document out, so each field
has the number and a sum of checksums of its entries, whatever order they were written in.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from edgecolbert import limits
from edgecolbert.errors import InputError, StoreFormatError
from edgecolbert.filters.conditions import shown_path
from edgecolbert.filters.evaluate import value_at
from edgecolbert.filters.values import entries_of
from edgecolbert.untrusted import read_json, shown

Path = tuple[str, ...]
_Entry = tuple[int, int, Any, int]
# Entries inserted by one statement.
_INSERTED = 50_000


class FieldIndex:
    """The tables `indexed_fields` and `field_entries` of one database.

    Args:
        run: Executes a statement with its parameters.
        run_many: Executes a statement for each row of parameters.
        path: The file, for messages.
    """

    def __init__(
        self,
        run: Callable[..., sqlite3.Cursor],
        run_many: Callable[[str, Iterable[Iterable[Any]]], sqlite3.Cursor],
        path: str,
    ) -> None:
        self._run = run
        self._run_many = run_many
        self._path = path
        self._sound: tuple[int, set[int]] = (-1, set())

    def numbers(self) -> dict[Path, int]:
        """The numbers of the indexed fields.

        Returns:
            Number by path.

        Raises:
            StoreFormatError: If a field is not a list of names.
        """
        found: dict[Path, int] = {}
        for number, text in self._run("SELECT field_id, path FROM indexed_fields ORDER BY field_id"):
            try:
                names = read_json(text)
            except (ValueError, TypeError):
                names = None
            if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
                raise StoreFormatError(
                    f"{self._path} is damaged: an indexed field is {shown(text)}, expected a list of names. Restore it "
                    "from a backup."
                )
            found[tuple(names)] = number
        return found

    def create(self, path: Path, documents: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Index a field, or index it again.

        Args:
            path: Keys from the outside in.
            documents: Number and metadata of every document.

        Raises:
            InputError: If there are too many indexed fields.
        """
        self.drop(path)
        if len(self.numbers()) >= limits.INDEXED_FIELDS:
            raise InputError(
                f"{self._path} has {limits.INDEXED_FIELDS} indexed fields, and may have no more "
                "(edgecolbert.limits.INDEXED_FIELDS)."
            )
        sql = "INSERT INTO indexed_fields (path, n_entries, checksum) VALUES (?, 0, 0)"
        number = self._run(sql, json.dumps(path)).lastrowid
        self._insert(entry for document in documents for entry in _entries({path: int(number or 0)}, *document))

    def drop(self, path: Path) -> bool:
        """Forget the entries of a field.

        Args:
            path: Keys from the outside in.

        Returns:
            Whether it was indexed.
        """
        number = self.numbers().get(path)
        if number is None:
            return False
        self._run("DELETE FROM field_entries WHERE field_id = ?", number)
        self._run("DELETE FROM indexed_fields WHERE field_id = ?", number)
        return True

    def put(self, documents: Iterable[tuple[int, str]]) -> None:
        """Make the entries of documents that are new or have other metadata.

        Args:
            documents: Their numbers, and their metadata as JSON.
        """
        numbers = self.numbers()
        if numbers:
            wanted = dict(documents)
            self.remove(wanted)
            self._insert(
                entry
                for document_id, metadata in wanted.items()
                for entry in _entries(numbers, document_id, json.loads(metadata))
            )

    def remove(self, document_ids: Iterable[int]) -> None:
        """Remove the entries of documents, as they are and not as damaged metadata would have them."""
        if not self.numbers():
            return
        chosen = json.dumps(list(document_ids))
        condition = "WHERE document_id IN (SELECT value FROM json_each(?))"
        sql = f"SELECT field_id, kind, value, document_id FROM field_entries {condition}"
        self._count(self._run(sql, chosen), -1)
        self._run(f"DELETE FROM field_entries {condition}", chosen)

    def problems(self, numbers: Iterable[int] | None = None) -> Iterator[str]:
        """What is wrong with the entries of some fields, or of all, seen by themselves."""
        # All at once, because another statement may run between two of them.
        fields = self._run("SELECT field_id, path, n_entries, checksum FROM indexed_fields").fetchall()
        for number, path, n_entries, checksum in fields:
            if numbers is not None and number not in numbers:
                continue
            rows = self._run("SELECT kind, value, document_id FROM field_entries WHERE field_id = ?", number)
            checksums = [_crc(row) for row in rows]
            if (len(checksums), sum(checksums) & 0xFFFFFFFF) != (n_entries, checksum):
                yield f"The index of the metadata field {shown(path)} is damaged."

    def check(self, paths: Iterable[Path], generation: int) -> None:
        """Refuse damaged entries of some fields, looked for once between two changes, before a filter relies on them.

        Args:
            paths: The fields; those that are not indexed are passed over.
            generation: The database's.

        Raises:
            StoreFormatError: If the entries of a field are not those that were written.
        """
        if self._sound[0] != generation:
            self._sound = (generation, set())
        numbers = self.numbers()
        unknown = {numbers[path] for path in paths if path in numbers} - self._sound[1]
        for problem in self.problems(unknown) if unknown else ():
            raise StoreFormatError(
                f"{self._path}: {problem} The documents are unharmed. Call Index.index_field for it once more, or "
                "`edgecolbert index --index-field`."
            )
        self._sound[1].update(unknown)

    def differences(self, documents: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[str]:
        """Which entries are not those that the metadata ask for.

        Args:
            documents: Number and metadata of every document.

        Yields:
            A sentence for each field that has some.
        """
        numbers = self.numbers()
        wanted: dict[int, list[int]] = {number: [0, 0] for number in numbers.values()}
        for document in documents:
            for number, *entry in _entries(numbers, *document):
                wanted[number][0] += 1
                wanted[number][1] += _crc(tuple(entry))
        for path, number in numbers.items():
            sql = "SELECT n_entries, checksum FROM indexed_fields WHERE field_id = ?"
            if self._run(sql, number).fetchone() != (wanted[number][0], wanted[number][1] & 0xFFFFFFFF):
                yield f"The index of the metadata field {shown_path(path)} does not fit the documents."
        (strays,) = self._run(
            "SELECT count(*) FROM field_entries WHERE field_id NOT IN (SELECT field_id FROM indexed_fields)"
        ).fetchone()
        if strays:
            yield "There are entries of metadata fields that are not indexed."

    def _insert(self, entries: Iterator[_Entry]) -> None:
        sql = "INSERT INTO field_entries (field_id, kind, value, document_id) VALUES (?, ?, ?, ?)"
        while some := list(islice(entries, _INSERTED)):
            # In the order of the table; values of one kind can be compared.
            some.sort()
            self._run_many(sql, some)
            self._count(some, 1)

    def _count(self, entries: Iterable[_Entry], sign: int) -> None:
        counts: defaultdict[int, int] = defaultdict(int)
        totals: defaultdict[int, int] = defaultdict(int)
        for number, *entry in entries:
            counts[number] += sign
            totals[number] += sign * _crc(tuple(entry))
        for number, count in counts.items():
            self._run(
                "UPDATE indexed_fields SET n_entries = n_entries + ?, checksum = (checksum + ?) & 4294967295 "
                "WHERE field_id = ?",
                *(count, totals[number], number),
            )


def _entries(numbers: Mapping[Path, int], document_id: int, metadata: Mapping[str, Any]) -> Iterator[_Entry]:
    for path, number in numbers.items():
        for value in value_at(metadata, path):
            for kind, entry in entries_of(value):
                yield number, kind, entry, document_id


def _crc(entry: tuple[Any, ...]) -> int:
    """The checksum of an entry: kind, value and document."""
    return zlib.crc32(repr(entry).encode("utf-8", "surrogatepass"))
