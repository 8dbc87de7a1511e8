"""Schedules and instants in English."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from maintd.model.entry import MANUAL, Rule, ScheduleKind
from maintd.schedule.cron import read_cron, uneven_steps
from maintd.schedule.oncalendar import read_oncalendar
from maintd.schedule.phrases import EVERY_DAY, MONTHS, WEEKDAYS, WEEKEND, WORKING, Days, Phrase, parse_phrase
from maintd.schedule.wall_time import EVERY_MONTH
from maintd.units import format_duration, parse_duration

_ORDINALS = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth", -1: "last"}
_MAX_TIMES = 8  # more times of day than this are described as ranges of minutes and hours
_MAX_MINUTES = 30  # as many as of */2, the shortest step of minutes that is described by its minutes
_SHORT_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@lru_cache(maxsize=4096)
def describe(rule: Rule | None) -> str:
    """`every Sunday at 02:00 (Europe/Berlin)`; `manual only` without a rule. Raises ValueError as `compile_rule`."""
    if rule is None:
        return MANUAL
    return f"{_DESCRIBERS[rule.kind](rule)}{_jitter(rule.jitter)}"


def local_text(at: datetime, timezone: str) -> str:
    """The wall time with the zone's abbreviation: `Sun 2026-12-06 02:00 CET`. Seconds only if they are not zero."""
    local = at.astimezone(ZoneInfo(timezone))
    time = f"{local:%H:%M:%S}" if local.second else f"{local:%H:%M}"
    return f"{_SHORT_DAYS[local.weekday()]} {local:%Y-%m-%d} {time} {local.tzname()}"


def phrase_text(phrase: Phrase) -> str:
    """`the first Saturday of January and April at 03:30`, without the time zone."""
    if phrase.every is not None:
        count, unit = phrase.every
        text = f"every {unit}" if count == 1 else f"every {count} {unit}s"
        return text if phrase.past == (0,) else f"{text} at {_list(f':{minute:02}' for minute in phrase.past)}"
    times = _list(f"{hour:02}:{minute:02}" for hour, minute in phrase.at)
    return f"{_days(phrase.days, phrase.months)} at {times}"


def _phrase(rule: Rule) -> str:
    return f"{phrase_text(parse_phrase(rule.text))} ({rule.timezone})"


def _cron(rule: Rule) -> str:
    read = read_cron(rule.text)
    days = _cron_days(read)
    times = sorted((hour, minute) for hour in read.hours for minute in read.minutes)
    minutes = sorted(read.minutes)
    step = minutes[1] - minutes[0] if len(minutes) > 1 else 0
    all_day = days == Days(EVERY_DAY) and len(read.hours) == 24 and len(read.months) == 12
    if days is not None and len(times) <= _MAX_TIMES:
        text = phrase_text(Phrase(days, at=tuple(times), months=tuple(sorted(read.months))))
    elif all_day and step and 60 % step == 0 and minutes == list(range(0, 60, step)):
        text = phrase_text(Phrase(Days(EVERY_DAY), every=(step, "minute")))
    elif all_day and len(minutes) <= _MAX_MINUTES:
        text = phrase_text(Phrase(Days(EVERY_DAY), every=(1, "hour"), past=tuple(minutes)))
    elif uneven_steps(rule.text):
        # cronsim describes */45 as "every 45th minute".
        when = f"at {_values_text(read.minutes, 60, 'minute')} of {_values_text(read.hours, 24, 'hour')}"
        on = "every day" if days == Days(EVERY_DAY) and len(read.months) == 12 else _explained_days(read)
        text = f"{when}, {on}"
    else:
        text = read.explain()
        text = text[0].lower() + text[1:]
    return f"{text} ({rule.timezone})"


def _explained_days(read: Any) -> str:
    explained: str = read_cron(f"0 0 {' '.join(read.parts[3:])}").explain()
    return explained.removeprefix("At 00:00 ")


def _cron_days(read: Any) -> Days | None:
    """The days of an expression as days of a phrase; None if no phrase can express them."""
    any_number = read.days == set(range(1, 32))
    plain = {day % 7 for day in read.weekdays if isinstance(day, int)}  # cron's 0 is Sunday
    nth = [day for day in read.weekdays if isinstance(day, tuple)]
    if not nth and plain == EVERY_DAY:
        numbers = [-1 if day == read.LAST else day for day in sorted(read.days)]
        if any_number:
            return Days(EVERY_DAY)
        return (
            Days(numbers=(*[n for n in numbers if n > 0], *[n for n in numbers if n == -1]))
            if min(numbers) > -2
            else None
        )
    if not any_number or not read.day_and:
        return None
    if not nth:
        return Days(frozenset((day - 1) % 7 for day in plain))
    if len(nth) == 1 and not plain:
        weekday, ordinal = nth[0]
        return Days(groups=(frozenset({(weekday - 1) % 7}),), ordinals=(-1 if ordinal == read.LAST else ordinal,))
    return None


def _oncalendar(rule: Rule) -> str:
    lines: list[str] = []
    for read, zone in read_oncalendar(rule.text):
        times = sorted((h, m, s) for h in read.hours for m in read.minutes for s in read.seconds)[: _MAX_TIMES + 1]
        if len(times) <= _MAX_TIMES:
            at = "at " + _list(f"{h:02}:{m:02}" + (f":{s:02}" if s else "") for h, m, s in times)
        else:
            at = f"at {_values_text(read.minutes, 60, 'minute')} of {_values_text(read.hours, 24, 'hour')}"
            if read.seconds != {0}:
                at = (
                    f"at {_values_text(read.seconds, 60, 'second')} of {_values_text(read.minutes, 60, 'minute')} of "
                    + _values_text(read.hours, 24, "hour")
                )
        months = tuple(sorted(read.months))
        weekdays = frozenset(read.weekdays)
        numbers = sorted(read.days)
        if set(numbers) >= set(range(1, 32)):
            days = _days(Days(weekdays), months)
        elif weekdays == EVERY_DAY and min(numbers) >= -1:
            days = _days(Days(numbers=(*[n for n in numbers if n > 0], *[n for n in numbers if n < 0])), months)
        else:
            named = _ranges([n for n in numbers if n > 0]) + [
                f"{-n} before the end" if n < -1 else "the last" for n in numbers if n < 0
            ]
            days = f"{_weekdays(weekdays)} that is day {_list(named, 'or')} of {_months(months)}"
        years = "" if len(read.years) > 200 else f", in {_list(_ranges(sorted(read.years)))}"
        lines.append(f"{days} {at}{years} ({zone.key if zone else rule.timezone})")
    return "; and ".join(lines)


def _every(rule: Rule) -> str:
    return f"every {format_duration(parse_duration(rule.text))}"


def _at(rule: Rule) -> str:
    at = datetime.fromisoformat(rule.text.strip())
    zone = ZoneInfo(rule.timezone)
    return f"once, on {local_text(at.replace(tzinfo=zone) if at.tzinfo is None else at.astimezone(UTC), rule.timezone)}"


def _jitter(jitter: timedelta) -> str:
    return f", up to {format_duration(jitter)} later" if jitter else ""


def _days(days: Days, months: Sequence[int]) -> str:
    named = len(months) < 12
    of = f" of {_months(months)}" if named else ""
    if days.weekdays:
        return f"{_weekdays(days.weekdays)}{of}"
    of = of or " of the month"
    if days.numbers == (-1,):
        return f"the last day{of}"
    if days.numbers:
        numbers = [str(day) for day in days.numbers if day > 0] if len(days.numbers) < 4 else _ranges(days.numbers)
        return f"day {_list([*numbers, *(['the last day'] if -1 in days.numbers else [])])}{of}"
    ordinals = _list(_ORDINALS[ordinal] for ordinal in sorted(days.ordinals, key=lambda n: n % 7))
    return f"the {ordinals} {_list(_group(group) for group in days.groups)}{of}"


def _weekdays(weekdays: frozenset[int]) -> str:
    return f"every {_group(weekdays)}"


def _group(weekdays: Iterable[int]) -> str:
    wanted = frozenset(weekdays)
    if wanted == EVERY_DAY:
        return "day"
    if wanted == WORKING:
        return "weekday"
    if wanted == WEEKEND:
        return "weekend day"
    return _list(WEEKDAYS[day].title() for day in sorted(wanted))


def _months(months: Sequence[int]) -> str:
    return "any month" if tuple(months) == EVERY_MONTH else _list(MONTHS[month - 1].title() for month in months)


def _values_text(values: set[int], size: int, unit: str) -> str:
    if len(values) == size:
        return f"every {unit}"
    ordered = sorted(values)
    step = ordered[1] - ordered[0] if len(ordered) > 1 else 0
    if step and size % step == 0 and ordered == list(range(0, size, step)):
        return f"every {step} {unit}s"
    return f"{unit} {_list(_ranges(ordered))}"


def _ranges(numbers: Iterable[int]) -> list[str]:
    """1, 2, 3, 7 → 1 to 3, 7."""
    found: list[list[int]] = []
    for number in (n for n in numbers if n > 0 or n == 0):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return [str(low) if low == high else f"{low} to {high}" for low, high in found]


def _list(words: Iterable[str], last: str = "and") -> str:
    *head, tail = words
    return f"{', '.join(head)} {last} {tail}" if head else tail


_DESCRIBERS = {
    ScheduleKind.PHRASE: _phrase,
    ScheduleKind.CRON: _cron,
    ScheduleKind.ONCALENDAR: _oncalendar,
    ScheduleKind.EVERY: _every,
    ScheduleKind.AT: _at,
}
