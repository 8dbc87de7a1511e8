"""Reading once, from the first byte to the last: the file and its sha256 together, and exact reads from chunks."""

from __future__ import annotations

import hashlib
import io
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
# A ratio below this much output says nothing: a small file of spaces is no attack.
RATIO_FROM = 64 << 20


class DamagedError(TargetError):
    """The bytes are not what the format demands: cut, flipped, or followed by what does not belong there."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint, cause="malformed")


class UnreadableError(TargetError):
    """Nothing is known to be wrong, but these bytes cannot be read here: a key, a tool or a format is missing."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint, cause="partial")


@dataclass(frozen=True)
class Limits:
    """What an archive may expand to before it is taken for a bomb."""

    plain_bytes: int = 1 << 42
    ratio: float = 300.0  # of a layer's output to the file; text and SQL stay below 30, zeros in gzip reach 1032
    members: int = 5_000_000


class HashedFile(io.RawIOBase):
    """A file whose bytes are hashed by a thread as they are read. `finish` reads what is left.

    hashlib lets go of the interpreter's lock, so that on a second core the sha256 costs no time of its own.
    """

    def __init__(self, path: Path, progress: Callable[[int], None] | None = None) -> None:
        """progress: called with the number of bytes of each piece that was read."""
        super().__init__()
        self._progress = progress
        self._file = path.open("rb", buffering=0)
        self._hash = hashlib.sha256()
        self._pieces: queue.Queue[bytes] = queue.Queue(maxsize=8)
        self._thread = threading.Thread(target=self._hash_pieces, name=f"sha256 {path.name}", daemon=True)
        self._thread.start()
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
        """The sha256 of the whole file in hexadecimal, however much of it was read before."""
        while self.read(CHUNK):
            pass
        self.close()
        return self._hash.hexdigest()

    def close(self) -> None:
        if not self.closed:
            self._pieces.put(b"")
            self._thread.join()
            self._file.close()
        super().close()

    def _hash_pieces(self) -> None:
        while piece := self._pieces.get():
            self._hash.update(piece)


def sha256_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """The sha256 of a whole file in hexadecimal."""
    with HashedFile(path, progress) as file:
        return file.finish()


def chunks_of(file: io.RawIOBase) -> Iterator[bytes]:
    """The rest of a file, piece by piece."""
    while chunk := file.read(CHUNK):
        yield chunk


def limited(chunks: Iterator[bytes], file_bytes: int, limits: Limits) -> Iterator[bytes]:
    """The same chunks. Raises DamagedError as soon as they are more than the limits allow for a file of this size."""
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > limits.plain_bytes:
            raise DamagedError(
                f"expands beyond {format_size(limits.plain_bytes)}", "raise max_plain if such a size is right"
            )
        if total > RATIO_FROM and total > limits.ratio * file_bytes:
            raise DamagedError(
                f"expands to more than {limits.ratio:g} times its size", "raise max_ratio if such a ratio is right"
            )
        yield chunk


class Reader(io.RawIOBase):
    """Exact reads from a stream of chunks. What ends too early is a DamagedError that says where."""

    def __init__(self, chunks: Iterator[bytes], what: str = "the file") -> None:
        super().__init__()
        self._chunks = chunks
        self._buffer = b""
        self._at = 0
        self._before = 0  # bytes of the chunks that are gone
        self.what = what

    @property
    def offset(self) -> int:
        """How many bytes were taken so far."""
        return self._before + self._at

    def readable(self) -> bool:
        return True

    def peek(self, count: int) -> bytes:
        """The next bytes without taking them; fewer at the end."""
        while len(self._buffer) - self._at < count and self._fill():
            pass
        return self._buffer[self._at : self._at + count]

    def take(self, count: int) -> bytes:
        """Exactly so many bytes."""
        end = self._at + count
        if end <= len(self._buffer):
            taken = self._buffer[self._at : end]
            self._at = end
            return taken
        return b"".join(self.pieces(count))

    def byte(self) -> int:
        """One byte as a number."""
        if self._at < len(self._buffer):
            self._at += 1
            return self._buffer[self._at - 1]
        return self.take(1)[0]

    def skip(self, count: int) -> None:
        """Pass over exactly so many bytes; they are decoded and so proven all the same."""
        if self._at + count <= len(self._buffer):
            self._at += count
            return
        for _ in self.pieces(count):
            pass

    def pieces(self, count: int) -> Iterator[bytes]:
        """Exactly so many bytes, as they come."""
        left = count
        while left > 0:
            if self._at == len(self._buffer) and not self._fill():
                raise DamagedError(f"{self.what} ends at byte {self.offset}, {left} bytes too early")
            piece = self._buffer[self._at : self._at + left]
            self._at += len(piece)
            left -= len(piece)
            yield piece

    def rest(self) -> Iterator[bytes]:
        """Everything up to the end."""
        if self._at < len(self._buffer):
            yield self._buffer[self._at :]
        self._at = len(self._buffer)
        while self._fill():
            yield self._buffer
            self._at = len(self._buffer)

    def readinto(self, buffer: WriteableBuffer) -> int:
        """For those who want a file."""
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

_ISAL_ERROR = cast("type[Exception]", igzip_lib.IsalError)  # its stubs call the class an instance

# RFC 8878: a block's output is at most 128 KiB; a window above 128 MiB needs --long, and bounds our memory.
_MOST_WINDOW = 1 << 31
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)


def gunzip(source: Reader) -> Iterator[bytes]:
    """All members of a gzip stream one after the other. CRC and length of each are compared; zeros may follow."""
    file = igzip.IGzipFile(fileobj=source, mode="rb")  # type: ignore[no-untyped-call]
    try:
        while chunk := file.read(CHUNK):
            yield chunk
    except EOFError as error:
        raise DamagedError(f"gzip: ends too early or is followed by junk, near byte {source.offset}") from error
    except (BadGzipFile, _ISAL_ERROR) as error:
        raise DamagedError(f"gzip: {str(error).rstrip('.')}, near byte {source.offset}") from error


class Unzstd:
    """All frames of a zstd stream one after the other, block by block, so that a bomb fills no memory.

    `sealed` is True while every frame so far had a checksum of its content.
    """

    def __init__(self, source: Reader) -> None:
        self._source = source
        self.sealed = True

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
            has_checksum = zstandard.get_frame_parameters(head).has_checksum
            decompressor = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW).decompressobj()
            decompressor.decompress(self._source.take(size))
            last = False
            while not last:
                header = self._source.take(3)
                bits = int.from_bytes(header, "little")
                last = bool(bits & 1)
                stored = 1 if (bits >> 1) & 3 == 1 else bits >> 3  # a run of one byte stores only that byte
                yield decompressor.decompress(header + self._source.take(stored))
            if has_checksum:
                yield decompressor.decompress(self._source.take(4))
        except zstandard.ZstdError as error:
            raise DamagedError(f"zstd: {error}, in the frame at byte {begin}") from error
        if not decompressor.eof:
            raise DamagedError(f"zstd: the frame at byte {begin} does not end where it says")
        self.sealed = self.sealed and has_checksum
