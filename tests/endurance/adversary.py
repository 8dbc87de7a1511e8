"""Strikes at random instants. Every fault is counted, and ends by itself or by `World.heal`.

Two strike at the same time: one with what is over in a moment, one with what lasts (an outage, a full disk, a pause).
So processes are killed during outages too.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg

from endurance.invariants import Stretch
from endurance.world import LEASE, Node, World

STOPPED = LEASE + 3  # longer than a lease
WHY = "endurance"
MID_WRITE = 2.0  # seconds that a write of the daemon is waited for
UNKNOWN_FOR = 4.0  # seconds after a file was changed, in which a daemon may read it by itself

Fault = Callable[[random.Random], str]
"""Commits it; what it was called, empty when there was nothing to do it to."""


@dataclass
class Deeds:
    """What was done."""

    counts: Counter[str] = field(default_factory=Counter)
    lasted: dict[str, list[float]] = field(default_factory=dict)  # seconds of each outage, by fault
    accepted: dict[str, int] = field(default_factory=dict)  # idempotency key → run, of triggers that got a yes
    twofold: list[str] = field(default_factory=list)  # keys for which two runs were named
    killed: set[int] = field(default_factory=set)  # pids of children
    paused: set[str] = field(default_factory=set)  # entries
    steps: set[float] = field(default_factory=set)  # seconds by which a clock was set
    confirmed: list[tuple[int, datetime]] = field(default_factory=list)  # calendar, and when all nodes had said yes
    changing: list[datetime] = field(default_factory=list)  # when something began that may load another calendar


class Adversary:
    """Draws faults from the seed and commits them."""

    def __init__(self, world: World, seed: int, seconds: float) -> None:
        self._world = world
        self._seed = seed
        self._seconds = seconds
        self._lock = threading.Lock()
        self._calendars = threading.Lock()  # who changes calendars does so alone
        self._offset = 0
        self.did = Deeds()

    def strike(self, told: Callable[[str], None]) -> None:
        """Both kinds of faults, until the time is over."""
        deadline = time.monotonic() + self._seconds
        with ThreadPoolExecutor(2) as pool:
            # The pause between two: what lasts is rarer.
            found = [
                pool.submit(self._strike, self._moments(), 0.1, 1.2, self._seed + 2, deadline, told),
                pool.submit(self._strike, self._lasting(), 0.5, 4.0, self._seed + 3, deadline, told),
            ]
        for each in found:
            each.result()

    def stretches(self) -> list[Stretch]:
        """Where it is known which calendar was in force."""
        changes = sorted([*self.did.changing, *(at for node in self._world.nodes for at in node.started_at)])
        found = []
        for variant, at in self.did.confirmed:
            until = next((change for change in changes if change > at), None)
            if until is not None:
                found.append(Stretch(variant, at, until))
        return found

    def _strike(
        self,
        faults: dict[Fault, int],
        shortest: float,
        longest: float,
        seed: int,
        deadline: float,
        told: Callable[[str], None],
    ) -> None:
        draw = random.Random(seed)
        weights = list(faults.values())
        while time.monotonic() < deadline:
            fault = draw.choices(list(faults), weights)[0]
            began = time.monotonic()
            name = fault(draw)
            if name:
                with self._lock:
                    self.did.counts[name] += 1
                    if longest > 2:
                        self.did.lasted.setdefault(name, []).append(time.monotonic() - began)
                told(name)
            time.sleep(draw.uniform(shortest, longest))

    def _moments(self) -> dict[Fault, int]:
        faults: dict[Fault, int] = {
            self.kill_daemon: 3,
            self.kill_mid_write: 3,
            self.terminate_daemon: 2,
            self.kill_template: 3,
            self.kill_job_template: 3,
            self.kill_template_and_daemon: 1,
            self.kill_child: 6,
            self.reload_good: 3,
            self.reload_bad: 2,
            self.trigger: 8,
            self.cancel: 6,
        }
        if (self._world.nodes[0].folder / "faketime").exists():
            faults[self.step_clock] = 4
        if self._world.postgres is not None:
            faults[self.kill_backends] = 4
        if len(self._world.nodes) > 1:
            faults[self.differ] = 2
        return faults

    def _lasting(self) -> dict[Fault, int]:
        faults: dict[Fault, int] = {self.freeze_daemon: 4, self.fill_state: 3, self.pause: 2}
        if self._world.postgres is not None:
            faults[self.stop_postgres] = 4
            faults[self.fill_store] = 3
        if len(self._world.nodes) > 1 and self._world.nodes[1].prefix:
            faults[self.cut_network] = 4
        return faults

    # --- processes ---

    def kill_daemon(self, draw: random.Random) -> str:
        return _named("daemon killed", _signal(draw.choice(self._world.nodes).daemon(), signal.SIGKILL))

    def kill_mid_write(self, draw: random.Random) -> str:
        """The threads that supervise and record live in the daemon: it is killed while it writes to the store."""
        node = draw.choice(self._world.nodes)
        deadline = time.monotonic() + MID_WRITE
        while time.monotonic() < deadline:
            if self._writes(node):
                return _named("daemon killed in the middle of a write", _signal(node.daemon(), signal.SIGKILL))
        return ""

    def terminate_daemon(self, draw: random.Random) -> str:
        return _named("daemon stopped politely", _signal(draw.choice(self._world.nodes).daemon(), signal.SIGTERM))

    def freeze_daemon(self, draw: random.Random) -> str:
        daemon = draw.choice(self._world.nodes).daemon()
        if not _signal(daemon, signal.SIGSTOP):
            return ""
        time.sleep(STOPPED)
        return _named("daemon frozen for longer than its lease", _signal(daemon, signal.SIGCONT))

    def kill_template(self, draw: random.Random) -> str:
        found = draw.choice(self._world.nodes).templates()
        return _named("template killed", bool(found) and _signal(found[0], signal.SIGKILL))

    def kill_job_template(self, draw: random.Random) -> str:
        """It takes its attempts with it."""
        found = draw.choice(self._world.nodes).job_templates()
        return _named("job's template killed", bool(found) and _signal(draw.choice(found), signal.SIGKILL))

    def kill_template_and_daemon(self, draw: random.Random) -> str:
        """Only the kernel is left to end the children then."""
        node = draw.choice(self._world.nodes)
        found = node.templates()
        if not found or not _signal(found[0], signal.SIGKILL):
            return ""
        return _named("template and daemon killed", _signal(node.daemon(), signal.SIGKILL))

    def kill_child(self, draw: random.Random) -> str:
        node = draw.choice(self._world.nodes)
        of_jobs = node.job_templates()
        leaves = [child for one in (*node.templates(), *of_jobs) for child in _children(one) if child not in of_jobs]
        if not leaves:
            return ""
        victim = draw.choice(leaves)
        self.did.killed.add(victim.pid)
        return _named("child killed", _signal(victim, signal.SIGKILL))

    # --- disk, clock, store, network ---

    def fill_state(self, draw: random.Random) -> str:
        node = draw.choice(self._world.nodes)
        _fill(node.state_dir / "filler", draw.uniform(1, 5))
        return "disk of the state directory full" if self._world.postgres else "disk of state directory and store full"

    def fill_store(self, draw: random.Random) -> str:
        assert self._world.postgres is not None
        _fill(self._world.postgres.folder / "filler", draw.uniform(1, 5))
        with self._world.server:
            self._world.restart_postgres()  # a full disk may have ended it
        return "disk of Postgres full"

    def step_clock(self, draw: random.Random) -> str:
        offset = draw.choice([at for at in (-90, -20, -3, 0, 3, 20, 90) if at != self._offset])
        way = "forward" if offset > self._offset else "back"
        self.did.steps.add(offset - self._offset)
        self._offset = offset
        (self._world.nodes[0].folder / "faketime").write_text(f"{offset:+d}")
        return f"clock stepped {way}"

    def stop_postgres(self, draw: random.Random) -> str:
        assert self._world.postgres is not None
        longest = min(60.0, self._seconds * 0.4)
        seconds = draw.choice([s for s in (1, 2, 4, 8, 15, 30, 60) if s <= max(longest, 4)])
        with self._world.server:
            with suppress(subprocess.CalledProcessError):
                self._world.postgres.stop(draw.choice(["fast", "immediate"]))
            time.sleep(seconds)
            self._world.restart_postgres()
        return "Postgres stopped"

    def kill_backends(self, draw: random.Random) -> str:
        assert self._world.postgres is not None
        query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'maintd'"
        with suppress(psycopg.Error), psycopg.connect(self._world.postgres.url("postgres"), autocommit=True) as conn:
            conn.execute(query)
            return "Postgres backends killed"
        return ""

    def cut_network(self, draw: random.Random) -> str:
        cable = f"v{self._world.nodes[1].prefix[3]}"
        subprocess.run(["ip", "link", "set", cable, "down"], check=True)
        time.sleep(draw.choice([1, 3, STOPPED, STOPPED]))
        subprocess.run(["ip", "link", "set", cable, "up"], check=True)
        return "network of one node cut"

    # --- operators ---

    def reload_good(self, draw: random.Random) -> str:
        variant = draw.randrange(len(self._world.calendars))
        with self._calendars:
            self.did.changing.append(datetime.now(UTC))
            for node in self._world.nodes:
                node.calendar.write_text(self._world.calendars[variant])
            answers = [node.ask("POST", "/api/v1/reload", {}) for node in self._world.nodes]
            if all(answer is not None and answer.get("ok") for answer in answers):
                self.did.confirmed.append((variant, datetime.now(UTC)))
        return _named("calendar reloaded", any(answer is not None for answer in answers))

    def reload_bad(self, draw: random.Random) -> str:
        node = draw.choice(self._world.nodes)
        with self._calendars:
            before = node.calendar.read_text()
            node.calendar.write_text(before[: len(before) // 2] + "\n  : [oops")
            node.ask("POST", "/api/v1/reload", {})
            node.calendar.write_text(before)
        return "bad calendar"

    def differ(self, draw: random.Random) -> str:
        node = draw.choice(self._world.nodes)
        with self._calendars:
            self.did.changing.append(datetime.now(UTC))
            node.calendar.write_text(draw.choice(self._world.calendars))
            return _named("another calendar on one node", node.ask("POST", "/api/v1/reload", {}) is not None)

    def trigger(self, draw: random.Random) -> str:
        """The same request, with one key, from several clients at once, to any of the nodes."""
        key = str(uuid.UUID(int=draw.getrandbits(128)))
        name = draw.choice(["steady", "mutating", "fixed-00", "fixed-01"])
        body = {"name": name, "by": "adversary", "why": WHY, "idempotency_key": key}
        nodes = [draw.choice(self._world.nodes) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda node: node.ask("POST", "/api/v1/runs", body), nodes))
        ids = {answer["id"] for answer in answers if answer is not None}
        if len(ids) > 1:
            self.did.twofold.append(key)
        if ids:
            self.did.accepted[key] = ids.pop()
        return _named("one trigger by several clients", key in self.did.accepted)

    def cancel(self, draw: random.Random) -> str:
        node = draw.choice(self._world.nodes)
        listed = node.ask("GET", "/api/v1/runs?state=running&state=queued&limit=20")
        if not listed or not listed["runs"]:
            return ""
        run = draw.choice(listed["runs"])
        asked = node.ask("POST", f"/api/v1/runs/{run['id']}/cancel", {"by": "adversary", "why": WHY})
        return _named("cancel", asked is not None)

    def pause(self, draw: random.Random) -> str:
        node = draw.choice(self._world.nodes)
        name = f"fixed-{draw.randint(0, 8):02}"
        self.did.paused.add(name)
        done = node.ask("POST", f"/api/v1/entries/{name}/pause", {"why": WHY, "by": "adversary"})
        time.sleep(draw.uniform(0.5, 3))
        while node.ask("POST", f"/api/v1/entries/{name}/unpause", {"by": "adversary"}) is None:
            node = draw.choice(self._world.nodes)
            time.sleep(0.5)
        return _named("pause and unpause", done is not None)

    def _writes(self, node: Node) -> bool:
        """Whether the daemon is in the middle of a transaction that writes, as well as can be seen from outside."""
        daemon = node.daemon()
        if daemon is None:
            return False
        if self._world.postgres is None:
            log = node.state_dir / "maintd.db-wal"
            with suppress(OSError):
                before = log.stat()
                time.sleep(0.0005)
                after = log.stat()
                return (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size)
            return False
        query = (
            "SELECT array_agg(client_port) FROM pg_stat_activity"
            " WHERE datname = 'maintd' AND xact_start IS NOT NULL AND state <> 'idle' AND backend_xid IS NOT NULL"
        )
        with (
            suppress(psycopg.Error, psutil.Error),
            psycopg.connect(self._world.postgres.url("postgres"), autocommit=True) as conn,
        ):
            ports = {connection.laddr.port for connection in daemon.net_connections() if connection.laddr}
            deadline = time.monotonic() + MID_WRITE
            while time.monotonic() < deadline:
                row = conn.execute(query).fetchone()
                if row is not None and ports & set(row[0] or ()):
                    return True
        return False


def _named(name: str, done: bool) -> str:
    return name if done else ""


def _fill(filler: Path, seconds: float) -> None:
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        size = 1_000_000
        while size:  # to the last byte
            with suppress(OSError):
                while True:
                    file.write(b"\0" * size)
            size //= 10
    time.sleep(seconds)
    filler.unlink(missing_ok=True)


def _signal(process: psutil.Process | None, number: signal.Signals) -> bool:
    if process is None:
        return False
    with suppress(psutil.Error, ProcessLookupError):
        os.kill(process.pid, number)
        return True
    return False


def _children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return process.children()
    return []
