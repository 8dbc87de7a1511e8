"""Process trees as /proc shows them: which process descends from which, and how to end a whole tree.

When a parent ends, its children become children of the nearest ancestor that is a subreaper. The child of an attempt
is one, and so is the template: while the child lives, no process that it started can leave its tree, not even by setsid
and a double fork; once it is dead, the processes that it left behind are children of the template.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

OWNER = "_MAINTD_OWNER"
"""Environment variable of every process that belongs to attempts: `state dir|pid of the daemon|its start time`.
Not one of `MAINTD_…`, which are taken away from programs that jobs start."""

ORPHAN_SECONDS = 10.0
"""To wait for killed orphans to be gone; one that waits for a dead disk may take longer."""

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_F_SETSIG = 10  # linux/fcntl.h; the fcntl module has no name for it before Python 3.13
_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Have orphans among this process's descendants become its children. Raises OSError."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def die_with(lifeline: int) -> None:
    """Have the kernel kill this process group as soon as no process holds the write end of this pipe any more.

    The signal comes from the kernel, so it works on a process that hangs, ignores signals or holds Python's lock.
    """
    own = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(own, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    try:
        if os.read(own, 1) == b"":  # it was over before the signal was set up
            os.killpg(os.getpgrp(), signal.SIGKILL)
    except BlockingIOError:
        pass  # `suppress` would cost each new child 15 page faults


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if it is gone. With the pid it names a process."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def name_of(pid: int) -> str:
    """Return the command name of a process, at most 15 characters; "?" when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "?"


def is_zombie(pid: int) -> bool:
    """Whether the process has ended and waits to be reaped; True also when it is gone."""
    fields = _stat(pid)
    return fields is None or fields[0] in ("Z", "X")


def session_of(pid: int) -> int | None:
    """Return the session that a process is in, also of a zombie; None when it is gone."""
    fields = _stat(pid)
    return None if fields is None else int(fields[3])


def children_of(pid: int) -> list[int]:
    """Return the pids of its children, zombies included."""
    try:
        if len(list(os.scandir(f"/proc/{pid}/task"))) == 1:
            # Unbuffered: a template reads it after each attempt, and this takes four system calls less.
            with open(f"/proc/{pid}/task/{pid}/children", "rb", buffering=0) as file:
                return [int(word) for word in file.read().split()]
    except OSError:
        pass  # gone, or a kernel without that file
    return [child for child, parent in _parents() if parent == pid]


def descendants_of(pid: int) -> list[int]:
    """Return the pids of all its descendants, nearest first."""
    below: dict[int, list[int]] = {}
    for child, parent in _parents():
        below.setdefault(parent, []).append(child)
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = below.get(waiting.pop(0), [])
        found += children
        waiting += children
    return found


def signal_tree(pid: int, number: int) -> None:
    """Send a signal to a process group's leader, its group and all its descendants, each once or twice."""
    below = descendants_of(pid)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
    for other in below:
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(other) != pid:
                os.kill(other, number)


def kill_all(pids: list[int]) -> None:
    """SIGKILL, at once, to each of these and to all below them."""
    for pid in pids:
        for victim in (pid, *descendants_of(pid)):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(victim, signal.SIGKILL)


def wait_gone(pids: list[int], seconds: float) -> list[int]:
    """Wait at most that long for these to end; return those that are still alive (zombies are not)."""
    deadline = time.monotonic() + seconds
    left = pids
    while left := [pid for pid in left if not is_zombie(pid)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(0.005)
    return left


def owner_mark(state_dir: Path) -> str:
    """Return the value of OWNER for what this process starts."""
    return f"{state_dir.absolute()}|{os.getpid()}|{start_time(os.getpid())}"


def mark_of(pid: int) -> str | None:
    """Return the value of OWNER in the environment that a process was started with."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    prefix = f"{OWNER}=".encode()
    found = next((item for item in environ.split(b"\0") if item.startswith(prefix)), None)
    return None if found is None else found[len(prefix) :].decode(errors="replace")


def orphans_of(state_dir: Path) -> list[int]:
    """Return the pids of processes with the mark of this state directory whose owner is gone."""
    prefix = f"{state_dir.absolute()}|"
    found = []
    for pid in _pids():
        mark = mark_of(pid)
        if mark is None or not mark.startswith(prefix):
            continue
        owner, _, started = mark[len(prefix) :].partition("|")
        if owner.isdigit() and (is_zombie(int(owner)) or str(start_time(int(owner))) != started):
            found.append(pid)
    return found


def kill_orphans(state_dir: Path) -> list[int]:
    """Kill every process that an earlier daemon of this state directory left running; return their pids.

    Call it with the state directory claimed. Usually there is none: the template ends all when its daemon is gone. This
    is for when both were killed, and for processes that had left their process group.
    """
    killed: list[int] = []
    # A process that is being killed may fork once more before it is dead.
    for _ in range(20):
        found = [pid for pid in orphans_of(state_dir) if not is_zombie(pid)]
        if not found:
            break
        killed += [pid for pid in found if pid not in killed]
        kill_all(found)
        if wait_gone(found, ORPHAN_SECONDS):
            break  # what cannot be killed now is not waited for again
    return killed


def _pids() -> list[int]:
    return [int(item.name) for item in os.scandir("/proc") if item.name.isdigit()]


def _parents() -> Iterator[tuple[int, int]]:
    for pid in _pids():
        fields = _stat(pid)
        if fields is not None:
            yield pid, int(fields[1])


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on; see proc(5). The name may hold any text."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None
