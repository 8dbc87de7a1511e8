"""Success criteria: one observed value against what is expected of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from maintd.errors import JobError, MaintdError, TargetError
from maintd.job.bounded import Bounded
from maintd.job.causes import Role, hint_for, status_of
from maintd.model.evidence import Check, CheckStatus, Scalar
from maintd.units import value_text

Number = int | float | timedelta | datetime
Observed = Scalar | timedelta | datetime


@dataclass(frozen=True)
class Criterion:
    """A named value and its limits; `evaluate` makes it a check.

    `equals`, `one_of`, `at_most` and `at_least` must hold, else the status is `severity`; `warn_above` and
    `warn_below` only warn. `unknown` is the cause why the value could not be observed; None and NaN are unknown, too.
    `unit="B"` formats limits as sizes. An `optional` criterion may be unknown without an effect on the run's state: a
    fact of the site, such as checksums that are not written. `limited_by` are the collections that the value comes
    from: when one of them left something out, the criterion cannot be ok, and is unknown unless it fails anyway.
    """

    name: str
    observed: Observed = None
    equals: Scalar = None
    one_of: Sequence[Scalar] | None = None
    at_most: Number | None = None
    at_least: Number | None = None
    warn_above: Number | None = None
    warn_below: Number | None = None
    severity: CheckStatus = CheckStatus.FAIL
    unit: str = ""
    hint: str = ""
    unknown: str = ""
    optional: bool = False
    limited_by: Sequence[Bounded] = ()

    @classmethod
    def from_error(
        cls,
        name: str,
        error: MaintdError,
        *,
        expected: str = "an answer",
        role: Role = Role.SUBJECT,
    ) -> Self:
        """The criterion of a target that raised an error instead of an answer; see `maintd.job.causes`."""
        cause = error.cause if isinstance(error, TargetError) else "not_configured"
        text = f"{cause}: {error.message}"
        hint = error.hint or hint_for(cause)
        if status_of(cause, role) is CheckStatus.UNKNOWN:
            return cls(name, unknown=text, equals=expected, hint=hint)
        return cls(name, text, equals=expected, hint=hint)

    @property
    def status(self) -> CheckStatus:
        """The outcome."""
        if self._cause():
            return CheckStatus.UNKNOWN
        for _, met, missed in self._limits(known=True):
            if not met:
                return missed
        return CheckStatus.OK

    @property
    def expected(self) -> str:
        """All limits in one line."""
        return ", ".join(text for text, _, _ in self._limits(known=False))

    def evaluate(self) -> Check:
        """The check: durations are in seconds, instants in ISO 8601, UTC. Raises JobError without any limit."""
        expected = self.expected
        cause = self._cause()
        if not expected and not self.unknown:
            raise JobError(
                f'check "{self.name}" has no limit', "give at_most, at_least, equals, one_of, warn_above or warn_below"
            )
        if cause:
            return Check(
                name=self.name,
                observed=f"unknown: {cause}",
                expected=expected or "an answer",
                status=CheckStatus.UNKNOWN,
                hint=self.hint,
                optional=self.optional,
            )
        observed, unit = _plain(self.observed, self.unit)
        return Check(
            name=self.name, observed=observed, expected=expected, unit=unit, status=self.status, hint=self.hint
        )

    def _cause(self) -> str:
        missing = self.observed is None or (isinstance(self.observed, float) and math.isnan(self.observed))
        cause = self.unknown or ("no value" if missing else "")
        if cause or not any(limited.overflowed for limited in self.limited_by):
            return cause
        if any(not met and missed is CheckStatus.FAIL for _, met, missed in self._limits(known=True)):
            return ""
        limit = min(limited.limit for limited in self.limited_by if limited.overflowed)
        return f"only the first {limit:,} were counted; so far {self._text(self.observed)}"

    def _limits(self, *, known: bool) -> Iterator[tuple[str, bool, CheckStatus]]:
        """Each limit as text, whether it is met, and the status when it is not; those that only warn come last."""
        observed: Any = self.observed
        # Of two limits each states what happens beyond it; a single one that fails is what is expected.
        most = "at most" if self.warn_above is None else "fails above"
        least = "at least" if self.warn_below is None else "fails below"
        if self.equals is not None:
            yield self._text(self.equals), observed == self.equals, self.severity
        if self.one_of is not None:
            yield (
                "one of " + ", ".join(self._text(value) for value in self.one_of),
                observed in self.one_of,
                self.severity,
            )
        if self.at_most is not None:
            yield f"{most} {self._text(self.at_most)}", known and observed <= self.at_most, self.severity
        if self.at_least is not None:
            yield f"{least} {self._text(self.at_least)}", known and observed >= self.at_least, self.severity
        if self.warn_above is not None:
            within = known and observed <= self.warn_above
            yield f"warns above {self._text(self.warn_above)}", within, CheckStatus.WARN
        if self.warn_below is not None:
            within = known and observed >= self.warn_below
            yield f"warns below {self._text(self.warn_below)}", within, CheckStatus.WARN

    def _text(self, value: Observed) -> str:
        return value_text(*_plain(value, self.unit), exact=True)


def _plain(value: Observed, unit: str) -> tuple[Scalar, str]:
    """A value as it is stored with a check, and its unit."""
    if isinstance(value, timedelta):
        return round(value.total_seconds(), 3), "s"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"), unit
    if isinstance(value, float):
        return float(f"{value:.6g}"), unit
    return value, unit
