"""Services restarted or replaced one at a time: drained before, behind a health gate, and none that must not stop."""

from __future__ import annotations

import socket
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from maintd.checks.docker.images import find_image
from maintd.checks.hints import command
from maintd.checks.limits import Limits
from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.store_place import StorePlace
from maintd.checks.services import replace
from maintd.checks.services.containers import NEW, OLD, ServiceContainer, of_project, read, read_all
from maintd.checks.services.drain import Drain, send, wait_until_drained
from maintd.checks.services.gate import GateLimits, Outcome, wait_until_healthy
from maintd.checks.services.order import in_order
from maintd.checks.services.protection import own_ids, protected
from maintd.checks.services.replace import Interrupted, find_interrupted
from maintd.clients import shell
from maintd.clients.docker import Docker, connect
from maintd.clients.program_output import OutputExcerpt
from maintd.errors import MaintdError, TargetError
from maintd.job.causes import Role
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus, Scalar
from maintd.model.target import DockerTarget
from maintd.units import duration_text

SERVICE = "{service}"
"""What a configured argv has in the place of the service's name."""

_LOGGED = 200_000  # bytes of a program's output, at its beginning and at its end


class RestartScope(Limits):
    """How a service is restarted, and when it counts as healthy."""

    docker: str | None = None
    """Name of the Docker target; by default the only one, or `main`."""
    protect: tuple[str, ...] = ()
    """Services that must never be stopped, besides maintd itself and what it needs."""
    http: dict[str, str] = {}
    """HTTP targets by service, for its health; by default the target with the name of the service, if there is one."""
    only_running: tuple[str, ...] = ()
    """Services without a health check and HTTP target, of which it is enough that they run."""
    gate: GateLimits = GateLimits()
    """When a service counts as healthy."""
    drain: dict[str, Drain] = {}
    """How services are drained before they are stopped, by service."""
    compose: tuple[str, ...] = ()
    """Program to run instead of requests to the engine, for each service: `[docker, compose, up, -d, "{service}"]`."""


class RolloutScope(RestartScope):
    """Which services, and in what order."""

    services: tuple[str, ...] = ()
    """Services; by default all of the target's project that are to run."""
    skip: tuple[str, ...] = ()
    """Services to exclude."""
    order: tuple[str, ...] = ()
    """Services to begin with, in this order; others come after those that they depend on, by compose's label."""
    stateful: tuple[str, ...] | None = None
    """Services to end with; by default those that write to a volume."""


class OwnPlace(BaseModel):
    """What maintd hands to a job about itself: where its store is."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    store: StorePlace | None = None


class NotHealthyError(TargetError):
    """A service did not become healthy; those after it are left as they are."""


@dataclass
class Rollout:
    """The work on the services of one engine. `done`: the containers that were restarted or replaced, in order.

    `http_targets`: a service is also as healthy as the HTTP target with its name; not so for copies of services.
    """

    ctx: Context
    engine: Docker
    target: DockerTarget
    scope: RolloutScope
    done: list[ServiceContainer] = field(default_factory=list)
    containers: list[ServiceContainer] = field(default_factory=list)
    http_targets: bool = True

    def read(self) -> list[ServiceContainer]:
        """Read all containers of the engine. Raises TargetError."""
        self.containers = read_all(self.engine)
        return self.containers

    def without_protected(
        self, chosen: Sequence[ServiceContainer], store: StorePlace | None, named: Container[str]
    ) -> list[ServiceContainer]:
        """The containers that may be stopped.

        One that must not be stopped fails the job before any change if its service is among the `named`; else it is
        left out.
        """
        own, protect = own_ids(), self.scope.protect
        reasons = protected(self.containers, self.target.url, store, own, socket.gethostname(), protect)
        free = []
        for item in chosen:
            reason = reasons.get(item.id)
            if reason is None:
                free.append(item)
            elif item.service in named:
                hint = "restart it by hand, or by a program outside of this stack"
                self.ctx.require(f"{item.label}: may be stopped", f"no: {reason}", equals="yes", hint=hint)
            else:
                self.ctx.passed(f"{item.label}: left as it is", reason, expected="not stopped by maintd")
        return free

    def ordered(self, chosen: Sequence[ServiceContainer]) -> list[ServiceContainer]:
        """The containers in the order in which they are restarted. Raises JobError for a circle of dependencies."""
        depends_on: dict[str, set[str]] = {}
        for item in chosen:
            depends_on.setdefault(item.service, set()).update(item.depends_on)
        stateful = self.scope.stateful
        last = {item.service for item in chosen if item.stateful} if stateful is None else set(stateful)
        places = {name: place for place, name in enumerate(in_order(depends_on, last, self.scope.order))}
        found = sorted(chosen, key=lambda item: (places[item.service], item.state.number, item.name))
        self.ctx.log(f"{self.engine.name}: in this order: {', '.join(item.label for item in found)}")
        return found

    def one_by_one(self, work: Sequence[ServiceContainer], act: Callable[[ServiceContainer], None], done: str) -> None:
        """Do it for each; after a service that is not healthy the rest stays as it is, and is named."""
        for place, item in enumerate(self.ctx.track(work, unit="container")):
            try:
                act(item)
            except NotHealthyError:
                rest = ", ".join(other.label for other in work[place + 1 :])
                if rest:
                    hint = f"find out why {item.label} failed, then run this job for them"
                    self.ctx.fail("services after it", f"left as they are: {rest}", expected=done, hint=hint)
                return

    # --- what earlier runs left ---

    def interrupted(self) -> list[Interrupted]:
        """The replacements in the target's project that have not ended."""
        return find_interrupted(of_project(self.containers, self.target.project))

    def recover(self, found: Interrupted, *, back: bool) -> None:
        """End a replacement that a run has left: swap back; without `back`, finish it if the new container is healthy.

        Raises NotHealthyError when the service is not healthy afterwards.
        """
        ctx, name, check = self.ctx, self.engine.name, f"{found.label}: replacement that was interrupted"
        if found.foreign:
            ctx.fail(check, found.foreign, expected="none", hint="rename or remove one of them by hand")
            raise NotHealthyError(f"{name}: {found.foreign}", "rename or remove one of them by hand", cause="conflict")
        if ctx.dry_run:
            ctx.check(check, "to be ended", equals="none", severity=CheckStatus.WARN, hint="run it without --dry-run")
            return
        healthy = False
        if found.in_place and found.live is not None and not back:
            outcome = self._wait(found.live)
            healthy = not outcome.problem
        if healthy:
            with self._reported(found.label):
                self._remove_old(found.name)
            ctx.check(check, "finished", equals="none", severity=CheckStatus.WARN, hint="see the log of the run before")
            return
        self._swap_back(found.label, found.name)
        ctx.check(check, "swapped back", equals="none", severity=CheckStatus.WARN, hint="see the log of the run before")

    # --- one container ---

    def restart(self, item: ServiceContainer, argv: Sequence[str] = ()) -> None:
        """Restart one container, or run a program for it, and wait for its health.

        Raises NotHealthyError, and TargetError.
        """
        with self._reported(item.label), self._drained(item):
            if argv:
                self.run_program(argv, item.service)
            else:
                with self.ctx.change("restart", f"{self.engine.name}: {item.name}", container=item.id) as allowed:
                    if not allowed:
                        return
                    replace.restart(self.engine, item)
                    now = read(self.engine, item.id)
                    if now is None or now.state.started_at in (None, item.state.started_at):
                        allowed.failed(f"{item.name} was not started again")
            self._require_healthy(item, argv)

    def start(self, item: ServiceContainer) -> None:
        """Start a container that does not run, and wait for its health. Raises NotHealthyError, and TargetError."""
        with self._reported(item.label):
            with self.ctx.change("start", f"{self.engine.name}: {item.name}", container=item.id) as allowed:
                if not allowed:
                    return
                replace.start(self.engine, item.id)
            self._require_healthy(item)

    def recreate(self, item: ServiceContainer, image: str, image_id: str, argv: Sequence[str] = ()) -> None:
        """Replace one container by one from this image; swap back when it does not become healthy.

        Raises NotHealthyError, and TargetError.
        """
        ctx = self.ctx
        with self._reported(item.label), self._drained(item):
            if argv:
                self.run_program(argv, item.service)
                self._require_healthy(item, argv, image_id)
                return
            details: dict[str, Scalar] = {"before": item.state.image_id, "after": image_id, "container": item.id}
            problem = ""
            try:
                with ctx.change("recreate", f"{self.engine.name}: {item.name}", bytes=0, **details) as allowed:
                    if not allowed:
                        return
                    with ctx.phase(f"create the new {item.name} from {image}"):
                        new_id = replace.create(self.engine, item, image, image_id)
                    allowed.observed(new=new_id)
                    with ctx.phase(f"put the new {item.name} in place"):
                        replace.put_in_place(self.engine, item, new_id)
                    outcome = self._wait(item, new_id)
                    problem = outcome.problem
                    if problem:
                        allowed.failed(f"{item.label} did not become healthy: {problem}")
            except TargetError as error:
                ctx.report_error(f"{item.label}: recreated", error, expected="recreated", role=Role.WORK)
                if self._is_changed(item):
                    self._swap_back(item.label, item.name)
                raise NotHealthyError(error.message, error.hint, cause=error.cause) from error
            if problem:
                hint = f"see its log: {command('docker', 'logs', item.name)}"
                ctx.fail(f"{item.label}: new container is healthy", problem, expected="healthy", hint=hint)
                self._swap_back(item.label, item.name)
                text = f"{item.label} did not become healthy: {problem}; swapped back"
                raise NotHealthyError(text, "correct the image or its configuration", cause="failed")
            self._remove_old(item.name)
            self._report_healthy(item, outcome)
        self.done.append(item)

    def run_program(self, argv: Sequence[str], service: str) -> None:
        """Run the configured program for one service. Raises TargetError when it fails."""
        words = shell.Command(tuple(word.replace(SERVICE, service) for word in argv), None, {}, "", shell=False)
        shell.resolve_argv(words)
        excerpt = OutputExcerpt(self.ctx.log, _LOGGED, _LOGGED)
        with self.ctx.change("run", words, cwd=str(Path.cwd())) as allowed:
            if not allowed:
                return
            try:
                result = shell.run(words, self.ctx.remaining * 0.9, lambda _, line: excerpt.line(line))
            finally:
                excerpt.end()
            if result.timed_out:
                text = f"{words}: stopped after {duration_text(result.duration)}"
                raise TargetError(text, "find out what it waited for", cause="timed_out")
            if result.signal or result.exit_code:
                ended = f"killed by {result.signal}" if result.signal else f"exit code {result.exit_code}"
                raise TargetError(f"{words}: {ended}", "see what it printed in the log of this run")

    # --- after all of them ---

    def report_all(self) -> None:
        """Report the health of what was restarted once more, and of the services that depend on it."""
        changed = {item.service for item in self.done}
        if not changed:
            return
        with self.ctx.phase("check what was restarted, and what depends on it"):
            names = {item.name for item in self.done}
            for item in of_project(self.read(), self.target.project):
                depends = changed & set(item.depends_on)
                if item.aside or item.state.state in ("created", "exited") or not (item.name in names or depends):
                    continue
                outcome = self._wait(item)
                hint = f"see its log: {command('docker', 'logs', item.name)}"
                name = f"{item.label}: healthy at the end"
                if outcome.problem:
                    self.ctx.fail(name, outcome.problem, expected="healthy", hint=hint)
                elif outcome.shown:
                    self.ctx.passed(name, f"by {outcome.shown}", expected="healthy")

    # --- parts ---

    @contextmanager
    def _drained(self, item: ServiceContainer) -> Iterator[None]:
        """Drain a service before the block, and let it resume after it, whatever happened in it."""
        drain = self.scope.drain.get(item.service)
        if drain is None:
            yield
            return
        ctx = self.ctx
        try:
            with ctx.phase(f"drain {item.label}"):
                if drain.request is not None:
                    with ctx.change("drain", f"{item.label}: {drain.request.method} {drain.request.path}") as allowed:
                        if allowed:
                            send(ctx, drain.request)
                if not ctx.dry_run:
                    seen = wait_until_drained(ctx, drain)
                    ctx.passed(f"{item.label}: drained", seen, expected="nothing left")
            yield
        finally:
            if drain.resume is not None:
                with ctx.change("resume", f"{item.label}: {drain.resume.method} {drain.resume.path}") as allowed:
                    if allowed:
                        send(ctx, drain.resume)

    @contextmanager
    def _reported(self, label: str) -> Iterator[None]:
        """Report an error of the work on one service, and raise it: the services after it are left as they are."""
        with self.ctx.phase(f"{self.engine.name}: {label}"):
            try:
                yield
            except NotHealthyError:
                raise
            except MaintdError as error:
                name = f"{label}: restarted"
                self.ctx.report_error(name, error, expected="restarted, and healthy", role=Role.WORK)
                raise NotHealthyError(error.message, error.hint, cause=getattr(error, "cause", "failed")) from error

    def _wait(self, item: ServiceContainer, container_id: str | None = None) -> Outcome:
        target = self.scope.http.get(item.service)
        if target is None and self.http_targets and item.service in self.ctx.targets.http:
            target = item.service
        with self.ctx.phase(f"wait until {item.label} is healthy"):
            return wait_until_healthy(self.ctx, self.engine, container_id or item.id, target, self.scope.gate)

    def _require_healthy(self, item: ServiceContainer, argv: Sequence[str] = (), image_id: str | None = None) -> None:
        """Wait for the health of a container, found again by its name if a program may have created another."""
        if self.ctx.dry_run:
            return
        if argv:
            found = read(self.engine, item.name)
            if found is None:
                text = f"{item.name} does not exist after {argv[0]}"
                raise TargetError(text, "see what it printed in the log of this run", cause="not_found")
            if image_id is not None and found.state.image_id != image_id:
                text = f"{item.name} runs {found.state.image_id}, not {image_id}, after {argv[0]}"
                raise TargetError(text, "pin the image in the compose file", cause="failed")
            item = found
        outcome = self._wait(item)
        if outcome.problem:
            hint = f"see its log: {command('docker', 'logs', item.name)}"
            self.ctx.fail(f"{item.label}: healthy", outcome.problem, expected="healthy", hint=hint)
            raise NotHealthyError(f"{item.label} did not become healthy: {outcome.problem}", hint, cause="failed")
        self._report_healthy(item, outcome)
        self.done.append(item)

    def _report_healthy(self, item: ServiceContainer, outcome: Outcome) -> None:
        name = f"{item.label}: healthy"
        if outcome.shown:
            self.ctx.passed(name, f"by {outcome.shown}", expected="healthy")
        elif item.service in self.scope.only_running:
            self.ctx.passed(name, "it runs", expected="running, as the params allow")
        else:
            hint = f"give it a health check, an HTTP target in http: {{{item.service}: …}}, or add it to only_running"
            self.ctx.unknown(name, "it runs, and nothing shows its health", expected="healthy", hint=hint)

    def _remove_old(self, name: str) -> None:
        with self.ctx.change("remove container", f"{self.engine.name}: {name}{OLD}") as allowed:
            if allowed:
                replace.finish(self.engine, name)

    def _swap_back(self, label: str, name: str) -> None:
        """Restore the container from before, and wait for its health. Raises NotHealthyError."""
        ctx, check = self.ctx, f"{label}: swapped back"
        hint = f"compare: {command('docker', 'ps', '-a', '--filter', f'name={name}')}"
        try:
            with ctx.phase(f"swap {name} back"):
                with ctx.change("swap back", f"{self.engine.name}: {name}") as allowed:
                    if not allowed:
                        return
                    restored = replace.swap_back(self.engine, name)
                found = read(self.engine, restored)
                outcome = Outcome("it was removed") if found is None else self._wait(found)
        except TargetError as error:
            ctx.report_error(check, error, expected="running, and healthy", role=Role.WORK)
            raise NotHealthyError(error.message, error.hint or hint, cause=error.cause) from error
        if outcome.problem:
            ctx.fail(check, outcome.problem, expected="running, and healthy", hint=hint)
            raise NotHealthyError(f"{label} was swapped back, and is not healthy: {outcome.problem}", hint)
        ctx.passed(check, f"by {outcome.shown}" if outcome.shown else "it runs", expected="running, and healthy")

    def _is_changed(self, item: ServiceContainer) -> bool:
        """Whether a replacement that failed has changed something; true if the engine does not answer."""
        try:
            aside = any(read(self.engine, f"{item.name}{end}") is not None for end in (OLD, NEW))
            now = read(self.engine, item.name)
        except TargetError:
            return True
        return (
            aside or now is None or now.state.started_at != item.state.started_at or now.state.state != item.state.state
        )


@contextmanager
def begin_rollout(ctx: Context, scope: RolloutScope, done: str) -> Iterator[Rollout]:
    """The work on the chosen Docker target, its containers read; an error of it fails the job. `done`: `recreated`."""
    target = ctx.target("docker", scope.docker)
    name = next(name for name, found in ctx.targets.docker.items() if found == target)
    with (
        isolate_errors(ctx, f"{name}: services {done}", expected=done, role=Role.WORK),
        connect(target, name=name) as engine,
    ):
        rollout = Rollout(ctx, engine, target, scope)
        with ctx.phase(f"{name}: list the containers"):
            rollout.read()
        yield rollout


def reference_of(engine: Docker, image_id: str, candidates: Sequence[str]) -> str:
    """The first of these names that the engine has for the image; without one its id. Raises TargetError."""
    for name in candidates:
        found = find_image(engine, name)
        if found is not None and found.id == image_id:
            return name
    return image_id
