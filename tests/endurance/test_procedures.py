"""The short form of the faults at the boundaries of a procedure; `make endurance PROCEDURES=1` tries all."""

from __future__ import annotations

from pathlib import Path

import pytest

from endurance.procedure_trials import trials

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(900)]

SHORT = (
    "kill before three",
    "kill after four",
    "kill at gate",
    "kill passed gate-2",
    "kill after last",
    "kill before undo-three",
    "store before five",
)


@pytest.mark.parametrize(("kind", "nodes"), [("sqlite", 1), ("postgres", 2)])
def test_a_procedure_ends_finished_or_undone_wherever_it_is_interrupted(kind: str, nodes: int, tmp_path: Path) -> None:
    found = list(trials(tmp_path, kind, nodes, SHORT))

    assert [trial for trial in found if trial.violations] == []
    assert len(found) == len(SHORT)
