"""Runs that did not come to their end: resume, undo, release."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from maintd.model.access import Caller
from maintd.model.run import RunSummary
from maintd.operations import OperatorService, find_run
from maintd.operations import resume as operations
from maintd.operations.successor_plan import Request as FollowRequest
from maintd.web.dependencies import RunId, ServiceDep, caller
from maintd.web.schemas import ReleaseBody, ResumeBody, UndoBody, json_response

router = APIRouter(prefix="/api/v1/runs")


@router.post("/{run_id}/resume", response_model=RunSummary, status_code=201)
def resume_run(service: ServiceDep, request: Request, run_id: RunId, body: ResumeBody | None = None) -> Response:
    """Resume a run that failed, was stopped or was lost: a new run takes over what succeeded, and runs the rest."""
    body = body or ResumeBody()
    by = _caller_for(service, request, run_id, body.by)
    wanted = FollowRequest(by.name, body.why, from_step=body.from_step, redo=body.redo)
    return json_response(operations.resume(service, run_id, wanted, origin=by.origin), 201)


@router.post("/{run_id}/undo", response_model=RunSummary, status_code=201)
def undo_run(service: ServiceDep, request: Request, run_id: RunId, body: UndoBody) -> Response:
    """Undo a run that failed, was stopped or was lost: a new run runs the undo steps of all that had started."""
    by = _caller_for(service, request, run_id, body.by)
    wanted = FollowRequest(by.name, body.why, redo=body.redo)
    return json_response(operations.undo(service, run_id, wanted, origin=by.origin), 201)


@router.post("/{run_id}/release", response_model=RunSummary)
def release_run(service: ServiceDep, request: Request, run_id: RunId, body: ReleaseBody) -> Response:
    """Release a lost run that is held: its locks are free, and its entry can run again."""
    by = _caller_for(service, request, run_id, body.by)
    return json_response(operations.release(service, run_id, by.name, body.why, origin=by.origin))


def _caller_for(service: OperatorService, request: Request, run_id: int, claimed: str) -> Caller:
    """Who sends the request. Raises UnknownNameError, ForbiddenError."""
    found = caller(request, claimed)
    found.require(find_run(service, run_id).entry)
    return found
