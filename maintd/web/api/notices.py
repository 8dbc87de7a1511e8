"""Notices, incidents and mutes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from maintd.errors import UnknownNameError
from maintd.model.notice import Mute, Notice, NoticeState
from maintd.model.responses import IncidentList, MuteList, NoticeList, UnmuteResponse
from maintd.operations.lookup import LARGEST_ID
from maintd.operations.notices import mute, request_test, require_channel, unmute
from maintd.web.dependencies import Before, ServiceDep, caller
from maintd.web.schemas import ChannelTestBody, MuteBody, UnmuteBody, json_response

router = APIRouter(prefix="/api/v1")

Limit = Annotated[int, Query(ge=1, le=500)]


@router.get("/notices", response_model=NoticeList)
def get_notices(
    service: ServiceDep,
    state: Annotated[list[NoticeState] | None, Query()] = None,
    channel: Annotated[str | None, Query(max_length=200)] = None,
    before: Before = None,
    limit: Limit = 50,
) -> Response:
    """List notices, newest first, with what became of their delivery."""
    found = service.store.notices.recent(states=state, channel=channel, before_id=before, limit=limit)
    if channel is not None and not found:
        require_channel(service, channel)  # one that is no longer in the calendar can have notices
    following = found[-1].id if len(found) == limit else None
    return json_response(NoticeList(notices=tuple(found), next_before=following))


@router.get("/notices/{notice_id}", response_model=Notice)
def get_notice(service: ServiceDep, notice_id: Annotated[int, Path(ge=1, le=LARGEST_ID)]) -> Response:
    """Show a notice."""
    found = service.store.notices.recent(before_id=notice_id + 1, limit=1)
    if not found or found[0].id != notice_id:
        raise UnknownNameError("notice", str(notice_id))
    return json_response(found[0])


@router.get("/incidents", response_model=IncidentList)
def get_incidents(service: ServiceDep, limit: Limit = 50, open_only: bool = False) -> Response:
    """List incidents: all, newest first, or with `open_only` those that are not over, oldest first."""
    notices = service.store.notices
    found = notices.open_incidents()[:limit] if open_only else notices.incidents(limit)
    return json_response(IncidentList(incidents=tuple(found)))


@router.post("/notices/test", response_model=Notice)
def post_test(service: ServiceDep, request: Request, body: ChannelTestBody) -> Response:
    """Send a test to a channel. The notice that is returned is `sent` or `failed` soon."""
    by = caller(request, body.by)
    return json_response(request_test(service, body.channel, by.name, origin=by.origin))


@router.get("/mutes", response_model=MuteList)
def get_mutes(service: ServiceDep, request: Request) -> Response:
    """List the mutes that are active, oldest first."""
    active, covers = service.store.mutes.active(service.store.now()), caller(request).covers_pattern
    return json_response(MuteList(mutes=tuple(mute for mute in active if covers(mute.entries))))


@router.post("/mutes", response_model=Mute)
def post_mute(service: ServiceDep, request: Request, body: MuteBody) -> Response:
    """Silence the notices of entries until a time, at most 90 days; their runs are recorded as always."""
    by = caller(request, body.by)
    by.require(body.entries)
    return json_response(mute(service, body.entries, body.why, by.name, body.until, origin=by.origin))


@router.post("/mutes/end", response_model=UnmuteResponse)
def post_unmute(service: ServiceDep, request: Request, body: UnmuteBody) -> Response:
    """End a mute, by the name or pattern that it was written with."""
    by = caller(request, body.by)
    by.require(body.entries)
    return json_response(UnmuteResponse(unmuted=unmute(service, body.entries, by.name, origin=by.origin, why=body.why)))
