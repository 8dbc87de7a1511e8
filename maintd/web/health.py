"""What machines and terminals look at: health, metrics, the status as text."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from maintd.errors import StoreError
from maintd.operations import status
from maintd.web.dependencies import SERVICE
from maintd.web.schemas import HealthAnswer, answer

router = APIRouter()


@router.get("/healthz", response_model=HealthAnswer)
def get_health(service: SERVICE) -> Response:
    """200 while the planning loop turns, else 503."""
    health = service.health()
    return answer(HealthAnswer(ok=health.alive, problems=health.problems), 200 if health.alive else 503)


@router.get("/readyz", response_model=HealthAnswer)
def get_readiness(service: SERVICE) -> Response:
    """200 while maintd plans and its store answers, else 503."""
    health = service.health()
    problems = list(health.problems)
    ready = health.ready
    try:
        service.store.ping()
    except StoreError as error:
        ready = False
        problems.append(f"the store does not answer: {error.message}")
    return answer(HealthAnswer(ok=ready, problems=tuple(problems)), 200 if ready else 503)


@router.get("/metrics", response_class=Response)
def get_metrics(service: SERVICE, request: Request) -> Response:
    """Metrics of entries, queue and daemon in Prometheus' text format."""
    from maintd.web.metrics import scrape  # the library is loaded at the first scrape

    text, media_type = scrape(service, request.app.state.evidence, request.headers.get("accept", ""))
    return Response(text, media_type=media_type)


@router.get("/text/status", response_class=Response)
def get_status_text(
    service: SERVICE, width: Annotated[int, Query(ge=20, le=500)] = 80, colour: bool = False
) -> Response:
    """The status ready for a terminal; the header X-Exit-Code is the command's exit code."""
    from maintd.present import status_text

    report = status(service)
    return Response(
        status_text(report, width=width, colour=colour),
        headers={"X-Exit-Code": "1" if report.needs_attention else "0"},
        media_type="text/plain; charset=utf-8",
    )
