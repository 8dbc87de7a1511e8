"""Entries and jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from maintd.model.entry import Pause
from maintd.model.job import BrokenJob, JobDescription
from maintd.operations import due, entry_status, find_job, pause, unpause
from maintd.web.dependencies import SERVICE
from maintd.web.schemas import DueList, EntryDetail, JobList, PauseBody, UnpauseBody, Unpaused, answer

router = APIRouter(prefix="/api/v1")

LAST_RUNS = 10


@router.get("/entries/{name}", response_model=EntryDetail)
def get_entry(service: SERVICE, name: str) -> Response:
    """How one entry stands, or a job by its own name, with its last ten runs."""
    found = entry_status(service, name)
    runs = service.store.history.runs(entry=name, limit=LAST_RUNS)
    fields = {key: getattr(found, key) for key in type(found).model_fields}
    return answer(EntryDetail(**fields, runs=tuple(runs)))


@router.post("/entries/{name}/pause", response_model=Pause)
def pause_entry(service: SERVICE, name: str, body: PauseBody) -> Response:
    """Stop an entry from falling due, until a time or until it is unpaused."""
    return answer(pause(service, name, body.why, body.by, body.until))


@router.post("/entries/{name}/unpause", response_model=Unpaused)
def unpause_entry(service: SERVICE, name: str, body: UnpauseBody | None = None) -> Response:
    """Let a paused entry go on."""
    return answer(Unpaused(unpaused=unpause(service, name, "" if body is None else body.by)))


@router.get("/due", response_model=DueList)
def get_due(service: SERVICE, days: Annotated[int, Query(ge=1, le=366)] = 7) -> Response:
    """What falls due in so many days, in order."""
    return answer(DueList(due=tuple(due(service, days))))


@router.get("/jobs", response_model=JobList)
def get_jobs(service: SERVICE) -> Response:
    """Every job with its params; a broken module with what is wrong."""
    return answer(JobList(jobs=tuple(service.jobs().values())))


@router.get("/jobs/{name}", response_model=JobDescription | BrokenJob)
def get_job(service: SERVICE, name: str) -> Response:
    """One job with its params."""
    return answer(find_job(service, name))
