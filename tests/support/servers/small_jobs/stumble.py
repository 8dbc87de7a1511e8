"""Fail by a check."""

from __future__ import annotations

from maintd.job import Context, JobParams, job


@job(timeout="20s")
def run(ctx: Context, params: JobParams) -> None:
    ctx.check("stones", 3, at_most=0, hint="pick them up")
