"""The health check of many targets of which some hang: known soon, and without an effect on the others."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.http_services import http_service, json_reply, port_that_hangs
from support.job_runs import JobResult, run_job

from maintd.model.evidence import CheckStatus

OTHERS = 19


@contextmanager
def port_that_drips(start: bytes) -> Iterator[int]:
    """A port that sends this, and then a byte every 50 ms for ever."""
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)

        def drip(connection: socket.socket) -> None:
            with connection:
                try:
                    connection.sendall(start)
                    while not stopped.wait(0.05):
                        connection.sendall(b" ")
                except OSError:
                    return

        def serve() -> None:
            while not stopped.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                threading.Thread(target=drip, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stopped.set()
            thread.join()


def stack(url: str, **hanging: Any) -> dict[str, Any]:
    http = {f"service-{number}": {"url": f"{url}/well", "expect": {"status": "ok"}} for number in range(OTHERS)}
    return {**hanging, "http": {**http, **hanging.get("http", {})}}


def check(targets: dict[str, Any], **params: Any) -> tuple[JobResult, float]:
    began = time.monotonic()
    result = run_job("health_check", {"skip": ["host"], **params}, targets)
    return result, time.monotonic() - began


@pytest.fixture
def well() -> Iterator[str]:
    with http_service({"/well": json_reply({"status": "ok"})}) as url:
        yield url


DRIP = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n{"


@pytest.mark.parametrize("how", ["http", "http drips", "docker", "docker drips", "postgres", "redis", "prometheus"])
def test_one_target_of_twenty_that_hangs_is_known_after_the_time_for_a_first_answer(well: str, how: str) -> None:
    with port_that_drips(DRIP) if "drips" in how else port_that_hangs() as port:
        kind = how.split(" ", maxsplit=1)[0]
        fields: dict[str, dict[str, Any]] = {
            "http": {"url": f"http://127.0.0.1:{port}/health"},
            "docker": {"url": f"tcp://127.0.0.1:{port}"},
            "postgres": {"dsn": f"host=127.0.0.1 port={port} dbname=x user=x"},
            "redis": {"url": f"redis://127.0.0.1:{port}/0"},
            "prometheus": {"url": f"http://127.0.0.1:{port}"},
        }
        _, alone = check(stack(well), first_answer="2s")
        result, took = check(stack(well, **{kind: {"hanging": fields[kind]}}), first_answer="2s")

    failed = [item for item in result.checks if item.status is not CheckStatus.OK]
    assert [(item.name, item.status) for item in failed] == [(f"{kind} hanging: answers", CheckStatus.FAIL)]
    assert "timed_out" in str(failed[0].observed)
    assert sum(item.name.endswith(": status") for item in result.checks) == OTHERS
    # The default timeouts of these targets are 5 and 10 s. Beside the 2 s it takes as long as without the target.
    assert took < 2 + 3 * alone + 2


def test_a_timeout_of_its_own_counts_also_when_it_is_longer(well: str) -> None:
    def slow() -> Any:
        time.sleep(0.6)
        return json_reply({"status": "ok"})

    with http_service({"/slow": slow}) as url:
        slow_target = {"url": f"{url}/slow", "timeout": "60s", "max_latency": "60s"}
        result, _ = check(stack(well, http={"slow": slow_target}), first_answer="100ms")

    assert result.check("http slow: answers").status is CheckStatus.OK


def test_a_target_that_is_slow_after_its_first_answer_is_not_taken_for_one_that_hangs(well: str) -> None:
    asked = threading.Event()

    def slower() -> Any:
        if asked.is_set():
            time.sleep(0.7)
        asked.set()
        return json_reply({"status": "ok"})

    with http_service({"/slow": slower}) as url:
        result, _ = check(stack(well, http={"slow": {"url": f"{url}/slow"}}), first_answer="600ms")

    assert result.check("http slow: answers").status is CheckStatus.OK
