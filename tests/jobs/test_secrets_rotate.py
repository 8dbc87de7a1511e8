"""Rotations on real servers: both values before and after, a kill at any instant, going back, and no value anywhere."""

from __future__ import annotations

import gzip
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pyrage
import pytest
from support.dying_jobs import DyingJobs, dying_jobs
from support.http_services import http_service, json_reply
from support.job_runs import JOBS, JobResult, run_job
from support.secret_folders import IDENTITY, OLD, SecretFolder, logs_in, redis_accepts, require_passwords, token_service
from support.servers.maintd import Shell
from support.servers.postgres import PostgresServer
from support.servers.postgres import postgres as own_postgres
from support.servers.redis import RedisServer
from support.servers.redis import redis as own_redis

from maintd.checks.secrets.versions import Versions
from maintd.model.evidence import Change, ChangeState, CheckStatus

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with own_postgres() as started:
        require_passwords(started)
        yield started


@dataclass
class Roles:
    """Two roles that are members of an owner, a single one, and the login that may change the two."""

    server: PostgresServer

    def run(self, *statements: str) -> None:
        with psycopg.connect(self.server.url("postgres"), autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement.encode())

    def accepts(self, user: str, password: str) -> bool:
        return logs_in(self.server, user, password)

    def target(self, user: str = "postgres", password: str | None = None) -> dict[str, Any]:
        dsn = f"host=127.0.0.1 port={self.server.port} dbname=postgres user={user}"
        return {"postgres": {"main": {"dsn": dsn, **({"password": password} if password else {})}}}

    @property
    def log(self) -> str:
        return (self.server.folder / "log").read_text(errors="replace")


@pytest.fixture
def roles(server: PostgresServer) -> Iterator[Roles]:
    made = Roles(server)
    quoted = OLD.replace("'", "''")
    made.run(
        "CREATE ROLE owner NOLOGIN",
        "CREATE TABLE orders (n int)",
        "ALTER TABLE orders OWNER TO owner",
        f"CREATE ROLE app_a LOGIN PASSWORD '{quoted}' IN ROLE owner",
        "CREATE ROLE app_b NOLOGIN IN ROLE owner",
        f"CREATE ROLE single LOGIN PASSWORD '{quoted}'",
        "CREATE ROLE maintd_secrets LOGIN PASSWORD 'rotator' CREATEROLE",
    )
    yield made
    made.run("DROP TABLE orders", *(f"DROP ROLE {name}" for name in ("app_a", "app_b", "single", "owner")))
    made.run("DROP ROLE maintd_secrets")


@pytest.fixture
def folder(tmp_path: Path) -> SecretFolder:
    path = tmp_path / "secrets"
    path.mkdir(mode=0o700)
    return SecretFolder(path)


def two_roles(folder: SecretFolder, roles: Roles, **about: Any) -> None:
    """A password of two roles, with the file of the user, and a URL."""
    login = {"target": "main", "roles": ["app_a", "app_b"]}
    folder.add("db_password", OLD, kind="generated", postgres=login, user_file="db_user", **about)
    folder.write("db_user", "app_a")
    template = f"postgresql://{{user}}:{{secret}}@127.0.0.1:{roles.server.port}/postgres"
    folder.add("db_url", "", kind="derived", of="db_password", template=template)
    folder.write("db_url", template.format(user="app_a", secret=quote(OLD, safe="")))
    folder.targets.update(roles.target("maintd_secrets", "rotator"))


def test_two_roles_take_turns_and_a_client_sees_no_failed_query(folder: SecretFolder, roles: Roles) -> None:
    two_roles(folder, roles, overlap="1h")
    inodes = {path.name: path.stat().st_ino for path in folder.path.iterdir()}
    stop, queries, errors = threading.Event(), [0], list[str]()

    def work() -> None:
        while not stop.is_set():
            try:
                with psycopg.connect(folder.read("db_url"), connect_timeout=60) as conn:
                    conn.execute("SELECT count(*) FROM orders")
                queries[0] += 1
            except psycopg.Error as error:
                errors.append(str(error))

    client = threading.Thread(target=work)
    client.start()
    try:
        first = folder.rotate()
        queried = queries[0]
        while queries[0] < queried + 3 and not errors:
            stop.wait(0.01)
    finally:
        stop.set()
        client.join()

    assert first.outcome == "succeeded", first.text()
    assert errors == []
    assert queries[0] > 3
    new = folder.read("db_password")
    assert (folder.read("db_user"), roles.accepts("app_b", new), roles.accepts("app_a", OLD)) == ("app_b", True, True)
    assert folder.read("db_url").startswith(f"postgresql://app_b:{new}@")
    assert {path.name: path.stat().st_ino for path in folder.path.iterdir() if path.is_file()} == inodes
    assert folder.under_way == ["db_password"]

    waiting = folder.rotate()

    assert waiting.outcome == "succeeded", waiting.text()
    assert waiting.changes == []
    assert folder.read("db_password") == new

    end_the_overlap(folder, "db_password")
    last = folder.rotate({"rotate": False})

    assert last.outcome == "succeeded", last.text()
    assert [change.action for change in last.changes] == ["revoke secret"]
    assert (roles.accepts("app_b", new), roles.accepts("app_a", OLD)) == (True, False)
    assert folder.under_way == []


def end_the_overlap(folder: SecretFolder, name: str) -> None:
    """Let the time be over for which the old value works."""
    versions = Versions(folder.path, name)
    journal = versions.journal()
    assert journal is not None
    assert journal.until is not None
    versions.record(journal.model_copy(update={"until": journal.until - timedelta(hours=2)}))


def test_a_single_role_changes_its_own_password_and_its_sessions_live_on(folder: SecretFolder, roles: Roles) -> None:
    folder.add("db_password", OLD + "\n", kind="generated", postgres={"roles": ["single"]})
    folder.targets.update(roles.target())
    open_session = psycopg.connect(
        host="127.0.0.1", port=roles.server.port, dbname="postgres", user="single", password=OLD, autocommit=True
    )

    before = len(roles.log)
    with open_session:
        result = folder.rotate()
        still = open_session.execute("SELECT current_user").fetchone()

    new = folder.read("db_password")
    assert result.outcome == "succeeded", result.text()
    assert still == ("single",)
    assert (roles.accepts("single", new), roles.accepts("single", OLD)) == (True, False)
    assert result.check("old value of db_password is refused by postgres main").status is CheckStatus.OK
    assert result.check("age of db_password").status is CheckStatus.OK
    assert result.measure("secret_age_days", name="db_password") < 1
    for text in (roles.log[before:], result.text(), *(item.model_dump_json() for item in result.items)):
        assert new not in text
        assert OLD not in text
    assert "SCRAM-SHA-256$" in roles.log[before:]


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[RedisServer]:
    users = tmp_path / "users.acl"
    users.write_text(
        "user default on nopass ~* &* +@all\n"
        f"user app on >{REDIS_OLD} ~* +@all\n"
        "user rotator on >rotator -@all +ping +acl|setuser +acl|getuser +acl|save +acl|whoami +acl|dryrun +config|get\n"
    )
    with own_redis("--aclfile", str(users)) as started:
        yield started


REDIS_OLD = "redis-old-value-which-is-long-enough"


def redis_secret(folder: SecretFolder, cache: RedisServer, **about: Any) -> None:
    folder.add("redis_password", REDIS_OLD, kind="generated", redis={"user": "app"}, **about)
    folder.targets["redis"] = {"main": {"url": cache.url, "username": "rotator", "password": "rotator"}}


def test_a_redis_user_has_both_passwords_until_the_old_one_is_revoked(folder: SecretFolder, cache: RedisServer) -> None:
    redis_secret(folder, cache)
    both = list[bool]()

    def at_intent(change: Change) -> None:
        if change.action == "revoke secret":
            both.extend(
                (redis_accepts(cache, "app", REDIS_OLD), redis_accepts(cache, "app", folder.read("redis_password")))
            )

    result = folder.rotate(at_intent=at_intent)

    new = folder.read("redis_password")
    assert result.outcome == "succeeded", result.text()
    assert both == [True, True]
    assert (redis_accepts(cache, "app", new), redis_accepts(cache, "app", REDIS_OLD)) == (True, False)
    with closing(cache.client()) as client:
        client.execute_command("ACL", "LOAD")  # what the server would have after a restart
    assert (redis_accepts(cache, "app", new), redis_accepts(cache, "app", REDIS_OLD)) == (True, False)


def test_a_token_is_accepted_before_and_refused_after(folder: SecretFolder) -> None:
    with token_service(lambda: folder.read("admin_token")) as url:
        folder.add("admin_token", "t" * 10 + OLD[3:30], kind="generated", http={"url": url, "header": "X-Admin-Token"})
        before = folder.read("admin_token")

        result = folder.rotate()

    assert result.outcome == "succeeded", result.text()
    new = folder.read("admin_token")
    assert new != before
    assert len(new) == 43
    assert result.check("old value of admin_token is refused by " + url).status is CheckStatus.OK
    sealed = folder.backups[0].read_bytes()
    assert before.encode() in _unpacked(pyrage.decrypt(sealed, [IDENTITY]))
    assert folder.backups[0].stat().st_mode & 0o777 == 0o600


def _unpacked(packed: bytes) -> bytes:
    return gzip.decompress(packed)


def test_the_last_backups_of_the_folder_are_kept(folder: SecretFolder) -> None:
    with token_service(lambda: folder.read("token")) as url:
        folder.add("token", REDIS_OLD, kind="generated", http={"url": url, "header": "X-Admin-Token"})
        values = [REDIS_OLD]
        for _ in range(3):
            result = folder.rotate({"keep": 2})
            assert result.outcome == "succeeded", result.text()
            values.append(folder.read("token"))

    kept = [_unpacked(pyrage.decrypt(path.read_bytes(), [IDENTITY])) for path in folder.backups]
    # Each has the value of before its rotation, and no other.
    assert [[value for value in values if value.encode() in text] for text in kept] == [[values[1]], [values[2]]]


def test_a_service_that_keeps_the_old_token_gets_it_back(folder: SecretFolder) -> None:
    stuck = "the-environment-variable-takes-precedence"
    with token_service(lambda: stuck) as url:
        path = folder.add("admin_token", stuck, kind="generated", http={"url": url, "header": "X-Admin-Token"})
        before = path.stat()

        result = folder.rotate()

    assert result.outcome == "failed"
    assert folder.read("admin_token") == stuck
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert result.check("admin_token as it was before").observed == "the old value works again"
    assert result.check("admin_token rotated").status is CheckStatus.FAIL
    assert folder.under_way == []


@pytest.fixture(scope="module")
def dying() -> Iterator[DyingJobs]:
    with dying_jobs() as started:
        yield started


@pytest.mark.parametrize("kind", ["two roles", "one role", "redis", "http"])
def test_a_kill_at_any_instant_is_continued_by_the_next_run(
    folder: SecretFolder, roles: Roles, cache: RedisServer, dying: DyingJobs, kind: str
) -> None:
    with token_service(lambda: folder.read("token")) as url:
        match kind:
            case "two roles":
                two_roles(folder, roles)
                name = "db_password"
            case "one role":
                folder.add("db_password", OLD, kind="generated", postgres={"roles": ["single"]})
                folder.targets.update(roles.target())
                name = "db_password"
            case "redis":
                redis_secret(folder, cache)
                name = "redis_password"
            case _:
                folder.add("token", REDIS_OLD, kind="generated", http={"url": url, "header": "X-Admin-Token"})
                name = "token"

        def accepted(value: str) -> bool:
            if kind == "two roles":
                return any(roles.accepts(role, value) for role in ("app_a", "app_b"))
            if kind == "one role":
                return roles.accepts("single", value)
            return redis_accepts(cache, "app", value) if kind == "redis" else value == folder.read("token")

        values = [folder.read(name)]
        killed = 0
        for at in range(1, 60):
            # So many backups are made here that some would be deleted, which are changes, too.
            if not dying.run("secrets_rotate", {"min_age": "0s", "keep": 100}, folder.all_targets(), at):
                break
            killed += 1
            values.append(folder.read(name))

            after = folder.rotate({"keep": 100})

            assert after.outcome in ("succeeded", "warned"), f"killed at report {at}\n{after.text()}"
            assert folder.under_way == [], f"killed at report {at}\n{after.text()}"
            values.append(folder.read(name))
            assert accepted(values[-1]), f"killed at report {at}\n{after.text()}"
            assert not any(accepted(value) for value in set(values[-4:-1]) - {values[-1]}), f"killed at report {at}"

    # Two reports of each change: the backup, what is set and revoked at a server, and each file.
    assert killed == {"two roles": 12, "one role": 6, "redis": 8, "http": 4}[kind]


def test_a_kill_while_it_goes_back_is_continued_by_the_next_run(folder: SecretFolder, dying: DyingJobs) -> None:
    stuck = "the-environment-variable-takes-precedence"
    killed = 0
    with token_service(lambda: stuck) as url:
        path = folder.add("token", stuck, kind="generated", http={"url": url, "header": "X-Admin-Token"})
        modified = path.stat().st_mtime_ns
        while dying.run("secrets_rotate", {"min_age": "0s"}, folder.all_targets(), killed + 1):
            killed += 1

            after = folder.rotate({"rotate": False})

            begun = bool(after.named("interrupted rotation"))
            assert (after.outcome == "failed") == begun, f"killed at report {killed}\n{after.text()}"
            assert folder.read("token") == stuck, f"killed at report {killed}\n{after.text()}"
            assert path.stat().st_mtime_ns == modified, f"killed at report {killed}"
            assert folder.under_way == [], f"killed at report {killed}\n{after.text()}"

    assert killed == 6  # two reports of each: the backup, the new value in the file, and the old one


def assert_unchanged(folder: SecretFolder, result: JobResult, name: str, value: str) -> None:
    assert result.outcome in ("failed", "unknown"), result.text()
    assert result.changes == [], result.text()
    assert folder.read(name) == value
    assert folder.under_way == []


def test_nothing_is_changed_where_any_value_is_accepted(folder: SecretFolder) -> None:
    with http_service({"/admin": json_reply({})}) as url:
        folder.add("token", REDIS_OLD, kind="generated", http={"url": f"{url}/admin"})

        result = folder.rotate()

    assert_unchanged(folder, result, "token", REDIS_OLD)
    assert "accepts any value" in str(result.check("rotation of token").observed)


def test_nothing_is_changed_when_the_present_value_does_not_work(folder: SecretFolder, cache: RedisServer) -> None:
    redis_secret(folder, cache)
    folder.write("redis_password", "another-value-which-nothing-accepts")

    result = folder.rotate()

    assert_unchanged(folder, result, "redis_password", "another-value-which-nothing-accepts")
    assert "refuses the present value" in str(result.check("rotation of redis_password").observed)
    assert redis_accepts(cache, "app", REDIS_OLD)


def test_nothing_is_changed_without_an_encrypted_backup(folder: SecretFolder, cache: RedisServer) -> None:
    redis_secret(folder, cache)
    folder.recipients = []

    result = folder.rotate()

    assert_unchanged(folder, result, "redis_password", REDIS_OLD)
    assert "age-keygen" in result.check("rotation of redis_password").hint


def test_nothing_is_changed_when_the_other_role_may_do_less(folder: SecretFolder, roles: Roles) -> None:
    two_roles(folder, roles)
    roles.run("REVOKE owner FROM app_b")

    result = folder.rotate()

    assert_unchanged(folder, result, "db_password", OLD)
    assert "app_a and app_b differ in groups" in str(result.check("rotation of db_password").observed)


def test_nothing_is_changed_without_the_right_to_change_the_roles(folder: SecretFolder, roles: Roles) -> None:
    two_roles(folder, roles)
    roles.run("ALTER ROLE maintd_secrets NOCREATEROLE")

    result = folder.rotate()

    assert_unchanged(folder, result, "db_password", OLD)
    assert "CREATEROLE" in result.check("rotation of db_password").hint


def test_a_dry_run_names_what_it_would_change(folder: SecretFolder, cache: RedisServer) -> None:
    redis_secret(folder, cache)

    result = folder.rotate(dry_run=True)

    assert [(change.action, change.state) for change in result.changes] == [
        ("set secret", ChangeState.PLANNED),
        ("write secret", ChangeState.PLANNED),
    ]
    assert folder.read("redis_password") == REDIS_OLD
    assert not (folder.path / ".versions").exists()


def test_a_password_that_cannot_be_used_goes_back_when_the_server_allows_it(folder: SecretFolder, roles: Roles) -> None:
    folder.add("db_password", OLD, kind="generated", postgres={"roles": ["single"]})
    folder.targets.update(roles.target())

    def expire(change: Change) -> None:
        if change.action == "write secret":
            roles.run("ALTER ROLE single VALID UNTIL '2001-01-01'")

    first = folder.rotate(at_intent=expire)

    assert first.outcome == "failed"
    assert first.check("db_password as it was before").status is CheckStatus.FAIL
    assert folder.under_way == ["db_password"]

    roles.run("ALTER ROLE single VALID UNTIL 'infinity'")
    second = folder.rotate({"rotate": False})

    assert second.outcome == "failed"  # there is no new value
    assert second.check("db_password as it was before").observed == "the old value works again"
    assert (folder.read("db_password"), roles.accepts("single", OLD)) == (OLD, True)
    assert folder.under_way == []


def test_what_others_issue_is_never_written(folder: SecretFolder, cache: RedisServer) -> None:
    redis_secret(folder, cache)
    external = folder.add("slack_token", "xoxb-" + "Az09" * 12, procedure="reinstall the app")
    stray = folder.write("stray", "a file of another program")
    old = time.time() - 200 * 86_400
    for path in (external, stray):
        os.utime(path, (old, old))
    before = {path: (path.read_bytes(), path.stat()) for path in (external, stray)}

    result = folder.rotate()

    for path, (content, found) in before.items():
        now = path.stat()
        assert path.read_bytes() == content
        assert (now.st_ino, now.st_mtime_ns, now.st_ctime_ns, now.st_mode) == (
            found.st_ino,
            found.st_mtime_ns,
            found.st_ctime_ns,
            found.st_mode,
        )
    age = result.check("age of slack_token")
    assert (age.status, "reinstall the app" in age.hint) == (CheckStatus.FAIL, True)  # 200 d are above 2 × 90 d
    assert result.check("folder main: files that no secret names").observed == "stray"
    assert round(result.measure("secret_age_days", name="slack_token")) == 200
    assert redis_accepts(cache, "app", folder.read("redis_password"))


def test_a_young_secret_is_left_as_it_is(folder: SecretFolder, cache: RedisServer) -> None:
    redis_secret(folder, cache)

    result = folder.rotate({"min_age": "25d"})

    assert (result.outcome, result.changes) == ("succeeded", [])
    assert folder.read("redis_password") == REDIS_OLD


def test_the_doctor_names_the_grants_that_are_missing(folder: SecretFolder, roles: Roles, cache: RedisServer) -> None:
    two_roles(folder, roles)
    redis_secret(folder, cache)
    roles.run("ALTER ROLE maintd_secrets NOCREATEROLE")
    with closing(cache.client()) as client:
        client.execute_command("ACL", "SETUSER", "rotator", "-acl|setuser")
    step = {"entry": "monthly", "step": "s", "job": "secrets_rotate", "path": str(JOBS / "secrets_rotate.py")}

    result = run_job("doctor", {"calendar": {"steps": [{**step, "params": "{}"}]}}, folder.all_targets())

    assert "CREATEROLE" in result.check("postgres main: change the roles app_a and app_b").hint
    assert "+acl|setuser" in result.check("redis main: change the passwords of app").hint
    assert result.check("secrets main: write its files").status is CheckStatus.OK


def test_no_value_is_in_the_store_the_log_of_the_run_or_its_files(
    folder: SecretFolder, roles: Roles, tmp_path: Path
) -> None:
    two_roles(folder, roles)
    folder.add("single_password", f"single{OLD}", kind="generated", postgres={"roles": ["single"]})
    quoted = f"single{OLD}".replace("'", "''")
    roles.run(f"ALTER ROLE single PASSWORD '{quoted}'")
    before, logged = {folder.read(name) for name in ("db_password", "db_url", "single_password")}, len(roles.log)
    state = tmp_path / "state"
    state.mkdir()
    # The target of the roles has its password by reference, as it should.
    folder.write("rotator", "rotator")
    folder.targets["postgres"]["main"]["password"] = f"${{file:{folder.path / 'rotator'}}}"
    step = {"secrets_rotate": {"min_age": "0s"}}
    calendar = {"timezone": "UTC", "targets": folder.all_targets(), "entries": {"rotation": {"steps": [step]}}}
    (tmp_path / "schedules.yaml").write_text(json.dumps(calendar))
    shell = Shell(tmp_path, {"MAINTD_STATE_DIR": str(state), "MAINTD_LISTEN": "", "MAINTD_LOG_LEVEL": "debug"})

    done = shell.maintd("run", "rotation", "--here", "--json")
    shown = shell.maintd("show", "1", "--json")

    assert done.json["state"] == "warned", done.out + done.err  # the file of the rotator is not in the registry
    after = {folder.read(name) for name in ("db_password", "db_url", "single_password")}
    assert not before & after
    kept = [path for path in (*state.rglob("*"), roles.server.folder / "log") if path.is_file()]
    texts = {str(path): path.read_bytes() for path in kept} | {"output": (done.out + done.err + shown.out).encode()}
    texts[str(roles.server.folder / "log")] = roles.log[logged:].encode()
    assert len(kept) > 2
    found = [name for name, text in texts.items() for value in before | after if value.encode() in text]
    assert found == []
