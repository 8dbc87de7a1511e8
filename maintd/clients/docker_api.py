"""The Docker SDK's client with limits: the time and the size of each answer, no redirects, and no JSON beyond limits.

The SDK reads any answer to its end, however long it is or takes, and follows redirects to any host.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import requests
import urllib3
from docker import APIClient
from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnection, UnixHTTPConnectionPool
from docker.utils import convert_filters, version_lt
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from maintd.clients.bounded import JsonLimits, inflate, parse_json
from maintd.clients.deadline import Deadline
from maintd.errors import TargetError
from maintd.tls import verifying_context
from maintd.units import format_size

ANSWER_LIMIT = 64 << 20  # bytes; an engine with 10,000 images lists them in about 10 MiB
_LINE_LIMIT = 1 << 20
_LIMITS = JsonLimits(size_bytes=ANSWER_LIMIT)
_STEP = 64 << 10

Watch = Callable[[socket.socket | None], None]


class BoundedClient(APIClient):
    """The SDK's client for one engine. What exceeds a limit raises TargetError."""

    def __init__(
        self, url: str, version: str, timeout: timedelta, *, ca_file: Path | None = None, verify: bool = True
    ) -> None:
        seconds: Any = timeout.total_seconds()  # the SDK's types demand whole seconds, requests does not
        super().__init__(base_url=url, version=version, timeout=seconds, tls=ca_file is not None)
        self._of_thread = threading.local()  # its `deadline`: several threads use one client
        self._until: float | None = None
        self.trust_env = False  # an engine is never behind a proxy of the environment
        self.headers["Accept-Encoding"] = "identity"
        self.verify = str(ca_file) if verify and ca_file is not None else verify
        if not verify:  # it was asked for, so there is nothing to warn about with each request
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        if url.startswith("unix://"):
            path = f"/{url.removeprefix('unix://').lstrip('/')}"
            self.mount("http+docker://", _UnixAdapter(f"http+unix://{path}", seconds, self._watch))
        else:
            tls = verify and self.base_url.startswith("https:")
            context = verifying_context(ca_file) if tls else None
            for scheme in ("http://", "https://"):
                self.mount(scheme, _TcpAdapter(self._watch, context))

    @contextmanager
    def each_within(self, timeout: timedelta) -> Iterator[None]:
        """Allow each answer within the block this much time: for requests that make the engine work."""
        before, self.timeout = self.timeout, timeout.total_seconds()  # type: ignore[assignment] # see __init__
        try:
            yield
        finally:
            self.timeout = before

    @contextmanager
    def all_within(self, timeout: timedelta) -> Iterator[None]:
        """Allow all answers within the block together this much time."""
        before, self._until = self._until, time.monotonic() + timeout.total_seconds()
        try:
            yield
        finally:
            self._until = before

    @contextmanager
    def stream_within(self, timeout: timedelta) -> Iterator[None]:
        """Allow the stream that is read within the block this much time in total. Raises TargetError when it is over.

        Without it, a stream has a time-out for each read only.
        """
        with Deadline(timeout.total_seconds()) as deadline:
            self._of_thread.stream_deadline = deadline
            try:
                yield
            except (requests.RequestException, TargetError, OSError) as error:
                if deadline.over:
                    raise _late() from error
                raise
            finally:
                self._of_thread.stream_deadline = None
            if deadline.over:  # a stream without a length seems to be complete when its connection ends
                raise _late()

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request and read the answer within the limits; of a stream only its headers. Raises TargetError."""
        streamed = bool(options.get("stream"))
        seconds = float(self.timeout)
        if self._until is not None:
            seconds = min(seconds, self._until - time.monotonic())
            if seconds <= 0:
                raise _late()
        options |= {"stream": True, "allow_redirects": False, "timeout": seconds}
        with Deadline(seconds) as deadline:
            self._of_thread.deadline = deadline
            try:
                response = super().send(request, **options)
                _refuse_redirect(response)
                if not streamed:
                    response._content = b"".join(_pieces(response))  # noqa: SLF001 - what requests itself sets
            except (requests.RequestException, TargetError, OSError) as error:
                if deadline.over:
                    raise _late() from error
                raise
            if deadline.over:  # an answer without a length seems to be complete when its connection ends
                response.close()
                raise _late()
        return response

    def _watch(self, connection: socket.socket | None) -> None:
        for name in ("deadline", "stream_deadline"):
            deadline: Deadline | None = getattr(self._of_thread, name, None)
            if deadline is not None:
                deadline.watch(connection)

    def _result(self, response: requests.Response, json: bool = False, binary: bool = False) -> Any:
        if not json:
            return super()._result(response, binary=binary)  # type: ignore[misc] # the stubs lack it
        self._raise_for_status(response)  # type: ignore[attr-defined] # the stubs lack it
        return parse_json(response.content, "the engine's answer", _LIMITS)

    def _stream_helper(self, response: requests.Response, decode: bool = False) -> Iterator[Any]:
        rest = b""
        for piece in _pieces(response):
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > _LINE_LIMIT:
                raise TargetError(f"has a line of more than {format_size(_LINE_LIMIT)}", cause="too_large")
            for line in lines:
                if line.strip():
                    yield parse_json(line, "a line of the engine's answer") if decode else line
        if rest.strip():
            yield parse_json(rest, "a line of the engine's answer") if decode else rest

    def df(self) -> Any:
        """The engine's disk usage, as it answers; from API 1.52 on its objects have to be asked for."""
        params = {} if version_lt(self.api_version, "1.52") else {"verbose": "1"}
        return self._result(self._get(self._url("/system/df"), params=params), True)  # type: ignore[attr-defined] # the stubs lack it

    def prune_builds(self, filters: Any = None, keep_storage: Any = None, all: Any = None) -> Any:  # noqa: A002 - the SDK's name
        """Remove build cache; what the engine is to keep has another name from API 1.48 on."""
        if version_lt(self.api_version, "1.48") or keep_storage is None:
            return super().prune_builds(filters=filters, keep_storage=keep_storage, all=all)
        params = {"filters": str(convert_filters(filters or {})), "reserved-space": str(keep_storage)}
        params |= {"all": "1"} if all else {}
        return self._result(self._post(self._url("/build/prune"), params=params), True)  # type: ignore[attr-defined] # the stubs lack it


def _refuse_redirect(response: requests.Response) -> None:
    # 304: what is to be started runs, or what is to be stopped does not.
    if 300 <= response.status_code < 400 and response.status_code != requests.codes.not_modified:
        response.close()
        raise TargetError("redirects elsewhere", "check for a login page or a proxy in front of it", cause="malformed")


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """The body, decoded, within the limit."""
    total = 0
    try:
        raw = response.raw.stream(_STEP, decode_content=False)
        for piece in inflate(raw, response.headers.get("content-encoding", ""), "the engine's answer"):
            total += len(piece)
            if total > ANSWER_LIMIT:
                raise TargetError(f"answered more than {format_size(ANSWER_LIMIT)}", cause="too_large")
            yield piece
    except urllib3.exceptions.ReadTimeoutError as error:
        raise _late() from error
    except urllib3.exceptions.HTTPError as error:
        raise TargetError("the engine closed the connection within its answer", cause="partial") from error
    finally:
        if total > ANSWER_LIMIT:
            response.close()


def _late() -> TargetError:
    text = "the engine did not answer in time, or not to the end"
    return TargetError(text, "check whether dockerd hangs", cause="timed_out")


def _watched(base: type[Any], watch: Watch) -> type[Any]:
    """A class of connections that pass their socket to `watch` when they connect, and when they begin to read."""

    class Watched(base):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            watch(self.sock)

        def getresponse(self) -> Any:
            watch(self.sock)
            return super().getresponse()

    return Watched


class _TcpAdapter(HTTPAdapter):
    def __init__(self, watch: Watch, context: ssl.SSLContext | None) -> None:
        self._watch = watch
        self._context = context
        super().__init__()

    def build_connection_pool_key_attributes(self, *args: Any, **options: Any) -> Any:
        """As requests has it, with the context that verifies."""
        host, pool = super().build_connection_pool_key_attributes(*args, **options)
        return host, pool if self._context is None else {**pool, "ssl_context": self._context}

    def init_poolmanager(self, *sizes: Any, **options: Any) -> None:
        super().init_poolmanager(*sizes, **options)
        plain: Any = type("Pool", (HTTPConnectionPool,), {"ConnectionCls": _watched(HTTPConnection, self._watch)})
        tls: Any = type("Pool", (HTTPSConnectionPool,), {"ConnectionCls": _watched(HTTPSConnection, self._watch)})
        self.poolmanager.pool_classes_by_scheme = {"http": plain, "https": tls}


class _UnixAdapter(UnixHTTPAdapter):
    def __init__(self, url: str, seconds: Any, watch: Watch) -> None:
        self._connection = _watched(UnixHTTPConnection, watch)
        super().__init__(url, seconds)

    def get_connection(self, url: Any, proxies: Any = None) -> Any:
        """The pool of this socket."""
        with self.pools.lock:
            pool = self.pools.get(url)
            if pool is None:
                connect, path, seconds = self._connection, self.socket_path, self.timeout

                class Pool(UnixHTTPConnectionPool):
                    def _new_conn(self) -> Any:
                        return connect(url, path, seconds)

                pool = self.pools[url] = Pool(url, path, seconds, maxsize=self.max_pool_size)
        return pool
