"""Secrets are put wherever a user can put one, and must appear nowhere: rows, log, API, page, metrics, files."""

from __future__ import annotations

import json
import textwrap
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers.maintd import RunningDaemon, maintd_daemon

CANARIES = {
    "a param": "canary-param-7261",
    "a param below others": "canary-nested-3390",
    "an environment variable of a command": "canary-env-1182",
    "a short password of a command": "cnry7",
    "a param of one run": "canary-given-5543",
    "a variable of the daemon": "canary-daemon-9917",
    "a URL": "canary/url@4821",
    "a connection string": "canary dsn 6650",
    "a setting": "canary-setting-2205",
    "a header": "canary-header-8814",
    "a file of a single line": "canary-file-4417",
    "a line of a key": "MIIEcanaryBADANBgkqhkiG9w0BAQEFAASC",
    "another line of a key": "KcwggSjAgEAAoIBAQcanaryC7VJTUt9Us8cK",
}

UNKNOWN = {
    "an unknown password": "canaryword-1309",
    "an unknown password of a URL": "canaryurl-4402",
    "an unknown token": "canarytoken-5517.e30.x",
    "an unknown header": "canaryheader-6628",
    "a line of an unknown key": "MIIEcanaryUNKNOWNkeyLine0123456789abcdef",
}
"""Secrets that maintd does not know: only the form shows that they are secrets."""

FORMS = '''
"""Report secrets that maintd does not know, each in its form."""

from maintd.job import Context, JobError, JobParams, job

WORD, IN_URL, TOKEN, HEADER, LINE = (text[::-1] for text in {reversed})


@job(timeout="1m")
def run(ctx: Context, params: JobParams) -> None:
    text = (
        f"password={{WORD}} postgres://op:{{IN_URL}}@db/x Bearer {{TOKEN}}, X-Api-Key: {{HEADER}} "
        f"-----BEGIN PRIVATE KEY-----\\n{{LINE}}\\n-----END PRIVATE KEY-----"
    )
    print(text)
    ctx.log(text)
    with ctx.phase(text):
        ctx.check(f"login: {{text}}", text, equals="x", hint=text)
    ctx.measure("leak", 1.0, note=text)
    ctx.hand_over("login", {{"user": "op", "password": WORD}})
    with ctx.change("use", text, header=text) as allowed:
        allowed.refused(text)
    raise JobError(f"cannot log in with {{text}}", text)
'''

LEAK = '''
"""Report every secret that it has, in every way that there is."""

import os
import sys

from pydantic import BaseModel, SecretStr

from maintd.job import Context, JobError, JobParams, job


class Login(BaseModel):
    user: str
    password: SecretStr


class Params(JobParams):
    password: SecretStr
    """The password."""
    logins: dict[str, Login] = {}
    """Logins by registry."""
    key: SecretStr = SecretStr("")
    """A private key."""
    other: str = ""
    """A param by reference."""


@job(timeout="1m")
def run(ctx: Context, params: Params) -> None:
    secrets = [params.password.get_secret_value(), params.key.get_secret_value(), params.other, os.environ["APP_TOKEN"]]
    secrets += [login.password.get_secret_value() for login in params.logins.values()]
    for target in ctx.targets.postgres.values():
        secrets += [target.dsn, target.password.get_secret_value() if target.password else ""]
    for target in ctx.targets.http.values():
        secrets += [target.url, *(value.get_secret_value() for value in target.headers.values())]
    text = "\\n".join(secrets)
    print(text)
    print(text, file=sys.stderr)
    ctx.log(text)
    with ctx.phase(f"use {params.password.get_secret_value()}"):
        ctx.check(f"check {secrets[0]}", text, equals="x", hint=f"use {secrets[0]}")
        ctx.measure("leak", 1.0, secret=secrets[0])
        ctx.save("text.txt", text)
        (ctx.work_dir / "kept.txt").write_text("x" * ((1 << 20) - 5) + text)
        ctx.keep(ctx.work_dir / "kept.txt")
    raise JobError(f"cannot log in with {text}", f"look at {secrets[0]}")
'''


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    folder = tmp_path_factory.mktemp("canary")
    jobs = folder / "jobs"
    jobs.mkdir()
    (jobs / "leak.py").write_text(LEAK.lstrip())
    reversed_texts = [text[::-1] for text in UNKNOWN.values()]
    (jobs / "forms.py").write_text(FORMS.lstrip().format(reversed=reversed_texts))
    (folder / "secret").write_text(f"{CANARIES['a file of a single line']}\n")
    (folder / "key.pem").write_text(
        "-----BEGIN PRIVATE KEY-----\n"
        f"{CANARIES['a line of a key']}\n{CANARIES['another line of a key']}\n-----END PRIVATE KEY-----\n"
    )
    calendar = f"""
        timezone: UTC
        targets:
          postgres:
            main: {{dsn: "host=127.0.0.1 port=1 dbname=x password = '{CANARIES["a connection string"]}'"}}
            url: {{dsn: "postgresql://op:{CANARIES["a URL"]}@127.0.0.1:1/x"}}
          http:
            shop: {{url: "http://127.0.0.1:1/", headers: {{X-Api: "{CANARIES["a header"]}"}}}}
        entries:
          leaking:
            schedule: every day at 03:00
            steps:
              - leak:
                  password: {CANARIES["a param"]}
                  logins: {{ghcr.io: {{user: me, password: {CANARIES["a param below others"]}}}}}
                  key: "${{file:{folder}/key.pem}}"
                  other: "${{file:{folder}/secret}}"
          forming: {{steps: [forms]}}
          commanding:
            schedule: every day at 04:00
            steps:
              - command:
                  argv: [/bin/sh, -c, 'echo $NAME $PGPASSWORD "$TOKEN_FILE" $MODE; test -n "$NAME" && false']
                  env:
                    NAME: {CANARIES["an environment variable of a command"]}
                    PGPASSWORD: {CANARIES["a short password of a command"]}
                    TOKEN_FILE: "${{file:{folder}/key.pem}}"
                    MODE: quick
    """
    config = folder / "config.yaml"
    config.write_text(
        f"targets: {{postgres: {{own: {{dsn: 'host=127.0.0.1 port=1 dbname=y', "
        f"password: {CANARIES['a setting']}}}}}}}\n"
    )
    with maintd_daemon(
        folder,
        textwrap.dedent(calendar),
        jobs,
        MAINTD_CONFIG=str(config),
        APP_TOKEN=CANARIES["a variable of the daemon"],
    ) as started:
        started.maintd("trigger", "leaking", "--wait")
        started.maintd("trigger", "commanding", "--wait")
        started.maintd("trigger", "forming", "--wait")
        started.maintd("run", "forming", "--here")
        started.maintd("trigger", "health_check", "--wait")
        given = CANARIES["a param of one run"]
        started.maintd("trigger", "leak", "-p", f"password={given}", "-p", "other=plain text", "--wait")
        started.maintd("run", "leaking", "--here")
        started.calendar.write_text(started.calendar.read_text().replace("03:00", "03:10"))
        started.maintd("reload")
        yield started


def found(text: str) -> list[str]:
    lowered = text.replace("\\u002f", "/").replace("%2F", "/").replace("%40", "@")
    return [where for where, canary in (CANARIES | UNKNOWN).items() if canary in lowered]


def test_the_jobs_got_their_secrets(daemon: RunningDaemon) -> None:
    runs = daemon.maintd("history", "--json").json
    texts = {run["entry"]: daemon.maintd("logs", str(run["id"])).out for run in runs["runs"]}

    assert "cannot log in with ***" in str([run["reason"] for run in runs["runs"]])
    assert texts["leaking"].count("***") >= 10
    assert texts["leak"].count("plain text") >= 1
    assert "*** ***" in texts["commanding"]
    assert "quick" in texts["commanding"]


def test_what_maintd_does_not_know_is_masked_by_its_form(daemon: RunningDaemon) -> None:
    run = daemon.maintd("history", "forming", "--json").json["runs"][-1]
    shown = daemon.maintd("show", str(run["id"]), "--json").json
    attempt = shown["steps"][0]["attempts"][0]
    form = "password=*** postgres://op:***@db/x Bearer ***, X-Api-Key: ***"

    for text in (
        run["reason"],
        attempt["checks"][0]["name"],
        attempt["checks"][0]["observed"],
        attempt["checks"][0]["hint"],
        attempt["changes"][0]["target"],
        attempt["changes"][0]["cause"],
        daemon.maintd("logs", str(run["id"])).out,
    ):
        assert form in " ".join(text.split())
    assert shown["handed"][0]["value"] == {"user": "op", "password": "***"}


def test_no_file_of_the_state_directory_has_a_secret(daemon: RunningDaemon) -> None:
    leaks = {}
    for path in daemon.state_dir.rglob("*"):
        if path.is_file():
            where = found(path.read_bytes().decode(errors="replace"))
            if where:
                leaks[str(path.relative_to(daemon.state_dir))] = where

    assert leaks == {}
    assert not list((daemon.state_dir / "secrets").glob("*")), "the secret of a run is deleted at its end"
    assert {path.stat().st_mode & 0o777 for path in daemon.state_dir.rglob("kept.txt")} == {0o640}


def test_no_log_line_of_the_daemon_has_a_secret(daemon: RunningDaemon) -> None:
    assert found(daemon.log_text()) == []


def test_no_command_shows_a_secret(daemon: RunningDaemon) -> None:
    runs = [str(run["id"]) for run in daemon.maintd("history", "--json").json["runs"]]
    commands = [["status"], ["status", "leaking"], ["history"], ["next"], ["settings"], ["jobs", "show", "leak"]]
    commands += [["validate"], ["trigger", "leak", "-p", "password=x", "-p", "key=${NO_SUCH_VARIABLE}", "--wait"]]
    commands += [["show", run] for run in runs] + [["logs", run] for run in runs]
    for words in commands:
        for more in ([], ["--json"]):
            done = daemon.maintd(*words, *more)
            assert found(done.out + done.err) == [], words


def test_no_answer_of_the_page_and_the_api_has_a_secret(daemon: RunningDaemon) -> None:
    paths = ["/", "/metrics", "/healthz", "/readyz", "/calendar.ics", "/api/v1/settings", "/api/v1/status"]
    paths += [
        "/api/v1/entries",
        "/api/v1/entries/leaking",
        "/entries/leaking",
        "/entries/commanding",
        "/api/v1/jobs/leak",
    ]
    paths += [
        f"{prefix}/{run['id']}"
        for run in daemon.maintd("history", "--json").json["runs"]
        for prefix in ("/runs", "/api/v1/runs")
    ]
    answered = 0
    for path in paths:
        try:
            answer = urllib.request.urlopen(daemon.page + path, timeout=30)
            answered += 1
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            assert found(answer.read().decode()) == [], path
    assert answered >= 15


def test_an_invalid_param_is_reported_without_the_secrets_beside_it(daemon: RunningDaemon, tmp_path: Path) -> None:
    broken = tmp_path / "schedules.yaml"
    broken.write_text(daemon.calendar.read_text().replace("user: me", "usr: me"))

    done = daemon.maintd("validate", broken)

    assert done.code != 0
    assert "ghcr.io" in done.out + done.err
    assert found(done.out + done.err) == []


def test_a_secret_of_a_run_that_was_asked_for_is_a_reference_in_its_row(daemon: RunningDaemon) -> None:
    runs = daemon.maintd("history", "leak", "--json").json["runs"]
    shown = json.dumps([daemon.maintd("show", str(run["id"]), "--json").json for run in runs])

    assert "${file:" in shown


def test_the_params_of_a_broken_job_are_references_as_a_whole(daemon: RunningDaemon, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (jobs / "forms.py").write_text(FORMS.lstrip().format(reversed=["a"] * len(UNKNOWN)))
    (jobs / "leak.py").write_text(LEAK.lstrip() + "\nraise ImportError('broken')\n")
    state = tmp_path / "state"
    calendar = tmp_path / "schedules.yaml"
    calendar.write_text(daemon.calendar.read_text())
    environ = {"MAINTD_JOBS_PATH": str(jobs), "MAINTD_STATE_DIR": str(state), "MAINTD_CALENDAR": str(calendar)}

    with maintd_daemon(tmp_path, calendar.read_text(), jobs) as other:
        other.maintd("trigger", "leaking", **environ)
        files = {path.name: path.read_bytes().decode(errors="replace") for path in state.rglob("*") if path.is_file()}

    assert [name for name, text in files.items() if CANARIES["a param"] in text] == []
