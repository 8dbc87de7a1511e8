"""What a rollback of data needs, by the roles of deploy/roles.sql: granted, or named before it is needed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.job_runs import JOBS, JobResult, run_job
from support.rollbacks import BACKED_UP, NAME, Origin, Site, damage, origin_of_backup, rollback_site
from support.servers.postgres import BIN, PostgresServer, postgres
from support.servers.redis import RedisServer
from support.users import folder_for_all

from maintd.checks.rollback import loss
from maintd.model.evidence import CheckStatus

pytestmark = pytest.mark.server

ROLES = Path(__file__).parents[2] / "deploy/roles.sql"
RIGHT = "postgres main: replace its database"


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with origin_of_backup() as made:
        yield made


@pytest.fixture
def site(origin: Origin, redis_server: RedisServer) -> Iterator[Site]:
    with rollback_site(origin, redis_server) as made:
        yield made


def doctor(targets: dict[str, Any], **params: Any) -> JobResult:
    step = {"entry": "e", "step": "rollback", "job": "rollback", "path": str(JOBS / "rollback.py")}
    steps = [{**step, "params": json.dumps({"level": "data", **params})}]
    return run_job("doctor", {"calendar": {"steps": steps}}, targets)


def test_the_doctor_names_each_right_that_is_missing(site: Site) -> None:
    site.do("CREATE EXTENSION pgstattuple")
    with site.as_login("CONNECT ON DATABASE trading"):
        result = doctor(site.targets)

    check = result.check(RIGHT)
    assert check.status is CheckStatus.FAIL, result.text()
    for part in (
        "may not create databases",
        "rights of trader",
        "end the sessions",
        "create the extension pgstattuple",
    ):
        assert part in str(check.observed)
    for part in ("ALTER ROLE op CREATEDB", "GRANT trader TO op", "GRANT pg_signal_backend TO op", "param role"):
        assert part in check.hint


def test_the_doctor_finds_the_least_rights_enough(site: Site) -> None:
    with site.as_login("trader", "pg_signal_backend", "CONNECT ON DATABASE trading", options="CREATEDB"):
        result = doctor(site.targets)

    assert result.check(RIGHT).status is CheckStatus.OK, result.text()
    assert site.databases() == [NAME]


def test_a_session_of_a_superuser_is_named_before_anything_is_changed(site: Site) -> None:
    damage(site)
    with (
        site.as_login("trader", "pg_signal_backend", "CONNECT ON DATABASE trading", options="CREATEDB"),
        psycopg.connect(site.server.url(NAME)),
    ):
        result = site.run()

    assert result.outcome == "failed"
    assert "only a superuser may end the sessions of postgres" in result.named("rights that are missing")[0].hint
    assert result.changes == []


def test_a_role_is_worked_as_where_the_login_may_do_nothing_itself(site: Site) -> None:
    damage(site)
    site.do("CREATE ROLE boss SUPERUSER", database="postgres")
    try:
        with site.as_login("boss", "CONNECT ON DATABASE trading"):
            asked = doctor(site.targets, role="boss")
            result = site.run(role="boss")
    finally:
        site.do("DROP OWNED BY boss", "DROP ROLE boss", database="postgres")

    assert asked.check(RIGHT).status is CheckStatus.OK, asked.text()
    assert result.outcome == "succeeded", result.text()
    assert site.rows() == BACKED_UP
    assert site.ask(f"SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = '{NAME}'") == "trader"


def test_the_roles_of_a_deployment_are_enough_with_the_extensions_that_they_create() -> None:
    with postgres() as server, folder_for_all() as sets, folder_for_all() as work:
        deployed(server)
        dsn = f"postgresql://maintd_op@127.0.0.1:{server.port}/trading"
        targets = {
            "postgres": {"main": {"dsn": dsn, "bin_dir": str(BIN), "timeout": "10s"}},
            "folders": {"backup_sets": {"path": str(sets)}},
        }
        made = run_job("backup", {"min_free": "1MB", "exclude_databases": ["*"]}, targets)
        assert made.outcome == "succeeded", made.text()
        with psycopg.connect(server.url("trading"), autocommit=True) as conn:
            conn.execute("DROP TABLE audit_events")
        params = {"level": "data", "halted": False, "role": "trader"}

        stated = run_job("rollback_loss", {}, targets, folder=work)
        result = run_job(
            "rollback", params, targets, folder=work, handed=stated.handed, approvals={"gate": "approved by ada"}
        )

        assert "public.audit_events: missing now" in str(stated.check(loss.STATED).observed)
        assert stated.outcome == "warned", stated.text()
        assert result.outcome == "succeeded", result.text()
        assert result.check("postgres main: trading_maintd_new: damaged relations").observed == 0
        with psycopg.connect(server.url("trading"), autocommit=True) as conn:
            row = conn.execute("SELECT count(*) FROM audit_events").fetchone()
            assert row == (3,)
            row = conn.execute(
                "SELECT has_function_privilege('maintd_ro', 'bt_index_check(regclass)', 'EXECUTE')"
            ).fetchone()
            assert row == (True,)


def deployed(server: PostgresServer) -> None:
    """A database as the Postgres image makes it, whose owner is a superuser, with the roles of maintd."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as conn:
        conn.execute("CREATE ROLE trader SUPERUSER LOGIN")
        conn.execute("CREATE DATABASE trading OWNER trader")
    with psycopg.connect(server.url("trading").replace("postgres@", "trader@"), autocommit=True) as conn:
        conn.execute("CREATE TABLE audit_events (id bigserial PRIMARY KEY, type text)")
        conn.execute("INSERT INTO audit_events (type) VALUES ('a'), ('b'), ('c')")
    variables = [
        word
        for pair in (("owner", "trader"), ("ro_password", "'r'"), ("op_password", "'o'"), ("rollback", "on"))
        for word in ("-v", "=".join(pair))
    ]
    command = [BIN / "psql", server.url("trading"), "-v", "ON_ERROR_STOP=1", *variables, "-f", ROLES]
    subprocess.run(command, check=True, capture_output=True)
