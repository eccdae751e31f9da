"""The database schema, as migrations: each version is made from the one before, in one transaction with its record."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from edgecolbert.connection import APPLICATION_ID, writing
from edgecolbert.errors import StoreFormatError, StoreReadOnlyError

if TYPE_CHECKING:
    from sqlite_utils import Database

SCHEMA_VERSION = 2

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


def prepare_schema(connection: sqlite3.Connection, path: str | Path, *, read_only: bool) -> None:
    """Bring a database to this version's schema, or refuse it untouched.

    Args:
        connection: An open connection to a new database, or to one of ours of any version.
        path: The file, for messages.
        read_only: Whether writing is out of the question.

    Raises:
        StoreFormatError: If the schema is from a later version of the library.
        StoreReadOnlyError: If it would have to be migrated but cannot be written.
    """
    version = _version(connection)
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


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _migrate(connection: sqlite3.Connection) -> None:
    # Imported here: it costs more than a whole cold search, and only a new or old file needs it.
    from sqlite_utils import Database, Migrations

    migrations = Migrations("edgecolbert")
    migrations(name="version_1")(lambda db: _run_script(db, _VERSION_1))
    migrations(name="version_2")(lambda db: _run_script(db, _VERSION_2))
    # The lock first: of two processes that make the same file, the second must find the first one's schema.
    with writing(connection):
        if _version(connection) < SCHEMA_VERSION:
            migrations.apply(Database(connection, execute_plugins=False))
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _run_script(db: Database, script: str) -> None:
    # Not executescript, which commits what is open before it begins.
    for statement in _statements(script):
        db.execute(statement)


def _statements(script: str) -> list[str]:
    statements: list[str] = []
    current = ""
    for line in script.splitlines():
        current += line + "\n"
        if sqlite3.complete_statement(current):
            statements.append(current)
            current = ""
    return statements
