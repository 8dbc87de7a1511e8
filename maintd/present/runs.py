"""Runs as text: one line of the history, or one run with all its evidence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from maintd.model.entry import overlay_texts
from maintd.model.evidence import Artifact, Change, ChangeState, Check, CheckStatus, Measure
from maintd.model.run import (
    Attempt,
    AttemptState,
    LinkKind,
    Run,
    RunLink,
    RunState,
    RunSummary,
    SkipReason,
    Step,
    Trigger,
)
from maintd.present.text import (
    WIDTH,
    Style,
    Tone,
    ago,
    column_widths,
    from_now,
    state_text,
    symbol,
    utc_minute,
    utc_second,
    wrap,
)
from maintd.units import duration_text, format_size, plural, value_text

MOST_SHOWN = 20
"""Changes and measures shown for one attempt; `--json` prints all."""


def exit_code_of(state: RunState) -> int:
    """The exit code of a command that waited for a run: 0 succeeded or warned, 124 timed out, 1 otherwise."""
    if state in (RunState.SUCCEEDED, RunState.WARNED):
        return 0
    return 124 if state is RunState.TIMED_OUT else 1


def runs_text(runs: Sequence[RunSummary], *, now: datetime, width: int = WIDTH, colour: bool = False) -> str:
    """A page of the history, newest first."""
    if not runs:
        return "no runs\n"
    return "\n".join(runs_lines(runs, now, width, Style(colour))) + "\n"


def runs_lines(
    runs: Sequence[RunSummary], now: datetime, width: int, style: Style, *, with_entry: bool = True
) -> Iterator[str]:
    """One line per run, followed by the reason unless the run succeeded."""
    rows = [_row(run, now, with_entry) for run in runs]
    sizes = column_widths(rows, gap=2)
    for run, row in zip(runs, rows, strict=True):
        cells = [cell.ljust(size) for cell, size in zip(row, sizes, strict=True)]
        cells[1] = state_text(run.state, style, sizes[1])
        line = "".join(cells).rstrip()
        bare = sum(sizes[:-1]) + len(row[-1]) + 2
        if bare > width and len(row) > 3:  # the last column gets its own line
            yield f"{symbol(run.state, style)} {''.join(cells[:-1]).rstrip()}"
            yield from wrap(row[-1], width, "    ")
        else:
            yield f"{symbol(run.state, style)} {line}"
        reason = _why(run)
        if reason:
            yield from (style(line, Tone.DIM) for line in wrap(reason, width, "    ", "    "))


def _row(run: RunSummary, now: datetime, with_entry: bool) -> tuple[str, ...]:
    when = from_now(run.not_before, now) if run.state is RunState.QUEUED else ago(_at(run), now)
    duration = "" if run.skip_reason is not None else took_text(run)
    duration = f"took {duration}" if duration else ""
    due = "" if run.due_at is None else f"due {run.due_at.astimezone(UTC):%Y-%m-%d %H:%M}Z"
    kind = "" if run.trigger is Trigger.SCHEDULE else run.trigger.replace("_", " ")
    kind += f" by {run.requested_by}" if run.requested_by else ""
    kind += " (EMERGENCY)" if run.emergency else ""
    due = ", ".join(part for part in (kind, due, "dry run" if run.dry_run else "") if part)
    name = (run.entry,) if with_entry else ()
    return (str(run.id), run.state.replace("_", " "), *name, when, duration, due)


def took_text(run: RunSummary) -> str:
    """`12m 5s, and 3h at gates`; empty for a run that has not ended or never started."""
    if run.duration is None:
        return ""
    return duration_text(run.duration) + (f", and {duration_text(run.waited)} at gates" if run.waited else "")


def emergency_text(run: RunSummary) -> str:
    """`EMERGENCY, run 12: triggered in an emergency by ada: …`; empty without the mark."""
    return f"EMERGENCY, run {run.id}: {run.emergency}" if run.emergency else ""


def start_text(run: RunSummary, now: datetime) -> str:
    """Of an unfinished run: `started 3m ago`, `starts in 5m`, `45s late`."""
    if run.started_at is not None:
        return f"started {ago(run.started_at, now)}"
    text = from_now(run.not_before, now)
    return text if text.endswith("late") else f"starts {text}"


def _at(run: RunSummary) -> datetime:
    return run.started_at or run.finished_at or run.queued_at


def _why(run: RunSummary) -> str:
    reason = "" if run.state is RunState.SUCCEEDED else skip_text(run.skip_reason, run.reason)
    return "; ".join(part for part in (reason, f"why: {run.why}" if run.why else "") if part)


def skip_text(skip_reason: SkipReason | None, reason: str) -> str:
    """`overlap: run 3 has been running since …`; the reason alone if it starts with the word, or without one."""
    word = "" if skip_reason is None else skip_reason.replace("_", " ")
    return reason if reason.startswith(word) and reason else ": ".join(part for part in (word, reason) if part)


def run_text(run: Run, *, now: datetime, width: int = WIDTH, colour: bool = False) -> str:
    """One run: its origin, its result and the evidence of each step."""
    style = Style(colour)
    head = f"run {run.id}" if run.id else "run"
    lines = [
        f"{symbol(run.state, style)} {style(f'{head} of {run.entry}', Tone.STRONG)}: {state_text(run.state, style)}"
    ]
    for name, text in _facts(run, now):
        if text:
            lines += wrap(text, width, f"  {name:12} ", " " * 15)
    for step in run.steps:
        lines += ["", *step_lines(step, now, width, style)]
        lines += decision_lines(run, step, width)
    if run.handed:
        lines += ["", "handed over to later steps"]
        for value in run.handed:
            text = json.dumps(value.value, ensure_ascii=False)
            lines += wrap(f"{value.name} = {text} (by {run.plan[value.step].name})", width, "    ", "      ")
    return "\n".join(lines) + "\n"


def _facts(run: Run, now: datetime) -> Iterator[tuple[str, str]]:
    yield "title", run.title if run.title != run.entry else ""
    yield "trigger", run.trigger.replace("_", " ") + (", dry run" if run.dry_run else "")
    yield "due", "" if run.due_at is None else utc_minute(run.due_at)
    by = run.requested_by
    yield "requested by", f"{by}: {run.why}" if by and run.why else by or run.why
    yield "EMERGENCY", run.emergency
    yield "started", "" if run.started_at is None else f"{utc_second(run.started_at)}, {ago(run.started_at, now)}"
    if run.state is RunState.QUEUED and run.not_before > now:
        yield "starts", f"not before {utc_second(run.not_before)}, {ago(run.not_before, now)}"
    yield "duration", took_text(run)
    yield "node", run.node or ""
    for link in run.links:
        yield "see also", link_text(run, link)
    yield "held", "its locks are kept until it is resumed, undone or released" if run.held else ""
    shown_below = any(run.reason in (step.reason, *(tried.reason for tried in step.attempts)) for step in run.steps)
    yield "reason", skip_text(run.skip_reason, "" if shown_below else run.reason)
    yield "cancel", "" if run.state.final or not run.cancel_requested else f"requested by {run.cancel_requested}"
    yield "params", ", ".join(f"{name}={value}" for name, value in run.params.items())
    for text in overlay_texts(run.plan):
        yield "overlay", text


_LINKS = {
    LinkKind.RESUMES: ("it resumes run {}", "run {} resumed it"),
    LinkKind.UNDOES: ("it undoes run {}", "run {} undid it, or tried"),
    LinkKind.AFTER_FAILURE_OF: ("the failure of run {} triggered it", "its failure triggered run {}"),
}


def link_text(run: Run, link: RunLink) -> str:
    """How a run follows from another one, or another one from it."""
    follows, followed = _LINKS[link.kind]
    return follows.format(link.other_run_id) if link.run_id == run.id else followed.format(link.run_id)


def step_lines(step: Step, now: datetime, width: int, style: Style) -> Iterator[str]:
    """A step with the evidence of its attempts, oldest first."""
    duration = ""
    if step.started_at is not None:
        word = "for" if step.finished_at is None else "in"
        duration = f" {word} {duration_text((step.finished_at or now) - step.started_at)}"
    job = "" if step.job in ("", step.name) else f" ({step.job})"
    always = ", always" if step.always else ""
    name = style(step.name, Tone.STRONG)
    title = f"{'' if step.gate is not None else 'step '}{name}{job}{always}"
    yield f"{symbol(step.state, style)} {title}: {state_text(step.state, style)}{duration}"
    last = step.attempts[-1].reason if step.attempts else ""
    if step.reason and step.reason != last:
        yield from wrap(step.reason, width, "    ", "    ")
    for attempt in step.attempts:
        if len(step.attempts) > 1:
            yield f"  attempt {attempt.number}: {state_text(attempt.state, style)}"
        yield from attempt_lines(
            attempt, width, style, after=None if attempt is step.attempts[-1] else step.attempts[-1]
        )


def decision_lines(run: Run, step: Step, width: int) -> Iterator[str]:
    """What happened at a gate: `· Sun 2026-12-06 02:01 UTC: item 1 ticked by ada (token from 10.0.0.7): by phone`."""
    for one in run.decisions:
        if one.step != step.index:
            continue
        item = "" if one.item is None else f"item {one.item} "
        origin = f" ({one.origin})" if one.origin else ""
        mark = ", EMERGENCY" if one.emergency else ""
        text = f"· {utc_minute(one.at)}: {item}{one.kind.replace('_', ' ')} by {one.by}{origin}{mark}"
        yield from wrap(f"{text}: {one.note}" if one.note else text, width, "    ", "      ")


def attempt_lines(attempt: Attempt, width: int, style: Style, after: Attempt | None = None) -> Iterator[str]:
    """The evidence of one attempt: its reason, checks, changes, measures, artifacts.

    Of an attempt with another one after it, only the checks that the last one does not repeat, and no measures.
    """
    if attempt.reason:
        yield from wrap(attempt.reason, width, "    ", "    ")
    stopped = attempt.state in (AttemptState.TIMED_OUT, AttemptState.CANCELLED, AttemptState.LOST)
    if stopped and attempt.phase and attempt.phase not in attempt.reason:
        yield from wrap(f'ended in phase "{attempt.phase}"', width, "    ", "    ")
    if attempt.state == "running" and attempt.phase:
        yield from wrap(f"now: {attempt.phase}", width, "    ", "    ")
    if attempt.state is AttemptState.SUCCEEDED and not attempt.checks:
        yield "    0 checks"
    if attempt.checks:
        passed = sum(check.status is CheckStatus.OK for check in attempt.checks)
        yield f"    {plural(len(attempt.checks), 'check')}, {passed} passed"
        repeated = set() if after is None else {(check.name, check.status) for check in after.checks}
        shown = [check for check in causes_first(attempt.checks) if (check.name, check.status) not in repeated]
        if after is not None and len(shown) < len(attempt.checks):
            text = f"{len(attempt.checks) - len(shown)} as in attempt {after.number}; all are in --json"
            yield from wrap(text, width, "    ", "    ")
        for check in shown:
            yield from check_lines(check, width, style, "      " if check.because else "    ")
    if attempt.changes:
        counts = Counter(change.state for change in attempt.changes)
        found = ", ".join(f"{counts[state]} {state.value}" for state in ChangeState if counts[state])
        yield f"    {plural(len(attempt.changes), 'change')}: {found}"
        for change in attempt.changes[:MOST_SHOWN]:
            yield from wrap(change_text(change), width, "    ", "      ")
        if len(attempt.changes) > MOST_SHOWN:
            yield f"    … and {len(attempt.changes) - MOST_SHOWN} more, see --json"
    if attempt.measures and after is None:
        yield f"    {plural(len(attempt.measures), 'measure')}"
        for measure in attempt.measures[:MOST_SHOWN]:
            yield from wrap(measure_text(measure), width, "      ", "        ")
        if len(attempt.measures) > MOST_SHOWN:
            yield f"      … and {len(attempt.measures) - MOST_SHOWN} more, see --json"
    for artifact in attempt.artifacts:
        yield from wrap(artifact_text(artifact), width, "    ", "      ")
    if attempt.log_lines:
        dropped = f", {attempt.log_lines_left_out:,} omitted" if attempt.log_lines_left_out else ""
        yield style(f"    {plural(attempt.log_lines, 'log line')}{dropped}", Tone.DIM)


def causes_first(checks: Sequence[Check]) -> list[Check]:
    """The checks in their order, each that follows from another one below it."""
    names = {check.name for check in checks}
    below: dict[str, list[Check]] = {}
    for check in checks:
        if check.because in names and check.because != check.name:
            below.setdefault(check.because, []).append(check)
    ordered: list[Check] = []

    def add(check: Check) -> None:
        ordered.append(check)
        for symptom in below.pop(check.name, ()):
            add(symptom)

    for check in checks:
        if check.because not in names or check.because == check.name:
            add(check)
    return ordered + [check for left in below.values() for check in left]


def check_lines(check: Check, width: int, style: Style, indent: str = "    ") -> Iterator[str]:
    """A check: observed and expected value, and the hint unless it passed."""
    word = "" if check.status is CheckStatus.OK else f"{check.status.value}: "
    shown = f"{check.status.value}, not required: " if check.not_required else word
    observed = value_text(check.observed, check.unit)
    text = f"{shown}{check.name}: {observed.removeprefix(word) or observed}"
    if check.expected:
        text += f" ({check.expectation})"
    first, *more = wrap(text, width - len(indent) - 2)
    yield f"{indent}{symbol(check.status.value, style)} {first}"
    yield from (f"{indent}  {line}" for line in more)
    if check.because:
        yield from wrap(f"follows from: {check.because}", width, f"{indent}  ", f"{indent}    ")
    elif check.hint and check.status is not CheckStatus.OK:
        yield from wrap(check.hint, width, f"{indent}  → ", f"{indent}    ")
    if check.rule and check.status is not CheckStatus.OK:
        lines = wrap(f"rule: {check.rule}", width, f"{indent}  ", f"{indent}    ")
        yield from (style(line, Tone.DIM) for line in lines)


def change_text(change: Change) -> str:
    """`· delete /var/log/x (bytes 1.2 MiB)`; what was not done begins with its state and ends with the cause."""
    details = ", ".join(
        f"{name} {value_text(value, 'B' if name == 'bytes' else '')}" for name, value in change.details.items()
    )
    word = "" if change.done else f"{_CHANGE_WORDS[change.state]} "
    text = f"· {word}{change.action} {change.target}" + (f" ({details})" if details else "")
    return f"{text}: {change.cause}" if change.cause else text


_CHANGE_WORDS = {
    ChangeState.PLANNED: "would",
    ChangeState.INTENDED: "under way:",
    ChangeState.REFUSED: "✗ refused:",
    ChangeState.FAILED: "✗ failed:",
    ChangeState.UNCERTAIN: "? uncertain:",
}


def measure_text(measure: Measure) -> str:
    """`backup_bytes{archive=tar}: 1.2 GiB`."""
    labels = ",".join(f"{name}={value}" for name, value in measure.labels.items())
    return f"{measure.name}{f'{{{labels}}}' if labels else ''}: {value_text(measure.value, measure.unit)}"


def artifact_text(artifact: Artifact) -> str:
    """`artifact report.html (12.0 KiB, sha256 0123456789ab…)`."""
    return f"artifact {artifact.name} ({format_size(artifact.size_bytes)}, sha256 {artifact.sha256[:12]}…)"
