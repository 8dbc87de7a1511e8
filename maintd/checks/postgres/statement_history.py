"""Two snapshots of pg_stat_statements compared: what was executed between them, and what became slower.

Between runs a snapshot is kept as measures: one point for each counter of each statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from maintd.checks.postgres.statements import COUNTERS, RULE, Snapshot, Statement
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus

MEASURED = 50
"""Statements whose mean is kept for trends, those with the longest time."""
MIN_CALLS = 5
"""Fewer calls make no mean that can be compared."""
_NAMED = 5
_CLOCK_SECONDS = 0.001  # a float of the store keeps microseconds; a reset is never nearer to the one before


class Basis(StrEnum):
    """What the counters of an interval are compared with."""

    LAST_RUN = "the last run"
    RESET = "a reset since the last run"
    FIRST = "the first run: all since the last reset"


@dataclass(frozen=True)
class Earlier:
    """The snapshot of the last run. `complete`: it has every statement that the server had then."""

    at: datetime
    reset_at: datetime | None
    evictions: int | None
    complete: bool
    counters: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by key and name


@dataclass(frozen=True)
class Executed:
    """What one statement did within the interval. `at_most`: the last run did not keep it, so it may be less."""

    statement: Statement
    counters: Mapping[str, float | None]
    mean_before_ms: float | None  # None: not known, or too few calls
    at_most: bool = False

    @property
    def calls(self) -> float:
        """Number of executions."""
        return self.counters["calls"] or 0.0

    @property
    def exec_ms(self) -> float:
        """Total time of execution."""
        return self.counters["exec_ms"] or 0.0

    @property
    def mean_ms(self) -> float | None:
        """Mean time of an execution; None without one."""
        return self.exec_ms / self.calls if self.calls > 0 else None

    def value(self, ranking: str) -> float | None:
        """The number by which it is ranked: a counter, or `mean_ms`."""
        return self.mean_ms if ranking == "mean_ms" else self.counters.get(ranking)


@dataclass(frozen=True)
class Interval:
    """What was executed from `since` to `until`; `since` None: it is not known since when the server counts."""

    basis: Basis
    since: datetime | None
    until: datetime
    executed: tuple[Executed, ...]
    evictions: int | None  # None: not known
    restarted: int = 0  # statements whose own counters began again

    @property
    def window(self) -> str:
        """As text, for the origin of numbers."""
        since = f"{self.since:%Y-%m-%d %H:%M}" if self.since else "an unknown reset"
        return f"{since} to {self.until:%Y-%m-%d %H:%M} UTC"


def keep(ctx: Context, target: str, now: Snapshot) -> None:
    """Record the snapshot for the next run."""
    for statement in now.statements:
        for name in COUNTERS:
            value = statement.counters[name]
            if value is not None:
                ctx.measure(f"pg_statement_{name}", value, _UNITS[name], target=target, statement=statement.key)
    ctx.measure("pg_statements_kept", len(now.statements), target=target)
    ctx.measure("pg_statements", now.total, target=target)
    if now.reset_at is not None:
        ctx.measure("pg_statements_reset_at", now.reset_at.timestamp(), "s", target=target)
    if now.evictions is not None:
        ctx.measure("pg_statements_evictions", now.evictions, target=target)
    ctx.measure("pg_statements_read_at", now.at.timestamp(), "s", target=target)


_UNITS = {
    "calls": "",
    "exec_ms": "ms",
    "plan_ms": "ms",
    "rows": "row",
    "temp_blocks": "block",
    "wal_bytes": "B",
    "io_ms": "ms",
}


def earlier(ctx: Context, target: str) -> Earlier | None:
    """The snapshot that the last run kept; None without one."""
    runs = ctx.series("pg_statements_read_at", target=target)
    if not runs:
        return None
    last = runs[-1]

    def then(name: str) -> float | None:
        return next((p.value for p in ctx.series(name, target=target) if p.at == last.at), None)

    counters: dict[str, dict[str, float]] = {}
    for name in COUNTERS:
        for point in ctx.series(f"pg_statement_{name}", target=target):
            if point.at == last.at:
                counters.setdefault(point.labels.get("statement", ""), {})[name] = point.value
    reset, evictions, kept, total = (then(f"pg_statements{part}") for part in ("_reset_at", "_evictions", "_kept", ""))
    complete = kept is not None and kept == total == len(counters)
    return Earlier(
        datetime.fromtimestamp(last.value, UTC),
        None if reset is None else datetime.fromtimestamp(reset, UTC),
        None if evictions is None else round(evictions),
        complete,
        counters,
    )


def interval(now: Snapshot, before: Earlier | None) -> Interval:
    """What was executed since the last run; after a reset, since that. No number is ever negative."""
    if before is None:
        executed = tuple(Executed(item, item.counters, None) for item in now.statements)
        return Interval(Basis.FIRST, now.reset_at, now.at, executed, now.evictions)
    if _was_reset(now, before):
        executed = tuple(Executed(item, item.counters, _mean(before.counters.get(item.key))) for item in now.statements)
        return Interval(Basis.RESET, now.reset_at, now.at, executed, now.evictions)
    found, restarted = [], 0
    for item in now.statements:
        old = before.counters.get(item.key)
        if old is None:
            # Without the row, either it is new, or the last run had more statements than it kept.
            new = before.complete or (item.since is not None and item.since > before.at)
            found.append(Executed(item, item.counters, None, at_most=not new))
        elif _began_again(item, old, before.at):
            restarted += 1
            found.append(Executed(item, item.counters, _mean(old)))
        else:
            grown = {name: _minus(item.counters[name], old.get(name)) for name in COUNTERS}
            if (grown["calls"] or 0) > 0:
                found.append(Executed(item, grown, _mean(old)))
    evictions = None if now.evictions is None or before.evictions is None else now.evictions - before.evictions
    # Up to extension version 1.8 a reset of all is only seen in the counters.
    basis = (
        Basis.RESET if restarted and now.reset_at is None and restarted == _compared(now, before) else Basis.LAST_RUN
    )
    since = None if basis is Basis.RESET else before.at
    return Interval(basis, since, now.at, tuple(found), evictions, restarted)


def _compared(now: Snapshot, before: Earlier) -> int:
    return sum(item.key in before.counters for item in now.statements)


def _was_reset(now: Snapshot, before: Earlier) -> bool:
    if now.reset_at is None or before.reset_at is None:
        return False
    return abs((now.reset_at - before.reset_at).total_seconds()) > _CLOCK_SECONDS


def _began_again(now: Statement, old: Mapping[str, float], at: datetime) -> bool:
    """Evicted and seen again, or reset by itself: its counters are smaller, or began after the last run."""
    if now.since is not None and now.since > at:
        return True
    return any((now.counters[name] or 0) < old.get(name, 0) for name in ("calls", "exec_ms", "rows"))


def _minus(now: float | None, old: float | None) -> float | None:
    return None if now is None or old is None else max(now - old, 0.0)


def _mean(counters: Mapping[str, float] | None) -> float | None:
    if counters is None or counters.get("calls", 0) < MIN_CALLS:
        return None
    return counters["exec_ms"] / counters["calls"]


def ranked(executed: Iterable[Executed], ranking: str, count: int) -> list[Executed]:
    """The first `count` by a counter or `mean_ms`, largest first; those without a value or with zero are left out."""
    found = [(item.value(ranking) or 0.0, item) for item in executed]
    return [item for value, item in sorted(found, key=lambda pair: -pair[0]) if value > 0][:count]


def regressions(executed: Iterable[Executed], factor: float, floor_ms: float) -> list[Executed]:
    """Statements whose mean is at least `factor` times what it was, and more than `floor_ms`; worst first."""
    found = []
    for item in executed:
        if item.mean_ms is None or not item.mean_before_ms or item.calls < MIN_CALLS or item.at_most:
            continue
        if item.mean_ms >= factor * item.mean_before_ms and item.mean_ms > floor_ms:
            found.append((item.mean_ms / item.mean_before_ms, item))
    return [item for _, item in sorted(found, key=lambda pair: -pair[0])]


def criteria(found: Interval, slower: Sequence[Executed], factor: float, floor_ms: float) -> list[Criterion]:
    """Whether the statistics cover the time since the last run, and which statements became slower."""
    names = [
        f"{item.statement.query_id} ({item.mean_before_ms:.3g} → {item.mean_ms:.3g} ms): {item.statement.text[:80]}"
        for item in slower[:_NAMED]
    ]
    limit = f"a mean of at least ×{factor:g} what it was and more than {floor_ms:g} ms"
    compared = Criterion(
        "queries slower than before",
        len(slower),
        warn_above=0,
        unknown="" if found.basis is not Basis.FIRST else "empty: there is no earlier snapshot to compare with",
        optional=True,
        hint=f"{limit}; see their plans with EXPLAIN (ANALYZE, BUFFERS), and ANALYZE their tables: {'; '.join(names)}"
        if slower
        else "",
        rule=f"{limit}; before: until the last run",
    )
    return [_covered(found), _evicted(found), compared]


def _covered(found: Interval) -> Criterion:
    observed = "since the last run"
    if found.basis is Basis.RESET:
        when = f" at {found.since:%Y-%m-%d %H:%M} UTC" if found.since else ""
        observed = f"reset{when}: what was executed before is not known"
    return Criterion(
        "statements counted",
        "all since the last reset" if found.basis is Basis.FIRST else observed,
        one_of=("since the last run", "all since the last reset"),
        severity=CheckStatus.WARN,
        hint="find who calls pg_stat_statements_reset(), or whether the server lost its statistics; do not reset them "
        "between reviews, which compare snapshots",
        rule=f"{RULE}, pg_stat_statements_info.stats_reset",
    )


def _evicted(found: Interval) -> Criterion:
    return Criterion(
        "statements evicted",
        found.evictions,
        warn_above=0,
        unknown="" if found.evictions is not None else "empty: this version does not count evictions",
        optional=True,
        hint="ALTER SYSTEM SET pg_stat_statements.max = 10000; then restart the server; or let the application use "
        "parameters instead of literals in names and IN lists",
        rule=f"{RULE}, pg_stat_statements_info.dealloc",
    )


def measure_means(ctx: Context, target: str, found: Interval) -> None:
    """Keep the mean of the statements with the longest time, all roles together."""
    sums: dict[int, tuple[float, float]] = {}
    for item in found.executed:
        exec_ms, calls = sums.get(item.statement.query_id, (0.0, 0.0))
        sums[item.statement.query_id] = exec_ms + item.exec_ms, calls + item.calls
    largest = sorted(((exec_ms, calls, key) for key, (exec_ms, calls) in sums.items() if calls), reverse=True)
    for exec_ms, calls, key in largest[:MEASURED]:
        ctx.measure("pg_query_mean_ms", exec_ms / calls, "ms", target=target, queryid=str(key))
