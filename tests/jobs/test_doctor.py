"""`doctor` against real servers: what each job needs is exercised, and what is missing is named with what to type."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.databases import Database, database
from support.http_services import Reply, http_service, json_reply, port_that_hangs
from support.job_runs import JOBS, JobResult, run_job, shipped_job
from support.servers.docker import DockerEngine
from support.servers.postgres import PostgresServer
from support.servers.prometheus import WebServer
from support.servers.redis import RedisServer
from support.servers.redis import redis as own_redis
from support.servers.refusing_engine import refusing_engine

from maintd.errors import TargetError
from maintd.model.evidence import CheckStatus
from maintd.model.target import HttpTarget, Targets

AUTOMATIC = {"timeout": "3s"}


@pytest.fixture
def db(postgres_server: PostgresServer) -> Iterator[Database]:
    with database(postgres_server) as made:
        made.run("CREATE TABLE orders (id bigint PRIMARY KEY, at timestamptz)", "INSERT INTO orders VALUES (1, now())")
        yield made


def examine(
    targets: Mapping[str, Any] | Targets, *steps: tuple[str, Mapping[str, Any]], store: Mapping[str, Any] | None = None
) -> JobResult:
    """Examine an entry `weekly` with these steps: jobs with their params."""
    found = [
        {
            "entry": "weekly",
            "step": job,
            "job": job,
            "path": str(JOBS / f"{job}.py"),
            "params": json.dumps(dict(params)).replace("${", "$\\u007b"),
        }
        for job, params in steps
    ]
    return run_job("doctor", {"calendar": {"steps": found, "store": store}}, targets)


def postgres(db: Database, role: str = "postgres") -> dict[str, Any]:
    return {"postgres": {"main": {"dsn": db.url_of(role)}}}


# --- Postgres -----------------------------------------------------------------------------------------------------


def test_a_superuser_has_what_the_jobs_on_postgres_need(db: Database) -> None:
    db.run("CREATE EXTENSION pgstattuple", "CREATE EXTENSION amcheck")

    result = examine(postgres(db), ("vacuum", {}), ("reindex", {}), ("database_size", {}), ("health_check", {}))

    assert result.outcome == "succeeded", result.text()
    assert result.check("postgres main: vacuum and analyze tables").observed == "1 tables"
    planned = result.check("postgres main: read statistics of tables")
    assert planned.expected == "works, for weekly"
    assert str(planned.observed).endswith("queries planned")


def test_a_role_that_may_only_read_cannot_vacuum(db: Database) -> None:
    role = db.role("reader", "pg_monitor", "pg_read_all_data")

    result = examine(postgres(db, role), ("vacuum", {}))

    check = result.check("postgres main: vacuum and analyze tables")
    assert check.status is CheckStatus.FAIL
    assert "1 of 1 tables belong to others: public.orders" in str(check.observed)
    assert check.hint.startswith("GRANT postgres TO the target's user")
    assert result.check("postgres main: see all sessions").status is CheckStatus.OK


def test_a_role_without_pg_monitor_does_not_see_all_sessions(db: Database) -> None:
    result = examine(postgres(db, db.role("blind")), ("vacuum", {}))

    check = result.check("postgres main: see all sessions")
    assert (check.status, check.hint) == (CheckStatus.FAIL, "GRANT pg_monitor TO the target's user")


def test_a_member_of_the_owner_analyzes_and_leaves_nothing(db: Database) -> None:
    role = db.role("worker", "pg_monitor")
    db.run(f'ALTER TABLE orders OWNER TO "{role}"')
    before = db.ask("SELECT count(*) FROM pg_statistic WHERE starelid = 'orders'::regclass")

    result = examine(postgres(db, role), ("vacuum", {}))

    assert result.check("postgres main: vacuum and analyze tables").status is CheckStatus.OK, result.text()
    assert before == db.ask("SELECT count(*) FROM pg_statistic WHERE starelid = 'orders'::regclass") == 0


def test_an_extension_that_is_missing_is_named_with_the_statement(db: Database) -> None:
    result = examine(postgres(db), ("reindex", {}), ("database_size", {"amcheck": "yes"}))

    density = result.check("postgres main: measure the density of indexes")
    assert (density.status, density.hint) == (CheckStatus.FAIL, "CREATE EXTENSION pgstattuple")
    assert result.check("postgres main: check for corruption with amcheck").status is CheckStatus.FAIL


def test_what_a_job_can_do_without_is_shown_without_an_alarm(db: Database) -> None:
    result = examine(postgres(db), ("reindex", {"trust_estimate": True}), ("database_size", {}))

    assert result.outcome == "succeeded", result.text()
    assert result.check("postgres main: measure the density of indexes").optional


@pytest.mark.parametrize(
    ("query", "cause"),
    [
        ({"table": "orders", "sql": "SELECT count(*) AS count FROM orders WHERE at >= %(since)s"}, ""),
        ({"table": "fills", "sql": "SELECT 1 AS count"}, "there is no table fills"),
        ({"table": "orders", "sql": "SELECT count(*) AS count FROM orders WHERE att >= %(since)s"}, "att"),
        ({"table": "orders", "sql": "SELEC 1"}, "syntax error"),
        ({"table": "orders", "sql": "SELECT no_such_function() AS count"}, "no_such_function"),
    ],
)
def test_sql_of_params_is_planned(db: Database, query: Mapping[str, str], cause: str) -> None:
    with http_service({"/pnl/status": json_reply({"pnl": 1}), "/": json_reply({})}) as url:
        targets = postgres(db) | {"http": {"main": {"url": url}}}
        result = examine(targets, ("trading_review", {"queries": {"orders": query}}))

    check = result.check("postgres main: count activity")
    assert (check.status is CheckStatus.OK) is (not cause), result.text()
    assert cause in str(check.observed)


def test_a_server_that_is_down_is_one_line(db: Database, free_port: int) -> None:
    targets = {"postgres": {"main": {"dsn": f"postgresql://postgres@127.0.0.1:{free_port}/x"}}}

    result = examine(targets, ("vacuum", {}), ("reindex", {}))

    assert [check.name for check in result.named("postgres")] == ["postgres main: answers"]
    assert result.check("postgres main: answers").status is CheckStatus.FAIL


def test_the_store_within_a_maintained_server_warns(db: Database) -> None:
    own = {"host": "localhost", "port": db.server.port}

    inside = examine(postgres(db), ("vacuum", {}), store=own)
    outside = examine(postgres(db), ("vacuum", {}), store=own | {"port": 1})

    name = "store: outside of the servers that maintd maintains"
    assert (inside.check(name).status, inside.check(name).observed) == (CheckStatus.WARN, "in postgres main")
    assert outside.check(name).status is CheckStatus.OK


# --- Redis, Docker, HTTP, Prometheus ------------------------------------------------------------------------------


def test_a_redis_user_without_bgsave_gets_the_rule_to_add(tmp_path: Path) -> None:
    acl = tmp_path / "users.acl"
    rights = "~* -@all +ping +info +dbsize +config|get +lastsave +scan +type +pttl +memory|usage +slowlog|get"
    acl.write_text(f"user default off\nuser reader on nopass {rights}\n")
    with own_redis("--aclfile", str(acl)) as server:
        targets = {"redis": {"main": {"url": server.url, "username": "reader", "password": "x"}}}
        result = examine(targets, ("redis_maintenance", {}))

    save = result.check("redis main: make a background save")
    assert (save.status, save.hint) == (CheckStatus.FAIL, "ACL SETUSER the target's user +bgsave")
    keys = result.check("redis main: count and measure keys")
    assert keys.hint.endswith("+latency|latest")
    assert result.check("redis main: read its state").status is CheckStatus.OK


def test_exercising_redis_neither_saves_nor_writes(redis_server: RedisServer) -> None:
    client = redis_server.client()
    before = (client.lastsave(), client.info("stats")["total_error_replies"], client.dbsize())
    params = {"expire": {"cache:*": "1h"}, "unlink": {"tmp:": "1d"}, "trim": {"events": "7d"}}

    result = examine({"redis": {"main": {"url": redis_server.url}}}, ("redis_maintenance", params))

    assert result.outcome == "succeeded", result.text()
    assert (client.lastsave(), client.dbsize()) == (before[0], before[2])


def test_a_required_stream_that_does_not_exist_is_missing(redis_server: RedisServer) -> None:
    targets = {"redis": {"main": {"url": redis_server.url, "streams": ["no-such-stream"]}}}

    result = examine(targets, ("redis_maintenance", {}))

    assert result.check("redis main: read its streams").status is CheckStatus.FAIL


def test_an_engine_allows_what_the_cleanup_needs(docker_server: DockerEngine) -> None:
    targets = {"docker": {"main": {"url": docker_server.url}}}

    result = examine(targets, ("docker_cleanup", {"networks": "7d"}))

    assert result.outcome == "succeeded", result.text()


@pytest.mark.parametrize("request_", [r"DELETE /v[\d.]+/images/.*", r"POST /v[\d.]+/build/prune"])
def test_a_proxy_that_denies_a_request_is_named(docker_server: DockerEngine, request_: str) -> None:
    with refusing_engine(docker_server, request_, 403) as url:
        result = examine({"docker": {"main": {"url": url}}}, ("docker_cleanup", {}))

    failed = [check for check in result.checks if check.status is CheckStatus.FAIL]
    assert len(failed) == 1, result.text()
    assert "denied: " in str(failed[0].observed)
    assert failed[0].hint == "allow it in the socket proxy's rules"


def test_promql_is_parsed_and_its_series_are_present(prometheus_server: WebServer) -> None:
    targets = {"prometheus": {"main": {"url": prometheus_server.url}}, "http": {"main": {"url": prometheus_server.url}}}
    queries = {"up": "vector(1)", "nothing": "no_such_metric_at_all", "broken": "sum(up"}

    results = {
        name: examine(targets, ("trading_review", {"metrics": {name: promql}})).check("prometheus main: count activity")
        for name, promql in queries.items()
    }

    assert results["up"].status is CheckStatus.OK
    assert "empty" in str(results["nothing"].observed)
    assert 'query "broken"' in str(results["broken"].observed)


def test_a_path_of_a_service_that_is_not_json_is_found(db: Database) -> None:
    page = Reply(b"<html>log in</html>", content_type="text/html")
    with http_service({"/pnl/status": page, "/": json_reply({})}) as url:
        result = examine({"http": {"main": {"url": url}}}, ("trading_review", {}))

    check = result.check("http main: read /pnl/status")
    assert (check.status, "a web page" in str(check.observed)) == (CheckStatus.FAIL, True)


# --- this machine, and the calendar -------------------------------------------------------------------------------


def test_programs_files_and_folders_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    targets = {"folders": {"logs": {"path": str(tmp_path / "logs")}, "backups": {"path": str(tmp_path / "gone")}}}

    result = examine(
        targets,
        ("log_cleanup", {}),
        ("backup_verify", {"identity": str(tmp_path / "key")}),
        ("command", {"argv": ["no-such-program"]}),
    )

    assert result.check("folders logs: delete old logs").status is CheckStatus.OK
    assert "No such file" in str(result.check("folders backups: list its files").observed)
    assert result.check(f"file {tmp_path / 'key'}: decrypt backups of age").status is CheckStatus.FAIL
    assert result.check("program no-such-program: run it").status is CheckStatus.FAIL


def test_a_program_that_may_not_be_executed_is_not_reported_as_missing(tmp_path: Path) -> None:
    (tmp_path / "clean.sh").write_text("#!/bin/sh\n")
    steps = [
        ({"argv": [str(tmp_path / "clean.sh")]}, f"program {tmp_path / 'clean.sh'}: run it", "is not executable"),
        ({"argv": ["clean.sh"], "env": {"PATH": str(tmp_path)}}, "program clean.sh: run it, with", "is not executable"),
        ({"argv": ["./none.sh"], "cwd": str(tmp_path)}, f"program {tmp_path / 'none.sh'}: run it", "does not exist"),
    ]

    result = examine({}, *(("command", params) for params, _, _ in steps))

    for _, name, text in steps:
        (check,) = [check for check in result.checks if check.name.startswith(name)]
        assert check.status is CheckStatus.FAIL
        assert text in str(check.observed)
        assert ("chmod +x" in check.hint) is (text == "is not executable")


def test_a_program_is_looked_for_in_its_working_directory(tmp_path: Path) -> None:
    program = tmp_path / "clean.sh"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)

    result = examine({}, ("command", {"argv": ["./clean.sh"], "cwd": str(tmp_path)}))

    assert result.check(f"program {program}: run it").status is CheckStatus.OK


def test_a_reference_without_a_value_hides_nothing_else_of_its_step(tmp_path: Path) -> None:
    env = {"TOKEN": "${NO_SUCH_VARIABLE}", "KEY": "${file:/no/such/key}"}
    params = {"argv": ["no-such-program"], "env": env, "cwd": str(tmp_path / "gone")}

    result = examine({}, ("command", params | {"cwd": None}), ("command", params | {"argv": ["${NO_SUCH_VARIABLE}"]}))

    failed = {check.name: str(check.observed) for check in result.checks if check.status is CheckStatus.FAIL}
    assert set(failed) == {
        "entry weekly: command: ${NO_SUCH_VARIABLE}",
        "entry weekly: command: ${file:/no/such/key}",
        "program no-such-program: run it",
        f"folder {tmp_path / 'gone'}: run a program in it",
    }
    assert "is not set" in failed["entry weekly: command: ${NO_SUCH_VARIABLE}"]


@pytest.mark.parametrize("params", [{"tables": ["${NO_SUCH_VARIABLE}"]}, {"threshold": "${NO_SUCH_VARIABLE}"}])
def test_a_reference_without_a_value_is_the_only_fault_that_is_named(params: Mapping[str, Any]) -> None:
    result = examine({}, ("vacuum", params), ("health_check", {}))

    named = [check.name for check in result.checks if check.name.startswith("entry")]
    assert named == ["entry weekly: vacuum: ${NO_SUCH_VARIABLE}"]
    assert result.check("host local: answers").status is CheckStatus.OK


def test_a_kind_that_is_not_configured_is_no_alarm_and_is_named() -> None:
    result = examine({}, ("health_check", {}), ("vacuum", {}), ("redis_maintenance", {}), ("alert_review", {}))

    assert result.outcome == "succeeded", result.text()
    shown = [check.name for check in result.named("configured")]
    assert shown == ["postgres: configured", "redis: configured", "prometheus or alertmanager or http: configured"]


@pytest.mark.parametrize(
    ("job", "folder"),
    [
        ("backup", "backup_sets"),
        ("restore_drill", "backup_sets"),
        ("rollback_manifest", "rollback"),
        ("rollback_loss", "backup_sets"),
        ("rehearsal", "rollback"),
    ],
)
@pytest.mark.parametrize("others", [{}, {"folders": {"other": {"path": "/"}}}], ids=["no folders", "another folder"])
def test_a_folder_without_which_a_job_is_skipped_is_named(job: str, folder: str, others: Mapping[str, Any]) -> None:
    targets = {
        **others,
        "docker": {"main": {"url": "tcp://127.0.0.1:1"}},
        "postgres": {"main": {"dsn": "host=nowhere"}},
    }
    if not others:  # a kind that the job declares as needed is what it lacks then
        targets["folders"] = {"unrelated": {"path": "/"}}

    result = examine(targets, (job, {}), ("host_review", {}))

    check = result.check(f"folders {folder}: configured")
    assert (check.status, check.hint) == (CheckStatus.UNKNOWN, f"set targets.folders.{folder} in the calendar")
    assert "the steps of weekly that need it are skipped" in str(check.observed)
    assert result.outcome != "failed", result.text()


def idle(*steps: tuple[str, Mapping[str, Any], Mapping[str, Any]], entries: tuple[str, ...] = ()) -> JobResult:
    """Examine an entry `weekly` on a site without any target; each step with fields of its own."""
    found = [
        {
            "entry": "weekly",
            "step": job,
            "job": job,
            "path": str(JOBS / f"{job}.py"),
            "params": json.dumps(params),
            **own,
        }
        for job, params, own in steps
    ]
    return run_job("doctor", {"calendar": {"steps": found}, "entries": list(entries)}, {})


@pytest.mark.parametrize(
    ("steps", "without"),
    [
        (
            [("health_check", {}, {}), ("secrets_rotate", {}, {"required": True})],
            "a secrets target (secrets_rotate)",
        ),
        ([("vacuum", {}, {}), ("backup", {}, {})], "a postgres target (vacuum), the folder backup_sets (backup)"),
        ([("security_audit", {"hosts": []}, {})], "something to audit (security_audit)"),
    ],
    ids=["a required step", "each step", "what no kind of target is"],
)
def test_an_entry_of_which_nothing_runs_is_named_and_unknown_where_it_was_asked_for(
    steps: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]], without: str
) -> None:
    asked, at_noon = idle(*steps, entries=("weekly",)), idle(*steps)

    check = asked.check("entry weekly: configured")
    assert check.observed == f"unknown: not_configured: nothing of it runs without {without}"
    assert check.hint.startswith(("set targets.", "configure targets."))
    assert (asked.outcome, check.optional) == ("unknown", False)
    assert (at_noon.outcome, at_noon.check("entry weekly: configured").optional) == ("succeeded", True)


def test_an_entry_with_a_gate_waits_there_also_when_no_step_has_its_target() -> None:
    result = idle(("vacuum", {}, {"gated": True}), entries=("weekly",))

    assert not result.named("entry weekly"), result.text()
    assert result.check("postgres: configured").optional


# What these lack shows only in what was kept of earlier runs and in the store, which `doctor` does not read.
LACKS_WHAT_IS_KEPT = {"security_log_review", "access_review"}
HAVE_REQUIRED_PARAMS = {"alerts_silence", "command", "rollback", "service_unhalt"}
WITHOUT_PARAMS = {path.stem for path in JOBS.glob("*.py")} - LACKS_WHAT_IS_KEPT - HAVE_REQUIRED_PARAMS


@pytest.mark.parametrize("name", sorted(WITHOUT_PARAMS))
@pytest.mark.parametrize(
    "targets",
    [{"host": {}}, {"host": {}, "folders": {"other": {"path": "/proc/self/fdinfo"}}}],
    ids=["no targets", "another folder"],
)
def test_doctor_knows_of_each_job_whether_a_site_without_targets_skips_its_step(
    name: str, targets: Mapping[str, Any]
) -> None:
    known = Targets.model_validate(targets)
    lacks = shipped_job(name).description.kinds_missing(known)

    found = examine(known, (name, {}))

    expected = bool(lacks)
    if not lacks:
        ran = run_job(name, {}, known, dry_run=True)
        expected = isinstance(ran.error, TargetError) and ran.error.cause == "not_configured"
    assert bool(found.named("entry weekly: configured")) == expected, found.text()


def test_without_any_step_nothing_is_known() -> None:
    assert run_job("doctor", {}, {}).outcome == "unknown"


def test_an_engine_that_fails_is_not_taken_for_one_that_allows(docker_server: DockerEngine) -> None:
    with refusing_engine(docker_server, r"GET /v[\d.]+/images/json", 500) as url:
        result = examine({"docker": {"main": {"url": url}}}, ("docker_cleanup", {}))

    check = result.check("docker main: list containers, images and networks")
    assert (check.status, "is answered 500" in str(check.observed)) == (CheckStatus.FAIL, True)


@pytest.mark.parametrize(
    ("params", "cause"),
    [
        ({"threshold": -1}, "threshold"),
        ({"no_such_param": 1}, "no_such_param"),
    ],
)
def test_params_that_cannot_be_used_fail_for_their_step_only(params: Mapping[str, Any], cause: str) -> None:
    result = examine({}, ("vacuum", params), ("health_check", {}))

    assert cause in str(result.check("entry weekly: vacuum").observed)
    assert result.check("host local: answers").status is CheckStatus.OK


def test_a_job_that_declares_nothing_needs_its_targets(tmp_path: Path, redis_server: RedisServer) -> None:
    job = tmp_path / "own.py"
    job.write_text(
        '"""Own."""\nfrom maintd.job import job\n\n@job(needs=("redis",))\ndef run(ctx, params):\n    pass\n'
    )
    steps = [{"entry": "e", "step": "own", "job": "own", "path": str(job)}]

    result = run_job("doctor", {"calendar": {"steps": steps}}, {"redis": {"main": {"url": redis_server.url}}})

    assert result.check("redis main: answers").status is CheckStatus.OK


def test_an_unknown_entry_is_refused_with_a_suggestion() -> None:
    steps = [{"entry": "weekly-cleanup", "step": "s", "job": "health_check", "path": str(JOBS / "health_check.py")}]

    result = run_job("doctor", {"entries": ["weekly-clenup"], "calendar": {"steps": steps}}, {})

    assert "weekly-clenup" in str(result.error)


def test_one_hanging_target_of_twenty_takes_no_longer_than_its_timeout(redis_server: RedisServer) -> None:
    with ExitStack() as stack:
        port = stack.enter_context(port_that_hangs())
        url = stack.enter_context(http_service({"/": json_reply({})}))
        services = {f"s{number}": HttpTarget(url=url) for number in range(18)}
        services["hangs"] = HttpTarget(url=f"http://127.0.0.1:{port}/")
        targets = Targets(http=services).model_copy(
            update={"redis": Targets.model_validate({"redis": {"main": {"url": redis_server.url}}}).redis}
        )
        started = time.monotonic()
        result = examine(targets, ("health_check", {}))
        took = time.monotonic() - started

    assert took < 60  # without the timeout it never ends
    assert [check.name for check in result.checks if check.status is CheckStatus.FAIL] == ["http hangs: answers"]
