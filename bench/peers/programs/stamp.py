"""What every contender that runs Python runs: its first line takes the time.

As a program: stamp.py JOURNAL ENTRY [SECONDS], which goes on for so long.
"""

import os
import time


def stamp(journal: str, entry: int, hold: int = 0) -> None:
    """One line, in one write; and the end, or `hold` seconds of work."""
    now = time.time_ns()
    out = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(out, b"%d %d\n" % (entry, now))
    os.close(out)
    if hold:
        time.sleep(hold)


if __name__ == "__main__":
    import sys

    stamp(sys.argv[1], *map(int, sys.argv[2:]))
