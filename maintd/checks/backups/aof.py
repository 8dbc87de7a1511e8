"""Append-only files of Redis and Valkey: the folder of Redis 7 with its manifest, or a single file of commands.

Source: aof.c of Redis 7.2. The manifest lists a base (a snapshot, or commands), then increments of commands. A server
loads files whose last command is cut (aof-load-truncated), and nothing else that is damaged.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from maintd.checks.backups import rdb, tar
from maintd.checks.backups.stream import (
    DamagedError,
    EndedError,
    ExpansionLimits,
    HashedFile,
    Reader,
    UnreadableError,
    chunks_of,
)

MANIFEST_SUFFIX = ".aof.manifest"
"""Ends the name of the manifest, whose first part is the server's `appendfilename` without .aof by default."""

_LINE = re.compile(rb'file (?P<name>"(?:[^"\\]|\\.)*"|\S+) seq (?P<seq>\d{1,18}) type (?P<kind>[bhi])(?: .*)?')
_MANIFEST_MAX = 1 << 20
_WORDS_MAX = 1 << 24  # words of one command; Redis allows 1 M in queries, more when it rewrites
_LENGTH = re.compile(rb"([*$])(\d{1,10})\r\n")
_ANNOTATION_MAX = 1 << 16


@dataclass
class AppendOnly:
    """What append-only files contain. cut_bytes: after the last whole command; a server drops them when it loads."""

    files: int = 0
    keys: int = 0  # in a base that is a snapshot
    commands: int = 0
    cut_bytes: int = 0

    @property
    def count(self) -> int:
        """Keys and commands together."""
        return self.keys + self.commands


def walk_folder(path: Path, progress: Callable[[int], None] = lambda count: None) -> AppendOnly:
    """Read every file that the manifest of a folder lists. Raises DamagedError, UnreadableError and OSError."""
    manifests = [file for file in sorted(path.glob("*.aof.manifest")) if not file.is_symlink()]
    if len(manifests) != 1:
        raise DamagedError(f"has {len(manifests)} manifests of append-only files instead of one")
    with HashedFile(manifests[0], progress) as file:
        text = file.read(_MANIFEST_MAX + 1) or b""
    if len(text) > _MANIFEST_MAX:
        raise UnreadableError(f"the manifest is larger than {_MANIFEST_MAX} bytes", "verify it by: redis-check-aof")
    found = AppendOnly()
    live = live_files(text)
    for number, (name, kind) in enumerate(live, start=1):
        part = path / name
        if part.is_symlink() or not part.is_file():
            raise DamagedError(f'"{name}" is missing')
        with HashedFile(part, progress) as file:
            _walk_file(Reader(chunks_of(file), f'"{name}"'), kind, found, may_be_cut=number == len(live))
    return found


def walk_packed(source: Reader, limits: ExpansionLimits) -> AppendOnly:
    """Read append-only files in one tar: the manifest first, then the files that it lists, in its order.

    Raises DamagedError and UnreadableError.
    """
    found, live = AppendOnly(), list[tuple[str, str]]()
    for member in tar.members(source, limits):
        name = member.name.rpartition("/")[2]
        if not member.regular:
            continue
        if name.endswith(MANIFEST_SUFFIX):
            if live or member.size_bytes > _MANIFEST_MAX:
                raise DamagedError("has several manifests of append-only files, or one that is too large")
            live = live_files(b"".join(source.pieces(member.size_bytes)))
            continue
        if found.files >= len(live) or live[found.files][0] != name:
            raise DamagedError(f'"{name}" is not the file that the manifest lists at this place')
        content = Reader(source.pieces(member.size_bytes), f'"{name}"')
        _walk_file(content, live[found.files][1], found, may_be_cut=found.files + 1 == len(live))
        for _ in content.rest():
            pass
    if found.files != len(live) or not live:
        raise DamagedError(f"has {found.files} of the {len(live)} files that the manifest lists")
    return found


def live_files(manifest: bytes) -> list[tuple[str, str]]:
    """The files that a server loads, in their order, each with its kind: b base, i increment. Raises DamagedError."""
    listed = [_listed(line) for line in manifest.splitlines() if line.strip() and not line.startswith(b"#")]
    live = [(name, kind) for name, kind in listed if kind != "h"]
    if not live or sum(kind == "b" for _, kind in live) > 1:
        raise DamagedError("the manifest does not list one base or any increment")
    return live


def _walk_file(reader: Reader, kind: str, found: AppendOnly, *, may_be_cut: bool) -> None:
    if kind == "b" and reader.peek(6).startswith((rdb.MAGIC, rdb.MAGIC_VALKEY)):
        snapshot = rdb.walk_rdb(reader)
        if snapshot.unknown:
            raise UnreadableError(snapshot.unknown)
        found.keys += snapshot.keys
    else:
        walk_commands(reader, found, may_be_cut=may_be_cut)
    found.files += 1


def walk_commands(source: Reader, found: AppendOnly, *, may_be_cut: bool) -> None:
    """Read commands to the end of a file."""
    if source.peek(6).startswith((rdb.MAGIC, rdb.MAGIC_VALKEY)):  # Redis before 7 with aof-use-rdb-preamble
        snapshot, source = rdb.walk_prefix(source)
        found.keys += snapshot.keys
    whole = source.offset
    in_transaction = False
    try:
        while source.peek(1):
            name = _command(source)
            if name is None:
                continue
            found.commands += 1
            in_transaction = (in_transaction or name == b"multi") and name != b"exec"
            if not in_transaction:
                whole = source.offset
    except _CutError:
        for _ in source.rest():
            pass
        in_transaction = True
    if in_transaction:
        cut = source.offset - whole
        if not may_be_cut:
            raise DamagedError(f"AOF: {source.what} ends {cut} bytes after its last whole command")
        found.cut_bytes = cut


class _CutError(Exception):
    """The file ends within a command."""


def _command(source: Reader) -> bytes | None:
    """Read one command; return its first word in lower case, or None for an annotation."""
    if source.peek(1) == b"#":
        line = source.peek(_ANNOTATION_MAX)
        end = line.find(b"\n")
        if end < 0:
            raise _CutError if len(line) < _ANNOTATION_MAX else _damage(source)
        source.skip(end + 1)
        return None
    words = _length(source, b"*")
    if not 0 < words <= _WORDS_MAX:
        raise _damage(source)
    first = b""
    for number in range(words):
        size = _length(source, b"$")
        if number == 0 and size <= 100:
            first = source.peek(size)
        _skip_word(source, size)
    return first.lower()


def _length(source: Reader, sign: bytes) -> int:
    head = source.peek(13)
    match = _LENGTH.match(head)
    if match is None:
        # Fewer bytes than the longest number needs, and none that is wrong: the file ends here.
        if len(head) < 13 and re.fullmatch(re.escape(sign) + rb"\d{0,10}\r?", head):
            raise _CutError
        if not head:
            raise _CutError
        raise _damage(source)
    if match[1] != sign:
        raise _damage(source)
    source.skip(match.end())
    return int(match[2])


def _skip_word(source: Reader, size: int) -> None:
    try:
        source.skip(size)
        end = source.take(2)
    except EndedError as error:
        if error.reader is not source:
            raise
        raise _CutError from error
    if end != b"\r\n":
        raise _damage(source)


def _damage(source: Reader) -> DamagedError:
    return DamagedError(f"AOF: {source.what} has no command at byte {source.offset}")


def _listed(line: bytes) -> tuple[str, str]:
    match = _LINE.fullmatch(line.strip())
    name = match["name"].strip(b'"').decode("utf-8", "surrogateescape") if match else ""
    if match is None or not name or "/" in name or name in (".", ".."):
        raise DamagedError(f"the manifest has an odd line: {line[:80]!r}")
    return name, match["kind"].decode("ascii")
