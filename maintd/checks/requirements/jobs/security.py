"""The requirements of the jobs that review security and access, and rotate secrets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from maintd.checks.audit import postgres as audit_postgres
from maintd.checks.host.mounted import mounted
from maintd.checks.requirements import docker, local, postgres, redis, secrets, services
from maintd.checks.requirements.jobs.shared import containers, folders, rollout
from maintd.checks.requirements.requirement import Requirement, Unconfigured, answers
from maintd.model.target import Targets


def security_audit(targets: Targets, params: Any) -> Iterator[Requirement | Unconfigured]:
    """Engines describe themselves and their containers; settings of databases and files can be read."""
    named = (params.hosts, params.compose, params.folders, params.repositories)
    kinds = ("docker", "postgres", "redis", "secrets")
    hosts = mounted(targets.host) if params.hosts is None else {}
    if not (any(named) or any(targets.of(kind) for kind in kinds) or hosts):
        hint = "configure targets.docker, targets.postgres or targets.redis, or give the param compose"
        yield Unconfigured("something to audit", hint)
    for name in targets.postgres:
        exercise = postgres.queries({key: (query, ()) for key, query in audit_postgres.QUERIES.items()})
        yield Requirement("postgres", name, "read roles and settings", exercise)
        exercise = postgres.queries({key: (query, ()) for key, query in audit_postgres.HBA.items()})
        yield Requirement("postgres", name, "read pg_hba.conf", exercise)
        yield Requirement("postgres", name, "see all sessions", postgres.sees_sessions)
    for name in targets.redis:
        exercise = redis.may_run(("CONFIG", "GET", "bind"), ("ACL", "DRYRUN", "default", "PING"))
        yield Requirement("redis", name, "read what its default user may do", exercise)
    if params.repositories:
        yield local.program("git", "examine repositories")
    for path in (*params.folders, *params.repositories):
        yield local.readable_folder(path, "examine it")
    for name in targets.docker:
        exercise = docker.allows(*docker.LISTS, *docker.USAGE, *docker.NETWORKS)
        yield Requirement("docker", name, "describe itself, containers and networks", exercise)
    for path in params.compose:
        yield local.readable_file(path, "examine it")


def security_log_review(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Login events can be read; the source of the services' logs answers."""
    if params.logins and params.auth_log is not None:
        yield local.readable_file(params.auth_log, "review logins")
    if params.logins and params.auth_log is None:
        yield local.program("journalctl", "review logins", optional=True)
    if not params.requests:
        return
    if params.folder is not None:
        yield from folders(targets, (params.folder,))
    elif params.loki is not None:
        yield Requirement("http", params.loki, "answers", answers)
    else:
        for name in params.docker or targets.docker:
            yield from containers(targets, name)


def access_review(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Roles of Postgres can be read; Grafana answers; files can be read."""
    for name in params.postgres or targets.postgres:
        yield Requirement("postgres", name, "answers", answers)
    if params.grafana is not None:
        exercise = services.has_path("/api/org/users")
        yield Requirement("http", params.grafana, "read its users", exercise)
    for path in params.basic_auth:
        yield local.readable_file(path, "list its names")


def certificates(targets: Targets, params: Any) -> Iterator[Requirement | Unconfigured]:
    """Servers complete a handshake; folders and files with certificates can be read; containers can be listed."""
    served = [name for name, target in targets.http.items() if not target.url.startswith("http:")]
    seen = (
        targets.tls if params.tls is None else params.tls,
        served if params.http is None else params.http,
        params.folders,
        params.files,
    )
    if not (any(seen) or "certificates" in targets.folders or (params.routers and targets.docker)):
        hint = "set targets.tls, an HTTP target with https, or targets.folders.certificates in the calendar"
        yield Unconfigured("a server or file with certificates", hint)
    for name in targets.tls if params.tls is None else params.tls:
        yield Requirement("tls", name, "complete a handshake", answers)
    names = ("certificates",) if params.folders is None else params.folders
    yield from folders(targets, [name for name in names if name in targets.folders])
    for path in params.files:
        yield local.readable_file(path, "read its certificates")
    for name in targets.docker if params.routers else ():
        yield Requirement("docker", name, "list containers", docker.allows(*docker.LISTS))


def secrets_rotate(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Files can be read; those that are generated can be written, their servers let values be set, and their services
    be restarted."""
    recreated: set[bool] = set()
    for name in params.targets or targets.secrets:
        yield Requirement("secrets", name, "read its files", secrets.readable)
        target = targets.secrets.get(name)
        generated = [] if target is None else [item for item in target.secrets.values() if item.kind == "generated"]
        if not params.rotate or not generated:
            continue
        yield Requirement("secrets", name, "write its files", secrets.writable)
        for secret in generated:
            if secret.postgres is not None and len(secret.postgres.roles) > 1:
                roles = secret.postgres.roles
                need = f"change the roles {' and '.join(roles)}"
                yield Requirement("postgres", secret.postgres.target, need, secrets.may_change(roles))
            if secret.redis is not None:
                need = f"change the passwords of {secret.redis.user}"
                yield Requirement("redis", secret.redis.target, need, secrets.may_change_user(secret.redis))
            recreated |= {secret.recreate} if secret.consumers else set()
    if recreated:
        yield from rollout(targets, params, (*docker.RESTARTS, *(docker.REPLACES if True in recreated else ())))


def retention_compliance(targets: Targets, params: Any) -> Iterator[Requirement | Unconfigured]:
    """Folders can be listed; servers answer; the times of tables and streams can be read."""
    if not params.classes:
        hint = "set the param classes: a policy for each class of data (docs/retention.md)"
        yield Unconfigured("a policy for a class of data", hint)
    for policy in params.classes.values():
        kind = {"table": "postgres", "stream": "redis", "prometheus": "prometheus", "loki": "http"}.get(policy.kind)
        if policy.kind in ("folder", "backup_sets"):
            yield from folders(targets, [policy.folder or policy.backup_sets])
        elif kind is not None:
            name = policy.prometheus or policy.loki or policy.server
            yield Requirement(kind, name, "answers", answers)
