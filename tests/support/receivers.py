"""Receivers of notices on real sockets: an SMTP server, and webhooks that answer as a test sets."""

from __future__ import annotations

import email
import email.policy
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from support.servers.base import free_port


@dataclass
class Mailbox:
    """The mails that a server accepted, unless it is to refuse: the text with `refuse`, or a recipient.

    `drop` closes the connection: at `rcpt`, or at `data`, when it has the text and did not answer yet.
    """

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    refuse: str = ""
    refuse_recipients: dict[str, str] = field(default_factory=dict)  # address → answer
    drop: str = ""
    password: str = ""
    given: str = ""  # the password in the URL

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.drop == "rcpt":
            server.transport.abort()
        if address in self.refuse_recipients:
            return self.refuse_recipients[address]
        envelope.rcpt_tos.append(address)
        return "250 ok"

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        return AuthResult(success=data.password == self.password.encode(), handled=False)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.drop == "data":
            server.transport.abort()
        if self.refuse:
            return self.refuse
        content = envelope.content
        assert isinstance(content, bytes)
        message = email.message_from_bytes(content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.mails.append(message)
        return "250 accepted"

    def texts(self) -> list[str]:
        """The text of each mail."""
        parts = [mail.get_body(("plain",)) for mail in self.mails]
        return [part.get_content().replace("\r\n", "\n") for part in parts if part is not None]

    @property
    def url(self) -> str:
        """The channel's URL."""
        return self.url_to("ops@example.com")

    def url_to(self, *recipients: str) -> str:
        """The URL of a channel with these recipients."""
        user = f"maintd:{self.given}@" if self.given else ""
        to = ",".join(recipients)
        return f"mailto://{user}127.0.0.1:{self.port}?from=maintd@example.com&to={to}&mode=insecure"


class SmtpController(Controller):
    """aiosmtpd's controller, which also closes the connections that are open when it stops.

    Otherwise the garbage collector finds them, and its warning fails a test that has nothing to do with it.
    """

    def __init__(self, handler: object, **options: Any) -> None:
        super().__init__(handler, **options)
        self._protocols: list[SMTP] = []

    def factory(self) -> SMTP:
        """The protocol of a new connection."""
        protocol = super().factory()
        self._protocols.append(protocol)
        return protocol

    def cancel_tasks(self, stop_loop: bool = True) -> None:
        """Close the connections, and stop the loop once it has closed them."""
        super().cancel_tasks(stop_loop=False)
        for protocol in self._protocols:
            if protocol.transport is not None:
                protocol.transport.abort()
        if stop_loop:
            self.loop.call_soon(self.loop.stop)


@contextmanager
def smtp_server(port: int = 0, password: str = "") -> Iterator[Mailbox]:
    """A real SMTP server, on a free port by default; with a password, it takes no mail without it."""
    mailbox = Mailbox(port or free_port(), password=password, given=password)
    controller = SmtpController(
        mailbox,
        hostname="127.0.0.1",
        port=mailbox.port,
        ready_timeout=60,
        auth_required=bool(password),
        auth_require_tls=False,
        authenticator=mailbox.authenticate,
    )
    controller.start()
    try:
        yield mailbox
    finally:
        controller.stop()


@dataclass
class Answer:
    """How a webhook answers one request. With `hang` it does not, until the test ends."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    hang: bool = False


@dataclass
class Post:
    """A request that a webhook got."""

    headers: dict[str, str]
    body: bytes
    answer: Answer
    path: str = ""
    at: float = 0.0  # seconds since 1970


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    hook: Hook


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hook = self.server.hook
        answer = hook.take()
        hook.posts.append(
            Post({name.lower(): value for name, value in self.headers.items()}, body, answer, self.path, time.time())
        )
        hook.received.set()
        if answer.hang:
            hook.released.wait(600)
            return
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *words: object) -> None:
        pass


class Hook:
    """A webhook. It gives the answers in turn, and the last one from then on."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.posts: list[Post] = []
        self.received = threading.Event()
        self.released = threading.Event()
        self.port = 0
        self._answers = list(answers) or [Answer()]
        self._lock = threading.Lock()

    def take(self) -> Answer:
        """The answer to the next request."""
        with self._lock:
            return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def answer(self, *answers: Answer) -> None:
        """Answer so from now on."""
        with self._lock:
            self._answers = list(answers)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def accepted(self) -> list[Post]:
        """The requests that were answered with success."""
        return [post for post in self.posts if post.answer.status < 300 and not post.answer.hang]


@contextmanager
def webhook(*answers: Answer, port: int = 0) -> Iterator[Hook]:
    """A webhook on a free port."""
    hook = Hook(answers)
    server = _Server(("127.0.0.1", port), _Handler)
    server.hook = hook
    hook.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hook
    finally:
        hook.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
