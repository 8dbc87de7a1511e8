"""Review queries, indexes and settings of Postgres: what was executed since the last review, and what to change.

Runbook: Quarterly Maintenance, Performance Optimization, 1 Database Optimization

Each run keeps the counters of pg_stat_statements and compares them with those of the run before; a reset in between is
reported, and only what was executed after it is counted. Texts are shown without literals. Indexes are advised, never
created; where HypoPG is installed, the planner estimates their gain. Read-only, but for the param `analyze`, which
collects stale statistics of tables as autovacuum would: only those that the target's user may analyze. Each target is
one database: statements of others are not read. Scans on replicas are not known here.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import Field

from maintd.checks.postgres import index_review, query_sections, settings_review, stale_statistics, statement_history
from maintd.checks.postgres.autovacuum import autovacuum
from maintd.checks.postgres.database import unindexed_foreign_keys
from maintd.checks.postgres.indexes import indexes
from maintd.checks.postgres.statement_history import Executed, Interval
from maintd.checks.postgres.statements import RULE, Snapshot, require_readable, snapshot
from maintd.checks.postgres.table_scans import MIN_BYTES, candidates, read_as_a_whole, scanned_tables
from maintd.checks.postgres.tables import tables
from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.databases import query_review as requirements
from maintd.clients.postgres import Postgres, connect
from maintd.job import Context, Duration, JobParams, Size, job
from maintd.reports.document import Section
from maintd.reports.review_report import publish_review

LOCK_TIMEOUT = timedelta(seconds=1)


class Params(JobParams):
    targets: tuple[str, ...] = ()
    """Names of Postgres targets; all by default."""
    statements: int = Field(default=300, ge=10, le=1000)
    """How many statements of each target are read and kept for the next run, those with the longest total time."""
    slower_factor: float = Field(default=2.0, gt=1)
    """A statement is slower when its mean time is at least so many times what it was until the last run."""
    slower_from: Duration = timedelta(milliseconds=10)
    """A mean time up to this is never slow."""
    large_from: Size = MIN_BYTES
    """Tables and indexes from this size on are reported as lacking an index or unused."""
    memory: dict[str, Size] = {}
    """Memory of each server, by target, such as `{main: 1GiB}`; by default the limit of the container whose service is
    the host of the target's dsn."""
    analyze: bool = False
    """Analyze tables with stale statistics, where the target's user may."""
    analyze_budget: Duration = timedelta(minutes=10)
    """Time for that on one target; one table takes two minutes at most."""
    keep: int = Field(default=24, ge=1)
    """Reports that the reports folder keeps."""


@job(
    timeout="30m",
    repeatable=True,
    locks={"postgres": "shared"},
    needs=("postgres",),
    history=6,
    history_of="job",
    reads_findings=True,
    requires=requirements,
)
def run(ctx: Context, params: Params) -> None:
    """Review each target in turn; a target or a part that cannot be read hides no other."""
    sections: list[Section] = []
    for name in params.targets or tuple(ctx.targets.postgres) or ("main",):
        with isolate_errors(ctx, f"{name}: reviewed"):
            target = ctx.target("postgres", name)
            with connect(target, "query_review", name=name, lock_timeout=LOCK_TIMEOUT) as session:
                sections += review(ctx, params, session, target)
    with ctx.phase("write the report"):
        publish_review(ctx, kind="queries", title="Query review", sections=sections, keep=params.keep)


def review(ctx: Context, params: Params, session: Postgres, target: Any) -> Iterator[Section]:
    """The parts of one target; yields their sections of the report."""
    name = session.name
    found: Interval | None = None
    with ctx.phase(f"{name}: read statements"), isolate_errors(ctx, f"{name}: statements"):
        now = snapshot(session, require_readable(session), params.statements)
        ctx.passed(f"{name}: statements", f"{len(now.statements)} of {now.total} read", expected="readable", rule=RULE)
        found = statement_history.interval(now, statement_history.earlier(ctx, name))
        yield report_statements(ctx, params, name, now, found)
    with ctx.phase(f"{name}: read tables and indexes"), isolate_errors(ctx, f"{name}: indexes"):
        yield report_indexes(ctx, params, session, found.executed if found else ())
    with ctx.phase(f"{name}: read statistics of tables"), isolate_errors(ctx, f"{name}: tables with stale statistics"):
        report_stale(ctx, params, session, target)
    with ctx.phase(f"{name}: read settings"), isolate_errors(ctx, f"{name}: settings"):
        memory, missing = params.memory.get(name), ""
        if memory is None:
            memory, missing = settings_review.memory_limit(target, ctx.targets.docker)
        settings = settings_review.server_settings(session)
        ctx.report(settings_review.criteria(settings, memory, missing, tables(session)), name)
        hits = settings_review.cache_hits(session)
        if hits is not None:
            ctx.measure("pg_cache_hit_ratio", hits, target=name)


def report_statements(ctx: Context, params: Params, name: str, now: Snapshot, found: Interval) -> Section:
    """Report what was executed since the last run, and keep the snapshot."""
    floor_ms = params.slower_from / timedelta(milliseconds=1)
    slower = statement_history.regressions(found.executed, params.slower_factor, floor_ms)
    ctx.report(statement_history.criteria(found, slower, params.slower_factor, floor_ms), name)
    statement_history.measure_means(ctx, name, found)
    statement_history.keep(ctx, name, now)
    ctx.save(f"{name}-statements.json", json.dumps(list(map(evidence, found.executed)), indent=1), "application/json")
    return query_sections.statements_section(name, found, slower, timed=now.timed)


def evidence(item: Executed) -> Mapping[str, Any]:
    """Plain data of a statement; its text has no literals."""
    return {
        "queryid": str(item.statement.query_id),
        "role": item.statement.role,
        "toplevel": item.statement.toplevel,
        "text": item.statement.text,
        "mean_ms": item.mean_ms,
        "mean_before_ms": item.mean_before_ms,
        "at_most": item.at_most,
        **item.counters,
    }


def report_indexes(ctx: Context, params: Params, session: Postgres, executed: tuple[Executed, ...]) -> Section:
    """Report what is missing, unused, double and covered."""
    name = session.name
    scanned, found = scanned_tables(session), indexes(session)
    whole = read_as_a_whole(scanned, params.large_from)
    advice, estimated = candidates(ctx, session, whole, executed)
    supporting, keys = index_review.supporting_foreign_keys(session), unindexed_foreign_keys(session)
    reset, now = settings_review.counted_for(session)
    since = reset if reset is not None else ctx.last("pg_statistics_since", now, target=name) or now
    ctx.measure("pg_statistics_since", since, "s", target=name)
    age = timedelta(seconds=max(now - since, 0))
    ctx.report(index_review.criteria(whole, advice, keys, found, supporting, age, min_bytes=params.large_from), name)
    for table in scanned[: query_sections.MEASURED]:
        if table.sequential_share is not None:
            ctx.measure("pg_seq_scan_share", table.sequential_share, target=name, table=table.label)
    idle = index_review.rarely_used(found, supporting, params.large_from)
    began = f"since {datetime.fromtimestamp(since, UTC):%Y-%m-%d %H:%M} UTC, {age.days} days"
    return query_sections.tables_section(name, scanned, whole, advice, idle, began, estimated=estimated)


def report_stale(ctx: Context, params: Params, session: Postgres, target: Any) -> None:
    """Report stale statistics; collect them where the params ask for it."""
    name = session.name
    now = session.one("SELECT clock_timestamp() AS now")["now"]
    found = stale_statistics.stale(tables(session), autovacuum(session), now)
    if params.analyze and found:
        budget = min(params.analyze_budget, ctx.remaining * 0.5)
        phase = ctx.phase(f"{name}: analyze tables")
        with phase, connect(target, "query_review", name=name, read_only=False) as writer:
            found = stale_statistics.analyze(ctx, writer, found, budget)
    ctx.report([stale_statistics.criterion(found)], name)
