"""Findings, acknowledgements and the review of ended runs, on both stores."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy.engine import Connection
from support.clock import ManualClock
from support.stores import at, claim, ended, entry, evidence, finished, plan, queue, run_concurrently

from maintd.calendar import fingerprint_of
from maintd.config.settings import Retention
from maintd.model.entry import Entry
from maintd.model.evidence import Check, CheckStatus, Report
from maintd.model.finding import ChangeKind, Finding, GoneReason
from maintd.model.run import RunState
from maintd.notify.digest import gone_text
from maintd.operations.review import Review, review_ends
from maintd.scheduler.reviewer import Reviewer
from maintd.store import Store
from maintd.store.period import FindingSummary, finding_summary

OK, WARN, FAIL, UNKNOWN = CheckStatus.OK, CheckStatus.WARN, CheckStatus.FAIL, CheckStatus.UNKNOWN

OF_STATUS = {OK: RunState.SUCCEEDED, WARN: RunState.WARNED, FAIL: RunState.FAILED, UNKNOWN: RunState.UNKNOWN}


def observed(name: str, status: CheckStatus, **columns: object) -> Check:
    row = {"name": name, "observed": 91, "expected": "at most 80", "unit": "%", "status": status, **columns}
    return Check.model_validate(row)


def ran(
    store: Store,
    minutes: float,
    *checks: Report,
    entry: str = "a",
    state: RunState | None = None,
    complete: bool = False,
) -> int:
    """Add a run that reported these checks and ended, and whose job returned if it is complete; return its id."""
    run = claim(store, queue(store, entry, minutes), minutes)
    worst = next((check.status for check in checks if isinstance(check, Check) and check.status is not OK), OK)
    updates = [*evidence(*checks, minutes=minutes, complete=complete), ended(state or OF_STATUS[worst], minutes + 2)]
    assert store.runs.apply(run.id, run.fence, 1, updates)
    return run.id


def reviewed(store: Store, limit: int = 100) -> Review:
    """Review what waits; return what the hook got."""
    found: list[Review] = []
    review_ends(store, lambda conn, review: found.append(review), limit=limit)
    return found[-1] if found else Review((), (), store.now())


def only(store: Store, *, only_open: bool = True) -> Finding:
    (found,) = store.findings.all(only_open=only_open)
    return found


def acknowledge(store: Store, days: float = 1) -> bool:
    now = store.now()
    until = now + timedelta(days=days)
    return store.findings.acknowledge(only(store).key, why="ordered a disk", by="ada", until=until, now=now)


def test_a_failed_check_is_a_finding_until_it_is_ok(store: Store) -> None:
    first = ran(store, 1, observed("disk", FAIL, hint="df -h"))
    reviewed(store)
    opened = only(store)
    second = ran(store, 10, observed("disk", FAIL))
    reviewed(store)
    again = only(store)
    third = ran(store, 20, observed("disk", OK))
    review = reviewed(store)

    assert (opened.entry, opened.step, opened.job, opened.check) == ("a", "vacuum", "vacuum", "disk")
    assert (opened.status, opened.observed, opened.unit, opened.hint) == (FAIL, 91, "%", "df -h")
    assert (opened.first_seen_at, opened.first_run_id, opened.seen_count) == (at(2), first, 1)
    assert (again.key, again.first_seen_at, again.last_seen_at) == (opened.key, at(2), at(11))
    assert (again.first_run_id, again.last_run_id, again.seen_count) == (first, second, 2)
    assert [change.kind for change in review.ends[0].changes] == [ChangeKind.GONE]
    assert store.findings.all() == []
    gone = only(store, only_open=False)
    assert (gone.gone_at, gone.last_run_id) == (at(21), third)


def test_a_finding_that_returns_has_the_same_key(store: Store) -> None:
    for minutes, status in ((1, FAIL), (10, OK), (20, WARN)):
        ran(store, minutes, observed("disk", status))
    review = reviewed(store)

    assert [[change.kind for change in end.changes] for end in review.ends] == [
        [ChangeKind.NEW],
        [ChangeKind.GONE],
        [ChangeKind.RETURNED],
    ]
    assert only(store).first_seen_at == at(21)
    assert only(store).key == review.ends[0].changes[0].finding.key


def test_a_check_that_is_no_longer_reported_ends_its_finding_with_that_reason(store: Store) -> None:
    ran(store, 1, observed("host old: disk", FAIL), observed("host new: disk", FAIL), complete=True)
    reviewed(store)
    ran(store, 10, observed("host new: disk", FAIL), complete=False)  # its job was stopped at the check
    aborted = reviewed(store)
    last = ran(store, 20, observed("host new: disk", FAIL), complete=True)
    reviewed(store)

    assert [change.finding.check for change in aborted.ends[0].changes] == ["host new: disk"]
    assert [finding.check for finding in store.findings.all()] == ["host new: disk"]
    gone = store.findings.all(only_open=False)[-1]
    assert (gone.check, gone.gone_at, gone.last_run_id) == ("host old: disk", at(21), last)
    assert gone.gone_reason is GoneReason.NOT_REPORTED


def test_a_finding_that_passed_has_that_reason(store: Store) -> None:
    ran(store, 1, observed("disk", FAIL))
    ran(store, 10, observed("disk", OK), complete=True)
    reviewed(store)

    assert only(store, only_open=False).gone_reason is GoneReason.PASSED


def test_findings_of_entries_and_steps_that_left_the_calendar_are_gone(store: Store, clock: ManualClock) -> None:
    calendar = [entry("kept", "vacuum"), entry("removed", "vacuum"), entry("cut", "vacuum"), entry("off", "vacuum")]
    load(store, *calendar)
    for number, name in enumerate(("kept", "removed", "cut", "off", "manual")):
        ran(store, number * 5 + 1, observed("disk", FAIL), entry=name)
    reviewer = Reviewer(store, clock, lambda: None, entries=lambda: calendar)
    reviewer.review()
    before = {finding.entry for finding in store.findings.all()}
    store.findings.acknowledge(
        store.findings.all(area="removed")[0].key, why="w", by="ada", until=at(9999), now=store.now()
    )

    calendar = [entry("kept", "vacuum"), entry("cut", "reindex"), entry("off", "vacuum", enabled=False)]
    load(store, *calendar)
    reviewer.review()

    assert before == {"kept", "removed", "cut", "off", "manual"}
    assert {finding.entry for finding in store.findings.all()} == {"kept", "off", "manual"}
    gone = [finding for finding in store.findings.all(only_open=False) if not finding.open]
    assert {(finding.entry, finding.gone_reason) for finding in gone} == {
        ("removed", GoneReason.NOT_IN_CALENDAR),
        ("cut", GoneReason.NOT_IN_CALENDAR),
    }
    (removed,) = [finding for finding in gone if finding.entry == "removed"]
    assert store.findings.history(removed.key)[0].ended_why == "gone: no longer in the calendar"


def test_a_late_run_of_the_former_calendar_leaves_no_finding_open(store: Store, clock: ManualClock) -> None:
    calendar = [entry("a", "reindex")]
    load(store, *calendar)
    reviewer = Reviewer(store, clock, lambda: None, entries=lambda: calendar)
    reviewer.review()
    ran(store, 1, observed("disk", FAIL))  # a step that the calendar does not have any more
    reviewer.review()
    opened = [finding.check for finding in store.findings.all()]

    clock.advance(timedelta(minutes=2))
    reviewer.review()

    assert opened == ["disk"]
    assert only(store, only_open=False).gone_reason is GoneReason.NOT_IN_CALENDAR


def test_the_summary_of_a_period_counts_why_findings_are_gone(store: Store, clock: ManualClock) -> None:
    calendar = [entry("a", "vacuum"), entry("b", "vacuum")]
    load(store, *calendar)
    ran(store, 1, observed("passes", FAIL), observed("missing", FAIL))
    ran(store, 5, observed("disk", FAIL), entry="b")
    ran(store, 10, observed("passes", OK), complete=True)
    reviewed(store)
    load(store, calendar[0])
    Reviewer(store, clock, lambda: None, entries=lambda: calendar[:1]).review()

    counts = store.read(lambda conn: finding_summary(conn, at(0), store.now() + timedelta(hours=1)))

    assert (counts.new, counts.old, counts.gone) == (0, 0, 3)
    assert (counts.passed, counts.not_reported, counts.not_in_calendar) == (1, 1, 1)
    assert gone_text(counts) == "3 gone: 1 passed, 1 no longer reported, 1 no longer in the calendar"
    assert gone_text(FindingSummary(1, 2, 0)) == "0 gone"


def load(store: Store, *entries: Entry) -> None:
    """Load a calendar, as the planner does."""
    wanted = [entry for entry in entries if entry.enabled]
    store.entries.sync(wanted, {entry.name: fingerprint_of(entry) for entry in wanted}, store.now())


def test_each_end_is_reviewed_once(store: Store) -> None:
    ran(store, 1, observed("disk", FAIL))

    first, second = reviewed(store), reviewed(store)

    assert len(first.ends) == 1
    assert second.ends == ()
    assert only(store).seen_count == 1


def test_an_exception_in_a_hook_leaves_the_end_for_the_next_review(store: Store) -> None:
    ran(store, 1, observed("disk", FAIL))

    def fail(conn: Connection, review: Review) -> None:
        raise RuntimeError("killed in between")

    with pytest.raises(RuntimeError):
        review_ends(store, fail)

    assert store.findings.all() == []
    assert len(reviewed(store).ends) == 1
    assert only(store).check == "disk"


def test_two_nodes_review_each_end_once(store: Store, open_another: Callable[[], Store]) -> None:
    for minutes in range(30):
        ran(store, minutes * 3, observed(f"c{minutes % 3}", FAIL), entry=f"e{minutes % 4}")
    stores = [store, open_another(), open_another()]

    def review_all(of_node: Store) -> list[int]:
        ids: list[int] = []
        while review_ends(of_node, lambda conn, review: ids.extend(end.event.id for end in review.ends), limit=4):
            pass
        return ids

    found = run_concurrently([lambda node=node: review_all(node) for node in stores])  # type: ignore[misc]

    ids = [event_id for of_node in found for event_id in of_node]
    assert len(ids) == len(set(ids)) == 30
    assert sum(finding.seen_count for finding in store.findings.all()) == 30


def test_a_success_of_an_entry_without_findings_is_reviewed_without_its_evidence(store: Store) -> None:
    finished(store, "a", 1)

    (end,) = reviewed(store).ends

    assert (end.run.state, end.evidence, end.changes) == (RunState.SUCCEEDED, None, ())


def test_the_ends_of_one_review_follow_each_other(store: Store) -> None:
    ran(store, 1, observed("disk", FAIL))
    finished(store, "b", 4)
    ran(store, 10, observed("disk", OK))

    review = reviewed(store)

    assert [end.run.entry for end in review.ends] == ["a", "b", "a"]
    assert store.findings.all() == []


def test_a_lost_run_that_comes_back_late_changes_no_newer_finding(store: Store) -> None:
    run = claim(store, queue(store, "a"))
    assert store.runs.mark_lost(run.id, run.fence, "no heartbeat", at(5))
    ran(store, 10, observed("disk", OK), observed("load", FAIL))
    reviewed(store)
    late = [*evidence(observed("disk", FAIL), observed("load", OK), minutes=1), ended(RunState.FAILED, 2)]
    assert store.runs.apply(run.id, run.fence, 1, late)

    review = reviewed(store)

    assert review.ends[0].changes == ()
    assert [finding.check for finding in store.findings.all()] == ["load"]


def test_a_lost_run_that_comes_back_in_time_counts_once(store: Store) -> None:
    run = claim(store, queue(store, "a"))
    assert store.runs.apply(run.id, run.fence, 1, evidence(observed("disk", FAIL), minutes=1))
    assert store.runs.mark_lost(run.id, run.fence, "no heartbeat", at(5))
    reviewed(store)
    assert store.runs.apply(run.id, run.fence, 6, [ended(RunState.FAILED, 6)])
    reviewed(store)

    assert only(store).seen_count == 1


def test_an_acknowledged_finding_is_covered_until_it_gets_worse(store: Store) -> None:
    ran(store, 1, observed("disk", WARN))
    reviewed(store)

    assert acknowledge(store)
    same = ran(store, 10, observed("disk", WARN))
    covered = reviewed(store).ends[0]
    ran(store, 20, observed("disk", FAIL))
    worse = reviewed(store).ends[0]

    assert covered.run.id == same
    assert covered.acknowledged
    assert not worse.acknowledged
    assert worse.changes[0].kind is ChangeKind.WORSE
    assert worse.changes[0].notifies(at(22))
    assert only(store).acknowledgement is None
    (ended_one,) = store.findings.history(only(store).key)
    assert ended_one.ended_why == "worse: fail, acknowledged as warn"


def test_an_acknowledged_failure_comes_back_when_its_value_moves_away_from_its_limit(store: Store) -> None:
    for minutes, value in ((1, 91), (5, 88)):
        ran(store, minutes, observed("disk", FAIL, observed=value, missed_limit=80))
    reviewed(store)
    assert acknowledge(store)
    acknowledged = only(store).acknowledgement
    ran(store, 10, observed("disk", FAIL, observed=91, missed_limit=80))
    varied = reviewed(store).ends[0]
    ran(store, 20, observed("disk", FAIL, observed=93, missed_limit=80))
    worse = reviewed(store).ends[0]

    assert acknowledged is not None
    assert (acknowledged.observed, acknowledged.observed_at) == (88, at(6))
    assert varied.acknowledged
    assert not worse.acknowledged
    assert worse.changes[0].notifies(at(22))
    (ended_one,) = store.findings.history(only(store).key)
    assert ended_one.ended_why == "worse: 93 %, acknowledged at 88 %"


def test_an_acknowledgement_ends_with_its_finding(store: Store) -> None:
    ran(store, 1, observed("disk", FAIL))
    reviewed(store)
    acknowledge(store)
    ran(store, 10, observed("disk", OK))
    ran(store, 20, observed("disk", FAIL))
    review = reviewed(store)

    assert review.ends[1].changes[0].notifies(at(22))
    assert only(store).acknowledgement is None
    assert [one.ended_why for one in store.findings.history(only(store).key)] == ["gone"]


def test_a_finding_comes_back_when_the_time_of_its_acknowledgement_is_over(store: Store, clock: ManualClock) -> None:
    ran(store, 1, observed("disk", FAIL))
    reviewed(store)
    now = store.now()
    key = only(store).key
    store.findings.acknowledge(key, why="known", by="ada", until=now - timedelta(seconds=1), now=now)

    review = reviewed(store)

    assert [finding.key for finding in review.lapsed] == [key]
    assert only(store).acknowledgement is None
    assert store.findings.history(key)[0].ended_why == "its time is over"
    assert reviewed(store).lapsed == ()


def test_a_new_acknowledgement_takes_the_place_of_the_earlier_one(store: Store) -> None:
    ran(store, 1, observed("disk", FAIL))
    reviewed(store)

    acknowledge(store, days=1)
    acknowledge(store, days=3)

    (found,) = store.findings.acknowledged()
    assert found.acknowledgement is not None
    assert found.acknowledgement.until > store.now() + timedelta(days=2)
    key = found.key
    assert [one.ended_why for one in store.findings.history(key)] == ["", "acknowledged again"]
    assert store.findings.withdrawn(at(-60)) == set()


def test_a_finding_that_is_gone_cannot_be_acknowledged(store: Store) -> None:
    ran(store, 1, observed("disk", FAIL))
    reviewed(store)
    key = only(store).key
    ran(store, 10, observed("disk", OK))
    reviewed(store)

    assert not store.findings.acknowledge(key, why="known", by="ada", until=at(100), now=at(5))


def test_an_acknowledgement_is_withdrawn_once(store: Store) -> None:
    ran(store, 1, observed("disk", FAIL))
    reviewed(store)
    acknowledge(store)
    key = only(store).key

    done = [store.findings.withdraw(key, by="bob", now=at(6)) for _ in range(2)]

    assert done == [True, False]
    assert only(store).acknowledgement is None
    assert store.findings.history(key)[0].ended_why == "withdrawn by bob"
    assert [store.findings.withdrawn(at(minute)) for minute in (6, 7)] == [{"a"}, set()]
    kinds = [(event.kind, event.subject, event.by) for event in store.audit.recent(2)]
    assert kinds == [("acknowledgement_withdrawn", "a", "bob"), ("finding_acknowledged", "a", "ada")]


def test_findings_are_listed_by_area_and_time_the_worst_first(store: Store) -> None:
    ran(store, 1, observed("w", WARN), observed("f", FAIL), entry="a", state=RunState.FAILED)
    run = claim(store, queue(store, "b", 10, plan=plan("reindex")), 10)
    assert store.runs.apply(
        run.id, run.fence, 1, [*evidence(observed("u", UNKNOWN), minutes=10), ended(RunState.UNKNOWN, 12)]
    )
    ran(store, 20, observed("w", OK), observed("f", FAIL))
    reviewed(store)

    def names(**query: object) -> list[str]:
        return [finding.check for finding in store.findings.all(**query)]  # type: ignore[arg-type]

    assert names() == ["f", "u"]
    assert names(only_open=False) == ["f", "u", "w"]
    assert names(area="a") == ["f"]
    assert names(area="reindex") == ["u"]
    assert names(since=at(5)) == ["u"]
    assert names(only_open=False, since=at(30)) == ["f", "u"]
    assert names(limit=1) == ["f"]


def test_a_finding_is_found_by_the_beginning_of_its_key(store: Store) -> None:
    ran(store, 1, observed("disk", FAIL))
    reviewed(store)
    key = only(store).key

    assert [finding.key for finding in store.findings.find(key[:4].upper())] == [key]
    assert store.findings.find("zz%") == []


def test_open_findings_are_counted_by_entry_and_status(store: Store) -> None:
    ran(store, 1, observed("x", FAIL), observed("y", FAIL), observed("z", UNKNOWN, because="x"))
    reviewed(store)
    key = store.findings.all()[0].key
    store.findings.acknowledge(key, why="known", by="ada", until=at(100), now=at(5))

    counts = {(each.entry, each.status, each.acknowledged): each.count for each in store.findings.counts(at(6))}

    assert counts == {("a", FAIL, True): 1, ("a", FAIL, False): 1}


def test_a_key_that_is_taken_by_a_renamed_entry_is_not_used_twice(store: Store) -> None:
    from support.stores import sync

    sync(store, entry("a"))
    ran(store, 1, observed("disk", FAIL))
    reviewed(store)
    sync(store, entry("b", formerly="a"), entry("c"), now=3)
    sync(store, entry("b", formerly="a"), entry("a"), now=4)
    ran(store, 10, observed("disk", FAIL), entry="a")
    reviewed(store)

    found = store.findings.all()
    assert sorted(finding.entry for finding in found) == ["a", "b"]
    assert len({finding.key for finding in found}) == 2


def test_more_findings_than_an_entry_may_have_do_not_stop_the_review(store: Store) -> None:
    ran(store, 1, *[observed(f"c{number}", FAIL) for number in range(250)])
    reviewed(store)
    ran(store, 10, *[observed(f"d{number}", FAIL) for number in range(250)])
    reviewed(store)

    found = store.findings.all()

    assert len(found) == 200
    assert {finding.check[0] for finding in found} == {"d"}


def test_reviewed_events_of_runs_and_old_findings_are_pruned(store: Store) -> None:
    day = 24 * 60
    ran(store, 1, observed("disk", FAIL), observed("load", FAIL))
    reviewed(store)
    waiting = finished(store, "a", 5)
    ran(store, 6 * day, observed("disk", FAIL))
    before = {event.run_id for event in store.run_events.after(0)}

    first = store.maintenance.prune(Retention(), at(8 * day))
    kept = store.run_events.after(0)
    reviewed(store)
    second = store.maintenance.prune(Retention(runs=timedelta(days=1)), at(6.5 * day))

    assert len(before) == 3
    assert [event.state for event in kept if event.run_id == waiting] == [RunState.SUCCEEDED]
    assert {event.run_id for event in kept} == before - {1}
    assert (first.run_events, first.findings) == (5, 0)
    assert second.findings == 1  # load was checked more than a day ago


def test_dry_runs_leave_no_findings(store: Store) -> None:
    run = claim(store, queue(store, "a", 1, dry_run=True), 1)
    assert store.runs.apply(
        run.id, run.fence, 1, [*evidence(observed("disk", FAIL), minutes=1), ended(RunState.FAILED, 3)]
    )

    (end,) = reviewed(store).ends

    assert end.changes == ()
    assert store.findings.all() == []


def test_an_end_that_cannot_be_reviewed_does_not_keep_the_others_waiting(store: Store, clock: ManualClock) -> None:
    ids = [ran(store, minutes, observed("disk", FAIL), entry=f"e{minutes}") for minutes in (1, 5, 9)]

    def fail(conn: Connection, review: Review) -> None:
        if any(end.run.id == ids[1] for end in review.ends):
            raise RuntimeError("a fault in what follows")

    reviewer = Reviewer(store, clock, lambda: None, (fail,))
    with pytest.raises(RuntimeError):
        reviewer.review()

    assert sorted(finding.entry for finding in store.findings.all()) == ["e1", "e9"]
    assert store.run_events.not_reviewed() == []
    reviewer.review()
