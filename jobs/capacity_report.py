"""Measure what fills up, forecast when it is full, and write the capacity report.

Runbook: Monthly Maintenance, Capacity Planning

Read-only, except for its own files in the reports folder. Run it every day with `report: false`: then it only
measures, and warns of a disk that is full soon. The forecasts need 14 such days of history. With `report: true` it
also writes the report, as Markdown, HTML and JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from pydantic import Field

from maintd.checks.capacity import evaluate, evaluate_backtest, evaluate_history, savings, usage_mark
from maintd.checks.capacity_history import compare_with_last_month, record_forecasts
from maintd.checks.docker import capacity as docker_capacity
from maintd.checks.hints import name_first
from maintd.checks.host import capacity as host_capacity
from maintd.checks.host import folder_sizes
from maintd.checks.postgres import capacity as postgres_capacity
from maintd.checks.probes import figures_or_cause
from maintd.checks.prometheus import capacity as prometheus_capacity
from maintd.checks.redis import capacity as redis_capacity
from maintd.checks.requirements.jobs.health import capacity_report as requirements
from maintd.job import CheckStatus, Context, Duration, JobParams, job
from maintd.reports.capacity_report import build
from maintd.reports.figure import Figure
from maintd.reports.publish import publish_report
from maintd.reports.resource import Backtest, Resource, resource


class Params(JobParams):
    report: bool = True
    """Also write the report; false: only measure, as every day."""
    relations: int = 20
    """Number of tables to follow in each database, largest first."""
    days: int = 30
    """Days to query Prometheus for; by default it keeps 15."""
    memory: list[str] = ['container_memory_working_set_bytes{name!=""}', "process_resident_memory_bytes"]
    """Gauges of memory in Prometheus; the first one with data is used."""
    requests: str = "sum by (job, instance) (rate(http_request_duration_seconds_count[$step]))"
    """Query of requests per second; `$step` is one hour."""
    folder_time: Duration = timedelta(minutes=5)
    """Time limit for the size of one folder."""
    patience: Duration = timedelta(seconds=60)
    """Timeout of one query to a database, a Docker engine or Prometheus."""
    keep: int = Field(36, ge=1)
    """Number of reports to keep in the reports folder; files that this job did not write, or that were edited, stay."""


@job(timeout="1h", repeatable=True, reads_findings=True, history=400, history_of="job", requires=requirements)
def run(ctx: Context, params: Params) -> None:
    now = ctx.now()
    resources: list[Resource] = []
    for figure in collect(ctx, params):
        record(ctx, figure)
        earlier = [(point.at, point.value) for point in ctx.series(figure.measure, **figure.labels)]
        # Without a report only disks are forecast: a full disk must not wait for the next report.
        ahead = params.report or figure.kind in ("file system", "inodes")
        resources.append(resource(figure, earlier, now, ahead=ahead, mark=usage_mark(figure.percent)))
    ctx.check(
        "figures measured",
        sum(item.figure.value is not None for item in resources),
        at_least=1,
        hint="nothing could be measured: "
        + name_first([f"{item.figure.name}: {item.figure.cause}" for item in resources]),
    )
    assessments = evaluate(resources)
    past = compare_with_last_month(ctx, resources) if params.report else Backtest(0, 0.0, 0.0)
    if params.report:
        assessments += evaluate_history(resources) + evaluate_backtest(past)
    ctx.report(item.with_hint() for item in assessments)
    if params.report:
        with ctx.phase("write the report"):
            record_forecasts(ctx, resources)
            findings = [item.finding(ctx.findings) for item in assessments if item.status is not CheckStatus.OK]
            report = build(resources, findings + savings(resources), past, now)
            publish_report(ctx, report, f"{now:%Y%m}", params.keep)


def collect(ctx: Context, params: Params) -> Iterator[Figure]:
    """Collect the figures of every configured target."""
    with ctx.phase("measure file systems, memory and network interfaces"):
        for name, host in ctx.targets.host.items():
            yield from figures_or_cause("host", name, host_capacity.figures, host, name)
    for name, folder in ctx.targets.folders.items():
        with ctx.phase(f'measure the folder "{name}"'):
            limit = min(params.folder_time, ctx.remaining / 2)
            yield from figures_or_cause("folder", name, folder_sizes.figures, folder, name, limit)
    measured = postgres_capacity.MeasuredServers(ctx.log)
    for name, server in ctx.targets.postgres.items():
        with ctx.phase(f'query the database "{name}"'):
            read = postgres_capacity.figures
            yield from figures_or_cause(
                "database", name, read, server, name, params.relations, params.patience, measured
            )
    for name, store in ctx.targets.redis.items():
        with ctx.phase(f'query Redis "{name}"'):
            yield from figures_or_cause("redis memory", name, redis_capacity.figures, store, name)
    for name, engine in ctx.targets.docker.items():
        with ctx.phase(f'query the Docker engine "{name}"'):
            yield from figures_or_cause("docker", name, docker_capacity.figures, engine, name, params.patience)
    for name, prometheus in ctx.targets.prometheus.items() if params.report else ():
        with ctx.phase(f'query Prometheus "{name}"'):
            yield from figures_or_cause(
                "requests",
                name,
                prometheus_capacity.figures,
                prometheus,
                name,
                now=ctx.now(),
                days=params.days,
                memory=params.memory,
                requests=params.requests,
                patience=params.patience,
            )


def record(ctx: Context, figure: Figure) -> None:
    """Record a figure as a measure, for later forecasts."""
    if figure.measure and figure.value is not None:
        ctx.measure(figure.measure, figure.value, figure.unit, **figure.labels)
        if figure.kind == "file system":
            ctx.measure("fs_avail_bytes", figure.details["available"], "B", **figure.labels)
