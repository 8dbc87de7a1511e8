"""Which hosts can be read: in a container only those whose root and /proc are mounted, since its own are its image's.

What the kernel has only once is the host's in each container: memory, load, pressure, counters of the CPU and of disks,
open files, settings below vm. and kernel., the clock. What belongs to a namespace is the container's own: file systems,
sockets, network interfaces, settings below net., and processes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from maintd.clients import sysctl
from maintd.clients.host import root_file_system
from maintd.errors import TargetError
from maintd.model.target import HostTarget

MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))
"""Files that Docker and Podman put into each container."""
KUBERNETES = "KUBERNETES_SERVICE_HOST"
"""A variable of each container of Kubernetes, whose engines leave no file."""
HINT = "mount the host's root and /proc, and set targets.host: {local: {root: /host, proc: /host/proc}}"

_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO of Linux


def in_container() -> bool:
    """Whether the root of this process is that of an image.

    A machine whose disk was made from an image has the mark, too, and is none: there, the first process of the kernel
    has the same root file system.
    """
    marked = KUBERNETES in os.environ or any(mark.exists() for mark in MARKS)
    return marked and not (_sees_first_process() and root_file_system("1") == root_file_system("self") != "")


def _sees_first_process() -> bool:
    """Whether process 1 of /proc is the first of the kernel: of the host, also in a container with its processes."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()) == _FIRST_PID_NAMESPACE
    except OSError:
        return False


def has_root(target: HostTarget) -> bool:
    """Whether the root of a target is a host's."""
    return not (in_container() and _is_same(target.root, "/"))


def has_folder(target: HostTarget, name: str) -> bool:
    """Whether a folder below the root of a target is a host's, also if it, or one above it, is mounted by itself."""
    path = target.root / name
    return has_root(target) or any(each.is_mount() for each in (path, *path.parents[:-1]))


def has_proc(target: HostTarget) -> bool:
    """Whether the /proc of a target has the host's processes, and so its file systems and sockets."""
    return not (in_container() and _is_same(target.proc, "/proc") and not _sees_first_process())


def shares_network(target: HostTarget) -> bool:
    """Whether this process is known to be in the network namespace of a target's host."""
    return has_proc(target) and sysctl.shares_network(target.proc) is True


def _is_same(path: Path, other: str) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return path == Path(other)


def mounted(targets: Mapping[str, HostTarget]) -> dict[str, HostTarget]:
    """Those of the targets whose root is that of a host."""
    return {name: target for name, target in targets.items() if has_root(target)}


def not_mounted(what: str) -> TargetError:
    """The error of what cannot be seen of a host in this container: `its file systems`."""
    text = f"the host is not mounted into this container: {what} cannot be seen"
    return TargetError(text, HINT, cause="not_configured")
