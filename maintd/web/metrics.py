"""Metrics for Prometheus, computed from the store and this process at each scrape; only ends of runs are counted here.

A value that cannot be read is omitted, not zero: while the store is unreachable, `maintd_store_up` is 0 and the
metrics of the entries' history are missing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

import maintd
from maintd.errors import MaintdError, StoreError
from maintd.model.notice import INCIDENT_KINDS, NoticeState
from maintd.model.run import RunState
from maintd.model.status import EntryStatus, StatusReport
from maintd.operations import OperatorService, status
from maintd.operations.freezes import active_freezes
from maintd.operations.notices import TESTED_WITHIN, UNDELIVERED_FOR
from maintd.operations.watchdog import MissingKind
from maintd.web.evidence_cache import Evidence, EvidenceCache
from maintd.web.run_counters import RunCounters

MAX_MEASURES = 1000
"""Series of measures in one scrape; maintd_measures_left_out counts the others."""

MAX_CHANNELS = 1000
"""Channels and monitors in one scrape."""

MAX_LABEL_LENGTH = 200  # characters of a label's value

OWN_NAMES = {
    "backup_last_success_timestamp": ("When the newest verified backup of the set was made", "set"),
    "ssl_certificate_expiry_days": ("Days until the certificate of the service expires", "service"),
    "secret_age_days": ("Days since the secret was written", "name"),
}
"""Measures that are exported under their own name, too: their text, and the label that identifies what was measured."""

FINAL_STATES = tuple(state for state in RunState if state.final)
UNFINISHED = tuple(state.value for state in RunState if not state.final)


class Scraper:
    """Computes the metrics of one service. Thread-safe. The counters begin with it."""

    def __init__(self, service: OperatorService) -> None:
        self._service = service
        self._evidence = EvidenceCache()
        self._counters = RunCounters()
        with suppress(StoreError):  # then the first scrape that reaches the store sets the start
            self._counters.update(service)

    def scrape(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics in the format that the Accept header asks for, and its media type."""
        registry = CollectorRegistry()
        registry.register(_Snapshot(list(_families(self._service, self._evidence, self._counters))))
        encode, media_type = choose_encoder(accept)
        text: bytes = encode(registry)
        return text, media_type


class _Snapshot(Collector):
    """A collector of metric families that were computed before."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(service: OperatorService, evidence: EvidenceCache, counters: RunCounters) -> Iterator[Metric]:
    report = status(service)
    up, counts, found = _stored(service, evidence, report)
    yield from _process(service, report, up)
    yield from _calendar(service)
    if up:
        yield _gauge(
            "maintd_runs",
            "Unfinished runs whose time has come, by state",
            "state",
            {key: counts[key] for key in UNFINISHED},
        )
        yield _single("maintd_queue_depth", "Queued runs whose time has come", counts[RunState.QUEUED])
        yield _single("maintd_runs_later", "Runs planned for later, or waiting for a retry", counts["later"])
        yield _single("maintd_running", "Running runs, on all nodes", counts[RunState.RUNNING])
        yield from _queue_age(service)
        yield _single("maintd_history_runs", "Approximate number of runs in the history", counts["runs"])
    yield from _schedule(report.entries)
    if up:
        with suppress(StoreError):
            counters.update(service)
        yield from counters.families()
        yield from _outcomes(report.entries)
        yield _findings(report.entries, found)
        with suppress(StoreError):
            yield _open_findings(service)
        yield from _measures(report.entries, found)
        yield from _own_names(report.entries, found)
        with suppress(MaintdError):
            yield from _notices(service)


def _stored(
    service: OperatorService, evidence: EvidenceCache, report: StatusReport
) -> tuple[bool, dict[str, int], dict[int, Evidence]]:
    try:
        service.store.ping()
        finished = [entry.last_finished.id for entry in report.entries if entry.last_finished is not None]
        return True, service.store.history.counts(service.store.now()), evidence.get(service, finished)
    except StoreError:
        return False, {}, {}


def _process(service: OperatorService, report: StatusReport, up: bool) -> Iterator[Metric]:
    health = service.health()
    yield InfoMetricFamily(
        "maintd_build",
        "Version and node of this maintd",
        value={"version": maintd.__version__, "node": service.settings.node},
    )
    yield _single("maintd_up", "Whether the scheduler loop runs", health.alive)
    yield _single("maintd_ready", "Whether maintd plans runs and its store answers", health.ready)
    yield _single("maintd_store_up", "Whether the store answers", up)
    yield _single("maintd_problems", "Problems of maintd itself", len(report.problems))
    reloaded = not health.reload_refused
    yield _single("maintd_calendar_last_reload_successful", "Whether the calendar on disk is active", reloaded)
    if health.loaded_at is not None:
        loaded_at = health.loaded_at.timestamp()
        yield _single("maintd_calendar_loaded_timestamp_seconds", "When the active calendar was loaded", loaded_at)
    errors = CounterMetricFamily("maintd_store_errors", "Failed reads and writes of the store by this process")
    errors.add_metric((), float(service.store.error_count))
    yield errors
    yield _single("maintd_slots", "Runs that this node executes at the same time", service.settings.slots)
    if health.lag_seconds is not None:
        yield _single("maintd_loop_lag_seconds", "Time since the scheduler loop last iterated", health.lag_seconds)
    if service.started_at is not None:
        missing = Counter(each.kind for each in health.missing)
        by_kind = {kind.value: missing[kind] for kind in MissingKind}
        yield _gauge("maintd_watchdog_missing", "What should have happened and did not", "kind", by_kind)
        yield _single("maintd_start_time_seconds", "Start time of this process", service.started_at.timestamp())


def _calendar(service: OperatorService) -> Iterator[Metric]:
    try:
        calendar = service.calendar()
    except MaintdError:
        return
    yield InfoMetricFamily("maintd_calendar", "The active calendar, by its hash", value={"digest": calendar.digest})


def _queue_age(service: OperatorService) -> Iterator[Metric]:
    """How long the run that can start next has waited; zero without one."""
    with suppress(StoreError):
        first = service.store.runs.next_not_before()
        age = (service.store.now() - first).total_seconds() if first is not None else 0.0
        yield _single("maintd_queue_age_seconds", "Time that the next run to start has waited", max(age, 0.0))


def _schedule(entries: Iterable[EntryStatus]) -> Iterator[Metric]:
    entries = list(entries)
    due = {entry.entry: entry.next_due_at.timestamp() for entry in entries if entry.next_due_at is not None}
    yield _gauge("maintd_entry_next_due_timestamp_seconds", "Next due time of the entry", "entry", due)
    enabled = {entry.entry: entry.enabled for entry in entries}
    yield _gauge("maintd_entry_enabled", "Whether the entry is enabled in the calendar", "entry", enabled)


def _outcomes(entries: Iterable[EntryStatus]) -> Iterator[Metric]:
    entries = list(entries)
    finished = [(entry.entry, entry.last_finished) for entry in entries if entry.last_finished is not None]
    yield _gauge(
        "maintd_job_last_success_timestamp_seconds",
        "End of the entry's last successful run",
        "entry",
        {entry.entry: entry.last_success_at.timestamp() for entry in entries if entry.last_success_at is not None},
    )
    yield _gauge(
        "maintd_job_last_end_timestamp_seconds",
        "End of the entry's last run that was not skipped",
        "entry",
        {name: run.finished_at.timestamp() for name, run in finished if run.finished_at is not None},
    )
    yield _gauge(
        "maintd_job_duration_seconds",
        "Duration of the entry's last run",
        "entry",
        {name: run.duration.total_seconds() for name, run in finished if run.duration is not None},
    )
    yield _gauge(
        "maintd_entry_lateness_seconds",
        "Time from due time to start of the entry's last run",
        "entry",
        {
            name: (run.started_at - run.due_at).total_seconds()
            for name, run in finished
            if run.started_at is not None and run.due_at is not None
        },
    )
    result = GaugeMetricFamily(
        "maintd_job_result",
        "1 for the final state of the entry's last run, 0 for the others",
        labels=("entry", "status"),
    )
    for name, run in finished:
        for state in FINAL_STATES:
            if state is not RunState.SKIPPED:
                result.add_metric((name, state.value), run.state is state)
    yield result
    attention = {entry.entry: entry.needs_attention for entry in entries}
    yield _gauge("maintd_entry_needs_attention", "Whether the entry needs attention", "entry", attention)
    failures = {entry.entry: entry.failures_in_a_row for entry in entries}
    yield _gauge("maintd_entry_failures_in_a_row", "Failures since the last success", "entry", failures)
    paused = {entry.entry: entry.pause is not None for entry in entries}
    yield _gauge("maintd_entry_paused", "Whether the entry is paused", "entry", paused)


def _findings(entries: Iterable[EntryStatus], found: dict[int, Evidence]) -> Metric:
    family = GaugeMetricFamily(
        "maintd_job_findings", "Checks of the entry's last run by status", labels=("entry", "severity")
    )
    for entry in entries:
        of_run = found.get(entry.last_finished.id) if entry.last_finished is not None else None
        for severity, count in of_run.findings.items() if of_run is not None else ():
            family.add_metric((entry.entry, severity.value), count)
    return family


def _open_findings(service: OperatorService) -> Metric:
    labels = ("entry", "status", "acknowledged")
    family = GaugeMetricFamily("maintd_findings_open", "Open findings, by whether they are acknowledged", labels=labels)
    for each in service.store.findings.counts(service.store.now()):
        family.add_metric((each.entry, each.status.value, "true" if each.acknowledged else "false"), each.count)
    return family


def _measures(entries: Iterable[EntryStatus], found: dict[int, Evidence]) -> Iterator[Metric]:
    family = Metric("maintd_measure", "Measures of the entry's last run", "gauge")
    series: dict[tuple[tuple[str, str], ...], float] = {}
    for entry in entries:
        of_run = found.get(entry.last_finished.id) if entry.last_finished is not None else None
        for job, measure in of_run.measures if of_run is not None else ():
            own = {"entry": entry.entry, "job": job, "name": measure.name, "unit": measure.unit}
            labels = {_label(key): value for key, value in measure.labels.items()} | own
            series[tuple((key, value[:MAX_LABEL_LENGTH]) for key, value in sorted(labels.items()))] = measure.value
    for labels_of, value in list(series.items())[:MAX_MEASURES]:
        family.add_sample("maintd_measure", dict(labels_of), value)
    yield family
    left_out = max(0, len(series) - MAX_MEASURES)
    yield _single("maintd_measures_left_out", "Series of measures above the limit of a scrape", left_out)


def _own_names(entries: Iterable[EntryStatus], found: dict[int, Evidence]) -> Iterator[Metric]:
    """Measures that alert rules know under a name of their own; of two runs that measured the same, the later one's."""
    families = {name: GaugeMetricFamily(name, text, labels=(label,)) for name, (text, label) in OWN_NAMES.items()}
    seen: dict[tuple[str, str], float] = {}
    for run_id in sorted(entry.last_finished.id for entry in entries if entry.last_finished is not None):
        for _, measure in found[run_id].measures if run_id in found else ():
            if measure.name in OWN_NAMES:
                key = (measure.name, measure.labels.get(OWN_NAMES[measure.name][1], "")[:MAX_LABEL_LENGTH])
                seen[key] = measure.value
    for (name, label), value in list(seen.items())[:MAX_MEASURES]:
        families[name].add_metric((label,), value)
    yield from (family for family in families.values() if family.samples)


def _notices(service: OperatorService) -> list[Metric]:
    """Notices that wait, incidents and mutes. Raises MaintdError."""
    now = service.store.now()
    counts = service.store.notices.counts(now - UNDELIVERED_FOR, now - TESTED_WITHIN)
    notices = GaugeMetricFamily("maintd_notices", "Notices that wait, or were given up", labels=("channel", "state"))
    channels = {*service.calendar().notify.destinations, *(channel for channel, _ in counts)}
    for channel in sorted(channels)[:MAX_CHANNELS]:
        for state in (NoticeState.WAITING, NoticeState.FAILED):
            notices.add_metric((channel[:MAX_LABEL_LENGTH], state.value), counts.get((channel, state), 0))
    opened = Counter(incident.kind for incident in service.store.notices.open_incidents())
    incidents = {kind.value: opened[kind] for kind in INCIDENT_KINDS}
    return [
        notices,
        _gauge("maintd_incidents_open", "Incidents that are not over", "kind", incidents),
        _single("maintd_mutes", "Mutes that silence now", len(service.store.mutes.active(now))),
        _single("maintd_freezes", "Freezes that are active now", len(active_freezes(service))),
    ]


def _label(name: str) -> str:
    """A valid Prometheus label name that differs from the labels that all measures have."""
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
