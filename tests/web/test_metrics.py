"""The metrics, parsed by the Prometheus client library."""

from __future__ import annotations

from datetime import timedelta

from prometheus_client.parser import text_string_to_metric_families
from support.stores import at, claim, queue
from support.web_services import FULL, NOON, Client, Harness, run_with

from maintd.model.evidence import Measure
from maintd.model.run import RunState
from maintd.operations import Health
from maintd.store.run_events import EndedRun
from maintd.web.metrics import MAX_MEASURES
from maintd.web.run_counters import MAX_ENTRIES, OTHER, RunCounters

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(page: Client) -> Samples:
    answer = page.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: Samples = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} is exported twice"
            found[key] = sample.value
    return found


def of(samples: Samples, name: str, /, **labels: str) -> float | None:
    return samples.get((name, tuple(sorted(labels.items()))))


def test_an_entry_has_metrics_for_result_times_duration_and_findings(served: Harness, page: Client) -> None:
    run_with(served.store, "nightly-vacuum", 0)
    run_with(served.store, "nightly-vacuum", 10, RunState.FAILED, items=FULL, took=3)

    found = scraped(page)

    name = "nightly-vacuum"
    assert (
        of(found, "maintd_job_last_success_timestamp_seconds", entry=name) == (NOON + timedelta(minutes=2)).timestamp()
    )
    assert of(found, "maintd_job_duration_seconds", entry=name) == 180
    assert of(found, "maintd_job_result", entry=name, status="failed") == 1
    assert of(found, "maintd_job_result", entry=name, status="succeeded") == 0
    assert of(found, "maintd_job_findings", entry=name, severity="fail") == 1
    assert of(found, "maintd_job_findings", entry=name, severity="unknown") == 1
    assert of(found, "maintd_entry_needs_attention", entry=name) == 1
    assert of(found, "maintd_entry_failures_in_a_row", entry=name) == 1
    assert of(found, "maintd_entry_paused", entry=name) == 0
    # 04:00 in Berlin is 03:00 UTC, fifteen hours after noon.
    assert of(found, "maintd_entry_next_due_timestamp_seconds", entry=name) == (NOON + timedelta(hours=15)).timestamp()


def test_an_entry_that_never_ran_has_no_result_metric(page: Client) -> None:
    found = scraped(page)

    assert of(found, "maintd_job_result", entry="probe", status="succeeded") is None
    assert of(found, "maintd_job_last_success_timestamp_seconds", entry="probe") is None


def test_queue_slots_and_daemon_have_metrics(served: Harness, page: Client) -> None:
    queue(served.store, "nightly-vacuum")
    queue(served.store, "weekly-cleanup", 60)  # in an hour
    claim(served.store, queue(served.store, "probe"))

    found = scraped(page)

    assert of(found, "maintd_queue_depth") == 1
    assert of(found, "maintd_running") == 1
    assert of(found, "maintd_runs", state="queued") == 1
    assert of(found, "maintd_runs_later") == 1
    assert of(found, "maintd_slots") == 4
    assert of(found, "maintd_store_up") == 1
    assert of(found, "maintd_loop_lag_seconds") == 0.5
    assert of(found, "maintd_build_info", version="0.1.0", node="n1") == 1


def test_the_last_measures_are_exported_with_their_labels(served: Harness, page: Client) -> None:
    run_with(served.store, "nightly-vacuum", 0, items=FULL)

    found = scraped(page)

    labels = {"entry": "nightly-vacuum", "job": "vacuum", "unit": "B", "table": "orders", "le_vel": "a"}
    assert of(found, "maintd_measure", name="size_bytes", **labels) == 5_368_709_120


def test_exported_measures_are_limited_and_the_others_counted(served: Harness, page: Client) -> None:
    many = tuple(Measure(name="size", value=i, labels={"table": str(i)}) for i in range(MAX_MEASURES + 7))
    run_with(served.store, "nightly-vacuum", 0, items=many)

    found = scraped(page)

    assert sum(name == "maintd_measure" for name, _ in found) == MAX_MEASURES
    assert of(found, "maintd_measures_left_out") == 7


def test_the_measures_of_a_newer_run_replace_those_before(served: Harness, page: Client) -> None:
    for minute, value in ((0, 1.0), (10, 2.0)):
        run_with(served.store, "probe", minute, items=(Measure(name="lag", value=value, unit="s"),))
        labels = {"entry": "probe", "job": "vacuum", "name": "lag", "unit": "s"}
        assert of(scraped(page), "maintd_measure", **labels) == value


def test_history_metrics_are_omitted_while_the_store_is_unreachable(served: Harness, page: Client) -> None:
    run_with(served.store, "probe", 0)
    served.store.close()
    (served.folder / "maintd.db").write_bytes(b"no database " * 1000)
    for rest in served.folder.glob("maintd.db-*"):
        rest.unlink()

    found = scraped(page)

    assert of(found, "maintd_store_up") == 0
    assert of(found, "maintd_up") == 1
    assert not [name for name, _ in found if name.startswith(("maintd_job_", "maintd_queue"))]
    assert of(found, "maintd_entry_next_due_timestamp_seconds", entry="probe") is not None


def test_a_stalled_loop_is_exported_as_down(served: Harness, page: Client) -> None:
    served.health = Health(alive=False, ready=False, problems=("stalled",), lag_seconds=75.0)

    found = scraped(page)

    assert (of(found, "maintd_up"), of(found, "maintd_ready"), of(found, "maintd_loop_lag_seconds")) == (0, 0, 75)


def test_openmetrics_is_returned_when_the_client_accepts_it(page: Client) -> None:
    answer = page.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_ends_of_runs_are_counted_from_the_first_scrape_on(served: Harness, page: Client) -> None:
    run_with(served.store, "probe", 0)
    scraped(page)
    run_with(served.store, "probe", 10, took=3)
    run_with(served.store, "probe", 20, RunState.FAILED, took=120)

    found = scraped(page)
    again = scraped(page)

    assert of(found, "maintd_entry_runs_total", entry="probe", state="succeeded") == 1
    assert of(found, "maintd_entry_runs_total", entry="probe", state="failed") == 1
    assert of(found, "maintd_run_duration_seconds_count", entry="probe") == 2
    assert of(found, "maintd_run_duration_seconds_sum", entry="probe") == 180 + 7200
    assert of(found, "maintd_run_duration_seconds_bucket", entry="probe", le="300.0") == 1
    assert of(found, "maintd_run_duration_seconds_bucket", entry="probe", le="+Inf") == 2
    assert of(again, "maintd_entry_runs_total", entry="probe", state="failed") == 1


def test_the_late_runs_of_the_metrics_are_those_of_the_summary(served: Harness, page: Client) -> None:
    run_with(served.store, "probe", 0)
    scraped(page)
    for minutes, late in ((10, timedelta(minutes=10)), (20, timedelta(minutes=10, microseconds=1))):
        run_with(served.store, "probe", minutes, due_at=at(minutes) - late)
    served.clock.advance(timedelta(hours=1))

    found = scraped(page)
    summary = page.get("/api/v1/summary?since=2020-01-01T00:00Z&until=2100-01-01T00:00Z").json

    assert of(found, "maintd_entry_late_total", entry="probe") == summary["late"] == 1


def test_queue_age_store_errors_and_calendar_are_exported(served: Harness, page: Client) -> None:
    found = scraped(page)
    queue(served.store, "probe")
    served.clock.advance(timedelta(seconds=90))
    later = scraped(page)

    assert of(found, "maintd_queue_age_seconds") == 0
    assert of(later, "maintd_queue_age_seconds") == 90
    assert of(found, "maintd_store_errors_total") == 0
    assert of(found, "maintd_calendar_info", digest=served.calendar.digest) == 1


def test_measures_that_alert_rules_know_have_their_own_names(served: Harness, page: Client) -> None:
    made = Measure(name="backup_last_success_timestamp", value=1_772_000_000.0, unit="s", labels={"set": "trading"})
    left = Measure(name="ssl_certificate_expiry_days", value=12.5, unit="day", labels={"service": "api"})
    aged = Measure(name="secret_age_days", value=30.5, unit="day", labels={"name": "admin_token"})
    run_with(served.store, "nightly-vacuum", 0, items=(made, left, aged))

    found = scraped(page)

    assert of(found, "backup_last_success_timestamp", set="trading") == 1_772_000_000.0
    assert of(found, "ssl_certificate_expiry_days", service="api") == 12.5
    assert of(found, "secret_age_days", name="admin_token") == 30.5


def test_entries_above_the_limit_are_counted_together() -> None:
    counters = RunCounters()
    for number in range(MAX_ENTRIES + 5):
        counters._count(EndedRun(number, f"e{number}", RunState.SUCCEEDED, None, None, None, None, False))

    (runs, *_) = counters.families()

    assert len(runs.samples) == MAX_ENTRIES + 1
    assert {sample.labels["entry"]: sample.value for sample in runs.samples}[OTHER] == 5
