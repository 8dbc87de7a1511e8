"""What clients can write to the daemon's log is bounded."""

from __future__ import annotations

import logging
import socket

import pytest
from support.web_services import Harness

from maintd.web.log_limit import LogLimit

MALFORMED = {
    "not HTTP": b"\0\0\0\r\n\r\n",
    "two lengths": b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a long head": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    "a long chunk header": b"POST /api/v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n1;"
    + b"a" * 200_000,
    "an upgrade": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", MALFORMED.values(), ids=MALFORMED)
def test_many_malformed_requests_leave_few_lines_in_the_log(
    served: Harness, port: int, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(30):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            try:
                sock.sendall(request_bytes)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
            except OSError:  # it closed the connection
                pass

    assert 1 <= len([record for record in caplog.records if record.name == "uvicorn.error"]) <= 4


def test_what_was_left_out_is_counted_in_the_next_line() -> None:
    at = 0.0
    limit = LogLimit(lambda: at)
    logged = []
    for at in (0.0, 1.0, 59.0, 61.0, 62.0, 200.0):  # noqa: B007 - the clock of the limit
        record = logging.LogRecord("uvicorn.error", logging.WARNING, "", 0, "Invalid HTTP request.\n", (), None)
        if limit.filter(record):
            logged.append(record.getMessage())

    assert logged == [
        "Invalid HTTP request.\n",
        "Invalid HTTP request. (and 2 more like it since the last one)",
        "Invalid HTTP request. (and 1 more like it since the last one)",
    ]
