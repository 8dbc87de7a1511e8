"""What an audit leaves: SARIF for other tools, JSON, and the report of the review."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from maintd import __version__
from maintd.checks.audit.catalog import RULES
from maintd.checks.audit.evaluate import Result, Seen
from maintd.checks.audit.rule import Rule
from maintd.checks.audit.waivers import Ledger
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.reports.document import Cell, Line, Section, Table, columns
from maintd.reports.review_report import publish_review

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {CheckStatus.FAIL: "error", CheckStatus.WARN: "warning"}


def publish(ctx: Context, result: Result, ledger: Ledger) -> None:
    """Save SARIF and JSON, and publish the report."""
    ctx.save("audit.sarif", json.dumps(sarif(result), indent=1), "application/sarif+json")
    ctx.save("audit.json", json.dumps(evidence(result, ledger), indent=1), "application/json")
    publish_review(ctx, kind="security-audit", title="Security audit", sections=[_section(ctx, result)])


def sarif(result: Result) -> dict[str, Any]:
    """A log of SARIF 2.1.0. Source: the OASIS standard, sections 3.13, 3.14, 3.27 and 3.35."""
    order = list(RULES)
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {"name": "maintd", "version": __version__, "rules": [_rule(RULES[id_]) for id_ in order]}
                },
                "invocations": [
                    {"executionSuccessful": True, "toolExecutionNotifications": list(_notifications(result))}
                ],
                "results": [_result(item, order.index(item.outcome.rule.id)) for item in result.seen],
            }
        ],
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": f"No {rule.title}"},
        "fullDescription": {"text": f"{rule.source}: {rule.wanted}"},
        "help": {"text": rule.change},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
    }


def _result(item: Seen, index: int) -> dict[str, Any]:
    rule, violation = item.outcome.rule, item.violation
    location: dict[str, Any] = {
        "logicalLocations": [{"fullyQualifiedName": f"{item.outcome.place}/{violation.subject}", "kind": "resource"}]
    }
    if violation.file:
        location["physicalLocation"] = {"artifactLocation": {"uri": quote(violation.file)}}
        if violation.line:
            location["physicalLocation"]["region"] = {"startLine": violation.line}
    found = {
        "ruleId": rule.id,
        "ruleIndex": index,
        "level": _LEVELS[rule.severity],
        "message": {"text": f"{violation.subject}: {violation.observed}; wanted: {rule.wanted}"},
        "locations": [location],
        "partialFingerprints": {"maintdSubject/v1": f"{rule.id}/{item.outcome.place}/{violation.subject}"},
        "baselineState": "new" if item.new else "unchanged",
    }
    if item.waiver is not None:
        text = f"{item.waiver.by}, until {item.waiver.until}: {item.waiver.why}"
        found["suppressions"] = [{"kind": "external", "status": "accepted", "justification": text}]
    return found


def _notifications(result: Result) -> Iterator[dict[str, Any]]:
    for outcome in result.outcomes:
        for blind in outcome.blind:
            text = f"{outcome.place}/{blind.subject}: not examined: {blind.cause}"
            associated = {"id": outcome.rule.id}
            yield {"level": "warning", "message": {"text": text}, "associatedRule": associated}


def evidence(result: Result, ledger: Ledger) -> dict[str, Any]:
    """All outcomes as plain data."""
    active = Counter(item.status.value for item in result.active)
    return {
        "score": result.score,
        "findings": dict(active),
        "checks_unknown": result.unknown,
        "outcomes": [
            {
                "rule": outcome.rule.id,
                "place": outcome.place,
                "examined": outcome.examined,
                "not_applicable": outcome.not_applicable or None,
                "unknown": [{"subject": item.subject, "cause": item.cause} for item in outcome.blind],
            }
            for outcome in result.outcomes
        ],
        "violations": [
            {
                "rule": item.outcome.rule.id,
                "severity": item.status.value,
                "source": item.outcome.rule.source,
                "place": item.outcome.place,
                "subject": item.violation.subject,
                "observed": item.violation.observed,
                "wanted": item.outcome.rule.wanted,
                "change": item.violation.change or item.outcome.rule.change,
                "new": item.new,
                "waiver": item.waiver.name if item.waiver is not None else None,
            }
            for item in result.seen
        ],
        "waivers": [waiver.model_dump(mode="json") for waiver in ledger.waivers],
    }


def _section(ctx: Context, result: Result) -> Section:
    seen = Counter((item.outcome.rule.id, item.waiver is None) for item in result.seen)
    examined = Counter[str]()
    for outcome in result.outcomes:
        examined[outcome.rule.id] += outcome.examined
    rows = tuple(
        (
            Cell(rule.id),
            Cell(rule.title),
            Cell(rule.source),
            Cell(f"{examined[rule.id]:,}", examined[rule.id]),
            Cell(f"{seen[rule.id, True]:,}", seen[rule.id, True]),
            Cell(f"{seen[rule.id, False]:,}", seen[rule.id, False]),
        )
        for rule in RULES.values()
        if any(outcome.rule is rule for outcome in result.outcomes)
    )
    titles = columns("Rule", "No", "Source", "Examined>", "Findings>", "With a waiver>")
    score = "not known" if result.score is None else f"{result.score} of 100"
    origin = "points of rules that were tested, this run; 3 for one that fails, 1 for one that warns"
    before = ctx.last("audit_score")
    lines = [Line("Score", score, origin, result.score)]
    if before is not None:
        lines.append(Line("Score of the last audit", f"{before:.0f} of 100", "kept by maintd", before))
    lines.append(Line("Rules that are not known", f"{result.unknown:,}", "this run; not in the score", result.unknown))
    return Section("Rules", lines=tuple(lines), tables=(Table("By rule", titles, rows, "Nothing was examined."),))
