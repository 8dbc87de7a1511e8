"""The requirements of the jobs that maintain and review Postgres and Redis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
from maintd.checks.requirements import postgres, redis
from maintd.checks.requirements.requirement import Requirement
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
