"""Drills on real servers: what is restored is proven, each fault is found with its cause, and nothing is left."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import random
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pyrage
import pytest
from support import sample_backups as made
from support.databases import Database, database
from support.job_runs import JobResult, run_job
from support.servers.base import free_port, require_program, wait_for
from support.servers.disks import small_disk
from support.servers.maintd import maintd_daemon
from support.servers.postgres import BIN, PostgresServer, postgres
from support.servers.redis import RedisServer, redis
from support.users import environ_for_all, folder_for_all

from maintd.checks.backup_sets.layout import MANIFEST, SUMS, find_sets
from maintd.checks.backup_sets.writer import locked
from maintd.model.evidence import CheckStatus, Phase, Report

pytestmark = pytest.mark.server

OK, FAIL, WARN, UNKNOWN = CheckStatus.OK, CheckStatus.FAIL, CheckStatus.WARN, CheckStatus.UNKNOWN
SMALL = {"min_free": "1MB"}
ROWS = 3000
TODAY = f"{datetime.now(UTC):%Y%m%d}"
"""In the names of backups that no manifest dates: what is older than a day is an old recovery point."""


@dataclass
class Origin:
    """The servers that were backed up, and two sets of them, of which the second has dumps without compression."""

    server: PostgresServer
    db: Database
    cache: RedisServer
    folder: Path
    packed: Path
    plain: Path

    @property
    def name(self) -> str:
        return self.db.url.rpartition("/")[2]

    @property
    def subject(self) -> str:
        return f"postgres main: {self.name}"


@dataclass
class Site:
    """A copy of a set in a folder of its own, and a folder for scratch servers, which every user can enter."""

    origin: Origin
    sets: Path
    scratch: Path

    @property
    def set(self) -> Path:
        return find_sets(self.sets)[0].path

    @property
    def subject(self) -> str:
        return self.origin.subject

    @property
    def dump(self) -> Path:
        return next(self.set.glob("*.dump"))

    @property
    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.set / MANIFEST).read_text())
        return found

    @property
    def targets(self) -> dict[str, Any]:
        return {
            "postgres": {"main": {"dsn": self.origin.db.url, "bin_dir": str(BIN), "timeout": "5s"}},
            "redis": {"main": {"url": self.origin.cache.url}},
            "folders": {"backup_sets": {"path": str(self.sets)}, "scratch": {"path": str(self.scratch)}},
        }

    def drill(self, targets: dict[str, Any] | None = None, **params: Any) -> JobResult:
        more = {key: params.pop(key) for key in ("dry_run", "at_report", "series") if key in params}
        given = {**SMALL, "scratch": "scratch", **params}
        return run_job("restore_drill", given, targets or self.targets, folder=self.sets.parent / "job", **more)

    def only(self, *parts: str) -> None:
        """Leave only these parts in the manifest, so that a test restores no more than it needs."""
        manifest = self.manifest
        for part in {"postgres", "globals", "redis", "archives"} - set(parts):
            manifest.pop(part, None)
        self.write(manifest)

    def write(self, manifest: dict[str, Any]) -> None:
        """Replace the manifest, with its sums: as if it had been like this when the set was made."""
        for name, file in manifest["files"].items():
            content = (self.set / name).read_bytes()
            file |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        text = json.dumps(manifest)
        (self.set / MANIFEST).write_text(text)
        sums = {name: file["sha256"] for name, file in manifest["files"].items()}
        sums[MANIFEST] = hashlib.sha256(text.encode()).hexdigest()
        (self.set / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))

    def left(self) -> list[str]:
        """What a drill left: files and processes."""
        files = [path.name for path in self.scratch.iterdir() if path.name != ".maintd-backup.lock"]
        return files + [str(process) for process in processes_of(self.scratch)]


def processes_of(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(process)
    return found


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    folder = Path(tempfile.mkdtemp(prefix="maintd-drill-origin-"))
    cached = redis("--repl-diskless-sync-delay", "0", "--appendonly", "yes")
    try:
        with postgres() as server, cached as cache, database(server) as db:
            db.run(
                "CREATE ROLE keeper NOLOGIN",
                "CREATE TABLE a (id bigserial PRIMARY KEY, at date NOT NULL, note text)",
                "CREATE INDEX ON a (note)",
                "INSERT INTO a (at, note)"
                f" SELECT current_date, 'note ' || md5(n::text) FROM generate_series(1, {ROWS}) n",
                "CREATE TABLE b (id int PRIMARY KEY, a_id bigint REFERENCES a)",
                "INSERT INTO b SELECT n, n FROM generate_series(1, 500) n",
                "ALTER TABLE a OWNER TO keeper",
                "GRANT SELECT ON b TO keeper",
                "CREATE VIEW v AS SELECT count(*) AS n FROM a",
                "CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM b",
                # Printed in another form after a restore.
                "ALTER TABLE b ADD state varchar(10) DEFAULT 'new' CHECK (state IN ('new', 'done'))",
            )
            with closing(cache.client()) as client:
                client.mset({f"key:{number}": "v" * 50 for number in range(500)})
                client.xadd("orders", {"data": "{}"})
                client.set("short", "x", px=3000)
            made_sets = []
            for name, compression in (("packed", "-Z6"), ("plain", "-Z0")):
                made_sets.append(backed_up(folder / name, db.url, cache, compression))
            with closing(cache.client()) as client:
                wait_for(lambda: not client.exists("short"), "a key to expire")
            yield Origin(server, db, cache, folder, *made_sets)
    finally:
        shutil.rmtree(folder)


def backed_up(folder: Path, url: str, cache: RedisServer, compression: str) -> Path:
    (folder / "sets").mkdir(parents=True)
    programs = wrapper(folder / "bin", "pg_dump", f'case "$*" in *--format*) exec "$REAL" "$@" {compression};; esac')
    made.write(folder / "config/app.yml", made.noise(100_000))
    (folder / "config/link").symlink_to("app.yml")
    (folder / "config/outside").symlink_to("/etc/passwd")
    made.write(folder / "secrets/token", b"very-secret-" * 4)
    targets = {
        "postgres": {"main": {"dsn": url, "bin_dir": str(programs)}},
        "redis": {"main": {"url": cache.url, "streams": ["orders"]}},
        "folders": {"backup_sets": {"path": str(folder / "sets")}},
    }
    params = {
        **SMALL,
        "exclude_databases": ["*"],
        "paths": {"config": str(folder / "config")},
        "secrets": {"stack": str(folder / "secrets")},
        "recipients": [str(made.IDENTITY.to_public())],
        # The append-only files cannot be read, so that there is a snapshot with a warning.
        "redis_data": {"main": "/not/mounted"},
    }
    result = run_job("backup", params, targets, folder=folder / "job")
    assert result.outcome == "warned", result.text()
    return find_sets(folder / "sets")[0].path


@pytest.fixture
def site(origin: Origin, tmp_path: Path) -> Iterator[Site]:
    with folder_for_all() as scratch:
        shutil.copytree(origin.packed, tmp_path / "sets" / origin.packed.name)
        found = Site(origin, tmp_path / "sets", scratch)
        yield found
        assert found.left() == []


@pytest.fixture
def uncompressed(site: Site) -> Site:
    shutil.rmtree(site.set)
    shutil.copytree(site.origin.plain, site.sets / site.origin.plain.name)
    return site


def wrapper(folder: Path, program: str, body: str) -> Path:
    """A folder with Postgres' programs, of which one is a script that ends with the real one, `$REAL`."""
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    for path in BIN.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / program).unlink()
    (folder / program).write_text(f'#!/bin/sh\nREAL={BIN / program}\n{body}\nexec "$REAL" "$@"\n')
    (folder / program).chmod(0o755)
    return folder


# --- what is restored -------------------------------------------------------------------------------------------------


def test_a_whole_set_is_restored_and_proven_and_nothing_is_left(site: Site) -> None:
    key = made.write(site.sets.parent / "key", str(made.IDENTITY).encode())
    queries = {
        "notes of today": {"sql": "SELECT count(*) FROM a", "equals": ROWS},
        "newest day": {"sql": "SELECT max(at) FROM a", "max_age": "2d"},
    }

    result = site.drill(identity=str(key), queries=queries)

    assert result.outcome == "succeeded", result.text()
    proven = {check.name for check in result.checks}
    assert proven >= {
        "files unlike the manifest",
        "postgres main: scratch cluster is not production",
        "postgres main: roles missing",
        f"{site.subject}: tables missing",
        f"{site.subject}: tables whose rows differ",
        f"{site.subject}: tables whose content differs",
        f"{site.subject}: schema",
        f"{site.subject}: objects unlike the dump",
        f"{site.subject}: extensions of another version",
        f"{site.subject}: sequences behind their column",
        f"{site.subject}: damaged relations",
        f"{site.subject}: notes of today",
        f"{site.subject}: newest day",
        "redis main: keys loaded",
        "redis main: stream orders, last id",
        "redis main: keys after a restart with append-only files",
        "files config: members unlike the manifest",
        "secrets stack: members unlike the manifest",
        "recovery time",
        "recovery point: age of the newest backup",
        "recovery point: longest gap between backups",
    }
    assert result.check("redis main: keys loaded").observed == site.manifest["redis"][0]["keys"]
    assert result.measure("restore_rows") == ROWS + 500
    # Two tables with their two indexes each at least, and what they keep out of line.
    assert result.measure("restore_relations_checked") >= 5
    assert result.measure("restore_drill_success") == 1
    phases = {item.labels["phase"]: item.value for item in result.measures if item.name == "restore_phase_seconds"}
    recovery = ("compare the sums", "start Postgres", "roles", "restore Postgres", "restore Redis", "unpack folders")
    total = sum(phases[phase] for phase in (*recovery, "decrypt secrets"))
    assert result.measure("restore_rto_seconds") == pytest.approx(total)
    assert site.left() == []
    assert [change.action for change in result.changes] == ["create", "remove"]


def test_secrets_are_written_to_no_file(site: Site) -> None:
    site.only("archives")
    key = made.write(site.sets.parent / "key", str(made.IDENTITY).encode())
    seen: list[bytes] = []

    def look(item: Report) -> None:
        seen.extend(path.read_bytes() for path in site.scratch.rglob("*") if path.is_file() and not path.is_symlink())

    result = site.drill(identity=str(key), at_report=look)

    assert result.outcome == "succeeded", result.text()
    assert seen  # the other archive is unpacked there
    assert not any(b"very-secret" in content for content in seen)
    assert "very-secret" not in result.text()


def test_without_an_identity_secrets_are_not_configured_and_the_rest_is_proven(site: Site) -> None:
    site.only("archives")

    result = site.drill()

    check = result.check("secrets stack: decrypted")
    assert (check.status, check.optional) == (UNKNOWN, True)
    assert "not configured" in str(check.observed)
    assert result.outcome == "succeeded", result.text()


@contextmanager
def server_of(superuser: str) -> Iterator[str]:
    """A server that was made with a first superuser of this name, as POSTGRES_USER of the official image does."""
    with folder_for_all() as folder:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        server = PostgresServer(folder, free_port())
        server._run("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", superuser, "--no-sync")
        server.start()
        try:
            yield f"postgresql://{superuser}@127.0.0.1:{server.port}"
        finally:
            server.stop("immediate")


def test_a_server_whose_first_superuser_has_another_name_is_restored_with_what_postgres_prints_otherwise(
    site: Site,
) -> None:
    (site.sets.parent / "own").mkdir()
    with server_of("trader") as url:
        with psycopg.connect(f"{url}/postgres", autocommit=True) as conn:
            for statement in (
                'CREATE ROLE "odd Role" LOGIN',
                "CREATE ROLE app NOLOGIN",
                'GRANT app TO "odd Role"',
                "ALTER ROLE app SET statement_timeout = '1ms'",
                'CREATE SCHEMA "S" AUTHORIZATION app',
                "CREATE TABLE \"S\".t (id int PRIMARY KEY, state varchar CHECK (state IN ('a', 'b')), m money)",
                "INSERT INTO \"S\".t VALUES (1, 'a', 1.5)",
                'ALTER TABLE "S".t OWNER TO "odd Role"',
                'CREATE MATERIALIZED VIEW v AS SELECT count(*) FROM "S".t',
                "CREATE TABLE parts (d date, n int) PARTITION BY RANGE (d)",
                "CREATE TABLE part PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
                "INSERT INTO parts VALUES ('2026-05-05', 1)",
                "CREATE TABLE hidden (n int)",
                "INSERT INTO hidden SELECT generate_series(1, 10)",
                "ALTER TABLE hidden ENABLE ROW LEVEL SECURITY",
                "CREATE POLICY p ON hidden USING (n > 5)",
                "ALTER DEFAULT PRIVILEGES FOR ROLE trader GRANT SELECT ON TABLES TO app",
                "SELECT lo_create(0)",
            ):
                conn.execute(statement.encode())
        targets = {
            "postgres": {"main": {"dsn": f"{url}/postgres", "bin_dir": str(BIN)}},
            "folders": {"backup_sets": {"path": str(site.sets.parent / "own")}, "scratch": {"path": str(site.scratch)}},
        }
        backed = run_job("backup", SMALL, targets, folder=site.sets.parent / "job")
        result = site.drill(targets, queries={"count": {"sql": "SELECT count FROM v", "equals": 1}})

    assert backed.outcome == "succeeded", backed.text()
    assert result.outcome == "succeeded", result.text()
    assert result.measure("restore_rows") == 12
    assert result.check("postgres main: postgres: objects unlike the dump").status is OK


def test_table_spaces_of_the_original_are_not_touched(site: Site) -> None:
    with folder_for_all() as place:
        own = place / "space"
        own.mkdir()
        shutil.chown(own, "postgres") if os.geteuid() == 0 else None
        with psycopg.connect(site.origin.db.url, autocommit=True) as conn:
            conn.execute(f"CREATE TABLESPACE fast LOCATION '{own}'")
            conn.execute("CREATE TABLE in_space (id int) TABLESPACE fast")
            conn.execute("INSERT INTO in_space VALUES (1)")
            try:
                (site.sets.parent / "again").mkdir()
                path = backed_up(site.sets.parent / "again/x", site.origin.db.url, site.origin.cache, "-Z6")
                shutil.rmtree(site.set)
                shutil.copytree(path, site.sets / path.name)
                site.only("postgres", "globals")
                before = sorted(own.rglob("*"))
                result = site.drill(amcheck=False)
                after = sorted(own.rglob("*"))
            finally:
                conn.execute("DROP TABLE in_space")
                conn.execute("DROP TABLESPACE fast")

    assert result.outcome == "succeeded", result.text()
    assert before == after
    assert "in_space" in str(site.manifest["postgres"][0]["tables"])


def test_an_older_set_is_restored_without_a_check_of_the_recovery_point(site: Site) -> None:
    older = datetime.now(UTC) - timedelta(days=20)
    shutil.copytree(site.set, site.sets / f"{older:set-%Y%m%dT%H%M%SZ}")

    result = site.drill(choose="older", amcheck=False)

    assert result.outcome == "succeeded", result.text()
    assert any(f"restores {older:set-%Y%m%dT%H%M%SZ}" in line for line in result.logs)
    assert result.named("recovery point") == []


def test_a_set_that_does_not_exist_is_named(site: Site) -> None:
    result = site.drill(choose="set-20200101T000000Z")

    assert 'no set named "set-20200101T000000Z"' in str(result.check("restore drill").observed)


# --- faults of the backup ---------------------------------------------------------------------------------------------


def test_a_flipped_byte_that_pg_restore_does_not_notice_is_found_by_the_content_hash(uncompressed: Site) -> None:
    site = uncompressed
    content = bytearray(site.dump.read_bytes())
    at = content.index(b"note " + hashlib.md5(b"1234").hexdigest().encode()) + 8
    content[at] ^= 1
    site.dump.write_bytes(content)
    site.only("postgres", "globals")  # and the sums are those of the flipped byte: it was flipped while it was written
    checked = subprocess.run([BIN / "pg_restore", "-f", "/dev/null", site.dump], check=False, capture_output=True)

    result = site.drill()

    assert (checked.returncode, checked.stderr) == (0, b"")
    assert result.check(f"{site.subject}: restored").status is OK
    assert result.check(f"{site.subject}: tables whose rows differ").status is OK
    check = result.check(f"{site.subject}: tables whose content differs")
    assert (check.status, check.observed) == (FAIL, 1), result.text()
    assert "public.a" in check.hint
    assert result.measure("restore_drill_success") == 0


def test_a_file_that_has_changed_since_it_was_made_is_found_by_its_sum_and_not_executed(site: Site) -> None:
    content = site.dump.read_bytes()
    site.dump.write_bytes(made.flipped(content, len(content) // 2))

    result = site.drill(amcheck=False)

    assert "has changed" in result.check("files unlike the manifest").hint
    assert result.check(f"{site.subject}: restored").observed == f"{site.dump.name} has changed"
    assert result.check("redis main: restored").status is OK  # the other parts are restored
    assert result.check("recovery time").status is UNKNOWN


def test_flipped_bytes_in_the_rows_of_a_dump_are_found_wherever_they_are(uncompressed: Site) -> None:
    """The sums are computed again each time, so that only what is restored can show it."""
    site = uncompressed
    site.only("postgres", "globals")
    sound, draw, missed = site.dump.read_bytes(), random.Random(16), []
    begin = sound.index(b"note ")  # in the rows, where no checksum of the format is
    end = sound.rindex(b"note ")

    for at in (draw.randrange(begin, end) for _ in range(3)):
        site.dump.write_bytes(made.flipped(sound, at, draw.randrange(7)))
        site.write(site.manifest)
        result = site.drill(amcheck=False)
        if result.outcome != "failed":
            missed.append(f"byte {at}: {result.text()}")

    assert missed == []


def test_a_missing_table_is_named(site: Site) -> None:
    site.dump.unlink()
    argv = [BIN / "pg_dump", "-Fc", "--exclude-table=[bm]", "-d", site.origin.db.url, "-f", site.sets / "dump"]
    subprocess.run(argv, check=True)
    name = site.manifest["postgres"][0]["file"]
    (site.sets / "dump").rename(site.set / name)
    site.only("postgres", "globals")

    result = site.drill(amcheck=False)

    check = result.check(f"{site.subject}: tables missing")
    assert check.status is FAIL, result.text()
    assert "public.b" in check.hint
    assert result.check(f"{site.subject}: schema").status is FAIL


def test_a_missing_role_is_the_cause(site: Site) -> None:
    path = site.set / "postgres-main-globals.sql"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "keeper" not in line))
    site.only("postgres", "globals")

    result = site.drill(amcheck=False)

    missing = result.check("postgres main: roles missing")
    assert (missing.status, "keeper" in missing.hint) == (FAIL, True), result.text()
    restored = result.check(f"{site.subject}: restored")
    assert restored.status is FAIL
    assert 'role "keeper" does not exist' in str(restored.observed)


def test_a_wrong_key_is_the_cause(site: Site) -> None:
    site.only("archives")
    key = made.write(site.sets.parent / "key", str(pyrage.x25519.Identity.generate()).encode())

    result = site.drill(identity=str(key))

    check = result.check("secrets stack: decrypted")
    assert check.status is FAIL, result.text()
    assert "cannot be decrypted" in str(check.observed)
    assert "other identities" in check.hint


def test_a_key_that_cannot_be_read_is_unknown(site: Site) -> None:
    site.only("archives")

    result = site.drill(identity=str(site.sets.parent / "none"))

    assert result.check("secrets stack: decrypted").status is UNKNOWN
    assert result.outcome == "unknown", result.text()


def test_a_set_that_is_too_old_fails_and_is_restored(site: Site) -> None:
    site.only("archives")
    manifest = site.manifest
    manifest["started_at"] = (datetime.now(UTC) - timedelta(days=3)).isoformat()
    site.write(manifest)

    result = site.drill()

    check = result.check("recovery point: age of the newest backup")
    assert check.status is FAIL, result.text()
    assert result.measure("restore_rpo_seconds") == pytest.approx(timedelta(days=3).total_seconds(), abs=600)
    assert result.check("files config: unpacked").status is OK


def test_a_file_in_an_archive_that_differs_is_named(site: Site) -> None:
    site.only("archives")
    with folder_for_all() as place:
        made.write(place / "config/app.yml", made.noise(100_000)[:-1] + b"!")
        (place / "config/link").symlink_to("app.yml")
        (place / "config/outside").symlink_to("/etc/passwd")
        tar = ["tar", "-C", place, "-czf", site.set / "files-config.tar.gz", "config"]
        subprocess.run(tar, check=True)
    site.write(site.manifest)

    result = site.drill()

    check = result.check("files config: members unlike the manifest")
    assert check.status is FAIL, result.text()
    assert "config/app.yml" in check.hint


def test_a_set_without_a_good_one_is_not_restored(site: Site) -> None:
    manifest = site.manifest
    manifest["missing"] = {"postgres main": "refused"}
    site.write(manifest)

    result = site.drill()

    assert result.check("good sets in backup_sets").status is FAIL, result.text()
    assert "made without postgres main" in result.check("good sets in backup_sets").hint


# --- Redis ------------------------------------------------------------------------------------------------------------


def redis_with(folder: Path, body: str) -> Path:
    folder.mkdir()
    program = folder / "redis-server"
    program.write_text(f"#!/bin/sh\nREAL=$(command -v redis-server)\n{body}\n")
    program.chmod(0o755)
    return program


def test_a_server_that_starts_empty_in_silence_fails(site: Site) -> None:
    """As a server with append-only files does, which ignores the snapshot beside their empty folder."""
    site.only("redis")
    program = redis_with(site.sets.parent / "bin", 'exec "$REAL" "$@" --appendonly yes')

    result = site.drill(redis_server=str(program))

    check = result.check("redis main: keys loaded")
    assert (check.status, check.observed) == (FAIL, 0), result.text()
    assert "ignores the snapshot" in check.hint


def test_a_snapshot_of_a_later_version_is_unknown_with_the_words_of_the_server(site: Site) -> None:
    site.only("redis")
    path = site.set / "redis-main.rdb"
    path.write_bytes(b"REDIS0099" + path.read_bytes()[9:])
    site.write(site.manifest)

    result = site.drill()

    check = result.check("redis main: restored")
    assert check.status is UNKNOWN, result.text()
    assert "Can't handle RDB format version 99" in str(check.observed)


def test_a_damaged_snapshot_fails_with_the_words_of_the_server(site: Site) -> None:
    site.only("redis")
    path = site.set / "redis-main.rdb"
    path.write_bytes(made.flipped(path.read_bytes(), path.stat().st_size // 2))
    site.write(site.manifest)

    result = site.drill()

    check = result.check("redis main: restored")
    assert check.status is FAIL, result.text()
    assert "redis-server: ended with" in str(check.observed)


def test_a_program_that_is_not_there_is_not_configured(site: Site) -> None:
    site.only("redis")

    result = site.drill(redis_server="/none/redis-server")

    assert result.check("redis main: restored").status is UNKNOWN
    assert "not_configured" in str(result.check("redis main: restored").observed)


# --- the machine ------------------------------------------------------------------------------------------------------


def old_programs(folder: Path) -> Path:
    for name in ("initdb", "postgres", "pg_controldata", "psql", "pg_restore", "pg_dump"):
        made.write(folder / name, f"#!/bin/sh\necho '{name} (PostgreSQL) 9.6.24'\n".encode()).chmod(0o755)
    return folder


def test_programs_that_are_too_old_are_unknown(site: Site) -> None:
    site.only("postgres", "globals")

    result = site.drill(bin_dir=str(old_programs(site.sets.parent / "bin")))

    check = result.check("postgres main: restored")
    assert check.status is UNKNOWN, result.text()
    major = BIN.parent.name
    assert f"postgres 9 is older than the server that was backed up ({major})" in str(check.observed)
    assert check.hint == f"install postgresql-{major}"


def test_without_postgres_programs_it_is_unknown(site: Site) -> None:
    site.only("postgres", "globals")

    result = site.drill(bin_dir=str(site.sets))

    assert result.check("postgres main: restored").status is UNKNOWN, result.text()
    assert "not all of initdb, postgres, " in str(result.check("postgres main: restored").observed)


def test_too_little_space_is_unknown_before_anything_is_restored(site: Site) -> None:
    with small_disk(site.scratch / "disk", "20m") as disk:
        disk.chmod(0o755)
        targets = site.targets
        targets["folders"]["scratch"] = {"path": str(disk)}
        result = site.drill(targets)
        left = list(disk.glob(".drill-*"))

    (site.scratch / "disk").rmdir()
    check = result.check("free space for the restore")
    assert (check.status, result.outcome) == (UNKNOWN, "unknown"), result.text()
    assert "MiB free" in str(check.observed)
    assert left == []


def test_a_disk_that_is_full_in_the_middle_is_unknown_and_not_the_fault_of_the_backup(site: Site) -> None:
    site.only("postgres", "globals")
    with small_disk(site.scratch / "disk", "260m") as disk:
        disk.chmod(0o755)
        targets = site.targets
        targets["folders"]["scratch"] = {"path": str(disk)}

        def fill(item: Report) -> None:
            if isinstance(item, Phase) and item.name == f"{site.subject}: restore":
                with (disk / "fill").open("wb", buffering=0) as file:
                    while True:
                        try:
                            file.write(bytes(1 << 16))
                        except OSError:
                            return

        result = site.drill(targets, at_report=fill)
        left = list(disk.glob(".drill-*"))

    (site.scratch / "disk").rmdir()
    check = result.check(f"{site.subject}: restored")
    assert check.status is UNKNOWN, result.text()
    assert "the disk of the scratch folder is full" in str(check.observed)
    assert left == []


def test_a_path_that_is_too_long_for_a_socket_is_unknown(site: Site) -> None:
    site.only("redis")
    place = site.scratch / ("long" * 20)
    place.mkdir()
    targets = site.targets
    targets["folders"]["scratch"] = {"path": str(place)}

    result = site.drill(targets)

    shutil.rmtree(place)
    assert "too long for a socket" in str(result.check("redis main: restored").observed)


# --- never production -------------------------------------------------------------------------------------------------


def roles_of(server: PostgresServer) -> list[str]:
    with psycopg.connect(server.url("postgres")) as conn:
        return sorted(row[0] for row in conn.execute("SELECT rolname FROM pg_roles"))


def databases_of(server: PostgresServer) -> list[str]:
    with psycopg.connect(server.url("postgres")) as conn:
        return sorted(row[0] for row in conn.execute("SELECT datname FROM pg_database"))


def test_an_environment_that_points_at_production_does_not_lead_there(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.only("postgres", "globals")
    server = site.origin.server
    before = roles_of(server), databases_of(server)
    # libpq prefers PGHOSTADDR to the host of a connection string.
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.1")
    monkeypatch.setenv("PGPORT", str(server.port))
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGUSER", "postgres")
    monkeypatch.setenv("PGDATABASE", "postgres")

    result = site.drill(amcheck=False)

    monkeypatch.undo()
    assert result.outcome == "succeeded", result.text()
    assert (roles_of(server), databases_of(server)) == before


def test_a_server_that_turns_out_to_be_production_is_refused_before_anything_is_written(site: Site) -> None:
    """The scratch server's socket is a link to that of production."""
    site.only("postgres", "globals")
    server = site.origin.server
    socket = server.folder / f".s.PGSQL.{server.port}"
    link = f'case "$*" in *unix_socket_directories*) ln -s {socket} "$2/../s/.s.PGSQL.5432"; exec sleep 600;; esac'
    before = roles_of(server), databases_of(server)

    with folder_for_all() as folder:
        result = site.drill(bin_dir=str(wrapper(folder / "bin", "postgres", link)))

    check = result.check("postgres main: restored")
    assert check.status is FAIL, result.text()
    assert "is the server of target main" in str(check.observed)
    assert "nothing was written to it" in check.hint
    assert (roles_of(server), databases_of(server)) == before


# --- stopped in the middle --------------------------------------------------------------------------------------------

KILLED = """
import json, os, signal, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from support.job_runs import run_job
from maintd.model.evidence import Phase
given = json.loads(sys.argv[3])
def report(item):
    if isinstance(item, Phase) and item.name == given["at"]:
        os.kill(os.getpid(), signal.SIGKILL)
result = run_job("restore_drill", given["params"], given["targets"], at_report=report)
print(result.text())
"""


@pytest.mark.parametrize("phase", ["postgres main: restore the roles", "{subject}: count and hash its rows", "{redis}"])
def test_a_drill_that_is_killed_leaves_no_process_and_a_folder_that_the_next_one_removes(
    site: Site, phase: str
) -> None:
    at = phase.format(subject=site.subject, redis="redis main: turn its append-only files on and restart it")
    if "redis" in phase:
        site.only("redis")
    root = Path(__file__).parents[2]
    given = json.dumps({"at": at, "params": {**SMALL, "scratch": "scratch"}, "targets": site.targets})
    argv = [sys.executable, "-c", KILLED, str(root), str(root / "tests"), given]

    killed = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    wait_for(lambda: not processes_of(site.scratch), "the servers to end")
    left = [path for path in site.scratch.iterdir() if path.name.startswith(".drill-")]
    site.only("archives")
    result = site.drill()

    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    assert len(left) == 1
    assert result.outcome == "succeeded", result.text()
    removed = [change.target for change in result.changes if change.action == "remove"]
    assert removed[0] == str(left[0])
    assert site.left() == []


def test_a_drill_of_a_daemon_leaves_no_process_and_no_folder_whatever_is_killed(site: Site) -> None:
    site.only("redis")
    started = site.sets.parent / "started"
    hang = f"touch {started}; exec '{sys.executable}' -c 'import time; time.sleep(600)' \"$@\""
    drill = {"redis_server": str(redis_with(site.sets.parent / "bin", hang)), **SMALL}
    calendar = {"timezone": "UTC", "targets": site.targets, "entries": {"drill": {"steps": [{"restore_drill": drill}]}}}
    with folder_for_all() as folder:
        work = folder / "state/work"

        def left() -> list[object]:
            return [*work.glob("*"), *processes_of(work)]

        def server_of_a_drill() -> psutil.Process:
            started.unlink(missing_ok=True)
            assert daemon.maintd("trigger", "drill").code == 0
            wait_for(started.exists, "the server to be started")
            (found,) = processes_of(work)
            return found

        with maintd_daemon(folder, json.dumps(calendar)) as daemon:
            server_of_a_drill().parent().kill()
            wait_for(lambda: not left(), "what a killed job leaves to be gone")
            server_of_a_drill()
            assert daemon.maintd("cancel", "2").code == 0
            wait_for(lambda: not left(), "what a cancelled job leaves to be gone")
            server_of_a_drill()
            daemon.process.kill()
            wait_for(lambda: not processes_of(work), "the server of a killed daemon to end")
        with maintd_daemon(folder, json.dumps(calendar)):
            wait_for(lambda: not left(), "what a killed daemon leaves to be gone")


def test_servers_of_a_drill_that_were_left_alive_are_stopped_by_the_next_one(site: Site) -> None:
    site.only("archives")
    left = site.scratch / ".drill-0123abcd"
    other = site.scratch / ".drill-of-someone"
    for folder in (left, other):
        folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()", str(left / "data")], stdin=subprocess.PIPE) as process:
        result = site.drill()

        process.wait(60)

    assert result.outcome == "succeeded", result.text()
    assert other.exists()  # not a name that a drill gives
    assert processes_of(left) == []
    other.rmdir()


def shared_memory() -> dict[str, str]:
    """The numbers of the segments that the kernel has, each with the number of processes that use it."""
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return {line.split()[1]: line.split()[6] for line in lines}


def test_the_shared_memory_of_a_postgres_that_was_killed_is_removed_by_the_next_drill(site: Site) -> None:
    site.only("archives")
    left = site.scratch / ".drill-0123abcd"
    left.mkdir()
    if os.geteuid() == 0:
        shutil.chown(left, "postgres", "postgres")
    server = PostgresServer(left, free_port())
    server._run("initdb", "-D", f"{left}/data", "-A", "trust", "-U", "postgres", "--no-sync")
    server.start()
    lines = (left / "data/postmaster.pid").read_text().splitlines()
    number = lines[6].split()[1]
    os.kill(int(lines[0]), signal.SIGKILL)
    wait_for(lambda: shared_memory()[number] == "0", "the other processes of the server to end")

    result = site.drill()

    assert result.outcome == "succeeded", result.text()
    assert number not in shared_memory()


def test_two_drills_do_not_use_one_folder(site: Site) -> None:
    with locked(site.scratch):
        result = site.drill()

    assert "another run writes into it" in str(result.check("restore drill").observed)


def test_a_dry_run_restores_nothing(site: Site) -> None:
    result = site.drill(dry_run=True)

    assert list(site.scratch.iterdir()) == []
    assert [(change.action, change.state.value) for change in result.changes] == [("create", "planned")]
    assert any("would restore" in line for line in result.logs)


AS_USER = """
import json, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from pathlib import Path
from support.job_runs import run_job
given = json.loads(sys.argv[3])
folder = Path(given["folder"])
result = run_job("restore_drill", given["params"], given["targets"], folder=folder)
left = [str(path) for path in (folder / "work").iterdir()]
print(json.dumps({"outcome": result.outcome, "text": result.text(), "left": left}))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as a user without privileges then")
def test_a_user_without_privileges_restores_into_the_work_folder_of_the_attempt(site: Site) -> None:
    """As in the container and in the systemd unit."""
    nobody = pwd.getpwnam("nobody")
    root = Path(__file__).parents[2]
    folder = site.scratch / "job"
    folder.mkdir()
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    params = {**SMALL, "amcheck": False}
    given = json.dumps({"folder": str(folder), "params": params, "targets": site.targets})
    # The right to read is needed for the set and for this module, which may be below a home of mode 0700.
    caps = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    user = (f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")
    with folder_for_all() as place:
        environ = {**os.environ, **environ_for_all(place)}
        python = place / f"bin/python{sysconfig.get_python_version()}"
        argv = [require_program("setpriv", "util-linux"), *user, *caps, str(python), "-c", AS_USER]
        argv += [str(root), str(root / "tests"), given]
        done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["outcome"] == "succeeded", result["text"]
    assert result["left"] == []
    assert processes_of(folder) == []
    shutil.rmtree(folder)


# --- objectives -------------------------------------------------------------------------------------------------------


def test_a_recovery_time_above_its_goal_fails_and_a_slower_one_than_before_warns(site: Site) -> None:
    site.only("archives")

    failed = site.drill(rto="1ms")
    # Former drills of a made-up negative time: whatever this one takes is more than a minute above them.
    slower = site.drill(series={"restore_rto_seconds": [-1000.0, -1000.0, -1000.0]})

    assert failed.check("recovery time").status is FAIL, failed.text()
    assert slower.check("recovery time against former drills").status is WARN, slower.text()


def test_an_application_query_that_is_not_as_expected_fails_with_its_value(site: Site) -> None:
    site.only("postgres", "globals")
    queries = {
        "too few": {"sql": "SELECT count(*) FROM b", "at_least": 501},
        "stale": {"sql": "SELECT date '2020-01-01'", "max_age": "1d"},
        "none": {"sql": "SELECT max(id) FROM b WHERE false", "at_least": 1},
        "wrong": {"sql": "SELECT n FROM gone", "equals": 1},
        "writes": {"sql": "DELETE FROM b RETURNING 1", "equals": 1},
        "elsewhere": {"sql": "SELECT 1", "equals": 1, "database": "other"},
    }

    result = site.drill(amcheck=False, queries=queries)

    found = {name: result.check(f"{site.subject}: {name}") for name in queries if name != "elsewhere"}
    assert {check.status for check in found.values()} == {FAIL}, result.text()
    assert found["too few"].observed == 500
    assert found["none"].observed == "no value"
    assert 'relation "gone" does not exist' in str(found["wrong"].observed)
    assert "read-only transaction" in str(found["writes"].observed)
    assert result.check("query elsewhere").status is UNKNOWN


# --- backups of other programs ----------------------------------------------------------------------------------------


@contextmanager
def others(site: Site, make: Callable[[Path], None]) -> Iterator[dict[str, Any]]:
    folder = site.sets.parent / "others"
    folder.mkdir()
    make(folder)
    targets = site.targets
    targets["folders"]["others"] = {"path": str(folder)}
    yield targets


def test_a_plain_dump_is_restored_and_compared_to_nothing(site: Site) -> None:
    def make(folder: Path) -> None:
        for format_, name in (("c", f"trading-{TODAY}.dump"), ("p", f"plain-{TODAY}.sql")):
            argv = [BIN / "pg_dump", f"-F{format_}", "-d", site.origin.db.url, "-f", folder / name]
            subprocess.run(argv, check=True)
        subprocess.run(["gzip", folder / f"plain-{TODAY}.sql"], check=True)

    with others(site, make) as targets:
        result = site.drill(targets, folder="others")

    for name in (f"trading-{TODAY}.dump", f"plain-{TODAY}.sql.gz"):
        assert result.check(f"{name}: restored").status is OK, result.text()
        assert result.check(f"{name}: damaged relations").status is OK
        check = result.check(f"{name}: compared with the original")
        assert (check.status, check.optional) == (UNKNOWN, False)
        assert "no manifest" in str(check.observed)
        assert result.check(f"{name}: owners and grants").status is UNKNOWN
    assert result.outcome == "unknown"


def test_a_cluster_dump_and_files_of_redis_are_restored_and_compared_to_nothing(site: Site) -> None:
    def make(folder: Path) -> None:
        cluster = subprocess.run([BIN / "pg_dumpall", "-d", site.origin.server.url("postgres")], capture_output=True)
        (folder / f"all-{TODAY}.sql").write_bytes(cluster.stdout)
        shutil.copy(site.set / "redis-main.rdb", folder / f"cache-{TODAY}.rdb")
        shutil.copytree(site.origin.cache.folder / "appendonlydir", folder / "appendonlydir")

    with others(site, make) as targets:
        result = site.drill(targets, folder="others", amcheck=False)

    assert result.check(f"all-{TODAY}.sql: restored").status is OK, result.text()
    assert result.measure("restore_rows", part=f"all-{TODAY}.sql: {site.origin.name}") == ROWS + 500
    assert result.check(f"cache-{TODAY}.rdb: keys loaded").status is OK
    assert result.check("appendonlydir: keys loaded").status is OK
    assert result.outcome == "unknown"


def gpg_encrypted(folder: Path, passphrase: Path, sources: dict[str, Path]) -> None:
    with tempfile.TemporaryDirectory(prefix="k-", dir="/tmp") as home:  # the agent's socket needs a short path
        options = ["--batch", "--no-tty", "--homedir", home, "--pinentry-mode", "loopback"]
        options += ["--passphrase-file", str(passphrase), "--symmetric"]
        for name, source in sources.items():
            argv = [require_program("gpg", "gnupg"), *options, "--output", str(folder / name), str(source)]
            subprocess.run(argv, check=True, capture_output=True)
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)


def test_what_gpg_encrypted_is_restored_with_its_passphrase_and_unknown_without(site: Site) -> None:
    passphrase = made.write(site.sets.parent / "passphrase", b"correct horse")
    wrong = made.write(site.sets.parent / "wrong", b"other horse")
    names = {f"cache-{TODAY}.rdb.gpg": "redis-main.rdb", f"files-{TODAY}.tar.gz.gpg": "files-config.tar.gz"}

    def make(folder: Path) -> None:
        gpg_encrypted(folder, passphrase, {name: site.set / source for name, source in names.items()})

    with others(site, make) as targets:
        opened = site.drill(targets, folder="others", gpg_passphrase=str(passphrase))
        closed = site.drill(targets, folder="others")
        wrongly = site.drill(targets, folder="others", gpg_passphrase=str(wrong))

    assert opened.check(f"cache-{TODAY}.rdb.gpg: keys loaded").status is OK, opened.text()
    assert opened.check(f"files-{TODAY}.tar.gz.gpg: decrypted").status is OK
    for name in names:
        check = closed.check(f"{name}: decrypted")
        assert (check.status, check.optional) == (UNKNOWN, False), closed.text()
        assert "gpg_passphrase" in check.hint
    assert closed.outcome == "unknown"
    assert wrongly.check(f"files-{TODAY}.tar.gz.gpg: decrypted").status is FAIL, wrongly.text()
    assert wrongly.check(f"cache-{TODAY}.rdb.gpg: restored").status is not OK


def test_what_is_no_dump_of_postgres_is_named(site: Site) -> None:
    def make(folder: Path) -> None:
        made.write(folder / f"mysql-{TODAY}.sql", b"-- MySQL dump 10.13\nSELECT 1;\n-- Dump completed\n")
        made.write(folder / f"app-{TODAY}.sqlite", made.noise(1000))

    with others(site, make) as targets:
        result = site.drill(targets, folder="others")

    assert "not SQL of pg_dump" in str(result.check(f"mysql-{TODAY}.sql: restored").observed), result.text()
    assert "sqlite is not restored in a drill" in str(result.check(f"app-{TODAY}.sqlite: restored").observed)
    assert result.outcome == "unknown"


# --- targets ----------------------------------------------------------------------------------------------------------


def test_without_the_folder_it_is_not_configured(site: Site) -> None:
    result = site.drill({**site.targets, "folders": {}})

    assert getattr(result.error, "cause", "") == "not_configured"


def test_live_servers_that_are_gone_as_in_a_disaster_are_not_needed(site: Site) -> None:
    site.only("postgres", "globals")
    targets = {**site.targets, "redis": {}, "postgres": {"main": {"dsn": "host=/none", "bin_dir": str(BIN)}}}

    result = site.drill(targets, amcheck=False)

    assert result.outcome == "succeeded", result.text()
    assert re.search(r"none of 1 known", result.check("postgres main: scratch cluster is not production").expected)
