"""Loaded by every Python under libfaketime: its clock_nanosleep fails with EINVAL, so time.sleep waits by select."""

import select
import time


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep  # type: ignore[assignment]
