"""Resume, undo and release runs, by a person or by the entry's `after_crash`.

A run that resumes or undoes another one is a row, inserted once, with the steps and values that it takes over and the
locks that the other one held. Any node claims it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

import structlog

from maintd.errors import RefusedError, UnknownNameError, UsageError
from maintd.model.entry import AfterCrash, StepPlan
from maintd.model.run import Run, RunSummary, Trigger
from maintd.operations.commands import summary_of, wake
from maintd.operations.freezes import KnownFreezes, known_freezes, refuse_frozen
from maintd.operations.lookup import find_run
from maintd.operations.service import OperatorService
from maintd.operations.successor_plan import (
    Request,
    decisions_about,
    passes_freezes,
    plan_after_crash,
    plan_resume,
    plan_undo,
    why_held,
)
from maintd.operations.windows import across_text
from maintd.secret_params import is_discarded
from maintd.store import Store
from maintd.store.successors import Successor

log = structlog.get_logger()


def resume(service: OperatorService, run_id: int, request: Request, *, origin: str = "") -> RunSummary:
    """Insert a run that resumes this one, see `plan_resume`; it takes over steps, values and locks. Returns it.

    It has the plan of the run that it resumes; its reason mentions it if the calendar has another one now. Raises
    UnknownNameError, UsageError and RefusedError.
    """
    if request.redo and not request.why.strip():
        raise UsageError("--redo needs a reason", 'add for example --why "it had not started, by its log"')
    _refuse_now(service, find_run(service, run_id))
    return _follow(service, run_id, request, plan_resume, "run_resumed", origin)


def _refuse_now(service: OperatorService, run: Run) -> None:
    """Raise RefusedError in a freeze, and where the window of the new run would contain what it must not."""
    now = service.store.now()
    if not passes_freezes(run):
        freezes = known_freezes(service).active(now)
        otherwise = next((command for command in decisions_about(run) if " undo " in command), "")
        undo_it = f"undo it: {otherwise}" if otherwise else "trigger what is urgent in an emergency"
        refuse_frozen(freezes, run.entry, run.plan, now, undo_it)
    problem = across_text(run.policy, now)
    if problem:
        raise RefusedError(f"run {run.id} cannot be resumed now: {problem}", "resume it later")


def undo(service: OperatorService, run_id: int, request: Request, *, origin: str = "") -> RunSummary:
    """Insert a run that undoes this one, see `plan_undo`. Returns it. Raises as `resume`."""
    _require_why(request.why)
    return _follow(service, run_id, request, plan_undo, "run_undone", origin)


def release(service: OperatorService, run_id: int, by: str, why: str, *, origin: str = "") -> RunSummary:
    """End the hold of a lost run: its locks are free, and its entry can run again. Returns the run.

    Raises UnknownNameError, UsageError without a reason, RefusedError if it is not held.
    """
    _require_why(why)
    find_run(service, run_id)
    if not service.store.successors.release(run_id, by=by, origin=origin, why=why, now=service.store.now()):
        raise RefusedError(f"run {run_id} is not held", f"see: maintd show {run_id}")
    wake(service)
    return summary_of(find_run(service, run_id))


def follow_crashes(store: Store, freezes: KnownFreezes) -> list[int]:
    """Insert the runs that resume or undo held runs whose entry wants that by `after_crash`; return their ids.

    A run that is frozen is resumed after the freeze; an undo does not wait for that.

    A run that cannot be followed without a person stays held, and so does one that followed another: whatever ended it
    is not tried a third time. Nodes that do this at once insert one run.
    """
    found: list[int] = []
    waiting = store.successors.held()
    active = freezes.active(store.now()) if waiting else []
    for held in waiting:
        run = store.history.run(held.id)
        if run is None or not run.held or why_held(run, active, store.now()):
            continue
        how = run.policy.after_crash
        request = Request(by="maintd", why=f"after_crash: {how}", automatic=True)
        event = "run_resumed" if how is AfterCrash.RESUME else "run_undone"
        try:
            decide = partial(plan_after_crash, request=request, now=store.now())
            new = store.successors.add(run.id, decide, event=event, by="maintd", origin="", now=store.now())
        except RefusedError as error:  # another node or a person was first
            log.info("run_not_followed", run=run.id, entry=run.entry, reason=error.message)
            continue
        if new is not None:
            found.append(new)
            log.warning("run_followed", run=run.id, entry=run.entry, by=new, after_crash=how.value)
    return found


def _follow(
    service: OperatorService,
    run_id: int,
    request: Request,
    plan: Callable[[Run, Request, datetime], Successor],
    event: str,
    origin: str,
) -> RunSummary:
    now = service.store.now()

    def decide(run: Run) -> Successor:
        successor = plan(run, request, now)
        _require_secrets(service, run, successor)
        differs = _how_plan_differs(service, run)
        if not differs:
            return successor
        reason = f"{successor.run.reason}; {differs}, and it has the steps that run {run.id} had"
        return successor._replace(run=successor.run.model_copy(update={"reason": reason}))

    new = service.store.successors.add(run_id, decide, event=event, by=request.by, origin=origin, now=now)
    if new is None:
        raise UnknownNameError("run", str(run_id))
    wake(service)
    return summary_of(find_run(service, new))


def _require_why(why: str) -> None:
    if not why.strip():
        raise UsageError("no reason given", 'add for example --why "the disk was replaced"')


def _require_secrets(service: OperatorService, run: Run, successor: Successor) -> None:
    """Raise where a step needs a secret that was given for the earlier run only, and is deleted."""
    kept = {step.step for step in successor.steps if step.left_by is None}
    for index, step in enumerate(run.plan):
        undoes = successor.run.trigger is Trigger.UNDO
        runs_again = index not in kept and (step.always or bool(step.undoes) or not undoes)
        if runs_again and is_discarded(step.params, service.settings.secrets_dir):
            raise RefusedError(
                f'step "{step.name}" needs a secret that was given for run {run.id} and was deleted when it ended',
                "trigger the entry again with its params",
            )


def _how_plan_differs(service: OperatorService, run: Run) -> str:
    """How the plan of a run differs from that of its entry now; empty if it does not."""
    entry = next((entry for entry in service.calendar().entries if entry.name == run.entry), None)
    if entry is None:
        return "" if run.entry in service.jobs() else "its entry is not in the calendar any more"
    same_policy = entry.policy == run.policy
    if same_policy and _comparable(entry.steps, run) == _comparable(run.plan, run):
        return ""
    return "the calendar has changed since then"


def _comparable(steps: Sequence[StepPlan], run: Run) -> list[StepPlan]:
    """Steps without what a trigger can change, where this run was given params."""
    return [step.model_copy(update={"params": {}, "overlaid": {}}) if run.params else step for step in steps]
