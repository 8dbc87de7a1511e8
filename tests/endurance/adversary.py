"""Strikes at random instants. Every fault is counted, and ends by itself or by `World.heal`."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psutil
import psycopg

from endurance.world import LEASE, Node, World

STOPPED = LEASE + 3  # longer than a lease


class Adversary:
    """Draws faults from the seed and commits them, one after the other, in the calling thread."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._draw = random.Random(seed + 2)
        self.done: Counter[str] = Counter()
        self.accepted: dict[str, int] = {}  # idempotency key → run, of triggers that a daemon said yes to
        self.twofold: list[str] = []  # keys for which two runs were named
        self._faults = self._weighted()

    def strike_until(self, deadline: float, told: Callable[[str], None]) -> None:
        """A fault every second or two until the deadline (time.monotonic)."""
        names = list(self._faults)
        weights = [self._faults[name][1] for name in names]
        while time.monotonic() < deadline:
            name = self._draw.choices(names, weights)[0]
            if self._faults[name][0]():
                self.done[name] += 1
                told(name)
            time.sleep(self._draw.uniform(0.2, 2.0))

    def _weighted(self) -> dict[str, tuple[Callable[[], bool], int]]:
        faults: dict[str, tuple[Callable[[], bool], int]] = {
            "daemon killed": (self.kill_daemon, 5),
            "daemon stopped politely": (self.terminate_daemon, 2),
            "daemon frozen longer than its lease": (self.freeze_daemon, 2),
            "template or keeper killed": (self.kill_below, 4),
            "child killed": (self.kill_child, 6),
            "disk filled": (self.fill_disk, 3),
            "calendar reloaded": (self.reload_good, 3),
            "bad calendar": (self.reload_bad, 2),
            "trigger by several clients": (self.trigger, 8),
            "cancel": (self.cancel, 6),
            "pause and unpause": (self.pause, 2),
        }
        if (self._world.nodes[0].folder / "faketime").exists():
            faults["clock stepped"] = (self.step_clock, 4)
        if self._world.postgres is not None:
            faults["Postgres stopped"] = (self.stop_postgres, 3)
            faults["Postgres backends killed"] = (self.kill_backends, 4)
        if len(self._world.nodes) > 1:
            faults["another calendar on one node"] = (self.differ, 2)
            faults["network cut"] = (self.cut_network, 2)
        return faults

    def _node(self) -> Node:
        return self._draw.choice(self._world.nodes)

    # --- processes ---

    def kill_daemon(self) -> bool:
        return _signal(self._node().daemon(), signal.SIGKILL)

    def terminate_daemon(self) -> bool:
        return _signal(self._node().daemon(), signal.SIGTERM)

    def freeze_daemon(self) -> bool:
        node = self._node()
        daemon = node.daemon()
        if not _signal(daemon, signal.SIGSTOP):
            return False
        time.sleep(STOPPED)
        return _signal(daemon, signal.SIGCONT)

    def kill_below(self) -> bool:
        processes = self._node().below()
        return bool(processes) and _signal(self._draw.choice(processes), signal.SIGKILL)

    def kill_child(self) -> bool:
        leaves = [process for process in self._node().below() if not _has_children(process)]
        return bool(leaves) and _signal(self._draw.choice(leaves), signal.SIGKILL)

    # --- disk, clock, store, network ---

    def fill_disk(self) -> bool:
        filler = self._node().state_dir / "filler"
        with suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(b"\0" * 1_000_000)
        time.sleep(self._draw.uniform(1, 5))
        filler.unlink(missing_ok=True)
        return True

    def step_clock(self) -> bool:
        by = self._draw.choice([-90, -20, -3, 3, 20, 90])
        (self._world.nodes[0].folder / "faketime").write_text(f"{by:+d}")
        return True

    def stop_postgres(self) -> bool:
        assert self._world.postgres is not None
        with suppress(subprocess.CalledProcessError):
            self._world.postgres.stop(self._draw.choice(["fast", "immediate"]))
            time.sleep(self._draw.choice([1, 2, 4, 8, 15]))
        with suppress(subprocess.CalledProcessError):
            self._world.postgres.start()
        return True

    def kill_backends(self) -> bool:
        assert self._world.postgres is not None
        query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'maintd'"
        with suppress(psycopg.Error), psycopg.connect(self._world.postgres.url("postgres"), autocommit=True) as conn:
            conn.execute(query)
            return True
        return False

    def cut_network(self) -> bool:
        node = self._world.nodes[1]
        if not node.prefix:
            return False
        cable = f"v{node.prefix[3]}"
        subprocess.run(["ip", "link", "set", cable, "down"], check=True)
        time.sleep(self._draw.choice([1, 3, STOPPED]))
        subprocess.run(["ip", "link", "set", cable, "up"], check=True)
        return True

    # --- operators ---

    def reload_good(self) -> bool:
        fresh = self._draw.choice(self._world.calendars)
        for node in self._world.nodes:
            node.calendar.write_text(fresh)
        return any(node.ask("POST", "/api/v1/reload", {}) is not None for node in self._world.nodes)

    def reload_bad(self) -> bool:
        node = self._node()
        before = node.calendar.read_text()
        node.calendar.write_text(before[: len(before) // 2] + "\n  : [oops")
        node.ask("POST", "/api/v1/reload", {})
        node.calendar.write_text(before)
        return True

    def differ(self) -> bool:
        node = self._node()
        node.calendar.write_text(self._draw.choice(self._world.calendars))
        return node.ask("POST", "/api/v1/reload", {}) is not None

    def trigger(self) -> bool:
        """The same request, with one key, from several clients at once, to any of the nodes."""
        key = str(uuid.UUID(int=self._draw.getrandbits(128)))
        name = self._draw.choice(["steady", "mutating", "fixed-00", "fixed-01"])
        body = {"name": name, "by": "adversary", "why": "endurance", "idempotency_key": key}
        nodes = [self._node() for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda node: node.ask("POST", "/api/v1/runs", body), nodes))
        ids = {answer["id"] for answer in answers if answer is not None}
        if len(ids) > 1:
            self.twofold.append(key)
        if ids:
            self.accepted[key] = ids.pop()
        return key in self.accepted

    def cancel(self) -> bool:
        node = self._node()
        listed = node.ask("GET", "/api/v1/runs?state=running&state=queued&limit=20")
        if not listed or not listed["runs"]:
            return False
        run = self._draw.choice(listed["runs"])
        return node.ask("POST", f"/api/v1/runs/{run['id']}/cancel", {"by": "adversary", "why": "endurance"}) is not None

    def pause(self) -> bool:
        node = self._node()
        name = f"fixed-{self._draw.randint(0, 8):02}"
        done = node.ask("POST", f"/api/v1/entries/{name}/pause", {"why": "endurance", "by": "adversary"})
        time.sleep(self._draw.uniform(0.5, 3))
        node.ask("POST", f"/api/v1/entries/{name}/unpause", {"by": "adversary"})
        return done is not None


def _signal(process: psutil.Process | None, number: signal.Signals) -> bool:
    if process is None:
        return False
    with suppress(psutil.Error, ProcessLookupError):
        os.kill(process.pid, number)
        return True
    return False


def _has_children(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.children())
    return True
