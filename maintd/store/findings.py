"""Findings and their acknowledgements."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, bindparam, case, delete, func, insert, or_, select, update
from sqlalchemy.engine import Connection

from maintd.model.finding import RANK, Acknowledgement, Finding, FindingChange, FindingCounts, finding_key
from maintd.store.audit import add_event
from maintd.store.database import Database
from maintd.store.mapping import AnyRow
from maintd.store.prepared import Prepared, insert_rows
from maintd.store.run_events import REVIEW
from maintd.store.tables import IS_NOT_ENDED, IS_OPEN, acknowledgements, entries, findings

MOST = 1000
"""Most findings of one answer."""

_OF_ACKNOWLEDGEMENT = ("id", "status", "observed", "observed_at", "why", "by", "at", "until", "ended_at", "ended_why")
_COLUMNS = (
    *(column for column in findings.c if column.name not in ("id", "entry_id")),
    entries.c.name.label("entry"),
    *(acknowledgements.c[name].label(f"ack_{name}") for name in _OF_ACKNOWLEDGEMENT),
)
_WITH_ACKNOWLEDGEMENT = and_(acknowledgements.c.finding_id == findings.c.id, IS_NOT_ENDED)

_FINDINGS = (
    select(*_COLUMNS)
    .join_from(findings, entries, entries.c.id == findings.c.entry_id)
    .outerjoin(acknowledgements, _WITH_ACKNOWLEDGEMENT)
)

# From the acknowledgements, of which there are few.
_ACKNOWLEDGED = Prepared(
    select(*_COLUMNS)
    .join_from(acknowledgements, findings, findings.c.id == acknowledgements.c.finding_id)
    .join(entries, entries.c.id == findings.c.entry_id)
    .where(IS_NOT_ENDED, IS_OPEN)
    .order_by(acknowledgements.c.until, acknowledgements.c.id)
)

_ENTRY_ID = Prepared(select(entries.c.id).where(entries.c.name == bindparam("of_name")))

_CHANGED = tuple(column.name for column in findings.c if column.name not in ("id", "key", "entry_id"))
_KNOWN = Prepared(
    update(findings)
    .where(*(findings.c[name] == bindparam(f"of_{name}") for name in ("entry_id", "step", "job", "check")))
    .values({name: bindparam(f"new_{name}") for name in _CHANGED})
    .returning(findings.c.id, findings.c.key)
)
"""Updates a finding, if there is a row of it."""


class Findings:
    """Checks that were not ok, and who acknowledged them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(
        self,
        *,
        only_open: bool = True,
        area: str | None = None,
        since: datetime | None = None,
        limit: int = MOST,
    ) -> list[Finding]:
        """Findings, the worst first, of those the ones seen first; gone ones last.

        `area` is the name of an entry or a job; `since` leaves out those that have been gone since before, and if only
        open ones are wanted, those that were first seen before.
        """
        query = _FINDINGS.order_by(
            findings.c.gone_at.is_not(None), _rank().desc(), findings.c.first_seen_at, findings.c.id
        )
        if only_open:
            query = query.where(IS_OPEN)
        if area is not None:
            query = query.where(or_(entries.c.name == area, findings.c.job == area))
        if since is not None and only_open:
            query = query.where(findings.c.first_seen_at >= since)
        elif since is not None:
            query = query.where(or_(IS_OPEN, findings.c.gone_at >= since))
        return self._read(query.limit(limit))

    def find(self, key: str, limit: int = 10) -> list[Finding]:
        """Findings whose key begins with that; a whole key has at most one."""
        prefix = "".join(digit for digit in key.lower() if digit.isalnum())
        return self._read(_FINDINGS.where(findings.c.key.startswith(prefix)).order_by(findings.c.key).limit(limit))

    def of_checks(self, entry: str, checks: Collection[str]) -> list[Finding]:
        """The findings of an entry, open or gone, of checks with these names."""
        return self._database.read(lambda conn: _of_checks(conn, entry, checks))

    def acknowledged(self) -> list[Finding]:
        """The open findings with an acknowledgement that was not ended, soonest end first; its time may be over."""
        return self._database.read(acknowledged_findings)

    def history(self, key: str) -> list[Acknowledgement]:
        """All acknowledgements of a finding, newest first."""
        columns = [acknowledgements.c[name] for name in _OF_ACKNOWLEDGEMENT]
        query = select(*columns).join(findings, findings.c.id == acknowledgements.c.finding_id)
        query = query.where(findings.c.key == key).order_by(acknowledgements.c.id.desc()).limit(MOST)
        return self._database.read(
            lambda conn: [Acknowledgement.model_validate(row._asdict()) for row in conn.execute(query)]
        )

    def counts(self, now: datetime) -> list[FindingCounts]:
        """The numbers of open findings, apart from those that follow from another check."""
        covered = and_(acknowledgements.c.until > now, _rank() <= _rank(acknowledgements.c.status))
        acknowledged = case((covered, 1), else_=0).label("acknowledged")
        query = (
            select(entries.c.name, findings.c.status, acknowledged, func.count())
            .join_from(findings, entries, entries.c.id == findings.c.entry_id)
            .outerjoin(acknowledgements, _WITH_ACKNOWLEDGEMENT)
            .where(IS_OPEN, findings.c.because == "")
            .group_by(entries.c.name, findings.c.status, acknowledged)
        )
        return self._database.read(
            lambda conn: [
                FindingCounts(entry=row[0], status=row[1], acknowledged=bool(row[2]), count=row[3])
                for row in conn.execute(query)
            ]
        )

    def acknowledge(self, key: str, *, why: str, by: str, until: datetime, now: datetime, origin: str = "") -> bool:
        """Acknowledge an open finding in place of an earlier acknowledgement; False when it is gone."""

        def transaction(conn: Connection) -> bool:
            self._database.lock_names(conn, [REVIEW])
            as_now = (findings.c.status, findings.c.observed, findings.c.last_seen_at)
            query = select(findings.c.id, findings.c.check, entries.c.name, *as_now)
            query = query.join_from(findings, entries, entries.c.id == findings.c.entry_id)
            found = conn.execute(query.where(findings.c.key == key, IS_OPEN)).one_or_none()
            if found is None:
                return False
            _end(conn, [found.id], "acknowledged again", now)
            row = {"finding_id": found.id, "why": why, "by": by, "at": now, "until": until}
            row |= {"status": found.status, "observed": found.observed, "observed_at": found.last_seen_at}
            conn.execute(insert(acknowledgements).values(row))
            text = f"finding {key}, {found.check}, until {until:%Y-%m-%d %H:%M}Z"
            add_event(
                conn, "finding_acknowledged", subject=found.name, by=by, text=text, at=now, origin=origin, why=why
            )
            return True

        return self._database.write(transaction)

    def withdraw(self, key: str, *, by: str, now: datetime, why: str = "", origin: str = "") -> bool:
        """End the acknowledgement of a finding; False when it has none."""

        def transaction(conn: Connection) -> bool:
            self._database.lock_names(conn, [REVIEW])
            query = select(findings.c.id, findings.c.check, entries.c.name)
            query = query.join_from(findings, entries, entries.c.id == findings.c.entry_id)
            found = conn.execute(query.where(findings.c.key == key)).one_or_none()
            if found is None or not _end(conn, [found.id], f"withdrawn by {by}", now, withdrawn=True):
                return False
            text = f"finding {key}, {found.check}"
            kind = "acknowledgement_withdrawn"
            add_event(conn, kind, subject=found.name, by=by, text=text, at=now, origin=origin, why=why)
            return True

        return self._database.write(transaction)

    def withdrawn(self, since: datetime) -> set[str]:
        """The entries with an open finding whose acknowledgement was withdrawn since then."""
        query = select(entries.c.name).distinct()
        query = query.join_from(acknowledgements, findings, findings.c.id == acknowledgements.c.finding_id)
        query = query.join(entries, entries.c.id == findings.c.entry_id).where(
            IS_OPEN, acknowledgements.c.ended_at >= since, acknowledgements.c.withdrawn
        )
        return self._database.read(lambda conn: set(conn.execute(query).scalars()))

    def _read(self, query: Select[Any]) -> list[Finding]:
        return self._database.read(lambda conn: [_finding(row) for row in conn.execute(query)])


def acknowledged_findings(conn: Connection) -> list[Finding]:
    """See `Findings.acknowledged`."""
    return [_finding(row) for row in _ACKNOWLEDGED.rows(conn, {})]


def open_findings(conn: Connection, names: Collection[str] | None = None) -> dict[str, list[Finding]]:
    """The open findings of these entries, by default of all, by the name of the entry; those without any are left
    out."""
    query = _FINDINGS.where(IS_OPEN).order_by(findings.c.id)
    if names is not None:
        query = query.where(entries.c.name.in_(list(names)))
    found: dict[str, list[Finding]] = {}
    for row in conn.execute(query):
        found.setdefault(row.entry, []).append(_finding(row))
    return found


def gone_findings(conn: Connection, entry: str, checks: Collection[str]) -> list[Finding]:
    """The findings of an entry that are gone, of checks with these names."""
    return [finding for finding in _of_checks(conn, entry, checks) if not finding.open]


def _of_checks(conn: Connection, entry: str, checks: Collection[str]) -> list[Finding]:
    wanted, query = list(checks), _FINDINGS.where(entries.c.name == entry)
    return [
        _finding(row)
        for start in range(0, len(wanted), MOST)
        for row in conn.execute(query.where(findings.c.check.in_(wanted[start : start + MOST])))
    ]


def record_changes(
    conn: Connection, entry: str, changes: Iterable[FindingChange], now: datetime
) -> list[FindingChange]:
    """Write what an ended run changed about the findings of its entry; return it with the keys that are stored."""
    recorded = []
    entry_id = _ENTRY_ID.rows(conn, {"of_name": entry})[0].id
    for change in changes:
        finding = change.finding
        gone = None if finding.gone_reason is None else finding.gone_reason.value
        columns = {name: getattr(finding, name) for name in _CHANGED}
        columns |= {"status": finding.status.value, "gone_reason": gone}
        place = {f"of_{name}": columns[name] for name in ("step", "job", "check")}
        new = {f"new_{name}": value for name, value in columns.items()}
        row = _KNOWN.one_or_none(conn, {"of_entry_id": entry_id, **place, **new})
        if row is None:
            key = _free_key(conn, finding, entry_id)
            insert_rows(conn, findings, [columns | {"key": key, "entry_id": entry_id}])
            finding = finding.model_copy(update={"key": key})
        elif change.ended is not None:
            _end(conn, [row.id], change.ended.ended_why, now)
        recorded.append(change.model_copy(update={"finding": finding}))
    return recorded


def forget(conn: Connection, keys: Collection[str]) -> None:
    """Delete these findings."""
    if keys:
        conn.execute(delete(findings).where(findings.c.key.in_(list(keys))))


def end_lapsed(conn: Connection, now: datetime) -> list[Finding]:
    """End the acknowledgements whose time is over; return their findings that are still open."""
    over = update(acknowledgements).where(IS_NOT_ENDED, acknowledgements.c.until <= now)
    over = over.values(ended_at=acknowledgements.c.until, ended_why="its time is over")
    ids = conn.execute(over.returning(acknowledgements.c.finding_id)).scalars().all()
    return [_finding(row) for row in conn.execute(_FINDINGS.where(IS_OPEN, findings.c.id.in_(ids)))] if ids else []


def has_lapsed(conn: Connection, now: datetime) -> bool:
    """Whether `end_lapsed` has something to end."""
    query = select(acknowledgements.c.id).where(IS_NOT_ENDED, acknowledgements.c.until <= now).limit(1)
    return conn.execute(query).scalar_one_or_none() is not None


def _end(conn: Connection, finding_ids: Sequence[int], why: str, now: datetime, *, withdrawn: bool = False) -> bool:
    ended = update(acknowledgements).where(acknowledgements.c.finding_id.in_(finding_ids), IS_NOT_ENDED)
    return conn.execute(ended.values(ended_at=now, ended_why=why, withdrawn=withdrawn)).rowcount > 0


def _free_key(conn: Connection, finding: Finding, entry_id: int) -> str:
    taken = select(findings.c.id).where(findings.c.key == finding.key).limit(1)
    if conn.execute(taken).scalar_one_or_none() is None:
        return finding.key
    return finding_key(finding.entry, finding.step, finding.job, finding.check, salt=str(entry_id))


def _rank(status: ColumnElement[Any] = findings.c.status) -> Any:
    return case({each.value: rank for each, rank in RANK.items()}, value=status, else_=0)


def _finding(row: AnyRow) -> Finding:
    columns = row._asdict()
    own = {name: value for name, value in columns.items() if not name.startswith("ack_")}
    if columns["ack_id"] is None:
        return Finding.model_validate(own)
    acknowledgement = {name: columns[f"ack_{name}"] for name in _OF_ACKNOWLEDGEMENT}
    return Finding.model_validate(own | {"acknowledgement": acknowledgement})
