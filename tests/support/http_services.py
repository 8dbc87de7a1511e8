"""Small HTTP services on real sockets, well-behaved and hostile, as targets of jobs."""

from __future__ import annotations

import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx


@dataclass
class Reply:
    """The response of one path."""

    body: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


def json_reply(body: Any, status: int = 200) -> Reply:
    """Return a response with a JSON body."""
    return Reply(json.dumps(body).encode(), status)


def gzip_bomb(mebibytes: int, of: bytes = b"\0") -> bytes:
    """Return gzip data of this length when inflated, all of one byte, without a checksum: no reader is to get there."""
    packer = zlib.compressobj(9, wbits=31)
    head = packer.compress(of) + packer.flush(zlib.Z_FULL_FLUSH)
    mebibyte = packer.compress(of * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + mebibyte * mebibytes


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    replies: Mapping[str, Reply | Callable[[], Reply]]


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        missing = Reply(b'{"error":"not_found"}', 404)
        found = self.server.replies.get(self.path) or self.server.replies.get(self.path.partition("?")[0], missing)
        reply = found() if callable(found) else found
        if "Date" in reply.headers:
            self.send_response_only(reply.status)
        else:
            self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def http_service(replies: Mapping[str, Reply | Callable[[], Reply]]) -> Iterator[str]:
    """Serve these paths, with or without their query, and 404 for all others; yield the base URL."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.replies = replies
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def port_that_hangs() -> Iterator[int]:
    """Yield a port on which connections are accepted and never answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@contextmanager
def port_that_sends(text: bytes) -> Iterator[int]:
    """Yield a port that sends this text to each client, and closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        stopped = threading.Event()

        def serve() -> None:
            while not stopped.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(1)
                    try:
                        connection.recv(4096)
                        connection.sendall(text)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stopped.set()
            thread.join()


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Yield the URL, without a slash at its end, of a server whose requests this class handles."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:  # else the thread outlives a test that fails, and the process does not end
            server.shutdown()
            thread.join()


# --- answers that never end: handlers for `served` ---


class Dripping(BaseHTTPRequestHandler):
    """Announces an answer, and sends one byte of it at a time."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Maintd-Api", "1")
        self.send_header("X-Exit-Code", "0")
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        with suppress(OSError):
            while True:
                self.wfile.write(b" ")
                time.sleep(0.05)

    def log_message(self, *words: object) -> None:
        pass


class WithoutLength(Dripping):
    """Sends without an end, as fast as it can."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Maintd-Api", "1")
        self.end_headers()
        with suppress(OSError):
            while True:
                self.wfile.write(b" " * 1_000_000)


class EndlessHeaders(Dripping):
    """Sends headers without an end."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.flush_headers()
        with suppress(OSError):
            while True:
                self.wfile.write(b"X-More: and more\r\n" * 1000)


# --- faults between a client and a real server ---


class Interposed:
    """A server in front of another one. `fault` is what becomes of requests that are not GET: `error before` they
    reach it, `hang before` that, `error after` or `hang after` it, `denied`."""

    def __init__(self, behind: str) -> None:
        self.behind = behind
        self.url = ""
        self.fault = ""
        self.released = threading.Event()
        self.at: Callable[[str], str] = lambda point: ""
        """Called before and after each request that is not GET, as `before POST /path`; a text that is not empty is
        the fault of this request."""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        request = "" if handler.command == "GET" else f"{handler.command} {handler.path}"
        fault = (self.at(f"before {request}") or self.fault) if request else ""
        if fault == "hang before":
            self.released.wait(600)
            return
        status, content = {"denied": (403, b"no"), "error before": (500, b"boom")}.get(fault, (0, b""))
        if not status:
            found = httpx.request(
                handler.command,
                self.behind + handler.path,
                content=body,
                headers={"Content-Type": handler.headers.get("Content-Type", "")},
                timeout=30,
            )
            status, content = found.status_code, found.content
            fault = (self.at(f"after {request}") or fault) if request else ""
        if fault == "hang after":
            self.released.wait(600)
            return
        if fault == "error after":
            status, content = 500, b"boom"
        with suppress(OSError):  # whoever asked was killed, or waits no longer
            handler.send_response(status)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)


@contextmanager
def interposed(behind: str) -> Iterator[Interposed]:
    """Serve the URL `behind` at another one, with faults."""
    found = Interposed(behind)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.answer(self)

        def do_POST(self) -> None:
            found.answer(self)

        def do_DELETE(self) -> None:
            found.answer(self)

        def log_message(self, *words: object) -> None:
            pass

    with served(Handler) as found.url:
        try:
            yield found
        finally:  # before the server is closed, which waits for the threads of its requests
            found.released.set()
