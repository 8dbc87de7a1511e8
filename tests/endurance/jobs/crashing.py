"""Exit, crash or be killed in the middle of the work."""

from __future__ import annotations

import ctypes
import os
import signal

from endurance.journal import journaled

from maintd.job import Context, JobParams, job


class Params(JobParams):
    how: str = "exit"


@job(timeout="20s", repeatable=True)
def run(ctx: Context, params: Params) -> None:
    with journaled(ctx, "crashing") as book:
        book.check("got here", 1)
        if params.how == "exit":
            os._exit(3)
        if params.how == "segfault":
            ctypes.string_at(0)
        os.kill(os.getpid(), signal.SIGKILL)
