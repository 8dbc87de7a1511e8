"""CRC-32C and the CRC-64 of Redis, vectorized with numpy.

A reflected CRC is linear over GF(2): a block is split into lanes of equal length, numpy computes the CRC of all lanes
at once, and the results are combined in pairs: crc(A + B) = shift(crc(A), len(B)) ^ crc(B).
Source: Mark Adler, crc32_combine in zlib; the parameters are those of the "Catalogue of parametrised CRC algorithms".
"""

from __future__ import annotations

from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Words: TypeAlias = NDArray[np.uint64]

LANE = 256  # bytes; long enough to amortize combining, short enough that a 1 MiB block makes wide vectors
MOST_LANES = 8192


class Crc:
    """A running CRC of at most 64 bits. `polynomial` is in reflected notation."""

    def __init__(self, polynomial: int, start: int = 0, last_xor: int = 0) -> None:
        self._polynomial = polynomial
        self._state = start
        self._last_xor = last_xor

    def update(self, data: bytes | memoryview) -> None:
        """Continue with these bytes."""
        rest = memoryview(data)
        while len(rest) >= LANE:
            lanes = min(1 << ((len(rest) // LANE).bit_length() - 1), MOST_LANES)
            self._state = _block(self._polynomial, self._state, rest[: lanes * LANE], lanes)
            rest = rest[lanes * LANE :]
        table = _bytes_table(self._polynomial)
        state = self._state
        for byte in rest:
            state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
        self._state = state

    @property
    def value(self) -> int:
        """The CRC of all bytes so far."""
        return self._state ^ self._last_xor


def crc32c() -> Crc:
    """CRC-32C (Castagnoli), used in Postgres' backup manifests. Check value of "123456789": e3069283."""
    return Crc(0x82F63B78, 0xFFFFFFFF, 0xFFFFFFFF)


def crc64_redis() -> Crc:
    """The CRC-64 (Jones) at the end of an RDB file. Check value of "123456789": e9c6d914c4b8d9ca."""
    return Crc(0x95AC9329AC4BC9B5)


def _block(polynomial: int, state: int, data: memoryview, lanes: int) -> int:
    table = _pairs_table(polynomial)
    pairs = np.ascontiguousarray(np.frombuffer(data, dtype="<u2").reshape(lanes, LANE // 2).T).astype(np.uint64)
    crc = np.zeros(lanes, dtype=np.uint64)
    crc[0] = state
    for column in pairs:
        crc = table[(crc ^ column) & np.uint64(0xFFFF)] ^ (crc >> np.uint64(16))
    level = 0
    while len(crc) > 1:
        crc = _shift(crc[0::2], polynomial, level) ^ crc[1::2]
        level += 1
    return int(crc[0])


def _shift(crc: Words, polynomial: int, level: int) -> Words:
    """Return each CRC after LANE × 2^level more zero bytes."""
    tables = _shift_tables(polynomial, level)
    shifted: Words = tables[0][crc & np.uint64(0xFF)]
    for place in range(1, 8):
        shifted = shifted ^ tables[place][(crc >> np.uint64(8 * place)) & np.uint64(0xFF)]
    return shifted


@cache
def _bytes_table(polynomial: int) -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (polynomial if value & 1 else 0)
        table.append(value)
    return tuple(table)


@cache
def _pairs_table(polynomial: int) -> Words:
    """The table for one step over two bytes."""
    table = np.array(_bytes_table(polynomial), dtype=np.uint64)
    values = np.arange(65536, dtype=np.uint64)
    for _ in range(2):
        values = table[values & np.uint64(0xFF)] ^ (values >> np.uint64(8))
    return values


@cache
def _shift_tables(polynomial: int, level: int) -> Words:
    """The effect of LANE × 2^level zero bytes, as one table for each byte of the register."""
    columns = _columns(polynomial, level)
    tables = np.zeros((8, 256), dtype=np.uint64)
    for place in range(8):
        for value in range(256):
            tables[place, value] = _apply(columns, value << (8 * place))
    return tables


@cache
def _columns(polynomial: int, level: int) -> tuple[int, ...]:
    if level > 0:
        half = _columns(polynomial, level - 1)
        return tuple(_apply(half, column) for column in half)
    table = _bytes_table(polynomial)
    columns = []
    for bit in range(64):
        state = 1 << bit
        for _ in range(LANE):
            state = table[state & 0xFF] ^ (state >> 8)
        columns.append(state)
    return tuple(columns)


def _apply(columns: tuple[int, ...], value: int) -> int:
    result = 0
    while value:
        lowest = value & -value
        result ^= columns[lowest.bit_length() - 1]
        value ^= lowest
    return result
