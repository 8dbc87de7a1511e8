"""Folders and files as a tar, written in chunks, and its encryption to age recipients."""

from __future__ import annotations

import os
import pwd
import queue
import stat
import tarfile
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyrage
from isal import isal_zlib

from maintd.checks.backup_sets.writer import StreamDecoder
from maintd.checks.backups.archive import Contents
from maintd.checks.backups.stream import CHUNK, Reader, open_regular
from maintd.clients.causes import cause_of
from maintd.clients.files import shown
from maintd.errors import JobError, TargetError

_BLOCK = tarfile.BLOCKSIZE
MEMBERS_KEPT = 100_000
"""Members with their size and sha256 in the manifest; of more, only the number is recorded."""


@dataclass
class Packing:
    """A tar of one folder or file, and what was found in it.

    hashes: record the sha256 of each file. Not for secrets: a short one can be guessed from it.
    """

    root: Path
    hashes: bool
    members: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0
    unread: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def chunks(self) -> Iterator[bytes]:
        """Yield the tar. Raises TargetError when the root cannot be read; other errors are kept in `unread`."""
        try:
            root = self.root.resolve(strict=True)
            os.scandir(root).close() if root.is_dir() else open_regular(root).close()
        except OSError as error:
            cause = "not_found" if isinstance(error, FileNotFoundError) else cause_of(error) or "failed"
            hint = "mount it, correct the path, or let maintd's user read it"
            raise TargetError(f"{shown(self.root)}: {error.strerror}", hint, cause=cause) from error
        yield from self._item(root, root.name or "root")
        yield bytes(2 * _BLOCK)

    def _item(self, path: Path, name: str) -> Iterator[bytes]:
        try:
            found = path.lstat()
            member = _member(name, found)
            if stat.S_ISLNK(found.st_mode):
                member.type, member.linkname = tarfile.SYMTYPE, str(path.readlink())
            elif stat.S_ISDIR(found.st_mode):
                member.type = tarfile.DIRTYPE
            elif not stat.S_ISREG(found.st_mode):
                return  # a socket, pipe or device holds no data
            below = sorted(path.iterdir()) if member.isdir() else []
            file = open_regular(path) if member.isreg() else None
        except FileNotFoundError:
            return  # deleted since it was listed
        except OSError as error:
            self.unread.append(f"{shown(name)}: {error.strerror}")
            return
        if file is not None:
            with file:
                yield from self._file(member, file.fileno())
        else:
            yield tar_header(member)
            self._add(member, "")
        for item in below:
            yield from self._item(item, f"{name}/{item.name}")

    def _file(self, member: tarfile.TarInfo, descriptor: int) -> Iterator[bytes]:
        before = os.fstat(descriptor)
        member.size = before.st_size
        yield tar_header(member)
        digest, left = sha256(), before.st_size
        try:
            while left and (chunk := os.read(descriptor, min(left, CHUNK))):
                digest.update(chunk)
                left -= len(chunk)
                yield chunk
        except OSError as error:
            self.unread.append(f"{shown(member.name)}: {error.strerror}")
        while left:  # it was truncated: its size is written already
            fill = bytes(min(left, CHUNK))
            digest.update(fill)
            left -= len(fill)
            yield fill
        yield bytes(-before.st_size % _BLOCK)
        after = os.fstat(descriptor)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            self.changed.append(shown(member.name))
        self._add(member, digest.hexdigest())

    def _add(self, member: tarfile.TarInfo, digest: str) -> None:
        self.count += 1
        if len(self.members) < MEMBERS_KEPT:
            kind = "file" if member.isreg() else "folder" if member.isdir() else "link"
            about = {"name": shown(member.name), "kind": kind, "mode": f"{member.mode:o}", "size_bytes": member.size}
            self.members.append(about | ({"sha256": digest} if self.hashes and digest else {}))


def gzipped(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Compress with gzip, whose CRC protects what is inside."""
    packer = zlib.compressobj(6, wbits=31)
    for chunk in chunks:
        if packed := packer.compress(chunk):
            yield packed
    yield packer.flush()


def quickly_gzipped(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Compress with gzip in about a third of the time of `gzipped`, and to about a tenth more bytes."""
    packer = isal_zlib.compressobj(2, wbits=31)
    for chunk in chunks:
        if packed := packer.compress(chunk):
            yield packed
    yield packer.flush()


def parse_recipient(text: str) -> Any:
    """An age recipient: `age1…`, or a public key of ssh. Raises ValueError, whose message has what is wrong."""
    try:
        parse = pyrage.ssh.Recipient.from_str if text.startswith("ssh-") else pyrage.x25519.Recipient.from_str
        return parse(text.strip())
    except (pyrage.RecipientError, ValueError) as error:
        if text.startswith("AGE-SECRET-KEY-"):
            raise ValueError("this is the secret key; a recipient is its public key: age-keygen -y FILE") from None
        raise ValueError(
            f'"{text[:20]}" is not an age recipient ({error}): write age1…, from age-keygen -y FILE, or ssh-ed25519 …'
        ) from None


class Sealed:
    """Chunks encrypted to recipients; what is encrypted is decoded on the way, since nothing here can decrypt it."""

    def __init__(self, chunks: Iterator[bytes], kind: str, recipients: Sequence[str]) -> None:
        try:
            self._recipients = [parse_recipient(text) for text in recipients]
        except ValueError as error:
            hint = "write public keys of age or ssh; age-keygen -y FILE prints that of a key file"
            raise JobError(f"recipients: {error}", hint) from None
        self._plain = chunks
        self._decoder = StreamDecoder(kind)
        self._queue: queue.Queue[bytes | Exception | None] = queue.Queue(maxsize=8)
        self._stopped = threading.Event()

    def chunks(self) -> Iterator[bytes]:
        """Yield the encrypted bytes. Raises what the chunks raise."""
        thread = threading.Thread(target=self._encrypt, name="age", daemon=True)
        thread.start()
        try:
            while (item := self._queue.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self._stopped.set()
            while thread.is_alive():
                try:
                    self._queue.get(timeout=0.05)
                except queue.Empty:
                    continue
            self._decoder.stop()

    def contents(self) -> Contents:
        """What is encrypted, decoded. Raises DamagedError."""
        return self._decoder.finish()

    def write(self, data: bytes) -> int:
        """Called by pyrage."""
        if self._stopped.is_set():
            raise BrokenPipeError("the writer has stopped")
        self._queue.put(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Called by pyrage; nothing is buffered."""

    def _encrypt(self) -> None:
        failure: list[Exception] = []

        def fed() -> Iterator[bytes]:
            try:
                for chunk in self._plain:
                    self._decoder.feed(chunk)
                    yield chunk
            except Exception as error:
                failure.append(error)
                raise

        try:
            pyrage.encrypt_io(Reader(fed()), self, self._recipients)
        except Exception as error:  # noqa: BLE001 - raised again in the thread of the writer
            self._queue.put(failure[0] if failure else error)
        self._queue.put(None)


def _member(name: str, found: os.stat_result) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.mode, member.mtime = stat.S_IMODE(found.st_mode), int(found.st_mtime)
    member.uid, member.gid = found.st_uid, found.st_gid
    try:
        member.uname = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        member.uname = ""
    return member


def tar_header(member: tarfile.TarInfo) -> bytes:
    """The header of a member, before its content."""
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
