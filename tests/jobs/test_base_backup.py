"""Base backups of real servers: made as a part of a set, damaged in many ways, and recovered in a drill."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support import sample_backups as made
from support.job_runs import JOBS, JobResult, run_job
from support.servers.base import wait_for
from support.servers.postgres import BIN, PostgresServer, postgres
from support.users import folder_for_all

from maintd.checks.backup_sets.layout import MANIFEST, SUMS, find_sets
from maintd.checks.backups.archive import read_archive
from maintd.checks.backups.base_backup import missing_segments
from maintd.model.evidence import CheckStatus

pytestmark = pytest.mark.server

OK, FAIL, UNKNOWN = CheckStatus.OK, CheckStatus.FAIL, CheckStatus.UNKNOWN
SMALL = {"min_free": "1MB"}
FILE = "postgres-main-base.tar.gz"
SUBJECT = "postgres main: base backup"
ROWS = 4000


@dataclass
class Origin:
    """A server with a database, and a set with its base backup only."""

    server: PostgresServer
    url: str
    set: Path

    def targets(self, sets: Path, scratch: Path | None = None, **main: Any) -> dict[str, Any]:
        folders = {"backup_sets": {"path": str(sets)}}
        if scratch is not None:
            folders["scratch"] = {"path": str(scratch)}
        place = {"dsn": self.url, "bin_dir": str(BIN), "timeout": "5s", **main}
        return {"postgres": {"main": place}, "folders": folders}

    def state(self) -> list[Any]:
        """What a drill must not change."""
        with psycopg.connect(self.url) as conn:
            found = conn.execute("SELECT rolname FROM pg_roles ORDER BY 1").fetchall()
            found += conn.execute("SELECT datname FROM pg_database ORDER BY 1").fetchall()
            return found + conn.execute("SELECT slot_name FROM pg_replication_slots").fetchall()


@dataclass
class Site:
    """A copy of the set, and a folder for scratch servers."""

    origin: Origin
    sets: Path
    scratch: Path

    @property
    def set(self) -> Path:
        return find_sets(self.sets)[0].path

    @property
    def file(self) -> Path:
        return self.set / FILE

    def drill(self, **params: Any) -> JobResult:
        more = {key: params.pop(key) for key in ("at_report",) if key in params}
        given = {**SMALL, "scratch": "scratch", **params}
        targets = self.origin.targets(self.sets, self.scratch)
        return run_job("restore_drill", given, targets, folder=self.sets.parent / "job", **more)

    def verify(self, **params: Any) -> JobResult:
        return run_job("backup_verify", {"root": str(self.sets), **params})

    def sign(self, change: Callable[[dict[str, Any]], None] = lambda manifest: None) -> None:
        """Make the sums of the set again, as if its files had been like this when it was made."""
        manifest = json.loads((self.set / MANIFEST).read_text())
        change(manifest)
        for name, file in manifest["files"].items():
            content = (self.set / name).read_bytes()
            file |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        text = json.dumps(manifest)
        (self.set / MANIFEST).write_text(text)
        sums = {name: file["sha256"] for name, file in manifest["files"].items()}
        sums[MANIFEST] = hashlib.sha256(text.encode()).hexdigest()
        (self.set / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))

    def repack(self, change: Callable[[str, bytes], bytes | None], *, own_manifest: bool = False) -> None:
        """Write the tar again, each file as `change` returns it or without it; `own_manifest` agrees with that."""
        out = io.BytesIO()
        files: dict[str, bytes] = {}
        with tarfile.open(self.file) as old, tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as new:
            for member in old:
                content = old.extractfile(member) if member.isreg() else None
                data = content.read() if content is not None else b""
                changed = change(member.name, data) if member.isreg() else b""
                if changed is None:
                    continue
                if member.name == "backup_manifest" and own_manifest:
                    changed = signed(json.loads(data), files)
                files[member.name] = changed
                member.size = len(changed)
                new.addfile(member, io.BytesIO(changed))
        self.file.write_bytes(out.getvalue())
        self.sign()


def signed(manifest: dict[str, Any], files: dict[str, bytes]) -> bytes:
    """The backup_manifest with the checksums of these files; its last line has its own, of all lines before."""
    manifest.pop("Manifest-Checksum")
    for file in manifest["Files"]:
        content = files[file["Path"]]
        file |= {"Size": len(content), "Checksum": hashlib.sha256(content).hexdigest()}
    body = json.dumps(manifest, indent=0).removesuffix("\n}").encode() + b",\n"
    return body + f'"Manifest-Checksum": "{hashlib.sha256(body).hexdigest()}"}}\n'.encode()


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    folder = Path(tempfile.mkdtemp(prefix="maintd-base-origin-"))
    try:
        with postgres() as server:
            url = server.create("trading")
            with psycopg.connect(url, autocommit=True) as conn:
                conn.execute("CREATE TABLE a (id int PRIMARY KEY, note text, big text)")
                conn.execute("ALTER TABLE a ALTER big SET STORAGE EXTERNAL")
                conn.execute(
                    "INSERT INTO a SELECT n, 'note ' || md5(n::text), CASE WHEN n % 500 = 0 THEN repeat(md5(n::text),"
                    f" 200) END FROM generate_series(1, {ROWS}) n"
                )
                # What would break, or reach out of, a server that is started with it.
                conn.execute("ALTER SYSTEM SET shared_preload_libraries = 'not_installed_here'")
                conn.execute("ALTER SYSTEM SET listen_addresses = '*'")
                conn.execute("ALTER SYSTEM SET restore_command = 'touch /tmp/maintd-restore-command-was-run'")
            (folder / "sets").mkdir()
            found = Origin(server, url, folder)
            params = {**SMALL, "postgres": [], "base_backups": ["main"]}
            result = run_job("backup", params, found.targets(folder / "sets"), folder=folder / "job")
            assert result.outcome == "succeeded", result.text()
            found.set = find_sets(folder / "sets")[0].path
            yield found
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def site(origin: Origin, tmp_path: Path) -> Iterator[Site]:
    with folder_for_all() as scratch:
        shutil.copytree(origin.set, tmp_path / "sets" / origin.set.name)
        found = Site(origin, tmp_path / "sets", scratch)
        yield found
        assert [path.name for path in scratch.iterdir() if path.name != ".maintd-backup.lock"] == []


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


# --- a whole one ------------------------------------------------------------------------------------------------------


def test_a_base_backup_is_verified_when_it_is_made_and_at_every_level(site: Site) -> None:
    about = json.loads((site.set / MANIFEST).read_text())

    levels = {level: site.verify(level=level) for level in ("checksum", "decode")}

    assert about["files"][FILE]["verified"] == "decode" == about["verified"]
    assert about["base_backups"][0]["databases"] == {"postgres": [], "trading": ["public.a"]}
    assert {level: result.outcome for level, result in levels.items()} == dict.fromkeys(levels, "succeeded"), "\n".join(
        result.text() for result in levels.values()
    )
    assert site.file.stat().st_mode & 0o777 == 0o600
    # pg_verifybackup agrees, on what the tar unpacks to.
    plain = site.sets.parent / "plain"
    plain.mkdir()
    subprocess.run(["tar", "-xzf", site.file, "-C", plain], check=True)
    subprocess.run([BIN / "pg_verifybackup", "--quiet", plain], check=True)
    assert site.origin.state()[-1] == ("trading",)  # no replication slot is left


def test_a_base_backup_is_recovered_and_proven_and_production_is_not_touched(site: Site) -> None:
    before = site.origin.state()
    queries = {"notes": {"database": "trading", "sql": "SELECT count(*) FROM a", "equals": ROWS}}

    result = site.drill(queries=queries)

    assert result.outcome == "succeeded", result.text()
    assert {check.name for check in result.checks} >= {
        f"{SUBJECT}: files unlike backup_manifest",
        f"{SUBJECT}: scratch server is not production",
        f"{SUBJECT}: recovered",
        f"{SUBJECT}: databases missing",
        f"{SUBJECT}: trading: tables missing",
        f"{SUBJECT}: trading: rows read",
        f"{SUBJECT}: trading: notes",
        f"{SUBJECT}: trading: damaged relations",
        "recovery time",
    }
    assert result.check(f"{SUBJECT}: trading: rows read").observed == ROWS
    assert result.measure("restore_drill_success") == 1
    phases = {item.labels["phase"] for item in result.measures if item.name == "restore_phase_seconds"}
    assert phases >= {"unpack base backups", "recover Postgres", "pg_verifybackup"}
    assert site.origin.state() == before
    assert not Path("/tmp/maintd-restore-command-was-run").exists()


# --- damage -----------------------------------------------------------------------------------------------------------


def test_all_of_twenty_flipped_bits_in_a_base_backup_are_found_with_and_without_the_sums_of_the_set(site: Site) -> None:
    draw = random.Random(20)
    sound, times = site.file.read_bytes(), site.file.stat()
    missed = []

    for _ in range(20):
        at = draw.randrange(len(sound))
        flipped = made.flipped(sound, at, draw.randrange(8))
        site.file.write_bytes(flipped)
        os.utime(site.file, ns=(times.st_atime_ns, times.st_mtime_ns))
        by_sum = site.verify(level="checksum").outcome
        # By the layers of the format: gzip's CRC, and the manifest in the tar.
        inside = read_archive(site.file)
        is_found = inside.damage or inside.unread or made.same_when_expanded(flipped, sound)
        if by_sum != "failed" or not is_found:
            missed.append((at, by_sum, inside.damage))

    assert missed == []


def heap_and_index(origin: Origin) -> tuple[str, str]:
    with psycopg.connect(origin.url) as conn:
        row = conn.execute("SELECT pg_relation_filepath('a'), pg_relation_filepath('a_pkey')").fetchone()
        assert row is not None
        return str(row[0]), str(row[1])


@pytest.mark.parametrize("where", ["heap", "index", "WAL", "a file more", "a file less"])
def test_damage_in_the_tar_is_found_by_its_own_manifest_though_all_sums_of_the_set_agree(
    site: Site, where: str
) -> None:
    heap, index = heap_and_index(site.origin)
    changes: dict[str, Callable[[str, bytes], bytes | None]] = {
        "heap": lambda name, data: made.flipped(data, 8000) if name == heap else data,
        "index": lambda name, data: made.flipped(data, 9000) if name == index else data,
        "WAL": lambda name, data: None if name.startswith("pg_wal/0") else data,
        "a file more": lambda name, data: data,
        "a file less": lambda name, data: None if name == index else data,
    }
    site.repack(changes[where])
    if where == "a file more":
        add_file(site, "base/1/99999")
    expected = {
        "heap": f'"{heap}" does not match',
        "index": f'"{index}" does not match',
        "WAL": "its WAL is not whole",
        "a file more": '"base/1/99999" is not in the manifest',
        "a file less": f'"{index}" is missing',
    }

    verified = site.verify()
    drilled = site.drill() if where in ("heap", "WAL") else None

    damaged = next(check for check in verified.checks if check.name.endswith(f"{FILE}: decoded"))
    assert damaged.status is FAIL
    assert expected[where] in str(damaged.observed)
    if drilled is not None:
        check = drilled.check(f"{SUBJECT}: files unlike backup_manifest")
        assert check.status is FAIL, drilled.text()
        assert expected[where] in check.hint


def add_file(site: Site, name: str) -> None:
    out = io.BytesIO()
    with tarfile.open(site.file) as old, tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as new:
        for number, member in enumerate(old):
            if number == 1:
                added = tarfile.TarInfo(name)
                added.size = 5
                new.addfile(added, io.BytesIO(b"added"))
            new.addfile(member, old.extractfile(member) if member.isreg() else None)
    site.file.write_bytes(out.getvalue())
    site.sign()


def test_a_damaged_index_that_no_checksum_shows_is_found_by_amcheck(site: Site) -> None:
    _, index = heap_and_index(site.origin)

    def damage(name: str, data: bytes) -> bytes:
        # The key of an item of the first leaf, which is the second page, is replaced: it is out of order then.
        return data[:16000] + bytes(byte ^ 0x55 for byte in data[16000:16384]) + data[16384:] if name == index else data

    site.repack(damage, own_manifest=True)

    result = site.drill()

    assert result.check(f"{SUBJECT}: files unlike backup_manifest").status is OK, result.text()
    check = result.check(f"{SUBJECT}: trading: damaged relations")
    assert check.status is FAIL
    assert "a_pkey" in check.hint


def test_wal_that_does_not_reach_the_end_of_the_backup_is_found_before_it_is_trusted(site: Site) -> None:
    """The files of WAL are there, and all sums agree, but it ends too early: pg_verifybackup and recovery see it."""

    def cut(name: str, data: bytes) -> bytes:
        return data[:64] + bytes(len(data) - 64) if name.startswith("pg_wal/0") else data

    site.repack(cut)

    result = site.drill()

    check = result.check(f"{SUBJECT}: restored")
    assert check.status is FAIL, result.text()
    assert "pg_verifybackup" in str(check.observed) or "WAL" in str(check.observed)


@pytest.mark.parametrize("kind", ["link", "table space"])
def test_what_would_leave_the_scratch_folder_is_not_unpacked(site: Site, kind: str) -> None:
    outside = site.sets.parent / "outside"
    outside.mkdir()
    out = io.BytesIO()
    with tarfile.open(site.file) as old, tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as new:
        for member in old:
            content = old.extractfile(member) if member.isreg() else None
            data = content.read() if content is not None else b""
            if member.name == "tablespace_map" and kind == "table space":
                data = f"16384 {outside}\n".encode()
                member.size = len(data)
            new.addfile(member, io.BytesIO(data) if member.isreg() else None)
            if member.name == "pg_notify" and kind == "link":
                link = tarfile.TarInfo("pg_tblspc/16384")
                link.type, link.linkname = tarfile.SYMTYPE, str(outside)
                new.addfile(link)
    site.file.write_bytes(out.getvalue())
    site.sign()

    result = site.drill()

    assert result.check(f"{SUBJECT}: files unlike backup_manifest").status is FAIL, result.text()
    assert list(outside.iterdir()) == []


def test_a_file_that_has_changed_is_not_started(site: Site) -> None:
    site.file.write_bytes(made.flipped(site.file.read_bytes(), 5000))

    result = site.drill()

    assert f"{FILE} has changed" in str(result.check(f"{SUBJECT}: restored").observed)
    assert not result.named("recovered")


def test_another_major_version_is_unknown_since_it_cannot_start_it(site: Site) -> None:
    site.sign(lambda manifest: manifest["base_backups"][0].update(server_version="9.6.24"))

    result = site.drill()

    check = result.check(f"{SUBJECT}: restored")
    assert check.status is UNKNOWN, result.text()
    assert "starts with no other version" in str(check.observed)


def test_indexes_that_another_library_sorted_are_unknown_and_not_damaged(origin: Origin, tmp_path: Path) -> None:
    set_version = "UPDATE pg_database SET datcollversion = %s WHERE datname = 'trading'"
    with psycopg.connect(origin.url, autocommit=True) as conn:
        (before,) = conn.execute("SELECT datcollversion FROM pg_database WHERE datname = 'trading'").fetchone() or (0,)
        conn.execute(set_version, ("153.14",))
        try:
            backup_of(origin, tmp_path)
        finally:
            conn.execute(set_version, (before,))

    with folder_for_all() as scratch:
        result = Site(origin, tmp_path / "sets", scratch).drill()

    check = result.check(f"{SUBJECT}: trading: damaged relations")
    assert check.status is UNKNOWN, result.text()
    assert "153.14" in str(check.observed)
    assert result.check(f"{SUBJECT}: trading: rows read").status is OK


# --- never production -------------------------------------------------------------------------------------------------


def test_a_socket_that_leads_to_production_is_refused_before_anything_is_written(site: Site) -> None:
    """The system identifier is the same: by the process that listens it is seen to be another server."""
    server = site.origin.server
    socket = server.folder / f".s.PGSQL.{server.port}"
    link = f'case "$*" in *unix_socket_directories*) ln -s {socket} "$2/../s/.s.PGSQL.5432"; exec sleep 600;; esac'
    before = site.origin.state()

    with folder_for_all() as folder:
        result = site.drill(bin_dir=str(wrapper(folder / "bin", "postgres", link)))

    check = result.check(f"{SUBJECT}: restored")
    assert check.status is FAIL, result.text()
    assert "listens on it" in str(check.observed)
    assert "nothing was written to it" in check.hint
    assert site.origin.state() == before


def test_a_server_of_another_data_folder_is_refused(site: Site) -> None:
    """The program that is started here starts, as the same process, a server elsewhere: a copy of what was unpacked."""
    with folder_for_all() as folder:
        move = (
            'case "$*" in *unix_socket_directories*) data="$2"; shift 2;'
            f' cp -a "$data" {folder}/elsewhere; exec "$REAL" -D {folder}/elsewhere "$@";; esac'
        )
        folder.chmod(0o777)
        result = site.drill(bin_dir=str(wrapper(folder / "bin", "postgres", move)))

    check = result.check(f"{SUBJECT}: restored")
    assert check.status is FAIL, result.text()
    assert "its data folder is another one" in str(check.observed)


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
result = run_job(given["job"], given["params"], given["targets"], at_report=report)
print(result.text())
"""


def process_of(job: str, params: dict[str, Any], targets: dict[str, Any], at: str = "") -> list[str]:
    root = Path(__file__).parents[2]
    given = json.dumps({"job": job, "at": at, "params": params, "targets": targets})
    return [sys.executable, "-c", KILLED, str(root), str(root / "tests"), given]


def test_killed_while_the_server_streams_it_leaves_no_set_and_no_slot(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    with folder_for_all() as folder:
        begin = 'case "$*" in *--version*) exec "$REAL" "$@";; esac; "$REAL" "$@" | (head -c 2000000; sleep 600)'
        programs = wrapper(folder / "bin", "pg_basebackup", f"{begin}; exit 0")
        targets = origin.targets(tmp_path / "sets", bin_dir=str(programs))
        params = {**SMALL, "postgres": [], "base_backups": ["main"]}
        with subprocess.Popen(process_of("backup", params, targets), start_new_session=True) as process:
            part = f".set-*.partial/{FILE}"
            wait_for(lambda: [one for one in (tmp_path / "sets").glob(part) if one.stat().st_size], "some of it")
            slots = origin.state()[-1]
            os.killpg(process.pid, signal.SIGKILL)
    left = [path.name for path in (tmp_path / "sets").iterdir()]
    wait_for(lambda: origin.state()[-1] == ("trading",), "the slot to be dropped")
    verified = run_job("backup_verify", {"root": str(tmp_path / "sets"), "level": "checksum"})

    result = run_job("backup", params, origin.targets(tmp_path / "sets"), folder=tmp_path / "job")

    assert slots[0].startswith("maintd_backup_")
    assert [name for name in left if name.startswith("set-")] == []
    assert verified.outcome == "failed"  # there is no backup: what is half written is none
    assert result.outcome == "succeeded", result.text()
    assert [change.action for change in result.changes if change.action == "remove"] == ["remove"]


def test_a_drill_that_is_killed_while_it_recovers_leaves_a_folder_that_the_next_one_removes(site: Site) -> None:
    targets = site.origin.targets(site.sets, site.scratch)
    argv = process_of(
        "restore_drill", {**SMALL, "scratch": "scratch"}, targets, f"{SUBJECT}: trading: check for damage"
    )
    killed = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    left = [path for path in site.scratch.iterdir() if path.name.startswith(".drill-")]

    result = site.drill()

    assert killed.returncode == -signal.SIGKILL, killed.stdout
    assert len(left) == 1
    assert result.outcome == "succeeded", result.text()
    assert not left[0].exists()


# --- what does not work -----------------------------------------------------------------------------------------------


def backup_of(origin: Origin, tmp_path: Path, **main: Any) -> JobResult:
    (tmp_path / "sets").mkdir(exist_ok=True)
    params = {**SMALL, "postgres": [], "base_backups": ["main"]}
    return run_job("backup", params, origin.targets(tmp_path / "sets", **main), folder=tmp_path / "job")


def test_a_missing_right_is_named_by_the_job_and_before_by_doctor(origin: Origin, tmp_path: Path) -> None:
    rules = origin.server.folder / "data/pg_hba.conf"
    before = rules.read_text()
    dsn = origin.url.replace("postgres@", "streamer@")
    path = str(JOBS / "backup.py")
    (tmp_path / "sets").mkdir()
    chosen = json.dumps({"postgres": [], "base_backups": ["main"]})
    steps = [{"entry": "daily-backup", "step": "backup", "job": "backup", "path": path, "params": chosen}]

    def doctor() -> Any:
        targets = origin.targets(tmp_path / "sets", dsn=dsn)
        result = run_job("doctor", {"calendar": {"steps": steps, "store": None}}, targets)
        return result.check("postgres main: stream a base backup")

    with psycopg.connect(origin.url, autocommit=True) as conn:
        conn.execute("CREATE ROLE streamer LOGIN")
        try:
            weak, weak_seen = backup_of(origin, tmp_path, dsn=dsn), doctor()
            conn.execute("ALTER ROLE streamer REPLICATION")
            rules.write_text(f"host replication streamer 127.0.0.1/32 reject\n{before}")
            conn.execute("SELECT pg_reload_conf()")
            closed = wait_closed(dsn) and backup_of(origin, tmp_path, dsn=dsn)
            closed_seen = doctor()
            rules.write_text(before)
            conn.execute("SELECT pg_reload_conf()")
            wait_for(lambda: not is_closed(dsn), "the rules to be read")
            able, able_seen = backup_of(origin, tmp_path, dsn=dsn), doctor()
        finally:
            rules.write_text(before)
            conn.execute("SELECT pg_reload_conf()")
            conn.execute("DROP ROLE streamer")

    assert "REPLICATION" in weak.check(f"{SUBJECT}: backed up").hint, weak.text()
    assert weak_seen.status is not OK
    assert "REPLICATION" in weak_seen.hint
    assert isinstance(closed, JobResult)
    assert "pg_hba.conf" in closed.check(f"{SUBJECT}: backed up").hint, closed.text()
    assert "pg_hba.conf" in closed_seen.hint
    assert able.outcome == "succeeded", able.text()
    assert able_seen.status is OK


def is_closed(dsn: str) -> bool:
    with suppress(psycopg.OperationalError), psycopg.connect(dsn, replication="true", autocommit=True):
        return False
    return True


def wait_closed(dsn: str) -> bool:
    wait_for(lambda: is_closed(dsn), "the rules to be read")
    return True


def test_a_server_with_table_spaces_is_refused_with_what_to_do(origin: Origin, tmp_path: Path) -> None:
    with folder_for_all() as folder, psycopg.connect(origin.url, autocommit=True) as conn:
        space = folder / "space"
        space.mkdir()
        if os.geteuid() == 0:
            shutil.chown(space, "postgres", "postgres")
        conn.execute(f"CREATE TABLESPACE elsewhere LOCATION '{space}'")
        try:
            result = backup_of(origin, tmp_path)
        finally:
            conn.execute("DROP TABLESPACE elsewhere")

    check = result.check(f"{SUBJECT}: backed up")
    assert check.status is FAIL, result.text()
    assert "table spaces" in check.hint
    assert find_sets(tmp_path / "sets") == []  # nothing else was to be in it


def test_the_space_for_the_whole_server_is_required_before_it_starts(origin: Origin, tmp_path: Path) -> None:
    with psycopg.connect(origin.url) as conn:
        (size,) = conn.execute("SELECT sum(pg_database_size(oid))::bigint FROM pg_database").fetchone() or (0,)
    (tmp_path / "sets").mkdir()
    params = {"postgres": [], "base_backups": ["main"], "min_free": 10**15}

    result = run_job("backup", params, origin.targets(tmp_path / "sets"), folder=tmp_path / "job")

    needed = result.check("free space in backup_sets").missed_limit
    assert needed is not None
    assert needed - 10**15 >= size > 0
    assert not result.changes
    assert find_sets(tmp_path / "sets") == []


# --- WAL --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "wal", "missing"),
    [
        # Segments of 16 MiB: 0/2000028 is in the one with number 2.
        (0x2000028, 0x2000100, {"000000010000000000000002": 1 << 24}, []),
        (0x2000028, 0x3000000, {"000000010000000000000002": 1 << 24}, []),  # the end is the first byte after it
        (
            0x2000028,
            0x3000001,
            {"000000010000000000000002": 1 << 24, "000000010000000000000004": 1 << 24},
            ["000000010000000000000003"],
        ),
        (0x2000028, 0x3000001, {"000000010000000000000002": 1 << 24}, ["a part of the 2 files of timeline 1"]),
        # 256 of them have the same second part of the name.
        (
            0xFF000028,
            0x100000028,
            {"0000000100000000000000FF": 1 << 24, "000000010000000000000001": 1 << 24},
            ["000000010000000100000000"],
        ),
        # What a file that is no backup may have.
        (0, (1 << 64) - 1, {"000000010000000000000002": 1}, ["00000001…"]),
        (0, (1 << 64) - 1, {"000000010000000000000002": 1 << 24}, ["a part of the 1099511627776 files of timeline 1"]),
        (0x2000028, 0x2000100, {"000000010000000000000003": 1 << 24}, ["000000010000000000000002"]),
        (0x2000028, 0x2000100, {}, ["00000001…"]),
    ],
)
def test_missing_files_of_wal_are_named(start: int, end: int, wal: dict[str, int], missing: list[str]) -> None:
    assert missing_segments(1, start, end, wal) == missing
