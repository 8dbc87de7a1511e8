"""Count, expire and remove the keys of a Redis server without blocking it.

All commands are sent in small batches with a pause after each, so that no other client waits longer than for one batch.
No script is used: KEYS and DEL in one script block a server for most of a second per million keys.
"""

from __future__ import annotations

import json
import random
import re
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import NamedTuple, TypeVar

from maintd.clients.redis import Command, RedisServer
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.units import format_duration

T = TypeVar("T")

SCAN_COUNT = 500  # keys per SCAN: a fraction of a millisecond of the server's time, also in a sparse table
BATCH = 500  # keys of one change
WATCHED = 200  # keys in one transaction
_MAX_GROUPS = 500  # keys without a separator would otherwise be a group each
_TRIES = 3
_GROWTH_PER_WEEK = 0.10  # of the keys without expiry in a group of at least:
_MIN_GROWING = 1000
_MEASURED_GROUPS = 20  # the largest; and every other one that is large enough to count as growing
_WEEK = timedelta(days=7)


def glob(pattern: str) -> re.Pattern[str]:
    """A Redis glob as a regular expression: `*`, `?`, `[abc]`, `[^a-c]`, and a backslash before a literal character.

    Source: stringmatchlen in util.c of Redis 7.
    """
    found, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            found += ".*"
        elif char == "?":
            found += "."
        elif char == "[":
            members, at = _members(pattern, at)
            found += members
        else:
            if char == "\\" and at < len(pattern):
                char = pattern[at]
                at += 1
            found += re.escape(char)
    return re.compile(found, re.DOTALL)


def _members(pattern: str, at: int) -> tuple[str, int]:
    """The character class after a `[`, and the position after it. Without a `]` it ends with the pattern."""
    none_of = pattern[at : at + 1] == "^"
    at += none_of
    members = ""
    while at < len(pattern) and pattern[at] != "]":
        if pattern[at] == "\\" and at + 1 < len(pattern):
            at += 1
        first = last = pattern[at]
        if pattern[at + 1 : at + 2] == "-" and at + 2 < len(pattern):
            at += 2
            last = pattern[at]
        first, last = min(first, last), max(first, last)
        members += f"{re.escape(first)}-{re.escape(last)}"
        at += 1
    if not members:
        return ("." if none_of else "(?!)"), at + 1
    return f"[{'^' if none_of else ''}{members}]", at + 1


def printable(key: str) -> str:
    """A key as printable text: other bytes and control characters as `\\xff`; at most 200 characters."""
    text = key.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)[:200]


class Throttle:
    """Limits the load: `load` is the share of the time with a request under way, above 0 and up to 1.

    The server works during a part of it only: most of a batch's time is spent on this side.
    """

    def __init__(self, load: float) -> None:
        self._load = load

    def pause(self, seconds: float) -> None:
        """Pause after a batch that took `seconds`, for at most one second."""
        time.sleep(min(1.0, seconds * (1 / self._load - 1)))


def batches(pace: Throttle, items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in batches, with a pause after each in proportion to the time the caller has used for it."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        started = time.monotonic()
        yield batch
        pace.pause(time.monotonic() - started)


def scan(server: RedisServer, pace: Throttle, kind: str = "") -> Iterator[list[str]]:
    """Batches of all keys that exist throughout the scan, some perhaps twice; `kind`: a TYPE. Raises TargetError."""
    cursor = "0"
    only = ("TYPE", kind) if kind else ()
    while True:
        started = time.monotonic()
        cursor, keys = server.command("SCAN", cursor, "COUNT", SCAN_COUNT, *only)
        yield keys
        if str(cursor) == "0":
            return
        pace.pause(time.monotonic() - started)


@dataclass
class PatternCounts:
    """Keys of one pattern or prefix; the memory of a random sample of them."""

    keys: int = 0
    without_expiry: int = 0
    sampled: int = 0
    sampled_bytes: int = 0

    @property
    def bytes(self) -> int | None:
        """An estimate; None when the sample is too small."""
        return round(self.sampled_bytes / self.sampled * self.keys) if self.sampled >= min(30, self.keys) > 0 else None


class KeySize(NamedTuple):
    """A key and its memory."""

    key: str
    bytes: int


@dataclass
class KeyStatistics:
    """The keys counted.

    `due`: keys without expiry that should have one, by pattern. `stale`: keys without expiry that may be removed, by
    prefix. Both keep a limited number of keys; `due_total` and `stale_total` count all.
    """

    tallies: dict[str, PatternCounts] = field(default_factory=dict)
    due: dict[str, dict[str, None]] = field(default_factory=dict)
    stale: dict[str, dict[str, None]] = field(default_factory=dict)
    due_total: dict[str, int] = field(default_factory=dict)
    stale_total: dict[str, int] = field(default_factory=dict)
    largest: list[KeySize] = field(default_factory=list)
    keys: int = 0
    without_expiry: int = 0

    def ranked(self) -> list[tuple[str, PatternCounts]]:
        """The groups, largest number of keys first."""
        return sorted(self.tallies.items(), key=lambda item: -item[1].keys)

    def evidence(self) -> dict[str, object]:
        """Plain data for an artifact."""
        groups = {
            group: {"keys": tally.keys, "without_expiry": tally.without_expiry, "bytes_estimated": tally.bytes}
            for group, tally in self.ranked()
        }
        return {
            "groups": groups,
            "largest": [{"key": printable(item.key), "bytes": item.bytes} for item in self.largest],
        }


class KeyCounter:
    """Counts each key in the group of the first pattern that it matches, else of its text up to the first `:`."""

    def __init__(
        self, patterns: Sequence[str], expiring: Sequence[str], prefixes: Sequence[str], *, keep: int, sample: int
    ) -> None:
        self._patterns = [(pattern, glob(pattern)) for pattern in patterns]
        self._expiring = [(pattern, glob(pattern)) for pattern in expiring]
        self._prefixes = tuple(prefixes)
        self._keep = keep
        self._sample = sample
        self._sampled: list[tuple[str, str]] = []  # key and group
        self.census = KeyStatistics(
            tallies={pattern: PatternCounts() for pattern in patterns},
            due={pattern: {} for pattern in expiring},
            stale={prefix: {} for prefix in prefixes},
            due_total=dict.fromkeys(expiring, 0),
            stale_total=dict.fromkeys(prefixes, 0),
        )

    def add(self, server: RedisServer, keys: Sequence[str]) -> None:
        """Count one batch; asks for the TTL of each key. Raises TargetError."""
        for key, ttl in zip(keys, server.many(("PTTL", key) for key in keys), strict=True):
            if isinstance(ttl, TargetError):
                raise ttl
            if ttl != -2:  # removed since the scan
                self._count(key, without_expiry=ttl == -1)

    def _count(self, key: str, *, without_expiry: bool) -> None:
        census, group = self.census, self._group(key)
        census.keys += 1
        tally = census.tallies[group]
        tally.keys += 1
        if len(self._sampled) < self._sample:
            self._sampled.append((key, group))
        elif (index := random.randrange(census.keys)) < self._sample:  # noqa: S311 - a random sample, not a secret
            self._sampled[index] = (key, group)
        if not without_expiry:
            return
        census.without_expiry += 1
        tally.without_expiry += 1
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
        group = f"{printable(prefix)}:*" if separator else "(no prefix)"
        tallies = self.census.tallies
        if group not in tallies:
            if len(tallies) >= _MAX_GROUPS:
                group = "(other)"
            tallies.setdefault(group, PatternCounts())
        return group

    def measure_sample(self, server: RedisServer, pace: Throttle) -> None:
        """Ask for the memory of the sampled keys. Raises TargetError."""
        for batch in batches(pace, self._sampled, 20):
            sizes = server.many(("MEMORY", "USAGE", key, "SAMPLES", 5) for key, _ in batch)
            for (key, group), size in zip(batch, sizes, strict=True):
                if isinstance(size, TargetError):
                    raise size
                if size is not None:
                    self.census.tallies[group].sampled += 1
                    self.census.tallies[group].sampled_bytes += size
                    self.census.largest.append(KeySize(key, size))
        self.census.largest = sorted(self.census.largest, key=lambda item: -item.bytes)[:20]


def _add(kept: dict[str, None], totals: dict[str, int], name: str, key: str, limit: int) -> None:
    if key in kept:
        return  # SCAN may return a key twice
    totals[name] += 1
    if len(kept) < limit:
        kept[key] = None


def count(
    ctx: Context, server: RedisServer, pace: Throttle, counter: KeyCounter, deadline: datetime
) -> KeyStatistics | None:
    """Count all keys and measure the sample; None, and reported as unknown, without the time or the permission."""
    check = f"{server.name}: keys counted"
    try:
        size = int(server.command("DBSIZE"))
        for keys in scan(server, pace):
            counter.add(server, keys)
            ctx.progress(min(counter.census.keys, size), size, "key")
            if ctx.now() > deadline:
                ctx.unknown(check, f"{counter.census.keys} of {size} in time", hint="raise scan_budget or load")
                return None
        counter.measure_sample(server, pace)
    except TargetError as error:
        ctx.report_error(check, error)
        return None
    return counter.census


def expire_keys(
    ctx: Context, server: RedisServer, pace: Throttle, pattern: str, keys: Sequence[str], ttl: timedelta
) -> int:
    """Set an expiry on keys of a pattern, in batches of one change each; return how many got it. Raises TargetError."""
    changed = 0
    for batch in batches(pace, ctx.track(keys, unit="key"), BATCH):
        target = f"{server.name}: {pattern}"
        with ctx.change("expire", target, keys=len(batch), ttl=format_duration(ttl)) as allowed:
            if allowed:
                count, error = set_expiry(server, batch, ttl)
                allowed.observed(changed=count)
                changed += count
                if error is not None:
                    (allowed.failed if count else allowed.refused)(error.message)
                elif not count:
                    allowed.refused("each key has an expiry by now, or no longer exists")
        if allowed and error is not None:
            raise error
    return changed


def find_stale(
    server: RedisServer, pace: Throttle, census: KeyStatistics, idle: Mapping[str, timedelta]
) -> dict[str, list[str]]:
    """The keys to remove by prefix; `idle`: the minimum idle time by prefix. Raises TargetError."""
    found: dict[str, list[str]] = {}
    for prefix, minimum in idle.items():
        found[prefix] = []
        for batch in batches(pace, census.stale[prefix], WATCHED):
            found[prefix] += stale(server, batch, minimum)
    return found


def remove_keys(
    ctx: Context, server: RedisServer, pace: Throttle, prefix: str, keys: Sequence[str], idle: timedelta
) -> int:
    """Remove keys of a prefix, in batches of one change each; return how many were removed. Raises TargetError."""
    removed = 0
    for batch in batches(pace, ctx.track(keys, unit="key"), BATCH):
        with ctx.change("unlink", f"{server.name}: {printable(prefix)}*", keys=len(batch)) as allowed:
            if allowed:
                count = len(remove(server, batch, idle))
                allowed.observed(removed=count)
                removed += count
                if not count:
                    allowed.refused("each key was used or changed since it was listed")
    return removed


def set_expiry(server: RedisServer, keys: Sequence[str], ttl: timedelta) -> tuple[int, TargetError | None]:
    """Set an expiry on keys without one; return how many got it, and why the first of the others was refused.

    Raises TargetError when the server does not answer.

    Up to a tenth is added, by the key's checksum, so that the keys do not all expire at the same moment.
    """
    base = round(ttl.total_seconds() * 1000)

    def words(key: str) -> Command:
        spread = zlib.crc32(key.encode(errors="surrogateescape")) % (base // 10 + 1)
        return ("PEXPIRE", key, base + spread, "NX")

    answers = server.many(words(key) for key in keys)
    refused = next((answer for answer in answers if isinstance(answer, TargetError)), None)
    return sum(int(answer) for answer in answers if not isinstance(answer, TargetError)), refused


def remove(server: RedisServer, keys: Sequence[str], idle: timedelta) -> list[str]:
    """Unlink the keys that still are stale; return them. Raises TargetError.

    A key that changes during its transaction is checked again, at most twice, then left.
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
                removed += [key for key, unlinked in zip(chosen, answers, strict=True) if unlinked]
                break
    return removed


def stale(server: RedisServer, keys: Sequence[str], idle: timedelta) -> list[str]:
    """The keys without expiry that are not streams and were not accessed for `idle`. Raises TargetError."""
    questions = (("PTTL",), ("TYPE",), ("OBJECT", "IDLETIME"))
    answers = server.many((*words, key) for key in keys for words in questions)
    error = next((answer for answer in answers if isinstance(answer, TargetError)), None)
    if error is not None:
        raise error
    return [
        key
        for key, ttl, kind, seconds in zip(keys, answers[::3], answers[1::3], answers[2::3], strict=True)
        if ttl == -1 and kind not in ("none", "stream") and seconds is not None and seconds >= idle.total_seconds()
    ]


def weekly_growth(earlier: Sequence[tuple[datetime, float]], now: datetime, count: int) -> float | None:
    """The growth per week as a share, against the count of about a week ago; None without a day of history."""
    old = [(at, value) for at, value in earlier if now - at >= timedelta(days=1) and value > 0]
    if not old:
        return None
    at, value = min(old, key=lambda point: abs(now - point[0] - _WEEK))
    return (count / value - 1) * (_WEEK / (now - at))


def report(ctx: Context, name: str, census: KeyStatistics, big_key: int) -> None:
    """Report the checks and measures of a census, and save it as an artifact."""
    for pattern, total in census.due_total.items():
        hint = "set one where they are written, or let this job do it (expire)"
        ctx.check(f"{name}: keys without expiry in {pattern}", total, warn_above=0, hint=hint)
    growing = []
    for number, (group, tally) in enumerate(census.ranked()):
        if number >= _MEASURED_GROUPS and tally.without_expiry < _MIN_GROWING:
            continue
        labels = {"server": name, "pattern": group}
        history = [(point.at, point.value) for point in ctx.series("redis_keys_without_expiry", **labels)]
        growth = weekly_growth(history, ctx.now(), tally.without_expiry)
        if growth is not None and growth > _GROWTH_PER_WEEK and tally.without_expiry >= _MIN_GROWING:
            growing.append(f"{group} {growth:+.0%}")
        ctx.measure("redis_keys_of", tally.keys, "", **labels)
        ctx.measure("redis_keys_without_expiry", tally.without_expiry, "", **labels)
        if tally.bytes is not None:
            ctx.measure("redis_bytes_of", tally.bytes, "B", **labels)
    hint = f"growth per week: {', '.join(growing[:5])}; set an expiry, or remove them" if growing else ""
    ctx.check(f"{name}: kinds of keys without expiry that grow", len(growing), warn_above=0, hint=hint)
    if census.largest:
        hint = f"{printable(census.largest[0].key)}, the largest of a sample: split it; never DEL it, UNLINK it"
        ctx.check(f"{name}: largest key", census.largest[0].bytes, warn_above=big_key, unit="B", hint=hint)
    ctx.save(f"keys-{name}.json", json.dumps(census.evidence(), indent=1), "application/json")
