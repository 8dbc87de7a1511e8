"""Parsing of denied requests, and the scanner that finds their lines."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sample_logs import corpus, minutes, request, stamp, wrapped

from maintd.checks.logs import denied_requests, folder, scanner
from maintd.checks.logs.denied_requests import DeniedRequests
from maintd.errors import TargetError

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = timedelta(days=1)
AT = NOW - timedelta(hours=1)


def seen(line: str) -> denied_requests.DeniedRequest | None:
    return denied_requests.parse_denied(denied_requests.unwrap(line.encode("utf-8", "surrogateescape")), "agent")


def found_in(path: Path, since: datetime = NOW - DAY, until: datetime = NOW) -> DeniedRequests:
    requests = DeniedRequests(since, until)
    folder.read(path, requests)
    return requests


def touch(path: Path, at: datetime = NOW) -> Path:
    os.utime(path, (at.timestamp(), at.timestamp()))
    return path


# --- one line ---


def test_a_line_of_the_stack_is_read_as_it_is_and_as_the_engine_keeps_it() -> None:
    line = request(random.Random(1), AT, 401, "/admin/notify/ack?token=s3cret", remote="::ffff:127.0.0.1")

    for kept in (line, wrapped(line, AT), f"{AT:%Y-%m-%dT%H:%M:%S}.000000123Z {line}"):
        found = seen(kept)
        assert found is not None, kept
        assert (found.at, found.status, found.service) == (AT, 401, "orchestrator")
        assert (found.method, found.path, found.remote) == ("GET", "/admin/notify/ack", "127.0.0.1")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"status": 401}, 401),
        ({"status": 403.0}, 403),
        ({"status": "403"}, 403),
        ({"statusCode": 401}, 401),
        ({"res": {"statusCode": 403}}, 403),
        ({"res.statusCode": 403}, 403),
        ({"DownstreamStatus": 401}, 401),
        ({"status": "ok", "statusCode": 401}, 401),
        ({"status": 200, "durationMs": 401, "requestId": "401", "time": "2026-11-24T12:00:00.403Z"}, None),
        ({"status": 4010}, None),
        ({"status": True}, None),
        ({"status": [401]}, None),
        ({"status": None, "path": '{"status":401}'}, None),
        ({"nested": {"status": 401}}, None),
        ({"http_status": 401}, 401),
        ({"nested": {"http_status": 401}}, None),
    ],
)
def test_the_field_decides_and_not_the_digits(body: dict[str, Any], status: int | None) -> None:
    found = seen(json.dumps(body))

    assert (found.status if found else None) == status


@pytest.mark.parametrize(
    ("line", "status", "path"),
    [
        ("\x1b[0mGET /orders \x1b[33m401\x1b[0m 1.812 ms - 12\x1b[0m", 401, "/orders"),
        ("GET /orders?key=1 403 1.812 ms - -", 403, "/orders"),
        ("\x1b[0mGET /401 \x1b[32m200\x1b[0m 401.403 ms - -\x1b[0m", None, ""),
        ('10.0.0.1 - - [24/Nov/2026:12:00:00 +0100] "GET /x HTTP/1.1" 401 12 "-" "curl"', 401, "/x"),
        ('10.0.0.1 - - [24/Nov/2026:12:00:00 +0100] "GET /401 HTTP/1.1" 200 403 "-" "401"', None, ""),
        ("Error: connect ECONNREFUSED 10.0.0.1:401", None, ""),
        ('{"status":401', None, ""),
    ],
)
def test_text_formats_are_read_by_their_columns(line: str, status: int | None, path: str) -> None:
    found = seen(line)

    assert (found.status if found else None) == status
    assert (found.path if found else "") == path


def test_a_deeply_nested_or_hostile_line_is_harmless() -> None:
    assert seen('{"a":' * 100_000) is None
    assert seen('{"status":401,"path":"\\ud800<script>\udcff"}') is not None


# --- the search ---

PARTS = st.sampled_from(
    [
        *('{"status":401}', '{"status": 403}', '{"status":"401"}', '{"x":401}', "401", " 403", ":4010", "\n", "a", "é"),
        *("GET /api/401 ", "GET /a?x=403&y=401 ", " status=401", "TCP_DENIED/403", "/401", "\x1b[31m401\x1b[0m", "40"),
    ]
)


@settings(max_examples=300)
@given(st.lists(PARTS, max_size=60).map("".join), st.sampled_from([7, 64, 200]), st.sampled_from([-1, 1 << 30]))
def test_the_scanner_finds_every_line_that_parsing_all_lines_finds(text: str, block: int, small: int) -> None:
    data = text.encode()
    expected = [line for line in data.split(b"\n") if denied_requests.parse_denied(denied_requests.unwrap(line), "a")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanner, "BLOCK", block)
        patch.setattr(scanner, "SMALL", small)
        if small > 0:
            patch.delitem(sys.modules, "numpy", raising=False)
        found = list(scanner.Scanner().lines(io.BytesIO(data).readinto))

    assert [line for line in found if denied_requests.parse_denied(denied_requests.unwrap(line), "a")] == expected


@pytest.mark.parametrize("compact", [True, False], ids=["compact", "spaced"])
@pytest.mark.parametrize("form", [lambda line, _: line, wrapped], ids=["plain", "wrapped"])
def test_large_logs_are_searched_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any, compact: bool
) -> None:
    monkeypatch.setattr(scanner, "SMALL", 1 << 20)
    path = tmp_path / "agent.log"
    counts = corpus(path, 2_500_000, since=NOW - DAY, until=NOW, form=form, compact=compact)
    touch(path)

    found = found_in(tmp_path)

    assert Counter({status: number for (_, status), number in found.by_service.top(9)}) == counts


@pytest.mark.parametrize(
    "line",
    [
        f'203.0.113.7 - - [{AT:%d/%b/%Y:%H:%M:%S} +0000] "GET /admin HTTP/1.1" 401 5 "-" "curl"',
        f'{{"time":"{stamp(AT)}","req":{{"url":"/admin"}},"res":{{"statusCode":401}}}}',
        f"time={stamp(AT)} method=GET path=/admin status=403 took=1",
        f"{AT.timestamp():.3f}      1 203.0.113.7 TCP_DENIED/403 3900 GET http://shop.example/admin - HIER_NONE/- text",
        wrapped("\x1b[0mGET /admin \x1b[33m401\x1b[0m 1.812 ms - -\x1b[0m", AT),
    ],
)
def test_one_line_of_another_form_in_the_middle_of_a_large_log_is_found(tmp_path: Path, line: str) -> None:
    path = tmp_path / "agent.log"
    other = request(random.Random(1), AT, 200, "/api/orders/401?token=403") + "\n"
    half = other * (20_000_000 // len(other))
    path.write_text(f"{half}{line}\n{half}")
    touch(path)

    found = found_in(tmp_path)

    assert path.stat().st_size > scanner.SMALL
    assert (found.total, found.admin) == (1, 1)


def cut_apart(line: str, at: datetime) -> list[str]:
    """As the engine keeps a line that is longer than 16 KiB."""
    parts = [line[start : start + 16384] for start in range(0, len(line), 16384)]
    return [wrapped(part, at, ended=number == len(parts) - 1) for number, part in enumerate(parts)]


@pytest.mark.parametrize("shift", range(-6, 12))
def test_a_long_path_cannot_hide_a_status_at_a_split(tmp_path: Path, shift: int) -> None:
    def line(length: int) -> str:
        return request(random.Random(1), AT, 401, "/" + "a" * length)

    at_cut = 16384 - (line(100).index('"status":401') + len('"status":4') - 100)
    text = line(at_cut + shift)
    other = request(random.Random(1), AT, 200)
    kept = [wrapped(other, AT), *cut_apart(text, AT), wrapped(other, AT), *cut_apart(line(40_000), AT)]
    touch_it = tmp_path / "agent.log"
    touch_it.write_text("\n".join(kept) + "\n")
    touch(touch_it)

    found = found_in(tmp_path)

    assert (found.total, found.truncated) == (2, 0)


def test_an_endless_line_is_counted_and_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "agent.log"
    denied = request(random.Random(1), AT, 401)
    path.write_text(f"{denied}\n{'x' * (12 << 20)}\n{denied}\n")
    touch(path)

    found = found_in(tmp_path)

    assert (found.total, found.truncated) == (2, 1)


# --- a folder ---


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    path = tmp_path / "agent.log"
    corpus(path, 8_000_000, since=NOW - 10 * DAY, until=NOW)
    touch(path)
    expected = sum(
        1 for line in path.read_bytes().split(b"\n") if (d := seen(line.decode())) and d.at and d.at >= NOW - DAY
    )

    found = found_in(tmp_path)

    assert found.total == expected
    assert found.bytes_read < 2_100_000  # a tenth of it is new; a megabyte before is read for clocks set back


def test_lines_out_of_order_are_selected_by_their_own_time(tmp_path: Path) -> None:
    path = tmp_path / "agent.log"
    rng = random.Random(1)
    instants = [NOW - DAY - timedelta(minutes=1), AT, NOW - DAY + timedelta(minutes=1), NOW + timedelta(minutes=1)]
    path.write_text("".join(request(rng, at, 401) + "\n" for at in instants))
    touch(path)

    assert found_in(tmp_path).total == 2


def test_rotated_files_of_the_window_are_read_and_older_ones_are_not(tmp_path: Path) -> None:
    rng = random.Random(1)

    def text(count: int) -> bytes:
        return "".join(request(rng, at, 403) + "\n" for at in minutes(AT, count)).encode()

    touch_all = {"web.log": text(1), "web.log.1": text(2), "web.log.2.gz": gzip.compress(text(4))}
    for name, data in touch_all.items():
        (tmp_path / name).write_bytes(data)
        touch(tmp_path / name)
    (tmp_path / "web.log.3").write_bytes(text(8))
    touch(tmp_path / "web.log.3", NOW - 2 * DAY)
    (tmp_path / "notes.txt").write_bytes(text(16))

    assert found_in(tmp_path).total == 7


def test_containers_are_named_by_their_service(tmp_path: Path) -> None:
    container = tmp_path / ("ab" * 32)
    container.mkdir()
    log = container / f"{'ab' * 32}-json.log"
    line = json.dumps({"msg": "x", "status": 401})
    log.write_text(wrapped(line, AT) + "\n")
    touch(log)
    unnamed = found_in(tmp_path)
    labels = {"com.docker.compose.service": "risk-manager"}
    (container / "config.v2.json").write_text(json.dumps({"Config": {"Labels": labels, "Env": ["ADMIN_TOKEN=x"]}}))

    named = found_in(tmp_path)

    assert unnamed.by_service.top(2) == [(("ab" * 6, 401), 1)]
    assert named.by_service.top(2) == [(("risk-manager", 401), 1)]


def test_a_denied_request_without_a_time_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "agent.log"
    path.write_text('{"status":401}\n{"status":200}\n')
    touch(path)

    found = found_in(tmp_path)

    assert (found.total, found.undated) == (0, 1)


def test_a_folder_without_logs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TargetError) as raised:
        found_in(tmp_path)

    assert raised.value.cause == "empty"


def test_epochs_and_zones_are_read_as_times() -> None:
    for written in (
        AT.timestamp(),
        AT.timestamp() * 1000,
        AT.timestamp() * 1e9,
        stamp(AT),
        "2026-11-24T12:00:00+01:00",
    ):
        found = seen(json.dumps({"status": 401, "time": written}))
        assert found is not None
        assert found.at == AT, written
