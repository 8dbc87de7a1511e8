"""The daemon: version, status, settings, audit events, reload."""

from __future__ import annotations

import os
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

import maintd
from maintd.model.responses import EventList, ReloadResponse, Version
from maintd.model.status import StatusReport
from maintd.operations import reload, status_for
from maintd.web.dependencies import ServiceDep, caller
from maintd.web.etags import NO_TIME, model_etag
from maintd.web.redaction import redacted_settings
from maintd.web.schemas import ReloadBody, json_response

router = APIRouter(prefix="/api/v1")


@router.get("/version", response_model=Version)
def get_version(service: ServiceDep) -> Response:
    """Show version, node and process of the daemon that answers."""
    return json_response(
        Version(version=maintd.__version__, node=service.settings.node, pid=os.getpid(), started_at=service.started_at)
    )


@router.get("/status", response_model=StatusReport)
def get_status(service: ServiceDep, request: Request) -> Response:
    """Show every entry with its last outcome, the reason when it is not a success, and its next due time."""
    report = status_for(service, caller(request))
    seen = tuple(node.model_copy(update={"seen_at": node.started_at}) for node in report.nodes)
    same = report.model_copy(update={"at": report.started_at or NO_TIME, "nodes": seen})
    return json_response(report, headers=model_etag(same))


@router.get("/settings", response_model=dict[str, Any])
def get_settings(service: ServiceDep) -> Response:
    """Show the effective settings, with secrets masked."""
    return JSONResponse(redacted_settings(service))


@router.get("/events", response_model=EventList)
def get_events(service: ServiceDep, limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> Response:
    """List audit events, newest first."""
    return json_response(EventList(events=tuple(service.store.audit.recent(limit))))


@router.post("/reload", response_model=ReloadResponse)
def post_reload(service: ServiceDep, request: Request, body: ReloadBody | None = None) -> Response:
    """Reload the calendar and the jobs. When the calendar has errors, the old one remains active."""
    body = body or ReloadBody()
    by = caller(request, body.by)
    result = reload(service, by.name, origin=by.origin, why=body.why)
    return json_response(ReloadResponse(ok=result.ok, changes=result.changes, problems=result.problems))
