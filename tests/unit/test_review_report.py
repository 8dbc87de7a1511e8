"""The report of a review: findings with rule and remedy, what is new, what passed, and no chart without data."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from maintd.job.attempt_info import KnownFinding, Point
from maintd.job.criterion import Criterion
from maintd.model.evidence import Check, CheckStatus
from maintd.reports import rendering
from maintd.reports.document import Document, Line, Section
from maintd.reports.review_report import build_review

NOW = datetime(2026, 12, 5, 1, 0, tzinfo=UTC)
RULE = "CIS Docker Benchmark 1.6.0, 5.5"


def build(checks: list[Check], known: dict[str, KnownFinding] | None = None, runs: int = 0) -> Document:
    earlier = [Point(NOW - timedelta(days=30 * (runs - n)), float(n), {}) for n in range(runs)]
    return build_review(
        checks,
        known or {},
        dict.fromkeys(CheckStatus, earlier),
        kind="security-audit",
        title="Security Audit",
        sections=[Section("Own", lines=(Line("images", "12", "engine main; now", 12),))],
        method=["A score of its own."],
        now=NOW,
    )


def checks() -> list[Check]:
    made = [
        Criterion("web: privileged", "yes", equals="no", hint="remove privileged: true", rule=RULE),
        Criterion("db: user", "root", equals="not root", severity=CheckStatus.WARN, hint="USER app", rule="CIS 4.1"),
        Criterion("db: memory limit", unknown="denied: no right to inspect", equals="set", hint="grant it"),
        Criterion("cache: privileged", "no", equals="no", rule=RULE),
        Criterion("cache: checksums", unknown="not_configured: none", equals="on", optional=True),
    ]
    return [criterion.evaluate() for criterion in made]


def test_each_finding_has_what_was_observed_its_rule_and_its_remedy() -> None:
    text = rendering.as_markdown(build(checks()))

    row = next(line for line in text.splitlines() if "**needs action**" in line and line.startswith("|"))
    assert "| web | privileged | yes | no | CIS Docker Benchmark 1.6.0, 5.5 | new |" in row
    assert "remove privileged: true" in text
    assert "denied: no right to inspect" in text
    assert "checksums" not in text.split("### Not observed")[0]
    assert "| cache: checksums | not_configured: none | – |" in text


def test_the_worst_finding_is_the_status_and_unknown_is_not_ok() -> None:
    assert build(checks()).mark == "fail"
    assert build(checks()[2:]).mark == "unknown"
    assert build(checks()[3:4]).mark == "ok"


def test_what_is_known_from_before_is_not_new_and_what_passed_is_named() -> None:
    since = NOW - timedelta(days=31)
    known = {
        "db: user": KnownFinding(since, "ada", "image is being rebuilt", NOW + timedelta(days=7)),
        "cache: privileged": KnownFinding(since),
        "gone: and not checked": KnownFinding(since),
    }
    report = build(checks(), known)
    text = rendering.as_markdown(report)

    assert {line.label: line.value for line in report.headlines} == {
        "Need action": 1,
        "Unknown": 1,
        "Warnings": 1,
        "Ok": 1,
        "New": 2,
        "Not observed": 1,
        "Acknowledged": 1,
    }
    assert "| 2026-11-04 | ada: image is being rebuilt |" in text
    assert "| cache: privileged | 2026-11-04 |" in text.split("Seen to pass since the run before")[1]
    assert "gone: and not checked" not in text
    assert "acknowledged by ada until 2026-12-12: image is being rebuilt" in text


def test_findings_over_time_are_drawn_from_the_second_run_on() -> None:
    assert "A chart of findings over time needs a second run." in rendering.as_markdown(build(checks()))

    page = rendering.as_html(build(checks(), runs=3))
    assert "<svg" in page
    assert "recorded by maintd since 2026-09-06" in page


def test_the_data_have_every_check_with_its_rule() -> None:
    body = json.loads(rendering.as_json(build(checks())))

    assert [check["rule"] for check in body["checks"]] == [RULE, "CIS 4.1", "", RULE, ""]
    assert body["status"] == "fail"


def test_without_any_check_nothing_is_called_ok() -> None:
    report = build([])
    assert "No check was made." in rendering.as_markdown(report)
    assert report.mark == "unknown"
