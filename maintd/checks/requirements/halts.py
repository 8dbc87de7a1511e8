"""What jobs need of a service that can be halted: that its state can be read from both sources."""

from __future__ import annotations

from typing import Any

from maintd.checks.halts import Switch
from maintd.checks.requirements.requirement import Exercise
from maintd.errors import TargetError
from maintd.model.target import HaltTarget, Targets


def can_be_read(targets: Targets, name: str) -> Exercise:
    """Exercise: read the state of the service. Its requests are not exercised, since they have an effect."""

    def place(kind: str, wanted: str) -> Any:
        found = targets.of(kind)
        if wanted not in found:
            hint = f"correct targets.halts.{name}, or set targets.{kind}.{wanted}"
            raise TargetError(f"there is no {kind} target {wanted}", hint, cause="not_configured")
        return found[wanted]

    def exercise(target: HaltTarget) -> str:
        state = Switch(target, name, place, {}).state()
        if state.halted is None:
            raise state.error
        return state.text

    return exercise
