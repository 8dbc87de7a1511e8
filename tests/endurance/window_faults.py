"""The faults of a maintenance window: what happens at which boundary, and how it is caused there."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import suppress

from sqlalchemy import update
from support.servers.refusing_engine import PassingRequest
from support.window_stack import ENTRY, SERVICES, WindowStack

from endurance.window_nodes import WindowNode, kill_process
from maintd.errors import StoreUnavailableError
from maintd.model.run import Run, StepState
from maintd.store import Store
from maintd.store.tables import runs

SECOND = SERVICES[1]
"""Where the faults of single services happen: one before it is done already, and one after it is not."""

_REQUESTS = ("halt", "unhalt", "silence", "end silence", "test alert", "restart")
_STEPS = ("health_check", "stability_check", "backup", "rollback_manifest", "stability_check-2")
_RESTART = re.compile(r"POST \S*/containers/([0-9a-f]+)/restart")
_WORDS = {"POST /api/v2/silences": "silence", "POST /api/v2/alerts": "test alert", "DELETE": "end silence"}


def all_faults() -> list[str]:
    """Each fault at each boundary where it means something; the first is none."""
    found = ["none"]
    found += [f"{who} {when} {act}" for act in _REQUESTS for when in ("before", "after") for who in ("daemon", "job")]
    found += [f"{what} {when} {act}" for act in _REQUESTS for when in ("before", "after") for what in ("error", "hang")]
    found += [f"{who} in {step}" for step in _STEPS for who in ("daemon", "job")]
    found += [f"daemon {when} {gate}" for gate in ("gate", "gate-2") for when in ("at", "passed")]
    found += ["postgres in backup", "postgres passed gate-2", "postgres in stability_check-2"]
    found += ["engine in rollback_manifest", "engine before restart", "engine after restart", "engine passed gate-2"]
    found += ["end at gate", "end at gate-2", "end before restart", "end in stability_check-2"]
    day = ("at gate-2", "in backup", "before restart", "in stability_check-2", "before unhalt")
    return [*found, *(f"day {point}" for point in day), "day ahead"]


class FaultInjector:
    """Causes one fault, once, when its boundary is reached. Boundaries are reported by the servers of the stack, by
    the person who decides at the gates, and by a thread that watches the steps in the store."""

    def __init__(self) -> None:
        self.fault = "none"
        self.happened = False
        self.engine_away = False
        self.restarts: list[str] = []  # ids of containers whose restart reached the engine
        self.on_unhalt: Callable[[], None] = lambda: None
        self._stack: WindowStack | None = None
        self._node: WindowNode | None = None
        self._store: Store | None = None
        self._postgres_away = False
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._over = threading.Event()
        self._watching: threading.Thread | None = None

    def begin(self, fault: str, stack: WindowStack, node: WindowNode, store: Store) -> None:
        """Arm a fault for the run that is triggered next."""
        self._stack, self._node, self._store = stack, node, store
        self.fault, self.happened = fault, False
        self.restarts.clear()
        self._released.clear()
        self._over.clear()
        for name, service in stack.services.items():
            service.at = self._of_service(name)
        stack.alerts.at = self._of_alerts
        last = store.history.runs(entry=ENTRY, limit=1)
        self._watching = threading.Thread(target=self._watch_steps, args=(last[0].id if last else 0,), daemon=True)
        self._watching.start()

    def end(self) -> None:
        """End what lasts: what was stopped is started again, and what hangs goes on."""
        self._over.set()
        self._released.set()
        if self._watching is not None:
            self._watching.join()
        self.engine_away = False
        assert self._stack is not None
        if self._postgres_away:
            self._stack.database.start()
            self._postgres_away = False
        self._stack.alerts.released.set()
        self._stack.alerts.released.clear()

    # --- where a boundary is reached ---

    def reached(self, point: str) -> str:
        """The boundary was reached: cause the fault if it is the one; how a request is answered then."""
        with self._lock:
            if self.happened or self.fault == "none" or self.fault.partition(" ")[2] != point:
                return ""
            self.happened = True
        return self._cause(self.fault.partition(" ")[0], point.partition(" ")[0])

    def engine(self, request: PassingRequest) -> None:
        """A request to the engine."""
        found = _RESTART.match(request.line)
        if self.engine_away:
            return
        if found is None:
            request.pass_on()
            return
        second = len(self.restarts) == 1
        answer = self.reached("before restart") if second else ""
        if answer == "error before":
            body = b'{"message":"boom"}'
            head = f"HTTP/1.1 500 Error\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            request.client.sendall(head.encode() + body)
            return
        if answer or self.engine_away:
            self._wait_if_hanging(answer)
            return
        self.restarts.append(found[1])
        if not second or not self.fault.endswith("after restart"):
            request.pass_on()
            return
        with suppress(OSError):
            request.pass_on(answered=False) if self.fault.split()[0] != "hang" else self._pass_on_and_hang(request)
        self.reached("after restart")

    def _pass_on_and_hang(self, request: PassingRequest) -> None:
        assert self._stack is not None
        container = self._stack.project.client.containers.get(self.restarts[-1])
        container.restart(timeout=1)
        self.reached("after restart")
        self._released.wait(600)

    def _of_service(self, name: str) -> Callable[[str], str]:
        def at(point: str) -> str:
            if point == "before unhalt":
                self.on_unhalt()
            return self.reached(point) if name == SECOND else ""

        return at

    def _of_alerts(self, point: str) -> str:
        when, method, path = point.split()
        act = _WORDS.get(f"{method} {path}") or _WORDS[method]
        return self.reached(f"{when} {act}")

    def _watch_steps(self, last: int) -> None:
        _, _, point = self.fault.partition(" ")
        if not point.startswith("in "):
            return
        while not self._over.wait(0.01):
            run = self._newest()
            if run is None or run.id <= last:
                continue
            if self._running_pid(run, point.removeprefix("in ")):
                self.reached(point)
                return

    # --- what happens there ---

    def _cause(self, kind: str, when: str) -> str:
        assert self._stack is not None and self._node is not None
        if kind == "daemon":
            self._node.kill()
            return f"hang {when}"  # whoever asked is dead
        if kind == "job":
            run = self._newest()
            pid = None if run is None else self._running_pid(run)
            assert pid is not None, "no job runs that could be killed"
            kill_process(pid)
            return f"hang {when}"
        if kind in ("error", "hang"):
            return f"{kind} {when}"
        if kind == "postgres":
            self._postgres_away = True
            self._stack.database.stop("immediate")
        elif kind == "engine":
            self.engine_away = True
        elif kind == "day":
            for service in self._stack.services.values():
                service.pass_midnight()
        elif kind == "end":
            self._let_window_end(when)
            return "hang before"
        return ""

    def _let_window_end(self, when: str) -> None:
        """At a gate, its time is over. Elsewhere the window was moved when the gate before it was passed."""
        if when == "at":
            assert self._store is not None
            run, now = self._newest(), self._store.now()
            assert run is not None
            self._store.write(
                lambda conn: conn.execute(update(runs).where(runs.c.id == run.id).values(waiting_until=now))
            )

    def _wait_if_hanging(self, answer: str) -> None:
        if answer.startswith("hang"):
            self._released.wait(600)

    def _newest(self) -> Run | None:
        assert self._store is not None
        with suppress(StoreUnavailableError):
            found = self._store.history.runs(entry=ENTRY, limit=1)
            return self._store.history.run(found[0].id) if found else None
        return None

    @staticmethod
    def _running_pid(run: Run, step: str = "") -> int | None:
        """The process of the attempt that runs, of this step."""
        for each in run.steps:
            if each.state is StepState.RUNNING and step in ("", each.name) and each.attempts:
                last = each.attempts[-1]
                return last.pid if last.finished_at is None else None
        return None
