"""Verification by Postgres' own programs, pg_restore and pg_verifybackup."""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from pathlib import Path

from maintd.clients.shell import Command, run
from maintd.errors import TargetError


def pg_restore(bin_dir: Path, dump: Path, timeout: timedelta) -> str:
    """Convert a whole custom dump to SQL and discard it. Returns the error output, empty on success.

    It does not detect a changed byte in uncompressed data, which has no checksum. Raises JobError when the program
    cannot be started, TargetError after the timeout.
    """
    return _errors(Command([str(bin_dir / "pg_restore"), "-f", "/dev/null", str(dump)]), timeout)


def pg_verifybackup(bin_dir: Path, folder: Path, timeout: timedelta) -> str:
    """Compare a plain base backup with its manifest, and parse its WAL. Returns and raises as `pg_restore`."""
    return _errors(Command([str(bin_dir / "pg_verifybackup"), str(folder)]), timeout)


def _errors(command: Command, timeout: timedelta) -> str:
    last: deque[str] = deque(maxlen=3)
    ended = run(command, timeout, lambda stream, line: last.append(line.strip()) if stream == "stderr" else None)
    if ended.timed_out:
        raise TargetError(f"{command.argv[0]}: timed out", "raise the entry's timeout", cause="timed_out")
    if ended.exit_code == 0:
        return ""
    return " ".join(last)[:300] or f"exited with {ended.signal or ended.exit_code}"
