"""The health check of targets that depend on each other: the cause before what follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.http_services import http_service, json_reply, port_that_hangs
from support.job_runs import JobResult, run_job

from maintd.checks.dependencies import Dependencies
from maintd.checks.probes import Probe
from maintd.model.evidence import Check, CheckStatus
from maintd.model.target import Targets
from maintd.units import parse_duration

BODY = {"status": "ok", "redis": "ok", "db": "error"}
NOWHERE = {"dsn": "host=127.0.0.1 port=1 dbname=x user=x"}


@pytest.fixture
def service() -> Iterator[str]:
    with http_service({"/health": json_reply(BODY)}) as url:
        yield f"{url}/health"


def check(http: dict[str, Any], **targets: Any) -> JobResult:
    kinds = ["http", *targets]
    return run_job("health_check", {"include": kinds}, {"http": {"orders": http}, **targets})


def test_a_database_that_is_down_is_the_cause_of_what_a_service_reports(service: str) -> None:
    http = {"url": service, "expect": {"redis": "ok", "db": "ok"}, "depends_on": {"db": "postgres"}}

    result = check(http, postgres={"main": NOWHERE})

    names = [item.name for item in result.checks]
    assert names.index("postgres main: answers") < names.index("http orders: db")
    assert result.check("http orders: db").because == "postgres main: answers"
    assert result.check("http orders: db").status is CheckStatus.FAIL
    assert result.check("postgres main: answers").because == ""


@pytest.mark.parametrize(
    ("depends_on", "because"),
    [
        ({"db": "postgres main"}, "postgres main: answers"),
        (["postgres"], "postgres main: answers"),
        (["redis", "postgres"], "redis main: answers"),
        ({"redis": "redis"}, ""),  # the field db has no dependency
        ({}, ""),
        ([], ""),
    ],
)
def test_only_what_depends_on_a_target_follows_from_it(service: str, depends_on: Any, because: str) -> None:
    http = {"url": service, "expect": {"redis": "ok", "db": "ok"}, "depends_on": depends_on}

    result = check(http, postgres={"main": NOWHERE}, redis={"main": {"url": "redis://127.0.0.1:1"}})

    assert result.check("http orders: db").because == because


def test_a_service_that_hangs_follows_from_any_of_its_dependencies() -> None:
    with port_that_hangs() as port:
        http = {
            "url": f"http://127.0.0.1:{port}/health",
            "timeout": "300ms",
            "expect": {"db": "ok"},
            "depends_on": {"db": "postgres"},
        }
        result = check(http, postgres={"main": NOWHERE})

    assert result.check("http orders: answers").because == "postgres main: answers"


def test_a_failure_with_its_dependency_up_is_its_own_cause(service: str) -> None:
    with http_service({"/other": json_reply({"status": "ok"})}) as url:
        http = {"orders": {"url": service, "depends_on": ["http other"]}, "other": {"url": f"{url}/other"}}
        result = run_job("health_check", {"include": ["http"]}, {"http": http})

    assert result.check("http orders: body without complaint").because == ""


def test_a_chain_of_dependencies_is_reported_from_its_beginning(service: str) -> None:
    http = {
        "page": {"url": service, "depends_on": ["http api"]},
        "api": {"url": "http://127.0.0.1:1/health", "depends_on": ["postgres"]},
    }
    result = run_job("health_check", {"include": ["http", "postgres"]}, {"http": http, "postgres": {"main": NOWHERE}})

    failed = [(item.name, item.because) for item in result.checks if item.status is CheckStatus.FAIL]
    assert failed == [
        ("postgres main: answers", ""),
        ("http api: answers", "postgres main: answers"),
        ("http page: body without complaint", "http api: answers"),
    ]


def test_a_dependency_that_is_no_target_is_unknown(service: str) -> None:
    result = check({"url": service, "depends_on": ["postgres", "http typo"]})

    assert result.check("http orders: depends on http typo").status is CheckStatus.UNKNOWN
    assert result.check("http orders: depends on postgres").status is CheckStatus.UNKNOWN


def probes(*subjects: str) -> list[Probe]:
    return [Probe(*subject.split(" "), lambda: None, parse_duration("1s")) for subject in subjects]


def test_targets_that_depend_on_each_other_are_all_checked() -> None:
    http = {"a": {"url": "x", "depends_on": ["http b"]}, "b": {"url": "x", "depends_on": ["http a", "http b"]}}
    dependencies = Dependencies(Targets.model_validate({"http": http}))

    ordered = dependencies.order(probes("http a", "http b"))

    assert sorted(probe.subject for probe in ordered) == ["http a", "http b"]


def test_a_container_that_ended_is_the_cause_of_its_database_being_down() -> None:
    targets = {"docker": {"main": {}}, "postgres": {"main": {**NOWHERE, "depends_on": ["container postgres"]}}}
    dependencies = Dependencies(Targets.model_validate(targets))
    postgres, docker = probes("postgres main", "docker main")

    ordered = dependencies.order([postgres, docker])
    failed = [
        Check(name=name, observed="exited", expected="running", status=CheckStatus.FAIL)
        for name in ("docker main: postgres-exporter state", "docker main: postgres state")
    ]
    dependencies.note(docker, failed)

    assert [probe.kind for probe in ordered] == ["docker", "postgres"]
    answers = Check(name="postgres main: answers", observed="refused", expected="an answer", status=CheckStatus.FAIL)
    assert dependencies.cause(postgres, answers) == "docker main: postgres state"
