"""Clients of the API: of the daemon over its control socket, or of the same app in this process, on the store."""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode

from maintd.errors import DAEMON_LOG, DaemonUnavailableError, MaintdError, RefusedError
from maintd.units import seconds_text

if TYPE_CHECKING:
    from maintd.config.settings import Settings

API = "/api/v1"
TIMEOUT = 45.0  # seconds; the longest answer, to a reload, may take 30
PROBE_TIMEOUT = 4.0  # seconds; the container's health check has a timeout of five


class Client:
    """GET and POST of the API, with JSON answers."""

    def get(self, path: str, **query: Any) -> Any:
        """The answer to a GET of a quoted path. Omits query arguments that are None.

        Raises the MaintdError that the API reports.
        """
        given = {name: value for name, value in query.items() if value is not None and value != ()}
        return _read(*self._request("GET", _target(path, given), None))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer to a POST."""
        return _read(*self._request("POST", _target(path, {}), json.dumps(body).encode()))

    def _request(self, method: str, target: str, body: bytes | None) -> tuple[int, bytes]:
        raise NotImplementedError


class DaemonClient(Client):
    """A client of the daemon behind a Unix socket.

    Raises DaemonUnavailableError if none answers, RefusedError if this user may not open the socket.
    """

    def __init__(self, path: Path, timeout: float = TIMEOUT) -> None:
        self.path = path
        self._timeout = timeout

    def _request(self, method: str, target: str, body: bytes | None) -> tuple[int, bytes]:
        connection = _UnixConnection(self.path, self._timeout)
        try:
            connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unavailable(error) from error
        finally:
            connection.close()

    def _unavailable(self, error: Exception) -> MaintdError:
        number = getattr(error, "errno", None)
        if number in (errno.EACCES, errno.EPERM):
            return _denied(self.path)
        if isinstance(error, TimeoutError):
            return DaemonUnavailableError(
                f"the daemon on {self.path} did not answer within {seconds_text(self._timeout)}",
                DAEMON_LOG,
            )
        hint = "start it with: maintd serve"
        if number in (errno.ENOENT, errno.ECONNREFUSED):
            return DaemonUnavailableError(f"no daemon answers on {self.path}", hint)
        return DaemonUnavailableError(f"no daemon answers on {self.path}: {error or type(error).__name__}", hint)


def _denied(path: Path) -> RefusedError:
    """The error for a socket that this user may not open: which file or folder denies it, and whose group may."""
    import grp
    import pwd

    def name_of(find: Callable[[int], Any], number: int) -> str:
        try:
            return str(find(number)[0])
        except KeyError:
            return str(number)

    user = name_of(pwd.getpwuid, os.geteuid())
    denied = path
    for folder in reversed(path.absolute().parents):  # from the root down: the first that may not be entered
        if not os.access(folder, os.X_OK, effective_ids=True):
            denied = folder
            break
    message = f"{user} may not open the control socket {path}"
    try:
        status = denied.stat()
    except OSError:
        return RefusedError(message, "run this as the daemon's user, or as root")
    group, owner = name_of(grp.getgrgid, status.st_gid), name_of(pwd.getpwuid, status.st_uid)
    what = "" if denied == path else f": no permission to enter the folder {denied}"
    needed = stat.S_IXGRP if stat.S_ISDIR(status.st_mode) else stat.S_IWGRP
    if status.st_mode & needed:
        hint = f"join the group {group} (usermod -aG {group} {user}) and log in again, or run this as {owner}"
    else:
        hint = (
            f"run this as {owner}, or let the group {group} use it: chmod g+{'x' if denied != path else 'rw'} {denied}"
        )
    return RefusedError(f"{message}{what}", hint)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("maintd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class InProcessClient(Client):
    """A client of the app that the daemon serves, called in this process. Read-only."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def _request(self, method: str, target: str, body: bytes | None) -> tuple[int, bytes]:
        if method != "GET":
            raise DaemonUnavailableError("this needs a running daemon", "start it with: maintd serve")
        import asyncio  # slow, and only needed here

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
def store_client(settings: Settings) -> Iterator[Client]:
    """A client that reads the store itself. Raises StoreError if it cannot be read."""
    from maintd.config import logging
    from maintd.operations import open_service
    from maintd.web.app import create_app

    logging.configure(settings.model_copy(update={"log_level": "error"}))  # the log must not mix with the output
    service = open_service(settings, write=False)
    try:
        yield InProcessClient(create_app(service))
    finally:
        service.store.close()


def is_ready(path: Path) -> bool:
    """Whether the daemon plans and reaches its store. Raises DaemonUnavailableError."""
    status, _ = DaemonClient(path, PROBE_TIMEOUT)._request("GET", "/readyz", None)  # noqa: SLF001 - not below API
    return status == 200


def api_error(answer: Mapping[str, Any], status: int = 500) -> MaintdError:
    """The error in an answer of the API, with the exit code of its class."""
    reported = answer.get("error") or {}
    error = MaintdError(str(reported.get("message") or f"the daemon answered {status}"), reported.get("hint"))
    kind = {kind.code: kind for kind in _kinds(MaintdError)}.get(str(reported.get("code")), MaintdError)
    error.code, error.exit_code = kind.code, kind.exit_code
    return error


def coded_error(kind: type[MaintdError], message: str, hint: str | None = None) -> MaintdError:
    """An error with the code of `kind`, for messages that its constructor cannot build."""
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
        answer = json.loads(body)
    except ValueError as error:
        hint = "compare the versions with: maintd version"
        raise MaintdError(f"the daemon answered {status} without JSON", hint) from error
    if status >= 400:
        raise api_error(answer, status)
    return answer
