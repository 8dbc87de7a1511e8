"""A folder whose every file was written down with its sha256 in one list beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from maintd.checks.backups.found import listed
from maintd.checks.backups.stream import sha256_of

_PROBLEMS_KEPT = 20


def folder_list(path: Path) -> Path:
    """Where the list of a folder's files is: `NAME.sha256` beside it, as `find NAME -type f -exec sha256sum {} +`
    writes it."""
    return path.with_name(path.name + ".sha256")


def compare_folder(path: Path, progress: Callable[[int], None]) -> list[str]:
    """How the folder differs from its list, at most 20 times: files that are other, missing, or not in it.

    Raises OSError.
    """
    wanted = {
        name.removeprefix("./").removeprefix(f"{path.name}/"): sha256 for name, sha256 in listed(folder_list(path))
    }
    problems: list[str] = []
    for file in sorted(path.rglob("*")):
        if len(problems) == _PROBLEMS_KEPT:
            return problems
        name = file.relative_to(path).as_posix()
        if not file.is_file() or file.is_symlink():
            continue
        expected = wanted.pop(name, None)
        if expected is None:
            problems.append(f'"{name}" is not in the list')
        elif sha256_of(file, progress) != expected:
            problems.append(f'"{name}" has other bytes')
    return (problems + [f'"{name}" is missing' for name in sorted(wanted)])[:_PROBLEMS_KEPT]
