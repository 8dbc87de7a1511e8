"""A fast scanner for the few lines of a log that may have the status 401 or 403, in any format.

It searches blocks for the bytes only, and the caller parses the lines around the hits: digits that stand by themselves,
and are neither in a path nor in a query string. All of a log is searched. With numpy that takes one pass at about
2 GB/s; loading numpy takes longer than searching a small log with `bytes.find`.

Blocks are read and not mapped: truncating a mapped file, as `copytruncate` does, kills the reader by SIGBUS, and mapped
pages count as memory of this process.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator

BLOCK = 4 << 20  # bytes
LONGEST_LINE = 1 << 20
ENGINE_LINE = 16 * 1024  # the Docker engine splits longer lines into several entries
SMALL = 32 << 20  # bytes; `bytes.find` takes less than 0.1 s
_CHUNK = 1 << 16  # bytes that stay in the processor's cache between the comparisons
STATUS_CODES = (b"401", b"403")
_ALPHANUMERIC = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_%")
# Before a status: anything but a letter, a digit, or what joins it to a number or an id; `m` ends an ANSI colour.
_NOT_BEFORE = _ALPHANUMERIC.union(b".-") - frozenset(b"m")
_LOWER = frozenset(b"abcdefghijklmnopqrstuvwxyz")
_QUERY = re.compile(rb"[?&][\w.%\[\]-]{1,60}=\Z")  # searched up to the digits
_LONGEST_QUERY = 64
_SLASH = ord("/")  # after a small letter it is that of a path; Squid writes TCP_DENIED/403

ReadInto = Callable[[memoryview], int]


class Scanner:
    """One pass through a log. `bytes_read` grows during the pass; `skipped` counts lines that are too long."""

    def __init__(self) -> None:
        self.bytes_read = 0
        self.skipped = 0
        self._after_long = False  # the first line of the next block follows a long one

    def lines(self, readinto: ReadInto) -> Iterator[bytes]:
        """Yield the candidate lines, each once, without line ends.

        Lines of at least 16 KiB and the line after each are always included: the engine may have split them within the
        status.
        """
        buffer = bytearray(BLOCK + LONGEST_LINE)
        view = memoryview(buffer)
        kept = 0  # bytes of an incomplete line
        skipping = False
        while True:
            count = readinto(view[kept : kept + BLOCK])
            self.bytes_read += count
            end = kept + count
            whole = end if not count else buffer.rfind(b"\n", kept, end) + 1
            begin = 0
            if skipping and whole:
                begin, skipping = buffer.find(b"\n", 0, end) + 1 or end, False
            if whole > begin:
                yield from self._scan_block(buffer, begin, whole)
            if not count:
                return
            kept = 0 if skipping else end - max(whole, begin)
            if kept > LONGEST_LINE:
                kept, skipping = 0, True
                self.skipped += 1
            buffer[:kept] = buffer[end - kept : end]

    def _scan_block(self, buffer: bytearray, begin: int, end: int) -> Iterator[bytes]:
        """Yield the candidate lines of a block of complete lines; the last line of a log may lack its end."""
        starts: dict[int, int] = {}
        stop = begin
        large = self.bytes_read > SMALL or "numpy" in sys.modules
        for at in _large_hits(buffer, begin, end) if large else _small_hits(buffer, begin, end):
            if at >= stop and not _is_in_query(buffer, at, begin):
                start = buffer.rfind(b"\n", begin, at) + 1 or begin
                starts[start] = stop = _stop(buffer, at, end)
        if self._after_long:
            starts[begin] = _stop(buffer, begin, end)
            self._after_long = False
        for start, stop in _long_lines(buffer, begin, end):
            starts[start] = stop
            if stop + 1 < end:
                starts[stop + 1] = _stop(buffer, stop + 1, end)
            else:
                self._after_long = True
        for start in sorted(starts):
            yield bytes(buffer[start : starts[start]])


def _small_hits(buffer: bytearray, begin: int, end: int) -> Iterator[int]:
    """Yield the positions of 401 and 403 that stand by themselves and not in a path, in order."""
    found = []
    for code in STATUS_CODES:
        at = buffer.find(code, begin, end)
        while at >= 0:
            after = buffer[at + 3] if at + 3 < end else 0x20
            if after not in _ALPHANUMERIC and (
                at == begin
                or (
                    buffer[at - 1] not in _NOT_BEFORE
                    and not (buffer[at - 1] == _SLASH and at - 1 > begin and buffer[at - 2] in _LOWER)
                )
            ):
                found.append(at)
            at = buffer.find(code, at + 1, end)
    yield from sorted(found)


def _large_hits(buffer: bytearray, begin: int, end: int) -> Iterator[int]:
    """Yield the same positions as `_small_hits`."""
    import numpy as np  # takes 0.2 s to load, and most logs are small

    may_be_before, may_be_after = np.ones(256, bool), np.ones(256, bool)
    may_be_before[list(_NOT_BEFORE)] = False
    may_be_after[list(_ALPHANUMERIC)] = False
    data = np.frombuffer(buffer, np.uint8, end - begin, begin)
    for start in range(0, len(data) - 2, _CHUNK):
        part = data[start : start + _CHUNK + 2]
        hits = part[:-2] == ord("4")
        hits &= part[1:-1] == ord("0")
        found = np.flatnonzero(hits) + start
        if len(found) == 0:
            continue
        last = data[found + 2]
        found = found[(last == ord("1")) | (last == ord("3"))]
        # A status at the very start or end has nothing beside it.
        found = found[may_be_before[data[np.maximum(found - 1, 0)]] | (found == 0)]
        found = found[may_be_after[data[np.minimum(found + 3, len(data) - 1)]] | (found + 3 == len(data))]
        before = data[np.maximum(found - 2, 0)]
        in_path = (data[np.maximum(found - 1, 0)] == _SLASH) & (before >= ord("a")) & (before <= ord("z")) & (found > 1)
        yield from (found[~in_path] + begin).tolist()


def _is_in_query(buffer: bytearray, at: int, begin: int) -> bool:
    """Whether digits are a value in a query string."""
    if at == begin or buffer[at - 1] != ord("="):
        return False
    return _QUERY.search(buffer, max(begin, at - _LONGEST_QUERY), at) is not None


def _long_lines(buffer: bytearray, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of the lines of at least 16 KiB."""
    at = begin
    while at + ENGINE_LINE < end:
        stop = buffer.rfind(b"\n", at, at + ENGINE_LINE)
        if stop >= 0:
            at = stop + 1
            continue
        stop = _stop(buffer, at, end)
        yield at, stop
        at = stop + 1


def _stop(buffer: bytearray, at: int, end: int) -> int:
    """Return the end of the line that contains a position."""
    stop = buffer.find(b"\n", at, end)
    return end if stop < 0 else stop
