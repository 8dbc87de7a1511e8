"""The roles of deploy/roles.sql have the permissions that they need, and no more."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg
import pytest
from support.job_runs import run_job
from support.servers.postgres import BIN, PostgresServer

from maintd.model.evidence import CheckStatus

ROLES = Path(__file__).parents[2] / "deploy/roles.sql"

pytestmark = pytest.mark.server


def test_each_role_can_do_its_work_and_nothing_else(own_postgres: PostgresServer) -> None:
    url = own_postgres.create("trading")
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CREATE ROLE trader LOGIN")
        conn.execute("GRANT CREATE ON SCHEMA public TO trader")
        conn.execute("SET ROLE trader")
        conn.execute("CREATE TABLE orders (id int)")
    install(url)

    with psycopg.connect(url.replace("postgres@", "maintd_op@"), autocommit=True) as op:
        notices: list[str] = []
        op.add_notice_handler(lambda notice: notices.append(str(notice.message_primary)))
        op.execute("VACUUM orders")
        assert notices == []
    with psycopg.connect(url.replace("postgres@", "maintd_ro@"), autocommit=True) as ro:
        assert ro.execute("SELECT count(*) FROM orders").fetchone() == (0,)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            ro.execute("INSERT INTO orders VALUES (1)")


def test_a_further_database_gets_the_same_rights_and_both_roles_can_check_for_damage(
    own_postgres: PostgresServer,
) -> None:
    variables = ["-v", "owner=trader", "-v", "ro_password='a'", "-v", "op_password='b'", "-v", "ON_ERROR_STOP=1"]
    for number, name in enumerate(("first", "second", "third")):
        url = own_postgres.create(name)
        with psycopg.connect(url, autocommit=True) as conn:
            if number == 0:
                conn.execute("CREATE ROLE trader LOGIN")
            conn.execute("GRANT CREATE ON SCHEMA public TO trader")
            conn.execute("SET ROLE trader")
            conn.execute("CREATE TABLE orders (id int PRIMARY KEY)")

        for _ in range(2):
            subprocess.run([BIN / "psql", url, *variables, "-f", ROLES], check=True, capture_output=True)

        for role in ("maintd_ro", "maintd_op"):
            with psycopg.connect(url.replace("postgres@", f"{role}@"), autocommit=True) as conn:
                conn.execute("SELECT bt_index_check('orders_pkey', true)")
                assert conn.execute("SELECT count(*) FROM verify_heapam('orders')").fetchone() == (0,)


def with_roles(server: PostgresServer, name: str, *before: str) -> str:
    """A database with a table, after the statements `before` and roles.sql."""
    url = server.create(name)
    with psycopg.connect(url, autocommit=True) as conn:
        for statement in ("CREATE TABLE orders (id int PRIMARY KEY)", "INSERT INTO orders VALUES (1)", *before):
            conn.execute(statement.encode())
    install(url)
    return url


def install(url: str) -> None:
    """Run roles.sql as superuser, with the owner trader."""
    variables = ["-v", "owner=trader", "-v", "ro_password='a'", "-v", "op_password='b'", "-v", "ON_ERROR_STOP=1"]
    subprocess.run([BIN / "psql", url, *variables, "-f", ROLES], check=True, capture_output=True)


@pytest.mark.parametrize("role", ["maintd_ro", "maintd_op"])
def test_both_roles_read_all_of_the_configuration(own_postgres: PostgresServer, role: str) -> None:
    url = with_roles(own_postgres, "trading", "CREATE ROLE trader LOGIN").replace("postgres@", f"{role}@")

    result = run_job("config_review", {"docker": []}, {"postgres": {"main": {"dsn": url}}})

    unknown = [check.name for check in result.checks if check.status is CheckStatus.UNKNOWN]
    assert unknown == ["postgres main: as approved"], result.text()  # there is no folder for baselines


@pytest.mark.parametrize("role", ["maintd_ro", "maintd_op"])
def test_amcheck_works_with_both_roles_in_every_database_and_schema(own_postgres: PostgresServer, role: str) -> None:
    with psycopg.connect(own_postgres.create("before"), autocommit=True) as conn:
        conn.execute("CREATE ROLE trader LOGIN")
    first = with_roles(own_postgres, "first")
    second = with_roles(own_postgres, "second", "CREATE SCHEMA ext", "CREATE EXTENSION amcheck SCHEMA ext")
    third = with_roles(own_postgres, "third", "GRANT USAGE ON SCHEMA public TO trader")
    install(first)  # again

    for url in (first, second, third):
        dsn = url.replace("postgres@", f"{role}@")
        result = run_job("database_size", {"amcheck": "yes"}, {"postgres": {"main": {"dsn": dsn}}})
        check = result.check("main: damaged relations")
        assert (check.status, check.observed) == (CheckStatus.OK, 0), result.text()


@pytest.mark.parametrize("role", ["maintd_ro", "maintd_op"])
def test_queries_can_be_reviewed_with_both_roles(own_postgres: PostgresServer, role: str) -> None:
    with psycopg.connect(own_postgres.create("before"), autocommit=True) as conn:
        conn.execute("CREATE ROLE trader LOGIN")
    url = with_roles(own_postgres, "first", "CREATE SCHEMA ext", "CREATE EXTENSION pg_stat_statements SCHEMA ext")
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("SELECT count(*) FROM orders")

    result = run_job("query_review", {}, {"postgres": {"main": {"dsn": url.replace("postgres@", f"{role}@")}}})

    assert result.check("main: statements").status is CheckStatus.OK, result.text()
    assert not [check for check in result.checks if check.status is CheckStatus.UNKNOWN and not check.optional]
