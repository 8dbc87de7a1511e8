"""Zip archives made by Python and by Info-ZIP's rules, and databases written by SQLite itself."""

from __future__ import annotations

import bz2
import io
import lzma
import os
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support import sample_backups as made
from support.job_runs import JobResult, run_job

from maintd.checks.backups import seekable
from maintd.checks.backups.archive import read_archive
from maintd.model.evidence import CheckStatus

OK, FAIL, UNKNOWN, WARN = CheckStatus.OK, CheckStatus.FAIL, CheckStatus.UNKNOWN, CheckStatus.WARN
MEMBERS = {"app.ini": b"a = b\n" * 50, "data/repo.bin": made.noise(60_000), "empty": b""}


def verify(root: Path, **params: object) -> JobResult:
    return run_job("backup_verify", {"root": str(root), **params})


def zip_of(members: dict[str, bytes] | None = None, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in (MEMBERS if members is None else members).items():
            archive.writestr(name, data)
    return file.getvalue()


def database(folder: Path, *, indexed: bool = True) -> bytes:
    """A database of SQLite with two tables and an index."""
    path = folder / "made.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
        connection.execute('CREATE TABLE "odd "" name" (x)')
        if indexed:
            connection.execute("CREATE INDEX by_name ON users (name)")
        connection.executemany("INSERT INTO users (name) VALUES (?)", [(f"user {n}" * 5,) for n in range(2000)])
        connection.commit()
    data = path.read_bytes()
    path.unlink()
    return data


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("name", ["a.zip", "backup", "a.zip.gz"])
def test_every_member_of_a_zip_is_read(name: str, method: int, tmp_path: Path) -> None:
    data = zip_of(method=method)
    made.write(tmp_path / name, made.gz(data) if name.endswith(".gz") else data)

    result = verify(tmp_path, expect={name: {}})

    assert result.check(f"{name}: decoded").status is OK, result.text()
    assert result.check(f"{name}: entries").observed == 3


def changed(at: bytes, offset: int = 0) -> Callable[[bytes], bytes]:
    return lambda data: made.flipped(data, data.index(at) + offset)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: made.flipped(data, data.index(b"repo.bin") + 500),
        lambda data: data[: len(data) // 2],
        lambda data: data[:-30],
        lambda data: data[:100] + data[200:],
        lambda data: b"",
        lambda data: b"x" * 100,
        changed(b"PK\x01\x02", 16),  # the CRC in the directory
    ],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_zip_fails(damage: Callable[[bytes], bytes], method: int, tmp_path: Path) -> None:
    made.write(tmp_path / "a.zip", damage(zip_of(method=method)))

    result = verify(tmp_path)

    assert result.check("a.zip: decoded").status is FAIL, result.text()


def test_a_zip_without_members_fails(tmp_path: Path) -> None:
    made.write(tmp_path / "a.zip", zip_of({}))

    assert verify(tmp_path).outcome == "failed"


def encrypted() -> bytes:
    data = bytearray(zip_of())
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + at] |= 1
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        zip_of(method=zipfile.ZIP_LZMA),
        encrypted(),
        zip_of().replace(b"PK\x01\x02", b"PK\x01\x02", 1).replace(b"\x08\x00", b"\x09\x00"),  # deflate64
    ],
    ids=["lzma", "encrypted", "deflate64"],
)
def test_a_zip_that_cannot_be_read_here_is_unknown(data: bytes, tmp_path: Path) -> None:
    made.write(tmp_path / "a.zip", data)

    found = verify(tmp_path).check("a.zip: decoded")

    assert found.status is UNKNOWN, found


def test_members_outside_of_the_folder_are_named(tmp_path: Path) -> None:
    made.write(tmp_path / "a.zip", zip_of({"../x": b"1", "/etc/passwd": b"2", "a/../../b": b"3", "fine..txt": b"4"}))

    assert len(read_archive(tmp_path / "a.zip").contents.problems) == 3  # type: ignore[union-attr]


def test_a_zip_bomb_and_a_huge_directory_are_bounded(tmp_path: Path) -> None:
    made.write(tmp_path / "bomb.zip", zip_of({"zeros": b"\0" * (200 << 20)}))
    end = b"PK\x05\x06" + b"\0" * 4 + b"\xff\xff\xff\xff" + (1 << 30).to_bytes(4, "little") + b"\0" * 6
    made.write(tmp_path / "directory.zip", b"PK\x03\x04" + b"\0" * 1000 + end)

    bomb, directory = read_archive(tmp_path / "bomb.zip"), read_archive(tmp_path / "directory.zip")

    assert (bomb.damage, "expands to more than" in bomb.unread) == ("", True)
    assert "directory" in directory.unread


def test_a_bomb_is_unknown_and_the_run_is_not_green(tmp_path: Path) -> None:
    made.write(tmp_path / "a.gz", made.gz(bytes(80 << 20)))

    result = verify(tmp_path, max_ratio=100)

    check = result.check("a.gz: decoded")
    assert (check.status, result.outcome) == (UNKNOWN, "unknown"), result.text()
    assert "expands to more than 100 times its size: not verified beyond; raise the param max_ratio" in str(
        check.observed
    )
    assert result.measure("backup_verified_level") == 0


@pytest.mark.parametrize("name", ["vault.sqlite3", "app.sqlite", "grafana.db", "vault.sqlite3.gz"])
def test_a_database_of_sqlite_is_checked_and_its_rows_are_counted(name: str, tmp_path: Path) -> None:
    data = database(tmp_path)
    made.write(tmp_path / name, made.gz(data) if name.endswith(".gz") else data)

    result = verify(tmp_path, expect={name: {}})
    reading = read_archive(tmp_path / name)

    assert result.check(f"{name}: decoded").status is OK, result.text()
    assert reading.contents is not None
    assert dict(reading.contents.rows) == {"users": 2000, 'odd " name': 0}
    assert [path.name for path in tmp_path.iterdir()] == [name]  # no journal beside it


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:4096],
        lambda data: data[:8192] + os.urandom(4096) + data[12288:],
        lambda data: data[:8192] + bytes(4096) + data[12288:],
        lambda data: made.flipped(data, 8192 + 3),  # the number of cells of a page
        lambda data: b"",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_database_fails(damage: Callable[[bytes], bytes], packed: bool, tmp_path: Path) -> None:
    data = damage(database(tmp_path))
    name = "vault.sqlite3.gz" if packed else "vault.sqlite3"
    made.write(tmp_path / name, made.gz(data) if packed else data)

    result = verify(tmp_path)

    assert result.check(f"{name}: decoded").status is FAIL, result.text()


def test_an_index_that_lacks_a_row_fails(tmp_path: Path) -> None:
    path = tmp_path / "vault.sqlite3"
    made.write(path, database(tmp_path))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("DELETE FROM sqlite_master WHERE name = 'by_name'")
        connection.commit()
        connection.execute("VACUUM")  # the database without its index …
    sound = read_archive(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE INDEX by_name ON users (name)")
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_master SET sql = 'CREATE INDEX by_name ON users (id)' WHERE name = 'by_name'")
        connection.commit()  # … and with one of other contents

    assert sound.damage == ""
    assert "by_name" in read_archive(path).damage


@pytest.mark.parametrize("kind", ["encrypted", "log beside it", "age"])
def test_what_is_not_known_of_a_database_is_unknown(kind: str, tmp_path: Path) -> None:
    data, name = database(tmp_path), "vault.sqlite3"
    if kind == "encrypted":
        data = made.noise(len(data))
    elif kind == "age":
        data, name = made.age(data), "vault.sqlite3.age"
    made.write(tmp_path / name, data)
    if kind == "log beside it":
        made.write(tmp_path / f"{name}-wal", b"x" * 100)

    reading = read_archive(tmp_path / name)

    assert (reading.damage, bool(reading.unread)) == ("", True)


def test_an_integrity_check_that_takes_too_long_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seekable, "_INTEGRITY_TIME", seekable.timedelta())
    monkeypatch.setattr(seekable, "_STEPS", 10)
    made.write(tmp_path / "vault.sqlite3", database(tmp_path))

    assert "takes longer" in read_archive(tmp_path / "vault.sqlite3").unread


def test_other_compressions_hold_them_too(tmp_path: Path) -> None:
    made.write(tmp_path / "a.zip.xz", lzma.compress(zip_of()))
    made.write(tmp_path / "b.sqlite3.bz2", bz2.compress(database(tmp_path)))

    readings = [read_archive(tmp_path / name) for name in ("a.zip.xz", "b.sqlite3.bz2")]

    assert [reading.damage or reading.unread for reading in readings] == ["", ""]
    assert [reading.kind for reading in readings] == ["zip.xz", "sqlite.bz2"]
