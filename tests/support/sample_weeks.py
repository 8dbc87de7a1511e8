"""Two weeks of synthetic history for Prometheus, with quantiles and ratios that can be calculated by hand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

STEP = timedelta(minutes=10)
BOUNDS = ("0.05", "0.1", "0.3", "0.5", "1", "2", "5", "+Inf")
# Cumulative requests of one step. Last week: p50 0.05, p95 0.1 + 0.2 × 5/6, p99 0.3 + 0.2 × 3/4. Before: p95 0.0952.
USUAL = (50, 90, 96, 100, 100, 100, 100, 100)
FASTER = (94, 95, 100, 100, 100, 100, 100, 100)
ENDLESS = (0, 0, 0, 0, 0, 0, 0, 10)  # all above the highest bound
HOSTILE = "/a|b`c`<script>alert(1)</script>"


def end() -> datetime:
    """Return the last midnight in UTC."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def history() -> str:
    """Return the history as OpenMetrics text with timestamps."""
    return "\n".join([*_up(), *_requests(), *_memory(), *_cpu(), *_alerts(), "# EOF\n"])


def times(start: datetime | None = None) -> Iterator[datetime]:
    at = start or end() - timedelta(days=14)
    while at <= end():
        yield at
        at += STEP


def _line(name: str, labels: dict[str, str], value: float, at: datetime) -> str:
    quoted = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return f"{name}{{{quoted}}} {value} {at.timestamp():.0f}"


def _up() -> Iterator[str]:
    for instance, down in (("web:7001", 0), ("slow:7002", 0), ("gone:7003", 4)):
        for at in times():  # the third is down for the last four of the seven days
            alive = at < end() - timedelta(days=down) if down else True
            yield _line("up", {"job": "agents", "instance": instance}, float(alive), at)


def _requests() -> Iterator[str]:
    families: dict[str, list[str]] = {"bucket": [], "count": []}
    week = end() - timedelta(days=7)
    for instance, path in (("web:7001", "/run"), ("slow:7002", HOSTILE), ("gone:7003", "/run")):
        own = {"job": "agents", "instance": instance, "path": path}
        totals, failed = [0] * len(BOUNDS), 0
        gone = end() - timedelta(days=4)
        per_bound: dict[str, list[str]] = {bound: [] for bound in BOUNDS}
        good: list[str] = []
        bad: list[str] = []
        for at in times():
            if instance == "gone:7003" and at >= gone:
                break
            step = ENDLESS if instance == "slow:7002" else USUAL if at > week else FASTER
            totals = [total + more for total, more in zip(totals, step, strict=True)]
            failed += 2 if instance == "web:7001" else 0
            for bound, total in zip(BOUNDS, totals, strict=True):
                per_bound[bound].append(
                    _line("http_request_duration_seconds_bucket", {**own, "status": "200", "le": bound}, total, at)
                )
            good.append(_line("http_request_duration_seconds_count", {**own, "status": "200"}, totals[-1] - failed, at))
            bad.append(_line("http_request_duration_seconds_count", {**own, "status": "500"}, failed, at))
        for lines in per_bound.values():
            families["bucket"] += lines
        families["count"] += good + bad
    yield from families["bucket"]
    yield from families["count"]


def _memory() -> Iterator[str]:
    started = end() - timedelta(days=5)
    for at in times():
        grown = max(0.0, (at - started).total_seconds() / 86400) * 3e6  # 3 MB of 100 MB a day since its start
        yield _line("process_resident_memory_bytes", {"job": "agents", "instance": "web:7001"}, 1e8 + grown, at)
    for at in times():
        value = 5e7 + (at.hour % 3) * 1e5
        yield _line("process_resident_memory_bytes", {"job": "agents", "instance": "slow:7002"}, value, at)
    for at in times():
        value = started.timestamp() if at >= started else started.timestamp() - 9 * 86400
        yield _line("process_start_time_seconds", {"job": "agents", "instance": "web:7001"}, value, at)


def _cpu() -> Iterator[str]:
    for index, at in enumerate(times()):
        yield _line("process_cpu_seconds_total", {"job": "agents", "instance": "web:7001"}, index * 150.0, at)


def _alerts() -> Iterator[str]:
    start = end() - timedelta(days=7)
    flapping = {"alertname": "HighLatency", "alertstate": "firing", "severity": "warning"}
    for day in range(6):  # six times for ten minutes
        begin = start + timedelta(days=day, hours=5)
        yield from (_line("ALERTS", flapping, 1, begin + timedelta(minutes=minute)) for minute in range(11))
    critical = {"alertname": "RedisDown", "alertstate": "firing", "severity": "critical"}
    begin = start + timedelta(days=2)
    yield from (_line("ALERTS", critical, 1, begin + timedelta(minutes=minute)) for minute in range(31))
    still = {"alertname": "DiskFills", "alertstate": "firing", "severity": "warning"}
    begin = end() - timedelta(hours=3)  # and still fires
    yield from (_line("ALERTS", still, 1, begin + timedelta(minutes=minute)) for minute in range(181))
