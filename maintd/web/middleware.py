"""ASGI middleware in front of the app: access rules, size limits, security headers, unhandled errors."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maintd.errors import MaintdError, RefusedError, UsageError
from maintd.web.errors import error_response, internal_error
from maintd.web.listeners import is_loopback

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
}


class SecurityMiddleware:
    """What protects one listener.

    read_only: allow only GET and HEAD, for a listener without authentication. loopback_only: allow only Host headers
    that name this machine, so that a web site cannot read the page through a browser with DNS rebinding.
    """

    def __init__(self, app: ASGIApp, *, read_only: bool, loopback_only: bool) -> None:
        self._app = app
        self._read_only = read_only
        self._loopback_only = loopback_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not supported")
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = _with_headers(message.get("headers", ()))
            await send(message)

        refusal = self._refusal(scope)
        status = 403
        if refusal is None and len(scope["raw_path"]) + len(scope["query_string"]) > MAX_TARGET_BYTES:
            refusal, status = UsageError(f"path and query are longer than {MAX_TARGET_BYTES} bytes"), 414
        if refusal is None:
            try:
                body = await _read_body(scope, receive)
            except ConnectionResetError:
                return
            if body is None:
                refusal = UsageError(f"the body is larger than {MAX_BODY_BYTES // 1024} KiB", "send a smaller body")
                status = 413
        if refusal is not None:
            await error_response(scope, refusal, status)(scope, receive, send_with_headers)
            return
        try:
            await self._app(scope, _replay(body or b"", receive), send_with_headers)
        except Exception as error:
            # The outermost handler: a request that fails must not stop the server.
            log.exception("request_failed", path=scope["path"])
            if not started:
                await error_response(scope, internal_error(error), 500)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> MaintdError | None:
        if self._loopback_only and not is_loopback(_host(scope)):
            return RefusedError(
                f'this page is not served under the name "{_host(scope)}"', "use 127.0.0.1, or change MAINTD_LISTEN"
            )
        if self._read_only and scope["method"] not in ("GET", "HEAD"):
            return RefusedError(
                f"{scope['method']} is not allowed: this port is read-only", "send the request to the control socket"
            )
        if _is_cross_site(scope):
            return RefusedError("another site's page may not send requests to this one", "open the address itself")
        return None


def _header(scope: Scope, name: bytes) -> str:
    """The first header of that name; empty when there is none."""
    value: bytes = next((value for key, value in scope["headers"] if key == name), b"")
    return value.decode("latin-1")


def _is_cross_site(scope: Scope) -> bool:
    """Whether a browser sends this for a page of another site, other than by following a link.

    Another site cannot read the response, but each request costs the daemon time: an image address is enough.
    Source: https://www.w3.org/TR/fetch-metadata/; a browser without Sec-Fetch-Site sends Origin with scripted requests.
    """
    site = _header(scope, b"sec-fetch-site")
    if site in ("cross-site", "same-site"):
        return not (_header(scope, b"sec-fetch-mode") == "navigate" and _header(scope, b"sec-fetch-dest") == "document")
    origin = _header(scope, b"origin")
    return bool(origin) and origin.partition("://")[2].lower() != _header(scope, b"host").lower()


def _host(scope: Scope) -> str:
    """The Host header without the port; empty when there is none."""
    host = _header(scope, b"host")
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


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
