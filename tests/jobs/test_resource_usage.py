"""What hosts and containers use: real containers on a real engine, and stats bodies of both kinds of control groups."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.host_roots import this_machine_as_a_host
from support.job_runs import JobResult, run_job
from support.servers.base import wait_for
from support.servers.docker import DockerEngine

from maintd.checks.docker import stats as containers
from maintd.clients.docker import Container
from maintd.errors import TargetError
from maintd.model.evidence import CheckStatus

FAST = {"interval": "1500ms"}


# --- the stats bodies of the engine ---


def body(memory: dict[str, Any], *, seconds: int = 0, cpu: int = 0, **more: Any) -> dict[str, Any]:
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return {
        "read": f"{at:%Y-%m-%dT%H:%M:%S}.123456789Z",
        "memory_stats": memory,
        "cpu_stats": {"cpu_usage": {"total_usage": cpu}, "system_cpu_usage": 1, "online_cpus": 2, **more},
        "pids_stats": {"current": 7, "limit": 18446744073709551615},
    }


V1 = {"usage": 300, "max_usage": 900, "limit": 10**10, "stats": {"inactive_file": 1, "total_inactive_file": 100}}
V2 = {"usage": 300, "limit": 10**10, "stats": {"inactive_file": 100, "anon": 150}}


def container(**limits: Any) -> Container:
    return Container(
        id="1",
        name="p-web-1",
        service="web",
        number="1",
        image="i",
        image_id="i",
        state="running",
        health="",
        exit_code=0,
        oom_killed=False,
        restart_count=0,
        restart_policy="",
        started_at=None,
        finished_at=None,
        **limits,
    )


@pytest.mark.parametrize("memory", [V1, V2], ids=["v1", "v2"])
def test_memory_is_the_working_set_in_both_kinds_of_control_groups(memory: dict[str, Any]) -> None:
    sample = containers.sample(body(memory))

    assert sample.memory == 200  # 300 in use less 100 of cache that the kernel drops by itself
    assert sample.pids_limit == 0


def test_cpu_is_what_was_used_between_two_samples_against_the_limit() -> None:
    before, after = {"periods": 100, "throttled_periods": 10}, {"periods": 200, "throttled_periods": 40}
    first = containers.sample(body(V2, cpu=10**9, throttling_data=before))
    second = containers.sample(body(V2, seconds=10, cpu=6 * 10**9, throttling_data=after))

    use = containers.usage(container(cpu_limit=1.0, memory_limit=800, pids_limit=14), first, second)

    assert use.cpus == 0.5  # 5 s of CPU in 10 s
    assert use.cpu_percent == 50.0
    assert use.throttled_percent == 30.0  # 30 of 100 periods
    assert use.memory_percent == 25.0
    assert use.pids_percent == 50.0


@pytest.mark.parametrize(
    ("periods", "throttled", "percent"),
    [(0, 0, None), (1, 1, None), (12, 12, None), (39, 39, None), (40, 40, 100.0), (40, 0, 0.0)],
)
def test_throttling_is_not_measured_of_a_container_that_hardly_ran(
    periods: int, throttled: int, percent: float | None
) -> None:
    counters = {"periods": periods, "throttled_periods": throttled}
    first = containers.sample(body(V2, throttling_data={"periods": 0, "throttled_periods": 0}))
    second = containers.sample(body(V2, seconds=10, cpu=10**9, throttling_data=counters))

    use = containers.usage(container(cpu_limit=1.0), first, second)

    assert use.throttled_percent == percent


def test_what_has_no_limit_has_no_percentage() -> None:
    first, second = containers.sample(body(V1)), containers.sample(body(V1, seconds=10, cpu=10**9))

    use = containers.usage(container(), first, second)

    assert (use.memory_percent, use.cpu_percent, use.throttled_percent, use.pids_percent) == (None, None, None, None)


def test_a_container_that_was_restarted_between_the_samples_is_unknown() -> None:
    first, second = containers.sample(body(V1, cpu=10**9)), containers.sample(body(V1, seconds=10, cpu=5))

    with pytest.raises(TargetError) as caught:
        containers.usage(container(), first, second)

    assert caught.value.cause == "partial"


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (body({}), "empty"),
        ({}, "malformed"),
        ({**body(V1), "cpu_stats": None}, "malformed"),
        ({**body(V1), "read": "now"}, "malformed"),
    ],
)
def test_stats_that_say_nothing_are_unknown(answer: dict[str, Any], cause: str) -> None:
    with pytest.raises(TargetError) as caught:
        containers.sample(answer)

    assert caught.value.cause == cause


# --- real containers ---


@pytest.fixture(scope="module")
def image(docker_server: DockerEngine) -> str:
    return docker_server.busybox("maintd-test/usage:1")


@pytest.mark.server
@pytest.mark.engine
def test_containers_are_measured_against_their_limits(docker_server: DockerEngine, image: str) -> None:
    project = f"p{uuid.uuid4().hex[:8]}"

    def start(service: str, *words: str, **options: Any) -> Any:
        labels = {"com.docker.compose.project": project, "com.docker.compose.service": service}
        return client.containers.run(
            image, list(words), labels=labels, detach=True, network_mode="none", stop_signal="SIGKILL", **options
        )

    with closing(docker_server.client()) as client:
        burn = "while :; do :; done"
        made = [
            start("burner", "sh", "-c", burn, nano_cpus=200_000_000, mem_limit="64m", pids_limit=50),
            start("idle", "sleep", "600"),
        ]
        try:
            targets = {"docker": {"main": {"url": docker_server.url, "project": project}}}

            def burns_all_it_may() -> JobResult | None:
                found = run_job("resource_usage", FAST, targets)
                usage = found.check("docker main: burner CPU of its limit")
                throttled = found.check("docker main: burner CPU throttled")
                busy = usage.status is CheckStatus.WARN and throttled.status is CheckStatus.FAIL
                return found if busy else None

            result = wait_for(burns_all_it_may, "a moment in which others leave it a fifth of a core")
        finally:
            for item in made:
                item.remove(force=True)

    burner = result.check("docker main: burner CPU of its limit")
    assert burner.status is CheckStatus.WARN, result.text()
    assert 80 < float(str(burner.observed)) < 140  # it takes all that it may
    assert result.check("docker main: burner CPU throttled").status is CheckStatus.FAIL
    assert 0.15 < result.measure("container_cpus", service="burner") < 0.3
    assert result.check("docker main: burner processes of its limit").status is CheckStatus.OK
    assert result.check("docker main: burner memory of its limit").status is CheckStatus.OK
    assert result.measure("container_memory_working_set_bytes", service="idle") > 0
    assert result.measure("container_cpus", service="idle") < 0.05
    assert not result.named("idle memory of its limit")
    assert "docker main: idle: no limit of memory and CPU" in result.logs


@pytest.mark.server
@pytest.mark.engine
def test_a_container_close_to_its_memory_limit_fails(docker_server: DockerEngine, image: str) -> None:
    project = f"p{uuid.uuid4().hex[:8]}"
    labels = {"com.docker.compose.project": project, "com.docker.compose.service": "full"}
    words = ["sh", "-c", "dd if=/dev/zero of=/tmp/full bs=1M count=19 2>/dev/null; echo full; sleep 600"]
    with closing(docker_server.client()) as client:
        # A tmpfs is memory that the kernel cannot drop: 19 MiB of 20.
        made = client.containers.run(
            image,
            words,
            labels=labels,
            detach=True,
            network_mode="none",
            stop_signal="SIGKILL",
            mem_limit="20m",
            tmpfs={"/tmp": "size=30m"},
        )
        try:
            wait_for(lambda: b"full" in made.logs(), "the container is full")
            targets = {"docker": {"main": {"url": docker_server.url, "project": project}}}

            result = run_job("resource_usage", {"interval": "200ms"}, targets)
        finally:
            made.remove(force=True)

    full = result.check("docker main: full memory of its limit")
    assert full.status is CheckStatus.FAIL, result.text()
    assert float(str(full.observed)) > 90


# --- the host ---


@pytest.fixture(scope="module")
def bare() -> Iterator[JobResult]:
    with this_machine_as_a_host():
        yield run_job("resource_usage", {"interval": "500ms"})


def test_a_bare_host_gives_real_numbers(bare: JobResult) -> None:
    assert bare.error is None, bare.text()
    assert 0 <= bare.measure("cpu_used_percent", host="local") <= 100
    assert bare.check("host local: open files").status is CheckStatus.OK
    assert bare.check("host local: / used").unit == "%"
    assert not [check for check in bare.checks if check.status is CheckStatus.UNKNOWN]
    assert "docker: not configured: set targets.docker" in bare.logs


def test_the_next_backup_needs_room(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small/a.tar.gz").write_bytes(b"x" * 1000)
    (tmp_path / "huge").mkdir()
    with (tmp_path / "huge/b.tar.gz").open("wb") as sparse:
        sparse.truncate(10**12)
    folders = {name: {"path": str(tmp_path / name)} for name in ("small", "huge", "gone")}

    result = run_job("resource_usage", {"interval": "100ms", "backups": list(folders)}, {"folders": folders})

    assert result.check("folder small: free space").status is CheckStatus.OK
    assert result.check("folder huge: free space").status is CheckStatus.FAIL
    assert result.check("folder gone: free space").status is CheckStatus.UNKNOWN
    assert result.measure("largest_backup_bytes", folder="small") == 1000
