"""Attempts to get in from the files that a syslog daemon writes: auth.log or secure, with their rotated ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import BinaryIO
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from maintd.checks.logs import files, logins, syslog
from maintd.checks.logs.files import Lines, LogFile
from maintd.checks.logs.review import LoginReview
from maintd.checks.logs.syslog import SyslogLine
from maintd.checks.logs.tampering import ENDLESS, Extent, head_of
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
        for line in syslog.expanded(_parsed(lines, file, zone, found)):
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
    return syslog.parse(line.decode("utf-8", "surrogateescape"), zone, file.written_at)
