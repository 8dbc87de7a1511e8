"""What is said of each who tells of alerts, and of the alerts altogether."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from maintd.checks.alerts import silences
from maintd.checks.alerts.collect import AlertmanagerFacts, GrafanaFacts, PrometheusFacts
from maintd.checks.alerts.firing import Acknowledgement, AlertLimits, Firing, waiting
from maintd.checks.alerts.silences import SilenceLimits
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.job.criterion import NOT_OBSERVED

# A login page in the place of an answer says nothing of what is behind it.
NOT_OBSERVED_BEHIND = NOT_OBSERVED | {"malformed", "partial"}
_NAMED = 10  # names in a hint


def judge_prometheus(ctx: Context, name: str, facts: PrometheusFacts, limits: AlertLimits) -> None:
    """Its rules, where it sends to, and what flaps."""
    subject = f"prometheus {name}"
    ctx.check(f"{subject}: answers", "alerts", equals="alerts")
    alerting = [rule for rule in facts.rules if rule.alerting]
    if not alerting:
        ctx.unknown(f"{subject}: alerting rules", "empty: no rule can fire", hint="load rules by rule_files")
    broken = [f"{rule.group} {rule.name}: {rule.last_error}" for rule in facts.rules if rule.health == "err"]
    ctx.check(f"{subject}: rules that fail", len(broken), equals=0, hint=named(broken))
    ctx.check(
        f"{subject}: Alertmanagers it sends to",
        len(facts.alertmanagers),
        at_least=1,
        hint="write alerting.alertmanagers in its configuration: its alerts reach nobody",
    )
    if isinstance(facts.dropped, TargetError):
        ctx.report_error(f"{subject}: alerts not sent", facts.dropped, not_observed=NOT_OBSERVED_BEHIND)
    else:
        _judge_dropped(ctx, subject, name, int(facts.dropped))
    if isinstance(facts.day, TargetError):
        if alerting:
            ctx.report_error(f"{subject}: alerts that flap", facts.day, not_observed=NOT_OBSERVED_BEHIND)
        return
    times = Counter(tuple(sorted(episode.labels.items())) for episode in facts.day.episodes)
    flapping = [
        f"{dict(labels).get('alertname', '')} {count} times"
        for labels, count in times.most_common()
        if count >= limits.flaps
    ]
    hint = f"give the rule a `for`, or a better threshold: {named(flapping)}" if flapping else ""
    ctx.check(f"{subject}: alerts that flap", len(flapping), warn_above=0, hint=hint)
    mean = facts.day.mean_time_to_resolution
    if mean is not None:
        ctx.measure("alert_mttr_seconds", mean.total_seconds(), "s", server=name)


def _judge_dropped(ctx: Context, subject: str, server: str, dropped: int) -> None:
    """Since the last run. What it dropped since it began is no finding: it finds its Alertmanagers only after five
    seconds, and drops what it sends before."""
    before = ctx.last("prometheus_notifications_dropped", None, server=server)
    ctx.measure("prometheus_notifications_dropped", dropped, "", server=server)
    if before is None or dropped < before:
        ctx.log(f"{subject}: {dropped} alerts not sent so far; what is new is judged from the next run on")
        return
    hint = "it could not reach Alertmanager in time: look at its log"
    ctx.check(f"{subject}: alerts not sent", dropped - round(before), warn_above=0, hint=hint)


def judge_alertmanager(
    ctx: Context, name: str, facts: AlertmanagerFacts, limits: AlertLimits, of_silences: SilenceLimits, now: datetime
) -> None:
    """Its silences, and whether what it sends arrives."""
    subject = f"alertmanager {name}"
    ctx.check(f"{subject}: answers", "alerts", equals="alerts")
    found = silences.review(facts.silences, facts.alerts, limits.severity_label, of_silences, now)
    ctx.measure("silences_active", len(silences.in_force(facts.silences)), "", server=name)
    for what, bad, advice in (
        ("silences that hide everything", found.hides_too_much, "name what they hide, or expire them"),
        ("silences that end soon", found.ends_soon, "the alerts they hide come back: correct their cause, or prolong"),
        ("silences that are old", found.old, "correct the cause, or the rule"),
        ("silences without an author", found.without_author, "nobody answers for them: expire them"),
    ):
        told = named([silences.wording(silence) for silence in bad])
        ctx.check(f"{subject}: {what}", len(bad), warn_above=0, hint=f"{advice}: {told}" if bad else "")
    if isinstance(facts.failed, TargetError) or isinstance(facts.tried, TargetError):
        error = facts.failed if isinstance(facts.failed, TargetError) else facts.tried
        if isinstance(error, TargetError):
            ctx.report_error(f"{subject}: notifications", error, not_observed=NOT_OBSERVED_BEHIND)
        return
    for integration, failed in sorted(facts.failed.items()):
        _judge_notifications(ctx, subject, name, integration, int(failed), int(facts.tried.get(integration, 0)))


def _judge_notifications(ctx: Context, subject: str, server: str, integration: str, failed: int, tried: int) -> None:
    """Since the last run, or since Alertmanager began at the first."""
    labels = {"server": server, "integration": integration}
    new_failed = ctx.increase("alertmanager_notifications_failed", failed, **labels)
    new_tried = ctx.increase("alertmanager_notifications", tried, **labels)
    lost = failed if new_failed is None else new_failed
    sent = tried if new_tried is None else new_tried
    if not sent and not lost:
        return  # an integration that nobody uses
    hint = f"people are not told: look at Alertmanager's log for {integration}"
    if lost >= sent:
        ctx.fail(
            f"{subject}: notifications by {integration}", f"{lost} of {sent} failed", expected="0 failed", hint=hint
        )
    else:
        ctx.check(f"{subject}: notifications by {integration} that failed", lost, warn_above=0, hint=hint)


def judge_grafana(ctx: Context, name: str, facts: GrafanaFacts) -> None:
    """Its rules."""
    ctx.check(f"grafana {name}: answers", "rules", equals="rules")
    ctx.check(f"grafana {name}: rules that fail", len(facts.broken), equals=0, hint=named(facts.broken))
    if not facts.rules:
        ctx.log(f"grafana {name}: has no alerting rules of its own")


def judge_delivery(ctx: Context, name: str, lost: Sequence[Firing], silent: Sequence[str], now: datetime) -> None:
    """Whether what fires in one Prometheus is known to an Alertmanager. `silent` are those that did not answer."""
    what = f"prometheus {name}: alerts that Alertmanager does not know"
    told = named([alert.wording(now) for alert in lost])
    if lost and silent:
        ctx.unknown(what, f"{', '.join(silent)} did not answer", expected="0", hint=f"missing elsewhere: {told}")
        return
    hint = f"delivery is broken: see {name}'s alerting configuration and its log: {told}" if lost else ""
    ctx.check(what, len(lost), equals=0, hint=hint)


def judge_watchdog(ctx: Context, watchdog: str, alerts: Mapping[str, Sequence[Firing] | None]) -> None:
    """The alert that always fires is known to all who should know it; None: who did not answer."""
    for told_by, firing in alerts.items():
        what = f"{told_by}: {watchdog}"
        if firing is None:
            ctx.unknown(what, "no answer", expected="firing")
            continue
        there = any(alert.name == watchdog for alert in firing)
        hint = "the alert that always fires does not: is its rule loaded, and evaluated?"
        ctx.check(what, "firing" if there else "absent", equals="firing", hint=hint)


def judge_alerts(
    ctx: Context, alerts: Sequence[Firing], unseen: Sequence[str], limits: AlertLimits, now: datetime
) -> None:
    """What waits for somebody to take note. `unseen` are those who should have told and did not."""
    for severity, count in sorted(_by_severity(alerts, limits).items()):
        ctx.measure("alerts_firing", count, "", severity=severity)
    for severity, count in sorted(_by_severity([alert for alert in alerts if alert.open], limits).items()):
        ctx.measure("alerts_unacked", count, "", severity=severity)
    critical, others = waiting(alerts, limits, now)
    for what, found, strict in (
        ("alerts: unacknowledged critical", critical, True),
        ("alerts: unacknowledged others", others, False),
    ):
        told = named([alert.wording(now) for alert in found])
        hint = f"correct it, or silence it with your name, or acknowledge it: {told}" if found else ""
        if unseen and not found:
            ctx.unknown(what, f"{', '.join(unseen)} did not tell", expected="0", hint="no answer is not: no alerts")
        elif strict:
            ctx.check(what, len(found), equals=0, hint=hint)
        else:
            ctx.check(what, len(found), warn_above=0, hint=hint)


def judge_acknowledgements(ctx: Context, given: Sequence[Acknowledgement], limits: AlertLimits, now: datetime) -> None:
    """Those of the params."""
    for one in given:
        if one.until <= now:
            ctx.log(f"the acknowledgement of {one.alert} by {one.by} ended on {one.until:%Y-%m-%d %H:%M} UTC")
    endless = [one.alert for one in given if one.until - now > limits.longest_acknowledgement]
    hint = f"decide anew by then, or correct the rule: {named(endless)}" if endless else ""
    if given:
        ctx.check("alerts: acknowledgements without an end in sight", len(endless), warn_above=0, hint=hint)


def _by_severity(alerts: Sequence[Firing], limits: AlertLimits) -> dict[str, int]:
    counts = Counter({limits.critical[0] if limits.critical else "critical": 0, "warning": 0})
    counts.update(alert.severity for alert in alerts)
    return dict(counts)


def named(items: Sequence[str]) -> str:
    """The first of them for a hint."""
    more = f"; and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return "; ".join(items[:_NAMED]) + more
