"""Access logs of common servers, proxies and loggers: the status, path and address of each form."""

from __future__ import annotations

import json
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import now_within_a_day
from support.job_runs import JobResult, run_job
from support.sample_logs import request, wrapped

from maintd.checks.logs import denied_requests, folder, scanner
from maintd.checks.logs.access_log import STATUS_FIELDS, from_text
from maintd.checks.logs.denied_requests import DeniedRequests
from maintd.checks.read_tally import ReadTally
from maintd.model.evidence import CheckStatus
from tests.support.effort import grows_in_proportion

pytestmark = pytest.mark.usefixtures("own_now")

NOW = now_within_a_day()
AT = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
THEM = "203.0.113.7"

WITH_PATH: dict[str, str | dict[str, Any]] = {
    "uvicorn": f'INFO:     {THEM}:50000 - "GET /admin HTTP/1.1" 401 Unauthorized',
    "oauth2-proxy": (
        f'{THEM}:52000 - 0b1c - al@a.org [2026/11/24 12:00:00] shop.example GET - "/admin" HTTP/1.1 "c" 401 9 0.1'
    ),
    "nginx, virtual host first": (
        f'shop.example:443 {THEM} - - [24/Nov/2026:12:00:00 +0000] "GET /admin?a=1 HTTP/1.1" 401 381'
    ),
    "nginx, address of the virtual host first": (
        f'10.0.0.1:80 {THEM} - al [24/Nov/2026:12:00:00 +0000] "GET /admin HTTP/1.1" 401 381 "-" "curl"'
    ),
    "nginx proxy manager": (
        f'[24/Nov/2026:12:00:00 +0000] - 401 401 - GET https shop.example "/admin" [Client {THEM}] [Length 381] "c"'
    ),
    "gunicorn, aiohttp": f'{THEM} [24/Nov/2026:12:00:00 +0000] "GET /admin HTTP/1.1" 401 172 "-" "curl"',
    "django": '[24/Nov/2026 12:00:00] "GET /admin HTTP/1.1" 401 12',
    "werkzeug": f'{THEM} - - [24/Nov/2026 12:00:00] "GET /admin HTTP/1.1" 401 -',
    "envoy": f'[2026-11-24T12:00:00.000Z] "GET /admin HTTP/1.1" 401 - via_upstream - "-" 0 12 1 1 "-" "curl" {THEM}:80',
    "haproxy": (
        f"lb haproxy[12]: {THEM}:50000 [24/Nov/2026:12:00:00.123] http-in be/s1 0/0/0/1/1 401 381 - - ---- 1/1/0 0/0 "
        '"GET /admin HTTP/1.1"'
    ),
    "gin": f'[GIN] 2026/11/24 - 12:00:00 | 401 |     201.5µs | {THEM} | GET      "/admin"',
    "load balancer of AWS": (
        f"https 2026-11-24T12:00:00.000000Z app/lb/1 {THEM}:2817 10.0.0.1:80 0.0 0.0 0.0 401 401 34 366 "
        '"GET https://shop.example:443/admin?x=1 HTTP/2.0" "curl" TLS "-"'
    ),
    "morgan, short": f"{THEM} - GET /admin HTTP/1.1 401 12 - 1.8 ms",
    "morgan, tiny": "GET /admin 401 12 - 1.800 ms",
    "koa": "  \x1b[90m-->\x1b[39m GET /admin 401 2ms 12b",
    "iis": f"2026-11-24 12:00:00 10.0.0.1 GET /admin - 443 - {THEM} curl/8 - 401 2 5 0",
    "squid": f"1764000000.123      1 {THEM} TCP_DENIED/401 3900 GET http://shop.example/admin - HIER_NONE/- text/html",
    "logfmt": f"time=2026-11-24T12:00:00Z level=info method=GET path=/admin status=401 remote_addr={THEM}",
    "logfmt, quoted": f'level=info msg="request done" method=GET uri="/admin?key=1" status_code=401 client_ip="{THEM}"',
    "JSON after a name": 'web-1  | {"method":"GET","path":"/admin","status":401,"ip":"203.0.113.7"}',
    "winston with a message": {"level": "info", "message": f"{THEM} - GET /admin HTTP/1.1 401 12 - 1.8 ms"},
    "express-winston": {
        "message": "HTTP GET",
        "meta": {"req": {"url": "/admin"}, "res": {"statusCode": 401}},
        "ip": THEM,
    },
    "caddy": {"ts": 1764000000.1, "request": {"remote_ip": THEM, "method": "GET", "uri": "/admin?x=1"}, "status": 401},
    "ECS": {"http": {"response": {"status_code": 401}}, "url": {"path": "/admin"}, "source": {"ip": THEM}},
    "ECS, flat": {"http.response.status_code": 401, "url.path": "/admin", "client.ip": THEM},
    "google cloud": {"httpRequest": {"status": 401, "requestUrl": "https://shop.example/admin?x", "remoteIp": THEM}},
    "envoy, JSON": {"response_code": 401, "path": "/admin", "method": "GET", "downstream_remote_address": THEM},
    "nginx, JSON": {"request": "GET /admin HTTP/1.1", "status": "401", "remote_addr": THEM},
    "with the reason": {"status": "401 Unauthorized", "path": "/admin", "remote": THEM},
}
NO_ADDRESS = {"django", "morgan, tiny", "koa"}
WITHOUT_PATH: dict[str, str | dict[str, Any]] = {
    "rails": "I, [2026-11-24T12:00:00.000000 #1]  INFO -- : [5c1] Completed 401 Unauthorized in 12ms (Views: 0.1ms)",
    "phoenix": "12:00:00.000 request_id=F [info] Sent 401 in 5ms",
    "fastify": {"res": {"statusCode": 401}, "reqId": "req-1", "msg": "request completed"},
}
NOT_UNDERSTOOD: dict[str, str | dict[str, Any]] = {
    "an unknown field": {"outcome": {"http_result_code": 401}, "where": "/admin"},
    "an unknown field of a list": {"events": [{"code": 403}]},
    "an unknown order": f"<{THEM}> <GET> </admin> => code: 401",
    "words": f"{THEM} asked for /admin: 403 Forbidden",
    "broken JSON": '{"path":"/admin","status":401',
    "XML": f'<request ip="{THEM}"><status>401</status></request>',
}
OTHER = {
    "a duration": "request took 401 ms",
    "a number in JSON": {"level": "info", "durationMs": 401, "msg": "cleanup done"},
    "a port": "listening on 0.0.0.0: 403",
    "an id": {"order": "401", "msg": "shipped"},
    "another status": {"status": 200, "bytes": 403},
    "a quoted agent": f'{THEM} - - [24/Nov/2026:12:00:00 +0000] "GET / HTTP/1.1" 200 5 "-" "x\\" GET /admin 401"',
    "an agent in logfmt": (
        f'{THEM} - - [24/Nov/2026:12:00:00 +0000] "GET / HTTP/1.1" 200 5 "-" "a status=401 path=/admin b=c d=e "'
    ),
}


def text_of(line: str | dict[str, Any]) -> str:
    return line if isinstance(line, str) else json.dumps(line)


def read(line: str | dict[str, Any]) -> tuple[denied_requests.DeniedRequest | None, ReadTally]:
    tally = ReadTally()
    unwrapped = denied_requests.unwrap(wrapped(text_of(line), AT).encode())
    return denied_requests.read(unwrapped, "web", STATUS_FIELDS, tally), tally


@pytest.mark.parametrize("form", WITH_PATH)
def test_the_path_and_the_address_are_read_in_each_form(form: str) -> None:
    found, tally = read(WITH_PATH[form])

    assert found is not None
    assert (found.status, found.path, found.remote) == (401, "/admin", "" if form in NO_ADDRESS else THEM)
    assert tally.understood == 1


@pytest.mark.parametrize("form", WITHOUT_PATH)
def test_a_denial_without_a_path_is_counted(form: str) -> None:
    found, _ = read(WITHOUT_PATH[form])

    assert found is not None
    assert (found.status, found.path) == (401, "")


@pytest.mark.parametrize("form", NOT_UNDERSTOOD)
def test_a_line_that_may_be_a_denial_is_not_understood(form: str) -> None:
    found, tally = read(NOT_UNDERSTOOD[form])

    assert found is None
    assert (tally.understood, tally.not_understood) == (0, 1)


@pytest.mark.parametrize("form", OTHER)
def test_other_lines_with_these_digits_are_no_denials(form: str) -> None:
    found, tally = read(OTHER[form])

    assert found is None
    assert tally.not_understood == 0


@pytest.mark.parametrize("form", {**WITH_PATH, **WITHOUT_PATH, **NOT_UNDERSTOOD})
@pytest.mark.parametrize("small", [-1, 1 << 30], ids=["large", "small"])
def test_no_form_is_overlooked_by_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, small: int
) -> None:
    monkeypatch.setattr(scanner, "SMALL", small)
    if small > 0:
        monkeypatch.delitem(sys.modules, "numpy", raising=False)
    line = {**WITH_PATH, **WITHOUT_PATH, **NOT_UNDERSTOOD}[form]
    rng = random.Random(1)
    plain = [request(rng, NOW, 200) for _ in range(100)]  # of another logger in the same file
    lines = [*plain, *[text_of(line)] * 300, *plain]
    times = [NOW - timedelta(hours=1) + timedelta(seconds=n) for n in range(len(lines))]
    text = "".join(wrapped(line, at) + "\n" for line, at in zip(lines, times, strict=True))
    (tmp_path / "web-json.log").write_text(text)
    found = DeniedRequests(NOW - timedelta(days=1), NOW)

    folder.read(tmp_path, found)

    assert found.total + sum(tally.not_understood for _, tally in found.tallies.items()) == 300


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("[24/Nov/2026:13:00:00 +0100]", AT),
        ("[24/Nov/2026 12:00:00]", AT),
        ("[2026-11-24T12:00:00.000Z]", AT),
        ("2026/11/24 12:00:00", AT),
        ("2026/11/24 - 12:00:00 |", AT),
        ("2026-11-24T12:00:00,000 INFO", AT),
        ("[24/Abc/2026:13:00:00 +0100]", None),
        ("[99/Nov/2026:13:00:00 +0100]", None),
        ("[0001-01-01T00:00:00+14:00]", None),
    ],
)
def test_the_time_of_each_form_is_read(at: str, expected: datetime | None) -> None:
    found = from_text(f'{at} "GET /admin HTTP/1.1" 401 5')

    assert found is not None
    assert found.at == expected


def test_lines_of_kubernetes_are_unwrapped_and_their_parts_joined(tmp_path: Path) -> None:
    at = (NOW - timedelta(hours=1)).isoformat(timespec="microseconds")
    body = json.dumps({"path": "/admin", "note": "x" * 20_000, "status": 401})
    (tmp_path / "web.log").write_text(f"{at} stdout P {body[:16_384]}\n{at} stdout F {body[16_384:]}\n" * 3)
    found = DeniedRequests(NOW - timedelta(days=1), NOW)

    folder.read(tmp_path, found)

    assert (found.admin, found.total) == (3, 3)


def review(folder: Path, line: str | dict[str, Any], count: int = 60) -> JobResult:
    times = [NOW - timedelta(minutes=100 - n) for n in range(count)]
    (folder / "web-json.log").write_text("".join(wrapped(text_of(line), at) + "\n" for at in times))
    targets = {"folders": {"logs": {"path": str(folder)}}, "host": {"local": {"root": str(folder)}}}
    return run_job("security_log_review", {"logins": False, "folder": "logs"}, targets)


@pytest.mark.parametrize("form", WITHOUT_PATH)
def test_denials_without_a_path_make_the_administrators_check_unknown(tmp_path: Path, form: str) -> None:
    result = review(tmp_path, WITHOUT_PATH[form])

    check = result.check("requests: denied on administrators' paths")
    assert (check.status, result.outcome) == (CheckStatus.UNKNOWN, "unknown"), result.text()
    assert "60 without a path" in str(check.observed)


@pytest.mark.parametrize("form", NOT_UNDERSTOOD)
def test_lines_that_are_not_understood_are_unknown_with_their_service(tmp_path: Path, form: str) -> None:
    result = review(tmp_path, NOT_UNDERSTOOD[form])

    check = result.check("requests: lines not understood of web")
    assert (check.status, result.outcome) == (CheckStatus.UNKNOWN, "unknown"), result.text()
    assert "60 lines with 401 or 403 not understood (100 %), such as" in str(check.observed)
    admin = result.check("requests: denied on administrators' paths")
    assert admin.observed == "unknown: 60 of 60 lines with 401 or 403 of web were not understood; so far 0"


def test_a_service_that_is_understood_does_not_make_up_for_one_that_is_not(tmp_path: Path) -> None:
    understood = wrapped('{"path":"/","status":401}', NOW - timedelta(hours=1))
    (tmp_path / "api-json.log").write_text(f"{understood}\n" * 500)

    result = review(tmp_path, NOT_UNDERSTOOD["words"])

    assert result.check("requests: denied on administrators' paths").status is CheckStatus.UNKNOWN, result.text()


def test_a_count_is_unknown_when_only_some_lines_of_a_service_are_understood(tmp_path: Path) -> None:
    (tmp_path / "web-json.log.1").write_text(wrapped('{"path":"/","status":401}', NOW - timedelta(hours=2)) + "\n")

    check = review(tmp_path, NOT_UNDERSTOOD["words"]).check("requests: denied on administrators' paths")

    assert check.status is CheckStatus.UNKNOWN
    assert "60 of 61 lines with 401 or 403 of web were not understood" in str(check.observed)


def test_denials_that_fail_are_reported_beside_a_service_that_is_not_understood(tmp_path: Path) -> None:
    understood = wrapped('{"path":"/admin","status":401}', NOW - timedelta(hours=1))
    (tmp_path / "api-json.log").write_text(f"{understood}\n" * 5)

    result = review(tmp_path, NOT_UNDERSTOOD["words"])

    assert result.check("requests: denied on administrators' paths").status is CheckStatus.FAIL, result.text()


@pytest.mark.parametrize("services", [1, 2, 3, 8])
def test_a_few_lines_of_many_services_that_are_not_understood_are_unknown_together(
    tmp_path: Path, services: int
) -> None:
    line = wrapped(text_of(NOT_UNDERSTOOD["words"]), NOW - timedelta(hours=1))
    for number in range(1, services):
        (tmp_path / f"s{number}-json.log").write_text(f"{line}\n" * 4)

    check = review(tmp_path, NOT_UNDERSTOOD["words"], count=4).check("requests: lines not understood")

    assert check.status is (CheckStatus.OK if services == 1 else CheckStatus.UNKNOWN), check


def test_four_lines_that_are_not_understood_change_no_outcome(tmp_path: Path) -> None:
    result = review(tmp_path, NOT_UNDERSTOOD["words"], count=4)

    assert result.check("requests: lines not understood").status is CheckStatus.OK, result.text()
    assert result.outcome == "succeeded"


@given(
    st.text(max_size=300), st.sampled_from(['"GET /a HTTP/1.1" ', "a=1 b=2 status=401 ", "GET /a 401 ", '{"status":'])
)
def test_any_line_is_read_without_an_error(text: str, part: str) -> None:
    for line in (text, part + text, text + part):
        read(line)


@pytest.mark.parametrize(
    "part",
    [
        "Completed 401 A ",
        '"GET /a ',
        "GET /a\\",
        ' k="\\"',
        "1.2.3.4 ",
        "a - - [",
        "2026-11-24 12:00:00 GET / a 1 b ",
        "[2026-11-24T12:00:00",
        "{",
        '{"status":',
        "code: ",
        "HTTP/1.1 401 ",
    ],
)
def test_the_cost_of_a_hostile_line_grows_with_its_length_only(part: str) -> None:
    def read(length: int) -> None:
        line = (part * (length // len(part))).encode()
        denied_requests.read(denied_requests.unwrap(line), "web", STATUS_FIELDS, ReadTally())

    assert grows_in_proportion(read, 25_000, 250_000)


def test_a_log_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    line = wrapped(text_of(WITH_PATH["caddy"]), NOW - timedelta(hours=1)) + "\n"
    (tmp_path / "a.log").symlink_to("a.log")
    (tmp_path / "b.log").symlink_to("nowhere")
    (tmp_path / "c").mkdir()
    (tmp_path / "c/loop").symlink_to(tmp_path)
    (tmp_path / "d.log.1.gz").write_bytes(b"\x1f\x8b broken")
    (tmp_path / "d.log.2.xz").write_bytes(b"?")
    for name in ("c/c.log", "d.log", "e.log"):
        (tmp_path / name).write_text(line)
    found = DeniedRequests(NOW - timedelta(days=1), NOW)

    folder.read(tmp_path, found)

    assert found.total == 3
    unread = sorted(text.split(":")[0].rsplit("/", 1)[1] for text in found.unread)
    assert unread == [
        "a.log",
        "d.log.1.gz",
        "d.log.2.xz",
    ]


def test_an_unforeseen_error_in_one_log_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.log", "b.log", "c.log"):
        (tmp_path / name).write_text(wrapped(text_of(WITH_PATH["caddy"]), NOW - timedelta(hours=1)) + "\n")
    original = DeniedRequests.add_line

    def add_line(self: DeniedRequests, line: bytes, service: str) -> None:
        if service == "b":
            raise KeyError("x")
        original(self, line, service)

    monkeypatch.setattr(DeniedRequests, "add_line", add_line)
    found = DeniedRequests(NOW - timedelta(days=1), NOW)

    folder.read(tmp_path, found)

    assert found.total == 2
    assert [("b.log" in text, "KeyError" in text) for text in found.unread] == [(True, True)]
