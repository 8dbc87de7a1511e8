"""Check B-tree indexes and heaps for corruption with the extension amcheck."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple

from psycopg import sql

from maintd.checks.postgres.database import Relation
from maintd.checks.postgres.indexes import Index
from maintd.clients.postgres import Postgres, lock_timed_out
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus

_INDEX = "bt_index_check(regclass, boolean)"
_HEAP = "verify_heapam(regclass, boolean, boolean, text, bigint, bigint)"


_ROTATION = 4  # weeks; to look up each row of a table in its index takes many times as long as to check the index


def compares_with_heap(index: Index, week: int) -> bool:
    """Whether it is this index' week to be compared with its table, row by row."""
    return (index.oid + week) % _ROTATION == 0


class Damage(NamedTuple):
    """A corrupt relation, and the server's message."""

    label: str
    message: str


class Amcheck:
    """Checks relations one by one and collects what it found."""

    def __init__(self, session: Postgres) -> None:
        self._session = session
        self.schema = session.extension_schema("amcheck")
        self.can_check_indexes = self.schema is not None and session.can_execute(
            self.schema, "bt_index_check(regclass, boolean)"
        )
        self.can_check_heaps = self.schema is not None and session.can_execute(self.schema, _HEAP)
        self.checked = 0
        self.damage: list[Damage] = []
        self.unfinished = ""  # what the budget did not suffice for
        self.locked: list[str] = []  # not checked because of another session's lock

    @property
    def missing(self) -> str:
        """Why nothing can be checked; empty when indexes or heaps can."""
        if self.schema is None:
            return "amcheck is not installed in this database"
        return "" if self.can_check_indexes or self.can_check_heaps else "this user may not call amcheck's functions"

    def check_index(self, index: Index, timeout: timedelta, *, heap_too: bool = False) -> None:
        """Check one B-tree; `heap_too`: also that it has an entry for each row of the table."""
        assert self.schema is not None
        call = sql.SQL("SELECT {}(%s::oid::regclass, %s)").format(sql.Identifier(self.schema, "bt_index_check"))
        self._check(index.label, timeout, lambda: self._run(call, (index.oid, heap_too)))

    def check_heap(self, relation: Relation, timeout: timedelta) -> None:
        """Check one table's heap."""
        assert self.schema is not None
        call = sql.SQL("SELECT blkno, msg FROM {}(%s::oid::regclass, on_error_stop => true) LIMIT 5").format(
            sql.Identifier(self.schema, "verify_heapam")
        )
        self._check(relation.label, timeout, lambda: self._messages(call, relation.oid))

    def check_all(
        self, tables: Sequence[Relation], indexes: Sequence[Index], budget: timedelta, week: int = 0
    ) -> Iterator[None]:
        """Check every table and valid B-tree, smallest first, until the budget is spent; yield after each.

        A quarter of the indexes, another one each `week`, is compared with its table, too.
        """
        deadline = time.monotonic() + budget.total_seconds()
        work: list[Relation | Index] = list(tables) if self.can_check_heaps else []
        if self.can_check_indexes:
            work += [index for index in indexes if index.method == "btree" and index.valid and not index.temporary]
        work.sort(key=lambda item: item.heap_bytes if isinstance(item, Relation) else item.size_bytes)
        for number, item in enumerate(work):
            left = timedelta(seconds=deadline - time.monotonic())
            if left < timedelta(seconds=1) or self.unfinished:
                self.unfinished = self.unfinished or f"{len(work) - number} of {len(work)} left, first {item.label}"
                return
            if isinstance(item, Relation):
                self.check_heap(item, left)
            else:
                self.check_index(item, left, heap_too=compares_with_heap(item, week))
            yield

    def _check(self, label: str, timeout: timedelta, call: Callable[[], str]) -> None:
        try:
            with self._session.statement_timeout(timeout):
                message = call()
        except TargetError as error:
            if lock_timed_out(error):
                self.locked.append(label)
                return
            if error.cause == "timed_out":
                self.unfinished = f"{label}: {error.message}"
                return
            if error.cause != "failed":
                raise
            message = error.message
        self.checked += 1
        if message:
            self.damage.append(Damage(label, message))

    def _run(self, call: sql.Composed, params: tuple[object, ...]) -> str:
        self._session.rows(call, params)
        return ""

    def _messages(self, call: sql.Composed, oid: int) -> str:
        rows = self._session.rows(call, (oid,))
        return "; ".join(f"block {row['blkno']}: {row['msg']}" for row in rows)


def report_corruption(
    ctx: Context,
    session: Postgres,
    relations: Sequence[Relation],
    found: Sequence[Index],
    budget: timedelta,
    *,
    required: bool,
) -> None:
    """Check indexes and heaps within the budget; report what is corrupt and what was not checked.

    required: without amcheck the check is unknown; otherwise it is only logged.
    """
    name = f"{session.name}: damaged relations"
    amcheck = Amcheck(session)
    if amcheck.missing:
        if required:
            ctx.unknown(name, amcheck.missing, hint="CREATE EXTENSION amcheck; GRANT EXECUTE ON its functions")
        else:
            ctx.log(f"{session.name}: not checked for corruption: {amcheck.missing}")
        return
    for done, _ in enumerate(amcheck.check_all(relations, found, budget, ctx.now().toordinal() // 7), start=1):
        ctx.progress(done, unit="relation")
    if amcheck.locked:
        ctx.log(f"{session.name}: not checked, locked by another session: {', '.join(amcheck.locked)}")
    for damage in amcheck.damage:
        ctx.log(f"{session.name}: DAMAGED {damage.label}: {damage.message}")
    if amcheck.checked or not amcheck.unfinished:
        first = "; ".join(f"{damage.label}: {damage.message}" for damage in amcheck.damage[:3])
        hint = f"stop writing, copy the disk, restore or REINDEX: {first}" if first else ""
        ctx.check(name, len(amcheck.damage), at_most=0, hint=hint)
    ctx.measure("pg_relations_checked", amcheck.checked, target=session.name)
    if amcheck.unfinished:
        ctx.check(
            f"{name}, unfinished",
            amcheck.unfinished,
            equals="all checked",
            severity=CheckStatus.WARN,
            hint="raise amcheck_budget",
        )
