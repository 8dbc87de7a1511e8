"""Denied requests in the logs of services: parsed by the field with the status, never by digits in a line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from maintd.checks.logs import access_log
from maintd.checks.logs.access_log import STATUS_FIELDS
from maintd.checks.read_tally import ReadTally
from maintd.job.bounded import BoundedCounter, BoundedDict

DENIED = (401, 403)
_STAMPED = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)) ")
_CRI = re.compile(rb"(?:stdout|stderr) ([FP]) ")  # after the time; P: a part of a line
_SHORTEST_PART = 4000  # characters: engines split at 16 KiB
_ENGINE_LINE = 16 * 1024  # the Docker engine splits longer lines, and gives each part its own time


@dataclass(frozen=True)
class LogLine:
    """A log line without the engine's wrapper. `at` is None when it has no time. `complete` is False for a part of a
    line that the engine split. `body` is its JSON, if it was parsed."""

    text: str
    at: datetime | None
    complete: bool = True
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class DeniedRequest:
    """A request with the response 401 or 403. `path` has no query string, which may contain a secret; it is empty when
    the log does not have it."""

    at: datetime | None
    status: int
    service: str
    method: str
    path: str
    remote: str


def unwrap(line: bytes) -> LogLine:
    """Remove the wrapper of the json-file driver, or the timestamp of the Docker API."""
    if (stamped := _STAMPED.match(line)) is not None:
        try:
            at = datetime.fromisoformat(stamped[1].decode()).astimezone(UTC)
        except (ValueError, OverflowError):
            return LogLine(line.decode("utf-8", "surrogateescape"), None)
        rest = line[stamped.end() :]
        if (container := _CRI.match(rest)) is not None:
            text = rest[container.end() :].decode("utf-8", "surrogateescape")
            return LogLine(text, at, complete=container[1] == b"F")
        return LogLine(_without_stamps(rest).decode("utf-8", "surrogateescape").rstrip("\r"), at)
    text = line.decode("utf-8", "surrogateescape")
    body = _object(text)
    if body is None or not isinstance(body.get("log"), str) or "time" not in body:
        return LogLine(text, None if body is None else access_log.first_time(body), body=body)
    inner = body["log"]
    return LogLine(inner.rstrip("\r\n"), access_log.parse_time(body["time"]), inner.endswith("\n"))


def _without_stamps(line: bytes) -> bytes:
    """Remove the timestamps inside of a long line: a container with a TTY has no other mark where it was split."""
    at = _ENGINE_LINE
    while (stamped := _STAMPED.match(line, at)) is not None:
        line = line[:at] + line[stamped.end() :]
        at += _ENGINE_LINE
    return line


def parse_denied(line: LogLine, service: str, fields: Sequence[str] = STATUS_FIELDS) -> DeniedRequest | None:
    """Parse a denied request from a line; None when it has none."""
    return read(line, service, fields, ReadTally())


def read(line: LogLine, service: str, fields: Sequence[str], tally: ReadTally) -> DeniedRequest | None:
    """Parse a denied request from a line that has 401 or 403 in it, and count the line: understood, about something
    else, or maybe a denied request and not understood."""
    body = _object(line.text) if line.body is None else line.body
    if body is None and (start := line.text.find("{")) > 0 and line.text.rstrip().endswith("}"):
        body = _object(line.text[start:])  # after a prefix such as a time or a name
    request = None if body is None else access_log.from_fields(body, fields)
    if request is None and (body is None or not line.text.lstrip().startswith("{")):
        request = access_log.from_text(line.text, fields)
    if request is not None:
        tally.understood += 1
        if request.status not in DENIED:
            return None
        return DeniedRequest(
            at=line.at or request.at,
            status=request.status,
            service=request.service or service,
            method=request.method,
            path=request.path,
            remote=request.remote,
        )
    if access_log.may_be_denied(line.text, body):
        tally.add_not_understood(line.text)
    else:
        tally.out_of_scope += 1
    return None


def is_complete(text: str) -> bool:
    """Whether a line that starts as JSON is valid JSON."""
    return text.lstrip()[:1] != "{" or _object(text) is not None


def _object(text: str) -> Mapping[str, Any] | None:
    if text.lstrip()[:1] != "{":
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


@dataclass
class DeniedRequests:
    """Denied requests in [since, until).

    `undated` requests have no time, those `without_path` no path. `tallies` count the lines with 401 or 403 by service.
    `truncated` counts lines whose parts could not be joined. `unread` has the errors
    of logs that could not be read. `active_services` are the services that wrote any line.
    """

    since: datetime
    until: datetime
    fields: Sequence[str] = STATUS_FIELDS
    admin_paths: Sequence[str] = ("/admin",)
    by_service: BoundedCounter[tuple[str, int]] = field(default_factory=lambda: BoundedCounter(1000))
    by_request: BoundedCounter[tuple[str, int, str, str]] = field(
        default_factory=BoundedCounter
    )  # service, status, path, remote
    admin: int = 0
    without_path: int = 0
    tallies: BoundedDict[str, ReadTally] = field(default_factory=lambda: BoundedDict(1000))
    undated: int = 0
    truncated: int = 0
    bytes_read: int = 0
    unread: list[str] = field(default_factory=list)
    active_services: set[str] = field(default_factory=set)
    newest: datetime | None = None
    tally_of_others: ReadTally = field(default_factory=ReadTally)
    _parts: dict[str, LogLine] = field(default_factory=dict)

    def add_line(self, line: bytes, service: str) -> None:
        """Parse a line of a service's log and count the denied request in it, if any; joins split lines."""
        parsed = unwrap(line)
        before = self._parts.pop(service, None)
        if before is not None and len(before.text) < _SHORTEST_PART:
            self.add_parsed(before, service)  # its end is on another line, or was never written
        elif before is not None:
            parsed = LogLine(before.text + parsed.text, before.at, parsed.complete)
        if not parsed.complete and len(parsed.text) <= MAX_JOINED:
            self._parts[service] = parsed
            return
        joined = before is not None and len(before.text) >= _SHORTEST_PART
        if joined and not is_complete(parsed.text):
            self.truncated += 1  # other lines are between its parts, or it is longer than MAX_JOINED
        self.add_parsed(parsed, service)

    def add_parsed(self, line: LogLine, service: str, at: datetime | None = None) -> None:
        """Count the denied request in a complete line, if any. at: the time of a line without one."""
        if line.at is not None and not self.since <= line.at < self.until:
            return
        found = read(line, service, self.fields, self.tally_of(service))
        if found is not None:
            self.add(replace(found, at=found.at or at))

    def tally_of(self, service: str) -> ReadTally:
        """The tally of a service; that of all others when there are too many."""
        tally = self.tallies.get(service)
        if tally is None:
            tally = ReadTally()
            if not self.tallies.set(service, tally):
                return self.tally_of_others
        return tally

    def add(self, found: DeniedRequest) -> None:
        """Count a denied request if it is in the window."""
        if found.at is None:
            self.undated += 1
            return
        if not self.since <= found.at < self.until:
            return
        self.by_service.add((found.service, found.status))
        self.by_request.add((found.service, found.status, found.path, found.remote))
        if self.of_admin(found.path):
            self.admin += 1
        elif not found.path:
            self.without_path += 1

    def of_admin(self, path: str) -> bool:
        """Whether a path is one of `admin_paths`, or below one."""
        return any(path == admin or path.startswith(f"{admin}/") for admin in self.admin_paths)

    def record_activity(self, service: str, at: datetime | None) -> None:
        """Record that a service wrote a line, the last one at this time."""
        self.active_services.add(service)
        if at is not None and (self.newest is None or at > self.newest):
            self.newest = at

    @property
    def total(self) -> int:
        """The number of denied requests."""
        return self.by_service.total


MAX_JOINED = 1 << 20  # characters of a line joined from parts
