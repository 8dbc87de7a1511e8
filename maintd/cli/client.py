"""A client of the same app that the daemon serves, in this process and on the store: for commands without a daemon."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from maintd.client import Client
from maintd.client.transport import Answer
from maintd.errors import DaemonUnavailableError

if TYPE_CHECKING:
    from maintd.config.settings import Settings


class InProcessClient(Client):
    """A client of the app that the daemon serves, called in this process. Read-only."""

    def __init__(self, app: Any, socket_path: Path) -> None:
        super().__init__(socket_path)
        self._app = app

    def request(self, method: str, target: str, body: bytes | None = None, *, repeatable: bool = False) -> Answer:
        """The app's answer."""
        if method != "GET":
            raise DaemonUnavailableError("this needs a running daemon", "start it with: maintd serve")
        import asyncio  # slow, and only needed here

        return asyncio.run(self._answer(target))

    async def _answer(self, target: str) -> Answer:
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(b"host", b"maintd")],
            "client": None,
            "server": None,
            "state": {},
        }
        status, parts = 0, bytearray()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            parts.extend(message.get("body", b""))

        await self._app(scope, receive, send)
        return Answer(status, {}, bytes(parts))


@contextmanager
def store_client(settings: Settings) -> Iterator[Client]:
    """A client that reads the store itself. Raises StoreError if it cannot be read."""
    from maintd.config import logging
    from maintd.operations import open_service
    from maintd.web.app import create_app

    logging.configure(settings.model_copy(update={"log_level": "error"}))  # the log must not mix with the output
    service = open_service(settings, write=False)
    try:
        yield InProcessClient(create_app(service), settings.socket_path)
    finally:
        service.store.close()
