"""What jobs need of HTTP services and of Prometheus: paths, and queries that have series."""

from __future__ import annotations

from collections.abc import Mapping

from maintd.checks.requirements.connections import Service
from maintd.checks.requirements.requirement import Exercise
from maintd.clients.prometheus import Prometheus
from maintd.errors import TargetError


def has_path(path: str) -> Exercise:
    """Exercise: a GET of the path is answered with JSON."""

    def exercise(service: Service) -> str:
        service.api().get(path)
        return "answered with JSON"

    return exercise


def has_series(queries: Mapping[str, str]) -> Exercise:
    """Exercise: Prometheus can parse each query, given by name, and has series for it now."""

    def exercise(server: Prometheus) -> str:
        for name, promql in queries.items():
            try:
                server.query(promql)
            except TargetError as error:
                what = f'{server.name}: query "{name}": {error.message.removeprefix(f"{server.name}: ")}'
                raise TargetError(what, error.hint or "correct the query in the params", cause=error.cause) from error
        return f"{len(queries)} {'query' if len(queries) == 1 else 'queries'} with series"

    return exercise


def has_one_of(selectors: Mapping[str, str]) -> Exercise:
    """Exercise: Prometheus has series for at least one of these queries, given by name."""

    def exercise(server: Prometheus) -> str:
        errors = []
        for name, promql in selectors.items():
            try:
                server.query(promql)
            except TargetError as error:
                if error.cause != "empty":
                    raise
                errors.append(name)
                continue
            return name
        raise TargetError(
            f"{server.name}: no series of {', '.join(errors)}",
            "correct the metric's name in the params, or the scrape configuration",
            cause="empty",
        )

    return exercise
