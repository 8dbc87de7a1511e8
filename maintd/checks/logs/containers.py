"""Denied requests from container logs, read by the Docker API."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime, timedelta
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any, BinaryIO

from maintd.checks.logs.denied_requests import DeniedRequests
from maintd.checks.logs.scanner import BLOCK, Scanner
from maintd.checks.probes import as_target_error
from maintd.clients import docker
from maintd.clients.bounded import parse_json
from maintd.clients.deadline import Deadline
from maintd.clients.docker import Container, Docker
from maintd.errors import MaintdError, TargetError
from maintd.job.references import resolved
from maintd.model.target import DockerTarget
from maintd.units import format_duration

_HEADER = 8  # bytes before each frame of a log: stream, three zeros, length
_MIN_TIMEOUT = timedelta(seconds=60)
_MAX_TIME = timedelta(minutes=5)  # of one log: the engine sends about 7 GB in it
_LONGEST_FRAME = 4 << 20  # bytes; drivers split lines at 16 KiB to 1 MiB
_STAMP = 40  # maximum length of a timestamp with the space after it


def read_all(targets: Mapping[str, Any], requests: DeniedRequests) -> None:
    """Add the denied requests of several engines. Raises TargetError when none of them can be read.

    An error of one engine is added to `unread`, and the others are still read.
    """
    errors = []
    for name, target in targets.items():
        try:
            with as_target_error(f"docker {name}"):
                read(target, name, requests)
        except MaintdError as error:
            errors.append(error)
    if errors and len(errors) == len(targets):
        raise errors[0]
    requests.unread += [str(error) for error in errors]


def read(target: DockerTarget, name: str, requests: DeniedRequests) -> None:
    """Add the denied requests of all containers of a project that ran in the window. Raises TargetError.

    An error of one container is added to `unread`, and the others are still read.
    """
    with docker.connect(target, name=name) as engine:
        for container in engine.containers(target.project):
            if container.started_at is None or _ended_before(container, requests.since):
                continue
            try:
                with as_target_error(container.label):
                    _read_container(engine, container, requests, target)
            except TargetError as error:
                requests.unread.append(str(error))
                if error.cause == "timed_out":  # it hangs; the others would cost as much time each
                    requests.unread.append(f"docker {name}: the logs of further containers, for the same reason")
                    return


def _ended_before(container: Container, since: datetime) -> bool:
    ended = container.finished_at
    return container.state != "running" and ended is not None and ended < since


def _read_container(engine: Docker, container: Container, requests: DeniedRequests, target: DockerTarget) -> None:
    with docker.translated(f"{engine.name}: {container.label}"):
        api = engine.api
        terminal = bool(api.inspect_container(container.id)["Config"].get("Tty"))
        since, until = requests.since.timestamp(), requests.until.timestamp()
        wanted = f"stdout=1&stderr=1&timestamps=1&since={since:.6f}&until={until:.6f}"
        with closing(_connection(target)) as connection, Deadline(_MAX_TIME.total_seconds()) as deadline:
            connection.connect()
            deadline.watch(connection.sock)
            connection.request("GET", f"/v{api.api_version}/containers/{container.id}/logs?{wanted}")
            with closing(connection.getresponse()) as answer:
                if answer.status != HTTPStatus.OK:
                    raise _refusal(answer, f"{engine.name}: {container.label}")
                scan = Scanner()
                for line in scan.lines(Demultiplexed(answer, terminal).readinto):
                    requests.add_line(line, container.label)
            if deadline.over:  # the end of the connection looks like the end of the log
                text = f"{engine.name}: {container.label}: the log did not arrive within {format_duration(_MAX_TIME)}"
                raise TargetError(text, "read a shorter window, or use Loki", cause="timed_out")
    if scan.bytes_read:
        requests.record_activity(container.label, requests.until)  # the engine returns only lines of the window
    requests.bytes_read += scan.bytes_read
    requests.truncated += scan.skipped


class _Connection(HTTPConnection):
    """A connection to the engine by HTTP/1.0.

    With HTTP/1.1 each log line is a chunk of its own, and reading them takes three times as long as the engine itself,
    which sends about 25 MB/s.
    """

    _http_vsn = 10
    _http_vsn_str = "HTTP/1.0"

    def __init__(self, host: str, path: str, seconds: float) -> None:
        super().__init__(host, timeout=seconds)
        self._path = path

    def connect(self) -> None:
        if not self._path:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connection(target: DockerTarget) -> _Connection:
    # The engine reads a log from its start and sends nothing until it reaches the requested time.
    seconds = max(target.timeout, _MIN_TIMEOUT).total_seconds()
    scheme, _, place = resolved(target).url.partition("://")
    if scheme == "unix":
        return _Connection("localhost", f"/{place.lstrip('/')}", seconds)
    host = place.rstrip("/")
    return _Connection(host if ":" in host else f"{host}:2375", "", seconds)


def _refusal(answer: HTTPResponse, what: str) -> TargetError:
    try:
        message = str(parse_json(answer.read(4096), what)["message"])
    except (TargetError, KeyError, TypeError):
        message = answer.reason
    denied = answer.status in (401, 403)
    hint = "allow it in the socket proxy's rules" if denied else "use the json-file or local driver, or Loki"
    text = f"{what}: the engine answered {answer.status}: {' '.join(message.split())[:300]}"
    return TargetError(text, hint, cause="denied" if denied else "failed")


class Demultiplexed:
    """Joins the frames of the engine's stream to text; lines that the engine split are joined again, by stream."""

    def __init__(self, answer: HTTPResponse | BinaryIO, terminal: bool) -> None:
        self._answer, self._terminal = answer, terminal
        self._ready = bytearray()
        self._left = b""
        self._line: dict[int, list[bytes]] = {}  # by stream: parts of an incomplete line

    def readinto(self, view: memoryview) -> int:
        """Read like a file."""
        while not self._ready:
            try:
                data = self._answer.read(1 << 20)
            except HTTPException as error:
                raise TargetError(f"the engine closed the connection early: {error}", cause="partial") from error
            if not data:
                break
            if self._terminal:
                self._ready += data
            else:
                self._split(self._left + data)
        count = min(len(view), len(self._ready), BLOCK)
        view[:count] = self._ready[:count]
        del self._ready[:count]
        return count

    def _split(self, data: bytes) -> None:
        complete: list[bytes] = []
        for stream, part in self._frames(data):
            started = self._line.get(stream)
            if started:
                part = part[part.find(b" ", 0, _STAMP) + 1 :]
            if part.endswith(b"\n"):
                if started:
                    complete += started
                    self._line[stream] = []
                complete.append(part)
            elif len(self._line.setdefault(stream, [])) < 1024:
                self._line[stream].append(part)
        self._ready += b"".join(complete)

    def _frames(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        at, end = 0, len(data)
        while at + _HEADER <= end:
            if data[at] > 3 or data[at + 1 : at + 4] != b"\0\0\0":
                raise TargetError("the engine's log stream has no frames", cause="malformed")
            length = int.from_bytes(data[at + 4 : at + _HEADER], "big")
            if length > _LONGEST_FRAME:
                raise TargetError(f"the engine's log stream has a frame of {length} bytes", cause="malformed")
            if at + _HEADER + length > end:
                break
            yield data[at], data[at + _HEADER : at + _HEADER + length]
            at += _HEADER + length
        self._left = data[at:]
