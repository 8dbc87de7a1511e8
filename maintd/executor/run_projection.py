"""A run as it is now, built in memory from the updates of its supervisor, for `maintd run NAME --here`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from maintd.model.evidence import (
    Artifact,
    Change,
    ChangeState,
    Check,
    Handed,
    LogLine,
    LogTrim,
    Measure,
    Phase,
    Progress,
    Report,
)
from maintd.model.run import Attempt, AttemptState, HandedValue, Run, RunState, Step, StepState
from maintd.model.run_updates import (
    AttemptFinished,
    AttemptReported,
    AttemptStarted,
    RunFinished,
    RunRequeued,
    RunUpdate,
    RunWaiting,
    StepFinished,
    StepStarted,
    StepWaiting,
)

OnReport = Callable[[int, int, Any], None]

_LISTS: dict[type[Any], str] = {Check: "checks", Measure: "measures", Change: "changes", Artifact: "artifacts"}


class RunProjection:
    """Applies updates in order; `run` is the result. Used by one thread."""

    def __init__(self, run: Run, on_report: OnReport) -> None:
        """`on_report` is called with the step's index, the attempt's number, and the update or item of evidence."""
        self._run = run
        self._on_report = on_report
        self._steps: dict[int, dict[str, Any]] = {}
        self._attempts: dict[tuple[int, int], dict[str, Any]] = {}
        self._handed: dict[str, HandedValue] = {}
        self._end: dict[str, Any] = {}

    def run(self) -> Run:
        """Return the run as it is now."""
        steps = tuple(self._step(index) for index in range(len(self._run.plan)))
        handed = tuple(self._handed[name] for name in sorted(self._handed))
        return self._run.model_copy(update={"steps": steps, "handed": handed, "lease_until": None, **self._end})

    def apply(self, update: RunUpdate) -> None:
        """Apply the next update."""
        match update:
            case StepStarted():
                self._steps[update.step] = {"state": StepState.RUNNING, "started_at": update.at}
            case RunWaiting():
                waiting = {"state": StepState.WAITING, "started_at": update.at, "reason": update.reason}
                self._steps[update.step] = waiting
                self._end = {"state": RunState.WAITING, "reason": update.reason, "waiting_until": update.until}
            case StepWaiting():
                self._steps.setdefault(update.step, {})["reason"] = update.reason
            case StepFinished():
                ended = {"state": update.state, "reason": update.reason, "finished_at": update.at}
                self._steps.setdefault(update.step, {}).update(ended)
            case AttemptStarted():
                self._attempts[update.step, update.attempt] = {
                    "number": update.attempt,
                    "state": AttemptState.RUNNING,
                    "started_at": update.at,
                    "pid": update.pid,
                }
            case AttemptFinished():
                ended = update.model_dump(include={"state", "reason", "exit_code", "signal", "complete"})
                self._attempts[update.step, update.attempt].update(ended | {"finished_at": update.at})
            case AttemptReported():
                self._report(update.step, update.attempt, update.items)
                return
            case RunFinished():
                self._end = {
                    "state": update.state,
                    "reason": update.reason,
                    "skip_reason": update.skip_reason,
                    "finished_at": update.at,
                }
                return
            case RunRequeued():
                self._end = {"state": RunState.QUEUED, "reason": update.reason}
                return
        self._on_report(update.step, getattr(update, "attempt", 0), update)

    def _report(self, step: int, number: int, items: Sequence[Report]) -> None:
        attempt = self._attempts[step, number]
        for item in items:
            match item:
                case Phase():
                    attempt["phase"] = item.name
                case Progress():
                    attempt["progress"] = item
                case LogLine():
                    _count(attempt, "log_lines", 1)
                    _count(attempt, "log_bytes", len(item.text.encode(errors="replace")))
                case LogTrim():
                    _count(attempt, "log_lines_left_out", item.last - item.first + 1)
                case Handed():
                    self._handed[item.name] = HandedValue(name=item.name, value=item.value, step=step, at=item.at)
                case Change() if item.number and item.state is not ChangeState.INTENDED:
                    _resolve(attempt.setdefault("changes", []), item)
                case _:
                    attempt.setdefault(_LISTS[type(item)], []).append(item)
            self._on_report(step, number, item)

    def _step(self, index: int) -> Step:
        plan = self._run.plan[index]
        known: dict[str, Any] = {"state": StepState.PENDING, **self._steps.get(index, {})}
        return Step(
            index=index,
            name=plan.name,
            job=plan.job,
            params=plan.params,
            always=plan.always,
            gate=plan.gate,
            undoes=plan.undoes,
            attempts=tuple(
                Attempt(**columns) for (step, _), columns in sorted(self._attempts.items()) if step == index
            ),
            **known,
        )


def _resolve(changes: list[Change], change: Change) -> None:
    """Put what became of a change in the place of what was intended."""
    for place in range(len(changes) - 1, -1, -1):
        if changes[place].number == change.number:
            changes[place] = change
            return
    changes.append(change)


def _count(columns: dict[str, Any], name: str, by: int) -> None:
    columns[name] = columns.get(name, 0) + by
