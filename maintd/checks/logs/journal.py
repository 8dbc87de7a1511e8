"""Attempts to get in from systemd's journal, read by `journalctl` from a folder or a file of journals."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import which
from typing import Any

from maintd.checks.logs import logins
from maintd.checks.logs.logins import LoginReview
from maintd.errors import TargetError

FOLDERS = ("var/log/journal", "run/log/journal")
_FIELDS = "--output-fields=MESSAGE,_COMM,_PID"


@dataclass(frozen=True)
class Journal:
    """What was read of it."""

    newest: datetime | None  # of all its entries
    lines: int
    unparsed: int


def find(root: Path) -> list[Path]:
    """The host's folders of journals below the folder where its root is: the lasting one, and that of this boot."""
    return [folder for folder in (root / name for name in FOLDERS) if _patterns(folder)]


def available() -> bool:
    """Whether there is a journalctl to read it by."""
    return which("journalctl") is not None


def read(places: Sequence[Path], since: datetime, review: LoginReview, timeout: timedelta) -> Journal:
    """Add what happened in [since, review.until) to the review. Raises TargetError.

    An entry is of sshd when the journal itself says that its sender was a process of that name (`_COMM`): what
    `logger -t sshd` writes is not. An attempt to log in by a user whom nobody knows cannot forge it.
    """
    newest = None
    with _entries(places, ["--lines=1"], timeout) as entries:
        for entry in entries:
            newest = _at(entry)
    count = unparsed = 0
    if newest is not None and newest >= since:
        matches = [word for program in sorted(logins.PROGRAMS) for word in ("+", f"_COMM={program}")][1:]
        times = [f"--since=@{since.timestamp():.6f}", f"--until=@{review.until.timestamp():.6f}"]
        with _entries(places, [*times, *matches], timeout) as entries:
            for entry in entries:
                count += 1
                message = _text(entry.get("MESSAGE"))
                if message is None:
                    unparsed += 1
                    continue
                sign = logins.sign(_text(entry.get("_COMM")) or "", message)
                at = _at(entry)
                if sign is not None and since <= at < review.until:
                    review.add(at, _text(entry.get("_PID")) or "", sign)
    return Journal(newest, count, unparsed)


@contextmanager
def _entries(places: Sequence[Path], words: Sequence[str], timeout: timedelta) -> Iterator[Iterator[dict[str, Any]]]:
    program = which("journalctl")
    if program is None:
        raise TargetError("there is no journalctl", "install systemd, or name an auth.log", cause="not_configured")
    place = ", ".join(str(path) for path in places)
    patterns = [pattern for path in places for pattern in _patterns(path)]
    if not patterns:
        raise TargetError(f"{place}: no journals", "correct the path, or mount it", cause="empty")
    # --all: a field of more than 4 KiB is null without it. Not --quiet, which keeps to itself what it may not open.
    argv = [program, *(f"--file={pattern}" for pattern in patterns)]
    argv += ["--no-pager", "--all", "--output=json", _FIELDS, *words]
    with tempfile.TemporaryFile() as errors:
        # `timeout` bounds also a journalctl that hangs on a disk, which no read of its output would end.
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
            process.kill()  # when it was not read to its end; its own child ends at its next write
            process.wait()
        errors.seek(0)
        said = " ".join(errors.read(2000).decode(errors="replace").split())
    if code == 124:
        raise TargetError(f"{place}: journalctl did not end in {timeout.total_seconds():.0f} s", cause="timed_out")
    # It ends with 0 when it was not allowed to open some of the files, and with 1 when nothing matched.
    if "ermission" in said:
        raise TargetError(f"{place}: {said}", "add this process' user to the group systemd-journal", cause="denied")
    if said and code:
        raise TargetError(f"{place}: journalctl: {said}", "is it older than the journal's format?", cause="failed")


def _decoded(stream: Any, place: str) -> Iterator[dict[str, Any]]:
    for line in stream:
        if line.startswith(b"-"):
            continue  # "-- No entries --"
        try:
            found = json.loads(line)
        except ValueError as error:
            raise TargetError(f"{place}: journalctl wrote what is not JSON", cause="malformed") from error
        if isinstance(found, dict):
            yield found


def _patterns(place: Path) -> list[str]:
    """What of it journalctl is to open: a file, or the files of a folder and of the machines' folders in it."""
    try:
        if place.is_file():
            return [str(place)]
        return [f"{place}/{pattern}" for pattern in ("*.journal", "*/*.journal") if any(place.glob(pattern))]
    except OSError:
        return []


def _at(entry: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1_000_000, UTC)


def _text(value: Any) -> str | None:
    """A field's text. What is not UTF-8 comes as a list of bytes, what was given several times as a list of texts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        if all(isinstance(item, int) for item in value):
            return bytes(value).decode("utf-8", "surrogateescape")
        return _text(value[0])
    return None
