"""Bodies and answers of the API that are not a model type by themselves."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field
from starlette.responses import Response

from maintd.errors import UsageError
from maintd.model.base import Model
from maintd.model.job import BrokenJob, JobDescription
from maintd.model.run import RunSummary
from maintd.model.status import AuditEvent, DueTime, EntryStatus
from maintd.operations import TriggerRequest
from maintd.units import Instant, parse_duration


def _sendable(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, ValueError, RecursionError) as error:
        raise ValueError("cannot be written as JSON text in UTF-8") from error
    return value


Name = Annotated[str, Field(min_length=1, max_length=200)]
Words = Annotated[str, Field(max_length=2000)]
Key = Annotated[str, Field(min_length=1, max_length=200)]


class TriggerBody(Model):
    """A run that is asked for."""

    name: Name
    params: Annotated[dict[str, Any], AfterValidator(_sendable)] = {}
    at: Instant | None = None
    why: Words = ""
    by: Words = ""
    dry_run: bool = False
    idempotency_key: Key | None = None

    def request(self) -> TriggerRequest:
        """The same for the operator service."""
        return TriggerRequest(**{name: getattr(self, name) for name in type(self).model_fields})


class CancelBody(Model):
    """Who cancels a run, and why."""

    by: Words = ""
    why: Words = ""


class PauseBody(Model):
    """Who pauses an entry, why, and until when."""

    why: Words
    by: Words = ""
    until: Instant | None = None


class UnpauseBody(Model):
    """Who lets an entry go on."""

    by: Words = ""


class Version(Model):
    """Which maintd answers."""

    version: str
    api: Literal[1] = 1
    node: str
    pid: int
    started_at: Instant | None


class EntryDetail(EntryStatus):
    """How an entry stands, with its last ten runs."""

    runs: tuple[RunSummary, ...] = ()


class RunsPage(Model):
    """A page of the history; `next_before` is the next one's `before`, None on the last."""

    runs: tuple[RunSummary, ...]
    next_before: int | None


class LogEntry(Model):
    """A line of a run's log."""

    step: str
    attempt: int
    seq: int
    at: Instant
    stream: str
    text: str


class LogPage(Model):
    """Lines of a log. `cursor` goes into the next request's `after`; `final`: no line will follow."""

    lines: tuple[LogEntry, ...]
    cursor: str | None
    final: bool


class Unpaused(Model):
    """Whether the entry had been paused."""

    unpaused: bool


class Reloaded(Model):
    """What reading the calendar again came to."""

    ok: bool
    changes: tuple[str, ...]
    problems: tuple[str, ...]


class DueList(Model):
    """Instants ahead, in order."""

    due: tuple[DueTime, ...]


class JobList(Model):
    """Every job by name; a broken one has `error` instead of a description."""

    jobs: tuple[JobDescription | BrokenJob, ...]


class EventList(Model):
    """The audit, newest first."""

    events: tuple[AuditEvent, ...]


class HealthAnswer(Model):
    """Whether maintd works, and what is the matter when it does not."""

    ok: bool
    problems: tuple[str, ...] = ()


def answer(model: BaseModel, status: int = 200) -> Response:
    """A model as a response, written once and not judged again."""
    return Response(model.model_dump_json(), status, media_type="application/json")


def moment(text: str, now: datetime) -> datetime:
    """An instant in ISO 8601, or how long ago: `2026-03-01T00:00Z`, `7d`. Raises UsageError."""
    try:
        return now - parse_duration(text)
    except OverflowError:
        raise UsageError(f'"{text}" is too long ago') from None
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
        # A time without a zone would be taken as this machine's local one.
        at = found.astimezone(UTC) if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        at = None
    if at is None:
        raise UsageError(
            f'"{text}" is neither a time with a zone nor a duration', "write for example 2026-03-01T00:00Z or 7d"
        )
    return at
