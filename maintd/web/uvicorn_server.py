"""Uvicorn at two doors in one event loop."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import Future

import anyio.to_thread
import uvicorn

from maintd.web.middleware import App, Guard

THREADS = 8
"""Requests that are answered at once; each may hold a connection to the store."""

CONNECTIONS = 200
"""More at one door are answered 503."""


class Doors:
    """The app at the control socket and, if there is one, at the page's port."""

    def __init__(self, app: App, control: socket.socket, page: socket.socket | None, *, loopback: bool) -> None:
        self._doors = [(_Door(Guard(app, read_only=False, loopback=False)), control)]
        if page is not None:
            self._doors.append((_Door(Guard(app, read_only=True, loopback=loopback)), page))

    async def serve(self, ready: Future[tuple[asyncio.AbstractEventLoop, Doors]]) -> None:
        """Until `close` is called. `ready` gets the loop as soon as all doors are open."""
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        serving = [asyncio.ensure_future(door.serve(sockets=[sock])) for door, sock in self._doors]
        opened = asyncio.ensure_future(self._opened())
        await asyncio.wait({opened, *serving}, return_when=asyncio.FIRST_COMPLETED)
        if opened.done():
            ready.set_result((asyncio.get_running_loop(), self))
        else:
            opened.cancel()
        await asyncio.gather(*serving)

    async def _opened(self) -> None:
        for door, _ in self._doors:
            await door.opened.wait()

    def close(self) -> None:
        """Let requests under way end, for a second at most, and stop. In the loop's thread only."""
        for door, _ in self._doors:
            door.closing.set()


class _Door(uvicorn.Server):
    """Uvicorn without its ten wake-ups per second: nothing here needs a tick, and the sidecar shall idle."""

    def __init__(self, app: Guard) -> None:
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
                limit_concurrency=CONNECTIONS,
                timeout_graceful_shutdown=1,
            )
        )
        self.opened = asyncio.Event()
        self.closing = asyncio.Event()

    async def main_loop(self) -> None:
        self.opened.set()
        await self.closing.wait()
