"""Asking: the daemon over its control socket, or the same app in this process on the store when no daemon answers."""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode

from maintd.errors import DaemonUnavailableError, MaintdError

if TYPE_CHECKING:
    from maintd.config.settings import Settings

API = "/api/v1"
PATIENCE = 45.0  # seconds; the longest answer, to a reload, may take 30
PROBED = 4.0  # seconds; a container's health check gives up after five


class Answerer:
    """Gives JSON for a path of the API."""

    def get(self, path: str, **query: Any) -> Any:
        """The answer to a GET of an already quoted path. Arguments that are None are left out.

        Raises MaintdError as the API reports it.
        """
        given = {name: value for name, value in query.items() if value is not None and value != ()}
        return _read(*self._ask("GET", _target(path, given), None))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer to a POST."""
        return _read(*self._ask("POST", _target(path, {}), json.dumps(body).encode()))

    def _ask(self, method: str, target: str, body: bytes | None) -> tuple[int, bytes]:
        raise NotImplementedError


class Daemon(Answerer):
    """The daemon behind a Unix socket. Raises DaemonUnavailableError when none answers."""

    def __init__(self, path: Path, patience: float = PATIENCE) -> None:
        self.path = path
        self._patience = patience

    def _ask(self, method: str, target: str, body: bytes | None) -> tuple[int, bytes]:
        connection = _UnixConnection(self.path, self._patience)
        try:
            connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unavailable(error) from error
        finally:
            connection.close()

    def _unavailable(self, error: Exception) -> DaemonUnavailableError:
        number = getattr(error, "errno", None)
        if number == errno.EACCES:
            return DaemonUnavailableError(
                f"{self.path}: not allowed for uid {os.geteuid()}", "run it as the daemon's user, or as root"
            )
        if isinstance(error, TimeoutError):
            return DaemonUnavailableError(
                f"the daemon on {self.path} did not answer within {self._patience:.0f} s", "see its log"
            )
        hint = "not running? start it with: maintd serve"
        if number in (errno.ENOENT, errno.ECONNREFUSED):
            return DaemonUnavailableError(f"no daemon answers on {self.path}", hint)
        return DaemonUnavailableError(f"no daemon answers on {self.path}: {error or type(error).__name__}", hint)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, patience: float) -> None:
        super().__init__("maintd", timeout=patience)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class InProcess(Answerer):
    """The app that the daemon serves, called in this process without a daemon. Reads only."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def _ask(self, method: str, target: str, body: bytes | None) -> tuple[int, bytes]:
        if method != "GET":
            raise DaemonUnavailableError("this needs a daemon", "start it with: maintd serve")
        import asyncio  # only this way of asking pays for it

        return asyncio.run(self._answer(target))

    async def _answer(self, target: str) -> tuple[int, bytes]:
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
        return status, bytes(parts)


@contextmanager
def without_daemon(settings: Settings) -> Iterator[Answerer]:
    """Answers from the store alone. Raises StoreError when it cannot be read."""
    from maintd.config import logging
    from maintd.operations import open_service
    from maintd.web.app import create_app

    logging.configure(settings.model_copy(update={"log_level": "error"}))  # else it would log among the answers
    service = open_service(settings, write=False)
    try:
        yield InProcess(create_app(service))
    finally:
        service.store.close()


def ready(path: Path) -> bool:
    """Whether the daemon says that it plans and reaches its store. Raises DaemonUnavailableError."""
    return Daemon(path, PROBED)._ask("GET", "/readyz", None)[0] == 200  # noqa: SLF001 - not of the versioned API


def said_error(said: Mapping[str, Any], status: int = 500) -> MaintdError:
    """The error that the API reports, with the exit code of its branch of the tree."""
    told = said.get("error") or {}
    error = MaintdError(str(told.get("message") or f"the daemon answered {status}"), told.get("hint"))
    kind = {kind.code: kind for kind in _kinds(MaintdError)}.get(str(told.get("code")), MaintdError)
    error.code, error.exit_code = kind.code, kind.exit_code
    return error


def coded_error(kind: type[MaintdError], message: str, hint: str | None = None) -> MaintdError:
    """An error with another one's code, for messages that its own constructor does not make."""
    error = MaintdError(message, hint)
    error.code, error.exit_code = kind.code, kind.exit_code
    return error


def _kinds(kind: type[MaintdError]) -> Iterator[type[MaintdError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from _kinds(inner)


def _target(path: str, query: Mapping[str, Any]) -> str:
    target = f"{API}{path}"
    return f"{target}?{urlencode(query, doseq=True)}" if query else target


def _read(status: int, body: bytes) -> Any:
    try:
        said = json.loads(body)
    except ValueError as error:
        hint = "is it the same version? see: maintd version"
        raise MaintdError(f"the daemon answered {status} and no JSON", hint) from error
    if status >= 400:
        raise said_error(said, status)
    return said
