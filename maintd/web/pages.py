"""The web page: HTML rendered on the server, read-only, readable without JavaScript.

It shows the commands to type; there are no buttons that act.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import FileResponse, HTMLResponse, Response

from maintd.errors import RefusedError, StoreError, UnknownNameError
from maintd.model.finding import Finding
from maintd.model.gate import WaitingGate
from maintd.model.job import BrokenJob
from maintd.model.run import Run, RunState
from maintd.operations import MAX_DAYS, OperatorService, due, entry_status, find_entry, find_job, find_run, status
from maintd.operations.diagnosis import worst_check
from maintd.operations.findings import listed_finding
from maintd.operations.gates import gate_of_run
from maintd.web.api.runs import log_page, runs_page
from maintd.web.dependencies import RunId, ServiceDep, parse_run_id
from maintd.web.templates import STATIC, render
from maintd.web.views import CHART_RUNS, due_by_day, duration_chart, log_tail_cursor, measure_charts

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)

STATIC_FILES = {
    "style.css": "text/css; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

LOG_LINES = 500
"""Log lines on the page of a run."""

RUNS = 50
"""Runs on a page of the history."""

MOST_FINDINGS = 50
"""Open findings on the first page."""

LAST_RUNS = 10


@router.get("/")
def index(service: ServiceDep) -> HTMLResponse:
    """What needs attention, all entries, the next seven days."""
    report = status(service)
    calendar = service.calendar()
    week = due_by_day(due(service, 8)[0], report.at, calendar.timezone)
    found: list[Finding] = []
    with suppress(StoreError):  # the report has that the store does not answer
        found = service.store.findings.all(limit=MOST_FINDINGS + 1)
    return _html(
        "index.html",
        report=report,
        week=week,
        timezone=calendar.timezone,
        findings=[listed_finding(finding, report.at) for finding in found[:MOST_FINDINGS]],
        more_findings=len(found) > MOST_FINDINGS,
        now=report.at,
    )


@router.get("/runs")
def runs(
    service: ServiceDep,
    entry: str = "",
    job: str = "",
    state: str = "",
    since: str = "",
    before: Annotated[str, Query(max_length=19)] = "",
) -> HTMLResponse:
    """The history with filters, page by page."""
    before_id = parse_run_id(before)
    page = runs_page(service, entry, job, state, since, before_id, RUNS)
    return _html(
        "runs.html",
        page=page,
        filters={"entry": entry, "job": job, "state": state, "since": since},
        first=before_id is None,
        entries=[item.name for item in service.calendar().entries],
        jobs=sorted(service.jobs()),
        states=list(RunState),
        now=service.store.now(),
    )


@router.get("/runs/{run_id}")
def run(service: ServiceDep, run_id: RunId, after: str = "", tail: bool = False) -> HTMLResponse:
    """One run: its outcome, evidence, changes and log."""
    found = find_run(service, run_id)
    cursor = (log_tail_cursor(found, LOG_LINES) or "") if tail else after
    log = log_page(service, run_id, cursor, None, None, LOG_LINES)
    return _html(
        "run.html",
        run=found,
        log=log,
        more=len(log.lines) == LOG_LINES,
        worst=worst_check(found),
        gate=_gate(service, found),
        now=service.store.now(),
    )


def _gate(service: OperatorService, run: Run) -> WaitingGate | None:
    """The gate where a run waits; None when it does not, or no longer."""
    if run.state is not RunState.WAITING:
        return None
    try:
        return gate_of_run(service, run.id)
    except RefusedError:  # it was just decided
        return None


@router.get("/entries/{name}")
def entry(service: ServiceDep, name: str) -> HTMLResponse:
    """One entry: its status, last runs and trends."""
    found = entry_status(service, name)
    last = service.store.history.runs(entry=name, limit=CHART_RUNS)
    jobs = found.jobs or tuple(sorted(_jobs_of(service, name)))
    charts, left_out = measure_charts(service, name, jobs)
    now = service.store.now()
    open_ones = service.store.findings.all(area=name)
    return _html(
        "entry.html",
        entry=found,
        steps=_steps_of(service, name),
        runs=last[:LAST_RUNS],
        duration=duration_chart(last),
        charts=charts,
        left_out=left_out,
        findings=[listed_finding(found, now) for found in open_ones if found.entry == name],
        now=now,
    )


@router.get("/jobs")
def jobs(service: ServiceDep) -> HTMLResponse:
    """All jobs."""
    return _html("jobs.html", jobs=list(service.jobs().values()))


@router.get("/jobs/{name}")
def job(service: ServiceDep, name: str) -> HTMLResponse:
    """One job with its params."""
    found = find_job(service, name)
    entries = [item.name for item in service.calendar().entries if name in item.jobs]
    return _html("job.html", job=found, broken=isinstance(found, BrokenJob), entries=entries)


@router.get("/due")
def due_page(service: ServiceDep, days: Annotated[int, Query(ge=1, le=MAX_DAYS)] = 14) -> HTMLResponse:
    """Due times by day, in the calendar's time zone."""
    found, limited = due(service, days)
    timezone = service.calendar().timezone
    by_day = due_by_day(found, service.clock.now(), timezone, days + 1)
    return _html("due.html", by_day=[day for day in by_day if day.items], days=days, timezone=timezone, limited=limited)


@router.get("/static/{name}")
async def static(name: str) -> Response:
    """Style sheet, script and icon."""
    if name not in STATIC_FILES:
        raise UnknownNameError("file", name, STATIC_FILES)
    headers = {"Cache-Control": "public, max-age=86400"}
    return FileResponse(STATIC / name, media_type=STATIC_FILES[name], headers=headers)


def _jobs_of(service: ServiceDep, name: str) -> set[str]:
    """The jobs of the last run of an entry that is no longer in the calendar."""
    found = (service.store.history.run(item.id) for item in service.store.history.runs(entry=name, limit=1))
    return {step.job for item in found if item is not None for step in item.steps}


def _steps_of(service: ServiceDep, name: str) -> list[dict[str, object]]:
    try:
        steps = find_entry(service, name).steps
    except UnknownNameError:
        return []
    return [step.model_dump(mode="json") for step in steps]


def _html(template: str, **values: object) -> HTMLResponse:
    return HTMLResponse(render(template, **values))
