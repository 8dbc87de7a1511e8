"""Limits of containers compared with what their services used, by quantiles over a window of Prometheus."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from maintd.clients.docker import Container
from maintd.clients.prometheus import Prometheus
from maintd.errors import TargetError
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.units import format_size

TOO_SMALL, TOO_LARGE, ADVISED = 1.3, 2.0, 1.5
"""A limit should be 1.3 to 2 times the 99th percentile; 1.5 times is advised."""
FLOOR = {"memory": 64 * 1024 * 1024, "CPU": 0.1}
"""A limit up to this is never too large."""
RULE = f"{TOO_SMALL:g} to {TOO_LARGE:g} × the 99th percentile; Docker documentation, Resource constraints"
_STEP = timedelta(minutes=5)


@dataclass(frozen=True)
class Used:
    """Quantiles of what one service used, in bytes or CPUs. `coverage`: the share of hours with data, 0 to 1."""

    p95: float
    p99: float
    coverage: float
    source: str


def memory(server: Prometheus, selectors: Sequence[str], window: timedelta) -> dict[str, Used]:
    """Memory by service or container, from the first selector with data. Raises TargetError."""
    return _first(server, selectors, "max by ({by}) ({selector})", window)


def cpu(server: Prometheus, selectors: Sequence[str], window: timedelta) -> dict[str, Used]:
    """Busy CPUs by service or container, from the first counter with data. Raises TargetError."""
    return _first(server, selectors, "sum by ({by}) (rate({selector}[5m]))", window)


def _first(server: Prometheus, selectors: Sequence[str], form: str, window: timedelta) -> dict[str, Used]:
    """The later selectors add services that the earlier ones do not have. Raises TargetError, `empty` without any."""
    found: dict[str, Used] = {}
    for selector in selectors:
        by = "name" if selector.startswith("container_") else "instance"
        expression = form.format(by=by, selector=selector)
        inner, hours = (
            f"({expression})[{window.total_seconds():.0f}s:{_STEP.total_seconds():.0f}s]",
            window.total_seconds() / 3600,
        )
        try:
            p95, p99 = (_by(server, f"quantile_over_time({q}, {inner})", by) for q in (0.95, 0.99))
            count = _by(server, f"count_over_time(({expression})[{window.total_seconds():.0f}s:1h])", by)
        except TargetError as error:
            if error.cause != "empty":
                raise
            continue
        for name in p99.keys() & p95.keys() & count.keys():
            used = Used(p95[name], p99[name], min(1.0, count[name] / hours), f"{selector} in {server.name}")
            found.setdefault(_host(name) if by == "instance" else name, used)
    if not found:
        raise TargetError(
            f"{server.name}: no data for {' or '.join(selectors)}",
            "scrape cAdvisor, or the services themselves, and correct the params memory and cpu",
            cause="empty",
        )
    return found


def _by(server: Prometheus, promql: str, label: str) -> dict[str, float]:
    """By the value of a label; what can be no use of memory or CPU, such as +Inf or -1, counts as not measured."""
    return {
        sample.labels[label]: sample.value
        for sample in server.query(promql)
        if sample.labels.get(label) and math.isfinite(sample.value) and sample.value >= 0
    }


def _host(instance: str) -> str:
    """`risk-manager` of `risk-manager:7004`."""
    return instance.rpartition(":")[0] or instance


def of_container(found: Mapping[str, Used], container: Container) -> Used | None:
    """What a container used, by its name, else by its service's name."""
    return found.get(container.name) or found.get(container.service)


def criterion(kind: str, limit: float, used: Used | None, least_coverage: float, no_data: str) -> Criterion:
    """The limit over the 99th percentile. kind: `memory` or `CPU`; limit 0: none; no_data: why `used` is None."""
    name = f"{kind} limit of what it used"
    if limit <= 0:
        return Criterion(
            name,
            "no limit",
            equals="a limit",
            severity=CheckStatus.WARN,
            hint=_change(kind, used) if used else f"set a {kind} limit; measure the service first",
            rule="Docker documentation, Resource constraints: without a limit a container can take all of the host",
        )
    unknown = no_data
    if used is not None:
        short = used.coverage < least_coverage
        unknown = f"empty: data of only {used.coverage:.0%} of the window" if short else ""
        if not unknown and used.p99 <= 0:
            unknown = "empty: nothing was used"
    ratio = limit / used.p99 if used is not None and used.p99 > 0 else None
    if ratio is not None and ratio > TOO_LARGE and limit <= FLOOR[kind]:
        ratio = TOO_LARGE
    hint = "wait until the window has data, or scrape the service" if unknown or used is None else _change(kind, used)
    return Criterion(
        name,
        None if ratio is None else round(ratio, 2),
        warn_below=TOO_SMALL,
        warn_above=TOO_LARGE,
        unknown=unknown,
        optional=True,
        hint=hint,
        rule=RULE,
    )


def _change(kind: str, used: Used) -> str:
    """The line of the compose file that would fit."""
    advised = max(used.p99 * ADVISED, FLOOR[kind])
    if kind == "memory":
        line = f"memory: {-(-advised // (1 << 20)):.0f}M"
        seen = f"{format_size(used.p95)} and {format_size(used.p99)}"
    else:
        line, seen = f'cpus: "{advised:.2f}"', f"{used.p95:.3g} and {used.p99:.3g} CPUs"
    return f"in the compose file, deploy.resources.limits: {line}; p95 and p99 were {seen} ({used.source})"
