"""The health check of real Postgres, Redis, Prometheus and Alertmanager."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from support.http_services import Reply, http_service, json_reply, port_that_hangs, port_that_sends
from support.job_runs import JOBS, JobResult, run_job
from support.servers.base import free_port, wait_for
from support.servers.postgres import PostgresServer
from support.servers.prometheus import WebServer, prometheus
from support.servers.redis import RedisServer
from support.servers.redis import redis as own_redis

from maintd.job.attempt_info import Point
from maintd.model.evidence import CheckStatus

pytestmark = pytest.mark.server


@pytest.fixture
def dsn(postgres_server: PostgresServer) -> Iterator[str]:
    name = f"health_{uuid.uuid4().hex[:8]}"
    yield postgres_server.create(name)
    postgres_server.drop(name)


@pytest.fixture
def keys(redis_server: RedisServer) -> Iterator[str]:
    """A prefix of this test's own keys."""
    prefix = f"health:{uuid.uuid4().hex[:8]}:"
    yield prefix
    with closing(redis_server.client()) as client:
        for key in client.keys(f"{prefix}*"):
            client.delete(key)


def check_postgres(dsn: str, limits: dict[str, Any] | None = None, **more: Any) -> JobResult:
    target = {"dsn": dsn, "timeout": "2s"}
    return run_job(
        "health_check", {"include": ["postgres"], "postgres": limits or {}}, {"postgres": {"main": target}}, **more
    )


def check_redis(url: str, streams: list[str], **more: Any) -> JobResult:
    target = {"url": url, "streams": streams, "timeout": "1s"}
    return run_job("health_check", {"include": ["redis"]}, {"redis": {"main": target}}, **more)


def earlier(measure: str, value: float | None, **labels: str) -> dict[str, list[Point]]:
    """What the run of yesterday measured; None: there was none."""
    return {} if value is None else {measure: [Point(datetime.now(UTC) - timedelta(days=1), value, labels)]}


# --- Postgres ---


def test_postgres_that_is_well_is_green(dsn: str) -> None:
    result = check_postgres(
        dsn, {"transaction_warn": "12h", "transaction_fail": "24h", "idle_warn": "12h", "idle_fail": "24h"}
    )

    assert result.outcome == "succeeded", result.text()
    assert result.check("postgres main: answers").observed == "primary"
    connections = result.check("postgres main: connections used")
    # This session is one of 100 - 3 for superusers.
    assert float(str(connections.observed)) >= 1.0
    assert result.check("postgres main: transaction ids used up").unit == "%"
    assert result.measure("pg_connections_ratio", server="main") > 0
    assert any("checksums are off" in line for line in result.logs)


def test_an_old_transaction_that_is_idle_fails_and_names_the_session(dsn: str) -> None:
    with psycopg.connect(dsn) as session:
        session.execute("SELECT 1")
        pid = session.info.backend_pid
        limits = {"idle_warn": "10ms", "idle_fail": "20ms", "transaction_warn": "10ms", "transaction_fail": "1h"}
        time.sleep(0.05)  # what is looked for is age

        result = check_postgres(dsn, limits)

    idle = result.check("postgres main: idle in transaction")
    assert idle.status is CheckStatus.FAIL
    assert f"pid {pid}" in idle.hint
    assert result.check("postgres main: oldest transaction").status is CheckStatus.WARN


def test_a_session_that_waits_for_anothers_lock_names_who_holds_it(dsn: str) -> None:
    with (
        psycopg.connect(dsn) as holder,
        psycopg.connect(dsn) as waiter,
        psycopg.connect(dsn, autocommit=True) as watcher,
    ):
        holder.execute("SELECT pg_advisory_xact_lock(1)")
        pid = holder.info.backend_pid
        waiter.pgconn.send_query(b"SELECT pg_advisory_xact_lock(1)")
        waits = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
        wait_for(lambda: watcher.execute(waits, [waiter.info.backend_pid]).fetchone(), "the waiter waits")

        result = check_postgres(dsn, {"blocked_warn": "0s", "blocked_fail": "1h"})

        holder.rollback()
        while waiter.pgconn.get_result() is not None:
            pass
    blocked = result.check("postgres main: longest wait for a lock")
    assert blocked.status is CheckStatus.WARN
    assert f"pid {pid}" in blocked.hint
    assert result.measure("pg_blocked_sessions") == 1


def test_a_login_that_cannot_see_other_sessions_is_unknown_with_the_missing_grant(dsn: str) -> None:
    login = f"blind_{uuid.uuid4().hex[:6]}"
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(f"CREATE ROLE {login} LOGIN")
        try:
            result = check_postgres(dsn.replace("postgres@", f"{login}@"))
        finally:
            session.execute(f"DROP ROLE {login}")

    unseen = result.check("postgres main: oldest transaction")
    assert unseen.status is CheckStatus.UNKNOWN
    assert unseen.hint == f"GRANT pg_monitor TO {login}"
    assert result.check("postgres main: connections used").status is CheckStatus.OK
    assert result.outcome == "unknown"


def test_a_monitoring_login_sees_everything(dsn: str) -> None:
    login = f"monitor_{uuid.uuid4().hex[:6]}"
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(f"CREATE ROLE {login} LOGIN IN ROLE pg_monitor")
        try:
            result = check_postgres(dsn.replace("postgres@", f"{login}@"))
        finally:
            session.execute(f"DROP ROLE {login}")

    assert not [check for check in result.checks if check.status is CheckStatus.UNKNOWN], result.text()


def test_slots_archiving_and_settings_that_wait_for_a_restart_are_seen(own_postgres: PostgresServer) -> None:
    dsn = own_postgres.url("postgres")
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("ALTER SYSTEM SET archive_mode = on")
        session.execute("ALTER SYSTEM SET archive_command = 'false'")
    own_postgres.stop()
    own_postgres.start()
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("SELECT pg_create_physical_replication_slot('left_behind', true)")
        session.execute("ALTER SYSTEM SET max_connections = 50")
        session.execute("SELECT pg_reload_conf()")
        session.execute("CREATE TABLE t AS SELECT 1")
        session.execute("SELECT pg_switch_wal()")
        failing = "SELECT 1 FROM pg_stat_archiver WHERE failed_count > 0"
        wait_for(lambda: session.execute(failing).fetchone(), "archiving has failed")
        pending = "SELECT 1 FROM pg_settings WHERE pending_restart"
        wait_for(lambda: _row(dsn, pending), "a setting waits")

        result = check_postgres(dsn, series=earlier("pg_archive_failures", 0, server="main"))

    slot = result.check("postgres main: slot left_behind")
    assert (slot.status, slot.observed) == (CheckStatus.FAIL, "inactive, WAL reserved")
    assert "pg_drop_replication_slot('left_behind')" in slot.hint
    assert result.check("postgres main: archiving").status is CheckStatus.FAIL
    assert result.check("postgres main: new archive failures").status is CheckStatus.WARN
    waiting = result.check("postgres main: settings waiting for a restart")
    assert waiting.status is CheckStatus.WARN
    assert "max_connections" in waiting.hint


def _row(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn) as session:
        return session.execute(query).fetchone()


def test_new_checksum_failures_are_counted_from_the_last_run(own_postgres: PostgresServer) -> None:
    dsn = own_postgres.url("postgres")
    own_postgres.stop()
    own_postgres._run("pg_checksums", "--enable", "-D", f"{own_postgres.folder}/data")
    own_postgres.start()
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("CREATE TABLE t AS SELECT generate_series(1, 100) AS n")
        file = session.execute("SELECT pg_relation_filepath('t')").fetchone()[0]  # type: ignore[index]
    own_postgres.stop()
    with (own_postgres.folder / "data" / file).open("r+b") as pages:
        pages.seek(4000)
        pages.write(b"damage")
    own_postgres.start()
    with psycopg.connect(dsn, autocommit=True) as session, pytest.raises(psycopg.errors.DataCorrupted):
        session.execute("SELECT sum(n) FROM t")

    counted = wait_for(lambda: _failures(dsn), "the failure is counted")
    seen = {
        before: check_postgres(dsn, series=earlier("pg_checksum_failures", before, server="main")).check(
            "postgres main: new checksum failures"
        )
        for before in (None, counted, 0)
    }

    assert {before: check.status.value for before, check in seen.items()} == {None: "fail", counted: "ok", 0: "fail"}


def _failures(dsn: str) -> int:
    with psycopg.connect(dsn) as session:
        return int(session.execute("SELECT sum(checksum_failures) FROM pg_stat_database").fetchone()[0])  # type: ignore[index]


def test_a_wrong_password_is_unknown_and_never_shown(own_postgres: PostgresServer) -> None:
    dsn = own_postgres.url("postgres")
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
        file = own_postgres.folder / "data/pg_hba.conf"
        file.write_text("host all guarded 127.0.0.1/32 scram-sha-256\n" + file.read_text())
        session.execute("SELECT pg_reload_conf()")
        target = {"dsn": dsn.replace("postgres@", "guarded@"), "password": "wr0ng-s3cret"}
        wait_for(lambda: _refused(str(target["dsn"])), "the password is asked for")

        result = run_job("health_check", {"include": ["postgres"]}, {"postgres": {"main": target}})

    unseen = result.check("postgres main: answers")
    assert unseen.status is CheckStatus.UNKNOWN
    assert "password authentication failed" in str(unseen.observed)
    assert "wr0ng-s3cret" not in result.text()


def _refused(dsn: str) -> bool:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError:
        return True
    return False


def test_postgres_that_is_down_hangs_or_refuses_fails_with_the_cause(dsn: str, free_port: int) -> None:
    with port_that_hangs() as hung:
        targets = {
            "down": {"dsn": f"postgresql://postgres@127.0.0.1:{free_port}/x"},
            "hung": {"dsn": f"postgresql://postgres@127.0.0.1:{hung}/x", "timeout": "2s"},
            "nobody": {"dsn": dsn.replace("postgres@", "nobody_here@")},
            "main": {"dsn": dsn},
        }
        started = time.monotonic()

        result = run_job("health_check", {"include": ["postgres"]}, {"postgres": targets})

    assert time.monotonic() - started < 60  # without the timeouts it never ends
    assert "refused" in str(result.check("postgres down: answers").observed)
    assert "timed_out" in str(result.check("postgres hung: answers").observed)
    assert result.check("postgres nobody: answers").status is CheckStatus.FAIL
    assert result.check("postgres main: answers").status is CheckStatus.OK


# --- Redis ---


def test_a_stream_without_deliveries_warns_though_nothing_is_pending(redis_server: RedisServer, keys: str) -> None:
    with closing(redis_server.client()) as client:
        long_ago = f"{int((time.time() - 600) * 1000)}-0"
        client.xgroup_create(f"{keys}orders", "readers", id="0", mkstream=True)
        client.xadd(f"{keys}orders", {"data": "{}"}, id=long_ago)

        result = check_redis(redis_server.url, [f"{keys}orders"])

    what = f"redis main: stream {keys}orders group readers"
    assert result.check(f"{what} pending").observed == 0
    assert result.check(f"{what} lag").observed == 1
    waited = result.check(f"{what} oldest undelivered")
    assert waited.status is CheckStatus.WARN
    assert 600 <= float(str(waited.observed)) < 660
    assert result.measure("redis_stream_lag", stream=f"{keys}orders", group="readers") == 1
    assert result.outcome == "warned", result.text()


def test_redis_that_is_well_is_green(redis_server: RedisServer, keys: str) -> None:
    with closing(redis_server.client()) as client:
        client.xgroup_create(f"{keys}orders", "readers", id="0", mkstream=True)
        client.xadd(f"{keys}orders", {"data": "{}"})
        client.xreadgroup("readers", "one", {f"{keys}orders": ">"})

        result = check_redis(
            redis_server.url, [f"{keys}orders"], series=earlier("redis_evicted_keys", 0, server="main")
        )

    assert result.outcome == "succeeded", result.text()
    assert result.check(f"redis main: stream {keys}orders group readers pending").observed == 1
    assert result.check("redis main: new evicted keys").observed == 0


def test_a_lag_that_redis_does_not_know_is_counted(redis_server: RedisServer, keys: str) -> None:
    stream = f"{keys}orders"
    with closing(redis_server.client()) as client:
        ids = [client.xadd(stream, {"n": n}) for n in range(70)]
        client.xgroup_create(stream, "readers", id=ids[2])
        client.xdel(stream, ids[40])
        groups: Any = client.xinfo_groups(stream)
        assert groups[0]["lag"] is None

        result = check_redis(redis_server.url, [stream])

    lag = result.check(f"redis main: stream {stream} group readers lag")
    # 70 entries, of which three were before the group and one is deleted.
    assert (lag.status, lag.observed) == (CheckStatus.WARN, 66)


@pytest.mark.parametrize("deleted", [False, True], ids=["known to Redis", "counted"])
@pytest.mark.parametrize(("undelivered", "status"), [(999, CheckStatus.WARN), (1002, CheckStatus.FAIL)])
def test_a_group_that_is_far_behind_fails(
    redis_server: RedisServer, keys: str, undelivered: int, status: CheckStatus, *, deleted: bool
) -> None:
    stream = f"{keys}orders"
    with closing(redis_server.client()) as client:
        ids = [client.xadd(stream, {"n": n}) for n in range(undelivered + deleted)]
        client.xgroup_create(stream, "readers", id="0")
        if deleted:  # from here on, Redis does not know the lag
            client.xdel(stream, ids[10])

        result = check_redis(redis_server.url, [stream])

    lag = result.check(f"redis main: stream {stream} group readers lag")
    assert lag.status is status
    assert int(str(lag.observed)) == (1001 if deleted and status is CheckStatus.FAIL else undelivered)


@pytest.mark.parametrize(("minutes", "status"), [(4, "ok"), (30, "warn"), (61, "fail"), (100_000, "fail")])
def test_an_entry_that_no_consumer_fetches_for_an_hour_fails(
    redis_server: RedisServer, keys: str, minutes: int, status: str
) -> None:
    stream = f"{keys}orders"
    with closing(redis_server.client()) as client:
        client.xgroup_create(stream, "readers", id="0", mkstream=True)
        client.xadd(stream, {"data": "{}"}, id=f"{int((time.time() - 60 * minutes) * 1000)}-0")

        result = check_redis(redis_server.url, [stream])

    assert result.check(f"redis main: stream {stream} group readers oldest undelivered").status == status


def test_too_many_entries_without_an_acknowledgement_fail(redis_server: RedisServer, keys: str) -> None:
    stream = f"{keys}orders"
    with closing(redis_server.client()) as client:
        client.xgroup_create(stream, "readers", id="0", mkstream=True)
        for n in range(1001):
            client.xadd(stream, {"n": n})
        client.xreadgroup("readers", "one", {stream: ">"})

        result = check_redis(redis_server.url, [stream])

    pending = result.check(f"redis main: stream {stream} group readers pending")
    assert (pending.status, pending.observed) == (CheckStatus.FAIL, 1001)


@pytest.mark.parametrize(("before", "status"), [(None, "warn"), (1.0, "warn"), (0.0, "fail"), (6.0, "ok")])
def test_dead_letters_are_evaluated_by_how_many_are_new(
    redis_server: RedisServer, keys: str, before: float | None, status: str
) -> None:
    stream = f"{keys}orders"
    with closing(redis_server.client()) as client:
        client.xadd(stream, {"data": "{}"})
        for _ in range(6):
            client.xadd(f"{stream}.dlq", {"data": "{}"})

        series = earlier("redis_dlq_length", before, server="main", stream=stream)
        result = check_redis(redis_server.url, [stream], series=series)

    assert result.check(f"redis main: stream {keys}orders new dead letters").status.value == status
    assert result.measure("redis_dlq_length", stream=f"{keys}orders") == 6


def test_a_stream_that_is_not_there_is_unknown(redis_server: RedisServer, keys: str) -> None:
    result = check_redis(redis_server.url, [f"{keys}missing"])

    unseen = result.check(f"redis main: stream {keys}missing")
    assert unseen.status is CheckStatus.UNKNOWN
    assert "no stream" in str(unseen.observed)


def test_redis_that_cannot_save_and_is_full_fails() -> None:
    with own_redis() as server, closing(server.client()) as client:
        (server.folder / "dump.rdb").mkdir()  # no file can take its place
        client.bgsave()
        wait_for(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "the save failed")  # type: ignore[index]
        client.set("big", b"x" * 8_000_000)
        client.config_set("maxmemory", 9_500_000)  # of which more than 8.6 MB are used

        result = check_redis(server.url, [])

    assert result.check("redis main: last background save").status is CheckStatus.FAIL
    assert result.check("redis main: memory used").status is CheckStatus.FAIL


@pytest.fixture
def looking(redis_server: RedisServer) -> Iterator[dict[str, str]]:
    """The shipped user who may look and no more."""
    lines = (JOBS.parent / "deploy/redis.acl").read_text().splitlines()
    rules = next(line for line in lines if line.startswith("user maintd_ro ")).split()[2:]
    user = f"ro{uuid.uuid4().hex[:6]}"
    with closing(redis_server.client()) as client:
        client.execute_command("ACL", "SETUSER", user, *rules)
        yield {"username": user, "password": "change-me"}
        client.execute_command("ACL", "DELUSER", user)


@pytest.mark.parametrize("given", [0, 1], ids=["nothing given yet", "stuck half-way"])
def test_the_shipped_user_of_redis_sees_a_stream_that_is_stuck(
    redis_server: RedisServer, keys: str, looking: dict[str, str], given: int
) -> None:
    stream = f"{keys}orders"
    with closing(redis_server.client()) as client:
        client.xgroup_create(stream, "readers", id="0", mkstream=True)
        long_ago = int((time.time() - 600) * 1000)
        for number in range(3):
            client.xadd(stream, {"data": "{}"}, id=f"{long_ago + number}-0")
        if given:
            client.xreadgroup("readers", "one", {stream: ">"}, count=given)

        result = run_job(
            "health_check",
            {"include": ["redis"]},
            {"redis": {"main": {"url": redis_server.url, "streams": [stream], **looking}}},
        )

    what = f"redis main: stream {stream} group readers"
    assert result.check(f"{what} lag").observed == 3 - given
    assert result.check(f"{what} oldest undelivered").status is CheckStatus.WARN
    assert not [check for check in result.checks if check.status is CheckStatus.UNKNOWN], result.text()


def test_redis_that_loads_its_data_is_not_ready(tmp_path: Any) -> None:
    first = ("--dir", str(tmp_path), "--enable-debug-command", "local")
    with own_redis(*first) as server, closing(server.client()) as client:
        client.execute_command("DEBUG", "POPULATE", 20_000)
        client.save()
    slowly = ("--dir", str(tmp_path), "--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
    with own_redis(*slowly) as server:
        result = check_redis(server.url, [])

    loading = result.check("redis main: answers")
    assert loading.status is CheckStatus.FAIL
    assert "LOADING" in str(loading.observed).upper()
    assert "loaded" in loading.hint


def test_redis_that_is_down_hangs_or_is_something_else_fails_with_the_cause(
    redis_server: RedisServer, free_port: int
) -> None:
    with port_that_hangs() as hung, port_that_sends(b"HTTP/1.1 400 Bad Request\r\n\r\n") as other:
        urls = {"down": free_port, "hung": hung, "other": other, "main": redis_server.port}
        targets = {name: {"url": f"redis://127.0.0.1:{port}/0", "timeout": "1s"} for name, port in urls.items()}
        targets["denied"] = {**targets["main"], "username": "nobody", "password": "wrong"}

        result = run_job("health_check", {"include": ["redis"]}, {"redis": targets})

    causes = {name: str(result.check(f"redis {name}: answers").observed) for name in targets}
    assert causes["down"].startswith("refused")
    assert causes["hung"].startswith("timed_out")
    assert causes["other"].startswith("malformed")
    assert result.check("redis denied: answers").status is CheckStatus.UNKNOWN
    assert result.check("redis main: answers").status is CheckStatus.OK


# --- Prometheus and Alertmanager ---


def test_a_dead_target_and_a_broken_rule_of_prometheus_fail(free_port: int, tmp_path: Any) -> None:
    rules = tmp_path / "rules.yml"
    # Two series on one side of a one-to-one match: it parses, and fails at each evaluation.
    rules.write_text(
        'groups: [{name: g, rules: [{record: "broken:rule", expr: "scrape_samples_scraped * ignoring(job) up"}]}]'
    )
    with ExitStack() as stack:
        alive = stack.enter_context(http_service({"/metrics": lambda: _metrics()}))
        port = alive.rpartition(":")[2]
        config = (
            "global: {scrape_interval: 1s, evaluation_interval: 1s, scrape_timeout: 1s}\n"
            f"rule_files: [{rules}]\n"
            "scrape_configs:\n"
            f"- {{job_name: alive, static_configs: [{{targets: ['127.0.0.1:{port}'], labels: {{same: a}}}}]}}\n"
            f"- {{job_name: again, static_configs: [{{targets: ['127.0.0.1:{port}'], labels: {{same: a}}}}]}}\n"
            f"- {{job_name: dead, static_configs: [{{targets: ['127.0.0.1:{free_port}']}}]}}\n"
        )
        server = stack.enter_context(prometheus(config))
        targets = {"prometheus": {"main": {"url": server.url}}}

        def seen() -> JobResult | None:
            found = run_job("health_check", {"include": ["prometheus"]}, targets)
            ready = all(
                found.check(f"prometheus main: {what}").observed == 1 for what in ("targets down", "rules that fail")
            )
            return found if ready else None

        result = wait_for(seen, "Prometheus has scraped and evaluated", every=0.3)

    down = result.check("prometheus main: targets down")
    assert down.status is CheckStatus.FAIL
    assert f"dead 127.0.0.1:{free_port}" in down.hint
    assert "refused" in down.hint
    broken = result.check("prometheus main: rules that fail")
    assert broken.status is CheckStatus.FAIL
    assert "g broken:rule" in broken.hint


def test_a_prometheus_without_targets_proves_nothing(prometheus_server: WebServer) -> None:
    result = run_job(
        "health_check", {"include": ["prometheus"]}, {"prometheus": {"main": {"url": prometheus_server.url}}}
    )

    assert result.check("prometheus main: answers").status is CheckStatus.OK
    assert result.check("prometheus main: targets down").status is CheckStatus.UNKNOWN


def test_an_alertmanager_that_is_down_is_a_failure(alertmanager_server: WebServer) -> None:
    targets = {"main": {"url": alertmanager_server.url}, "down": {"url": f"http://127.0.0.1:{free_port()}"}}

    result = run_job("health_check", {"include": ["alertmanager"]}, {"alertmanager": targets})

    assert result.check("alertmanager main: answers").status is CheckStatus.OK
    assert result.check("alertmanager down: answers").status is CheckStatus.FAIL


def test_a_dead_service_of_a_whole_stack_costs_its_timeout_once(
    dsn: str, redis_server: RedisServer, prometheus_server: WebServer, alertmanager_server: WebServer
) -> None:
    with http_service({"/health": json_reply({"redis": "ok"})}) as url, port_that_hangs() as hung:
        services = {f"s{number}": {"url": f"{url}/health", "expect": {"redis": "ok"}} for number in range(10)}
        targets = {
            "http": {**services, "dead": {"url": f"http://127.0.0.1:{hung}/health", "timeout": "3s"}},
            "postgres": {"main": {"dsn": dsn}},
            "redis": {"main": {"url": redis_server.url}},
            "prometheus": {"main": {"url": prometheus_server.url}},
            "alertmanager": {"main": {"url": alertmanager_server.url}},
        }
        began = time.monotonic()
        run_job("health_check", {}, {**targets, "http": services})
        quiet = time.monotonic() - began  # 1 s, and more on a busy machine
        began = time.monotonic()

        result = run_job("health_check", {}, targets)

    assert time.monotonic() - began < 8 + 2 * quiet
    assert [check.name for check in result.checks if check.status is CheckStatus.FAIL] == ["http dead: answers"]


def _metrics() -> Reply:
    return Reply(b"some_metric 1\n", content_type="text/plain; version=0.0.4")
