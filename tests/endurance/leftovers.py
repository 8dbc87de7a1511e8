"""What must not exist when all runs have ended: processes, files, locks, leases, sessions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from maintd.model.run import Run
from maintd.model.status import LockHolder

KEPT = (".refused",)
"""Spools that are set aside for an operator: evidence of a claim that had ended. They are not leftovers."""


def processes(folder: Path) -> Iterator[str]:
    """Yield processes of jobs of the cluster in this folder."""
    for process in psutil.process_iter(["pid", "cmdline"]):
        try:
            environ = process.environ()
        except psutil.Error:
            continue
        if not environ.get("ENDURANCE_JOURNAL", "").startswith(f"{folder}/"):
            continue
        command = " ".join(process.info["cmdline"] or [])
        if "endurance-grandchild" in command:
            yield f"a grandchild lives: pid {process.info['pid']}"
        elif "MAINTD_ATTEMPT" in environ:
            yield f"a child lives: pid {process.info['pid']}: {command}"


def files(state_dirs: Sequence[Path]) -> Iterator[str]:
    """Yield files of ended runs in the state directories."""
    for state_dir in state_dirs:
        for name in ("spool", "work"):
            found = [path for path in (state_dir / name).rglob("*") if path.suffix not in KEPT and path.is_file()]
            if found:
                yield f"{state_dir}/{name}: {len(found)} files left, such as {found[0]}"


def claims(runs: Sequence[Run], holders: Sequence[LockHolder], leases: Sequence[int]) -> Iterator[str]:
    """Yield locks and leases; `leases` are ids of runs that have one."""
    for holder in holders:
        yield f"lock {holder.lock} is held by run {holder.run_id}"
    final = {run.id for run in runs if run.state.final}
    for run_id in leases:
        yield f"run {run_id} has a lease, and is {'over' if run_id in final else 'not over'}"


def sessions(count: int) -> Iterator[str]:
    """Yield sessions on Postgres after all daemons have stopped."""
    if count:
        yield f"{count} Postgres sessions left"
