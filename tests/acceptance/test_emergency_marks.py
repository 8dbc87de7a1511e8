"""The mark of a run that passed a rule in an emergency is in every view of it: commands, page, API and notices."""

from __future__ import annotations

import html
import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.receivers import Hook, webhook
from support.servers.base import wait_for
from support.servers.maintd import RunningDaemon, maintd_daemon

from maintd.cli.main import COMMANDS
from maintd.web.access import RIGHTS

pytestmark = pytest.mark.slow

CALENDAR = """
timezone: UTC
notify:
  channels:
    pager: {{webhook: "{url}", secret: "${{HOOK_SECRET}}"}}
entries:
  maintenance:
    title: Planned maintenance
    steps: [{{gate: {{ask: Start now?}}}}, greet]
  moved:
    title: Planned for later
    window: {{lasts: 2h, announce: [400d]}}
    steps: [greet]
"""

WHY = "the exchange is down"
MARK = "triggered in an emergency by "

COMMAND_VIEWS = {
    "status": (["status"], ["status", "maintenance"]),
    "history": (["history"],),
    "show": (["show", "1"],),
    "gates": (["gates"],),
    "changelog": (["changelog"],),
    "checklist": (["checklist", "1"],),
    "next": (["next", "--days", "8"],),
}
"""By the command, what shows runs."""

OTHER_COMMANDS = frozenset(
    [
        "serve",
        "trigger",
        "rehearse",
        "run",
        "logs",
        "cancel",
        "approve",
        "reject",
        "resume",
        "undo",
        "release",
        "findings",
        "ack",
        "unack",
        "note",
        "doctor",
        "validate",
        "reload",
        "pause",
        "unpause",
        "freeze",
        "unfreeze",
        "notices",
        "notify",
        "mute",
        "unmute",
        "jobs",
        "settings",
        "db",
        "token",
        "version",
        "completion",
    ]
)
"""Commands that act, or show something else than runs; the text of a notice has its mark, see below."""

ROUTE_VIEWS = {
    "/": "/",
    "/due": "/due?days=8",
    "/entries/{name}": "/entries/maintenance",
    "/runs": "/runs",
    "/runs/{run_id}": "/runs/1",
    "/text/status": "/text/status",
    "/api/v1/changelog": "/api/v1/changelog",
    "/api/v1/due": "/api/v1/due?days=8",
    "/api/v1/entries": "/api/v1/entries",
    "/api/v1/entries/{name}": "/api/v1/entries/maintenance",
    "/api/v1/events": "/api/v1/events",
    "/api/v1/gates": "/api/v1/gates",
    "/api/v1/incidents": "/api/v1/incidents",
    "/api/v1/notices": "/api/v1/notices",
    "/api/v1/notices/{notice_id}": "/api/v1/notices/1",
    "/api/v1/runs": "/api/v1/runs",
    "/api/v1/runs/{run_id}": "/api/v1/runs/1",
    "/api/v1/runs/{run_id}/checklist": "/api/v1/runs/1/checklist",
    "/api/v1/runs/{run_id}/gate": "/api/v1/runs/1/gate",
    "/api/v1/status": "/api/v1/status",
}
"""By the route, what to get."""

OTHER_ROUTES = frozenset(
    [
        "/healthz",
        "/readyz",
        "/jobs",
        "/jobs/{name}",
        "/metrics",
        "/static/{name}",
        "/api/v1/changelog/verify",
        "/api/v1/entries/{name}/start-time",
        "/api/v1/events/stream",
        "/api/v1/findings",
        "/api/v1/findings/{key}",
        "/api/v1/freezes",
        "/api/v1/jobs",
        "/api/v1/jobs/{name}",
        "/api/v1/mutes",
        "/api/v1/openapi.json",
        "/api/v1/runs/{run_id}/artifacts/{step}/{attempt}/{name}",
        "/api/v1/runs/{run_id}/findings",
        "/api/v1/runs/{run_id}/log",
        "/api/v1/runs/{run_id}/log.txt",
        "/api/v1/runs/{run_id}/log/stream",
        "/api/v1/series",
        "/api/v1/settings",
        "/api/v1/summary",
        "/api/v1/tokens",
        "/api/v1/version",
    ]
)
"""Routes that show something else than a run."""

ONLY_AT_A_GATE = ("gates", "/api/v1/gates", "/api/v1/runs/{run_id}/gate")
ONLY_AFTER_A_DECISION = ("changelog", "/api/v1/changelog")


@pytest.fixture
def hook() -> Iterator[Hook]:
    with webhook() as running:
        yield running


def test_each_command_and_each_route_is_known_as_a_view_of_runs_or_as_none() -> None:
    routes = {path for method, path in RIGHTS if method == "GET"}

    assert set(COMMAND_VIEWS) | OTHER_COMMANDS == set(COMMANDS), "sort the new command into one of the two"
    assert set(ROUTE_VIEWS) | OTHER_ROUTES == routes, "sort the new route into one of the two"


def test_every_view_of_a_run_shows_that_a_rule_was_passed_in_an_emergency(tmp_path: Path, hook: Hook) -> None:
    settings = {"MAINTD_HEARTBEAT": "500ms", "HOOK_SECRET": "canary-signing-secret-0815"}
    with maintd_daemon(tmp_path, CALENDAR.format(url=hook.url), **settings) as daemon:
        trigger = ("--emergency", "--why", WHY)
        assert daemon.maintd("trigger", "maintenance", *trigger).code == 0
        assert daemon.maintd("trigger", "moved", "--at", "sun 01:00", *trigger).code == 0
        wait_for(lambda: daemon.maintd("gates", "--json").json["gates"], "the run waits")
        wait_for(lambda: len(hook.accepted) >= 2, "the notice of the gate and the announcement")

        at_the_gate = unmarked(daemon, without=ONLY_AFTER_A_DECISION)
        assert daemon.maintd("reject", "1", "--why", "not today").code == 0
        wait_for(lambda: len(hook.accepted) >= 3, "the notice of the failure")
        at_the_end = unmarked(daemon, without=ONLY_AT_A_GATE)

        assert (at_the_gate, at_the_end) == ([], [])
        for post in hook.accepted:
            content = json.loads(post.body)
            assert "EMERGENCY" in content["body"] and MARK in content["body"], content["body"]
            assert all(MARK in notice["emergency"] for notice in content["notices"])


def unmarked(daemon: RunningDaemon, without: tuple[str, ...]) -> list[str]:
    """The views that do not show the mark."""
    missing = []
    for name, views in COMMAND_VIEWS.items():
        for words in views if name not in without else ():
            text, of_program = daemon.maintd(*words).out, daemon.maintd(*words, "--json").out
            missing += [" ".join(words)] if not re.search("emergency", text, re.IGNORECASE) else []
            missing += [f"{' '.join(words)} --json"] if MARK not in of_program else []
    for route, path in ROUTE_VIEWS.items():
        if route not in without:
            with urllib.request.urlopen(daemon.page + path, timeout=60) as answer:
                content = html.unescape(answer.read().decode())
            missing += [path] if not re.search("EMERGENCY" if "/api/" not in path else MARK, content) else []
    return missing
