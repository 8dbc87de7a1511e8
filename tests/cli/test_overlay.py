"""The overlay of a calendar in the commands: shown with its place, and active as soon as it is saved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers.base import wait_for
from support.servers.maintd import CALENDAR, JOBS, RunningDaemon, Shell, maintd_daemon

OVERLAY = "entries:\n  greeting:\n    timeout: 7m\n    steps: {greet: {whom: bo}}\n"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RunningDaemon]:
    with maintd_daemon(tmp_path) as daemon:
        yield daemon


def overlay_of(calendar: Path) -> Path:
    return calendar.with_name(f"{calendar.stem}.local.yaml")


def test_validate_shows_what_the_overlay_beside_the_calendar_changes(shell: Shell) -> None:
    (shell.cwd / "schedules.yaml").write_text(CALENDAR)
    (shell.cwd / "schedules.local.yaml").write_text(OVERLAY)

    text = shell.maintd("validate", MAINTD_JOBS_PATH=str(JOBS))
    found = shell.maintd("validate", "schedules.yaml", "--json", MAINTD_JOBS_PATH=str(JOBS)).json

    assert text.code == 0, text.err
    flat = " ".join(text.out.split())
    assert "overlay: greet: whom=bo" in flat
    assert "schedules.local.yaml:4)" in flat
    assert found["overlay"] == "schedules.local.yaml"
    greeting = next(entry for entry in found["entries"] if entry["entry"] == "greeting")
    assert greeting["overlay"] == ["timeout (schedules.local.yaml:3)", "greet: whom=bo (schedules.local.yaml:4)"]


def test_a_saved_overlay_is_active_without_a_restart_and_shown_with_its_place(own: RunningDaemon) -> None:
    overlay_of(own.calendar).write_text(OVERLAY)

    def seen() -> str | None:
        text = own.maintd("status", "greeting").out
        return text if "whom=bo" in text else None

    status = wait_for(seen, "the overlay is active")
    shown = own.maintd("trigger", "greeting", "--wait", "--json").json
    run = own.maintd("show", str(shown["id"])).out

    assert f"{overlay_of(own.calendar).name}:4" in "".join(status.split())
    assert "greet: whom=bo" in run
    assert own.maintd("reload", "--json").json["problems"] == []


def test_a_wrong_overlay_leaves_the_active_calendar_as_it_is(own: RunningDaemon) -> None:
    overlay_of(own.calendar).write_text("entries: {greetin: {timeout: 7m}}\n")

    refused = own.maintd("reload", "--json")
    status = own.maintd("status", "greeting", "--json").json

    assert refused.code != 0
    assert 'unknown entry "greetin"; did you mean "greeting"?' in json.dumps(refused.json, ensure_ascii=False).replace(
        '\\"', '"'
    )
    assert status["overlay"] == []
