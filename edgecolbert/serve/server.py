"""Listening on the loopback address, and stopping in good order."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, cast

from edgecolbert.encryption import Key, KeySource
from edgecolbert.errors import InputError
from edgecolbert.pinning import Model
from edgecolbert.serve.answers import Answers
from edgecolbert.serve.application import WORKERS, application, missing
from edgecolbert.serve.database import Database
from edgecolbert.serve.guard import Access

if TYPE_CHECKING:
    import uvicorn

# The only address that is ever listened on.
LOOPBACK = "127.0.0.1"
# Connections at a time, more than any browser opens; further ones are told to come back.
_CONNECTIONS = 128
# Bytes of a request's head. h11 refuses a longer one before anybody reads it.
_HEAD_BYTES = 65_536
# Seconds that running requests have to end when the server stops, and that an idle connection stays open.
_LAST_SECONDS, _IDLE_SECONDS = 3, 15


class SearchServer:
    """A search page and API over one database, on this machine only and only to read.

    `run` serves until a signal comes; `start` and `close` (or a context manager) serve in a thread of an application.

    Args:
        path: The database file.
        port: Where to listen; 0 for any port that is free.
        model: As `Index.open` takes it.
        key: As `Index.open` takes it.

    Raises:
        MissingExtraError: If the extra edgecolbert[serve] is not installed.
        InputError: If the port is taken, or is none.
        StoreError: If the database cannot be used.
        ModelError: If the model is wrong; where it is missing, words can be searched for all the same.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        port: int = 0,
        model: Model = None,
        key: KeySource | Key | None = None,
    ) -> None:
        _check_extra()
        self._thread: threading.Thread | None = None
        with contextlib.ExitStack() as opened:
            self._socket = opened.enter_context(_listening(port))
            databases = [Database(path, model=model, key=key) for _ in range(2)]
            for database in databases:
                opened.callback(database.close)
            self.answers = Answers(*databases)
            self.access = Access(self._socket.getsockname()[1])
            self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="edgecolbert-serve")
            opened.callback(self._pool.shutdown, wait=True, cancel_futures=True)
            self._opened = opened.pop_all()
        self._server = _server(application(self.answers, self.access, self._pool))

    @property
    def url(self) -> str:
        """The address to open, with the token."""
        return self.access.url_with_token

    def run(self) -> None:
        """Serve until Ctrl-C or SIGTERM, and close."""
        with self._opened, _stopping(self._server):
            self._server.run(sockets=[self._socket])

    def start(self) -> None:
        """Serve in a thread."""
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="edgecolbert-serve", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving: running requests get some seconds, then everything is closed."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()
        self._opened.close()

    def __enter__(self) -> SearchServer:
        """The server, started."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop serving."""
        self.close()


def _check_extra() -> None:
    try:
        import starlette
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise missing() from error
    del starlette


def _listening(port: int) -> socket.socket:
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535:
        raise InputError(f"port is {port!r}, expected a whole number from 0 to 65535; 0 takes any that is free.")
    # With its protocol named: asyncio sends at once (TCP_NODELAY) only where it can tell that the socket is TCP, and
    # otherwise every answer waits 40 ms for an acknowledgement.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform == "win32":
            # There, another program could otherwise listen on the same port and get our requests.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            # Not two servers on one port, but a new one right after the last.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((LOOPBACK, port))
        # From here on a browser's connection waits instead of being refused.
        listening.listen(_CONNECTIONS)
    except OSError as error:
        listening.close()
        raise InputError(
            f"Port {port} of {LOOPBACK} cannot be used: {error.strerror or error}. Another program may have it. Give "
            "another --port, or --port 0 for any that is free."
        ) from error
    return listening


def _server(app: object) -> uvicorn.Server:
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            # Each library writes the type of an ASGI application in its own way.
            cast(Any, app),
            # The one whose limits we set; what is not in use is off.
            http="h11",
            h11_max_incomplete_event_size=_HEAD_BYTES,
            ws="none",
            lifespan="off",
            interface="asgi3",
            loop="asyncio",
            # Nothing of what is searched for is written anywhere, and no logging of the application is set up.
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=_LAST_SECONDS,
        )
    )


@contextlib.contextmanager
def _stopping(server: uvicorn.Server) -> Iterator[None]:
    """Signals end the server and nothing else: uvicorn raises them once more when it has stopped."""

    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
