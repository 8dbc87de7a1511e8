"""The requirements of the jobs that watch a running stack: health, usage, capacity, alerts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maintd.checks.postgres import database
from maintd.checks.postgres.health import QUERIES
from maintd.checks.requirements import docker, local, postgres, redis, services
from maintd.checks.requirements.jobs.shared import containers, folders, only_target
from maintd.checks.requirements.requirement import Requirement, Unconfigured, answers
from maintd.clients import shell
from maintd.model.target import Targets

HEALTH_KINDS = ("host", "http", "postgres", "redis", "docker", "prometheus", "alertmanager")


def health_check(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Every target answers; the queries of its checks work."""
    for kind in params.include or HEALTH_KINDS:
        for name in () if kind in params.skip else targets.of(kind):
            yield Requirement(kind, name, "answers", answers)
            match kind:
                case "postgres":
                    statements = {key: (query, ()) for key, query in QUERIES.items()}
                    yield Requirement(kind, name, "check its health", postgres.queries(statements))
                    yield Requirement(kind, name, "see all sessions", postgres.sees_sessions)
                case "redis":
                    yield Requirement(kind, name, "read its state", redis.may_run(("INFO",)))
                    if targets.redis[name].streams:
                        exercise = redis.streams_exist(targets.redis[name].streams)
                        yield Requirement(kind, name, "read its streams", exercise)
                case "docker":
                    yield from containers(targets, name)


def resource_usage(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Hosts and engines answer."""
    for name in targets.host:
        yield Requirement("host", name, "answers", answers)
    for name in targets.docker:
        yield from containers(targets, name)
    yield from folders(targets, [name for name in params.backups if name in targets.folders])


def capacity_report(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Every target whose capacity is measured answers, and its sizes can be read."""
    for kind in ("host", "redis", "docker", "prometheus"):
        for name in targets.of(kind):
            yield Requirement(kind, name, "answers", answers)
    for name in targets.postgres:
        exercise = postgres.reads(database.relations, database.counters)
        yield Requirement("postgres", name, "read sizes", exercise)
    yield from folders(targets, targets.folders)


def performance_report(targets: Targets, params: Any) -> Iterator[Requirement | Unconfigured]:
    """Prometheus has the metrics; the SQL queries work."""
    server = only_target(targets.prometheus, params.prometheus)
    if not targets.prometheus and not (params.queries and targets.postgres):
        yield Unconfigured(
            "prometheus", "set targets.prometheus in the calendar, or targets.postgres and the param queries"
        )
    if server:
        selector = f"{{{params.selector}}}" if params.selector else ""
        histogram = {params.histogram: f"{params.histogram}_bucket{selector}"}
        yield Requirement("prometheus", server, "query request durations", services.has_series(histogram))
        for what, selectors in (("memory", params.memory), ("CPU", params.cpu)):
            exercise = services.has_one_of({item: item for item in selectors})
            yield Requirement("prometheus", server, f"query {what} usage", exercise, optional=True)
    if params.queries:
        statements = {name: (query.sql, query.needs) for name, query in params.queries.items()}
        yield Requirement(
            "postgres", only_target(targets.postgres, params.postgres), "run the queries", postgres.queries(statements)
        )


def trading_review(targets: Targets, params: Any) -> Iterator[Requirement]:
    """The service answers; the queries of the params work and have data."""
    service = only_target(targets.http, params.service)
    if service:
        yield Requirement("http", service, f"read {params.path}", services.has_path(params.path))
    if params.day is not None or params.queries:
        statements = {name: (query.sql, (query.table,)) for name, query in params.queries.items()}
        if params.day is not None:
            statements["day"] = (params.day.sql, (params.day.table,))
        yield Requirement(
            "postgres", only_target(targets.postgres, params.database), "count activity", postgres.queries(statements)
        )
    if params.streams:
        yield Requirement(
            "redis",
            only_target(targets.redis, params.cache),
            "count stream entries",
            redis.streams_exist(params.streams),
        )
    for name in targets.prometheus if params.metrics else ():
        yield Requirement("prometheus", name, "count activity", services.has_series(params.metrics))


def alert_review(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Prometheus, Alertmanager and Grafana answer."""
    for name in params.prometheus or targets.prometheus:
        yield Requirement("prometheus", name, "answers", answers)
    for name in params.alertmanager or targets.alertmanager:
        yield Requirement("alertmanager", name, "answers", answers)
    if params.grafana is not None:
        exercise = services.has_path(params.grafana_path)
        yield Requirement("http", params.grafana, f"read {params.grafana_path}", exercise)


def alert_path_test(targets: Targets, params: Any) -> Iterator[Requirement | Unconfigured]:
    """Alertmanager answers, and the job has an address to listen on."""
    if params.listen is None:
        yield Unconfigured("an address to listen on", "set the param listen, for example 0.0.0.0:9099")
    for name in params.targets or targets.alertmanager:
        yield Requirement("alertmanager", name, "answers", answers)


def stability_check(targets: Targets, params: Any) -> Iterator[Requirement]:
    """What its health check needs; the tables and the metric of requests are there."""
    yield from health_check(targets, params.health)
    for name, tables_ in params.tables.items():
        # The pattern of the param leaves only names.
        statements = {table: (f"SELECT count(*) FROM {table}", (table,)) for table in tables_}  # noqa: S608
        yield Requirement("postgres", name, "count rows", postgres.queries(statements))
    server = only_target(targets.prometheus, params.prometheus)
    if server and params.requests is not None:
        limits = params.requests
        histogram = {limits.metric: f"{limits.metric}_bucket{{{limits.selector}}}"}
        yield Requirement("prometheus", server, "query request durations", services.has_series(histogram))


def app_review(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Containers and images can be read; Prometheus has metrics of use and of runtimes."""
    for name in params.docker or targets.docker:
        exercise = docker.allows(*docker.LISTS, *docker.IMAGES)
        yield Requirement("docker", name, "list containers and images", exercise)
    server = only_target(targets.prometheus, params.prometheus)
    if server:
        for what, selectors in (("memory", params.memory), ("CPU", params.cpu)):
            exercise = services.has_one_of({item: item for item in selectors})
            yield Requirement("prometheus", server, f"query {what} usage", exercise, optional=True)


def command(targets: Targets, params: Any) -> Iterator[Requirement]:
    """The program is there."""
    environment = {name: value.get_secret_value() for name, value in params.env.items()}
    started = shell.Command(params.argv, params.cwd, environment, shell=params.shell)
    program = "/bin/sh" if params.shell else params.argv[0]
    if params.cwd is not None and "/" in program:
        program = str(params.cwd / program)
    need = "run it" if "PATH" not in environment else "run it, with the PATH of the params"
    if params.cwd is None or params.cwd.is_dir():
        yield Requirement("program", program, need, local.can_start(started))
    if params.cwd is not None:
        yield local.readable_folder(Path(params.cwd), "run a program in it")
