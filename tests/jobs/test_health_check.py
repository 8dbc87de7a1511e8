"""The health check of a bare host, and of services by HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.host_roots import this_machine_as_a_host
from support.http_services import Reply, http_service, json_reply, port_that_hangs, port_that_sends
from support.job_runs import JobResult, run_job

from maintd.model.evidence import CheckStatus

WELL = {"status": "ok", "service": "Orders", "redis": "ok", "db": "ok", "day": {"halted": False}, "uptime": 5.4}
EXPECT = {"redis": "ok", "db": "ok"}


def check_services(services: dict[str, dict[str, Any]], **params: Any) -> JobResult:
    return run_job("health_check", {"include": ["http"], **params}, {"http": services})


@pytest.fixture
def service() -> Iterator[str]:
    replies = {
        "/well": json_reply(WELL),
        "/db-error": json_reply({**WELL, "db": "error"}),
        "/leaky": json_reply({"adminToken": 'a"b\\c', "ok": True}),
        "/no-db": json_reply({"status": "ok", "redis": "ok"}),
        "/parts": json_reply({"status": "ok", "agents": {"a": "ok", "b": "error"}}),
        "/login": Reply(b"<!DOCTYPE html><html>Sign in</html>", content_type="text/html"),
        "/huge": json_reply({"redis": "ok", "db": "ok", "filler": "x" * 70_000}),
        "/away": json_reply({"error": "unavailable"}, 503),
        "/moved": Reply(status=302, headers={"Location": "http://elsewhere.example/?token=s3cret"}),
        "/forbidden": json_reply({"error": "forbidden"}, 403),
        "/ready": Reply(b"ready\n", content_type="text/plain"),
        "/cut": Reply(b'{"redis": "ok", "db":'),
    }
    with http_service(replies) as url:
        yield url


def test_a_bare_host_gives_real_numbers_and_no_warning_for_what_is_not_configured() -> None:
    with this_machine_as_a_host():
        result = run_job("health_check")

    assert result.error is None, result.text()
    assert {check.name.split()[0] for check in result.checks} == {"host"}
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total = int(meminfo["MemTotal"].split()[0]) * 1024
    assert result.measure("mem_total_bytes", host="local") == total
    assert 0 < result.measure("mem_available_bytes", host="local") < total
    assert result.check("host local: / used").unit == "%"
    assert result.check("host local: / inodes used").status is not CheckStatus.UNKNOWN
    assert sorted(line for line in result.logs if "not configured" in line) == [
        f"{kind}: not configured: set targets.{kind}"
        for kind in ("alertmanager", "docker", "http", "postgres", "prometheus", "redis")
    ]


def test_a_section_that_is_asked_for_and_not_configured_is_unknown() -> None:
    result = run_job("health_check", {"include": ["redis"]})

    assert result.check("redis: configured").status is CheckStatus.UNKNOWN
    assert result.outcome == "unknown"


def test_a_section_can_be_left_out(service: str) -> None:
    result = run_job("health_check", {"skip": ["host"]}, {"http": {"orders": {"url": f"{service}/well"}}})

    assert {check.name.split(":")[0] for check in result.checks} == {"http orders"}


def test_a_service_that_is_well_is_green_with_its_latency(service: str) -> None:
    result = check_services({"orders": {"url": f"{service}/well", "expect": {**EXPECT, "day.halted": False}}})

    assert result.outcome == "succeeded", result.text()
    assert result.check("http orders: db").observed == "ok"
    assert result.check("http orders: day.halted").observed is False
    assert 0 < result.measure("http_health_latency_seconds", service="orders") < 2
    assert result.measure("service_up", service="orders") == 1


def test_status_200_with_a_database_in_error_fails(service: str) -> None:
    result = check_services({"orders": {"url": f"{service}/db-error", "expect": EXPECT}})

    failed = result.check("http orders: db")
    assert (failed.status, failed.observed, failed.expected) == (CheckStatus.FAIL, "error", "ok")
    assert result.check("http orders: answers").status is CheckStatus.OK
    assert result.measure("service_up", service="orders") == 0


def test_bodies_are_kept_as_evidence_without_secrets(service: str) -> None:
    result = check_services({"orders": {"url": f"{service}/well"}, "leaky": {"url": f"{service}/leaky"}})

    (artifact,) = result.artifacts
    kept = json.loads(Path(artifact.path).read_text())
    assert json.loads(kept["orders"]["body"]) == WELL
    assert json.loads(kept["leaky"]["body"]) == {"adminToken": "***", "ok": True}


def test_a_field_that_is_expected_and_missing_fails(service: str) -> None:
    result = check_services({"orders": {"url": f"{service}/no-db", "expect": EXPECT}})

    assert result.check("http orders: db").observed == "missing"
    assert result.outcome == "failed"


def test_without_a_body_rule_an_unhealthy_component_fails(service: str) -> None:
    result = check_services({"hub": {"url": f"{service}/parts"}})

    failed = result.check("http hub: body without complaint")
    assert (failed.status, failed.observed) == (CheckStatus.FAIL, "agents.b: error")


def test_a_login_page_with_status_200_is_malformed(service: str) -> None:
    result = check_services({"orders": {"url": f"{service}/login", "expect": EXPECT}})

    failed = result.check("http orders: body")
    assert failed.status is CheckStatus.FAIL
    assert "a web page" in str(failed.observed)
    assert "login" in failed.hint


@pytest.mark.parametrize(
    ("path", "name", "words"),
    [
        ("/cut", "http orders: body", "not JSON"),
        ("/away", "http orders: answers", "503"),
        ("/moved", "http orders: answers", "302"),
    ],
)
def test_bodies_and_statuses_that_prove_nothing_fail(service: str, path: str, name: str, words: str) -> None:
    result = check_services({"orders": {"url": f"{service}{path}", "expect": EXPECT}})

    failed = result.check(name)
    assert failed.status is CheckStatus.FAIL
    assert words in str(failed.observed)
    assert "s3cret" not in result.text()


def test_an_answer_that_is_longer_than_what_is_read_is_unknown(service: str) -> None:
    answers = check_services({"orders": {"url": f"{service}/huge", "expect": EXPECT}}).check("http orders: answers")

    assert answers.status is CheckStatus.UNKNOWN
    assert "more than 65536 bytes" in str(answers.observed)


def test_a_service_that_may_not_be_asked_is_unknown(service: str) -> None:
    result = check_services({"orders": {"url": f"{service}/forbidden", "expect": EXPECT}})

    assert result.check("http orders: answers").status is CheckStatus.UNKNOWN
    assert result.outcome == "unknown"


FORM = b'<form action="/session"><input name="p" type="password"></form>'


@pytest.mark.parametrize(
    ("path", "reply", "cause"),
    [
        ("/", Reply(b"<html><title>Sign in - SSO</title></html>", content_type="text/html"), "denied: a login page"),
        ("/shop", Reply(b"<html><body>" + FORM, content_type="text/html; charset=utf-8"), "denied: a login page"),
        ("/health", Reply(b"<!DOCTYPE html><div id=root></div>", content_type="text/html"), "unfamiliar: a web page"),
        ("/api/v1/ready", Reply(b"\n<html>Welcome to nginx!</html>", content_type="text/plain"), "unfamiliar: a web"),
        ("/health", Reply(b"\xef\xbb\xbf<html>" + FORM, content_type=""), "denied: a login page"),
        ("/health", Reply(b'{"status": "ok"', content_type="application/json"), "malformed: its content type is JSON"),
        ("/healthz", Reply(b"OK then", content_type="application/json; charset=utf-8"), "malformed"),
    ],
)
def test_a_page_that_the_service_may_not_have_sent_is_unknown(path: str, reply: Reply, cause: str) -> None:
    with http_service({path: reply}) as url:
        result = check_services({"orders": {"url": f"{url}{path}"}})

    assert result.check("http orders: body").status is CheckStatus.UNKNOWN
    assert cause in str(result.check("http orders: body").observed)
    assert "expect_text" in result.check("http orders: body").hint
    assert not [item for item in result.measures if item.name == "service_up"]


@pytest.mark.parametrize(
    ("path", "reply"),
    [
        ("/health", Reply(b"ok", content_type="text/plain")),
        ("/health", Reply(b"", content_type="application/json")),
        ("/health", Reply(b'{"status":"ok","errors":0,"error":null,"ready":true}')),
        ("/-/ready", Reply(b"Prometheus Server is Ready.\n", content_type="text/plain")),
        ("/shop", Reply(b"<html><title>Shop</title><input type=text></html>", content_type="text/html")),
        ("/", Reply(b"<html><title>Dashboard</title></html>", content_type="text/html")),
    ],
)
def test_an_answer_that_a_service_sends_is_ok_without_expectations(path: str, reply: Reply) -> None:
    with http_service({path: reply}) as url:
        result = check_services({"orders": {"url": f"{url}{path}"}})

    assert result.outcome == "succeeded", result.text()
    assert result.measure("service_up", service="orders") == 1


@pytest.mark.parametrize(
    "location", ["/login", "/users/sign_in?next=/", "https://sso.example/x", "/oauth2/start", "/auth/realms/main"]
)
def test_a_redirect_to_a_login_is_denied_and_unknown(location: str) -> None:
    with http_service({"/health": Reply(status=302, headers={"Location": location})}) as url:
        result = check_services({"orders": {"url": f"{url}/health", "expect": EXPECT}})

    assert result.outcome == "unknown", result.text()
    assert "denied" in str(result.check("http orders: answers").observed)


def deep(depth: int, inner: Any) -> Any:
    for _ in range(depth):
        inner = {"in": inner}
    return inner


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"healthy": False}, "healthy: false"),
        ({"status": "ok", "checks": [{"name": "db", "status": "down"}]}, "checks.0.status: down"),
        ([{"name": "db", "ok": False}], "0.ok: false"),
        ({"error": "login required"}, "error: login required"),
        ({"db": {"connected": False}}, "db.connected: false"),
        # deep, as of composite indicators
        (
            {"status": "UP", "components": {"db": {"components": {"main": {"details": {"pool": {"status": "DOWN"}}}}}}},
            "components.db.components.main.details.pool.status: DOWN",
        ),
        ({"a": [{"b": [{"c": [{"d": [{"healthy": False}]}]}]}]}, "a.0.b.0.c.0.d.0.healthy: false"),
        (deep(30, {"state": "error"}), ".".join(["in"] * 30) + ".state: error"),
        (
            {"checks": [{"status": "down"}] * 25},
            ", ".join(f"checks.{number}.status: down" for number in range(20)) + ", and 5 more",
        ),
    ],
)
def test_a_complaint_in_a_body_without_expectations_fails(body: Any, complaint: str) -> None:
    with http_service({"/health": json_reply(body)}) as url:
        result = check_services({"orders": {"url": f"{url}/health"}})

    assert result.check("http orders: body without complaint").observed == complaint
    assert result.outcome == "failed"


def test_a_text_can_be_expected(service: str) -> None:
    result = check_services(
        {
            "logs": {"url": f"{service}/ready", "expect_text": "ready"},
            "other": {"url": f"{service}/ready", "expect_text": "serving"},
        }
    )

    assert result.check("http logs: body has 'ready'").status is CheckStatus.OK
    assert result.check("http other: body has 'serving'").status is CheckStatus.FAIL


def test_hung_services_fail_within_their_timeout_and_delay_no_other(service: str) -> None:
    with port_that_hangs() as port:
        hung = {f"hung{number}": {"url": f"http://127.0.0.1:{port}/", "timeout": "1s"} for number in range(6)}
        started = time.monotonic()

        result = check_services({**hung, "orders": {"url": f"{service}/well", "expect": EXPECT}})

    # Six of a second each, one after the other, would take six seconds.
    assert time.monotonic() - started < 20
    failed = result.check("http hung0: answers")
    assert failed.status is CheckStatus.FAIL
    assert "timed_out" in str(failed.observed)
    assert result.check("http orders: answers").status is CheckStatus.OK


def test_a_target_that_is_down_fails_with_the_cause(free_port: int) -> None:
    with (
        port_that_sends(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{") as half,
        port_that_sends(b"SSH-2.0-OpenSSH\r\n") as other,
    ):
        result = check_services(
            {
                "dead": {"url": f"http://127.0.0.1:{free_port}/health"},
                "half": {"url": f"http://127.0.0.1:{half}/"},
                "other": {"url": f"http://127.0.0.1:{other}/"},
            }
        )

    causes = {
        name: str(result.check(f"http {name}: answers").observed).split(":")[0] for name in ("dead", "half", "other")
    }
    assert causes == {"dead": "refused", "half": "partial", "other": "partial"}
    assert result.measure("service_up", service="dead") == 0


def test_a_secret_that_is_not_in_the_environment_makes_one_target_unknown(service: str) -> None:
    result = check_services(
        {
            "orders": {"url": f"{service}/well", "headers": {"Authorization": "${NO_SUCH_VARIABLE_HERE}"}},
            "other": {"url": f"{service}/well"},
        }
    )

    assert result.check("http orders: answers").status is CheckStatus.UNKNOWN
    assert "NO_SUCH_VARIABLE_HERE" in str(result.check("http orders: answers").observed)
    assert result.check("http other: answers").status is CheckStatus.OK
