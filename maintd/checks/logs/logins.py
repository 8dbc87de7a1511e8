"""What sshd, sudo and su say of who tried to get in.

Every expression is anchored at both ends. A user's name is chosen by whoever connects and may hold any text, also
"x from 192.0.2.1 port 22 ssh2"; it takes all it can, so that the address is the last one of the line, which is sshd's.
"""

from __future__ import annotations

import ipaddress
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from maintd.checks.logs.bounded_counter import Tally

SSHD = frozenset({"sshd", "sshd-session", "sshd-auth"})
"""sshd's processes: since OpenSSH 9.8 a connection is served by sshd-session."""
PROGRAMS = SSHD | {"sudo", "su"}

Kind = Literal["failed", "left", "accepted", "sudo_failed", "sudo_attempts", "sudo_denied"]
"""failed: an attempt. left: a connection that ended without success, which is an attempt unless one of the same
connection was told. accepted: a success. sudo_failed: PAM's word of a wrong password, sudo_attempts: sudo's own word of
the same. sudo_denied: not allowed at all."""

_FROM = r" from (?P<address>\S+)"
_PORT = r" port (?P<port>\d+)"
_KEY = r"(?:: (?P<key>[A-Z0-9-]+ (?:SHA256|MD5):\S+))?"
# A certificate has an id that its maker chose, and it comes after the address. So the address is the first one; and
# where the name might hold one, too, it is not known which is sshd's.
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
    ("left", rf"(?:Invalid|Illegal) user (?P<user>.*){_FROM}(?:{_PORT})?"),
    ("left", rf"(?:error: )?{_MOST} for (?:invalid user )?(?P<user>.*){_FROM}{_PORT}(?: ssh2)?{_PREAUTH}"),
    ("left", rf"(?:Connection (?:closed|reset) by|Disconnected from) (?:authenticating|invalid) user {_WHO}{_PREAUTH}"),
    ("left", rf"Disconnecting (?:authenticating|invalid) user {_WHO}: Too many authentication failures{_PREAUTH}"),
    ("left", rf"User (?P<user>.*){_FROM} not allowed because .{{1,200}}"),
    ("left", rf"(?P<user>)ROOT LOGIN REFUSED{_FROM}(?:{_PORT})?{_PREAUTH}"),
)
_SSHD = tuple((kind, re.compile(pattern, re.DOTALL)) for kind, pattern in _PATTERNS)
# In PAM's line the name comes last, so the address is the first one.
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
class Sign:
    """What one message says. `source` is an address as it is counted: IPv6 by its /64, which one host owns."""

    kind: Kind
    user: str
    source: str = ""
    method: str = ""
    key: str = ""  # of a public key: its type and fingerprint
    times: int = 1


def sign(program: str, message: str) -> Sign | None:
    """What a message says; None when it is about none of this."""
    message = message.rstrip()
    if program in SSHD:
        return _of_sshd(message)
    if program in ("sudo", "su"):
        return _of_sudo(message)
    return None


def _of_sshd(message: str) -> Sign | None:
    for kind, pattern in _SSHD:
        match = pattern.fullmatch(message)
        if match is not None:
            found = match.groupdict()
            return Sign(
                kind,
                _name(found["user"]),
                source_of(found.get("address") or ""),
                found.get("method") or "",
                found.get("key") or "",
            )
    match = _PAM.fullmatch(message)
    if match is not None and match["address"]:
        return Sign("left", _name(match["user"] or ""), source_of(match["address"]))
    return None


def _of_sudo(message: str) -> Sign | None:
    if (match := _PAM.fullmatch(message)) is not None:
        return Sign("sudo_failed", _name(match["ruser"] or match["logname"]), times=int(match["times"] or 1))
    if (match := _SUDO_ATTEMPTS.fullmatch(message)) is not None:
        return Sign("sudo_attempts", _name(match["user"]), times=int(match["times"]))
    if (match := _SUDO_DENIED.fullmatch(message)) is not None:
        return Sign("sudo_denied", _name(match["user"]))
    if (match := _SU_FAILED.fullmatch(message)) is not None:
        return Sign("sudo_attempts", _name(match["user"] or match["old"]))
    return None


def source_of(address: str) -> str:
    """An address as it is counted, or a host's name where sshd looked names up; `unreadable` when it is neither."""
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
