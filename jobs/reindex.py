"""Rebuild bloated indexes concurrently.

Runbook: Weekly Maintenance, System Cleanup, step 2 "Database Maintenance"

Never REINDEX DATABASE: only B-trees that are measured to be half empty, a few in each run, CONCURRENTLY, and only while
no old transaction, backup or inactive slot interferes. The leftovers of an interrupted rebuild are dropped, at the
latest by the next run, which recognizes them by a marker in the index's comment. Other invalid indexes are only
reported. Needs a login that is a member of the tables' owner, pg_monitor, and the extension pgstattuple.
"""

from datetime import timedelta
from functools import partial
from pathlib import Path

from pydantic import Field

from maintd.checks.postgres import reindex
from maintd.checks.postgres.blockers import maintenance_lock
from maintd.checks.postgres.database import invalid_criterion
from maintd.checks.postgres.indexes import Density, Index, indexes, invalid
from maintd.checks.probes import isolate_errors, isolate_unforeseen
from maintd.checks.requirements.jobs.databases import reindex as requirements
from maintd.clients.postgres import Postgres, connect
from maintd.job import Context, Duration, JobParams, Role, Size, format_size, job


class Params(JobParams):
    targets: tuple[str, ...] = ()
    """Names of Postgres targets; all by default."""
    min_density: float = Field(default=50.0, gt=0, lt=90)
    """Rebuild indexes with a lower density, in percent; a new index has 90."""
    min_size: Size = 10 * 1024 * 1024
    """Ignore smaller indexes."""
    measure_up_to: Size = 2 * 1024**3
    """Do not measure larger indexes: measuring reads all of the index."""
    max_indexes: int = Field(default=3, ge=1)
    """Rebuilds in one run at most, those with the largest gain first."""
    budget: Duration = timedelta(hours=1)
    """Time for the rebuilds of one target."""
    lock_timeout: Duration = timedelta(seconds=5)
    """How long to wait for a lock, and for each transaction that the rebuild waits for."""
    old_transaction: Duration = timedelta(seconds=60)
    """Postpone the rebuild while a transaction is open for longer than this."""
    trust_estimate: bool = False
    """Rebuild by an estimate of the density when pgstattuple is not available."""
    disk: Path | None = None
    """A folder on the server's data disk, for its free space; not needed for a local server."""
    unseen_up_to: Size = 1024**3
    """Largest index to rebuild when the server's disk is not accessible."""


@job(
    timeout="2h",
    mutates=True,
    repeatable=True,
    locks={"postgres": "exclusive"},
    needs=("postgres",),
    requires=requirements,
)
def run(ctx: Context, params: Params) -> None:
    """Maintain each target in turn; a target that fails does not stop the others."""
    for name in params.targets or tuple(ctx.targets.postgres) or ("main",):
        with isolate_errors(ctx, f"{name}: maintained", expected="rebuilt", role=Role.WORK):
            target, timeout = ctx.target("postgres", name), params.lock_timeout
            open_session = partial(connect, target, "reindex", name=name, read_only=False, lock_timeout=timeout)
            with open_session() as session, maintenance_lock(session):
                maintain(ctx, params, session, open_session)


def maintain(ctx: Context, params: Params, session: Postgres, open_session: reindex.Connect) -> None:
    """Drop leftovers, measure, rebuild, report invalid indexes."""
    name = session.name
    with ctx.phase(f"{name}: drop leftovers of interrupted rebuilds"):
        for index, marker in reindex.interrupted(indexes(session)):
            with isolate_unforeseen(ctx, f"{name}: leftovers of {index.label}", role=Role.WORK):
                reindex.drop_leftovers(ctx, session, index, marker)
    with ctx.phase(f"{name}: measure the density of indexes"):
        bloated = find_bloated(ctx, params, session)
    deadline = ctx.now() + min(params.budget, ctx.remaining * 0.8)
    conditions = reindex.Conditions(params.old_transaction, params.disk, params.unseen_up_to)
    rebuilt = 0
    for number, (index, density) in enumerate(bloated):
        if rebuilt == params.max_indexes or deadline - ctx.now() < timedelta(seconds=1):
            left = ", ".join(other.label for other, _ in bloated[number : number + 5])
            ctx.check(
                f"{name}: indexes left for the next run", len(bloated) - number, warn_above=0, hint=f"next: {left}"
            )
            break
        with (
            ctx.phase(f"{name}: rebuild {index.label}, {format_size(index.size_bytes)}, {density.percent:.0f} % full"),
            isolate_unforeseen(ctx, f"{name}: {index.label}", role=Role.WORK),
        ):
            timeout = deadline - ctx.now()
            rebuilt += reindex.rebuild_and_verify(ctx, session, open_session, index, density, conditions, timeout)
    remaining = indexes(session)
    ctx.report([invalid_criterion(remaining)], name)
    ctx.measure("pg_invalid_indexes", len(invalid(remaining)), target=name)


def find_bloated(ctx: Context, params: Params, session: Postgres) -> list[tuple[Index, Density]]:
    """The indexes to rebuild with their density, largest gain first."""
    name, bloated = session.name, list[tuple[Index, Density]]()
    estimated, not_measured = list[str](), list[str]()
    candidates = reindex.candidates(indexes(session), params.min_size)
    for index in ctx.track(candidates, unit="index"):
        density = None
        with isolate_unforeseen(ctx, f"{name}: density of {index.label}"):
            density = reindex.measure_density(session, index, params.measure_up_to)
        if density is None:
            not_measured.append(index.label)
            continue
        ctx.measure("pg_index_bytes", index.size_bytes, "B", target=name, index=index.label)
        ctx.measure("pg_index_leaf_density", density.percent, "%", target=name, index=index.label)
        if density.percent < params.min_density * index.fillfactor / 90:
            if density.measured or params.trust_estimate:
                bloated.append((index, density))
            else:
                estimated.append(f"{index.label} ({density.percent:.0f} %)")
    ctx.log(f"{name}: {len(candidates)} indexes of {format_size(params.min_size)} or more, {len(bloated)} to rebuild")
    if not_measured:
        cause = f"{len(not_measured)} not measured: {', '.join(not_measured[:5])}"
        hint = "CREATE EXTENSION pgstattuple; GRANT pg_monitor TO the target's user; or raise measure_up_to"
        ctx.unknown(f"{name}: how full indexes are", cause, hint=hint)
    hint = f"CREATE EXTENSION pgstattuple to measure them, or set trust_estimate: {', '.join(estimated[:5])}"
    ctx.check(f"{name}: indexes that seem bloated", len(estimated), warn_above=0, hint=hint if estimated else "")
    return sorted(bloated, key=lambda item: -reindex.gain(*item))
