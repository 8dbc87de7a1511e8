"""Rotated logs: told by their names alone, and the plan of which to delete. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from maintd.clients.files import Entry
from maintd.errors import TargetError

_PACKED = r"\.(?:gz|xz|zst|bz2)"
_DATE = r"(?P<date>\d{4}-?\d\d-?\d\d)(?:[-_.T]?\d{2,6})?"
NAMES = (
    rf"(?P<base>.+\.log)(?:[-.]{_DATE}|\.(?P<number>\d{{1,4}}))(?:{_PACKED})?",
    rf"(?P<base>.+\.log){_PACKED}",
    rf"(?P<base>.+)[-.]{_DATE}\.log(?:{_PACKED})?",
)
"""What logrotate and its like make of `app.log`: `app.log.1`, `app.log-20260301.gz`, `app-2026-03-01.log`."""

CLOCKS = timedelta(minutes=5)
"""By which clocks of two machines may differ."""

_DAY = timedelta(days=1) - timedelta(seconds=1)


@dataclass(frozen=True)
class Rotated:
    """A rotated log. `at`: the last second of the day in its name, else when it was last written."""

    entry: Entry
    base: str  # with its folders: the log that it was
    at: datetime
    number: int


@dataclass(frozen=True)
class Plan:
    """What to delete, oldest first, and what is old enough and yet is left, with the reason."""

    delete: tuple[Rotated, ...]
    left: tuple[tuple[Rotated, str], ...]
    oldest_at: datetime | None  # of all rotated ones

    @property
    def size_bytes(self) -> int:
        """What the deletions free."""
        return sum(one.entry.disk_bytes for one in self.delete)


def rotated(entry: Entry, names: Sequence[re.Pattern[str]]) -> Rotated | None:
    """Read a name; None when it is not that of a rotated log, or its date does not exist."""
    for pattern in names:
        match = pattern.fullmatch(entry.name)
        if match is None:
            continue
        found = match.groupdict()
        at = entry.modified_at
        if found.get("date"):
            try:
                day = datetime.strptime(found["date"].replace("-", ""), "%Y%m%d").replace(tzinfo=UTC)
            except ValueError:
                continue
            at = day + _DAY
        base = found.get("base") or entry.name
        return Rotated(entry, "/".join((*entry.parts[:-1], base)), at, int(found.get("number") or 0))
    return None


def plan(found: Iterable[Rotated], now: datetime, keep: timedelta, floor: int, spared: Callable[[Entry], str]) -> Plan:
    """Those older than `keep`, but never the `floor` newest of a log, nor what is spared for a reason.

    Only regular files count, and are deleted; a time in the future is no time to go by.
    """
    series: dict[str, list[Rotated]] = {}
    for one in found:
        if one.entry.regular:
            series.setdefault(one.base, []).append(one)
    delete, left = [], []
    for copies in series.values():
        copies.sort(key=lambda one: (-one.at.timestamp(), one.number, one.entry.name))
        for one in copies[floor:]:
            if now - one.at <= keep and one.entry.modified_at <= now + CLOCKS:
                continue
            reason = _reason(one.entry, now) or spared(one.entry)
            if reason:
                left.append((one, reason))
            else:
                delete.append(one)
    delete.sort(key=lambda one: (one.at, -one.number, one.entry.parts))
    ages = [one.at for copies in series.values() for one in copies]
    return Plan(tuple(delete), tuple(left), min(ages, default=None))


def _reason(entry: Entry, now: datetime) -> str:
    if entry.modified_at > now + CLOCKS:
        return "written in the future"
    return "has other names (hard links): deleting one frees nothing" if entry.status.st_nlink > 1 else ""


STATE = ("var/lib/logrotate/status", "var/lib/logrotate/logrotate.status", "var/lib/logrotate.status")

_LINE = re.compile(r'"((?:[^"\\]|\\.)*)"\s+(\d+)-(\d+)-(\d+)(?:-(\d+):(\d+):(\d+))?')
_MOST = 16 << 20


def rotations(root: Path) -> Mapping[Path, datetime]:
    """When each log was last rotated, by its path on the host. Times are the host's local ones, without a zone.

    root: of the host, as seen from here. Raises TargetError, with cause `empty` when there is no state file.
    """
    for name in STATE:
        path = root / name
        try:
            with path.open(encoding="utf-8", errors="surrogateescape") as file:
                text = file.read(_MOST)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise TargetError(f"{path}: {error.strerror}", "give read access to it", cause="denied") from error
        if not text.startswith("logrotate state"):
            raise TargetError(f"{path}: does not begin as logrotate's state", "is it cut?", cause="malformed")
        return _read(text)
    hint = "install logrotate, or set rotation to null when the programs rotate by themselves"
    raise TargetError(f"{root / STATE[0]}: there is none", hint, cause="empty")


def _read(text: str) -> dict[Path, datetime]:
    found = {}
    for match in map(_LINE.fullmatch, text.splitlines()):
        if match is None:
            continue
        name = re.sub(r"\\(.)", r"\1", match[1])
        try:
            found[Path(name)] = datetime(*(int(number or 0) for number in match.groups()[1:]))  # type: ignore[arg-type]  # noqa: DTZ001
        except ValueError:
            continue
    return found
