"""Denied requests from log files in a folder: Docker's json-files, or JSON lines, with their rotated files."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

from maintd.checks.logs import denied_requests, log_files
from maintd.checks.logs.denied_requests import DeniedRequests
from maintd.checks.logs.log_files import LogFile, evaluated_alone
from maintd.checks.logs.scanner import Scanner
from maintd.clients.bounded import JsonLimits, parse_json
from maintd.clients.docker import SERVICE
from maintd.clients.files import shown
from maintd.errors import TargetError

MOST_FILES = 20_000
_CONFIG_LIMITS = JsonLimits(size_bytes=4 << 20)
_LOG = re.compile(r"(?P<name>.+?)(?:-json)?\.(?:log|jsonl|ndjson)")
_CONTAINER = re.compile(r"[0-9a-f]{64}")
_PROBE = 64 << 10
# Bytes before the first line of the window that are also read: when a clock is set back, lines are out of order.
_MARGIN = 1 << 20


def read(folder: Path, requests: DeniedRequests) -> None:
    """Add the denied requests of all logs below a folder.

    Raises TargetError when the folder cannot be listed or has no logs.
    """
    logs = list(_logs(folder, requests.unread))
    if not logs and not requests.unread:
        raise TargetError(f"{folder}: no logs", "files are named *.log, *.jsonl or *-json.log", cause="empty")
    for path in logs:
        service, found = path.name, list[LogFile]()
        with evaluated_alone(path, requests.unread):
            service, found = _service(path), log_files.log_files(path)
        for file in found:
            if file.written_at < requests.since:
                continue
            if file.size:
                requests.record_activity(service, file.written_at)
            with evaluated_alone(file.path, requests.unread):
                _read_file(file, service, requests)


def _logs(folder: Path, unread: list[str]) -> Iterator[Path]:
    """Yield the current files of all logs, sorted in each folder; symbolic links to folders are not followed.

    What cannot be listed or examined below the folder is added to `unread`.
    """

    def fail(error: OSError) -> None:
        if Path(error.filename) == folder:
            denied = isinstance(error, PermissionError)
            raise TargetError(
                f"{folder}: {error.strerror}", "mount it with read access", cause="denied" if denied else "empty"
            ) from error
        unread.append(f"{shown(error.filename)}: {error.strerror}")

    seen = 0
    for place, folders, names in os.walk(folder, onerror=fail):
        folders.sort()
        for name in sorted(names):
            seen += 1
            if seen > MOST_FILES:
                message = f"{folder}: more than {MOST_FILES} files"
                raise TargetError(message, "set a folder that has only logs", cause="partial")
            path = Path(place, name)
            if not _LOG.fullmatch(name):
                continue
            regular = False
            with evaluated_alone(path, unread), suppress(FileNotFoundError):  # it was rotated after it was listed
                regular = stat.S_ISREG(path.stat().st_mode)
            if regular:
                yield path


def _service(path: Path) -> str:
    """Return the name of the service that writes a log.

    Docker stores the labels of a container beside its log. Nothing else is read from that file, since it also has the
    container's environment.
    """
    match = _LOG.fullmatch(path.name)
    name = match["name"] if match else path.name
    if not _CONTAINER.fullmatch(name):
        return name
    try:
        with (path.parent / "config.v2.json").open("rb") as file:
            about = parse_json(file.read(_CONFIG_LIMITS.size_bytes + 1), "config.v2.json", _CONFIG_LIMITS)
        return str(about["Config"]["Labels"][SERVICE])
    except (OSError, TargetError, KeyError, TypeError):
        return name[:12]


def _read_file(file: LogFile, service: str, requests: DeniedRequests) -> None:
    scan = Scanner()
    with log_files.open_log(file) as stream:
        if file.packed:
            readinto = _LimitedReader(stream)
        else:
            start = _offset(stream, file.size, requests.since)
            stream.seek(start)
            readinto = _LimitedReader(stream, file.size - start)
        for line in scan.lines(readinto):
            requests.add_line(line, service)
    requests.bytes_read += scan.bytes_read
    requests.truncated += scan.skipped


class _LimitedReader:
    """Reads at most `left` bytes of a stream into buffers: what is appended during the run is left for the next one."""

    def __init__(self, stream: BinaryIO, left: int = 1 << 62) -> None:
        self._stream, self._left = stream, left

    def __call__(self, view: memoryview) -> int:
        count = cast("int", self._stream.readinto(view[: min(len(view), self._left)]))  # type: ignore[attr-defined]
        self._left -= count
        return count


def _offset(stream: BinaryIO, size: int, since: datetime) -> int:
    """Find an offset before the first line at or after `since` by binary search, since lines are ordered by time.

    0 when lines have no time. So a run reads only what is new, without storing a position.
    """
    low, high = 0, size  # lines that begin at or before `low` are too old; lines at `high` are not
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
    """The time of the first complete line that has one."""
    for line in chunk.split(b"\n")[1:-1]:
        at = denied_requests.unwrap(line).at
        if at is not None:
            return at.astimezone(UTC)
    return None
