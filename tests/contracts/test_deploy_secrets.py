"""The roles of deploy/secrets.sql rotate a password, and maintd_secrets may do nothing else with the data."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg
import pytest
from support.secret_folders import SecretFolder, logs_in, require_passwords
from support.servers.postgres import BIN, PostgresServer

SCRIPT = Path(__file__).parents[2] / "deploy/secrets.sql"
OLD = "the-first-password-by-hand-0123456789"

pytestmark = pytest.mark.server


def test_the_roles_of_the_script_take_turns_and_act_as_the_owner(own_postgres: PostgresServer, tmp_path: Path) -> None:
    url = own_postgres.url("postgres")
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CREATE ROLE trader NOLOGIN")
        conn.execute("CREATE TABLE orders (n int)")
        conn.execute("ALTER TABLE orders OWNER TO trader")
        conn.execute("GRANT CREATE ON SCHEMA public TO trader")
    variables = ["owner=trader", "a=app_a", "b=app_b", "password='rotator'", "ON_ERROR_STOP=1"]
    argv = [BIN / "psql", url, *(word for item in variables for word in ("-v", item)), "-f", SCRIPT]
    for _ in range(2):  # again, as after an upgrade
        subprocess.run(argv, check=True, capture_output=True)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(f"ALTER ROLE app_a LOGIN PASSWORD '{OLD}'".encode())
    require_passwords(own_postgres)
    path = tmp_path / "secrets"
    path.mkdir(mode=0o700)
    dsn = f"host=127.0.0.1 port={own_postgres.port} dbname=postgres user=maintd_secrets"
    folder = SecretFolder(path, targets={"postgres": {"main": {"dsn": dsn, "password": "rotator"}}})
    login = {"roles": ["app_a", "app_b"]}
    folder.add("db_password", OLD, kind="generated", postgres=login, user_file="db_user", consumers=[])
    folder.write("db_user", "app_a")

    results = [folder.rotate(), folder.rotate()]

    assert [result.outcome for result in results] == ["succeeded", "succeeded"], results[0].text()
    assert folder.read("db_user") == "app_a"
    assert not logs_in(own_postgres, "app_a", OLD)
    address = {"host": "127.0.0.1", "port": own_postgres.port, "dbname": "postgres"}
    with psycopg.connect(**address, user="app_a", password=folder.read("db_password")) as conn:
        conn.execute("CREATE TABLE made (n int)")
        owner = conn.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'made'").fetchone()
    assert owner == ("trader",)
    reader = psycopg.connect(**address, user="maintd_secrets", password="rotator")
    with reader as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("SELECT * FROM orders")
