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
_YAML_VALUES = 100_000  # a configuration of Loki 3 has 2,000; the loader takes about 30 µs and 400 bytes for each
_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_LONG_NUMBERS = re.compile(rf"[-+]?[0-9.][0-9A-Fa-fxo_.:+-]{{{_LONG_NUMBER},}}")


def parse_yaml(data: bytes | str, where: str, hint: str = "") -> Any:
    """Decode a YAML document within limits. Raises TargetError: "too_large" or "malformed"."""
    try:
        check_yaml(data, where)
        return yaml.load(data, Loader=_YAML)  # noqa: S506 - both are safe loaders
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TargetError(f"{where}: is not YAML: {str(error)[:200]}", hint or None, cause="malformed") from error


def check_yaml(data: bytes | str, where: str) -> None:
    """Raise TargetError("too_large") for YAML that is over a limit after its aliases and merge keys are expanded.

    For a loader of YAML, and for what walks through its result: aliases in aliases make 10 times as many values with
    each line. An alias counts as what it refers to; a merge key has an alias for all that it copies.
    Raises yaml.YAMLError for what is not YAML, and for an alias inside of its own value.
    """
    if len(data) > _YAML_BYTES:
        raise TargetError(f"{where}: has more than {format_size(_YAML_BYTES)}", cause="too_large")
    sizes: dict[str, _Size | None] = {}  # of each anchor; None: its end has not been read yet
    opened: list[tuple[str | None, _Size]] = []
    total = 0
    for event in yaml.parse(data, Loader=_YAML):
        size = None
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, _Size(1, 1)))
            total += 1
            if event.anchor:
                sizes[event.anchor] = None
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = opened.pop()
            if anchor:
                sizes[anchor] = size
        elif isinstance(event, yaml.ScalarEvent):
            _check_yaml_scalar(event, where)
            size = _Size(1, 0)
            total += 1
            if event.anchor:
                sizes[event.anchor] = size
        elif isinstance(event, yaml.AliasEvent):
            anchor = str(event.anchor)
            size = sizes.get(anchor, _Size(1, 0))  # without an anchor: an error of the loader
            if size is None:
                raise yaml.YAMLError(f"the alias {anchor[:80]!r} is inside of the value that it refers to")
            total += size.values
        if size is not None and opened:
            opened[-1][1].add(size)
        if total > _YAML_VALUES:
            text = f"{where}: has more than {_YAML_VALUES} values, with each alias as what it refers to"
            raise TargetError(text, cause="too_large")
        if len(opened) + (size.depth if size is not None else 0) > _YAML_DEPTH:
            raise TargetError(f"{where}: is nested more than {_YAML_DEPTH} deep", cause="too_large")


@dataclass
class _Size:
    """Of a value of YAML after expansion: how many values it has, itself included, and how deep it is nested."""

    values: int
    depth: int

    def add(self, inner: _Size) -> None:
        """Count a value inside of it."""
        self.values += inner.values
        self.depth = max(self.depth, inner.depth + 1)


def _check_yaml_scalar(event: yaml.ScalarEvent, where: str) -> None:
    """A number in base 60, `1:1:…`, takes time with the square of its length; a long one cannot be written again."""
    is_number = event.implicit[0] or event.tag in _NUMBER_TAGS
    if is_number and len(event.value) > _LONG_NUMBER and _LONG_NUMBERS.fullmatch(event.value.strip()):
        raise TargetError(f"{where}: has a number of more than {_LONG_NUMBER} digits", cause="too_large")


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
