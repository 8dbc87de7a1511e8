"""Health of Prometheus, its scrape targets and rules, and of Alertmanager."""

from __future__ import annotations

import re
from dataclasses import dataclass

from maintd.checks.hints import name_first
from maintd.checks.probes import answered, report_not_understood, value_or_error
from maintd.clients import alertmanager, prometheus
from maintd.clients.prometheus import Prometheus
from maintd.clients.shapes import Listing
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.model.target import AlertmanagerTarget, PrometheusTarget

_RELOADED = "config_last_reload_successful"


@dataclass(frozen=True)
class Reload:
    """The last reload of a configuration. After one that was refused, the earlier configuration is still used."""

    succeeded: bool


@dataclass(frozen=True)
class AlertmanagerFacts:
    """The last reload of the configuration, or the error of reading it."""

    reload: Reload | TargetError


@dataclass(frozen=True)
class PrometheusFacts:
    """Scrape targets, rules and the last reload of the configuration, or the error of reading them."""

    targets: Listing[prometheus.ScrapeTarget] | TargetError
    rules: Listing[prometheus.Rule] | TargetError
    reload: Reload | TargetError


def collect(target: PrometheusTarget, name: str) -> PrometheusFacts:
    """Raises TargetError unless Prometheus is ready."""
    server = prometheus.connect(target, name=name)
    server.ready()
    answered()
    return PrometheusFacts(
        value_or_error(server.targets), value_or_error(server.rules), value_or_error(lambda: reload_of(server))
    )


def collect_alertmanager(target: AlertmanagerTarget, name: str) -> AlertmanagerFacts:
    """Raises TargetError unless Alertmanager is ready."""
    server = alertmanager.connect(target, name=name)
    server.ready()
    answered()
    return AlertmanagerFacts(value_or_error(lambda: reload_in(server.own_metrics())))


def report(ctx: Context, name: str, facts: PrometheusFacts) -> None:
    """Check the scrape targets and rules of one Prometheus."""
    subject = f"prometheus {name}"
    ctx.check(f"{subject}: answers", "ready", equals="ready")
    report_reload(ctx, subject, facts.reload)
    if isinstance(facts.targets, TargetError):
        ctx.report_error(f"{subject}: targets down", facts.targets)
    elif not facts.targets and not facts.targets.not_understood:
        ctx.unknown(f"{subject}: targets down", "empty: it scrapes nothing", hint="add scrape_configs")
    else:
        report_not_understood(ctx, f"{subject}: targets understood", "targets", facts.targets)
        down = [target for target in facts.targets if target.health == "down"]
        hint = name_first([f"{target.job} {target.instance}: {target.last_error}" for target in down])
        ctx.check(f"{subject}: targets down", len(down), equals=0, hint=hint)
        ctx.measure("prometheus_targets_down", len(down), "", server=name)
        new = sum(1 for target in facts.targets if target.health == "unknown")
        if new:
            ctx.log(f"{subject}: {new} of {len(facts.targets)} targets have not been scraped yet")
    if isinstance(facts.rules, TargetError):
        ctx.report_error(f"{subject}: rules that fail", facts.rules)
    else:
        report_not_understood(ctx, f"{subject}: rules understood", "rules", facts.rules)
        broken = [rule for rule in facts.rules if rule.health == "err"]
        hint = name_first([f"{rule.group} {rule.name}: {rule.last_error}" for rule in broken])
        ctx.check(f"{subject}: rules that fail", len(broken), equals=0, hint=hint)


def report_alertmanager(ctx: Context, name: str, facts: AlertmanagerFacts) -> None:
    """Record that one Alertmanager is ready, and check its last reload."""
    subject = f"alertmanager {name}"
    ctx.check(f"{subject}: answers", "ready", equals="ready")
    report_reload(ctx, subject, facts.reload)


def reload_of(server: Prometheus) -> Reload:
    """The last reload of a Prometheus: from its runtime information, else from its metrics. Raises TargetError."""
    try:
        succeeded = server.runtime_info().reload_succeeded
    except TargetError as error:
        if error.cause not in ("not_found", "failed", "malformed"):
            raise
        succeeded = None  # VictoriaMetrics and Thanos have no such path
    return reload_in(server.own_metrics()) if succeeded is None else Reload(succeeded)


def reload_in(metrics: str) -> Reload:
    """The last reload by a server's own metrics, such as `alertmanager_config_last_reload_successful`.

    Raises TargetError: `not_found` when it has no such metric.
    """
    values = re.findall(rf"^\w*{_RELOADED}(?:{{[^}}]*}})?[ \t]+(\S+)", metrics, re.MULTILINE)
    if not values:
        raise TargetError(f"it has no metric …{_RELOADED}", cause="not_found")
    return Reload(all(value in ("1", "1.0", "1e+00", "1e+0") for value in values))


def report_reload(ctx: Context, subject: str, reload: Reload | TargetError) -> None:
    """Check that the last reload succeeded: after one that was refused, new rules and receivers are not used.

    A server without this information, as some with the same API, is unknown without an effect on the run.
    """
    name = f"{subject}: last reload of its configuration"
    if not isinstance(reload, TargetError):
        hint = "see its log, correct the file and reload; the earlier one is still used: promtool check config"
        if subject.startswith("alertmanager"):
            hint = hint.replace("promtool check config", "amtool check-config")
        ctx.check(name, "accepted" if reload.succeeded else "refused", equals="accepted", hint=hint)
    elif reload.cause == "not_found":
        ctx.unknown(name, "this server does not report it", expected="accepted", optional=True)
    else:
        ctx.report_error(name, reload, expected="accepted")
