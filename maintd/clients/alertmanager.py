"""Alertmanager client on its HTTP API, version 2: alerts and silences."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from pydantic import AwareDatetime, Field

from maintd.clients.http import Api
from maintd.clients.shapes import Listing, Shape, read, read_each
from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.target import AlertmanagerTarget
from maintd.units import utc_text

M = TypeVar("M", bound=Shape)


@dataclass(frozen=True)
class Alert:
    """An alert; `state` is active, suppressed (by the silences or alerts named) or unprocessed."""

    fingerprint: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_at: datetime
    state: str
    silenced_by: tuple[str, ...]
    inhibited_by: tuple[str, ...]
    receivers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Silence:
    """A silence; `state` is active, pending or expired."""

    id: str
    state: str
    matchers: tuple[Mapping[str, Any], ...]
    starts_at: datetime
    ends_at: datetime
    created_by: str
    comment: str


@dataclass(frozen=True)
class Status:
    """The server's state. `cluster` is ready, settling or disabled; `config_hash` is empty without a configuration."""

    version: str
    cluster: str
    peers: int
    started_at: datetime | None = None
    config_hash: str = ""


# --- shapes of the answers ---

_Labels = dict[str, str]


class _AlertStatus(Shape):
    state: str
    silenced_by: tuple[str, ...] = Field((), alias="silencedBy")
    inhibited_by: tuple[str, ...] = Field((), alias="inhibitedBy")


class _Receiver(Shape):
    name: str


class _Alert(Shape):
    receivers: tuple[_Receiver, ...] = ()
    fingerprint: str = ""
    labels: _Labels
    annotations: _Labels = {}
    starts_at: AwareDatetime = Field(alias="startsAt")
    status: _AlertStatus


class _SilenceStatus(Shape):
    state: str


class _Silence(Shape):
    id: str
    status: _SilenceStatus
    matchers: tuple[dict[str, Any], ...] = ()
    starts_at: AwareDatetime = Field(alias="startsAt")
    ends_at: AwareDatetime = Field(alias="endsAt")
    created_by: str = Field("", alias="createdBy")
    comment: str = ""


class _Version(Shape):
    version: str = ""


class _Cluster(Shape):
    status: str
    peers: tuple[Any, ...] = ()


class _Config(Shape):
    original: str = ""  # secrets are masked in it


class _Status(Shape):
    cluster: _Cluster
    version: _Version = Field(_Version(), alias="versionInfo")
    started_at: AwareDatetime | None = Field(None, alias="uptime")
    config: _Config = _Config()


class Alertmanager:
    """The API of one server. Each call opens its own connection."""

    def __init__(self, api: Api, name: str) -> None:
        self._api = api
        self.name = name

    def ready(self) -> None:
        """Raise TargetError unless it is ready."""
        self._api.call("GET", "/-/ready")

    def status(self) -> Status:
        """Its version, the state of its cluster, its start, and the configuration that it uses."""
        found = read(_Status, self._api.get("/api/v2/status"), f"{self.name}: unexpected answer to status")
        config = found.config.original
        return Status(
            version=found.version.version,
            cluster=found.cluster.status,
            peers=len(found.cluster.peers),
            started_at=found.started_at,
            config_hash=hashlib.sha256(config.encode(errors="replace")).hexdigest() if config else "",
        )

    def active_config(self) -> str:
        """The configuration that it uses, as YAML; it masks passwords, not all URLs. Raises TargetError."""
        found = read(_Status, self._api.get("/api/v2/status"), f"{self.name}: unexpected answer to status")
        return found.config.original

    def alerts(self) -> Listing[Alert]:
        """All alerts that have not ended."""
        found = self._list(_Alert, "/api/v2/alerts")
        alerts = (
            Alert(
                fingerprint=item.fingerprint,
                labels=item.labels,
                annotations=item.annotations,
                starts_at=item.starts_at,
                state=item.status.state,
                silenced_by=item.status.silenced_by,
                inhibited_by=item.status.inhibited_by,
                receivers=tuple(receiver.name for receiver in item.receivers),
            )
            for item in found
        )
        return Listing(tuple(alerts), found.not_understood)

    def silences(self) -> Listing[Silence]:
        """All silences, also expired ones."""
        found = self._list(_Silence, "/api/v2/silences")
        silences = (
            Silence(
                id=item.id,
                state=item.status.state,
                matchers=item.matchers,
                starts_at=item.starts_at,
                ends_at=item.ends_at,
                created_by=item.created_by,
                comment=item.comment,
            )
            for item in found
        )
        return Listing(tuple(silences), found.not_understood)

    def own_metrics(self) -> str:
        """The text of its own /metrics."""
        return self._api.call("GET", "/metrics").text

    def silence(
        self,
        matchers: Sequence[Mapping[str, Any]],
        starts_at: datetime,
        ends_at: datetime,
        created_by: str,
        comment: str,
        replaces: str = "",
    ) -> str:
        """Create a silence; return its id. A matcher is `{name, value, isRegex, isEqual}`.

        `replaces` is the id of a silence that ends at the same instant, or becomes this one.
        """
        body = {
            "matchers": list(matchers),
            "startsAt": utc_text(starts_at),
            "endsAt": utc_text(ends_at),
            "createdBy": created_by,
            "comment": comment,
        }
        if replaces:
            body["id"] = replaces
        answer = self._api.call("POST", "/api/v2/silences", json_body=body).json()
        if not isinstance(answer, Mapping) or "silenceID" not in answer:
            raise TargetError(f"{self.name}: returned no id for the new silence", cause="malformed")
        return str(answer["silenceID"])

    def send_alert(
        self, labels: Mapping[str, str], annotations: Mapping[str, str], starts_at: datetime, ends_at: datetime
    ) -> None:
        """Send an alert; one with the same labels and start gets the new end."""
        times = {"startsAt": utc_text(starts_at), "endsAt": utc_text(ends_at)}
        alert = {"labels": dict(labels), "annotations": dict(annotations), **times}
        self._api.call("POST", "/api/v2/alerts", json_body=[alert])

    def configuration(self) -> str:
        """The configuration that it uses, as YAML, with its secrets masked; empty if it does not show it."""
        found = read(_Status, self._api.get("/api/v2/status"), f"{self.name}: unexpected answer to status")
        return found.config.original

    def expire(self, silence_id: str) -> None:
        """End a silence now."""
        self._api.call("DELETE", f"/api/v2/silence/{silence_id}")

    def _list(self, shape: type[M], path: str) -> Listing[M]:
        return read_each(shape, self._api.get(path), f"{self.name}: unexpected answer to {path}")


def connect(
    target: AlertmanagerTarget, *, name: str = "alertmanager", timeout: timedelta | None = None
) -> Alertmanager:
    """A client; sends nothing yet."""
    target = resolved(target)
    return Alertmanager(Api.of(target, timeout=timeout), name)
