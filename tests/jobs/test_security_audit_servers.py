"""The security audit of real Postgres and Redis servers: each rule broken, and followed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.job_runs import JobResult, run_job
from support.servers.postgres import PostgresServer, postgres
from support.servers.redis import redis

from maintd.checks.audit import postgres as rules
from maintd.checks.audit import redis as redis_rules
from maintd.checks.audit.rule import Outcome
from maintd.errors import TargetError
from maintd.model.evidence import CheckStatus

PASSWORD = "Pw-that-is-shown-nowhere-7"
ROLES = Path(__file__).parents[2] / "deploy/roles.sql"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres() as started:
        yield started


def audit(server: PostgresServer, user: str = "postgres", **params: Any) -> JobResult:
    dsn = f"host=127.0.0.1 port={server.port} dbname=postgres user={user} password={PASSWORD}"
    return run_job("security_audit", {"hosts": [], **params}, {"postgres": {"main": {"dsn": dsn}}})


def run(server: PostgresServer, *statements: str) -> None:
    with psycopg.connect(server.url("postgres"), autocommit=True) as session:
        for statement in statements:
            session.execute(statement)


def statuses(result: JobResult) -> dict[str, CheckStatus]:
    """Checks that are not ok, without their place."""
    return {
        check.name.removeprefix("postgres main: "): check.status
        for check in result.checks
        if check.status is not CheckStatus.OK
    }


@pytest.mark.server
def test_a_server_of_a_fresh_folder_breaks_the_rules_of_its_defaults(server: PostgresServer) -> None:
    run(server, "GRANT CREATE ON SCHEMA public TO PUBLIC")

    result = audit(server)

    found = statuses(result)
    assert found["rules of pg_hba.conf with trust: host all all 127.0.0.1"] is CheckStatus.FAIL
    assert found["schemas in which everyone may create objects: postgres.public"] is CheckStatus.FAIL
    assert found["servers without TLS"] is CheckStatus.WARN
    assert found["servers that log no connections"] is CheckStatus.WARN
    assert "roles that are superusers" not in found  # postgres is meant to be one
    assert result.check("postgres main: servers without TLS").rule.startswith("PostgreSQL documentation, ")


@pytest.mark.server
def test_a_server_that_was_set_up_follows_the_rules(server: PostgresServer) -> None:
    hba = server.folder / "data/pg_hba.conf"
    before = hba.read_text()
    # The rule of the test itself comes first: from here on as in production.
    hba.write_text("local all postgres peer\nhost all all 127.0.0.1/32 scram-sha-256\n")
    try:
        with psycopg.connect(server.url("postgres"), autocommit=True) as session:
            session.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
            session.execute("ALTER SYSTEM SET log_connections = on")
            session.execute(f"ALTER ROLE postgres PASSWORD '{PASSWORD}'")
            session.execute("SELECT pg_reload_conf()")
        result = audit(server)
    finally:
        hba.write_text(before)
        with psycopg.connect(f"{server.url('postgres')}?password={PASSWORD}", autocommit=True) as session:
            session.execute("ALTER SYSTEM RESET log_connections")
            session.execute("SELECT pg_reload_conf()")

    assert statuses(result) == {"servers without TLS": CheckStatus.WARN}, result.text()
    assert PASSWORD not in result.text() + "".join(Path(item.path).read_text() for item in result.artifacts)


@pytest.mark.server
def test_an_application_with_a_superuser_and_md5_is_named_without_its_hash(server: PostgresServer) -> None:
    run(
        server,
        f"SET password_encryption = 'md5'; CREATE ROLE trader LOGIN SUPERUSER PASSWORD '{PASSWORD}'",
    )
    url = server.url("postgres").replace("postgres@", "trader@")
    try:
        with psycopg.connect(url, application_name="orchestrator"):
            result = audit(server)
    finally:
        run(server, "DROP ROLE trader")

    found = statuses(result)
    for title in (
        "roles that are superusers",
        "applications that connect as a superuser",
        "roles whose password is kept as md5",
    ):
        assert found[title] is CheckStatus.WARN
        assert "trader" in str(result.check(f"postgres main: {title}").observed)
    text = result.text() + "".join(Path(item.path).read_text() for item in result.artifacts)
    assert PASSWORD not in text
    assert "'md5" not in text.replace("LIKE 'md5%'", "")


@pytest.mark.server
def test_a_login_without_rights_knows_less_and_is_not_green_for_it(server: PostgresServer) -> None:
    run(server, f"CREATE ROLE weak LOGIN PASSWORD '{PASSWORD}'")
    try:
        result = audit(server, "weak")
    finally:
        run(server, "DROP ROLE weak")

    for title in ("rules of pg_hba.conf with trust", "applications that connect as a superuser"):
        check = result.check(f"postgres main: {title}")
        assert check.status is CheckStatus.UNKNOWN
        assert "denied" in str(check.observed)
        assert not check.optional
    md5 = result.check("postgres main: roles whose password is kept as md5: not examined")
    assert (md5.status, md5.optional) == (CheckStatus.UNKNOWN, True)  # only a superuser may know it
    assert result.measure("audit_checks_unknown") >= 4


@pytest.mark.server
def test_the_grants_of_deploy_are_enough(server: PostgresServer) -> None:
    grants = [line for line in ROLES.read_text().splitlines() if "pg_hba_file_rules" in line]
    assert len(grants) == 2
    run(
        server,
        "CREATE ROLE maintd_op",
        f"CREATE ROLE maintd_ro LOGIN PASSWORD '{PASSWORD}'",
        "GRANT pg_monitor TO maintd_ro",
        *grants,
    )
    try:
        result = audit(server, "maintd_ro")
    finally:
        run(server, "DROP OWNED BY maintd_ro, maintd_op", "DROP ROLE maintd_ro, maintd_op")

    unknown = [check.name for check in result.checks if check.status is CheckStatus.UNKNOWN and not check.optional]
    assert unknown == [], result.text()


GOOD = rules.Facts(
    roles=[{"name": "app", "super": False}],
    sessions=[],
    kinds=[{"name": "app", "kind": "scram-sha-256"}],
    hba=[
        {
            "type": "hostssl",
            "database": ["all"],
            "user_name": ["app"],
            "address": "10.0.0.0",
            "netmask": "255.0.0.0",
            "method": "scram-sha-256",
        }
    ],
    settings={"password_encryption": "scram-sha-256", "ssl": "on", "log_connections": "on"},
    public=[],
    schemas=1,
    extensions=[{"name": "amcheck", "installed": "1.3", "available": "1.3"}],
)


def broken(outcomes: list[Outcome]) -> dict[str, str]:
    return {
        one.rule.id: one.violations[0].observed if one.violations else f"unknown: {one.blind[0].cause}"
        for one in outcomes
        if one.violations or one.blind
    }


def entry(**changed: Any) -> list[dict[str, Any]]:
    assert isinstance(GOOD.hba, list)
    return [{**GOOD.hba[0], **changed}]


@pytest.mark.parametrize(
    ("rule", "changed", "observed"),
    [
        ("postgres-superusers", {"roles": [{"name": "app", "super": True}]}, "superuser"),
        ("postgres-superuser-sessions", {"sessions": [{"name": "app"}]}, "superuser"),
        ("postgres-md5", {"kinds": [{"name": "app", "kind": "md5"}]}, "md5"),
        ("postgres-md5", {"kinds": [{"name": "app", "kind": "unfamiliar"}]}, "unknown: unfamiliar"),
        ("postgres-password-encryption", {"settings": {**GOOD.settings, "password_encryption": "md5"}}, "md5"),  # type: ignore[dict-item]
        ("postgres-hba-trust", {"hba": entry(method="trust")}, "trust"),
        ("postgres-hba-everywhere", {"hba": entry(address="0.0.0.0", netmask="0.0.0.0")}, "scram-sha-256"),
        ("postgres-hba-everywhere", {"hba": entry(address="::", netmask="::")}, "scram-sha-256"),
        ("postgres-hba-everywhere", {"hba": entry(address="all", netmask=None)}, "scram-sha-256"),
        ("postgres-hba-weak", {"hba": entry(method="md5")}, "md5"),
        ("postgres-hba-weak", {"hba": entry(method="password")}, "password"),
        ("postgres-ssl", {"settings": {**GOOD.settings, "ssl": "off"}}, "ssl: off"),  # type: ignore[dict-item]
        ("postgres-public-create", {"public": [{"name": "db.public"}]}, "CREATE for PUBLIC"),
        ("postgres-extensions", {"extensions": [{"name": "amcheck", "installed": "1.2", "available": "1.3"}]}, "1.2"),
        ("postgres-log-connections", {"settings": {**GOOD.settings, "log_connections": "off"}}, "off"),  # type: ignore[dict-item]
        ("postgres-extensions", {"extensions": TargetError("late", cause="timed_out")}, "unknown: timed_out"),
    ],
)
def test_each_rule_of_postgres(rule: str, changed: dict[str, Any], observed: str) -> None:
    assert broken(rules.outcomes("postgres main", GOOD, ())) == {}

    found = broken(rules.outcomes("postgres main", replace(GOOD, **changed), ()))

    assert set(found) == {rule}
    assert observed in found[rule]


def test_a_rule_that_rejects_or_a_superuser_that_is_meant_to_be_breaks_nothing() -> None:
    facts = replace(GOOD, hba=entry(method="reject", address="0.0.0.0", netmask="0.0.0.0"))
    facts = replace(facts, roles=[{"name": "postgres", "super": True}])

    assert broken(rules.outcomes("postgres main", facts, ("postgres",))) == {}


# --- Redis -----------------------------------------------------------------------------------------------------------


def audit_redis(url: str, **target: Any) -> JobResult:
    return run_job("security_audit", {"hosts": []}, {"redis": {"main": {"url": url, **target}}})


@pytest.mark.server
def test_a_redis_without_a_password_that_lets_anyone_in_breaks_every_rule() -> None:
    with redis("--protected-mode", "no", "--bind", "*") as server:
        result = audit_redis(server.url)

    assert result.check("redis main: servers without authentication: server").status is CheckStatus.FAIL
    assert result.check("redis main: servers without protected mode").status is CheckStatus.WARN
    assert result.check("redis main: servers that listen on every address").status is CheckStatus.WARN
    rights = result.check("redis main: default users with dangerous commands")
    assert rights.status is CheckStatus.WARN
    assert "FLUSHALL" in rights.hint
    assert "CONFIG SET" in rights.hint


@pytest.mark.server
def test_a_redis_with_users_of_their_own_follows_every_rule(tmp_path: Path) -> None:
    acl = tmp_path / "users.acl"
    grants = "+ping +config|get +acl|dryrun +info"
    acl.write_text(f"user default on >{PASSWORD} ~* -@all +@read +ping\nuser maintd on >{PASSWORD} -@all {grants}\n")
    with redis("--aclfile", str(acl), "--protected-mode", "yes") as server:
        url = server.url.replace("redis://", f"redis://maintd:{PASSWORD}@")
        result = audit_redis(url)

    other = [check for check in result.checks if check.status is not CheckStatus.OK]
    # KEYS reads, so @read has it.
    assert [check.name for check in other] == ["redis main: default users with dangerous commands"], result.text()
    assert "(server: may run KEYS)" in other[0].hint
    assert PASSWORD not in result.text() + "".join(Path(item.path).read_text() for item in result.artifacts)


@pytest.mark.server
def test_a_redis_user_without_the_rights_leaves_it_unknown(tmp_path: Path) -> None:
    acl = tmp_path / "users.acl"
    acl.write_text(f"user default off\nuser maintd on >{PASSWORD} -@all +ping\n")
    with redis("--aclfile", str(acl)) as server:
        result = audit_redis(server.url, username="maintd", password=PASSWORD)

    assert result.check("redis main: servers without authentication").status is CheckStatus.OK
    rights = result.check("redis main: default users with dangerous commands")
    assert rights.status is CheckStatus.UNKNOWN
    assert "+config|get +acl|dryrun" in rights.hint
    assert result.check("redis main: servers that listen on every address").status is CheckStatus.UNKNOWN


def test_a_redis_in_order_breaks_no_rule() -> None:
    facts = redis_rules.Facts(False, {"protected-mode": "yes", "bind": "127.0.0.1 -::1"}, ())

    assert broken(redis_rules.outcomes("redis main", facts)) == {}


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_a_server_that_is_down_is_not_green(kind: str) -> None:
    place = {"dsn": "host=127.0.0.1 port=1"} if kind == "postgres" else {"url": "redis://127.0.0.1:1"}

    result = run_job("security_audit", {"hosts": []}, {kind: {"main": place}})

    assert result.check(f"{kind} main: examined").status is not CheckStatus.OK
    assert result.measure("audit_checks_unknown") >= 4
