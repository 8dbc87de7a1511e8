"""Do a little work and succeed, with evidence of every kind."""

from __future__ import annotations

import os
from datetime import timedelta

from endurance.journal import journaled, pause

from maintd.job import Context, Duration, JobParams, job


class Params(JobParams):
    work: Duration = timedelta(milliseconds=50)


@job(timeout="20s", repeatable=True)
def run(ctx: Context, params: Params) -> None:
    with journaled(ctx, "steady") as book:
        with ctx.phase("work"):
            pause(params.work.total_seconds())
        for number in range(5):
            book.log(f"line {number} of run {ctx.run_id} by {os.getpid()}")
        book.check("work done", 1)
        book.check("process", os.getpid(), equals=os.getpid())
        ctx.measure("work_seconds", params.work.total_seconds(), unit="s")
        ctx.save("note.txt", "done")
