"""The HTTP server: a thread with an event loop for the control socket and, when `listen` is set, one for a TCP port.

The listeners share nothing but the app: however many requests arrive over TCP, operators reach the control socket.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import anyio.to_thread
import structlog
import uvicorn
from starlette.types import ASGIApp

from maintd.errors import MaintdError, SettingsError
from maintd.operations import OperatorService
from maintd.web.app import create_app
from maintd.web.authentication import Authenticator
from maintd.web.connection_limits import MAX_HEAD_BYTES, BoundedConnection, Limits, max_connections
from maintd.web.listeners import BACKLOG, control_socket, is_loopback, parse_listen, tcp_socket
from maintd.web.log_limit import limited_log
from maintd.web.middleware import AllowedHosts, SecurityMiddleware
from maintd.web.streams import MAX_FOLLOWERS, Streams

log = structlog.get_logger()

START_TIMEOUT = 30.0  # seconds; the server starts in a fraction of one
STOP_TIMEOUT = 2.0  # seconds; then the daemon stops without waiting for requests that still run

CONTROL_THREADS = 8
TCP_THREADS = 4
"""Requests of a listener handled at the same time; each may hold a connection to the store."""

MAX_CONNECTIONS = 100
"""Per listener. One more takes the place of the one that has waited longest for a request."""


class WebServer:
    """The listeners that are being served."""

    def __init__(self, listeners: list[_Listener]) -> None:
        self._listeners = listeners

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the listeners whose thread has ended on an unexpected error."""
        return tuple(listener.name for listener in self._listeners if listener.failed)


@contextmanager
def web_server(service: OperatorService) -> Iterator[WebServer]:
    """Serve on the control socket and, when `listen` is set, on TCP, until the `with` block ends.

    Raises SettingsError or RefusedError with the address when maintd cannot listen on one of them, or when every
    request would be refused: beyond loopback each needs a token or a trusted proxy.
    """
    with ExitStack() as stack:
        stack.enter_context(limited_log())
        app = create_app(service)
        control = stack.enter_context(control_socket(service.settings.socket_path))
        streams = _streams(service)
        listeners = [
            _Listener("control socket", SecurityMiddleware(app, streams=streams), control, CONTROL_THREADS, streams)
        ]
        if service.settings.listen:
            loopback = is_loopback(parse_listen(service.settings.listen)[0])
            if not loopback:
                _require_access(service)
            tcp = stack.enter_context(tcp_socket(service.settings.listen))
            hosts = AllowedHosts(service.settings.allowed_hosts, loopback=loopback)
            streams = _streams(service)
            middleware = SecurityMiddleware(app, Authenticator(service, loopback=loopback), hosts, streams)
            listeners.append(_Listener("page", middleware, tcp, TCP_THREADS, streams))
        try:
            for listener in listeners:
                listener.start()
            yield WebServer(listeners)
        finally:
            for listener in listeners:
                listener.request_stop()
            for listener in listeners:
                listener.join()


def _streams(service: OperatorService) -> Streams:
    """Streams of one listener, which leave a third of its connections to other requests."""

    def valid_tokens(ids: set[int]) -> set[int]:
        return service.store.tokens.valid(ids, service.clock.now())

    return Streams(valid_tokens, followers=min(MAX_FOLLOWERS, max_connections(MAX_CONNECTIONS) * 2 // 3))


def _require_access(service: OperatorService) -> None:
    """Raise SettingsError when a listener beyond loopback would refuse every request."""
    settings = service.settings
    if not (settings.trusted_proxies and settings.proxy_roles) and not service.store.tokens.any_valid(
        service.store.now()
    ):
        raise SettingsError(
            f"other machines can reach MAINTD_LISTEN {settings.listen}, and there is no valid token",
            "create one with: maintd token create --role viewer NAME; or set MAINTD_LISTEN=127.0.0.1:8420",
        )
    log.warning(
        "listening_without_tls", listen=settings.listen, hint="put a proxy with TLS in front, tokens are secret"
    )


class _Listener:
    """One listening socket, served by a thread with its own event loop and its own threads for requests."""

    def __init__(self, name: str, app: ASGIApp, sock: socket.socket, threads: int, streams: Streams) -> None:
        self.name = name
        self.failed = False
        self._app = app
        self._sock = sock
        self._threads = threads
        self._streams = streams
        self._started: Future[tuple[asyncio.AbstractEventLoop, _UvicornServer]] = Future()
        self._thread = threading.Thread(target=self._run, name=f"web {name}", daemon=True)

    def start(self) -> None:
        """Start to accept connections. Raises MaintdError."""
        self._thread.start()
        self._started.result(timeout=START_TIMEOUT)

    def request_stop(self) -> None:
        """Stop after the requests in progress, or after one second. Returns at once."""
        if self._started.done() and self._started.exception() is None and self._thread.is_alive():
            loop, server = self._started.result()
            loop.call_soon_threadsafe(self._streams.close)
            loop.call_soon_threadsafe(server.stopping.set)

    def join(self) -> None:
        """Wait for the end of the thread, at most STOP_TIMEOUT."""
        if self._thread.ident is not None:
            self._thread.join(STOP_TIMEOUT)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if self._started.done():
                self.failed = True
                log.exception("web_server_failed", listener=self.name)
            else:
                self._started.set_exception(MaintdError(f"the web server did not start: {error!r}"))

    async def _serve(self) -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = self._threads
        server = _UvicornServer(self._app, Limits(max_connections(MAX_CONNECTIONS)))
        serving = asyncio.ensure_future(server.serve(sockets=[self._sock]))
        ready = asyncio.ensure_future(server.ready.wait())
        await asyncio.wait({ready, serving}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            self._started.set_result((asyncio.get_running_loop(), server))
        else:
            ready.cancel()
        await serving


class _UvicornServer(uvicorn.Server):
    """Uvicorn without its main loop, which wakes up ten times per second: an idle daemon must not use the CPU."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=cast("Any", partial(BoundedConnection, limits=limits)),
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                backlog=BACKLOG,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=1,
            )
        )
        self.ready = asyncio.Event()
        self.stopping = asyncio.Event()

    async def main_loop(self) -> None:
        self.ready.set()
        await self.stopping.wait()
