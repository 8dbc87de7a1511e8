"""Checks that the store's record of each run is true, by the journal and the injected faults."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from endurance.journal import Line
from maintd.model.run import Attempt, AttemptState, Run, RunState, SkipReason, Step, StepState

GOOD = (AttemptState.SUCCEEDED, AttemptState.WARNED)
NEVER_GOOD = ("failing", "hanging", "crashing")
TIMEOUTS = {"hanging": 2.0}
"""Timeouts in seconds of jobs that nothing else ends sooner."""

Logs = Callable[[int, int, int], Sequence[str]]
"""Returns the log lines of an attempt, by run, step index and attempt."""

Key = tuple[int, str, int]


@dataclass(frozen=True)
class KnownFaults:
    """The injected faults that a reason may name."""

    killed: AbstractSet[int]  # pids of children that got SIGKILL from the injector
    paused: AbstractSet[str]  # entries
    steps: AbstractSet[float] = frozenset()  # seconds by which a clock was stepped; negative: back


def endings(runs: Sequence[Run], did: KnownFaults) -> Iterator[str]:
    """Every run ended; all except successes have a reason, and the reason is true."""
    known = {run.id: run for run in runs}
    for run in runs:
        if not run.state.final:
            yield f"run {run.id} ({run.entry}) is still {run.state}"
        elif run.state is RunState.SKIPPED:
            yield from _skipped(run, known, did)
        elif run.state not in (RunState.SUCCEEDED, RunState.WARNED) and not run.reason:
            yield f"run {run.id} ({run.entry}) is {run.state} without a reason"
        elif run.state is RunState.CANCELLED and not re.search(r"fault-injector|shutdown of node", run.reason):
            yield f"run {run.id} ({run.entry}) is cancelled without a cancel: {run.reason}"
        elif run.state is RunState.TIMED_OUT and "stopped after" not in run.reason:
            yield f"run {run.id} ({run.entry}) timed out without a timeout: {run.reason}"
        elif run.state is RunState.LOST and not re.search(r"stopped renewing|daemon ended", run.reason):
            yield f"run {run.id} ({run.entry}) is lost for an unknown reason: {run.reason}"
        if run.state is RunState.SUCCEEDED:
            for step in run.steps:
                if step.state is not StepState.SUCCEEDED:
                    yield f"run {run.id} succeeded with a step that is {step.state}"


def _skipped(run: Run, known: Mapping[int, Run], did: KnownFaults) -> Iterator[str]:
    text = f"run {run.id} ({run.entry}) is skipped: {run.skip_reason}: {run.reason}"
    if run.skip_reason is SkipReason.PAUSED:
        if run.entry not in did.paused or "paused by fault-injector" not in run.reason:
            yield f"{text}; no one paused it"
    elif run.skip_reason is SkipReason.OVERLAP:
        named = re.match(r"run (\d+) has been", run.reason)
        other = known.get(int(named[1])) if named else None
        if other is None or other.entry != run.entry or other.id == run.id:
            yield f"{text}; that is no other run of the entry"
    elif run.skip_reason is SkipReason.COALESCED:
        if "superseded by the run due at" not in run.reason:
            yield f"{text}; no run supersedes it"
    elif run.skip_reason in (SkipReason.MISSED, SkipReason.MISFIRE):
        if not re.search(r"after it was due", run.reason):
            yield f"{text}; it does not say how late"
    else:
        yield f"{text}; not caused here"


def evidence(runs: Sequence[Run], journal: Sequence[Line], logs: Logs, did: KnownFaults) -> Iterator[str]:
    """The store has exactly what the processes did and reported, and nothing else."""
    began: dict[Key, Line] = {(line.run, line.step, line.attempt): line for line in journal if line.what == "began"}
    ended: dict[Key, Line] = {(line.run, line.step, line.attempt): line for line in journal if line.what == "ended"}
    of_run = {run.id: run for run in runs}
    for key in began.keys() - {(run.id, s.name, a.number) for run in runs for s in run.steps for a in s.attempts}:
        # A killed daemon may not have recorded the start of the attempt; its run is then lost, or was lost before.
        if key[0] not in of_run:
            yield f"run {key[0]}: a process ran for it, and it does not exist"
        elif of_run[key[0]].state in (RunState.SUCCEEDED, RunState.WARNED, RunState.SKIPPED):
            yield f"run {key[0]}, {key[1]}: a process ran for attempt {key[2]}, which the store does not know"
    for run in runs:
        for step in run.steps:
            for attempt in step.attempts:
                key = (run.id, step.name, attempt.number)
                for what in _attempt(step, attempt, began.get(key), ended.get(key), did):
                    yield f"run {run.id} ({run.entry}), step {step.name}, attempt {attempt.number}: {what}"
                if key in ended and attempt.state is not AttemptState.LOST:
                    for what in _reported(attempt, ended[key], logs(run.id, step.index, attempt.number)):
                        yield f"run {run.id} ({run.entry}), step {step.name}, attempt {attempt.number}: {what}"


def _attempt(step: Step, attempt: Attempt, began: Line | None, ended: Line | None, did: KnownFaults) -> Iterator[str]:
    if attempt.state is AttemptState.RUNNING:
        yield "it is still running"
    if attempt.state in GOOD:
        if ended is None or not ended.returned:
            yield f"{attempt.state}, and no process came to its end"
        if step.job in NEVER_GOOD:
            yield f"{attempt.state}, which {step.job} never is"
        if not attempt.checks:
            yield f"{attempt.state} without a check"
        if step.job == "steady" and (len(attempt.measures), len(attempt.artifacts)) != (1, 1):
            yield f"{attempt.state} with {len(attempt.measures)} measures and {len(attempt.artifacts)} artifacts"
    elif not attempt.reason:
        yield f"{attempt.state} without a reason"
    if attempt.pid is not None and began is not None and attempt.pid != began.pid:
        yield f"the store has pid {attempt.pid}, the process was {began.pid}"
    was_killed = attempt.state is AttemptState.FAILED and attempt.pid in did.killed and ended is None
    if was_killed and not re.search(r"SIGKILL|exit status is not known|stopped, since the lease", attempt.reason):
        yield f"its process was killed, and the reason is: {attempt.reason}"
    if attempt.state is AttemptState.TIMED_OUT and attempt.finished_at is not None and "run's" not in attempt.reason:
        duration = (attempt.finished_at - attempt.started_at).total_seconds()
        least = TIMEOUTS.get(step.job, 0) / 2
        # A clock that was set back in between makes it look shorter.
        if "its " in attempt.reason and 0 <= duration < least and not any(duration - by >= least for by in did.steps):
            yield f"timed out after {duration:.1f} s of {TIMEOUTS[step.job]:.0f}"


def _reported(attempt: Attempt, ended: Line, logs: Sequence[str]) -> Iterator[str]:
    """The store has what was reported, and at most one item more that was being reported when the stop came."""
    if tuple(logs[: len(ended.logs)]) != ended.logs or len(logs) > len(ended.logs) + 1:
        yield f"it logged {ended.logs}, the store has {list(logs)}"
    checks = tuple((check.name, check.observed) for check in attempt.checks if check.name != "never met")
    reported = tuple((name, str(number)) for name, number in ended.checks)
    stored = tuple((name, str(observed)) for name, observed in checks)
    if stored[: len(reported)] != reported or len(stored) > len(reported) + 1:
        yield f"it made the checks {reported}, the store has {stored}"
