"""Metrics of the runtimes Node, Python, JVM and Go compared with limits, for each scrape target that exports them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from maintd.clients.prometheus import Prometheus
from maintd.errors import TargetError
from maintd.job.criterion import Criterion

Key = tuple[str, str]
"""Job and instance of a scrape target."""

MARKS: Mapping[str, str] = {
    "Node": "nodejs_eventloop_lag_seconds or nodejs_version_info or nodejs_heap_size_used_bytes",
    "Python": "python_info or python_gc_collections_total",
    "JVM": "jvm_memory_used_bytes or jvm_info",
    "Go": "go_goroutines or go_info",
}
"""Metrics by which a runtime is recognized."""

NO_PROFILER = "never by an inspector or SIGUSR1 in production: it opens a port"


@dataclass(frozen=True)
class Rule:
    """One number of a runtime. `promql` has `$window`, and results by job and instance. Above `warn` it warns, above
    `fail` it fails."""

    name: str
    runtime: str  # empty: any
    promql: str
    warn: float
    fail: float | None
    unit: str
    hint: str
    source: str


_BY = "by (job, instance)"
RULES: tuple[Rule, ...] = (
    Rule(
        "event loop lag",
        "Node",
        "max by (job, instance) (quantile_over_time(0.95, nodejs_eventloop_lag_p99_seconds[$window]))",
        0.1,
        0.5,
        "s",
        f"find what blocks the loop: large JSON, synchronous calls, regular expressions; {NO_PROFILER}",
        "Node.js documentation, Don't Block the Event Loop; p99 of a scrape, in 95 % of the window",
    ),
    Rule(
        "share of time in garbage collection",
        "Node",
        f"sum {_BY} (rate(nodejs_gc_duration_seconds_sum[$window]))",
        0.05,
        0.10,
        "",
        "allocate less in hot paths, or raise --max-old-space-size and the memory limit",
        "Node.js documentation, Tracing garbage collection; a collection stops the process",
    ),
    Rule(
        "busiest 5 minutes of one core",
        "Python",
        f"quantile_over_time(0.95, (sum {_BY} (rate(process_cpu_seconds_total[5m]) and on (job, instance) python_info))"
        "[$window:5m])",
        0.8,
        None,
        "",
        "start more worker processes: one interpreter lock lets one thread run at a time",
        "Python documentation, Glossary: global interpreter lock; p95 of 5 minutes",
    ),
    Rule(
        "objects that could not be collected",
        "Python",
        f"sum {_BY} (increase(python_gc_objects_uncollectable_total[$window]))",
        0,
        None,
        "",
        "find cycles with gc.garbage in a copy of the service, not in production",
        "Python documentation, gc.garbage",
    ),
    Rule(
        "heap of its maximum",
        "JVM",
        f'quantile_over_time(0.95, (sum {_BY} (jvm_memory_used_bytes{{area="heap"}}) / '
        f'(sum {_BY} (jvm_memory_max_bytes{{area="heap"}}) > 0))[$window:5m])',
        0.85,
        0.95,
        "",
        "raise -XX:MaxRAMPercentage or -Xmx with the memory limit, or take a heap dump of a copy",
        "Oracle, HotSpot Garbage Collection Tuning Guide; p95",
    ),
    Rule(
        "share of time in garbage collection",
        "JVM",
        f"sum {_BY} (rate(jvm_gc_pause_seconds_sum[$window]))"  # Micrometer; the Java client
        f" or sum {_BY} (rate(jvm_gc_collection_seconds_sum[$window]))",
        0.05,
        0.10,
        "",
        "raise the heap, or choose a collector for short pauses",
        "Oracle, HotSpot Garbage Collection Tuning Guide, GCTimeRatio",
    ),
    Rule(
        "longest pause of garbage collection",
        "Go",
        'max by (job, instance) (quantile_over_time(0.95, go_gc_duration_seconds{quantile="1"}[$window]))',
        0.1,
        0.5,
        "s",
        "raise GOGC or set GOMEMLIMIT below the memory limit; check for a throttled CPU limit",
        "Go documentation, A Guide to the Go Garbage Collector; p95 of scrapes",
    ),
    Rule(
        "goroutines",
        "Go",
        f"max {_BY} (quantile_over_time(0.95, go_goroutines[$window]))",
        10_000,
        100_000,
        "",
        "look for goroutines that wait for ever: /debug/pprof/goroutine, where it is enabled",
        "Go documentation, runtime/pprof, goroutine profile; p95",
    ),
    Rule(
        "open files of its limit",
        "",
        f"max {_BY} (quantile_over_time(0.99, (process_open_fds / (process_max_fds > 0))[$window:5m]))",
        0.7,
        0.9,
        "",
        "look for connections that are not closed; else raise ulimits.nofile in the compose file",
        "getrlimit(2), RLIMIT_NOFILE; p99",
    ),
)
HEAPS: Mapping[str, str] = {
    "Node": f"max {_BY} (quantile_over_time(0.99, nodejs_heap_size_used_bytes[$window]))",
    "Go": f"max {_BY} (quantile_over_time(0.99, go_memstats_heap_inuse_bytes[$window]))",
}
"""Heaps without a maximum of their own: compared with the memory limit of the container."""
HEAP_OF_LIMIT = 0.85


@dataclass(frozen=True)
class Runtimes:
    """What Prometheus has of runtimes. `coverage`: the share of hours with a scrape, by target."""

    targets: Mapping[Key, frozenset[str]]
    coverage: Mapping[Key, float]
    values: Mapping[tuple[str, str], Mapping[Key, float]]  # by runtime and name of a rule
    heaps: Mapping[str, Mapping[Key, float]]


def collect(server: Prometheus, window: timedelta, jobs: Sequence[str]) -> Runtimes:
    """Query all rules. jobs: only scrape targets of these; all without any. Raises TargetError."""
    length = f"{window.total_seconds():.0f}s"
    hours = window.total_seconds() / 3600
    scraped = _query(server, f"max {_BY} (last_over_time(up[{length}]))", optional=False)
    counts = _query(server, f"count_over_time((up == 1)[{length}:1h])")  # none in the first hour of a Prometheus
    covered = {key: min(1.0, counts.get(key, 0.0) / hours) for key in scraped if not jobs or key[0] in jobs}
    found = {key: set[str]() for key in covered}
    for runtime, mark in MARKS.items():
        names = mark.split(" or ")
        for name in names:
            for key in _query(server, f"max {_BY} (last_over_time({name}[{length}]))"):
                if key in found:
                    found[key].add(runtime)
    values = {(rule.runtime, rule.name): _query(server, rule.promql.replace("$window", length)) for rule in RULES}
    heaps = {runtime: _query(server, text.replace("$window", length)) for runtime, text in HEAPS.items()}
    return Runtimes({key: frozenset(names) for key, names in found.items()}, covered, values, heaps)


def _query(server: Prometheus, promql: str, *, optional: bool = True) -> dict[Key, float]:
    """The values by target, none of which can be negative or infinite: one that is counts as not exported."""
    try:
        found = server.query(promql)
    except TargetError as error:
        if error.cause != "empty" or not optional:
            raise
        return {}
    return {
        (item.labels.get("job", ""), item.labels.get("instance", "")): item.value
        for item in found
        if math.isfinite(item.value) and item.value >= 0
    }


def criteria(found: Runtimes, key: Key, memory_limit: int, least_coverage: float) -> Iterator[Criterion]:
    """All rules for one scrape target. memory_limit: of its container in bytes; 0: not known or none."""
    runtimes, share = found.targets[key], found.coverage[key]
    if not runtimes:
        return
    short = f"empty: scrapes of only {share:.0%} of the window" if share < least_coverage else ""
    for rule in RULES:
        if rule.runtime and rule.runtime not in runtimes:
            continue
        value = found.values[rule.runtime, rule.name].get(key)
        yield Criterion(
            f"{rule.runtime} {rule.name}".strip(),
            value,
            warn_above=rule.warn,
            at_most=rule.fail,
            unit=rule.unit,
            unknown=short or ("" if value is not None else "empty: the metric is not exported"),
            optional=True,
            hint=rule.hint,
            rule=rule.source,
        )
    for runtime, heaps in found.heaps.items():
        if runtime in runtimes:
            used = heaps.get(key)
            unknown = short or ("empty: the metric is not exported" if used is None else "")
            yield Criterion(
                f"{runtime} heap of the memory limit",
                None if used is None or memory_limit <= 0 else round(used / memory_limit, 3),
                warn_above=HEAP_OF_LIMIT,
                unknown=unknown or ("" if memory_limit > 0 else "not_configured: its memory limit is not known"),
                optional=True,
                hint="raise the memory limit, with --max-old-space-size of Node or GOMEMLIMIT of Go below it",
                rule="Node.js documentation, --max-old-space-size; Go documentation, GOMEMLIMIT; p99",
            )
