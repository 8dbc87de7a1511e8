"""A bound on what clients can write to the log: any of them can cause a message per request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERVAL_SECONDS = 60.0


class LogLimit(logging.Filter):
    """Lets each message, with its type of exception, through once a minute, with the number that was left out."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._last: dict[tuple[str, str], tuple[float, int]] = {}  # when it was logged, and how many followed

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.exc_info[0] if record.exc_info else None
        key = (str(record.msg), "" if kind is None else kind.__name__)
        logged_at, left_out = self._last.get(key, (float("-inf"), 0))
        now = self._now()
        if now - logged_at < INTERVAL_SECONDS:
            self._last[key] = (logged_at, left_out + 1)
            return False
        self._last[key] = (now, 0)
        if left_out:
            record.msg = f"{str(record.msg).rstrip()} (and {left_out} more like it since the last one)"
        return True


@contextmanager
def limited_log() -> Iterator[None]:
    """Limit the messages of uvicorn during the block."""
    logger, limit = logging.getLogger("uvicorn.error"), LogLimit()
    logger.addFilter(limit)
    try:
        yield
    finally:
        logger.removeFilter(limit)
