"""Base backups of Postgres: every file is compared with the backup_manifest, in plain or tar format.

Source: "Backup Manifest Format" in the Postgres documentation; ignores the same files as pg_verifybackup.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from maintd.checks.backups import stream, tar
from maintd.checks.backups.crc import crc32c
from maintd.checks.backups.stream import CHUNK, DamagedError, ExpansionLimits, HashedFile, Reader, chunks_of, limited

MANIFEST = "backup_manifest"

_NOT_LISTED = frozenset({MANIFEST, "postgresql.auto.conf", "recovery.signal", "standby.signal"})
_MANIFEST_MAX = 1 << 30
_PROBLEMS_KEPT = 20
_HASHES = {"SHA224": "sha224", "SHA256": "sha256", "SHA384": "sha384", "SHA512": "sha512"}


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


@dataclass(frozen=True)
class _Listed:
    size_bytes: int
    algorithm: str
    checksum: str


@dataclass
class BaseBackup:
    """Result of comparing a base backup with its manifest."""

    files: int = 0
    size_bytes: int = 0
    without_checksum: int = 0  # files without a checksum in the manifest
    problems: list[str] = field(default_factory=list)  # at most 20
    wal: tuple[str, ...] = ()  # ranges needed to start it: timeline, start and end

    def problem(self, text: str) -> None:
        """Add a problem; only the first 20 are kept."""
        if len(self.problems) < _PROBLEMS_KEPT:
            self.problems.append(text)


def verify_base_backup(
    path: Path, limits: ExpansionLimits | None = None, progress: Callable[[int], None] = lambda count: None
) -> BaseBackup:
    """Read every file of a base backup and compare size and checksum with the manifest.

    Raises DamagedError when the manifest itself is damaged.
    """
    listed, found = _manifest(path / MANIFEST)
    missing = set(listed)
    packed = sorted(file for file in path.iterdir() if ".tar" in file.suffixes)
    content = _packed(packed, limits or ExpansionLimits(), progress) if packed else _plain(path, progress)
    for name, size, chunks in content:
        if _ignored(name):
            continue
        missing.discard(name)
        expected = listed.get(name)
        if expected is None:
            found.problem(f'"{name}" is not in the manifest')
        elif size != expected.size_bytes:
            found.problem(f'"{name}" has {size} bytes, in the manifest {expected.size_bytes}')
        else:
            _compare(name, expected, chunks, found)
        found.files += 1
        found.size_bytes += size
    for name in sorted(name for name in missing if not _ignored(name)):
        found.problem(f'"{name}" is missing')
    wal = [*path.glob("pg_wal.tar*"), *path.glob("pg_wal/[0-9A-F]*")]
    if found.wal and not wal:
        found.problem("it has no WAL, and cannot be started without a WAL archive")
    return found


def _ignored(name: str) -> bool:
    return name in _NOT_LISTED or name.startswith("pg_wal/")


def _compare(name: str, expected: _Listed, chunks: Iterator[bytes], found: BaseBackup) -> None:
    if not expected.algorithm:
        found.without_checksum += 1
        return
    crc = crc32c()
    digest = hashlib.new(_HASHES[expected.algorithm]) if expected.algorithm in _HASHES else None
    running: _Digest = digest or crc
    for chunk in chunks:
        running.update(chunk)
    # Postgres prints the CRC's four bytes in memory order, little-endian on all common machines.
    actual = digest.hexdigest() if digest else crc.value.to_bytes(4, "little").hex()
    if actual != expected.checksum.lower():
        found.problem(f'"{name}" has the {expected.algorithm} {actual}, in the manifest {expected.checksum}')


def _manifest(path: Path) -> tuple[dict[str, _Listed], BaseBackup]:
    if path.stat().st_size > _MANIFEST_MAX:
        raise DamagedError(f"{MANIFEST}: is too large for a manifest")
    data = path.read_bytes()
    body, _, last = data.rstrip(b"\n").rpartition(b"\n")
    try:
        parsed: dict[str, Any] = json.loads(data)
        claimed = str(parsed["Manifest-Checksum"])
        listed = {
            _name(file): _Listed(
                int(file["Size"]), str(file.get("Checksum-Algorithm", "")), str(file.get("Checksum", ""))
            )
            for file in parsed["Files"]
        }
        wal = tuple(f"{part['Timeline']}:{part['Start-LSN']}-{part['End-LSN']}" for part in parsed["WAL-Ranges"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{MANIFEST}: cannot be parsed: {type(error).__name__}: {error}") from error
    if hashlib.sha256(body + b"\n").hexdigest() != claimed or b"Manifest-Checksum" not in last:
        raise DamagedError(f"{MANIFEST}: its own checksum is wrong")
    unknown = {entry.algorithm for entry in listed.values()} - {"", "CRC32C", *_HASHES}
    if unknown:
        raise DamagedError(f"{MANIFEST}: checksums by {', '.join(sorted(unknown))} are not supported")
    return listed, BaseBackup(wal=wal)


def _name(file: dict[str, Any]) -> str:
    if "Path" in file:
        return str(file["Path"])
    return bytes.fromhex(file["Encoded-Path"]).decode("utf-8", "surrogateescape")


def _folder_of(archive: Path) -> str:
    """Return the folder of an archive's files: base.tar, pg_wal.tar, or a tablespace named by its OID."""
    stem = archive.name.partition(".")[0]
    if stem == "base":
        return ""
    return "pg_wal/" if stem == "pg_wal" else f"pg_tblspc/{stem}/"


def _plain(path: Path, progress: Callable[[int], None]) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    for file in sorted(path.rglob("*")):
        if file.is_file():
            size = file.stat().st_size
            with file.open("rb", buffering=0) as opened:
                yield file.relative_to(path).as_posix(), size, iter(lambda: opened.read(CHUNK), b"")
            progress(size)


def _packed(
    archives: list[Path], limits: ExpansionLimits, progress: Callable[[int], None]
) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    for archive in archives:
        with HashedFile(archive, progress) as file:
            reader = Reader(chunks_of(file), archive.name)
            if archive.suffix == ".gz":
                reader = Reader(limited(stream.gunzip(reader), archive.stat().st_size, limits), archive.name)
            elif archive.suffix == ".zst":
                reader = Reader(
                    limited(stream.ZstdReader(reader).chunks(), archive.stat().st_size, limits), archive.name
                )
            for member in tar.members(reader, limits):
                if member.regular:
                    yield (
                        _folder_of(archive) + member.name.removeprefix("./"),
                        member.size_bytes,
                        reader.pieces(member.size_bytes),
                    )
