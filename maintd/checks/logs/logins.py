"""Login events in messages of sshd, sudo and su, and their summary.

Every regular expression is anchored at both ends. The client chooses the user name, which may contain any text, also
"x from 192.0.2.1 port 22 ssh2". The name matches greedily, so that the address is the last one in the line: sshd's own.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from maintd.job.bounded import BoundedCounter, BoundedDict, BoundedList

SSHD = frozenset({"sshd", "sshd-session", "sshd-auth"})
"""Names of sshd's processes: since OpenSSH 9.8, sshd-session serves a connection."""
PROGRAMS = SSHD | {"sudo", "su"}

Kind = Literal["failed", "disconnected", "accepted", "sudo_failed", "sudo_attempts", "sudo_denied"]
"""failed: an attempt. disconnected: a connection that ended without success; counts as an attempt unless the same
connection has a failed one. accepted: a success. sudo_failed: a wrong password, logged by PAM. sudo_attempts: wrong
passwords, logged by sudo or su. sudo_denied: not permitted."""

_FROM = r" from (?P<address>\S+)"
_PORT = r" port (?P<port>\d+)"
_KEY = r"(?:: (?P<key>[A-Z0-9-]+ (?:SHA256|MD5):\S+))?"
# A certificate's id is free text after the address, so the address must be the first one. If the user name may contain
# an address as well, the source is ambiguous and becomes `unreadable`.
_CERTIFICATE = r": (?P<key>[A-Z0-9-]+-CERT (?:SHA256|MD5):\S+) ID .* CA [A-Z0-9-]+ (?:SHA256|MD5):\S+"
_PREAUTH = r"(?: \[preauth\])?"
_MOST = "maximum authentication attempts exceeded"
_WHO = rf"(?P<user>.*) (?P<address>\S+){_PORT}"
_PATTERNS: tuple[tuple[Kind, str], ...] = (
    ("failed", rf"Failed (?P<method>\S+) for (?:invalid user )?(?P<user>.*){_FROM}{_PORT}(?: ssh2)?{_KEY}"),
    ("failed", rf"Failed (?P<method>publickey) for (?:invalid user )?(?P<user>\S+){_FROM}{_PORT} ssh2{_CERTIFICATE}"),
    ("failed", rf"Failed (?P<method>publickey) for (?P<user>).*{_CERTIFICATE}"),
    ("accepted", rf"Accepted (?P<method>\S+) for (?P<user>.*){_FROM}{_PORT}(?: ssh2)?{_KEY}"),
    ("accepted", rf"Accepted (?P<method>publickey) for (?P<user>\S+){_FROM}{_PORT} ssh2{_CERTIFICATE}"),
    ("disconnected", rf"(?:Invalid|Illegal) user (?P<user>.*){_FROM}(?:{_PORT})?"),
    ("disconnected", rf"(?:error: )?{_MOST} for (?:invalid user )?(?P<user>.*){_FROM}{_PORT}(?: ssh2)?{_PREAUTH}"),
    (
        "disconnected",
        rf"(?:Connection (?:closed|reset) by|Disconnected from) (?:authenticating|invalid) user {_WHO}{_PREAUTH}",
    ),
    (
        "disconnected",
        rf"Disconnecting (?:authenticating|invalid) user {_WHO}: Too many authentication failures{_PREAUTH}",
    ),
    ("disconnected", rf"User (?P<user>.*){_FROM} not allowed because .{{1,200}}"),
    ("disconnected", rf"(?P<user>)ROOT LOGIN REFUSED{_FROM}(?:{_PORT})?{_PREAUTH}"),
)
_SSHD = tuple((kind, re.compile(pattern, re.DOTALL)) for kind, pattern in _PATTERNS)
# In PAM's message the name is last, so the address is the first one.
_PAM = re.compile(
    r"(?:pam_\w+\((?P<service>[\w-]+):auth\): )?(?:PAM )?(?:(?P<times>\d{1,6}) more )?authentication failures?; "
    r"logname=(?P<logname>\S*) uid=\d+ euid=\d+ tty=\S* ruser=(?P<ruser>\S*) rhost=(?P<address>\S*)"
    r"(?:\s+user=(?P<user>.*))?",
    re.DOTALL,
)
_SUDO_ATTEMPTS = re.compile(r"\s*(?P<user>\S+) : (?P<times>\d{1,6}) incorrect password attempts? ; .*", re.DOTALL)
_SUDO_DENIED = re.compile(
    r"\s*(?P<user>\S+) : (?:user NOT in sudoers|user NOT authorized on host|command not allowed|"
    r"a password is required|sorry, you [^;]{1,100}) ; .*",
    re.DOTALL,
)
_SU_FAILED = re.compile(r"FAILED (?:SU \(to \S+\) (?P<user>\S+) on \S+|su for \S+ by (?P<old>\S+))")
_LONGEST_NAME = 64


@dataclass(frozen=True)
class LoginEvent:
    """One event. `source` is the address; for IPv6 its /64 network, which one host typically has."""

    kind: Kind
    user: str
    source: str = ""
    method: str = ""
    key: str = ""  # type and fingerprint of a public key
    times: int = 1


def parse(program: str, message: str) -> LoginEvent | None:
    """Parse a message of sshd, sudo or su; None when it is not a login event."""
    message = message.rstrip()
    if program in SSHD:
        return _of_sshd(message)
    if program in ("sudo", "su"):
        return _of_sudo(message)
    return None


def _of_sshd(message: str) -> LoginEvent | None:
    for kind, pattern in _SSHD:
        match = pattern.fullmatch(message)
        if match is not None:
            found = match.groupdict()
            return LoginEvent(
                kind,
                _name(found["user"]),
                source_of(found.get("address") or ""),
                found.get("method") or "",
                found.get("key") or "",
            )
    match = _PAM.fullmatch(message)
    if match is not None and match["address"]:
        return LoginEvent("disconnected", _name(match["user"] or ""), source_of(match["address"]))
    return None


def _of_sudo(message: str) -> LoginEvent | None:
    if (match := _PAM.fullmatch(message)) is not None:
        return LoginEvent("sudo_failed", _name(match["ruser"] or match["logname"]), times=int(match["times"] or 1))
    if (match := _SUDO_ATTEMPTS.fullmatch(message)) is not None:
        return LoginEvent("sudo_attempts", _name(match["user"]), times=int(match["times"]))
    if (match := _SUDO_DENIED.fullmatch(message)) is not None:
        return LoginEvent("sudo_denied", _name(match["user"]))
    if (match := _SU_FAILED.fullmatch(message)) is not None:
        return LoginEvent("sudo_attempts", _name(match["user"] or match["old"]))
    return None


def source_of(address: str) -> str:
    """Normalize an address; a host name is kept (sshd with UseDNS), anything else becomes `unreadable`."""
    try:
        found = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return address[:255] if re.fullmatch(r"[A-Za-z0-9._-]+", address) else "unreadable"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((int(found), 64), strict=False))
    return str(found)


def _name(text: str) -> str:
    return text if len(text) <= _LONGEST_NAME else text[:_LONGEST_NAME] + "…"


DAY = timedelta(days=1)
_CONNECTIONS = 20_000  # remembered, to recognize events of the same connection
_LATEST = 20  # successes that are shown
_SUSPICIOUS = 1_000  # successes that are kept for hints, of each kind
_IDENTITIES = 5_000  # of different logins in one review


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
    by_source_and_day: BoundedCounter[tuple[str, int]] = field(default_factory=BoundedCounter)  # source, days ago
    by_method: BoundedCounter[str] = field(default_factory=lambda: BoundedCounter(100))
    by_attempt: BoundedCounter[tuple[str, str, str]] = field(default_factory=BoundedCounter)  # source, user, method
    by_source: BoundedCounter[str] = field(default_factory=BoundedCounter)
    by_day: Counter[int] = field(default_factory=Counter)  # days ago
    success_count: int = 0
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
                self._success(at, event)
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

    def _success(self, at: datetime, event: LoginEvent) -> None:
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
