"""What stands before the app at each door: who may do what, how much they may send, and headers that protect browsers.

Plain ASGI, so that a refused request costs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from email.utils import formatdate
from typing import Any

import structlog

from maintd.errors import MaintdError, RefusedError, UsageError
from maintd.web.errors import error_response, failure
from maintd.web.listeners import is_loopback

log = structlog.get_logger()

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGEST_BODY = 64 * 1024
"""Bytes of a request's body; the largest honest one, params of a run, is a few hundred."""

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cache-control": b"no-store",
}


class Guard:
    """One door to the app.

    read_only: only GET and HEAD, for a door without any proof of who asks. loopback: only for hosts that name this
    machine, so that a web site whose name was made to point here (DNS rebinding) cannot read through a browser.
    """

    def __init__(self, app: App, *, read_only: bool, loopback: bool) -> None:
        self._app = app
        self._read_only = read_only
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served")
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = _with_headers(message.get("headers", ()))
            await send(message)

        refusal = self._refusal(scope)
        status = 403
        if refusal is None:
            try:
                body = await _read(scope, receive)
            except ConnectionResetError:
                return
            if body is None:
                refusal = UsageError(f"the body is larger than {LARGEST_BODY // 1024} KiB", "send less")
                status = 413
        if refusal is not None:
            await error_response(scope, refusal, status)(scope, receive, send_guarded)
            return
        try:
            await self._app(scope, _replay(body or b"", receive), send_guarded)
        except Exception as error:
            # The border of the web side: whatever a request does, the next one is served.
            log.exception("request_failed", path=scope["path"])
            if not started:
                await error_response(scope, failure(error), 500)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> MaintdError | None:
        if self._loopback and not is_loopback(_host(scope)):
            return RefusedError(
                f'this page is not served under the name "{_host(scope)}"', "use 127.0.0.1, or change MAINTD_LISTEN"
            )
        if self._read_only and scope["method"] not in ("GET", "HEAD"):
            return RefusedError(
                f"{scope['method']} is not allowed here: this port can only be read from", "use the control socket"
            )
        return None


def _host(scope: Scope) -> str:
    """The host that the client asked for, without the port; empty when it named none."""
    named = next((value for key, value in scope["headers"] if key == b"host"), b"").decode("latin-1")
    if named.startswith("["):
        return named[1:].partition("]")[0]
    return named.partition(":")[0]


async def _read(scope: Scope, receive: Receive) -> bytes | None:
    """The whole body; None when it is too large. GET and HEAD have none that anybody reads.

    Raises ConnectionResetError when the client went away before its end: half a request is none.
    """
    if scope["method"] in ("GET", "HEAD"):
        return b""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionResetError
        body += bytes(message.get("body", b""))
        if len(body) > LARGEST_BODY:
            return None
        if not message.get("more_body"):
            return body


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _with_headers(headers: Any) -> list[tuple[bytes, bytes]]:
    """The response's own, and those of HEADERS that it does not set."""
    own = [(bytes(key).lower(), bytes(value)) for key, value in headers]
    names = {key for key, _ in own}
    missing = [(key, value) for key, value in HEADERS.items() if key not in names]
    return [(b"date", formatdate(usegmt=True).encode()), *own, *missing]
