"""Observed and expected values have one form in every text."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from maintd.executor.outcome import AttemptEvidence, JobResult, evaluate_attempt
from maintd.job.criterion import Criterion
from maintd.model.evidence import Check, CheckStatus
from maintd.operations.diagnosis import check_text
from maintd.present.lists import budget_text
from maintd.present.runs import check_lines
from maintd.present.text import Style
from maintd.units import parse_size, value_text, written_size


@pytest.mark.parametrize(
    ("criterion", "observed", "expected"),
    [
        (Criterion("x", 1610612736, at_most=2**30, unit="B"), "1.5 GiB", "at most 1.0 GiB"),
        (Criterion("x", timedelta(seconds=90), at_most=timedelta(seconds=45)), "1m30s", "at most 45s"),
        (Criterion("x", timedelta(seconds=5400), at_most=timedelta(seconds=3723)), "1h30m", "at most 1h2m3s"),
        (Criterion("x", 90.0, at_most=45, unit="s"), "1m30s", "at most 45s"),
        (Criterion("x", False, equals=True), "no", "yes"),
        (Criterion("x", 3204, at_most=2500), "3,204", "at most 2,500"),
        (Criterion("x", -3, at_least=0, unit="day"), "-3 days", "at least 0 days"),
        (Criterion("x", 37, at_most=1, unit="image"), "37 images", "at most 1 image"),
        (Criterion("x", 1204, at_most=20, unit="backup"), "1,204 backups", "at most 20 backups"),
        (Criterion("x", 4.5, at_most=3.25, unit="% a day"), "4.5 % a day", "at most 3.25 % a day"),
        (Criterion("x", 99.9, at_least=99.995, unit="%"), "99.9 %", "at least 99.995 %"),
        (Criterion("x", 12345.5, at_most=2500.0), "12,346", "at most 2,500"),
    ],
)
def test_observed_and_expected_have_the_same_form(criterion: Criterion, observed: str, expected: str) -> None:
    check = criterion.evaluate()
    evidence = AttemptEvidence(returned=JobResult(ok=True), worst=check.status, failed=[check], failed_count=1)

    assert check_text(check) == f"x: {observed}, expected {expected}"
    assert "".join(check_lines(check, 80, Style(False), "")).startswith(f"✗ fail: x: {observed} (expected {expected})")
    if check.status is CheckStatus.FAIL:
        assert evaluate_attempt(evidence).reason == f'check "x": observed {observed}, expected {expected}'


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(1, "row", "1 row"), (2, "row", "2 rows"), (2, "rows", "2 rows"), (3, "min", "3 min"), (0, "entry", "0 entries")],
)
def test_a_noun_has_its_plural(value: Any, unit: str, text: str) -> None:
    assert value_text(value, unit) == text


def test_the_word_unknown_occurs_once() -> None:
    check = Check(name="x", observed="unknown: denied: no", expected="an answer", status=CheckStatus.UNKNOWN)

    assert "".join(check_lines(check, 80, Style(False), "")).startswith("? unknown: x: denied: no (expected")


@pytest.mark.parametrize(
    ("size", "text"), [(10_000_000, "10MB"), (2**30, "1GiB"), (1024, "1KiB"), (0, "0B"), (1234567, "1234567B")]
)
def test_a_size_is_written_as_it_is_read(size: int, text: str) -> None:
    assert written_size(size) == text
    assert parse_size(text) == size


def test_a_budget_is_written_alike_everywhere() -> None:
    assert budget_text({"remove image": 50, "bytes": 2**30}) == "bytes: at most 1.0 GiB, remove image: at most 50"
