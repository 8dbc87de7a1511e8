"""Reading a backup file to its end, through all layers of compression and encryption."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, cast

from pyrage import x25519

from maintd.checks.backups import (
    age_encryption,
    aof,
    base_backup,
    pgdump_custom,
    pgdump_plain,
    rdb,
    seekable,
    stream,
    tar,
)
from maintd.checks.backups.gpg import ARMOR, Gpg, looks_encrypted
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
from maintd.units import format_size

_SUFFIXES = {
    ".age": "age",
    ".gz": "gz",
    ".tgz": "tar.gz",
    ".zst": "zst",
    ".tzst": "tar.zst",
    ".xz": "xz",
    ".txz": "tar.xz",
    ".bz2": "bz2",
    ".tbz2": "tar.bz2",
    ".tar": "tar",
    ".sql": "sql",
    ".dump": "pgdump",
    ".pgdump": "pgdump",
    ".rdb": "rdb",
    ".aof": "aof",
    ".zip": "zip",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
    ".gpg": "gpg",
    ".pgp": "gpg",
}
_MAGICS = (
    (stream.GZIP_MAGIC, "gz"),
    (stream.ZSTD_MAGIC, "zst"),
    (stream.XZ_MAGIC, "xz"),
    (stream.BZIP2_MAGIC, "bz2"),
    (age_encryption.MAGIC, "age"),
    (age_encryption.ARMOR, "age-armor"),
    (pgdump_custom.MAGIC, "pgdump"),
    (rdb.MAGIC, "rdb"),
    (rdb.MAGIC_VALKEY, "rdb"),
    *((magic, "zip") for magic in seekable.ZIP_MAGICS),
    (seekable.SQLITE_MAGIC, "sqlite"),
    (b"--\n-- PostgreSQL database", "sql"),
    (b"-- MySQL dump ", "sql"),
    (b"-- MariaDB dump ", "sql"),
    (b"/*M!999999", "sql"),
    (b"PRAGMA foreign_keys=OFF;", "sql"),
)
EMPTY = "is empty"
_LAYERS = frozenset({"gz", "zst", "xz", "bz2", "age", "gpg"})
_SQL_SIGN = b"-- PostgreSQL database"
_NAMES_KEPT = 20_000
_PROBLEMS_KEPT = 50


@dataclass(frozen=True)
class Contents:
    """The contents of an archive. `has_checksum`: a checksum of the format covers the data."""

    kind: str
    count: int = 0  # members, entries, keys or tables
    names: tuple[str, ...] = ()  # of members or tables, in order, at most 20,000
    has_checksum: bool = False
    problems: tuple[str, ...] = ()  # members that would be unpacked outside of the folder
    unread: str = ""  # what could not be decoded, though its checksum is correct
    members: tuple[tar.Member, ...] = ()  # of a tar, at most 20,000
    rows: Mapping[str, int | None] = field(default_factory=dict)  # by table; None: not counted, as with --inserts
    base_backup: base_backup.BaseBackup | None = None  # of a tar that is one


@dataclass(frozen=True)
class Reading:
    """A file that was read to its last byte. `kind` is like `tar.gz.age`, with the outermost layer last."""

    kind: str
    size_bytes: int
    sha256: str
    plain_bytes: int = 0
    contents: Contents | None = None
    damage: str = ""
    unread: str = ""

    @property
    def has_checksum(self) -> bool:
        """Whether a checksum of the format was verified."""
        return self.contents is not None and self.contents.has_checksum


def kind_by_name(path: Path) -> str:
    """Return the format by the suffixes of the name, like `tar.gz.age`; empty when they are not known."""
    found: list[str] = []
    for suffix in reversed(path.suffixes):
        kind = _SUFFIXES.get(suffix.lower())
        if kind is None:
            break
        found.insert(0, kind)
        if kind not in _LAYERS:
            break
    return ".".join(found)


def read_archive(
    path: Path,
    *,
    kind: str = "",
    identities: Sequence[x25519.Identity] = (),
    gpg: Gpg | None = None,
    limits: ExpansionLimits | None = None,
    progress: Callable[[int], None] | None = None,
) -> Reading:
    """Read a file through all its layers to the end, and hash it in the same pass.

    kind: the required format, like `tar.gz`; empty: the format by its suffixes, or else by its first bytes. Damage is
    returned in the result; OSError is raised when the file cannot be read.
    """
    wanted = [part for part in (kind or kind_by_name(path)).split(".") if part]
    file = HashedFile(path, progress)
    reading = Reading(kind=".".join(wanted) or "unknown", size_bytes=0, sha256="")
    try:
        with ExitStack() as stack:
            decoder = _Decoder(file, path, path.stat().st_size, limits or ExpansionLimits(), stack, identities, gpg)
            try:
                contents = decoder.contents(wanted)
                reading = replace(reading, kind=decoder.kind(contents.kind), contents=contents, unread=contents.unread)
            except DamagedError as error:
                reading = replace(reading, damage=str(error))
            except UnreadableError as error:
                reading = replace(reading, unread=str(error))
            plain = decoder.plain_bytes
        digest = file.finish()
    finally:
        file.close()
    return replace(reading, size_bytes=file.size_bytes, sha256=digest, plain_bytes=plain)


def read_stream(chunks: Iterator[bytes], kind: str) -> Contents:
    """Read what is being written, such as `tar.gz` or `pgdump`, to its end; of `age` only the structure.

    Raises DamagedError, and UnreadableError for content that may be intact, but is not known here.
    """
    inner, *layers = kind.split(".")
    reader = Reader(chunks)
    for layer in reversed(layers):
        if layer != "gz":
            raise UnreadableError(f"{layer} is not read while it is written")
        reader = Reader(stream.gunzip(reader), f"the content of the {layer} layer")
    if inner == "age":
        age_encryption.check_structure(reader)
        return Contents(inner)
    found = _read_contents(inner, reader, ExpansionLimits())
    for _ in reader.rest():
        pass
    return found


class _Decoder:
    """Decodes the layers of a file one by one."""

    def __init__(
        self,
        file: HashedFile,
        path: Path,
        size: int,
        limits: ExpansionLimits,
        stack: ExitStack,
        identities: Sequence[x25519.Identity],
        gpg: Gpg | None,
    ) -> None:
        self._identities = identities
        self._gpg = gpg
        self._limits = limits
        self._path = path
        self._size = size
        self._stack = stack
        self._reader = Reader(chunks_of(file))
        self._found: list[str] = []
        self._sealed = False
        self._zstd: stream.ZstdReader | None = None

    @property
    def plain_bytes(self) -> int:
        """Bytes read from the innermost layer so far."""
        return self._reader.offset

    def kind(self, inner: str) -> str:
        return ".".join((inner, *reversed(self._found)))

    def contents(self, wanted: list[str]) -> Contents:
        """Decode the layers in `wanted`, or detect them by their first bytes, then read the contents."""
        remaining = list(wanted)
        if not self._reader.peek(1):
            raise DamagedError(EMPTY)
        while (kind := remaining.pop() if remaining else _detect(self._reader)) in _LAYERS:
            self._decode_layer(kind)
            if not self._reader.peek(1):
                raise DamagedError(f"{EMPTY}: there is nothing in the {kind}; the program that was to fill it failed")
        if kind in ("zip", "sqlite"):
            found = self._seekable_contents(kind)
        else:
            found = _read_contents(kind, self._reader, self._limits)
        for _ in self._reader.rest():
            pass
        zstd_sealed = self._zstd is not None and self._zstd.has_checksum
        return replace(found, has_checksum=found.has_checksum or self._sealed or zstd_sealed)

    def _seekable_contents(self, kind: str) -> Contents:
        """Read from the file itself, or from a copy of what is in its layers."""
        if {"age", "gpg"} & set(self._found):
            hint = "verify it with its own program; what is encrypted is not copied to a disk"
            raise UnreadableError(f"{kind} inside of {' and '.join(self._found)} is not read", hint)
        with ExitStack() as stack:
            if self._found:
                file = cast("BinaryIO", stack.enter_context(tempfile.NamedTemporaryFile()))
                copied = 0
                for piece in self._reader.rest():
                    copied += len(piece)
                    if copied > seekable.MOST_COPIED:
                        most = format_size(seekable.MOST_COPIED)
                        raise UnreadableError(f"{kind}: is larger than {most} unpacked", "keep it without compression")
                    file.write(piece)
                file.flush()
            else:
                file = cast("BinaryIO", stack.enter_context(io.BufferedReader(open_regular(self._path))))
            found = seekable.walk_zip(file, self._limits) if kind == "zip" else seekable.check_sqlite(file)
            unread = ""
            log = self._path.with_name(f"{self._path.name}-wal")
            if kind == "sqlite" and not self._found and log.is_file() and log.stat().st_size:
                unread = f"SQLite: what is in {log.name} beside it is missing in it; back up by: sqlite3 DB .backup"
        return Contents(
            kind,
            found.count,
            found.names,
            has_checksum=kind == "zip",
            problems=found.problems,
            rows=found.rows,
            unread=unread,
        )

    def _decode_layer(self, kind: str) -> None:
        detected = _detect(self._reader)
        if detected == "age-armor":
            raise UnreadableError("is armored age, which is not supported", "encrypt without --armor")
        if detected != kind and not (kind == "gpg" and looks_encrypted(self._reader.peek(64))):
            raise DamagedError(f"does not start as {kind}")
        chunks: Iterator[bytes]
        if kind == "gz":
            chunks, self._sealed = stream.gunzip(self._reader), True
        elif kind == "zst":
            self._zstd = stream.ZstdReader(self._reader)
            chunks = self._zstd.chunks()
        elif kind in ("xz", "bz2"):
            chunks, self._sealed = (stream.unxz if kind == "xz" else stream.bunzip2)(self._reader), True
        elif kind == "gpg":
            if self._gpg is None:
                raise UnreadableError(
                    "is encrypted with OpenPGP, and no key is set", "set the param gpg_key or gpg_passphrase"
                )
            chunks, self._sealed = self._gpg.decrypt(self._reader), True
        else:
            chunks, self._sealed = age_encryption.decrypt(self._reader, self._identities), True
        self._found.append(kind)
        bounded = limited(chunks, self._size, self._limits)
        self._stack.enter_context(closing(chunks))  # type: ignore[type-var]
        self._reader = Reader(bounded, f"the content of the {kind} layer")


def _detect(reader: Reader) -> str:
    head = reader.peek(512)
    if head.startswith(ARMOR):
        return "gpg"
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            return kind
    if head[257:262] == b"ustar":
        return "tar"
    if _SQL_SIGN in head:
        return "sql"
    return "data"


def _append_only_contents(reader: Reader, limits: ExpansionLimits) -> Contents:
    """The append-only files of Redis in one tar, of which the manifest is first. Raises DamagedError."""
    found = aof.walk_packed(reader, limits)
    return Contents("tar", found.count, has_checksum=False)


def _read_contents(kind: str, reader: Reader, limits: ExpansionLimits) -> Contents:
    if kind == "tar":
        return _tar_contents(reader, limits)
    if kind == "pgdump":
        dump = pgdump_custom.walk_custom(reader)
        # Compressed data has checksums, but the table of contents with all definitions has none.
        return Contents(kind, dump.count, dump.tables, rows=dump.rows)
    if kind == "sql":
        plain = pgdump_plain.walk_sql(reader)
        return Contents(kind, plain.count, plain.tables, rows=plain.rows)
    if kind == "rdb":
        found = rdb.walk_rdb(reader)
        names = tuple(f"db{number}" for number in found.databases)
        return Contents(kind, found.keys, names, has_checksum=found.has_checksum, unread=found.unknown)
    if kind == "aof":
        commands = aof.AppendOnly()
        aof.walk_commands(reader, commands, may_be_cut=True)
        cut = f"{commands.cut_bytes} bytes after the last whole command" if commands.cut_bytes else ""
        return Contents(kind, commands.count, unread=cut)
    return Contents(kind)


def _base_contents(reader: Reader, limits: ExpansionLimits) -> Contents:
    """A base backup of Postgres in one tar. Raises DamagedError unless each file is as its manifest has it."""
    found = base_backup.verify_packed(reader, limits)
    if found.problems:
        raise DamagedError(f"base backup: {'; '.join(found.problems[:3])}")
    if found.builds_on:
        raise UnreadableError("it is an incremental base backup", "verify it with the backup that it builds on")
    return Contents("tar", found.files, has_checksum=not found.without_checksum, base_backup=found)


def _tar_contents(reader: Reader, limits: ExpansionLimits) -> Contents:
    if (name := tar.first_name(reader)) == base_backup.FIRST:
        return _base_contents(reader, limits)
    if name.endswith(aof.MANIFEST_SUFFIX):
        return _append_only_contents(reader, limits)
    kept: list[tar.Member] = []
    problems: list[str] = []
    count = 0
    for member in tar.members(reader, limits):
        count += 1
        if len(kept) < _NAMES_KEPT:
            kept.append(member)
        if member.escape and len(problems) < _PROBLEMS_KEPT:
            problems.append(member.escape)
    names = tuple(member.name.removeprefix("./") for member in kept)
    return Contents("tar", count, names, problems=tuple(problems), members=tuple(kept))
