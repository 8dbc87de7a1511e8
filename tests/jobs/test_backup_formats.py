"""Formats beside tar and pg_dump's: what is read, what is unknown, and what is never sound."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psycopg
import pytest
import yaml
import zstandard
from support import sample_backups as made
from support.job_runs import JobResult, run_job
from support.servers.postgres import BIN, PostgresServer

from maintd.checks.backups.crc import crc64_redis
from maintd.checks.backups.pgdump_custom import walk_custom
from maintd.checks.backups.stream import Reader
from maintd.model.evidence import CheckStatus

OK, FAIL, UNKNOWN, WARN = CheckStatus.OK, CheckStatus.FAIL, CheckStatus.UNKNOWN, CheckStatus.WARN
TAR = made.tar_of(made.SECRETS)


def verify(root: Path, **params: object) -> JobResult:
    return run_job("backup_verify", {"root": str(root), **params})


NOTHING = {
    "a.gz": gzip.compress(b""),
    "a.sql.gz": gzip.compress(b""),
    "a.sql.zst": zstandard.ZstdCompressor().compress(b""),
    "a.tar.xz": lzma.compress(b""),
    "a.tar.bz2": bz2.compress(b""),
    "a.tar.gz": gzip.compress(made.tar_of({})),
}


@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("level", ["age", "checksum", "decode"])
def test_a_compressed_nothing_fails_at_every_level(name: str, level: str, tmp_path: Path) -> None:
    made.write(tmp_path / name, NOTHING[name], summed=True)

    result = verify(tmp_path, level=level)

    assert result.outcome == "failed", result.text()


@pytest.mark.parametrize(("suffix", "pack"), [("xz", lzma.compress), ("bz2", bz2.compress)])
def test_xz_and_bzip2_are_read_to_their_end(suffix: str, pack: object, tmp_path: Path) -> None:
    data = pack(TAR)  # type: ignore[operator]
    made.write(tmp_path / f"sound.tar.{suffix}", data + data[:0])
    made.write(tmp_path / f"cut.tar.{suffix}", data[:-9])
    made.write(tmp_path / f"junk.tar.{suffix}", data + b"junk")
    made.write(tmp_path / f"flipped.tar.{suffix}", made.flipped(data, len(data) // 2))

    result = verify(tmp_path)

    assert result.check(f"sound.tar.{suffix}: decoded").status is OK
    for name in ("cut", "junk", "flipped"):
        assert "damaged" in str(result.check(f"{name}.tar.{suffix}: decoded").observed)


@pytest.mark.parametrize("content", [b"pg_dump: error: connection refused\n", b"<html>503</html>", os.urandom(3000)])
def test_content_of_no_known_format_is_unknown_unless_it_is_expected(content: bytes, tmp_path: Path) -> None:
    made.write(tmp_path / "db.gz", gzip.compress(content), summed=True)

    unasked, expected = verify(tmp_path), verify(tmp_path, expect={"db.gz": {"kind": "data.gz"}})

    assert unasked.check("db.gz: decoded").status is UNKNOWN
    assert expected.outcome == "succeeded", expected.text()


@pytest.mark.parametrize("name", ["gitea.rar", "vault.kdbx", "vm.qcow2", "home.7z", "mail", "db.bak", "x.lzo"])
def test_files_of_a_kind_that_is_not_read_are_named_and_unknown(name: str, tmp_path: Path) -> None:
    made.write(tmp_path / "a.tar.gz", made.gz(TAR), summed=True)
    made.write(tmp_path / name, b"x" * 100)

    found, excluded = verify(tmp_path), verify(tmp_path, exclude=[name])

    (check,) = found.named("kinds of files")
    assert (check.status, found.outcome) == (UNKNOWN, "unknown")
    assert name in str(check.observed)
    assert excluded.outcome == "succeeded", excluded.text()


def test_notes_checksums_and_files_outside_of_the_patterns_are_no_backups(tmp_path: Path) -> None:
    made.write(tmp_path / "a.tar.gz", made.gz(TAR), summed=True)
    for name in ("README", "notes.txt", "backup.log", ".lock", "a.tar.gz.sig"):
        made.write(tmp_path / name, b"x")
    made.write(tmp_path / "other.zip", b"x")

    result = verify(tmp_path, patterns=["*.tar.gz"])

    assert result.outcome == "succeeded", result.text()


def test_an_expected_file_of_another_kind_is_found_and_its_age_and_checksum_are_verified(tmp_path: Path) -> None:
    made.write(tmp_path / "vault.sqlite3", b"SQLite format 3\0" * 9, summed=True)

    result = verify(tmp_path, expect={"vault*.sqlite3": {"kind": "data"}})

    assert result.outcome == "succeeded", result.text()
    assert result.check("vault.sqlite3: sha256").status is OK


REPOSITORIES = {
    "pgBackRest": ["backup/demo/backup.info", "backup/demo/20261129-020000F/pg_data/base/5/2600.gz", "archive/x.gz"],
    "restic": ["config", "keys/ab", "data/00/11", "index/aa", "snapshots/bb"],
    "Borg": ["config", "README", "data/0/1", "index.5", "hints.5"],
    "Barman": ["base/20261129T020000/backup.info", "base/20261129T020000/data.tar.gz", "wals/0000/x.gz"],
    "Kopia": ["kopia.repository.f", "p12/x.f"],
    "duplicity": ["duplicity-full.20261129T020000Z.vol1.difftar.gz", "duplicity-full.20261129T020000Z.manifest"],
    "WAL archive": ["000000010000000000000007.gz", "000000010000000000000008.gz", "00000002.history"],
    "mongodump": ["shop/orders.bson.gz", "shop/orders.metadata.json.gz", "admin/x.bson.gz"],
    "XtraBackup or mariabackup": ["xtrabackup_checkpoints", "ibdata1", "shop/a.ibd"],
}


@pytest.mark.parametrize("program", REPOSITORIES)
@pytest.mark.parametrize("below", ["", "repo/"])
def test_the_repository_of_another_program_is_one_backup_and_unknown(program: str, below: str, tmp_path: Path) -> None:
    root = tmp_path / "b"
    root.mkdir(mode=0o700)
    for name in REPOSITORIES[program]:
        made.write(root / f"{below}{name}", made.gz(b"x"))

    result = verify(root)

    (found,) = result.named("backups in")
    assert found.observed == 1, result.text()
    (check,) = result.named(": decoded")
    assert (check.status, result.outcome) == (UNKNOWN, "unknown")
    assert program in str(check.observed)


@pytest.mark.parametrize("program", [name for name in REPOSITORIES if not name.startswith("XtraBackup")])
def test_a_repository_in_the_root_does_not_hide_the_backups_beside_it(program: str, tmp_path: Path) -> None:
    for name in REPOSITORIES[program]:
        made.write(tmp_path / name, b"x")
    made.write(tmp_path / "postgres" / "cut.tar.gz", made.gz(TAR)[:-9])

    result = verify(tmp_path)

    assert result.check("postgres/cut.tar.gz: decoded").status is FAIL, result.text()


def test_numbered_data_files_are_no_dump_unless_they_look_like_one(tmp_path: Path) -> None:
    made.write(tmp_path / "one" / "1.dat", b"x")
    made.write(tmp_path / "two" / "3374.dat.gz", made.gz(b"x"))
    made.write(tmp_path / "three" / "blobs.toc", b"")

    result = verify(tmp_path)

    assert "one/1.dat" in str(result.named("kinds of files")[0].observed)
    assert [result.check(f"{name}: decoded").status for name in ("two", "three")] == [FAIL, FAIL]


@pytest.mark.server
@pytest.mark.parametrize("options", [(), ("-Z0",), ("--inserts",)])
def test_a_directory_dump_is_one_backup_and_read_file_by_file(
    options: tuple[str, ...], postgres_server: PostgresServer, tmp_path: Path
) -> None:
    database = f"folder{os.getpid()}"
    made.trading(postgres_server, database)
    folder = tmp_path / "b" / "shop"
    folder.parent.mkdir()
    try:
        with psycopg.connect(postgres_server.url(database), autocommit=True) as conn:
            conn.execute("SELECT lo_from_bytea(0, repeat('large object', 1000)::bytea)")
        made.dump(postgres_server, database, "-Fd", "-f", str(folder), *options)
    finally:
        postgres_server.drop(database)
    rows = {} if options == ("--inserts",) else {"tables": {"audit_events": 2000, "pnl_days": 30}}
    expect = {"shop": rows}

    sound = verify(folder.parent, expect=expect, pg_bin=str(BIN))
    table = max(folder.glob("*.dat*"), key=lambda path: path.stat().st_size)
    data = table.read_bytes()
    table.write_bytes(data[: len(data) // 2])
    cut = verify(folder.parent)
    table.unlink()
    missing = verify(folder.parent)
    table.write_bytes(data)
    (folder / "toc.dat").unlink()
    stopped = verify(folder.parent)

    assert sound.check("shop: decoded").status is OK, sound.text()
    assert not [check for check in sound.checks if check.status is FAIL], sound.text()
    assert cut.check("shop: decoded").status is FAIL
    assert "missing" in str(missing.check("shop: decoded").observed)
    assert "toc.dat" in str(stopped.check("shop: decoded").observed)
    assert stopped.named("backups in")[0].observed == 1


@pytest.mark.server
def test_a_dump_of_an_empty_database_is_not_a_backup(postgres_server: PostgresServer, tmp_path: Path) -> None:
    database = f"empty{os.getpid()}"
    postgres_server.create(database)
    try:
        for name, options in {"a.dump": ("-Fc",), "b.dump": ("-Fc", "-C"), "c.sql": ()}.items():
            made.write(tmp_path / name, made.dump(postgres_server, database, *options), summed=True)
    finally:
        postgres_server.drop(database)

    result = verify(tmp_path)

    for name in ("a.dump", "b.dump", "c.sql"):
        assert result.check(f"{name}: entries").status is FAIL, result.text()


@pytest.mark.server
def test_a_dump_is_read_however_pg_dump_was_to_write_its_file(postgres_server: PostgresServer, tmp_path: Path) -> None:
    """pg_dump ends by writing its table of contents again: in place, or, where it appends, after the data."""
    database = f"shop{os.getpid()}"
    made.trading(postgres_server, database)
    pg_dump = [BIN / "pg_dump", "-Fc", "-d", postgres_server.url(database)]
    try:
        piped = made.dump(postgres_server, database, "-Fc")
        subprocess.run([*pg_dump, "-f", tmp_path / "f.dump"], check=True)
        for name, mode in {"to.dump": "wb", "appended.dump": "ab"}.items():
            with (tmp_path / name).open(mode) as file:
                subprocess.run(pg_dump, stdout=file, check=True)
    finally:
        postgres_server.drop(database)
    appended = (tmp_path / "appended.dump").read_bytes()
    assert len(appended) > len(piped), "it has a second table of contents"
    variants = {
        "piped": piped,
        "cut": appended[:-100],
        "more": appended + b"x",
        "again": appended + appended[len(piped) :],
        "other": made.flipped(appended, len(appended) - 3),  # the last place of a data block
        "zeros": piped + bytes(5),
    }
    for name, data in variants.items():
        made.write(tmp_path / f"{name}.dump", data)
    for path in tmp_path.glob("*.dump"):
        path.chmod(0o600)

    result = verify(tmp_path)

    for name in ("f", "to", "appended", "piped"):
        assert result.check(f"{name}.dump: decoded").status is OK, result.text()
    for name in ("cut", "more", "again", "other", "zeros"):
        assert result.check(f"{name}.dump: decoded").status is FAIL, result.text()


@pytest.mark.server
def test_compressed_rows_of_a_dump_are_read_to_their_end_and_junk_after_them_is_damage(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """Rows that compress well: much of the output is still to come when the last of the input was given."""
    database = f"alike{os.getpid()}"
    url = postgres_server.create(database)
    try:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("CREATE TABLE alike AS SELECT repeat('a', 200) AS text FROM generate_series(1, 60000)")
        subprocess.run([BIN / "pg_dump", "-Fc", "-d", url, "-f", tmp_path / "sound.dump"], check=True)
    finally:
        postgres_server.drop(database)
    sound = (tmp_path / "sound.dump").read_bytes()
    dump = walk_custom(Reader(iter([sound])))
    size_at = end = dump.data[0].offset + 6  # of the first piece of the only table
    while size := int.from_bytes(sound[end + 1 : end + 5], "little"):
        size_at, end = end, end + 5 + size
    size = int.from_bytes(sound[size_at + 1 : size_at + 5], "little")
    variants = {
        "own": sound[:end] + _piece_size(4) + b"junk" + sound[end:],
        "within": sound[:size_at] + _piece_size(size + 4) + sound[size_at + 5 : end] + b"junk" + sound[end:],
        "cut": sound[:size_at] + _piece_size(size - 6) + sound[size_at + 5 : end - 6] + sound[end:],
    }
    for name, data in variants.items():
        made.write(tmp_path / f"{name}.dump", data)
    (tmp_path / "sound.dump").chmod(0o600)

    result = verify(tmp_path)

    assert dump.rows == {"public.alike": 60000}
    assert result.check("sound.dump: decoded").status is OK, result.text()
    for name in variants:
        assert result.check(f"{name}.dump: decoded").status is FAIL, result.text()
        assert 'the data of "public.alike"' in str(result.check(f"{name}.dump: decoded").observed)


def _piece_size(size: int) -> bytes:
    return b"\0" + size.to_bytes(4, "little")


@pytest.mark.server
def test_a_dump_of_the_roles_is_a_backup_and_one_cut_between_two_databases_is_damaged(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    whole = made.dump_all(postgres_server)
    roles = subprocess.run(
        [BIN / "pg_dumpall", "--globals-only", "-d", postgres_server.url("postgres")], check=True, capture_output=True
    ).stdout
    end = whole.index(b"-- PostgreSQL database dump complete") + len(b"-- PostgreSQL database dump complete\n")
    made.write(tmp_path / "globals.sql", roles, summed=True)
    made.write(tmp_path / "cut.sql", whole[:end] + b"--\n")

    result = verify(tmp_path)

    assert result.check("globals.sql: entries").status is OK
    assert result.check("cut.sql: decoded").status is FAIL


MYSQL = b"-- MySQL dump 10.13  Distrib 8.0.40, for Linux (x86_64)\n--\nCREATE TABLE `a` (\n);\nINSERT INTO `a` VALUES"
MARIADB = b"/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump 10.19  Distrib 11.4.2\nCREATE TABLE `a` (\n);\n"
SQLITE = b"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCREATE TABLE a (x int);\nINSERT INTO a VALUES(1);\n"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (MYSQL + b" (1),(2);\n-- Dump completed on 2026-11-28  2:00:05\n", OK),
        (MYSQL + b" (1),(2);\n-- Dump completed\n", OK),
        (MYSQL + b" (1),(2", FAIL),
        (MARIADB + b"-- Dump completed on 2026-11-28  2:00:05\n", OK),
        (MARIADB, FAIL),
        (SQLITE + b"COMMIT;\n", OK),
        (SQLITE + b"ROLLBACK; -- due to errors\n", FAIL),
        (SQLITE, FAIL),
        (b"CREATE TABLE a (x int);\nINSERT INTO a VALUES (1);\n", UNKNOWN),
        (b"-- phpMyAdmin SQL Dump\nCREATE TABLE `a` (x int);\n", UNKNOWN),
        (b"mysqldump: Got error: 2002: Can't connect\n", UNKNOWN),
    ],
)
def test_sql_of_other_programs_is_verified_by_their_own_closing_line_or_unknown(
    text: bytes, status: CheckStatus, tmp_path: Path
) -> None:
    made.write(tmp_path / "a.sql.gz", made.gz(text))

    result = verify(tmp_path)

    assert result.check("a.sql.gz: decoded").status is status, result.text()


def base(folder: Path, start: str, files: Mapping[str, bytes], since: str = "") -> Path:
    """Write a base backup in plain format with its manifest."""
    label = f"START WAL LOCATION: {start} (file 000000010000000000000007)\n"
    label += f"INCREMENTAL FROM LSN: {since}\nINCREMENTAL FROM TLI: 1\n" if since else ""
    rows = []
    for name, data in {"backup_label": label.encode(), **files}.items():
        made.write(folder / name, data)
        listed = {"Path": name, "Size": len(data), "Checksum-Algorithm": "SHA256"}
        rows.append(json.dumps(listed | {"Checksum": hashlib.sha256(data).hexdigest()}))
    ranges = f'{{"Timeline": 1, "Start-LSN": "{start}", "End-LSN": "{start}0"}}'
    body = '{ "PostgreSQL-Backup-Manifest-Version": 2,\n"System-Identifier": 77,\n"Files": [\n' + ",\n".join(rows)
    body += f'\n],\n"WAL-Ranges": [\n{ranges}\n],\n'
    made.write(folder / "pg_wal" / "000000010000000000000007", b"w")
    made.write(
        folder / "backup_manifest",
        f'{body}"Manifest-Checksum": "{hashlib.sha256(body.encode()).hexdigest()}"}}\n'.encode(),
    )
    return folder


CHAINS = {
    "complete": (
        [("full", "0/2000028", ""), ("incr", "0/4000028", "0/2000028"), ("last", "0/6000028", "0/4000028")],
        OK,
    ),
    "alone": ([("last", "0/6000028", "0/4000028")], FAIL),
    "a gap": ([("full", "0/2000028", ""), ("last", "0/6000028", "0/4000028")], FAIL),
    "no full one": ([("incr", "0/4000028", "0/2000028"), ("last", "0/6000028", "0/4000028")], FAIL),
    "a circle": ([("incr", "0/4000028", "0/6000028"), ("last", "0/6000028", "0/4000028")], FAIL),
}


@pytest.mark.parametrize("name", CHAINS)
def test_an_incremental_base_backup_needs_all_that_it_builds_on(name: str, tmp_path: Path) -> None:
    chain, status = CHAINS[name]
    for folder, start, since in chain:
        base(tmp_path / folder, start, {"base/5/INCREMENTAL.1": b"x"} if since else {"base/5/1": b"x"}, since)

    result = verify(tmp_path)

    assert result.check("last: builds on").status is status, result.text()


def test_an_incremental_base_backup_without_its_origin_in_the_label_fails(tmp_path: Path) -> None:
    base(tmp_path / "last", "0/6000028", {"base/5/INCREMENTAL.1": b"x"})

    assert verify(tmp_path).check("last: files unlike the manifest").status is FAIL


@pytest.mark.parametrize("link", ["extra", "base/5/1", "base.tar", "pg_tblspc/16384"])
def test_a_link_in_a_base_backup_is_not_followed_and_nothing_of_its_target_is_shown(link: str, tmp_path: Path) -> None:
    secret = made.write(tmp_path / "elsewhere" / "secret", b"password of somebody else")
    folder = base(tmp_path / "b" / "day1", "0/2000028", {"base/5/1": secret.read_bytes(), "base/5/2": b"x"})
    path = folder / link
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(secret.parent if link.startswith("pg_tblspc") else secret)

    result = verify(tmp_path / "b")

    assert result.check("day1: links").status is UNKNOWN, result.text()
    assert result.outcome in ("failed", "unknown")
    assert hashlib.sha256(secret.read_bytes()).hexdigest() not in result.text()
    assert result.check("day1: files").observed == (3 if link != "base/5/1" else 2)


def test_a_changed_file_is_named_without_its_hash(tmp_path: Path) -> None:
    folder = base(tmp_path / "b" / "day1", "0/2000028", {"base/5/1": b"x"})
    (folder / "base/5/1").write_bytes(b"y")

    result = verify(tmp_path / "b")

    assert result.check("day1: files unlike the manifest").status is FAIL
    assert hashlib.sha256(b"y").hexdigest() not in result.text()


def test_a_site_that_writes_no_checksums_is_not_unknown_for_it(tmp_path: Path) -> None:
    made.write(tmp_path / "a" / "one.tar.gz", made.gz(TAR))
    made.write(tmp_path / "a" / "two.tar", TAR)
    made.write(tmp_path / "b" / "one.tar.gz", made.gz(TAR), summed=True)
    made.write(tmp_path / "b" / "two.tar", TAR)

    nowhere, beside = verify(tmp_path / "a", level="checksum"), verify(tmp_path / "b", level="checksum")

    assert nowhere.outcome == "succeeded", nowhere.text()
    assert nowhere.check("two.tar: sha256").status is UNKNOWN
    assert (beside.outcome, beside.check("two.tar: sha256").status) == ("unknown", UNKNOWN)


def aged(path: Path, days: float) -> Path:
    at = path.stat().st_mtime - days * 86_400
    os.utime(path, (at, at))
    return path


@pytest.mark.parametrize(
    ("copies", "statuses"),
    [
        ({"a.tar.gz": 1.0}, {"age of the newest copy": OK, "copies of another size": OK}),
        ({"a.tar.gz": 4.0}, {"age of the newest copy": FAIL, "copies of another size": OK}),
        ({"a.tar.gz": -1.0}, {"age of the newest copy": UNKNOWN, "copies of another size": OK}),
        ({"b.tar.gz": 0.0}, {"copies": FAIL}),
        ({}, {"copies": FAIL}),
    ],
)
def test_each_set_needs_a_recent_copy_in_another_place(
    copies: Mapping[str, float], statuses: Mapping[str, CheckStatus], tmp_path: Path
) -> None:
    made.write(tmp_path / "own" / "a.tar.gz", made.gz(TAR))
    (tmp_path / "far").mkdir()
    for name, days in copies.items():
        aged(made.write(tmp_path / "far" / name, made.gz(TAR)), days)
    folders = {name: {"path": str(tmp_path / name)} for name in ("own", "far")}

    params = {"folders": ["own"], "offsite": ["far"], "level": "age"}
    result = run_job("backup_verify", params, {"folders": folders})

    assert {check.name.partition(": ")[2]: check.status for check in result.named("a.tar.gz in far")} == statuses


def test_a_copy_that_is_cut_fails_and_a_place_that_is_missing_does_not_hide_the_next(tmp_path: Path) -> None:
    made.write(tmp_path / "own" / "a.tar.gz", made.gz(TAR))
    made.write(tmp_path / "far" / "a.tar.gz", made.gz(TAR)[:-1])
    folders = {name: {"path": str(tmp_path / name)} for name in ("own", "gone", "far")}

    params = {"folders": ["own"], "offsite": ["gone", "unnamed", "far"]}
    result = run_job("backup_verify", params, {"folders": folders})

    assert result.check("a.tar.gz in far: copies of another size").status is FAIL, result.text()
    assert result.check("copies in gone").status is FAIL
    assert result.check("copies in unnamed").status is UNKNOWN
    assert result.check("a.tar.gz: decoded").status is OK


def test_too_few_or_too_young_backups_warn_where_more_are_expected(tmp_path: Path) -> None:
    for day in range(3):
        aged(made.write(tmp_path / f"pg-2026-03-0{3 - day}.tar.gz", made.gz(TAR)), day)
    wide, narrow = {"kept": 3, "max_age": "1000d"}, {"kept": 7, "max_age": "1000d", "reach": "1000d"}

    enough = verify(tmp_path, level="age", expect={"pg-*": wide})
    less = verify(tmp_path, level="age", expect={"pg-*": narrow})

    assert enough.check("pg-*: kept").status is OK, enough.text()
    assert not enough.named("pg-*: age of the oldest")
    assert [less.check(f"pg-*: {name}").status for name in ("kept", "age of the oldest")] == [WARN, WARN]


def test_patterns_may_be_optional_or_made_once_while_the_others_recur(tmp_path: Path) -> None:
    for name in ("pre-rotation-1.tar.gz", "secrets.tar.gz", "daily.tar.gz"):
        aged(made.write(tmp_path / name, made.gz(TAR)), 10)
    expect = {
        "pre-*": {"recurring": False},
        "secrets*": {"max_age": "35d", "warn_age": "32d"},
        "x*": {"required": False},
    }

    others, alone = verify(tmp_path, expect=expect, others="recurring"), verify(tmp_path, expect=expect)

    assert others.check("daily.tar.gz: age").status is FAIL
    assert others.check("secrets*: age").status is OK
    assert not others.named("pre-*: age") + others.named("x*")
    assert alone.outcome == "succeeded", alone.text()


def test_the_shipped_calendar_fails_without_a_backup_of_the_secrets(tmp_path: Path) -> None:
    shipped = yaml.safe_load((Path(__file__).parents[2] / "schedules.yaml").read_text())
    steps = [
        step["backup_verify"]
        for entry in shipped["entries"].values()
        for step in entry.get("steps", ())
        if isinstance(step, dict) and "backup_verify" in step
    ]
    members = {"secrets/admin_token": b"a" * 40, "secrets/postgres_password": b"b" * 16}
    made.write(tmp_path / "postgres/postgres-1.sql", b"x")
    made.write(tmp_path / "secrets/pre-rotation-20260101_000000.tar.gz", made.gz(made.tar_of(members)))

    assert len(steps) == 2
    for params in steps:
        without = verify(tmp_path, **params)
        made.write(tmp_path / "secrets/secrets-x.tar.gz", made.gz(made.tar_of(members)))
        beside = verify(tmp_path, **params)
        (tmp_path / "secrets/secrets-x.tar.gz").unlink()
        pattern = "**/secrets[-_]*.tar.gz*"
        assert without.check(f"{pattern}: backups").status is FAIL
        assert beside.check(f"{pattern}: age").status is OK, beside.text()
        assert not [check for check in beside.named("secrets/") if check.status is FAIL]


def rdb(head: bytes, body: bytes, *, sealed: bool = True) -> bytes:
    """A snapshot with its CRC, or zeros as with `rdbchecksum no`."""
    data = head + body + b"\xff"
    crc = crc64_redis()
    crc.update(data)
    return data + (crc.value.to_bytes(8, "little") if sealed else bytes(8))


KEY = b"\0\1a\1b"  # a string "a" with the value "b"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (rdb(b"REDIS0011", KEY), OK),
        (rdb(b"VALKEY080", KEY), OK),
        (rdb(b"VALKEY080", KEY, sealed=False), OK),
        (rdb(b"VALKEY080", b"\x16\1h\1\1f\1v" + bytes(8)), UNKNOWN),  # a hash with fields that expire
        (rdb(b"VALKEY081", KEY), UNKNOWN),
        (rdb(b"VALKEY081", KEY, sealed=False), UNKNOWN),
        (rdb(b"REDIS0099", KEY), UNKNOWN),
        (rdb(b"KEYDB0011", KEY), UNKNOWN),
        (rdb(b"REDIS0011", b"\xc9\1a\1b"), UNKNOWN),  # a type of another server
        (rdb(b"REDIS0011", b"\1\1a\x7f\xff" + KEY), UNKNOWN),  # a list that reaches beyond the end
        (rdb(b"REDIS0011", b"\1\1a\x7f\xff" + KEY, sealed=False), FAIL),
        (made.flipped(rdb(b"VALKEY080", KEY), 11), FAIL),
        (rdb(b"VALKEY080", KEY)[:-3], FAIL),
        (b"nothing of the kind" * 9, FAIL),
    ],
)
def test_a_snapshot_whose_crc_is_right_is_never_damaged(data: bytes, status: CheckStatus, tmp_path: Path) -> None:
    made.write(tmp_path / "a.rdb", data)

    assert verify(tmp_path).check("a.rdb: decoded").status is status


@pytest.mark.parametrize("name", ["a; touch PWNED;.tar", "$(touch PWNED).tar", "-rf.tar", "it's `x`.tar", "a\nb.tar"])
def test_a_command_in_a_hint_quotes_the_name_of_a_backup(name: str, tmp_path: Path) -> None:
    made.write(tmp_path / "b" / name, TAR).chmod(0o644)

    result = verify(tmp_path / "b")

    for text in (result.named(": sha256")[0].hint, result.named(": mode")[0].hint):
        command = text.partition("run: ")[2].partition(" > ")[0]
        subprocess.run(["sh", "-c", command], cwd=tmp_path / "b", check=False, capture_output=True)
        words = shlex.split(command)
        assert words[-1].endswith(".tar")
        assert len(words) == 3
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [name]
