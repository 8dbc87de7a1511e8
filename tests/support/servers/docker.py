"""A real Docker engine in its own mount namespace, without iptables; images are made from busybox.

There is no registry: images are imported from a folder. Containers and networks are removed before the engine stops.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker as sdk

from support.servers.base import find_program, needs_root, require_program, running, unavailable, wait_for

BUSYBOX = "maintd-test/busybox:1"


@dataclass
class DockerEngine:
    """A private engine."""

    folder: Path
    pid: int

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/d.sock"

    def client(self) -> Any:
        return sdk.DockerClient(self.url, timeout=60)

    def network(self, name: str, number: int) -> str:
        """Create the bridge network 10.213.NUMBER.0/24; return its name."""
        client = self.client()
        try:
            pool = sdk.types.IPAMPool(subnet=f"10.213.{number}.0/24")
            client.networks.create(name, driver="bridge", ipam=sdk.types.IPAMConfig(pool_configs=[pool]))
        finally:
            client.close()
        return name

    def busybox(self, tag: str = BUSYBOX) -> str:
        """Import an image of 2 MB with a shell, under this tag."""
        program = require_program("busybox", "busybox-static")
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for folder in ("bin", "tmp", "etc"):
                entry = tarfile.TarInfo(folder)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
                tar.addfile(entry)
            tar.add(Path(program).resolve(), "bin/busybox")
            for applet in ("sh", "sleep", "echo", "cat", "true", "false", "yes", "nc", "httpd", "ls", "kill", "dd"):
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
        name, _, version = tag.partition(":")
        client = self.client()
        try:
            client.api.import_image_from_data(packed.getvalue(), repository=name, tag=version or "latest")
        finally:
            client.close()
        return tag

    def answers(self) -> bool:
        """Ping over a plain socket: the SDK leaves a socket open when the engine does not listen."""
        with closing(socket.socket(socket.AF_UNIX)) as sock:
            sock.settimeout(2)
            try:
                sock.connect(f"{self.folder}/d.sock")
                sock.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b"200 OK" in sock.recv(1024)
            except OSError:
                return False

    def remove_all(self) -> None:
        """Remove all containers, then the created networks."""
        client = self.client()
        try:
            for container in client.containers.list(all=True):
                container.remove(force=True, v=True)
            for network in client.networks.list():
                if network.name not in ("bridge", "host", "none"):
                    network.remove()
        finally:
            client.close()


@contextmanager
def docker_engine(*options: str | Path) -> Iterator[DockerEngine]:
    """Start an engine, with further arguments of dockerd; stop it at the end."""
    require_program("dockerd", "docker.io iptables")
    needs_root("starts a Docker engine")
    with ExitStack() as running_engine:
        try:
            engine = running_engine.enter_context(engine_if_possible(*options))
        except NoEngineError as error:
            unavailable(f"a Docker engine that starts here; {error}")
        yield engine


class NoEngineError(Exception):
    """Why no Docker engine can be started here."""


@contextmanager
def engine_if_possible(*options: str | Path) -> Iterator[DockerEngine]:
    """Start an engine; stop it at the end. Raises NoEngineError, for tests that can do without one."""
    program = find_program("dockerd")
    if program is None or os.geteuid() != 0:
        raise NoEngineError("dockerd is not installed" if program is None else "only root can start one")
    folder = Path(tempfile.mkdtemp(prefix="eng-"))
    argv = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        program,
        "-H",
        f"unix://{folder}/d.sock",
        "--data-root",
        folder / "data",
        "--exec-root",
        folder / "exec",
        "--pidfile",
        folder / "pid",
        "--iptables=false",
        "--ip6tables=false",
        "--ip-forward=false",
        "--ip-masq=false",
        "--bridge=none",
        *options,
    ]
    try:
        with running(argv, folder / "log") as process:
            engine = DockerEngine(folder, process.pid)
            wait_for(lambda: engine.answers() or process.poll() is not None, "dockerd", seconds=120)
            if process.poll() is not None:
                last = (folder / "log").read_text(errors="replace").strip().rpartition("\n")[2]
                raise NoEngineError(f"dockerd ended: {last[-200:]}")
            try:
                yield engine
            finally:
                engine.remove_all()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
