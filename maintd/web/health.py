"""Endpoints outside the versioned API: liveness, readiness, metrics and the status text of `maintd status`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from maintd.errors import StoreError
from maintd.model.access import Right
from maintd.model.responses import HealthResponse
from maintd.operations import status_for
from maintd.present import status_text
from maintd.terminal import for_terminal
from maintd.web.dependencies import ServiceDep, caller
from maintd.web.schemas import json_response

router = APIRouter()

_first_scrape = threading.Lock()


@router.get("/healthz", response_model=HealthResponse, responses={503: {"model": HealthResponse}})
def get_health(service: ServiceDep, request: Request) -> Response:
    """Liveness: 200 while the scheduler loop runs, else 503."""
    health = service.health()
    return json_response(
        HealthResponse(ok=health.alive, problems=_shown(request, health.problems)), 200 if health.alive else 503
    )


@router.get("/readyz", response_model=HealthResponse, responses={503: {"model": HealthResponse}})
def get_readiness(service: ServiceDep, request: Request) -> Response:
    """Readiness: 200 while maintd plans runs and its store answers, else 503."""
    health = service.health()
    problems = list(health.problems)
    ready = health.ready
    try:
        service.store.ping()
    except StoreError as error:
        ready = False
        problems.append(f"the store does not answer: {error.message}")
    return json_response(HealthResponse(ok=ready, problems=_shown(request, problems)), 200 if ready else 503)


def _shown(request: Request, problems: Sequence[str]) -> tuple[str, ...]:
    """The problems, for callers who may read; others see only whether there are some."""
    return tuple(problems) if caller(request).may(Right.READ) else ()


@router.get("/metrics", response_class=Response)
def get_metrics(service: ServiceDep, request: Request) -> Response:
    """Metrics of the entries, the queue and the daemon in Prometheus' text format."""
    from maintd.web.metrics import Scraper  # a daemon that is never scraped saves the memory of prometheus_client

    state = request.app.state
    with _first_scrape:
        if state.scraper is None:
            state.scraper = Scraper(service)
    text, media_type = state.scraper.scrape(request.headers.get("accept", ""))
    return Response(text, media_type=media_type)


@router.get("/text/status", response_class=Response)
def get_status_text(
    service: ServiceDep, request: Request, width: Annotated[int, Query(ge=20, le=500)] = 80, colour: bool = False
) -> Response:
    """The status as text for a terminal; the header X-Exit-Code holds the exit code of `maintd status`."""
    report = status_for(service, caller(request))
    return Response(
        for_terminal(status_text(report, width=width, colour=colour), colour=colour),
        headers={"X-Exit-Code": "1" if report.needs_attention else "0"},
        media_type="text/plain; charset=utf-8",
    )
