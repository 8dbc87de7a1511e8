"""An unforeseen fault in what a job reads of one subject hides no other subject and is never success.

Each job runs against real servers with two subjects, a and b. Then it runs again for each place in the code at which
it calls a client for a: with an exception there, and with an answer whose first use raises it, or that has only nulls.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from support import sample_backups as made
from support.databases import Database, database
from support.faults import Fault, calls_of, files_below, requests_to
from support.halting import trading_service
from support.host_roots import HostRoot
from support.http_services import http_service, json_reply
from support.job_runs import JOBS, JobResult, run_job
from support.sample_weeks import history
from support.secret_folders import SecretFolder
from support.servers import certificates as made_certificates
from support.servers.base import free_port, wait_for
from support.servers.docker import DockerEngine, docker_engine
from support.servers.prometheus import CONFIG, WebServer, alertmanager, prometheus
from support.servers.redis import RedisServer
from support.servers.redis import redis as own_redis
from support.servers.registry import registry
from support.users import folder_for_all

from maintd.checks.config_review.baselines import Baselines
from maintd.checks.config_review.snapshot import Snapshot
from maintd.clients.alertmanager import connect as connect_alertmanager
from maintd.job.attempt_info import UnfinishedRun
from maintd.model.evidence import CheckStatus
from maintd.model.target import AlertmanagerTarget

HOST = re.compile(
    r"\b(b|local)\b.*(load|memory|swap|pressure|CPU|clock|time)|(load|memory|swap|pressure|CPU|clock|time).*\bb\b"
)
"""Checks whose status depends on how busy this machine is at the moment."""
ONE_SUBJECT = {
    "command": "it runs one program",
    "access_sign_off": "it records one decision",
    "rollback": "it works on one database, or the services of one engine, and stops at what fails",
    "rollback_loss": "it compares one database with one backup",
    "services_restart": "it stops at the first service that fails, and leaves the others as they are",
    "rehearsal": "as services_recreate, on copies",
    "services_recreate": "it stops at the first service that fails, and leaves the others as they are",
}
TOLERATED = {
    (
        "maintd/checks/prometheus/promql_window.py",
        "Prometheus.query",
    ): "since when there are data; all else is evaluated",
}


@dataclass
class Case:
    """A job with two subjects; `about` is found in the names of the checks of a, `together` in those of both, which
    may be unknown without a."""

    job: str
    about: str
    act: Callable[[Fault], AbstractContextManager[None]]
    targets: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None
    mentioning: str = ""
    together: str = "$^"
    attempt: Mapping[str, Any] = field(default_factory=dict)

    def run(self, fault: Fault) -> JobResult:
        self.prepare()
        fault.mentioning = self.mentioning
        return run_job(self.job, self.params, self.targets, around=self.act(fault), **self.attempt)

    def others(self, result: JobResult) -> dict[str, CheckStatus | None]:
        """The checks that are not about a alone, and the status of those that are not about a at all."""
        return {
            check.name: None if re.search(self.together, check.name) or HOST.search(check.name) else check.status
            for check in result.checks
            if not re.search(self.about, check.name)
        }


Make = Callable[["Stage"], Case]
CASES: dict[str, Make] = {}


def case(name: str) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        CASES[name] = make
        return make

    return add


@dataclass
class Stage:
    """What the cases need, started when it is first asked for."""

    request: pytest.FixtureRequest
    folder: Path
    opened: ExitStack

    def fixture(self, name: str) -> Any:
        return self.request.getfixturevalue(name)

    def databases(self, *statements: str) -> tuple[Database, Database]:
        a, b = (self.opened.enter_context(database(self.fixture("postgres_server"))) for _ in "ab")
        for one in (a, b):
            if statements:
                one.run(*statements)
        return a, b

    def postgres(self, *statements: str) -> dict[str, Any]:
        return {name: {"dsn": one.url} for name, one in zip("ab", self.databases(*statements), strict=True)}

    def redis(self) -> dict[str, Any]:
        servers: tuple[RedisServer, ...] = (self.fixture("redis_server"), self.opened.enter_context(own_redis()))
        for server in servers:
            with closing(server.client()) as client:
                client.flushall()
                for stream in ("sa", "sb"):
                    client.xadd(stream, {"data": "1"})
                    client.xgroup_create(stream, "readers", id="0")
                client.set("session:1", "x")
        return {name: {"url": server.url} for name, server in zip("ab", servers, strict=True)}

    def web(self) -> dict[str, Any]:
        """Prometheus and Alertmanager."""
        metrics, alerts = self.fixture("prometheus_server"), self.fixture("alertmanager_server")
        return {
            "prometheus": {name: {"url": metrics.url} for name in "ab"},
            "alertmanager": {name: {"url": alerts.url} for name in "ab"},
        }

    def http(self) -> dict[str, Any]:
        body = {"status": "ok", "x": 1}
        url = self.opened.enter_context(http_service({"/a": json_reply(body), "/b": json_reply(body)}))
        return {name: {"url": f"{url}/{name}", "expect": {"x": 1}} for name in "ab"}

    def containers(self) -> dict[str, Any]:
        """Two compose projects with a running container each, on one engine."""
        engine: DockerEngine = self.fixture("docker_server")
        image = engine.busybox("maintd-test/isolated:1")
        client = self.opened.enter_context(closing(engine.client()))
        for name in "ab":
            labels = {"com.docker.compose.project": f"p{name}", "com.docker.compose.service": f"s{name}"}
            container = client.containers.run(
                image, ["sleep", "600"], labels=labels, network_mode="none", detach=True, stop_signal="SIGKILL"
            )
            self.opened.callback(container.remove, force=True)
        return {name: {"url": engine.url, "project": f"p{name}"} for name in "ab"}

    def logs(self) -> dict[str, Any]:
        at = datetime.now(UTC).isoformat()
        for name in "ab":
            made.write(self.folder / name / "web.log", f'{{"time":"{at}","status":200}}\n'.encode())
            made.write(self.folder / name / "web.log.1", b"x\n")
        return {name: {"path": str(self.folder / name)} for name in "ab"}


@pytest.fixture
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as opened:
        yield Stage(request, tmp_path, opened)


def of_a(fault: Fault) -> AbstractContextManager[None]:
    return calls_of("a", fault)


# --- Postgres -----------------------------------------------------------------------------------------------------

PLAIN = "WITH (autovacuum_enabled = false)"


@case("vacuum: databases")
def _(stage: Stage) -> Case:
    a, b = stage.databases()

    def bloat() -> None:
        for one in (a, b):
            one.run(
                "DROP TABLE IF EXISTS t",
                f"CREATE TABLE t (id bigint, note text) {PLAIN}",
                "INSERT INTO t SELECT n, 'x' FROM generate_series(1, 400) n",
                "DELETE FROM t WHERE id > 100",
            )

    targets = {"postgres": {"a": {"dsn": a.url}, "b": {"dsn": b.url}}}
    return Case("vacuum", "^a: ", of_a, targets, {"bloat_from": "8kB"}, bloat)


@case("vacuum: tables")
def _(stage: Stage) -> Case:
    a, _b = stage.databases()

    def bloat() -> None:
        for table in ("ta", "tb"):
            a.run(
                f"DROP TABLE IF EXISTS {table}",
                f"CREATE TABLE {table} (id bigint, note text) {PLAIN}",
                f"INSERT INTO {table} SELECT n, 'x' FROM generate_series(1, 400) n",
                f"DELETE FROM {table} WHERE id > 100",
            )

    return Case("vacuum", "public.ta", of_a, {"postgres": {"a": {"dsn": a.url}}}, {}, bloat, mentioning="'ta'")


@case("reindex: databases")
def _(stage: Stage) -> Case:
    a, b = stage.databases("CREATE EXTENSION pgstattuple")

    def bloat() -> None:
        for one in (a, b):
            bloat_index(one, "t")

    targets = {"postgres": {"a": {"dsn": a.url}, "b": {"dsn": b.url}}}
    return Case("reindex", "^a: ", of_a, targets, {"min_size": "100kB"}, bloat)


def bloat_index(db: Database, table: str) -> None:
    db.run(
        f"DROP TABLE IF EXISTS {table}",
        f"CREATE TABLE {table} (id bigint PRIMARY KEY) {PLAIN}",
        f"INSERT INTO {table} SELECT n FROM generate_series(1, 10000) n",
        f"DELETE FROM {table} WHERE id % 10 <> 0",
    )
    db.run(f"VACUUM ANALYZE {table}")


@case("database_size")
def _(stage: Stage) -> Case:
    servers = stage.postgres(
        "CREATE EXTENSION amcheck", "CREATE TABLE t (id bigserial PRIMARY KEY)", "INSERT INTO t DEFAULT VALUES"
    )
    return Case("database_size", "^a: ", of_a, {"postgres": servers})


@case("query_review")
def _(stage: Stage) -> Case:
    servers = stage.postgres("CREATE EXTENSION pg_stat_statements", "CREATE TABLE t (id bigserial PRIMARY KEY)")
    return Case("query_review", "^a: ", of_a, {"postgres": servers})


# --- Redis, Docker, all kinds -------------------------------------------------------------------------------------


@case("redis_maintenance: servers")
def _(stage: Stage) -> Case:
    never = {"slower_than": "1h"}  # this machine may be slow
    params = {**never, "streams": ["sa"], "trim": {"sa": "1h"}, "expire": {"session:*": "1h"}, "unlink": {"old:": "1h"}}
    servers = stage.redis()

    def without_expiry() -> None:
        for server in servers.values():
            with closing(Redis.from_url(server["url"])) as client:
                client.set("session:1", "x")

    return Case("redis_maintenance", "^a: ", of_a, {"redis": servers}, params, without_expiry)


@case("secrets_rotate")
def _(stage: Stage) -> Case:
    servers = stage.redis()
    folder = SecretFolder(stage.folder)
    login = {"kind": "generated", "redis": {"user": "app", "persist": "nowhere"}}

    def prepare() -> None:
        shutil.rmtree(folder.path / ".versions", ignore_errors=True)
        for name, server in servers.items():
            value = f"the-old-password-of-{name}-which-is-long"
            with closing(Redis.from_url(server["url"])) as client:
                client.execute_command("ACL", "SETUSER", "app", "reset", "on", f">{value}", "~*", "+@all")
            about = {**login, "redis": {**login["redis"], "target": name}}
            folder.add(name, value, **about)

    prepare()
    stage.folder.chmod(0o700)
    folder.targets["redis"] = servers
    return Case("secrets_rotate", r"\ba\b", of_a, folder.all_targets(), {"min_age": "0s"}, prepare)


@case("redis_maintenance: streams")
def _(stage: Stage) -> Case:
    servers = {"a": stage.redis()["a"]}
    return Case("redis_maintenance", "stream sa", of_a, {"redis": servers}, {"trim": {"*": "1h"}}, mentioning="'sa'")


@pytest.fixture(scope="module")
def cleaned_engine() -> Iterator[DockerEngine]:
    with docker_engine() as engine:
        yield engine


@case("docker_cleanup")
def _(stage: Stage) -> Case:
    engine: DockerEngine = stage.fixture("cleaned_engine")
    client = stage.opened.enter_context(closing(engine.client()))

    def fill() -> None:
        engine.busybox("app/x:1")  # and the one of the run before has lost its name
        container = client.containers.create("app/x:1", ["true"], network_mode="none")
        container.start()
        wait_for(lambda: client.containers.get(container.id).status == "exited", "the container to end")

    params = {"image_age": "0s", "container_age": "0s", "generations": 1, "networks": "0s", "build_cache": "1h"}
    targets = {"docker": {name: {"url": engine.url} for name in "ab"}}
    return Case("docker_cleanup", "^a: ", of_a, targets, params, fill)


def projects(stage: Stage) -> dict[str, Any]:
    """Two projects, whose images are of a registry; the first has the services sa and sc."""
    engine: DockerEngine = stage.fixture("docker_server")
    images = stage.opened.enter_context(registry())
    client = stage.opened.enter_context(closing(engine.client()))
    for service, project in (("sa", "a"), ("sb", "b"), ("sc", "a")):
        images.push(f"shop/{service}", "1.0", service, index=True)
        client.api.pull(f"{images.host}/shop/{service}", tag="1.0")
        stage.opened.callback(client.images.remove, f"{images.host}/shop/{service}:1.0", force=True)
        images.push(f"shop/{service}", "1.0", f"{service} newer", index=True)
        labels = {"com.docker.compose.project": f"i{project}", "com.docker.compose.service": service}
        container = client.containers.create(f"{images.host}/shop/{service}:1.0", ["/none"], labels=labels)
        stage.opened.callback(container.remove, force=True)
    return {name: {"url": engine.url, "project": f"i{name}"} for name in "ab"}


@case("image_updates: engines")
def _(stage: Stage) -> Case:
    return Case("image_updates", "^(a|sa|sc): ", of_a, {"docker": projects(stage)})


@case("image_updates: images")
def _(stage: Stage) -> Case:
    return Case("image_updates", "^sa: ", of_a, {"docker": projects(stage)}, mentioning="shop/sa")


def everything(stage: Stage) -> dict[str, Any]:
    return {
        "host": {name: {} for name in "ab"},
        "http": stage.http(),
        "postgres": stage.postgres(),
        "redis": stage.redis(),
        "docker": stage.containers(),
        **stage.web(),
    }


@case("health_check")
def _(stage: Stage) -> Case:
    return Case("health_check", r"^\w+ a\b|^\w+( \w+)? sa|: a$|local a| a:", of_a, everything(stage))


@case("health_check: http")
def _(stage: Stage) -> Case:
    return Case("health_check", "^http a", lambda fault: requests_to("/a", fault), {"http": stage.http()})


SHORT = {"lasts": "20ms", "every": "20ms", "requests": None}


@case("stability_check: health")
def _(stage: Stage) -> Case:
    params = {**SHORT, "health": {"include": ["http"]}}
    return Case("stability_check", "^http a", lambda fault: requests_to("/a", fault), {"http": stage.http()}, params)


@case("stability_check: alerts")
def _(stage: Stage) -> Case:
    params = {**SHORT, "health": {"include": ["http"]}}
    targets = {**stage.web(), "http": stage.http()}
    return Case("stability_check", r"^(prometheus|alertmanager) a\b", of_a, targets, params)


@case("stability_check: rows")
def _(stage: Stage) -> Case:
    params = {**SHORT, "health": {"include": ["http"]}, "tables": {"a": ["t"], "b": ["t"]}}
    targets = {"postgres": stage.postgres("CREATE TABLE t (id int)"), "http": stage.http()}
    return Case("stability_check", "^rows of a/", of_a, targets, params)


@case("resource_usage")
def _(stage: Stage) -> Case:
    targets = {"host": {name: {} for name in "ab"}}
    return Case("resource_usage", r"\ba\b", of_a, targets, {"interval": "100ms"})


@case("resource_usage: engines")
def _(stage: Stage) -> Case:
    targets = {"docker": stage.containers()}
    return Case("resource_usage", r"\ba\b|\bsa\b", of_a, targets, {"interval": "100ms"})


@case("resource_usage: folders")
def _(stage: Stage) -> Case:
    params = {"interval": "100ms", "backups": ["a", "b"]}
    act = partial(files_below, stage.folder / "a")
    return Case("resource_usage", "folder a", act, {"folders": stage.logs()}, params)


@case("app_review")
def _(stage: Stage) -> Case:
    targets = {"docker": stage.containers()}
    return Case("app_review", r"\ba\b|\bsa\b", of_a, targets, together="^runtimes: ")


@case("alert_review")
def _(stage: Stage) -> Case:
    return Case("alert_review", r"^\w+ a\b", of_a, stage.web(), together="^alerts: ")


@case("capacity_report")
def _(stage: Stage) -> Case:
    targets = everything(stage) | {"folders": stage.logs()}
    del targets["docker"]
    a, b = stage.databases("CREATE TABLE t (id bigserial PRIMARY KEY)", "INSERT INTO t DEFAULT VALUES")
    targets["postgres"] = {"a": {"dsn": a.url}, "b": {"dsn": b.url}}
    return Case("capacity_report", r"\ba\b", of_a, targets, {"report": False})


@case("capacity_report: engines")
def _(stage: Stage) -> Case:
    return Case("capacity_report", r"\ba\b", of_a, {"docker": stage.containers()}, {"report": False})


@case("capacity_report: folders")
def _(stage: Stage) -> Case:
    act = partial(files_below, stage.folder / "a")
    return Case("capacity_report", "^folder a", act, {"folders": stage.logs()})


@case("doctor")
def _(stage: Stage) -> Case:
    targets = everything(stage)
    jobs = ("health_check", "vacuum", "reindex", "database_size", "redis_maintenance", "docker_cleanup", "alert_review")
    steps = [
        {"entry": "weekly", "step": job, "job": job, "path": str(JOBS / f"{job}.py"), "params": json.dumps({})}
        for job in jobs
    ]
    return Case("doctor", r"^\w+ a\b", of_a, targets, {"calendar": {"steps": steps, "store": None}})


# --- windows ------------------------------------------------------------------------------------------------------


@contextmanager
def two_services(stage: Stage, *, halted: bool) -> Iterator[tuple[dict[str, Any], Callable[[], None], str]]:
    """Their targets, what brings them into this state, and the address of a."""
    redis = stage.fixture("redis_server")
    with trading_service(redis, "a") as a, trading_service(redis, "b") as b:
        targets = a.targets() | {"halts": {"a": a.target(), "b": b.target()}}

        def prepare() -> None:
            for service in (a, b):
                service.set(halted=halted)

        yield targets, prepare, a.url


def halted_records(state: str = "halted") -> dict[str, Any]:
    return {"halts": {name: {"was": "running", "state": state, "run": 1} for name in "ab"}}


@case("service_halt")
def _(stage: Stage) -> Case:
    targets, prepare, url = stage.opened.enter_context(two_services(stage, halted=False))
    return Case("service_halt", "^a: ", partial(requests_to, url), targets, {"within": "0s"}, prepare)


@case("service_unhalt")
def _(stage: Stage) -> Case:
    targets, prepare, url = stage.opened.enter_context(two_services(stage, halted=True))
    params = {"within": "0s", "pause": "0s", "verified_by": ["check"]}
    attempt = {"handed": halted_records(), "outcomes": {"check": "succeeded"}}
    return Case("service_unhalt", "^a: ", partial(requests_to, url), targets, params, prepare, attempt=attempt)


@case("window_watch: halts")
def _(stage: Stage) -> Case:
    targets, prepare, url = stage.opened.enter_context(two_services(stage, halted=False))
    unfinished = (UnfinishedRun(1, "window", False, halted_records()),)
    return Case(
        "window_watch",
        "^a: ",
        partial(requests_to, url),
        targets,
        {"within": "0s"},
        prepare,
        attempt={"unfinished": unfinished},
    )


def two_alertmanagers(stage: Stage) -> dict[str, Any]:
    return {"alertmanager": {name: {"url": stage.opened.enter_context(alertmanager()).url} for name in "ab"}}


def silence_records() -> dict[str, Any]:
    matcher = {"name": "service", "value": "orders", "isRegex": False, "isEqual": True}
    found = {"tag": "1", "matchers": [matcher], "lasts": "300s", "by": "maintd", "state": "silenced"}
    return {"silences": dict.fromkeys("ab", found)}


@case("window_watch: silences")
def _(stage: Stage) -> Case:
    targets = two_alertmanagers(stage)

    def expire() -> None:
        for name, target in targets["alertmanager"].items():
            server = connect_alertmanager(AlertmanagerTarget(**target), name=name)
            for silence in server.silences():
                if silence.state != "expired":
                    server.expire(silence.id)

    attempt = {"unfinished": (UnfinishedRun(1, "window", False, silence_records()),)}
    return Case("window_watch", "^a: ", of_a, targets, {}, expire, attempt=attempt)


@case("alerts_silence")
def _(stage: Stage) -> Case:
    params = {"matchers": ['service="orders"'], "grace": "0s"}
    return Case("alerts_silence", "^a: ", of_a, two_alertmanagers(stage), params, attempt={"unfinished": ()})


@case("alerts_unsilence")
def _(stage: Stage) -> Case:
    targets = two_alertmanagers(stage)

    def silence() -> None:
        assert run_job("alerts_silence", {"matchers": ['service="orders"']}, targets).outcome == "succeeded"

    params = {"listen": f"127.0.0.1:{free_port()}", "grace": "0s"}
    attempt = {"handed": silence_records(), "unfinished": ()}
    return Case("alerts_unsilence", "^a: ", of_a, targets, params, silence, attempt=attempt)


@case("alert_path_test")
def _(stage: Stage) -> Case:
    params = {"listen": f"127.0.0.1:{free_port()}"}
    return Case("alert_path_test", "^a: ", of_a, two_alertmanagers(stage), params)


def backed_up(stage: Stage, **targets: Any) -> dict[str, Any]:
    (stage.folder / "sets").mkdir(exist_ok=True)
    return {**targets, "folders": {"backup_sets": {"path": str(stage.folder / "sets")}}}


AS_A_WHOLE = "^parts missing in the set|^backup_sets: |^free space"
"""Of a set, whatever part is missing; the space that it needs is that of all its databases."""


@case("backup: databases")
def _(stage: Stage) -> Case:
    targets = backed_up(stage, postgres=stage.postgres("CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)"))
    params = {"min_free": "1MB", "last": 1, "daily": 0, "weekly": 0, "monthly": 0, "exclude_databases": ["*"]}
    return Case("backup", r"\bpostgres a\b", of_a, targets, params, together=AS_A_WHOLE)


@case("backup: Redis")
def _(stage: Stage) -> Case:
    servers = stage.redis()
    for server in servers.values():
        with closing(Redis.from_url(server["url"])) as client:
            client.config_set("repl-diskless-sync-delay", 0)
    params = {"min_free": "1MB", "last": 1, "daily": 0, "weekly": 0, "monthly": 0}
    return Case("backup", r"\bredis a\b", of_a, backed_up(stage, redis=servers), params, together=AS_A_WHOLE)


@case("backup: folders")
def _(stage: Stage) -> Case:
    stage.logs()
    params = {"min_free": "1MB", "last": 1, "daily": 0, "weekly": 0, "monthly": 0}
    params["paths"] = {name: str(stage.folder / name) for name in "ab"}
    act = partial(files_below, stage.folder / "a")
    return Case("backup", r"\bfiles a\b", act, backed_up(stage), params, together=AS_A_WHOLE)


@case("rollback_manifest: engines")
def _(stage: Stage) -> Case:
    folder = stage.folder / "manifests"
    folder.mkdir(exist_ok=True)
    targets = {"docker": stage.containers(), "folders": {"rollback": {"path": str(folder)}}}
    together = "^parts missing in the manifest"
    return Case("rollback_manifest", r"\bdocker a\b", of_a, targets, {"keep": 1, "keep_tags": 1}, together=together)


@case("rollback_manifest: servers")
def _(stage: Stage) -> Case:
    folder = stage.folder / "manifests"
    folder.mkdir(exist_ok=True)
    targets = {"redis": stage.redis(), "postgres": stage.postgres(), "folders": {"rollback": {"path": str(folder)}}}
    together = "^parts missing in the manifest"
    return Case("rollback_manifest", r"\b(redis|postgres) a\b", of_a, targets, {"keep": 1}, together=together)


@case("restore_drill: Redis")
def _(stage: Stage) -> Case:
    servers = stage.redis()
    for server in servers.values():
        with closing(Redis.from_url(server["url"])) as client:
            client.config_set("repl-diskless-sync-delay", 0)
    made_set = run_job("backup", {"min_free": "1MB"}, backed_up(stage, redis=servers))
    assert made_set.outcome == "succeeded", made_set.text()
    scratch = stage.opened.enter_context(folder_for_all())
    targets = {"folders": {"backup_sets": {"path": str(stage.folder / "sets")}, "scratch": {"path": str(scratch)}}}
    act = partial(calls_of, "redis a")
    params = {"min_free": "1MB", "scratch": "scratch"}
    return Case("restore_drill", r"\bredis a\b", act, targets, params, together="^recovery time")


# --- files --------------------------------------------------------------------------------------------------------


def backups(folder: Path) -> dict[str, Any]:
    for name in "ab":
        for number in (1, 2):
            data = made.gz(made.tar_of(made.SECRETS))
            made.write(folder / name / f"set{name}-2026010{number}.tar.gz", data, summed=True)
    return {"folders": {name: {"path": str(folder / name)} for name in "ab"}}


@case("backup_verify: folders")
def _(stage: Stage) -> Case:
    act = partial(files_below, stage.folder / "a")
    return Case("backup_verify", r"in a\b|seta", act, backups(stage.folder), {"folders": ["a", "b"]})


@case("backup_verify: files")
def _(stage: Stage) -> Case:
    for name in "ab":
        made.write(stage.folder / f"set{name}-20260101.tar.gz", made.gz(made.tar_of(made.SECRETS)), summed=True)
    act = partial(files_below, stage.folder / "seta-20260101.tar.gz")
    return Case("backup_verify", "seta", act, {}, {"root": str(stage.folder)})


@case("log_cleanup")
def _(stage: Stage) -> Case:
    act = partial(files_below, stage.folder / "a")
    return Case("log_cleanup", "^a: ", act, {"folders": stage.logs()}, {"folders": ["a", "b"], "rotation": None})


@case("log_cleanup: engines")
def _(stage: Stage) -> Case:
    targets = {"folders": stage.logs(), "docker": stage.containers()}
    return Case("log_cleanup", "^a: ", of_a, targets, {"folders": ["b"], "rotation": None})


@case("security_log_review: a file")
def _(stage: Stage) -> Case:
    at = datetime.now(UTC)
    for name in "ab":
        line = f'{{"time":"{at.isoformat()}","status":403,"path":"/{name}"}}\n'
        made.write(stage.folder / "logs" / f"{name}.log", line.encode() * 30)
    made.write(stage.folder / "auth.log", f"{at.isoformat()} web sshd[7]: Server listening on :: port 22.\n".encode())
    act = partial(files_below, stage.folder / "logs/a.log")
    params = {"auth_log": str(stage.folder / "auth.log"), "folder": "logs"}
    targets = {"folders": {"logs": {"path": str(stage.folder / "logs")}}}
    return Case("security_log_review", "a.log", act, targets, params, together="^requests: ")


@case("security_log_review: engines")
def _(stage: Stage) -> Case:
    made.write(stage.folder / "auth.log", f"{datetime.now(UTC).isoformat()} web sshd[7]: Server listening.\n".encode())
    params = {"auth_log": str(stage.folder / "auth.log")}
    return Case("security_log_review", "docker a", of_a, {"docker": stage.containers()}, params, together="^requests: ")


@case("security_log_review: logins")
def _(stage: Stage) -> Case:
    made.write(stage.folder / "auth.log", f"{datetime.now(UTC).isoformat()} web sshd[7]: Server listening.\n".encode())
    act = partial(files_below, stage.folder / "auth.log")
    params = {"auth_log": str(stage.folder / "auth.log"), "folder": "a"}
    return Case("security_log_review", "^logins", act, {"folders": stage.logs()}, params)


@case("config_accept")
def _(stage: Stage) -> Case:
    (stage.folder / "approved").mkdir()
    seen = [Snapshot(f"redis {name}", {"maxmemory": "0"}) for name in "ab"]
    for item in seen:
        Baselines(stage.folder).observe(item, datetime.now(UTC), 1, ())
    params = {"digests": ",".join(item.digest for item in seen), "why": "it is right"}
    targets = {"folders": {"config_baselines": {"path": str(stage.folder)}}}
    attempt = {"approvals": {"gate": "approved by ada"}}
    act = partial(files_below, stage.folder / "approved/redis-a")
    return Case("config_accept", "^redis a: ", act, targets, params, attempt=attempt)


@case("config_review")
def _(stage: Stage) -> Case:
    for name in "ab":
        made.write(stage.folder / f"{name}.yaml", b"x: 1\n")
    params = {"files": [str(stage.folder / f"{name}.yaml") for name in "ab"], "docker": []}
    targets = {"folders": {"config_baselines": {"path": str(stage.folder)}}}
    return Case("config_review", r"/a\.yaml: ", partial(files_below, stage.folder / "a.yaml"), targets, params)


@case("host_review")
def _(stage: Stage) -> Case:
    for name in "ab":
        for key, value in (("swappiness", "10"), ("overcommit_memory", "1")):
            made.write(stage.folder / name / "proc/sys/vm" / key, value.encode())
        made.write(stage.folder / name / "etc/sysctl.d/9.conf", b"vm.swappiness = 10\nvm.overcommit_memory = 1\n")
        made.write(stage.folder / name / "proc/diskstats", b"8 0 sda 9 0 0 9 9 0 0 9 0 9 9 0\n")
        made.write(stage.folder / name / "proc/1/net/tcp", b"  sl  local_address rem_address   st\n")
        made.write(stage.folder / name / "proc/1/net/udp", b"  sl  local_address rem_address   st\n")
        made.write(stage.folder / name / "proc/1/mountinfo", b"25 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
    hosts = {name: {"root": str(stage.folder / name), "proc": str(stage.folder / name / "proc")} for name in "ab"}
    params = {"interval": "100ms", "hosts": ["a", "b"]}
    return Case("host_review", "^host a: ", partial(files_below, stage.folder / "a"), {"host": hosts}, params)


@case("security_audit: engines")
def _(stage: Stage) -> Case:
    params = {"hosts": []}
    return Case("security_audit", "^docker a: ", of_a, {"docker": stage.containers()}, params)


@case("certificates: servers")
def _(stage: Stage) -> Case:
    issued = made_certificates.self_signed("web")
    context = made_certificates.server_context(issued, stage.folder)
    port = stage.opened.enter_context(made_certificates.listener(made_certificates.presents(context)))
    targets = {"tls": {name: {"address": f"127.0.0.1:{port}", "timeout": "60s"} for name in "ab"}}
    return Case("certificates", "^tls a: ", partial(calls_of, "tls a"), targets)


@case("certificates: files")
def _(stage: Stage) -> Case:
    for name in "ab":
        made.write(stage.folder / f"{name}.pem", made_certificates.self_signed(name).pem)
    act = partial(files_below, stage.folder / "a.pem")
    return Case("certificates", r"/a\.pem", act, {"folders": {"certificates": {"path": str(stage.folder)}}})


@case("retention_compliance")
def _(stage: Stage) -> Case:
    for name in "ab":
        (stage.folder / name).mkdir()
        (stage.folder / name / "app-2026-01-01.log").write_text("x")
    classes = {name: {"folder": name, "keep_at_least": "1d"} for name in "ab"}
    folders = {name: {"path": str(stage.folder / name)} for name in "ab"}
    act = partial(files_below, stage.folder / "a")
    return Case("retention_compliance", "^a: ", act, {"folders": folders}, {"classes": classes})


@case("dependency_review")
def _(stage: Stage) -> Case:
    lock = {"version": "1.0.0", "resolved": "https://registry.npmjs.org/x/-/x-1.0.0.tgz"}
    paths = [stage.folder / name / "package-lock.json" for name in "ab"]
    for path in paths:
        path.parent.mkdir()
        path.write_text(json.dumps({"lockfileVersion": 3, "packages": {"": {}, "node_modules/x": lock}}))
    record = {"id": "GHSA-x", "modified": datetime.now(UTC).isoformat()}
    package = {"package": {"name": "y", "ecosystem": "npm"}, "versions": ["1.0.0"]}
    export = stage.folder / "export" / "x.json"
    export.parent.mkdir()
    export.write_text(json.dumps({**record, "affected": [package]}))
    params = {"lock_files": [str(path) for path in paths], "advisories": ["export"], "export": str(export.parent)}
    return Case("dependency_review", "/a/package-lock.json", partial(files_below, paths[0].parent), {}, params)


@case("os_updates")
def _(stage: Stage) -> Case:
    for name in "ab":
        HostRoot(stage.folder / name)
    targets = {"host": {n: {"root": str(stage.folder / n), "proc": str(stage.folder / n / "proc")} for n in ("a", "b")}}
    act = partial(files_below, stage.folder / "a")
    return Case("os_updates", "^a: ", act, targets, {"hosts": ["a", "b"]})


@case("access_review")
def _(stage: Stage) -> Case:
    for name in "ab":
        for file, text in (
            ("passwd", "root:x:0:0::/root:/bin/sh"),
            ("group", "root:x:0:"),
            ("sudoers", "root ALL=ALL"),
        ):
            path = stage.folder / name / "etc" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
    targets = {"host": {n: {"root": str(stage.folder / n), "proc": str(stage.folder / n / "proc")} for n in ("a", "b")}}
    act = partial(files_below, stage.folder / "a")
    return Case("access_review", "^host a: ", act, targets, {"hosts": ["a", "b"]})


# --- queries ------------------------------------------------------------------------------------------------------

COUNT = "SELECT count(*) AS count FROM {} WHERE at >= %(since)s AND at < %(until)s"


def trading(stage: Stage) -> dict[str, Any]:
    figures = {"date": datetime.now(UTC).date().isoformat(), "realized": 1, "percent": 1, "halted": False}
    url = stage.opened.enter_context(http_service({"/pnl/status": json_reply(figures)}))
    one, _ = stage.databases("CREATE TABLE oa (at timestamptz)", "CREATE TABLE ob (at timestamptz)")
    return {
        "http": {"main": {"url": f"{url}/health"}},
        "postgres": {"a": {"dsn": one.url}},
        "redis": {"a": stage.redis()["a"]},
        "prometheus": {"main": {"url": stage.fixture("prometheus_server").url}},
    }


ACTIVITY = {
    "database": "a",
    "cache": "a",
    "queries": {table: {"table": table, "sql": COUNT.format(table)} for table in ("oa", "ob")},
    "streams": ["sa", "sb"],
    "metrics": {"ma": "vector(1) + 0", "mb": "vector(1)"},
}


@case("trading_review: queries")
def _(stage: Stage) -> Case:
    return Case("trading_review", r"\boa\b", of_a, trading(stage), ACTIVITY, mentioning="oa")


@case("trading_review: streams")
def _(stage: Stage) -> Case:
    return Case("trading_review", r"\bsa\b", of_a, trading(stage), ACTIVITY, mentioning="'sa'")


@case("trading_review: metrics")
def _(stage: Stage) -> Case:
    act = partial(calls_of, "prometheus")
    return Case("trading_review", r"\bma\b", act, trading(stage), ACTIVITY, mentioning="vector(1) + 0")


@case("trading_review: servers")
def _(stage: Stage) -> Case:
    return Case("trading_review", r"\b(oa|ob|sa|sb)\b|^(postgres|redis):", of_a, trading(stage), ACTIVITY)


@case("trading_review: figures")
def _(stage: Stage) -> Case:
    act = partial(requests_to, "/pnl/status")
    return Case("trading_review", "figures|date|realized|percent|halted", act, trading(stage), ACTIVITY)


@pytest.fixture(scope="module")
def weeks() -> Iterator[WebServer]:
    """Prometheus with the history of a service."""
    with prometheus(CONFIG, history()) as server:
        yield server


def reported(stage: Stage) -> tuple[dict[str, Any], dict[str, Any]]:
    one, _ = stage.databases("CREATE TABLE oa (n int)", "CREATE TABLE ob (n int)", "INSERT INTO ob VALUES (1)")
    one.run("INSERT INTO oa VALUES (1)")
    targets = {"postgres": {"a": {"dsn": one.url}}, "prometheus": {"main": {"url": stage.fixture("weeks").url}}}
    queries = {
        name: {"title": name, "sql": f"SELECT sum(n) AS n FROM {name} WHERE %(start)s < %(end)s"}
        for name in ("oa", "ob")
    }
    return targets, {"postgres": "a", "queries": queries}


@case("performance_report: queries")
def _(stage: Stage) -> Case:
    targets, params = reported(stage)
    act = partial(calls_of, "postgres")
    return Case("performance_report", r"\boa\b", act, targets, params, mentioning="oa")


@case("performance_report: servers")
def _(stage: Stage) -> Case:
    targets, params = reported(stage)
    act = partial(calls_of, "postgres")
    return Case("performance_report", r"\bo[ab]\b|query", act, targets, params)


@case("performance_report: Prometheus")
def _(stage: Stage) -> Case:
    targets, params = reported(stage)
    act = partial(calls_of, "prometheus")
    return Case("performance_report", "^(?!query)", act, targets, params)


# --- the contract -------------------------------------------------------------------------------------------------


@pytest.mark.server
@pytest.mark.engine
@pytest.mark.parametrize("name", CASES)
def test_an_unforeseen_error_in_one_subject_hides_no_other(stage: Stage, name: str) -> None:
    found = CASES[name](stage)
    calls = Fault()
    usual = found.run(calls)
    assert usual.error is None, usual.text()
    assert calls.seen, "no call of a client was seen"
    others = found.others(usual)

    problems = []
    for number, (place, kinds) in enumerate(calls.seen.items()):
        for kind in (kinds[0], kinds[1 + number % len(kinds[1:])]) if kinds[1:] else kinds:
            fault = Fault(place, kind)
            result = found.run(fault)
            if fault.happened and (problem := problem_of(found, others, fault, result)):
                problems.append(f"{kind} at {place}: {problem}")

    assert problems == [], "\n\n".join(problems)


def problem_of(found: Case, others: Mapping[str, CheckStatus | None], fault: Fault, result: JobResult) -> str:
    """What is wrong with a run with a fault; empty when nothing is."""
    if result.error is not None:
        return f"the job raised\n{result.traceback}"
    seen = found.others(result)
    lost = {check: status for check, status in others.items() if check not in seen or seen[check] is not status}
    if lost:
        return f"other subjects: {lost}\n{result.text()}"
    # Some fields may be null, so that what a job makes of it is the subject of other tests.
    if fault.kind == "nulls" or (fault.place and (fault.place[0], fault.place[2]) in TOLERATED):
        return ""
    if result.outcome not in ("unknown", "failed"):
        return f"the run is {result.outcome}\n{result.text()}"
    named = any("OddError" in f"{check.observed} {check.hint}" for check in result.checks)
    return "" if named else f"no check has the cause\n{result.text()}"


def test_every_job_with_several_subjects_has_a_case() -> None:
    jobs = {path.stem for path in JOBS.glob("*.py")} - {"__init__"}

    assert {name.partition(":")[0] for name in CASES} | set(ONE_SUBJECT) == jobs
