"""Whether notifications flow: an alert that is sent to Alertmanager for that, and seen by a webhook of maintd.

Source of the configuration's format and defaults: Alertmanager's documentation, "Configuration" (0.25): a route has
the `group_wait` and `group_interval` of its parent, 30s and 5m at the top. The end of an alert is sent at the next
`group_interval` of its group, unless the receiver has `send_resolved: false`.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from maintd.clients.alertmanager import Alert, Alertmanager
from maintd.clients.bounded import parse_yaml
from maintd.clients.webhook_receiver import WebhookReceiver, listening
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.units import duration_text

LABEL = "maintd_test"
"""The label of a test alert; its value is new each time, so that the alert is in a group of its own."""

_LASTS = timedelta(minutes=15)  # of a test alert that is not ended; longer than any sensible group_wait
_MOST_DEPTH = 50  # of routes
_DEFAULT_WAIT, _DEFAULT_INTERVAL = timedelta(seconds=30), timedelta(minutes=5)
_PART = re.compile(r"([0-9]{1,9})(ms|[ywdhms])")
_UNITS = {"y": 365 * 86400, "w": 7 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
_POLL = 0.25  # seconds
_SHARE = 0.8  # of the time that is left; the rest is for the end of the test alert

_END = "end-"  # how the value begins for a test alert whose end is waited for

ROUTE = (
    f"add to Alertmanager's configuration a route with matchers ['{LABEL}=~\".+\"'], group_by [{LABEL}] and "
    "receiver maintd, and a receiver maintd with webhook_configs [{url: http://THIS HOST:PORT/, send_resolved: false}]"
)


ROUTE_WITH_END = (
    f"add to Alertmanager's configuration, before others, a route with matchers ['{LABEL}=~\"{_END}.+\"'], group_by "
    f"[{LABEL}], group_interval: 30s and receiver maintd-end, and a receiver maintd-end with webhook_configs "
    "[{url: http://THIS HOST:PORT/, send_resolved: true}]"
)
"""For a test alert whose end is to be notified, too. Those without wait for no end, whose notification would fail."""


RULE = "Alertmanager's documentation, route and webhook_config"


@dataclass(frozen=True)
class _Routing:
    """What is configured for the receivers of an alert."""

    webhooks: list[str]
    wait: timedelta
    interval: timedelta
    sends_end: bool


def prove(ctx: Context, server: Alertmanager, listen: str | None, margin: timedelta, *, end: bool = False) -> None:
    """Send a test alert, and check that its notification arrives within `group_wait` and the margin; with `end`, also
    that it is gone afterwards, and that the notification of its end arrives within `group_interval` and the margin.

    Without an address to listen on, or a route to a webhook, it is unknown whether notifications flow.
    """
    name, route = f"{server.name}: alerts flow", ROUTE_WITH_END if end else ROUTE
    if listen is None:
        hint = f"set the param listen, for example 0.0.0.0:9099, and {route}"
        ctx.unknown(name, "not_configured: no address to listen on", expected="a notification", hint=hint, rule=RULE)
        return
    token = f"{_END if end else ''}run-{ctx.run_id}-{secrets.token_hex(8)}"
    labels = {"alertname": "MaintdTest", "severity": "info", LABEL: token}
    annotations = {"summary": f"A test by run {ctx.run_id} of maintd ({ctx.entry}); nothing is wrong"}
    with listening(listen, token) as receiver:
        began, starts_at = time.monotonic(), ctx.now()
        with ctx.change("send test alert", server.name, label=token) as allowed:
            if not allowed:
                return
            server.send_alert(labels, annotations, starts_at, starts_at + _LASTS)
        try:
            routing = _routing_of(server, token)
            ctx.report([_observe(ctx, server, receiver, name, routing, began, margin, listen, route)])
        finally:
            with ctx.change("send test alert", server.name, label=token, ends=True):
                server.send_alert(labels, annotations, starts_at, ctx.now())
        if end:
            _report_end(ctx, server, receiver, token, routing, margin)


def _observe(
    ctx: Context,
    server: Alertmanager,
    receiver: WebhookReceiver,
    name: str,
    found: tuple[Alert, _Routing] | None,
    began: float,
    margin: timedelta,
    listen: str,
    route: str,
) -> Criterion:
    """Wait for the notification of the test alert; what was seen of it."""
    wanted = "a notification"
    if found is None:
        return Criterion(
            name, "the test alert is not in Alertmanager", equals=wanted, hint="see Alertmanager's log", rule=RULE
        )
    alert, routing = found
    if alert.state == "suppressed":
        by = ", ".join((*alert.silenced_by, *alert.inhibited_by))
        hint = "a silence or an inhibition rule matches too much: amtool silence query"
        return Criterion(name, f"the test alert is suppressed by {by}", equals=wanted, hint=hint, rule=RULE)
    if not routing.webhooks:
        to = ", ".join(alert.receivers) or "no receiver"
        cause = f"not_configured: the test alert goes to {to}, which has no webhook"
        return Criterion(name, unknown=cause, equals=wanted, hint=route, rule=RULE)
    limit, left = routing.wait + margin, ctx.remaining * _SHARE
    arrived = receiver.received.wait(min(limit, left).total_seconds())
    after = timedelta(seconds=time.monotonic() - began)
    if arrived:
        ctx.measure("alert_delay_seconds", after.total_seconds(), "s", alertmanager=server.name)
        return Criterion(name, wanted, equals=wanted)
    if left < limit:
        cause = (
            f"timed_out: none within {duration_text(after)}, and there was no time to wait for {duration_text(limit)}"
        )
        return Criterion(
            name, unknown=cause, equals=wanted, hint="raise the timeout of the step, or lower group_wait", rule=RULE
        )
    others = f"; {receiver.others} other notifications arrived" if receiver.others else ""
    hint = (
        f"check that the receiver {', '.join(routing.webhooks)} sends to {listen} of this host, and Alertmanager's log"
    )
    return Criterion(name, f"none within {duration_text(after)}{others}", equals=wanted, hint=hint, rule=RULE)


def _report_end(
    ctx: Context,
    server: Alertmanager,
    receiver: WebhookReceiver,
    token: str,
    found: tuple[Alert, _Routing] | None,
    margin: timedelta,
) -> None:
    """Report whether the test alert, which was ended, is gone, and whether the notification of its end arrives."""
    began, name, wanted = time.monotonic(), f"{server.name}: the test alert is gone", "yes"
    gone = _is_gone(server, token, min(margin, ctx.remaining * _SHARE))
    hint = "it ends by itself within 15 minutes; check the clocks of both machines, and Alertmanager's log"
    ctx.check(name, "yes" if gone else "it is still active", equals=wanted, hint=hint, rule=RULE)

    name, wanted = f"{server.name}: the end of an alert is notified", "a notification"
    if found is None or not found[1].webhooks or not receiver.received.is_set():
        cause = "partial: no notification of the alert itself arrived"
        ctx.unknown(name, cause, expected=wanted, hint="see the check before this one", optional=False)
        return
    routing = found[1]
    if not routing.sends_end:
        cause = f"not_configured: the webhook of {', '.join(routing.webhooks)} does not send the end of alerts"
        ctx.unknown(name, cause, expected=wanted, hint=ROUTE_WITH_END, rule=RULE)
        return
    limit, left = routing.interval + margin, ctx.remaining * _SHARE
    arrived = receiver.resolved.wait(min(limit, left).total_seconds())
    after = timedelta(seconds=time.monotonic() - began)
    if arrived:
        ctx.measure("alert_end_delay_seconds", after.total_seconds(), "s", alertmanager=server.name)
        ctx.passed(name, wanted, expected=wanted)
    elif left < limit:
        cause = f"timed_out: none within {duration_text(after)}, and there was no time for {duration_text(limit)}"
        ctx.unknown(name, cause, expected=wanted, hint=f"raise the timeout of the step, or {ROUTE_WITH_END}", rule=RULE)
    else:
        hint = f"check Alertmanager's log for notifications that failed, and its route: {ROUTE_WITH_END}"
        ctx.fail(name, f"none within {duration_text(after)}", expected=wanted, hint=hint, rule=RULE)


def _is_gone(server: Alertmanager, token: str, within: timedelta) -> bool:
    """Whether Alertmanager has the test alert no more. Raises TargetError."""
    until = time.monotonic() + within.total_seconds()
    while True:
        if all(alert.labels.get(LABEL) != token for alert in server.alerts()):
            return True
        if time.monotonic() >= until:
            return False
        time.sleep(_POLL)


def _routing_of(server: Alertmanager, token: str) -> tuple[Alert, _Routing] | None:
    """The test alert, and what is configured for its receivers; None: it is not there. Raises TargetError."""
    found = _find(server, token)
    return None if found is None else (found, _routing(server.configuration(), found.receivers))


def _find(server: Alertmanager, token: str) -> Alert | None:
    """The test alert; Alertmanager shows one a moment after it has taken it."""
    until = time.monotonic() + 10
    while True:
        found = next((alert for alert in server.alerts() if alert.labels.get(LABEL) == token), None)
        if (found is not None and found.state != "unprocessed") or time.monotonic() >= until:
            return found
        time.sleep(_POLL)


def _routing(config: str, receivers: tuple[str, ...]) -> _Routing:
    """Which of the receivers have a webhook, and the longest times that their routes wait. Raises TargetError."""
    found = parse_yaml(config, "Alertmanager's configuration")
    if not isinstance(found, Mapping):
        raise TargetError("Alertmanager does not show its configuration", cause="unfamiliar")
    known = {str(each.get("name")): each for each in found.get("receivers") or () if isinstance(each, Mapping)}
    webhooks = [name for name in receivers if known.get(name, {}).get("webhook_configs")]
    times = _times(found.get("route"), "", _DEFAULT_WAIT, _DEFAULT_INTERVAL, 0)
    own = [(wait, interval) for name, wait, interval in times if name in webhooks]
    return _Routing(
        webhooks,
        max((wait for wait, _ in own), default=_DEFAULT_WAIT),
        max((interval for _, interval in own), default=_DEFAULT_INTERVAL),
        any(_sends_end(each) for name in webhooks for each in known[name]["webhook_configs"]),
    )


def _sends_end(webhook: Any) -> bool:
    return isinstance(webhook, Mapping) and webhook.get("send_resolved", True) is not False


def _times(
    route: Any, receiver: str, wait: timedelta, interval: timedelta, depth: int
) -> Iterator[tuple[str, timedelta, timedelta]]:
    """The receiver, `group_wait` and `group_interval` of a route and of those below it."""
    if not isinstance(route, Mapping) or depth > _MOST_DEPTH:
        return
    receiver = str(route.get("receiver") or receiver)
    wait = _duration(route.get("group_wait"), wait)
    interval = _duration(route.get("group_interval"), interval)
    yield receiver, wait, interval
    for below in route.get("routes") or ():
        yield from _times(below, receiver, wait, interval, depth + 1)


def _duration(value: object, default: timedelta) -> timedelta:
    parts = _PART.findall(str(value)) if value is not None else []
    if not parts:
        return default
    return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))
