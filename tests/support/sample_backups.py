"""Small real backups in every format that `backup_verify` reads, and ways to damage them."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import subprocess
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import psycopg
import pyrage
import zstandard

from support.servers.postgres import BIN, PostgresServer
from support.servers.redis import RedisServer

SECRETS = {"secrets/admin_token": b"a" * 40, "secrets/postgres_password": b"correct-horse-9"}
IDENTITY = pyrage.x25519.Identity.generate()


def tar_of(members: Mapping[str, bytes], *, mode: int = 0o600) -> bytes:
    """Return a tar archive of these files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def noise(size: int, seed: int = 1) -> bytes:
    """Return bytes that compress to about three quarters; the seed determines them."""
    return random.Random(seed).randbytes(size // 2).hex().encode()[:size]


def write(path: Path, data: bytes, *, summed: bool = False) -> Path:
    """Write a private file, with its sha256 beside it if `summed`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o600)
    if summed:
        summed_path = path.with_name(path.name + ".sha256")
        summed_path.write_text(f"{hashlib.sha256(data).hexdigest()}  {path.name}\n")
    return path


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    """Return the bytes with one bit flipped."""
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def same_when_expanded(one: bytes, other: bytes) -> bool:
    """Whether gzip data expands to the same: its header, its padding and repeats of a zero have bits without effect."""
    try:
        return gzip.decompress(one) == gzip.decompress(other)
    except (OSError, EOFError, zlib.error):
        return False


def gz(data: bytes) -> bytes:
    return gzip.compress(data, 6)


def zst(data: bytes, *, checksum: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=checksum).compress(data)


def age(data: bytes) -> bytes:
    return pyrage.encrypt(data, [IDENTITY.to_public()])


def dump(server: PostgresServer, database: str, *options: str) -> bytes:
    """Return the output of pg_dump."""
    return subprocess.run(
        [BIN / "pg_dump", "-d", server.url(database), *options], check=True, capture_output=True
    ).stdout


def dump_all(server: PostgresServer) -> bytes:
    return subprocess.run([BIN / "pg_dumpall", "-d", server.url("postgres")], check=True, capture_output=True).stdout


def base_backup(server: PostgresServer, folder: Path, *options: str) -> Path:
    """Take a base backup with a manifest and a fast checkpoint."""
    argv = [BIN / "pg_basebackup", "-d", server.url("postgres"), "-D", folder, "-c", "fast", "--no-sync", *options]
    subprocess.run(argv, check=True, capture_output=True)
    return folder


def trading(server: PostgresServer, database: str, rows: int = 2000) -> None:
    """Create a database with two tables of the first stack and an empty one."""
    server.create(database)
    with psycopg.connect(server.url(database), autocommit=True) as conn:
        conn.execute("CREATE TABLE audit_events (id int, payload text)")
        conn.execute("CREATE TABLE pnl_days (day date, pnl numeric)")
        conn.execute("CREATE TABLE migrations (name text)")
        conn.execute(
            "INSERT INTO audit_events SELECT g, E'two\\nlines ' || md5(g::text) FROM generate_series(1, %s) g", (rows,)
        )
        conn.execute("INSERT INTO pnl_days SELECT date '2026-01-01' + g, g FROM generate_series(1, 30) g")


def snapshot(server: RedisServer) -> bytes:
    """Return a dump.rdb with every type of value that the first stack uses."""
    client = server.client()
    try:
        pipe = client.pipeline()
        for number in range(2000):
            pipe.set(f"idem:{number}", os.urandom(8).hex(), ex=86_400)
        for number in range(200):
            pipe.xadd("orchestrator.commands", {"data": f"order {number}"})
        pipe.xgroup_create("orchestrator.commands", "agents", "0")
        pipe.hset("pnl:2026-03-01", mapping={"halted": "0", "startEquity": "1000"})
        pipe.sadd("set", *range(600)).zadd("sorted", {f"m{n}": n / 3 for n in range(300)}).rpush("list", *range(500))
        pipe.execute()
        client.xreadgroup("agents", "one", {"orchestrator.commands": ">"}, count=20)
        client.save()
    finally:
        client.close()
    return (server.folder / "dump.rdb").read_bytes()
