"""Properties of the readers of foreign data: backups in every format, manifests, answers of servers.

Whatever the bytes are, the result is contents, damage, or the reason why it is not known, within time and memory.
"""

from __future__ import annotations

import json
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fuzz.properties import Property, within_time
from maintd.checks.backups.archive import read_archive
from maintd.checks.backups.base_backup import verify_base_backup
from maintd.checks.backups.catalog import find_backups, recorded_sha256
from maintd.checks.backups.pgdump_directory import walk_directory
from maintd.checks.backups.stream import DamagedError, ExpansionLimits, UnreadableError
from maintd.checks.certificates.certificate import chain_problem, parse
from maintd.checks.certificates.stored import read_file
from maintd.checks.certificates.validity import limits_of
from maintd.clients.bounded import inflate, parse_json
from maintd.errors import TargetError

KINDS = (
    "",
    "tar",
    "tar.gz",
    "tar.zst",
    "pgdump",
    "pgdump.gz",
    "sql",
    "sql.gz",
    "rdb",
    "tar.xz",
    "tar.bz2",
    "tar.gz.age",
    "aof",
    "zip",
    "sqlite",
)
"""By byte 0 of an input of the target `archive`; empty: detected."""

MAX_MEMORY = 150 << 20
"""Bytes that Python may allocate for one input of a few kilobytes."""

_LIMITS = ExpansionLimits(plain_bytes=64 << 20, members=50_000)
_ANSWER_MAX = 8 << 20


@contextmanager
def _within_limits() -> Iterator[None]:
    tracemalloc.start()
    try:
        with within_time():
            yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MAX_MEMORY, f"took {peak >> 20} MiB"


@contextmanager
def archives() -> Iterator[Property]:
    """Byte 0 is the kind, the rest a backup file: contents, damage, or why it is not known; never two of them."""
    with tempfile.TemporaryDirectory(prefix="maintd-fuzz-") as folder:
        path = Path(folder) / "backup"

        def holds(data: bytes) -> None:
            path.write_bytes(data[1:])
            kind = KINDS[data[0] % len(KINDS)] if data else ""
            with _within_limits():
                found = read_archive(path, kind=kind, limits=_LIMITS)
            assert len(found.sha256) == 64
            assert found.size_bytes == max(len(data) - 1, 0)
            assert not (found.damage and found.contents)
            assert found.damage or found.unread or found.contents
            assert data[1:] or found.damage

        yield holds


@contextmanager
def folders() -> Iterator[Property]:
    """Byte 0 is the name of a file in a folder, the rest its content: verified, damaged, or why it is not known."""
    names = ("backup_manifest", "toc.dat", "blobs.toc", "a.tar.sha256", "SHA256SUMS", "backup_label")
    with tempfile.TemporaryDirectory(prefix="maintd-fuzz-") as folder:
        root = Path(folder)
        (root / "b").mkdir()
        (root / "a.tar").write_bytes(b"x")

        def holds(data: bytes) -> None:
            name = names[data[0] % len(names)] if data else names[0]
            path = root / name if "sha256" in name.lower() else root / "b" / name
            path.write_bytes(data[1:])
            try:
                with _within_limits():
                    found = find_backups(root, ["**/*"])
                    assert found.backups
                    recorded_sha256(root / "a.tar", root)
                    for read in (verify_base_backup, walk_directory):
                        try:
                            read(root / "b", _LIMITS)
                        except (DamagedError, UnreadableError, FileNotFoundError):
                            continue
            finally:
                path.unlink()

        yield holds


@contextmanager
def certificates() -> Iterator[Property]:
    """Byte 0 is the kind of a file, the rest its content, or a certificate in DER: its facts, or why it has none."""
    names = ("acme.json", "chain.pem", "list.crt")
    with tempfile.TemporaryDirectory(prefix="maintd-fuzz-") as folder:

        def holds(data: bytes) -> None:
            kind = data[0] % (len(names) + 1) if data else 0
            with _within_limits():
                try:
                    if kind == len(names):
                        found = [parse(data[1:], "x")]
                    else:
                        path = Path(folder) / names[kind]
                        path.write_bytes(data[1:])
                        items = read_file(path).items
                        assert all(item.chain or item.problem for item in items)
                        found = [each for item in items for each in item.chain]
                except TargetError as error:
                    assert error.cause in ("malformed", "unfamiliar", "too_large")
                    return
                for certificate in found:
                    assert certificate.label.isprintable()
                    limits_of(certificate.lifetime, authority=certificate.is_authority)
                chain_problem(found[:10])

        yield holds


@contextmanager
def answers() -> Iterator[Property]:
    """Byte 0 is the content coding, the rest an answer: JSON as the module `json` reads it, or an error."""
    codings = ("", "gzip", "deflate", "zstd", "br")

    def holds(data: bytes) -> None:
        coding = codings[data[0] % len(codings)] if data else ""
        with _within_limits():
            body = bytearray()
            try:
                for piece in inflate(iter([data[1:]]), coding, "the answer"):
                    body += piece
                    if len(body) > _ANSWER_MAX:
                        return
                value = parse_json(body, "the answer")
            except TargetError as error:
                assert error.cause in ("too_large", "malformed", "partial", "unfamiliar"), error
                return
        assert json.dumps(value) == json.dumps(json.loads(bytes(body)))

    yield holds
