"""Leave a mark in a journal outside of maintd, and kill the daemon or wait for the store at a chosen point.

A job of the endurance tests.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from maintd.job import Context, JobParams, job


class Params(JobParams):
    folder: Path
    name: str


@job(timeout="5m", mutates=True)
def run(ctx: Context, params: Params) -> None:
    _write(params, f"start {params.name} {ctx.run_id}")
    _point(params, f"before {params.name}")
    with ctx.change("mark", params.name) as allowed:
        if allowed:
            _write(params, f"effect {params.name} {ctx.run_id}")
    ctx.hand_over(params.name, ctx.run_id)
    _point(params, f"after {params.name}")
    _write(params, f"end {params.name} {ctx.run_id}")


def _write(params: Params, line: str) -> None:
    with (params.folder / "journal").open("a", encoding="ascii") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def _point(params: Params, point: str) -> None:
    """Cause the fault in the file `fault` if it is for this point: `kill POINT` or `store POINT`."""
    fault = params.folder / "fault"
    if not fault.exists() or fault.read_text(encoding="ascii").partition(" ")[2] != point:
        return
    kind = fault.read_text(encoding="ascii").partition(" ")[0]
    fault.unlink()
    if kind == "kill":
        os.kill(_parent(os.getppid()), signal.SIGKILL)
        time.sleep(600)  # ended with the daemon, by the lifeline
    (params.folder / "away").touch()
    deadline = time.monotonic() + 120
    while (params.folder / "away").exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def _parent(pid: int) -> int:
    """The daemon is the parent of the template process, from which this one was forked."""
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])
