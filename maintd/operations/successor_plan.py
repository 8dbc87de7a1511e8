"""What a run that resumes or undoes another one takes over from it, and what it runs again. Pure.

A step that mutates and is not repeatable is not run a second time unless a person requests it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from shlex import quote
from typing import NamedTuple

from maintd.errors import RefusedError, UnknownNameError, UsageError
from maintd.model.entry import AfterCrash, Freeze, StepPlan, is_procedure
from maintd.model.evidence import ChangeState
from maintd.model.run import LinkKind, NewRun, Run, RunState, Step, StepState, Trigger
from maintd.present.freezes import freeze_text
from maintd.schedule.freezes import freeze_covering, mutates
from maintd.store.successors import Successor, TakenOver, following

NOT_STARTED = frozenset({StepState.PENDING, StepState.WAITING, StepState.SKIPPED})

_AS_LOST = frozenset({StepState.RUNNING, StepState.LOST})

_FOLLOWS = {LinkKind.RESUMES: "resumed", LinkKind.UNDOES: "undone"}


class NotRepeatableError(RefusedError):
    """Steps would run again that must not, unless a person names them; `command` is what that person types."""

    def __init__(self, message: str, command: str) -> None:
        super().__init__(message, f"check what was done, then: {command}")
        self.command = command


class Request(NamedTuple):
    """Who asks for a successor, and why. `redo` are steps that run again although that may repeat an effect."""

    by: str = ""
    why: str = ""
    from_step: str = ""
    redo: tuple[str, ...] = ()
    automatic: bool = False  # by the entry's `after_crash`, without a person


def plan_resume(run: Run, request: Request, now: datetime) -> Successor:
    """The run that resumes this one: it runs what did not succeed, and takes over the rest with the handed values.

    1. The point of resumption is the first step that did not succeed, or that was undone, or `from_step` before it.
    2. Steps before it are taken over, gates too. All gates from there on are asked again.
    3. `always` steps run again, unless all steps are taken over: then those that succeeded are, too.
    4. What is in effect of the steps that are not taken over stays to be undone, even if they do not run again.

    Raises RefusedError for a run that is not over, that was a success, or that was resumed or undone before; where a
    step would run again that mutates, is not repeatable, and succeeded, was lost or has an uncertain change, unless
    `redo` names it; and for an automatic resume where such a step had started at all, or the run was undone in part.
    UnknownNameError and UsageError for steps that cannot be meant.
    """
    _require_over(run)
    if run.state in (RunState.SUCCEEDED, RunState.WARNED):
        raise RefusedError(f"run {run.id} {run.state}; there is nothing to resume", f"run it again: {_trigger(run)}")
    if run.state is RunState.SKIPPED:
        raise RefusedError(f"run {run.id} was skipped, so it has no step to go on from", f"start one: {_trigger(run)}")
    if run.trigger is Trigger.UNDO:
        raise RefusedError(
            f"run {run.id} undoes another run", f"to go on with the undo: maintd undo {run.id} --why TEXT"
        )
    _require_first(run)
    main = [step for step in run.steps if not step.always and not step.undoes]
    point = _point(run, main)
    if request.from_step:
        point = _from(run, point, request.from_step)
    kept = [step for step in main if point is None or step.index < point.index]
    if point is None:
        kept += [step for step in run.steps if step.always and step.state.is_success]
    again = _others(run.steps, kept)
    _require_repeatable(run, again, request, "resume")
    if request.automatic and any(step.state not in NOT_STARTED for step in run.steps if step.undoes):
        raise RefusedError(f"run {run.id} was undone in part")
    where = f'from step "{point.name}"' if point is not None else "after its last step"
    return _successor(run, Trigger.RESUME, LinkKind.RESUMES, kept, request, now, f"resumes run {run.id} {where}")


def plan_undo(run: Run, request: Request, now: datetime) -> Successor:
    """The run that undoes what this one started, by the undo steps that have not succeeded yet; then `always` steps.

    Of a run that was lost after its undo, only the `always` steps are left.

    Raises RefusedError for a run that is not over, that was a success, that was resumed or undone before, or of which
    nothing is left to undo; and where an undo step or an `always` step that mutates and is not repeatable was lost or
    has an uncertain change, unless `redo` names it.
    """
    _require_over(run)
    if run.state in (RunState.SUCCEEDED, RunState.WARNED) and run.trigger is not Trigger.UNDO:
        raise RefusedError(f"run {run.id} {run.state}; only a run that did not succeed can be undone")
    _require_first(run)
    plans = {plan.name: plan for plan in run.plan}
    due = _due(run)
    undone = [step for step in run.steps if step.undoes and step.state.is_success]
    always = [step for step in run.steps if step.always]
    cut_off = any(step.state in {StepState.PENDING, *_AS_LOST} for step in always)
    if not due and not (undone and cut_off):
        end_of_hold = f"end its hold with: maintd release {run.id} --why TEXT; " if run.held else ""
        raise RefusedError(f"nothing of run {run.id} is left to undo", f"{end_of_hold}see: maintd show {run.id}")
    # Those that succeeded are not run a second time, unless that is what they are for.
    done = [step for step in always if step.state.is_success and _has_one_effect(plans[step.name])]
    main = [step for step in run.steps if not step.always and not step.undoes]
    kept = [step for step in main if step.state not in (StepState.PENDING, StepState.WAITING)] + undone + done
    _require_repeatable(run, due + _others(always, done), request, "undo")
    return _successor(run, Trigger.UNDO, LinkKind.UNDOES, kept, request, now, f"undoes run {run.id}")


def plan_after_crash(run: Run, request: Request, now: datetime) -> Successor:
    """The run that undoes or resumes a held one by `after_crash`, without a person. Raises RefusedError: it stays held.

    One that followed another run stays held, so that whatever ended it is not tried a third time.
    """
    if not run.held:
        raise RefusedError(f"run {run.id} is not held any more")
    if run.trigger in (Trigger.RESUME, Trigger.UNDO):
        raise RefusedError("it followed a lost run itself")
    plan = plan_undo if run.policy.after_crash is AfterCrash.UNDO else plan_resume
    return plan(run, request, now)


def decisions_about(run: Run) -> list[str]:
    """What a person can type about a run that did not succeed: those commands that are not refused, as complete as
    they are needed. A release only of a held one."""
    found = []
    for plan, command in ((plan_resume, f"maintd resume {run.id}"), (plan_undo, f"maintd undo {run.id} --why TEXT")):
        try:
            plan(run, Request(), run.finished_at or run.queued_at)
        except NotRepeatableError as error:
            found.append(error.command)
        except RefusedError:
            continue
        else:
            found.append(command)
    return [*found, f"maintd release {run.id} --why TEXT"] if run.held else found


def why_held(run: Run, freezes: Sequence[Freeze], now: datetime) -> str:
    """Why a held run waits, for a person or for the end of a freeze; empty if maintd resumes or undoes it now."""
    if run.policy.after_crash is AfterCrash.HOLD:
        return "after_crash of its entry is hold"
    try:
        plan_after_crash(run, Request(automatic=True), now)
    except RefusedError as error:
        return f"after_crash of its entry is {run.policy.after_crash}, but {error.message}"
    if run.policy.after_crash is AfterCrash.RESUME and not passes_freezes(run):
        freeze = freeze_covering(freezes, run.entry, now)
        if freeze is not None:
            return f"after_crash of its entry is resume, which follows the end of the freeze: {freeze_text(freeze)}"
    return ""


def passes_freezes(run: Run) -> bool:
    """Whether a run may be resumed in a freeze."""
    return run.dry_run or bool(run.emergency) or not mutates(run.plan)


def _others(steps: Iterable[Step], kept: Iterable[Step]) -> list[Step]:
    """Those that are not kept, without undo steps."""
    indexes = {step.index for step in kept}
    return [step for step in steps if step.index not in indexes and not step.undoes]


def _has_one_effect(plan: StepPlan) -> bool:
    """Whether a second run of this step can do harm."""
    return plan.mutates and not plan.repeatable and plan.gate is None


def _require_over(run: Run) -> None:
    if not run.state.final:
        raise RefusedError(f"run {run.id} is not over: {run.state}", f"see: maintd show {run.id}")


def _require_first(run: Run) -> None:
    link = following(run, *_FOLLOWS)
    if link is not None:
        raise RefusedError(
            f"run {run.id} was {_FOLLOWS[link.kind]} by run {link.run_id} already", f"see: maintd show {link.run_id}"
        )


def _point(run: Run, main: Sequence[Step]) -> Step | None:
    """The first step that is to run again; None: all steps before the `always` steps were done and not undone."""
    undone = {step.undoes for step in run.steps if step.undoes and step.state not in NOT_STARTED}
    for place, step in enumerate(main):
        # Skipped in the middle: it had no target. At the end it can be one that was not reached.
        passed = step.state is StepState.SKIPPED and any(later.state not in NOT_STARTED for later in main[place + 1 :])
        if step.name in undone or not (step.state.is_success or passed):
            return step
    return None


def _from(run: Run, point: Step | None, name: str) -> Step:
    found = _named(run, name)
    if found.always or found.undoes:
        raise UsageError(
            f'a run cannot be resumed from "{name}"', "name a step that is neither an undo nor an always step"
        )
    if point is not None and found.index > point.index:
        raise RefusedError(
            f'step "{name}" is after "{point.name}", which did not succeed',
            f"give --from {quote(point.name)}, or an earlier step",
        )
    return found


def _named(run: Run, name: str) -> Step:
    found = next((step for step in run.steps if step.name == name), None)
    if found is None:
        raise UnknownNameError("step", name, [step.name for step in run.steps])
    return found


def _require_repeatable(run: Run, again: Sequence[Step], request: Request, verb: str) -> None:
    """Raise unless each of the steps may run again."""
    names = {step.name for step in again}
    for name in request.redo:
        if _named(run, name).name not in names:
            raise UsageError(f'step "{name}" would not run again', f"see: maintd show {run.id}")
    refused = {
        step.name: what
        for step, what in reversed([*_not_again(run, again, automatic=request.automatic)])
        if step.name not in request.redo
    }
    if refused:
        first, *others = reversed(refused)
        more = f", and so: {', '.join(others)}" if others else ""
        redo = "".join(f" --redo {quote(name)}" for name in (*request.redo, first, *others))
        start = f" --from {quote(request.from_step)}" if request.from_step else ""
        raise NotRepeatableError(
            f'step "{first}" {refused[first]}; it mutates and is not repeatable, so it does not run again by itself'
            f"{more}",
            f"maintd {verb} {run.id}{start}{redo} --why TEXT",
        )


def _not_again(run: Run, again: Iterable[Step], *, automatic: bool) -> Iterator[tuple[Step, str]]:
    plans = {plan.name: plan for plan in run.plan}
    undone = {step.undoes for step in run.steps if step.undoes and step.state.is_success}
    # Without undo steps and gates, a step can start before that is recorded.
    unrecorded = run.state is RunState.LOST and not is_procedure(run.plan)
    first = next((step.index for step in again if step.state is StepState.PENDING), None) if unrecorded else None
    for step in again:
        if not _has_one_effect(plans[step.name]) or step.name in undone:
            continue
        if step.index == first:
            yield step, "may have started before the run was lost"
        if step.state in NOT_STARTED:
            continue
        if step.state in _AS_LOST:
            yield step, "was lost"
        elif _is_uncertain(step):
            yield step, "has a change of which it is uncertain whether it was made"
        elif step.state.is_success and not step.always:
            yield step, "succeeded"
        elif automatic:
            yield step, step.state.replace("_", " ")


def _is_uncertain(step: Step) -> bool:
    open_states = (ChangeState.UNCERTAIN, ChangeState.INTENDED)
    return bool(step.attempts) and any(change.state in open_states for change in step.attempts[-1].changes)


def _successor(
    run: Run, trigger: Trigger, kind: LinkKind, kept: Sequence[Step], request: Request, now: datetime, reason: str
) -> Successor:
    new = NewRun(
        entry=run.entry,
        title=run.title,
        trigger=trigger,
        state=RunState.QUEUED,
        reason=reason,
        not_before=now,
        plan=run.plan,
        policy=run.policy,
        params=run.params,
        requested_by=request.by,
        why=request.why,
        dry_run=run.dry_run,
        emergency=run.emergency,
        window_from=run.window_from if request.automatic else None,
    )
    # A person begins a new window. What maintd does by itself stays within the one that was announced.
    began = run.started_at if request.automatic and run.policy.window is not None else None
    steps = [_taken_over(run, step) for step in sorted(kept, key=_index)]
    return Successor(new, kind, (*steps, *_left(run, kept)), began)


def _due(run: Run) -> list[Step]:
    """The undo steps of what is in effect: it was started, by this run or one that it follows, and not undone."""
    started = {step.name for step in run.steps if step.state not in NOT_STARTED}
    undoes = [step for step in run.steps if step.undoes and not step.state.is_success]
    return [step for step in undoes if step.undoes in started or step.left_by is not None]


def _left(run: Run, kept: Sequence[Step]) -> list[TakenOver]:
    """The undo steps of what is in effect and is not taken over as started."""
    started = {step.name for step in run.steps if step.state not in NOT_STARTED}
    seen = {step.name for step in kept} & started
    found = []
    for step in _due(run):
        if step.undoes not in seen:
            left_by = step.left_by if step.left_by is not None and step.undoes not in started else run.id
            reason = f'run {left_by} left "{step.undoes}" in effect, or in part'
            found.append(TakenOver(step.index, StepState.PENDING, reason, None, None, left_by))
    return found


def _index(step: Step) -> int:
    return step.index


def _taken_over(run: Run, step: Step) -> TakenOver:
    state = StepState.LOST if step.state in _AS_LOST else step.state
    reason = step.reason if step.reason.startswith("taken over from run ") else f"taken over from run {run.id}: {state}"
    return TakenOver(step.index, state, reason, step.started_at, step.finished_at)


def _trigger(run: Run) -> str:
    return f"maintd trigger {quote(run.entry)}"
