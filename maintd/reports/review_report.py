"""The report of a review: every check that was not ok with its rule and remedy, what is new, and what was seen to end.

It is made from the checks that the run recorded, so that report, history and `maintd findings` cannot differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from maintd.job.attempt_info import KnownFinding, Point
from maintd.job.context import Context
from maintd.model.evidence import Check, CheckStatus
from maintd.model.finding import RANK, is_finding
from maintd.reports import charts, formatting
from maintd.reports.document import Cell, Chart, Document, Finding, Line, Mark, Section, Table, columns
from maintd.reports.publish import publish_report
from maintd.units import value_text

COUNTS = "review_checks"
"""The measure that keeps how many checks ended with each status, label `status`."""

_WORDS: Mapping[CheckStatus, str] = {
    CheckStatus.FAIL: "need action",
    CheckStatus.UNKNOWN: "unknown",
    CheckStatus.WARN: "warnings",
    CheckStatus.OK: "ok",
}
_METHOD = (
    "A finding is a check that was not ok. It is new when it was not open after the run before.",
    "What could not be observed is unknown, never ok; the cause is what was observed of it.",
)


def publish_review(
    ctx: Context,
    *,
    kind: str,
    title: str,
    sections: Sequence[Section] = (),
    method: Sequence[str] = (),
    keep: int = 24,
) -> Document:
    """Write the report of the checks that this run recorded so far, as Markdown, HTML and JSON; return it.

    kind: the first part of the file names, lower-case. sections: what the job adds, each number with its source and
    window. keep: how many reports of the kind the reports folder keeps. The job needs `reads_findings=True`, or every
    finding is called new.
    """
    counts = Counter(check.status for check in ctx.checks)
    history = {status: ctx.series(COUNTS, status=status.value) for status in _WORDS}
    report = build_review(
        ctx.checks, ctx.findings, history, kind=kind, title=title, sections=sections, method=method, now=ctx.now()
    )
    for status in _WORDS:
        ctx.measure(COUNTS, counts[status], status=status.value)
    publish_report(ctx, report, f"{ctx.due_at or ctx.now():%Y%m%d}", keep)
    return report


def build_review(
    checks: Sequence[Check],
    known: Mapping[str, KnownFinding],
    history: Mapping[CheckStatus, Sequence[Point]],
    *,
    kind: str,
    title: str,
    sections: Sequence[Section],
    method: Sequence[str],
    now: datetime,
) -> Document:
    """Build the report. known: the findings that were open before this run, by the name of the check. history: earlier
    counts of checks by status."""
    found = sorted(filter(is_finding, checks), key=lambda check: (-RANK[check.status], check.name))
    gone = sorted({check.name for check in checks if check.status is CheckStatus.OK and check.name in known})
    return Document(
        kind=kind,
        title=f"{title} - {now:%Y-%m-%d}",
        subtitle=f"{len(checks):,} checks, made until {formatting.instant(now)}",
        made_at=now,
        headlines=tuple(_headlines(checks, found, known)),
        sections=(
            _findings(found, known, gone, _optional(checks)),
            _overview(checks, history, now),
            *sections,
        ),
        findings=tuple(_recommendations(found, known, title)) if checks else (_nothing(title),),
        areas=(title,),
        method=(*_METHOD, *method),
        data={"checks": [check.model_dump(mode="json", exclude={"type"}) for check in checks]},
    )


def _headlines(checks: Sequence[Check], found: Sequence[Check], known: Mapping[str, KnownFinding]) -> Iterable[Line]:
    counts = Counter(check.status for check in found)
    ok = sum(check.status is CheckStatus.OK for check in checks)
    new = sum(check.name not in known for check in found)
    acknowledged = sum(bool(known[check.name].by) for check in found if check.name in known)
    marks: tuple[tuple[CheckStatus, Mark], ...] = (
        (CheckStatus.FAIL, "fail"),
        (CheckStatus.UNKNOWN, "unknown"),
        (CheckStatus.WARN, "warn"),
    )
    for status, mark in marks:
        count = counts[status]
        yield Line(_WORDS[status].capitalize(), f"{count:,}", "this run", count, mark=mark if count else "")
    yield Line("Ok", f"{ok:,} of {len(checks):,}", "this run", ok)
    yield Line("New", f"{new:,}", "not open after the run before", new)
    optional = len(_optional(checks))
    if optional:
        yield Line("Not observed", f"{optional:,}", "optional: without effect on the result", optional)
    if acknowledged:
        yield Line("Acknowledged", f"{acknowledged:,}", "a person knows of them", acknowledged)


def _optional(checks: Sequence[Check]) -> list[Check]:
    """What this site cannot show, and can do without."""
    return [check for check in checks if check.status is CheckStatus.UNKNOWN and check.optional]


def _status(check: Check) -> Cell:
    """The status as the tag that a mark is shown with; unknown has none in tables."""
    text = check.status.value if check.status is CheckStatus.UNKNOWN else ""
    return Cell(text, check.status.value, check.status.value)


def _findings(
    found: Sequence[Check], known: Mapping[str, KnownFinding], gone: Sequence[str], optional: Sequence[Check]
) -> Section:
    rows = []
    for check in found:
        subject, what = _parts(check.name)
        before = known.get(check.name)
        since = "new" if before is None else f"{before.since:%Y-%m-%d}"
        note = "" if before is None or not before.by else f"{before.by}: {before.why}"
        rows.append(
            (
                _status(check),
                Cell(subject),
                Cell(what),
                Cell(_observed(check)),
                Cell(check.expected),
                Cell(check.rule or "–"),
                Cell(since),
                Cell(note or "–"),
            )
        )
    titles = ("Status", "Subject", "Check", "Observed", "Expected", "Rule", "Open since", "Acknowledged")
    tables = [Table("Open", columns(*titles), tuple(rows), "Every check was ok.")]
    if gone:
        ended = tuple((Cell(name), Cell(f"{known[name].since:%Y-%m-%d}")) for name in gone)
        tables.append(Table("Seen to pass since the run before", columns("Check", "Was open since"), ended))
    if optional:
        unseen = tuple((Cell(check.name), Cell(_observed(check)), Cell(check.hint or "–")) for check in optional)
        tables.append(Table("Not observed, without effect on the result", columns("Check", "Cause", "Change"), unseen))
    return Section("Findings", tables=tuple(tables))


def _overview(checks: Sequence[Check], history: Mapping[CheckStatus, Sequence[Point]], now: datetime) -> Section:
    by_subject: dict[str, Counter[CheckStatus]] = {}
    for check in checks:
        by_subject.setdefault(_parts(check.name)[0], Counter())[check.status] += 1
    rows = tuple(
        (Cell(subject), *(Cell(f"{counts[status]:,}", counts[status]) for status in _WORDS))
        for subject, counts in sorted(by_subject.items())
    )
    titles = columns("Subject", *(f"{word.capitalize()}>" for word in _WORDS.values()))
    table = Table("By subject", titles, rows, "No check was made.")
    counts = Counter(check.status for check in checks)
    traces = [
        charts.Trace(word, [*((point.at, point.value) for point in history.get(status, ())), (now, counts[status])])
        for status, word in _WORDS.items()
        if status is not CheckStatus.OK
    ]
    first = min((trace.points[0][0] for trace in traces), default=now)
    described = ", ".join(f"{counts[status]:,} {word}" for status, word in _WORDS.items())
    text = f"{described} now; recorded by maintd since {formatting.instant(first)}"
    drawn = any(len(trace.points) > 1 for trace in traces)
    svg = charts.lines(traces, "", alt=f"Findings of each run: {text}") if drawn else ""
    chart = (Chart("Findings of each run", svg, text),) if svg else ()
    notes = () if svg else ("A chart of findings over time needs a second run.",)
    return Section("What was checked", charts=chart, tables=(table,), notes=notes)


def _recommendations(found: Sequence[Check], known: Mapping[str, KnownFinding], area: str) -> Iterable[Finding]:
    for check in found:
        if check.because:
            continue
        before = known.get(check.name)
        note = "; new" if before is None else f"; {before.text}"
        rule = f" ({check.rule})" if check.rule else ""
        expected = f", {check.expectation}" if check.expected else ""
        meaning = f"{_observed(check)}{expected}{rule}{note}"
        yield Finding(check.status.value, area, check.name, meaning, check.hint)


def _nothing(area: str) -> Finding:
    return Finding("unknown", area, "checks", "none was made: nothing is known")


def _observed(check: Check) -> str:
    return value_text(check.observed, check.unit).removeprefix(f"{check.status.value}: ")


def _parts(name: str) -> tuple[str, str]:
    """The subject of a check and what is checked of it; a name without a colon has itself as its subject."""
    subject, separator, what = name.partition(": ")
    return (subject, what) if separator else (name, name)
