"""Errors as HTTP responses: JSON for programs, a page for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import HTMLResponse, JSONResponse, Response

from maintd.errors import (
    DAEMON_LOG,
    CalendarError,
    DaemonUnavailableError,
    ForbiddenError,
    JobError,
    MaintdError,
    RefusedError,
    StoreError,
    UnauthorizedError,
    UnknownNameError,
    UsageError,
)
from maintd.web.templates import render


class WrongTokenError(UnauthorizedError):
    """The token of the request is unknown, expired or revoked."""


class TooManyFailuresError(UnauthorizedError):
    """Too many wrong tokens are being answered; `retry_after` is in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("too many requests with a wrong token", f"try again in {retry_after}s")
        self.retry_after = retry_after


class TooManyFollowersError(RefusedError):
    """As many streams are followed as may be."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "end one of them, or try again later")


STATUS_CODES: tuple[tuple[type[MaintdError], int], ...] = (
    (UnknownNameError, 404),
    (TooManyFailuresError, 429),
    (TooManyFollowersError, 429),
    (UnauthorizedError, 401),
    (RefusedError, 403),
    (DaemonUnavailableError, 503),
    (StoreError, 503),
    (CalendarError, 400),
    (UsageError, 400),
    (JobError, 400),
)

JSON_PATHS = ("/api/", "/healthz", "/readyz", "/metrics", "/text/")
"""Path prefixes whose clients are programs; their errors are JSON."""


def status_code(error: MaintdError) -> int:
    """The HTTP status code for an error of maintd; 500 for a kind that has none of its own."""
    return next((code for kind, code in STATUS_CODES if isinstance(error, kind)), 500)


def error_response(scope: Mapping[str, Any], error: MaintdError, status: int | None = None) -> Response:
    """The error as JSON or as a page, depending on the path."""
    status = status or status_code(error)
    headers = _headers(error, status)
    if scope["path"].startswith(JSON_PATHS):
        return JSONResponse(error.as_json(), status, headers)
    return HTMLResponse(render("error.html", error=error, status=status), status, headers)


def _headers(error: MaintdError, status: int) -> dict[str, str]:
    """Headers for programs. Source: RFC 6750, section 3, for those about tokens."""
    if isinstance(error, TooManyFailuresError):
        return {"Retry-After": str(error.retry_after)}
    if status == 401:
        wrong = ', error="invalid_token"' if isinstance(error, WrongTokenError) else ""
        return {"WWW-Authenticate": f'Bearer realm="maintd"{wrong}'}
    if isinstance(error, ForbiddenError):
        return {"WWW-Authenticate": 'Bearer realm="maintd", error="insufficient_scope"'}
    return {"Retry-After": "5"} if status in (429, 503) else {}


def internal_error(error: Exception) -> MaintdError:
    """What a client sees of an unexpected error: its type only, because the message may hold secrets."""
    return MaintdError(f"internal error: {type(error).__name__}", DAEMON_LOG)
