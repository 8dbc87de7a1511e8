"""A container replaced by one from another image, with the same configuration, networks, mounts and labels.

The steps, of a container named web:

1. create web.maintd-new                 nothing else has changed when the engine refuses it
2. stop web
3. rename web to web.maintd-old          from here on what is left is found by this name
4. rename web.maintd-new to web
5. start web, and wait for its health
6. remove web.maintd-old                 or swap back: remove web, rename web.maintd-old to web, start it

The names are the journal: whatever is left by a run that was killed, `find_interrupted` finds it, and `swap_back` or
`finish` ends it. Volumes are never removed; anonymous ones are attached to the new container.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from docker.errors import APIError, NotFound

from maintd.checks.services.containers import NEW, OLD, ServiceContainer, plain_name, read
from maintd.clients.docker import Docker, translated
from maintd.errors import TargetError

REPLACES = "maintd.replaces"
"""Label of a new container: the id of the one that it replaces."""

IMAGE_LABEL = "com.docker.compose.image"
_SLOW = timedelta(minutes=2)  # for an answer that needs the engine to work on the disk
_PREDEFINED = ("host", "none", "bridge")
# Values that a container has from its image unless they were given. The new one gets those of its own image.
_FROM_IMAGE = ("WorkingDir", "User", "Healthcheck", "StopSignal", "Shell", "OnBuild")


@dataclass(frozen=True)
class Creation:
    """The body of the request that creates a container, and the networks to connect it to before it is started."""

    body: dict[str, Any]
    networks: dict[str, dict[str, Any]]


def creation(item: ServiceContainer, old_image: Mapping[str, Any], image: str, image_id: str) -> Creation:
    """The request for a container like this one from another image.

    `old_image` is the `Config` of its present image: what comes from there is left to the new image.
    """
    raw: dict[str, Any] = copy.deepcopy(dict(item.raw))
    config: dict[str, Any] = raw["Config"]
    host: dict[str, Any] = raw["HostConfig"]
    mode = str(host.get("NetworkMode") or "default")
    config["Image"] = image
    if config.get("Hostname") == item.id[:12] or mode == "host" or mode.startswith("container:"):
        config.pop("Hostname", None)
    _without_defaults(config, old_image)
    labels = {key: value for key, value in item.labels.items() if (old_image.get("Labels") or {}).get(key) != value}
    if IMAGE_LABEL in labels:
        labels[IMAGE_LABEL] = image_id  # compose compares it, and would recreate the container at its next `up`
    config["Labels"] = {**labels, REPLACES: item.id}
    host.pop("ContainerIDFile", None)
    host["Binds"] = [*(host.get("Binds") or ()), *_anonymous_volumes(raw)]
    endpoints = {
        name: _endpoint(item, network or {})
        for name, network in ((raw.get("NetworkSettings") or {}).get("Networks") or {}).items()
        if name not in _PREDEFINED and mode not in ("host", "none") and not mode.startswith("container:")
    }
    # Until API 1.43 a container is created with one network only.
    first = {name: endpoint for name, endpoint in endpoints.items() if name == mode}
    if not first and endpoints and mode not in ("default", "bridge"):  # the mode names the network by its id
        name = next(iter(endpoints))
        first = {name: endpoints[name]}
    body = {**config, "HostConfig": host, "NetworkingConfig": {"EndpointsConfig": first}}
    return Creation(body, {name: endpoint for name, endpoint in endpoints.items() if name not in first})


def _without_defaults(config: dict[str, Any], image: Mapping[str, Any]) -> None:
    """Remove what the container has from its image."""
    inherited = set(image.get("Env") or ())
    config["Env"] = [line for line in config.get("Env") or () if line not in inherited]
    same_entrypoint = (config.get("Entrypoint") or None) == (image.get("Entrypoint") or None)
    if same_entrypoint:
        config.pop("Entrypoint", None)
        if (config.get("Cmd") or None) == (image.get("Cmd") or None):
            config.pop("Cmd", None)
    for key in ("Volumes", "ExposedPorts"):
        own = {name: value for name, value in (config.get(key) or {}).items() if name not in (image.get(key) or {})}
        config[key] = own
    for key in _FROM_IMAGE:
        if (config.get(key) or None) == (image.get(key) or None):
            config.pop(key, None)


def _anonymous_volumes(raw: Mapping[str, Any]) -> Iterator[str]:
    """Binds for volumes that the engine made for the container, so that their data stays with the service."""
    host = raw["HostConfig"]
    named = {str(bind).split(":")[1] for bind in host.get("Binds") or () if ":" in str(bind)}
    named |= {str(mount.get("Target")) for mount in host.get("Mounts") or ()}
    for mount in raw.get("Mounts") or ():
        if mount.get("Type") == "volume" and mount.get("Name") and mount["Destination"] not in named:
            yield f"{mount['Name']}:{mount['Destination']}" + ("" if mount.get("RW", True) else ":ro")


def _endpoint(item: ServiceContainer, network: Mapping[str, Any]) -> dict[str, Any]:
    """How the container is attached, without what the engine chose by itself."""
    own = {item.id[:12], item.name}
    found: dict[str, Any] = {"Aliases": [name for name in network.get("Aliases") or () if name not in own]}
    for key in ("IPAMConfig", "Links", "DriverOpts"):
        if network.get(key):
            found[key] = network[key]
    return found


def create(engine: Docker, item: ServiceContainer, image: str, image_id: str) -> str:
    """Create the new container beside the one that it replaces; return its id. Raises TargetError."""
    api = engine.api
    with _answers(engine):
        old_image: Mapping[str, Any] = api.inspect_image(item.state.image_id)  # type: ignore[no-untyped-call]
        made = creation(item, old_image.get("Config") or {}, image, image_id)
        answer = api.create_container_from_config(made.body, f"{item.name}{NEW}")  # type: ignore[no-untyped-call]
        new_id = str(answer["Id"])
        for name, endpoint in made.networks.items():
            # Through the plain request: the SDK's own method does not take an endpoint as the engine describes it.
            url = api._url("/networks/{0}/connect", name)  # type: ignore[attr-defined] # noqa: SLF001
            api._raise_for_status(  # type: ignore[attr-defined] # noqa: SLF001 - the stubs lack it
                api._post_json(url, data={"Container": new_id, "EndpointConfig": endpoint})  # type: ignore[attr-defined] # noqa: SLF001
            )
    return new_id


def put_in_place(engine: Docker, item: ServiceContainer, new_id: str) -> None:
    """Stop the old container, give its name to the new one, and start that. Raises TargetError."""
    stop(engine, item)
    rename(engine, item.id, f"{item.name}{OLD}")
    rename(engine, new_id, item.name)
    start(engine, new_id)


@dataclass(frozen=True)
class Interrupted:
    """What a replacement that has not ended left. `live` has the service's name; it is the new one if `old` is set."""

    name: str
    old: ServiceContainer | None
    live: ServiceContainer | None
    new: ServiceContainer | None

    @property
    def label(self) -> str:
        """The service's name in checks."""
        return next(item.label for item in (self.old, self.live, self.new) if item is not None)

    @property
    def in_place(self) -> bool:
        """Whether the new container has taken the place of the old one."""
        return self.old is not None and self.live is not None

    @property
    def foreign(self) -> str:
        """Why nothing may be removed: another client made a container with a name that belongs to the replacement."""
        if self.old is not None and self.live is not None and self.live.labels.get(REPLACES) != self.old.id:
            return f"{self.name} was not made by maintd from {self.old.name}"
        if self.new is not None and REPLACES not in self.new.labels:
            return f"{self.new.name} was not made by maintd"
        return ""


def find_interrupted(containers: Iterable[ServiceContainer]) -> list[Interrupted]:
    """The replacements that have not ended."""
    by_name = {item.name: item for item in containers}
    names = sorted({plain_name(name) for name in by_name if name.endswith((OLD, NEW))})
    return [
        Interrupted(name, by_name.get(f"{name}{OLD}"), by_name.get(name), by_name.get(f"{name}{NEW}")) for name in names
    ]


def swap_back(engine: Docker, name: str) -> str:
    """Restore the container that had this name before the replacement, and start it; return its id.

    Safe to repeat, from wherever it or the replacement was stopped. Raises TargetError.
    """
    new, old = read(engine, f"{name}{NEW}"), read(engine, f"{name}{OLD}")
    live = read(engine, name)
    found = Interrupted(name, old, live, new)
    if found.foreign:
        hint = "rename or remove one of them by hand"
        raise TargetError(f"{engine.name}: {found.foreign}", hint, cause="conflict")
    if live is None and old is None:
        raise TargetError(f"{engine.name}: there is neither {name} nor {name}{OLD}", "create it", cause="not_found")
    if new is not None:
        remove(engine, new)
    if old is not None:
        if live is not None:
            stop(engine, live)
            remove(engine, live)
        rename(engine, old.id, name)
        live = old
    assert live is not None
    start(engine, live.id)
    return live.id


def finish(engine: Docker, name: str) -> None:
    """Remove the container that was replaced; its volumes stay. Raises TargetError."""
    old = read(engine, f"{name}{OLD}")
    if old is not None:
        stop(engine, old)  # a restart of the engine may have started it
        remove(engine, old)


def sharing_namespace(item: ServiceContainer, containers: Sequence[ServiceContainer]) -> list[str]:
    """Names of containers that use a namespace of this one: they would lose it."""
    wanted = {f"container:{item.id}", f"container:{item.name}"}
    return [
        other.name
        for other in containers
        if wanted & {str((other.raw.get("HostConfig") or {}).get(key)) for key in ("NetworkMode", "PidMode", "IpcMode")}
    ]


def stop(engine: Docker, item: ServiceContainer) -> None:
    """Stop a container, with the time that it has for its end; nothing when it does not run. Raises TargetError."""
    with _answers(engine, timedelta(seconds=item.stop_seconds)):
        engine.api.stop(item.id, timeout=item.stop_seconds)


def restart(engine: Docker, item: ServiceContainer) -> None:
    """Stop and start a container; start it when it does not run. Raises TargetError."""
    with _answers(engine, timedelta(seconds=item.stop_seconds)):
        engine.api.restart(item.id, timeout=item.stop_seconds)


def start(engine: Docker, container_id: str) -> None:
    """Start a container; nothing when it runs. Raises TargetError."""
    with _answers(engine):
        engine.api.start(container_id)


def rename(engine: Docker, container_id: str, name: str) -> None:
    """Rename a container. Raises TargetError."""
    with _answers(engine):
        engine.api.rename(container_id, name)


def remove(engine: Docker, item: ServiceContainer) -> None:
    """Remove a container that does not run, but not its volumes; nothing when it is gone. Raises TargetError."""
    with _answers(engine):
        try:
            engine.api.remove_container(item.id, v=False, link=False, force=False)
        except NotFound:
            return


@contextmanager
def _answers(engine: Docker, more: timedelta = timedelta()) -> Iterator[None]:
    """Allow the engine time for its work; its 409 has the cause `conflict`."""
    try:
        with translated(engine.name), engine.api.each_within(_SLOW + more):
            yield
    except TargetError as error:
        origin = error.__cause__
        if isinstance(origin, APIError) and origin.response is not None and origin.response.status_code == 409:
            raise TargetError(error.message, error.hint, cause="conflict") from origin
        raise
