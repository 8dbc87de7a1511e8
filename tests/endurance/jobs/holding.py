"""Hold a lock for longer than a lease while changing something."""

from __future__ import annotations

from datetime import timedelta

from endurance.journal import journaled, pause

from maintd.job import Context, Duration, JobParams, job


class Params(JobParams):
    work: Duration = timedelta(seconds=12)


@job(timeout="25s", mutates=True, locks={"press": "exclusive"})
def run(ctx: Context, params: Params) -> None:
    with journaled(ctx, "holding", lock="press") as book:
        with ctx.change("press", "it"):
            pause(params.work.total_seconds())
        book.check("pressed", 1)
