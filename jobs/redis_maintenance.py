"""Check Redis memory and latency, make a verified background save, count keys without expiry, check and trim streams.

Runbook: Weekly Maintenance, System Cleanup, step 3 "Redis Maintenance"

A save counts when the server's own number of saves has increased, not when BGSAVE replied OK. It is not started without
room on the disk, because a server that cannot save refuses writes; one that refuses them already is saved as soon as
there is room. Expired keys need no cleaning: Redis deletes them. What grows are keys without expiry and streams without
a limit; a paced SCAN counts them without blocking the server. `expire`, `unlink` and `trim` change data and are empty
by default: they set an expiry on keys that have none, remove idle keys below a prefix, and drop stream entries that
every group has acknowledged. Nothing is changed without a verified save.
"""

from datetime import timedelta
from pathlib import Path

from pydantic import Field

from maintd.checks.probes import isolate_errors, isolate_unforeseen
from maintd.checks.redis import keyspace, memory, persistence, streams
from maintd.checks.redis.key_cleanup import Prefix, remove_idle_keys, set_expiries
from maintd.checks.redis.keyspace import KeyCounter, KeyStatistics, Throttle
from maintd.checks.redis.persistence import SaveOptions
from maintd.checks.redis.streams import TRIM_STEP, StreamLimits, StreamState
from maintd.checks.requirements.jobs.databases import redis_maintenance as requirements
from maintd.clients.redis import RedisServer, connect
from maintd.job import Context, Duration, JobParams, Role, Size, job


class Params(JobParams):
    targets: tuple[str, ...] = ()
    """Names of Redis targets; all by default."""
    save: bool = True
    """Make a background save."""
    save_timeout: Duration = timedelta(minutes=10)
    """Timeout of a save, and of waiting for one that is running."""
    snapshot: Path | None = None
    """Path of the server's dump.rdb on this machine: for its disk's free space, and to read it after the save."""
    keep_writes: bool = True
    """After a failed save of this job, let the server accept writes as before, until a save succeeds."""
    memory_limit: Size | None = None
    """Memory limit of the server's container; Redis only knows the machine's memory."""
    scan: bool = True
    """Count keys by pattern."""
    load: float = Field(default=0.2, gt=0, le=1)
    """Share of the time with a request of the scan under way; the server works during a part of it only."""
    scan_budget: Duration = timedelta(minutes=20)
    """Time for counting keys."""
    patterns: tuple[str, ...] = ()
    """Globs by which keys are counted (the first that matches); other keys by their text up to the first colon."""
    expiring: tuple[str, ...] = ()
    """Globs of keys that must have an expiry."""
    sample: int = Field(default=2000, ge=0, le=5000)
    """Size of the random sample of keys whose memory is measured."""
    big_key: Size = 100 * 2**20
    """Warn when a key uses more memory."""
    streams: tuple[str, ...] = ()
    """Streams that must exist, besides the target's own; other streams are found by scanning."""
    max_length: int = 100_000
    """Warn when a stream has more entries."""
    max_age: Duration = timedelta(days=7)
    """Warn when a stream's oldest entry is older."""
    max_lag: int = 50
    """Warn when a group has more undelivered entries."""
    lag_fail: int = 1000
    """Fail when a group has more undelivered entries."""
    stuck_after: Duration = timedelta(hours=1)
    """Fail when a consumer with pending entries was idle for longer."""
    idle_after: Duration = timedelta(days=7)
    """Warn when a consumer without pending entries was idle for longer."""
    slower_than: Duration = timedelta(milliseconds=10)
    """Report commands in the slow log of at least this duration."""
    expire: dict[str, Duration] = {}
    """Expiry by glob, set on keys that have none."""
    unlink: dict[Prefix, Duration] = {}
    """Idle time by prefix: remove keys without an expiry that were not accessed for longer."""
    trim: dict[str, Duration] = {}
    """Retention by glob of streams: drop older entries that every group has acknowledged."""
    max_keys: int = Field(default=100_000, ge=1)
    """Keys that get an expiry, and keys that are removed, in one run at most."""
    max_share: float = Field(default=0.1, gt=0, le=1)
    """Remove nothing when more than this share of all keys would be removed."""
    max_trimmed: int = Field(default=1_000_000, ge=TRIM_STEP)
    """Entries dropped from one stream in one run at most."""


@job(timeout="1h", mutates=True, repeatable=True, locks={"redis": "exclusive"}, needs=("redis",), requires=requirements)
def run(ctx: Context, params: Params) -> None:
    """Maintain each target in turn; a target that fails does not stop the others."""
    for name in params.targets or tuple(ctx.targets.redis) or ("main",):
        with isolate_errors(ctx, f"{name}: maintained", role=Role.WORK):
            target = ctx.target("redis", name)
            with connect(target, name=name) as server:
                maintain(ctx, params, server, (*target.streams, *params.streams))


def maintain(ctx: Context, params: Params, server: RedisServer, required: tuple[str, ...]) -> None:
    """Check memory, save, count keys, change what the params ask for, check streams."""
    name, pace = server.name, Throttle(params.load)
    with ctx.phase(f"{name}: find streams"):
        server.ping()
        found = streams.find_streams(ctx, server, pace if params.scan else None, required)
    with ctx.phase(f"{name}: check memory"):
        memory.report(ctx, server, params.memory_limit, params.slower_than, streams=bool(found))
    saved, statistics = True, None
    if params.save:
        with ctx.phase(f"{name}: save in the background"):
            options = SaveOptions(params.save_timeout, params.memory_limit, params.snapshot, params.keep_writes)
            saved = persistence.background_save(ctx, server, options)
    if params.scan:
        with ctx.phase(f"{name}: count keys"):
            statistics = count(ctx, params, server, pace)
    if not saved and (params.expire or params.unlink or params.trim):
        ctx.fail(f"{name}: cleaned", "not started: there is no verified save", expected="a verified save")
    elif saved:
        if statistics is not None:
            set_expiries(ctx, server, pace, statistics, params.expire, params.max_keys)
            remove_idle_keys(ctx, server, pace, statistics, params.unlink, params.max_keys, params.max_share)
        for index, stream in enumerate(found):
            with isolate_unforeseen(ctx, f"{name}: stream {keyspace.printable(stream.name)}", role=Role.WORK):
                found[index] = trim(ctx, params, server, pace, stream)
    with ctx.phase(f"{name}: check streams"):
        lag = params.max_lag, params.lag_fail
        limits = StreamLimits(params.max_length, params.max_age, *lag, params.stuck_after, params.idle_after)
        for stream in found:
            with isolate_unforeseen(ctx, f"{name}: stream {keyspace.printable(stream.name)}"):
                streams.report(ctx, name, stream, limits)


def count(ctx: Context, params: Params, server: RedisServer, pace: Throttle) -> KeyStatistics | None:
    """Count keys by pattern and report them; None without the time or the permission for all."""
    expiring = tuple(dict.fromkeys((*params.expiring, *params.expire)))
    counter = KeyCounter(
        tuple(dict.fromkeys((*params.patterns, *expiring))),
        expiring,
        tuple(params.unlink),
        keep=params.max_keys,
        sample=params.sample,
    )
    deadline = ctx.now() + min(params.scan_budget, ctx.remaining * 0.7)
    statistics = keyspace.count(ctx, server, pace, counter, deadline)
    if statistics is not None:
        keyspace.report(ctx, server.name, statistics, params.big_key)
    return statistics


def trim(ctx: Context, params: Params, server: RedisServer, pace: Throttle, stream: StreamState) -> StreamState:
    """Trim a stream for which the params have a retention; return its new state."""
    retentions = [age for pattern, age in params.trim.items() if keyspace.glob(pattern).fullmatch(stream.name)]
    if not retentions:
        return stream
    return streams.trim(ctx, server, pace, stream.name, max(retentions), params.max_trimmed)
