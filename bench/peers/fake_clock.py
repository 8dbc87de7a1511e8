"""A clock for schedulers that know only minutes: libfaketime shows the daemon noon of 15 June when a round is due.

Only the daemon sees it. Its children run without it, so what they stamp is this machine's time; and its clock goes on
at the same pace, so that how late it is stays as it is.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

from peers.base import UnavailableError

LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
FORGET = "import os; os.environ.pop('LD_PRELOAD', None); os.environ.pop('FAKETIME', None)"


def ahead(at: int) -> float:
    """Seconds from this machine's instant to noon of 15 June of this year: a full minute in which all are due."""
    year = datetime.fromtimestamp(at or time.time(), UTC).year
    return datetime(year, 6, 15, 12, tzinfo=UTC).timestamp() - at if at else 0.0


def faketime(shift: float) -> dict[str, str]:
    """The environment of a daemon whose clock is so many seconds ahead."""
    if not shift:
        return {}
    if not LIBRARY.exists():
        raise UnavailableError("needs libfaketime: apt-get install libfaketime")
    return {"LD_PRELOAD": str(LIBRARY), "FAKETIME": f"{shift:+.0f}"}
