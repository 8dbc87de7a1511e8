"""Freezes with a real daemon: by command, in the calendar, and by a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from support.servers.base import wait_for
from support.servers.maintd import RunningDaemon, maintd_daemon

from maintd.client import Client
from maintd.model.run import SkipReason

CALENDAR = """
timezone: UTC
entries:
  greeting: {title: Greet a person, every: 3s, timeout: 1m, steps: [greet]}
  other: {title: Greet on request, steps: [greet]}
  watching: {title: Only look, steps: [dawdle: {seconds: 0}]}
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    folder = tmp_path_factory.mktemp("freezes")
    settings = {"MAINTD_HEARTBEAT": "500ms", "MAINTD_FREEZE_FILE": str(folder / "frozen")}
    with maintd_daemon(folder, CALENDAR, **settings) as found:
        yield found


@pytest.fixture(autouse=True)
def _nothing_is_frozen(daemon: RunningDaemon) -> None:
    assert Client(daemon.socket).freezes() == (), "each test ends its freezes"


def skipped(daemon: RunningDaemon, name: str = "greeting", why: str = "audit") -> list[str]:
    """The reasons of the runs that were skipped in a freeze with this reason."""
    runs = Client(daemon.socket).runs(entry=name, limit=1000).runs
    return [run.reason for run in runs if run.skip_reason is SkipReason.FROZEN and why in run.reason]


def test_a_frozen_entry_is_skipped_and_refused_but_in_an_emergency(daemon: RunningDaemon) -> None:
    planned = daemon.maintd("trigger", "other", "--at", "30s", "--json")  # a busy machine needs a while to freeze
    frozen = daemon.maintd("freeze", "--until", "2h", "--why", "audit")
    assert frozen.code == 0, frozen.err
    assert "frozen by " in frozen.out and frozen.out.endswith(": audit; end it with: maintd unfreeze\n")

    wait_for(lambda: skipped(daemon), "a due time is skipped")
    assert skipped(daemon)[0].startswith("frozen by ") and skipped(daemon)[0].endswith(": audit")
    wait_for(lambda: skipped(daemon, "other"), f"run {planned.json['id']}, which has not started, is skipped")

    refused = daemon.maintd("trigger", "other")
    assert refused.code == 4 and refused.err.startswith("other is frozen by ")
    assert 'maintd trigger other --emergency --why "..."' in refused.err
    assert daemon.maintd("trigger", "other", "--emergency").code == 2, "it needs a reason"
    assert daemon.maintd("trigger", "watching", "--wait").code == 0, "it changes nothing"
    assert daemon.maintd("trigger", "other", "--dry-run", "--wait").code == 0, "it changes nothing"

    urgent = daemon.maintd("trigger", "other", "--emergency", "--why", "disk full", "--wait", "--json")
    assert (urgent.code, urgent.json["state"]) == (0, "succeeded")
    assert urgent.json["emergency"].startswith("triggered in an emergency by ")
    assert "in an emergency by " in daemon.maintd("show", str(urgent.json["id"])).out
    assert "(EMERGENCY)" in daemon.maintd("history", "other").out
    assert "(EMERGENCY)" in daemon.maintd("status", "other").out

    status = daemon.maintd("status").out
    assert "all entries that change something: frozen by " in status
    report = daemon.maintd("status", "--json").json
    assert {entry["entry"]: entry["freeze"] is not None for entry in report["entries"]} == {
        "greeting": True,
        "other": True,
        "watching": False,
    }
    assert "maintd_freezes 1.0" in Client(daemon.socket).metrics()
    assert "frozen" in Client(daemon.page).request("GET", "/").body.decode()

    second = daemon.maintd("freeze", "--until", "1h", "--why", "the same, shorter")
    assert "it replaces the freeze by " in second.err and second.err.endswith(": audit\n")
    assert daemon.maintd("unfreeze").out == "the freeze is over\n"
    assert daemon.maintd("unfreeze").out == "there was no freeze\n"
    assert daemon.maintd("trigger", "other", "--wait").code == 0
    kinds = [event.kind for event in Client(daemon.socket).events()]
    assert {"entries_frozen", "entries_unfrozen", "run_triggered"} <= set(kinds)


def test_only_the_named_entries_are_frozen(daemon: RunningDaemon) -> None:
    client = Client(daemon.socket)
    until = datetime.now(UTC) + timedelta(hours=1)
    assert client.freeze("audit", until=until, entries="gr*", by="ada").by.startswith("ada")

    assert daemon.maintd("trigger", "greeting").code == 4
    assert daemon.maintd("trigger", "other", "--wait").code == 0
    assert daemon.maintd("trigger", "greeting", "--at", "2h", "--json").code == 0, "the freeze is over by then"
    assert [freeze.entries for freeze in client.freezes()] == ["gr*"]
    for words in ((), ("--only", "greeting")):
        other = daemon.maintd("unfreeze", *words)
        assert (other.code, "end it with: maintd unfreeze --only 'gr*'" in other.err) == (3, True), other.err
    assert client.unfreeze(entries="gr*") and client.freezes() == ()


@pytest.mark.parametrize(
    ("pattern", "code", "text"),
    [
        ("g*", 3, 'no freeze named "g*"; did you mean "gr*"?'),
        ("greting", 3, 'did you mean "greeting"?'),
        ("backup-*", 3, "list the freezes with: maintd freeze"),
        ("other", 0, ""),
    ],
)
def test_the_end_of_a_freeze_that_does_not_exist_is_an_unknown_name(
    daemon: RunningDaemon, pattern: str, code: int, text: str
) -> None:
    client = Client(daemon.socket)
    client.freeze("audit", until=datetime.now(UTC) + timedelta(hours=1), entries="gr*", by="ada")

    result, as_json = (daemon.maintd("unfreeze", "--only", pattern, *more) for more in ((), ("--json",)))
    answer = client.request("POST", "/api/v1/freezes/end", json.dumps({"entries": pattern}).encode())

    assert client.unfreeze(entries="gr*")
    assert (result.code, as_json.code, text in result.err) == (code, code, True), result.err
    assert answer.status == (404 if code else 200)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--until", "1h"), 2, "a freeze needs an end and a reason"),
        (("--until", "1h", "--why", " "), 2, "no reason given for the freeze"),
        (("--until", "2020-01-01T00:00Z", "--why", "x"), 2, "is in the past"),
        (("--until", "91d", "--why", "x"), 2, "lasts at most 90d"),
        (("--until", "1h", "--why", "x", "--only", "greting"), 3, 'did you mean "greeting"?'),
    ],
)
def test_a_freeze_without_an_end_a_reason_or_an_entry_is_refused(
    daemon: RunningDaemon, words: tuple[str, ...], code: int, text: str
) -> None:
    result = daemon.maintd("freeze", *words)

    assert (result.code, text in result.err) == (code, True), result.err


def test_everything_that_changes_something_is_frozen_while_the_file_exists(daemon: RunningDaemon) -> None:
    file = daemon.cwd / "frozen"
    file.write_text("deploying 4.2\n")

    refused = daemon.maintd("trigger", "other")
    assert refused.code == 4 and f"frozen by the file {file}: deploying 4.2" in refused.err
    wait_for(lambda: skipped(daemon, why="deploying"), "a due time is skipped")
    assert "deploying 4.2" in daemon.maintd("freeze").out and "deploying 4.2" in daemon.maintd("status").out
    assert daemon.maintd("unfreeze").code == 4, "it ends with the file"

    file.unlink()
    assert daemon.maintd("trigger", "other", "--wait").code == 0


def test_a_freeze_of_the_calendar_applies_after_a_reload(daemon: RunningDaemon) -> None:
    day = datetime.now(UTC).date()
    freeze = f"freezes:\n  - {{from: {day}, until: {day + timedelta(days=2)}, why: the closing, entries: other}}\n"
    daemon.calendar.write_text(CALENDAR + freeze)

    daemon.maintd("reload")
    client = Client(daemon.socket)
    wait_for(client.freezes, "the calendar is in force")

    refused = daemon.maintd("trigger", "other")
    assert refused.code == 4 and "the closing" in refused.err
    assert "the closing" in daemon.maintd("next", "--days", "1").out + daemon.maintd("status").out
    daemon.calendar.write_text(CALENDAR)
    daemon.maintd("reload")
    wait_for(lambda: client.freezes() == (), "the calendar is in force")
