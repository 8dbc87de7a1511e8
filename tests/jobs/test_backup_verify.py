"""Backups of every format, made by the real programs, intact and damaged, as the job reports them."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import sample_backups as made
from support.job_runs import JobResult, run_job
from support.servers.postgres import BIN, PostgresServer
from support.servers.redis import redis

from maintd.job.attempt_info import Point
from maintd.model.evidence import CheckStatus

TAR = made.tar_of({**made.SECRETS, "config/app.yml": made.noise(40_000)})


def verify(root: Path, *, series: Mapping[str, Any] | None = None, **params: Any) -> JobResult:
    return run_job("backup_verify", {"root": str(root), **params}, series=series)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return made.write(tmp_path / "key.txt", str(made.IDENTITY).encode())


@dataclass(frozen=True)
class Made:
    """One sound backup of each format. `base` is a folder."""

    files: dict[str, bytes]
    base: Path


@pytest.fixture(scope="module")
def backups(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    database = f"backups{os.getpid()}"
    made.trading(postgres_server, database)
    try:
        with redis() as server:
            snapshot = made.snapshot(server)
        plain = made.dump(postgres_server, database)
        base = tmp_path_factory.mktemp("base") / "nightly"
        made.base_backup(postgres_server, base, "-Ft", "-z")
        yield Made(
            {
                "secrets.tar.gz": made.gz(TAR),
                "secrets.tar.zst": made.zst(TAR),
                "secrets.tar.gz.age": made.age(made.gz(TAR)),
                "trading.dump": made.dump(postgres_server, database, "-Fc"),
                "trading.sql.gz": made.gz(plain),
                "redis.rdb": snapshot,
            },
            base,
        )
    finally:
        postgres_server.drop(database)


FORMATS = ["secrets.tar.gz", "secrets.tar.zst", "secrets.tar.gz.age", "trading.dump", "trading.sql.gz", "redis.rdb"]


@pytest.mark.server
@pytest.mark.parametrize("name", FORMATS)
def test_a_sound_backup_with_its_sha256_succeeds(name: str, backups: Made, key: Path, tmp_path: Path) -> None:
    made.write(tmp_path / "b" / name, backups.files[name], summed=True)

    result = verify(tmp_path / "b", identity=str(key))

    assert result.outcome == "succeeded", result.text()
    assert result.check(f"{name}: sha256").status is CheckStatus.OK
    assert result.check(f"{name}: decoded").status is CheckStatus.OK
    assert result.measure("backup_verified_level", set=name) == 2


@pytest.mark.server
@pytest.mark.parametrize("name", FORMATS)
def test_the_sha256_detects_all_of_twenty_flipped_bits(name: str, backups: Made, tmp_path: Path) -> None:
    draw, data = random.Random(name), backups.files[name]
    made.write(tmp_path / name, data, summed=True)

    for _ in range(20):
        made.write(tmp_path / name, made.flipped(data, draw.randrange(len(data)), draw.randrange(8)))
        result = verify(tmp_path, level="checksum")
        assert result.check(f"{name}: sha256").status is CheckStatus.FAIL, result.text()


@pytest.mark.server
@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_backup_fails_without_a_sha256(name: str, backups: Made, key: Path, tmp_path: Path) -> None:
    data = backups.files[name]
    made.write(tmp_path / "b" / name, data[: len(data) // 2])

    result = verify(tmp_path / "b", identity=str(key))

    assert "damaged" in str(result.check(f"{name}: decoded").observed), result.text()
    assert result.measure("backup_verified_level", set=name) == 0


@pytest.mark.server
def test_a_base_backup_is_compared_with_its_manifest(backups: Made, tmp_path: Path) -> None:
    (tmp_path / "b").symlink_to(backups.base.parent)

    result = verify(tmp_path / "b", level="checksum")

    assert result.outcome == "succeeded", result.text()
    assert result.check("nightly: files unlike the manifest").observed == 0
    # A fresh cluster has about a thousand files in each of its three databases' folders together.
    assert int(str(result.check("nightly: files").observed)) > 500


@pytest.mark.server
def test_a_flipped_byte_in_a_plain_base_backup_fails_as_with_pg_verifybackup(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    base = made.base_backup(postgres_server, tmp_path / "b" / "day1", "-Fp", "-X", "stream")
    table = max((base / "base").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    sound = verify(tmp_path / "b", pg_bin=str(BIN))
    table.write_bytes(made.flipped(table.read_bytes(), 5000))

    result = verify(tmp_path / "b", pg_bin=str(BIN))

    assert sound.outcome == "succeeded", sound.text()
    assert sound.check("day1: pg_verifybackup").status is CheckStatus.OK
    assert result.check("day1: files unlike the manifest").observed == 1
    assert "checksum mismatch" in str(result.check("day1: pg_verifybackup").observed)


@pytest.mark.server
def test_a_checksum_file_covers_the_wal_that_the_manifest_excludes(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    root = tmp_path / "b"
    base = made.base_backup(postgres_server, root / "day1", "-Fp", "-X", "stream")
    segment = max((base / "pg_wal").iterdir(), key=lambda path: path.stat().st_size)
    sums = subprocess.run(
        ["find", "day1", "-type", "f", "-exec", "sha256sum", "{}", "+"], cwd=root, check=True, capture_output=True
    )
    (root / "day1.sha256").write_bytes(sums.stdout)
    sound = verify(root, level="checksum")
    segment.write_bytes(made.flipped(segment.read_bytes(), segment.stat().st_size - 5))
    (base / "PG_VERSION").rename(base / "PG_VERSION.bak")

    result = verify(root, level="checksum")

    assert sound.check("day1: files unlike their sha256").observed == 0, sound.text()
    check = result.check("day1: files unlike their sha256")
    assert (check.observed, check.status) == (3, CheckStatus.FAIL)  # the WAL, one that is new, one that is missing
    assert result.measure("backup_verified_level", set="day1") == 0


@pytest.mark.server
def test_tables_and_rows_of_dumps_are_compared_with_what_is_expected(backups: Made, tmp_path: Path) -> None:
    for name in ("trading.dump", "trading.sql.gz"):
        made.write(tmp_path / name, backups.files[name], summed=True)
    tables = {"public.audit_events": 2000, "pnl_days": 31, "public.migrations": 0, "trades": 1}

    result = verify(tmp_path, pg_bin=str(BIN), expect={"trading.*": {"tables": tables}}, newest=2)

    for name in ("trading.dump", "trading.sql.gz"):
        checks = [result.check(f"{name}: rows of {table}") for table in tables]
        assert [(check.observed, check.status) for check in checks] == [
            (2000, CheckStatus.OK),
            (30, CheckStatus.FAIL),  # one less than expected
            (0, CheckStatus.OK),
            ("not in the dump", CheckStatus.FAIL),
        ], result.text()
    assert result.check("trading.dump: pg_restore").status is CheckStatus.OK


@pytest.mark.server
def test_a_schema_only_dump_is_not_a_backup(postgres_server: PostgresServer, tmp_path: Path) -> None:
    database = f"schema{os.getpid()}"
    made.trading(postgres_server, database, rows=5)
    try:
        dump = made.dump(postgres_server, database, "-Fc", "--schema-only")
        inserts = made.dump(postgres_server, database, "-Fc", "--inserts")
    finally:
        postgres_server.drop(database)
    made.write(tmp_path / "schema.dump", dump, summed=True)
    made.write(tmp_path / "inserts.dump", inserts, summed=True)

    result = verify(tmp_path, expect={"*.dump": {"tables": {"audit_events": 1}}}, newest=2)

    assert result.check("schema.dump: rows of audit_events").status is CheckStatus.FAIL
    assert result.check("inserts.dump: rows of audit_events").status is CheckStatus.UNKNOWN


def test_the_members_of_a_secrets_archive_are_validated(tmp_path: Path) -> None:
    members = {**made.SECRETS, "secrets/slack_bot_token": b""}
    made.write(tmp_path / "secrets-1.tar.gz", made.gz(made.tar_of(members, mode=0o644)), summed=True)
    wanted = {"admin_token": 32, "postgres_password": 20, "slack_bot_token": 1, "oauth2_client_id": 1}

    result = verify(tmp_path, expect={"secrets-*": {"members": wanted}})

    name = "secrets-1.tar.gz"
    assert result.check(f"{name}: size of admin_token").status is CheckStatus.OK
    assert result.check(f"{name}: size of postgres_password").status is CheckStatus.FAIL  # it has 15 bytes
    assert result.check(f"{name}: size of slack_bot_token").observed == 0
    assert result.check(f"{name}: member oauth2_client_id").observed == "missing"
    mode = result.check(f"{name}: mode of admin_token")
    assert (mode.observed, mode.expected, mode.status) == ("644", "600", CheckStatus.WARN)


def test_no_backup_at_all_fails(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a backup")

    result = verify(tmp_path)

    assert result.outcome == "failed"
    (check,) = result.named("backups in")
    assert (check.observed, check.status) == (0, CheckStatus.FAIL)
    assert "check the job that makes the backups" in check.hint


def test_an_expected_pattern_without_a_backup_fails(tmp_path: Path) -> None:
    made.write(tmp_path / "secrets" / "secrets-20260301.tar.gz", made.gz(TAR), summed=True)

    result = verify(tmp_path, expect={"secrets-*.tar.gz": {}, "postgres-*.dump": {}})

    assert result.outcome == "failed"
    assert result.check("postgres-*.dump: backups").status is CheckStatus.FAIL


def test_a_missing_folder_fails_with_a_hint(tmp_path: Path) -> None:
    result = verify(tmp_path / "nowhere")

    (check,) = result.named("backups in")
    assert check.status is CheckStatus.FAIL
    assert "mount it into this container" in check.hint


@pytest.mark.parametrize("first", ["missing", "a file", "a loop", "empty", "not configured", "a link to nothing"])
def test_a_folder_without_backups_does_not_hide_a_damaged_one_in_the_next(first: str, tmp_path: Path) -> None:
    a = tmp_path / "a"
    if first == "a file":
        a.write_text("x")
    elif first in ("a loop", "a link to nothing"):
        a.symlink_to(a if first == "a loop" else tmp_path / "nothing")
    elif first == "empty":
        a.mkdir()
    made.write(tmp_path / "b" / "cut.tar.gz", made.gz(TAR)[:-9])
    names = ["b"] if first == "not configured" else ["a", "b"]
    folders = {name: {"path": str(tmp_path / name)} for name in names}

    result = run_job("backup_verify", {"folders": ["a", "b"]}, {"folders": folders})

    assert result.error is None, result.text()
    assert result.check("backups in a").status in (CheckStatus.FAIL, CheckStatus.UNKNOWN)
    assert "damaged" in str(result.check("cut.tar.gz: decoded").observed)


def test_an_unforeseen_error_in_one_backup_does_not_hide_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maintd.checks.backups import verify as verifying

    really = verifying.read_archive

    def broken(path: Path, **options: Any) -> Any:
        if path.name == "a.tar.gz":
            raise ZeroDivisionError("odd")
        return really(path, **options)

    monkeypatch.setattr(verifying, "read_archive", broken)
    made.write(tmp_path / "a.tar.gz", made.gz(TAR))
    made.write(tmp_path / "z.tar.gz", made.gz(TAR)[:-9])

    result = verify(tmp_path)

    assert result.check("a.tar.gz: readable").status is CheckStatus.UNKNOWN
    assert "damaged" in str(result.check("z.tar.gz: decoded").observed)


def test_a_key_or_data_folder_that_cannot_be_read_is_unknown_and_the_rest_is_verified(tmp_path: Path) -> None:
    made.write(tmp_path / "b" / "a.tar.gz", made.gz(TAR))

    result = verify(tmp_path / "b", identity=str(tmp_path / "nokey"), data=[str(tmp_path / "nodata")])

    assert result.check("identity").status is CheckStatus.UNKNOWN
    assert result.named("data in")[0].status is CheckStatus.UNKNOWN
    assert result.check("a.tar.gz: decoded").status is CheckStatus.OK


def test_a_guest_whose_backups_ended_fails_beside_one_that_continues(tmp_path: Path) -> None:
    for guest, days in (("101", 0), ("102", 40)):
        at = datetime.now(UTC) - timedelta(days=days, hours=1)
        path = made.write(tmp_path / f"vzdump-lxc-{guest}-{at:%Y_%m_%d-%H_%M_%S}.tar.gz", made.gz(TAR))
        os.utime(path, (at.timestamp(), at.timestamp()))

    result = verify(tmp_path, level="age")

    assert result.check("vzdump-lxc-101-#.tar.gz: age").status is CheckStatus.OK
    assert result.check("vzdump-lxc-102-#.tar.gz: age").status is CheckStatus.FAIL


@pytest.mark.parametrize(
    ("hours", "status"),
    [(1, CheckStatus.OK), (30, CheckStatus.WARN), (51, CheckStatus.FAIL), (-2, CheckStatus.UNKNOWN)],
)
def test_age_warns_after_26_hours_and_fails_after_50(hours: int, status: CheckStatus, tmp_path: Path) -> None:
    path = made.write(tmp_path / "a.tar.gz", made.gz(TAR))
    at = (datetime.now(UTC) - timedelta(hours=hours)).timestamp()
    os.utime(path, (at, at))

    result = verify(tmp_path, level="age")

    assert result.check("a.tar.gz: age").status is status, result.text()


def test_an_old_backup_that_was_copied_is_not_recent(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    made.write(tmp_path / f"pg-{now - timedelta(days=9):%Y%m%d-%H%M%S}.tar.gz", made.gz(TAR))
    old = now - timedelta(days=3)
    path = made.write(tmp_path / f"pg-{old:%Y%m%d-%H%M%S}.tar.gz", made.gz(TAR))
    os.utime(path, (old.timestamp(), old.timestamp()))

    result = verify(tmp_path, level="age")

    assert result.check("pg-#.tar.gz: age").status is CheckStatus.FAIL
    assert result.check("pg-#.tar.gz: names and times").status is CheckStatus.WARN


def test_a_backup_that_others_can_read_warns_with_the_chmod_command(tmp_path: Path) -> None:
    made.write(tmp_path / "a.tar.gz", made.gz(TAR)).chmod(0o644)

    mode = verify(tmp_path, level="age", data=[str(tmp_path)])

    check = mode.check("a.tar.gz: mode")
    assert (check.observed, check.expected, check.status) == ("644", "600", CheckStatus.WARN)
    assert "chmod go=" in check.hint
    assert mode.check("a.tar.gz: kept on").status is CheckStatus.WARN


def test_without_a_sha256_only_a_format_with_a_checksum_is_verified(tmp_path: Path) -> None:
    made.write(tmp_path / "sealed.tar.gz", made.gz(TAR))
    made.write(tmp_path / "open.tar", TAR)
    made.write(tmp_path / "open.tar.zst", made.zst(TAR, checksum=False))

    decoded, summed = verify(tmp_path), verify(tmp_path, level="checksum")

    assert not decoded.named("sealed.tar.gz: sha256")
    assert decoded.check("open.tar: sha256").status is CheckStatus.UNKNOWN
    assert decoded.check("open.tar.zst: sha256").status is CheckStatus.UNKNOWN
    assert summed.check("sealed.tar.gz: sha256").status is CheckStatus.UNKNOWN
    assert "sha256sum" in summed.check("sealed.tar.gz: sha256").hint


def test_a_checksum_detects_two_swapped_backups(tmp_path: Path) -> None:
    one = made.write(tmp_path / "a.tar.gz", made.gz(TAR), summed=True)
    other = made.write(tmp_path / "b.tar.gz", made.gz(made.tar_of({"x": b"y"})), summed=True)
    one.rename(tmp_path / "c")
    other.rename(one)
    (tmp_path / "c").rename(other)

    result = verify(tmp_path)

    assert [check.status for check in result.named(": sha256")] == [CheckStatus.FAIL, CheckStatus.FAIL]


def test_bit_rot_is_detected_without_a_sha256(tmp_path: Path) -> None:
    path = made.write(tmp_path / "open.tar", TAR)
    first = verify(tmp_path, level="checksum")
    (seen,) = (item for item in first.measures if item.name == "backup_fingerprint")
    times = path.stat()
    path.write_bytes(made.flipped(TAR, len(TAR) - 20_000))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    history = {"backup_fingerprint": [Point(datetime.now(UTC), seen.value, seen.labels)]}

    result = verify(tmp_path, level="checksum", series=history)

    assert result.check("open.tar: unchanged").status is CheckStatus.FAIL, result.text()


def test_an_encrypted_backup_without_its_key_is_unknown_at_decode(tmp_path: Path, key: Path) -> None:
    made.write(tmp_path / "b" / "secrets.tar.gz.age", made.age(made.gz(TAR)), summed=True)

    without, with_key = verify(tmp_path / "b"), verify(tmp_path / "b", identity=str(key))

    check = without.check("secrets.tar.gz.age: decoded")
    assert check.status is CheckStatus.UNKNOWN
    assert "identity" in str(check.observed)
    assert without.measure("backup_verified_level", set="secrets.tar.gz.age") == 0
    assert with_key.outcome == "succeeded", with_key.text()


def test_members_that_leave_the_folder_warn(tmp_path: Path) -> None:
    made.write(tmp_path / "a.tar.gz", made.gz(made.tar_of({"../../etc/cron.d/x": b"x"})), summed=True)

    result = verify(tmp_path)

    assert result.check("a.tar.gz: members that leave the folder").status is CheckStatus.WARN


def test_an_empty_archive_is_not_a_backup(tmp_path: Path) -> None:
    made.write(tmp_path / "a.tar.gz", made.gz(made.tar_of({})), summed=True)

    assert verify(tmp_path).check("a.tar.gz: entries").status is CheckStatus.FAIL


def test_a_backup_much_smaller_than_before_warns(tmp_path: Path) -> None:
    made.write(tmp_path / "a.tar.gz", made.gz(TAR), summed=True)
    sizes = {"backup_bytes": [Point(datetime.now(UTC), 10e6, {"set": "a.tar.gz"}) for _ in range(3)]}

    assert verify(tmp_path, series=sizes).check("a.tar.gz: size").status is CheckStatus.WARN


def test_progress_is_reported_in_bytes_with_rate_and_time_left(tmp_path: Path) -> None:
    made.write(tmp_path / "a.tar.gz", made.gz(made.noise(3_000_000)))

    result = verify(tmp_path, level="checksum")

    size = (tmp_path / "a.tar.gz").stat().st_size
    last = result.progress[-1]
    assert (last.done, last.total, last.unit) == (size, size, "B")
    assert last.rate
    assert last.left == timedelta(0)


def test_folder_targets_are_searched_by_default(tmp_path: Path) -> None:
    made.write(tmp_path / "a.tar.gz", made.gz(TAR), summed=True)

    result = run_job("backup_verify", {}, {"folders": {"backups": {"path": str(tmp_path)}}})
    never = [run_job("backup_verify", {}, targets) for targets in ({}, {"folders": {"logs": {"path": str(tmp_path)}}})]
    named = run_job("backup_verify", {"folders": ["backup"]}, {"folders": {"backups": {"path": str(tmp_path)}}})

    assert result.outcome == "succeeded", result.text()
    assert [getattr(missing.error, "cause", "") for missing in never] == ["not_configured"] * 2
    assert (named.error, named.outcome) == (None, "unknown")
    assert "not_configured" in str(named.check("backups in backup").observed)


def test_records_of_read_backups_are_saved(tmp_path: Path) -> None:
    digest = made.write(tmp_path / "sound.tar.gz", made.gz(TAR), summed=True).with_name("sound.tar.gz.sha256")
    made.write(tmp_path / "cut.tar.gz", made.gz(TAR)[:-9])

    result = verify(tmp_path)

    (artifact,) = result.artifacts
    read = {Path(one["path"]).name: one for one in json.loads(Path(artifact.path).read_text())["backups"]}
    sound, cut = read["sound.tar.gz"], read["cut.tar.gz"]
    assert (sound["passed"], sound["kind"], sound["sha256"]) == ("decode", "tar.gz", digest.read_text()[:64])
    assert "config/app.yml" in sound["names"]
    assert sound["entries"] == len(sound["names"])
    assert (cut["passed"], bool(cut["damage"])) == ("age", True)


def test_records_are_saved_although_the_next_folder_is_empty(tmp_path: Path) -> None:
    made.write(tmp_path / "full" / "a.tar.gz", made.gz(TAR), summed=True)
    (tmp_path / "empty").mkdir()
    folders = {name: {"path": str(tmp_path / name)} for name in ("full", "empty")}

    result = run_job("backup_verify", {"folders": ["full", "empty"]}, {"folders": folders})

    assert result.outcome == "failed"
    assert [artifact.name for artifact in result.artifacts] == ["backups-read.json"]
