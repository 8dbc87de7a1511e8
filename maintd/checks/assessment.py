"""One number against its limits: the same for the run's check and for the report's recommendation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from maintd.reports.document import Finding, Mark


class Checks(Protocol):
    """A job's context, seen from below it."""

    def check(
        self,
        name: str,
        observed: float,
        *,
        at_most: float | None,
        at_least: float | None,
        warn_above: float | None,
        warn_below: float | None,
        unit: str,
        hint: str,
    ) -> object:
        """Record a criterion."""
        ...

    def unknown(self, name: str, cause: str, *, hint: str) -> object:
        """Record that a criterion could not be observed."""
        ...


@dataclass(frozen=True)
class Assessment:
    """`name` is the check's; `says` is what it means and `command` the exact next step, when it is not met.

    `value` None is not known, with its `cause`. At most one of the pairs above and below is set.
    """

    area: str
    subject: str
    name: str
    value: float | None
    unit: str = ""
    at_most: float | None = None
    warn_above: float | None = None
    at_least: float | None = None
    warn_below: float | None = None
    says: str = ""
    command: str = ""
    cause: str = ""

    @property
    def mark(self) -> Mark:
        """As the check's status."""
        if self.value is None:
            return "unknown"
        if (self.at_most is not None and self.value > self.at_most) or (
            self.at_least is not None and self.value < self.at_least
        ):
            return "fail"
        if (self.warn_above is not None and self.value > self.warn_above) or (
            self.warn_below is not None and self.value < self.warn_below
        ):
            return "warn"
        return "ok"

    @property
    def finding(self) -> Finding:
        """As a recommendation."""
        says = f"not measured: {self.cause}" if self.value is None else self.says
        return Finding(self.mark, self.area, self.subject, says, self.command)


def tell(ctx: Checks, made: Assessment) -> None:
    """An assessment as a check."""
    hint = made.command or made.says
    if made.value is None:
        ctx.unknown(made.name, made.cause, hint=hint)
        return
    ctx.check(
        made.name,
        made.value,
        at_most=made.at_most,
        at_least=made.at_least,
        warn_above=made.warn_above,
        warn_below=made.warn_below,
        unit=made.unit,
        hint=hint,
    )
