"""Prometheus client on its HTTP API. An answer without data is an error, never zero."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from maintd.clients.http import Api
from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.target import PrometheusTarget


@dataclass(frozen=True)
class Sample:
    """The value of one series."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Series:
    """The values of one series over time, oldest first, without NaN."""

    labels: Mapping[str, str]
    points: tuple[tuple[datetime, float], ...]


@dataclass(frozen=True)
class ScrapeTarget:
    """A scrape target; `health` is up, down or unknown (not scraped yet)."""

    job: str
    instance: str
    health: str
    last_error: str


@dataclass(frozen=True)
class Rule:
    """An alerting or recording rule; `health` is ok, err or unknown."""

    group: str
    name: str
    health: str
    last_error: str
    alerting: bool = False


@dataclass(frozen=True)
class FiringAlert:
    """A firing alert; `since`: when it started firing, after the `for` of its rule."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    since: datetime


class Prometheus:
    """The API of one server. Each call opens its own connection."""

    def __init__(self, api: Api, name: str) -> None:
        self._api = api
        self.name = name

    def ready(self) -> None:
        """Raise TargetError unless it is ready, with its WAL replayed."""
        self._api.call("GET", "/-/ready")

    def query(self, promql: str, at: datetime | None = None) -> list[Sample]:
        """An instant query, without NaN.

        Raises TargetError: `empty` without any value, `partial` when Prometheus warns that the answer is incomplete.
        """
        form = {"query": promql} | ({"time": f"{at.timestamp():.3f}"} if at else {})
        data = self._data(self._api.post_form("/api/v1/query", **form), promql)
        if data["resultType"] == "scalar":
            return self._not_empty([Sample({}, float(data["result"][1]))], promql)
        if data["resultType"] != "vector":
            raise TargetError(f"{self.name}: a {data['resultType']} instead of a vector: {promql}", cause="malformed")
        return self._not_empty([Sample(item["metric"], float(item["value"][1])) for item in data["result"]], promql)

    def number(self, promql: str, at: datetime | None = None) -> float:
        """The value of a query with one series. Raises TargetError, also for several."""
        found = self.query(promql, at)
        if len(found) > 1:
            raise TargetError(f"{self.name}: {len(found)} series instead of one: {promql}", cause="malformed")
        return found[0].value

    def query_range(self, promql: str, start: datetime, end: datetime, step: timedelta) -> list[Series]:
        """A range query. Raises TargetError as `query` does."""
        data = self._data(
            self._api.post_form(
                "/api/v1/query_range",
                query=promql,
                start=f"{start.timestamp():.3f}",
                end=f"{end.timestamp():.3f}",
                step=f"{step.total_seconds():g}",
            ),
            promql,
        )
        found = [Series(item["metric"], _points(item["values"])) for item in data["result"]]
        kept = [series for series in found if series.points]
        if not kept:
            raise self._empty(promql)
        return kept

    def targets(self) -> list[ScrapeTarget]:
        """The active scrape targets."""
        data = self._data(self._api.get("/api/v1/targets", state="active"), "targets")
        return [
            ScrapeTarget(
                job=item["labels"].get("job", ""),
                instance=item["labels"].get("instance", ""),
                health=item["health"],
                last_error=item.get("lastError", ""),
            )
            for item in data["activeTargets"]
        ]

    def rules(self) -> list[Rule]:
        """All rules with their health."""
        data = self._data(self._api.get("/api/v1/rules"), "rules")
        return [
            Rule(group["name"], rule["name"], rule["health"], rule.get("lastError", ""), rule["type"] == "alerting")
            for group in data["groups"]
            for rule in group["rules"]
        ]

    def alerts(self) -> list[dict[str, Any]]:
        """Pending and firing alerts: labels, annotations, state, activeAt, value."""
        return list(self._data(self._api.get("/api/v1/alerts"), "alerts")["alerts"])

    def firing(self) -> list[FiringAlert]:
        """The firing alerts, read from the rules, because only these have `for`."""
        data = self._data(self._api.get("/api/v1/rules", type="alert"), "rules")
        return [
            FiringAlert(
                labels=alert["labels"],
                annotations=alert["annotations"],
                since=datetime.fromisoformat(alert["activeAt"]) + timedelta(seconds=float(rule["duration"])),
            )
            for group in data["groups"]
            for rule in group["rules"]
            for alert in rule["alerts"]
            if alert["state"] == "firing"
        ]

    def alertmanagers(self) -> list[str]:
        """URLs of the Alertmanagers to which it sends alerts, whether or not they answer."""
        data = self._data(self._api.get("/api/v1/alertmanagers"), "alertmanagers")
        return [item["url"] for item in data["activeAlertmanagers"]]

    def own_metrics(self) -> str:
        """The text of its own /metrics."""
        return self._api.call("GET", "/metrics").text

    def _data(self, answer: Any, what: str) -> Any:
        if not isinstance(answer, Mapping) or answer.get("status") != "success" or "data" not in answer:
            raise TargetError(f"{self.name}: unexpected answer to {what}", cause="malformed")
        if answer.get("warnings"):
            raise TargetError(f"{self.name}: {'; '.join(answer['warnings'])[:300]}: {what}", cause="partial")
        return answer["data"]

    def _not_empty(self, samples: list[Sample], promql: str) -> list[Sample]:
        kept = [sample for sample in samples if not math.isnan(sample.value)]
        if not kept:
            raise self._empty(promql)
        return kept

    def _empty(self, promql: str) -> TargetError:
        return TargetError(
            f"{self.name}: no data for: {promql}",
            "check the name and labels of the metric, and its scrape target",
            cause="empty",
        )


def connect(target: PrometheusTarget, *, name: str = "prometheus", timeout: timedelta | None = None) -> Prometheus:
    """A client; sends nothing yet."""
    target = resolved(target)
    return Prometheus(Api(target.url, target.headers, timeout or target.timeout), name)


def _points(values: list[list[Any]]) -> tuple[tuple[datetime, float], ...]:
    points = ((datetime.fromtimestamp(float(at), UTC), float(value)) for at, value in values)
    return tuple((at, value) for at, value in points if not math.isnan(value))
