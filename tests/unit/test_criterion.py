"""Criteria: how observed values become checks, and what the context records."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from maintd.errors import JobError, TargetError
from maintd.job.attempt_info import AttemptInfo, Point
from maintd.job.causes import CAUSES, Role, hint_for
from maintd.job.context import BudgetSpentError, CheckFailedError, Context
from maintd.job.criterion import Criterion
from maintd.model.evidence import Check, CheckStatus, Report
from maintd.model.target import Targets

ROOT = Path(__file__).parents[2]
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
        ({"at_most": 90, "warn_above": 75, "unit": "%"}, 75, "ok", "fails above 90 %, warns above 75 %"),
        ({"at_most": 90, "warn_above": 75, "unit": "%"}, 76, "warn", "fails above 90 %, warns above 75 %"),
        ({"at_most": 90, "warn_above": 75, "unit": "%"}, 91, "fail", "fails above 90 %, warns above 75 %"),
        ({"at_most": 90.0, "warn_above": 75.5, "unit": "%"}, 91, "fail", "fails above 90 %, warns above 75.5 %"),
        ({"at_least": 10, "warn_below": 20}, 15, "warn", "fails below 10, warns below 20"),
        ({"at_least": 10, "warn_below": 20}, 9, "fail", "fails below 10, warns below 20"),
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
    ("limits", "observed", "missed"),
    [
        ({"at_most": 90, "warn_above": 75, "unit": "%"}, 74, None),
        ({"at_most": 90, "warn_above": 75, "unit": "%"}, 76, 75),
        ({"at_most": 90, "warn_above": 75, "unit": "%"}, 91, 90),
        ({"at_least": 10, "warn_below": 20}, 9, 10),
        ({"equals": 0}, 3, 0),
        ({"at_most": timedelta(minutes=90)}, timedelta(hours=2), 5400),  # in seconds, as the observed value
        ({"at_least": DAY}, DAY - timedelta(seconds=1), None),  # an instant is no number
        ({"equals": True}, False, None),
        ({"equals": "on"}, "off", None),
        ({"one_of": (1, 2)}, 3, None),
        ({"at_most": 10**400}, 10**401, None),
        ({"at_most": 90, "unknown": "no answer"}, 91, None),
    ],
)
def test_a_check_has_the_number_of_the_limit_that_it_misses(
    limits: dict[str, Any], observed: Any, missed: float | None
) -> None:
    assert Criterion("x", observed, **limits).evaluate().missed_limit == missed


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
        (Criterion("x", None, at_most=3, warn_above=1), "unknown: no value", "fails above 3, warns above 1"),
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


@pytest.mark.parametrize(
    ("cause", "as_subject"),
    [
        ("refused", "fail"),
        ("unreachable", "fail"),
        ("timed_out", "fail"),
        ("tls", "fail"),
        ("denied", "unknown"),
        ("malformed", "fail"),
        ("partial", "fail"),
        ("too_large", "unknown"),
        ("unfamiliar", "unknown"),
        ("not_configured", "unknown"),
        ("a cause that is not listed", "unknown"),
    ],
)
def test_what_an_error_means_depends_on_its_cause_and_on_the_role_of_the_target(cause: str, as_subject: str) -> None:
    ctx, reports = context()
    error = TargetError("no", "grant it", cause=cause)

    for role in (Role.SUBJECT, Role.SOURCE, Role.WORK):
        ctx.report_error("server: answers", error, role=role)

    checks = [report for report in reports if isinstance(report, Check)]
    assert [check.status for check in checks] == [as_subject, "unknown", "fail"]
    assert {(check.expected, check.hint) for check in checks} == {("an answer", "grant it")}
    assert all(str(check.observed).endswith(f"{cause}: no") for check in checks)


def test_every_cause_that_the_code_raises_is_listed_with_a_hint() -> None:
    raised = {
        cause
        for folder in ("maintd", "jobs")
        for path in (ROOT / folder).rglob("*.py")
        for cause in re.findall(r'cause="([a-z_]+)"', path.read_text(encoding="utf-8"))
    }

    assert raised - set(CAUSES) == set()
    assert all(hint_for(cause) for cause in CAUSES)
    # Servers and files have this cause: /proc/diskstats, a baseline, an answer.
    assert {"file", "login page"} <= set(re.split(", (?:a )?|: a damaged or cut ", hint_for("malformed")))


@pytest.mark.parametrize(
    ("observed", "limits", "text"),
    [
        (False, {"equals": True}, "observed no, expected yes"),
        (3, {"at_least": 4, "unit": "row"}, "observed 3 rows, expected at least 4 rows"),
        (2048, {"at_most": 1024, "unit": "B"}, "observed 2.0 KiB, expected at most 1.0 KiB"),
        (None, {"equals": True}, "observed unknown: no value, expected yes"),
    ],
)
def test_what_a_requirement_observed_reads_as_in_the_list_of_checks(
    observed: Any, limits: Mapping[str, Any], text: str
) -> None:
    ctx, _ = context()

    with pytest.raises(CheckFailedError) as failed:
        ctx.require("there", observed, **limits)

    assert text in failed.value.message


@pytest.mark.parametrize(("most", "text"), [(0, "the budget of 0 changes"), (1, "the budget of 1 change")])
def test_a_budget_is_named_in_the_right_number(most: int, text: str) -> None:
    ctx, _ = context()
    ctx.limit("delete", most)

    with pytest.raises(BudgetSpentError) as spent:
        for name in ("a", "b"):
            with ctx.change("delete", name):
                pass

    assert spent.value.message.endswith(text)
