"""What the watchdog finds missing: a table, and properties."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.stores import NOON, at

from maintd.model.run import RunState, RunSummary, Trigger
from maintd.model.status import NodeState
from maintd.operations.watchdog import (
    GONE_AFTER,
    SILENT_AFTER,
    UNPLANNED_AFTER,
    Missing,
    MissingKind,
    find_missing,
    problems_of,
)

GRACE = timedelta(minutes=10)


def queued(minutes: float, entry: str = "a", **columns: object) -> RunSummary:
    """A queued run that could have started that many minutes ago."""
    values = {"id": 7, "entry": entry, "title": entry, "trigger": Trigger.SCHEDULE, "state": RunState.QUEUED}
    return RunSummary.model_validate({**values, "queued_at": NOON, "not_before": at(-minutes), **columns})


def node(minutes: float, name: str = "n2") -> NodeState:
    """A node whose last heartbeat was that many minutes ago."""
    return NodeState(name=name, incarnation="1", pid=1, started_at=at(-600), seen_at=at(-minutes), version="1", slots=4)


def kinds(**given: object) -> list[MissingKind]:
    values = {"next_due": {}, "queued": (), "without_lease": (), "nodes": (), "grace_of": lambda entry: GRACE}
    return [missing.kind for missing in find_missing(**{**values, **given}, now=NOON)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, []),
        ({"next_due": {"a": at(5)}}, []),  # in the future
        ({"next_due": {"a": at(-1)}}, []),  # the planner is at it
        ({"next_due": {"a": at(-3)}}, [MissingKind.UNPLANNED]),
        ({"queued": [queued(9)]}, []),
        ({"queued": [queued(11)]}, [MissingKind.QUEUED]),
        ({"queued": [queued(11, dry_run=True)]}, []),
        ({"queued": [queued(11)], "grace_of": lambda entry: timedelta(hours=1)}, []),
        ({"without_lease": [queued(1)]}, [MissingKind.WITHOUT_LEASE]),
        ({"nodes": [node(1)]}, []),
        ({"nodes": [node(3)]}, [MissingKind.SILENT_NODE]),
        ({"nodes": [node(61)]}, []),  # removed
    ],
)
def test_what_should_have_happened_is_missing(given: dict[str, object], expected: list[MissingKind]) -> None:
    assert kinds(**given) == expected


def test_problems_name_the_first_of_each_kind() -> None:
    found = find_missing({"b": at(-5), "a": at(-9)}, [queued(30)], [], [node(4)], lambda entry: GRACE, NOON)

    assert problems_of(found) == [
        'entry "a": run 7 should have started Mon 2026-03-02 11:30 UTC',
        'entry "a" was due Mon 2026-03-02 11:51 UTC and was not planned (and 1 more)',
        'node "n2" has sent no heartbeat since Mon 2026-03-02 11:56 UTC',
    ]


instants = st.integers(-5000, 5000).map(lambda seconds: NOON + timedelta(seconds=seconds))


@given(
    st.dictionaries(st.sampled_from("abc"), instants), st.lists(instants, max_size=5), st.lists(instants, max_size=4)
)
def test_all_that_is_overdue_is_found_once_and_nothing_else(due: dict, starts: list, seen: list) -> None:  # type: ignore[type-arg]
    runs = [queued(0).model_copy(update={"id": number, "not_before": start}) for number, start in enumerate(starts)]
    nodes = [node(0, f"n{number}").model_copy(update={"seen_at": at}) for number, at in enumerate(seen)]

    found = find_missing(due, runs, [], nodes, lambda entry: GRACE, NOON)

    expected = {Missing(MissingKind.UNPLANNED, name, at) for name, at in due.items() if at < NOON - UNPLANNED_AFTER}
    expected |= {
        Missing(MissingKind.QUEUED, "a", start, number) for number, start in enumerate(starts) if start < NOON - GRACE
    }
    expected |= {
        Missing(MissingKind.SILENT_NODE, f"n{number}", at)
        for number, at in enumerate(seen)
        if NOON - GONE_AFTER <= at < NOON - SILENT_AFTER
    }
    assert set(found) == expected
    assert len(found) == len(expected)
    assert [missing.since for missing in found] == sorted(missing.since for missing in found)
