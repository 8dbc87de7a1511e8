"""Rotated logs: recognized by name, planned for deletion, and logrotate's own record of its rotations.

Source of the state file's format: logrotate 3.x writes lines `"/var/log/app.log" 2026-3-1-2:0:0` in local time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from maintd.clients.files import Entry, shown
from maintd.clients.rooted_files import RootedFiles
from maintd.errors import TargetError

_PACKED = r"(?:\.(?:gz|xz|zst|bz2|lz4))?"
_TIME = r"(?:[-_.T ]{1,2}\d{2}(?:[-_.:]?\d{2}){0,2}(?:[.,]\d{1,9})?Z?)?"
_DATE = rf"(?P<date>(?:19|20)\d\d(?P<joined>[-_.]?)(?:0[1-9]|1[0-2])(?P=joined)(?:0[1-9]|[12]\d|3[01])){_TIME}(?!\d)"
_INDEX = r"(?:[-_.]\d{1,6})?"
NAMES = (
    rf"(?P<base>.*[^\d]|)[-_.]*{_DATE}{_INDEX}(?P<rest>[-_.][A-Za-z]\w{{0,30}})??(?P<ending>\.log){_INDEX}{_PACKED}",
    rf"(?P<base>.+(?:\.|_)log)[-_.]+{_DATE}{_INDEX}{_PACKED}",
    rf"(?P<base>.+\.log)\.(?P<number>\d{{1,4}}){_PACKED}",
    rf"(?P<base>.+\.log){_PACKED.rstrip('?')}",
)
"""Names of rotated logs: `app-2026-03-01.log`, `access.log-20260301.gz`, `app.log.1`, `app.log.gz`.

A name with a date is one of a series whatever else applies: the date, a time and an index after it vary within it. So
these forms come before that of a compressed log, where each name is a series of its own.
"""

CLOCKS = timedelta(minutes=5)
"""Tolerated difference between the clocks of two machines."""

_DAY = timedelta(days=1) - timedelta(seconds=1)


@dataclass(frozen=True)
class Rotated:
    """A rotated log. `at` is the last second of the date in its name, or its modification time without one."""

    entry: Entry
    base: str  # path of the log that it was rotated from
    at: datetime
    number: int


@dataclass(frozen=True)
class Plan:
    """Rotated logs to delete, oldest first; old ones that are kept, with the reason; and the time of the oldest."""

    delete: tuple[Rotated, ...]
    kept: tuple[tuple[Rotated, str], ...]
    oldest_at: datetime | None  # of all rotated logs

    @property
    def size_bytes(self) -> int:
        """The disk space that the deletions free."""
        return sum(one.entry.disk_bytes for one in self.delete)


def parse_rotated(entry: Entry, names: Sequence[re.Pattern[str]]) -> Rotated | None:
    """Recognize a rotated log by its name; None when it is not one, or its date does not exist."""
    for pattern in names:
        match = pattern.fullmatch(entry.name)
        if match is None:
            continue
        found = match.groupdict()
        at = entry.modified_at
        if found.get("date"):
            try:
                day = datetime.strptime(re.sub(r"\D", "", found["date"]), "%Y%m%d").replace(tzinfo=UTC)
            except ValueError:
                continue
            at = day + _DAY
        base = found.get("base") or entry.name
        if found.get("ending"):
            base = (found["base"] or "").rstrip("-_. ") + (found.get("rest") or "") + found["ending"]
        return Rotated(entry, "/".join((*entry.parts[:-1], base)), at, int(found.get("number") or 0))
    return None


def plan(
    found: Iterable[Rotated], now: datetime, keep: timedelta, floor: int, protected: Callable[[Entry], str]
) -> Plan:
    """Plan to delete the rotated logs older than `keep`, except the `floor` newest of each log.

    protected: returns why a file must be kept, or an empty text. Only regular files are counted and deleted; a file
    with a time in the future is kept.
    """
    series: dict[str, list[Rotated]] = {}
    for one in found:
        if one.entry.regular:
            series.setdefault(one.base, []).append(one)
    delete, kept = [], []
    for copies in series.values():
        # Numbers say which is newer: copying and compressing may change the time of the last write.
        numbered = all(one.number for one in copies)
        copies.sort(key=lambda one: (one.number if numbered else 0, -one.at.timestamp(), one.number, one.entry.name))
        for one in copies[floor:]:
            if now - one.at <= keep and one.entry.modified_at <= now + CLOCKS:
                continue
            reason = _reason_to_keep(one.entry, now) or protected(one.entry)
            if reason:
                kept.append((one, reason))
            else:
                delete.append(one)
    delete.sort(key=lambda one: (one.at, -one.number, one.entry.parts))
    ages = [one.at for copies in series.values() for one in copies]
    return Plan(tuple(delete), tuple(kept), min(ages, default=None))


def _reason_to_keep(entry: Entry, now: datetime) -> str:
    if entry.modified_at > now + CLOCKS:
        return "its modification time is in the future"
    return "it has other hard links: deleting it frees nothing" if entry.status.st_nlink > 1 else ""


STATE = ("var/lib/logrotate/status", "var/lib/logrotate/logrotate.status", "var/lib/logrotate.status")

_LINE = re.compile(r'"((?:[^"\\]|\\.)*)"\s+(\d+)-(\d+)-(\d+)(?:-(\d+):(\d+):(\d+))?')
_MAX_STATE = 16 << 20  # bytes


def last_rotations(root: Path) -> Mapping[Path, datetime]:
    """Return when logrotate last rotated each log, by path on the host, in the host's local time without a zone.

    root: the folder where the host's root is mounted. Raises TargetError, with cause `empty` without a state file.
    """
    files = RootedFiles(root, "give read access to it")
    for name in STATE:
        try:
            text = files.read(name, _MAX_STATE).decode("utf-8", "surrogateescape")
        except TargetError as error:
            if error.cause == "not_found":
                continue
            raise
        if not text.startswith("logrotate state"):
            hint = "check whether it is truncated"
            raise TargetError(f"{shown(root / name)}: not a state file of logrotate", hint, cause="malformed")
        return _read(text)
    hint = "install logrotate, or set the param rotation to null if programs rotate their own logs"
    raise TargetError(f"{root / STATE[0]}: no state file", hint, cause="empty")


def _read(text: str) -> dict[Path, datetime]:
    found = {}
    for match in map(_LINE.fullmatch, text.splitlines()):
        if match is None:
            continue
        name = re.sub(r"\\(.)", r"\1", match[1])
        try:
            found[Path(name)] = datetime(*(int(number or 0) for number in match.groups()[1:]))  # type: ignore[arg-type]  # noqa: DTZ001
        except (ValueError, OverflowError):
            continue
    return found
