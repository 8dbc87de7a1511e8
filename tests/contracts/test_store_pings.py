"""Pings as rows, on both stores: written once by several nodes, in order, and left out when they are not true any
more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial

from pydantic import SecretStr
from support.stores import at, claim, ended, evidence, finished, queue, run_concurrently

from maintd.model.evidence import Check, CheckStatus, LogLine
from maintd.model.notice import OWN_PING, Channel, Mute, Notice, NotifyConfig, OwnPing, ping_name
from maintd.model.run import RunState
from maintd.notify.pings import SUPERSEDED_AFTER, PingRecorder, is_stale, ping_message
from maintd.operations.review import review_ends
from maintd.store import Store
from maintd.store.notices import ClaimedGroup

A = ping_name("a")
CONFIG = NotifyConfig(
    pings={"a": Channel(name=A, ping=SecretStr("https://monitor.example.com/0123456789abcdef"))},
    own_ping=OwnPing(channel=Channel(name=OWN_PING, ping=SecretStr("https://monitor.example.com/own"))),
)


def recorder(store: Store) -> PingRecorder:
    return PingRecorder(store, lambda: CONFIG, "n1")


def review(store: Store, minutes: float) -> None:
    """Review ended runs at this time; on Postgres the store's own time is that of the server."""
    review_ends(store, lambda conn, review: recorder(store).record_review(conn, review._replace(at=at(minutes))))


def rows(store: Store, channel: str = A) -> list[Notice]:
    """The pings of a channel, oldest first."""
    return store.notices.recent(channel=channel)[::-1]


def signals(store: Store, channel: str = A) -> list[str]:
    return [notice.details["signal"] for notice in rows(store, channel)]


def claimed(store: Store, minutes: float) -> ClaimedGroup:
    group = store.notices.claim("n1", at(minutes), at(minutes + 2))
    assert group is not None
    return group


def test_a_run_is_two_pings_without_the_url(store: Store) -> None:
    run = claim(store, queue(store, "a"), 0)
    recorder(store).sweep_starts(at(0.2))
    recorder(store).sweep_starts(at(0.2))
    assert store.runs.apply(run.id, run.fence, 1, [ended(RunState.SUCCEEDED, 0.9)])

    review(store, 1)
    review(store, 1)

    assert signals(store) == ["start", ""]
    assert [row.key for row in rows(store)] == [f"ping:a:run:{run.id}:start", f"ping:a:run:{run.id}:end"]
    assert "monitor.example.com" not in str([row.model_dump() for row in rows(store)])


def test_the_start_of_a_short_run_is_written_at_its_end(store: Store) -> None:
    finished(store, "a", 0, took=0.05)
    review(store, 0.1)
    finished(store, "a", 0.2, took=0.5)
    review(store, 0.8)

    assert signals(store) == ["start", "", ""]


def test_entries_without_a_monitor_have_no_pings(store: Store) -> None:
    finished(store, "b", 0)

    review(store, 3)
    recorder(store).sweep(at(0), own=False)

    assert store.notices.recent() == []


def test_a_muted_entry_still_pings(store: Store) -> None:
    muted: Mute = store.mutes.add("a", why="moving", by="ada", until=at(600), now=at(0))
    finished(store, "a", 0, RunState.FAILED)

    review(store, 3)

    assert muted.entries == "a"
    assert signals(store)[-1] == "fail"


def test_the_body_has_the_state_and_the_last_lines_of_the_log(store: Store) -> None:
    run = claim(store, queue(store, "a"), 0)
    lines = [LogLine(seq=number, at=at(1), stream="log", text=f"line {number}") for number in range(1, 601)]
    failure = Check(name="exit code", observed=3, expected="0", status=CheckStatus.FAIL)
    updates = [*evidence(failure, *lines), ended(RunState.FAILED, 2, "exit code: 3, expected 0")]
    assert store.runs.apply(run.id, run.fence, 1, updates)
    review(store, 3)

    message = ping_message(store, rows(store)[-1])
    short = ping_message(store, rows(store)[-1], 100)

    assert (message["signal"], message["rid"]) == ("3", f"00000000-0000-0000-0000-{run.id:012x}")
    assert message["body"].startswith("a: failed: exit code: 3, expected 0\nline 1\n")
    assert message["body"].endswith("line 599\nline 600\n")
    assert short["body"].startswith("a: failed: exit code: 3, expected 0\nline 594\n")  # of 36 and 7 × 9 bytes
    assert short["body"].endswith("line 599\nline 600\n")


def test_a_start_that_is_late_is_stale(store: Store) -> None:
    claim(store, queue(store, "a"), 0)
    recorder(store).sweep_starts(at(0.2))
    (start,) = rows(store)
    recorder(store).sweep_starts(at(2))

    assert not is_stale(start, at(0.5))
    assert is_stale(start, at(1.1))
    group = claimed(store, 2)
    assert store.notices.discard(group)
    assert not store.notices.discard(group)
    assert rows(store) == []


def test_of_ends_that_wait_for_a_monitor_the_last_one_is_sent(store: Store) -> None:
    for minute in (0, 5, 10):
        finished(store, "a", minute, RunState.FAILED if minute == 5 else RunState.SUCCEEDED)
        review(store, minute + 1.5)

    assert signals(store) == [""]
    assert rows(store)[0].details["run_id"] == 3


def test_ends_that_follow_each_other_closely_are_all_sent(store: Store) -> None:
    assert timedelta(seconds=20) < SUPERSEDED_AFTER
    for number in range(3):
        finished(store, "a", number / 6, took=1 / 6)
        review(store, (number + 1) / 6)

    assert signals(store).count("") == 3


def test_an_end_that_is_being_sent_is_not_superseded(store: Store) -> None:
    finished(store, "a", 0, took=1)
    review(store, 1)
    group = claimed(store, 1)
    finished(store, "a", 4, took=1)
    review(store, 5)

    assert store.notices.mark_sent(group, at(1))
    assert signals(store) == ["", ""]


def test_several_nodes_write_one_ping_of_maintd_for_each_interval(open_another: Callable[[], Store]) -> None:
    stores = [open_another() for _ in range(3)]
    for minute in (0, 0.5, 1):
        run_concurrently([partial(recorder(store).sweep, at(minute), own=True) for store in stores])
        store = stores[0]
        if minute < 1:
            assert len(rows(store, OWN_PING)) == 1

    # The second one takes the place of the first, which was not sent.
    (row,) = rows(store, OWN_PING)
    assert row.created_at == at(1)
    assert is_stale(row, at(2.1))


def test_maintd_that_is_not_well_does_not_ping(store: Store) -> None:
    recorder(store).sweep(at(0), own=False)

    assert rows(store, OWN_PING) == []


def test_sent_pings_are_listed_only_for_their_channel(store: Store) -> None:
    recorder(store).sweep(at(0), own=True)
    assert len(store.notices.recent()) == 1

    store.notices.mark_sent(claimed(store, 1), at(1))

    assert store.notices.recent() == []
    assert len(rows(store, OWN_PING)) == 1


def test_pings_can_be_left_out_of_a_claim(store: Store) -> None:
    recorder(store).sweep(at(0), own=True)

    assert store.notices.claim("n1", at(1), at(3), pings=False) is None
    assert store.notices.next_attempt(at(1), pings=False) is None
    assert store.notices.next_attempt(at(1)) is not None
