"""Redis snapshots (RDB files): every opcode and value is parsed, and the CRC-64 at the end verified.

Source: rdb.h and rdb.c of Redis 7.2, "Redis RDB file format" versions 5 to 12, and of Valkey 9, version 80. Values
stored as one string (ziplists, listpacks, intsets) are not parsed; the CRC covers them. Servers of the same family
differ in their types, so a snapshot whose CRC is right is never damaged: what could not be parsed of it is unknown.
"""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from maintd.checks.backups.crc import crc64_redis
from maintd.checks.backups.stream import DamagedError, Reader, UnreadableError
from maintd.errors import TargetError

MAGIC = b"REDIS"
MAGIC_VALKEY = b"VALKEY"

_HEAD = re.compile(rb"REDIS(\d{4})|VALKEY(\d{3})")
_KNOWN = {"Redis": range(5, 13), "Valkey": range(80, 81)}
_TEXT_MAX = 1 << 20  # bytes of a value of the header, such as the server's version
_ABOUT_MAX = 100  # values of the header
_DATABASES_MAX = 100_000
_EOF, _SELECT, _EXPIRE_S, _EXPIRE_MS, _RESIZE, _AUX, _FREQUENCY, _IDLE = 0xFF, 0xFE, 0xFD, 0xFC, 0xFB, 0xFA, 0xF9, 0xF8
_MODULE_AUX, _FUNCTION = 0xF7, 0xF5
_ONE_TEXT = frozenset({0, 9, 10, 11, 12, 13, 16, 17, 20})  # string; ziplist, intset, listpack encodings
_TEXTS = frozenset({1, 2})  # list, set
_HASH, _ZSET_TEXT, _ZSET_BINARY, _MODULE = 4, 3, 5, 7
_QUICKLIST, _QUICKLIST_PACKED = 14, 18
_STREAMS = frozenset({15, 19, 21})


@dataclass
class Snapshot:
    """Contents of a snapshot."""

    version: int
    server: str = ""  # Redis or Valkey, by its first bytes
    keys: int = 0
    expiring: int = 0
    databases: dict[int, int] = field(default_factory=dict)  # keys by database number
    about: dict[str, str] = field(default_factory=dict)  # redis-ver, ctime, used-mem, …
    has_checksum: bool = False  # False with `rdbchecksum no`
    unknown: str = ""  # why parsing stopped early: a version or type that is not supported


def walk_rdb(source: Reader) -> Snapshot:
    """Read a snapshot to its end. Raises DamagedError, and what a layer around it raises."""
    crc = crc64_redis()
    tail: list[bytes] = [b""]
    ended: list[TargetError] = []  # the error of a layer around the snapshot: no more of it can be read

    def all_but_the_last_8() -> Iterator[bytes]:
        try:
            for piece in source.rest():
                whole = tail[0] + piece
                crc.update(whole[:-8])
                tail[0] = whole[-8:]
                yield piece
        except TargetError as error:
            ended.append(error)
            raise

    walk = _Walk(Reader(all_but_the_last_8(), "the snapshot"))
    broken: DamagedError | None = None
    try:
        walk.all()
    except UnreadableError as error:
        if ended:
            raise
        walk.found.unknown = error.message
    except DamagedError as error:
        if ended:
            raise
        broken = error
    for _ in walk.source.rest():
        pass
    stored = int.from_bytes(tail[0], "little")
    right = stored == crc.value
    walk.found.has_checksum = right and stored != 0
    if broken is not None and not walk.found.has_checksum:
        raise broken
    if not right and stored != 0:
        raise DamagedError(f"RDB: the CRC is {crc.value:016x}, in the file {stored:016x}")
    if broken is not None:
        walk.found.unknown = f"its CRC is right, but not all of it is understood: {broken.message}"
    return walk.found


def walk_prefix(source: Reader) -> tuple[Snapshot, Reader]:
    """Read the snapshot at the start of a file; return it, and a reader of what follows.

    Raises DamagedError, and UnreadableError for a version that is not supported, as its end is not known then.
    """
    crc = crc64_redis()
    fetched: deque[tuple[int, bytes]] = deque()  # with the offset of each; hashed when they have been read

    def hash_until(end: int) -> None:
        while fetched and fetched[0][0] < end:
            start, piece = fetched.popleft()
            crc.update(piece[: end - start])
            if start + len(piece) > end:
                fetched.appendleft((end, piece[end - start :]))

    def pieces() -> Iterator[bytes]:
        offset = 0
        for piece in source.rest():
            if not done:
                hash_until(rest.offset)
                fetched.append((offset, piece))
                offset += len(piece)
            yield piece

    done = False
    rest = Reader(pieces(), source.what)
    walk = _Walk(rest)
    walk.items()
    hash_until(rest.offset)
    stored = int.from_bytes(rest.take(8), "little")
    done = True
    fetched.clear()
    if stored not in (0, crc.value):
        raise DamagedError(f"RDB: the CRC is {crc.value:016x}, in the file {stored:016x}")
    walk.found.has_checksum = stored != 0
    return walk.found, rest


class _Walk:
    def __init__(self, source: Reader) -> None:
        self.source = source
        self.found = Snapshot(version=0)
        self._database = 0

    def items(self) -> None:
        """Read up to the mark of the end, before the CRC."""
        match = _HEAD.fullmatch(self.source.take(9))
        if match is None:
            raise DamagedError("RDB: does not start as a snapshot")
        self.found.server = "Redis" if match[1] else "Valkey"
        self.found.version = int(match[1] or match[2])
        if self.found.version not in _KNOWN[self.found.server]:
            raise UnreadableError(f"RDB: version {self.found.version} of {self.found.server} is not supported")
        while (code := self.source.byte()) != _EOF:
            self._item(code)

    def all(self) -> None:
        """Read a file that is a snapshot."""
        self.items()
        self.source.skip(8)
        if self.source.peek(1):
            raise DamagedError(f"RDB: junk after the end at byte {self.source.offset}")

    def _item(self, code: int) -> None:
        source = self.source
        if code == _AUX:
            key, value = self._text(), self._text()
            if len(self.found.about) < _ABOUT_MAX:
                self.found.about[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        elif code == _SELECT:
            self._database = self._length()
        elif code == _RESIZE:
            self._length(), self._length()
        elif code in (_EXPIRE_MS, _EXPIRE_S):
            source.skip(8 if code == _EXPIRE_MS else 4)
            self.found.expiring += 1
        elif code == _FREQUENCY:
            source.skip(1)
        elif code == _IDLE:
            self._length()
        elif code == _FUNCTION:
            self._skip_text()
        elif code == _MODULE_AUX:
            self._length()
            self._module()
        else:
            self._skip_text()
            self._value(code)
            self.found.keys += 1
            if self._database in self.found.databases or len(self.found.databases) < _DATABASES_MAX:
                self.found.databases[self._database] = self.found.databases.get(self._database, 0) + 1

    def _value(self, kind: int) -> None:
        if kind in _ONE_TEXT:
            self._skip_text()
        elif kind in _TEXTS or kind == _QUICKLIST:
            for _ in range(self._length()):
                self._skip_text()
        elif kind == _HASH:
            for _ in range(2 * self._length()):
                self._skip_text()
        elif kind == _ZSET_BINARY:
            for _ in range(self._length()):
                self._skip_text()
                self.source.skip(8)
        elif kind == _ZSET_TEXT:
            for _ in range(self._length()):
                self._skip_text()
                length = self.source.byte()
                self.source.skip(length if length < 253 else 0)  # 253 to 255: not a number, the infinities
        elif kind == _QUICKLIST_PACKED:
            for _ in range(self._length()):
                self._length()
                self._skip_text()
        elif kind in _STREAMS:
            self._stream(kind)
        elif kind == _MODULE:
            self._length()
            self._module()
        else:
            raise UnreadableError(f"RDB: a value of type {kind} at byte {self.source.offset} is not supported")

    def _stream(self, kind: int) -> None:
        for _ in range(2 * self._length()):
            self._skip_text()
        # length and last id; from version 2 on also first id, greatest deleted id and how many were ever added
        for _ in range(3 if kind == 15 else 8):
            self._length()
        for _ in range(self._length()):
            self._skip_text()  # the group's name
            for _ in range(2 if kind == 15 else 3):
                self._length()
            for _ in range(self._length()):
                self.source.skip(24)  # a pending entry: id and delivery time
                self._length()
            for _ in range(self._length()):
                self._skip_text()  # the consumer's name
                self.source.skip(16 if kind == 21 else 8)
                self.source.skip(16 * self._length())

    def _module(self) -> None:
        while (code := self._length()) != 0:
            if code in (1, 2):
                self._length()
            elif code in (3, 4):
                self.source.skip(4 if code == 3 else 8)
            elif code == 5:
                self._skip_text()
            else:
                raise DamagedError(f"RDB: the value of a module is damaged at byte {self.source.offset}")

    def _length(self) -> int:
        length, encoded = self._length_or_encoding()
        if encoded:
            raise DamagedError(f"RDB: a length is missing at byte {self.source.offset}")
        return length

    def _length_or_encoding(self) -> tuple[int, bool]:
        first = self.source.byte()
        kind = first >> 6
        if kind == 0:
            return first & 0x3F, False
        if kind == 1:
            return (first & 0x3F) << 8 | self.source.byte(), False
        if kind == 3:
            return first & 0x3F, True
        if first == 0x80:
            return int(struct.unpack(">I", self.source.take(4))[0]), False
        if first == 0x81:
            return int(struct.unpack(">Q", self.source.take(8))[0]), False
        raise DamagedError(f"RDB: a length is missing at byte {self.source.offset}")

    def _skip_text(self) -> None:
        length, encoded = self._length_or_encoding()
        self.source.skip(self._encoded_length(length) if encoded else length)

    def _text(self) -> bytes:
        """Read a short string; a number is returned as its digits, a compressed string as empty."""
        length, encoded = self._length_or_encoding()
        size = self._encoded_length(length) if encoded else length
        if size > _TEXT_MAX:
            raise DamagedError(f"RDB: a value of the header has {size} bytes at byte {self.source.offset}")
        stored = self.source.take(size)
        if not encoded:
            return stored
        return str(int.from_bytes(stored, "little", signed=True)).encode() if length < 3 else b""

    def _encoded_length(self, encoding: int) -> int:
        if encoding < 3:
            return 1 << encoding  # 8, 16 or 32 bits
        if encoding == 3:
            stored = self._length()
            self._length()  # decompressed length
            return stored
        raise DamagedError(f"RDB: an unknown encoding at byte {self.source.offset}")
