"""Rebuilding an index of Postgres concurrently, and finding what an interrupted rebuild has left.

REINDEX CONCURRENTLY builds `i_ccnew` beside `i`, swaps their names, and drops the old one as `i_ccold`. Whatever ends
it early leaves one of the two behind, invalid, still written to by every INSERT. To know its own leftovers again, also
after a kill -9, maintd marks the index before: its comment gets a line with the invalid indexes that are there already.
The swap moves a comment along with the name, so the mark is found wherever the rebuild stopped. A leftover is ours when
its index bears the mark and the leftover is not in the mark's list. All others are only reported.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from psycopg import sql

from maintd.checks.postgres.blockers import backups, inactive_slots, lockers, old_transactions, sees_others
from maintd.checks.postgres.indexes import Density, Index, density, is_leftover_of
from maintd.checks.postgres.progress import REINDEX, watched
from maintd.clients.postgres import Postgres, Row
from maintd.errors import TargetError
from maintd.units import format_size

_MARK = re.compile(
    r"(?P<own>.*?)\n?\[maintd rebuilds this index since (?P<at>\S+); invalid before: (?P<before>[\d ]*)\]", re.DOTALL
)
DISK_FLOOR = 0.10
"""Of the disk that a rebuild must leave free."""
DROP_TRIES = 3
MEASURING = timedelta(minutes=5)  # pgstatindex reads the whole index

Opened = Callable[[], Postgres]
"""Opens one more session to the same database."""


class Mark(NamedTuple):
    """What a marked index' comment tells: the comment of its owner, and the invalid indexes that were there before."""

    own: str | None
    before: frozenset[int]


class Attempt(NamedTuple):
    """How a rebuild ended: the server's words, empty when it said OK; `late`: it had waited long enough."""

    problem: str
    late: bool


class Room(NamedTuple):
    """The disk that the server's data is on."""

    free_bytes: int
    total_bytes: int


def with_mark(mark: Mark, at: datetime) -> str:
    """The comment while a rebuild is under way."""
    oids = " ".join(str(oid) for oid in sorted(mark.before))
    line = f"[maintd rebuilds this index since {at:%Y-%m-%dT%H:%M:%SZ}; invalid before: {oids}]"
    return f"{mark.own}\n{line}" if mark.own else line


def read_mark(comment: str | None) -> Mark | None:
    """The mark in a comment, None when there is none."""
    match = _MARK.fullmatch(comment or "")
    if match is None:
        return None
    return Mark(match["own"] or None, frozenset(int(oid) for oid in match["before"].split()))


def marked(found: Sequence[Index]) -> list[tuple[Index, Mark]]:
    """Indexes whose rebuild was begun and never brought to an end."""
    return [(index, mark) for index in found if (mark := read_mark(index.comment)) is not None]


def leftovers(found: Sequence[Index], base: Index) -> list[Index]:
    """Every invalid index that a rebuild of `base` may have left, whoever began it."""
    return [
        index
        for index in found
        if not index.valid
        and index.table_oid == base.table_oid
        and index.schema == base.schema
        and is_leftover_of(index.name, base.name)
    ]


def own_leftovers(found: Sequence[Index], base: Index, mark: Mark) -> list[Index]:
    """Those of them that a rebuild of ours has left."""
    return [index for index in leftovers(found, base) if index.oid not in mark.before]


def mark_of(base: Index, found: Sequence[Index]) -> Mark:
    """The mark for a rebuild that is about to begin; one that is still there from an earlier rebuild gives way."""
    earlier = read_mark(base.comment)
    own = earlier.own if earlier else base.comment
    return Mark(own, frozenset(i.oid for i in found if not i.valid and i.table_oid == base.table_oid))


def comment(session: Postgres, index: Index, text: str | None) -> None:
    """Set an index' comment. Raises TargetError."""
    value = sql.Literal(text) if text else sql.NULL
    session.rows(sql.SQL("COMMENT ON INDEX {} IS {}").format(index.identifier, value))


def attempt(
    session: Postgres,
    opened: Opened,
    index: Index,
    mark: Mark,
    timeout: timedelta,
    progress: Callable[[float, float | None], None],
) -> Attempt:
    """Mark the index and rebuild it while everybody reads and writes on. `opened` gives a session to watch it by.

    Whatever comes of it, the mark is still there and leftovers may be.
    """
    waited_for = set[int]()

    def told(row: Row) -> None:
        progress(row["done"] or 0, row["total"] or None)
        waited_for.update(filter(None, [row["locker"]]))

    try:
        comment(session, index, with_mark(mark, datetime.now(UTC)))  # on the server's disk when it returns
        with opened() as watcher, watched(watcher, REINDEX, session.pid, told):
            session.long(sql.SQL("REINDEX (VERBOSE) INDEX CONCURRENTLY {}").format(index.identifier), timeout)
    except TargetError as error:
        waits = ", ".join(f"pid {pid}" for pid in sorted(waited_for))
        return Attempt(error.message + (f"; it waited for {waits}" if waits else ""), error.cause == "timed_out")
    return Attempt("", late=False)


def drop(session: Postgres, index: Index, patience: timedelta) -> str:
    """Drop a leftover; what stood in the way, empty when it is gone. Each try waits for locks as the session does."""
    statement = sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(index.identifier)
    problem = ""
    for attempt in range(DROP_TRIES):
        try:
            session.long(statement, patience)
        except TargetError as error:
            problem = error.message
            if error.cause != "timed_out":
                return problem
            time.sleep(0.2 * attempt)
        else:
            return ""
    return problem


def fullness(session: Postgres, index: Index, most_bytes: int) -> Density | None:
    """How full its pages are; None when it is larger than this, or cannot be read in time or at all."""
    if index.size_bytes > most_bytes:
        return None
    with suppress(TargetError), session.allowing(MEASURING):
        return density(session, index)
    return None


def gain(index: Index, density: Density) -> int:
    """How many bytes smaller a rebuild makes it: new pages are full to its fill factor."""
    return max(0, round(index.size_bytes * (1 - density.percent / index.fillfactor)))


def candidates(found: Sequence[Index], least_bytes: int) -> list[Index]:
    """Those that a rebuild can be worth, the largest first: valid B-trees. An exclusion cannot be rebuilt so."""
    able = [
        index
        for index in found
        if index.method == "btree"
        and index.valid
        and not (index.is_exclusion or index.temporary or index.building)
        and index.size_bytes >= least_bytes
    ]
    return sorted(able, key=lambda index: -index.size_bytes)


def server_room(session: Postgres, disk: Path | None) -> Room | None:
    """The server's disk, by a folder given, or by the server's own where it is on this machine; None: out of sight."""
    if disk is None:
        with suppress(TargetError):
            row = session.one(
                "SELECT current_setting('data_directory') AS folder, coalesce(inet_server_addr() << '127.0.0.0/8'"
                " OR inet_server_addr() = '::1', true) AS local"
            )
            disk = Path(row["folder"]) if row["local"] else None
    try:
        usage = shutil.disk_usage(disk) if disk is not None else None
    except OSError:
        usage = None
    return Room(usage.free, usage.total) if usage else None


def disk_obstacle(room: Room | None, index_bytes: int, blind_bytes: int) -> str:
    """Why the disk forbids a rebuild: it takes twice the index, and as much WAL as the index. Empty: it does not."""
    if room is None:
        if index_bytes <= blind_bytes:
            return ""
        return f"the server's disk is not seen from here, and {format_size(index_bytes)} is too much to do blindly"
    needed = 3 * index_bytes
    if room.free_bytes - needed >= DISK_FLOOR * room.total_bytes:
        return ""
    return (
        f"the disk has {format_size(room.free_bytes)} free; the rebuild takes {format_size(needed)} of it and must "
        f"leave {format_size(DISK_FLOOR * room.total_bytes)}"
    )


def obstacle(session: Postgres, index: Index, found: Sequence[Index], old: timedelta) -> str:
    """Why now is not the time to rebuild it; empty when nothing is in the way. Raises TargetError."""
    if not sees_others(session):
        return "others' transactions are not shown to this user: GRANT pg_monitor"
    if others := leftovers(found, index):
        names = ", ".join(other.label for other in others)
        return f"an earlier rebuild has left {names}: that must be dropped first"
    for what, holders in (
        ("a transaction has been open for long", old_transactions(session, old)),
        ("someone works on the table", lockers(session, index.table_oid)),
        ("a backup is running", backups(session)),
        ("WAL would pile up for a slot that nobody reads", inactive_slots(session)),
    ):
        if holders:
            return f"{what}: {holders[0]}"
    return ""


def differences(before: Index, after: Index | None) -> list[str]:
    """What is not as it should be after the rebuild; nothing when it is the same index, smaller or not."""
    if after is None:
        return ["it has gone"]
    told = []
    if not after.valid:
        told.append("it is invalid")
    if after.oid == before.oid:
        told.append("it was not rebuilt")
    if after.definition != before.definition:
        told.append(f"its definition was {before.definition} and is {after.definition}")
    if after.constraint_name != before.constraint_name:
        told.append(f"its constraint was {before.constraint_name} and is {after.constraint_name}")
    return told
