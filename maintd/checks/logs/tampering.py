"""Whether a log still holds what it held: by its first line, which rotation moves and nothing may change."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["kept", "cut", "replaced", "gone"]
"""kept: all there. cut: shorter than it was, or begun anew in its place. replaced: another file, and no rotated one
begins as it did. gone: no file at all."""


ENDLESS = 1 << 62
"""The size of a file whose size was not looked for."""


@dataclass(frozen=True)
class Extent:
    """How a file of a log begins and how far it goes, unpacked. `head` 0: it has no whole line yet."""

    inode: int
    size: int
    head: int
    current: bool


def head_of(first_line: bytes) -> int:
    """A number that tells first lines apart and that a measure, a 64-bit float, holds exactly."""
    return int.from_bytes(hashlib.sha256(first_line).digest()[:6], "big") or 1


def verdict(before: Extent, now: Sequence[Extent]) -> Verdict:
    """What became of a log since it was seen as `before`."""
    if not before.head:
        return "kept"
    same = [file for file in now if file.head == before.head]
    if same:
        return "kept" if any(file.size >= before.size for file in same) else "cut"
    current = next((file for file in now if file.current), None)
    if current is None:
        return "gone"
    return "cut" if current.inode == before.inode else "replaced"
