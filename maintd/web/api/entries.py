"""Entries, their due times, and jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from maintd.model.entry import Pause
from maintd.model.job import BrokenJob, JobDescription
from maintd.model.responses import EntryList, JobList, SeriesPage, UnpauseResponse
from maintd.model.status import DueList, EntryDetail, StartTime
from maintd.operations import MAX_DAYS, due, entry_status, find_job, pause, status, unpause
from maintd.operations.lookup import LARGEST_ID, require_in_scope
from maintd.operations.windows import start_time
from maintd.web.api.runs import require_known
from maintd.web.dependencies import ServiceDep, caller, parse_since
from maintd.web.schemas import PauseBody, UnpauseBody, json_response

router = APIRouter(prefix="/api/v1")

LAST_RUNS = 10


@router.get("/entries", response_model=EntryList)
def get_entries(service: ServiceDep, request: Request) -> Response:
    """List the entries with their last outcomes and next due times, without what `status` has about maintd itself."""
    covers = caller(request).covers
    return json_response(EntryList(entries=tuple(entry for entry in status(service).entries if covers(entry.entry))))


@router.get("/series", response_model=SeriesPage)
def get_series(
    service: ServiceDep,
    request: Request,
    name: Annotated[str, Query(min_length=1, max_length=200)],
    entry: Annotated[str | None, Query(max_length=200)] = None,
    job: Annotated[str | None, Query(max_length=200)] = None,
    since: Annotated[str | None, Query(max_length=64)] = None,
    after: Annotated[int | None, Query(ge=1, le=LARGEST_ID)] = None,
    limit: Annotated[int, Query(ge=1, le=5000)] = 1000,
) -> Response:
    """Read the points of a measure, oldest first, with unit and labels. `since` limits when the runs were queued."""
    by = caller(request)
    if entry:
        by.require(entry)
    if job:
        require_in_scope(service, by, job)
    from_time = parse_since(since, service.store.now()) if since else None
    points = service.store.history.points(
        name, entry=entry or None, job=job or None, since=from_time, after=after or 0, limit=limit + 1
    )
    page = points[:limit]
    shown = tuple(point for point in page if by.covers(point.entry))
    if not points and after is None:
        require_known(service, entry, job)
    next_after = page[-1].id if len(points) > limit else None
    return json_response(SeriesPage(name=name, points=shown, next_after=next_after))


@router.get("/entries/{name}", response_model=EntryDetail)
def get_entry(service: ServiceDep, request: Request, name: str) -> Response:
    """Show the status of an entry, or of a job by its name, with its last ten runs."""
    caller(request).require(name)
    found = entry_status(service, name)
    runs = service.store.history.runs(entry=name, limit=LAST_RUNS)
    fields = {key: getattr(found, key) for key in type(found).model_fields}
    return json_response(EntryDetail(**fields, runs=tuple(runs)))


@router.get("/entries/{name}/start-time", response_model=StartTime)
def get_start_time(
    service: ServiceDep, request: Request, name: str, at: Annotated[str, Query(min_length=1, max_length=40)]
) -> Response:
    """Show when a run would start that is requested for a weekday and a time, as `sat 01:00`, in the entry's zone."""
    caller(request).require(name)
    return json_response(start_time(service, name, at))


@router.post("/entries/{name}/pause", response_model=Pause)
def pause_entry(service: ServiceDep, request: Request, name: str, body: PauseBody) -> Response:
    """Pause an entry, until a time or until it is unpaused; its due times are recorded as skipped."""
    by = caller(request, body.by)
    by.require(name)
    return json_response(pause(service, name, body.why, by.name, body.until, origin=by.origin))


@router.post("/entries/{name}/unpause", response_model=UnpauseResponse)
def unpause_entry(service: ServiceDep, request: Request, name: str, body: UnpauseBody | None = None) -> Response:
    """Unpause an entry."""
    body = body or UnpauseBody()
    by = caller(request, body.by)
    by.require(name)
    return json_response(UnpauseResponse(unpaused=unpause(service, name, by.name, origin=by.origin, why=body.why)))


@router.get("/due", response_model=DueList)
def get_due(service: ServiceDep, request: Request, days: Annotated[int, Query(ge=1, le=MAX_DAYS)] = 7) -> Response:
    """List the due times of the next days, oldest first."""
    found, limited = due(service, days)
    covers = caller(request).covers
    return json_response(
        DueList(
            due=tuple(item for item in found if covers(item.entry)),
            limited=tuple(item for item in limited if covers(item.entry)),
        )
    )


@router.get("/jobs", response_model=JobList)
def get_jobs(service: ServiceDep) -> Response:
    """List the jobs with their params; for one that cannot be imported, the error."""
    return json_response(JobList(jobs=tuple(service.jobs().values())))


@router.get("/jobs/{name}", response_model=JobDescription | BrokenJob)
def get_job(service: ServiceDep, name: str) -> Response:
    """Show a job with its params."""
    return json_response(find_job(service, name))
