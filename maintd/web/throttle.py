"""Wrong tokens are answered ever more slowly, by the address that they come from, in bounded memory."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import NamedTuple

MAX_ADDRESSES = 1024
"""The address that failed longest ago is forgotten when there are more."""

FREE_FAILURES = 3
"""Failures without a delay: the wrong token was pasted."""

FIRST_DELAY = 0.5  # seconds; doubles with each failure
LONGEST_DELAY = 8.0

FORGOTTEN_AFTER = 600.0
"""Seconds without a failure after which the count of an address starts again."""


class Failure(NamedTuple):
    """A failure of an address: how many there were, how long to wait, and whether to log this one."""

    number: int
    delay: float  # seconds
    noteworthy: bool  # the 1st, 2nd, 4th, 8th, …: a stream of failures leaves few lines


class Throttle:
    """Failures by address. For one event loop; not thread-safe."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def failed(self, address: str, now: float) -> Failure:
        """Count a failure at a time in seconds on a monotonic clock."""
        key = network_of(address)
        count, last = self._failures.pop(key, (0, now))
        count = 1 if now - last > FORGOTTEN_AFTER else count + 1
        self._failures[key] = (count, now)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
        return Failure(count, delay_after(count), count & (count - 1) == 0)


def delay_after(failures: int) -> float:
    """Seconds to wait with the answer to the latest of so many failures."""
    if failures <= FREE_FAILURES:
        return 0.0
    return float(min(FIRST_DELAY * 2 ** min(failures - FREE_FAILURES - 1, 16), LONGEST_DELAY))


def network_of(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 of an IPv6 address, which one host has as a whole."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))
