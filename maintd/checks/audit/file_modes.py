"""Modes and owners of files: folders of secrets, and folders of programs with what others may write, and .env files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from maintd.checks.audit.rule import Blind, Outcome, Rule, Violation
from maintd.checks.audit.secret_names import holds_secret
from maintd.checks.hints import command, printable
from maintd.clients.causes import cause_of
from maintd.clients.files import shown
from maintd.errors import TargetError
from maintd.model.evidence import CheckStatus
from maintd.model.target import SecretsTarget

MAX_ENTRIES = 200_000
MAX_FILE = 1 << 20
FAIL, WARN = CheckStatus.FAIL, CheckStatus.WARN
_SOURCE = "OWASP Secrets Management, least privilege"

FOLDER = Rule(
    "secrets-folder-mode", FAIL, "folders of secrets that others may enter", _SOURCE, "0700", "chmod 0700 the folder"
)
FILES = Rule(
    "secrets-file-mode", FAIL, "files of secrets with rights for others", _SOURCE, "0600", "chmod 0600 the file"
)
OWNER = Rule(
    "secrets-owner",
    WARN,
    "files of secrets of another owner",
    _SOURCE,
    "the owner of the folder",
    "chown it as the folder",
)
SECRET_RULES = (FOLDER, FILES, OWNER)

WRITABLE = Rule(
    "files-world-writable",
    FAIL,
    "files that everyone may write",
    "CIS Debian Linux 12 Benchmark, 7.1.11",
    "no right o+w",
    "chmod o-w; a folder for all needs the sticky bit: chmod +t",
)
ENV_MODE = Rule("files-env-mode", FAIL, ".env files with rights for others", _SOURCE, "0600", "chmod 0600 the file")
ENV_SECRETS = Rule(
    "files-env-secrets",
    WARN,
    "secrets in .env files",
    "OWASP Secrets Management, storage",
    "NAME_FILE and a file of its own",
    "move it into a file below /run/secrets, and rotate the value",
)
TREE_RULES = (WRITABLE, ENV_MODE, ENV_SECRETS)

_EXAMPLES = (".example", ".sample", ".template", ".dist")


@dataclass(frozen=True)
class File:
    """A file or folder. variables: of an .env file, the names of those that hold a secret."""

    path: str
    mode: int
    uid: int
    folder: bool = False
    env: bool = False
    variables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listed:
    """What was found below a folder, and what was not read."""

    root: File
    files: tuple[File, ...]
    unread: tuple[str, ...] = ()


def list_secrets(target: SecretsTarget) -> Listed:
    """The files of a folder of secrets, not below it. Raises TargetError."""
    root = _root(target.path)
    try:
        with os.scandir(target.path) as names:
            files = [
                _file(name.name, name.stat()) for name in names if name.is_file() and not name.name.startswith(".")
            ]
    except OSError as error:
        raise _error(target.path, error) from error
    return Listed(root, tuple(sorted(files, key=lambda one: one.path)))


def list_tree(path: Path) -> Listed:
    """What others may write below a folder, and .env files. Links are not followed. Raises TargetError."""
    root, unread, seen = _root(path), list[str](), 0
    files: list[File] = []

    def note(error: OSError) -> None:
        unread.append(f"{shown(os.path.relpath(error.filename or path, path))}: {error.strerror}")

    for folder, folders, names in os.walk(path, onerror=note):
        for name in (*folders, *names):
            seen += 1
            full = f"{folder}/{name}"  # a Path of each name would take most of the time
            try:
                status = os.lstat(full)
            except OSError as error:
                note(error)
                continue
            if stat.S_ISLNK(status.st_mode):
                continue  # its mode means nothing
            is_env = stat.S_ISREG(status.st_mode) and _is_env(name)
            others = status.st_mode & stat.S_IWOTH and not (
                stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
            )
            if is_env or others:
                one = _file(os.path.relpath(full, path), status, env=is_env)
                files.append(one if not is_env else _with_variables(one, full, unread))
        if seen > MAX_ENTRIES:
            unread.append(f"only the first {MAX_ENTRIES:,} names were examined")
            break
    return Listed(root, tuple(files), tuple(unread))


def _root(path: Path) -> File:
    try:
        return _file(str(path), path.stat())
    except OSError as error:
        raise _error(path, error) from error


def _error(path: Path, error: OSError) -> TargetError:
    cause = "not_found" if isinstance(error, FileNotFoundError) else cause_of(error) or "failed"
    return TargetError(f"{shown(path)}: {error.strerror}", "correct the path, or give read access", cause=cause)


def _file(path: str, status: os.stat_result, *, env: bool = False) -> File:
    return File(shown(path), stat.S_IMODE(status.st_mode), status.st_uid, stat.S_ISDIR(status.st_mode), env)


def _is_env(name: str) -> bool:
    return (name == ".env" or name.startswith(".env.") or name.endswith(".env")) and not name.endswith(_EXAMPLES)


def _with_variables(one: File, full: str, unread: list[str]) -> File:
    try:
        descriptor = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        unread.append(f"{one.path}: {error.strerror}")
        return one
    if len(content) > MAX_FILE:
        unread.append(f"{one.path}: only the first {MAX_FILE >> 20} MiB was examined")
    return File(
        one.path,
        one.mode,
        one.uid,
        env=True,
        variables=tuple(dict.fromkeys(_variables(content.decode(errors="replace")))),
    )


def _variables(text: str) -> Iterator[str]:
    for line in text.splitlines():
        name, separator, value = line.strip().removeprefix("export ").partition("=")
        if separator and not name.startswith("#") and holds_secret(name.strip(), value):
            yield printable(name.strip()[:80])


def secret_outcomes(place: str, listed: Listed) -> list[Outcome]:
    """What was seen of a folder of secrets."""
    root = listed.root
    folder = [Violation("folder", f"{root.mode:04o}", command("chmod", "0700", root.path))] if root.mode & 0o077 else []
    modes = [_mode(one, root.path) for one in listed.files if one.mode & 0o077]
    owners = [
        Violation(one.path, f"uid {one.uid}, the folder {root.uid}") for one in listed.files if one.uid != root.uid
    ]
    count = len(listed.files)
    return [
        Outcome(FOLDER, place, 1, tuple(folder)),
        Outcome(FILES, place, count, tuple(modes)),
        Outcome(OWNER, place, count, tuple(owners)),
    ]


def _mode(one: File, folder: str) -> Violation:
    path = f"{folder}/{one.path}"
    return Violation(one.path, f"{one.mode:04o}", command("chmod", "0600", path), file=path)


def tree_outcomes(place: str, listed: Listed) -> list[Outcome]:
    """What was seen of a folder of programs. The number of files is not kept: a rule has the folder as its subject."""
    root = listed.root.path
    env = [one for one in listed.files if one.env]
    writable = [
        Violation(one.path, f"{one.mode:04o}", command("chmod", "o-w", f"{root}/{one.path}"), file=f"{root}/{one.path}")
        for one in listed.files
        if one.mode & stat.S_IWOTH
    ]
    if listed.root.mode & stat.S_IWOTH and not listed.root.mode & stat.S_ISVTX:
        writable.insert(0, Violation("folder", f"{listed.root.mode:04o}", command("chmod", "o-w", root)))
    modes = [_mode(one, root) for one in env if one.mode & 0o077]
    secrets = [
        Violation(one.path, ", ".join(one.variables[:8]), file=f"{root}/{one.path}") for one in env if one.variables
    ]
    blind = tuple(Blind(f"{place}: {text.partition(':')[0]}", f"partial: {text}") for text in listed.unread[:20])
    found: Sequence[tuple[Rule, list[Violation], int]] = (
        (WRITABLE, writable, max(1, len(writable))),
        (ENV_MODE, modes, len(env)),
        (ENV_SECRETS, secrets, len(env)),
    )
    return [
        Outcome(rule, place, count, tuple(violations), blind, "" if count or blind else "there is no .env file")
        for rule, violations, count in found
    ]
