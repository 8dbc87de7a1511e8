"""A rollback of data, from the choice of the backup to the database in its place: nothing is changed before all of what
it needs was seen to be there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from maintd.checks.restore.databases import Query
from maintd.checks.rollback import loss, permission
from maintd.checks.rollback.dumps import Dump, choose_dump, verify_dump
from maintd.checks.rollback.live import LiveServer, Missing, find, missing_for, missing_rights, owners_and_extensions
from maintd.checks.rollback.replacement import KEPT, Replacement
from maintd.checks.rollback.writers import Writers
from maintd.clients.pg_dump import database_of, require_version
from maintd.clients.postgres import connect
from maintd.errors import MaintdError, TargetError
from maintd.job.causes import Role
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.model.target import PostgresTarget


@dataclass(frozen=True)
class DataOptions:
    """Params of the job, see there."""

    backups: str
    set: str
    role: str | None
    gate: str
    accept_loss: str
    halted: bool
    jobs: int
    amcheck: bool
    unproven: bool
    loss: Mapping[str, str]
    queries: Mapping[str, Query]


def require_sets(ctx: Context, folder: str) -> None:
    """Require that the folder with sets of backups is configured. Raises TargetError."""
    if folder not in ctx.targets.folders:
        hint = f"set targets.folders.{folder} in the calendar to the folder that the job backup writes to"
        raise TargetError(f'no folder "{folder}" is configured', hint, cause="not_configured")


def postgres_target(ctx: Context, name: str | None) -> tuple[str, PostgresTarget]:
    """The Postgres target with its name. Raises TargetError."""
    target: PostgresTarget = ctx.target("postgres", name)
    return next(key for key, found in ctx.targets.postgres.items() if found == target), target


def database_name(target: PostgresTarget, name: str) -> str:
    """The database of a target, which its own session knows best. Raises TargetError.

    A database that accepts no connections, or is not there, is known by the dsn only.
    """
    try:
        with connect(target, "rollback", name=f"postgres {name}") as session:
            return str(session.one("SELECT current_database() AS name")["name"])
    except TargetError as error:
        from_dsn = database_of(target)
        if from_dsn and error.cause == "failed":
            return from_dsn
        raise


def state_loss(
    ctx: Context, name: str, target: PostgresTarget, backups: str, wanted: str, queries: Mapping[str, str]
) -> None:
    """Report what a restore of the chosen set would lose, and hand it over for the approval. Raises TargetError."""
    database = database_name(target, name)
    with ctx.phase("choose the set of backups"):
        dump = choose_dump(ctx, backups, wanted, name, database)
        verify_dump(ctx, dump)
    with ctx.phase(f"compare {database} with {dump.source}"):
        found = _measure(ctx, LiveServer(ctx, name, target, None, ctx.work_dir), dump, database, queries)
    subject = f"postgres {name}: {database}"
    ctx.report([found.criterion()], subject)
    ctx.passed(loss.STATED, f"{database} {found.text}"[:1000], expected="stated to the person who approves")
    if found.wal_bytes is not None:
        ctx.measure("rollback_loss_wal_bytes", found.wal_bytes, "B", target=name)
    if not found.unknown:
        ctx.measure("rollback_loss_rows", found.rows, "row", target=name)
        ctx.measure("rollback_loss_tables", len(found.tables), "table", target=name)
    about = {"set": dump.source, "database": database, "digest": found.digest, "text": found.text[:2000]}
    ctx.hand_over(loss.HANDED, {**(ctx.handed(loss.HANDED) or {}), name: about})


def roll_back(ctx: Context, name: str, target: PostgresTarget, options: DataOptions, writers: Writers) -> None:
    """Restore the database of a target from a backup, and put it in the place of the damaged one.

    1. Choose the set, compare its sums; see what the login may do. 2. Require the approval, and that all is halted.
    3. Stop the writers, and see that no more is lost than was approved. 4. Restore into a new database, and prove it.
    5. Swap. 6. Start the writers. Raises TargetError and CheckFailedError; then the damaged one has the name.
    """
    database = database_name(target, name)
    server = LiveServer(ctx, name, target, options.role, ctx.work_dir)
    stated = permission.stated_loss(ctx, name)
    wanted = str(stated["set"]) if stated is not None and options.gate in ctx.approvals else options.set
    with ctx.phase("choose the set of backups"):
        dump = choose_dump(ctx, options.backups, wanted, name, database)
        verify_dump(ctx, dump)
    replacement = _examine(ctx, server, database, dump)
    permission.require_halted(ctx, needed=options.halted)
    permission.require_approval(ctx, options.gate, options.accept_loss, database, dump.source)
    left = replacement.recover(dump.source)
    kept = left.kept
    if not left.done:
        kept = _replace(ctx, server, replacement, dump, options, writers, stated)
        if ctx.dry_run:
            return
    writers.start()
    _verify_place(ctx, target, name, replacement)
    replacement.finish(kept)


def give_up(ctx: Context, name: str, target: PostgresTarget, role: str | None, writers: Writers) -> None:
    """End what a run that was stopped has left before its swap: the database is open, the copy gone, writers run.

    A database that was swapped stays so, and is named. Raises TargetError.
    """
    database = database_name(target, name)
    server = LiveServer(ctx, name, target, role, ctx.work_dir)
    kept = str(ctx.handed(KEPT, ""))
    with server.elsewhere(database) as session:
        found = find(session, database)
        is_kept = bool(kept) and find(session, kept) is not None
    if found is None:
        raise TargetError(f"there is no database {database}", "look for it in pg_database", cause="not_found")
    replacement = Replacement(ctx, server, found)
    if is_kept and not replacement.swapped:
        hint = f"to swap it back by hand: end all sessions, and rename {database} and {kept} in one transaction"
        name, seen = f"{replacement.subject}: given up", f"it was replaced; the damaged one is kept as {kept}"
        ctx.fail(name, seen, expected="undone", hint=hint)
        return
    if replacement.swapped:
        hint = "run it again without back: what is left to do is to start the writers"
        ctx.fail(
            f"{replacement.subject}: given up", f"it is in place, {found.comment[:200]}", expected="undone", hint=hint
        )
        return
    replacement.recover("")
    writers.start()
    ctx.passed(f"{replacement.subject}: given up", "open, as before", expected="nothing is left")


def _examine(ctx: Context, server: LiveServer, database: str, dump: Dump) -> Replacement:
    """See that all is there that the restore needs. Raises CheckFailedError, naming what is missing."""
    with ctx.phase("see what the server and the login have"), server.elsewhere(database) as session:
        version = require_version(server.target, "pg_restore", session.version)
        found = find(session, database)
        if found is None:
            hint = f"create it empty, with its owner: CREATE DATABASE {database} OWNER …; then run this again"
            raise TargetError(f"there is no database {database}", hint, cause="not_found")
        missing: list[Missing] = missing_rights(session, found)
        missing += missing_for(session, *owners_and_extensions(server.listing(dump.path)))
    subject = f"postgres {server.name}: {database}"
    hint = "; ".join(f"{item.text}: {item.hint}" for item in missing[:5])
    ctx.require(f"{subject}: rights that are missing", len(missing), at_most=0, hint=hint)
    ctx.passed(f"{subject}: can be restored", f"by pg_restore {version}", expected="all rights are there")
    hint = "they stay with the damaged one: create them again afterwards"
    slots = f"{subject}: replication slots"
    ctx.check(slots, found.slots, equals=0, severity=CheckStatus.WARN, hint=hint if found.slots else "")
    return Replacement(ctx, server, found)


def _replace(
    ctx: Context,
    server: LiveServer,
    replacement: Replacement,
    dump: Dump,
    options: DataOptions,
    writers: Writers,
    stated: Mapping[str, object] | None,
) -> str:
    """Steps 3 to 5; the name of the damaged database. Raises TargetError: then the writers run again."""
    created = False
    try:
        writers.stop()
        _require_approved_loss(ctx, server, replacement, dump, options, stated)
        with ctx.phase(f"restore {dump.source} into {replacement.new}"):
            created = True
            replacement.restore(dump, options.jobs)
        if ctx.dry_run:
            return ""
        _require_proof(ctx, replacement, dump, options)
        permission.require_halted(ctx, needed=options.halted)  # a halt can end with the day
        with ctx.phase(f"put {replacement.new} in the place of {replacement.database.name}"):
            return replacement.swap(dump.source)
    except MaintdError:
        if created:
            try:
                replacement.drop_new()
            except TargetError as error:
                check = f"{replacement.new}: dropped"
                ctx.report_error(check, error, expected="dropped, since it is not complete", role=Role.WORK)
        try:
            writers.start()
        except MaintdError as error:
            ctx.report_error("writers: started again", error, expected="running", role=Role.WORK)
        raise


def _require_proof(ctx: Context, replacement: Replacement, dump: Dump, options: DataOptions) -> None:
    """Prove the new database. Raises CheckFailedError when a check of it failed, or could not be observed."""
    failed, unknown = len(ctx.failed), len(ctx.not_observed)
    replacement.prove(dump, options.queries, amcheck=options.amcheck)
    bad = [check.name for check in ctx.failed[failed:]]
    hint = f"{'; '.join(bad[:3])}: the damaged database keeps its name; name another set" if bad else ""
    ctx.require(f"{replacement.new}: checks that failed", len(bad), at_most=0, hint=hint)
    open_ones = [check.name for check in ctx.not_observed[unknown:]]
    if open_ones and not options.unproven:
        hint = f"{'; '.join(open_ones[:3])}: the damaged database keeps its name; or set unproven: true"
        ctx.require(f"{replacement.new}: checks without a result", len(open_ones), at_most=0, hint=hint)


def _require_approved_loss(
    ctx: Context,
    server: LiveServer,
    replacement: Replacement,
    dump: Dump,
    options: DataOptions,
    stated: Mapping[str, object] | None,
) -> None:
    """Require that what is lost is what was stated before the approval. Raises CheckFailedError."""
    database = replacement.database.name
    with ctx.phase(f"see what {database} has that {dump.source} does not have"):
        found = _measure(ctx, server, dump, database, options.loss)
    ctx.log(f"{database} {found.text}")
    approved = stated is not None and options.gate in ctx.approvals
    if approved and stated is not None and stated.get("digest") is not None:
        same = found.digest == stated["digest"]
        hint = f"something still writes to it, or has: {found.text[:300]}; nothing was changed"
        now = "as it was stated" if same else "more, or unknown, since the approval"
        ctx.require(f"{replacement.subject}: loss", now, equals="as it was stated", hint=hint)
    ctx.measure("rollback_loss_rows", found.rows, "row", target=server.name)


def _measure(ctx: Context, server: LiveServer, dump: Dump, database: str, queries: Mapping[str, str]) -> loss.Loss:
    try:
        with server.session(database, read_only=True) as session:
            return loss.measure(ctx, session, dump.about, dump.source, dump.taken_at, queries)
    except TargetError as error:
        found = loss.Loss(dump.source, dump.taken_at)
        found.unknown.append(f"the database cannot be read: {error.message}")
        return found


def _verify_place(ctx: Context, target: PostgresTarget, name: str, replacement: Replacement) -> None:
    """See by the application's own way of connecting that it reaches the restored database. Raises TargetError."""
    database = replacement.database.name
    query = "SELECT oid::bigint AS oid, current_database() AS name FROM pg_database WHERE datname = current_database()"
    with connect(target, "rollback", name=f"postgres {name}") as session:
        row = session.one(query)
    seen = "the restored one" if replacement.is_restored(int(row["oid"]), str(row["name"])) else "another"
    hint = "look for it in pg_database by its comment"
    ctx.check(f"{replacement.subject}: database behind {database}", seen, equals="the restored one", hint=hint)
