"""Logins over a month, from what the daily reviews of the logs have kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from maintd.job.attempt_info import Point
from maintd.job.context import Context

JOB = "security_log_review"
# As many points of one measure a job is given at most; with so many, older ones are missing.
_MOST_POINTS = 20_000
_TOLERANCE = timedelta(minutes=1)  # between the end of one review and the start of the next


@dataclass
class Login:
    """Logins of a user from a source with a key and a method; `count` of the period, first and last seen ever.

    Both times are ends of reviews, which are a day apart.
    """

    user: str
    source: str
    key: str
    method: str
    first: datetime
    last: datetime
    count: int = 0


@dataclass
class KeptLogins:
    """What is kept. `gaps` are times within the period, and the time before a user or key counts as unused, that no
    complete review has seen. others: logins in the period beyond the number of users, sources and keys of a review."""

    logins: list[Login] = field(default_factory=list)
    since: datetime | None = None  # the start of what is kept without a gap until now; None: nothing
    until: datetime | None = None
    others: int = 0
    not_understood: int = 0

    def last_of_user(self, user: str) -> datetime | None:
        """When the user was last seen to log in."""
        return max((each.last for each in self.logins if each.user == user), default=None)

    def last_of_key(self, *fingerprints: str) -> datetime | None:
        """When a key was last seen, by one of its fingerprints."""
        found = (each for each in self.logins if any(one in each.key for one in fingerprints))
        return max((each.last for each in found), default=None)


def read_kept(ctx: Context, period: timedelta) -> KeptLogins:
    """The logins that are kept, with their numbers in the period before now."""
    starts = ctx.series_of(JOB, "logins_counted_from")
    ends = ctx.series_of(JOB, "reviewed_until", source="logins")
    accepted = ctx.series_of(JOB, "logins_accepted")
    begin = ctx.now() - period
    found = KeptLogins()
    by_identity: dict[tuple[str, ...], Login] = {}
    for point in accepted:
        user, source, key, method = (point.labels.get(name, "") for name in ("user", "source", "key", "method"))
        login = by_identity.setdefault(
            (user, source, key, method), Login(user, source, key, method, first=point.at, last=point.at)
        )
        login.last = max(login.last, point.at)
        login.first = min(login.first, point.at)
        if point.at >= begin:
            login.count += round(point.value)
    found.logins = sorted(by_identity.values(), key=lambda each: (each.user, each.source, each.key, each.method))
    found.others = _sum(ctx.series_of(JOB, "logins_accepted_others"), begin)
    found.not_understood = _sum(ctx.series_of(JOB, "logins_not_understood"), begin)
    found.since, found.until = covered(starts, ends)
    if found.since is not None and len(accepted) >= _MOST_POINTS:
        found.since = max(found.since, min(point.at for point in accepted))  # older ones were not given
    return found


def covered(starts: Sequence[Point], ends: Sequence[Point]) -> tuple[datetime | None, datetime | None]:
    """Since when, and until when, the reviews follow each other without a gap; the last stretch."""
    spans = [
        (datetime.fromtimestamp(start.value, UTC), datetime.fromtimestamp(end.value, UTC))
        for start, end in _pairs(starts, ends)
    ]
    since = until = None
    for start, end in sorted(spans):
        if until is None or start > until + _TOLERANCE:
            since = start
        until = end if until is None else max(until, end)
    return since, until


def _pairs(starts: Sequence[Point], ends: Sequence[Point]) -> Iterable[tuple[Point, Point]]:
    """Each start with the next end: a run records both, the start first."""
    later = sorted(ends, key=lambda point: point.at)
    for start in starts:
        end = next((each for each in later if each.value >= start.value and each.at >= start.at), None)
        if end is not None:
            yield start, end


def _sum(points: Iterable[Point], begin: datetime) -> int:
    return round(sum(point.value for point in points if point.at >= begin))
