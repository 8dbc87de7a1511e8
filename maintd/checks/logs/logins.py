"""The summary of login events, by day and by what is checked."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from maintd.checks.logs.login_messages import LoginEvent
from maintd.job.bounded import BoundedCounter, BoundedDict, BoundedList

DAY = timedelta(days=1)
_CONNECTIONS = 20_000  # remembered, to recognize events of the same connection
_LATEST = 20  # successes that are shown
_SUSPICIOUS = 1_000  # successes that are kept for hints, of each kind
_IDENTITIES = 5_000  # of different logins in one review
_COUNTED = 500  # different logins by user, source, key and method whose number is kept of each review


@dataclass(frozen=True)
class Success:
    """A successful login. `failures` is the number of failed attempts from its source before it, within the window."""

    at: datetime
    user: str
    source: str
    method: str
    key: str
    failures: int

    @property
    def identity(self) -> tuple[str, str, str]:
        """User, source and key, by which a login is known from earlier runs."""
        return self.user, self.source, self.key


@dataclass
class LoginSummary:
    """Counts of login events before `until`, by day, so that limits for a day also apply to longer windows.

    Successes are kept by what is checked, so that many ordinary ones do not displace a suspicious one: those after at
    least `failures_before_success` failures, those of root without a key, and the first of each user, source and key.
    """

    until: datetime
    failures_before_success: int = 5
    counted_since: datetime | None = None  # the end of what earlier reviews have counted; None: nothing is counted
    not_understood: str = ""  # why the numbers are too low: lines of the log that were not understood
    by_source_and_day: BoundedCounter[tuple[str, int]] = field(default_factory=BoundedCounter)  # source, days ago
    by_method: BoundedCounter[str] = field(default_factory=lambda: BoundedCounter(100))
    by_attempt: BoundedCounter[tuple[str, str, str]] = field(default_factory=BoundedCounter)  # source, user, method
    by_source: BoundedCounter[str] = field(default_factory=BoundedCounter)
    by_day: Counter[int] = field(default_factory=Counter)  # days ago
    success_count: int = 0
    possible_successes: int = 0  # messages that may be about a successful login, and are not understood
    # Successes since `counted_since`: user, source, key, method.
    accepted: BoundedCounter[tuple[str, str, str, str]] = field(default_factory=lambda: BoundedCounter(_COUNTED))
    latest: deque[Success] = field(default_factory=lambda: deque(maxlen=_LATEST))
    after_failures: BoundedList[Success] = field(default_factory=lambda: BoundedList(_SUSPICIOUS))
    root_without_key: BoundedList[Success] = field(default_factory=lambda: BoundedList(_SUSPICIOUS))
    by_hour: dict[int, list[Success]] = field(default_factory=dict)  # hour in UTC; the first few of each
    count_by_hour: Counter[int] = field(default_factory=Counter)
    identities: BoundedDict[tuple[str, str, str], Success] = field(default_factory=lambda: BoundedDict(_IDENTITIES))
    # PAM and sudo both log the wrong passwords at sudo and su.
    pam_failures: BoundedCounter[str] = field(default_factory=lambda: BoundedCounter(1000))
    sudo_attempts: BoundedCounter[str] = field(default_factory=lambda: BoundedCounter(1000))
    not_allowed: BoundedCounter[str] = field(default_factory=lambda: BoundedCounter(1000))
    _connections: OrderedDict[tuple[str, str], tuple[str, str, str] | None] = field(default_factory=OrderedDict)

    def add(self, at: datetime, pid: str, event: LoginEvent, times: int = 1) -> None:
        """Add an event. pid: of the process that serves the connection. times: how often it was logged."""
        count = event.times * times
        match event.kind:
            case "failed":
                self._attempt(at, pid, event, count)
            case "disconnected":
                self._disconnect(at, pid, event)
            case "accepted":
                self._success(at, event, count)
            case "sudo_failed":
                self.pam_failures.add(event.user, count)
            case "sudo_attempts":
                self.sudo_attempts.add(event.user, count)
            case "sudo_denied":
                self.not_allowed.add(event.user, count)

    @property
    def failures(self) -> int:
        """The number of failed login attempts, without sudo and su."""
        return self.by_source.total

    def sudo_failures(self) -> list[tuple[str, int]]:
        """Return failures by user, most first. PAM and sudo log the same wrong passwords: the larger count is used."""
        users = {
            user
            for counter in (self.pam_failures, self.sudo_attempts, self.not_allowed)
            for user, _ in counter.top(1000)
        }
        found = [
            (user, max(self.pam_failures.count(user), self.sudo_attempts.count(user)) + self.not_allowed.count(user))
            for user in users
        ]
        return sorted(found, key=lambda item: (-item[1], item[0]))

    @property
    def busiest_day(self) -> int:
        """The number of failures from all sources in the day that has the most."""
        return max(self.by_day.values(), default=0)

    def busiest_sources(self, count: int) -> list[tuple[str, int]]:
        """Return the sources with the most failures in any one day."""
        best: dict[str, int] = {}
        for (source, _), number in self.by_source_and_day.top(count * 20):
            best[source] = max(best.get(source, 0), number)
        return sorted(best.items(), key=lambda item: (-item[1], item[0]))[:count]

    def _attempt(self, at: datetime, pid: str, event: LoginEvent, count: int) -> None:
        place = (pid, event.source)
        before = self._connections.get(place, _UNKNOWN)
        if before is not _UNKNOWN and before is not None:
            self._count(at, before, -1)  # it was counted for the disconnect; now the attempt itself is logged
        self._remember(place, None)
        self._count(at, (event.source, event.user, event.method), count)

    def _disconnect(self, at: datetime, pid: str, event: LoginEvent) -> None:
        place = (pid, event.source)
        if place not in self._connections:
            attempt = (event.source, event.user, "none")
            self._remember(place, attempt)
            self._count(at, attempt, 1)

    def _success(self, at: datetime, event: LoginEvent, count: int) -> None:
        if self.counted_since is not None and at >= self.counted_since:
            self.accepted.add((event.user, event.source, event.key, event.method), count)
        failures = self.by_source.count(event.source)
        success = Success(at, event.user, event.source, event.method, event.key, failures)
        self.success_count += 1
        self.latest.append(success)
        if failures >= self.failures_before_success:
            self.after_failures.append(success)
        if event.user == "root" and event.method != "publickey":
            self.root_without_key.append(success)
        self.count_by_hour[at.hour] += 1
        of_hour = self.by_hour.setdefault(at.hour, [])
        if len(of_hour) < _LATEST:
            of_hour.append(success)
        if success.identity not in self.identities:
            self.identities.set(success.identity, success)

    def _count(self, at: datetime, attempt: tuple[str, str, str], count: int) -> None:
        source, _, method = attempt
        day = max(0, (self.until - at) // DAY)
        self.by_day[day] += count
        self.by_source_and_day.add((source, day), count)
        self.by_source.add(source, count)
        self.by_attempt.add(attempt, count)
        self.by_method.add(method, count)

    def _remember(self, place: tuple[str, str], attempt: tuple[str, str, str] | None) -> None:
        self._connections[place] = attempt
        self._connections.move_to_end(place)
        if len(self._connections) > _CONNECTIONS:
            self._connections.popitem(last=False)


_UNKNOWN = ("", "", "")
