"""Blackouts, in which no run of an entry starts: dates, ranges of dates, holidays, and windows that begin by cron."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from maintd.errors import nearest
from maintd.model.entry import Blackout, Rule, ScheduleKind
from maintd.schedule.schedule import Schedule, compile_rule

_DAY = timedelta(days=1)
_TICK = timedelta(microseconds=1)

_MAX_STEPS = 5000  # over consecutive blackouts; each step takes about 50 µs


def blackout_covering(blackouts: Sequence[Blackout], at: datetime, timezone: str) -> Blackout | None:
    """The first blackout that contains the instant, or None. Dates are in `timezone`, both ends included."""
    return next((blackout for blackout in blackouts if _end(blackout, at, timezone) is not None), None)


def first_outside(
    schedule: Schedule, blackouts: Sequence[Blackout], timezone: str, after: datetime, until: datetime
) -> datetime | None:
    """The first due time in (after, until] outside of all blackouts; None if there is none."""
    for _ in range(_MAX_STEPS):
        at = schedule.next_after(after)
        if at is None or at > until:
            return None
        ends = [end for blackout in blackouts if (end := _end(blackout, at, timezone)) is not None]
        if not ends:
            return at
        after = max(at, max(ends) - _TICK)
    return None


def blackout_problem(blackout: Blackout, timezone: str) -> str | None:
    """The error in the holidays or the cron expression of a blackout; None if there is none."""
    try:
        if blackout.holidays is not None:
            _holidays_of(blackout.holidays)
        if blackout.cron is not None:
            _window(blackout.cron, timezone)
    except ValueError as error:
        return str(error)
    return None


def _end(blackout: Blackout, at: datetime, timezone: str) -> datetime | None:
    """When the blackout ends, if it contains the instant; else None."""
    if blackout.cron is not None:
        assert blackout.lasting is not None
        # Windows can overlap; the one that began last ends last.
        began = None
        for began in _window(blackout.cron, timezone).instants(at - blackout.lasting):
            return began + blackout.lasting if began <= at else None
        return None
    zone = ZoneInfo(timezone)
    day = at.astimezone(zone).date()
    if blackout.holidays is not None:
        last = day if day in _holidays_of(blackout.holidays) else None
    else:
        first = blackout.date or blackout.first or day
        until = blackout.date or blackout.last or day
        last = until if first <= day <= until else None
    if last is None:
        return None
    if last == date.max:
        return datetime.max.replace(tzinfo=UTC)
    following = last + _DAY
    return datetime(following.year, following.month, following.day, tzinfo=zone).astimezone(UTC)


def _window(cron: str, timezone: str) -> Schedule:
    return compile_rule(Rule(kind=ScheduleKind.CRON, text=cron, timezone=timezone))


@lru_cache(maxsize=64)
def _holidays_of(name: str) -> Mapping[date, str]:
    """A calendar of the holidays library: `DE`, `US-NY`, `XNYS`. The library computes each year at its first use."""
    import holidays  # 50 ms and 8 MiB, only needed for calendars with holidays

    country, _, part = name.partition("-")
    countries, markets = holidays.list_supported_countries(), holidays.list_supported_financial()
    found: Mapping[date, str]
    if country in countries:
        if part and part not in countries[country]:
            near = nearest(part, countries[country])
            advice = (
                f'did you mean "{country}-{near}"?'
                if near
                else f"the parts are {', '.join(countries[country]) or 'none'}"
            )
            raise ValueError(f'unknown part "{part}" of the holidays of {country}; {advice}')
        found = holidays.country_holidays(country, subdiv=part or None)
    elif name in markets:
        found = holidays.financial_holidays(name)
    else:
        near = nearest(name.upper(), [*countries, *markets])
        raise ValueError(
            f'unknown holidays "{name}"; '
            + (
                f'did you mean "{near}"?'
                if near
                else "write a country (DE), a part of one (US-NY) or an exchange (XNYS)"
            )
        )
    return found
