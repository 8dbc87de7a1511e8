"""The sockets that the daemon listens on."""

from __future__ import annotations

import socket

import pytest
from support.servers.base import free_port

from maintd.web.listeners import tcp_socket


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2", "0.0.0.0"])
def test_the_body_of_a_response_does_not_wait_for_an_acknowledgement_of_its_head(host: str) -> None:
    port = free_port()
    with tcp_socket(f"{host}:{port}") as listener, socket.create_connection(listener.getsockname()[:2], timeout=10):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
