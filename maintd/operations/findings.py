"""What an operator can see and do about findings: list, acknowledge, withdraw; and the summary of a period."""

from __future__ import annotations

from datetime import datetime
from shlex import quote

from maintd.errors import RefusedError, UnknownNameError, UsageError
from maintd.model.access import Caller
from maintd.model.finding import (
    LONGEST_ACKNOWLEDGEMENT,
    Acknowledgement,
    Finding,
    FindingsSummary,
    FindingState,
    ListedFinding,
    is_finding,
)
from maintd.operations.commands import wake
from maintd.operations.follow import observations
from maintd.operations.lookup import find_run, known_names
from maintd.operations.service import OperatorService
from maintd.present import utc_minute
from maintd.store import Store

SHORTEST_KEY = 4
"""Digits of a key that identify a finding, if no other key begins with them."""


def list_findings(
    service: OperatorService,
    *,
    area: str | None = None,
    since: datetime | None = None,
    gone: bool = False,
    acknowledged: bool = False,
) -> list[ListedFinding]:
    """Open findings, the worst first; with `gone` all, with `acknowledged` only those that are.

    `area` is an entry or a job. `since` leaves out open findings that were first seen before; with `gone`, those that
    were gone before. Raises UnknownNameError for an unknown area.
    """
    now = service.store.now()
    found = service.store.findings.all(only_open=not gone, area=area, since=since)
    if not found and area is not None:
        require_area(service, area)
    listed = [listed_finding(finding, now) for finding in found]
    return [finding for finding in listed if not acknowledged or finding.state is FindingState.ACKNOWLEDGED]


def listed_finding(finding: Finding, now: datetime) -> ListedFinding:
    """A finding with its state at a time."""
    state = FindingState.OPEN if finding.open else FindingState.GONE
    if finding.open and finding.acknowledged(now):
        state = FindingState.ACKNOWLEDGED
    return ListedFinding(**{name: getattr(finding, name) for name in Finding.model_fields}, state=state)


def require_area(service: OperatorService, area: str) -> None:
    """Raise UnknownNameError for a name that is no entry and no job, and has no history either."""
    if area not in known_names(service) and not service.store.entries.states([area]):
        raise UnknownNameError("entry or job", area, known_names(service))


def find_finding(store: Store, key: str) -> Finding:
    """The finding with this key, or the only one whose key begins with it. Raises UnknownNameError, UsageError."""
    if len(key) < SHORTEST_KEY or not key.isalnum():
        raise UsageError(f'"{key[:60]}" is not the key of a finding', "see: maintd findings")
    found = store.findings.find(key)
    if not found:
        raise UnknownNameError("finding", key)
    if len(found) > 1:
        keys = ", ".join(finding.key for finding in found)
        raise UsageError(f'several findings have a key that begins with "{key}": {keys}', "give more digits")
    return found[0]


def findings_of_run(service: OperatorService, run_id: int) -> list[ListedFinding]:
    """The findings that a run reported, in the order of its checks, as they are now. Raises UnknownNameError.

    Those of a run that has just ended are there when it has been reviewed, within a second.
    """
    run = find_run(service, run_id)
    if run.started_at is None or run.dry_run:
        return []
    places = [place for place, seen in observations(run).items() if is_finding(seen.check)]
    known = {
        (finding.step, finding.job, finding.check): finding
        for finding in service.store.findings.of_checks(run.entry, {place.check for place in places})
    }
    now = service.store.now()
    return [listed_finding(known[place], now) for place in places if place in known]


def acknowledge(service: OperatorService, key: str, *, why: str, until: datetime, caller: Caller) -> ListedFinding:
    """Acknowledge an open finding, in place of an earlier acknowledgement. Returns it as it is then.

    Raises UnknownNameError; UsageError without a reason, without a person's name, and for an end in the past or more
    than LONGEST_ACKNOWLEDGEMENT ahead; RefusedError when the finding is gone.
    """
    finding = find_finding(service.store, key)
    now = service.store.now()
    if not why.strip():
        raise UsageError(f"no reason given for acknowledging {finding.key}", 'add for example --why "disk is ordered"')
    if not caller.person:
        raise UsageError(f'an acknowledgement needs a person\'s name, not "{caller.name}"', "add for example --by ada")
    if until <= now:
        raise UsageError(f"the end, {utc_minute(until)}, is in the past", "give an end in the future")
    if until > now + LONGEST_ACKNOWLEDGEMENT:
        latest = utc_minute(now + LONGEST_ACKNOWLEDGEMENT)
        days = LONGEST_ACKNOWLEDGEMENT.days
        raise UsageError(f"{utc_minute(until)} is more than {days} days ahead", f"give an end until {latest}")
    done = service.store.findings.acknowledge(
        finding.key, why=why, by=caller.name, until=until, now=now, origin=caller.origin
    )
    if not done:
        raise RefusedError(f"finding {finding.key} is gone", f"see: maintd findings show {finding.key}")
    wake(service)
    return listed_finding(find_finding(service.store, finding.key), now)


def withdraw(service: OperatorService, key: str, *, by: str, why: str = "", origin: str = "") -> ListedFinding:
    """Withdraw the acknowledgement of a finding. Raises UnknownNameError, RefusedError when it has none."""
    finding = find_finding(service.store, key)
    now = service.store.now()
    if not service.store.findings.withdraw(finding.key, by=by or "an operator", now=now, why=why, origin=origin):
        raise RefusedError(f"finding {finding.key} is not acknowledged", "see: maintd ack --list")
    wake(service)  # what is wrong again is reported now
    return listed_finding(find_finding(service.store, finding.key), now)


def acknowledgements(service: OperatorService, key: str) -> list[Acknowledgement]:
    """All acknowledgements of a finding, newest first."""
    return service.store.findings.history(key)


def summary(store: Store, since: datetime) -> FindingsSummary:
    """The findings of a period: new, still open from before, and gone; without those that follow from another check."""
    found = [finding for finding in store.findings.all(only_open=False, since=since) if not finding.because]
    now = store.now()
    return FindingsSummary(
        since=since,
        new=tuple(listed_finding(each, now) for each in found if each.open and each.first_seen_at >= since),
        old=tuple(listed_finding(each, now) for each in found if each.open and each.first_seen_at < since),
        gone=tuple(listed_finding(each, now) for each in found if not each.open),
    )


def command_to_acknowledge(finding: Finding, caller: Caller) -> str:
    """What the caller types to acknowledge a finding for a week; with a name, where theirs is none of a person."""
    by = "" if caller.person or not caller.name else " --by NAME"
    return f"maintd ack {quote(finding.key)} --why REASON --until 7d{by}"
