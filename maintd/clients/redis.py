"""Redis client on redis-py: no retries, a timeout for every wait; keys of any bytes keep their bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Any, BinaryIO, Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
    ResponseError,
    WatchError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from maintd.clients.causes import cause_of
from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.target import RedisTarget
from maintd.tls import NOT_REQUIRED

_CHUNK = 1 << 20
Command = Sequence[str | int]
Info = Mapping[str, str | int | float]
"""The answer to INFO; numbers are numbers."""


@dataclass(frozen=True)
class Group:
    """A consumer group of a stream. `lag`: undelivered entries, None when Redis does not know (after XDEL)."""

    name: str
    consumers: int
    pending: int
    lag: int | None
    delivered: str  # id of the last entry delivered to it


@dataclass(frozen=True)
class Stream:
    """A stream's length and its groups."""

    name: str
    length: int
    groups: tuple[Group, ...]


class RedisServer:
    """One connection; a context manager that closes it."""

    def __init__(self, client: Redis, name: str) -> None:
        self._client = client
        self.name = name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(RedisError, OSError):
            self._client.close()

    @property
    def is_local(self) -> bool:
        """Whether its address is of this machine; it may be in a container nevertheless."""
        address = self._client.connection_pool.connection_kwargs
        return "path" in address or address.get("host", "localhost") in ("localhost", "127.0.0.1", "::1")

    def command(self, *words: str | int) -> Any:
        """The answer to one command. Raises TargetError."""
        with _translated(self.name):
            return self._client.execute_command(*words)  # type: ignore[no-untyped-call]

    def many(self, commands: Iterable[Command]) -> list[Any]:
        """The answers to commands sent in one pipeline; a rejected command has a TargetError as its answer.

        Not atomic: other clients' commands may run in between. Raises TargetError when the server does not answer.
        """
        with _translated(self.name):
            pipe = self._client.pipeline(transaction=False)
            for words in commands:
                pipe.execute_command(*words)  # type: ignore[no-untyped-call]
            answers = pipe.execute(raise_on_error=False)
        return [_error(self.name, answer) if isinstance(answer, RedisError) else answer for answer in answers]

    def unless_changed(self, keys: Sequence[str], decide: Callable[[], Sequence[Command]]) -> list[Any] | None:
        """WATCH the keys, then run the commands that `decide` returns in one transaction.

        None when a key was changed in between; then no command was run. Raises TargetError.
        """
        with _translated(self.name), self._client.pipeline() as pipe:
            pipe.watch(*keys)  # type: ignore[no-untyped-call]
            commands = decide()
            if not commands:
                return []
            pipe.multi()
            for words in commands:
                pipe.execute_command(*words)  # type: ignore[no-untyped-call]
            try:
                return list(pipe.execute())
            except WatchError:
                return None

    def ping(self) -> None:
        """Raise TargetError unless the server answers and has loaded its data.

        After a failed save a server refuses PING like a write (MISCONF); it answers and can be read nevertheless.
        """
        try:
            self.command("PING")
        except TargetError as error:
            if not refuses_writes(error):
                raise

    def info(self, section: str = "everything") -> Info:
        """All of INFO, or one section. Raises TargetError."""
        answer = self.command("INFO", section)
        if not isinstance(answer, dict) or ("redis_version" not in answer and section == "everything"):
            raise TargetError(f"{self.name}: INFO is not what Redis answers", cause="malformed")
        return answer

    def stream(self, name: str) -> Stream:
        """A stream with its groups. Raises TargetError(cause="empty") when there is no such key."""
        groups = self._xinfo("GROUPS", name)
        length = int(self.command("XLEN", name))
        with _translated(self.name):
            return Stream(name, length, tuple(_group(_fields(item)) for item in groups))

    def span(self, stream: str) -> tuple[str | None, str]:
        """The ids of the oldest entry (None without one) and of the last entry ever added. Raises TargetError."""
        with _translated(self.name):
            fields = _fields(self._xinfo("STREAM", stream))
            first = fields.get("first-entry")
            return (str(first[0]) if first else None), str(fields["last-generated-id"])

    def entries_added(self, stream: str) -> int:
        """How many entries were ever added; Redis 7 and later. Raises TargetError(cause="empty") for no such key."""
        with _translated(self.name):
            fields = _fields(self._xinfo("STREAM", stream))
        if "entries-added" not in fields:
            raise TargetError(f"{self.name}: does not count added entries", "upgrade to Redis 7", cause="empty")
        return int(fields["entries-added"])

    def snapshot(self) -> Iterator[bytes]:
        """Yield an RDB of all databases: the server saves in the background and sends it, as to a new replica.

        Needs SYNC in the user's ACL; no file of the server is read. The server sends a byte every second while it
        prepares, so that the timeout of an answer also limits a silence. Raises TargetError.
        """
        with _translated(self.name), closing(_Replica(self._client)) as replica:
            yield from replica.snapshot()

    def _xinfo(self, kind: str, stream: str) -> Any:
        try:
            return self.command("XINFO", kind, stream)
        except TargetError as error:
            if "no such key" in error.message:
                raise TargetError(
                    f'{self.name}: no stream "{stream}"', "correct the target's streams", cause="empty"
                ) from error
            raise

    def after(self, stream: str, entry_id: str, at_most: int) -> list[str]:
        """The ids of at most `at_most` entries after this one, oldest first."""
        return [str(entry[0]) for entry in self.command("XRANGE", stream, f"({entry_id}", "+", "COUNT", at_most)]


@dataclass(frozen=True)
class Login:
    """A user with a password, as it is: no reference in it is resolved."""

    user: str
    password: str = field(repr=False)


def connect(
    target: RedisTarget, *, name: str = "redis", timeout: timedelta | None = None, login: Login | None = None
) -> RedisServer:
    """A client that connects with its first command. `timeout` (default: the target's) limits each answer.

    `login`: instead of the target's own.
    """
    target = resolved(target)
    seconds = (timeout or target.timeout).total_seconds()
    username = login.user if login is not None else target.username
    password = target.password.get_secret_value() if target.password else None
    password = login.password if login is not None else password
    try:
        client = Redis.from_url(
            target.url,
            **_certificates(target),
            **({"username": username} if username else {}),
            **({"password": password} if password else {}),
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            retry=Retry(
                NoBackoff(), 0
            ),  # redis-py retries three times by default: a hung server would cost four timeouts
            protocol=2,  # RESP3 begins with HELLO, which a least-privilege ACL may not allow
            decode_responses=True,
            encoding_errors="surrogateescape",  # a key may be any bytes
        )
    except ValueError:
        raise TargetError(f"{name}: the url is not valid", "write redis://host:6379/0") from None
    return RedisServer(client, name)


def _certificates(target: RedisTarget) -> dict[str, Any]:
    """What to trust; only a connection over TLS takes these options."""
    if not target.url.lower().startswith("rediss:"):
        return {}
    if not target.verify:
        return {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    trusted = {"ssl_ca_certs": str(target.ca_file)} if target.ca_file else {}
    return {**trusted, "ssl_exclude_verify_flags": [NOT_REQUIRED]}


def accepts(target: RedisTarget, login: Login, *, name: str) -> bool:
    """Whether a new connection with this login is accepted; false when the server refuses it.

    Raises TargetError for any other answer.
    """
    try:
        with connect(target, name=name, login=login) as server:
            server.ping()
    except TargetError as error:
        if isinstance(error.__cause__, NoPermissionError):
            return True  # it may not run PING
        if isinstance(error.__cause__, AuthenticationError) or "WRONGPASS" in error.message:
            return False
        raise
    return True


def refuses_writes(error: TargetError) -> bool:
    """Whether the server refused a command because it cannot save."""
    return str(error.__cause__).startswith("MISCONF")


class _Replica:
    """A connection of its own that asks for all data as a replica does. Source: replication.c of Redis 7."""

    def __init__(self, client: Redis) -> None:
        pool = client.connection_pool
        self._connection: Any = pool.connection_class(**pool.connection_kwargs)

    def close(self) -> None:
        """Close the connection; the server then drops the replica."""
        self._connection.disconnect()

    def snapshot(self) -> Iterator[bytes]:
        connection = self._connection
        connection.connect()
        # With `eof` the server may send without a file on its disk; `rdb-only` (from 7.0) ends after the snapshot.
        for capability in (("capa", "eof"), ("rdb-only", "1")):
            connection.send_command("REPLCONF", *capability)
            with suppress(ResponseError):  # an older server, or no such right
                connection.read_response()
        connection.send_command("SYNC")
        # What follows is no answer that a client reads: it can be larger than the memory.
        stream = connection._sock.makefile("rb")  # noqa: SLF001 - redis-py has no other way to it
        try:
            yield from _bulk(stream)
        except OSError as error:
            kind = RedisTimeoutError if isinstance(error, TimeoutError) else RedisConnectionError
            raise kind(f"SYNC: {error or 'timed out'}") from error
        finally:
            stream.close()


_MARK = 40  # bytes, of the mark at the end of a snapshot that is sent without its length


def _bulk(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the bytes of the snapshot. Raises RedisError and OSError."""
    head = b"\n"
    while head == b"\n":  # one every second while the server prepares
        head = stream.readline(1000)
    if head.startswith(b"-"):
        text = head[1:].decode(errors="replace").strip()
        raise NoPermissionError(text) if text.startswith("NOPERM") else ResponseError(text)
    if head.startswith(b"$EOF:"):
        mark, rest = head[5:].strip(), b""
        if len(mark) != _MARK:
            raise InvalidResponse("SYNC: no mark")
        while chunk := stream.read1(_CHUNK):  # type: ignore[attr-defined]
            rest += chunk
            if rest.endswith(mark):
                yield rest[:-_MARK]
                return
            yield rest[:-_MARK]
            rest = rest[-_MARK:]
        raise RedisConnectionError("SYNC: the connection ended before the end of the snapshot")
    if not head.startswith(b"$") or not head[1:].strip().isdigit():
        raise InvalidResponse("SYNC: neither a snapshot nor an error")
    left = int(head[1:])
    while left:
        chunk = stream.read1(min(left, _CHUNK))  # type: ignore[attr-defined]
        if not chunk:
            raise RedisConnectionError("SYNC: the connection ended before the end of the snapshot")
        left -= len(chunk)
        yield chunk


@contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise _error(name, error) from error
    except (ValueError, TypeError, LookupError) as error:  # redis-py's parser on another protocol
        raise TargetError(f"{name}: does not speak Redis", "check its port", cause="malformed") from error


def _error(name: str, error: RedisError) -> TargetError:
    text = " ".join(str(error).split())
    match error:
        case NoPermissionError():
            return TargetError(f"{name}: {text}", "allow the command in the user's ACL", cause="denied")
        case AuthenticationError():
            return TargetError(f"{name}: {text}", "check the target's username and password", cause="denied")
        case BusyLoadingError():
            return TargetError(f"{name}: {text}", "wait until it has loaded its data", cause="refused")
        case RedisTimeoutError():
            return TargetError(
                f"{name}: no answer in time: {text}", "check whether it hangs or runs a long script", cause="timed_out"
            )
        case InvalidResponse():
            return TargetError(f"{name}: does not speak Redis", "check its port", cause="malformed")
        case RedisConnectionError():
            return TargetError(
                f"{name}: {text}",
                "check that it is running and its url",
                cause=cause_of(error) or "partial",
            )
        case ResponseError() if text.startswith(("NOAUTH", "WRONGPASS")) or "invalid username-password" in text:
            return TargetError(f"{name}: {text}", "check the target's username and password", cause="denied")
        case ResponseError() if text.startswith("MISCONF"):
            return TargetError(f"{name}: {text}", "it cannot save: check its disk and its log", cause="failed")
        case _:
            return TargetError(f"{name}: {text}", cause="failed")


def _fields(answer: Any) -> Mapping[str, Any]:
    """A map, which RESP2 sends as a list of alternating names and values. Raises ValueError for anything else."""
    if isinstance(answer, Mapping):
        return answer
    if not isinstance(answer, list) or len(answer) % 2:
        raise ValueError("not a map")
    return dict(zip(answer[::2], answer[1::2], strict=True))


def _group(item: Mapping[str, Any]) -> Group:
    lag = item.get("lag")
    return Group(
        name=str(item["name"]),
        consumers=int(item["consumers"]),
        pending=int(item["pending"]),
        lag=None if lag is None else int(lag),
        delivered=str(item["last-delivered-id"]),
    )
