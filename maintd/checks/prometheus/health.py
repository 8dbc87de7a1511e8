"""Those who watch the others: Prometheus with its targets and rules, and Alertmanager."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from maintd.clients import alertmanager, prometheus
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.model.target import AlertmanagerTarget, PrometheusTarget

_NAMED = 10  # names in a hint


@dataclass(frozen=True)
class PrometheusFacts:
    """What it scrapes and evaluates, or why that is not known."""

    targets: list[prometheus.ScrapeTarget] | TargetError
    rules: list[prometheus.Rule] | TargetError


def look(target: PrometheusTarget, name: str) -> PrometheusFacts:
    """Raises TargetError unless it is ready."""
    server = prometheus.connect(target, name=name)
    server.ready()
    try:
        targets: list[prometheus.ScrapeTarget] | TargetError = server.targets()
    except TargetError as error:
        targets = error
    try:
        return PrometheusFacts(targets, server.rules())
    except TargetError as error:
        return PrometheusFacts(targets, error)


def look_at_alertmanager(target: AlertmanagerTarget, name: str) -> None:
    """Raises TargetError unless it is ready."""
    alertmanager.connect(target, name=name).ready()


def judge(ctx: Context, name: str, facts: PrometheusFacts) -> None:
    """Checks and measures of one Prometheus."""
    subject = f"prometheus {name}"
    ctx.check(f"{subject}: answers", "ready", equals="ready")
    if isinstance(facts.targets, TargetError):
        ctx.report_error(f"{subject}: targets down", facts.targets)
    elif not facts.targets:
        ctx.unknown(f"{subject}: targets down", "empty: it scrapes nothing", hint="write scrape_configs")
    else:
        down = [target for target in facts.targets if target.health == "down"]
        named = _named([f"{target.job} {target.instance}: {target.last_error}" for target in down])
        ctx.check(f"{subject}: targets down", len(down), equals=0, hint=named)
        ctx.measure("prometheus_targets_down", len(down), "", server=name)
        new = sum(1 for target in facts.targets if target.health == "unknown")
        if new:
            ctx.log(f"{subject}: {new} of {len(facts.targets)} targets were not scraped yet")
    if isinstance(facts.rules, TargetError):
        ctx.report_error(f"{subject}: rules that fail", facts.rules)
    else:
        broken = [rule for rule in facts.rules if rule.health == "err"]
        named = _named([f"{rule.group} {rule.name}: {rule.last_error}" for rule in broken])
        ctx.check(f"{subject}: rules that fail", len(broken), equals=0, hint=named)


def judge_alertmanager(ctx: Context, name: str) -> None:
    """The check of one Alertmanager that is ready."""
    ctx.check(f"alertmanager {name}: answers", "ready", equals="ready")


def _named(items: Sequence[str]) -> str:
    more = f"; and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return "; ".join(items[:_NAMED]) + more
