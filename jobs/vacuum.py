"""Clean out dead rows and refresh statistics where autovacuum is behind, and prove that it was done.

Runbook: Weekly Maintenance, System Cleanup, step 2 "Database Maintenance"

Each table is judged by autovacuum's own thresholds; only those over them are vacuumed, one after the other, held back
by a cost limit, never waiting long for a lock and never FULL. A VACUUM that the server declines (not the owner, locked)
is not taken for done, and rows that cannot be removed are blamed on whoever still sees them. Needs a login that is a
member of the tables' owner (up to Postgres 16) or of pg_maintain, and of pg_monitor to see who holds what.
"""

from datetime import timedelta
from fnmatch import fnmatchcase

from pydantic import Field

from maintd.checks.postgres.autovacuum import Need, autovacuum, need, server_criteria, table_criteria
from maintd.checks.postgres.blockers import claimed, holders, sees_others
from maintd.checks.postgres.progress import VACUUM, watched
from maintd.checks.postgres.tables import Table, bloat, databases, tables
from maintd.checks.postgres.vacuum import Gentleness, vacuum
from maintd.clients.postgres import Postgres, connect
from maintd.job import CheckStatus, Context, Duration, JobParams, Size, TargetError, job

MEASURING = timedelta(minutes=5)  # pgstattuple reads every page that is not all visible
GRANT = "GRANT {owner} TO the target's user (from Postgres 17 on: GRANT pg_maintain)"


class Params(JobParams):
    targets: tuple[str, ...] = ()
    """Names of Postgres targets; all by default."""
    tables: tuple[str, ...] = ("*",)
    """Patterns of `schema.table` to look at."""
    exclude: tuple[str, ...] = ()
    """Patterns of `schema.table` to leave alone."""
    threshold: float = Field(default=1.0, gt=0)
    """How far over autovacuum's own threshold a table must be: 1.0 at it, 0.5 at half of it."""
    budget: Duration = timedelta(hours=1)
    """How long the vacuuming of one target may take."""
    max_tables: int = Field(default=200, ge=1)
    """The most tables vacuumed in one run, those with the largest gain first."""
    lock_timeout: Duration = timedelta(seconds=5)
    """How long to wait for a lock."""
    cost_delay: Duration = timedelta(milliseconds=2)
    """Pause after every `cost_limit` of work."""
    cost_limit: int = Field(default=1000, ge=1, le=10_000)
    """Work between two pauses, in Postgres' cost units."""
    memory: Size = 64 * 1024 * 1024
    """maintenance_work_mem of the session."""
    bloat_from: Size = 100 * 1024 * 1024
    """From which size on a table's empty space is measured; the ten largest are."""


@job(
    timeout="2h", mutates=True, repeatable=True, locks={"postgres": "exclusive"}, needs=("postgres",), history_of="job"
)
def run(ctx: Context, params: Params) -> None:
    """Each target in turn; one that cannot be reached fails and does not hold up the others."""
    gentleness = Gentleness(params.lock_timeout, params.cost_delay, params.cost_limit, params.memory)
    for name in params.targets or tuple(ctx.targets.postgres) or ("main",):
        target = ctx.target("postgres", name)
        try:
            with connect(target, "vacuum", name=name, read_only=False) as session, claimed(session):
                gentleness.apply(session)
                with connect(target, "vacuum progress", name=name) as watcher:
                    maintain(ctx, params, session, watcher)
        except TargetError as error:
            hint = error.hint or ""
            ctx.fail(f"{name}: maintained", f"{error.cause}: {error.message}", expected="vacuumed", hint=hint)


def maintain(ctx: Context, params: Params, session: Postgres, watcher: Postgres) -> None:
    """Look, plan, vacuum, look again."""
    target = session.name
    with ctx.phase(f"{target}: find tables that autovacuum has left behind"):
        server, now = autovacuum(session), session.one("SELECT clock_timestamp() AS now")["now"]
        found = [table for table in tables(session) if chosen(params, table)]
        plan = [(table, owed) for table in found if (owed := need(table, server, now, params.threshold))]
        plan.sort(key=lambda item: -item[1].gain)
        ages = databases(session)
        held = holders(session)
        ctx.report(server_criteria(server, found, ages, held, sighted=sees_others(session)), target)
        oldest = max((holder.held.total_seconds() for holder in held if holder.held), default=0.0)
        ctx.measure("pg_oldest_xmin_age_seconds", oldest, "s", target=target)
        for row in ages:
            ctx.measure("pg_xid_age", row["xid_age"], "transaction", target=target, database=row["name"])
            ctx.measure("pg_mxid_age", row["mxid_age"], "multixact", target=target, database=row["name"])
    deadline = ctx.now() + min(params.budget, ctx.remaining * 0.9)
    judged, left = set[int](), [table.label for table, _ in plan[params.max_tables :]]
    for table, owed in ctx.track(plan[: params.max_tables], unit="table"):
        if deadline - ctx.now() < timedelta(seconds=1):
            left.append(table.label)
            continue
        with ctx.phase(f"{target}: {'vacuum' if owed.vacuum else 'analyze'} {table.label}, {owed.why}"):
            if clean(ctx, session, watcher, table, owed, deadline - ctx.now()):
                judged.add(table.oid)
    hint = f"raise budget or max_tables; next in line: {', '.join(left[:5])}" if left else ""
    ctx.check(f"{target}: tables left for the next run", len(left), warn_above=0, hint=hint)
    with ctx.phase(f"{target}: look at what is left"):
        after = [table for table in tables(session) if chosen(params, table)]
        if not ctx.dry_run:
            ctx.report(table_criteria(server, after, judged), target)
        for table in sorted(after, key=lambda table: -table.dead)[:20]:
            ctx.measure("pg_dead_tuples", table.dead, "row", target=target, table=table.label)
        for table in sorted(after, key=lambda table: -table.size_bytes)[:10]:
            if table.size_bytes >= params.bloat_from:
                empty_space(ctx, session, table)


def clean(ctx: Context, session: Postgres, watcher: Postgres, table: Table, owed: Need, timeout: timedelta) -> bool:
    """Vacuum a table and judge what came of it. True when its dead rows are judged here."""
    check = f"{session.name}: vacuum of {table.label}"
    grant = GRANT.format(owner=table.owner)
    if not ctx.may("vacuum" if owed.vacuum else "analyze", f"{session.name}: {table.label}", why=owed.why):
        if not table.permitted:
            ctx.fail(check, "would be declined", expected="done", hint=grant)
        return False
    with watched(watcher, VACUUM, session.pid, lambda row: ctx.progress(row["done"], row["total"], "block")):
        done = vacuum(session, table, owed, timeout)
    if done.locked:
        ctx.check(
            check,
            f"skipped: {done.problem}",
            equals="done",
            severity=CheckStatus.WARN,
            hint="the next run tries again; find out why the lock is held so long",
        )
        return False
    hint = "look at the server's log" if table.permitted else grant
    ctx.check(check, done.problem or "done", equals="done", hint=hint)
    if done.problem or not owed.vacuum:
        return False
    labels = {"target": session.name, "table": table.label}
    ctx.measure("pg_vacuum_duration_seconds", done.took.total_seconds(), "s", **labels)
    ctx.measure("pg_vacuum_tuples_removed", done.removed, "row", **labels)
    # The VACUUM said OK and yet has left rows that are dead, because somebody may still look at them.
    limit = max(50, table.dead // 10)
    blamed = next(iter(holders(session)), "someone who has ended by now") if done.not_removable > limit else ""
    hint = f"held by {blamed}: end it, then vacuum again" if blamed else ""
    ctx.check(f"{session.name}: dead rows kept in {table.label}", done.not_removable, warn_above=limit, hint=hint)
    return True


def empty_space(ctx: Context, session: Postgres, table: Table) -> None:
    """Space that VACUUM has freed within the file stays there; too much of it is worth a rebuild, by a person."""
    name = f"{session.name}: empty space in {table.label}"
    hint = "CREATE EXTENSION pgstattuple, or GRANT pg_read_all_data TO the target's user"
    try:
        with session.allowing(min(MEASURING, ctx.remaining * 0.5)):
            found = bloat(session, table)
    except TargetError as error:
        ctx.unknown(name, error.message, hint=error.hint or hint)
        return
    if found is None:
        ctx.unknown(name, "neither pgstattuple nor the table's statistics can be read", hint=hint)
        return
    ctx.measure("pg_table_free_ratio", found.share, target=session.name, table=table.label, source=found.source)
    hint = f"{found.source}: {found.share:.0%} empty; rebuild it with pg_repack in a maintenance window"
    ctx.check(name, found.free_bytes if found.much else 0, warn_above=0, unit="B", hint=hint)


def chosen(params: Params, table: Table) -> bool:
    """Whether the params let it be looked at."""
    names = (table.label, table.name)
    return any(fnmatchcase(name, pattern) for name in names for pattern in params.tables) and not any(
        fnmatchcase(name, pattern) for name in names for pattern in params.exclude
    )
