"""Database files that somebody made to do harm: they are refused, or say that they are damaged, and run nothing."""

from __future__ import annotations

import contextlib
import gzip
import shutil
import sqlite3
import struct
from pathlib import Path

import pytest
from raw_database import raw
from word_encoder import WordEncoder

from edgecolbert import Encoder, Index, limits, reencode
from edgecolbert import store as store_module
from edgecolbert.errors import (
    EdgeColbertError,
    ModelNotFoundError,
    StoreError,
    StoreFormatError,
    StoreMismatchError,
)
from edgecolbert.schema import SCHEMA_VERSION, expected_objects
from edgecolbert.store import Store

TINY = Path(__file__).parent / "fixtures" / "tiny-model"


@pytest.fixture
def sound(path: Path) -> Path:
    """A database of twenty documents with a first stage; tests spoil it."""
    with Index.open(path, model=WordEncoder()) as index:
        index.add([{"id": f"{n}", "text": f"red kettle number{n} of many{n % 3}"} for n in range(20)])
        index.tune(n_queries=4, compare=False)
    return path


def _change_schema(path: Path, name: str, old: str, new: str) -> None:
    with raw(path) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        changed = connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE name = ? AND instr(sql, ?)", (old, new, name, old)
        )
        assert changed.rowcount == 1
        (version,) = connection.execute("PRAGMA schema_version").fetchone()
        connection.execute(f"PRAGMA schema_version = {version + 1}")


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("CREATE TRIGGER t AFTER UPDATE ON state BEGIN DELETE FROM documents; END", "trigger 't'"),
        ("CREATE TRIGGER t AFTER INSERT ON documents BEGIN SELECT load_extension('x'); END", "trigger 't'"),
        ("CREATE VIEW v AS SELECT * FROM documents", "view 'v'"),
        ("CREATE VIRTUAL TABLE f USING fts5(text)", "table 'f'"),
        ("CREATE TABLE other (a, b AS (hex(zeroblob(9))) STORED)", "table 'other'"),
        ("CREATE TABLE other (a REFERENCES documents (id) ON DELETE CASCADE)", "table 'other'"),
        ("CREATE TABLE other (a CHECK (a > 1))", "table 'other'"),
        ("CREATE INDEX i ON documents (upper(id))", "index 'i'"),
        ("CREATE INDEX i ON documents (metadata)", "index 'i'"),
        ("CREATE UNIQUE INDEX i ON state (value) WHERE value > abs(-5)", "index 'i'"),
        ("ALTER TABLE documents ADD COLUMN extra DEFAULT 1", "table 'documents', which edgecolbert makes otherwise"),
        ("ALTER TABLE documents ADD COLUMN e AS (hex(zeroblob(500000000)))", "table 'documents'"),
        ("ALTER TABLE documents RENAME TO papers", "'papers'"),
        ("DROP INDEX documents_by_content", "index 'documents_by_content' is missing"),
        ("DROP TABLE cell_lists", "table 'cell_lists' is missing"),
        ("DROP TABLE state; CREATE VIEW state AS SELECT 'generation' AS key, 1 AS value", "view 'state'"),
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_what_we_never_make_is_refused_before_it_can_run(
    sound: Path, statement: str, named: str, read_only: bool
) -> None:
    with raw(sound) as connection:
        for part in statement.split("; CREATE VIEW"):
            try:
                connection.execute(part if part.startswith(("CREATE", "DROP", "ALTER")) else "CREATE VIEW" + part)
            except sqlite3.OperationalError as error:
                pytest.skip(f"this SQLite cannot make it: {error}")
    before = sound.read_bytes()
    with pytest.raises(StoreFormatError, match=named) as caught:
        Index.open(sound, model=WordEncoder(), read_only=read_only)
    assert str(sound) in str(caught.value)
    with pytest.raises(StoreFormatError, match=named):
        reencode(sound, model=WordEncoder())
    assert sound.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("documents", "metadata TEXT NOT NULL", "metadata TEXT NOT NULL DEFAULT (hex(randomblob(9)))"),
        ("documents", "source TEXT", "source TEXT CHECK (length(source) < 5)"),
        ("contents", "text TEXT NOT NULL", "text TEXT NOT NULL COLLATE NOCASE"),
        ("encodings", "state TEXT NOT NULL", "state NOT NULL"),
        ("documents_by_source", "documents (source)", "documents (lower(source))"),
        ("sqlite_sequence", "name,seq", "name,seq,more DEFAULT (1)"),
    ],
)
def test_a_schema_that_was_written_by_hand_is_refused(sound: Path, name: str, old: str, new: str) -> None:
    _change_schema(sound, name, old, new)
    with pytest.raises(StoreError, match=f"{name}|index.db"):
        Index.open(sound, model=WordEncoder())


def test_plain_tables_of_other_tools_and_of_sqlite_do_no_harm(sound: Path) -> None:
    with raw(sound) as connection:
        connection.execute("CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)")
        connection.execute("CREATE INDEX by_seq ON _litestream_seq (seq)")
        connection.execute("ANALYZE")
    with Index.open(sound, model=WordEncoder()) as index:
        index.add(["new"])
        assert len(index) == 21
        index.compact()
    with Index.open(sound, model=WordEncoder()) as index:
        assert len(index) == 21


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_the_list_of_what_is_allowed_is_what_the_scripts_make(version: int) -> None:
    from edgecolbert.schema import _SCRIPTS, _statements

    with sqlite3.connect(":memory:") as connection:
        for script in _SCRIPTS[:version]:
            for statement in _statements(script):
                connection.execute(statement)
        rows = connection.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        ).fetchall()
    connection.close()
    assert {(kind, name): (table, sql) for kind, name, table, sql in rows} == expected_objects(version)


def test_an_old_database_is_checked_before_it_is_migrated(path: Path) -> None:
    fixture = Path(__file__).parent / "fixtures" / "databases" / "version-1.db.gz"
    path.write_bytes(gzip.decompress(fixture.read_bytes()))
    with raw(path) as connection:
        connection.execute("CREATE TRIGGER t AFTER DELETE ON codes BEGIN DELETE FROM documents; END")
    with pytest.raises(StoreFormatError, match="trigger 't'"):
        Store(path)
    with raw(path) as connection:
        connection.execute("DROP TRIGGER t")
    Store(path).close()


def test_a_journal_that_names_another_file_does_not_get_it_deleted(sound: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    magic = bytes.fromhex("d9d505f920a163d7")
    name = str(precious).encode()
    header = (magic + struct.pack(">5I", 0, 1_234, 1, 512, 4_096)).ljust(512, b"\0")
    record = struct.pack(">I", 2**30 // 4_096 + 1) + name + struct.pack(">2I", len(name), sum(name)) + magic
    journal = sound.with_name(sound.name + "-journal")
    for open_it in (
        lambda: Index.open(sound, model=WordEncoder()).close(),
        lambda: Index.open(sound, model=WordEncoder(), read_only=True).close(),
    ):
        precious.write_text("mine\n" * 3)
        journal.write_bytes(header + record)
        with pytest.raises(StoreFormatError, match="SQLite would delete when it opens index"):
            open_it()
        assert precious.exists()
    # What happens to whoever opens it without looking.
    with sqlite3.connect(sound) as connection, pytest.raises(sqlite3.DatabaseError):
        connection.execute("SELECT count(*) FROM sqlite_master")
    connection.close()
    assert not precious.exists()


def test_a_value_beyond_the_limit_is_an_error_of_ours(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "VALUE_BYTES", 2**16)
    with raw(sound) as connection:
        connection.execute("UPDATE contents SET text = CAST(zeroblob(1000000) AS TEXT) WHERE content_id = 1")
    with Index.open(sound, model=WordEncoder()) as index, pytest.raises(StoreError, match="too big"):
        index.get("0")


_FORGED = [None, -1, 2**62, 1.5, "x", b"x", b"", "[" * 100_000, "{}", "9" * 5_000]
_COLUMNS = [
    *(("encodings", name) for name in ("model_name", "model_reference", "fingerprint", "dim", "settings")),
    *(("first_stages", name) for name in ("settings", "fitted_on", "encoded_to", "cells", "codebooks", "measured")),
    *(("documents", name) for name in ("id", "content_id", "metadata")),
    *(("passages", name) for name in ("content_id", "ordinal", "n_passages", "n_tokens", "scale", "tokens")),
    *(("segments", name) for name in ("segment_id", "level", "n_passages", "members")),
    *(("codes", name) for name in ("content_id", "code")),
    *(("cell_lists", name) for name in ("list_id", "entries")),
    *(("contents", name) for name in ("hash", "text")),
    ("state", "value"),
]


def _sign(connection: sqlite3.Connection) -> None:
    """Give every row the checksum that it should have, as a forger would."""
    for table, key, columns, checksum in (
        ("first_stages", "first_stage_id", "settings, cells, codebooks, mean", _first_stage_crc),
        ("segments", "segment_id", "members", store_module._crc),
        ("cell_lists", "list_id", "list_id, entries", store_module._list_crc),
        ("codes", "passage_id", "passage_id, content_id, first_stage_id, code", store_module.code_crc),
        (
            "passages",
            "passage_id",
            "content_id, encoding_id, ordinal, n_passages, span_start, span_end, n_tokens, scale, tokens",
            store_module.passage_crc,
        ),
    ):
        for number, *values in connection.execute(f"SELECT {key}, {columns} FROM {table}").fetchall():
            try:
                sum_of_it = checksum(*values)  # type: ignore[operator]
            except (TypeError, AttributeError, struct.error):
                continue  # nobody can sign that
            connection.execute(f"UPDATE {table} SET checksum = ? WHERE {key} = ?", (sum_of_it, number))


def _first_stage_crc(settings: str, *blobs: bytes | None) -> int:
    return store_module._crc(settings.encode(), *(blob or b"" for blob in blobs))


def _use(path: Path) -> None:
    """Everything that reads; each call may fail, and only with an error of ours."""
    for use in (
        lambda index: index.verify(),
        lambda index: index.stats(),
        lambda index: [index.get(name) for name in index.ids()],
        lambda index: index.search("kettle number7", n_candidates=5),
        lambda index: index.search("kettle number7", k=3),
        lambda index: index.search("kettle", exact=True, filter={"a": 1}),
        lambda index: index.add([f"new {n}" for n in range(12)]),
        lambda index: index.compact(),
        lambda index: index.delete(["1"]),
    ):
        with contextlib.suppress(EdgeColbertError), Index.open(path, model=WordEncoder()) as index:
            use(index)
    with contextlib.suppress(EdgeColbertError):
        reencode(path, model=WordEncoder())


@pytest.mark.slow
@pytest.mark.parametrize(("table", "column"), _COLUMNS)
def test_a_forged_value_with_a_right_checksum_is_an_error_of_ours(sound: Path, table: str, column: str) -> None:
    content = sound.read_bytes()
    for value in _FORGED:
        for file in sound.parent.glob("index.db*"):
            file.unlink()
        sound.write_bytes(content)
        _forge(sound, table, column, value)
        _use(sound)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("encodings", "settings", "[" * 100_000),
        ("encodings", "settings", '{"a": 1, "a": 2}'),
        ("encodings", "settings", "{}"),
        ("encodings", "dim", -1),
        ("encodings", "fingerprint", b"x"),
        ("state", "value", "x"),
        ("first_stages", "settings", "[1]"),
        ("first_stages", "codebooks", b"x"),
        ("first_stages", "measured", "{}"),
        ("documents", "content_id", "x"),
        ("segments", "segment_id", 2**62),
        ("segments", "n_passages", "x"),
        ("cell_lists", "entries", b"x"),
        ("codes", "code", b"x"),
        ("passages", "scale", -1.0),
    ],
)
def test_forged_values_that_once_gave_other_errors(sound: Path, table: str, column: str, value: object) -> None:
    _forge(sound, table, column, value)
    _use(sound)


def _forge(path: Path, table: str, column: str, value: object) -> None:
    key = {"codes": "passage_id", "state": "key"}.get(table, "rowid")
    with raw(path) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        try:
            connection.execute(
                f"UPDATE {table} SET {column} = ? WHERE {key} = (SELECT min({key}) FROM {table})", (value,)
            )
        except sqlite3.IntegrityError:
            return  # a column that cannot have it
        _sign(connection)


def test_numbers_of_a_list_that_point_past_their_segment_are_damage(sound: Path) -> None:
    with raw(sound) as connection:
        for number, entries in connection.execute("SELECT list_id, entries FROM cell_lists").fetchall():
            forged = b"\xff\xff" + entries[2:]
            checksum = store_module._list_crc(number, forged)
            connection.execute(
                "UPDATE cell_lists SET entries = ?, checksum = ? WHERE list_id = ?", (forged, checksum, number)
            )
    with Index.open(sound, model=WordEncoder()) as index:
        assert any("is wrong" in problem.message for problem in index.verify().problems)
        with pytest.raises(StoreFormatError, match=r"index\.db: .*first stage is damaged.*tune --rebuild"):
            index.search("kettle number7", n_candidates=5)
        index.tune(rebuild=True)
        assert index.search("kettle number7", n_candidates=5)[0].id == "7"


@pytest.mark.parametrize("reference", ["//server/share/model", "\\\\server\\share\\model", "\\/server/model"])
def test_a_database_cannot_send_us_to_another_machine(path: Path, reference: str) -> None:
    with Index.open(path, model=TINY) as index:
        index.add(["red kettle"])
    with raw(path) as connection:
        connection.execute("UPDATE encodings SET model_reference = ?", (reference,))
    with pytest.raises(StoreMismatchError, match="on another machine"):
        Index.open(path)
    with pytest.raises(StoreMismatchError, match="on another machine"):
        reencode(path)
    with Index.open(path, model=TINY) as index:
        assert index.search("kettle")[0].text == "red kettle"


def test_a_database_cannot_make_us_fetch_a_model(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(hub, "hf_hub_download", asked)
    with Index.open(path, model=TINY) as index:
        index.add(["red kettle"])
    with raw(path) as connection:
        connection.execute("UPDATE encodings SET model_reference = 'owner/nobody@main'")
    with Index.open(path) as index, pytest.raises(ModelNotFoundError, match="--model owner/nobody@main"):
        index.search("kettle")
    with pytest.raises(ModelNotFoundError, match="not fetched just because a database names it"):
        reencode(path)


def test_another_model_is_refused_before_its_graph_is_read(tmp_path: Path, path: Path) -> None:
    folder = Path(shutil.copytree(TINY, tmp_path / "model"))
    with Index.open(path, model=folder) as index:
        index.add(["red kettle"])
    opened = Index.open(path)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"document_length": 40', '"document_length": 39'))
    (folder / "model.onnx").write_bytes(b"never read")
    with opened, pytest.raises(StoreMismatchError, match="made with the model"):
        opened.search("kettle")


def test_a_database_whose_settings_are_of_the_future_says_so(path: Path) -> None:
    with Index.open(path, model=TINY) as index:
        index.add(["red kettle"])
    with raw(path) as connection:
        connection.execute("UPDATE encodings SET settings = json_set(settings, '$.special_tokens', 'upside-down')")
    for model in (None, TINY, Encoder.load(TINY)):
        with pytest.raises(StoreFormatError, match=r"'upside-down'\. Upgrade edgecolbert"):
            Index.open(path, model=model)
