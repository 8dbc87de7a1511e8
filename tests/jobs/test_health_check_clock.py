"""The clocks of servers against this machine's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.http_services import Reply, http_service, json_reply, served
from support.job_runs import JobResult, run_job
from support.servers.docker import DockerEngine
from support.servers.postgres import PostgresServer
from support.servers.redis import RedisServer, redis

from maintd.checks.clock_offset import ClockOffset, clock_offset
from maintd.errors import TargetError
from maintd.model.evidence import Check, CheckStatus

OK, WARN, FAIL, UNKNOWN = CheckStatus.OK, CheckStatus.WARN, CheckStatus.FAIL, CheckStatus.UNKNOWN
YEAR = 365 * 86400.0


def check(kind: str, target: dict[str, Any], **limits: Any) -> JobResult:
    params = {"include": [kind], kind: limits} if limits else {"include": [kind]}
    return run_job("health_check", params, {kind: {"main": target}})


def clock(result: JobResult) -> Check:
    found = [item for item in result.checks if item.name.endswith(": clock offset")]
    assert len(found) == 1, result.text()
    return found[0]


# --- servers on this machine have its clock ---


@pytest.mark.server
def test_a_redis_on_this_machine_has_the_same_clock(redis_server: RedisServer) -> None:
    assert clock(check("redis", {"url": redis_server.url})).status is OK


@pytest.mark.server
def test_a_postgres_on_this_machine_has_the_same_clock(postgres_server: PostgresServer) -> None:
    assert clock(check("postgres", {"dsn": postgres_server.url("postgres")})).status is OK


@pytest.mark.server
def test_a_docker_engine_on_this_machine_has_the_same_clock(docker_server: DockerEngine) -> None:
    assert clock(check("docker", {"url": docker_server.url})).status is OK


def test_an_http_service_on_this_machine_has_the_same_clock() -> None:
    with http_service({"/health": json_reply({"status": "ok"})}) as url:
        assert clock(check("http", {"url": f"{url}/health"})).status is OK


# --- servers with another clock ---


@contextmanager
def dated(header: Callable[[], str] | None, wait: float = 0.0, **more: str) -> Iterator[str]:
    """A service whose header Date is this one, None: that has none."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(wait)
            self.send_response_only(200)
            for name, value in {"Content-Length": "2", "Content-Type": "application/json", **more}.items():
                self.send_header(name, value)
            if header is not None:
                self.send_header("Date", header())
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *words: object) -> None:
            pass

    with served(Handler) as url:
        yield f"{url}/health"


@pytest.mark.parametrize(
    ("offset", "status", "direction"),
    [
        (5, WARN, "ahead of"),
        (-5, WARN, "behind"),
        (60, FAIL, "ahead of"),
        (-60, FAIL, "behind"),
        (-50 * YEAR, FAIL, "behind"),
        (7000 * YEAR, FAIL, "ahead of"),
    ],
)
def test_a_service_whose_clock_is_wrong_is_seen_in_its_answer(
    offset: float, status: CheckStatus, direction: str
) -> None:
    with dated(lambda: formatdate(time.time() + offset, usegmt=True)) as url:
        found = clock(check("http", {"url": url}))

    assert found.status is status, found
    assert f"its clock is {direction} this machine's" in found.hint


def test_the_limits_of_a_clock_are_params() -> None:
    with dated(lambda: formatdate(time.time() + 60, usegmt=True)) as url:
        loose = clock(check("http", {"url": url}, clock_warn="2m", clock_fail="5m"))
        between = clock(check("http", {"url": url}, clock_warn="5s", clock_fail="5m"))

    assert (loose.status, between.status) == (OK, WARN)


@pytest.mark.parametrize("header", ["yesterday", "", "Sun, 99 Nov 2026 10:00:00 GMT", "0", "x" * 10_000])
def test_a_service_without_a_readable_date_has_an_unknown_clock(header: str) -> None:
    with dated(lambda: header) as url:
        result = check("http", {"url": url})

    assert (clock(result).status, clock(result).optional) == (UNKNOWN, True), result.text()
    assert result.outcome == "succeeded"


def test_a_service_without_a_date_and_a_cache_have_an_unknown_clock() -> None:
    with dated(None) as without, dated(lambda: formatdate(0, usegmt=True), Age="86400") as cached:
        found = [clock(check("http", {"url": url})) for url in (without, cached)]

    assert [item.status for item in found] == [UNKNOWN, UNKNOWN]
    assert "cache" in str(found[1].observed)


def test_a_slow_answer_does_not_show_whether_the_clock_is_right() -> None:
    with dated(lambda: formatdate(time.time(), usegmt=True), wait=3.5) as url:
        result = check("http", {"url": url, "timeout": "30s"}, tries=1)

    assert clock(result).status is UNKNOWN, result.text()
    assert "took too long" in clock(result).hint


def docker_like(info: Reply) -> dict[str, Reply]:
    version = json_reply({"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10"})
    return {
        "/version": version,
        "/v1.24/version": version,
        "/v1.41/containers/json": json_reply([]),
        "/v1.41/info": info,
    }


@pytest.mark.parametrize(
    ("info", "status"),
    [
        (json_reply({"SystemTime": "2020-02-02T10:00:00.123456789Z"}), FAIL),
        (json_reply({"SystemTime": "2999-02-02T10:00:00.1+02:00"}), FAIL),
        (json_reply({"SystemTime": ""}), UNKNOWN),
        (json_reply({"SystemTime": 5}), UNKNOWN),
        (json_reply({"SystemTime": "0001-01-01T00:00:00Z"}), UNKNOWN),
        (json_reply({"SystemTime": "2026-11-29T10:00:00"}), UNKNOWN),  # without a zone
        (json_reply({}), UNKNOWN),
        (json_reply([]), UNKNOWN),
        (json_reply({"message": "denied"}, 403), UNKNOWN),
    ],
    ids=lambda value: value.body.decode()[:50] if isinstance(value, Reply) else "",
)
def test_the_clock_of_an_engine_is_read_from_its_information(info: Reply, status: CheckStatus) -> None:
    with http_service(docker_like(info)) as url:
        result = check("docker", {"url": url.replace("http", "tcp"), "timeout": "5s"})

    assert clock(result).status is status, result.text()


@pytest.mark.server
def test_without_info_the_clock_of_redis_is_read_by_time_or_unknown() -> None:
    with redis() as server:
        client = server.client()
        client.execute_command("ACL", "SETUSER", "timed", "on", ">x", "-@all", "+ping", "+time", "+client|setname")
        client.execute_command("ACL", "SETUSER", "blind", "on", ">x", "-@all", "+ping", "+client|setname")
        client.close()
        timed, blind = (
            check("redis", {"url": server.url, "username": user, "password": "x"}) for user in ("timed", "blind")
        )

    assert clock(timed).status is OK, timed.text()
    assert clock(blind).status is UNKNOWN
    assert "denied" in str(clock(blind).observed)


# --- the decision ---


@pytest.mark.parametrize(
    ("time_of", "offset", "uncertainty"),
    [(102.5, 0, 2.5), (104.9, 2.4, 2.5), (108.0, 5.5, 2.5), (97.5, -5, 2.5), (3700.0, 3597.5, 2.5)],
)
def test_half_of_the_round_trip_is_the_uncertainty(time_of: float, offset: float, uncertainty: float) -> None:
    found = clock_offset(time_of, sent=100, received=105)

    assert found == ClockOffset(timedelta(seconds=offset), timedelta(seconds=uncertainty))


@pytest.mark.parametrize("time_of", [0, -1, float("nan"), float("inf"), 1e300])
def test_what_is_no_time_is_malformed(time_of: float) -> None:
    with pytest.raises(TargetError) as raised:
        clock_offset(time_of, sent=100, received=105)

    assert raised.value.cause == "malformed"


@given(
    true=st.floats(-100, 100),
    latency=st.floats(0, 100),
    share=st.floats(0, 1),
)
def test_the_true_offset_is_always_between_the_least_and_the_most(true: float, latency: float, share: float) -> None:
    sent = 1_700_000_000.0

    found = clock_offset(sent + share * latency + true, sent, sent + latency)

    slack = timedelta(milliseconds=1)
    assert found.least - slack <= timedelta(seconds=abs(true)) <= found.most + slack
