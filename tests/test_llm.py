"""The plugin of `llm`, through llm's real command line. Only the language model is a stub: tests are offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgecolbert import Index, InputError, MissingExtraError
from edgecolbert.errors import StoreNotFoundError
from edgecolbert.integrations.llm import load_fragments, read_argument

pytest.importorskip("llm")

RECORDS: list[dict[str, Any]] = [
    {"id": "notes/kettle", "text": "The kettle is in the left cupboard.", "metadata": {"year": 2021}},
    {"id": "boiler", "text": "Bleed the radiators first. Then call.", "metadata": {"year": 2024}},
    {"id": "bins", "text": "The bins go out on Tuesday.", "metadata": {"year": 2024}},
]

# A STUB OF A LANGUAGE MODEL, for tests only: it thinks nothing. It repeats what it was given, and calls the tools that
# its prompt says, as `TOOL name {arguments}`.
STUB = """
import json
import llm

class Stub(llm.Model):
    model_id = "stub-that-repeats"
    supports_tools = True

    def execute(self, prompt, stream, response, conversation):
        if prompt.tool_results:
            yield json.dumps([[result.name, result.output] for result in prompt.tool_results])
        elif prompt.prompt.startswith("TOOL "):
            _, name, arguments = prompt.prompt.split(" ", 2)
            response.add_tool_call(llm.ToolCall(name=name, arguments=json.loads(arguments), tool_call_id="1"))
        else:
            yield prompt.prompt

@llm.hookimpl
def register_models(register):
    register(Stub())
"""


class Shell:
    """Runs the real `llm` in a process of its own, with the stub installed beside it."""

    def __init__(self, folder: Path) -> None:
        (folder / "stub_that_repeats.py").write_text(STUB, encoding="utf-8")
        package = folder / "stub_that_repeats-0.dist-info"
        package.mkdir()
        (package / "METADATA").write_text("Metadata-Version: 2.1\nName: stub-that-repeats\nVersion: 0\n")
        (package / "entry_points.txt").write_text("[llm]\nstub = stub_that_repeats\n")
        python_path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        self._environment = os.environ | {"PYTHONPATH": python_path, "LLM_USER_PATH": str(folder / "user")}
        self.folder = folder

    def __call__(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "llm", *words],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done
        return done.stdout if code == 0 else done.stderr

    def ask(self, *words: str) -> str:
        return self("-m", "stub-that-repeats", *words)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = tmp_path / "notes.db"
    with Index.open(path) as index:
        index.add(RECORDS)
    return path


def test_llm_finds_the_plugin_and_puts_passages_before_a_model(db: Path, shell: Shell) -> None:
    (plugin,) = [plugin for plugin in json.loads(shell("plugins")) if plugin["name"] == "edgecolbert"]
    assert plugin["hooks"] == ["register_commands", "register_fragment_loaders", "register_tools"]

    answer = shell.ask("-f", "edgecolbert:notes.db?k=1:where is the kettle?", "Answer from the notes.")
    assert "Document notes/kettle, characters 0 to 35:\n\nThe kettle is in the left cupboard." in answer
    assert "Answer from the notes." in answer
    assert "radiators" not in answer
    assert "source: edgecolbert:notes.db#notes/kettle:0-35" in shell("fragments", "list")


def test_a_fragment_that_cannot_be_had_stops_llm_before_it_asks_the_model(db: Path, shell: Shell) -> None:
    ask = ["-m", "stub-that-repeats"]
    assert "No part of 'nothing.db:kettle'" in shell(*ask, "-f", "edgecolbert:nothing.db:kettle", code=1)
    assert "Nothing in notes.db matches 'kettle' among the documents with year > 3000." in shell(
        *ask, "-f", "edgecolbert:notes.db?filter=year > 3000:kettle", code=1
    )


def test_a_model_searches_and_reads_with_the_toolbox(db: Path, shell: Shell) -> None:
    tools = ["-T", f"EdgeColBERT({json.dumps(str(db))})"]
    answer = shell.ask(*tools, 'TOOL EdgeColBERT_search {"query": "kettle", "k": 1, "filter": "year < 2022"}')
    ((name, output),) = json.loads(answer)
    assert name == "EdgeColBERT_search"
    assert [hit["id"] for hit in json.loads(output)["hits"]] == ["notes/kettle"]
    ((_, output),) = json.loads(shell.ask(*tools, 'TOOL EdgeColBERT_get_document {"id": "boiler", "end": 5}'))
    assert json.loads(output)["text"] == "Bleed"
    ((_, output),) = json.loads(shell.ask(*tools, 'TOOL EdgeColBERT_search {"query": "kettle", "k": 99}'))
    assert output == "Error: k is 99, expected 1 to 50."
    assert sorted(file.name for file in db.parent.glob("notes.db*")) == ["notes.db"]


def test_the_toolbox_describes_itself_and_refuses_a_wrong_path(db: Path, shell: Shell) -> None:
    listed = shell("tools", "list", f"EdgeColBERT({json.dumps(str(db))})")
    for name in ("search", "get_document", "facets", "info"):
        assert f"EdgeColBERT_{name}(" in listed
    assert "Find the documents that match a query best" in listed
    wrong = shell("-m", "stub-that-repeats", "-T", 'EdgeColBERT("nothing.db")', "hello", code=1)
    assert "There is no database at nothing.db" in wrong


def test_the_command_prints_what_a_fragment_would_hold(db: Path, shell: Shell) -> None:
    printed = shell("edgecolbert", "search", "notes.db", "bins", "-k", "2", "--filter", "year = 2024", "--mode", "late")
    assert printed.startswith("Document bins, characters 0 to 27:\n\nThe bins go out on Tuesday.\n")
    assert "Document boiler" in printed
    wrong = shell("edgecolbert", "search", "nothing.db", "bins", code=1)
    assert wrong == "Error: There is no database at nothing.db. Check the path, or index something into it first.\n"


def test_where_the_path_ends_is_settled_by_the_file_that_is_there(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(db.parent)
    monkeypatch.setenv("HOME", str(db.parent))
    found = read_argument("notes.db:who: the cook?")
    assert (found.db, found.query, found.k, found.mode) == (Path("notes.db"), "who: the cook?", 5, "hybrid")
    found = read_argument("notes.db?k=2&whole=1&filter=year>2020&mode=late:10:30 at the tap")
    assert (found.query, found.k, found.whole, found.mode) == ("10:30 at the tap", 2, True, "late")
    assert found.filter == "year>2020"
    assert read_argument("~/notes.db:x").db == db
    assert read_argument(f"{db}:x").db == db
    if os.name != "nt":
        odd = db.with_name("a?k=1:b.db")
        odd.write_bytes(db.read_bytes())
        found = read_argument("a?k=1:b.db?k=3:x")
        assert (found.db.name, found.k, found.query) == (odd.name, 3, "x")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("notes.db", "There is no query behind notes.db"),
        ("notes.db:  ", "There is no query behind notes.db"),
        ("notes.db?k=two:x", "k is 'two', expected a whole number"),
        ("notes.db?k=51:x", "k is 51, expected 1 to 50"),
        ("notes.db?whole=yes:x", "whole is 'yes', expected 0 or 1"),
        ("notes.db?size=3:x", "no option 'size'; there are k, mode, filter, whole, key_env, key_file"),
        ("notes.db?k:x", "not of the form NAME=VALUE"),
        ("notes.db?mode=best:x", "mode is 'best'"),
        ("notes.db?key_env=A&key_file=b:x", "both name a key"),
        ("notes.db?filter=year >>:x", "filter: found '>'"),
    ],
)
def test_an_argument_that_cannot_be_read_is_explained(
    db: Path, monkeypatch: pytest.MonkeyPatch, argument: str, message: str
) -> None:
    monkeypatch.chdir(db.parent)
    with pytest.raises(InputError) as raised:
        load_fragments(argument)
    assert message in str(raised.value)
    with pytest.raises(StoreNotFoundError, match="No part of 'other"):
        load_fragments("other.db:x")


def test_whole_documents_on_request(db: Path) -> None:
    text = " ".join(f"Sentence {number} is about the weather in May." for number in range(200))
    with Index.open(db) as index:
        index.add([{"id": "long", "text": text}])
    (part,) = load_fragments(f"{db}?k=1:weather in May")
    (whole,) = load_fragments(f"{db}?k=1&whole=1:weather in May")
    assert len(part) < len(whole) / 2
    assert text in whole
    assert whole.source == f"edgecolbert:{db}#long:0-{len(text)}"


def test_an_encrypted_database_is_read_with_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sqlcipher3")
    path = tmp_path / "diary.db"
    with Index.open(path, key="a" * 64) as index:
        index.add(RECORDS)
    monkeypatch.setenv("DIARY_KEY", "a" * 64)
    (found,) = load_fragments(f"{path}?k=1&key_env=DIARY_KEY:kettle")
    assert "left cupboard" in found


def test_without_the_package_the_extra_is_named(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgecolbert\[llm\]'"):
        load_fragments(f"{db}:kettle")


def test_importing_the_doors_imports_no_package_of_theirs() -> None:
    program = (
        "import sys, edgecolbert.aio\n"
        "from edgecolbert.integrations import assistant, datasette, llm, mcp\n"
        "tops = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*sorted(tops & {'click', 'datasette', 'llm', 'mcp', 'pydantic', 'onnxruntime', 'sqlite_utils'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
