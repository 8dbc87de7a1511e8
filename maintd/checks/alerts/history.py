"""History of alerts from Prometheus' `ALERTS` series: how often and for how long each fired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import mean

from maintd.clients.prometheus import Prometheus, Series
from maintd.errors import TargetError

_LEAST_STEP = timedelta(seconds=15)
_STEPS = 5000  # of a range; Prometheus returns at most 11,000


@dataclass(frozen=True)
class Episode:
    """An alert that fired from `began_at` until `ended_at`; None for an end outside of the window."""

    name: str
    severity: str
    labels: Mapping[str, str]
    began_at: datetime | None
    ended_at: datetime | None
    lasted: timedelta  # within the window

    @property
    def resolved(self) -> bool:
        """Whether it began and ended inside the window."""
        return self.began_at is not None and self.ended_at is not None


@dataclass(frozen=True)
class Alerts:
    """All episodes of a window. `rules` is the number of alerting rules; without rules no alert can fire."""

    episodes: tuple[Episode, ...]
    rules: int
    step: timedelta

    @property
    def mean_time_to_resolution(self) -> timedelta | None:
        """The mean length of the resolved episodes; None without one."""
        lengths = [episode.lasted.total_seconds() for episode in self.episodes if episode.resolved]
        return timedelta(seconds=mean(lengths)) if lengths else None


def fired(server: Prometheus, start: datetime, end: datetime) -> Alerts:
    """Return what fired in [start, end). Raises TargetError, also when there are neither alerts nor alerting rules."""
    step = max(_LEAST_STEP, timedelta(seconds=round((end - start).total_seconds() / _STEPS)))
    rules = sum(rule.alerting for rule in server.rules())
    try:
        found = server.query_range('ALERTS{alertstate="firing"}', start, end, step)
    except TargetError as error:
        if error.cause != "empty":
            raise
        if not rules:
            raise TargetError(
                f"{server.name}: no alerting rules and no alerts",
                "load rules by rule_files, or name the Prometheus that has them",
                cause="empty",
            ) from error
        found = []
    episodes = [episode for series in found for episode in episodes_of(series, start, end, step)]
    return Alerts(tuple(sorted(episodes, key=lambda item: item.began_at or start)), rules, step)


def episodes_of(series: Series, start: datetime, end: datetime, step: timedelta) -> list[Episode]:
    """Split a series at gaps of more than two steps. An episode at an end of the window may continue beyond it."""
    labels = {key: value for key, value in series.labels.items() if key not in ("__name__", "alertstate")}
    episodes = []
    for first, last in _intervals([at for at, _ in series.points], 2 * step):
        began = None if first - start < step else first
        ended = None if end - last < 2 * step else last + step
        episodes.append(
            Episode(
                name=labels.get("alertname", ""),
                severity=labels.get("severity", ""),
                labels=labels,
                began_at=began,
                ended_at=ended,
                lasted=(ended or end) - (began or start),
            )
        )
    return episodes


def _intervals(times: Sequence[datetime], gap: timedelta) -> list[tuple[datetime, datetime]]:
    found: list[tuple[datetime, datetime]] = []
    for at in times:
        if found and at - found[-1][1] <= gap:
            found[-1] = (found[-1][0], at)
        else:
            found.append((at, at))
    return found
