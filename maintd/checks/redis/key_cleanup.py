"""Keys that get an expiry, and idle keys that are removed, within limits."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator

from maintd.checks.redis import keyspace
from maintd.checks.redis.keyspace import KeyStatistics, Throttle, printable
from maintd.clients.redis import RedisServer
from maintd.job import Context


def _literal(prefix: str) -> str:
    if len(prefix) < 3 or set(prefix) & set("*?[]\\"):
        raise ValueError(f'"{prefix}" is not a prefix of at least three plain characters, such as cache:tmp:')
    return prefix


Prefix = Annotated[str, AfterValidator(_literal)]
"""The beginning of keys: at least three characters, none of them with a meaning in globs."""


def set_expiries(
    ctx: Context,
    server: RedisServer,
    pace: Throttle,
    statistics: KeyStatistics,
    expiries: Mapping[str, timedelta],
    max_keys: int,
) -> None:
    """Set an expiry on keys without one, by glob; on `max_keys` keys in total at most."""
    left = max_keys
    for pattern, ttl in expiries.items():
        due = list(statistics.due[pattern])[:left]
        left -= len(due)
        with ctx.phase(f"{server.name}: set an expiry on {pattern}"):
            changed = keyspace.expire_keys(ctx, server, pace, pattern, due, ttl)
        if not ctx.dry_run:
            ctx.check(
                f"{server.name}: keys of {pattern} left without expiry",
                statistics.due_total[pattern] - changed,
                warn_above=0,
                hint="the next run continues with them; or raise max_keys",
            )


def remove_idle_keys(
    ctx: Context,
    server: RedisServer,
    pace: Throttle,
    statistics: KeyStatistics,
    idle_times: Mapping[str, timedelta],
    max_keys: int,
    max_share: float,
) -> None:
    """Remove keys below the given prefixes that were idle for longer; none at all if they are too many."""
    name = server.name
    with ctx.phase(f"{name}: find keys to remove"):
        plan = keyspace.find_stale(server, pace, statistics, idle_times)
    if not plan:
        return
    total, limit = sum(map(len, plan.values())), int(min(max_keys, max_share * statistics.keys))
    hint = f"nothing was removed: read to-remove-{name}.txt; correct the prefixes, or raise max_share or max_keys"
    ctx.save(f"to-remove-{name}.txt", "".join(f"{printable(key)}\n" for keys in plan.values() for key in keys))
    ctx.check(f"{name}: keys to remove", total, at_most=limit, hint=hint)
    if total > limit:
        return
    for prefix, keys in plan.items():
        label = printable(prefix)
        with ctx.phase(f"{name}: remove {len(keys)} keys of {label}"):
            removed = keyspace.remove_keys(ctx, server, pace, prefix, keys, idle_times[prefix])
        if not ctx.dry_run:
            ctx.log(f"{name}: removed {removed} keys of {label}; kept {len(keys) - removed} that were used since")
            ctx.measure("redis_keys_removed", removed, "", server=name, prefix=label)
