"""Say how large each part of the database is, and find what will hurt one day: full sequences, broken indexes, damage.

Runbook: Weekly Maintenance, System Cleanup, step 2 "Database Maintenance"; Monthly Capacity Planning, step 1

Reads only. Sizes are by oid, so that no name can hide a table. Where amcheck is installed and granted, indexes and rows
are checked for damage within a time budget. Needs pg_monitor; for amcheck EXECUTE on its functions.
"""

import csv
import io
import re
from datetime import timedelta
from typing import Literal

from maintd.checks.postgres import database as health
from maintd.checks.postgres import relations as catalog
from maintd.checks.postgres.amcheck import Amcheck
from maintd.checks.postgres.indexes import Index, indexes, invalid
from maintd.clients.postgres import Postgres, connect
from maintd.job import CheckStatus, Context, Duration, JobParams, Size, TargetError, format_size, job
from maintd.job.criterion import Criterion

LARGEST = 20  # relations whose sizes are kept as measures; all are in the artifact
LOCK_PATIENCE = timedelta(seconds=1)
CATALOG_FROM = 10 * 1024 * 1024  # bytes; a smaller table of the catalog is not worth a measure


class Params(JobParams):
    targets: tuple[str, ...] = ()
    """Names of Postgres targets; all by default."""
    max_growth: float = 0.5
    """Growth since the last run that is normal: 0.5 is half as much again."""
    growth_floor: Size = 100 * 1024 * 1024
    """Growth up to this is always normal."""
    unused_from: Size = 10 * 1024 * 1024
    """Size from which on an index that no query uses is reported."""
    foreign_key_from: Size = 10 * 1024 * 1024
    """Size of a table from which on a foreign key without an index is reported."""
    amcheck: Literal["auto", "yes", "no"] = "auto"
    """Look for damage: where it is possible; always, so that it is unknown where not; never."""
    amcheck_budget: Duration = timedelta(minutes=20)
    """How long to look for damage."""
    require_checksums: bool = False
    """Warn where the server keeps no data checksums."""


@job(timeout="45m", repeatable=True, locks={"postgres": "shared"}, needs=("postgres",), history_of="job")
def run(ctx: Context, params: Params) -> None:
    """Each target in turn; one that cannot be reached is unknown and does not hold up the others."""
    for name in params.targets or tuple(ctx.targets.postgres) or ("main",):
        target = ctx.target("postgres", name)
        try:
            with connect(target, "database_size", name=name) as session:
                session.wait_for_locks(LOCK_PATIENCE)
                with ctx.phase(f"{name}: measure sizes"):
                    tables = sizes(ctx, params, session)
                with ctx.phase(f"{name}: read the catalog"):
                    found = indexes(session)
                    ctx.report(catalog_criteria(ctx, params, session, found), name)
                if params.amcheck != "no":
                    with ctx.phase(f"{name}: look for damage"):
                        damage(ctx, params, session, tables, found)
        except TargetError as error:
            ctx.unknown(f"{name}: measured", f"{error.cause}: {error.message}", hint=error.hint or "")


def sizes(ctx: Context, params: Params, session: Postgres) -> list[catalog.Relation]:
    """The database, its relations and its WAL."""
    name, now, tables = session.name, catalog.counters(session), catalog.relations(session)
    last = ctx.last("pg_database_bytes", target=name)
    ctx.report(health.growth_criteria(now.size_bytes, last, params.max_growth, params.growth_floor), name)
    deadlocks = catalog.since(now.deadlocks, ctx.last("pg_deadlocks", target=name))
    ctx.report(health.counter_criteria(now, deadlocks, params.require_checksums), name)
    temporary = catalog.since(now.temp_bytes, ctx.last("pg_temp_bytes", target=name))
    for measure, value, unit in (
        ("pg_database_bytes", now.size_bytes, "B"),
        ("pg_deadlocks", now.deadlocks, ""),
        ("pg_temp_bytes", now.temp_bytes, "B"),
        ("pg_temp_bytes_since", temporary, "B"),
        ("pg_cache_hit_ratio", now.blks_hit / max(now.blks_hit + now.blks_read, 1), ""),
        ("pg_data_checksums", float(now.checksums), ""),
    ):
        if value is not None:
            ctx.measure(measure, value, unit, target=name)
    kept = [table for table in tables if not table.of_catalog or table.total_bytes >= CATALOG_FROM]
    for table in kept[:LARGEST]:
        for part in ("heap", "index", "toast"):
            size = float(getattr(table, f"{part}_bytes"))
            ctx.measure("pg_relation_bytes", size, "B", target=name, table=table.label, part=part)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(catalog.Relation._fields)
    writer.writerows(tables)
    ctx.save(f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}-relations.csv", text.getvalue(), "text/csv; charset=utf-8")
    ctx.log(
        f"{name}: {format_size(now.size_bytes)} in {len(tables)} relations, the largest: "
        + ", ".join(f"{table.label} {format_size(table.total_bytes)}" for table in tables[:3])
    )
    try:
        folder = catalog.wal_folder(session)
    except TargetError as error:
        if error.cause != "denied":
            raise
        ctx.unknown(f"{name}: write-ahead log", error.message, hint="GRANT pg_monitor TO the target's user")
    else:
        ctx.measure("pg_wal_bytes", folder.size_bytes, "B", target=name)
        ctx.report([health.wal_criterion(folder, now.max_wal_bytes)], name)
    return tables


def catalog_criteria(ctx: Context, params: Params, session: Postgres, found: list[Index]) -> list[Criterion]:
    """What the catalog says about sequences, indexes, foreign keys and collations."""
    now = catalog.counters(session)
    points = ctx.series("pg_database_bytes", target=session.name)
    watched_since = now.stats_reset or (points[0].at if points else None)
    watched = now.now - watched_since if watched_since else None
    if watched is None or watched < health.STATISTICS_MATURE:
        ctx.log(
            f"{session.name}: unused indexes are not judged: the statistics have been watched for "
            f"{watched.days if watched else 0} of {health.STATISTICS_MATURE.days} days"
        )
    ctx.measure("pg_invalid_indexes", len(invalid(found)), target=session.name)
    return [
        *health.sequence_criteria(catalog.sequences(session)),
        *health.index_criteria(found, watched, params.unused_from),
        health.foreign_key_criterion(catalog.unindexed_foreign_keys(session), params.foreign_key_from),
        health.collation_criterion(catalog.changed_collations(session)),
    ]


def damage(ctx: Context, params: Params, session: Postgres, tables: list[catalog.Relation], found: list[Index]) -> None:
    """Corruption of indexes and rows. What was not looked at is unknown, where looking was asked for."""
    name = f"{session.name}: damaged relations"
    check = Amcheck(session)
    if check.missing:
        if params.amcheck == "yes":
            ctx.unknown(name, check.missing, hint="CREATE EXTENSION amcheck; GRANT EXECUTE ON its functions")
        else:
            ctx.log(f"{session.name}: not looked for damage: {check.missing}")
        return
    done = 0
    for done, _ in enumerate(check.all(tables, found, min(params.amcheck_budget, ctx.remaining * 0.8)), start=1):
        ctx.progress(done, unit="relation")
    if check.locked:
        ctx.log(f"{session.name}: not looked at, since someone works on them: {', '.join(check.locked)}")
    for one in check.damage:
        ctx.log(f"{session.name}: DAMAGED {one.label}: {one.what}")
    told = "; ".join(f"{one.label}: {one.what}" for one in check.damage[:3])
    hint = f"freeze maintd, save the disk, restore or REINDEX: {told}" if told else ""
    if check.checked or not check.unfinished:
        ctx.check(name, len(check.damage), at_most=0, hint=hint)
    ctx.measure("pg_relations_checked", check.checked, target=session.name)
    if check.unfinished:
        ctx.check(
            f"{name}, unfinished",
            check.unfinished,
            equals="all looked at",
            severity=CheckStatus.WARN,
            hint="raise amcheck_budget",
        )
