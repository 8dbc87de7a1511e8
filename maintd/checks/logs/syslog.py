"""Lines of syslog daemons: time, program, process id and message, in the framings that they write to files.

Known framings: RFC 3164 as of rsyslog and syslog-ng; RFC 5424; RFC 3339 times; and what other daemons put before the
tag: busybox `auth.info`, FreeBSD `<auth.info>`, Solaris `[ID 800047 auth.info]`, a priority `<38>`; no host; a year.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo

_TIME = re.compile(
    r"(?:<\d{1,3}>)?(?P<rfc5424>1 )?"
    r"(?:(?P<date>\d{4}-\d\d-\d\d)[T ](?P<time>\d\d:\d\d:\d\d)(?:[.,](?P<fraction>\d{1,9}))?"
    r"(?: ?(?P<offset>Z|[+-]\d\d:?\d\d))?"
    r"|(?:(?P<year>\d{4}) )?(?P<month>[A-Z][a-z]{2}) +(?P<day>\d{1,2}) (?:(?P<year2>\d{4}) )?"
    r"(?P<clock>\d\d:\d\d:\d\d)(?:\.\d{1,9})?(?: (?P<year3>\d{4})(?= ))?)"
    r"(?:\s+(?P<rest>.*)|$)",
    re.DOTALL,
)
_RFC5424 = re.compile(
    r"(?P<host>\S+) (?P<program>\S+) (?P<pid>\S+) (?P<id>\S+) (?:-|(?:\[(?:[^\]\\]|\\.)*\])+)(?: (?P<message>.*)|$)",
    re.DOTALL,
)
_FACILITY = (
    r"(?:kern|user|mail|daemon|auth|authpriv|security|syslog|lpr|news|uucp|cron|ftp|ntp|audit|console|local[0-7])\."
    r"(?:emerg|panic|alert|crit|err|error|warn|warning|notice|info|debug)"
)
_BEFORE_TAG = re.compile(rf"(?:<[\w.]{{1,20}}>|\[ID \d{{1,9}} \w+\.\w+\]|\[?{_FACILITY}\]?:?)(?:\s+|$)")
_TAG = re.compile(
    r"(?P<program>[\w./@+-]+)(?:\([\w.-]*\))?(?:\[(?P<pid>\d+)\](?::(?:\s|$)|(?=\s))|:(?:\s|$))(?P<message>.*)",
    re.DOTALL,
)
_HOST = re.compile(r"\S+\s+")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_REPEATED = re.compile(r"message repeated (\d{1,9}) times: \[ ?(.*)\]", re.DOTALL)
_LAST_REPEATED = re.compile(r"last message repeated (\d{1,9}) times?")


@dataclass(frozen=True)
class SyslogLine:
    """One line. `program` has no folder. `times` is more than 1 when the daemon combined repeated messages."""

    at: datetime
    program: str
    pid: str
    message: str
    times: int = 1


def parse_syslog(text: str, zone: tzinfo, written_at: datetime) -> SyslogLine | None:
    """Parse a line without its line end; None when it is not a syslog line.

    A time without a year is the latest one not after `written_at`, so that December is in the previous year when read
    in January. zone: of times without a zone.
    """
    match = _TIME.match(text.lstrip("\0"))
    if match is None:
        return None
    at = _instant(match, zone) if match["date"] else _without_year(match, zone, written_at)
    if at is None or not 1 < at.year < 9999:  # the first and last years have no time in other zones
        return None
    rest = match["rest"] or ""
    modern = _RFC5424.fullmatch(rest) if match["rfc5424"] else None
    if modern is not None:
        program, pid, message = (modern[name] or "" for name in ("program", "pid", "message"))
        message = message.removeprefix("\ufeff")
    else:
        program, pid, message = _split(rest)
    times = 1
    if (repeated := _REPEATED.fullmatch(message)) is not None:
        times, message = int(repeated[1]), repeated[2]
    return SyslogLine(at.astimezone(UTC), program.rpartition("/")[2], pid, message, times)


def expand_repeated(lines: Iterable[SyslogLine]) -> Iterator[SyslogLine]:
    """Replace lines "last message repeated 3 times" by the repeated line with its number."""
    last: SyslogLine | None = None
    for line in lines:
        repeated = _LAST_REPEATED.fullmatch(line.message) if not line.program else None
        if repeated is None:
            yield line
            last = line
        elif last is not None:
            yield replace(last, at=line.at, times=int(repeated[1]))


def _split(rest: str) -> tuple[str, str, str]:
    """Return program, process id and message of what follows the time; an empty program without a tag."""
    host_seen = False
    while True:
        if (framing := _BEFORE_TAG.match(rest)) is not None:
            rest = rest[framing.end() :]
        elif (tag := _TAG.match(rest)) is not None:
            message = tag["message"]
            if (framing := _BEFORE_TAG.match(message)) is not None and message.startswith("[ID "):
                message = message[framing.end() :]
            return tag["program"], tag["pid"] or "", message.removeprefix(" ")
        elif _LAST_REPEATED.fullmatch(rest) or host_seen or (host := _HOST.match(rest)) is None:
            return "", "", rest
        else:
            rest, host_seen = rest[host.end() :], True


def _instant(match: re.Match[str], zone: tzinfo) -> datetime | None:
    text = f"{match['date']}T{match['time']}.{(match['fraction'] or '0')[:6]:0<6}"
    try:
        at = datetime.fromisoformat(text + (match["offset"] or ""))
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=zone)


def _without_year(match: re.Match[str], zone: tzinfo, written_at: datetime) -> datetime | None:
    if match["month"] not in _MONTHS:
        return None
    month, day = _MONTHS.index(match["month"]) + 1, int(match["day"])
    hour, minute, second = (int(part) for part in match["clock"].split(":"))
    latest = written_at + timedelta(days=1)  # a clock may have been set
    named = match["year"] or match["year2"] or match["year3"]
    # 29 February may be eight years ago.
    years = [int(named)] if named else range(latest.astimezone(zone).year, latest.year - 9, -1)
    for year in years:
        try:
            at = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=zone)
        except ValueError:
            continue
        if named or at <= latest:
            return at
    return None
