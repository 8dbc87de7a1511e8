"""Notices: what they are about, when and where they are sent, and the incidents they belong to."""

from __future__ import annotations

import re
from datetime import timedelta
from enum import StrEnum
from typing import Any

from pydantic import SecretStr

from maintd.model.base import Model
from maintd.model.entry import Rule
from maintd.redaction import secrets_in
from maintd.units import Duration, Instant


class NoticeKind(StrEnum):
    """What a notice is about."""

    FAILED = "failed"  # a run failed, timed out or was lost
    UNKNOWN = "unknown"  # a run ended without having observed what it had to
    RECOVERED = "recovered"  # what an earlier notice was about is over
    STILL_FAILING = "still_failing"  # what an earlier notice was about is not over yet
    LATE = "late"  # a run has not started although it was due
    MISSED = "missed"  # a due time passed and its work was not done
    TOO_LONG = "too_long"  # a run takes much longer than it should
    WAITING = "waiting"  # a run waits at a gate for a person
    CALENDAR_REFUSED = "calendar_refused"  # the calendar on disk has errors, so an earlier one is active
    MAINTD = "maintd"  # maintd's own disk, store or threads
    DIGEST = "digest"  # the summary of a day
    ANNOUNCEMENT = "announcement"  # a run with a window is planned, or is cancelled after that was sent
    PING = "ping"  # a request to a monitor that expects it
    TEST = "test"  # requested by an operator


INCIDENT_KINDS = (
    NoticeKind.FAILED,
    NoticeKind.UNKNOWN,
    NoticeKind.LATE,
    NoticeKind.MISSED,
    NoticeKind.TOO_LONG,
    NoticeKind.WAITING,
    NoticeKind.CALENDAR_REFUSED,
    NoticeKind.MAINTD,
)
"""Kinds that open an incident."""

ROUTED_KINDS = (*INCIDENT_KINDS, NoticeKind.RECOVERED, NoticeKind.STILL_FAILING, NoticeKind.ANNOUNCEMENT)
"""Kinds that a rule sends to its channels, to others, or not at all."""


LATE_AFTER = timedelta(minutes=10)
"""The grace of an entry whose rules have none: a run that starts so long after it was due is late."""

OWN_PING = "maintd:ping"
"""The name of the channel for pings of maintd itself; no other channel can have it."""


def ping_name(entry: str) -> str:
    """The name of the channel for the pings of an entry; no other channel can have it."""
    return f"ping:{entry}"


class NoticeState(StrEnum):
    """The state of a notice."""

    WAITING = "waiting"  # to be sent once `not_before` has passed
    SENDING = "sending"  # claimed by a node whose lease has not expired
    SENT = "sent"  # the channel accepted it
    FAILED = "failed"  # given up; `error` has the reason


class Channel(Model):
    """Where notices are sent: a URL of apprise, a webhook with the secret that signs its body, or the URL of a monitor
    that expects pings.

    All can contain references `${NAME}` and `${file:/run/secrets/x}`, which are resolved when a notice is sent.
    """

    name: str
    url: SecretStr | None = None
    webhook: SecretStr | None = None
    secret: SecretStr | None = None
    ping: SecretStr | None = None


class OwnPing(Model):
    """The monitor that expects pings of maintd itself, and how often it gets them."""

    channel: Channel
    every: Duration = timedelta(minutes=1)


class NoticeRules(Model):
    """Which notices of an entry are sent, and to which channels."""

    to: tuple[str, ...] = ()
    kinds: dict[NoticeKind, tuple[str, ...]] = {}  # channels of single kinds instead of `to`; empty: not sent
    critical: bool = False  # sent in quiet hours, too
    late: Duration | None = LATE_AFTER  # after the due time; None: not sent
    too_long: Duration | None = None  # None: by `too_long_factor`
    too_long_factor: float | None = 3.0  # of the typical duration; None with `too_long` None: not sent
    remind_first: Duration = timedelta(hours=1)  # after the first notice; doubled for each further one
    remind_at_most: Duration = timedelta(hours=24)

    def channels_of(self, kind: NoticeKind) -> tuple[str, ...]:
        """The names of the channels that get notices of this kind."""
        return self.kinds.get(kind, self.to)


class QuietHours(Model):
    """The hours in which only critical notices are sent, as rules of their daily start and end."""

    start: Rule
    end: Rule


class Digest(Model):
    """When the summary of the last day is sent, and to which channels."""

    rule: Rule
    to: tuple[str, ...]


class NotifyConfig(Model):
    """The section `notify` of the calendar, and the pings of its entries. Without both nothing is sent."""

    channels: dict[str, Channel] = {}
    rules: NoticeRules = NoticeRules()
    entries: dict[str, NoticeRules] = {}  # of entries with rules of their own
    quiet: QuietHours | None = None
    digest: Digest | None = None
    page: str = ""  # URL under which people reach maintd's page
    pings: dict[str, Channel] = {}  # by entry: the monitors that expect its runs
    own_ping: OwnPing | None = None

    @property
    def destinations(self) -> dict[str, Channel]:
        """All that notices can be sent to, by the name in their rows: channels, and monitors that expect pings."""
        pings = [*self.pings.values(), *([] if self.own_ping is None else [self.own_ping.channel])]
        return {**self.channels, **{channel.name: channel for channel in pings}}

    def grace_of(self, entry: str) -> timedelta:
        """How much later than due the run of an entry may start; also where nothing is sent about it."""
        return self.rules_of(entry).late or LATE_AFTER

    @property
    def least_grace(self) -> timedelta:
        """The shortest grace of all entries."""
        return min(rules.late or LATE_AFTER for rules in (self.rules, *self.entries.values()))

    def rules_of(self, entry: str) -> NoticeRules:
        """The rules of an entry; of maintd itself for any other name."""
        return self.entries.get(entry, self.rules)


class Notice(Model):
    """A message to one channel. `key` states what it is about and its channel: no notice exists twice."""

    id: int
    key: str
    incident_id: int | None = None
    kind: NoticeKind
    channel: str
    critical: bool = False
    title: str
    body: str
    details: dict[str, Any] = {}
    created_at: Instant
    state: NoticeState
    not_before: Instant  # when it is sent, or tried again
    attempts: int = 0
    error: str = ""  # of the last attempt
    group_key: str | None = None  # notices with the same one are one message
    node: str | None = None
    fence: int = 0
    lease_until: Instant | None = None
    sent_at: Instant | None = None


class NewNotice(Model):
    """A notice to insert."""

    key: str
    incident_id: int | None = None
    kind: NoticeKind
    channel: str
    critical: bool = False
    title: str
    body: str
    details: dict[str, Any] = {}
    not_before: Instant


class Incident(Model):
    """Something that needs attention, from its start to its end. At most one of a kind is open for a subject."""

    id: int
    subject: str  # an entry, or maintd@NODE
    kind: NoticeKind
    critical: bool = False
    opened_at: Instant
    closed_at: Instant | None = None
    run_id: int | None = None  # the run that opened it
    last_run_id: int | None = None
    why: str
    details: dict[str, Any] = {}
    reminders: int = 0
    remind_at: Instant | None = None


class Mute(Model):
    """An operator silenced the notices of entries; their runs are recorded as always."""

    id: int
    entries: str  # a name or a pattern such as backup-*
    why: str
    by: str
    since: Instant
    until: Instant
    ended_at: Instant | None = None
    ended_by: str = ""


def channel_secrets(config: NotifyConfig) -> set[str]:
    """Every text of the channels that is secret, or may be: signing secrets, and the parts of URLs."""
    return {text for channel in config.destinations.values() for text in secrets_of_channel(channel)}


_NO_SECRETS = ("mailto", "mailtos", "json", "jsons", "xml", "xmls", "form", "forms", "http", "https", "syslog")
"""Schemes of URLs whose host and short path segments are no secrets; other services have their tokens there."""

_LONG_SEGMENT = 16


def secrets_of_channel(channel: Channel) -> set[str]:
    """As `channel_secrets`, of one channel."""
    found = {channel.secret.get_secret_value()} if channel.secret is not None else set()
    for url in filter(None, (channel.url, channel.webhook, channel.ping)):
        text = url.get_secret_value()
        found |= secrets_in(text)
        scheme, _, rest = text.partition("://")
        parts = re.split(r"[/:@?&=#,]", re.sub(r"\$\{[^}]*\}", "/", rest))
        shortest = _LONG_SEGMENT if scheme.lower() in _NO_SECRETS else 8
        found |= {part for part in parts if len(part) >= shortest and not part.replace(".", "").isdecimal()}
        if scheme.lower() in _NO_SECRETS:
            host = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2].partition(":")[0]
            found.discard(host)
    return {text for text in found if text and not text.startswith("${")}
