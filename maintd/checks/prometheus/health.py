"""Health of Prometheus, its scrape targets and rules, and of Alertmanager."""

from __future__ import annotations

from dataclasses import dataclass

from maintd.checks.collection import value_or_error
from maintd.checks.hints import name_first
from maintd.clients import alertmanager, prometheus
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.model.target import AlertmanagerTarget, PrometheusTarget


@dataclass(frozen=True)
class PrometheusFacts:
    """Scrape targets and rules, or the error of reading them."""

    targets: list[prometheus.ScrapeTarget] | TargetError
    rules: list[prometheus.Rule] | TargetError


def collect(target: PrometheusTarget, name: str) -> PrometheusFacts:
    """Raises TargetError unless Prometheus is ready."""
    server = prometheus.connect(target, name=name)
    server.ready()
    return PrometheusFacts(value_or_error(server.targets), value_or_error(server.rules))


def collect_alertmanager(target: AlertmanagerTarget, name: str) -> None:
    """Raises TargetError unless Alertmanager is ready."""
    alertmanager.connect(target, name=name).ready()


def report(ctx: Context, name: str, facts: PrometheusFacts) -> None:
    """Check the scrape targets and rules of one Prometheus."""
    subject = f"prometheus {name}"
    ctx.check(f"{subject}: answers", "ready", equals="ready")
    if isinstance(facts.targets, TargetError):
        ctx.report_error(f"{subject}: targets down", facts.targets)
    elif not facts.targets:
        ctx.unknown(f"{subject}: targets down", "empty: it scrapes nothing", hint="add scrape_configs")
    else:
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
        broken = [rule for rule in facts.rules if rule.health == "err"]
        hint = name_first([f"{rule.group} {rule.name}: {rule.last_error}" for rule in broken])
        ctx.check(f"{subject}: rules that fail", len(broken), equals=0, hint=hint)


def report_alertmanager(ctx: Context, name: str) -> None:
    """Record that one Alertmanager is ready."""
    ctx.check(f"alertmanager {name}: answers", "ready", equals="ready")
