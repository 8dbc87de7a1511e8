"""maintd itself: how things stand, what it goes by, what was done to it."""

from __future__ import annotations

import os
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response

import maintd
from maintd.model.status import StatusReport
from maintd.operations import status
from maintd.web.dependencies import SERVICE
from maintd.web.redaction import shown_settings
from maintd.web.schemas import EventList, Reloaded, Version, answer

router = APIRouter(prefix="/api/v1")


@router.get("/version", response_model=Version)
def get_version(service: SERVICE) -> Response:
    """Which maintd answers."""
    return answer(
        Version(version=maintd.__version__, node=service.settings.node, pid=os.getpid(), started_at=service.started_at)
    )


@router.get("/status", response_model=StatusReport)
def get_status(service: SERVICE) -> Response:
    """Every entry with its last outcome, why it is not green, and what is due next."""
    return answer(status(service))


@router.get("/settings", response_model=dict[str, Any])
def get_settings(service: SERVICE) -> Response:
    """The settings in force, without secrets."""
    return JSONResponse(shown_settings(service))


@router.get("/events", response_model=EventList)
def get_events(service: SERVICE, limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> Response:
    """The audit, newest first."""
    return answer(EventList(events=tuple(service.store.audit.recent(limit))))


@router.post("/reload", response_model=Reloaded)
def post_reload(service: SERVICE) -> Response:
    """Read the calendar and the jobs again. A bad calendar keeps the one in force, and says what is wrong."""
    result = service.reload()
    return answer(Reloaded(ok=result.ok, changes=result.changes, problems=result.problems))
