"""Alertmanager client on its HTTP API, version 2: alerts and silences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from maintd.clients.http import Api
from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.target import AlertmanagerTarget
from maintd.units import utc_text


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


class Alertmanager:
    """The API of one server. Each call opens its own connection."""

    def __init__(self, api: Api, name: str) -> None:
        self._api = api
        self.name = name

    def ready(self) -> None:
        """Raise TargetError unless it is ready."""
        self._api.call("GET", "/-/ready")

    def alerts(self) -> list[Alert]:
        """All alerts that have not ended."""
        return [
            Alert(
                fingerprint=item["fingerprint"],
                labels=item["labels"],
                annotations=item["annotations"],
                starts_at=datetime.fromisoformat(item["startsAt"]),
                state=item["status"]["state"],
                silenced_by=tuple(item["status"]["silencedBy"]),
                inhibited_by=tuple(item["status"]["inhibitedBy"]),
            )
            for item in self._list("/api/v2/alerts")
        ]

    def silences(self) -> list[Silence]:
        """All silences, also expired ones."""
        return [
            Silence(
                id=item["id"],
                state=item["status"]["state"],
                matchers=tuple(item["matchers"]),
                starts_at=datetime.fromisoformat(item["startsAt"]),
                ends_at=datetime.fromisoformat(item["endsAt"]),
                created_by=item["createdBy"],
                comment=item["comment"],
            )
            for item in self._list("/api/v2/silences")
        ]

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
    ) -> str:
        """Create a silence; return its id. A matcher is `{name, value, isRegex, isEqual}`."""
        body = {
            "matchers": list(matchers),
            "startsAt": utc_text(starts_at),
            "endsAt": utc_text(ends_at),
            "createdBy": created_by,
            "comment": comment,
        }
        answer = self._api.call("POST", "/api/v2/silences", json_body=body).json()
        if not isinstance(answer, Mapping) or "silenceID" not in answer:
            raise TargetError(f"{self.name}: returned no id for the new silence", cause="malformed")
        return str(answer["silenceID"])

    def expire(self, silence_id: str) -> None:
        """End a silence now."""
        self._api.call("DELETE", f"/api/v2/silence/{silence_id}")

    def _list(self, path: str) -> list[dict[str, Any]]:
        answer = self._api.get(path)
        if not isinstance(answer, list):
            raise TargetError(f"{self.name}: unexpected answer", cause="malformed")
        return answer


def connect(
    target: AlertmanagerTarget, *, name: str = "alertmanager", timeout: timedelta | None = None
) -> Alertmanager:
    """A client; sends nothing yet."""
    target = resolved(target)
    return Alertmanager(Api(target.url, target.headers, timeout or target.timeout), name)
