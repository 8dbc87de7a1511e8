"""Conversion of rows to the types of `maintd.model`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sqlalchemy import Row, Select, select

from maintd.model.entry import EntryState, Pause, Policy, Rule, StepPlan
from maintd.model.evidence import Artifact, Change, Check, LogLine, Measure, Progress
from maintd.model.run import Attempt, RunSummary, Step, StepState
from maintd.store.tables import entries, runs

AnyRow = Row[*tuple[Any, ...]]

SUMMARY = (
    runs.c.id,
    entries.c.name.label("entry"),
    runs.c.title,
    runs.c.trigger,
    runs.c.state,
    runs.c.skip_reason,
    runs.c.reason,
    runs.c.due_at,
    runs.c.queued_at,
    runs.c.not_before,
    runs.c.started_at,
    runs.c.finished_at,
    runs.c.node,
    runs.c.requested_by,
    runs.c.why,
    runs.c.dry_run,
    runs.c.fence,
    runs.c.waiting_until,
    runs.c.held,
    runs.c.emergency,
    runs.c.waited,
    runs.c.window_from,
)
FULL = (
    *SUMMARY,
    runs.c.params,
    runs.c.lease_until,
    runs.c.cancel_requested,
    runs.c.idempotency_key,
    runs.c.plan_id,
    runs.c.entry_id,
)


def select_runs(*columns: Any) -> Select[Any]:
    """A query of runs joined with their entries."""
    return select(*columns).join_from(runs, entries)


def summary(row: AnyRow) -> RunSummary:
    """From a row of SUMMARY."""
    return RunSummary.model_validate(row._asdict())


def entry_state(row: AnyRow) -> EntryState:
    """From a row of `entries` that has been in a calendar."""
    return EntryState(
        name=row.name,
        title=row.title,
        rule=None if row.rule is None else rule(row.rule),
        policy=policy(row.policy),
        fingerprint=row.fingerprint,
        planned_through=row.planned_through,
        first_seen_at=row.first_seen_at,
        active=row.active,
        pause=pause(row),
    )


@lru_cache(maxsize=4096)
def rule(text: str) -> Rule:
    """From its JSON. Cached, since an entry that is due often is read as often."""
    return Rule.model_validate_json(text)


@lru_cache(maxsize=256)
def policy(text: str) -> Policy:
    """From its JSON. Cached, since most entries share a few policies."""
    return Policy.model_validate_json(text)


def pause(row: AnyRow) -> Pause | None:
    """The pause from a row of `entries`, None when it is not paused."""
    if row.pause_since is None:
        return None
    return Pause(entry=row.name, why=row.pause_why, by=row.pause_by, since=row.pause_since, until=row.pause_until)


def step(index: int, plan: StepPlan, row: AnyRow | None, attempts: tuple[Attempt, ...]) -> Step:
    """A planned step and its row; without a row it has not started."""
    return Step(
        index=index,
        name=plan.name,
        job=plan.job,
        params=plan.params,
        always=plan.always,
        gate=plan.gate,
        undoes=plan.undoes,
        state=StepState.PENDING if row is None else row.state,
        reason="" if row is None else row.reason,
        started_at=None if row is None else row.started_at,
        finished_at=None if row is None else row.finished_at,
        left_by=None if row is None else row.left_by,
        attempts=attempts,
    )


def attempt(row: AnyRow, evidence: dict[str, list[Any]]) -> Attempt:
    """From a row of `attempts`; `evidence` has its checks, measures, changes and artifacts by table name."""
    columns = row._asdict()
    progress = columns.pop("progress")
    del columns["run_id"], columns["step"]
    return Attempt(
        **columns,
        progress=None if progress is None else Progress.model_validate_json(progress),
        **{name: tuple(items) for name, items in evidence.items()},
    )


def check(row: AnyRow) -> Check:
    """From a row of `checks`."""
    return Check(
        name=row.name,
        observed=row.observed,
        expected=row.expected,
        unit=row.unit,
        status=row.status,
        hint=row.hint,
        rule=row.rule,
        optional=row.optional,
        because=row.because,
        missed_limit=row.missed_limit,
    )


def measure(row: AnyRow) -> Measure:
    """From a row of `measures` joined with its series."""
    value = float("nan") if row.value is None else row.value
    return Measure(name=row.name, value=value, unit=row.unit, labels=row.labels)


def change(row: AnyRow) -> Change:
    """From a row of `changes`."""
    return Change(
        number=row.number,
        action=row.action,
        target=row.target,
        details=row.details,
        state=row.state,
        cause=row.cause,
    )


def artifact(row: AnyRow) -> Artifact:
    """From a row of `artifacts`."""
    return Artifact(
        name=row.name, path=row.path, size_bytes=row.size_bytes, sha256=row.sha256, media_type=row.media_type
    )


def log_line(row: AnyRow) -> LogLine:
    """From a row of `log_lines`."""
    return LogLine(seq=row.seq, at=row.at, stream=row.stream, text=row.text)
