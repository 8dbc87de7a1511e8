"""Streams: files hashed while they are read, exact reads from chunks, and gzip and zstd decompression."""

from __future__ import annotations

import bz2
import hashlib
import io
import lzma
import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path
from typing import TYPE_CHECKING, cast

import zstandard
from isal import igzip, igzip_lib

from maintd.errors import TargetError
from maintd.units import format_size

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 1 << 20
MOST_TAKEN = 64 << 20
# The ratio is not checked below this much output: a small file of spaces is not an attack.
RATIO_FROM = 64 << 20


class DamagedError(TargetError):
    """The data violates its format: truncated, corrupted, or followed by junk."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint, cause="malformed")


class EndedError(DamagedError):
    """A Reader ends too early."""

    def __init__(self, message: str, reader: Reader) -> None:
        super().__init__(message)
        self.reader = reader


class UnreadableError(TargetError):
    """The data may be intact, but cannot be read: the key is missing, or the format is not supported."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint, cause="partial")


class LimitReachedError(UnreadableError):
    """The data was read up to a limit of ExpansionLimits: nothing is known of the rest."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(f"{message}: not verified beyond", f"raise the param {param} to verify all of it")


@dataclass(frozen=True)
class ExpansionLimits:
    """How much of an archive is decoded, so that a decompression bomb ends early. What is beyond is not verified."""

    plain_bytes: int = 1 << 42
    ratio: float = 300.0  # of a layer's output to the file; text and SQL are below 30, zeros in gzip reach 1032
    members: int = 5_000_000


class HashedFile(io.RawIOBase):
    """A file that a thread hashes while it is read. `finish` reads the rest.

    hashlib releases the GIL, so that with a second core hashing takes no extra time.
    """

    _hashing = False  # a file that could not be opened is closed too, by the garbage collector

    def __init__(self, path: Path, progress: Callable[[int], None] | None = None) -> None:
        """progress: called with the number of bytes of each read."""
        super().__init__()
        self._progress = progress
        self._file = open_regular(path)
        self._hash = hashlib.sha256()
        self._pieces: queue.Queue[bytes] = queue.Queue(maxsize=8)
        self._thread = threading.Thread(target=self._hash_pieces, name=f"sha256 {path.name}", daemon=True)
        self._thread.start()
        self._hashing = True
        self.size_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        count = self._file.readinto(view) or 0
        if count:
            self._pieces.put(bytes(view[:count]))
            self.size_bytes += count
            if self._progress is not None:
                self._progress(count)
        return count

    def finish(self) -> str:
        """Read the rest and return the sha256 of the whole file in hexadecimal."""
        while self.read(CHUNK):
            pass
        self.close()
        return self._hash.hexdigest()

    def close(self) -> None:
        if self._hashing:
            self._hashing = False
            self._pieces.put(b"")
            self._thread.join()
            self._file.close()
        super().close()

    def _hash_pieces(self) -> None:
        while piece := self._pieces.get():
            self._hash.update(piece)


def open_regular(path: Path) -> io.FileIO:
    """Open a file that was listed as a regular one: a link in its place is not followed, a pipe not waited for.

    Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    return io.FileIO(descriptor, "rb")


def sha256_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with HashedFile(path, progress) as file:
        return file.finish()


def chunks_of(file: io.RawIOBase) -> Iterator[bytes]:
    """Yield the rest of a file in chunks."""
    while chunk := file.read(CHUNK):
        yield chunk


def limited(chunks: Iterator[bytes], file_bytes: int, limits: ExpansionLimits) -> Iterator[bytes]:
    """Yield the chunks. Raises LimitReachedError when they exceed the limits for a file of `file_bytes`."""
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > limits.plain_bytes:
            raise LimitReachedError(f"expands to more than {format_size(limits.plain_bytes)}", "max_plain")
        if total > RATIO_FROM and total > limits.ratio * file_bytes:
            raise LimitReachedError(f"expands to more than {limits.ratio:g} times its size", "max_ratio")
        yield chunk


class Reader(io.RawIOBase):
    """Exact reads from an iterator of chunks. Raises DamagedError with the position when it ends too early."""

    def __init__(self, chunks: Iterator[bytes], what: str = "the file") -> None:
        super().__init__()
        self._chunks = chunks
        self._buffer = b""
        self._at = 0
        self._before = 0  # bytes of the chunks before the buffer
        self.what = what

    @property
    def offset(self) -> int:
        """The number of bytes read so far."""
        return self._before + self._at

    def readable(self) -> bool:
        return True

    def peek(self, count: int) -> bytes:
        """Return the next bytes without consuming them; fewer at the end."""
        while len(self._buffer) - self._at < count and self._fill():
            pass
        return self._buffer[self._at : self._at + count]

    def take(self, count: int) -> bytes:
        """Read exactly `count` bytes into memory; a length of more than 64 MiB, which the data declares, is damage."""
        if count > MOST_TAKEN:
            raise DamagedError(f"{self.what} declares {count} bytes at byte {self.offset}, where a short value belongs")
        end = self._at + count
        if end <= len(self._buffer):
            taken = self._buffer[self._at : end]
            self._at = end
            return taken
        return b"".join(self.pieces(count))

    def byte(self) -> int:
        """Read one byte as a number."""
        if self._at < len(self._buffer):
            self._at += 1
            return self._buffer[self._at - 1]
        return self.take(1)[0]

    def skip(self, count: int) -> None:
        """Skip exactly `count` bytes; they are still decoded, and so verified."""
        if self._at + count <= len(self._buffer):
            self._at += count
            return
        for _ in self.pieces(count):
            pass

    def pieces(self, count: int) -> Iterator[bytes]:
        """Yield exactly `count` bytes in pieces."""
        left = count
        while left > 0:
            if self._at == len(self._buffer) and not self._fill():
                raise EndedError(f"{self.what} ends at byte {self.offset}, {left} bytes too early", self)
            piece = self._buffer[self._at : self._at + left]
            self._at += len(piece)
            left -= len(piece)
            yield piece

    def rest(self) -> Iterator[bytes]:
        """Yield everything up to the end in pieces."""
        if self._at < len(self._buffer):
            yield self._buffer[self._at :]
        self._at = len(self._buffer)
        while self._fill():
            yield self._buffer
            self._at = len(self._buffer)

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read like a file."""
        view = memoryview(buffer).cast("B")
        if self._at == len(self._buffer) and not self._fill():
            return 0
        piece = self._buffer[self._at : self._at + len(view)]
        view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def _fill(self) -> bool:
        for chunk in self._chunks:
            if chunk:
                left = self._buffer[self._at :]
                self._before += self._at
                self._buffer = left + chunk if left else chunk
                self._at = 0
                return True
        return False


GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
XZ_MAGIC = b"\xfd7zXZ\0"
BZIP2_MAGIC = b"BZh"

ISAL_ERROR = cast("type[Exception]", igzip_lib.IsalError)  # its stubs declare an instance

# RFC 8878: the output of a block is at most 128 KiB. Windows above 128 MiB need zstd's --long=28 to 31 at both ends,
# and that much memory.
_MOST_WINDOW = 1 << 27
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)


def gunzip(source: Reader) -> Iterator[bytes]:
    """Decompress all members of a gzip stream, and verify the CRC and length of each; zeros may follow."""
    file = igzip.IGzipFile(fileobj=source, mode="rb")  # type: ignore[no-untyped-call]
    try:
        while chunk := file.read(CHUNK):
            yield chunk
    except EOFError as error:
        raise DamagedError(f"gzip: ends too early or is followed by junk, near byte {source.offset}") from error
    except (BadGzipFile, ISAL_ERROR) as error:
        raise DamagedError(f"gzip: {str(error).rstrip('.')}, near byte {source.offset}") from error


def unxz(source: Reader) -> Iterator[bytes]:
    """Decompress all streams of an xz file, and verify the check of each. At most 128 MiB of memory."""

    def make() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MOST_WINDOW)

    return _decompress(source, make, "xz", padding=True)


def bunzip2(source: Reader) -> Iterator[bytes]:
    """Decompress all streams of a bzip2 file, and verify the CRC of each."""
    return _decompress(source, bz2.BZ2Decompressor, "bzip2", padding=False)


def _decompress(
    source: Reader,
    make: Callable[[], lzma.LZMADecompressor | bz2.BZ2Decompressor],
    name: str,
    *,
    padding: bool,
) -> Iterator[bytes]:
    """Decompress concatenated streams in pieces of at most 1 MiB. padding: zeros may follow a stream, in fours."""
    pieces = source.rest()
    rest = next(pieces, b"")
    try:
        while rest:
            decompressor = make()
            while not decompressor.eof:
                if decompressor.needs_input and not rest:
                    rest = next(pieces, b"")
                    if not rest:
                        raise DamagedError(f"{name}: ends too early")
                yield decompressor.decompress(rest, CHUNK)
                rest = b""
            rest = decompressor.unused_data or next(pieces, b"")
            while padding and rest and not rest.strip(b"\0"):
                rest = next(pieces, b"")
            if padding:
                rest = rest.lstrip(b"\0")
    except (OSError, lzma.LZMAError, EOFError) as error:
        if "emory" in str(error):
            raise UnreadableError(f"{name}: {error}", "compress with a smaller dictionary") from error
        raise DamagedError(f"{name}: {error}") from error


class ZstdReader:
    """Decompresses all frames of a zstd stream, block by block, so that a decompression bomb cannot fill the memory.

    `has_checksum` is True while every frame so far has a checksum of its content.
    """

    def __init__(self, source: Reader) -> None:
        self._source = source
        self.has_checksum = True

    def chunks(self) -> Iterator[bytes]:
        """The decompressed bytes."""
        while head := self._source.peek(18):
            magic = int.from_bytes(head[:4], "little")
            if len(head) >= 8 and magic in _SKIPPABLE:
                self._source.skip(8 + int.from_bytes(head[4:8], "little"))
            elif head[:4] == ZSTD_MAGIC:
                yield from self._frame(head)
            else:
                raise DamagedError(f"zstd: junk at byte {self._source.offset}")

    def _frame(self, head: bytes) -> Iterator[bytes]:
        begin = self._source.offset
        try:
            size = zstandard.frame_header_size(head)
            parameters = zstandard.get_frame_parameters(head)
            has_checksum = parameters.has_checksum
            if parameters.window_size > _MOST_WINDOW:
                needed, most = format_size(parameters.window_size), format_size(_MOST_WINDOW)
                raise UnreadableError(f"zstd: needs {needed} of memory, {most} at most", "compress with --long=27")
            decompressor = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW).decompressobj()
            decompressor.decompress(self._source.take(size))
            last = False
            while not last:
                header = self._source.take(3)
                bits = int.from_bytes(header, "little")
                last = bool(bits & 1)
                stored = 1 if (bits >> 1) & 3 == 1 else bits >> 3  # an RLE block stores one byte
                yield decompressor.decompress(header + self._source.take(stored))
            if has_checksum:
                yield decompressor.decompress(self._source.take(4))
        except zstandard.ZstdError as error:
            raise DamagedError(f"zstd: {error}, in the frame at byte {begin}") from error
        if not decompressor.eof:
            raise DamagedError(f"zstd: the frame at byte {begin} has the wrong length")
        self.has_checksum = self.has_checksum and has_checksum
