"""Print far more than the log limit."""

from __future__ import annotations

import sys

from endurance.journal import journaled

from maintd.job import Context, job


@job(timeout="20s", repeatable=True)
def run(ctx: Context, params: object) -> None:
    with journaled(ctx, "flooding") as book:
        for _ in range(200):
            sys.stdout.write("x" * 10_000 + "\n")
        sys.stdout.flush()
        book.check("flooded", 1)
