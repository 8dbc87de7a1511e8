"""Metrics for Prometheus, computed at each scrape from the store and this process; nothing is counted in between.

What cannot be known now is left out rather than set to zero: with the store away there is `maintd_store_up 0` and no
metric of an entry's history.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

import maintd
from maintd.errors import StoreError
from maintd.model.run import RunState
from maintd.model.status import EntryStatus, StatusReport
from maintd.operations import OperatorService, status
from maintd.web.evidence import Evidence, EvidenceCache

MOST_MEASURES = 1000
"""Series of measures in one scrape; the rest is counted in maintd_measures_left_out."""

LONGEST_VALUE = 200  # characters of a label's value

ENDS = tuple(state for state in RunState if state.final)


def scrape(service: OperatorService, evidence: EvidenceCache, accept: str) -> tuple[bytes, str]:
    """The metrics in the format that the scraper accepts, and its media type."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(list(_families(service, evidence))))
    encode, media_type = choose_encoder(accept)
    text: bytes = encode(registry)
    return text, media_type


class _Snapshot(Collector):
    """Families that are computed already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(service: OperatorService, evidence: EvidenceCache) -> Iterator[Metric]:
    report = status(service)
    up, counts, found = _stored(service, evidence, report)
    yield from _process(service, report, up)
    if up:
        yield _gauge("maintd_runs", "Unfinished runs by state", "state", {key: counts[key] for key in _UNFINISHED})
        yield _single("maintd_queue_depth", "Runs that wait to be started", counts[RunState.QUEUED])
        yield _single("maintd_running", "Runs that work now, on all nodes", counts[RunState.RUNNING])
        yield _single("maintd_history_runs", "Runs in the history, about", counts["runs"])
    yield from _schedule(report.entries)
    if up:
        yield from _outcomes(report.entries)
        yield _findings(report.entries, found)
        yield from _measures(report.entries, found)


_UNFINISHED = tuple(state.value for state in RunState if not state.final)


def _stored(
    service: OperatorService, evidence: EvidenceCache, report: StatusReport
) -> tuple[bool, dict[str, int], dict[int, Evidence]]:
    try:
        service.store.ping()
        worked = [entry.last_worked.id for entry in report.entries if entry.last_worked is not None]
        return True, service.store.history.counts(), evidence.of(service, worked)
    except StoreError:
        return False, {}, {}


def _process(service: OperatorService, report: StatusReport, up: bool) -> Iterator[Metric]:
    health = service.health()
    yield InfoMetricFamily(
        "maintd_build", "Which maintd this is", value={"version": maintd.__version__, "node": service.settings.node}
    )
    yield _single("maintd_up", "Whether the planning loop turns", health.alive)
    yield _single("maintd_ready", "Whether maintd plans and reaches its store", health.ready)
    yield _single("maintd_store_up", "Whether the store answers", up)
    yield _single("maintd_problems", "Things that are the matter with maintd itself", len(report.problems))
    yield _single("maintd_slots", "Runs that this node can work on at once", service.settings.slots)
    if health.lag_seconds is not None:
        yield _single("maintd_loop_lag_seconds", "Since the planning loop last turned", health.lag_seconds)
    if service.started_at is not None:
        yield _single("maintd_start_time_seconds", "When this process began", service.started_at.timestamp())


def _schedule(entries: Iterable[EntryStatus]) -> Iterator[Metric]:
    entries = list(entries)
    due = {entry.entry: entry.next_due_at.timestamp() for entry in entries if entry.next_due_at is not None}
    yield _gauge("maintd_entry_next_due_timestamp_seconds", "When the entry falls due next", "entry", due)
    enabled = {entry.entry: entry.enabled for entry in entries}
    yield _gauge("maintd_entry_enabled", "Whether the entry is enabled and its jobs can be used", "entry", enabled)


def _outcomes(entries: Iterable[EntryStatus]) -> Iterator[Metric]:
    entries = list(entries)
    worked = [(entry.entry, entry.last_worked) for entry in entries if entry.last_worked is not None]
    yield _gauge(
        "maintd_job_last_success_timestamp_seconds",
        "When the entry's last success ended",
        "entry",
        {entry.entry: entry.last_success_at.timestamp() for entry in entries if entry.last_success_at is not None},
    )
    yield _gauge(
        "maintd_job_last_end_timestamp_seconds",
        "When the entry's last run ended that was not skipped",
        "entry",
        {name: run.finished_at.timestamp() for name, run in worked if run.finished_at is not None},
    )
    yield _gauge(
        "maintd_job_duration_seconds",
        "How long the entry's last run took",
        "entry",
        {name: run.duration.total_seconds() for name, run in worked if run.duration is not None},
    )
    result = GaugeMetricFamily(
        "maintd_job_result", "1 for the state in which the entry's last run ended", labels=("entry", "status")
    )
    for name, run in worked:
        for state in ENDS:
            if state is not RunState.SKIPPED:
                result.add_metric((name, state.value), run.state is state)
    yield result
    attention = {entry.entry: entry.needs_attention for entry in entries}
    yield _gauge("maintd_entry_needs_attention", "Whether `maintd status` says so", "entry", attention)
    failures = {entry.entry: entry.failures_in_a_row for entry in entries}
    yield _gauge("maintd_entry_failures_in_a_row", "Failures since the last success", "entry", failures)
    paused = {entry.entry: entry.pause is not None for entry in entries}
    yield _gauge("maintd_entry_paused", "Whether an operator paused the entry", "entry", paused)


def _findings(entries: Iterable[EntryStatus], found: dict[int, Evidence]) -> Metric:
    family = GaugeMetricFamily(
        "maintd_job_findings", "Checks of the entry's last run by verdict", labels=("entry", "severity")
    )
    for entry in entries:
        of_run = found.get(entry.last_worked.id) if entry.last_worked is not None else None
        for severity, count in of_run.findings.items() if of_run is not None else ():
            family.add_metric((entry.entry, severity.value), count)
    return family


def _measures(entries: Iterable[EntryStatus], found: dict[int, Evidence]) -> Iterator[Metric]:
    family = Metric("maintd_measure", "Measures of the entry's last run", "gauge")
    series: dict[tuple[tuple[str, str], ...], float] = {}
    for entry in entries:
        of_run = found.get(entry.last_worked.id) if entry.last_worked is not None else None
        for job, measure in of_run.measures if of_run is not None else ():
            own = {"entry": entry.entry, "job": job, "name": measure.name, "unit": measure.unit}
            labels = {_label(key): value for key, value in measure.labels.items()} | own
            series[tuple((key, value[:LONGEST_VALUE]) for key, value in sorted(labels.items()))] = measure.value
    for labels_of, value in list(series.items())[:MOST_MEASURES]:
        family.add_sample("maintd_measure", dict(labels_of), value)
    yield family
    left_out = max(0, len(series) - MOST_MEASURES)
    yield _single("maintd_measures_left_out", "Series of measures that are too many for a scrape", left_out)


def _label(name: str) -> str:
    """A name that Prometheus takes, apart from those that every measure has."""
    clean = re.sub(r"[^a-zA-Z0-9_]", "_", name)[:60]
    if not clean or not clean[0].isalpha() or clean in ("entry", "job", "name", "unit"):
        return f"label_{clean}"
    return clean


def _single(name: str, text: str, value: Any) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _gauge(name: str, text: str, label: str, values: dict[str, Any]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), float(value))
    return family
