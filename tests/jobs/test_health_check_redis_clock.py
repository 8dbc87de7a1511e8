"""The clock of a Redis server against this machine's."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.job_runs import run_job
from support.servers.redis import RedisServer

from maintd.checks.redis.health import clock_offset
from maintd.model.evidence import CheckStatus


@pytest.mark.server
def test_a_server_on_this_machine_has_the_same_clock(redis_server: RedisServer) -> None:
    result = run_job("health_check", {"include": ["redis"]}, {"redis": {"main": {"url": redis_server.url}}})

    assert result.check("redis main: clock offset").status is CheckStatus.OK


@pytest.mark.parametrize(
    ("at", "seconds"),
    [(100.0, 0), (104.9, 0), (105.0, 0), (108.0, 3), (97.5, -2.5), (3700.0, 3595)],
)
def test_only_what_the_answers_duration_cannot_explain_is_an_offset(at: float, seconds: float) -> None:
    assert clock_offset({"server_time_usec": int(at * 1e6)}, before=100, after=105) == timedelta(seconds=seconds)


@pytest.mark.parametrize("info", [{}, {"server_time_usec": 0}, {"server_time_usec": "soon"}])
def test_a_server_without_a_time_has_no_offset(info: dict[str, int | str]) -> None:
    assert clock_offset(info, before=100, after=105) is None
