"""Postgres' own programs on a backup: they are the reference, where those of the right version are at hand."""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from pathlib import Path

from maintd.clients.shell import Command, run
from maintd.errors import TargetError


def pg_restore(bin_dir: Path, dump: Path, timeout: timedelta) -> str:
    """Make SQL of a whole custom dump, for nobody to read. Empty when it worked, else what it said.

    Data that is not compressed has no checksum: a flipped byte in it passes. Raises JobError when it cannot be
    started, TargetError when it takes too long.
    """
    return _said(Command([str(bin_dir / "pg_restore"), "-f", "/dev/null", str(dump)]), timeout)


def pg_verifybackup(bin_dir: Path, folder: Path, timeout: timedelta) -> str:
    """Compare a plain base backup with its manifest, and parse its WAL. As `pg_restore`."""
    return _said(Command([str(bin_dir / "pg_verifybackup"), str(folder)]), timeout)


def _said(command: Command, timeout: timedelta) -> str:
    last: deque[str] = deque(maxlen=3)
    ended = run(command, timeout, lambda stream, line: last.append(line.strip()) if stream == "stderr" else None)
    if ended.timed_out:
        raise TargetError(f"{command.argv[0]}: did not end in time", "raise the entry's timeout", cause="timed_out")
    if ended.exit_code == 0:
        return ""
    return " ".join(last)[:300] or f"ended with {ended.signal or ended.exit_code}"
