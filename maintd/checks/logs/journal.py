"""Login events from systemd's journal, read by `journalctl` from a folder or a file."""

from __future__ import annotations

import glob
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import which
from typing import Any

from maintd.checks.logs import login_messages
from maintd.checks.logs.logins import LoginSummary
from maintd.checks.logs.unfamiliar_logins import LoginForms, LoginTally
from maintd.clients.bounded import parse_json
from maintd.clients.files import shown
from maintd.clients.rooted_files import RootedFiles
from maintd.errors import TargetError
from maintd.units import duration_text

FOLDERS = ("var/log/journal", "run/log/journal")
_FIELDS = "--output-fields=MESSAGE,_COMM,_PID"
_FACILITIES = (4, 10)  # auth and authpriv


@dataclass(frozen=True)
class Journal:
    """Result of reading a journal."""

    newest: datetime | None  # time of its last entry
    tally: LoginTally  # of the entries that may be about a login


def find(root: Path) -> list[Path]:
    """Find the host's persistent and volatile journal, as paths without links, since journalctl reads them.

    root: the folder where the host's root is mounted. Raises TargetError for a folder that cannot be listed, is a link
    to nothing below the root, or has links in it, which journalctl would follow to files of this machine.
    """
    found, files = [], RootedFiles(root, "mount the host's /var/log, or set the param journal or auth_log")
    for name in FOLDERS:
        try:
            folder = files.resolved(name)
        except TargetError as error:
            if error.cause == "not_found":
                continue
            raise
        for each in (*files.glob(f"{name}/*"), *files.glob(f"{name}/*/*.journal")):
            if stat.S_ISLNK(files.status(each, follow=False).st_mode):
                raise TargetError(
                    f"{shown(root / each)}: is a link, which is not followed", files.hint, cause="unfamiliar"
                )
        if _patterns(folder):
            found.append(folder)
    return found


def available() -> bool:
    """Whether journalctl is installed."""
    return which("journalctl") is not None


def read(
    places: Sequence[Path], since: datetime, summary: LoginSummary, timeout: timedelta, forms: LoginForms
) -> Journal:
    """Add the events in [since, summary.until) to the summary. Raises TargetError.

    Entries are selected by fields that journald sets itself: `_COMM`, the name of the sending process, and for other
    programs than sshd, sudo and the like the facilities auth and authpriv of processes of root. So entries that a user
    writes with `logger -t sshd` do not count, and a login attempt cannot forge them.
    """
    newest = None
    with _entries(places, ["--lines=1"], timeout) as entries:
        for entry in entries:
            newest = _at(entry)
    tally = LoginTally(forms=forms)
    if newest is not None and newest >= since:
        matches = ["_UID=0", *(f"SYSLOG_FACILITY={number}" for number in _FACILITIES)]
        matches += [word for program in sorted(login_messages.PROGRAMS) for word in ("+", f"_COMM={program}")]
        times = [f"--since=@{since.timestamp():.6f}", f"--until=@{summary.until.timestamp():.6f}"]
        with _entries(places, [*times, *matches], timeout) as entries:
            for entry in entries:
                message, at = _text(entry.get("MESSAGE")), _at(entry)
                if message is None or at is None:
                    tally.add_not_understood(str(entry))
                    continue
                if since <= at < summary.until:
                    event = login_messages.read(_text(entry.get("_COMM")) or "", message, tally)
                    if event is not None:
                        summary.add(at, _text(entry.get("_PID")) or "", event)
    return Journal(newest, tally)


@contextmanager
def _entries(places: Sequence[Path], words: Sequence[str], timeout: timedelta) -> Iterator[Iterator[dict[str, Any]]]:
    program = which("journalctl")
    if program is None:
        raise TargetError(
            "journalctl is not installed", "install systemd, or set the param auth_log", cause="not_configured"
        )
    place = ", ".join(str(path) for path in places)
    patterns = [pattern for path in places for pattern in _patterns(path)]
    if not patterns:
        raise TargetError(f"{place}: no journals", "correct the path, or mount it", cause="empty")
    # Without --all a field of more than 4 KiB is null. --quiet would hide files that it may not open.
    argv = [program, *(f"--file={pattern}" for pattern in patterns)]
    argv += ["--no-pager", "--all", "--output=json", _FIELDS, *words]
    with tempfile.TemporaryFile() as errors:
        # `timeout` also ends a journalctl that hangs on a disk.
        process = subprocess.Popen(
            ["timeout", "--kill-after=5", f"{timeout.total_seconds():.0f}", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin", "SYSTEMD_COLORS": "0"},
        )
        assert process.stdout is not None
        try:
            yield _decoded(process.stdout, place)
            process.stdout.read()
            code = process.wait()
        finally:
            process.stdout.close()
            process.kill()  # if its output was not read to the end; journalctl ends at its next write
            process.wait()
        errors.seek(0)
        stderr = " ".join(errors.read(2000).decode(errors="replace").split())
    if code == 124:
        raise TargetError(f"{place}: journalctl did not end in {duration_text(timeout)}", cause="timed_out")
    # It exits with 0 when it may not open some of the files, and with 1 when nothing matches.
    if "ermission" in stderr:
        raise TargetError(f"{place}: {stderr}", "add this process' user to the group systemd-journal", cause="denied")
    if stderr and code:
        hint = "check whether it is older than the journal's format"
        raise TargetError(f"{place}: journalctl: {stderr}", hint, cause="failed")


def _decoded(stream: Any, place: str) -> Iterator[dict[str, Any]]:
    for line in stream:
        if line.startswith(b"-"):
            continue  # "-- No entries --"
        try:
            found = parse_json(line, place)
        except TargetError as error:
            raise TargetError(f"{place}: journalctl did not write JSON", cause="malformed") from error
        if isinstance(found, dict):
            yield found


def _patterns(place: Path) -> list[str]:
    """Return the file, or glob patterns of the journals in a folder and in its folders by machine id."""
    try:
        if place.is_file():
            return [glob.escape(str(place))]
        escaped = glob.escape(str(place))
        return [f"{escaped}/{pattern}" for pattern in ("*.journal", "*/*.journal") if any(place.glob(pattern))]
    except OSError:
        return []


def _at(entry: dict[str, Any]) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1_000_000, UTC)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return None


def _text(value: Any) -> str | None:
    """Return a field's text. journalctl writes invalid UTF-8 as a list of bytes, and a repeated field as a list."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        if all(isinstance(item, int) and 0 <= item < 256 for item in value):
            return bytes(value).decode("utf-8", "surrogateescape")
        return _text(value[0])
    return None
