"""Greet a person, and keep proof of it.

Runbook: Tests / Greeting
"""

from __future__ import annotations

from maintd.job import Context, JobParams, job


class Params(JobParams):
    whom: str = "world"
    """Who is greeted."""
    times: int = 1
    """How often."""


@job(timeout="20s", repeatable=True, mutates=True)
def run(ctx: Context, params: Params) -> None:
    with ctx.phase(f"greet {params.whom}"):
        for number in range(params.times):
            ctx.log(f"hello {params.whom}, {number + 1}")
        print("printed")
    with ctx.change("greet", params.whom, times=params.times):
        pass
    ctx.check("greetings", params.times, at_least=1, hint="greet at least once: -p times=1")
    ctx.measure("greetings", params.times)
    ctx.save("card.txt", f"hello {params.whom}\n")
