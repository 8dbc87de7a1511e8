"""Logs of containers by the engine's API, which needs no access to its files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from typing import Any

import requests as http
from docker.errors import APIError
from urllib3.exceptions import HTTPError

from maintd.errors import TargetError
from maintd.settings import DockerTarget
from maintd.targets import docker
from maintd.targets.docker import Container, Docker
from maintd.targets.logs.denials import Denials
from maintd.targets.logs.scan import BLOCK, Scan

_HEADER = 8  # bytes before each part of a log: its stream, three zeros, its length
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
                _read_container(engine, container, denials, target.timeout.total_seconds())
            except TargetError as error:
                denials.unread.append(f"{container.label}: {error}")


def _ended_before(container: Container, since: datetime) -> bool:
    ended = container.finished_at
    return container.state != "running" and ended is not None and ended < since


def _read_container(engine: Docker, container: Container, denials: Denials, seconds: float) -> None:
    with docker.translated(f"{engine.name}: {container.label}"):
        api = engine.client.api
        terminal = bool(api.inspect_container(container.id)["Config"].get("Tty"))
        # Not by the SDK's `logs`, which hands out each line by itself: 1 GiB of them takes it minutes.
        wanted: dict[str, str] = {
            "stdout": "1",
            "stderr": "1",
            "timestamps": "1",
            "since": f"{denials.since.timestamp():.6f}",
            "until": f"{denials.until.timestamp():.6f}",
        }
        answer = api.get(
            f"{api.base_url}/v{api.api_version}/containers/{container.id}/logs",
            params=wanted,
            stream=True,
            timeout=seconds,
        )
        with closing(answer):
            if answer.status_code >= 400:
                raise APIError(_said(answer), response=answer)
            scan = Scan()
            source = _Demultiplexed(answer.raw, terminal)
            for line in scan.lines(source.readinto):
                denials.line(line, container.label)
    if scan.bytes_read:
        denials.hear(container.label, denials.until)  # the engine hands out only what is of the time
    denials.bytes_read += scan.bytes_read
    denials.cut += scan.cut


def _said(answer: http.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]


class _Demultiplexed:
    """The engine's stream of parts as one text: parts of a line that it cut are put together again, by stream."""

    def __init__(self, raw: Any, terminal: bool) -> None:
        self._raw, self._terminal = raw, terminal
        self._ready = bytearray()
        self._left = b""
        self._line: dict[int, list[bytes]] = {}  # by stream: parts of a line that did not end yet

    def readinto(self, view: memoryview) -> int:
        """As a file's."""
        while not self._ready:
            try:
                data = self._raw.read(1 << 20)
            except HTTPError as error:
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
