"""The two doors: how they open, who gets in, how they close."""

from __future__ import annotations

import contextlib
import http.client
import socket
import stat
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.servers.base import wait_for
from support.web_services import Client, Harness, on_port, on_socket

from maintd.errors import RefusedError, SettingsError
from maintd.operations import ReloadResult
from maintd.web.listeners import control_socket, is_loopback, parse_listen
from maintd.web.middleware import MAX_BODY_BYTES
from maintd.web.server import web_server


def served_with(here: Harness, **settings: object) -> Harness:
    here.settings = here.settings.model_copy(update=settings)
    return here


def test_the_control_socket_is_for_owner_and_group_only(served: Harness, control: Client) -> None:
    assert stat.S_IMODE(served.settings.socket_path.stat().st_mode) == 0o660
    assert control.get("/api/v1/version").status == 200


def test_both_doors_close_within_a_second_and_leave_nothing(here: Harness, port: int) -> None:
    served_with(here, listen=f"127.0.0.1:{port}")
    with web_server(here.service()):
        idle = socket.create_connection(("127.0.0.1", port))  # a client that says nothing must not hold it up
        assert on_port(port).get("/healthz").status == 200
        begun = time.monotonic()

    took = time.monotonic() - begun
    idle.close()

    assert took < 1.0
    assert not here.settings.socket_path.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    assert "web" not in names_of_threads()


def test_an_answer_that_never_comes_does_not_hold_up_the_end(here: Harness) -> None:
    asked, answer = threading.Event(), threading.Event()

    def reload() -> ReloadResult:
        asked.set()
        answer.wait(20)
        return here.reloaded

    client = threading.Thread(target=lambda: suppressed(here, "/api/v1/reload"), daemon=True)
    with web_server(replace(here.service(), reload=reload)):
        client.start()
        assert asked.wait(10)
        begun = time.monotonic()

    took = time.monotonic() - begun
    answer.set()
    client.join(10)
    wait_for(lambda: "web" not in names_of_threads(), "the thread of the given-up answer ends")
    # A second for answers under way, and another for the thread to notice.
    assert took < 3.0


def names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def suppressed(here: Harness, path: str) -> None:
    """Ask, and do not mind how it ends."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        on_socket(here.settings.socket_path).post(path)


def test_it_can_be_served_again_on_the_same_addresses(here: Harness, port: int) -> None:
    served_with(here, listen=f"127.0.0.1:{port}")

    for _ in range(2):
        with web_server(here.service()):
            assert on_port(port).get("/healthz").status == 200


def test_without_a_listen_address_there_is_only_the_socket(here: Harness) -> None:
    with web_server(here.service()):
        assert on_socket(here.settings.socket_path).get("/healthz").status == 200


def test_a_socket_that_a_killed_daemon_left_is_replaced(here: Harness) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(here.settings.socket_path))
    stale.close()

    with web_server(here.service()):
        assert on_socket(here.settings.socket_path).get("/healthz").status == 200


def test_a_socket_that_somebody_listens_on_is_refused_and_left_alone(here: Harness) -> None:
    path = here.settings.socket_path
    with control_socket(path), pytest.raises(RefusedError) as refused, web_server(here.service()):
        pass

    assert str(path) in str(refused.value)


def test_a_socket_is_only_removed_by_whoever_made_it(state_dir: Path) -> None:
    path = state_dir / "s"
    with control_socket(path):
        path.unlink()
        other = socket.socket(socket.AF_UNIX)
        other.bind(str(path))

    assert path.exists()
    other.close()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: (folder / "file").touch() or folder / "file", "exists and is not a socket"),
        (lambda folder: folder / "missing" / "s", "cannot create the control socket"),
        (lambda folder: folder / ("x" * 120), "longer than 107 bytes"),
    ],
)
def test_a_place_where_no_socket_can_be_is_named(state_dir: Path, make: object, told: str) -> None:
    path = make(state_dir)  # type: ignore[operator]

    with pytest.raises(SettingsError) as refused, control_socket(path):
        pass

    assert told in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_port_that_is_taken_is_named_and_the_socket_is_given_back(here: Harness, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        served_with(here, listen=f"127.0.0.1:{port}")

        with pytest.raises(SettingsError) as refused, web_server(here.service()):
            pass

    assert f"port {port} of MAINTD_LISTEN 127.0.0.1:{port} is already in use" in str(refused.value)
    assert not here.settings.socket_path.exists()


@pytest.mark.parametrize("listen", ["8420", "host:", ":8420", "host:port", "h:0", "h:70000", "h:-1", "h:８"])
def test_an_address_that_is_none_is_refused(listen: str) -> None:
    with pytest.raises(SettingsError, match="is not host:port"):
        parse_listen(listen)


def test_addresses_of_this_machine_are_known() -> None:
    assert parse_listen("[::1]:80") == ("::1", 80)
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST."))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "10.0.0.1", "evil.example", "", "127.0.0.1.evil.example"))


# --- who gets in ---


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_on_the_port_everything_but_reading_is_refused(page: Client, served: Harness, method: str) -> None:
    answer = page.ask(method, "/api/v1/runs", b'{"name": "nightly-vacuum"}')

    assert answer.status == 403
    assert answer.json["error"]["code"] == "refused"
    assert answer.json["error"]["hint"] == "send the request to the control socket"
    assert served.store.history.runs() == []


def test_a_web_site_that_points_its_name_here_reads_nothing(served: Harness, port: int) -> None:
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "[::2]"):
        assert on_port(port, host).get("/api/v1/status").status == 403, host
    for host in ("127.0.0.1", f"localhost:{port}", "[::1]:80"):
        assert on_port(port, host).get("/api/v1/status").status == 200, host


def test_a_page_that_is_open_to_the_network_answers_to_any_name(here: Harness, port: int) -> None:
    served_with(here, listen=f"0.0.0.0:{port}")

    with web_server(here.service()):
        assert on_port(port, "maintd.example").get("/healthz").status == 200
        assert on_port(port, "maintd.example").post("/api/v1/reload").status == 403


def test_every_answer_protects_the_browser(page: Client) -> None:
    for path in ("/", "/api/v1/status", "/nothing", "/static/style.css", "/metrics"):
        headers = page.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
        assert "date" in headers


def test_a_body_that_is_too_large_is_refused_before_it_is_read_whole(control: Client) -> None:
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


def test_what_breaks_inside_is_an_answer_and_the_next_request_is_served(served: Harness, control: Client) -> None:
    served.calendar = None  # type: ignore[assignment]

    with capture_logs() as logged:
        broken = control.get("/api/v1/due")
        shown = control.get("/due")
        wait_for(lambda: len(logged) == 2, "both failures logged, which is after they are answered")

    assert (broken.status, broken.json["error"]["code"]) == (500, "error")
    assert (shown.status, "see the daemon" in shown.text) == (500, True)
    assert control.get("/healthz").status == 200
    assert [line["event"] for line in logged] == ["request_failed"] * 2
