"""The same fault of a target has one status for each role of that target, whatever the job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from support.http_services import Reply, http_service, json_reply, port_that_hangs, port_that_sends
from support.job_runs import run_job
from support.servers.postgres import PostgresServer, postgres
from support.servers.redis import redis

from maintd.job.causes import Role, status_of
from maintd.model.evidence import CheckStatus

pytestmark = pytest.mark.server

PAGE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 40\r\n\r\n<!DOCTYPE html><html>Sign in</html>     "
)
HALF = {
    "postgres": b"R\x00\x00\x00\x08\x00",
    "redis": b"$100\r\nhalf",
    "docker": b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 400\r\n\r\n{"ApiVersion": "1.',
}
ROLES = {
    ("health_check", "postgres"): Role.SUBJECT,
    ("database_size", "postgres"): Role.SUBJECT,
    ("query_review", "postgres"): Role.SUBJECT,
    ("vacuum", "postgres"): Role.WORK,
    ("reindex", "postgres"): Role.WORK,
    ("trading_review", "postgres"): Role.SUBJECT,
    ("performance_report", "postgres"): Role.SOURCE,
    ("capacity_report", "postgres"): Role.SOURCE,
    ("health_check", "redis"): Role.SUBJECT,
    ("redis_maintenance", "redis"): Role.WORK,
    ("trading_review", "redis"): Role.SUBJECT,
    ("capacity_report", "redis"): Role.SOURCE,
    ("health_check", "docker"): Role.SUBJECT,
    ("resource_usage", "docker"): Role.SUBJECT,
    ("image_updates", "docker"): Role.SUBJECT,
    ("app_review", "docker"): Role.SUBJECT,
    ("docker_cleanup", "docker"): Role.WORK,
    ("security_log_review", "docker"): Role.SOURCE,
    ("capacity_report", "docker"): Role.SOURCE,
}
QUERY = {"table": "t", "sql": "SELECT 1 AS count WHERE %(since)s < %(until)s"}
PARAMS: dict[str, dict[str, Any]] = {
    "health_check": {"skip": ["host", "http"]},
    "resource_usage": {"interval": "100ms"},
    "security_log_review": {"logins": False},
    "capacity_report": {"report": False, "patience": "500ms"},
    "performance_report": {"queries": {"q": {"title": "Q", "sql": "SELECT 1 AS n"}}, "patience": "500ms"},
}
# The jobs give up on a target that hangs only after a multiple of its timeout.
CAUSES = {
    "hangs": {"timed_out"},
    "stopped": {"refused", "unreachable"},
    "wrong password": {"denied"},
    "a page": {"malformed", "partial", "failed"},
    "half": {"malformed", "partial", "timed_out"},
}


@dataclass
class Faulty:
    """A target with a fault, as the value of `targets.KIND.main`."""

    kind: str
    fault: str
    target: dict[str, Any]


def target(kind: str, port: int) -> dict[str, Any]:
    fields = {
        "postgres": {"dsn": f"host=127.0.0.1 port={port} dbname=x user=x password=wrong"},
        "redis": {"url": f"redis://:wrong@127.0.0.1:{port}/0"},
        "docker": {"url": f"tcp://127.0.0.1:{port}"},
    }
    return {**fields[kind], "timeout": "400ms"}


@pytest.fixture(scope="module")
def guarded() -> Iterator[PostgresServer]:
    """A Postgres server that demands a password."""
    with postgres() as server:
        hba = server.folder / "data/pg_hba.conf"
        hba.write_text("local all all trust\nhost all postgres all trust\nhost all all all scram-sha-256\n")
        server.stop()
        server.start()
        yield server


@pytest.fixture(params=sorted(CAUSES))
def fault(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["postgres", "redis", "docker"])
def faulty(request: pytest.FixtureRequest, fault: str, guarded: PostgresServer) -> Iterator[Faulty]:
    kind = str(request.param)
    if fault == "hangs":
        with port_that_hangs() as port:
            yield Faulty(kind, fault, target(kind, port))
    elif fault == "stopped":
        yield Faulty(kind, fault, target(kind, 1))
    elif fault == "a page":
        with port_that_sends(PAGE) as port:
            yield Faulty(kind, fault, target(kind, port))
    elif fault == "half":
        with port_that_sends(HALF[kind]) as port:
            yield Faulty(kind, fault, target(kind, port))
    elif kind == "postgres":
        yield Faulty(kind, fault, target(kind, guarded.port))
    elif kind == "redis":
        with redis("--requirepass", "right") as server:
            yield Faulty(kind, fault, target(kind, server.port))
    else:
        with port_that_sends(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nForbidden") as port:
            yield Faulty(kind, fault, target(kind, port))


def test_a_fault_has_the_status_of_the_targets_role_in_every_job(faulty: Faulty) -> None:
    figures = {"realized": 1, "percent": 1, "date": "x", "halted": False}
    with http_service({"/pnl/status": json_reply(figures), "/": Reply(b"")}) as url:
        seen = {}
        for job, role in ((job, role) for (job, kind), role in ROLES.items() if kind == faulty.kind):
            targets: dict[str, Any] = {faulty.kind: {"main": faulty.target}}
            params = PARAMS.get(job, {})
            if job == "trading_review":
                targets["http"] = {"main": {"url": f"{url}/health"}}
                params = {"queries": {"q": QUERY}} if faulty.kind == "postgres" else {"streams": ["s"]}
            result = run_job(job, params, targets)
            own = [
                check
                for check in result.checks
                if check.status in (CheckStatus.FAIL, CheckStatus.UNKNOWN)
                and not check.name.startswith(
                    ("host ", "file system ", "inodes ", "memory local", "figures", "vulnerabilities")
                )
            ]
            wanted = {status_of(cause, role).value for cause in CAUSES[faulty.fault]}
            statuses = {check.status.value for check in own} or {f"nothing: {result.text()[-300:]}"}
            seen[f"{job} ({role})"] = (
                "as wanted" if statuses <= wanted else f"{statuses}, not {wanted}:\n{result.text()}"
            )

    assert {job: text for job, text in seen.items() if text != "as wanted"} == {}
