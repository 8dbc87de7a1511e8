"""A success criterion as a value: what pure judgement hands to a job, which reports it as a check."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from maintd.model.evidence import CheckStatus

Limit = int | float | timedelta


@dataclass(frozen=True)
class Criterion:
    """Observed and expected, as `ctx.check` takes them. `unknown` says why it could not be observed."""

    name: str
    observed: int | float | str | timedelta | None = None
    equals: int | str | None = None
    at_most: Limit | None = None
    at_least: Limit | None = None
    warn_above: Limit | None = None
    warn_below: Limit | None = None
    severity: CheckStatus = CheckStatus.FAIL
    unit: str = ""
    hint: str = ""
    unknown: str = ""

    @property
    def limits(self) -> dict[str, Any]:
        """The keyword arguments of `ctx.check`."""
        names = ("equals", "at_most", "at_least", "warn_above", "warn_below", "severity", "unit", "hint")
        return {name: getattr(self, name) for name in names}
