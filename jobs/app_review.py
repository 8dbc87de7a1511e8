"""Review the application: sizes of images, limits of containers against what they used, and metrics of runtimes.

Runbook: Quarterly Maintenance, Performance Optimization, 2 Application Optimization

Images and limits come from the Docker engine; use comes from Prometheus, of cAdvisor or of the services themselves: a
limit should be 1.3 to 2 times the 99th percentile. Runtimes are Node, Python, JVM and Go, recognized by what their
services export. A service that is not measured, or exports no runtime, is a warning. What is measured for too short a
time is unknown. No profiler is attached. Read-only.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta

from pydantic import Field

from maintd.checks.application import images, limits, runtimes, sections
from maintd.checks.application.limits import Used
from maintd.checks.application.runtimes import Runtimes
from maintd.checks.docker.images import images_in_use
from maintd.checks.hints import name_first
from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.health import app_review as requirements
from maintd.clients import docker, prometheus
from maintd.clients.docker import Container, Docker
from maintd.clients.prometheus import Prometheus
from maintd.job import CheckStatus, Context, Duration, JobParams, Size, TargetError, duration_text, job
from maintd.job.causes import Role
from maintd.reports.document import Section
from maintd.reports.review_report import publish_review


class Params(JobParams):
    docker: tuple[str, ...] = ()
    """Names of Docker targets; all by default."""
    prometheus: str | None = None
    """Name of the Prometheus target; by default the only one, or `main`."""
    scrape_jobs: tuple[str, ...] = ()
    """Scrape jobs of Prometheus whose runtimes are reviewed; all by default."""
    window: Duration = timedelta(days=7)
    """How far back use and runtimes are evaluated, until now."""
    coverage: float = Field(default=0.9, gt=0, le=1)
    """The share of the window's hours that must have data."""
    memory: tuple[str, ...] = ('container_memory_working_set_bytes{name!=""}', "process_resident_memory_bytes")
    """Gauges of memory, of cAdvisor by `name` and of services by `instance`; a service has the first one with data."""
    cpu: tuple[str, ...] = ('container_cpu_usage_seconds_total{name!=""}', "process_cpu_seconds_total")
    """Counters of CPU time, as for memory."""
    large_image: Size = 1024**3
    """Images from this size on are reported."""
    keep: int = Field(default=24, ge=1)
    """Reports that the reports folder keeps."""


@job(
    timeout="15m",
    repeatable=True,
    needs=("docker or prometheus",),
    history=12,
    history_of="job",
    reads_findings=True,
    requires=requirements,
)
def run(ctx: Context, params: Params) -> None:
    """Read Prometheus once, then review each engine; what cannot be read hides nothing else."""
    found: list[Section] = []
    memory: dict[str, Used] = {}
    cpu: dict[str, Used] = {}
    running: dict[str, list[Container]] = {}
    engines = ctx.chosen("docker", params.docker)
    for name in engines:
        with ctx.phase(f"read images on {name}"), isolate_errors(ctx, f"docker {name}: images"):
            target = ctx.target("docker", name)
            with docker.connect(target, name=name) as engine:
                containers = engine.containers(target.project)
                if not containers:
                    hint = "correct `project` of the target"
                    raise TargetError(f"{name}: there is no container", hint, cause="empty")
                running[name] = [item for item in containers if item.state == "running"]
                found.append(review_images(ctx, params, engine, containers))
    seen: Runtimes | None = None
    server: Prometheus | None = None
    window = f"{duration_text(params.window)} until {ctx.now():%Y-%m-%d %H:%M} UTC"
    if ctx.targets.prometheus:
        server = prometheus.connect(ctx.target("prometheus", params.prometheus), name=params.prometheus or "prometheus")
        with ctx.phase("query memory and CPU"):
            memory = used(ctx, "memory", limits.memory, server, params.memory, params)
            cpu = used(ctx, "CPU", limits.cpu, server, params.cpu, params)
        with ctx.phase("query runtimes"), isolate_errors(ctx, "runtimes: read", role=Role.SOURCE):
            seen = runtimes.collect(server, params.window, params.scrape_jobs)
            found.append(sections.runtimes_section(server.name, seen, window))
    for name, containers in running.items():
        with isolate_errors(ctx, f"docker {name}: limits"):
            found.append(review_limits(ctx, params, name, containers, memory, cpu, window))
    with isolate_errors(ctx, "runtimes: evaluated", role=Role.SOURCE):
        if seen is not None or (server is None and running):
            unread = [name for name in engines if name not in running]
            review_runtimes(ctx, params, seen, [item for each in running.values() for item in each], unread)
    with ctx.phase("write the report"):
        publish_review(ctx, kind="application", title="Application review", sections=found, keep=params.keep)


def review_images(ctx: Context, params: Params, engine: Docker, containers: Sequence[Container]) -> Section:
    """Report the images of an engine; one that cannot be inspected hides no other."""
    name = engine.name
    sizes = []
    for used in images_in_use(containers):
        with isolate_errors(ctx, f"{used.service}: size of the image", role=Role.SOURCE):
            sizes.append(images.inspect(engine, used))
    earlier = {item.service: ctx.series("image_size_bytes", engine=name, service=item.service) for item in sizes}
    for item in sizes:
        images.report(ctx, name, item, params.large_image)
    ctx.save(f"{name}-images.json", json.dumps([asdict(item) for item in sizes], indent=1), "application/json")
    return sections.images_section(name, sizes, earlier)


def used(
    ctx: Context,
    kind: str,
    read: Callable[[Prometheus, Sequence[str], timedelta], dict[str, Used]],
    server: Prometheus,
    selectors: Sequence[str],
    params: Params,
) -> dict[str, Used]:
    """What services used; a server without the metrics has none, which the check of what is measured reports."""
    with isolate_errors(ctx, f"{kind}: read", role=Role.SOURCE):
        try:
            return read(server, selectors, params.window)
        except TargetError as error:
            if error.cause != "empty":
                raise
            ctx.log(str(error))
    return {}


def review_limits(
    ctx: Context,
    params: Params,
    name: str,
    containers: Sequence[Container],
    memory: Mapping[str, Used],
    cpu: Mapping[str, Used],
    window: str,
) -> Section:
    """Report the limits of running containers."""
    rows = [
        sections.Limited(item, limits.of_container(memory, item), limits.of_container(cpu, item)) for item in containers
    ]
    for row in rows:
        for kind, limit, of_it in (
            ("memory", float(row.container.memory_limit), row.memory),
            ("CPU", row.container.cpu_limit, row.cpu),
        ):
            missing = "" if of_it else "not_configured: Prometheus has no data of it in the window"
            ctx.report([limits.criterion(kind, limit, of_it, params.coverage, missing)], row.container.label)
            if of_it is not None:
                unit = "B" if kind == "memory" else ""
                measure = "service_memory_p99_bytes" if kind == "memory" else "service_cpu_p99"
                ctx.measure(measure, of_it.p99, unit, engine=name, service=row.container.label)
    least = params.coverage
    without = sorted(
        row.container.label
        for row in rows
        if any(of_it is None or of_it.coverage < least for of_it in (row.memory, row.cpu))
    )
    ctx.check(
        f"docker {name}: containers whose use is not known",
        name_first(without) or "none",
        equals="none",
        severity=CheckStatus.WARN,
        hint="let Prometheus scrape cAdvisor, with a label `name` of the container, or the services themselves",
        rule="a limit can only be compared with what was measured",
    )
    return sections.limits_section(name, rows, window)


def review_runtimes(
    ctx: Context, params: Params, seen: Runtimes | None, containers: Sequence[Container], unread: Sequence[str]
) -> None:
    """Report what runtimes export; and what exports none. unread: engines whose containers are not known."""
    by_service = {item.service: item.memory_limit for item in containers}
    covered = set[str]()
    none = []
    if seen is not None:
        for key in sorted(seen.targets):
            host = key[1].rpartition(":")[0] or key[1]
            if seen.targets[key]:
                covered.add(host)
            else:
                none.append(f"{key[0]}/{key[1]}")
            criteria = runtimes.criteria(seen, key, by_service.get(host, 0), params.coverage)
            ctx.report(criteria, f"{key[0]} {key[1]}")
    none += sorted(by_service.keys() - covered)
    name = "runtimes: exported by all services"
    rule = "what exports no metrics of its runtime is not known to be in order"
    if not none and (unread or not covered):
        known = f"the services of {name_first(unread)} are not known" if unread else "no service is known"
        cause = f"{'partial' if unread else 'empty'}: {known}"
        ctx.unknown(name, cause, expected="by all", rule=rule)
        return
    ctx.check(
        name,
        "by all" if not none else f"not by {name_first(none)}",
        equals="by all",
        severity=CheckStatus.WARN,
        hint="export the default metrics (prom-client, prometheus_client, Micrometer, client_golang), and scrape them; "
        "a server such as Postgres has none: acknowledge it",
        rule=rule,
    )
