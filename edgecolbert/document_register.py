"""The register of documents: how many there are, and sums over all of them, kept in every change.

A record has a checksum, but what leads to it has none: where an index lost an entry, or a row is gone, a search or
`get` would miss a document without an error. So each change also writes what the whole table should add up to, and once
for each connection that is compared with what an answer relies on: the index of texts, the table, the index of ids.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import le
from typing import Any, NamedTuple

from edgecolbert.errors import StoreFormatError
from edgecolbert.sqlite_errors import driver_errors
from edgecolbert.untrusted import read_json, shown

# In the table `state`.
_KEY = "documents"

# Every entry of the index of texts counts with both of its numbers, and each number with its own weight, so that two
# documents that changed their texts do not add up to the same. Integers throughout, for the order must not matter.
_TEXTS = "SELECT count(*), coalesce(sum(content_id * ((document_id & 255) + 1) + document_id), 0) FROM documents"
_BY_TEXT = f"{_TEXTS} INDEXED BY documents_by_content"
_BY_ROW = f"{_TEXTS} NOT INDEXED"
_IN_ORDER = "SELECT content_id FROM documents INDEXED BY documents_by_content"
_IDS = "SELECT document_id, id FROM documents"
_IDS_BY_ROW = f"{_IDS} NOT INDEXED ORDER BY document_id"
_IDS_BY_INDEX = f"{_IDS} INDEXED BY sqlite_autoindex_documents_1 ORDER BY id"

# What a document counts for whose text has no number: SQLite comes to something else until it is deleted.
_NO_TEXT = -1

# Up to so many documents their order is always looked at.
_SMALL = 10_000

Member = tuple[int, str, int]
Run = Callable[..., sqlite3.Cursor]


class Totals(NamedTuple):
    """What the documents add up to.

    Attributes:
        n_documents: How many there are.
        texts: A sum over which document has which text.
        ids: A sum over which document has which id.
    """

    n_documents: int
    texts: int
    ids: int

    def changed(self, members: Iterable[Member], sign: int) -> Totals:
        """The totals with some more documents, or without some.

        Args:
            members: Number, id and number of the text of each.
            sign: 1 or -1.

        Returns:
            The new totals.
        """
        count, texts, ids = self
        for number, name, content_id in members:
            count += sign
            is_number = type(content_id) is int
            texts += sign * (content_id * ((number & 255) + 1) + number if is_number else _NO_TEXT)
            ids += sign * _id_sum(number, name)
        return Totals(count, texts, ids)


class Register:
    """The register of one open database.

    Args:
        run: Executes a statement with its parameters.
        path: The file, for messages.
    """

    def __init__(self, run: Run, path: str) -> None:
        self._run = run
        self._path = path
        self._passed: set[str] = set()
        self._trusting = False

    def totals(self) -> Totals:
        """What was written last.

        Returns:
            The totals.

        Raises:
            StoreFormatError: If they cannot be read.
        """
        row = self._run("SELECT value FROM state WHERE key = ?", _KEY).fetchone()
        try:
            found = None if row is None else read_json(row[0])
        except (ValueError, TypeError):
            found = None
        if not (isinstance(found, list) and len(found) == len(Totals._fields) and all(type(n) is int for n in found)):
            raise self._damaged(f"what is noted of it should be three whole numbers, and is {shown(row and row[0])}")
        return Totals(*found)

    def count(self) -> int:
        """How many documents there are.

        Returns:
            Their number, without counting them each time.

        Raises:
            StoreFormatError: If the index of texts misses some.
        """
        if self._trusting:
            return int(self._run(_BY_ROW).fetchone()[0])
        self.check_texts()
        return self.totals().n_documents

    def change(self, gone: Iterable[Member], come: Iterable[Member]) -> None:
        """Note which documents go and which come, inside the change that writes them.

        Args:
            gone: Number, id and number of the text of each, as they were.
            come: The same of new ones, and of changed ones as they are now.
        """
        before = self.totals()
        after = before.changed(gone, -1).changed(come, 1)
        if after != before:
            _write(self._run, after)

    def rewrite(self) -> int:
        """Take the table for what it is, once it was checked by other means.

        Returns:
            How many documents are missing of those that were noted, as far as that can be told.
        """
        try:
            noted = self.totals().n_documents
        except StoreFormatError:
            noted = 0
        fill(self._run)
        self._passed.clear()
        return max(0, noted - self.totals().n_documents)

    @contextmanager
    def not_needed(self) -> Iterator[None]:
        """Nothing is compared meanwhile: for what looks for damage, or mends it."""
        before, self._trusting = self._trusting, True
        try:
            yield
        finally:
            self._trusting = before

    def check_texts(self) -> None:
        """Refuse an index of texts that misses documents; looked at once.

        Raises:
            StoreFormatError: If it is not the one that was written.
        """
        self._once(_BY_TEXT, self._check_index_of_texts)

    def check_rows(self) -> None:
        """Refuse a table that misses documents; looked at once.

        Raises:
            StoreFormatError: If it is not the one that was written.
        """
        self._once(_BY_ROW, self._check_texts)

    def check_ids(self) -> None:
        """Refuse a table in which documents have other ids; looked at once.

        Raises:
            StoreFormatError: If they are not those that were written.
        """
        self._once(_IDS_BY_ROW, self._check_ids)

    def check_index_of_ids(self) -> None:
        """Refuse an index of ids that misses some, before one that is not found counts as not there; looked at once.

        Raises:
            StoreFormatError: If it is not the one that was written.
        """
        self._once(_IDS_BY_INDEX, self._check_ids)

    def check_order(self) -> None:
        """Refuse an index of texts whose entries would not be found, though all are there; looked at once.

        Raises:
            StoreFormatError: If they are not in order.
        """
        self._once("order", lambda _: self._check_order())

    def problems(self) -> Iterator[str]:
        """What does not add up to what was written.

        Yields:
            The first that is wrong, if anything is.
        """
        checks: list[Callable[[], None]] = [
            partial(self._check_texts, _BY_TEXT),
            partial(self._check_texts, _BY_ROW),
            partial(self._check_ids, _IDS_BY_ROW),
            partial(self._check_ids, _IDS_BY_INDEX),
            self._check_order,
        ]
        for check in checks:
            try:
                check()
            except StoreFormatError as error:
                yield str(error)
                return

    def check_all_read(self, read: Totals) -> None:
        """Refuse what was read as the whole table and is not.

        Args:
            read: What the rows add up to.

        Raises:
            StoreFormatError: If it is not what was written.
        """
        if not self._trusting and read != self.totals():
            raise self._damaged(
                f"{self.totals().n_documents} documents were written, and others, {read.n_documents}, are there"
            )

    def _once(self, what: str, check: Callable[[str], None]) -> None:
        if not self._trusting and what not in self._passed:
            check(what)
            self._passed.add(what)

    def _check_index_of_texts(self, sql: str) -> None:
        self._check_texts(sql)
        # In larger ones only where a text is not found that is there: it takes five times as long as the sum.
        if self.totals().n_documents <= _SMALL:
            self.check_order()

    def _check_texts(self, sql: str) -> None:
        wanted = self.totals()
        try:
            count, texts = self._run(sql).fetchone()
        except driver_errors() as error:
            if "integer overflow" not in str(error):
                raise
            count, texts = wanted.n_documents, None  # a number that no text has
        if count != wanted.n_documents:
            raise self._damaged(f"{wanted.n_documents} documents were written, and {count} are found")
        if texts != wanted.texts:
            raise self._damaged("documents point to other texts than was written")

    def _check_ids(self, sql: str) -> None:
        wanted = self.totals()
        numbers, names = [], []
        try:
            for number, name in self._run(sql):
                numbers.append(number)
                names.append(name)
        except driver_errors() as error:
            if "decode" not in str(error):
                raise
            raise self._damaged("the id of a document is not UTF-8") from error
        # A row of another type adds up to something else.
        if len(names) != wanted.n_documents or sum(map(_id_sum, numbers, names)) != wanted.ids:
            raise self._damaged("documents have other ids than was written")
        # SQLite compares the bytes of UTF-8, which are in the order of the characters; lookups rely on it.
        ordered: list[Any] = names if sql == _IDS_BY_INDEX else numbers
        if not all(map(le, ordered, ordered[1:])):
            raise self._damaged("documents are out of order")

    def _check_order(self) -> None:
        numbers = [row[0] for row in self._run(_IN_ORDER)]
        try:
            ordered = all(map(le, numbers, numbers[1:]))
        except TypeError:
            ordered = False
        if not ordered:
            raise self._damaged("documents are out of order in the index of their texts")

    def _damaged(self, what: str) -> StoreFormatError:
        return StoreFormatError(
            f"{self._path}: the list of documents is damaged, so that some could be missed: {what}. Nothing was "
            "changed. Restore the file from a backup, or run `edgecolbert verify --db FILE`, which says whether "
            "`edgecolbert repair --db FILE` mends it or `--out NEW` is needed."
        )


def fill(run: Run) -> None:
    """Write the totals of the table as it is.

    Args:
        run: Executes a statement with its parameters, inside a transaction.
    """
    members = run("SELECT document_id, id, content_id FROM documents NOT INDEXED")
    _write(run, Totals(0, 0, 0).changed(members, 1))


def _write(run: Run, totals: Totals) -> None:
    run("INSERT OR REPLACE INTO state (key, value) VALUES (?, ?)", _KEY, json.dumps(totals))


def _id_sum(number: int, name: object) -> int:
    return zlib.crc32(f"{number} {name}".encode("utf-8", "surrogatepass"))
