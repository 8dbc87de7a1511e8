"""Review firing alerts: whether they are delivered and acknowledged, and what silences hide.

Compares the alerts of Prometheus with those of Alertmanager: an alert that fires and is not known there is not
delivered. An Alertmanager that does not answer is unknown, never "no alerts". An alert is acknowledged by a silence
that has an author and selects particular alerts, by the param `acknowledged`, or by `maintd ack`; then it
is logged and counted, but does not fail the run. Also checks silences that hide everything, end soon, have no end in
sight, are old, or have no author or comment; failed notifications; failing rules; flapping alerts; and the rules and
silences of Grafana, if it is named. Read-only.

Runbook: Daily Maintenance, Morning Health Check, 5 Alert Review
"""

import json
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from maintd.checks.alerts import evaluate, firing
from maintd.checks.alerts.collect import (
    AlertmanagerFacts,
    PrometheusFacts,
    collect_alertmanager,
    collect_prometheus,
)
from maintd.checks.alerts.firing import Acknowledgement, AlertLimits, Alerts, Firing
from maintd.checks.alerts.grafana import ALERTMANAGER_PATH, RULES_PATH, GrafanaFacts, collect_grafana
from maintd.checks.alerts.silences import SilenceLimits
from maintd.checks.probes import Probe, collect_all, isolate_errors
from maintd.checks.requirements.jobs.health import alert_review as requirements
from maintd.clients import prometheus
from maintd.job import Context, JobParams, job

MAX_SAVED = 10_000  # alerts in the artifact


class Params(JobParams):
    prometheus: tuple[str, ...] = ()
    """Prometheus targets; default: all."""
    alertmanager: tuple[str, ...] = ()
    """Alertmanager targets; default: all."""
    grafana: str | None = None
    """HTTP target of Grafana; default: its rules and silences are not reviewed."""
    grafana_path: str = RULES_PATH
    """Path of Grafana's rules in the format of Prometheus."""
    grafana_alertmanager: str = ALERTMANAGER_PATH
    """Path of the Alertmanager that Grafana contains, which has its silences."""
    acknowledged: tuple[Acknowledgement, ...] = ()
    """Acknowledged alerts: alert, labels, by, why, until."""
    watchdog: str | None = None
    """Name of an alert that always fires, to check delivery; default: delivery is only checked by comparison."""
    alerts: AlertLimits = AlertLimits()
    """When alerts need attention."""
    silences: SilenceLimits = SilenceLimits()
    """When silences need attention."""


@job(
    timeout="5m",
    repeatable=True,
    reads_findings=True,
    needs=("prometheus or alertmanager or http",),
    requires=requirements,
)
def run(ctx: Context, params: Params) -> None:
    with ctx.phase("collect alerts, rules and silences"):
        collected = list(collect_all(_probes(ctx, params)))
    alerts: dict[str, Sequence[Firing] | None] = {}
    with ctx.phase("check each server"):
        for probe, facts in collected:
            alerts[probe.subject] = None
            with isolate_errors(ctx, f"{probe.subject}: evaluated"):
                alerts[probe.subject] = _report(ctx, params, probe, facts)
        _report_not_configured(ctx, collected)
    with ctx.phase("check delivery"):
        for probe, facts in collected:
            if isinstance(facts, PrometheusFacts):
                with isolate_errors(ctx, f"{probe.subject}: delivery"):
                    server = prometheus.connect(ctx.target("prometheus", probe.name), name=probe.name)
                    evaluate.report_undelivered(ctx, server, probe, alerts, params.alerts)
        if params.watchdog:
            senders = {source: found for source, found in alerts.items() if "grafana" not in source}
            evaluate.report_watchdog(ctx, params.watchdog, senders)
    with ctx.phase("check unacknowledged alerts"):
        _review(ctx, params, alerts)


def _report_not_configured(ctx: Context, collected: Sequence[tuple[Probe, Any]]) -> None:
    """Report what cannot be checked on this site; it has no effect on the run, which checks what there is."""
    kinds = {probe.kind for probe, _ in collected}
    for kind, missing in (
        ("alertmanager", "without it delivery and silences cannot be checked"),
        ("prometheus", "without it rules, delivery and flapping cannot be checked"),
    ):
        if kind not in kinds:
            cause, hint = "not_configured: no target", f"set targets.{kind}: {missing}"
            ctx.unknown(f"{kind}: configured", cause, hint=hint, optional=True)
    if "grafana" not in kinds:
        ctx.log("grafana: not configured: its rules and silences are not reviewed; set the param grafana")


def _probes(ctx: Context, params: Params) -> list[Probe]:
    now, spare = ctx.now(), timedelta(seconds=2)
    alertmanagers: dict[str, Any] = dict(ctx.chosen("alertmanager", params.alertmanager))
    servers: dict[str, Any] = dict(ctx.chosen("prometheus", params.prometheus))
    probes = [
        Probe("alertmanager", name, partial(collect_alertmanager, target, name), target.timeout * 4 + spare)
        for name, target in alertmanagers.items()
    ]
    probes += [
        Probe("prometheus", name, partial(collect_prometheus, target, name, now), target.timeout * 7 + spare)
        for name, target in servers.items()
    ]
    if params.grafana is not None:
        target = ctx.target("http", params.grafana)
        paths = params.grafana_path, params.grafana_alertmanager
        collect = partial(collect_grafana, target, params.grafana, *paths)
        probes.append(Probe("grafana", params.grafana, collect, target.timeout * 3 + spare))
    return probes


def _report(ctx: Context, params: Params, probe: Probe, facts: Any) -> list[Firing] | None:
    """Check one server; return its alerts, None when it did not answer."""
    if isinstance(facts, PrometheusFacts):
        evaluate.report_prometheus(ctx, probe.name, facts, params.alerts)
        return firing.from_prometheus(facts.firing, probe.subject, params.alerts)
    if isinstance(facts, AlertmanagerFacts):
        evaluate.report_alertmanager(ctx, probe.name, facts, params.alerts, params.silences, ctx.now())
        return firing.from_alertmanager(facts.alerts, facts.silences, probe.subject, params.alerts)
    if isinstance(facts, GrafanaFacts):
        evaluate.report_grafana(ctx, probe.name, facts, params.alerts, params.silences, ctx.now())
        return facts.firing(probe.subject, params.alerts)
    ctx.report_error(f"{probe.subject}: answers", facts, role=evaluate.role_of(facts))
    return None


def _review(ctx: Context, params: Params, alerts: Alerts) -> None:
    """Check all alerts, each once; Alertmanager comes first, since it knows the silences."""
    now = ctx.now()
    evaluate.report_acknowledgements(ctx, params.acknowledged, params.alerts, now)
    merged = firing.merge([found or () for found in alerts.values()], params.alerts)
    relevant = firing.name_as_known([alert for alert in merged if alert.name != params.watchdog], ctx.findings)
    reviewed = firing.acknowledge(relevant, params.acknowledged, now)
    reviewed = firing.acknowledge_by_findings(reviewed, ctx.findings, now)
    silent = [source for source, found in alerts.items() if found is None]
    reported = evaluate.report_alerts(ctx, reviewed, silent, params.alerts, now)
    evaluate.report_findings(ctx, reviewed, reported, silent, now)
    for alert in reviewed[:50]:
        acknowledged = f"acknowledged by {alert.acknowledged_by}" if alert.acknowledged_by else "unacknowledged"
        ctx.log(f"{alert.severity}: {alert.text(now)}: {'inhibited' if alert.inhibited else acknowledged}")
    evidence = [alert.evidence() for alert in reviewed[:MAX_SAVED]]
    ctx.save("alerts.json", json.dumps(evidence, indent=1), "application/json")
