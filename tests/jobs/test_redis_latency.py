"""Latency events in `redis_maintenance`, on a real Redis of its own with and without its latency monitor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
from redis import Redis
from support.job_runs import JobResult, run_job
from support.servers.redis import RedisServer
from support.servers.redis import redis as own_redis

from maintd.checks.redis.latency import parse_events, read_threshold
from maintd.clients.redis import connect
from maintd.errors import TargetError
from maintd.job.attempt_info import Point
from maintd.model.evidence import CheckStatus
from maintd.model.target import RedisTarget

pytestmark = pytest.mark.server
CHECK = "main: new latency events"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis("--latency-monitor-threshold", "20", "--enable-debug-command", "local") as started:
        yield started


@pytest.fixture
def client(server: RedisServer) -> Iterator[Redis]:
    with closing(server.client()) as connected:
        connected.execute_command("LATENCY", "RESET")
        connected.config_set("latency-monitor-threshold", 20)
        yield connected


def maintain(server: RedisServer, **options: Any) -> JobResult:
    target = {"url": server.url, **options.pop("login", {})}
    return run_job("redis_maintenance", {"save": False, "scan": False}, {"redis": {"main": target}}, **options)


def test_what_blocked_the_server_warns_with_its_kind_and_duration(server: RedisServer, client: Redis) -> None:
    client.execute_command("DEBUG", "SLEEP", "0.06")

    result = maintain(server)

    check = result.check(CHECK)
    assert (check.status, check.observed) == (CheckStatus.WARN, 1)
    assert check.hint.startswith("command ")
    assert result.measure("redis_latency_seconds", event="command") >= 0.05


def test_events_of_earlier_runs_are_not_new(server: RedisServer, client: Redis) -> None:
    client.execute_command("DEBUG", "SLEEP", "0.05")
    first = maintain(server)
    instance = client.info()["run_id"]
    seen = first.measure("redis_latency_event_at", instance=instance)

    labels = {"server": "main", "instance": instance}

    again = maintain(server, series={"redis_latency_event_at": [Point(datetime.now(UTC), seen, labels)]})

    assert again.check(CHECK).status is CheckStatus.OK


def test_without_events_and_with_the_monitor_on_it_is_ok(server: RedisServer, client: Redis) -> None:
    assert maintain(server).check(CHECK).status is CheckStatus.OK


def test_no_events_while_the_monitor_is_off_are_unknown_without_an_alarm(server: RedisServer, client: Redis) -> None:
    client.config_set("latency-monitor-threshold", 0)

    check = maintain(server).check(CHECK)

    assert (check.status, check.optional) == (CheckStatus.UNKNOWN, True)
    assert "latency-monitor-threshold 100" in check.hint


def test_events_from_before_the_monitor_was_turned_off_are_still_reported(server: RedisServer, client: Redis) -> None:
    client.execute_command("DEBUG", "SLEEP", "0.05")
    client.config_set("latency-monitor-threshold", 0)

    assert maintain(server).check(CHECK).status is CheckStatus.WARN


@pytest.mark.parametrize("rule", ["-latency", "-config"])
def test_a_user_without_the_permission_leaves_it_unknown_without_an_alarm(
    server: RedisServer, client: Redis, rule: str
) -> None:
    client.execute_command("ACL", "SETUSER", "limited", "on", ">change-me", "~*", "+@all", rule)

    check = maintain(server, login={"username": "limited", "password": "change-me"}).check(CHECK)

    client.execute_command("ACL", "DELUSER", "limited")
    assert (check.status, check.optional) == (CheckStatus.UNKNOWN, True)
    assert "denied" in str(check.observed)


def test_a_server_without_the_command_leaves_it_unknown_without_an_alarm() -> None:
    with own_redis("--rename-command", "LATENCY", "") as other:
        check = maintain(other).check(CHECK)

    assert (check.status, check.optional) == (CheckStatus.UNKNOWN, True)


@pytest.mark.parametrize(
    "answer",
    [
        7,
        None,
        [7],
        [["fork", 1]],
        [["fork", "now", 1, 1]],
        [["fork", 10**17, 1, 1]],
        [["fork", 1, 10**30, 1]],
        {"fork": [1, 2, 3]},
    ],
)
def test_an_answer_of_another_shape_is_malformed(answer: Any) -> None:
    with pytest.raises(TargetError) as raised:
        parse_events("main", answer)

    assert raised.value.cause == "malformed"


def test_the_threshold_is_read_in_milliseconds(server: RedisServer, client: Redis) -> None:
    with connect(RedisTarget(url=server.url)) as found:
        assert read_threshold(found).total_seconds() == 0.02
