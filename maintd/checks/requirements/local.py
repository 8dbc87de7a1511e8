"""What jobs need of this machine: programs, files and folders, and free space."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from maintd.checks.requirements.requirement import Exercise, Requirement
from maintd.checks.restore.cluster import find_programs
from maintd.clients import shell
from maintd.errors import JobError, TargetError
from maintd.units import format_size

_VERSION_TIMEOUT = 3.0  # seconds


def program(name: str, need: str, *, folder: Path | None = None, optional: bool = False) -> Requirement:
    """A program that can be run; its version is what is seen."""
    return Requirement("program", name, need, _version(name, folder), optional)


def readable_file(path: Path, need: str) -> Requirement:
    """A file that can be opened."""
    return Requirement("file", str(path), need, _reads_file)


def readable_folder(path: Path, need: str) -> Requirement:
    """A folder that can be listed."""
    return Requirement("folder", str(path), need, lists)


def lists(path: Path) -> str:
    """Exercise: the folder can be listed, at least its first hundred names."""
    try:
        with os.scandir(path) as items:
            count = sum(1 for _, item in zip(range(100), items, strict=False))
    except OSError as error:
        raise _os_error(path, error) from error
    return f"{count} items" if count < 100 else "at least 100 items"


def writes(path: Path) -> str:
    """Exercise: files in the folder may be deleted by this process; nothing is written."""
    lists(path)
    if not os.access(path, os.W_OK | os.X_OK):
        raise TargetError(
            f"{path}: is not writable for user {os.geteuid()}", "mount it writable, or change its mode", cause="denied"
        )
    return "writable"


def has_space(size_bytes: int) -> Exercise:
    """Exercise: the folder's file system has this much free space."""

    def exercise(path: Path) -> str:
        try:
            free = shutil.disk_usage(path).free
        except OSError as error:
            raise _os_error(path, error) from error
        if free < size_bytes:
            raise TargetError(
                f"{path}: {format_size(free)} free, {format_size(size_bytes)} needed", "free space", cause="failed"
            )
        return f"{format_size(free)} free"

    return exercise


def can_start(command: shell.Command) -> Exercise:
    """Exercise: the program of a command can be found and executed, as the job would; it is not run."""

    def exercise(_: Path) -> str:
        try:
            return shell.resolve_argv(command)[0]
        except JobError as error:
            raise TargetError(error.message, error.hint, cause="failed") from error

    return exercise


def server_programs(folder: Path | None) -> Exercise:
    """Exercise: Postgres' server programs are there, in this folder or where they usually are."""

    def exercise(_: Path) -> str:
        programs = find_programs(folder, 0)
        return f"postgres {programs.full_version('postgres')} in {programs.bin_dir}"

    return exercise


def _reads_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.read(1)
        return format_size(path.stat().st_size)
    except OSError as error:
        raise _os_error(path, error) from error


def _version(name: str, folder: Path | None) -> Exercise:
    def exercise(_: Path) -> str:
        found = shutil.which(name, path=None if folder is None else str(folder))
        if found is None:
            if (there := shell.not_executable(name, str(folder or os.environ.get("PATH", os.defpath)))) is not None:
                raise TargetError(there.message, there.hint, cause="denied")
            raise TargetError(
                f"{name}: there is no such program in {folder or 'PATH'}", "install it", cause="not_configured"
            )
        try:
            result = subprocess.run(
                [found, "--version"],
                capture_output=True,
                timeout=_VERSION_TIMEOUT,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TargetError(f"{found}: cannot be run: {error}", "reinstall it", cause="failed") from error
        lines = (result.stdout or result.stderr).decode(errors="replace").splitlines()
        return lines[0][:100] if lines else found

    return exercise


def _os_error(path: Path, error: OSError) -> TargetError:
    hints = {
        "denied": "allow this process's user to read it",
        "not_found": "create it, mount it, or correct the path",
    }
    cause = {PermissionError: "denied", FileNotFoundError: "not_found"}.get(type(error), "failed")
    return TargetError(f"{path}: {error.strerror}", hints.get(cause), cause=cause)
