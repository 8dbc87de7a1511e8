"""Review what fires: whether it reaches people, who took note of it, and what is hidden.

Rules and alerts of Prometheus are compared with Alertmanager: what fires and is not known there is not delivered, and
an Alertmanager that does not answer is never "no alerts". Acknowledged is an alert that somebody silenced with a name
to it, by a silence that is about something, or that is listed in the param `acknowledged`. Silences that hide
everything, end soon, are old or have no author are named; so are notifications that failed, rules that fail and alerts
that flap. Grafana's own rules are reviewed where it is named. Nothing is changed.

Runbook: Daily Maintenance, Morning Health Check, 5 Alert Review
"""

import json
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from maintd.checks.alerts import evaluate as judging
from maintd.checks.alerts import firing
from maintd.checks.alerts.collect import (
    AlertmanagerFacts,
    GrafanaFacts,
    PrometheusFacts,
    look_at_alertmanager,
    look_at_grafana,
    look_at_prometheus,
)
from maintd.checks.alerts.firing import Acknowledgement, AlertLimits, Firing
from maintd.checks.alerts.silences import SilenceLimits
from maintd.checks.collection import Probe, collect_all
from maintd.clients import prometheus
from maintd.job import Context, JobParams, TargetError, job

MOST_KEPT = 10_000  # alerts in the artifact


class Params(JobParams):
    prometheus: tuple[str, ...] = ()
    """Prometheus targets; none named: all."""
    alertmanager: tuple[str, ...] = ()
    """Alertmanager targets; none named: all."""
    grafana: str | None = None
    """HTTP target of Grafana; none named: its rules are not reviewed."""
    grafana_path: str = "/api/prometheus/grafana/api/v1/rules"
    """Where on it the rules are, in the form of Prometheus."""
    acknowledged: tuple[Acknowledgement, ...] = ()
    """Alerts that somebody took note of: alert, labels, by, why, until."""
    watchdog: str | None = None
    """Name of an alert that always fires; none named: delivery is only known by comparison."""
    alerts: AlertLimits = AlertLimits()
    """When alerts need somebody."""
    silences: SilenceLimits = SilenceLimits()
    """When silences are to be looked at."""


@job(timeout="5m", repeatable=True, needs=("prometheus",))
def run(ctx: Context, params: Params) -> None:
    with ctx.phase("ask all who tell of alerts"):
        seen = list(collect_all(_probes(ctx, params)))
    told: dict[str, list[Firing] | None] = {}
    with ctx.phase("judge each of them"):
        for probe, found in seen:
            told[probe.subject] = _judge(ctx, params, probe, found)
        if not ctx.targets.of("alertmanager"):
            hint = "set targets.alertmanager, or nobody knows whether alerts arrive"
            ctx.unknown("alertmanager: configured", "not_configured: there is no such target", hint=hint)
    with ctx.phase("compare what fires with what arrived"):
        for probe, found in seen:
            if isinstance(found, PrometheusFacts):
                _compare(ctx, params, probe, told)
        if params.watchdog:
            judging.judge_watchdog(ctx, params.watchdog, {k: v for k, v in told.items() if "grafana" not in k})
    with ctx.phase("judge what fires"):
        _review(ctx, params, told)


def _probes(ctx: Context, params: Params) -> list[Probe]:
    now, spare = ctx.now(), timedelta(seconds=2)
    receivers: dict[str, Any] = dict(ctx.chosen("alertmanager", params.alertmanager))
    senders: dict[str, Any] = dict(ctx.chosen("prometheus", params.prometheus))
    probes = [
        Probe("alertmanager", name, partial(look_at_alertmanager, target, name), target.timeout * 3 + spare)
        for name, target in receivers.items()
    ]
    probes += [
        Probe("prometheus", name, partial(look_at_prometheus, target, name, now), target.timeout * 5 + spare)
        for name, target in senders.items()
    ]
    if params.grafana is not None:
        target = ctx.target("http", params.grafana)
        look = partial(look_at_grafana, target, params.grafana, params.grafana_path, params.alerts)
        probes.append(Probe("grafana", params.grafana, look, target.timeout + spare))
    return probes


def _judge(ctx: Context, params: Params, probe: Probe, found: Any) -> list[Firing] | None:
    """Who tells of what; None: no answer."""
    if isinstance(found, PrometheusFacts):
        judging.judge_prometheus(ctx, probe.name, found, params.alerts)
        return firing.known_to_prometheus(found.firing, probe.subject, params.alerts)
    if isinstance(found, AlertmanagerFacts):
        judging.judge_alertmanager(ctx, probe.name, found, params.alerts, params.silences, ctx.now())
        return firing.known_to_alertmanager(found.alerts, found.silences, probe.subject, params.alerts)
    if isinstance(found, GrafanaFacts):
        judging.judge_grafana(ctx, probe.name, found)
        return found.firing
    ctx.report_error(f"{probe.subject}: answers", found, not_observed=judging.NOT_OBSERVED_BEHIND)
    return None


def _compare(ctx: Context, params: Params, probe: Probe, told: dict[str, list[Firing] | None]) -> None:
    """What fires in one Prometheus against all Alertmanagers together, since it may send to any of them."""
    there = {subject: alerts for subject, alerts in told.items() if subject.startswith("alertmanager ")}
    silent = [subject for subject, alerts in there.items() if alerts is None]
    what = f"prometheus {probe.name}: alerts that Alertmanager does not know"
    if len(silent) == len(there):
        ctx.unknown(what, "no Alertmanager answered", expected="0", hint="see its own check")
        return
    arrived = [alert for alerts in there.values() for alert in alerts or ()]
    lost = firing.absent(told[probe.subject] or (), arrived, params.alerts, ctx.now())
    if lost:
        # It may have ended between the two looks: only what still fires was lost.
        server = prometheus.connect(ctx.target("prometheus", probe.name), name=probe.name)
        try:
            again = firing.known_to_prometheus(server.firing(), probe.subject, params.alerts)
        except TargetError as error:
            ctx.report_error(what, error, expected="0", not_observed=judging.NOT_OBSERVED_BEHIND)
            return
        lost = [alert for alert in lost if any(alert.labels == other.labels for other in again)]
    judging.judge_delivery(ctx, probe.name, lost, silent, ctx.now())


def _review(ctx: Context, params: Params, told: dict[str, list[Firing] | None]) -> None:
    """All alerts, each once: as Alertmanager tells them, since it knows who took note; then what else fires."""
    now = ctx.now()
    judging.judge_acknowledgements(ctx, params.acknowledged, params.alerts, now)
    all_alerts = firing.together([alerts or () for alerts in told.values()], params.alerts)
    kept = [alert for alert in all_alerts if alert.name != params.watchdog]
    alerts = firing.acknowledged(kept, params.acknowledged, now)
    judging.judge_alerts(ctx, alerts, _unseen(told), params.alerts, now)
    for alert in alerts[:50]:
        state = f"acknowledged by {alert.taken_by}" if alert.taken_by else "inhibited" if alert.inhibited else "open"
        ctx.log(f"{alert.severity}: {alert.wording(now)}: {state}")
    ctx.save("alerts.json", json.dumps([a.evidence() for a in alerts[:MOST_KEPT]], indent=1), "application/json")


def _unseen(told: dict[str, list[Firing] | None]) -> Sequence[str]:
    return [subject for subject, alerts in told.items() if alerts is None]
