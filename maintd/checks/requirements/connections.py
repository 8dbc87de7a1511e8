"""Open the connections that requirements are exercised on, one for each target."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from maintd.clients import alertmanager, docker, host, http, postgres, prometheus, redis, tls_server
from maintd.clients.http import Answer, Api
from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.target import FolderTarget, HttpTarget, SecretsTarget, Targets

Open = Callable[[Any, str], AbstractContextManager[tuple[Any, str]]]


@contextmanager
def _postgres(target: Any, name: str) -> Iterator[tuple[Any, str]]:
    with postgres.connect(target, "doctor", name=name) as session:
        version = session.one("SHOW server_version")["server_version"]
        yield session, f"Postgres {version}"


@contextmanager
def _redis(target: Any, name: str) -> Iterator[tuple[Any, str]]:
    with redis.connect(target, name=name) as server:
        server.ping()
        yield server, "PONG"


@contextmanager
def _docker(target: Any, name: str) -> Iterator[tuple[Any, str]]:
    with docker.connect(target, name=name) as engine:
        yield engine, f"API {engine.api.api_version}"


class Service:
    """An HTTP service: its target, and its answer to the target's own request."""

    def __init__(self, target: HttpTarget, name: str, answer: Answer) -> None:
        self.target = target
        self.name = name
        self.answer = answer

    def api(self) -> Api:
        """Its API, for requests of other paths."""
        target = resolved(self.target)
        root = target.url.split("/", 3)
        return Api("/".join(root[:3]), target.headers, target.timeout, ca_file=target.ca_file, verify=target.verify)


@contextmanager
def _http(target: HttpTarget, name: str) -> Iterator[tuple[Any, str]]:
    answer = http.get(target)
    if answer.status in (401, 403):
        raise TargetError(f"{name} answered {answer.status}", "correct the target's headers", cause="denied")
    if answer.status != target.status:
        raise TargetError(f"{name} answered {answer.status} instead of {target.status}", cause="failed")
    yield Service(target, name, answer), f"status {answer.status} in {answer.latency.total_seconds() * 1000:.0f} ms"


@contextmanager
def _prometheus(target: Any, name: str) -> Iterator[tuple[Any, str]]:
    server = prometheus.connect(target, name=name)
    server.ready()
    yield server, "ready"


@contextmanager
def _alertmanager(target: Any, name: str) -> Iterator[tuple[Any, str]]:
    server = alertmanager.connect(target, name=name)
    status = server.status()
    yield server, f"version {status.version}"


@contextmanager
def _tls(target: Any, name: str) -> Iterator[tuple[Any, str]]:
    server = tls_server.connect(target, name=name)
    found = server.examine(server.addresses()[0])
    yield server, found.protocol


@contextmanager
def _halts(target: Any, name: str) -> Iterator[tuple[Any, str]]:
    yield target, "configured"  # its sources are other targets, see `halts.can_be_read`


@contextmanager
def _secrets(target: SecretsTarget, name: str) -> Iterator[tuple[Any, str]]:
    yield resolved(target), "configured"


@contextmanager
def _host(target: Any, name: str) -> Iterator[tuple[Any, str]]:
    found = host.connect(target, name=name)
    yield found, f"load {found.load().one:.2f}"


@contextmanager
def _folder(target: FolderTarget, name: str) -> Iterator[tuple[Any, str]]:
    yield resolved(target).path, "configured"


@contextmanager
def _local(target: str, name: str) -> Iterator[tuple[Any, str]]:
    yield Path(name), "local"


_OPEN: Mapping[str, Open] = {
    "postgres": _postgres,
    "redis": _redis,
    "docker": _docker,
    "http": _http,
    "prometheus": _prometheus,
    "alertmanager": _alertmanager,
    "tls": _tls,
    "halts": _halts,
    "secrets": _secrets,
    "host": _host,
    "folders": _folder,
    "program": _local,
    "file": _local,
    "folder": _local,
}

LOCAL_KINDS = ("program", "file", "folder")


@contextmanager
def opened(targets: Targets, kind: str, name: str) -> Iterator[tuple[Any, str]]:
    """Yield the connection, and its first answer as text. Raises TargetError, also for a target that is missing."""
    if kind in LOCAL_KINDS:
        with _local(name, name) as found:
            yield found
        return
    configured = targets.of(kind)
    if name not in configured:
        raise TargetError(
            f"there is no {kind} target {name}", f"set targets.{kind}.{name} in the calendar", cause="not_configured"
        )
    started = time.monotonic()
    with _OPEN[kind](configured[name], name) as (connection, seen):
        yield connection, f"{seen}, in {(time.monotonic() - started) * 1000:.0f} ms"
