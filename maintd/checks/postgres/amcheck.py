"""Looking for corruption with Postgres' own amcheck: indexes in order, heap rows whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple

from psycopg import sql

from maintd.checks.postgres.indexes import Index
from maintd.checks.postgres.relations import Relation
from maintd.checks.postgres.tables import executable, extension_schema
from maintd.clients.postgres import Postgres, lock_timed_out
from maintd.errors import TargetError

_HEAP = "verify_heapam(regclass, boolean, boolean, text, bigint, bigint)"


class Damage(NamedTuple):
    """Something that is corrupt, in the server's words."""

    label: str
    what: str


class Amcheck:
    """What of amcheck this session may use. `missing` says why when it is nothing."""

    def __init__(self, session: Postgres) -> None:
        self._session = session
        self.schema = extension_schema(session, "amcheck")
        self.indexes = self.schema is not None and executable(session, self.schema, "bt_index_check(regclass, boolean)")
        self.heap = self.schema is not None and executable(session, self.schema, _HEAP)
        self.checked = 0
        self.damage: list[Damage] = []
        self.unfinished = ""
        self.locked: list[str] = []  # not looked at, since someone works on them

    @property
    def missing(self) -> str:
        """Why nothing can be checked; empty when something can."""
        if self.schema is None:
            return "amcheck is not installed in this database"
        return "" if self.indexes or self.heap else "this user may not call amcheck's functions"

    def index(self, index: Index, timeout: timedelta, *, heap_too: bool = False) -> None:
        """One B-tree; `heap_too`: also that each row of the table is in it. Damage is added to `damage`."""
        assert self.schema is not None
        call = sql.SQL("SELECT {}(%s::oid::regclass, %s)").format(sql.Identifier(self.schema, "bt_index_check"))
        self._judge(index.label, timeout, lambda: self._nothing(call, (index.oid, heap_too)))

    def table(self, relation: Relation, timeout: timedelta) -> None:
        """One table's heap. Damage is added to `damage`."""
        assert self.schema is not None
        call = sql.SQL("SELECT blkno, msg FROM {}(%s::oid::regclass, on_error_stop => true) LIMIT 5").format(
            sql.Identifier(self.schema, "verify_heapam")
        )
        self._judge(relation.label, timeout, lambda: self._first(call, relation.oid))

    def all(self, tables: Sequence[Relation], found: Sequence[Index], budget: timedelta) -> Iterator[None]:
        """Every table and valid B-tree, smallest first, one per step of the iteration, until the budget is spent."""
        deadline = time.monotonic() + budget.total_seconds()
        work: list[Relation | Index] = list(tables) if self.heap else []
        if self.indexes:
            work += [index for index in found if index.method == "btree" and index.valid and not index.temporary]
        work.sort(key=lambda item: item.heap_bytes if isinstance(item, Relation) else item.size_bytes)
        for number, item in enumerate(work):
            left = timedelta(seconds=deadline - time.monotonic())
            if left < timedelta(seconds=1) or self.unfinished:
                self.unfinished = self.unfinished or f"{len(work) - number} of {len(work)} left, first {item.label}"
                return
            if isinstance(item, Relation):
                self.table(item, left)
            else:
                self.index(item, left)
            yield

    def _judge(self, label: str, timeout: timedelta, act: Callable[[], str]) -> None:
        try:
            with self._session.allowing(timeout):
                what = act()
        except TargetError as error:
            if lock_timed_out(error):
                self.locked.append(label)
                return
            if error.cause == "timed_out":
                self.unfinished = f"{label}: {error.message}"
                return
            if error.cause != "failed":
                raise
            what = error.message
        self.checked += 1
        if what:
            self.damage.append(Damage(label, what))

    def _nothing(self, call: sql.Composed, params: tuple[object, ...]) -> str:
        self._session.rows(call, params)
        return ""

    def _first(self, call: sql.Composed, oid: int) -> str:
        rows = self._session.rows(call, (oid,))
        return "; ".join(f"block {row['blkno']}: {row['msg']}" for row in rows)
