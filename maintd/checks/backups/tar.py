"""Tar archives: the headers are parsed, the data is skipped without copying.

The standard library's tarfile is not used: it does not read the compressed stream to its end, and so does not detect a
wrong CRC, a truncated end, or junk after the end.
Source: POSIX.1-2001 pax interchange format, and "Basic Tar Format" of the GNU tar manual.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from posixpath import normpath

from maintd.checks.backups.stream import DamagedError, ExpansionLimits, LimitReachedError, Reader, UnreadableError
from maintd.clients.bounded import decimal
from maintd.errors import TargetError

_BLOCK = 512
_END = bytes(_BLOCK)
_LONG_MAX = 1 << 20  # bytes of a name or pax header; longer ones are rare, and can be an attack
_RECORDS_MAX = 1000  # records of a pax header; GNU tar and star write a dozen, and one for each extended attribute
_EXTENSIONS_MAX = 100  # headers before one member
_BY_TAR = "more than is read here: verify it by: tar -tf"
_USED = frozenset({b"path", b"linkpath", b"size"})
_OCTAL = re.compile(rb"[0-7]*")
_RECORD_LENGTH = re.compile(rb"(\d{1,7}) ")
_LINK_KINDS = {b"1": "hard link", b"2": "symbolic link"}
_REGULAR = frozenset({b"0", b"\0", b"7", b"S"})


@dataclass(frozen=True)
class Member:
    """One member of the archive."""

    name: str
    kind: bytes  # the type flag: b"0" file, b"5" folder, b"1" hard link, b"2" symbolic link
    size_bytes: int
    mode: int
    link: str = ""

    @property
    def regular(self) -> bool:
        """Whether it is a file with content."""
        return self.kind in _REGULAR

    @property
    def escape(self) -> str:
        """How it would be unpacked outside of the folder; empty when it would not."""
        if _leaves(self.name):
            return f'"{self.name}" leaves the folder'
        base = self.name.rpartition("/")[0] if self.kind == b"2" else ""
        if self.kind in _LINK_KINDS and (_leaves(self.link) or _leaves(f"{base}/{self.link}".lstrip("/"))):
            return f'{_LINK_KINDS[self.kind]} "{self.name}" points to "{self.link}"'
        return ""


def members(source: Reader, limits: ExpansionLimits) -> Iterator[Member]:
    """Yield the members, up to the end of the stream. Raises DamagedError and UnreadableError.

    After each member the caller may read its data by `source.pieces(member.size_bytes)`; the rest is skipped.
    """
    count = extensions = 0
    extended: dict[str, str] = {}
    while (header := source.take(_BLOCK)) != _END:
        kind, size = header[156:157], _checked_size(header, source)
        begin = source.offset
        if kind in b"LKxg" and kind:
            if size > _LONG_MAX:
                raise UnreadableError(f"tar: a header of {size} bytes at byte {begin}", _BY_TAR)
            extensions += 1
            if extensions > _EXTENSIONS_MAX:
                raise UnreadableError(
                    f"tar: more than {_EXTENSIONS_MAX} headers for one member, at byte {begin}", _BY_TAR
                )
            extended.update(_extension(kind, source.take(size)))
        else:
            member = _member(header, kind, size, extended, source)
            _skip_sparse_map(header, source)
            begin = source.offset
            extended, extensions = {}, 0
            count += 1
            if count > limits.members:
                raise LimitReachedError(f"tar: has more than {limits.members} members", "max_members")
            yield member
            size = member.size_bytes
        source.skip(begin + -(-size // _BLOCK) * _BLOCK - source.offset)
    _end(source)


def first_name(source: Reader) -> str:
    """The name in the first header, without reading it; empty where it is none."""
    return _text(source.peek(100)[:100]).removeprefix("./")


def _end(source: Reader) -> None:
    if source.take(_BLOCK) != _END:
        raise DamagedError(f"tar: only one block of zeros at the end, before byte {source.offset}")
    for piece in source.rest():
        if piece.count(0) != len(piece):
            raise DamagedError(f"tar: junk after the end of the archive, near byte {source.offset}")


def _checked_size(header: bytes, source: Reader) -> int:
    """Return the size of a member after verifying the header's checksum."""
    stored = _number(header[148:156], source)
    if stored != sum(header) - sum(header[148:156]) + 8 * 0x20:
        raise DamagedError(f"tar: the header at byte {source.offset - _BLOCK} has a wrong checksum")
    # Links, folders and devices have no data, whatever the field contains; GNU and pax agree on that.
    return 0 if header[156:157] in (b"1", b"2", b"3", b"4", b"5", b"6") else _number(header[124:136], source)


def _number(data: bytes, source: Reader) -> int:
    if data[0] & 0x80:
        return int.from_bytes(bytes([data[0] & 0x7F]) + data[1:], "big")
    text = data.strip(b" \0")
    number = int(text or b"0", 8) if _OCTAL.fullmatch(text) else -1
    if number < 0:
        raise DamagedError(f"tar: the header at byte {source.offset - _BLOCK} has an invalid number")
    return number


def _member(header: bytes, kind: bytes, size: int, extended: dict[str, str], source: Reader) -> Member:
    name = _text(header[:100])
    if header[257:263] == b"ustar\0" and header[345]:
        name = f"{_text(header[345:500])}/{name}"
    if kind in _REGULAR and "size" in extended:
        size = _decimal(extended["size"])
    return Member(
        name=extended.get("path", name),
        kind=kind,
        size_bytes=size,
        mode=_number(header[100:108], source),
        link=extended.get("linkpath", _text(header[157:257])),
    )


def _skip_sparse_map(header: bytes, source: Reader) -> None:
    more = header[156:157] == b"S" and header[482] == 1
    while more:
        more = source.take(_BLOCK)[504] == 1


def _extension(kind: bytes, data: bytes) -> dict[str, str]:
    """Parse a GNU long name or a pax header: fields of the following member."""
    if kind in b"LK":
        return {"path" if kind == b"L" else "linkpath": _text(data)}
    fields: dict[str, str] = {}
    at = records = 0
    while at < len(data) and kind == b"x":
        match = _RECORD_LENGTH.match(data, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data):
            raise DamagedError("tar: a pax header with a wrong length")
        records += 1
        if records > _RECORDS_MAX:
            raise UnreadableError(f"tar: a pax header with more than {_RECORDS_MAX} records", _BY_TAR)
        key, _, value = data[match.end() : end].rstrip(b"\n").partition(b"=")
        if key in _USED:
            fields[key.decode("ascii")] = value.decode("utf-8", "replace")
        at = end
    return fields


def _decimal(text: str) -> int:
    try:
        return decimal(text, 1 << 62, "tar: a size in a pax header")
    except TargetError as error:
        raise DamagedError(error.message) from None


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "replace")


def _leaves(path: str) -> bool:
    return path.startswith("/") or normpath(path).split("/")[0] == ".."
