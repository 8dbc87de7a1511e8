"""Schedules as phrases: `every sunday at 02:00`, `first saturday of jan, apr at 03:30`, `every 15 minutes`.

phrase   = days ["of" months] "at" times | "every" [N] ("minutes" | "hours") ["at" ":MM" {"," ":MM"}]
days     = "every" weekdays | ordinals weekdays | "day" numbers | "last day"
weekdays = "day" | "weekday" | "weekend" | names, separated by commas or "and", or "monday to friday"
numbers  = 1 … 31, "1 to 7", "last";  ordinals = first … fifth, last;  months = "the month" | names;  times = HH:MM, …
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from maintd.errors import nearest
from maintd.schedule.wall_time import EVERY_MONTH, ClockChange, DayRule, WallTimes, nth_days, times_of_day

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)
EVERY_DAY = frozenset(range(7))
WORKING = frozenset(range(5))
WEEKEND = frozenset({5, 6})

_EXAMPLE = 'for example "every sunday at 02:00" or "first saturday of the month at 01:00"'
_ORDINALS = {
    "first": 1,
    "1st": 1,
    "second": 2,
    "2nd": 2,
    "third": 3,
    "3rd": 3,
    "fourth": 4,
    "4th": 4,
    "fifth": 5,
    "5th": 5,
    "last": -1,
}
_GROUPS = {"weekday": WORKING, "weekdays": WORKING, "weekend": WEEKEND, "weekends": WEEKEND}
_TOKEN = re.compile(r"\d{1,2}:\d{2}|:\d{1,2}|\d+(?:st|nd|rd|th)?|[a-z]+|,|-|\S")
_NUMBER = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?")


def _names(names: Iterable[str], start: int) -> dict[str, int]:
    found = {}
    for number, name in enumerate(names, start):
        found.update({name: number, name[:3]: number, f"{name}s": number})
    return found


_WEEKDAY_NUMBERS = _names(WEEKDAYS, 0) | {"tues": 1, "thur": 3, "thurs": 3}
_MONTH_NUMBERS = _names(MONTHS, 1) | {"sept": 9}


@dataclass(frozen=True)
class Days:
    """Days of a month: weekdays, numbers, or groups with ordinals. An ordinal counts within each group of weekdays."""

    weekdays: frozenset[int] = frozenset()
    numbers: tuple[int, ...] = ()  # 1 to 31; -1 is the last day
    groups: tuple[frozenset[int], ...] = ()
    ordinals: tuple[int, ...] = ()  # 1 to 5; -1 is the last

    def of(self, first_weekday: int, length: int) -> list[int]:
        """The days of a month that begins on this weekday (Monday is 0) and has this many days."""
        if self.weekdays:
            return [day for day in range(1, length + 1) if (first_weekday + day - 1) % 7 in self.weekdays]
        if self.numbers:
            return sorted({length if day == -1 else day for day in self.numbers if day <= length})
        return sorted({day for group in self.groups for day in nth_days(first_weekday, length, group, self.ordinals)})


@dataclass(frozen=True)
class Phrase:
    """A parsed phrase: fixed times `at`, in order, or an interval `every`."""

    days: Days
    at: tuple[tuple[int, int], ...] = ()
    months: tuple[int, ...] = EVERY_MONTH
    every: tuple[int, str] | None = None  # 15, "minute"
    past: tuple[int, ...] = (0,)  # minutes past the hour, for an interval in hours

    def wall_times(self, zone: ZoneInfo) -> WallTimes:
        """Its wall times in a time zone."""
        if self.every is None:
            times, clock_change = tuple(hour * 3600 + minute * 60 for hour, minute in self.at), ClockChange.FIXED
        else:
            count, unit = self.every
            hours = range(24) if unit == "minute" else range(0, 24, count)
            minutes = range(0, 60, count) if unit == "minute" else self.past
            times, clock_change = times_of_day(frozenset(hours), frozenset(minutes)), ClockChange.INTERVAL
        return WallTimes(zone, DayRule(self.days.of), times, clock_change, self.months)


def parse_phrase(text: str) -> Phrase:
    """Parse a phrase. Raises ValueError with the error and a correction."""
    words = _Words(text)
    phrase = _repeating(words) or _on_days(words)
    words.end()
    return phrase


class _Words:
    """The words of a phrase, read from the left."""

    def __init__(self, text: str) -> None:
        self.text = " ".join(text.split())
        self._words = [word for word in _TOKEN.findall(text.lower()) if word != "and"]
        self._at = 0
        if not self._words:
            raise ValueError(f"the schedule is empty; {_EXAMPLE}")

    def peek(self, ahead: int = 0) -> str:
        place = self._at + ahead
        return self._words[place] if place < len(self._words) else ""

    def take(self) -> str:
        word = self.peek()
        self._at += 1
        return word

    def accept(self, *words: str) -> bool:
        if self.peek() in words:
            self._at += 1
            return True
        return False

    def end(self) -> None:
        if self.peek():
            raise ValueError(f'"{self.peek()}" is not understood in "{self.text}"; {_EXAMPLE}')

    def names(self, known: dict[str, int], what: str) -> list[int]:
        """A list of names; `a to b` is a range."""
        found = [self._name(known, what)]
        low, size = min(known.values()), len(set(known.values()))
        while True:
            if self.accept("to", "through", "-"):
                last, end = found[-1], self._name(known, what)
                found += [low + (last - low + step) % size for step in range(1, (end - last) % size + 1)]
            elif self.accept(",") or self.peek() in known:
                found.append(self._name(known, what))
            else:
                return found

    def _name(self, known: dict[str, int], what: str) -> int:
        word = self.take()
        if word in known:
            return known[word]
        near = nearest(word, known) if word else None
        advice = f'did you mean "{near}"?' if near else _EXAMPLE
        raise ValueError(f'"{word or "nothing"}" is not a {what} in "{self.text}"; {advice}')


def _repeating(words: _Words) -> Phrase | None:
    if words.peek() not in ("every", "each"):
        return None
    counted = words.peek(1).isdecimal()
    unit = words.peek(2 if counted else 1).removesuffix("s")
    if unit not in ("minute", "hour"):
        if counted:
            raise ValueError(
                f'"{words.text}" is not understood; write every N minutes or every N hours, or use the key `every: 90s`'
            )
        return None
    words.take()
    count = int(words.take()) if counted else 1
    words.take()
    most = 60 if unit == "minute" else 24
    if not (0 < count < most and most % count == 0):
        counts = ", ".join(str(n) for n in range(1, most) if most % n == 0)
        key = f"every: {max(count, 1)}{unit[0]}"
        raise ValueError(f"every {count} {unit}s does not divide a day; N is one of {counts}, or use the key `{key}`")
    past = _past_the_hour(words) if unit == "hour" and words.accept("at") else (0,)
    return Phrase(Days(EVERY_DAY), every=(count, unit), past=past)


def _past_the_hour(words: _Words) -> tuple[int, ...]:
    found: list[int] = []
    while not found or words.accept(",") or words.peek().startswith(":"):
        word = words.take()
        if not re.fullmatch(r":[0-5]\d", word):
            raise ValueError(f'"{word}" is not a minute past the hour in "{words.text}"; for example at :20')
        found.append(int(word[1:]))
    return tuple(sorted(set(found)))


def _on_days(words: _Words) -> Phrase:
    words.accept("on")
    words.accept("the")
    days = _days(words)
    of_months = words.accept("of", "in")
    if days.groups and not of_months:  # "every second saturday" could mean every other saturday
        raise ValueError(f'"{words.text}" has no months; add for example "of the month" before "at"')
    months = _months(words) if of_months else EVERY_MONTH
    if not words.accept("at"):
        words.end()
        raise ValueError(f'"{words.text}" has no time of day; add for example "at 02:00"')
    return Phrase(days, at=tuple(sorted(set(_times(words)))), months=months)


def _days(words: _Words) -> Days:
    every = words.accept("every", "each")
    if words.peek() in _ORDINALS:
        return _ordinal_days(words)
    if words.accept("day", "days"):
        return Days(numbers=_numbers(words)) if _NUMBER.fullmatch(words.peek()) else Days(EVERY_DAY)
    if every and words.peek() in _GROUPS:
        group = _GROUPS[words.take()]
        words.accept("day", "days")
        return Days(group)
    if not every and words.peek() in ("daily", "weekly", "monthly", "hourly"):
        raise ValueError(f'"{words.peek()}" has no day or time; {_EXAMPLE}')
    return Days(frozenset(words.names(_WEEKDAY_NUMBERS, "day")))


def _ordinal_days(words: _Words) -> Days:
    ordinals = [_ORDINALS[words.take()]]
    while words.accept(",") or words.peek() in _ORDINALS:
        if words.peek() not in _ORDINALS:
            raise ValueError(f'"{words.peek()}" is not one of first to fifth, last in "{words.text}"')
        ordinals.append(_ORDINALS[words.take()])
    if words.accept("day", "days"):
        return Days(numbers=tuple(sorted(set(ordinals))))
    if words.peek() in _GROUPS:
        groups: tuple[frozenset[int], ...] = (_GROUPS[words.take()],)
        words.accept("day", "days")
    else:
        groups = tuple(frozenset({day}) for day in words.names(_WEEKDAY_NUMBERS, "day"))
    return Days(groups=groups, ordinals=tuple(sorted(set(ordinals))))


def _numbers(words: _Words) -> tuple[int, ...]:
    found: list[int] = []
    while not found or words.accept(",") or words.peek() in ("the", "last") or _NUMBER.fullmatch(words.peek()):
        words.accept("the")
        if words.accept("last"):
            words.accept("day")
            found.append(-1)
            continue
        first = last = _number(words)
        if words.accept("to", "through", "-"):
            last = _number(words)
            if last < first:
                raise ValueError(f'day {first} to {last} is not a range in "{words.text}"; write the smaller first')
        found += range(first, last + 1)
    return tuple(sorted(set(found)))


def _number(words: _Words) -> int:
    word = words.take()
    match = _NUMBER.fullmatch(word)
    if match is None or not 1 <= int(match[1]) <= 31:
        raise ValueError(f'"{word}" is not a day of the month in "{words.text}"; write 1 to 31, or "last day"')
    return int(match[1])


def _months(words: _Words) -> tuple[int, ...]:
    words.accept("the", "each", "every")
    if words.accept("month"):
        return EVERY_MONTH
    if words.accept("quarter"):
        raise ValueError('"of the quarter" names no months; for example "of jan, apr, jul, oct"')
    return tuple(sorted(set(words.names(_MONTH_NUMBERS, "month"))))


def _times(words: _Words) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    # the tokenizer drops "and": "at 08:00 and 20:00"
    while not found or words.accept(",") or re.fullmatch(r"\d{1,2}:\d{2}", words.peek()):
        word = words.take()
        match = re.fullmatch(r"(\d{1,2}):(\d{2})", word)
        if word in ("midnight", "noon"):
            found.append((0 if word == "midnight" else 12, 0))
        elif match and int(match[1]) < 24 and int(match[2]) < 60:
            found.append((int(match[1]), int(match[2])))
        else:
            raise ValueError(f'"{word}" is not a time of day in "{words.text}"; write 00:00 to 23:59')
        if words.peek() in ("am", "pm"):
            raise ValueError(f'write times from 00:00 to 23:59, without "{words.peek()}", in "{words.text}"')
    return found
