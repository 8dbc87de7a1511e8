"""A run in progress: what has changed since the last call, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from maintd.model.evidence import Artifact, Change, ChangeState, Check, LogLine, Phase, Progress
from maintd.model.run import Attempt, AttemptState, Run, RunState, StepState
from maintd.model.run_updates import AttemptFinished, AttemptStarted, StepFinished, StepStarted
from maintd.present.runs import artifact_text, change_text, check_lines, emergency_text
from maintd.present.text import WIDTH, Style, Tone, printable, state_text, symbol, wrap
from maintd.units import duration_text, plural_noun, value_text


class LiveRun:
    """Prints what is new in a run that is read repeatedly. Remembers only what it has printed."""

    def __init__(self, *, width: int = WIDTH, colour: bool = False) -> None:
        self._width = width
        self._ink = Style(colour)
        self._state: RunState | None = None
        self._reason = ""
        self._emergency = ""
        self._shown: dict[tuple[int, int], tuple[int, int, int, str]] = {}
        self._started: set[tuple[int, int]] = set()
        self._ended: set[int] = set()

    def new_lines(self, run: Run) -> Iterator[str]:
        """Lines for what happened since the last call."""
        if run.state is not self._state or run.reason != self._reason:
            if not run.state.final and (run.state is not RunState.RUNNING or self._state is not RunState.RUNNING):
                reason = f": {run.reason}" if run.reason else ""
                yield from wrap(f"run {run.id} of {run.entry} is {run.state}{reason}", self._width)
            self._state, self._reason = run.state, run.reason
        if run.emergency != self._emergency:
            self._emergency = run.emergency
            yield from (self._ink(line, Tone.WARN) for line in wrap(emergency_text(run), self._width))
        for step in run.steps:
            for attempt in step.attempts:
                key = (step.index, attempt.number)
                if key not in self._started:
                    self._started.add(key)
                    yield started_text(step.name, attempt.number, self._ink)
                yield from self._evidence(key, attempt)
            if step.finished_at is not None and step.index not in self._ended and step.attempts:
                self._ended.add(step.index)
                yield from ended_lines(step.name, step.state, step.reason, self._width, self._ink)

    def activity(self, run: Run) -> str:
        """What the run is doing now, on one line: `copy 25/30 files (83 %), 2.0/s`; empty if unknown."""
        for step in run.steps:
            for attempt in step.attempts:
                if attempt.state == "running":
                    parts = [attempt.phase, "" if attempt.progress is None else progress_text(attempt.progress)]
                    return " ".join(part for part in parts if part)[: self._width - 3]
        return ""

    def _evidence(self, key: tuple[int, int], attempt: Attempt) -> Iterator[str]:
        checks, changes, artifacts, phase = self._shown.get(key, (0, 0, 0, ""))
        if attempt.phase and attempt.phase != phase:
            yield phase_text(attempt.phase, self._ink)
        for check in attempt.checks[checks:]:
            yield from check_lines(check, self._width, self._ink)
        for change in attempt.changes[changes:]:
            if change.state is ChangeState.INTENDED and attempt.state is AttemptState.RUNNING:
                break  # shown once it is known what became of it
            changes += 1
            yield from wrap(change_text(change), self._width, "    ", "      ")
        for artifact in attempt.artifacts[artifacts:]:
            yield from wrap(artifact_text(artifact), self._width, "    ", "      ")
        self._shown[key] = (len(attempt.checks), changes, len(attempt.artifacts), attempt.phase)


def report_lines(step: str, attempt: int, item: object, *, width: int = WIDTH, colour: bool = False) -> Iterator[str]:
    """One report of a run in the foreground, as lines; nothing for a report that is not shown."""
    style = Style(colour)
    match item:
        case StepStarted():
            return
        case AttemptStarted():
            yield started_text(step, attempt, style)
        case Phase():
            yield phase_text(item.name, style)
        case Check():
            yield from check_lines(item, width, style)
        case Change() if item.state is not ChangeState.INTENDED:
            yield from wrap(change_text(item), width, "    ", "      ")
        case Artifact():
            yield from wrap(artifact_text(item), width, "    ", "      ")
        case LogLine():
            yield style(f"    {printable(item.text)}", Tone.DIM)
        case AttemptFinished() if item.reason:
            yield from wrap(item.reason, width, "    ", "    ")
        case StepFinished():  # the reason of an attempt is printed already
            reason = item.reason if item.state is StepState.SKIPPED else ""
            yield from ended_lines(step, item.state, reason, width, style)


def started_text(step: str, attempt: int, style: Style) -> str:
    """The line above the reports of a step."""
    again = f", attempt {attempt}" if attempt > 1 else ""
    return f"{symbol('running', style)} step {style(step, Tone.STRONG)}{again}"


def phase_text(phase: str, style: Style) -> str:
    """The line above the reports of a phase."""
    return style(f"  {printable(phase)}", Tone.DIM)


def ended_lines(step: str, state: str, reason: str, width: int, style: Style) -> Iterator[str]:
    """The result of a step."""
    yield f"{symbol(state, style)} step {step}: {state_text(state, style)}"
    if reason:
        yield from wrap(reason, width, "    ", "    ")


def progress_text(progress: Progress) -> str:
    """`25/30 files (83 %), 2.0/s, 3s left`; without a total `25 files, 2.0/s`; sizes as `1.2 GiB/3.0 GiB`."""
    done, total = progress.done, progress.total
    if progress.unit == "B":
        text = value_text(done, "B") + ("" if total is None else f"/{value_text(total, 'B')}")
        rate = "" if not progress.rate else f"{value_text(progress.rate, 'B')}/s"
    else:
        counted = done if total is None else total
        unit = progress.unit
        noun = unit if counted == 1 or not unit or unit.endswith("s") else plural_noun(unit)
        text = f"{_count(done)}{'' if total is None else f'/{_count(total)}'} {noun}".rstrip()
        rate = "" if not progress.rate else f"{progress.rate:,.1f}/s"
    if total:
        text += f" ({min(100, int(100 * done / total))} %)"
    left = "" if not progress.left else f"{duration_text(progress.left)} left"
    return ", ".join(part for part in (text, rate, left) if part)


def _count(number: float) -> str:
    return value_text(int(number) if number == int(number) else number)
