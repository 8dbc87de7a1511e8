"""Checks of alerts: rules, delivery, silences, notifications, and alerts that need attention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from maintd.checks.alerts import firing, silences
from maintd.checks.alerts.collect import AlertmanagerFacts, PrometheusFacts
from maintd.checks.alerts.firing import PREFIX, Acknowledgement, AlertLimits, Alerts, Firing, overdue
from maintd.checks.alerts.grafana import GrafanaFacts
from maintd.checks.alerts.silences import SilenceLimits, silence_text
from maintd.checks.hints import name_first, printable
from maintd.checks.probes import Probe, report_not_understood
from maintd.checks.prometheus.health import report_reload
from maintd.clients.alertmanager import Alert, Silence, Status
from maintd.clients.prometheus import Prometheus
from maintd.clients.shapes import Listing
from maintd.errors import MaintdError, TargetError
from maintd.job.causes import Role
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.units import format_duration, plural

MOST_CHECKED = 50
"""Unacknowledged alerts of one severity that have a check of their own."""

ACKNOWLEDGE = "fix the cause, silence it with your name, or acknowledge this finding: maintd findings"

# A login page instead of an answer does not show whether the server behind it is healthy.


def role_of(error: MaintdError) -> Role:
    """A login page or a proxy in front of a monitoring server answers in a foreign form: no evidence of its health."""
    foreign = isinstance(error, TargetError) and error.cause in ("malformed", "partial")
    return Role.SOURCE if foreign else Role.SUBJECT


def report_prometheus(ctx: Context, name: str, facts: PrometheusFacts, limits: AlertLimits) -> None:
    """Check the rules of one Prometheus, its Alertmanagers, dropped alerts, and flapping alerts."""
    subject = f"prometheus {name}"
    ctx.check(f"{subject}: answers", "alerts", equals="alerts")
    report_reload(ctx, subject, facts.reload)
    report_not_understood(ctx, f"{subject}: rules and alerts understood", "items", facts.rules, facts.firing)
    alerting = [rule for rule in facts.rules if rule.alerting]
    if not alerting:
        ctx.unknown(f"{subject}: alerting rules", "empty: no rule can fire", hint="load rules by rule_files")
    broken = [f"{rule.group} {rule.name}: {rule.last_error}" for rule in facts.rules if rule.health == "err"]
    ctx.check(f"{subject}: rules that fail", len(broken), equals=0, hint=name_first(broken))
    what = f"{subject}: Alertmanagers it sends to"
    if isinstance(facts.alertmanagers, TargetError):
        ctx.report_error(what, facts.alertmanagers, expected="at least 1", role=role_of(facts.alertmanagers))
    else:
        hint = "add alerting.alertmanagers to its configuration: no notifications are sent"
        ctx.check(what, len(facts.alertmanagers), at_least=1, hint=hint)
    _report_dropped(ctx, subject, name, facts.dropped)
    if isinstance(facts.day, TargetError):
        if alerting:
            ctx.report_error(f"{subject}: alerts that flap", facts.day, role=role_of(facts.day))
        return
    times = Counter(tuple(sorted(episode.labels.items())) for episode in facts.day.episodes)
    flapping = [
        f"{dict(labels).get('alertname', '')} {count} times"
        for labels, count in times.most_common()
        if count >= limits.flaps
    ]
    hint = f"give the rule a `for`, or a better threshold: {name_first(flapping)}" if flapping else ""
    ctx.check(f"{subject}: alerts that flap", len(flapping), warn_above=0, hint=hint)
    mean = facts.day.mean_time_to_resolution
    if mean is not None:
        ctx.measure("alert_mttr_seconds", mean.total_seconds(), "s", server=name)


def _report_dropped(ctx: Context, subject: str, server: str, dropped: float | TargetError) -> None:
    """Check alerts dropped since the last run.

    Alerts dropped at Prometheus' start are not counted: it discovers its Alertmanagers only after five seconds.
    """
    if isinstance(dropped, TargetError):
        ctx.report_error(f"{subject}: alerts not sent", dropped, role=role_of(dropped))
        return
    before = ctx.last("prometheus_notifications_dropped", None, server=server)
    ctx.measure("prometheus_notifications_dropped", dropped, "", server=server)
    if before is None or dropped < before:
        ctx.log(f"{subject}: {dropped:.0f} alerts not sent so far; new ones are checked from the next run on")
        return
    hint = "it could not reach Alertmanager in time: look for notifier errors in the log of Prometheus"
    ctx.check(f"{subject}: alerts not sent", round(dropped) - round(before), warn_above=0, hint=hint)


def report_alertmanager(
    ctx: Context,
    name: str,
    facts: AlertmanagerFacts,
    limits: AlertLimits,
    silence_limits: SilenceLimits,
    now: datetime,
) -> None:
    """Check the silences of one Alertmanager and its notifications."""
    subject = f"alertmanager {name}"
    ctx.check(f"{subject}: answers", "alerts", equals="alerts")
    _report_status(ctx, subject, name, facts.status, now)
    report_reload(ctx, subject, facts.reload)
    report_silences(ctx, subject, facts.alerts, facts.silences, limits, silence_limits, now)
    for counts in (facts.failed, facts.tried):
        if isinstance(counts, TargetError):
            ctx.report_error(f"{subject}: notifications", counts, role=role_of(counts))
            return
    if not isinstance(facts.failed, TargetError) and not isinstance(facts.tried, TargetError):
        for integration, failed in sorted(facts.failed.items()):
            _report_notifications(ctx, name, integration, int(failed), int(facts.tried.get(integration, 0)))


def report_silences(
    ctx: Context,
    subject: str,
    alerts: Listing[Alert],
    found: Listing[Silence],
    limits: AlertLimits,
    silence_limits: SilenceLimits,
    now: datetime,
) -> None:
    """Check the silences of one Alertmanager, or of the one in Grafana."""
    report_not_understood(ctx, f"{subject}: alerts and silences understood", "items", alerts, found)
    review = silences.review(found, alerts, limits.severity_label, silence_limits, now)
    ctx.measure("silences_active", len(silences.active(found)), "", server=subject.removeprefix("alertmanager "))
    for what, matching, advice in (
        ("silences that hide everything", review.hides_too_much, "add matchers that select alerts, or expire them"),
        ("silences that end soon", review.ends_soon, "fix the cause, or extend them: the alerts come back"),
        ("silences without an end in sight", review.endless, "set an earlier end, or correct the rule"),
        ("silences that are old", review.old, "fix the cause, or correct the rule"),
        ("silences without an author", review.without_author, "expire them, or create them again with an author"),
        ("silences without a comment", review.without_comment, "add the reason, or expire them"),
    ):
        hint = f"{advice}: {name_first([silence_text(silence) for silence in matching])}" if matching else ""
        ctx.check(f"{subject}: {what}", len(matching), warn_above=0, hint=hint)


def _report_status(ctx: Context, subject: str, name: str, status: Status | TargetError, now: datetime) -> None:
    """Check the cluster of an Alertmanager: one that is still settling may notify late or twice.

    Log a restart and another configuration since the last run.
    """
    what = f"{subject}: cluster"
    if isinstance(status, TargetError):
        ctx.report_error(what, status, expected="ready", role=role_of(status))
        return
    ctx.log(f"{subject}: version {printable(status.version) or 'unknown'}, {plural(status.peers, 'peer')}")
    if status.cluster in ("ready", "disabled", "settling"):
        hint = "it waits for its peers: compare cluster.peer with what runs"
        ctx.check(what, status.cluster, one_of=("ready", "disabled"), severity=CheckStatus.WARN, hint=hint)
    else:
        cause = f"unfamiliar: {printable(status.cluster[:40])!r}"
        ctx.unknown(what, cause, expected="ready", hint="this version of Alertmanager may be unsupported")
    if status.started_at is not None:
        before = ctx.last("alertmanager_started", None, server=name)
        ctx.measure("alertmanager_started", status.started_at.timestamp(), "s", server=name)
        if before is not None and status.started_at.timestamp() > before:
            up = format_duration(timedelta(seconds=max(0, round((now - status.started_at).total_seconds()))))
            ctx.log(f"{subject}: restarted since the last run, {up} ago")
    if status.config_hash:
        number = float(int(status.config_hash[:12], 16))  # 48 bits: exact as a float
        before = ctx.last("alertmanager_config", None, server=name)
        ctx.measure("alertmanager_config", number, "", server=name)
        if before is not None and before != number:
            ctx.log(f"{subject}: its configuration is another than in the last run")


def _report_notifications(ctx: Context, server: str, integration: str, failed: int, tried: int) -> None:
    """Check the notifications since the last run; at the first run, those since Alertmanager's start."""
    labels = {"server": server, "integration": integration}
    new_failed = ctx.increase("alertmanager_notifications_failed", failed, **labels)
    new_tried = ctx.increase("alertmanager_notifications", tried, **labels)
    lost = failed if new_failed is None else new_failed
    sent = tried if new_tried is None else new_tried
    if not sent and not lost:
        return  # an integration that is not used
    what = f"alertmanager {server}: notifications by {integration}"
    hint = f"alerts do not reach anyone: see Alertmanager's log for {integration}"
    if lost >= sent:
        ctx.fail(what, f"{lost} of {sent} failed", expected="0 failed", hint=hint)
    else:
        ctx.check(f"{what} that failed", lost, warn_above=0, hint=hint)


def report_grafana(
    ctx: Context, name: str, facts: GrafanaFacts, limits: AlertLimits, silence_limits: SilenceLimits, now: datetime
) -> None:
    """Check Grafana's own rules, and the silences of its Alertmanager."""
    subject = f"grafana {name}"
    ctx.check(f"{subject}: answers", "rules", equals="rules")
    report_not_understood(ctx, f"{subject}: rules understood", "rules", facts.rules)
    ctx.check(f"{subject}: rules that fail", len(facts.broken), equals=0, hint=name_first(facts.broken))
    if not facts.rules and not facts.rules.not_understood:
        ctx.log(f"{subject}: has no alerting rules of its own")
    for found in (facts.silences, facts.alerts):
        if isinstance(found, TargetError):
            ctx.report_error(f"{subject}: silences", found, role=Role.SOURCE)
            return
    if not isinstance(facts.silences, TargetError) and not isinstance(facts.alerts, TargetError):
        report_silences(ctx, subject, facts.alerts, facts.silences, limits, silence_limits, now)


def report_delivery(ctx: Context, name: str, lost: Sequence[Firing], silent: Sequence[str], now: datetime) -> None:
    """Check that Alertmanager knows what fires in one Prometheus. silent: Alertmanagers that did not answer."""
    what = f"prometheus {name}: alerts that Alertmanager does not know"
    alerts = name_first([alert.text(now) for alert in lost])
    if lost and silent:
        ctx.unknown(
            what, f"{', '.join(silent)} did not answer", expected="0", hint=f"not known to the others: {alerts}"
        )
        return
    hint = f"delivery is broken: see the alerting configuration and the log of {name}: {alerts}" if lost else ""
    ctx.check(what, len(lost), equals=0, hint=hint)


def report_watchdog(ctx: Context, watchdog: str, alerts: Mapping[str, Sequence[Firing] | None]) -> None:
    """Check that every source reports the alert that always fires; None: the source did not answer."""
    for source, found in alerts.items():
        what = f"{source}: {watchdog}"
        if found is None:
            ctx.unknown(what, "no answer", expected="firing")
            continue
        present = any(alert.name == watchdog for alert in found)
        hint = "the alert that always fires does not: check that its rule is loaded and evaluated"
        ctx.check(what, "firing" if present else "absent", equals="firing", hint=hint)


def report_alerts(
    ctx: Context, alerts: Sequence[Firing], silent: Sequence[str], limits: AlertLimits, now: datetime
) -> set[str]:
    """Check for alerts that stay unacknowledged for too long. silent: sources that did not answer.

    Returns the names of the alerts' own checks.
    """
    reported: set[str] = set()
    for severity, count in sorted(_by_severity(alerts, limits).items()):
        ctx.measure("alerts_firing", count, "", severity=severity)
    unacknowledged = [alert for alert in alerts if alert.unacknowledged]
    for severity, count in sorted(_by_severity(unacknowledged, limits).items()):
        ctx.measure("alerts_unacked", count, "", severity=severity)
    critical, others = overdue(alerts, limits, now)
    for what, found, strict in (
        ("alerts: unacknowledged critical", critical, True),
        ("alerts: unacknowledged others", others, False),
    ):
        texts = name_first([alert.text(now) for alert in found])
        hint = f"fix the cause, silence it with your name, or acknowledge it: {texts}" if found else ""
        # One that is a finding already is checked in any case: it would be gone otherwise.
        checked = found[:MOST_CHECKED] + [alert for alert in found[MOST_CHECKED:] if alert.check in ctx.findings]
        for alert in checked:
            status = CheckStatus.FAIL if strict else CheckStatus.WARN
            lasted = f"unacknowledged for {alert.lasted(now)}"
            ctx.check(alert.check, lasted, equals="acknowledged", severity=status, hint=ACKNOWLEDGE)
            reported.add(alert.check)
        # The number follows from the alerts, unless some have no check of their own.
        cause = found[0].check if 0 < len(found) <= MOST_CHECKED else ""
        if silent and not found:
            hint = "without an answer it is not known whether alerts fire"
            ctx.unknown(what, f"{', '.join(silent)} did not answer", expected="0", hint=hint)
        else:
            with ctx.symptoms(lambda check, cause=cause: cause):  # type: ignore[misc]
                if strict:
                    ctx.check(what, len(found), equals=0, hint=hint)
                else:
                    ctx.check(what, len(found), warn_above=0, hint=hint)
    return reported


def report_findings(
    ctx: Context, alerts: Sequence[Firing], reported: set[str], silent: Sequence[str], now: datetime
) -> None:
    """Report what became of open findings of alerts that have no check in this run.

    One is over when its alert no longer fires, or is acknowledged elsewhere; without an answer of every source it is
    not known. One whose alert still fires stays as it is: acknowledged as a finding, or fires again since a short time.
    """
    firing = {alert.check: alert for alert in alerts}
    for name in ctx.findings:
        if not name.startswith(PREFIX) or name in reported:
            continue
        alert = firing.get(name)
        if alert is not None and (alert.by_finding or alert.unacknowledged):
            text = f"acknowledged by {alert.acknowledged_by}" if alert.by_finding else f"fires for {alert.lasted(now)}"
            ctx.unknown(name, text, expected="not firing", optional=True)
        elif silent:
            ctx.unknown(name, f"{', '.join(silent)} did not answer", expected="not firing", optional=True)
        elif alert is None:
            ctx.passed(name, "not firing", expected="not firing")
        else:
            ctx.passed(name, "acknowledged", expected="acknowledged")


def report_acknowledgements(
    ctx: Context, acknowledgements: Sequence[Acknowledgement], limits: AlertLimits, now: datetime
) -> None:
    """Log the acknowledgements of the params that have ended, and check for those that end too late."""
    for one in acknowledgements:
        if one.until <= now:
            ctx.log(f"the acknowledgement of {one.alert} by {one.by} ended on {one.until:%Y-%m-%d %H:%M} UTC")
    endless = [one.alert for one in acknowledgements if one.until - now > limits.longest_acknowledgement]
    hint = f"set an earlier end, or correct the rule: {name_first(endless)}" if endless else ""
    if acknowledgements:
        ctx.check("alerts: acknowledgements without an end in sight", len(endless), warn_above=0, hint=hint)


def _by_severity(alerts: Sequence[Firing], limits: AlertLimits) -> dict[str, int]:
    counts = Counter({limits.critical[0] if limits.critical else "critical": 0, "warning": 0})
    counts.update(alert.severity for alert in alerts)
    return dict(counts)


def report_undelivered(ctx: Context, server: Prometheus, probe: Probe, alerts: Alerts, limits: AlertLimits) -> None:
    """Compare the alerts of one Prometheus with those of all Alertmanagers, since it may send to any of them."""
    receivers = {source: found for source, found in alerts.items() if source.startswith("alertmanager ")}
    silent = [source for source, found in receivers.items() if found is None]
    what = f"prometheus {probe.name}: alerts that Alertmanager does not know"
    if not receivers:
        ctx.unknown(what, "no Alertmanager is configured", expected="0", optional=True)
        return
    if len(silent) == len(receivers):
        ctx.unknown(
            what, "no Alertmanager answered", expected="0", hint=f"first make one of them answer: {name_first(silent)}"
        )
        return
    arrived = [alert for found in receivers.values() for alert in found or ()]
    lost = firing.undelivered(alerts[probe.subject] or (), arrived, limits, ctx.now())
    if lost:
        # An alert may have ended between the two queries: only what still fires is lost.
        try:
            again = firing.from_prometheus(server.firing(), probe.subject, limits)
        except TargetError as error:
            ctx.report_error(what, error, expected="0", role=role_of(error))
            return
        lost = [alert for alert in lost if any(alert.labels == other.labels for other in again)]
    report_delivery(ctx, probe.name, lost, silent, ctx.now())
