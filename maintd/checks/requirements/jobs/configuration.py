"""The requirements of the jobs that review configuration, hosts and dependencies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from maintd.checks.config_review import postgres as config_postgres
from maintd.checks.host.mounted import mounted
from maintd.checks.requirements import local, postgres, redis, services
from maintd.checks.requirements.jobs.shared import containers, folders, unnamed
from maintd.checks.requirements.requirement import Requirement, Unconfigured, answers
from maintd.model.target import Targets


def config_review(targets: Targets, params: Any) -> Iterator[Requirement | Unconfigured]:
    """Everything can be read with the rights of the targets' users; the folder of the baselines can be written."""
    kinds = ("docker", "postgres", "redis", "prometheus", "alertmanager")
    named = (params.compose, params.grafana, params.traefik, params.files)
    if all(unnamed(kind, targets, getattr(params, kind)) for kind in kinds) and not any(named):
        yield Unconfigured("something to review", "set targets in the calendar, or the params compose and files")
    for name in targets.postgres if params.postgres is None else params.postgres:
        statements = {key: (query, ()) for key, query in config_postgres.QUERIES.items()}
        yield Requirement("postgres", name, "read its settings", postgres.queries(statements))
    for name in targets.redis if params.redis is None else params.redis:
        yield Requirement("redis", name, "read its settings", redis.may_run(("CONFIG", "GET", "*")))
    for kind, names in (("prometheus", params.prometheus), ("alertmanager", params.alertmanager)):
        for name in targets.of(kind) if names is None else names:
            yield Requirement(kind, name, "answers", answers)
    for name in targets.docker if params.docker is None else params.docker:
        yield from containers(targets, name)
    for name, path in (("grafana", "/api/datasources"), ("traefik", "/api/rawdata")):
        target = getattr(params, name)
        if target is not None:
            yield Requirement("http", target, f"read {path}", services.has_path(path))
    for path in (*(path for paths in params.compose.values() for path in paths), *params.files):
        yield local.readable_file(path, "review it")
    for path in params.redis_files.values():
        yield local.readable_file(path, "compare it with what runs")
    if params.baselines in targets.folders:
        yield Requirement("folders", params.baselines, "keep what was seen", local.writes)


def config_accept(targets: Targets, params: Any) -> Iterator[Requirement]:
    """The folder of the baselines can be written."""
    if params.baselines in targets.folders:
        yield Requirement("folders", params.baselines, "keep baselines", local.writes)


def host_review(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Hosts answer."""
    for name in params.hosts or targets.host:
        yield Requirement("host", name, "answers", answers)


def os_updates(targets: Targets, params: Any) -> Iterator[Requirement | Unconfigured]:
    """Hosts answer; in a container, their root is mounted."""
    if params.root is not None:
        yield local.readable_folder(params.root, "read what is installed")
        return
    chosen = {name: targets.host[name] for name in params.hosts or targets.host if name in targets.host}
    for name in params.hosts:
        if name not in chosen:
            yield Requirement("host", name, "answers", answers)
    if not mounted(chosen):
        hint = "mount the host's root and /proc, and set targets.host: {local: {root: /host, proc: /host/proc}}"
        yield Unconfigured("the mounted root of a host", hint)
    for name in mounted(chosen):
        yield Requirement("host", name, "answers", answers)


def dependency_review(targets: Targets, params: Any) -> Iterator[Requirement | Unconfigured]:
    """Lock files, an export and outputs of npm audit can be read; services are asked only about packages."""
    for path in (*params.lock_files, *params.audits):
        yield local.readable_file(path, "read it")
    names = ("source",) if params.folders is None else params.folders
    if not (params.lock_files or params.audits or (params.folders or "source" in targets.folders)):
        yield Unconfigured("lock files", "set the param lock_files, or targets.folders.source to a folder with them")
    yield from folders(targets, [name for name in names if name in targets.folders])
    if params.export is not None and params.export.is_dir():
        yield local.readable_folder(params.export, "read the export of OSV")
    elif params.export is not None:
        yield local.readable_file(params.export, "read the export of OSV")
