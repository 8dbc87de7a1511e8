"""Whether the kernel's clock is kept in time, and how far it is known to be off: adjtimex(2), which needs no right."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from datetime import timedelta

from maintd.errors import TargetError

_STA_UNSYNC, _STA_NANO = 0x0040, 0x2000


class _Timex(ctypes.Structure):
    # Source: linux/timex.h; the longs are those of the machine, and the tail is not read.
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("tail", ctypes.c_byte * 256),
    )


@dataclass(frozen=True)
class TimeSync:
    """`offset` is what is still to be corrected; it says nothing while the clock is not synchronised."""

    synchronised: bool
    offset: timedelta


def time_sync() -> TimeSync:
    """Of the kernel that this process runs on, which a container shares with its host. Raises TargetError."""
    seen = _Timex()
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(seen))
    except AttributeError:
        state = -1
    if state < 0:
        raise TargetError(f"adjtimex: {os.strerror(ctypes.get_errno())}", "look with timedatectl", cause="failed")
    microseconds = abs(seen.offset) / (1000 if seen.status & _STA_NANO else 1)
    return TimeSync(not seen.status & _STA_UNSYNC, timedelta(microseconds=microseconds))
