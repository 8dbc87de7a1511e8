"""Rebuild the indexes whose pages have become empty, while everybody reads and writes on.

Runbook: Weekly Maintenance, System Cleanup, step 2 "Database Maintenance"

Never REINDEX DATABASE: only B-trees that are measured to be half empty, a few in each run, CONCURRENTLY, and only when
no old transaction, backup or slot stands in the way. What an interrupted rebuild leaves is dropped, at the latest by
the next run, which knows it by a mark in the index' comment; other invalid indexes are only reported. Needs a login
that is a member of the tables' owner, pg_monitor, and the extension pgstattuple in the database.
"""

from datetime import timedelta
from functools import partial
from pathlib import Path

from pydantic import Field

from maintd.checks.postgres import reindex as rebuild
from maintd.checks.postgres.amcheck import Amcheck
from maintd.checks.postgres.blockers import claimed
from maintd.checks.postgres.indexes import Density, Index, indexes, invalid
from maintd.clients.postgres import Postgres, connect
from maintd.job import CheckStatus, Context, Duration, JobParams, Size, TargetError, format_size, job

DROPPING = timedelta(minutes=1)
VERIFY_UP_TO = 5 * 1024**3  # bytes; checking a larger index against its table takes too long


class Params(JobParams):
    targets: tuple[str, ...] = ()
    """Names of Postgres targets; all by default."""
    min_density: float = Field(default=50.0, gt=0, lt=90)
    """Rebuild what is less full than this, in percent; a new index is 90 % full."""
    min_size: Size = 10 * 1024 * 1024
    """Leave smaller indexes alone."""
    measure_up_to: Size = 2 * 1024**3
    """Do not measure larger ones: that reads them whole."""
    max_indexes: int = Field(default=3, ge=1)
    """The most rebuilds in one run, those with the largest gain first."""
    budget: Duration = timedelta(hours=1)
    """How long the rebuilding of one target may take."""
    lock_timeout: Duration = timedelta(seconds=5)
    """How long to wait for a lock, and for each transaction that the rebuild must see the end of."""
    old_transaction: Duration = timedelta(seconds=60)
    """A transaction open for longer than this puts the rebuild off."""
    trust_estimate: bool = False
    """Rebuild by an estimate where pgstattuple cannot be used."""
    disk: Path | None = None
    """A folder on the server's data disk, to see what is free; found by itself where the server is local."""
    unseen_up_to: Size = 1024**3
    """Rebuild up to this size when the server's disk is not seen."""


@job(timeout="2h", mutates=True, repeatable=True, locks={"postgres": "exclusive"}, needs=("postgres",))
def run(ctx: Context, params: Params) -> None:
    """Each target in turn; one that cannot be reached fails and does not hold up the others."""
    for name in params.targets or tuple(ctx.targets.postgres) or ("main",):
        opened = partial(connect, ctx.target("postgres", name), "reindex", name=name, read_only=False)
        try:
            with opened() as session, claimed(session):
                maintain(ctx, params, session, opened)
        except TargetError as error:
            hint = error.hint or ""
            ctx.fail(f"{name}: maintained", f"{error.cause}: {error.message}", expected="rebuilt", hint=hint)


def maintain(ctx: Context, params: Params, session: Postgres, opened: rebuild.Opened) -> None:
    """Clean up, measure, rebuild, report what others have left."""
    name = session.name
    session.wait_for_locks(params.lock_timeout)
    with ctx.phase(f"{name}: clean up after interrupted rebuilds"):
        for base, mark in rebuild.marked(indexes(session)):
            clean_up(ctx, session, base, mark)
    with ctx.phase(f"{name}: measure how full indexes are"):
        plan = bloated(ctx, params, session)
    deadline = ctx.now() + min(params.budget, ctx.remaining * 0.8)
    done = 0
    for number, (index, full) in enumerate(plan):
        if done == params.max_indexes or deadline - ctx.now() < timedelta(seconds=1):
            left = ", ".join(other.label for other, _ in plan[number : number + 5])
            ctx.check(f"{name}: indexes left for the next run", len(plan) - number, warn_above=0, hint=f"next: {left}")
            break
        with ctx.phase(f"{name}: rebuild {index.label}, {format_size(index.size_bytes)}, {full.percent:.0f} % full"):
            done += one(ctx, params, session, opened, index, full, deadline - ctx.now())
    found = invalid(indexes(session))
    hint = f"look at each, then drop or REINDEX it: {', '.join(index.label for index in found[:5])}" if found else ""
    ctx.check(f"{name}: invalid indexes", len(found), warn_above=0, hint=hint)
    ctx.measure("pg_invalid_indexes", len(found), target=name)


def bloated(ctx: Context, params: Params, session: Postgres) -> list[tuple[Index, Density]]:
    """Indexes that are worth a rebuild, the largest gain first."""
    name, plan = session.name, list[tuple[Index, Density]]()
    doubtful, unseen = list[str](), list[str]()
    looked_at = rebuild.candidates(indexes(session), params.min_size)
    for index in ctx.track(looked_at, unit="index"):
        full = rebuild.fullness(session, index, params.measure_up_to)
        if full is None:
            unseen.append(index.label)
            continue
        ctx.measure("pg_index_bytes", index.size_bytes, "B", target=name, index=index.label)
        ctx.measure("pg_index_leaf_density", full.percent, "%", target=name, index=index.label)
        if full.percent < params.min_density * index.fillfactor / 90:
            if full.measured or params.trust_estimate:
                plan.append((index, full))
            else:
                doubtful.append(f"{index.label} ({full.percent:.0f} %)")
    ctx.log(f"{name}: {len(looked_at)} indexes of {format_size(params.min_size)} or more, {len(plan)} to rebuild")
    if unseen:
        cause = f"{len(unseen)} not measured: {', '.join(unseen[:5])}"
        hint = "CREATE EXTENSION pgstattuple; GRANT pg_monitor TO the target's user; or raise measure_up_to"
        ctx.unknown(f"{name}: how full indexes are", cause, hint=hint)
    hint = f"CREATE EXTENSION pgstattuple to be sure, or set trust_estimate: {', '.join(doubtful[:5])}"
    ctx.check(f"{name}: indexes that seem bloated", len(doubtful), warn_above=0, hint=hint if doubtful else "")
    return sorted(plan, key=lambda item: -rebuild.gain(*item))


def one(
    ctx: Context,
    params: Params,
    session: Postgres,
    opened: rebuild.Opened,
    index: Index,
    full: Density,
    timeout: timedelta,
) -> bool:
    """Rebuild an index if nothing is in the way, clean up, prove it. True when it was tried."""
    name, check, found = session.name, f"{session.name}: rebuild of {index.label}", indexes(session)
    index = next((other for other in found if other.oid == index.oid), index)  # as it is by now
    if not index.permitted:
        ctx.fail(
            check,
            f"not allowed: the owner is {index.owner}",
            expected="rebuilt",
            hint=f"GRANT {index.owner} TO the target's user",
        )
        return False
    room = rebuild.server_room(session, params.disk)
    why = rebuild.obstacle(session, index, found, params.old_transaction)
    why = why or rebuild.disk_obstacle(room, index.size_bytes, params.unseen_up_to)
    if why:
        put_off(ctx, check, f"put off: {why}")
        return False
    saving = format_size(rebuild.gain(index, full))
    if not ctx.may("reindex", f"{name}: {index.label}", density=round(full.percent, 1), saves=saving):
        return True
    mark = rebuild.mark_of(index, found)
    try:
        tried = rebuild.attempt(
            session, opened, index, mark, timeout, lambda done, total: ctx.progress(done, total, "step")
        )
    except BaseException:  # stopped from outside: the few seconds that are left suffice to leave nothing behind
        session.close()
        with opened() as cleaner:
            cleaner.wait_for_locks(params.lock_timeout)
            clean_up(ctx, cleaner, index, mark)
        raise
    with opened() as cleaner:  # the session may be lost
        cleaner.wait_for_locks(params.lock_timeout)
        clean_up(ctx, cleaner, index, mark)
        after = next((other for other in indexes(cleaner) if other.label == index.label), None)
        swapped = after is not None and after.valid and after.oid != index.oid
        if not tried.problem or swapped:  # what may go wrong after the swap is a leftover, and judged already
            prove(ctx, cleaner, check, index, after, timeout)
        elif tried.late:
            put_off(ctx, check, f"stopped: {tried.problem}")
        else:
            ctx.fail(check, tried.problem, expected="rebuilt", hint="look at the server's log")
    return True


def prove(ctx: Context, session: Postgres, check: str, before: Index, after: Index | None, timeout: timedelta) -> None:
    """The same index, valid, and whole: every row of the table is in it, as far as amcheck may look."""
    wrong = "; ".join(rebuild.differences(before, after))
    ctx.check(check, wrong or "rebuilt", equals="rebuilt", hint=f"compare it with: {before.definition}")
    if after is None or wrong:
        return
    labels = {"target": session.name, "index": before.label}
    ctx.measure("pg_index_bytes", after.size_bytes, "B", **labels)
    ctx.measure("pg_reindex_bytes_saved", before.size_bytes - after.size_bytes, "B", **labels)
    ctx.log(f"{before.label}: {format_size(before.size_bytes)} before, {format_size(after.size_bytes)} after")
    amcheck = Amcheck(session)
    if amcheck.indexes and after.size_bytes <= VERIFY_UP_TO:
        amcheck.index(after, timeout, heap_too=True)
        wrong = amcheck.unfinished or "; ".join(damage.what for damage in amcheck.damage)
        ctx.check(
            f"{check}, whole", wrong or "whole", equals="whole", hint="freeze maintd, look at the disk, REINDEX it"
        )
    else:
        ctx.log(f"{before.label}: not compared with its table: {amcheck.missing or 'it is too large'}")


def clean_up(ctx: Context, session: Postgres, base: Index, mark: rebuild.Mark) -> None:
    """Drop what our rebuild of `base` has left, then take the mark off. What cannot be dropped keeps the mark."""
    clean = not ctx.dry_run
    for left in rebuild.own_leftovers(indexes(session), base, mark):
        if ctx.may("drop index", f"{session.name}: {left.label}", why="an interrupted rebuild has left it"):
            problem = rebuild.drop(session, left, DROPPING)
            ctx.check(
                f"{session.name}: leftover {left.label}",
                problem or "dropped",
                equals="dropped",
                hint=f"the next run tries again; or: DROP INDEX CONCURRENTLY {left.quoted}",
            )
            clean = clean and not problem
    if clean:
        try:
            rebuild.comment(session, base, mark.own)
        except TargetError as error:
            ctx.log(f"{base.label}: its comment keeps maintd's mark until the next run: {error.message}")


def put_off(ctx: Context, check: str, why: str) -> None:
    """Not done, and nothing is broken."""
    ctx.check(check, why, equals="rebuilt", severity=CheckStatus.WARN, hint="the next run tries again")
