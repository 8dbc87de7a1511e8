"""Stability after a change: health over some time, and requests, rows and alerts against those from before."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from psycopg import sql
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from maintd.checks import health
from maintd.checks.alerts.firing import AlertLimits
from maintd.checks.health import HealthScope
from maintd.checks.limits import Limits
from maintd.checks.probes import as_target_error
from maintd.checks.prometheus.histograms import Quantile, quantile
from maintd.clients import alertmanager, postgres, prometheus
from maintd.clients.prometheus import Prometheus
from maintd.errors import MaintdError, TargetError
from maintd.job.causes import Role
from maintd.job.context import Context
from maintd.model.evidence import Artifact, Check, CheckStatus, Measure, Report
from maintd.units import Duration, seconds_text

_RANK = {CheckStatus.OK: 0, CheckStatus.WARN: 1, CheckStatus.UNKNOWN: 2, CheckStatus.FAIL: 3}
_MOST_ALERTS = 300  # of a baseline, whose value for later steps has at most 16 KiB


class RequestLimits(Limits):
    """The metric of requests, and its limits."""

    metric: str = "http_request_duration_seconds"
    """Name of the histogram."""
    selector: str = ""
    """Labels of the series that count: `job="agents",path!="/health"`."""
    status: str = "status"
    """Label with the status of the answer."""
    errors: str = "5.."
    """Pattern of the statuses that are errors."""
    before: Duration = timedelta(hours=1)
    """Length of the time before the change that is compared."""
    min_requests: int = Field(default=20, ge=1)
    """With fewer requests, ratio and latency are unknown."""
    max_ratio: float = Field(default=1.2, ge=1)
    """Error ratio and latency may be this many times those from before."""
    max_errors: float = Field(default=0.01, ge=0, le=1)
    """The error ratio that is never exceeded."""
    max_p95: Duration = timedelta(seconds=1)
    """The latency of 95 % of the requests that is never exceeded."""


class Baseline(BaseModel):
    """What was so before the change. `rows`: by `target/table`. `alerts`: hashes of critical ones; None: not read."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: AwareDatetime
    rows: dict[str, int] = {}
    alerts: dict[str, list[str] | None] = {}  # by `kind name`


@dataclass
class HealthHistory:
    """The checks of all samples so far, by name."""

    seen: dict[str, list[tuple[datetime, Check]]] = field(default_factory=dict)
    samples: int = 0

    def add(self, at: datetime, reports: Iterable[Report]) -> None:
        """Add the checks of one sample; of several with one name the worst."""
        self.samples += 1
        worst: dict[str, Check] = {}
        for item in reports:
            if isinstance(item, Check) and (
                item.name not in worst or _RANK[item.status] > _RANK[worst[item.name].status]
            ):
                worst[item.name] = item
        for name, check in worst.items():
            self.seen.setdefault(name, []).append((at, check))

    def checks(self) -> Iterator[Check]:
        """Each check once: its last value if all samples were ok; else its worst, with how often and when."""
        for samples in self.seen.values():
            bad = [(at, check) for at, check in samples if check.status is not CheckStatus.OK]
            if not bad:
                yield samples[-1][1]
                continue
            worst = max(bad, key=lambda item: (_RANK[item[1].status], item[0]))[1]
            optional = all(check.optional for _, check in bad)
            if optional:
                yield worst
                continue
            times = f"at {bad[0][0]:%H:%M:%S}"
            if len(bad) > 1:
                times = f"from {bad[0][0]:%H:%M:%S} to {bad[-1][0]:%H:%M:%S}"
            text = f"{worst.observed}, in {len(bad)} of {self.samples} samples, {times} UTC"
            yield worst.model_copy(update={"observed": text, "unit": "", "optional": False})


def watch_health(ctx: Context, scope: HealthScope, lasts: timedelta, every: timedelta) -> Iterator[None]:
    """Check the health at once, and then in each interval until the time is over; yields after each sample.

    At the end, each check is recorded once: with how often and when it was not ok. Counters, such as restarts of
    containers, are compared with those at the beginning.
    """
    history, started = HealthHistory(), time.monotonic()
    total = max(1, round(lasts / every)) + 1
    first: list[Measure] = []
    reports: list[Report] = []
    while True:
        at = ctx.now()
        inner, _ = ctx.captured()
        answers = health.collect(inner, scope)
        if not first:  # this pass only fills the counters that those after it are compared with
            inner, reports = ctx.captured()
            health.report(inner, scope, answers)
            first = [item for item in reports if isinstance(item, Measure)]
        inner, reports = ctx.captured(first)
        health.report(inner, scope, answers)
        history.add(at, reports)
        ctx.progress(history.samples, total, "sample")
        yield
        next_at = started + history.samples * every.total_seconds()
        if next_at > started + lasts.total_seconds() + 1e-6:
            break
        time.sleep(max(0.0, next_at - time.monotonic()))
    for check in history.checks():
        ctx.pass_on(check)
    for item in reports:
        if isinstance(item, Artifact):
            ctx.pass_on(item)
    if not history.seen:
        ctx.unknown("health", "not_configured: no target was checked", expected="healthy", hint="configure targets")
    ctx.log(f"{history.samples} samples of {len(history.seen)} checks")


# --- rows ---------------------------------------------------------------------------------------------------------


def count_rows(ctx: Context, tables: Mapping[str, Sequence[str]]) -> dict[str, int | TargetError]:
    """Exact rows, by `target/table`; an error where they could not be counted."""
    found: dict[str, int | TargetError] = {}
    for target, names in tables.items():
        try:
            with (
                as_target_error(f"postgres {target}"),
                postgres.connect(ctx.target("postgres", target), "stability_check", name=target) as session,
            ):
                for name in names:
                    try:
                        table = sql.Identifier(*name.split(".", 1))
                        row = session.one(sql.SQL("SELECT count(*) AS count FROM {}").format(table))
                        found[f"{target}/{name}"] = int(row["count"])
                    except TargetError as error:
                        found[f"{target}/{name}"] = error
        except TargetError as error:
            for name in names:
                found.setdefault(f"{target}/{name}", error)
    return found


def report_rows(ctx: Context, before: Baseline, tables: Mapping[str, Sequence[str]]) -> None:
    """Report that no table has fewer rows than before."""
    if not tables:
        hint = "name tables by Postgres target in tables"
        ctx.unknown("rows", "not_configured: no tables are named", expected="not fewer", hint=hint, optional=True)
    for name, count in count_rows(ctx, tables).items():
        check = f"rows of {name}"
        if isinstance(count, TargetError):
            ctx.report_error(check, count, expected="not fewer than before", role=Role.SOURCE)
        elif name not in before.rows:
            hint = "its rows were not counted before: see the first sample"
            ctx.unknown(check, f"empty: {count} now, and not known before", expected="not fewer", hint=hint)
        else:
            hint = (
                f"{before.rows[name]} at {before.at:%H:%M:%S} UTC: find out who deleted rows, before the system resumes"
            )
            ctx.check(check, count, at_least=before.rows[name], hint=hint)


# --- alerts -------------------------------------------------------------------------------------------------------


def critical_alerts(ctx: Context, limits: AlertLimits) -> dict[str, list[str] | TargetError]:
    """The critical alerts that fire, also silenced ones, by `kind name` of the server."""
    found: dict[str, list[str] | TargetError] = {}
    for kind in ("prometheus", "alertmanager"):
        for name, target in ctx.targets.of(kind).items():
            try:
                with as_target_error(f"{kind} {name}"):
                    found[f"{kind} {name}"] = _read_alerts(kind, name, target, limits)
            except TargetError as error:
                found[f"{kind} {name}"] = error
    return found


def _read_alerts(kind: str, name: str, target: Any, limits: AlertLimits) -> list[str]:
    listing: Any
    if kind == "prometheus":
        listing = prometheus.connect(target, name=name).firing()
    else:
        listing = alertmanager.connect(target, name=name).alerts()
    if listing.not_understood:
        raise TargetError(f"{name}: {listing.not_understood[0]}", cause="unfamiliar")
    return sorted({_text(item.labels) for item in listing if limits.severity(item.labels) in limits.critical})


def _text(labels: Mapping[str, str]) -> str:
    others = ", ".join(f"{key}={value}" for key, value in sorted(labels.items()) if key != "alertname")
    return f"{labels.get('alertname', '')} ({others})"[:300]


def _hash(text: str) -> str:
    """In the place of an alert in a value for later steps, in which a label like `token` would be masked."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass
class AlertHistory:
    """Critical alerts that are not of the baseline, by server, with the first time; and where none could be read."""

    before: Baseline
    new: dict[str, dict[str, datetime]] = field(default_factory=dict)
    unread: dict[str, tuple[datetime, TargetError]] = field(default_factory=dict)

    def sample(self, ctx: Context, limits: AlertLimits) -> None:
        """Read the alerts once more."""
        at = ctx.now()
        for server, alerts in critical_alerts(ctx, limits).items():
            seen = self.new.setdefault(server, {})
            if isinstance(alerts, TargetError):
                self.unread.setdefault(server, (at, alerts))
                continue
            known = self.before.alerts.get(server) or ()
            for text in alerts:
                if _hash(text) not in known:
                    seen.setdefault(text, at)

    def report(self, ctx: Context) -> None:
        """Report each server: no new critical alert in any sample."""
        if not self.new:
            hint = "set targets.prometheus or targets.alertmanager"
            ctx.unknown("critical alerts", "not_configured", expected="no new one", hint=hint, optional=True)
        for server, alerts in self.new.items():
            check = f"{server}: new critical alerts"
            if alerts:
                named = "; ".join(f"{text} at {at:%H:%M:%S} UTC" for text, at in alerts.items())
                ctx.fail(check, named[:1000], expected="none", hint="see its rule and what it names")
            elif server in self.unread:
                at, error = self.unread[server]
                text = f"{error.cause}: {error.message}, first at {at:%H:%M:%S} UTC"
                ctx.unknown(check, text, expected="none", hint=error.hint or "")
            elif self.before.alerts.get(server) is None:
                ctx.unknown(
                    check,
                    "empty: those from before were not read",
                    expected="none",
                    hint="correct its target: it did not answer at the beginning",
                )
            else:
                ctx.passed(check, "none", expected="none")


def baseline(ctx: Context, tables: Mapping[str, Sequence[str]], limits: AlertLimits) -> Baseline:
    """What is so now. What cannot be observed is reported as unknown, and left out."""
    rows: dict[str, int] = {}
    for name, count in count_rows(ctx, tables).items():
        if isinstance(count, TargetError):
            ctx.report_error(f"rows of {name} before", count, expected="counted", role=Role.SOURCE)
        else:
            rows[name] = count
    alerts: dict[str, list[str] | None] = {}
    for server, found in critical_alerts(ctx, limits).items():
        if isinstance(found, TargetError):
            ctx.report_error(f"{server}: critical alerts before", found, expected="read", role=Role.SOURCE)
            alerts[server] = None
        elif len(found) > _MOST_ALERTS:
            text = f"too_large: {len(found)} fire"
            ctx.unknown(
                f"{server}: critical alerts before", text, expected=f"at most {_MOST_ALERTS}", hint="end them first"
            )
            alerts[server] = None
        else:
            alerts[server] = [_hash(text) for text in found]
    return Baseline(at=ctx.now(), rows=rows, alerts=alerts)


# --- requests -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Requests:
    """Requests in some time. `errors` is a share, 0 to 1."""

    count: float
    errors: float
    p95: Quantile


def report_requests(
    ctx: Context, name: str, limits: RequestLimits, before: datetime, began_at: datetime, ended_at: datetime
) -> None:
    """Report error ratio and latency from `began_at` on against the time before `before`."""
    try:
        server = prometheus.connect(ctx.target("prometheus", name), name=name)
        with as_target_error(name):
            now = requests(server, limits, ended_at, ended_at - began_at)
    except TargetError as error:
        for what in ("errors", "p95"):
            ctx.report_error(f"requests: {what}", error, expected="measured", role=Role.SOURCE)
        return
    try:
        with as_target_error(name):
            earlier: Requests | TargetError = requests(server, limits, before, limits.before)
    except TargetError as error:
        earlier = error
    hint = "find out which requests: see the log of the services, and performance_report"
    _compare(ctx, "requests: errors", now.errors, _part(earlier, "errors"), limits.max_errors, limits.max_ratio, hint)
    if now.p95.at_least:
        text = f"too_large: above {seconds_text(now.p95.value)}, the highest bucket"
        if now.p95.value >= limits.max_p95.total_seconds():
            ctx.fail(
                "requests: p95", text, expected=f"at most {seconds_text(limits.max_p95.total_seconds())}", hint=hint
            )
        else:
            ctx.unknown("requests: p95", text, expected="measured", hint="add buckets to the histogram")
        return
    most = limits.max_p95.total_seconds()
    _compare(ctx, "requests: p95", now.p95.value, _part(earlier, "p95"), most, limits.max_ratio, hint, unit="s")


def requests(server: Prometheus, limits: RequestLimits, at: datetime, length: timedelta) -> Requests:
    """The requests in the time before `at`. Raises TargetError, `empty` with fewer than are needed."""
    span = f"[{max(1, round(length.total_seconds()))}s]"
    counts = server.query(f"sum by ({limits.status}) (increase({limits.metric}_count{{{limits.selector}}}{span}))", at)
    count = sum(item.value for item in counts)
    if count < limits.min_requests:
        text = f"{server.name}: {count:.0f} requests in {seconds_text(length.total_seconds())} until {at:%H:%M:%S} UTC"
        raise TargetError(f"{text}, {limits.min_requests} needed", "let it take longer", cause="empty")
    if not any(limits.status in item.labels for item in counts):
        text = f'{server.name}: {limits.metric}_count has no label "{limits.status}"'
        raise TargetError(text, "correct status in the params", cause="empty")
    pattern = re.compile(limits.errors)
    errors = sum(item.value for item in counts if pattern.fullmatch(item.labels.get(limits.status, "")))
    buckets = {
        float(item.labels["le"].replace("+Inf", "inf")): item.value
        for item in server.query(f"sum by (le) (increase({limits.metric}_bucket{{{limits.selector}}}{span}))", at)
        if "le" in item.labels
    }
    p95 = quantile(buckets, 0.95)
    if p95 is None:
        raise TargetError(f"{server.name}: {limits.metric}_bucket has no requests", "correct metric", cause="empty")
    return Requests(count, errors / count, p95)


def _part(earlier: Requests | TargetError, what: str) -> float | TargetError:
    if isinstance(earlier, TargetError):
        return earlier
    if what == "errors":
        return earlier.errors
    if earlier.p95.at_least:
        return TargetError("the p95 before was above the highest bucket", "add buckets", cause="too_large")
    return earlier.p95.value


def _compare(
    ctx: Context,
    check: str,
    now: float,
    before: float | TargetError,
    most: float,
    max_ratio: float,
    hint: str,
    unit: str = "",
) -> None:
    """Report a value against its absolute limit, which decides alone when it is exceeded, and against before."""
    ctx.measure(f"stability_{check.rpartition(' ')[2]}", now, unit)
    if now > most:
        ctx.check(check, round(now, 6), at_most=most, unit=unit, hint=hint)
    elif isinstance(before, MaintdError):
        ctx.report_error(check, before, expected=f"at most {max_ratio:g} times that from before", role=Role.SOURCE)
    else:
        # A share of nothing is nothing: the first error after none is not above the limit by that alone.
        limit = max(before * max_ratio, most / 10) if before == 0 else before * max_ratio
        ctx.check(
            check, round(now, 6), at_most=round(min(most, limit), 6), unit=unit, hint=f"{before:.4g} before; {hint}"
        )
