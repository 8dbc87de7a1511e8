"""A calendar with mistakes is refused whole, each mistake with its place and what to write instead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.calendars import jobs, problems

from maintd.calendar import load_calendar, parse_calendar
from maintd.config.yaml_tree import MAX_BYTES
from maintd.errors import CalendarError
from tests.support.effort import calls_of


def one(text: str) -> str:
    """The one problem of a text."""
    found = problems(text)
    assert len(found) == 1, found
    return found[0]


def test_all_errors_are_reported_at_once_in_the_order_of_the_file() -> None:
    found = problems("""
        timezone: Europ/Berlin
        defaults: {timeout: 30, catchup: latest}
        entries:
          a:
            schedul: every sunday at 02:00
            steps:
              - vacum
              - vacuum: {ful: true}
              - {job: vacuum, params: {patience: long}, timeout: 10}
          a: {job: look}
          b: {cron: 0 0 30 2 *, job: look, after: {entry: c, within: 1h}, retries: many}
        targts: {}
    """)

    example = "write for example 90s, 30m, 2h or 7d"
    assert found == [
        'schedules.yaml:1:11: unknown time zone "Europ/Berlin"; did you mean "Europe/Berlin"?',
        "schedules.yaml:2:21: defaults: timeout 30 has no unit; for example 30s or 30m",
        'schedules.yaml:2:25: defaults: unknown key "catchup"; did you mean "catch_up"?',
        'schedules.yaml:5:5: entry "a": unknown key "schedul"; did you mean "schedule"?',
        'schedules.yaml:7:9: entry "a": unknown job "vacum"; did you mean "vacuum"?',
        'schedules.yaml:8:18: entry "a": step "vacuum": unknown param "ful"; did you mean "full"?',
        f'schedules.yaml:9:32: entry "a": step "vacuum": param "patience": "long" is not a duration; {example}',
        'schedules.yaml:9:58: entry "a": step "vacuum": timeout 10 has no unit; for example 10s or 10m',
        'schedules.yaml:10:3: duplicate entry "a", first on line 4; remove one of them',
        'schedules.yaml:11:13: entry "b": cron: "0 0 30 2 *" can never be due: there is no such day',
        'schedules.yaml:11:43: entry "b": after: unknown entry "c"; name an entry of this calendar',
        'schedules.yaml:11:76: entry "b": retries "many" is not a whole number from 0 to 20',
        'schedules.yaml:12:1: unknown key "targts"; did you mean "targets"?',
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("timezone: Berlin", 'unknown time zone "Berlin"; did you mean "Europe/Berlin"?'),
        ("timeout: 0s", "timeout must be longer than zero"),
        ("timeout: [1h]", "timeout must be text, not a list"),
        ("timeout:", '"timeout" has no value'),
        ("timeout: 1h\n    timeout: 2h", 'duplicate key "timeout", first on line 4; remove one of them'),
        ("catch_up: newest", 'unknown catch_up "newest"; write one of latest, all, none'),
        ("overlap: que", 'unknown overlap "que"; did you mean "queue"?'),
        ("on_failure: rollback", 'unknown on_failure "rollback"; write one of stop, continue'),
        ("retries: -1", 'retries "-1" is not a whole number from 0 to 20'),
        ("retries: 1.5", "is not a whole number from 0 to 20"),
        ("enabled: maybe", 'enabled must be true or false, not "maybe"'),
        ("title: {a: b}", "title must be text, not a mapping"),
        ("schedule: every sundya at 02:00", 'schedule: "sundya" is not a day'),
        ("every: 15", 'every: "15" has no unit'),
        ("every: 5m\n    cron: 0 2 * * *", "an entry has one schedule; keep one of cron, every"),
        ("after: backup", "write after: {entry: backup, within: 26h}"),
        ("after: {entry: a}", 'after has no "within"'),
        ("after: {entry: a, within: 1h}", 'none of them can ever start: "a" needs "a"; remove one after'),
        ("locks: {postgres: exclusiv}", 'lock "postgres" must be shared or exclusive'),
        ("blackout: tomorrow", 'blackout: date "tomorrow" is not a date; for example 2026-12-24'),
        ("blackout: {first: 2026-12-24}", "write one of date, first and last, holidays, or cron and lasting"),
        ("blackout: {first: 2026-12-24, last: 2026-12-01}", "last 2026-12-01 is before first 2026-12-24"),
        ("blackout: {holidays: GERMANYY}", 'unknown holidays "GERMANYY"'),
        ("blackout: {cron: 61 * * * *, lasting: 1h}", '"61" is not a minute'),
        ("blackout: {dat: 2026-12-24}", 'unknown key "dat"; did you mean "date"?'),
        ("formerly: a", 'formerly: "a" is still an entry'),
        ("gate: {role: operator}", 'unknown key "gate"'),
        ("steps: [look]", "an entry has job or steps, not both"),
        ("params: {x: 1}", 'step "look": unknown param "x"; job "look" has no params'),
        ("params: fast", 'params must be a mapping of keys and values, not "fast"'),
    ],
)
def test_an_error_in_an_entry_is_reported_with_a_correction(line: str, expected: str) -> None:
    assert any(expected in found for found in problems(f"entries:\n  a:\n    {line}\n    job: look\n"))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("[]", "steps is empty"),
        ("[[look]]", "a step must be the name of a job or a mapping, not a list"),
        ("[{vacuum: {}, timeout: 5m}]", "for example {job: vacuum, params: {…}, timeout: 10m}"),
        ("[{job: look, timeut: 5m}]", 'unknown key "timeut"; did you mean "timeout"?'),
        ("[{job: look, always: perhaps}]", "always must be true or false"),
        ("[verify]", 'step "verify": param "root" is required (text: Where backups are.)'),
        ("[vacuum: {full: 17}]", 'step "vacuum": param "full": should be a valid boolean'),
        ("[nothing-near-it]", 'unknown job "nothing-near-it"; run: maintd jobs'),
    ],
)
def test_an_error_in_a_step_is_reported_with_a_correction(steps: str, expected: str) -> None:
    assert expected in one(f"entries: {{a: {{steps: {steps}}}}}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("entries: {a: {title: x}}", "has no steps; write steps: [NAME, …] or job: NAME"),
        ("entries: {a: look}", 'an entry must be a mapping of keys and values, not "look"'),
        ("entries: [a]", "entries must be a mapping of keys and values, not a list"),
        ("entries: {'a b': {job: look}}", "a name has at most 100 letters, digits"),
        ("entries: {a: {steps: [look], params: {x: 1}}}", "params belong to a step"),
        ("targets: {postgre: {}}", 'targets: unknown kind of target "postgre"; did you mean "postgres"?'),
        ("targets: {postgres: {main: {dns: x, dsn: y}}}", 'postgres.main: unknown key "dns"; did you mean "dsn"?'),
        ("targets: {redis: {main: {}}}", 'redis.main: "url" is required'),
        ("targets: {redis: {main: {url: a, url: b}}}", 'duplicate key "url"'),
        ("targets: {http: {a: {url: x, timeout: 5}}}", "http.a.timeout: 5 has no unit"),
    ],
)
def test_an_error_outside_of_steps_is_reported_with_its_line(text: str, expected: str) -> None:
    assert any(expected in found and found.startswith("schedules.yaml:2:") for found in problems(text))


def test_a_calendar_without_a_time_zone_is_refused() -> None:
    with pytest.raises(CalendarError, match='"timezone" is required'):
        parse_calendar("entries: {a: {job: look}}", "s.yaml", jobs())


def test_a_cycle_of_after_is_reported_once() -> None:
    found = one("""
        entries:
          a: {job: look, after: {entry: b, within: 1h}}
          b: {job: look, after: {entry: c, within: 1h}}
          c: {job: look, after: {entry: a, within: 1h}}
          d: {job: look, after: {entry: a, within: 1h}}
    """)

    assert 'start: "a" needs "b" needs "c" needs "a"' in found


def test_two_entries_cannot_continue_the_same_history() -> None:
    text = "entries: {a: {job: look, formerly: x}, b: {job: look, formerly: x}}"

    assert 'entry "a" also continues the history of "x"' in one(text)


@pytest.mark.parametrize(
    "blackout",
    [
        '{cron: "0 * * * *", lasting: 1h}',
        "{first: 2026-01-01, last: 2099-12-31}",
        '{cron: "0 0 * * 0", lasting: 24h}',
    ],
)
def test_a_blackout_that_leaves_no_due_time_is_refused(blackout: str) -> None:
    text = f"entries: {{a: {{schedule: every sunday at 02:00, job: look, blackout: [{blackout}]}}}}"

    assert "the blackout covers every due time of the next 4 years" in one(text)


def test_a_blackout_of_one_date_does_not_stop_a_yearly_entry() -> None:
    text = "entries: {a: {schedule: day 24 of december at 02:00, job: look, blackout: [2026-12-24]}}"

    assert problems(text) == []


# --- texts that are not a calendar ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: the calendar is empty; begin with"),
        ("# nothing\n---\n", "the calendar is empty; begin with"),
        ("timezone: UTC\nentries:\n\ta: {job: look}\n", "3:1: a tab; indent with spaces"),
        ("timezone: UTC\nentries:\n  a:\n    \tjob: look\n", "4:5: a tab; indent with spaces"),
        ("timezone: UTC\nentries: {a: {job: look}\n", "not YAML: "),
        ("timezone: UTC\nentries:\n  a:\n    cron: */5 * * * *\n", 'for example cron: "*/15 * * * *"'),
        ("timezone: UTC\nentries:\n  a:\n    cron: @daily\n", "4:11: not YAML: "),
        ("timezone: UTC\n---\ntimezone: UTC\n", "2:1: a second document begins here"),
        ("a: !!python/object/apply:os.system [id]\n", "is not supported; remove it"),
        ("a: &a [*a]\n", 'the alias "*a" is inside the value that it refers to'),
        ("a: *b\n", 'there is no anchor "&b" before this alias'),
        ("? [a]\n: b\n", "a key must be plain text"),
        ("a: \x00\n", "is not allowed in YAML; remove it"),
        ("- a\n", "a calendar must be a mapping of keys and values, not a list"),
        ("just words\n", "a calendar must be a mapping of keys and values"),
        ("<<: 5\n", '"<<" must be a mapping'),
        ("[" * 100_000, "nested more than 30 levels deep"),  # libyaml's own composer ends the process here
        ("a: {" * 5_000, "nested more than 30 levels deep"),
    ],
)
def test_a_text_that_is_not_a_calendar_is_refused_with_its_line(text: str, expected: str) -> None:
    with pytest.raises(CalendarError) as caught:
        parse_calendar(text, "s.yaml", jobs())

    assert expected in caught.value.problems[0]
    assert all(problem.startswith("s.yaml:") for problem in caught.value.problems)


def test_aliases_that_multiply_are_refused_before_they_cost_anything() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 25)]

    def refuse() -> None:
        with pytest.raises(CalendarError, match="the file has more than 500,000 values"):
            parse_calendar("\n".join(lines), "s.yaml", jobs())

    assert calls_of(refuse) < 20_000


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"timezone: UTC\nentries: \xff\n", "2:10: byte 0xff is not UTF-8; save the file as UTF-8"),
        ("timezone: UTC\n".encode("utf-16"), "1:1: byte 0xff is not UTF-8"),
        (b"#" * 50_000_000, "the file has 50.0 MB, the limit is 5 MB"),
    ],
)
def test_a_file_that_is_not_text_or_too_large_is_refused(tmp_path: Path, data: bytes, expected: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(data)

    with pytest.raises(CalendarError) as caught:
        load_calendar(path, jobs())

    assert caught.value.problems[0].startswith(f"{path}:")
    assert expected in caught.value.problems[0]


def test_a_file_of_many_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 200 * MAX_BYTES * 1000)  # sparse: takes no room

    with pytest.raises(CalendarError, match="MB, the limit is 5 MB"):
        load_calendar(path, jobs())


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(b"\xef\xbb\xbftimezone: UTC\nentries: {a: {job: look}}\n")

    assert load_calendar(path, jobs()).entries[0].name == "a"


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CalendarError, match="the file does not exist; create it, or correct MAINTD_CALENDAR"):
        load_calendar(tmp_path / "none.yaml", jobs())
    with pytest.raises(CalendarError, match="is a folder"):
        load_calendar(tmp_path, jobs())


def test_the_first_200_errors_are_listed_and_the_others_counted() -> None:
    found = problems("entries:\n" + "".join(f"  e{n}: {{job: nowhere}}\n" for n in range(500)))

    assert len(found) == 201
    assert found[-1] == "schedules.yaml: and 300 more errors"


PIECES = st.sampled_from(
    [
        "timezone: UTC\n",
        "entries:\n",
        "  a:\n",
        "    job: look\n",
        "    steps: [vacuum]\n",
        "  - x\n",
        "\t",
        "\n",
        "    schedule: every day at 02:00\n",
        "{",
        "}",
        "&a ",
        "*a",
        "<<: ",
        "!",
    ]
)


@given(text=st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=12).map("".join)))
def test_any_text_is_a_calendar_or_a_list_of_problems(text: str) -> None:
    try:
        parse_calendar(text, "s.yaml", jobs())
    except CalendarError as error:
        assert error.problems
        assert all(problem.startswith("s.yaml:") for problem in error.problems)
