"""The capacity report of real servers: measures, forecasts, warnings and files."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.clock import now_within_a_day
from support.databases import database
from support.host_roots import this_machine_as_a_host
from support.job_runs import JobResult, run_job
from support.sample_weeks import history
from support.servers.docker import BUSYBOX, DockerEngine
from support.servers.postgres import PostgresServer
from support.servers.prometheus import WebServer, prometheus
from support.servers.redis import RedisServer

from maintd.checks.host import folder_sizes
from maintd.checks.postgres.capacity import MeasuredServers, figures
from maintd.job.attempt_info import Point
from maintd.model.evidence import CheckStatus
from maintd.model.target import PostgresTarget

pytestmark = pytest.mark.usefixtures("own_now")

NOW = now_within_a_day()
HEADINGS = ["Storage", "Memory", "Network", "Forecasts", "Recommendations", "Method"]
# What a template that nobody filled, or a value that nobody checked, would leave behind.
PLACEHOLDER = re.compile(r"\[(from|calculated|if needed|opportunities|count)|\bNone\b|\bnan\b|\binf\b|\{\{|TODO")
NOWHERE = {"dsn": "postgresql://postgres@127.0.0.1:1/x"}


@pytest.fixture(autouse=True)
def on_a_host() -> Iterator[None]:
    with this_machine_as_a_host():
        yield


@pytest.fixture(scope="module")
def two_weeks() -> Iterator[WebServer]:
    with prometheus(openmetrics=history()) as server:
        yield server


@pytest.fixture
def shop(postgres_server: PostgresServer) -> Iterator[str]:
    """A database with names that need quoting and an identity that is nearly used up."""
    url = postgres_server.create("shop")
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute('CREATE TABLE "Mixed|`Case" (id serial PRIMARY KEY, text text)')
        conn.execute("""INSERT INTO "Mixed|`Case" (text) SELECT repeat('x', 100) FROM generate_series(1, 5000)""")
        conn.execute("CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY, at timestamptz)")
        conn.execute("SELECT setval('orders_id_seq', 2100000000)")  # of 2,147,483,647: 97.8 %
    yield url
    postgres_server.drop("shop")


def days(last: float, slope: float, noise: float = 0.0, count: int = 60, **labels: str) -> list[Point]:
    """A growing gauge, one reading a day, the last one day ago."""
    chance = random.Random(1)
    return [
        Point(NOW - timedelta(days=age), last - slope * age + chance.gauss(0, noise), labels)
        for age in range(count, 0, -1)
    ]


def disk() -> tuple[float, float]:
    """Bytes used and available on the root."""
    seen = os.statvfs("/")
    return (seen.f_blocks - seen.f_bfree) * seen.f_frsize, seen.f_bavail * seen.f_frsize


def written(result: JobResult, ending: str) -> str:
    path = next(item.path for item in result.artifacts if item.name.endswith(ending))
    return Path(path).read_text()


def figure(result: JobResult, kind: str, name: str) -> dict[str, Any]:
    found = [
        item
        for item in json.loads(written(result, "json"))["resources"]
        if (item["kind"], item["name"]) == (kind, name)
    ]
    assert len(found) == 1, found
    return dict(found[0])


@pytest.mark.server
def test_a_report_of_real_servers_is_complete(
    shop: str, redis_server: RedisServer, two_weeks: WebServer, tmp_path: Path
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/app.log").write_bytes(b"x" * 300_000)
    used, _ = disk()

    result = run_job(
        "capacity_report",
        {"days": 7},
        {
            "postgres": {"main": {"dsn": shop}},
            "redis": {"main": {"url": redis_server.url}},
            "prometheus": {"main": {"url": two_weeks.url}},
            "folders": {"logs": {"path": str(tmp_path / "logs")}},
        },
        series={"fs_used_bytes": days(used, used / 600, used / 3000, host="local", mount="/")},
        folder=tmp_path,
        reports_dir=tmp_path / "reports",
    )

    assert result.error is None, result.text()
    names = [f"capacity-{NOW:%Y%m}.{ending}" for ending in ("md", "html", "json")]
    assert [item.name for item in result.artifacts] == names
    assert sorted(path.name for path in (tmp_path / "reports").glob("capacity-*")) == sorted(names)
    text = written(result, "md")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    for form in ("md", "html", "json"):
        assert not PLACEHOLDER.search(re.sub(r'"[^"]*": null', "", written(result, form))), form
    with psycopg.connect(shop) as conn:
        size = conn.execute("SELECT pg_database_size('shop')").fetchone()
    assert size is not None
    assert figure(result, "database", "shop")["value"] == pytest.approx(size[0], rel=0.05)
    assert figure(result, "relation", 'public."Mixed|`Case"')["details"]["heap"] > 500_000
    assert figure(result, "folder", "logs")["value"] >= 300_000
    assert figure(result, "redis memory", "main")["value"] > 100_000
    assert figure(result, "file system", "/")["forecast"]["trend"] == "growing"
    # 100 requests in ten minutes; the third service answered until four days before midnight.
    web = figure(result, "requests", "web:7001")
    assert web["value"] == pytest.approx(100 / 600, rel=0.02)
    assert web["details"]["peak"] == pytest.approx(100 / 600, rel=0.02)
    # The window ends with this hour, the history at midnight.
    assert figure(result, "requests", "gone:7003")["coverage"] == pytest.approx((72 - NOW.hour) / 168, abs=0.02)
    memory = figure(result, "memory use", "web:7001")
    assert memory["details"]["peak"] == pytest.approx(1e8 + 15e6, rel=0.01)  # 5 days of 3 MB
    assert "process_resident_memory_bytes" in memory["source"]


@pytest.mark.server
def test_a_nearly_exhausted_sequence_fails_by_the_type_of_its_column(shop: str) -> None:
    result = run_job("capacity_report", {"report": False}, {"postgres": {"main": {"dsn": shop}}})

    assert result.check("sequence public.orders_id_seq used").observed == 97.8
    assert result.check("sequence public.orders_id_seq used").status is CheckStatus.FAIL


@pytest.mark.parametrize(("left", "status"), [(9, "fail"), (30, "warn"), (80, "ok")])
def test_a_disk_that_fills_up_is_reported_before_it_is_full(left: int, status: str) -> None:
    used, available = disk()
    slope = available / left

    result = run_job(
        "capacity_report",
        {"report": False},
        series={"fs_used_bytes": days(used, slope, slope / 100, host="local", mount="/")},
    )

    check = result.check("file system / full in")
    assert check.status == status
    assert check.observed == pytest.approx(left, abs=1.5)
    assert check.hint.startswith("du -xh")


def test_a_disk_that_does_not_grow_has_no_date() -> None:
    used, _ = disk()

    result = run_job(
        "capacity_report",
        {"report": False},
        series={"fs_used_bytes": days(used, 0.0, used / 1000, host="local", mount="/")},
    )

    assert result.named("full in") == []


def test_the_first_report_states_how_much_history_is_missing(tmp_path: Path) -> None:
    result = run_job("capacity_report", {}, folder=tmp_path)

    assert result.check("forecasts").observed == "unknown: 1 of 14 days of history"
    assert result.check("forecasts").optional
    assert not [check for check in result.checks if check.status is CheckStatus.UNKNOWN and not check.optional]
    text = written(result, "md")
    assert "not known yet: 1 of 14 days of history" in text
    assert "no postgres target is configured; set targets.postgres" in text
    assert "no prometheus target is configured; set targets.prometheus" in text
    assert not PLACEHOLDER.search(text)


def test_without_a_report_the_figures_are_recorded_and_nothing_is_written(tmp_path: Path) -> None:
    result = run_job("capacity_report", {"report": False}, folder=tmp_path, reports_dir=tmp_path / "reports")

    assert result.outcome == "succeeded"
    assert result.artifacts == []
    assert result.changes == []
    assert not (tmp_path / "reports").exists()
    used, available = disk()
    assert result.measure("fs_used_bytes", mount="/") == pytest.approx(used, rel=0.05)
    assert result.measure("fs_avail_bytes", mount="/") == pytest.approx(available, rel=0.05)
    assert result.measure("memory_used_bytes", host="local") > 0


def test_an_unreachable_target_is_unknown_and_does_not_affect_others(tmp_path: Path) -> None:
    result = run_job(
        "capacity_report",
        {},
        {
            "postgres": {"main": NOWHERE},
            "redis": {"main": {"url": "redis://127.0.0.1:1/0"}},
            "docker": {"main": {"url": f"unix://{tmp_path}/none.sock"}},
            "prometheus": {"main": {"url": "http://127.0.0.1:1"}},
            "folders": {"gone": {"path": str(tmp_path / "gone")}},
        },
        folder=tmp_path,
    )

    assert result.outcome == "unknown"
    for name in ("database main", "redis memory main", "docker main", "requests main", "folder gone"):
        assert result.check(f"{name} measured").status is CheckStatus.UNKNOWN
        assert "unknown: " in str(result.check(f"{name} measured").observed)
    assert result.measure("fs_used_bytes", mount="/") > 0
    text = written(result, "md")
    assert "Database Size: not measured: main: " in text
    assert "check that it is running" in text


def test_a_report_without_any_figure_fails(tmp_path: Path) -> None:
    nowhere = {"local": {"root": str(tmp_path / "no"), "proc": str(tmp_path / "no")}}

    result = run_job("capacity_report", {}, {"host": nowhere}, folder=tmp_path)

    assert result.check("figures measured").status is CheckStatus.FAIL
    assert "not measured" in written(result, "md")


def test_a_dry_run_leaves_the_reports_folder_alone(tmp_path: Path) -> None:
    result = run_job("capacity_report", {}, dry_run=True, folder=tmp_path, reports_dir=tmp_path / "reports")

    assert not (tmp_path / "reports").exists()
    assert [change.done for change in result.changes] == [False] * 3


@pytest.mark.server
def test_a_missing_privilege_is_named_and_affects_only_its_figure(shop: str, postgres_server: PostgresServer) -> None:
    with psycopg.connect(shop, autocommit=True) as conn:
        conn.execute("CREATE ROLE looker LOGIN")
        conn.execute("REVOKE CONNECT ON DATABASE postgres FROM public")
    try:
        result = run_job(
            "capacity_report",
            {"report": False},
            {"postgres": {"main": {"dsn": shop.replace("postgres@", "looker@")}}},
        )
    finally:
        with psycopg.connect(shop, autocommit=True) as conn:
            conn.execute("GRANT CONNECT ON DATABASE postgres TO public")
            conn.execute("DROP ROLE looker")

    assert "permission denied" in str(result.check("write-ahead log main measured").observed)
    assert "pg_read_all_stats" in str(result.check("database postgres measured").observed)
    assert result.measure("pg_database_bytes", database="shop") > 0


@pytest.mark.engine
def test_an_engine_is_measured_by_its_disk_and_its_containers(docker_server: DockerEngine, tmp_path: Path) -> None:
    docker_server.busybox()
    client = docker_server.client()
    network = docker_server.network("capacity", 77)
    labels = {"com.docker.compose.project": "capacity", "com.docker.compose.service": "writer"}
    container = client.containers.run(
        BUSYBOX,
        ["sh", "-c", "dd if=/dev/zero of=/data/x bs=1M count=5; dd if=/dev/zero of=/y bs=1M count=3; sleep 600"],
        detach=True,
        labels=labels,
        network=network,
        mem_limit="64m",
        volumes={"capacity-data": {"bind": "/data", "mode": "rw"}},
    )
    try:
        container.exec_run(["sh", "-c", "while [ ! -s /y ]; do sleep 0.1; done; sleep 0.3"])
        result = run_job(
            "capacity_report",
            {},
            {"docker": {"main": {"url": docker_server.url, "project": "capacity"}}},
            folder=tmp_path,
        )
    finally:
        container.remove(force=True, v=True)
        client.volumes.get("capacity-data").remove()
        client.networks.get(network).remove()
        client.close()

    assert result.measure("docker_bytes", part="volumes") >= 5 << 20
    assert result.measure("docker_bytes", part="containers") >= 3 << 20
    assert result.measure("docker_bytes", part="images") > 1 << 20
    assert result.measure("volume_bytes", volume="capacity-data") >= 5 << 20
    assert 0 < result.measure("container_memory_working_set_bytes", container="writer") < 64 << 20
    assert figure(result, "container memory", "writer")["capacity"] == 64 << 20


def test_a_folder_has_the_size_that_du_prints(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    for index in range(300):
        (tmp_path / "a/b" / str(index)).write_bytes(b"x" * index * 100)
    os.link(tmp_path / "a/b/299", tmp_path / "a/link")
    (tmp_path / "elsewhere").symlink_to("/")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)

    parts, files, skipped = folder_sizes.sizes(tmp_path, timedelta(minutes=1))

    told = subprocess.run(["du", "-s", "-B1", "-x", tmp_path], capture_output=True, text=True, check=True).stdout
    assert sum(parts.values()) == int(told.split()[0])
    assert (files, skipped) == (303, 0)


def test_a_folder_that_takes_too_long_is_not_measured(tmp_path: Path) -> None:
    result = run_job(
        "capacity_report", {"report": False, "folder_time": "0s"}, {"folders": {"x": {"path": str(tmp_path)}}}
    )

    assert "stopped after 0s" in str(result.check("folder x measured").observed)


def test_earlier_forecasts_are_compared_with_the_actual_values(tmp_path: Path) -> None:
    """Five resources of which a month ago much more was expected than came."""
    used, _ = disk()
    labels = {"host": "local"}
    of = [("fs_used_bytes", {**labels, "mount": "/"}), ("memory_used_bytes", labels)]
    folders_of = {f"f{index}": {"path": str(tmp_path)} for index in range(4)}
    of += [("folder_bytes", {"folder": name}) for name in folders_of]
    series = {
        level: [Point(NOW - timedelta(days=30), used * 100, {"of": name, **own}) for name, own in of]
        for level in ("forecast_level_low", "forecast_level", "forecast_level_high")
    }

    result = run_job("capacity_report", {}, {"folders": folders_of}, series=series, folder=tmp_path / "run")

    assert result.check("forecasts that held").status is CheckStatus.WARN
    assert "forecasts made a month ago" in written(result, "md")


@pytest.mark.server
@pytest.mark.parametrize("lock", ["LOCK TABLE held", "ALTER TABLE held ADD b int", "DROP INDEX held_a"])
def test_a_locked_table_loses_only_its_own_size(postgres_server: PostgresServer, lock: str) -> None:
    with database(postgres_server) as db:
        db.run("CREATE TABLE held (a int)", "CREATE INDEX held_a ON held (a)", "CREATE TABLE free (a int)")

        with db.session(lock):
            measured = MeasuredServers([].append)
            found = list(figures(PostgresTarget(dsn=db.url), "main", 10, timedelta(seconds=20), measured))

    by_name = {figure.name: figure for figure in found if figure.kind == "relation"}
    assert by_name["public.free"].value == 0
    assert by_name["public.held"].value is None
    assert all(figure.value is not None for figure in found if figure.kind == "database")


@pytest.mark.server
def test_several_logins_to_one_server_measure_it_once(
    postgres_server: PostgresServer, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    elsewhere = own_postgres.create("elsewhere")
    with database(postgres_server) as db:
        db.run("CREATE TABLE orders (id bigserial PRIMARY KEY)", "INSERT INTO orders DEFAULT VALUES")
        by_socket = f"postgresql://postgres@/{db.name}?host={postgres_server.folder}&port={postgres_server.port}"
        targets = {
            "owner": {"dsn": db.url},
            "monitor": {"dsn": db.url_of(db.role("other", "pg_monitor")).replace("127.0.0.1", "localhost")},
            "socket": {"dsn": by_socket},
            "second": {"dsn": postgres_server.url("postgres")},
            "another": {"dsn": elsewhere},
        }

        result = run_job("capacity_report", {}, {"postgres": targets}, folder=tmp_path / "run")

    def servers(measure: str, **labels: str) -> list[str]:
        found = [item for item in result.measures if item.name == measure and labels.items() <= item.labels.items()]
        return [item.labels["server"] for item in found]

    assert servers("pg_database_bytes", database=db.name) == ["owner"], result.text()
    assert servers("pg_database_bytes", database="elsewhere") == ["another"]
    assert servers("pg_relation_total_bytes", relation="public.orders") == ["owner"]
    assert servers("pg_wal_bytes") == servers("pg_connections_used") == ["owner", "another"]
    assert servers("pg_rows_inserted") == ["owner", "second", "another"]  # one for each database
    assert any("are those of owner, another login to the same server" in line for line in result.logs)
