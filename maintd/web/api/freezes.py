"""Freezes."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from maintd.model.entry import Freeze
from maintd.model.responses import FreezeList, UnfreezeResponse
from maintd.operations.freezes import active_freezes, freeze, unfreeze
from maintd.web.dependencies import ServiceDep, caller
from maintd.web.schemas import FreezeBody, UnfreezeBody, json_response

router = APIRouter(prefix="/api/v1")


@router.get("/freezes", response_model=FreezeList)
def get_freezes(service: ServiceDep, request: Request) -> Response:
    """List the freezes that are active: those by command, of the calendar and of the freeze file."""
    covers = caller(request).covers_pattern
    shown = tuple(found for found in active_freezes(service) if found.entries == "*" or covers(found.entries))
    return json_response(FreezeList(freezes=shown))


@router.post("/freezes", response_model=Freeze)
def post_freeze(service: ServiceDep, request: Request, body: FreezeBody) -> Response:
    """Start no run of entries that change something until a time, at most 90 days."""
    by = caller(request, body.by)
    by.require(body.entries)
    return json_response(freeze(service, body.entries, body.why, by.name, body.until, origin=by.origin))


@router.post("/freezes/end", response_model=UnfreezeResponse)
def post_unfreeze(service: ServiceDep, request: Request, body: UnfreezeBody) -> Response:
    """End a freeze by command, by the name or pattern that it was written with; 404 if there is none but others are."""
    by = caller(request, body.by)
    by.require(body.entries)
    unfrozen = unfreeze(service, body.entries, by.name, origin=by.origin, why=body.why)
    return json_response(UnfreezeResponse(unfrozen=unfrozen))
