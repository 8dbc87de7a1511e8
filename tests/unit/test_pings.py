"""Pings of monitors: how the calendar defines them, and what each end of a run is to a monitor."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.calendars import problems, read
from support.stores import NOON, at

from maintd.calendar.diff import changes_between
from maintd.model.evidence import Check, CheckStatus
from maintd.model.notice import OWN_PING, channel_secrets, ping_name
from maintd.model.run import Attempt, AttemptState, Run, RunState, RunSummary, Step, StepState, Trigger
from maintd.notify.ping_protocol import (
    LARGEST_BODY_BYTES,
    MAX_BODY_BYTES,
    EndPing,
    body_limit,
    ping_body,
    ping_of_end,
    ping_url,
    refusal_in,
    rid_of,
)

UUID_URL = "https://hc-ping.com/0d338dcc-a054-11ec-b909-0242ac120002"


def calendar(entry: str = "", notify: str = "") -> str:
    section = f"notify: {{{notify}}}\n" if notify else ""
    return f"timezone: UTC\n{section}entries:\n  backup: {{job: look{entry}}}\n"


NO_URL = (
    'schedules.yaml:2:16: notify: ping has no "url"; for example ping: {url: "https://hc-ping.com/${PING_KEY}/maintd"}'
)


# --- the calendar ---


def test_an_entry_and_maintd_itself_have_monitors_without_any_channel() -> None:
    config = read(calendar(f', ping: "{UUID_URL}"', 'ping: "https://hc-ping.com/${PING_KEY}/maintd"')).notify

    assert (config.channels, list(config.pings)) == ({}, ["backup"])
    assert list(config.destinations) == [ping_name("backup"), OWN_PING]
    assert config.own_ping is not None
    assert config.own_ping.every == timedelta(minutes=1)
    assert UUID_URL.rpartition("/")[2] in channel_secrets(config)


def test_the_interval_of_maintds_own_ping_can_be_set() -> None:
    config = read(calendar(notify=f'ping: {{url: "{UUID_URL}", every: 5m}}')).notify

    assert config.own_ping is not None
    assert config.own_ping.every == timedelta(minutes=5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            calendar(', ping: "hc-ping.com/x"'),
            'schedules.yaml:3:29: entry "backup": ping: not a URL; write https://host/path',
        ),
        (
            calendar(', ping: "ftp://h/x"'),
            'schedules.yaml:3:29: entry "backup": ping: not a URL; write https://host/path',
        ),
        (calendar(', ping: "http://h:99999/x"'), 'schedules.yaml:3:29: entry "backup": ping: "99999" is not a port'),
        (
            calendar(', ping: "http://h/x#y"'),
            'schedules.yaml:3:29: entry "backup": ping: it has a fragment, which no server gets',
        ),
        (
            calendar(notify=f'ping: {{url: "{UUID_URL}", every: 2s}}'),
            "schedules.yaml:2:89: notify: ping: every is shorter than 10s",
        ),
        (calendar(notify="ping: {every: 1m}"), NO_URL),
    ],
)
def test_a_wrong_ping_is_refused_with_its_place(text: str, message: str) -> None:
    assert problems(text) == [message]


def test_a_changed_ping_is_named_without_its_url() -> None:
    old = read(calendar(f', ping: "{UUID_URL}"', f'ping: "{UUID_URL}"'))
    new = read(calendar(f', ping: "{UUID_URL}9"', f'ping: "{UUID_URL}9"'))

    changes = changes_between(old, new)

    assert changes == ['notify: the ping of "backup" changed', "notify: the ping of maintd changed"]


# --- the protocol ---


def ended(state: RunState, **columns: object) -> RunSummary:
    values = {"entry": "backup", "title": "Backup", "trigger": Trigger.SCHEDULE, "queued_at": NOON, "not_before": NOON}
    return RunSummary.model_validate(
        {"id": 7, **values, "state": state, "started_at": NOON, "finished_at": at(1), **columns}
    )


def failed(**attempt: object) -> Run:
    one = {"number": 1, "state": AttemptState.FAILED, "started_at": NOON, **attempt}
    step = Step(index=0, name="c", job="command", state=StepState.FAILED, attempts=(Attempt.model_validate(one),))
    return Run.model_validate({**ended(RunState.FAILED).model_dump(), "steps": (step,)})


@pytest.mark.parametrize(
    ("state", "signal"),
    [
        (RunState.SUCCEEDED, ""),
        (RunState.WARNED, ""),
        (RunState.UNKNOWN, "fail"),  # what was not observed is no success
        (RunState.FAILED, "fail"),
        (RunState.TIMED_OUT, "fail"),
        (RunState.LOST, "fail"),
        (RunState.CANCELLED, "log"),
    ],
)
def test_each_end_has_its_signal(state: RunState, signal: str) -> None:
    ping = ping_of_end(ended(state, reason="the disk is full"))

    assert ping == EndPing(signal, f"backup: {state.replace('_', ' ')}: the disk is full")


def test_a_run_that_did_nothing_is_no_ping() -> None:
    assert ping_of_end(ended(RunState.SUCCEEDED, dry_run=True)) is None
    assert ping_of_end(ended(RunState.SKIPPED, started_at=None)) is None
    assert ping_of_end(ended(RunState.CANCELLED, started_at=None)) is None


def test_a_failure_that_was_acknowledged_is_no_failure_to_the_monitor() -> None:
    ping = ping_of_end(ended(RunState.FAILED, reason="old"), acknowledged=True)

    assert ping == EndPing("", "backup: failed: old (acknowledged)")


@pytest.mark.parametrize(
    ("attempt", "signal"),
    [
        ({"checks": (Check(name="exit code", observed=3, expected="0", status=CheckStatus.FAIL),)}, "3"),
        (
            {"checks": (Check(name="stones", observed=3, expected="0", status=CheckStatus.FAIL),), "exit_code": 0},
            "fail",
        ),
        ({"exit_code": 70}, "70"),
        ({"signal": 9}, "137"),
        ({"exit_code": 300}, "fail"),
    ],
)
def test_a_failure_has_the_exit_status_of_its_program(attempt: dict[str, object], signal: str) -> None:
    ping = ping_of_end(failed(**attempt))

    assert ping is not None
    assert ping.signal == signal


@pytest.mark.parametrize(
    ("url", "signal", "expected"),
    [
        (UUID_URL, "", f"{UUID_URL}?rid=R"),
        (UUID_URL, "fail", f"{UUID_URL}/fail?rid=R"),
        (f"{UUID_URL}/", "3", f"{UUID_URL}/3?rid=R"),
        ("http://h:8000/ping/k/slug?create=1", "start", "http://h:8000/ping/k/slug/start?create=1&rid=R"),
    ],
)
def test_the_signal_is_in_the_path_and_the_run_in_the_query(url: str, signal: str, expected: str) -> None:
    assert ping_url(url, signal, "R") == expected


@given(st.integers(1, 2**62))
def test_each_run_has_a_uuid_of_its_own(run_id: int) -> None:
    rid = parse_qs(urlsplit(ping_url(UUID_URL, "", rid_of(run_id))).query)["rid"][0]

    assert UUID(rid).int == run_id


@given(
    st.text(max_size=700),
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=400), max_size=60),
)
def test_a_body_has_the_last_lines_within_the_limit(first: str, lines: list[str]) -> None:
    body = ping_body(first, lines)

    assert len(body.encode()) <= MAX_BODY_BYTES
    kept = body[len(first[:500]) + 1 :]
    assert "".join(f"{line}\n" for line in lines).endswith(kept)
    if sum(len(line.encode()) + 1 for line in lines) < 7000:
        assert kept == "".join(f"{line}\n" for line in lines)


@given(
    st.text(max_size=700),
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=400), max_size=60),
    st.integers(0, 2000),
)
def test_a_body_respects_the_limit_of_the_monitor(first: str, lines: list[str], limit: int) -> None:
    body = ping_body(first, lines, limit)

    assert len(body.encode()) <= limit
    assert body.startswith((first[:500] + "\n")[: min(len(body), len(first[:500]))])


@pytest.mark.parametrize(
    ("header", "limit"),
    [
        ("100000", 100_000),
        (" 1000 ", 1000),
        ("0", 0),
        ("999999999", LARGEST_BODY_BYTES),
        (None, None),
        ("", None),
        ("-1", None),
        ("10 kB", None),
        ("9" * 5000, None),
        ("١٠", None),
    ],
)
def test_the_limit_of_a_body_is_the_number_of_the_header(header: str | None, limit: int | None) -> None:
    assert body_limit(header) == limit


def test_a_monitor_that_answers_ok_without_having_the_check_refuses() -> None:
    assert refusal_in("OK") == ""
    assert refusal_in("OK (not found)\n") == "the monitor answered: OK (not found)"
