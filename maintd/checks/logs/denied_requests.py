"""Denied requests in the logs of services: parsed by the field with the status, never by digits in a line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from maintd.job.bounded import BoundedCounter

DENIED = (401, 403)
STATUS_FIELDS = ("status", "statusCode", "status_code", "res.statusCode", "DownstreamStatus")
"""Fields with the status in JSON logs of common loggers: Node's and Python's, pino's, Traefik's."""
_PATHS = ("path", "url", "req.url", "uri", "RequestPath")
_METHODS = ("method", "req.method", "RequestMethod")
_REMOTES = ("remote", "remoteAddress", "remote_addr", "req.remoteAddress", "ip", "ClientHost")
_TIMES = ("time", "timestamp", "@timestamp", "ts", "StartUTC")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_MORGAN = re.compile(r"(?P<method>[A-Z]{3,10}) (?P<path>\S+) (?P<status>\d{3}) [\d.]+ ms - \S+")
_COMMON = re.compile(
    r'(?P<remote>\S+) \S+ \S+ \[(?P<time>[^\]]{20,40})\] "(?P<method>[A-Z]{3,10}) (?P<path>\S+) HTTP/[\d.]+" '
    r"(?P<status>\d{3}) (?:\d+|-)(?: .*)?"
)
_STAMPED = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z) ")
_ENGINE_LINE = 16 * 1024  # the Docker engine splits longer lines, and gives each part its own time
_LONGEST = 200


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
    """A request with the response 401 or 403. `path` has no query string, which may contain a secret."""

    at: datetime | None
    status: int
    service: str
    method: str
    path: str
    remote: str


def unwrap(line: bytes) -> LogLine:
    """Remove the wrapper of the json-file driver, or the timestamp of the Docker API."""
    if (stamped := _STAMPED.match(line)) is not None:
        text = _without_stamps(line[stamped.end() :]).decode("utf-8", "surrogateescape")
        return LogLine(text.rstrip("\r"), datetime.fromisoformat(stamped[1].decode()))
    text = line.decode("utf-8", "surrogateescape")
    body = _object(text)
    if body is None or not isinstance(body.get("log"), str) or "time" not in body:
        return LogLine(text, None if body is None else _instant(_first(body, _TIMES)), body=body)
    inner = body["log"]
    return LogLine(inner.rstrip("\r\n"), _instant(body["time"]), inner.endswith("\n"))


def _without_stamps(line: bytes) -> bytes:
    """Remove the timestamps inside of a long line: a container with a TTY has no other mark where it was split."""
    at = _ENGINE_LINE
    while (stamped := _STAMPED.match(line, at)) is not None:
        line = line[:at] + line[stamped.end() :]
        at += _ENGINE_LINE
    return line


def parse_denied(line: LogLine, service: str, fields: Sequence[str] = STATUS_FIELDS) -> DeniedRequest | None:
    """Parse a denied request from a line; None when it has none."""
    body = _object(line.text) if line.body is None else line.body
    return _from_text(line, service) if body is None else _from_json(body, line, service, fields)


def is_complete(text: str) -> bool:
    """Whether a line that starts as JSON is valid JSON."""
    return text.lstrip()[:1] != "{" or _object(text) is not None


def _from_json(body: Mapping[str, Any], line: LogLine, service: str, fields: Sequence[str]) -> DeniedRequest | None:
    status = next((number for number in (_status(_at(body, field)) for field in fields) if number in DENIED), None)
    if status is None:
        return None
    named = body.get("service")
    return DeniedRequest(
        at=line.at or _instant(_first(body, _TIMES)),
        status=status,
        service=_short(named) if isinstance(named, str) and named else service,
        method=_short(_first(body, _METHODS)),
        path=_path(_first(body, _PATHS)),
        remote=_remote(_first(body, _REMOTES)),
    )


def _from_text(line: LogLine, service: str) -> DeniedRequest | None:
    """Parse morgan's `dev` format and the common log format of web servers."""
    text = _COLOURS.sub("", line.text).strip()
    match = _MORGAN.fullmatch(text) or _COMMON.fullmatch(text)
    if match is None or int(match["status"]) not in DENIED:
        return None
    found = match.groupdict()
    at = line.at
    if at is None and "time" in found:
        try:
            at = datetime.strptime(found["time"], "%d/%b/%Y:%H:%M:%S %z")
        except ValueError:
            at = None
    path, remote = _path(found["path"]), _remote(found.get("remote"))
    return DeniedRequest(at, int(found["status"]), service, found["method"], path, remote)


def _object(text: str) -> Mapping[str, Any] | None:
    if text.lstrip()[:1] != "{":
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _at(body: Mapping[str, Any], field: str) -> Any:
    """Return a field by its name, or by a dotted path into objects."""
    if field in body or "." not in field:
        return body.get(field)
    found: Any = body
    for part in field.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def _first(body: Mapping[str, Any], fields: Sequence[str]) -> Any:
    for name in fields:
        found = _at(body, name)
        if found is not None:
            return found
    return None


def _status(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return int(value) if isinstance(value, str) and value in ("401", "403") else None


def _instant(value: Any) -> datetime | None:
    """Parse ISO 8601, or seconds, milliseconds or nanoseconds since 1970."""
    try:
        if isinstance(value, str):
            at = datetime.fromisoformat(value)
            return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            scale = 1e9 if value > 1e17 else 1e3 if value > 1e11 else 1
            return datetime.fromtimestamp(value / scale, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def _path(value: Any) -> str:
    return _short(value if not isinstance(value, str) else value.split("?", 1)[0].split("#", 1)[0])


def _remote(value: Any) -> str:
    return _short(value).removeprefix("::ffff:")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else ""
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


@dataclass
class DeniedRequests:
    """Denied requests in [since, until).

    `undated` requests have no time. `truncated` counts lines whose parts could not be joined. `unread` has the errors
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
    undated: int = 0
    truncated: int = 0
    bytes_read: int = 0
    unread: list[str] = field(default_factory=list)
    active_services: set[str] = field(default_factory=set)
    newest: datetime | None = None
    _parts: dict[str, LogLine] = field(default_factory=dict)

    def add_line(self, line: bytes, service: str) -> None:
        """Parse a line of a service's log and count the denied request in it, if any; joins split lines."""
        parsed = unwrap(line)
        before = self._parts.pop(service, None)
        if before is not None:
            parsed = LogLine(before.text + parsed.text, before.at, parsed.complete)
        if not parsed.complete and len(parsed.text) <= MAX_JOINED:
            self._parts[service] = parsed
            return
        if before is not None and not is_complete(parsed.text):
            self.truncated += 1  # other lines are between its parts, or it is longer than MAX_JOINED
        found = parse_denied(parsed, service, self.fields)
        if found is not None:
            self.add(found)

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
