"""Options of a host's mounts with which data can be lost, or each read writes."""

from __future__ import annotations

from collections.abc import Iterable

from maintd.checks.host.mounted import has_proc, not_mounted
from maintd.clients import host
from maintd.clients.host import Mount
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.model.target import HostTarget

_UNSAFE = frozenset({"nobarrier", "barrier=0", "data=writeback", "nointegrity", "norecovery"})
"""After a loss of power, what was synced may be gone, or a file has another one's old data."""
_SLOW = frozenset({"strictatime"})

_SOURCE = "mount(8), ext4(5), xfs(5)"


def collect(target: HostTarget, name: str) -> list[Mount]:
    """The real file systems of a host. Raises TargetError."""
    machine = host.connect(target, name=name)
    if not has_proc(machine.target):
        raise not_mounted("its mounts")
    return machine.mounts()


def report(ctx: Context, name: str, mounts: Iterable[Mount]) -> None:
    """Report each mount."""
    for mount in mounts:
        options = set(mount.options)
        found = sorted(options & (_UNSAFE | _SLOW))
        severity = CheckStatus.FAIL if options & _UNSAFE else CheckStatus.WARN
        hint = f"remove {', '.join(found)} from its line in /etc/fstab, then mount it again"
        check = f"host {name}: {mount.point}: mount options"
        ctx.check(
            check,
            ", ".join(found) or "sound",
            equals="sound",
            severity=severity,
            hint=hint if found else "",
            rule=_SOURCE,
        )
