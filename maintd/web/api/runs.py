"""Runs: the history, one with its evidence, its log and files; asking for one, and cancelling."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from maintd.errors import UnknownNameError, UsageError, nearest
from maintd.model.run import Run, RunState, RunSummary
from maintd.operations import OperatorService, cancel, find_run, known_names, trigger
from maintd.operations.lookup import LARGEST_ID
from maintd.web.artifacts import artifact_response, find_artifact
from maintd.web.cursors import cursor_of, parse_cursor
from maintd.web.dependencies import SERVICE
from maintd.web.schemas import CancelBody, LogEntry, LogPage, RunsPage, TriggerBody, answer, moment

router = APIRouter(prefix="/api/v1/runs")

RunId = Annotated[int, Path(ge=1, le=LARGEST_ID)]
Before = Annotated[int | None, Query(ge=1, le=LARGEST_ID)]


@router.get("", response_model=RunsPage)
def get_runs(
    service: SERVICE,
    entry: str | None = None,
    job: str | None = None,
    state: Annotated[list[str] | None, Query()] = None,
    since: str | None = None,
    before: Before = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> Response:
    """The history, newest first. Several of `state` with commas; `since` is a time, or how long ago (7d)."""
    return answer(page_of_runs(service, entry, job, ",".join(state or ()), since, before, limit))


@router.post("", response_model=RunSummary, status_code=201, responses={200: {"description": "The key was known"}})
def post_run(service: SERVICE, body: TriggerBody) -> Response:
    """Ask for a run of an entry, or of a job by its name."""
    run, created = trigger(service, body.request())
    return answer(run, 201 if created else 200)


@router.get("/{run_id}", response_model=Run)
def get_run(service: SERVICE, run_id: RunId) -> Response:
    """A run with its steps, attempts, checks, measures, changes and artifacts."""
    return answer(find_run(service, run_id))


@router.post("/{run_id}/cancel", response_model=RunSummary)
def cancel_run(service: SERVICE, run_id: RunId, body: CancelBody | None = None) -> Response:
    """Cancel a run that has not begun, or tell a running one to stop."""
    said = body or CancelBody()
    return answer(cancel(service, run_id, said.by, said.why))


@router.get("/{run_id}/log", response_model=LogPage)
def get_log(
    service: SERVICE,
    run_id: RunId,
    after: str | None = None,
    step: str | None = None,
    attempt: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
    limit: Annotated[int, Query(ge=1, le=5000)] = 1000,
) -> Response:
    """Lines of a run's log, after a cursor. `step` is a name or an index. Ask again until `final`."""
    return answer(page_of_log(service, run_id, after, step, attempt, limit))


@router.get("/{run_id}/artifacts/{step}/{attempt}/{name}", response_class=Response)
def get_artifact(
    service: SERVICE, run_id: RunId, step: str, attempt: Annotated[int, Path(ge=1, le=1_000_000)], name: str
) -> Response:
    """A file that an attempt left."""
    found = find_artifact(find_run(service, run_id), step, attempt, name)
    return artifact_response(service.settings.artifacts_dir, found)


def page_of_runs(
    service: OperatorService,
    entry: str | None,
    job: str | None,
    state: str | None,
    since: str | None,
    before: int | None,
    limit: int,
) -> RunsPage:
    """See `get_runs`. Empty texts stand for anything, as a form sends them. Raises UnknownNameError, UsageError."""
    runs = service.store.history.runs(
        entry=entry or None,
        job=job or None,
        states=parse_states(state or "") or None,
        since=moment(since, service.store.now()) if since else None,
        before_id=before,
        limit=limit + 1,
    )
    if not runs and before is None:
        _require_known(service, entry, job)
    shown = runs[:limit]
    return RunsPage(runs=tuple(shown), next_before=shown[-1].id if len(runs) > limit else None)


def parse_states(text: str) -> list[RunState]:
    """`failed,lost` → states. Raises UsageError with the near name."""
    found = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        if word not in RunState.__members__.values():
            near = nearest(word, [state.value for state in RunState])
            hint = f'did you mean "{near}"?' if near else f"they are {', '.join(RunState)}"
            raise UsageError(f'there is no state "{word[:60]}"', hint)
        found.append(RunState(word))
    return found


def page_of_log(
    service: OperatorService, run_id: int, after: str | None, step: str | None, attempt: int | None, limit: int
) -> LogPage:
    """See `get_log`. Raises UnknownNameError, UsageError."""
    run = find_run(service, run_id)  # before the lines: a run that has ended by now has all its lines in
    names = [item.name for item in run.steps]
    index = _step_index(names, step) if step else None
    rows = service.store.history.log(
        run_id, after=parse_cursor(after) if after else None, step=index, attempt=attempt, limit=limit
    )
    return LogPage(
        lines=tuple(
            LogEntry(
                step=row.step_name,
                attempt=row.attempt,
                seq=row.line.seq,
                at=row.line.at,
                stream=row.line.stream,
                text=row.line.text,
            )
            for row in rows
        ),
        cursor=cursor_of(rows[-1]) if rows else after or None,
        final=run.state.final and len(rows) < limit,
    )


def _step_index(names: list[str], step: str) -> int:
    if step in names:
        return names.index(step)
    if step.isascii() and step.isdigit() and len(step) < 6 and int(step) < len(names):
        return int(step)
    raise UnknownNameError("step", step, names)


def _require_known(service: OperatorService, entry: str | None, job: str | None) -> None:
    """An empty history of a name that nobody knows is a slip of the pen."""
    if entry and entry not in known_names(service) and not service.store.entries.states([entry]):
        raise UnknownNameError("entry or job", entry, known_names(service))
    if job and job not in service.jobs():
        raise UnknownNameError("job", job, service.jobs())
