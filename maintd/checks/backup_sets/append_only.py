"""Append-only files of Redis and Valkey from version 7 on: those that the server loads at its start, as one tar.

Redis' documentation turns automatic rewrites off during a copy, or only while hard links to the files are made, since
the files of one manifest are only appended to or replaced as a whole. Here the files are opened instead of linked, and
the manifest is read before and after: when it is the same, the open files are those of one manifest, and they stay
whatever a rewrite replaces. So no setting of the server is changed, none has to be restored after a kill, and the user
needs no CONFIG SET.
Source: "Backing up AOF persistence" in Redis' documentation of persistence.
"""

from __future__ import annotations

import os
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from io import FileIO
from pathlib import Path
from typing import Any

from maintd.checks.backup_sets.layout import safe_name
from maintd.checks.backup_sets.packing import quickly_gzipped, tar_header
from maintd.checks.backup_sets.writer import SetWriter, WrittenFile
from maintd.checks.backups.aof import MANIFEST_SUFFIX, live_files
from maintd.checks.backups.stream import CHUNK, DamagedError, open_regular
from maintd.clients.files import shown
from maintd.clients.redis import RedisServer
from maintd.errors import TargetError

FOLDER = "appendonlydir"
"""The folder in the tar, whatever the server's `appenddirname` is."""

_TRIES = 20  # each fails when a rewrite ends just then
_PAUSE = 0.25  # seconds
_MANIFEST_MAX = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
_MODE = "let maintd's user read the files, whose mode is 0600: run it as their owner, or set an ACL"


@dataclass
class Opened:
    """The files of one manifest, with the sizes that they had. `quiet`: nothing was written between two looks."""

    folder: Path
    name: str  # of the manifest
    manifest: bytes
    files: list[tuple[str, FileIO, int]] = field(default_factory=list)
    base: str = ""  # name of the file that the increments follow, if there is one
    quiet: bool = False

    def is_of(self, least: int, most: int) -> bool:
        """Whether these are the files of a server whose own figure was `least` before, and `most` afterwards.

        A server that began empty does not count its base until it is started again or rewrites it (seen with 7.0).
        """
        base = sum(size for name, _, size in self.files if name == self.base)
        return any(least <= self.size_bytes - uncounted <= most for uncounted in (0, base))

    @property
    def size_bytes(self) -> int:
        """Of the files together, without the manifest."""
        return sum(size for _, _, size in self.files)

    def chunks(self) -> Iterator[bytes]:
        """Yield a tar: the manifest first, then the files in its order, each up to the size that it had."""
        yield from _member(self.name, len(self.manifest))
        yield self.manifest + bytes(-len(self.manifest) % _BLOCK)
        for name, file, size in self.files:
            yield from _member(name, size)
            left = size
            while left:
                chunk = file.read(min(left, CHUNK))
                if not chunk:
                    text = f'{shown(self.folder)}: "{name}" became shorter, which no server does'
                    raise TargetError(text, "find out what else writes there", cause="malformed")
                left -= len(chunk)
                yield chunk
            yield bytes(-size % _BLOCK)
        yield bytes(2 * _BLOCK)


def find(server: RedisServer, given: Path | None) -> tuple[Path, str]:
    """The folder with the append-only files of this server, and the name of their manifest.

    given: the server's data folder as it is seen here; None: as the server names it, when it runs on this machine.
    Raises TargetError with what to mount or set.
    """
    if int(str(server.info("server").get("redis_version", "0")).partition(".")[0]) < 7:
        raise TargetError("before Redis 7 they are one file, which is not backed up here", "upgrade it")
    settings = _settings(server)
    where = settings.get("dir", "its data folder")
    hint = f"mount {where} of the server readable into maintd, and set redis_data: {{{server.name}: its path here}}"
    if given is None and not server.is_local:
        raise TargetError("it runs on another machine or in a container", hint, cause="not_configured")
    root = given if given is not None else Path(where)
    problem: OSError | None = None
    for folder in (root / settings.get("appenddirname", FOLDER), root):
        try:
            found = sorted(path.name for path in folder.iterdir() if path.name.endswith(MANIFEST_SUFFIX))
        except OSError as error:
            problem = problem or error
            continue
        wanted = f"{settings['appendfilename']}.manifest" if "appendfilename" in settings else ""
        names = [name for name in found if name == wanted or not wanted]
        if len(names) == 1:
            return folder, names[0]
    text = f"no manifest of append-only files in {shown(root)}{f': {problem.strerror}' if problem else ''}"
    raise TargetError(text, hint, cause="not_found")


def open_files(stack: ExitStack, server: RedisServer, folder: Path, name: str, patience: timedelta) -> Opened:
    """Open the files of one manifest, which are those of this server by their size. Raises TargetError.

    A rewrite is waited for, at most `patience`. The stack closes the files.
    """
    _wait_for_rewrite(server, patience)
    seen = ""
    for number in range(_TRIES):
        if number:
            time.sleep(_PAUSE)
        before = server.info("persistence")
        with ExitStack() as attempt:
            try:
                opened = _open_once(attempt, folder, name)
            except FileNotFoundError as error:
                seen = f'"{Path(error.filename).name}" is gone'
                continue
            except OSError as error:
                raise TargetError(f"{shown(folder)}: {error.strerror}", _MODE, cause="denied") from error
            after = server.info("persistence")
            if opened is None:
                seen = "the manifest has changed"
                continue
            least, most = int(before.get("aof_current_size", -1)), int(after.get("aof_current_size", -1))
            if not opened.is_of(least, most):
                seen = f"they have {opened.size_bytes} bytes, and the server's have {most}"
                continue
            opened.quiet = least == most
            stack.push(attempt.pop_all())
            return opened
    hint = f"are these the files of {server.name}? Correct redis_data"
    raise TargetError(f"{shown(folder)}: {seen}", hint, cause="malformed")


def look(server: RedisServer, given: Path | None) -> str:
    """Open the files and read nothing, as `doctor` does; what was seen. Raises TargetError."""
    if not server.info("persistence").get("aof_enabled"):
        return "it uses none"
    folder, name = find(server, given)
    with ExitStack() as stack:
        try:
            opened = _open_once(stack, folder, name)
        except FileNotFoundError:
            opened = None  # a rewrite has just replaced it
        except OSError as error:
            raise TargetError(f"{shown(folder)}: {error.strerror}", _MODE, cause="denied") from error
        return f"{len(opened.files)} files in {folder}" if opened is not None else f"in {folder}"


def save(writer: SetWriter, server: RedisServer, opened: Opened) -> tuple[WrittenFile, dict[str, Any]]:
    """Write the files; return the file of the set and what its manifest has about them. Raises TargetError."""
    before = keyspace(server)
    file = writer.write(f"redis-{safe_name(server.name)}-aof.tar.gz", quickly_gzipped(opened.chunks()), "tar.gz")
    after = keyspace(server)
    return file, {
        "form": "append-only files",
        "append_name": opened.name.removesuffix(".manifest"),
        "files": len(opened.files),
        "size_bytes": opened.size_bytes,
        # What is loaded lies about here: keys come and go while they are copied, and expire until they are loaded.
        "keys_at_least": min(before[0], after[0]),
        "keys_expiring": max(before[1], after[1]),
        "quiet": opened.quiet and before == after,
    }


def keyspace(server: RedisServer) -> tuple[int, int]:
    """The keys in all databases, and those of them that expire. Raises TargetError."""
    answer: Mapping[str, Any] = server.info("keyspace")
    found = [value for name, value in answer.items() if name.startswith("db")]
    if not all(isinstance(value, dict) for value in found):
        raise TargetError(f"{server.name}: INFO keyspace is not what Redis answers", cause="malformed")
    return sum(int(value["keys"]) for value in found), sum(int(value["expires"]) for value in found)


def _settings(server: RedisServer) -> dict[str, str]:
    """Those that name the files; empty when the user may not read them."""
    found: dict[str, str] = {}
    for name in ("dir", "appenddirname", "appendfilename"):
        try:
            answer = server.command("CONFIG", "GET", name)
        except TargetError as error:
            if error.cause != "denied":
                raise
            return found
        pairs = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=False))
        found |= {str(key): str(value) for key, value in pairs.items()}
    return found


def _wait_for_rewrite(server: RedisServer, patience: timedelta) -> None:
    deadline = time.monotonic() + patience.total_seconds()
    while True:
        info = server.info("persistence")
        if info.get("aof_last_write_status") not in (None, "ok"):
            text = f"{server.name}: its last write to its append-only files failed"
            raise TargetError(text, "it cannot save: check its disk and its log", cause="failed")
        if not (info.get("aof_rewrite_in_progress") or info.get("aof_rewrite_scheduled")):
            return
        if time.monotonic() > deadline:
            text = f"{server.name}: the rewrite of its append-only files does not end"
            raise TargetError(text, "see INFO persistence, and its log", cause="timed_out")
        time.sleep(_PAUSE)


def _open_once(stack: ExitStack, folder: Path, name: str) -> Opened | None:
    """The files of the manifest; None when it changed before all were open. Raises OSError and TargetError."""
    manifest = _read(folder / name)
    listed = live_files(manifest)
    files = [(one, stack.enter_context(open_regular(folder / one))) for one, _ in listed]
    if _read(folder / name) != manifest:
        return None
    sizes = [(one, file, os.fstat(file.fileno()).st_size) for one, file in files]
    return Opened(folder, name, manifest, sizes, next((one for one, kind in listed if kind == "b"), ""))


def _read(path: Path) -> bytes:
    with open_regular(path) as file:
        data = file.read(_MANIFEST_MAX + 1) or b""
    if len(data) > _MANIFEST_MAX:
        raise DamagedError(f"{shown(path)}: is too large for a manifest")
    return data


def _member(name: str, size: int) -> Iterator[bytes]:
    member = tarfile.TarInfo(f"{FOLDER}/{name}")
    member.size, member.mode = size, 0o600
    yield tar_header(member)
