"""Never end, and if asked to, ignore SIGTERM."""

from __future__ import annotations

import signal

from endurance.journal import journaled, pause

from maintd.job import Context, JobParams, job


class Params(JobParams):
    ignore_term: bool = False


@job(timeout="2s", repeatable=True)
def run(ctx: Context, params: Params) -> None:
    if params.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with journaled(ctx, "hanging"), ctx.phase("hang"):
        while True:
            pause(1)
