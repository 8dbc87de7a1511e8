"""The client for programs: every operation of the API, and servers that answer badly or not at all."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import psutil
import pytest
from support.http_services import Dripping, Reply, WithoutLength, http_service, port_that_hangs, port_that_sends
from support.http_services import served as serving
from support.servers.tls import authority, tls_front
from support.web_services import FULL, NOON, Harness, artifact, run_with

import maintd.cli
from maintd.client import Client
from maintd.client.address import parse_address
from maintd.client.sse import ServerEvent, server_events
from maintd.client.transport import Answer
from maintd.errors import (
    DaemonUnavailableError,
    ForbiddenError,
    MaintdError,
    StoreUnavailableError,
    UnauthorizedError,
    UnknownNameError,
    UsageError,
)
from maintd.model.access import Role
from maintd.model.responses import StreamPosition
from maintd.model.run import RunEvent, RunState
from maintd.operations.tokens import create_token, revoke_token
from maintd.web.app import openapi_schema


class Recording(Client):
    """A client that notes what it requests."""

    def __init__(self, address: str | Path) -> None:
        super().__init__(address, retries=0)
        self.requested: list[tuple[str, str]] = []

    def request(self, method: str, target: str, body: bytes | None = None, *, repeatable: bool = False) -> Answer:
        self.requested.append((method, target.partition("?")[0]))
        return super().request(method, target, body, repeatable=repeatable)

    def stream(self, path: str, last_id: str | None = None) -> Iterator[ServerEvent]:
        self.requested.append(("GET", f"/api/v1{path.partition('?')[0]}"))
        return super().stream(path, last_id)


LATER = datetime.now(UTC) + timedelta(days=3)

ARGUMENTS: dict[str, tuple[tuple[object, ...], dict[str, object]]] = {
    "entry": (("nightly-vacuum",), {}),
    "job": (("vacuum",), {}),
    "pause": (("nightly-vacuum", "disk"), {}),
    "unpause": (("nightly-vacuum",), {}),
    "run": ((1,), {}),
    "start_time": (("nightly-vacuum", "sat 01:00"), {}),
    "freeze": (("moving house",), {"until": NOON + timedelta(days=1)}),
    "wait": ((1,), {}),
    "cancel": ((1,), {}),
    "resume": ((1,), {}),
    "undo": ((1, "stop"), {}),
    "release": ((1, "cleaned up"), {}),
    "gate": ((1,), {}),
    "tick": ((1, [1]), {}),
    "approve": ((1,), {}),
    "reject": ((1, "not today"), {}),
    "log": ((1,), {}),
    "iter_log": ((1,), {}),
    "follow": ((1,), {}),
    "log_text": ((1,), {}),
    "series": (("size_bytes",), {}),
    "artifact": ((1, "vacuum", 1, "card.txt"), {}),
    "trigger": (("nightly-vacuum",), {}),
    "findings_of_run": ((1,), {}),
    "finding": (("abc",), {}),
    "acknowledge": (("abc", "known"), {"until": LATER}),
    "withdraw": (("abc",), {}),
    "add_note": ((1, "seen"), {}),
    "checklist": ((1,), {}),
    "notice": ((1,), {}),
    "test_channel": (("mail",), {}),
    "mute": (("probe", "moving"), {"until": LATER}),
    "unmute": (("probe",), {}),
    "create_token": (("ci", "viewer"), {}),
    "revoke_token": (("ci",), {}),
}
"""What methods need to be called with. Some refer to things that do not exist: what counts is which request is sent."""

NOT_OPERATIONS = {"get", "post", "request", "stream", "is_ready", "json_of"}


def methods() -> list[str]:
    return [
        name
        for name, member in inspect.getmembers(Client, inspect.isfunction)
        if not name.startswith("_") and name not in NOT_OPERATIONS
    ]


def operations() -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, found in openapi_schema()["paths"].items() for method in found}


def test_every_operation_of_the_api_has_a_method(served: Harness) -> None:
    run_with(served.store, "nightly-vacuum", 0, items=FULL)
    client = Recording(served.settings.socket_path)

    for name in methods():
        positional, named = ARGUMENTS.get(name, ((), {}))
        with suppress(MaintdError):
            result = getattr(client, name)(*positional, **named)
            if isinstance(result, Iterator):
                next(result, None)

    patterns = {key: re.compile(re.sub(r"\{\w+\}", "[^/]+", key[1])) for key in operations()}
    used = {
        min(
            (key for key, p in patterns.items() if key[0] == method and p.fullmatch(path)),
            key=lambda key: key[1].count("{"),
        )
        for method, path in client.requested
        if path != "/api/v1/openapi.json"
    }
    assert operations() - used == set()


def test_methods_return_the_types_of_the_model(served: Harness) -> None:
    file = artifact(served.folder, "card.txt", b"hello\n", "text/plain")
    number = run_with(served.store, "nightly-vacuum", 0, items=(*FULL, file))
    client = Client(served.settings.socket_path)

    assert client.run(number).state is RunState.SUCCEEDED
    assert client.status().entries[0].entry == "nightly-vacuum"
    assert [run.id for run in client.iter_runs(page_size=1)] == [number]
    assert [line.text for line in client.iter_log(number)] == [
        "connected to main",
        "vacuuming orders",
        "could not lock orders",
    ]
    assert [line.text for line in client.follow(number)] == [line.text for line in client.iter_log(number)]
    assert client.wait(number).id == number
    assert client.artifact(number, "vacuum", 1, "card.txt") == b"hello\n"
    assert client.health().ok
    assert client.is_ready()
    assert client.openapi()["openapi"].startswith("3.1")
    assert client.trigger("nightly-vacuum", why="test").requested_by
    assert client.pause("probe", "disk", until=datetime.now(UTC) + timedelta(days=20000)).why == "disk"
    assert client.unpause("probe") is True
    assert client.due(days=1).due[0].entry == "probe"
    assert "maintd" in client.status_text(width=100)
    assert client.version().node == "n1"
    assert client.reload().ok


def test_the_json_of_a_method_is_what_it_received() -> None:
    """Also fields that this version does not know, of the first answer, without the types."""
    body = b'{"runs": [], "next_before": null, "mood": "good"}'
    error = b'{"error": {"code": "unknown_name", "message": "no run 7", "hint": null}}'
    replies = {"/api/v1/runs": Reply(body, 200, headers=MARK), "/api/v1/runs/7": Reply(error, 404, headers=MARK)}
    with http_service(replies) as url:
        client = Client(url, retries=0)

        found = client.json_of(lambda client: client.runs(limit=5))
        typed = client.runs(limit=5)
        with pytest.raises(UnknownNameError, match="no run 7"):
            client.json_of(lambda client: client.run(7))

    assert found == json.loads(body)
    assert (typed.runs, typed.next_before) == ((), None)
    with pytest.raises(TypeError):
        client.json_of(lambda client: client.address)


def test_the_json_of_a_method_needs_no_types(served: Harness) -> None:
    program = (
        "import sys; from maintd.client import Client; client = Client(sys.argv[1]);"
        "print(len(client.json_of(lambda client: client.runs())['runs']), 'pydantic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(served.settings.socket_path)], capture_output=True, text=True, check=True
    )

    assert done.stdout == "0 False\n"


def test_commands_use_the_methods_of_the_client() -> None:
    folder = Path(maintd.cli.__file__).parent
    paths = [f"{path.name}: {found[0]}" for path in folder.glob("*.py") for found in PLAIN.finditer(path.read_text())]

    assert paths == []


PLAIN = re.compile(r"\.(get|post|request|read)\(f?[\"']/[^)]*")
"""A request by its path."""


def test_a_key_makes_a_trigger_one_run(served: Harness) -> None:
    client = Client(served.settings.socket_path)

    first, second = (client.trigger("by-hand", idempotency_key="once") for _ in range(2))

    assert first.id == second.id


def test_errors_are_instances_of_their_classes(served: Harness, port: int) -> None:
    token = create_token(served.store, "ci", Role.VIEWER, by="ada").token
    url = f"http://127.0.0.1:{port}"

    with pytest.raises(UnknownNameError) as unknown:
        Client(served.settings.socket_path).trigger("nightly-vacum")
    with pytest.raises(ForbiddenError) as forbidden:
        Client(url, token=token).trigger("nightly-vacuum")
    with pytest.raises(UnauthorizedError):
        Client(url).trigger("nightly-vacuum")
    with pytest.raises(UsageError):
        Client(url).runs(limit=0)

    assert unknown.value.hint == 'did you mean "nightly-vacuum"?'
    assert forbidden.value.hint == "it needs operator, approver or admin"


def test_a_probe_that_is_not_ready_is_an_answer(served: Harness) -> None:
    served.health = served.health._replace(ready=False, problems=("the loop is late",))

    client = Client(served.settings.socket_path)

    assert client.readiness().ok is False
    assert client.readiness().problems == ("the loop is late",)
    assert client.is_ready() is False


def test_a_time_without_an_offset_is_refused(served: Harness) -> None:
    with pytest.raises(UsageError, match="has no UTC offset"):
        Client(served.settings.socket_path).trigger("by-hand", at=NOON.replace(tzinfo=None))


# --- streams ---


def test_changes_of_runs_are_followed_from_the_position_where_the_stream_begins(served: Harness) -> None:
    client = Client(served.settings.socket_path)
    events = client.follow_events(entry="by-hand")

    begin = next(events)
    client.trigger("by-hand")
    changed = next(events)

    assert isinstance(begin, StreamPosition)
    assert isinstance(changed, RunEvent)
    assert (changed.entry, changed.state, changed.id > begin.after) == ("by-hand", RunState.QUEUED, True)


class Interrupted(BaseHTTPRequestHandler):
    """A stream of a log whose connection ends after each line."""

    lines = ("0.1.1", "0.1.2")

    def do_GET(self) -> None:
        last = self.headers.get("Last-Event-ID")
        index = 0 if last is None else self.lines.index(last) + 1
        self.send_response(200)
        self.send_header("Maintd-Api", "1")
        self.end_headers()
        if index == len(self.lines):
            self.wfile.write(b'event: end\ndata: {"state": "succeeded"}\n\n')
            return
        line = {"step": "a", "attempt": 1, "seq": index, "at": "2026-03-02T12:00:00Z", "stream": "log", "text": "x"}
        self.wfile.write(f"event: line\nid: {self.lines[index]}\ndata: {json.dumps(line)}\n\n: cut o".encode())

    def log_message(self, *words: object) -> None:
        pass


def test_a_stream_that_breaks_continues_after_the_last_line() -> None:
    with serving(Interrupted) as url:
        lines = list(Client(url).follow(1))

    assert [line.seq for line in lines] == [0, 1]


def test_a_stream_that_is_refused_raises(served: Harness) -> None:
    with pytest.raises(UnknownNameError):
        next(Client(served.settings.socket_path).follow(999))


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"data: a\ndata: b\n\n", [("message", "a\nb", "")]),
        (b": comment\n\nevent: x\nid: 7\r\ndata:1\n\n", [("x", "1", "7")]),
        (b"id: 7\ndata: 1\n\ndata: 2\n\n", [("message", "1", "7"), ("message", "2", "7")]),
        (b"event: x\n\ndata: cut off\n", []),
        (b"id: a\0b\ndata: \xff\n\n", [("message", "\ufffd", "")]),
    ],
    ids=["lines", "comment", "id", "no-data", "bad-bytes"],
)
def test_events_are_read_as_in_the_standard(sent: bytes, expected: list[tuple[str, str, str]]) -> None:
    assert list(server_events(sent.splitlines(keepends=True))) == expected


# --- TLS ---


def test_a_certificate_of_an_own_authority_is_trusted_only_when_it_is_named(
    served: Harness, port: int, tmp_path: Path
) -> None:
    own = authority(tmp_path)
    token = create_token(served.store, "ci", Role.VIEWER, by="ada").token

    with tls_front(port, own) as front:
        url = f"https://127.0.0.1:{front}"
        named = Client(url, token=token, ca_file=own.ca_file).status()
        unverified = Client(url, token=token, verify=False).status()
        with pytest.raises(DaemonUnavailableError) as refused:
            Client(url, token=token, retries=0).status()

    assert named.node == unverified.node == "n1"
    assert "its certificate is not trusted" in refused.value.message
    assert refused.value.hint is not None
    assert "--ca-file FILE" in refused.value.hint


@pytest.mark.parametrize("end", ["expired", "revoked"])
def test_a_token_that_has_ended_is_refused_over_tls(served: Harness, port: int, tmp_path: Path, end: str) -> None:
    own = authority(tmp_path)
    token = create_token(served.store, "ci", Role.OPERATOR, by="ada").token

    with tls_front(port, own) as front:
        url = f"https://127.0.0.1:{front}"
        clients = [Client(url, token=token, ca_file=own.ca_file), Client(url, token=token, verify=False)]
        before = [client.trigger("by-hand").entry for client in clients]
        if end == "revoked":
            revoke_token(served.store, "ci", by="ada")
        else:
            served.clock.advance(timedelta(days=100))
        for client in clients:
            for call in (client.status, lambda: client.trigger("by-hand"), lambda: next(client.follow_events())):  # noqa: B023
                with pytest.raises(UnauthorizedError, match=f'token "ci" is {end}') as refused:
                    call()
                assert token not in str(refused.value)

    assert before == ["by-hand"] * 2


def test_a_certificate_for_another_name_is_refused(served: Harness, port: int, tmp_path: Path) -> None:
    other = authority(tmp_path, name="127.0.0.2")

    with tls_front(port, other) as front, pytest.raises(DaemonUnavailableError, match="certificate is not trusted"):
        Client(f"https://127.0.0.1:{front}", ca_file=other.ca_file, retries=0).status()


def test_a_server_without_tls_is_named(served: Harness, port: int) -> None:
    with pytest.raises(DaemonUnavailableError, match="no TLS connection"):
        Client(f"https://127.0.0.1:{port}", retries=0).status()


def test_a_file_without_certificates_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")

    with pytest.raises(UsageError, match="cannot read certificates"):
        Client("https://127.0.0.1", ca_file=tmp_path / "ca.pem")


# --- other servers, and none ---

MARK = {"Maintd-Api": "1"}
PAGE = b"<!doctype html><title>502 Bad Gateway</title><h1>nginx</h1>"


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply(PAGE, 502, "text/html"), "502 with text/html"),
        (Reply(PAGE, 200, "text/html; charset=utf-8"), "200 with text/html"),
        (Reply(b'{"status": "ok"}', 200), "200 with application/json"),
        (Reply(b'{"error": {"code": 404, "message": "x"}}', 404), "404 with"),
        (Reply(b"", 302, headers={"Location": "https://login.example/"}), "302, a redirect to https://login.example/"),
        (Reply(b"[" * 100_000, 200), "200 with application/json"),
    ],
    ids=["proxy-error", "page", "other-json", "other-error", "login", "nested"],
)
def test_an_answer_that_is_not_maintds_is_no_daemon(reply: Reply, text: str) -> None:
    with http_service({"/api/v1/status": reply}) as url, pytest.raises(DaemonUnavailableError) as found:
        Client(url, retries=0).status()

    assert f"no maintd answers on {url}" in found.value.message
    assert text in found.value.message


def test_a_refused_connection_and_an_unknown_name_are_no_daemon() -> None:
    for url, text in (("http://127.0.0.1:1", "connection refused"), ("http://nowhere.invalid", "is not found")):
        with pytest.raises(DaemonUnavailableError, match=text):
            Client(url, retries=0).status()


def test_a_server_that_hangs_ends_the_request_at_its_timeout() -> None:
    with port_that_hangs() as port, pytest.raises(DaemonUnavailableError, match="did not answer within"):
        Client(f"http://127.0.0.1:{port}", timeout=0.3, retries=0).status()


def test_an_answer_that_comes_byte_by_byte_ends_at_the_timeout() -> None:
    with serving(Dripping) as url, pytest.raises(DaemonUnavailableError, match="did not answer within"):
        Client(url, timeout=0.5, retries=0).status()


def test_an_answer_that_is_too_large_is_refused() -> None:
    with serving(WithoutLength) as url:
        with pytest.raises(MaintdError, match="is larger than 64 MB") as refused:
            Client(url, retries=0).status()
        port = int(url.rpartition(":")[2])
        still_open = [
            each for each in psutil.Process().net_connections("tcp4") if each.raddr and each.raddr.port == port
        ]

    # Not only once the error, and with it the answer, is collected.
    assert (refused.tb is not None, still_open) == (True, [])


@pytest.mark.parametrize("text", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"])
def test_an_answer_that_is_not_http_or_cut_off_is_no_daemon(text: bytes) -> None:
    with port_that_sends(text) as port, pytest.raises(DaemonUnavailableError):
        Client(f"http://127.0.0.1:{port}", retries=0).status()


@pytest.mark.parametrize("length", ["Content-Length: 99\r\n\r\nhell", "Transfer-Encoding: chunked\r\n\r\n63\r\nhell"])
def test_a_file_that_is_cut_off_is_not_returned(length: str) -> None:
    text = f"HTTP/1.1 200 OK\r\nMaintd-Api: 1\r\n{length}".encode()
    with port_that_sends(text) as port, pytest.raises(DaemonUnavailableError, match="is not complete"):
        Client(f"http://127.0.0.1:{port}", retries=0).artifact(1, "vacuum", 1, "card.txt")


def test_a_body_of_another_shape_names_the_field() -> None:
    reply = Reply(b'{"node": 3}', 200, headers=MARK)
    with http_service({"/api/v1/version": reply}) as url, pytest.raises(MaintdError, match="version: Field required"):
        Client(url).version()


def test_fields_of_a_newer_daemon_are_left_out() -> None:
    body = {"version": "9", "node": "n", "pid": 1, "started_at": None, "mood": "good"}
    reply = Reply(json.dumps(body).encode(), 200, headers=MARK)
    with http_service({"/api/v1/version": reply}) as url:
        assert Client(url).version().version == "9"


# --- repetition ---


class Failing:
    """Fails a number of times with 503 before it answers; counts the requests."""

    def __init__(self, failures: int, retry_after: str = "0") -> None:
        self.failures, self.requests, self.retry_after = failures, 0, retry_after

    def __call__(self) -> Reply:
        self.requests += 1
        if self.requests > self.failures:
            return Reply(b'{"unpaused": true}', 200, headers=MARK)
        error = {"error": {"code": "store_unavailable", "message": "the store is away", "hint": None}}
        return Reply(json.dumps(error).encode(), 503, headers={"Retry-After": self.retry_after})


def test_a_get_is_repeated_and_a_post_is_not() -> None:
    got, posted = Failing(2), Failing(2)
    with http_service({"/api/v1/status": got, "/api/v1/entries/a/unpause": posted}) as url:
        client = Client(url)

        assert client.get("/status") == {"unpaused": True}
        with pytest.raises(StoreUnavailableError, match="the store is away"):
            client.unpause("a")

    assert (got.requests, posted.requests) == (3, 1)


def test_a_trigger_is_repeated_only_with_an_idempotency_key() -> None:
    with_key, without = Failing(1), Failing(1)
    with http_service({"/api/v1/runs": with_key}) as url:
        Client(url).post("/runs", {"name": "a", "idempotency_key": "k"})
    with http_service({"/api/v1/runs": without}) as url, pytest.raises(StoreUnavailableError):
        Client(url).post("/runs", {"name": "a"})

    assert (with_key.requests, without.requests) == (2, 1)


def test_retry_after_is_waited_for() -> None:
    service = Failing(1, retry_after="1")
    with http_service({"/api/v1/status": service}) as url:
        begun = time.monotonic()
        Client(url).get("/status")

    assert time.monotonic() - begun >= 1


def test_proxies_of_the_environment_are_not_used(served: Harness, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    assert Client(f"http://127.0.0.1:{port}", retries=0).status().node == "n1"


# --- addresses ---


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://maintd.example", "https://maintd.example"),
        ("https://maintd.example:443/", "https://maintd.example"),
        ("http://[::1]:8420", "http://[::1]:8420"),
        ("https://ops.example/maintd/", "https://ops.example/maintd"),
        ("http://127.0.0.1:8420/api/v1", "http://127.0.0.1:8420"),
        ("/run/maintd.sock", "/run/maintd.sock"),
    ],
)
def test_addresses_are_read(text: str, shown: str) -> None:
    assert str(parse_address(text)) == shown


@pytest.mark.parametrize(
    "text",
    ["", "maintd.example", "ftp://x", "https://", "http://x:99999", "http://a:secret@x", "http://x?token=secret"],
)
def test_what_is_no_address_is_refused_without_its_secrets(text: str) -> None:
    with pytest.raises(UsageError) as found:
        parse_address(text)

    assert "secret" not in str(found.value)
