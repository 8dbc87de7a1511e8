"""Commands on a daemon at a URL: the same as over the control socket, with the rights of the token."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers.base import wait_for
from support.servers.maintd import RunningDaemon, maintd_daemon


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with tempfile.TemporaryDirectory(prefix="maintd-remote-") as folder, maintd_daemon(Path(folder)) as daemon:
        yield daemon


def token_file(daemon: RunningDaemon, role: str, *options: str) -> Path:
    path = daemon.cwd / (re.sub(r"\W+", "-", " ".join([role, *options])).strip("-") if options else f"{role}-all")
    if not path.exists():
        created = daemon.maintd("token", "create", "--role", role, *options, path.name)
        path.touch(mode=0o600)
        path.write_text(created.out)
    return path


def remote(daemon: RunningDaemon, role: str = "admin") -> tuple[str | Path, ...]:
    return ("--url", daemon.page, "--token-file", token_file(daemon, role))


VOLATILE = re.compile(
    r'"(at|version|pid|started_at|seen_at|last_used_at|last_used_from|lag_seconds)": ("[^"]*"|[\d.]+|null)'
)

READING = [
    ("status",),
    ("status", "greeting"),
    ("next",),
    ("history",),
    ("show", "last"),
    ("logs", "last"),
    ("jobs",),
    ("jobs", "show", "greet"),
    ("findings",),
    ("notices",),
    ("token", "list"),
]


def test_reading_commands_print_the_same_object_over_both_ways(daemon: RunningDaemon) -> None:
    done = daemon.maintd("trigger", "stumbling", "--wait")
    assert done.code == 1, done.err

    for words in READING:
        local = daemon.maintd(*words, "--json")
        there = daemon.maintd(*remote(daemon), *words, "--json")

        assert (there.code, there.err) == (local.code, local.err), words
        assert VOLATILE.sub("", there.out) == VOLATILE.sub("", local.out), words


def test_acting_commands_work_with_a_token_and_record_its_name(daemon: RunningDaemon) -> None:
    operator = remote(daemon, "operator")

    triggered = daemon.maintd(*operator, "trigger", "greeting", "--why", "by token", "--wait", "--json")
    paused = daemon.maintd(*operator, "pause", "night-round", "--why", "disk", "--for", "2h", "--json")
    unpaused = daemon.maintd(*operator, "unpause", "night-round", "--json")
    cancelled = daemon.maintd(*operator, "cancel", str(triggered.json["id"]), "--json")
    reloaded = daemon.maintd(*remote(daemon, "approver"), "reload", "--json")

    assert (triggered.code, triggered.json["state"]) == (0, "succeeded")
    assert triggered.json["requested_by"].endswith("(as operator-all)")
    assert paused.json["why"] == "disk"
    assert unpaused.json == {"unpaused": True}
    assert (cancelled.code, cancelled.json["error"]["code"]) == (4, "refused")
    assert reloaded.json["ok"] is True


def test_the_url_and_the_token_may_be_in_the_environment(daemon: RunningDaemon) -> None:
    path = token_file(daemon, "operator")
    by_file = {"MAINTD_URL": daemon.page, "MAINTD_TOKEN_FILE": str(path)}
    by_value = {"MAINTD_URL": daemon.page, "MAINTD_TOKEN": path.read_text()}

    for environ in (by_file, by_value):
        done = daemon.maintd("trigger", "greeting", "--json", **environ)
        assert done.json["requested_by"].endswith("(as operator-all)"), done.err


def test_a_missing_right_is_exit_code_4_and_names_the_roles(daemon: RunningDaemon) -> None:
    denied = daemon.maintd(*remote(daemon, "viewer"), "trigger", "greeting")
    missing = daemon.maintd("--url", daemon.page, "trigger", "greeting")

    assert denied.code == 4
    assert "it needs operator, approver or admin" in denied.err
    assert missing.code == 4
    assert "maintd token create --role operator NAME" in missing.err


def test_a_wrong_a_revoked_and_no_token_are_exit_code_4(daemon: RunningDaemon) -> None:
    revoked = token_file(daemon, "viewer", "--expires", "1d")
    daemon.maintd("token", "revoke", revoked.name)

    wrong = daemon.maintd("status", MAINTD_URL=daemon.page, MAINTD_TOKEN="maintd_" + "A" * 43)
    done = daemon.maintd("--url", daemon.page, "--token-file", revoked, "status", "--json")

    assert (wrong.code, "the token is unknown" in wrong.err) == (4, True), wrong.err
    assert (done.code, done.json["error"]["code"]) == (4, "unauthorized")
    assert "maintd token create" in done.json["error"]["hint"]


def test_a_mistyped_name_is_exit_code_3(daemon: RunningDaemon) -> None:
    done = daemon.maintd(*remote(daemon), "trigger", "greting")

    assert (done.code, 'did you mean "greeting"?' in done.err) == (3, True)


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_a_daemon_elsewhere_that_does_not_answer_is_not_replaced_by_the_store(
    daemon: RunningDaemon, words: tuple[str, ...]
) -> None:
    done = daemon.maintd("--url", "http://127.0.0.1:1", *words)

    assert (done.code, done.out) == (6, "")
    assert "no daemon answers on http://127.0.0.1:1: connection refused" in done.err


@pytest.mark.parametrize("command", ["serve", "doctor", "validate", "settings", "run", "db"])
def test_commands_of_this_machine_refuse_a_url(daemon: RunningDaemon, command: str) -> None:
    done = daemon.maintd("--url", daemon.page, command, *{"run": ["greet", "--here"], "db": ["check"]}.get(command, []))

    assert done.code == 2
    assert f"--url is not for maintd {command}" in done.err


def test_a_token_file_that_others_can_read_causes_a_warning(daemon: RunningDaemon, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(token_file(daemon, "viewer").read_text())
    path.chmod(0o644)

    done = daemon.maintd("--url", daemon.page, "--token-file", path, "status")

    assert done.code in (0, 1)
    assert f"other users can read the token in {path}: chmod o= {path}" in done.err


@pytest.mark.parametrize("content", ["", "two words", "maintd_ä", "x" * 5000])
def test_a_file_without_a_token_is_refused_without_its_content(
    daemon: RunningDaemon, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "token"
    path.write_text(content)

    done = daemon.maintd("--url", daemon.page, "--token-file", path, "status")

    assert (done.code, "does not hold a token" in done.err) == (2, True)
    assert not content or content not in done.err


def test_options_that_contradict_each_other_are_refused(daemon: RunningDaemon) -> None:
    both = daemon.maintd("--url", daemon.page, "--socket", daemon.socket, "status")
    alone = daemon.maintd("--token-file", token_file(daemon, "viewer"), "status")

    assert (both.code, "--url and --socket exclude each other" in both.err) == (2, True)
    assert (alone.code, "--token-file needs a daemon at a URL" in alone.err) == (2, True)


def test_names_are_completed_from_the_daemon_elsewhere(daemon: RunningDaemon) -> None:
    words = f"maintd --url {daemon.page} trigger "

    def completed() -> bool:
        done = daemon.maintd(
            _MAINTD_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD="4", MAINTD_STATE_DIR="/none"
        )
        return "plain,greeting" in done.out.splitlines()

    wait_for(completed, "a daemon that answers before the shell gives up")


def test_a_token_limited_to_entries_sees_only_these(daemon: RunningDaemon) -> None:
    path = token_file(daemon, "operator", "--entries", "greet*")

    status = daemon.maintd("--url", daemon.page, "--token-file", path, "status", "--json")
    refused = daemon.maintd("--url", daemon.page, "--token-file", path, "trigger", "stumbling", "--json")

    assert [entry["entry"] for entry in status.json["entries"]] == ["greeting"]
    assert json.loads(refused.out)["error"]["code"] == "forbidden"
