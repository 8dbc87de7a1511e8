"""The runbook's checklist of a run: each box with its evidence or the person who ticked it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from maintd.model.changelog import Box, BoxState, Checklist, ChecklistPart
from maintd.model.entry import ChecklistItem, Proof
from maintd.model.evidence import CheckStatus
from maintd.model.run import DecisionKind, GateDecision, Run, Step, StepState
from maintd.operations.changelog import Made, decisions_at_gates, is_logged, validation
from maintd.operations.lookup import find_run
from maintd.operations.service import OperatorService
from maintd.present import utc_minute
from maintd.store import Store
from maintd.units import format_duration, plural

_OVER = frozenset(StepState) - {StepState.PENDING, StepState.RUNNING, StepState.WAITING}


def checklist(service: OperatorService, run_id: int) -> Checklist:
    """The lists before, during and after maintenance, and those of the run's gates. Raises UnknownNameError."""
    store, run = service.store, find_run(service, run_id)
    made, _ = decisions_at_gates(store, run)
    run = run.model_copy(update={"decisions": tuple(_with_origin(run, each) for each in made)})
    parts = [
        ChecklistPart(title="Pre-Maintenance", boxes=tuple(_before(run))),
        ChecklistPart(title="During Maintenance", boxes=tuple(_during(store, run))),
        ChecklistPart(title="Post-Maintenance", boxes=tuple(_after(store, run))),
    ]
    parts += [
        ChecklistPart(title=f"Gate {step.name}", boxes=tuple(_of_gate(run, step)))
        for step in run.steps
        if step.gate is not None
    ]
    return Checklist(run_id=run.id, entry=run.entry, state=run.state, emergency=run.emergency, parts=tuple(parts))


def _with_origin(run: Run, made: Made) -> GateDecision:
    """A decision; one that was made in an earlier run names it in its note."""
    decision = made.decision
    if made.run_id == run.id:
        return decision
    note = "; ".join(filter(None, (decision.note, f"in run {made.run_id}, taken over")))
    return decision.model_copy(update={"note": note})


# --- before ---


def _before(run: Run) -> Iterator[Box]:
    yield _window(run)
    yield _ticked(run, _first_gates(run), "Stakeholders notified", ("stakeholder",))
    yield _backup(run)
    yield _ticked(run, _first_gates(run), "Emergency contacts confirmed", ("contact",))
    yield _rollback(run)


def _window(run: Run) -> Box:
    text = "Maintenance window scheduled"
    window = run.policy.window
    if window is None:
        return _ticked(run, _first_gates(run), text, ("window",), missing="the entry declares no window")
    start = run.window_began or run.not_before
    evidence = f"from {utc_minute(start)} to {utc_minute(start + window.lasts)} ({format_duration(window.lasts)})"
    return Box(text=text, state=BoxState.DONE, evidence=evidence)


def _backup(run: Run) -> Box:
    text = "Backup completed"
    ticked = _ticked(run, _first_gates(run), text, ("backup",), missing="")
    made = [step for step in run.steps if "backup" in step.job and not step.undoes]
    if ticked.state is BoxState.DONE or not made:
        missing = "no item of a gate and no step of the run is about a backup"
        return ticked if ticked.evidence else ticked.model_copy(update={"evidence": missing})
    step = made[0]
    state = BoxState.DONE if step.state.is_success else BoxState.FAILED if step.state in _OVER else BoxState.OPEN
    evidence = f"step {step.name} {step.state.replace('_', ' ')}"
    return Box(text=text, state=state, evidence=evidence, at=step.finished_at)


def _rollback(run: Run) -> Box:
    text = "Rollback plan ready"
    undone = [plan.undoes for plan in run.plan if plan.undoes]
    if undone:
        return Box(text=text, state=BoxState.DONE, evidence=f"the entry can undo: {', '.join(undone)}")
    missing = "the entry has no undo steps"
    return _ticked(run, _first_gates(run), text, ("rollback", "roll back"), missing=missing)


# --- during ---


def _during(store: Store, run: Run) -> Iterator[Box]:
    changed = [change for step in run.steps for attempt in step.attempts for change in attempt.changes]
    record = store.records.last_of_run(run.id)
    if record is not None:
        evidence = f"{plural(len(changed), 'change')}; record {record} of the chain"
        yield Box(text="Change log updated", state=BoxState.DONE, evidence=evidence)
    elif is_logged(run):
        evidence = f"{plural(len(changed), 'change')} so far; its record follows at the end of the run"
        yield Box(text="Change log updated", state=BoxState.OPEN, evidence=evidence)
    else:
        yield Box(text="Change log updated", state=BoxState.OPEN, evidence="nothing was changed so far")
    unfinished = [f"{step.name} {step.state}" for step in run.steps if step.state not in _OVER]
    unknown = [f"{step.name} lost" for step in run.steps if step.state is StepState.LOST]
    documented = f"{len(run.steps) - len(unfinished)} of {plural(len(run.steps), 'step')} ended"
    rest = ", ".join(unfinished + unknown)
    yield Box(
        text="Each step documented",
        state=BoxState.OPEN if rest else BoxState.DONE,
        evidence=f"{documented}; {rest}" if rest else f"{documented}, with their evidence",
    )
    yield _issues(store, run)
    moments = [moment for step in run.steps for moment in (step.started_at, step.finished_at) if moment is not None]
    if moments:
        evidence = f"{plural(len(moments), 'time')} from {utc_minute(min(moments))} to {utc_minute(max(moments))}"
        done = run.finished_at is not None and not unknown
        yield Box(text="Timeline recorded", state=BoxState.DONE if done else BoxState.OPEN, evidence=evidence)
    else:
        yield Box(text="Timeline recorded", state=BoxState.OPEN, evidence="no step has started")


def _issues(store: Store, run: Run) -> Box:
    text = "Issues tracked"
    checks = [check for step in run.steps if step.attempts for check in step.attempts[-1].checks]
    wrong = {check.name for check in checks if check.status is not CheckStatus.OK and not check.optional}
    if not checks:
        return Box(text=text, state=BoxState.OPEN, evidence="not known: the run made no check")
    if not wrong:
        return Box(text=text, state=BoxState.DONE, evidence=f"{plural(len(checks), 'check')}, all ok")
    found = {finding.check: finding.key for finding in store.findings.of_checks(run.entry, wrong)}
    if missing := sorted(wrong - found.keys()):
        return Box(text=text, state=BoxState.OPEN, evidence=f"no finding yet of: {', '.join(missing)}")
    keys = ", ".join(f"{check} {key}" for check, key in sorted(found.items()))
    return Box(text=text, state=BoxState.DONE, evidence=f"each is a finding: {keys}")


# --- after ---

_AFTER_TEXTS = ("System validation completed", "Performance verified", "Monitoring confirmed")


def _after(store: Store, run: Run) -> Iterator[Box]:
    for text, box in zip(_AFTER_TEXTS, validation(store, run), strict=True):
        yield box.model_copy(update={"text": text})
    yield _ticked(run, _last_gates(run), "Stakeholders notified", ("stakeholder",))
    ticked = _ticked(run, _last_gates(run), "Documentation updated", ("documentation", "documented"), missing="")
    if ticked.state is not BoxState.DONE and run.notes:
        note = run.notes[-1]
        yield Box(text=ticked.text, state=BoxState.DONE, evidence=f"note: {note.text}", by=note.by, at=note.at)
    elif ticked.state is not BoxState.DONE:
        yield ticked.model_copy(update={"evidence": f"no note of a person; write one: maintd note {run.id} TEXT"})
    else:
        yield ticked


# --- gates ---


def _first_gates(run: Run) -> list[Step]:
    """The gates before the first step that may change something; without such a gate, the first one."""
    gates = []
    for step, plan in zip(run.steps, run.plan, strict=True):
        if step.gate is not None:
            gates.append(step)
        elif plan.mutates and gates:
            break
    return gates


def _last_gates(run: Run) -> list[Step]:
    first = _first_gates(run)
    return [step for step in run.steps if step.gate is not None and step not in first]


def _ticked(run: Run, gates: Sequence[Step], text: str, words: Sequence[str], *, missing: str | None = None) -> Box:
    """The box of the item whose text has one of the words."""
    for step in gates:
        assert step.gate is not None
        for number, item in enumerate(step.gate.checklist, start=1):
            if any(word in item.text.lower() for word in words):
                return _item(run, step, number, item).model_copy(update={"text": text})
    if missing is None:
        names = ", ".join(step.name for step in gates)
        missing = f"no item of {names} has one of the words: {', '.join(words)}" if gates else "no gate asks for it"
    return Box(text=text, state=BoxState.OPEN, evidence=missing)


def _of_gate(run: Run, step: Step) -> Iterator[Box]:
    assert step.gate is not None
    for number, item in enumerate(step.gate.checklist, start=1):
        yield _item(run, step, number, item)
    passed = _decision(run, step, (DecisionKind.APPROVED,))
    text = step.gate.ask or "Approved"
    if passed is not None:
        how = "approved in an emergency" if passed.emergency else "approved"
        evidence = f"{how}: {passed.note}" if passed.note else how
        yield Box(text=text, state=BoxState.DONE, evidence=evidence, by=passed.by, at=passed.at)
        return
    refused = _decision(run, step, (DecisionKind.REJECTED, DecisionKind.TIMED_OUT, DecisionKind.CANCELLED))
    if refused is not None:
        why = f": {refused.note}" if refused.note else ""
        evidence = f"{refused.kind.replace('_', ' ')}{why}"
        yield Box(text=text, state=BoxState.FAILED, evidence=evidence, by=refused.by, at=refused.at)
    elif step.state is StepState.WAITING:
        role = step.gate.approve.role
        until = "" if run.waiting_until is None else f" until {utc_minute(run.waiting_until)}"
        yield Box(text=text, state=BoxState.OPEN, evidence=f"waits for the role {role}{until}")
    else:
        yield Box(text=text, state=BoxState.OPEN, evidence=f"{step.state}{f': {step.reason}' if step.reason else ''}")


def _item(run: Run, step: Step, number: int, item: ChecklistItem) -> Box:
    kind = DecisionKind.TICKED if item.proof is None else DecisionKind.PROVED
    found = _decision(run, step, (kind,), number)
    if found is not None:
        by = found.by if kind is DecisionKind.TICKED else ""
        return Box(text=item.text, state=BoxState.DONE, evidence=found.note, by=by, at=found.at)
    if item.proof is None:
        return Box(text=item.text, state=BoxState.OPEN, evidence="not ticked")
    return Box(text=item.text, state=BoxState.OPEN, evidence=f"{_proof_text(item.proof)}: observed at the approval")


def _proof_text(proof: Proof) -> str:
    if proof.entry is not None:
        within = "" if proof.within is None else f" within {format_duration(proof.within)}"
        return f"{proof.entry} succeeded{within}"
    return f"step {proof.step} succeeded" if proof.step is not None else f"check {proof.check} ok"


def _decision(run: Run, step: Step, kinds: Sequence[DecisionKind], item: int | None = None) -> GateDecision | None:
    """The last decision of these kinds at a gate, about that item if one is given."""
    of_step = (each for each in reversed(run.decisions) if each.step == step.index and each.kind in kinds)
    return next((each for each in of_step if item in (None, each.item)), None)
