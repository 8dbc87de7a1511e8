"""ASGI middleware in front of the app: who may send what, size limits, security headers, unhandled errors."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from email.utils import formatdate
from socket import gethostname
from typing import Any

import structlog
from anyio import to_thread
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.types import Message, Receive, Scope, Send

from maintd.errors import MaintdError, RefusedError, UsageError
from maintd.model.access import Caller, Right, Role
from maintd.terminal import quotable
from maintd.web.access import CALLER, RIGHTS, find_route, require_right
from maintd.web.authentication import Authenticator, client_address
from maintd.web.connection_limits import PEER, SocketPeer
from maintd.web.errors import error_response, internal_error
from maintd.web.etags import with_etag
from maintd.web.listeners import is_loopback
from maintd.web.refusals import Refusals
from maintd.web.streams import STREAMS, Streams

log = structlog.get_logger()

MAX_BODY_BYTES = 64 * 1024
"""The largest request body; the params of a run, the largest in practice, take a few hundred bytes."""

MAX_TARGET_BYTES = 4096
"""Path and query of a request; the filters of the history take a few hundred bytes."""

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

HEADERS = {
    b"content-security-policy": CONTENT_SECURITY_POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cache-control": b"no-store",
    b"maintd-api": b"1",  # so that a client does not take a proxy's answer for one of maintd
}


class AllowedHosts:
    """The names under which a TCP listener is served. Another name in Host means that a web site has its own name
    resolve to this address, in order to read the page through a browser (DNS rebinding).

    Allowed are this machine's names, and names of the setting `allowed_hosts`, of which `*` allows all. Beyond loopback
    also addresses: a browser that was given one cannot be sent elsewhere.
    """

    def __init__(self, names: Iterable[str], *, loopback: bool) -> None:
        self._names = {name.lower() for name in (*names, "" if loopback else gethostname())} - {""}
        self._loopback = loopback

    def allow(self, host: str) -> bool:
        """Whether a Host header, without its port, is allowed."""
        if is_loopback(host) or self.named(host) or "*" in self._names:
            return True
        return not self._loopback and _is_address(host)

    def named(self, host: str) -> bool:
        """Whether the name is one of the setting's."""
        return host.lower().rstrip(".") in self._names


class SecurityMiddleware:
    """What protects one listener: who may send what, and how large it may be.

    Without an authenticator, for the control socket, the caller is the peer process, and an administrator.
    """

    def __init__(
        self,
        app: FastAPI,
        authenticator: Authenticator | None = None,
        hosts: AllowedHosts | None = None,
        streams: Streams | None = None,
    ) -> None:
        self._app = app
        self._streams = streams
        self._authenticator = authenticator
        self._hosts = hosts
        self._routes: Sequence[APIRoute] = app.state.routes
        self._refusals: Refusals = app.state.refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not supported")
        if scope["method"] == "HEAD":
            scope, send = _as_get(scope, send)
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = _with_headers(message.get("headers", ()))
            await send(message)

        refusal = self._site_refusal(scope)
        status = 403
        if refusal is None and len(scope["raw_path"]) + len(scope["query_string"]) > MAX_TARGET_BYTES:
            refusal, status = UsageError(f"path and query are longer than {MAX_TARGET_BYTES} bytes"), 414
        if refusal is None:
            refusal = await self._access_refusal(scope)
            status = 0
        if refusal is None:
            try:
                body = await _read_body(scope, receive)
            except ConnectionResetError:
                return
            if body is None:
                refusal = UsageError(f"the body is larger than {MAX_BODY_BYTES // 1024} KiB", "send a smaller body")
                status = 413
        if refusal is not None:
            await error_response(scope, refusal, status or None)(scope, receive, send_with_headers)
            return
        try:
            await self._app(scope, _replay(body or b"", receive), with_etag(scope, send_with_headers))
        except Exception as error:
            # The outermost handler: a request that fails must not stop the server.
            log.exception("request_failed", path=scope["path"])
            if not started:
                await error_response(scope, internal_error(error), 500)(scope, receive, send_with_headers)

    def _site_refusal(self, scope: Scope) -> MaintdError | None:
        if self._hosts is not None and not self._hosts.allow(_host(scope)):
            return RefusedError(
                f'this page is not served under the name "{quotable(_host(scope))}"',
                "use 127.0.0.1, or add the name to MAINTD_ALLOWED_HOSTS",
            )
        if self._is_cross_site(scope):
            return RefusedError("another site's page may not send requests to this one", "open the address itself")
        return None

    async def _access_refusal(self, scope: Scope) -> MaintdError | None:
        """Put the caller into the scope's state; the error when it may not send this request."""
        route = find_route(self._routes, scope)
        caller = Caller(role=None, origin=client_address(scope))
        try:
            caller = await self._caller(scope)
            require_right(caller, route)
        except MaintdError as error:
            if route is not None and RIGHTS.get(route) not in (Right.READ, Right.PROBE):
                await to_thread.run_sync(self._refusals.record, caller, scope["method"], scope["path"], error)
            return error
        scope.setdefault("state", {}).update({CALLER: caller, STREAMS: self._streams})
        return None

    async def _caller(self, scope: Scope) -> Caller:
        if self._authenticator is not None:
            return await self._authenticator.caller(scope)
        peer = scope.get("state", {}).get(PEER)
        assert isinstance(peer, SocketPeer), "the control socket is a Unix socket"
        return Caller(peer.user, Role.ADMIN, f"socket, uid {peer.uid}" + (f", pid {peer.pid}" if peer.pid else ""))

    def _is_cross_site(self, scope: Scope) -> bool:
        """Whether a browser sends this for a page of another site, other than by following a link.

        Another site cannot read the response, but each request costs the daemon time (an image address is enough), and
        a proxy may add the user's name to it.
        Source: https://www.w3.org/TR/fetch-metadata/; a browser without Sec-Fetch-Site sends Origin with a POST.
        """
        site = _header(scope, b"sec-fetch-site")
        if site in ("cross-site", "same-site"):
            opened = _header(scope, b"sec-fetch-mode") == "navigate" and _header(scope, b"sec-fetch-dest") == "document"
            return not opened or scope["method"] not in ("GET", "HEAD")
        origin = _header(scope, b"origin")
        if not origin:
            return False
        sender = origin.partition("://")[2].lower()
        if sender == _header(scope, b"host").lower():
            return False
        # A proxy may change Host to the address that it connects to.
        return self._hosts is None or not sender or not self._hosts.named(_without_port(sender))


def _header(scope: Scope, name: bytes) -> str:
    """The first header of that name; empty when there is none."""
    value: bytes = next((value for key, value in scope["headers"] if key == name), b"")
    return value.decode("latin-1")


def _host(scope: Scope) -> str:
    """The Host header without the port; empty when there is none."""
    return _without_port(_header(scope, b"host"))


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _read_body(scope: Scope, receive: Receive) -> bytes | None:
    """The whole body; None when it is too large. The body of a GET or HEAD is ignored.

    Raises ConnectionResetError when the client disconnects before its end: part of a request must not be handled.
    """
    if scope["method"] in ("GET", "HEAD"):
        return b""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionResetError
        body += bytes(message.get("body", b""))
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body"):
            return body


def _as_get(scope: Scope, send: Send) -> tuple[Scope, Send]:
    """A HEAD as the GET whose head it asks for. The client has gone, for the app, as soon as the head is sent."""

    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return {**scope, "method": "GET"}, send_head


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns the body that was read, then what the original returns."""
    replayed = False

    async def replay() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _with_headers(headers: Any) -> list[tuple[bytes, bytes]]:
    """The response's headers, with those of HEADERS that it does not set."""
    own = [(bytes(key).lower(), bytes(value)) for key, value in headers]
    names = {key for key, _ in own}
    missing = [(key, value) for key, value in HEADERS.items() if key not in names]
    return [(b"date", formatdate(usegmt=True).encode()), *own, *missing]
