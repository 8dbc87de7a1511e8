"""Take some time, with progress."""

from __future__ import annotations

import time

from maintd.job import Context, JobParams, job


class Params(JobParams):
    seconds: float = 1.0
    """How long."""


@job(timeout="2m", repeatable=True)
def run(ctx: Context, params: Params) -> None:
    parts = max(1, round(params.seconds / 0.1))
    with ctx.phase("dawdle"):
        for part in ctx.track(range(parts), unit="part"):
            time.sleep(params.seconds / parts)
            ctx.log(f"part {part + 1} of {parts}")
    ctx.check("parts", parts, at_least=1)
