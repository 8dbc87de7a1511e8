"""The program of `fork_server`: `python -P fork_server_program.py DESCRIPTOR`, the socket of the requests.

Of the tests it imports nothing: what it forks has the modules of maintd, and no others.
"""

from __future__ import annotations

import gc
import io
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TextIO

PRELOADED = (
    "maintd.cli.main",
    "maintd.cli.calendar",
    "maintd.cli.client",
    "maintd.cli.connection",
    "maintd.cli.daemon",
    "maintd.cli.findings",
    "maintd.cli.foreground",
    "maintd.cli.runs",
    "maintd.cli.status",
    "maintd.cli.trigger",
    "maintd.config.sources",
    "maintd.executor.foreground",
    "maintd.scheduler.daemon",
    "maintd.web.app",
)
"""Modules of maintd that are imported before commands are forked. No one of them starts a thread."""


def _serve(control: socket.socket) -> None:
    """Fork a child for each request, and report its end. Returns in the child, ready to run its command."""
    forked: dict[int, socket.socket] = {}
    wake, wake_end = socket.socketpair()
    wake_end.setblocking(False)
    signal.set_wakeup_fd(wake_end.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    while True:
        readable, _, _ = select.select([control, wake], [], [])
        if wake in readable:
            wake.recv(4096)
            _report_ends(forked)
        if control not in readable:
            continue
        found, descriptors, _, _ = socket.recv_fds(control, 1, 4)
        if not found:
            os._exit(0)  # the tests have ended
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for each in (control, wake, wake_end, *forked.values()):
                each.close()
            return _become(*descriptors)
        conn, *streams = descriptors
        for number in streams:
            os.close(number)
        forked[pid] = socket.socket(fileno=conn)
        _send(forked[pid], pid)


def _report_ends(forked: dict[int, socket.socket]) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            with forked.pop(pid) as conn:
                _send(conn, os.waitstatus_to_exitcode(status))


def _send(conn: socket.socket, number: int) -> None:
    with suppress(ConnectionError):  # the test does not wait for it
        conn.sendall(b"%d\n" % number)


def _become(conn: int, *streams: int) -> None:
    """Take on the streams, the environment and the folder that were requested."""
    with socket.socket(fileno=conn) as sock, sock.makefile("rb") as lines:
        request = json.loads(lines.readline())
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # As Python opens them at its start: a stream remembers whether its file is a pipe.
    sys.stdin = sys.__stdin__ = _stream(0, "r", sys.stdin)
    sys.stdout = sys.__stdout__ = _stream(1, "w", sys.stdout)
    sys.stderr = sys.__stderr__ = _stream(2, "w", sys.stderr, line_buffering=True)
    os.environ.clear()
    os.environ.update(request["environ"])
    os.umask(request["umask"])
    os.chdir(request["cwd"])
    sys.argv[:] = request["argv"]


def _stream(number: int, mode: str, before: TextIO, *, line_buffering: bool = False) -> TextIO:
    unbuffered = mode == "w" and bool(os.environ.get("PYTHONUNBUFFERED"))
    binary = open(number, f"{mode}b", 0 if unbuffered else -1, closefd=False)  # noqa: SIM115 - open to the end
    newline = "\n" if mode == "w" else None
    stream = io.TextIOWrapper(
        binary, before.encoding, before.errors, newline, line_buffering=line_buffering, write_through=unbuffered
    )
    stream.mode = mode
    return stream


def _run_server() -> None:
    """Import, serve, and run the command in a child."""
    sys.path.insert(0, str(Path(sys.executable).parent))  # as for the program, whose folder it is
    for name in PRELOADED:
        import_module(name)
    control = socket.socket(fileno=int(sys.argv[1]))
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, the pages of all these objects
    _serve(control)
    main: Callable[[], int] = import_module("maintd.__main__").main
    sys.exit(main())


if __name__ == "__main__":
    _run_server()
