"""The planner: it decides which runs are due and writes their rows.

A wake-up carries no information. After every wake-up (a due time, the start of the daemon, the return of the store, a
sweep) the planner finds the due times in `(planned_through, now]` and writes one row for each, in one transaction that
only one node can win.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import structlog

from maintd.calendar import fingerprint_of
from maintd.clock import Clock, ClockStepDetector
from maintd.model.entry import CatchUp, Entry, EntryState, Freeze, Overlap, Pause, Policy, Rule, watched
from maintd.model.run import NewRun, Run, RunState, RunSummary, SkipReason, Trigger
from maintd.operations.diagnosis import decisions_text
from maintd.present.freezes import freeze_text
from maintd.present.text import utc_second
from maintd.schedule import blackout_covering, compile_rule, due_between, jitter_of
from maintd.schedule.freezes import freeze_covering, mutates
from maintd.scheduler.due_queue import DueQueue
from maintd.store import EntryPlan, Store
from maintd.store.entries import EntryVersion
from maintd.units import format_duration

log = structlog.get_logger()

LATE = timedelta(seconds=90)
"""A due time that is planned later than this was missed and is caught up; a slow store alone does not cause that."""

READ_AHEAD = timedelta(milliseconds=50)
"""How long before a due time the row of its entry may be read. A plan by a row that changed since is not written."""

LARGE_STEP = timedelta(hours=1)
"""After a step of the clock this far forward, planning is suspended for SETTLING_TIME: if the clock is set back, rows
for due times in the future would block those due times."""

SETTLING_TIME = timedelta(minutes=5)

WATCHED_AFTERWARDS = timedelta(minutes=5)
"""How long an entry that watches other runs goes on after the last of them, which may have left something."""


def decide(
    entry: Entry,
    rule: Rule,
    policy: Policy,
    due: Sequence[datetime],
    *,
    now: datetime,
    pause: Pause | None = None,
    unfinished: RunSummary | None = None,
    freezes: Sequence[Freeze] = (),
    held: Run | None = None,
) -> list[NewRun]:
    """Return one row for each due time, in order.

    1. In a pause, a freeze if a step changes something, or a blackout: skipped.
    2. Older than the catch-up window, or late with `catch_up: none`: skipped as missed.
    3. With `catch_up: latest`, the last of the others is kept and the rest are coalesced into it.
    4. Skipped as overlap if an earlier run is `held`, or is `unfinished` and overlap is `skip`; otherwise queued.
    """
    frozen = [freeze for freeze in freezes if mutates(entry.steps)]
    skips = {at: _skip(entry.name, rule, policy, at, now, pause, frozen) for at in due}
    startable = [at for at in due if skips[at] is None]
    if policy.catch_up is CatchUp.LATEST and len(startable) > 1:
        for at in startable[:-1]:
            skips[at] = (SkipReason.COALESCED, f"superseded by the run due at {utc_second(startable[-1])}")
        startable = startable[-1:]
    if startable and unfinished is not None and policy.overlap is Overlap.SKIP:
        since = unfinished.started_at or unfinished.queued_at
        text = f"run {unfinished.id} has been {unfinished.state} since {utc_second(since)}"
        skips.update(dict.fromkeys(startable, (SkipReason.OVERLAP, text)))
    if startable and held is not None:
        lost_at = utc_second(held.finished_at or now)
        text = f"run {held.id} was lost and is held since {lost_at}; {decisions_text(held)}"
        skips.update(dict.fromkeys(startable, (SkipReason.OVERLAP, text)))
    return [_row(entry, rule, policy, at, now, skips[at]) for at in due]


def _skip(
    name: str,
    rule: Rule,
    policy: Policy,
    at: datetime,
    now: datetime,
    pause: Pause | None,
    freezes: Sequence[Freeze],
) -> tuple[SkipReason, str] | None:
    """Why this due time is skipped whatever the others are, or None."""
    if pause is not None and pause.since <= at and (pause.until is None or at < pause.until):
        return SkipReason.PAUSED, f"paused by {pause.by}: {pause.why}"
    freeze = freeze_covering(freezes, name, at)
    if freeze is not None:
        return SkipReason.FROZEN, freeze_text(freeze)
    blackout = blackout_covering(policy.blackout, at, rule.timezone)
    if blackout is not None:
        return SkipReason.BLACKOUT, f"in the blackout {blackout.name}".rstrip()
    age = now - at
    if age > policy.catch_up_window and age > LATE:
        window = format_duration(policy.catch_up_window)
        return SkipReason.MISSED, f"planned {_in_seconds(age)} after it was due; the catch-up window is {window}"
    if age > LATE and policy.catch_up is CatchUp.NONE:
        return SkipReason.MISSED, f"planned {_in_seconds(age)} after it was due; catch_up is none"
    return None


def _row(
    entry: Entry, rule: Rule, policy: Policy, at: datetime, now: datetime, skip: tuple[SkipReason, str] | None
) -> NewRun:
    reason, text = skip or (None, "")
    return NewRun(
        entry=entry.name,
        title=entry.title,
        trigger=Trigger.CATCH_UP if now - at > LATE else Trigger.SCHEDULE,
        state=RunState.QUEUED if skip is None else RunState.SKIPPED,
        skip_reason=reason,
        reason=text,
        due_at=at,
        not_before=at + jitter_of(entry.name, at, rule.jitter),
        plan=entry.steps,
        policy=policy,
    )


def _in_seconds(age: timedelta) -> str:
    return format_duration(timedelta(seconds=round(age.total_seconds())))


@dataclass(slots=True)
class PlannedEntry:
    """An entry of this node's calendar and the state of its row in the store."""

    entry: Entry
    fingerprint: str
    rule: Rule | None = None  # of the calendar that any node of this store loaded last; None: not in it
    planned_through: datetime | None = None
    overruled: bool = False  # another node loaded a different calendar later

    @property
    def next_due(self) -> datetime | None:
        """The next due time after `planned_through`, None without one."""
        if self.rule is None or self.planned_through is None:
            return None
        return compile_rule(self.rule).next_after(self.planned_through)


class _RowsAhead(NamedTuple):
    """Rows of entries that are about to be due."""

    read_at: datetime
    states: dict[str, EntryState]


@dataclass(slots=True)
class _Watching:
    """Until when an entry that watches other runs has something to do, and the newest run that it knows."""

    until: datetime
    newest: int


class Planner:
    """Writes the rows of due times. Not thread-safe: the daemon's loop calls all methods."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        on_planned: Callable[[], None],
        on_clock_step: Callable[[], None] = lambda: None,
        freezes: Callable[[datetime, datetime], Sequence[Freeze]] = lambda since, until: (),
    ) -> None:
        """`on_planned` is called after rows were written, `on_clock_step` after the wall clock was set; `freezes`
        returns the freezes of a period."""
        self._store = store
        self._clock = clock
        self._on_planned = on_planned
        self._on_clock_step = on_clock_step
        self._freezes = freezes
        self._clock_steps = ClockStepDetector(clock)
        self._suspended_until: float | None = None  # on the clock's elapsed time
        self._planned: dict[str, PlannedEntry] = {}
        self._queue = DueQueue()
        self._versions: frozenset[str] = frozenset()  # of all rows when they were last read
        self._ahead: _RowsAhead | None = None
        self._watching: dict[str, _Watching] = {}  # by entry

    @property
    def next_due(self) -> datetime | None:
        """The next due time of any entry, UTC."""
        return self._queue.first

    @property
    def suspended(self) -> bool:
        """Whether planning is suspended because the clock jumped forward."""
        return self._suspended_until is not None

    @property
    def overruled(self) -> frozenset[str]:
        """Entries for which another node loaded a different calendar later; its rule and policy are in force."""
        return frozenset(name for name, planned in self._planned.items() if planned.overruled)

    def load(self, entries: Iterable[Entry]) -> None:
        """Replace the calendar. Due times up to now are planned by the old rules, later ones by the new rules."""
        wanted = {entry.name: entry for entry in entries if entry.enabled}
        renamed = {
            entry.formerly: entry for entry in wanted.values() if entry.formerly and entry.formerly not in wanted
        }
        now = self._store.now()
        fingerprints = {name: fingerprint_of(entry) for name, entry in wanted.items()}
        self._write(self._plans_of(self._edited({**renamed, **wanted}, fingerprints), now))
        self._store.entries.sync(list(wanted.values()), fingerprints, now)
        self._planned = {name: PlannedEntry(entry, fingerprints[name]) for name, entry in wanted.items()}
        self._queue, self._versions, self._ahead = DueQueue(), frozenset(), None
        self._refresh()

    def _edited(self, wanted: Mapping[str, Entry], fingerprints: Mapping[str, str]) -> list[tuple[Entry, EntryState]]:
        """Entries whose active rule the new calendar changes; `wanted` has the names that the store knows."""
        changed = [
            version.name
            for version in map(EntryVersion.parse, self._store.entries.versions())
            if version.active
            and (entry := wanted.get(version.name)) is not None
            and version.fingerprint != fingerprints[entry.name]
        ]
        return [
            (wanted[name], state)
            for name, state in self._store.entries.states(changed).items()
            if state.active and state.rule is not None and state.rule != wanted[name].rule
        ]

    def plan(self) -> int:
        """Write the rows of all due times up to now; return their number. Raises StoreUnavailableError: try again."""
        now = self._store.now()
        self._handle_clock_step(now)
        if self.suspended:
            return 0
        due = self._queue.due(now)
        if not due:
            self._read_ahead(now)
            return 0
        states = self._states_of(due, now)
        for state in states.values():
            self._update(state)
        still_due = set(self._queue.due(now))  # another node can have planned some, or changed their rules
        due_entries = [
            (self._planned[name].entry, states[name]) for name in due if name in still_due and name in states
        ]
        return self._write(self._plans_of(due_entries, now))

    def _read_ahead(self, now: datetime) -> None:
        """Read the rows of the entries that are about to be due, so that the plan need not wait for them."""
        names = self._queue.due(now + READ_AHEAD)
        self._ahead = _RowsAhead(now, self._store.entries.states(names)) if names else None

    def _states_of(self, names: Sequence[str], now: datetime) -> dict[str, EntryState]:
        """Return rows of entries that are due, as read ahead if that was just now."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or abs(now - ahead.read_at) > READ_AHEAD or not ahead.states.keys() >= set(names):
            return self._store.entries.states(names)
        return {name: ahead.states[name] for name in names}

    def sweep(self) -> int:
        """Read what other nodes changed, correct entries that are planned ahead of the clock, then `plan`."""
        now = self._store.now()
        self._refresh()
        if not self.suspended:
            self._move_back_planning(now)
        return self.plan()

    def _move_back_planning(self, now: datetime) -> None:
        """After the clock was set back, plan from now on again. The ledger prevents a second row for a due time."""
        latest = now + LATE
        ahead = [
            (name, through)
            for name, planned in self._planned.items()
            if (through := planned.planned_through) is not None and through > latest
        ]
        for name, through in ahead:
            why = f"was {format_duration(through - now)} ahead of the clock"
            if self._store.entries.set_planned_through(name, through, now, why):
                self._set_planned_through(name, now)

    def _refresh(self) -> None:
        """Read the rows whose versions changed since the last call."""
        versions = self._store.entries.versions()
        changed = {version.name: version for version in map(EntryVersion.parse, versions - self._versions)}
        removed = {EntryVersion.parse(text).name for text in self._versions - versions} - changed.keys()
        own = [version for version in changed.values() if version.name in self._planned]
        # A row with this node's fingerprint has this node's rule, so it need not be read.
        overruled = {
            version.name
            for version in own
            if not version.active or version.fingerprint != self._planned[version.name].fingerprint
        }
        states = self._store.entries.states(sorted(overruled))
        for version in own:
            planned = self._planned[version.name]
            if version.name in states:
                self._update(states[version.name])
            else:
                self._set(version.name, planned.entry.rule, version.planned_through)
            planned.overruled = version.name in overruled
        for name in removed & self._planned.keys():
            self._set(name, None, None)
            self._planned[name].overruled = False
        self._versions = versions  # last, so that a failed read is repeated

    def _update(self, state: EntryState) -> None:
        """Take over the state of an entry's row."""
        if state.name not in self._planned:
            return
        if state.active:
            self._set(state.name, state.rule, state.planned_through)
        else:  # another node loaded a calendar without it
            self._set(state.name, None, None)

    def _set(self, name: str, rule: Rule | None, planned_through: datetime | None) -> None:
        planned = self._planned[name]
        planned.rule, planned.planned_through = rule, planned_through
        self._queue.set(name, planned.next_due)

    def _set_planned_through(self, name: str, planned_through: datetime) -> None:
        if name in self._planned:  # not the old name of a renamed entry, which `load` plans
            self._set(name, self._planned[name].rule, planned_through)

    def _plans_of(self, due_entries: Iterable[tuple[Entry, EntryState]], now: datetime) -> list[EntryPlan]:
        """Plan all due times up to now, by the rule and policy of the row and the steps of this node's entry."""
        behind = [(entry, state) for entry, state in due_entries if state.planned_through < now]
        unfinished = self._unfinished([state.name for _, state in behind], now)
        starts = [state.planned_through for entry, state in behind if mutates(entry.steps)]
        freezes = self._freezes(min(starts), now) if starts else ()
        held = self._held({state.name for _, state in behind}) if behind else {}
        return [
            self._plan_of(entry, state, now, unfinished.get(state.name), freezes, held.get(state.name))
            for entry, state in behind
        ]

    def _held(self, names: Collection[str]) -> dict[str, Run]:
        """The held runs of these entries."""
        found = (self._store.history.run(run.id) for run in self._store.successors.held() if run.entry in names)
        return {run.entry: run for run in found if run is not None and run.held}

    def _plan_of(
        self,
        entry: Entry,
        state: EntryState,
        now: datetime,
        unfinished: RunSummary | None,
        freezes: Sequence[Freeze],
        held: Run | None,
    ) -> EntryPlan:
        assert state.rule is not None
        due = due_between(compile_rule(state.rule), state.planned_through, now)
        if due.left_out:
            self._store.audit.add(
                "due_times_omitted",
                subject=entry.name,
                text=f"{due.left_out} due times before {utc_second(due.times[0])} have no row: too many were missed",
                at=now,
            )
        rows = decide(
            entry,
            state.rule,
            state.policy,
            self._counted(entry, due.times, now),
            now=now,
            pause=state.pause,
            unfinished=unfinished,
            freezes=freezes,
            held=held,
        )
        return EntryPlan(
            name=state.name,
            planned_after=state.planned_through,
            through=now,
            runs=tuple(rows),
            rule=state.rule,
            paused_since=None if state.pause is None else state.pause.since,
        )

    def _counted(self, entry: Entry, due: Sequence[datetime], now: datetime) -> Sequence[datetime]:
        """The due times that get a row. An entry that only watches what other runs have handed over has none while no
        run has, and of several only the last: what it would have watched before is over.

        After a start it watches for some minutes in any case: a run can have ended while this node did not plan.
        """
        names = watched(entry.steps)
        if not names:
            return due
        known = self._watching.get(entry.name)
        found, newest = self._store.history.handed_over(names, 0 if known is None else known.newest)
        if known is None or found or known.until > now + WATCHED_AFTERWARDS:  # or the clock was set back
            until = now + WATCHED_AFTERWARDS
        else:
            until = known.until
        self._watching[entry.name] = _Watching(until, newest)
        return due[-1:] if now < until else ()

    def _unfinished(self, names: Sequence[str], now: datetime) -> dict[str, RunSummary]:
        """The oldest unfinished run of each entry; manual runs that are queued for later do not count."""
        found: dict[str, RunSummary] = {}
        for run in self._store.runs.unfinished(names):
            if run.state is not RunState.QUEUED or run.due_at is not None or run.not_before <= now:
                found.setdefault(run.entry, run)
        return found

    def _write(self, plans: Sequence[EntryPlan]) -> int:
        if not plans:
            return 0
        results = list(zip(plans, self._store.entries.plan(plans), strict=True))
        if any(ids for _, ids in results):
            self._on_planned()  # before the bookkeeping, which would delay the start
        written = 0
        for plan, ids in results:
            if ids is None:  # another node planned this entry, maybe not as far, or loaded another rule
                for state in self._store.entries.states([plan.name]).values():
                    self._update(state)
                continue
            self._set_planned_through(plan.name, plan.through)
            written += len(ids)
            for row in plan.runs:
                log.info("run_planned", entry=row.entry, due_at=row.due_at, state=row.state, reason=row.reason or None)
        return written

    def _handle_clock_step(self, now: datetime) -> None:
        step = self._clock_steps.detect()
        if step:
            text = f"{format_duration(abs(step))} {'forward' if step > timedelta(0) else 'back'}"
            log.warning("clock_stepped", step=text)
            self._store.audit.add("clock_stepped", text=text, at=now)
            self._on_clock_step()
            if step >= LARGE_STEP:
                self._suspended_until = self._clock.elapsed() + SETTLING_TIME.total_seconds()
            elif step < timedelta(0):
                self._suspended_until = None
        if self._suspended_until is not None and self._clock.elapsed() >= self._suspended_until:
            self._suspended_until = None
