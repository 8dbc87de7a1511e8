"""A compose project with real containers of busybox, and an engine that is lost after a number of changes."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from support.job_runs import JobResult, run_job
from support.servers.docker import DockerEngine
from support.servers.refusing_engine import PassingRequest, passing_through

COMMAND = ["sh", "-c", 'test -z "$BROKEN" && exec sleep 100000']
"""Ends at once in an image with BROKEN in its environment."""
NEVER_HEALTHY = 'HEALTHCHECK --interval=1h CMD ["false"]'
"""Of that image: else an engine on a busy machine shows the container as running, so as in order, before it ends."""

GOOD, NEWER, BROKEN = "shop/app:1", "shop/app:2", "shop/app:3"
WINDOW = Path(__file__).parents[2] / "deploy/cli-trading.window.yaml"


@dataclass
class Project:
    """Containers with the labels of compose. `network`: a bridge network that the test process reaches."""

    engine: DockerEngine
    client: Any
    name: str
    network: str

    def start(
        self,
        service: str,
        image: str = GOOD,
        *,
        depends_on: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Any:
        """Run the container of a service."""
        own = {"com.docker.compose.project": self.name, "com.docker.compose.service": service}
        own |= {"com.docker.compose.container-number": "1"}
        own |= {"com.docker.compose.depends_on": ",".join(f"{name}:service_started:false" for name in depends_on)}
        given = {"network_mode": "none", "stop_signal": "SIGKILL", "command": COMMAND, **options}
        return self.client.containers.run(
            image, name=self.container(service), labels={**own, **(labels or {})}, detach=True, **given
        )

    def container(self, service: str) -> str:
        """The name of a service's container."""
        return f"{self.name}-{service}-1"

    def get(self, service: str) -> Any:
        """The container of a service, as it is now."""
        return self.client.containers.get(self.container(service))

    def states(self) -> dict[str, tuple[str, str]]:
        """Status and image of each container, by its name without that of the project."""
        # Not by the SDK's objects, each of which is read again, and may be gone by then.
        found = self.client.api.containers(all=True, filters={"label": f"com.docker.compose.project={self.name}"})
        return {
            item["Names"][0].removeprefix(f"/{self.name}-"): (item["State"], self.image_of(item["ImageID"]))
            for item in found
        }

    def image_of(self, image_id: str) -> str:
        """The tag of an image of this module."""
        tags = {self.client.images.get(tag).id: tag for tag in (GOOD, NEWER, BROKEN)}
        return tags.get(image_id, image_id)

    def targets(self, url: str | None = None, **more: Any) -> dict[str, Any]:
        return {"docker": {"main": {"url": url or self.engine.url, "project": self.name}}, **more}

    def run(
        self, job: str, params: Mapping[str, Any], *, url: str | None = None, places: Any = None, **more: Any
    ) -> JobResult:
        """Run a job on the project, by default of services that only have to run."""
        gate = {"every": "50ms", "settle": "0s", "within": "1m", **params.get("gate", {})}
        services = [self.name_of(name) for name in self.states()]
        usual = {"only_running": sorted(set(services)), **params, "gate": gate}
        return run_job(job, usual, self.targets(url, **(places or {})), **more)

    @staticmethod
    def name_of(container: str) -> str:
        """The service of a container without the name of the project."""
        return container.rpartition("-1")[0] or container

    def remove(self) -> None:
        """Remove all containers."""
        for item in self.client.containers.list(all=True, filters={"label": f"com.docker.compose.project={self.name}"}):
            item.remove(force=True, v=True)


def make_images(engine: DockerEngine, client: Any) -> None:
    """Three images: two that run, with different environments, and one that ends at once."""
    engine.busybox("shop/base:1")
    base = client.containers.create("shop/base:1", ["true"], network_mode="none")
    for tag, variables in ((GOOD, "VERSION=1"), (NEWER, "VERSION=2"), (BROKEN, "VERSION=3 BROKEN=1")):
        name, _, version = tag.partition(":")
        more = f"\n{NEVER_HEALTHY}" if tag == BROKEN else ""
        base.commit(repository=name, tag=version, changes=f"ENV {variables}\nVOLUME /data{more}")
    base.remove()


def allowed_in_a_window(method: str, path: str) -> bool:
    """Whether the proxy of `deploy` for windows allows a request; its rules are for whole paths."""
    proxy = yaml.safe_load(WINDOW.read_text())["services"]["docker-proxy"]
    rules = dict(item[len("-allow") :].split("=", 1) for item in proxy["command"] if item.startswith("-allow"))
    return method in rules and re.fullmatch(rules[method], path) is not None


@dataclass
class Severed:
    """An engine before which a wall comes down. `changes`: the requests that passed, as `POST /path`."""

    url: str
    changes: list[str] = field(default_factory=list)
    down: bool = False


@contextmanager
def severed_engine(engine: DockerEngine, after: int) -> Iterator[Severed]:
    """Yield an engine that takes `after` changes and is lost then: the last of them is carried out, without an answer.

    For the engine this is the same as a client that was killed at that instant: no request comes any more.
    """
    lock = threading.Lock()
    severed = Severed("", down=after == 0)

    def handle(passing: PassingRequest) -> None:
        method, path, *_ = passing.line.split()
        is_change, last = method in ("POST", "DELETE"), False
        with lock:
            if (is_change and severed.down) or (severed.down and after and len(severed.changes) >= after):
                return
            if is_change:
                severed.changes.append(f"{method} {re.sub(r'/v[0-9.]+', '', path)}")
                last = severed.down = len(severed.changes) == after
        passing.pass_on(answered=not last)

    with passing_through(engine, handle) as severed.url:
        yield severed
