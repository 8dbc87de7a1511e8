"""An operator service served for each test, and one browser per session."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from support.browser import chromium
from support.web_services import Client, Harness, harness, on_port, on_socket

from maintd.web.server import web_server


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """A directory with a short path: the path of a Unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="maintd-web-") as folder:
        yield Path(folder)


@pytest.fixture
def unserved(state_dir: Path) -> Iterator[Harness]:
    """An operator service without a server."""
    with harness(state_dir) as built:
        yield built


@pytest.fixture
def port(free_port: int) -> int:
    return free_port


@pytest.fixture
def served(state_dir: Path, port: int) -> Iterator[Harness]:
    """An operator service served on its control socket and on a port."""
    with harness(state_dir, listen=f"127.0.0.1:{port}") as served, web_server(served.service()):
        yield served


@pytest.fixture
def control(served: Harness) -> Client:
    """A client of the control socket."""
    return on_socket(served.settings.socket_path)


@pytest.fixture
def page(served: Harness, port: int) -> Client:
    """A client of the TCP port."""
    return on_port(port)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for the tests of a module. Until it is closed, no other event loop can run in this thread."""
    with chromium() as browser:
        yield browser
