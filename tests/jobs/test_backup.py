"""Sets of backups of real servers: whole or not there, whatever happens while they are made; and how many are kept."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import ValidationError
from support import sample_backups as made
from support.databases import Database, database
from support.job_runs import JOBS, JobResult, run_job
from support.servers.base import wait_for
from support.servers.disks import small_disk
from support.servers.postgres import BIN, PostgresServer, postgres
from support.servers.redis import RedisServer, redis

from maintd.checks.backup_sets.content_hash import HASH, ROW_HASH, SETTINGS, count_tables, lock_tables
from maintd.checks.backup_sets.layout import MANIFEST, find_sets
from maintd.checks.backup_sets.postgres import schema_hash
from maintd.checks.backup_sets.writer import locked
from maintd.clients.postgres import connect
from maintd.errors import TargetError
from maintd.model.evidence import CheckStatus, Phase, Report
from maintd.model.target import PostgresTarget

pytestmark = pytest.mark.server

SMALL = {"min_free": "1MB"}
ALWAYS = ("CREATE TABLE a (id int PRIMARY KEY, note text)", "CREATE TABLE b (at timestamptz, size float8, raw bytea)")


@dataclass
class Site:
    """What is backed up, and the folder with the sets."""

    folder: Path
    server: PostgresServer
    db: Database
    cache: RedisServer

    @property
    def db_name(self) -> str:
        return self.db.url.rpartition("/")[2]

    @property
    def sets(self) -> Path:
        return self.folder / "sets"

    @property
    def targets(self) -> dict[str, Any]:
        return {
            "postgres": {"main": {"dsn": self.db.url, "bin_dir": str(BIN), "timeout": "5s"}},
            "redis": {"main": {"url": self.cache.url, "streams": ["orders"]}},
            "folders": {"backup_sets": {"path": str(self.sets)}},
        }

    def run(self, targets: dict[str, Any] | None = None, **params: Any) -> JobResult:
        more = {key: params.pop(key) for key in ("dry_run", "at_report", "at_intent") if key in params}
        return run_job("backup", {**SMALL, **params}, targets or self.targets, folder=self.folder / "job", **more)

    def verify(self, **params: Any) -> JobResult:
        return run_job("backup_verify", {"root": str(self.sets), **params})

    def with_programs(self, folder: Path) -> dict[str, Any]:
        return {**self.targets, "postgres": {"main": {"dsn": self.db.url, "bin_dir": str(folder), "timeout": "5s"}}}

    def names(self) -> list[str]:
        """What is in the folder, but for the file of the lock."""
        return sorted(path.name for path in self.sets.iterdir() if path.name != ".maintd-backup.lock")

    def newest(self) -> Path:
        return find_sets(self.sets)[0].path

    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.newest() / MANIFEST).read_text())
        return found


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """A server without the databases of other tests, which the job would miss in its set."""
    with postgres() as server:
        yield server


@pytest.fixture(scope="module")
def own_redis() -> Iterator[RedisServer]:
    # A server waits five seconds for more replicas by default.
    with redis("--repl-diskless-sync-delay", "0") as server:
        yield server


@pytest.fixture
def site(own_postgres: PostgresServer, own_redis: RedisServer, tmp_path: Path) -> Iterator[Site]:
    with database(own_postgres) as db:
        db.run(
            *ALWAYS,
            "INSERT INTO a SELECT n, 'line' || E'\\n' || n FROM generate_series(1, 3000) n",
            "INSERT INTO b SELECT now(), random(), decode(md5(n::text), 'hex') FROM generate_series(1, 2000) n",
        )
        with closing(own_redis.client()) as client:
            client.flushall()
            client.mset({f"key:{number}": "v" * 50 for number in range(500)})
            client.xadd("orders", {"data": "{}"})
        (tmp_path / "sets").mkdir()
        yield Site(tmp_path, own_postgres, db, own_redis)


def wrapper(folder: Path, body: str, program: str = "pg_dump") -> Path:
    """A folder with the real programs, of which one is replaced by a script; `$REAL` is the real one."""
    folder.mkdir()
    for name in ("pg_dump", "pg_dumpall", "pg_restore"):
        (folder / name).symlink_to(BIN / name)
    (folder / program).unlink()
    (folder / program).write_text(f"#!/bin/sh\nREAL={BIN / program}\n{body}\n")
    (folder / program).chmod(0o755)
    return folder


# --- a whole set ------------------------------------------------------------------------------------------------------


def stack_files(folder: Path) -> dict[str, Any]:
    (folder / "config/sub").mkdir(parents=True)
    (folder / "config/app.yml").write_bytes(made.noise(200_000))
    (folder / "config/sub/empty").touch()
    (folder / "config/link").symlink_to("app.yml")
    made.write(folder / "secrets/admin_token", b"very-secret-" * 4)
    made.write(folder / "compose.yml", b"services: {}\n")
    return {
        "paths": {"config": str(folder / "config"), "compose": str(folder / "compose.yml")},
        "secrets": {"stack": str(folder / "secrets")},
        "recipients": [str(made.IDENTITY.to_public())],
    }


def test_a_set_has_all_parts_and_is_verified_unchanged_at_every_level(site: Site) -> None:
    params = stack_files(site.folder)
    key = made.write(site.folder / "key", str(made.IDENTITY).encode())

    result = site.run(**params)
    levels = {
        "age": site.verify(level="age"),
        "checksum": site.verify(level="checksum"),
        "decode": site.verify(),
        "with the key": site.verify(identity=str(key), pg_bin=str(BIN)),
    }

    assert result.outcome == "succeeded", result.text()
    assert {level: found.outcome for level, found in levels.items()} == dict.fromkeys(levels, "succeeded"), "\n".join(
        found.text() for found in levels.values()
    )
    assert result.measure("backup_last_success_timestamp") > 0
    files = {path.name for path in site.newest().iterdir()}
    assert files == {
        "SHA256SUMS",
        MANIFEST,
        "files-compose.tar.gz",
        "files-config.tar.gz",
        f"postgres-main.{site.db_name}.dump",
        "postgres-main-globals.sql",
        "redis-main.rdb",
        "secrets-stack.tar.gz.age",
    }
    assert {path.stat().st_mode & 0o777 for path in site.newest().iterdir()} == {0o600}
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=site.newest(), check=True)
    assert site.manifest()["verified"] == "decode"
    assert site.manifest()["missing"] == {}


def test_a_restored_dump_has_the_rows_hashes_and_schema_of_the_manifest(site: Site) -> None:
    site.db.run('CREATE SCHEMA "Odd.Schema"; CREATE TABLE "Odd.Schema"."T t" (t text, n numeric)')
    site.db.run("INSERT INTO \"Odd.Schema\".\"T t\" VALUES ('x', 1.50), (NULL, 'NaN')", "CREATE TABLE nothing ()")
    site.db.run("INSERT INTO nothing DEFAULT VALUES")
    site.run()
    (about,) = site.manifest()["postgres"]

    with database(site.server) as restored:
        dump = site.newest() / about["file"]
        subprocess.run([BIN / "pg_restore", "--exit-on-error", "-j2", "-d", restored.url, dump], check=True)
        plain = subprocess.run([BIN / "pg_dump", "--schema-only", "-d", restored.url], check=True, capture_output=True)
        with connect(PostgresTarget(dsn=restored.url), "drill") as session:
            session.rows("BEGIN")
            found = count_tables(session, lock_tables(session)[0], HASH)
        restored.run("UPDATE a SET note = 'other' WHERE id = 7")
        with connect(PostgresTarget(dsn=restored.url), "drill") as session:
            session.rows("BEGIN")
            changed = count_tables(session, lock_tables(session)[0], HASH)

    assert found == about["tables"]
    assert schema_hash(iter([plain.stdout])) == about["schema_sha256"]
    assert found["public.a"]["rows"] == 3000
    assert found["Odd.Schema.T t"]["rows"] == 2
    assert [name for name in found if changed[name] != found[name]] == ["public.a"]
    assert about["hash_settings"] == SETTINGS
    assert about["lsn"].count("/") == 1
    assert int(about["system_identifier"]) > 0


@pytest.mark.parametrize("method", [HASH, ROW_HASH], ids=["columns", "rows"])
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE w SET c7 = NULL WHERE id = 2",  # it was empty
        "UPDATE w SET c7 = 'x' WHERE id = 1",
        "UPDATE w SET c199 = c198, c198 = c199",
        "UPDATE w SET id = 3 WHERE id = 2",
        "INSERT INTO w DEFAULT VALUES",
        "ALTER TABLE w DROP COLUMN c200",
    ],
)
def test_the_hash_of_a_table_changes_with_any_value(site: Site, method: str, change: str) -> None:
    columns = ", ".join(f"c{number} text DEFAULT '{number}'" for number in range(1, 201))  # more than a function takes
    site.db.run(f"CREATE TABLE w (id int, {columns})", "INSERT INTO w (id, c7) VALUES (1, '7'), (2, '')")

    def hash_now() -> Any:
        with connect(PostgresTarget(dsn=site.db.url), "drill") as session:
            session.rows("BEGIN")
            return count_tables(session, [("public", "w")], method)["public.w"]["hash"]

    before = hash_now()
    site.db.run("UPDATE w SET c1 = c1")  # the rows are elsewhere now
    assert hash_now() == before
    site.db.run(change)
    assert hash_now() != before


def test_a_hash_that_is_not_known_is_not_compared(site: Site) -> None:
    with connect(PostgresTarget(dsn=site.db.url), "drill") as session:
        session.rows("BEGIN")
        with pytest.raises(TargetError, match="does not know: sum of md5") as error:
            count_tables(session, [("public", "a")], "sum of md5")
    assert error.value.cause == "unfamiliar"


def test_a_second_set_of_the_same_data_has_the_same_hashes_and_schema(site: Site) -> None:
    site.run()
    before = site.manifest()["postgres"][0]
    site.db.run("VACUUM FULL a")  # the rows are elsewhere now

    site.run()

    after = site.manifest()["postgres"][0]
    assert after["tables"] == before["tables"]
    assert after["schema_sha256"] == before["schema_sha256"]


def test_a_snapshot_of_redis_starts_a_server_with_all_keys(site: Site) -> None:
    site.run()
    (about,) = site.manifest()["redis"]
    folder = site.folder / "restored"
    folder.mkdir()
    shutil.copy(site.newest() / about["file"], folder / "dump.rdb")

    with redis("--dir", str(folder)) as server, closing(server.client()) as client:
        assert client.dbsize() == 501 == about["keys"]
        assert client.xinfo_stream("orders")["last-generated-id"].decode() == about["streams_at_least"]["orders"]
    assert (about["form"], about["append_only"]) == ("snapshot", False)


def test_packed_folders_unpack_to_what_they_were(site: Site) -> None:
    site.run(**stack_files(site.folder))
    out = site.folder / "out"
    out.mkdir()
    (config,) = [one for one in site.manifest()["archives"] if one["name"] == "config"]

    subprocess.run(["tar", "-xzf", site.newest() / config["file"], "-C", out], check=True)

    assert subprocess.run(["diff", "-r", site.folder / "config", out / "config"], check=False).returncode == 0
    assert (out / "config/link").readlink() == Path("app.yml")
    sums = {one["name"]: one.get("sha256") for one in config["members"]}
    found = subprocess.run(["sha256sum", out / "config/app.yml"], check=True, capture_output=True, text=True).stdout
    assert sums["config/app.yml"] == found.split()[0]


def test_no_secret_and_no_password_is_in_the_set_in_clear(site: Site) -> None:
    site.db.run("CREATE ROLE keeper LOGIN PASSWORD 'hidden-password'")
    try:
        result = site.run(**stack_files(site.folder))
        data = {path.name: path.read_bytes() for path in site.newest().iterdir()}
    finally:
        site.db.run("DROP ROLE keeper")

    assert b"CREATE ROLE keeper" in data["postgres-main-globals.sql"]
    assert b"SCRAM-SHA-256" not in data["postgres-main-globals.sql"]
    assert not [name for name, content in data.items() if b"hidden-password" in content or b"very-secret" in content]
    assert "very-secret" not in result.text()
    (sealed,) = [one for one in site.manifest()["archives"] if one["encrypted"]]
    assert all("sha256" not in member for member in sealed["members"])  # a short secret could be guessed from it


# --- the snapshot -----------------------------------------------------------------------------------------------------


def test_what_is_written_or_dropped_during_the_dump_does_not_change_the_set(site: Site) -> None:
    site.db.run("INSERT INTO a SELECT n, repeat(md5(n::text), 20) FROM generate_series(10001, 20000) n")
    started, go = site.folder / "started", site.folder / "go"
    # pg_dump has its locks, and waits, since its output is not read.
    programs = wrapper(
        site.folder / "bin",
        'case "$*" in *--version*) exec "$REAL" "$@";; esac\n'
        f'"$REAL" "$@" | (head -c 5000; touch {started}; until [ -e {go} ]; do sleep 0.05; done; cat)',
    )

    def disturb() -> None:
        wait_for(started.exists, "the dump to start")
        with psycopg.connect(site.db.url, autocommit=True) as other:
            other.execute("INSERT INTO b SELECT now(), n, 'late' FROM generate_series(1, 100) n")
            drop = threading.Thread(target=site.db.run, args=("DROP TABLE a",))
            drop.start()
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            wait_for(lambda: (other.execute(waits).fetchone() or (0,))[0], "the DROP to wait")
            go.touch()
            drop.join(60)

    thread = threading.Thread(target=disturb)
    thread.start()
    result = site.run(site.with_programs(programs), redis=[])
    thread.join(60)

    assert result.outcome in ("succeeded", "warned"), result.text()  # warned: the DROP came before the hash
    tables = site.manifest()["postgres"][0]["tables"]
    assert {name: table["rows"] for name, table in tables.items()} == {"public.a": 13000, "public.b": 2000}
    dump = next(site.newest().glob("*.dump"))
    text = subprocess.run(
        [BIN / "pg_restore", "-a", "-f", "-", dump], check=True, capture_output=True, text=True
    ).stdout
    assert "\\\\x6c617465" not in text  # late
    assert "line\\n3000" in text


def test_a_table_that_is_dropped_before_it_is_locked_is_dumped_again_without_it(site: Site) -> None:
    tried = site.folder / "tried"
    programs = wrapper(
        site.folder / "bin",
        'case "$*" in *--version*) exec "$REAL" "$@";; esac\n'
        f"if [ ! -e {tried} ]; then touch {tried}; {BIN}/psql -qc 'DROP TABLE a' {site.db.url} >&2; "
        "echo 'pg_dump: error: query failed: ERROR: no relation; Query was: LOCK TABLE public.a' >&2; exit 1; fi\n"
        'exec "$REAL" "$@"',
    )

    result = site.run(site.with_programs(programs), redis=[])

    assert result.outcome == "succeeded", result.text()
    assert list(site.manifest()["postgres"][0]["tables"]) == ["public.b"]
    assert any("dumped again" in line for line in result.logs)


# --- stopped in the middle --------------------------------------------------------------------------------------------

KILLED = """
import json, os, signal, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from support.job_runs import run_job
given, seen = json.loads(sys.argv[3]), 0
def report(item):
    global seen
    seen += 1
    if seen == given["at"]:
        os.kill(os.getpid(), signal.SIGKILL)
result = run_job("backup", given["params"], given["targets"], at_report=report)
print(seen, result.outcome)
"""


def killed_at(site: Site, at: int) -> subprocess.CompletedProcess[str]:
    """Run the job in a process of its own, which is killed at its report of this number."""
    root = Path(__file__).parents[2]
    given = json.dumps({"at": at, "params": {**SMALL, "last": 20}, "targets": site.targets})
    argv = [sys.executable, "-c", KILLED, str(root), str(root / "tests"), given]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)


def test_killed_at_any_report_it_leaves_no_set_that_is_not_whole(site: Site) -> None:
    whole = killed_at(site, 0)
    reports = int(whole.stdout.split()[0])
    assert whole.stdout.split()[1] == "succeeded", whole.stderr
    before = site.names()

    for at in sorted(random.Random(5).sample(range(1, reports + 1), 6)):
        ended = killed_at(site, at)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        sets = find_sets(site.sets)
        assert [one.problem for one in sets if not one.good] == [], f"killed at report {at}"
        assert site.verify(level="checksum").outcome in ("succeeded", "warned")

    (site.sets / ".set-keep").mkdir()  # not of this job
    result = site.run(last=20)
    assert result.outcome == "succeeded", result.text()
    assert [name for name in site.names() if name.startswith(".")] == [".set-keep"]
    assert set(before) <= set(site.names())


def test_a_run_that_is_killed_while_pg_dump_waits_is_cleaned_up_by_the_next_one(site: Site) -> None:
    slow = wrapper(
        site.folder / "bin", 'case "$*" in *--version*) exec "$REAL" "$@";; esac; printf PGDMP; exec sleep 600'
    )
    root = Path(__file__).parents[2]
    given = json.dumps({"at": -1, "params": SMALL, "targets": site.with_programs(slow)})
    argv = [sys.executable, "-c", KILLED, str(root), str(root / "tests"), given]
    with subprocess.Popen(argv, start_new_session=True) as process:
        wait_for(lambda: [path for path in site.sets.glob(".set-*.partial/*.dump") if path.stat().st_size], "a dump")
        beside = site.run()  # the lock of the killed one is still held
        os.killpg(process.pid, signal.SIGKILL)

    left = site.names()
    seen = site.verify(level="checksum")
    result = site.run()

    assert "another run writes into it" in str(beside.check("set in backup_sets").observed)
    assert [name.endswith(".partial") for name in left] == [True]
    assert seen.outcome == "failed"  # there is no backup: what is half written is none
    assert seen.named("partial") == []
    assert result.outcome == "succeeded", result.text()
    assert [change.target for change in result.changes if change.action == "remove"] == [str(site.sets / left[0])]
    assert len(site.names()) == 1


def test_a_second_run_beside_it_does_nothing(site: Site) -> None:
    with locked(site.sets):
        result = site.run()

    assert result.outcome == "failed"
    assert "another run writes into it" in str(result.check("set in backup_sets").observed)
    assert site.names() == []


# --- what does not work -----------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_leaves_no_set_with_half_a_file(site: Site) -> None:
    made.write(site.folder / "big/data", random.Random(1).randbytes(3_000_000))
    with small_disk(site.folder / "disk", "20m") as disk:
        targets = {**site.targets, "folders": {"backup_sets": {"path": str(disk)}}}

        def fill(item: Report) -> None:
            if isinstance(item, Phase) and item.name == "back up files big":
                (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - 1_000_000))

        params = {"paths": {"big": str(site.folder / "big")}, "min_free": "10kB"}
        result = site.run(targets, at_report=fill, **params)
        sets = find_sets(disk)
        assert sets, result.text()
        (disk / "filler").unlink()
        manifest = json.loads((sets[0].path / MANIFEST).read_text())
        found = run_job("backup_verify", {"root": str(disk), "level": "checksum", "exclude": ["filler"]})

        assert "the disk is full" in str(result.check("files big: backed up").observed), result.text()
        assert result.outcome == "failed"
        assert [one.good for one in sets] == [False]
        assert list(manifest["missing"]) == ["files big"]
        assert not list(sets[0].path.glob("files-big*"))
        parts = next(check for check in found.checks if check.name.endswith("parts missing in the set"))
        assert parts.status is CheckStatus.FAIL
        assert "files big" in parts.hint


def test_without_enough_space_nothing_is_started(site: Site) -> None:
    result = site.run(min_free="1000TB")

    assert "free space in backup_sets" in str(result.error)
    assert site.names() == []


def test_a_wrong_password_is_the_cause_and_the_right_one_is_nowhere_in_clear(site: Site) -> None:
    rules = site.server.folder / "data/pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"host all keeper 127.0.0.1/32 scram-sha-256\n{before}")
    site.db.run("CREATE ROLE keeper LOGIN SUPERUSER PASSWORD 'right-password'", "SELECT pg_reload_conf()")
    record = site.folder / "argv"
    programs = wrapper(site.folder / "bin", f'echo "$@" >> {record}; exec "$REAL" "$@"')
    dsn = site.db.url.replace("postgres@", "keeper@")

    def target(password: str) -> dict[str, Any]:
        main = {"dsn": dsn, "password": password, "bin_dir": str(programs)}
        return {**site.targets, "postgres": {"main": main}}

    try:
        wrong, right = site.run(target("wrong-password")), site.run(target("right-password"))
    finally:
        rules.write_text(before)
        site.db.run("SELECT pg_reload_conf()", "DROP ROLE keeper")

    assert "password authentication failed" in str(wrong.check("postgres main: backed up").observed)
    assert "password" in wrong.check("postgres main: backed up").hint
    assert right.outcome == "succeeded", right.text()
    assert "--no-password" in record.read_text()
    kept = record.read_text() + right.text() + wrong.text()
    kept += "".join(path.read_text(errors="replace") for path in site.sets.rglob("*") if path.is_file())
    assert "right-password" not in kept
    assert "wrong-password" not in kept


@pytest.mark.parametrize(
    ("programs", "cause", "hint"),
    [
        ("none", "does not exist", "install the Postgres client"),
        ("old", "older than the server ({major})", "postgresql-client-{major}"),
        ("other", "is not Postgres' pg_dump", "bin_dir"),
    ],
)
def test_a_missing_or_old_pg_dump_is_named_and_the_rest_is_backed_up(
    site: Site, programs: str, cause: str, hint: str
) -> None:
    bodies = {"old": "echo 'pg_dump (PostgreSQL) 12.4'", "other": "echo I am a script"}
    major = BIN.parent.name
    folder = site.folder / "bin"
    if programs == "none":
        folder.mkdir()
    else:
        wrapper(folder, bodies[programs])

    result = site.run(site.with_programs(folder))

    check = next(one for one in result.checks if one.name.endswith("backed up") and site.db_name in one.name)
    assert cause.format(major=major) in str(check.observed), result.text()
    assert hint.format(major=major) in check.hint
    assert result.check("redis main: backed up").status is CheckStatus.OK
    assert not find_sets(site.sets)[0].good


def test_a_program_that_stops_sending_is_stopped(site: Site) -> None:
    programs = wrapper(
        site.folder / "bin", 'case "$*" in *--version*) exec "$REAL" "$@";; esac; printf PGDMP; exec sleep 600'
    )

    result = site.run(site.with_programs(programs), stall="1s")

    (check,) = [one for one in result.checks if one.name == f"postgres main: {site.db_name}: backed up"]
    assert "timed_out" in str(check.observed), result.text()
    assert "no output for 1s" in str(check.observed)
    assert not list(site.newest().glob("*.dump"))


def test_servers_that_hang_are_named_with_their_timeout(site: Site) -> None:
    with postgres() as server, redis() as cache:
        targets = {
            "postgres": {"main": {"dsn": server.url("postgres"), "timeout": "2s", "bin_dir": str(BIN)}},
            "redis": {"main": {"url": cache.url, "timeout": "1s"}},
            "folders": site.targets["folders"],
        }
        postmaster = int((server.folder / "data/postmaster.pid").read_text().split()[0])
        for pid in (postmaster, cache.pid):
            os.kill(pid, signal.SIGSTOP)
        try:
            result = site.run(targets)
        finally:
            for pid in (postmaster, cache.pid):
                os.kill(pid, signal.SIGCONT)

    assert "timed_out" in str(result.check("postgres main: backed up").observed), result.text()
    assert "timed_out" in str(result.check("redis main: backed up").observed)
    assert result.outcome == "failed"
    assert site.names() == []  # an empty set is none


def test_a_folder_that_cannot_be_written_is_named(site: Site) -> None:
    with small_disk(site.folder / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        result = site.run({**site.targets, "folders": {"backup_sets": {"path": str(disk)}}})
    gone = site.run({**site.targets, "folders": {"backup_sets": {"path": str(site.folder / "no")}}})

    assert "Read-only file system" in str(result.check("set in backup_sets").observed)
    assert result.check("set in backup_sets").hint == "mount it writable"
    assert "not_found" in str(gone.check("set in backup_sets").observed)


def test_redis_that_refuses_a_snapshot_is_missing_in_the_set(site: Site) -> None:
    with closing(site.cache.client()) as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "-@all", "+info", "+ping", "+xinfo")
        try:
            main = {"url": site.cache.url, "username": "reader", "password": "pw"}
            result = site.run({**site.targets, "redis": {"main": main}})
        finally:
            client.execute_command("ACL", "DELUSER", "reader")

    check = result.check("redis main: backed up")
    assert "denied" in str(check.observed), result.text()
    assert check.status is CheckStatus.FAIL
    assert list(site.manifest()["missing"]) == ["redis main"]
    assert result.measures[-1].name == "backup_sets_kept"
    assert not [measure for measure in result.measures if measure.name == "backup_last_success_timestamp"]


def test_a_table_that_may_not_be_read_is_the_cause(site: Site) -> None:
    site.db.run("CREATE ROLE weak LOGIN")
    dsn = site.db.url.replace("postgres@", "weak@")
    try:
        targets = {**site.targets, "postgres": {"main": {"dsn": dsn, "bin_dir": str(BIN)}}}
        denied = site.run(targets, redis=[])
        site.db.run("GRANT pg_read_all_data TO weak")
        allowed = site.run(targets, redis=[])
    finally:
        site.db.run("DROP ROLE weak")

    (check,) = [one for one in denied.checks if one.name == f"postgres main: {site.db_name}: backed up"]
    assert "denied" in str(check.observed), denied.text()
    assert "permission denied for table a" in str(check.observed)
    assert allowed.outcome == "succeeded", allowed.text()


def test_a_database_that_no_set_has_is_named_until_it_is_chosen_or_excluded(site: Site) -> None:
    name = "postgres main: databases that are not backed up"
    with database(site.server) as other:
        other_name = other.url.rpartition("/")[2]
        missed = site.run(redis=[])
        chosen = site.run(redis=[], databases=["*"])
        dumps = [one["database"] for one in site.manifest()["postgres"]]
        excluded = site.run(redis=[], exclude_databases=[other_name])

    assert missed.check(name).status is CheckStatus.WARN
    assert other_name in missed.check(name).hint
    assert chosen.outcome == "succeeded", chosen.text()
    assert sorted(dumps) == sorted([site.db_name, other_name, "postgres"])
    assert excluded.check(name).status is CheckStatus.OK


@pytest.mark.parametrize(
    ("recipient", "text"),
    [
        ("age1nonsense", "is not an age recipient"),
        ("AGE-SECRET-KEY-1QQQ", "this is the secret key"),
        (None, "recipients"),
    ],
)
def test_secrets_without_a_right_recipient_are_refused_before_anything_runs(
    site: Site, recipient: str | None, text: str
) -> None:
    result = site.run(secrets={"stack": "/run/secrets"}, recipients=[recipient] if recipient else [])

    assert isinstance(result.error, ValidationError)
    assert text in str(result.error)
    assert "AGE-SECRET" not in str(result.error)


def test_without_a_folder_for_sets_it_is_not_configured(site: Site) -> None:
    result = site.run({**site.targets, "folders": {}})

    assert getattr(result.error, "cause", "") == "not_configured"


def test_a_dry_run_writes_nothing(site: Site) -> None:
    result = site.run(dry_run=True)

    assert result.outcome == "succeeded", result.text()
    assert [path.name for path in site.sets.iterdir()] == []
    assert [(change.action, change.state.value) for change in result.changes] == [("create", "planned")]


# --- flipped bytes ----------------------------------------------------------------------------------------------------


def test_all_of_twenty_flipped_bits_in_a_set_are_found(site: Site) -> None:
    site.run(**stack_files(site.folder))
    files = sorted(site.newest().iterdir())
    draw = random.Random(20)
    missed = []

    # Each file at least once, the small ones too, of which a flip in proportion to the size would seldom be.
    for turn in range(20):
        file = files[turn % len(files)]
        sound, times = file.read_bytes(), file.stat()
        at = draw.randrange(len(sound))
        file.write_bytes(made.flipped(sound, at, draw.randrange(8)))
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        result = site.verify(level="checksum")
        if result.outcome not in ("failed", "unknown"):
            missed.append(f"{file.name}, byte {at}\n{result.text()}")
        file.write_bytes(sound)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    assert missed == []
    assert site.verify(level="checksum").outcome == "succeeded"


@pytest.mark.parametrize("name", [MANIFEST, "SHA256SUMS", "redis-main.rdb", "postgres-main-globals.sql"])
def test_a_file_that_is_missing_in_a_set_is_found(site: Site, name: str) -> None:
    site.run()

    (site.newest() / name).unlink()

    assert site.verify(level="checksum").outcome in ("failed", "unknown")
    assert not find_sets(site.sets)[0].good


# --- retention --------------------------------------------------------------------------------------------------------


@contextmanager
def older_sets(site: Site, *ages: timedelta) -> Iterator[list[Path]]:
    """Sound sets that were made before now."""
    site.run(redis=[])
    first = site.newest()
    copies = []
    for age in ages:
        at = datetime.now(UTC) - age
        copy = site.sets / f"{at:set-%Y%m%dT%H%M%SZ}"
        shutil.copytree(first, copy)
        copies.append(copy)
    shutil.rmtree(first)
    yield copies


def days(*numbers: float) -> tuple[timedelta, ...]:
    return tuple(timedelta(days=number) for number in numbers)


def test_a_number_of_good_sets_is_kept_for_each_class_and_each_deletion_is_recorded(site: Site) -> None:
    keep = {"last": 1, "daily": 3, "weekly": 0, "monthly": 0, "max_deletes": 10}
    with older_sets(site, *days(1, 1.01, 2, 3, 400)) as made_before:
        result = site.run(redis=[], **keep)

    assert result.outcome == "succeeded", result.text()
    deleted = {Path(change.target) for change in result.changes if change.action == "delete"}
    # Three days with sets: today, and two before; of the two sets of one day the newer one.
    same_day = made_before[0].name[:12] == made_before[1].name[:12]
    assert deleted == ({made_before[1], *made_before[3:]} if same_day else {*made_before[2:]})
    assert all(not path.exists() for path in deleted)
    assert result.measure("backup_sets_kept") == 3


def test_by_default_three_sets_seven_days_four_weeks_and_six_months_are_kept(site: Site) -> None:
    made.write(site.folder / "config/app.yml", b"config")
    params = {"postgres": [], "redis": [], "paths": {"config": str(site.folder / "config")}}
    site.run(**params)
    first, now = site.newest(), datetime.now(UTC)
    for number in range(1, 220):
        shutil.copytree(first, site.sets / f"{now - timedelta(days=number):set-%Y%m%dT%H%M%SZ}")

    result = site.run(**params, max_deletes=500)

    assert result.outcome == "succeeded", result.text()
    times = [one.made_at for one in find_sets(site.sets)]
    every = sorted({(now - timedelta(days=number)).date() for number in range(220)} | {times[0].date()}, reverse=True)
    wanted = set(every[:7])
    for form, count in (("%G-%V", 4), ("%Y-%m", 6)):
        last: dict[str, Any] = {}
        for day in every:
            last.setdefault(f"{day:{form}}", day)
        wanted |= set(list(last.values())[:count])
    assert {at.date() for at in times} == wanted
    assert sum(1 for at in times if at.date() == times[0].date()) <= 3


def test_nothing_is_deleted_when_the_new_set_is_not_good(site: Site) -> None:
    with older_sets(site, *days(1, 2, 3, 400)) as made_before:
        missing = {"paths": {"gone": str(site.folder / "gone")}}
        result = site.run(redis=[], last=1, daily=1, weekly=0, monthly=0, **missing)

    assert result.outcome == "failed"
    assert all(path.exists() for path in made_before)
    assert not [change for change in result.changes if change.action == "delete"]


def test_a_set_that_has_decayed_does_not_replace_an_older_one(site: Site) -> None:
    keep = {"last": 1, "daily": 2, "weekly": 0, "monthly": 0, "max_deletes": 10}
    with older_sets(site, *days(1, 2, 3)) as made_before:
        damaged = next(made_before[0].glob("*.dump"))
        damaged.write_bytes(made.flipped(damaged.read_bytes(), 3000))
        result = site.run(redis=[], **keep)

    assert result.outcome == "failed"
    assert f"changed: {damaged.name}" in str(
        result.check(f"backup_sets: {made_before[0].name} is as it was written").observed
    )
    # The one of two days before takes its place, and is kept.
    assert [path.exists() for path in made_before] == [True, True, False]


def test_more_deletions_than_allowed_are_taken_for_a_mistake(site: Site) -> None:
    with older_sets(site, *days(1, 2, 3, 4)) as made_before:
        result = site.run(redis=[], last=1, daily=1, weekly=0, monthly=0, max_deletes=2)

    assert result.check("backup_sets: sets to delete").status is CheckStatus.WARN
    assert all(path.exists() for path in made_before)


def test_the_only_good_set_is_kept_however_old_it_is(site: Site) -> None:
    broken = {**site.targets, "postgres": {"main": {"dsn": "host=/none"}}}
    with older_sets(site, *days(900)) as (only,):
        for _ in range(2):
            site.run(broken, last=1, daily=1, weekly=0, monthly=0)

    assert only.exists()


# --- the second copy --------------------------------------------------------------------------------------------------


def test_a_second_copy_is_the_same_set_with_a_retention_of_its_own(site: Site) -> None:
    other = site.folder / "other"
    other.mkdir()
    targets = site.targets
    targets["folders"]["other"] = {"path": str(other)}
    keep = {"copy_to": "other", "redis": [], "last": 1, "daily": 1, "weekly": 0, "monthly": 0}

    site.run(targets, **keep)
    result = site.run(targets, **keep)

    assert result.outcome == "succeeded", result.text()
    assert site.names() == sorted(path.name for path in other.iterdir() if path.is_dir())
    assert len(site.names()) == 1
    assert subprocess.run(["diff", "-r", site.newest(), other / site.newest().name], check=False).returncode == 0


def test_a_second_folder_that_is_gone_fails_and_the_set_stays(site: Site) -> None:
    targets = site.targets
    targets["folders"]["other"] = {"path": str(site.folder / "no")}

    result = site.run(targets, copy_to="other", redis=[])

    assert result.check("copy in other").status is CheckStatus.FAIL
    assert find_sets(site.sets)[0].good


# --- the copy by a command --------------------------------------------------------------------------------------------


def copied(site: Site, **params: Any) -> JobResult:
    made.write(site.folder / "config/app.yml", b"config")
    given = {"postgres": [], "redis": [], "paths": {"config": str(site.folder / "config")}, **params}
    return site.run(**given)


def test_a_copy_by_a_command_is_verified_by_a_second_one_and_by_reading_it_back(site: Site) -> None:
    remote = site.folder / "remote"
    remote.mkdir()

    result = copied(
        site,
        copy_command=["cp", "-r", "{set}", f"{remote}/{{name}}"],
        copy_verify=["diff", "-r", "{set}", f"{remote}/{{name}}"],
        copy_read=f"{remote}/{{name}}",
    )

    assert result.outcome == "succeeded", result.text()
    assert result.check("copy by cp: verified").status is CheckStatus.OK
    assert result.check("copy by cp: verified by reading").observed == "3 files"
    assert [path.name for path in remote.iterdir()] == [site.newest().name]
    (change,) = [change for change in result.changes if change.action == "copy"]
    assert str(site.newest()) in change.target


def test_a_copy_that_is_not_verified_is_unknown(site: Site) -> None:
    result = copied(site, copy_command=["cp", "-r", "{set}", str(site.folder / "copy")])

    check = result.check("copy by cp: verified")
    assert check.status is CheckStatus.UNKNOWN, result.text()
    assert "copy_verify" in check.hint
    assert result.outcome == "unknown"


@pytest.mark.parametrize("how", ["flipped", "missing", "more", "nothing"])
def test_a_copy_that_differs_is_found_though_the_command_ended_with_0(site: Site, how: str) -> None:
    remote = site.folder / "remote"
    remote.mkdir()
    after = {
        "flipped": "printf X | dd of=$2/files-config.tar.gz bs=1 seek=50 conv=notrunc",
        "missing": "rm $2/SHA256SUMS",
        "more": "touch $2/other",
        "nothing": "rm -r $2",
    }
    script = f"cp -r $1 $2 && {after[how]}"
    place = f"{remote}/{{name}}"

    result = copied(
        site,
        copy_command=["sh", "-c", script, "sh", "{set}", place],
        copy_verify=["diff", "-rq", "{set}", place],
        copy_read=place,
    )

    assert result.check("copy by sh").status is CheckStatus.OK, result.text()
    for name in ("copy by sh: verified", "copy by sh: verified by reading"):
        assert result.check(name).status is CheckStatus.FAIL, result.text()
    assert find_sets(site.sets)[0].good  # the first one stays as it is


def test_a_command_that_fails_is_named_with_its_words_and_its_secrets_are_in_no_record(site: Site) -> None:
    script = 'echo "remote refused us" >&2; [ ${#REMOTE_TOKEN} = 17 ] && exit 7'

    result = copied(
        site,
        copy_command=["sh", "-c", script, "sh", "{set}"],
        copy_env={"REMOTE_TOKEN": "very-secret-token"},
        copy_read="/nothing/{name}",
    )

    check = result.check("copy by sh")
    assert check.status is CheckStatus.FAIL, result.text()
    assert "exit code 7" in str(check.observed)
    assert "remote refused us" in str(check.observed)
    assert not result.named("verified")
    assert "very-secret-token" not in result.text()
    assert find_sets(site.sets)[0].good


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"copy_command": ["cp", "/x", "/y"]}, "must have {set}"),
        ({"copy_command": ["cp", "{set}", "{target}"]}, "{target} is no placeholder"),
        ({"copy_verify": ["diff", "{set}", "/y"]}, "set it"),
        ({"copy_command": ["cp", "{set}", "/y"], "copy_read": "/y"}, "must have {name}"),
    ],
)
def test_a_copy_command_that_cannot_work_is_refused_before_anything_runs(
    site: Site, params: dict[str, Any], text: str
) -> None:
    result = site.run(**params)

    assert isinstance(result.error, ValidationError)
    assert text in str(result.error)


# --- the shipped users ------------------------------------------------------------------------------------------------


def test_the_shipped_users_may_do_all_that_the_job_needs_and_doctor_sees_it(tmp_path: Path) -> None:
    deploy = Path(__file__).parents[2] / "deploy"
    (tmp_path / "sets").mkdir()
    (tmp_path / "users.acl").write_text((deploy / "redis.acl").read_text())
    with postgres() as server, redis("--aclfile", str(tmp_path / "users.acl")) as cache:
        url = server.create("trading")
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("CREATE ROLE trader LOGIN")
            conn.execute("CREATE SCHEMA private; CREATE TABLE private.t AS SELECT 1 AS n")
        given = ("owner=trader", "ro_password='a'", "op_password='b'", "base_backups=on", "ON_ERROR_STOP=1")
        variables = [f"-v{name}" for name in given]
        subprocess.run([BIN / "psql", url, *variables, "-f", deploy / "roles.sql"], check=True, capture_output=True)

        def targets(role: str) -> dict[str, Any]:
            login = {"username": role, "password": "change-me", "url": cache.url}
            dsn = url.replace("postgres@", f"{role}@")
            return {
                "postgres": {"main": {"dsn": dsn, "bin_dir": str(BIN)}},
                "redis": {"main": login},
                "folders": {"backup_sets": {"path": str(tmp_path / "sets")}},
            }

        result = run_job("backup", {**SMALL, "base_backups": ["main"]}, targets("maintd_op"))
        path, chosen = str(JOBS / "backup.py"), json.dumps({"base_backups": ["main"]})
        steps = [{"entry": "daily-backup", "step": "backup", "job": "backup", "path": path, "params": chosen}]
        calendar = {"calendar": {"steps": steps, "store": None}}
        able, unable = (run_job("doctor", calendar, targets(role)) for role in ("maintd_op", "maintd_ro"))

    assert result.outcome == "succeeded", result.text()
    needs = {
        "redis main: receive a snapshot",
        "postgres main: dump all its rows",
        "postgres main: stream a base backup",
        "redis main: read its append-only files",
        "folders backup_sets: write sets of backups",
    }
    assert {check.name: check.status for check in able.checks if check.name in needs} == dict.fromkeys(
        needs, CheckStatus.OK
    ), able.text()
    snapshot = unable.check("redis main: receive a snapshot")
    assert "not exercised" in str(snapshot.observed) or snapshot.status is not CheckStatus.OK
    assert "REPLICATION" in unable.check("postgres main: stream a base backup").hint


def test_doctor_names_the_table_that_may_not_be_read(site: Site) -> None:
    weak = site.db.role("weak")
    targets = {**site.targets, "postgres": {"main": {"dsn": site.db.url_of(weak), "bin_dir": str(BIN)}}}
    path = str(JOBS / "backup.py")
    steps = [{"entry": "daily-backup", "step": "backup", "job": "backup", "path": path, "params": "{}"}]

    result = run_job("doctor", {"calendar": {"steps": steps, "store": None}}, targets)

    check = result.check("postgres main: dump all its rows")
    assert "may not read all rows of public.a, public.b" in str(check.observed), result.text()
    assert "pg_read_all_data" in check.hint
