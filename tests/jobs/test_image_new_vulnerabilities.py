"""Vulnerabilities that are new since the last scan of a service."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from maintd.checks.docker.vulnerabilities import VulnerabilityCheck
from maintd.job.attempt_info import AttemptInfo, Point
from maintd.job.context import Context, Report
from maintd.model.evidence import Check, CheckStatus, Measure
from maintd.model.target import Targets

CHECK = "shop: new vulnerabilities with a fix"
THEN = datetime(2026, 11, 22, tzinfo=UTC)


def scan(folder: Path, ids: Sequence[str], series: Mapping[str, Sequence[Point]]) -> list[Report]:
    """The evidence of a scan that finds these vulnerabilities, all high."""
    evidence: list[Report] = []
    due = datetime.now(UTC) + timedelta(minutes=5)
    info = AttemptInfo(1, "e", "image_updates", 1, None, due, False, folder / "a", folder / "w", series=dict(series))
    ctx = Context(info, Targets, evidence.append, lambda line: None)
    options = {"reports": None, "program": None, "docker_url": "", "accepted": {}}
    age = timedelta(days=3)
    check = VulnerabilityCheck(ctx, timeout=age, max_age=age, **options)  # type: ignore[arg-type]
    check.report_found("shop", dict.fromkeys(ids, "HIGH"))
    return evidence


def found(evidence: Collection[Report]) -> Check | None:
    return next((item for item in evidence if isinstance(item, Check) and item.name == CHECK), None)


def recorded(evidence: Collection[Report], at: datetime = THEN) -> dict[str, list[Point]]:
    """What the history has of an earlier scan."""
    series: dict[str, list[Point]] = {}
    for item in evidence:
        if isinstance(item, Measure):
            series.setdefault(item.name, []).append(Point(at, item.value, item.labels))
    return series


def test_the_first_scan_has_nothing_to_compare_with(tmp_path: Path) -> None:
    assert found(scan(tmp_path, ["CVE-1"], {})) is None


@pytest.mark.parametrize(
    ("before", "now", "status", "new"),
    [
        (["CVE-1"], ["CVE-1"], CheckStatus.OK, 0),
        (["CVE-1"], ["CVE-1", "CVE-2", "CVE-3"], CheckStatus.WARN, 2),
        (["CVE-1", "CVE-2"], ["CVE-2"], CheckStatus.OK, 0),
        ([], ["CVE-9"], CheckStatus.WARN, 1),
        ([], [], CheckStatus.OK, 0),
    ],
)
def test_what_the_last_scan_did_not_find_is_new(
    tmp_path: Path, before: list[str], now: list[str], status: CheckStatus, new: int
) -> None:
    check = found(scan(tmp_path, now, recorded(scan(tmp_path, before, {}))))

    assert check is not None
    assert (check.status, check.observed) == (status, new)


def test_only_the_last_scan_counts(tmp_path: Path) -> None:
    older = recorded(scan(tmp_path, ["CVE-1"], {}), THEN - timedelta(days=7))
    last = recorded(scan(tmp_path, [], {}))

    check = found(scan(tmp_path, ["CVE-1"], {name: [*older.get(name, ()), *last.get(name, ())] for name in older}))

    assert check is not None
    assert check.status is CheckStatus.WARN


def test_a_record_with_gaps_is_unknown_without_an_alarm(tmp_path: Path) -> None:
    history = recorded(scan(tmp_path, ["CVE-1", "CVE-2"], {}))
    history["image_vulnerability"].pop()

    check = found(scan(tmp_path, ["CVE-1", "CVE-2"], history))

    assert check is not None
    assert (check.status, check.optional) == (CheckStatus.UNKNOWN, True)


def test_more_than_are_kept_are_unknown_without_an_alarm(tmp_path: Path) -> None:
    many = [f"CVE-{number}" for number in range(600)]

    check = found(scan(tmp_path, many, recorded(scan(tmp_path, many, {}))))

    assert check is not None
    assert (check.status, check.optional) == (CheckStatus.UNKNOWN, True)
    assert "only the first 500" in str(check.observed)
