"""Serving the app: one thread, one event loop, two doors. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import structlog

from maintd.errors import MaintdError
from maintd.operations import OperatorService
from maintd.web.listeners import control_socket, is_loopback, parse_listen, tcp_socket

if TYPE_CHECKING:
    from maintd.web.uvicorn_server import Doors

log = structlog.get_logger()

START_WITHIN = 30.0  # seconds; building the app takes a fraction of one
CLOSE_WITHIN = 2.0  # seconds; an answer that takes longer is given up, and the daemon goes on with its end


@contextmanager
def web_server(service: OperatorService) -> Iterator[None]:
    """Serve it on its control socket and, when `listen` is set, read-only on TCP, until the `with` ends.

    Raises SettingsError or RefusedError, naming the address, when one of them cannot be had.
    """
    with ExitStack() as stack:
        control = stack.enter_context(control_socket(service.settings.socket_path))
        page, loopback = None, True
        if service.settings.listen:
            page = stack.enter_context(tcp_socket(service.settings.listen))
            loopback = is_loopback(parse_listen(service.settings.listen)[0])
            if not loopback:
                log.warning(
                    "page_open_to_network", listen=service.settings.listen, hint="anybody who reaches it can read"
                )
        ready: Future[tuple[asyncio.AbstractEventLoop, Doors]] = Future()
        thread = threading.Thread(
            target=_serve, args=(service, control, page, loopback, ready), name="web", daemon=True
        )
        thread.start()
        loop, doors = ready.result(timeout=START_WITHIN)
        try:
            yield
        finally:
            loop.call_soon_threadsafe(doors.close)
            thread.join(CLOSE_WITHIN)


def openapi() -> dict[str, Any]:
    """The description of the API, for the documentation."""
    from maintd.web.app import describe

    return describe()


def _serve(
    service: OperatorService,
    control: socket.socket,
    page: socket.socket | None,
    loopback: bool,
    ready: Future[tuple[asyncio.AbstractEventLoop, Doors]],
) -> None:
    try:
        from maintd.web.app import build
        from maintd.web.uvicorn_server import Doors

        doors = Doors(build(service), control, page, loopback=loopback)
        asyncio.run(doors.serve(ready))
    except Exception as error:
        if ready.done():
            log.exception("web_stopped")
        else:
            ready.set_exception(error if isinstance(error, MaintdError) else MaintdError(f"cannot serve: {error!r}"))
