"""Runs for people: a line of the history, and one run with all its evidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from maintd.model.evidence import Artifact, Change, Check, CheckStatus, Measure
from maintd.model.run import Attempt, Run, RunState, RunSummary, Step, Trigger
from maintd.present.text import (
    WIDTH,
    Ink,
    Tone,
    ago,
    columns,
    duration_text,
    plural,
    symbol,
    utc_minute,
    utc_second,
    value_text,
    worded,
    wrapped,
)
from maintd.units import format_size

MOST_SHOWN = 20
"""So many changes of an attempt are shown; `--json` has them all."""


def exit_code_of(state: RunState) -> int:
    """What a command that waited for a run exits with: 0 when nothing failed, 124 timed out, 1 for any other end."""
    if state in (RunState.SUCCEEDED, RunState.WARNED):
        return 0
    return 124 if state is RunState.TIMED_OUT else 1


def runs_text(runs: Sequence[RunSummary], *, now: datetime, width: int = WIDTH, colour: bool = False) -> str:
    """A page of the history, newest first."""
    if not runs:
        return "no run\n"
    return "\n".join(runs_lines(runs, now, width, Ink(colour))) + "\n"


def runs_lines(
    runs: Sequence[RunSummary], now: datetime, width: int, ink: Ink, *, with_entry: bool = True
) -> Iterator[str]:
    """One line per run, and one more for the reason where it did not simply succeed."""
    rows = [_row(run, now, with_entry) for run in runs]
    sizes = columns(rows)
    for run, row in zip(runs, rows, strict=True):
        cells = [cell.ljust(size) for cell, size in zip(row, sizes, strict=True)]
        cells[1] = worded(run.state, ink, sizes[1])
        line = "".join(cells).rstrip()
        bare = sum(sizes[:-1]) + len(row[-1]) + 2
        if bare > width and len(row) > 3:  # the last column goes onto a line of its own
            yield f"{symbol(run.state, ink)} {''.join(cells[:-1]).rstrip()}"
            yield from wrapped(row[-1], width, "    ")
        else:
            yield f"{symbol(run.state, ink)} {line}"
        reason = _why(run)
        if reason:
            yield from (ink(line, Tone.DIM) for line in wrapped(reason, width, "    ", "    "))


def _row(run: RunSummary, now: datetime, with_entry: bool) -> tuple[str, ...]:
    at = run.started_at or run.finished_at or run.queued_at
    took = "" if run.duration is None else f"took {duration_text(run.duration)}"
    due = "" if run.due_at is None else f"due {run.due_at.astimezone(UTC):%Y-%m-%d %H:%M}Z"
    kind = "" if run.trigger is Trigger.SCHEDULE else run.trigger.replace("_", " ")
    kind += f" by {run.requested_by}" if run.requested_by else ""
    due = ", ".join(part for part in (kind, due, "dry run" if run.dry_run else "") if part)
    name = (run.entry,) if with_entry else ()
    return (str(run.id), run.state.replace("_", " "), *name, ago(at, now), took, due)


def _why(run: RunSummary) -> str:
    reason = run.reason
    if run.skip_reason is not None:
        word = run.skip_reason.replace("_", " ")
        reason = f"{word}: {reason}" if reason else word
    elif run.state is RunState.SUCCEEDED:
        reason = ""
    return "; ".join(part for part in (reason, f"why: {run.why}" if run.why else "") if part)


def run_text(run: Run, *, now: datetime, width: int = WIDTH, colour: bool = False) -> str:
    """One run: what it was for, how it ended, and the evidence of each step."""
    ink = Ink(colour)
    head = f"run {run.id}" if run.id else "run"
    lines = [f"{symbol(run.state, ink)} {ink(f'{head} of {run.entry}', Tone.STRONG)}: {worded(run.state, ink)}"]
    for name, text in _facts(run, now):
        if text:
            lines += wrapped(text, width, f"  {name:9} ", " " * 12)
    for step in run.steps:
        lines += ["", *step_lines(step, now, width, ink)]
    return "\n".join(lines) + "\n"


def _facts(run: Run, now: datetime) -> Iterator[tuple[str, str]]:
    yield "title", run.title if run.title != run.entry else ""
    yield "trigger", run.trigger.replace("_", " ") + (", dry run: nothing is changed" if run.dry_run else "")
    yield "due", "" if run.due_at is None else utc_minute(run.due_at)
    by = run.requested_by
    yield "asked by", f"{by}: {run.why}" if by and run.why else by or run.why
    yield "started", "" if run.started_at is None else f"{utc_second(run.started_at)}, {ago(run.started_at, now)}"
    if run.state is RunState.QUEUED and run.not_before > now:
        yield "starts", f"not before {utc_second(run.not_before)}, {ago(run.not_before, now)}"
    yield "took", "" if run.duration is None else duration_text(run.duration)
    yield "node", run.node or ""
    skipped = "" if run.skip_reason is None else run.skip_reason.replace("_", " ")
    told_below = any(run.reason in (step.reason, *(tried.reason for tried in step.attempts)) for step in run.steps)
    yield "reason", ": ".join(part for part in (skipped, "" if told_below else run.reason) if part)
    yield "cancel", "" if run.state.final or not run.cancel_requested else f"asked for: {run.cancel_requested}"
    yield "params", ", ".join(f"{name}={value}" for name, value in run.params.items())


def step_lines(step: Step, now: datetime, width: int, ink: Ink) -> Iterator[str]:
    """A step with its attempts; evidence of all attempts, the last one's last."""
    took = ""
    if step.started_at is not None:
        took = f" in {duration_text((step.finished_at or now) - step.started_at)}"
    job = "" if step.job == step.name else f" ({step.job})"
    always = ", always" if step.always else ""
    yield f"{symbol(step.state, ink)} step {ink(step.name, Tone.STRONG)}{job}{always}: {worded(step.state, ink)}{took}"
    last = step.attempts[-1].reason if step.attempts else ""
    if step.reason and step.reason != last:
        yield from wrapped(step.reason, width, "    ", "    ")
    for attempt in step.attempts:
        if len(step.attempts) > 1:
            yield f"  attempt {attempt.number}: {worded(attempt.state, ink)}"
        yield from attempt_lines(attempt, width, ink)


def attempt_lines(attempt: Attempt, width: int, ink: Ink) -> Iterator[str]:
    """The evidence of one try: its reason, checks, changes, measures, artifacts."""
    if attempt.reason:
        yield from wrapped(attempt.reason, width, "    ", "    ")
    ended_badly = attempt.state not in ("running", "succeeded", "warned")
    if ended_badly and attempt.phase and attempt.phase not in attempt.reason:
        yield from wrapped(f'stopped in phase "{attempt.phase}"', width, "    ", "    ")
    if attempt.state == "running" and attempt.phase:
        yield from wrapped(f"now: {attempt.phase}", width, "    ", "    ")
    if attempt.checks:
        met = sum(check.status is CheckStatus.OK for check in attempt.checks)
        yield f"    {plural(len(attempt.checks), 'check')}, {met} met"
        for check in attempt.checks:
            yield from check_lines(check, width, ink)
    if attempt.changes:
        done = sum(change.done for change in attempt.changes)
        yield f"    {plural(len(attempt.changes), 'change')}, {done} made"
        for change in attempt.changes[:MOST_SHOWN]:
            yield from wrapped(change_text(change), width, "    ", "      ")
        if len(attempt.changes) > MOST_SHOWN:
            yield f"    … and {len(attempt.changes) - MOST_SHOWN} more, see --json"
    if attempt.measures:
        yield f"    {plural(len(attempt.measures), 'measure')}"
        for measure in attempt.measures[:MOST_SHOWN]:
            yield from wrapped(measure_text(measure), width, "      ", "        ")
        if len(attempt.measures) > MOST_SHOWN:
            yield f"      … and {len(attempt.measures) - MOST_SHOWN} more, see --json"
    for artifact in attempt.artifacts:
        yield from wrapped(artifact_text(artifact), width, "    ", "      ")
    if attempt.log_lines:
        left_out = f", {attempt.log_lines_left_out} left out" if attempt.log_lines_left_out else ""
        yield ink(f"    {plural(attempt.log_lines, 'line')} of log{left_out}", Tone.DIM)


def check_lines(check: Check, width: int, ink: Ink, indent: str = "    ") -> Iterator[str]:
    """A check: what was seen against what was expected, and what to do when it is not met."""
    word = "" if check.status is CheckStatus.OK else f"{check.status.value}: "
    text = f"{word}{check.name}: {value_text(check.observed, check.unit)}"
    if check.expected:
        text += f" (expected {check.expected})"
    first, *more = wrapped(text, width - len(indent) - 2)
    yield f"{indent}{symbol(check.status.value, ink)} {first}"
    yield from (f"{indent}  {line}" for line in more)
    if check.hint and check.status is not CheckStatus.OK:
        yield from wrapped(check.hint, width, f"{indent}  → ", f"{indent}    ")


def change_text(change: Change) -> str:
    """`deleted /var/log/x (bytes 1.2 MiB)`, or `would …` in a dry run."""
    details = ", ".join(
        f"{name} {value_text(value, 'B' if name == 'bytes' else '')}" for name, value in change.details.items()
    )
    return f"{'·' if change.done else '· would'} {change.action} {change.target}" + (f" ({details})" if details else "")


def measure_text(measure: Measure) -> str:
    """`backup_bytes{archive=tar}: 1.2 GiB`."""
    labels = ",".join(f"{name}={value}" for name, value in measure.labels.items())
    return f"{measure.name}{f'{{{labels}}}' if labels else ''}: {value_text(measure.value, measure.unit)}"


def artifact_text(artifact: Artifact) -> str:
    """An artifact with its size and where it lies."""
    return f"artifact {artifact.name} ({format_size(artifact.size_bytes)}, sha256 {artifact.sha256[:12]}…)"
