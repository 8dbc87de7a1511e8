"""Measure what fills up, and report how it grows and when it is full.

Runbook: Monthly Maintenance, Capacity Planning

Reads only. Run it every day with `report: false`: it then only collects, and warns of a disk that fills up soon. A
forecast is made from these days, 14 of them at least. With `report: true` it also writes the report, as Markdown, HTML
and JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from maintd.checks.capacity import Figure
from maintd.checks.capacity import report as capacity
from maintd.checks.capacity.limits import assess, growing_most, held, too_young, unread
from maintd.checks.docker import capacity as engine
from maintd.checks.host import capacity as host
from maintd.checks.host import folders
from maintd.checks.postgres import capacity as database
from maintd.checks.prometheus import traffic
from maintd.checks.redis import capacity as cache
from maintd.job import Context, Duration, JobParams, job
from maintd.reports import publish as shelf
from maintd.reports import rendering
from maintd.reports.forecast import Forecast
from maintd.reports.resources import MONTH, Backtest, Resource, backtest, resource

LEVELS = ("forecast_level_low", "forecast_level", "forecast_level_high")
QUANTILES = (0.1, 0.5, 0.9)


class Params(JobParams):
    report: bool = True
    """Also write the report; false: only collect, as every day."""
    relations: int = 20
    """How many of the largest tables of each database are followed."""
    days: int = 30
    """Over how many days Prometheus is asked; it keeps 15 by default."""
    memory: list[str] = ['container_memory_working_set_bytes{name!=""}', "process_resident_memory_bytes"]
    """Gauges of memory in Prometheus; the first that has data is taken."""
    requests: str = "sum by (job, instance) (rate(http_request_duration_seconds_count[$step]))"
    """The query of requests per second; `$step` is the step's length, an hour."""
    folder_time: Duration = timedelta(minutes=5)
    """How long the size of one folder may take."""
    patience: Duration = timedelta(seconds=60)
    """How long one question to a database, an engine or Prometheus may take."""
    keep: int = 36
    """How many reports are kept in the reports folder."""


@job(timeout="1h", repeatable=True, history=400, history_of="job")
def run(ctx: Context, params: Params) -> None:
    now = ctx.now()
    found: list[Resource] = []
    for figure in collect(ctx, params):
        keep(ctx, figure)
        earlier = [(point.at, point.value) for point in ctx.series(figure.measure, **figure.labels)]
        # A day without a report forecasts only what must not wait for the next one.
        found.append(resource(figure, earlier, now, ahead=params.report or figure.kind in ("file system", "inodes")))
    ctx.check(
        "figures measured",
        sum(item.figure.value is not None for item in found),
        at_least=1,
        hint="nothing could be measured: see the causes of the checks that are unknown",
    )
    grows_most = growing_most(found)
    assessments = [made for item in found for made in assess(item, grows_most if item.figure.unit == "B" else "")]
    assessments += [made for item in found if (made := unread(item)) is not None]
    past = judged(ctx, found) if params.report else Backtest(0, 0.0, 0.0)
    if params.report:
        assessments += [made for made in (too_young(found), held(past)) if made is not None]
    ctx.report(item.with_hint() for item in assessments)
    if params.report:
        with ctx.phase("write the report"):
            keep_forecasts(ctx, found)
            files = rendering.as_files(capacity.build(found, assessments, past, now))
            publish(ctx, files, f"capacity-{now:%Y%m}", params.keep)


def collect(ctx: Context, params: Params) -> Iterator[Figure]:
    """All figures of everything that is configured."""
    with ctx.phase("look at file systems, memory and network cards"):
        for name, machine in ctx.targets.host.items():
            yield from host.figures(machine, name)
    for name, folder in ctx.targets.folders.items():
        with ctx.phase(f'add up the folder "{name}"'):
            yield folders.figure(folder, name, min(params.folder_time, ctx.remaining / 2))
    for name, server in ctx.targets.postgres.items():
        with ctx.phase(f'ask the database "{name}"'):
            yield from database.figures(server, name, params.relations, params.patience)
    for name, store in ctx.targets.redis.items():
        with ctx.phase(f'ask Redis "{name}"'):
            yield from cache.figures(store, name)
    for name, docker in ctx.targets.docker.items():
        with ctx.phase(f'ask the engine "{name}"'):
            yield from engine.figures(docker, name, params.patience)
    for name, prometheus in ctx.targets.prometheus.items() if params.report else ():
        with ctx.phase(f'ask Prometheus "{name}"'):
            yield from traffic.figures(
                prometheus,
                name,
                now=ctx.now(),
                days=params.days,
                memory=params.memory,
                requests=params.requests,
                patience=params.patience,
            )


def keep(ctx: Context, figure: Figure) -> None:
    """Keep a figure for later forecasts."""
    if figure.measure and figure.value is not None:
        ctx.measure(figure.measure, figure.value, figure.unit, **figure.labels)
        if figure.kind == "file system":
            ctx.measure("fs_avail_bytes", figure.details["available"], "B", **figure.labels)


def judged(ctx: Context, found: list[Resource]) -> Backtest:
    """Last month's forecasts against what came."""
    made, came = {}, {}
    for item in found:
        if item.figure.measure and item.figure.value is not None:
            low, likely, high = (
                [(p.at, p.value) for p in ctx.series(name, of=item.figure.measure, **item.figure.labels)]
                for name in LEVELS
            )
            made[item.key], came[item.key] = (low, likely, high), item.figure.value
    return backtest(made, came, ctx.now())


def keep_forecasts(ctx: Context, found: list[Resource]) -> None:
    """Keep what is forecast, to be judged in a month."""
    for item in found:
        if not isinstance(item.outlook, Forecast):
            continue
        figure, outlook = item.figure, item.outlook
        labels = {"of": figure.measure, **figure.labels}
        if figure.kind in ("file system", "folder", "database", "memory"):
            for name, part in zip(LEVELS, QUANTILES, strict=True):
                ctx.measure(name, outlook.at(MONTH, part), figure.unit, **labels)
        reach = outlook.reach(figure.capacity) if figure.capacity else None
        if reach is not None:
            for quantile, days in (("p10", reach.earliest), ("p50", reach.likely), ("p90", reach.latest)):
                if days is not None:
                    ctx.measure("forecast_days_until_full", days, "days", quantile=quantile, **labels)


def publish(ctx: Context, files: dict[str, str], name: str, count: int) -> None:
    """As artifacts, and to the reports folder where there is one."""
    for ending, content in files.items():
        ctx.save(f"{name}.{ending}", content, shelf.FORMS[ending])
    if ctx.reports_dir is not None:
        shelf.publish(files, name, ctx.reports_dir, kind="capacity", keep=count, may=ctx.may)
