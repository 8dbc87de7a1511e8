"""Lines as syslog daemons write them: a time in one of two forms, host, program, message."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo

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


def parse(text: str, zone: tzinfo, written_at: datetime) -> SyslogLine | None:
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


def expanded(lines: Iterable[SyslogLine]) -> Iterator[SyslogLine]:
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
