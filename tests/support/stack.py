"""The first stack, small and in order, on real servers, for the shipped calendar; each part can be made faulty."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import yaml

from support.host_roots import HostRoot
from support.http_services import Reply, http_service, json_reply
from support.job_runs import run_job
from support.package_services import write_lock_file_with_export
from support.sample_backups import gz, tar_of, write
from support.sample_logs import request
from support.servers.base import free_port, require_program, wait_for
from support.servers.certificates import self_signed
from support.servers.docker import DockerEngine, NoEngineError, engine_if_possible
from support.servers.postgres import BIN, PostgresServer, postgres
from support.servers.prometheus import WebServer, alertmanager, prometheus, routed_to
from support.servers.redis import RedisServer, redis
from support.servers.registry import Registry, registry
from support.users import folder_for_all

SHIPPED = Path(__file__).parents[2] / "schedules.yaml"
SCHEMA = """
CREATE TABLE audit_events (id bigserial PRIMARY KEY, ts timestamptz NOT NULL DEFAULT now(), type text NOT NULL,
  severity text NOT NULL DEFAULT 'info', payload jsonb NOT NULL DEFAULT '{}', request_id text);
CREATE TABLE pnl_days (date date PRIMARY KEY, realized numeric NOT NULL, percent numeric NOT NULL, halted boolean);
CREATE EXTENSION pgstattuple;
CREATE EXTENSION pg_stat_statements;
INSERT INTO pnl_days SELECT (now() AT TIME ZONE 'UTC')::date - age, 12.5, 0.4, false FROM generate_series(0, 40) age;
"""
RULES = "groups: [{name: g, rules: [{alert: ServiceDown, expr: 'vector(0) > 1', labels: {severity: critical}}]}]"
SECRETS = ("postgres_password", "admin_token", "slack_token")
STREAMS = ("exec.orders", "exec.status")
PROJECT, SERVICES = "cli-trading", ("orchestrator", "risk-manager")


REVIEWED: dict[str, Any] = {"postgres": [], "prometheus": [], "alertmanager": [], "docker": []}
"""Params of config_review: of Redis only. The Alertmanager notifies no person, and faults change the others."""


WAIVED_RULES = ("cis-docker-1.2.2", "postgres-hba-trust", "redis-auth")
WAIVED = {"why": "servers of tests on loopback", "by": "tests", "until": "2100-01-01"}


@dataclass
class Stack:
    """The running stack. `pages` are the answers of the orchestrator by path.

    `engine` runs its containers; it is None, and `without` has the reason, where none can be started.
    """

    folder: Path
    database: PostgresServer
    cache: RedisServer
    metrics: WebServer
    alerts: WebServer
    service: str
    scratch: Path  # every user can enter it, unlike pytest's folders: as root, a drill's Postgres is another user's
    webhook: int  # the port that test alerts are routed to
    pages: dict[str, Any] = field(default_factory=dict)
    logs: tuple[str, str] | None = None
    engine: DockerEngine | None = None
    without: str = ""

    @property
    def backups(self) -> Path:
        return self.folder / "backups"

    @property
    def sets(self) -> Path:
        return self.backups / "maintd"

    @property
    def auth_log(self) -> Path:
        return self.folder / "auth.log"

    @property
    def service_log(self) -> Path:
        return self.folder / "services/orchestrator.log"

    @property
    def rules(self) -> Path:
        return self.folder / "rules.yml"

    def sql(self, text: str) -> None:
        with psycopg.connect(self.database.url("trading"), autocommit=True) as conn:
            conn.execute(text)  # type: ignore[call-overload]

    def figures(self, **changes: Any) -> None:
        """Let the orchestrator answer today's figures with these changes."""
        today = datetime.now(UTC).date().isoformat()
        usual = {"date": today, "startEquity": 1000, "realized": 12.5, "percent": 0.4, "dailyTargetPct": 1}
        self.pages["/pnl/status"] = json_reply({**usual, "halted": False, **changes})

    def health(self, **changes: Any) -> None:
        """Let the orchestrator answer a health report with these changes."""
        self.pages["/health"] = json_reply({"status": "ok", "redis": "ok", "db": "ok", **changes})

    def calendar(self, interval: str = "200ms") -> str:
        """The shipped calendar with this stack's targets; its jobs read the logs of this stack."""
        found = yaml.safe_load(SHIPPED.read_text())
        found["targets"] = self.targets()
        for entry in found["entries"].values():
            entry["steps"] = [self._step(step, interval) for step in entry["steps"]]
        found["defaults"]["retries"] = 0
        return str(yaml.safe_dump(found, sort_keys=False))

    def targets(self) -> dict[str, Any]:
        """All targets of the stack; without an engine, the jobs about it are left out as not configured."""
        docker = (
            {"docker": {"main": {"url": self.engine.url, "project": PROJECT, "timeout": "5s"}}} if self.engine else {}
        )
        return {
            **docker,
            "postgres": {"main": {"dsn": self.database.url("trading"), "timeout": "3s", "bin_dir": str(BIN)}},
            "redis": {"main": {"url": self.cache.url, "streams": list(STREAMS), "timeout": "3s"}},
            "http": {
                "orchestrator": {
                    "url": f"{self.service}/health",
                    "timeout": "2s",
                    "expect": {"redis": "ok", "db": "ok"},
                    "depends_on": {"redis": "redis", "db": "postgres"},
                }
            },
            "prometheus": {"main": {"url": self.metrics.url, "timeout": "3s"}},
            "alertmanager": {"main": {"url": self.alerts.url, "timeout": "3s"}},
            "folders": {
                "backups": {"path": str(self.backups)},
                "backup_sets": {"path": str(self.sets)},
                "scratch": {"path": str(self.scratch)},
                "logs": {"path": str(self.folder / "services")},
                "certificates": {"path": str(self.folder / "certificates")},
                "config_baselines": {"path": str(self.folder / "baselines")},
            },
        }

    def _step(self, step: Any, interval: str) -> Any:
        more: dict[str, dict[str, Any]] = {
            "resource_usage": {"interval": interval},
            "log_cleanup": {"rotation": None},
            # Servers of tests let this machine in without a password, and its sshd and engine are those of Debian.
            "security_audit": {"hosts": [], "waivers": [WAIVED | {"rule": rule} for rule in WAIVED_RULES]},
            "dependency_review": {
                "lock_files": [str(self.folder / "source/package-lock.json")],
                "advisories": ["export"],
                "export": str(self.folder / "source/export"),
            },
            "config_review": REVIEWED,
            "retention_compliance": {"classes": {"files": {"folder": "certificates", "keep_at_most": "7300d"}}},
            "os_updates": {"root": str(self.folder / "host")},
            "alert_path_test": {"listen": f"127.0.0.1:{self.webhook}"},
            "backup": {"min_free": "10MB"},
            "restore_drill": {"min_free": "10MB", "scratch": "scratch"},
            "security_log_review": {"folder": "logs", "auth_log": str(self.auth_log), "timezone": "UTC"},
        }
        name = step if isinstance(step, str) else next(iter(step))
        params = {} if isinstance(step, str) else step[name] or {}
        return {name: {**params, **more[name]}} if name in more else step


@contextmanager
def stack(folder: Path) -> Iterator[Stack]:
    """Start the stack in this folder."""
    with ExitStack() as running:
        database = running.enter_context(postgres())
        cache = running.enter_context(redis("--maxmemory", "200mb", "--repl-diskless-sync-delay", "0"))
        webhook = free_port()
        alerts = running.enter_context(alertmanager(routed_to(webhook)))
        (folder / "host").mkdir()
        HostRoot(folder / "host")
        write_lock_file_with_export(folder / "source")
        (folder / "certificates").mkdir()
        (folder / "baselines").mkdir()
        (folder / "certificates/web.pem").write_bytes(self_signed("web", "web.example").pem)
        pages: dict[str, Any] = {}
        service = running.enter_context(http_service(_Live(pages)))
        (folder / "rules.yml").write_text(RULES)
        config = (
            "global: {scrape_interval: 2s, scrape_timeout: 2s, evaluation_interval: 200ms}\n"
            f"rule_files: [{folder}/rules.yml]\n"
            f"alerting: {{alertmanagers: [{{static_configs: [{{targets: ['127.0.0.1:{alerts.port}']}}]}}]}}\n"
            f"scrape_configs: [{{job_name: agents, static_configs: [{{targets: ['{service.removeprefix('http://')}']}}]}}]\n"
        )
        metrics = running.enter_context(prometheus(config, flags=["--rules.alert.resend-delay=1s"]))
        scratch = running.enter_context(folder_for_all())
        made = Stack(folder, database, cache, metrics, alerts, service, scratch, webhook, pages)
        try:
            made.engine = running.enter_context(engine_if_possible())
        except NoEngineError as error:
            made.without = f"a Docker engine: {error}"
        else:
            _with_containers(made.engine, running.enter_context(registry()))
        database.create("trading")
        made.sql(SCHEMA)
        with_streams(made)
        restore(made)
        wait_for(lambda: _observed(metrics), "the first scrapes of Prometheus, and its Alertmanager")
        _approve(made)
        yield made


def _approve(made: Stack) -> None:
    """Accept the configuration of the servers that no fault changes, as a person does after the first review."""
    targets, params = made.targets(), REVIEWED
    seen = run_job("config_review", params, targets, folder=made.folder / "review")
    found = json.loads((made.folder / "review/artifacts/config.json").read_text())
    digests = ",".join(item["digest"] for item in found)
    given = {"digests": digests, "why": "as it was made"}
    done = run_job("config_accept", given, targets, approvals={"gate": "approved by ada"})
    assert done.outcome == "succeeded", seen.text() + done.text()


def _observed(server: WebServer) -> bool:
    """Whether Prometheus has found its targets, which takes it five seconds, and scraped them twice."""
    query = "min(count_over_time(http_request_duration_seconds_count[1m]))"
    scraped = httpx.get(f"{server.url}/api/v1/query", params={"query": query}, timeout=5).json()["data"]["result"]
    return bool(has_alertmanager(server) and scraped and float(scraped[0]["value"][1]) >= 2)


def has_alertmanager(server: WebServer) -> bool:
    """Whether Prometheus has found its Alertmanager; for seconds after a reload it may have none."""
    found = httpx.get(f"{server.url}/api/v1/alertmanagers", timeout=5).json()["data"]["activeAlertmanagers"]
    return bool(found)


def _with_containers(engine: DockerEngine, images: Registry) -> None:
    """Run the containers of the project, from an image of a registry of its own."""
    created = f"{datetime.now(UTC) - timedelta(days=3):%Y-%m-%dT%H:%M:%SZ}"
    program = Path(require_program("busybox", "busybox-static"))
    images.push("shop/agent", "1.4.2", "agent", created=created, index=True, program=program)
    with closing(engine.client()) as client:
        image = client.images.pull(f"{images.host}/shop/agent", tag="1.4.2")
        for service in SERVICES:
            labels = {"com.docker.compose.project": PROJECT, "com.docker.compose.service": service}
            client.containers.run(
                image.tags[0],
                ["/busybox", "sleep", "100000"],
                name=f"{PROJECT}-{service}-1",
                labels={**labels, "com.docker.compose.container-number": "1"},
                network_mode="none",
                stop_signal="SIGKILL",
                mem_limit="64m",
                detach=True,
            )


class _Live(dict[str, Any]):
    """Pages that may change while they are served."""

    def __init__(self, pages: dict[str, Any]) -> None:
        super().__init__()
        self._pages = pages

    def get(self, key: str, default: Any = None) -> Any:
        return self._pages.get(key, default)


def with_streams(made: Stack) -> None:
    """Add a few entries to the streams of orders."""
    client = made.cache.client()
    for stream in STREAMS:
        client.xadd(stream, {"data": "{}"})
    client.close()


def restore(made: Stack) -> None:
    """Put pages, logs and backups in order."""
    made.health()
    made.figures()
    requests = 'http_request_duration_seconds_bucket{path="/run",status="200",le="%s"} 5\n'
    text = "".join(requests % bound for bound in ("0.1", "+Inf"))
    text += 'http_request_duration_seconds_count{path="/run",status="200"} 5\nprocess_resident_memory_bytes 5e7\n'
    made.pages["/metrics"] = Reply(text.encode(), content_type="text/plain; version=0.0.4")
    now = datetime.now(UTC)
    if made.logs is None:  # written once: a log that is shorter than before was tampered with
        made.logs = _logs(now)
    made.service_log.parent.mkdir(exist_ok=True)
    made.auth_log.write_text(made.logs[0])
    made.service_log.write_text(made.logs[1])
    for path in sorted(made.backups.rglob("*"), reverse=True) if made.backups.exists() else ():
        path.unlink() if path.is_file() else path.rmdir()
    made.sets.mkdir(parents=True)
    for age in range(3):
        day = now - timedelta(days=age, hours=3)
        files = {
            f"config-{day:%Y%m%d}.tar.gz": gz(tar_of({"config/app.yml": b"a: 1\n" * 50})),
            f"secrets/secrets-{day:%Y%m%d}.tar.gz": gz(tar_of({f"secrets/{name}": os.urandom(64) for name in SECRETS})),
        }
        for name, data in files.items():
            path = write(made.backups / name, data, summed=True)
            for file in (path, *path.parent.glob(f"{path.name}.*")):
                file.chmod(0o600)
                os.utime(file, (day.timestamp(), day.timestamp()))


def _syslog(at: datetime) -> str:
    return re.sub(r" 0(\d) ", r"  \1 ", f"{at:%b %d %H:%M:%S}")


def _logs(now: datetime) -> tuple[str, str]:
    """The text of auth.log and of the log of a service, without anything unusual."""
    accepted = "sshd[812]: Accepted publickey for ada from 10.0.0.7 port 52222 ssh2: ED25519 SHA256:x"
    times = (_syslog(now - timedelta(hours=hours)) for hours in (30, 20, 2))
    rng = random.Random(1)
    lines = [request(rng, now - timedelta(minutes=minute), 200) for minute in range(300, 0, -10)]
    return "".join(f"{at} host {accepted}\n" for at in times), "\n".join(lines) + "\n"
