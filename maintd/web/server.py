"""The HTTP server: one thread and one event loop serve the control socket and, when `listen` is set, a TCP port."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager

import anyio.to_thread
import structlog
import uvicorn
from starlette.types import ASGIApp

from maintd.errors import MaintdError
from maintd.operations import OperatorService
from maintd.web.app import create_app
from maintd.web.listeners import control_socket, is_loopback, parse_listen, tcp_socket
from maintd.web.middleware import SecurityMiddleware

log = structlog.get_logger()

START_TIMEOUT = 30.0  # seconds; the server starts in a fraction of one
STOP_TIMEOUT = 2.0  # seconds; then the daemon stops without waiting for requests that still run

THREADS = 8
"""Requests handled at the same time; each may hold a connection to the store."""

MAX_CONNECTIONS = 200
"""Per listener; a request on one more is answered with 503."""


@contextmanager
def web_server(service: OperatorService) -> Iterator[None]:
    """Serve on the control socket and, when `listen` is set, read-only on TCP, until the `with` block ends.

    Raises SettingsError or RefusedError with the address when maintd cannot listen on one of them.
    """
    with ExitStack() as stack:
        control = stack.enter_context(control_socket(service.settings.socket_path))
        tcp, loopback = None, True
        if service.settings.listen:
            tcp = stack.enter_context(tcp_socket(service.settings.listen))
            loopback = is_loopback(parse_listen(service.settings.listen)[0])
            if not loopback:
                log.warning("page_exposed", listen=service.settings.listen, hint="anyone who can connect can read it")
        server = WebServer(create_app(service), control, tcp, loopback_only=loopback)
        started: Future[asyncio.AbstractEventLoop] = Future()
        thread = threading.Thread(target=_run, args=(server, started), name="web", daemon=True)
        thread.start()
        loop = started.result(timeout=START_TIMEOUT)
        try:
            yield
        finally:
            loop.call_soon_threadsafe(server.stop)
            thread.join(STOP_TIMEOUT)


class WebServer:
    """One Uvicorn server for the control socket and one for the TCP socket, if there is one."""

    def __init__(self, app: ASGIApp, control: socket.socket, tcp: socket.socket | None, *, loopback_only: bool) -> None:
        self._servers = [(_UvicornServer(SecurityMiddleware(app, read_only=False, loopback_only=False)), control)]
        if tcp is not None:
            middleware = SecurityMiddleware(app, read_only=True, loopback_only=loopback_only)
            self._servers.append((_UvicornServer(middleware), tcp))

    async def run(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        """Serve until `stop` is called. `started` gets the event loop once all listeners accept connections."""
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        serving = [asyncio.ensure_future(server.serve(sockets=[sock])) for server, sock in self._servers]
        ready = asyncio.ensure_future(self._ready())
        await asyncio.wait({ready, *serving}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            started.set_result(asyncio.get_running_loop())
        else:
            ready.cancel()
        await asyncio.gather(*serving)

    async def _ready(self) -> None:
        for server, _ in self._servers:
            await server.ready.wait()

    def stop(self) -> None:
        """Stop after the requests in progress, or after one second. Call it in the event loop's thread."""
        for server, _ in self._servers:
            server.stopping.set()


class _UvicornServer(uvicorn.Server):
    """Uvicorn without its main loop, which wakes up ten times per second: an idle daemon must not use the CPU."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=1,
            )
        )
        self.ready = asyncio.Event()
        self.stopping = asyncio.Event()

    async def main_loop(self) -> None:
        self.ready.set()
        await self.stopping.wait()


def _run(server: WebServer, started: Future[asyncio.AbstractEventLoop]) -> None:
    try:
        asyncio.run(server.run(started))
    except Exception as error:
        if started.done():
            log.exception("web_server_failed")
        else:
            started.set_exception(MaintdError(f"the web server did not start: {error!r}"))
