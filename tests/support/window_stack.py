"""The first stack with what a maintenance window needs: three services that can be halted, their containers, Postgres,
Redis, Prometheus, and an Alertmanager that routes test alerts; and the shipped calendar with this site's overlay."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import yaml

from maintd.checks.alerts.flow import LABEL
from maintd.checks.backup_sets.layout import find_sets
from maintd.clients.alertmanager import Silence, connect
from maintd.model.target import AlertmanagerTarget
from support.compose_project import Project, make_images
from support.halting import TradingService, trading_service
from support.http_services import Interposed, Reply, http_service, interposed
from support.servers.base import free_port
from support.servers.docker import docker_engine
from support.servers.postgres import BIN, PostgresServer, postgres
from support.servers.prometheus import alertmanager, prometheus
from support.servers.redis import RedisServer, redis
from support.servers.refusing_engine import PassingRequest, passing_through
from support.users import folder_for_all

SHIPPED = Path(__file__).parents[2] / "schedules.yaml"
SERVICES = ("orders", "quotes", "risk")
ENTRY = "planned-maintenance"

_SCHEMA = """
CREATE TABLE audit_events (id bigserial PRIMARY KEY, ts timestamptz NOT NULL DEFAULT now(), type text NOT NULL);
INSERT INTO audit_events (type) SELECT 'order' FROM generate_series(1, 1000);
"""
_KEPT = (".maintd-backup.lock",)
_ALERTMANAGER = """
route:
  receiver: other
  routes:
    - {{matchers: ['{label}=~".+"'], receiver: maintd, group_by: [{label}], group_wait: 1s}}
receivers:
  - name: other
  - name: maintd
    webhook_configs: [{{url: "http://127.0.0.1:{port}/", send_resolved: false}}]
"""


@dataclass
class WindowStack:
    """The running stack. `alerts` and `engine_url` are in front of the real ones, so that a test can interfere."""

    folder: Path  # every user can enter it
    database: PostgresServer
    cache: RedisServer
    services: dict[str, TradingService]
    project: Project
    engine_url: str
    metrics: str
    alerts: Interposed
    listen: str

    @property
    def sets(self) -> list[str]:
        """The backups, and what is left of one that was not finished."""
        return sorted(path.name for path in (self.folder / "sets").iterdir() if path.name not in _KEPT)

    @property
    def good_sets(self) -> list[str]:
        """The backups that are whole: one that was made without a part is none to rely on."""
        return [found.path.name for found in find_sets(self.folder / "sets") if found.good]

    @property
    def halted(self) -> dict[str, bool]:
        return {name: service.halted for name, service in self.services.items()}

    @property
    def silences(self) -> list[Silence]:
        """The active ones."""
        found = connect(AlertmanagerTarget(url=self.alerts.behind)).silences()
        return [silence for silence in found if silence.state != "expired"]

    def overlay(self, watch: str = "2s", lasts: str = "4s", **window: Any) -> str:
        """The overlay of the shipped calendar for this site; entries that are planned do not run by themselves."""
        shipped = yaml.safe_load(SHIPPED.read_text())["entries"]
        entries: dict[str, Any] = {name: {"enabled": False} for name, entry in shipped.items() if "schedule" in entry}
        health = {"skip": ["host"]}
        stable = {
            "lasts": lasts,
            "every": "1s",
            "health": health,
            "tables": {"main": ["audit_events"]},
            "requests": {"selector": 'job="agents"', "before": "1m", "min_requests": 1},
        }
        backup, unsilence = {"min_free": "10MB"}, {"listen": self.listen, "grace": "0s"}
        never = {"at": "2100-01-01T00:00"}
        entries["daily-backup"] = {**never, "steps": {"backup": backup}}
        drill = {"min_free": "10MB", "scratch": "scratch"}
        entries["weekly-restore-drill"] = {**never, "steps": {"restore_drill": drill}}
        entries["emergency-rollback-rehearsal"] = {"steps": {"restore_drill": drill}}
        entries["window-watch"] = {"enabled": True, "every": watch, "steps": {"window_watch": {"grace": "0s"}}}
        entries[ENTRY] = {
            "window": {"lasts": "2h", "rollback_by": "30m", **window},
            "steps": {
                "health_check": health,
                "stability_check": {"tables": stable["tables"]},
                "alerts_silence": {"matchers": [f'service=~"{"|".join(SERVICES)}"'], "lasts": "15m", "grace": "0s"},
                "service_halt": {"within": "20s"},
                "backup": backup,
                "services_restart": {"gate": {"every": "100ms"}},
                "stability_check-2": stable,
                "service_unhalt": {"pause": "9s"},
                "alerts_unsilence": unsilence,
                "undo-alerts_silence": unsilence,
                "undo-service_halt": {"pause": "9s"},
            },
        }
        return str(yaml.safe_dump({"targets": self.targets(), "entries": entries}, sort_keys=False))

    def targets(self) -> dict[str, Any]:
        http = {name: {"url": f"{found.url}/health", "timeout": "15s"} for name, found in self.services.items()}
        folders = {"backup_sets": "sets", "rollback": "rollback", "scratch": "scratch"}
        return {
            "halts": {name: service.target(timeout="5s") for name, service in self.services.items()},
            "http": http,
            "postgres": {"main": {"dsn": self.database.url("trading"), "timeout": "15s", "bin_dir": str(BIN)}},
            "redis": {"main": {"url": self.cache.url, "timeout": "15s"}},
            "docker": {"main": {"url": self.engine_url, "project": self.project.name, "timeout": "20s"}},
            "prometheus": {"main": {"url": self.metrics, "timeout": "15s"}},
            "alertmanager": {"main": {"url": self.alerts.url, "timeout": "8s"}},
            "folders": {name: {"path": str(self.folder / path)} for name, path in folders.items()},
        }

    def restore(self) -> None:
        """Bring all back: services that run, no silence, no backup."""
        for name, service in self.services.items():
            service.fault = service.reads = ""
            service.released.set()
            service.released.clear()
            service.at = lambda point: ""
            service.set(halted=False)
            service.requests.clear()
            container = self.project.get(name)
            if container.status != "running":
                container.start()
        self.alerts.at = lambda point: ""
        api = connect(AlertmanagerTarget(url=self.alerts.behind))
        for silence in self.silences:
            api.expire(silence.id)
        for name in self.sets:
            path = self.folder / "sets" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def started(self) -> dict[str, str]:
        """When each container was started."""
        return {name: self.project.get(name).attrs["State"]["StartedAt"] for name in SERVICES}

    def states(self) -> dict[str, str]:
        """The state of each container by service."""
        return {name.removesuffix("-1"): state for name, (state, _) in self.project.states().items()}


@contextmanager
def window_stack(handle: Callable[[PassingRequest], None] = PassingRequest.pass_on) -> Iterator[WindowStack]:
    """Start the stack. `handle` decides about each request to the engine, see `passing_through`."""
    with ExitStack() as running:
        folder = running.enter_context(folder_for_all())
        for name in ("sets", "rollback", "scratch"):
            (folder / name).mkdir(mode=0o755)
        (folder / "scratch").chmod(0o777)
        database = running.enter_context(postgres())
        database.create("trading")
        with psycopg.connect(database.url("trading"), autocommit=True) as conn:
            conn.execute(_SCHEMA)
        cache = running.enter_context(redis())
        services = {name: running.enter_context(trading_service(cache, name)) for name in SERVICES}
        port = free_port()
        real = running.enter_context(alertmanager(_ALERTMANAGER.format(label=LABEL, port=port)))
        alerts = running.enter_context(interposed(real.url))
        pages = running.enter_context(http_service({"/metrics": _Growing()}))
        config = (
            "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
            f"alerting: {{alertmanagers: [{{static_configs: [{{targets: ['127.0.0.1:{real.port}']}}]}}]}}\n"
            f"scrape_configs: [{{job_name: agents, static_configs: [{{targets: ['{pages.removeprefix('http://')}']}}]}}]\n"
        )
        metrics = running.enter_context(prometheus(config))
        engine = running.enter_context(docker_engine())
        client = running.enter_context(closing(engine.client()))
        make_images(engine, client)
        project = Project(engine, client, "window", "none")
        for number, name in enumerate(SERVICES):
            check = {"test": ["CMD", "true"], "interval": 200_000_000, "retries": 3}
            project.start(name, healthcheck=check, depends_on=SERVICES[:number])
        url = running.enter_context(passing_through(engine, handle))
        yield WindowStack(folder, database, cache, services, project, url, metrics.url, alerts, f"127.0.0.1:{port}")


class _Growing:
    """A page of metrics on which the number of requests grows."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self) -> Reply:
        self._count += 20
        name = "http_request_duration_seconds"
        buckets = "".join(
            f'{name}_bucket{{path="/run",status="200",le="{le}"}} {self._count}\n' for le in (0.1, "+Inf")
        )
        text = f'{buckets}{name}_count{{path="/run",status="200"}} {self._count}\n'
        return Reply(text.encode(), content_type="text/plain; version=0.0.4")
