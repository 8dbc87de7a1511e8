"""Which runs are owed: the decision for each due time, pure, and the thin code that writes it.

A wake-up carries no meaning. Whatever the cause (an instant fell due, the daemon came back, the store came back, a
sweep), the planner asks what fell due in `(planned_through, now]` and writes one row for each instant, in one
transaction that only one node can win.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import structlog

from maintd.calendar import fingerprint_of
from maintd.clock import Clock, ClockStepDetector
from maintd.model.entry import CatchUp, Entry, EntryState, Overlap, Pause, Policy, Rule
from maintd.model.run import NewRun, RunState, RunSummary, SkipReason, Trigger
from maintd.schedule import blackout_covering, compile_rule, due_between, jitter_of
from maintd.scheduler.due_queue import Timetable
from maintd.store import EntryPlan, Store
from maintd.store.entries import EntryVersion
from maintd.units import format_duration, utc_text

log = structlog.get_logger()

LATE = timedelta(seconds=90)
"""Planned later than this after it was due, an instant was missed and is caught up; a slow store alone is not."""

JUMP = timedelta(hours=1)
"""A step of the clock this far forward is believed only after SETTLE: rows written for a future that has not come
would stand in the way of the real instants."""

SETTLE = timedelta(minutes=5)


def decide(
    entry: Entry,
    rule: Rule,
    policy: Policy,
    due: Sequence[datetime],
    *,
    now: datetime,
    pause: Pause | None = None,
    unfinished: RunSummary | None = None,
) -> list[NewRun]:
    """One row for each due time, in order.

    1. In a pause or a blackout: skipped.
    2. Older than the catch-up window, or late where nothing is caught up: missed.
    3. Of what is left, `latest` keeps the last; the others are coalesced into it.
    4. While an earlier run is unfinished and overlap is `skip`: skipped, naming that run. Else queued.
    """
    reasons = {at: _refusal(rule, policy, at, now, pause) for at in due}
    owed = [at for at in due if reasons[at] is None]
    if policy.catch_up is CatchUp.LATEST and len(owed) > 1:
        for at in owed[:-1]:
            reasons[at] = (SkipReason.COALESCED, f"the run due at {utc_text(owed[-1])} stands for it")
        owed = owed[-1:]
    if owed and unfinished is not None and policy.overlap is Overlap.SKIP:
        since = unfinished.started_at or unfinished.queued_at
        text = f"run {unfinished.id} is {unfinished.state} since {utc_text(since)}"
        reasons.update(dict.fromkeys(owed, (SkipReason.OVERLAP, text)))
    return [_row(entry, rule, policy, at, now, reasons[at]) for at in due]


def _refusal(
    rule: Rule, policy: Policy, at: datetime, now: datetime, pause: Pause | None
) -> tuple[SkipReason, str] | None:
    if pause is not None and pause.since <= at and (pause.until is None or at < pause.until):
        return SkipReason.PAUSED, f"paused by {pause.by}: {pause.why}"
    blackout = blackout_covering(policy.blackout, at, rule.timezone)
    if blackout is not None:
        return SkipReason.BLACKOUT, f"in the blackout {blackout.name}".rstrip()
    age = now - at
    if age > policy.catch_up_window and age > LATE:
        window = format_duration(policy.catch_up_window)
        return SkipReason.MISSED, f"noticed {_rough(age)} after it was due; the catch-up window is {window}"
    if age > LATE and policy.catch_up is CatchUp.NONE:
        return SkipReason.MISSED, f"noticed {_rough(age)} after it was due, and catch_up is none"
    return None


def _row(
    entry: Entry, rule: Rule, policy: Policy, at: datetime, now: datetime, refusal: tuple[SkipReason, str] | None
) -> NewRun:
    reason, text = refusal or (None, "")
    return NewRun(
        entry=entry.name,
        title=entry.title,
        trigger=Trigger.CATCH_UP if now - at > LATE else Trigger.SCHEDULE,
        state=RunState.QUEUED if refusal is None else RunState.SKIPPED,
        skip_reason=reason,
        reason=text,
        due_at=at,
        not_before=at + jitter_of(entry.name, at, rule.jitter),
        plan=entry.steps,
        policy=policy,
    )


def _rough(age: timedelta) -> str:
    return format_duration(timedelta(seconds=round(age.total_seconds())))


def _is_edited(mark: EntryVersion, entry: Entry | None, prints: Mapping[str, str]) -> bool:
    return entry is not None and mark.fingerprint != prints[entry.name]


class Planner:
    """Writes the rows that are owed. Not thread-safe: one thread plans; `load` is called by the same one."""

    def __init__(
        self, store: Store, clock: Clock, planned: Callable[[], None], stepped: Callable[[], None] = lambda: None
    ) -> None:
        """`planned` is called after rows were written, `stepped` after the wall clock was set."""
        self._store = store
        self._clock = clock
        self._planned = planned
        self._stepped = stepped
        self._steps = ClockStepDetector(clock)
        self._hold_until: float | None = None
        self._entries: dict[str, Entry] = {}
        self._prints: dict[str, str] = {}
        self._marks: frozenset[str] = frozenset()  # of every row, as it was last looked at
        self._rules: dict[str, Rule] = {}  # in force: of the calendar that a node of this store loaded last
        self._through: dict[str, datetime] = {}
        self._next = Timetable()
        self._overruled: frozenset[str] = frozenset()

    @property
    def next_due(self) -> datetime | None:
        """When the next instant of any entry falls due, UTC."""
        return self._next.first

    @property
    def held(self) -> bool:
        """True while nothing is planned because the clock jumped."""
        return self._hold_until is not None

    @property
    def overruled(self) -> frozenset[str]:
        """Entries for which another node loaded a different calendar later: theirs is the schedule in force."""
        return self._overruled

    def load(self, entries: Iterable[Entry]) -> None:
        """Take a calendar: first what the old rules owed up to now, then the new rules from now on."""
        wanted = {entry.name: entry for entry in entries if entry.enabled}
        heirs = {entry.formerly: entry for entry in wanted.values() if entry.formerly and entry.formerly not in wanted}
        now = self._store.now()
        prints = {name: fingerprint_of(entry) for name, entry in wanted.items()}
        self._write(self._plans_of(self._edited({**heirs, **wanted}, prints), now))
        self._store.entries.sync(list(wanted.values()), prints, now)
        self._entries, self._prints = wanted, prints
        self._marks, self._overruled, self._next = frozenset(), frozenset(), Timetable()
        self._rules.clear()
        self._through.clear()
        self._look_again()

    def _edited(self, wanted: Mapping[str, Entry], prints: Mapping[str, str]) -> list[tuple[Entry, EntryState]]:
        """Those with a schedule in force that the calendar changes; `wanted` by the names that the store has."""
        marks = map(EntryVersion.parse, self._store.entries.versions())
        edited = [mark.name for mark in marks if mark.active and _is_edited(mark, wanted.get(mark.name), prints)]
        found = []
        for name, state in self._store.entries.states(edited).items():
            if state.active and state.rule is not None and state.rule != wanted[name].rule:
                found.append((wanted[name], state))
        return found

    def plan(self) -> int:
        """Write what fell due up to now; the number of rows written. Raises StoreUnavailableError: try again later."""
        now = self._store.now()
        self._notice_steps(now)
        if self._hold_until is not None:
            return 0
        due = self._next.due(now)
        if not due:
            return 0
        states = self._store.entries.states(due)
        for name in due:
            if name in states:
                self._look(states[name])
        still = set(self._next.due(now))
        owing = [name for name in due if name in still and name in states]
        return self._write(self._plans_of([(self._entries[name], states[name]) for name in owing], now))

    def sweep(self) -> int:
        """As `plan`, after looking at what another node changed, or a clock that was set back left behind."""
        now = self._store.now()
        self._look_again()
        for name, through in [item for item in self._through.items() if item[1] > now + LATE]:
            if not self.held:
                # The ledger still holds the instants that were planned ahead of this clock, so none starts twice.
                ahead = format_duration(through - now)
                if self._store.entries.set_planned_through(name, through, now, f"was {ahead} ahead of the clock"):
                    self._planned_through(name, now)
        return self.plan()

    def _look_again(self) -> None:
        """Look at every row that is not as it was at the last look."""
        marks = self._store.entries.versions()
        fresh = {mark.name: mark for mark in map(EntryVersion.parse, marks - self._marks)}
        gone = {EntryVersion.parse(text).name for text in self._marks - marks} - fresh.keys()
        mine = [mark for mark in fresh.values() if mark.name in self._entries]
        # What was loaded from the same text has the same rule: there is nothing to read.
        others = [mark.name for mark in mine if mark.fingerprint != self._prints[mark.name] or not mark.active]
        states = self._store.entries.states(others)
        for mark in mine:
            if mark.name in states:
                self._look(states[mark.name])
            else:
                self._take(mark.name, self._entries[mark.name].rule, mark.planned_through)
        for name in gone:
            self._take(name, None, None)
        self._overruled = (self._overruled - fresh.keys() - gone).union(others)
        self._marks = marks  # now that nothing went wrong

    def _look(self, state: EntryState) -> None:
        if state.active and state.name in self._entries:
            self._take(state.name, state.rule, state.planned_through)
        else:  # another node loaded a calendar without it, or with one that this node does not know yet
            self._take(state.name, None, None)

    def _take(self, name: str, rule: Rule | None, planned_through: datetime | None) -> None:
        if rule is None:
            self._rules.pop(name, None)
        else:
            self._rules[name] = rule
        self._planned_through(name, planned_through)

    def _planned_through(self, name: str, through: datetime | None) -> None:
        if through is None:
            self._through.pop(name, None)
        else:
            self._through[name] = through
        rule = self._rules.get(name)
        self._next.set(name, None if rule is None or through is None else compile_rule(rule).next_after(through))

    def _plans_of(self, owing: Iterable[tuple[Entry, EntryState]], now: datetime) -> list[EntryPlan]:
        """What each row's own rule and policy owe; the steps are this node's."""
        behind = [(entry, state) for entry, state in owing if state.planned_through < now]
        in_the_way = self._in_the_way([state.name for _, state in behind], now)
        return [self._plan_of(entry, state, now, in_the_way.get(state.name)) for entry, state in behind]

    def _plan_of(self, entry: Entry, state: EntryState, now: datetime, unfinished: RunSummary | None) -> EntryPlan:
        assert state.rule is not None
        due = due_between(compile_rule(state.rule), state.planned_through, now)
        if due.left_out:
            self._store.audit.add(
                "instants_left_out",
                subject=entry.name,
                text=f"{due.left_out} instants before {utc_text(due.times[0])} are too many for a row each",
                at=now,
            )
        rows = decide(entry, state.rule, state.policy, due.times, now=now, pause=state.pause, unfinished=unfinished)
        return EntryPlan(name=state.name, seen=state.planned_through, through=now, runs=tuple(rows), rule=state.rule)

    def _in_the_way(self, names: Sequence[str], now: datetime) -> dict[str, RunSummary]:
        """Each entry's oldest unfinished run; one that somebody asked for at a later time is in nobody's way yet."""
        found: dict[str, RunSummary] = {}
        for run in self._store.runs.unfinished(names):
            if run.state is not RunState.QUEUED or run.due_at is not None or run.not_before <= now:
                found.setdefault(run.entry, run)
        return found

    def _write(self, plans: Sequence[EntryPlan]) -> int:
        if not plans:
            return 0
        planned = list(zip(plans, self._store.entries.plan_many(plans), strict=True))
        if any(planned_ids for _, planned_ids in planned):
            self._planned()  # before anything else is done: it is due
        written = 0
        for plan, ids in planned:
            if ids is None:  # another node planned it, maybe less far than this one would have, or loaded a rule
                for state in self._store.entries.states([plan.name]).values():
                    self._look(state)
                continue
            if plan.name in self._entries:  # not so before a calendar is loaded
                self._planned_through(plan.name, plan.through)
            written += len(ids)
            for row in plan.runs:
                log.info("run_planned", entry=row.entry, due_at=row.due_at, state=row.state, reason=row.reason or None)
        return written

    def _notice_steps(self, now: datetime) -> None:
        step = self._steps.detect()
        if step:
            way = "forward" if step > timedelta(0) else "back"
            text = f"{format_duration(abs(step))} {way}"
            log.warning("clock_stepped", step=text)
            self._store.audit.add("clock_stepped", text=text, at=now)
            self._stepped()
            if step >= JUMP:
                self._hold_until = self._clock.elapsed() + SETTLE.total_seconds()
            elif step < timedelta(0):
                self._hold_until = None
        if self._hold_until is not None and self._clock.elapsed() >= self._hold_until:
            self._hold_until = None
