"""The FastAPI app: routes and exception handlers. `maintd.web.middleware` decides who may send which request."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

import maintd
from maintd.errors import MaintdError, RefusedError, UnknownNameError, UsageError
from maintd.model.access import Right, roles_with
from maintd.model.base import problem_text
from maintd.operations import OperatorService
from maintd.terminal import quotable
from maintd.web import health, pages
from maintd.web.access import RIGHTS
from maintd.web.api import changelog, daemon, entries, findings, freezes, gates, notices, resume, runs, streams, tokens
from maintd.web.dependencies import caller, refuse_unknown_params
from maintd.web.errors import error_response, internal_error
from maintd.web.refusals import Refusals
from maintd.web.schemas import ErrorResponse

_FORBIDDEN = (
    "The caller's role or token does not have the right; or the request is not allowed now; or another site sent it"
)

_TOO_MANY = "Too many wrong tokens, or followers of a stream; `Retry-After` has the seconds to wait"

DESCRIPTION = (
    "The API that maintd's command line and web page use. The control socket needs no token; on the TCP port a request "
    "has a token, as `Authorization: Bearer TOKEN`, unless a local client reads. Times are ISO 8601 in "
    "UTC. An error is {error: {code, message, hint}}."
)


_schema_router = APIRouter(include_in_schema=False)

_API_ROUTERS = (
    changelog.router,
    daemon.router,
    entries.router,
    findings.router,
    gates.router,
    runs.router,
    freezes.router,
    resume.router,
    notices.router,
    streams.router,
    tokens.router,
    health.router,
)
_OTHER_ROUTERS = (pages.router, _schema_router)


def create_app(service: OperatorService) -> FastAPI:
    """Build the app on an operator service."""
    app = _with_routes()
    app.state.service = service
    app.state.refusals = Refusals(service.store, service.clock)
    app.state.routes = routes()
    app.state.scraper = None  # made by the first scrape
    app.add_exception_handler(MaintdError, _maintd_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal_error)
    return app


def openapi_schema() -> dict[str, Any]:
    """The API as an OpenAPI 3.1 document."""
    schema = get_openapi(
        title="maintd", version=maintd.__version__, description=DESCRIPTION, routes=_with_routes().routes
    )
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            _add_errors(path, method, operation)
            _add_security(RIGHTS[method.upper(), path], operation)
    schema["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "A token of `maintd token create`."}
    }
    for unused in ("HTTPValidationError", "ValidationError"):  # this app answers with its own errors
        schema["components"]["schemas"].pop(unused, None)
    return schema


def _add_errors(path: str, method: str, operation: dict[str, Any]) -> None:
    """State what an operation answers besides success; every error has the same body."""
    responses = operation["responses"]
    del responses["default"]  # it only brings the error's schema into the document
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}}
    responses.pop("422", None)  # FastAPI's own; this app answers 400
    takes_values = bool(operation.get("parameters") or "requestBody" in operation)
    is_api = path.startswith("/api/")
    stated = {
        "400": (takes_values or is_api, "The request has an invalid value, or an unknown one; nothing was done"),
        "401": (True, "A token is needed, or the token is unknown, expired or revoked"),
        "403": (True, _FORBIDDEN),
        "404": (takes_values, "There is nothing of this name; `hint` may have a similar one"),
        "413": (method == "post", "The body is too large"),
        "414": (True, "Path and query are too long"),
        "429": (True, _TOO_MANY),
        "500": (True, "An error in maintd; the daemon's log has it"),
        "503": (True, "The store does not answer, or there is no daemon; `Retry-After` has the seconds to wait"),
    }
    for status, (possible, description) in stated.items():
        if possible:
            responses.setdefault(status, {**error, "description": description})
    if method == "get" and "application/json" in responses["200"].get("content", ()):
        responses["304"] = {"description": "Nothing changed since the response whose `ETag` was in `If-None-Match`"}
    operation["responses"] = dict(sorted(responses.items()))


def _add_security(right: Right, operation: dict[str, Any]) -> None:
    """State the right that an operation needs, the roles that have it, and whether a token is needed."""
    operation["x-right"] = right.value
    operation["x-roles"] = [role.value for role in roles_with(right)]
    without: list[dict[str, list[str]]] = [{}]  # a local client may read without a token
    token: list[dict[str, list[str]]] = [{"token": []}]
    operation["security"] = [] if right is Right.PROBE else token + without if right is Right.READ else token


def _with_routes() -> FastAPI:
    app = FastAPI(title="maintd", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    for router in _API_ROUTERS:
        # Probes and scrapes are sent by programs that may add parameters of their own.
        strict = [] if router is health.router else [Depends(refuse_unknown_params)]
        error = {"description": "An error", "model": ErrorResponse}
        app.include_router(router, responses={"default": error}, dependencies=strict)
    app.include_router(_schema_router, dependencies=[Depends(refuse_unknown_params)])
    app.include_router(pages.router)
    return app


def routes() -> list[APIRoute]:
    """All routes in the order in which the app tries them."""
    return [
        route for router in (*_API_ROUTERS, *_OTHER_ROUTERS) for route in router.routes if isinstance(route, APIRoute)
    ]


@_schema_router.get("/api/v1/openapi.json")
def _openapi() -> Response:
    return JSONResponse(openapi_schema())


def _maintd_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MaintdError)
    if isinstance(error, RefusedError) and request.method not in ("GET", "HEAD"):
        request.app.state.refusals.record(caller(request), request.method, request.url.path, error)
    return error_response(request.scope, error)


def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    messages = []
    for problem in error.errors()[:5]:
        field = ".".join(str(part) for part in problem["loc"] if part not in ("body", "query", "path"))
        message = problem_text(problem)
        messages.append(f"{field}: {message}" if field else message)
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and sent != "application/json" and not sent.endswith("+json"):
        what = f"the body is sent as {quotable(sent)}" if sent else "the body is sent without a Content-Type"
        messages, hint = [f"{what}, not as JSON"], 'send the header "Content-Type: application/json"'
    else:
        hint = "see: /api/v1/openapi.json"
    return error_response(request.scope, UsageError("\n".join(messages), hint), 400)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_response(request.scope, UnknownNameError("page", request.url.path))
    return error_response(request.scope, UsageError(str(error.detail)), error.status_code)


def _internal_error(request: Request, error: Exception) -> Response:
    """The response only; Starlette raises the error again, and the middleware logs it."""
    return error_response(request.scope, internal_error(error), 500)
