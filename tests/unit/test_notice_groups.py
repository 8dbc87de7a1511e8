"""Which notices are sent next, as one message."""

from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from support.stores import NOON

from maintd.model.notice import NoticeKind, NoticeState
from maintd.store.notice_groups import ALONE, GROUP_INTERVAL, MAX_GROUP, PendingNotice, next_attempt, next_group

SENDING, WAITING = NoticeState.SENDING, NoticeState.WAITING


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def pending(number: int, due: float = 0, *, channel: str = "mail", **columns: object) -> PendingNotice:
    base = PendingNotice(number, NoticeKind.FAILED, channel, False, WAITING, after(due), None, None, False)
    return base._replace(**columns)  # type: ignore[arg-type]


def ids(notices: list[PendingNotice], last_sent: float | None = None, now: float = 60) -> tuple[int, ...] | None:
    sent = {} if last_sent is None else {"mail": after(last_sent)}
    found = next_group(notices, sent, after(now))
    return None if found is None else found.ids


def test_all_that_is_due_is_one_message_and_nearly_due_ones_join_it() -> None:
    assert ids([pending(1, 60), pending(2, 62), pending(3, 90)]) == (1, 2)


def test_nothing_is_sent_before_the_first_is_due() -> None:
    assert ids([pending(1, 61), pending(2, 62)]) is None


def test_the_next_message_waits_after_the_last_one() -> None:
    assert ids([pending(1)], last_sent=41) is None
    assert ids([pending(1)], last_sent=40) == (1,)


def test_a_critical_notice_does_not_wait_and_takes_the_others_with_it() -> None:
    assert ids([pending(1), pending(2, critical=True)], last_sent=59) == (1, 2)


def test_a_test_a_digest_and_a_ping_are_messages_by_themselves() -> None:
    for kind in ALONE:
        assert ids([pending(1), pending(2, kind=kind), pending(3, kind=kind)], last_sent=59) == (2,)


def test_a_channel_has_one_message_under_way() -> None:
    live = pending(1, state=SENDING, group_key="a", lease_until=after(61))

    assert ids([live, pending(2)]) is None
    assert ids([live, pending(2, channel="pager")]) == (2,)


def test_what_was_under_way_when_its_sender_died_is_sent_again_as_it_was() -> None:
    dead = [pending(n, state=SENDING, group_key="a", lease_until=after(60)) for n in (1, 3)]

    found = next_group([*dead, pending(2)], {}, after(60))

    assert found is not None
    assert (found.ids, found.key) == ((1, 3), "a")


def test_a_channel_that_is_down_waits_as_a_whole() -> None:
    down = pending(1, 90, channel_down=True, group_key="a")

    assert ids([down, pending(2), pending(3, critical=True)]) is None
    assert ids([down, pending(2)], now=90) == (1,)


def test_a_message_is_bounded() -> None:
    found = ids([pending(n) for n in range(2 * MAX_GROUP)])

    assert found is not None
    assert len(found) == MAX_GROUP


def claimed(notice: PendingNotice) -> PendingNotice:
    """A notice under way has a lease and a group."""
    if notice.state is WAITING:
        return notice._replace(lease_until=None)
    return notice._replace(lease_until=notice.lease_until or after(30), group_key=notice.group_key or "c")


notices = st.lists(
    st.builds(
        pending,
        st.integers(1, 50),
        st.integers(0, 120),
        channel=st.sampled_from(["mail", "pager"]),
        kind=st.sampled_from([NoticeKind.FAILED, NoticeKind.TEST, NoticeKind.DIGEST]),
        critical=st.booleans(),
        state=st.sampled_from([WAITING, SENDING]),
        group_key=st.sampled_from([None, "a", "b"]),
        lease_until=st.sampled_from([None, after(30), after(90)]),
        channel_down=st.booleans(),
    ).map(claimed),
    max_size=12,
    unique_by=lambda notice: notice.id,
)
sent = st.dictionaries(st.sampled_from(["mail", "pager"]), st.integers(-30, 120).map(after), max_size=2)


@given(notices, sent, st.integers(0, 120))
def test_a_group_is_of_one_channel_and_nothing_is_sent_before_its_time(
    found: list[PendingNotice], last: dict[str, datetime], now: int
) -> None:
    group = next_group(found, last, after(now))
    if group is None:
        return

    members = [notice for notice in found if notice.id in group.ids]
    assert len({notice.channel for notice in members}) == 1
    assert len(set(group.ids)) == len(group.ids) == len(members)
    assert any(notice.state is SENDING or notice.not_before <= after(now) for notice in members)
    assert all(notice.group_key == group.key for notice in members)


@given(notices, sent)
def test_nothing_waits_forever(found: list[PendingNotice], last: dict[str, datetime]) -> None:
    left, now = list(found), after(0)
    for _ in range(200):
        group = next_group(left, last, now)
        if group is not None:
            left = [notice for notice in left if notice.id not in group.ids]
            continue
        at = next_attempt(left, last, now)
        if at is None:
            break
        now = max(at, now + timedelta(seconds=1))

    assert left == []


@given(notices, sent, st.integers(0, 120))
def test_the_time_of_the_next_attempt_is_not_too_late(
    found: list[PendingNotice], last: dict[str, datetime], now: int
) -> None:
    at = next_attempt(found, last, after(now))

    assert (at is None) == (not found)
    if at is not None and at > after(now):
        assert next_group(found, last, min(at - timedelta(microseconds=1), after(now))) is None


def test_the_interval_is_shorter_than_a_minute() -> None:
    assert timedelta(minutes=1) > GROUP_INTERVAL  # 1,000 failures in one minute are delivered within the next
