"""Incidents, notices and mutes: written once, claimed by one sender, delivered after a crash."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from support.stores import NOON, at, run_concurrently

from maintd.model.notice import Incident, NewNotice, NoticeKind, NoticeState
from maintd.store import Store
from maintd.store.notices import (
    ClaimedGroup,
    NewIncident,
    Undelivered,
    channels_notified,
    close_incident,
    open_incident,
    open_incidents,
    set_reminder,
)

LEASE = timedelta(minutes=2)


def notice(key: str, channel: str = "mail", minutes: float = 0, **columns: Any) -> NewNotice:
    values = {"kind": NoticeKind.FAILED, "title": key, "body": f"body of {key}"} | columns
    return NewNotice(key=key, channel=channel, not_before=at(minutes), **values)


def claim(store: Store, minutes: float, node: str = "n1") -> ClaimedGroup | None:
    return store.notices.claim(node, at(minutes), at(minutes) + LEASE)


def claimed(store: Store, minutes: float, node: str = "n1") -> ClaimedGroup:
    group = claim(store, minutes, node)
    assert group is not None
    return group


def titles(group: ClaimedGroup) -> list[str]:
    return [notice.title for notice in group.notices]


def state(store: Store, key: str) -> NoticeState:
    found = store.notices.notice(key)
    assert found is not None
    return found.state


def opened(store: Store, subject: str = "a", minutes: float = 0) -> Incident | None:
    new = NewIncident(subject=subject, kind=NoticeKind.FAILED, opened_at=at(minutes), why="disk", remind_at=at(60))
    return store._database.write(lambda conn: open_incident(conn, new))


# --- delivery ---


def test_no_notice_is_written_twice(store: Store) -> None:
    assert store.notices.add([notice("1"), notice("2")], NOON) == 2
    assert store.notices.add([notice("2"), notice("3")], NOON) == 1

    assert [found.key for found in store.notices.recent()] == ["3", "2", "1"]


def test_a_notice_keeps_all_its_columns(store: Store) -> None:
    store.notices.add([notice("1", critical=True, details={"run": 7, "why": "naïve ✓"})], NOON)

    found = store.notices.recent()[0]

    assert (found.critical, found.details, found.created_at) == (True, {"run": 7, "why": "naïve ✓"}, NOON)
    assert (found.state, found.attempts, found.error) == (NoticeState.WAITING, 0, "")


def test_what_is_due_is_claimed_as_one_message_and_sent(store: Store) -> None:
    store.notices.add([notice("1"), notice("2"), notice("3", minutes=30), notice("4", "pager")], NOON)

    group = claimed(store, 1)
    sent = store.notices.mark_sent(group, at(1.1))

    assert (titles(group), group.channel, sent) == (["1", "2"], "mail", True)
    assert [state(store, key) for key in "123"] == [NoticeState.SENT, NoticeState.SENT, NoticeState.WAITING]
    assert titles(claimed(store, 1.2)) == ["4"]
    assert claim(store, 1.3) is None


def test_of_two_senders_one_gets_each_notice(store: Store, open_another: Callable[[], Store]) -> None:
    stores = [store, open_another(), open_another()]
    for round_ in range(10):
        keys = [f"{round_}.{number}" for number in range(5)]
        store.notices.add([notice(key, channel=f"c{round_}") for key in keys], at(round_))

        groups = run_concurrently([partial(claim, each, round_) for each in stores])

        won = [group for group in groups if group is not None]
        assert sorted(title for group in won for title in titles(group)) == keys
        assert all(store.notices.mark_sent(group, at(round_)) for group in won)


def test_a_notice_whose_sender_was_killed_before_delivery_is_sent_by_another(
    store: Store, open_another: Callable[[], Store]
) -> None:
    store.notices.add([notice("1")], NOON)
    dead = claimed(store, 1, "n1")
    other = open_another()
    assert claim(other, 2, "n2") is None

    group = claimed(other, 4, "n2")

    assert group.key == dead.key  # by which the receiver recognizes what it may have got already
    assert other.notices.mark_sent(group, at(4))
    assert not store.notices.mark_sent(dead, at(5))
    assert not store.notices.requeue(dead, "late", at(6), uncertain=False, channel_down=False)
    assert state(store, "1") is NoticeState.SENT


def test_a_sender_that_lost_its_lease_may_not_begin_to_deliver(store: Store) -> None:
    store.notices.add([notice("1")], NOON)
    first = claimed(store, 1, "n1")
    assert store.notices.renew(first, at(1) + LEASE)
    second = claimed(store, 5, "n2")

    assert not store.notices.renew(first, at(10))
    assert store.notices.renew(second, at(10))


def test_a_restarted_node_lets_go_of_what_it_had_claimed(store: Store) -> None:
    store.notices.add([notice("1")], NOON)
    first = claimed(store, 1, "n1")

    assert store.notices.release("n2") == 0
    assert store.notices.release("n1") == 1
    assert claimed(store, 1.1, "n1").key == first.key


def test_a_message_that_may_have_arrived_is_sent_again_as_it_was(store: Store) -> None:
    store.notices.add([notice("1")], NOON)
    first = claimed(store, 1)
    store.notices.add([notice("2")], at(1))
    assert store.notices.requeue(first, "timed out", at(2), uncertain=True, channel_down=True)

    assert claim(store, 1.5) is None
    again = claimed(store, 2)

    assert (again.key, titles(again)) == (first.key, ["1"])


def test_a_message_that_was_refused_is_grouped_with_others(store: Store) -> None:
    store.notices.add([notice("1")], NOON)
    first = claimed(store, 1)
    store.notices.add([notice("2")], at(1))
    assert store.notices.requeue(first, "connection refused", at(2), uncertain=False, channel_down=True)
    assert claim(store, 1.5) is None  # the channel is down, so the second one waits, too

    again = claimed(store, 2)

    assert again.key != first.key
    assert titles(again) == ["1", "2"]


def test_a_refused_message_does_not_hold_others_of_its_channel(store: Store) -> None:
    store.notices.add([notice("1")], NOON)
    assert store.notices.requeue(claimed(store, 1), "400", at(60), uncertain=False, channel_down=False)
    store.notices.add([notice("2")], at(1))

    assert titles(claimed(store, 2)) == ["2"]


def test_the_next_attempt_is_known(store: Store) -> None:
    assert store.notices.next_attempt(NOON) is None
    store.notices.add([notice("1", minutes=5), notice("2", "pager", minutes=3)], NOON)
    assert store.notices.next_attempt(NOON) == at(3)

    group = claimed(store, 3)

    assert store.notices.next_attempt(at(3)) == min(at(5), at(3) + LEASE)
    assert group.channel == "pager"


def test_what_cannot_be_delivered_is_counted_by_channel(store: Store) -> None:
    store.notices.add([notice("1"), notice("2"), notice("3", "pager"), notice("4", "log")], NOON)
    store.notices.requeue(claimed(store, 1), "timed out", at(9), uncertain=True, channel_down=True)
    store.notices.give_up(claimed(store, 1), "no such channel")
    store.notices.mark_sent(claimed(store, 1), at(1))

    waiting = Undelivered("mail", "waiting", 2, NOON, NOON, "timed out", at(9))
    given_up = Undelivered("pager", "given_up", 1, NOON, NOON, "no such channel")
    assert store.notices.undelivered(at(-60), at(-60)) == [waiting, given_up]
    assert store.notices.undelivered(at(60), at(60)) == [waiting]
    assert store.notices.counts(at(60), at(60)) == {("mail", NoticeState.WAITING): 2}


def test_a_failed_test_of_a_channel_is_over_when_something_is_sent_to_it(store: Store) -> None:
    for key, kind, minutes in (("1", NoticeKind.TEST, 0), ("2", NoticeKind.FAILED, 1)):
        store.notices.add([notice(key, minutes=minutes, kind=kind)], at(minutes))
        store.notices.give_up(claimed(store, minutes), "refused")
    test = Undelivered("mail", "test", 1, NOON, NOON, "refused")
    message = Undelivered("mail", "given_up", 1, at(1), at(1), "refused")
    before = store.notices.undelivered(at(-60), at(-60))
    store.notices.add([notice("3", minutes=5, kind=NoticeKind.TEST)], at(5))
    store.notices.mark_sent(claimed(store, 5), at(5))

    assert before == [message, test]
    assert store.notices.undelivered(at(-60), at(-60)) == [message]  # it did not arrive
    assert store.notices.undelivered(at(60), at(-60)) == []
    assert store.notices.counts(at(-60), at(-60)) == {("mail", NoticeState.FAILED): 1}


# --- incidents ---


def test_one_incident_of_a_kind_is_open_for_a_subject(store: Store, open_another: Callable[[], Store]) -> None:
    other = open_another()

    found = run_concurrently([lambda: opened(store), lambda: opened(other)])

    assert sum(incident is not None for incident in found) == 1
    assert len(store.notices.open_incidents("a")) == 1
    assert opened(store, "b") is not None


def test_an_incident_is_closed_once_and_may_open_again(store: Store) -> None:
    first = opened(store)
    assert first is not None

    assert store._database.write(lambda conn: close_incident(conn, first, at(5), 9))
    assert not store._database.write(lambda conn: close_incident(conn, first, at(6)))
    again = opened(store, minutes=10)

    assert again is not None
    assert [(found.closed_at, found.last_run_id) for found in store.notices.incidents()] == [(None, None), (at(5), 9)]


def test_a_reminder_is_due_once_for_all_nodes(store: Store, open_another: Callable[[], Store]) -> None:
    incident = opened(store)
    assert incident is not None
    other = open_another()

    def remind(node: Store) -> bool:
        return node._database.write(lambda conn: set_reminder(conn, incident, at(180), reminded=True))

    assert sorted(run_concurrently([lambda: remind(store), lambda: remind(other)])) == [False, True]
    found = store.notices.open_incidents()[0]
    assert (found.reminders, found.remind_at) == (1, at(180))


def test_the_channels_of_an_incident_are_known(store: Store) -> None:
    incident = opened(store)
    assert incident is not None
    store.notices.add([notice("1", incident_id=incident.id), notice("2", "pager", incident_id=incident.id)], NOON)

    assert store._database.read(lambda conn: channels_notified(conn, [incident.id])) == {incident.id: {"mail", "pager"}}
    assert store._database.read(lambda conn: [found.id for found in open_incidents(conn)]) == [incident.id]


# --- mutes ---


def test_a_mute_is_active_until_its_end_and_audited(store: Store) -> None:
    mute = store.mutes.add("backup-*", why="new disk", by="ada", until=at(60), now=NOON)

    assert store.mutes.active(at(59)) == [mute]
    assert store.mutes.active(at(60)) == []
    event = store.audit.recent()[0]
    assert (event.kind, event.subject, event.by) == ("entry_muted", "backup-*", "ada")
    assert event.why == "new disk"


def test_a_second_mute_replaces_the_first_and_can_be_ended(store: Store) -> None:
    store.mutes.add("a", why="one", by="ada", until=at(60), now=NOON)
    second = store.mutes.add("a", why="two", by="ada", until=at(90), now=at(1))
    assert store.mutes.active(at(2)) == [second]

    assert store.mutes.end("a", by="bob", now=at(3))
    assert not store.mutes.end("a", by="bob", now=at(4))
    assert store.mutes.active(at(5)) == []
    assert [(mute.why, mute.ended_by) for mute in store.mutes.recent()] == [("two", "bob"), ("one", "ada")]


# --- retention ---


def test_old_notices_incidents_and_mutes_are_pruned_but_no_pending_ones(store: Store) -> None:
    from maintd.config.settings import Retention

    incident, other = opened(store), opened(store, "b")
    assert incident is not None and other is not None
    store.notices.add([notice("1", incident_id=incident.id), notice("2", "pager", minutes=999_999_9)], NOON)
    store.notices.mark_sent(claimed(store, 1), at(1))
    store._database.write(lambda conn: close_incident(conn, incident, at(5)))
    store.mutes.add("a", why="one", by="ada", until=at(60), now=NOON)

    later: datetime = NOON + timedelta(days=500)
    result = store.maintenance.prune(Retention(), later)

    assert result.notices == 3
    assert [found.key for found in store.notices.recent()] == ["2"]
    assert [found.id for found in store.notices.incidents()] == [other.id]
    assert store.mutes.recent() == []
