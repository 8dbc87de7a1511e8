"""Do a little work and succeed, with evidence of every kind."""

from __future__ import annotations

from datetime import timedelta

from endurance.journal import journaled, pause

from maintd.job import Context, Duration, JobParams, job


class Params(JobParams):
    work: Duration = timedelta(milliseconds=50)


@job(timeout="20s", repeatable=True)
def run(ctx: Context, params: Params) -> None:
    with journaled(ctx, "steady"):
        with ctx.phase("work"):
            pause(params.work.total_seconds())
        for number in range(5):
            ctx.log(f"line {number}")
        ctx.check("work done", 1, equals=1)
        ctx.measure("work_seconds", params.work.total_seconds(), unit="s")
        ctx.save("note.txt", "done")
