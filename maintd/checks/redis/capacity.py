"""Capacity figures of a Redis server: memory and keys."""

from __future__ import annotations

from collections.abc import Iterator

from maintd.clients.redis import connect
from maintd.errors import TargetError
from maintd.model.target import RedisTarget
from maintd.reports.figure import Figure, unmeasured


def figures(target: RedisTarget, name: str) -> Iterator[Figure]:
    """Used memory against maxmemory, its peak, and the number of keys."""
    source = f"INFO of {name}"
    try:
        with connect(target, name=name) as server:
            info = server.info("memory")
            used, peak = float(info["used_memory"]), float(info["used_memory_peak"])
            limit = float(info.get("maxmemory", 0))
            keys = server.command("DBSIZE")
    except (TargetError, KeyError, ValueError) as error:
        cause = str(error) if isinstance(error, TargetError) else f"INFO has no {error}"
        yield unmeasured("redis memory", name, "B", source, cause)
        return
    labels = {"server": name}
    yield Figure(
        "redis memory",
        name,
        used,
        "B",
        source,
        capacity=limit or None,
        measure="redis_used_memory_bytes",
        labels=labels,
        details={"peak": peak},
    )
    yield Figure("redis keys", name, float(keys), "", f"DBSIZE of {name}", measure="redis_keys", labels=labels)
