"""When a certificate has to be renewed, by fractions of its lifetime; pure.

Authorities shorten lifetimes: 90 days become 64 in 2027 and 45 in 2028 (Let's Encrypt), and some last six days. A fixed
number of days would warn of these for ever, and too late of others.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from maintd.checks.certificates.certificate import Certificate

DAY = timedelta(days=1)
_SHORT = 20 * DAY
_MOST_WARN, _MOST_FAIL = 25 * DAY, 10 * DAY
_AUTHORITY_WARN, _AUTHORITY_FAIL = 180 * DAY, 60 * DAY


@dataclass(frozen=True)
class Limits:
    """The remaining validity below which a certificate warns, and fails."""

    warn: timedelta
    fail: timedelta


def limits_of(lifetime: timedelta, *, authority: bool = False) -> Limits:
    """The limits of a certificate with this lifetime L.

    It is renewed at two thirds of L. It warns when that is overdue by L/30, at least two days, and at most 25 days
    before the end; it fails at L/9, at least three and at most ten days: 25 and 10 days of 90, 19 and 7 of 64, 13 and 5
    of 45. Below 20 days: L/4 and L/8. Of an authority, whose renewal is work: 180 and 60 days, at most L/3 and L/9.
    """
    if authority:
        return Limits(min(_AUTHORITY_WARN, lifetime / 3), min(_AUTHORITY_FAIL, lifetime / 9))
    if lifetime < _SHORT:
        return Limits(lifetime / 4, lifetime / 8)
    warn = min(_MOST_WARN, lifetime / 3 - max(2 * DAY, lifetime / 30))
    return Limits(warn, min(max(3 * DAY, lifetime / 9), _MOST_FAIL))


def renewal_due_at(certificate: Certificate, renew_before: timedelta) -> datetime:
    """When automatic renewal begins at the latest: this long before the end, or at two thirds of the lifetime."""
    return certificate.not_after - min(renew_before, certificate.lifetime / 3)


def grace_of(lifetime: timedelta) -> timedelta:
    """How long after it is due a renewal may take: Traefik tries once a day, and authorities have outages."""
    return min(3 * DAY, lifetime / 30)
