"""Who may ask, and what an answer may do in a browser: checked before anything else sees a request."""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from html import escape
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from edgecolbert.serve.parameters import TARGET_BYTES

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Nothing is loaded from elsewhere, no script and no style stands in the page itself, and no text becomes HTML.
NO_WAY_OUT = (
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
POLICY = f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; {NO_WAY_OUT}"
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    # What was searched for is not to stay in the browser's files.
    "cache-control": "no-store",
}
_METHODS = ("GET", "HEAD")
_FORBIDDEN = "This address serves only its own page on this machine."
_WELCOME = (
    '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<meta http-equiv="refresh" content="0; url=/">\n'
    '<title>edgecolbert</title>\n<p><a href="/">Open the search page</a></p>\n</html>\n'
)


@dataclass(frozen=True)
class Access:
    """How one run of the server is reached.

    Attributes:
        port: Its port.
        token: Has to be in the first address that is opened, or in the header `Authorization: Bearer TOKEN`.
        ticket: Stands for the token once, in the address that a browser is started with: every user of the machine can
            read that in the list of processes.
        cookie: What the browser gets for the token. Another secret, so that it does not give the token away.
    """

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    ticket: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def url(self) -> str:
        """The address of the page, without the token."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def url_with_token(self) -> str:
        """The address to open."""
        return f"{self.url}?token={self.token}"

    @property
    def url_with_ticket(self) -> str:
        """The address to start a browser with; it works once."""
        return f"{self.url}?token={self.ticket}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What a request's Host may be. Any other name was made to point to this machine by somebody."""
        names = ("127.0.0.1", "localhost")
        return tuple(f"{name}:{self.port}" for name in names) + (names if self.port == 80 else ())

    @property
    def cookie_name(self) -> str:
        """With the port in it: browsers share the cookies of a host among its ports."""
        return f"edgecolbert-{self.port}"


@dataclass(frozen=True)
class _Refusal:
    status: int
    kind: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()


class Guard:
    """An ASGI application around another: refuses what must not reach it, and adds headers to what it answers.

    Args:
        inner: The application.
        access: How it is reached.
    """

    def __init__(self, inner: Application, access: Access) -> None:
        self._inner, self._access = inner, access
        self._ticket_used = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            # Neither start-up events nor web sockets are in use.
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message.get("headers", [])}
                added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                kept = [(name, value) for name, value in added if name not in own]
                message = {**message, "headers": [*message.get("headers", []), *kept]}
            await send(message)

        refusal = self._refused(scope)
        if refusal is None:
            refusal = self._unknown(scope)
        if refusal is None:
            await self._inner(scope, receive, guarded)
        else:
            await _refuse(refusal, scope, guarded)

    def _refused(self, scope: Scope) -> _Refusal | None:
        """Why a request is refused whoever sends it, if it is."""
        hosts = list(_values(scope, b"host"))
        if len(hosts) != 1 or hosts[0].lower() not in self._access.hosts:
            return _Refusal(421, "host", f"The request is for another host. Open {self._access.url} instead.")
        for origin in _values(scope, b"origin"):
            if origin not in [f"http://{host}" for host in self._access.hosts]:
                return _Refusal(403, "origin", f"The request comes from another page. {_FORBIDDEN}")
        if scope["method"] not in _METHODS:
            allowed = ", ".join(_METHODS)
            return _Refusal(
                405, "method", f"Only {allowed} are answered; nothing can be changed.", (("allow", allowed),)
            )
        if len(scope["raw_path"]) + len(scope["query_string"]) > TARGET_BYTES:
            return _Refusal(414, "too long", f"The address has more than {TARGET_BYTES} bytes. Shorten the query.")
        if any(_values(scope, b"transfer-encoding")) or any(
            length != "0" for length in _values(scope, b"content-length")
        ):
            return _Refusal(413, "body", "The request has a body, expected none.")
        return None

    def _unknown(self, scope: Scope) -> _Refusal | None:
        """Why whoever sends a request may not ask, or where to go on with the cookie."""
        access = self._access
        if scope["path"] == "/" and scope["query_string"]:
            given = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=10).get("token", [])
            if len(given) == 1 and self._admits(given[0]):
                cookie = f"{access.cookie_name}={access.cookie}; HttpOnly; SameSite=Strict; Path=/"
                return _Refusal(200, "token", "", (("set-cookie", cookie),))
        # A page of another site may not even have the address shown in a new tab.
        if any(site not in ("same-origin", "none") for site in _values(scope, b"sec-fetch-site")):
            return _Refusal(403, "origin", f"The request comes from another page. {_FORBIDDEN}")
        for header in _values(scope, b"authorization"):
            kind, _, token = header.partition(" ")
            if kind.lower() == "bearer" and _same(token.strip(), access.token):
                return None
        if _same(_cookie(scope, access.cookie_name), access.cookie):
            return None
        return _Refusal(
            401,
            "token",
            "The token is missing or from an earlier run. Open the address that `edgecolbert serve` printed.",
            (("www-authenticate", "Bearer"),),
        )

    def _admits(self, token: str) -> bool:
        if _same(token, self._access.token):
            return True
        if self._ticket_used or not _same(token, self._access.ticket):
            return False
        self._ticket_used = True
        return True


def _values(scope: Scope, name: bytes) -> Iterator[str]:
    return (value.decode("latin-1") for key, value in scope["headers"] if key == name)


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


def _cookie(scope: Scope, name: str) -> str:
    for header in _values(scope, b"cookie"):
        try:
            found = SimpleCookie(header).get(name)
        except CookieError:
            continue
        if found is not None:
            return found.value
    return ""


async def _refuse(refusal: _Refusal, scope: Scope, send: Send) -> None:
    if refusal.status == 200:
        # Not a redirection: one that began on another page, such as a link in a message, would come without the cookie.
        kind, body = "text/html; charset=utf-8", _WELCOME
    elif scope["path"].startswith("/api/"):
        kind, body = "application/json", json.dumps({"error": {"kind": refusal.kind, "message": refusal.message}})
    else:
        kind = "text/html; charset=utf-8"
        body = (
            '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>edgecolbert</title>\n'
            f"<h1>{refusal.status}</h1>\n<p>{escape(refusal.message)}</p>\n</html>\n"
        )
    content = body.encode()
    headers = [("content-type", kind), ("content-length", str(len(content))), *refusal.headers]
    if refusal.status not in (200, 401):
        # What was sent behind the head is not read, and must not pass for another request.
        headers.append(("connection", "close"))
    await send(
        {
            "type": "http.response.start",
            "status": refusal.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers],
        }
    )
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content})
