"""Silences of a run: narrow, short, renewed while the run lasts, found again by the run's number in their comment.

What a run silenced is a value that it hands over, `silences`: a record by the name of the Alertmanager. It is handed
over before the silence is created. The silence itself is found by author and comment, never by its id: a renewal
changes the id, and so does creating it again after a restart of an Alertmanager without a disk.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from maintd.checks.alerts.silences import active, matchers_text
from maintd.clients.alertmanager import Alertmanager, Silence
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.units import parse_duration

HANDED = "silences"
"""The name of the value that is handed over."""

SILENCED, ENDED = "silenced", "ended"  # the states of a record

LONGEST = timedelta(hours=2)
"""A silence that is not renewed must end by itself."""

_ROUNDED = timedelta(seconds=1)  # Alertmanager shows times in milliseconds

_MATCHER = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*(?:"([^"]*)"|([^"]*?))\s*')
_TAG = re.compile(r"maintd, run (\S+):")
_ANY = ("", "7", "zqmaintd", "Zqmaintd", "zq-maintd_7", "Zq8 ~ 0x/3f")
"""Values that no narrow regular expression matches."""


def parse_matcher(text: str) -> dict[str, Any]:
    """A matcher as Alertmanager writes it, `service=~"orders|quotes"`, as its API takes it. Raises ValueError."""
    found = _MATCHER.fullmatch(text)
    if found is None:
        raise ValueError(f'not a matcher: {text!r}; write for example service="orders" or service=~"orders|quotes"')
    name, operator, quoted, bare = found.groups()
    value = quoted if quoted is not None else bare
    if operator in ("=~", "!~"):
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{text!r}: not a regular expression that can be checked: {error}") from None
    return {"name": name, "value": value, "isRegex": operator in ("=~", "!~"), "isEqual": operator in ("=", "=~")}


def matches(matchers: Iterable[Mapping[str, Any]], labels: Mapping[str, str]) -> bool:
    """Whether a silence with these matchers hides an alert with these labels."""
    return all(_matches(matcher, labels.get(str(matcher["name"]), "")) for matcher in matchers)


def _matches(matcher: Mapping[str, Any], value: str) -> bool:
    expected = str(matcher["value"])
    equal = re.fullmatch(expected, value) is not None if matcher["isRegex"] else value == expected
    return equal is bool(matcher["isEqual"])


def require_narrow(matchers: Sequence[Mapping[str, Any]], canary: Mapping[str, str]) -> None:
    """Raise ValueError unless a matcher selects particular alerts, and none of them is the canary."""
    if not any(_is_narrow(matcher) for matcher in matchers):
        raise ValueError(
            f"{matchers_text(matchers) or 'no matcher'} would hide nearly everything: name alerts or services, "
            'for example service=~"orders|quotes"'
        )
    if matches(matchers, canary):
        raise ValueError(f"{matchers_text(matchers)} would hide the canary {dict(canary)}")


def _is_narrow(matcher: Mapping[str, Any]) -> bool:
    """Whether it selects some values of a label; one of the severity alone selects none in particular."""
    if matcher["name"] == "severity" or not matcher["isEqual"] or not matcher["value"]:
        return False
    return not any(_matches(matcher, value) for value in _ANY)


def new_record(ctx: Context, matchers: Sequence[Mapping[str, Any]], lasts: timedelta, author: str) -> dict[str, Any]:
    """The record of a silence that this run is about to create."""
    # A run in the foreground without a store has no number of its own.
    tag = str(ctx.run_id) if ctx.run_id else f"here-{secrets.token_hex(6)}"
    lasts_text = f"{lasts.total_seconds():.0f}s"
    return {"tag": tag, "matchers": list(matchers), "lasts": lasts_text, "by": author, "state": SILENCED}


def records_in(value: Any) -> dict[str, dict[str, Any]]:
    """The records among the values that a run has handed over. What is not one is left out."""
    if not isinstance(value, Mapping):
        return {}
    known = {"tag", "matchers", "lasts", "by", "state"}
    return {
        str(name): dict(record)
        for name, record in value.items()
        if isinstance(record, Mapping) and known <= record.keys()
    }


def keep(ctx: Context, server: Alertmanager, record: Mapping[str, Any], comment: str) -> Silence | None:
    """Create the silence of a record, or renew it; the one that is active afterwards, None in a dry run.

    Raises TargetError unless it is seen to be active. It is read back, whatever the answer.
    """
    lasts, now = parse_duration(record["lasts"]), ctx.now()
    before = of_record(server, record)
    text = matchers_text(record["matchers"])
    with ctx.change("silence", f"{server.name}: {text}", until=f"{now + lasts:%Y-%m-%d %H:%M:%S} UTC") as allowed:
        if not allowed:
            return None
        error: TargetError | None = None
        try:
            server.silence(
                record["matchers"],
                now,
                now + lasts,
                record["by"],
                f"maintd, run {record['tag']}: {comment}",
                replaces=before.id if before is not None else "",
            )
        except TargetError as found:
            error = found
        silence = of_record(server, record)
        if silence is None or silence.ends_at < now + lasts - _ROUNDED:
            raise error or TargetError(f"{server.name}: took the silence of {text}, and it is not active")
        allowed.observed(id=silence.id, renews=before is not None)
        if error is not None:
            allowed.observed(answer=error.message)
        return silence


def is_due(silence: Silence | None, record: Mapping[str, Any], now: datetime) -> bool:
    """Whether a silence is to be created or renewed: it has less than two thirds of its time left."""
    return silence is None or silence.ends_at - now < parse_duration(record["lasts"]) * 2 / 3


def of_record(server: Alertmanager, record: Mapping[str, Any]) -> Silence | None:
    """The active silence of a record. Raises TargetError."""
    wanted = _comparable(record["matchers"])
    found = [
        silence
        for silence in of_tags(server.silences(), {record["tag"]}, record["by"])
        if silence.state == "active" and _comparable(silence.matchers) == wanted
    ]
    return max(found, key=lambda silence: silence.ends_at, default=None)


def _comparable(matchers: Iterable[Mapping[str, Any]]) -> set[tuple[str, str, bool, bool]]:
    return {
        (str(each.get("name")), str(each.get("value")), bool(each.get("isRegex")), bool(each.get("isEqual", True)))
        for each in matchers
    }


def tag_of(silence: Silence, author: str) -> str | None:
    """The run that created a silence; None: it is not maintd's."""
    found = _TAG.match(silence.comment) if silence.created_by == author else None
    return None if found is None else found[1]


def of_tags(silences: Iterable[Silence], tags: Collection[str], author: str) -> list[Silence]:
    """The silences of these runs that hide alerts now, or will."""
    return [silence for silence in active(silences) if tag_of(silence, author) in tags]


def live_tags(ctx: Context) -> set[str] | None:
    """The tags of silences that are still needed: those of this run, and of runs that have not ended. None: unknown.

    A run that is held needs none: no work is done, so alerts are wanted.
    """
    if ctx.unfinished is None:
        return None
    values = [run.handed.get(HANDED) for run in ctx.unfinished if not run.held]
    of_runs = [record for value in values for record in records_in(value).values()]
    return {str(ctx.run_id)} | {record["tag"] for record in of_runs if record["state"] == SILENCED}


def end_left_behind(ctx: Context, server: Alertmanager, author: str, grace: timedelta) -> None:
    """End the silences of runs that are over. Those without a number end by themselves.

    One that is younger than `grace` can be of a run that began after the list of runs was read.
    """
    young = ctx.now() - grace - ctx.unfinished_age
    live = live_tags(ctx)
    if live is None:
        ctx.log(
            f"{server.name}: silences of earlier runs are not looked for: without a store it is not known what runs"
        )
        return
    for silence in active(server.silences()):
        tag = tag_of(silence, author)
        if tag is not None and tag.isdecimal() and tag not in live and silence.starts_at <= young:
            end(ctx, server, silence, why=f"run {tag} is over")


def end(ctx: Context, server: Alertmanager, silence: Silence, why: str) -> bool:
    """End a silence; False in a dry run. It is read back, whatever the answer.

    Raises TargetError if it is still active.
    """
    target = f"{server.name}: {matchers_text(silence.matchers)}"
    with ctx.change("end silence", target, id=silence.id, why=why) as allowed:
        if not allowed:
            return False
        error: TargetError | None = None
        try:
            server.expire(silence.id)
        except TargetError as found:
            error = found
        if any(other.id == silence.id for other in active(server.silences())):
            raise error or TargetError(f"{server.name}: the silence {silence.id} is still active")
        if error is not None:
            allowed.observed(answer=error.message)
        return True


def hidden_by(silence: Silence, server: Alertmanager) -> list[Mapping[str, str]]:
    """The labels of the alerts that a silence hides now. Raises TargetError."""
    return [alert.labels for alert in server.alerts() if silence.id in alert.silenced_by]
