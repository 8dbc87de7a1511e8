"""A run while it goes on: what is new since the last look, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from maintd.model.evidence import Artifact, Change, Check, LogLine, Phase, Progress
from maintd.model.run import Attempt, Run, RunState, StepState
from maintd.model.run_updates import AttemptFinished, AttemptStarted, StepFinished, StepStarted
from maintd.present.runs import artifact_text, change_text, check_lines
from maintd.present.text import WIDTH, Ink, Tone, duration_text, printable, symbol, value_text, worded, wrapped


class LiveRun:
    """Tells what is new in a run that is read again and again. Holds only how far it has told."""

    def __init__(self, *, width: int = WIDTH, colour: bool = False) -> None:
        self._width = width
        self._ink = Ink(colour)
        self._state: RunState | None = None
        self._reason = ""
        self._told: dict[tuple[int, int], tuple[int, int, int, str]] = {}
        self._begun: set[tuple[int, int]] = set()
        self._ended: set[int] = set()

    def news(self, run: Run) -> Iterator[str]:
        """Lines about what happened since the last call."""
        if run.state is not self._state or run.reason != self._reason:
            if not run.state.final and (run.state is not RunState.RUNNING or self._state is not RunState.RUNNING):
                reason = f": {run.reason}" if run.reason else ""
                yield from wrapped(f"run {run.id} of {run.entry} is {run.state}{reason}", self._width)
            self._state, self._reason = run.state, run.reason
        for step in run.steps:
            for attempt in step.attempts:
                key = (step.index, attempt.number)
                if key not in self._begun:
                    self._begun.add(key)
                    yield began_text(step.name, attempt.number, self._ink)
                yield from self._evidence(key, attempt)
            if step.finished_at is not None and step.index not in self._ended and step.attempts:
                self._ended.add(step.index)
                yield from ended_lines(step.name, step.state, step.reason, self._width, self._ink)

    def doing(self, run: Run) -> str:
        """What it does at this moment, on one line that the next one replaces; empty when nothing is known."""
        for step in run.steps:
            for attempt in step.attempts:
                if attempt.state == "running":
                    parts = [attempt.phase, "" if attempt.progress is None else progress_text(attempt.progress)]
                    return ", ".join(part for part in parts if part)[: self._width - 3]
        return ""

    def _evidence(self, key: tuple[int, int], attempt: Attempt) -> Iterator[str]:
        checks, changes, artifacts, phase = self._told.get(key, (0, 0, 0, ""))
        if attempt.phase and attempt.phase != phase:
            yield phase_text(attempt.phase, self._ink)
        for check in attempt.checks[checks:]:
            yield from check_lines(check, self._width, self._ink)
        for change in attempt.changes[changes:]:
            yield from wrapped(change_text(change), self._width, "    ", "      ")
        for artifact in attempt.artifacts[artifacts:]:
            yield from wrapped(artifact_text(artifact), self._width, "    ", "      ")
        self._told[key] = (len(attempt.checks), len(attempt.changes), len(attempt.artifacts), attempt.phase)


def report_lines(step: str, attempt: int, item: object, *, width: int = WIDTH, colour: bool = False) -> Iterator[str]:
    """One thing that happened in a run that goes on in the foreground, as lines; nothing for what is not shown."""
    ink = Ink(colour)
    match item:
        case StepStarted():
            return
        case AttemptStarted():
            yield began_text(step, attempt, ink)
        case Phase():
            yield phase_text(item.name, ink)
        case Check():
            yield from check_lines(item, width, ink)
        case Change():
            yield from wrapped(change_text(item), width, "    ", "      ")
        case Artifact():
            yield from wrapped(artifact_text(item), width, "    ", "      ")
        case LogLine():
            yield ink(f"    {printable(item.text)}", Tone.DIM)
        case AttemptFinished() if item.reason:
            yield from wrapped(item.reason, width, "    ", "    ")
        case StepFinished():  # its attempt has told the reason, if there was one
            reason = item.reason if item.state is StepState.SKIPPED else ""
            yield from ended_lines(step, item.state, reason, width, ink)


def began_text(step: str, attempt: int, ink: Ink) -> str:
    """The line above what a step reports."""
    again = f", attempt {attempt}" if attempt > 1 else ""
    return f"{symbol('running', ink)} step {ink(step, Tone.STRONG)}{again}"


def phase_text(phase: str, ink: Ink) -> str:
    """The line above what is done in a phase."""
    return ink(f"  {printable(phase)}", Tone.DIM)


def ended_lines(step: str, state: str, reason: str, width: int, ink: Ink) -> Iterator[str]:
    """How a step ended."""
    yield f"{symbol(state, ink)} step {step}: {worded(state, ink)}"
    if reason:
        yield from wrapped(reason, width, "    ", "    ")


def progress_text(progress: Progress) -> str:
    """`12 of 40 archives, 3 /s, 9s left`."""
    unit = progress.unit
    of = "" if progress.total is None else f" of {value_text(_whole(progress.total), unit)}"
    done = value_text(_whole(progress.done), "" if of and unit != "B" else unit)
    parts = [f"{done}{of}"]
    if progress.rate:
        parts.append(f"{value_text(progress.rate, unit if unit == 'B' else '')}/s")
    if progress.left is not None and progress.left > timedelta(0):
        parts.append(f"{duration_text(progress.left)} left")
    return ", ".join(parts)


def _whole(number: float) -> int | float:
    return int(number) if number == int(number) else number
