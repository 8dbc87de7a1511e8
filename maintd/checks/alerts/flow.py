"""Whether notifications flow: an alert that is sent to Alertmanager for that, and seen by a webhook of maintd.

Source of the configuration's format and defaults: Alertmanager's documentation, "Configuration" (0.25): a route has
the `group_wait` of its parent, 30s at the top.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Mapping
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
_DEFAULT_WAIT = timedelta(seconds=30)
_PART = re.compile(r"([0-9]{1,9})(ms|[ywdhms])")
_UNITS = {"y": 365 * 86400, "w": 7 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
_POLL = 0.25  # seconds
_SHARE = 0.8  # of the time that is left; the rest is for the end of the test alert

ROUTE = (
    f"add to Alertmanager's configuration a route with matchers ['{LABEL}=~\".+\"'], group_by [{LABEL}] and "
    "receiver maintd, and a receiver maintd with webhook_configs [{url: http://THIS HOST:PORT/, send_resolved: false}]"
)


def prove(ctx: Context, server: Alertmanager, listen: str | None, margin: timedelta) -> None:
    """Send a test alert, and check that its notification arrives within `group_wait` and the margin.

    Without an address to listen on, or a route to a webhook, it is unknown whether notifications flow.
    """
    name = f"{server.name}: alerts flow"
    if listen is None:
        hint = f"set the param listen, for example 0.0.0.0:9099, and {ROUTE}"
        ctx.unknown(name, "not_configured: no address to listen on", expected="a notification", hint=hint)
        return
    token = f"run-{ctx.run_id}-{secrets.token_hex(8)}"
    labels = {"alertname": "MaintdTest", "severity": "info", LABEL: token}
    annotations = {"summary": f"A test by run {ctx.run_id} of maintd ({ctx.entry}); nothing is wrong"}
    with listening(listen, token) as receiver:
        began, starts_at = time.monotonic(), ctx.now()
        with ctx.change("send test alert", server.name, label=token) as allowed:
            if not allowed:
                return
            server.send_alert(labels, annotations, starts_at, starts_at + _LASTS)
        try:
            ctx.report([_observe(ctx, server, receiver, name, token, began, margin, listen)])
        finally:
            with ctx.change("send test alert", server.name, label=token, ends=True):
                server.send_alert(labels, annotations, starts_at, ctx.now())


def _observe(
    ctx: Context,
    server: Alertmanager,
    receiver: WebhookReceiver,
    name: str,
    token: str,
    began: float,
    margin: timedelta,
    listen: str,
) -> Criterion:
    """Wait for the notification of the test alert; what was seen of it."""
    wanted = "a notification"
    found = _find(server, token)
    if found is None:
        return Criterion(name, "the test alert is not in Alertmanager", equals=wanted, hint="see Alertmanager's log")
    if found.state == "suppressed":
        by = ", ".join((*found.silenced_by, *found.inhibited_by))
        hint = "a silence or an inhibition rule matches too much: amtool silence query"
        return Criterion(name, f"the test alert is suppressed by {by}", equals=wanted, hint=hint)
    webhooks, wait = _routing(server.configuration(), found.receivers)
    if not webhooks:
        to = ", ".join(found.receivers) or "no receiver"
        cause = f"not_configured: the test alert goes to {to}, which has no webhook"
        return Criterion(name, unknown=cause, equals=wanted, hint=ROUTE)
    limit, left = wait + margin, ctx.remaining * _SHARE
    arrived = receiver.received.wait(min(limit, left).total_seconds())
    after = timedelta(seconds=time.monotonic() - began)
    if arrived:
        ctx.measure("alert_delay_seconds", after.total_seconds(), "s", alertmanager=server.name)
        return Criterion(name, wanted, equals=wanted)
    if left < limit:
        cause = (
            f"timed_out: none within {duration_text(after)}, and there was no time to wait for {duration_text(limit)}"
        )
        return Criterion(name, unknown=cause, equals=wanted, hint="raise the timeout of the step, or lower group_wait")
    others = f"; {receiver.others} other notifications arrived" if receiver.others else ""
    hint = f"check that the receiver {', '.join(webhooks)} sends to {listen} of this host, and Alertmanager's log"
    return Criterion(name, f"none within {duration_text(after)}{others}", equals=wanted, hint=hint)


def _find(server: Alertmanager, token: str) -> Alert | None:
    """The test alert; Alertmanager shows one a moment after it has taken it."""
    until = time.monotonic() + 10
    while True:
        found = next((alert for alert in server.alerts() if alert.labels.get(LABEL) == token), None)
        if (found is not None and found.state != "unprocessed") or time.monotonic() >= until:
            return found
        time.sleep(_POLL)


def _routing(config: str, receivers: tuple[str, ...]) -> tuple[list[str], timedelta]:
    """Which of the receivers have a webhook, and the longest time that their routes wait. Raises TargetError."""
    found = parse_yaml(config, "Alertmanager's configuration")
    if not isinstance(found, Mapping):
        raise TargetError("Alertmanager does not show its configuration", cause="unfamiliar")
    known = {str(each.get("name")): each for each in found.get("receivers") or () if isinstance(each, Mapping)}
    webhooks = [name for name in receivers if known.get(name, {}).get("webhook_configs")]
    waits = [wait for name, wait in _waits(found.get("route"), "", _DEFAULT_WAIT, 0) if name in webhooks]
    return webhooks, max(waits, default=_DEFAULT_WAIT)


def _waits(route: Any, receiver: str, wait: timedelta, depth: int) -> Iterator[tuple[str, timedelta]]:
    """The receiver and the wait of a route and of those below it."""
    if not isinstance(route, Mapping) or depth > _MOST_DEPTH:
        return
    receiver = str(route.get("receiver") or receiver)
    wait = _duration(route.get("group_wait"), wait)
    yield receiver, wait
    for below in route.get("routes") or ():
        yield from _waits(below, receiver, wait, depth + 1)


def _duration(value: object, default: timedelta) -> timedelta:
    parts = _PART.findall(str(value)) if value is not None else []
    if not parts:
        return default
    return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))
