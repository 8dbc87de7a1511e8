"""Which incidents open, continue and close: by the end of a run, and by what is true now. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import NamedTuple

from maintd.model.notice import Incident, Mute, NoticeKind, NoticeRules, NotifyConfig, QuietHours
from maintd.model.run import Run, RunState, RunSummary, SkipReason, Step, StepState, Trigger
from maintd.present.notices import OWN
from maintd.schedule import compile_rule
from maintd.store.notice_groups import GROUP_WAIT

NOT_DONE = (SkipReason.MISSED, SkipReason.MISFIRE, SkipReason.DEPENDENCY)
"""Reasons for which a due time was skipped although its work had to be done."""

LEAST_EXCESS = timedelta(minutes=5)
"""A run is not too long until it takes this much longer than it typically does, however short that is."""

_OF_STATE = {
    RunState.FAILED: NoticeKind.FAILED,
    RunState.TIMED_OUT: NoticeKind.FAILED,
    RunState.LOST: NoticeKind.FAILED,
    RunState.UNKNOWN: NoticeKind.UNKNOWN,
}
_OF_RUN = (NoticeKind.FAILED, NoticeKind.UNKNOWN, NoticeKind.MISSED)
_UNTIL_END = (NoticeKind.LATE, NoticeKind.TOO_LONG)
_WORSE: Mapping[NoticeKind, tuple[NoticeKind, ...]] = {
    NoticeKind.FAILED: (),
    NoticeKind.UNKNOWN: (NoticeKind.FAILED,),
    NoticeKind.MISSED: (),
}
"""Kinds of an open incident that this one does not add to: an unknown run does not end a row of failures."""


class EndDecision(NamedTuple):
    """What the end of a run changes about the incidents of its entry."""

    opens: NoticeKind | None = None  # unless it is open, then it continues
    recovered: tuple[Incident, ...] = ()  # closed, because all is well again
    superseded: tuple[Incident, ...] = ()  # closed, because of what the run shows instead


def decide_end(run: RunSummary, opened: Sequence[Incident], *, acknowledged: bool = False) -> EndDecision:
    """What the end of a run changes; `opened` are the open incidents of its entry.

    1. A dry run, and a run that is older than what an incident is about, change nothing.
    2. A success closes everything that is open about the entry; that of a run which undid another one is none.
    3. A failure closes all but earlier failures, and opens one; an unknown run does not end a row of failures.
    4. A due time whose work was not done opens an incident; one that was skipped as an operator wanted, none.
    5. A run in which all that was wrong is acknowledged opens none.
    """
    if run.dry_run:
        return EndDecision()
    # Whether a run waits is no question of how another one ended: the sweep closes that incident.
    opened = [one for one in opened if one.kind is not NoticeKind.WAITING and run.id >= (one.run_id or 0)]
    until_end = tuple(incident for incident in opened if incident.kind in _UNTIL_END)
    latest = max((incident.last_run_id or 0 for incident in opened if incident.kind in _OF_RUN), default=0)
    if run.id < latest:  # its node brought the evidence after a later run had ended
        return EndDecision(superseded=until_end)
    if run.state in (RunState.SUCCEEDED, RunState.WARNED):
        if run.trigger is Trigger.UNDO:  # what the entry is for was not done
            return EndDecision(superseded=until_end)
        return EndDecision(recovered=tuple(opened))
    kind = _OF_STATE.get(run.state)
    if run.state is RunState.SKIPPED and run.skip_reason in NOT_DONE:
        kind = NoticeKind.MISSED
    if kind is None:  # cancelled or skipped on purpose
        return EndDecision(superseded=until_end)
    if kind is NoticeKind.MISSED:
        return EndDecision(kind, superseded=until_end)
    open_kinds = {incident.kind for incident in opened}
    effective = next((worse for worse in _WORSE[kind] if worse in open_kinds), kind)
    closed = tuple(incident for incident in opened if incident.kind not in (effective, kind))
    return EndDecision(None if acknowledged and effective not in open_kinds else effective, superseded=closed)


class OwnProblem(NamedTuple):
    """Something that is wrong with maintd itself. `key` stays the same while it lasts, `text` can change."""

    kind: NoticeKind
    key: str
    text: str


def is_late(run: RunSummary, rules: NoticeRules, now: datetime) -> bool:
    """Whether a queued run should have started longer ago than the rules allow."""
    return rules.late is not None and bool(rules.channels_of(NoticeKind.LATE)) and now - run.not_before > rules.late


def longest(rules: NoticeRules, typical: timedelta | None) -> timedelta | None:
    """How long a run may take; None: as long as it wants."""
    if not rules.channels_of(NoticeKind.TOO_LONG):
        return None
    if rules.too_long is not None:
        return rules.too_long
    if rules.too_long_factor is None or typical is None:
        return None
    return max(typical * rules.too_long_factor, typical + LEAST_EXCESS)


def waiting_step(run: Run) -> Step | None:
    """The gate where a run waits."""
    found = (step for step in run.steps if step.state is StepState.WAITING)
    return next(found, None) if run.state is RunState.WAITING else None


def is_about_wait(incident: Incident, run: Run) -> bool:
    """Whether an incident is about the wait of a run, and not about one at an earlier gate."""
    step = waiting_step(run)
    since = None if step is None else step.started_at
    return since is not None and incident.run_id == run.id and incident.opened_at >= since


def next_reminder(rules: NoticeRules, reminders: int, now: datetime) -> datetime | None:
    """When the next reminder is due after so many; the interval doubles each time. None: there are none."""
    if rules.kinds.get(NoticeKind.STILL_FAILING) == ():
        return None
    return now + min(rules.remind_first * (1 << min(reminders, 20)), rules.remind_at_most)


def muting(mutes: Iterable[Mute], subject: str) -> Mute | None:
    """The mute that silences an entry and lasts longest; maintd itself is never muted."""
    found = [mute for mute in mutes if fnmatchcase(subject, mute.entries) and not subject.startswith(OWN)]
    return max(found, key=lambda mute: mute.until, default=None)


def send_at(quiet: QuietHours | None, *, critical: bool, now: datetime) -> datetime:
    """When a notice is sent: after a moment for others, and after the quiet hours unless it is critical."""
    soon = now + GROUP_WAIT
    if quiet is None or critical:
        return soon
    start, end = (compile_rule(rule).next_after(now) for rule in (quiet.start, quiet.end))
    return end if start is not None and end is not None and end < start else soon


def reminder_channels(config: NotifyConfig, incident: Incident) -> tuple[str, ...]:
    """Where a reminder of an incident goes."""
    rules = config.rules_of(incident.subject)
    own = rules.kinds.get(NoticeKind.STILL_FAILING)
    return rules.channels_of(incident.kind) if own is None else own


def recovery_channels(config: NotifyConfig, incident: Incident, notified: Iterable[str]) -> tuple[str, ...]:
    """Where the news goes that an incident is over: to the channels that got notices of it."""
    own = config.rules_of(incident.subject).kinds.get(NoticeKind.RECOVERED)
    known = sorted(channel for channel in notified if channel in config.channels)
    if own is None:
        return tuple(known)
    return own if known else ()
