"""Inspectors of Node that are open: who reaches one runs any code in the process.

A process opens its inspector by an option, `--inspect`, or when it gets SIGUSR1, which some configurations of logrotate
send to containers. The option is seen in the engine's list of processes; a socket that a signal opened only in the
kernel's table of the container's network, which is read where this process sees the host's /proc.
Source: https://nodejs.org/en/learn/getting-started/debugging
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from docker.errors import APIError, NotFound

from maintd.clients.docker import Container, Docker, translated
from maintd.errors import TargetError
from maintd.job.context import Context

PORT = 9229
_PARALLEL = 8  # requests to the engine at once
_LISTENING = "0A"  # TCP_LISTEN, see linux/net/tcp_states.h
_NODE = frozenset({"node", "nodejs", "nodemon", "ts-node", "tsx", "bun", "deno"})
_OPTION = re.compile(r"--inspect(?:-brk|-wait)?(?:=(.*))?")
_LOOPBACK = frozenset({"localhost", "::1", "[::1]"})


@dataclass(frozen=True)
class Inspector:
    """What was seen of one running container.

    `options`: the addresses of its --inspect options. `sockets`: the addresses on which something listens at the
    inspector's port in its network; None when they are not visible. `node`: it runs Node, as far as it is known.
    `published`: the host's addresses that lead to the port. `error`: why its processes are not known.
    """

    label: str
    options: tuple[str, ...]
    sockets: tuple[str, ...] | None
    published: tuple[str, ...]
    node: bool
    error: TargetError | None = None

    @property
    def open(self) -> bool:
        """Whether an inspector is open."""
        return bool(self.options or self.sockets)

    @property
    def reachable(self) -> bool:
        """Whether it is open to others than the processes of the same container."""
        return self.open and bool(self.published or not all(map(_is_loopback, (*self.options, *(self.sockets or ())))))

    @property
    def known(self) -> bool:
        """Whether an open inspector would have been seen."""
        return self.open or (self.sockets is not None) or (self.error is None and not self.node)


def collect(engine: Docker, containers: Sequence[Container], procs: Sequence[Path]) -> tuple[Inspector, ...]:
    """Look for inspectors in all running containers. `procs`: where this process sees hosts' /proc.

    When the engine does not answer about the first in time, it is not asked about the others: each would take as long,
    and the state of the containers is known already.
    """
    running = [container for container in containers if container.state == "running"]
    first = [_look(engine, procs, container) for container in running[:1]]
    error = first[0].error if first and first[0] else None
    with ThreadPoolExecutor(_PARALLEL) as pool:
        look = partial(_look, None if error and error.cause == "timed_out" else engine, procs)
        found = [*first, *pool.map(look, running[1:])]
    return tuple(item for item in found if item is not None)


def _look(engine: Docker | None, procs: Sequence[Path], container: Container) -> Inspector | None:
    sockets = _sockets(container, procs)
    if engine is None:
        error = TargetError("the engine does not list processes in time", cause="timed_out")
        return Inspector(container.label, (), sockets, container.inspector_ports, node=True, error=error)
    try:
        lines = _processes(engine, container)
    except TargetError as error:
        origin = error.__cause__
        status = origin.response.status_code if isinstance(origin, APIError) and origin.response is not None else 0
        if isinstance(origin, NotFound) or status == 409:  # it has ended since it was listed
            return None
        return Inspector(container.label, (), sockets, container.inspector_ports, node=True, error=error)
    options = tuple(address for line in lines for address in inspect_options(line))
    node = any(_programs(line) for line in lines)
    return Inspector(container.label, options, sockets, container.inspector_ports, node=node)


def _processes(engine: Docker, container: Container) -> list[str]:
    """The command lines of its processes, whole where the engine's ps can do that: else it may cut them at 80."""
    api = engine.api
    with translated(engine.name):
        try:
            answer = api.top(container.id, "-eo pid,args -ww")
        except APIError as error:
            if error.response is None or error.response.status_code != 500:
                raise
            answer = api.top(container.id)
        return [str(row[-1]) for row in answer["Processes"] or ()]


def _programs(command: str) -> list[int]:
    """Where the words of a command name Node."""
    return [at for at, word in enumerate(command.split()) if word.rpartition("/")[2] in _NODE]


def inspect_options(command: str) -> Iterator[str]:
    """The addresses on which the --inspect options of a command line open an inspector."""
    programs = _programs(command)
    for word in command.split()[programs[0] :] if programs else ():
        option = _OPTION.fullmatch(word)
        if option:
            host, _, port = (option[1] or "").rpartition(":")
            if not host and not port.isdecimal():
                host = port
            yield host or "127.0.0.1"


def _sockets(container: Container, procs: Sequence[Path]) -> tuple[str, ...] | None:
    for proc in procs:
        folder = proc / str(container.pid)
        try:
            if container.pid and _is_of(folder, container.id):
                tables = [(folder / "net" / name).read_text() for name in ("tcp", "tcp6") if (folder / "net").exists()]
                return tuple(address for table in tables for address in listening(table, PORT)) if tables else None
        except OSError:
            continue
    return None


def _is_of(folder: Path, container_id: str) -> bool:
    """Whether a process is of this container, and not one with the same number on another machine."""
    for name in ("cgroup", "mountinfo"):
        try:
            if container_id in (folder / name).read_text():
                return True
        except OSError:
            continue
    return False


def listening(table: str, port: int) -> Iterator[str]:
    """The addresses in a table of /proc/PID/net/tcp or tcp6 that listen at a port; source of the format: proc(5)."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and fields[3] == _LISTENING:
            address, _, number = fields[1].partition(":")
            if number == f"{port:04X}":
                yield _plain(address)


def _plain(address: str) -> str:
    """An address of the kernel's table, whose words have the machine's byte order."""
    words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
    if len(words) == 1 or b"".join(words[:3]) == b"\0" * 10 + b"\xff\xff":
        return ".".join(str(byte) for byte in words[-1])
    joined = b"".join(words)
    return "::1" if joined == b"\0" * 15 + b"\1" else "::" if not any(joined) else joined.hex()


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address in _LOOPBACK


def report(ctx: Context, subject: str, inspectors: Sequence[Inspector]) -> None:
    """Report open inspectors; those that other machines or containers can reach fail."""
    if not inspectors:
        return
    check = f"{subject}: open Node inspectors"
    found = [item for item in inspectors if item.open]
    blind = [item for item in inspectors if not item.known]
    reachable = [item.label for item in found if item.reachable]
    advice = "a client of it can run any code: remove --inspect, send it no SIGUSR1, and restart it"
    if blind and not found:
        errors = [item.error.message for item in blind if item.error]
        cause = f"the sockets of {', '.join(item.label for item in blind[:5])} are not visible"
        hint = "mount the host's /proc, and set the host target's proc; allow containers/ID/top in the socket proxy"
        ctx.unknown(check, f"{cause}; {errors[0]}" if errors else cause, hint=hint, optional=True)
        return
    labels = ", ".join(f"{item.label} (port published)" if item.published else item.label for item in found[:5])
    ctx.check(check, len(found), warn_above=0, hint=f"{labels}: {advice}" if found else "")
    hint = f"{', '.join(reachable[:5])}: {advice}" if reachable else ""
    ctx.check(f"{subject}: Node inspectors open to others", len(reachable), at_most=0, hint=hint)
