"""Limits that are applied before input from outside is decoded: size, JSON's depth, members and numbers, decompression.

A few kilobytes can be made to expand into gigabytes, or to take minutes to parse. Whatever reads bytes of a server or
of a file decodes them through this module, so that a hostile input costs no more than its own size suggests.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from maintd.errors import TargetError
from maintd.units import format_size

STEP = 1 << 20  # bytes that one call of a decompressor may return

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]+")
_LONG_NUMBER = 300  # digits; a double has at most 309 before the point, and an identifier of 128 bits has 39
_DIGITS = re.compile(rb"\d{%d}" % (_LONG_NUMBER + 1))


@dataclass(frozen=True)
class JsonLimits:
    """How large a JSON document may be. A member is a value in a list or an object."""

    size_bytes: int = 16 << 20
    depth: int = 100
    members: int = 2_000_000  # about 100 bytes of memory each


JSON_LIMITS = JsonLimits()


def parse_json(
    data: bytes | bytearray | str,
    where: str,
    limits: JsonLimits = JSON_LIMITS,
    object_hook: Callable[[dict[str, Any]], Any] | None = None,
) -> Any:
    """Decode a JSON document within the limits.

    `object_hook` replaces each object, as in `json.loads`.
    Raises TargetError: "too_large" for a document over a limit, "malformed" for one that is not JSON.
    """
    text = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else bytes(data)
    if len(text) > limits.size_bytes:
        raise TargetError(f"{where}: has more than {format_size(limits.size_bytes)}", cause="too_large")
    _check_structure(text, where, limits)
    try:
        return json.loads(text, object_hook=object_hook)
    except (ValueError, RecursionError) as error:
        reason = "is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise TargetError(f"{where}: is not JSON: {reason}", cause="malformed") from None


_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_YAML_BYTES = 2 << 20  # a configuration of Loki 3 has 100 KB
_YAML_DEPTH = 50


def parse_yaml(data: bytes | str, where: str, hint: str = "") -> Any:
    """Decode a YAML document within limits. Raises TargetError: "too_large" or "malformed"."""
    if len(data) > _YAML_BYTES:
        raise TargetError(f"{where}: has more than {format_size(_YAML_BYTES)}", cause="too_large")
    try:
        _check_yaml_depth(data)
        return yaml.load(data, Loader=_YAML)  # noqa: S506 - both are safe loaders
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TargetError(f"{where}: is not YAML: {str(error)[:200]}", hint or None, cause="malformed") from error


def _check_yaml_depth(data: bytes | str) -> None:
    """Raise ValueError for a document that is too deep: it would overflow the stack of the loader."""
    depth = 0
    for event in yaml.parse(data, Loader=_YAML):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _YAML_DEPTH:
            raise ValueError("nested too deep")


def _check_structure(text: bytes, where: str, limits: JsonLimits) -> None:
    opened = text.count(b"[") + text.count(b"{")
    # A small or flat document, which almost all are, needs no closer look.
    small = opened <= limits.depth and text.count(b",") + opened <= limits.members
    if not small:
        bare = _STRING.sub(b"", text)
        opened = bare.count(b"[") + bare.count(b"{")
        if bare.count(b",") + opened > limits.members:
            raise TargetError(f"{where}: has more than {limits.members} members", cause="too_large")
        if opened > limits.depth and _depth(bare, limits.depth) > limits.depth:
            raise TargetError(f"{where}: is nested more than {limits.depth} deep", cause="too_large")
    if _DIGITS.search(text) and _DIGITS.search(_STRING.sub(b"", text)):
        raise TargetError(f"{where}: has a number of more than {_LONG_NUMBER} digits", cause="too_large")


def _depth(bare: bytes, enough: int) -> int:
    """The depth of nesting; a text without strings. Stops above `enough`."""
    depth = deepest = 0
    for run in _BRACKET.finditer(bare):
        for bracket in run[0]:
            if bracket in b"[{":
                depth += 1
                deepest = max(deepest, depth)
                if deepest > enough:
                    return deepest
            else:
                depth -= 1
    return deepest


def inflate(chunks: Iterable[bytes], encoding: str, where: str) -> Iterator[bytes]:
    """Decompress HTTP content codings in pieces of at most 1 MiB, so that the reader's own limit stops a bomb early.

    Raises TargetError: "unfamiliar" for a coding other than gzip, deflate and identity, "malformed" for damaged data.
    """
    coding = encoding.strip().lower()
    if coding in ("", "identity"):
        yield from chunks
        return
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise TargetError(
            f"{where}: answered in the content coding {coding[:40]!r}, which was not asked for", cause="unfamiliar"
        )
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, by its header
    try:
        for chunk in chunks:
            rest = chunk
            while rest and not decompressor.eof:
                yield decompressor.decompress(rest, STEP)
                rest = decompressor.unconsumed_tail
    except zlib.error as error:
        raise TargetError(f"{where}: the {coding} coding is damaged: {error}", cause="malformed") from error
    if not decompressor.eof:
        raise TargetError(f"{where}: the {coding} coding ends too early", cause="partial")


def decimal(text: bytes | str, most: int, where: str) -> int:
    """A number in ASCII digits from 0 to `most`, checked before it is converted. Raises TargetError("malformed")."""
    digits = text.encode("utf-8", "replace") if isinstance(text, str) else text
    if not digits or len(digits) > 20 or digits.strip(b"0123456789"):
        raise TargetError(f"{where}: {digits[:20]!r} is not a number", cause="malformed")
    value = int(digits)
    if value > most:
        raise TargetError(f"{where}: {value} is out of range", cause="malformed")
    return value
