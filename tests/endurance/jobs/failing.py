"""Fail: by a check, or by raising."""

from __future__ import annotations

from endurance.journal import journaled

from maintd.job import Context, JobParams, job


class Params(JobParams):
    how: str = "check"


@job(timeout="20s", repeatable=True)
def run(ctx: Context, params: Params) -> None:
    with journaled(ctx, "failing") as book:
        book.log("about to fail")
        if params.how == "raise":
            raise ValueError("meant to fail")
        ctx.check("never met", 2, equals=1, hint="meant to fail")
