"""`notices`, `notify test`, `mute` and `unmute` with a real daemon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.receivers import Answer, Hook, webhook
from support.servers.base import wait_for
from support.servers.maintd import RunningDaemon, maintd_daemon

SECRET = "canary-signing-secret-0815"

CALENDAR = """
timezone: UTC
notify:
  channels:
    pager: {{webhook: "{url}", secret: "${{HOOK_SECRET}}"}}
entries:
  stumbling: {{title: Fails with a reason, steps: [stumble]}}
  greeting: {{title: Greet a person, steps: [greet]}}
"""


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    with webhook() as found:
        yield found


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, hook: Hook) -> Iterator[RunningDaemon]:
    folder = tmp_path_factory.mktemp("notices")
    settings = {"MAINTD_HEARTBEAT": "500ms", "HOOK_SECRET": SECRET}
    with maintd_daemon(folder, CALENDAR.format(url=hook.url), **settings) as found:
        yield found


def test_a_test_of_a_channel_is_delivered(daemon: RunningDaemon, hook: Hook) -> None:
    hook.answer(Answer())

    result = daemon.maintd("notify", "test", "pager")

    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("pager: delivered after ")
    assert daemon.maintd("notify", "test", "pager", "--json").json["state"] == "sent"
    assert SECRET not in daemon.maintd("notices", "--json").out


def test_a_test_that_a_channel_refuses_fails_with_the_reason(daemon: RunningDaemon, hook: Hook) -> None:
    hook.answer(Answer(401, body=f"bad signature of {SECRET}".encode()))

    result = daemon.maintd("notify", "test", "pager")

    assert result.code == 1
    assert result.out.startswith("pager: not delivered: HTTP 401: bad signature of ***\n")
    status = daemon.maintd("status")
    text = " ".join(status.out.split())
    assert status.code == 1
    assert 'channel "pager" does not work: a test at' in text
    assert "HTTP 401: bad signature of ***; correct it, then type: maintd notify test pager" in text
    assert "a message that arrives ends this" in text

    hook.answer(Answer())
    assert daemon.maintd("notify", "test", "pager").code == 0
    assert "does not work" not in daemon.maintd("status").out


@pytest.mark.parametrize("words", [("notify", "test", "pagr"), ("notices", "--channel", "pagr")])
def test_an_unknown_channel_is_refused_with_a_suggestion(daemon: RunningDaemon, words: tuple[str, ...]) -> None:
    result = daemon.maintd(*words)

    assert result.code == 3
    assert result.err == 'no channel named "pagr"; did you mean "pager"?\n'


def test_a_muted_entry_fails_without_a_notice_and_is_shown_as_muted(daemon: RunningDaemon, hook: Hook) -> None:
    hook.answer(Answer())
    muted = daemon.maintd("mute", "stumb*", "--why", "new disk", "--for", "2h")
    assert muted.code == 0
    assert "stumb* is muted until " in muted.out and "maintd unmute 'stumb*'" in muted.out

    assert daemon.maintd("trigger", "stumbling", "--wait").code == 1
    wait_for(lambda: daemon.maintd("notices", "--json").json["incidents"], "the failure is an incident")

    status = daemon.maintd("status")
    assert ": new disk" in status.out and "muted by" in status.out
    assert "muted" in daemon.maintd("status", "stumbling").out
    found = daemon.maintd("notices").out
    assert "stumbling: failed for" in found and "stumb* is muted by" in found
    assert all(notice["kind"] == "test" for notice in daemon.maintd("notices", "--json").json["notices"])
    assert daemon.maintd("unmute", "stumb*").out == "stumb* is not muted any more\n"
    assert daemon.maintd("unmute", "stumbling").out == "stumbling was not muted\n"
    assert "muted by" not in daemon.maintd("status").out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["greetin", "--why", "x", "--for", "1h"], 3, 'no entry named "greetin"; did you mean "greeting"?'),
        (["x*", "--why", "x", "--for", "1h"], 3, 'no entry that matches the pattern named "x*"'),
        (["greeting", "--why", " ", "--for", "1h"], 2, "no reason given for muting greeting"),
        (["greeting", "--why", "x", "--for", "91d"], 2, "a mute lasts at most 90d"),
        (["greeting", "--why", "x"], 2, "a mute needs an end"),
        (["greeting", "--why", "x", "--until", "2020-01-01T00:00Z"], 2, "is in the past"),
    ],
)
def test_a_mute_without_reason_end_or_entry_is_refused(
    daemon: RunningDaemon, words: list[str], code: int, message: str
) -> None:
    result = daemon.maintd("mute", *words)

    assert result.code == code
    assert message in result.err


def test_notices_can_be_read_without_a_daemon(daemon: RunningDaemon, hook: Hook) -> None:
    hook.answer(Answer())
    assert daemon.maintd("notify", "test", "pager").code == 0

    result = daemon.maintd("--socket", "/nonexistent/socket", "notices")

    assert result.code == 0
    assert "test of the channel pager" in result.out
