"""Writing a set: files hashed and decoded while they are written, synced, and renamed when all is whole."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from maintd.checks.backup_sets.layout import LOCK, MANIFEST, SUMS, set_name, temporary_name
from maintd.checks.backups.archive import Contents, read_stream
from maintd.checks.backups.stream import CHUNK, UnreadableError, open_regular
from maintd.clients.causes import cause_of
from maintd.clients.files import shown
from maintd.errors import TargetError
from maintd.units import format_size

_CHECK_EVERY = 32 << 20  # bytes between two checks of the free space
_FULL = {errno.ENOSPC, errno.EDQUOT}
_QUEUED = 8  # chunks between the writer and its decoder


@dataclass(frozen=True)
class WrittenFile:
    """A file of the set. `contents` is None when it could not be decoded, for the reason `unread`."""

    name: str
    size_bytes: int
    sha256: str
    kind: str
    contents: Contents | None
    unread: str = ""

    def record(self) -> dict[str, Any]:
        """Its entry in the manifest."""
        verified = "checksum" if self.contents is None else "decode"
        found: dict[str, Any] = {"size_bytes": self.size_bytes, "sha256": self.sha256, "kind": self.kind}
        found["verified"] = verified
        return found | ({"entries": self.contents.count} if self.contents is not None else {"unread": self.unread})


class StreamDecoder:
    """Decodes chunks in a thread while they are written, so that nothing is read twice."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._queue: queue.Queue[bytes] = queue.Queue(maxsize=_QUEUED)
        self._contents: Contents | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._decode, name=f"decode {kind}", daemon=True)
        self._thread.start()

    def feed(self, chunk: bytes) -> None:
        """Add a chunk, not empty; waits while the decoder is slower. What is wrong with it is raised by `finish`."""
        if chunk:
            self._queue.put(chunk)

    def finish(self) -> Contents:
        """The contents, after the last chunk. Raises DamagedError, UnreadableError, and what was unforeseen."""
        self.stop()
        if self._error is not None:
            raise self._error
        assert self._contents is not None
        return self._contents

    def stop(self) -> None:
        """End the thread; nothing can be added any more."""
        if self._thread.is_alive():
            self._queue.put(b"")
            self._thread.join()

    def _decode(self) -> None:
        chunks = self._chunks()
        try:
            self._contents = read_stream(chunks, self._kind)
        except Exception as error:  # noqa: BLE001 - raised again by `finish`, in the thread of the writer
            self._error = error
        for _ in chunks:  # the writer must not wait for a decoder that has given up
            pass

    def _chunks(self) -> Iterator[bytes]:
        while chunk := self._queue.get():
            yield chunk


class SetWriter:
    """A set below its temporary name in a folder; `min_free` bytes of the disk stay free."""

    def __init__(self, folder: Path, name: str, min_free: int, progress: Callable[[int], None]) -> None:
        self.name = name
        self.folder = folder
        self.path = folder / temporary_name(name, "partial")
        self._min_free = min_free
        self._progress = progress
        self._sums: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Remove what was not completed; what cannot be removed is removed by the next run."""
        shutil.rmtree(self.path, ignore_errors=True)

    def create(self) -> None:
        """Create the folder. Raises TargetError."""
        with os_errors(self.folder):
            self.path.mkdir(mode=0o700)

    def write(self, name: str, chunks: Iterator[bytes], kind: str) -> WrittenFile:
        """Write a file of this kind from chunks, synced to the disk, or nothing.

        Raises DamagedError when what was written is not sound, TargetError when the disk is full, and what the chunks
        raise.
        """
        path, digest, size, checked = self.path / name, hashlib.sha256(), 0, 0
        decoder = StreamDecoder(kind)
        try:
            with os_errors(path):
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb", buffering=0) as file:
                for chunk in chunks:
                    with os_errors(path):
                        left = memoryview(chunk)
                        while left:
                            left = left[file.write(left) or 0 :]
                    digest.update(chunk)
                    decoder.feed(chunk)
                    size += len(chunk)
                    self._progress(len(chunk))
                    if size - checked >= _CHECK_EVERY:
                        checked = size
                        self._require_space()
                with os_errors(path):
                    os.fsync(file.fileno())
            contents, unread = _decoded(decoder)
        except BaseException:
            decoder.stop()
            path.unlink(missing_ok=True)
            raise
        self._sums[name] = digest.hexdigest()
        return WrittenFile(name, size, self._sums[name], kind, contents, unread)

    def keep_only(self, names: Iterable[str]) -> None:
        """Remove written files with other names, such as one that turned out to be damaged."""
        for name in self._sums.keys() - set(names):
            (self.path / name).unlink(missing_ok=True)
            del self._sums[name]

    def complete(self, manifest: dict[str, Any]) -> Path:
        """Write the manifest and the list of sums, and give the set its name: from then on it is a backup."""
        with os_errors(self.path):
            text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=True) + "\n"
            self._sums[MANIFEST] = hashlib.sha256(text.encode()).hexdigest()
            write_synced(self.path / MANIFEST, text)
            write_synced(self.path / SUMS, "".join(f"{sha}  {name}\n" for name, sha in sorted(self._sums.items())))
            return self._rename()

    def copy(self, source: Path, sums: dict[str, str]) -> Path:
        """Copy a whole set, whose files have these checksums, and give it its name. Raises TargetError."""
        for path in sorted(source.iterdir()):
            written = self._copy_file(path)
            if sums.get(path.name, written) != written:
                message = f"{shown(path)}: has changed since it was written"
                raise TargetError(message, "check the disk", cause="malformed")
        with os_errors(self.path):
            return self._rename()

    def _rename(self) -> Path:
        sync_folder(self.path)
        final = self.folder / self.name
        self.path.rename(final)
        sync_folder(self.folder)
        return final

    def _copy_file(self, source: Path) -> str:
        path, digest = self.path / source.name, hashlib.sha256()
        with os_errors(path), open_regular(source) as original, _create(path) as file:
            while chunk := original.read(CHUNK):
                file.write(chunk)
                digest.update(chunk)
                self._progress(len(chunk))
            file.flush()
            os.fsync(file.fileno())
        self._require_space()
        return digest.hexdigest()

    def _require_space(self) -> None:
        free = shutil.disk_usage(self.path).free
        if free < self._min_free:
            raise TargetError(
                f"{shown(self.folder)}: {format_size(free)} free, and {format_size(self._min_free)} must stay free",
                "free space on this disk, or keep fewer sets",
                cause="failed",
            )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only run that writes into this folder. Raises TargetError (cause `conflict`) beside another one."""
    with os_errors(folder):
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "wait for its end: see maintd status; two runs do not write into one folder"
            raise TargetError(f"{shown(folder)}: another run writes into it", hint, cause="conflict") from None
        yield
    finally:
        os.close(descriptor)


def free_name(folder: Path, now: Callable[[], datetime]) -> str:
    """The name of a set made now; waits for the next second when another has it."""
    while True:
        name = set_name(now())
        if not (folder / name).exists() and not (folder / temporary_name(name, "partial")).exists():
            return name
        time.sleep(0.1)


@contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """Raise errors of the operating system in this block as TargetErrors with what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise TargetError(
                f"{shown(path)}: the disk is full", "free space on this disk, or keep fewer sets", cause="failed"
            ) from error
        hints = {
            errno.EROFS: "mount it writable",
            errno.EACCES: "let maintd's user write there",
            errno.EPERM: "let maintd's user write there",
            errno.ENOENT: "create the folder, mount it, or correct its path",
        }
        cause = "not_found" if error.errno == errno.ENOENT else cause_of(error) or "failed"
        hint = hints.get(error.errno or 0, "check the disk and the file system: see dmesg")
        raise TargetError(f"{shown(path)}: {error.strerror or error}", hint, cause=cause) from error


def _decoded(decoder: StreamDecoder) -> tuple[Contents | None, str]:
    """What was decoded, or why it could not be, though it may be sound. Raises DamagedError."""
    try:
        contents = decoder.finish()
    except UnreadableError as error:
        return None, error.message
    return (None, contents.unread) if contents.unread else (contents, "")


def _create(path: Path) -> Any:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def write_synced(path: Path, text: str) -> None:
    """Write a new file that only its owner can read, synced to the disk."""
    with _create(path) as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
