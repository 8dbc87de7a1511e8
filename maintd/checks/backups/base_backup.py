"""Base backups of Postgres: every file is compared with the backup_manifest, in plain or tar format.

An incremental backup (Postgres 17) can only be restored with the backup that it builds on, whose WAL begins where the
label of the incremental one points to. Links are not followed: a backup is what is in its folder.
Source: "Backup Manifest Format" in the Postgres documentation; ignores the same files as pg_verifybackup.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import Field

from maintd.checks.backups import stream, tar
from maintd.checks.backups.crc import crc32c
from maintd.checks.backups.stream import (
    DamagedError,
    ExpansionLimits,
    HashedFile,
    Reader,
    UnreadableError,
    chunks_of,
    limited,
    open_regular,
)
from maintd.clients import shapes
from maintd.clients.bounded import JsonLimits, parse_json
from maintd.clients.files import Tree
from maintd.errors import TargetError

MANIFEST = "backup_manifest"

_NOT_LISTED = frozenset({MANIFEST, "postgresql.auto.conf", "recovery.signal", "standby.signal"})
_VERSIONS = (1, 2)
_MANIFEST_LIMITS = JsonLimits(size_bytes=128 << 20, depth=10, members=4_000_000)  # of about 800,000 files
_LABEL, _LABEL_MAX = "backup_label", 64 << 10
_TABLE_SPACES = "tablespace_map"
_SEGMENT_SIZES = frozenset(1 << bits for bits in range(20, 31))
_LSN = re.compile(r"([0-9A-F]{1,8})/([0-9A-F]{1,8})")
_SEGMENT = re.compile(r"pg_wal/([0-9A-F]{24})")
FIRST = _LABEL
"""The first member of a base backup in one tar."""
_FROM = re.compile(rb"^INCREMENTAL FROM LSN: ([0-9A-F]{1,8}/[0-9A-F]{1,8})\s*$", re.MULTILINE)
_PROBLEMS_KEPT = 20
_HASHES = {"SHA224": "sha224", "SHA256": "sha256", "SHA384": "sha384", "SHA512": "sha512"}


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


class _Listed(shapes.Shape):
    path: str = Field("", alias="Path")
    encoded_path: str = Field("", alias="Encoded-Path", pattern=r"^([0-9a-fA-F]{2})*$")
    size_bytes: Annotated[int, Field(ge=0)] = Field(alias="Size")
    algorithm: str = Field("", alias="Checksum-Algorithm")
    checksum: str = Field("", alias="Checksum")

    @property
    def name(self) -> str:
        return self.path or bytes.fromhex(self.encoded_path).decode("utf-8", "surrogateescape")


class _WalRange(shapes.Shape):
    timeline: int = Field(alias="Timeline")
    start: str = Field(alias="Start-LSN")
    end: str = Field(alias="End-LSN")


class _Manifest(shapes.Shape):
    version: int = Field(alias="PostgreSQL-Backup-Manifest-Version")
    system: int | str = Field("", alias="System-Identifier")
    files: tuple[_Listed, ...] = Field(alias="Files")
    wal: tuple[_WalRange, ...] = Field(alias="WAL-Ranges")
    checksum: str = Field(alias="Manifest-Checksum")


@dataclass
class BaseBackup:
    """Result of comparing a base backup with its manifest."""

    files: int = 0
    size_bytes: int = 0
    without_checksum: int = 0  # files without a checksum in the manifest
    problems: list[str] = field(default_factory=list)  # at most 20
    wal: tuple[str, ...] = ()  # ranges needed to start it: timeline, start and end
    ranges: tuple[tuple[int, int, int], ...] = ()  # the same as numbers
    starts_at: str = ""  # the LSN where its WAL begins
    system: str = ""  # identifier of the cluster
    builds_on: str = ""  # the LSN where the backup before begins, of an incremental backup
    links: list[str] = field(default_factory=list)  # at most 20; not followed

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
    with Tree(path, one_device=False) as tree:
        entries = sorted(tree.walk(), key=lambda entry: entry.parts)
        for unread in tree.unread:
            found.problem(f"cannot be read: {unread}")
    for entry in entries:
        if not entry.regular and len(found.links) < _PROBLEMS_KEPT:
            found.links.append(entry.relative)
    regular = [entry.relative for entry in entries if entry.regular]
    packed = [path / name for name in regular if "/" not in name and ".tar" in Path(name).suffixes]
    content = _packed(packed, limits or ExpansionLimits(), progress) if packed else _plain(path, regular, progress)
    incremental = False
    for name, size, read in content:
        chunks = read
        incremental = incremental or name.rpartition("/")[2].startswith("INCREMENTAL.")
        if name == _LABEL and size <= _LABEL_MAX:
            label = b"".join(read)
            match = _FROM.search(label)
            found.builds_on = match[1].decode() if match else ""
            chunks = iter([label])
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
    for name in sorted(name for name in missing if not _ignored(name) and not _below(name, found.links)):
        found.problem(f'"{name}" is missing')
    if incremental and not found.builds_on:
        found.problem(f"it is incremental, and its {_LABEL} does not say on which backup it builds")
    has_wal = any(re.match(r"pg_wal(\.tar|/[0-9A-F])", name) for name in regular) or "pg_wal" in found.links
    if found.wal and not has_wal:
        found.problem("it has no WAL, and cannot be started without a WAL archive")
    return found


Sink = Callable[[tar.Member, Iterator[bytes]], Iterator[bytes]]
"""Takes a member of a tar with its content, and yields the content again: it may write it on the way."""


def _unchanged(_: tar.Member, chunks: Iterator[bytes]) -> Iterator[bytes]:
    return chunks


def verify_packed(source: Reader, limits: ExpansionLimits, sink: Sink = _unchanged) -> BaseBackup:
    """Compare a base backup in one tar, as `pg_basebackup --pgdata=- --format=tar` writes it, with the manifest in it.

    The manifest comes last, so that the files are hashed before it is known what they should be; sha256 must be its
    kind of checksum. Folders of table spaces and links are problems: they would leave the folder of a restore. Raises
    DamagedError and UnreadableError.
    """
    hashed: dict[str, tuple[int, str]] = {}
    wal: dict[str, int] = {}
    data, label, problems = b"", b"", list[str]()
    for member in tar.members(source, limits):
        name = member.name.removeprefix("./").rstrip("/")
        if member.escape or not (member.regular or member.kind == b"5"):
            problems.append(f'"{name}" is neither a file nor a folder of the backup')
            continue
        content = sink(member, source.pieces(member.size_bytes if member.regular else 0))
        if name == MANIFEST:
            if member.size_bytes > _MANIFEST_LIMITS.size_bytes:
                raise UnreadableError(f"{MANIFEST}: is too large", "verify it with pg_verifybackup")
            data = b"".join(content)
            continue
        digest = hashlib.sha256()
        small = bytearray()
        for chunk in content:
            digest.update(chunk)
            if name in (_LABEL, _TABLE_SPACES) and len(small) <= _LABEL_MAX:
                small += chunk
        if name == _LABEL:
            label = bytes(small)
        if name == _TABLE_SPACES and small:
            problems.append("it has table spaces of its own, whose files are not in it")
        if member.regular:
            hashed[name] = member.size_bytes, digest.hexdigest()
            if segment := _SEGMENT.fullmatch(name):
                wal[segment[1]] = member.size_bytes
    if not data:
        raise DamagedError(f"has no {MANIFEST}")
    listed, found = _parsed(data)
    for problem in problems:
        found.problem(problem)
    if other := {one.algorithm for one in listed.values()} - {"SHA256", ""}:
        raise UnreadableError(f"{MANIFEST}: checksums by {', '.join(sorted(other))}", "unpack it, and verify it then")
    _compare_packed(listed, hashed, found)
    match = _FROM.search(label)
    found.builds_on = match[1].decode() if match else ""
    for timeline, start, end in found.ranges:
        for segment_name in missing_segments(timeline, start, end, wal):
            found.problem(f"its WAL is not whole: {segment_name} is missing")
    return found


def _compare_packed(listed: dict[str, _Listed], hashed: dict[str, tuple[int, str]], found: BaseBackup) -> None:
    for name, (size, sha256) in hashed.items():
        found.size_bytes += size
        found.files += 1
        if _ignored(name):
            continue
        expected = listed.get(name)
        if expected is None:
            found.problem(f'"{name}" is not in the manifest')
        elif size != expected.size_bytes:
            found.problem(f'"{name}" has {size} bytes, in the manifest {expected.size_bytes}')
        elif not expected.algorithm:
            found.without_checksum += 1
        elif sha256 != expected.checksum.lower():
            found.problem(f'"{name}" does not match its SHA256 in the manifest')
    for name in sorted(listed.keys() - hashed.keys()):
        if not _ignored(name):
            found.problem(f'"{name}" is missing')


def missing_segments(timeline: int, start: int, end: int, wal: Mapping[str, int]) -> list[str]:
    """The files of WAL from one LSN to another that are not among these, by name with their sizes in bytes.

    All have the same size, a power of two from 1 MiB to 1 GiB. The name of a segment is its timeline, and its number in
    two parts (XLogFileName in xlog_internal.h).
    """
    size = max(wal.values(), default=0)
    if size not in _SEGMENT_SIZES:
        return [f"{timeline:08X}…"]
    first, last = start // size, max(end - 1, start) // size
    if last - first >= len(wal):
        return [f"a part of the {last - first + 1} files of timeline {timeline}"]
    per_part = (1 << 32) // size
    numbers = range(first, last + 1)
    names = [f"{timeline:08X}{number // per_part:08X}{number % per_part:08X}" for number in numbers]
    return [name for name in names if wal.get(name) != size]


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
        found.problem(f'"{name}" does not match its {expected.algorithm} in the manifest')


def _below(name: str, links: list[str]) -> bool:
    """Whether a file is behind a link that was not followed, such as that of a tablespace."""
    return any(name.startswith(link + "/") for link in links)


def read_start(path: Path) -> tuple[str, str]:
    """The cluster and the LSN where a base backup begins, from its manifest. Raises TargetError and OSError."""
    _, found = _manifest(path / MANIFEST)
    return found.system, found.starts_at


def read_builds_on(path: Path, limits: ExpansionLimits | None = None) -> str:
    """The LSN of the backup that a base backup builds on, from its label; empty for a full one.

    Raises TargetError and OSError.
    """
    label = path / _LABEL
    content: Iterator[tuple[str, int, Iterator[bytes]]] = iter(())
    if label.is_file():
        content = _plain(path, [_LABEL], lambda count: None)
    else:
        packed = sorted(file for file in path.iterdir() if file.name.startswith("base.tar") and file.is_file())
        content = _packed(packed, limits or ExpansionLimits(), lambda count: None)
    for name, size, read in content:
        if name == _LABEL and size <= _LABEL_MAX:
            match = _FROM.search(b"".join(read))
            return match[1].decode() if match else ""
    raise DamagedError(f"has no {_LABEL}")


def _manifest(path: Path) -> tuple[dict[str, _Listed], BaseBackup]:
    with open_regular(path) as file:
        data = file.read(_MANIFEST_LIMITS.size_bytes + 1) or b""
        while len(data) <= _MANIFEST_LIMITS.size_bytes and (more := file.read(_MANIFEST_LIMITS.size_bytes)):
            data += more
    return _parsed(data)


def _parsed(data: bytes) -> tuple[dict[str, _Listed], BaseBackup]:
    body, _, last = data.rstrip(b"\n").rpartition(b"\n")
    try:
        parsed = shapes.read(_Manifest, parse_json(data, MANIFEST, _MANIFEST_LIMITS), MANIFEST)
    except TargetError as error:
        if error.cause == "too_large":
            raise UnreadableError(error.message, "verify it with pg_verifybackup") from None
        raise DamagedError(f"cannot be parsed: {error.message}") from None
    if parsed.version not in _VERSIONS:
        raise UnreadableError(
            f"{MANIFEST}: version {parsed.version} is not supported", "verify it with pg_verifybackup"
        )
    if hashlib.sha256(body + b"\n").hexdigest() != parsed.checksum or b"Manifest-Checksum" not in last:
        raise DamagedError(f"{MANIFEST}: its own checksum is wrong")
    listed = {file.name: file for file in parsed.files}
    unknown = {entry.algorithm for entry in listed.values()} - {"", "CRC32C", *_HASHES}
    if unknown:
        raise UnreadableError(f"{MANIFEST}: checksums by {', '.join(sorted(unknown))[:100]} are not supported")
    wal = tuple(f"{part.timeline}:{part.start}-{part.end}" for part in parsed.wal)
    starts_at = parsed.wal[-1].start if parsed.wal else ""
    try:
        ranges = tuple((part.timeline, lsn(part.start), lsn(part.end)) for part in parsed.wal)
    except ValueError:
        raise DamagedError(f"{MANIFEST}: a range of WAL without an LSN") from None
    return listed, BaseBackup(wal=wal, ranges=ranges, starts_at=starts_at, system=str(parsed.system))


def lsn(text: str) -> int:
    """An LSN, such as 0/2000028, as a number. Raises ValueError."""
    match = _LSN.fullmatch(text)
    if match is None:
        raise ValueError("not an LSN")
    return (int(match[1], 16) << 32) + int(match[2], 16)


def _folder_of(archive: Path) -> str:
    """Return the folder of an archive's files: base.tar, pg_wal.tar, or a tablespace named by its OID."""
    stem = archive.name.partition(".")[0]
    if stem == "base":
        return ""
    return "pg_wal/" if stem == "pg_wal" else f"pg_tblspc/{stem}/"


def _plain(path: Path, names: list[str], progress: Callable[[int], None]) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    for name in names:
        with open_regular(path / name) as file:
            size = os.fstat(file.fileno()).st_size
            yield name, size, chunks_of(file)
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
