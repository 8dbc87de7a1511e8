"""What an archive is wrapped in: gzip and zstd compression. Each layer is read to its very end, with its checksums."""

from __future__ import annotations

from collections.abc import Iterator
from gzip import BadGzipFile
from typing import cast

import zstandard
from isal import igzip, igzip_lib

from maintd.checks.backups.stream import CHUNK, DamagedError, Reader

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
