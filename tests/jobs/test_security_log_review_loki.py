"""Denied requests from Loki, whose query API with its limits is stubbed over a real socket."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from support.clock import now_within_a_day
from support.http_services import Reply, http_service, served
from support.job_runs import JobResult, run_job
from support.sample_logs import request, wrapped

from maintd.checks.logs import loki
from maintd.model.evidence import CheckStatus

pytestmark = pytest.mark.usefixtures("own_now")

NOW = now_within_a_day()
STREAM = {"job": "docker", "compose_service": "risk-manager"}
Entry = tuple[int, dict[str, str], str]  # nanoseconds, stream, line


@contextmanager
def serving(entries: Sequence[Entry]) -> Iterator[str]:
    """Serve the two queries in use: the number of lines, and pages of matching lines, oldest first.
    `start` is included and `end` is not, and at most `limit` lines are returned, as documented for Loki."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place = urlsplit(self.path)
            asked = {key: values[0] for key, values in parse_qs(place.query).items()}
            if place.path == "/loki/api/v1/query":
                found = [{"metric": {}, "value": [0, str(len(entries))]}] if entries else []
                self._answer({"resultType": "vector", "result": found})
            else:
                self._answer({"resultType": "streams", "result": _streams(entries, asked)})

        def _answer(self, data: dict[str, Any]) -> None:
            body = json.dumps({"status": "success", "data": data}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    with served(Handler) as url:
        yield url


def _streams(entries: Sequence[Entry], asked: dict[str, str]) -> list[dict[str, Any]]:
    pattern = re.compile(asked["query"].split("|~ `")[1].rstrip("`"))
    matching = sorted(
        (
            entry
            for entry in entries
            if int(asked["start"]) <= entry[0] < int(asked["end"]) and pattern.search(entry[2])
        ),
        key=lambda entry: entry[0],
    )
    streams: dict[str, dict[str, Any]] = {}
    for at, labels, line in matching[: int(asked["limit"])]:
        streams.setdefault(str(labels), {"stream": labels, "values": []})["values"].append([str(at), line])
    return list(streams.values())


def entry(at: datetime, line: str, stream: dict[str, str] = STREAM) -> Entry:
    return round(at.timestamp() * 1e6) * 1000, stream, line


def review(url: str) -> JobResult:
    params = {"logins": False, "loki": "loki"}
    return run_job("security_log_review", params, {"http": {"loki": {"url": f"{url}/ready", "timeout": "5s"}}})


def test_lines_are_counted_by_their_fields_whether_or_not_promtail_unwraps_them() -> None:
    rng = random.Random(1)
    at = NOW - timedelta(hours=1)
    entries = [
        entry(at, wrapped(request(rng, at, 401, "/admin/x"), at)),
        entry(at, request(rng, at, 403)),
        entry(at, request(rng, at, 200, "/orders/401")),
        entry(at, "GET /x 403 1.8 ms - -"),  # without a time of its own: Loki's counts
    ]

    with serving(entries) as url:
        result = review(url)

    assert result.measure("api_denied_24h", service="orchestrator", status="401") == 1, result.text()
    assert result.measure("api_denied_24h", service="orchestrator", status="403") == 1
    assert result.measure("api_denied_24h", service="risk-manager", status="403") == 1
    assert result.measure("api_denied_total_24h") == 3
    assert result.check("requests: last line of the logs").status is CheckStatus.OK


def test_pages_lose_and_repeat_no_line_even_with_equal_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loki, "_PAGE", 10)
    rng = random.Random(1)
    begin = NOW - timedelta(hours=1)
    entries = []
    for number in range(47):
        at = begin + timedelta(seconds=number // 4)  # four lines at each instant, over the ends of pages
        stream = STREAM | {"compose_service": f"agent-{number % 2}"}
        entries.append(entry(at, request(rng, at, 401, service=f"agent-{number % 2}"), stream))
    same = request(rng, begin, 403)
    entries += [entry(begin, same), entry(begin, same)]  # two lines that are equal are two

    with serving(entries) as url:
        result = review(url)

    assert result.measure("api_denied_total_24h") == 49, result.text()


def test_more_lines_with_one_time_than_a_page_holds_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loki, "_PAGE", 10)
    at = NOW - timedelta(hours=1)
    entries = [entry(at, request(random.Random(n), at, 401)) for n in range(30)]

    with serving(entries) as url:
        result = review(url)

    assert str(result.check("requests: logs").observed).startswith("unknown: partial"), result.text()


def test_a_selector_that_finds_no_lines_is_unknown() -> None:
    with serving([]) as url:
        result = review(url)

    assert result.check("requests: last line of the logs").status is CheckStatus.UNKNOWN, result.text()


def test_a_login_page_before_loki_is_unknown() -> None:
    page = Reply(b"<html>Sign in</html>", content_type="text/html")
    with http_service({}) as url:
        absent = review(url)
    asked = "/loki/api/v1/query?query=sum%28count_over_time%28%7Bjob%3D%22docker%22%7D%5B86400s%5D%29%29&time="
    with http_service(_Any(asked, page)) as url:
        behind = review(url)

    assert absent.check("requests: logs").status is CheckStatus.UNKNOWN, absent.text()
    assert "login page" in behind.check("requests: logs").hint, behind.text()


class _Any(dict[str, Reply]):
    """The same reply to every path that begins so."""

    def __init__(self, begin: str, reply: Reply) -> None:
        super().__init__()
        self._begin, self._reply = begin, reply

    def get(self, key: str, default: Any = None) -> Any:
        return self._reply if key.startswith(self._begin) else default
