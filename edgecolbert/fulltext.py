"""The full-text index in the database: FTS5's table `lexical`, kept with the texts by the same transactions.

The table is contentless: it holds no second copy of the texts, and a row is deleted by naming the tokens that it was
made of, which are those of the text in `contents`. Every text of `contents` has a row, those that no document points to
yet included; searches leave these out.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from edgecolbert.connection import Connection
from edgecolbert.documents import is_sound_text
from edgecolbert.drivers import undefended
from edgecolbert.full_text_sums import FullTextSums, damaged_index, varints
from edgecolbert.lexical import columns
from edgecolbert.sqlite_errors import driver_errors, error_code

# Weights of the columns for BM25. Names are found by their words, too, so they only tell texts with the same words
# apart: with a weight of 1 the mean nDCG@10 of five collections of prose is .005 lower (docs/hybrid.md).
_BM25 = "-bm25(lexical, 1, 1, 0.25)"
_SHOWN = "EXISTS (SELECT 1 FROM documents WHERE documents.content_id = lexical.rowid)"
# FTS5 would look each number up by a search of its own; a unary plus keeps it from that.
_AMONG = "+lexical.rowid IN (SELECT value FROM json_each(?))"
_DELETE = "INSERT INTO lexical (lexical, rowid, words, exact, names) VALUES ('delete', ?, ?, ?, ?)"
_INSERT = "INSERT INTO lexical (rowid, words, exact, names) VALUES (?, ?, ?, ?)"
_DELETE_ALL = "INSERT INTO lexical (lexical) VALUES ('delete-all')"

# FTS5's own tables as it makes them: empty, with one setting, that of the format, which it has had since 2015.
_CONFIG = [("version", "4")]
_AS_NEW = (
    "DELETE FROM lexical_data",
    "DELETE FROM lexical_idx",
    "DELETE FROM lexical_docsize",
    "DELETE FROM lexical_config",
    "INSERT INTO lexical_data (id, block) VALUES (1, x''), (10, x'00000000000000')",
    "INSERT INTO lexical_config (k, v) VALUES ('version', 4)",
)
# The second where FTS5 is to write what its tables have already.
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_CONSTRAINT)
# What it says of its settings has no code of its own.
_OTHER_FORMAT = "invalid fts5 file format"


class Scored(NamedTuple):
    """A text that matches.

    Attributes:
        content_id: Its number.
        score: BM25; higher is better.
    """

    content_id: int
    score: float


def fill(connection: Connection | sqlite3.Connection) -> None:
    """Index every text that is stored, into a table without rows.

    Args:
        connection: A connection inside a transaction that writes.
    """
    numbers = [row[0] for row in connection.execute("SELECT content_id FROM contents ORDER BY content_id")]
    connection.executemany(_INSERT, ((number, *_stored_columns(connection, number)) for number in numbers))


def _stored_columns(connection: Connection | sqlite3.Connection, content_id: int) -> tuple[str, str, str]:
    # A damaged text must not keep the others from being found, nor itself from being deleted.
    return columns(_stored_text(connection, content_id)[0].decode("utf-8", "replace"))


def _stored_text(connection: Connection | sqlite3.Connection, content_id: int) -> tuple[bytes, bool]:
    """A text in UTF-8, and whether it is the one that was stored."""
    row = connection.execute(
        "SELECT CAST(text AS BLOB), hash FROM contents WHERE content_id = ?", (content_id,)
    ).fetchone()
    # In a damaged file a number can be listed that is not found again.
    return (row[0], True) if row is not None and is_sound_text(*row) else (b"", False)


class FullText:
    """The full-text index of an open database.

    Args:
        connection: The database's connection.
        path: The file, for messages.
    """

    def __init__(self, connection: Connection, path: str | Path) -> None:
        self._connection = connection
        self._path = str(path)
        self.sums = FullTextSums(self._run, self._path)

    def add(self, content_id: int, text: str) -> None:
        """Index a new text."""
        with self._damage_explained():
            self.sums.before()
            self._run(_INSERT, content_id, *columns(text))
            self.sums.after(content_id)

    def remove(self, content_ids: Iterable[int]) -> bool:
        """Forget texts that are about to be deleted from `contents`.

        Args:
            content_ids: Their numbers.

        Returns:
            Whether all are forgotten. What a damaged text was before nobody knows: then only `rebuild` does it.
        """
        with self._damage_explained():
            for number in content_ids:
                text, sound = _stored_text(self._connection, number)
                if not sound:
                    return False
                self.sums.before()
                self._run(_DELETE, number, *columns(text.decode()))
                self.sums.after(number)
        return True

    def rebuild(self) -> None:
        """Make the whole index again from the texts."""
        with self._damage_explained():
            self._empty()
            fill(self._connection)
            self.sums.rewrite()

    def _empty(self) -> None:
        """Take everything out, and see to it that FTS5 finds its own tables as it makes them."""
        if self._run("SELECT k, quote(v) FROM lexical_config").fetchall() == _CONFIG:
            try:
                self._run(_DELETE_ALL)
            except driver_errors() as error:
                if error_code(error) not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR):
                    raise
            else:
                return
        # It will not even begin with a list of segments or with settings that it cannot read.
        with undefended(self._connection):
            for statement in _AS_NEW:
                self._run(statement)
        self._run(_DELETE_ALL)

    def optimize(self) -> None:
        """Merge what FTS5 keeps in parts, which makes it smaller."""
        with self._damage_explained():
            self.sums.before()
            self._run("INSERT INTO lexical (lexical) VALUES ('optimize')")

    def finish(self) -> None:
        """Let FTS5 write what it has in memory, and note its sums, before a change is committed."""
        with self._damage_explained():
            self.sums.finish()

    def abandon(self) -> None:
        """What the change did to the index is rolled back."""
        self.sums.abandon()

    def best(self, match: str, wanted: int, among: Sequence[int] | None) -> list[Scored]:
        """The texts that match best, of those that documents point to.

        Args:
            match: A condition in FTS5's language.
            wanted: How many texts.
            among: Content numbers to choose from, or None for all.

        Returns:
            The best texts, best first; more than `wanted` where several are as good as the last.

        Raises:
            StoreFormatError: If the index is damaged.
        """
        limit = wanted + 1
        while True:
            found = self._scored(match, among, limit)
            # Which of equals come first is for the documents' ids to decide, so none of them may be missing.
            if len(found) < limit or found[-1].score < found[wanted - 1].score:
                return [text for text in found if len(found) <= wanted or text.score >= found[wanted - 1].score]
            limit *= 4

    def scores(self, match: str, among: Sequence[int]) -> dict[int, float]:
        """BM25 of those of some texts that match."""
        return dict(self._scored(match, among, -1))

    def matching(self, match: str, among: Sequence[int] | None) -> list[int]:
        """The numbers of all texts that match, of those that documents point to."""
        conditions, parameters = _where(match, among)
        with self._damage_explained():
            self.sums.check()
            rows = self._run(f"SELECT rowid FROM lexical WHERE {conditions}", *parameters)
            return [int(row[0]) for row in rows]

    def _scored(self, match: str, among: Sequence[int] | None, limit: int) -> list[Scored]:
        conditions, parameters = _where(match, among)
        sql = f"SELECT rowid, {_BM25} AS score FROM lexical WHERE {conditions} ORDER BY score DESC, rowid LIMIT ?"
        with self._damage_explained():
            self.sums.check()
            return [Scored(int(number), float(score)) for number, score in self._run(sql, *parameters, limit)]

    # Checks, for `verification`

    def problems(self) -> Iterator[str]:
        """What is wrong with the index, as far as it can be read; it is compared, word by word, with the texts."""
        with self._damage_explained():
            # Reads what FTS5 keeps about all its parts; without that nothing below can be asked.
            self._connection.execute("SELECT 1 FROM lexical WHERE lexical MATCH 'kettle'").fetchone()
        yield from self.sums.problems()
        expected: dict[int, int] = {}
        sizes: dict[int, list[int]] = {}
        damaged: set[int] = set()
        for (number,) in self._connection.execute("SELECT content_id FROM contents").fetchall():
            text, sound = _stored_text(self._connection, number)
            if sound:
                expected[number], sizes[number] = _checked(columns(text.decode()))
            else:
                damaged.add(number)  # reported as such; what its row should be nobody knows
        stored = {row[0]: row[1] for row in self._connection.execute("SELECT id, sz FROM lexical_docsize")}
        wrong = [number for number in expected if varints(stored.get(number)) != sizes[number]]
        if wrong or stored.keys() != expected.keys() | damaged:
            yield (
                f"it should have {len(expected) + len(damaged)} texts and has {len(stored)}, {len(wrong)} of them "
                "missing or of another length"
            )
        (totals,) = self._connection.execute("SELECT block FROM lexical_data WHERE id = 1").fetchone() or (None,)
        if sizes and not damaged and varints(totals) != [len(sizes), *map(sum, zip(*sizes.values(), strict=True))]:
            yield "its totals are wrong"
        found = self._instances()
        differing = sum(found.get(number, 0) != check for number, check in expected.items())
        extra = len(found.keys() - expected.keys() - damaged)
        if differing or extra:
            yield f"it does not fit {differing} of the texts, and has {extra} that are not there"

    def _instances(self) -> dict[int, int]:
        """For each text a checksum of which words it has where, as the index says."""
        checks: dict[int, int] = {}
        run = self._connection.execute
        (query_only,) = run("PRAGMA query_only").fetchone()
        # What shows the index's words is a table in the connection's own temporary database; the file is not written.
        run("PRAGMA query_only = OFF")
        try:
            with self._damage_explained():
                run("CREATE VIRTUAL TABLE temp.lexical_instances USING fts5vocab(main, lexical, instance)")
                try:
                    for term, number, column, offset in run(
                        "SELECT CAST(term AS BLOB), doc, col, offset FROM temp.lexical_instances"
                    ):
                        item = hash((0, offset)) if column == "words" else hash((term, column, offset))
                        checks[number] = checks.get(number, 0) ^ item
                finally:
                    run("DROP TABLE temp.lexical_instances")
        finally:
            run(f"PRAGMA query_only = {query_only}")
        return checks

    @contextmanager
    def _damage_explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if error_code(error) not in _DAMAGE and _OTHER_FORMAT not in str(error):
                raise
            raise damaged_index(self._path, error) from error

    def _run(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return self._connection.execute(sql, parameters)


def _where(match: str, among: Sequence[int] | None) -> tuple[str, list[Any]]:
    conditions, parameters = f"lexical MATCH ? AND {_SHOWN}", [match]
    if among is not None:
        conditions += f" AND {_AMONG}"
        parameters.append(json.dumps([int(number) for number in among]))
    return conditions, parameters


def _checked(found: tuple[str, str, str]) -> tuple[int, list[int]]:
    """The checksum of a text's row as `FullText._instances` makes it, and how many tokens each column has."""
    words, exact, names = (column.split(" ") if column else [] for column in found)
    check = 0
    for column, terms in (("exact", exact), ("names", names)):
        for offset, term in enumerate(terms):
            check ^= hash((term.encode(), column, offset))
    # What a word is stemmed to only FTS5 knows.
    for offset in range(len(words)):
        check ^= hash((0, offset))
    return check, [len(words), len(exact), len(names)]
