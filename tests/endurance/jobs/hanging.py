"""Never end, and ignore being asked to."""

from __future__ import annotations

import signal

from endurance.journal import journaled, pause

from maintd.job import Context, JobParams, job


class Params(JobParams):
    deaf: bool = False


@job(timeout="2s", repeatable=True)
def run(ctx: Context, params: Params) -> None:
    if params.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with journaled(ctx, "hanging"), ctx.phase("hang"):
        while True:
            pause(1)
