"""Rebuild an index concurrently, and drop what an interrupted rebuild has left.

REINDEX CONCURRENTLY builds `i_ccnew` beside `i`, swaps their names, and drops the old one as `i_ccold`. When it is
interrupted, one of the two stays: invalid, but updated by every write. To recognize its own leftovers, also after a
kill -9, maintd first adds a marker to the index's comment, with the invalid indexes that exist already. The swap moves
the comment along with the name, so the marker is found wherever the rebuild stopped. A leftover is maintd's when its
index has the marker and the leftover is not in the marker's list. Other invalid indexes are only reported.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from psycopg import sql

from maintd.checks.postgres.amcheck import Amcheck
from maintd.checks.postgres.blockers import (
    can_see_other_sessions,
    inactive_slots,
    lock_holders,
    old_transactions,
    running_backups,
    table_users,
)
from maintd.checks.postgres.indexes import Density, Index, density, indexes, is_leftover_of
from maintd.checks.postgres.statement_hints import identifier
from maintd.clients.postgres import SERVER_LOG, Postgres, Row, progress_reported
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.units import format_size

PROGRESS = """
SELECT phase, CASE WHEN tuples_total > 0 THEN tuples_done ELSE blocks_done END AS done,
       CASE WHEN tuples_total > 0 THEN tuples_total ELSE blocks_total END AS total,
       nullif(current_locker_pid, 0) AS locker
  FROM pg_stat_progress_create_index WHERE pid = %s
"""
MIN_FREE_SHARE = 0.10
"""Of the server's disk, after the rebuild."""
DROP_TRIES = 3
DROP_TIMEOUT = timedelta(minutes=1)
STOPPED_LOCK_TIMEOUT = timedelta(seconds=2)
"""Of each try when the attempt is stopped: all of them end within its grace period, so that what is left is known."""
MEASURE_TIMEOUT = timedelta(minutes=5)  # pgstatindex reads the whole index
MAX_VERIFIED_BYTES = 5 * 1024**3
"""Comparing a larger index with its table takes too long."""

_MARKER = re.compile(
    r"(?P<own>.*?)\n?\[maintd rebuilds this index since (?P<at>\S+); invalid before: (?P<before>[\d ]*)\]", re.DOTALL
)

Connect = Callable[[], Postgres]
"""Opens one more session to the same database."""


class Marker(NamedTuple):
    """The owner's own comment, and the oids of the invalid indexes that existed before the rebuild."""

    own: str | None
    before: frozenset[int]


class RebuildResult(NamedTuple):
    """`problem`: the server's message, empty after success. `cause`: as of TargetError."""

    problem: str
    cause: str = ""

    @property
    def timed_out(self) -> bool:
        """Whether it waited or ran for too long."""
        return self.cause == "timed_out"


class DiskSpace(NamedTuple):
    """The disk with the server's data."""

    free_bytes: int
    total_bytes: int


class Conditions(NamedTuple):
    """When an index may be rebuilt."""

    old_transaction: timedelta  # postponed while a transaction is older
    disk: Path | None  # a folder on the server's data disk; None: looked up for a local server
    unseen_up_to: int  # bytes: the largest index to rebuild when the server's disk is not accessible


def marked_comment(marker: Marker, at: datetime) -> str:
    """The comment during a rebuild."""
    oids = " ".join(str(oid) for oid in sorted(marker.before))
    line = f"[maintd rebuilds this index since {at:%Y-%m-%dT%H:%M:%SZ}; invalid before: {oids}]"
    return f"{marker.own}\n{line}" if marker.own else line


def parse_marker(comment: str | None) -> Marker | None:
    """The marker in a comment, None without one."""
    match = _MARKER.fullmatch(comment or "")
    if match is None:
        return None
    return Marker(match["own"] or None, frozenset(int(oid) for oid in match["before"].split()))


def interrupted(found: Sequence[Index]) -> list[tuple[Index, Marker]]:
    """Indexes with a marker: their rebuild did not finish."""
    return [(index, marker) for index in found if (marker := parse_marker(index.comment)) is not None]


def leftovers(found: Sequence[Index], base: Index) -> list[Index]:
    """Invalid indexes that a rebuild of `base` may have left, by any client."""
    return [
        index
        for index in found
        if not index.valid
        and index.table_oid == base.table_oid
        and index.schema == base.schema
        and is_leftover_of(index.name, base.name)
    ]


def own_leftovers(found: Sequence[Index], base: Index, marker: Marker) -> list[Index]:
    """The leftovers of maintd's rebuild."""
    return [index for index in leftovers(found, base) if index.oid not in marker.before]


def new_marker(base: Index, found: Sequence[Index]) -> Marker:
    """The marker for a rebuild of `base`; it replaces that of an earlier rebuild."""
    earlier = parse_marker(base.comment)
    own = earlier.own if earlier else base.comment
    return Marker(own, frozenset(i.oid for i in found if not i.valid and i.table_oid == base.table_oid))


def set_comment(session: Postgres, index: Index, text: str | None) -> None:
    """Set an index's comment. Raises TargetError."""
    value = sql.Literal(text) if text else sql.NULL
    session.rows(sql.SQL("COMMENT ON INDEX {} IS {}").format(index.identifier, value))


def candidates(found: Sequence[Index], min_bytes: int) -> list[Index]:
    """Valid B-trees that may be rebuilt concurrently, largest first; indexes of exclusion constraints may not."""
    able = [
        index
        for index in found
        if index.method == "btree"
        and index.valid
        and not (index.is_exclusion or index.temporary or index.building)
        and index.size_bytes >= min_bytes
    ]
    return sorted(able, key=lambda index: -index.size_bytes)


def measure_density(session: Postgres, index: Index, max_bytes: int) -> Density | None:
    """The index's density; None when it is larger than `max_bytes` or cannot be read within the timeout."""
    if index.size_bytes > max_bytes:
        return None
    with suppress(TargetError), session.statement_timeout(MEASURE_TIMEOUT):
        return density(session, index)
    return None


def gain(index: Index, density: Density) -> int:
    """Bytes that a rebuild saves: it fills the pages up to the fillfactor."""
    return max(0, round(index.size_bytes * (1 - density.percent / index.fillfactor)))


def disk_space(session: Postgres, folder: Path | None) -> DiskSpace | None:
    """The server's disk: of the folder, or of the data directory of a local server; None when it is not accessible."""
    if folder is None:
        with suppress(TargetError):
            row = session.one(
                "SELECT current_setting('data_directory') AS folder, coalesce(inet_server_addr() << '127.0.0.0/8'"
                " OR inet_server_addr() = '::1', true) AS local"
            )
            folder = Path(row["folder"]) if row["local"] else None
    try:
        usage = shutil.disk_usage(folder) if folder is not None else None
    except OSError:
        usage = None
    return DiskSpace(usage.free, usage.total) if usage else None


def disk_obstacle(space: DiskSpace | None, index_bytes: int, max_unknown_bytes: int) -> str:
    """Why the disk does not allow the rebuild, which needs twice the index and as much WAL; empty when it does.

    Without access to the disk, indexes of up to `max_unknown_bytes` are allowed.
    """
    if space is None:
        if index_bytes <= max_unknown_bytes:
            return ""
        return f"the server's disk is not accessible from here, and the index has {format_size(index_bytes)}"
    needed = 3 * index_bytes
    if space.free_bytes - needed >= MIN_FREE_SHARE * space.total_bytes:
        return ""
    return (
        f"the disk has {format_size(space.free_bytes)} free; the rebuild needs {format_size(needed)} of it and must "
        f"leave {format_size(MIN_FREE_SHARE * space.total_bytes)}"
    )


def obstacle(session: Postgres, index: Index, found: Sequence[Index], max_age: timedelta) -> str:
    """Why the index should not be rebuilt now; empty when it may be. Raises TargetError."""
    if not can_see_other_sessions(session):
        return "other users' transactions are hidden from this user: GRANT pg_monitor"
    if others := leftovers(found, index):
        names = ", ".join(other.label for other in others)
        return f"an earlier rebuild has left {names}: drop that first"
    for problem, blockers in (
        ("a transaction has been open for too long", old_transactions(session, max_age)),
        ("another session has locked the table", lock_holders(session, index.table_oid)),
        ("a backup is running", running_backups(session)),
        ("WAL would accumulate for a slot without a consumer", inactive_slots(session)),
    ):
        if blockers:
            return f"{problem}: {blockers[0]}"
    return ""


def rebuild(
    ctx: Context, session: Postgres, open_session: Connect, index: Index, marker: Marker, timeout: timedelta
) -> RebuildResult:
    """Mark the index and rebuild it concurrently; a second session reports the progress.

    The marker and leftovers may remain, whatever the result: call `drop_leftovers` next. When the attempt is stopped,
    they are dropped here, within its grace period.
    """
    waited_for = set[int]()

    def receive(row: Row) -> None:
        ctx.progress(row["done"] or 0, row["total"] or None, "step")
        waited_for.update(filter(None, [row["locker"]]))

    try:
        set_comment(session, index, marked_comment(marker, datetime.now(UTC)))  # durable when it returns
        with open_session() as monitor, progress_reported(monitor, PROGRESS, session.pid, receive):
            session.run(sql.SQL("REINDEX (VERBOSE) INDEX CONCURRENTLY {}").format(index.identifier), timeout)
    except TargetError as error:
        waits = ", ".join(f"pid {pid}" for pid in sorted(waited_for))
        return RebuildResult(error.message + (f"; it waited for {waits}" if waits else ""), error.cause)
    except BaseException:
        session.close()
        with open_session() as cleaner:
            cleaner.set_lock_timeout(STOPPED_LOCK_TIMEOUT)
            drop_leftovers(ctx, cleaner, index, marker)
        raise
    return RebuildResult("")


def drop_leftovers(ctx: Context, session: Postgres, base: Index, marker: Marker) -> None:
    """Drop what maintd's rebuild of `base` has left, then remove the marker; it stays while a leftover does."""
    clean = not ctx.dry_run
    for leftover in own_leftovers(indexes(session), base, marker):
        why = "left by an interrupted rebuild"
        with ctx.change("drop index", f"{session.name}: {leftover.label}", why=why) as allowed:
            problem = _drop(session, leftover) if allowed else ""
            if problem:
                allowed.failed(problem)
        if allowed:
            hint = "every write updates it: end the session that blocks this, then the next run drops it; or: "
            ctx.check(
                f"{session.name}: leftover {leftover.label}",
                problem or "dropped",
                equals="dropped",
                hint=f"{hint}DROP INDEX CONCURRENTLY {leftover.quoted}" if problem else "",
            )
            clean = clean and not problem
    if clean:
        try:
            set_comment(session, base, marker.own)
        except TargetError as error:
            ctx.log(f"{base.label}: its comment keeps maintd's marker until the next run: {error.message}")


def _drop(session: Postgres, index: Index) -> str:
    """Drop an index; the problem, empty when it is dropped. Each try waits up to the session's lock_timeout."""
    statement = sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(index.identifier)
    problem = ""
    for attempt in range(DROP_TRIES):
        try:
            session.run(statement, DROP_TIMEOUT)
        except TargetError as error:
            problem = error.message
            if error.cause != "timed_out":
                return problem
            with suppress(TargetError):
                problem += "".join(f"; in use by {user}" for user in table_users(session, index.table_oid)[:1])
            time.sleep(0.2 * attempt)
        else:
            return ""
    return problem


def differences(before: Index, after: Index | None) -> list[str]:
    """What a rebuild must not change but has, or must change but has not; empty when it succeeded."""
    if after is None:
        return ["it no longer exists"]
    found = []
    if not after.valid:
        found.append("it is invalid")
    if after.oid == before.oid:
        found.append("it was not rebuilt")
    if after.definition != before.definition:
        found.append(f"its definition was {before.definition} and is {after.definition}")
    if after.constraint_name != before.constraint_name:
        found.append(f"its constraint was {before.constraint_name} and is {after.constraint_name}")
    return found


def verify(ctx: Context, session: Postgres, check: str, before: Index, after: Index | None, timeout: timedelta) -> None:
    """Report whether it is the same index, valid, and has an entry for every row, as far as amcheck is available."""
    wrong = "; ".join(differences(before, after))
    ctx.check(check, wrong or "rebuilt", equals="rebuilt", hint=f"compare it with: {before.definition}")
    if after is None or wrong:
        return
    labels = {"target": session.name, "index": before.label}
    ctx.measure("pg_index_bytes", after.size_bytes, "B", **labels)
    ctx.measure("pg_reindex_bytes_saved", before.size_bytes - after.size_bytes, "B", **labels)
    ctx.log(f"{before.label}: {format_size(before.size_bytes)} before, {format_size(after.size_bytes)} after")
    amcheck = Amcheck(session)
    if amcheck.can_check_indexes and after.size_bytes <= MAX_VERIFIED_BYTES:
        amcheck.check_index(after, timeout, heap_too=True)
        wrong = amcheck.unfinished or "; ".join(damage.message for damage in amcheck.damage)
        hint = "pause the entries that write, check the disk, REINDEX it"
        ctx.check(f"{check}, whole", wrong or "whole", equals="whole", hint=hint)
    else:
        ctx.log(f"{before.label}: not compared with its table: {amcheck.missing or 'it is too large'}")


def rebuild_and_verify(
    ctx: Context,
    session: Postgres,
    open_session: Connect,
    index: Index,
    density: Density,
    conditions: Conditions,
    timeout: timedelta,
) -> bool:
    """Rebuild an index unless something prevents it, drop leftovers, verify it. True when a rebuild was started."""
    name, check, found = session.name, f"{session.name}: rebuild of {index.label}", indexes(session)
    index = next((other for other in found if other.oid == index.oid), index)  # its present state
    if not index.permitted:
        hint = f"GRANT {identifier(index.owner)} TO the target's user"
        ctx.fail(check, f"not allowed: the owner is {index.owner}", expected="rebuilt", hint=hint)
        return False
    why = obstacle(session, index, found, conditions.old_transaction)
    why = why or disk_obstacle(disk_space(session, conditions.disk), index.size_bytes, conditions.unseen_up_to)
    if why:
        _warn_postponed(ctx, check, f"postponed: {why}")
        return False
    saving = format_size(gain(index, density))
    target, shown_density = f"{name}: {index.label}", round(density.percent, 1)
    with ExitStack() as stack:
        with ctx.change("reindex", target, density=shown_density, saves=saving) as allowed:
            if not allowed:
                return True
            marker = new_marker(index, found)
            result = rebuild(ctx, session, open_session, index, marker, timeout)
            cleaner = stack.enter_context(open_session())  # the first session may be lost
            after = next((other for other in indexes(cleaner) if other.label == index.label), None)
            swapped = after is not None and after.valid and after.oid != index.oid
            if not swapped:
                not_made = allowed.refused if result.cause == "denied" else allowed.failed
                not_made(result.problem or "the index is still the old one")
        drop_leftovers(ctx, cleaner, index, marker)
        if not result.problem or swapped:  # an error after the swap leaves only a leftover, which is reported already
            verify(ctx, cleaner, check, index, after, timeout)
        elif result.timed_out:
            _warn_postponed(ctx, check, f"stopped: {result.problem}")
        else:
            ctx.fail(check, result.problem, expected="rebuilt", hint=SERVER_LOG)
    return True


def _warn_postponed(ctx: Context, check: str, why: str) -> None:
    """Warn that an index was not rebuilt; nothing is broken."""
    ctx.check(check, why, equals="rebuilt", severity=CheckStatus.WARN, hint="the next run tries again")
