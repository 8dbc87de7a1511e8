"""`maintd token`: create, list and revoke, without a daemon and with one."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest
from support.servers.base import free_port, wait_for
from support.servers.maintd import CALENDAR, JOBS, Shell, maintd_daemon
from support.web_services import on_port


def test_a_token_can_be_created_before_the_first_start(shell: Shell) -> None:
    created = shell.maintd("token", "create", "--role", "operator", "--expires", "30d", "ci")

    assert created.code == 0, created.err
    assert re.fullmatch(r"maintd_[\w-]{43}\n", created.out)
    assert "cannot be shown again" in created.err
    listed = shell.maintd("token", "list")
    assert re.match(r"ci +operator +expires \w+ \d{4}-\d\d-\d\d .*never used", listed.out), listed.out
    assert created.out.strip() not in listed.out


def test_the_object_of_a_created_token_has_the_token(shell: Shell) -> None:
    entries = ("--entries", "backup-*", "--entries", "vacuum")
    created = shell.maintd("token", "create", "--role", "viewer", *entries, "ci", "--json").json

    assert created["token"].startswith("maintd_")
    assert (created["name"], created["role"], created["entries"]) == ("ci", "viewer", ["backup-*", "vacuum"])
    assert created["revoked_at"] is None


def test_a_token_is_created_for_a_person_and_a_pattern_without_an_entry_is_a_warning(shell: Shell) -> None:
    shell.maintd("token", "create", "--role", "viewer", "ci")
    created = shell.maintd("token", "create", "--role", "approver", "--person", "ada", "laptop")

    assert 'token "laptop": approver, held by ada, expires' in created.err
    listed = shell.maintd("token", "list").out
    assert re.search(r"ci .*; of a program\n", listed) and re.search(r"laptop .*; held by ada\n", listed), listed
    refused = shell.maintd("token", "create", "--role", "viewer", "--person", "root", "x")
    assert (refused.code, "is not the name of a person" in refused.err) == (2, True)


def test_a_token_is_revoked_with_a_reason(shell: Shell) -> None:
    shell.maintd("token", "create", "--role", "admin", "ci", "--why", "the pipeline")

    revoked = shell.maintd("token", "revoke", "ci", "--why", "leaked")

    assert (revoked.code, revoked.out) == (0, 'token "ci" is revoked\n')
    assert re.match(r"ci +admin +revoked .* by \S+; never used", shell.maintd("token", "list").out)
    assert shell.maintd("token", "list", "--json").json["tokens"][0]["state"] == "revoked"
    store = sqlite3.connect(Path(shell.environ["MAINTD_STATE_DIR"]) / "maintd.db")
    events = store.execute("SELECT kind, origin, why FROM events ORDER BY id").fetchall()
    store.close()
    assert events == [
        ("token_created", "command without a daemon", "the pipeline"),
        ("token_revoked", "command without a daemon", "leaked"),
    ]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["create", "ci"], 2, "--role"),
        (["create", "--role", "root", "ci"], 2, "'root' is not one of"),
        (["create", "--role", "admin", "--expires", "2y", "ci"], 2, '"2y" is not a time'),
        (["create", "--role", "admin", "--expires", "367d", "ci"], 2, "at most 366d"),
        (["create", "--role", "admin", "--expires", "2020-01-01", "ci"], 2, "is in the past"),
        (["create", "--role", "admin", "--entries", "a/b", "ci"], 2, "not a pattern of entry names"),
        (["revoke", "nobody"], 1, "there is no store"),
    ],
)
def test_a_wrong_request_is_refused_with_the_reason(shell: Shell, words: list[str], code: int, message: str) -> None:
    done = shell.maintd("token", *words)

    assert done.code == code
    assert message in done.err


def test_an_unknown_token_is_named_with_a_similar_one(shell: Shell) -> None:
    shell.maintd("token", "create", "--role", "viewer", "deploy")

    done = shell.maintd("token", "revoke", "deploi")

    assert done.code == 3
    assert 'did you mean "deploy"?' in done.err


def test_a_daemon_creates_lists_and_revokes_tokens(tmp_path: Path) -> None:
    with maintd_daemon(tmp_path) as daemon:
        created = daemon.maintd("token", "create", "--role", "viewer", "dashboards", "--json")
        again = daemon.maintd("token", "create", "--role", "viewer", "dashboards")
        listed = daemon.maintd("token", "list", "--json").json["tokens"]
        revoked = daemon.maintd("token", "revoke", "dashboards", "--json").json

        assert created.code == 0, created.err
        assert again.code == 4
        assert [token["name"] for token in listed] == ["dashboards"]
        assert revoked["state"] == "revoked"
        assert created.json["token"] not in daemon.log_text()


def test_a_daemon_for_other_machines_starts_once_there_is_a_token(shell: Shell, tmp_path: Path) -> None:
    listen = f"0.0.0.0:{free_port()}"
    open_to_all = Shell(shell.cwd, {**shell.environ, "MAINTD_LISTEN": listen, "MAINTD_JOBS_PATH": str(JOBS)})
    (shell.cwd / "schedules.yaml").write_text(CALENDAR)

    refused = open_to_all.maintd("serve")
    token = open_to_all.maintd("token", "create", "--role", "operator", "ci").out.strip()

    assert refused.code == 2
    assert f"other machines can reach MAINTD_LISTEN {listen}, and there is no valid token" in refused.err
    with maintd_daemon(tmp_path, MAINTD_LISTEN=listen, MAINTD_STATE_DIR=shell.environ["MAINTD_STATE_DIR"]) as daemon:
        port = int(listen.rpartition(":")[2])
        sent = {"Authorization": f"Bearer {token}"}
        assert on_port(port).get("/api/v1/status").status == 401
        queued = on_port(port).post("/api/v1/runs", {"name": "greeting", "why": "by hand"}, **sent)
        assert queued.status == 201
        wait_for(
            lambda: on_port(port).get(f"/api/v1/runs/{queued.json['id']}", **sent).json["state"] == "succeeded",
            "the run succeeds",
        )
        used = wait_for(
            lambda: daemon.maintd("token", "list", "--json").json["tokens"][0]["last_used_from"], "its use is recorded"
        )
        daemon.maintd("token", "revoke", "ci")
        after = on_port(port).get("/api/v1/status", **sent)

        assert used == "127.0.0.1"
        assert (after.status, after.json["error"]["message"]) == (401, 'token "ci" is revoked')
        assert daemon.maintd("status").code in (0, 1), "the control socket needs no token"
        assert token not in daemon.log_text()
