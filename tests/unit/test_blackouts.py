"""Times in which nothing of an entry starts."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from maintd.model.entry import Blackout, Rule, ScheduleKind
from maintd.schedule import blackout_covering, blackout_problem, compile_rule, first_outside

BERLIN = "Europe/Berlin"
EVE = Blackout(name="eve", date=date(2026, 12, 24))
FREEZE = Blackout(name="freeze", first=date(2026, 12, 20), last=date(2027, 1, 3))
HOLIDAYS = Blackout(name="holidays", holidays="DE")
NIGHT = Blackout(name="night", cron="0 22 * * 1-5", lasting=timedelta(hours=8))


@pytest.mark.parametrize(
    ("blackout", "at", "covered"),
    [
        # 24 December in Berlin is 23:00Z of the day before up to 23:00Z.
        (EVE, datetime(2026, 12, 23, 22, 59, 59, tzinfo=UTC), False),
        (EVE, datetime(2026, 12, 23, 23, 0, tzinfo=UTC), True),
        (EVE, datetime(2026, 12, 24, 22, 59, 59, tzinfo=UTC), True),
        (EVE, datetime(2026, 12, 24, 23, 0, tzinfo=UTC), False),
        (FREEZE, datetime(2026, 12, 20, 0, 0, tzinfo=UTC), True),
        (FREEZE, datetime(2027, 1, 3, 22, 59, tzinfo=UTC), True),
        (FREEZE, datetime(2027, 1, 3, 23, 0, tzinfo=UTC), False),
        (HOLIDAYS, datetime(2026, 10, 3, 12, 0, tzinfo=UTC), True),  # German Unity Day
        (HOLIDAYS, datetime(2026, 10, 4, 12, 0, tzinfo=UTC), False),
        (HOLIDAYS, datetime(2031, 4, 14, 12, 0, tzinfo=UTC), True),  # Easter Monday of another year
        # Friday 22:00 CET, for eight hours; not on Saturday.
        (NIGHT, datetime(2026, 12, 4, 20, 59, tzinfo=UTC), False),
        (NIGHT, datetime(2026, 12, 4, 21, 0, tzinfo=UTC), True),
        (NIGHT, datetime(2026, 12, 5, 4, 59, 59, tzinfo=UTC), True),
        (NIGHT, datetime(2026, 12, 5, 5, 0, tzinfo=UTC), False),
        (NIGHT, datetime(2026, 12, 5, 22, 0, tzinfo=UTC), False),
    ],
)
def test_a_blackout_is_in_the_time_zone_of_the_entry(blackout: Blackout, at: datetime, covered: bool) -> None:
    assert blackout_covering([blackout], at, BERLIN) == (blackout if covered else None)


def test_the_first_of_several_blackouts_is_returned() -> None:
    at = datetime(2026, 12, 24, 12, tzinfo=UTC)

    assert blackout_covering([HOLIDAYS, FREEZE, EVE], at, BERLIN) is FREEZE
    assert blackout_covering([], at, BERLIN) is None


def test_overlapping_windows_have_no_gap_between_them() -> None:
    windows = Blackout(cron="0 * * * *", lasting=timedelta(minutes=90))

    assert blackout_covering([windows], datetime(2026, 3, 2, 12, 59, tzinfo=UTC), "UTC") is windows


def test_the_first_due_time_outside_all_blackouts_is_found() -> None:
    daily = compile_rule(Rule(kind=ScheduleKind.PHRASE, text="every day at 08:00", timezone=BERLIN))
    start = datetime(2026, 12, 19, 12, tzinfo=UTC)

    found = first_outside(daily, [EVE, FREEZE, HOLIDAYS], BERLIN, start, start + timedelta(days=365))

    assert found == datetime(2027, 1, 4, 7, 0, tzinfo=UTC)


def test_a_schedule_entirely_in_blackouts_has_no_due_time_and_is_found_quickly() -> None:
    often = compile_rule(Rule(kind=ScheduleKind.EVERY, text="1m", timezone=BERLIN))
    always = Blackout(cron="0 * * * *", lasting=timedelta(hours=1))
    start = datetime(2026, 3, 2, tzinfo=UTC)

    assert first_outside(often, [always], BERLIN, start, start + timedelta(days=1400)) is None


@pytest.mark.parametrize(
    ("blackout", "expected"),
    [
        (Blackout(holidays="GERMANY"), "unknown holidays"),
        (Blackout(holidays="de"), 'did you mean "DE"?'),
        (Blackout(holidays="US-QQ"), 'unknown part "QQ" of the holidays of US'),
        (Blackout(cron="61 * * * *", lasting=timedelta(hours=1)), '"61" is not a minute'),
    ],
)
def test_an_error_in_a_blackout_is_reported(blackout: Blackout, expected: str) -> None:
    assert expected in (blackout_problem(blackout, BERLIN) or "")


@pytest.mark.parametrize("name", ["DE", "DE-BY", "US-NY", "NO", "XNYS"])
def test_countries_their_parts_and_exchanges_have_holidays(name: str) -> None:
    assert blackout_problem(Blackout(holidays=name), BERLIN) is None
    # Good for nothing else: 25 December is one everywhere in this list.
    assert blackout_covering([Blackout(holidays=name)], datetime(2026, 12, 25, 12, tzinfo=UTC), BERLIN) is not None
