"""A plugin of Datasette: databases as tables to read, and a search (docs/integrations/datasette.md).

A view in the file would do for reading, but a file with a view is refused when it is opened (docs/security.md). So the
views are temporary ones of Datasette's own connections, and nothing is ever written.
"""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

# sqlite-utils brings it along, and Datasette does; importing Datasette would cost whoever imports this for nothing.
from pluggy import HookimplMarker

from edgecolbert.connection import APPLICATION_ID
from edgecolbert.errors import EdgeColbertError, InputError, StoreFormatError
from edgecolbert.integrations.assistant import MOST_HITS, Mode, any_filter
from edgecolbert.schema import SCHEMA_VERSION, check_objects

if TYPE_CHECKING:
    from datasette.app import Datasette  # type: ignore[import-untyped, unused-ignore]
    from datasette.database import Database  # type: ignore[import-untyped, unused-ignore]

    from edgecolbert.index import Index

hookimpl = HookimplMarker("datasette")

DOCUMENTS, PASSAGES, SEARCH = "document_texts", "passage_texts", "search"
# Metadata fields become columns, which Datasette can sort, filter and count by: those of a plain name, seen in the
# first documents, and no more than can be read.
_FIELD = re.compile(r"[^\W\d]\w*")
_SAMPLE, _MOST_FIELDS = 1_000, 30
_COLUMNS = ("id", "text", "metadata", "source", "characters", "passages")

_PASSAGES_VIEW = f"""
CREATE TEMP VIEW {PASSAGES} AS
SELECT
    documents.id AS document,
    passages.ordinal + 1 AS passage,
    passages.n_passages AS passages,
    substr(contents.text, passages.span_start + 1, passages.span_end - passages.span_start) AS text,
    passages.span_start AS "start",
    passages.span_end AS "end",
    passages.n_tokens AS tokens
FROM main.documents
JOIN main.contents ON contents.content_id = documents.content_id
JOIN main.passages ON passages.content_id = documents.content_id
JOIN main.encodings ON encodings.encoding_id = passages.encoding_id AND encodings.state = 'serving'
ORDER BY documents.document_id, passages.ordinal
"""

_SEARCH_SQL = """
select
    json_extract(hit.value, '$.id') as id,
    round(json_extract(hit.value, '$.score'), 3) as score,
    coalesce(json_extract(hit.value, '$.error'), json_extract(hit.value, '$.passage')) as passage,
    json_extract(hit.value, '$.metadata') as metadata
from json_each(edgecolbert_search(:query, 20, 'hybrid', :filter)) as hit
order by hit.key
"""


@hookimpl
def prepare_connection(conn: sqlite3.Connection, database: str, datasette: Datasette) -> None:
    """Give every connection to an edgecolbert database the views and the function, which live as long as it does."""
    readable = _readable(conn, database, datasette)
    if readable is not None:
        for view in readable.views.values():
            conn.execute(view)
        if readable.searcher is not None:
            conn.create_function("edgecolbert_search", -1, readable.searcher)


@hookimpl
def startup(datasette: Datasette) -> Callable[[], Awaitable[None]]:
    """Let Datasette see the views: put a database that lists them in the place of every edgecolbert database."""

    async def replace() -> None:
        for name, database in list(datasette.databases.items()):
            if database.is_memory:
                continue
            readable = await database.execute_fn(partial(_readable, database=name, datasette=datasette))
            if readable is None:
                continue
            # The same name and route, so the new one needs a free place.
            datasette.remove_database(name)
            datasette.add_database(_listing_database()(database, readable), name=name, route=database.route)
            if readable.searcher is not None:
                # A first search that loads the model would run into Datasette's time limit.
                await asyncio.to_thread(readable.searcher.load)

    return replace


@hookimpl
def canned_queries(datasette: Datasette, database: str) -> dict[str, dict[str, str]]:
    """Give every edgecolbert database the query `search`."""
    readable = _READABLE.get(datasette, {}).get(database)
    if readable is None or readable.searcher is None:
        return {}
    return {
        SEARCH: {
            "sql": _SEARCH_SQL.strip(),
            "title": "Search",
            "description": 'By meaning and by words. The filter is optional: year >= 2020 and tags contains "x"',
        }
    }


@dataclass(frozen=True)
class _Readable:
    """What the connections to one database get.

    Attributes:
        views: SQL of each view.
        searcher: The function `edgecolbert_search`, or None where it is switched off.
    """

    views: dict[str, str]
    searcher: _Searcher | None


# Of each Datasette, by name of the database; made once, so that all of its connections have the same columns.
_READABLE: weakref.WeakKeyDictionary[Datasette, dict[str, _Readable]] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def _readable(connection: sqlite3.Connection, database: str, datasette: Datasette) -> _Readable | None:
    """What a database's connections get; None if it is not one of edgecolbert's."""
    if not _is_ours(connection):
        return None
    with _LOCK:
        known = _READABLE.setdefault(datasette, {})
        if database not in known:
            path = next(path for _, name, path in connection.execute("PRAGMA database_list") if name == "main")
            wanted = (datasette.plugin_config("edgecolbert") or {}).get("search", True)
            known[database] = _Readable(
                {DOCUMENTS: _documents_view(_metadata_fields(connection)), PASSAGES: _PASSAGES_VIEW},
                None if wanted is False else _Searcher(path),
            )
        return known[database]


def _is_ours(connection: sqlite3.Connection) -> bool:
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        # What the views read is in every version so far; of a later one nobody knows.
        if application != APPLICATION_ID or not 1 <= version <= SCHEMA_VERSION:
            return False
        # What somebody put into a file must not run because we read it; Datasette shows it as any other.
        check_objects(connection, "", version)
    except (sqlite3.DatabaseError, StoreFormatError):
        return False
    return True


def _metadata_fields(connection: sqlite3.Connection) -> list[str]:
    """The metadata fields that become columns: those whose values are no objects, the most frequent ones first."""
    rows = connection.execute(
        """
        SELECT field.key, count(*)
        FROM (
            SELECT CASE WHEN json_valid(metadata) THEN metadata ELSE '{}' END AS metadata
            FROM main.documents ORDER BY document_id LIMIT ?
        ) AS sample, json_each(sample.metadata) AS field
        WHERE field.type != 'object'
        GROUP BY field.key ORDER BY count(*) DESC, field.key
        """,
        [_SAMPLE],
    )
    # SQLite takes names of columns that differ in case only for the same.
    taken = {name.lower() for name in _COLUMNS}
    fields = []
    for name, _ in rows:
        if _FIELD.fullmatch(name) and name.lower() not in taken:
            taken.add(name.lower())
            fields.append(name)
    return fields[:_MOST_FIELDS]


def _documents_view(fields: Iterable[str]) -> str:
    columns = "".join(
        f"""
    CASE WHEN json_valid(documents.metadata) THEN json_extract(documents.metadata, '$."{name}"') END AS "{name}","""
        for name in fields
    )
    return f"""
CREATE TEMP VIEW {DOCUMENTS} AS
SELECT
    documents.id AS id,
    contents.text AS text,{columns}
    documents.metadata AS metadata,
    documents.source AS source,
    length(contents.text) AS characters,
    (
        SELECT count(*) FROM main.passages
        JOIN main.encodings ON encodings.encoding_id = passages.encoding_id AND encodings.state = 'serving'
        WHERE passages.content_id = documents.content_id
    ) AS passages
FROM main.documents
JOIN main.contents ON contents.content_id = documents.content_id
ORDER BY documents.document_id
"""


class _Searcher:
    """`edgecolbert_search` of one database: one index for all of Datasette's threads, opened when it is needed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._index: Index | None = None

    def __call__(self, query: object, k: object = 10, mode: object = "hybrid", conditions: object = None) -> str:
        """The hits as a JSON array.

        SQLite drops what an exception of a function says, so an error is an element of the array instead.
        """
        try:
            found = self._search(query, k, mode, conditions)
        except (EdgeColbertError, OSError) as error:
            found = [{"error": " ".join(str(error).split())}]
        return json.dumps(found, ensure_ascii=False)

    def _search(self, query: object, k: object, mode: Any, conditions: object) -> list[dict[str, Any]]:
        if not isinstance(query, str) or not query.strip():
            return []
        if not isinstance(k, int) or not 1 <= k <= MOST_HITS:
            raise InputError(f"k is {k!r}, expected a whole number from 1 to {MOST_HITS}.")
        if conditions is not None and not isinstance(conditions, str):
            raise InputError(f"filter is {conditions!r}, expected a text such as 'year >= 2020'.")
        chosen: Mode = mode
        hits = self.index().search(query, k=k, mode=chosen, filter=any_filter(conditions))
        return [
            {
                "id": hit.id,
                "score": hit.score,
                "passage": hit.passage.text,
                "start": hit.passage.start,
                "end": hit.passage.end,
                "metadata": json.dumps(hit.metadata, ensure_ascii=False),
            }
            for hit in hits
        ]

    def index(self) -> Index:
        """The index."""
        from edgecolbert.index import Index

        with self._lock:
            if self._index is None:
                self._index = Index.open(self._path, create=False, read_only=True)
                # Datasette does not say when it ends.
                weakref.finalize(self, self._index.close)
            return self._index

    def load(self) -> None:
        """Load the model; what is wrong with it is said by the first search."""
        try:
            self.index().encode_queries([])
        except (EdgeColbertError, OSError):
            return

    def close(self) -> None:
        """Close the index; a search after it opens it again."""
        with self._lock:
            if self._index is not None:
                self._index.close()
                self._index = None


@cache
def _listing_database() -> type[Any]:
    """The class, made where Datasette is there to inherit from."""
    from datasette.database import Database

    class ListingDatabase(Database):  # type: ignore[misc, unused-ignore]
        """A database that lists temporary views of its connections, and hides all tables."""

        def __init__(self, database: Database, readable: _Readable) -> None:
            super().__init__(database.ds, path=database.path, is_mutable=database.is_mutable)
            self._replaced = database
            self._readable = readable

        async def view_names(self) -> list[str]:
            return list(self._readable.views)

        async def get_view_definition(self, view: str) -> str | None:
            definition = self._readable.views.get(view)
            return None if definition is None else definition.strip()

        async def hidden_table_names(self) -> list[str]:
            return list(await self.table_names())

        def close(self) -> None:
            super().close()
            # Connections that were made before this took its place are used on.
            self._replaced.close()
            if self._readable.searcher is not None:
                self._readable.searcher.close()

    return ListingDatabase
