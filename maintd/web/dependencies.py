"""What route functions share: the operator service and types and parsers of path and query parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Path, Query, Request
from fastapi.dependencies.models import Dependant

from maintd.errors import UsageError, nearest
from maintd.model.access import Caller, Role
from maintd.model.run import RunState
from maintd.operations import OperatorService
from maintd.operations.lookup import LARGEST_ID
from maintd.terminal import quotable
from maintd.units import parse_duration
from maintd.web.access import CALLER

_CURSOR = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,18})", re.ASCII)


IN_PROCESS = Caller(role=Role.ADMIN, origin="in process")
"""The caller of a request that came through no listener."""


async def _service(request: Request) -> OperatorService:
    service: OperatorService = request.app.state.service
    return service


ServiceDep = Annotated[OperatorService, Depends(_service)]
"""The operator service that the app was built on."""


def caller(request: Request, claimed: str = "") -> Caller:
    """Who sends a request. With another name in the request, as under sudo, the name is `ada (as root)`.

    A request that came through no listener, as from a command without a daemon, is one of an administrator.
    """
    found: Caller = getattr(request.state, CALLER, IN_PROCESS)
    if claimed in ("", found.name):
        return found
    return found._replace(name=f"{claimed} (as {found.name})" if found.name else claimed)


async def refuse_unknown_params(request: Request) -> None:
    """Raise UsageError for a query parameter that the route does not take: a filter with a typing error would be none.

    It runs before the route's own values are read. Async, so that it needs no thread.
    """
    names = request.query_params.keys()
    if not names:
        return
    known = list(dict.fromkeys(_query_names(request.scope["route"].dependant)))
    for name in names:
        if name not in known:
            near = nearest(name[:60], known)
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise UsageError(
                f'unknown query parameter "{quotable(name[:60])}"', f'did you mean "{near}"?' if near else takes
            )


def _query_names(dependant: Dependant) -> Iterator[str]:
    yield from (param.alias for param in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _query_names(inner)


RunId = Annotated[int, Path(ge=1, le=LARGEST_ID)]
Before = Annotated[int | None, Query(ge=1, le=LARGEST_ID)]
AttemptNumber = Annotated[int, Path(ge=1, le=1_000_000)]


def parse_run_id(text: str) -> int | None:
    """A run's id, or None for an empty text, which a form sends for no value. Raises UsageError."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= LARGEST_ID):
        raise UsageError(f'"{text}" is not a run id', "start again at /runs")
    return int(text)


def parse_states(text: str) -> list[RunState]:
    """`failed,lost` → states, each once. Raises UsageError with the closest state."""
    states: dict[RunState, None] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        if word not in RunState.__members__.values():
            closest = nearest(word[:60], [state.value for state in RunState])
            hint = f'did you mean "{closest}"?' if closest else f"valid states: {', '.join(RunState)}"
            raise UsageError(f'unknown state "{word[:60]}"', hint)
        states[RunState(word)] = None
    return list(states)


def parse_since(text: str, now: datetime) -> datetime:
    """An ISO 8601 time with an offset, or a duration before now: `2026-03-01T00:00Z`, `7d`. Raises UsageError."""
    try:
        return now - parse_duration(text)
    except OverflowError:
        raise UsageError(f'"{text}" is too long ago') from None
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
        # astimezone() would read a time without an offset in this machine's local time zone.
        at = found.astimezone(UTC) if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        at = None
    if at is None:
        raise UsageError(
            f'"{text}" is neither a time with a UTC offset nor a duration', "write for example 2026-03-01T00:00Z or 7d"
        )
    return at


def parse_log_cursor(text: str) -> tuple[int, int, int]:
    """`0.1.250` → index of the step, number of the attempt, sequence number of the line. Raises UsageError."""
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise UsageError(f'"{text[:60]}" is not a log cursor', "use the cursor of an earlier response, like 0.1.250")
    return int(match[1]), int(match[2]), int(match[3])


def log_cursor(step: int, attempt: int, seq: int) -> str:
    """The inverse of `parse_log_cursor`. A request with it in `after` continues at the line after that one."""
    return f"{step}.{attempt}.{seq}"
