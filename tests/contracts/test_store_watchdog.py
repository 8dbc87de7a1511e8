"""The watchdog on both stores: rows that are not there, runs that no node holds, nodes that are silent."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.stores import at, claim, due, entry, plan_runs, queue, sync

from maintd.model.notice import Channel, NoticeKind, NotifyConfig
from maintd.model.status import NodeState
from maintd.notify.incidents import IncidentRecorder
from maintd.operations.watchdog import Missing, MissingKind, Watchdog
from maintd.store import Store


@pytest.fixture
def watchdog(store: Store) -> Watchdog:
    return Watchdog(store, lambda entry: timedelta(minutes=10))


def heartbeat(store: Store, minutes: float, name: str = "n2") -> None:
    state = NodeState(name=name, incarnation="1", pid=1, started_at=at(0), seen_at=at(minutes), version="1", slots=4)
    store.nodes.heartbeat(state)


def test_a_due_time_that_no_node_planned_is_missing_until_it_is_planned(store: Store, watchdog: Watchdog) -> None:
    sync(store, entry("a"), entry("b", enabled=False))

    assert watchdog.check(at(2)) == ()
    assert watchdog.check(at(5)) == (Missing(MissingKind.UNPLANNED, "a", at(1)),)
    plan_runs(store, "a", 0, 5, *[due("a", minute) for minute in range(1, 6)])
    assert watchdog.check(at(5)) == ()


def test_a_queued_run_and_a_run_without_a_lease_are_missing(store: Store, watchdog: Watchdog) -> None:
    queue(store, "a")
    claim(store, queue(store, "b"), 0, lease=5)

    found = watchdog.check(at(11))

    assert [(missing.kind, missing.subject, missing.run_id) for missing in found] == [
        (MissingKind.QUEUED, "a", 1),
        (MissingKind.WITHOUT_LEASE, "b", 2),
    ]


def test_a_node_that_was_killed_is_missing_and_one_that_stopped_is_not(store: Store, watchdog: Watchdog) -> None:
    heartbeat(store, 0, "n2")
    heartbeat(store, 0, "n3")
    store.nodes.remove("n3", "1")
    store.nodes.remove("n2", "an earlier process")

    assert watchdog.check(at(3)) == (Missing(MissingKind.SILENT_NODE, "n2", at(0)),)
    heartbeat(store, 3, "n2")
    assert watchdog.check(at(3)) == ()


def test_a_due_time_that_was_not_planned_is_one_incident(store: Store) -> None:
    config = NotifyConfig(channels={"mail": Channel(name="mail")})
    config = config.model_copy(update={"rules": config.rules.model_copy(update={"to": ("mail",)})})
    recorder = IncidentRecorder(store, lambda: config, lambda: {"a"}, "n1")
    missing = [Missing(MissingKind.UNPLANNED, "a", at(1)), Missing(MissingKind.UNPLANNED, "gone", at(1))]

    assert [recorder.record_missing(missing), recorder.record_missing(missing)] == [1, 0]

    (incident,) = store.notices.open_incidents()
    assert (incident.subject, incident.kind) == ("a", NoticeKind.MISSED)
    assert store.notices.recent()[0].title.startswith("a was not planned")
