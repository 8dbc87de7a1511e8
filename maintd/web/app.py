"""The app: API, page, metrics and health on one operator service. What each door allows is the guard's."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

import maintd
from maintd.errors import MaintdError, UnknownNameError, UsageError
from maintd.operations import OperatorService
from maintd.web import health, pages
from maintd.web.api import daemon, entries, runs
from maintd.web.errors import error_response, failure
from maintd.web.evidence import EvidenceCache

DESCRIPTION = (
    "What maintd's command line and page use. On the control socket everything is allowed; on TCP only reading. "
    "Times are ISO 8601 in UTC; an error is {error: {code, message, hint}}."
)


def build(service: OperatorService) -> FastAPI:
    """The app for an operator service."""
    app = _routes()
    app.state.service = service
    app.state.evidence = EvidenceCache()
    app.add_exception_handler(MaintdError, _maintd_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _failure)
    return app


def describe() -> dict[str, Any]:
    """The API as OpenAPI 3.1."""
    return get_openapi(title="maintd", version=maintd.__version__, description=DESCRIPTION, routes=_routes().routes)


def _routes() -> FastAPI:
    app = FastAPI(title="maintd", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    for router in (daemon.router, entries.router, runs.router, health.router, pages.router):
        app.include_router(router)
    app.add_api_route("/api/v1/openapi.json", _openapi, include_in_schema=False)
    return app


def _openapi() -> Response:
    return JSONResponse(describe())


def _maintd_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MaintdError)
    return error_response(request.scope, error)


def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = []
    for problem in error.errors()[:5]:
        where = ".".join(str(part) for part in problem["loc"] if part not in ("body", "query", "path"))
        message = str(problem["msg"]).removeprefix("Value error, ").replace("Input should", "should")
        told.append(f"{where}: {message}" if where else message)
    return error_response(request.scope, UsageError("\n".join(told), "see: /api/v1/openapi.json"), 400)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_response(request.scope, UnknownNameError("page", request.url.path))
    return error_response(request.scope, UsageError(str(error.detail)), error.status_code)


def _failure(request: Request, error: Exception) -> Response:
    """Only the answer: the guard logs the error, which goes on to it."""
    return error_response(request.scope, failure(error), 500)
