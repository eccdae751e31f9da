"""A small search service for a Raspberry Pi or any Linux machine: HTTP on a Unix socket, nothing on the network.

Try it by hand, in two terminals:

    python examples/raspberry_pi/notes_service.py --notes examples/handbook --db notes.db --socket notes.sock
    curl --unix-socket notes.sock 'http://localhost/search?q=water+keeps+dripping&k=3'

Install it as a service that starts with the first question and cannot touch anything but its own database:

    sudo python3 -m venv /opt/edgecolbert && sudo /opt/edgecolbert/bin/pip install edgecolbert
    sudo install -m 644 examples/raspberry_pi/notes_service.py /opt/edgecolbert/
    sudo install -m 644 examples/raspberry_pi/edgecolbert-notes.* /etc/systemd/system/
    sudo mkdir -p /srv/notes                                     (and put notes there, readable by everyone)
    sudo systemctl daemon-reload && sudo systemctl enable --now edgecolbert-notes.socket
    curl --unix-socket /run/edgecolbert-notes.sock 'http://localhost/search?q=water+keeps+dripping'
    sudo systemctl reload edgecolbert-notes                      (reads the notes again, as it does every minute)

Who may ask is who may open the socket: the group in edgecolbert-notes.socket. It needs nothing beside edgecolbert.
The unit was checked by `systemd-analyze`, and the service by its test; neither was run on a board yet.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import socketserver
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from edgecolbert import EdgeColbertError, Index

SUFFIXES = {".md", ".txt"}
MOST_HITS, LONGEST_QUESTION = 50, 1_000
# systemd passes sockets from this descriptor on (sd_listen_fds).
FIRST_SOCKET = 3


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Answer searches over a Unix socket.")
    parser.add_argument("--notes", type=Path, required=True, help="folder of .md and .txt files, only read")
    parser.add_argument("--db", type=Path, required=True, help="the database")
    parser.add_argument("--socket", type=Path, help="make this socket; not needed where systemd passes one")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two looks at the folder (60)")
    options = parser.parse_args(arguments)

    wake, stop = threading.Event(), threading.Event()
    with Index.open(options.db) as index, listening(options.socket) as listener, Server(listener, index) as server:

        def ended(*_: object) -> None:
            stop.set()
            wake.set()
            # Not from this thread, which is the one that serves.
            threading.Thread(target=server.shutdown).start()

        signal.signal(signal.SIGTERM, ended)
        signal.signal(signal.SIGINT, ended)
        signal.signal(signal.SIGHUP, lambda *_: wake.set())
        index.encode_queries([])  # loads the model: the first question should not wait for it
        reader = threading.Thread(target=keep_reading, args=(index, options.notes, options.every, wake, stop))
        reader.start()
        tell_systemd("READY=1")
        server.serve_forever()
        reader.join()
    # A socket of systemd's stays, for the next start.
    if options.socket and "LISTEN_FDS" not in os.environ:
        options.socket.unlink(missing_ok=True)
    return 0


def keep_reading(index: Index, folder: Path, every: float, wake: threading.Event, stop: threading.Event) -> None:
    """Bring the index up to date with the folder, now, every so many seconds, and on SIGHUP."""
    while not stop.is_set():
        wake.clear()
        try:
            read_notes(index, folder, stop)
        except (OSError, EdgeColbertError) as error:
            # A folder that is not mounted, a full disk: go on answering with what there is.
            if stop.is_set():
                return
            print(f"{folder} was not read: {error}", file=sys.stderr, flush=True)
        wake.wait(every)


def read_notes(index: Index, folder: Path, stop: threading.Event) -> None:
    """Read the folder once. Unchanged notes cost a comparison, and none of the searches waits for encoding."""
    records, unread = [], 0
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        try:
            record = {"id": path.relative_to(folder).as_posix(), "text": path.read_text(encoding="utf-8")}
        except (OSError, UnicodeDecodeError) as error:
            print(f"passed over {path}: {error}", file=sys.stderr, flush=True)
            unread += 1
        else:
            records.append(record)
    # An iterator, which is stored batch by batch: a service that is stopped goes on there at its next start.
    report = index.add_from(str(folder), iter(records), progress=lambda *_: not stop.is_set())
    # An empty folder is more likely a disk that is not mounted than a person who threw everything away.
    gone = index.prune(str(folder), report.ids) if records and not unread else 0
    if report.added or report.updated or gone:
        print(f"{report.added} new, {report.updated} changed, {gone} gone", file=sys.stderr, flush=True)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers each connection in a thread of its own; `Index` may be used from several."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, index: Index) -> None:
        super().__init__("", Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.index = index


class Handler(BaseHTTPRequestHandler):
    """GET /search?q=...&k=... and GET /health; everything else is refused."""

    server: Server
    timeout = 10  # seconds that a silent client may hold a thread

    def do_GET(self) -> None:
        """Answer a request."""
        address = urlsplit(self.path)
        if address.path == "/health":
            self.answer(HTTPStatus.OK, {"documents": len(self.server.index)})
        elif address.path == "/search":
            self.search(parse_qs(address.query))
        else:
            self.answer(HTTPStatus.NOT_FOUND, {"error": "there are /search?q=QUESTION&k=10 and /health"})

    def search(self, given: dict[str, list[str]]) -> None:
        """Search, once what was asked is in bounds."""
        question, k = given.get("q", [""])[-1].strip(), given.get("k", ["10"])[-1]
        if not question or len(question) > LONGEST_QUESTION:
            message = f"q has {len(question)} characters, expected 1 to {LONGEST_QUESTION}"
            self.answer(HTTPStatus.BAD_REQUEST, {"error": message})
            return
        if not k.isascii() or not k.isdigit() or not 1 <= int(k[:9]) <= MOST_HITS:
            self.answer(HTTPStatus.BAD_REQUEST, {"error": f"k is {k[:20]!r}, expected 1 to {MOST_HITS}"})
            return
        try:
            found = self.server.index.search(question, k=int(k), mode="hybrid")
            hits = [{"id": hit.id, "score": hit.score, "snippet": hit.snippet().text} for hit in found]
        except EdgeColbertError as error:
            self.answer(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": str(error)})
            return
        self.answer(HTTPStatus.OK, {"query": question, "hits": hits})

    def answer(self, status: HTTPStatus, content: dict[str, object]) -> None:
        """Send JSON."""
        body = json.dumps(content, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """What people search for does not belong into a journal."""

    def address_string(self) -> str:
        """Who asks; a client of a Unix socket has no address."""
        return "socket"


def listening(path: Path | None) -> socket.socket:
    """The socket that systemd passed, or a new one at a path, for this user and group only."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
        return socket.socket(fileno=FIRST_SOCKET)
    if path is None:
        raise SystemExit("notes_service: name a socket with --socket, or start it through edgecolbert-notes.socket")
    if path.is_socket():
        # Left over from a run that was killed, unless somebody answers there.
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise SystemExit(f"notes_service: somebody is listening at {path} already")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o117)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(16)
    return listener


def tell_systemd(state: str) -> None:
    """Tell systemd that the service is ready, where systemd started it (sd_notify)."""
    place = os.environ.get("NOTIFY_SOCKET")
    if place:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(state.encode(), "\0" + place[1:] if place.startswith("@") else place)


if __name__ == "__main__":
    sys.exit(main())
