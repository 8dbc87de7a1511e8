"""The change log, its chain of records, notes about runs, and checklists."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from maintd.errors import UsageError
from maintd.model.changelog import ChangeLog, Checklist
from maintd.model.records import VerifiedPart
from maintd.model.run import Note
from maintd.operations.changelog import MOST_RECORDS, add_note, changelog
from maintd.operations.checklist import checklist
from maintd.operations.lookup import LARGEST_ID, find_run
from maintd.web.dependencies import Before, RunId, ServiceDep, caller, parse_since
from maintd.web.schemas import NoteBody, json_response

router = APIRouter(prefix="/api/v1")

_HEAD = re.compile(r"(\d{1,18}):([0-9a-f]{64})", re.ASCII)

Limit = Annotated[int, Query(ge=1, le=MOST_RECORDS)]


@router.get("/changelog", response_model=ChangeLog)
def get_changelog(
    service: ServiceDep,
    request: Request,
    entry: str | None = None,
    since: str | None = None,
    before: Before = None,
    limit: Limit = 50,
) -> Response:
    """List the runs that changed or tried to change something, newest first. `since` limits when they were queued."""
    at = parse_since(since, service.store.now()) if since else None
    covers = caller(request).covers
    if entry:
        caller(request).require(entry)
    page = changelog(service, entry=entry or None, since=at, before=before, limit=limit, covers=covers)
    return json_response(page)


@router.get("/changelog/verify", response_model=VerifiedPart)
def verify_changelog(
    service: ServiceDep,
    after: Annotated[int, Query(ge=0, le=LARGEST_ID)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
    head: Annotated[list[str] | None, Query(max_length=1000)] = None,
) -> Response:
    """Verify a part of the chain of records: those after the record `after`. Repeat it with `last` until `final`.

    `head` is a head that was kept elsewhere, as RECORD:SHA256; it can be repeated.
    """
    return json_response(service.store.chain.verify(after, limit, _heads(head or ())))


@router.post("/runs/{run_id}/notes", response_model=Note)
def post_note(service: ServiceDep, request: Request, run_id: RunId, body: NoteBody) -> Response:
    """Add a note about a run. It is a further record of the change log, which no one can edit."""
    by = caller(request, body.by)
    by.require(find_run(service, run_id).entry)
    return json_response(add_note(service, run_id, text=body.text, by=by.name, origin=by.origin))


@router.get("/runs/{run_id}/checklist", response_model=Checklist)
def get_checklist(service: ServiceDep, request: Request, run_id: RunId) -> Response:
    """Show the checklist of a run: each box with its evidence, its person, or what is missing."""
    found = checklist(service, run_id)
    caller(request).require(found.entry)
    return json_response(found)


def _heads(texts: Sequence[str]) -> dict[int, str]:
    heads = {}
    for text in texts:
        match = _HEAD.fullmatch(text)
        if match is None:
            raise UsageError(f'"{text[:80]}" is not a head', "write RECORD:SHA256, as in CHANGELOG-maintenance.head")
        heads[int(match[1])] = match[2]
    return heads
