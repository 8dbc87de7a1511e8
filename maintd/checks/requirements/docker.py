"""What jobs need of a Docker engine: that the socket, or the proxy before it, lets their requests through."""

from __future__ import annotations

from collections.abc import Sequence

from maintd.checks.requirements.requirement import Exercise
from maintd.clients.docker import Docker, translated
from maintd.errors import TargetError

_NOTHING = "maintd-doctor-no-such-name"

LISTS = ("GET /containers/json?limit=1",)
IMAGES = ("GET /images/json",)
NETWORKS = ("GET /networks",)
USAGE = ("GET /info",)
REMOVES_CONTAINERS = (f"DELETE /containers/{_NOTHING}",)
REMOVES_IMAGES = (f"DELETE /images/{_NOTHING}",)
RESTARTS = (f"POST /containers/{_NOTHING}/restart", f"POST /containers/{_NOTHING}/start")
REPLACES = (
    *(f"POST /containers/{_NOTHING}/{action}" for action in ("stop", "start", "rename?name=x")),
    "POST /containers/create",  # without a body
    *REMOVES_CONTAINERS,
)
STOPS = tuple(f"POST /containers/{_NOTHING}/{action}" for action in ("stop", "start"))
TAGS = (f"POST /images/{_NOTHING}/tag?repo=maintd/rollback&tag={_NOTHING}",)
CREATES_NETWORKS = ("POST /networks/create",)  # without a body
REMOVES_REHEARSALS = (f"DELETE /networks/maintd-rehearsal-{_NOTHING}",)
REMOVES_NETWORKS = (f"DELETE /networks/{_NOTHING}",)
# The engine rejects these filters; a proxy that forbids the request does not read them.
PRUNES_BUILD_CACHE = ("POST /build/prune?filters=%5B",)

_EXPECTED = {"GET": (200,), "POST": (400, 500)}
"""The statuses of the engine itself; the one for what is not valid depends on its version."""

_MISSING = (404,)
"""Of the engine itself, for a request about what does not exist."""


def allows(*requests: str) -> Exercise:
    """Send requests that change nothing: what is to be removed does not exist, and what is to be pruned is not valid.

    A request as text is `GET /path`. An answer of 401 or 403 means that it is denied; only the engine's own answer to
    such a request means that it is allowed.
    """

    def exercise(engine: Docker) -> str:
        statuses = {request: _status(engine, request) for request in requests}
        denied = [request for request, status in statuses.items() if status in (401, 403)]
        if denied:
            raise TargetError(
                f"{engine.name}: denied: {', '.join(_without_query(item) for item in denied)}",
                "allow it in the socket proxy's rules",
                cause="denied",
            )
        for request, status in statuses.items():
            if status not in (_MISSING if _NOTHING in request else _EXPECTED[request.partition(" ")[0]]):
                raise TargetError(
                    f"{engine.name}: {_without_query(request)} is answered {status}",
                    "check the engine's log, or what answers in its place",
                    cause="unfamiliar",
                )
        return f"{len(requests)} {'request' if len(requests) == 1 else 'requests'}"

    return exercise


def has_services(names: Sequence[str], project: str | None) -> Exercise:
    """Exercise: the project has a container of each of these services."""

    def exercise(engine: Docker) -> str:
        found = {container.service for container in engine.containers(project)}
        missing = [name for name in names if name not in found]
        if missing:
            raise TargetError(
                f"{engine.name}: no container of {', '.join(missing)}",
                "correct the target's services and project",
                cause="empty",
            )
        return f"{len(found)} services"

    return exercise


def _status(engine: Docker, request: str) -> int:
    method, path = request.split(" ", 1)
    api = engine.api
    with translated(engine.name):
        answer = api.request(method, f"{api.base_url}/v{api.api_version}{path}", timeout=api.timeout)
        return int(answer.status_code)


def _without_query(request: str) -> str:
    return request.partition("?")[0].replace(_NOTHING, "…")
