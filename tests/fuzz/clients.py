"""Properties of the clients: whatever a server answers, or a file of a host contains, is a value or a TargetError."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from support.http_services import Reply, http_service

from fuzz.properties import Property, within_time
from maintd.checks.alerts.grafana import collect_grafana
from maintd.checks.backups.age_encryption import read_identities
from maintd.checks.docker.inspector import inspect_options
from maintd.checks.logs import journal_size, loki, loki_retention, rotation
from maintd.checks.logs.containers import Demultiplexed
from maintd.checks.logs.denied_requests import DeniedRequests
from maintd.checks.logs.scanner import Scanner
from maintd.clients import alertmanager, cgroup, docker, exposition, host, http, open_files, prometheus, trivy
from maintd.clients.registry import HttpRegistryClient, parse_or_none
from maintd.errors import TargetError
from maintd.model.target import AlertmanagerTarget, DockerTarget, HostTarget, HttpTarget, PrometheusTarget

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def _calls(url: str) -> tuple[Callable[[], Any], ...]:
    """By byte 0 of an input: what is read from the server."""
    prom = prometheus.connect(PrometheusTarget(url=url))
    alerts = alertmanager.connect(AlertmanagerTarget(url=url))
    target = HttpTarget(url=url, expect={"a.b": 1})
    registry = HttpRegistryClient({}, timeout=timedelta(seconds=5))
    image = parse_or_none(f"{url.removeprefix('http://')}/a/b:1")
    assert image is not None
    return (
        lambda: prom.query("up"),
        lambda: prom.number("up"),
        lambda: prom.query_range("up", AT - DAY, AT, DAY / 24),
        prom.targets,
        prom.rules,
        prom.firing,
        prom.alertmanagers,
        prom.runtime_info,
        lambda: exposition.sums(prom.own_metrics(), "up", "job"),
        alerts.status,
        alerts.alerts,
        alerts.silences,
        lambda: collect_grafana(target, "main", "/rules", "/alertmanager"),
        lambda: loki.read(target, "main", "{}", DeniedRequests(AT - DAY, AT)),
        lambda: registry.tags(image),
        lambda: registry.remote(image),
        lambda: http.fields(http.get(target), target.expect),
        lambda: _docker(url),
        lambda: _log_stream(url, terminal=False),
        lambda: _log_stream(url, terminal=True),
        lambda: loki_retention.read_period(target, "main"),
    )


def _docker(url: str) -> None:
    with docker.connect(DockerTarget(url=url.replace("http://", "tcp://")), name="main") as engine:
        engine.containers(None)


def _log_stream(url: str, *, terminal: bool) -> None:
    body = http.get(HttpTarget(url=url)).body
    requests = DeniedRequests(AT - DAY, AT)
    for line in Scanner().lines(Demultiplexed(io.BytesIO(body), terminal).readinto):
        requests.add_line(line, "web")


@contextmanager
def servers() -> Iterator[Property]:
    """Byte 0 is what is read, the rest the server's answer to every request."""
    replies: dict[str, Reply] = {}

    class Always(dict[str, Reply]):
        def get(self, key: str, default: Any = None) -> Any:
            return replies["any"]

    with http_service(Always()) as url:
        calls = _calls(url)

        def holds(data: bytes) -> None:
            replies["any"] = Reply(data[1:])
            with within_time():
                try:
                    calls[data[0] % len(calls) if data else 0]()
                except TargetError as error:
                    assert error.message

        yield holds


@contextmanager
def host_files() -> Iterator[Property]:
    """Byte 0 is the name of a file below a host's root or /proc, the rest its content."""
    with tempfile.TemporaryDirectory(prefix="maintd-fuzz-") as folder:
        root = Path(folder)
        proc = root / "proc"
        (proc / "1/fd").mkdir(parents=True)
        (root / "var/lib/logrotate").mkdir(parents=True)
        system = host.connect(HostTarget(root=root, proc=proc))
        reads: tuple[tuple[Path, Callable[[], Any]], ...] = (
            (proc / "meminfo", system.memory),
            (proc / "loadavg", system.load),
            (proc / "pressure/cpu", system.pressure),
            (proc / "stat", system.counters),
            (proc / "vmstat", system.counters),
            (proc / "sys/fs/file-nr", system.gauges),
            (proc / "1/mountinfo", system.mounts),
            (proc / "1/stat", lambda: open_files.open_files(proc)),
            (proc / "self/cgroup", lambda: cgroup.own_memory(proc, root)),
            (root / "memory.max", lambda: cgroup.own_memory(proc, root)),
            (root / rotation.STATE[0], lambda: rotation.last_rotations(root)),
            (root / "trivy.json", lambda: trivy.read(root / "trivy.json")),
            (root / "key", lambda: read_identities(root / "key")),
            (root / "cmdline", lambda: list(inspect_options((root / "cmdline").read_bytes().decode(errors="replace")))),
            (root / "etc/systemd/journald.conf", lambda: journal_size.read_settings(root)),
        )

        def holds(data: bytes) -> None:
            path, read = reads[data[0] % len(reads) if data else 0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data[1:])
            try:
                with within_time():
                    try:
                        read()
                    except TargetError as error:
                        assert error.message
            finally:
                path.unlink()

        yield holds
