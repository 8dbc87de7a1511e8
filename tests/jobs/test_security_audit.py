"""The security audit of containers on a real engine, of its daemon and of compose files; waivers, score and SARIF."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import docker as sdk
import pytest
from support.clock import now_within_a_day
from support.compose_project import Project, make_images
from support.http_services import http_service, json_reply
from support.job_runs import JobResult, run_job
from support.servers.docker import DockerEngine, docker_engine

from maintd.checks.audit import compose_files, containers, daemon, inspected
from maintd.checks.audit.catalog import RULES
from maintd.checks.audit.containers import Site
from maintd.checks.audit.daemon import Daemon
from maintd.checks.audit.evaluate import Result, Seen
from maintd.checks.audit.rule import Outcome, Rule, Violation
from maintd.errors import TargetError
from maintd.job.attempt_info import Point
from maintd.model.evidence import CheckStatus
from maintd.redaction import mask_output

SECRET = "S3cr3t-value-that-is-shown-nowhere"
pytestmark = pytest.mark.usefixtures("own_now")

NOW = now_within_a_day()

HARDENED: dict[str, Any] = {
    "user": "65534:65534",
    "mem_limit": "64m",
    "nano_cpus": 500_000_000,
    "pids_limit": 50,
    "read_only": True,
    "security_opt": ["no-new-privileges:true"],
    "restart_policy": {"Name": "unless-stopped"},
    "healthcheck": {"test": ["CMD", "true"], "interval": 3_600_000_000_000},
}
SENSITIVE_MOUNT = sdk.types.Mount("/host-etc", "/etc", type="bind")
SOCKET_MOUNT = sdk.types.Mount("/var/run/docker.sock", "/tmp/docker.sock", type="bind", read_only=True)

CASES: dict[str, tuple[dict[str, Any], str]] = {
    # rule of the benchmark: what is started otherwise than HARDENED, and what is observed
    "4.1": ({"user": "0"}, "user 0"),
    "5.4": ({"cap_add": ["SYS_ADMIN", "CHOWN"]}, "cap_add SYS_ADMIN"),
    "5.5": ({"privileged": True}, "privileged"),
    "5.6": ({"mounts": [SENSITIVE_MOUNT]}, "can write /etc"),
    "5.10": ({"network_mode": "host"}, "network_mode host"),
    "5.11": ({"mem_limit": None}, "no memory limit"),
    "5.12": ({"nano_cpus": None}, "no limit"),
    "5.13": ({"read_only": False}, "writable"),
    "5.15": ({"restart_policy": {"Name": "always"}}, "restart always"),
    "5.16": ({"pid_mode": "host"}, "pid host"),
    "5.17": ({"ipc_mode": "host"}, "ipc host"),
    "5.18": ({"devices": ["/dev/null:/dev/other:r"]}, "1 devices"),
    "5.21": ({"uts_mode": "host"}, "uts host"),
    "5.22": ({"security_opt": ["no-new-privileges:true", "seccomp=unconfined"]}, "seccomp unconfined"),
    "5.26": ({"security_opt": []}, "may gain privileges"),
    "5.27": ({"healthcheck": None}, "no health check"),
    "5.29": ({"pids_limit": None}, "no limit"),
    "5.32": ({"mounts": [SOCKET_MOUNT]}, "mounts /tmp/docker.sock"),
}


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with docker_engine() as started, closing(started.client()) as client:
        make_images(started, client)
        yield started


@pytest.fixture(scope="module")
def described(engine: DockerEngine) -> Iterator[dict[str, Any]]:
    """The engine's description of a container of each case, by rule, created and not started; `good` breaks none."""
    Path("/tmp/docker.sock").touch()
    with closing(engine.client()) as client:
        made = Project(engine, client, "cases", "none")
        found = {}
        for rule, changed in {"good": {}, **{rule: options for rule, (options, _) in CASES.items()}}.items():
            options = {"network_mode": "none", "command": ["sleep", "1"], **HARDENED, **changed}
            created = client.containers.create("shop/app:1", name=f"case-{rule}", **options)
            found[rule] = client.api.inspect_container(created.id)
        yield found
        made.remove()


def broken(raw: Mapping[str, Any], site: Site | None = None) -> dict[str, str]:
    """What a container breaks: what was observed by rule, without `cis-docker-`."""
    found = containers.outcomes("docker main", [inspected.read(raw, "app")], (), site or Site())
    return {
        outcome.rule.id.removeprefix("cis-docker-"): outcome.violations[0].observed
        for outcome in found
        if outcome.violations
    }


@pytest.mark.server
def test_a_hardened_container_breaks_no_rule(described: Mapping[str, Any]) -> None:
    assert broken(described["good"]) == {}


@pytest.mark.server
@pytest.mark.parametrize("rule", CASES)
def test_each_option_of_a_container_on_a_real_engine_breaks_its_rule_only(
    described: Mapping[str, Any], rule: str
) -> None:
    found = broken(described[rule])

    # A privileged container has every capability, no profile, and the host's devices: the engine describes them so.
    assert set(found) - ({"5.22"} if rule == "5.5" else set()) == {rule}
    assert CASES[rule][1] in found[rule]


EDITS: dict[str, tuple[list[str], Any, str]] = {
    # What this engine, without bridges, profiles and user namespaces, cannot start: path and value in the description
    "5.2": (["AppArmorProfile"], "unconfined", "profile unconfined"),
    "5.3": (["ProcessLabel"], "", "label disable"),
    "5.8": (["NetworkSettings", "Ports"], {"1/tcp": [{"HostIp": "10.0.0.1", "HostPort": "81"}]}, "10.0.0.1:81"),
    "5.14": (["NetworkSettings", "Ports"], {"1/tcp": [{"HostIp": "::", "HostPort": "5432"}]}, ":::5432"),
    "5.20": (["Mounts"], [{"Source": "/data", "Destination": "/data", "Propagation": "rshared"}], "of /data"),
    "5.25": (["HostConfig", "CgroupParent"], "/other", "cgroup_parent /other"),
    "5.30": (["HostConfig", "NetworkMode"], "bridge", "network_mode bridge"),
    "5.31": (["HostConfig", "UsernsMode"], "host", "userns_mode host"),
    "docker-environment": (["Config", "Env"], ["PATH=/bin", f"ADMIN_TOKEN={SECRET}", "B_TOKEN_FILE=/x"], "ADMIN_TOKEN"),
}


@pytest.mark.server
@pytest.mark.parametrize("rule", EDITS)
def test_each_other_field_of_the_description_breaks_its_rule_only(described: Mapping[str, Any], rule: str) -> None:
    path, value, observed = EDITS[rule]
    site = Site(profiles=frozenset({"apparmor", "selinux"}))
    raw = json.loads(json.dumps(described["good"]))
    raw |= {"AppArmorProfile": "docker-default", "ProcessLabel": "system_u:system_r:container_t:s0:c1,c2"}
    raw["State"]["Status"] = "running"
    assert broken(raw, site) == {}
    part = raw
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value

    found = broken(raw, site)

    assert set(found) == {rule}
    assert observed in found[rule]
    assert SECRET not in str(found)


@pytest.mark.server
def test_what_a_site_allows_breaks_no_rule(described: Mapping[str, Any]) -> None:
    raw = json.loads(json.dumps(described["5.32"]))
    raw["NetworkSettings"]["Ports"] = {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "80"}]}

    assert broken(raw, Site(proxies=frozenset({"app"}))) == {}
    assert set(broken(raw, Site(ports=frozenset()))) == {"5.8", "5.14", "5.32"}


@pytest.mark.server
@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (["HostConfig", "Privileged"], None, "Privileged"),
        (["HostConfig", "Memory"], SECRET, "Memory"),
        (["HostConfig"], None, "HostConfig"),
        (["Mounts"], [SECRET], "shape|unfamiliar"),
        (["Config", "Env"], 7, "shape"),
    ],
)
def test_a_description_that_lacks_what_rules_need_is_unknown_and_shows_no_value(
    described: Mapping[str, Any], path: list[str], value: Any, field: str
) -> None:
    raw = json.loads(json.dumps(described["good"]))
    raw["Config"]["Env"] = [f"ADMIN_TOKEN={SECRET}"]
    part = raw
    for key in path[:-1]:
        part = part[key]
    if value is None:
        del part[path[-1]]
    else:
        part[path[-1]] = value

    with pytest.raises(TargetError, match=field) as raised:
        inspected.read(raw, "app")

    assert SECRET not in str(raised.value)
    assert raised.value.cause == "unfamiliar"


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("ADMIN_TOKEN", "x", True),
        ("POSTGRES_PASSWORD", "x", True),
        ("PGPASSWORD", "x", True),
        ("DATABASE_URL", "postgres://u:pw@db/x", True),
        ("JWT_SECRET", "x", True),
        ("ADMIN_TOKEN", "", False),
        ("ADMIN_TOKEN_FILE", "/run/secrets/t", False),
        ("ADMIN_TOKEN", "/run/secrets/t", False),
        ("DATABASE_URL", "postgres://u:${PW}@db/x", False),
        ("DATABASE_URL", "postgres://db/x", False),
        ("TOKEN_TTL", "60", False),
        ("PATH", "/bin", False),
    ],
)
def test_variables_that_hold_a_secret_are_known_by_name_or_url(name: str, value: str, secret: bool) -> None:
    from maintd.checks.audit.secret_names import holds_secret

    assert holds_secret(name, value) is secret


# --- the engine ------------------------------------------------------------------------------------------------------

GOOD_INFO = {"LiveRestoreEnabled": True, "LoggingDriver": "local", "SecurityOptions": ["name=apparmor", "name=userns"]}
GOOD_DAEMON = Daemon("29.3.0", GOOD_INFO, {"com.docker.network.bridge.enable_icc": "false"}, {"userland-proxy": False})


def broken_daemon(**changed: Any) -> dict[str, str]:
    found = daemon.outcomes("docker main", Daemon(**{**GOOD_DAEMON.__dict__, **changed}), date(2026, 11, 30), {})
    states = {}
    for outcome in found:
        if outcome.violations:
            states[outcome.rule.id] = outcome.violations[0].observed
        elif outcome.blind:
            states[outcome.rule.id] = f"unknown: {outcome.blind[0].cause}"
    return states


def test_an_engine_in_order_breaks_no_rule() -> None:
    assert broken_daemon() == {}
    assert daemon.profiles(GOOD_DAEMON) == {"apparmor", "userns"}


@pytest.mark.parametrize(
    ("rule", "changed", "observed"),
    [
        ("cis-docker-1.2.2", {"version": "20.10.24+dfsg1"}, "supported until 2023-12-10"),
        ("cis-docker-1.2.2", {"version": "28.5.2"}, "unknown: empty: 28.5.2"),
        ("cis-docker-1.2.2", {"version": "31.0.0"}, "unknown: empty: 31.0.0 is not in the table"),
        ("cis-docker-2.2", {"bridge": {}}, "icc: true"),
        ("cis-docker-2.2", {"bridge": TargetError("no", cause="denied")}, "unknown: denied"),
        (
            "cis-docker-2.5",
            {"info": {**GOOD_INFO, "RegistryConfig": {"IndexConfigs": {"r:5000": {"Secure": False}}}}},
            "r:5000",
        ),
        ("cis-docker-2.15", {"info": {**GOOD_INFO, "LiveRestoreEnabled": False}}, "live-restore: false"),
        ("cis-docker-2.16", {"file": {}}, "userland-proxy: true"),
        ("cis-docker-2.16", {"file": TargetError("no", cause="not_configured")}, "unknown: not_configured"),
        ("cis-docker-2.18", {"info": {**GOOD_INFO, "ExperimentalBuild": True}}, "experimental"),
        ("cis-docker-5.1", {"info": {**GOOD_INFO, "Swarm": {"LocalNodeState": "active"}}}, "swarm active"),
        ("docker-log-opts", {"info": {**GOOD_INFO, "LoggingDriver": "json-file"}}, "without max-size"),
    ],
)
def test_each_setting_of_the_engine_breaks_its_rule(rule: str, changed: dict[str, Any], observed: str) -> None:
    found = broken_daemon(**changed)

    assert set(found) == {rule}
    assert observed in found[rule]


def test_log_options_in_the_file_are_enough_for_json_files() -> None:
    file = {"userland-proxy": False, "log-opts": {"max-size": "10m"}}

    assert broken_daemon(info={**GOOD_INFO, "LoggingDriver": "json-file"}, file=file) == {}


# --- compose files ---------------------------------------------------------------------------------------------------

COMPOSE = """\
x-common: &common
  read_only: true
services:
  api:
    <<: *common
    image: shop/api:1.2
    environment: {LOG_LEVEL: info, ADMIN_TOKEN_FILE: /run/secrets/admin_token}
    ports: ["127.0.0.1:7001:7001", "443:443"]
  redis:
    image: redis:7.2
    command: ["redis-server", "--aclfile", "/etc/redis/redis.acl"]
  built:
    build: .
    ports: !reset []
"""


def compose(tmp_path: Path, text: str = COMPOSE) -> dict[str, dict[str, str]]:
    """What each service breaks, by rule; `unknown` for what is not known."""
    path = tmp_path / "compose.yaml"
    path.write_text(text)
    found: dict[str, dict[str, str]] = {}
    for outcome in compose_files.outcomes(path, compose_files.read(path), frozenset({80, 443})):
        for one in outcome.violations:
            found.setdefault(outcome.rule.id, {})[one.subject] = one.observed
            assert (one.file, one.line > 0) == (str(path), True)
        for blind in outcome.blind:
            found.setdefault(outcome.rule.id, {})[blind.subject] = "unknown"
    return found


def test_a_compose_file_in_order_breaks_no_rule(tmp_path: Path) -> None:
    assert compose(tmp_path) == {}


@pytest.mark.parametrize(
    ("rule", "old", "new", "observed"),
    [
        ("compose-latest", "shop/api:1.2", "registry:5000/shop/api", "registry:5000/shop/api"),
        ("compose-latest", "shop/api:1.2", "shop/api:latest", "latest"),
        ("compose-latest", "shop/api:1.2", "shop/api:${TAG:-latest}", "latest"),
        ("compose-latest", "shop/api:1.2", "shop/api:${TAG}", "unknown"),
        ("compose-environment", "{LOG_LEVEL: info,", f"{{ADMIN_TOKEN: {SECRET},", "ADMIN_TOKEN"),
        ("compose-environment", "{LOG_LEVEL: info,", "{ADMIN_TOKEN: '${ADMIN_TOKEN}',", "ADMIN_TOKEN"),
        ("compose-redis-auth", '"--aclfile", "/etc/redis/redis.acl"', '"--appendonly", "yes"', "no requirepass"),
        ("compose-redis-auth", '"--aclfile", "/etc/redis/redis.acl"', '"/etc/redis.conf"', "unknown"),
        ("compose-ports", "127.0.0.1:7001:7001", "7001:7001", "7001"),
        ("compose-ports", "127.0.0.1:7001:7001", "0.0.0.0:7001-7003:7001-7003", "7001-7003"),
        ("compose-ports", "127.0.0.1:7001:7001", "7001", "a random port"),
        ("compose-ports", '"127.0.0.1:7001:7001"', "{target: 1, published: 5432}", "5432"),
    ],
)
def test_each_rule_of_compose_files(tmp_path: Path, rule: str, old: str, new: str, observed: str) -> None:
    assert old in COMPOSE

    found = compose(tmp_path, COMPOSE.replace(old, new))

    assert set(found) == {rule}
    assert observed in str(found[rule])
    assert SECRET not in str(found)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "services: []",
        "services",
        "a: [",
        "a: *x",
        "\x00",
        "services:\n  a: " + "[" * 5000,
        f"x: !!python/object:{SECRET} 1",
        "a" * (2 << 20),
    ],
)
def test_a_file_that_is_no_compose_file_is_an_error_without_its_content(tmp_path: Path, text: str) -> None:
    path = tmp_path / "compose.yaml"
    path.write_text(text)

    with pytest.raises(TargetError) as raised:
        compose_files.read(path)

    assert raised.value.cause in ("malformed", "too_large")
    assert SECRET not in str(raised.value)


# --- the whole job ---------------------------------------------------------------------------------------------------


@pytest.fixture
def project(engine: DockerEngine) -> Iterator[Project]:
    with closing(engine.client()) as client:
        made = Project(engine, client, "audited", "none")
        yield made
        made.remove()


def create(project: Project, service: str, **options: Any) -> None:
    """A container that is not started: the kernel of a test machine may refuse privileges."""
    labels = {"com.docker.compose.project": project.name, "com.docker.compose.service": service}
    given = {"network_mode": "none", "command": ["sleep", "1"], "labels": labels, **options}
    project.client.containers.create("shop/app:1", name=project.container(service), **given)


def audit(project: Project, **params: Any) -> JobResult:
    attempt = {key: params.pop(key) for key in ("series", "findings") if key in params}
    return run_job("security_audit", {"hosts": [], **params}, project.targets(), **attempt)


def earlier(result: JobResult) -> dict[str, list[Point]]:
    """The measures of an audit, as the next one has them."""
    found: dict[str, list[Point]] = {}
    for item in result.measures:
        found.setdefault(item.name, []).append(Point(datetime.now(UTC), item.value, item.labels))
    return found


def artifact(result: JobResult, name: str) -> dict[str, Any]:
    path = next(item for item in result.artifacts if item.name == name).path
    found: dict[str, Any] = json.loads(Path(path).read_text())
    return found


@pytest.mark.server
def test_a_privileged_container_of_a_real_engine_is_flagged(project: Project) -> None:
    create(project, "risky", privileged=True, environment={"ADMIN_TOKEN": SECRET})
    for number in range(5):
        create(project, f"plain-{number}")

    result = audit(project)

    check = result.check("docker main: privileged containers: risky")
    assert (check.status, check.observed) == (CheckStatus.FAIL, "privileged")
    assert check.rule == "CIS Docker Benchmark 1.6.0, 5.5 (cis-docker-5.5)"
    assert "remove privileged: true" in check.hint
    memory = result.check("docker main: containers without a memory limit")
    assert memory.status is CheckStatus.WARN
    assert str(memory.observed).startswith("6 of 6: plain-0; ")
    assert result.check("docker main: containers with secrets in their environment").status is CheckStatus.WARN
    assert result.check("docker main: containers that see the host's processes").status is CheckStatus.OK
    assert len(result.checks) < 45, result.text()
    assert result.measure("audit_findings", severity="fail") >= 1
    assert 0 <= result.measure("audit_score") < 100
    everything = result.text() + "".join(Path(item.path).read_text(errors="replace") for item in result.artifacts)
    assert SECRET not in everything


@pytest.mark.server
def test_what_the_last_audit_did_not_see_is_new_and_more_severe(project: Project) -> None:
    create(project, "old", privileged=True)
    first = audit(project)
    create(project, "added", privileged=True)

    second = audit(project, series=earlier(first))
    third = audit(project, series=earlier(second))

    name = "docker main: privileged containers"
    assert first.check(f"{name}: old").observed == "privileged"
    assert second.check(f"{name}: old").observed == "privileged"
    assert second.check(f"{name}: added").observed == "new: privileged"
    memory = "docker main: containers without a memory limit"
    assert [each.check(memory).status.value for each in (first, second, third)] == ["warn", "fail", "warn"]
    assert "added (new); old" in str(second.check(memory).observed)
    states = {
        item["partialFingerprints"]["maintdSubject/v1"]: item["baselineState"]
        for item in artifact(second, "audit.sarif")["runs"][0]["results"]
    }
    assert states["cis-docker-5.5/docker main/added"] == "new"
    assert states["cis-docker-5.5/docker main/old"] == "unchanged"


def waiver(rule: str, subject: str, days: int = 1) -> dict[str, Any]:
    until = NOW.date() + timedelta(days=days)
    return {"rule": rule, "subject": subject, "why": "needed", "by": "ada", "until": until.isoformat()}


@pytest.mark.server
def test_a_waiver_applies_until_its_day_and_one_that_matches_nothing_is_named(project: Project) -> None:
    create(project, "risky", privileged=True)
    name = "docker main: privileged containers"
    good, over = waiver("cis-docker-5.5", "docker main/ris*", 0), waiver("cis-docker-5.5", "risky", -1)
    nothing = waiver("cis-docker-5.16", "nothing")

    waived, expired = audit(project, waivers=[good, nothing]), audit(project, waivers=[over])

    assert waived.check(name).observed == "none, 1 with a waiver"
    assert not waived.named(f"{name}: risky")
    unused = waived.check("waivers: cis-docker-5.16 of nothing")
    assert (unused.status, unused.observed) == (CheckStatus.WARN, "matches nothing")
    assert waived.check("waivers: cis-docker-5.5 of docker main/ris*").status is CheckStatus.OK
    assert expired.check(f"{name}: risky").status is CheckStatus.FAIL
    assert "expired on" in str(expired.check("waivers: cis-docker-5.5 of risky").observed)
    suppressed = [item for item in artifact(waived, "audit.sarif")["runs"][0]["results"] if "suppressions" in item]
    assert [item["ruleId"] for item in suppressed] == ["cis-docker-5.5"]
    assert waived.measure("audit_score") > expired.measure("audit_score")


def test_a_waiver_of_a_rule_that_does_not_exist_or_without_a_reason_is_refused() -> None:
    for wrong in ({"rule": "cis-docker-99"}, {"why": ""}, {"until": "someday"}):
        result = run_job("security_audit", {"waivers": [{**waiver("cis-docker-5.5", "a"), **wrong}]})

        assert re.search("no rule|at least 1 character|valid date", str(result.error))


def test_an_engine_that_does_not_answer_is_failed_and_all_its_rules_are_unknown() -> None:
    targets = {"docker": {"main": {"url": "unix:///tmp/no-such-socket", "timeout": "1s"}}}

    result = run_job("security_audit", {"hosts": [], "waivers": [waiver("cis-docker-5.5", "x")]}, targets)

    assert result.check("docker main: examined").status is not CheckStatus.OK
    assert result.measure("audit_checks_unknown") > 30
    assert not [item for item in result.measures if item.name == "audit_score"]  # nothing was tested
    assert not result.named("waivers: ")  # whether it matches is not known


def test_an_engine_behind_a_proxy_that_hides_fields_is_unknown() -> None:
    answers = {
        "/version": json_reply({"Version": "29.3.0", "ApiVersion": "1.44"}),
        "/v1.44/version": json_reply({"Version": "29.3.0", "ApiVersion": "1.44"}),
        "/v1.24/version": json_reply({"Version": "29.3.0", "ApiVersion": "1.44"}),
        "/v1.44/info": json_reply({}),
    }
    with http_service(answers) as url:
        targets = {"docker": {"main": {"url": url.replace("http://", "tcp://"), "timeout": "5s"}}}
        result = run_job("security_audit", {"hosts": []}, targets)

    check = result.check("docker main: examined")
    assert check.status is CheckStatus.UNKNOWN
    assert "LiveRestoreEnabled" in str(check.observed)


def test_without_anything_to_audit_it_is_not_configured() -> None:
    error = run_job("security_audit", {"hosts": []}).error

    assert isinstance(error, TargetError)
    assert error.cause == "not_configured"


def test_compose_files_are_audited_without_an_engine(tmp_path: Path) -> None:
    path = tmp_path / "shop" / "compose.yaml"
    path.parent.mkdir()
    path.write_text(COMPOSE.replace("127.0.0.1:7001:7001", "7001:7001"))

    result = run_job("security_audit", {"hosts": [], "compose": [str(path), str(tmp_path / "none.yaml")]})

    check = result.check("compose shop/compose.yaml: services with ports on every address")
    assert str(check.observed).startswith("1 of 3: api")
    assert result.check(f"compose {tmp_path}/none.yaml: examined").status is not CheckStatus.OK
    found = artifact(result, "audit.sarif")["runs"][0]["results"]
    assert found[0]["locations"][0]["physicalLocation"]["region"] == {"startLine": 4}


# --- score and SARIF -------------------------------------------------------------------------------------------------


def scored(*outcomes: tuple[CheckStatus, int, int]) -> int | None:
    """The score of rules with severity, subjects examined, and violations."""
    result = Result()
    for number, (severity, examined, count) in enumerate(outcomes):
        rule = Rule(f"r{number}", severity, "t", "s", "w", "c")
        violations = tuple(Violation(f"v{index}", "x") for index in range(count))
        outcome = Outcome(rule, "p", examined, violations)
        result.outcomes.append(outcome)
        result.seen += [Seen(outcome, one, None, new=False) for one in violations]
    return result.score


def test_the_score_is_the_share_of_points_of_what_was_tested_and_never_below_zero() -> None:
    fail, warn = CheckStatus.FAIL, CheckStatus.WARN

    assert scored((fail, 4, 0), (warn, 4, 0)) == 100
    assert scored((fail, 4, 1), (warn, 4, 4)) == 56  # (3 × 3/4 + 0) of 4 points
    assert scored((fail, 1, 50), (warn, 2, 900)) == 0  # more violations than subjects
    assert scored((fail, 2, 0), (warn, 0, 0)) == 100  # not tested: no points
    assert scored() is None


@pytest.mark.server
def test_sarif_has_what_the_standard_requires(project: Project) -> None:
    create(project, "risky", privileged=True)

    log = artifact(audit(project), "audit.sarif")

    # Required by 2.1.0: version and runs (3.13), tool.driver.name (3.18, 3.19), message of a result (3.27.11),
    # ids of rules that are unique (3.49.3), an index that leads to the rule (3.27.6).
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert run["tool"]["driver"]["name"] == "maintd"
    assert len({rule["id"] for rule in rules}) == len(rules) == len(RULES)
    assert run["invocations"][0]["executionSuccessful"] is True
    assert run["results"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning")
        assert result["message"]["text"]
        assert result["baselineState"] in ("new", "unchanged")
        assert result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"]
    for item in run["invocations"][0]["toolExecutionNotifications"]:
        assert item["message"]["text"]
        assert item["associatedRule"]["id"] in RULES


def test_every_rule_has_a_source_a_change_and_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs/security-audit.md").read_text()

    for rule in RULES.values():
        # Its title is followed by ": SUBJECT", which is masked after a word like "password".
        assert "***" not in mask_output(f"docker main: {rule.title}: subject")
        assert rule.source
        assert rule.change
        assert rule.wanted
        assert f"`{rule.id}`" in text, rule.id
