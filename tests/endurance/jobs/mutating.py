"""Change something that only one process may change at a time, and only once per run."""

from __future__ import annotations

from datetime import timedelta

from endurance.journal import journaled, pause

from maintd.job import Context, Duration, JobParams, job


class Params(JobParams):
    work: Duration = timedelta(milliseconds=700)


@job(timeout="20s", mutates=True, locks={"thing": "exclusive"})
def run(ctx: Context, params: Params) -> None:
    with journaled(ctx, "mutating", lock="thing") as book:
        with ctx.change("change", "thing"):
            pause(params.work.total_seconds())
        book.check("thing changed", 1)
