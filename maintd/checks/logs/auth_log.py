"""Attempts to get in from the files that a syslog daemon writes: auth.log or secure, with their rotated ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import BinaryIO
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from maintd.checks.logs import files, logins
from maintd.checks.logs.files import ENDLESS, Extent, Lines, LogFile, head_of
from maintd.checks.logs.logins import LoginReview
from maintd.errors import TargetError

NAMES = ("auth.log", "secure")
_SAID = tuple(program.encode() for program in ("sshd", "sudo", "su[", "su:", "repeated"))


@dataclass
class AuthLog:
    """What was read of one log. `newest` is the time of its last line, `unread` what could not be read, and why."""

    path: Path
    newest: datetime | None = None
    lines: int = 0  # that could be about logins
    unparsed: int = 0
    extents: list[Extent] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def find(root: Path) -> Path | None:
    """The host's log of this kind, below the folder where its root is."""
    for name in NAMES:
        path = root / "var/log" / name
        if path.exists() or path.with_name(f"{name}.1").exists():
            return path
    return None


def zone_of(root: Path) -> tzinfo:
    """The host's time zone, in which lines without one are; UTC when it does not tell."""
    with suppress(OSError, ZoneInfoNotFoundError, ValueError):
        link = str((root / "etc/localtime").readlink())
        return ZoneInfo(link.split("zoneinfo/", 1)[1] if "zoneinfo/" in link else link)
    with suppress(OSError, ZoneInfoNotFoundError, ValueError):
        return ZoneInfo((root / "etc/timezone").read_text().strip())
    return UTC


def read(path: Path, since: datetime, review: LoginReview, zone: tzinfo) -> AuthLog:
    """Add what happened in [since, review.until) to the review. Raises TargetError when there is no log at all.

    The time of each line decides, not how far the log was read before: so nothing is lost or counted twice when it is
    rotated, copied and cut, or compressed between two runs. Files last written before are not read but for their
    first line.
    """
    found = AuthLog(path)
    for file in files.of_log(path):
        try:
            with files.opened(file) as stream:
                _read_file(file, stream, since, review, zone, found)
        except TargetError as error:
            if file.written_at >= since:
                found.unread.append(str(error))
    return found


def _read_file(
    file: LogFile, stream: BinaryIO, since: datetime, review: LoginReview, zone: tzinfo, found: AuthLog
) -> None:
    lines = Lines(stream)
    relevant = file.written_at >= since
    if relevant:
        for line in expand_repeated(_parsed(lines, file, zone, found)):
            sign = logins.sign(line.program, line.message)
            if sign is not None and since <= line.at < review.until:
                review.add(line.at, line.pid, sign, line.times)
        last = _parse(lines.last, file, zone)
        if last is not None and (found.newest is None or last.at > found.newest):
            found.newest = last.at
    else:
        next(iter(lines), None)  # its first line is all that is wanted
    size = file.size if not file.packed else lines.size if relevant else ENDLESS
    found.extents.append(Extent(file.inode, size, head_of(lines.first) if lines.first else 0, file.current))


def _parsed(lines: Lines, file: LogFile, zone: tzinfo, found: AuthLog) -> Iterator[SyslogLine]:
    for line in lines:
        if not any(word in line for word in _SAID):
            continue
        found.lines += 1
        parsed = _parse(line, file, zone)
        if parsed is None:
            found.unparsed += 1
        else:
            yield parsed


def _parse(line: bytes, file: LogFile, zone: tzinfo) -> SyslogLine | None:
    return parse_syslog(line.decode("utf-8", "surrogateescape"), zone, file.written_at)


_LINE = re.compile(
    r"(?:(?P<iso>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d))"  # RFC 3339, of rsyslog since Debian 12
    r"|(?P<month>[A-Z][a-z]{2}) (?P<day>[ \d]\d) (?P<clock>\d\d:\d\d:\d\d))"  # RFC 3164: no year, no zone
    r" (?P<host>\S+) (?:(?P<program>[\w./-]+)(?:\[(?P<pid>\d+)\])?: ?)?(?P<message>.*)",
    re.DOTALL,
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_REPEATED = re.compile(r"message repeated (\d{1,9}) times: \[ ?(.*)\]", re.DOTALL)
_LAST_REPEATED = re.compile(r"last message repeated (\d{1,9}) times?")


@dataclass(frozen=True)
class SyslogLine:
    """One line; `times` is more than 1 where the daemon wrote it once for several."""

    at: datetime
    program: str
    pid: str
    message: str
    times: int = 1


def parse_syslog(text: str, zone: tzinfo, written_at: datetime) -> SyslogLine | None:
    """A line without its end, or None when it is not one. A time without a year is the latest that is not after the
    file was last written, so that December is read rightly in January."""
    match = _LINE.fullmatch(text.lstrip("\0"))
    if match is None:
        return None
    at = datetime.fromisoformat(match["iso"]) if match["iso"] else _dated(match, zone, written_at)
    if at is None:
        return None
    times, message = 1, match["message"]
    if (repeated := _REPEATED.fullmatch(message)) is not None:
        times, message = int(repeated[1]), repeated[2]
    return SyslogLine(at.astimezone(UTC), match["program"] or "", match["pid"] or "", message, times)


def expand_repeated(lines: Iterable[SyslogLine]) -> Iterator[SyslogLine]:
    """The lines, with "last message repeated 3 times" put as what was repeated."""
    last: SyslogLine | None = None
    for line in lines:
        repeated = _LAST_REPEATED.fullmatch(line.message) if not line.program else None
        if repeated is None:
            yield line
            last = line
        elif last is not None:
            yield replace(last, at=line.at, times=int(repeated[1]))


def _dated(match: re.Match[str], zone: tzinfo, written_at: datetime) -> datetime | None:
    if match["month"] not in _MONTHS:
        return None
    month, day = _MONTHS.index(match["month"]) + 1, int(match["day"])
    hour, minute, second = (int(part) for part in match["clock"].split(":"))
    latest = written_at + timedelta(days=1)  # the clock may have been set since
    for year in range(latest.astimezone(zone).year, latest.year - 9, -1):  # a 29 February may be eight years back
        try:
            at = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=zone)
        except ValueError:
            continue
        if at <= latest:
            return at
    return None
