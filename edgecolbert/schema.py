"""The database schema, as migrations: each version is made from the one before, in one transaction with its record."""

from __future__ import annotations

import re
import sqlite3
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgecolbert import document_register, full_text_sums, segment_cells
from edgecolbert.connection import APPLICATION_ID, Connection, reading, writing
from edgecolbert.errors import StoreFormatError, StoreReadOnlyError
from edgecolbert.fulltext import fill

if TYPE_CHECKING:
    from sqlite_utils import Database

SCHEMA_VERSION = 5

_VERSION_1 = """
CREATE TABLE state (
    key TEXT PRIMARY KEY,
    value NOT NULL
) WITHOUT ROWID;
INSERT INTO state (key, value) VALUES ('generation', 0);

-- What the vectors were made with. Exactly one encoding serves; at most one more is being built by a re-encoding.
CREATE TABLE encodings (
    encoding_id INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL UNIQUE CHECK (state IN ('serving', 'building')),
    model_name TEXT NOT NULL,
    model_reference TEXT,
    fingerprint TEXT NOT NULL,
    dim INTEGER,
    settings TEXT NOT NULL
);

-- The fitted first stage of an encoding; its codes carry its number.
CREATE TABLE first_stages (
    first_stage_id INTEGER PRIMARY KEY AUTOINCREMENT,
    encoding_id INTEGER NOT NULL REFERENCES encodings ON DELETE CASCADE,
    settings TEXT NOT NULL,
    fitted_on INTEGER NOT NULL,
    cells BLOB,
    mean BLOB,
    checksum INTEGER NOT NULL
);

-- A text is stored and encoded once, however many documents share it.
CREATE TABLE contents (
    content_id INTEGER PRIMARY KEY AUTOINCREMENT,
    hash TEXT NOT NULL UNIQUE,
    text TEXT NOT NULL
);

CREATE TABLE documents (
    document_id INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    content_id INTEGER NOT NULL REFERENCES contents,
    metadata TEXT NOT NULL,
    source TEXT,
    checksum INTEGER NOT NULL
);
CREATE INDEX documents_by_content ON documents (content_id);
CREATE INDEX documents_by_source ON documents (source) WHERE source IS NOT NULL;

CREATE TABLE passages (
    passage_id INTEGER PRIMARY KEY AUTOINCREMENT,
    content_id INTEGER NOT NULL REFERENCES contents ON DELETE CASCADE,
    encoding_id INTEGER NOT NULL REFERENCES encodings ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,
    n_passages INTEGER NOT NULL,
    span_start INTEGER NOT NULL,
    span_end INTEGER NOT NULL,
    n_tokens INTEGER NOT NULL,
    scale REAL NOT NULL,
    checksum INTEGER NOT NULL,
    tokens BLOB NOT NULL,
    UNIQUE (content_id, encoding_id, ordinal)
);
CREATE INDEX passages_by_encoding ON passages (encoding_id);

-- Apart from the tokens, so that loading all codes does not walk over them.
CREATE TABLE codes (
    passage_id INTEGER PRIMARY KEY REFERENCES passages ON DELETE CASCADE,
    content_id INTEGER NOT NULL,
    first_stage_id INTEGER NOT NULL REFERENCES first_stages ON DELETE CASCADE,
    checksum INTEGER NOT NULL,
    code BLOB NOT NULL
);
CREATE INDEX codes_by_first_stage ON codes (first_stage_id);
"""


# Version 2: codes of a first stage are short and of any length, and are sealed into segments ordered by cell. The first
# stage of version 1 is dropped; a new one is made from the stored token embeddings by later writes, and until then
# every search scores all passages.
_VERSION_2 = """
DROP TABLE codes;
DROP TABLE first_stages;

-- A fitted first stage. One serves; at most one more is being built, a part at a time, by later writes.
CREATE TABLE first_stages (
    first_stage_id INTEGER PRIMARY KEY AUTOINCREMENT,
    encoding_id INTEGER NOT NULL REFERENCES encodings ON DELETE CASCADE,
    state TEXT NOT NULL CHECK (state IN ('serving', 'building')),
    settings TEXT NOT NULL,
    fitted_on INTEGER NOT NULL,
    encoded_to INTEGER NOT NULL,
    cells BLOB,
    codebooks BLOB,
    mean BLOB,
    checksum INTEGER NOT NULL,
    measured TEXT,
    UNIQUE (encoding_id, state)
);

-- Codes of passages that no segment holds yet; MUVERA's stay here.
CREATE TABLE codes (
    passage_id INTEGER NOT NULL REFERENCES passages ON DELETE CASCADE,
    first_stage_id INTEGER NOT NULL REFERENCES first_stages ON DELETE CASCADE,
    content_id INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    code BLOB NOT NULL,
    PRIMARY KEY (passage_id, first_stage_id)
) WITHOUT ROWID;
CREATE INDEX codes_by_first_stage ON codes (first_stage_id);

-- Codes of up to 65,536 passages, ordered by cell. A segment is never changed, only replaced.
CREATE TABLE segments (
    segment_id INTEGER PRIMARY KEY AUTOINCREMENT,
    first_stage_id INTEGER NOT NULL REFERENCES first_stages ON DELETE CASCADE,
    level INTEGER NOT NULL,
    n_passages INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    members BLOB NOT NULL
);
CREATE INDEX segments_by_first_stage ON segments (first_stage_id);

-- The entries of one cell in one segment; list_id is segment_id * 65536 + cell.
CREATE TABLE cell_lists (
    list_id INTEGER PRIMARY KEY,
    checksum INTEGER NOT NULL,
    entries BLOB NOT NULL
);
"""


# Metadata fields that conditions are looked up in. Each has the number and the summed checksums of its entries, which
# have no foreign key: they are removed before their document, and counted.
FIELD_INDEX = """
CREATE TABLE indexed_fields (
    field_id INTEGER PRIMARY KEY AUTOINCREMENT,
    path TEXT NOT NULL UNIQUE,
    n_entries INTEGER NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE TABLE field_entries (
    field_id INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    value NOT NULL,
    document_id INTEGER NOT NULL,
    PRIMARY KEY (field_id, kind, value, document_id)
) WITHOUT ROWID;
CREATE INDEX field_entries_by_document ON field_entries (document_id);
"""

# Full text. FTS5 gets tokens with spaces between them (`lexical.columns`), so every other sign belongs to a token, and
# keeps no copy of the texts. `_migrate` fills it from those that are stored.
FULL_TEXT = """
CREATE VIRTUAL TABLE lexical USING fts5(
    words, exact, names, content = '', tokenize = "porter ascii tokenchars '-_./:@+#&$='"
);
"""

# Version 3: indexed metadata fields and full text. Nothing that was there changes.
_VERSION_3 = FIELD_INDEX + FULL_TEXT

# Version 4: which cells have a list in a segment, and in `state` what the documents add up to, so that what cannot be
# found is not taken for what is not there. `_run_script` makes both of what there is.
_VERSION_4 = """
CREATE TABLE segment_cells (
    segment_id INTEGER PRIMARY KEY,
    checksum INTEGER NOT NULL,
    cells BLOB NOT NULL
);
"""

# Version 5: what the tables of the full text add up to, a part at a time, made of what there is.
_VERSION_5 = """
CREATE TABLE full_text_sums (
    segment INTEGER NOT NULL,
    part INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (segment, part)
) WITHOUT ROWID;
"""

# Every change of the schema, oldest first. What a database may hold follows from them.
_SCRIPTS = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4, _VERSION_5)

# The tables in which FTS5 keeps a contentless table.
_SHADOWS = {
    "data": "(id INTEGER PRIMARY KEY, block BLOB)",
    "idx": "(segid, term, pgno, PRIMARY KEY(segid, term)) WITHOUT ROWID",
    "docsize": "(id INTEGER PRIMARY KEY, sz BLOB)",
    "config": "(k PRIMARY KEY, v) WITHOUT ROWID",
}

# Tables without a single expression or reference, whoever made them: sqlite-utils keeps the record of migrations in
# one, and tools that replicate a file keep their place in others. Nothing in them can run, and we read none of them.
_PLAIN_TABLE = re.compile(r"CREATE TABLE [^()]+\([^()]*\)\s*", re.IGNORECASE)
_PLAIN_INDEX = re.compile(r"CREATE (UNIQUE )?INDEX [^()]+\([^()]*\)\s*", re.IGNORECASE)
_REFERENCES = re.compile(r"\bREFERENCES\b", re.IGNORECASE)
# SQLite's own, with no SQL of its own or always the same.
_OF_SQLITE = {
    "sqlite_sequence": "CREATE TABLE sqlite_sequence(name,seq)",
    "sqlite_stat1": "CREATE TABLE sqlite_stat1(tbl,idx,stat)",
    "sqlite_stat4": "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)",
}
_CREATED = re.compile(r"CREATE (VIRTUAL )?(TABLE|INDEX) (\w+)(?: ON (\w+))?")
_DROPPED = re.compile(r"DROP TABLE (\w+)")


def prepare_schema(connection: Connection | sqlite3.Connection, path: str | Path, *, read_only: bool) -> None:
    """Bring a database to this version's schema, or refuse it untouched.

    Args:
        connection: An open connection to a new database, or to one of ours of any version.
        path: The file, for messages.
        read_only: Whether writing is out of the question.

    Raises:
        StoreFormatError: If the schema is from a later version of the library, or holds what this library never makes.
        StoreReadOnlyError: If it would have to be migrated but cannot be written.
    """
    # One snapshot: another process may be making the file meanwhile.
    with reading(connection):
        version = _version(connection)
        if version <= SCHEMA_VERSION:
            check_objects(connection, path, version)
    if version == SCHEMA_VERSION:
        return
    if version > SCHEMA_VERSION:
        raise StoreFormatError(
            f"{path} was written by a later version of edgecolbert: its schema is {version}, this version reads up to "
            f"{SCHEMA_VERSION}. Nothing was changed. Upgrade edgecolbert to open it."
        )
    if read_only:
        raise StoreReadOnlyError(
            f"{path} has schema {version} and must be migrated to {SCHEMA_VERSION} first, which needs writing. "
            "Open it once without read_only."
        )
    _migrate(connection)


def check_objects(connection: Connection | sqlite3.Connection, path: str | Path, version: int) -> None:
    """Refuse a database whose tables and indexes are not exactly those that this library makes.

    A trigger, a view in a table's place, a default value, a generated column or an index over an expression would run
    a stranger's SQL when we write or read.

    Args:
        connection: An open connection.
        path: The file, for messages.
        version: The schema's version; 0 is that of a file that is still empty.

    Raises:
        StoreFormatError: If there is something else, or something is missing; the message names it.
    """
    expected = dict(expected_objects(version))
    tables = {name for kind, name in expected if kind == "table"}
    others: set[str] = set()
    # Tables first: whether an index is plain depends on its table.
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type = 'table' DESC")
    for kind, name, table, sql in rows:
        if expected.get((kind, name)) == (table, sql):
            del expected[kind, name]
        elif kind == "index" and sql is None and name.startswith(f"sqlite_autoindex_{table}_"):
            continue  # what UNIQUE and PRIMARY KEY need; they belong to the table, whose SQL is checked
        elif kind == "table" and _OF_SQLITE.get(name) == sql:
            continue
        elif kind == "table" and name not in tables and _PLAIN_TABLE.fullmatch(sql) and not _REFERENCES.search(sql):
            others.add(table)
        elif kind == "index" and table in others and _PLAIN_INDEX.fullmatch(sql):
            continue
        else:
            changed = (kind, name) in expected
            raise StoreFormatError(
                f"{path} has the {kind} {name!r}, which edgecolbert "
                f"{'makes otherwise' if changed else 'never makes'}: opening the file could run SQL that somebody put "
                "into it. Nothing was changed. If it is your own, remove it with sqlite3 first; if the file is from a "
                "stranger, do not use it."
            )
    if expected:
        kind, name = next(iter(expected))
        raise StoreFormatError(
            f"{path} is damaged: the {kind} {name!r} is missing. Nothing was changed. Restore it from a backup, or "
            "keep what can be read with `edgecolbert repair --db FILE --out NEW`."
        )


@cache
def expected_objects(version: int) -> dict[tuple[str, str], tuple[str, str]]:
    """The tables and indexes of a version of the schema, as SQLite lists them.

    Args:
        version: How many of the scripts have run.

    Returns:
        For each type and name, the table that it belongs to, and its SQL.
    """
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for statement in (statement for script in _SCRIPTS[: max(0, version)] for statement in _statements(script)):
        if dropped := _DROPPED.search(statement):
            found = {key: value for key, value in found.items() if value[0] != dropped[1]}
        elif created := _CREATED.search(statement):
            virtual, kind, name, table = created.groups()
            # SQLite keeps the text from the first word on, without the semicolon.
            sql = statement[created.start() :].rstrip().removesuffix(";")
            found[kind.lower(), name] = (table or name, sql)
            for shadow, columns in _SHADOWS.items() if virtual else ():
                shadow_name = f"{name}_{shadow}"
                found["table", shadow_name] = (shadow_name, f"CREATE TABLE '{shadow_name}'{columns}")
    return found


def _version(connection: Connection | sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _migrate(connection: Connection | sqlite3.Connection) -> None:
    # Imported here: it costs more than a whole cold search, and only a new or old file needs it.
    from sqlite_utils import Database, Migrations

    migrations = Migrations("edgecolbert")
    for number, script in enumerate(_SCRIPTS, start=1):
        migrations(name=f"version_{number}")(lambda db, script=script: _run_script(db, script))
    # The lock first: of two processes that make the same file, the second must find the first one's schema.
    with writing(connection):
        if _version(connection) < SCHEMA_VERSION:
            migrations.apply(Database(cast("sqlite3.Connection", connection), execute_plugins=False))
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _run_script(db: Database, script: str) -> None:
    def run(sql: str, *parameters: Any) -> sqlite3.Cursor:
        return db.execute(sql, parameters)

    # Not executescript, which commits what is open before it begins.
    for statement in _statements(script):
        db.execute(statement)
    if script is _VERSION_3:
        fill(db.conn)
    if script is _VERSION_4:
        document_register.fill(run)
        segment_cells.fill(run)
    if script is _VERSION_5:
        full_text_sums.fill(run)


def _statements(script: str) -> list[str]:
    statements: list[str] = []
    current = ""
    for line in script.splitlines():
        current += line + "\n"
        if sqlite3.complete_statement(current):
            statements.append(current)
            current = ""
    return statements
