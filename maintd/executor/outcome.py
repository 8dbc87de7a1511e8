"""Outcomes of an attempt, a step and a run, decided from the evidence alone; whether to retry; and what the end of a
process means in words.

The outcome is the evidence, not the exit code. A check that could not be observed never counts as met.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

from maintd.model.evidence import Check, CheckStatus
from maintd.model.run import AttemptState, RunState, SkipReason, StepState
from maintd.units import format_duration, value_text

LONGEST_BACKOFF = timedelta(minutes=15)

LONGEST_REASON = 200
"""Characters of each step's reason where a run names several."""

RETRIED = frozenset({AttemptState.FAILED, AttemptState.TIMED_OUT})

_SIGNAL_MEANS = {
    signal.SIGSEGV: "a crash in native code",
    signal.SIGBUS: "a crash in native code, or a file that shrank while it was mapped",
    signal.SIGILL: "native code that this processor does not support",
    signal.SIGFPE: "a crash in native code",
    signal.SIGABRT: "native code gave up",
    signal.SIGXCPU: "its limit of CPU time was reached",
    signal.SIGXFSZ: "its limit of file size was reached",
    signal.SIGTERM: "not sent by maintd",
    signal.SIGINT: "not sent by maintd",
    signal.SIGHUP: "not sent by maintd",
}


class StopKind(StrEnum):
    """Why maintd itself stops an attempt."""

    TIMED_OUT = "timed_out"  # its own deadline, or the run's
    CANCELLED = "cancelled"  # an operator asked for it
    SHUTDOWN = "shutdown"  # this node is stopping
    LOST = "lost"  # the claim is over: another node decides about the run
    LAPSED = "lapsed"  # its locks were about to be free for others, since the lease could not be renewed


@dataclass(frozen=True)
class Stopped:
    """That maintd stopped an attempt, why, and whether it had to kill."""

    kind: StopKind
    reason: str  # "its 10m timeout", "ada: wrong database"
    killed_after: timedelta | None = None  # this long after SIGTERM, which had no effect


@dataclass(frozen=True)
class ProcessExit:
    """How a process ended. All None: no process saw it."""

    code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False  # the kernel killed a process of this control group since the start

    @property
    def observed(self) -> bool:
        return self.code is not None or self.signal is not None


@dataclass(frozen=True)
class JobResult:
    """The last message of the child: that the job returned (`ok`), or why it did not."""

    ok: bool
    reason: str = ""


@dataclass(frozen=True)
class AttemptEvidence:
    """Everything that the outcome of an attempt depends on."""

    returned: JobResult | None = None  # None: the process ended without a last message
    exit: ProcessExit = ProcessExit()
    worst: CheckStatus = CheckStatus.OK
    failed: Sequence[Check] = ()  # failed checks; the first ones are enough
    warned: Sequence[str] = ()  # names of checks that warn
    unobserved: Sequence[str] = ()  # names of required checks that are unknown
    stopped: Stopped | None = None
    protocol_error: str = ""  # the child sent an invalid message
    left_out: str = ""  # what of its evidence was over a limit, as a clause
    phase: str = ""
    failed_count: int = 0
    warned_count: int = 0
    unobserved_count: int = 0

    @property
    def complete(self) -> bool:
        """Whether the job returned and all that it reported is known: then a check that is missing was not made."""
        returned = self.returned is not None and self.returned.ok
        return returned and not self.protocol_error and not self.left_out


class AttemptOutcome(NamedTuple):
    """How an attempt ended, and why in a sentence; a plain success needs none."""

    state: AttemptState
    reason: str


def evaluate_attempt(evidence: AttemptEvidence) -> AttemptOutcome:
    """Return the first of these that applies.

    1. maintd stopped it, and the job had not returned before that.
    2. The child broke the protocol: what it reported cannot be relied on.
    3. The job raised, or the process ended without a last message.
    4. A check failed.
    5. A required check could not be observed, or evidence was left out: what is missing may have been bad.
    6. A check warns.
    """
    if evidence.stopped is not None and not (evidence.returned is not None and evidence.returned.ok):
        return _evaluate_stopped(evidence, evidence.stopped)
    if evidence.protocol_error:
        return AttemptOutcome(AttemptState.FAILED, f"its report cannot be relied on: {evidence.protocol_error}")
    if evidence.returned is None:
        return AttemptOutcome(AttemptState.FAILED, describe_exit(evidence.exit) + _in_phase(evidence.phase))
    if not evidence.returned.ok:
        return AttemptOutcome(AttemptState.FAILED, evidence.returned.reason or "the job raised an exception")
    if evidence.stopped is None and (evidence.exit.signal is not None or evidence.exit.code not in (None, 0)):
        return AttemptOutcome(AttemptState.FAILED, f"the job returned, but then {describe_exit(evidence.exit)}")
    if evidence.worst is CheckStatus.FAIL:
        return AttemptOutcome(AttemptState.FAILED, _failed_checks(evidence))
    if evidence.worst is CheckStatus.UNKNOWN or evidence.left_out:
        parts = []
        if evidence.worst is CheckStatus.UNKNOWN:
            parts.append(_listed(evidence.unobserved, evidence.unobserved_count, "not observed"))
        parts += [evidence.left_out] if evidence.left_out else []
        parts += [_listed(evidence.warned, evidence.warned_count)] if evidence.warned else []
        return AttemptOutcome(AttemptState.UNKNOWN, "; ".join(parts))
    if evidence.worst is CheckStatus.WARN:
        return AttemptOutcome(AttemptState.WARNED, _listed(evidence.warned, evidence.warned_count))
    return AttemptOutcome(AttemptState.SUCCEEDED, "")


def _evaluate_stopped(evidence: AttemptEvidence, stopped: Stopped) -> AttemptOutcome:
    where = _in_phase(evidence.phase)
    killed = (
        ""
        if stopped.killed_after is None
        else f"; it did not end on SIGTERM and was killed {format_duration(stopped.killed_after)} later"
    )
    match stopped.kind:
        case StopKind.TIMED_OUT:
            return AttemptOutcome(AttemptState.TIMED_OUT, f"stopped after {stopped.reason}{where}{killed}")
        case StopKind.CANCELLED:
            return AttemptOutcome(AttemptState.CANCELLED, f"cancelled by {stopped.reason}{where}{killed}")
        case StopKind.SHUTDOWN:
            return AttemptOutcome(AttemptState.CANCELLED, f"cancelled by {stopped.reason}{where}{killed}")
        case StopKind.LAPSED:
            return AttemptOutcome(AttemptState.FAILED, f"stopped, since {stopped.reason}{where}{killed}")
        case StopKind.LOST:
            return AttemptOutcome(AttemptState.LOST, f"{stopped.reason}; it was stopped{where}{killed}")


def describe_exit(end: ProcessExit) -> str:
    """Return what happened to a process, as a clause: `the process was killed by signal 11 (SIGSEGV): …`."""
    if end.signal is not None:
        return "the process was " + describe_signal(end.signal, out_of_memory=end.out_of_memory)
    if end.code is not None:
        return f"the process ended with exit code {end.code} before the job returned (something called exit)"
    return "the process ended before the job returned; its exit status is not known"


def describe_signal(number: int, *, out_of_memory: bool = False) -> str:
    """`killed by signal 9 (SIGKILL); …`: name and likely meaning."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "a real-time signal"
    text = f"killed by signal {number} ({name})"
    if number == signal.SIGKILL:
        if out_of_memory:
            return f"{text}: the kernel ran out of memory and chose it"
        return f"{text}, which maintd did not send; the kernel kills so when memory is short"
    meaning = next((meaning for known, meaning in _SIGNAL_MEANS.items() if known == number), None)
    return f"{text}: {meaning}" if meaning else text


def _in_phase(phase: str) -> str:
    return f' in phase "{phase}"' if phase else ""


def _failed_checks(evidence: AttemptEvidence) -> str:
    if not evidence.failed:
        return "a check failed"
    first = evidence.failed[0]
    observed = value_text(first.observed, first.unit)
    text = f'check "{first.name}": observed {observed}, {first.expectation}'
    more = max(evidence.failed_count, len(evidence.failed)) - 1
    if more:
        text += f" (and {more} more failed)"
    return f"{text}; {first.hint}" if first.hint else text


def _listed(names: Sequence[str], count: int, what: str = "") -> str:
    """`1 warning: x`, `2 checks not observed: x, y`."""
    count = max(count, len(names))
    shown = ", ".join(names[:3]) + (", …" if count > 3 else "")
    kind = f"check{'s' if count > 1 else ''} {what}" if what else f"warning{'s' if count > 1 else ''}"
    return f"{count} {kind}: {shown}" if shown else f"{count or 'some'} {kind}"


# --- trying again -------------------------------------------------------------------------------------------------


def retry_delay(
    state: AttemptState, *, attempt: int, retries: int, backoff: timedelta, repeatable: bool
) -> timedelta | None:
    """Return how long to wait before the next attempt; None: there is none.

    `attempt` counts from 1 and is the one that has ended. The delay doubles each time, up to 15 min.
    """
    if not repeatable or state not in RETRIED or attempt > retries:
        return None
    longest = max(backoff, LONGEST_BACKOFF)
    delay = backoff
    for _ in range(attempt - 1):
        delay = min(delay * 2, longest)
    return delay


# --- steps and runs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepOutcome:
    """How a step ended."""

    name: str
    state: StepState
    reason: str = ""
    not_configured: bool = False  # skipped, since its target is not configured


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended."""

    state: RunState
    reason: str = ""
    skip_reason: SkipReason | None = field(default=None)


_STEP_OF = {
    AttemptState.SUCCEEDED: StepState.SUCCEEDED,
    AttemptState.WARNED: StepState.WARNED,
    AttemptState.UNKNOWN: StepState.UNKNOWN,
    AttemptState.FAILED: StepState.FAILED,
    AttemptState.TIMED_OUT: StepState.TIMED_OUT,
    AttemptState.CANCELLED: StepState.CANCELLED,
    AttemptState.LOST: StepState.LOST,
    AttemptState.RUNNING: StepState.LOST,
}

BAD = frozenset({StepState.FAILED, StepState.TIMED_OUT, StepState.CANCELLED, StepState.LOST})

_RUN_OF = {
    StepState.FAILED: RunState.FAILED,
    StepState.TIMED_OUT: RunState.TIMED_OUT,
    StepState.CANCELLED: RunState.CANCELLED,
    StepState.LOST: RunState.FAILED,
}


def evaluate_step(last: AttemptOutcome, attempts: int) -> tuple[StepState, str]:
    """Return the state of the last attempt, with the number of attempts if there was more than one."""
    state = _STEP_OF[last.state]
    if attempts > 1:
        tries = f"attempt {attempts}"
        return state, f"{tries}: {last.reason}" if last.reason else f"succeeded at {tries}"
    return state, last.reason


def evaluate_run(steps: Sequence[StepOutcome], stopped: Stopped | None = None) -> RunOutcome:
    """Evaluate a run from its steps in order and from what stopped it.

    1. What stopped the run as a whole, unless every step had ended by itself and none was skipped.
    2. The first step that failed, or was not run to its end; the reason names all that failed.
    3. No step had its target: skipped as not configured.
    4. Any step that observed too little, then any that warned.
    """
    # A step's own timeout does not count as a cancel that was requested after the step had ended.
    ran_out = stopped is not None and stopped.kind is StopKind.TIMED_OUT
    hit = {StepState.TIMED_OUT if ran_out else StepState.CANCELLED}
    interrupted = stopped is not None and any(
        step.state in hit | {StepState.CANCELLED, StepState.LOST, StepState.PENDING}
        or (step.state is StepState.SKIPPED and not step.not_configured)
        for step in steps
    )
    bad = next((step for step in steps if step.state in BAD), None)
    if stopped is not None and interrupted:
        state = RunState.TIMED_OUT if ran_out else RunState.CANCELLED
        cause = next((step for step in steps if step.state in hit and step.reason), None)
        in_step = f"{cause.name}: {cause.reason}" if cause is not None and len(steps) > 1 else ""
        alone = cause.reason if cause is not None else ""
        how = "stopped after" if state is RunState.TIMED_OUT else "cancelled by"
        return RunOutcome(state, in_step or alone or f"{how} {stopped.reason}")
    if bad is not None:
        return RunOutcome(_RUN_OF[bad.state], _reasons([step for step in steps if step.state in BAD], steps))
    unreached = next((step for step in steps if step.state in (StepState.PENDING, StepState.RUNNING)), None)
    if unreached is not None:
        return RunOutcome(RunState.FAILED, f"{unreached.name}: it was not run to its end")
    left_out = [step for step in steps if step.not_configured]
    if steps and len(left_out) == len(steps):
        return RunOutcome(RunState.SKIPPED, _reason_of(left_out[0], steps), SkipReason.NOT_CONFIGURED)
    for step_state, run_state in ((StepState.UNKNOWN, RunState.UNKNOWN), (StepState.WARNED, RunState.WARNED)):
        found = [step for step in steps if step.state is step_state]
        if found:
            return RunOutcome(run_state, _reasons(found, steps))
    if left_out:
        return RunOutcome(RunState.SUCCEEDED, "not configured: " + ", ".join(step.name for step in left_out))
    retried = next((step for step in steps if step.state is StepState.SUCCEEDED and step.reason), None)
    return RunOutcome(RunState.SUCCEEDED, _reason_of(retried, steps) if retried is not None else "")


def _reason_of(step: StepOutcome, steps: Sequence[StepOutcome]) -> str:
    return step.reason if len(steps) == 1 else f"{step.name}: {step.reason}"


def _reasons(chosen: Sequence[StepOutcome], steps: Sequence[StepOutcome]) -> str:
    """The reasons of these steps, each with the step's name; a long one is cut where there are several."""
    if len(chosen) == 1:
        return _reason_of(chosen[0], steps)
    return " | ".join(f"{step.name}: {_cut(step.reason)}" for step in chosen)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON].rstrip() + "…"
