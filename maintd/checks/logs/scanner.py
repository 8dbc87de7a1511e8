"""Find the few lines of a large log that may tell of a denied request, as fast as memory can be searched.

A block is searched for the digits only; the lines around the hits are cut out and parsed. Searching for `401` and for
`403` finds every such line however its JSON is written, and costs two passes. A large part of a file is searched once,
for the status field as its writers spell it, which samples of the part show: so what is exact there is what is spelled
as in one of the samples, of which there is one in every 8 MiB.

Blocks are read, and not mapped: a mapped file that is cut meanwhile, as `copytruncate` does, kills the reader by
SIGBUS, and its pages count as this process' memory. Reading costs a tenth of the search.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

BLOCK = 4 << 20  # bytes
LONGEST_LINE = 1 << 20
ENGINE_LINE = 16 * 1024  # the engine cuts lines there into several entries
EXACT_BELOW = 32 << 20  # two passes through so much take less than 0.1 s
SAMPLE, SAMPLE_EVERY = 32 << 10, 8 << 20
MOST_SPELLINGS = 2  # of more, two passes are as quick
EVERYTHING = (b"401", b"403")
_BEFORE = frozenset(b' :"\tm')  # what stands before a status: JSON's colon or quote, a space, the end of a colour
_DIGITS = frozenset(b"0123456789")

ReadInto = Callable[[memoryview], int]


class Scan:
    """One pass. `bytes_read` grows as it goes; `cut` counts lines too long to be looked at."""

    def __init__(self, needles: Sequence[bytes] = EVERYTHING) -> None:
        self._needles = needles
        self.bytes_read = 0
        self.cut = 0
        self._owed = False  # the first line of the next block follows a long one

    def lines(self, readinto: ReadInto) -> Iterator[bytes]:
        """The lines that may matter, each once, without their ends. Lines as long as the engine's longest, or longer,
        are always among them, each with the one after it: what was cut apart may hold the status at the cut."""
        buffer = bytearray(BLOCK + LONGEST_LINE)
        view = memoryview(buffer)
        kept = 0  # bytes of a line that was not whole yet
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
                yield from self._of_block(buffer, begin, whole)
            if not count:
                return
            kept = 0 if skipping else end - max(whole, begin)
            if kept > LONGEST_LINE:
                kept, skipping = 0, True
                self.cut += 1
            buffer[:kept] = buffer[end - kept : end]

    def _of_block(self, buffer: bytearray, begin: int, end: int) -> Iterator[bytes]:
        """The lines of a block that holds whole lines only, or the last one without its end."""
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
        if self._owed:
            starts[begin] = _stop(buffer, begin, end)
            self._owed = False
        for start, stop in _long(buffer, begin, end):
            starts[start] = stop
            if stop + 1 < end:
                starts[stop + 1] = _stop(buffer, stop + 1, end)
            else:
                self._owed = True
        for start in sorted(starts):
            yield bytes(buffer[start : starts[start]])

    def _may_be_status(self, buffer: bytearray, at: int, length: int, end: int) -> bool:
        if length > 3:  # a spelling, without the last digit
            return at + length < end and buffer[at + length] in b"13"
        after = buffer[at + 3] if at + 3 < end else 0x20
        return after not in _DIGITS and (at == 0 or buffer[at - 1] in _BEFORE)


def _long(buffer: bytearray, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Lines of at least the engine's longest, found by looking for a line's end in every such stretch."""
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
    """The end of the line that goes on at a place."""
    stop = buffer.find(b"\n", at, end)
    return end if stop < 0 else stop


def needles(file: BinaryIO, start: int, end: int, fields: Sequence[str]) -> tuple[bytes, ...]:
    """What to search this part of a file for; the file's position is lost."""
    if end - start <= EXACT_BELOW:
        return EVERYTHING
    names = "|".join(sorted({re.escape(field.rsplit(".", 1)[-1]) for field in fields}))
    # A quote or a backslash before the name: what only ends like it is another field.
    spelled = re.compile(rf'(?<=["\\])(?:{names})\\{{0,3}}"\s{{0,4}}:\s{{0,4}}(?:\\{{0,3}}")?(?=\d)'.encode())
    found: set[bytes] = set()
    for offset in (*range(start, end - SAMPLE, SAMPLE_EVERY), end - SAMPLE):
        file.seek(offset)
        sample = file.read(SAMPLE)
        found.update(spelled.findall(sample))
        if _plain_text(sample):
            return EVERYTHING
        if len(found) > MOST_SPELLINGS:
            return EVERYTHING
    return tuple(sorted(spelling + b"40" for spelling in found)) or EVERYTHING


def _plain_text(sample: bytes) -> bool:
    """Whether a line tells of requests in a text format: there the status has no field."""
    for line in sample.split(b"\n")[1:-1]:
        inner = line
        if line.startswith(b'{"log":"'):
            inner = line[8:].replace(b'\\"', b'"').replace(b"\\u001b", b"\x1b")
        if inner[:1] != b"{" and (b" ms - " in inner or b" HTTP/" in inner):
            return True
    return False
