"""The short form of the faults of a maintenance window: none, and a daemon that is killed amid the restarts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.users import folder_for_all
from support.window_stack import SERVICES

from endurance.window_trials import WindowSite, window_site
from maintd.operations.rehearsals import time_of

pytestmark = [pytest.mark.server, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def site() -> Iterator[WindowSite]:
    with folder_for_all() as folder, window_site(folder) as made:
        yield made


def test_the_shipped_window_ends_verified_on_a_stack_with_containers(site: WindowSite) -> None:
    found = site.trial("none", "resume")

    assert (found.violations, found.states, found.halted) == ((), ("succeeded",), 0)


def test_the_rollback_of_the_stack_is_rehearsed_on_copies(site: WindowSite) -> None:
    for name in ("backup", "rollback_manifest"):
        params = ("-p", "min_free=10MB") if name == "backup" else ()
        assert site.node.command("trigger", name, *params, "--wait").code == 0
    before = site.stack.started(), dict(site.stack.halted)

    rehearsed = site.node.command("rehearse", "emergency-rollback", "--json")

    assert rehearsed.code == 0, rehearsed.out
    (run,) = site.store.history.runs(entry="emergency-rollback-rehearsal", limit=1)
    found = site.store.history.run(run.id)
    proven = None if found is None else time_of(found)
    assert proven is not None and proven.duration.total_seconds() > 0
    assert (site.stack.started(), dict(site.stack.halted)) == before
    assert set(site.stack.states()) == set(SERVICES), "no copy is left"


def test_a_daemon_that_is_killed_amid_the_restart_leaves_the_services_halted(site: WindowSite) -> None:
    found = site.trial("daemon after restart", "undo")

    assert (found.violations, found.states[0], found.halted) == ((), "lost", 3)
    assert "halted" in found.reason
