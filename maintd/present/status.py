"""`maintd status`: what needs attention on top, then each entry on one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from maintd.model.run import RunState, RunSummary
from maintd.model.status import EntryStatus, Severity, StatusReport
from maintd.present.runs import runs_lines
from maintd.present.text import (
    WIDTH,
    Ink,
    Tone,
    ago,
    columns,
    duration_text,
    from_now,
    plural,
    rough_text,
    symbol,
    utc_minute,
    worded,
    wrapped,
)

SLOW = 2.0
"""A run that took so many times the typical duration is marked."""


def status_text(report: StatusReport, *, width: int = WIDTH, colour: bool = False) -> str:
    """The whole report, ending with a newline."""
    ink = Ink(colour)
    lines: list[str] = [*_head(report, width, ink)]
    if report.needs_attention:
        lines += ["", ink("needs attention", Tone.STRONG)]
        for problem in report.problems:
            lines += _tinted(wrapped(f"! {problem}", width, hanging="  "), ink, Tone.BAD)
        for entry in report.entries:
            if entry.severity is Severity.ERROR:  # unknown is the store's problem, which is above
                lines += _diagnosis_lines(entry, report.at, width, ink)
    lines += ["", *_table(report, width, ink)]
    if report.others:
        lines += ["", ink("under way, in no calendar", Tone.STRONG), *runs_lines(report.others, report.at, width, ink)]
    lines += _tail(report, width, ink)
    return "\n".join(lines) + "\n"


def entry_text(
    entry: EntryStatus, runs: Sequence[RunSummary], *, now: datetime, width: int = WIDTH, colour: bool = False
) -> str:
    """One entry and its last runs, newest first."""
    ink = Ink(colour)
    lines = [f"{symbol(entry.state, ink)} {ink(entry.entry, Tone.STRONG)}: {worded(entry.state, ink)}"]
    facts = [("title", entry.title), ("runbook", entry.runbook), ("schedule", entry.schedule)]
    if entry.next_due_at is not None:
        due = f"{entry.next_due_local or utc_minute(entry.next_due_at)}, {from_now(entry.next_due_at, now)}"
        utc = utc_minute(entry.next_due_at)
        facts.append(("next due", due if entry.next_due_local.endswith(" UTC") else f"{due} ({utc})"))
    facts.append(("jobs", ", ".join(entry.jobs)))
    if entry.typical_duration is not None:
        facts.append(("usually", f"{duration_text(entry.typical_duration)} (median of its last successes)"))
    if entry.last_success_at is not None:
        facts.append(("success", f"{utc_minute(entry.last_success_at)}, {ago(entry.last_success_at, now)}"))
    if entry.failing_since is not None:
        since = f"since {utc_minute(entry.failing_since)}, {entry.failures_in_a_row} in a row"
        facts.append(("failing", since))
    facts += [("paused", _pause(entry, now)), ("why", entry.why), ("next step", entry.next_step)]
    for name, text in facts:
        if text:
            lines += wrapped(text, width, f"  {name:9} ", " " * 12)
    lines += ["", ink("last runs", Tone.STRONG) if runs else "no run yet"]
    lines += runs_lines(runs, now, width, ink, with_entry=False)
    return "\n".join(lines) + "\n"


def _head(report: StatusReport, width: int, ink: Ink) -> Iterator[str]:
    if report.started_at is None:
        yield ink(f"maintd: no daemon answers · read from the store at {utc_minute(report.at)}", Tone.STRONG)
    else:
        up = duration_text(report.at - report.started_at)
        pid = f" (pid {report.pid})" if report.pid else ""
        told = f"maintd {report.version} on {report.node}{pid}, up {up} · {utc_minute(report.at)}"
        yield from _tinted(wrapped(told, width, hanging="  "), ink, Tone.STRONG)
    for name, text in (("page", report.page), ("calendar", report.calendar), ("store", report.store)):
        if text:
            yield from _tinted(wrapped(text, width, f"{name:9}", " " * 9), ink, Tone.DIM)


def headline(entry: EntryStatus, now: datetime) -> str:
    """What happened: `failed 3h ago (run 1842), 2 in a row since Tue 2026-11-17 11:30 UTC`."""
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


def _diagnosis_lines(entry: EntryStatus, now: datetime, width: int, ink: Ink) -> Iterator[str]:
    first, *more = wrapped(f"{entry.entry}: {headline(entry, now)}", width - 2)
    yield f"{symbol(entry.state, ink)} {ink(first, Tone.BAD)}"
    yield from (f"  {line}" for line in more)
    if entry.why:
        yield from wrapped(entry.why, width, "  why:  ", "        ")
    if entry.next_step:
        yield from wrapped(entry.next_step, width, "  next: ", "        ")


def _table(report: StatusReport, width: int, ink: Ink) -> Iterator[str]:
    if not report.entries:
        yield "the calendar has no entries"
        return
    rows = [_row(entry, report.at) for entry in report.entries]
    heads = ("entry", "state", "when", "duration", "next due")
    longest = max(len(entry.entry) for entry in report.entries)
    cells_only = [heads[1:], *(row[1:] for row in rows)]
    sizes = columns(cells_only, gap=2)
    if longest + 2 + sum(sizes) > width:
        sizes = columns(cells_only)
    room = width - 2 - sum(sizes) + 1
    names = min(room, longest + 2)
    names = max(names, len(heads[0]) + 1)
    cells = "".join(head.ljust(size) for head, size in zip(heads[1:], sizes, strict=True))
    yield ink(f"  {heads[0].ljust(names)}{cells}".rstrip(), Tone.DIM)
    for entry, row in zip(report.entries, rows, strict=True):
        yield from _entry_lines(entry, row, names, sizes, report.at, width, ink)


def _entry_lines(
    entry: EntryStatus, row: Sequence[str], names: int, sizes: Sequence[int], now: datetime, width: int, ink: Ink
) -> Iterator[str]:
    word = entry.state
    cells = [worded(word, ink, sizes[0])]
    slow = _is_slow(entry)
    for index, size in enumerate(sizes[1:], 2):
        cell = row[index].ljust(size)
        cells.append(ink(cell, Tone.WARN) if slow and index == 3 else cell)
    name = entry.entry
    if len(name) >= names:  # a name is to be typed, so it is never cut
        yield f"{symbol(word, ink)} {name}"
        yield f"  {' ' * names}{''.join(cells).rstrip()}"
    else:
        yield f"{symbol(word, ink)} {name.ljust(names)}{''.join(cells).rstrip()}"
    if entry.why and entry.severity is not Severity.ERROR:
        yield from _tinted(wrapped(entry.why, width, "    ", "    "), ink, Tone.DIM)
    pause = _pause(entry, now)
    if pause and entry.pause is not None and entry.pause.why not in entry.why:
        yield from _tinted(wrapped(f"paused {pause}", width, "    ", "    "), ink, Tone.WARN)


def _row(entry: EntryStatus, now: datetime) -> tuple[str, ...]:
    run, duration = entry.shown_run, ""
    when = "" if run is None else ago(run.finished_at or run.queued_at, now)
    if entry.active_run is not None:
        started = entry.active_run.started_at or entry.active_run.queued_at
        when = f"for {rough_text(now - started)}"
    elif run is not None and run.duration is not None:
        duration = duration_text(run.duration)
    if entry.typical_duration is not None:
        duration = f"{duration} (~{duration_text(entry.typical_duration)})".strip()
    return entry.entry, entry.state.replace("_", " "), when, duration, _due(entry, now)


def _due(entry: EntryStatus, now: datetime) -> str:
    if not entry.enabled:
        return "–"
    if entry.next_due_at is None:
        return "by hand" if entry.schedule in ("", "only by hand", "by hand") else "never again"
    return f"{short_local(entry.next_due_local, entry.next_due_at, now)} ({rough_text(entry.next_due_at - now)})"


def short_local(local: str, at: datetime, now: datetime) -> str:
    """`Sun 04:00 CET` within six days, else `28 Dec 01:00 CET`; the year only when it is another one."""
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
    run = entry.last_worked
    if run is None or run.duration is None or entry.typical_duration is None or entry.active_run is not None:
        return False
    return run.duration > max(entry.typical_duration * SLOW, timedelta(seconds=5))


def _pause(entry: EntryStatus, now: datetime) -> str:
    pause = entry.pause
    if pause is None:
        return ""
    until = "until somebody unpauses it" if pause.until is None else f"until {utc_minute(pause.until)}"
    return f"by {pause.by or 'somebody'} {ago(pause.since, now)}, {until}: {pause.why or 'no reason given'}"


def _tail(report: StatusReport, width: int, ink: Ink) -> Iterator[str]:
    if report.remarks:
        yield ""
        for remark in report.remarks:
            yield from _tinted(wrapped(f"remark: {remark}", width, hanging="  "), ink, Tone.DIM)
    if report.locks:
        yield ""
        for lock in report.locks:
            text = (
                f'lock "{lock.lock}" ({lock.mode}) held by run {lock.run_id} ({lock.entry}, step {lock.step}) '
                f"on {lock.node} for {rough_text(report.at - lock.since)}"
            )
            yield from _tinted(wrapped(text, width, hanging="  "), ink, Tone.DIM)
    if len(report.nodes) > 1:
        yield ""
        for node in report.nodes:
            text = f"node {node.name}: seen {ago(node.seen_at, report.at)}, maintd {node.version}, {node.slots} slots"
            yield from _tinted(wrapped(text, width, hanging="  "), ink, Tone.DIM)


def _tinted(lines: Iterator[str], ink: Ink, tone: Tone) -> Iterator[str]:
    return (ink(line, tone) for line in lines)
