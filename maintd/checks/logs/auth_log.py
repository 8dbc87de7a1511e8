"""Login events from auth.log or secure, with its rotated files, in the formats of syslog daemons."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import BinaryIO
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from maintd.checks.logs import log_files, logins
from maintd.checks.logs.log_files import UNKNOWN_SIZE, LineReader, LogFile, LogFileState, head_of
from maintd.checks.logs.logins import LoginSummary
from maintd.errors import TargetError

NAMES = ("auth.log", "secure")
_MARKERS = tuple(program.encode() for program in ("sshd", "sudo", "su[", "su:", "repeated"))


@dataclass
class AuthLog:
    """Result of reading one log. `newest` is the time of its last line, `unread` has the errors of unreadable files."""

    path: Path
    newest: datetime | None = None
    lines: int = 0  # of sshd, sudo and su
    unparsed: int = 0
    states: list[LogFileState] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def find(root: Path) -> Path | None:
    """Find the host's log. root: the folder where the host's root is mounted."""
    for name in NAMES:
        path = root / "var/log" / name
        if path.exists() or path.with_name(f"{name}.1").exists():
            return path
    return None


def zone_of(root: Path) -> tzinfo:
    """Return the host's time zone, which applies to times without a zone; UTC when it cannot be determined."""
    with suppress(OSError, ZoneInfoNotFoundError, ValueError):
        link = str((root / "etc/localtime").readlink())
        return ZoneInfo(link.split("zoneinfo/", 1)[1] if "zoneinfo/" in link else link)
    with suppress(OSError, ZoneInfoNotFoundError, ValueError):
        return ZoneInfo((root / "etc/timezone").read_text().strip())
    return UTC


def read(path: Path, since: datetime, summary: LoginSummary, zone: tzinfo) -> AuthLog:
    """Add the events in [since, summary.until) to the summary. Raises TargetError when there is no log.

    Lines are selected by their time, not by a position in the file. So nothing is lost or counted twice when the log is
    rotated, truncated or compressed between two runs. Of files last written before `since` only the first line is read.
    """
    found = AuthLog(path)
    for file in log_files.log_files(path):
        try:
            with log_files.open_log(file) as stream:
                _read_file(file, stream, since, summary, zone, found)
        except TargetError as error:
            if file.written_at >= since:
                found.unread.append(str(error))
    return found


def _read_file(
    file: LogFile, stream: BinaryIO, since: datetime, summary: LoginSummary, zone: tzinfo, found: AuthLog
) -> None:
    lines = LineReader(stream)
    relevant = file.written_at >= since
    if relevant:
        for line in expand_repeated(_parsed(lines, file, zone, found)):
            event = logins.parse(line.program, line.message)
            if event is not None and since <= line.at < summary.until:
                summary.add(line.at, line.pid, event, line.times)
        last = _parse(lines.last, file, zone)
        if last is not None and (found.newest is None or last.at > found.newest):
            found.newest = last.at
    else:
        next(iter(lines), None)  # reads the first line only
    size = file.size if not file.packed else lines.size if relevant else UNKNOWN_SIZE
    found.states.append(LogFileState(file.inode, size, head_of(lines.first) if lines.first else 0, file.current))


def _parsed(lines: LineReader, file: LogFile, zone: tzinfo, found: AuthLog) -> Iterator[SyslogLine]:
    for line in lines:
        if not any(word in line for word in _MARKERS):
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
    r"(?:(?P<iso>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d))"  # RFC 3339; rsyslog since Debian 12
    r"|(?P<month>[A-Z][a-z]{2}) (?P<day>[ \d]\d) (?P<clock>\d\d:\d\d:\d\d))"  # RFC 3164: no year, no zone
    r" (?P<host>\S+) (?:(?P<program>[\w./-]+)(?:\[(?P<pid>\d+)\])?: ?)?(?P<message>.*)",
    re.DOTALL,
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_REPEATED = re.compile(r"message repeated (\d{1,9}) times: \[ ?(.*)\]", re.DOTALL)
_LAST_REPEATED = re.compile(r"last message repeated (\d{1,9}) times?")


@dataclass(frozen=True)
class SyslogLine:
    """One line. `times` is more than 1 when the daemon combined repeated messages."""

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
    """Replace lines "last message repeated 3 times" by the repeated line with its number."""
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
    latest = written_at + timedelta(days=1)  # a clock may have been set
    for year in range(latest.astimezone(zone).year, latest.year - 9, -1):  # 29 February may be eight years ago
        try:
            at = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=zone)
        except ValueError:
            continue
        if at <= latest:
            return at
    return None
