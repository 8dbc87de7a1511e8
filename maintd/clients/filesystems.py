"""How full file systems are, asked in a process that can be given up: statvfs of a dead network mount never returns."""

from __future__ import annotations

import errno
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from maintd.clients.host import Mount
from maintd.errors import TargetError

# One line for each path, as soon as it is known. -S and -I: without site packages it starts in 10 ms.
_ASK = """
import json, os, sys
for path in sys.argv[1:]:
    try:
        s, d = os.statvfs(path), os.stat(path).st_dev
        seen = [s.f_frsize, s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_favail, os.major(d), os.minor(d)]
    except OSError as error:
        seen = error.errno
    print(json.dumps(seen), flush=True)
"""
_BLIND_NUMBERS = {"btrfs"}  # each of its subvolumes has a device number of its own


@dataclass(frozen=True)
class Usage:
    """Bytes and inodes of a file system. `available` is what a user who is not root can still have."""

    size: int
    used: int
    available: int
    inodes: int  # 0 where the file system makes them as it needs them
    inodes_available: int

    @property
    def used_percent(self) -> float:
        """As `df` shows it: root's reserve counts as neither used nor available."""
        return 100 * self.used / max(self.used + self.available, 1)

    @property
    def inodes_used_percent(self) -> float | None:
        """None where inodes cannot run out."""
        return 100 * (self.inodes - self.inodes_available) / self.inodes if self.inodes else None


def usages(mounts: Sequence[Mount], timeout: timedelta) -> Iterator[tuple[Mount, Usage | TargetError]]:
    """Each mount with its use, or why that is not known: one that does not answer in `timeout` costs just that."""
    waiting = list(mounts)
    while waiting:
        for answer in _answers([str(mount.path) for mount in waiting], timeout):
            mount = waiting.pop(0)
            yield mount, _usage(mount, answer)
        if waiting:  # the first of those left hung
            mount = waiting.pop(0)
            yield (
                mount,
                TargetError(
                    f"{mount.point}: no answer in {timeout.total_seconds():g} s",
                    f"{mount.device} ({mount.kind}) hangs: is its server up? umount -l {mount.point} lets go of it",
                    cause="timed_out",
                ),
            )


def _answers(paths: Sequence[str], timeout: timedelta) -> Iterator[list[int] | int]:
    """What the asking process says, until it ends or is silent for too long; then it is killed."""
    argv = [sys.executable, "-I", "-S", "-c", _ASK, *paths]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            told, answered = b"", 0
            deadline = time.monotonic() + timeout.total_seconds()
            while answered < len(paths):
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return
                more = os.read(process.stdout.fileno(), 65536)
                if not more:
                    return
                *lines, told = (told + more).split(b"\n")
                for line in lines:
                    answered += 1
                    deadline = time.monotonic() + timeout.total_seconds()
                    yield json.loads(line)
    finally:
        process.kill()
        process.stdout.close()
        # In an uninterruptible wait not even KILL ends it before the server answers; it is left to the kernel.
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.5)


def _usage(mount: Mount, answer: list[int] | int) -> Usage | TargetError:
    if isinstance(answer, int):
        denied = answer in (errno.EACCES, errno.EPERM)
        hint = "let this process enter its parent folders" if denied else "is it still mounted?"
        cause = "denied" if denied else "failed"
        return TargetError(f"{mount.point}: {os.strerror(answer)} at {mount.path}", hint, cause=cause)
    unit, blocks, free, available, inodes, inodes_available, major, minor = answer
    if mount.number != f"{major}:{minor}" and mount.kind not in _BLIND_NUMBERS:
        return TargetError(
            f"{mount.point}: {mount.path} shows another file system",
            "mount the host's root with rslave, so that its later mounts are seen here too",
            cause="partial",
        )
    return Usage(blocks * unit, (blocks - free) * unit, available * unit, inodes, inodes_available)
