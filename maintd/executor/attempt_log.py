"""The log of one attempt, bounded: the first and the last lines are kept, the ones in between are left out.

Up to `limit` bytes every line is handed on as it arrives. After that the newest `limit` bytes are kept here as raw
chunks, so that a flood costs a count of its newlines and nothing else; while few bytes arrive, they are handed on
too, and what has become too old in the store is trimmed there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from maintd.model.evidence import LogLine, LogTrim
from maintd.redaction import has_sign_of_secret, key_lines_left, mask_key_line, mask_output, replace_secrets

Stream = Literal["log", "stdout", "stderr", "maintd"]

LINE_LIMIT = 64 * 1024
"""Most bytes of one line; a longer one is cut, and ends with the number of bytes that were left out."""

LINE_COST = 100
"""A line counts so many bytes more than its text, since a row costs that much: ten million empty lines are no log."""

TAIL_BACKLOG_LIMIT = 256 * 1024
"""Lines beyond the head are handed on at once while no more than this many bytes of them wait."""

CHUNK = 64 * 1024


@dataclass(frozen=True)
class _Chunk:
    """Whole lines of one stream that came together."""

    first: int  # number of the first line
    lines: int
    at: datetime
    stream: Stream
    data: bytes  # each line ends with a newline
    cost: int
    key_left: int  # at its first line, see `mask_key_line`


class AttemptLog:
    """Takes bytes of streams and lines of text; returns the log lines and trims to record. Not thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunk = min(CHUNK, max(1024, limit // 8))
        self._seq = 0
        self._secrets: Sequence[str] = ()
        self._key_left: dict[Stream, int] = {}  # lines that are masked as those of a private key, see `mask_key_line`
        self._open: dict[Stream, bytearray] = {}
        self._cut: dict[Stream, int] = {}  # bytes left out of a line that has not ended yet
        self._head_left = limit
        self._head: deque[_Chunk] = deque()  # to be handed on
        self._tail: deque[_Chunk] = deque()  # to be handed on while it is calm, or at the end
        self._tail_cost = 0
        self._emitted: deque[_Chunk] = deque()  # of the tail, handed on; their text is not kept
        self._emitted_cost = 0
        self._handed_on = 0  # lines up to here are in the head, or were trimmed
        self._trim_end = 0  # lines from `_handed_on` to here are to be trimmed
        self._trim_bytes = 0

    def hide(self, secrets: Sequence[str]) -> None:
        """Replace these texts by `***` in every line from now on."""
        self._secrets = tuple(secrets)

    def redacted(self, text: str) -> str:
        """Return the text without known secrets, and without those that their position reveals."""
        return mask_output(replace_secrets(text, self._secrets))

    def feed(self, stream: Stream, data: bytes, at: datetime) -> None:
        """Add bytes as they were printed."""
        end = data.rfind(b"\n") + 1
        start = 0
        if end and self._open.get(stream):
            start = data.index(b"\n") + 1
            self._extend(stream, data[: start - 1])
            self._end_line(stream, at)
        if start < end:
            self._take(stream, data[start:end], at)
        self._extend(stream, data[end:])

    def line(self, stream: Stream, text: str, at: datetime) -> None:
        """Add one line of text; newlines within become spaces."""
        self._extend(stream, text.encode("utf-8", errors="replace").replace(b"\n", b" "))
        self._end_line(stream, at)

    def end(self, at: datetime) -> None:
        """End the streams: a last line without a newline is a line too."""
        for stream in list(self._open):
            if self._open[stream]:
                self._end_line(stream, at)

    def take(self, *, final: bool = False) -> Iterator[LogLine | LogTrim]:
        """Yield what is to be recorded now; with `final`, everything that is kept."""
        while self._head:
            yield from self._lines(self._head.popleft())
        calm = self._tail_cost <= TAIL_BACKLOG_LIMIT
        if self._trim_end > self._handed_on and (final or calm) and (final or self._trim_bytes > self._limit // 8):
            yield LogTrim(first=self._handed_on + 1, last=self._trim_end, size_bytes=self._trim_bytes)
            self._handed_on, self._trim_bytes = self._trim_end, 0
        while self._tail and (final or calm):
            chunk = self._tail.popleft()
            self._tail_cost -= chunk.cost
            yield from self._lines(chunk)
            self._emitted_cost += chunk.cost
            self._emitted.append(replace(chunk, data=b""))

    def _lines(self, chunk: _Chunk) -> Iterator[LogLine]:
        whole = chunk.data.decode("utf-8", errors="replace").replace("\0", "\ufffd")
        texts = whole.split("\n")[:-1]
        left, signs = chunk.key_left, has_sign_of_secret(whole)
        for number, text in enumerate(texts, chunk.first):
            shown = text.removesuffix("\r")
            if signs or left:
                shown, left = mask_key_line(shown, left)
                shown = self.redacted(shown)
            else:
                shown = replace_secrets(shown, self._secrets)
            yield LogLine(seq=number, at=chunk.at, stream=chunk.stream, text=shown)

    def _extend(self, stream: Stream, data: bytes) -> None:
        if not data:
            return
        line = self._open.setdefault(stream, bytearray())
        room = LINE_LIMIT - len(line)
        line += data[:room]
        if len(data) > room:
            self._cut[stream] = self._cut.get(stream, 0) + len(data) - room

    def _end_line(self, stream: Stream, at: datetime) -> None:
        data = bytes(self._open.pop(stream, b""))
        cut = self._cut.pop(stream, 0)
        if cut:
            data += f" … and {cut} bytes more".encode()
        self._add(at, stream, data + b"\n")

    def _take(self, stream: Stream, data: bytes, at: datetime) -> None:
        """Add whole lines in chunks; one line that is longer than a chunk is a chunk of its own."""
        start = 0
        while start < len(data):
            size = self._chunk
            end = data.rfind(b"\n", start, start + size) + 1
            while end and data.count(b"\n", start, end) * LINE_COST > 4 * self._chunk and size > 1:
                size //= 2  # many short lines: their cost as rows counts
                end = data.rfind(b"\n", start, start + size) + 1
            if end:
                self._add(at, stream, data[start:end])
            else:
                end = data.index(b"\n", start) + 1
                self._extend(stream, data[start : end - 1])
                self._end_line(stream, at)
            start = end

    def _add(self, at: datetime, stream: Stream, data: bytes) -> None:
        lines = data.count(b"\n")
        key_left = self._key_left.get(stream, 0)
        chunk = _Chunk(self._seq + 1, lines, at, stream, data, len(data) + lines * LINE_COST, key_left)
        self._key_left[stream] = key_lines_left(data, lines, key_left)
        self._seq += lines
        if self._head_left > 0:
            self._head_left -= chunk.cost
            self._head.append(chunk)
            self._handed_on = self._trim_end = self._seq
            return
        self._tail.append(chunk)
        self._tail_cost += chunk.cost
        while self._emitted_cost + self._tail_cost > self._limit and len(self._emitted) + len(self._tail) > 1:
            if self._emitted:
                old = self._emitted.popleft()
                self._emitted_cost -= old.cost
            else:
                old = self._tail.popleft()
                self._tail_cost -= old.cost
            self._trim_end = old.first + old.lines - 1
            self._trim_bytes += old.cost - old.lines * LINE_COST
