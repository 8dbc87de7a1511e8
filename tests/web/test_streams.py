"""Server-sent events: the log of a run as it is written, and the events of runs."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from fastapi.sse import KEEPALIVE_COMMENT
from support.servers.base import wait_for
from support.web_services import Client, Harness, at, line, on_port, run_with, running_run

from maintd.model.access import Caller, Role
from maintd.model.run import RunState
from maintd.model.run_updates import AttemptReported, RunFinished
from maintd.operations.tokens import create_token, revoke_token
from maintd.web import streams as streams_module
from maintd.web.errors import TooManyFollowersError
from maintd.web.server import web_server
from maintd.web.streams import (
    KEPT_BYTES,
    KEPT_EVENTS,
    MAX_FOLLOWERS,
    MAX_PER_PEER,
    PAGE,
    Page,
    Streams,
)


class Event(NamedTuple):
    kind: str
    data: Any
    id: str


class Stream:
    """A followed stream; its events are read one by one."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {key.lower(): value for key, value in response.getheaders()}
        self._response = response

    def next(self) -> Event | None:
        """The next event, without comments; None at the end of the stream."""
        fields: dict[str, str] = {}
        while raw := self._response.readline():
            text = raw.decode().rstrip("\n")
            if text and not text.startswith(":"):
                key, _, value = text.partition(": ")
                fields[key] = value
            elif not text and fields:
                return Event(fields.get("event", ""), json.loads(fields["data"]), fields.get("id", ""))
        return None

    def rest(self) -> list[Event]:
        return list(iter(self.next, None))


@contextmanager
def following(port: int, path: str, source: str = "127.0.0.1", **headers: str) -> Iterator[Stream]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30, source_address=(source, 0))
    try:
        connection.request("GET", path, headers={key.replace("_", "-"): value for key, value in headers.items()})
        yield Stream(connection.getresponse())
    finally:
        connection.close()


def add_lines(served: Harness, run: tuple[int, int], number: int, texts: list[str], first: int) -> None:
    items = tuple(line(first + index, text) for index, text in enumerate(texts))
    assert served.store.runs.apply(*run, number, [AttemptReported(step=0, attempt=1, items=items)])


def finish(served: Harness, run: tuple[int, int], number: int) -> None:
    assert served.store.runs.apply(*run, number, [RunFinished(state=RunState.SUCCEEDED, at=at(3))])


# --- logs ---


def test_a_log_is_followed_line_by_line_until_the_run_has_ended(served: Harness, port: int) -> None:
    run = running_run(served.store, "probe", 0, line(1, "one"))

    with following(port, f"/api/v1/runs/{run[0]}/log/stream") as stream:
        first = stream.next()
        add_lines(served, run, 4, ["two", "three: ü\u2028x"], 2)
        more = [stream.next(), stream.next()]
        finish(served, run, 5)
        end = stream.rest()

    assert stream.headers["content-type"].startswith("text/event-stream")
    assert first is not None
    assert (first.kind, first.data["text"], first.id) == ("line", "one", "0.1.1")
    assert [(event.data["text"], event.id) for event in more if event] == [
        ("two", "0.1.2"),
        ("three: ü\u2028x", "0.1.3"),
    ]
    assert end == [Event("end", {"state": "succeeded"}, "")]


def test_a_log_resumes_after_the_last_line_that_a_client_saw(served: Harness, port: int) -> None:
    run_id = run_with(served.store, "probe", 0, items=tuple(line(seq, f"line {seq}") for seq in range(1, 6)))

    with following(port, f"/api/v1/runs/{run_id}/log/stream", Last_Event_ID="0.1.3") as stream:
        resumed = stream.rest()
    with following(port, f"/api/v1/runs/{run_id}/log/stream?after=7.1.5") as stream:
        nothing_left = stream.rest()

    assert [event.id for event in resumed] == ["0.1.4", "0.1.5", ""]
    assert [event.kind for event in nothing_left] == ["end"]


def test_a_long_log_arrives_whole_although_it_is_not_kept_in_memory(served: Harness, port: int) -> None:
    count = 3 * KEPT_EVENTS
    text = "x" * (2 * KEPT_BYTES // count)
    run = running_run(served.store, "probe", 0)
    for number, first in enumerate(range(1, count, 500)):
        add_lines(served, run, 4 + number, [text] * 500, first)
    finish(served, run, 4 + count // 500)

    with following(port, f"/api/v1/runs/{run[0]}/log/stream") as stream:
        events = stream.rest()

    assert [event.id for event in events[:-1]] == [f"0.1.{seq}" for seq in range(1, count + 1)]


def test_followers_of_one_log_share_the_reads_of_the_store(
    served: Harness, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = running_run(served.store, "probe", 0, line(1, "one"))
    history, reads = type(served.store.history), []
    read_log = history.log

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        reads.append(kwargs)
        return read_log(self, *args, **kwargs)

    with ExitStack() as stack:
        path = f"/api/v1/runs/{run[0]}/log/stream"
        followed = [stack.enter_context(following(port, path)) for _ in range(MAX_PER_PEER)]
        assert all(stream.next() is not None for stream in followed)
        monkeypatch.setattr(history, "log", counted)
        threads = threading.active_count()
        add_lines(served, run, 4, ["two"], 2)
        seen = [stream.next() for stream in followed]
        finish(served, run, 5)
        ends = [stream.rest() for stream in followed]

    assert all(event is not None and event.data["text"] == "two" for event in seen)
    assert all([event.kind for event in end] == ["end"] for end in ends)
    assert len(reads) < 2 * MAX_PER_PEER
    assert threads < MAX_PER_PEER + 8


def test_a_log_of_no_run_and_a_cursor_of_no_log_are_refused(served: Harness, page: Client) -> None:
    run_id = run_with(served.store, "probe", 0)

    assert page.get("/api/v1/runs/4711/log/stream").status == 404
    bad = page.get(f"/api/v1/runs/{run_id}/log/stream", Last_Event_ID="x")
    assert (bad.status, bad.json["error"]["code"]) == (400, "usage")


# --- events ---


def test_the_events_of_runs_are_followed_from_now_on(served: Harness, port: int) -> None:
    run_with(served.store, "probe", 0)

    with following(port, "/api/v1/events/stream") as stream:
        start = stream.next()
        run = running_run(served.store, "nightly-vacuum", 1)
        finish(served, run, 4)
        events = [stream.next() for _ in range(3)]

    assert start is not None
    assert (start.kind, start.data["after"], start.id) == ("start", int(start.id), start.id)
    assert [event.data["state"] for event in events if event] == ["queued", "running", "succeeded"]
    assert {event.data["run_id"] for event in events if event} == {run[0]}
    assert {event.data["entry"] for event in events if event} == {"nightly-vacuum"}


def test_events_resume_after_a_restart_of_the_daemon(unserved: Harness, port: int) -> None:
    unserved.settings = unserved.settings.model_copy(update={"listen": f"127.0.0.1:{port}"})
    with web_server(unserved.service()), following(port, "/api/v1/events/stream") as stream:
        assert stream.next() is not None
        run_with(unserved.store, "probe", 0)
        seen = stream.next()
    assert seen is not None
    run_with(unserved.store, "probe", 5)

    with (
        web_server(unserved.service()),
        following(port, "/api/v1/events/stream", Last_Event_ID=seen.id) as stream,
    ):
        resumed = [stream.next() for _ in range(5)]

    assert [int(event.id) for event in resumed if event] == list(range(int(seen.id) + 1, int(seen.id) + 6))
    assert {event.kind for event in resumed if event} == {"run"}


@pytest.mark.parametrize("seen", ["1", "987654321"])
def test_a_client_gets_a_reset_when_what_it_missed_is_deleted(served: Harness, port: int, seen: str) -> None:
    run_with(served.store, "probe", 0)
    served.store.run_events.review(lambda conn, events: None)
    served.store.maintenance.prune(served.settings.retention, at(0) + timedelta(days=30))
    run_with(served.store, "probe", 1)

    with following(port, "/api/v1/events/stream", Last_Event_ID=seen) as stream:
        reset = stream.next()
        run_with(served.store, "probe", 2)
        next_event = stream.next()

    newest = served.store.run_events.bounds()[1] - 3
    assert reset is not None
    assert (reset.kind, reset.id, reset.data["after"]) == ("reset", str(newest), newest)
    assert next_event is not None
    assert next_event.id == str(newest + 1)


def test_events_can_be_limited_to_one_entry(served: Harness, port: int, page: Client) -> None:
    with following(port, "/api/v1/events/stream?entry=probe") as stream:
        stream.next()
        run_with(served.store, "nightly-vacuum", 0)
        run_with(served.store, "probe", 1)
        event = stream.next()

    assert event is not None
    assert event.data["entry"] == "probe"
    assert page.get("/api/v1/events/stream?entry=prob").status == 404


def test_a_token_for_some_entries_follows_only_them(served: Harness, port: int) -> None:
    own = create_token(served.store, "ci", Role.VIEWER, entries=("pro*",), by="ada").token
    run_id = run_with(served.store, "nightly-vacuum", 0)
    headers = {"Authorization": f"Bearer {own}"}

    with following(port, "/api/v1/events/stream", **headers) as stream:
        stream.next()
        run_with(served.store, "nightly-vacuum", 1)
        run_with(served.store, "probe", 2)
        event = stream.next()

    assert event is not None
    assert event.data["entry"] == "probe"
    for path in ("/api/v1/events/stream?entry=nightly-vacuum", f"/api/v1/runs/{run_id}/log/stream"):
        assert on_port(port).get(path, **headers).status == 403


# --- bounds ---


def test_a_quiet_stream_sends_comments(served: Harness, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "HEARTBEAT_SECONDS", 0.05)

    with following(port, "/api/v1/events/stream") as stream:
        stream.next()
        lines = [stream._response.readline() for _ in range(4)]

    assert b"".join(lines) == KEEPALIVE_COMMENT * 2


def test_a_peer_and_a_listener_have_a_bounded_number_of_followers(served: Harness, port: int, page: Client) -> None:
    with ExitStack() as stack:
        for number in range(MAX_FOLLOWERS):
            source = f"127.0.0.{1 + number // MAX_PER_PEER}"
            assert stack.enter_context(following(port, "/api/v1/events/stream", source)).status == 200
        of_peer = page.get("/api/v1/events/stream")
        with following(port, "/api/v1/events/stream", "127.0.0.200") as stream:
            of_listener = stream.status
        others = page.get("/api/v1/status").status

    assert (of_peer.status, of_peer.json["error"]["code"], of_peer.headers["retry-after"]) == (429, "refused", "5")
    assert (of_listener, others) == (429, 200)
    wait_for(lambda: page.ask("HEAD", "/api/v1/events/stream", None).status == 200, "the followers are gone")


@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_a_stream_ends_with_its_token(served: Harness, port: int, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setattr(streams_module, "TOKEN_SECONDS", 0.05)
    own = create_token(served.store, "ci", Role.VIEWER, by="ada").token

    with (
        following(port, "/api/v1/events/stream", Authorization=f"Bearer {own}") as stream,
        following(port, "/api/v1/events/stream") as other,
    ):
        stream.next()
        other.next()
        if end == "revoked":
            revoke_token(served.store, "ci", by="ada")
        else:
            served.clock.advance(timedelta(days=100))
        assert stream.next() is None
        run_with(served.store, "probe", 0)
        assert other.next() is not None


PROXY = {"trusted_proxies": ("127.0.0.0/8",), "proxy_roles": {"ops": Role.OPERATOR, "staff": Role.VIEWER}}


def test_a_stream_ends_when_the_user_of_a_proxy_may_have_lost_the_group(
    unserved: Harness, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module, "PROXY_SECONDS", 0.5)
    unserved.settings = unserved.settings.model_copy(update={"listen": f"127.0.0.1:{port}", **PROXY})
    run = running_run(unserved.store, "probe", 0, line(1, "one"))
    paths = ("/api/v1/events/stream", f"/api/v1/runs/{run[0]}/log/stream")
    own = create_token(unserved.store, "ci", Role.VIEWER, by="ada").token
    in_group = {"X-Forwarded-User": "ada", "X-Forwarded-Groups": "staff"}
    without = {"X-Forwarded-User": "ada", "X-Forwarded-Groups": "guests"}

    with (
        web_server(unserved.service()),
        following(port, paths[0], Authorization=f"Bearer {own}") as with_token,
    ):
        begin = with_token.next()
        last_ids = []
        for path in paths:
            with following(port, path, **in_group) as stream:
                events = stream.rest()  # the connection ends without an event `end`
            assert [event.kind for event in events] == ["start" if "events" in path else "line"]
            last_ids.append(events[-1].id)
            assert on_port(port).get(path, **without).status == 403
        add_lines(unserved, run, 4, ["two"], 2)
        finish(unserved, run, 5)
        resumed = []
        for path, last_id in zip(paths, last_ids, strict=True):
            with following(port, path, Last_Event_ID=last_id, **in_group) as stream:
                resumed.append(stream.rest())
        still_followed = with_token.next()

    assert begin is not None
    assert [(event.kind, event.data["state"]) for event in resumed[0]] == [("run", "succeeded")]
    assert [event.kind for event in resumed[1]] == ["line", "end"]
    assert still_followed is not None  # a token is looked up again instead


def test_as_many_requests_at_once_do_not_exceed_the_number_of_followers(served: Harness, port: int) -> None:
    asked = 3 * MAX_PER_PEER
    begin, counted = threading.Barrier(asked), threading.Barrier(asked)
    found: list[int] = []

    def follow() -> None:
        begin.wait(60)
        with following(port, "/api/v1/events/stream") as stream:
            found.append(stream.status)
            counted.wait(60)

    threads = [threading.Thread(target=follow) for _ in range(asked)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (found.count(200), found.count(429)) == (MAX_PER_PEER, 2 * MAX_PER_PEER)


def test_a_follower_is_counted_when_its_stream_begins_not_when_it_is_prepared() -> None:
    """Two requests may both be prepared while there is room for one."""
    streams = Streams(lambda ids: ids, followers=1)

    async def both() -> None:
        scope = {"type": "http", "asgi": {"spec_version": "2.4"}}
        begun = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: MutableMapping[str, Any]) -> None:
            begun.set()

        first, second = (
            streams.follow("events", lambda after: Page([]), (), Caller(origin=origin)) for origin in ("a", "b")
        )
        following = asyncio.ensure_future(first(scope, receive, send))
        await asyncio.wait_for(begun.wait(), 30)
        with pytest.raises(TooManyFollowersError):
            await second(scope, receive, send)
        streams.close()
        await asyncio.wait_for(following, 30)

    asyncio.run(both())


def test_the_server_stops_without_waiting_for_open_streams(unserved: Harness, port: int) -> None:
    unserved.settings = unserved.settings.model_copy(update={"listen": f"127.0.0.1:{port}"})
    run = running_run(unserved.store, "probe", 0, line(1, "one"))
    with ExitStack() as stack:
        with web_server(unserved.service()):
            paths = ("/api/v1/events/stream", f"/api/v1/runs/{run[0]}/log/stream")
            opened = [stack.enter_context(following(port, path)) for path in paths]
            assert all(stream.next() is not None for stream in opened)
            started = time.monotonic()
        duration = time.monotonic() - started

        assert [stream.rest() for stream in opened] == [[], []]
    assert duration < 20  # the streams would never end
    assert not {thread.name for thread in threading.enumerate() if thread.name.startswith("web")}


def test_a_reader_that_does_not_read_holds_a_bounded_part_of_a_log_in_memory(
    served: Harness, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = running_run(served.store, "probe", 0)
    count = 60 * PAGE
    for number, first in enumerate(range(1, count, 500)):
        add_lines(served, run, 4 + number, ["x" * 4000] * 500, first)
    history, reads = type(served.store.history), []
    read_log = history.log

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        reads.append(kwargs["after"] or (0, 1, 0))
        return read_log(self, *args, **kwargs)

    monkeypatch.setattr(history, "log", counted)
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(("127.0.0.1", port))
    slow.sendall(f"GET /api/v1/runs/{run[0]}/log/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    wait_for(lambda: bool(reads), "the log is read")
    settled(lambda: len(reads))

    with following(port, f"/api/v1/runs/{run[0]}/log/stream?after=0.1.{count - 1}") as stream:
        other = stream.next()

    slow.close()
    # 48 MB of lines; what is read is a few pages of 0.8 MB, as much as the sockets take.
    assert max(place for place in reads if place < (0, 1, count - 1)) < (0, 1, count // 2)
    assert other is not None
    assert other.id == f"0.1.{count}"


def settled(value: Callable[[], int]) -> None:
    """Wait until a value no longer changes."""
    seen: list[int] = []

    def same() -> bool:
        seen.append(value())
        time.sleep(0.2)
        return len(seen) > 5 and len(set(seen[-5:])) == 1

    wait_for(same, "the reads stop")


def test_head_of_a_stream_ends_at_once(served: Harness, page: Client) -> None:
    run = running_run(served.store, "probe", 0)

    for path in ("/api/v1/events/stream", f"/api/v1/runs/{run[0]}/log/stream"):
        answer = page.ask("HEAD", path, None)
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["content-type"].startswith("text/event-stream")
