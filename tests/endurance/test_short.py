"""The short form of the endurance run: ten seconds of faults on each kind of store."""

from __future__ import annotations

import pytest
from support.servers.base import needs_root

from endurance.driver import run_endurance

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize(("kind", "nodes"), [("sqlite", 1), ("postgres", 2)])
def test_under_faults_nothing_is_lost_and_nothing_runs_twice(kind: str, nodes: int) -> None:
    needs_root("mounts file systems and makes networks of its own")

    outcome = run_endurance(7, 10, kind=kind, nodes=nodes, entries=30)

    assert outcome.violations == [], outcome.text()
    assert outcome.processes > 20, outcome.text()
