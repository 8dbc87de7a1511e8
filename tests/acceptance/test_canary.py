"""Canary secrets are put where secrets can be; then every row, log line, answer and file is searched for them."""

from __future__ import annotations

import base64
import http.client
import json
import sqlite3
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from support.receivers import Answer as HookAnswer
from support.receivers import webhook
from support.servers.base import wait_for
from support.servers.maintd import RunningDaemon, maintd_daemon

from maintd.web.access import RIGHTS

CANARIES = {
    "a setting": "cnry-setting-50817",
    "a header of a target": "cnry-target-header-63321",
    "a param": "cnry-param-77120",
    "a param of one run": "cnry-of-one-run-41188",
    "a password in a URL of a param": "cnry-url-param-90233",
    "a password in a URL of a target": "cnry-url-target-15570",
    "a password in a connection string": "cnry-dsn-28834",
    "a variable of the daemon": "cnry-daemon-env-66309",
    "a variable of a command": "cnry-command-env-30942",
    "standard input of a command": "cnry-stdin-81526",
    "a password in the URL of a channel": "cnry-channel-password-58206",
    "a secret path of a webhook": "cnryT0B1xW2yZ3qR4sV5channel",
    "the secret of a webhook": "cnry-signing-secret-93371",
    "the first line of a key file": "MIIEcnryBADANBgkqhkiG9w0BAQEFAASCBKcw",
    "the last line of a key file": "ggSjAgEAAoIBAQcnryC7VJTUt9Us8cKjMzE",
}

SPILL = '''
"""Show every secret in every place that a job can write to, then fail with all of them."""

import base64
import logging
import os
import sys
import warnings

from pydantic import SecretStr

from maintd.job import Context, JobParams, job


class Params(JobParams):
    password: SecretStr
    """The password."""
    key: SecretStr = SecretStr("")
    """A private key."""
    url: SecretStr = SecretStr("")
    """An address with a password."""
    how: str = "raise"
    """How it ends: raise, exit or change."""


@job(timeout="1m", mutates=True, budget={"spill": 10})
def run(ctx: Context, params: Params) -> None:
    password = params.password.get_secret_value()
    secrets = [password, params.key.get_secret_value(), params.url.get_secret_value(), os.environ["APP_TOKEN"]]
    secrets += [target.dsn for target in ctx.targets.postgres.values()]
    secrets += [target.url for target in ctx.targets.http.values()]
    secrets += [value.get_secret_value() for t in ctx.targets.http.values() for value in t.headers.values()]
    text = "; ".join(filter(None, secrets))
    print(text)
    print(base64.b64encode(password.encode()).decode(), file=sys.stderr)
    sys.stdout.write("in two " + text[: len(text) // 2])
    sys.stdout.flush()
    sys.stdout.write(text[len(text) // 2 :] + " halves\\n")
    logging.getLogger("job").warning("warned about %s", text)
    warnings.warn(text, stacklevel=1)
    os.write(2, text.encode() + b" without an end of line")
    ctx.log(text)
    ctx.progress(1, 2, unit=password)
    ctx.check("shown", text, equals=password, hint=f"see {text}")
    ctx.measure("spilled", 1.0, unit=password[:20], label=password)
    ctx.save("report.html", f"<p>{text}</p>", "text/html")
    with ctx.phase(f"phase {password}"), ctx.change("spill", f"target {text}", detail=text):
        if params.how == "change":
            raise RuntimeError(f"cannot spill {text}")
    if params.how == "exit":
        os._exit(3)
    raise ValueError(f"no more of {text}")
'''


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon that has run jobs with secrets, some of them over the network, some refused."""
    with ExitStack() as stack:
        yield from _daemon(tmp_path_factory.mktemp("canary"), stack)


def _daemon(folder: Path, stack: ExitStack) -> Iterator[RunningDaemon]:
    jobs = folder / "jobs"
    jobs.mkdir()
    (jobs / "spill.py").write_text(SPILL.lstrip())
    (folder / "key.pem").write_text(
        "-----BEGIN PRIVATE KEY-----\n"
        f"{CANARIES['the first line of a key file']}\n{CANARIES['the last line of a key file']}\n"
        "-----END PRIVATE KEY-----\n"
    )
    # A server that repeats what it was sent in its errors, before it accepts.
    said = f"cannot post to {CANARIES['a secret path of a webhook']} of {CANARIES['the secret of a webhook']}".encode()
    hook = stack.enter_context(webhook(HookAnswer(400, body=said), HookAnswer(500, body=said), HookAnswer()))
    calendar = f"""
        timezone: UTC
        notify:
          channels:
            hook:
              webhook: "http://127.0.0.1:{hook.port}/{CANARIES["a secret path of a webhook"]}"
              secret: {CANARIES["the secret of a webhook"]}
            mail:
              url: "mailto://op:{CANARIES["a password in the URL of a channel"]}@127.0.0.1:1?to=a@b.example"
        targets:
          postgres:
            main: {{dsn: "host=127.0.0.1 port=1 dbname=x password='{CANARIES["a password in a connection string"]}'"}}
          http:
            shop:
              url: "http://op:{CANARIES["a password in a URL of a target"]}@127.0.0.1:1/"
              headers: {{Authorization: "Bearer {CANARIES["a header of a target"]}"}}
        entries:
          spilling:
            schedule: every day at 03:00
            steps:
              - spill:
                  password: {CANARIES["a param"]}
                  url: "https://op:{CANARIES["a password in a URL of a param"]}@registry.example/v2/"
                  key: "${{file:{folder}/key.pem}}"
          commanding:
            schedule: every day at 04:00
            steps:
              - command:
                  argv: [/bin/sh, -c, 'cat; echo "$SECRET $APP_TOKEN"; echo "$SECRET" >&2; exit 1']
                  stdin: {CANARIES["standard input of a command"]}
                  env: {{SECRET: {CANARIES["a variable of a command"]}}}
          probing:
            steps: [health_check]
    """
    config = folder / "config.yaml"
    config.write_text(
        "targets: {postgres: {own: {dsn: 'host=127.0.0.1 port=1 dbname=y', "
        f"password: {CANARIES['a setting']}}}}}}}\n"
    )
    environ = {"MAINTD_CONFIG": str(config), "APP_TOKEN": CANARIES["a variable of the daemon"]}
    with maintd_daemon(folder, textwrap.dedent(calendar), jobs, **environ) as started:
        CANARIES["a token"] = started.maintd("token", "create", "--role", "admin", "ci").out.strip()
        given = CANARIES["a param of one run"]
        for how in ("raise", "exit", "change"):
            words = ("-p", f"password={given}", "-p", f"how={how}")
            started.maintd("trigger", "spill", *words, "--why", f"with {CANARIES['a token']}", "--wait")
        for name in ("spilling", "commanding", "probing"):
            started.maintd("trigger", name, "--wait")
        started.maintd("trigger", "spilling", "--dry-run", "--wait")
        for body in ({"password": given, "hwo": given}, {"password": [given]}, {"password": given, "how": [given]}):
            assert ask(started, "POST", "/api/v1/runs", {"name": "spill", "params": body}).status == 400
        ask(
            started, "POST", "/api/v1/runs", {"name": "spill", "params": {"password": given}, "at": "2020-01-01T00:00Z"}
        )
        ask(started, "POST", "/api/v1/runs", {"name": "spill"}, CANARIES["a token"] + "x")
        later = {"name": "spill", "params": {"password": given}, "at": soon(), "idempotency_key": "k"}
        runs = [ask(started, "POST", "/api/v1/runs", later) for _ in range(2)]
        assert [run.status for run in runs] == [201, 200]
        ask(started, "POST", f"/api/v1/runs/{json.loads(runs[0].body)['id']}/cancel", {"why": "not needed"})
        ask(started, "POST", "/api/v1/reload")
        posts = wait_for(lambda: hook.accepted and hook.posts, "the webhook accepts a notice", seconds=120)
        wait_for(lambda: any(error for error in errors_of_notices(started)), "a notice has an error", seconds=120)
        assert [post for post in posts if leaks(post.body.decode())] == []
        yield started


def errors_of_notices(daemon: RunningDaemon) -> list[str]:
    with closing(sqlite3.connect(f"file:{daemon.state_dir}/maintd.db?mode=ro", uri=True)) as store:
        return [row[0] for row in store.execute("SELECT error FROM notices WHERE channel = 'mail'")]


def soon() -> str:
    """A time that no test waits for."""
    return (datetime.now(UTC) + timedelta(days=1)).isoformat()


class Answer:
    """Status, headers and body of an answer, as one text to search."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.body = response.read()
        self.text = f"{response.headers}\n{self.body.decode(errors='replace')}"


def ask(daemon: RunningDaemon, method: str, path: str, body: Any = None, token: str | None = None) -> Answer:
    """Send a request with the administrator's token, or another one."""
    address = urlsplit(daemon.page)
    headers = {"Authorization": f"Bearer {token or CANARIES['a token']}", "Content-Type": "application/json"}
    with closing(http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)) as connection:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        return Answer(connection.getresponse())


def leaks(text: str) -> list[str]:
    """The canaries that a text has, as they are, escaped or encoded."""
    found = []
    for where, canary in CANARIES.items():
        forms = {canary, quote(canary, safe=""), base64.b64encode(canary.encode()).decode().rstrip("=")}
        found += [where] if any(form in text for form in forms) else []
    return found


def run_ids(daemon: RunningDaemon) -> list[int]:
    return [run["id"] for run in json.loads(ask(daemon, "GET", "/api/v1/runs").body)["runs"]]


def test_the_jobs_had_the_secrets_and_wrote_them_everywhere(daemon: RunningDaemon) -> None:
    logs = [ask(daemon, "GET", f"/api/v1/runs/{run}/log").text for run in run_ids(daemon)]

    assert len(logs) >= 8  # one test runs more
    assert sum(text.count("***") for text in logs) > 50
    assert any("no more of ***" in ask(daemon, "GET", f"/api/v1/runs/{run}").text for run in run_ids(daemon))


def test_no_column_of_any_row_has_a_secret(daemon: RunningDaemon) -> None:
    found, rows = {}, 0
    with closing(sqlite3.connect(f"file:{daemon.state_dir}/maintd.db?mode=ro", uri=True)) as store:
        tables = [row[0] for row in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in store.execute(f'SELECT * FROM "{table}"'):
                rows += 1
                for value in row:
                    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
                    if where := leaks(text) or leaks(json.dumps(text)):
                        found[table, text[:200]] = where

    assert {"runs", "events", "tokens", "log_lines", "checks", "findings", "notices"} <= set(tables)
    assert rows > 100
    assert found == {}


def test_no_file_below_the_state_directory_has_a_secret(daemon: RunningDaemon) -> None:
    found = {}
    for path in daemon.state_dir.rglob("*"):
        if path.is_file() and (where := leaks(path.read_bytes().decode(errors="replace"))):
            found[str(path.relative_to(daemon.state_dir))] = where

    assert list(daemon.state_dir.rglob("report.html"))
    assert list((daemon.state_dir / "secrets").iterdir()) == []
    assert found == {}


def test_no_line_of_the_daemons_log_has_a_secret(daemon: RunningDaemon) -> None:
    assert leaks(daemon.log_text()) == []


def test_no_answer_to_a_get_has_a_secret(daemon: RunningDaemon) -> None:
    runs = run_ids(daemon)
    findings = [found["key"] for found in json.loads(ask(daemon, "GET", "/api/v1/findings").body)["findings"]]
    notices = [str(notice["id"]) for notice in json.loads(ask(daemon, "GET", "/api/v1/notices").body)["notices"]]
    names = {
        "{key}": findings,
        "{notice_id}": notices,
        "{step}": ["spill"],
        "{attempt}": ["1"],
        "{run_id}": [str(run) for run in runs],
    }
    found: dict[str, list[str]] = {}
    answered = set()
    for method, path in RIGHTS:
        if method != "GET" or path.endswith("/stream"):
            continue
        names["{name}"] = ["report.html"] if "artifacts" in path else ["spilling", "commanding", "spill", "command"]
        targets = {path}
        for name, values in names.items():
            targets = {target.replace(name, value) for target in targets for value in values}
        for target in sorted(targets):
            answer = ask(daemon, "GET", target)
            if answer.status == 200:
                answered.add(path)
            if where := leaks(answer.text):
                found[target] = where

    read = {path for method, path in RIGHTS if method == "GET"}
    assert {
        "/metrics",
        "/runs/{run_id}",
        "/api/v1/settings",
        "/api/v1/events",
        "/api/v1/tokens",
        "/api/v1/notices/{notice_id}",
    } <= answered
    assert any("artifacts" in path for path in answered)
    assert len(answered) >= len(read) * 3 / 4, read - answered
    assert found == {}


def test_no_output_of_a_command_has_a_secret(daemon: RunningDaemon) -> None:
    commands = [["status"], ["history"], ["settings"], ["jobs", "show", "spill"], ["validate"], ["token", "list"]]
    commands += [
        ["status", "spilling"],
        ["run", "spilling", "--here"],
        ["trigger", "spill", "-p", "password=[", "-p", "x=y"],
    ]
    for words in commands:
        for more in ([], ["--json"]):
            done = daemon.maintd(*words, *more)
            assert leaks(done.out + done.err) == [], (words, more)


def test_a_broken_calendar_is_reported_without_its_secrets(daemon: RunningDaemon) -> None:
    whole = daemon.calendar.read_text()
    try:
        for broken in (
            whole.replace("password: cnry", "passwrd: cnry"),
            whole.replace("stdin: cnry", "stdin: [cnry").replace("81526", "81526]"),
            whole.replace("every day at 03:00", "evry day at 03:00"),
            whole.replace("headers: {", "headers: {{"),
        ):
            daemon.calendar.write_text(broken)
            answer = ask(daemon, "POST", "/api/v1/reload")
            assert b'"ok":false' in answer.body
            assert leaks(answer.text) == []
            done = daemon.maintd("validate")
            assert done.code != 0
            assert leaks(done.out + done.err) == []
    finally:
        daemon.calendar.write_text(whole)
    ask(daemon, "POST", "/api/v1/reload")
    assert leaks(daemon.log_text()) == []
