"""The nodes of an endurance run: daemons that are restarted, their disks, clocks, network and store."""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg
from support.servers.postgres import PostgresServer, start_postgres

from endurance import journal, schedule

TESTS = Path(__file__).parents[1]
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
LEASE = 6.0  # seconds
DISK = "96m"
SERVER_DISK = "400m"
TEMPLATE = "maintd.executor.fork_server"


@dataclass
class Node:
    """A daemon that is restarted a moment after it ended, as by a container's restart policy."""

    name: str
    folder: Path
    environ: dict[str, str]
    prefix: tuple[str, ...] = ()  # command that enters its network namespace
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    wanted: bool = True
    restart_after: float = 0.0
    exits: list[int] = field(default_factory=list)
    started_at: list[datetime] = field(default_factory=list)

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    @property
    def calendar(self) -> Path:
        return self.folder / "schedules.yaml"

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "maintd", "serve"],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        self.starts += 1
        self.started_at.append(datetime.now(UTC))

    def daemon(self) -> psutil.Process | None:
        """Return the daemon's process, or None."""
        if self.process is None or self.process.poll() is not None:
            return None
        with suppress(psutil.Error):
            return psutil.Process(self.process.pid)
        return None

    def templates(self) -> list[psutil.Process]:
        """Return the template process, if it exists."""
        found = []
        daemon = self.daemon()
        with suppress(psutil.Error):
            for process in [] if daemon is None else daemon.children():
                with suppress(psutil.Error):
                    if any(TEMPLATE in word for word in process.cmdline()):
                        found.append(process)
        return found

    def below(self) -> list[psutil.Process]:
        """Return all processes below the daemon."""
        daemon = self.daemon()
        with suppress(psutil.Error):
            return [] if daemon is None else daemon.children(recursive=True)
        return []

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, timeout: float = 4.0) -> Any:
        """Return the API's response on the control socket, None for an error or without a daemon."""
        connection = _UnixConnection(str(self.state_dir / "maintd.sock"), timeout)
        try:
            connection.request(
                method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            body_read = answer.read()
            return json.loads(body_read) if answer.status < 300 else None
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """A connection that closes its socket when the server does not listen; httpx leaves it open."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("maintd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Cluster:
    """All nodes and servers of one run, stopped at its end."""

    def __init__(self, seed: int, *, kind: str, nodes: int, entries: int, folder: Path, keep: bool = False) -> None:
        self.seed = seed
        self.keep = keep
        self.kind = kind
        self.folder = folder
        self.journal = folder / "journal"
        self.postgres: PostgresServer | None = None
        self.nodes: list[Node] = []
        self.calendars = [schedule.calendar(seed, entries, variant=variant) for variant in range(3)]
        self._stack = ExitStack()
        self._watch = threading.Thread(target=self._keep_up, daemon=True)
        self._over = threading.Event()
        self.server = threading.RLock()  # held while Postgres is stopped or started
        self.integrity_checks = 0
        self.damage: list[str] = []
        self._count = nodes
        self.planned_until = datetime.now(UTC)

    def __enter__(self) -> Self:
        self.folder.chmod(0o755)
        if self.kind == "postgres":
            (self.folder / "postgres").mkdir()
            self._mount(self.folder / "postgres", SERVER_DISK)
            self.postgres = start_postgres(self.folder / "postgres")
            self._stack.callback(self._drop_postgres)
            self._keep_server_small()
            self.postgres.create("maintd")
        for number in range(self._count):
            self.nodes.append(self._node(number))
        for node in self.nodes:
            node.start()
        self._watch.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._watch.join()
        for node in self.nodes:
            node.wanted = False
            daemon = node.daemon()
            if daemon is not None:
                for process in (daemon, *node.below()):
                    with suppress(psutil.Error):
                        process.kill()
                assert node.process is not None
                node.process.wait()
            # The state directory is a file system of its own that is unmounted: copy it first.
            if self.keep:
                shutil.copytree(node.state_dir, node.folder / "kept", ignore=shutil.ignore_patterns("*.sock"))
        self._stack.close()

    def store_url(self) -> str:
        """Return the URL of the store for this process."""
        if self.postgres is not None:
            return self.postgres.url("maintd")
        return f"sqlite:///{self.nodes[0].state_dir}/maintd.db"

    def heal(self) -> None:
        """End every long fault."""
        for node in self.nodes:
            (node.state_dir / "filler").unlink(missing_ok=True)
            node.calendar.write_text(self.calendars[0])
            if (node.folder / "faketime").exists():
                (node.folder / "faketime").write_text("+0")
            for process in [found for found in (node.daemon(), *node.below()) if found is not None]:
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGCONT)
            if node.prefix:
                subprocess.run(["ip", "link", "set", f"v{node.prefix[3]}", "up"], check=False)
        if self.postgres is not None:
            with self.server:
                (self.postgres.folder / "filler").unlink(missing_ok=True)
                self.restart_postgres()

    def restart_postgres(self) -> None:
        """Make sure that Postgres runs."""
        assert self.postgres is not None
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(psycopg.Error), psycopg.connect(self.postgres.url("postgres"), connect_timeout=2):
                return
            with suppress(subprocess.CalledProcessError):
                self.postgres.start()
                return
            time.sleep(0.3)
        raise AssertionError("Postgres does not start again")

    def _keep_server_small(self) -> None:
        """Limit the WAL, so that it does not fill the disk by itself."""
        assert self.postgres is not None
        with psycopg.connect(self.postgres.url("postgres"), autocommit=True) as conn:
            for line in ("max_wal_size = '96MB'", "min_wal_size = '32MB'"):
                conn.execute(f"ALTER SYSTEM SET {line}".encode())
            conn.execute("SELECT pg_reload_conf()")

    def check_integrity(self, node: Node) -> None:
        """Check a copy of the SQLite store of a daemon that has just ended: what its successor will find.

        Another process makes the copy: to close a file drops all locks of this process on it (fcntl(2)), also those of
        a connection that is open, which would not notice that the log was deleted, and read what was before for ever.
        """
        store = node.state_dir / "maintd.db"
        if self.postgres is not None or not store.exists():
            return
        with tempfile.TemporaryDirectory(prefix="maintd-integrity-") as name:
            files = [path for path in (store, Path(f"{store}-wal")) if path.exists()]
            subprocess.run(["cp", *files, name], check=True)
            with closing(sqlite3.connect(f"{name}/maintd.db")) as conn:
                found = [row[0] for row in conn.execute("PRAGMA integrity_check")]
                found += [f"foreign key: {row}" for row in conn.execute("PRAGMA foreign_key_check")]
        self.integrity_checks += 1
        if found != ["ok"]:
            self.damage.append(f"integrity_check after end {len(node.exits)} of the daemon: {found[:5]}")

    def _node(self, number: int) -> Node:
        name = f"node{number}"
        folder = self.folder / name
        (folder / "state").mkdir(parents=True)
        self._mount(folder / "state")
        (folder / "schedules.yaml").write_text(self.calendars[0])
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("MAINTD_", "PYTEST_"))}
        environ |= {
            "MAINTD_STATE_DIR": str(folder / "state"),
            "MAINTD_DEBUGGABLE": "1",  # its memory and descriptors are measured
            "MAINTD_NODE": name,
            "MAINTD_LISTEN": "",
            "MAINTD_CALENDAR": str(folder / "schedules.yaml"),
            "MAINTD_JOBS_PATH": str(TESTS / "endurance/jobs"),
            "MAINTD_LEASE": f"{LEASE}s",
            "MAINTD_HEARTBEAT": "1s",
            "MAINTD_GRACE": "1s",
            "MAINTD_DRAIN": "4s",
            "MAINTD_SLOTS": "8",
            "MAINTD_LOG_FORMAT": "json",
            "MAINTD_LOG_LIMIT": "100kB",
            "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
            journal.VARIABLE: str(self.journal),
        }
        prefix: tuple[str, ...] = ()
        if self.postgres is not None:
            environ["MAINTD_STORE_URL"] = self.postgres.url("maintd")
        if number == 0 and FAKETIME.exists():
            (folder / "faketime").write_text("+0")
            environ |= {
                "LD_PRELOAD": str(FAKETIME),
                "FAKETIME_TIMESTAMP_FILE": str(folder / "faketime"),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "PYTHONPATH": f"{TESTS}:{TESTS.parent}:{TESTS / 'endurance/faketime_site'}",
            }
        if number == 1 and self.postgres is not None:
            prefix = self._namespace(environ)
        return Node(name, folder, environ, prefix)

    def _mount(self, folder: Path, size: str = DISK) -> None:
        options = f"size={size},mode=755"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "maintd-endurance", folder], check=True)
        self._stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=False)

    def _namespace(self, environ: dict[str, str]) -> tuple[str, ...]:
        """Create a network namespace for one node, with a link to the host that can be cut."""
        assert self.postgres is not None
        name = f"mt{os.getpid() % 100000}"
        subnet = f"10.213.{200 + os.getpid() % 50}"
        for line in (
            f"ip netns add {name}",
            f"ip link add v{name} type veth peer name eth0 netns {name}",
            f"ip addr add {subnet}.1/24 dev v{name}",
            f"ip link set v{name} up",
            f"ip netns exec {name} ip addr add {subnet}.2/24 dev eth0",
            f"ip netns exec {name} ip link set eth0 up",
            f"ip netns exec {name} ip link set lo up",
        ):
            subprocess.run(line.split(), check=True)
        self._stack.callback(subprocess.run, ["ip", "link", "del", f"v{name}"], check=False)
        self._stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
        self.postgres.also_listen(f"{subnet}.1")
        environ["MAINTD_STORE_URL"] = self.postgres.url("maintd").replace("127.0.0.1", f"{subnet}.1")
        return ("ip", "netns", "exec", name)

    def _drop_postgres(self) -> None:
        assert self.postgres is not None
        with suppress(subprocess.CalledProcessError):
            self.postgres.stop("immediate")
        shutil.rmtree(self.postgres.folder, ignore_errors=True)

    def _keep_up(self) -> None:
        draw = random.Random(self.seed + 1)
        while not self._over.wait(0.1):
            for node in self.nodes:
                if node.process is None or node.process.poll() is None:
                    continue
                if node.restart_after == 0.0:
                    node.exits.append(node.process.returncode)
                    self.check_integrity(node)
                    node.restart_after = time.monotonic() + draw.uniform(0.1, 2.0)
                elif time.monotonic() >= node.restart_after and node.wanted:
                    node.restart_after = 0.0
                    node.start()


@contextmanager
def cluster(seed: int, *, kind: str, nodes: int, entries: int, keep: Path | None = None) -> Iterator[Cluster]:
    """Start a cluster in a temporary folder, or in `keep`, which is not deleted."""
    folder = keep or Path(tempfile.mkdtemp(prefix="maintd-endurance-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with Cluster(seed, kind=kind, nodes=nodes, entries=entries, folder=folder, keep=keep is not None) as started:
            yield started
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
