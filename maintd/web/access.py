"""The table of rights: what each route needs. `maintd.model.access` has the role that each right needs.

A test compares the table with the app's routes in both directions. A route without a row is refused to every caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.routing import APIRoute
from starlette.routing import Match

from maintd.errors import ForbiddenError, RefusedError, UnauthorizedError
from maintd.model.access import Caller, Right, roles_with

CALLER = "caller"
"""The key of the caller in the state of an ASGI scope."""

RIGHTS: dict[tuple[str, str], Right] = {
    ("GET", "/"): Right.READ,
    ("GET", "/due"): Right.READ,
    ("GET", "/entries/{name}"): Right.READ,
    ("GET", "/healthz"): Right.PROBE,
    ("GET", "/jobs"): Right.READ,
    ("GET", "/jobs/{name}"): Right.READ,
    ("GET", "/metrics"): Right.READ,
    ("GET", "/readyz"): Right.PROBE,
    ("GET", "/runs"): Right.READ,
    ("GET", "/runs/{run_id}"): Right.READ,
    ("GET", "/static/{name}"): Right.PROBE,
    ("GET", "/text/status"): Right.READ,
    ("GET", "/api/v1/changelog"): Right.READ,
    ("GET", "/api/v1/changelog/verify"): Right.READ,
    ("GET", "/api/v1/due"): Right.READ,
    ("GET", "/api/v1/entries"): Right.READ,
    ("GET", "/api/v1/entries/{name}"): Right.READ,
    ("GET", "/api/v1/entries/{name}/start-time"): Right.READ,
    ("POST", "/api/v1/entries/{name}/pause"): Right.PAUSE,
    ("POST", "/api/v1/entries/{name}/unpause"): Right.PAUSE,
    ("GET", "/api/v1/events"): Right.READ,
    ("GET", "/api/v1/events/stream"): Right.READ,
    ("GET", "/api/v1/findings"): Right.READ,
    ("GET", "/api/v1/findings/{key}"): Right.READ,
    ("POST", "/api/v1/findings/{key}/acknowledge"): Right.ACKNOWLEDGE,
    ("POST", "/api/v1/findings/{key}/withdraw"): Right.ACKNOWLEDGE,
    ("GET", "/api/v1/freezes"): Right.READ,
    ("POST", "/api/v1/freezes"): Right.FREEZE,
    ("POST", "/api/v1/freezes/end"): Right.FREEZE,
    ("GET", "/api/v1/gates"): Right.READ,
    ("GET", "/api/v1/incidents"): Right.READ,
    ("GET", "/api/v1/jobs"): Right.READ,
    ("GET", "/api/v1/jobs/{name}"): Right.READ,
    ("GET", "/api/v1/mutes"): Right.READ,
    ("POST", "/api/v1/mutes"): Right.MUTE,
    ("POST", "/api/v1/mutes/end"): Right.MUTE,
    ("GET", "/api/v1/notices"): Right.READ,
    ("POST", "/api/v1/notices/test"): Right.TEST_NOTICES,
    ("GET", "/api/v1/notices/{notice_id}"): Right.READ,
    ("GET", "/api/v1/openapi.json"): Right.READ,
    ("POST", "/api/v1/reload"): Right.RELOAD,
    ("GET", "/api/v1/runs"): Right.READ,
    ("POST", "/api/v1/runs"): Right.TRIGGER,
    ("GET", "/api/v1/runs/{run_id}"): Right.READ,
    ("GET", "/api/v1/runs/{run_id}/artifacts/{step}/{attempt}/{name}"): Right.READ,
    ("POST", "/api/v1/runs/{run_id}/cancel"): Right.CANCEL,
    ("GET", "/api/v1/runs/{run_id}/checklist"): Right.READ,
    ("GET", "/api/v1/runs/{run_id}/findings"): Right.READ,
    ("GET", "/api/v1/runs/{run_id}/gate"): Right.READ,
    ("POST", "/api/v1/runs/{run_id}/gate/approve"): Right.DECIDE,
    ("POST", "/api/v1/runs/{run_id}/gate/reject"): Right.DECIDE,
    ("POST", "/api/v1/runs/{run_id}/gate/tick"): Right.DECIDE,
    ("GET", "/api/v1/runs/{run_id}/log"): Right.READ,
    ("GET", "/api/v1/runs/{run_id}/log.txt"): Right.READ,
    ("GET", "/api/v1/runs/{run_id}/log/stream"): Right.READ,
    ("POST", "/api/v1/runs/{run_id}/notes"): Right.NOTE,
    ("POST", "/api/v1/runs/{run_id}/release"): Right.RESUME,
    ("POST", "/api/v1/runs/{run_id}/resume"): Right.RESUME,
    ("POST", "/api/v1/runs/{run_id}/undo"): Right.RESUME,
    ("GET", "/api/v1/series"): Right.READ,
    ("GET", "/api/v1/settings"): Right.READ,
    ("GET", "/api/v1/status"): Right.READ,
    ("GET", "/api/v1/summary"): Right.READ,
    ("GET", "/api/v1/tokens"): Right.MANAGE_TOKENS,
    ("POST", "/api/v1/tokens"): Right.MANAGE_TOKENS,
    ("POST", "/api/v1/tokens/{name}/revoke"): Right.MANAGE_TOKENS,
    ("GET", "/api/v1/version"): Right.READ,
}
"""(method, path) → right. HEAD needs what GET needs."""

BY_ENTRY = frozenset(
    {
        ("GET", "/api/v1/changelog"),
        ("GET", "/api/v1/due"),
        ("GET", "/api/v1/entries"),
        ("GET", "/api/v1/entries/{name}"),
        ("GET", "/api/v1/entries/{name}/start-time"),
        ("POST", "/api/v1/entries/{name}/pause"),
        ("POST", "/api/v1/entries/{name}/unpause"),
        ("GET", "/api/v1/events/stream"),
        ("GET", "/api/v1/findings"),
        ("GET", "/api/v1/findings/{key}"),
        ("POST", "/api/v1/findings/{key}/acknowledge"),
        ("POST", "/api/v1/findings/{key}/withdraw"),
        ("GET", "/api/v1/freezes"),
        ("POST", "/api/v1/freezes"),
        ("POST", "/api/v1/freezes/end"),
        ("GET", "/api/v1/gates"),
        ("GET", "/api/v1/jobs"),
        ("GET", "/api/v1/jobs/{name}"),
        ("GET", "/api/v1/mutes"),
        ("POST", "/api/v1/mutes"),
        ("POST", "/api/v1/mutes/end"),
        ("GET", "/api/v1/openapi.json"),
        ("GET", "/api/v1/runs"),
        ("POST", "/api/v1/runs"),
        ("GET", "/api/v1/runs/{run_id}"),
        ("GET", "/api/v1/runs/{run_id}/artifacts/{step}/{attempt}/{name}"),
        ("POST", "/api/v1/runs/{run_id}/cancel"),
        ("GET", "/api/v1/runs/{run_id}/checklist"),
        ("GET", "/api/v1/runs/{run_id}/findings"),
        ("GET", "/api/v1/runs/{run_id}/gate"),
        ("POST", "/api/v1/runs/{run_id}/gate/approve"),
        ("POST", "/api/v1/runs/{run_id}/gate/reject"),
        ("POST", "/api/v1/runs/{run_id}/gate/tick"),
        ("GET", "/api/v1/runs/{run_id}/log"),
        ("GET", "/api/v1/runs/{run_id}/log.txt"),
        ("GET", "/api/v1/runs/{run_id}/log/stream"),
        ("POST", "/api/v1/runs/{run_id}/notes"),
        ("POST", "/api/v1/runs/{run_id}/release"),
        ("POST", "/api/v1/runs/{run_id}/resume"),
        ("POST", "/api/v1/runs/{run_id}/undo"),
        ("GET", "/api/v1/series"),
        ("GET", "/api/v1/status"),
        ("GET", "/api/v1/version"),
        ("GET", "/text/status"),
    }
)
"""Routes for tokens that are limited to entries: each shows and changes only the caller's, or none at all. All other
routes but probes are refused to such a token."""


_ACTS: dict[str, str] = {
    "/api/v1/entries/{name}/unpause": "unpause",
    "/api/v1/findings/{key}/withdraw": "withdraw an acknowledgement",
    "/api/v1/freezes/end": "end a freeze",
    "/api/v1/mutes/end": "end a mute",
    "/api/v1/runs/{run_id}/gate/approve": "approve",
    "/api/v1/runs/{run_id}/gate/reject": "reject",
    "/api/v1/runs/{run_id}/gate/tick": "tick an item",
    "/api/v1/runs/{run_id}/notes": "add a note",
    "/api/v1/runs/{run_id}/release": "release",
    "/api/v1/runs/{run_id}/undo": "undo",
}
"""What a request for a path does, where its right has another name or is that of several paths."""


def find_route(routes: Sequence[APIRoute], scope: Mapping[str, Any]) -> tuple[str, str] | None:
    """Method and path of the route that will answer a request; None when none will. HEAD counts as GET."""
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    asked = {**scope, "method": method}
    return next(((method, route.path) for route in routes if route.matches(asked)[0] is Match.FULL), None)


def require_right(caller: Caller, route: tuple[str, str] | None) -> None:
    """Raise unless the caller may use a route: UnauthorizedError when a token is needed, else ForbiddenError.

    What is no route needs the right to read, so that a caller without it learns nothing of what exists.
    """
    right = Right.READ if route is None else RIGHTS.get(route)
    if right is None:
        raise RefusedError(f"{' '.join(route or ())} has no right in the table of rights", "report this as a bug")
    if not caller.may(right):
        _refuse(caller, right, "" if route is None else _ACTS.get(route[1], ""))
    if caller.entries and route is not None and right is not Right.PROBE and route not in BY_ENTRY:
        raise ForbiddenError(
            f'token "{caller.token}" is limited to {", ".join(caller.entries)}, but this is about all entries',
            "use a token without that limit",
        )


def _refuse(caller: Caller, right: Right, act: str) -> None:
    roles = roles_with(right)
    if not caller.name:
        what = "this" if right is Right.READ else f"to {act or right.replace('_', ' ')}, a request"
        raise UnauthorizedError(
            f"{what} needs a token of the role {_either(roles)}",
            'send it as "Authorization: Bearer TOKEN", commands with --token-file FILE; '
            f"create one with: maintd token create --role {roles[0]} NAME",
        )
    role = "no role" if caller.role is None else f"the role {caller.role}"
    raise ForbiddenError(f'"{caller.name}" has {role}, which lacks the right "{right}"', f"it needs {_either(roles)}")


def _either(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
