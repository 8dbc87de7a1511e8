"""Pings of a real daemon: a monitor gets what happens once, in order, and nothing from a daemon that is dead."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support.receivers import Answer, Hook, webhook
from support.servers.base import free_port, wait_for
from support.servers.maintd import RunningDaemon, maintd_daemon
from support.servers.postgres import PostgresServer

pytestmark = pytest.mark.slow

KEY = "canary-ping-key-4711"
SETTINGS = {"MAINTD_HEARTBEAT": "500ms", "PING_KEY": KEY}


def calendar(hook: Hook, notify: str = "") -> str:
    url = f"http://127.0.0.1:{hook.port}/ping/${{PING_KEY}}"
    own = f'notify: {{ping: {{url: "{url}/maintd", every: 10s}}}}' if notify == "own" else ""
    return f"""
timezone: UTC
{own}
entries:
  greeting: {{steps: [{{greet: {{times: 3}}}}], ping: "{url}/greeting"}}
  stumbling: {{steps: [stumble], ping: "{url}/stumbling?create=1"}}
  exiting: {{job: command, params: {{argv: [/bin/sh, -c, "echo about to fail; exit 3"]}}, ping: "{url}/exiting"}}
  dawdling: {{steps: [{{dawdle: {{seconds: 120}}}}], ping: "{url}/dawdling"}}
"""


def pinged(hook: Hook, name: str) -> list[str]:
    """The signals that a monitor accepted, in order; "" is success."""
    found = [post.path.partition("?")[0].removeprefix(f"/ping/{KEY}/") for post in hook.accepted]
    return [path.removeprefix(name).lstrip("/") for path in found if path.partition("/")[0] == name]


def rids(hook: Hook) -> set[str]:
    return {post.path.partition("rid=")[2] for post in hook.posts}


def kill(daemon: RunningDaemon) -> None:
    os.kill(daemon.process.pid, signal.SIGKILL)
    daemon.process.wait(30)


def rows(daemon: RunningDaemon) -> list[tuple[str, str, str]]:
    """Channel, state and error of each ping."""
    with closing(sqlite3.connect(f"file:{daemon.state_dir}/maintd.db?mode=ro", uri=True)) as conn:
        return list(conn.execute("SELECT channel, state, error FROM notices WHERE kind = 'ping' ORDER BY id"))


def test_start_success_failure_and_exit_status_arrive_with_the_log(tmp_path: Path) -> None:
    with webhook() as hook, maintd_daemon(tmp_path, calendar(hook), **SETTINGS) as daemon:
        for name, code in (("greeting", 0), ("stumbling", 1), ("exiting", 1)):
            assert daemon.maintd("trigger", name, "--wait").code == code
        wait_for(lambda: len(hook.accepted) == 6, "all pings arrive")

        assert (pinged(hook, "greeting"), pinged(hook, "stumbling")) == (["start", ""], ["start", "fail"])
        assert pinged(hook, "exiting") == ["start", "3"]
        ends = {post.path.split("/")[3].partition("?")[0]: post for post in hook.posts if "/start" not in post.path}
        assert ends["greeting"].body.decode().startswith("greeting: succeeded\n")
        assert "hello world, 3\n" in ends["greeting"].body.decode()
        assert "about to fail\n" in ends["exiting"].body.decode()
        assert "create=1&rid=00000000-0000-0000-0000-000000000002" in ends["stumbling"].path
        assert len(rids(hook)) == 3
        assert hook.posts[0].headers["user-agent"].startswith("maintd/")
        wait_for(lambda: {row[1] for row in rows(daemon)} == {"sent"}, "the pings are recorded as sent")
        assert daemon.maintd("notify", "test", "ping:greeting").code == 0
        assert pinged(hook, "greeting") == ["start", "", "log"]
        assert KEY not in daemon.log_text() + json.dumps(rows(daemon)) + daemon.maintd("status", "--json").out


def test_a_run_that_takes_long_is_pinged_at_its_start_and_when_it_is_cancelled(tmp_path: Path) -> None:
    with webhook() as hook, maintd_daemon(tmp_path, calendar(hook), **SETTINGS) as daemon:
        assert daemon.maintd("trigger", "dawdling").code == 0
        wait_for(lambda: pinged(hook, "dawdling") == ["start"], "the start arrives")
        assert daemon.maintd("cancel", "1", "--why", "test").code == 0

        wait_for(lambda: pinged(hook, "dawdling") == ["start", "log"], "the end arrives")


def test_a_monitor_that_is_down_gets_the_last_end_when_it_is_back(tmp_path: Path) -> None:
    port = free_port()
    down = Hook([])
    down.port = port
    with maintd_daemon(tmp_path, calendar(down), **SETTINGS) as daemon:
        assert daemon.maintd("trigger", "stumbling", "--wait").code == 1
        wait_for(lambda: any("no connection" in row[2] for row in rows(daemon)), "the delivery has failed")
        assert KEY not in daemon.log_text() + json.dumps(rows(daemon))
        with webhook(port=port) as hook:
            wait_for(lambda: "fail" in pinged(hook, "stumbling"), "the ping arrives")
            assert pinged(hook, "stumbling").count("fail") == 1


def test_a_monitor_that_fails_and_then_recovers_gets_the_ping_in_order(tmp_path: Path) -> None:
    answers = (Answer(503, {"Retry-After": "1"}), Answer(429, {"Retry-After": "1"}), Answer())
    with webhook(*answers) as hook, maintd_daemon(tmp_path, calendar(hook), **SETTINGS) as daemon:
        assert daemon.maintd("trigger", "greeting", "--wait").code == 0

        wait_for(lambda: "" in pinged(hook, "greeting"), "the success arrives", seconds=180)

        assert pinged(hook, "greeting") in (["start", ""], [""])  # the start is left out when it is too old


def test_monitors_that_hang_do_not_delay_notices(tmp_path: Path) -> None:
    with webhook(Answer(hang=True)) as monitor, webhook() as pager:
        text = calendar(monitor).replace(
            "entries:",
            f'notify: {{channels: {{pager: {{webhook: "{pager.url}", secret: a-secret-of-16-characters}}}}}}\nentries:',
        )
        with maintd_daemon(tmp_path, text, **SETTINGS) as daemon:
            for _ in range(2):
                for name in ("greeting", "stumbling", "dawdling"):
                    daemon.maintd("trigger", name)

            wait_for(lambda: pager.accepted, "the notice of the failure arrives")

            assert monitor.accepted == []


def test_a_ping_whose_daemon_is_killed_before_the_delivery_arrives_once(tmp_path: Path) -> None:
    port = free_port()
    down = Hook([])
    down.port = port
    with maintd_daemon(tmp_path, calendar(down), **SETTINGS) as daemon:
        assert daemon.maintd("trigger", "stumbling", "--wait").code == 1
        wait_for(lambda: len(rows(daemon)) == 2, "the rows are written", every=0.005)
        kill(daemon)
    with webhook(port=port) as hook, maintd_daemon(tmp_path, calendar(hook), **SETTINGS) as daemon:
        wait_for(lambda: "fail" in pinged(hook, "stumbling"), "the ping arrives", seconds=120)
        wait_for(lambda: {row[1] for row in rows(daemon)} == {"sent"}, "the pings are recorded as sent")

        assert pinged(hook, "stumbling").count("fail") == 1


def test_a_daemon_that_is_killed_pings_no_more(tmp_path: Path) -> None:
    with webhook() as hook:
        with maintd_daemon(tmp_path, calendar(hook, "own"), **SETTINGS) as daemon:
            wait_for(lambda: len(pinged(hook, "maintd")) >= 3, "maintd pings every 10 s", seconds=120)
            kill(daemon)
            killed_at = time.time()
        usual = max(later.at - earlier.at for earlier, later in zip(hook.posts, hook.posts[1:], strict=False))
        wait_for(lambda: time.time() > killed_at + usual + 10, "the next ping is overdue", seconds=120)

        assert set(pinged(hook, "maintd")) == {""}
        assert max(post.at for post in hook.posts) < killed_at + 1
        assert b"nothing is missing" in hook.posts[0].body


@pytest.mark.server
def test_two_daemons_on_one_postgres_ping_once(tmp_path: Path, postgres_server: PostgresServer) -> None:
    url = postgres_server.create(f"t{os.urandom(6).hex()}")
    with webhook() as hook, ExitStack() as stack:
        daemons = []
        for number in (1, 2):
            folder = tmp_path / str(number)
            folder.mkdir()
            more = {**SETTINGS, "MAINTD_STORE_URL": url, "MAINTD_NODE": f"n{number}"}
            daemons.append(stack.enter_context(maintd_daemon(folder, calendar(hook, "own"), **more)))
        for number in range(3):
            assert daemons[number % 2].maintd("trigger", "greeting", "--wait").code == 0
        wait_for(lambda: len(pinged(hook, "greeting")) == 6, "all pings of the entry arrive", seconds=120)
        wait_for(lambda: len(pinged(hook, "maintd")) >= 3, "maintd pings every 10 s", seconds=120)
        own = [post for post in hook.posts if post.path.endswith("/maintd")]

    assert pinged(hook, "greeting") == ["start", ""] * 3
    # Each interval of 10 s has at most one.
    assert len({int(post.at // 10) for post in own}) >= len(own) - 1
