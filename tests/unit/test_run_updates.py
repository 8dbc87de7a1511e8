"""Run updates as they are spooled to disk."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from maintd.model.run_updates import (
    AttemptFinished,
    AttemptReported,
    AttemptStarted,
    RunFinished,
    RunRequeued,
    RunUpdate,
    StepFinished,
    StepStarted,
    StepWaiting,
)

AT = "2026-03-02T12:00:00Z"


@pytest.mark.parametrize(
    ("spooled", "kind"),
    [
        ({"type": "step_began", "step": 0, "at": AT}, StepStarted),
        ({"type": "step_waits", "step": 0, "at": AT}, StepWaiting),
        ({"type": "attempt_began", "step": 0, "attempt": 1, "at": AT}, AttemptStarted),
        ({"type": "reported", "step": 0, "attempt": 1, "items": []}, AttemptReported),
        ({"type": "attempt_ended", "step": 0, "attempt": 1, "state": "failed", "at": AT}, AttemptFinished),
        ({"type": "step_ended", "step": 0, "state": "failed", "at": AT}, StepFinished),
        ({"type": "run_ended", "state": "failed", "at": AT}, RunFinished),
        ({"type": "run_put_back", "at": AT, "not_before": AT, "reason": "shutdown"}, RunRequeued),
    ],
)
def test_updates_spooled_under_their_earlier_names_are_read(spooled: dict[str, object], kind: type) -> None:
    update = TypeAdapter[RunUpdate](RunUpdate).validate_python(spooled)

    assert isinstance(update, kind)
