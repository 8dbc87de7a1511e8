"""What one line of a service's log says of a denied request: by its fields, never by the digits that are in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from maintd.checks.logs.bounded_counter import Tally

DENIED = (401, 403)
STATUS_FIELDS = ("status", "statusCode", "status_code", "res.statusCode", "DownstreamStatus")
"""Where JSON loggers write the status: our own, Node's and Python's, pino's, Traefik's."""
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
_ENGINE_LINE = 16 * 1024  # of a longer one the engine keeps parts, each with its own time
_LONGEST = 200


@dataclass(frozen=True)
class Written:
    """A line without what the engine put around it. `at` None: it does not tell when. `whole` is False for a part of
    a line that was too long for the engine. `body` is its JSON, where that was read already."""

    text: str
    at: datetime | None
    whole: bool = True
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Denied:
    """A request that was answered by 401 or 403. `path` is without its query, which may hold a secret."""

    at: datetime | None
    status: int
    service: str
    method: str
    path: str
    remote: str


def unwrapped(line: bytes) -> Written:
    """Out of the json-file driver's wrapper, or from behind the time that the engine's API puts before a line."""
    if (stamped := _STAMPED.match(line)) is not None:
        text = _without_stamps(line[stamped.end() :]).decode("utf-8", "surrogateescape")
        return Written(text.rstrip("\r"), datetime.fromisoformat(stamped[1].decode()))
    text = line.decode("utf-8", "surrogateescape")
    body = _object(text)
    if body is None or not isinstance(body.get("log"), str) or "time" not in body:
        return Written(text, None if body is None else _instant(_first(body, _TIMES)), body=body)
    inner = body["log"]
    return Written(inner.rstrip("\r\n"), _instant(body["time"]), inner.endswith("\n"))


def _without_stamps(line: bytes) -> bytes:
    """A terminal's log has no other sign of where the engine cut a line than the time before each part."""
    at = _ENGINE_LINE
    while (stamped := _STAMPED.match(line, at)) is not None:
        line = line[:at] + line[stamped.end() :]
        at += _ENGINE_LINE
    return line


def denied(written: Written, service: str, fields: Sequence[str] = STATUS_FIELDS) -> Denied | None:
    """The denied request that a line tells of, or None."""
    body = _object(written.text) if written.body is None else written.body
    return _of_text(written, service) if body is None else _of_json(body, written, service, fields)


def is_whole(text: str) -> bool:
    """Whether a line that begins as JSON ends as such."""
    return text.lstrip()[:1] != "{" or _object(text) is not None


def _of_json(body: Mapping[str, Any], written: Written, service: str, fields: Sequence[str]) -> Denied | None:
    status = next((number for number in (_status(_at(body, field)) for field in fields) if number in DENIED), None)
    if status is None:
        return None
    named = body.get("service")
    return Denied(
        at=written.at or _instant(_first(body, _TIMES)),
        status=status,
        service=_short(named) if isinstance(named, str) and named else service,
        method=_short(_first(body, _METHODS)),
        path=_path(_first(body, _PATHS)),
        remote=_remote(_first(body, _REMOTES)),
    )


def _of_text(written: Written, service: str) -> Denied | None:
    """Lines of morgan's `dev` format, and of the common log format of web servers."""
    text = _COLOURS.sub("", written.text).strip()
    match = _MORGAN.fullmatch(text) or _COMMON.fullmatch(text)
    if match is None or int(match["status"]) not in DENIED:
        return None
    found = match.groupdict()
    at = written.at
    if at is None and "time" in found:
        try:
            at = datetime.strptime(found["time"], "%d/%b/%Y:%H:%M:%S %z")
        except ValueError:
            at = None
    path, remote = _path(found["path"]), _remote(found.get("remote"))
    return Denied(at, int(found["status"]), service, found["method"], path, remote)


def _object(text: str) -> Mapping[str, Any] | None:
    if text.lstrip()[:1] != "{":
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _at(body: Mapping[str, Any], field: str) -> Any:
    """A field by its own name, or by a dotted path into objects."""
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
    """From ISO 8601, or from a number of seconds, milliseconds or nanoseconds since 1970."""
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
class Denials:
    """What was read of [since, until). `undated` were denied at an unknown time, `cut` lines could not be put together,
    `unread` is what could not be read, and why; `heard` are the services that wrote anything at all."""

    since: datetime
    until: datetime
    fields: Sequence[str] = STATUS_FIELDS
    admin_paths: Sequence[str] = ("/admin",)
    by_service: Tally[tuple[str, int]] = field(default_factory=lambda: Tally(1000))
    by_request: Tally[tuple[str, int, str, str]] = field(default_factory=Tally)  # service, status, path, remote
    admin: int = 0
    undated: int = 0
    cut: int = 0
    bytes_read: int = 0
    unread: list[str] = field(default_factory=list)
    heard: set[str] = field(default_factory=set)
    newest: datetime | None = None
    _parts: dict[str, Written] = field(default_factory=dict)

    def line(self, line: bytes, service: str) -> None:
        """Take in a line of a service's log that may tell of one."""
        written = unwrapped(line)
        before = self._parts.pop(service, None)
        if before is not None:
            written = Written(before.text + written.text, before.at, written.whole)
        if not written.whole and len(written.text) <= MOST_JOINED:
            self._parts[service] = written
            return
        if before is not None and not is_whole(written.text):
            self.cut += 1  # other lines stood between its parts, or it is longer than is joined
        found = denied(written, service, self.fields)
        if found is not None:
            self.add(found)

    def add(self, found: Denied) -> None:
        """Count one, when it was within the time."""
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
        """Whether a path is one of administrators', or below one."""
        return any(path == admin or path.startswith(f"{admin}/") for admin in self.admin_paths)

    def hear(self, service: str, at: datetime | None) -> None:
        """A service wrote something, last at this time."""
        self.heard.add(service)
        if at is not None and (self.newest is None or at > self.newest):
            self.newest = at

    @property
    def total(self) -> int:
        """All of them."""
        return self.by_service.total


MOST_JOINED = 1 << 20  # characters of a line that the engine cut into parts
