"""The tables. Ids are integers, enumerations are text, free structures are JSON text.

A change here needs a migration; `tests/contracts/test_store_schema.py` compares the two.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    and_,
    false,
    literal_column,
    or_,
    text,
)
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql import ColumnElement, FromClause
from sqlalchemy.types import TIMESTAMP, TypeDecorator, TypeEngine

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime: timestamptz on Postgres, microseconds since 1970 as an integer on SQLite."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(BigInteger() if dialect.name == "sqlite" else TIMESTAMP(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name != "sqlite":
            return value
        return (value - EPOCH) // MICROSECOND

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment: datetime = EPOCH + value * MICROSECOND if dialect.name == "sqlite" else value.astimezone(UTC)
        return moment


class Microseconds(TypeDecorator[timedelta]):
    """A length of time as a whole number of microseconds."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: timedelta | None, dialect: Dialect) -> int | None:
        return None if value is None else value // MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> timedelta | None:
        return None if value is None else value * MICROSECOND


class CleanText(TypeDecorator[str]):
    """Text from outside. NUL and lone surrogates, which databases reject, become the replacement character."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        if not value.isascii():
            value = value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        return value.replace("\0", "\ufffd")


class Json(TypeDecorator[Any]):
    """Any JSON value as text. JSON columns reject NaN on Postgres and change the text of numbers on SQLite."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        return json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


Id = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _of_run() -> Column[int]:
    return Column("run_id", Id, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False)


def _of_run_key() -> Column[int]:
    return Column("run_id", Id, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)


entries = Table(
    "entries",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", CleanText, nullable=False, unique=True),
    Column("title", CleanText, nullable=False),
    Column("rule", Text),
    Column("policy", Text, nullable=False),
    Column("fingerprint", Text),  # null: never in a calendar, a job that was run under its own name
    Column("planned_through", UtcDateTime, nullable=False),
    Column("first_seen_at", UtcDateTime, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("pause_why", CleanText),
    Column("pause_by", CleanText),
    Column("pause_since", UtcDateTime),  # null: not paused
    Column("pause_until", UtcDateTime),
)

plans = Table(
    "plans",  # steps and policy, shared by all runs with equal ones
    metadata,
    Column("id", Id, primary_key=True),
    Column("digest", Text, nullable=False, unique=True),
    Column("steps", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("used_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)

plan_jobs = Table(
    "plan_jobs",
    metadata,
    Column("job", CleanText, primary_key=True),
    Column("plan_id", Id, ForeignKey("plans.id", ondelete="CASCADE"), primary_key=True, index=True),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("entry_id", Id, ForeignKey("entries.id"), nullable=False),
    Column("plan_id", Id, ForeignKey("plans.id"), nullable=False),
    Column("title", CleanText, nullable=False),
    Column("trigger", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("skip_reason", Text),
    Column("reason", CleanText, nullable=False),
    Column("due_at", UtcDateTime),
    Column("queued_at", UtcDateTime, nullable=False),
    Column("not_before", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("node", CleanText),
    Column("incarnation", Text),
    Column("lease_until", UtcDateTime),
    Column("fence", Integer, nullable=False),
    Column("recorded_seq", Integer, nullable=False),  # the number of the last recorded update
    Column("cancel_requested", CleanText, nullable=False),
    Column("requested_by", CleanText, nullable=False),
    Column("why", CleanText, nullable=False),
    Column("dry_run", Boolean, nullable=False),
    Column("params", Json, nullable=False),
    Column("idempotency_key", CleanText),
    Column("waiting_step", Integer),  # the gate where it waits
    Column("waiting_until", UtcDateTime),
    Column("held", Boolean, nullable=False, server_default=false()),
    Column("emergency", CleanText, nullable=False, server_default=text("''")),
    Column("waited", Microseconds, nullable=False, server_default=text("0")),
    Column("window_from", UtcDateTime),
    sqlite_autoincrement=True,  # ids are never reused, so the ledger can keep them after pruning
)

# SQLite uses a partial index only for a query that contains its condition with a literal value.
IS_QUEUED = runs.c.state == literal_column("'queued'")
IS_RUNNING = runs.c.state == literal_column("'running'")
IS_WAITING = runs.c.state == literal_column("'waiting'")
IS_HELD = runs.c.held.is_(literal_column("true"))
HAS_KEY = runs.c.idempotency_key.is_not(None)


def is_in_progress(of: FromClause = runs) -> ColumnElement[bool]:
    """Whether a run is running, or waits at a gate in the middle of its steps."""
    return of.c.state.in_((literal_column("'running'"), literal_column("'waiting'")))


def is_to_continue(of: FromClause = runs) -> ColumnElement[bool]:
    """Whether a queued run has begun, or resumes or undoes another one."""
    takes_over = of.c.trigger.in_((literal_column("'resume'"), literal_column("'undo'")))
    return and_(of.c.state == literal_column("'queued'"), or_(of.c.started_at.is_not(None), takes_over))


Index("ix_runs_entry", runs.c.entry_id, runs.c.id)
Index("ix_runs_entry_state", runs.c.entry_id, runs.c.state, runs.c.dry_run, runs.c.id)
Index("ix_runs_state", runs.c.state, runs.c.id)
Index("ix_runs_plan", runs.c.plan_id, runs.c.id)
Index("ix_runs_queued_at", runs.c.queued_at, runs.c.id)
Index("ix_runs_queued", runs.c.not_before, runs.c.id, sqlite_where=IS_QUEUED)
Index("ix_runs_waiting", runs.c.waiting_until, runs.c.id, sqlite_where=IS_WAITING)
Index("ix_runs_held", runs.c.id, sqlite_where=IS_HELD)
Index("ix_runs_to_continue", runs.c.entry_id, sqlite_where=is_to_continue())
# At most one run per entry that is running or waits at a gate, whichever node claims it.
Index("uq_runs_in_progress", runs.c.entry_id, unique=True, sqlite_where=is_in_progress())
Index("uq_runs_idempotency_key", runs.c.idempotency_key, unique=True, sqlite_where=HAS_KEY)

ledger = Table(
    "ledger",  # every due time that was planned; outlives its run
    metadata,
    Column("entry_id", Id, ForeignKey("entries.id"), primary_key=True),
    Column("due_at", UtcDateTime, primary_key=True),
    Column("run_id", Id),
    sqlite_with_rowid=False,
)

steps = Table(
    "steps",  # a row once the step was started or skipped; name, job and params are in the plan
    metadata,
    _of_run_key(),
    Column("step", Integer, primary_key=True),
    Column("state", Text, nullable=False),
    Column("reason", CleanText, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("left_by", Id),  # of an undo step: the run that left in effect what it undoes
    sqlite_with_rowid=False,
)

attempts = Table(
    "attempts",
    metadata,
    _of_run_key(),
    Column("step", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("state", Text, nullable=False),
    Column("reason", CleanText, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("pid", Integer),
    Column("exit_code", BigInteger),
    Column("signal", Integer),
    Column("complete", Boolean, nullable=False, server_default=false()),  # the job returned; no evidence was left out
    Column("phase", CleanText, nullable=False),
    Column("progress", Text),
    Column("log_lines", Integer, nullable=False),
    Column("log_bytes", BigInteger, nullable=False),
    Column("log_lines_left_out", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

log_lines = Table(
    "log_lines",
    metadata,
    _of_run_key(),
    Column("step", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("stream", Text, nullable=False),
    Column("text", CleanText, nullable=False),
    sqlite_with_rowid=False,
)


def _evidence(name: str, *columns: Column[Any], indexed: tuple[str, ...] = ("run_id",)) -> Table:
    return Table(
        name,
        metadata,
        Column("id", Id, primary_key=True),
        _of_run(),
        Column("step", Integer, nullable=False),
        Column("attempt", Integer, nullable=False),
        *columns,
        Index(f"ix_{name}_run", *indexed),
    )


checks = _evidence(
    "checks",
    Column("name", CleanText, nullable=False),
    Column("observed", Json, nullable=False),
    Column("expected", CleanText, nullable=False),
    Column("unit", CleanText, nullable=False),
    Column("status", Text, nullable=False),
    Column("hint", CleanText, nullable=False),
    Column("optional", Boolean, nullable=False, server_default=false()),
    Column("because", CleanText, nullable=False, server_default=text("''")),
    Column("missed_limit", Float(53)),
    Column("rule", CleanText, nullable=False, server_default=text("''")),
)

changes = _evidence(
    "changes",
    Column("action", CleanText, nullable=False),
    Column("target", CleanText, nullable=False),
    Column("details", Json, nullable=False),
    Column("number", Integer, nullable=False, server_default=text("0")),
    Column("state", Text, nullable=False, server_default=text("'done'")),
    Column("cause", CleanText, nullable=False, server_default=text("''")),
    indexed=("run_id", "step", "attempt", "number"),
)

artifacts = _evidence(
    "artifacts",
    Column("name", CleanText, nullable=False),
    Column("path", CleanText, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("media_type", CleanText, nullable=False),
)

series = Table(
    "series",  # the measures of one name, of one job in one entry
    metadata,
    Column("id", Id, primary_key=True),
    Column("entry_id", Id, ForeignKey("entries.id"), nullable=False),
    Column("job", CleanText, nullable=False),
    Column("name", CleanText, nullable=False),
    UniqueConstraint("entry_id", "job", "name"),
    Index("ix_series_job", "job"),
)

measures = _evidence(
    "measures",
    Column("series_id", Id, ForeignKey("series.id"), nullable=False),
    Column("value", Float(53)),  # null: not a number
    Column("unit", CleanText, nullable=False),
    Column("labels", Json, nullable=False),
)
Index("ix_measures_series", measures.c.series_id, measures.c.id)

HELD_BY_RUN = ""
"""The step of a lock that is held by a run as a whole."""

locks = Table(
    "locks",
    metadata,
    Column("lock", CleanText, primary_key=True),
    _of_run_key(),
    Column("step", CleanText, primary_key=True),
    Column("mode", Text, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("held", Boolean, nullable=False, server_default=false()),  # valid without a claim, until it is released
    Index("ix_locks_run", "run_id"),
)

gate_decisions = Table(
    "gate_decisions",  # who ticked, approved or rejected what
    metadata,
    Column("id", Id, primary_key=True),
    _of_run(),
    Column("step", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("item", Integer),
    Column("by", CleanText, nullable=False),
    Column("origin", CleanText, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("note", CleanText, nullable=False),
    Column("emergency", Boolean, nullable=False),
    Index("ix_gate_decisions_run", "run_id"),
)

handed_values = Table(
    "handed_values",  # from step to step of a run
    metadata,
    _of_run_key(),
    Column("name", CleanText, primary_key=True),
    Column("value", Json, nullable=False),
    Column("step", Integer, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

run_links = Table(
    "run_links",  # a run that follows from another
    metadata,
    _of_run_key(),
    Column("kind", Text, primary_key=True),
    Column("other_run_id", Id, nullable=False),
    UniqueConstraint("other_run_id", "kind"),  # whichever node is first; nothing follows twice
)

notes = Table(
    "notes",  # remarks of persons about runs
    metadata,
    Column("id", Id, primary_key=True),
    _of_run(),
    Column("at", UtcDateTime, nullable=False),
    Column("by", CleanText, nullable=False),
    Column("origin", CleanText, nullable=False),
    Column("text", CleanText, nullable=False),
    Index("ix_notes_run", "run_id"),
)

records = Table(
    "records",  # the chain of hashes over what was recorded; outlives its runs
    metadata,
    Column("id", Id, primary_key=True, autoincrement=False),  # from 1, without gaps
    Column("kind", Text, nullable=False),  # see RecordKind
    Column("run_id", Id, nullable=False),
    Column("note_id", Id),
    Column("at", UtcDateTime, nullable=False),
    Column("digest", Text, nullable=False),  # SHA-256 of the record as canonical JSON, in hex
    Column("artifacts", Text),  # the digest of the list of artifacts, which is pruned before the run
    Column("head", Text, nullable=False),  # SHA-256 of the earlier head and the columns above, in hex
    Column("pruned_by", Id),  # the record of the pruning that deleted its run or note
    Column("artifacts_pruned_by", Id),
    Index("ix_records_run", "run_id"),
)

for _column in (records.c.pruned_by, records.c.artifacts_pruned_by):
    Index(f"ix_records_{_column.name}", _column, sqlite_where=_column.is_not(None))

freezes = Table(
    "freezes",
    metadata,
    Column("id", Id, primary_key=True),
    Column("entries", CleanText, nullable=False),  # a name or a pattern
    Column("why", CleanText, nullable=False),
    Column("by", CleanText, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("until", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),  # before `until`, by an operator
    Column("ended_by", CleanText, nullable=False, server_default=text("''")),
)

nodes = Table(
    "nodes",
    metadata,
    Column("name", CleanText, primary_key=True),
    Column("incarnation", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    Column("version", Text, nullable=False),
    Column("slots", Integer, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", Id, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", CleanText, nullable=False),
    Column("by", CleanText, nullable=False),
    Column("text", CleanText, nullable=False),
    Column("origin", CleanText, nullable=False, server_default=text("''")),  # where the request came from
    Column("why", CleanText, nullable=False, server_default=text("''")),
)

run_events = Table(
    "run_events",  # each change of a run's state; followers resume by id, and the reviewer handles the ends
    metadata,
    Column("id", Id, primary_key=True),
    _of_run(),
    Column("state", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("reviewed", Boolean, nullable=False),  # true from the start for states that are not final
    Index("ix_run_events_run", "run_id"),
    sqlite_autoincrement=True,  # ids are never reused, so a follower can resume after pruning
)
NOT_REVIEWED = run_events.c.reviewed.is_(literal_column("false"))
Index("ix_run_events_not_reviewed", run_events.c.id, sqlite_where=NOT_REVIEWED)

findings = Table(
    "findings",  # checks that were not ok, followed across runs
    metadata,
    Column("id", Id, primary_key=True),
    Column("key", Text, nullable=False, unique=True),  # the public id, derived from entry, step, job and check
    Column("entry_id", Id, ForeignKey("entries.id"), nullable=False),
    Column("step", CleanText, nullable=False),
    Column("job", CleanText, nullable=False),
    Column("check", CleanText, nullable=False),
    Column("status", Text, nullable=False),
    Column("observed", Json, nullable=False),
    Column("expected", CleanText, nullable=False),
    Column("unit", CleanText, nullable=False),
    Column("hint", CleanText, nullable=False),
    Column("rule", CleanText, nullable=False, server_default=text("''")),
    Column("because", CleanText, nullable=False),
    Column("first_seen_at", UtcDateTime, nullable=False),  # since it was last gone
    Column("last_seen_at", UtcDateTime, nullable=False),
    Column("gone_at", UtcDateTime),  # null: open
    Column("gone_reason", Text),
    Column("first_run_id", Id, nullable=False),
    Column("last_run_id", Id, nullable=False),
    Column("seen_count", Integer, nullable=False),
    UniqueConstraint("entry_id", "step", "job", "check"),
    Index("ix_findings_last_seen", "last_seen_at"),
)
IS_OPEN = findings.c.gone_at.is_(None)
Index("ix_findings_open", findings.c.entry_id, findings.c.id, sqlite_where=IS_OPEN)

acknowledgements = Table(
    "acknowledgements",
    metadata,
    Column("id", Id, primary_key=True),
    Column("finding_id", Id, ForeignKey("findings.id", ondelete="CASCADE"), nullable=False),
    Column("status", Text, nullable=False),  # of the finding when it was acknowledged, as the next two
    Column("observed", Json),
    Column("observed_at", UtcDateTime),  # null: acknowledged before this was recorded
    Column("why", CleanText, nullable=False),
    Column("by", CleanText, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("until", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("ended_why", CleanText, nullable=False, server_default=text("''")),
    Column("withdrawn", Boolean, nullable=False, server_default=false()),  # ended by a person
    Index("ix_acknowledgements_finding", "finding_id", "id"),
)
IS_NOT_ENDED = acknowledgements.c.ended_at.is_(None)
# At most one of a finding that has not ended.
Index("uq_acknowledgements_not_ended", acknowledgements.c.finding_id, unique=True, sqlite_where=IS_NOT_ENDED)

mutes = Table(
    "mutes",
    metadata,
    Column("id", Id, primary_key=True),
    Column("entries", CleanText, nullable=False),  # a name or a pattern such as backup-*
    Column("why", CleanText, nullable=False),
    Column("by", CleanText, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("until", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),  # before `until`, by an operator
    Column("ended_by", CleanText, nullable=False, server_default=text("''")),
)

incidents = Table(
    "incidents",  # something that needs attention, from its start to its end
    metadata,
    Column("id", Id, primary_key=True),
    Column("subject", CleanText, nullable=False),  # an entry's name, or maintd
    Column("kind", Text, nullable=False),
    Column("critical", Boolean, nullable=False),
    Column("opened_at", UtcDateTime, nullable=False),
    Column("closed_at", UtcDateTime),
    Column("run_id", Id),  # the run that opened it
    Column("last_run_id", Id),
    Column("why", CleanText, nullable=False),
    Column("details", Json, nullable=False),
    Column("reminders", Integer, nullable=False),
    Column("remind_at", UtcDateTime),  # null: no further reminder
    Index("ix_incidents_opened_at", "opened_at"),
)
IS_OPEN_INCIDENT = incidents.c.closed_at.is_(None)
# At most one open incident of a kind for each subject, whichever node opens it.
Index("uq_incidents_open", incidents.c.subject, incidents.c.kind, unique=True, sqlite_where=IS_OPEN_INCIDENT)

notices = Table(
    "notices",  # messages to a channel, delivered or not
    metadata,
    Column("id", Id, primary_key=True),
    Column("key", Text, nullable=False, unique=True),  # what it is about and its channel: no notice is queued twice
    Column("incident_id", Id, ForeignKey("incidents.id", ondelete="CASCADE")),
    Column("kind", Text, nullable=False),
    Column("channel", CleanText, nullable=False),
    Column("critical", Boolean, nullable=False),
    Column("title", CleanText, nullable=False),
    Column("body", CleanText, nullable=False),
    Column("details", Json, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("state", Text, nullable=False),
    Column("not_before", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("error", CleanText, nullable=False),  # of the last attempt
    Column("channel_down", Boolean, nullable=False),  # at the last attempt: the channel's other notices wait, too
    Column("group_key", Text),  # notices of one group are one message
    Column("node", CleanText),
    Column("fence", Integer, nullable=False),
    Column("lease_until", UtcDateTime),
    Column("sent_at", UtcDateTime),
    Index("ix_notices_created_at", "created_at"),
    Index("ix_notices_incident", "incident_id"),
    Index("ix_notices_sent_at", "sent_at"),
)
IS_PENDING = notices.c.state.in_((literal_column("'waiting'"), literal_column("'sending'")))
Index("ix_notices_pending", notices.c.not_before, notices.c.id, sqlite_where=IS_PENDING)

tokens = Table(
    "tokens",  # of the API; the token itself is never stored
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", CleanText, nullable=False, unique=True),
    Column("digest", Text, nullable=False, unique=True),  # SHA-256 in hex
    Column("role", Text, nullable=False),
    Column("entries", Json, nullable=False),  # patterns of the names it may act on
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", CleanText, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
    Column("revoked_by", CleanText, nullable=False, server_default=text("''")),
    Column("last_used_at", UtcDateTime),
    Column("last_used_from", CleanText, nullable=False, server_default=text("''")),
    Column("person", CleanText, nullable=False, server_default=text("''")),  # who holds it; empty: a program
)

RUN_TABLES = (
    log_lines,
    checks,
    measures,
    changes,
    artifacts,
    attempts,
    steps,
    locks,
    run_events,
    gate_decisions,
    handed_values,
    run_links,
    notes,
)
"""Tables whose rows belong to a run and are deleted with it."""


def create_all(conn: Connection) -> None:
    """Create all tables and indexes.

    The conditions of partial indexes are given for SQLite above. Giving them for Postgres there would import its
    dialect, which costs every daemon on SQLite 50 ms and 2 MiB.
    """
    if conn.dialect.name == "postgresql":
        for index in (index for table in metadata.tables.values() for index in table.indexes):
            index.dialect_options["postgresql"]["where"] = index.dialect_options["sqlite"]["where"]
    metadata.create_all(conn)
