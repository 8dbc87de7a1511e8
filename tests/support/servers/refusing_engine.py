"""A server in front of a Docker engine that answers some requests itself, as a socket proxy or a busy engine does."""

from __future__ import annotations

import json
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
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
    with tempfile.TemporaryDirectory(prefix="refusing-") as name, closing(socket.socket(socket.AF_UNIX)) as listener:
        path = Path(name) / "d.sock"
        listener.bind(str(path))
        listener.listen(64)

        def serve() -> None:
            while True:
                client, _ = listener.accept()
                threading.Thread(target=answer, args=(client,), daemon=True).start()

        def answer(client: socket.socket) -> None:
            with client, suppress(OSError):
                data = b""
                while b"\r\n\r\n" not in data:
                    piece = client.recv(65536)
                    if not piece:
                        return
                    data += piece
                line, _, rest = data.partition(b"\r\n")
                if re.match(rf"(?:{request})(?:\?\S*)? HTTP", line.decode()):
                    send(client)
                    return
                with socket.socket(socket.AF_UNIX) as real:
                    real.connect(f"{engine.folder}/d.sock")
                    real.sendall(line + b"\r\nConnection: close\r\n" + re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", rest))
                    threading.Thread(target=copy, args=(client, real), daemon=True).start()
                    copy(real, client)

        def copy(source: socket.socket, sink: socket.socket) -> None:
            with suppress(OSError):
                while piece := source.recv(65536):
                    sink.sendall(piece)

        def until_closed() -> None:
            with suppress(OSError):
                serve()

        thread = threading.Thread(target=until_closed)
        thread.start()
        try:
            yield f"unix://{path}"
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()
