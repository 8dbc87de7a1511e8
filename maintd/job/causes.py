"""Why a target did not answer as it should: every cause, what it means for a check, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from maintd.model.evidence import Check, CheckStatus

FAIL, UNKNOWN = CheckStatus.FAIL, CheckStatus.UNKNOWN


class Role(StrEnum):
    """What the target is to the job that reports its error."""

    WORK = "work"  # the job was to change it: whatever the cause, the work is not done
    SUBJECT = "subject"  # the job observes it: being down fails, not being able to look does not
    SOURCE = "source"  # a further source of information about something else


@dataclass(frozen=True)
class Cause:
    """One value of `TargetError.cause`."""

    as_subject: CheckStatus
    """The status of a check on a target that is the job's subject."""
    hint: str
    """What to do, where the error does not know better."""


CAUSES = {
    "refused": Cause(FAIL, "check whether it runs, and whether address and port are right"),
    "unreachable": Cause(FAIL, "check the address, the network and the name server"),
    "timed_out": Cause(FAIL, "check whether it hangs or is overloaded; its log shows more"),
    "tls": Cause(FAIL, "check its certificate, and the target's ca_file"),
    "not_found": Cause(FAIL, "check the name or path in the target"),
    "failed": Cause(FAIL, "look for the error in its own log; of a container: docker logs NAME"),
    "conflict": Cause(UNKNOWN, "the next run checks it again"),
    "denied": Cause(UNKNOWN, "grant the access, or correct user and password"),
    "not_configured": Cause(UNKNOWN, "configure it in the calendar's targets"),
    "empty": Cause(UNKNOWN, "check whether the data is collected under this name"),
    "malformed": Cause(FAIL, "check what it is: a damaged or cut file, a login page, a proxy, another version"),
    "partial": Cause(FAIL, "the answer broke off: look for a restart or an error in its own log"),
    "too_large": Cause(UNKNOWN, "raise the limit, or ask for less"),
    "unfamiliar": Cause(UNKNOWN, "check the format or version; this maintd does not know it"),
}
"""By the value of `TargetError.cause`."""

_OF_THIS_TIME = frozenset(
    {"refused", "unreachable", "timed_out", "tls", "failed", "conflict", "empty", "malformed", "partial"}
)
"""Causes that can be over in the next run, without a change of the site."""

_OTHER = Cause(UNKNOWN, "look for the error in its own log; of a container: docker logs NAME")


def status_of(cause: str, role: Role) -> CheckStatus:
    """The status of a check on a target that failed with this cause; a cause that is not listed is unknown."""
    if role is Role.WORK:
        return FAIL
    return CAUSES.get(cause, _OTHER).as_subject if role is Role.SUBJECT else UNKNOWN


def has_no_answer(check: Check) -> bool:
    """Whether a check has a cause instead of a value, as `Criterion.from_error` reports it, or is unknown.

    An optional one that is unknown is a fact of the site: false.
    """
    if check.status is CheckStatus.UNKNOWN:
        return not check.optional
    return check.status is CheckStatus.FAIL and _cause_of(check) in CAUSES


def may_hide_others(check: Check) -> bool:
    """Whether checks of the same subject may be missing because of this one: a job can return early when one is not ok.

    An optional one that is unknown is a fact of the site, unless the answer stayed away only this time.
    """
    if check.status is CheckStatus.UNKNOWN and check.optional:
        return _cause_of(check) in _OF_THIS_TIME
    return check.status is not CheckStatus.OK


def _cause_of(check: Check) -> str:
    """The cause in the observed value of a check, empty without one."""
    text = check.observed.removeprefix("unknown: ") if isinstance(check.observed, str) else ""
    cause, colon, _ = text.partition(": ")
    return cause if colon else ""


def hint_for(cause: str) -> str:
    """What to do about the cause."""
    return CAUSES.get(cause, _OTHER).hint
