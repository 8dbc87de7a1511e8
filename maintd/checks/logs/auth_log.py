"""Login events from auth.log or secure, with its rotated files, in the formats of syslog daemons."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import BinaryIO
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from maintd.checks.logs import log_files, login_messages
from maintd.checks.logs.log_files import UNKNOWN_SIZE, LineReader, LogFile, LogFileState, evaluated_alone, head_of
from maintd.checks.logs.logins import LoginSummary
from maintd.checks.logs.syslog import SyslogLine, expand_repeated, parse_syslog
from maintd.checks.logs.unfamiliar_logins import LoginForms, LoginTally, may_be_success
from maintd.clients.rooted_files import RootedFiles
from maintd.errors import TargetError

NAMES = ("auth.log", "secure")
# In lower case. A line without any of these is not about a login; parsing only the others takes a fifth of the time.
_MARKERS = tuple(
    b"sshd,sudo,su[,su:,su(,dropbear,repeated,fail,invalid,illegal,incorrect,denied,refused,password,unknown user,"
    b"login,logged,accept,succe,granted,authenticated,authorized".split(b",")
)
NO_FORMS = LoginForms()
_MOST_ZONE = 4096  # bytes of /etc/timezone


@dataclass
class AuthLog:
    """Result of reading one log. `newest` is the time of its last line, `unread` has the errors of unreadable files.

    `tally` counts the lines in the window that may be about a login.
    """

    path: Path
    newest: datetime | None = None
    tally: LoginTally = field(default_factory=LoginTally)
    states: list[LogFileState] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def find(root: Path) -> Path | None:
    """Find the host's log, also one that cannot be read. root: the folder where the host's root is mounted."""
    files = RootedFiles(root)
    for name in NAMES:
        for each in (name, f"{name}.1"):
            try:
                files.status(f"var/log/{each}", follow=False)
            except TargetError as error:
                if error.cause == "not_found":
                    continue
            return root / "var/log" / name
    return None


def zone_of(root: Path) -> tzinfo:
    """Return the host's time zone, which applies to times without a zone; UTC when it cannot be determined."""
    files = RootedFiles(root)
    with suppress(OSError, TargetError, ZoneInfoNotFoundError, ValueError):
        link = files.link("etc/localtime")
        return ZoneInfo(link.split("zoneinfo/", 1)[1] if "zoneinfo/" in link else link)
    with suppress(OSError, TargetError, ZoneInfoNotFoundError, ValueError):
        return ZoneInfo(files.read("etc/timezone", _MOST_ZONE).decode(errors="replace").strip())
    return UTC


def read(
    path: Path,
    since: datetime,
    summary: LoginSummary,
    zone: tzinfo,
    forms: LoginForms = NO_FORMS,
    root: Path = Path("/"),
) -> AuthLog:
    """Add the events in [since, summary.until) to the summary. Raises TargetError when there is no log.

    root: where the host's root is mounted, for a log below it. Lines are selected by their time, not by a position in
    the file. So nothing is lost or counted twice when the log is rotated, truncated or compressed between two runs. Of
    files last written before `since` only the first line is read.
    """
    found = AuthLog(path, tally=LoginTally(forms=forms))
    for file in log_files.log_files(path, root):
        errors: list[str] = []
        with evaluated_alone(file.path, errors), log_files.open_log(file) as stream:
            _read_file(file, stream, since, summary, zone, found)
        if file.written_at >= since:
            found.unread += errors
    return found


def _read_file(
    file: LogFile, stream: BinaryIO, since: datetime, summary: LoginSummary, zone: tzinfo, found: AuthLog
) -> None:
    lines = LineReader(stream)
    relevant = file.written_at >= since
    if relevant:
        for line in expand_repeated(_parsed(lines, file, zone, found)):
            if since <= line.at < summary.until:
                event = login_messages.read(line.program, line.message, found.tally, line.times)
                if event is not None:
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
        lowered = line.lower()
        if not any(word in lowered for word in _MARKERS):
            continue
        parsed = _parse(line, file, zone)
        if parsed is None:
            text = line.decode("utf-8", "surrogateescape")
            if may_be_success("", text):
                found.tally.add_possible_success(text)
            else:
                found.tally.add_not_understood(text)
        else:
            yield parsed


def _parse(line: bytes, file: LogFile, zone: tzinfo) -> SyslogLine | None:
    return parse_syslog(line.decode("utf-8", "surrogateescape"), zone, file.written_at)
