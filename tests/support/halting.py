"""A trading service that can be halted, as the first stack has it: its flag is in a Redis hash of the UTC day.

A new day has a new hash, in which it is not halted; the first request of the day creates it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from redis import Redis

from support.servers.redis import RedisServer

TOKEN = "an-admin-token"  # of the test only


@dataclass
class TradingService:
    """The service. `fault` is how it answers requests that change something: see `_Handler.do_POST`."""

    url: str
    redis: RedisServer
    name: str = "trading"
    fault: str = ""
    reads: str = ""  # how it answers requests that read: `hang`, `half` or `error`
    reasons: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    at: Callable[[str], str] = field(default=lambda point: "")
    """Called `before halt`, `after halt` and the same of `unhalt`; a text is the fault of this request from then on."""

    @property
    def key(self) -> str:
        return f"pnl:{self.name}:{datetime.now(UTC):%Y-%m-%d}"

    def client(self) -> Redis:
        return self.redis.client()

    @property
    def halted(self) -> bool:
        """By the store itself."""
        with closing(self.client()) as client:
            return bool(client.hget(self.key, "halted") in (b"1", "1"))

    def set(self, *, halted: bool) -> None:
        """As another client would."""
        self.begin_day()
        with closing(self.client()) as client:
            client.hset(self.key, "halted", int(halted))

    def begin_day(self) -> None:
        with closing(self.client()) as client:
            if not client.exists(self.key):
                client.hset(self.key, mapping={"date": self.key, "startEquity": "1000", "halted": "0"})

    def pass_midnight(self) -> None:
        """The hash of the day that has begun does not exist yet."""
        with closing(self.client()) as client:
            client.delete(self.key)

    def day(self) -> dict[str, Any]:
        with closing(self.client()) as client:
            found: Any = client.hgetall(self.key)
        return {_text(key): _text(value) for key, value in found.items()}

    def target(self, **columns: Any) -> dict[str, Any]:
        """The halt target of this service; needs the Redis target `main`."""
        expect = {"ok": True}
        return {
            "url": self.url,
            "headers": {"X-Admin-Token": TOKEN},
            "timeout": "1s",
            "look": {"path": "/pnl/status", "field": "halted"},
            "confirm": {
                "redis": "main",
                "key": f"pnl:{self.name}:{{date}}",
                "field": "halted",
                "halted": "1",
                "running": "0",
            },
            "halt": {"path": "/admin/halt", "body": {"reason": "{reason}"}, "expect": {**expect, "halted": True}},
            "unhalt": {"path": "/admin/unhalt", "body": {"reason": "{reason}"}, "expect": {**expect, "halted": False}},
            **columns,
        }

    def targets(self, **columns: Any) -> dict[str, Any]:
        """All targets that a job needs for this service."""
        return {"halts": {self.name: self.target(**columns)}, "redis": {"main": {"url": self.redis.url}}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    service: TradingService


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        service = self.server.service
        if service.reads == "hang":
            service.released.wait(600)
            return
        if service.reads == "error":
            self._answer(500, {"error": "boom"})
            return
        service.begin_day()  # reading writes: the first request of a day creates it
        body = {"date": service.day()["date"], "halted": service.halted}
        self._answer(200, {"date": body["date"]} if service.reads == "half" else body)

    def do_POST(self) -> None:
        """`error before` and `error after` the effect, `hang before` and `hang after`, `half` of the answer after it,
        `nothing`: it answers as if it had the effect, `denied`."""
        service = self.server.service
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        service.requests.append(self.path)
        if service.fault == "denied" or self.headers.get("X-Admin-Token") != TOKEN:
            self._answer(401, {"error": "unauthorized"})
            return
        halted = self.path.endswith("/halt")
        act = "halt" if halted else "unhalt"
        fault = service.at(f"before {act}") or service.fault
        if fault == "hang before":
            service.released.wait(600)
            return
        if fault not in ("nothing", "error before"):
            service.set(halted=halted)
            if self.headers.get("Content-Type") == "application/json":
                service.reasons.append(json.loads(body)["reason"])
        fault = service.at(f"after {act}") or fault
        if fault == "hang after":
            service.released.wait(600)
        elif fault.startswith("error"):
            self._answer(500, {"error": "boom"})
        else:
            self._answer(200, {"ok": True, "halted": halted}, half=fault == "half")

    def _answer(self, status: int, body: Any, *, half: bool = False) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with suppress(OSError):  # whoever asked was killed, or waits no longer
            self.wfile.write(data[: len(data) // 2] if half else data)
        if half:
            self.close_connection = True

    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def trading_service(redis: RedisServer, name: str = "") -> Iterator[TradingService]:
    """A service on a free port, not halted."""
    server = _Server(("127.0.0.1", 0), _Handler)
    name = name or f"t{time.monotonic_ns()}"
    server.service = TradingService(f"http://127.0.0.1:{server.server_port}", redis, name)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.service
    finally:
        server.service.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
