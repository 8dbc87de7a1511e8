"""Statistics of tables that the planner should not rely on any more, and their collection within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from maintd.checks.hints import name_first, printable
from maintd.checks.postgres.autovacuum import Autovacuum, VacuumNeed, need
from maintd.checks.postgres.statement_hints import identifier, statement
from maintd.checks.postgres.tables import Table
from maintd.checks.postgres.vacuum import vacuum
from maintd.checks.probes import isolate_unforeseen
from maintd.clients.postgres import Postgres
from maintd.job.causes import Role
from maintd.job.context import Context
from maintd.job.criterion import Criterion

LOCK_TIMEOUT = timedelta(seconds=5)
TABLE_TIMEOUT = timedelta(seconds=120)
RULE = "PostgreSQL documentation, 25.1.3 Updating Planner Statistics"
ONLY_ANALYZE = VacuumNeed(vacuum=False, analyze=True, freeze=False, why="", gain=0)


def stale(tables: Sequence[Table], server: Autovacuum, now: datetime) -> list[tuple[Table, str]]:
    """Tables with more changes than autovacuum's threshold, or changed and not analyzed for a week, and why; those with
    the most changes first."""
    found = [(table, due.why) for table in tables if (due := need(table, server, now)).analyze]
    return sorted(found, key=lambda item: -item[0].mods)


def criterion(left: Sequence[tuple[Table, str]]) -> Criterion:
    """The tables whose statistics are stale."""
    names = [statement(f"ANALYZE {table.quoted};", why) for table, why in left]
    return Criterion(
        "tables with stale statistics",
        len(left),
        warn_above=0,
        hint=printable(f"run the job vacuum, or set the param analyze of this one: {name_first(names)}")
        if left
        else "",
        rule=f"{RULE}; the thresholds of autovacuum, or seven days with changes",
    )


def analyze(
    ctx: Context, session: Postgres, found: Sequence[tuple[Table, str]], budget: timedelta
) -> list[tuple[Table, str]]:
    """Analyze these tables, one after the other; return those that are left. Raises TargetError.

    A table that another session has locked, that takes over two minutes, or that this user may not analyze is left.
    """
    session.set_lock_timeout(LOCK_TIMEOUT)
    deadline = ctx.now() + budget
    left: list[tuple[Table, str]] = []
    for table, why in ctx.track(found, unit="table"):
        remaining = deadline - ctx.now()
        if not table.permitted:
            left.append(
                (table, f"{why}; GRANT {identifier(table.owner)} TO the target's user (Postgres 17: pg_maintain)")
            )
            continue
        if remaining < timedelta(seconds=1):
            left.append((table, f"{why}; the budget was spent"))
            continue
        name = f"{session.name}: {table.label}"
        problem = "not done"
        with isolate_unforeseen(ctx, name, role=Role.WORK), ctx.change("analyze", name, why=why) as allowed:
            if allowed:
                result = vacuum(session, table, ONLY_ANALYZE, min(TABLE_TIMEOUT, remaining))
                problem = result.problem
                if problem:
                    (allowed.refused if result.skipped else allowed.failed)(problem)
        if problem:
            left.append((table, f"{why}; {problem}"))
    return left
