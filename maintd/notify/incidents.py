"""Incidents as rows, with their notices: written by the review of ended runs, and by the sweeps of the notifier.

Several nodes may do both at once: an incident is opened and closed by a conditional write, and a notice has a unique
key, so each is sent once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy.engine import Connection

from maintd.model.finding import GoneReason
from maintd.model.notice import Incident, Mute, NewNotice, NoticeKind, NotifyConfig
from maintd.model.records import ChainHead
from maintd.model.run import Run, RunState, RunSummary, Step
from maintd.notify import messages
from maintd.notify.messages import Around, Text
from maintd.notify.selection import (
    OwnProblem,
    decide_end,
    is_about_wait,
    is_late,
    longest,
    muting,
    next_reminder,
    recovery_channels,
    reminder_channels,
    send_at,
    waiting_step,
)
from maintd.operations.follow import is_acknowledged
from maintd.operations.period import summary_of
from maintd.operations.review import Review
from maintd.operations.watchdog import Missing, MissingKind
from maintd.present import utc_minute
from maintd.present.notices import OWN, subject_text
from maintd.schedule import compile_rule, due_between
from maintd.store import LastRuns, Store
from maintd.store.findings import open_findings
from maintd.store.history import load_runs
from maintd.store.last_runs import last_runs
from maintd.store.mutes import active_mutes
from maintd.store.notices import (
    NewIncident,
    add_notices,
    channels_notified,
    close_incident,
    continue_incident,
    open_incident,
    open_incidents,
    set_reminder,
)
from maintd.store.period import FindingSummary, PeriodSummary, finding_summary
from maintd.store.records import chain_head
from maintd.store.runs import overdue_runs, running_runs
from maintd.units import duration_text, format_duration, plural, utc_text

SETTLING = timedelta(seconds=30)
"""How long a problem of maintd must last, or be gone, to be reported: one that comes and goes is reported once."""

LATEST_DIGEST = timedelta(hours=6)
"""A digest that could not be made for so long is left out."""

WITHDRAWN_WITHIN = timedelta(days=1)
"""How long after an acknowledgement was withdrawn a failure is reported that had no notice because of it."""

MOST_OVERDUE = 500
MOST_RUNNING = 200

_OF_CHECKS = (NoticeKind.FAILED, NoticeKind.UNKNOWN)
"""Kinds of incidents that are silent while all that was wrong is acknowledged."""

_ENDED_BY_CHECKS = (RunState.FAILED, RunState.UNKNOWN)

_ORDER = (NoticeKind.FAILED, NoticeKind.MISSED, NoticeKind.UNKNOWN, NoticeKind.TOO_LONG, NoticeKind.LATE)


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
        self._page = page
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
        around = self._around(conn)
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
        new += self._recoveries(conn, config, closed, at, run, mutes, now, around)
        if decision.opens is not None:
            last = last_runs(conn, [run.entry]).get(run.entry, LastRuns())
            same = next((incident for incident in opened if incident.kind is decision.opens), None)
            if same is not None:
                continue_incident(conn, same, run.id, messages.why_of(run)[0])
                self._adjust_reminder(conn, same, now, acknowledged=end.acknowledged)
            elif not end.acknowledged:
                text = messages.of_run(decision.opens, run, last, last.failing_since or at, now, around)
                new += self._open(conn, config, run.entry, decision.opens, text, run.id, mutes, now)
        return add_notices(conn, new, now) if new else 0

    def _adjust_reminder(self, conn: Connection, incident: Incident, now: datetime, *, acknowledged: bool) -> None:
        """No reminder while everything is acknowledged; one at once when that is over."""
        rules = self._config().rules_of(incident.subject)
        if acknowledged and incident.remind_at is not None:
            set_reminder(conn, incident, None, reminded=False)
        elif not acknowledged and incident.remind_at is None and next_reminder(rules, 0, now) is not None:
            set_reminder(conn, incident, now, reminded=False)

    def _record_lapse(self, conn: Connection, entry: str, now: datetime) -> None:
        """What was acknowledged about an entry is not any more: remind of its incidents, or open the one that it has
        now."""
        opened = [incident for incident in open_incidents(conn, entry) if incident.kind in _OF_CHECKS]
        for incident in opened:
            self._adjust_reminder(conn, incident, now, acknowledged=self._is_silent(conn, incident, now))
        if not opened:
            last = last_runs(conn, [entry]).get(entry, LastRuns()).last_finished
            run = None if last is None else load_runs(conn, self._store.plans, {last.id: True}).get(last.id)
            if run is not None and run.state not in (RunState.SUCCEEDED, RunState.WARNED):
                self.record_ends(conn, [EndedRun(run, self._is_acknowledged(conn, run, now))], now)

    def _is_silent(self, conn: Connection, incident: Incident, now: datetime) -> bool:
        """Whether all that was wrong with the last run of an incident is acknowledged."""
        run_id = incident.last_run_id
        run = None if run_id is None else load_runs(conn, self._store.plans, {run_id: True}).get(run_id)
        return run is not None and self._is_acknowledged(conn, run, now)

    def _is_acknowledged(self, conn: Connection, run: Run, now: datetime) -> bool:
        return is_acknowledged(run, open_findings(conn, [run.entry]).get(run.entry, []), now)

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
        return count + self._digest(config, now)

    def sweep_gates(self) -> int:
        """Find runs that have come to a gate, and send the reminders that are due; return the number of new notices."""
        config = self._config()
        if not config.channels:
            return 0
        now = self._store.now()
        return self._sweep_gates(config, now) + self._sweep_reminders(config, now)

    def seconds_to_reminder(self) -> float:
        """Until the next reminder or end of a mute; infinity: none. What is due already waits for the next sweep."""
        now = self._store.now()
        times = [incident.remind_at for incident in self._store.notices.open_incidents()]
        times += [mute.until for mute in self._store.mutes.active(now)]  # what is not over is reported then
        return min(((at - now).total_seconds() for at in times if at is not None and at > now), default=float("inf"))

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
            mutes, around = active_mutes(conn, now), self._around(conn)
            new: list[NewNotice] = []
            for each in new_ones:
                text = messages.unplanned(each.subject, each.since, now, around)
                new += self._open(conn, config, each.subject, NoticeKind.MISSED, text, None, mutes, now)
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
            mutes, around = active_mutes(conn, now), self._around(conn)
            new: list[NewNotice] = []
            for run in late:
                text = messages.late(run, now, around)
                new += self._open(conn, config, run.entry, NoticeKind.LATE, text, run.id, mutes, now)
            for run in slow:
                text = messages.too_long(run, limits[run.id][1], now, around)
                new += self._open(conn, config, run.entry, NoticeKind.TOO_LONG, text, run.id, mutes, now)
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
                    new += self._recoveries(conn, config, [incident], at, started, mutes, now, around)
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
            mutes, around = active_mutes(conn, now), self._around(conn)
            new: list[NewNotice] = []
            for incident in over:
                close_incident(conn, incident, now)
            for run, step in began:
                text = messages.waiting(run, step, now, around)
                remind = None if step.gate is None else step.gate.remind
                new += self._open(
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
        return _notices(config, NoticeKind.WAITING, channels, key, text, incident.id, now, critical=incident.critical)

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
            around = self._around(conn)
            new: list[NewNotice] = []
            for subject, problem in began:
                text = messages.of_maintd(problem.kind, problem.text, now, around)
                new += self._open(conn, config, subject, problem.kind, text, None, [], now)
            closed = [incident for incident in ended if close_incident(conn, incident, now)]
            for incident in closed:
                new += self._recoveries(conn, config, [incident], now, None, [], now, around)
            return add_notices(conn, new, now) if new else 0

        return self._store.write(transaction)

    def _sweep_acknowledged(self, config: NotifyConfig, now: datetime) -> int:
        """Silence the incidents of which all is acknowledged, and report those of which that is over, however it
        ended."""
        known = self._entries()
        opened = [each for each in self._store.notices.open_incidents() if each.kind in _OF_CHECKS]
        acknowledged = {finding.entry for finding in self._store.findings.acknowledged()}
        candidates = [each for each in opened if each.subject in acknowledged and each.subject in known]
        silent = self._store.read(lambda conn: {each.id for each in candidates if self._is_silent(conn, each, now)})
        changed = [
            each
            for each in opened
            if each.subject in known
            if (each.remind_at is None) is not (each.id in silent)
            if each.id in silent or self._has_reminders(config, each, now)
        ]
        withdrawn = self._store.findings.withdrawn(now - WITHDRAWN_WITHIN) & set(known)
        unreported = withdrawn - {each.subject for each in opened}
        failures = self._store.read(lambda conn: self._unacknowledged_failures(conn, unreported, now))
        if not (changed or failures):
            return 0

        def transaction(conn: Connection) -> int:
            for incident in changed:
                self._adjust_reminder(conn, incident, now, acknowledged=incident.id in silent)
            return self.record_ends(conn, failures, now)

        return self._store.write(transaction)

    def _unacknowledged_failures(self, conn: Connection, entries: Collection[str], now: datetime) -> list[EndedRun]:
        """The last runs of these entries that ended by their checks, not all of which are acknowledged."""
        if not entries:
            return []
        lasts = [last.last_finished for last in last_runs(conn, sorted(entries)).values()]
        ids = {last.id: True for last in lasts if last is not None and last.state in _ENDED_BY_CHECKS}
        runs = load_runs(conn, self._store.plans, ids) if ids else {}
        return [EndedRun(run) for run in runs.values() if not self._is_acknowledged(conn, run, now)]

    def _has_reminders(self, config: NotifyConfig, incident: Incident, now: datetime) -> bool:
        rules = config.rules_of(incident.subject)
        return bool(rules.channels_of(incident.kind)) and next_reminder(rules, 0, now) is not None

    def _sweep_reminders(self, config: NotifyConfig, now: datetime) -> int:
        count = self._sweep_acknowledged(config, now)
        muted, opened = self._store.mutes.active(now), self._store.notices.open_incidents()
        self._hold_muted([incident for incident in opened if muting(muted, incident.subject) is not None], now)
        due = [
            incident
            for incident in opened
            if incident.remind_at is not None and incident.remind_at <= now and incident.kind is not NoticeKind.WAITING
            if muting(muted, incident.subject) is None
        ]
        if not due:
            return count
        states = self._store.entries.states([incident.subject for incident in due])

        def transaction(conn: Connection) -> int:
            around = self._around(conn)
            notified = channels_notified(conn, [incident.id for incident in due])
            new: list[NewNotice] = []
            for incident in due:
                rules = config.rules_of(incident.subject)
                state = states.get(incident.subject)
                is_first = incident.id not in notified  # it was muted until now
                if state is not None and state.pause is not None:
                    set_reminder(conn, incident, now + rules.remind_first, reminded=False)
                elif set_reminder(conn, incident, next_reminder(rules, incident.reminders + 1, now), reminded=True):
                    text = messages.still_failing(incident, now, around)
                    number = incident.reminders + 1
                    new += _notices(
                        config,
                        NoticeKind.STILL_FAILING,
                        rules.channels_of(incident.kind) if is_first else reminder_channels(config, incident),
                        f"incident:{incident.id}:reminder:{number}",
                        text,
                        incident.id,
                        now,
                        critical=incident.critical,
                    )
            return add_notices(conn, new, now) if new else 0

        return count + self._store.write(transaction)

    def _hold_muted(self, muted: Sequence[Incident], now: datetime) -> None:
        """What is muted is due from now on, so that it is reported when no mute is left, whatever ended it."""
        later = [incident for incident in muted if incident.remind_at is not None and incident.remind_at > now]

        def transaction(conn: Connection) -> None:
            for incident in later:
                set_reminder(conn, incident, now, reminded=False)

        if later:
            self._store.write(transaction)

    def _digest(self, config: NotifyConfig, now: datetime) -> int:
        if config.digest is None:
            return 0
        due = due_between(compile_rule(config.digest.rule), now - LATEST_DIGEST, now).times
        if not due:
            return 0
        at = due[-1]
        key = f"digest:{utc_text(at)}"
        missing = [name for name in config.digest.to if self._store.notices.notice(f"{key}:{name}") is None]
        if not missing:
            return 0

        def transaction(conn: Connection) -> int:
            since = at - timedelta(days=1)
            summary, findings = summary_of(conn, config, since, at, now), finding_summary(conn, since, at)
            text = digest_text(summary, findings, open_incidents(conn), at, self._around(conn), chain_head(conn))
            new = _notices(config, NoticeKind.DIGEST, missing, key, text, None, now, critical=True)
            return add_notices(conn, [notice.model_copy(update={"critical": False}) for notice in new], now)

        return self._store.write(transaction)

    # --- parts ---

    def _around(self, conn: Connection) -> Around:
        page = self._config().page or self._page
        return Around(page, tuple(running_runs(conn, messages.MOST_RUNNING + 3)), self._node)

    def _open(
        self,
        conn: Connection,
        config: NotifyConfig,
        subject: str,
        kind: NoticeKind,
        text: Text,
        run_id: int | None,
        mutes: Sequence[Mute],
        now: datetime,
        *,
        remind_every: timedelta | None = None,
    ) -> list[NewNotice]:
        """Open an incident, and return its notices: none if it is open, or the entry is muted.

        `remind_every` is the interval of reminders of a gate, for which the rules of other incidents do not count.
        """
        rules = config.rules_of(subject)
        critical = rules.critical or subject.startswith(OWN)
        channels = rules.channels_of(kind)
        is_muted = muting(mutes, subject) is not None
        remind_at = next_reminder(rules, 0, now) if channels else None
        if kind is NoticeKind.WAITING:
            remind_at = None if remind_every is None or not channels else now + remind_every
        if is_muted and channels:
            remind_at = now  # due, so that it is reported when no mute is left
        known = {key: text.details[key] for key in messages.KEPT if key in text.details}
        incident = open_incident(
            conn,
            NewIncident(
                subject=subject,
                kind=kind,
                critical=critical,
                opened_at=now,
                run_id=run_id,
                why=str(text.details.get("why", "")),
                details=known,
                remind_at=remind_at,
            ),
        )
        if incident is None or is_muted:
            return []
        key = f"incident:{incident.id}:{kind}"
        return _notices(config, kind, channels, key, text, incident.id, now, critical=critical)

    def _recoveries(
        self,
        conn: Connection,
        config: NotifyConfig,
        closed: Sequence[Incident],
        at: datetime,
        run: Run | RunSummary | None,
        mutes: Sequence[Mute],
        now: datetime,
        around: Around,
    ) -> list[NewNotice]:
        """Notices of what is over, for the channels that got notices of it; one for each."""
        if not closed or muting(mutes, closed[0].subject) is not None:
            return []
        notified = channels_notified(conn, [incident.id for incident in closed])
        new: list[NewNotice] = []
        done: set[str] = set()
        for incident in sorted(closed, key=lambda each: _ORDER.index(each.kind) if each.kind in _ORDER else -1):
            wanted = recovery_channels(config, incident, notified.get(incident.id, ()))
            channels = [name for name in wanted if name not in done]
            done.update(channels)
            text = messages.recovered(incident, at, run, around)
            key = f"incident:{incident.id}:recovered"
            new += _notices(
                config, NoticeKind.RECOVERED, channels, key, text, incident.id, now, critical=incident.critical
            )
        return new


def _notices(
    config: NotifyConfig,
    kind: NoticeKind,
    channels: Iterable[str],
    key: str,
    text: Text,
    incident_id: int | None,
    now: datetime,
    *,
    critical: bool,
) -> list[NewNotice]:
    return [
        NewNotice(
            key=f"{key}:{channel}",
            incident_id=incident_id,
            kind=kind,
            channel=channel,
            critical=critical,
            title=text.title,
            body=text.body,
            details=text.details,
            not_before=send_at(config.quiet, critical=critical, now=now),
        )
        for channel in channels
    ]


def digest_text(
    summary: PeriodSummary,
    findings: FindingSummary,
    opened: Sequence[Incident],
    at: datetime,
    around: Around,
    head: ChainHead | None = None,
) -> Text:
    """`23 ran, 21 ok, 1 warned, 1 failed, 0 late, 0 missed`, the findings, and what is not over yet; and the head of
    the chain of records, so that it is kept outside the store."""
    counts = [f"{summary.ran:,} ran", f"{summary.ok:,} ok", f"{summary.warned:,} warned"]
    counts += [f"{summary.unknown:,} unknown"] if summary.unknown else []
    counts += [f"{summary.failed:,} failed"]
    counts += [f"{summary.cancelled:,} cancelled"] if summary.cancelled else []
    counts += [f"{summary.late:,} late", f"{summary.missed:,} missed"]
    title = ", ".join(counts)
    lines = [f"The day until {utc_minute(at)}: {title}."]
    lines.append(f"Findings: {findings.new:,} new, {findings.old:,} old, {gone_text(findings)}.")
    if opened:
        lines += ["", f"{plural(len(opened), 'open incident')}:"]
        lines += [
            f"  {subject_text(incident.subject)}, {incident.kind.replace('_', ' ')} since "
            f"{utc_minute(incident.opened_at)}: {incident.why.splitlines()[0] if incident.why else ''}"
            for incident in opened[: messages.MOST_LINES]
        ]
    lines += ["", "type    maintd status"]
    if around.page:
        lines.append(f"page    {around.page}/")
    details = {"entry": None, "page": around.page or None, "until": utc_text(at), "summary": summary._asdict()}
    details["findings"] = findings._asdict()
    if head is not None:
        lines.append(f"head    record {head.record}, {head.head}")
        details["chain"] = {"record": head.record, "head": head.head}
    return Text(title, "\n".join(lines), details)


def gone_text(findings: FindingSummary) -> str:
    """`3 gone: 1 passed, 2 no longer reported`; only one that passed was observed to be over."""
    reasons = [
        f"{count:,} {reason.text}"
        for reason, count in zip(
            GoneReason, (findings.passed, findings.not_reported, findings.not_in_calendar), strict=True
        )
        if count
    ]
    return f"{findings.gone:,} gone" + (f": {', '.join(reasons)}" if reasons else "")
