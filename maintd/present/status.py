"""`maintd status`: what needs attention on top, then each entry on one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from maintd.model.entry import MANUAL
from maintd.model.finding import Finding
from maintd.model.notice import Mute
from maintd.model.run import RunState, RunSummary
from maintd.model.status import EntryStatus, StatusReport
from maintd.present.findings import acknowledgement_text
from maintd.present.freezes import freeze_line, freeze_text
from maintd.present.gates import gate_lines
from maintd.present.runs import emergency_text, runs_lines
from maintd.present.text import (
    WIDTH,
    Style,
    Tone,
    ago,
    column_widths,
    from_now,
    rough_text,
    state_text,
    symbol,
    utc_minute,
    wrap,
)
from maintd.units import duration_text, plural, value_text

SLOW = 2.0
"""A run is marked as slow from this multiple of the typical duration."""


def status_text(report: StatusReport, *, width: int = WIDTH, colour: bool = False) -> str:
    """The whole report; ends with a newline."""
    style = Style(colour)
    lines: list[str] = [*_head(report, width, style)]
    if report.freezes:
        lines += ["", style("frozen", Tone.STRONG)]
        for freeze in report.freezes:
            lines += _coloured(wrap(f"* {freeze_line(freeze)}", width, hanging="  "), style, Tone.WARN)
    if report.gates:
        lines += ["", style("waits for a person", Tone.STRONG)]
        for gate in report.gates:
            lines += gate_lines(gate, report.at, width, style)
    if report.needs_attention:
        lines += ["", style("needs attention", Tone.STRONG)]
        for problem in report.problems:
            lines += _coloured(wrap(f"! {problem}", width, hanging="  "), style, Tone.BAD)
        for entry in sorted(report.entries, key=_is_not_held):
            if entry.urgent:
                lines += _diagnosis_lines(entry, report.at, width, style)
    lines += ["", *_table(report, width, style)]
    if report.others:
        lines += [
            "",
            style("other unfinished runs", Tone.STRONG),
            *runs_lines(report.others, report.at, width, style),
        ]
    lines += _tail(report, width, style)
    return "\n".join(lines) + "\n"


def _is_not_held(entry: EntryStatus) -> bool:
    """Held runs come first."""
    run = entry.last_finished
    return run is None or not run.held


def entry_text(
    entry: EntryStatus, runs: Sequence[RunSummary], *, now: datetime, width: int = WIDTH, colour: bool = False
) -> str:
    """One entry and its last runs, newest first."""
    style = Style(colour)
    lines = [f"{symbol(entry.state, style)} {style(entry.entry, Tone.STRONG)}: {state_text(entry.state, style)}"]
    for run in entry.emergencies:
        lines += _coloured(wrap(emergency_text(run), width, "  ", "    "), style, Tone.WARN)
    facts = [("title", entry.title), ("runbook", entry.runbook), ("schedule", entry.schedule)]
    if entry.next_due_at is not None:
        due = f"{entry.next_due_local or utc_minute(entry.next_due_at)}, {from_now(entry.next_due_at, now)}"
        utc = utc_minute(entry.next_due_at)
        facts.append(("next due", due if entry.next_due_local.endswith(" UTC") else f"{due} ({utc})"))
    facts.append(("jobs", ", ".join(entry.jobs)))
    facts += [("overlay", text) for text in entry.overlay]
    if entry.typical_duration is not None:
        facts.append(("duration", f"typically {duration_text(entry.typical_duration)} (median of the last successes)"))
    if entry.last_success_at is not None:
        facts.append(("succeeded", f"{utc_minute(entry.last_success_at)}, {ago(entry.last_success_at, now)}"))
    if entry.failing_since is not None:
        since = f"since {utc_minute(entry.failing_since)}, {plural(entry.failures_in_a_row, 'failure')} in a row"
        facts.append(("failing", since))
    facts += [("planned", planned_text(run, now)) for run in entry.planned_runs]
    facts += [("known", _known(finding)) for finding in entry.acknowledged if finding.check not in entry.why]
    paused = "" if entry.pause is None or entry.pause.why in entry.why else _pause(entry, now)
    muted = "" if entry.mute is None else _mute(entry.mute)
    facts += [
        ("muted", muted),
        ("frozen", "" if entry.freeze is None else freeze_text(entry.freeze).removeprefix("frozen ")),
        ("paused", paused),
        ("why", entry.why),
        ("hint", entry.hint),
        ("next step", entry.next_step),
    ]
    for name, text in facts:
        if text:
            lines += wrap(text, width, f"  {name:9} ", " " * 12)
    lines += ["", style("last runs", Tone.STRONG) if runs else "no runs yet"]
    lines += runs_lines(runs, now, width, style, with_entry=False)
    return "\n".join(lines) + "\n"


def planned_text(run: RunSummary, now: datetime) -> str:
    """`run 12 at Sat 2026-12-05 01:00 UTC, in 5d, by ada: a new disk; cancel it with: maintd cancel 12`."""
    why = f": {run.why}" if run.why else ""
    why += f"; EMERGENCY: {run.emergency}" if run.emergency else ""
    at = f"run {run.id} at {utc_minute(run.not_before)}, {from_now(run.not_before, now)}"
    return f"{at}, by {run.requested_by or 'an operator'}{why}; cancel it with: maintd cancel {run.id}"


def _known(finding: Finding) -> str:
    known = "" if finding.acknowledgement is None else f", {acknowledgement_text(finding.acknowledgement)}"
    return f"{finding.step}: {finding.check}: {value_text(finding.observed, finding.unit)}{known}"


def _head(report: StatusReport, width: int, style: Style) -> Iterator[str]:
    if report.started_at is None:
        yield style(f"maintd: no daemon answers · read from the store at {utc_minute(report.at)}", Tone.STRONG)
    else:
        up = duration_text(report.at - report.started_at)
        pid = f" (pid {report.pid})" if report.pid else ""
        text = f"maintd {report.version} on {report.node}{pid}, up {up} · {utc_minute(report.at)}"
        yield from _coloured(wrap(text, width, hanging="  "), style, Tone.STRONG)
    for name, value in (("page", report.page), ("calendar", report.calendar), ("store", report.store)):
        if value:
            yield from _coloured(wrap(value, width, f"{name:9}", " " * 9), style, Tone.DIM)


def headline(entry: EntryStatus, now: datetime) -> str:
    """What happened: `failed 3h ago (run 1842), 2 failures in a row since Tue 2026-11-17 11:30 UTC`."""
    active = entry.active_run
    if active is not None and active.id == entry.why_run_id:
        return f"{active.state}, {rough_text(now - active.not_before)} late (run {active.id})"
    run = entry.shown_run
    if run is None or entry.why_run_id is None:
        return entry.state.replace("_", " ")
    at = (run.due_at or run.queued_at) if run.state is RunState.SKIPPED else (run.finished_at or run.queued_at)
    text = f"{run.state.replace('_', ' ')} {ago(at, now)} (run {run.id})"
    if entry.failing_since is not None and entry.failures_in_a_row > 1:
        text += f", {plural(entry.failures_in_a_row, 'failure')} in a row since {utc_minute(entry.failing_since)}"
    return text


def _diagnosis_lines(entry: EntryStatus, now: datetime, width: int, style: Style) -> Iterator[str]:
    first, *more = wrap(f"{entry.entry}: {headline(entry, now)}", width - 2)
    yield f"{symbol(entry.state, style)} {style(first, Tone.BAD)}"
    yield from (f"  {line}" for line in more)
    if entry.why:
        yield from wrap(entry.why, width, "  why:  ", "        ")
    if entry.hint:
        yield from wrap(entry.hint, width, "  hint: ", "        ")
    if entry.next_step:
        yield from wrap(entry.next_step, width, "  next: ", "        ")


def _table(report: StatusReport, width: int, style: Style) -> Iterator[str]:
    if not report.entries:
        yield "the calendar has no entries"
        return
    rows = [_row(entry, report.at) for entry in report.entries]
    heads = ("entry", "state", "when", "duration", "next due")
    longest = max(len(entry.entry) for entry in report.entries)
    cells_only = [heads[1:], *(row[1:] for row in rows)]
    sizes = column_widths(cells_only, gap=2)
    if longest + 2 + sum(sizes) > width:
        sizes = column_widths(cells_only)
    room = width - 2 - sum(sizes) + 1
    names = min(room, longest + 2)
    names = max(names, len(heads[0]) + 1)
    cells = "".join(head.ljust(size) for head, size in zip(heads[1:], sizes, strict=True))
    yield style(f"  {heads[0].ljust(names)}{cells}".rstrip(), Tone.DIM)
    for entry, row in zip(report.entries, rows, strict=True):
        yield from _entry_lines(entry, row, names, sizes, report.at, width, style)


def _entry_lines(
    entry: EntryStatus, row: Sequence[str], names: int, sizes: Sequence[int], now: datetime, width: int, style: Style
) -> Iterator[str]:
    word = entry.state
    cells = [state_text(word, style, sizes[0])]
    slow = _is_slow(entry)
    for index, size in enumerate(sizes[1:], 2):
        cell = row[index].ljust(size)
        cells.append(style(cell, Tone.WARN) if slow and index == 3 else cell)
    name = entry.entry
    if len(name) >= names:  # a name may be typed, so it is never cut
        yield f"{symbol(word, style)} {name}"
        yield f"  {' ' * names}{''.join(cells).rstrip()}"
    else:
        yield f"{symbol(word, style)} {name.ljust(names)}{''.join(cells).rstrip()}"
    for run in entry.emergencies:
        yield from _coloured(wrap(emergency_text(run), width, "    ", "    "), style, Tone.WARN)
    if entry.why and not entry.needs_attention:
        yield from _coloured(wrap(entry.why, width, "    ", "    "), style, Tone.DIM)
    pause = _pause(entry, now)
    if pause and entry.pause is not None and entry.pause.why not in entry.why:
        yield from _coloured(wrap(f"paused {pause}", width, "    ", "    "), style, Tone.WARN)
    for run in entry.planned_runs:
        yield from _coloured(wrap(f"planned: {planned_text(run, now)}", width, "    ", "    "), style, Tone.DIM)
    if entry.freeze is not None:
        yield from _coloured(wrap(freeze_text(entry.freeze), width, "    ", "    "), style, Tone.WARN)
    if entry.mute is not None:
        yield from _coloured(wrap(f"muted {_mute(entry.mute)}", width, "    ", "    "), style, Tone.WARN)


def _row(entry: EntryStatus, now: datetime) -> tuple[str, ...]:
    run, duration = entry.shown_run, ""
    when = "" if run is None else ago(run.finished_at or run.queued_at, now)
    if entry.active_run is not None:
        started = entry.active_run.started_at or entry.active_run.queued_at
        when = f"for {rough_text(now - started)}"
    elif run is not None and run.duration is not None and run.skip_reason is None:
        duration = duration_text(run.duration)
    if entry.typical_duration is not None:
        duration = f"{duration} (~{duration_text(entry.typical_duration)})".strip()
    return entry.entry, entry.state.replace("_", " "), when, duration, _due(entry, now)


def _due(entry: EntryStatus, now: datetime) -> str:
    if not entry.enabled:
        return "–"
    if entry.next_due_at is None:
        return "manual" if entry.schedule in ("", MANUAL) else "none"
    return f"{short_local(entry.next_due_local, entry.next_due_at, now)} ({rough_text(entry.next_due_at - now)})"


def short_local(local: str, at: datetime, now: datetime) -> str:
    """`Sun 04:00 CET` within six days, else `28 Dec 01:00 CET`; with the year if it is not this year."""
    parts = local.split(" ") if local else utc_minute(at).split(" ")
    if len(parts) != 4:
        return local or utc_minute(at)
    weekday, date, time, zone = parts
    if at - now < timedelta(days=6):
        return f"{weekday} {time} {zone}"
    year, month, day = date.split("-")
    if year != str(now.year) and at - now > timedelta(days=180):
        return f"{date} {time} {zone}"
    return f"{int(day)} {_MONTHS[int(month) - 1]} {time} {zone}"


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _is_slow(entry: EntryStatus) -> bool:
    run = entry.last_finished
    if run is None or run.duration is None or entry.typical_duration is None or entry.active_run is not None:
        return False
    return run.duration > max(entry.typical_duration * SLOW, timedelta(seconds=5))


def _mute(mute: Mute) -> str:
    return f"by {mute.by or 'an operator'} until {utc_minute(mute.until)}: {mute.why}"


def _pause(entry: EntryStatus, now: datetime) -> str:
    pause = entry.pause
    if pause is None:
        return ""
    until = "until unpaused" if pause.until is None else f"until {utc_minute(pause.until)}"
    return f"by {pause.by or 'an operator'} {ago(pause.since, now)}, {until}: {pause.why or 'no reason given'}"


def _tail(report: StatusReport, width: int, style: Style) -> Iterator[str]:
    if report.remarks:
        yield ""
        for remark in report.remarks:
            yield from _coloured(wrap(f"remark: {remark}", width, hanging="  "), style, Tone.DIM)
    if report.locks:
        yield ""
        for lock in report.locks:
            text = (
                f'lock "{lock.lock}" ({lock.mode}) held by run {lock.run_id} ({lock.entry}{lock.at_step})'
                f"{f' on {lock.node}' if lock.node else ''} for {rough_text(report.at - lock.since)}"
            )
            yield from _coloured(wrap(text, width, hanging="  "), style, Tone.DIM)
    if len(report.nodes) > 1:
        yield ""
        for node in report.nodes:
            slots = plural(node.slots, "slot")
            text = f"node {node.name}: seen {ago(node.seen_at, report.at)}, maintd {node.version}, {slots}"
            yield from _coloured(wrap(text, width, hanging="  "), style, Tone.DIM)


def _coloured(lines: Iterator[str], style: Style, tone: Tone) -> Iterator[str]:
    return (style(line, tone) for line in lines)
