"""Every example runs and says what it should, every runnable docstring says the truth, the README's commands exist."""

from __future__ import annotations

import doctest
import http.client
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_public_surface import MODULES

from edgecolbert.cli import COMMANDS

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
HANDBOOK = EXAMPLES / "handbook"
SERVICE = EXAMPLES / "raspberry_pi" / "notes_service.py"
# What an example is given here; it writes into the folder that it runs in.
OPTIONS = {"board_kit.py": ["--quick"]}
# What its output must have, in this order.
SAYS = {
    "board_kit.py": [r"^\| .*\| yes \("],
    "code_search.py": [
        r"^\d+ symbols, \d+ encoded$",
        r"^raw_decode\n  decoder\.py:\d+  method JSONDecoder\.raw_decode$",
        r"^what happens with trailing data.*\n  decoder\.py:\d+  method JSONDecoder\.(raw_)?decode$",
    ],
    "laptop_search.py": [
        r"^40 new, 0 changed, 0 as before, 0 gone$",
        r"^water keeps dripping at night\n  dripping-tap\.md: .*\*\*dripping\*\*",
        r"^my loaf is heavy\n  bread-dense\.md: .*\*\*loaf\*\*",
        # Words between double quotes have to be there, and are in this note only.
        r'^"stop valve"\n  dripping-tap\.md: .*\n\Z',
    ],
    "note_sync.py": [
        r"^  phone: 10 new names, 0 changed, 0 names gone, 10 texts encoded$",
        r"^  renamed on laptop: bread-dense\.md -> kitchen/heavy loaf\.md$",
        r"^  deleted on phone: bicycle-chain\.md$",
        # A renamed note and a new one; only the new one is encoded.
        r"^  laptop: 2 new names, 0 changed, 2 names gone, 1 texts encoded$",
        r"^  the laptop finds: keys\.md$",
        r"^  the phone finds: kitchen/heavy loaf\.md$",
        r"^  changed on both, both kept: keys\.md and keys \(conflict, phone, \w{8}\)\.md$",
        r"^  the laptop finds: keys \(conflict, phone, \w{8}\)\.md$",
        r"^  the phone finds: keys\.md$",
        r"^nothing changed\n  laptop: 0 new names, 0 changed, 0 names gone, 0 texts encoded$",
    ],
    "own_encoder.py": [r"^\d\.\d\d  The kettle is in the left cupboard\.$"],
    "rag.py": [
        r"STUB",
        r"^A: Most dense loaves are under-proofed: .* \[1\]\n   \[1\] bread-dense\.md$",
        r"^A: .* \[1\]\n   \[1\] heat-stroke\.md$",
        r"^Q: who won the chess tournament\?\nA: The notes do not say\.$",
    ],
    "search_handbook.py": [
        r"^40 notes added$",
        r"^ +\d+\.\d\d  bread-dense: ",
        r"^1 updated, 39 unchanged, 1 encoded$",
        r"^39 notes left; verify finds 0 problems$",
    ],
}


Run = Callable[..., tuple[str, str]]


@cache
def without_network() -> tuple[str, ...]:
    """What to put before a command so that it has no network at all, where this system lets us."""
    command = ("unshare", "--map-root-user", "--net")
    if shutil.which("unshare") is None:
        return ()
    return command if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0 else ()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs an example in this process, which has imported what it needs; its output and its complaints."""

    def run_example(name: str, *arguments: str) -> tuple[str, str]:
        specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert specification is not None
        assert specification.loader is not None
        example = importlib.util.module_from_spec(specification)
        monkeypatch.setitem(sys.modules, name, example)  # dataclasses look themselves up there
        specification.loader.exec_module(example)
        assert example.main(list(arguments)) == 0
        return capsys.readouterr()

    return run_example


def test_what_every_example_says_is_known_here() -> None:
    assert set(SAYS) == {path.name for path in EXAMPLES.glob("*.py")}
    # Those in folders have tests of their own, below and in test_frozen.py.
    assert {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.glob("*/*.py")} == {
        "desktop/app.py",
        "desktop/live_search.py",
        "frozen/app.py",
        "frozen/build.py",
        "raspberry_pi/notes_service.py",
    }


@pytest.mark.parametrize("example", sorted(SAYS))
def test_an_example_runs_without_a_network(example: str, tmp_path: Path) -> None:
    command = [*without_network(), sys.executable, "-W", "error", str(EXAMPLES / example), *OPTIONS.get(example, [])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    place = 0
    for expected in SAYS[example]:
        found = re.compile(expected, re.MULTILINE).search(done.stdout, place)
        assert found, f"{expected!r} is not in\n{done.stdout[place:]}"
        place = found.end()


def test_every_example_is_in_the_list_of_examples() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in EXAMPLES.iterdir():
        if path.name not in ("README.md", "__pycache__"):
            assert f"`{path.name}{'/' if path.is_dir() else ''}" in listed, path.name


def test_laptop_search_follows_the_folder(tmp_path: Path, run: Run) -> None:
    notes = tmp_path / "notes"
    (notes / "house").mkdir(parents=True)
    for name in ("dripping-tap.md", "slugs.md"):
        shutil.copy(HANDBOOK / name, notes / "house" / name)
    (notes / "keys.txt").write_text("The spare key hangs in the shed.", encoding="utf-8")

    def search(*arguments: str) -> str:
        return run("laptop_search", str(notes), *arguments)[0]

    assert "3 new, 0 changed" in search("spare key")
    assert "  house/slugs.md" not in search("key", "--mode", "lexical")
    assert "keys.txt" not in search("spare key", "--within", "house")
    (notes / "house" / "slugs.md").unlink()
    (notes / "keys.txt").write_text("The spare key is in the blue flower pot.", encoding="utf-8")
    output = search("flower pot", "-k", "1")
    assert "0 new, 1 changed, 1 as before, 1 gone" in output
    assert "  keys.txt: " in output
    # What cannot be read may still be there: nothing is forgotten.
    (notes / "house" / "dripping-tap.md").write_bytes(b"\xff\xfe\xff")
    output, complaints = run("laptop_search", str(notes), "dripping tap", "-k", "1")
    assert "0 new, 0 changed, 1 as before, 0 gone" in output
    assert "  house/dripping-tap.md: " in output
    assert "passed over" in complaints


def test_code_search_names_the_line_and_encodes_what_changed(tmp_path: Path, run: Run) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "shapes.py").write_text(
        "class Circle:\n    @property\n    def area(self):\n        return 3.14159 * self.radius ** 2\n\n"
        "    @area.setter\n    def area(self, value):\n        self.radius = (value / 3.14159) ** 0.5\n\n\n"
        "async def parse_header(line):\n    return line.split(':')\n",
        encoding="utf-8",
    )
    (code / "broken.py").write_text("def (:\n", encoding="utf-8")

    def search(question: str) -> str:
        output, complaints = run("code_search", str(code), question, "--db", str(tmp_path / "code.db"), "-k", "1")
        assert "broken.py" in complaints
        return output

    output = search("parse_header")
    assert "4 symbols, 4 encoded" in output
    assert "shapes.py:11  function parse_header" in output
    text = (code / "shapes.py").read_text(encoding="utf-8")
    (code / "shapes.py").write_text(f"import math\n\n{text}", encoding="utf-8")
    output = search("parse_header")
    assert "4 symbols, 0 encoded" in output
    assert "shapes.py:13  function parse_header" in output


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Prove it longer [1].", "   [1] bread-dense.md"),
        ("Prove it longer [7].", "cites [7], which it was not given"),
        ("Prove it longer.", "names no source"),
    ],
)
def test_the_rag_loop_asks_a_server_and_checks_its_sources(reply: str, expected: str, run: Run) -> None:
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append({"path": self.path, **json.loads(self.rfile.read(int(self.headers["Content-Length"])))})
            body = json.dumps({"choices": [{"message": {"role": "assistant", "content": reply}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            output, _ = run("rag", "why is my bread dense?", "--server", address)
        finally:
            server.shutdown()
            thread.join()
    assert f"A: {reply}" in output
    assert expected in output
    assert "STUB" not in output
    (request,) = asked
    assert request["path"] == "/v1/chat/completions"
    prompt = request["messages"][0]["content"]
    assert re.search(
        r"\[1\] Why the loaf came out dense — Most dense loaves.*Question: why is my bread", prompt, re.DOTALL
    )


def test_note_sync_loses_nothing(tmp_path: Path, run: Run) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()

    def write(folder: Path, name: str, text: str) -> None:
        (folder / name).write_text(text, encoding="utf-8")

    def contents(folder: Path) -> dict[str, str]:
        return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}

    def exchange() -> str:
        return run("note_sync", str(one), str(two))[0]

    write(one, "a.md", "apples")
    write(one, "b.md", "bread")
    write(one, "c.md", "cherries")
    write(two, "d.md", "dates")
    exchange()
    assert contents(one) == contents(two) == {"a.md": "apples", "b.md": "bread", "c.md": "cherries", "d.md": "dates"}

    (one / "a.md").unlink()  # and changed there
    write(two, "a.md", "more apples")
    (two / "b.md").unlink()
    write(one, "c.md", "sour cherries")
    write(two, "c.md", "sweet cherries")
    (two / "d.md").rename(two / "palm.md")
    output = exchange()
    assert contents(one) == contents(two)
    assert sorted(contents(one).values()) == ["dates", "more apples", "sour cherries", "sweet cherries"]
    assert contents(one)["palm.md"] == "dates"
    assert (one / ".trash" / "b.md").read_text(encoding="utf-8") == "bread"
    assert "renamed on phone: d.md -> palm.md" in output
    assert "changed on phone after laptop deleted it, kept: a.md" in output
    assert "0 texts encoded" in exchange()


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self.path))


def ask(path: Path, address: str, method: str = "GET") -> tuple[int, dict[str, Any]]:
    connection = UnixConnection(path)
    try:
        connection.request(method, address)
        reply = connection.getresponse()
        body = reply.read()
        return reply.status, json.loads(body) if reply.headers.get_content_type() == "application/json" else {}
    finally:
        connection.close()


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose name is short: a Unix socket's path has about 100 characters at most."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@contextmanager
def served(command: list[str], folder: Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_service_answers_follows_its_folder_and_ends_cleanly(short_path: Path) -> None:
    notes, path = short_path / "notes", short_path / "socket"
    shutil.copytree(HANDBOOK, notes)
    command = [*without_network(), sys.executable, "-W", "error", str(SERVICE)]
    command += ["--notes", "notes", "--db", "notes.db", "--socket", "socket", "--every", "3600"]
    with served(command, short_path) as process:
        until(lambda: path.exists() or process.poll() is not None, "the socket")
        assert path.stat().st_mode & 0o777 == 0o660
        until(lambda: ask(path, "/health") == (200, {"documents": 40}), "the notes")
        status, found = ask(path, "/search?q=water+keeps+dripping&k=2")
        assert status == 200
        assert found["hits"][0]["id"] == "dripping-tap.md"
        assert len(found["hits"]) == 2
        assert "tap" in found["hits"][0]["snippet"]
        for address in ("/search", "/search?q=+", "/search?q=a&k=0", "/search?q=a&k=51", "/search?q=a&k=x"):
            assert ask(path, address)[0] == 400, address
        assert ask(path, "/search?q=" + "a" * 1001)[0] == 400
        assert ask(path, "/etc/passwd")[0] == 404
        assert ask(path, "/search?q=a", method="POST")[0] == 501
        (notes / "keys.md").write_text("The spare key hangs in the shed.", encoding="utf-8")
        (notes / "slugs.md").unlink()
        process.send_signal(signal.SIGHUP)
        until(
            lambda: ask(path, "/search?q=where+is+the+spare+key&k=1")[1]["hits"][0]["id"] == "keys.md", "the new note"
        )
        until(lambda: ask(path, "/health")[1] == {"documents": 40}, "the note that is gone")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert errors.splitlines() == ["40 new, 0 changed, 0 gone", "1 new, 0 changed, 1 gone"]
        assert not path.exists()


def test_the_service_takes_a_socket_of_systemds_and_says_when_it_is_ready(short_path: Path) -> None:
    path, told = short_path / "socket", short_path / "notify"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        listener.bind(str(path))
        listener.listen()
        notified.bind(str(told))
        notified.settimeout(120)
        # What systemd does before it starts a service.
        passing = f'exec 3<&{listener.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
        command = ["bash", "-c", passing, "bash", sys.executable, str(SERVICE), "--notes", str(HANDBOOK)]
        command += ["--db", str(short_path / "notes.db")]
        environment = os.environ | {"NOTIFY_SOCKET": str(told)}
        with served(command, short_path, pass_fds=[listener.fileno()], env=environment) as process:
            assert notified.recv(100) == b"READY=1"
            until(lambda: ask(path, "/health")[1] == {"documents": 40}, "the notes")
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            assert process.returncode == 0
        assert path.exists()  # systemd's, for the next start


def test_the_unit_is_valid_and_exposes_little(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for suffix in ("service", "socket"):
        text = (EXAMPLES / "raspberry_pi" / f"edgecolbert-notes.{suffix}").read_text(encoding="utf-8")
        # It refuses a program that is not there.
        (tmp_path / f"edgecolbert-notes.{suffix}").write_text(
            text.replace("/opt/edgecolbert/bin/python ", f"{sys.executable} "), encoding="utf-8"
        )
    units = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "edgecolbert-notes" not in done.stderr  # a setting that is not known is only a warning
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=10", units[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd cannot look at a unit that is not loaded")
    assert done.returncode == 0, done.stdout[-200:]  # above 1.0 of 10


@pytest.fixture
def desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES / "desktop"))


@pytest.mark.usefixtures("desktop")
def test_the_desktop_search_answers_the_newest_question() -> None:
    live_search = importlib.import_module("live_search")
    answers: list[Any] = []
    search = live_search.LiveSearch(HANDBOOK, ":memory:", answers.append)
    # Asked while the notes are still read: only the last one is worth an answer.
    for question in ("w", "wa", "water keeps dripping"):
        search.ask(question)
    search.start()
    with closing(search):
        until(lambda: bool(answers) and answers[-1].question != "", "an answer")
        found = answers[-1]
        assert found.hits[0].id == "dripping-tap.md"
        pieces = found.shown[0]
        assert {"dripping", "water"} <= {text for text, marked in pieces if marked}
        # Another thread than the one that owns the index, as a window's.
        assert "".join(text for text, _ in pieces) == found.hits[0].snippet(240).text.replace("\n", " ")
    assert [answer.question for answer in answers if answer.question] == ["water keeps dripping"]


@pytest.mark.usefixtures("desktop")
def test_the_desktop_search_says_what_is_wrong(tmp_path: Path) -> None:
    live_search = importlib.import_module("live_search")
    (tmp_path / "notes.db").write_text("no database at all, but longer than a header" * 100, encoding="utf-8")
    answers: list[Any] = []
    search = live_search.LiveSearch(HANDBOOK, tmp_path / "notes.db", answers.append)
    search.start()
    search.close()
    assert "notes.db" in answers[-1].message


@pytest.fixture
def display() -> Iterator[str]:
    """A screen that nobody sees."""
    if shutil.which("Xvfb") is None:
        pytest.skip("the window needs a screen, and Xvfb is not installed (apt install xvfb)")
    reader, writer = os.pipe()
    command = ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1000x700x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=[writer], stderr=subprocess.DEVNULL) as process:
        os.close(writer)
        with os.fdopen(reader) as numbers:
            number = numbers.readline().strip()
        try:
            assert number, "Xvfb did not start"
            yield f":{number}"
        finally:
            process.terminate()


@pytest.mark.usefixtures("desktop")
def test_the_desktop_window_is_used_by_keyboard(display: str) -> None:
    tkinter = pytest.importorskip("tkinter", reason="this Python was built without tkinter")
    app = importlib.import_module("app")
    root = tkinter.Tk(screenName=display)
    window = app.Window(root, HANDBOOK, ":memory:")
    # A thread that goes on would keep the tests from ending.
    with closing(window.search):
        use_by_keyboard(root, window)
    with pytest.raises(tkinter.TclError):
        root.winfo_exists()


def use_by_keyboard(root: Any, window: Any) -> None:
    """Types, goes through the hits, opens a note, and leaves."""

    def wait(condition: Callable[[], bool], what: str) -> None:
        def updated() -> bool:
            root.update()
            return condition()

        until(updated, what)

    def press(*keys: str) -> None:
        for key in keys:
            window.entry.event_generate("<KeyPress>", keysym=key)
            root.update()

    def marked() -> set[str]:
        places = [str(place) for place in window.page.tag_ranges("match")]
        return {window.page.get(*pair) for pair in zip(places[::2], places[1::2], strict=True)}

    wait(lambda: window.status.get() == "40 notes", "the notes")
    window.entry.focus_force()
    press(*("space" if character == " " else character for character in "water keeps dripping"))
    wait(lambda: window.answer.question == "water keeps dripping", "the answer")
    first, second = window.answer.hits[:2]
    assert first.id == "dripping-tap.md"
    assert window.page.get("1.0", "1.end") == "dripping-tap.md"
    assert {"dripping", "water"} <= marked()
    assert window.status.get() == "20 of 40 notes"

    press("Down", "Down", "Up")
    assert window.selected == 1
    assert window.page.get(*map(str, window.page.tag_ranges("selected"))).startswith(second.id)
    press("Up", "Up", "Return")  # not above the first
    assert window.opened
    assert window.page.get("1.0", "end-1c") == first.text
    assert "dripping" in marked()
    press("Escape")
    assert window.page.get("1.0", "1.end") == "dripping-tap.md"
    press("Escape")
    assert window.question.get() == ""
    wait(lambda: window.answer.question == "" and not window.answer.hits, "an empty page")
    assert window.page.get("1.0", "end-1c") == ""
    press("Escape")  # out


def test_examples_in_docstrings_are_true() -> None:
    attempted = 0
    for name in MODULES:
        result = doctest.testmod(import_module(name), extraglobs={"np": np})
        assert result.failed == 0, name
        attempted += result.attempted
    assert attempted > 5


def test_every_command_in_the_readme_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"^(?:\$ )?edgecolbert (\w+)", readme, flags=re.MULTILINE))
    assert {"index", "search"} <= commands <= set(COMMANDS)
