"""Finding backups, grouping them into sets, their age, and their recorded checksums."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support import sample_backups as made

from maintd.checks.backups import evaluate
from maintd.checks.backups.catalog import (
    Backup,
    find_backups,
    newest_first,
    path_pattern,
    recorded_sha256,
)
from maintd.checks.backups.evaluate import Expected
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus

NOW = datetime(2026, 3, 2, 3, 0, tzinfo=UTC)


def backup(name: str, *, written: datetime = NOW, size: int = 100) -> Backup:
    return Backup(Path("/b") / name, name, size, written, 0o100600, 1)


def test_backups_with_different_dates_are_one_series(tmp_path: Path) -> None:
    for name in (
        "postgres/postgres-20260301-020000.dump",
        "postgres/postgres-20260302-020000.dump",
        "20260301_020000/redis_20260301_020000.rdb",
        "20260302_020000/redis_20260302_020000.rdb",
        "notes.txt",
        "postgres/postgres-20260302-020000.dump.sha256",
    ):
        made.write(tmp_path / name, b"x")

    found = evaluate.group(find_backups(tmp_path, ["**/*"]).backups, {})

    assert sorted((one.name, len(one.backups)) for one in found) == [
        ("#/redis_#.rdb", 2),
        ("postgres/postgres-#.dump", 2),
    ]


def test_links_and_excluded_files_are_no_backups(tmp_path: Path) -> None:
    made.write(tmp_path / "a-1.tar.gz", b"x")
    made.write(tmp_path / "old/a-2.tar.gz", b"x")
    (tmp_path / "latest.tar.gz").symlink_to("a-1.tar.gz")

    found = find_backups(tmp_path, ["**/*"], ["old/**"])

    assert [one.relative for one in found.backups] == ["a-1.tar.gz"]


def test_a_base_backup_is_one_backup_whichever_pattern_finds_it(tmp_path: Path) -> None:
    for name in ("base/day1/backup_manifest", "base/day1/base.tar.gz", "base/day1/pg_wal.tar.gz", "other.tar.gz"):
        made.write(tmp_path / name, b"12345")

    for patterns in (["**/*"], ["**/*.tar.gz"], ["base/*", "*.tar.gz"]):
        found = find_backups(tmp_path, patterns).backups
        assert {(one.relative, one.folder, one.size_bytes) for one in found} == {
            ("base/day1", True, 15),
            ("other.tar.gz", False, 5),
        }


def test_a_folder_that_cannot_be_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.write(tmp_path / "a.tar.gz", b"x")
    made.write(tmp_path / "closed/b.tar.gz", b"x")
    really = os.open

    def refused(path: object, *rest: int, **more: int) -> int:
        if path == "closed":
            raise PermissionError(13, "Permission denied")
        return really(path, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refused)  # as root nothing is closed

    found = find_backups(tmp_path, ["**/*"])

    assert [one.relative for one in found.backups] == ["a.tar.gz"]
    assert found.unread == ("closed: Permission denied",)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("**/*.gz", "a.gz", True),
        ("**/*.gz", "x/y/a.gz", True),
        ("*.gz", "x/a.gz", False),
        ("secrets-*.tar.gz*", "secrets-1.tar.gz.age", True),
        ("old/**", "old/x/y", True),
        ("a[0-9].gz", "a7.gz", True),
        ("a[!0-9].gz", "a7.gz", False),
        ("a.gz", "abgz", False),
    ],
)
def test_a_pattern_is_over_the_whole_path(pattern: str, path: str, matches: bool) -> None:
    assert bool(path_pattern(pattern).fullmatch(path)) is matches


def test_a_copied_file_is_as_old_as_the_date_in_its_name() -> None:
    copied = backup("pg-20260201-020000.dump")
    fresh = backup("pg-20260302-020000.dump")
    nameless = backup("pg.dump")
    nonsense = backup("pg-20261399.dump")

    assert copied.created_at == datetime(2026, 2, 1, 2, 0, tzinfo=UTC)
    assert (fresh.created_at, nameless.created_at, nonsense.created_at) == (NOW, NOW, NOW)


def age(*backups: Backup) -> list[Criterion]:
    found = evaluate.BackupSet("a", tuple(newest_first(backups, NOW)), Expected())
    return evaluate.age_criteria(found, NOW, timedelta(hours=26), timedelta(hours=50))


def test_the_age_of_a_backup_with_a_future_time_is_unknown() -> None:
    (criterion,) = age(backup("a", written=NOW + timedelta(hours=3)))

    assert "3.0 h in the future" in criterion.unknown


@pytest.mark.parametrize("ahead", [timedelta(minutes=6), timedelta(hours=2), timedelta(days=365), timedelta(days=9000)])
@pytest.mark.parametrize("count", [1, 3])
def test_backups_from_the_future_do_not_hide_how_old_the_newest_real_one_is(ahead: timedelta, count: int) -> None:
    real = backup("pg-a.dump", written=NOW - timedelta(days=25))
    future = [backup(f"pg-{n}.dump", written=NOW + ahead) for n in range(count)]

    real_age, times = age(*future, real)

    assert (real_age.observed, real_age.status) == (timedelta(days=25), CheckStatus.FAIL)
    assert (times.name, times.status) == ("times", CheckStatus.UNKNOWN)
    assert "in the future" in times.unknown


def test_a_file_with_a_time_in_the_future_is_as_old_as_the_date_in_its_name() -> None:
    (criterion,) = age(backup("pg-20260301-020000.dump", written=NOW + timedelta(days=300)))

    assert criterion.observed == timedelta(days=1, hours=1)


@pytest.mark.parametrize(
    ("names", "series"),
    [
        # a guest's number, an address, a port, a database: names
        (["vzdump-lxc-101-2026_03_01-02_00_00.tar.gz", "vzdump-lxc-102-2026_03_01-02_00_00.tar.gz"], 2),
        (["host1001/0200.dump", "host1002/0200.dump"], 2),
        (["db-10.0.0.11-20260301.sql.gz", "db-10.0.0.12-20260301.sql.gz"], 2),
        (["shop_5432_20260301.dump", "shop_5433_20260301.dump"], 2),
        (["mon-server-20260301.tar", "sun-server-20260301.tar"], 2),
        (["pg-20261399.dump", "pg-20261398.dump"], 2),
        # dates and times
        (["shop_2026-03-01_02h00m.Sunday.sql.gz", "shop_2026-02-28_02h01m.Saturday.sql.gz"], 1),
        (["WeeklyBackup_Monday_February_19_2024.tar", "WeeklyBackup_Sunday_March_1_2026.tar"], 1),
        (["db_week.09.2026-02-28_06h25m.sql.gz", "db_week.10.2026-03-07_06h25m.sql.gz"], 1),
        (["dump-1790000000.zip", "dump-1790086400.zip"], 1),
        (["dump-1790000000123.tar", "dump-1790086400456.tar"], 1),
        (["shop-Mon.sql.gz", "shop-Tue.sql.gz"], 1),
        (["shop.2026-03-01T02:00:00Z.tar", "shop.2026-02-28T02:00:00Z.tar"], 1),
        (["01.03.2026/shop.tar", "28.02.2026/shop.tar"], 1),
        (["2026-03-01/0200.dump", "2026-03-01/1400.dump"], 1),
        (["1-Mar-2026.dump", "28-Feb-2026.dump"], 1),
        (["shop-2026-W09.tar", "shop-2026-W10.tar"], 1),
        (["shop-2026-02.tar", "shop-2026-03.tar"], 1),
    ],
)
def test_only_dates_and_times_vary_within_a_series(names: list[str], series: int) -> None:
    assert len({backup(name).series for name in names}) == series


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("vzdump-lxc-101-2026_02_01-02_00_00.tar.gz", (2026, 2, 1, 2, 0, 0)),
        ("Backup_February_19_2024.tar", (2024, 2, 19, 0, 0, 0)),
        ("19-Feb-2024.tar", (2024, 2, 19, 0, 0, 0)),
        ("01.02.2026/shop.tar", (2026, 2, 1, 0, 0, 0)),
        ("shop-1769911200.tar", (2026, 2, 1, 2, 0, 0)),
        ("shop-20260101-20260201.tar", (2026, 2, 1, 0, 0, 0)),
    ],
)
def test_the_date_in_a_name_is_read_in_many_forms(name: str, at: tuple[int, ...]) -> None:
    assert backup(name).named_at == datetime(*at, tzinfo=UTC)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["shop-2026-02.tar", "shop-2026-W05.tar", "shop-Sunday.tar", "shop-101.tar"])
def test_a_month_a_week_or_a_weekday_is_not_an_age(name: str) -> None:
    assert backup(name).named_at is None


def test_each_expectation_has_its_set_even_when_nothing_matches_it() -> None:
    found = evaluate.group(
        [backup("secrets-1.tar.gz"), backup("pre-rotation-1.tar.gz")],
        {"secrets-*": Expected(), "postgres-*.dump": Expected()},
    )

    assert [(one.name, len(one.backups), one.recurring) for one in found] == [
        ("secrets-*", 1, True),
        ("postgres-*.dump", 0, True),
        ("pre-rotation-1.tar.gz", 1, False),
    ]


def test_every_older_backup_is_read_in_rotation() -> None:
    one = evaluate.BackupSet("a", tuple(backup(f"a-{number}") for number in range(8)), Expected())

    read = [name.relative for day in range(100, 107) for name in evaluate.select_to_read(one, 1, 1, day)[1:]]

    assert sorted(read) == [f"a-{number}" for number in range(1, 8)]


def test_a_size_is_compared_with_the_median_of_earlier_ones() -> None:
    sizes = [40, 100, 102, 98, 100]
    one = evaluate.BackupSet("a", tuple(backup(f"a-{n}", size=size) for n, size in enumerate(sizes)), Expected())

    size = evaluate.metadata_criteria(one, (), private=False, data=())[0]

    assert (size.observed, size.warn_below, size.warn_above) == (40, 50, 200)  # the median of the others is 100


def test_earlier_runs_give_a_typical_size_when_few_backups_are_kept() -> None:
    one = evaluate.BackupSet("a", (backup("a-2", size=40), backup("a-1", size=400)), Expected())

    first = evaluate.metadata_criteria(one, (), private=False, data=())[0]
    later = evaluate.metadata_criteria(one, (400, 410, 390), private=False, data=())[0]

    assert (first.warn_below, later.warn_below) == (None, 200)


def test_a_sha256_is_found_beside_the_file_or_in_a_list_of_a_parent_folder(tmp_path: Path) -> None:
    sums = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a.gz", "b.gz", "sub/c.gz", "sub/d.gz")}
    for name in sums:
        made.write(tmp_path / name, name.encode())
    (tmp_path / "a.gz.sha256").write_text(f"{sums['a.gz'].upper()}\n")
    (tmp_path / "sub/SHA256SUMS").write_text(f"{'0' * 64}  d.gz\nSHA256 (d.gz) = {sums['sub/d.gz']}\n")
    (tmp_path / "SHA256SUMS").write_text(f"{sums['b.gz']} *b.gz\n{sums['sub/c.gz']}  ./sub/c.gz\n")

    for name, expected in sums.items():
        recorded = recorded_sha256(tmp_path / name, tmp_path)
        assert recorded is not None
        assert recorded.sha256 == expected


def test_a_list_without_a_line_for_the_file_is_not_the_same_as_no_list(tmp_path: Path) -> None:
    path = made.write(tmp_path / "a.gz", b"x")

    assert recorded_sha256(path, tmp_path) is None
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  z/a.gz\n")
    recorded = recorded_sha256(path, tmp_path)
    assert recorded is not None
    assert recorded.sha256 is None
