"""A copy of a set by a program of the operator, such as rclone or rsync, and the proof that it is the same.

What a program answers about its own work is not evidence: the copy is verified by a second command, which compares it
with the set, or is read back where it can be reached as a folder.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from maintd.checks.backup_sets.layout import MANIFEST, SUMS, find_sets
from maintd.checks.backup_sets.writer import os_errors
from maintd.checks.backups.stream import sha256_of
from maintd.clients.files import shown
from maintd.clients.program_output import OutputExcerpt
from maintd.clients.shell import Command, run
from maintd.errors import JobError, TargetError
from maintd.job.context import Context

PLACEHOLDERS = ("set", "name")
"""`{set}`: the folder of the set; `{name}`: its name."""

_PLACEHOLDER = re.compile(r"(?<!\$)\{(\w+)\}")  # `${NAME}` is a reference, which is resolved before
_LINES_KEPT = 3
_LOG_HEAD, _LOG_TAIL = 20_000, 20_000  # bytes of the output


def check_placeholders(words: Sequence[str]) -> None:
    """Raise ValueError for a placeholder that is not known."""
    for word in words:
        for name in _PLACEHOLDER.findall(word):
            if name not in PLACEHOLDERS:
                raise ValueError(f"{{{name}}} is no placeholder: write {{set}} or {{name}}")


def filled(word: str, path: Path) -> str:
    """A word with its placeholders filled for the set of this path."""
    values = {"set": str(path), "name": path.name}
    return _PLACEHOLDER.sub(lambda found: values[found[1]], word)


def copy_by_command(ctx: Context, path: Path, argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Run the command that copies a set. Raises TargetError unless it ends with 0."""
    command = Command([filled(word, path) for word in argv], env=env)
    size = sum(file.stat().st_size for file in path.iterdir())
    with ctx.change("copy", command, bytes=size) as allowed:
        if allowed:
            _run(ctx, command)


def verify_by_command(ctx: Context, path: Path, argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Run the command that compares a copy with its set. Raises TargetError unless it ends with 0."""
    _run(ctx, Command([filled(word, path) for word in argv], env=env))


def verify_by_reading(path: Path, pattern: str) -> int:
    """Compare the files of a copy, whose folder this is, with those of the set; how many there are.

    Raises TargetError.
    """
    copy = Path(filled(pattern, path))
    with os_errors(path):
        sums = {name: sum_ for one in find_sets(path.parent) if one.path == path for name, sum_ in one.sums.items()}
        # One that is not good has no sums: what it is like now is all that a copy can be compared with.
        sums |= {file.name: sha256_of(file) for file in path.iterdir() if file.name not in sums}
    with os_errors(copy):
        found = {file.name for file in copy.iterdir()}
        missing = sorted(sums.keys() - found)
        more = sorted(found - sums.keys())
        unlike = [name for name, sum_ in sums.items() if name in found and sha256_of(copy / name) != sum_]
    problems = [f"{name} is missing" for name in missing] + [f"{name} differs" for name in unlike]
    problems += [f"{name} is not of the set" for name in more]
    if problems:
        text = f"{shown(copy)}: {'; '.join(problems[:3])}"
        raise TargetError(text, "copy the set again, and check where it is kept", cause="malformed")
    assert {MANIFEST, SUMS} <= sums.keys()
    return len(sums)


def _run(ctx: Context, command: Command) -> None:
    last: deque[str] = deque(maxlen=_LINES_KEPT)
    excerpt = OutputExcerpt(ctx.log, _LOG_HEAD, _LOG_TAIL)

    def receive(stream: str, line: str) -> None:
        excerpt.line(line if stream == "stdout" else f"stderr: {line}")
        if line.strip():
            last.append(line.strip())

    program = Path(command.argv[0]).name
    try:
        ended = run(command, max(ctx.remaining, timedelta(seconds=1)), receive)
    except JobError as error:
        raise TargetError(error.message, error.hint, cause="not_found") from error
    finally:
        excerpt.end()
    text = "; ".join(last)[-300:]
    if ended.timed_out:
        raise TargetError(f"{program}: was stopped at the end of the attempt: {text}", cause="timed_out")
    if ended.exit_code != 0:
        how = f"was ended by {ended.signal}" if ended.signal else f"ended with exit code {ended.exit_code}"
        raise TargetError(f"{program}: {how}: {text}", "see what it printed in the log", cause="failed")
