"""The errors that the API reports, as exceptions of `maintd.errors`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from maintd.errors import (
    CalendarError,
    ForbiddenError,
    MaintdError,
    OutputError,
    StoreUnavailableError,
    UnauthorizedError,
    UnknownNameError,
    UsageError,
)

_BY_STATUS: Mapping[int, type[MaintdError]] = {
    400: UsageError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: UnknownNameError,
    413: UsageError,
    414: UsageError,
    429: UnauthorizedError,
    503: StoreUnavailableError,
}
"""The class for a code that this version does not know."""


def api_error(answer: Mapping[str, Any], status: int = 500) -> MaintdError:
    """The error in an answer of the API, as an instance of the class that has its code.

    For a code of a newer maintd, the class follows from the HTTP status, and the error keeps the code.
    """
    reported = answer.get("error")
    reported = reported if isinstance(reported, Mapping) else {}
    message = str(reported.get("message") or f"the daemon answered {status}")
    hint, code = reported.get("hint"), str(reported.get("code") or "")
    kind = {kind.code: kind for kind in _kinds(MaintdError)}.get(code) or _BY_STATUS.get(status, MaintdError)
    error = coded_error(kind, message, None if hint is None else str(hint))
    error.code = code or kind.code
    return error


def coded_error(kind: type[MaintdError], message: str, hint: str | None = None) -> MaintdError:
    """An error of the class `kind` with this message, also when the constructor of the class builds another."""
    error = kind.__new__(kind)
    MaintdError.__init__(error, message, hint)
    if isinstance(error, UnknownNameError):
        error.name = ""
    if isinstance(error, CalendarError):
        error.problems = tuple(message.splitlines())
    return error


def _kinds(kind: type[MaintdError]) -> Iterator[type[MaintdError]]:
    """The classes below `kind`, without those that the API cannot report; a class comes before those below it."""
    for inner in kind.__subclasses__():
        if inner is not OutputError:
            yield from _kinds(inner)
    yield kind
