"""Which notices are sent next, as one message. Pure.

A channel gets one message at a time. A message waits a moment for others of the same incident, such as a failed
server's, and is followed by the next one only after a while, which then has all that came in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from maintd.model.notice import NoticeKind, NoticeState

GROUP_WAIT = timedelta(seconds=3)
"""How long a notice waits for others."""

GROUP_INTERVAL = timedelta(seconds=20)
"""The shortest time between two messages to a channel, unless one of the notices is critical."""

MAX_GROUP = 1000
"""Most notices of one message."""

ALONE = (NoticeKind.DIGEST, NoticeKind.ANNOUNCEMENT, NoticeKind.PING, NoticeKind.TEST)
"""Kinds that are messages by themselves, and wait for nothing."""


class PendingNotice(NamedTuple):
    """A notice that is not sent yet."""

    id: int
    kind: NoticeKind
    channel: str
    critical: bool
    state: NoticeState
    not_before: datetime
    group_key: str | None
    lease_until: datetime | None
    channel_down: bool


class NextGroup(NamedTuple):
    """Notices to send as one message. `key` is None for a new one."""

    ids: tuple[int, ...]
    key: str | None


def next_group(pending: Sequence[PendingNotice], last_sent: Mapping[str, datetime], now: datetime) -> NextGroup | None:
    """The notices to send next; None if all wait. `last_sent` has the time of the last message by channel.

    1. A channel with a message under way, and one that was down at the last attempt, until its next, has none.
    2. A message that may have been delivered is sent again as it was, before anything else.
    3. Notices of ALONE are messages by themselves.
    4. All others of a channel that are due, or nearly, are one message, once GROUP_INTERVAL has passed.
    """
    by_channel: dict[str, list[PendingNotice]] = {}
    for notice in sorted(pending):
        by_channel.setdefault(notice.channel, []).append(notice)
    for channel, notices in by_channel.items():
        if not any(_blocks(notice, now) for notice in notices):
            found = _of_channel(notices, last_sent.get(channel), now)
            if found is not None:
                return found
    return None


def next_attempt(pending: Iterable[PendingNotice], last_sent: Mapping[str, datetime], now: datetime) -> datetime | None:
    """When `next_group` may have a result, if no further notice comes; None without pending notices."""
    by_channel: dict[str, list[PendingNotice]] = {}
    for notice in pending:
        by_channel.setdefault(notice.channel, []).append(notice)
    return min(
        (_ready_at(notices, last_sent.get(channel), now) for channel, notices in by_channel.items()), default=None
    )


def _ready_at(notices: Sequence[PendingNotice], last_sent: datetime | None, now: datetime) -> datetime:
    """When a channel may have a message to send."""
    blocked = [_blocked_until(notice) for notice in notices if _blocks(notice, now)]
    if blocked:
        return max(blocked)
    return min(_due_at(notice, last_sent) for notice in notices)


def _due_at(notice: PendingNotice, last_sent: datetime | None) -> datetime:
    if notice.state is NoticeState.SENDING:
        return notice.lease_until or notice.not_before
    if last_sent is None or notice.critical or notice.group_key is not None or notice.kind in ALONE:
        return notice.not_before
    return max(notice.not_before, last_sent + GROUP_INTERVAL)


def _blocked_until(notice: PendingNotice) -> datetime:
    leased = notice.state is NoticeState.SENDING and notice.lease_until is not None
    return notice.lease_until if leased and notice.lease_until is not None else notice.not_before


def _blocks(notice: PendingNotice, now: datetime) -> bool:
    if notice.state is NoticeState.SENDING:
        return notice.lease_until is not None and notice.lease_until > now
    return notice.channel_down and notice.not_before > now


def _is_due(notice: PendingNotice, now: datetime) -> bool:
    return notice.state is NoticeState.SENDING or notice.not_before <= now


def _of_channel(notices: Sequence[PendingNotice], last_sent: datetime | None, now: datetime) -> NextGroup | None:
    again = next((notice.group_key for notice in notices if notice.group_key and _is_due(notice, now)), None)
    if again is not None:
        return NextGroup(tuple(notice.id for notice in notices if notice.group_key == again), again)
    new = [notice for notice in notices if notice.group_key is None]
    alone = next((notice for notice in new if notice.kind in ALONE and _is_due(notice, now)), None)
    if alone is not None:
        return NextGroup((alone.id,), None)
    due = [notice for notice in new if notice.kind not in ALONE and _is_due(notice, now)]
    if not due:
        return None
    held = last_sent is not None and now - last_sent < GROUP_INTERVAL
    if held and not any(notice.critical for notice in due):
        return None
    soon = [notice for notice in new if notice.kind not in ALONE and _is_due(notice, now + GROUP_WAIT)]
    return NextGroup(tuple(notice.id for notice in soon[:MAX_GROUP]), None)
