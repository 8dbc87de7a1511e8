"""Any input from a child or a file gives a value or a MaintdError, without a crash or a hang.

The inputs here are built from almost valid words; tests/fuzz has arbitrary bytes."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from maintd.calendar import Calendar, parse_calendar
from maintd.errors import CalendarError, JobError
from maintd.executor.child_protocol import MAX_MESSAGE, decode
from maintd.model.evidence import Check
from maintd.schedule import compile_rule

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)
KINDS = ["check", "measure", "change", "artifact", "phase", "progress", "log", "trim", "ended", "nonsense"]
FIELDS = [
    "type",
    "name",
    "observed",
    "expected",
    "status",
    "value",
    "labels",
    "done",
    "total",
    "seq",
    "at",
    "text",
    "ok",
]


@given(st.fixed_dictionaries({"type": st.sampled_from(KINDS)}), st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_a_message_with_any_fields_is_a_message_or_an_error(kind: dict[str, str], fields: dict[str, Any]) -> None:
    try:
        message = decode(json.dumps(fields | kind).encode())
    except JobError:
        return
    assert message.type == kind["type"]


def test_a_message_that_is_too_long_is_an_error() -> None:
    line = Check(name="x" * MAX_MESSAGE, observed=1, expected="1", status="ok").model_dump_json().encode()  # type: ignore[arg-type]

    with pytest.raises(JobError, match="longer than"):
        decode(line)


# Pieces of real calendars, so that what hypothesis puts together is now and then almost one.
PIECES = [
    "timezone: UTC\n",
    "entries:\n",
    "  a:\n",
    "    schedule: every day at 08:00\n",
    "    steps: [vacuum]\n",
    "&x ",
    "*x ",
    "    cron: '0 2 * * 0'\n",
    "    every: 15m\n",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "'",
    '"',
    "|\n",
    ">\n",
    "!!python/object:os.system ",
    "    blackout: [{date: 2026-12-24}]\n",
    "\t",
    "\n",
    "? ",
    "<<: ",
    "---\n",
    "...\n",
    "targets: {redis: {m: {url: x}}}\n",
    "\x00",
    "é",
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=25).map("".join))
@example("a: &a [*a]")
@example("[" * 5000)
@example("{? [" * 2000)
def test_any_text_is_a_calendar_or_its_errors(text: str) -> None:
    try:
        calendar = parse_calendar(text, "x.yaml", {})
    except CalendarError as error:
        assert error.problems
        assert all(problem.startswith("x.yaml:") for problem in error.problems)
    else:
        assert isinstance(calendar, Calendar)


WORDS = st.sampled_from(
    [
        *("every", "day", "weekday", "sunday", "first", "last", "saturday", "of", "the", "month", "jan", "at", "08:00"),
        *("24:61", "15", "minutes", ",", "and", ":20", "31", "-1", "0", "99"),
    ]
)


@settings(deadline=10_000)  # milliseconds; a slow machine needs a tenth of it
@given(
    st.sampled_from(["phrase", "cron", "oncalendar", "every", "at"]),
    st.lists(WORDS, max_size=9).map(" ".join) | st.text(string.printable, max_size=30),
)
def test_any_rule_compiles_or_is_refused_quickly(kind: str, text: str) -> None:
    from datetime import UTC, datetime

    from maintd.model.entry import Rule, ScheduleKind

    try:
        schedule = compile_rule(Rule(kind=ScheduleKind(kind), text=text, timezone="Europe/Berlin"))
    except ValueError as error:
        assert str(error)
        return
    at = datetime(2026, 1, 1, tzinfo=UTC)
    following = schedule.next_after(at)
    assert following is None or following > at
