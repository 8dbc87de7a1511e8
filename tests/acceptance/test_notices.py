"""Notices of a real daemon: they arrive once, with what one needs to know, whatever is down or killed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.receivers import Answer, Hook, smtp_server, webhook
from support.servers.base import free_port, wait_for
from support.servers.maintd import RunningDaemon, maintd_daemon

from maintd.notify.webhook import verify

pytestmark = pytest.mark.slow

SECRET = "canary-signing-secret-0815"
SETTINGS = {"MAINTD_HEARTBEAT": "500ms", "HOOK_SECRET": SECRET}

CALENDAR = """
timezone: UTC
notify:
  channels:
{channels}
entries:
  stumbling: {{title: Fails with a reason, steps: [stumble]}}
  greeting: {{title: Greet a person, steps: [greet]}}
"""


def calendar(hook: Hook | None = None, mail: str = "") -> str:
    lines = []
    if hook is not None:
        lines.append(f'    pager: {{webhook: "{hook.url}", secret: "${{HOOK_SECRET}}"}}')
    if mail:
        lines.append(f'    mail: {{url: "{mail}"}}')
    return CALENDAR.format(channels="\n".join(lines))


def states(daemon: RunningDaemon) -> dict[str, str]:
    """The states of all notices by key."""
    with closing(sqlite3.connect(f"file:{daemon.state_dir}/maintd.db?mode=ro", uri=True)) as conn:
        return dict(conn.execute("SELECT key, state FROM notices"))


def fail(daemon: RunningDaemon) -> None:
    assert daemon.maintd("trigger", "stumbling", "--wait").code == 1


def kill(daemon: RunningDaemon) -> None:
    os.kill(daemon.process.pid, signal.SIGKILL)
    daemon.process.wait(30)


def content(hook: Hook, number: int = 0) -> Any:
    return json.loads(hook.accepted[number].body)


def test_a_failure_is_sent_by_mail_and_signed_webhook(tmp_path: Path) -> None:
    with (
        smtp_server() as mailbox,
        webhook() as hook,
        maintd_daemon(tmp_path, calendar(hook, mailbox.url), **SETTINGS) as daemon,
    ):
        fail(daemon)

        wait_for(lambda: mailbox.mails and hook.accepted, "the notices arrive")

        post, sent = hook.accepted[0], content(hook)["notices"][0]
        assert verify(post.headers, post.body, SECRET, int(post.headers["webhook-timestamp"]))
        assert not verify(post.headers, post.body + b" ", SECRET, int(post.headers["webhook-timestamp"]))
        assert (sent["kind"], sent["entry"], sent["state"], sent["run_id"]) == ("failed", "stumbling", "failed", 1)
        assert (sent["next_step"], sent["hint"]) == ("maintd show 1", "pick them up")
        assert sent["checks"][0]["name"] == "stones"
        text = mailbox.texts()[0]
        assert str(mailbox.mails[0]["Subject"]).startswith("stumbling failed: ")
        for part in (
            "Fails with a reason",
            "stones: 3, expected at most 0",
            "why",
            "since",
            "type    maintd show 1",
            f"page    {daemon.page}/runs/1",
        ):
            assert part in text
        wait_for(lambda: set(states(daemon).values()) == {"sent"}, "the notices are recorded as sent")
        assert SECRET not in daemon.log_text() + json.dumps(daemon.maintd("history", "--json").json)


def test_a_second_failure_is_no_news_and_a_success_is(tmp_path: Path) -> None:
    with smtp_server() as mailbox, maintd_daemon(tmp_path, calendar(mail=mailbox.url), **SETTINGS) as daemon:
        fail(daemon)
        fail(daemon)
        wait_for(lambda: mailbox.mails, "the notice of the failure arrives")
        daemon.calendar.write_text(daemon.calendar.read_text().replace("[stumble]", "[greet]"))
        assert daemon.maintd("reload").code == 0
        assert daemon.maintd("trigger", "stumbling", "--wait").code == 0

        wait_for(lambda: len(mailbox.mails) == 2, "the notice of the recovery arrives")

        subjects = [str(mail["Subject"]) for mail in mailbox.mails]
        assert subjects[0].startswith("stumbling failed")
        assert subjects[1].startswith("stumbling recovered after ")


def test_a_notice_whose_daemon_is_killed_before_the_delivery_arrives_once(tmp_path: Path) -> None:
    with webhook() as hook:
        with maintd_daemon(tmp_path, calendar(hook), **SETTINGS) as daemon:
            trigger = daemon.start("trigger", "stumbling", out=subprocess.DEVNULL)
            wait_for(lambda: "waiting" in states(daemon).values(), "the row is written", every=0.005)
            kill(daemon)
            trigger.communicate()
            assert hook.posts == []
        with maintd_daemon(tmp_path, calendar(hook), **SETTINGS) as daemon:
            wait_for(lambda: "sent" in states(daemon).values(), "the notice is recorded as sent")

        assert len(hook.posts) == 1


def test_a_message_whose_daemon_is_killed_during_the_delivery_is_sent_again_with_its_id(tmp_path: Path) -> None:
    with webhook(Answer(hang=True), Answer()) as hook:
        with maintd_daemon(tmp_path, calendar(hook), **SETTINGS) as daemon:
            fail(daemon)
            wait_for(lambda: hook.posts, "the delivery has begun")
            kill(daemon)
        with maintd_daemon(tmp_path, calendar(hook), **SETTINGS) as daemon:
            wait_for(lambda: "sent" in states(daemon).values(), "the notice is recorded as sent")

        assert len(hook.accepted) == 1
        assert {post.headers["webhook-id"] for post in hook.posts} == {hook.accepted[0].headers["idempotency-key"]}


def test_nothing_is_lost_while_a_channel_is_down(tmp_path: Path) -> None:
    port = free_port()
    mail = f"mailto://127.0.0.1:{port}?from=maintd@example.com&to=ops@example.com&mode=insecure"
    with maintd_daemon(tmp_path, calendar(mail=mail), **SETTINGS) as daemon:
        fail(daemon)
        wait_for(lambda: "notice_not_sent" in daemon.log_text(), "the delivery fails")

        with smtp_server(port) as mailbox:
            wait_for(lambda: mailbox.mails, "the notice arrives later")

        assert str(mailbox.mails[0]["Subject"]).startswith("stumbling failed")


def test_a_calendar_that_is_refused_is_reported_and_so_is_its_correction(tmp_path: Path) -> None:
    with webhook() as hook, maintd_daemon(tmp_path, calendar(hook), **SETTINGS) as daemon:
        good = daemon.calendar.read_text()
        daemon.calendar.write_text(good.replace("[greet]", "[gret]"))

        wait_for(lambda: hook.accepted, "the refusal is reported")
        daemon.calendar.write_text(good)
        wait_for(lambda: len(hook.accepted) == 2, "the correction is reported")

        first, second = content(hook)["notices"][0], content(hook, 1)["notices"][0]
        assert (first["kind"], second["kind"]) == ("calendar_refused", "recovered")
        assert content(hook, 1)["title"].startswith("the calendar was accepted again after ")
        assert 'unknown job "gret"; did you mean "greet"?' in first["why"]


def test_the_end_of_a_mute_and_of_an_acknowledgement_by_hand_is_reported_before_the_next_heartbeat(
    tmp_path: Path,
) -> None:
    def reminders(daemon: RunningDaemon) -> list[Any]:
        with closing(sqlite3.connect(f"file:{daemon.state_dir}/maintd.db?mode=ro", uri=True)) as conn:
            return [row[0] for row in conn.execute("SELECT remind_at FROM incidents WHERE closed_at IS NULL")]

    settings = SETTINGS | {"MAINTD_HEARTBEAT": "10m"}
    with webhook() as hook:
        text = calendar(hook).replace("notify:\n", "notify:\n  critical: true\n")
        with maintd_daemon(tmp_path, text, **settings) as daemon:
            assert daemon.maintd("mute", "stumbling", "--why", "new disk", "--for", "2d").code == 0
            fail(daemon)
            wait_for(lambda: len(reminders(daemon)) == 1, "the incident is recorded")
            assert states(daemon) == {}
            assert daemon.maintd("unmute", "stumbling").code == 0
            wait_for(lambda: len(hook.accepted) == 1, "what is not over is reported")

            key = daemon.maintd("findings", "--json").json["findings"][0]["key"]
            assert daemon.maintd("ack", key, "--why", "known", "--for", "2d", "--by", "ada").code == 0
            wait_for(lambda: reminders(daemon) == [None], "no reminder is due")
            assert daemon.maintd("unack", key).code == 0
            wait_for(lambda: len(hook.accepted) == 2, "what is not over is reported again")

        kinds = [content(hook, number)["notices"][0]["kind"] for number in range(2)]
        assert kinds == ["still_failing", "still_failing"]


def test_without_channels_nothing_is_written(tmp_path: Path) -> None:
    text = "timezone: UTC\nentries:\n  stumbling: {steps: [stumble]}\n"
    with maintd_daemon(tmp_path, text, **SETTINGS) as daemon:
        fail(daemon)
        status = daemon.maintd("status").out

        assert states(daemon) == {}
        assert "notice" not in status


def test_secrets_of_channels_are_in_no_row_log_answer_or_output(tmp_path: Path) -> None:
    signing, token, password = "canary-signing-0815-4711", "canary-path-token-4711", "canary-password-4711"
    text = """
timezone: UTC
notify:
  channels:
    hook: {{webhook: "http://127.0.0.1:{port}/services/{token}", secret: "{signing}"}}
    post: {{url: "json://me:{password}@127.0.0.1:{port}/{token}"}}
    mail: {{url: "mailto://me:{password}@127.0.0.1:1?to=ops@example.com"}}
entries:
  stumbling: {{title: Fails with a reason, steps: [stumble]}}
"""
    with webhook(Answer(400, body=f"no {signing} {token} {password}".encode())) as hook:
        calendar_text = text.format(port=hook.port, token=token, signing=signing, password=password)
        with maintd_daemon(tmp_path, calendar_text, **SETTINGS) as daemon:
            fail(daemon)
            wait_for(lambda: daemon.log_text().count("notice_not_sent") >= 3, "the deliveries fail")
            seen = [
                daemon.maintd(*words, "--json").out
                for words in (
                    ["notices"],
                    ["status"],
                    ["validate"],
                    ["settings"],
                    ["notify", "test", "hook"],
                    ["notify", "test", "post"],
                    ["notify", "test", "mail"],
                )
            ]
            seen.append(httpx.get(f"{daemon.page}/metrics").text)
            daemon.calendar.write_text(calendar_text.replace("{title", "{titel"))
            seen += [(result := daemon.maintd("validate")).out + result.err, daemon.maintd("reload").err]
        seen.append(daemon.log_text())
        stored = b"".join(path.read_bytes() for path in daemon.state_dir.rglob("*") if path.is_file())

    for secret in (signing, token, password):
        assert [text for text in seen if secret in text] == []
        assert secret.encode() not in stored
    assert "HTTP 400" in seen[0]
