"""Tokens: list, create, revoke."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from maintd.errors import ForbiddenError
from maintd.model.access import CreatedToken, ListedToken
from maintd.model.responses import TokenList
from maintd.operations.tokens import create_token, list_tokens, revoke_token
from maintd.web.dependencies import ServiceDep, caller
from maintd.web.schemas import RevokeBody, TokenBody, json_response

router = APIRouter(prefix="/api/v1/tokens")


@router.get("", response_model=TokenList)
def get_tokens(service: ServiceDep) -> Response:
    """List the tokens of the API with role, expiry and last use; the tokens themselves are not stored."""
    return json_response(TokenList(tokens=list_tokens(service.store)))


@router.post("", response_model=CreatedToken, status_code=201)
def post_token(service: ServiceDep, request: Request, body: TokenBody) -> Response:
    """Create a token, of a program or of a `person`. The response is the only place that shows it."""
    by = caller(request, body.by)
    if body.person and by.by_program:
        raise ForbiddenError(
            f'token "{by.token}" is of a program, which cannot create the token of a person',
            "create it on the host: maintd token create --person NAME",
        )
    created = create_token(
        service.store,
        body.name,
        body.role,
        expires_at=body.expires_at,
        person=body.person,
        entries=body.entries,
        by=by.name,
        origin=by.origin,
        why=body.why,
    )
    return json_response(created, 201)


@router.post("/{name}/revoke", response_model=ListedToken)
def revoke(service: ServiceDep, request: Request, name: str, body: RevokeBody | None = None) -> Response:
    """Revoke a token: no request with it is accepted from then on."""
    body = body or RevokeBody()
    by = caller(request, body.by)
    return json_response(revoke_token(service.store, name, by=by.name, origin=by.origin, why=body.why))
