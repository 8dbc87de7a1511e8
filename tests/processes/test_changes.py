"""A change is recorded as what happened: intended first, then done, refused, failed or uncertain."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.nodes import Node, only

from maintd.model.entry import Policy
from maintd.model.evidence import ChangeState
from maintd.model.run import RunState


def change_of(node: Node, body: str, **columns: object) -> tuple[ChangeState, str]:
    """Run a job with one change; what became of it, and why."""
    run = node.ended(node.queue(node.step(node.job(body)), **columns))
    [change] = only(run).changes
    return change.state, change.cause


def test_a_change_that_was_made_is_done_with_what_was_seen_of_it(here: Node) -> None:
    body = 'with ctx.change("delete", "x", bytes=3) as allowed:\n    allowed.observed(freed=3)'

    run = here.make(body)

    [change] = only(run).changes
    assert (change.state, change.done, change.details) == (ChangeState.DONE, True, {"bytes": 3, "freed": 3})


def test_a_change_that_the_target_declined_is_refused(here: Node) -> None:
    body = 'with ctx.change("vacuum", "x") as allowed:\n    allowed.refused("only its owner may")'

    assert change_of(here, body) == (ChangeState.REFUSED, "only its owner may")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ('OSError(1, "Operation not permitted")', ChangeState.FAILED),
        ('TargetError("no right", cause="denied")', ChangeState.REFUSED),
        ('TargetError("in use", cause="conflict")', ChangeState.REFUSED),
        ('TargetError("cannot be reached", cause="refused")', ChangeState.FAILED),
        ('TargetError("no answer", cause="timed_out")', ChangeState.UNCERTAIN),
        ('TargetError("half an answer", cause="partial")', ChangeState.UNCERTAIN),
        ('TimeoutError("no answer")', ChangeState.UNCERTAIN),
        ("SystemExit(1)", ChangeState.UNCERTAIN),
    ],
)
def test_a_change_that_raises_is_not_done(here: Node, error: str, expected: ChangeState) -> None:
    body = f'from maintd.errors import TargetError\nwith ctx.change("save", "main"):\n    raise {error}'

    state, cause = change_of(here, body)

    assert state is expected
    assert cause


def test_a_change_is_uncertain_when_its_process_is_killed_in_the_middle(here: Node) -> None:
    body = 'with ctx.change("delete", "x"):\n    os.kill(os.getpid(), 9)'

    state, cause = change_of(here, body)

    assert state is ChangeState.UNCERTAIN
    assert cause == "the process ended before it was known whether the change was made"


def test_a_change_is_uncertain_when_its_time_is_over(here: Node) -> None:
    body = 'with ctx.change("delete", "x"):\n    time.sleep(60)'

    run = here.ended(here.queue(here.step(here.job(body, 'timeout="1s"'))))

    assert run.state is RunState.TIMED_OUT
    assert [change.state for change in only(run).changes] == [ChangeState.UNCERTAIN]


def test_what_was_done_before_the_kill_stays_done(here: Node) -> None:
    body = """
    for name in "ab":
        with ctx.change("delete", name):
            pass
    with ctx.change("delete", "c"):
        os.kill(os.getpid(), 9)
    """
    run = here.make(body)

    assert [(change.target, change.state.value) for change in only(run).changes] == [
        ("a", "done"),
        ("b", "done"),
        ("c", "uncertain"),
    ]


def test_a_slow_change_is_seen_as_intended_while_it_goes_on(here: Node, tmp_path: Path) -> None:
    go = tmp_path / "go"
    body = """
    with ctx.change("save", "main"):
        while not Path(params.into).exists():
            time.sleep(0.01)
    """
    run_id = here.queue(here.step(here.job(body), {"into": str(go)}))
    while not here.running(run_id).changes:
        pass

    under_way = here.running(run_id).changes
    go.touch()

    assert [change.state for change in under_way] == [ChangeState.INTENDED]
    assert [change.state for change in only(here.ended(run_id)).changes] == [ChangeState.DONE]


def test_a_dry_run_plans_its_changes_and_makes_none(here: Node) -> None:
    body = 'with ctx.change("delete", "x") as allowed:\n    assert not allowed'

    assert change_of(here, body, dry_run=True) == (ChangeState.PLANNED, "")


def test_more_changes_than_the_budget_allows_are_neither_made_nor_recorded(here: Node) -> None:
    body = 'for name in "abc":\n    with ctx.change("delete", name):\n        pass'

    run = here.ended(here.queue(here.step(here.job(body, 'timeout="1m", budget={"delete": 2}'))))

    assert run.state is RunState.FAILED
    assert [(change.target, change.done) for change in only(run).changes] == [("a", True), ("b", True)]


def test_a_change_in_a_change_has_a_record_of_its_own(here: Node) -> None:
    body = """
    with ctx.change("reindex", "main") as outer:
        with ctx.change("drop index", "left") as inner:
            inner.failed("locked")
    """
    run = here.make(body)

    assert [(change.action, change.state.value) for change in only(run).changes] == [
        ("reindex", "done"),
        ("drop index", "failed"),
    ]


def test_a_required_check_that_is_not_observed_makes_the_run_unknown(here: Node) -> None:
    run = here.make('ctx.check("a", 1, at_most=2)\nctx.check("b", 3, warn_above=2)\nctx.unknown("lag", "denied")')

    assert (run.state, run.reason) == (RunState.UNKNOWN, "1 check not observed: lag; 1 warning: b")


def test_an_optional_check_that_is_not_observed_does_not_change_the_state(here: Node) -> None:
    run = here.make('ctx.check("a", 1, at_most=2)\nctx.unknown("checksums", "none are written", optional=True)')

    assert run.state is RunState.SUCCEEDED
    assert [(check.name, check.status.value) for check in only(run).checks] == [("a", "ok"), ("checksums", "unknown")]


def test_an_optional_check_can_still_fail(here: Node) -> None:
    run = here.make('ctx.check("checksums", 1, at_most=0, optional=True)')

    assert run.state is RunState.FAILED


READS_STORE = """
import sqlite3
seen = []
def change(text):
    with ctx.change("halt", text):
        with sqlite3.connect(params.into, timeout=30) as conn:
            query = "SELECT count(*) FROM changes WHERE run_id = ? AND target = ?"
            seen.append(conn.execute(query, (ctx.run_id, text)).fetchone()[0])
threads = [threading.Thread(target=change, args=(f"t{n}",)) for n in range(3)]
for thread in threads:
    thread.start()
for n in range(5):
    change(f"m{n}")
for thread in threads:
    thread.join()
ctx.check("changes that were recorded before they were made", sum(seen), equals=8)
"""


def test_a_procedure_makes_no_change_before_its_intention_is_in_the_store(here: Node) -> None:
    """Else a daemon that is killed at that moment leaves an effect that no undo step knows of."""
    database = str(here.settings.state_dir / "maintd.db")

    run = here.ended(here.queue(here.step(here.job(READS_STORE), {"into": database}), policy=Policy(hold_locks=True)))

    assert run.state is RunState.SUCCEEDED, run.reason
    assert [change.state for change in only(run).changes] == [ChangeState.DONE] * 8
