"""A run written down in memory as it goes, for whoever watches, and handed on to the store where there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from maintd.executor.means import Writes
from maintd.model.evidence import Artifact, Change, Check, LogLine, LogTrim, Measure, Phase, Progress, Report
from maintd.model.run import Attempt, AttemptState, Run, RunState, Step, StepState
from maintd.model.run_updates import (
    AttemptFinished,
    AttemptReported,
    AttemptStarted,
    RunFinished,
    RunRequeued,
    RunUpdate,
    StepFinished,
    StepStarted,
    StepWaiting,
)

Told = Callable[[int, int, Any], None]

_LISTS: dict[type[Any], str] = {Check: "checks", Measure: "measures", Change: "changes", Artifact: "artifacts"}


class Notebook:
    """Takes a supervisor's writes; `run` is the run with all of them folded in. Used by one thread."""

    def __init__(self, run: Run, further: Writes | None, told: Told) -> None:
        """`told` gets each write and each item of evidence, with the step's index and the attempt's number."""
        self._run = run
        self._further = further
        self._told = told
        self._steps: dict[int, dict[str, Any]] = {}
        self._attempts: dict[tuple[int, int], dict[str, Any]] = {}
        self._end: dict[str, Any] = {}

    @property
    def full(self) -> bool:
        """See `Writes`."""
        return self._further is not None and self._further.full

    def add(self, *writes: RunUpdate, soon: bool = True) -> None:
        """See `Writes`."""
        if self._further is not None:
            self._further.add(*writes, soon=soon)
        for write in writes:
            self._take(write)

    def run(self) -> Run:
        """The run as it stands now."""
        steps = tuple(self._step(index) for index in range(len(self._run.plan)))
        return self._run.model_copy(update={"steps": steps, "lease_until": None, **self._end})

    def _take(self, write: RunUpdate) -> None:
        match write:
            case StepStarted():
                self._steps[write.step] = {"state": StepState.RUNNING, "started_at": write.at}
            case StepWaiting():
                self._steps.setdefault(write.step, {})["reason"] = write.reason
            case StepFinished():
                ended = {"state": write.state, "reason": write.reason, "finished_at": write.at}
                self._steps.setdefault(write.step, {}).update(ended)
            case AttemptStarted():
                self._attempts[write.step, write.attempt] = {
                    "number": write.attempt,
                    "state": AttemptState.RUNNING,
                    "started_at": write.at,
                    "pid": write.pid,
                }
            case AttemptFinished():
                ended = write.model_dump(include={"state", "reason", "exit_code", "signal"})
                self._attempts[write.step, write.attempt].update(ended | {"finished_at": write.at})
            case AttemptReported():
                self._report(write.step, write.attempt, write.items)
                return
            case RunFinished():
                self._end = {
                    "state": write.state,
                    "reason": write.reason,
                    "skip_reason": write.skip_reason,
                    "finished_at": write.at,
                }
                return
            case RunRequeued():
                self._end = {"state": RunState.QUEUED, "reason": write.reason}
                return
        self._told(write.step, getattr(write, "attempt", 0), write)

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
                case _:
                    attempt.setdefault(_LISTS[type(item)], []).append(item)
            self._told(step, number, item)

    def _step(self, index: int) -> Step:
        plan = self._run.plan[index]
        known: dict[str, Any] = {"state": StepState.PENDING, **self._steps.get(index, {})}
        return Step(
            index=index,
            name=plan.name,
            job=plan.job,
            params=plan.params,
            always=plan.always,
            attempts=tuple(
                Attempt(**columns) for (step, _), columns in sorted(self._attempts.items()) if step == index
            ),
            **known,
        )


def _count(columns: dict[str, Any], name: str, by: int) -> None:
    columns[name] = columns.get(name, 0) + by
