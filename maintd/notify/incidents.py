"""Incidents as rows, with their notices: written by the review of ended runs, and by the sweeps of the notifier.

Several nodes may do both at once: an incident is opened and closed by a conditional write, and a notice has a unique
key, so each is sent once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy.engine import Connection

from maintd.model.notice import Incident, Mute, NewNotice, NoticeKind, NotifyConfig
from maintd.model.run import Run, RunState, RunSummary, Step
from maintd.notify import messages
from maintd.notify.digest import make_digest
from maintd.notify.incident_writer import IncidentWriter, notices_of
from maintd.notify.messages import Around
from maintd.notify.reminders import OF_CHECKS, Reminders, is_all_acknowledged
from maintd.notify.selection import (
    OwnProblem,
    decide_end,
    is_about_wait,
    is_late,
    longest,
    muting,
    waiting_step,
)
from maintd.operations.review import Review
from maintd.operations.watchdog import Missing, MissingKind
from maintd.present.notices import OWN
from maintd.store import LastRuns, Store
from maintd.store.history import load_runs
from maintd.store.last_runs import last_runs
from maintd.store.mutes import active_mutes
from maintd.store.notices import (
    add_notices,
    close_incident,
    continue_incident,
    open_incidents,
    set_reminder,
)
from maintd.store.runs import overdue_runs, running_runs
from maintd.units import duration_text, format_duration

SETTLING = timedelta(seconds=30)
"""How long a problem of maintd must last, or be gone, to be reported: one that comes and goes is reported once."""

WITHDRAWN_WITHIN = timedelta(days=1)
"""How long after an acknowledgement was withdrawn a failure is reported that had no notice because of it."""

MOST_OVERDUE = 500
MOST_RUNNING = 200

_ENDED_BY_CHECKS = (RunState.FAILED, RunState.UNKNOWN)


class EndedRun(NamedTuple):
    """The end of a run; with its evidence if it is a Run. `acknowledged`: all that was wrong in it has been."""

    run: RunSummary
    acknowledged: bool = False


class IncidentRecorder:
    """Writes incidents and notices. Its methods can be called from any thread."""

    def __init__(
        self,
        store: Store,
        config: Callable[[], NotifyConfig],
        entries: Callable[[], Collection[str]],
        node: str,
        page: str = "",
    ) -> None:
        """`entries` are the names of the calendar's entries; only those have incidents. `page` is a URL."""
        self._store = store
        self._config = config
        self._entries = entries
        self._node = node
        self._writer = IncidentWriter(config, node, page)
        self._reminders = Reminders(store, config, entries, self._writer)
        self._problem_since: dict[str, float] = {}  # key of a problem → when it was seen first, in elapsed seconds
        self._gone_since: dict[str, float] = {}

    # --- the end of a run ---

    def record_review(self, conn: Connection, review: Review) -> None:
        """Record what follows from a review of ended runs, within its transaction."""
        ends = [EndedRun(end.evidence or end.run, end.acknowledged) for end in review.ends]
        self.record_ends(conn, ends, review.at)
        if self._config().channels:
            for entry in sorted({finding.entry for finding in review.lapsed} & set(self._entries())):
                self._record_lapse(conn, entry, review.at)

    def record_ends(self, conn: Connection, ends: Sequence[EndedRun], now: datetime) -> int:
        """Open and close incidents for the ends of runs, oldest first, within the transaction that reviews them.

        Returns the number of new notices.
        """
        config, known = self._config(), self._entries()
        if not config.channels:
            return 0
        mutes = active_mutes(conn, now)
        around = self._writer.around(conn)
        return sum(self._record_end(conn, config, end, mutes, now, around) for end in ends if end.run.entry in known)

    def _record_end(
        self,
        conn: Connection,
        config: NotifyConfig,
        end: EndedRun,
        mutes: Sequence[Mute],
        now: datetime,
        around: Around,
    ) -> int:
        run = end.run
        opened = open_incidents(conn, run.entry)
        decision = decide_end(run, opened, acknowledged=end.acknowledged)
        new: list[NewNotice] = []
        for incident in decision.superseded:
            close_incident(conn, incident, now, run.id)
        closed = [incident for incident in decision.recovered if close_incident(conn, incident, now, run.id)]
        at = run.finished_at or now
        new += self._writer.recoveries(conn, config, closed, at, run, mutes, now, around)
        if decision.opens is not None:
            last = last_runs(conn, [run.entry]).get(run.entry, LastRuns())
            same = next((incident for incident in opened if incident.kind is decision.opens), None)
            if same is not None:
                continue_incident(conn, same, run.id, messages.why_of(run)[0])
                self._reminders.adjust(conn, same, now, acknowledged=end.acknowledged)
            elif not end.acknowledged:
                text = messages.of_run(decision.opens, run, last, last.failing_since or at, now, around)
                new += self._writer.open(conn, config, run.entry, decision.opens, text, run.id, mutes, now)
        return add_notices(conn, new, now) if new else 0

    def _record_lapse(self, conn: Connection, entry: str, now: datetime) -> None:
        """What was acknowledged about an entry is not any more: remind of its incidents, or open the one that it has
        now."""
        opened = [incident for incident in open_incidents(conn, entry) if incident.kind in OF_CHECKS]
        for incident in opened:
            self._reminders.adjust(conn, incident, now, acknowledged=self._reminders.is_silent(conn, incident, now))
        if not opened:
            last = last_runs(conn, [entry]).get(entry, LastRuns()).last_finished
            run = None if last is None else load_runs(conn, self._store.plans, {last.id: True}).get(last.id)
            if run is not None and run.state not in (RunState.SUCCEEDED, RunState.WARNED):
                self.record_ends(conn, [EndedRun(run, is_all_acknowledged(conn, run, now))], now)

    # --- sweeps ---

    def sweep(self, problems: Iterable[OwnProblem], elapsed: float) -> int:
        """Find what is late, too long or over, remind, and make the digest; return the number of new notices.

        `elapsed` are seconds on the monotonic clock.
        """
        config = self._config()
        if not config.channels:
            return 0
        now = self._store.now()
        count = self._sweep_own(config, list(problems), now, elapsed)
        count += self._sweep_runs(config, now)
        count += self._sweep_gates(config, now)
        count += self._sweep_reminders(config, now)
        return count + make_digest(self._store, self._writer, config, now)

    def sweep_gates(self) -> int:
        """Find runs that have come to a gate, and send the reminders that are due; return the number of new notices."""
        config = self._config()
        if not config.channels:
            return 0
        now = self._store.now()
        return self._sweep_gates(config, now) + self._sweep_reminders(config, now)

    def seconds_to_reminder(self) -> float:
        """See `Reminders.seconds_to_next`."""
        return self._reminders.seconds_to_next()

    def record_missing(self, missing: Iterable[Missing]) -> int:
        """Open an incident for each entry with a due time that was not planned; return the number of new notices."""
        config, known = self._config(), self._entries()
        unplanned = [each for each in missing if each.kind is MissingKind.UNPLANNED and each.subject in known]
        if not config.channels or not unplanned:
            return 0
        have = {(incident.subject, incident.kind) for incident in self._store.notices.open_incidents()}
        new_ones = [each for each in unplanned if (each.subject, NoticeKind.MISSED) not in have]
        if not new_ones:
            return 0
        now = self._store.now()

        def transaction(conn: Connection) -> int:
            mutes, around = active_mutes(conn, now), self._writer.around(conn)
            new: list[NewNotice] = []
            for each in new_ones:
                text = messages.unplanned(each.subject, each.since, now, around)
                new += self._writer.open(conn, config, each.subject, NoticeKind.MISSED, text, None, mutes, now)
            return add_notices(conn, new, now) if new else 0

        return self._store.write(transaction)

    def _sweep_runs(self, config: NotifyConfig, now: datetime) -> int:
        known = self._entries()
        graces = [rules.late for rules in (config.rules, *config.entries.values()) if rules.late is not None]
        before = now - min(graces, default=timedelta(days=36_500))
        read = self._store.read
        overdue = [run for run in read(lambda conn: overdue_runs(conn, before, MOST_OVERDUE)) if run.entry in known]
        late = [run for run in overdue if not run.dry_run and is_late(run, config.rules_of(run.entry), now)]
        running = [run for run in read(lambda conn: running_runs(conn, MOST_RUNNING)) if run.entry in known]
        opened = self._store.notices.open_incidents()
        have = {(incident.subject, incident.kind) for incident in opened}
        limits = self._limits(config, [run for run in running if (run.entry, NoticeKind.TOO_LONG) not in have])
        slow = [
            run
            for run in running
            if run.id in limits and now - (run.started_at or now) - run.waited > limits[run.id][0]
        ]
        late = [run for run in late if (run.entry, NoticeKind.LATE) not in have]
        waiting = {run.id for run in overdue}
        over = [
            incident
            for incident in opened
            if (incident.kind is NoticeKind.LATE and incident.run_id not in waiting)
            or (not incident.subject.startswith(OWN) and incident.subject not in known)
        ]
        if not (late or slow or over):
            return 0
        about = {incident.id: self._store.history.run(incident.run_id or 0) for incident in over}
        removed = [incident.subject for incident in over if incident.subject not in known]
        states = self._store.entries.states(removed) if removed else {}
        active = {name for name, state in states.items() if state.active}  # in another node's calendar

        def transaction(conn: Connection) -> int:
            mutes, around = active_mutes(conn, now), self._writer.around(conn)
            new: list[NewNotice] = []
            for run in late:
                text = messages.late(run, now, around)
                new += self._writer.open(conn, config, run.entry, NoticeKind.LATE, text, run.id, mutes, now)
            for run in slow:
                text = messages.too_long(run, limits[run.id][1], now, around)
                new += self._writer.open(conn, config, run.entry, NoticeKind.TOO_LONG, text, run.id, mutes, now)
            for incident in over:
                if incident.subject not in known:
                    if incident.subject not in active:
                        close_incident(conn, incident, now)
                    continue
                started = about.get(incident.id)
                if started is not None and started.state is RunState.QUEUED:
                    continue  # queued again for a retry
                if close_incident(conn, incident, now) and started is not None and started.started_at is not None:
                    at = started.started_at
                    new += self._writer.recoveries(conn, config, [incident], at, started, mutes, now, around)
            return add_notices(conn, new, now) if new else 0

        return self._store.write(transaction)

    def _sweep_gates(self, config: NotifyConfig, now: datetime) -> int:
        """Runs that wait at gates: open an incident for each entry, remind of it, close what was decided."""
        known = self._entries()
        gates = [(run, step) for run in self._store.gates.waiting() if (step := waiting_step(run)) is not None]
        opened = [one for one in self._store.notices.open_incidents() if one.kind is NoticeKind.WAITING]
        runs = {run.id: run for run, _ in gates}
        over = [one for one in opened if (run := runs.get(one.run_id or 0)) is None or not is_about_wait(one, run)]
        current = {one.subject: one for one in opened if one not in over}
        began = [(run, step) for run, step in gates if run.entry in known and run.entry not in current]
        muted = self._store.mutes.active(now)
        due = [
            (one, run, step)
            for run, step in gates
            if (one := current.get(run.entry)) is not None and one.run_id == run.id
            if one.remind_at is not None and one.remind_at <= now and muting(muted, one.subject) is None
        ]
        if not (over or began or due):
            return 0

        def transaction(conn: Connection) -> int:
            mutes, around = active_mutes(conn, now), self._writer.around(conn)
            new: list[NewNotice] = []
            for incident in over:
                close_incident(conn, incident, now)
            for run, step in began:
                text = messages.waiting(run, step, now, around)
                remind = None if step.gate is None else step.gate.remind
                new += self._writer.open(
                    conn, config, run.entry, NoticeKind.WAITING, text, run.id, mutes, now, remind_every=remind
                )
            for incident, run, step in due:
                new += self._remind_of_gate(conn, config, incident, run, step, now, around)
            return add_notices(conn, new, now) if new else 0

        return self._store.write(transaction)

    def _remind_of_gate(
        self,
        conn: Connection,
        config: NotifyConfig,
        incident: Incident,
        run: Run,
        step: Step,
        now: datetime,
        around: Around,
    ) -> list[NewNotice]:
        remind = None if step.gate is None else step.gate.remind
        if not set_reminder(conn, incident, None if remind is None else now + remind, reminded=True):
            return []  # another node did
        text = messages.waiting(run, step, now, around, reminder=True)
        key = f"incident:{incident.id}:reminder:{incident.reminders + 1}"
        channels = config.rules_of(run.entry).channels_of(NoticeKind.WAITING)
        return notices_of(config, NoticeKind.WAITING, channels, key, text, incident.id, now, critical=incident.critical)

    def _limits(self, config: NotifyConfig, running: Sequence[RunSummary]) -> dict[int, tuple[timedelta, str]]:
        """By run, how long it may take, and that in words."""
        running = [run for run in running if not run.dry_run and run.started_at is not None]
        names = sorted({run.entry for run in running})
        last = self._store.history.last_per_entry(names) if names else {}
        found = {}
        for run in running:
            rules, typical = config.rules_of(run.entry), last[run.entry].typical_duration
            limit = longest(rules, typical)
            if limit is not None:
                words = format_duration(timedelta(seconds=round(limit.total_seconds())))
                if rules.too_long is None and typical is not None:
                    words = f"{duration_text(limit)}, since it typically takes {duration_text(typical)}"
                found[run.id] = (limit, words)
        return found

    def _sweep_own(self, config: NotifyConfig, problems: Sequence[OwnProblem], now: datetime, elapsed: float) -> int:
        """Problems of this node."""
        prefix = f"{OWN}{self._node}:"
        there = {f"{prefix}{problem.key}": problem for problem in problems}
        for subject in there:
            self._problem_since.setdefault(subject, elapsed)
            self._gone_since.pop(subject, None)
        opened = {
            incident.subject: incident
            for incident in self._store.notices.open_incidents()
            if incident.subject.startswith(prefix)
        }
        for subject in [*self._problem_since, *opened]:
            if subject not in there:
                self._problem_since.pop(subject, None)
                self._gone_since.setdefault(subject, elapsed)
        settled = elapsed - SETTLING.total_seconds()
        began = [item for item in there.items() if item[0] not in opened and self._problem_since[item[0]] <= settled]
        ended = [
            incident
            for subject, incident in opened.items()
            if subject not in there and self._gone_since.get(subject, elapsed) <= settled
        ]
        if not (began or ended):
            return 0

        def transaction(conn: Connection) -> int:
            around = self._writer.around(conn)
            new: list[NewNotice] = []
            for subject, problem in began:
                text = messages.of_maintd(problem.kind, problem.text, now, around)
                new += self._writer.open(conn, config, subject, problem.kind, text, None, [], now)
            closed = [incident for incident in ended if close_incident(conn, incident, now)]
            for incident in closed:
                new += self._writer.recoveries(conn, config, [incident], now, None, [], now, around)
            return add_notices(conn, new, now) if new else 0

        return self._store.write(transaction)

    def _sweep_reminders(self, config: NotifyConfig, now: datetime) -> int:
        return self._sweep_withdrawn(now) + self._reminders.sweep(config, now)

    def _sweep_withdrawn(self, now: datetime) -> int:
        """Report the failures that had no notice because of an acknowledgement that was withdrawn."""
        opened = [each for each in self._store.notices.open_incidents() if each.kind in OF_CHECKS]
        withdrawn = self._store.findings.withdrawn(now - WITHDRAWN_WITHIN) & set(self._entries())
        unreported = withdrawn - {each.subject for each in opened}
        failures = self._store.read(lambda conn: self._unacknowledged_failures(conn, unreported, now))
        return self._store.write(lambda conn: self.record_ends(conn, failures, now)) if failures else 0

    def _unacknowledged_failures(self, conn: Connection, entries: Collection[str], now: datetime) -> list[EndedRun]:
        """The last runs of these entries that ended by their checks, not all of which are acknowledged."""
        if not entries:
            return []
        lasts = [last.last_finished for last in last_runs(conn, sorted(entries)).values()]
        ids = {last.id: True for last in lasts if last is not None and last.state in _ENDED_BY_CHECKS}
        runs = load_runs(conn, self._store.plans, ids) if ids else {}
        return [EndedRun(run) for run in runs.values() if not is_all_acknowledged(conn, run, now)]
