"""Logs of services in a folder: the engine's own json-files, or files of JSON lines, with their rotated ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

from maintd.checks.logs import access_log, files
from maintd.checks.logs.access_log import Denials
from maintd.checks.logs.files import LogFile
from maintd.checks.logs.scanner import EVERYTHING, Scan, needles
from maintd.clients.docker import SERVICE
from maintd.errors import TargetError

MOST_FILES = 20_000
_LOG = re.compile(r"(?P<name>.+?)(?:-json)?\.(?:log|jsonl|ndjson)")
_CONTAINER = re.compile(r"[0-9a-f]{64}")
_PROBE = 64 << 10
# A clock that was set back leaves lines out of their order: so far before the first line of the time is read, too.
_MARGIN = 1 << 20


def read(folder: Path, denials: Denials) -> None:
    """Add the denied requests of all logs below a folder. Raises TargetError when it cannot be listed or has no log."""
    logs = list(_logs(folder))
    if not logs:
        raise TargetError(f"{folder}: no logs", "files are named *.log, *.jsonl or *-json.log", cause="empty")
    for path in logs:
        service = _service(path)
        for file in files.of_log(path):
            if file.written_at < denials.since:
                continue
            if file.size:
                denials.hear(service, file.written_at)
            try:
                _read_file(file, service, denials)
            except TargetError as error:
                denials.unread.append(str(error))


def _logs(folder: Path) -> Iterator[Path]:
    """The logs, each by the name under which it is written; links to folders are not followed."""
    try:
        found = sorted(path for path, _ in zip(folder.rglob("*"), range(MOST_FILES), strict=False))
    except OSError as error:
        denied = isinstance(error, PermissionError)
        raise TargetError(
            f"{folder}: {error.strerror}", "mount it, readable", cause="denied" if denied else "empty"
        ) from error
    if len(found) == MOST_FILES:
        raise TargetError(f"{folder}: more than {MOST_FILES} files", "name a folder of logs only", cause="partial")
    return iter([path for path in found if _LOG.fullmatch(path.name) and path.is_file()])


def _service(path: Path) -> str:
    """What a person calls its writer. The engine keeps a container's labels beside its log; nothing else of that file,
    which holds the container's environment, is looked at."""
    match = _LOG.fullmatch(path.name)
    name = match["name"] if match else path.name
    if not _CONTAINER.fullmatch(name):
        return name
    try:
        about = json.loads((path.parent / "config.v2.json").read_bytes())
        return str(about["Config"]["Labels"][SERVICE])
    except (OSError, ValueError, KeyError, TypeError):
        return name[:12]


def _read_file(file: LogFile, service: str, denials: Denials) -> None:
    with files.opened(file) as stream:
        if file.packed:
            scan = Scan(EVERYTHING)
            readinto = _reading(stream)
        else:
            start = _offset(stream, file.size, denials.since)
            scan = Scan(needles(stream, start, file.size, denials.fields))
            stream.seek(start)
            readinto = _reading(stream, file.size - start)
        for line in scan.lines(readinto):
            denials.line(line, service)
    denials.bytes_read += scan.bytes_read
    denials.cut += scan.cut


class _reading:  # noqa: N801 - used as the function it stands for
    """Read a stream into a buffer, at most so many bytes: what is written meanwhile is for the next run."""

    def __init__(self, stream: BinaryIO, left: int = 1 << 62) -> None:
        self._stream, self._left = stream, left

    def __call__(self, view: memoryview) -> int:
        count = cast("int", self._stream.readinto(view[: min(len(view), self._left)]))  # type: ignore[attr-defined]
        self._left -= count
        return count


def _offset(stream: BinaryIO, size: int, since: datetime) -> int:
    """Where to begin: before the first line of the time, found by halving, since lines are in the order of their times.
    The begin of the file where lines tell no time. So only what is new is read, and no place is to be remembered."""
    low, high = 0, size  # a line that begins at or before `low` is too old; at `high` none is
    while high - low > _PROBE:
        middle = (low + high) // 2
        stream.seek(middle)
        at = _first_time(stream.read(_PROBE))
        if at is None:
            return 0
        if at < since:
            low = middle
        else:
            high = middle
    start = max(0, low - _MARGIN)
    if start:
        stream.seek(start)
        start += stream.read(_PROBE).find(b"\n") + 1
    return start


def _first_time(chunk: bytes) -> datetime | None:
    """Of the first whole line that has one."""
    for line in chunk.split(b"\n")[1:-1]:
        at = access_log.unwrapped(line).at
        if at is not None:
            return at.astimezone(UTC)
    return None
