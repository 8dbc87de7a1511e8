"""Logs of containers by the engine's API, which needs no access to its files."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from http.client import HTTPConnection, HTTPException, HTTPResponse

from maintd.checks.logs.access_log import Denials
from maintd.checks.logs.scanner import BLOCK, Scan
from maintd.clients import docker
from maintd.clients.docker import Container, Docker
from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.target import DockerTarget

_HEADER = 8  # bytes before each part of a log: its stream, three zeros, its length
_PATIENCE = timedelta(seconds=60)
_STAMP = 40  # characters of a time at most, with the space after it


def read(target: DockerTarget, name: str, denials: Denials) -> None:
    """Add the denied requests of all containers of a project that ran within the time. Raises TargetError.

    What cannot be read of one container is noted, and hides no other.
    """
    with docker.connect(target, name=name) as engine:
        for container in engine.containers(target.project):
            if container.started_at is None or _ended_before(container, denials.since):
                continue
            try:
                _read_container(engine, container, denials, target)
            except TargetError as error:
                denials.unread.append(str(error))


def _ended_before(container: Container, since: datetime) -> bool:
    ended = container.finished_at
    return container.state != "running" and ended is not None and ended < since


def _read_container(engine: Docker, container: Container, denials: Denials, target: DockerTarget) -> None:
    with docker.translated(f"{engine.name}: {container.label}"):
        api = engine.client.api
        terminal = bool(api.inspect_container(container.id)["Config"].get("Tty"))
        since, until = denials.since.timestamp(), denials.until.timestamp()
        wanted = f"stdout=1&stderr=1&timestamps=1&since={since:.6f}&until={until:.6f}"
        with closing(_connection(target)) as connection:
            connection.request("GET", f"/v{api.api_version}/containers/{container.id}/logs?{wanted}")
            with closing(connection.getresponse()) as answer:
                if answer.status >= 400:
                    raise _refusal(answer, f"{engine.name}: {container.label}")
                scan = Scan()
                for line in scan.lines(_Demultiplexed(answer, terminal).readinto):
                    denials.line(line, container.label)
    if scan.bytes_read:
        denials.hear(container.label, denials.until)  # the engine hands out only what is of the time
    denials.bytes_read += scan.bytes_read
    denials.cut += scan.cut


class _Connection(HTTPConnection):
    """To the engine, by HTTP/1.0: in an answer of HTTP/1.1 each line of a log is a chunk by itself, whose reading takes
    three times as long as the engine's own work, which is about 25 MB/s."""

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
    # The engine reads a log from its begin, and says nothing until it has come to the time that is asked for.
    seconds = max(target.timeout, _PATIENCE).total_seconds()
    scheme, _, place = resolved(target).url.partition("://")
    if scheme == "unix":
        return _Connection("localhost", f"/{place.lstrip('/')}", seconds)
    host = place.rstrip("/")
    return _Connection(host if ":" in host else f"{host}:2375", "", seconds)


def _refusal(answer: HTTPResponse, what: str) -> TargetError:
    try:
        said = str(json.loads(answer.read(4096))["message"])
    except (ValueError, KeyError, TypeError):
        said = answer.reason
    denied = answer.status in (401, 403)
    hint = "allow it in the socket proxy's rules" if denied else "use the json-file or local driver, or Loki"
    text = f"{what}: the engine answered {answer.status}: {' '.join(said.split())[:300]}"
    return TargetError(text, hint, cause="denied" if denied else "failed")


class _Demultiplexed:
    """The engine's stream of parts as one text: parts of a line that it cut are put together again, by stream."""

    def __init__(self, answer: HTTPResponse, terminal: bool) -> None:
        self._answer, self._terminal = answer, terminal
        self._ready = bytearray()
        self._left = b""
        self._line: dict[int, list[bytes]] = {}  # by stream: parts of a line that did not end yet

    def readinto(self, view: memoryview) -> int:
        """As a file's."""
        while not self._ready:
            try:
                data = self._answer.read(1 << 20)
            except HTTPException as error:
                raise TargetError(f"the engine broke off its log: {error}", cause="partial") from error
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
        made: list[bytes] = []
        for stream, part in self._parts(data):
            going_on = self._line.get(stream)
            if going_on:
                part = part[part.find(b" ", 0, _STAMP) + 1 :]
            if part.endswith(b"\n"):
                if going_on:
                    made += going_on
                    self._line[stream] = []
                made.append(part)
            elif len(self._line.setdefault(stream, [])) < 1024:
                self._line[stream].append(part)
        self._ready += b"".join(made)

    def _parts(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        at, end = 0, len(data)
        while at + _HEADER <= end:
            if data[at] > 3 or data[at + 1 : at + 4] != b"\0\0\0":
                raise TargetError("the engine's stream of logs is not in parts", cause="malformed")
            length = int.from_bytes(data[at + 4 : at + _HEADER], "big")
            if at + _HEADER + length > end:
                break
            yield data[at], data[at + _HEADER : at + _HEADER + length]
            at += _HEADER + length
        self._left = data[at:]
