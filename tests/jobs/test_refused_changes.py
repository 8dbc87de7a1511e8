"""Every change that a job can make, refused by a real server: it is recorded as not made, and the run is not ok.

`SCENARIOS` has at least one refusal or failure for each action in the jobs; a new action without one fails here.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.compose_project import BROKEN, NEWER, Project, make_images
from support.databases import Database, database
from support.halting import trading_service
from support.http_services import http_service, interposed, json_reply
from support.job_runs import JOBS, JobResult, run_job
from support.rollbacks import NAME, Origin, Site, origin_of_backup, rollback_site
from support.secret_folders import SecretFolder
from support.servers.base import wait_for
from support.servers.docker import DockerEngine, docker_engine
from support.servers.journal import JournalMessage, journal
from support.servers.postgres import PostgresServer
from support.servers.prometheus import WebServer
from support.servers.redis import RedisServer
from support.servers.redis import redis as own_redis
from support.servers.refusing_engine import refusing_engine
from support.servers.registry import Registry, registry
from support.users import as_unprivileged_user, folder_for_all

from maintd.checks.config_review.baselines import Baselines
from maintd.checks.config_review.snapshot import Snapshot
from maintd.checks.postgres.reindex import Marker, marked_comment
from maintd.job.attempt_info import Point
from maintd.model.evidence import Change, ChangeState, Check, CheckStatus

Scenario = Callable[[pytest.FixtureRequest], JobResult]

SCENARIOS: dict[str, dict[str, Scenario]] = {}
"""By action, by what prevents it."""

NOT_MADE = {ChangeState.REFUSED, ChangeState.FAILED, ChangeState.UNCERTAIN}


def scenario(action: str, cause: str) -> Callable[[Scenario], Scenario]:
    def add(function: Scenario) -> Scenario:
        SCENARIOS.setdefault(action, {})[cause] = function
        return function

    return add


# --- Postgres -----------------------------------------------------------------------------------------------------


@contextmanager
def bloated(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database with a table of dead rows whose primary key is a tenth full."""
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with database(server) as db:
        db.run(
            "CREATE EXTENSION pgstattuple",
            "CREATE TABLE events (id bigint PRIMARY KEY, note text) WITH (autovacuum_enabled = false)",
            "INSERT INTO events SELECT n, 'x' FROM generate_series(1, 40000) n",
            "DELETE FROM events WHERE id % 10 <> 0",
        )
        yield db


@scenario("vacuum", "a role without rights, which Postgres only warns about")
def vacuum_without_rights(request: pytest.FixtureRequest) -> JobResult:
    with bloated(request) as db:
        return db.job("vacuum", as_role=db.role("ro", "pg_monitor", "pg_read_all_data"))


@scenario("accept", "a folder that cannot be written")
def accept_without_a_folder(request: pytest.FixtureRequest) -> JobResult:
    folder: Path = request.getfixturevalue("tmp_path")
    seen = Snapshot("redis main", {"maxmemory": "0"})
    Baselines(folder).observe(seen, datetime.now(UTC), 1, ())
    (folder / "approved").write_text("a file in its place")
    params = {"digests": seen.digest, "why": "it is right"}
    targets = {"folders": {"config_baselines": {"path": str(folder)}}}
    return run_job("config_accept", params, targets, approvals={"gate": "approved by ada"})


@scenario("vacuum", "a lock")
def vacuum_of_a_locked_table(request: pytest.FixtureRequest) -> JobResult:
    with bloated(request) as db, db.session("LOCK TABLE events IN ACCESS EXCLUSIVE MODE"):
        return db.job("vacuum", {"lock_timeout": "200ms"})


@scenario("analyze", "a role without rights, which Postgres only warns about")
def analyze_without_rights(request: pytest.FixtureRequest) -> JobResult:
    with bloated(request) as db:
        db.run("VACUUM ANALYZE events", "INSERT INTO events SELECT n, 'y' FROM generate_series(90001, 90800) n")
        return db.job("vacuum", as_role=db.role("ro", "pg_monitor", "pg_read_all_data"))


@contextmanager
def forbidding(db: Database, tag: str) -> Iterator[None]:
    """No session may run this command: a rule of the site, which no grant shows."""
    raised = "RAISE 'not here' USING ERRCODE = 'insufficient_privilege'"
    body = f"BEGIN IF current_setting('application_name') LIKE 'maintd%' THEN {raised}; END IF; END"
    db.run(
        f"CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS $${body}$$",
        f"CREATE EVENT TRIGGER forbid ON ddl_command_start WHEN TAG IN ('{tag}') EXECUTE FUNCTION forbid()",
    )
    yield
    db.run("DROP EVENT TRIGGER forbid")


@scenario("reindex", "a rule of the site")
def reindex_denied(request: pytest.FixtureRequest) -> JobResult:
    with bloated(request) as db:
        db.run("VACUUM ANALYZE events")
        with forbidding(db, "COMMENT"):
            return db.job("reindex", {"min_size": "500kB"})


@scenario("reindex", "an open writer")
def reindex_beside_an_open_writer(request: pytest.FixtureRequest) -> JobResult:
    with bloated(request) as db:
        db.run("VACUUM ANALYZE events")
        with db.session("INSERT INTO events VALUES (-1, 'open')"):
            return db.job("reindex", {"min_size": "500kB", "lock_timeout": "300ms"})


@contextmanager
def leftover(request: pytest.FixtureRequest) -> Iterator[Database]:
    """An invalid index that a rebuild of maintd has left."""
    with bloated(request) as db:
        db.run("VACUUM ANALYZE events")
        with (
            db.session("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM pg_class"),
            psycopg.connect(db.url, autocommit=True) as conn,
            pytest.raises(psycopg.errors.LockNotAvailable),
        ):
            conn.execute("SET lock_timeout = '200ms'")
            conn.execute("REINDEX INDEX CONCURRENTLY events_pkey")
        mark = marked_comment(Marker(None, frozenset()), datetime.now(UTC))
        db.run(f"COMMENT ON INDEX events_pkey IS '{mark}'")
        yield db


@scenario("drop index", "a rule of the site")
def drop_denied(request: pytest.FixtureRequest) -> JobResult:
    with leftover(request) as db, forbidding(db, "DROP INDEX"):
        return db.job("reindex", {"min_size": "1GB"})


@scenario("drop index", "an open writer")
def drop_beside_an_open_writer(request: pytest.FixtureRequest) -> JobResult:
    with leftover(request) as db, db.session("INSERT INTO events VALUES (-1, 'open')"):
        return db.job("reindex", {"min_size": "1GB", "lock_timeout": "300ms"})


# --- Redis --------------------------------------------------------------------------------------------------------


@contextmanager
def redis_user(*rules: str, options: tuple[str, ...] = ()) -> Iterator[tuple[RedisServer, Mapping[str, str]]]:
    """A server, and a login that may do everything but what the rules take away."""
    with own_redis(*options) as server, closing(server.client()) as client:
        client.execute_command("ACL", "SETUSER", "op", "on", ">secret", "~*", "&*", "+@all", *rules)
        client.mset({f"idem:{name}": 1 for name in "ab"} | {f"user:{number}": 1 for number in range(50)})
        yield server, {"username": "op", "password": "secret"}


def look_after(server: RedisServer, login: Mapping[str, str], **params: Any) -> JobResult:
    return run_job("redis_maintenance", {"load": 1, **params}, {"redis": {"main": {"url": server.url, **login}}})


@contextmanager
def broken_snapshot(server: RedisServer) -> Iterator[None]:
    """No save succeeds in the block: no file can take the snapshot's place."""
    path = server.folder / "dump.rdb"
    path.unlink(missing_ok=True)
    path.mkdir()
    yield
    path.rmdir()


@scenario("save", "the users file")
def save_denied(request: pytest.FixtureRequest) -> JobResult:
    with redis_user("-bgsave") as (server, login):
        return look_after(server, login)


@scenario("save", "a snapshot that cannot be written")
def save_that_fails(request: pytest.FixtureRequest) -> JobResult:
    with redis_user() as (server, login), broken_snapshot(server):
        return look_after(server, login)


@scenario("configure", "the users file")
def configure_denied(request: pytest.FixtureRequest) -> JobResult:
    with redis_user("-config|set", options=("--save", "3600 1")) as (server, login), broken_snapshot(server):
        result = look_after(server, login)
        with closing(server.client()) as client:
            client.config_set("save", "")  # else it would not stop when asked to
        return result


@scenario("configure", "the users file, when what maintd had set is to be undone")
def undo_denied(request: pytest.FixtureRequest) -> JobResult:
    with redis_user("-config|set", options=("--stop-writes-on-bgsave-error", "no")) as (server, login):
        ours = {"redis_writes_without_saves": [Point(datetime.now(UTC) - timedelta(days=1), 1, {"server": "main"})]}
        targets = {"redis": {"main": {"url": server.url, **login}}}
        return run_job("redis_maintenance", {"load": 1}, targets, series=ours)


@scenario("expire", "the users file")
def expire_denied(request: pytest.FixtureRequest) -> JobResult:
    with redis_user("-pexpire") as (server, login):
        return look_after(server, login, save=False, expire={"idem:*": "1h"})


@scenario("expire", "the users file, for one of the keys")
def expire_denied_in_part(request: pytest.FixtureRequest) -> JobResult:
    with redis_user("-pexpire", "(~idem:a +pexpire)") as (server, login):
        result = look_after(server, login, save=False, expire={"idem:*": "1h"})
        with closing(server.client()) as client:
            seen = sum(int(client.ttl(f"idem:{name}")) > 0 for name in "ab")
    recorded = sum(int(change.details.get("changed") or 0) for change in result.changes)
    assert (seen, recorded) == (1, 1), result.text()
    return result


@scenario("unlink", "the users file")
def unlink_denied(request: pytest.FixtureRequest) -> JobResult:
    with redis_user("-unlink") as (server, login):
        return look_after(server, login, save=False, unlink={"idem:": "0s"})


@scenario("trim", "the users file")
def trim_denied(request: pytest.FixtureRequest) -> JobResult:
    with redis_user("-xtrim") as (server, login), closing(server.client()) as client:
        for number in range(250):
            client.xadd("events", {"n": number}, id=f"{int(time.time() * 1000) - 9 * 86_400_000 + number}-0")
        return look_after(server, login, save=False, trim={"events": "7d"})


# --- Docker -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    """What is to be removed here must not be that of other tests."""
    with docker_engine() as started:
        yield started


@dataclass
class Stack:
    """An engine with an old container, three old images and an unused network, and a registry with a newer image."""

    engine: DockerEngine
    images: Registry
    network: str = ""

    def clean(self, request: str, status: int) -> JobResult:
        """Run the clean-up while the engine answers these requests with this status."""
        params = {"image_age": "0s", "container_age": "0s", "generations": 1, "max_share": 1.0, "networks": "30d"}
        labels = {"engine": "main", "network": self.network[:24]}
        series = {"docker_network_unused": [Point(datetime.now(UTC) - timedelta(days=40), 1, labels)]}
        with refusing_engine(self.engine, request, status) as url:
            return run_job("docker_cleanup", params, {"docker": {"main": {"url": url}}}, series=series)

    def update(self, url: str) -> JobResult:
        targets = {"docker": {"main": {"url": url, "project": "shop"}}}
        return run_job("image_updates", {"pull": True, "through": "registry"}, targets)


@contextmanager
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    engine: DockerEngine = request.getfixturevalue("engine")
    with registry() as images, closing(engine.client()) as client:
        made = Stack(engine, images)
        try:
            for number in range(1, 4):
                engine.busybox(f"app/x:{number}")
            ended = client.containers.create("app/x:3", ["true"], name="ended", network_mode="none")
            ended.start()
            wait_for(lambda: client.containers.get(ended.id).status == "exited", "the container to end")
            engine.network("left-over", 1)
            made.network = client.networks.get("left-over").id
            images.push("app", "1.0", "one")
            client.api.pull(f"{images.host}/app", tag="1.0")
            labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": "shop"}
            client.containers.create(f"{images.host}/app:1.0", command=["/none"], labels=labels)
            images.push("app", "1.0", "two")
            yield made
        finally:
            engine.remove_all()
            for image in client.images.list():
                client.images.remove(image.id, force=True)


def cleaning(request: str, status: int) -> Scenario:
    def run(fixtures: pytest.FixtureRequest) -> JobResult:
        with stack(fixtures) as made:
            return made.clean(request, status)

    return run


for _action, _request in {
    "remove container": r"DELETE /v[\d.]+/containers/.*",
    "remove image": r"DELETE /v[\d.]+/images/.*",
    "remove network": r"DELETE /v[\d.]+/networks/.*",
    "prune build cache": r"POST /v[\d.]+/build/prune",
}.items():
    for _cause, _status in {"a proxy": 403, "a conflict": 409, "an error of the engine": 500}.items():
        scenario(_action, _cause)(cleaning(_request, _status))


@scenario("pull", "a registry that requires a login")
def pull_denied(request: pytest.FixtureRequest) -> JobResult:
    path, text = r"POST /v[\d.]+/images/create", "pull access denied for app"
    with stack(request) as made, refusing_engine(made.engine, path, 404, text) as url:
        return made.update(url)


@scenario("pull", "a registry without the layers")
def pull_not_found(request: pytest.FixtureRequest) -> JobResult:
    with stack(request) as made:
        made.images.blobs.clear()
        return made.update(made.engine.url)


@scenario("pull", "an error of the engine")
def pull_that_fails(request: pytest.FixtureRequest) -> JobResult:
    with stack(request) as made, refusing_engine(made.engine, r"POST /v[\d.]+/images/create", 500) as url:
        return made.update(url)


def tagging(status: int) -> Scenario:
    def run(fixtures: pytest.FixtureRequest) -> JobResult:
        with stack(fixtures) as made, refusing_engine(made.engine, r"POST /v[\d.]+/images/.*/tag", status) as url:
            return made.update(url)

    return run


for _cause, _status in {"a proxy": 403, "a conflict": 409}.items():
    scenario("tag", _cause)(tagging(_status))


@contextmanager
def project(request: pytest.FixtureRequest) -> Iterator[Project]:
    """A compose project with one service that runs, and images to replace it with."""
    engine: DockerEngine = request.getfixturevalue("engine")
    with closing(engine.client()) as client:
        make_images(engine, client)
        made = Project(engine, client, "refusing", "none")
        try:
            made.start("api")
            yield made
        finally:
            made.remove()
            # A child was made after the image that it is built on.
            for image in sorted(client.images.list(), key=lambda image: image.attrs["Created"], reverse=True):
                client.images.remove(image.id, force=True)


def on_services(job: str, params: Mapping[str, Any], request: str, status: int, *, stopped: bool = False) -> Scenario:
    """Works on the service while the engine answers these requests with this status."""

    def run(fixtures: pytest.FixtureRequest) -> JobResult:
        with project(fixtures) as made, refusing_engine(made.engine, request, status) as url:
            if stopped:
                made.get("api").stop(timeout=0)
            return made.run(job, {"gate": {"engine_silent": "100ms"}, **params}, url=url)

    return run


_CONTAINERS = r"/v[\d.]+/containers"
_NEWER, _BROKEN = {"images": {"api": NEWER}}, {"images": {"api": BROKEN}}
for _cause, _status in {"a proxy": 403, "an error of the engine": 500}.items():
    scenario("restart", _cause)(on_services("services_restart", {}, rf"POST {_CONTAINERS}/.*/restart", _status))
    scenario("start", _cause)(
        on_services("services_restart", {"stopped": True}, rf"POST {_CONTAINERS}/.*/start", _status, stopped=True)
    )
    scenario("recreate", _cause)(on_services("services_recreate", _NEWER, rf"POST {_CONTAINERS}/create", _status))
    scenario("swap back", _cause)(on_services("services_recreate", _BROKEN, rf"DELETE {_CONTAINERS}/.*", _status))
scenario("recreate", "a name that is taken")(
    on_services("services_recreate", _NEWER, rf"POST {_CONTAINERS}/.*/rename", 409)
)
scenario("remove container", "a proxy, after a replacement")(
    on_services("services_recreate", _NEWER, rf"DELETE {_CONTAINERS}/.*", 403)
)


def rehearsing(request: str, status: int) -> Scenario:
    """Rehearses the rollback of the service while the engine answers these requests with this status."""

    def run(fixtures: pytest.FixtureRequest) -> JobResult:
        folder = fixtures.getfixturevalue("tmp_path")
        places = {"folders": {"rollback": {"path": str(folder)}}}
        with project(fixtures) as made:
            recorded = run_job("rollback_manifest", {"postgres": [], "redis": []}, made.targets(**places))
            assert recorded.outcome == "succeeded", recorded.text()
            params = {"gate": {"every": "50ms", "settle": "0s"}, "only_running": ["api"]}
            with refusing_engine(made.engine, request, status) as url:
                found = run_job("rehearsal", params, made.targets(url, **places))
            run_job("rehearsal", params, made.targets(**places))  # removes what the refused one has left
            return found

    return run


for _cause, _status in {"a proxy": 403, "an error of the engine": 500}.items():
    scenario("create network", _cause)(rehearsing(r"POST /v[\d.]+/networks/create", _status))
    scenario("create container", _cause)(rehearsing(rf"POST {_CONTAINERS}/create", _status))
    scenario("remove network", _cause)(rehearsing(r"DELETE /v[\d.]+/networks/.*", _status))


def draining(**answers: int) -> Scenario:
    """Drains a service that answers these paths with these statuses."""

    def run(fixtures: pytest.FixtureRequest) -> JobResult:
        pages = {f"/{path}": json_reply({}, status) for path, status in answers.items()}
        with project(fixtures) as made, http_service({**pages, "/health": json_reply({"status": "ok"})}) as url:
            drain = {path_of: {"target": "api", "path": path} for path_of, path in _DRAIN.items()}
            places = {"http": {"api": {"url": f"{url}/health"}}}
            return made.run("services_restart", {"drain": {"api": drain}}, places=places)

    return run


_DRAIN = {"request": "/drain", "resume": "/resume"}
scenario("drain", "a service that requires a login")(draining(drain=401, resume=200))
scenario("drain", "a service that fails")(draining(drain=500, resume=200))
scenario("resume", "a service that requires a login")(draining(drain=200, resume=403))


def rolling_back(at: str, *statements: str, places: str = "postgres", **params: Any) -> Scenario:
    """Rolls a database back, and executes statements when the change `at` was declared."""

    def run(fixtures: pytest.FixtureRequest) -> JobResult:
        site: Site = fixtures.getfixturevalue("rollback_of_data")

        def prevent(change: Change) -> None:
            if change.action == at:
                site.do(*statements, database=places)

        with site.as_login("trader", "pg_signal_backend", "CONNECT ON DATABASE trading", options="CREATEDB"):
            return site.run(at_intent=prevent, **params)

    return run


@pytest.fixture(scope="module")
def backed_up() -> Iterator[tuple[Origin, RedisServer]]:
    with origin_of_backup() as origin, own_redis() as cache:
        yield origin, cache


@pytest.fixture
def rollback_of_data(backed_up: tuple[Origin, RedisServer]) -> Iterator[Site]:
    with rollback_site(*backed_up) as site:
        yield site


_COPY = f"{NAME}_maintd_new"
_NO_RIGHTS = f"ALTER DATABASE {NAME} OWNER TO postgres"
scenario("create database", "a login without the right")(rolling_back("create database", "ALTER ROLE op NOCREATEDB"))
scenario("restore database", "a table that is in the way")(
    rolling_back("restore database", "CREATE TABLE audit_events (id int)", places=_COPY)
)
scenario("close database", "another owner")(rolling_back("close database", _NO_RIGHTS))
scenario("swap databases", "a copy that is gone")(
    rolling_back("swap databases", f"ALTER DATABASE {_COPY} RENAME TO {NAME}_elsewhere")
)
scenario("open database", "another owner")(rolling_back("swap databases", _NO_RIGHTS))
scenario("finish rollback", "another owner")(rolling_back("finish rollback", _NO_RIGHTS))
scenario("drop database", "another owner")(
    rolling_back("close database", _NO_RIGHTS, f"ALTER DATABASE {_COPY} OWNER TO postgres")
)


@scenario("migrate down", "a migration that depends on what is gone")
def _(fixtures: pytest.FixtureRequest) -> JobResult:
    with recorded_schema(fixtures) as (db, folder, places):
        (folder / "2.sql").write_text("ALTER TABLE t DROP COLUMN nowhere")
        params = {"level": "schema", "schema_version": "SELECT v FROM m", "down": f"{folder}/{{version}}.sql"}
        db.run("INSERT INTO m VALUES (2)")
        return run_job("rollback", {**params, "halted": False}, places)


@scenario("restore file", "a folder that is not writable")
def _(fixtures: pytest.FixtureRequest) -> JobResult:
    with recorded_schema(fixtures) as (_, folder, places):
        (folder / "app.conf").write_text("changed")
        (folder / "app.conf").chmod(0o444)
        folder.chmod(0o555)
        try:
            with as_unprivileged_user():
                return run_job("rollback", {"level": "images"}, places)
        finally:
            folder.chmod(0o777)


@contextmanager
def recorded_schema(request: pytest.FixtureRequest) -> Iterator[tuple[Database, Path, dict[str, Any]]]:
    """A manifest of a database with one migration and of one file, in a folder for all."""
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with database(server) as db, folder_for_all() as folder:
        db.run("CREATE TABLE m (v int)", "CREATE TABLE t (id int)", "INSERT INTO m VALUES (1)")
        (folder / "app.conf").write_text("as it was")
        (folder / "manifests").mkdir()
        places = {"postgres": {"main": {"dsn": db.url}}, "folders": {"rollback": {"path": str(folder / "manifests")}}}
        params = {"schema_versions": {"main": "SELECT v FROM m"}, "files": [str(folder / "app.conf")]}
        made = run_job("rollback_manifest", params, places)
        assert made.outcome == "succeeded", made.text()
        for path in folder.glob("manifests/**/*"):
            path.chmod(0o755)
        yield db, folder, places


@scenario("stop", "a proxy")
def _(fixtures: pytest.FixtureRequest) -> JobResult:
    site: Site = fixtures.getfixturevalue("rollback_of_data")
    with project(fixtures) as made, refusing_engine(made.engine, rf"POST {_CONTAINERS}/.*/stop", 403) as url:
        site.more = made.targets(url)
        return site.run(writers=["api"], only_running=["api"])


def untagging(status: int) -> Scenario:
    def run(fixtures: pytest.FixtureRequest) -> JobResult:
        with project(fixtures) as made, folder_for_all() as folder:
            image = made.client.images.get(NEWER)
            for day in (1, 2):
                image.tag("maintd/rollback", f"api-2026010{day}T000000Z")
            with refusing_engine(made.engine, r"DELETE /v[\d.]+/images/.*", status) as url:
                targets = made.targets(url, folders={"rollback": {"path": str(folder)}})
                return run_job("rollback_manifest", {"keep_tags": 1}, targets)

    return run


for _cause, _status in {"a proxy": 403, "a conflict": 409, "an error of the engine": 500}.items():
    scenario("remove tag", _cause)(untagging(_status))


# --- files and programs -------------------------------------------------------------------------------------------


@scenario("delete", "a folder without write access")
def delete_denied(request: pytest.FixtureRequest) -> JobResult:
    with folder_for_all() as folder:
        root = folder / "logs"
        root.mkdir()
        for number in range(1, 10):
            path = root / f"app.log.{number}"
            path.write_bytes(b"x")
            os.utime(path, (time.time() - 100 * 86_400,) * 2)
        params = {"root": str(root), "rotation": None, "max_share": 1.0}
        run_job("log_cleanup", params, dry_run=True)  # so that every module is loaded
        root.chmod(0o555)
        try:
            return run_job("log_cleanup", params, around=as_unprivileged_user(root))
        finally:
            root.chmod(0o755)


@scenario("delete", "another program that writes to the file, or renames it")
def delete_of_what_changes(request: pytest.FixtureRequest) -> JobResult:
    with folder_for_all() as folder:
        for number in range(1, 10):
            path = folder / f"app.log.{number}"
            path.write_bytes(b"x")
            os.utime(path, (time.time() - 100 * 86_400,) * 2)

        def interfere(change: Change) -> None:
            path = Path(change.target)
            if path.name.endswith("8"):
                path.write_bytes(b"written again")
            else:
                path.rename(folder / "renamed")

        params = {"root": str(folder), "rotation": None, "max_share": 1.0}
        return run_job("log_cleanup", params, at_intent=interfere)


def backup_without_write_access(target: str, leftover: str = "") -> Scenario:
    """Backs up a file while nothing can be created, renamed or removed in the folder of this target."""

    def run(request: pytest.FixtureRequest) -> JobResult:
        with folder_for_all() as root:
            (root / "config").write_bytes(b"x")
            folders = {name: root / name for name in ("sets", "copies")}
            for folder in folders.values():
                folder.mkdir()
            params = {"to": "sets", "copy_to": "copies", "paths": {"config": str(root / "config")}, "min_free": "1B"}
            targets = {"folders": {name: {"path": str(folder)} for name, folder in folders.items()}}
            run_job("backup", params, targets)  # so that every module is loaded
            if leftover:
                (folders[target] / leftover).mkdir()
            folders[target].chmod(0o555)
            try:
                return run_job("backup", params, targets, around=as_unprivileged_user(root))
            finally:
                folders[target].chmod(0o755)

    return run


for _action, _scenario in {
    "create": backup_without_write_access("sets"),
    "copy": backup_without_write_access("copies"),
    "remove": backup_without_write_access("sets", ".set-20260101T000000Z.partial"),
}.items():
    scenario(_action, "a folder without write access")(_scenario)


@scenario("copy", "the exit code of the program that copies")
def copy_by_a_program_that_fails(request: pytest.FixtureRequest) -> JobResult:
    with folder_for_all() as root:
        (root / "config").write_bytes(b"x")
        (root / "sets").mkdir()
        params = {"to": "sets", "paths": {"config": str(root / "config")}, "min_free": "1B"}
        copying = {"copy_command": ["sh", "-c", "exit 3", "{set}"]}
        return run_job("backup", {**params, **copying}, {"folders": {"sets": {"path": str(root / "sets")}}})


def drill_without_write_access(leftover: str = "") -> Scenario:
    """Restores a set of one file while nothing can be created or removed in the scratch folder."""

    def run(request: pytest.FixtureRequest) -> JobResult:
        with folder_for_all() as root:
            (root / "config").write_bytes(b"x")
            folders = {name: root / name for name in ("backup_sets", "scratch")}
            for folder in folders.values():
                folder.mkdir()
            targets = {"folders": {name: {"path": str(folder)} for name, folder in folders.items()}}
            made = run_job("backup", {"paths": {"config": str(root / "config")}, "min_free": "1B"}, targets)
            assert made.outcome == "succeeded", made.text()
            params = {"scratch": "scratch", "min_free": "1B"}
            run_job(
                "restore_drill", params, targets
            )  # so that every module is loaded, and the file of the lock is there
            if leftover:
                (folders["scratch"] / leftover).mkdir()
            folders["scratch"].chmod(0o555)
            try:
                return run_job("restore_drill", params, targets, around=as_unprivileged_user(root))
            finally:
                folders["scratch"].chmod(0o755)

    return run


scenario("create", "a scratch folder without write access")(drill_without_write_access())
scenario("remove", "a scratch folder without write access")(drill_without_write_access(".drill-00000000"))


# --- windows ------------------------------------------------------------------------------------------------------


def refused_switch(job: str, fault: str) -> Scenario:
    """A service that does not halt, or does not unhalt."""

    def run(request: pytest.FixtureRequest) -> JobResult:
        params: dict[str, Any] = {"within": "0s"}
        attempt: dict[str, Any] = {}
        with trading_service(request.getfixturevalue("redis_server")) as service:
            if job == "service_unhalt":
                service.set(halted=True)
                params |= {"pause": "0s", "verified_by": ["check"]}
                found = {"was": "running", "state": "halted", "run": 1}
                attempt = {"handed": {"halts": {service.name: found}}, "outcomes": {"check": "succeeded"}}
            service.fault = fault
            return run_job(job, params, service.targets(), **attempt)

    return run


for _job, _action in {"service_halt": "halt", "service_unhalt": "unhalt"}.items():
    for _fault in ("denied", "error before", "hang before", "nothing"):
        scenario(_action, f"the service: {_fault}")(refused_switch(_job, _fault))


def refused_by_alertmanager(job: str, fault: str, **params: Any) -> Scenario:
    """An Alertmanager, or a proxy before it, that does not take what it is sent."""

    def run(request: pytest.FixtureRequest) -> JobResult:
        server: WebServer = request.getfixturevalue("alertmanager_server")
        silence = {"matchers": ['service="orders"']}
        targets = {"alertmanager": {"main": {"url": server.url}}}
        handed: dict[str, Any] = {}
        if job == "alerts_unsilence":
            handed = run_job("alerts_silence", silence, targets).handed
        with interposed(server.url) as front:
            front.fault = fault
            given = silence if job == "alerts_silence" else params
            refused = {"alertmanager": {"main": {"url": front.url, "timeout": "2s"}}}
            result = run_job(job, given, refused, handed=handed)
        run_job("alerts_unsilence", {"prove": False}, targets, handed=handed)
        return result

    return run


for _fault in ("denied", "error before"):
    scenario("silence", f"Alertmanager: {_fault}")(refused_by_alertmanager("alerts_silence", _fault))
    _scenario = refused_by_alertmanager("alerts_unsilence", _fault, listen="127.0.0.1:0")
    scenario("end silence", f"Alertmanager: {_fault}")(_scenario)
    scenario("send test alert", f"Alertmanager: {_fault}")(_scenario)
    _scenario = refused_by_alertmanager("alert_path_test", _fault, listen="127.0.0.1:0")
    scenario("send test alert", f"Alertmanager, in a test of its path: {_fault}")(_scenario)


@contextmanager
def host_with_a_journal(archived: int) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The root of a host with a current file of the journal and some archived ones, and the targets of it."""
    with folder_for_all() as folder:
        (folder / "journald").mkdir()
        written = next(journal(folder / "journald", [JournalMessage("sshd", b"hello")]).glob("*/*.journal"))
        name = "0123456789abcdef0123456789abcdef"
        place = folder / "host/var/log/journal" / name
        place.mkdir(parents=True)
        shutil.copy(written, place / "system.journal")
        for number in range(1, archived + 1):
            at = int((time.time() - number * 864_000) * 1_000_000)
            shutil.copy(written, place / f"system@{name}-{number:016x}-{at:016x}.journal")
        (folder / "logs").mkdir()
        yield folder, {"host": {"local": {"root": str(folder / "host")}}}


@scenario("vacuum journal", "the current file, which journald keeps")
def vacuum_of_the_current_file(request: pytest.FixtureRequest) -> JobResult:
    with host_with_a_journal(0) as (folder, targets):
        params = {"root": str(folder / "logs"), "rotation": None, "journal": {"keep_bytes": "1B"}}
        return run_job("log_cleanup", params, targets)


def vacuum_that_ends_with(program: str, **limits: str) -> Scenario:
    """Runs with another program in the place of journalctl."""

    def run(request: pytest.FixtureRequest) -> JobResult:
        monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
        with host_with_a_journal(3) as (folder, targets):
            (folder / "bin").mkdir()
            (folder / "bin/journalctl").write_text(f"#!/bin/sh\n{program}\n")
            (folder / "bin/journalctl").chmod(0o755)
            monkeypatch.setenv("PATH", str(folder / "bin"), prepend=":")
            params = {"root": str(folder / "logs"), "rotation": None, "journal": limits}
            return run_job("log_cleanup", params, targets)

    return run


for _cause, _scenario in {
    "a journalctl that fails, by size": vacuum_that_ends_with("exit 1", keep_bytes="1B"),
    "a journalctl that fails, by age": vacuum_that_ends_with("echo no access; exit 1", keep="1d"),
    "a journalctl that is killed": vacuum_that_ends_with("kill -9 $$", keep="1d"),
}.items():
    scenario("vacuum journal", _cause)(_scenario)


def command(*argv: str, **params: Any) -> Scenario:
    return lambda request: run_job("command", {"argv": list(argv), **params})


for _cause, _program in {
    "its own exit code": command("sh", "-c", "exit 3"),
    "a signal": command("sh", "-c", "kill -9 $$"),
    "its timeout": command("sleep", "60", timeout="200ms"),
    "no right to execute it": command("/etc/passwd"),
}.items():
    scenario("run", _cause)(_program)


# --- secrets ------------------------------------------------------------------------------------------------------


def rotating(*rules: str, hook: Callable[[SecretFolder, RedisServer, Change], None] = lambda *_: None) -> Scenario:
    """Rotates the password of a user of Redis with a login without some rights. `hook`: at the intent of a change."""

    def run(request: pytest.FixtureRequest) -> JobResult:
        with redis_user(*rules) as (server, login), closing(server.client()) as client:
            client.execute_command("ACL", "SETUSER", "app", "on", ">the-old-password-of-the-app", "~*", "+@all")
            path: Path = request.getfixturevalue("tmp_path") / "secrets"
            path.mkdir(mode=0o700)
            folder = SecretFolder(path, targets={"redis": {"main": {"url": server.url, **login}}})
            about = {"kind": "generated", "redis": {"user": "app", "persist": "nowhere"}}
            folder.add("redis_password", "the-old-password-of-the-app", **about)
            return folder.rotate(at_intent=lambda change: hook(folder, server, change))

    return run


def without_setuser(folder: SecretFolder, server: RedisServer, change: Change) -> None:
    if change.action == "revoke secret":
        with closing(server.client()) as client:
            client.execute_command("ACL", "SETUSER", "op", "-acl|setuser")


def without_the_file(folder: SecretFolder, server: RedisServer, change: Change) -> None:
    if change.action == "write secret":
        (folder.path / "redis_password").unlink(missing_ok=True)


def without_its_folder(folder: SecretFolder, server: RedisServer, change: Change) -> None:
    if change.action == "back up":
        shutil.rmtree(folder.path / ".versions")
        (folder.path / ".versions").touch()


scenario("set secret", "the users file")(rotating("-acl|setuser"))
scenario("restore secret", "the users file")(rotating("-acl|setuser"))
scenario("revoke secret", "a right that was taken away")(rotating(hook=without_setuser))
scenario("write secret", "a file that is gone")(rotating(hook=without_the_file))
scenario("back up", "a file in the place of its folder")(rotating(hook=without_its_folder))


# --- the contract -------------------------------------------------------------------------------------------------


@pytest.mark.server
@pytest.mark.engine
@pytest.mark.parametrize(
    ("action", "cause"), [(action, cause) for action, causes in SCENARIOS.items() for cause in causes]
)
def test_a_change_that_is_refused_is_recorded_with_its_cause_and_the_run_is_not_ok(
    request: pytest.FixtureRequest, action: str, cause: str
) -> None:
    result = SCENARIOS[action][cause](request)

    found = [change for change in result.changes if change.action == action]
    if not found:  # it was not even begun
        assert result.error is not None, result.text()
        return
    assert {change.state for change in found} <= NOT_MADE, result.text()
    for change in found:
        assert any(explains(check, change) for check in result.checks), f"{change.cause}\n{result.text()}"
    assert result.outcome != "succeeded"


def explains(check: Check, change: Change) -> bool:
    """Whether a check is not ok, and has the reason why the change was not made."""
    if check.status is CheckStatus.OK or check.optional:
        return False
    text = f"{check.name} {check.observed} {check.hint}"
    return any(len(part) > 5 and part in text for part in re.split(r"[:;] ", change.cause))


def test_every_action_of_a_job_has_a_refusal_here() -> None:
    package = JOBS.parent / "maintd"
    found = {
        action for folder in (JOBS, package) for path in folder.rglob("*.py") for action in actions(path.read_text())
    }

    assert len(found) >= 15
    assert found == set(SCENARIOS)


def test_the_search_for_actions_sees_names_as_well_as_texts() -> None:
    assert actions("def f(ctx):\n with ctx.change('cut', 1):\n  pass") == {"cut"}
    assert actions("def f(self):\n a = 'x' if b else 'y'\n with self._ctx.change(a, 1):\n  pass") == {"x", "y"}
    assert actions("def f(ctx, a):\n with ctx.change(a, 1):\n  pass") == {"(not a constant)"}


def actions(source: str) -> set[str]:
    """The first arguments of all calls of `change`; of a variable, the texts that its function assigns to it."""
    found = set[str]()
    tree = ast.parse(source)
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        assigned = {
            target.id: {c.value for c in ast.walk(node.value) if isinstance(c, ast.Constant)}
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(function):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            if node.func.attr != "change" or "ctx" not in ast.unparse(node.func.value):
                continue
            first = node.args[0]
            if isinstance(first, ast.Constant):
                found.add(str(first.value))
            else:
                texts = assigned.get(first.id, set()) if isinstance(first, ast.Name) else set()
                found |= {str(text) for text in texts if isinstance(text, str)} or {"(not a constant)"}
    return found
