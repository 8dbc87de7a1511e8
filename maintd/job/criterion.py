"""Success criteria: one observed value against what is expected of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self

from maintd.errors import JobError, MaintdError, TargetError
from maintd.job.bounded import Bounded
from maintd.job.causes import Role, hint_for, status_of
from maintd.model.evidence import Check, CheckStatus, Scalar, number_of
from maintd.units import value_text

Number = int | float | timedelta | datetime
Observed = Scalar | timedelta | datetime


class _Limit(NamedTuple):
    """One limit as text, whether it is met, the status when it is not, and its value if it has one."""

    text: str
    met: bool
    status: CheckStatus
    value: Observed = None


@dataclass(frozen=True)
class Criterion:
    """A named value and its limits; `evaluate` makes it a check.

    `equals`, `one_of`, `at_most` and `at_least` must hold, else the status is `severity`; `warn_above` and
    `warn_below` only warn. `unknown` is the cause why the value could not be observed; None and NaN are unknown, too.
    `unit="B"` formats limits as sizes. `rule` is the rule that is checked and where it comes from, in a few words:
    `CIS Docker Benchmark 1.6.0, 5.4`. An `optional` criterion may be unknown without an effect on the run's state: a
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
    rule: str = ""
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
        rule: str = "",
    ) -> Self:
        """The criterion of a target that raised an error instead of an answer; see `maintd.job.causes`."""
        cause = error.cause if isinstance(error, TargetError) else "not_configured"
        text = f"{cause}: {error.message}"
        hint = error.hint or hint_for(cause)
        if status_of(cause, role) is CheckStatus.UNKNOWN:
            return cls(name, unknown=text, equals=expected, hint=hint, rule=rule)
        return cls(name, text, equals=expected, hint=hint, rule=rule)

    @property
    def status(self) -> CheckStatus:
        """The outcome."""
        if self._cause():
            return CheckStatus.UNKNOWN
        missed = self._missed()
        return CheckStatus.OK if missed is None else missed.status

    @property
    def expected(self) -> str:
        """All limits in one line."""
        return ", ".join(limit.text for limit in self._limits(known=False))

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
                rule=self.rule,
                optional=self.optional,
            )
        observed, unit = _plain(self.observed, self.unit)
        missed = self._missed()
        return Check(
            name=self.name,
            observed=observed,
            expected=expected,
            unit=unit,
            status=CheckStatus.OK if missed is None else missed.status,
            hint=self.hint,
            rule=self.rule,
            missed_limit=None if missed is None else number_of(_plain(missed.value, self.unit)[0]),
        )

    def _missed(self) -> _Limit | None:
        """The first limit that is not met."""
        return next((limit for limit in self._limits(known=True) if not limit.met), None)

    def _cause(self) -> str:
        missing = self.observed is None or (isinstance(self.observed, float) and math.isnan(self.observed))
        cause = self.unknown or ("no value" if missing else "")
        if cause or not any(limited.overflowed for limited in self.limited_by):
            return cause
        if any(not limit.met and limit.status is CheckStatus.FAIL for limit in self._limits(known=True)):
            return ""
        limit = min(limited.limit for limited in self.limited_by if limited.overflowed)
        return f"only the first {limit:,} were counted; so far {self._text(self.observed)}"

    def _limits(self, *, known: bool) -> Iterator[_Limit]:
        """Each limit; those that only warn come last. Without a known value, none is met."""
        observed: Any = self.observed
        # Of two limits each states what happens beyond it; a single one that fails is what is expected.
        most = "at most" if self.warn_above is None else "fails above"
        least = "at least" if self.warn_below is None else "fails below"
        if self.equals is not None:
            yield _Limit(self._text(self.equals), observed == self.equals, self.severity, self.equals)
        if self.one_of is not None:
            names = ", ".join(self._text(value) for value in self.one_of)
            yield _Limit(f"one of {names}", observed in self.one_of, self.severity)
        if self.at_most is not None:
            within = known and observed <= self.at_most
            yield _Limit(f"{most} {self._text(self.at_most)}", within, self.severity, self.at_most)
        if self.at_least is not None:
            within = known and observed >= self.at_least
            yield _Limit(f"{least} {self._text(self.at_least)}", within, self.severity, self.at_least)
        if self.warn_above is not None:
            within = known and observed <= self.warn_above
            yield _Limit(f"warns above {self._text(self.warn_above)}", within, CheckStatus.WARN, self.warn_above)
        if self.warn_below is not None:
            within = known and observed >= self.warn_below
            yield _Limit(f"warns below {self._text(self.warn_below)}", within, CheckStatus.WARN, self.warn_below)

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
