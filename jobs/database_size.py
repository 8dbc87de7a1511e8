"""Measure the sizes of databases and tables; find full sequences, invalid and unused indexes, and corruption.

Runbook: Weekly Maintenance, System Cleanup, step 2 "Database Maintenance"; Monthly Capacity Planning, step 1

Read-only. When amcheck is installed and granted, indexes and tables are checked for corruption within a time budget.
Needs pg_monitor; for amcheck EXECUTE on its functions.
"""

import csv
import io
import re
from datetime import timedelta
from typing import Literal

from maintd.checks.postgres import database
from maintd.checks.postgres.amcheck import report_corruption
from maintd.checks.postgres.database import STATISTICS_AGE, Counters, Relation
from maintd.checks.postgres.indexes import Index, indexes, invalid
from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.databases import database_size as requirements
from maintd.clients.postgres import Postgres, connect
from maintd.job import Context, Duration, JobParams, Size, TargetError, format_size, job

LARGEST = 20  # relations whose sizes are kept as measures; the artifact has all
LOCK_TIMEOUT = timedelta(seconds=1)
MIN_CATALOG_BYTES = 10 * 1024 * 1024  # smaller tables of the system catalog are not kept as measures


class Params(JobParams):
    targets: tuple[str, ...] = ()
    """Names of Postgres targets; all by default."""
    max_growth: float = 0.5
    """Normal growth since the last run as a factor: 0.5 is 50 %."""
    growth_floor: Size = 100 * 1024 * 1024
    """Growth up to this size is always normal."""
    unused_from: Size = 10 * 1024 * 1024
    """Report unused indexes from this size on."""
    foreign_key_from: Size = 10 * 1024 * 1024
    """Report foreign keys without an index on tables from this size on."""
    amcheck: Literal["auto", "yes", "no"] = "auto"
    """Check for corruption with amcheck: `auto` where it is available; `yes`: unknown where it is not; `no`: never."""
    amcheck_budget: Duration = timedelta(minutes=20)
    """Time for amcheck on one target."""
    require_checksums: bool = False
    """Warn when the server has no data checksums."""


@job(
    timeout="45m",
    repeatable=True,
    locks={"postgres": "shared"},
    needs=("postgres",),
    history_of="job",
    requires=requirements,
)
def run(ctx: Context, params: Params) -> None:
    """Measure each target in turn; a target that cannot be reached is unknown and does not stop the others."""
    for name in params.targets or tuple(ctx.targets.postgres) or ("main",):
        with isolate_errors(ctx, f"{name}: measured"):
            target = ctx.target("postgres", name)
            with connect(target, "database_size", name=name, lock_timeout=LOCK_TIMEOUT) as session:
                with ctx.phase(f"{name}: measure sizes"):
                    counters, relations = database.counters(session), database.relations(session)
                    report_counters(ctx, params, name, counters)
                    report_relations(ctx, name, relations)
                    report_wal(ctx, session, counters)
                with ctx.phase(f"{name}: read the catalog"):
                    found = indexes(session)
                    report_catalog(ctx, params, session, counters, found)
                if params.amcheck != "no":
                    with ctx.phase(f"{name}: check for corruption"):
                        budget = min(params.amcheck_budget, ctx.remaining * 0.8)
                        required = params.amcheck == "yes"
                        report_corruption(ctx, session, relations, found, budget, required=required)


def report_counters(ctx: Context, params: Params, name: str, now: Counters) -> None:
    """Report the database's growth, deadlocks, temporary files and checksum failures."""
    last = ctx.last("pg_database_bytes", target=name)
    ctx.report(database.growth_criteria(now.size_bytes, last, params.max_growth, params.growth_floor), name)
    ctx.measure("pg_database_bytes", now.size_bytes, "B", target=name)
    deadlocks = ctx.increase("pg_deadlocks", now.deadlocks, target=name)
    ctx.report(database.counter_criteria(now, deadlocks, require_checksums=params.require_checksums), name)
    temporary = ctx.increase("pg_temp_bytes", now.temp_bytes, "B", target=name)
    if temporary is not None:
        ctx.measure("pg_temp_bytes_since", temporary, "B", target=name)
    ctx.measure("pg_cache_hit_ratio", now.blks_hit / max(now.blks_hit + now.blks_read, 1), "", target=name)
    ctx.measure("pg_data_checksums", float(now.checksums), "", target=name)


def report_relations(ctx: Context, name: str, relations: list[Relation]) -> None:
    """Keep the largest relations as measures and all of them as an artifact."""
    kept = [relation for relation in relations if not relation.of_catalog or relation.total_bytes >= MIN_CATALOG_BYTES]
    for relation in kept[:LARGEST]:
        for part, size in (
            ("heap", relation.heap_bytes),
            ("index", relation.index_bytes),
            ("toast", relation.toast_bytes),
        ):
            ctx.measure("pg_relation_bytes", size, "B", target=name, table=relation.label, part=part)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(Relation._fields)
    writer.writerows(relations)
    ctx.save(f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}-relations.csv", text.getvalue(), "text/csv; charset=utf-8")
    largest = ", ".join(f"{relation.label} {format_size(relation.total_bytes)}" for relation in relations[:3])
    ctx.log(f"{name}: {len(relations)} relations, the largest: {largest}")


def report_wal(ctx: Context, session: Postgres, now: Counters) -> None:
    """Report the size of the write-ahead log."""
    try:
        folder = database.wal_folder(session)
    except TargetError as error:
        if error.cause != "denied":
            raise
        ctx.unknown(f"{session.name}: write-ahead log", error.message, hint="GRANT pg_monitor TO the target's user")
        return
    ctx.measure("pg_wal_bytes", folder.size_bytes, "B", target=session.name)
    ctx.report([database.wal_criterion(folder, now.max_wal_bytes)], session.name)


def report_catalog(ctx: Context, params: Params, session: Postgres, now: Counters, found: list[Index]) -> None:
    """Report sequences, indexes, foreign keys and collations."""
    points = ctx.series("pg_database_bytes", target=session.name)
    counted_since = now.stats_reset or (points[0].at if points else None)
    counted_for = now.now - counted_since if counted_since else None
    if counted_for is None or counted_for < STATISTICS_AGE:
        days = counted_for.days if counted_for else 0
        ctx.log(f"{session.name}: unused indexes are not known yet: {days} of {STATISTICS_AGE.days} days of statistics")
    ctx.measure("pg_invalid_indexes", len(invalid(found)), target=session.name)
    ctx.report(database.sequence_criteria(database.sequences(session)), session.name)
    ctx.report(database.index_criteria(found, counted_for, params.unused_from), session.name)
    keys = database.unindexed_foreign_keys(session)
    ctx.report([database.foreign_key_criterion(keys, params.foreign_key_from)], session.name)
    ctx.report([database.collation_criterion(database.changed_collations(session))], session.name)
