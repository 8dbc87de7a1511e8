"""Phrases and expressions: due times, descriptions and errors."""

from __future__ import annotations

import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maintd.model.entry import Rule, ScheduleKind
from maintd.schedule import compile_rule, describe, local_text, upcoming, zone_problem
from tests.support.effort import calls_of

NOW = datetime(2026, 10, 20, tzinfo=UTC)


def rule(kind: str, text: str, zone: str = "UTC") -> Rule:
    return Rule(kind=ScheduleKind(kind), text=text, timezone=zone)


SAME = [
    ("every day at 08:00", "0 8 * * *"),
    ("Every Day at 8:00", "0 8 * * *"),
    ("every day at 08:00 and 20:00", "0 8,20 * * *"),
    ("every day at midnight, noon", "0 0,12 * * *"),
    ("every weekday at 08:00", "0 8 * * 1-5"),
    ("monday to friday at 08:00", "0 8 * * 1-5"),
    ("friday to monday at 08:00", "0 8 * * 5,6,0,1"),
    ("every weekend at 08:00", "0 8 * * 6,0"),
    ("on sundays at 02:00", "0 2 * * 0"),
    ("every monday, wed and friday at 02:00", "0 2 * * 1,3,5"),
    ("every sunday of jan and july at 02:00", "0 2 * 1,7 0"),
    ("first saturday of the month at 01:00", "0 1 * * SAT#1"),
    ("second saturday of mar, jun, sep, dec at 01:00", "0 1 * 3,6,9,12 SAT#2"),
    ("the last saturday of the month at 01:00", "0 1 * * 6L"),
    ("first and third monday of each month at 01:00", "0 1 * * 1#1,1#3"),
    ("day 15 of the month at 01:00", "0 1 15 * *"),
    ("day 1, 15 and last day of the month at 01:00", "0 1 1,15,L * *"),
    ("day 1 to 7, 15 and last day of the month at 01:00", "0 1 1-7,15,L * *"),
    ("first day of jan, apr, jul, oct at 03:30", "30 3 1 1,4,7,10 *"),
    ("last day of the month at 23:00", "0 23 L * *"),
    ("last weekday of the month at 18:00", "0 18 LW * *"),
    ("every 15 minutes", "*/15 * * * *"),
    ("every minute", "* * * * *"),
    ("every 2 hours", "0 */2 * * *"),
    ("every hour at :20, :50", "20,50 * * * *"),
]


@pytest.mark.parametrize(("phrase", "cron"), SAME)
def test_a_phrase_means_the_same_as_its_cron_expression(phrase: str, cron: str) -> None:
    for zone in ("UTC", "Europe/Berlin"):
        ours, theirs = compile_rule(rule("phrase", phrase, zone)), compile_rule(rule("cron", cron, zone))
        assert list(islice(ours.instants(NOW), 60)) == list(islice(theirs.instants(NOW), 60))


def test_the_first_weekday_of_a_month_is_its_first_monday_to_friday() -> None:
    times = compile_rule(rule("phrase", "first weekday of the month at 08:00")).instants(NOW)

    # 1 November 2026 is a Sunday, 1 December a Tuesday, 1 January 2027 a Friday.
    assert [at.day for at in islice(times, 3)] == [2, 1, 1]


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("phrase", "every sunday at 2:00", "every Sunday at 02:00 (Europe/Berlin)"),
        ("phrase", "mon to fri at 09:00", "every weekday at 09:00 (Europe/Berlin)"),
        (
            "phrase",
            "first saturday of oct, jan at 03:30",
            "the first Saturday of January and October at 03:30 (Europe/Berlin)",
        ),
        (
            "phrase",
            "day 1 and 15 of the month at 01:00, 13:00",
            "day 1 and 15 of the month at 01:00 and 13:00 (Europe/Berlin)",
        ),
        ("phrase", "last day of february at 23:59", "the last day of February at 23:59 (Europe/Berlin)"),
        ("phrase", "every hour at :20", "every hour at :20 (Europe/Berlin)"),
        ("cron", "0 2 * * 0", "every Sunday at 02:00 (Europe/Berlin)"),
        ("cron", "0 2 * * 7", "every Sunday at 02:00 (Europe/Berlin)"),
        ("cron", "*/15 * * * *", "every 15 minutes (Europe/Berlin)"),
        ("cron", "20 * * * *", "every hour at :20 (Europe/Berlin)"),
        ("cron", "0 3 * * SAT#1", "the first Saturday of the month at 03:00 (Europe/Berlin)"),
        ("cron", "0 1 13 * 5", "at 01:00 on the 13th day of month and on Friday (Europe/Berlin)"),
        ("oncalendar", "Mon..Fri 08:00 UTC", "every weekday at 08:00 (UTC)"),
        (
            "oncalendar",
            "Sat *-1,7-1..7 01:00",
            "every Saturday that is day 1 to 7 of January and July at 01:00 (Europe/Berlin)",
        ),
        ("every", "90s", "every 1m30s"),
        ("at", "2026-12-05T01:00", "once, on Sat 2026-12-05 01:00 CET"),
    ],
)
def test_a_rule_is_described_in_english(kind: str, text: str, expected: str) -> None:
    assert describe(rule(kind, text, "Europe/Berlin")) == expected


@given(phrase=st.sampled_from([phrase for phrase, _ in SAME]))
def test_the_description_of_a_phrase_is_an_equal_phrase(phrase: str) -> None:
    text = describe(rule("phrase", phrase)).removesuffix(" (UTC)").replace("weekend day", "weekend")

    ours, again = compile_rule(rule("phrase", phrase)), compile_rule(rule("phrase", text))

    assert list(islice(ours.instants(NOW), 30)) == list(islice(again.instants(NOW), 30))


def test_a_description_includes_the_jitter() -> None:
    late = rule("phrase", "every day at 02:00").model_copy(update={"jitter": timedelta(minutes=10)})

    assert describe(late) == "every day at 02:00 (UTC), up to 10m later"


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("phrase", "every sundya at 02:00", 'did you mean "sunday"?'),
        ("phrase", "first saturday of jann at 02:00", 'did you mean "jan"?'),
        ("phrase", "every day", 'add for example "at 02:00"'),
        ("phrase", "every day at 25:00", "write 00:00 to 23:59"),
        ("phrase", "every day at 8:00 AM", 'without "am"'),
        ("phrase", "every 7 minutes", "or use the key `every: 7m`"),
        ("phrase", "every 3 days at 02:00", "use the key `every: 90s`"),
        ("phrase", "daily", '"daily" has no day or time'),
        ("phrase", "second saturday at 01:00", '"of the month"'),
        ("phrase", "first saturday of the quarter at 01:00", "of jan, apr, jul, oct"),
        ("phrase", "day 32 of the month at 01:00", '"32" is not a day of the month'),
        ("phrase", "every day at 02:00 please", '"please" is not understood'),
        ("phrase", "", "the schedule is empty"),
        ("cron", "0 2 * *", "has 4 fields"),
        ("cron", "0 0 2 * * *", "for seconds use `every: 30s`"),
        ("cron", "61 * * * *", '"61" is not a minute; write 0 to 59'),
        ("cron", "0 0 32 * *", '"32" is not a day-of-month'),
        ("cron", "0 2 * * sundya", "is not a day-of-week"),
        ("cron", "@reboot", '"@reboot" is not supported'),
        ("oncalendar", "foo", "bad day-of-week"),
        ("every", "15", "for example 15m or 15h"),
        ("every", "10ms", "the shortest is 1s"),
        ("every", "fast", "is not a duration"),
        ("at", "tomorrow", "; for example 2026-12-05T01:00"),
        ("at", "2026-12-05", "; for example 2026-12-05T01:00"),
    ],
)
def test_an_error_in_a_rule_includes_a_correction(kind: str, text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        compile_rule(rule(kind, text))
    assert expected in str(caught.value)


IMPOSSIBLE = [
    ("cron", "0 0 30 2 *"),
    ("cron", "0 0 31 4,6,9,11 *"),
    ("cron", "0 0 * 2 MON#5,TUE#5,WED#5,THU#5,FRI#5,SAT#5,SUN#5".replace(" 2 ", " 13 ")),
    ("phrase", "day 31 of june at 01:00"),
    ("phrase", "day 30 of february at 01:00"),
    ("oncalendar", "*-02-30"),
    ("oncalendar", "2023-02-29"),
]


@pytest.mark.parametrize(("kind", "text"), IMPOSSIBLE)
def test_a_rule_that_is_never_due_is_refused_quickly(kind: str, text: str) -> None:
    def refuse() -> None:
        with pytest.raises(ValueError, match=r"never be due|is not a month"):
            compile_rule(rule(kind, text))

    assert calls_of(refuse) < 50_000  # a search of centuries makes hundreds of thousands


def test_a_rare_day_is_found() -> None:
    leap = compile_rule(rule("phrase", "day 29 of february at 01:00"))
    monday = compile_rule(rule("cron", "0 0 * 2 MON#5"))

    assert leap.next_after(NOW) == datetime(2028, 2, 29, 1, tzinfo=UTC)
    assert monday.next_after(NOW) == datetime(2044, 2, 29, tzinfo=UTC)  # a Monday


def test_a_date_in_the_past_is_never_due() -> None:
    assert compile_rule(rule("at", "2020-01-01T01:00")).next_after(NOW) is None
    assert compile_rule(rule("oncalendar", "2020-01-01")).next_after(NOW) is None
    assert compile_rule(rule("oncalendar", "2199-12-31")).next_after(datetime(2199, 12, 31, tzinfo=UTC)) is None


def test_rules_that_differ_only_in_jitter_share_one_schedule() -> None:
    plain = rule("phrase", "every day at 02:00")

    assert compile_rule(plain) is compile_rule(plain.model_copy(update={"jitter": timedelta(minutes=5)}))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Europ/Berlin", 'did you mean "Europe/Berlin"?'),
        ("europe/berlin", 'did you mean "Europe/Berlin"?'),
        ("berlin", 'did you mean "Europe/Berlin"?'),
        ("New York", 'did you mean "America/New_York"?'),
        ("localtime", "unknown time zone"),
        ("../../etc/passwd", "unknown time zone"),
        ("Europe", "unknown time zone"),
        ("", "unknown time zone"),
        ("x" * 5000, "unknown time zone"),
        ("a\0b", "unknown time zone"),
    ],
)
def test_an_unknown_time_zone_is_reported_with_a_similar_name(name: str, expected: str) -> None:
    problem = zone_problem(name)
    assert problem is not None
    assert expected in problem
    with pytest.raises(ValueError, match="unknown time zone"):
        compile_rule(rule("cron", "0 2 * * *", name))


@given(text=st.text(max_size=40), kind=st.sampled_from(ScheduleKind))
def test_any_text_is_a_schedule_or_an_error(text: str, kind: ScheduleKind) -> None:
    try:
        schedule = compile_rule(Rule(kind=kind, text=text, timezone="UTC"))
    except ValueError as error:
        assert str(error)
    else:
        schedule.next_after(NOW)
        assert describe(Rule(kind=kind, text=text, timezone="UTC"))


WORDS = st.sampled_from(
    [
        "every",
        "day",
        "sunday",
        "first",
        "last",
        "of",
        "the",
        "month",
        "jan",
        "at",
        "02:00",
        ":20",
        "15",
        "minutes",
        "hours",
        "and",
        ",",
        "to",
        "weekday",
        "31",
        "-",
    ]
)


@given(words=st.lists(WORDS, max_size=9))
def test_any_sequence_of_known_words_is_a_schedule_or_an_error(words: list[str]) -> None:
    phrase = rule("phrase", " ".join(words))
    try:
        schedule = compile_rule(phrase)
    except ValueError as error:
        assert str(error)
    else:
        assert schedule.next_after(NOW) is not None
        assert describe(phrase)


def test_local_times_include_the_time_zone() -> None:
    assert local_text(datetime(2026, 12, 6, 1, 0, tzinfo=UTC), "Europe/Berlin") == "Sun 2026-12-06 02:00 CET"
    assert local_text(datetime(2026, 12, 6, 1, 0, 5, tzinfo=UTC), "UTC") == "Sun 2026-12-06 01:00:05 UTC"


def test_a_year_of_thirty_entries_costs_few_calls_a_due_time() -> None:
    schedules = [compile_rule(rule("cron", f"{minute} 3 * * *", "Europe/Berlin")) for minute in range(29)]
    schedules.append(compile_rule(rule("phrase", "every 15 minutes", "Europe/Berlin")))

    due: list[datetime] = []
    calls = calls_of(
        lambda: due.extend(at for schedule in schedules for at in upcoming(schedule, NOW, NOW + timedelta(days=365)))
    )

    assert len(due) == 29 * 365 + 365 * 96  # a repeated and a left out hour make up for each other
    assert calls < 12 * len(due)


def test_a_rule_is_compiled_and_evaluated_in_few_calls() -> None:
    draw = random.Random(7)
    rules = [
        rule("cron", f"{draw.randrange(60)} {draw.randrange(24)} {draw.randrange(1, 29)} * {draw.randrange(7)}", zone)
        for zone in ("UTC", "Europe/Berlin", "Asia/Kathmandu", "America/New_York")
        for _ in range(100)
    ]

    times: list[datetime | None] = []
    calls = calls_of(lambda: times.extend(compile_rule(each).next_after(NOW) for each in rules))

    assert None not in times
    assert calls < 400 * len(rules)


def test_libraries_that_only_some_calendars_need_are_imported_lazily() -> None:
    code = "import sys, maintd.calendar, maintd.schedule; print(*sys.modules)"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    heavy = {
        "holidays",
        "oncalendar",
        "sqlalchemy",
        "maintd.job",
    }
    assert not heavy & set(loaded)
