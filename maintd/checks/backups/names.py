"""Dates and times in the names of backups: when a backup was made, and which backups form one series."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

_MONTHS = [
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
]
_WEEKDAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_MONTH = "|".join([*_MONTHS, *(name[:3] for name in _MONTHS), "sept"])
_WEEKDAY = "|".join([*_WEEKDAYS, *(name[:3] for name in _WEEKDAYS), "tues", "thur", "thurs"])

# After a date: 02:00, 02-00-00, 0200, 020000, 02h00m, 020000.123, then Z or an offset.
_TIME = (
    r"(?:(?:[-_.T \s]|__|--|_at_)?(?P<hour>[01]\d|2[0-3])[-:_.h]?(?P<minute>[0-5]\d)m?"
    r"(?:[-:_.]?(?P<second>[0-5]\d)s?(?:[.,]\d{1,9})?)?(?:Z|UTC|[+-]\d\d:?\d\d)?)?"
)
_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        # 2026-03-01, 20260301, 2026_03_01, 2026.03.01, with or without a time
        r"(?<!\d)(?P<year>20\d\d)(?P<s>[-_.]?)(?P<month>0[1-9]|1[0-2])(?P=s)(?P<day>0[1-9]|[12]\d|3[01])"
        + _TIME
        + r"(?!\d)",
        # 01-03-2026, 01.03.2026
        r"(?<!\d)(?P<day>0[1-9]|[12]\d|3[01])(?P<s>[-_.])(?P<month>0[1-9]|1[0-2])(?P=s)(?P<year>20\d\d)"
        + _TIME
        + r"(?!\d)",
        # February_19_2024, Feb-19-2024
        rf"(?<![a-z])(?P<monthname>{_MONTH})[-_. ]?(?P<day>\d\d?)(?:st|nd|rd|th)?[-_., ]{{0,2}}(?P<year>20\d\d)"
        + _TIME
        + r"(?!\d)",
        # 19-Feb-2024, 19February2024
        rf"(?<!\d)(?P<day>\d\d?)[-_. ]?(?P<monthname>{_MONTH})[-_. ]?(?P<year>20\d\d)" + _TIME + r"(?!\d)",
        # 2026-W09, 2026_week_09
        r"(?<!\d)(?P<year>20\d\d)[-_.]?(?:W|week[-_.]?|KW)(?P<week>0[1-9]|[1-4]\d|5[0-3])(?:-?[1-7])?(?!\d)",
        # 2026-03: a month
        r"(?<!\d)(?P<year>20\d\d)[-_.](?P<month>0[1-9]|1[0-2])(?!\d)",
        # 1790000000: seconds, or milliseconds, since 1970, from 2001 to 2033
        r"(?<!\d)(?P<epoch>1\d{9})(?:\d{3})?(?!\d)",
        # Monday, February, week 9
        rf"(?<![a-z])(?:{'|'.join(_WEEKDAYS)}|{'|'.join(_MONTHS)})(?![a-z])",
        r"(?<![a-z])week[-_. ]?\d\d?(?!\d)",
    )
)
# Short names are also words and hosts ("sun", "mar"): a date only at the end of a name, or beside a date.
_SHORT = re.compile(
    rf"(?<![a-z])(?:{_WEEKDAY}|{_MONTH})(?![a-z])(?=[-_. ]*#|\.|$)|(?<=#)[-_. ]*(?:{_WEEKDAY}|{_MONTH})(?![a-z])",
    re.IGNORECASE,
)
# Hours and minutes alone, as in 2026-03-01/0200.dump, are a time only in a folder with a date.
_TIME_ALONE = re.compile(r"(?:[01]\d|2[0-3])[-:_.h]?[0-5]\dm?(?:[-:_.]?[0-5]\ds?)?(?=\.|$)", re.IGNORECASE)


@dataclass(frozen=True)
class DatePart:
    """A part of a name that is a date or a time. `at`: the instant, read as UTC; None for a weekday, week or month."""

    begin: int
    end: int
    at: datetime | None


def date_parts(name: str) -> list[DatePart]:
    """Return the parts of a file name that are dates or times, from left to right."""
    found: list[DatePart] = []
    for form in _FORMS:
        for match in form.finditer(name):
            if all(match.end() <= part.begin or match.start() >= part.end for part in found):
                try:
                    found.append(DatePart(match.start(), match.end(), _instant(match.groupdict())))
                except ValueError:
                    continue  # 20260231 is a number
    return sorted(found, key=lambda part: part.begin)


def series_of(relative: str) -> str:
    """Return a path with its dates and times replaced by `#`: equal for all backups of one series.

    Other numbers are kept: they identify a guest, a host or a database.
    """
    dated, parts = False, []
    for part in relative.split("/"):
        text, at = "", 0
        for date in date_parts(part):
            text += part[at : date.begin] + "#"
            at = date.end
        text += part[at:]
        text = _SHORT.sub("#", text)
        if dated and text == part and (alone := _TIME_ALONE.match(part)):
            text = "#" + part[alone.end() :]
        dated = dated or "#" in text
        parts.append(re.sub(r"#(?:[-_. ]*#)+", "#", text))
    return "/".join(parts)


def instants(relative: str) -> Iterator[datetime]:
    """Yield the latest date in each name of a path, that of the last name first."""
    for part in reversed(relative.split("/")):
        if found := [date.at for date in date_parts(part) if date.at is not None]:
            yield max(found)


def _instant(found: dict[str, str | None]) -> datetime | None:
    """Return the instant of a match; None when it has no day. Raises ValueError for a day that does not exist."""
    if epoch := found.get("epoch"):
        return datetime.fromtimestamp(int(epoch), UTC)
    year, day = found.get("year"), found.get("day")
    if not year or not day:
        return None
    month = found.get("month")
    number = int(month) if month else _month(found.get("monthname") or "")
    hour, minute, second = (int(found.get(key) or 0) for key in ("hour", "minute", "second"))
    return datetime(int(year), number, int(day), hour, minute, second, tzinfo=UTC)


def _month(name: str) -> int:
    return next(n for n, month in enumerate(_MONTHS, start=1) if month.startswith(name.lower()[:3]))
