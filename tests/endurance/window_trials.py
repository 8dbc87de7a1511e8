"""Runs the shipped `planned-maintenance` on a made stack once for each fault, and audits each trial.

    PYTHONPATH=tests .venv/bin/python -m endurance.window_trials [--only TEXT]

After a loss, a person resumes and undoes in turn. What must hold after each trial:

1. No service was unhalted after the work could have begun unless the verification had succeeded, and none runs at the
   end of a run that was not verified, unless nothing was changed.
2. No silence is left.
3. One backup is there if a run made one, and nothing unfinished.
4. The journal is complete: each run is over, none holds locks, each request that changed something is a change of a
   run, a service that is left halted is in its reason, and the chain of records verifies.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from sqlalchemy import update
from support.servers.base import wait_for
from support.window_stack import ENTRY, SERVICES, WindowStack, window_stack

from endurance.window_faults import FaultInjector, all_faults
from endurance.window_nodes import WindowNode, window_node
from maintd.errors import StoreUnavailableError
from maintd.model.evidence import ChangeState
from maintd.model.run import Run, RunState, StepState, Trigger
from maintd.store import Store
from maintd.store.tables import runs

VERIFIED_BY = "stability_check-2"
_SUCCESSES = (RunState.SUCCEEDED, RunState.WARNED)
_WORK_TIME = timedelta(minutes=90)  # of the window: 2h less rollback_by


@dataclass(frozen=True)
class TrialResult:
    """What came of one fault. `reason` is that of the last run."""

    fault: str
    person: str
    states: tuple[str, ...]
    halted: int
    seconds: float
    reason: str
    violations: tuple[str, ...]


@dataclass
class WindowSite:
    """A stack, a daemon with its store, and the faults."""

    stack: WindowStack
    node: WindowNode
    store: Store
    faults: FaultInjector

    def trial(self, fault: str, person: str) -> TrialResult:
        """Run the window once with this fault."""
        return _Trial(self, fault, person).result()


@contextmanager
def window_site(folder: Path) -> Iterator[WindowSite]:
    """Start everything, with a backup that was restored, which the window's gate asks for."""
    faults = FaultInjector()
    with window_stack(faults.engine) as stack, window_node(stack, folder) as node:
        store = node.start()
        try:
            for entry in ("daily-backup", "weekly-restore-drill"):
                done = node.command("trigger", entry, "--wait")
                assert done.code == 0, done.out + done.err
            yield WindowSite(stack, node, store, faults)
        finally:
            store.close()


def trials(folder: Path, faults: Sequence[str]) -> Iterator[TrialResult]:
    """Run the window with each of these faults; each result as it comes."""
    with window_site(folder) as site:
        for number, fault in enumerate(faults):
            yield site.trial(fault, ("resume", "undo")[number % 2])


@dataclass
class _Trial:
    site: WindowSite
    fault: str
    person: str
    chain: list[int] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    before: int = 0  # runs up to here are not of this trial

    def result(self) -> TrialResult:
        began = time.monotonic()
        site, stack = self.site, self.site.stack
        stack.restore()
        window = (
            {"not_across": f"{site.store.now() + timedelta(hours=1):%H:%M} UTC"} if self.fault == "day ahead" else {}
        )
        site.node.overlay(stack.overlay(lasts="60s" if self.fault == "end in stability_check-2" else "4s", **window))
        self.before = max((run.id for run in site.store.history.runs(limit=1)), default=0)
        site.faults.on_unhalt = self._on_unhalt
        site.faults.begin(self.fault, stack, site.node, site.store)
        try:
            found = self._drive()
        finally:
            site.faults.end()
        if found:
            self._audit(found)
        elif any(stack.halted.values()) or stack.silences or any(each.requests for each in stack.services.values()):
            self.violations.append("a run that was refused has changed something")
        seconds = time.monotonic() - began
        states = tuple(run.state.value for run in found) or ("refused",)
        halted = sum(stack.halted.values())
        reason = found[-1].reason if found else "the window would contain a time that it must not"
        return TrialResult(self.fault, self.person, states, halted, seconds, reason, tuple(self.violations))

    # --- what the persons do ---

    def _drive(self, seconds: float = 400) -> list[Run]:
        """Do what a person does until nothing is left to be done; return the runs of the window in their order."""
        deadline = time.monotonic() + seconds
        triggered = self.site.node.by("bob", "trigger", ENTRY, "--why", self.fault, "--json")
        if triggered.code != 0:
            text = triggered.out + triggered.err  # the error is JSON
            assert self.fault == "day ahead" and "would contain" in text, text
            self.site.faults.happened = True
            return []
        self.chain.append(int(triggered.json["id"]))
        while time.monotonic() < deadline:
            run = self._settled(self.chain[-1], deadline)
            later = [link.run_id for link in run.links if link.other_run_id == run.id]
            if later:
                self.chain.append(later[-1])
            elif run.state is RunState.WAITING:
                self._decide(run)
            elif run.held:
                self.site.faults.end()
                self._handle_lost(run)
            else:
                return [each for run_id in self.chain if (each := self.site.store.history.run(run_id)) is not None]
        raise AssertionError(f"runs {self.chain} are not over after {seconds:.0f} s")

    def _settled(self, run_id: int, deadline: float) -> Run:
        def found() -> Run | None:
            with suppress(StoreUnavailableError):
                run = self.site.store.history.run(run_id)
                return run if run is not None and (run.state.final or run.state is RunState.WAITING) else None
            return None

        return wait_for(found, f"run {run_id} waits or is over", max(1.0, deadline - time.monotonic()), every=0.1)

    def _decide(self, run: Run) -> None:
        gate = next(step for step in run.steps if step.state is StepState.WAITING)
        faults, node = self.site.faults, self.site.node
        faults.reached(f"at {gate.name}")
        if self.fault == f"end at {gate.name}":
            wait_for(lambda: self.site.store.history.state(run.id) is not RunState.WAITING, "the gate's time is over")
            return
        if self.fault == f"day at {gate.name}":
            wait_for(lambda: all(self.site.stack.halted.values()), "the watch halts them again")
        if gate.name == "gate-2" and self.fault in ("end before restart", "end in stability_check-2"):
            start = self.site.store.now() + timedelta(seconds=20) - _WORK_TIME
            self.site.store.write(
                lambda conn: conn.execute(update(runs).where(runs.c.id == run.id).values(window_from=start))
            )
            if self.fault == "end in stability_check-2":  # the step ends at once: its time would not fit
                faults.happened = True
        items = enumerate(() if gate.gate is None else gate.gate.checklist, 1)
        ticks = [word for number, item in items if item.proof is None for word in ("--item", str(number))]
        if ticks:
            node.by("ada", "approve", str(run.id), "--gate", gate.name, *ticks, "--note", "seen")
        done = node.by("ada", "approve", str(run.id), "--gate", gate.name)
        if done.code != 0 and self.site.store.history.state(run.id) is RunState.WAITING:
            node.by("ada", "reject", str(run.id), "--why", "it cannot be approved")
            # The trials have one account: who resumed a run before its gate cannot be the one who approves it.
            if run.trigger is Trigger.RESUME and "must be approved by another person" in done.err:
                return
            self.violations.append(f"{gate.name} could not be approved: {done.err.strip()}")
            return
        faults.reached(f"passed {gate.name}")

    def _handle_lost(self, run: Run) -> None:
        lost = [step for step in run.steps if step.state is StepState.LOST]
        undoing = any(step.undoes and step.state not in (StepState.PENDING, StepState.SKIPPED) for step in run.steps)
        command = "undo" if undoing else self.person
        redo = [
            word for step in lost if command == "resume" or step.undoes or step.always for word in ("--redo", step.name)
        ]
        done = self.site.node.command(command, str(run.id), *redo, "--why", "looked at it")
        nothing = f"nothing of run {run.id} is left to undo" in done.err
        if nothing and f"maintd release {run.id} --why" in done.err:
            self.site.node.command("release", str(run.id), "--why", "nothing was changed")
        elif done.code != 0:
            self.violations.append(f"run {run.id} cannot be handled by {command}: {done.out}{done.err}".strip())
            self.site.node.command("release", str(run.id), "--why", "a trial")

    # --- the audit ---

    def _on_unhalt(self) -> None:
        """A service is about to be unhalted by maintd."""

        def sound() -> bool:
            found = [run for run_id in self.chain if (run := self.site.store.history.run(run_id)) is not None]
            if not found or not any(_work_may_have_begun(run) for run in found):
                return bool(found)
            return any(step.name == VERIFIED_BY and step.state.is_success for step in found[-1].steps)

        deadline = time.monotonic() + 5  # the store may be a moment behind
        while not sound():
            if time.monotonic() > deadline:
                self.violations.append("a service was unhalted without a verification")
                return
            time.sleep(0.1)

    def _audit(self, found: list[Run]) -> None:
        stack, store, say = self.site.stack, self.site.store, self.violations.append
        if self.fault != "none" and not self.site.faults.happened:
            say("the fault did not happen")
        last = found[-1]
        wait_for(lambda: self._watched_after(last), "the watch ran after it", every=0.2)
        began = any(_work_may_have_begun(run) for run in found)
        verified = any(step.name == VERIFIED_BY and step.state.is_success for step in last.steps)
        for name, halted in stack.halted.items():
            if began and not verified and not halted:
                say(f"{name} runs, and was not verified")
            if last.state in _SUCCESSES and halted:
                say(f"{name} is halted after a run that is {last.state}")
        left = [name for name, is_halted in stack.halted.items() if is_halted]
        reported = " ".join([last.reason, *(step.reason for step in last.steps)])
        if left and "halted" not in reported and "service_halt" not in reported and "service_unhalt" not in reported:
            say(f"{left} are halted, and run {last.id} does not say so: {last.reason}")
        if stack.silences:
            say(f"silences are left: {[silence.comment for silence in stack.silences]}")
        self._audit_backups(found)
        if set(stack.states().values()) != {"running"}:
            say(f"containers: {stack.states()}")
        for run in found:
            if not run.state.final or run.held:
                say(f"run {run.id} is {run.state}, held: {run.held}")
        self._audit_journal()
        holders = store.locks.holders(store.now())
        mine = [(one.lock, one.run_id) for one in holders if one.run_id in self.chain]
        if mine:
            say(f"still held: {mine}")
        verify = self.site.node.command("changelog", "verify")
        if verify.code != 0:
            say(f"the chain of records does not verify: {verify.out}{verify.err}")

    def _audit_backups(self, found: list[Run]) -> None:
        made = any(step.name == "backup" and step.state.is_success for run in found for step in run.steps)
        names = self.site.stack.sets
        sets = [name for name in names if name.startswith("set-")]
        whole = self.site.stack.good_sets
        if len(whole) != made:
            self.violations.append(f"backups: {whole}, and a run made one: {made}")
        if len(names) > len(sets):
            self.violations.append(f"unfinished: {sorted(set(names) - set(sets))}")

    def _audit_journal(self) -> None:
        """Each request that changed a service or a container is a change of a run."""
        store = self.site.store
        found = [store.history.run(summary.id) for summary in store.history.runs(limit=200) if summary.id > self.before]
        changes: dict[tuple[str, str], int] = {}
        for run in found:
            for step in () if run is None else run.steps:
                for attempt in step.attempts:
                    for change in attempt.changes:
                        if change.state is not ChangeState.PLANNED:
                            key = (change.action, change.target)
                            changes[key] = changes.get(key, 0) + 1
        for name, service in self.site.stack.services.items():
            for act in ("halt", "unhalt"):
                sent = sum(path.endswith(f"/{act}") for path in service.requests)
                if sent > changes.get((act, name), 0):
                    self.violations.append(f"{name}: {sent} requests to {act}, {changes.get((act, name), 0)} changes")
        for name in SERVICES:
            container = self.site.stack.project.get(name)
            sent = self.site.faults.restarts.count(container.id)
            known = sum(
                count
                for (act, target), count in changes.items()
                if act == "restart" and target.endswith(container.name)
            )
            if sent > known:
                self.violations.append(f"{name}: restarted {sent} times, {known} changes")

    def _watched_after(self, last: Run) -> bool:
        """Whether the watch, which ends what is left, ran once more after the end of the run."""
        found = self.site.store.history.runs(entry="window-watch", limit=1)
        return bool(
            found
            and found[0].state.final
            and found[0].started_at is not None
            and last.finished_at is not None
            and found[0].started_at > last.finished_at
        )


def _work_may_have_begun(run: Run) -> bool:
    """The gate before the work was passed, or the restart was started."""
    states = {step.name: step.state for step in run.steps}
    restart = states.get("services_restart")
    return states.get("gate-2") is StepState.SUCCEEDED or restart not in (None, StepState.PENDING, StepState.SKIPPED)


def main() -> int:
    """Try every fault, print a table, and return 1 after a violation."""
    parser = argparse.ArgumentParser(prog="python -m endurance.window_trials", description=main.__doc__)
    parser.add_argument("--only", default="", help="faults that contain this text; several with commas")
    given = parser.parse_args()
    words = given.only.split(",")
    chosen = [fault for fault in all_faults() if any(word in fault for word in words)]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that every process is stopped
    folder = Path(tempfile.mkdtemp(prefix="maintd-window-"))
    folder.chmod(0o711)
    violated = False
    for found in trials(folder, chosen):
        violated = violated or bool(found.violations)
        text = "; ".join(found.violations) or "as it should be"
        states = " > ".join(found.states)
        print(
            f"{found.fault:30} {states:26} {found.halted} halted {found.seconds:5.1f} s  {text} | {found.reason}",
            flush=True,
        )
    print(f"the files are in {folder}")
    return 1 if violated else 0


if __name__ == "__main__":
    sys.exit(main())
