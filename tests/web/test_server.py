"""The HTTP server: its listeners, its access rules, its stop."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import stat
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest
from structlog.testing import capture_logs
from support.servers.base import wait_for
from support.web_services import Client, Harness, on_port, on_socket

from maintd.errors import RefusedError, SettingsError
from maintd.model.run import RunState
from maintd.operations import Health, ReloadResult
from maintd.web.connection_limits import Limits
from maintd.web.dependencies import parse_states
from maintd.web.listeners import control_socket, is_loopback, parse_listen
from maintd.web.middleware import MAX_BODY_BYTES
from maintd.web.server import MAX_CONNECTIONS, TCP_THREADS, _UvicornServer, web_server


def served_with(unserved: Harness, **settings: object) -> Harness:
    unserved.settings = unserved.settings.model_copy(update=settings)
    return unserved


def test_the_control_socket_is_for_owner_and_group_only(served: Harness, control: Client) -> None:
    assert stat.S_IMODE(served.settings.socket_path.stat().st_mode) == 0o660
    assert control.get("/api/v1/version").status == 200


def test_the_server_stops_without_waiting_for_an_idle_client_and_leaves_nothing(unserved: Harness, port: int) -> None:
    served_with(unserved, listen=f"127.0.0.1:{port}")
    with web_server(unserved.service()):
        idle = socket.create_connection(("127.0.0.1", port))  # an idle client must not delay the stop
        assert on_port(port).get("/healthz").status == 200
        started = time.monotonic()

    duration = time.monotonic() - started
    idle.close()

    assert duration < 10  # the client would be idle for longer
    assert not unserved.settings.socket_path.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    assert not web_threads()


def test_a_hanging_request_does_not_delay_the_stop(unserved: Harness) -> None:
    asked, answer = threading.Event(), threading.Event()

    def reload() -> ReloadResult:
        asked.set()
        answer.wait(20)
        return unserved.reloaded

    client = threading.Thread(target=lambda: post_ignoring_errors(unserved, "/api/v1/reload"), daemon=True)
    with web_server(replace(unserved.service(), reload=reload)):
        client.start()
        assert asked.wait(10)
        started = time.monotonic()

    duration = time.monotonic() - started
    answer.set()
    client.join(10)
    wait_for(lambda: not web_threads(), "the thread of the hanging request ends")
    assert duration < 15  # of 20


def web_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("web")}


def post_ignoring_errors(unserved: Harness, path: str) -> None:
    """Send a request and ignore the result."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        on_socket(unserved.settings.socket_path).post(path)


def test_the_server_can_start_again_on_the_same_addresses(unserved: Harness, port: int) -> None:
    served_with(unserved, listen=f"127.0.0.1:{port}")

    for _ in range(2):
        with web_server(unserved.service()):
            assert on_port(port).get("/healthz").status == 200


def test_without_listen_only_the_control_socket_is_served(unserved: Harness) -> None:
    with web_server(unserved.service()):
        assert on_socket(unserved.settings.socket_path).get("/healthz").status == 200


def test_the_stale_socket_of_a_killed_daemon_is_replaced(unserved: Harness) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(unserved.settings.socket_path))
    stale.close()

    with web_server(unserved.service()):
        assert on_socket(unserved.settings.socket_path).get("/healthz").status == 200


def test_a_socket_in_use_is_refused_and_left_alone(unserved: Harness) -> None:
    path = unserved.settings.socket_path
    with control_socket(path), pytest.raises(RefusedError) as refused, web_server(unserved.service()):
        pass

    assert str(path) in str(refused.value)


def test_only_the_own_socket_file_is_removed(state_dir: Path) -> None:
    path = state_dir / "s"
    with control_socket(path):
        path.unlink()
        other = socket.socket(socket.AF_UNIX)
        other.bind(str(path))

    assert path.exists()
    other.close()


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda folder: (folder / "file").touch() or folder / "file", "exists and is not a socket"),
        (lambda folder: folder / "missing" / "s", "cannot create the control socket"),
        (lambda folder: folder / ("x" * 120), "longer than 107 bytes"),
    ],
)
def test_an_unusable_socket_path_is_named_in_the_error(state_dir: Path, create: object, message: str) -> None:
    path = create(state_dir)  # type: ignore[operator]

    with pytest.raises(SettingsError) as refused, control_socket(path):
        pass

    assert message in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_port_in_use_is_named_and_the_control_socket_removed(unserved: Harness, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        served_with(unserved, listen=f"127.0.0.1:{port}")

        with pytest.raises(SettingsError) as refused, web_server(unserved.service()):
            pass

    assert f"port {port} of MAINTD_LISTEN 127.0.0.1:{port} is already in use" in str(refused.value)
    assert not unserved.settings.socket_path.exists()


@pytest.mark.parametrize("listen", ["8420", "host:", ":8420", "host:port", "h:0", "h:70000", "h:-1", "h:８"])
def test_an_invalid_listen_address_is_refused(listen: str) -> None:
    with pytest.raises(SettingsError, match="is not host:port"):
        parse_listen(listen)


def test_loopback_addresses_are_recognized() -> None:
    assert parse_listen("[::1]:80") == ("::1", 80)
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST."))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "10.0.0.1", "evil.example", "", "127.0.0.1.evil.example"))


# --- access ---


def test_a_foreign_host_name_is_refused_on_loopback(served: Harness, port: int) -> None:
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "[::2]"):
        assert on_port(port, host).get("/api/v1/status").status == 403, host
    for host in ("127.0.0.1", f"localhost:{port}", "[::1]:80"):
        assert on_port(port, host).get("/api/v1/status").status == 200, host


def test_every_response_has_security_headers(page: Client) -> None:
    for path in ("/", "/api/v1/status", "/nothing", "/static/style.css", "/metrics"):
        headers = page.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
        assert "date" in headers


def test_a_body_that_is_too_large_is_refused(control: Client) -> None:
    whole = control.ask("POST", "/api/v1/runs", b" " * (MAX_BODY_BYTES + 1))
    fits = control.ask("POST", "/api/v1/runs", b'{"name": "nightly-vacuum"}'.ljust(MAX_BODY_BYTES))

    assert (whole.status, whole.json["error"]["code"]) == (413, "usage")
    assert fits.status == 201


def test_requests_are_answered_while_others_hang(served: Harness, port: int) -> None:
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    for sock in slow:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")

    assert on_port(port).get("/healthz").status == 200

    for sock in slow:
        sock.close()


# --- connections and requests that cost too much ---


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n",
        b"POST /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT",
    ],
    ids=["idle", "half a line", "half a head", "half a body", "a second request that is never complete"],
)
def test_more_connections_than_allowed_do_not_keep_out_a_request(served: Harness, port: int, sent: bytes) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS + 60):
            with contextlib.suppress(ConnectionError):
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                sock.sendall(sent)

        assert on_port(port).get("/healthz").status == 200
        assert on_socket(served.settings.socket_path).get("/healthz").status == 200


class SlowServer:
    """One real listener with short limits on an app that answers with a megabyte."""

    def __init__(self, limits: Limits) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.server = _UvicornServer(self.answer, limits)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(
            target=self.loop.run_until_complete, args=(self.server.serve(sockets=[self.sock]),)
        )

    @staticmethod
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(64):
            await send({"type": "http.response.body", "body": bytes(256 * 1024), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def __enter__(self) -> Self:
        self.thread.start()
        wait_for(self.server.ready.is_set, "the server listens")
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.server.stopping.set)
        self.thread.join(10)
        self.loop.close()
        self.sock.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(self.sock.getsockname())

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)


def test_a_request_that_drips_in_is_ended_after_its_time() -> None:
    with SlowServer(Limits(connections=5, request_seconds=0.5)) as server, server.connect() as sock:
        ended = False
        for _ in range(200):
            try:
                sock.sendall(b"G")
            except ConnectionError:
                ended = True
                break
            time.sleep(0.05)

        assert ended
        assert server.connections == 0


def test_a_client_that_does_not_read_its_response_is_disconnected() -> None:
    with SlowServer(Limits(connections=5, write_seconds=0.5)) as server, server.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: server.connections == 1, "the request arrives")

        wait_for(lambda: server.connections == 0, "the connection is closed")


def test_a_kept_connection_that_stays_idle_is_closed() -> None:
    with SlowServer(Limits(connections=5, request_seconds=0.5)) as server, server.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = 0
        while part := sock.recv(1 << 20):
            received += len(part)

        assert received > 64 * 256 * 1024
        assert server.connections == 0


@pytest.mark.parametrize(
    "target",
    [
        "/api/v1/runs?state=" + ",".join(["failed"] * 8000),
        "/runs?since=" + "7" * 5000,
        "/api/v1/entries/" + "x" * 9000,
    ],
)
def test_a_target_that_is_too_long_is_refused_before_it_costs_anything(page: Client, target: str) -> None:
    # 400 is HTTP's own refusal: the head as a whole is limited too.
    assert page.get(target).status in (400, 414)


def test_a_state_that_is_given_many_times_counts_once() -> None:
    assert parse_states(",".join(["failed", "lost"] * 300)) == [RunState.FAILED, RunState.LOST]


def test_the_control_socket_answers_while_the_page_is_busy(unserved: Harness, port: int) -> None:
    served_with(unserved, listen=f"127.0.0.1:{port}")
    release, busy = threading.Event(), threading.Semaphore(0)
    inner = unserved.service().health

    def health() -> Health:
        busy.release()
        release.wait(30)
        return inner()

    with web_server(replace(unserved.service(), health=health)):
        asking = [
            threading.Thread(target=lambda: on_port(port).get("/healthz"), daemon=True) for _ in range(TCP_THREADS + 8)
        ]
        for thread in asking:
            thread.start()
        for _ in range(TCP_THREADS):
            assert busy.acquire(timeout=10)

        assert on_socket(unserved.settings.socket_path).get("/api/v1/version").status == 200

        release.set()
        for thread in asking:
            thread.join(10)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
    ],
)
def test_a_request_for_another_sites_page_is_refused(page: Client, headers: dict[str, str], status: int) -> None:
    assert page.get("/api/v1/runs", **headers).status == status


def test_an_internal_error_is_a_response_and_the_next_request_is_served(served: Harness, control: Client) -> None:
    served.calendar = None  # type: ignore[assignment]

    with capture_logs() as logged:
        broken = control.get("/api/v1/due")
        shown = control.get("/due")
        wait_for(lambda: len(logged) == 2, "both failures are logged, which happens after the responses")

    assert (broken.status, broken.json["error"]["code"]) == (500, "error")
    assert (shown.status, "see the daemon" in shown.text) == (500, True)
    assert control.get("/healthz").status == 200
    assert [line["event"] for line in logged] == ["request_failed"] * 2
