"""Decisions at gates, on both stores: who may decide, proofs at the moment of passing, and that the first one wins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, update
from support.stores import entry as stored_entry
from support.stores import manual_run, run_concurrently, sync
from support.web_services import Harness, harness

from maintd.errors import ForbiddenError, MaintdError, RefusedError, UsageError
from maintd.model.access import Caller, Role
from maintd.model.entry import Approval, ChecklistItem, Gate, Proof, StepPlan
from maintd.model.evidence import Check, CheckStatus
from maintd.model.gate import ItemState
from maintd.model.run import AttemptState, DecisionKind, Run, RunState, StepState, Trigger
from maintd.model.run_updates import (
    AttemptFinished,
    AttemptReported,
    AttemptStarted,
    RunFinished,
    RunUpdate,
    RunWaiting,
    StepFinished,
    StepStarted,
)
from maintd.operations import OperatorService
from maintd.operations.gates import approve, end_overdue_waits, gate_of_run, reject, tick, waiting_gates
from maintd.operations.resume import resume
from maintd.operations.successor_plan import Request
from maintd.store.database import ConflictError
from maintd.store.runs import overdue_runs
from maintd.store.tables import run_links, runs

ADA = Caller("ada", Role.OPERATOR, "socket, uid 1000, pid 7")
BOB = Caller("bob", Role.APPROVER, "token bobs from 10.0.0.7", token="bobs")
EVE = Caller("eve", Role.ADMIN, "token eves from 10.0.0.9", token="eves")
PIPELINE = Caller("ci", Role.ADMIN, "token from 10.0.0.8", token="ci", by_program=True)

BACKUP = Proof(entry="daily-backup", within=timedelta(hours=26))
HOUR = timedelta(hours=1)


class Site:
    """A store with runs that wait at gates, and the operations of persons."""

    def __init__(self, built: Harness) -> None:
        self.harness = built
        self.numbers = count(1)
        self.service: OperatorService = built.service()
        self.store = built.store
        sync(self.store, stored_entry("daily-backup"))

    def run(self, run_id: int) -> Run:
        run = self.store.history.run(run_id)
        assert run is not None
        return run

    def waiting(self, *items: str | ChecklistItem, left: timedelta = HOUR, second: bool = False, **gate: object) -> int:
        """Return a run that waits at the gate "go", after the step "verify" with a check "files".

        Each is of an entry of its own.
        """
        checklist = tuple(ChecklistItem(text=item) if isinstance(item, str) else item for item in items)
        columns = {"ask": "Is it done?", "checklist": checklist} | gate
        gates = [StepPlan(name=name, job="", gate=Gate.model_validate(columns)) for name in ["go", "verified"]]
        plan = (StepPlan(name="verify", job="verify"), *(gates if second else gates[:1]))
        requested = manual_run(f"maintenance-{next(self.numbers)}", plan=plan)
        run_id, now = self.store.runs.add(requested, self.store.now())[0], self.store.now()
        claimed = self.store.runs.claim(run_id, "n1", "n1-1", now + HOUR, self.store.now())
        assert claimed is not None
        check = Check(name="files", observed=3, expected="at least 1", status=CheckStatus.OK)
        updates: list[RunUpdate] = [
            StepStarted(step=0, at=now),
            AttemptStarted(step=0, attempt=1, at=now, pid=1),
            AttemptReported(step=0, attempt=1, items=[check]),
            AttemptFinished(step=0, attempt=1, state=AttemptState.SUCCEEDED, at=now, exit_code=0, complete=True),
            StepFinished(step=0, state=StepState.SUCCEEDED, at=now),
            RunWaiting(step=1, at=now, until=now + left, reason="waits"),
        ]
        assert self.store.runs.apply(run_id, claimed.fence, 1, updates)
        return run_id

    def wait_again(self, run_id: int) -> None:
        """The run reaches its second gate."""
        now = self.store.now()
        claimed = self.store.runs.claim(run_id, "n1", "n1-1", now + HOUR, now)
        assert claimed is not None
        assert self.store.runs.apply(run_id, claimed.fence, 1, [RunWaiting(step=2, at=now, until=now + HOUR)])

    def claimed(self, run_id: int) -> Run | None:
        """Claim the run; None if it is not its turn."""
        now = self.store.now()
        return self.store.runs.claim(run_id, "n1", "n1-1", now + HOUR, now)

    def ended(self, run_id: int) -> None:
        """The run is continued after its gate, and fails."""
        claimed = self.claimed(run_id)
        assert claimed is not None
        ended = RunFinished(state=RunState.FAILED, at=self.store.now())
        assert self.store.runs.apply(run_id, claimed.fence, 1, [ended])

    def resumed(self, run_id: int, by: str = "ada") -> int:
        """Reject the run at its gate, and return the run that resumes it and waits there again."""
        reject(self.service, run_id, BOB, why="not yet")
        self.ended(run_id)
        new, now = resume(self.service, run_id, Request(by=by, why="go on")).id, self.store.now()
        claimed = self.store.runs.claim(new, "n1", "n1-1", now + HOUR, now)
        assert claimed is not None
        waits = RunWaiting(step=1, at=now, until=now + HOUR, reason="waits")
        assert self.store.runs.apply(new, claimed.fence, 1, [waits])
        return new

    def backup(self, ago: timedelta) -> int:
        """A backup that succeeded so long ago."""
        at = self.store.now() - ago
        run_id, _ = self.store.runs.add(manual_run("daily-backup", not_before=at), at)
        claimed = self.store.runs.claim(run_id, "n1", "n1-1", at + HOUR, at)
        assert claimed is not None
        assert self.store.runs.apply(run_id, claimed.fence, 1, [RunFinished(state=RunState.SUCCEEDED, at=at)])
        return run_id

    def grow_old(self, run_id: int, age: timedelta) -> None:
        at = self.store.now() - age
        self.store.write(lambda conn: conn.execute(update(runs).where(runs.c.id == run_id).values(finished_at=at)))

    def kinds(self, run_id: int) -> list[str]:
        return [decision.kind.value for decision in self.run(run_id).decisions]

    def events(self) -> list[tuple[str, str, str, str]]:
        return [(event.kind, event.by, event.origin, event.why) for event in reversed(self.store.audit.recent())]


@pytest.fixture
def site(store_url: str, tmp_path: Path) -> Iterator[Site]:
    with harness(tmp_path / "state", store_url=store_url) as built:
        yield Site(built)


def test_of_two_approvals_at_once_one_wins_and_the_other_is_refused(site: Site) -> None:
    run_id = site.waiting()

    def approved_by(caller: Caller) -> str:
        try:
            approve(site.service, run_id, caller)
        except RefusedError as error:
            return error.message
        return "approved"

    results = run_concurrently([partial(approved_by, caller) for caller in (BOB, EVE, Caller("kim", Role.ADMIN))])

    assert results.count("approved") == 1
    (winner,) = (decision.by for decision in site.run(run_id).decisions)
    assert all(f'gate "go" was approved by {winner}' in text for text in results if text != "approved")
    run = site.run(run_id)
    assert (run.state, site.kinds(run_id)) == (RunState.QUEUED, ["approved"])
    assert run.steps[1].state is StepState.SUCCEEDED
    assert [kind for kind, *_ in site.events()] == ["gate_approved"]


def test_of_an_approval_and_a_rejection_at_once_one_wins(site: Site) -> None:
    for _ in range(5):
        run_id = site.waiting()
        calls: list[Callable[[], object]] = [
            partial(approve, site.service, run_id, BOB),
            partial(reject, site.service, run_id, EVE, why="no"),
        ]

        def attempt(call: Callable[[], object]) -> bool:
            try:
                call()
            except RefusedError:
                return False
            return True

        assert sorted(run_concurrently([partial(attempt, call) for call in calls])) == [False, True]
        assert len(site.kinds(run_id)) == 1


def test_a_tick_is_an_event_with_who_from_where_when_and_the_note(site: Site) -> None:
    run_id = site.waiting("Stakeholders notified", "Desk is closed")

    after = tick(site.service, run_id, [1], ADA, note="by phone")

    assert [(item.number, item.state) for item in after.items] == [(1, ItemState.TICKED), (2, ItemState.OPEN)]
    assert after.items[0].evidence.startswith("ticked by ada") and after.items[0].evidence.endswith("by phone")
    assert after.next_step == f"maintd approve {run_id} --item 2"
    ticked = site.run(run_id).decisions[0]
    assert (ticked.kind, ticked.item, ticked.by, ticked.origin, ticked.note, ticked.step) == (
        (DecisionKind.TICKED, 1, "ada", ADA.origin, "by phone", 1)
    )
    assert site.events() == [("gate_item_ticked", "ada", ADA.origin, "by phone")]
    assert site.run(run_id).state is RunState.WAITING


def test_an_item_that_is_ticked_twice_is_ticked_once(site: Site) -> None:
    run_id = site.waiting("one", "two")
    run_concurrently([partial(tick, site.service, run_id, [1, 1], caller) for caller in (ADA, BOB)])
    assert site.kinds(run_id) == ["ticked"]


def test_a_gate_is_not_passed_while_an_item_is_not_ticked(site: Site) -> None:
    run_id = site.waiting("Stakeholders notified", "Desk is closed")
    tick(site.service, run_id, [2], ADA)

    with pytest.raises(RefusedError, match='1 "Stakeholders notified" is not ticked') as refused:
        approve(site.service, run_id, BOB)

    assert refused.value.hint == f"tick what you have verified: maintd approve {run_id} --item 1"
    assert site.run(run_id).state is RunState.WAITING
    tick(site.service, run_id, [1], ADA)
    assert approve(site.service, run_id, BOB).state is RunState.QUEUED


def test_an_item_that_the_checklist_does_not_have_is_refused(site: Site) -> None:
    run_id = site.waiting("one")
    with pytest.raises(UsageError, match="has no item 2: its items are 1 to 1"):
        tick(site.service, run_id, [1, 2], ADA)
    assert site.kinds(run_id) == [], "all of them or none"


def test_a_proof_is_never_ticked_by_hand(site: Site) -> None:
    run_id = site.waiting(ChecklistItem(text="Backup completed", proof=BACKUP))
    with pytest.raises(RefusedError, match="proved by maintd and never ticked; now: daily-backup has never succeeded"):
        tick(site.service, run_id, [1], EVE)
    with pytest.raises(RefusedError, match="has never succeeded") as refused:
        approve(site.service, run_id, EVE)
    assert refused.value.hint == "run: maintd trigger daily-backup --wait"


def test_a_proof_that_was_true_and_is_no_longer_stops_the_approval(site: Site) -> None:
    backup = site.backup(HOUR)
    run_id = site.waiting(ChecklistItem(text="Backup completed", proof=BACKUP))
    assert gate_of_run(site.service, run_id).items[0].state is ItemState.PROVED
    site.grow_old(backup, timedelta(hours=27))

    with pytest.raises(RefusedError, match=r"too old: .* within 1d2h"):
        approve(site.service, run_id, BOB)
    assert site.kinds(run_id) == []

    fresh = site.backup(HOUR)
    approve(site.service, run_id, BOB)
    assert site.kinds(run_id) == ["proved", "approved"]
    proved = site.run(run_id).decisions[0]
    assert (proved.item, proved.by) == (1, "maintd") and f"run {fresh} of daily-backup succeeded" in proved.note


def test_steps_and_checks_of_the_same_run_prove_items(site: Site) -> None:
    run_id = site.waiting(
        ChecklistItem(text="Verified", proof=Proof(step="verify")),
        ChecklistItem(text="Files", proof=Proof(check="verify/files")),
        ChecklistItem(text="Size", proof=Proof(check="verify/size")),
    )

    (gate,) = waiting_gates(site.service)

    assert [(item.state, item.evidence) for item in gate.items] == [
        (ItemState.PROVED, "step verify: succeeded"),
        (ItemState.PROVED, "files: 3, expected at least 1"),
        (ItemState.NOT_PROVED, 'step "verify" has not reported "size"'),
    ]
    assert gate.next_step == f"maintd reject {run_id} --why REASON"


def test_a_check_of_a_step_that_was_taken_over_proves_an_item(site: Site) -> None:
    first = site.waiting(
        ChecklistItem(text="Files", proof=Proof(check="verify/files")),
        ChecklistItem(text="Size", proof=Proof(check="verify/size")),
    )
    second = site.resumed(first)
    third = site.resumed(second)

    for found in (waiting_gates(site.service)[0], gate_of_run(site.service, third)):
        assert [(item.state, item.evidence) for item in found.items] == [
            (ItemState.PROVED, "files: 3, expected at least 1"),
            (ItemState.NOT_PROVED, 'step "verify" has not reported "size"'),
        ]
    site.store.write(lambda conn: conn.execute(delete(runs).where(runs.c.id == first)))
    assert {item.evidence for item in gate_of_run(site.service, third).items} == {
        f'unknown: run {first}, from which step "verify" was taken over, was pruned'
    }


def test_a_gate_with_such_a_proof_is_passed_after_a_resume(site: Site) -> None:
    run_id = site.resumed(site.waiting(ChecklistItem(text="Files", proof=Proof(check="verify/files"))))

    assert approve(site.service, run_id, BOB).state is RunState.QUEUED
    assert site.kinds(run_id) == ["proved", "approved"]


def test_the_role_of_the_gate_is_needed_to_tick_approve_and_reject(site: Site) -> None:
    run_id = site.waiting("one", approve=Approval(role=Role.APPROVER))
    acts: list[Callable[[], object]] = [
        partial(tick, site.service, run_id, [1], ADA),
        partial(approve, site.service, run_id, ADA),
        partial(reject, site.service, run_id, ADA, why="no"),
    ]
    for act in acts:
        with pytest.raises(ForbiddenError, match='"ada" has the role operator, but the gate'):
            act()
    tick(site.service, run_id, [1], BOB)
    assert approve(site.service, run_id, BOB).state is RunState.QUEUED


def test_the_token_of_a_program_passes_no_gate_whatever_name_it_sends_but_can_reject(site: Site) -> None:
    run_id = site.waiting("one", approve=Approval(not_requester=True))
    claiming = PIPELINE._replace(name="bob (as ci)")
    acts: list[Callable[[], object]] = [
        partial(act, caller)
        for caller in (PIPELINE, claiming)
        for act in (
            partial(tick, site.service, run_id, [1]),
            partial(approve, site.service, run_id),
            partial(approve, site.service, run_id, emergency=True, why="now"),
        )
    ]
    for act in acts:
        with pytest.raises(
            ForbiddenError, match=r'token "ci" is of a program, but the gate of run .* waits for a person'
        ):
            act()
    assert site.run(run_id).state is RunState.WAITING

    reject(site.service, run_id, PIPELINE, why="the tests fail")

    assert site.kinds(run_id) == ["rejected"]


@pytest.mark.parametrize(
    ("requested_by", "approver", "allowed"),
    [
        ("ci", "ada", True),
        ("ada (as ci)", "ada", False),
        ("ada (as ci)", "bob", True),
        ("ubuntu (as ada)", "ubuntu (as bob)", True),
        ("ubuntu (as ada)", "root (as ada)", False),
        ("ada", "ada (as bob)", False),
    ],
)
def test_a_claimed_name_can_only_make_two_callers_the_same_person(
    site: Site, requested_by: str, approver: str, allowed: bool
) -> None:
    run_id = site.waiting(approve=Approval(not_requester=True))
    site.store.write(
        lambda conn: conn.execute(update(runs).where(runs.c.id == run_id).values(requested_by=requested_by))
    )

    with nullcontext() if allowed else pytest.raises(ForbiddenError, match="must be approved by another person"):
        approve(site.service, run_id, BOB._replace(name=approver))


@pytest.mark.parametrize("name", ["ada", "bob (as ada)", ""])
def test_who_requested_the_run_cannot_approve_it_where_the_gate_forbids_that(site: Site, name: str) -> None:
    run_id = site.waiting(approve=Approval(not_requester=True))
    with pytest.raises(ForbiddenError, match="must be approved by another person") as refused:
        approve(site.service, run_id, ADA._replace(name=name, role=Role.ADMIN))
    assert refused.value.hint is not None and "--emergency --why" in refused.value.hint
    assert site.run(run_id).state is RunState.WAITING
    assert approve(site.service, run_id, BOB).emergency == ""


def test_who_requested_a_run_cannot_approve_one_that_resumes_it(site: Site) -> None:
    earlier, run_id = (site.waiting(approve=Approval(not_requester=True)) for _ in range(2))
    link = {"run_id": run_id, "kind": "resumes", "other_run_id": earlier}
    site.store.write(lambda conn: conn.execute(insert(run_links).values(link)))
    site.store.write(lambda conn: conn.execute(update(runs).where(runs.c.id == run_id).values(requested_by="bob")))

    for caller in (ADA, BOB):
        with pytest.raises(ForbiddenError, match="must be approved by another person"):
            approve(site.service, run_id, caller)
    assert approve(site.service, run_id, BOB._replace(name="kim")).state is RunState.QUEUED


def test_a_gate_names_all_who_requested_the_work_as_those_who_must_not_approve(site: Site) -> None:
    first = site.waiting(approve=Approval(not_requester=True))
    second = site.resumed(first, by="kim")

    for gate in (gate_of_run(site.service, second), waiting_gates(site.service)[0]):
        assert (gate.requested_by, gate.earlier_requesters) == ("kim", ("ada",))
        assert gate.whom == "an operator other than kim and ada"


def test_no_run_of_an_entry_begins_while_another_one_is_in_the_middle_of_its_steps(site: Site) -> None:
    first = site.waiting(second=True)
    entry, store = site.run(first).entry, site.store
    second, _ = store.runs.add(manual_run(entry), store.now())

    def claimable() -> list[int]:
        return store.runs.claimable(store.now())

    assert claimable() == [] and store.runs.next_not_before() is None
    assert site.claimed(second) is None, "the first waits at its gate"
    overdue = partial(overdue_runs, before=store.now() + HOUR, limit=10)
    assert store.read(overdue) == [], "nobody has to start it now"
    approve(site.service, first, BOB)
    assert claimable() == [first]
    assert {run.id for run in store.read(overdue)} == {first, second}
    assert site.claimed(second) is None, "the first is queued again, after its gate"
    site.wait_again(first)
    reject(site.service, first, BOB, why="no")
    assert site.claimed(second) is None
    found = site.claimed(first)
    assert found is not None and claimable() == []
    assert store.runs.apply(first, found.fence, 1, [RunFinished(state=RunState.FAILED, at=store.now())])
    assert claimable() == [second]
    assert site.claimed(second) is not None


def test_a_run_that_resumes_another_one_comes_before_those_that_have_not_begun(site: Site) -> None:
    first = site.waiting()
    entry, store = site.run(first).entry, site.store
    later, _ = store.runs.add(manual_run(entry), store.now())
    reject(site.service, first, BOB, why="not yet")
    site.ended(first)
    resumed = resume(site.service, first, Request(by="ada", why="go on")).id

    assert store.runs.claimable(store.now()) == [resumed]
    assert site.claimed(later) is None
    assert site.claimed(resumed) is not None


def test_a_run_that_resumes_another_one_waits_for_one_that_has_begun_since(site: Site) -> None:
    first = site.waiting(second=True)
    entry, store = site.run(first).entry, site.store
    reject(site.service, first, BOB, why="not yet")
    site.ended(first)
    plan = site.run(first).plan
    second, _ = store.runs.add(manual_run(entry, plan=plan), store.now())
    found = site.claimed(second)
    assert found is not None
    at = store.now()
    waits = [StepStarted(step=0, at=at), StepFinished(step=0, state=StepState.SUCCEEDED, at=at)]
    assert store.runs.apply(second, found.fence, 1, [*waits, RunWaiting(step=1, at=at, until=at + HOUR)])
    resumed = resume(site.service, first, Request(by="ada", why="go on")).id

    assert site.claimed(resumed) is None, "the second waits at its gate"
    approve(site.service, second, BOB)
    assert site.claimed(resumed) is None, "it is the turn of the second"
    assert store.runs.claimable(store.now()) == [second]
    site.ended(second)
    assert site.claimed(resumed) is not None


def test_two_runs_of_an_entry_are_never_both_in_progress_whatever_claims_them(site: Site) -> None:
    first = site.waiting()
    second, _ = site.store.runs.add(manual_run(site.run(first).entry), site.store.now())
    changed = update(runs).where(runs.c.id == second).values(state=RunState.RUNNING.value)

    with pytest.raises(ConflictError):
        site.store.write(lambda conn: conn.execute(changed) and None)


def test_in_an_emergency_an_admin_approves_their_own_run_and_it_keeps_a_mark(site: Site) -> None:
    run_id = site.waiting(approve=Approval(not_requester=True))
    with pytest.raises(ForbiddenError, match="only an admin"):
        approve(site.service, run_id, ADA, emergency=True, why="the exchange is down")
    with pytest.raises(UsageError, match="no reason given for an emergency"):
        approve(site.service, run_id, ADA._replace(role=Role.ADMIN), emergency=True)

    run = approve(site.service, run_id, ADA._replace(role=Role.ADMIN), emergency=True, why="the exchange is down")

    assert run.emergency == 'ada approved their own run at gate "go": the exchange is down'
    assert site.run(run_id).decisions[0].emergency
    assert site.store.history.runs(limit=1)[0].emergency, "every list shows it"
    assert site.events() == [("gate_approved", "ada", ADA.origin, "the exchange is down")]


def test_an_emergency_does_not_replace_evidence(site: Site) -> None:
    run_id = site.waiting(ChecklistItem(text="Backup", proof=BACKUP), approve=Approval(not_requester=True))
    with pytest.raises(RefusedError, match="is not proved"):
        approve(site.service, run_id, ADA._replace(role=Role.ADMIN), emergency=True, why="now")


def test_a_scheduled_run_can_be_approved_by_each_person_with_the_role(site: Site) -> None:
    run_id = site.waiting(approve=Approval(not_requester=True))
    schedule = Trigger.SCHEDULE.value
    site.store.write(lambda conn: conn.execute(update(runs).where(runs.c.id == run_id).values(trigger=schedule)))
    assert approve(site.service, run_id, ADA).state is RunState.QUEUED


def test_a_rejection_needs_a_reason_and_fails_the_gate(site: Site) -> None:
    run_id = site.waiting()
    with pytest.raises(UsageError, match="no reason"):
        reject(site.service, run_id, BOB, why=" ")

    reject(site.service, run_id, BOB, why="not today")

    gate = site.run(run_id).steps[1]
    assert (gate.state, gate.reason) == (StepState.FAILED, "rejected by bob: not today")
    with pytest.raises(RefusedError, match='gate "go" was rejected by bob'):
        approve(site.service, run_id, EVE)


def test_an_approval_that_was_meant_for_the_gate_before_does_not_pass_the_next_one(site: Site) -> None:
    run_id = site.waiting(second=True)
    shown = gate_of_run(site.service, run_id)
    assert shown.next_step == f"maintd approve {run_id} --gate go"
    approve(site.service, run_id, BOB, gate="go")
    site.wait_again(run_id)

    with pytest.raises(RefusedError, match='at gate "go", but at "verified"; gate "go" was approved by bob'):
        approve(site.service, run_id, EVE, gate="go")
    approve(site.service, run_id, EVE, gate="verified")

    assert [(each.step, each.by) for each in site.run(run_id).decisions] == [(1, "bob"), (2, "eve")]


def test_a_wait_whose_time_is_over_is_ended_once_and_cannot_be_approved_before_that(site: Site) -> None:
    late = site.waiting(left=timedelta(seconds=-1))
    early = site.waiting()
    with pytest.raises(RefusedError, match="was over"):
        approve(site.service, late, BOB)

    now = site.store.now()
    ended = run_concurrently([partial(end_overdue_waits, site.store, now) for _ in range(3)])

    assert [run.id for each in ended for run in each] == [late]
    run = site.run(late)
    assert (run.state, run.steps[1].state, site.kinds(late)) == (RunState.QUEUED, StepState.TIMED_OUT, ["timed_out"])
    assert run.steps[1].reason.startswith("no decision until")
    assert site.run(early).state is RunState.WAITING
    assert [(kind, by) for kind, by, *_ in site.events()] == [("gate_timed_out", "maintd")]


def test_gates_are_listed_in_the_order_in_which_their_time_ends(site: Site) -> None:
    later, sooner = site.waiting(left=2 * HOUR), site.waiting(left=HOUR)
    assert [gate.run_id for gate in waiting_gates(site.service)] == [sooner, later]
    assert site.store.gates.next_timeout() == site.run(sooner).waiting_until


def test_a_run_that_does_not_wait_has_no_gate(site: Site) -> None:
    run_id = site.backup(HOUR)
    acts: list[Callable[[], object]] = [
        partial(gate_of_run, site.service, run_id),
        partial(approve, site.service, run_id, EVE),
        partial(tick, site.service, run_id, [1], EVE),
    ]
    for act in acts:
        with pytest.raises(MaintdError, match="does not wait at a gate: it is succeeded"):
            act()
