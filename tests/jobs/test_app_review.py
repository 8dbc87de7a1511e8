"""`app_review` on a real engine and a real Prometheus with a made day: each limit and runtime rule, met and not met."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.compose_project import Project
from support.job_runs import JobResult, run_job
from support.servers.prometheus import CONFIG, WebServer, prometheus

from maintd.job import Point
from maintd.model.evidence import CheckStatus

pytestmark = pytest.mark.server

STEP = timedelta(minutes=2)
DAY = timedelta(days=1)
MIB = 1 << 20
LIMITS: dict[str, dict[str, Any]] = {
    "tight": {"mem_limit": 120 * MIB, "nano_cpus": 220_000_000},  # 1.2 and 1.1 × what it used
    "fitting": {"mem_limit": 150 * MIB, "nano_cpus": 300_000_000},  # 1.5 ×
    "roomy": {"mem_limit": 400 * MIB, "nano_cpus": 1_000_000_000},  # 4 and 5 ×
    "young": {"mem_limit": 150 * MIB, "nano_cpus": 300_000_000},  # has data of three hours
    "endless": {},
    "unseen": {"mem_limit": 150 * MIB, "nano_cpus": 300_000_000},
}
GOOD: dict[str, dict[str, float]] = {
    "node-good:1": {
        "nodejs_eventloop_lag_seconds": 0.01,
        "nodejs_eventloop_lag_p99_seconds": 0.02,
        "nodejs_heap_size_used_bytes": 50 * MIB,
        "process_open_fds": 30,
        "process_max_fds": 1024,
    },
    "python-good:1": {"python_info": 1, "process_open_fds": 30, "process_max_fds": 1024},
    "jvm-good:1": {'jvm_memory_used_bytes{area="heap"}': 50 * MIB, 'jvm_memory_max_bytes{area="heap"}': 100 * MIB},
    "go-good:1": {"go_goroutines": 40, 'go_gc_duration_seconds{quantile="1"}': 0.001},
}
BAD: dict[str, dict[str, float]] = {
    "node-bad:1": {
        "nodejs_eventloop_lag_seconds": 0.3,
        "nodejs_eventloop_lag_p99_seconds": 0.6,
        "process_open_fds": 800,
        "process_max_fds": 1024,
    },
    "jvm-bad:1": {'jvm_memory_used_bytes{area="heap"}': 96 * MIB, 'jvm_memory_max_bytes{area="heap"}': 100 * MIB},
    "go-bad:1": {"go_goroutines": 20_000, 'go_gc_duration_seconds{quantile="1"}': 0.2},
}
RISING: dict[str, dict[str, float]] = {  # counters: their growth in a second
    "node-good:1": {"nodejs_gc_duration_seconds_sum": 0.01},
    "node-bad:1": {"nodejs_gc_duration_seconds_sum": 0.2},
    "python-good:1": {"process_cpu_seconds_total": 0.1, "python_gc_objects_uncollectable_total": 0},
    "python-bad:1": {"process_cpu_seconds_total": 0.95, "python_gc_objects_uncollectable_total": 0.01},
    "jvm-good:1": {"jvm_gc_pause_seconds_sum": 0.01},
    "jvm-bad:1": {"jvm_gc_pause_seconds_sum": 0.07},
}


INSTANCES = sorted({*GOOD, *BAD, *RISING, "bare:1"})


def history(containers: Mapping[str, str], instances: Sequence[str] = INSTANCES) -> str:
    """A day of OpenMetrics until now. containers: name by service."""
    end = datetime.now(UTC)
    found: dict[str, list[str]] = {}

    def add(metric: str, labels: str, first: float, growth: float = 0.0, since: timedelta = DAY) -> None:
        name, _, own = metric.partition("{")
        lines = found.setdefault(name, [])
        joined = ",".join(part for part in (own.rstrip("}"), labels) if part)
        for index in range(int(since / STEP)):
            after = index * STEP
            value = first + growth * after.total_seconds()
            lines.append(f"{name}{{{joined}}} {value:.12g} {(end - since + after).timestamp():.0f}")

    for service, container in containers.items():
        since = timedelta(hours=3) if service == "young" else DAY
        add("container_memory_working_set_bytes", f'name="{container}"', 100 * MIB, since=since)
        add("container_cpu_usage_seconds_total", f'name="{container}"', 0, 0.2, since)
    for instance in instances:
        labels = f'job="app",instance="{instance}"'
        add("up", labels, 1)
        for metric, value in {**GOOD.get(instance, {}), **BAD.get(instance, {})}.items():
            add(metric, labels, value)
        for metric, growth in RISING.get(instance, {}).items():
            add(metric, labels, 0, growth)
        if instance.startswith("python"):
            add("python_info", labels, 1) if instance == "python-bad:1" else None
    return "\n".join([*(line for lines in found.values() for line in lines), "# EOF\n"])


@pytest.fixture(scope="module")
def reviewed(engine: Any) -> Iterator[tuple[Project, WebServer, JobResult]]:
    """A run on a project with each kind of container."""
    client = engine.client()
    project = Project(engine, client, "app", "none")
    for service, options in LIMITS.items():
        project.start(service, **options)
    seen = {name: project.container(name) for name in LIMITS if name != "unseen"}
    with prometheus(CONFIG, history(seen)) as server:
        yield project, server, review(project, server)
    project.remove()
    client.close()


def review(project: Project, server: WebServer, **more: Any) -> JobResult:
    targets = {**project.targets(), "prometheus": {"main": {"url": server.url}}}
    return run_job("app_review", {"window": "1d"}, targets, **more)


@pytest.mark.parametrize("kind", ["memory", "CPU"])
def test_a_limit_is_compared_with_the_99th_percentile(
    reviewed: tuple[Project, WebServer, JobResult], kind: str
) -> None:
    result = reviewed[2]

    found = {name: result.check(f"{name}: {kind} limit of what it used") for name in LIMITS}

    ok, warn, unknown = CheckStatus.OK, CheckStatus.WARN, CheckStatus.UNKNOWN
    assert {name: check.status for name, check in found.items()} == {
        "tight": warn,
        "fitting": ok,
        "roomy": warn,
        "young": unknown,
        "endless": warn,
        "unseen": unknown,
    }, result.text()
    assert found["fitting"].observed == pytest.approx(1.5, rel=0.05)
    line = {"memory": "memory: 150M", "CPU": 'cpus: "0.30"'}[kind]  # 1.5 × 100 MiB and 0.2 CPUs
    assert all(line in found[name].hint for name in ("tight", "roomy", "endless"))
    assert "99th percentile" in found["tight"].rule


def test_a_container_without_enough_data_makes_the_run_warn(reviewed: tuple[Project, WebServer, JobResult]) -> None:
    check = reviewed[2].check("docker main: containers whose use is not known")

    assert (check.status, check.observed) == (CheckStatus.WARN, "unseen; young")


@pytest.mark.parametrize(
    ("good", "bad", "check", "status"),
    [
        ("node-good", "node-bad", "Node event loop lag", CheckStatus.FAIL),
        ("node-good", "node-bad", "Node share of time in garbage collection", CheckStatus.FAIL),
        ("node-good", "node-bad", "open files of its limit", CheckStatus.WARN),
        ("python-good", "python-bad", "Python busiest 5 minutes of one core", CheckStatus.WARN),
        ("python-good", "python-bad", "Python objects that could not be collected", CheckStatus.WARN),
        ("jvm-good", "jvm-bad", "JVM heap of its maximum", CheckStatus.FAIL),
        ("jvm-good", "jvm-bad", "JVM share of time in garbage collection", CheckStatus.WARN),
        ("go-good", "go-bad", "Go longest pause of garbage collection", CheckStatus.WARN),
        ("go-good", "go-bad", "Go goroutines", CheckStatus.WARN),
    ],
)
def test_a_runtime_beyond_its_limits_is_found(
    reviewed: tuple[Project, WebServer, JobResult], good: str, bad: str, check: str, status: CheckStatus
) -> None:
    result = reviewed[2]

    assert result.check(f"app {good}:1: {check}").status is CheckStatus.OK, result.text()
    assert result.check(f"app {bad}:1: {check}").status is status, result.text()
    assert result.check(f"app {bad}:1: {check}").rule


def test_a_service_that_exports_no_runtime_is_named_and_not_ok(
    reviewed: tuple[Project, WebServer, JobResult],
) -> None:
    check = reviewed[2].check("runtimes: exported by all services")

    assert check.status is CheckStatus.WARN
    assert "app/bare:1" in str(check.observed)
    assert "fitting" in str(check.observed)


def test_images_are_measured_and_their_growth_is_seen(reviewed: tuple[Project, WebServer, JobResult]) -> None:
    project, server, first = reviewed
    size = first.measure("image_size_bytes", service="fitting")
    assert size == project.client.images.get("shop/app:1").attrs["Size"]
    labels = {"engine": "main", "service": "fitting"}
    smaller = {"image_size_bytes": [Point(datetime.now(UTC), size - 60 * MIB, labels)]}
    same = {"image_size_bytes": [Point(datetime.now(UTC), size, labels)]}

    grown, kept = review(project, server, series=smaller), review(project, server, series=same)

    assert first.check("fitting: growth of the image").status is CheckStatus.UNKNOWN
    assert grown.check("fitting: growth of the image").status is CheckStatus.WARN
    assert kept.check("fitting: growth of the image").status is CheckStatus.OK
    assert first.check("fitting: layers of the image").status is CheckStatus.OK


def test_the_report_has_every_number_with_its_window(reviewed: tuple[Project, WebServer, JobResult]) -> None:
    result = reviewed[2]

    text = next(Path(item.path).read_text() for item in result.artifacts if item.name.endswith(".md"))

    assert "Limits on main" in text
    assert "1d until" in text
    assert "None" not in text
    names = {item.name.partition("-")[0] for item in result.artifacts}
    assert names == {"application", "main"}
    assert json.loads(next(Path(item.path).read_text() for item in result.artifacts if item.name == "main-images.json"))


def test_a_prometheus_that_is_down_hides_no_image(reviewed: tuple[Project, WebServer, JobResult]) -> None:
    project = reviewed[0]
    targets = {**project.targets(), "prometheus": {"main": {"url": "http://127.0.0.1:1", "timeout": "1s"}}}

    result = run_job("app_review", {}, targets)

    assert result.outcome == "unknown"
    assert result.check("memory: read").status is CheckStatus.UNKNOWN
    assert "refused" in str(result.check("memory: read").observed)
    assert result.check("fitting: size of the image").status is CheckStatus.OK
    assert result.check("fitting: memory limit of what it used").status is CheckStatus.UNKNOWN


def test_an_engine_that_is_down_hides_no_runtime(reviewed: tuple[Project, WebServer, JobResult]) -> None:
    server = reviewed[1]
    targets = {"docker": {"main": {"url": "tcp://127.0.0.1:1"}}, "prometheus": {"main": {"url": server.url}}}

    result = run_job("app_review", {"window": "1d"}, targets)

    assert result.check("docker main: images").status is CheckStatus.FAIL
    assert result.check("app node-bad:1: Node event loop lag").status is CheckStatus.FAIL


def test_without_containers_it_is_not_known_what_exports_its_runtime() -> None:
    down = {"docker": {"main": {"url": "tcp://127.0.0.1:1"}}}
    with prometheus(CONFIG, history({}, ["node-good:1"])) as server:
        measured = run_job("app_review", {"window": "1d"}, {**down, "prometheus": {"main": {"url": server.url}}})

    alone = run_job("app_review", {"window": "1d"}, down)

    check = measured.check("runtimes: exported by all services")
    assert (check.status, "main" in str(check.observed)) == (CheckStatus.UNKNOWN, True), measured.text()
    assert [(item.name, item.status) for item in alone.checks] == [("docker main: images", CheckStatus.FAIL)]


def test_an_image_that_was_removed_below_a_container_hides_no_other(engine: Any) -> None:
    client = engine.client()
    project = Project(engine, client, "gone", "none")
    project.start("running", mem_limit=150 * MIB)
    try:
        project.start("stopped", image=engine.busybox("maintd/removed:1"))
        project.get("stopped").kill()
        client.images.remove("maintd/removed:1", force=True)

        result = run_job("app_review", {"window": "1d"}, project.targets())
    finally:
        project.remove()
        client.close()

    gone = result.check("stopped: size of the image")
    assert (gone.status, "was removed" in str(gone.observed)) == (CheckStatus.UNKNOWN, True), result.text()
    assert result.check("running: size of the image").status is CheckStatus.OK
    assert result.check("running: CPU limit of what it used").observed == "no limit"
