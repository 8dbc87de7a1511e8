"""Errors as responses: JSON for programs, a page for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import HTMLResponse, JSONResponse, Response

from maintd.errors import (
    CalendarError,
    DaemonUnavailableError,
    JobError,
    MaintdError,
    RefusedError,
    StoreError,
    UnknownNameError,
    UsageError,
)

STATUS: tuple[tuple[type[MaintdError], int], ...] = (
    (UnknownNameError, 404),
    (RefusedError, 403),
    (DaemonUnavailableError, 503),
    (StoreError, 503),
    (CalendarError, 400),
    (UsageError, 400),
    (JobError, 400),
)

PROGRAMS = ("/api/", "/healthz", "/readyz", "/metrics", "/text/")
"""Paths that programs read."""


def status_of(error: MaintdError) -> int:
    """The HTTP status that stands for an error of maintd."""
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def error_response(scope: Mapping[str, Any], error: MaintdError, status: int | None = None) -> Response:
    """The error as whoever asked reads it."""
    status = status or status_of(error)
    headers = {"Retry-After": "5"} if status == 503 else {}
    if scope["path"].startswith(PROGRAMS):
        return JSONResponse(error.as_json(), status, headers)
    from maintd.web.templates import render  # templates cost memory that a daemon without readers does not spend

    return HTMLResponse(render("error.html", error=error, status=status), status, headers)


def failure(error: Exception) -> MaintdError:
    """What the asker is told of an error that nobody foresaw: its kind, and no more."""
    return MaintdError(f"maintd failed to answer: {type(error).__name__}", "see the daemon's log")
