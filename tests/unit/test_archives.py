"""Reading backup files to the last byte: damage is detected wherever the format allows it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support import sample_backups as made

from maintd.checks.backups.age_encryption import read_identities
from maintd.checks.backups.archive import kind_by_name, read_archive
from maintd.checks.backups.crc import crc32c, crc64_redis
from maintd.checks.backups.pgdump_plain import PlainDump, walk_sql
from maintd.checks.backups.stream import DamagedError, ExpansionLimits, Reader

PLAIN = made.tar_of({**made.SECRETS, "big": made.noise(300_000)})
PACKED = {
    "a.tar": PLAIN,
    "a.tar.gz": made.gz(PLAIN),
    "a.tgz": made.gz(PLAIN),
    "a.tar.zst": made.zst(PLAIN),
    "a.tar.gz.age": made.age(made.gz(PLAIN)),
}
SQL = b"""--
-- PostgreSQL database dump
--

CREATE TABLE public.orders (
    id integer
);
CREATE UNLOGGED TABLE "Odd one"."T.y" (
    a text
);

COPY public.orders (id) FROM stdin;
1
2
3
\\.


COPY "Odd one"."T.y" (a) FROM stdin;
\\.


COPY public.late (id, "b c") FROM stdin;
1\tCREATE TABLE x (
\\.

--
-- PostgreSQL database dump complete
--

"""


@pytest.mark.parametrize("name", PACKED)
def test_every_layer_is_decoded_and_the_members_counted(name: str, tmp_path: Path) -> None:
    path = made.write(tmp_path / name, PACKED[name])

    reading = read_archive(path, identities=[made.IDENTITY])

    assert (reading.damage, reading.unread) == ("", "")
    assert reading.contents is not None
    assert reading.contents.count == 3
    assert [(m.name, m.size_bytes, m.mode) for m in reading.contents.members[:2]] == [
        ("secrets/admin_token", 40, 0o600),
        ("secrets/postgres_password", 15, 0o600),
    ]
    assert reading.has_checksum is (name != "a.tar")
    assert reading.plain_bytes == len(PLAIN)


@pytest.mark.parametrize("name", [name for name in PACKED if name != "a.tar"])
@pytest.mark.parametrize("cut", [1, 4, 9, 2000])
def test_a_truncated_file_is_damaged(name: str, cut: int, tmp_path: Path) -> None:
    path = made.write(tmp_path / name, PACKED[name][:-cut])

    assert read_archive(path, identities=[made.IDENTITY]).damage


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.zst", "a.tar.gz.age"])
def test_junk_after_the_end_is_damage(name: str, tmp_path: Path) -> None:
    path = made.write(tmp_path / name, PACKED[name] + b"junk")

    assert read_archive(path, identities=[made.IDENTITY]).damage


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar.zst", "a.tar.gz.age"])
def test_a_flipped_bit_of_the_content_is_damage(name: str, tmp_path: Path) -> None:
    data = PACKED[name]
    draw = random.Random(7)

    for _ in range(10):  # the header of gzip has a time and a flag that nothing covers, so keep clear of it
        path = made.write(tmp_path / name, made.flipped(data, draw.randrange(20, len(data)), draw.randrange(8)))
        assert read_archive(path, identities=[made.IDENTITY]).damage


@pytest.mark.parametrize(("name", "data"), [("a.tar.gz", b""), ("a.tar.gz", PLAIN), ("a.rdb", b"REDIS0011x")])
def test_a_file_whose_content_does_not_match_its_name_is_damaged(name: str, data: bytes, tmp_path: Path) -> None:
    assert read_archive(made.write(tmp_path / name, data)).damage


def test_an_encrypted_file_without_a_key_is_unread_and_not_damaged(tmp_path: Path) -> None:
    path = made.write(tmp_path / "a.tar.gz.age", PACKED["a.tar.gz.age"])

    reading = read_archive(path)

    assert reading.damage == ""
    assert "identity" in reading.unread


def test_a_wrong_key_is_reported(tmp_path: Path) -> None:
    import pyrage

    path = made.write(tmp_path / "a.tar.gz.age", PACKED["a.tar.gz.age"])
    key = made.write(tmp_path / "key.txt", f"# other\n{pyrage.x25519.Identity.generate()}\n".encode())

    reading = read_archive(path, identities=read_identities(key))

    assert reading.damage == ""
    assert "encrypted for other identities" in reading.unread


def test_a_truncated_encrypted_file_is_damaged_even_without_a_key(tmp_path: Path) -> None:
    data = PACKED["a.tar.gz.age"]
    begin = data.index(b"\n", data.index(b"\n--- ") + 1) + 1 + 16  # behind the header and the nonce
    path = made.write(tmp_path / "a.tar.gz.age", data[: begin + 65_552 + 5])

    assert "chunk" in read_archive(path).damage


def test_gpg_without_a_key_is_unread_and_has_a_hint(tmp_path: Path) -> None:
    path = made.write(tmp_path / "secrets.tar.gz.gpg", b"\x8c\x0d\x04")

    assert "gpg_key" in read_archive(path).unread


def test_a_bomb_is_stopped_by_its_ratio(tmp_path: Path) -> None:
    path = made.write(tmp_path / "a.gz", made.gz(bytes(200 << 20)))

    reading = read_archive(path, limits=ExpansionLimits(ratio=100))

    assert (reading.damage, reading.contents) == ("", None)
    assert reading.plain_bytes < 70 << 20


BIG = made.gz(made.tar_of({"zeros": bytes(80 << 20)}))
RDB = b"REDIS0011\xfe\x00\x00\x01k\x01v" + b"\x00\x01a\x01b" * 500_000 + b"\xff" + bytes(8)
LIMITED = {
    "a.tar.gz": (BIG, ExpansionLimits(ratio=100), "max_ratio"),
    "b.tar.gz": (BIG, ExpansionLimits(plain_bytes=10 << 20), "max_plain"),
    "c.tar": (made.tar_of(dict.fromkeys("abc", b"x")), ExpansionLimits(members=2), "max_members"),
    "d.tar.gz": (made.gz(made.tar_of(dict.fromkeys("abc", b"x"))), ExpansionLimits(members=2), "max_members"),
    "e.rdb.gz": (made.gz(RDB), ExpansionLimits(plain_bytes=1 << 20), "max_plain"),
    "f.rdb.zst": (made.zst(RDB), ExpansionLimits(plain_bytes=1 << 20), "max_plain"),
    "g.sql.gz": (made.gz(SQL * 100), ExpansionLimits(plain_bytes=1000), "max_plain"),
    "h.gz.gz": (made.gz(made.gz(bytes(1 << 20))), ExpansionLimits(plain_bytes=1 << 19), "max_plain"),
}


@pytest.mark.parametrize("name", LIMITED)
def test_a_backup_beyond_a_limit_is_unread_and_not_damaged(name: str, tmp_path: Path) -> None:
    data, limits, param = LIMITED[name]
    path = made.write(tmp_path / name, data)

    reading = read_archive(path, limits=limits)

    assert (reading.damage, reading.contents) == ("", None)
    assert f"not verified beyond; raise the param {param}" in reading.unread


def test_members_that_leave_the_folder_are_named(tmp_path: Path) -> None:
    path = made.write(tmp_path / "a.tar", made.tar_of({"../../etc/passwd": b"x", "/root/.ssh/keys": b"x", "ok": b"x"}))

    contents = read_archive(path).contents

    assert contents is not None
    assert len(contents.problems) == 2


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_rows_of_a_plain_dump_are_counted_in_pieces_of_any_length(size: int) -> None:
    pieces = [SQL[at : at + size] for at in range(0, len(SQL), size)]

    found = walk_sql(Reader(iter(pieces)))

    assert found == PlainDump(
        dict.fromkeys(["public.orders", "Odd one.T.y"]), {"public.orders": 3, "Odd one.T.y": 0, "public.late": 1}
    )


@pytest.mark.parametrize("end", ["3\n", "\\.\n", "complete\n--\n\nDROP TABLE x;\n"])
def test_a_plain_dump_without_its_closing_line_is_damaged(end: str) -> None:
    text = SQL + b"DROP TABLE x;\n" if "DROP" in end else SQL[: SQL.index(end.encode()) + len(end)]

    with pytest.raises(DamagedError):
        walk_sql(Reader(iter([text])))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("secrets-20260301_020000.tar.gz.age", "tar.gz.age"),
        ("postgres-20260301-020000.dump", "pgdump"),
        ("postgres_2026.sql.gz", "sql.gz"),
        ("redis.RDB", "rdb"),
        ("notes.txt", ""),
        ("v1.2.tar.zst", "tar.zst"),
    ],
)
def test_the_format_is_known_by_the_suffixes(name: str, kind: str) -> None:
    assert kind_by_name(Path(name)) == kind


def test_checksums_equal_the_published_check_values() -> None:
    castagnoli, redis = crc32c(), crc64_redis()
    data = made.noise(700_001)
    whole, pieces = crc32c(), crc32c()

    castagnoli.update(b"123456789")
    redis.update(b"123456789")
    whole.update(data)
    for at in range(0, len(data), 997):
        pieces.update(data[at : at + 997])

    # The check values of the "Catalogue of parametrised CRC algorithms".
    assert (castagnoli.value, redis.value) == (0xE3069283, 0xE9C6D914C4B8D9CA)
    assert whole.value == pieces.value
