"""Keys of a Redis server, looked at and cleaned without holding it up.

Everything goes in small steps with a pause after each, so that no other client waits longer than for one step. Nothing
needs a script: KEYS and DEL in one script hold a server up for most of a second per million keys.
"""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import NamedTuple, TypeVar

from maintd.checks.redis.globs import glob, shown
from maintd.clients.redis import Command, RedisServer
from maintd.errors import TargetError
from maintd.job.context import Context

T = TypeVar("T")

COUNT = 500  # keys per SCAN: a fraction of a millisecond of the server's time, however sparse its table is
_GROUPS_MOST = 500  # names without a separator would give each key a group of its own
WATCHED = 200  # keys in one transaction
_TRIES = 3
_GROWING = 0.10  # a week, of keys without expiry, from so many keys on:
_GROWING_FROM = 1000
_TOLD = 20  # groups whose numbers are kept
_WEEK = timedelta(days=7)


class Pace:
    """How gently. `load` is the share of the time in which requests are under way, over 0 and up to 1.

    The server works for a part of that only: most of a step is spent on this side.
    """

    def __init__(self, load: float) -> None:
        self._load = load

    def rest(self, seconds: float) -> None:
        """Leave the server to others after a step that took so long; never longer than a second."""
        time.sleep(min(1.0, seconds * (1 / self._load - 1)))


def steps(pace: Pace, items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Items in batches, with a pause after each in proportion to what was done with it."""
    waiting = iter(items)
    while batch := list(islice(waiting, size)):
        began = time.monotonic()
        yield batch
        pace.rest(time.monotonic() - began)


def scan(server: RedisServer, pace: Pace, kind: str = "") -> Iterator[list[str]]:
    """All keys that stay from begin to end, some of them perhaps twice; `kind` as TYPE says. Raises TargetError."""
    cursor = "0"
    only = ("TYPE", kind) if kind else ()
    while True:
        began = time.monotonic()
        cursor, keys = server.command("SCAN", cursor, "COUNT", COUNT, *only)
        yield keys
        if str(cursor) == "0":
            return
        pace.rest(time.monotonic() - began)


@dataclass
class Tally:
    """Keys of one pattern or prefix. `lasting` have no expiry; bytes are known of some, drawn by lot."""

    keys: int = 0
    lasting: int = 0
    sampled: int = 0
    sampled_bytes: int = 0

    @property
    def bytes(self) -> int | None:
        """An estimate; None when too few were looked at."""
        return round(self.sampled_bytes / self.sampled * self.keys) if self.sampled >= min(30, self.keys) > 0 else None


class Sized(NamedTuple):
    """A key with its memory."""

    key: str
    bytes: int


@dataclass
class Census:
    """What the keys are. `due` holds, by pattern, keys without expiry that should have one; `stale`, by prefix, those
    without expiry that may be removed; neither has more than it was asked for, and `due_total` and `stale_total` count
    them all."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    due: dict[str, dict[str, None]] = field(default_factory=dict)
    stale: dict[str, dict[str, None]] = field(default_factory=dict)
    due_total: dict[str, int] = field(default_factory=dict)
    stale_total: dict[str, int] = field(default_factory=dict)
    largest: list[Sized] = field(default_factory=list)
    keys: int = 0
    lasting: int = 0

    def ranked(self) -> list[tuple[str, Tally]]:
        """Groups, those with most keys first."""
        return sorted(self.tallies.items(), key=lambda item: -item[1].keys)

    def evidence(self) -> dict[str, object]:
        """Plain data for an artifact."""
        groups = {
            group: {"keys": tally.keys, "without_expiry": tally.lasting, "bytes_estimated": tally.bytes}
            for group, tally in self.ranked()
        }
        return {"groups": groups, "largest": [{"key": shown(one.key), "bytes": one.bytes} for one in self.largest]}


class Counting:
    """Takes a census: each key counts for the first pattern that it matches, else for its text up to the first `:`."""

    def __init__(
        self, patterns: Sequence[str], expiring: Sequence[str], prefixes: Sequence[str], *, keep: int, sample: int
    ) -> None:
        self._patterns = [(pattern, glob(pattern)) for pattern in patterns]
        self._expiring = [(pattern, glob(pattern)) for pattern in expiring]
        self._prefixes = tuple(prefixes)
        self._keep = keep
        self._sample = sample
        self._drawn: list[tuple[str, str]] = []  # key and group
        self.census = Census(
            tallies={pattern: Tally() for pattern in patterns},
            due={pattern: {} for pattern in expiring},
            stale={prefix: {} for prefix in prefixes},
            due_total=dict.fromkeys(expiring, 0),
            stale_total=dict.fromkeys(prefixes, 0),
        )

    def take(self, server: RedisServer, keys: Sequence[str]) -> None:
        """Count a step's keys, with one question for each of them. Raises TargetError."""
        for key, left in zip(keys, server.many(("PTTL", key) for key in keys), strict=True):
            if isinstance(left, TargetError):
                raise left
            if left != -2:  # gone since
                self._count(key, lasting=left == -1)

    def _count(self, key: str, *, lasting: bool) -> None:
        census, group = self.census, self._group(key)
        census.keys += 1
        tally = census.tallies[group]
        tally.keys += 1
        if len(self._drawn) < self._sample:
            self._drawn.append((key, group))
        elif (place := random.randrange(census.keys)) < self._sample:  # noqa: S311 - a fair draw, no secret
            self._drawn[place] = (key, group)
        if not lasting:
            return
        census.lasting += 1
        tally.lasting += 1
        for pattern, compiled in self._expiring:
            if compiled.fullmatch(key):
                _add(census.due[pattern], census.due_total, pattern, key, self._keep)
                break
        for prefix in self._prefixes:
            if key.startswith(prefix):
                _add(census.stale[prefix], census.stale_total, prefix, key, self._keep)
                break

    def _group(self, key: str) -> str:
        for pattern, compiled in self._patterns:
            if compiled.fullmatch(key):
                return pattern
        prefix, separator, _ = key.partition(":")
        group = f"{shown(prefix)}:*" if separator else "(no prefix)"
        tallies = self.census.tallies
        if group not in tallies:
            if len(tallies) >= _GROUPS_MOST:
                group = "(other)"
            tallies.setdefault(group, Tally())
        return group

    def weigh(self, server: RedisServer, pace: Pace) -> Census:
        """Ask for the memory of the keys that were drawn. Raises TargetError."""
        for batch in steps(pace, self._drawn, 20):
            sizes = server.many(("MEMORY", "USAGE", key, "SAMPLES", 5) for key, _ in batch)
            for (key, group), size in zip(batch, sizes, strict=True):
                if isinstance(size, TargetError):
                    raise size
                if size is not None:
                    self.census.tallies[group].sampled += 1
                    self.census.tallies[group].sampled_bytes += size
                    self.census.largest.append(Sized(key, size))
        self.census.largest = sorted(self.census.largest, key=lambda one: -one.bytes)[:20]
        return self.census


def _add(kept: dict[str, None], totals: dict[str, int], name: str, key: str, most: int) -> None:
    if key in kept:
        return  # a SCAN may show a key twice
    totals[name] += 1
    if len(kept) < most:
        kept[key] = None


def expire(server: RedisServer, keys: Sequence[str], ttl: timedelta) -> int:
    """Give keys that have none an expiry, and say how many got it. Raises TargetError.

    Up to a tenth is added, by the key's own checksum, so that not all of them expire in the same moment.
    """
    base = round(ttl.total_seconds() * 1000)

    def words(key: str) -> Command:
        spread = zlib.crc32(key.encode(errors="surrogateescape")) % (base // 10 + 1)
        return ("PEXPIRE", key, base + spread, "NX")

    given = 0
    for answer in server.many(words(key) for key in keys):
        if isinstance(answer, TargetError):
            raise answer
        given += int(answer)
    return given


def remove(server: RedisServer, keys: Sequence[str], idle: timedelta) -> list[str]:
    """Unlink those that still have no expiry, are no streams and were not touched for so long; the keys that went.

    A key that changes between the look and the deed is looked at again, and left alone after the third time. Raises
    TargetError.
    """
    removed: list[str] = []
    for start in range(0, len(keys), WATCHED):
        batch = keys[start : start + WATCHED]
        for _ in range(_TRIES):
            chosen: list[str] = []

            def decide(batch: Sequence[str] = batch, chosen: list[str] = chosen) -> list[Command]:
                chosen.extend(stale(server, batch, idle))
                return [("UNLINK", key) for key in chosen]

            answers = server.unless_changed(batch, decide)
            if answers is not None:
                removed += [key for key, gone in zip(chosen, answers, strict=True) if gone]
                break
    return removed


def stale(server: RedisServer, keys: Sequence[str], idle: timedelta) -> list[str]:
    """Those without expiry that are no streams and were not touched for so long. Raises TargetError."""
    questions = (("PTTL",), ("TYPE",), ("OBJECT", "IDLETIME"))
    answers = server.many((*words, key) for key in keys for words in questions)
    refused = next((answer for answer in answers if isinstance(answer, TargetError)), None)
    if refused is not None:
        raise refused
    return [
        key
        for key, left, kind, seconds in zip(keys, answers[::3], answers[1::3], answers[2::3], strict=True)
        if left == -1 and kind not in ("none", "stream") and seconds is not None and seconds >= idle.total_seconds()
    ]


def weekly_growth(earlier: Sequence[tuple[datetime, float]], now: datetime, count: int) -> float | None:
    """By which share a count grows in a week, against what it was about a week ago; None without a day of history."""
    old = [(at, value) for at, value in earlier if now - at >= timedelta(days=1) and value > 0]
    if not old:
        return None
    at, value = min(old, key=lambda point: abs(now - point[0] - _WEEK))
    return (count / value - 1) * (_WEEK / (now - at))


def judge(
    ctx: Context,
    name: str,
    census: Census,
    history: Mapping[str, Sequence[tuple[datetime, float]]],
    now: datetime,
    big_key: int,
) -> None:
    """Checks and measures of a census. `history` holds earlier counts of keys without expiry by group."""
    for pattern, total in census.due_total.items():
        hint = "give them one where they are written, or let this job do it (expire)"
        ctx.check(f"{name}: keys without expiry in {pattern}", total, warn_above=0, hint=hint)
    growing = []
    for group, tally in census.ranked()[:_TOLD]:
        labels = {"server": name, "pattern": group}
        growth = weekly_growth(history.get(group, ()), now, tally.lasting)
        if growth is not None and growth > _GROWING and tally.lasting >= _GROWING_FROM:
            growing.append(f"{group} {growth:+.0%}")
        ctx.measure("redis_keys_of", tally.keys, "", **labels)
        ctx.measure("redis_keys_without_expiry", tally.lasting, "", **labels)
        if tally.bytes is not None:
            ctx.measure("redis_bytes_of", tally.bytes, "B", **labels)
    hint = f"a week: {', '.join(growing[:5])}; they should expire, or go" if growing else ""
    ctx.check(f"{name}: kinds of keys without expiry that grow", len(growing), warn_above=0, hint=hint)
    if census.largest:
        hint = f"{shown(census.largest[0].key)}, of those drawn by lot: split it, and never DEL it"
        ctx.check(f"{name}: largest key", census.largest[0].bytes, warn_above=big_key, unit="B", hint=hint)
