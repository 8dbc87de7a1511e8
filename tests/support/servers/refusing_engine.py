"""A server in front of a Docker engine that answers some requests itself, as a socket proxy or a busy engine does."""

from __future__ import annotations

import json
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from support.servers.docker import DockerEngine


@contextmanager
def refusing_engine(engine: DockerEngine, request: str, status: int, message: str = "refused here") -> Iterator[str]:
    """Yield the URL of an engine that answers requests like this pattern, `DELETE /v1.41/images/.*`, with this status.

    All others are passed on to the real engine, one per connection.
    """
    body = json.dumps({"message": message})
    head = f"HTTP/1.1 {status} Refused\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    refusal = f"{head}Connection: close\r\n\r\n{body}".encode()
    with replaced_answers(engine, request, lambda client: client.sendall(refusal)) as url:
        yield url


@contextmanager
def replaced_answers(engine: DockerEngine, request: str, send: Callable[[socket.socket], None]) -> Iterator[str]:
    """As `refusing_engine`, with any answer: `send` writes it to the connection, which is closed when it returns."""

    def handle(passing: PassingRequest) -> None:
        if re.match(rf"(?:{request})(?:\?\S*)? HTTP", passing.line):
            send(passing.client)
        else:
            passing.pass_on()

    with passing_through(engine, handle) as url:
        yield url


@dataclass
class PassingRequest:
    """A request on its way to a real engine. `line`: its first line."""

    client: socket.socket
    line: str
    rest: bytes
    engine: DockerEngine

    def pass_on(self, *, answered: bool = True) -> None:
        """Send it to the engine, with its answer; or wait until the engine has done it, and close without an answer."""
        rest = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", self.rest)
        with socket.socket(socket.AF_UNIX) as real:
            real.connect(f"{self.engine.folder}/d.sock")
            real.sendall(self.line.encode() + b"\r\nConnection: close\r\n" + rest)
            threading.Thread(target=_copy, args=(self.client, real), daemon=True).start()
            if answered:
                _copy(real, self.client)
                return
            while real.recv(65536):
                pass
            self.client.shutdown(socket.SHUT_RDWR)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            sink.sendall(piece)


@contextmanager
def passing_through(engine: DockerEngine, handle: Callable[[PassingRequest], None]) -> Iterator[str]:
    """Yield the URL of a server in front of an engine; `handle` decides about each request, one per connection."""
    with tempfile.TemporaryDirectory(prefix="passing-") as name, closing(socket.socket(socket.AF_UNIX)) as listener:
        path = Path(name) / "d.sock"
        listener.bind(str(path))
        listener.listen(64)

        def answer(client: socket.socket) -> None:
            with client, suppress(OSError):
                data = b""
                while b"\r\n\r\n" not in data:
                    piece = client.recv(65536)
                    if not piece:
                        return
                    data += piece
                line, _, rest = data.partition(b"\r\n")
                handle(PassingRequest(client, line.decode(), rest, engine))

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=answer, args=(client,), daemon=True).start()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"unix://{path}"
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()
