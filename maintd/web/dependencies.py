"""How a request handler gets the operator service."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from maintd.operations import OperatorService


async def _service(request: Request) -> OperatorService:
    service: OperatorService = request.app.state.service
    return service


SERVICE = Annotated[OperatorService, Depends(_service)]
"""The operator service that the app was built for."""
