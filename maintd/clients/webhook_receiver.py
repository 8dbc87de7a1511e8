"""A webhook that waits for one notification, and its end: an HTTP server of this process that keeps nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from maintd.clients.bounded import parse_json
from maintd.errors import TargetError

_MOST_BYTES = 1 << 20  # of one notification; that of a large group of alerts has 100 KB
_MOST_REQUESTS = 16  # at a time
_SECONDS = 10  # for one request to arrive


class WebhookReceiver:
    """Accepts notifications, and notes whether one of them contains the text, and whether it is of an alert's end.

    Source of the format: Alertmanager's documentation, `webhook_config`: `alerts`, each with `status` and `labels`.
    """

    def __init__(self, text: str) -> None:
        self._text = text.encode()
        self.received = threading.Event()
        self.resolved = threading.Event()
        """An alert with a label of this value is reported as resolved."""
        self.others = 0
        """Notifications without the text."""

    def take(self, body: bytes) -> None:
        """Receive one notification."""
        if self._text in body:
            self.received.set()
            if self._is_end(body):
                self.resolved.set()
        else:
            self.others += 1

    def _is_end(self, body: bytes) -> bool:
        try:
            found = parse_json(body, "the notification")
        except TargetError:
            return False  # of a receiver with a format of its own
        alerts = found.get("alerts") if isinstance(found, dict) else None
        text = self._text.decode()
        return any(
            isinstance(alert, dict)
            and alert.get("status") == "resolved"
            and isinstance(alert.get("labels"), dict)
            and text in alert["labels"].values()
            for alert in (alerts if isinstance(alerts, list) else ())
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    receiver: WebhookReceiver
    free: threading.Semaphore


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _SECONDS

    def do_POST(self) -> None:
        if not self.server.free.acquire(blocking=False):
            self._answer(503)
            return
        try:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > _MOST_BYTES:
                self._answer(413)
                return
            self.server.receiver.take(self.rfile.read(int(length)))
            self._answer(200)
        finally:
            self.server.free.release()

    def _answer(self, status: int) -> None:
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def listening(address: str, text: str) -> Iterator[WebhookReceiver]:
    """Listen on `HOST:PORT` for a notification with this text, until the end of the block. Raises TargetError."""
    host, _, port = address.rpartition(":")
    receiver = WebhookReceiver(text)
    try:
        server = _Server((host.strip("[]"), int(port)), _Handler)
    except (OSError, ValueError, OverflowError) as error:
        hint = "correct the address, or stop what listens there: ss -ltnp"
        raise TargetError(f"cannot listen on {address}: {error}", hint) from error
    server.receiver, server.free = receiver, threading.Semaphore(_MOST_REQUESTS)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
