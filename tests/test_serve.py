"""The local app through HTTP: what it answers, and what it refuses."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from word_encoder import WordEncoder

from edgecolbert import Index, InputError, read_folder, reencode
from edgecolbert.errors import StoreClosedError, StoreReadOnlyError
from edgecolbert.filters.parser import parse_filter
from edgecolbert.serve import application, marks, parameters
from edgecolbert.serve.answers import Answers, GoneError
from edgecolbert.serve.database import Database
from edgecolbert.serve.narrowing import below
from edgecolbert.serve.server import SearchServer, _listening

for package in ("starlette", "uvicorn", "jsonschema", "openapi_spec_validator"):
    pytest.importorskip(package, reason=f"the package {package} is not installed; the extra edgecolbert[dev] has it")

HANDBOOK = Path(__file__).parent.parent / "examples" / "handbook"
HOSTILE = '<img src="https://example.org/x" onerror="alert(1)"><script>alert(2)</script> "\u202e& a kettle'
ODD_ID = "a/b ?c=%2F#d&\u202e\U0001f600"
QUERY = "water keeps dripping at night"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json["error"]["message"])


def records() -> list[dict[str, Any]]:
    notes = [
        {
            "id": path.name,
            "text": path.read_text(encoding="utf-8"),
            "metadata": {
                "path": f"/home/me/notes/{'house' if number % 2 else 'garden/beds'}/{path.name}",
                "year": 2020 + number % 3,
                "tags": ["short", "x y"] if number % 4 == 0 else ["long"],
                "about": {"lang": "en"},
            },
        }
        for number, path in enumerate(sorted(HANDBOOK.glob("*.md")))
    ]
    others = [
        {"id": ODD_ID, "text": HOSTILE, "metadata": {"path": "/home/me/notes-old/odd.txt", "year": 1999}},
        {
            "id": "emoji",
            "text": "\U0001f600\U0001f600 The kettle \U0001f600 is in the cupboard.",
            "metadata": {"year": None},
        },
        {"id": "long", "text": "A kettle on every page. " * 12_000, "metadata": {"title": "Many kettles"}},
    ]
    return notes + others


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("serve") / "notes.db"
    with Index.open(path) as index:
        index.add(records())
    return path


@pytest.fixture(scope="module")
def server(database: Path) -> Iterator[SearchServer]:
    with SearchServer(database) as running:
        yield running


def ask(
    server: SearchServer, path: str, *, method: str = "GET", headers: dict[str, str] | None = None, **parameters: object
) -> Answer:
    """One request, with the token; a header of None is left out."""
    sent = {"Authorization": f"Bearer {server.access.token}"} | (headers or {})
    query = urlencode({key: value for key, value in parameters.items() if value is not None}, doseq=True)
    connection = http.client.HTTPConnection("127.0.0.1", server.access.port, timeout=60)
    try:
        connection.putrequest(method, f"{path}?{query}" if query else path, skip_host="Host" in sent)
        for name, value in sent.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        connection.close()


def raw(server: SearchServer, request: bytes) -> bytes:
    """What comes back for bytes that no client library would send."""
    with socket.create_connection(("127.0.0.1", server.access.port), timeout=60) as connection:
        connection.sendall(request)
        received = b""
        while part := connection.recv(65_536):
            received += part
        return received


# What it refuses


@pytest.mark.parametrize("host", ["example.org", "example.org:{port}", "127.0.0.1", "127.0.0.1:1", "[::1]:{port}", ""])
def test_another_host_is_refused(server: SearchServer, host: str) -> None:
    answer = ask(server, "/api/info", headers={"Host": host.format(port=server.access.port)})
    assert answer.status == 421
    assert server.access.url in answer.error


def test_both_names_of_the_loopback_address_are_answered(server: SearchServer) -> None:
    for name in ("127.0.0.1", "localhost", "LocalHost"):
        assert ask(server, "/api/info", headers={"Host": f"{name}:{server.access.port}"}).status == 200


def test_a_request_with_two_hosts_or_none_is_refused(server: SearchServer) -> None:
    host = f"Host: 127.0.0.1:{server.access.port}\r\n"
    token = f"Authorization: Bearer {server.access.token}\r\n"
    for hosts in (host + host, host + "Host: example.org\r\n"):
        assert b" 200 " not in raw(
            server, f"GET /api/info HTTP/1.1\r\n{hosts}{token}Connection: close\r\n\r\n".encode()
        )
    # HTTP/1.0 does not ask for a host.
    assert b" 421 " in raw(server, f"GET /api/info HTTP/1.0\r\n{token}\r\n".encode())


@pytest.mark.parametrize("origin", ["https://example.org", "null", "http://127.0.0.1:1", "https://127.0.0.1:{port}"])
def test_another_origin_is_refused(server: SearchServer, origin: str) -> None:
    answer = ask(server, "/api/info", headers={"Origin": origin.format(port=server.access.port)})
    assert answer.status == 403
    assert "access-control-allow-origin" not in answer.headers
    assert ask(server, "/api/info", headers={"Origin": f"http://127.0.0.1:{server.access.port}"}).status == 200


def test_what_another_page_asks_for_is_refused(server: SearchServer) -> None:
    for site, status in {"cross-site": 403, "same-site": 403, "same-origin": 200, "none": 200}.items():
        assert ask(server, "/api/info", headers={"Sec-Fetch-Site": site}).status == status


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_every_method_that_could_change_something_is_refused(server: SearchServer, method: str) -> None:
    for path in ("/", "/api/search", "/api/documents/long"):
        answer = ask(server, path, method=method)
        assert answer.status == 405
        assert answer.headers["allow"] == "GET, HEAD"


def test_head_answers_without_a_body(server: SearchServer) -> None:
    for path, status in {"/": 200, "/api/info": 200, "/api/none": 404}.items():
        answer = ask(server, path, method="HEAD")
        assert (answer.status, answer.body) == (status, b"")


def test_a_body_is_refused_before_it_is_read(server: SearchServer) -> None:
    assert ask(server, "/api/info", headers={"Content-Length": "1000000000000"}).status == 413
    assert ask(server, "/api/info", headers={"Transfer-Encoding": "chunked"}).status == 413
    assert ask(server, "/api/info", headers={"Content-Length": "0"}).status == 200


def test_an_address_that_is_too_long_is_refused(server: SearchServer) -> None:
    answer = ask(server, "/api/search", query="x" * parameters.TARGET_BYTES)
    assert answer.status == 414
    assert str(parameters.TARGET_BYTES) in answer.error


def test_a_head_that_is_too_long_ends_the_connection(server: SearchServer) -> None:
    request = f"GET /api/info HTTP/1.1\r\nHost: 127.0.0.1:{server.access.port}\r\nX-Long: {'x' * 200_000}"
    with contextlib.suppress(ConnectionError):  # closed while we were still sending
        assert b" 400 " in raw(server, request.encode())
    assert ask(server, "/api/info").status == 200


@pytest.mark.parametrize(
    "path", ["/", "/static/app.js", "/openapi.json", "/api/info", "/api/search?query=x", "/why", "/none"]
)
@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer wrong", "Basic {token}", "Bearer {cookie}"])
def test_without_the_token_nothing_is_served(server: SearchServer, path: str, authorization: str | None) -> None:
    access = server.access
    given = authorization and authorization.format(token=access.token, cookie=access.cookie)
    answer = ask(server, path, headers={"Authorization": given})  # type: ignore[dict-item]
    assert answer.status == 401
    assert b"edgecolbert serve" in answer.body


def test_the_token_in_the_address_gives_a_cookie_that_scripts_and_other_sites_do_not_get(server: SearchServer) -> None:
    access = server.access
    for site in ("none", "cross-site"):
        # Also from a link in another page; whoever has the token may come in.
        answer = ask(server, "/", token=access.token, headers={"Authorization": None, "Sec-Fetch-Site": site})  # type: ignore[dict-item]
        assert answer.status == 200
        cookie = answer.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
        assert access.token not in cookie
        assert access.token.encode() not in answer.body
    sent = cookie.partition(";")[0]
    for given_cookie, status in {sent: 200, f"a=b; {sent}": 200, sent[:-1]: 401, f"{sent}x": 401, "=": 401}.items():
        answer = ask(server, "/api/info", headers={"Authorization": None, "Cookie": given_cookie})  # type: ignore[dict-item]
        assert answer.status == status, given_cookie
    for wrong in ("", "wrong", access.cookie):
        assert ask(server, "/", token=wrong, headers={"Authorization": None}).status == 401  # type: ignore[dict-item]
    assert ask(server, "/api/info", token=access.token, headers={"Authorization": None}).status == 401  # type: ignore[dict-item]


def test_the_address_that_starts_the_browser_works_once(database: Path) -> None:
    with SearchServer(database) as server:
        path = server.access.url_with_ticket.removeprefix(server.access.url.rstrip("/"))
        anonymous = {"Authorization": None}
        assert "set-cookie" in ask(server, path, headers=anonymous).headers  # type: ignore[arg-type]
        again = ask(server, path, headers=anonymous)  # type: ignore[arg-type]
        assert (again.status, "set-cookie" in again.headers) == (401, False)


def test_two_servers_do_not_share_their_secrets(database: Path, server: SearchServer) -> None:
    with SearchServer(database) as other:
        assert len({other.access.token, other.access.cookie, other.access.ticket, server.access.token}) == 4
        assert other.access.cookie_name != server.access.cookie_name
        assert ask(other, "/api/info", headers={"Authorization": f"Bearer {server.access.token}"}).status == 401
        assert server.access.token not in repr(server.access)


@pytest.mark.parametrize("path", ["/", "/static/app.css", "/api/info", "/api/none", "/none", "/api/search?query=x&k=0"])
def test_every_answer_says_what_a_browser_may_do_with_it(server: SearchServer, path: str) -> None:
    for headers in ({}, {"Authorization": "none"}, {"Host": "example.org"}):
        found = ask(server, path, headers=headers).headers
        policy = dict(part.strip().split(" ", 1) for part in found["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert {policy[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
        assert {policy[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
        assert policy["require-trusted-types-for"] == "'script'"
        assert found["x-content-type-options"] == "nosniff"
        assert found["referrer-policy"] == "no-referrer"
        assert found["cache-control"] == "no-store"
        assert found["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in found


@pytest.mark.parametrize(
    ("path", "given_parameters", "message"),
    [
        ("/api/search", {}, "query is missing"),
        ("/api/search", {"query": "x" * 2_001}, "query has 2001 characters, expected at most 2000"),
        ("/api/search", {"query": "x", "filter": "a = 1 or " * 1_000}, "filter has 9000 characters"),
        ("/api/search", {"query": "x", "filter": "year >="}, "filter: found the end at character 8"),
        ("/api/search", {"query": ["x", "y"]}, "query is given twice"),
        ("/api/search", {"query": "x", "filter": ["a = 1"] * 33}, "filter is given more than 32 times"),
        ("/api/search", {"query": "x", "filter": ["a = 1 or " * 80 + "a = 1"] * 2}, "conditions"),
        ("/api/search", {"query": "x", "exact": "1"}, "no parameter 'exact'"),
        ("/api/search", {"query": "x", "mode": "Late"}, "mode is 'Late'"),
        *[
            ("/api/search", {"query": "x", "k": k}, "expected a whole number from 1 to 100")
            for k in (0, 101, "1_0", "+1", "\u0661", "")
        ],
        ("/api/search", {"query": "x", "snippet": 100_000}, "from 20 to 1000"),
        ("/api/documents", {"k": 101}, "from 1 to 100"),
        ("/api/facets", {}, "field is missing"),
        ("/api/facets", {"field": "a b"}, "field"),
        ("/api/folders", {"field": "path", "under": "x" * 9_000}, "under has 9000 characters"),
        ("/api/info", {"x": "1"}, "no parameter 'x'"),
    ],
)
def test_wrong_parameters_are_refused_with_a_message(
    server: SearchServer, path: str, given_parameters: dict[str, Any], message: str
) -> None:
    answer = ask(server, path, **given_parameters)
    assert answer.status == 400
    assert message in answer.error


@pytest.mark.parametrize(
    "text", ["\0", "%", "\ud7ff\ue000", "\U0010ffff", "'\"`;--", "(" * 500, "a" * 2_000, "\n\r\t", "\u202e"]
)
def test_no_text_is_an_error_of_the_server(server: SearchServer, text: str) -> None:
    for mode in ("late", "lexical", "hybrid"):
        assert ask(server, "/api/search", query=text, mode=mode).status == 200
    assert ask(server, f"/api/documents/{quote(text, safe='')}", query=text).status == 404
    assert ask(server, "/api/documents/emoji", query=text).status == 200
    assert ask(server, "/api/documents", filter=text).status in (200, 400)
    assert ask(server, "/api/facets", field=text).status in (200, 400)
    assert ask(server, "/api/folders", field="path", under=text).status == 200
    # Bytes that are no UTF-8.
    assert ask(server, "/api/search?query=%ff%fe%80").status == 200


def test_what_is_not_there_is_not_found(server: SearchServer) -> None:
    for path in ("/none", "/static/", "/static/../app.py", "/static/%2e%2e/answers.py", "/api", "/api/documents/none"):
        assert ask(server, path).status == 404


# What it answers


@pytest.mark.parametrize("mode", ["late", "lexical", "hybrid"])
def test_hits_are_those_of_the_index(server: SearchServer, database: Path, mode: Any) -> None:
    found = ask(server, "/api/search", query=QUERY, mode=mode, k=5).json
    with Index.open(database, read_only=True) as index:
        hits = index.search(QUERY, k=5, mode=mode)
    assert [(hit["id"], hit["score"], hit["ranks"]) for hit in found["hits"]] == [
        (hit.id, round(hit.score, 6), hit.ranks) for hit in hits
    ]
    titles = {hit["id"]: hit["title"] for hit in found["hits"]}
    assert titles["dripping-tap.md"] == "A dripping tap"
    assert found["more"] is True


def test_highlights_are_those_of_the_hit(server: SearchServer, database: Path) -> None:
    found = ask(server, "/api/search", query=QUERY, mode="late", k=5, snippet=150).json
    with Index.open(database, read_only=True) as index:
        for shown, hit in zip(found["hits"], index.search(QUERY, k=5), strict=True):
            snippet = hit.snippet(150)
            assert "".join(part["text"] for part in shown["snippet"]["parts"]) == snippet.text
            assert [(mark["start"], mark["end"], mark["level"]) for mark in shown["snippet"]["highlights"]] == [
                (highlight.start, highlight.end, highlight.level) for highlight in snippet.highlights
            ]
            marked = [part["text"] for part in shown["snippet"]["parts"] if part["level"]]
            assert marked == [hit.text[highlight.start : highlight.end] for highlight in snippet.highlights]


@pytest.mark.parametrize("mode", ["late", "lexical", "hybrid"])
def test_what_matched_is_marked_behind_characters_of_two_units(server: SearchServer, mode: str) -> None:
    found = ask(server, "/api/search", query="kettle cupboard", mode=mode, filter="year = null").json
    (hit,) = found["hits"]
    assert hit["id"] == "emoji"
    assert {part["text"] for part in hit["snippet"]["parts"] if part["level"]} == {"kettle", "cupboard"}


def test_a_text_of_a_document_is_data_whatever_it_says(server: SearchServer) -> None:
    for mode in ("late", "lexical", "hybrid"):
        found = ask(server, "/api/search", query="kettle alert", mode=mode, filter="year = 1999")
        assert found.headers["content-type"] == "application/json"
        (hit,) = found.json["hits"]
        assert (hit["id"], "".join(part["text"] for part in hit["snippet"]["parts"])) == (ODD_ID, HOSTILE)


def test_filters_are_those_of_the_command_line_and_all_hold(server: SearchServer, database: Path) -> None:
    written = ["year >= 2021", '{"tags": {"contains": "long"}}', ""]
    found = ask(server, "/api/search", query="water", filter=written, k=100).json
    with Index.open(database, read_only=True) as index:
        both = parse_filter(written[0]) & parse_filter(written[1])
        assert [hit["id"] for hit in found["hits"]] == [
            hit.id for hit in index.search("water", k=100, filter=both, mode="hybrid")
        ]
        assert found["hits"]
        listed = ask(server, "/api/documents", filter=written, k=3, start=2).json
        assert listed["count"] == index.count(filter=both)
        assert [document["id"] for document in listed["documents"]] == index.ids(filter=both)[2:5]


def test_the_filter_of_a_facet_selects_what_it_counts(server: SearchServer, database: Path) -> None:
    fields = ask(server, "/api/fields").json
    assert set(fields["fields"]) == {"year", "tags", "about/lang"}
    assert fields["folders"] == "path"
    with Index.open(database, read_only=True) as index:
        for field in fields["fields"]:
            found = ask(server, "/api/facets", field=field, filter="year >= 2020 or year missing or year = null").json
            assert found["values"]
            for entry in found["values"]:
                chosen = ask(server, "/api/documents", filter=[entry["filter"], "year >= 2020 or year = null"]).json
                assert chosen["count"] == entry["count"], entry
        assert ask(server, "/api/facets", field="year").json["n_values"] == index.facets("year").n_values == 5


def test_what_is_noted_of_files_is_no_facet(tmp_path: Path) -> None:
    path = tmp_path / "handbook.db"
    with Index.open(path) as index:
        folder = read_folder(HANDBOOK)
        index.add_from(folder.root, folder)
    with SearchServer(path) as running:
        assert ask(running, "/api/fields").json == {"fields": ["kind", "format"], "folders": "path"}


def test_folders_lead_to_their_documents(server: SearchServer) -> None:
    top = ask(server, "/api/folders", field="path").json
    # All are below one folder, which is opened at once.
    assert (top["under"], top["documents"]) == ("/home/me/", 41)
    assert {folder["name"]: (folder["count"], folder["has_folders"]) for folder in top["folders"]} == {
        "notes": (40, True),
        "notes-old": (1, False),
    }
    notes = next(folder for folder in top["folders"] if folder["name"] == "notes")
    # Not what lies in notes-old.
    assert ask(server, "/api/documents", filter=notes["filter"]).json["count"] == 40
    inside = ask(server, "/api/folders", field="path", under=notes["prefix"], filter="year = 2020").json
    assert [folder["name"] for folder in inside["folders"]] == ["garden", "house"]
    assert sum(folder["count"] for folder in inside["folders"]) == inside["documents"] < 40
    # Where all that is left lies in one folder, that one is named.
    left = ask(server, "/api/folders", field="path", filter="year = 1999").json
    assert (left["under"], [folder["name"] for folder in left["folders"]]) == ("/home/me/", ["notes-old"])


def test_a_folder_with_the_name_of_a_day_selects_what_lies_in_it(tmp_path: Path, encoder: WordEncoder) -> None:
    paths = [
        "2024-05-3/a",
        "2024-05-3/\U0010fffe",
        "2024-05-30/a",
        "2024-05-30",
        "2024-05-3",
        "2024-05-2/x",
        "C:\\a\\b",
    ]
    with Index.open(tmp_path / "days.db", model=encoder) as index:
        index.add([{"id": path, "text": path, "metadata": {"path": path}} for path in paths])
        assert index.ids(filter=parse_filter(below(["path"], "2024-05-3/"))) == paths[:2]
        assert index.ids(filter=parse_filter(below(["path"], "C:\\a\\"))) == [paths[-1]]


@pytest.mark.parametrize("mode", ["late", "lexical", "hybrid"])
def test_a_document_is_shown_with_its_passage_and_matches(server: SearchServer, mode: str) -> None:
    hits = ask(server, "/api/search", query=QUERY, mode=mode).json["hits"]
    hit = next(hit for hit in hits if hit["id"] == "dripping-tap.md")
    passage = hit["passage"]
    found = ask(
        server,
        f"/api/documents/{hit['id']}",
        query=QUERY,
        mode=mode,
        passage_start=passage["start"],
        passage_end=passage["end"],
    ).json
    text = (HANDBOOK / hit["id"]).read_text(encoding="utf-8")
    joined = "".join(part["text"] for section in found["sections"] for part in section["parts"])
    assert joined == text[found["start"] : found["end"]] == text
    (inside,) = [section for section in found["sections"] if section["passage"]]
    assert "".join(part["text"] for part in inside["parts"]) == text[passage["start"] : passage["end"]]
    assert "dripping" in {part["text"] for part in inside["parts"] if part["level"]}
    assert found["passage"] == passage


def test_every_id_can_be_opened(server: SearchServer) -> None:
    found = ask(server, f"/api/documents/{quote(ODD_ID, safe='')}").json
    assert found["id"] == ODD_ID
    assert found["sections"] == [{"passage": False, "parts": [{"text": HOSTILE, "level": 0}]}]


def test_a_long_document_comes_in_parts(server: SearchServer) -> None:
    first = ask(server, "/api/documents/long", query="kettle", mode="lexical").json
    assert (first["start"], first["end"], first["characters"]) == (0, parameters.WINDOW_CHARACTERS, 12_000 * 24)
    second = ask(server, "/api/documents/long", start=first["end"]).json
    assert (second["start"], second["end"]) == (first["end"], first["characters"])
    beyond = ask(server, "/api/documents/long", start=10**8).json
    assert (beyond["sections"], beyond["end"]) == ([], beyond["characters"])
    near_the_end = ask(server, "/api/documents/long", passage_start=280_000, passage_end=280_100).json
    assert near_the_end["start"] < 280_000 < near_the_end["end"]


def test_the_heat_map_has_its_style_named_in_its_policy_and_no_script(server: SearchServer) -> None:
    digests = set()
    for scheme in ("auto", "light", "dark"):
        answer = ask(server, "/why", query="kettle</style><script>", id=ODD_ID, scheme=scheme)
        assert answer.status == 200
        page = answer.body.decode()
        style = page.partition("<style>")[2].partition("</style>")[0]
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        policy = answer.headers["content-security-policy"]
        assert f"style-src 'sha256-{digest}'" in policy
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert page.count("<style") == page.count("</style>") == 1
        assert "<script" not in page
        assert "<img" not in page
        digests.add(digest)
    assert len(digests) == 3
    assert ask(server, "/why", query="x", id="none").status == 400
    assert ask(server, "/why", query="x", id="long", scheme="blue").status == 400


def test_the_api_keeps_to_its_own_description(server: SearchServer) -> None:
    description = ask(server, "/openapi.json").json
    from openapi_spec_validator import OpenAPIV31SpecValidator

    OpenAPIV31SpecValidator(description).validate()
    examples = {
        "/api/search": {"query": "water", "filter": ["year = 2020"], "snippet": 50},
        "/api/documents": {"k": 3},
        "/api/documents/{id}": {"query": "water"},
        "/api/fields": {},
        "/api/facets": {"field": "tags"},
        "/api/folders": {"field": "path"},
        "/api/info": {},
    }
    assert set(description["paths"]) == {*examples, "/why"}
    for path, given_parameters in examples.items():
        described = description["paths"][path]["get"]
        names = {parameter["name"] for parameter in described["parameters"]}
        assert set(given_parameters) <= names
        answer = ask(server, path.format(id="dripping-tap.md"), **given_parameters)
        assert answer.status == 200
        _validate(description, described["responses"]["200"], answer.json)
        # Every parameter that is named is known, and no other is.
        _validate(description, described["responses"]["400"], ask(server, path.format(id="long"), unknown="1").json)
        accepted = ask(server, path.format(id="long"), unknown="1").error.partition("expected ")[2].rstrip(".")
        assert set(accepted.split(", ")) - {"none"} == names - {"id"}


def _validate(description: dict[str, Any], response: dict[str, Any], answer: object) -> None:
    from jsonschema import Draft202012Validator

    schema = response["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, "components": description["components"]}).validate(answer)


def test_an_empty_query_finds_nothing(server: SearchServer) -> None:
    for query in ("", "  ", "?!"):
        for mode in ("lexical", "hybrid"):
            answer = ask(server, "/api/search", query=query, mode=mode)
            assert answer.status == 200
            assert query.strip() or answer.json["hits"] == []


def test_many_tabs_get_the_same_answers(server: SearchServer) -> None:
    queries = ["a dripping tap", "slugs", "how to tie a knot", "tick bite", "bread"]
    alone = {query: ask(server, "/api/search", query=query).json["hits"] for query in queries}
    with ThreadPoolExecutor(10) as tabs:
        found = list(tabs.map(lambda query: (query, ask(server, "/api/search", query=query).json["hits"]), queries * 6))
    assert all(hits == alone[query] for query, hits in found)


def test_a_search_that_nobody_waits_for_stops(database: Path) -> None:
    answers = Answers(Database(database), Database(database))
    asked: list[int] = []

    def gone() -> bool:
        asked.append(1)
        return len(asked) > 2

    with pytest.raises(GoneError):
        answers.search([("query", "water"), ("k", "10")], gone)
    assert len(asked) == 3


def test_requests_that_were_given_up_do_not_hold_up_the_next(server: SearchServer) -> None:
    head = f" HTTP/1.1\r\nHost: 127.0.0.1:{server.access.port}\r\nAuthorization: Bearer {server.access.token}\r\n\r\n"
    for number in range(60):
        with socket.create_connection(("127.0.0.1", server.access.port)) as connection:
            connection.sendall(f"GET /api/search?query=water+{number}&k=100{head}".encode())
    assert ask(server, "/api/search", query="slugs").json["hits"][0]["id"] == "slugs.md"


# The database


def test_what_another_process_writes_is_seen_by_the_next_search(tmp_path: Path, encoder: WordEncoder) -> None:
    path = tmp_path / "own.db"
    with Index.open(path, model=encoder) as index:
        index.add([{"id": "a", "text": "red kettle"}])
        with SearchServer(path, model=encoder) as server:
            assert [hit["id"] for hit in ask(server, "/api/search", query="cup kettle").json["hits"]] == ["a"]
            index.add([{"id": "b", "text": "blue cup"}])
            assert {hit["id"] for hit in ask(server, "/api/search", query="cup kettle").json["hits"]} == {"a", "b"}
            index.delete(["a"])
            assert [hit["id"] for hit in ask(server, "/api/search", query="cup kettle").json["hits"]] == ["b"]
            # A model that does not say which characters its tokens stand for: words are marked all the same.
            (hit,) = ask(server, "/api/search", query="cup", mode="hybrid").json["hits"]
            assert [part["text"] for part in hit["snippet"]["parts"] if part["level"]] == ["cup"]


def test_another_file_in_its_place_is_opened(tmp_path: Path, database: Path) -> None:
    path, other = tmp_path / "served.db", tmp_path / "other.db"
    with Index.open(path) as index:
        index.add([{"id": "first", "text": "a kettle"}])
    with Index.open(other) as index:
        index.add([{"id": "second", "text": "a kettle"}])
    with SearchServer(path) as server:
        assert ask(server, "/api/search", query="kettle").json["hits"][0]["id"] == "first"
        os.replace(other, path)
        assert ask(server, "/api/search", query="kettle").json["hits"][0]["id"] == "second"


def test_a_file_of_another_model_in_its_place_is_an_error_that_names_both(tmp_path: Path, encoder: WordEncoder) -> None:
    path, other = tmp_path / "served.db", tmp_path / "other.db"
    with Index.open(path) as index:
        index.add([{"id": "first", "text": "a kettle"}])
    with Index.open(other, model=encoder) as index:
        index.add([{"id": "second", "text": "a kettle"}])
    with SearchServer(path, model="starter") as server:
        os.replace(other, path)
        for _ in range(2):
            answer = ask(server, "/api/search", query="kettle")
            assert (answer.status, answer.json["error"]["kind"]) == (500, "StoreMismatchError")
            assert "words" in answer.error


def test_a_database_that_was_encoded_again_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "again.db"
    with Index.open(path) as index:
        index.add([{"id": "a", "text": "a red kettle"}, {"id": "b", "text": "a slow train"}])
    with SearchServer(path) as server:
        before = ask(server, "/api/search", query="kettle", mode="late").json["hits"]
        reencode(path, tokens={"bits": 4})
        after = ask(server, "/api/search", query="kettle", mode="late").json["hits"]
        assert [hit["id"] for hit in after] == [hit["id"] for hit in before] == ["a", "b"]
        assert [hit["score"] for hit in after] != [hit["score"] for hit in before]


def test_a_database_is_only_read_and_closed_when_the_last_request_is_done(database: Path) -> None:
    opened = Database(database)

    def work(index: Index) -> int:
        opened.close()
        with pytest.raises(StoreReadOnlyError):
            index.add(["more"])
        return len(index)

    assert opened.ask(work) == 43
    with pytest.raises(StoreClosedError):
        opened.ask(len)


def test_an_encrypted_database_is_served_with_its_key(tmp_path: Path) -> None:
    path = tmp_path / "secret.db"
    with Index.open(path, key="open sesame") as index:
        index.add([{"id": "a", "text": "a red kettle"}])
    with SearchServer(path, key="open sesame") as server:
        assert ask(server, "/api/search", query="kettle").json["hits"][0]["id"] == "a"
        assert ask(server, "/api/info").json["encrypted"] is True


def test_without_its_model_a_database_is_searched_by_words(tmp_path: Path, database: Path) -> None:
    model = Path(__file__).parent.parent / "models" / "starter"
    copied = tmp_path / "moved"
    shutil.copytree(model, copied)
    path = tmp_path / "words.db"
    with Index.open(path, model=copied) as index:
        index.add([{"id": "a", "text": "a red kettle"}])
    (copied / "model.onnx").unlink()
    with SearchServer(path, model=copied) as server:
        assert "model.onnx" in str(server.answers.problem)
        found = ask(server, "/api/info").json
        assert (found["modes"], found["default_mode"]) == (["lexical"], "lexical")
        assert ask(server, "/api/search", query="kettles").json["hits"][0]["id"] == "a"
        assert ask(server, "/api/search", query="kettles", mode="hybrid").status == 400
        assert ask(server, "/why", query="kettles", id="a").status == 400


def test_a_database_of_a_model_object_is_searched_by_words_without_it(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": "a", "text": "a red kettle"}])
    with SearchServer(path) as server:
        assert server.answers.problem
        assert ask(server, "/api/search", query="kettles").json["hits"][0]["id"] == "a"


# Marks


@given(st.text(max_size=60), st.lists(st.tuples(st.integers(0, 80), st.integers(0, 80), st.integers(1, 3)), max_size=8))
def test_the_parts_of_a_text_are_the_text(text: str, spans: list[tuple[int, int, int]]) -> None:
    found = marks.merged(marks.Mark(min(a, b), max(a, b), level) for a, b, level in spans)
    assert "".join(str(part["text"]) for part in marks.parts(text, 10, found)) == text


@given(st.text(max_size=40), st.text(max_size=80))
def test_marked_words_lie_in_the_text_in_order(query: str, text: str) -> None:
    found = marks.of_words(query, text, 5)
    assert all(5 <= mark.start < mark.end <= len(text) + 5 for mark in found)
    assert all(one.end < two.start for one, two in pairwise(found))


@pytest.mark.parametrize(
    ("query", "text", "expected"),
    [
        ("kettles boiling", "A kettle boils. Boiled?", ["kettle", "boils", "Boiled"]),
        ("the cafe", "the Café", ["Café"]),
        ("C++ code", "In C++, not in Ccode", ["C++"]),
        ("東京都", "大東京都市", ["東京都"]),
        ("the of", "the cup of tea", ["the", "of"]),
        ("?!", "What?!", []),
        ("i̇stanbul", "İSTANBUL, Istanbul", ["İSTANBUL", "Istanbul"]),
    ],
)
def test_words_are_marked_as_a_search_by_words_reads_them(query: str, text: str, expected: list[str]) -> None:
    assert [text[mark.start : mark.end] for mark in marks.of_words(query, text)] == expected


def test_a_snippet_shows_the_part_with_most_of_the_words() -> None:
    text = "nothing here " * 100 + "the red kettle whistles " + "nothing more " * 100
    found = marks.snippet_of_words("red kettle", text, 0, len(text), 120)
    assert "red kettle whistles" in found.text
    assert (found.cut_before, found.cut_after) == (True, True)
    assert len(found.text) <= 120
    assert text[found.start : found.end] == found.text


# The command


def serve(*words: str, program: str | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edgecolbert"] if program is None else [sys.executable, "-c", program]
    return subprocess.Popen(
        [*command, "serve", *words, "--no-browser"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_its_address_and_stops_cleanly(database: Path, number: signal.Signals) -> None:
    with serve("--db", str(database)) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        url = next(line.strip() for line in lines if line.strip().startswith("http"))
        address, _, token = url.partition("?token=")
        port = int(address.rstrip("/").rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/api/search?query=slugs", headers={"Authorization": f"Bearer {token}"})
        assert json.loads(connection.getresponse().read())["hits"][0]["id"] == "slugs.md"
        # With a connection still open.
        process.send_signal(number)
        out, error = process.communicate(timeout=60)
        connection.close()
    assert (process.returncode, error) == (0, "")
    assert out.endswith("Stopped.\n")
    # Nothing stays behind, not even in the port.
    with SearchServer(database, port=port) as server:
        assert ask(server, "/api/info").status == 200


def test_answers_are_sent_at_once() -> None:
    # asyncio switches Nagle's algorithm off only for a socket that says it is TCP; with it, answers wait 40 ms.
    with _listening(0) as listening:
        assert listening.proto == socket.IPPROTO_TCP


def test_a_port_that_is_taken_is_a_clear_error(database: Path, server: SearchServer) -> None:
    with serve("--db", str(database), "--port", str(server.access.port)) as process:
        out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert f"Port {server.access.port} of 127.0.0.1 cannot be used" in error
    assert "--port 0" in error
    for port in (-1, 65_536, True):
        with pytest.raises(InputError, match="expected a whole number from 0 to 65535"):
            SearchServer(database, port=port)


def test_only_the_loopback_address_listens(server: SearchServer) -> None:
    assert server._socket.getsockname()[0] == "127.0.0.1"


def test_what_is_missing_is_one_line(tmp_path: Path, database: Path) -> None:
    with serve("--db", str(tmp_path / "none.db")) as process:
        out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error.count("\n")) == (1, "", 1)
    assert "none.db" in error
    for package in ("starlette", "uvicorn"):
        program = f"import sys; sys.modules[{package!r}] = None; from edgecolbert.cli import main; sys.exit(main())"
        with serve("--db", str(database), program=program) as process:
            out, error = process.communicate(timeout=60)
        assert (process.returncode, out, error.count("\n")) == (1, "", 1)
        assert "pip install 'edgecolbert[serve]'" in error


def test_a_server_of_an_application_leaves_no_thread_behind(database: Path) -> None:
    before = set(threading.enumerate())
    with SearchServer(database) as server:
        assert ask(server, "/api/search", query="slugs").status == 200
    assert {thread.name for thread in set(threading.enumerate()) - before} == set()


def test_the_pages_files_name_no_other_host() -> None:
    folder = Path(application.__file__).parent / "static"
    assert {path.name for path in folder.iterdir()} == {"index.html", *application._STATIC}
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "//" not in "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("//")).replace(
            "; // the next one is under way", ""
        ), path
        assert "innerHTML" not in text
        assert " style=" not in text
