"""Start a grandchild in its own session that would live for an hour."""

from __future__ import annotations

import subprocess
import sys

from endurance.journal import journaled

from maintd.job import Context, job

DAEMON = "import os, time; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); time.sleep(3600)"


@job(timeout="20s", repeatable=True)
def run(ctx: Context, params: object) -> None:
    with journaled(ctx, "forking") as book:
        subprocess.run([sys.executable, "-S", "-c", DAEMON, "endurance-grandchild"], check=True)
        book.check("forked", 1)
