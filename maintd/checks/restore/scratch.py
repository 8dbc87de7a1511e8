"""The folder that a drill restores into, and the servers in it: both end with the drill, however it ends.

A server is a child of this process, and the kernel stops it when this process dies. What a drill that was killed leaves
is a folder with a name of its own: the daemon deletes it with the work folder of the attempt, the next drill in the
folder of a target. So that nothing outside of the folder is left, its servers have no shared memory with a name but
the 56 bytes by which Postgres locks its data folder.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import psutil

from maintd.checks.backup_sets.writer import locked, os_errors
from maintd.clients.files import shown
from maintd.clients.shell import child_environment
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.units import format_size

SOCKET_MAX = 100
"""Bytes in the path of a socket, of 107 that Linux allows."""

_NAME = re.compile(r"\.drill-[0-9a-f]{8}")
_STOP_SECONDS = 10.0
_LINES_KEPT = 5
_LOG_READ = 16 << 10
_EXTENSION = (
    "extension control file",
    "has no installation script nor update path",
    'could not access file "$libdir/',
)
_FULL = ("No space left on device", "Disk quota exceeded", "the disk is full")
_IPC_RMID = 0  # linux/ipc.h

# A program of its own, since what runs between fork and exec of a process with threads may wait for a lock for ever.
# PR_SET_PDEATHSIG (1) comes after the change of user, which would clear it; when the parent is gone already, it ends.
_GUARD = """
import ctypes, os, sys
parent, number, uid, gid, *argv = sys.argv[1:]
if int(uid):
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))
ctypes.CDLL(None).prctl(1, int(number), 0, 0, 0)
if os.getppid() != int(parent):
    sys.exit("the drill has ended")
os.execv(argv[0], argv)
"""


def guarded(argv: Sequence[str], end: signal.Signals, user: pwd.struct_passwd | None = None) -> list[str]:
    """The command that runs a program which gets the signal `end` when this process dies.

    user: whom to become before, as root. Start it in the main thread: the signal comes when the thread ends.
    """
    uid, gid = (0, 0) if user is None else (user.pw_uid, user.pw_gid)
    own = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), str(int(end)), str(uid), str(gid)]
    return [*own, *argv]


class Server:
    """A program that runs in the scratch folder until the end of a `with` block; its output is in `log`."""

    def __init__(
        self, name: str, argv: Sequence[str], log: Path, end: signal.Signals, user: pwd.struct_passwd | None = None
    ) -> None:
        """end: the signal that stops it at once. Raises TargetError when it cannot be started."""
        self.name = name
        self._log = log
        self._end = end
        with os_errors(log), log.open("ab") as out:
            self._process = subprocess.Popen(
                guarded(argv, end, user),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=log.parent,
                env={**child_environment(os.environ), "LC_ALL": "C"},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def require_alive(self) -> None:
        """Raise TargetError with its last words when it has ended."""
        code = self._process.poll()
        if code is not None:
            ended = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise TargetError(f"{self.name}: ended with {ended}: {self.last_lines()}", cause="failed")

    @property
    def pid(self) -> int:
        """Its process id; the guard before it has the same one."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it does not run any more."""
        return self._process.poll() is not None

    def wait(self, seconds: float) -> bool:
        """Whether it ended within this time."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
            return True
        return False

    def last_lines(self) -> str:
        """The end of its output."""
        with suppress(OSError), self._log.open("rb") as file:
            file.seek(max(self._log.stat().st_size - _LOG_READ, 0))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
            return shown("; ".join(lines[-_LINES_KEPT:])[-600:])
        return ""

    def stop(self) -> None:
        """Stop it at once; its data are not needed any more."""
        for number in (self._end, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(number)
                if self.wait(_STOP_SECONDS):
                    return


@contextmanager
def scratch_folder(ctx: Context, parent: Path | None, needs: int) -> Iterator[Path | None]:
    """Make an empty folder for this drill and delete it afterwards; None in a dry run.

    parent: the folder of a target, which only one drill uses at a time, and where leftovers of others are removed
    first; None: the work folder of this attempt. needs: bytes, for the record. Raises TargetError.
    """
    with ExitStack() as stack:
        place = parent if parent is not None else ctx.work_dir
        if parent is not None and not ctx.dry_run:
            stack.enter_context(locked(parent))
            remove_leftovers(ctx, parent)
        path = place / f".drill-{secrets.token_hex(4)}"
        with ctx.change("create", path, needs_bytes=needs) as allowed:
            if not allowed:
                yield None
                return
            with os_errors(path):
                path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            with ctx.change("remove", path, why="the end of the drill") as allowed:
                if allowed:
                    _remove(path)


def remove_leftovers(ctx: Context, parent: Path) -> None:
    """Remove the folders of drills that were killed, after the servers in them; the folder's lock must be held."""
    with os_errors(parent):
        found = sorted(path for path in parent.iterdir() if _NAME.fullmatch(path.name) and not path.is_symlink())
    for path in found:
        with ctx.change("remove", path, why="left by a drill that was stopped") as allowed:
            if allowed:
                _remove(path)


def require_space(ctx: Context, folder: Path, needed: int, min_free: int) -> None:
    """Require room for what is restored; without it nothing is known of the backup. Raises CheckFailedError."""
    with os_errors(folder):
        free = shutil.disk_usage(folder).free
    name, hint = "free space for the restore", f"free space on the disk of {shown(folder)}, or set scratch to another"
    if free >= needed + min_free:
        ctx.check(name, free, at_least=needed + min_free, unit="B")
        return
    text = f"{format_size(free)} free, {format_size(needed + min_free)} needed"
    ctx.unknown(name, text, expected=f"at least {format_size(needed + min_free)}", hint=hint)
    raise TargetError(f"{shown(folder)}: {text}", hint, cause="too_large")


def missing_extension(text: str) -> TargetError | None:
    """The error of an extension that this machine lacks, when this text of Postgres is about one."""
    if not any(sign in text for sign in _EXTENSION):
        return None
    hint = "install the package of the extension, in the version of the original, on this machine"
    return TargetError(f"an extension is not installed here: {text[:300]}", hint, cause="not_configured")


def full_disk(folder: Path, text: str) -> TargetError | None:
    """The error of a full scratch disk, when this text of a program is about one: it is not the backup's fault."""
    if not any(sign in text for sign in _FULL):
        return None
    hint = f"free space on the disk of {shown(folder)}, or set scratch to a folder on another"
    return TargetError(f"the disk of the scratch folder is full: {text[:200]}", hint, cause="too_large")


def user_of_servers(name: str) -> pwd.struct_passwd | None:
    """Whom Postgres runs as, which refuses to run as root; None: this process's user. Raises TargetError."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(name)
    except KeyError:
        hint = "run maintd as a user without privileges, or set run_as to one"
        raise TargetError(f'there is no user "{name}", and Postgres refuses to run as root', hint) from None


def wait_until(server: Server, ready: Callable[[], bool], limit: float, what: str) -> None:
    """Wait until `ready()` is true. Raises TargetError when the server ends before, or after so many seconds."""
    deadline = time.monotonic() + limit
    while not ready():
        server.require_alive()
        if time.monotonic() > deadline:
            text = f"{server.name}: {what}: not within {limit:.0f} s: {server.last_lines()}"
            raise TargetError(text, "raise the entry's timeout", cause="timed_out")
        time.sleep(0.02)


def _remove(path: Path) -> None:
    _stop_servers_in(path)
    for pid_file in path.glob("**/postmaster.pid"):
        _remove_shared_memory(pid_file)
    with os_errors(path):
        shutil.rmtree(path)


def _stop_servers_in(path: Path) -> None:
    """Stop programs whose arguments name this folder, which no other folder is called."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if process.pid not in own and any(str(path) in word for word in words):
            found.append(process)
    for process in found:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.send_signal(signal.SIGQUIT)
    _, alive = psutil.wait_procs(found, timeout=_STOP_SECONDS)
    for process in alive:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.kill()
    psutil.wait_procs(alive, timeout=_STOP_SECONDS)


def _remove_shared_memory(pid_file: Path) -> None:
    """Remove the segment by which a killed Postgres locked its data folder, if no process uses it.

    Line 7 of postmaster.pid has its key and its number (miscadmin.h, LOCK_FILE_LINE_SHMEM_KEY); both must agree with
    the kernel's list.
    """
    with suppress(OSError, ValueError, IndexError):
        key, number = (int(word) for word in pid_file.read_text().splitlines()[6].split())
        for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
            fields = line.split()
            if (int(fields[0]) & 0xFFFFFFFF, int(fields[1]), int(fields[6])) == (key & 0xFFFFFFFF, number, 0):
                ctypes.CDLL(None).shmctl(number, _IPC_RMID, None)
