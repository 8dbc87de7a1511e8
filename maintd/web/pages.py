"""The page: rendered here, read-only, useful without a script. It shows the command to type instead of buttons."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import FileResponse, HTMLResponse, Response

from maintd.errors import UnknownNameError, UsageError
from maintd.model.job import BrokenJob
from maintd.model.run import RunState
from maintd.operations import due, entry_status, find, find_job, find_run, status
from maintd.operations.diagnosis import worst_check
from maintd.operations.due import MOST
from maintd.operations.lookup import LARGEST_ID
from maintd.web.api.runs import RunId, page_of_log, page_of_runs
from maintd.web.dependencies import SERVICE

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)

STATIC_FILES = {
    "style.css": "text/css; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

LINES = 500
"""Lines of a log on one page."""

RUNS = 50


@router.get("/")
def index(service: SERVICE) -> HTMLResponse:
    """What needs attention, every entry, the week ahead."""
    from maintd.web.views import week_of

    report = status(service)
    calendar = service.calendar()
    week = week_of(due(service, 8), report.at, calendar.timezone)
    return _page("index.html", report=report, week=week, timezone=calendar.timezone, now=report.at)


@router.get("/runs")
def runs(
    service: SERVICE,
    entry: str = "",
    job: str = "",
    state: str = "",
    since: str = "",
    before: Annotated[str, Query(max_length=19)] = "",
) -> HTMLResponse:
    """The history, to filter and to leaf through."""
    place = _place(before)
    page = page_of_runs(service, entry, job, state, since, place, RUNS)
    return _page(
        "runs.html",
        page=page,
        chosen={"entry": entry, "job": job, "state": state, "since": since},
        first=place is None,
        entries=[item.name for item in service.calendar().entries],
        jobs=sorted(service.jobs()),
        states=list(RunState),
        now=service.store.now(),
    )


@router.get("/runs/{run_id}")
def run(service: SERVICE, run_id: RunId, after: str = "", tail: bool = False) -> HTMLResponse:
    """One run: how it went, what it found, what it changed, its log."""
    from maintd.web.views import log_tail_cursor

    found = find_run(service, run_id)
    place = (log_tail_cursor(found, LINES) or "") if tail else after
    log = page_of_log(service, run_id, place, None, None, LINES)
    return _page(
        "run.html",
        run=found,
        log=log,
        after=place,
        more=len(log.lines) == LINES,
        worst=worst_check(found),
        now=service.store.now(),
    )


@router.get("/entries/{name}")
def entry(service: SERVICE, name: str) -> HTMLResponse:
    """One entry: how it stands, its last runs, its trends."""
    from maintd.web.views import POINTS, duration_chart, measure_charts

    found = entry_status(service, name)
    last = service.store.history.runs(entry=name, limit=POINTS)
    jobs = found.jobs or tuple(sorted(_jobs_of(service, name)))
    charts, left_out = measure_charts(service, name, jobs)
    return _page(
        "entry.html",
        entry=found,
        steps=_steps_of(service, name),
        runs=last[:10],
        duration=duration_chart(last),
        charts=charts,
        left_out=left_out,
        now=service.store.now(),
    )


@router.get("/jobs")
def jobs(service: SERVICE) -> HTMLResponse:
    """Every job."""
    return _page("jobs.html", jobs=list(service.jobs().values()))


@router.get("/jobs/{name}")
def job(service: SERVICE, name: str) -> HTMLResponse:
    """One job with its params."""
    found = find_job(service, name)
    used = [item.name for item in service.calendar().entries if name in item.jobs]
    return _page("job.html", job=found, broken=isinstance(found, BrokenJob), used=used)


@router.get("/due")
def due_page(service: SERVICE, days: Annotated[int, Query(ge=1, le=366)] = 14) -> HTMLResponse:
    """What falls due, by day of the calendar's time zone."""
    from maintd.web.views import week_of

    found = due(service, days)
    timezone = service.calendar().timezone
    now = service.clock.now()
    shown = week_of(found, now, timezone, days + 1)
    cut = found[-1].due_at if len(found) == MOST else None
    return _page("due.html", by_day=[day for day in shown if day.items], days=days, timezone=timezone, cut=cut)


@router.get("/static/{name}")
async def static(name: str) -> Response:
    """Style, script and icon."""
    from maintd.web.templates import STATIC

    if name not in STATIC_FILES:
        raise UnknownNameError("file", name, STATIC_FILES)
    keep = {"Cache-Control": "public, max-age=86400"}
    return FileResponse(STATIC / name, media_type=STATIC_FILES[name], headers=keep)


def _place(before: str) -> int | None:
    """From a query that a form may leave empty. Raises UsageError."""
    if not before:
        return None
    if not (before.isascii() and before.isdigit() and 0 < int(before) <= LARGEST_ID):
        raise UsageError(f'"{before}" is no number of a run', "begin again at /runs")
    return int(before)


def _jobs_of(service: SERVICE, name: str) -> set[str]:
    """Jobs of the last runs of an entry that is in no calendar any more."""
    found = (service.store.history.run(item.id) for item in service.store.history.runs(entry=name, limit=1))
    return {step.job for item in found if item is not None for step in item.steps}


def _steps_of(service: SERVICE, name: str) -> list[dict[str, object]]:
    try:
        steps = find(service, name).steps
    except UnknownNameError:
        return []
    return [step.model_dump(mode="json") for step in steps]


def _page(name: str, **values: object) -> HTMLResponse:
    from maintd.web.templates import render  # loaded when somebody looks; an idle sidecar does without

    return HTMLResponse(render(name, **values))
