"""Criteria: how observed values become checks, and what the context records."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from maintd.errors import JobError, TargetError
from maintd.job.context import AttemptInfo, CheckFailedError, Context, Point
from maintd.job.criterion import Criterion
from maintd.model.evidence import Check, CheckStatus, Measure, Report
from maintd.model.target import Targets

DAY = datetime(2026, 3, 1, tzinfo=UTC)


def context(series: dict[str, list[Point]] | None = None) -> tuple[Context, list[Report]]:
    info = AttemptInfo(
        run_id=1,
        entry="probe",
        step="probe",
        attempt=1,
        due_at=None,
        deadline_at=DAY,
        dry_run=False,
        artifacts_dir=Path("artifacts"),
        work_dir=Path("work"),
        series=series or {},
    )
    reports: list[Report] = []
    return Context(info, Targets, reports.append, print), reports


@pytest.mark.parametrize(
    ("limits", "observed", "status", "expected"),
    [
        ({"equals": "on"}, "on", "ok", "on"),
        ({"equals": "on"}, "off", "fail", "on"),
        ({"equals": "on", "severity": CheckStatus.WARN}, "off", "warn", "on"),
        ({"equals": 0}, False, "ok", "0"),
        ({"one_of": ("a", "b")}, "b", "ok", "one of a, b"),
        ({"one_of": ("a", "b")}, "c", "fail", "one of a, b"),
        ({"at_most": 90, "warn_above": 75, "unit": "%"}, 75, "ok", "at most 90 %, normally at most 75 %"),
        ({"at_most": 90, "warn_above": 75, "unit": "%"}, 76, "warn", "at most 90 %, normally at most 75 %"),
        ({"at_most": 90, "warn_above": 75, "unit": "%"}, 91, "fail", "at most 90 %, normally at most 75 %"),
        ({"at_most": 90.0, "warn_above": 75.5, "unit": "%"}, 91, "fail", "at most 90 %, normally at most 75.5 %"),
        ({"at_least": 10, "warn_below": 20}, 15, "warn", "at least 10, normally at least 20"),
        ({"at_least": 10, "warn_below": 20}, 9, "fail", "at least 10, normally at least 20"),
        ({"at_most": timedelta(minutes=90)}, timedelta(hours=1), "ok", "at most 1h30m"),
        ({"at_most": 2048, "unit": "B"}, 2049, "fail", "at most 2.0 KiB"),
        ({"at_least": DAY}, DAY - timedelta(seconds=1), "fail", "at least 2026-03-01T00:00:00Z"),
    ],
)
def test_a_value_is_compared_with_each_limit(limits: dict[str, Any], observed: Any, status: str, expected: str) -> None:
    check = Criterion("x", observed, **limits).evaluate()

    assert (check.status, check.expected) == (status, expected)
    assert Criterion("x", observed, **limits).status == status


@pytest.mark.parametrize(
    ("observed", "shown", "unit"),
    [
        (timedelta(milliseconds=1500), 1.5, "s"),
        (DAY, "2026-03-01T00:00:00Z", "B"),
        (1 / 3, 0.333333, "B"),
        (10**12, 10**12, "B"),
    ],
)
def test_a_check_keeps_durations_as_seconds_and_instants_as_text(observed: Any, shown: Any, unit: str) -> None:
    check = Criterion("x", observed, one_of=(1,), unit="B").evaluate()

    assert (check.observed, check.unit) == (shown, unit)


@pytest.mark.parametrize(
    ("criterion", "observed", "expected"),
    [
        (Criterion("x", unknown="timed out"), "unknown: timed out", "an answer"),
        (Criterion("x", 5, at_most=3, unknown="timed out"), "unknown: timed out", "at most 3"),
        (Criterion("x", None, at_most=3, warn_above=1), "unknown: no value", "at most 3, normally at most 1"),
        (Criterion("x", math.nan, at_least=3), "unknown: no value", "at least 3"),
    ],
)
def test_a_value_that_is_missing_is_unknown(criterion: Criterion, observed: str, expected: str) -> None:
    check = criterion.evaluate()

    assert (check.status, check.observed, check.expected) == (CheckStatus.UNKNOWN, observed, expected)
    assert criterion.status is CheckStatus.UNKNOWN


def test_a_criterion_without_a_limit_is_an_error() -> None:
    with pytest.raises(JobError, match="has no limit"):
        Criterion("x", 3).evaluate()


@pytest.mark.parametrize(("cause", "status"), [("refused", "fail"), ("timed_out", "fail"), ("denied", "unknown")])
def test_an_error_fails_the_check_unless_only_access_is_missing(cause: str, status: str) -> None:
    ctx, reports = context()

    ctx.report_error("server: answers", TargetError("no", "grant it", cause=cause))

    (check,) = reports
    assert isinstance(check, Check)
    assert (check.status, check.expected, check.hint) == (status, "an answer", "grant it")
    assert str(check.observed).endswith(f"{cause}: no")


def test_criteria_are_reported_under_their_subject_and_the_worst_counts() -> None:
    ctx, reports = context()

    ctx.report([Criterion("free", 1, at_least=0), Criterion("used", 9, at_most=8)], "disk main")
    ctx.report([Criterion("load", 9, warn_above=8)])

    assert [item.name for item in reports if isinstance(item, Check)] == ["disk main: free", "disk main: used", "load"]
    assert ctx.worst is CheckStatus.FAIL
    assert [check.name for check in ctx.failed] == ["disk main: used"]


def test_a_required_criterion_that_is_failed_or_unknown_stops_the_job() -> None:
    ctx, reports = context()

    with pytest.raises(CheckFailedError, match="observed 0, expected at least 1"):
        ctx.require("backups", 0, at_least=1)
    with pytest.raises(CheckFailedError):
        ctx.require("backups", None, at_least=1)

    assert len(reports) == 2


@pytest.mark.parametrize(("before", "now", "growth"), [([], 3, None), ([10.0], 12, 2), ([10.0], 3, 3)])
def test_a_counter_grows_since_the_last_run_and_a_reset_counts_from_zero(
    before: list[float], now: int, growth: int | None
) -> None:
    ctx, reports = context({"restarts": [Point(DAY, value, {"engine": "main"}) for value in before]})

    assert ctx.increase("restarts", now, engine="main") == growth

    assert reports == [Measure(name="restarts", value=now, unit="", labels={"engine": "main"})]
