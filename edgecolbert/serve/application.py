"""The routes: the page, its files, and the API. The only module that knows Starlette."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

from edgecolbert.errors import EdgeColbertError, InputError, MissingExtraError, StoreLockedError
from edgecolbert.serve.answers import Answers, GoneError
from edgecolbert.serve.guard import NO_WAY_OUT, Access, Application, Guard
from edgecolbert.serve.openapi import description

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    Handler = Callable[[Request], Awaitable[Response]]

# Requests that are worked on at a time, and how many of them may be searches; others wait, and are dropped where their
# page has moved on meanwhile.
WORKERS, SEARCHES = 4, 2

_STATIC = {
    "app.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "scheme.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
# The client has gone; nobody reads this answer.
_GONE = 499


def application(answers: Answers, access: Access, pool: ThreadPoolExecutor) -> Application:
    """The whole app as an ASGI application.

    Args:
        answers: What can be asked.
        access: How it is reached.
        pool: Threads to work in, `WORKERS` of them.

    Returns:
        The application, guarded.

    Raises:
        MissingExtraError: If Starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.routing import Route
    except ImportError as error:
        raise missing() from error

    handlers = _Handlers(answers, access, pool)
    counting = handlers.counting
    routes = [
        Route("/", _static("index.html", "text/html; charset=utf-8")),
        *(Route(f"/static/{name}", _static(name, kind)) for name, kind in _STATIC.items()),
        # What a browser asks for where a page names no icon, as the heat map does.
        Route("/favicon.ico", _static("icon.svg", _STATIC["icon.svg"])),
        Route("/why", handlers.why),
        Route("/openapi.json", handlers.openapi),
        Route("/api/info", counting(answers.info)),
        Route("/api/search", handlers.search),
        Route("/api/documents", counting(answers.documents)),
        Route("/api/documents/{id:path}", handlers.document),
        Route("/api/fields", counting(answers.fields)),
        Route("/api/facets", counting(answers.facets)),
        Route("/api/folders", counting(answers.folders)),
    ]
    errors: dict[Any, Any] = dict.fromkeys((HTTPException, EdgeColbertError, GoneError), _refused)
    return Guard(cast(Application, Starlette(routes=routes, exception_handlers=errors)), access)


class _Handlers:
    """From requests to answers: in threads, not too many at a time, and only as long as somebody waits."""

    def __init__(self, answers: Answers, access: Access, pool: ThreadPoolExecutor) -> None:
        self._answers, self._access, self._pool = answers, access, pool
        # Apart, so that no search waits for counts.
        self._searches, self._counts = asyncio.Semaphore(SEARCHES), asyncio.Semaphore(WORKERS - SEARCHES)

    async def search(self, request: Request) -> Response:
        return _json(await self._worked(request, self._searches, partial(self._answers.search, _given(request))))

    async def document(self, request: Request) -> Response:
        identifier, given = request.path_params["id"], _given(request)
        found = await self._worked(request, self._searches, lambda _: self._answers.document(identifier, given))
        if found is None:
            return _error(404, "not found", f"There is no document {identifier[:200]!r}.")
        return _json(found)

    async def why(self, request: Request) -> Response:
        from starlette.responses import HTMLResponse

        given = _given(request)
        page = await self._worked(request, self._searches, lambda _: self._answers.why(given))
        # Its style stands in the page, so that it can be kept as one file; the policy names exactly that style.
        style = page.partition("<style>")[2].partition("</style>")[0]
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        policy = f"default-src 'none'; style-src 'sha256-{digest}'; {NO_WAY_OUT}"
        return HTMLResponse(page, headers={"content-security-policy": policy})

    async def openapi(self, _: Request) -> Response:
        return _json(description(self._access.url))

    def counting(self, work: Callable[[list[tuple[str, str]]], Any]) -> Handler:
        async def answer(request: Request) -> Response:
            given = _given(request)
            return _json(await self._worked(request, self._counts, lambda _: work(given)))

        return answer

    async def _worked(
        self, request: Request, slots: asyncio.Semaphore, work: Callable[[Callable[[], bool]], Any]
    ) -> Any:
        gone = threading.Event()
        watching = asyncio.create_task(_watch(request, gone))
        try:
            async with slots:
                # Whoever types has sent the next query before this one's turn came.
                if gone.is_set():
                    raise GoneError
                return await asyncio.get_running_loop().run_in_executor(self._pool, work, gone.is_set)
        finally:
            watching.cancel()


def _static(name: str, kind: str) -> Handler:
    from starlette.responses import Response

    content = (files("edgecolbert.serve") / "static" / name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


async def _refused(request: Request, error: Exception) -> Response:
    from starlette.exceptions import HTTPException
    from starlette.responses import PlainTextResponse

    if isinstance(error, HTTPException):
        status, kind, message = error.status_code, "not found", "There is nothing at this address."
        if status != 404:
            kind, message = "refused", error.detail
    elif isinstance(error, GoneError):
        status, kind, message = _GONE, "gone", "Nobody waits for this."
    else:
        kind, message = type(error).__name__, str(error)
        status = 400 if isinstance(error, InputError) else 503 if isinstance(error, StoreLockedError) else 500
    if request.url.path.startswith("/api/"):
        return _error(status, kind, message)
    return PlainTextResponse(message, status_code=status)


def _given(request: Request) -> list[tuple[str, str]]:
    return request.query_params.multi_items()


def _json(found: Any, status: int = 200) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(found, status_code=status)


def _error(status: int, kind: str, message: str) -> Response:
    return _json({"error": {"kind": kind, "message": message}}, status)


async def _watch(request: Request, gone: threading.Event) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    gone.set()


def missing() -> MissingExtraError:
    """The error for an installation without the extra."""
    return MissingExtraError.of("The search page", "starlette or uvicorn", "serve")
