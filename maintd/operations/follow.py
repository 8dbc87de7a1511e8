"""What the end of a run changes about the findings of its entry, and what of a run is acknowledged. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from maintd.job.causes import has_no_answer, may_hide_others
from maintd.model.evidence import Check, CheckStatus, Scalar, number_of
from maintd.model.finding import (
    RANK,
    Acknowledgement,
    ChangeKind,
    Finding,
    FindingChange,
    GoneReason,
    finding_key,
    is_finding,
)
from maintd.model.run import Attempt, AttemptState, Run, RunState, Step, StepState
from maintd.units import value_text

MOST_OPEN = 200
"""Open findings of one entry. A further one is followed in place of one that was not checked for the longest time."""

QUARTER = 0.25
"""Of the distance from the limit: an acknowledged value that moved away by more is worse."""

NOTICEABLE = 0.05
"""Of the limit: values that move by less vary."""

_TIME_UNITS = {"s": timedelta(seconds=1), "day": timedelta(days=1)}

_CHECKED_STEPS = frozenset(
    {StepState.SUCCEEDED, StepState.WARNED, StepState.UNKNOWN, StepState.FAILED, StepState.TIMED_OUT}
)
_OBSERVED_STEPS = frozenset({StepState.SUCCEEDED, StepState.WARNED, StepState.FAILED})
_NOT_CHECKED_ATTEMPTS = frozenset({AttemptState.RUNNING, AttemptState.CANCELLED, AttemptState.LOST})


class Place(NamedTuple):
    """What identifies a finding within its entry."""

    step: str
    job: str
    check: str


class Observation(NamedTuple):
    """What a run observed of one check, and when."""

    check: Check
    at: datetime


class PlannedEntry(NamedTuple):
    """An entry as a calendar has it: its fingerprint, empty for one that is not enabled, and its steps with jobs."""

    fingerprint: str
    steps: frozenset[tuple[str, str]] = frozenset()


class StoredEntry(NamedTuple):
    """An entry as the store has it: whether it is in the calendar that was loaded last, and the fingerprint there."""

    active: bool
    fingerprint: str


class Followed(NamedTuple):
    """Changes in the order of the run's checks.

    Beyond MOST_OPEN, `forgotten` are earlier findings that the run did not check, and `left_out` counts new ones that
    are not followed. They are still checks of their runs.
    """

    changes: tuple[FindingChange, ...]
    left_out: int = 0
    forgotten: tuple[Finding, ...] = ()


NEVER: Mapping[str, datetime] = {}


def follow(known: Sequence[Finding], run: Run, now: datetime, checked_at: Mapping[str, datetime] = NEVER) -> Followed:
    """The changes that an ended run makes to the findings of its entry.

    `known` are all open findings of the entry, and those that are gone of the checks that this run reports.
    `checked_at` has when other runs checked each step last. Rules:

    1. Only checks of the last attempt of a step that ran to an end decide: nothing follows from a step that was
       skipped, cancelled or lost, or from a dry run.
    2. A check that is ok ends the finding, unless the run was cancelled. An optional check that is unknown, and one
       that is unknown because of another, decide nothing about a finding that was observed.
    3. A check that is missing ends the finding, with another reason, if the step observed all that it is to observe,
       see `is_observed`, and no other check of its subject is a problem, see `_may_be_hidden`.
    4. An observation that is older than what was seen changes nothing: a lost run can come back late.
    5. An acknowledgement ends when the finding becomes worse than it was when it was acknowledged (its status, or its
       value by `moved_away`), and when it is gone.
    """
    if run.dry_run:
        return Followed(())
    found = {Place(finding.step, finding.job, finding.check): finding for finding in known}
    changes = list[FindingChange]()
    reported = observations(run)
    for place, seen in reported.items():
        before = found.get(place)
        if before is None and (not is_finding(seen.check) or checked_at.get(place.step, seen.at) > seen.at):
            continue
        if before is not None and (seen.at, run.id) <= (before.gone_at or before.last_seen_at, before.last_run_id):
            continue
        change = _new(run, place, seen) if before is None else _change(before, run, seen, now)
        if change is not None:
            changes.append(change)
    changes += _not_reported(known, run, reported, now)
    return _bounded(known, changes)


def removed_from_calendar(
    known: Iterable[Finding],
    calendar: Mapping[str, PlannedEntry],
    stored: Mapping[str, StoredEntry],
    now: datetime,
) -> tuple[FindingChange, ...]:
    """The changes by which open findings end whose entry or step is no longer in the calendar.

    `calendar` has the entries of this node's calendar, also those that are not enabled, and `stored` those that are or
    were in any node's calendar. Nothing follows for a job that was run under its own name, for an entry that is only
    not enabled, and for one of which another node has another version.
    """
    return tuple(
        _gone(finding, GoneReason.NOT_IN_CALENDAR, finding.last_run_id, max(now, finding.last_seen_at), now)
        for finding in known
        if finding.open and _is_removed(finding, calendar.get(finding.entry), stored.get(finding.entry))
    )


def _is_removed(finding: Finding, planned: PlannedEntry | None, stored: StoredEntry | None) -> bool:
    if stored is None:
        return False
    if planned is None:
        return not stored.active
    same = stored.active and stored.fingerprint == planned.fingerprint
    return same and (finding.step, finding.job) not in planned.steps


def _not_reported(
    known: Iterable[Finding], run: Run, reported: Mapping[Place, Observation], now: datetime
) -> Iterator[FindingChange]:
    """The changes by which findings end whose step observed everything and did not report their check."""
    observed = {(step.name, step.job): step for step in run.steps if is_observed(run, step)}
    for finding in known:
        step = observed.get((finding.step, finding.job))
        at = None if step is None else _ended_at(run, step)
        if step is None or at is None or not finding.open:
            continue
        if Place(finding.step, finding.job, finding.check) in reported or _may_be_hidden(finding.check, step):
            continue
        if (at, run.id) > (finding.last_seen_at, finding.last_run_id):
            yield _gone(finding, GoneReason.NOT_REPORTED, run.id, at, now)


def _may_be_hidden(missing: str, step: Step) -> bool:
    """Whether a check that a step did not report may follow from one of the same subject, or of the whole job.

    `host a: clock offset` is not observed when `host a: clock synchronised` is not ok.
    """
    hiding = (check.name.rpartition(": ") for check in step.attempts[-1].checks if may_hide_others(check))
    return any(missing.startswith(subject + colon) for subject, colon, _ in hiding)


def is_observed(run: Run, step: Step) -> bool:
    """Whether a step observed all that it is to observe, so that a check that it did not report is no longer made.

    Its job returned: neither an exception, a required check nor its deadline ended it before its last check. All of
    its evidence was recorded. No check is without an answer: what follows from the answer would be missing. And the
    run has the params of the calendar: others can select less.
    """
    if run.dry_run or run.params or run.state is RunState.CANCELLED or step.state not in _OBSERVED_STEPS:
        return False
    last = step.attempts[-1] if step.attempts else None
    return last is not None and last.complete and not any(map(has_no_answer, last.checks))


def _bounded(known: Sequence[Finding], changes: Sequence[FindingChange]) -> Followed:
    """Keep the number of open findings at MOST_OPEN; those that the run checked, or are acknowledged, come first."""
    opened = [change for change in changes if change.kind in (ChangeKind.NEW, ChangeKind.RETURNED)]
    ended = sum(change.kind is ChangeKind.GONE for change in changes)
    over = sum(finding.open for finding in known) - ended + len(opened) - MOST_OPEN
    if over <= 0:
        return Followed(tuple(changes))
    checked = {change.finding.key for change in changes}
    idle = [finding for finding in known if finding.open and finding.key not in checked and not finding.acknowledgement]
    forgotten = sorted(idle, key=lambda finding: finding.last_seen_at)[:over]
    left_out = opened[len(opened) - (over - len(forgotten)) :] if over > len(forgotten) else []
    return Followed(tuple(change for change in changes if change not in left_out), len(left_out), tuple(forgotten))


def observations(run: Run) -> Mapping[Place, Observation]:
    """What the run observed, the worst of several checks with one name."""
    found: dict[Place, Observation] = {}
    for step in run.steps:
        for check, at in _checked(run, step):
            place = Place(step.name, step.job, check.name)
            other = found.get(place)
            if other is None or _badness(check) > _badness(other.check):
                found[place] = Observation(check, at)
    return found


def last_checked(runs: Iterable[Run]) -> dict[str, datetime]:
    """By the name of a step, when these runs checked it last. Dry runs do not count."""
    found: dict[str, datetime] = {}
    for run in runs:
        for step in () if run.dry_run else run.steps:
            at = max((at for _, at in _checked(run, step)), default=None)
            if at is not None:
                found[step.name] = max(at, found.get(step.name, at))
    return found


def problems(run: Run, step: Step, findings: Iterable[Finding], now: datetime) -> tuple[Check, ...]:
    """The checks of a step's last attempt that are findings and that are not acknowledged, nor what they follow
    from."""
    last = step.attempts[-1] if step.attempts else None
    bad = [check for check in last.checks if is_finding(check)] if last is not None else []
    of_step = {
        finding.check: finding.acknowledgement
        for finding in findings
        if (finding.entry, finding.step, finding.job) == (run.entry, step.name, step.job)
    }
    if not of_step:
        return tuple(bad)
    covered = {
        check.name
        for check in bad
        if (acknowledgement := of_step.get(check.name)) is not None and acknowledgement.covers(check.status, now)
    }
    return tuple(check for check in bad if check.name not in covered and check.because not in covered)


def acknowledged_in(run: Run, findings: Iterable[Finding], now: datetime) -> tuple[Finding, ...]:
    """The findings of a run's last attempts that are acknowledged."""
    seen = observations(run)
    return tuple(
        finding
        for finding in findings
        if finding.acknowledgement is not None
        and (found := seen.get(Place(finding.step, finding.job, finding.check))) is not None
        and is_finding(found.check)
        and finding.acknowledgement.covers(found.check.status, now)
    )


def worst_left(run: Run, findings: Sequence[Finding], now: datetime) -> CheckStatus | None:
    """The worst status of a run's checks that are not acknowledged; OK when all that was wrong has been acknowledged.

    None: acknowledgements change nothing, since the run did not end by its checks, or none of them is acknowledged.
    """
    if run.state not in (RunState.FAILED, RunState.UNKNOWN, RunState.WARNED):
        return None
    if not acknowledged_in(run, findings, now) or not all(map(is_explained, run.steps)):
        return None
    left = [check.status for step in run.steps for check in problems(run, step, findings, now)]
    return max(left, key=RANK.__getitem__, default=CheckStatus.OK)


def is_acknowledged(run: Run, findings: Sequence[Finding], now: datetime) -> bool:
    """Whether a run was not a success, and all that was wrong with it are findings that are acknowledged."""
    return worst_left(run, findings, now) is CheckStatus.OK


def is_explained(step: Step) -> bool:
    """Whether a step ended as its checks require: not by an error, nor without some of its evidence."""
    if step.state in (StepState.SUCCEEDED, StepState.SKIPPED, StepState.WARNED):
        return True
    if step.state not in (StepState.FAILED, StepState.UNKNOWN) or not step.attempts:
        return False
    return _ended_by_checks(step.attempts[-1])


def _ended_by_checks(attempt: Attempt) -> bool:
    if attempt.state is AttemptState.UNKNOWN:
        return "left out" not in attempt.reason
    return attempt.state is AttemptState.FAILED and attempt.reason.startswith(('check "', "a check failed"))


def _checked(run: Run, step: Step) -> Iterator[tuple[Check, datetime]]:
    if step.state not in _CHECKED_STEPS or not step.attempts:
        return
    last = step.attempts[-1]
    at = _ended_at(run, step)
    if last.state in _NOT_CHECKED_ATTEMPTS or at is None:
        return
    for check in last.checks:
        yield check, at


def _ended_at(run: Run, step: Step) -> datetime | None:
    """When the last attempt of a step ended."""
    return step.attempts[-1].finished_at or step.finished_at or run.finished_at


def _badness(check: Check) -> tuple[int, bool]:
    """Of several checks with one name, an optional one that is unknown counts as less than one that is ok."""
    return (RANK[check.status] if is_finding(check) or check.status is CheckStatus.OK else -1), not check.because


def _new(run: Run, place: Place, seen: Observation) -> FindingChange:
    finding = Finding(
        key=finding_key(run.entry, *place),
        entry=run.entry,
        **place._asdict(),
        **_observed(seen.check),
        first_seen_at=seen.at,
        last_seen_at=seen.at,
        first_run_id=run.id,
        last_run_id=run.id,
        seen_count=1,
    )
    return FindingChange(kind=ChangeKind.NEW, finding=finding)


def _change(before: Finding, run: Run, seen: Observation, now: datetime) -> FindingChange | None:
    check = seen.check
    if check.status is CheckStatus.OK:
        passed = before.open and run.state is not RunState.CANCELLED
        return _gone(before, GoneReason.PASSED, run.id, seen.at, now) if passed else None
    if not is_finding(check):
        return None
    if not before.open:
        returned = before.model_copy(
            update=_observed(check)
            | {"first_seen_at": seen.at, "last_seen_at": seen.at, "gone_at": None, "gone_reason": None}
            | {"acknowledgement": None, "first_run_id": run.id, "last_run_id": run.id, "seen_count": 1}
        )
        return FindingChange(kind=ChangeKind.RETURNED, finding=returned)
    if check.because and check.status is CheckStatus.UNKNOWN and not before.because:
        return None
    count = before.seen_count + (run.id != before.last_run_id)
    after = before.model_copy(
        update=_observed(check) | {"last_seen_at": seen.at, "last_run_id": run.id, "seen_count": count}
    )
    acknowledgement = before.acknowledgement
    worse = "" if acknowledgement is None else _worse(acknowledgement, seen)
    if acknowledgement is None or not worse:
        return FindingChange(kind=_kind(before, check), finding=after, before=before.status)
    ended = _ended(acknowledgement, f"worse: {worse}", now)
    after = after.model_copy(update={"acknowledgement": None})
    return FindingChange(kind=ChangeKind.WORSE, finding=after, before=before.status, ended=ended)


def _worse(acknowledgement: Acknowledgement, seen: Observation) -> str:
    """In what a finding is worse than it was when it was acknowledged; empty if it is not."""
    check = seen.check
    if RANK[check.status] > RANK[acknowledgement.status]:
        return f"{check.status}, acknowledged as {acknowledgement.status}"
    if acknowledgement.observed_at is None:
        return ""
    if not moved_away(acknowledgement.observed, check, seen.at - acknowledgement.observed_at):
        return ""
    now, then = (value_text(value, check.unit) for value in (check.observed, acknowledgement.observed))
    return f"{now}, acknowledged at {then}"


def moved_away(before: Scalar, check: Check, elapsed: timedelta) -> bool:
    """Whether a value is noticeably further from the limit that it misses than the value before, `elapsed` earlier.

    1. Noticeably is more than a quarter of its distance from the limit before, and more than 5 % of the limit. Of a
       limit of 0 failures, 2 become 3; of a disk at 91 %, at most 80 %, more than 95 %.
    2. A percentage below 100 has no room for that near its end: there half of the room is enough, but at least 1 %.
    3. A time or a number of days that grew or shrank just by the time that passed is an age, and no worse for it.
    4. Texts, yes and no, and limits that are no number are not compared.
    """
    now, then, limit = number_of(check.observed), number_of(before), check.missed_limit
    if now is None or then is None or limit is None:
        return False
    direction = 1 if now > limit else -1
    moved = (now - then) * direction
    margin = max((then - limit) * direction * QUARTER, abs(limit) * NOTICEABLE)
    if check.unit == "%" and 0 <= then <= 100:
        margin = min(margin, max((100 - then if direction > 0 else then) / 2, 1))
    if not moved > margin:
        return False
    aged = elapsed / _TIME_UNITS[check.unit] if check.unit in _TIME_UNITS else 0
    return not (aged > 0 and abs(moved - aged) <= max(margin, 1))


def _gone(before: Finding, reason: GoneReason, run_id: int, at: datetime, now: datetime) -> FindingChange:
    why = "gone" if reason is GoneReason.PASSED else f"gone: {reason.text}"
    ended = None if before.acknowledgement is None else _ended(before.acknowledgement, why, now)
    gone = {"gone_at": at, "gone_reason": reason, "last_run_id": run_id, "acknowledgement": None}
    return FindingChange(
        kind=ChangeKind.GONE, finding=before.model_copy(update=gone), before=before.status, ended=ended
    )


def _kind(before: Finding, check: Check) -> ChangeKind:
    if RANK[check.status] > RANK[before.status] or (before.because and not check.because):
        return ChangeKind.WORSE
    # What is no longer observed is not better.
    if RANK[check.status] < RANK[before.status] and check.status is not CheckStatus.UNKNOWN:
        return ChangeKind.BETTER
    return ChangeKind.SAME


def _observed(check: Check) -> dict[str, object]:
    return {
        name: getattr(check, name) for name in ("status", "observed", "expected", "unit", "hint", "rule", "because")
    }


def _ended(acknowledgement: Acknowledgement, why: str, now: datetime) -> Acknowledgement:
    return acknowledgement.model_copy(update={"ended_at": min(now, acknowledgement.until), "ended_why": why})
