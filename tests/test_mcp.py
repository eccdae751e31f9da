"""The MCP server, as an assistant uses it: the official client starts the real program and talks to it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from edgecolbert import Index, InputError, MissingExtraError
from edgecolbert.errors import StoreReadOnlyError
from edgecolbert.integrations.mcp import build_server

mcp = pytest.importorskip("mcp")
T = TypeVar("T")
TINY = str(Path(__file__).parent / "fixtures" / "tiny-model")

RECORDS: list[dict[str, Any]] = [
    {
        "id": "notes/kettle",
        "text": "The kettle is in the left cupboard.",
        "metadata": {"room": "kitchen", "year": 2021},
    },
    {"id": "boiler", "text": "Bleed the radiators first. Then call.", "metadata": {"room": "cellar", "year": 2024}},
    {"id": "bins", "text": "The bins go out on Tuesday.", "metadata": {"room": "street", "tags": ["week", "bins"]}},
    {"id": "long", "text": "A long story about soup. " * 200, "metadata": {"story": "x" * 5_000}},
]


@pytest.fixture
def db(path: Path) -> Path:
    with Index.open(path) as index:
        index.add(RECORDS)
    return path


def session(db: Path, talk: Callable[[Any], Awaitable[T]], *options: str) -> T:
    """Start the server in a process of its own, as an assistant does, and talk to it."""

    async def whole() -> T:
        arguments = ["-m", "edgecolbert", "mcp", "--db", str(db), *options]
        # The client passes on few variables by itself, and the server is to be the one that is tested.
        program = mcp.StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ))
        async with mcp.Client(mcp.stdio_client(program)) as client:
            return await talk(client)

    return asyncio.run(whole())


async def call(client: Any, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert result.structured_content == json.loads(result.content[0].text)
    return dict(result.structured_content)


async def refused(client: Any, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return str(result.content[0].text)


def test_an_assistant_searches_reads_counts_and_asks_what_there_is(db: Path) -> None:
    async def talk(client: Any) -> None:
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} == {"search", "get_document", "facets", "info"}
        assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in tools)
        assert all(tool.description and not tool.description.startswith(" ") for tool in tools)
        assert client.server_info is not None
        assert client.server_info.name == "edgecolbert"

        info = await call(client, "info")
        assert (info["documents"], info["metadata_fields_seen_in"]) == (4, 4)
        assert {"name": "year", "kinds": ["number"]} in info["metadata_fields"]

        for mode in ("late", "lexical", "hybrid"):
            hits = (await call(client, "search", query="the kettle in the cupboard", k=2, mode=mode))["hits"]
            assert hits[0]["id"] == "notes/kettle"
            assert hits[0]["passage"]["text"] == RECORDS[0]["text"]
            assert hits[0]["metadata"] == RECORDS[0]["metadata"]
        filtered = await call(client, "search", query="kettle", filter='room = "cellar" and year >= 2022')
        assert [hit["id"] for hit in filtered["hits"]] == ["boiler"]
        as_json = await call(client, "search", query="kettle", filter={"tags": {"contains": "week"}})
        assert [hit["id"] for hit in as_json["hits"]] == ["bins"]

        document = await call(client, "get_document", id="boiler", start=6, end=19)
        assert (document["text"], document["length"]) == ("the radiators", len(RECORDS[1]["text"]))
        facets = await call(client, "facets", field="room", filter="year exists")
        assert facets["values"] == [{"value": "cellar", "count": 1}, {"value": "kitchen", "count": 1}]
        assert (facets["documents"], facets["with_field"]) == (2, 2)

        (template,) = (await client.list_resource_templates()).resource_templates
        assert template.uri_template == "edgecolbert://document/{id}"
        resource = await client.read_resource(hits[0]["uri"])
        assert resource.contents[0].text == RECORDS[0]["text"]

    session(db, talk)


def test_answers_are_bounded_and_say_where_to_go_on(db: Path) -> None:
    with Index.open(db) as index:
        index.add([{"id": f"soup {number}", "text": "A soup of peas. " * 100} for number in range(20)])

    async def talk(client: Any) -> None:
        answer = await call(client, "search", query="soup", k=20)
        assert len(json.dumps(answer)) < 3_000
        assert answer["hits"]
        assert "more hits are left out" in answer["note"]
        (hit,) = (await call(client, "search", query="story", k=1, filter="story exists"))["hits"]
        assert hit["metadata"] == {}
        assert "left out" in hit["metadata_note"]
        text, start = "", 0
        while start is not None:
            part = await call(client, "get_document", id="long", start=start)
            assert len(part["text"]) <= 1_000
            text, start = text + part["text"], part.get("next_start")
        assert text == RECORDS[3]["text"]
        facets = await call(client, "facets", field="story")
        assert facets["values"] == []
        assert "left out" in facets["note"]
        with pytest.raises(mcp.MCPError, match="Read it part by part"):
            await client.read_resource("edgecolbert://document/long")

    session(db, talk, "--max-chars", "1000")


def test_a_wrong_call_is_explained_and_the_server_goes_on(db: Path) -> None:
    async def talk(client: Any) -> None:
        assert "k is 51, expected 1 to 50" in await refused(client, "search", query="x", k=51)
        assert "k is 0, expected 1 to 50" in await refused(client, "search", query="x", k=0)
        assert "character 7" in await refused(client, "search", query="x", filter="year >>")
        assert "'late', 'lexical' or 'hybrid'" in await refused(client, "search", query="x", mode="best")
        assert "query" in await refused(client, "search")
        assert "no document with the id 'nobody'" in await refused(client, "get_document", id="nobody")
        assert "start is 9000" in await refused(client, "get_document", id="boiler", start=9000)
        assert "start is 5 and end is 2" in await refused(client, "get_document", id="boiler", start=5, end=2)
        assert "add_document" in await refused(client, "add_document", text="Written by nobody.")
        with pytest.raises(mcp.MCPError, match=r"no document with the id '\.\./\.\./etc/passwd'"):
            await client.read_resource("edgecolbert://document/..%2F..%2Fetc%2Fpasswd")
        assert (await call(client, "search", query="kettle", k=1))["hits"]

    session(db, talk)
    with Index.open(db) as index:
        assert len(index) == len(RECORDS)


def test_calls_at_the_same_time_are_all_answered(db: Path) -> None:
    async def talk(client: Any) -> list[str]:
        answers = await asyncio.gather(
            *(call(client, "search", query=str(record["text"]), k=1) for record in RECORDS for _ in range(4))
        )
        return [answer["hits"][0]["id"] for answer in answers]

    assert session(db, talk) == [record["id"] for record in RECORDS for _ in range(4)]
    # The server ended with its client, and left nothing beside the file.
    assert sorted(file.name for file in db.parent.iterdir()) == [db.name]


def test_writing_is_offered_only_where_it_was_allowed(db: Path) -> None:
    async def talk(client: Any) -> None:
        changing = {tool.name: tool.annotations for tool in (await client.list_tools()).tools}
        assert {"add_document", "delete_document"} < set(changing)
        assert not changing["delete_document"].read_only_hint
        added = await call(client, "add_document", text="Water the ferns.", id="ferns", metadata={"room": "hall"})
        assert added == {"id": "ferns", "result": "added"}
        assert (await call(client, "add_document", text="Water the ferns.", id="ferns"))["result"] == "updated"
        assert (await call(client, "search", query="ferns", k=1))["hits"][0]["id"] == "ferns"
        assert (await call(client, "delete_document", id="bins"))["result"] == "deleted"
        assert (await call(client, "delete_document", id="bins"))["result"] == "there was none"

    session(db, talk, "--allow-writes")
    with Index.open(db) as index:
        assert set(index.ids()) == {"notes/kettle", "boiler", "long", "ferns"}


def test_after_a_reencoding_with_another_model_the_assistant_is_told_what_to_do(db: Path) -> None:
    async def talk(client: Any) -> None:
        await call(client, "search", query="kettle")
        command = [sys.executable, "-m", "edgecolbert", "reencode", "--db", str(db), "--model", TINY]
        subprocess.run(command, capture_output=True, check=True)
        assert "start the MCP server again" in await refused(client, "search", query="kettle")

    session(db, talk)


def test_a_client_of_the_first_protocol_is_served_and_nonsense_is_survived(db: Path) -> None:
    messages: list[Any] = [
        {
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2024-11-05",
                "capabilities": {},
                "clientInfo": {"name": "by hand", "version": "0"},
            },
        },
        {"method": "notifications/initialized"},
        "this is no JSON",
        {"id": 2, "method": "tools/call", "params": {"name": "search", "arguments": {"query": "kettle", "k": 1}}},
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "edgecolbert", "mcp", "--db", str(db)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        answers = {}
        for message in messages:
            line = message if isinstance(message, str) else json.dumps({"jsonrpc": "2.0"} | message)
            server.stdin.write(line + "\n")
            server.stdin.flush()
            while "id" in message and message["id"] not in answers:
                answer = json.loads(server.stdout.readline())
                answers[answer.get("id")] = answer
        server.stdin.close()
        # Nothing but messages on standard output.
        assert all(json.loads(line)["jsonrpc"] == "2.0" for line in server.stdout)
    assert server.returncode == 0
    assert answers[1]["result"]["protocolVersion"] == "2024-11-05"
    assert answers[2]["result"]["structuredContent"]["hits"][0]["id"] == "notes/kettle"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, [], "There is no database at"),
        (b"not a database at all" * 100, [], "not an edgecolbert database"),
        ("index", ["--max-chars", "10"], "max_chars is 10, expected at least 1,000"),
    ],
)
def test_a_server_that_cannot_start_says_so_in_one_line(
    path: Path, content: bytes | str | None, options: list[str], message: str
) -> None:
    if content == "index":
        Index.open(path).close()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    command = [sys.executable, "-m", "edgecolbert", "mcp", "--db", str(path), *options]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert message in done.stderr


def test_without_the_package_the_extra_is_named(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp.server", None)
    with Index.open(db) as index, pytest.raises(MissingExtraError, match=r"pip install 'edgecolbert\[mcp\]'"):
        build_server(index)


def test_a_server_that_may_write_needs_an_index_that_can_be_written(db: Path) -> None:
    with Index.open(db, read_only=True) as index, pytest.raises(StoreReadOnlyError):
        build_server(index, allow_writes=True)
    with Index.open(db) as index, pytest.raises(InputError, match="max_chars is 999"):
        build_server(index, max_chars=999)
