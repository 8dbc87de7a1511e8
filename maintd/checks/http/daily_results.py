"""Figures that a service reports about its day: finite, of today, within limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

from maintd.checks.limits import Limits
from maintd.clients import http
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.model.target import HttpTarget

_EXACT = 2**53 / 100  # a double cannot represent cents beyond this


_NOT_HALTED = "halt it, or set the param figures.expect_halted to false"


class FigureLimits(Limits):
    """Fields of the answer and their limits."""

    numbers: tuple[str, ...] = ("realized", "percent")
    """Must be finite numbers; each is kept as a measure."""
    positive: tuple[str, ...] = ()
    """Must be above zero once the day is initialised, such as the equity at its start."""
    date: str | None = "date"
    """Field with the day of the figures, in UTC; null: not checked."""
    halted: str | None = "halted"
    """Field that reports whether it is halted; null: not checked."""
    expect_halted: bool = False
    """The expected value of `halted`."""
    target: str | None = "dailyTargetPct"
    """Field with the result in percent at which the service halts for the rest of the day: then it may be halted."""
    percent: str | None = "percent"
    """Field with the day's result in percent; null: not checked."""
    percent_warn: float = -1
    percent_fail: float = -2
    """Fail when the result is as low as this; `percent_warn` warns."""


def collect(target: HttpTarget) -> Mapping[str, Any]:
    """The service's answer. Raises TargetError unless it is a JSON object with status 200."""
    answer = http.get(target)
    if answer.status in (401, 403):
        raise TargetError(f"{answer.url} answered {answer.status}", "check the target's headers", cause="denied")
    if answer.status != 200:
        raise TargetError(
            f"{answer.url} answered {answer.status}",
            "look for the error of this request in the service's log",
            cause="failed",
        )
    figures = answer.json()
    if not isinstance(figures, Mapping):
        raise TargetError(f"{answer.url} did not answer a JSON object", "check the path", cause="malformed")
    return figures


def report(ctx: Context, figures: Mapping[str, Any], limits: FigureLimits, today: date) -> None:
    """Report the checks and measures of one answer."""
    for field in dict.fromkeys((*limits.numbers, *limits.positive)):
        value = finite(figures.get(field))
        positive = field in limits.positive
        if value is None or (positive and value <= 0):
            uninitialised = "the day is not initialised: it may have been halted before the first request of the day"
            ctx.fail(
                f"figures: {field}",
                as_text(figures.get(field)),
                expected="above 0" if positive else "a finite number",
                hint=uninitialised
                if positive
                else f"the service did not compute {field} of the day: see its log, and the row of the day",
            )
            continue
        ctx.check(f"figures: {field}", value, at_least=0 if positive else -_EXACT, at_most=_EXACT)
        if field in limits.numbers:
            ctx.measure(f"figure_{field}", value)
    if limits.date is not None:
        ctx.check(
            "figures: day",
            as_text(figures.get(limits.date)),
            equals=today.isoformat(),
            hint="the service has not begun the day, or its clock is wrong: compare it with date -u",
        )
    if limits.halted is not None:
        hint = "find out why it was halted before it is resumed" if not limits.expect_halted else _NOT_HALTED
        halted = figures.get(limits.halted)
        reached = halted is True and _target_reached(figures, limits)
        if reached and not limits.expect_halted:
            ctx.check("figures: halted", "the daily target is reached", one_of=("the daily target is reached", False))
        elif isinstance(halted, bool):
            ctx.check("figures: halted", halted, equals=limits.expect_halted, hint=hint)
        else:
            ctx.fail(
                "figures: halted",
                as_text(halted),
                expected=str(limits.expect_halted),
                hint=f"the answer has no boolean field {limits.halted}: correct figures.halted in the params",
            )
        ctx.measure("halted", halted is True)
    if limits.percent is not None and (percent := finite(figures.get(limits.percent))) is not None:
        hint = "a loss: review the trades"
        low = percent <= limits.percent_fail
        status = CheckStatus.FAIL if low else CheckStatus.WARN
        limit = limits.percent_fail if low else limits.percent_warn
        ctx.check(
            "figures: result of the day",
            percent,
            at_least=math.nextafter(limit, math.inf),
            severity=status,
            unit="%",
            hint=hint,
        )


def _target_reached(figures: Mapping[str, Any], limits: FigureLimits) -> bool:
    if limits.target is None or limits.percent is None:
        return False
    target, percent = finite(figures.get(limits.target)), finite(figures.get(limits.percent))
    return target is not None and percent is not None and 0 < target <= percent


def finite(value: object) -> float | None:
    """A finite number, also from text; None for anything else, also booleans."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def as_text(value: object) -> str:
    """A field as text of at most a hundred characters."""
    return "missing" if value is None else str(value)[:100]
