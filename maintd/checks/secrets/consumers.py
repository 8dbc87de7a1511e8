"""The services that read a secret at their start: restarted or recreated one at a time, each behind its health."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from maintd.checks.requirements.store_place import StorePlace
from maintd.checks.services.containers import ServiceContainer, chosen
from maintd.checks.services.protection import own_ids, protected
from maintd.checks.services.replace import sharing_namespace
from maintd.checks.services.rollout import RestartScope, Rollout, RolloutScope, reference_of
from maintd.clients.docker import connect
from maintd.errors import TargetError
from maintd.job.context import Context


class Consumers:
    """The services of one engine; a context manager that connects to it when it is first needed."""

    def __init__(self, ctx: Context, scope: RestartScope, store: StorePlace | None) -> None:
        self._ctx = ctx
        self._scope = RolloutScope(**{name: getattr(scope, name) for name in RestartScope.model_fields})
        self._store = store
        self.gate = scope.gate
        self._opened = ExitStack()
        self._rollout: Rollout | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._opened.close()

    def require(self, services: Sequence[str], *, recreate: bool) -> list[str]:
        """The names of the containers that run now, which will be restarted.

        Raises TargetError when one must not be, or is not healthy now.
        """
        if not services:
            return []
        rollout, found = self._find(services)
        reasons = protected(
            rollout.containers, rollout.target.url, self._store, own_ids(), socket.gethostname(), self._scope.protect
        )
        left = {item.name for item in rollout.interrupted()}
        for item in found:
            if item.id in reasons:
                hint = "restart it by hand, or by a program outside of this stack"
                raise TargetError(
                    f"{item.label} may not be restarted: {reasons[item.id]}", hint, cause="not_configured"
                )
            if item.state.health == "unhealthy" or item.state.state not in ("running", "exited", "created"):
                raise TargetError(f"{item.label} is {item.state.health or item.state.state}", "repair it first")
            if item.aside or item.name in left:
                hint = "run: maintd trigger services_recreate -p back=true"
                raise TargetError(f"{item.label}: a replacement was interrupted", hint, cause="conflict")
            if recreate and (item.removed_at_its_end or sharing_namespace(item, rollout.containers)):
                hint = "recreate it by a program: set the param compose"
                raise TargetError(f"{item.label} cannot be replaced by another container", hint, cause="not_configured")
        return [item.name for item in found if item.state.state == "running"]

    def end_interrupted(self, services: Sequence[str]) -> None:
        """End what a run that was killed while it recreated one of the services has left. Raises TargetError."""
        if not services:
            return
        rollout, _ = self._find(services)
        for found in rollout.interrupted():
            item = found.live or found.old or found.new
            if item is not None and item.service in services:
                rollout.recover(found, back=False)
        rollout.read()

    def restart(self, services: Sequence[str], names: Sequence[str], *, recreate: bool) -> None:
        """Let those containers of the services that have these names read their files again, one after the other.

        By name and not by what runs now: one that ended because of a new value is to run with the old one.

        Raises TargetError, such as NotHealthyError; then those after it have the old value.
        """
        if not services:
            return
        rollout, found = self._find(services)
        for item in found:
            if item.name not in names:
                continue
            if recreate:
                image = str((item.raw.get("Config") or {}).get("Image") or item.state.image_id)
                image = reference_of(rollout.engine, item.state.image_id, (image,))  # the tag may have moved on
                rollout.recreate(item, image, item.state.image_id, self._scope.compose)
            else:
                rollout.restart(item, self._scope.compose)

    def _find(self, services: Sequence[str]) -> tuple[Rollout, list[ServiceContainer]]:
        rollout = self._begin()
        rollout.read()
        order = {name: place for place, name in enumerate(services)}
        found = chosen(rollout.containers, rollout.target, services, ())
        return rollout, sorted(found, key=lambda item: (order[item.service], item.state.number))

    def _begin(self) -> Rollout:
        if self._rollout is None:
            target = self._ctx.target("docker", self._scope.docker)
            name = next(name for name, found in self._ctx.targets.docker.items() if found == target)
            engine = self._opened.enter_context(connect(target, name=name))
            self._rollout = Rollout(self._ctx, engine, target, self._scope)
        return self._rollout
