"""Attempts to get in, added up as they are read, in the order of their times."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from maintd.checks.logs.logins import Sign
from maintd.checks.logs.tally import Tally

DAY = timedelta(days=1)
_CONNECTIONS = 20_000  # kept to tell attempts of one connection from each other
_MOST_SUCCESSES = 1_000


@dataclass(frozen=True)
class Success:
    """Somebody got in. `failures` is how many attempts from the same source failed before, within what was read."""

    at: datetime
    user: str
    source: str
    method: str
    key: str
    failures: int

    @property
    def who(self) -> tuple[str, str, str]:
        """What makes it a source that was seen before: user, address, key."""
        return self.user, self.source, self.key


@dataclass
class LoginReview:
    """All that was read until `until`. Counts are by days before it, so that limits of a day hold for longer times."""

    until: datetime
    by_source: Tally[tuple[str, int]] = field(default_factory=Tally)  # source, days ago
    by_method: Tally[str] = field(default_factory=lambda: Tally(100))
    by_attempt: Tally[tuple[str, str, str]] = field(default_factory=Tally)  # source, user, method
    all_of_source: Tally[str] = field(default_factory=Tally)
    successes: list[Success] = field(default_factory=list)
    success_count: int = 0
    wrong_passwords: Tally[str] = field(default_factory=lambda: Tally(1000))  # of sudo and su, as PAM tells
    attempts: Tally[str] = field(default_factory=lambda: Tally(1000))  # the same, as sudo tells
    not_allowed: Tally[str] = field(default_factory=lambda: Tally(1000))
    _connections: OrderedDict[tuple[str, str], tuple[str, str, str] | None] = field(default_factory=OrderedDict)

    def add(self, at: datetime, pid: str, sign: Sign, times: int = 1) -> None:
        """Take one in; `pid` is of the process that serves the connection."""
        count = sign.times * times
        match sign.kind:
            case "failed":
                self._attempt(at, pid, sign, count)
            case "left":
                self._left(at, pid, sign)
            case "accepted":
                self._success(at, sign)
            case "sudo_failed":
                self.wrong_passwords.add(sign.user, count)
            case "sudo_attempts":
                self.attempts.add(sign.user, count)
            case "sudo_denied":
                self.not_allowed.add(sign.user, count)

    @property
    def failures(self) -> int:
        """Failed attempts to log in from elsewhere."""
        return self.all_of_source.total

    def sudo_failures(self) -> list[tuple[str, int]]:
        """By user, most first. PAM and sudo tell of the same wrong passwords: the larger of both counts."""
        users = {
            user for tally in (self.wrong_passwords, self.attempts, self.not_allowed) for user, _ in tally.top(1000)
        }
        found = [
            (user, max(self.wrong_passwords.of(user), self.attempts.of(user)) + self.not_allowed.of(user))
            for user in users
        ]
        return sorted(found, key=lambda item: (-item[1], item[0]))

    def busiest(self, count: int) -> list[tuple[str, int]]:
        """Sources with the most failures within any one day."""
        best: dict[str, int] = {}
        for (source, _), number in self.by_source.top(count * 20):
            best[source] = max(best.get(source, 0), number)
        return sorted(best.items(), key=lambda item: (-item[1], item[0]))[:count]

    def _attempt(self, at: datetime, pid: str, sign: Sign, count: int) -> None:
        place = (pid, sign.source)
        before = self._connections.get(place, _UNSEEN)
        if before is not _UNSEEN and before is not None:
            self._count(at, before, -1)  # the same attempt was only inferred: now it is told
        self._remember(place, None)
        self._count(at, (sign.source, sign.user, sign.method), count)

    def _left(self, at: datetime, pid: str, sign: Sign) -> None:
        place = (pid, sign.source)
        if place not in self._connections:
            attempt = (sign.source, sign.user, "none")
            self._remember(place, attempt)
            self._count(at, attempt, 1)

    def _success(self, at: datetime, sign: Sign) -> None:
        self.success_count += 1
        if len(self.successes) < _MOST_SUCCESSES:
            failures = self.all_of_source.of(sign.source)
            self.successes.append(Success(at, sign.user, sign.source, sign.method, sign.key, failures))

    def _count(self, at: datetime, attempt: tuple[str, str, str], count: int) -> None:
        source, _, method = attempt
        self.by_source.add((source, max(0, (self.until - at) // DAY)), count)
        self.all_of_source.add(source, count)
        self.by_attempt.add(attempt, count)
        self.by_method.add(method, count)

    def _remember(self, place: tuple[str, str], attempt: tuple[str, str, str] | None) -> None:
        self._connections[place] = attempt
        self._connections.move_to_end(place)
        if len(self._connections) > _CONNECTIONS:
            self._connections.popitem(last=False)


_UNSEEN = ("", "", "")
