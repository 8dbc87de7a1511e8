"""`next` and `status --quiet`: a calendar can be read by itself, and a list reports where it ends."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.servers.maintd import JOBS, RunningDaemon, Shell

from maintd.web.app import openapi_schema

CALENDAR = """
timezone: UTC
entries:
  each-minute: {every: 1m, steps: [greet]}
  hourly: {every: 1h, steps: [greet]}
  leap-day: {cron: "0 3 29 2 *", steps: [greet]}
  weekly: {schedule: every sunday at 02:30, steps: [greet]}
"""


@pytest.fixture
def here(shell: Shell) -> Shell:
    """A calendar, and neither daemon nor store."""
    path = shell.cwd / "calendar.yaml"
    path.write_text(CALENDAR)
    return Shell(shell.cwd, {**shell.environ, "MAINTD_JOBS_PATH": str(JOBS), "MAINTD_CALENDAR": str(path)})


def test_due_times_are_read_from_the_calendar_alone(here: Shell) -> None:
    typed = here.maintd("next")

    assert typed.code == 0, typed.err
    assert "weekly" in typed.out
    assert "read from the calendar:" in typed.err
    assert not (Path(here.environ["MAINTD_STATE_DIR"]) / "maintd.db").exists()


@pytest.mark.parametrize("days", [366, 367, 3_000, 3_660])
def test_years_ahead_are_listed_with_every_entry(here: Shell, days: int) -> None:
    answer = here.maintd("next", "--days", str(days), "--json").json

    listed = {name: sum(due["entry"] == name for due in answer["due"]) for name in ("each-minute", "hourly", "weekly")}
    assert listed["weekly"] in (days // 7, days // 7 + 1)
    assert listed["each-minute"] == listed["hourly"] == 1_000
    assert [limit["entry"] for limit in answer["limited"]] == ["each-minute", "hourly"]
    assert ("leap-day" in {due["entry"] for due in answer["due"]}) == (days > 366 * 3)


def test_a_list_with_a_limit_names_it(here: Shell) -> None:
    typed = here.maintd("next", "--days", "2")

    assert "! only the first 1000 due times of each-minute, until " in typed.out
    assert "of hourly" not in typed.out


def test_the_daemon_reports_where_a_list_ends(daemon: RunningDaemon) -> None:
    answer = daemon.maintd("next", "--days", "3660", "--json").json

    assert {limit["entry"]: limit["listed"] for limit in answer["limited"]} == {"night-round": 1_000}


@pytest.mark.parametrize("name", ["nope.yaml", "folder", "broken.yaml"])
def test_a_calendar_that_cannot_be_read_is_not_ignored(daemon: RunningDaemon, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.yaml").write_text("timezone: UTC\nentries: {a: {steps: [nope]}}\n")

    typed = daemon.maintd("--calendar", str(tmp_path / name), "next")

    assert typed.code == 2, typed.out
    assert name in typed.err


def test_a_calendar_that_is_given_is_the_one_that_is_listed(daemon: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "timezone: UTC\nentries: {mine: {schedule: every day at 02:00, steps: [greet]}}\n"
    )

    typed = daemon.maintd("--calendar", str(tmp_path / "mine.yaml"), "next", "--json")

    assert {due["entry"] for due in typed.json["due"]} == {"mine"}


@pytest.mark.parametrize("words", [["nope"], ["greeting"], ["--json"]])
def test_a_quiet_status_takes_no_name(daemon: RunningDaemon, words: list[str]) -> None:
    typed = daemon.maintd("status", "--quiet", *words)

    assert typed.code == 2
    assert "--quiet checks the daemon itself" in typed.out + typed.err


def test_every_duration_in_json_is_written_as_in_the_calendar() -> None:
    shell = Shell(Path.cwd())

    texts = [shell.maintd("jobs", "--json").out, json.dumps(openapi_schema())]

    assert [re.findall(r'"-?P(?:T?[0-9])[^" ]*"', text) for text in texts] == [[], []]
    assert '"default": "1d"' in texts[0]


def test_every_operation_states_its_errors() -> None:
    for path, operations in openapi_schema()["paths"].items():
        for method, operation in operations.items():
            answers = set(operation["responses"])
            assert {"403", "503"} <= answers, path
            assert "422" not in answers, path
            takes_values = operation.get("parameters") or "requestBody" in operation
            # Below /api/v1 a query parameter that an operation does not take is refused.
            assert ("400" in answers) == bool(takes_values or path.startswith("/api/v1/")), path
            assert "404" in answers or "{" not in path, (method, path)
