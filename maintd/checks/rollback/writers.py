"""Services that write to a database, stopped while it is replaced, and started afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from maintd.checks.requirements.store_place import StorePlace
from maintd.checks.services import replace
from maintd.checks.services.containers import ServiceContainer, chosen, read
from maintd.checks.services.rollout import Rollout, RolloutScope
from maintd.clients.docker import connect
from maintd.errors import TargetError
from maintd.job.context import Context

_STOPPED = ("created", "exited", "dead")


class Writers:
    """The services by name, on the engine of a scope. Without names there is nothing to do, and no engine is needed."""

    def __init__(self, ctx: Context, scope: RolloutScope, names: Sequence[str], store: StorePlace | None) -> None:
        """`store`: where maintd's own store is, whose service is never stopped."""
        self._ctx = ctx
        self._scope = scope
        self._names = names
        self._store = store

    def stop(self) -> None:
        """Stop them, and see that they do not run. Raises TargetError, also for one that must not be stopped."""
        if not self._names:
            return
        with self._rollout() as (rollout, items), self._ctx.phase(f"stop {', '.join(self._names)}"):
            free = rollout.without_protected(items, self._store, self._names)
            for item in reversed(rollout.ordered(free)):
                if item.state.state not in _STOPPED:
                    self._stop(rollout, item)

    def _stop(self, rollout: Rollout, item: ServiceContainer) -> None:
        place = f"{rollout.engine.name}: {item.name}"
        with self._ctx.change("stop", place, container=item.id) as allowed:
            if not allowed:
                return
            replace.stop(rollout.engine, item)
            now = read(rollout.engine, item.id)
            if now is not None and now.state.state not in _STOPPED:
                raise TargetError(
                    f"{place} is {now.state.state} after it was stopped", "stop it by hand", cause="failed"
                )
        self._ctx.passed(f"{item.label}: stopped", "stopped", expected="stopped")

    def start(self) -> None:
        """Start those that do not run, also by an earlier run, and wait for their health. Raises TargetError."""
        if not self._names:
            return
        with self._rollout() as (rollout, items), self._ctx.phase(f"start {', '.join(self._names)}"):
            for item in rollout.ordered(items):
                if item.state.state in _STOPPED:
                    rollout.start(item)
            rollout.report_all()

    @contextmanager
    def _rollout(self) -> Iterator[tuple[Rollout, list[ServiceContainer]]]:
        target = self._ctx.target("docker", self._scope.docker)
        name = next(name for name, found in self._ctx.targets.docker.items() if found == target)
        with connect(target, name=name) as engine:
            rollout = Rollout(self._ctx, engine, target, self._scope)
            items = chosen(rollout.read(), target, self._names, ())
            yield rollout, [item for item in items if not item.aside]
