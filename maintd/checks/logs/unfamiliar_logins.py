"""Messages of a form that is not known, and may be about a successful login; and forms that the operator describes.

A failed login counts only together with many others, so a few messages that are not understood cannot hide an attack. A
successful login counts by itself. So one message is enough to make the review unknown when it names a user or an
address, and has no word of a failure.

Source of the known forms: the messages that OpenSSH 9.2 to 10.2 (levels up to VERBOSE, and DEBUG by their prefix),
dropbear 2022 and Linux-PAM 1.5 write to syslog.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import AfterValidator

from maintd.checks.limits import Limits
from maintd.checks.read_tally import SAMPLES, ReadTally, sample
from maintd.clients.program_output import Pattern
from maintd.job.bounded import BoundedList


def _names_a_user(pattern: str) -> str:
    if "user" not in re.compile(pattern).groupindex:
        raise ValueError(f'"{pattern}" has no group for the user; write: "(?P<user>\\S+)"')
    return pattern


LoginPattern = Annotated[Pattern, AfterValidator(_names_a_user)]
"""A regular expression for a whole message, with a group `user`, and `address` and `method` where there are any."""


class LoginForms(Limits):
    """Further forms of messages: regular expressions for the whole message, which follows the program and its number.

    They apply to messages that have no known form. Clients choose the name of the user in failures, so write `.*` only
    where the message has nothing from a client.
    """

    accepted: tuple[LoginPattern, ...] = ()
    """Successful logins, with groups `user`, `address` and `method`; only `user` is needed."""
    failed: tuple[LoginPattern, ...] = ()
    """Failed logins, with the same groups."""
    ignored: tuple[Pattern, ...] = ()
    """Messages that are not about a login, or accompany one that is counted by another message."""


@dataclass
class LoginTally(ReadTally):
    """Messages of logins by what became of them; those not understood that may be successful logins also by
    themselves. `forms` are those that the operator describes."""

    forms: LoginForms = field(default_factory=LoginForms)
    possible_successes: int = 0
    success_samples: BoundedList[str] = field(default_factory=lambda: BoundedList(SAMPLES))

    def add_possible_success(self, text: str, times: int = 1) -> None:
        """Count a message that is not understood, and may be about a successful login."""
        self.add_not_understood(text, times)
        self.possible_successes += times
        self.success_samples.append(sample(text))


_FAILURE = re.compile(
    r"(?<!\w)(?:fail(?:ed|ure|ures|s|ing)?|invalid|illegal|denied|deny|incorrect|refus(?:ed|ing|es)|rejected|rejecting|"
    r"not|no|cannot|unable|wrong|bad|unknown|nonexistent|exceeded|expired|error|errors|timeout|timed out|too many|"
    r"prohibited|locked|blocked|disabled|mismatch|unsupported|attempt|attempts|"
    r"disconnect(?:ed|ing)?|terminat(?:ed|ing)|clos(?:ed|ing)|logout|logged out|logged off)(?!\w)",
    re.IGNORECASE,
)
_SUCCESS = re.compile(
    r"(?<!\w)(?:accept(?:ed|ing)?|grant(?:ed)?|success\w{0,6}|succeed(?:ed|s)?|authenticated|authorized|"
    r"log(?:ged|ging)?[ -]?(?:in|on)|sign(?:ed)?[ -]?in|login|logon|opened)(?!\w)",
    re.IGNORECASE,
)
# Before the name, which may be a word of a failure.
_BEGINS_WITH_SUCCESS = re.compile(r"(?:accepted|authenticated|granted|success\w{0,6})(?!\w)", re.IGNORECASE)
_PERSON = re.compile(r"(?<!\w)(?:user|for|account|from|uid|login)(?!\w)", re.IGNORECASE)
_MAY_BE_ADDRESS = re.compile(r"(?<![\w.:-])[0-9A-Fa-f:.]{3,45}(?!\w)")
_MOST_WORDS = 64

# Messages of sshd that name a user or an address and neither are nor hide a success.
OF_SSHD = re.compile(
    r"(?:debug\d?: |error: |fatal: |warning: |rexec |userauth_|ssh_|sshpkt_|kex_|input_|auth_|mm_|monitor_|srclimit|"
    r"ssh_gssapi_|process_|channel_|channel \d|session_|do_|get_|set_|syslogin_|PAM service\(|"
    r"banner exchange: |Received |Accepted key |Accepted certificate ID |Accepted \S+ public key |"
    r"Accepted google_authenticator |Found matching |Postponed |Partial |reverse mapping |Address |Connection |"
    r"Closing |Disconnect|Finished discarding |Unable to negotiate |Bad (?:protocol|packet|remote)|Did not receive |"
    r"Protocol major |Timeout|drop connection |Authentication refused: |Authentication methods list |Certificate |"
    r"Could not |Cannot |Nasty |Server |Exiting |Exit |RESTART |WARNING: |Starting session|Close session|"
    r"Changed root directory |subsystem request |session (?:opened|closed) for local user |User child is on pid |"
    r"Root login accepted for forced command|Authorized to .{1,200} \((?:krb5_kuserok|ssh_gssapi_krb5_cmdok)\)|"
    r"probed from |scanned from |Read error |Write error |Environment |Deprecated |Transferred: |Session process |"
    r"beginning |exited |\d{1,6} active |child \d|client |socket|bind|listen|Listening |Attempt to write login |"
    r"Forced command |Allowed |Setting |Set |Successful Duo login |Skipped Duo login |RSA |DSA |HPN |"
    r"sent status |open |close |opendir |closedir |remove |rename |mkdir |rmdir |stat |lstat |readlink |symlink |"
    r"realpath |posix-rename |hardlink |forced close ).*",
    re.DOTALL,
)
OF_DROPBEAR = re.compile(
    r"(?:Exit |Early exit|Child connection|Running in background|Not backgrounding|Max auth tries |Failed |Error |"
    r"Warning|Pubkey auth attempt |wtmp_write|lastlog_|syslogin_|utmp_).*",
    re.DOTALL,
)
# Other programs log into sessions of their own kind: mail, files, desktops. Their successes are not reviewed.
_OF_OTHERS = re.compile(
    r"pam_\w+[:(].*|PAM[ :].*|authentication success; .*|(?:imap|pop3|managesieve|submission)-login: Login: .*|"
    r".{0,100}\bUSER \S+: Login successful\..*|\[.{1,64}\] OK LOGIN: .*|.{0,300}\[INFO\] \S+ is now logged in.*|"
    r"Successful login as \S+ from \S+|.{0,300}sasl_username=.*|session (?:opened|closed) for local user .*",
    re.DOTALL,
)
_LOCAL = frozenset({"sudo", "su", "doas", "CRON", "cron", "crond", "systemd", "systemd-logind", "polkitd", "sshguard"})
_LONGEST = 8192  # characters


def may_be_success(program: str, message: str) -> bool:
    """Whether a message that is no known event may be about a successful login.

    Of the ssh daemons, whatever they are called: each message that names a user or an address, and neither has a known
    form nor a word of a failure. Of other programs: those with an address and words of a success.
    """
    text = message.strip()[:_LONGEST]
    if program in _LOCAL or _OF_OTHERS.fullmatch(text):
        return False
    named = program.lower()
    if "dropbear" in named or "sshd" in named:
        known = OF_DROPBEAR if "dropbear" in named else OF_SSHD
        if known.fullmatch(text):
            return False
        if _FAILURE.search(text) and not _BEGINS_WITH_SUCCESS.match(text):
            return False
        return bool(_PERSON.search(text) or _SUCCESS.search(text)) or _has_address(text)
    return bool(_SUCCESS.search(text)) and not _FAILURE.search(text) and _has_address(text)


def _has_address(text: str) -> bool:
    for found, _ in zip(_MAY_BE_ADDRESS.finditer(text), range(_MOST_WORDS), strict=False):
        for candidate in (found[0].rstrip(".:"), found[0].partition(":")[0]):
            try:
                ipaddress.ip_address(candidate)
            except ValueError:
                continue
            return True
    return False
