"""A daemon whose resources run out: too many connections, no file descriptors left."""

from __future__ import annotations

import contextlib
import resource
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers.base import wait_for
from support.servers.maintd import RunningDaemon, maintd_daemon

pytestmark = pytest.mark.slow

FEW_FILES = 1024  # the soft limit that shells and systemd give by default


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process open 4,096 files."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[0] < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limits[1]), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def limit_open_files(daemon: RunningDaemon, soft: int) -> None:
    """Set the soft limit of the running daemon."""
    _, hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n"], ids=["idle", "half-sent"])
def test_a_thousand_connections_end_neither_the_daemon_nor_its_page(
    tmp_path: Path, many_files: None, sent: bytes
) -> None:
    with maintd_daemon(tmp_path) as daemon, contextlib.ExitStack() as stack:
        limit_open_files(daemon, FEW_FILES)
        host, port = daemon.page.removeprefix("http://").split(":")
        for _ in range(1100):
            with contextlib.suppress(ConnectionError):
                sock = stack.enter_context(socket.create_connection((host, int(port))))
                sock.sendall(sent)

        with urllib.request.urlopen(f"{daemon.page}/healthz", timeout=20) as answer:
            assert answer.status == 200
        assert daemon.maintd("trigger", "greeting", "--wait").code == 0
        assert daemon.process.poll() is None


def test_a_daemon_without_a_free_descriptor_reports_it_and_recovers(tmp_path: Path) -> None:
    with maintd_daemon(tmp_path, MAINTD_HEARTBEAT="200ms") as daemon:
        limit_open_files(daemon, 3)
        wait_for(lambda: "Too many open files" in daemon.log_text(), "the loop notices")
        assert daemon.process.poll() is None
        limit_open_files(daemon, FEW_FILES)

        assert daemon.maintd("trigger", "greeting", "--wait").code == 0
        wait_for(lambda: daemon.maintd("status", "--quiet").code == 0, "the daemon is healthy again")
        assert daemon.maintd("status").code == 0
