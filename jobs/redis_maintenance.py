"""Look after Redis: memory, a background save that is proven, keys that never expire, streams that nobody trims.

Runbook: Weekly Maintenance, System Cleanup, step 3 "Redis Maintenance"

A save counts when the server's own count of saves has gone up, not when BGSAVE said OK. Expired keys need no cleaning:
Redis does that, and a key whose name holds "expired" may be an order. What grows is keys without expiry and streams
without a limit; they are counted by a paced SCAN, which holds nobody up. `expire`, `unlink` and `trim` change something
and are empty by default: keys get an expiry that have none, keys below a prefix go when they were not touched for long,
entries go that every group has acknowledged. Nothing is cleaned before a save was proven.
"""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from maintd.checks.redis import keyspace, streams
from maintd.checks.redis import memory as memory_health
from maintd.checks.redis import persistence as saving
from maintd.checks.redis.globs import glob, shown
from maintd.checks.redis.keyspace import Census, Counting, Pace
from maintd.checks.redis.streams import StreamLimits, StreamState
from maintd.clients.redis import RedisServer, connect
from maintd.job import Context, Duration, JobParams, Size, TargetError, format_duration, job

BATCH = 500  # keys of one change
TRIM_STEP = 10_000  # entries of one XTRIM


def _literal(prefix: str) -> str:
    if len(prefix) < 3 or set(prefix) & set("*?[]\\"):
        raise ValueError(f'"{prefix}" is not a prefix of at least three plain characters, such as cache:tmp:')
    return prefix


Prefix = Annotated[str, AfterValidator(_literal)]


class Params(JobParams):
    targets: tuple[str, ...] = ()
    """Names of Redis targets; all by default."""
    save: bool = True
    """Whether to make a background save."""
    save_timeout: Duration = timedelta(minutes=10)
    """How long a save may take, and how long to wait for one that is under way."""
    snapshot: Path | None = None
    """Where the server's dump.rdb can be read from here; it is then read to its end after the save."""
    memory_limit: Size | None = None
    """What the server's container may use; Redis itself only knows the machine's memory."""
    scan: bool = True
    """Whether to count keys by pattern."""
    load: float = Field(default=0.2, gt=0, le=1)
    """Share of the time in which requests of the scan are under way; the server works for a part of that only."""
    scan_budget: Duration = timedelta(minutes=20)
    """How long counting may take."""
    patterns: tuple[str, ...] = ()
    """Globs by which keys are counted, the first that matches; other keys by their text up to the first colon."""
    expiring: tuple[str, ...] = ()
    """Globs of keys that must have an expiry."""
    sample: int = Field(default=2000, ge=0, le=5000)
    """Keys, drawn by lot, whose memory is asked for."""
    big_key: Size = 100 * 2**20
    """A key of more memory than this warns."""
    streams: tuple[str, ...] = ()
    """Streams that must be there, besides the target's own; all others are found."""
    max_length: int = 100_000
    """Entries; a longer stream warns."""
    max_age: Duration = timedelta(days=7)
    """Of a stream's oldest entry."""
    max_lag: int = 50
    """Entries that a group was not given yet."""
    stuck_after: Duration = timedelta(hours=1)
    """A consumer that has pending entries and was silent for longer fails."""
    idle_after: Duration = timedelta(days=7)
    """A consumer without any that was silent for longer is taken for gone."""
    slower_than: Duration = timedelta(milliseconds=10)
    """Commands in the slow log of at least this duration count."""
    expire: dict[str, Duration] = {}
    """Globs of keys that get this expiry where they have none."""
    unlink: dict[Prefix, Duration] = {}
    """Prefixes of keys that are removed when they have no expiry and were not touched for so long."""
    trim: dict[str, Duration] = {}
    """Globs of streams whose entries are dropped when older than this and acknowledged by every group."""
    max_keys: int = Field(default=100_000, ge=1)
    """The most keys that get an expiry, and the most that are removed, in one run."""
    max_share: float = Field(default=0.1, gt=0, le=1)
    """When more than this share of all keys is to be removed, none is."""
    max_trimmed: int = Field(default=1_000_000, ge=TRIM_STEP)
    """The most entries dropped from one stream in one run."""


@job(timeout="1h", mutates=True, repeatable=True, locks={"redis": "exclusive"}, needs=("redis",))
def run(ctx: Context, params: Params) -> None:
    """Each target in turn; one that cannot be reached does not hold up the others."""
    for name in params.targets or tuple(ctx.targets.redis) or ("main",):
        target = ctx.target("redis", name)
        try:
            with connect(target, name=name) as server:
                maintain(ctx, params, server, (*target.streams, *params.streams))
        except TargetError as error:
            ctx.report_error(f"{name}: maintained", error)


def maintain(ctx: Context, params: Params, server: RedisServer, wanted: tuple[str, ...]) -> None:
    """Look at memory and streams, save, count keys, then clean as far as that is asked for."""
    name, pace = server.name, Pace(params.load)
    with ctx.phase(f"{name}: find streams"):
        server.ping()
        found = find_streams(ctx, params, server, pace, wanted)
    with ctx.phase(f"{name}: look at memory"):
        advice = memory_health.judge(ctx, server, params.memory_limit, params.slower_than, streams=bool(found))
        if advice:
            ctx.save(f"memory-doctor-{name}.txt", advice)
    saved = save(ctx, params, server) if params.save else True
    census = count(ctx, params, server, pace) if params.scan else None
    if not saved and (params.expire or params.unlink or params.trim):
        ctx.fail(f"{name}: cleaned", "not begun: there is no fresh save to go back to", expected="a proven save")
    elif saved:
        if census is not None:
            expire(ctx, params, server, pace, census)
            unlink(ctx, params, server, pace, census)
        found = [trim(ctx, params, server, pace, stream) for stream in found]
    with ctx.phase(f"{name}: judge streams"):
        limits = StreamLimits(params.max_length, params.max_age, params.max_lag, params.stuck_after, params.idle_after)
        for stream in found:
            streams.judge(ctx, name, stream, limits, ctx.now())


def find_streams(
    ctx: Context, params: Params, server: RedisServer, pace: Pace, wanted: tuple[str, ...]
) -> list[StreamState]:
    """Those that must be there, and all others."""
    names = dict.fromkeys(wanted)
    if params.scan:
        for keys in keyspace.scan(server, pace, "stream"):
            names |= dict.fromkeys(keys)
    found = []
    for name in names:
        try:
            found.append(streams.look(server, name))
        except TargetError as error:
            if name in wanted or error.cause != "empty":
                ctx.unknown(
                    f"{server.name}: stream {shown(name)}", f"{error.cause}: {error.message}", hint=error.hint or ""
                )
    return found


def save(ctx: Context, params: Params, server: RedisServer) -> bool:
    """A background save and its proof. True when there is one, or would have been but for the dry run."""
    name, check = server.name, f"{server.name}: background save"
    with ctx.phase(f"{name}: save in the background"):
        try:
            before = saving.settled(server, params.save_timeout, lambda waited: ctx.progress(waited, None, "s"))
            if before.busy:
                ctx.fail(
                    check,
                    f"not begun: {before.busy} has not ended in {format_duration(params.save_timeout)}",
                    expected="saved",
                    hint="look at the server's log",
                )
                return False
            room = saving.headroom(before, params.memory_limit)
            ctx.report([room], name)
            if isinstance(room.observed, int) and isinstance(room.at_most, int) and room.observed > room.at_most:
                ctx.fail(check, "not begun: too little memory", expected="saved", hint=room.hint)
                return False
            if not ctx.may("save", name, last_saved=before.saved_at.isoformat()):
                return True
            began = ctx.now()
            refused = saving.start(server)
            after = saving.settled(server, params.save_timeout, lambda waited: ctx.progress(waited, None, "s"))
            proof = saving.proof(before, after)
            if refused and proof.observed != "saved":  # else somebody else's began first, and is as good
                proof = replace(proof, observed=f"refused: {refused}")
            ctx.report([proof], name)
            if after.took is not None:
                ctx.measure("redis_bgsave_duration_seconds", after.took.total_seconds(), "s", server=name)
            ctx.measure("redis_last_cow_bytes", after.copied_bytes, "B", server=name)
            ctx.report([saving.writes_refused(server, after)], name)
            if params.snapshot is not None and proof.observed == "saved":
                ctx.report([saving.readable(params.snapshot, began)], name)
        except TargetError as error:
            hint = "allow +bgsave in the user's ACL" if error.cause == "denied" else error.hint
            ctx.report_error(check, TargetError(error.message, hint, cause=error.cause), expected="saved")
            return False
    return proof.observed == "saved"


def count(ctx: Context, params: Params, server: RedisServer, pace: Pace) -> Census | None:
    """Keys by pattern; None when there was no time for all of them, or no leave."""
    name, deadline = server.name, ctx.now() + min(params.scan_budget, ctx.remaining * 0.7)
    expiring = tuple(dict.fromkeys((*params.expiring, *params.expire)))
    counting = Counting(
        tuple(dict.fromkeys((*params.patterns, *expiring))),
        expiring,
        tuple(params.unlink),
        keep=params.max_keys,
        sample=params.sample,
    )
    with ctx.phase(f"{name}: count keys"):
        try:
            size = int(server.command("DBSIZE"))
            for keys in keyspace.scan(server, pace):
                counting.take(server, keys)
                ctx.progress(min(counting.census.keys, size), size, "key")
                if ctx.now() > deadline:
                    hint = "raise scan_budget or load"
                    ctx.unknown(f"{name}: keys counted", f"{counting.census.keys} of {size} in time", hint=hint)
                    return None
            census = counting.weigh(server, pace)
        except TargetError as error:
            ctx.report_error(f"{name}: keys counted", error)
            return None
    history = {
        group: [
            (point.at, point.value) for point in ctx.series("redis_keys_without_expiry", server=name, pattern=group)
        ]
        for group in census.tallies
    }
    keyspace.judge(ctx, name, census, history, ctx.now(), params.big_key)
    ctx.save(f"keys-{name}.json", json.dumps(census.evidence(), indent=1), "application/json")
    return census


def expire(ctx: Context, params: Params, server: RedisServer, pace: Pace, census: Census) -> None:
    """Give an expiry to keys that have none."""
    left = params.max_keys
    for pattern, ttl in params.expire.items():
        due = list(census.due[pattern])[:left]
        left -= len(due)
        given = 0
        with ctx.phase(f"{server.name}: give {pattern} an expiry"):
            for batch in keyspace.steps(pace, ctx.track(due, unit="key"), BATCH):
                if ctx.may("expire", f"{server.name}: {pattern}", keys=len(batch), ttl=format_duration(ttl)):
                    given += keyspace.expire(server, batch, ttl)
        if not ctx.dry_run:
            ctx.check(
                f"{server.name}: keys of {pattern} left without expiry",
                census.due_total[pattern] - given,
                warn_above=0,
                hint="the next run goes on with them; or raise max_keys",
            )


def unlink(ctx: Context, params: Params, server: RedisServer, pace: Pace, census: Census) -> None:
    """Remove keys below the prefixes that are allowed."""
    name = server.name
    plan: dict[str, list[str]] = {}
    with ctx.phase(f"{name}: find keys to remove"):
        for prefix, idle in params.unlink.items():
            plan[prefix] = []
            for batch in keyspace.steps(pace, census.stale[prefix], keyspace.WATCHED):
                plan[prefix] += keyspace.stale(server, batch, idle)
    total = sum(map(len, plan.values()))
    if not plan:
        return
    most = int(min(params.max_keys, params.max_share * census.keys))
    hint = "look at to-remove.txt: is a prefix too short? else raise max_share or max_keys; nothing was removed"
    ctx.save(f"to-remove-{name}.txt", "".join(f"{shown(key)}\n" for keys in plan.values() for key in keys))
    ctx.check(f"{name}: keys to remove", total, at_most=most, hint=hint)
    if total > most:
        return
    for prefix, keys in plan.items():
        removed = 0
        with ctx.phase(f"{name}: remove {total} keys of {prefix}"):
            for batch in keyspace.steps(pace, ctx.track(keys, unit="key"), BATCH):
                if ctx.may("unlink", f"{name}: {shown(prefix)}*", keys=len(batch)):
                    removed += len(keyspace.remove(server, batch, params.unlink[prefix]))
        if not ctx.dry_run:
            ctx.log(f"{name}: removed {removed} keys of {shown(prefix)}; {len(keys) - removed} were used meanwhile")
            ctx.measure("redis_keys_removed", removed, "", server=name, prefix=shown(prefix))


def trim(ctx: Context, params: Params, server: RedisServer, pace: Pace, stream: StreamState) -> StreamState:
    """Drop old entries that no group needs; the stream as it is then."""
    ages = [age for pattern, age in params.trim.items() if glob(pattern).fullmatch(stream.name)]
    if not ages:
        return stream
    stream = streams.look(server, stream.name)  # its readers have gone on since
    keep = streams.keep_from(stream, max(ages), ctx.now())
    if keep is None:
        return stream
    dropped, label = 0, f"{server.name}: {shown(stream.name)}"
    with ctx.phase(f"{server.name}: trim {shown(stream.name)} before {keep}"):
        if ctx.may("trim", label, before=keep, entries=stream.length):
            for _ in keyspace.steps(pace, range(params.max_trimmed // TRIM_STEP), 1):
                gone = streams.trim(server, stream.name, keep, TRIM_STEP)
                dropped += gone
                ctx.progress(dropped, None, "entry")
                if not gone:
                    break
            ctx.log(f"{label}: {dropped} of {stream.length} entries dropped")
            ctx.measure("redis_stream_trimmed", dropped, "", server=server.name, stream=shown(stream.name))
    return streams.look(server, stream.name)
