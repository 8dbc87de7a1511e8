"""Engines that hang, drip, never end, redirect or answer nonsense: each costs seconds, and has its own cause."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.http_services import gzip_bomb, http_service, json_reply
from support.job_runs import run_job

from maintd.clients.docker import connect
from maintd.clients.docker_usage import parse
from maintd.errors import TargetError
from maintd.model.evidence import ChangeState, CheckStatus
from maintd.model.target import DockerTarget

Send = Callable[[socket.socket, threading.Event], None]
VERSION = b'{"Version": "29.3.0", "ApiVersion": "1.47", "MinAPIVersion": "1.24"}'


def answer(body: bytes, more: str = "") -> bytes:
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode()
        + body
    )


def drip(before: bytes, piece: bytes) -> Send:
    def send(client: socket.socket, stopped: threading.Event) -> None:
        client.sendall(before)
        while not stopped.wait(0.05):
            client.sendall(piece)

    return send


def say(text: bytes) -> Send:
    return lambda client, stopped: client.sendall(text)


def hang(client: socket.socket, stopped: threading.Event) -> None:
    stopped.wait()


def never_end(client: socket.socket, stopped: threading.Event) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[")
    while not stopped.is_set():
        client.sendall(b'"x",' * 65536)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
PAGE = b"<html><title>Log in</title></html>"
ODD: dict[str, tuple[Send, tuple[str, ...]]] = {
    "hangs": (hang, ("timed_out",)),
    "drips its headers": (drip(b"HTTP/1.1 200 OK\r\nX-A: ", b"a"), ("timed_out",)),
    "drips its body": (drip(HEAD + b"Content-Length: 100000\r\n\r\n[", b" "), ("timed_out",)),
    "drips chunks": (drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n[\r\n"), ("timed_out",)),
    "drips without a length": (drip(HEAD + b"\r\n[", b" "), ("timed_out",)),
    "never ends": (never_end, ("too_large", "timed_out")),
    "sends a compressed bomb": (
        say(answer(gzip_bomb(200, b" "), "Content-Encoding: gzip\r\n")),
        ("too_large", "timed_out"),
    ),
    "sends a page": (say(answer(PAGE)), ("malformed",)),
    "sends half": (say(answer(b'{"ApiVersion": "1.47"}')[:-9]), ("partial",)),
    "sends half of its JSON": (say(answer(b'{"ApiVersion": ')), ("malformed",)),
    "sends brackets": (say(answer(b"[" * 500_000)), ("too_large",)),
    "sends nothing": (say(b""), ("partial",)),
}


@contextmanager
def engine(odd: Send, path: Path | None, *, greets: bool) -> Iterator[str]:
    """An engine that answers oddly; with `greets` only after it has given its version as it should."""
    stopped = threading.Event()
    family = socket.AF_INET if path is None else socket.AF_UNIX
    threads: list[threading.Thread] = []

    def serve(client: socket.socket) -> None:
        with client:
            try:
                client.settimeout(20)
                asked = client.recv(65536)
                if greets and b"/version" in asked:
                    client.sendall(answer(VERSION, "Connection: close\r\n"))
                else:
                    odd(client, stopped)
            except OSError:
                return  # the client has gone

    def listen() -> None:
        while not stopped.is_set():
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            threads.append(threading.Thread(target=serve, args=(client,)))
            threads[-1].start()

    with socket.socket(family) as listener:
        listener.bind(("127.0.0.1", 0) if path is None else str(path))
        listener.listen()
        listener.settimeout(0.05)
        accepting = threading.Thread(target=listen)
        accepting.start()
        try:
            yield f"tcp://127.0.0.1:{listener.getsockname()[1]}" if path is None else f"unix://{path}"
        finally:
            stopped.set()
            accepting.join()
            for thread in threads:
                thread.join()


@pytest.mark.parametrize("greets", [False, True], ids=["at once", "after its version"])
@pytest.mark.parametrize("over", ["tcp", "unix"])
@pytest.mark.parametrize("odd", ODD)
def test_an_engine_that_answers_oddly_costs_seconds_and_has_a_cause(
    odd: str, over: str, greets: bool, tmp_path: Path
) -> None:
    send, causes = ODD[odd]
    with engine(send, tmp_path / "e.sock" if over == "unix" else None, greets=greets) as url:
        started = time.monotonic()

        with (
            pytest.raises(TargetError) as raised,
            connect(DockerTarget(url=url, timeout=timedelta(seconds=1)), name="main") as docker,
        ):
            docker.containers(None)

        took = time.monotonic() - started
    assert raised.value.cause in causes, raised.value
    assert raised.value.message.startswith("main: ")
    assert took < 15  # 1 s on a quiet machine, and two minutes and more without a limit


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_to_another_host_is_not_followed(status: int) -> None:
    asked: list[int] = []

    def elsewhere() -> Any:
        asked.append(1)
        return json_reply({"ApiVersion": "1.47"})

    with http_service({"/version": elsewhere}) as other:
        redirect = json_reply({}, status)
        redirect.headers = {"Location": f"{other}/version"}
        with http_service({"/version": redirect}) as url, pytest.raises(TargetError) as raised:
            connect(DockerTarget(url=url.replace("http", "tcp")))

    assert raised.value.cause == "malformed"
    assert not asked


def test_a_list_of_containers_that_each_take_long_ends_within_three_timeouts() -> None:
    def slow() -> Any:
        time.sleep(0.4)
        return json_reply({"message": "gone"}, 404)

    listed = [{"Id": f"c{number}"} for number in range(200)]
    replies: dict[str, Any] = {"/version": json_reply({"ApiVersion": "1.47"})}
    replies["/v1.47/containers/json"] = json_reply(listed)
    replies |= {f"/v1.47/containers/c{number}/json": slow for number in range(200)}
    with http_service(replies) as url, pytest.raises(TargetError) as raised:
        started = time.monotonic()
        with connect(DockerTarget(url=url.replace("http", "tcp"), timeout=timedelta(seconds=1))) as docker:
            docker.containers(None)

    assert raised.value.cause == "timed_out"
    assert time.monotonic() - started < 40  # 80 s and more without a limit


USED = {"ActiveCount": 0, "TotalCount": 1, "TotalSize": 5, "Reclaimable": 5}
NONE: dict[str, Any] = {"ActiveCount": 0, "TotalCount": 0, "TotalSize": 0, "Reclaimable": 0, "Items": []}
NEW = {"ImageUsage": NONE, "ContainerUsage": NONE, "VolumeUsage": NONE}


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        ({}, "unfamiliar"),
        ({"Disk": {"Images": []}}, "unfamiliar"),
        ({**NEW, "ImageUsage": USED}, "partial"),
        ({**NEW, "VolumeUsage": None}, "partial"),
        ({**NEW, "ImageUsage": {**USED, "Items": [{"Size": 5}]}}, "malformed"),
        ({"LayersSize": 5, "Images": [{"Size": 5, "Containers": -1}]}, "malformed"),
        ([], "malformed"),
    ],
)
def test_a_disk_usage_that_is_not_understood_is_never_zero(found: Any, cause: str) -> None:
    with pytest.raises(TargetError) as raised:
        parse(found)

    assert raised.value.cause == cause


@pytest.mark.parametrize("found", [{"LayersSize": 0, "Images": None}, NEW, {**NEW, "BuildCacheUsage": NONE}])
def test_an_empty_engine_of_any_api_version_has_a_disk_usage_of_zero(found: Any) -> None:
    assert parse(found).layers == 0


PRUNE: dict[str, tuple[Any, ChangeState]] = {
    "freed": (json_reply({"CachesDeleted": ["a"], "SpaceReclaimed": 7}), ChangeState.DONE),
    "nothing": (json_reply({"CachesDeleted": None, "SpaceReclaimed": 0}), ChangeState.DONE),
    "forbidden": (json_reply({"message": "no"}, 403), ChangeState.REFUSED),
    "empty": (json_reply({}), ChangeState.FAILED),
    "a list": (json_reply([]), ChangeState.FAILED),
    "an error": (json_reply({"message": "no builder"}, 500), ChangeState.FAILED),
}


@pytest.mark.parametrize("case", PRUNE)
def test_a_build_cache_is_pruned_when_the_engine_reports_what_it_freed(case: str) -> None:
    reply, state = PRUNE[case]
    replies = {
        "/version": json_reply({"ApiVersion": "1.47"}),
        "/v1.47/containers/json": json_reply([]),
        "/v1.47/images/json": json_reply([]),
        "/v1.47/networks": json_reply([]),
        "/v1.47/system/df": json_reply({"LayersSize": 0}),
        "/v1.47/build/prune": reply,
    }
    with http_service(replies) as url:
        result = run_job("docker_cleanup", {}, {"docker": {"main": {"url": url.replace("http", "tcp")}}})

    (change,) = result.changes
    assert (change.action, change.state) == ("prune build cache", state), result.text()
    freed = change.details.get("freed")
    assert freed == {"freed": 7, "nothing": 0}.get(case)
    failed = [check for check in result.checks if "build cache" in check.name]
    assert bool(failed) == (state is not ChangeState.DONE)
    assert all(check.status is not CheckStatus.OK for check in failed)
