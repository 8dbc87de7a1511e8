"""Injects faults at random times. Every fault is counted, and ends by itself or by `Cluster.heal`.

Two threads inject faults at the same time: short ones (a kill), and long ones (an outage, a full disk, a suspension).
So processes are also killed during outages.
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

from endurance.cluster import LEASE, Cluster, Node
from endurance.invariants import ConfirmedPeriod

STOPPED = LEASE + 3  # longer than a lease
WHY = "endurance"
MID_WRITE = 2.0  # seconds to wait for a write of the daemon

Fault = Callable[[random.Random], str]
"""Injects a fault; returns its name, or an empty string if it was not possible."""


@dataclass
class InjectedFaults:
    """The faults that were injected."""

    counts: Counter[str] = field(default_factory=Counter)
    lasted: dict[str, list[float]] = field(default_factory=dict)  # seconds of each outage, by fault
    accepted: dict[str, int] = field(default_factory=dict)  # idempotency key → run, of accepted triggers
    duplicate_runs: list[str] = field(default_factory=list)  # keys that were answered with two runs
    killed: set[int] = field(default_factory=set)  # pids of children
    paused: set[str] = field(default_factory=set)  # entries
    steps: set[float] = field(default_factory=set)  # seconds by which a clock was stepped
    confirmed: list[tuple[int, datetime]] = field(default_factory=list)  # calendar, and when all nodes had confirmed it
    changing: list[datetime] = field(default_factory=list)  # start of events that can load another calendar


class FaultInjector:
    """Draws faults from the seed and injects them."""

    def __init__(self, cluster: Cluster, seed: int, seconds: float) -> None:
        self._cluster = cluster
        self._seed = seed
        self._seconds = seconds
        self._lock = threading.Lock()
        self._calendars = threading.Lock()  # one calendar change at a time
        self._offset = 0
        self.did = InjectedFaults()

    def inject(self, report: Callable[[str], None]) -> None:
        """Inject both kinds of faults until the time is over."""
        deadline = time.monotonic() + self._seconds
        with ThreadPoolExecutor(2) as pool:
            # The pause between two faults: long faults are rarer.
            found = [
                pool.submit(self._inject, self._short_faults(), 0.1, 1.2, self._seed + 2, deadline, report),
                pool.submit(self._inject, self._long_faults(), 0.5, 4.0, self._seed + 3, deadline, report),
            ]
        for each in found:
            each.result()

    def confirmed_periods(self) -> list[ConfirmedPeriod]:
        """Return the periods in which the active calendar is known."""
        changes = sorted([*self.did.changing, *(at for node in self._cluster.nodes for at in node.started_at)])
        found = []
        for variant, at in self.did.confirmed:
            until = next((change for change in changes if change > at), None)
            if until is not None:
                found.append(ConfirmedPeriod(variant, at, until))
        return found

    def _inject(
        self,
        faults: dict[Fault, int],
        shortest: float,
        longest: float,
        seed: int,
        deadline: float,
        report: Callable[[str], None],
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
                report(name)
            time.sleep(draw.uniform(shortest, longest))

    def _short_faults(self) -> dict[Fault, int]:
        faults: dict[Fault, int] = {
            self.kill_daemon: 3,
            self.kill_mid_write: 3,
            self.terminate_daemon: 2,
            self.kill_template: 3,
            self.kill_template_and_daemon: 1,
            self.kill_child: 6,
            self.reload_good: 3,
            self.reload_bad: 2,
            self.trigger: 8,
            self.cancel: 6,
        }
        if (self._cluster.nodes[0].folder / "faketime").exists():
            faults[self.step_clock] = 4
        if self._cluster.postgres is not None:
            faults[self.kill_backends] = 4
        if len(self._cluster.nodes) > 1:
            faults[self.load_other_calendar] = 2
        return faults

    def _long_faults(self) -> dict[Fault, int]:
        faults: dict[Fault, int] = {self.freeze_daemon: 4, self.fill_state: 3, self.pause: 2}
        if self._cluster.postgres is not None:
            faults[self.stop_postgres] = 4
            faults[self.fill_store] = 3
        if len(self._cluster.nodes) > 1 and self._cluster.nodes[1].prefix:
            faults[self.cut_network] = 4
        return faults

    # --- processes ---

    def kill_daemon(self, draw: random.Random) -> str:
        return _named("daemon killed", _signal(draw.choice(self._cluster.nodes).daemon(), signal.SIGKILL))

    def kill_mid_write(self, draw: random.Random) -> str:
        """Kill the daemon, with its supervisor threads, while it writes to the store."""
        node = draw.choice(self._cluster.nodes)
        deadline = time.monotonic() + MID_WRITE
        while time.monotonic() < deadline:
            if self._writes(node):
                return _named("daemon killed in the middle of a write", _signal(node.daemon(), signal.SIGKILL))
        return ""

    def terminate_daemon(self, draw: random.Random) -> str:
        return _named("daemon stopped by SIGTERM", _signal(draw.choice(self._cluster.nodes).daemon(), signal.SIGTERM))

    def freeze_daemon(self, draw: random.Random) -> str:
        daemon = draw.choice(self._cluster.nodes).daemon()
        if not _signal(daemon, signal.SIGSTOP):
            return ""
        time.sleep(STOPPED)
        return _named("daemon suspended for longer than its lease", _signal(daemon, signal.SIGCONT))

    def kill_template(self, draw: random.Random) -> str:
        found = draw.choice(self._cluster.nodes).templates()
        return _named("template killed", bool(found) and _signal(found[0], signal.SIGKILL))

    def kill_template_and_daemon(self, draw: random.Random) -> str:
        """Kill both; only the kernel can end the children then."""
        node = draw.choice(self._cluster.nodes)
        found = node.templates()
        if not found or not _signal(found[0], signal.SIGKILL):
            return ""
        return _named("template and daemon killed", _signal(node.daemon(), signal.SIGKILL))

    def kill_child(self, draw: random.Random) -> str:
        node = draw.choice(self._cluster.nodes)
        leaves = [child for template in node.templates() for child in _children(template)]
        if not leaves:
            return ""
        victim = draw.choice(leaves)
        self.did.killed.add(victim.pid)
        return _named("child killed", _signal(victim, signal.SIGKILL))

    # --- disk, clock, store, network ---

    def fill_state(self, draw: random.Random) -> str:
        node = draw.choice(self._cluster.nodes)
        _fill(node.state_dir / "filler", draw.uniform(1, 5))
        return (
            "disk of the state directory full" if self._cluster.postgres else "disk of state directory and store full"
        )

    def fill_store(self, draw: random.Random) -> str:
        assert self._cluster.postgres is not None
        _fill(self._cluster.postgres.folder / "filler", draw.uniform(1, 5))
        with self._cluster.server:
            self._cluster.restart_postgres()  # a full disk may have stopped it
        return "disk of Postgres full"

    def step_clock(self, draw: random.Random) -> str:
        offset = draw.choice([at for at in (-90, -20, -3, 0, 3, 20, 90) if at != self._offset])
        way = "forward" if offset > self._offset else "back"
        self.did.steps.add(offset - self._offset)
        self._offset = offset
        (self._cluster.nodes[0].folder / "faketime").write_text(f"{offset:+d}")
        return f"clock stepped {way}"

    def stop_postgres(self, draw: random.Random) -> str:
        assert self._cluster.postgres is not None
        longest = min(60.0, self._seconds * 0.4)
        seconds = draw.choice([s for s in (1, 2, 4, 8, 15, 30, 60) if s <= max(longest, 4)])
        with self._cluster.server:
            with suppress(subprocess.CalledProcessError):
                self._cluster.postgres.stop(draw.choice(["fast", "immediate"]))
            time.sleep(seconds)
            self._cluster.restart_postgres()
        return "Postgres stopped"

    def kill_backends(self, draw: random.Random) -> str:
        assert self._cluster.postgres is not None
        query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'maintd'"
        with suppress(psycopg.Error), psycopg.connect(self._cluster.postgres.url("postgres"), autocommit=True) as conn:
            conn.execute(query)
            return "Postgres backends killed"
        return ""

    def cut_network(self, draw: random.Random) -> str:
        cable = f"v{self._cluster.nodes[1].prefix[3]}"
        subprocess.run(["ip", "link", "set", cable, "down"], check=True)
        time.sleep(draw.choice([1, 3, STOPPED, STOPPED]))
        subprocess.run(["ip", "link", "set", cable, "up"], check=True)
        return "network of one node cut"

    # --- operators ---

    def reload_good(self, draw: random.Random) -> str:
        variant = draw.randrange(len(self._cluster.calendars))
        with self._calendars:
            self.did.changing.append(datetime.now(UTC))
            for node in self._cluster.nodes:
                node.calendar.write_text(self._cluster.calendars[variant])
            answers = [node.ask("POST", "/api/v1/reload", {}) for node in self._cluster.nodes]
            if all(answer is not None and answer.get("ok") for answer in answers):
                self.did.confirmed.append((variant, datetime.now(UTC)))
        return _named("calendar reloaded", any(answer is not None for answer in answers))

    def reload_bad(self, draw: random.Random) -> str:
        node = draw.choice(self._cluster.nodes)
        with self._calendars:
            before = node.calendar.read_text()
            node.calendar.write_text(before[: len(before) // 2] + "\n  : [oops")
            node.ask("POST", "/api/v1/reload", {})
            node.calendar.write_text(before)
        return "bad calendar"

    def load_other_calendar(self, draw: random.Random) -> str:
        node = draw.choice(self._cluster.nodes)
        with self._calendars:
            self.did.changing.append(datetime.now(UTC))
            node.calendar.write_text(draw.choice(self._cluster.calendars))
            return _named("another calendar on one node", node.ask("POST", "/api/v1/reload", {}) is not None)

    def trigger(self, draw: random.Random) -> str:
        """Send the same request, with one key, from four clients at once, to any of the nodes."""
        key = str(uuid.UUID(int=draw.getrandbits(128)))
        name = draw.choice(["steady", "mutating", "fixed-00", "fixed-01"])
        body = {"name": name, "by": "fault-injector", "why": WHY, "idempotency_key": key}
        nodes = [draw.choice(self._cluster.nodes) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda node: node.ask("POST", "/api/v1/runs", body), nodes))
        ids = {answer["id"] for answer in answers if answer is not None}
        if len(ids) > 1:
            self.did.duplicate_runs.append(key)
        if ids:
            self.did.accepted[key] = ids.pop()
        return _named("one trigger by several clients", key in self.did.accepted)

    def cancel(self, draw: random.Random) -> str:
        node = draw.choice(self._cluster.nodes)
        listed = node.ask("GET", "/api/v1/runs?state=running&state=queued&limit=20")
        if not listed or not listed["runs"]:
            return ""
        run = draw.choice(listed["runs"])
        asked = node.ask("POST", f"/api/v1/runs/{run['id']}/cancel", {"by": "fault-injector", "why": WHY})
        return _named("cancel", asked is not None)

    def pause(self, draw: random.Random) -> str:
        node = draw.choice(self._cluster.nodes)
        name = f"fixed-{draw.randint(0, 8):02}"
        self.did.paused.add(name)
        done = node.ask("POST", f"/api/v1/entries/{name}/pause", {"why": WHY, "by": "fault-injector"})
        time.sleep(draw.uniform(0.5, 3))
        while node.ask("POST", f"/api/v1/entries/{name}/unpause", {"by": "fault-injector"}) is None:
            node = draw.choice(self._cluster.nodes)
            time.sleep(0.5)
        return _named("pause and unpause", done is not None)

    def _writes(self, node: Node) -> bool:
        """Return whether the daemon is inside a writing transaction, as far as this is visible from outside."""
        daemon = node.daemon()
        if daemon is None:
            return False
        if self._cluster.postgres is None:
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
            psycopg.connect(self._cluster.postgres.url("postgres"), autocommit=True) as conn,
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
