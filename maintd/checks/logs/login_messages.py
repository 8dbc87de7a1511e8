"""Login events in messages of sshd, dropbear, sudo, su, PAM and services that log failed logins by syslog.

Every regular expression is anchored at both ends. The client chooses the user name, which may contain any text, also
"x from 192.0.2.1 port 22 ssh2". In sshd's messages the name matches greedily, so that the address is the last one in
the line: sshd's own. Where the program does not make clear which address is its own, the source is `unreadable`.

A message that may be about a login and matches nothing here is counted as not understood, see `read`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from maintd.checks.logs.unfamiliar_logins import OF_DROPBEAR, OF_SSHD, LoginForms, LoginTally, may_be_success

SSHD = frozenset({"sshd", "sshd-session", "sshd-auth"})
"""Names of sshd's processes: since OpenSSH 9.8, sshd-session serves a connection."""
PROGRAMS = SSHD | {"dropbear", "sudo", "su"}

Kind = Literal["failed", "disconnected", "accepted", "sudo_failed", "sudo_attempts", "sudo_denied"]
"""failed: an attempt. disconnected: a connection that ended without success; counts as an attempt unless the same
connection has a failed one. accepted: a success. The others are local, without an address. sudo_failed: a wrong
password, logged by PAM. sudo_attempts: wrong passwords, logged by sudo, su or login. sudo_denied: not permitted."""

Patterns = Sequence[tuple[Kind, re.Pattern[str]]]

_FROM = r" from (?P<address>\S+)"
_PORT = r" port (?P<port>\d+)"
_KEY = r"(?:: (?P<key>[A-Z0-9-]+ (?:SHA256|MD5):\S+))?"
# A certificate's id is free text after the address, so the address must be the first one. If the user name may contain
# an address as well, the source is ambiguous and becomes `unreadable`.
_CERTIFICATE = r": (?P<key>[A-Z0-9-]+-CERT (?:SHA256|MD5):\S+) ID .* CA [A-Z0-9-]+ (?:SHA256|MD5):\S+"
_PREAUTH = r"(?: \[preauth\])?"
_MOST = "maximum authentication attempts exceeded"
_WHO = rf"(?P<user>.*) (?P<address>\S+){_PORT}"


def _compiled(*patterns: tuple[Kind, str]) -> Patterns:
    return tuple((kind, re.compile(pattern, re.DOTALL)) for kind, pattern in patterns)


_SSHD = _compiled(
    ("failed", rf"Failed (?P<method>\S+) for (?:invalid user )?(?P<user>.*){_FROM}{_PORT}(?: ssh2)?{_KEY}"),
    ("failed", rf"Failed (?P<method>publickey) for (?:invalid user )?(?P<user>\S+){_FROM}{_PORT} ssh2{_CERTIFICATE}"),
    ("failed", rf"Failed (?P<method>publickey) for (?P<user>).*{_CERTIFICATE}"),
    ("accepted", rf"Accepted (?P<method>\S+) for (?P<user>.*){_FROM}{_PORT}(?: ssh2)?{_KEY}"),
    ("accepted", rf"Accepted (?P<method>publickey) for (?P<user>\S+){_FROM}{_PORT} ssh2{_CERTIFICATE}"),
    # With more after the key, or a Kerberos principal. A user who logs in exists, and has no spaces in the name.
    (
        "accepted",
        (
            rf"Accepted (?P<method>\S+) for (?P<user>\S+){_FROM}{_PORT} ssh2: "
            r"(?:(?P<key>[A-Z0-9-]+ (?:SHA256|MD5):[^\s,]+)(?:[, ].*)?|\S+)"
        ),
    ),
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
    ("disconnected", rf"(?P<user>)ROOT LOGIN REFUSED (?:FROM|from) (?P<address>\S+)(?:{_PORT})?{_PREAUTH}"),
    # FreeBSD
    (
        "disconnected",
        rf"error: PAM: .{{1,100}}? for (?:(?:illegal|invalid) user )?(?P<user>.*){_FROM}(?: via \S+)?{_PREAUTH}",
    ),
)
_DROPBEAR = _compiled(
    ("failed", r"Bad (?:PAM )?(?P<method>\w+) attempt for '(?P<user>.*)' from (?P<address>\S+)"),
    ("failed", r"Login attempt for nonexistent user(?: '(?P<user>.*)')? from (?P<address>\S+)"),
    ("failed", r"Login attempt with wrong user (?P<user>.*) from (?P<address>\S+)"),
    (
        "accepted",
        r"(?:PAM )?(?P<method>\w+) auth succeeded for '(?P<user>.*)'(?: with (?P<key>\S.*?))? from (?P<address>\S+)",
    ),
    ("accepted", r"Auth succeeded with (?P<method>blank) password for '(?P<user>.*)' from (?P<address>\S+)"),
)
# In PAM's message of sshd the name is last, so the address is the first one.
_PAM = re.compile(
    r"(?:pam_\w+\((?P<service>[\w.-]+):auth\): )?(?:PAM )?(?:(?P<times>\d{1,6}) more )?authentication failures?; "
    r"logname=(?P<logname>\S*) uid=\d+ euid=\d+ tty=\S* ruser=(?P<ruser>.*?) rhost=(?P<address>\S*)"
    r"(?:\s+user=(?P<user>.*))?",
    re.DOTALL,
)
_SUDO = _compiled(
    ("sudo_attempts", r"\s*(?P<user>\S+) : (?P<times>\d{1,6}) incorrect password attempts? ; .*"),
    (
        "sudo_denied",
        (
            r"\s*(?P<user>\S+) : (?:user NOT in sudoers|user NOT authorized on host|command not allowed|"
            r"a password is required|sorry, you [^;]{1,100}) ; .*"
        ),
    ),
    ("sudo_attempts", r"FAILED SU \(to \S+\) (?P<user>\S+) on \S+"),
    ("sudo_attempts", r"FAILED su for \S+ by (?P<user>\S+)"),
)
# Each has the words of one program, and the place of its address: before the name, or as the only one of its kind.
_SERVICES = _compiled(
    # Proxmox
    ("failed", r"authentication failure; rhost=(?P<address>\S+) user=(?P<user>.*) msg=.*"),
    # Dovecot
    (
        "failed",
        (
            r"(?P<method>imap|pop3|managesieve|submission)-login: .{0,100}?\(auth failed, (?P<times>\d{1,6}) attempts?"
            r"[^)]{0,50}\): user=<(?P<user>[^>]*)>, (?:method=\S{1,40}, )?rip=(?P<address>[^,\s]+),.*"
        ),
    ),
    # Postfix
    ("failed", r"warning: \S*\[(?P<address>[^\]\s]+)\]: SASL (?P<method>\S+) authentication failed(?P<user>):?.*"),
    # ProFTPD
    (
        "failed",
        r"\S+ \(\S*\[(?P<address>[^\]\s]+)\]\)(?: -)? USER (?P<user>.*)(?: \(Login failed\)|: no such user).*",
    ),
    # Pure-FTPd
    (
        "failed",
        r"\(\S*@(?P<address>[^)\s]+)\) \[WARNING\] Authentication failed for user \[(?P<user>.*)\]",
    ),
    # Webmin
    ("failed", r"(?:Invalid|Non-existent) login as (?P<user>.*) from (?P<address>\S+)"),
    # busybox and util-linux
    ("failed", r"invalid password for '(?P<user>.*)' on '\S+' from '(?P<address>\S+)'"),
    ("sudo_attempts", r"invalid password for '(?P<user>.*)' on '\S+'"),
    ("sudo_attempts", r"FAILED LOGIN \(?\d{1,6}\)? (?:on|FROM) \S+ FOR '?(?P<user>[^']*?)'?, .*"),
)
_METHODS = {"Password": "password", "Pubkey": "publickey"}  # dropbear's words for sshd's
_FREE_ADDRESS = re.compile(r"\brhost=")

# Messages with words of a failure or a success that are not about a login, or accompany an event of the same login.
_OF_SUDO = re.compile(r"\s*\S+ : (?:\(command continued\)|(?:TTY|HOST|PWD|USER|GROUP|TSID)=).*", re.DOTALL)
_OF_PAM = re.compile(
    r"pam_\w+\([\w.-]+:(?:session|account|setcred|chauthtok)\): .*|"
    r"pam_\w+\([\w.-]+:auth\): (?:check pass; user unknown|received for user |Consecutive login failures|"
    r"conversation failed|auth could not identify password|error retrieving |bad username |request failed|"
    r"user \S* not |requirement \").*",
    re.DOTALL,
)
# Where any of these words is, a message that is not understood may be about a login.
_OF_LOGIN_PROGRAMS = re.compile(
    r"fail|invalid|illegal|denied|incorrect|refused|accepted|succeeded|not allowed|wrong|bad password|unknown user|"
    r"not permitted|exceeded|rejected",
    re.IGNORECASE,
)
_OF_OTHERS = re.compile(
    r"auth\w{0,12}\b.{0,60}?(?:fail|error|denied)|fail\w{0,3} (?:to )?(?:login|log in|password|auth|su\b)|"
    r"(?:login|logon|sign-?in)\W{0,3}(?:fail|incorrect|attempt|invalid|denied|refused|rejected)|"
    r"(?:invalid|bad|wrong|incorrect) (?:login|user|password|credential)|(?:unknown|illegal|no such) user|"
    r"password (?:check|verif\w{1,9}|mismatch)|access denied for user",
    re.IGNORECASE,
)
_LONGEST_NAME = 64
_LONGEST_MESSAGE = 8192  # characters; rsyslog's default for a whole line


@dataclass(frozen=True)
class LoginEvent:
    """One event. `source` is the address; for IPv6 its /64 network, which one host typically has."""

    kind: Kind
    user: str
    source: str = ""
    method: str = ""
    key: str = ""  # type and fingerprint of a public key
    times: int = 1


def read(program: str, message: str, tally: LoginTally, times: int = 1) -> LoginEvent | None:
    """Parse a message and count it: understood, about something else, or maybe about a login and not understood."""
    event = parse(program, message) or _of_forms(tally.forms, message)
    if event is not None:
        tally.understood += times
    elif any(re.fullmatch(form, message.rstrip(), re.DOTALL) for form in tally.forms.ignored):
        tally.out_of_scope += times
    elif may_be_success(program, message):
        tally.add_possible_success(f"{program}: {message}" if program else message, times)
    elif may_concern_login(program, message):
        tally.add_not_understood(f"{program}: {message}" if program else message, times)
    else:
        tally.out_of_scope += times
    return event


def parse(program: str, message: str) -> LoginEvent | None:
    """Parse a message of a program; None when it is not a login event."""
    message = message.rstrip()
    if len(message) > _LONGEST_MESSAGE:
        return None
    if program in SSHD:
        return _first(_SSHD, message) or _of_pam(message, program)
    if program == "dropbear":
        return _first(_DROPBEAR, message) or _of_pam(message, program)
    if program in ("sudo", "su"):
        return _first(_SUDO, message) or _of_pam(message, program)
    return _of_pam(message, program) or _first(_SERVICES, message)


def _of_forms(forms: LoginForms, message: str) -> LoginEvent | None:
    """Parse a message by the forms that the operator describes."""
    kinds: tuple[tuple[Kind, Sequence[str]], ...] = (("accepted", forms.accepted), ("failed", forms.failed))
    patterns = [(kind, re.compile(pattern, re.DOTALL)) for kind, some in kinds for pattern in some]
    return _first(patterns, message.rstrip()[:_LONGEST_MESSAGE]) if patterns else None


def may_concern_login(program: str, message: str) -> bool:
    """Whether a message that is not an event has words of a failed or successful login."""
    message = message.strip()
    if _OF_PAM.fullmatch(message):
        return False
    if program in SSHD:
        return bool(_OF_LOGIN_PROGRAMS.search(message)) and not OF_SSHD.fullmatch(message)
    if program == "dropbear":
        return bool(_OF_LOGIN_PROGRAMS.search(message)) and not OF_DROPBEAR.fullmatch(message)
    if program in ("sudo", "su"):
        return bool(_OF_LOGIN_PROGRAMS.search(message)) and not _OF_SUDO.fullmatch(message)
    return bool(_OF_OTHERS.search(message))


def _first(patterns: Patterns, message: str) -> LoginEvent | None:
    for kind, pattern in patterns:
        match = pattern.fullmatch(message)
        if match is not None:
            found = match.groupdict()
            local = kind in ("sudo_failed", "sudo_attempts", "sudo_denied")
            method = found.get("method") or ""
            return LoginEvent(
                kind,
                _name(found.get("user") or ""),
                "" if local else source_of(found.get("address") or ""),
                _METHODS.get(method, method),
                found.get("key") or "",
                int(found.get("times") or 1),
            )
    return None


def _of_pam(message: str, program: str) -> LoginEvent | None:
    match = _PAM.fullmatch(message)
    if match is None:
        return None
    times = int(match["times"] or 1)
    if program in SSHD:
        if not match["address"]:
            return None
        # The first address: sshd has no `ruser`, and the name is last.
        return LoginEvent("disconnected", _name(match["user"] or ""), source_of(match["address"]))
    user = match["user"] or match["ruser"] or match["logname"] or ""
    if match["address"]:
        service = match["service"] or program
        # The client of an FTP or mail server also chooses `ruser`, before the address.
        return LoginEvent("failed", _name(user), _single_source(match["address"], message), service, times=times)
    if program in ("sudo", "su"):
        user = match["ruser"] or match["logname"]
    return LoginEvent("sudo_failed", _name(user), times=times)


def _single_source(address: str, message: str) -> str:
    """The address, unless the message has several fields for one: then it is unclear which the program wrote."""
    return "unreadable" if len(_FREE_ADDRESS.findall(message)) > 1 else source_of(address)


def source_of(address: str) -> str:
    """Normalize an address; a host name is kept (sshd with UseDNS), anything else becomes `unreadable`."""
    text = address.split("%")[0]
    if (with_port := _WITH_PORT.fullmatch(text)) is not None:
        text = with_port["bracketed"] or with_port["plain"]
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return text[:255] if re.fullmatch(r"[A-Za-z0-9._-]+", text) else "unreadable"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((int(found), 64), strict=False))
    return str(found)


_WITH_PORT = re.compile(r"\[(?P<bracketed>[0-9A-Fa-f:.]+)\](?::\d{1,5})?|(?P<plain>[^:]+):\d{1,5}")


def _name(text: str) -> str:
    return text if len(text) <= _LONGEST_NAME else text[:_LONGEST_NAME] + "…"
