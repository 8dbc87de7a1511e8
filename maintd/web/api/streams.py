"""Streams of server-sent events: the log of a run as it is written, and the events of runs."""

from __future__ import annotations

import re
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from maintd.errors import UsageError
from maintd.model.responses import LogEnd, LogEntry, StreamPosition
from maintd.operations import OperatorService, find_run
from maintd.operations.lookup import LARGEST_ID
from maintd.web.api.runs import require_known
from maintd.web.dependencies import RunId, ServiceDep, caller, log_cursor, parse_log_cursor
from maintd.web.streams import PAGE, Cursor, Event, EventStream, Page, Read, encode, streams_of

router = APIRouter(prefix="/api/v1")

LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", max_length=64)]


@router.get("/runs/{run_id}/log/stream", response_class=EventStream)
async def stream_log(
    service: ServiceDep,
    request: Request,
    run_id: RunId,
    after: Annotated[str | None, Query(max_length=64)] = None,
    last_event_id: LastEventId = None,
) -> Response:
    """Follow the log of a run: an event `line` for each line, `end` when the run has ended. `Last-Event-ID` resumes."""
    text = last_event_id or after
    cursor: Cursor = parse_log_cursor(text) if text else ()
    run = await to_thread.run_sync(find_run, service, run_id)
    cursor = min(cursor, await to_thread.run_sync(service.store.history.log_end, run_id))
    by = caller(request)
    by.require(run.entry)
    names = [step.name for step in run.steps]
    return streams_of(request).follow(("log", run_id), _log_reader(service, run_id, names, run.entry), cursor, by)


@router.get("/events/stream", response_class=EventStream)
async def stream_events(
    service: ServiceDep,
    request: Request,
    entry: Annotated[str | None, Query(max_length=200)] = None,
    after: Annotated[str | None, Query(max_length=64)] = None,
    last_event_id: LastEventId = None,
) -> Response:
    """Follow the runs: an event `run` for each change of a run's state. `Last-Event-ID` resumes, for seven days."""
    by = caller(request)
    if entry is not None:
        by.require(entry)
        await to_thread.run_sync(require_known, service, entry, None)
    seen = _event_id(last_event_id or after)
    position = await to_thread.run_sync(_position, service, seen)
    opening = b""
    if position.after != seen:
        opening = encode("start" if seen is None else "reset", position, str(position.after))
    reader = _event_reader(service)
    return streams_of(request).follow("events", reader, (position.after,), by, entry=entry, opening=opening)


def _log_reader(service: OperatorService, run_id: int, names: list[str], entry: str) -> Read:
    history = service.store.history

    def read(after: Cursor) -> Page:
        state = history.state(run_id)  # read before the lines: when it is final, all lines are stored
        rows = history.log(run_id, after=(after[0], after[1], after[2]) if after else None, limit=PAGE)
        events = []
        for row in rows:
            line = LogEntry(
                step=names[row.step],
                attempt=row.attempt,
                seq=row.line.seq,
                at=row.line.at,
                stream=row.line.stream,
                text=row.line.text,
            )
            place = (row.step, row.attempt, row.line.seq)
            events.append(Event(place, entry, encode("line", line, log_cursor(*place))))
        ended = len(rows) < PAGE and (state is None or state.final)
        return Page(events, encode("end", LogEnd(state=state)) if ended else None)

    return read


def _event_reader(service: OperatorService) -> Read:
    def read(after: Cursor) -> Page:
        found = service.store.run_events.after(after[0], limit=PAGE)
        return Page([Event((event.id,), event.entry, encode("run", event, str(event.id))) for event in found])

    return read


def _position(service: OperatorService, seen: int | None) -> StreamPosition:
    """Where a client continues that has seen an event: there, or at the newest event when later ones are deleted, or
    when the event is of another store."""
    oldest, newest = service.store.run_events.bounds()
    resumable = seen is not None and oldest - 1 <= seen <= newest
    after = seen if seen is not None and resumable else service.store.run_events.newest()
    return StreamPosition(oldest=oldest, after=after)


def _event_id(text: str | None) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"\d{1,19}", text, re.ASCII) or int(text) > LARGEST_ID:
        raise UsageError(f'"{text[:60]}" is not the id of an event', "use the id of an event of this stream")
    return int(text)
