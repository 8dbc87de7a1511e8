"""Docker engine client on the SDK; containers of a compose project are found by label, never by name."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

import requests
from docker.errors import APIError, DockerException, NotFound
from docker.utils import version_lt

from maintd.clients.causes import cause_of
from maintd.clients.docker_api import BoundedClient
from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.evidence import Scalar
from maintd.model.target import DockerTarget

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
NUMBER = "com.docker.compose.container-number"
ONE_OFF = "com.docker.compose.oneoff"
_FRACTION = re.compile(r"(\.\d{6})\d+")
_LISTING = 3  # times the target's time-out, for a list of containers with the state of each
_VERSION_QUERY = "1.24"  # the SDK needs an API version even for asking the engine for its own


@dataclass(frozen=True)
class Container:
    """State of a container. Its environment, which may hold secrets, is never read."""

    id: str
    name: str
    service: str
    number: str
    image: str
    image_id: str
    state: str  # created, running, paused, restarting, removing, exited, dead
    health: str  # healthy, unhealthy, starting; empty without a health check
    exit_code: int
    oom_killed: bool
    restart_count: int
    restart_policy: str
    started_at: datetime | None
    finished_at: datetime | None
    memory_limit: int = 0  # bytes; 0: none
    cpu_limit: float = 0  # CPUs; 0: none
    pids_limit: int = 0  # 0: none
    pid: int = 0  # of its first process, on the engine's host; 0: not running
    inspector_ports: tuple[str, ...] = ()  # addresses of the host that lead to its port 9229, of Node's inspector

    @property
    def label(self) -> str:
        """Its name in checks: the service, with the container's number unless that is 1."""
        return self.service if self.number in ("", "1") else f"{self.service}-{self.number}"

    def evidence(self) -> dict[str, Scalar]:
        """Plain data for an artifact."""
        return {
            key: value if isinstance(value, str | int | bool) else str(value) for key, value in asdict(self).items()
        }


class Docker:
    """One client; a context manager that closes it."""

    def __init__(self, api: BoundedClient, name: str) -> None:
        self.api = api  # for what has no method here; wrap its use in `translated`
        self.name = name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(DockerException, OSError):
            self.api.close()

    def containers(self, project: str | None) -> list[Container]:
        """All containers of a compose project, or of the engine: also stopped ones, but not those of `compose run`."""
        labels = {"label": f"{PROJECT}={project}"} if project else {}
        api = self.api
        with translated(self.name), api.all_within(_LISTING * timedelta(seconds=float(api.timeout))):
            found = [self._inspect(item["Id"]) for item in api.containers(all=True, filters=labels)]
        return sorted(
            (item for item in found if item is not None), key=lambda item: (item.service, item.number, item.name)
        )

    def system_time(self) -> datetime:
        """The time by the clock of the engine's host. Raises TargetError."""
        with translated(self.name):
            answer = self.api.info()
        text = answer.get("SystemTime") if isinstance(answer, Mapping) else None
        at = parse_instant(text) if isinstance(text, str) else None
        if at is None:
            hint = "allow /info in the socket proxy"
            raise TargetError(f"{self.name}: no time in the answer to /info", hint, cause="malformed")
        return at

    def stats(self, container_id: str) -> Mapping[str, Any] | None:
        """The body of the engine's stats of a container; None when the container does not exist.

        Before `one-shot` (API 1.41) the engine first takes a sample of its own, for a second or two.
        """
        one_shot = {} if version_lt(self.api.api_version, "1.41") else {"one_shot": True}
        with translated(self.name):
            try:
                found = self.api.stats(container_id, stream=False, **one_shot)
            except NotFound:
                return None
        if not isinstance(found, Mapping):
            raise TargetError(f"{self.name}: unexpected format of stats", cause="malformed")
        return found

    def _inspect(self, container_id: str) -> Container | None:
        try:
            raw = self.api.inspect_container(container_id)
        except NotFound:
            return None  # removed since it was listed
        labels = raw["Config"].get("Labels") or {}
        return None if labels.get(ONE_OFF) == "True" else container_of(raw)


def connect(target: DockerTarget, *, name: str = "docker") -> Docker:
    """A client of the engine, with the API version agreed on; each answer within the target's time-out.

    Raises TargetError.
    """
    target = resolved(target)
    with translated(name):
        _check_socket(target.url, target.timeout.total_seconds())
        # The SDK's version="auto" connects in its constructor, and leaves the connection open when that fails.
        with closing(_client(target, _VERSION_QUERY)) as api:
            version = str(api.version(api_version=False)["ApiVersion"])
        return Docker(_client(target, version), name)


def _client(target: DockerTarget, version: str) -> BoundedClient:
    return BoundedClient(target.url, version, target.timeout, ca_file=target.ca_file, verify=target.verify)


def _check_socket(url: str, seconds: float) -> None:
    """Connect to a Unix socket first: without a listener the SDK leaves its own socket open. Raises OSError."""
    if url.startswith("unix://"):
        with closing(socket.socket(socket.AF_UNIX)) as probe:
            probe.settimeout(seconds)
            probe.connect(f"/{url.removeprefix('unix://').lstrip('/')}")


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Turn the SDK's errors into TargetError."""
    try:
        yield
    except TargetError as error:
        if type(error) is not TargetError or error.message.startswith(f"{name}: "):
            raise  # a more exact class, or named already
        raise TargetError(f"{name}: {error.message}", error.hint, cause=error.cause) from error.__cause__
    except (DockerException, requests.RequestException, OSError) as error:
        raise _error(name, error) from error
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise TargetError(f"{name}: is not a Docker engine", "check the target's url", cause="malformed") from error


def _error(name: str, error: Exception) -> TargetError:
    if isinstance(error, APIError):
        status = error.response.status_code if error.response is not None else 0
        denied = status in (401, 403)
        hint = "allow it in the socket proxy's rules" if denied else None
        explanation = " ".join(str(error.explanation or error).split())[:300]
        return TargetError(
            f"{name}: the engine answered {status}: {explanation}", hint, cause="denied" if denied else "failed"
        )
    text = " ".join(str(error).split())[:300]
    if isinstance(error, requests.Timeout) or "timed out" in text.lower():
        return TargetError(
            f"{name}: the engine did not answer in time", "check whether dockerd hangs", cause="timed_out"
        )
    cause = cause_of(error) or "failed"
    hints = {
        "denied": "allow this process's group to use the socket, or use a socket proxy",
        "refused": "start dockerd",
    }
    return TargetError(f"{name}: {text}", hints.get(cause), cause=cause)


def container_of(raw: Mapping[str, Any]) -> Container:
    """The state of a container from the engine's description of it."""
    state, labels = raw["State"], raw["Config"].get("Labels") or {}
    host = raw.get("HostConfig") or {}
    name = str(raw["Name"]).removeprefix("/")
    return Container(
        id=raw["Id"],
        name=name,
        service=labels.get(SERVICE) or name,
        number=labels.get(NUMBER, ""),
        image=raw["Config"]["Image"],
        image_id=raw["Image"],
        state=state["Status"],
        health=(state.get("Health") or {}).get("Status", "").replace("none", ""),
        exit_code=int(state["ExitCode"]),
        oom_killed=bool(state.get("OOMKilled")),
        restart_count=int(raw.get("RestartCount") or 0),
        restart_policy=(host.get("RestartPolicy") or {}).get("Name", ""),
        started_at=parse_instant(state.get("StartedAt")),
        finished_at=parse_instant(state.get("FinishedAt")),
        memory_limit=int(host.get("Memory") or 0),
        cpu_limit=_cpus(host),
        pids_limit=max(0, int(host.get("PidsLimit") or 0)),
        pid=int(state.get("Pid") or 0),
        inspector_ports=tuple(
            f"{item.get('HostIp') or '0.0.0.0'}:{item.get('HostPort')}"
            for item in ((raw.get("NetworkSettings") or {}).get("Ports") or {}).get("9229/tcp") or ()
        ),
    )


def _cpus(host: Mapping[str, Any]) -> float:
    """Compose sets NanoCpus; `docker run --cpu-quota` a quota of a period, by default of 100 ms."""
    if host.get("NanoCpus"):
        return int(host["NanoCpus"]) / 1e9
    quota = int(host.get("CpuQuota") or 0)
    return quota / (int(host.get("CpuPeriod") or 0) or 100_000) if quota > 0 else 0


def parse_instant(text: str | None) -> datetime | None:
    """An instant as the engine writes it, with up to nine digits of a second; None for never (the year 1)."""
    if not text or text.startswith("0001"):
        return None
    try:
        at = datetime.fromisoformat(_FRACTION.sub(r"\1", text))
    except ValueError:
        return None
    return at if at.tzinfo is not None else None
