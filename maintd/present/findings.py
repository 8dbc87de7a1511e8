"""Findings as text: a list of them, or one with its acknowledgements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from maintd.model.access import is_person
from maintd.model.evidence import expectation
from maintd.model.finding import Acknowledgement, FindingState, GoneReason, ListedFinding
from maintd.present.text import WIDTH, Style, Tone, ago, printable, state_text, symbol, utc_minute, wrap
from maintd.units import plural, value_text


def findings_text(findings: Sequence[ListedFinding], *, now: datetime, width: int = WIDTH, colour: bool = False) -> str:
    """Findings, each with its key, since when it is there, and who acknowledged it."""
    if not findings:
        return "no findings\n"
    style = Style(colour)
    lines: list[str] = []
    for finding in findings:
        lines += _lines(finding, now, width, style)
    return "\n".join(lines) + "\n"


def finding_text(
    finding: ListedFinding,
    acknowledgements: Sequence[Acknowledgement],
    *,
    next_step: str,
    now: datetime,
    width: int = WIDTH,
    colour: bool = False,
) -> str:
    """One finding with all its acknowledgements, newest first."""
    style = Style(colour)
    lines = [*_lines(finding, now, width, style), ""]
    facts = [
        ("entry", finding.entry),
        ("step", finding.step if finding.step == finding.job else f"{finding.step} (job {finding.job})"),
        ("check", finding.check),
        ("first seen", f"{utc_minute(finding.first_seen_at)}, run {finding.first_run_id}"),
        ("last seen", f"{utc_minute(finding.last_seen_at)}, {ago(finding.last_seen_at, now)}"),
        ("gone", _gone_text(finding, now)),
        ("last run", f"maintd show {finding.last_run_id}"),
        ("next step", next_step),
    ]
    for name, text in facts:
        if text:
            lines += wrap(text, width, f"  {name:11} ", " " * 14)
    if acknowledgements:
        lines += ["", style("acknowledgements", Tone.STRONG)]
    for one in acknowledgements:
        text = f"{one.at:%Y-%m-%d} {acknowledgement_text(one)}"
        if one.ended_at is not None:
            text += f"; ended {utc_minute(one.ended_at)}: {one.ended_why}"
        lines += wrap(text, width, "  ", "    ")
    return "\n".join(lines) + "\n"


def run_findings_text(
    findings: Sequence[ListedFinding], *, user: str, now: datetime, width: int = WIDTH, colour: bool = False
) -> str:
    """The findings that a run reported, for the end of its text: key, since when, who acknowledged it.

    user: who reads it, and has to name a person to acknowledge one as root.
    """
    style = Style(colour)
    lines = ["", style(plural(len(findings), "finding"), Tone.STRONG)]
    for finding in findings:
        text = f"{finding.key} {finding.check}, {finding.state}"
        if finding.state is FindingState.ACKNOWLEDGED and finding.acknowledgement is not None:
            text = f"{finding.key} {finding.check}, {acknowledgement_text(finding.acknowledgement)}"
        elif finding.open:
            text += f" since {utc_minute(finding.first_seen_at)}, {ago(finding.first_seen_at, now)}"
        lines += wrap(text, width, "  ", " " * 15)
    if any(finding.state is FindingState.OPEN for finding in findings):
        by = "" if is_person(user) else " --by NAME"
        lines += wrap(f"acknowledge one with: maintd ack KEY --why REASON --until 7d{by}", width, "  ", "  ")
    return "\n".join(lines) + "\n"


def acknowledgement_text(acknowledgement: Acknowledgement) -> str:
    """`acknowledged by ada until Sun 2026-12-06 02:00 UTC: a disk is ordered`."""
    until = utc_minute(acknowledgement.until)
    return printable(f"acknowledged by {acknowledgement.by} until {until}: {acknowledgement.why}")


def _lines(finding: ListedFinding, now: datetime, width: int, style: Style) -> Iterator[str]:
    status = finding.status.value
    observed = value_text(finding.observed, finding.unit).removeprefix(f"{status}: ")
    expected = f", {expectation(finding.expected)}" if finding.expected else ""
    where = finding.entry if finding.step == finding.entry else f"{finding.entry}, {finding.step}"
    gone = finding.state is FindingState.GONE
    word = ("ok" if finding.gone_reason is GoneReason.PASSED else "gone") if gone else status
    yield f"{symbol(word, style)} {style(finding.key, Tone.STRONG)} {state_text('gone' if gone else status, style)}"
    yield from wrap(f"{where}: {finding.check}: {observed}{expected}", width, "  ", "    ")
    seen = f"in {plural(finding.seen_count, 'run')} since {utc_minute(finding.first_seen_at)}"
    last = ago(finding.gone_at or finding.last_seen_at, now)
    why = f": {finding.gone_reason.text}" if finding.gone_reason is not None else ""
    text = f"{seen}, {'gone' if gone else 'last'} {last} (run {finding.last_run_id}){why}"
    yield from (style(line, Tone.DIM) for line in wrap(text, width, "  ", "    "))
    if finding.state is FindingState.ACKNOWLEDGED and finding.acknowledgement is not None:
        yield from wrap(acknowledgement_text(finding.acknowledgement), width, "  ", "    ")
    elif finding.because:
        yield from wrap(f"follows from: {finding.because}", width, "  ", "    ")
    elif finding.hint and not gone:
        yield from wrap(finding.hint, width, "  → ", "    ")
    if finding.rule and not gone:
        yield from (style(line, Tone.DIM) for line in wrap(f"rule: {finding.rule}", width, "  ", "    "))


def _gone_text(finding: ListedFinding, now: datetime) -> str:
    """`Sun 2026-12-06 02:00 UTC, 3h ago: passed`; of one that was not seen to pass, that too."""
    if finding.gone_at is None:
        return ""
    text = f"{utc_minute(finding.gone_at)}, {ago(finding.gone_at, now)}"
    if finding.gone_reason is None:
        return text
    unseen = "" if finding.gone_reason is GoneReason.PASSED else "; it was not seen to pass"
    return f"{text}: {finding.gone_reason.text}{unseen}"
