"""What makes an entry a procedure, in plain English: gates, undo, window."""

from __future__ import annotations

from collections.abc import Iterator

from maintd.model.entry import AfterCrash, Entry, Gate, OnFailure, When
from maintd.units import format_duration, plural


def procedure_texts(entry: Entry) -> Iterator[str]:
    """A line for each gate, one for what is undone and when, one for the steps at the end, one for the window."""
    policy = entry.policy
    before = "at the start"
    for step in entry.steps:
        if step.gate is not None:
            yield f"{step.name}, {before}: {gate_text(step.gate)}"
        elif not step.undoes and not step.always:
            before = f"after {step.name}"
    undone = [step.undoes for step in entry.steps if step.undoes]
    if undone:
        when = "after a failure" if policy.on_failure is OnFailure.UNDO else "on request"
        crash = {AfterCrash.HOLD: "the run is held", AfterCrash.UNDO: "undone", AfterCrash.RESUME: "resumed"}
        yield f"undo {when}, in this order: {', '.join(undone)}; after a crash: {crash[policy.after_crash]}"
    required = [step.name for step in entry.steps if step.required]
    if required:
        yield f"nothing runs unless the targets are configured of: {', '.join(required)}"
    conditions = [f"{step.name} ({step.when})" for step in entry.steps if step.always and step.when is not When.ALWAYS]
    if conditions:
        yield f"at the end, under a condition: {', '.join(conditions)}"
    if policy.on_failure_run:
        yield f"a failure triggers {policy.on_failure_run}"
    if policy.hold_locks:
        yield "its locks are held from the first step to the end, also at gates"
    window = policy.window
    if window is not None:
        work = f"; work ends {format_duration(window.rollback_by)} before its end" if window.rollback_by else ""
        across = f"; never across {window.not_across}" if window.not_across else ""
        announced = ", ".join(map(format_duration, window.announce))
        notices = f"; announced {announced} before" if announced else ""
        proof = f"; how long its rollback takes is proven by {window.rehearsal}" if window.rehearsal else ""
        yield f"window of {format_duration(window.lasts)}{work}{across}{notices}{proof}"


def gate_text(gate: Gate) -> str:
    """`an approver other than the requester, within 2h, 3 items (1 proved by maintd)`."""
    article = "a" if gate.approve.role.startswith("v") else "an"
    who = f"{article} {gate.approve.role}" + (" other than the requester" if gate.approve.not_requester else "")
    proofs = sum(item.proof is not None for item in gate.checklist)
    proved = f" ({proofs} proved by maintd)" if proofs else ""
    items = f", {plural(len(gate.checklist), 'item')}{proved}" if gate.checklist else ""
    asks = f": {gate.ask}" if gate.ask else ""
    return f"{who}, within {format_duration(gate.timeout)}{items}{asks}"
