"""Configuration of real servers against an approved baseline: drift, what cannot work, what was not read, no secret."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis import Redis
from support.databases import database
from support.http_services import Reply, http_service, json_reply, port_that_hangs
from support.job_runs import JobResult, run_job
from support.servers.postgres import PostgresServer
from support.servers.prometheus import CONFIG, WebServer, alertmanager, prometheus
from support.servers.redis import RedisServer, redis

from maintd.checks.config_review.baselines import Baselines
from maintd.checks.config_review.snapshot import Snapshot
from maintd.errors import TargetError
from maintd.model.evidence import ChangeState, CheckStatus

OK, WARN, FAIL, UNKNOWN = CheckStatus.OK, CheckStatus.WARN, CheckStatus.FAIL, CheckStatus.UNKNOWN
CANARY = "cAnaRy-4711-sEcret"
APPROVAL = {"approvals": {"gate": "approved by ada"}}


class Review:
    """Reviews and acceptances with one folder of baselines."""

    def __init__(self, folder: Path, targets: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.baselines = folder / "baselines"
        self.baselines.mkdir()
        self.targets = {"folders": {"config_baselines": {"path": str(self.baselines)}}, **targets}
        self.params = dict(params or {})

    def run(self, **params: Any) -> JobResult:
        result = run_job("config_review", {**self.params, **params}, self.targets)
        assert result.error is None, result.text()
        return result

    def evidence(self, result: JobResult) -> dict[str, dict[str, Any]]:
        found = next(item for item in result.artifacts if item.name == "config.json")
        return {item["subject"]: item for item in json.loads(Path(found.path).read_text())}

    def accept(self, result: JobResult, *subjects: str, **attempt: Any) -> JobResult:
        seen = self.evidence(result)
        digests = ",".join(seen[subject]["digest"] for subject in subjects or seen)
        params = {"digests": digests, "why": "it is right as it is"}
        return run_job("config_accept", params, self.targets, **{**APPROVAL, **attempt})

    def everything_written(self, *results: JobResult) -> str:
        """All that a run has reported and written: rows, log, artifacts, and the folder of baselines."""
        texts = [repr(result.items) + "\n".join(result.logs) for result in results]
        files = [Path(item.path) for result in results for item in result.artifacts]
        files += [path for path in self.baselines.rglob("*") if path.is_file()]
        return "\n".join([*texts, *(path.read_bytes().decode(errors="replace") for path in files)])


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    with redis("--requirepass", CANARY, "--maxmemory", "100mb") as server:
        yield server


def redis_review(tmp_path: Path, server: RedisServer, **params: Any) -> Review:
    targets = {"redis": {"main": {"url": server.url, "password": CANARY}}}
    return Review(tmp_path, targets, {"docker": [], **params})


def test_without_a_baseline_it_is_unknown_with_the_command_that_accepts_what_was_seen(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    review = redis_review(tmp_path, own_redis)

    first = review.run()

    check = first.check("redis main: as approved")
    digest = review.evidence(first)["redis main"]["digest"]
    assert (check.status, check.observed) == (UNKNOWN, "unknown: no approved baseline"), first.text()
    assert f"maintd trigger config-accept -p config_accept.digests={digest}" in check.hint
    assert review.run().outcome == "unknown", "seeing it does not approve it"
    assert not (review.baselines / "approved").exists()


def test_what_a_person_accepted_passes_and_each_change_of_it_is_a_finding_with_both_values(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    review = redis_review(tmp_path, own_redis)
    accepted = review.accept(review.run())
    assert accepted.outcome == "succeeded", accepted.text()
    before = review.run()
    with Redis(host="127.0.0.1", port=own_redis.port, password=CANARY) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("masterauth", CANARY)

    after = review.run(redis_policies=["noeviction"])

    assert before.check("redis main: as approved").status is OK, before.text()
    check = after.check("redis main: as approved")
    assert check.status is FAIL
    assert str(check.observed).startswith("2 changed, 0 added, 0 removed: "), check.observed
    assert "settings/maxmemory-policy: noeviction → allkeys-lru" in str(check.observed)
    assert "settings/masterauth: not set → set" in str(check.observed)
    assert after.check("redis main: eviction policy").status is FAIL
    assert after.measure("config_drift", subject="redis main") == 2
    assert CANARY not in review.everything_written(accepted, before, after)


def test_a_redis_without_a_limit_of_memory_warns_and_what_a_restart_would_change_is_named(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    file = tmp_path / "redis.conf"
    file.write_text("# comment\nmaxmemory 50mb\nmaxmemory-policy noeviction\nrequirepass other\nsave 60 1\n")
    review = redis_review(tmp_path, own_redis, redis_files={"main": str(file)})
    limited = review.run()
    with Redis(host="127.0.0.1", port=own_redis.port, password=CANARY) as client:
        client.config_set("maxmemory", "0")

    unlimited = review.run()

    assert limited.check("redis main: memory limit").status is OK
    assert unlimited.check("redis main: memory limit").status is WARN
    differing = limited.check("redis main: settings that a restart would change")
    assert differing.status is WARN
    assert differing.observed == "maxmemory: 104857600, in the file 50mb; requirepass"


def test_a_digest_that_was_not_seen_a_missing_reason_and_a_program_accept_nothing(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    review = redis_review(tmp_path, own_redis)
    seen = review.run()
    digest = review.evidence(seen)["redis main"]["digest"]

    unseen = run_job("config_accept", {"digests": "0" * 64, "why": "x"}, review.targets, **APPROVAL)
    without_reason = run_job("config_accept", {"digests": digest}, review.targets, **APPROVAL)
    by_program = review.accept(seen, approvals={})
    rehearsed = review.accept(seen, dry_run=True, approvals={})

    for result in (unseen, without_reason, by_program):
        assert result.outcome == "failed", result.text()
    assert by_program.check("accepted by a person").status is FAIL
    assert [change.state for change in rehearsed.changes] == [ChangeState.PLANNED], rehearsed.text()
    assert not (review.baselines / "approved").exists()


def test_an_acceptance_is_recorded_with_person_and_reason_and_the_one_before_stays(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    review = redis_review(tmp_path, own_redis)
    review.accept(review.run())
    with Redis(host="127.0.0.1", port=own_redis.port, password=CANARY) as client:
        client.config_set("maxclients", "77")

    again = review.accept(review.run(), in_foreground=True, approvals={})
    by_name = run_job(
        "config_accept",
        {"digests": review.evidence(review.run())["redis main"]["digest"], "why": "fewer", "by": "grace"},
        review.targets,
        in_foreground=True,
    )

    assert again.outcome == "failed", "no person is named"
    change = by_name.changes[0]
    assert (change.action, change.target, change.state) == ("accept", "redis main", ChangeState.DONE)
    assert (change.details["by"], change.details["why"]) == ("grace", "fewer")
    files = sorted((review.baselines / "approved/redis-main").iterdir())
    assert [json.loads(path.read_text())["accepted"]["by"] for path in files] == ["ada", "grace"]
    assert "redis main: settings/maxclients: 10000 → 77" in by_name.logs


def test_postgres_a_changed_setting_one_that_waits_for_a_restart_and_a_broken_rule(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    review = Review(tmp_path, {"postgres": {"main": {"dsn": own_postgres.url("postgres")}}}, {"docker": []})
    review.accept(review.run())
    before = review.run()
    with psycopg.connect(own_postgres.url("postgres"), autocommit=True) as conn:
        conn.execute("ALTER SYSTEM SET work_mem = '64MB'")
        conn.execute("ALTER SYSTEM SET max_connections = 222")
        conn.execute(f"ALTER SYSTEM SET primary_conninfo = 'host=a password={CANARY}'")
        conn.execute("ALTER ROLE postgres SET statement_timeout = '1h'")
        with (own_postgres.folder / "data/pg_hba.conf").open("a") as rules:
            rules.write("host all all 10.9.8.0/24 trust\nhost all all nonsense/99 md5\n")
        conn.execute("SELECT pg_reload_conf()")
        conn.execute("SELECT pg_sleep(0.3)")

    after = review.run()

    assert before.outcome == "succeeded", before.text()
    drift = review.evidence(after)["postgres main"]
    assert drift["added"]["settings/work_mem"] == "64MB"
    assert drift["added"]["settings of roles/*/postgres/statement_timeout"] == "1h"
    assert "pg_hba/host all all 10.9.8.0 255.255.255.0 trust" in drift["added"]
    assert "pg_hba order" in drift["changed"]
    assert after.check("postgres main: settings that wait for a restart").observed == "max_connections"
    assert after.check("postgres main: pg_hba.conf has no error").status is FAIL
    assert CANARY not in review.everything_written(after)


def test_a_role_that_may_not_read_all_of_postgres_is_unknown_and_never_as_approved(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    with database(postgres_server) as db:
        review = Review(tmp_path, {"postgres": {"main": {"dsn": postgres_server.url(db.name)}}}, {"docker": []})
        review.accept(review.run())
        role = f"plain_{db.name}"
        with psycopg.connect(postgres_server.url(db.name), autocommit=True) as conn:
            conn.execute(f"CREATE ROLE {role} LOGIN")
        review.targets["postgres"] = {
            "main": {"dsn": postgres_server.url(db.name).replace("postgres@", f"{role}@")},
        }

        result = review.run()

    assert result.check("postgres main: pg_hba can be read").status is UNKNOWN, result.text()
    assert "GRANT SELECT ON pg_hba_file_rules" in str(result.check("postgres main: pg_hba can be read").observed)
    assert result.check("postgres main: settings can be read").status is UNKNOWN
    assert result.check("postgres main: as approved").status is UNKNOWN


RULES = """
groups:
  - name: stack
    rules:
      - {alert: Works, expr: 'up{job="self"} == 0', annotations: {runbook_url: "https://wiki.acme.test/works"}}
      - {alert: NoSuchMetric, expr: 'rate(slack_api_errors_total[5m]) > 1'}
      - {alert: NoSuchLabel, expr: 'up{job="gone"} == 0'}
      - {alert: ContainerDown, expr: 'absent(container_last_seen{name="x"})'}
      - {alert: InPart, expr: 'up == 0 or no_such_total > 1', annotations: {runbook_url: "https://github.com/your-org/x"}}
      - {record: own, expr: 'sum(up)'}
      - {alert: OfARecord, expr: 'own < 1'}
"""


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    rules = tmp_path_factory.mktemp("rules") / "rules.yml"
    rules.write_text(RULES)
    history = '# TYPE up gauge\nup{job="self",instance="a"} 1 1\n# EOF\n'
    config = f"""
global: {{scrape_interval: 1h, evaluation_interval: 1s}}
rule_files: ["{rules}"]
remote_write: [{{url: "http://127.0.0.1:1/push/{CANARY}"}}]
"""
    with prometheus(config, history) as server:
        yield server


def test_alert_rules_whose_metrics_never_existed_are_named(tmp_path: Path, monitored: WebServer) -> None:
    review = Review(tmp_path, {"prometheus": {"main": {"url": monitored.url}}}, {"docker": []})

    result = review.run()

    def observed(name: str) -> tuple[CheckStatus, object]:
        check = result.check(f"prometheus main: alert stack/{name} can fire")
        return check.status, check.observed

    assert observed("Works") == (OK, "yes"), result.text()
    assert observed("OfARecord") == (OK, "yes")
    assert observed("NoSuchMetric") == (WARN, "never: slack_api_errors_total does not exist")
    assert observed("NoSuchLabel") == (WARN, 'never: up{job="gone"} matches no series')
    assert observed("ContainerDown") == (
        WARN,
        'always: container_last_seen{name="x"} never existed, so absent() has the value 1',
    )
    assert observed("InPart") == (WARN, "in part: no_such_total does not exist")
    links = result.check("prometheus main: runbook links lead somewhere")
    assert (links.status, links.observed) == (WARN, "InPart: https://github.com/your-org/x")
    assert CANARY not in review.everything_written(result)


def test_a_changed_scrape_of_prometheus_and_a_webhook_of_alertmanager_are_drift_without_the_secret(
    tmp_path: Path,
) -> None:
    receiver = "route: {{receiver: team}}\nreceivers: [{{name: team, webhook_configs: [{{url: '{}'}}]}}]\n"
    with prometheus() as metrics, alertmanager(receiver.format(f"http://hooks.test/{CANARY}")) as alerts:
        targets = {"prometheus": {"main": {"url": metrics.url}}, "alertmanager": {"main": {"url": alerts.url}}}
        review = Review(tmp_path, targets, {"docker": []})
        review.accept(review.run())
        before = review.run()
        metrics.config.write_text(CONFIG.replace("scrape_interval: 1s", "scrape_interval: 7s"))
        metrics.reload()
        alerts.config.write_text(receiver.format("http://hooks.test/another"))
        alerts.reload()

        after = review.run()

    assert before.outcome == "succeeded", before.text()
    seen = review.evidence(after)
    assert seen["prometheus main"]["changed"]["config/global/scrape_interval"] == {"old": "1s", "new": "7s"}
    assert len(seen["alertmanager main"]["changed"]) >= 1, seen["alertmanager main"]
    assert CANARY not in review.everything_written(before, after)


def test_an_alertmanager_whose_receiver_sends_nowhere_fails(tmp_path: Path) -> None:
    with alertmanager() as alerts:
        review = Review(tmp_path, {"alertmanager": {"main": {"url": alerts.url}}}, {"docker": []})

        result = review.run()
        allowed = review.run(silent_receivers=["nobody"])

    check = result.check("alertmanager main: receivers have a target")
    assert (check.status, check.observed) == (FAIL, "nobody sends nowhere")
    assert allowed.check("alertmanager main: receivers have a target").status is OK


GRAFANA = {
    "/api/datasources": json_reply(
        [
            {
                "id": 1,
                "uid": "P1",
                "orgId": 1,
                "name": "Prometheus",
                "type": "prometheus",
                "url": "http://prometheus:9090",
                "basicAuth": True,
                "basicAuthUser": "ada",
                "password": CANARY,
                "jsonData": {"httpMethod": "POST"},
                "secureJsonFields": {"basicAuthPassword": True},
                "version": 3,
                "readOnly": True,
            }
        ]
    ),
    "/api/search": json_reply([{"id": 5, "uid": "ops", "title": "Operations", "type": "dash-db"}]),
    "/api/dashboards/uid/ops": json_reply(
        {"meta": {"provisioned": True, "version": 4}, "dashboard": {"uid": "ops", "title": "Operations", "version": 4}}
    ),
    "/api/v1/provisioning/alert-rules": json_reply(
        [{"id": 1, "uid": "r1", "orgID": 1, "title": "Latency", "condition": "A", "updated": "2026-11-01T00:00:00Z"}]
    ),
}
TRAEFIK = {
    "/api/rawdata": json_reply(
        {
            "routers": {"api@docker": {"rule": "Host(`a`)", "service": "api", "status": "enabled", "using": ["web"]}},
            "middlewares": {"auth@docker": {"basicAuth": {"users": [f"ada:{CANARY}"]}, "status": "enabled"}},
            "services": {"api@docker": {"loadBalancer": {"servers": [{"url": "http://10.0.0.2:80"}]}}},
        }
    )
}


def test_grafana_traefik_and_files_are_read_without_secrets_and_their_changes_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "dynamic.toml"
    file.write_text(f'[http.middlewares.a.basicAuth]\nusers = ["ada:{CANARY}"]\n[x]\ny = 1\n')
    replies = {**GRAFANA, **TRAEFIK}
    with http_service(replies) as url:
        targets = {"http": {"grafana": {"url": f"{url}/api/health"}, "traefik": {"url": f"{url}/ping"}}}
        review = Review(tmp_path, targets, {"docker": [], "grafana": "grafana", "traefik": "traefik"})
        first = review.run(files=[str(file)])
        review.accept(first)
        before = review.run(files=[str(file)])
        file.write_text(file.read_text().replace("y = 1", "y = 2"))
        replies["/api/dashboards/uid/ops"] = json_reply({"meta": {}, "dashboard": {"version": 5}})
        after = review.run(files=[str(file)])
        replies["/api/v1/provisioning/alert-rules"] = Reply(b'{"message":"denied"}', 403)
        denied = review.run()

    assert before.outcome == "succeeded", before.text()
    seen = review.evidence(after)
    dashboard = seen["grafana grafana"]["changed"]["dashboards/ops"]
    assert dashboard["new"] == "Operations, version 5, not provisioned"
    assert seen[f"file {file}"]["changed"]["x/y"] == {"old": "1", "new": "2"}
    assert denied.check("grafana grafana: alert rules can be read").status is UNKNOWN
    assert "denied" in str(denied.check("grafana grafana: alert rules can be read").observed)
    assert CANARY not in review.everything_written(first, before, after, denied)


@pytest.mark.parametrize("kind", ["prometheus", "alertmanager"])
@pytest.mark.parametrize(
    "body", [b"<html>login</html>", b"null", b'{"status":"success","data":{"yaml":"a: ["}}', b"{}"]
)
def test_an_answer_that_is_not_understood_is_never_green(tmp_path: Path, kind: str, body: bytes) -> None:
    paths = ("/api/v1/status/config", "/api/v1/status/flags", "/api/v1/rules", "/api/v2/status")
    with http_service(dict.fromkeys(paths, Reply(body))) as url:
        review = Review(tmp_path, {kind: {"main": {"url": url}}}, {"docker": []})

        result = review.run()

    assert result.outcome in ("unknown", "failed"), result.text()
    assert not [check for check in result.checks if check.status is OK], result.text()


@pytest.mark.parametrize(
    "answer",
    [{"message": "welcome", "code": 0}, {"routers": []}, {"routers": {"a": 1}}, {"services": None}, {}, [], None],
)
def test_what_is_not_the_configuration_of_traefik_is_not_offered_as_its_baseline(
    tmp_path: Path, answer: object
) -> None:
    with http_service({"/api/rawdata": json_reply(answer)}) as url:
        review = Review(tmp_path, {"http": {"edge": {"url": url}}}, {"docker": [], "traefik": "edge"})

        result = review.run()

    check = result.check("traefik edge: can be read")
    assert (check.status, str(check.observed).startswith("unknown: unfamiliar: ")) == (UNKNOWN, True), result.text()
    assert not (review.baselines / "observed").exists()


def test_a_server_that_hangs_or_refuses_hides_no_other(tmp_path: Path, redis_server: RedisServer) -> None:
    with port_that_hangs() as port:
        targets = {
            "redis": {"main": {"url": redis_server.url}},
            "prometheus": {"main": {"url": f"http://127.0.0.1:{port}", "timeout": "300ms"}},
            "alertmanager": {"main": {"url": "http://127.0.0.1:1"}},
        }
        review = Review(tmp_path, targets, {"docker": []})

        result = review.run()

    assert str(result.check("prometheus main: can be read").observed).startswith("timed_out")
    assert str(result.check("alertmanager main: can be read").observed).startswith("refused")
    assert result.check("redis main: as approved").status is UNKNOWN
    assert result.outcome == "failed"


def test_without_a_folder_nothing_is_approved_and_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    review = Review(tmp_path, {"redis": {"main": {"url": redis_server.url}}}, {"docker": []})
    elsewhere = run_job("config_review", review.params, {"redis": review.targets["redis"]})
    review.baselines.rmdir()
    review.baselines.write_text("a file in its place")

    unwritable = review.run()

    check = elsewhere.check("redis main: as approved")
    assert (check.status, "targets.folders.config_baselines" in check.hint) == (UNKNOWN, True)
    assert unwritable.check("redis main: as approved").status in (UNKNOWN, FAIL)
    assert unwritable.outcome in ("failed", "unknown")


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (lambda path: os.mkfifo(path), "is not a regular file"),
        (lambda path: path.write_bytes(b"\xff" * 64), "is not a key of 32 bytes"),
        (lambda path: path.write_bytes(b"0" * 5000), "has more than"),
    ],
    ids=["pipe", "not-utf-8", "too-large"],
)
def test_a_key_that_is_none_is_refused_at_once(tmp_path: Path, damage: Callable[[Path], object], cause: str) -> None:
    damage(tmp_path / "key")

    with pytest.raises(TargetError, match=cause) as raised:
        Baselines(tmp_path).key()

    assert "delete it to have a new one made" in str(raised.value.hint)


def file_review(tmp_path: Path, *names: str) -> Review:
    paths = []
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"password: {CANARY}\nname: {path.name}\n")
        paths.append(str(path))
    return Review(tmp_path, {}, {"docker": [], "files": paths})


@pytest.mark.parametrize("content", ["", "ab" * 16], ids=["empty", "short"])
def test_without_its_key_nothing_is_compared_observed_or_offered(tmp_path: Path, content: str) -> None:
    review = file_review(tmp_path, "a.yaml")
    assert review.accept(review.run()).outcome == "succeeded"
    observed = sorted((review.baselines / "observed").iterdir())
    (review.baselines / "key").write_text(content)

    result = review.run()

    check = result.check("baselines: can be written")
    assert (check.status, "delete it to have a new one made" in check.hint) == (FAIL, True)
    check = result.check(f"file {tmp_path}/a.yaml: as approved")
    assert check.status is UNKNOWN, result.text()
    assert "config_accept" not in result.text() + check.hint
    assert sorted((review.baselines / "observed").iterdir()) == observed


def test_subjects_whose_names_are_cut_alike_or_differ_by_a_space_have_baselines_of_their_own(tmp_path: Path) -> None:
    names = (
        "a" * 100 + "/" + "b" * 100 + "/one.yaml",
        "a" * 100 + "/" + "b" * 100 + "/two.yaml",
        "x y.yaml",
        "x-y.yaml",
    )
    review = file_review(tmp_path, *names)

    accepted = review.accept(review.run())

    assert accepted.outcome == "succeeded", accepted.text()
    after = review.run()
    for name in names:
        assert after.check(f"file {tmp_path / name}: as approved").status is OK, after.text()


def test_a_baseline_in_a_folder_that_two_subjects_shared_still_counts(tmp_path: Path) -> None:
    names = ("x y.yaml", "x-y.yaml")
    review = file_review(tmp_path, *names)
    review.accept(review.run())
    approved = review.baselines / "approved"
    shared = approved / f"file-{str(tmp_path).replace('/', '%2F')}%2Fx-y.yaml"
    for path in list(approved.glob("*/*.json")):
        path.replace(shared / path.name)

    after = review.run()

    for name in names:
        assert after.check(f"file {tmp_path / name}: as approved").status is OK, after.text()


def test_a_full_disk_is_named_and_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", full], check=False).returncode:
        pytest.skip("a file system of its own needs root")
    try:
        baselines = Baselines(full)
        (full / "approved/a-b").mkdir(parents=True)
        with suppress(OSError):
            (full / "fill").write_bytes(b"x" * (64 << 10))

        for write in (
            baselines.key,
            lambda: baselines.observe(Snapshot("a b", {"x": "y" * 9000}), datetime.now(UTC), 1, ()),
        ):
            with pytest.raises(TargetError, match="No space left") as raised:
                write()
            assert "df -h" in str(raised.value.hint)
        (full / "fill").unlink()

        assert [path for path in full.rglob("*") if path.is_file()] == []
        assert len(baselines.key()) == 32
    finally:
        subprocess.run(["umount", full], check=True)


def test_what_a_killed_run_left_is_removed_with_the_next_write(tmp_path: Path) -> None:
    observed = tmp_path / "observed"
    observed.mkdir()
    (observed / ".old.json.partial").write_text("x")
    os.utime(observed / ".old.json.partial", (0, 0))
    (observed / ".new.json.partial").write_text("of a run that writes it now")

    Baselines(tmp_path).observe(Snapshot("a b", {"x": "y"}), datetime.now(UTC), 1, ())

    assert [path.name for path in observed.glob(".*")] == [".new.json.partial"]


def test_an_approval_that_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "approved" / "redis-main"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "20260101T000000.000000Z-0123456789ab.json")

    with pytest.raises(TargetError, match="is not a regular file"):
        Baselines(tmp_path).approved("redis main")


def test_nothing_to_review_is_not_configured() -> None:
    result = run_job("config_review", {"docker": []}, {})

    assert getattr(result.error, "cause", "") == "not_configured", result.text()
