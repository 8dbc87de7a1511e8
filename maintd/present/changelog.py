"""The change log in Markdown, in the headings of the runbook; and the checklist of a run as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC

from maintd.model.changelog import Box, BoxState, ChangeLogRecord, Checklist, LoggedChange, LoggedDecision
from maintd.model.evidence import ChangeState
from maintd.model.run import DecisionKind
from maintd.present.text import printable, utc_minute, utc_second
from maintd.units import duration_text, format_duration, plural, value_text

TITLE = "# Maintenance Change Log"

MOST_CHANGES = 50
"""Changes of a run that the Markdown lists; `maintd show` has all."""

_MARKS = {BoxState.DONE: "x", BoxState.FAILED: " ", BoxState.OPEN: " "}
_WORDS = {BoxState.DONE: "", BoxState.FAILED: "not so", BoxState.OPEN: "open"}


def changelog_markdown(records: Sequence[ChangeLogRecord]) -> str:
    """Records as Markdown; empty without any."""
    return "".join(record_markdown(record) for record in records)


def record_markdown(record: ChangeLogRecord) -> str:
    """One record. One that has nothing to list has the reason."""
    return "\n".join(_lines(record)) + "\n\n"


def _lines(record: ChangeLogRecord) -> Iterator[str]:
    day = (record.started_at or record.queued_at).astimezone(UTC)
    yield f"## {day:%Y-%m-%d} - {record.type} Maintenance: {_text(record.title)}"
    yield ""
    state = record.state.replace("_", " ")
    yield f"**Run:** {record.run_id} of {record.entry}, {state}{_after_colon(record.reason)}  "
    if record.follows is not None:
        yield f"**Follows:** run {record.follows}, and takes over what was done in it  "
    if record.why:
        yield f"**Why:** {_text(record.why)}  "
    if record.emergency:
        yield f"**Emergency:** {_text(record.emergency)}  "
    yield f"**Performed by:** {_text(', '.join(record.performed_by)) or 'not known'}  "
    yield f"**Duration:** {_duration(record)}  "
    yield f"**Planned Downtime:** {_downtime(record)}"
    yield from _section("Changes Made", list(_changes(record)), _no_changes(record))
    yield from _section("Approvals", list(_approvals(record)), "None is recorded in this run.")
    yield from _section("Issues Encountered", list(_issues(record)), _no_issues(record))
    yield from _section("Validation", [box_text(box) for box in record.validation], "")
    nothing = "None is known: no finding of this run is open."
    if record.finished_at is None:
        nothing = "Not known yet: the run has not ended."
    yield from _section("Next Steps", [f"- {_text(step)}" for step in record.next_steps], nothing)
    if record.notes:
        notes = [f"- {_text(note.text)} ({_text(note.by)}, {utc_minute(note.at)})" for note in record.notes]
        yield from _section("Notes", notes, "")


def _section(title: str, lines: Sequence[str], nothing: str) -> Iterator[str]:
    yield ""
    yield f"**{title}:**"
    yield ""
    yield from lines or [f"- {nothing}"]


def _duration(record: ChangeLogRecord) -> str:
    if record.started_at is None:
        return "it has not started"
    if record.finished_at is None:
        return f"{utc_second(record.started_at)} - not ended"
    at_gates = f", and {duration_text(record.waited)} at gates" if record.waited else ""
    took = "" if record.duration is None else f" ({duration_text(record.duration)}{at_gates})"
    return f"{utc_second(record.started_at)} - {utc_second(record.finished_at)}{took}"


def _downtime(record: ChangeLogRecord) -> str:
    if record.window is not None:
        return f"Yes, a window of {format_duration(record.window)}"
    return "No, the entry declares no window"


def _changes(record: ChangeLogRecord) -> Iterator[str]:
    for change in record.changes[:MOST_CHANGES]:
        yield f"- {_change(change)}"
    if len(record.changes) > MOST_CHANGES:
        rest = len(record.changes) - MOST_CHANGES
        yield f"- {plural(rest, 'change')} more; see: maintd show {record.run_id}"
    for step in record.without_changes:
        yield f"- {step}: not known; it may change things, ended badly and recorded no change"


def _change(change: LoggedChange) -> str:
    values = ""
    if change.before is not None or change.after is not None:
        values = f": {_known(change.before)} → {_known(change.after)}"
    details = ", ".join(
        f"{name} {value_text(value, 'B' if name == 'bytes' else '')}" for name, value in change.details.items()
    )
    more = f" ({details})" if details else ""
    state = "" if change.state is ChangeState.DONE else f" [{change.state}{_after_colon(change.cause)}]"
    return f"{change.step}: {_text(f'{change.action} {change.target}{values}{more}')}{state}"


def _known(value: bool | float | str | None) -> str:
    return "not known" if value is None else value_text(value)


def _no_changes(record: ChangeLogRecord) -> str:
    if record.started_at is None:
        return "None: no step has started."
    return "None is recorded."


def _approvals(record: ChangeLogRecord) -> Iterator[str]:
    for gate in record.unknown_gates:
        yield f"- {gate}: not known; it was taken over from an earlier run, which was pruned"
    yield from (_decision(each) for each in record.decisions)


def _decision(decision: LoggedDecision) -> str:
    what = {
        DecisionKind.TICKED: f"ticked “{decision.item}”",
        DecisionKind.PROVED: f"observed “{decision.item}”",
        DecisionKind.TIMED_OUT: "its time was over",
        DecisionKind.CANCELLED: "cancelled while it waited",
    }.get(decision.kind, decision.kind.value)
    person = f" by {decision.by}" if decision.by else ""
    emergency = " in an emergency" if decision.emergency else ""
    taken_over = "" if decision.run_id is None else f", taken over from run {decision.run_id}"
    text = f"{decision.gate}: {what}{person}{emergency}, {utc_minute(decision.at)}{taken_over}"
    return f"- {_text(text)}{_after_colon(decision.note)}"


def _issues(record: ChangeLogRecord) -> Iterator[str]:
    for issue in record.issues:
        hint = f"; what to do: {issue.hint}" if issue.hint else ""
        resolution = f" → {issue.resolution}" if issue.resolution else ""
        yield f"- {issue.step}: {_text(f'{issue.text}{hint}{resolution}')}"


def _no_issues(record: ChangeLogRecord) -> str:
    if record.checks == 0:
        return "Not known: the run made no check."
    return f"None: {plural(record.checks, 'check')} made, all ok."


def box_text(box: Box) -> str:
    """`- [x] Backup completed: step backup succeeded (ada, Sun 2026-11-29 04:00 UTC)`; or what is missing."""
    who = ", ".join(part for part in (box.by, "" if box.at is None else utc_minute(box.at)) if part)
    word = _WORDS[box.state]
    shown = ": ".join(part for part in (word, box.evidence) if part)
    return f"- [{_MARKS[box.state]}] {_text(box.text)}{_after_colon(shown)}" + (f" ({_text(who)})" if who else "")


def checklist_text(checklist: Checklist) -> str:
    """The lists, each box on a line; at last how many are open."""
    lines = [f"run {checklist.run_id} of {checklist.entry}: {checklist.state.replace('_', ' ')}"]
    if checklist.emergency:
        lines.append(f"EMERGENCY: {_text(checklist.emergency)}")
    for part in checklist.parts:
        lines += ["", f"{part.title}:", *(box_text(box) for box in part.boxes)]
    boxes = sum(len(part.boxes) for part in checklist.parts)
    lines += ["", f"{checklist.open} of {plural(boxes, 'box')} open" if checklist.open else f"all {boxes} boxes done"]
    return "\n".join(lines) + "\n"


def _after_colon(text: str) -> str:
    return f": {_text(text)}" if text else ""


def _text(text: str) -> str:
    """On one line, without control characters: what jobs and persons wrote must not make headings of its own."""
    return " ".join(printable(" ".join(text.splitlines())).split())
