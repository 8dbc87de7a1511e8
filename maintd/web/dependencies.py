"""How a request finds its desk."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from maintd.operations import Desk


async def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


DESK = Annotated[Desk, Depends(_desk)]
"""The desk that the app was built for."""
