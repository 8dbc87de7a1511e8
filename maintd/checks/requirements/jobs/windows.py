"""The requirements of the jobs of a maintenance window and of an emergency rollback."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from maintd.checks.requirements import docker, halts, local, postgres, redis
from maintd.checks.requirements.jobs.shared import folders, only_target, rollout, unconfigured_folder, unnamed
from maintd.checks.requirements.requirement import Requirement, Unconfigured, answers
from maintd.clients import shell
from maintd.model.target import Targets


def service_halt(targets: Targets, params: Any) -> Iterator[Requirement]:
    """The state of each service can be read from both sources."""
    for name in params.targets or targets.halts:
        yield Requirement("halts", name, "read whether it is halted", halts.can_be_read(targets, name))


def window_watch(targets: Targets, params: Any) -> Iterator[Requirement]:
    """As those of the jobs that halt and silence."""
    for name in targets.halts:
        yield Requirement("halts", name, "read whether it is halted", halts.can_be_read(targets, name))
    for name in targets.alertmanager:
        yield Requirement("alertmanager", name, "answers", answers)


def rollback_manifest(targets: Targets, params: Any) -> Iterator[Requirement | Unconfigured]:
    """The folder can be written; containers can be read and images tagged; the queries of the schema work; files can
    be read."""
    if params.to not in targets.folders:
        yield unconfigured_folder(params.to)
        return
    chosen = (("docker", params.docker), ("postgres", params.postgres), ("redis", params.redis))
    named = (params.files, params.environment, params.secrets)
    if all(unnamed(kind, targets, names) for kind, names in chosen) and not any(named):
        yield Unconfigured("something to record", "set targets.docker, or the param files")
    yield Requirement("folders", params.to, "write rollback manifests", local.writes)
    for name in targets.docker if params.docker is None else params.docker:
        yield Requirement("docker", name, "list containers and images", docker.allows(*docker.LISTS, *docker.IMAGES))
        yield Requirement(
            "docker", name, "tag images, and remove tags", docker.allows(*docker.TAGS, *docker.REMOVES_IMAGES)
        )
    for name, query in params.schema_versions.items():
        exercise = postgres.queries({"version of the schema": (query, ())})
        yield Requirement("postgres", name, "read the version of its schema", exercise)
    for name in targets.redis if params.redis is None else params.redis:
        yield Requirement("redis", name, "read the time of its last save", redis.may_run(("INFO",), ("LASTSAVE",)))
    for path in (*params.files, *params.environment, *params.secrets):
        yield (local.readable_folder if path.is_dir() else local.readable_file)(path, "record it for a rollback")


def services_restart(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Containers can be listed and restarted, or the program is there; services can be drained."""
    yield from rollout(targets, params, docker.RESTARTS)


def services_recreate(targets: Targets, params: Any) -> Iterator[Requirement | Unconfigured]:
    """Containers can be listed, created, renamed, stopped, started and removed, or the program is there."""
    yield from rollout(targets, params, docker.REPLACES)
    if params.manifest is not None and params.manifest not in targets.folders:
        yield unconfigured_folder(params.manifest)
    elif params.manifest is not None:
        yield from folders(targets, (params.manifest,))


def rollback(targets: Targets, params: Any) -> Iterator[Requirement | Unconfigured]:
    """Those of the level: containers can be replaced; the version of the schema can be read; or a database can be put
    in the place of the live one, the sets of backups read, halts seen, and writers stopped."""
    match params.level:
        case "images":
            if params.manifest not in targets.folders:
                yield unconfigured_folder(params.manifest)
            else:
                yield from folders(targets, (params.manifest,))
                yield from rollout(targets, params, docker.REPLACES)
        case "schema":
            name = only_target(targets.postgres, params.postgres)
            exercise = postgres.queries({"version of the schema": (params.schema_version, ())})
            yield Requirement("postgres", name, "read the version of its schema", exercise)
            if params.down_program:
                started = shell.Command(params.down_program)
                yield Requirement("program", params.down_program[0], "run it", local.can_start(started))
        case "data" if params.backups not in targets.folders:
            yield unconfigured_folder(params.backups)
        case "data":
            name = only_target(targets.postgres, params.postgres)
            yield from folders(targets, (params.backups,))
            yield Requirement("postgres", name, "replace its database", postgres.can_be_replaced(params.role))
            if name in targets.postgres:
                yield local.program("pg_restore", "restore a database", folder=targets.postgres[name].bin_dir)
            for halt in targets.halts if params.halted else ():
                yield Requirement("halts", halt, "read whether it is halted", halts.can_be_read(targets, halt))
            if params.writers:
                engine = only_target(targets.docker, params.docker)
                yield Requirement("docker", engine, "list containers", docker.allows(*docker.LISTS))
                yield Requirement("docker", engine, "stop and start containers", docker.allows(*docker.STOPS))


def rollback_loss(targets: Targets, params: Any) -> Iterator[Requirement | Unconfigured]:
    """The sets of backups can be listed; all tables can be read; the queries work."""
    if params.backups not in targets.folders:
        yield unconfigured_folder(params.backups)
        return
    yield from folders(targets, (params.backups,))
    name = only_target(targets.postgres, params.postgres)
    if name in targets.postgres:
        yield Requirement("postgres", name, "dump all its rows", postgres.can_be_dumped(targets.postgres[name]))
    if params.loss:
        statements = {key: (query, ()) for key, query in params.loss.items()}
        yield Requirement("postgres", name, "query what would be lost", postgres.queries(statements))


def rehearsal(targets: Targets, params: Any) -> Iterator[Requirement | Unconfigured]:
    """Containers can be listed, created, renamed, stopped, started and removed, and networks created and removed."""
    name = only_target(targets.docker, params.docker)
    if params.manifest not in targets.folders:
        yield unconfigured_folder(params.manifest)
    if not name or params.manifest not in targets.folders:
        return
    yield from folders(targets, (params.manifest,))
    yield Requirement("docker", name, "list containers", docker.allows(*docker.LISTS, *docker.NETWORKS))
    requests = (*docker.REPLACES, *docker.CREATES_NETWORKS, *docker.REMOVES_REHEARSALS)
    yield Requirement("docker", name, "make copies of containers, and remove them", docker.allows(*requests))
