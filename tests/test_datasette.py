"""The plugin of Datasette, in a real Datasette over real databases, which it must never change."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from edgecolbert import Index

datasette = pytest.importorskip("datasette.app")
T = TypeVar("T")

RECORDS: list[dict[str, Any]] = [
    {
        "id": "notes/kettle",
        "text": "The kettle is in the left cupboard.",
        "metadata": {"room": "hall", "year": 2021},
    },
    {"id": "boiler", "text": "Bleed the radiators first.", "metadata": {"room": "cellar", "year": 2024, "tags": ["a"]}},
    {
        "id": "bins",
        "text": "The bins go out on Tuesday.",
        "metadata": {"room": "cellar", 'od"d': 1, "text": 2, "o": {}},
    },
    {"id": "long", "text": " ".join(f"Sentence {n} is about the weather." for n in range(200)), "metadata": {}},
]


@pytest.fixture
def db(path: Path) -> Path:
    with Index.open(path) as index:
        index.add(RECORDS)
        index.add(["to be deleted"])
        index.delete(index.ids()[-1:])
    return path


def browse(db: Path, talk: Callable[[Any], Awaitable[T]], *, immutable: bool = False, **options: Any) -> T:
    """Talk to a Datasette over the database by the client that Datasette has for that."""

    async def whole() -> T:
        files: dict[str, Any] = {"immutables": [str(db)]} if immutable else {"files": [str(db)]}
        # Busy machines are slow; what takes long is not what is tested.
        ds = datasette.Datasette(**files, settings={"sql_time_limit_ms": 20_000}, **options)
        await ds.invoke_startup()
        try:
            return await talk(ds)
        finally:
            for database in list(ds.databases.values()):
                database.close()
            ds.executor.shutdown()

    return asyncio.run(whole())


async def get(ds: Any, path: str) -> Any:
    response = await ds.client.get(path)
    assert response.status_code == 200, response.text
    return response.json() if ".json" in path else response.text


def fingerprint(db: Path) -> str:
    return hashlib.sha256(db.read_bytes()).hexdigest()


@pytest.mark.parametrize("immutable", [False, True])
def test_documents_and_passages_can_be_read_and_the_file_stays_as_it_was(db: Path, immutable: bool) -> None:
    before = fingerprint(db)

    async def talk(ds: Any) -> None:
        home = await get(ds, "/.json")
        assert [view["name"] for view in home["index"]["tables_and_views_truncated"]] == [
            "document_texts",
            "passage_texts",
        ]
        shown = await get(ds, "/index.json")
        assert shown["views"] == [
            {"name": "document_texts", "private": False},
            {"name": "passage_texts", "private": False},
        ]
        assert all(table["hidden"] for table in shown["tables"])
        assert [query["name"] for query in shown["queries"]] == ["search"]

        rows = await get(ds, "/index/document_texts.json?_shape=array")
        assert [row["id"] for row in rows] == [record["id"] for record in RECORDS]
        assert [row["text"] for row in rows] == [record["text"] for record in RECORDS]
        assert [json.loads(row["metadata"]) for row in rows] == [record["metadata"] for record in RECORDS]
        assert [row["room"] for row in rows] == ["hall", "cellar", "cellar", None]
        assert rows[1]["tags"] == '["a"]'
        assert set(rows[0]) == {"id", "text", "room", "year", "tags", "metadata", "source", "characters", "passages"}

        passages = await get(ds, "/index/passage_texts.json?document=long&_shape=array")
        assert len(passages) == rows[3]["passages"] > 1
        for row in passages:
            assert row["text"] == RECORDS[3]["text"][row["start"] : row["end"]]

        facet = await get(ds, "/index/document_texts.json?_facet=room&_size=0")
        values = {entry["value"]: entry["count"] for entry in facet["facet_results"]["room"]["results"]}
        assert values == {"cellar": 2, "hall": 1}
        assert "left cupboard" in await get(ds, "/index/document_texts")
        assert "CREATE TEMP VIEW document_texts" in await get(ds, "/index/document_texts")
        for page in ("/", "/index", "/index/passage_texts", "/index/passages", "/index/search"):
            assert "<html" in await get(ds, page)

    browse(db, talk, immutable=immutable)
    assert fingerprint(db) == before
    with Index.open(db) as index:
        assert index.verify().problems == ()
        assert index.add([{"id": "new", "text": "Still to be written to."}]).added == 1
    # Datasette leaves a log behind, which whoever writes next removes.
    assert [file.name for file in db.parent.iterdir()] == [db.name]


@pytest.mark.parametrize("immutable", [False, True])
def test_the_search_of_datasette_is_the_search_of_the_index(db: Path, immutable: bool) -> None:
    with Index.open(db, read_only=True) as index:
        wanted = [(hit.id, hit.passage.text) for hit in index.search("where is the kettle?", k=20, mode="hybrid")]
        filtered = [hit.id for hit in index.search("kettle", k=20, mode="hybrid", filter={"year": {"gte": 2022}})]

    async def talk(ds: Any) -> None:
        rows = await get(ds, "/index/search.json?query=where+is+the+kettle%3F&filter=&_shape=array")
        assert [(row["id"], row["passage"]) for row in rows] == wanted
        assert json.loads(rows[0]["metadata"]) == RECORDS[0]["metadata"]
        rows = await get(ds, "/index/search.json?query=kettle&filter=year+>%3D+2022&_shape=array")
        assert [row["id"] for row in rows] == filtered == ["boiler"]
        page = await get(ds, "/index/search?query=kettle&filter=")
        assert "left cupboard" in page
        assert await get(ds, "/index/search.json?query=&filter=&_shape=array") == []
        # A search is a function of SQL, and so can be joined with anything.
        sql = (
            "select documents.id from json_each(edgecolbert_search('kettle', 1, 'lexical')) as hit "
            "join documents on documents.id = json_extract(hit.value, '$.id')"
        )
        rows = (await ds.client.get("/index.json", params={"sql": sql, "_shape": "array"})).json()
        assert rows == [{"id": "notes/kettle"}]

    browse(db, talk, immutable=immutable)


def test_a_wrong_search_is_explained(db: Path) -> None:
    async def talk(ds: Any) -> None:
        (row,) = await get(ds, "/index/search.json?query=x&filter=year+>>&_shape=array")
        assert row["passage"].startswith("filter: found '>' at character 7")
        for call, message in {
            "'x', 99": "k is 99, expected a whole number from 1 to 50.",
            "'x', 'two'": "k is 'two', expected a whole number from 1 to 50.",
            "'x', 3, 'best'": "mode is 'best'",
            "'x', 3, 'late', 7": "filter is 7, expected a text",
        }.items():
            sql = f"select edgecolbert_search({call}) as found"
            (row,) = (await ds.client.get("/index.json", params={"sql": sql, "_shape": "array"})).json()
            assert json.loads(row["found"])[0]["error"].startswith(message)

    browse(db, talk)


def test_what_others_write_meanwhile_is_seen_and_nothing_can_be_written_from_datasette(db: Path) -> None:
    async def talk(ds: Any) -> None:
        assert len(await get(ds, "/index/document_texts.json?_shape=array")) == 4
        program = (
            "import sys\nfrom edgecolbert import Index\n"
            "with Index.open(sys.argv[1]) as index: index.add([{'id': 'new', 'text': 'A new kettle.'}])"
        )
        subprocess.run([sys.executable, "-c", program, str(db)], check=True)
        rows = await get(ds, "/index/document_texts.json?_shape=array")
        assert rows[-1]["text"] == "A new kettle."
        found = await get(ds, "/index/search.json?query=new+kettle&filter=&_shape=array")
        assert found[0]["id"] == "new"
        for sql in ("delete from documents", "drop view document_texts", "pragma user_version = 9"):
            assert (await ds.client.get("/index.json", params={"sql": sql})).status_code == 400
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await ds.get_database("index").execute_fn(lambda conn: conn.execute("delete from main.documents"))

    browse(db, talk)
    with Index.open(db) as index:
        assert len(index) == 5
        assert index.verify().problems == ()


def test_searching_can_be_switched_off(db: Path) -> None:
    async def talk(ds: Any) -> None:
        assert (await get(ds, "/index.json"))["queries"] == []
        assert (await ds.client.get("/index/search.json?query=x&filter=")).status_code == 404
        response = await ds.client.get("/index.json", params={"sql": "select edgecolbert_search('x')"})
        assert "no such function" in response.json()["error"]
        assert len(await get(ds, "/index/document_texts.json?_shape=array")) == 4

    browse(db, talk, metadata={"plugins": {"edgecolbert": {"search": False}}})


def test_a_database_of_another_program_is_shown_as_ever(tmp_path: Path, db: Path) -> None:
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.executescript("create table documents (id text); create view some as select * from documents;")
    connection.close()

    async def talk(ds: Any) -> None:
        shown = await get(ds, "/other.json")
        assert [view["name"] for view in shown["views"]] == ["some"]
        assert [(table["name"], table["hidden"]) for table in shown["tables"]] == [("documents", False)]
        assert shown["queries"] == []

    browse(other, talk)


@pytest.mark.parametrize(
    "sql",
    [
        "pragma user_version = 99",
        "create trigger t after insert on documents begin select 1; end",
        # It never ends, and must not be read before anybody asks for it.
        "drop table documents; create view documents as with recursive n(x) as (select 1 union all select 1 from n) "
        "select x as document_id, '{}' as metadata from n",
    ],
)
def test_a_database_of_a_later_version_or_with_somebodys_sql_is_left_alone(db: Path, sql: str) -> None:
    connection = sqlite3.connect(db)
    connection.executescript(sql)
    connection.close()

    async def talk(ds: Any) -> None:
        names = await ds.get_database("index").view_names()
        assert "document_texts" not in names
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            await ds.get_database("index").execute("select * from document_texts")

    browse(db, talk)


def test_the_real_program_starts_with_the_plugin(db: Path) -> None:
    def run(*words: str) -> str:
        command = [sys.executable, "-m", "datasette", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    (plugin,) = [plugin for plugin in json.loads(run("plugins")) if plugin["name"] == "edgecolbert"]
    assert plugin["hooks"] == ["canned_queries", "prepare_connection", "startup"]
    found = run(str(db), "--setting", "sql_time_limit_ms", "20000", "--get", "/index/search.json?query=kettle&filter=")
    assert re.search(r"notes/kettle", found)
