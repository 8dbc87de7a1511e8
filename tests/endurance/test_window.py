"""The short form of the faults of a maintenance window: none, and a daemon that is killed amid the restarts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.users import folder_for_all

from endurance.window_trials import WindowSite, window_site

pytestmark = [pytest.mark.server, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def site() -> Iterator[WindowSite]:
    with folder_for_all() as folder, window_site(folder) as made:
        yield made


def test_the_shipped_window_ends_verified_on_a_stack_with_containers(site: WindowSite) -> None:
    found = site.trial("none", "resume")

    assert (found.violations, found.states, found.halted) == ((), ("succeeded",), 0)


def test_a_daemon_that_is_killed_amid_the_restart_leaves_the_services_halted(site: WindowSite) -> None:
    found = site.trial("daemon after restart", "undo")

    assert (found.violations, found.states[0], found.halted) == ((), "lost", 3)
    assert "halted" in found.reason
