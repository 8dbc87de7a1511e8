"""A procedure under a fault at each of its boundaries, and the audit afterwards.

The procedure has ten steps, two of them gates; each other step has an undo, and two steps always run. At a boundary
the daemon is killed with SIGKILL, or the store taken away for a while. A person then passes the gates, and resumes or
undoes what was lost. Jobs write a journal outside of maintd, with which the store is compared.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from support.servers.base import wait_for
from support.servers.maintd import CommandResult, Shell

from maintd.errors import StoreUnavailableError
from maintd.model.run import LinkKind, Run, RunState, StepState
from maintd.store import Store

JOBS = Path(__file__).parent / "procedure_jobs"
ENTRY = "procedure"
NO_DAEMON = 6  # exit code
WORK = ("one", "two", "three", "four", "five", "six", "seven", "eight")
GATES = ("gate", "gate-2")
ALWAYS = ("if-good", "last")

_ORDER = (*WORK[:4], GATES[0], *WORK[4:7], GATES[1], WORK[7])


def calendar(folder: Path, after_crash: str = "hold") -> str:
    """The calendar with the procedure, whose jobs write to this folder."""

    def mark(name: str) -> str:
        return f"job: mark, params: {{folder: {folder}, name: {name}}}"

    steps = [
        '      - gate: {ask: "Go on?", timeout: 1h, checklist: [Looked at it]}'
        if name in GATES
        else f"      - {{{mark(name)}, undo: {{{mark('undo-' + name)}}}}}"
        for name in _ORDER
    ]
    return "\n".join(
        (
            "timezone: UTC",
            "entries:",
            f"  {ENTRY}:",
            "    on_failure: undo",
            f"    after_crash: {after_crash}",
            "    hold_locks: true",
            "    locks: [stack]",
            "    timeout: 30m",
            "    steps:",
            *steps,
            "    always:",
            f"      - {{{mark('if-good')}, when: succeeded}}",
            f"      - {{{mark('last')}}}",
            "",
        )
    )


def boundaries() -> list[str]:
    """Every point at which something can go wrong: before and after the effect of each step, at and after each gate."""
    found = [f"{when} {name}" for name in _ORDER if name not in GATES for when in ("before", "after")]
    found += [f"{when} {name}" for name in GATES for when in ("at", "passed")]
    return [*found, "before undo-three", "after undo-three", "before last", "after last"]


@dataclass
class Journal:
    """What the jobs of the procedure wrote since the last trial."""

    folder: Path
    _read: int = field(default=0)

    def lines(self) -> list[tuple[str, str, int]]:
        """(start, effect or end; the name of the mark; the run)."""
        path = self.folder / "journal"
        words = [line.split() for line in path.read_text(encoding="ascii").splitlines()] if path.exists() else []
        return [(word[0], word[1], int(word[2])) for word in words[self._read :] if len(word) == 3]

    def forget(self) -> None:
        """Begin the next trial."""
        self._read += len(self.lines())


@dataclass
class Trial:
    """One run of the procedure, with those that follow from it, and what a person did."""

    store: Store
    shell: Shell
    journal: Journal
    person: str  # what is done about a lost run: resume or undo
    fail_at: str = ""  # a gate that is rejected
    redone: list[str] = field(default_factory=list)

    def drive(self, run_id: int, on_gate: GateFault | None = None, seconds: float = 240) -> list[Run]:
        """Do what a person does until nothing is left to be done; return the runs in their order."""
        deadline = time.monotonic() + seconds
        chain = [run_id]
        while time.monotonic() < deadline:
            run = self._settled(chain[-1], deadline)
            later = [link.run_id for link in run.links if link.other_run_id == run.id]
            if later:
                chain.append(later[-1])
            elif run.state is RunState.WAITING:
                self._decide(run, on_gate)
            elif run.held:
                self._handle_lost(run)
            else:
                found = [self.store.history.run(each) for each in chain]
                return [each for each in found if each is not None]
        raise AssertionError(f"runs {chain} are not over after {seconds:.0f} s: {self.store.history.state(chain[-1])}")

    def command(self, *words: str) -> CommandResult:
        """Run a command of an operator, again while the daemon is being started."""

        def answered() -> CommandResult | None:
            done = self.shell.maintd(*words)
            return (
                None
                if done.code == NO_DAEMON or "cannot be reached" in done.err or "connection failed" in done.err
                else done
            )

        return wait_for(answered, f"the daemon answers {words}", every=0.3)

    def _settled(self, run_id: int, deadline: float) -> Run:
        """The run, once it needs a person or is over."""

        def found() -> Run | None:
            with suppress(StoreUnavailableError):
                run = self.store.history.run(run_id)
                return run if run is not None and (run.state.final or run.state is RunState.WAITING) else None
            return None

        return wait_for(found, f"run {run_id} waits or is over", max(1.0, deadline - time.monotonic()))

    def _decide(self, run: Run, on_gate: GateFault | None) -> None:
        gate = next(step for step in run.steps if step.state is StepState.WAITING)
        if on_gate is not None and on_gate.at(gate.name):
            return
        if gate.name == self.fail_at:
            done = self.command("reject", str(run.id), "--why", "looks wrong")
        else:
            self.command("approve", str(run.id), "--item", "1")
            done = self.command("approve", str(run.id))
        if done.code != 0 and self._is_waiting(run.id):
            raise AssertionError(f"run {run.id} waits, and the decision was refused: {done.err}")
        if on_gate is not None:
            on_gate.passed(gate.name)

    def _is_waiting(self, run_id: int) -> bool:
        return self.store.history.state(run_id) is RunState.WAITING

    def _handle_lost(self, run: Run) -> None:
        """Undo or resume; a step that was lost is only repeated with a word of the person."""
        not_begun = (StepState.PENDING, StepState.SKIPPED)
        undoing = any(step.undoes and step.state not in not_begun for step in run.steps)
        command = "undo" if undoing or self.person == "undo" else "resume"
        lost = [
            step
            for step in run.steps
            if step.state is StepState.LOST and (command == "resume" or step.undoes or step.always)
        ]
        redo = list(itertools.chain.from_iterable(("--redo", step.name) for step in lost))
        if lost:
            plain = self.command(command, str(run.id), "--why", "without looking")
            assert plain.code == 4, f"a lost step would be repeated without a word: {plain.out}{plain.err}"
            self.redone += [run.plan[step.index].params["name"] for step in lost]
        done = self.command(command, str(run.id), *redo, "--why", "looked at it")
        assert done.code == 0, f"run {run.id} cannot be handled: {done.out}{done.err}"


class GateFault:
    """A fault that a test causes at a gate, since no job runs there."""

    def __init__(self, point: str, fault: object) -> None:
        self._point = point
        self._fault = fault
        self.happened = False

    def at(self, gate: str) -> bool:
        """The run waits. Whether the fault happened now."""
        return self._happens(f"at {gate}")

    def passed(self, gate: str) -> bool:
        """The gate was passed just now."""
        return self._happens(f"passed {gate}")

    def _happens(self, point: str) -> bool:
        if self.happened or point != self._point:
            return False
        self.happened = True
        assert callable(self._fault)
        self._fault()
        return True


def audit(trial: Trial, runs: Sequence[Run]) -> list[str]:
    """What is wrong after a trial, in sentences."""
    return list(_audit(trial, runs))


def success_violations(lines: Sequence[tuple[str, str, int]]) -> Iterator[str]:
    """What runs only after a success ran before one, or after the undo had begun.

    A run that had succeeded and lost a later step may be undone by a person: what ran before was right then.
    """
    for place, (kind, name, _) in enumerate(lines):
        if (kind, name) != ("effect", "if-good"):
            continue
        before = lines[:place]
        unfinished = [work for work in WORK if not any(line[:2] == ("end", work) for line in before)]
        if unfinished:
            yield f"what runs only after a success ran before the end of {unfinished}"
        if any(line[1].startswith("undo-") for line in before):
            yield "what runs only after a success ran although the run was being undone"


def _audit(trial: Trial, runs: Sequence[Run]) -> Iterator[str]:
    lines = trial.journal.lines()
    started = [name for kind, name, _ in lines if kind == "start"]
    for name in {*WORK, *(f"undo-{name}" for name in WORK), *ALWAYS}:
        allowed = 1 + trial.redone.count(name) + (len(runs) - 1 if name == "last" or name.startswith("undo-") else 0)
        if started.count(name) > allowed:
            yield f"{name} was started {started.count(name)} times, and {allowed} were asked for"
    effects = [name for kind, name, _ in lines if kind == "effect"]
    undone = [name.removeprefix("undo-") for name in effects if name.startswith("undo-")]
    if undone != sorted(undone, key=WORK.index, reverse=True):
        yield f"undone in the order {undone}, which is not the reverse"
    last = runs[-1]
    if not last.state.final or last.held:
        yield f"run {last.id} is {last.state}, held: {last.held}"
    if undone:
        begun = [name for name in WORK if name in started]
        missing = [name for name in begun if name not in undone]
        if missing and "NOT undone" not in last.reason:
            yield f"{missing} had begun and were not undone, and run {last.id} says: {last.reason}"
    elif last.state in (RunState.SUCCEEDED, RunState.WARNED):
        absent = [name for name in (*WORK, *ALWAYS) if name not in effects]
        if absent:
            yield f"run {last.id} succeeded without {absent}"
    yield from success_violations(lines)
    if "last" not in started:
        yield "what always runs did not run"
    for before, after in itertools.pairwise(runs):
        if not any(link.run_id == after.id and link.other_run_id == before.id for link in after.links):
            yield f"run {after.id} is not linked to run {before.id}"
    kinds = [link.kind for link in last.links if link.run_id == last.id]
    if len(runs) > 1 and not set(kinds) & {LinkKind.RESUMES, LinkKind.UNDOES}:
        yield f"run {last.id} follows from nothing: {kinds}"
    holders = trial.store.locks.holders(trial.store.now())
    if holders:
        yield f"still held: {[(holder.lock, holder.run_id) for holder in holders]}"
    verified = trial.command("changelog", "verify")
    if verified.code != 0:
        yield f"the chain of records does not verify: {verified.out}{verified.err}"
