"""Resource usage of containers from the engine's counters: the working set of memory, CPU between two samples.

Reads the stats of both cgroup v1 and v2. Source of the memory formula: docker stats, which subtracts the inactive file
cache, because the kernel reclaims it before it kills.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from maintd.clients.docker import Container, Docker
from maintd.errors import TargetError

_UNLIMITED = 1 << 62  # v1 reports "no limit" as the largest number of whole pages
_PARALLEL = 8  # requests to the engine at once
# Per second between the samples. The kernel counts periods in which the container had something to run, 10 a second
# by default: a short burst of an idle container is throttled in one of one, which does not make its limit too low.
_LEAST_PERIODS = 4


@dataclass(frozen=True)
class Sample:
    """One container's counters at one instant of the engine's clock."""

    at: datetime
    memory: int  # bytes of the working set
    cpu_nanoseconds: int
    periods: int  # in which the CPU limit was enforced
    throttled: int  # of these, with the container throttled
    pids: int
    pids_limit: int  # 0: none


@dataclass(frozen=True)
class Usage:
    """A container's usage. Percentages are of its limits; None without a limit."""

    memory: int
    memory_percent: float | None
    cpus: float  # CPU seconds per second between the samples
    cpu_percent: float | None
    throttled_percent: float | None  # None without a CPU limit, or with too few periods between the samples
    pids: int
    pids_percent: float | None


def samples(engine: Docker, containers: Sequence[Container]) -> dict[str, Sample | TargetError]:
    """One sample of each container by its id, or the error of one that is removed, stopped or not readable."""

    def take(container: Container) -> Sample | TargetError:
        try:
            body = engine.stats(container.id)
            if body is None:
                return TargetError(
                    f"{container.label}: no longer exists",
                    "it was removed after it was listed; the next run measures what then runs",
                    cause="empty",
                )
            return sample(body)
        except TargetError as error:
            return error

    with ThreadPoolExecutor(_PARALLEL) as pool:
        return {item.id: taken for item, taken in zip(containers, pool.map(take, containers), strict=True)}


def sample(body: Mapping[str, Any]) -> Sample:
    """Parse a stats body. Raises TargetError: cause `empty` for a container that is not running, else `malformed`."""
    try:
        memory, cpu = body["memory_stats"], body["cpu_stats"]
        if "usage" not in memory:
            raise TargetError("the engine has no counters of it", "check whether it is running", cause="empty")
        detail = memory.get("stats") or {}
        cache = int(detail.get("total_inactive_file", detail.get("inactive_file", 0)))
        usage = int(memory["usage"])
        throttling = cpu.get("throttling_data") or {}
        pids = body.get("pids_stats") or {}
        pids_limit = int(pids.get("limit") or 0)
        return Sample(
            at=datetime.fromisoformat(body["read"]),
            memory=usage - cache if cache < usage else usage,
            cpu_nanoseconds=int(cpu["cpu_usage"]["total_usage"]),
            periods=int(throttling.get("periods") or 0),
            throttled=int(throttling.get("throttled_periods") or 0),
            pids=int(pids.get("current") or 0),
            pids_limit=0 if pids_limit >= _UNLIMITED else pids_limit,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TargetError(f"unexpected format of stats: {error!r}", cause="malformed") from error


def usage(container: Container, first: Sample, second: Sample) -> Usage:
    """Usage between two samples, against its limits. Raises TargetError(cause="partial") when it was restarted."""
    busy = second.cpu_nanoseconds - first.cpu_nanoseconds
    seconds = (second.at - first.at).total_seconds()
    if busy < 0 or seconds <= 0:
        raise TargetError(
            f"{container.label}: its counters were reset between the samples",
            "it was restarted between the samples; the next run measures it again",
            cause="partial",
        )
    cpus = busy / 1e9 / seconds
    periods = second.periods - first.periods
    pids_limit = container.pids_limit or second.pids_limit
    return Usage(
        memory=second.memory,
        memory_percent=_percent(second.memory, container.memory_limit),
        cpus=cpus,
        cpu_percent=_percent(cpus, container.cpu_limit),
        throttled_percent=_percent(second.throttled - first.throttled, periods)
        if container.cpu_limit and periods >= _LEAST_PERIODS * seconds
        else None,
        pids=second.pids,
        pids_percent=_percent(second.pids, pids_limit),
    )


def _percent(part: float, whole: float) -> float | None:
    return 100 * part / whole if whole > 0 else None
