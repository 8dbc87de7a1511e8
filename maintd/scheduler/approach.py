"""The last milliseconds before something falls due: whatever that will need is done once more, for practice.

A machine that has slept has nothing of it in its caches: a look at the store that takes 0.2 ms in the middle of work
takes 0.7 after a rest of 5 ms. So the alarm rings a little early, and until the instant comes the looks are made that
it will make. They must leave nothing behind: what they find is thrown away, what they write is undone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from maintd.clock import Clock

EARLY = 0.012  # seconds
"""How long before it is due the alarm rings: enough for a process that slept to look at everything twice or more."""

TOO_NEAR = 0.0015  # seconds before the instant in which no looks are begun, nor where the last ones took longer
BREATH = 0.0005  # seconds between two rounds of looks; after a longer one the caches are cold again


def approach(
    left: Callable[[], float], looks: Sequence[Callable[[], object]], clock: Clock, event: threading.Event
) -> None:
    """Return when `left`, in seconds, is over, or when the event is set. What a look raises is raised.

    Also when so much is left again that the clock must have been set.
    """
    took = 0.0
    while max(TOO_NEAR, 1.5 * took) < (before := left()) <= EARLY:
        for look in looks:
            look()
        took = before - left()
        if clock.wait(event, BREATH):
            return
    if (rest := left()) <= EARLY:
        clock.wait(event, max(0.0, rest))
