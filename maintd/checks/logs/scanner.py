"""A fast scanner for the few lines of a large log that may have the status 401 or 403.

It searches blocks for bytes only, and the caller parses the lines around the hits. Searching for `401` and for `403`
finds every such line in any format, with two passes. A large part of a file is searched in one pass, for the status
field as samples of the part spell it; there the result is exact for lines spelled as in one of the samples, which are
taken every 2 MiB.

Blocks are read and not mapped: truncating a mapped file, as `copytruncate` does, kills the reader by SIGBUS, and mapped
pages count as memory of this process. Reading takes a tenth of the time of the search.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

BLOCK = 4 << 20  # bytes
LONGEST_LINE = 1 << 20
ENGINE_LINE = 16 * 1024  # the Docker engine splits longer lines into several entries
EXACT_BELOW = 32 << 20  # two passes take less than 0.1 s
SAMPLE, SAMPLE_EVERY = 16 << 10, 2 << 20
MOST_SPELLINGS = 2  # with more, two passes are as fast
STATUS_CODES = (b"401", b"403")
_ALPHANUMERIC = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_%")
# Before a status: anything but a letter, a digit, or what joins it to a number or an id; `m` ends an ANSI colour.
_NOT_BEFORE = _ALPHANUMERIC.union(b".-") - frozenset(b"m")
# What a line of text or JSON has that logs a request in another form than by the known fields.
_REQUEST = re.compile(
    rb"HTTP/\d| ms - |(?<![\w/])(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|CONNECT|PROPFIND)(?![\w])|"
    rb"(?:status|code|response)\w{0,10}\\{0,3}[\"']?\s{0,4}[=:|]|(?<![\w.%-])40[13](?!\w)|"
    rb"\|\s{0,4}\d{3}\s{0,4}\||Completed \d{3}|Sent \d{3}",
    re.IGNORECASE,
)

ReadInto = Callable[[memoryview], int]


class Scanner:
    """One pass through a log. `bytes_read` grows during the pass; `skipped` counts lines that are too long."""

    def __init__(self, needles: Sequence[bytes] = STATUS_CODES) -> None:
        self._needles = needles
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
        for needle in self._needles:
            length = len(needle)
            at = buffer.find(needle, begin, end)
            while at >= 0:
                if self._may_be_status(buffer, at, length, end):
                    start = buffer.rfind(b"\n", begin, at) + 1 or begin
                    starts[start] = stop = _stop(buffer, at, end)
                    at = buffer.find(needle, stop, end)
                else:
                    at = buffer.find(needle, at + 1, end)
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

    def _may_be_status(self, buffer: bytearray, at: int, length: int, end: int) -> bool:
        if length > 3:  # a spelled field, without the last digit
            return at + length < end and buffer[at + length] in b"13"
        after = buffer[at + 3] if at + 3 < end else 0x20
        return after not in _ALPHANUMERIC and (at == 0 or buffer[at - 1] not in _NOT_BEFORE)


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


def search_patterns(file: BinaryIO, start: int, end: int, fields: Sequence[str]) -> tuple[bytes, ...]:
    """Choose the byte strings to search for in [start, end) of a file. Changes the file's position."""
    if end - start <= EXACT_BELOW:
        return STATUS_CODES
    names = "|".join(sorted({re.escape(field.rsplit(".", 1)[-1]) for field in fields}))
    # A quote or a backslash must precede the name, or another field with the same ending would match.
    spelling = re.compile(rf'(?<=["\\])(?:{names})\\{{0,3}}"\s{{0,4}}:\s{{0,4}}(?:\\{{0,3}}")?(?=\d)'.encode())
    found: set[bytes] = set()
    for offset in (*range(start, end - SAMPLE, SAMPLE_EVERY), end - SAMPLE):
        file.seek(offset)
        sample = file.read(SAMPLE)
        found.update(spelling.findall(sample))
        if any(_REQUEST.search(line) and not spelling.search(line) for line in sample.split(b"\n")[1:-1]):
            return STATUS_CODES
        if len(found) > MOST_SPELLINGS:
            return STATUS_CODES
    return tuple(sorted(field + b"40" for field in found)) or STATUS_CODES
