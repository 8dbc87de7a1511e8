"""Gates: what runs wait for, and the decisions of people about them.

Who may decide, and which items of a checklist are done, is decided purely. A decision is one transaction that locks
the waiting run, evaluates the proofs as they are at that moment and ends the wait, so that the first decision wins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from shlex import quote
from typing import TypeVar

from sqlalchemy.engine import Connection

from maintd.errors import DaemonUnavailableError, ForbiddenError, RefusedError, UsageError
from maintd.model.access import Caller, Role, split_name, verified_name
from maintd.model.entry import ChecklistItem, Gate, Proof
from maintd.model.evidence import CheckStatus
from maintd.model.gate import GateItem, ItemState, WaitingGate
from maintd.model.run import DecisionKind, GateDecision, Run, RunState, RunSummary, StepState, Trigger
from maintd.operations.diagnosis import check_text
from maintd.operations.lookup import find_run
from maintd.operations.rehearsals import refuse_too_short
from maintd.operations.service import OperatorService
from maintd.present import utc_minute
from maintd.store import Store
from maintd.store.audit import add_event
from maintd.store.gates import add_decision, current_wait, end_wait, mark_emergency
from maintd.store.history import load_runs
from maintd.store.last_runs import last_runs
from maintd.units import format_duration

T = TypeVar("T")

_BY_PERSONS = (Trigger.MANUAL, Trigger.RESUME, Trigger.UNDO)
"""Triggers that a person caused; a run of any other has no requester."""

MAINTD = Caller(name="maintd")
"""Who proves items and ends waits whose time is over."""

UNKNOWN_PERSON = "an operator"
"""Who decided, when the name is unknown."""

Successes = Mapping[str, RunSummary | None]
"""The last success of each entry that a proof names."""

LoadRun = Callable[[int], Run | None]
"""A run with its evidence; None: it was pruned."""


# --- pure ---


def items_of(
    run: Run, step: int, successes: Successes, now: datetime, earlier: Sequence[Run] = ()
) -> tuple[GateItem, ...]:
    """The checklist of a gate of a run: what was ticked, and what the proofs are at the time `now`.

    `earlier` are the runs that it resumes, the last one first: a step that was taken over has its checks there.
    """
    gate = _gate_of(run, step)
    ticks = {
        decision.item: decision
        for decision in run.decisions
        if decision.step == step and decision.kind is DecisionKind.TICKED
    }
    return tuple(
        _item(number, item, (run, *earlier), ticks.get(number), successes, now)
        for number, item in enumerate(gate.checklist, 1)
    )


def _item(
    number: int,
    item: ChecklistItem,
    runs: Sequence[Run],
    tick: GateDecision | None,
    successes: Successes,
    now: datetime,
) -> GateItem:
    if item.proof is not None:
        proved, evidence = evaluate_proof(item.proof, runs, successes, now)
        state = ItemState.PROVED if proved else ItemState.NOT_PROVED
        return GateItem(number=number, text=item.text, state=state, by_proof=True, evidence=evidence)
    if tick is None:
        return GateItem(number=number, text=item.text, state=ItemState.OPEN)
    evidence = f"ticked by {tick.by}, {utc_minute(tick.at)}" + (f": {tick.note}" if tick.note else "")
    return GateItem(number=number, text=item.text, state=ItemState.TICKED, evidence=evidence, by=tick.by, at=tick.at)


def evaluate_proof(proof: Proof, runs: Sequence[Run], successes: Successes, now: datetime) -> tuple[bool, str]:
    """Whether a proof holds at the time `now`, and what was observed. What was not observed does not hold.

    `runs` are the run at the gate, and those that it resumes.
    """
    if proof.entry is not None and proof.within is not None:
        return _evaluate_entry(proof.entry, proof, successes.get(proof.entry), now)
    if proof.step is not None:
        return _evaluate_step(proof.step, runs[0])
    name, _, check = (proof.check or "").partition("/")
    return _evaluate_check(name, check, runs)


def _evaluate_entry(entry: str, proof: Proof, success: RunSummary | None, now: datetime) -> tuple[bool, str]:
    assert proof.within is not None
    if success is None or success.finished_at is None:
        return False, f"{entry} has never succeeded"
    age = now - success.finished_at
    text = f"run {success.id} of {entry} {success.state} {utc_minute(success.finished_at)}"
    if age <= proof.within:
        return True, text
    return False, f"the last success is too old: {text}; it must be within {format_duration(proof.within)}"


def _evaluate_step(name: str, run: Run) -> tuple[bool, str]:
    step = next((step for step in run.steps if step.name == name), None)
    if step is None:
        return False, f'the run has no step "{name}"'
    state = step.state.replace("_", " ")
    return step.state.is_success, f"step {name}: {state}"


def _evaluate_check(name: str, check: str, runs: Sequence[Run]) -> tuple[bool, str]:
    """By the run that ran the step: the checks of a step that was taken over are those of an earlier run."""
    step = None
    for run in runs:
        step = next((step for step in run.steps if step.name == name), None)
        if step is None or step.attempts or run.follows is None or not step.state.is_success:
            break
    else:  # taken over from a run that is not there
        run = runs[-1]
        return False, f'unknown: run {run.follows}, from which step "{name}" was taken over, was pruned'
    if step is None or not step.attempts:
        return False, f'step "{name}" has not reported "{check}"'
    found = [one for one in step.attempts[-1].checks if one.name == check]
    if not found:
        return False, f'step "{name}" has not reported "{check}"'
    bad = next((one for one in found if one.status is not CheckStatus.OK), None)
    if bad is not None:
        return False, f"{bad.status.value}: {check_text(bad)}"
    return True, check_text(found[0])


def is_requester(run: RunSummary, name: str) -> bool:
    """Whether a caller may be the one who requested the run: by the parts of the names that were verified, or by what
    one of them claims: `ada (as ci)` may be ada.

    A scheduled run has none. When either name is unknown, it may be the same person.
    """
    if run.trigger not in _BY_PERSONS:
        return False
    (our_claim, ours), (their_claim, theirs) = split_name(name), split_name(run.requested_by)
    # Two claims that are the same say little: many hosts have a user `ubuntu`.
    return not ours or not theirs or ours in (theirs, their_claim) or our_claim == theirs


def require_may_decide(gate: Gate, run: RunSummary, caller: Caller) -> None:
    """Raise ForbiddenError unless the caller has the role that the gate asks for."""
    if caller.role is None or not caller.role.includes(gate.approve.role):
        role = "no role" if caller.role is None else f"the role {caller.role}"
        raise ForbiddenError(
            f'"{caller.name or "unknown"}" has {role}, but the gate of run {run.id} needs {gate.approve.role}',
            "a person with that role can decide; see: maintd gates",
        )


def require_person(run: RunSummary, caller: Caller) -> None:
    """Raise ForbiddenError for the token of a program, whatever name it sends: a gate waits for a person."""
    if caller.by_program:
        raise ForbiddenError(
            f'token "{caller.token}" is of a program, but the gate of run {run.id} waits for a person',
            "decide on the host, or with a token of your own: maintd token create --person NAME",
        )


def requested_by_caller(gate: Gate, runs: Sequence[RunSummary], caller: Caller) -> RunSummary | None:
    """The first of a run and those that it resumes that the caller requested, where the gate does not allow that.

    Then the caller may approve only in an emergency. None: they may.
    """
    return next((run for run in runs if gate.approve.not_requester and is_requester(run, caller.name)), None)


def require_may_approve(gate: Gate, runs: Sequence[RunSummary], caller: Caller, *, emergency: bool) -> None:
    """Raise ForbiddenError unless the caller may approve; an emergency is for administrators.

    `runs` are the run at the gate, and those that it resumes.
    """
    run = runs[0]
    require_may_decide(gate, run, caller)
    require_person(run, caller)
    if emergency and caller.role is not Role.ADMIN:
        raise ForbiddenError(
            f'"{caller.name or "unknown"}" has the role {caller.role}; only an admin passes a gate in an emergency',
            "let an admin approve it, or another person with the role",
        )
    requested = requested_by_caller(gate, runs, caller)
    if requested is not None and not emergency:
        own, requester = verified_name(caller.name), verified_name(requested.requested_by)
        what = "it" if requested is run else f"run {requested.id}, which it resumes"
        who = (
            f"who requested {what} is unknown"
            if not (own and requester)
            else _may_be(caller.name, requested.requested_by, what)
        )
        raise ForbiddenError(
            f"run {run.id} must be approved by another person: {who}",
            f"in an emergency an admin can pass it: maintd approve {run.id} --emergency --why REASON",
        )


def _may_be(caller: str, requester: str, what: str) -> str:
    """Who requested it, as both names are recorded: the caller may be them by what one of the names claims."""
    return (
        f'"{caller}" requested {what}'
        if caller == requester
        else f'"{caller}" may be "{requester}", who requested {what}'
    )


def _earlier_runs(run: Run, load: LoadRun) -> list[Run]:
    """Those that it resumes, the last one first, up to one that was pruned. Who requested any requested this work."""
    found = [run]
    while (follows := found[-1].follows) is not None and (earlier := load(follows)) is not None:
        found.append(earlier)
    return found[1:]


def _loader(conn: Connection, service: OperatorService) -> LoadRun:
    return lambda run_id: load_runs(conn, service.store.plans, {run_id: True}).get(run_id)


def _gate_of(run: Run, step: int) -> Gate:
    gate = run.plan[step].gate if 0 <= step < len(run.plan) else None
    if gate is None:
        raise RefusedError(f"step {step} of run {run.id} is no gate", f"see: maintd show {run.id}")
    return gate


def command_of(action: str, run: Run, step: int) -> str:
    """`maintd approve 12`; with the gate's name if the run has several, so that no other one is meant."""
    several = sum(each.gate is not None for each in run.plan) > 1
    return f"maintd {action} {run.id}" + (f" --gate {quote(run.plan[step].name)}" if several else "")


def waiting_gate(run: Run, step: int, items: tuple[GateItem, ...], earlier: Sequence[Run] = ()) -> WaitingGate:
    """The gate where a run waits, with what to type next; `earlier` are the runs that it resumes."""
    gate = _gate_of(run, step)
    at = run.steps[step].started_at or run.queued_at
    return WaitingGate(
        run_id=run.id,
        entry=run.entry,
        title=run.title,
        gate=run.plan[step].name,
        ask=gate.ask,
        role=gate.approve.role,
        not_requester=gate.approve.not_requester,
        requested_by=run.requested_by,
        earlier_requesters=tuple(
            name
            for name in dict.fromkeys(each.requested_by for each in earlier if each.trigger in _BY_PERSONS)
            if name not in ("", run.requested_by, MAINTD.name)
        ),
        why=run.why,
        dry_run=run.dry_run,
        emergency=run.emergency,
        since=at,
        until=run.waiting_until or at + gate.timeout,
        items=items,
        next_step=_next_step(run, step, items),
    )


def _next_step(run: Run, step: int, items: Sequence[GateItem]) -> str:
    """Prove what is not proved, tick what is open, then approve."""
    open_items = [item for item in items if item.state is ItemState.OPEN]
    if open_items:
        return command_of("approve", run, step) + "".join(f" --item {item.number}" for item in open_items)
    unproved = next((item for item in items if item.state is ItemState.NOT_PROVED), None)
    if unproved is None:
        decisions = _gate_of(run, step).decisions
        return command_of("approve", run, step) + (f" --decisions {quote(decisions)}" if decisions else "")
    proof = _gate_of(run, step).checklist[unproved.number - 1].proof
    if proof is not None and proof.entry is not None:
        return f"maintd trigger {quote(proof.entry)} --wait"
    return command_of("reject", run, step) + " --why REASON"


# --- what is there ---


def waiting_gates(service: OperatorService) -> list[WaitingGate]:
    """All gates where runs wait; the one whose time is over first is the first."""
    found = service.store.gates.waiting()
    names = {name for run in found for name in _proof_entries(run, _waiting_step_of(run))}
    last = service.store.history.last_per_entry(sorted(names)) if names else {}
    successes = {name: each.last_success for name, each in last.items()}
    now = service.store.now()
    gates = []
    for run in found:
        step = _waiting_step_of(run)
        if step is not None:
            earlier = _earlier_runs(run, service.store.history.run)
            gates.append(waiting_gate(run, step, items_of(run, step, successes, now, earlier), earlier))
    return gates


def gate_of_run(service: OperatorService, run_id: int) -> WaitingGate:
    """The gate where a run waits. Raises UnknownNameError; RefusedError when it does not wait."""
    run = find_run(service, run_id)
    step = _waiting_step_of(run)
    if run.state is not RunState.WAITING or step is None:
        raise _not_waiting(run)
    names = _proof_entries(run, step)
    last = service.store.history.last_per_entry(names) if names else {}
    successes = {name: each.last_success for name, each in last.items()}
    earlier = _earlier_runs(run, service.store.history.run)
    return waiting_gate(run, step, items_of(run, step, successes, service.store.now(), earlier), earlier)


def _waiting_step_of(run: Run) -> int | None:
    return next((step.index for step in run.steps if step.state is StepState.WAITING), None)


def _proof_entries(run: Run, step: int | None) -> list[str]:
    if step is None:
        return []
    proofs = [item.proof for item in _gate_of(run, step).checklist]
    return sorted({proof.entry for proof in proofs if proof is not None and proof.entry is not None})


def _not_waiting(run: Run) -> RefusedError:
    text = f"run {run.id} does not wait at a gate: it is {run.state.replace('_', ' ')}"
    return RefusedError(f"{text}{_decided_text(run)}", f"see: maintd show {run.id}")


def _decided_text(run: Run, gate: str = "") -> str:
    """`; gate "go" was approved by bob, Sun …`, about the last decision, or that at the gate with this name."""
    last = next(
        (one for one in reversed(run.decisions) if one.kind not in _OF_ITEMS and gate in ("", run.plan[one.step].name)),
        None,
    )
    if last is None:
        return ""
    name = run.plan[last.step].name
    return f'; gate "{name}" was {last.kind.replace("_", " ")} by {last.by}, {utc_minute(last.at)}'


_OF_ITEMS = (DecisionKind.TICKED, DecisionKind.PROVED)


# --- decisions ---


def tick(
    service: OperatorService, run_id: int, numbers: Sequence[int], caller: Caller, *, gate: str = "", note: str = ""
) -> WaitingGate:
    """Tick items of the checklist; return the gate as it is then. One that is ticked already stays as it is.

    `gate` is the name of the gate that the caller means; without it, the one where the run waits. Raises
    UnknownNameError; UsageError for an item that there is not; RefusedError for one with a proof, and when the run does
    not wait there; ForbiddenError without the gate's role.
    """

    def act(conn: Connection, run: Run, step: int, now: datetime) -> WaitingGate:
        of_run = _gate_of(run, step)
        require_may_decide(of_run, run, caller)
        require_person(run, caller)
        items = {item.number: item for item in _current_items(conn, service, run, step, now)}
        for number in dict.fromkeys(numbers):
            item = items.get(number)
            if item is None:
                count = len(items)
                has = f"its items are 1 to {count}" if count else "it has no checklist"
                raise UsageError(f'gate "{run.plan[step].name}" has no item {number}: {has}', "see: maintd gates")
            if item.by_proof:
                raise RefusedError(
                    f'item {number}, "{item.text}", is proved by maintd and never ticked; now: {item.evidence}',
                    f"see: maintd show {run.id}",
                )
            if item.state is ItemState.TICKED:
                continue
            add_decision(
                conn,
                run.id,
                _decision(step, DecisionKind.TICKED, caller, now, note).model_copy(update={"item": number}),
            )
            _add_event(conn, "gate_item_ticked", run, step, caller, now, why=note, more=f'item {number} "{item.text}"')
        after = load_runs(conn, service.store.plans, {run.id: True})[run.id]
        earlier = _earlier_runs(after, _loader(conn, service))
        return waiting_gate(after, step, _current_items(conn, service, after, step, now), earlier)

    return _at_gate(service, run_id, gate, act)


def approve(
    service: OperatorService,
    run_id: int,
    caller: Caller,
    *,
    gate: str = "",
    note: str = "",
    emergency: bool = False,
    why: str = "",
) -> RunSummary:
    """Pass the gate where the run waits; it is queued again. Returns the run as it is then.

    Proofs are evaluated in this transaction. With `emergency`, which needs `why` and an admin, the requester may
    approve, and the run keeps a mark. Raises as `tick`, and RefusedError while an item of the checklist is missing,
    or when a rollback would not fit into the window.
    """
    if emergency and not why.strip():
        raise UsageError("no reason given for an emergency", 'add for example --why "the exchange is down"')

    def act(conn: Connection, run: Run, step: int, now: datetime) -> None:
        of_run = _gate_of(run, step)
        requested = [run, *_earlier_runs(run, _loader(conn, service))]
        require_may_approve(of_run, requested, caller, emergency=emergency)
        if not emergency:
            refuse_too_short(conn, service.store.plans, run)
        items = _current_items(conn, service, run, step, now)
        _require_complete(run, step, items)
        _require_decisions(run, step, note)
        marked = requested_by_caller(of_run, requested, caller) is not None
        for item in items:
            if item.by_proof:
                proved = _decision(step, DecisionKind.PROVED, MAINTD, now, item.evidence, item=item.number)
                add_decision(conn, run.id, proved)
        text = "; ".join(filter(None, (note, why)))
        decision = _decision(step, DecisionKind.APPROVED, caller, now, text, emergency=marked)
        how = " in an emergency" if marked else ""
        end_wait(conn, run.id, decision, StepState.SUCCEEDED, f"approved by {decision.by}{how}")
        if marked:
            name = run.plan[step].name
            mark_emergency(conn, run.id, f'{decision.by} approved their own run at gate "{name}": {why}')
        _add_event(conn, "gate_approved", run, step, caller, now, why=text, more="in an emergency" if marked else "")

    return _decide(service, run_id, gate, act)


def reject(service: OperatorService, run_id: int, caller: Caller, *, why: str, gate: str = "") -> RunSummary:
    """Reject at the gate where the run waits: it ends as failed, after undo and its `always` steps.

    Raises as `tick`, and UsageError without a reason. The requester may reject, too.
    """
    if not why.strip():
        raise UsageError(f"no reason given for rejecting run {run_id}", 'add for example --why "the backup is old"')

    def act(conn: Connection, run: Run, step: int, now: datetime) -> None:
        require_may_decide(_gate_of(run, step), run, caller)
        decision = _decision(step, DecisionKind.REJECTED, caller, now, why)
        end_wait(conn, run.id, decision, StepState.FAILED, f"rejected by {decision.by}: {why}")
        _add_event(conn, "gate_rejected", run, step, caller, now, why=why)

    return _decide(service, run_id, gate, act)


def end_overdue_waits(store: Store, now: datetime) -> list[Run]:
    """End the waits whose time is over; return the runs whose wait this call ended. Raises StoreError."""
    ended = []
    for run in store.gates.overdue(now):

        def transaction(conn: Connection, run: Run = run) -> bool:
            wait = current_wait(conn, run.id)
            if wait is None or wait.until > now:
                return False
            decision = _decision(wait.step, DecisionKind.TIMED_OUT, MAINTD, now, "")
            reason = f"no decision until {utc_minute(wait.until)}"
            _add_event(conn, "gate_timed_out", run, wait.step, MAINTD, now)
            return end_wait(conn, run.id, decision, StepState.TIMED_OUT, reason)

        if store.write(transaction):
            ended.append(run)
    return ended


def _decide(
    service: OperatorService, run_id: int, gate: str, act: Callable[[Connection, Run, int, datetime], None]
) -> RunSummary:
    _at_gate(service, run_id, gate, act)
    with contextlib.suppress(DaemonUnavailableError):  # a node finds the row
        service.wake()
    run = find_run(service, run_id)
    return RunSummary(**{name: getattr(run, name) for name in RunSummary.model_fields})


def _at_gate(service: OperatorService, run_id: int, gate: str, act: Callable[[Connection, Run, int, datetime], T]) -> T:
    """What `act` returns, in a transaction that has locked the run at its gate."""
    run = find_run(service, run_id)
    now = service.store.now()

    def transaction(conn: Connection) -> T:
        wait = current_wait(conn, run_id)
        found = load_runs(conn, service.store.plans, {run_id: True}).get(run_id, run)
        if wait is None:
            raise _not_waiting(found)
        name = found.plan[wait.step].name
        if gate not in ("", name):
            decided = _decided_text(found, gate)
            raise RefusedError(
                f'run {run_id} does not wait at gate "{gate}", but at "{name}"{decided}', "see: maintd gates"
            )
        if wait.until <= now:
            raise RefusedError(
                f'the time of gate "{name}" of run {run_id} was over {utc_minute(wait.until)}',
                f"see: maintd show {run_id}",
            )
        return act(conn, found, wait.step, now)

    return service.store.write(transaction)


def _current_items(
    conn: Connection, service: OperatorService, run: Run, step: int, now: datetime
) -> tuple[GateItem, ...]:
    names = _proof_entries(run, step)
    last = last_runs(conn, names) if names else {}
    successes = {name: each.last_success for name, each in last.items()}
    return items_of(run, step, successes, now, _earlier_runs(run, _loader(conn, service)))


def _require_complete(run: Run, step: int, items: Sequence[GateItem]) -> None:
    missing = [item for item in items if not item.done]
    if not missing:
        return
    texts = [
        f'{item.number} "{item.text}" ' + (f"is not proved: {item.evidence}" if item.by_proof else "is not ticked")
        for item in missing
    ]
    name = run.plan[step].name
    raise RefusedError(f'gate "{name}" of run {run.id} is not complete: {"; ".join(texts)}', _hint(run, step, items))


def _require_decisions(run: Run, step: int, note: str) -> None:
    """Refuse an approval without the decisions that the gate is about; `maintd approve --decisions` writes the note."""
    table = _gate_of(run, step).decisions
    if table and not note.startswith("table="):
        message = f'gate "{run.plan[step].name}" of run {run.id} is about the rows of {table}: decide them'
        hint = f"save the artifact {table}, fill its column decision, then: {_next_step(run, step, ())}"
        raise RefusedError(message, hint)


def _hint(run: Run, step: int, items: Sequence[GateItem]) -> str:
    command = _next_step(run, step, items)
    if any(item.state is ItemState.OPEN for item in items):
        return f"tick what you have verified: {command}"
    return f"run: {command}"


def _decision(
    step: int,
    kind: DecisionKind,
    caller: Caller,
    now: datetime,
    note: str,
    *,
    item: int | None = None,
    emergency: bool = False,
) -> GateDecision:
    by = caller.name or UNKNOWN_PERSON
    return GateDecision(
        step=step, kind=kind, item=item, by=by, origin=caller.origin, at=now, note=note, emergency=emergency
    )


def _add_event(
    conn: Connection, kind: str, run: Run, step: int, caller: Caller, now: datetime, *, why: str = "", more: str = ""
) -> None:
    text = "; ".join(filter(None, (f'run {run.id}, gate "{run.plan[step].name}"', more)))
    by = caller.name or UNKNOWN_PERSON
    add_event(conn, kind, subject=run.entry, by=by, origin=caller.origin, why=why, text=text, at=now)
