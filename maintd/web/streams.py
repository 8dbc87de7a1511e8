"""Server-sent events: the followers of one stream share its reads of the store.

A follower is a coroutine, not a thread. As long as it keeps up, it takes events from the part of the stream that its
feed has in memory, already encoded; one that is behind reads pages from the store, at its own speed. Nothing else is
buffered: a follower takes the next page when its client has read the last one. A client that reads nothing for
WRITE_SECONDS loses its connection (`maintd.web.connection_limits`) and resumes with `Last-Event-ID`.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import Request
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from maintd.errors import DaemonUnavailableError, StoreError
from maintd.model.access import Caller
from maintd.web.errors import TooManyFollowersError

log = structlog.get_logger()

STREAMS = "streams"
"""The key of the listener's streams in the state of an ASGI scope."""

MAX_FOLLOWERS = 64
"""Of one listener: the rest of its connections is for other requests."""

MAX_PER_PEER = 16
"""Followers from one address, or of one process at the control socket."""

PAGE = 200
"""Events in one read of the store."""

KEPT_EVENTS = 1000
KEPT_BYTES = 256 * 1024
"""What a feed keeps in memory for its followers; one that is further behind reads from the store."""

CHUNK_BYTES = 64 * 1024
"""What is written to a client at once."""

POLL_SECONDS = 0.25
"""Between reads of a stream that has followers."""

HEARTBEAT_SECONDS = 15.0
"""Without an event, a comment is sent after this time, so that proxies and clients notice a connection that broke."""

TOKEN_SECONDS = 5.0
"""Between looks whether the followers' tokens are still valid."""

PROXY_SECONDS = 60.0
"""After this time a stream of a user that a proxy named ends. The client resumes with a new request, for which the
proxy names the groups that the user has then."""

READERS = 2
"""Threads of a listener that read for its streams; other requests have their own."""

Cursor = tuple[int, ...]
"""A place in a stream; the empty one is its start."""


class Event(NamedTuple):
    """An event of a stream, encoded once for all followers, and the entry that it is about."""

    cursor: Cursor
    entry: str
    encoded: bytes


class Page(NamedTuple):
    """The events after a cursor. `end` is the last event of the stream when nothing will follow these."""

    events: list[Event]
    end: bytes | None = None


Read = Callable[[Cursor], Page]
"""Reads at most PAGE events after a cursor from the store, in a thread."""


def encode(kind: str, data: BaseModel, cursor: str | None = None) -> bytes:
    """An event as it is sent; its id is the cursor from which a client resumes."""
    return format_sse_event(event=kind, data_str=data.model_dump_json(), id=cursor)


class Follower:
    """One client of a stream. `closed` ends it, at the latest after `longest` seconds, if that is not None."""

    def __init__(self, peer: str, token_id: int, longest: float | None) -> None:
        self.peer = peer
        self.token_id = token_id
        self.longest = longest
        self.closed = False
        self.end: asyncio.TimerHandle | None = None


class Streams:
    """The streams of one listener. For one event loop; not thread-safe."""

    def __init__(self, valid_tokens: Callable[[set[int]], set[int]], *, followers: int = MAX_FOLLOWERS) -> None:
        self._valid_tokens = valid_tokens
        self._most = followers
        self._followers: set[Follower] = set()
        self._feeds: dict[Hashable, _Feed] = {}
        self._closing = False
        self._readers = CapacityLimiter(READERS)
        self._token_checks: asyncio.Task[None] | None = None

    def follow(
        self,
        key: Hashable,
        read: Read,
        after: Cursor,
        caller: Caller,
        *,
        entry: str | None = None,
        opening: bytes = b"",
    ) -> EventStream:
        """The response for a follower of the stream `key`, from the event after the cursor.

        It gets the events of the caller's entries, or of one entry. Sending the response raises TooManyFollowersError
        when as many streams are followed as may be.
        """
        peer = caller.origin.removeprefix("token from ")
        follower = Follower(peer, caller.token_id, PROXY_SECONDS if caller.by_proxy else None)

        def shown(event: Event) -> bool:
            return caller.covers(event.entry) and entry in (None, event.entry)

        content = self._content(follower, key, read, after, shown, opening)
        return _FollowerResponse(self, follower, content)

    def close(self) -> None:
        """End all streams, at their followers' next step; a client then resumes elsewhere, or when maintd is back."""
        self._closing = True
        self._end(self._followers)

    def add(self, follower: Follower) -> None:
        """Count a follower. Raises TooManyFollowersError when there is no room for it."""
        self._require_room(follower.peer)  # no other request comes between this and the next line
        self._followers.add(follower)
        follower.closed = self._closing
        if follower.longest is not None:
            follower.end = asyncio.get_running_loop().call_later(follower.longest, self._end, {follower})
        if follower.token_id and (self._token_checks is None or self._token_checks.done()):
            self._token_checks = asyncio.ensure_future(self._check_tokens())

    def remove(self, follower: Follower) -> None:
        """Count it no longer."""
        self._followers.discard(follower)
        if follower.end is not None:
            follower.end.cancel()

    def _require_room(self, peer: str) -> None:
        if len(self._followers) >= self._most:
            raise TooManyFollowersError(f"{len(self._followers)} streams are followed already, the most at a time")
        if Counter(follower.peer for follower in self._followers)[peer] >= MAX_PER_PEER:
            raise TooManyFollowersError(f"{MAX_PER_PEER} streams are followed from {peer} already, the most at a time")

    async def _content(
        self,
        follower: Follower,
        key: Hashable,
        read: Read,
        after: Cursor,
        shown: Callable[[Event], bool],
        opening: bytes,
    ) -> AsyncIterator[bytes]:
        yield opening or KEEPALIVE_COMMENT
        position, feed, changed = after, None, asyncio.Event()
        try:
            while not follower.closed:
                events = None
                if feed is not None:
                    changed = feed.changed
                    events = feed.after(position)
                if feed is None or events is None:  # behind what is in memory
                    page = await self._read(read, position)
                    if page is None:  # the store does not answer
                        await asyncio.sleep(POLL_SECONDS)
                        yield KEEPALIVE_COMMENT
                        continue
                    events = page.events
                    position = events[-1].cursor if events else position
                    for chunk in _chunks(events, shown):
                        yield chunk
                    if page.end is not None:
                        yield page.end
                        return
                    if feed is None and len(events) < PAGE:
                        feed = self._join(key, read, position)
                    elif not events:
                        await asyncio.sleep(POLL_SECONDS)
                elif events:
                    position = events[-1].cursor
                    for chunk in _chunks(events, shown):
                        yield chunk
                elif feed.end_event is not None:
                    yield feed.end_event
                    return
                else:
                    feed.wanted.set()
                    try:
                        await asyncio.wait_for(changed.wait(), HEARTBEAT_SECONDS)
                    except TimeoutError:
                        yield KEEPALIVE_COMMENT
        finally:
            if feed is not None:
                self._leave(key, feed)

    def _join(self, key: Hashable, read: Read, position: Cursor) -> _Feed:
        """The feed for a follower that has all events up to a position."""
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = _Feed(position)
            feed.reading = asyncio.ensure_future(self._fill(feed, read))
        elif feed.end < position:
            feed.skip_to(position)
        feed.followers += 1
        return feed

    def _leave(self, key: Hashable, feed: _Feed) -> None:
        feed.followers -= 1
        if feed.followers == 0:
            del self._feeds[key]
            if feed.reading is not None:
                feed.reading.cancel()

    async def _fill(self, feed: _Feed, read: Read) -> None:
        """Read a feed's events from the store while followers wait for more."""
        while True:
            await feed.wanted.wait()
            after = feed.end
            page = await self._read(read, after)
            if feed.end != after:  # it skipped during the read
                continue
            if page is not None and (page.events or page.end is not None):
                feed.wanted.clear()
                feed.add(page)
            if feed.end_event is not None:
                return
            if page is None or len(page.events) < PAGE:
                await asyncio.sleep(POLL_SECONDS)

    async def _read(self, read: Read, after: Cursor) -> Page | None:
        """A page; None when the store does not answer: the followers wait for it."""
        try:
            return await to_thread.run_sync(read, after, limiter=self._readers)
        except StoreError as error:
            log.debug("stream_not_read", error=error.message)
            return None

    async def _check_tokens(self) -> None:
        """End the streams of tokens that expired or were revoked, while a follower has a token."""
        while tokens := {follower.token_id for follower in self._followers} - {0}:
            await asyncio.sleep(TOKEN_SECONDS)
            with suppress(StoreError):  # without the store there is nothing to follow either
                ended = tokens - await to_thread.run_sync(self._valid_tokens, tokens, limiter=self._readers)
                self._end({follower for follower in self._followers if follower.token_id in ended})

    def _end(self, followers: set[Follower]) -> None:
        for follower in followers:
            follower.closed = True
        if followers:
            for feed in self._feeds.values():
                feed.wake()


class _Feed:
    """The part of a stream that is in memory: the events after `start`, up to `end`."""

    def __init__(self, start: Cursor) -> None:
        self.start = self.end = start
        self.end_event: bytes | None = None
        self.changed = asyncio.Event()  # replaced at each change
        self.wanted = asyncio.Event()  # a follower waits for more
        self.followers = 0
        self.reading: asyncio.Task[None] | None = None
        self._events: list[Event] = []
        self._bytes = 0

    def after(self, cursor: Cursor) -> list[Event] | None:
        """The events after a cursor; None when some of them may not be in memory."""
        if cursor < self.start:
            return None
        return self._events[bisect_right(self._events, cursor, key=_cursor) :]

    def add(self, page: Page) -> None:
        """Append a page, forget the oldest events beyond KEPT_EVENTS and KEPT_BYTES, and wake the followers."""
        self._events += page.events
        self._bytes += sum(len(event.encoded) for event in page.events)
        excess = 0
        older = len(self._events) - len(page.events)  # all are waiting for the page, whatever its size
        while excess < older and (len(self._events) - excess > KEPT_EVENTS or self._bytes > KEPT_BYTES):
            self._bytes -= len(self._events[excess].encoded)
            excess += 1
        if excess:
            self.start = self._events[excess - 1].cursor
            del self._events[:excess]
        self.end = page.events[-1].cursor if page.events else self.end
        self.end_event = page.end
        self.wake()

    def skip_to(self, position: Cursor) -> None:
        """Continue at a later position; followers that are behind read from the store."""
        self.start = self.end = position
        self._events.clear()
        self._bytes = 0
        self.wake()

    def wake(self) -> None:
        """Let the followers look again."""
        self.changed.set()
        self.changed = asyncio.Event()


class EventStream(StreamingResponse):
    """Encoded events. FastAPI's EventSourceResponse is for generators whose events it encodes for each client."""

    media_type = "text/event-stream"


class _FollowerResponse(EventStream):
    """A stream's response, which counts as a follower until it ends."""

    def __init__(self, streams: Streams, follower: Follower, content: AsyncIterator[bytes]) -> None:
        # nginx would collect events before it passes them on.
        super().__init__(content, headers={"X-Accel-Buffering": "no"})
        self._streams = streams
        self._follower = follower
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._streams.add(self._follower)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.remove(self._follower)
            await self._content.aclose()  # type: ignore[attr-defined]  # leaves the feed now, not when it is collected


def streams_of(request: Request) -> Streams:
    """The streams of the request's listener. Raises DaemonUnavailableError for a request that came through none."""
    found: Any = getattr(request.state, STREAMS, None)
    if not isinstance(found, Streams):
        raise DaemonUnavailableError("only a running daemon can be followed", "start it with: maintd serve")
    return found


def _cursor(event: Event) -> Cursor:
    return event.cursor


def _chunks(events: list[Event], shown: Callable[[Event], bool]) -> Iterator[bytes]:
    """What to send for these events, in parts of about CHUNK_BYTES."""
    chunk = bytearray()
    for event in events:
        if shown(event):
            chunk += event.encoded
            if len(chunk) >= CHUNK_BYTES:
                yield bytes(chunk)
                chunk.clear()
    if chunk:
        yield bytes(chunk)
