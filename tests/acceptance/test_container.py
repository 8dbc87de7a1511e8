"""The image as it is deployed: beside a stack on a real engine, read-only, without root, killed and restarted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.servers import images
from support.servers.base import require_program, wait_for
from support.servers.docker import DockerEngine, docker_engine
from support.servers.images import docker
from support.servers.postgres import BIN

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

CALENDAR = """
timezone: UTC
targets:
  postgres:
    main: {dsn: "host=postgres user=postgres dbname=trading"}
entries:
  nightly-vacuum:
    title: Nightly vacuum
    schedule: every day at 04:00
    steps: [vacuum]
"""

POSTGRES = f"""
set -e
{BIN}/initdb -D /data/pg -A trust -U postgres --no-sync >/dev/null
echo "host all all all trust" >> /data/pg/pg_hba.conf
exec {BIN}/postgres -D /data/pg -c listen_addresses='*' -c unix_socket_directories=/tmp
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with docker_engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def image(engine: DockerEngine) -> str:
    return images.maintd_image(engine)


class Sidecar:
    """The sidecar of the compose file; `maintd` runs a command in its container."""

    def __init__(self, engine: DockerEngine, environ: dict[str, str]) -> None:
        self._engine = engine
        self._environ = {**os.environ, "DOCKER_HOST": engine.url, **environ}

    def compose(self, *words: str) -> str:
        argv = [
            require_program("docker-compose", "docker-compose"),
            "-p",
            "beside",
            "-f",
            "deploy/compose.sidecar.yaml",
            *words,
        ]
        done = subprocess.run(argv, cwd=images.ROOT, env=self._environ, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"docker-compose {words}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        return done.stdout

    @property
    def container(self) -> str:
        return self.compose("ps", "-a", "-q", "maintd").strip()  # `docker compose` 2 lists only running ones

    def maintd(self, *words: str) -> str:
        return docker(self._engine, "exec", self.container, "maintd", *words)

    def inspect(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(docker(self._engine, "inspect", self.container))[0]
        return state

    def health(self) -> str:
        return str(self.inspect()["State"]["Health"]["Status"])

    def logs(self) -> str:
        found = subprocess.run(
            [
                require_program("docker", "docker.io"),
                "ps",
                "-aq",
                "--filter",
                "label=com.docker.compose.project=beside",
            ],
            env=self._environ,
            capture_output=True,
            text=True,
            check=False,
        )
        return subprocess.run(
            [require_program("docker", "docker.io"), "logs", "--tail", "50", *found.stdout.split()[:1]],
            env=self._environ,
            capture_output=True,
            text=True,
            check=False,
        ).stderr


@pytest.fixture
def sidecar(composed: Sidecar) -> Sidecar:
    """Return the sidecar, running and healthy after every test."""
    composed.compose("up", "-d")
    wait_for(lambda: composed.health() == "healthy", f"healthy\n{composed.logs()}", seconds=120, every=0.5)
    return composed


@pytest.fixture(scope="module")
def composed(engine: DockerEngine, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    network = engine.network("stack_backend", 77)
    folder = tmp_path_factory.mktemp("stack")
    calendar = folder / "schedules.yaml"
    calendar.write_text(CALENDAR)
    _let_others_read(calendar)
    start_postgres(engine, network)
    sidecar = Sidecar(engine, {"MAINTD_IMAGE": image, "MAINTD_ETC": str(calendar.parent), "MAINTD_NETWORK": network})
    sidecar.compose("up", "-d")
    try:
        yield sidecar
    finally:
        sidecar.compose("down", "-v")
        shutil.rmtree(folder, ignore_errors=True)


def start_postgres(engine: DockerEngine, network: str) -> None:
    """Start a Postgres container `postgres` with a table that has dead rows."""
    thin = images.thin_image(engine)
    docker(
        engine,
        "run",
        "-d",
        "--name",
        "postgres",
        "--network",
        network,
        "-v",
        "/usr:/usr:ro",
        "--user",
        "postgres",
        thin,
        "/bin/sh",
        "-c",
        POSTGRES,
    )
    wait_for(lambda: "1" in psql(engine, "SELECT 1", database="postgres", check=False), "postgres in its container", 60)
    psql(engine, "CREATE DATABASE trading", database="postgres")
    psql(
        engine,
        "CREATE TABLE audit_events AS SELECT g AS id, repeat('x', 100) AS payload FROM generate_series(1, 20000) g",
    )


def psql(engine: DockerEngine, query: str, *, database: str = "trading", check: bool = True) -> str:
    argv = [require_program("docker", "docker.io"), "exec", "postgres", f"{BIN}/psql", "-h", "/tmp"]
    argv += ["-U", "postgres", "-At", "-d", database, "-c", query]
    done = subprocess.run(argv, env={**os.environ, "DOCKER_HOST": engine.url}, capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout.strip()


def _let_others_read(path: Path) -> None:
    """Let the container's user, which is neither root nor the test's, read the file."""
    path.chmod(0o644)
    for parent in path.parents:
        if parent == Path(tempfile.gettempdir()):
            return
        parent.chmod(parent.stat().st_mode | 0o055)
    raise AssertionError(f"{path} is not in the session's folder")


def test_the_sidecar_becomes_healthy_and_is_locked_down(sidecar: Sidecar) -> None:
    inspected = sidecar.inspect()
    assert inspected["HostConfig"]["ReadonlyRootfs"] is True
    assert inspected["HostConfig"]["CapDrop"] == ["ALL"]
    assert inspected["Config"]["User"] == "10001:10001"
    assert inspected["Path"] == "tini"


def test_it_vacuums_a_database_on_its_network_and_shows_the_evidence(engine: DockerEngine, sidecar: Sidecar) -> None:
    psql(engine, "INSERT INTO audit_events SELECT g, repeat('x', 100) FROM generate_series(1, 40000) g")
    psql(engine, "DELETE FROM audit_events WHERE id % 4 <> 0")
    wait_for(
        lambda: (
            psql(engine, "SELECT n_dead_tup > 20000 FROM pg_stat_user_tables WHERE relname = 'audit_events'") == "t"
        ),
        "the server's statistics to say so",
    )

    run = json.loads(sidecar.maintd("trigger", "nightly-vacuum", "--wait", "--json"))

    assert run["state"] in ("succeeded", "warned"), json.dumps(run, indent=1)
    changes = run["steps"][0]["attempts"][-1]["changes"]
    assert any("audit_events" in change["target"] and change["done"] for change in changes)
    assert psql(engine, "SELECT last_vacuum IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'audit_events'") == "t"
    status = docker(engine, "exec", sidecar.container, "maintd", "status", "--json")
    (entry,) = json.loads(status)["entries"]
    assert (entry["entry"], entry["last_finished"]["id"]) == ("nightly-vacuum", run["id"])


def test_killed_and_started_again_it_still_has_its_history(engine: DockerEngine, sidecar: Sidecar) -> None:
    run = json.loads(sidecar.maintd("trigger", "nightly-vacuum", "--wait", "--json"))
    container = sidecar.container

    docker(engine, "kill", container)
    docker(engine, "start", container)
    wait_for(lambda: sidecar.health() == "healthy", "healthy again", seconds=90, every=0.5)

    again = json.loads(sidecar.maintd("show", str(run["id"]), "--json"))
    assert again["state"] == run["state"]
    assert again["steps"][0]["attempts"][-1]["checks"] == run["steps"][0]["attempts"][-1]["checks"]


def test_a_new_container_on_the_same_volume_takes_over(engine: DockerEngine, sidecar: Sidecar) -> None:
    sidecar.maintd("trigger", "nightly-vacuum", "--wait", "--dry-run", "--json")
    before = json.loads(sidecar.maintd("history", "--json"))["runs"]

    sidecar.compose("rm", "-fs", "maintd")
    sidecar.compose("up", "-d")
    wait_for(lambda: sidecar.health() == "healthy", "healthy", seconds=90, every=0.5)

    assert json.loads(sidecar.maintd("history", "--json"))["runs"] == before


def test_it_stops_within_its_grace_and_exits_with_0(engine: DockerEngine, sidecar: Sidecar) -> None:
    docker(engine, "stop", "-t", "30", sidecar.container)

    assert sidecar.inspect()["State"]["ExitCode"] == 0, sidecar.logs()


def test_a_calendar_that_an_editor_replaced_is_active_in_the_container(sidecar: Sidecar) -> None:
    folder = next(
        Path(mount["Source"]) for mount in sidecar.inspect()["Mounts"] if mount["Destination"] == "/etc/maintd"
    )
    new = folder / "schedules.yaml.new"
    new.write_text(CALENDAR.replace("nightly-vacuum", "edited-vacuum"))
    new.chmod(0o644)

    new.replace(folder / "schedules.yaml")

    wait_for(lambda: "edited-vacuum" in sidecar.maintd("next"), "the edited calendar")
    (folder / "schedules.yaml").write_text(CALENDAR)
    wait_for(lambda: "nightly-vacuum" in sidecar.maintd("next"), "the calendar of the other tests")
