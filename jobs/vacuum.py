"""Vacuum and analyze the tables that autovacuum has not kept up with, and verify the result in the server's statistics.

Runbook: Weekly Maintenance, System Cleanup, step 2 "Database Maintenance"

Only tables over autovacuum's own thresholds are vacuumed, one after the other, with a cost limit and a short
lock_timeout, never FULL. A VACUUM that the server skips (not the owner, locked) is a failure or a warning, not a
success. Dead rows that cannot be removed are reported with the session, transaction or slot that holds them. Needs a
login that is a member of the tables' owner (up to Postgres 16) or of pg_maintain, and of pg_monitor to see other
users' sessions.
"""

from datetime import timedelta

from pydantic import Field

from maintd.checks.postgres.autovacuum import VacuumNeed, autovacuum, autovacuum_criteria, need, table_criteria
from maintd.checks.postgres.blockers import maintenance_lock
from maintd.checks.postgres.tables import Table, report_bloat, selected, tables
from maintd.checks.postgres.vacuum import PROGRESS, PinWatch, VacuumSettings, kept_rows_criterion, report_ages, vacuum
from maintd.checks.postgres.wraparound import KINDS
from maintd.checks.probes import isolate_errors, isolate_unforeseen
from maintd.checks.requirements.jobs.databases import vacuum as requirements
from maintd.clients.postgres import Postgres, Row, connect, progress_reported
from maintd.job import Context, Duration, JobParams, Role, Size, job

GRANT = "GRANT {owner} TO the target's user (Postgres 17 and later: GRANT pg_maintain)"


class Params(JobParams):
    targets: tuple[str, ...] = ()
    """Names of Postgres targets; all by default."""
    tables: tuple[str, ...] = ("*",)
    """Patterns of `schema.table` to include."""
    exclude: tuple[str, ...] = ()
    """Patterns of `schema.table` to exclude."""
    threshold: float = Field(default=1.0, gt=0)
    """Factor for autovacuum's thresholds: 1.0 vacuums at the threshold, 0.5 at half of it."""
    budget: Duration = timedelta(hours=1)
    """Time for one target."""
    max_tables: int = Field(default=200, ge=1)
    """Tables vacuumed in one run at most, those with the largest gain first."""
    lock_timeout: Duration = timedelta(seconds=5)
    """How long to wait for a lock."""
    pin_timeout: Duration = timedelta(seconds=30)
    """How long to wait for a page that another session holds, such as by an open cursor; then the next table."""
    cost_delay: Duration = timedelta(milliseconds=2)
    """vacuum_cost_delay of the session: the pause after each `cost_limit` of work."""
    cost_limit: int = Field(default=1000, ge=1, le=10_000)
    """vacuum_cost_limit of the session: the work between two pauses, in Postgres' cost units."""
    memory: Size = 64 * 1024 * 1024
    """maintenance_work_mem of the session."""
    bloat_from: Size = 100 * 1024 * 1024
    """Measure the empty space of the ten largest tables from this size on."""


@job(
    timeout="2h",
    mutates=True,
    repeatable=True,
    locks={"postgres": "exclusive"},
    needs=("postgres",),
    history_of="job",
    requires=requirements,
)
def run(ctx: Context, params: Params) -> None:
    """Maintain each target in turn; a target that fails does not stop the others."""
    settings = VacuumSettings(params.lock_timeout, params.cost_delay, params.cost_limit, params.memory)
    for name in params.targets or tuple(ctx.targets.postgres) or ("main",):
        with isolate_errors(ctx, f"{name}: maintained", expected="vacuumed", role=Role.WORK):
            target = ctx.target("postgres", name)
            with connect(target, "vacuum", name=name, read_only=False) as session, maintenance_lock(session):
                settings.apply(session)
                with connect(target, "vacuum progress", name=name) as monitor:
                    maintain(ctx, params, session, monitor)


def maintain(ctx: Context, params: Params, session: Postgres, monitor: Postgres) -> None:
    """Find the tables that need it, vacuum them, report what is left."""
    target = session.name
    with ctx.phase(f"{target}: find tables that autovacuum has left behind"):
        server, now = autovacuum(session), session.one("SELECT clock_timestamp() AS now")["now"]
        before = selected(tables(session), params.tables, params.exclude)
        plan = [(table, due) for table in before if (due := need(table, server, now, params.threshold))]
        plan.sort(key=lambda item: -item[1].gain)
        report_ages(ctx, session, {setting: server.number(setting) for _, _, setting in KINDS})
        ctx.report(autovacuum_criteria(server, before), target)
    deadline = ctx.now() + min(params.budget, ctx.remaining * 0.9)
    reported, left = set[int](), [table.label for table, _ in plan[params.max_tables :]]
    for table, due in ctx.track(plan[: params.max_tables], unit="table"):
        if deadline - ctx.now() < timedelta(seconds=1):
            left.append(table.label)
            continue
        with (
            ctx.phase(f"{target}: {'vacuum' if due.vacuum else 'analyze'} {table.label}, {due.why}"),
            isolate_unforeseen(ctx, f"{target}: {table.label}", role=Role.WORK),
        ):
            if vacuum_table(ctx, session, monitor, table, due, deadline - ctx.now(), params.pin_timeout):
                reported.add(table.oid)
    hint = f"raise budget or max_tables; next: {', '.join(left[:5])}" if left else ""
    ctx.check(f"{target}: tables left for the next run", len(left), warn_above=0, hint=hint)
    with ctx.phase(f"{target}: report dead rows, ages and empty space"):
        after = selected(tables(session), params.tables, params.exclude)
        if not ctx.dry_run:
            ctx.report(table_criteria(server, after, reported), target)
        for table in sorted(after, key=lambda table: -table.dead)[:20]:
            ctx.measure("pg_dead_tuples", table.dead, "row", target=target, table=table.label)
        for table in sorted(after, key=lambda table: -table.size_bytes)[:10]:
            if table.size_bytes >= params.bloat_from:
                report_bloat(ctx, session, table)


def vacuum_table(
    ctx: Context,
    session: Postgres,
    monitor: Postgres,
    table: Table,
    due: VacuumNeed,
    timeout: timedelta,
    pin_timeout: timedelta,
) -> bool:
    """Vacuum a table and report the result. True when its dead rows are reported here."""
    target, grant = session.name, GRANT.format(owner=table.owner)
    action = "vacuum" if due.vacuum else "analyze"
    with ctx.change(action, f"{target}: {table.label}", why=due.why) as allowed:
        if allowed:
            watch = PinWatch(monitor, session.pid, table, pin_timeout)

            def report(row: Row) -> None:
                ctx.progress(row["done"], row["total"], "block")
                watch.look(row)

            with progress_reported(monitor, PROGRESS, session.pid, report):
                result = vacuum(session, table, due, timeout, watch)
            if result.problem:
                (allowed.refused if result.skipped else allowed.failed)(result.problem)
    if not allowed:
        if not table.permitted:
            ctx.fail(f"{target}: vacuum of {table.label}", "not allowed", expected="done", hint=grant)
        return False
    ctx.report([result.criterion(table, grant)], target)
    if result.problem or not due.vacuum:
        return False
    ctx.measure("pg_vacuum_duration_seconds", result.duration.total_seconds(), "s", target=target, table=table.label)
    ctx.measure("pg_vacuum_tuples_removed", result.removed, "row", target=target, table=table.label)
    ctx.report([kept_rows_criterion(session, table, result)], target)
    return True
