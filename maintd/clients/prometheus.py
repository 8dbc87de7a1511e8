"""Prometheus client on its HTTP API, as Prometheus, Thanos, Mimir and VictoriaMetrics implement it.

An answer without data is an error, never zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

from pydantic import AwareDatetime, Field, TypeAdapter

from maintd.clients.http import Api
from maintd.clients.shapes import Listing, Shape, read, read_each
from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.target import PrometheusTarget

S = TypeVar("S", bound=Shape)


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
    """An alerting or recording rule; `health` is ok, err or unknown. `seconds`: its `for`."""

    group: str
    name: str
    health: str
    last_error: str
    alerting: bool = False
    query: str = ""
    seconds: float = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FiringAlert:
    """A firing alert; `since`: when it started firing, after the `for` of its rule."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    since: datetime


@dataclass(frozen=True)
class RuntimeInfo:
    """State of the process. `reload_succeeded` is None where the server does not report it."""

    reload_succeeded: bool | None
    last_reload: str


# --- shapes of the answers; servers with the same API leave out or null what they do not have ---

_Labels = dict[str, str]
_Seconds = Annotated[float, Field(ge=0, le=253_402_300_799)]  # until the year 9999
_Value = tuple[_Seconds, float]  # the value is a text
_SCALAR = TypeAdapter(_Value)


class _Envelope(Shape):
    status: str
    data: Any = None
    error: str = ""
    is_partial: bool = Field(False, alias="isPartial")  # VictoriaMetrics: a storage node did not answer
    warnings: tuple[str, ...] = ()


class _Result(Shape):
    kind: str = Field(alias="resultType")
    result: Any = None


class _Vector(Shape):
    metric: _Labels = {}
    value: _Value | None = None
    histogram: Any = None


class _Matrix(Shape):
    metric: _Labels = {}
    values: tuple[_Value, ...] = ()
    histograms: Any = None


class _ActiveTargets(Shape):
    targets: Any = Field(None, alias="activeTargets")


class _ActiveTarget(Shape):
    labels: _Labels = {}
    health: str
    last_error: str = Field("", alias="lastError")


class _Groups(Shape):
    groups: Any = None


class _Group(Shape):
    name: str = ""
    rules: Any = None


class _Rule(Shape):
    name: str = ""
    kind: str = Field("", alias="type")
    health: str = "unknown"
    last_error: str = Field("", alias="lastError")
    duration: float = Field(0, ge=0, le=1e9)
    alerts: Any = None
    query: str = ""
    labels: _Labels = {}
    annotations: _Labels = {}

    @property
    def alerting(self) -> bool:
        return self.kind == "alerting" or (not self.kind and self.alerts is not None)


class _Alert(Shape):
    labels: _Labels
    annotations: _Labels = {}
    state: str
    active_at: AwareDatetime | None = Field(None, alias="activeAt")


class _Alertmanagers(Shape):
    active: Any = Field(None, alias="activeAlertmanagers")


class _Alertmanager(Shape):
    url: str


class _ActiveConfig(Shape):
    yaml: str


class _RuntimeInfo(Shape):
    reload_succeeded: bool | None = Field(None, alias="reloadConfigSuccess")
    last_reload: str = Field("", alias="lastConfigTime")


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

        Raises TargetError: `empty` without any value; `partial` when the server reports an incomplete answer;
        `unfamiliar` for native histograms, which have no single value.
        """
        form = {"query": promql} | ({"time": f"{at.timestamp():.3f}"} if at else {})
        found = self._result(self._api.post_form("/api/v1/query", **form), promql)
        if found.kind == "scalar":
            return self._not_empty([Sample({}, read(_SCALAR, found.result, self._where(promql))[1])], promql)
        series = self._series(_Vector, found, "vector", promql)
        if any(item.value is None for item in series):
            raise self._histogram(promql, native=any(item.histogram is not None for item in series))
        return self._not_empty([Sample(item.metric, item.value[1]) for item in series if item.value], promql)

    def number(self, promql: str, at: datetime | None = None) -> float:
        """The value of a query with one series. Raises TargetError, also for several."""
        found = self.query(promql, at)
        if len(found) > 1:
            raise TargetError(f"{self.name}: {len(found)} series instead of one: {promql}", cause="malformed")
        return found[0].value

    def query_range(self, promql: str, start: datetime, end: datetime, step: timedelta) -> list[Series]:
        """A range query. Raises TargetError as `query` does."""
        answer = self._api.post_form(
            "/api/v1/query_range",
            query=promql,
            start=f"{start.timestamp():.3f}",
            end=f"{end.timestamp():.3f}",
            step=f"{step.total_seconds():g}",
        )
        found = self._series(_Matrix, self._result(answer, promql), "matrix", promql)
        if any(item.histograms for item in found):
            raise self._histogram(promql, native=True)
        kept = [series for item in found if (series := Series(item.metric, _points(item.values))).points]
        if not kept:
            raise self._empty(promql)
        return kept

    def targets(self) -> Listing[ScrapeTarget]:
        """The active scrape targets."""
        data = self._data(self._api.get("/api/v1/targets", state="active"), "targets")
        found = read_each(_ActiveTarget, read(_ActiveTargets, data, self._where("targets")).targets, self.name)
        targets = (
            ScrapeTarget(item.labels.get("job", ""), item.labels.get("instance", ""), item.health, item.last_error)
            for item in found
        )
        return Listing(tuple(targets), found.not_understood)

    def rules(self) -> Listing[Rule]:
        """All rules with their health."""
        groups = self._rules()
        found = (
            Rule(
                group=group,
                name=rule.name,
                health=rule.health,
                last_error=rule.last_error,
                alerting=rule.alerting,
                query=rule.query,
                seconds=rule.duration,
                labels=rule.labels,
                annotations=rule.annotations,
            )
            for group, rule in groups.items
        )
        return Listing(tuple(found), groups.not_understood)

    def firing(self) -> Listing[FiringAlert]:
        """The firing alerts, read from the rules, because only these have `for`.

        An alert without a start time counts as firing since the epoch: it needs attention at once.
        """
        groups = self._rules(type="alert")
        found, not_understood = [], list(groups.not_understood)
        for group, rule in groups:
            try:
                alerts = read_each(_Alert, rule.alerts, f"{group} {rule.name}: alerts")
            except TargetError as error:
                not_understood.append(error.message)
                continue
            not_understood += [f"{group} {rule.name}: {text}" for text in alerts.not_understood]
            for alert in alerts:
                if alert.state == "firing":
                    began = _later(alert.active_at or datetime.fromtimestamp(0, UTC), rule.duration)
                    labels = {"alertname": rule.name, **alert.labels}
                    found.append(FiringAlert(labels, alert.annotations, began))
        return Listing(tuple(found), tuple(not_understood))

    def alertmanagers(self) -> Listing[str]:
        """URLs of the Alertmanagers to which it sends alerts, whether or not they answer."""
        data = self._data(self._api.get("/api/v1/alertmanagers"), "alertmanagers")
        active = read(_Alertmanagers, data, self._where("alertmanagers")).active
        found = read_each(_Alertmanager, active, self._where("alertmanagers"))
        return Listing(tuple(item.url for item in found), found.not_understood)

    def runtime_info(self) -> RuntimeInfo:
        """Whether its last reload of its configuration succeeded. Raises TargetError."""
        data = self._data(self._api.get("/api/v1/status/runtimeinfo"), "runtimeinfo")
        found = read(_RuntimeInfo, data, self._where("runtimeinfo"))
        return RuntimeInfo(found.reload_succeeded, found.last_reload)

    def active_config(self) -> str:
        """The configuration that it uses, as YAML; it masks passwords, not all URLs. Raises TargetError."""
        data = self._data(self._api.get("/api/v1/status/config"), "config")
        return read(_ActiveConfig, data, self._where("config")).yaml

    def flags(self) -> dict[str, str]:
        """Its flags with their values. Raises TargetError."""
        data = self._data(self._api.get("/api/v1/status/flags"), "flags")
        return read(TypeAdapter(dict[str, str]), data, self._where("flags"))

    def metric_names(self) -> frozenset[str]:
        """The names of all metrics that it has data of, however old. Raises TargetError."""
        data = self._data(self._api.get("/api/v1/label/__name__/values"), "names of metrics")
        return frozenset(read(TypeAdapter(tuple[str, ...]), data, self._where("names of metrics")))

    def has_series(self, selector: str) -> bool:
        """Whether any series, however old, matches a selector. Raises TargetError."""
        try:
            answer = self._api.post_form("/api/v1/series", **{"match[]": selector, "limit": "1"})
        except TargetError as error:
            if error.cause != "too_large":  # versions without `limit` list all of them
                raise
            return True
        # A note that the answer was cut at the limit is no missing data.
        found = read(_Envelope, answer, self._where(selector))
        if found.status == "success" and found.data:
            return True
        return bool(self._data(answer, selector))

    def own_metrics(self) -> str:
        """The text of its own /metrics."""
        return self._api.call("GET", "/metrics").text

    def _rules(self, **params: str) -> Listing[tuple[str, _Rule]]:
        """Each rule with the name of its group; a group or rule of another shape does not hide the others."""
        data = self._data(self._api.get("/api/v1/rules", **params), "rules")
        groups = read_each(_Group, read(_Groups, data, self._where("rules")).groups, self._where("rules"))
        found, not_understood = [], list(groups.not_understood)
        for group in groups:
            try:
                rules = read_each(_Rule, group.rules, f"group {group.name}: rules")
            except TargetError as error:
                not_understood.append(error.message)
                continue
            found += [(group.name, rule) for rule in rules]
            not_understood += [f"group {group.name}: {text}" for text in rules.not_understood]
        return Listing(tuple(found), tuple(not_understood))

    def _data(self, answer: Any, what: str) -> Any:
        found = read(_Envelope, answer, self._where(what))
        if found.status != "success":
            raise TargetError(f"{self.name}: {found.error[:300] or found.status}: {what}", cause="malformed")
        if found.is_partial:
            raise TargetError(f"{self.name}: the answer is partial: {what}", cause="partial")
        # Prometheus and Thanos also list notes about the query among the warnings; these do not mean missing data.
        warnings = [text for text in found.warnings if not text.startswith("PromQL info:")]
        if warnings:
            raise TargetError(f"{self.name}: {'; '.join(warnings)[:300]}: {what}", cause="partial")
        return found.data

    def _result(self, answer: Any, promql: str) -> _Result:
        return read(_Result, self._data(answer, promql), self._where(promql))

    def _series(self, shape: type[S], found: _Result, kind: str, promql: str) -> list[S]:
        if found.kind != kind:
            raise TargetError(f"{self.name}: a {found.kind[:40]} instead of a {kind}: {promql}", cause="malformed")
        series = read_each(shape, found.result, self._where(promql))
        if series.not_understood:  # what a query leaves out cannot be distinguished from what is missing
            raise TargetError(f"{self._where(promql)}: {series.not_understood[0]}", cause="malformed")
        return list(series)

    def _where(self, what: str) -> str:
        return f"{self.name}: unexpected answer to {what}"

    def _histogram(self, promql: str, *, native: bool) -> TargetError:
        if not native:
            return TargetError(f"{self._where(promql)}: a series without a value", cause="malformed")
        return TargetError(
            f"{self.name}: native histograms instead of numbers: {promql}",
            "take a number of it: histogram_count(…), histogram_quantile(…)",
            cause="unfamiliar",
        )

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
    return Prometheus(Api.of(target, timeout=timeout), name)


def _points(values: Sequence[_Value]) -> tuple[tuple[datetime, float], ...]:
    points = ((datetime.fromtimestamp(at, UTC), value) for at, value in values)
    return tuple((at, value) for at, value in points if not math.isnan(value))


def _later(at: datetime, seconds: float) -> datetime:
    try:
        return at + timedelta(seconds=seconds)
    except OverflowError:
        return at
