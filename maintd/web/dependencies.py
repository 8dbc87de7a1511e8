"""How a request finds its desk."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from maintd.operations import OperatorService


async def _desk(request: Request) -> OperatorService:
    desk: OperatorService = request.app.state.desk
    return desk


SERVICE = Annotated[OperatorService, Depends(_desk)]
"""The desk that the app was built for."""
