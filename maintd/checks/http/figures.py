"""Figures that a service reports about its day: finite, of today, and as they should be."""

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

_EXACT = 2**53 / 100  # beyond this a double no longer holds cents: no such figure is meant


class FigureLimits(Limits):
    """Which fields of the answer are looked at, and what is expected of them."""

    numbers: tuple[str, ...] = ("realized", "percent")
    """Must be finite numbers; each is kept as a measure."""
    positive: tuple[str, ...] = ()
    """Are above zero as soon as the day is initialised, such as the equity at its start."""
    date: str | None = "date"
    """The day of the figures, in UTC; none: not looked at."""
    halted: str | None = "halted"
    """Whether it is halted; none: not looked at."""
    expect_halted: bool = False
    """Whether it should be."""
    percent: str | None = "percent"
    """The day's result in percent; none: not looked at."""
    percent_warn: float = -1
    percent_fail: float = -2
    """A result as low as this."""


def look(target: HttpTarget) -> Mapping[str, Any]:
    """The service's answer. Raises TargetError unless it is an object of JSON with status 200."""
    answer = http.look(target)
    if answer.status in (401, 403):
        raise TargetError(f"{answer.url} answered {answer.status}", "check the target's headers", cause="denied")
    if answer.status != 200:
        raise TargetError(f"{answer.url} answered {answer.status}", "look at the service's log", cause="failed")
    figures = answer.json()
    if not isinstance(figures, Mapping):
        raise TargetError(f"{answer.url} answered no object", "is the path right?", cause="malformed")
    return figures


def judge(ctx: Context, figures: Mapping[str, Any], limits: FigureLimits, today: date) -> None:
    """Checks and measures of one answer."""
    for field in dict.fromkeys((*limits.numbers, *limits.positive)):
        value = finite(figures.get(field))
        positive = field in limits.positive
        if value is None or (positive and value <= 0):
            uninitialised = "the day is not initialised: was it halted before the first question of the day?"
            ctx.fail(
                f"figures: {field}",
                shown(figures.get(field)),
                expected="above 0" if positive else "a finite number",
                hint=uninitialised if positive else "the day's record is damaged",
            )
            continue
        ctx.check(f"figures: {field}", value, at_least=0 if positive else -_EXACT, at_most=_EXACT)
        if field in limits.numbers:
            ctx.measure(f"figure_{field}", value)
    if limits.date is not None:
        ctx.check(
            "figures: day",
            shown(figures.get(limits.date)),
            equals=today.isoformat(),
            hint="figures of another day: is its clock right?",
        )
    if limits.halted is not None:
        hint = "find out who halted it and why" if not limits.expect_halted else "it should be halted now"
        halted = figures.get(limits.halted)
        if isinstance(halted, bool):
            ctx.check("figures: halted", halted, equals=limits.expect_halted, hint=hint)
        else:
            ctx.fail(
                "figures: halted", shown(halted), expected=str(limits.expect_halted), hint="the answer does not say"
            )
        ctx.measure("halted", halted is True)
    if limits.percent is not None and (percent := finite(figures.get(limits.percent))) is not None:
        hint = "a loss: look at what was traded"
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


def finite(value: object) -> float | None:
    """A finite number, also written as text; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def shown(value: object) -> str:
    """A field for a person, cut to a hundred characters."""
    return "missing" if value is None else str(value)[:100]
