"""A served desk for each test, and one browser for the session."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from support.browser import chromium
from support.web_services import Client, Office, office, on_port, on_socket

from maintd.web.server import serve_desk


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """Short, because a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="maintd-web-") as folder:
        yield Path(folder)


@pytest.fixture
def here(state_dir: Path) -> Iterator[Office]:
    """A desk that is not served."""
    with office(state_dir) as made:
        yield made


@pytest.fixture
def port(free_port: int) -> int:
    return free_port


@pytest.fixture
def served(state_dir: Path, port: int) -> Iterator[Office]:
    """A desk served on its control socket and on a port."""
    with office(state_dir, listen=f"127.0.0.1:{port}") as made, serve_desk(made.desk()):
        yield made


@pytest.fixture
def control(served: Office) -> Client:
    """A client at the control socket."""
    return on_socket(served.settings.socket_path)


@pytest.fixture
def page(served: Office, port: int) -> Client:
    """A client at the page's port."""
    return on_port(port)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One for all tests of a worker."""
    with chromium() as made:
        yield made
