"""The effective configuration of Grafana and of Traefik, by their HTTP APIs, and of files."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
from pydantic import Field

from maintd.checks.config_review.snapshot import Collector, Seen
from maintd.clients.bounded import parse_json, parse_yaml
from maintd.clients.files import read_regular
from maintd.clients.http import Api
from maintd.clients.shapes import Shape, read_each
from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.target import HttpTarget

_MAX_DASHBOARDS = 300
_MAX_BYTES = 2 << 20
_VOLATILE = ("serverStatus", "usedBy", "status", "updated", "version", "id", "orgID", "orgId", "readOnly")
_TRAEFIK = tuple(
    f"{protocol}{kind}"
    for protocol, kinds in (
        ("", ("routers", "services", "middlewares")),
        ("tcp", ("Routers", "Services", "Middlewares")),
        ("udp", ("Routers", "Services")),
    )
    for kind in kinds
)
"""Parts of /api/rawdata. Source: Traefik, pkg/config/runtime, `Configuration`."""


class _Found(Shape):
    uid: str
    title: str = ""
    folder: str = Field("General", alias="folderTitle")


def read_grafana(target: HttpTarget, collector: Collector) -> Seen:
    """Data sources, dashboards with their versions, and alert rules. Raises TargetError when none can be read."""
    api = _api(target)
    unread: dict[str, str] = {}
    parts: tuple[tuple[str, Callable[[], None]], ...] = (
        ("datasources/", lambda: _add_sources(api, collector)),
        ("dashboards/", lambda: _add_dashboards(api, collector, unread)),
        ("alert rules/", lambda: _add_rules(api, collector)),
    )
    errors: list[TargetError] = []
    for prefix, add in parts:
        try:
            add()
        except TargetError as error:
            errors.append(error)
            hint = "; give the target a service account's token of the role Admin" if error.cause == "denied" else ""
            unread[prefix] = f"{error.cause}: {error.message}{hint}"
    if len(errors) == len(parts):
        raise errors[0]
    return Seen(collector.snapshot(), unread)


def read_traefik(target: HttpTarget, collector: Collector) -> Seen:
    """Routers, middlewares and services. Raises TargetError."""
    answer = _api(target).get("/api/rawdata")
    parts = [answer[name] for name in _TRAEFIK if name in answer] if isinstance(answer, Mapping) else []
    if not parts or not all(isinstance(part, Mapping) and all(map(_is_mapping, part.values())) for part in parts):
        hint = "check whether the target's url is that of Traefik's API; this maintd knows versions 2 and 3"
        text = f"{collector.subject}: /api/rawdata has not the routers and services of Traefik"
        raise TargetError(text, hint, cause="unfamiliar")
    collector.tree("", _without_state(answer, ("serverStatus", "usedBy", "status")))
    return Seen(collector.snapshot())


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def read_file(path: Path, collector: Collector) -> Seen:
    """A file of YAML, JSON or TOML. Raises TargetError."""
    data = read_regular(path, _MAX_BYTES)
    suffix = path.suffix.lower()
    if suffix == ".json":
        found = parse_json(data, str(path))
    elif suffix == ".toml":
        try:
            found = tomllib.loads(data.decode())
        except (ValueError, RecursionError) as error:
            raise TargetError(f"{path}: is not TOML: {str(error)[:200]}", cause="malformed") from error
    elif suffix in (".yaml", ".yml"):
        found = parse_yaml(data, str(path))
    else:
        raise TargetError(f"{path}: only .yaml, .yml, .json and .toml are read", cause="unfamiliar")
    if not isinstance(found, dict | list) or not found:
        raise TargetError(f"{path}: has no settings", cause="empty")
    collector.tree("", found)
    return Seen(collector.snapshot())


def _api(target: HttpTarget) -> Api:
    """The API at the root of the target's server: its url is often that of a health endpoint."""
    target = resolved(target)
    return Api.of(target, url=str(httpx.URL(target.url).copy_with(path="/", query=None)))


def _listed(answer: Any, what: str) -> list[Any]:
    if not isinstance(answer, list):
        raise TargetError(f"{what}: a {type(answer).__name__} instead of a list", cause="malformed")
    return answer


def _add_sources(api: Api, collector: Collector) -> None:
    for item in _listed(api.get("/api/datasources"), "data sources"):
        if not isinstance(item, Mapping) or not item.get("uid"):
            raise TargetError("data sources: an item without uid", cause="malformed")
        collector.tree(f"datasources/{item['uid']}", _without_state(item, _VOLATILE))


def _add_dashboards(api: Api, collector: Collector, unread: dict[str, str]) -> None:
    answer = _listed(api.get("/api/search", type="dash-db", limit="5000"), "dashboards")
    found = read_each(_Found, answer, "dashboards")
    for item in found.items[:_MAX_DASHBOARDS]:
        whole = api.get(f"/api/dashboards/uid/{item.uid}")
        meta = whole.get("meta") if isinstance(whole, Mapping) else None
        board = whole.get("dashboard") if isinstance(whole, Mapping) else None
        if not isinstance(meta, Mapping) or not isinstance(board, Mapping):
            raise TargetError(f"dashboard {item.uid}: is not what Grafana answers", cause="malformed")
        how = "provisioned" if meta.get("provisioned") else "not provisioned"
        collector.add(f"dashboards/{item.uid}", f"{item.title}, version {board.get('version')}, {how}")
    if found.not_understood:
        unread["dashboards/"] = f"not understood: {found.not_understood[0]}"
    elif len(found.items) > _MAX_DASHBOARDS:
        unread["dashboards/"] = f"only {_MAX_DASHBOARDS} of {len(found.items)} were read"


def _add_rules(api: Api, collector: Collector) -> None:
    for item in _listed(api.get("/api/v1/provisioning/alert-rules"), "alert rules"):
        if not isinstance(item, Mapping) or not item.get("uid"):
            raise TargetError("alert rules: an item without uid", cause="malformed")
        collector.tree(f"alert rules/{item['uid']}", _without_state(item, _VOLATILE))


def _without_state(value: Any, names: tuple[str, ...], depth: int = 0) -> Any:
    """The tree without what changes by itself."""
    if isinstance(value, Mapping) and depth < 4:
        return {key: _without_state(item, names, depth + 1) for key, item in value.items() if key not in names}
    return value
