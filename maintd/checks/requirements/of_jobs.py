"""The requirements of each shipped job, from its params: what the job's decorator names and `doctor` exercises."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from maintd.checks.audit import postgres as audit_postgres
from maintd.checks.config_review import postgres as config_postgres
from maintd.checks.postgres import (
    autovacuum,
    blockers,
    database,
    index_review,
    indexes,
    settings_review,
    table_scans,
    tables,
    wraparound,
)
from maintd.checks.postgres.health import QUERIES
from maintd.checks.requirements import docker, halts, local, postgres, redis, secrets, services
from maintd.checks.requirements.requirement import Requirement, answers
from maintd.clients import shell
from maintd.clients.redis import Command
from maintd.model.target import Targets

_READS_REDIS: tuple[Command, ...] = (("INFO",), ("DBSIZE",), ("CONFIG", "GET", "save"), ("LASTSAVE",))
_SCANS_REDIS: tuple[Command, ...] = (
    ("SCAN", 0, "COUNT", 1),
    ("TYPE", redis.NO_SUCH_KEY),
    ("PTTL", redis.NO_SUCH_KEY),
    ("MEMORY", "USAGE", redis.NO_SUCH_KEY),
    ("SLOWLOG", "GET", 1),
    ("LATENCY", "LATEST"),
)
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
                    yield from _containers(targets, name)


def vacuum(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Statistics can be read, and the selected tables maintained."""
    for name in params.targets or targets.postgres:
        readers = postgres.reads(tables.tables, autovacuum.autovacuum, wraparound.databases, blockers.snapshot_holders)
        yield Requirement("postgres", name, "read statistics of tables", readers)
        exercise = postgres.maintains(params.tables, params.exclude, analyze=True)
        yield Requirement("postgres", name, "vacuum and analyze tables", exercise)
        yield Requirement("postgres", name, "see all sessions", postgres.sees_sessions)


def reindex(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Indexes can be listed, their density measured, and their tables maintained."""
    for name in params.targets or targets.postgres:
        yield Requirement("postgres", name, "read statistics of indexes", postgres.reads(indexes.indexes))
        exercise = postgres.maintains(("*",), (), analyze=False)
        yield Requirement("postgres", name, "rebuild indexes of all tables", exercise)
        density = postgres.extension("pgstattuple", "pgstatindex(regclass)")
        yield Requirement(
            "postgres", name, "measure the density of indexes", density, optional=bool(params.trust_estimate)
        )
        yield Requirement("postgres", name, "see all sessions", postgres.sees_sessions)


def database_size(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Sizes and the catalog can be read; amcheck can be called where it is wanted."""
    for name in params.targets or targets.postgres:
        readers = postgres.reads(
            database.counters, database.relations, database.sequences, database.unindexed_foreign_keys, indexes.indexes
        )
        yield Requirement("postgres", name, "read sizes and the catalog", readers)
        if params.amcheck != "no":
            exercise = postgres.extension("amcheck", "bt_index_check(regclass, boolean)")
            optional = params.amcheck == "auto"
            yield Requirement("postgres", name, "check for corruption with amcheck", exercise, optional=optional)


def query_review(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Statements, the catalog and settings can be read; tables can be analyzed where that is wanted."""
    for name in params.targets or targets.postgres:
        need = "read statements of all users"
        yield Requirement("postgres", name, need, postgres.reads_statements, optional=True)
        readers = postgres.reads(
            table_scans.scanned_tables,
            indexes.indexes,
            index_review.supporting_foreign_keys,
            database.unindexed_foreign_keys,
            settings_review.counted_for,
            settings_review.server_settings,
            tables.tables,
            autovacuum.autovacuum,
        )
        yield Requirement("postgres", name, "read statistics of tables and indexes", readers)
        if params.analyze:
            exercise = postgres.maintains(("*",), (), analyze=True)
            yield Requirement("postgres", name, "analyze tables", exercise, optional=True)


def app_review(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Containers and images can be read; Prometheus has metrics of use and of runtimes."""
    for name in params.docker or targets.docker:
        exercise = docker.allows(*docker.LISTS, *docker.IMAGES)
        yield Requirement("docker", name, "list containers and images", exercise)
    server = _only(targets.prometheus, params.prometheus)
    if server:
        for what, selectors in (("memory", params.memory), ("CPU", params.cpu)):
            exercise = services.has_one_of({item: item for item in selectors})
            yield Requirement("prometheus", server, f"query {what} usage", exercise, optional=True)


def redis_maintenance(targets: Targets, params: Any) -> Iterator[Requirement]:
    """The user may run the commands of the parts that are enabled; required streams exist."""
    for name in params.targets or targets.redis:
        yield Requirement("redis", name, "read its state", redis.may_run(*_READS_REDIS))
        if params.scan:
            yield Requirement("redis", name, "count and measure keys", redis.may_run(*_SCANS_REDIS))
        if params.save:
            yield Requirement("redis", name, "make a background save", redis.may_run(("BGSAVE", "NOTHING")))
        if params.expire:
            exercise = redis.may_run(("EXPIRE", redis.NO_SUCH_KEY, 1))
            yield Requirement("redis", name, "set expiries", exercise)
        if params.unlink:
            yield Requirement("redis", name, "remove keys", redis.may_run(("UNLINK", redis.NO_SUCH_KEY)))
        if params.trim:
            exercise = redis.may_run(("XTRIM", redis.NO_SUCH_KEY, "NOTHING", 1))
            yield Requirement("redis", name, "trim streams", exercise)
        streams = (*(targets.redis[name].streams if name in targets.redis else ()), *params.streams)
        if streams:
            yield Requirement("redis", name, "read its streams", redis.streams_exist(streams))


def docker_cleanup(targets: Targets, params: Any) -> Iterator[Requirement]:
    """The engine lets every request of the cleanup through."""
    for name in params.targets or targets.docker:
        exercise = docker.allows(*docker.LISTS, *docker.IMAGES, *docker.NETWORKS)
        yield Requirement("docker", name, "list containers, images and networks", exercise)
        removes = [*docker.REMOVES_CONTAINERS, *docker.REMOVES_IMAGES]
        removes += docker.REMOVES_NETWORKS if params.networks is not None else ()
        yield Requirement("docker", name, "remove what is unused", docker.allows(*removes))
        if params.build_cache is not None:
            exercise = docker.allows(*docker.PRUNES_BUILD_CACHE)
            yield Requirement("docker", name, "prune the build cache", exercise)


def image_updates(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Images can be listed; the scanner and its reports are there."""
    for name in params.targets or targets.docker:
        yield Requirement("docker", name, "list containers and images", docker.allows(*docker.LISTS, *docker.IMAGES))
    if params.trivy is not None:
        yield local.program(params.trivy, "scan images")
    if params.trivy_reports is not None:
        yield local.readable_folder(params.trivy_reports, "read trivy's reports")


def trading_review(targets: Targets, params: Any) -> Iterator[Requirement]:
    """The service answers; the queries of the params work and have data."""
    service = _only(targets.http, params.service)
    if service:
        yield Requirement("http", service, f"read {params.path}", services.has_path(params.path))
    if params.day is not None or params.queries:
        statements = {name: (query.sql, (query.table,)) for name, query in params.queries.items()}
        if params.day is not None:
            statements["day"] = (params.day.sql, (params.day.table,))
        yield Requirement(
            "postgres", _only(targets.postgres, params.database), "count activity", postgres.queries(statements)
        )
    if params.streams:
        yield Requirement(
            "redis", _only(targets.redis, params.cache), "count stream entries", redis.streams_exist(params.streams)
        )
    for name in targets.prometheus if params.metrics else ():
        yield Requirement("prometheus", name, "count activity", services.has_series(params.metrics))


def performance_report(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Prometheus has the metrics; the SQL queries work."""
    server = _only(targets.prometheus, params.prometheus)
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
            "postgres", _only(targets.postgres, params.postgres), "run the queries", postgres.queries(statements)
        )


def capacity_report(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Every target whose capacity is measured answers, and its sizes can be read."""
    for kind in ("host", "redis", "docker", "prometheus"):
        for name in targets.of(kind):
            yield Requirement(kind, name, "answers", answers)
    for name in targets.postgres:
        exercise = postgres.reads(database.relations, database.counters)
        yield Requirement("postgres", name, "read sizes", exercise)
    yield from _folders(targets, targets.folders)


def resource_usage(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Hosts and engines answer."""
    for name in targets.host:
        yield Requirement("host", name, "answers", answers)
    for name in targets.docker:
        yield from _containers(targets, name)
    yield from _folders(targets, [name for name in params.backups if name in targets.folders])


def host_review(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Hosts answer."""
    for name in params.hosts or targets.host:
        yield Requirement("host", name, "answers", answers)


def security_audit(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Engines describe themselves and their containers; settings of databases and files can be read."""
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


def backup_verify(targets: Targets, params: Any) -> Iterator[Requirement]:
    """The folders can be read; keys and programs are there."""
    if params.root is not None:
        yield local.readable_folder(params.root, "read backups")
    else:
        yield from _folders(targets, (*params.folders, *params.offsite))
    for path, need in (
        (params.identity, "decrypt backups of age"),
        (params.gpg_key, "decrypt backups of gpg"),
        (params.gpg_passphrase, "decrypt backups of gpg"),
    ):
        if path is not None:
            yield local.readable_file(path, need)
    if params.gpg_key is not None or params.gpg_passphrase is not None:
        yield local.program("gpg", "decrypt backups")
    for name in ("pg_restore", "pg_verifybackup") if params.pg_bin is not None else ():
        yield local.program(name, "verify backups of Postgres", folder=params.pg_bin)


def backup(targets: Targets, params: Any) -> Iterator[Requirement]:
    """The folders can be written; databases can be read as a whole by a client that is new enough; Redis sends a
    snapshot; the folders and files to pack are there."""
    for name in (params.to, params.copy_to):
        if name is not None and (name in targets.folders or name == params.copy_to):
            yield Requirement("folders", name, "write sets of backups", local.writes)
    if params.to not in targets.folders:
        return  # not configured
    for argv, need in ((params.copy_command, "copy a set"), (params.copy_verify, "verify the copy of a set")):
        if argv:
            yield Requirement("program", argv[0], need, local.can_start(shell.Command(argv)))
    for name in targets.postgres if params.postgres is None else params.postgres:
        place = targets.postgres.get(name)
        if place is not None:
            exercise = postgres.can_be_dumped(place)
            yield Requirement("postgres", name, "dump all its rows", exercise)
    for name in params.base_backups:
        place = targets.postgres.get(name)
        if place is not None:
            yield Requirement("postgres", name, "stream a base backup", postgres.may_stream(place))
    for name in targets.redis if params.redis is None else params.redis:
        yield Requirement("redis", name, "read its state", redis.may_run(("INFO",)))
        yield Requirement("redis", name, "receive a snapshot", redis.may_synchronize)
        exercise = redis.append_only_files(params.redis_data.get(name))
        yield Requirement("redis", name, "read its append-only files", exercise, optional=True)
    for path in (*params.paths.values(), *params.secrets.values()):
        yield (local.readable_folder if path.is_dir() else local.readable_file)(path, "back it up")


def rollback_manifest(targets: Targets, params: Any) -> Iterator[Requirement]:
    """The folder can be written; containers can be read and images tagged; the queries of the schema work; files can
    be read."""
    if params.to not in targets.folders:
        return  # not configured
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
    yield from _rollout(targets, params, docker.RESTARTS)


def services_recreate(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Containers can be listed, created, renamed, stopped, started and removed, or the program is there."""
    yield from _rollout(targets, params, docker.REPLACES)
    if params.manifest in targets.folders:  # else it is not configured
        yield from _folders(targets, (params.manifest,))


def rollback(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Those of the level: containers can be replaced; the version of the schema can be read; or a database can be put
    in the place of the live one, the sets of backups read, halts seen, and writers stopped."""
    match params.level:
        case "images":
            if params.manifest in targets.folders:  # else it is not configured
                yield from _folders(targets, (params.manifest,))
                yield from _rollout(targets, params, docker.REPLACES)
        case "schema":
            name = _only(targets.postgres, params.postgres)
            exercise = postgres.queries({"version of the schema": (params.schema_version, ())})
            yield Requirement("postgres", name, "read the version of its schema", exercise)
            if params.down_program:
                started = shell.Command(params.down_program)
                yield Requirement("program", params.down_program[0], "run it", local.can_start(started))
        case "data" if params.backups in targets.folders:
            name = _only(targets.postgres, params.postgres)
            yield from _folders(targets, (params.backups,))
            yield Requirement("postgres", name, "replace its database", postgres.can_be_replaced(params.role))
            if name in targets.postgres:
                yield local.program("pg_restore", "restore a database", folder=targets.postgres[name].bin_dir)
            for halt in targets.halts if params.halted else ():
                yield Requirement("halts", halt, "read whether it is halted", halts.can_be_read(targets, halt))
            if params.writers:
                engine = _only(targets.docker, params.docker)
                yield Requirement("docker", engine, "list containers", docker.allows(*docker.LISTS))
                yield Requirement("docker", engine, "stop and start containers", docker.allows(*docker.STOPS))


def rollback_loss(targets: Targets, params: Any) -> Iterator[Requirement]:
    """The sets of backups can be listed; all tables can be read; the queries work."""
    if params.backups not in targets.folders:
        return  # not configured
    yield from _folders(targets, (params.backups,))
    name = _only(targets.postgres, params.postgres)
    if name in targets.postgres:
        yield Requirement("postgres", name, "dump all its rows", postgres.can_be_dumped(targets.postgres[name]))
    if params.loss:
        statements = {key: (query, ()) for key, query in params.loss.items()}
        yield Requirement("postgres", name, "query what would be lost", postgres.queries(statements))


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
        yield from _rollout(targets, params, (*docker.RESTARTS, *(docker.REPLACES if True in recreated else ())))


def rehearsal(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Containers can be listed, created, renamed, stopped, started and removed, and networks created and removed."""
    name = _only(targets.docker, params.docker)
    if not name or params.manifest not in targets.folders:
        return  # not configured
    yield from _folders(targets, (params.manifest,))
    yield Requirement("docker", name, "list containers", docker.allows(*docker.LISTS, *docker.NETWORKS))
    requests = (*docker.REPLACES, *docker.CREATES_NETWORKS, *docker.REMOVES_REHEARSALS)
    yield Requirement("docker", name, "make copies of containers, and remove them", docker.allows(*requests))


def stability_check(targets: Targets, params: Any) -> Iterator[Requirement]:
    """What its health check needs; the tables and the metric of requests are there."""
    yield from health_check(targets, params.health)
    for name, tables_ in params.tables.items():
        # The pattern of the param leaves only names.
        statements = {table: (f"SELECT count(*) FROM {table}", (table,)) for table in tables_}  # noqa: S608
        yield Requirement("postgres", name, "count rows", postgres.queries(statements))
    server = _only(targets.prometheus, params.prometheus)
    if server and params.requests is not None:
        limits = params.requests
        histogram = {limits.metric: f"{limits.metric}_bucket{{{limits.selector}}}"}
        yield Requirement("prometheus", server, "query request durations", services.has_series(histogram))


def _rollout(targets: Targets, params: Any, requests: Iterable[str]) -> Iterator[Requirement]:
    name = _only(targets.docker, params.docker)
    if name:
        yield Requirement("docker", name, "list containers", docker.allows(*docker.LISTS))
        if not params.compose:
            what = "replace containers" if requests is docker.REPLACES else "restart containers"
            yield Requirement("docker", name, what, docker.allows(*requests))
    if params.compose:
        yield Requirement("program", params.compose[0], "run it", local.can_start(shell.Command(params.compose)))
    for drain in params.drain.values():
        if drain.streams:
            exercise = redis.streams_exist(drain.streams)
            yield Requirement("redis", _only(targets.redis, drain.redis), "read the streams of a drain", exercise)


def restore_drill(targets: Targets, params: Any) -> Iterator[Requirement]:
    """The backups can be read; there is a place to restore into; servers of the right kind can be started."""
    if params.folder not in targets.folders:
        return  # not configured
    yield from _folders(targets, (params.folder,))
    if params.scratch is not None:
        yield Requirement("folders", params.scratch, "restore into it", local.writes)
    if params.identity is not None:
        yield local.readable_file(params.identity, "decrypt backups of age")
    for path in (params.gpg_key, params.gpg_passphrase):
        if path is not None:
            yield local.readable_file(path, "decrypt backups of gpg")
    if params.gpg_key is not None or params.gpg_passphrase is not None:
        yield local.program("gpg", "decrypt backups")
    dirs = {params.bin_dir} if params.bin_dir is not None else {place.bin_dir for place in targets.postgres.values()}
    for folder in dirs:
        yield Requirement("program", "initdb", "make a scratch cluster", local.server_programs(folder))
    if targets.redis:
        yield local.program(str(params.redis_server), "load a snapshot")


def log_cleanup(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Files in the folders may be deleted; Loki answers."""
    if params.loki is not None:
        yield Requirement("http", params.loki, "answers", answers)
    if params.root is not None:
        yield Requirement("folder", str(params.root), "delete old logs", local.writes)
        return
    for name in params.folders:
        yield Requirement("folders", name, "delete old logs", local.writes)


def security_log_review(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Login events can be read; the source of the services' logs answers."""
    if params.logins and params.auth_log is not None:
        yield local.readable_file(params.auth_log, "review logins")
    if params.logins and params.auth_log is None:
        yield local.program("journalctl", "review logins", optional=True)
    if not params.requests:
        return
    if params.folder is not None:
        yield from _folders(targets, (params.folder,))
    elif params.loki is not None:
        yield Requirement("http", params.loki, "answers", answers)
    else:
        for name in params.docker or targets.docker:
            yield from _containers(targets, name)


def alert_review(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Prometheus, Alertmanager and Grafana answer."""
    for name in params.prometheus or targets.prometheus:
        yield Requirement("prometheus", name, "answers", answers)
    for name in params.alertmanager or targets.alertmanager:
        yield Requirement("alertmanager", name, "answers", answers)
    if params.grafana is not None:
        exercise = services.has_path(params.grafana_path)
        yield Requirement("http", params.grafana, f"read {params.grafana_path}", exercise)


def certificates(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Servers complete a handshake; folders and files with certificates can be read; containers can be listed."""
    for name in targets.tls if params.tls is None else params.tls:
        yield Requirement("tls", name, "complete a handshake", answers)
    names = ("certificates",) if params.folders is None else params.folders
    yield from _folders(targets, [name for name in names if name in targets.folders])
    for path in params.files:
        yield local.readable_file(path, "read its certificates")
    for name in targets.docker if params.routers else ():
        yield Requirement("docker", name, "list containers", docker.allows(*docker.LISTS))


def dependency_review(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Lock files, an export and outputs of npm audit can be read; services are asked only about packages."""
    for path in (*params.lock_files, *params.audits):
        yield local.readable_file(path, "read it")
    names = ("source",) if params.folders is None else params.folders
    yield from _folders(targets, [name for name in names if name in targets.folders])
    if params.export is not None and params.export.is_dir():
        yield local.readable_folder(params.export, "read the export of OSV")
    elif params.export is not None:
        yield local.readable_file(params.export, "read the export of OSV")


def access_review(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Roles of Postgres can be read; Grafana answers; files can be read."""
    for name in params.postgres or targets.postgres:
        yield Requirement("postgres", name, "answers", answers)
    if params.grafana is not None:
        exercise = services.has_path("/api/org/users")
        yield Requirement("http", params.grafana, "read its users", exercise)
    for path in params.basic_auth:
        yield local.readable_file(path, "list its names")


def config_review(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Everything can be read with the rights of the targets' users; the folder of the baselines can be written."""
    for name in targets.postgres if params.postgres is None else params.postgres:
        statements = {key: (query, ()) for key, query in config_postgres.QUERIES.items()}
        yield Requirement("postgres", name, "read its settings", postgres.queries(statements))
    for name in targets.redis if params.redis is None else params.redis:
        yield Requirement("redis", name, "read its settings", redis.may_run(("CONFIG", "GET", "*")))
    for kind, names in (("prometheus", params.prometheus), ("alertmanager", params.alertmanager)):
        for name in targets.of(kind) if names is None else names:
            yield Requirement(kind, name, "answers", answers)
    for name in targets.docker if params.docker is None else params.docker:
        yield from _containers(targets, name)
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


def retention_compliance(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Folders can be listed; servers answer; the times of tables and streams can be read."""
    for policy in params.classes.values():
        kind = {"table": "postgres", "stream": "redis", "prometheus": "prometheus", "loki": "http"}.get(policy.kind)
        if policy.kind in ("folder", "backup_sets"):
            yield from _folders(targets, [policy.folder or policy.backup_sets])
        elif kind is not None:
            name = policy.prometheus or policy.loki or policy.server
            yield Requirement(kind, name, "answers", answers)


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


def _containers(targets: Targets, name: str) -> Iterator[Requirement]:
    yield Requirement("docker", name, "list containers", docker.allows(*docker.LISTS))
    target = targets.docker.get(name)
    if target is not None and target.services:
        exercise = docker.has_services(target.services, target.project)
        yield Requirement("docker", name, "find the expected services", exercise)


def _folders(targets: Targets, names: Iterable[str]) -> Iterator[Requirement]:
    for name in names:
        yield Requirement("folders", name, "list its files", local.lists)


def _only(targets: dict[str, Any], name: str | None) -> str:
    """The name that a job uses without a param: the only target, or `main`."""
    if name is not None:
        return name
    return next(iter(targets)) if len(targets) == 1 else "main" if targets else ""
