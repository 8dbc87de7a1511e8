"""Notices and mutes as an operator sees and changes them."""

from __future__ import annotations

import contextlib
import re
import uuid
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from shlex import quote

from sqlalchemy.engine import Connection

from maintd.errors import DaemonUnavailableError, StoreError, UnknownNameError, UsageError
from maintd.model.notice import Mute, NewNotice, Notice, NoticeKind
from maintd.operations.service import OperatorService
from maintd.present import utc_minute
from maintd.store.audit import add_event
from maintd.store.notices import Undelivered, add_notices
from maintd.units import plural

LONGEST_MUTE = timedelta(days=90)
"""A mute that lasts longer would be forgotten; it can be renewed."""

UNDELIVERED_FOR = timedelta(days=6)
"""How old a notice is that was given up and is a problem no longer; most are given up when they are three days old."""

TESTED_WITHIN = timedelta(days=30)
"""A channel whose last message was a test that failed is a problem for so long, or until something is delivered."""


def require_channel(service: OperatorService, channel: str) -> None:
    """Raise UnknownNameError for a channel that the calendar does not have."""
    known = service.calendar().notify.destinations
    if channel not in known:
        raise UnknownNameError("channel", channel, known)


def request_test(service: OperatorService, channel: str, by: str, *, origin: str = "") -> Notice:
    """Send a test to a channel; the notifier delivers it at once, and it is not tried again.

    Raises UnknownNameError for a channel that the calendar does not have.
    """
    require_channel(service, channel)
    now = service.store.now()
    key = f"test:{uuid.uuid4().hex}:{channel}"
    who = by or "an operator"
    notice = NewNotice(
        key=key,
        kind=NoticeKind.TEST,
        channel=channel,
        title=f"maintd: test of the channel {channel}",
        body=f"{who} requested this test at {utc_minute(now)} on node {service.settings.node}. Nothing is wrong.",
        details={"entry": None, "why": "test", "requested_by": by},
        not_before=now,
    )

    def transaction(conn: Connection) -> None:
        add_notices(conn, [notice], now)
        add_event(conn, "channel_tested", subject=channel, by=by, origin=origin, at=now)

    service.store.write(transaction)
    _wake(service)
    found = service.store.notices.notice(key)
    assert found is not None
    return found


def mute(service: OperatorService, entries: str, why: str, by: str, until: datetime, *, origin: str = "") -> Mute:
    """Silence the notices of the entries that match a name or a pattern; their runs are recorded as always.

    Raises UnknownNameError if none matches, UsageError for a missing reason or a bad end.
    """
    names = [entry.name for entry in service.calendar().entries]
    if not any(fnmatchcase(name, entries) for name in names):
        what = "entry that matches the pattern" if re.search(r"[*?\[]", entries) else "entry"
        raise UnknownNameError(what, entries, names)
    if not why.strip():
        raise UsageError(f"no reason given for muting {entries}", 'add for example --why "disk is being replaced"')
    now = service.store.now()
    if until <= now:
        raise UsageError(f"the end of the mute, {utc_minute(until)}, is in the past", "give an end in the future")
    if until > now + LONGEST_MUTE + timedelta(minutes=1):
        raise UsageError(f"a mute lasts at most {LONGEST_MUTE.days}d", "mute again before it ends")
    muted = service.store.mutes.add(entries, why=why, by=by, origin=origin, until=until, now=now)
    _wake(service)
    return muted


def unmute(service: OperatorService, entries: str, by: str, *, origin: str = "", why: str = "") -> bool:
    """End a mute, by the name or the pattern that it was written with. False: there is none.

    Raises UnknownNameError for what is neither muted nor an entry.
    """
    active = [found.entries for found in service.store.mutes.active(service.store.now())]
    names = [entry.name for entry in service.calendar().entries]
    if entries not in active and entries not in names:
        raise UnknownNameError("muted entry", entries, active or names)
    done = service.store.mutes.end(entries, by=by, origin=origin, why=why, now=service.store.now())
    _wake(service)
    return done


def undelivered(service: OperatorService) -> list[str]:
    """What could not be delivered, as problems; empty if all was, or if the store does not answer."""
    now = service.store.now()
    try:
        found = service.store.notices.undelivered(now - UNDELIVERED_FOR, now - TESTED_WITHIN)
    except StoreError:
        return []
    known = service.calendar().notify.destinations
    # A test of a channel that was removed since is no test of those that there are.
    return [_text(each) for each in found if each.fate != "test" or each.channel in known]


def _text(found: Undelivered) -> str:
    """What happened, when, what to type, and what ends it."""
    see = f"maintd notices --channel {quote(found.channel)}"
    count, since = plural(found.number, "notice"), utc_minute(found.since)
    if found.fate == "waiting":
        retry = "" if found.retry_at is None else f"; tried again {utc_minute(found.retry_at)}"
        return f'channel "{found.channel}": {count} not delivered since {since}: {found.error}{retry}; see: {see}'
    if found.fate == "given_up":
        end = utc_minute(found.until + UNDELIVERED_FOR)
        return (
            f'channel "{found.channel}": {count} given up, the first of {since}: {found.error}; '
            f"read what did not arrive: {see} --state failed; this is shown until {end}"
        )
    return (
        f'channel "{found.channel}" does not work: a test at {utc_minute(found.until)} was not delivered: '
        f"{found.error}; correct it, then type: maintd notify test {quote(found.channel)}; "
        "a message that arrives ends this"
    )


def _wake(service: OperatorService) -> None:
    # Without a daemon here, the next one or another node finds the rows.
    with contextlib.suppress(DaemonUnavailableError):
        service.wake()
