"""Which lock files there are, and reading each by its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from maintd.checks.packages.locked import Lock, read_bytes
from maintd.checks.packages.npm_lock import read_npm_lock
from maintd.checks.packages.python_locks import read_poetry_lock, read_requirements, read_uv_lock
from maintd.clients.files import Tree, shown
from maintd.errors import TargetError

MAX_FILES = 200
_NPM = ("package-lock.json", "npm-shrinkwrap.json")
_REQUIREMENTS = re.compile(r"requirements[\w.-]*\.txt")
UNREVIEWED = ("yarn.lock", "pnpm-lock.yaml", "bun.lock", "bun.lockb", "Pipfile.lock", "pdm.lock", "pylock.toml")
"""Lock files of known tools whose form is not read."""


@dataclass(frozen=True)
class Found:
    """Lock files below a folder, relative. `unlocked`: folders with a package.json that no lock file covers."""

    files: tuple[str, ...]
    unreviewed: tuple[str, ...]
    unlocked: tuple[str, ...]
    unread: tuple[str, ...]
    complete: bool


def find(root: Path, ignored: Callable[[str], bool]) -> Found:
    """Find the lock files below a folder. Raises TargetError."""
    wanted = {*_NPM, *UNREVIEWED, "uv.lock", "poetry.lock", "package.json"}
    with Tree(root) as tree:
        names = [
            entry.relative
            for entry in tree.walk(lambda name: name in wanted or _REQUIREMENTS.fullmatch(name) is not None)
            if not ignored(entry.relative)
        ]
        unread = tuple(tree.unread)
    locks = sorted(name for name in names if Path(name).name not in (*UNREVIEWED, "package.json"))
    unreviewed = sorted(name for name in names if Path(name).name in UNREVIEWED)
    covered = {Path(name).parent for name in [*locks, *unreviewed] if Path(name).name not in ("uv.lock", "poetry.lock")}
    projects = [Path(name).parent for name in names if Path(name).name == "package.json"]
    unlocked = sorted(shown(folder) for folder in projects if not covered & {folder, *folder.parents})
    return Found(tuple(locks[:MAX_FILES]), tuple(unreviewed), tuple(unlocked), unread, len(locks) <= MAX_FILES)


def read(path: Path, subject: str) -> Lock:
    """Read a lock file by its name. Raises TargetError."""
    name = path.name
    if name == "uv.lock":
        return read_uv_lock(read_bytes(path), subject)
    if name == "poetry.lock":
        beside = path.with_name("pyproject.toml")
        return read_poetry_lock(read_bytes(path), subject, read_bytes(beside) if beside.is_file() else None)
    if name in UNREVIEWED:
        raise TargetError(f"{subject}: this form is not read", "review it with its own tool", cause="unfamiliar")
    if name.endswith(".txt"):
        return read_requirements(path, subject)
    return read_npm_lock(read_bytes(path), subject)
