"""Runs: history, evidence, log and artifacts; trigger and cancel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from maintd.errors import UnknownNameError
from maintd.model.access import Caller
from maintd.model.responses import LogEntry, LogPage
from maintd.model.run import Run, RunsPage, RunSummary
from maintd.operations import OperatorService, cancel, find_run, known_names, trigger
from maintd.operations.lookup import require_in_scope
from maintd.store.history import LogRow
from maintd.units import utc_text
from maintd.web.artifacts import artifact_response, find_artifact
from maintd.web.dependencies import (
    AttemptNumber,
    Before,
    RunId,
    ServiceDep,
    caller,
    log_cursor,
    parse_log_cursor,
    parse_since,
    parse_states,
)
from maintd.web.schemas import CancelBody, TriggerBody, json_response

router = APIRouter(prefix="/api/v1/runs")

ALL_ENTRIES = Caller()

TEXT_LINES = 2000
"""Lines of a log that are in memory while it is downloaded."""

SEARCHED_LINES = 50_000
"""Lines that one request searches; it takes a fraction of a second."""

SEARCH_PAGE = 2000


@router.get("", response_model=RunsPage)
def get_runs(
    service: ServiceDep,
    request: Request,
    entry: str | None = None,
    job: str | None = None,
    state: Annotated[list[str] | None, Query()] = None,
    since: str | None = None,
    before: Before = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> Response:
    """List runs, newest first. `state` takes several states separated by commas; `since` a time or a duration (7d)."""
    found = caller(request)
    page = runs_page(service, entry, job, ",".join(state or ()), since, before, limit, only=found)
    return json_response(page)


@router.post(
    "",
    response_model=RunSummary,
    status_code=201,
    responses={200: {"description": "The idempotency key was used before; this is its run"}},
)
def post_run(service: ServiceDep, request: Request, body: TriggerBody) -> Response:
    """Trigger a run of an entry, or of a job by its name."""
    by = caller(request, body.by)
    by.require(body.name)
    run, created = trigger(service, body.to_request(by))
    return json_response(run, 201 if created else 200)


@router.get("/{run_id}", response_model=Run)
def get_run(service: ServiceDep, request: Request, run_id: RunId) -> Response:
    """Show a run with its steps, attempts, checks, measures, changes and artifacts."""
    return json_response(_run_for(service, request, run_id))


@router.post("/{run_id}/cancel", response_model=RunSummary)
def cancel_run(service: ServiceDep, request: Request, run_id: RunId, body: CancelBody | None = None) -> Response:
    """Cancel a queued run, or request that a running one stops."""
    body = body or CancelBody()
    _run_for(service, request, run_id)
    by = caller(request, body.by)
    return json_response(cancel(service, run_id, by.name, body.why, origin=by.origin))


@router.get("/{run_id}/log", response_model=LogPage)
def get_log(
    service: ServiceDep,
    request: Request,
    run_id: RunId,
    after: str | None = None,
    step: str | None = None,
    attempt: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
    limit: Annotated[int, Query(ge=1, le=5000)] = 1000,
    search: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """Read lines of a run's log after a cursor, until `final` is true; with `search`, those that contain a text.

    `step` is a name or an index. Case does not matter to a search. It stops at 50,000 lines: while `more` is true, only
    the lines up to the cursor were searched.
    """
    _run_for(service, request, run_id)
    return json_response(log_page(service, run_id, after, step, attempt, limit, search or ""))


@router.get("/{run_id}/log.txt", response_class=PlainTextResponse)
def get_log_text(service: ServiceDep, request: Request, run_id: RunId) -> Response:
    """Download the whole log of a run as text, one line each: time, step, stream and text, separated by spaces."""
    run = _run_for(service, request, run_id)
    headers = {"Content-Disposition": f'attachment; filename="run-{run.id}.log"'}
    return StreamingResponse(_log_text(service, run), headers=headers, media_type="text/plain; charset=utf-8")


def _log_text(service: OperatorService, run: Run) -> Iterator[str]:
    """The log in parts, each of a page of lines."""
    after = None
    while rows := service.store.history.log(run.id, after=after, limit=TEXT_LINES):
        yield "".join(f"{utc_text(row.line.at)} {row.step_name} {row.line.stream} {row.line.text}\n" for row in rows)
        after = (rows[-1].step, rows[-1].attempt, rows[-1].line.seq)


@router.get("/{run_id}/artifacts/{step}/{attempt}/{name}", response_class=Response)
def get_artifact(
    service: ServiceDep, request: Request, run_id: RunId, step: str, attempt: AttemptNumber, name: str
) -> Response:
    """Download a file that an attempt saved."""
    artifact = find_artifact(_run_for(service, request, run_id), step, attempt, name)
    return artifact_response(service.settings.artifacts_dir, artifact)


def _run_for(service: OperatorService, request: Request, run_id: int) -> Run:
    """The run, if the caller's token is for its entry. Raises UnknownNameError, ForbiddenError."""
    run = find_run(service, run_id)
    caller(request).require(run.entry)
    return run


def runs_page(
    service: OperatorService,
    entry: str | None,
    job: str | None,
    state: str | None,
    since: str | None,
    before: int | None,
    limit: int,
    only: Caller = ALL_ENTRIES,
) -> RunsPage:
    """The page of runs for `get_runs`, only of the caller's entries. An empty text means no filter, because a form
    sends empty texts.

    Raises UnknownNameError, UsageError, ForbiddenError.
    """
    if entry:
        only.require(entry)
    if job:
        require_in_scope(service, only, job)
    names: list[str | None] = [entry or None]
    if only.entries and not entry:
        names = [name for name in service.store.entries.states() if only.covers(name)]
    states = parse_states(state or "") or None
    from_time = parse_since(since, service.store.now()) if since else None
    runs = [
        run
        for name in names
        for run in service.store.history.runs(
            entry=name, job=job or None, states=states, since=from_time, before_id=before, limit=limit + 1
        )
    ]
    runs.sort(key=lambda run: run.id, reverse=True)
    del runs[limit + 1 :]
    if not runs and before is None:
        require_known(service, entry, job)
    page = runs[:limit]
    return RunsPage(runs=tuple(page), next_before=page[-1].id if len(runs) > limit else None)


def log_page(
    service: OperatorService,
    run_id: int,
    after: str | None,
    step: str | None,
    attempt: int | None,
    limit: int,
    search: str = "",
) -> LogPage:
    """The page of lines for `get_log`. Raises UnknownNameError, UsageError."""
    run = find_run(service, run_id)  # read before the lines: when this run has ended, all its lines are stored
    names = [item.name for item in run.steps]
    index = _step_index(names, step) if step else None
    place = parse_log_cursor(after) if after else None
    rows: list[LogRow] = []
    read, more = 0, True
    while more and len(rows) < limit and read < (SEARCHED_LINES if search else limit):
        page_size = SEARCH_PAGE if search else limit
        page = service.store.history.log(run_id, after=place, step=index, attempt=attempt, limit=page_size + 1)
        more = len(page) > page_size
        for number, row in enumerate(page[:page_size], 1):
            place = (row.step, row.attempt, row.line.seq)
            read += 1
            if not search or search.casefold() in row.line.text.casefold():
                rows.append(row)
                if len(rows) == limit:
                    more = number < len(page)
                    break
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
        cursor=log_cursor(*place) if place else None,
        final=run.state.final and not more,
        more=more,
        searched=read if search else None,
    )


def _step_index(names: list[str], step: str) -> int:
    if step in names:
        return names.index(step)
    if step.isascii() and step.isdigit() and len(step) < 6 and int(step) < len(names):
        return int(step)
    raise UnknownNameError("step", step, names)


def require_known(service: OperatorService, entry: str | None, job: str | None) -> None:
    """Raise UnknownNameError for a name without history that is not in the calendar either: it is misspelled."""
    if entry and entry not in known_names(service) and not service.store.entries.states([entry]):
        raise UnknownNameError("entry or job", entry, known_names(service))
    if job and job not in service.jobs():
        raise UnknownNameError("job", job, service.jobs())
