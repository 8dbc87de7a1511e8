"""Denied requests, added up as they are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from maintd.checks.logs import requests
from maintd.checks.logs.requests import STATUS_FIELDS, Denied, Written
from maintd.checks.logs.tally import Tally


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
        written = requests.unwrapped(line)
        before = self._parts.pop(service, None)
        if before is not None:
            written = Written(before.text + written.text, before.at, written.whole)
        if not written.whole and len(written.text) <= MOST_JOINED:
            self._parts[service] = written
            return
        if before is not None and not requests.is_whole(written.text):
            self.cut += 1  # other lines stood between its parts, or it is longer than is joined
        found = requests.denied(written, service, self.fields)
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
